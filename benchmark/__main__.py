"""`python -m benchmark`: see `python -m benchmark --help`."""

from benchmark.cli.app import main

if __name__ == "__main__":
    main()
