"""Decode picture files to RGB arrays of one size."""

import importlib
import io
import math
import os
import tempfile
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, TextIO, cast, get_args

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from convspec import BadInput
from convspec.data.appearance import DAMAGED, convert_as_seen, find_transform, find_transpose
from convspec.data.content import CONVERT, identify
from convspec.files import expand
from convspec.progress import bar

Truncated = Literal["skip", "fill"]
# Recognised by content, whatever the file's name.
FORMATS = ("JPEG", "BMP", "GIF", "PNG", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
DNG_VERSION, SUBFILE_TYPE = 50706, 254  # tags of TIFF
REDUCED_RESOLUTION, MASK = 1, 4  # bits of the second
RAW = "raw picture, which begins with a preview; develop it to JPEG or TIFF"
MAX_PIXELS = 89_478_485  # Pillow's own limit, past which it warns of a decompression bomb
MAX_SIZE = math.isqrt(MAX_PIXELS)
INTERPOLATIONS = {method.name.lower(): method for method in Image.Resampling}
MAX_COMPLETED = 1 << 28  # bytes that a file is filled up to
MIN_SPREAD = 8  # of the values in a file that ends early, below which nothing of its picture is there
MEMORY_BUDGET = 2 << 30  # bytes of decoded pictures in memory; more are kept in a temporary file
CHUNK = 256  # pictures that wait to be decoded: each takes as much memory as a small one


class UnreadableImage(BadInput):
    """A file that cannot be decoded as a picture."""


class _PillowsWarnings(threading.local):
    """Context in which this thread ignores what Pillow warns of: damaged metadata, and sizes that are limited here.

    `warnings.catch_warnings` is not for threads: it changes the filters of all, and restores what another has changed.
    Here the filter stays out of effect in every other thread.
    """

    decodes = False

    def match(self, module: str) -> bool:
        return self.decodes and module.startswith("PIL.")

    def __enter__(self) -> None:
        self.decodes = True
        cast(list, warnings.filters).insert(0, ("ignore", None, Warning, self, 0))

    def __exit__(self, *error: object) -> None:
        self.decodes = False
        with suppress(ValueError):  # another thread has left catch_warnings
            cast(list, warnings.filters).remove(("ignore", None, Warning, self, 0))


_PILLOWS_WARNINGS = _PillowsWarnings()


def load_image(
    path: Path | str, size: int | None = None, interpolation: str = "nearest", truncated: Truncated = "skip"
) -> np.ndarray:
    """Decode a file as RGB, uint8 (height, width, 3), resized to size x size.

    Equals `keras.utils.load_img(path, target_size=(size, size), interpolation=interpolation)`, which listings 5.7 and
    5.12 use, except where that shows something else than a viewer does: EXIF and XMP orientation, ICC profiles and a
    PNG's gamma are applied, transparent pictures lie on white, more than 8 bits are scaled to 8.

    Args:
        path: Picture file; its content decides what it is.
        size: Side of the picture, in pixels, 1 to MAX_SIZE; None to leave it as it is.
        interpolation: One of Keras's, or "area", which is fast: each pixel is the mean of those it covers (bilinear
            where fewer than two in a row, or than three if the other side grows), and JPEGs are decoded at a lower
            resolution.
        truncated: "fill" to read a file that ends early as far as it goes, as viewers do.

    Raises:
        BadInput: Another size or interpolation.
        FileNotFoundError: No such file.
        UnreadableImage: Anything but one whole picture, with the reason: also animations, more than MAX_PIXELS (before
            decoding), and a side of one pixel.
    """
    check(1 if size is None else size, interpolation, truncated)
    path = expand(path)
    # A damaged AVIF is a RuntimeError, a JPEG 2000 with tiles of an impossible size a MemoryError.
    failures = (*DAMAGED, RuntimeError, MemoryError, Image.DecompressionBombError)
    with _PILLOWS_WARNINGS:
        try:
            with open(path, "rb") as file:
                return _read(file, size, interpolation)
        except FileNotFoundError:
            raise
        except failures as error:
            if truncated == "fill":
                with suppress(*failures), open(path, "rb") as file:
                    return _read(_complete(file.read()), size, interpolation, partial=True)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImage(f"{str(path)!r} is not a readable picture: {reason}") from error


def check(size: int, interpolation: str, truncated: str) -> None:
    """Raise BadInput for what `load_image` does not take: a side of 0 pixels, another interpolation."""
    if not isinstance(size, int | np.integer) or not 1 <= size <= MAX_SIZE:
        raise BadInput(f"size must be a whole number of pixels from 1 to {MAX_SIZE}, got {size!r}")
    if interpolation not in INTERPOLATIONS and interpolation != "area":
        raise BadInput(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, area, got {interpolation!r}")
    if truncated not in get_args(Truncated):
        raise BadInput(f"truncated must be skip or fill, got {truncated!r}")


def _read(file: BinaryIO, size: int | None, interpolation: str, *, partial: bool = False) -> np.ndarray:
    with _open(file) as picture:
        _refuse_others(picture)
        if interpolation == "area" and size and not partial:
            pixels = _decode_reduced(picture, file, size)
            if pixels is not None:
                return pixels
        _load(picture, partial)
        rgb = convert_as_seen(picture, file)
        if not size:
            return np.asarray(rgb)
        if interpolation == "area":
            return _resize_by_area(np.asarray(rgb), size)
        return np.asarray(rgb.resize((size, size), INTERPOLATIONS[interpolation]))


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    with suppress(UnidentifiedImageError):
        return Image.open(file, formats=FORMATS)
    content = identify(file)
    if content.name == "HEIC picture":
        with suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()
            return Image.open(file, formats=["HEIF"])
    if content.picture and not content.remedy:
        raise ValueError(f"{content.name} that is damaged, or of a rare kind; {CONVERT}")
    raise ValueError(f"{content.name}; {content.remedy}" if content.remedy else content.name)


def _refuse_others(picture: Image.Image) -> None:
    if DNG_VERSION in getattr(picture, "tag_v2", {}):
        raise ValueError(RAW)
    # A telephone's MPO holds one picture and its preview, its HEIC what was taken beside the picture that is shown.
    several = picture.format not in ("MPO", "HEIF") and getattr(picture, "is_animated", False)
    if several and not _turn_to_picture(picture):
        raise ValueError("it is animated, or has several pages; save one as a file of its own")
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
    if min(width, height) < 2:
        raise ValueError(f"{width} x {height} is no picture of anything")
    if _subfile(picture) & REDUCED_RESOLUTION:
        raise ValueError(RAW)
    if picture.mode == "F":
        raise ValueError("what its floating-point pixels mean is not known; save it with 8 bits")


def _turn_to_picture(picture: Image.Image) -> bool:
    """Turn to a TIFF's only page that is no smaller version or mask of another; False for several."""
    if picture.format != "TIFF":
        return False
    pages = []
    for page in range(getattr(picture, "n_frames", 1)):
        picture.seek(page)
        if not _subfile(picture) & (REDUCED_RESOLUTION | MASK):
            pages.append(page)
    picture.seek(pages[0] if pages else 0)
    return len(pages) < 2


def _subfile(picture: Image.Image) -> int:
    return getattr(picture, "tag_v2", {}).get(SUBFILE_TYPE, 0)


def _load(picture: ImageFile.ImageFile, partial: bool) -> None:
    try:
        picture.load()
    except OSError:
        if not partial:
            raise
        picture.tile = []
        picture.load()  # what is decoded by now stays
    if partial and all(high - low <= MIN_SPREAD for low, high in np.reshape(picture.getextrema(), (-1, 2))):
        raise ValueError("nothing of the picture is there")


def _complete(data: bytes) -> BinaryIO:
    """End a JPEG after its last whole segment; fill anything else with zeros to the size it names."""
    if data.startswith(b"\xff\xd8"):
        last = max(data.rfind(marker) for marker in (b"\xff\xc4", b"\xff\xda", b"\xff\xdb"))
        whole = len(data) >= last + 4 and len(data) >= last + 2 + int.from_bytes(data[last + 2 : last + 4], "big")
        data = (data if whole else data[:last]) + b"\xff\xd9"
    return io.BytesIO(data.ljust(min(_named_size(data), MAX_COMPLETED), b"\0"))


def _named_size(data: bytes) -> int:
    """Return the bytes that a WebP, an AVIF or a JPEG 2000 should have, 0 for others."""
    if data.startswith(b"RIFF"):
        return 8 + int.from_bytes(data[4:8], "little")
    end = 0
    if data[4:8] in (b"ftyp", b"jP  "):  # boxes, each with its size
        while end + 8 <= len(data) and (size := int.from_bytes(data[end : end + 4], "big")) >= 8:
            end += size
    return end


def _decode_reduced(picture: Image.Image, file: BinaryIO, size: int) -> np.ndarray | None:
    """Decode a JPEG at a lower resolution, and resize it; None for pictures that need all of theirs."""
    if picture.format not in ("JPEG", "MPO") or picture.mode not in ("RGB", "L"):
        return None
    profile = picture.info.get("icc_profile")
    transform = find_transform(profile, picture.mode) if profile else None
    if transform and picture.mode == "L":
        return None
    file.seek(0)
    data = file.read()
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):  # it may be cut off, which would be filled up with grey
        return None
    # Down to three pixels for four: at 150 x 150 most photographs are then decoded at half their size.
    step = next(step for step in (8, 4, 2, 1) if step == 1 or min(picture.size) >= 0.75 * step * size)
    width, height = (-(-side // step) for side in picture.size)
    try:  # not strict: viewers read past some damage
        pixels = simplejpeg.decode_jpeg(data, min_width=width, min_height=height, strict=False)
    except ValueError:
        return None
    if (way := find_transpose(picture)) is not None:
        pixels = np.asarray(Image.fromarray(pixels).transpose(way))
    rgb = _resize_by_area(pixels, size)
    return np.asarray(transform.apply(Image.fromarray(rgb))) if transform else rgb


def _resize_by_area(pixels: np.ndarray, size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    covered = max(height, width) / size
    if covered >= 3 and min(height, width) < size:  # OpenCV's area is bilinear where one side grows
        shrunk = min(width, size), min(height, size)
        pixels, covered = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA), 1
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR if covered < 2 else cv2.INTER_AREA)


def load_images(
    paths: Sequence[Path],
    size: int,
    interpolation: str = "nearest",
    *,
    strict: bool = False,
    truncated: Truncated = "skip",
    progress: TextIO | None = None,
) -> tuple[np.ndarray, dict[int, str], dict[int, str]]:
    """Decode many files on all cores.

    Args:
        paths: Picture files.
        size: Side of the decoded pictures, in pixels.
        interpolation: As `load_image` takes it.
        strict: Raise UnreadableImage for the first file that cannot be read.
        truncated: As `load_image` takes it.
        progress: Stream for a progress bar; None for none.

    Returns:
        Pictures, uint8 (n, size, size, 3), the reason for each position that could not be read and stays black, and
        for each of which "fill" has read only what is there.

    Raises:
        UnreadableImage: Under `strict`, the first file that is no picture.
        OSError: No room for the temporary file in $TMPDIR.
    """
    images = _allocate((len(paths), size, size, 3))
    failures: dict[int, str] = {}
    incomplete: dict[int, str] = {}

    def decode(position: int) -> None:
        path = paths[position]
        try:
            images[position] = load_image(path, size, interpolation)
        except UnreadableImage as error:
            failures[position] = str(error)
            if truncated == "skip":
                return
            with suppress(UnreadableImage):
                images[position] = load_image(path, size, interpolation, truncated)
                del failures[position]
                incomplete[position] = str(error).replace("is not a readable picture", "is read as far as it goes")
        except FileNotFoundError:
            failures[position] = f"{str(path)!r} is gone since the folder was listed"

    with ThreadPoolExecutor(cores()) as pool, bar(len(paths), "reading pictures", "file", progress) as shown:
        try:
            for start in range(0, len(paths), CHUNK):
                positions = range(start, min(start + CHUNK, len(paths)))
                for position, _ in zip(positions, pool.map(decode, positions), strict=True):
                    shown.update()
                    if strict and position in failures:
                        raise UnreadableImage(failures[position])
        finally:
            pool.shutdown(cancel_futures=True)
    return images, dict(sorted(failures.items())), dict(sorted(incomplete.items()))


def cores() -> int:
    """Return the number of cores that this process may use, as `backend.cores` does, which needs Keras."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    if size <= MEMORY_BUDGET:
        return np.zeros(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="convspec-") as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk shows here, not as a crash where a page is written
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            reason = f"no room for {size / 2**30:.1f} GiB of decoded pictures in {tempfile.gettempdir()!r}"
            raise OSError(error.errno, f"{reason} ({error.strerror}); set TMPDIR to a folder with room") from error
        return np.memmap(file, np.uint8, "r+", shape=shape)
