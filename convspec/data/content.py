"""Tell what a file is by its first bytes."""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEAD = 1024  # bytes that are looked at


class Content(NamedTuple):
    """What a file holds: words for a message, whether it is a picture, and a remedy for one unread."""

    name: str
    picture: bool = False
    remedy: str = ""


POINTER = "Git LFS pointer"
CONVERT = "save it as JPEG or PNG"
# Name, remedy, first bytes. The first that fits counts.
_PICTURES = (
    ("JPEG", "", rb"\xff\xd8\xff"),
    ("PNG", "", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", "", rb"GIF8[79]a"),
    ("raw", "develop it to JPEG or TIFF", rb".{8}CR\x02\0|II(U\0|RO|RS)|MMOR|FUJIFILM|FOVb|\0MRM|.{4}ftypcrx"),
    ("TIFF", "", rb"II[*+]\0|MM\0[*+]"),
    ("WebP", "", rb"RIFF.{4}WEBP"),
    ("PPM", "", rb"P[1-6]\s+[#\d]|P7\n[#A-Z]"),
    ("BMP", "", rb"BM.{4}\0{4}"),
    ("JPEG 2000", "", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("AVIF", "", rb".{4}ftypavi[fs]"),
    ("HEIC", f"pip install pillow-heif, or {CONVERT}", rb".{4}ftyp(hei|hev|mif1|msf1)"),
    ("JPEG XL", CONVERT, rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"),
    ("Photoshop", CONVERT, rb"8BPS"),
    ("GIMP", CONVERT, rb"gimp xcf"),
    ("icon", CONVERT, rb"\0\0[\x01\x02]\0[^\0]|icns"),
    ("TGA", CONVERT, rb".\0[\x02\x03\n\x0b]\0{5}.{8}[\x08\x0f\x10\x18\x20][\0-\x3f]"),
    ("PCX", CONVERT, rb"\n[\0-\x05]\x01[\x01\x02\x04\x08]"),
    ("SGI", CONVERT, rb"\x01\xda[\0\x01][\x01\x02]"),
    ("Sun raster", CONVERT, rb"\x59\xa6\x6a\x95"),
    ("MNG or JNG", CONVERT, rb"\x8a[MJ]NG|\x8bJNG"),
    ("JPEG XR", CONVERT, rb"II\xbc\x01"),
    ("floating-point", CONVERT, rb"P[fF]\s"),
    ("X11", CONVERT, rb"/\* XPM|#define \w+_width"),
    ("OpenEXR", CONVERT, rb"v/1\x01"),
    ("Radiance HDR", CONVERT, rb"#\?RADIANCE"),
    ("QOI", CONVERT, rb"qoif"),
    ("DDS", CONVERT, rb"DDS "),
    ("FITS", CONVERT, rb"SIMPLE  ="),
    ("DICOM", CONVERT, rb".{128}DICM"),
    ("PostScript", "draw it as PNG", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("SVG", "draw it as PNG", rb"(?i)(\xef\xbb\xbf)?\s*<(?!html|!doctype html)([^\0]*<)?svg"),
)
_OTHERS = (
    ("PDF document", "save its pages as PNG", rb"%PDF-"),
    (POINTER, "run git lfs pull", rb"version https://git-lfs"),
    ("zip archive", "unpack it", rb"PK\x03\x04"),
    ("gzip archive", "unpack it", rb"\x1f\x8b"),
    ("7z archive", "unpack it", rb"7z\xbc\xaf\x27\x1c"),
    ("RAR archive", "unpack it", rb"Rar!"),
    ("video", "save its frames as pictures", rb".{4}ftyp|RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01\xba"),
    ("audio file", "", rb"RIFF.{4}WAVE|ID3|fLaC|OggS"),
    ("Windows thumbnail store", "", rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    ("macOS metadata", "", rb"\0\x05\x16\x07|\0\0\0\x01Bud1"),
    ("NumPy array", "", rb"\x93NUMPY"),
    ("HDF5 file", "", rb"\x89HDF\r\n\x1a\n"),
    ("SQLite file", "", rb"SQLite format 3\0"),
    ("web page", "", rb"(?i)\s*<(!doctype html|html)"),
    ("XML file", "", rb"(\xef\xbb\xbf)?\s*<\??[a-zA-Z]"),
    ("file of zero bytes", "", rb"\0+\Z"),
    ("empty file", "", rb"\Z"),
)
_KINDS = [
    *((Content(f"{name} picture", True, remedy), re.compile(start, re.DOTALL)) for name, remedy, start in _PICTURES),
    *((Content(name, False, remedy), re.compile(start, re.DOTALL)) for name, remedy, start in _OTHERS),
]


def identify(file: Path | str | BinaryIO) -> Content:
    """Return what the content of a file is, whatever its name; OSError where it cannot be read."""
    if isinstance(file, (str, Path)):
        with open(file, "rb") as opened:
            return identify(opened)
    file.seek(0)
    head = file.read(HEAD)
    for content, start in _KINDS:
        if start.match(head):
            return content
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or not re.search(rb"[\0-\x08\x0e-\x1a]", head):
        return Content("text")
    return Content("file of an unknown kind")
