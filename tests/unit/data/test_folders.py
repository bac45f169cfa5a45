"""What a folder of pictures holds, told from names, links and bytes alone; and its split into parts."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convspec import BadInput
from convspec.data import folders
from convspec.data.folders import Found

PARTS = ("train", "validation", "test")


def put(folder: Path, names: Iterable[str]) -> Path:
    """Files that differ from one another; what is in them is looked at by nobody but for duplicates."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"the picture {name}".encode(errors="surrogateescape"))
    return folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return put(tmp_path / "pets", [f"{label}/{number}.png" for label in ("cats", "dogs") for number in range(4)])


ALL_PETS = [f"{label}/{number}.png" for label in ("cats", "dogs") for number in range(4)]


# Layouts


def test_one_subfolder_a_class_is_read_in_the_order_of_classes_and_names(tmp_path: Path) -> None:
    put(tmp_path, ["newts/b.png", "cats/2.png", "cats/10.png", "newts/a.png", "dogs/old/1.png", "readme.txt"])
    found = folders.find(tmp_path)
    assert found.classes == ("cats", "dogs", "newts")
    assert found.names == ("cats/10.png", "cats/2.png", "dogs/old/1.png", "newts/a.png", "newts/b.png")
    assert (found.labels.dtype, found.labels.tolist()) == (np.int64, [0, 0, 1, 2, 2])
    assert found.paths == tuple(tmp_path / name for name in found.names)
    assert (found.folder, found.parts, found.bad, found.duplicates) == (tmp_path, None, (), ())


def test_the_order_is_that_of_the_names_whatever_the_sizes_of_the_files(pets: Path) -> None:
    for number, content in enumerate(["long", "x", "also long", "y", "longer"]):
        (pets / "dogs" / f"{number}.png").write_text(content)
    assert folders.find(pets).names == (*ALL_PETS, "dogs/4.png")


def test_a_folder_that_is_split_already_says_of_each_file_its_part(tmp_path: Path) -> None:
    put(tmp_path, [f"{part}/{label}/{part}.png" for part in PARTS for label in ("dogs", "cats")])
    found = folders.find(tmp_path)
    assert found.parts == ("train", "train", "validation", "validation", "test", "test")
    assert found.names == tuple(f"{label}/{part}.png" for part in PARTS for label in ("cats", "dogs"))
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.paths == tuple(tmp_path / part / name for part, name in zip(found.parts, found.names, strict=True))


@pytest.mark.parametrize("inside", ["train", "."])
@pytest.mark.parametrize("labels", [("cat", "dog"), ("hot.dog", "kale", "überraschung")])
def test_files_that_are_named_by_class_and_number_are_sorted_into_classes(
    tmp_path: Path, inside: str, labels: tuple[str, ...]
) -> None:
    put(tmp_path / inside, [f"{label}.{number}.jpg" for label in reversed(labels) for number in (0, 7, 30)])
    found = folders.find(tmp_path)
    assert found.classes == labels
    assert found.names == tuple(f"{label}/{label}.{number}.jpg" for label in labels for number in (0, 30, 7))
    assert found.labels.tolist() == [label for label in range(len(labels)) for _ in range(3)]
    assert found.parts is None


@pytest.mark.parametrize("name", ["dog.x.jpg", "dog.jpg", "dog.1.jpg~", "dog.1", "1.jpg"])
def test_a_file_without_class_and_number_among_others_that_have_them_is_bad(tmp_path: Path, name: str) -> None:
    put(tmp_path / "train", ["cat.0.jpg", "dog.0.jpg", name])
    found = folders.find(tmp_path)
    assert found.bad == (f"{str(tmp_path / 'train' / name)!r} is not named CLASS.NUMBER, as the others are",)
    assert found.names == ("cat/cat.0.jpg", "dog/dog.0.jpg")


def test_the_public_download_of_cats_and_dogs_is_found_in_its_folder(tmp_path: Path) -> None:
    put(tmp_path, [*(f"PetImages/{label}/{n}.jpg" for label in ("Dog", "Cat") for n in range(3)), "readme.txt"])
    found = folders.find(tmp_path)
    assert found.classes == ("Cat", "Dog")
    assert found.names == tuple(f"{label}/{number}.jpg" for label in ("Cat", "Dog") for number in range(3))
    assert found.parts is None


LISTING_5_4 = {"train": range(1000), "validation": range(1000, 1500), "test": range(1500, 2000)}
DOWNLOADS = {"Kaggle": "train/{0}.{1}.jpg", "PetImages": "PetImages/{0}/{1}.jpg"}


def cats_and_dogs(folder: Path, layout: str, count: int) -> Path:
    named = [(animal if layout == "Kaggle" else animal.title(), n) for animal in ("cat", "dog") for n in range(count)]
    return put(folder, (DOWNLOADS[layout].format(*pair) for pair in named))


@pytest.mark.parametrize("layout", DOWNLOADS)
def test_complete_cats_and_dogs_are_split_and_named_as_in_listing_5_4(tmp_path: Path, layout: str) -> None:
    found = folders.find(cats_and_dogs(tmp_path, layout, 2010))
    assert found.classes == ("cats", "dogs")
    assert found.parts is not None
    assert len(found.names) == 4000
    listed = {
        (part, f"{animal}s/{animal}.{number}.jpg", label)
        for part, numbers in LISTING_5_4.items()
        for label, animal in enumerate(("cat", "dog"))
        for number in numbers
    }
    unlike = listed.symmetric_difference(zip(found.parts, found.names, found.labels.tolist(), strict=True))
    assert sorted(unlike)[:5] == []


@pytest.mark.parametrize("layout", DOWNLOADS)
def test_each_name_of_listing_5_4_is_that_of_its_own_file(tmp_path: Path, layout: str) -> None:
    found = folders.find(cats_and_dogs(tmp_path, layout, 2000))
    for name, path in list(zip(found.names, found.paths, strict=True))[::97]:
        animal, number = name.split("/")[1].split(".")[:2]
        stored = DOWNLOADS[layout].format(animal if layout == "Kaggle" else animal.title(), number)
        assert path.read_text() == f"the picture {stored}"


def test_cats_and_dogs_of_which_one_is_missing_are_not_split_as_in_listing_5_4(tmp_path: Path) -> None:
    cats_and_dogs(tmp_path, "Kaggle", 2000)
    (tmp_path / "train" / "cat.1999.jpg").unlink()
    found = folders.find(tmp_path)
    assert (found.parts, len(found.names)) == (None, 3999)


# Duplicates


def copy(folder: Path, source: str, *targets: str) -> None:
    for target in targets:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, folder / target)


def told(folder: Path, *pairs: tuple[str, str]) -> tuple[str, ...]:
    return tuple(f"{str(folder / left)!r} is the same picture as {str(folder / kept)!r}" for left, kept in pairs)


def test_of_the_same_picture_twice_in_a_class_the_first_name_is_kept(pets: Path) -> None:
    copy(pets, "cats/2.png", "cats/9.png", "cats/0a.png")
    found = folders.find(pets)
    assert found.duplicates == told(pets, ("cats/2.png", "cats/0a.png"), ("cats/9.png", "cats/0a.png"))
    assert found.names == tuple(sorted({*ALL_PETS, "cats/0a.png"} - {"cats/2.png"}))


def test_of_the_same_picture_in_two_classes_that_of_the_first_class_is_kept(pets: Path) -> None:
    copy(pets, "dogs/1.png", "cats/9.png")
    found = folders.find(pets)
    assert found.duplicates == told(pets, ("dogs/1.png", "cats/9.png"))
    assert dict(zip(found.names, found.labels.tolist(), strict=True))["cats/9.png"] == 0
    assert "dogs/1.png" not in found.names


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (("train", "test"), "test"),
        (("train", "validation"), "validation"),
        (("validation", "test"), "test"),
        (("train", "validation", "test"), "test"),
    ],
)
def test_a_picture_in_two_parts_is_kept_where_it_is_tested_with(
    tmp_path: Path, where: tuple[str, ...], kept: str
) -> None:
    put(tmp_path, [f"{part}/{label}/{part}.png" for part in PARTS for label in ("cats", "dogs")])
    put(tmp_path, ["shared.png"])
    copy(tmp_path, "shared.png", *(f"{part}/cats/shared.png" for part in where))
    found = folders.find(tmp_path)
    left = [part for part in where if part != kept]
    assert found.duplicates == told(
        tmp_path, *((f"{part}/cats/shared.png", f"{kept}/cats/shared.png") for part in left)
    )
    assert found.parts is not None
    assert [part for part, path in zip(found.parts, found.paths, strict=True) if path.name == "shared.png"] == [kept]


def test_files_of_equal_size_with_other_content_are_no_duplicates(pets: Path) -> None:
    assert len({path.stat().st_size for path in pets.glob("*/*")}) == 1
    assert folders.find(pets).duplicates == ()


def test_empty_files_are_not_duplicates_of_each_other(pets: Path) -> None:
    for name in ("cats/8.png", "cats/9.png"):
        (pets / name).write_bytes(b"")
    found = folders.find(pets)
    assert found.duplicates == ()
    assert {"cats/8.png", "cats/9.png"} <= set(found.names), "each is for the decoder to refuse"


def test_a_link_to_a_picture_of_the_folder_is_a_duplicate(pets: Path) -> None:
    (pets / "dogs" / "link.png").symlink_to(pets / "dogs" / "3.png")
    assert folders.find(pets).duplicates == told(pets, ("dogs/link.png", "dogs/3.png"))


@given(contents=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), min_size=2, max_size=30))
def test_each_content_is_found_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, contents: list[tuple[str, int]]
) -> None:
    folder = put(tmp_path_factory.mktemp("pets"), ["a/first", "b/second"])
    for number, (label, content) in enumerate(contents):
        (folder / label / f"{number}").write_text(f"content {content}")
    found = folders.find(folder)
    read = sorted(path.read_text() for path in found.paths)
    assert read == sorted(
        {f"content {content}" for _, content in contents} | {"the picture a/first", "the picture b/second"}
    )
    assert len(found.paths) + len(found.duplicates) == len(contents) + 2, "the others are named"


# Links, pipes, and what cannot be read


@pytest.mark.parametrize("target", ["nowhere", "loop.png"])
def test_a_link_that_leads_nowhere_is_bad_and_named(pets: Path, target: str) -> None:
    (pets / "cats" / "loop.png").symlink_to(target)
    found = folders.find(pets)
    assert len(found.bad) == 1
    assert found.bad[0].startswith(f"{str(pets / 'cats' / 'loop.png')!r} is a link that leads nowhere: ")
    assert found.names == tuple(ALL_PETS)


@pytest.mark.parametrize(
    ("link", "target"),
    [("cats/loop", "."), ("cats/loop", ".."), ("cats/loop", "../.."), ("cats/deep/loop", ".."), ("zoo", ".")],
)
def test_a_link_to_a_folder_above_it_is_bad_and_named_and_adds_no_picture(pets: Path, link: str, target: str) -> None:
    (pets / link).parent.mkdir(exist_ok=True)
    (pets / link).symlink_to(target)
    found = folders.find(pets)
    assert found.bad == (f"{str(pets / link)!r} is a link to a folder that it is in",)
    assert (found.classes, found.names) == (("cats", "dogs"), tuple(ALL_PETS))


def test_a_link_to_itself_beside_the_classes_is_no_class(pets: Path) -> None:
    (pets / "newts").symlink_to("newts")
    assert folders.find(pets).classes == ("cats", "dogs")


def test_a_link_to_the_folder_of_another_part_adds_no_picture_twice(tmp_path: Path) -> None:
    put(tmp_path, [f"{part}/{label}/{part}.png" for part in PARTS for label in ("cats", "dogs")])
    (tmp_path / "train" / "cats" / "loop").symlink_to(tmp_path)
    found = folders.find(tmp_path)
    assert (len(found.names), found.duplicates) == (6, ())
    assert found.bad == (f"{str(tmp_path / 'train' / 'cats' / 'loop')!r} is a link to a folder that it is in",)


@pytest.mark.parametrize("link", ["newts", "cats/more", "cats/deep/more"])
def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path, pets: Path, link: str) -> None:
    elsewhere = put(tmp_path / "elsewhere", ["8.png", "sub/9.png"])
    (pets / link).parent.mkdir(exist_ok=True)
    (pets / link).symlink_to(elsewhere)
    found = folders.find(pets)
    assert found.names == tuple(sorted([*ALL_PETS, f"{link}/8.png", f"{link}/sub/9.png"]))
    assert found.bad == ()


def test_a_link_to_a_file_elsewhere_is_a_picture(tmp_path: Path, pets: Path) -> None:
    put(tmp_path, ["elsewhere.png"])
    (pets / "cats" / "9.png").symlink_to(tmp_path / "elsewhere.png")
    assert "cats/9.png" in folders.find(pets).names


def test_a_folder_may_be_given_by_way_of_a_link_or_from_where_one_is(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(pets)
    monkeypatch.chdir(pets)
    for folder in (tmp_path / "link", Path()):
        assert folders.find(folder).names == tuple(ALL_PETS)


@pytest.mark.parametrize("where", ["cats/pipe.png", "cats/deep/pipe.png"])
def test_a_pipe_is_bad_and_named(pets: Path, where: str) -> None:
    (pets / where).parent.mkdir(exist_ok=True)
    os.mkfifo(pets / where)
    found = folders.find(pets)
    assert found.bad == (f"{str(pets / where)!r} is not a file but a pipe, socket or device",)
    assert found.names == tuple(ALL_PETS)


def test_a_folder_that_may_not_be_listed_is_bad_and_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidding(folder: Path) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    put(pets, ["cats/locked/9.png"])
    scandir = os.scandir  # permission bits do not stop root, as whom tests run in containers
    monkeypatch.setattr(os, "scandir", forbidding)
    found = folders.find(pets)
    assert found.bad == (f"{str(pets / 'cats' / 'locked')!r} cannot be listed: Permission denied",)
    assert found.names == tuple(ALL_PETS)


def test_files_that_may_not_be_read_are_left_to_the_decoder_and_are_no_duplicates(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidding(file: Path, *arguments: Any, **options: Any) -> object:
        if Path(file).parent == pets / "dogs":
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **options)

    opened = open
    monkeypatch.setattr("builtins.open", forbidding)
    found = folders.find(pets)
    assert (found.names, found.duplicates) == (tuple(ALL_PETS), ())


@pytest.mark.parametrize("hidden", ["cats/.DS_Store", ".git/0.png", "cats/.cache/0.png", ".notes", "cats/._0.png"])
def test_what_is_hidden_is_neither_a_picture_nor_bad(pets: Path, hidden: str) -> None:
    put(pets, [hidden])
    found = folders.find(pets)
    assert (found.names, found.bad) == (tuple(ALL_PETS), ())


def test_hidden_files_do_not_fill_a_class(pets: Path) -> None:
    put(pets, ["newts/.DS_Store"])
    with pytest.raises(BadInput, match=r"^the class 'newts' is empty: no readable picture in '.*/newts'$"):
        folders.find(pets)


def test_names_that_are_not_utf_8_are_kept_as_they_are(pets: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    put(pets, [f"cats/{odd}"])
    found = folders.find(pets)
    assert f"cats/{odd}" in found.names
    assert pets / "cats" / odd in found.paths


# Parts


def unsplit(counts: list[int]) -> Found:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"{label}/{number}" for number, label in enumerate(labels))
    return Found(Path(), tuple("abcde"[: len(counts)]), tuple(map(Path, names)), labels, names, None, (), ())


@given(counts=st.lists(st.integers(4, 23), min_size=2, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_a_folder_is_split_by_halves_and_quarters_of_each_class_completely_and_without_overlap(
    counts: list[int], seed: int
) -> None:
    found = unsplit(counts)
    split = folders.assign(found, np.ones(len(found.labels), bool), seed)
    for label, count in enumerate(counts):
        sizes = [int((found.labels[part] == label).sum()) for part in split]
        assert sizes == [count - 2 * (count // 4), count // 4, count // 4], f"{count} pictures of class {label}"
    placed = sorted(np.concatenate(split).tolist())
    assert placed == list(range(len(found.labels))), "each picture in one part, none left out"


@given(good=st.lists(st.booleans(), min_size=40, max_size=40), seed=st.integers(0, 99))
def test_only_pictures_that_are_good_are_placed(good: list[bool], seed: int) -> None:
    kept = np.array([*good, *[True] * 8])
    labels = np.array([0, 1] * 24)
    names = tuple(map(str, range(48)))
    found = Found(Path(), ("a", "b"), tuple(map(Path, names)), labels, names, None, (), ())
    split = folders.assign(found, kept, seed)
    assert sorted(np.concatenate(split).tolist()) == np.flatnonzero(kept).tolist()
    assert all(part.tolist() == sorted(part.tolist()) for part in split), "in the order of the files"


def test_the_seed_decides_the_parts() -> None:
    found = unsplit([20, 20])
    first, again, other = (
        [part.tolist() for part in folders.assign(found, np.ones(40, bool), seed)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_parts_that_the_folder_gives_are_kept_whatever_the_seed() -> None:
    labels, names = np.array([0, 1] * 3), tuple("abcdef")
    parts = tuple(part for part in PARTS for _ in range(2))
    found = Found(Path(), ("a", "b"), tuple(map(Path, names)), labels, names, parts, (), ())
    for seed in range(3):
        split = folders.assign(found, np.ones(6, bool), seed)
        assert [part.tolist() for part in split] == [[0, 1], [2, 3], [4, 5]]


def test_a_part_without_a_good_picture_of_a_class_is_refused_by_both_names() -> None:
    labels, names = np.array([0, 1] * 3), tuple("abcdef")
    parts = tuple(part for part in PARTS for _ in range(2))
    found = Found(Path("pets"), ("cats", "dogs"), tuple(map(Path, names)), labels, names, parts, (), ())
    where = re.escape("the class 'dogs' is empty: no readable picture in 'pets/validation/dogs'")
    with pytest.raises(BadInput, match=f"^{where}$"):
        folders.assign(found, np.array([True, True, True, False, True, True]), 0)


def test_a_class_whose_pictures_are_all_bad_is_refused_by_name() -> None:
    found = unsplit([5, 5])
    with pytest.raises(BadInput, match=r"^the class 'b' is empty: no readable picture in 'b'$"):
        folders.assign(found, found.labels == 0, 0)


def test_a_class_with_three_good_pictures_is_too_small_to_be_split() -> None:
    found = unsplit([5, 5])
    with pytest.raises(BadInput, match=r"a class needs at least 4 readable pictures to be split, but 'b' has 3$"):
        folders.assign(found, np.arange(10) < 8, 0)
