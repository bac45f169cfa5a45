"""What files are, by their first bytes."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convspec.data.content import Content, identify


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a"), "b")
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def box(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + bytes(12)


# First bytes, and words of what they are.
OTHERS: list[tuple[bytes, str]] = [
    (b"", "empty file"), (bytes(3000), "file of zero bytes"), (bytes(range(256)), "file of an unknown kind"),
    (b"name,label\na,1\n", "text"), ('{"objects": ["Käfer"]}'.encode(), "text"),
    ("[.ShellClassInfo]".encode("utf-16"), "text"),
    (b"<annotation><object/></annotation>", "XML file"), (b"\xef\xbb\xbf<?xml version='1.0'?><a/>", "XML file"),
    (b"\n<!DOCTYPE html>\n<html>", "web page"), (b"<html><svg/></html>", "web page"),
    (b"%PDF-1.7", "PDF document"), (zipped(), "zip archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "Windows thumbnail store"), (b"\0\0\0\1Bud1", "macOS metadata"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"), (array(), "NumPy array"),
    (box(b"isom"), "video"), (b"RIFF\0\0\0\0AVI LIST", "video"), (b"RIFF\0\0\0\0WAVEfmt ", "audio file"),
]  # fmt: skip
PICTURES: list[tuple[bytes, str]] = [
    (box(b"heic"), "HEIC"), (box(b"mif1"), "HEIC"), (box(b"crx "), "raw"),
    (b"II*\0\x10\0\0\0CR\2\0", "raw"), (b"IIU\0\x18", "raw"), (b"\xff\x0a\0", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (b"8BPS\0\1", "Photoshop"), (bytes(128) + b"DICM", "DICOM"),
    (b"\0\0\2" + bytes(9) + b"\x40\0\x30\0\x18\0", "TGA"), (b"\0\0\1\0\1\0\x10\x10", "icon"), (b"\n\5\1\x08", "PCX"),
    (b"\x01\xda\1\1\0\3", "SGI"), (b"\x8bJNG\r\n", "MNG or JNG"), (b"PF\n9 9\n", "floating-point"),
    (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg>", "SVG"), (b"  <svg/>", "SVG"), (b"%!PS-Adobe-3.0", "PostScript"),
]  # fmt: skip


def described(file: Path, content: bytes) -> Content:
    file.write_bytes(content)
    return identify(file)


@pytest.mark.parametrize(("content", "name"), OTHERS)
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    assert described(tmp_path / "0.jpg", content)[:2] == (name, False)


@pytest.mark.parametrize(("content", "name"), PICTURES)
def test_a_picture_that_is_not_read_is_named_with_a_remedy(tmp_path: Path, content: bytes, name: str) -> None:
    kind = described(tmp_path / "0.jpg", content)
    assert kind[:2] == (f"{name} picture", True)
    assert kind.remedy


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "PPM", "JPEG 2000", "AVIF"])
def test_a_picture_that_is_read_is_named_without_a_remedy(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (9, 9)).save(buffer := io.BytesIO(), name.replace(" ", ""))
    assert described(tmp_path / "0.txt", buffer.getvalue()) == (f"{name} picture", True, "")
