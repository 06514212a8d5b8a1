"""The commands of `python -m agents`, a dataclass of arguments each."""
