"""Random affine transforms of pictures, in the six parameters of listing 5.11.

The parameters mean what they mean in Keras's `ImageDataGenerator`: `rotation_range` and `shear_range` are degrees (so
`shear_range=0.2` is a fifth of a degree), shifts are fractions of the height or width, `zoom_range` is drawn for each
axis, a flip has probability one half. Keras 3 replaces `ImageDataGenerator` by preprocessing layers:

    listing 5.11              layer                           what differs
    rotation_range=40         RandomRotation(40 / 360)        fraction of a full turn; positive is counterclockwise
    width_shift_range=0.2,    RandomTranslation(0.2, 0.2)     height first; positive moves the picture down and right,
    height_shift_range=0.2                                    here tx and ty move it up and left
    shear_range=0.2           RandomShear(y_factor=0.0035)    tangent of the angle; about the upper left corner; the
                                                              angle here also narrows the picture, by its cosine
    zoom_range=0.2            RandomZoom(0.2, 0.2)            one number is one factor for both axes
    horizontal_flip=True      RandomFlip("horizontal")        the default flips both axes
    fill_mode="nearest"       fill_mode="nearest"             "reflect" by default; RandomFlip has none

In this order the layers make the map that is made here, but each interpolates anew: four in a row blur the picture.
"""

from dataclasses import dataclass
from math import cos, inf, radians, sin
from numbers import Real

import cv2
import numpy as np

FILL_MODES = {
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
    "constant": cv2.BORDER_CONSTANT,
}
DTYPES = tuple(map(np.dtype, ("uint8", "uint16", "int16", "float32", "float64")))  # which OpenCV interpolates


@dataclass(frozen=True)
class Augmentation:
    """Ranges of a random transform, each a number from 0; a ValueError names any other, or an unknown fill mode."""

    rotation_range: float = 0.0
    width_shift_range: float = 0.0
    height_shift_range: float = 0.0
    shear_range: float = 0.0
    zoom_range: float = 0.0
    horizontal_flip: bool = False
    fill_mode: str = "nearest"

    def __post_init__(self) -> None:
        for name in ("rotation_range", "width_shift_range", "height_shift_range", "shear_range", "zoom_range"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= float(value) < inf:
                raise ValueError(f"{name} must be a number from 0, got {value}")
        if self.zoom_range >= 1:
            raise ValueError(f"zoom_range must be below 1, got {self.zoom_range}")
        if self.fill_mode not in FILL_MODES:
            raise ValueError(f"fill_mode must be one of {', '.join(FILL_MODES)}, got {self.fill_mode!r}")

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, float]:
        """Draw parameters for one picture, named as in Keras.

        theta and shear are in degrees, tx (up) and ty (left) in pixels, zx (vertical) and zy (horizontal) factors,
        flip_horizontal is 0 or 1.
        """
        *numbers, chance = rng.random(7).tolist()  # one call takes a fourth of the time of seven
        theta, up, left, shear, vertical, horizontal = (2 * number - 1 for number in numbers)
        return {
            "theta": theta * self.rotation_range,
            "tx": up * self.height_shift_range * height,
            "ty": left * self.width_shift_range * width,
            "shear": shear * self.shear_range,
            "zx": 1 + vertical * self.zoom_range,
            "zy": 1 + horizontal * self.zoom_range,
            "flip_horizontal": float(self.horizontal_flip and chance < 0.5),
        }

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a randomly transformed copy of `image`: (height, width, channels), one of DTYPES, which is kept.

        Raises ValueError for another dtype.
        """
        return warp(image, self.draw(rng, *image.shape[:2]), self.fill_mode)


def warp(image: np.ndarray, parameters: dict[str, float], fill_mode: str = "nearest") -> np.ndarray:
    """Apply the affine map of `parameters` (see `Augmentation.draw`) to `image` (height, width, channels).

    Raises ValueError for a dtype that is not one of DTYPES.
    """
    if image.dtype not in DTYPES:
        raise ValueError(f"image must be one of {', '.join(map(str, DTYPES))}, got {image.dtype}")
    height, width = image.shape[:2]
    theta, shear = radians(parameters["theta"]), radians(parameters["shear"])
    tx, ty, zx, zy = parameters["tx"], parameters["ty"], parameters["zx"], parameters["zy"]
    if parameters["flip_horizontal"]:
        zy = -zy
    # Keras's rotation @ (shift + shearing @ zoom), from output to input (row, column) about the centre, written out:
    # as NumPy matrices it takes a quarter of the time of the warp itself.
    sine, cosine, row, column = sin(theta), cos(theta), (height - 1) / 2, (width - 1) / 2
    a, b = cosine * zx, -sin(theta + shear) * zy
    c, d = sine * zx, cos(theta + shear) * zy
    down, right = row + cosine * tx - sine * ty, column + sine * tx + cosine * ty
    warped = cv2.warpAffine(
        image,
        # OpenCV counts (column, row), from the corner.
        np.array([[d, c, right - c * row - d * column], [b, a, down - a * row - b * column]]),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=FILL_MODES[fill_mode],
    )
    return warped.reshape(image.shape)
