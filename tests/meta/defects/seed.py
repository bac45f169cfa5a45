"""The seeded defects, as data: small, realistic faults, and how the specification must tell of each.

`old` stands exactly once in the module's source and is replaced by `new`. `test` must then fail, and with a
message (the lines that pytest marks with "E") in which `message`, a regular expression, is found: it names what is
wrong, not just that something is.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """One fault of one module."""

    name: str
    module: str
    old: str
    new: str
    test: str  # below tests/, as pytest takes it
    message: str
    quick: bool = False  # one of the quick half, which runs without --slow
    needs: str = ""  # a package without which the test is skipped
