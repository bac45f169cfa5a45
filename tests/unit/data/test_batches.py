"""Views of pictures: what augmented training shows in one pass."""

import numpy as np
import pytest

from convspec.data import batches
from convspec.data.batches import Batches, View, identity, rescale
from convspec.data.datasets import Dataset
from convspec.ladder.rungs import CHAPTER_AUGMENTATION


@pytest.fixture
def pictures(few_shapes: Dataset) -> Batches:
    return Batches(few_shapes.train.images, few_shapes.train.labels, 8, rescale)


def test_a_view_shows_each_picture_as_training_sees_it_in_that_pass(pictures: Batches) -> None:
    count = len(pictures.labels)
    numbered = Batches(pictures.inputs, np.arange(count), count, rescale)
    shown_batches = batches.stream(numbered, 5, CHAPTER_AUGMENTATION)
    for number in range(3):
        inputs, order = next(shown_batches)
        view = View(numbered, CHAPTER_AUGMENTATION, 5, number)
        shown, labels = view[0]
        np.testing.assert_array_equal(shown[order], inputs)
        np.testing.assert_array_equal(labels, np.arange(count))


def test_the_batches_of_a_view_are_its_pictures_in_order(pictures: Batches) -> None:
    view = View(pictures, CHAPTER_AUGMENTATION, 0, 0)
    count = len(pictures.labels)
    whole = View(Batches(pictures.inputs, pictures.labels, count, rescale), CHAPTER_AUGMENTATION, 0, 0)
    np.testing.assert_array_equal(np.concatenate([view[batch][0] for batch in range(len(view))]), whole[0][0])
    np.testing.assert_array_equal(np.concatenate([view[batch][1] for batch in range(len(view))]), pictures.labels)


def test_views_are_shown_in_turn_one_a_pass() -> None:
    views = [Batches(np.full((4, 1), number), np.zeros(4), 4, identity) for number in range(3)]
    shown_batches = batches.stream(views, 0)
    assert [int(next(shown_batches)[0][0, 0]) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
