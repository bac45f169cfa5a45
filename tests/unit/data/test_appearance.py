"""Pictures as viewers show them: colours, depth, orientation; against formulas, and files of other libraries."""

import io
import os
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from builders import exif
from PIL import Image, ImageCms

from convspec.data.decode import UnreadableImage, load_image

pytestmark = pytest.mark.filterwarnings("error")
WAYS = pytest.mark.parametrize("way", ["nearest", "area"])
HEIGHT, WIDTH = 48, 64


def waves() -> np.ndarray:
    y, x, channel = np.ogrid[:HEIGHT, :WIDTH, :3]
    return (127.5 + 77 * np.sin(x / 15 + channel) + 50 * np.cos(y / 17 - channel)).round().astype(np.uint8)


def encoded(kind: str, pixels: np.ndarray, **options: Any) -> bytes:
    Image.fromarray(pixels).save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def loaded(folder: Path, content: bytes, *options: Any) -> np.ndarray:
    (folder / "picture").write_bytes(content)
    return load_image(folder / "picture", *options)


def odd(name: str) -> Path:
    file = Path(os.environ.get("CONVSPEC_DATA", "")) / "odd_pictures" / name
    if not file.is_file():
        pytest.skip(f"needs odd_pictures/{name} in the folder that CONVSPEC_DATA names")
    return file


# Colours

D50 = (0.9642, 1.0, 0.8249)
PRIMARIES = {  # red, green and blue as XYZ on D50, of the standards
    "sRGB": ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    "Adobe RGB": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
    "Display P3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
}


def profile(gamma: float, primaries: str | None) -> bytes:
    """Return an ICC profile of version 2 with a gamma, for grey where there are no primaries."""
    curve = b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(gamma * 256))

    def place(numbers: tuple[float, ...]) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(number * 65536) for number in numbers))

    tags = {b"wtpt": place(D50), b"cprt": b"text" + bytes(8)}
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 1) + bytes(84)
    if primaries:
        for name, numbers in zip("rgb", PRIMARIES[primaries], strict=True):
            tags |= {f"{name}XYZ".encode(): place(numbers), f"{name}TRC".encode(): curve}
    else:
        tags[b"kTRC"] = curve
    start, table, content = 132 + 12 * len(tags), b"", b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(content), len(data))
        content += data
    head = struct.pack(">I4xI", start + len(content), 0x02400000)
    head += b"mntr" + (b"RGB " if primaries else b"GRAY") + b"XYZ "
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + place(D50)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Return sRGB of light in its primaries, as IEC 61966-2-1 says."""
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def expected_colours(pixels: np.ndarray, gamma: float, primaries: str) -> np.ndarray:
    light = (pixels / 255) ** gamma @ np.array(PRIMARIES[primaries])
    return to_srgb(light @ np.linalg.inv(PRIMARIES["sRGB"]))


@WAYS
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize(("primaries", "gamma"), [("Adobe RGB", 2.2), ("Display P3", 2.2), ("sRGB", 1.0)])
def test_a_colour_profile_is_applied(tmp_path: Path, kind: str, primaries: str, gamma: float, way: str) -> None:
    content = encoded(kind, waves(), quality=100, icc_profile=profile(gamma, primaries))
    expected = expected_colours(waves(), gamma, primaries)
    assert np.abs(expected - waves()).mean() > 3, "the test must have something to see"
    shown = loaded(tmp_path, content, None if way == "nearest" else 32, way)
    if way == "area":
        expected = cv2.resize(expected, (32, 32), interpolation=cv2.INTER_LINEAR)
    assert np.abs(shown - expected).mean() < 1.5, "of 255: rounding, and for JPEG and AVIF their compression"


@WAYS
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_grey_profile_is_applied(tmp_path: Path, kind: str, way: str) -> None:
    grey = waves()[..., 0]
    content = encoded(kind, grey, icc_profile=profile(1.0, None), **({"quality": 100} if kind == "JPEG" else {}))
    shown = loaded(tmp_path, content, None if way == "nearest" else HEIGHT, way)
    expected = to_srgb(cv2.resize(grey, shown.shape[1::-1], interpolation=cv2.INTER_LINEAR) / 255)
    assert np.abs(shown - expected[..., None]).mean() < 2


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_profile_and_transparency_go_together(tmp_path: Path, mode: str) -> None:
    flat, options = np.full((8, 8, 3), (200, 80, 40), np.uint8), {"icc_profile": profile(1.0, "sRGB")}
    half = Image.fromarray(np.dstack([flat, np.full((8, 8), 128)]).astype(np.uint8))
    if mode == "P":
        half = Image.fromarray(flat).quantize(2)
        options["transparency"] = bytes([128, 128])
    half.save(buffer := io.BytesIO(), "PNG", **options)
    expected = to_srgb(flat / 255) * 128 / 255 + 127
    np.testing.assert_allclose(loaded(tmp_path, buffer.getvalue()), expected, atol=2)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@WAYS
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("mode", "icc_profile"),
    [
        ("RGB", SRGB),
        ("RGB", b"no profile" * 20),
        ("RGB", SRGB[:200]),
        ("RGB", profile(1.0, None)),
        ("L", profile(1.0, "sRGB")),
    ],
    ids=["sRGB", "no profile", "cut off", "grey", "colour of grey"],  # their bytes have the second of their creation
)
def test_srgb_and_profiles_that_do_not_fit_change_no_pixel(
    tmp_path: Path, kind: str, mode: str, icc_profile: bytes, way: str
) -> None:
    pixels = np.asarray(Image.fromarray(waves()).convert(mode))
    plain, tagged = (encoded(kind, pixels, icc_profile=given) for given in (None, icc_profile))
    np.testing.assert_array_equal(loaded(tmp_path, tagged, 20, way), loaded(tmp_path, plain, 20, way))


@WAYS
def test_a_picture_in_xyb_has_its_natural_colours(way: str) -> None:
    """The same photograph as truncated.jpg, which is in sRGB, and whose first 160 rows are there."""
    xyb, srgb = (load_image(odd(name), truncated="fill").astype(float) for name in ("sample-xyb.jpg", "truncated.jpg"))
    assert np.abs(xyb - srgb)[:160].mean() < 3
    if way == "area":
        small, large = load_image(odd("sample-xyb.jpg"), 60, way), xyb.astype(np.uint8)
        assert np.abs(small - cv2.resize(large, (60, 60), interpolation=cv2.INTER_AREA).astype(float)).mean() < 6, (
            "decoded smaller"
        )


def with_gamma(content: bytes, gamma: float) -> bytes:
    chunk = b"gAMA" + struct.pack(">I", round(gamma * 100_000))
    return content[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


@pytest.mark.parametrize("gamma", [1.0, 1 / 1.8])
def test_a_pngs_gamma_is_applied(tmp_path: Path, gamma: float) -> None:
    shown = loaded(tmp_path, with_gamma(encoded("PNG", waves()), gamma))
    np.testing.assert_allclose(shown, 255 * (waves() / 255) ** (1 / (2.2 * gamma)), atol=0.51)


def test_a_displays_gamma_and_one_beside_a_profile_change_nothing(tmp_path: Path) -> None:
    for content in (
        with_gamma(encoded("PNG", waves()), 0.45455),
        with_gamma(encoded("PNG", waves(), icc_profile=SRGB), 1.0),
    ):
        np.testing.assert_array_equal(loaded(tmp_path, content), waves())


# Depth


def deep(bits: int, channels: int, kind: str) -> bytes:
    """Return the waves in so many of 16 bits; a fourth channel is all white."""
    white = (1 << bits) - 1
    values = (waves() / 255 * white).round().astype(np.uint16)
    if channels == 1:
        return encoded(kind, values[..., 0])
    if channels == 4:
        values = np.dstack([values, np.full_like(values[..., :1], white)])
    order = cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGBA2BGRA
    return cv2.imencode({"PNG": ".png", "TIFF": ".tif"}[kind], cv2.cvtColor(values, order))[1].tobytes()


@WAYS
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize(
    ("kind", "channels"), [("JPEG2000", 1), ("PPM", 1), *((kind, n) for kind in ("PNG", "TIFF") for n in (1, 3, 4))]
)
def test_fewer_bits_that_lie_in_16_are_visible(tmp_path: Path, bits: int, kind: str, channels: int, way: str) -> None:
    shown = loaded(tmp_path, deep(bits, channels, kind), None if way == "nearest" else HEIGHT, way).astype(int)
    expected = waves() if channels > 1 else np.repeat(waves()[..., :1], 3, axis=2)
    if way == "area":
        expected = cv2.resize(expected, (HEIGHT, HEIGHT), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(shown, expected)


@WAYS
def test_twelve_bits_in_a_tiff_of_16_are_not_black(way: str) -> None:
    assert load_image(odd("12in16bit.tif"), 100, way).max() > 200


def test_a_dark_picture_of_8_bits_stays_dark(tmp_path: Path) -> None:
    for dark in (waves() // 16, waves()[..., 0] // 16):
        shown = loaded(tmp_path, encoded("PNG", dark))
        np.testing.assert_array_equal(shown, dark if dark.ndim == 3 else np.repeat(dark[..., None], 3, axis=2))


def test_where_zero_is_white_it_is_shown_white(tmp_path: Path) -> None:
    content = deep(16, 1, "TIFF")
    tag = struct.Struct("<HHII").pack
    assert content.count(tag(262, 3, 1, 1)) == 1
    shown = loaded(tmp_path, content.replace(tag(262, 3, 1, 1), tag(262, 3, 1, 0)))
    np.testing.assert_array_equal(shown, 255 - loaded(tmp_path, content))


@pytest.mark.parametrize("bits", [32, 8])
def test_negative_pixels_are_refused_and_not_shown_wrong(tmp_path: Path, bits: int) -> None:
    grey, signed = waves()[..., 0], {"tiffinfo": {339: 2}}
    content = encoded("TIFF", grey, **signed) if bits == 8 else encoded("TIFF", grey.astype(np.int32) - 99)
    with pytest.raises(UnreadableImage, match="what its negative pixels mean is not known; save it with 8 bits"):
        loaded(tmp_path, content)


# Orientation


def xmp(orientation: int, *, element: bool = False) -> bytes:
    inside = f"><tiff:Orientation>{orientation}</tiff:Orientation></rdf:Description>"
    described = inside if element else f' tiff:Orientation="{orientation}"/>'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description{described}</x:xmpmeta>'.encode()


@WAYS
@pytest.mark.parametrize("element", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_orientation_in_xmp_alone_turns_a_picture(tmp_path: Path, kind: str, element: bool, way: str) -> None:
    options: dict[str, Any] = (
        {"tiffinfo": {700: xmp(6, element=element)}} if kind == "TIFF" else {"xmp": xmp(6, element=element)}
    )
    plain = loaded(tmp_path, encoded(kind, waves(), quality=95), 32, way)
    turned = loaded(tmp_path, encoded(kind, waves(), quality=95, **options), 32, way)
    np.testing.assert_allclose(turned, np.rot90(plain, -1), atol=8)
    assert np.abs(turned.astype(int) - plain).mean() > 20, "the test must have something to see"


@WAYS
def test_where_exif_and_xmp_contradict_each_other_exif_counts(tmp_path: Path, way: str) -> None:
    plain = loaded(tmp_path, encoded("JPEG", waves(), quality=95), 32, way)
    turned = loaded(tmp_path, encoded("JPEG", waves(), quality=95, exif=exif(3), xmp=xmp(6)), 32, way)
    np.testing.assert_allclose(turned, plain[::-1, ::-1], atol=8)


# Formats


def test_avif_under_another_extension_is_read_the_same_way_up_in_both_ways() -> None:
    nearest, area = (load_image(odd("avif_named.jpg"), 60, way).astype(float) for way in ("nearest", "area"))
    assert np.abs(nearest - area).mean() < 10 < np.abs(nearest[::-1, ::-1] - area).mean()


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)


def test_heic_is_named_with_its_remedy_which_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where it is not installed
    with pytest.raises(UnreadableImage, match=r"HEIC picture; pip install pillow-heif, or save it as JPEG or PNG$"):
        loaded(tmp_path, HEIC)

    def register() -> None:
        Image.register_open(
            "HEIF", lambda *_: Image.open(io.BytesIO(encoded("PNG", waves()))), lambda head: head[4:8] == b"ftyp"
        )

    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    np.testing.assert_array_equal(loaded(tmp_path, HEIC), waves())


# Warnings


def malformed() -> bytes:
    """Return a JPEG whose EXIF data make Pillow warn."""
    data = exif(1)
    data[0x010F] = "a maker with a long name"
    return encoded("JPEG", waves(), exif=data.tobytes()[:-20])


@WAYS
@pytest.mark.parametrize("name", [None, "hopper_bad_exif.jpg", "sugarshack_bad_mpo_header.jpg"])
def test_no_warning_leaves_the_decoder_in_any_thread(tmp_path: Path, name: str | None, way: str) -> None:
    (tmp_path / "made.jpg").write_bytes(malformed())
    file, before = odd(name) if name else tmp_path / "made.jpg", list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        shown = list(pool.map(lambda _: load_image(file, 20, way), range(100)))
    assert all(np.array_equal(picture, shown[0]) for picture in shown)
    assert list(warnings.filters) == before


def test_a_jpeg_with_restart_intervals_is_what_it_is_without_and_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    large = cv2.resize(waves(), (400, 300))
    plain, content = (encoded("JPEG", large, restart_marker_rows=rows) for rows in (0, 1))
    for size in (300, 150, 70, 30):
        expected = loaded(tmp_path, plain, size, "area")
        np.testing.assert_array_equal(loaded(tmp_path, content, size, "area"), expected)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("restarts", "inserted", "lost", "rows"),
    [(1, b"more", 0, 30), (0, b"", 40, 14)],
    ids=["bytes before a restart", "bytes lost"],
)
def test_damage_that_viewers_read_past_is_read_past_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], restarts: int, inserted: bytes, lost: int, rows: int
) -> None:
    """Left to itself, libjpeg prints a line without the file's name to stderr."""
    content = encoded("JPEG", cv2.resize(waves(), (400, 300)), restart_marker_rows=restarts)
    whole = loaded(tmp_path, content, 30, "area")
    data = content.index(b"\xff\xda")
    start = (data + len(content)) // 2 if lost else content.index(b"\xff\xd0", data)
    damaged = loaded(tmp_path, content[:start] + inserted + content[start + lost :], 30, "area")
    np.testing.assert_array_equal(damaged[:rows], whole[:rows], "above the damage")
    assert capfd.readouterr().err == ""


def test_pillows_warnings_to_other_threads_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def listen() -> None:
        try:
            Image.open(io.BytesIO(malformed())).getexif()
        except UserWarning as warning:
            heard.append(str(warning))

    def transpose(picture: Image.Image) -> None:
        (other := threading.Thread(target=listen)).start()
        other.join()

    monkeypatch.setattr("convspec.data.appearance.find_transpose", transpose)
    loaded(tmp_path, malformed())
    assert len(heard) == 1


# Files that end early


@WAYS
@pytest.mark.parametrize("tenths", [2, 5, 9])
@pytest.mark.parametrize(
    "kind",
    ["JPEG", "progressive JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "lossless WEBP", "AVIF", "JPEG2000"],
)
def test_a_file_that_ends_early_is_read_as_far_as_it_goes(tmp_path: Path, kind: str, tenths: int, way: str) -> None:
    large, options = cv2.resize(waves(), (400, 300)), {kind.split()[0]: True, "interlace": 0}
    if kind in ("WEBP", "AVIF"):  # which take next to nothing for waves alone
        large = (large + np.random.default_rng(0).normal(0, 12, large.shape)).clip(0, 255).astype(np.uint8)
    whole = encoded(kind.split()[-1], large, **options)
    content, size = whole[: len(whole) * tenths // 10], 30 if way == "area" else None
    with pytest.raises(UnreadableImage):
        loaded(tmp_path, content, size, way)
    shown, full = (loaded(tmp_path, data, size, way, "fill").astype(float) for data in (content, whole))
    share = (np.abs(shown - full).mean((1, 2)) < 12).mean()
    assert share > 0.8 * (tenths - 1) / 10
    np.testing.assert_array_equal(full, loaded(tmp_path, whole, size, way), "a whole file is what it always is")


def test_of_a_file_that_ends_before_its_picture_nothing_is_made(tmp_path: Path) -> None:
    for content in (encoded("PNG", waves())[:41], encoded("JPEG", waves())[:620], encoded("WEBP", waves())[:40], b""):
        with pytest.raises(UnreadableImage):
            loaded(tmp_path, content, None, "nearest", "fill")
