"""Datasets: shapes, digits, MNIST, Dogs vs. Cats, or any folder of classes."""

import hashlib
import os
import shlex
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TextIO, get_args

import cv2
import numpy as np
import platformdirs

from convspec import BadInput, MissingData
from convspec.data import decode, folders, shapes
from convspec.data.folders import PARTS, Layout, Reading, cite
from convspec.files import DAMAGED, expand

NAMES = ("shapes", "digits", "mnist", "dogs_vs_cats")
SEED = 5  # chapter 5: draws shapes and splits digits
SHAPES_PER_CLASS = {"train": 450, "validation": 100, "test": 1500}
TRAINING_DIGITS = 900  # of 1,797


@dataclass(frozen=True)
class Split:
    """One part of a dataset."""

    images: np.ndarray  # uint8 (n, height, width, channels)
    labels: np.ndarray  # int64 (n,), positions in the dataset's classes
    names: tuple[str, ...]  # one for each picture, the same in every run

    def __len__(self) -> int:
        return len(self.labels)

    def cut(self, count: int) -> "Split":
        """Return about `count` of the pictures, the first of each class, as many of each."""
        classes = np.unique(self.labels)
        each = -(-count // len(classes))
        chosen = np.sort(np.concatenate([np.flatnonzero(self.labels == label)[:each] for label in classes]))
        return Split(self.images[chosen], self.labels[chosen], tuple(self.names[place] for place in chosen))


@dataclass(frozen=True)
class Dataset:
    """Pictures in three disjoint parts. MNIST has no validation part, as in the chapter, and neither have digits."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split
    skipped: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Split]:
        """The parts that there are, by name."""
        parts = zip(PARTS, (self.train, self.validation, self.test), strict=True)
        return {name: split for name, split in parts if split is not None}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the classes, labels, names and pixels of all parts."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in self.parts.values():
            for content in (split.images, split.labels):
                digest.update(repr((content.shape, content.dtype.str)).encode())
                digest.update(np.ascontiguousarray(content).data)
            digest.update("\n".join(split.names).encode(errors="surrogateescape"))
        return digest.hexdigest()


def data_folder(given: str | Path | None = None) -> Path:
    """Return $CONVSPEC_DATA, else the folder `given`, else the user's cache folder."""
    if name := os.environ.get("CONVSPEC_DATA") or given:
        return expand(name).resolve()
    return platformdirs.user_cache_path("convspec")


def load_dataset(
    path_or_name: str | Path | Reading,
    size: int,
    root: str | Path | None = None,
    seed: int = 0,
    *,
    layout: Layout | None = None,
    interpolation: str = "nearest",
    max_bad_fraction: float = folders.MAX_BAD,
    truncated: decode.Truncated = "skip",
    progress: TextIO | None = None,
) -> Dataset:
    """Load the dataset of that name, or the folder of classes at that path.

    Args:
        path_or_name: One of NAMES, a folder that `folders.read_layout` takes, or what it returned.
        size: Side of the pictures, in pixels.
        root: Data folder that holds `mnist.npz` and `dogs_vs_cats_small/`; None for `data_folder()`.
        seed: Splits a folder that is not split yet.
        layout: Whether a folder's subfolders are classes or parts, where it can be read in two ways.
        interpolation: Resizes a folder's pictures, as `decode.load_image` takes it.
        max_bad_fraction: Share of a folder's files, 0 to 1, that may be no pictures; with 0 the first is an error. They
            are skipped with a warning, and `Dataset.skipped` names each.
        truncated: What becomes of files that end early, as `decode.load_image` takes it; `Dataset.incomplete` names
            those that are read.
        progress: Stream for a progress bar; None for none.

    Raises:
        MissingData: Files are missing.
        BadInput: The folder does not hold a classification problem, too many of its files are no pictures, or another
            argument is none of those above.
    """
    decode.check(size, interpolation, truncated)
    if layout not in (None, *get_args(Layout)):
        raise BadInput(f"layout must be one of {', '.join(get_args(Layout))}, or None, got {layout!r}")
    if not 0 <= max_bad_fraction <= 1:
        raise BadInput(f"max_bad_fraction must be from 0 to 1, got {max_bad_fraction}")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:  # what NumPy takes
        raise BadInput(f"seed must be from 0 to {2**32 - 1}, got {seed}")
    root = data_folder() if root is None else expand(root)
    if path_or_name == "shapes":
        return _shapes(size)
    if path_or_name == "digits":
        return _digits(size)
    if path_or_name == "mnist":
        return _mnist(root / "mnist.npz", size)
    if isinstance(path_or_name, Reading):
        reading = path_or_name
    else:
        reading = folders.read_layout(_find_folder(path_or_name, root), layout)
    name = "dogs_vs_cats" if path_or_name == "dogs_vs_cats" else reading.folder.resolve().name
    if name in NAMES and name != path_or_name:  # whose published figures and baselines are of other pictures
        name = f"{name} folder"
    bad, strict = list(reading.bad), not max_bad_fraction
    if bad and strict:
        raise BadInput(bad[0])
    if reading.missing and not reading.compared:
        reading = folders.compare(reading, progress, truncated)
    pictures, failures, incomplete = decode.load_images(
        reading.paths, size, interpolation, strict=strict, truncated=truncated, progress=progress
    )
    bad += failures.values()
    parts = folders.assign(reading, failures, seed)
    reading.refuse_bad(bad, max_bad_fraction)
    skipped = (*bad, *reading.duplicates)
    if skipped:
        reasons = cite(skipped, "; ", 1)
        warnings.warn(f"skipped {len(skipped)} files in {str(reading.folder)!r}: {reasons}", stacklevel=2)
    _arrange(pictures, np.concatenate(parts))
    pieces = np.split(pictures, np.cumsum([len(chosen) for chosen in parts]))  # views; the last is of what is left out
    train, validation, test = (
        Split(piece, reading.labels[chosen], tuple(reading.names[i] for i in chosen))
        for piece, chosen in zip(pieces, parts, strict=False)
    )
    return Dataset(name, reading.classes, train, validation, test, skipped, tuple(sorted(incomplete.values())))


def _find_folder(path_or_name: str | Path, root: Path) -> Path:
    if path_or_name != "dogs_vs_cats":
        check(path_or_name)
        return expand(path_or_name)
    folder = root / "dogs_vs_cats_small"
    if not folder.is_dir():
        raise MissingData(
            f"Dogs vs. Cats is not in {str(root)!r}: get it with `convspec fetch dogs_vs_cats`, or with train.zip from"
            f" kaggle.com/c/dogs-vs-cats/data and `convspec split train.zip {shlex.quote(str(folder))}` (listing 5.4)"
        )
    return folder


def check(path_or_name: str | Path) -> None:
    """Raise MissingData, which lists what would be right, for neither a dataset's name nor a folder."""
    if path_or_name not in NAMES and not expand(path_or_name).is_dir():
        given = str(path_or_name)
        raise MissingData(
            f"no dataset or folder {given!r}: give {', '.join(NAMES)}, or a folder with one subfolder a class"
        )


@cache  # drawing takes seconds, and a session asks for the same pictures several times
def _shapes(size: int) -> Dataset:
    def split(part: str) -> Split:
        seed = SEED + PARTS.index(part)
        images, labels = shapes.pictures(shapes.TARGETS, SHAPES_PER_CLASS[part], seed, size)
        return Split(images, labels, tuple(f"{part}/{i:04d}" for i in range(len(labels))))

    return Dataset("shapes", tuple(shapes.TARGETS), split("train"), split("validation"), split("test"))


def _digits(size: int) -> Dataset:
    """Return scikit-learn's handwritten digits of 8 x 8 pixels, 0 to 16, enlarged."""
    from sklearn.datasets import load_digits

    source = load_digits()
    # Bilinear in whole numbers, which give the same bytes on any machine.
    images = _resize(np.rint(source.images * (255 / 16)).astype(np.uint8), size, cv2.INTER_LINEAR_EXACT)

    def split(part: str, chosen: np.ndarray) -> Split:
        names = tuple(f"{part}/{index:04d}" for index in chosen)
        return Split(images[chosen], source.target[chosen].astype(np.int64), names)

    order = np.random.RandomState(SEED).permutation(len(images))  # frozen, unlike NumPy's later generators (NEP 19)
    train, test = np.split(order, [TRAINING_DIGITS])
    return Dataset("digits", tuple("0123456789"), split("train", train), None, split("test", test))


def _mnist(file: Path, size: int) -> Dataset:
    if not file.is_file():
        raise MissingData(
            f"MNIST is not at {str(file)!r}: get it with `convspec fetch mnist --data-root"
            f" {shlex.quote(str(file.parent))}`"
        )
    expected = {"x_train": (60000, 28, 28), "y_train": (60000,), "x_test": (10000, 28, 28), "y_test": (10000,)}
    try:
        with file.open("rb") as opened, np.load(opened) as archive:  # np.load leaves a damaged zip open
            arrays = {key: archive[key] for key in expected}
        for key, shape in expected.items():
            if (array := arrays[key]).shape != shape or array.dtype != np.uint8:
                raise ValueError(f"{key} has shape {array.shape} of {array.dtype}, MNIST has {shape} of uint8")
    except DAMAGED as error:
        raise BadInput(
            f"{str(file)!r} is not MNIST as Keras distributes it ({error}); delete it and get it again"
        ) from error

    def split(part: str) -> Split:
        images, labels = _resize(arrays[f"x_{part}"], size, cv2.INTER_NEAREST), arrays[f"y_{part}"].astype(np.int64)
        return Split(images, labels, tuple(f"{part}/{i:05d}" for i in range(len(labels))))

    return Dataset("mnist", tuple("0123456789"), split("train"), None, split("test"))


def _resize(digits: np.ndarray, size: int, interpolation: int) -> np.ndarray:
    """Return digits (n, height, width) as (n, size, size, 1)."""
    if size != digits.shape[1]:
        digits = np.stack([cv2.resize(digit, (size, size), interpolation=interpolation) for digit in digits])
    return digits[..., None]


def _arrange(pictures: np.ndarray, order: np.ndarray) -> None:
    """Move the pictures at the positions in `order` to the front, in place, as they may fill the memory."""
    source = np.concatenate([order, np.setdiff1d(np.arange(len(pictures)), order)])
    for start in range(len(source)):
        if source[start] == start:
            continue
        first, place = pictures[start].copy(), start
        while source[place] != start:
            pictures[place] = pictures[source[place]]
            source[place], place = place, source[place]
        pictures[place] = first
        source[place] = place
