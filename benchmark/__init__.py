"""The suite: everything that is the same for every method. Start at `benchmark.runs.job`."""

__version__ = "0.1.0"
