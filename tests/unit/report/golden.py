"""Pictures held against those that somebody has looked at, with a tolerance for what nobody would see.

Of a plot it is what is drawn, without its words: they, and the room they take, follow the release of matplotlib and its
fonts, and are compared as words. Then lines may move by a pixel and edges be softer; the largest difference that is
left counts, so that a small thing that is missing counts as much as a large one.
"""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

FOLDER = Path(__file__).parents[3] / "fixtures" / "golden"
BLUR = 2.0  # pixels, the standard deviation
SHIFT = 1  # pixels
TOLERANCE = 22.0  # of 255: a hard edge that moves by half a pixel leaves 19


def pixels(figure: Figure) -> np.ndarray:
    """What is drawn in the figure, RGB on white, at 60 dots an inch; its words are gone then, and room for them."""
    figure.draw_without_rendering()  # so that all that there is has been made
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position((0.1, 0.1, 0.85, 0.85))
    for text in [*figure.findobj(Text), *figure.legends]:
        text.set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, dpi=60, facecolor="white")
    return np.asarray(Image.open(file).convert("RGB"))


def words(figure: Figure) -> list[str]:
    """All that can be read in the figure, each once."""
    figure.draw_without_rendering()
    read = [text.get_text() for text in figure.findobj(Text) if text.get_visible()]
    return list(dict.fromkeys(filter(None, read)))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """How far apart two pictures are where they differ most, 0 to 255; 255 for those of other sizes."""
    if one.shape != other.shape:
        return 255.0
    first, second = (cv2.GaussianBlur(picture.astype(np.float32), (0, 0), BLUR) for picture in (one, other))
    return max(_least(first, second), _least(second, first))


def _least(one: np.ndarray, other: np.ndarray) -> float:
    """The largest of what each pixel differs by from the one that is most like it in a small neighbourhood."""
    reach = range(-SHIFT, SHIFT + 1)
    moved = [np.roll(other, (down, right), axis=(0, 1)) for down in reach for right in reach]
    return float(np.min([np.abs(one - each).max(axis=-1) for each in moved], axis=0).max())


def hold(name: str, picture: np.ndarray, folder: Path = FOLDER) -> None:
    """Fail where the picture is not the golden one of that name; the first is written, and fails, too."""
    file = folder / f"{name}.png"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file, optimize=True)
        pytest.fail(f"no golden picture yet: look at {str(file)!r}, keep it under version control, and run again")
    apart = difference(picture, np.asarray(Image.open(file).convert("RGB")))
    if apart >= TOLERANCE:
        drawn = Path(f"{name}-now.png").resolve()
        Image.fromarray(picture).save(drawn)
        pytest.fail(f"{name} differs by {apart:.0f} of 255 from {str(file)!r}: compare it with {str(drawn)!r}")
