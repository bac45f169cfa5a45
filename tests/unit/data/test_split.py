"""Pictures split as in listing 5.4, completely, with a manifest, from folders and archives that stay as they are."""

import errno
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from builders import pictures_in, put_tiny, states, tiny_picture, tree

from convspec import BadInput, MissingData
from convspec.data import datasets
from convspec.data.split import Manifest, split

LISTING_5_4 = {"train": range(1000), "validation": range(1000, 1500), "test": range(1500, 2000)}


def archived(folder: Path, archive: Path, top: str = "", kind: str = "zip") -> Path:
    """Write an archive of that name and kind of all in `folder`, which is `top` in it."""
    with tempfile.TemporaryDirectory() as packed:
        shutil.copytree(folder, Path(packed, top), dirs_exist_ok=True)
        return Path(shutil.make_archive(str(archive), kind, packed))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return put_tiny(tmp_path / "pets", cats=8, dogs=4)


# Which part a picture belongs to


def test_cats_and_dogs_are_split_as_in_listing_5_4(tmp_path: Path) -> None:
    """In Kaggle's layout; two files are empty, as in the public download."""
    part_of = {number: part for part, numbers in LISTING_5_4.items() for number in numbers}
    first = {"cat": 0, "dog": 5000}
    sources = {(animal, n): tiny_picture(first[animal] + n) for animal in first for n in range(2003)}
    sources |= {("cat", 666): b"", ("dog", 1702): b""}
    (source := tmp_path / "kaggle" / "train").mkdir(parents=True)
    for (animal, number), content in sources.items():
        (source / f"{animal}.{number}.jpg").write_bytes(content)
    manifest = split(source.parent, tmp_path / "small", link=True)
    assert pictures_in(tmp_path / "small") == {
        f"{part_of[number]}/{animal}s/{animal}.{number}.jpg": content
        for (animal, number), content in sources.items()
        if content and number in part_of
    }
    assert manifest.files["validation/dogs/dog.1000.jpg"]["source"] == "train/dog.1000.jpg"
    assert manifest.classes == ("cats", "dogs")
    assert manifest.counts == {
        "train": {"cats": 999, "dogs": 1000},
        "validation": {"cats": 500, "dogs": 500},
        "test": {"cats": 500, "dogs": 499},
    }
    bad = [reason.partition(" is not a readable picture: ")[0] for reason in manifest.skipped]
    assert bad == ["'train/cat.666.jpg'", "'train/dog.1702.jpg'"]


@pytest.mark.parametrize("seed", [0, 3])
def test_what_was_split_loads_as_the_source_does(seed: int, tmp_path: Path, pets: Path) -> None:
    manifest = split(pets, tmp_path / "small", seed=seed)
    assert manifest.seed == seed
    source, target = datasets.load_dataset(pets, 4, seed=seed), datasets.load_dataset(tmp_path / "small", 4)
    assert target.fingerprint == source.fingerprint
    assert (target.skipped, target.train.names) == ((), source.train.names)


# What is left out


def test_what_is_no_picture_is_left_out_and_named(tmp_path: Path, pets: Path) -> None:
    expected = split(pets, tmp_path / "before").files
    (pets / "cats" / "Thumbs.db").write_bytes(b"no picture")
    (pets / "dogs" / "cut.ppm").write_bytes(tiny_picture(0)[:-1])
    (pets / "cats" / "gone.ppm").symlink_to("nowhere")
    manifest = split(pets, tmp_path / "small")
    assert manifest.files == expected, "what is left out must not change the split of the others"
    reasons = (
        "'cats/Thumbs.db' is left out: system files",
        "'cats/gone.ppm' is a link that",
        "'dogs/cut.ppm' is not a readable",
    )
    assert all(skipped.startswith(reason) for skipped, reason in zip(manifest.skipped, reasons, strict=True))


# The source


@pytest.mark.parametrize("link", [False, True])
def test_the_source_is_never_changed(link: bool, tmp_path: Path, pets: Path) -> None:
    (pets / "cats" / "bad.ppm").touch()
    shutil.copy(pets / "cats" / "00.ppm", pets / "dogs" / "copy.ppm")
    before = states(pets)
    for _ in range(2):
        split(pets, tmp_path / "small", link=link)
        assert states(pets) == before


@pytest.mark.parametrize(
    ("source", "target"),
    [("pets", "pets"), ("pets", "pets/small"), ("pets", "pets/../pets/small/deep"), ("pets", "."), ("pets", "alias"),
     ("pets", "alias/small"), ("pets.zip", ".")],
)  # fmt: skip
def test_a_target_that_overlaps_with_the_source_is_refused(
    source: str, target: str, tmp_path: Path, pets: Path
) -> None:
    archived(pets, tmp_path / "pets")
    (tmp_path / "alias").symlink_to("pets")
    before = tree(tmp_path)
    with pytest.raises(BadInput) as refused:
        split(tmp_path / source, tmp_path / target)
    assert str(refused.value) == (
        f"'{tmp_path / source}' and '{tmp_path / target}' overlap; give a target outside of the source"
    )
    assert tree(tmp_path) == before


def test_a_copy_is_a_file_of_its_own_and_a_link_is_the_picture_itself(tmp_path: Path, pets: Path) -> None:
    (tmp_path / "aliases" / "cats").mkdir(parents=True)
    for path in (pets / "cats").iterdir():
        (tmp_path / "aliases" / "cats" / path.name).symlink_to(path)
    shutil.copytree(pets / "dogs", tmp_path / "aliases" / "dogs")
    for source in (pets, tmp_path / "aliases"):
        for link in (False, True):
            target = tmp_path / f"{source.name} {link}"
            for name, file in split(source, target, link=link).files.items():
                assert (target / name).samefile(source / file["source"]) == link
                assert not (target / name).is_symlink()
            assert pictures_in(target) == pictures_in(tmp_path / "pets False")


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (errno.EXDEV, BadInput, r"^cannot link '.*pets.*\.ppm' .*\(.*cross-device.*\); leave out --link$"),
        (errno.EINVAL, BadInput, r"^cannot link '.*pets.*\.ppm' .*; leave out --link$"),
        (errno.EACCES, PermissionError, "Permission denied; put that right and run this again"),
    ],
)
def test_a_link_that_fails_says_what_to_do(
    code: int, error: type[Exception], message: str, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(error, match=message):
        split(pets, tmp_path / "small", link=True)
    assert pictures_in(tmp_path / "small") == {}
    split(pets, tmp_path / "small")
    assert len(pictures_in(tmp_path / "small")) == 12


@pytest.mark.parametrize("device", [False, True], ids=["nothing", "device"])
def test_a_source_that_does_not_exist_says_what_to_give(device: bool, tmp_path: Path) -> None:
    if device:
        (tmp_path / "pets").symlink_to("/dev/null")
    with pytest.raises(MissingData, match=f"^no folder or archive '{tmp_path}/pets': give a folder of pictures, or a"):
        split(tmp_path / "pets", tmp_path / "small")
    assert not (tmp_path / "small").exists()


# Archives


@pytest.mark.parametrize("top", ["", "2024/all my pets/"], ids=["flat", "deep"])
@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_an_archive_is_split_as_the_folder_in_it(kind: str, top: str, tmp_path: Path, pets: Path) -> None:
    archive = archived(pets, tmp_path / "work" / "pets", top, kind)
    before = states(tmp_path / "work")
    expected = split(pets, tmp_path / "expected")
    target = tmp_path / "work" / "small"
    (tmp_path / "work" / ".small.unpacked" / "archive").mkdir(parents=True)  # of a run that was killed
    manifest = split(archive, target)
    assert pictures_in(target) == pictures_in(tmp_path / "expected")
    sources = {file["source"] for file in manifest.files.values()}
    assert sources == {f"{top}{file['source']}" for file in expected.files.values()}
    assert sorted(os.listdir(tmp_path / "work")) == [archive.name, "small"], "nothing else is left behind"
    assert states(tmp_path / "work")[str(archive)] == before[str(archive)]
    again = states(target)
    assert split(archive, target) == manifest
    assert states(target) == again


@pytest.mark.parametrize("top", ["", "pets/"])
def test_what_a_mac_adds_to_an_archive_is_no_class(top: str, tmp_path: Path, pets: Path) -> None:
    archive = archived(pets, tmp_path / "pets", top)
    with zipfile.ZipFile(archive, "a") as packed:
        for name in (".DS_Store", f"__MACOSX/{top}cats/._00.ppm", f"__MACOSX/{top}._dogs"):
            packed.writestr(name, b"resource fork")
    manifest = split(archive, tmp_path / "small")
    assert (manifest.classes, manifest.skipped) == (("cats", "dogs"), ())


def test_a_link_in_an_archive_is_split_as_its_picture(tmp_path: Path, pets: Path) -> None:
    (pets / "cats" / "00.ppm").rename(pets / "original.ppm")
    (pets / "cats" / "00.ppm").symlink_to("../original.ppm")
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(pets, "pets")
    split(tmp_path / "pets.tar", tmp_path / "small")
    assert tiny_picture(0) in pictures_in(tmp_path / "small").values()
    assert not any(path.is_symlink() for path in (tmp_path / "small").rglob("*"))


def test_an_error_about_an_archive_names_it_and_leaves_nothing_behind(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    archive = archived(pets / "cats", tmp_path / "pets", "all/cats/")
    with pytest.raises(BadInput, match=f"^'{archive}/all' has only the class 'cats';"):
        split(archive, tmp_path / "small")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", fail)
        with pytest.raises(OSError, match="No space left on device; make room and run this again"):
            split(archive, tmp_path / "small")
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(BadInput, match=f"^cannot unpack '{archive}' "):
        split(archive, tmp_path / "small")
    assert sorted(os.listdir(tmp_path)) == ["pets", "pets.zip"]


# The manifest


def test_the_manifest_names_each_file_with_checksum_and_source(tmp_path: Path, pets: Path) -> None:
    manifest = split(pets, tmp_path / "small", seed=7)
    written = json.loads((tmp_path / "small" / "manifest.json").read_bytes())
    assert written.pop("schema") == 1
    assert written["files"].keys() == pictures_in(tmp_path / "small").keys()
    for name, file in written["files"].items():
        content = (tmp_path / "small" / name).read_bytes()
        assert file == {"source": name.partition("/")[2], "sha256": hashlib.sha256(content).hexdigest()}
        assert (pets / file["source"]).read_bytes() == content
    quarters = {"cats": 2, "dogs": 1}
    assert written["counts"] == {"train": {"cats": 4, "dogs": 2}, "validation": quarters, "test": quarters}
    assert (written["seed"], written["skipped"], written["duplicates"]) == (7, [], [])
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
    assert len(written["skipped"]) == 2
    assert written["duplicates"] == ["\"cats/it's a copy.ppm\" is the same picture as 'cats/00.ppm'"]


@pytest.mark.parametrize(
    "name",
    [
        b"with spaces.ppm",
        b"new\nline.ppm",
        "Süße.ppm".encode(),
        b"caf\xe9.ppm",
        b"'\".ppm",
        ("写" * 82 + ".ppm").encode(),
    ],
)
def test_any_name_comes_through_the_split_and_its_manifest(name: bytes, tmp_path: Path, pets: Path) -> None:
    odd = os.fsdecode(name)
    try:
        (pets / "cats" / odd).write_bytes(tiny_picture(50))
        (pets / "cats" / f"bad {odd}").touch()
        put_tiny(pets, **{odd: 4})
    except OSError:
        pytest.skip("this file system does not have such names")
    for number, path in enumerate((pets / odd).iterdir()):
        path.write_bytes(tiny_picture(60 + number))
    manifest = split(pets, tmp_path / "small")
    written = json.loads((tmp_path / "small" / "manifest.json").read_bytes())
    assert manifest.files.keys() == written["files"].keys() == pictures_in(tmp_path / "small").keys()
    assert odd in {Path(name).name for name in written["files"]}
    assert written["classes"] == sorted(["cats", "dogs", odd])
    assert len(written["skipped"]) == 1
    assert all(line.isprintable() for line in manifest.summary())
    assert split(pets, tmp_path / "small") == manifest


def test_the_summary_counts_each_class_and_names_what_was_left_out() -> None:
    counts = {"train": {"cats": 4, "a\nb": 3}, "validation": {"cats": 2, "a\nb": 1}, "test": {"cats": 1, "a\nb": 0}}
    expected = ["'a\\nb': 3 train, 1 validation, 0 test", "cats: 4 train, 2 validation, 1 test"]
    reasons = tuple(f"'cats/{number}' is no picture" for number in range(12))
    assert Manifest(0, ("a\nb", "cats"), counts, {}, reasons[:10], ()).summary() == [
        *expected,
        "skipped: 10",
        *(f"  {reason}" for reason in reasons[:10]),
    ]
    assert Manifest(0, (), counts, {}, (), reasons).summary() == [
        "duplicates left out: 12",
        *(f"  {reason}" for reason in reasons[:10]),
        "  ... and 2 more, see manifest.json",
    ]
