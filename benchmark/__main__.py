"""`python -m benchmark`: see `python -m benchmark --help`."""

from benchmark.cli import main

if __name__ == "__main__":
    main()
