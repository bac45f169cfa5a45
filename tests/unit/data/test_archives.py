"""Archives are unpacked whole or refused, and never outside of their folder."""

import io
import re
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convspec import BadInput
from convspec.data.archives import unpack

FILES = {"cats/1.jpg": b"a cat" * 400, "cats/2.jpg": bytes(1000), "dogs/more/1.jpg": bytes(range(256)), "empty": b""}
KINDS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def packed(kind: str, files: dict[str, bytes] = FILES) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        mode: Any = f"w:{kind[4:]}"
        with tarfile.open(fileobj=buffer, mode=mode) as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


PACKED = {kind: packed(kind) for kind in KINDS}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "pictures"


def refused(archive: Path, reason: str) -> None:
    """Expect BadInput that names the archive, the reason and a remedy, and nothing written outside of the folder."""
    before = tree(archive.parents[1])
    with pytest.raises(BadInput) as raised:
        unpack(archive, archive.parent / "folder")
    remedy = "get it again, or unpack it by hand"
    assert re.fullmatch(rf"cannot unpack '{archive}' \(.*{reason}.*\); {remedy}", str(raised.value))
    shutil.rmtree(archive.parent / "folder")
    assert tree(archive.parents[1]) == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_recognised_by_its_content_and_unpacked_whole(kind: str, archive: Path) -> None:
    archive.write_bytes(PACKED[kind])
    unpack(archive, archive.parent / "new" / "folder", io.StringIO())
    assert tree(archive.parent / "new") == {f"folder/{name}": content for name, content in FILES.items()}


def test_a_tar_whose_first_name_begins_as_a_zip_does_is_unpacked(archive: Path) -> None:
    archive.write_bytes(packed("tar", {"PKLot/0.png": b"a car"}))
    unpack(archive, archive.parent / "folder")
    assert tree(archive.parent / "folder") == {"PKLot/0.png": b"a car"}


def test_backslashes_that_stand_for_slashes_in_all_names_are_folders(archive: Path) -> None:
    archive.write_bytes(packed("zip", {"cats\\0.png": b"a cat", "dogs\\0.png": b"a dog"}))
    unpack(archive, archive.parent / "folder")
    assert tree(archive.parent / "folder") == {"cats/0.png": b"a cat", "dogs/0.png": b"a dog"}


@pytest.mark.parametrize("name", ["../out", "cats/../../out", "../folder-too/out"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_leaves_the_folder_is_refused(kind: str, name: str, archive: Path) -> None:
    archive.write_bytes(packed(kind, {"cats/1.jpg": b"a cat", name: b"x"}))
    refused(archive, f"'{re.escape(name)}' would be extracted.* outside the destination")


@pytest.mark.parametrize("name", ["/etc/out", "//out"])
def test_an_absolute_name_is_refused_or_lies_in_the_folder(name: str, archive: Path) -> None:
    archive.write_bytes(packed("zip", {name: b"x"}))
    refused(archive, "outside the destination")
    archive.write_bytes(packed("tar", {name: b"x"}))
    unpack(archive, archive.parent / "folder")
    assert tree(archive.parent / "folder") == {name.strip("/"): b"x"}


@pytest.mark.parametrize(
    ("kind", "link", "reason"),
    [
        (tarfile.SYMTYPE, "../../out", "outside the destination"),
        (tarfile.SYMTYPE, "/etc/hostname", "absolute path"),
        (tarfile.LNKTYPE, "../place/pictures", "outside the destination"),
        (tarfile.CHRTYPE, "", "special file"),
        (tarfile.FIFOTYPE, "", "special file"),
    ],
)
def test_devices_and_links_that_leave_the_folder_are_refused(
    kind: bytes, link: str, reason: str, archive: Path
) -> None:
    member = tarfile.TarInfo("member")
    member.type, member.linkname = kind, link
    with tarfile.open(archive, "w") as tar:
        tar.addfile(member)
    refused(archive, reason)


@pytest.mark.parametrize(("offset", "value", "reason"), [(8, 1, "encrypted"), (10, 99, "compression method")])
def test_a_zip_that_python_cannot_read_is_refused(offset: int, value: int, reason: str, archive: Path) -> None:
    content = bytearray(packed("zip", {"secret": b"x" * 100}))
    content[content.rindex(b"PK\1\2") + offset] = value  # flags and method in the directory
    archive.write_bytes(content)
    refused(archive, reason)


def test_a_tar_that_ends_at_a_header_is_refused(archive: Path) -> None:
    content = bytearray(packed("tar", {"first": b"1", "second": b"2"}))
    second = content.index(b"second")
    for damaged in (content[:second], content[:second] + b"\0" + content[second + 1 :]):
        archive.write_bytes(damaged)
        with tarfile.open(archive) as tar:
            assert tar.getnames() == ["first"], "tarfile does not see it"
        refused(archive, "it ends early")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
@given(data=st.data())
def test_a_damaged_archive_is_unpacked_as_it_was_or_refused(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(PACKED[kind])
    position = data.draw(st.integers(0, len(whole) - 1), label="position")
    if data.draw(st.booleans(), label="cut"):
        del whole[position:]
    else:
        whole[position] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    place = tmp_path_factory.mktemp("damaged")
    (place / "archive").write_bytes(whole)
    try:
        unpack(place / "archive", place / "folder")
    except BadInput:
        return
    assert sorted(tree(place / "folder").values()) == sorted(FILES.values()), "names have no checksum in a zip"


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "empty file"), (b"no archive at all" * 100, "text"), (b"Rar!\x1a\x07\0", "RAR archive"), (b"PK", "text")],
)
def test_what_is_no_archive_is_refused_by_what_it_is(content: bytes, kind: str, archive: Path) -> None:
    archive.write_bytes(content)
    refused(archive, f"no whole zip or tar; its content is: {kind}")


def test_an_archive_that_is_not_there_is_named(archive: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pictures"):
        unpack(archive, archive.parent / "folder")
