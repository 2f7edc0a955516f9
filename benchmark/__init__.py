"""The suite: everything that is the same for every method. Start reading at `benchmark.run`."""

__version__ = "0.1.0"
