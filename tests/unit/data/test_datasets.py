"""Datasets found, verified and split; and one clear line for whatever cannot be one."""

import gc
import os
import random
import re
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convspec import BadInput, MissingData
from convspec.data import datasets, decode, folders
from convspec.data.datasets import Dataset, Split
from convspec.data.decode import load_image

PARTS = ("train", "validation", "test")


def parts(dataset: Dataset) -> tuple[Split, Split, Split]:
    assert dataset.validation is not None
    return dataset.train, dataset.validation, dataset.test


def fill(folder: Path, **classes: int) -> Path:
    """So many small pictures a class, no two of them alike anywhere in `folder`."""
    for first, (label, count) in enumerate(classes.items()):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            colour = (len(folder.name), 40 * first, number)
            Image.new("RGB", (5, 4), colour).save(folder / label / f"{number:02d}.png")
    return folder


def fill_parts(folder: Path, **classes: int) -> Path:
    for part in PARTS:
        fill(folder / part, **classes)
    return folder


def contents(split: Split) -> dict[str, tuple[bytes, int]]:
    return {
        name: (image.tobytes(), int(label))
        for name, image, label in zip(split.names, split.images, split.labels, strict=True)
    }


# MNIST


@pytest.fixture(scope="module")
def mnist(data_folder: Path) -> Dataset:
    return datasets.load_dataset("mnist", 28, data_folder)


def test_mnist_has_60000_and_10000_digits_and_no_validation_part(mnist: Dataset) -> None:
    assert (mnist.train.images.shape, mnist.test.images.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert mnist.train.images.dtype == mnist.test.images.dtype == np.uint8
    assert mnist.validation is None
    assert mnist.classes == tuple("0123456789")


def test_mnist_is_in_its_canonical_order(mnist: Dataset) -> None:
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_mnists_pixels_and_class_counts_are_the_published_ones(mnist: Dataset) -> None:
    assert mnist.train.images.mean() == pytest.approx(33.3184, abs=5e-5)
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.train.labels).tolist() == published


def test_mnists_names_are_unique_across_its_parts(mnist: Dataset) -> None:
    assert len({*mnist.train.names, *mnist.test.names}) == 70_000


def save_mnist(folder: Path, **changes: np.ndarray | None) -> Path:
    arrays = {
        "x_train": np.zeros((6, 28, 28), np.uint8), "y_train": np.zeros(6, np.uint8),
        "x_test": np.zeros((2, 28, 28), np.uint8), "y_test": np.zeros(2, np.uint8),
    } | changes  # fmt: skip
    np.savez(folder / "mnist.npz", **{key: array for key, array in arrays.items() if array is not None})  # type: ignore[arg-type]
    return folder / "mnist.npz"


def test_mnist_with_a_key_missing_is_refused_with_the_key_and_what_to_do(tmp_path: Path) -> None:
    file = save_mnist(tmp_path, y_test=None)
    with pytest.raises(
        BadInput, match=rf"^'{re.escape(str(file))}' is not MNIST .*y_test.*; delete it and get it again$"
    ):
        datasets.load_dataset("mnist", 28, tmp_path)


def test_mnist_of_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    file = save_mnist(tmp_path)
    shapes = r"x_train has shape \(6, 28, 28\), MNIST has \(60000, 28, 28\); delete it and get it again"
    with pytest.raises(BadInput, match=f"^'{re.escape(str(file))}': {shapes}$"):
        datasets.load_dataset("mnist", 28, tmp_path)


def refused_mnist(folder: Path, content: bytes | bytearray) -> None:
    (folder / "mnist.npz").write_bytes(content)
    with pytest.raises(BadInput) as refused:
        datasets.load_dataset("mnist", 28, folder)
    message = str(refused.value)
    assert "mnist.npz' is not MNIST as Keras distributes it (" in message
    assert message.endswith("; delete it and get it again")
    assert "\n" not in message


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose mnist.npz is to be overwritten."""
    return tmp_path_factory.mktemp("damaged")


@given(kept=st.floats(0, 1, exclude_max=True))
def test_mnist_cut_off_anywhere_is_refused(damaged: Path, kept: float) -> None:
    whole = save_mnist(damaged).read_bytes()
    refused_mnist(damaged, whole[: int(len(whole) * kept)])


@pytest.mark.parametrize("where", [0.1, 0.5])
def test_mnist_with_a_changed_pixel_is_refused(damaged: Path, where: float) -> None:
    content = bytearray(save_mnist(damaged).read_bytes())
    content[int(len(content) * where)] ^= 1
    refused_mnist(damaged, content)


def test_a_zip_file_that_python_cannot_unpack_is_refused_as_mnist(damaged: Path) -> None:
    content = bytearray(save_mnist(damaged).read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 99  # the method of compression in the first directory entry
    refused_mnist(damaged, content)


def test_a_single_array_is_refused_as_mnist(damaged: Path) -> None:
    np.save(damaged / "one.npy", np.zeros(3))
    refused_mnist(damaged, (damaged / "one.npy").read_bytes())


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>"], ids=["empty", "html"])
def test_what_a_failed_download_leaves_is_refused_as_mnist(damaged: Path, content: bytes) -> None:
    refused_mnist(damaged, content)


def test_missing_mnist_says_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"^MNIST is not at '.*mnist\.npz': get it with `convspec fetch mnist"):
        datasets.load_dataset("mnist", 28, tmp_path)


# Dogs vs. Cats


@pytest.fixture(scope="module")
def dogs_vs_cats(data_folder: Path) -> Dataset:
    """All names and labels; decoding the 4,000 pictures would take half a minute, and other tests decode some."""

    def undecoded(paths: Sequence[Path], *_: object, **__: object) -> tuple[np.ndarray, dict[int, str]]:
        return np.zeros((len(paths), 1, 1, 3), np.uint8), {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "load_images", undecoded)
        return datasets.load_dataset("dogs_vs_cats", 150, data_folder)


@pytest.mark.parametrize(
    ("part", "numbers"),
    [("train", range(1000)), ("validation", range(1000, 1500)), ("test", range(1500, 2000))],
)
def test_dogs_vs_cats_is_split_as_in_listing_5_4(dogs_vs_cats: Dataset, part: str, numbers: range) -> None:
    assert dogs_vs_cats.classes == ("cats", "dogs")
    split = dict(zip(PARTS, parts(dogs_vs_cats), strict=True))[part]
    labelled = {(Path(name).name, int(label)) for name, label in zip(split.names, split.labels, strict=True)}
    expected = {(f"{animal}.{number}.jpg", label) for label, animal in enumerate(("cat", "dog")) for number in numbers}
    assert len(split) == len(expected)
    assert labelled == expected


def test_the_three_parts_of_dogs_vs_cats_share_no_picture(dogs_vs_cats: Dataset, data_folder: Path) -> None:
    sizes = [len(split) for split in parts(dogs_vs_cats)]
    files = {Path(name).name for split in parts(dogs_vs_cats) for name in split.names}
    assert (sizes, len(files)) == ([2000, 1000, 1000], 4000)


def test_missing_dogs_vs_cats_says_where_to_get_it_and_where_to_put_it(tmp_path: Path) -> None:
    how = r"`convspec fetch dogs_vs_cats`.*kaggle.* split train\.zip .*/dogs_vs_cats_small` \(listing 5\.4\)$"
    with pytest.raises(
        MissingData, match=rf"^Dogs vs\. Cats is not in '{re.escape(str(tmp_path))}': get it with {how}"
    ):
        datasets.load_dataset("dogs_vs_cats", 150, tmp_path)


def test_dogs_vs_cats_comes_from_its_folder_in_the_data_folder_under_its_own_name(tmp_path: Path) -> None:
    fill_parts(tmp_path / "dogs_vs_cats_small", cats=2, dogs=1)
    dataset = datasets.load_dataset("dogs_vs_cats", 6, tmp_path)
    assert dataset.name == "dogs_vs_cats"
    assert [len(split) for split in parts(dataset)] == [3, 3, 3]


# shapes


def test_shapes_needs_no_data_and_its_parts_are_balanced_and_share_no_picture() -> None:
    dataset = datasets.load_dataset("shapes", 48, Path("nowhere"))
    assert dataset.classes == ("fish", "key")
    per_class = [datasets.SHAPES_PER_CLASS[part] for part in PARTS]
    assert [np.bincount(split.labels).tolist() for split in parts(dataset)] == [[count, count] for count in per_class]
    pictures = {image.tobytes() for split in parts(dataset) for image in split.images}
    names = {name for split in parts(dataset) for name in split.names}
    assert len(pictures) == len(names) == 2 * sum(per_class), "no picture may come twice, in one part or in two"


# Any folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "pets", cats=8, dogs=12, newts=4)


def test_a_folder_of_classes_becomes_a_dataset_named_after_it(folder: Path) -> None:
    dataset = datasets.load_dataset(folder, 6, Path())
    assert (dataset.name, dataset.classes, dataset.skipped) == ("pets", ("cats", "dogs", "newts"), ())
    assert [np.bincount(split.labels).tolist() for split in parts(dataset)] == [[4, 6, 2], [2, 3, 1], [2, 3, 1]]
    for split in parts(dataset):
        for name, (pixels, label) in contents(split).items():
            assert pixels == load_image(folder / name, 6).tobytes(), f"{name} must be its own picture"
            assert name.startswith(dataset.classes[label])


def test_the_same_seed_splits_a_folder_the_same_and_another_seed_otherwise(folder: Path) -> None:
    first, again, other = (datasets.load_dataset(folder, 6, Path(), seed) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert set(first.test.names) != set(other.test.names)


@pytest.mark.parametrize("already_split", [False, True])
def test_the_order_in_which_the_file_system_lists_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, already_split: bool
) -> None:
    folder = (fill_parts if already_split else fill)(tmp_path / "pets", cats=8, dogs=12, newts=4)
    expected = datasets.load_dataset(folder, 6, Path())
    listed: list[list[str]] = []

    @contextmanager
    def shuffled(listing: Path) -> Iterator[Iterator[os.DirEntry]]:
        with scandir(listing) as entries:
            found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        random.Random(len(listed)).shuffle(found)
        listed.append([entry.name for entry in found])
        yield iter(found)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", shuffled)
    dataset = datasets.load_dataset(folder, 6, Path())
    assert any(entries != sorted(entries) for entries in listed), "the test must have changed an order"
    assert [split.names for split in parts(dataset)] == [split.names for split in parts(expected)]
    assert dataset.fingerprint == expected.fingerprint


def test_a_folder_that_is_split_already_is_left_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path / "train", cats=3, dogs=2)
    fill(tmp_path / "validation", cats=1, dogs=1)
    fill(tmp_path / "test", cats=1, dogs=2)
    for seed in (0, 1):
        dataset = datasets.load_dataset(tmp_path, 6, Path(), seed)
        assert [split.labels.tolist() for split in parts(dataset)] == [[0, 0, 0, 1, 1], [0, 1], [0, 1, 1]]
        assert dataset.test.names == ("cats/00.png", "dogs/00.png", "dogs/01.png")


def test_pictures_in_subfolders_of_a_class_belong_to_it(folder: Path) -> None:
    (folder / "cats" / "black").mkdir()
    Image.new("RGB", (5, 4), "black").save(folder / "cats" / "black" / "00.png")
    names = {name for split in parts(datasets.load_dataset(folder, 6, Path())) for name in split.names}
    assert "cats/black/00.png" in names
    assert len(names) == 25


@pytest.mark.parametrize("hidden", ["cats/.DS_Store", ".git/00.png", "cats/.ipynb_checkpoints/00.png", ".notes"])
def test_hidden_files_and_what_is_in_hidden_folders_are_ignored(folder: Path, hidden: str) -> None:
    before = datasets.load_dataset(folder, 6, Path()).fingerprint
    (folder / hidden).parent.mkdir(exist_ok=True)
    shutil.copy(folder / "dogs" / "00.png", folder / hidden)
    dataset = datasets.load_dataset(folder, 6, Path())
    assert (dataset.fingerprint, dataset.skipped) == (before, ())


def test_files_that_are_no_pictures_are_skipped_with_one_warning_each_counted_and_named(folder: Path) -> None:
    before = datasets.load_dataset(folder, 6, Path()).fingerprint
    (folder / "cats" / "notes.txt").write_text("not a picture")
    (folder / "dogs" / "cut.png").write_bytes((folder / "dogs" / "00.png").read_bytes()[:40])
    with pytest.warns(UserWarning, match="^skipped") as warned:
        dataset = datasets.load_dataset(folder, 6, Path(), max_bad_fraction=0.5)
    assert len(dataset.skipped) == 2
    for reason, name in zip(dataset.skipped, ("cats/notes.txt", "dogs/cut.png"), strict=True):
        assert reason.startswith(f"{str(folder / name)!r} is not a readable picture: ")
    assert [str(warning.message) for warning in warned] == [
        f"skipped 2 files in {str(folder)!r}: {dataset.skipped[0]}; ..."
    ]
    assert dataset.fingerprint == before, "what is skipped must leave no trace in the pictures"


def spoil(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} is not a picture")


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("where", ["first", "between", "last"])
def test_every_picture_keeps_its_name_and_label_wherever_files_that_are_none_lie(folder: Path, where: str) -> None:
    expected = datasets.load_dataset(folder, 6, Path(), 3)
    names = {"first": "!{}", "between": "04{}.png", "last": "~{}"}[where]
    spoil(folder, *(f"{label}/{names.format(number)}" for label in ("cats", "dogs", "newts") for number in range(3)))
    dataset = datasets.load_dataset(folder, 6, Path(), 3, max_bad_fraction=0.5)
    assert len(dataset.skipped) == 9
    for split, other in zip(parts(dataset), parts(expected), strict=True):
        assert contents(split) == contents(other)
    assert dataset.fingerprint == expected.fingerprint


def some_bad(folder: Path, good: int, bad: int) -> Path:
    fill(folder, cats=4, dogs=good - 4)
    spoil(folder, *(f"cats/{number}.txt" for number in range(bad)))
    return folder


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize(
    ("good", "bad", "share"), [(19, 1, 0.05), (38, 2, 0.05), (57, 3, 0.05), (9, 3, 0.25), (8, 8, 0.5)]
)
def test_as_great_a_share_of_bad_files_as_is_allowed_is_skipped(
    tmp_path: Path, good: int, bad: int, share: float
) -> None:
    assert len(datasets.load_dataset(some_bad(tmp_path, good, bad), 6, Path(), max_bad_fraction=share).skipped) == bad


@pytest.mark.parametrize(
    ("good", "bad", "share"), [(18, 1, 0.05), (37, 2, 0.05), (19, 2, 0.05), (8, 3, 0.25), (8, 9, 0.5)]
)
def test_a_greater_share_of_bad_files_than_is_allowed_is_refused(
    tmp_path: Path, good: int, bad: int, share: float
) -> None:
    with pytest.raises(
        BadInput, match=rf"^{bad} of {good + bad} files in .*, more than {share:.0%}; take them away: '"
    ):
        datasets.load_dataset(some_bad(tmp_path, good, bad), 6, Path(), max_bad_fraction=share)


@pytest.mark.filterwarnings("ignore:skipped")
def test_unless_another_share_is_given_5_percent_may_be_bad(tmp_path: Path) -> None:
    assert len(datasets.load_dataset(some_bad(tmp_path / "few", 19, 1), 6, Path()).skipped) == 1
    with pytest.raises(BadInput, match="more than 5%"):
        datasets.load_dataset(some_bad(tmp_path / "many", 37, 2), 6, Path())


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_link_that_leads_nowhere_is_one_of_the_files_that_a_share_is_of(tmp_path: Path) -> None:
    some_bad(tmp_path, 19, 0)
    (tmp_path / "dogs" / "lost.png").symlink_to("nowhere")
    assert len(datasets.load_dataset(tmp_path, 6, Path(), max_bad_fraction=0.05).skipped) == 1


def test_too_many_bad_files_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    fill(tmp_path, cats=30, dogs=30)
    spoil(tmp_path, *(f"cats/{number}.txt" for number in range(9)))
    with pytest.raises(BadInput) as refused:
        datasets.load_dataset(tmp_path, 6, Path())
    message = str(refused.value)
    assert message.startswith(f"9 of 69 files in {str(tmp_path)!r} are no pictures, more than 5%; take them away: '")
    assert [number for number in range(9) if f"cats/{number}.txt' is not a readable" in message] == list(range(5))
    assert message.endswith("; ...")
    assert "\n" not in message


def test_where_no_bad_file_is_allowed_the_first_is_an_error(folder: Path) -> None:
    spoil(folder, "dogs/05.txt", "cats/03.txt")
    with pytest.raises(BadInput, match=r"^'[^']*/cats/03\.txt' is not a readable picture: [^;]*$"):
        datasets.load_dataset(folder, 6, Path(), max_bad_fraction=0)


def test_where_no_bad_file_is_allowed_a_link_that_leads_nowhere_is_an_error(folder: Path) -> None:
    (folder / "dogs" / "lost.png").symlink_to("nowhere")
    with pytest.raises(BadInput, match=r"^'[^']*/dogs/lost\.png' is a link that leads nowhere"):
        datasets.load_dataset(folder, 6, Path(), max_bad_fraction=0)


@pytest.mark.filterwarnings("ignore:skipped")
def test_where_all_may_be_bad_a_folder_of_almost_only_bad_files_is_taken(tmp_path: Path) -> None:
    fill(tmp_path, cats=4, dogs=4)
    spoil(tmp_path, *(f"cats/{number}.txt" for number in range(80)))
    dataset = datasets.load_dataset(tmp_path, 6, Path(), max_bad_fraction=1.0)
    assert len(dataset.skipped) == 80
    assert [len(split) for split in parts(dataset)] == [4, 2, 2]


@pytest.mark.filterwarnings("ignore:skipped")
def test_all_that_is_left_out_is_named_whatever_the_reason(folder: Path) -> None:
    spoil(folder, "cats/notes.txt")
    (folder / "dogs" / "lost.png").symlink_to("nowhere")
    shutil.copy(folder / "dogs" / "03.png", folder / "dogs" / "copy.png")
    with pytest.warns(UserWarning, match=r"^skipped 3 files in "):
        dataset = datasets.load_dataset(folder, 6, Path(), max_bad_fraction=0.5)
    named = [re.findall(r"'([^']*)'", reason) for reason in dataset.skipped]
    assert [[Path(name).name for name in names] for names in named] == [
        ["lost.png"], ["notes.txt", "notes.txt"], ["copy.png", "03.png"],
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:skipped")
def test_duplicates_count_not_as_bad_files(tmp_path: Path) -> None:
    fill(tmp_path, cats=4, dogs=4)
    for number in range(9):
        shutil.copy(tmp_path / "cats" / "00.png", tmp_path / "cats" / f"copy{number}.png")
    dataset = datasets.load_dataset(tmp_path, 6, Path())
    assert len(dataset.skipped) == 9
    assert sum(map(len, parts(dataset))) == 8


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_file_that_may_not_be_read_is_skipped_and_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidding(file: Path, *arguments: Any, **options: Any) -> object:
        if Path(file).name == "09.png":
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **options)

    opened = open  # permission bits do not stop root, as whom tests run in containers
    monkeypatch.setattr(decode, "open", forbidding, raising=False)
    dataset = datasets.load_dataset(folder, 6, Path(), max_bad_fraction=0.5)
    assert len(dataset.skipped) == 1
    assert re.match(r"'[^']*/dogs/09\.png' is not a readable picture: .*Permission denied", dataset.skipped[0])


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_file_that_goes_between_listing_and_comparing_is_skipped_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanishing(files: list) -> tuple[list, list[str]]:
        (folder / "cats" / "02.png").unlink()
        return compare(files)

    compare = folders._without_duplicates
    monkeypatch.setattr(folders, "_without_duplicates", vanishing)
    dataset = datasets.load_dataset(folder, 6, Path())
    assert dataset.skipped == (f"{str(folder / 'cats' / '02.png')!r} is gone since the folder was listed",)


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_pipe_among_the_pictures_is_skipped_and_nothing_hangs(folder: Path) -> None:
    os.mkfifo(folder / "cats" / "pipe.png")
    loaded: list[Dataset] = []
    loader = threading.Thread(target=lambda: loaded.append(datasets.load_dataset(folder, 6, Path())), daemon=True)
    loader.start()
    loader.join(20)
    assert not loader.is_alive(), "it must not wait for the pipe"
    assert [Path(reason.split("'")[1]).name for reason in loaded[0].skipped] == ["pipe.png"]


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


def test_pictures_may_have_any_name(tmp_path: Path) -> None:
    fill(tmp_path, cats=4, dogs=4)
    for number, name in enumerate(ODD_NAMES):
        Image.new("RGB", (5, 4), (1, 2, number)).save(tmp_path / "cats" / name, "PNG")
    dataset = datasets.load_dataset(tmp_path, 6, Path())
    found = {name for split in parts(dataset) for name in split.names if not re.fullmatch(r"\w+/\d\d\.png", name)}
    assert found == {f"cats/{name}" for name in ODD_NAMES}
    assert len(dataset.fingerprint) == 64


@pytest.mark.filterwarnings("ignore:skipped")
def test_a_file_that_is_no_picture_may_have_any_name_and_is_named_in_one_line(tmp_path: Path) -> None:
    fill(tmp_path, cats=4, dogs=4)
    for name in ODD_NAMES:
        (tmp_path / "cats" / name).write_bytes(b"")
    dataset = datasets.load_dataset(tmp_path, 6, Path(), max_bad_fraction=1.0)
    for name, reason in zip(sorted(ODD_NAMES), dataset.skipped, strict=True):
        assert reason.startswith(f"{str(tmp_path / 'cats' / name)!r} is not a readable picture: ")
        assert "\n" not in reason
        reason.encode()  # what a terminal or a JSON file can take


def test_a_path_may_be_longer_than_300_characters(tmp_path: Path) -> None:
    fill(tmp_path, cats=4, dogs=4)
    deep = tmp_path / "cats" / ("d" * 150) / ("e" * 150)
    deep.mkdir(parents=True)
    Image.new("RGB", (5, 4), (1, 2, 3)).save(deep / "01.png")
    names = {name for split in parts(datasets.load_dataset(tmp_path, 6, Path())) for name in split.names}
    assert (deep / "01.png").relative_to(tmp_path).as_posix() in names


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "area"])
def test_pictures_are_resized_by_the_interpolation_that_is_asked_for(folder: Path, interpolation: str) -> None:
    rng = np.random.default_rng(0)
    for path in folder.glob("*/*.png"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    for split in parts(datasets.load_dataset(folder, 6, Path(), interpolation=interpolation)):
        for name, (pixels, _) in contents(split).items():
            assert pixels == load_image(folder / name, 6, interpolation).tobytes(), name


# Memory


@given(st.integers(0, 40).flatmap(lambda count: st.tuples(st.permutations(range(count)), st.integers(0, count))))
def test_pictures_are_put_in_order_in_place(drawn: tuple[list[int], int]) -> None:
    permuted, kept = drawn
    order = np.array(permuted[:kept], np.int64)
    pictures = np.random.default_rng(0).integers(0, 256, (len(permuted), 2, 2, 3), dtype=np.uint8)
    before, place = pictures.copy(), pictures.ctypes.data
    datasets._arrange(pictures, order)
    assert pictures.ctypes.data == place
    np.testing.assert_array_equal(pictures[:kept], before[order])
    rows = [sorted(picture.tobytes() for picture in group) for group in (pictures, before)]
    assert rows[0] == rows[1], "none lost, none doubled"


@pytest.mark.filterwarnings("ignore:skipped")
def test_pictures_above_the_memory_budget_are_the_same_dataset_but_in_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(folder, "cats/030.png")
    within = datasets.load_dataset(folder, 6, Path())
    monkeypatch.setattr(decode, "load_images", partial(decode.load_images, budget=0))
    above = datasets.load_dataset(folder, 6, Path())
    assert isinstance(above.train.images, np.memmap)
    assert above.fingerprint == within.fingerprint
    for split, other in zip(parts(above), parts(within), strict=True):
        assert contents(split) == contents(other)


def many(folder: Path, count: int) -> Path:
    """So many small pictures of two classes, no two of them alike."""
    for label in ("cats", "dogs"):
        (folder / label).mkdir(parents=True)
    for number in range(count):
        pixels = number.to_bytes(4, "big") * 48
        (folder / ("cats", "dogs")[number % 2] / f"{number:05d}.ppm").write_bytes(b"P6 8 8 255\n" + pixels)
    return folder


PER_FILE = 1024  # bytes: a path, a name, a label


def peak(folder: Path, size: int) -> int:
    """The most memory that Python and NumPy hold while the folder is loaded: the least of three times, as what any
    other thread of the process takes meanwhile is counted, too.
    """
    peaks = []
    for _ in range(3):
        gc.collect()
        tracemalloc.start()
        try:
            datasets.load_dataset(folder, size, Path())
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return min(peaks)


COUNTS = pytest.mark.parametrize("count", [2_000, pytest.param(50_000, marks=pytest.mark.slow)])


@COUNTS
def test_decoded_pictures_take_at_most_a_tenth_more_memory_than_their_pixels(tmp_path: Path, count: int) -> None:
    datasets.load_dataset(many(tmp_path / "warm", 8), 48, Path())  # what is imported when it is first needed
    assert peak(many(tmp_path / "pictures", count), 48) <= 1.1 * count * 48 * 48 * 3 + count * PER_FILE


@COUNTS
def test_pictures_in_a_file_take_no_more_memory_than_the_budget(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = count * 48 * 48 * 3 // 4
    monkeypatch.setattr(decode, "load_images", partial(decode.load_images, budget=budget))
    assert peak(many(tmp_path / "pictures", count), 48) <= budget


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of a process's memory")
@COUNTS
def test_pictures_in_a_file_are_not_the_processs_own_memory(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own() -> int:
        return int(re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024

    pixels = count * 48 * 48 * 3
    monkeypatch.setattr(decode, "load_images", partial(decode.load_images, budget=pixels // 4))
    folder = many(tmp_path, count)
    before = own()
    dataset = datasets.load_dataset(folder, 48, Path())
    assert own() - before <= pixels // 4
    assert len(dataset.train) == count // 2


# Fingerprints


@pytest.fixture(scope="module")
def small() -> Dataset:
    def split(part: int) -> Split:
        images = np.full((3, 2, 2, 3), part, np.uint8)
        return Split(images, np.array([0, 1, 1]), tuple(f"{part}/{number}" for number in range(3)))

    return Dataset("small", ("a", "b"), split(0), split(1), split(2))


def changed(split: Split, what: str) -> Split:
    images, labels, names = split.images.copy(), split.labels.copy(), list(split.names)
    if what == "pixel":
        images[1, 0, 1, 2] ^= 1
    elif what == "label":
        labels[0] = 1
    elif what == "name":
        names[2] += "x"
    elif what == "order":
        images, labels, names = images[::-1], labels[::-1], names[::-1]
    elif what == "count":
        images, labels, names = images[:2], labels[:2], names[:2]
    elif what == "shape":
        images = images.reshape(3, 1, 4, 3)
    return Split(images, labels, tuple(names))


@pytest.mark.parametrize("what", ["pixel", "label", "name", "order", "count", "shape"])
@pytest.mark.parametrize("part", PARTS)
def test_a_fingerprint_changes_with_any(small: Dataset, part: str, what: str) -> None:
    other = replace(small, **{part: changed(getattr(small, part), what)})  # type: ignore[arg-type]
    assert other.fingerprint != small.fingerprint


def test_a_fingerprint_changes_with_the_names_of_the_classes_and_the_order_of_the_parts(small: Dataset) -> None:
    assert small.validation is not None
    swapped = replace(small, validation=small.test, test=small.validation)
    others = [replace(small, classes=("a", "c")), swapped, replace(small, validation=None)]
    assert len({small.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_equal_contents_have_equal_fingerprints_however_they_lie_in_memory(small: Dataset) -> None:
    images = np.asfortranarray(small.train.images)
    copy = replace(small, train=Split(images, small.train.labels.copy(), small.train.names))
    assert copy.fingerprint == small.fingerprint


# What cannot be a dataset


def only_train(folder: Path) -> None:
    fill(folder / "train", cats=1, dogs=1)


def unlike_classes(folder: Path) -> None:
    fill_parts(folder, cats=1, dogs=1)
    shutil.move(folder / "test" / "dogs", folder / "test" / "newts")


def empty_class(folder: Path) -> None:
    fill(folder, cats=4, dogs=4, newts=0)


def unreadable_class(folder: Path) -> None:
    fill(folder, cats=4, dogs=4, newts=0)
    (folder / "newts" / "notes.txt").write_text("not a picture")


def pictures_without_subfolders(folder: Path) -> None:
    Image.new("RGB", (5, 4)).save(folder / "00.png")


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.rmdir(), "no dataset or folder 'FOLDER': give shapes, mnist, dogs_vs_cats, or a folder"),
        (lambda folder: None, "'FOLDER' has no subfolders; give at least two subfolders of pictures, one a class"),
        (pictures_without_subfolders, "'FOLDER' has no subfolders; give at least two subfolders"),
        (lambda folder: fill(folder, cats=9), "'FOLDER' has only the class 'cats'; give at least two subfolders"),
        (empty_class, "the class 'newts' is empty: no readable picture in 'FOLDER/newts'"),
        (unreadable_class, "the class 'newts' is empty: no readable picture in 'FOLDER/newts'"),
        (only_train, "'FOLDER' has train but no validation, test; give all three, or one subfolder a class"),
        (unlike_classes, "'FOLDER/test' has the classes cats, newts; train has cats, dogs"),
        (lambda folder: fill(folder, cats=4, dogs=3), "'FOLDER': a class needs at least 4 readable pictures to be spl"),
        (lambda folder: fill(folder, cats=0, dogs=0), "the class 'cats' is empty"),
    ],
    ids=[
        "missing", "empty", "no subfolders", "single class", "empty class", "unreadable class", "lacks parts",
        "unlike classes", "too few pictures", "all empty",
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_a_dataset_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    make(folder)
    with pytest.raises((BadInput, MissingData)) as refused:
        datasets.load_dataset(folder, 6, tmp_path)
    assert str(refused.value).startswith(message.replace("FOLDER", str(folder)))
    assert "\n" not in str(refused.value)


def test_too_few_pictures_names_the_class_and_its_count(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'dogs' has 3$"):
        datasets.load_dataset(fill(tmp_path, cats=4, dogs=3), 6, Path())


@pytest.mark.parametrize("name", ["cifar10", "MNIST"])
def test_an_unknown_dataset_is_refused_with_the_list_of_datasets(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=f"^no dataset or folder '{name}': give shapes, mnist, dogs_vs_cats, or a f"):
        datasets.load_dataset(name, 6, tmp_path)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"")
    with pytest.raises(MissingData, match=r"no dataset or folder '.*pets\.zip'"):
        datasets.load_dataset(tmp_path / "pets.zip", 6, tmp_path)
