"""Pictures from files as Keras loads them, and batches in which each picture comes once a pass."""

import io
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convspec import BadInput, images
from convspec.augmentation import Augmentation
from convspec.images import Batches, UnreadableImage, load_image, load_images, rescale, stream, unchanged

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


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(mode, "PNG") for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16")]
    + [(mode, "JPEG") for mode in ("RGB", "L", "CMYK")],
)
@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.none() | st.integers(1, 40), seed=st.integers(0, 9))
def test_a_picture_is_bit_for_bit_what_keras_loads(
    file: Path, mode: str, kind: str, height: int, width: int, size: int | None, seed: int
) -> None:
    file.write_bytes(encoded(mode, kind, height, width, seed))
    loaded = load_image(file, size)
    assert (loaded.dtype, loaded.shape) == (np.uint8, (size or height, size or width, 3))
    expected = keras.utils.load_img(file, target_size=size and (size, size))
    np.testing.assert_array_equal(loaded, np.asarray(expected))


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
            keras.utils.load_img(file, target_size=(8, 8))
    else:
        np.testing.assert_array_equal(loaded, np.asarray(keras.utils.load_img(file, target_size=(8, 8))))


def test_a_folder_is_refused_as_a_picture(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=tmp_path.name):
        load_image(tmp_path)


def test_an_unreadable_picture_is_bad_input_and_a_missing_one_is_not(tmp_path: Path) -> None:
    assert issubclass(UnreadableImage, BadInput)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        load_image(tmp_path / "gone.png")


def test_many_pictures_keep_their_order_however_long_each_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_at_first(path: Path, size: int) -> np.ndarray:
        time.sleep(0.05 if path.name == "0.png" else 0)
        return load_image(path, size)

    monkeypatch.setattr(images, "load_image", slow_at_first)
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded("RGB", "PNG", 5, 5, seed=number))
    loaded, failures = load_images(paths[::-1], 7)
    assert not failures
    np.testing.assert_array_equal(loaded, [load_image(path, 7) for path in paths[::-1]])


def test_positions_that_cannot_be_read_are_black_and_reported_in_order_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_at_first(path: Path, size: int) -> np.ndarray:
        time.sleep(0.1 if path.name == "1.png" else 0)
        return load_image(path, size)

    monkeypatch.setattr(images, "load_image", slow_at_first)
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


def test_rescaling_takes_every_byte_to_its_255th_in_float32() -> None:
    every_byte = np.arange(256, dtype=np.uint8)
    for given_as in (every_byte, every_byte.astype(np.float32)):
        rescaled = rescale(given_as)
        assert rescaled.dtype == np.float32
        np.testing.assert_array_equal(rescaled, (np.arange(256) / 255).astype(np.float32), "rounded once")


def numbered(count: int, batch_size: int) -> Batches:
    """Pictures of one colour each, which repeating the border never changes: number and label."""
    numbers = np.arange(count)
    return Batches(np.tile(numbers[:, None, None, None], (1, 4, 4, 3)).astype(np.uint8), numbers, batch_size, unchanged)


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
    return Batches(pictures, np.arange(count), batch_size, unchanged)


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
