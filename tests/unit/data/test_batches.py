"""Batches in which each picture comes once a pass, in an order and a view that the seed fixes."""

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convspec.data import batches as batches_module
from convspec.data.augmentation import Augmentation
from convspec.data.batches import Batches, View, identity, picture_rng, rescale, stream

Batch = tuple[np.ndarray, np.ndarray]
CHAPTER = Augmentation(40, 0.2, 0.2, 0.2, 0.2, True)  # listing 5.11
sizes = given(count=st.integers(1, 30), batch_size=st.integers(1, 40))
augmented_or_not = pytest.mark.parametrize("augmentation", [None, CHAPTER], ids=["plain", "augmented"])


def numbered(count: int, batch_size: int) -> Batches:
    """Return pictures of one colour each, which repeating the border never changes: number and label."""
    numbers = np.arange(count)
    return Batches(np.tile(numbers[:, None, None, None], (1, 4, 4, 3)).astype(np.uint8), numbers, batch_size, identity)


def noise(count: int, batch_size: int) -> Batches:
    pictures = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return Batches(pictures, np.arange(count), batch_size, identity)


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(islice(batches, count))


def labels_of(batches: list[Batch]) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert labels_of(left) == labels_of(right)
    for (pictures, _), (others, _) in zip(left, right, strict=True):
        np.testing.assert_array_equal(pictures, others)


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


@augmented_or_not
@sizes
def test_a_stream_shows_each_picture_once_a_pass_with_its_own_label(
    augmentation: Augmentation | None, count: int, batch_size: int
) -> None:
    batches = take(stream(numbered(count, batch_size), 3, augmentation, threads=2), -(-3 * count // batch_size))
    for pictures, labels in batches:
        assert (pictures.shape, pictures.dtype) == ((batch_size, 4, 4, 3), np.float32), "always whole"
        assert (labels.shape, labels.dtype) == ((batch_size,), np.int32)
        np.testing.assert_array_equal(pictures, np.broadcast_to(labels[:, None, None, None], pictures.shape))
    order = np.concatenate([labels for _, labels in batches])
    for number in range(3):
        assert sorted(order[number * count : (number + 1) * count]) == list(range(count)), f"pass {number}"


def test_each_pass_has_its_own_order() -> None:
    orders = [tuple(labels) for _, labels in take(stream(numbered(20, 20), seed=0), 5)]
    assert len({*orders, tuple(range(20))}) == 6, "by chance two of 20! orders are never the same"


@augmented_or_not
def test_seeds_differ_and_the_same_seed_streams_the_same_on_any_threads(augmentation: Augmentation | None) -> None:
    first, again, other, five = (
        take(stream(noise(10, 4), seed, augmentation, threads=threads), 12)
        for seed, threads in ((7, 1), (7, 2), (8, 1), (7, 5))
    )
    assert_same(first, again)
    assert_same(first, five)
    assert labels_of(first) != labels_of(other)


@augmented_or_not
@given(start=st.integers(0, 12), count=st.integers(1, 9), batch_size=st.integers(1, 12))
def test_a_stream_that_starts_later_continues_the_same_sequence(
    augmentation: Augmentation | None, start: int, count: int, batch_size: int
) -> None:
    batches = noise(count, batch_size)
    unbroken = take(stream(batches, 5, augmentation), start + 4)
    assert_same(take(stream(batches, 5, augmentation, start), 4), unbroken[start:])


def test_seed_pass_and_position_decide_how_a_picture_is_augmented() -> None:
    batches = noise(6, 6)
    for number, (pictures, labels) in enumerate(take(stream(batches, 7, CHAPTER), 3)):
        views = [CHAPTER(batches.inputs[label], picture_rng(7, number, label)) for label in range(6)]
        np.testing.assert_array_equal(pictures, np.stack(views)[labels])
        np.testing.assert_array_equal(View(batches, CHAPTER, 7, number)[0][0], views)


def test_the_original_pictures_are_never_modified() -> None:
    batches = noise(8, 8)
    before = batches.inputs.copy()
    for pictures, _ in [*take(stream(batches, 0, CHAPTER), 3), *take(stream(batches, 0), 3), batches[0]]:
        pictures[:] = 0  # not even by whoever gets them
    np.testing.assert_array_equal(batches.inputs, before)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_batches_stay_in_order_however_long_each_takes(threads: int) -> None:
    batches = numbered(12, 2)
    expected = labels_of(take(stream(batches, 0, threads=1), 12))
    later = threading.Event()

    def slow_at_first(pictures: np.ndarray) -> np.ndarray:
        if pictures[0, 0, 0, 0] == expected[0][0]:
            later.wait(1)  # in vain where there is but one thread
        else:
            later.set()
        return pictures

    batches.prepare = slow_at_first
    assert labels_of(take(stream(batches, 0, threads=threads), 12)) == expected


def test_no_more_batches_are_made_ahead_than_there_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    class AtOnce(ThreadPoolExecutor):
        def submit(self, *call: Any) -> Future:  # type: ignore[override]
            future = super().submit(*call)
            future.result()
            return future

    monkeypatch.setattr(batches_module, "ThreadPoolExecutor", AtOnce)
    made = []
    batches = numbered(60, 1)
    batches.prepare = lambda pictures: made.append(1) or pictures  # type: ignore[func-returns-value]
    shown = stream(batches, 0, threads=2)
    for taken_so_far in range(1, 4):
        next(shown)
        assert len(made) == taken_so_far + 2, "each takes the memory of a batch"


def fail_at_seven(pictures: np.ndarray) -> np.ndarray:
    if (pictures == 7).any():
        raise ZeroDivisionError("seven")
    return pictures


def test_what_goes_wrong_in_preparing_a_batch_reaches_whoever_takes_it() -> None:
    batches = numbered(10, 1)
    order = labels_of(take(stream(batches, 0), 10))
    batches.prepare = fail_at_seven
    shown, before = stream(batches, 0, threads=2), order.index([7])
    assert labels_of(take(shown, before)) == order[:before]
    with pytest.raises(ZeroDivisionError, match="seven"):
        next(shown)


@pytest.mark.parametrize("how", ["closed", "deleted", "failed"])
def test_a_stream_that_is_abandoned_leaves_no_thread_running(how: str) -> None:
    before = set(threading.enumerate())
    batches = numbered(10, 1)
    if how == "failed":
        batches.prepare = fail_at_seven
    abandoned = stream(batches, 0, threads=3)
    next(abandoned)
    started = set(threading.enumerate()) - before
    assert started, "there must be threads to end"
    if how == "closed":
        abandoned.close()
    elif how == "deleted":
        del abandoned
        gc.collect()
    else:
        with pytest.raises(ZeroDivisionError):
            take(abandoned, 20)
    for thread in started:
        thread.join(5)
    assert not any(thread.is_alive() for thread in started)


def test_the_batches_of_a_view_are_its_pictures_in_order() -> None:
    view, whole = (View(noise(20, batch_size), CHAPTER, 0, 0) for batch_size in (8, 20))
    shown, labels = (np.concatenate(part) for part in zip(*(view[batch] for batch in range(len(view))), strict=True))
    np.testing.assert_array_equal(shown, whole[0][0])
    np.testing.assert_array_equal(labels, np.arange(20))


def test_views_are_shown_in_turn_one_a_pass() -> None:
    views = [Batches(np.full((4, 1), number), np.zeros(4), 4, identity) for number in range(3)]
    shown_batches = stream(views, 0)
    assert [int(next(shown_batches)[0][0, 0]) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
