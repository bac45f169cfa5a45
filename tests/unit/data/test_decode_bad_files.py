"""Whatever is found in a folder of pictures: a picture or one line that says why not, never a crash."""

import io
import struct
import subprocess
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import exif
from PIL import Image, ImageFile

from convspec import BadInput
from convspec.data import load_dataset
from convspec.data.decode import UnreadableImage, load_image
from convspec.data.folders import read_layout

pytestmark = pytest.mark.filterwarnings("error")


def picture(height: int = 30, width: int = 40, seed: int = 0) -> Image.Image:
    """Draw colours that change smoothly, with some grain."""
    y, x, channel = np.ogrid[:height, :width, :3]
    waves = 127 + 60 * np.sin(x / 5 + channel) + 50 * np.cos(y / 7 - channel + seed)
    grain = np.random.default_rng(seed).normal(0, 5, waves.shape)
    return Image.fromarray((waves + grain).clip(0, 255).astype(np.uint8))


def encoded(kind: str, source: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (source or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    return encoded(kind, save_all=True, append_images=[picture(seed=1), picture(seed=2)])


def paged(*pages: tuple[int, int]) -> bytes:
    """Return a TIFF of pages, each so high and with that NewSubfileType."""
    pictures = [picture(height) for height, _ in pages]
    for page, (_, kind) in zip(pictures, pages, strict=True):
        page.encoderinfo = {"tiffinfo": {254: kind}}
    return encoded("TIFF", pictures[0], save_all=True, append_images=pictures[1:], tiffinfo={254: pages[0][1]})


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def declared(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that says that it is of this size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


def changed(content: bytes, where: int, to: bytes) -> bytes:
    return content[:where] + to + content[where + len(to) :]


def cut(kind: str, share: float, **options: Any) -> bytes:
    whole = encoded(kind, **options)
    return whole[: int(len(whole) * share)]


TURNED = exif(6)
HTML = b"<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n0 0 10 10 rectfill\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
FLOATING = Image.fromarray(np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10))
RARE, PAGES, ONE_PIXEL = (
    "picture that is damaged, or of a rare kind; save it as JPEG or PNG",
    "animated, or has several pages; save one as a file of its own$",
    "no picture of anything",
)
CUT = "truncated|Truncated|that is damaged|: text$|not enough|broken|decoder|bad EPS|-2"

# Name of the file: its bytes, and what the reason must say.
BAD: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty file$"),
    "zeros.png": (bytes(5000), "file of zero bytes$"),
    "page.jpg": (HTML, "web page$"),
    **{f"cut{share}.jpg": (cut("JPEG", share), CUT) for share in (0.01, 0.1, 0.5, 0.9)},
    **{f"cut{share}-progressive.jpg": (cut("JPEG", share, progressive=True), CUT) for share in (0.1, 0.5, 0.9)},
    **{f"cut{share}-turned.jpg": (cut("JPEG", share, exif=TURNED), CUT) for share in (0.5, 0.9)},
    **{f"cut{share}.{kind.lower()}": (cut(kind, share), CUT)
       for kind in ("PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM") for share in (0.01, 0.5, 0.95)},
    "one.png": (encoded("PNG", picture(1, 1)), f"1 x 1 is {ONE_PIXEL}"),
    "row.jpg": (encoded("JPEG", picture(1, 50)), f"50 x 1 is {ONE_PIXEL}"),
    "column.gif": (encoded("GIF", picture(50, 1)), f"1 x 50 is {ONE_PIXEL}"),
    "no-rows.png": (declared(30, 0), RARE + "|" + ONE_PIXEL),
    "huge.png": (declared(30_000, 30_000), "900000000 pixels.* exceeds limit"),
    "large.png": (declared(10_000, 10_000), "10000 x 10000 is more than 89,478,485 pixels"),
    "animated.gif": (animated("GIF"), PAGES),
    "animated.webp": (animated("WEBP"), PAGES),
    "animated.png": (animated("PNG"), PAGES),
    "pages.tif": (animated("TIFF"), PAGES),
    "thumbnails.tif": (paged((60, 1), (30, 1)), "raw picture, which begins with a preview"),
    "two.tif": (paged((60, 0), (30, 1), (60, 0)), PAGES),
    "signature.png": (changed(encoded("PNG"), 1, b"QNG"), "file of an unknown kind$"),
    "header.png": (changed(encoded("PNG"), 16, b"\xff\xff"), RARE + "|broken PNG"),
    "checksum.png": (changed(encoded("PNG"), 60, b"\0\0\0\0\0\0\0\0"), "broken PNG|decoder|broken data stream"),
    "header.jpg": (changed(encoded("JPEG"), 0, b"\0\0"), "file of an unknown kind$"),
    "tables.jpg": (encoded("JPEG").replace(b"\xff\xdb", b"\xff\xfe"), "broken data stream"),
    "header.bmp": (changed(encoded("BMP"), 14, b"\xff\xff\xff\xff"), "Unsupported BMP|Truncated|" + RARE),
    "drawing.jpg": (EPS, "PostScript picture; draw it as PNG$"),
    "drawing.svg": (SVG, "SVG picture; draw it as PNG$"),
    "drawing-svg.jpg": (SVG, "SVG picture; draw it as PNG$"),
    "paper.jpg": (encoded("PDF"), "PDF document; save its pages as PNG$"),
    "icon.jpg": (encoded("ICO"), "icon picture; save it as JPEG or PNG$"),
    "raw.tif": (encoded("TIFF", tiffinfo={254: 1}), "raw picture, which begins with a preview; develop it"),
    "raw.dng": (encoded("TIFF", tiffinfo={50706: b"\1\4\0\0"}), "raw picture, which begins with a preview; develop it"),
    "floating.tif": (encoded("TIFF", FLOATING), "floating-point pixels"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_that_names_it_and_the_reason(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    for interpolation in ("nearest", "area"):
        with pytest.raises(UnreadableImage, match=reason) as refused:
            load_image(tmp_path / name, 8, interpolation)
        message = str(refused.value)
        assert message.startswith(f"{str(tmp_path / name)!r} is not a readable picture: ")
        assert "\n" not in message


def test_all_bad_files_in_a_folder_are_skipped_counted_and_named(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / ("cats", "dogs")[number % 2]).mkdir(exist_ok=True)
        picture(seed=number).save(tmp_path / ("cats", "dogs")[number % 2] / f"{number}.png")
    for name, (content, _) in BAD.items():
        (tmp_path / "cats" / name).write_bytes(content)
    left_out = {path.name for paths in read_layout(tmp_path).left_out.values() for path in paths}
    assert left_out == {"drawing.svg", "raw.dng"}, "by their names they are no pictures, and count apart"
    with pytest.warns(UserWarning, match=rf"^skipped {len(BAD) - 2} files in {str(tmp_path)!r}: "):
        dataset = load_dataset(tmp_path, 8, max_bad_fraction=1.0)
    reasons = {reason.split("'")[1].removeprefix(f"{tmp_path}/cats/"): reason for reason in dataset.skipped}
    assert set(reasons) == set(BAD) - left_out
    assert len(dataset.train) + len(dataset.test) == 6


def test_pictures_that_end_early_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / ("cats", "dogs")[number % 2]).mkdir(exist_ok=True)
        whole = encoded("JPEG", picture(seed=number))
        (tmp_path / ("cats", "dogs")[number % 2] / f"{number}.jpg").write_bytes(whole[: -50 if number else None])
    dataset = load_dataset(tmp_path, 8, truncated="fill")
    assert (len(dataset.train) + len(dataset.validation or ()) + len(dataset.test), dataset.skipped) == (8, ())
    names = [f"'{tmp_path}/{('cats', 'dogs')[number % 2]}/{number}.jpg'" for number in range(1, 8)]
    assert [line.partition(" is read as far as it goes: ")[0] for line in dataset.incomplete] == sorted(names)
    with pytest.raises(BadInput, match="needs at least 4 readable pictures to be split, but 'cats' has 1"):
        load_dataset(tmp_path, 8)


@pytest.mark.parametrize("name", ["huge.png", "large.png"])
def test_an_enormous_picture_is_refused_before_it_is_decoded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    (tmp_path / name).write_bytes(BAD[name][0])
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    monkeypatch.setattr(Image.core, "new", decoded)
    with pytest.raises(UnreadableImage):
        load_image(tmp_path / name, 8)


@pytest.mark.parametrize("name", ["drawing.jpg", "paper.jpg", "drawing.svg"])
def test_no_program_is_ever_run_for_a_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    for way in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, way, lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")  # as where Ghostscript is installed
    (tmp_path / name).write_bytes(BAD[name][0])
    with pytest.raises(UnreadableImage, match=BAD[name][1]):
        load_image(tmp_path / name, 8)
    assert started == []


# What: its bytes, the picture, and how far from it the decoded one may be, of 255 on average.
ODD: dict[str, tuple[bytes, Image.Image, float]] = {
    "damaged EXIF data": (encoded("JPEG", exif=TURNED).replace(TURNED.tobytes()[6:18], b"\xff" * 12), picture(), 5),
    "no EXIF data in their place in a PNG": (encoded("PNG", exif=b"no EXIF data"), picture(), 0),
    "no EXIF data in their place in a WebP": (encoded("WEBP", exif=b"no EXIF data", lossless=True), picture(), 0),
    "an orientation that is none": (encoded("JPEG", exif=exif(77)), picture(), 5),
    "trailing bytes": (encoded("JPEG") + bytes(range(256)) * 9, picture(), 5),
    "trailing text": (encoded("PNG") + HTML, picture(), 0),
    "progressive": (encoded("JPEG", progressive=True), picture(), 5),
    "interlaced GIF": (encoded("GIF", interlace=1), picture(), 8),
    "LAB": (encoded("TIFF", picture().convert("LAB")), picture(), 5),
    "arithmetic of 4:4:4": (encoded("JPEG", subsampling=0, quality=100), picture(), 1),
    "two by two": (encoded("PNG", picture(2, 2)), picture(2, 2), 0),
    "2 x 3000": (encoded("PNG", picture(2, 3000)), picture(2, 3000), 0),
    "TIFF with smaller versions and a mask": (paged((60, 0), (30, 1), (60, 4), (15, 1)), picture(60), 0),
    "TIFF that begins with a thumbnail": (paged((15, 1), (60, 0)), picture(60), 0),
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_picture_is_shown_upright(tmp_path: Path, what: str) -> None:
    content, expected, off = ODD[what]
    (file := tmp_path / "picture").write_bytes(content)
    loaded = load_image(file)
    assert loaded.shape == (expected.height, expected.width, 3)
    assert np.abs(loaded.astype(float) - np.asarray(expected)).mean() <= off


# Any damage


def sources() -> list[bytes]:
    """Return small pictures of every kind that the decoders of these formats tell apart."""
    grey, palette, clear = picture(20, 26).convert("L"), picture(20, 26).convert("P"), picture(20, 26).convert("RGBA")
    return [
        encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", grey), encoded("JPEG", exif=TURNED),
        encoded("JPEG", picture().convert("CMYK")), encoded("MPO", save_all=True, append_images=[picture(8, 10)]),
        encoded("PNG"), encoded("PNG", palette, transparency=3), encoded("PNG", clear), encoded("PNG", exif=TURNED),
        encoded("PNG", Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 150)), animated("PNG"),
        encoded("GIF"), encoded("GIF", grey, interlace=1), animated("GIF"), encoded("GIF", palette, transparency=3),
        encoded("BMP"), encoded("BMP", palette), encoded("BMP", grey.convert("1")), encoded("BMP", clear),
        *(encoded(kind) for kind in ("WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")), paged((30, 0), (15, 1)),
    ]  # fmt: skip


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Do one to four kinds of damage: bytes changed, cut off, left out or put in, header fields, two files."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        where, length = int(rng.integers(0, len(data) or 1)), int(rng.integers(1, 40))
        kind = rng.integers(0, 7)
        if kind == 0:
            for place in rng.integers(0, len(data) or 1, rng.integers(1, 9)):
                data[place : place + 1] = rng.bytes(1)
        elif kind == 1:
            data[where : where + 1] = bytes([data[where] ^ 1 << rng.integers(0, 8)]) if data else b""
        elif kind == 2:
            del data[where:]
        elif kind == 3:
            del data[where : where + length]
        elif kind == 4:
            data[where:where] = rng.bytes(length)
        elif kind == 5:
            place = int(rng.integers(0, 64))
            edges = (b"\0\0", b"\xff\xff", b"\x7f\xff", b"\xff\x7f", b"\0\1", b"\1\0", b"\x80\0", b"\0\x80")
            data[place : place + 2] = edges[rng.integers(0, len(edges))]
        else:
            data[where:] = other[int(rng.integers(0, len(other))) :]
    return bytes(data)


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_any_damage_leaves_a_picture_or_is_refused_in_one_line(tmp_path: Path, count: int) -> None:
    file, whole, outcomes = tmp_path / "picture", sources(), Counter[str]()
    for seed in range(count):
        rng = np.random.default_rng(seed)
        first, second = rng.integers(0, len(whole), 2)
        file.write_bytes(mutated(whole[first], whole[second], rng))
        size, interpolation = (None, "nearest") if seed % 2 else (8, "area")
        message = ""
        try:
            loaded = load_image(file, size, interpolation, ("skip", "fill")[seed % 3 == 0])
        except UnreadableImage as refused:
            message = str(refused)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        outcomes["refused" if message else "picture"] += 1
        if message:
            assert message.startswith(f"{str(file)!r} is not a readable picture: "), f"seed {seed}: {message}"
            assert "\n" not in message, f"seed {seed}: {message}"
        else:
            assert (loaded.dtype, loaded.ndim, loaded.shape[2]) == (np.uint8, 3, 3), f"seed {seed}"
            assert size is None or loaded.shape == (8, 8, 3), f"seed {seed}"
    assert min(outcomes["picture"], outcomes["refused"]) > count / 10, "the damage must be neither too much nor none"
