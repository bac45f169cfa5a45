"""Pictures from files as Keras loads them, and batches in which each picture comes once a pass."""

import errno
import gc
import io
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convspec import BadInput
from convspec.data import decode
from convspec.data.augmentation import Augmentation
from convspec.data.batches import Batches, identity, picture_rng, rescale, stream
from convspec.data.decode import UnreadableImage, load_image, load_images

Batch = tuple[np.ndarray, np.ndarray]
CHAPTER = Augmentation(40, 0.2, 0.2, 0.2, 0.2, True)  # listing 5.11


def encoded(mode: str, kind: str, height: int, width: int, seed: int = 0) -> bytes:
    """A picture of coloured noise as a file's bytes."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(noise)
    (picture if mode in ("I;16", "RGBA") else picture.convert("RGB").convert(mode)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to be overwritten."""
    return tmp_path_factory.mktemp("pictures") / "picture"


KERAS_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")


def from_keras(file: Path, size: int | None = None, interpolation: str = "nearest") -> np.ndarray:
    return np.asarray(keras.utils.load_img(file, target_size=size and (size, size), interpolation=interpolation))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(mode, "PNG") for mode in ("RGB", "L", "P", "1")]
    + [(mode, "JPEG") for mode in ("RGB", "L", "CMYK")]
    + [("RGB", "BMP"), ("P", "GIF"), ("RGB", "WEBP"), ("RGB", "TIFF"), ("RGB", "PPM")],
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


def test_unless_another_is_asked_for_the_interpolation_is_keras_own_default(file: Path) -> None:
    file.write_bytes(encoded("RGB", "PNG", 30, 20))
    np.testing.assert_array_equal(load_image(file, 9), np.asarray(keras.utils.load_img(file, target_size=(9, 9))))


def test_an_unknown_interpolation_is_refused_with_the_list(file: Path) -> None:
    file.write_bytes(encoded("RGB", "PNG", 5, 5))
    listed = "nearest, bilinear, bicubic, hamming, box, lanczos, area"
    with pytest.raises(BadInput, match=f"^interpolation must be one of {listed}, got 'cubic'$"):
        load_image(file, 4, "cubic")


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
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(file, kind, exif=exif)
    np.testing.assert_array_equal(load_image(file), AS_SEEN[orientation](upright))


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "colour"])
def test_a_transparent_picture_lies_on_white(file: Path, mode: str) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(encoded("RGBA", "PNG", 12, 15))))
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
        channels = np.dstack([rgb[..., : len(mode) - 1], pixels[..., 3]])
        Image.fromarray(channels).save(file, "PNG")
        expected = over_white(rgb, pixels[..., 3])
    assert len(np.unique(expected)) > 50, "the test must have something to see"
    np.testing.assert_allclose(load_image(file), expected, atol=1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_an_opaque_picture_with_an_alpha_channel_is_what_keras_loads(file: Path, kind: str) -> None:
    pixels = np.array(Image.open(io.BytesIO(encoded("RGBA", "PNG", 12, 15))))
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(file, kind)
    np.testing.assert_array_equal(load_image(file, 9, "bilinear"), from_keras(file, 9, "bilinear"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_16_bits_of_grey_are_scaled_to_8(file: Path, kind: str) -> None:
    grey = np.random.default_rng(0).integers(0, 2**16, (9, 7), dtype=np.uint16)
    grey[0, :2] = 0, 2**16 - 1
    if kind == "PGM":
        file.write_bytes(b"P5 7 9 65535\n" + grey.astype(">u2").tobytes())
    else:
        Image.fromarray(grey).save(file, kind)
    np.testing.assert_array_equal(load_image(file), np.repeat(grey[..., None] // 257, 3, axis=2))


ENDINGS = {"BMP": "bmp", "GIF": "gif", "JPEG": "jpg", "PNG": "png", "PPM": "ppm", "TIFF": "tif", "WEBP": "webp"}


@pytest.mark.parametrize("kind", ENDINGS)
def test_the_bytes_of_a_file_decide_what_it_is_and_not_its_ending(tmp_path: Path, kind: str) -> None:
    content = encoded("RGB", kind, 8, 9)
    for ending in [*ENDINGS.values(), "txt", "pdf"]:
        (file := tmp_path / f"picture.{ending}").write_bytes(content)
        expected = np.asarray(keras.utils.load_img(io.BytesIO(content)))
        np.testing.assert_array_equal(load_image(file), expected, f"{kind} named .{ending}")


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


def jpeg_of_waves(file: Path, side: int) -> np.ndarray:
    y, x, channel = np.ogrid[:side, :side, :3]
    waves = np.sin(x / 9 + channel) + np.cos(y / 7 - channel) + np.sin((x + 2 * y) / 31)
    grain = np.random.default_rng(0).normal(0, 8, waves.shape)
    Image.fromarray((127 + 40 * waves + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return from_keras(file)


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_by_area_a_jpeg_is_nearly_the_mean_of_all_its_pixels(file: Path, factor: int) -> None:
    blocks = jpeg_of_waves(file, 24 * factor).reshape(24, factor, 24, factor, 3)
    off = np.abs(load_image(file, 24, "area") - blocks.mean((1, 3)))
    assert off.mean() < 1, "of 255, on average"
    assert off.max() < 5, "of 255, at worst"


@pytest.mark.parametrize("factor", [3, 5, 6, 7, 11])
def test_by_area_a_jpeg_is_nearer_to_the_mean_of_its_pixels_than_by_nearest(file: Path, factor: int) -> None:
    """The decoder may leave as little as three pixels for four, for speed; on photographs half of nearest's error."""
    blocks = jpeg_of_waves(file, 24 * factor).reshape(24, factor, 24, factor, 3)
    area, nearest = (np.abs(load_image(file, 24, way) - blocks.mean((1, 3))).mean() for way in ("area", "nearest"))
    assert area < 0.8 * nearest, f"of 255, on average: area {area:.2f}, nearest {nearest:.2f}"


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
def test_by_area_a_jpeg_that_is_cut_off_is_refused(file: Path, kept: float) -> None:
    jpeg_of_waves(file, 96)
    os.truncate(file, int(file.stat().st_size * kept))
    with pytest.raises(UnreadableImage, match="truncated"):
        load_image(file, 24, "area")


@pytest.mark.parametrize("orientation", AS_SEEN)
def test_by_area_a_jpeg_that_its_exif_data_turn_is_turned(file: Path, orientation: int) -> None:
    pixels = jpeg_of_waves(file, 96)
    upright = load_image(file, 24, "area")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "JPEG", quality=100, exif=exif)
    np.testing.assert_allclose(load_image(file, 24, "area"), AS_SEEN[orientation](upright), atol=4)


# What is no picture


@pytest.mark.parametrize(
    "content",
    [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", encoded("RGB", "JPEG", 9, 9)[:50]],
    ids=["empty", "text", "signature", "header"],
)
def test_a_file_that_is_no_picture_is_refused_in_one_line_that_names_it(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UnreadableImage) as refused:
        load_image(file, 8)
    assert str(refused.value).startswith(f"{str(file)!r} is not a readable picture: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@given(kept=st.floats(0, 0.95))
def test_a_picture_cut_off_anywhere_is_refused(file: Path, kind: str, kept: float) -> None:
    whole = encoded("RGB", kind, 30, 30)  # the last twentieth has at least the final marker and some pixels
    file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UnreadableImage, match=file.name):
        load_image(file, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_changed_byte_either_leaves_what_keras_loads_too_or_is_refused(
    file: Path, kind: str, where: float, value: int
) -> None:
    content = bytearray(encoded("RGB", kind, 30, 30))
    content[int(len(content) * where)] = value
    file.write_bytes(content)
    try:
        loaded = load_image(file, 8)
    except UnreadableImage:
        with pytest.raises((OSError, SyntaxError, ValueError)):
            from_keras(file, 8)
    else:
        np.testing.assert_array_equal(loaded, from_keras(file, 8))


def test_a_folder_is_refused_as_a_picture(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=tmp_path.name):
        load_image(tmp_path)


def test_an_unreadable_picture_is_bad_input_and_a_missing_one_is_not(tmp_path: Path) -> None:
    assert issubclass(UnreadableImage, BadInput)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        load_image(tmp_path / "gone.png")


# Many files


def test_many_pictures_keep_their_order_however_long_each_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_at_first(path: Path, size: int, interpolation: str) -> np.ndarray:
        time.sleep(0.05 if path.name == "0.png" else 0)
        return load_image(path, size, interpolation)

    monkeypatch.setattr(decode, "load_image", slow_at_first)
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded("RGB", "PNG", 5, 5, seed=number))
    loaded, failures = load_images(paths[::-1], 7)
    assert not failures
    np.testing.assert_array_equal(loaded, [load_image(path, 7) for path in paths[::-1]])


def test_positions_that_cannot_be_read_are_black_and_reported_in_order_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_at_first(path: Path, size: int, interpolation: str) -> np.ndarray:
        time.sleep(0.1 if path.name == "1.png" else 0)
        return load_image(path, size, interpolation)

    monkeypatch.setattr(decode, "load_image", slow_at_first)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(b"" if number in (1, 4) else encoded("RGB", "PNG", 5, 5))
    loaded, failures = load_images(paths, 7)
    assert list(failures) == [1, 4], "the order of the positions, not that in which threads came to them"
    assert all(f"{position}.png" in reason for position, reason in failures.items())
    assert [bool(picture.any()) for picture in loaded] == [True, False, True, True, False, True]


def test_no_pictures_are_an_empty_array() -> None:
    loaded, failures = load_images([], 7)
    assert (loaded.shape, failures) == ((0, 7, 7, 3), {})


def noise_files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded("RGB", "PNG", 5, 5, seed=number))
    return paths


def test_many_files_are_resized_as_each_is(tmp_path: Path) -> None:
    paths = noise_files(tmp_path, 3)
    loaded, _ = load_images(paths, 3, "lanczos")
    np.testing.assert_array_equal(loaded, [from_keras(path, 3, "lanczos") for path in paths])


def test_a_strict_load_fails_at_the_first_file_that_is_no_picture_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_at_first(path: Path, size: int, interpolation: str) -> np.ndarray:
        if path.name == "001.png":
            last.wait(5)  # in vain where there is but one thread
        elif path.name == "005.png":
            last.set()
        return load_image(path, size, interpolation)

    last = threading.Event()
    monkeypatch.setattr(decode, "load_image", slow_at_first)
    paths = noise_files(tmp_path, 6)
    for path in (paths[1], paths[2], paths[4]):
        path.write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"^'[^']*001\.png' is not a readable picture"):
        load_images(paths, 7, strict=True)


def test_a_strict_load_of_good_pictures_is_like_any_other(tmp_path: Path) -> None:
    paths = noise_files(tmp_path, 5)
    strict, failures = load_images(paths, 7, strict=True)
    assert not failures
    np.testing.assert_array_equal(strict, load_images(paths, 7)[0])


def test_a_strict_load_does_not_read_on_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path, size: int, interpolation: str) -> np.ndarray:
        read.append(path)
        time.sleep(0.001)
        return load_image(path, size, interpolation)

    monkeypatch.setattr(decode, "load_image", counted)
    with pytest.raises(UnreadableImage, match=r"gone\.png"):
        load_images([tmp_path / "gone.png"] * 1000, 7, strict=True)
    assert len(read) < 256


def test_a_file_that_goes_between_listing_and_reading_is_a_failure_with_its_name(tmp_path: Path) -> None:
    paths = noise_files(tmp_path, 3)
    paths[1].unlink()
    loaded, failures = load_images(paths, 7)
    assert failures == {1: f"{str(paths[1])!r} is gone since the folder was listed"}
    assert [bool(picture.any()) for picture in loaded] == [True, False, True]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that holds all temporary files."""
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_pictures_above_the_budget_are_the_same_but_in_a_file(tmp_path: Path, room: Path) -> None:
    paths = noise_files(tmp_path, 6)
    paths[2].write_bytes(b"")
    (within, failures), (above, same) = (load_images(paths, 7, budget=6 * 7 * 7 * 3 - over) for over in (0, 1))
    assert (type(within), type(above)) == (np.ndarray, np.memmap)
    assert (above.dtype, failures) == (within.dtype, same)
    np.testing.assert_array_equal(above, within)


def test_the_file_of_pictures_above_the_budget_is_gone_from_the_folder_already(tmp_path: Path, room: Path) -> None:
    above, _ = load_images(noise_files(tmp_path, 6), 7, budget=0)
    assert isinstance(above, np.memmap)
    assert list(room.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="where room cannot be asked for, a full disk is a crash")
def test_a_full_disk_is_one_error_that_says_how_much_room_is_needed_and_names_tmpdir(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        OSError, match=r"0\.1 GiB of decoded pictures in '.*temporary' \(No space .*set TMPDIR"
    ) as failed:
        load_images(noise_files(tmp_path, 10), 2000, budget=0)
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
    _, failures = load_images(paths, 7)
    after = psutil.Process().num_fds()
    assert len(failures) == 20
    assert after == before


# Batches


def test_rescaling_takes_every_byte_to_its_255th_in_float32() -> None:
    every_byte = np.arange(256, dtype=np.uint8)
    for given_as in (every_byte, every_byte.astype(np.float32)):
        rescaled = rescale(given_as)
        assert rescaled.dtype == np.float32
        np.testing.assert_array_equal(rescaled, (np.arange(256) / 255).astype(np.float32), "rounded once")


def numbered(count: int, batch_size: int) -> Batches:
    """Pictures of one colour each, which repeating the border never changes: number and label."""
    numbers = np.arange(count)
    return Batches(np.tile(numbers[:, None, None, None], (1, 4, 4, 3)).astype(np.uint8), numbers, batch_size, identity)


def taken(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(islice(batches, count))


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for number, pairs in enumerate(zip(left, right, strict=True)):
        for part, (one, other) in zip(("pictures", "labels"), zip(*pairs, strict=True), strict=True):
            np.testing.assert_array_equal(one, other, f"{part} of batch {number}")


sizes = given(count=st.integers(1, 30), batch_size=st.integers(1, 40))


@sizes
def test_batches_for_evaluation_hold_all_inputs_once_in_order(count: int, batch_size: int) -> None:
    batches = numbered(count, batch_size)
    parts = [batches[number] for number in range(len(batches))]
    assert all(len(labels) == batch_size for _, labels in parts[:-1])
    assert 1 <= len(parts[-1][1]) <= batch_size, "the last may be partial, never empty"
    np.testing.assert_array_equal(np.concatenate([pictures for pictures, _ in parts]), batches.inputs)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), batches.labels)


def test_batches_are_prepared_as_float32() -> None:
    batches = numbered(5, 5)
    batches.prepare = rescale
    for pictures, labels in (batches[0], next(stream(batches, 0))):
        assert pictures.dtype == np.float32
        np.testing.assert_array_equal(pictures[:, 0, 0, 0], rescale(labels.astype(np.float32)))


def test_a_model_sees_all_inputs_once_when_it_predicts() -> None:
    batches = numbered(7, 3)
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.GlobalMaxPooling2D()])
    np.testing.assert_array_equal(model.predict(batches, verbose=0)[:, 0], np.arange(7))


@sizes
def test_each_pass_of_a_stream_shows_each_picture_exactly_once(count: int, batch_size: int) -> None:
    batches = taken(stream(numbered(count, batch_size), seed=3), -(-3 * count // batch_size))
    assert all(len(labels) == batch_size for _, labels in batches), "training batches are always whole"
    order = np.concatenate([labels for _, labels in batches])
    for number in range(3):
        shown = sorted(order[number * count : (number + 1) * count])
        assert shown == list(range(count)), f"pass {number}"


def test_each_pass_has_its_own_order() -> None:
    orders = [tuple(labels) for _, labels in taken(stream(numbered(20, 20), seed=0), 5)]
    assert len({*orders, tuple(range(20))}) == 6, "by chance two of 20! orders are never the same"


@pytest.mark.parametrize("augmentation", [None, CHAPTER])
@sizes
def test_each_picture_comes_with_its_own_label(augmentation: Augmentation | None, count: int, batch_size: int) -> None:
    for pictures, labels in taken(stream(numbered(count, batch_size), 1, augmentation), 3):
        np.testing.assert_array_equal(pictures, np.broadcast_to(labels[:, None, None, None], pictures.shape))


def noise(count: int, batch_size: int) -> Batches:
    pictures = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return Batches(pictures, np.arange(count), batch_size, identity)


@pytest.mark.parametrize("augmentation", [None, CHAPTER])
def test_the_same_seed_streams_the_same_batches_and_another_seed_others(augmentation: Augmentation | None) -> None:
    first, again, other = (taken(stream(noise(10, 4), seed, augmentation), 6) for seed in (7, 7, 8))
    assert_same(first, again)
    assert [labels.tolist() for _, labels in first] != [labels.tolist() for _, labels in other]


@pytest.mark.parametrize("augmentation", [None, CHAPTER])
@given(start=st.integers(0, 12), count=st.integers(1, 9), batch_size=st.integers(1, 12))
def test_a_stream_that_starts_later_continues_the_very_same_sequence(
    augmentation: Augmentation | None, start: int, count: int, batch_size: int
) -> None:
    batches = noise(count, batch_size)
    unbroken = taken(stream(batches, 5, augmentation), start + 4)
    assert_same(taken(stream(batches, 5, augmentation, start), 4), unbroken[start:])


def test_a_network_never_sees_the_same_augmented_view_twice() -> None:
    views = [picture.tobytes() for pictures, _ in taken(stream(noise(8, 8), 0, CHAPTER), 12) for picture in pictures]
    assert len(set(views)) == 12 * 8, "section 5.2.5: 'your model will never see the exact same picture twice'"


def test_each_picture_of_a_batch_has_a_transform_of_its_own() -> None:
    batches = noise(8, 8)
    batches.inputs[:] = batches.inputs[0]
    pictures, _ = next(stream(batches, 0, CHAPTER))
    assert len({picture.tobytes() for picture in pictures}) == 8


def test_batches_for_evaluation_show_each_picture_as_it_is() -> None:
    batches = noise(8, 5)
    for number in range(2):
        np.testing.assert_array_equal(
            batches[number][0], batches.inputs[5 * number :][:5], "validation is never augmented"
        )


def test_without_augmentation_pictures_are_untouched() -> None:
    batches = noise(8, 5)
    for pictures, labels in taken(stream(batches, 0), 5):
        np.testing.assert_array_equal(pictures, batches.inputs[labels])


def test_the_original_pictures_are_never_modified() -> None:
    batches = noise(8, 8)
    before = batches.inputs.copy()
    for pictures, _ in [*taken(stream(batches, 0, CHAPTER), 3), *taken(stream(batches, 0), 3), batches[0]]:
        pictures[:] = 0  # not even by whoever gets them
    np.testing.assert_array_equal(batches.inputs, before)


@pytest.mark.parametrize("augmentation", [None, CHAPTER])
def test_any_number_of_threads_streams_the_same_batches(augmentation: Augmentation | None) -> None:
    one, two, five = (taken(stream(noise(10, 4), 7, augmentation, threads=threads), 12) for threads in (1, 2, 5))
    assert_same(one, two)
    assert_same(one, five)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_batches_stay_in_order_however_long_each_takes(threads: int) -> None:
    batches = numbered(12, 2)
    expected = [labels.tolist() for _, labels in taken(stream(batches, 0, threads=1), 12)]

    def slow_at_times(pictures: np.ndarray) -> np.ndarray:
        time.sleep(0.02 * (pictures[0, 0, 0, 0] % 3 == 0))
        return pictures

    batches.prepare = slow_at_times
    assert [labels.tolist() for _, labels in taken(stream(batches, 0, threads=threads), 12)] == expected


@sizes
def test_training_batches_are_float32_pictures_and_one_label_each(count: int, batch_size: int) -> None:
    for pictures, labels in taken(stream(numbered(count, batch_size), 0, CHAPTER, threads=2), 2):
        assert (pictures.shape, pictures.dtype) == ((batch_size, 4, 4, 3), np.float32)
        assert (labels.shape, labels.dtype) == ((batch_size,), np.int64)


def fail_at_seven(pictures: np.ndarray) -> np.ndarray:
    if (pictures == 7).any():
        raise ZeroDivisionError("seven")
    return pictures


def test_what_goes_wrong_in_preparing_a_batch_reaches_whoever_takes_it() -> None:
    batches = numbered(10, 1)
    order = [labels.tolist() for _, labels in taken(stream(batches, 0), 10)]
    batches.prepare = fail_at_seven
    outcome: list[object] = []

    def consume() -> None:
        try:
            for _, labels in stream(batches, 0, threads=2):
                outcome.append(labels.tolist())
        except ZeroDivisionError as error:
            outcome.append(str(error))

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    consumer.join(10)
    assert not consumer.is_alive(), "it must not hang"
    assert outcome == [*order[: order.index([7])], "seven"], "after the batches before it"


def left_running(before: set[threading.Thread]) -> set[threading.Thread]:
    """The threads that are still there after a second, at most."""
    until = time.monotonic() + 1
    while (left := set(threading.enumerate()) - before) and time.monotonic() < until:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("how", ["closed", "deleted", "failed"])
def test_a_stream_that_is_abandoned_leaves_no_thread_running(how: str) -> None:
    before = set(threading.enumerate())
    batches = numbered(10, 1)
    if how == "failed":
        batches.prepare = fail_at_seven
    abandoned = stream(batches, 0, threads=3)
    next(abandoned)
    assert len(set(threading.enumerate()) - before) > 0, "there must be threads to end"
    if how == "closed":
        abandoned.close()  # type: ignore[attr-defined]
    elif how == "deleted":
        del abandoned
        gc.collect()
    else:
        with pytest.raises(ZeroDivisionError):
            taken(abandoned, 20)
    assert left_running(before) == set()


def test_a_picture_is_augmented_by_the_generator_of_its_seed_pass_and_position() -> None:
    batches = noise(6, 6)
    for number, (pictures, labels) in enumerate(taken(stream(batches, 7, CHAPTER), 3)):
        for picture, label in zip(pictures, labels, strict=True):
            view = CHAPTER(batches.inputs[label], picture_rng(7, number, label))
            np.testing.assert_array_equal(picture, view, f"picture {label} in pass {number}")
