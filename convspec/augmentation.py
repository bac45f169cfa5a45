"""One random affine transform per image, in the chapter's six parameters (listing 5.11).

The parameters mean what they mean in Keras's `ImageDataGenerator`: `rotation_range` and `shear_range` are
degrees (so the chapter's `shear_range=0.2` is a fifth of a degree), shifts are fractions of the height or
width, `zoom_range` is drawn for each axis, a flip has probability one half.
"""

from dataclasses import dataclass

import cv2
import numpy as np

FILL_MODES = {
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
    "constant": cv2.BORDER_CONSTANT,
}


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random transform. Raises ValueError for a negative range or an unknown fill mode."""

    rotation_range: float = 0.0
    width_shift_range: float = 0.0
    height_shift_range: float = 0.0
    shear_range: float = 0.0
    zoom_range: float = 0.0
    horizontal_flip: bool = False
    fill_mode: str = "nearest"

    def __post_init__(self) -> None:
        for name in ("rotation_range", "width_shift_range", "height_shift_range", "shear_range", "zoom_range"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.zoom_range >= 1:
            raise ValueError(f"zoom_range must be below 1, got {self.zoom_range}")
        if self.fill_mode not in FILL_MODES:
            raise ValueError(f"fill_mode must be one of {', '.join(FILL_MODES)}, got {self.fill_mode!r}")

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, float]:
        """Random parameters, named as in Keras: theta and shear in degrees, tx (down) and ty (right) in pixels,
        zx (vertical) and zy (horizontal) factors, flip_horizontal 0 or 1."""

        def within(limit: float) -> float:
            return float(rng.uniform(-limit, limit))

        return {
            "theta": within(self.rotation_range),
            "tx": within(self.height_shift_range) * height,
            "ty": within(self.width_shift_range) * width,
            "shear": within(self.shear_range),
            "zx": 1 + within(self.zoom_range),
            "zy": 1 + within(self.zoom_range),
            "flip_horizontal": float(self.horizontal_flip and rng.random() < 0.5),
        }

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A randomly transformed copy of `image`: (height, width, channels), same dtype."""
        return warp(image, self.draw(rng, *image.shape[:2]), self.fill_mode)


def warp(image: np.ndarray, parameters: dict[str, float], fill_mode: str = "nearest") -> np.ndarray:
    """`image` (height, width, channels) under the affine map of `parameters` (see `Augmentation.draw`), bilinear."""
    height, width = image.shape[:2]
    theta, shear = np.deg2rad(parameters["theta"]), np.deg2rad(parameters["shear"])
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    shift = np.array([[1, 0, parameters["tx"]], [0, 1, parameters["ty"]], [0, 0, 1]])
    shearing = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    zoom = np.diag([parameters["zx"], parameters["zy"], 1])
    centre = np.array([[1, 0, height / 2 - 0.5], [0, 1, width / 2 - 0.5], [0, 0, 1]])
    # Maps output (row, column) to input (row, column), as Keras does; Keras flips what comes out.
    matrix = centre @ rotation @ shift @ shearing @ zoom @ np.linalg.inv(centre)
    if parameters["flip_horizontal"]:
        matrix = matrix @ np.array([[1, 0, 0], [0, -1, width - 1], [0, 0, 1]])
    swap = [1, 0, 2]  # OpenCV counts (column, row)
    warped = cv2.warpAffine(
        image,
        matrix[swap][:, swap][:2],
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=FILL_MODES[fill_mode],
    )
    return warped.reshape(image.shape)
