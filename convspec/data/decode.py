"""Decode picture files to RGB arrays of one size."""

import os
import struct
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TextIO

import cv2
import numpy as np
from PIL import Image, ImageOps

from convspec import BadInput
from convspec.progress import bar

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # recognised by content, whatever the file's name
MAX_PIXELS = 89_478_485  # Pillow's own limit, past which it warns of a decompression bomb
INTERPOLATIONS = {method.name.lower(): method for method in Image.Resampling}
REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}
MEMORY_BUDGET = 2 << 30  # bytes of decoded pictures in memory
CHUNK = 256  # pictures that wait to be decoded: each takes as much memory as a small one
# What Pillow raises for damaged pictures.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError, struct.error)


class UnreadableImage(BadInput):
    """A file that cannot be decoded as a picture."""


def load_image(path: Path | str, size: int | None = None, interpolation: str = "nearest") -> np.ndarray:
    """Decode a file as RGB, uint8 (height, width, 3), resized to size x size.

    Equals `keras.utils.load_img(path, target_size=(size, size), interpolation=interpolation)`, which listings 5.7 and
    5.12 use, except where that shows something else than a viewer does: EXIF orientation is applied, transparent
    pictures lie on white, 16-bit grey is scaled to 8 bits. "area" is a further, fast interpolation: each pixel is the
    mean of those it covers (bilinear where fewer than two in a row), and JPEGs are decoded at a lower resolution.

    Raises BadInput for another interpolation, FileNotFoundError, and UnreadableImage, with the reason, for anything
    but one whole picture: also animations, more than MAX_PIXELS (before decoding), and a side of one pixel.
    """
    if interpolation not in INTERPOLATIONS and interpolation != "area":
        raise BadInput(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, area, got {interpolation!r}")
    try:
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
            _refuse_others(picture)
            if interpolation == "area" and size:
                return _resize_by_area(picture, file, size)
            rgb = _convert_as_seen(picture)
            return np.asarray(rgb.resize((size, size), INTERPOLATIONS[interpolation]) if size else rgb)
    except FileNotFoundError:
        raise
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{str(path)!r} is not a readable picture: {error}") from error


def _refuse_others(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
    if min(width, height) < 2:
        raise ValueError(f"{width} x {height} is no picture of anything")
    # A telephone's MPO holds one picture and its preview.
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise ValueError("it is animated, or has several pages")
    if picture.mode == "F":
        raise ValueError("what its floating-point pixels mean is not known")


def _convert_as_seen(picture: Image.Image) -> Image.Image:
    """Convert to RGB as viewers show it."""
    picture.load()
    with suppress(*_DAMAGED):  # EXIF data that cannot be read: viewers show the picture as it lies
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow's own conversion cuts off at 255
        grey = np.asarray(picture).astype(np.int64).clip(0, 65535)
        return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _resize_by_area(picture: Image.Image, file: BinaryIO, size: int) -> np.ndarray:
    pixels = None
    if picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L"):
        file.seek(0)
        data = file.read()
        if data.rstrip(b"\0").endswith(b"\xff\xd9"):  # else it may be cut off, which OpenCV 4 fills up with grey
            # Down to three pixels for four: at 150 x 150 most photographs are then decoded at half their size.
            reduced = next(
                flag for step, flag in REDUCED.items() if step == 1 or min(picture.size) >= 0.75 * step * size
            )
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), reduced)
    if pixels is None:
        pixels = cv2.cvtColor(np.asarray(_convert_as_seen(picture)), cv2.COLOR_RGB2BGR)
    covered = max(pixels.shape[:2]) / size
    pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR if covered < 2 else cv2.INTER_AREA)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def load_images(
    paths: Sequence[Path],
    size: int,
    interpolation: str = "nearest",
    *,
    strict: bool = False,
    budget: int = MEMORY_BUDGET,
    progress: TextIO | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode many files on all cores.

    Args:
        paths: Picture files.
        size: Side of the decoded pictures, in pixels.
        interpolation: As `load_image` takes it.
        strict: Raise UnreadableImage for the first file that cannot be read.
        budget: Bytes of pictures to keep in memory; more are kept in a temporary file that is mapped into memory.
        progress: Stream for a progress bar; None for none.

    Returns:
        Pictures, uint8 (n, size, size, 3), and the reason for each position that could not be read and stays black.

    Raises:
        UnreadableImage: Under `strict`, the first file that is no picture.
        OSError: No room for the temporary file in $TMPDIR.
    """
    images = _allocate((len(paths), size, size, 3), budget)
    failures: dict[int, str] = {}

    def decode(position: int) -> None:
        try:
            images[position] = load_image(paths[position], size, interpolation)
        except UnreadableImage as error:
            failures[position] = str(error)
        except FileNotFoundError:
            failures[position] = f"{str(paths[position])!r} is gone since the folder was listed"

    with ThreadPoolExecutor(os.cpu_count()) as pool, bar(len(paths), "reading pictures", "file", progress) as shown:
        try:
            for start in range(0, len(paths), CHUNK):
                positions = range(start, min(start + CHUNK, len(paths)))
                for position, _ in zip(positions, pool.map(decode, positions), strict=True):
                    shown.update()
                    if strict and position in failures:
                        raise UnreadableImage(failures[position])
        finally:
            pool.shutdown(cancel_futures=True)
    return images, dict(sorted(failures.items()))


def _allocate(shape: tuple[int, ...], budget: int) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    if size <= budget:
        return np.zeros(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="convspec-") as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk shows here, not as a crash where a page is written
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            reason = f"no room for {size / 2**30:.1f} GiB of decoded pictures in {tempfile.gettempdir()!r}"
            raise OSError(error.errno, f"{reason} ({error.strerror}); set TMPDIR to a folder with room") from error
        return np.memmap(file, np.uint8, "r+", shape=shape)
