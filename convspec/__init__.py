"""An executable specification of transfer learning with convnets."""

__version__ = "0.2.0"


class MissingData(FileNotFoundError):
    """Pictures or weights that are not on this machine; the message says what is missing and how to get it."""


class BadInput(ValueError):
    """Something a person gave that cannot work; the message names it and says what would be right."""
