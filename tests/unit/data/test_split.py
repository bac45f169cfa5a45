"""Pictures split as in listing 5.4: completely, verifiably, repeatably, and never at the source's cost."""

import errno
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convspec import BadInput, MissingData
from convspec.data import datasets
from convspec.data.split import Manifest, split

PARTS = ("train", "validation", "test")
LISTING_5_4 = {"train": range(1000), "validation": range(1000, 1500), "test": range(1500, 2000)}


def picture(number: int) -> bytes:
    """A whole picture of four pixels, another one for each number."""
    return b"P6 2 2 255\n" + number.to_bytes(4, "big") * 3


def fill(folder: Path, **counts: int) -> Path:
    """So many pictures a class, no two of them alike."""
    number = 0
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for position in range(count):
            (folder / label / f"{position:02d}.ppm").write_bytes(picture(number))
            number += 1
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, hidden or not; folders as themselves."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"folder"
        for path in folder.rglob("*")
    }


def in_parts(folder: Path) -> dict[str, bytes]:
    """The pictures of a split folder."""
    return {name: content for name, content in tree(folder).items() if content.startswith(b"P6")}


def states(folder: Path) -> dict[str, tuple[int, ...]]:
    """What changes when somebody writes to a file, or puts another in its place."""
    return {
        str(path): (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
        for path in folder.rglob("*")
        if (status := path.lstat())
    }


def archived(folder: Path, archive: Path, top: str = "") -> Path:
    """A zip or a tar, as its name says, of all in `folder`, with `top` before each name."""
    files = {
        f"{top}{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name, path in files.items():
                packed.write(path, name)
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".tgz" else "w") as tar:
            for name, path in files.items():
                tar.add(path, name)
    return archive


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return fill(tmp_path / "pets", cats=8, dogs=4)


# Which part a picture belongs to


def expected_parts(sources: dict[tuple[str, int], bytes]) -> dict[str, bytes]:
    return {
        f"{part}/{animal}s/{animal}.{number}.jpg": sources[animal, number]
        for part, numbers in LISTING_5_4.items()
        for animal in ("cat", "dog")
        for number in numbers
    }


def cats_and_dogs() -> dict[tuple[str, int], bytes]:
    """More than listing 5.4 takes, as in the originals."""
    numbers = range(2003)
    return {(animal, n): picture(n + first) for animal, first in (("cat", 0), ("dog", 5000)) for n in numbers}


def test_kaggles_folder_is_split_as_in_listing_5_4(tmp_path: Path) -> None:
    (tmp_path / "kaggle" / "train").mkdir(parents=True)
    for (animal, number), content in cats_and_dogs().items():
        (tmp_path / "kaggle" / "train" / f"{animal}.{number}.jpg").write_bytes(content)
    manifest = split(tmp_path / "kaggle", tmp_path / "small", link=True)
    assert in_parts(tmp_path / "small") == expected_parts(cats_and_dogs())
    assert manifest.classes == ("cats", "dogs")
    assert manifest.counts == {
        "train": {"cats": 1000, "dogs": 1000},
        "validation": {"cats": 500, "dogs": 500},
        "test": {"cats": 500, "dogs": 500},
    }
    assert manifest.files["validation/dogs/dog.1000.jpg"]["source"] == "train/dog.1000.jpg"


def test_the_public_downloads_archive_is_split_as_in_listing_5_4_without_its_broken_pictures(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "kagglecatsanddogs.zip", "w") as archive:
        for (animal, number), content in cats_and_dogs().items():
            broken = (animal, number) in (("cat", 666), ("dog", 1702))
            archive.writestr(f"PetImages/{animal.title()}/{number}.jpg", b"" if broken else content)
    manifest = split(tmp_path / "kagglecatsanddogs.zip", tmp_path / "small")
    expected = expected_parts(cats_and_dogs())
    del expected["train/cats/cat.666.jpg"], expected["test/dogs/dog.1702.jpg"]
    assert in_parts(tmp_path / "small") == expected
    assert [reason.partition(" is not a readable picture: ")[0] for reason in manifest.skipped] == [
        "'PetImages/Cat/666.jpg'",
        "'PetImages/Dog/1702.jpg'",
    ]
    assert manifest.counts["train"] == {"cats": 999, "dogs": 1000}
    assert manifest.counts["test"] == {"cats": 500, "dogs": 499}


def test_the_real_pictures_in_kaggles_layout_are_split_as_they_were(data_folder: Path, tmp_path: Path) -> None:
    small = data_folder / "dogs_vs_cats_small"
    (tmp_path / "kaggle" / "train").mkdir(parents=True)
    for path in small.glob("*/*/*.jpg"):
        (tmp_path / "kaggle" / "train" / path.name).symlink_to(path)
    manifest = split(tmp_path / "kaggle", tmp_path / "small")
    digests = {
        path.relative_to(small).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in small.glob("*/*/*.jpg")
    }
    assert len(digests) == 4000
    assert {name: file["sha256"] for name, file in manifest.files.items()} == digests
    assert (manifest.skipped, manifest.duplicates) == ((), ())
    shutil.rmtree(tmp_path / "small")  # pytest would keep these 90 MB


@pytest.mark.parametrize("seed", [0, 3])
def test_what_was_split_loads_as_the_parts_that_loading_the_source_gives(seed: int, tmp_path: Path, pets: Path) -> None:
    split(pets, tmp_path / "small", seed=seed)
    source, target = datasets.load_dataset(pets, 4, Path(), seed), datasets.load_dataset(tmp_path / "small", 4, Path())
    assert target.fingerprint == source.fingerprint
    assert (target.skipped, target.train.names) == ((), source.train.names)


def test_another_seed_gives_another_split(tmp_path: Path, pets: Path) -> None:
    manifests = [split(pets, tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    assert set(manifests[0].files) != set(manifests[1].files)
    assert [manifest.seed for manifest in manifests] == [0, 1]


def test_a_folder_that_is_split_already_keeps_its_parts(tmp_path: Path) -> None:
    for part, count in zip(PARTS, (3, 2, 1), strict=True):
        fill(tmp_path / "pets" / part, cats=count, dogs=2)
        for number, path in enumerate(sorted((tmp_path / "pets" / part).rglob("*.ppm"))):
            path.write_bytes(picture(100 * count + number))
    split(tmp_path / "pets", tmp_path / "small", seed=5)
    assert in_parts(tmp_path / "small") == in_parts(tmp_path / "pets")


@given(counts=st.lists(st.integers(4, 9), min_size=2, max_size=3), seed=st.integers(0, 2**32 - 1))
def test_every_picture_is_in_one_part_and_each_class_by_halves_and_quarters(
    counts: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    source = fill(folder / "source", **dict(zip("abc", counts, strict=False)))
    manifest = split(source, folder / "small", seed=seed)
    written = in_parts(folder / "small")
    assert sorted(written.values()) == sorted(in_parts(source).values()), "each once, none left out"
    for label, count in zip("abc", counts, strict=False):
        sizes = [sum(name.startswith(f"{part}/{label}/") for name in written) for part in PARTS]
        assert sizes == [count - 2 * (count // 4), count // 4, count // 4]
        assert sizes == [manifest.counts[part][label] for part in PARTS]
    shutil.rmtree(folder)


@pytest.fixture
def listing_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards:
        def __init__(self, *arguments: Any) -> None:
            with scandir(*arguments) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> Iterator[os.DirEntry]:
            return iter(self.entries)

        def __exit__(self, *arguments: object) -> None: ...

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Backwards)


def test_the_order_in_which_the_file_system_lists_changes_nothing(
    tmp_path: Path, pets: Path, request: pytest.FixtureRequest
) -> None:
    for label in ("cats", "dogs"):
        for number in (3, 2, 1):
            (pets / label / f"bad{number}.ppm").touch()
    split(pets, tmp_path / "expected")
    request.getfixturevalue("listing_backwards")
    split(pets, tmp_path / "small")
    assert tree(tmp_path / "small") == tree(tmp_path / "expected")


# What is left out


def test_files_that_cannot_be_decoded_are_left_out_counted_and_named(tmp_path: Path, pets: Path) -> None:
    expected = split(pets, tmp_path / "before").files
    (pets / "cats" / "Thumbs.db").write_bytes(b"no picture")
    (pets / "dogs" / "cut.ppm").write_bytes(picture(0)[:-1])
    manifest = split(pets, tmp_path / "small")
    assert manifest.files == expected, "what is left out must not change the split of the others"
    named = [re.match("'(.*?)' is not a readable picture: .", reason) for reason in manifest.skipped]
    assert [match and match[1] for match in named] == ["cats/Thumbs.db", "dogs/cut.ppm"]


def test_what_is_no_file_is_left_out_and_named(tmp_path: Path, pets: Path) -> None:
    (pets / "cats" / "gone.ppm").symlink_to("nowhere")
    (reason,) = split(pets, tmp_path / "small").skipped
    assert reason.startswith("'cats/gone.ppm' is a link that leads nowhere")


def test_the_same_picture_under_two_names_is_taken_once_and_named(tmp_path: Path, pets: Path) -> None:
    for number in range(4):
        shutil.copy(pets / "cats" / f"{number:02d}.ppm", pets / "cats" / f"copy{number}.ppm")
        shutil.copy(pets / "cats" / f"{number:02d}.ppm", pets / "dogs" / f"copy{number}.ppm")
    manifest = split(pets, tmp_path / "small")
    contents = list(in_parts(tmp_path / "small").values())
    assert len(contents) == len(set(contents)) == 12
    assert len({file["sha256"] for file in manifest.files.values()}) == 12
    assert len(manifest.duplicates) == 8
    assert manifest.duplicates[0] == "'cats/copy0.ppm' is the same picture as 'cats/00.ppm'"


# The source


@pytest.mark.parametrize("link", [False, True])
def test_the_source_is_never_changed(link: bool, tmp_path: Path, pets: Path) -> None:
    (pets / "cats" / "bad.ppm").touch()
    shutil.copy(pets / "cats" / "00.ppm", pets / "dogs" / "copy.ppm")
    before = states(pets)
    for _ in range(2):
        split(pets, tmp_path / "small", link=link)
        assert states(pets) == before


@pytest.mark.parametrize("already_split", [False, True])
@pytest.mark.parametrize("target", ["pets", "pets/small", "pets/../pets/small/deep", ".", "alias", "alias/small"])
def test_a_target_that_overlaps_with_the_source_is_refused(target: str, already_split: bool, tmp_path: Path) -> None:
    for folder in PARTS if already_split else ("",):
        fill(tmp_path / "pets" / folder, cats=4, dogs=4)
    (tmp_path / "alias").symlink_to("pets")
    before = tree(tmp_path)
    with pytest.raises(BadInput) as refused:
        split(tmp_path / "pets", tmp_path / target)
    assert str(refused.value) == (
        f"'{tmp_path / 'pets'}' and '{tmp_path / target}' overlap; give a target outside of the source"
    )
    assert tree(tmp_path) == before


def test_an_archive_inside_of_its_target_is_refused(tmp_path: Path, pets: Path) -> None:
    archive = archived(pets, tmp_path / "pets.zip")
    with pytest.raises(BadInput, match="overlap"):
        split(archive, tmp_path)


def test_a_copy_is_a_file_of_its_own_and_a_link_is_the_picture_itself(tmp_path: Path, pets: Path) -> None:
    for link, folder in ((False, "copies"), (True, "links")):
        manifest = split(pets, tmp_path / folder, link=link)
        for name, file in manifest.files.items():
            assert (tmp_path / folder / name).samefile(pets / file["source"]) == link
    assert tree(tmp_path / "links") == tree(tmp_path / "copies")


def test_a_symbolic_link_to_a_picture_is_linked_as_the_picture(tmp_path: Path, pets: Path) -> None:
    (tmp_path / "aliases").mkdir()
    for path in pets.rglob("*.ppm"):
        (tmp_path / "aliases" / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / "aliases" / path.parent.name / path.name).symlink_to(path)
    split(tmp_path / "aliases", tmp_path / "small", link=True)
    links = [path for path in (tmp_path / "small").rglob("*") if path.is_symlink()]
    assert not links
    assert sorted(in_parts(tmp_path / "small").values()) == sorted(in_parts(pets).values())


def test_links_to_another_file_system_are_refused_with_the_way_out(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(*arguments: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", across)
    with pytest.raises(BadInput, match=r"^cannot link '.*pets.*\.ppm' .*\(.*cross-device.*\); leave out --link$"):
        split(pets, tmp_path / "small", link=True)
    assert in_parts(tmp_path / "small") == {}
    split(pets, tmp_path / "small")
    assert len(in_parts(tmp_path / "small")) == 12


def test_a_link_that_fails_for_want_of_space_or_permission_is_not_blamed_on_linking(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(PermissionError, match="Permission denied; put that right and run this again"):
        split(pets, tmp_path / "small", link=True)


# Archives


@pytest.mark.parametrize("top", ["", "pets/", "2024/all my pets/"], ids=["flat", "top", "deep"])
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_an_archive_is_split_as_the_folder_in_it_and_leaves_nothing_else_behind(
    suffix: str, top: str, tmp_path: Path, pets: Path
) -> None:
    (tmp_path / "work").mkdir()
    archive = archived(pets, tmp_path / "work" / f"pets{suffix}", top)
    before = states(tmp_path / "work")
    expected = split(pets, tmp_path / "expected")
    manifest = split(archive, tmp_path / "work" / "small")
    assert in_parts(tmp_path / "work" / "small") == in_parts(tmp_path / "expected")
    assert {file["source"] for file in manifest.files.values()} == {
        f"{top}{file['source']}" for file in expected.files.values()
    }
    assert sorted(os.listdir(tmp_path / "work")) == [archive.name, "small"]
    assert states(tmp_path / "work")[str(archive)] == before[str(archive)]
    again = states(tmp_path / "work" / "small")
    assert split(archive, tmp_path / "work" / "small") == manifest
    assert states(tmp_path / "work" / "small") == again


@pytest.mark.parametrize("top", ["", "pets/"])
def test_what_a_mac_adds_to_an_archive_is_no_class(top: str, tmp_path: Path, pets: Path) -> None:
    archive = archived(pets, tmp_path / "pets.zip", top)
    with zipfile.ZipFile(archive, "a") as packed:
        for name in (".DS_Store", f"__MACOSX/{top}cats/._00.ppm", f"__MACOSX/{top}._dogs"):
            packed.writestr(name, b"resource fork")
    manifest = split(archive, tmp_path / "small")
    assert (manifest.classes, manifest.skipped) == (("cats", "dogs"), ())


def test_an_error_about_what_is_in_an_archive_names_the_archive(tmp_path: Path, pets: Path) -> None:
    archive = archived(pets, tmp_path / "pets.zip", "all/train/")
    with pytest.raises(BadInput, match=f"^'{tmp_path}/pets.zip/all' has train but no validation, test;"):
        split(archive, tmp_path / "small")
    assert sorted(os.listdir(tmp_path)) == ["pets", "pets.zip"]


def test_a_damaged_archive_is_refused_and_leaves_nothing_behind(tmp_path: Path, pets: Path) -> None:
    archive = archived(pets, tmp_path / "pets.zip")
    archive.write_bytes(archive.read_bytes().replace(picture(7), picture(77)))
    with pytest.raises(BadInput, match=r"^'.*pets\.zip' is damaged"):
        split(archive, tmp_path / "small")
    assert sorted(os.listdir(tmp_path)) == ["pets", "pets.zip"]


def test_what_a_killed_run_unpacked_is_removed(tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archived(pets, tmp_path / "pets.zip")
    with monkeypatch.context() as patch:  # as after kill -9
        patch.setattr(shutil, "rmtree", lambda *arguments, **options: None)
        split(archive, tmp_path / "small")
    assert len(os.listdir(tmp_path)) == 4, "the test must have left something behind"
    split(archive, tmp_path / "small")
    assert sorted(os.listdir(tmp_path)) == ["pets", "pets.zip", "small"]


# Interrupted, and run again


class Interruption:
    """os.replace that raises at one of the final names in a folder, before or after it did its work."""

    def __init__(self, folder: Path, number: int, error: BaseException, late: bool) -> None:
        self.folder, self.left, self.error, self.late, self.replace = folder, number, error, late, os.replace

    def __call__(self, source: Path, target: Path) -> None:
        final = Path(target).is_relative_to(self.folder) and not Path(target).name.startswith("partial")
        self.left -= final
        if final and self.left == -1 and not self.late:
            raise self.error
        self.replace(source, target)
        if final and self.left == -1:
            raise self.error


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_run_interrupted_at_any_file_leaves_whole_files_only_and_the_next_completes_it(
    packed: bool, late: bool, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = archived(pets, tmp_path / "pets.tar") if packed else pets
    split(source, tmp_path / "expected")
    expected = tree(tmp_path / "expected")
    manifest = expected["manifest.json"]
    number = 0
    while True:
        target = tmp_path / str(number)
        try:
            with monkeypatch.context() as patch:
                replace = Interruption(target, number, KeyboardInterrupt(), late)
                patch.setattr(os, "replace", replace)
                split(source, target)
            break
        except KeyboardInterrupt:
            assert tree(target).items() <= expected.items(), f"interrupted at file {number}"
            assert len(in_parts(target)) == min(number + late, 12)
            assert ("manifest.json" in tree(target)) == (number == 12 and late), "the manifest says: complete"
            assert not list(tmp_path.glob(".*")), "what was unpacked must go"
        split(source, target)
        assert tree(target) == expected, f"interrupted at file {number}"
        number += 1
    assert number == 13, "12 pictures and the manifest"
    assert manifest == (tmp_path / "13" / "manifest.json").read_bytes()


# Starts without Keras, which takes seconds to import and which splitting has no use for; slow before each write.
CHILD = """
import hashlib, sys, time, types
sys.modules["keras"] = keras = types.ModuleType("keras")
keras.utils = types.SimpleNamespace(PyDataset=object)
from pathlib import Path
from convspec import splitting
class Slow:
    def __init__(self):
        self.digest = hashlib.sha256()
        self.hexdigest = self.digest.hexdigest
    def update(self, chunk):
        time.sleep(0.005)
        self.digest.update(chunk)
splitting.hashlib = types.SimpleNamespace(sha256=Slow, file_digest=hashlib.file_digest)
print("ready", flush=True)
splitting.split(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_run_killed_at_any_moment_leaves_whole_files_only_and_the_next_completes_it(tmp_path: Path) -> None:
    source = fill(tmp_path / "pets", cats=60, dogs=60)
    split(source, tmp_path / "expected")
    expected = tree(tmp_path / "expected")
    moments = random.Random(5)
    partials = 0
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-P", "-c", CHILD, str(source), str(tmp_path / "small")],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(split.__file__).parents[2])},
        ) as child:
            assert child.stdout
            assert child.stdout.readline() == b"ready\n"
            before, more = len(in_parts(tmp_path / "small")), moments.randint(1, 20)
            while child.poll() is None and len(in_parts(tmp_path / "small")) < before + more:
                time.sleep(moments.random() / 100)
            child.kill()
        left = tree(tmp_path / "small")
        unfinished = {name for name in left if "/partial" in name}
        partials += len(unfinished)
        whole = {name: left[name] for name in left.keys() - unfinished}
        assert whole.items() <= expected.items()
        assert "manifest.json" not in whole or whole == expected, "the manifest says: complete"
    assert partials, "no run was killed while it wrote"
    split(source, tmp_path / "small")
    assert tree(tmp_path / "small") == expected


def test_a_second_run_verifies_and_changes_nothing(tmp_path: Path, pets: Path) -> None:
    first = split(pets, tmp_path / "small")
    before = states(tmp_path / "small")
    assert split(pets, tmp_path / "small") == first
    assert states(tmp_path / "small") == before


def test_files_that_are_there_already_are_left_alone_and_the_others_added(tmp_path: Path, pets: Path) -> None:
    names = sorted(split(pets, tmp_path / "small").files)
    expected = tree(tmp_path / "small")
    for name in names[::2]:
        (tmp_path / "small" / name).unlink()
    before = states(tmp_path / "small")
    split(pets, tmp_path / "small")
    assert tree(tmp_path / "small") == expected
    after = states(tmp_path / "small")
    assert {path: after[path] for path in before if path.endswith(".ppm")} == {
        path: state for path, state in before.items() if path.endswith(".ppm")
    }


def put(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    "other",
    [put(picture(99)), put(b""), Path.mkdir, link_to("nowhere"), link_to("/dev/null")],
    ids=["other", "empty", "folder", "dangling", "device"],
)
def test_something_else_in_a_files_place_is_refused_before_anything_is_written(
    other: Callable[[Path], object], tmp_path: Path, pets: Path
) -> None:
    name = list(split(pets, tmp_path / "elsewhere").files)[7]
    path = tmp_path / "small" / name
    path.parent.mkdir(parents=True)
    other(path)
    before = states(tmp_path / "small")
    source = pets / re.sub("^[^/]*/", "", name)
    with pytest.raises(BadInput) as refused:
        split(pets, tmp_path / "small")
    assert str(refused.value) == (
        f"'{path}' is there with other content than '{source}'; move it away, or give a target that is new or empty"
    )
    assert states(tmp_path / "small") == before


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "train/cats/other.ppm", "train/partial12-notes.txt", "train/cats/partial-00.ppm",
     "train/newts/", "extra/", "train/cats/deep/", "test/cats/manifest.json", "old/manifest.json"],
)  # fmt: skip
@pytest.mark.parametrize("complete", [False, True])
def test_what_does_not_belong_in_the_target_is_refused_before_anything_is_written(
    name: str, complete: bool, tmp_path: Path, pets: Path
) -> None:
    if complete:
        split(pets, tmp_path / "small")
    path = tmp_path / "small" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(picture(0))
    before = states(tmp_path / "small")
    with pytest.raises(BadInput) as refused:
        split(pets, tmp_path / "small")
    named = tmp_path / "small" / ("old" if name.startswith("old") else name)
    assert str(refused.value) == (
        f"'{named}' does not belong to this split (another source or seed?); move it away, or give a target that is"
        " new or empty"
    )
    assert states(tmp_path / "small") == before


def test_the_first_file_of_a_split_with_another_seed_is_named(
    tmp_path: Path, pets: Path, request: pytest.FixtureRequest
) -> None:
    first = split(pets, tmp_path / "small", seed=1).files
    (tmp_path / "small" / "manifest.json").unlink()
    other = split(pets, tmp_path / "elsewhere", seed=0).files
    before = states(tmp_path / "small")
    name = min(set(first) - set(other))
    request.getfixturevalue("listing_backwards")
    with pytest.raises(BadInput, match=f"^'{tmp_path / 'small' / name}' does not belong"):
        split(pets, tmp_path / "small", seed=0)
    assert states(tmp_path / "small") == before


@pytest.mark.parametrize("make", [link_to("../elsewhere"), put(b"")], ids=["link", "file"])
def test_a_part_that_is_no_folder_of_its_own_is_refused(
    make: Callable[[Path], object], tmp_path: Path, pets: Path
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "elsewhere").mkdir()
    make(tmp_path / "small" / "train")
    with pytest.raises(BadInput, match="small/train' does not belong"):
        split(pets, tmp_path / "small")
    assert not any((tmp_path / "elsewhere").iterdir())


def test_hidden_files_in_the_target_are_ignored(tmp_path: Path, pets: Path) -> None:
    for name in (".DS_Store", "train/cats/.DS_Store", "test/.cache/00.ppm"):
        (tmp_path / "small" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "small" / name).write_bytes(b"hidden")
    split(pets, tmp_path / "small")
    assert len(in_parts(tmp_path / "small")) == 12
    assert list(tree(tmp_path / "small").values()).count(b"hidden") == 3


# The manifest


@pytest.mark.parametrize("link", [False, True])
def test_the_manifest_names_each_file_with_its_checksum_and_its_source(link: bool, tmp_path: Path, pets: Path) -> None:
    manifest = split(pets, tmp_path / "small", seed=7, link=link)
    written = json.loads((tmp_path / "small" / "manifest.json").read_bytes())
    assert written["files"].keys() == in_parts(tmp_path / "small").keys()
    for name, file in written["files"].items():
        content = (tmp_path / "small" / name).read_bytes()
        assert file == {
            "source": name.partition("/")[2],
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        assert (pets / file["source"]).read_bytes() == content
    assert (written["seed"], written["classes"]) == (7, ["cats", "dogs"])
    assert written["counts"] == {
        "train": {"cats": 4, "dogs": 2},
        "validation": {"cats": 2, "dogs": 1},
        "test": {"cats": 2, "dogs": 1},
    }
    assert (written["skipped"], written["duplicates"]) == ([], [])
    assert Manifest(**{**written, "classes": ("cats", "dogs"), "skipped": (), "duplicates": ()}) == manifest


@pytest.mark.parametrize("place", ["elsewhere", 'it\'s "here"', "it's/deep", "new\nline"])
def test_the_manifest_has_the_same_bytes_wherever_the_source_lies(
    place: str, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pets / "cats" / 'it\'s "bad".ppm').touch()
    (pets / "cats" / "gone.ppm").symlink_to("nowhere")
    shutil.copy(pets / "cats" / "00.ppm", pets / "cats" / "it's a copy.ppm")
    split(pets, tmp_path / "small")
    shutil.copytree(pets, tmp_path / place, symlinks=True)
    monkeypatch.chdir(tmp_path / place)
    split(tmp_path / place, tmp_path / "from there")
    split(Path(), tmp_path / "from here", link=True)
    manifest = (tmp_path / "small" / "manifest.json").read_bytes()
    for target in ("from there", "from here"):
        assert (tmp_path / target / "manifest.json").read_bytes() == manifest
    written = json.loads(manifest)
    assert str(tmp_path) not in str(written)
    assert [len(written["skipped"]), len(written["duplicates"])] == [2, 1]


@pytest.mark.parametrize("other", [put(b"{}"), put(b""), Path.mkdir, link_to("nowhere")])
def test_a_manifest_of_something_else_is_refused_before_anything_is_written(
    other: Callable[[Path], object], tmp_path: Path, pets: Path
) -> None:
    (tmp_path / "small").mkdir()
    other(tmp_path / "small" / "manifest.json")
    before = states(tmp_path / "small")
    with pytest.raises(BadInput) as refused:
        split(pets, tmp_path / "small", seed=4)
    assert str(refused.value) == (
        f"'{tmp_path}/small/manifest.json' is not that of this source and seed 4; give a target that is new or empty"
    )
    assert states(tmp_path / "small") == before


def test_a_manifest_of_a_source_that_has_changed_since_is_refused(tmp_path: Path, pets: Path) -> None:
    split(pets, tmp_path / "small")
    (pets / "cats" / "bad.ppm").touch()
    with pytest.raises(BadInput, match=r"manifest\.json' is not that of this source"):
        split(pets, tmp_path / "small")


@pytest.mark.parametrize(
    "name", [b"with spaces.ppm", b"new\nline.ppm", "Süße.ppm".encode(), b"caf\xe9.ppm", b"'\".ppm"]
)
def test_any_name_comes_through_the_split_and_its_manifest(name: bytes, tmp_path: Path, pets: Path) -> None:
    odd = os.fsdecode(name)
    try:
        (pets / "cats" / odd).write_bytes(picture(50))
        (pets / "cats" / f"bad {odd}").touch()
        fill(pets, **{odd: 4})
    except OSError:
        pytest.skip("this file system does not have such names")
    for number, path in enumerate((pets / odd).iterdir()):
        path.write_bytes(picture(60 + number))
    manifest = split(pets, tmp_path / "small")
    written = json.loads((tmp_path / "small" / "manifest.json").read_bytes())
    assert manifest.files.keys() == written["files"].keys() == in_parts(tmp_path / "small").keys()
    assert odd in {Path(name).name for name in written["files"]}
    assert written["classes"] == sorted(["cats", "dogs", odd])
    assert len(written["skipped"]) == 1
    assert all(line.isprintable() for line in manifest.summary())
    assert split(pets, tmp_path / "small") == manifest


def test_the_summary_counts_each_class_in_each_part_and_says_what_was_left_out_and_why() -> None:
    counts = {"train": {"cats": 4, "a\nb": 3}, "validation": {"cats": 2, "a\nb": 1}, "test": {"cats": 1, "a\nb": 0}}
    plain = Manifest(0, ("a\nb", "cats"), counts, {}, (), ())
    expected = ["'a\\nb': 3 train, 1 validation, 0 test", "cats: 4 train, 2 validation, 1 test"]
    assert plain.summary() == expected
    reasons = tuple(f"'cats/{number}' is no picture" for number in range(12))
    assert Manifest(0, ("a\nb", "cats"), counts, {}, reasons[:10], ("'x' is 'y'",)).summary() == [
        *expected,
        "skipped: 10",
        *(f"  {reason}" for reason in reasons[:10]),
        "duplicates left out: 1",
        "  'x' is 'y'",
    ]
    assert Manifest(0, (), counts, {}, (), reasons).summary() == [
        "duplicates left out: 12",
        *(f"  {reason}" for reason in reasons[:10]),
        "  ... and 2 more, see manifest.json",
    ]


# What cannot be written or read


def test_a_full_disk_is_one_clear_error_and_leaves_whole_files_only(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(pets, tmp_path / "expected")
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Interruption(tmp_path / "small", 5, full, late=False))
        with pytest.raises(OSError, match="No space left on device; make room and run this again, ") as refused:
            split(pets, tmp_path / "small")
    name = list(split(pets, tmp_path / "expected").files)[5]
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(tmp_path / "small" / name))
    assert len(in_parts(tmp_path / "small")) == 5
    assert tree(tmp_path / "small").items() <= tree(tmp_path / "expected").items()
    split(pets, tmp_path / "small")
    assert tree(tmp_path / "small") == tree(tmp_path / "expected")


def test_a_file_that_can_be_written_in_part_only_does_not_appear(tmp_path: Path, pets: Path) -> None:
    resource = pytest.importorskip("resource")
    (pets / "cats" / "00.ppm").write_bytes(b"P6 60 60 255\n" + bytes(range(240)) * 45)
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, most))
        with pytest.raises(OSError, match="File too large; put that right and run this again") as refused:
            split(pets, tmp_path / "small")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert "\n" not in str(refused.value)
    assert "00.ppm" not in str(list(tree(tmp_path / "small")))
    split(pets, tmp_path / "small")
    assert sorted(in_parts(tmp_path / "small").values()) == sorted(in_parts(pets).values())


def test_a_target_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path, pets: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"; put that right and run this again, .*: '{tmp_path}/file/small/train"):
        split(pets, tmp_path / "file" / "small")


def test_a_target_that_is_a_file_is_refused(tmp_path: Path, pets: Path) -> None:
    (tmp_path / "small").touch()
    with pytest.raises(BadInput, match=f"^'{tmp_path}/small' is not a folder; give one that is new or empty$"):
        split(pets, tmp_path / "small")


@pytest.mark.parametrize("make", [lambda path: None, link_to("/dev/null")], ids=["nothing", "device"])
def test_a_source_that_does_not_exist_is_an_error_that_says_what_to_give(
    make: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / "pets")
    with pytest.raises(MissingData, match=f"^no folder or archive '{tmp_path}/pets': give a folder of pictures, or a"):
        split(tmp_path / "pets", tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_progress_counts_the_pictures_that_are_read_and_written(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def eager(total: int, title: str, unit: str, file: Any) -> Any:
        return tqdm_of(total=total, desc=title, unit=unit, file=file, mininterval=0)

    from tqdm import tqdm as tqdm_of

    monkeypatch.setattr(split, "bar", eager)
    monkeypatch.setattr(split.images, "progress_bar", eager)
    stream = io.StringIO()
    split(pets, tmp_path / "small", progress=stream)
    for title in ("reading pictures", "writing pictures"):
        assert re.search(rf"{title}: 100%.* 12/12 ", stream.getvalue())
