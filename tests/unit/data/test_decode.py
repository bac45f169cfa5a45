"""Pictures from files as Keras loads them, or as a person sees them where Keras shows something else."""

import errno
import io
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest
from builders import exif
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convspec import BadInput, backend
from convspec.data import decode, load_dataset
from convspec.data.decode import UnreadableImage, load_image, load_images


def encoded(mode: str, kind: str, height: int, width: int, seed: int = 0) -> bytes:
    """Return a picture of coloured noise as a file's bytes."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(noise)
    (picture if mode == "transparent" else picture.convert("RGB").convert(mode)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the name of a file to be overwritten, whose ending says nothing of what is in it."""
    return tmp_path_factory.mktemp("pictures") / "picture.bmp"


KERAS_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")


def from_keras(file: Path, size: int | None = None, interpolation: str = "nearest") -> np.ndarray:
    return np.asarray(keras.utils.load_img(file, target_size=size and (size, size), interpolation=interpolation))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(mode, "PNG") for mode in ("RGB", "L", "P", "1")]
    + [(mode, "JPEG") for mode in ("RGB", "L", "CMYK")]
    + [("RGBA", kind) for kind in ("PNG", "WEBP", "TIFF")]
    + [("P", "GIF")]
    + [("RGB", kind) for kind in ("BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")],
)
@given(height=st.integers(2, 40), width=st.integers(2, 40), size=st.none() | st.integers(1, 40), seed=st.integers(0, 9))
def test_a_picture_is_bit_for_bit_what_keras_loads(
    file: Path, mode: str, kind: str, height: int, width: int, size: int | None, seed: int
) -> None:
    file.write_bytes(encoded(mode, kind, height, width, seed))
    for interpolation in KERAS_INTERPOLATIONS:
        loaded = load_image(file, size, interpolation)
        assert (loaded.dtype, loaded.shape) == (np.uint8, (size or height, size or width, 3))
        np.testing.assert_array_equal(loaded, from_keras(file, size, interpolation), interpolation)
    np.testing.assert_array_equal(load_image(file, 9), np.asarray(keras.utils.load_img(file, target_size=(9, 9))))


@pytest.mark.parametrize("size", [0, -1, 2.5, 10**6, "48"])
def test_a_size_that_no_picture_has_is_the_callers_fault_not_the_files(file: Path, size: Any) -> None:
    """A million pixels a side are 3 TB, for which the system would end the process."""
    file.write_bytes(encoded("RGB", "PNG", 5, 5))
    for attempt in (lambda: load_image(file, size), lambda: load_dataset(file.parent, size)):
        with pytest.raises(BadInput, match=rf"^size must be a whole number of pixels from 1 to 9459, got {size!r}$"):
            attempt()


# Where a person sees something else than Keras

AS_SEEN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", AS_SEEN)
def test_a_picture_that_its_exif_data_turn_is_turned(file: Path, kind: str, orientation: int) -> None:
    picture = Image.open(io.BytesIO(encoded("RGB", "PNG", 6, 9)))
    picture.save(file, kind)
    upright = from_keras(file)
    picture.save(file, kind, exif=exif(orientation))
    np.testing.assert_array_equal(load_image(file), AS_SEEN[orientation](upright))


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "colour"])
def test_a_transparent_picture_lies_on_white(file: Path, mode: str) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(encoded("transparent", "PNG", 12, 15))))
    if mode == "P":
        alpha = np.random.default_rng(1).integers(0, 256, 256).astype(np.uint8)
        palette = Image.fromarray(pixels[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE)
        palette.save(file, "PNG", transparency=alpha.tobytes())
        expected = over_white(np.asarray(palette.convert("RGB")), alpha[np.asarray(palette)])
    elif mode == "colour":
        rgb, alpha = pixels[..., :3], np.full((12, 15), 255)
        alpha[3, 4] = 0
        Image.fromarray(rgb).save(file, "PNG", transparency=tuple(rgb[3, 4].tolist()))
        expected = over_white(rgb, alpha)
    else:
        rgb = pixels[..., :3] if mode == "RGBA" else np.repeat(pixels[..., :1], 3, axis=2)
        Image.fromarray(np.dstack([rgb[..., : len(mode) - 1], pixels[..., 3]])).save(file, "PNG")
        expected = over_white(rgb, pixels[..., 3])
    assert len(np.unique(expected)) > 50, "the test must have something to see"
    np.testing.assert_allclose(load_image(file), expected, atol=1)


def test_of_a_telephones_picture_and_preview_the_picture_counts(file: Path) -> None:
    picture, preview = (Image.open(io.BytesIO(encoded("RGB", "PNG", *size))) for size in ((16, 24), (8, 12)))
    picture.save(file, "MPO", save_all=True, append_images=[preview])
    assert Image.open(file).format == "MPO"
    np.testing.assert_array_equal(load_image(file), from_keras(file))


# "area"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@given(size=st.integers(1, 8), down=st.integers(2, 6), across=st.integers(2, 6), seed=st.integers(0, 9))
def test_each_pixel_by_area_is_the_mean_of_those_it_covers(
    file: Path, kind: str, size: int, down: int, across: int, seed: int
) -> None:
    file.write_bytes(encoded("RGB", kind, size * down, size * across, seed))
    blocks = from_keras(file).reshape(size, down, size, across, 3)
    np.testing.assert_allclose(load_image(file, size, "area"), blocks.mean((1, 3)), atol=1)


@pytest.mark.parametrize(("height", "width"), [(17, 24 * 4), (24 * 3, 1 + 24 // 2), (23, 24 * 7)])
def test_by_area_the_side_that_shrinks_is_averaged_where_the_other_grows(file: Path, height: int, width: int) -> None:
    """Stripes along the side that grows, so that the mean over the other is all that counts."""
    stripes = np.random.default_rng(0).integers(0, 256, (1, max(height, width), 3), dtype=np.uint8)
    across = stripes.repeat(min(height, width), axis=0)
    Image.fromarray(across if width > height else across.swapaxes(0, 1)).save(file, "PNG")
    means = stripes.reshape(1, 24, -1, 3).mean(2).repeat(24, axis=0)
    np.testing.assert_allclose(load_image(file, 24, "area"), means if width > height else means.swapaxes(0, 1), atol=1)


def jpeg_of_waves(file: Path, side: int) -> np.ndarray:
    y, x, channel = np.ogrid[:side, :side, :3]
    waves = np.sin(x / 9 + channel) + np.cos(y / 7 - channel) + np.sin((x + 2 * y) / 31)
    grain = np.random.default_rng(0).normal(0, 8, waves.shape)
    Image.fromarray((127 + 40 * waves + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return from_keras(file)


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 3, 5, 6, 7, 11])
def test_by_area_a_jpeg_is_nearly_the_mean_of_its_pixels(file: Path, factor: int) -> None:
    """The decoder may leave as little as three pixels for four, for speed; on photographs half of nearest's error."""
    blocks = jpeg_of_waves(file, 24 * factor).reshape(24, factor, 24, factor, 3)
    area, nearest = (np.abs(load_image(file, 24, way) - blocks.mean((1, 3))) for way in ("area", "nearest"))
    assert area.mean() < 0.8 * nearest.mean()
    if factor in (2, 4, 8, 16):  # as the decoder divides: no resampling
        assert area.mean() < 1, "of 255, on average"
        assert area.max() < 5, "of 255, at worst"


@pytest.mark.parametrize("orientation", AS_SEEN)
def test_by_area_a_jpeg_that_its_exif_data_turn_is_turned(file: Path, orientation: int) -> None:
    pixels = jpeg_of_waves(file, 96)
    upright = load_image(file, 24, "area")
    Image.fromarray(pixels).save(file, "JPEG", quality=100, exif=exif(orientation))
    np.testing.assert_allclose(load_image(file, 24, "area"), AS_SEEN[orientation](upright), atol=4)


# What is no picture


def test_a_folder_is_bad_input_and_a_missing_file_is_not(tmp_path: Path) -> None:
    assert issubclass(UnreadableImage, BadInput)
    with pytest.raises(UnreadableImage, match=tmp_path.name):
        load_image(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        load_image(tmp_path / "gone.png")


# Many files


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (3, 2)).save(tmp_path / "x.png")
    assert load_image("~/x.png").shape == (2, 3, 3)


def noise_files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded("RGB", "PNG", 5, 5, seed=number))
    return paths


@pytest.fixture
def slow_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode 001.png only once 005.png has been decoded, where there is more than one thread."""

    def load(path: Path, size: int, *options: Any) -> np.ndarray:
        if path.name == "001.png":
            last.wait(1)  # in vain where there is but one thread
        elif path.name == "005.png":
            last.set()
        return load_image(path, size, *options)

    last = threading.Event()
    monkeypatch.setattr(decode, "load_image", load)


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos"])
def test_many_pictures_are_each_resized_and_keep_their_order(
    tmp_path: Path, interpolation: str, slow_at_first: None
) -> None:
    paths = noise_files(tmp_path, 6)
    for ordered in (paths, paths[::-1]):
        loaded, failures, _ = load_images(ordered, 3, interpolation)
        assert not failures
        np.testing.assert_array_equal(loaded, [from_keras(path, 3, interpolation) for path in ordered])
    strict, *_ = load_images(ordered, 3, interpolation, strict=True)
    np.testing.assert_array_equal(strict, loaded)


def test_files_that_cannot_be_read_are_black_and_reported_in_order(tmp_path: Path, slow_at_first: None) -> None:
    paths = noise_files(tmp_path, 6)
    paths[1].write_bytes(b"")
    paths[4].unlink()
    loaded, failures, _ = load_images(paths, 7)
    assert list(failures) == [1, 4], "the order of the positions, not that in which threads came to them"
    assert failures[1].startswith(f"{str(paths[1])!r} is not a readable picture: ")
    assert failures[4] == f"{str(paths[4])!r} is gone since the folder was listed"
    assert [bool(picture.any()) for picture in loaded] == [True, False, True, True, False, True]


def test_a_strict_load_fails_at_the_first_file_that_is_no_picture(tmp_path: Path, slow_at_first: None) -> None:
    paths = noise_files(tmp_path, 6)
    for path in (paths[1], paths[2], paths[4]):
        path.write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"^'[^']*001\.png' is not a readable picture"):
        load_images(paths, 7, strict=True)


def test_a_strict_load_does_not_read_on_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path, size: int, *options: Any) -> np.ndarray:
        read.append(path)
        return load_image(path, size, *options)

    monkeypatch.setattr(decode, "load_image", counted)
    with pytest.raises(UnreadableImage, match=r"gone\.png"):
        load_images([tmp_path / "gone.png"] * 1000, 7, strict=True)
    assert len(read) <= decode.CHUNK


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that holds all temporary files."""
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_pictures_above_the_budget_are_the_same_in_a_nameless_file(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = noise_files(tmp_path, 6)
    paths[2].write_bytes(b"")
    monkeypatch.setattr(decode, "MEMORY_BUDGET", 6 * 7 * 7 * 3)
    within, failures, _ = load_images(paths, 7)
    monkeypatch.setattr(decode, "MEMORY_BUDGET", 6 * 7 * 7 * 3 - 1)
    above, same, _ = load_images(paths, 7)
    assert (type(within), type(above)) == (np.ndarray, np.memmap)
    assert (above.dtype, failures) == (within.dtype, same)
    np.testing.assert_array_equal(above, within)
    assert list(room.iterdir()) == [], "gone from the folder already"


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="where room cannot be asked for, a full disk is a crash")
def test_a_full_disk_says_how_much_room_is_needed_and_names_tmpdir(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(decode, "MEMORY_BUDGET", 0)
    message = r"0\.1 GiB of decoded pictures in '.*temporary' \(No space .*set TMPDIR"
    with pytest.raises(OSError, match=message) as failed:
        load_images(noise_files(tmp_path, 10), 2000)
    assert failed.value.errno == errno.ENOSPC
    assert "\n" not in str(failed.value)
    assert list(room.iterdir()) == []


def test_no_file_stays_open_whether_it_was_a_picture_or_not(tmp_path: Path) -> None:
    paths = noise_files(tmp_path, 40)
    refused = [b"", b"not a picture", encoded("RGB", "PNG", 30, 30)[:400], encoded("RGB", "TIFF", 1, 30)]
    for number, path in enumerate(paths[::2]):
        path.write_bytes(refused[number % len(refused)])
    load_images(paths, 7)
    before = psutil.Process().num_fds()
    _, failures, _ = load_images(paths, 7)
    assert (len(failures), psutil.Process().num_fds()) == (20, before)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
def test_pictures_are_read_in_as_many_threads_as_the_process_may_use_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            threads.append(count)
            super().__init__(count)

    monkeypatch.setattr(decode, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    decode.load_images([tmp_path / "none.png"], 8)
    assert threads == [3]
    assert backend.cores() == 3
