"""`python -m benchmark`: see `python -m benchmark --help`."""

import sys

if __name__ == "__main__":
    try:
        from benchmark.cli.app import main
    except KeyboardInterrupt:  # it takes a second, and Ctrl-C may come in it
        print("interrupted before anything was done", file=sys.stderr)
        sys.exit(130)
    main()
