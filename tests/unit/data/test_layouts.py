"""Which folders are parts and which are classes, and what is neither, in the layouts that people have."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from builders import put_noise as put
from PIL import Image

from convspec import BadInput
from convspec.data import load_dataset
from convspec.data.folders import PARTS, Layout, Reading, assign, read_layout
from convspec.data.layouts import find_part

pytestmark = pytest.mark.filterwarnings("error")
PETS = ("cats", "dogs")
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"
)


def counts(reading: Reading) -> Counter[tuple[str, str]]:
    """Return the number of files by part and class."""
    parts = reading.parts or ("",) * len(reading.paths)
    return Counter((part, reading.classes[label]) for part, label in zip(parts, reading.labels, strict=True))


def in_parts(**parts: int) -> dict[tuple[str, str], int]:
    return {(part, label): count for part, count in parts.items() for label in PETS}


def sizes(folder: Path, layout: Layout | None = None) -> list[list[int]]:
    """Return the number of pictures of each class in train, validation and test, as loaded."""
    parts = load_dataset(folder, 8, layout=layout).parts.values()
    return [np.bincount(split.labels).tolist() for split in parts]


# Parts


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("Train", "Validation", "Test"),
        ("training_set", "dev_set", "test_set"),
        ("Training Set", "Validation Set", "Testing Set"),
        ("TrainingData", "ValData", "EvaluationData"),
        ("trainset", "valset", "testset"),
        ("seg_train/seg_train", "seg_dev/seg_dev", "seg_test/seg_test"),
        ("animals-train-1", "animals-valid-1", "animals-eval-1"),
    ],
)
def test_parts_are_known_by_keywords_whatever_the_case_and_place(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        put(tmp_path, *(f"{name}/{label}" for label in PETS), count=2)
    reading = read_layout(tmp_path)
    assert (reading.classes, counts(reading)) == (PETS, in_parts(train=2, validation=2, test=2))
    for path, part in zip(reading.paths, reading.parts or (), strict=True):
        assert path.is_relative_to(tmp_path / names[PARTS.index(part)])
    assert sizes(tmp_path) == [[2, 2]] * 3


@pytest.mark.parametrize("name", ["bus", "constrain", "contest", "latest", "devil", "train and test", "medieval"])
def test_a_name_without_a_keyword_of_its_own_is_no_part(name: str) -> None:
    assert find_part(name)[0] is None


@pytest.mark.parametrize(
    ("names", "missing"),
    [(("train", "val"), "test"), (("train", "test"), "validation"), (("Training", "Testing"), "validation")],
)
def test_a_missing_part_is_taken_from_train_by_class_and_seed(
    names: tuple[str, str], missing: str, tmp_path: Path
) -> None:
    put(tmp_path, *(f"{name}/{label}" for name in names for label in PETS))
    given = "test" if missing == "validation" else "validation"
    reading = read_layout(tmp_path)
    assert f"no {missing} part: 20% of train, by class and seed" in reading.notes
    first, again, other = (assign(reading, {}, seed) for seed in (0, 0, 1))
    assert [part.tolist() for part in first] == [part.tolist() for part in again]
    drawn, kept = PARTS.index(missing), PARTS.index(given)
    assert first[drawn].tolist() != other[drawn].tolist()
    assert {reading.paths[n].parts[-3] for n in first[drawn]} == {names[0]}, "from train"
    assert {reading.paths[n].parts[-3] for n in first[kept]} == {names[1]}, "what is given stays"
    assert sorted(np.concatenate(first).tolist()) == list(range(40))
    expected = {"train": [8, 8], missing: [2, 2], given: [10, 10]}
    assert sizes(tmp_path) == [expected[part] for part in PARTS]


def test_where_train_alone_has_classes_all_parts_are_taken_from_it(tmp_path: Path) -> None:
    put(tmp_path, "train/cats", "train/dogs", "test")
    reading = read_layout(tmp_path)
    assert (reading.classes, reading.parts) == (PETS, None)
    assert reading.left_out == {"pictures outside of the classes": tuple(sorted((tmp_path / "test").iterdir()))}
    assert sizes(tmp_path) == [[6, 6], [2, 2], [2, 2]]


def test_a_flat_test_part_beside_train_and_val_is_left_out_with_a_line(tmp_path: Path) -> None:
    put(tmp_path, "train/cats", "train/dogs", "val/cats", "val/dogs", "test")
    reading = read_layout(tmp_path)
    assert counts(reading) == in_parts(train=10, validation=10)
    lines, _ = reading.explain()
    assert "left out: 10 pictures outside of the classes (test/0.png, test/1.png, test/2.png, ...)" in lines


def test_numbered_files_in_each_part_keep_their_parts(tmp_path: Path) -> None:
    put(tmp_path, "train", "val")
    for path in [*tmp_path.glob("*/*.png")]:
        path.rename(path.with_name(f"{PETS[int(path.stem) % 2]}.{path.name}"))
    assert counts(read_layout(tmp_path)) == in_parts(train=5, validation=5)


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("names", [("Cats", "DOGS"), (unicodedata.normalize("NFD", "cäts"), "dogs")])
def test_classes_are_the_same_in_each_part_whatever_case_and_form(
    names: tuple[str, str], numbered: bool, tmp_path: Path
) -> None:
    classes = tuple(unicodedata.normalize("NFC", name).lower() for name in names)
    put(tmp_path, *(f"train/{name}" for name in classes), *(f"test/{name}" for name in names), count=2)
    for path in [*tmp_path.glob("*/*/*.png")] if numbered else []:
        path.rename(path.parents[1] / f"{path.parent.name}.{path.name}")
    reading = read_layout(tmp_path)
    assert {name.partition("/")[0] for name in reading.names} == {*classes}
    assert (reading.classes, set(counts(reading).values())) == (classes, {2})
    assert f"{names[0]!r} in test is the class {classes[0]!r}" in reading.notes


def test_a_class_beside_the_parts_of_another_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "cats/train", "cats/test", "dogs", count=1)
    with pytest.raises(BadInput, match="the class 'cats' has parts and nothing else, 'dogs' has not; make them alike"):
        read_layout(tmp_path)
    assert counts(read_layout(tmp_path, "classes")) == {("", "cats"): 2, ("", "dogs"): 1}


@pytest.mark.parametrize("tops", [("Trainingsdaten", "Prüfdaten"), ("fold1", "fold2"), ("128px", "256px")])
def test_classes_that_all_have_the_same_subfolders_are_warned_of(tops: tuple[str, ...], tmp_path: Path) -> None:
    reading = read_layout(put(tmp_path, *(f"{top}/{label}" for top in tops for label in PETS), count=1))
    assert set(reading.classes) == set(tops)
    assert reading.notes[0].startswith("WARNING: each of these classes has the subfolders cats, dogs; if those are the")


def test_parts_inside_of_classes_are_parts(tmp_path: Path) -> None:
    put(tmp_path, *(f"{label}/{part}" for label in PETS for part in ("train", "Test")), count=5)
    reading = read_layout(tmp_path)
    assert (reading.classes, counts(reading)) == (PETS, in_parts(train=5, test=5))
    assert reading.names[:2] == ("cats/0.png", "cats/1.png")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("train/cats", "train/dogs", "Training/cats", "Training/dogs"), "'Training' and 'train' are both train by"),
        (("val/cats", "val/dogs", "test/cats", "test/dogs"), "has test, validation but no train part with classes"),
        (
            ("train_val/cats", "train_val/dogs", "test/cats", "test/dogs"),
            "has test but no train part with classes among its folders 'test', 'train_val'; give one",
        ),
        (("train", "test"), r"has parts \(test, train\) without classes: .* --convspec-layout classes if"),
        (("cats_train", "cats_test", "dogs_train", "dogs_test"), "'cats_test' hold a class and a part; .* train/CLASS"),
        (
            ("train/cats", "train/dogs", "test/cats", "test/newts"),
            "classes cats, newts; train has cats, dogs; give both",
        ),
        (("train/cats", "train/dogs", "train/Cats", "test/cats", "test/dogs"), "train has Cats, cats, dogs; give both"),
    ],
)
def test_parts_that_cannot_be_used_are_refused(classes: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        read_layout(put(tmp_path, *classes))


def test_two_folders_that_are_one_part_by_their_names_are_refused(tmp_path: Path) -> None:
    for part in ("train", "training", "test"):
        put(tmp_path, *(f"{part}/{label}" for label in PETS), count=3)
        for label in PETS:
            for number in range(3):
                (tmp_path / part / label / f"{number}.png").rename(tmp_path / part / f"{label}.{number}.png")
            (tmp_path / part / label).rmdir()
    with pytest.raises(BadInput, match="two folders that are train by their names; rename one"):
        read_layout(tmp_path)


def test_a_class_that_cannot_be_read_is_no_reason_to_take_another_apart(tmp_path: Path) -> None:
    put(tmp_path, "cats/indoors", "cats/outdoors")
    (tmp_path / "dogs").symlink_to(".")
    with pytest.raises(BadInput, match=r"only the class 'cats' \(.*dogs' is a link to a folder that it is in"):
        read_layout(tmp_path)


def test_a_folder_that_is_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "cats", "newts", count=40)
    (tmp_path / "dogs").symlink_to(tmp_path / "not mounted")
    with pytest.raises(BadInput, match=r"/dogs' is a link that leads nowhere: .*; make it lead to a folder"):
        read_layout(tmp_path)


# Classes named as parts are


@pytest.mark.parametrize(
    "classes",
    [
        ("bus", "car", "train"),
        ("bullet train", "steam train"),
        ("test tube", "train"),
        ("car", "test"),
        ("bus", "test tube", "flask"),
    ],
)
def test_folders_of_pictures_alone_are_classes_whatever_their_names(classes: tuple[str, ...], tmp_path: Path) -> None:
    reading = read_layout(put(tmp_path, *classes))
    assert (reading.classes, reading.parts) == (tuple(sorted(classes)), None)
    assert set(counts(reading).values()) == {10}


OPEN: list[tuple[tuple[str, ...], Mapping[Layout, tuple[str, ...]]]] = [
    (("bus", "train/steam", "train/electric"), {"classes": ("bus", "train"), "parts": ("electric", "steam")}),
    (("cats", "dogs", "test"), {"classes": ("cats", "dogs", "test"), "parts": ("cats", "dogs")}),
]


@pytest.mark.parametrize(("folders", "readings"), OPEN)
def test_where_two_readings_are_plausible_the_error_names_both(
    folders: tuple[str, ...], readings: Mapping[Layout, tuple[str, ...]], tmp_path: Path
) -> None:
    put(tmp_path, *folders)
    choice = "choose with --convspec-layout classes or --convspec-layout parts"
    with pytest.raises(
        BadInput, match=rf"^'{tmp_path}' can be read in two ways: .* as the classes.*, or .*; {choice}$"
    ):
        load_dataset(tmp_path, 8)
    for layout, classes in readings.items():
        assert read_layout(tmp_path, layout).classes == classes
        assert load_dataset(tmp_path, 8, layout=layout).classes == classes


def test_a_class_called_train_of_numbered_files_may_not_be_all_there_is(tmp_path: Path) -> None:
    put(tmp_path, "bus", "car", "train")
    for path in [*(tmp_path / "train").iterdir()]:
        path.rename(path.with_name(f"{('flickr', 'google')[int(path.stem) % 2]}.{path.name}"))
    with pytest.raises(
        BadInput, match=r"'bus', 'car', 'train' as the classes, or 'train' as the part .*, without 'bus'"
    ):
        read_layout(tmp_path)
    assert read_layout(tmp_path, "classes").classes == ("bus", "car", "train")
    assert read_layout(tmp_path, "parts").classes == ("flickr", "google")


# What is neither


@pytest.mark.parametrize("top", ["photos", "a/b/c", "pets/train"])
def test_single_folders_on_top_are_looked_through(top: str, tmp_path: Path) -> None:
    put(tmp_path / top, *PETS)
    reading = read_layout(tmp_path)
    assert (reading.classes, reading.names[0]) == (PETS, "cats/0.png")
    assert reading.notes[0] == f"all pictures are in {top!r}, which is read"
    assert sizes(tmp_path) == sizes(tmp_path / top)


FOREIGN = ("notes", "__MACOSX", ".git", "@eaDir", ".ipynb_checkpoints", "annotations", "cats/@eaDir", "cats/xml")


@pytest.mark.parametrize("name", FOREIGN)
def test_empty_and_foreign_folders_are_left_out_and_named(name: str, tmp_path: Path) -> None:
    expected = read_layout(put(tmp_path, *PETS)).names
    (tmp_path / name).mkdir()
    foreign = name.rpartition("/")[2] in FOREIGN[1:5]
    (tmp_path / name / ("thumb.png" if foreign else "1.xml")).write_bytes((tmp_path / "cats" / "1.png").read_bytes())
    (tmp_path / name / "1.xml").write_text("<a/>")
    if not foreign:
        (tmp_path / name / "deeper").mkdir()
    reading = read_layout(tmp_path)
    assert (reading.names, reading.bad, reading.duplicates) == (expected, (), ())
    assert list(reading.left_out.values()) == [(tmp_path / name,)]
    assert name in "\n".join(reading.explain()[0])
    assert sizes(tmp_path) == [[6, 6], [2, 2], [2, 2]]


NO_PICTURES = {
    "Thumbs.db": "system files",
    "desktop.ini": "system files",
    "labels.csv": "texts and tables",
    "1.json": "texts and tables",
    "1.XML": "texts and tables",
    "README": "other files",
    "film.mp4": "videos and sounds",
    "1.CR2": "raw photographs",
    "1.tga": "pictures in other formats, to be saved as JPEG or PNG",
    "1.jpg.crdownload": "unfinished downloads",
}


def test_files_that_are_no_pictures_are_counted_by_kind_and_not_as_broken(tmp_path: Path) -> None:
    put(tmp_path, *PETS)
    for label in PETS:
        for name, kind in NO_PICTURES.items():
            (tmp_path / label / name).write_bytes(b"\xff\xd8\xff" * 9 if kind[0] in "ru" else b"[no picture]")
    reading = read_layout(tmp_path)
    assert len(reading.paths) == 20
    assert reading.bad == ()
    kinds = {path.relative_to(tmp_path).as_posix(): kind for kind, paths in reading.left_out.items() for path in paths}
    assert kinds == {f"{label}/{name}": kind for label in PETS for name, kind in NO_PICTURES.items()}
    assert "left out: 6 texts and tables (cats/1.XML, cats/1.json, cats/labels.csv, ...)" in reading.explain()[0]
    assert load_dataset(tmp_path, 8, max_bad_fraction=0).skipped == ()


def test_of_a_class_in_another_format_its_files_are_named(tmp_path: Path) -> None:
    put(tmp_path, *PETS)
    (tmp_path / "newts").mkdir()
    (tmp_path / "newts" / "1.psd").write_bytes(b"8BPS")
    assert read_layout(tmp_path).left_out == {"drawings and projects": (tmp_path / "newts" / "1.psd",)}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("pets.zip", "; unpack 'pets.zip', or give it to `convspec split`"),
        ("train.csv", "; 'train.csv' is not read: if"),
    ],
)
@pytest.mark.parametrize("folders", [("images",), ("train", "test")])
def test_an_archive_or_a_table_beside_no_classes_is_named(
    folders: tuple[str, ...], name: str, remedy: str, tmp_path: Path
) -> None:
    put(tmp_path, *folders, count=1)
    (tmp_path / name).write_text("file,label")
    with pytest.raises(BadInput, match=re.escape(remedy)):
        read_layout(tmp_path)


@pytest.mark.parametrize("name", ["1", "photo.dat", "1.txt", "1.ini"])
def test_a_picture_under_any_name_is_told_by_its_content(name: str, tmp_path: Path) -> None:
    put(tmp_path, *PETS)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "cats" / name, "JPEG")
    reading = read_layout(tmp_path)
    assert tmp_path / "cats" / name in reading.paths
    assert reading.left_out == {}


def test_pointers_of_git_lfs_say_what_to_run(tmp_path: Path) -> None:
    put(tmp_path, *PETS, count=20)
    (tmp_path / "cats" / "3.png").write_bytes(POINTER)
    assert read_layout(tmp_path).bad == (f"'{tmp_path}/cats/3.png' is a pointer of Git LFS; run `git lfs pull`",)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(POINTER)
    with pytest.raises(BadInput, match=rf"^40 of 40 pictures in '{tmp_path}' are pointers of Git LFS.*`git lfs pull`"):
        load_dataset(tmp_path, 8)


@pytest.mark.parametrize("part", ["", "test"])
@pytest.mark.parametrize("content", ["a pointer of Git LFS; run `git lfs pull`", "a link that leads nowhere: No such"])
def test_a_class_without_the_content_of_its_pictures_is_refused(content: str, part: str, tmp_path: Path) -> None:
    put(tmp_path / part, *PETS, count=20)
    if part:
        put(tmp_path / "train", *PETS, "newts", count=25)
    picture = tmp_path / part / "newts" / "0.jpg"
    picture.parent.mkdir()
    if "link" in content:
        picture.symlink_to("not mounted")
    else:
        picture.write_bytes(POINTER)
    where = f"test of {str(tmp_path)!r}" if part else repr(str(tmp_path))
    message = f"the class 'newts' is empty: no readable picture of it in {where}; {str(picture)!r} is {content}"
    with pytest.raises(BadInput, match=f"^{re.escape(message)}"):
        read_layout(tmp_path)


# What an accuracy is worth


def test_of_very_many_classes_the_first_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number:02d}").mkdir()
        for name in range(4 + number % 3):
            (tmp_path / f"{number:02d}" / f"{name}.png").write_text(f"{number} {name}")
    lines, problem = read_layout(tmp_path).explain()
    assert problem is None
    assert [line for line in lines if line.startswith("  49: ")] == ["  49: 3 train, 1 validation, 1 test"]
    assert "  and 10 more classes of 4 to 6 pictures" in lines
    assert not [line for line in lines if line.startswith("  50: ")]


def test_the_reading_says_what_the_majority_reaches_and_who_is_few(tmp_path: Path) -> None:
    put(tmp_path, "cats", count=55)
    put(tmp_path, "dogs", count=5)
    lines, problem = read_layout(tmp_path).explain()
    assert problem is None
    assert "  cats: 29 train, 13 validation, 13 test" in lines
    assert "a model that always answers cats is right in 92.9%" in lines, "13 of 14"
    assert "few pictures to test with, so that accuracy says little about these classes: dogs (1)" in lines
    (tmp_path / "dogs" / "0.png").unlink()
    (tmp_path / "dogs" / "1.png").unlink()
    lines, problem = read_layout(tmp_path).explain()
    assert problem is not None
    assert "few pictures in all, so that accuracy says little about these classes: dogs (3)" in lines, "none is a part"
