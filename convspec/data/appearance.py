"""Convert pictures to 8-bit RGB as viewers show them: upright, in the colours of sRGB, on white."""

import io
import struct
from contextlib import suppress
from functools import lru_cache
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms

# What Pillow raises for damaged pictures.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError, struct.error)
SAME_COLOUR = 2  # of 255: a profile that moves no colour further is taken for sRGB itself
DISPLAY_GAMMA = 2.2
TRANSPOSES = {  # by the EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
METADATA = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # keys of Pillow's that hold an orientation
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 274, 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, SIGNED = 0, 2


def convert_as_seen(picture: Image.Image, file: BinaryIO) -> Image.Image:
    """Convert a picture that was loaded from `file` to RGB."""
    seen = _with_8_bits(picture, file)
    if (way := find_transpose(picture)) is not None:
        seen = seen.transpose(way)
    if not seen.has_transparency_data:
        return convert_colours(seen, picture.info)
    rgba = seen.convert("RGBA")
    colours = convert_colours(seen.convert("L") if seen.mode == "LA" else rgba.convert("RGB"), picture.info)
    colours.putalpha(rgba.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def find_transpose(picture: Image.Image) -> Image.Transpose | None:
    """Return how to turn a picture as its EXIF data say, else its XMP data."""
    if METADATA.isdisjoint(picture.info) and picture.format != "TIFF":
        return None  # at once, as Pillow takes a while to find nothing
    with suppress(*DAMAGED):  # data that cannot be read: viewers show the picture as it lies
        return TRANSPOSES.get(picture.getexif().get(ORIENTATION, 1))
    return None


def convert_colours(picture: Image.Image, info: dict[str | tuple[int, int], Any]) -> Image.Image:
    """Convert a picture without transparency to RGB, by the colour profile or the gamma in `info`."""
    mode = picture.mode if picture.mode in ("RGB", "L", "CMYK") else "RGB"
    colours = picture if picture.mode == mode else picture.convert(mode)
    profile, gamma = info.get("icc_profile"), info.get("gamma")
    if profile and (transform := find_transform(profile, mode)):
        return transform.apply(colours)
    rgb = colours if mode == "RGB" else colours.convert("RGB")
    # As libpng: a gamma within a twentieth of the display's changes nothing.
    if not gamma or profile or "srgb" in info or abs(gamma * DISPLAY_GAMMA - 1) < 0.05:
        return rgb
    table = 255 * np.linspace(0, 1, 256) ** (1 / (gamma * DISPLAY_GAMMA))
    return rgb.point(np.round(table).astype(int).tolist() * 3)


@lru_cache(maxsize=16)
def find_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of an ICC profile's colours to sRGB; None where it hardly moves any, or cannot be read."""
    # Without a cache of the last colour, threads can share it.
    flags = ImageCms.Flags.NOCACHE
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
    except (ImageCms.PyCMSError, OSError):
        return None  # damaged, or for other kinds of pictures: viewers show the colours as they are
    bands = Image.getmodebands(mode)
    steps = np.indices((16,) * bands).reshape(bands, -1).T.astype(np.uint8) * 17
    colours = Image.frombytes(mode, (len(steps), 1), steps.tobytes())
    moved = np.asarray(transform.apply(colours)).astype(int) - np.asarray(colours.convert("RGB"))
    return transform if np.abs(moved).max() > SAME_COLOUR else None


def _with_8_bits(picture: Image.Image, file: BinaryIO) -> Image.Image:
    """Return a picture of 16 bits a channel with 8, and any other as it is."""
    tags = getattr(picture, "tag_v2", {})
    signed = tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
    if picture.mode.startswith("I") or (signed and picture.mode == "L"):
        values = np.asarray(picture)
        if (picture.mode == "I") != signed:  # Pillow's "I" is signed, its "L" is not
            values = values.view(np.int8 if signed else np.uint32)
        grey = _scale(values)
        # Pillow turns over 8 bits alone.
        return Image.fromarray(255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey)
    bands = {"RGB": 3, "RGBA": 3, "LA": 1}.get(picture.mode)
    if not bands or _bits(picture, file) != 16 or np.asarray(picture)[..., :bands].max() >= 64:
        return picture
    # Pillow keeps the upper 8 bits, which hold nearly nothing of 12-bit values.
    file.seek(0)
    deep = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.shape[:2] != picture.size[::-1]:
        return picture
    colours = _scale(deep[..., 2::-1])
    return Image.fromarray(np.dstack([colours, _scale(deep[..., 3:])]) if deep.shape[2] == 4 else colours)


def _bits(picture: Image.Image, file: BinaryIO) -> int:
    if picture.format == "PNG":
        file.seek(24)
        return file.read(1)[0]
    return getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))[0]


def _scale(values: np.ndarray) -> np.ndarray:
    """Scale to 8 bits what has 16, or as many bits as the largest value needs."""
    if values.min() < 0:
        raise ValueError("what its negative pixels mean is not known; save it with 8 bits")
    bits = int(values.max()).bit_length()
    if bits > 16:
        return (values >> (bits - 8)).astype(np.uint8)
    if bits > 14:
        return (values // 257).astype(np.uint8)
    white = (1 << max(bits, 1)) - 1
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
