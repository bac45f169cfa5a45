"""MNIST, Dogs vs. Cats, shapes, any folder of classes: find, verify, split."""

import hashlib
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from convspec import BadInput, MissingData, shapes
from convspec.images import load_images
from convspec.storage import DAMAGED

NAMES = ("shapes", "mnist", "dogs_vs_cats")
PARTS = ("train", "validation", "test")
SPLIT = (0.5, 0.25, 0.25)  # the chapter's 2,000 / 1,000 / 1,000
SHAPES_PER_CLASS = {"train": 300, "validation": 100, "test": 300}
SHAPES_SEED = 5  # chapter 5


@dataclass(frozen=True)
class Split:
    """`images`: uint8 (n, height, width, channels); `labels`: int64 (n,), positions in the dataset's classes;
    `names`: one for each image, the same in every run."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Pictures in three disjoint parts. MNIST has no validation part, as in the chapter."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split
    skipped: tuple[str, ...] = field(default=())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over classes, labels, names and pixels of all parts."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.validation, self.test):
            if split is not None:
                for content in (split.images, split.labels):
                    digest.update(repr((content.shape, content.dtype.str)).encode())
                    digest.update(np.ascontiguousarray(content).tobytes())
                digest.update("\n".join(split.names).encode())
        return digest.hexdigest()


def load(name: str | Path, size: int, root: Path, seed: int = 0, progress: TextIO | None = None) -> Dataset:
    """The dataset of that name, or the folder of classes at that path, with pictures of size x size.

    `root` is the data folder that holds `mnist.npz` and `dogs_vs_cats_small/`.
    `seed` splits a folder that is not split yet. Raises MissingData where files are missing and BadInput
    where a folder does not hold a classification problem.
    """
    if name == "shapes":
        return _shapes(size)
    if name == "mnist":
        return _mnist(root / "mnist.npz", size)
    if name == "dogs_vs_cats":
        folder = root / "dogs_vs_cats_small"
        if not folder.is_dir():
            raise MissingData(
                f"Dogs vs. Cats is not in {str(root)!r}: get train.zip from kaggle.com/c/dogs-vs-cats/data and copy"
                " cats and dogs 0-999, 1000-1499 and 1500-1999 there, to"
                " dogs_vs_cats_small/{train,validation,test}/{cats,dogs} (listing 5.4)"
            )
        return _folder("dogs_vs_cats", folder, size, seed, progress)
    check(name)
    folder = Path(name).expanduser()
    return _folder(folder.resolve().name, folder, size, seed, progress)


def check(name: str | Path) -> None:
    """MissingData, listing what would be right, for what is neither a dataset's name nor a folder."""
    if name not in NAMES and not Path(name).expanduser().is_dir():
        raise MissingData(
            f"no dataset or folder {str(name)!r}: give {', '.join(NAMES)}, or a folder with one subfolder a class"
        )


def _shapes(size: int) -> Dataset:
    def split(part: str) -> Split:
        seed = SHAPES_SEED + PARTS.index(part)
        images, labels = shapes.pictures(shapes.TARGETS, SHAPES_PER_CLASS[part], seed, size)
        return Split(images, labels, tuple(f"{part}/{i:04d}" for i in range(len(labels))))

    return Dataset("shapes", tuple(shapes.TARGETS), split("train"), split("validation"), split("test"))


def _mnist(file: Path, size: int) -> Dataset:
    if not file.is_file():
        raise MissingData(
            f"MNIST is not at {str(file)!r}: get it with"
            f" python -c 'import keras; keras.datasets.mnist.load_data(\"{file}\")'"
        )
    expected = {"x_train": (60000, 28, 28), "y_train": (60000,), "x_test": (10000, 28, 28), "y_test": (10000,)}
    try:
        with np.load(file) as archive:
            arrays = {key: archive[key] for key in expected}
    except DAMAGED as error:
        raise BadInput(
            f"{str(file)!r} is not MNIST as Keras distributes it ({error}); delete it and get it again"
        ) from error
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise BadInput(
                f"{str(file)!r}: {key} has shape {arrays[key].shape}, MNIST has {shape}; delete it and get it again"
            )

    def split(part: str) -> Split:
        digits, labels = arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int64)
        if size != digits.shape[1]:
            digits = np.stack([cv2.resize(digit, (size, size), interpolation=cv2.INTER_NEAREST) for digit in digits])
        return Split(digits[..., None], labels, tuple(f"{part}/{i:05d}" for i in range(len(labels))))

    return Dataset("mnist", tuple("0123456789"), split("train"), None, split("test"))


def _folder(name: str, folder: Path, size: int, seed: int, progress: TextIO | None) -> Dataset:
    """A folder that is split already (train, validation, test, each with one subfolder a class), or one
    subfolder a class, which is then split by SPLIT, stratified, in an order that only the names and the seed fix."""
    present = [part for part in PARTS if (folder / part).is_dir()]
    skipped: list[str] = []
    if not present:
        everything, classes = _classes(folder, size, skipped, progress)
        train, validation, test = _stratified(everything, seed, folder)
        return Dataset(name, classes, train, validation, test, tuple(skipped))
    if missing := [part for part in PARTS if part not in present]:
        raise BadInput(
            f"{str(folder)!r} has {', '.join(present)} but no {', '.join(missing)};"
            " give all three, or one subfolder a class"
        )
    loaded = {part: _classes(folder / part, size, skipped, progress) for part in PARTS}
    classes = loaded["train"][1]
    for part in PARTS[1:]:
        if loaded[part][1] != classes:
            raise BadInput(
                f"{str(folder / part)!r} has the classes {', '.join(loaded[part][1])}; train has {', '.join(classes)}"
            )
    train, validation, test = (loaded[part][0] for part in PARTS)
    return Dataset(name, classes, train, validation, test, tuple(skipped))


def _classes(folder: Path, size: int, skipped: list[str], progress: TextIO | None) -> tuple[Split, tuple[str, ...]]:
    classes = tuple(
        sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    )
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no subfolders"
        raise BadInput(f"{str(folder)!r} has {found}; give at least two subfolders of pictures, one a class")
    files = [
        [
            path
            for path in sorted((folder / label).rglob("*"))
            if path.is_file() and not any(name.startswith(".") for name in path.relative_to(folder).parts)
        ]
        for label in classes
    ]
    paths = [path for group in files for path in group]
    labels = np.repeat(np.arange(len(classes)), [len(group) for group in files])
    images, failures = load_images(paths, size, progress)
    for reason in failures.values():
        warnings.warn(f"skipped: {reason}", stacklevel=2)
        skipped.append(reason)
    good = np.array([position not in failures for position in range(len(paths))], bool)
    for label, count in zip(classes, np.bincount(labels[good], minlength=len(classes)), strict=True):
        if not count:
            raise BadInput(f"the class {label!r} is empty: no readable picture in {str(folder / label)!r}")
    names = tuple(path.relative_to(folder).as_posix() for path, keep in zip(paths, good, strict=True) if keep)
    return Split(images[good], labels[good], names), classes


def _stratified(everything: Split, seed: int, folder: Path) -> list[Split]:
    parts: list[list[int]] = [[], [], []]
    for label in np.unique(everything.labels):
        members = np.flatnonzero(everything.labels == label)
        if len(members) < 4:
            raise BadInput(
                f"{str(folder)!r}: a class needs at least 4 pictures to be split, but that of"
                f" {everything.names[members[0]]!r} has {len(members)}"
            )
        members = members[np.random.RandomState(seed).permutation(len(members))]
        held_out = [int(len(members) * share) for share in SPLIT[1:]]
        validation, test, train = np.split(members, np.cumsum(held_out))
        for part, chosen in zip(parts, (train, validation, test), strict=True):
            part.extend(chosen)
    return [
        Split(everything.images[chosen], everything.labels[chosen], tuple(everything.names[i] for i in chosen))
        for chosen in (np.sort(part) for part in parts)
    ]
