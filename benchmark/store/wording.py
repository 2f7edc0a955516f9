"""Words of messages: ways out that several have, and what pydantic says of a value, in words for
somebody who wrote a file and never heard of it.
"""

from __future__ import annotations

import re

#: What makes a run's files anew, and what is missing. Another command may be the one that says so.
AGAIN = "repeat the command that made the run (`run`, `score`, ...)"
#: The ways out of a folder that is no run directory: where one is read, and where one is written.
READ_ANOTHER, WRITE_ANOTHER = "name the folder of a run", "choose another --out"

_WORDS = (
    (r"^Value error, ", ""),
    (r"^Extra inputs are not permitted$", "there is no such key"),
    (r"^Field required$", "it is missing"),
    (r"^(Input|String|List|Dictionary|Tuple|Value) should ", "it should "),
    (r"^Unexpected keyword argument$", "there is no such key"),
    (r"match pattern '\^\\S.*'$", "begin and end with something other than a blank"),
    (r"match pattern '\^\[0-9a-f\].*'$", "be a SHA-256: 64 hexadecimal digits in lower case"),
    (r"match pattern '\^\[a-z0-9\].*'$", "be a name of lower-case letters, digits and hyphens"),
    (r"match pattern '.*'$", "be a plain name of letters, digits and hyphens"),
    (r"be a valid integer$", "be a whole number"),
    (r"be a valid integer, got a number with a fractional part$", "be a whole number"),
    (r"be a valid number$", "be a number"),
    (r"be a valid string$", 'be text, in "quotes"'),
    (r"be a valid boolean$", "be true or false"),
    (r"be a valid (list|tuple|array)$", "be a list, in [brackets]"),
    (r"be a valid (dictionary|mapping)( or instance of \w+)?$", "be a table"),
    (r"be an object$", "be a table, as {key=value}"),
    (r"greater than or equal to", "at least"),
    (r"less than or equal to", "at most"),
    (r" after validation, not \d+$", ""),
)


def in_plain_words(message: str) -> str:
    """`Input should be a valid integer` -> `it should be a whole number`."""
    for found, said in _WORDS:
        message = re.sub(found, said, message)
    return message
