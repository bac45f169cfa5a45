"""A split into a target that is half done, holds something else, or cannot be written."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import pictures_in, put_tiny, states, tiny_picture, tree

from convspec import BadInput
from convspec.data.split import split

REMEDY = "give a target that is new or empty"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return put_tiny(tmp_path / "pets", cats=8, dogs=4)


# Interrupted, and run again


class Interruption:
    """os.replace that raises at one of the final names in a folder, before or after it did its work."""

    def __init__(self, folder: Path, number: int, error: BaseException, late: bool) -> None:
        self.folder, self.left, self.error, self.late, self.replace = folder, number, error, late, os.replace

    def __call__(self, source: Path, target: Path) -> None:
        final = Path(target).is_relative_to(self.folder) and ".partial" not in str(target)
        self.left -= final
        if final and self.left == -1 and not self.late:
            raise self.error
        self.replace(source, target)
        if final and self.left == -1:
            raise self.error


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_run_interrupted_at_any_file_is_completed_by_the_next(
    packed: bool, late: bool, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.make_archive(str(tmp_path / "pets"), "tar", pets)) if packed else pets
    split(source, tmp_path / "expected")
    expected = tree(tmp_path / "expected")
    for number in range(13):  # 12 pictures and the manifest
        target = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", Interruption(target, number, KeyboardInterrupt(), late))
            with pytest.raises(KeyboardInterrupt):
                split(source, target)
        assert tree(target).items() <= expected.items(), f"interrupted at file {number}"
        assert len(pictures_in(target)) == min(number + late, 12)
        assert ("manifest.json" in tree(target)) == (number == 12 and late), "the manifest says: complete"
        assert not list(tmp_path.glob(".*")), "what was unpacked must go"
        split(source, target)
        assert tree(target) == expected, f"interrupted at file {number}"


def test_files_that_are_there_already_are_verified_and_left_alone(tmp_path: Path, pets: Path) -> None:
    first = split(pets, tmp_path / "small")
    before, expected = states(tmp_path / "small"), tree(tmp_path / "small")
    assert split(pets, tmp_path / "small") == first
    assert states(tmp_path / "small") == before
    for name in sorted(first.files)[::2]:
        (tmp_path / "small" / name).unlink()
    before = {path: state for path, state in states(tmp_path / "small").items() if path.endswith(".ppm")}
    split(pets, tmp_path / "small")
    assert tree(tmp_path / "small") == expected
    assert before.items() <= states(tmp_path / "small").items()


# What is there already


def put(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def expect_refusal(pets: Path, message: str) -> None:
    """Expect that a split beside the source is refused with that message and changes nothing."""
    before = states(pets.parent)
    with pytest.raises(BadInput) as refused:
        split(pets, pets.parent / "small")
    assert str(refused.value) == message
    assert states(pets.parent) == before


@pytest.mark.parametrize(
    "other",
    [put(tiny_picture(99)), put(b""), Path.mkdir, link_to("nowhere"), link_to("/dev/null")],
    ids=["other", "empty", "folder", "dangling", "device"],
)
def test_something_else_in_a_files_place_is_refused(
    other: Callable[[Path], object], tmp_path: Path, pets: Path
) -> None:
    (path := tmp_path / "small" / "validation" / "cats" / "06.ppm").parent.mkdir(parents=True)
    other(path)
    source = pets / "cats" / "06.ppm"
    expect_refusal(pets, f"'{path}' is there with other content than '{source}'; move it away, or {REMEDY}")


@pytest.mark.parametrize(
    ("name", "other"),
    [*((name, put(tiny_picture(0))) for name in ("notes.txt", "train/cats/other.ppm", "train/partial12-00.ppm")),
     *((name, Path.mkdir) for name in ("train/newts", "extra", "train/cats/deep")),
     ("test/cats/manifest.json", put(b"{}")), ("train", link_to("../pets"))],
)  # fmt: skip
def test_what_does_not_belong_in_the_target_is_refused(
    name: str, other: Callable[[Path], object], tmp_path: Path, pets: Path
) -> None:
    (path := tmp_path / "small" / name).parent.mkdir(parents=True)
    other(path)
    expect_refusal(pets, f"'{path}' does not belong to this split (another source or seed?); move it away, or {REMEDY}")


def test_hidden_files_in_the_target_are_ignored(tmp_path: Path, pets: Path) -> None:
    for name in (".DS_Store", "train/cats/.DS_Store", "test/.cache/00.ppm"):
        (tmp_path / "small" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "small" / name).write_bytes(b"hidden")
    split(pets, tmp_path / "small")
    assert len(pictures_in(tmp_path / "small")) == 12
    assert list(tree(tmp_path / "small").values()).count(b"hidden") == 3


@pytest.mark.parametrize(
    "other", [put(b"{}"), put(b""), put(b"[1]"), put(b'{"schema": 2}'), Path.mkdir, link_to("nowhere")]
)
def test_a_manifest_of_something_else_is_refused(other: Callable[[Path], object], tmp_path: Path, pets: Path) -> None:
    (path := tmp_path / "small" / "manifest.json").parent.mkdir()
    other(path)
    expect_refusal(pets, f"'{path}' is not that of this source and seed 0; {REMEDY}")


def test_a_manifest_is_read_by_its_schema(tmp_path: Path, pets: Path) -> None:
    file = tmp_path / "small" / "manifest.json"
    manifest = split(pets, file.parent)
    written = json.loads(file.read_bytes())
    file.write_text(json.dumps({key: value for key, value in written.items() if key != "schema"}))
    assert split(pets, file.parent) == manifest, "without a number it is of schema 1"
    file.write_text(json.dumps(written | {"schema": 2}))
    with pytest.raises(BadInput, match=r"manifest\.json' is not that of this source"):
        split(pets, file.parent)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_source_that_has_changed_or_another_seed_is_refused(seed: int, tmp_path: Path, pets: Path) -> None:
    split(pets, tmp_path / "small")
    if not seed:
        (pets / "cats" / "bad.ppm").touch()
    before = states(tmp_path / "small")
    with pytest.raises(BadInput, match=rf"manifest\.json' is not that of this source and seed {seed}"):
        split(pets, tmp_path / "small", seed=seed)
    assert states(tmp_path / "small") == before


# What cannot be written


def test_a_full_disk_names_the_file_and_leaves_whole_files_only(
    tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(split(pets, tmp_path / "expected").files)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "replace", Interruption(tmp_path / "small", 5, full, late=False))
    with pytest.raises(OSError, match="; make room and run this again, ") as refused:
        split(pets, tmp_path / "small")
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(tmp_path / "small" / names[5]))
    assert len(pictures_in(tmp_path / "small")) == 5
    assert tree(tmp_path / "small").items() <= tree(tmp_path / "expected").items()


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
    assert sorted(pictures_in(tmp_path / "small").values()) == sorted(pictures_in(pets).values())


def test_a_target_that_is_no_folder_is_refused_by_name(tmp_path: Path, pets: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=f"^'{tmp_path}/file' is not a folder; give one that is new or empty$"):
        split(pets, tmp_path / "file")
    with pytest.raises(OSError, match=f"; put that right and run this again, .*: '{tmp_path}/file/small/train"):
        split(pets, tmp_path / "file" / "small")
