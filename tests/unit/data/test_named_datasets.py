"""MNIST, digits and shapes, which are loaded by their names; and what is said where one is missing or damaged."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from convspec import BadInput, MissingData
from convspec.data import datasets, load_dataset
from convspec.data.folders import PARTS

# MNIST


def test_mnist_is_the_published_one_in_its_canonical_order(data_folder: Path) -> None:
    mnist = load_dataset("mnist", 28, data_folder)
    assert (mnist.train.images.shape, mnist.test.images.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert mnist.train.images.dtype == mnist.test.images.dtype == np.uint8
    assert mnist.validation is None
    assert mnist.classes == tuple("0123456789")
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert mnist.train.images.mean() == pytest.approx(33.3184, abs=5e-5)
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.train.labels).tolist() == published
    assert len({*mnist.train.names, *mnist.test.names}) == 70_000


def save_mnist(folder: Path, **changes: np.ndarray | None) -> bytes:
    arrays = {
        "x_train": np.zeros((6, 28, 28), np.uint8), "y_train": np.zeros(6, np.uint8),
        "x_test": np.zeros((2, 28, 28), np.uint8), "y_test": np.zeros(2, np.uint8),
    } | changes  # fmt: skip
    np.savez(folder / "mnist.npz", **{key: array for key, array in arrays.items() if array is not None})  # type: ignore[arg-type]
    return (folder / "mnist.npz").read_bytes()


def test_mnist_of_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    shapes = "(x_train has shape (6, 28, 28) of uint8, MNIST has (60000, 28, 28) of uint8)"
    assert shapes in refused_mnist(tmp_path, save_mnist(tmp_path))


def refused_mnist(folder: Path, content: bytes | bytearray) -> str:
    (folder / "mnist.npz").write_bytes(content)
    with pytest.raises(BadInput) as refused:
        load_dataset("mnist", 28, folder)
    message = str(refused.value)
    assert "mnist.npz' is not MNIST as Keras distributes it (" in message
    assert message.endswith("; delete it and get it again")
    assert "\n" not in message
    return message


def test_a_damaged_file_in_mnists_place_is_refused(tmp_path: Path) -> None:
    whole = save_mnist(tmp_path)
    for where in range(0, len(whole), len(whole) // 20):
        refused_mnist(tmp_path, whole[:where])
    for where in (len(whole) // 10, len(whole) // 2):
        refused_mnist(tmp_path, whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
    method = whole.index(b"PK\x01\x02") + 10  # of compression, in the first directory entry
    refused_mnist(tmp_path, whole[:method] + b"\x63" + whole[method + 1 :])
    np.save(tmp_path / "one.npy", np.zeros(3))
    for other in ((tmp_path / "one.npy").read_bytes(), b"", b"<html>404 Not Found</html>"):
        refused_mnist(tmp_path, other)
    assert "y_test" in refused_mnist(tmp_path, save_mnist(tmp_path, y_test=None))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", r"^MNIST is not at '{}/mnist\.npz': get it with `convspec fetch mnist"),
        ("dogs_vs_cats", r"^Dogs vs\. Cats is not in '{}': get it with `convspec fetch dogs_vs_cats`.*kaggle.*"
         r" split train\.zip {}/dogs_vs_cats_small` \(listing 5\.4\)$"),
        ("cifar10", "^no dataset or folder 'cifar10': give shapes, digits, mnist, dogs_vs_cats, or a folder"),
        ("MNIST", "^no dataset or folder 'MNIST': give shapes, digits, mnist, dogs_vs_cats, or a folder"),
    ],
)  # fmt: skip
def test_missing_data_says_where_it_was_looked_for_and_how_to_get_it(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=message.replace("{}", re.escape(str(tmp_path)))):
        load_dataset(name, 28, tmp_path)


# Shapes and digits


def test_the_parts_of_shapes_are_balanced_and_share_no_picture() -> None:
    dataset = load_dataset("shapes", 16, Path("nowhere"))
    assert dataset.classes == ("fish", "key")
    parts, per_class = dataset.parts.values(), [datasets.SHAPES_PER_CLASS[part] for part in PARTS]
    assert [np.bincount(split.labels).tolist() for split in parts] == [[count, count] for count in per_class]
    pictures = {image.tobytes() for split in parts for image in split.images}
    names = {name for split in parts for name in split.names}
    assert len(pictures) == len(names) == 2 * sum(per_class), "no picture may come twice"


def test_digits_are_1797_real_ones_enlarged_and_split_without_validation() -> None:
    dataset = load_dataset("digits", 28, Path("nowhere"))
    source, train, test = load_digits(), dataset.train, dataset.test
    assert (len(train), dataset.validation, len(test)) == (900, None, 897)
    indices = [int(name.partition("/")[2]) for name in train.names + test.names]
    assert sorted(indices) == list(range(1797)), "each digit is in one part, under its number in scikit-learn"
    assert np.concatenate([train.labels, test.labels]).tolist() == source.target[indices].tolist()
    images = np.concatenate([train.images, test.images])
    assert (images.shape, images.dtype, images.min(), images.max()) == ((1797, 28, 28, 1), np.uint8, 0, 255)
    # Bilinear: each pixel is a mix of the source's pixels that are less than one from where it lies among them.
    places = np.clip((np.arange(28) + 0.5) * 8 / 28 - 0.5, 0, 7)
    shares = np.maximum(1 - abs(places[:, None] - np.arange(8)), 0)
    expected = shares @ (source.images[indices] * 255 / 16) @ shares.T
    np.testing.assert_allclose(images[..., 0], expected, atol=1.5)  # rounded twice or more
