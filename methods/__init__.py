"""The methods: one file per idea, each a frozen dataclass whose fields are its settings.

They are found by entry point (`pyproject.toml`), like anybody else's; the suite never imports
this package by name. These modules import torch only when a method is fitted, so that
`python -m benchmark list methods` stays quick.
"""
