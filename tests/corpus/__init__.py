"""Odd files that people bring, each with the right outcome: the right value, or a clear refusal.

`data.py`, `scoring.py` and so on hold tables of cases; `test_corpus.py` runs them all. To add one,
write an entry in the table of its room:

    Case(
        "a TIFF on its side",                       # what it is
        "https://github.com/python-pillow/...",     # the public thread, or OWN
        on_its_side,                                # (empty folder) -> the input
        upright,                                    # (the input): asserts what comes out
    )

A refusal is `refused(read, "words", "of the message")` in the last place. Keep images tiny.
"""
