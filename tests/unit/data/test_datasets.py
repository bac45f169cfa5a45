"""Folders of pictures loaded, verified and split; and one clear line for whatever cannot be a dataset."""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convspec.data
from convspec import BadInput, MissingData
from convspec.data import load_dataset, load_image
from convspec.data.datasets import NAMES, Dataset, Split
from convspec.data.folders import PARTS

pytestmark = pytest.mark.filterwarnings("ignore:skipped")


def parts(dataset: Dataset) -> tuple[Split, Split, Split]:
    assert dataset.validation is not None
    return dataset.train, dataset.validation, dataset.test


def fill(folder: Path, **classes: int) -> Path:
    """Write so many small pictures a class, no two of them alike anywhere in `folder`."""
    for first, (label, count) in enumerate(classes.items()):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noise = np.random.default_rng([len(folder.name), first, number]).integers(0, 256, (4, 5, 3), np.uint8)
            Image.fromarray(noise).save(folder / label / f"{number:02d}.png")
    return folder


def fill_parts(folder: Path, **classes: int) -> Path:
    for part in PARTS:
        fill(folder / part, **classes)
    return folder


def spoil(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} is not a picture")


def contents(split: Split) -> dict[str, tuple[bytes, int]]:
    return {
        name: (image.tobytes(), int(label))
        for name, image, label in zip(split.names, split.images, split.labels, strict=True)
    }


def names_of(dataset: Dataset) -> list[str]:
    return [name for split in parts(dataset) for name in split.names]


# The way in


def test_text_and_paths_are_taken_alike_and_the_data_folder_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_parts(tmp_path / "dogs_vs_cats_small", cats=2, dogs=1)
    monkeypatch.setenv("CONVSPEC_DATA", str(tmp_path))
    dataset = load_dataset("dogs_vs_cats", 6)
    assert load_dataset("dogs_vs_cats", 6, str(tmp_path)).fingerprint == dataset.fingerprint
    assert (dataset.name, [len(split) for split in parts(dataset)]) == ("dogs_vs_cats", [3, 3, 3])
    folder = tmp_path / "dogs_vs_cats_small"
    assert load_dataset(folder, 6).fingerprint == load_dataset(str(folder), 6).fingerprint == dataset.fingerprint
    picture = folder / "test" / "cats" / "00.png"
    np.testing.assert_array_equal(load_image(picture), load_image(str(picture)))
    with pytest.raises(AttributeError, match="no attribute 'load_pictures'"):
        convspec.data.load_pictures  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_called_as_one_of_convspecs_datasets_is_named_apart(name: str, tmp_path: Path) -> None:
    """Published figures and committed baselines are of other pictures."""
    assert load_dataset(fill(tmp_path / name, cats=4, dogs=4), 6).name == f"{name} folder"


# Any folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "pets", cats=8, dogs=12, newts=4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layout": "flat"}, "layout must be one of classes, parts, or None, got 'flat'"),
        ({"max_bad_fraction": 5}, "max_bad_fraction must be from 0 to 1, got 5"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, got -1"),
        ({"truncated": "cut"}, "truncated must be skip or fill, got 'cut'"),
        ({"interpolation": "cubic"}, "interpolation must be one of nearest, .*, area, got 'cubic'"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_before_anything_is_read(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=f"^{message}$"):
        load_dataset("no such folder", 6, **wrong)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "area"])
def test_a_folder_of_classes_becomes_a_dataset_named_after_it(folder: Path, interpolation: str) -> None:
    dataset = load_dataset(folder, 6, interpolation=interpolation)
    assert (dataset.name, dataset.classes, dataset.skipped) == ("pets", ("cats", "dogs", "newts"), ())
    assert [np.bincount(split.labels).tolist() for split in parts(dataset)] == [[4, 6, 2], [2, 3, 1], [2, 3, 1]]
    for split in parts(dataset):
        for name, (pixels, label) in contents(split).items():
            assert pixels == load_image(folder / name, 6, interpolation).tobytes(), f"{name} must be its own picture"
            assert name.startswith(dataset.classes[label])


@pytest.mark.parametrize("already_split", [False, True])
def test_the_order_in_which_the_file_system_lists_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, already_split: bool
) -> None:
    folder = (fill_parts if already_split else fill)(tmp_path / "pets", cats=8, dogs=12, newts=4)
    spoil(folder, *(f"{'test/' if already_split else ''}cats/{number}x.png" for number in range(3)))
    expected = load_dataset(folder, 6, max_bad_fraction=0.5)
    listed: list[list[str]] = []

    @contextmanager
    def shuffled(listing: Path) -> Iterator[Iterator[os.DirEntry]]:
        with scandir(listing) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name, reverse=True)
        random.Random(len(listed)).shuffle(ordered)
        listed.append([entry.name for entry in ordered])
        yield iter(ordered)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", shuffled)
    dataset = load_dataset(folder, 6, max_bad_fraction=0.5)
    assert any(entries != sorted(entries) for entries in listed), "the test must have changed an order"
    assert (dataset.fingerprint, dataset.skipped) == (expected.fingerprint, expected.skipped)


def test_what_is_left_out_is_counted_and_named_in_one_warning(folder: Path) -> None:
    before = load_dataset(folder, 6).fingerprint
    spoil(folder, "cats/notes.png")
    (folder / "dogs" / "cut.png").write_bytes((folder / "dogs" / "00.png").read_bytes()[:40])
    (folder / "dogs" / "lost.png").symlink_to("nowhere")
    shutil.copy(folder / "dogs" / "03.png", folder / "dogs" / "zcopy.png")
    with pytest.warns(UserWarning, match="^skipped") as warned:
        dataset = load_dataset(folder, 6, max_bad_fraction=0.5)
    lines = (
        f"'{folder}/dogs/lost.png' is a link that leads nowhere",
        f"'{folder}/cats/notes.png' is not a readable picture: ",
        f"'{folder}/dogs/cut.png' is not a readable picture: ",
        f"'{folder}/dogs/zcopy.png' is the same picture as ",
    )
    for reason, line in zip(dataset.skipped, lines, strict=True):
        assert reason.startswith(line)
    (warning,) = warned
    assert str(warning.message) == f"skipped 4 files in {str(folder)!r}: {dataset.skipped[0]}; ..."
    assert dataset.fingerprint == before, "what is skipped must leave no trace in the pictures"


@pytest.mark.parametrize("where", ["!{}.png", "04{}.png", "~{}.png"], ids=["first", "between", "last"])
def test_every_picture_keeps_its_name_and_label_wherever_bad_files_lie(folder: Path, where: str) -> None:
    expected = load_dataset(folder, 6, seed=3)
    spoil(folder, *(f"{label}/{where.format(number)}" for label in ("cats", "dogs", "newts") for number in range(3)))
    dataset = load_dataset(folder, 6, seed=3, max_bad_fraction=0.5)
    assert len(dataset.skipped) == 9
    for split, other in zip(parts(dataset), parts(expected), strict=True):
        assert contents(split) == contents(other)


SHARES = [(19, 1, 0.05, True), (57, 3, None, True), (9, 3, 0.25, True), (8, 80, 1.0, True),
          (18, 1, 0.05, False), (19, 2, None, False), (8, 3, 0.25, False), (8, 9, 0.5, False)]  # fmt: skip


@pytest.mark.parametrize(("good", "bad", "share", "allowed"), SHARES)
def test_bad_files_are_skipped_up_to_their_share(
    tmp_path: Path, good: int, bad: int, share: float | None, allowed: bool
) -> None:
    fill(tmp_path, cats=4, dogs=good - 4)
    spoil(tmp_path, *(f"cats/{number}x.png" for number in range(bad - 1)))
    shutil.copy(tmp_path / "cats" / "00.png", tmp_path / "cats" / "copy.png")  # a duplicate is no bad file
    (tmp_path / "dogs" / "lost.png").symlink_to("nowhere")
    options: dict[str, Any] = {} if share is None else {"max_bad_fraction": share}
    if allowed:
        assert len(load_dataset(tmp_path, 6, **options).skipped) == bad + 1
    else:
        message = rf"^{bad} of {good + bad} files in .*, more than {share or 0.05:.0%}; take them away: '"
        with pytest.raises(BadInput, match=message) as refused:
            load_dataset(tmp_path, 6, **options)
        assert str(refused.value).count(" is not a readable picture") == min(bad - 1, 4), "the first five are named"
        assert "\n" not in str(refused.value)


def test_where_no_bad_file_is_allowed_the_first_is_an_error(folder: Path) -> None:
    spoil(folder, "dogs/05x.png", "cats/03x.png")
    with pytest.raises(BadInput, match=r"^'[^']*/cats/03x\.png' is not a readable picture: [^;]*$"):
        load_dataset(folder, 6, max_bad_fraction=0)
    (folder / "dogs" / "lost.png").symlink_to("nowhere")
    with pytest.raises(BadInput, match=r"^'[^']*/dogs/lost\.png' is a link that leads nowhere"):
        load_dataset(folder, 6, max_bad_fraction=0)


def test_a_file_that_may_not_be_read_is_skipped_and_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidding(file: Path, *arguments: Any, **options: Any) -> object:
        if Path(file).name == "09.png":
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **options)

    opened = open  # permission bits do not stop root, as whom tests run in containers
    for module in ("files", "data.content", "data.decode"):
        monkeypatch.setattr(f"convspec.{module}.open", forbidding, raising=False)
    (reason,) = load_dataset(folder, 6).skipped
    assert re.match(r"'[^']*/dogs/09\.png' is not a readable picture: .*Permission denied", reason)


ODD_NAMES = [
    "a b.png",
    "a\nb.png",
    "ä€😀.png",
    os.fsdecode(b"caf\xe9.png"),
    "x" * 251 + ".png",
    "'\".png",
    "-rf",
    "%s{}",
]


def test_pictures_and_bad_files_may_have_any_name_and_long_paths(tmp_path: Path) -> None:
    fill(tmp_path, cats=4, dogs=4)
    odd = [*ODD_NAMES, f"{'d' * 150}/{'e' * 150}/01.png"]
    for number, name in enumerate(odd):
        (tmp_path / "cats" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (1, 2, number)).save(tmp_path / "cats" / name, "PNG")
    dataset = load_dataset(tmp_path, 6)
    loaded = {name for name in names_of(dataset) if not re.fullmatch(r"\w+/\d\d\.png", name)}
    assert loaded == {f"cats/{name}" for name in odd}
    assert len(dataset.fingerprint) == 64
    pictures = [name for name in ODD_NAMES if name.endswith(".png")]
    for name in ODD_NAMES:
        (tmp_path / "cats" / name).write_bytes(b"")
    for name, reason in zip(sorted(pictures), load_dataset(tmp_path, 6, max_bad_fraction=1.0).skipped, strict=True):
        assert reason.startswith(f"{str(tmp_path / 'cats' / name)!r} is not a readable picture: ")
        assert "\n" not in reason
        reason.encode()  # what a terminal or a JSON file can take


# Fingerprints


def small() -> Dataset:
    def split(part: int) -> Split:
        images = np.full((3, 2, 2, 3), part, np.uint8)
        return Split(images, np.array([0, 1, 1]), tuple(f"{part}/{number}" for number in range(3)))

    return Dataset("small", ("a", "b"), split(0), split(1), split(2))


def variants(split: Split) -> list[Split]:
    """Return the part with another pixel, label, name, order, count and shape."""
    images, labels, names = split.images, split.labels, split.names
    pixels = images.copy()
    pixels[1, 0, 1, 2] ^= 1
    return [
        replace(split, images=pixels),
        replace(split, labels=np.array([1, 1, 1])),
        replace(split, names=(*names[:2], "x")),
        Split(images[::-1], labels[::-1], names[::-1]),
        Split(images[:2], labels[:2], names[:2]),
        replace(split, images=images.reshape(3, 1, 4, 3)),
    ]


def test_a_fingerprint_changes_with_whatever_a_dataset_holds() -> None:
    dataset = small()
    others = [
        replace(dataset, **{name: other})  # type: ignore[arg-type]
        for name, part in dataset.parts.items()
        for other in variants(part)
    ]
    others += [
        replace(dataset, classes=("a", "c")),
        replace(dataset, validation=dataset.test, test=dataset.train),
        replace(dataset, validation=None),
    ]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1 == 22
    images = np.asfortranarray(dataset.train.images)
    same = replace(dataset, train=Split(images, dataset.train.labels.copy(), dataset.train.names))
    assert same.fingerprint == dataset.fingerprint, "however it lies in memory"


# What cannot be a dataset


def unlike_classes(folder: Path) -> None:
    fill_parts(folder, cats=1, dogs=1)
    shutil.move(folder / "test" / "dogs", folder / "test" / "newts")


TWO = "give at least two subfolders of pictures, one a class"


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.rmdir, "no dataset or folder 'FOLDER': give shapes, digits, mnist, dogs_vs_cats, or a folder"),
    "empty": (lambda folder: None, f"'FOLDER' has no subfolders with pictures; {TWO}"),
    "no subfolders": (
        lambda folder: spoil(folder, "00.png"),
        f"'FOLDER' has no subfolders with pictures beside 1 loose pictures; {TWO}",
    ),
    "single class": (lambda folder: fill(folder, cats=9), f"'FOLDER' has only the class 'cats'; {TWO}"),
    "empty class": (
        lambda folder: fill(folder, cats=9, dogs=0),
        f"'FOLDER' has only the class 'cats', and no picture in 'dogs'; {TWO}",
    ),
    "unlike classes": (unlike_classes, "'FOLDER/test' has the classes cats, newts; train has cats, dogs"),
    "all empty": (
        lambda folder: fill(folder, cats=0, dogs=0),
        f"'FOLDER' has no subfolders with pictures, and no picture in 'cats', 'dogs'; {TWO}",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_that_cannot_be_a_dataset_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    make, message = REFUSED[what]
    (folder := tmp_path / "pets").mkdir()
    make(folder)
    with pytest.raises((BadInput, MissingData)) as refused:
        load_dataset(folder, 6, tmp_path)
    assert str(refused.value).startswith(message.replace("FOLDER", str(folder)))
    assert "\n" not in str(refused.value)
