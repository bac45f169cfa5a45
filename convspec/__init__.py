"""An executable specification of transfer learning with convnets.

`arithmetic` and `reference` define in plain Python and NumPy what layers compute, and `accuracy` gates any model.
`data`, `models`, `features` and `training` are what the chapter works with, `ladder` its seven rungs, `visualization`
what a model sees, `timings` and `report` what comes out. `plugin` is the way in from pytest, `cli` from a shell.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__version__ = "0.2.0"

EXTRAS = {
    "backports", "cv2", "filelock", "jinja2", "keras", "loky", "matplotlib", "PIL", "platformdirs", "pooch", "psutil",
    "pytest", "simplejpeg", "sklearn", "threadpoolctl", "tqdm",
}  # fmt: skip


class MissingData(FileNotFoundError):
    """Pictures or weights that are not on this machine; the message says what is missing and how to get it."""


class BadInput(ValueError):
    """Something a person gave that cannot work; the message names it and says what would be right."""


@contextmanager
def require_extras() -> Iterator[None]:
    """Raise BadInput, naming the extra to install, where a package that only extras of convspec bring is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in EXTRAS:
            raise
        raise BadInput(
            f'{error.name} is not installed: pip install "convspec[tensorflow]", or with jax or torch in its place'
        ) from error
