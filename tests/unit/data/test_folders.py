"""What a folder of pictures holds, known from names, links and bytes alone; and its split into parts."""

import os
import re
import shutil
import unicodedata
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convspec import BadInput
from convspec.data.folders import PARTS, Reading, assign, read_layout
from convspec.data.layouts import LISTING_5_4


def put(folder: Path, names: Iterable[str]) -> Path:
    """Write files that differ from one another; their content matters for duplicates only."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"the picture {name}".encode(errors="surrogateescape"))
    return folder


class Entry:
    """An entry of a folder, whose status other systems give in another way."""

    def __init__(self, entry: os.DirEntry) -> None:
        self.entry, self.name, self.is_dir, self.is_symlink = entry, entry.name, entry.is_dir, entry.is_symlink

    def __fspath__(self) -> str:
        return self.entry.path


def list_as(kind: type[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `os.scandir` give entries of this kind."""

    def listing(folder: Path) -> AbstractContextManager[list[Entry]]:
        with scandir(folder) as entries:
            return nullcontext([*map(kind, entries)])

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", listing)


ALL_PETS = tuple(f"{label}/{number}.png" for label in ("cats", "dogs") for number in range(4))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return put(tmp_path / "pets", ALL_PETS)


def split_pets(folder: Path) -> Path:
    return put(folder, [f"{part}/{label}/{part}.png" for part in PARTS for label in ("dogs", "cats")])


# Layouts


def test_one_subfolder_a_class_is_read_in_the_order_of_classes_and_names(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    put(tmp_path, ["newts/b.png", "cats/2.png", "cats/10.png", f"newts/{odd}", "dogs/old/1.png", "readme.txt"])
    (tmp_path / "cats" / "2.png").write_text("a file of another size")
    listed = read_layout(tmp_path)
    assert listed.classes == ("cats", "dogs", "newts")
    assert listed.names == ("cats/10.png", "cats/2.png", "dogs/old/1.png", "newts/b.png", f"newts/{odd}")
    assert (listed.labels.dtype, listed.labels.tolist()) == (np.int64, [0, 0, 1, 2, 2])
    assert listed.paths == tuple(tmp_path / name for name in listed.names)
    assert (listed.folder, listed.parts, listed.bad, listed.duplicates) == (tmp_path, None, (), ())


@pytest.mark.parametrize("inside", ["train", "."])
@pytest.mark.parametrize("labels", [("cat", "dog"), ("hot.dog", "kale", "überraschung")])
def test_files_named_by_class_and_number_are_sorted_into_classes(
    tmp_path: Path, inside: str, labels: tuple[str, ...]
) -> None:
    put(tmp_path / inside, [f"{label}.{number}.jpg" for label in reversed(labels) for number in (0, 7, 30)])
    listed = read_layout(tmp_path)
    assert listed.classes == labels
    assert listed.names == tuple(f"{label}/{label}.{number}.jpg" for label in labels for number in (0, 30, 7))
    assert listed.labels.tolist() == [label for label in range(len(labels)) for _ in range(3)]
    assert listed.parts is None


@pytest.mark.parametrize("name", ["dog.x.jpg", "dog.jpg", "dog.1.2-3.jpg", "1.jpg"])
def test_a_file_without_class_and_number_among_others_is_bad(tmp_path: Path, name: str) -> None:
    put(tmp_path / "train", ["cat.0.jpg", "dog.0.jpg", name])
    listed = read_layout(tmp_path)
    assert listed.bad == (f"{str(tmp_path / 'train' / name)!r} is not named CLASS.NUMBER, as the others are",)
    assert listed.names == ("cat/cat.0.jpg", "dog/dog.0.jpg")


def test_complete_cats_and_dogs_are_split_and_named_as_in_listing_5_4(tmp_path: Path) -> None:
    """As the public download has them; for Kaggle's layout see test_split.py."""
    names = {"cat": "PetImages/Cat/{}.jpg", "dog": "PetImages/Dog/{}.jpg"}
    put(tmp_path, [name.format(number) for name in names.values() for number in range(2010)])
    listed = read_layout(tmp_path)
    assert listed.parts is not None
    assert listed.classes == ("cats", "dogs")
    expected = {
        (part, f"{animal}s/{animal}.{number}.jpg", label, tmp_path / names[animal].format(number))
        for part, numbers in LISTING_5_4.items()
        for label, animal in enumerate(("cat", "dog"))
        for number in numbers
    }
    entries = list(zip(listed.parts, listed.names, listed.labels.tolist(), listed.paths, strict=True))
    assert len(entries) == 4000
    assert sorted(expected.symmetric_difference(entries))[:5] == []
    (tmp_path / names["cat"].format(1999)).unlink()
    rest = read_layout(tmp_path)
    assert (rest.parts, len(rest.names)) == (None, 4019), "where one is missing they are left as they are"


def test_a_third_class_beside_complete_cats_and_dogs_is_kept(tmp_path: Path) -> None:
    put(tmp_path, [f"{label}.{number}.jpg" for label in ("cat", "dog") for number in range(2000)] + ["owl.0.jpg"])
    listed = read_layout(tmp_path)
    assert (listed.classes, listed.parts, len(listed.names)) == (("cat", "dog", "owl"), None, 4001)


# Duplicates


def duplicates(folder: Path, *pairs: tuple[str, str]) -> tuple[str, ...]:
    return tuple(f"{str(folder / left)!r} is the same picture as {str(folder / kept)!r}" for left, kept in pairs)


def test_of_the_same_picture_twice_the_first_name_is_kept(pets: Path) -> None:
    for source, target in (("cats/2.png", "cats/9.png"), ("cats/2.png", "cats/0a.png"), ("dogs/1.png", "cats/8.png")):
        shutil.copy(pets / source, pets / target)
    (pets / "dogs" / "link.png").symlink_to(pets / "dogs" / "3.png")
    listed = read_layout(pets)
    assert listed.duplicates == duplicates(
        pets,
        ("cats/2.png", "cats/0a.png"),
        ("cats/9.png", "cats/0a.png"),
        ("dogs/1.png", "cats/8.png"),
        ("dogs/link.png", "dogs/3.png"),
    )
    assert listed.names == tuple(sorted({*ALL_PETS, "cats/0a.png", "cats/8.png"} - {"cats/2.png", "dogs/1.png"}))
    assert dict(zip(listed.names, listed.labels.tolist(), strict=True))["cats/8.png"] == 0


@pytest.mark.parametrize(
    "where", [("train", "test"), ("train", "validation"), ("validation", "test"), ("train", "validation", "test")]
)
def test_a_picture_in_two_parts_is_kept_where_it_is_tested_with(tmp_path: Path, where: tuple[str, ...]) -> None:
    split_pets(tmp_path)
    for part in where:
        (tmp_path / part / "cats" / "shared.png").write_text("shared")
    listed = read_layout(tmp_path)
    *left, kept = where
    pairs = ((f"{part}/cats/shared.png", f"{kept}/cats/shared.png") for part in left)
    assert listed.duplicates == duplicates(tmp_path, *pairs)
    assert [path.parts[-3] for path in listed.paths if path.name == "shared.png"] == [kept]


def test_empty_files_and_files_of_equal_size_are_no_duplicates(pets: Path) -> None:
    assert len({path.stat().st_size for path in pets.glob("*/*")}) == 1
    for name in ("cats/8.png", "cats/9.png"):
        (pets / name).touch()
    listed = read_layout(pets)
    assert listed.duplicates == ()
    assert set(listed.names) == {*ALL_PETS, "cats/8.png", "cats/9.png"}, "each is for the decoder to refuse"


@given(contents=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), min_size=2, max_size=30))
def test_each_content_is_listed_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, contents: list[tuple[str, int]]
) -> None:
    folder = put(tmp_path_factory.mktemp("pets"), ["a/first.png", "b/second.png"])
    for number, (label, content) in enumerate(contents):
        (folder / label / f"{number}.png").write_text(f"content {content}")
    listed = read_layout(folder)
    read = sorted(path.read_text() for path in listed.paths)
    distinct = {f"content {content}" for _, content in contents}
    assert read == sorted(distinct | {"the picture a/first.png", "the picture b/second.png"})
    assert len(listed.paths) + len(listed.duplicates) == len(contents) + 2, "the others are named"


# Links, pipes, and what cannot be read


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [*(("cats/loop.png", target, "is a link that leads nowhere") for target in ("nowhere", "loop.png")),
     *(("cats/loop", target, "is a link to a folder that it is in") for target in (".", "..", "../..")),
     ("cats/deep/loop", "..", "is a link to a folder that it is in"),
     ("zoo", ".", "is a link to a folder that it is in"),
     ("cats/pipe.png", None, "is not a file but a pipe, socket or device"),
     ("cats/deep/pipe.png", None, "is not a file but a pipe, socket or device")],
)  # fmt: skip
def test_what_is_neither_file_nor_folder_is_bad_and_adds_no_picture(
    pets: Path, name: str, target: str | None, reason: str
) -> None:
    (pets / name).parent.mkdir(exist_ok=True)
    if target:
        (pets / name).symlink_to(target)
    else:
        os.mkfifo(pets / name)
    listed = read_layout(pets)
    assert [line.partition(": ")[0] for line in listed.bad] == [f"{str(pets / name)!r} {reason}"]
    assert (listed.classes, listed.names) == (("cats", "dogs"), ALL_PETS)


def test_a_folder_that_may_not_be_listed_may_be_a_class_and_is_refused(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidding(folder: Path) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    put(pets, ["cats/locked/9.png"])
    scandir = os.scandir  # permission bits do not stop root, as whom tests run in containers
    monkeypatch.setattr(os, "scandir", forbidding)
    with pytest.raises(BadInput, match=f"^'{pets}/cats/locked' cannot be listed: Permission denied; make it readable"):
        read_layout(pets)


def test_a_folder_that_may_be_listed_but_not_entered_is_refused(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ForbiddenEntry(Entry):
        def stat(self) -> os.stat_result:
            if self.name == "3.png":
                raise PermissionError(13, "Permission denied", self.entry.path)
            return self.entry.stat()

    list_as(ForbiddenEntry, monkeypatch)
    with pytest.raises(BadInput, match=f"^'{pets}/cats' cannot be listed: Permission denied; make it readable"):
        read_layout(pets)
    for label in ("cats", "dogs"):
        (pets / label / "3.png").unlink()
        (pets / label / "3.png").symlink_to(pets / label / "2.png")
    assert len(read_layout(pets).bad) == 2, "of a link alone the target is forbidden"


@pytest.mark.parametrize("link", ["newts", "cats/more", "cats/deep/more"])
def test_links_to_folders_and_files_elsewhere_are_followed(tmp_path: Path, pets: Path, link: str) -> None:
    elsewhere = put(tmp_path / "elsewhere", ["8.png", "sub/9.png"])
    put(tmp_path, ["one.png"])
    (pets / link).parent.mkdir(exist_ok=True)
    (pets / link).symlink_to(elsewhere)
    (pets / "cats" / "9.png").symlink_to(tmp_path / "one.png")
    listed = read_layout(pets)
    assert listed.names == tuple(sorted([*ALL_PETS, "cats/9.png", f"{link}/8.png", f"{link}/sub/9.png"]))
    assert listed.bad == ()


def test_folders_in_folders_are_read_where_listings_have_no_identities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where `os.DirEntry.stat` has 0 for device and inode."""

    class WindowsEntry(Entry):
        def stat(self) -> os.stat_result:
            status = self.entry.stat()
            return os.stat_result((status.st_mode, 0, 0, *status[3:]))

    folder = split_pets(tmp_path)
    (folder / "train" / "cats" / "loop").symlink_to("..")
    expected = read_layout(folder)
    list_as(WindowsEntry, monkeypatch)
    listed = read_layout(folder)
    assert (listed.names, listed.parts, listed.bad) == (expected.names, expected.parts, expected.bad)
    assert len(listed.names) == 6
    assert len(listed.bad) == 1


def test_a_folder_may_be_given_by_a_link_or_from_where_one_is(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(pets)
    monkeypatch.chdir(pets)
    for folder in (tmp_path / "link", Path()):
        assert read_layout(folder).names == ALL_PETS


@pytest.mark.parametrize("hidden", ["cats/.DS_Store", ".git/0.png", "cats/.cache/0.png", ".notes", "cats/._0.png"])
def test_what_is_hidden_is_neither_a_picture_nor_bad_nor_fills_a_class(pets: Path, hidden: str) -> None:
    put(pets, [hidden])
    listed = read_layout(pets)
    assert (listed.names, listed.bad) == (ALL_PETS, ())
    put(pets, ["newts/.DS_Store"])
    assert read_layout(pets).classes == ("cats", "dogs")


# Parts


def unsplit(counts: list[int], parts: tuple[str, ...] | None = None) -> Reading:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"{label}/{number}" for number, label in enumerate(labels))
    classes = tuple("abcde"[: len(counts)])
    return Reading(Path("pets"), classes, tuple(map(Path, names)), labels, names, parts, (), ())


@given(
    counts=st.lists(st.integers(4, 23), min_size=2, max_size=5),
    seed=st.integers(0, 2**32 - 1),
    bad=st.lists(st.booleans(), min_size=115, max_size=115),
)
def test_each_class_is_split_by_quarters_completely_and_without_overlap(
    counts: list[int], seed: int, bad: list[bool]
) -> None:
    files = unsplit(counts)
    first = np.concatenate([np.arange(count) < 4 for count in counts])
    readable = first | ~np.array(bad[: sum(counts)])
    split = assign(files, dict.fromkeys(np.flatnonzero(~readable).tolist(), ""), seed)
    for label in range(len(counts)):
        count = int((readable & (files.labels == label)).sum())
        sizes = [int((files.labels[part] == label).sum()) for part in split]
        assert sizes == [count - 2 * (count // 4), count // 4, count // 4], f"{count} pictures of class {label}"
    assert sorted(np.concatenate(split).tolist()) == np.flatnonzero(readable).tolist(), "each in one part"
    assert all(part.tolist() == sorted(part.tolist()) for part in split), "in the order of the files"


def test_the_seed_decides_the_parts_unless_the_folder_does() -> None:
    def split(files: Reading, seed: int) -> list[list[int]]:
        return [part.tolist() for part in assign(files, {}, seed)]

    files = unsplit([20, 20])
    assert split(files, 1) == split(files, 1) != split(files, 2)
    given = unsplit([3, 3], parts=PARTS * 2)
    assert split(given, 1) == split(given, 2) == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(("copied", "what"), [("dogs", "'dogs' in "), ("test/dogs", "'cats' in train of ")])
def test_a_class_of_nothing_but_copies_of_others_is_refused(copied: str, what: str, tmp_path: Path) -> None:
    """With one class every answer would be right, and with no test part one would be drawn."""
    top = "train/" if "/" in copied else ""
    put(tmp_path, [f"{top}{label}/{n}.png" for label in ("cats", "dogs") for n in range(4)])
    if top:
        put(tmp_path, ["test/cats/9.png"])
    shutil.copytree(tmp_path / top / "cats", tmp_path / copied, dirs_exist_ok=True)
    with pytest.raises(
        BadInput, match=f"all pictures of {what}'{tmp_path}' are there twice: .*/{copied}/.*; take those away"
    ):
        read_layout(tmp_path)


def test_a_picture_in_two_classes_is_warned_of_and_a_copy_in_one_is_not(pets: Path) -> None:
    one, other = sorted((pets / "cats").glob("*.png"))[:2]
    shutil.copy(one, pets / "cats" / "again.png")
    shutil.copy(other, pets / "dogs" / "no_dog.png")
    lines, _ = read_layout(pets).explain()
    (warning,) = [line for line in lines if "WARNING" in line]
    assert warning.strip() == (
        "WARNING: pictures in two classes, taken as one of them: 1"
        f" ({str(pets / 'dogs' / 'no_dog.png')!r} is the same picture as {str(other)!r})"
    )


def test_classes_that_differ_in_capitals_spaces_or_form_are_warned_of(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    put(tmp_path, ["Cats/0.png", "cats /1.png", f"{composed}/2.png", f"{apart}/3.png"])
    assert [note for note in read_layout(tmp_path).notes if "WARNING" in note] == [
        f"WARNING: 2 classes are called {name!r}, but for capitals, spaces and forms of accents"
        for name in ("cats", composed)
    ]


@pytest.mark.parametrize(
    ("files", "bad", "message"),
    [
        (
            unsplit([3, 3], PARTS * 2),
            [4],
            "the class 'b' is empty: no readable picture of it in validation of 'pets'; why",
        ),
        (unsplit([5, 5]), range(5, 10), "the class 'b' is empty: no readable picture of it in 'pets'; why"),
        (unsplit([5, 5]), [8, 9], "'pets': a class needs at least 4 readable pictures to be split, but 'b' has 3"),
    ],
)
def test_a_class_without_enough_readable_pictures_is_refused_by_name(
    files: Reading, bad: list[int], message: str
) -> None:
    with pytest.raises(BadInput, match=f"^{re.escape(message)}$"):
        assign(files, dict.fromkeys(bad, "why"), 0)
