"""Downloads that survive what networks do, archives that cannot do harm, and the command line that uses both."""

import gzip
import hashlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import convspec
from convspec import BadInput, MissingData, models
from convspec.cli.main import main
from convspec.data import datasets, fetch

CONTENT = np.random.RandomState(0).bytes(300_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
HALF = len(CONTENT) // 2


class Server(ThreadingHTTPServer):
    """Serves `content` at any address. `script` holds how to answer the next requests, "well" when it is empty."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.script: list[Any] = []
        self.log: list[tuple[str | None, int]] = []  # the Range asked for, and the bytes given
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        how = self.server.script.pop(0) if self.server.script else "well"
        asked = self.headers.get("Range")
        start = int(asked[len("bytes=") : -1]) if asked and "ignores Range" not in str(how) else 0
        body = self.server.content[start:]
        status = 206 if start and body else 416 if start else 200
        if isinstance(how, int):
            status, body = how, b""
        length = len(body)
        if "cuts" in str(how) or how == "stalls":
            body = body[:HALF]
        self.server.log.append((asked, len(body)))  # first, as a test goes on as soon as it has the last byte
        self.send_response(302 if isinstance(how, tuple) else status)
        if isinstance(how, tuple):
            self.send_header("Location", how[1])
        if how != "does not say how long":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        with suppress(OSError):  # a client that was killed
            for position in range(0, len(body), 30_000):
                piece = body[position : position + 30_000]
                self.wfile.write(bytes(len(piece)) if how == "wrong" else piece)
                if how == "slowly":
                    self.server.closing.wait(0.3)
        if how == "stalls":
            self.server.closing.wait(5)
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "PAUSES", (0.0, 0.0, 0.0))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "data.bin"


def beside(target: Path) -> list[str]:
    return sorted(file.name for file in target.parent.iterdir())


def part(target: Path, content: bytes) -> None:
    target.parent.mkdir()
    target.with_name("data.bin.part").write_bytes(content)


# Downloads


@pytest.mark.parametrize("digest", [hashlib.sha256, hashlib.md5])
def test_what_was_downloaded_is_what_was_served_and_nothing_is_left_beside_it(
    digest: Callable, server: Server, target: Path
) -> None:
    fetch.download(server.url, target, f"{digest().name}:{digest(CONTENT).hexdigest()}")
    assert target.read_bytes() == CONTENT
    assert beside(target) == ["data.bin"]


def test_a_file_of_unknown_length_and_an_empty_one_arrive(server: Server, target: Path) -> None:
    server.script = ["does not say how long"]
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    server.content = b""
    fetch.download(server.url, target.with_name("empty"), f"md5:{hashlib.md5(b'').hexdigest()}")
    assert target.with_name("empty").read_bytes() == b""


def test_nothing_is_fetched_where_the_right_file_is_already(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    fetch.download(server.url, target, SHA256)
    assert server.log == []


def test_another_file_in_its_place_is_never_overwritten(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"my own")
    with pytest.raises(BadInput, match=r"data\.bin' is there but is not .*expected sha256:.*, got sha256:.*move it"):
        fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == b"my own"
    assert server.log == []


def test_a_connection_that_is_cut_is_continued_where_it_stopped(server: Server, target: Path) -> None:
    server.script = ["cuts"]
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.log == [(None, HALF), (f"bytes={HALF}-", len(CONTENT) - HALF)]


def test_a_connection_without_a_byte_for_too_long_is_continued(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 0.5)
    server.script = ["stalls"]
    started = time.monotonic()
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert time.monotonic() - started < 4.5, "the server would have slept for 5 s"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_overloaded_is_asked_again(status: int, server: Server, target: Path) -> None:
    server.script = [status, status]
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.log) == 3


def test_pauses_grow_and_start_anew_when_something_came(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetch, "PAUSES", (1.0, 2.0, 4.0))
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.script = [500, 500, "cuts", 500, 500]
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert pauses == [1.0, 2.0, 4.0, 1.0, 2.0]


def test_a_server_that_never_answers_well_is_given_up_and_what_came_is_kept(server: Server, target: Path) -> None:
    server.script = ["cuts", *[500] * 9]
    with pytest.raises(MissingData, match="500 Internal Server Error"):
        fetch.download(server.url, target, SHA256)
    assert [given for _, given in server.log] == [HALF, 0, 0, 0, 0], "one attempt after each of three pauses"
    assert beside(target) == ["data.bin.part"]
    server.script = []
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_server_that_begins_anew_and_is_cut_each_time_gets_no_endless_attempts(server: Server, target: Path) -> None:
    server.script = ["ignores Range and cuts"] * 50
    with pytest.raises(MissingData, match="150000 bytes are missing"):
        fetch.download(server.url, target, SHA256)
    assert len(server.log) < 10


def test_a_server_that_ignores_range_sends_all_of_it_again(server: Server, target: Path) -> None:
    part(target, CONTENT[:1000])
    server.script = ["ignores Range"]
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.log == [("bytes=1000-", len(CONTENT))]


@pytest.mark.parametrize("left", [b"an older version", bytes(len(CONTENT)), bytes(len(CONTENT) + 5)])
def test_a_part_of_another_version_is_dropped_and_all_of_it_fetched_once(
    left: bytes, server: Server, target: Path
) -> None:
    part(target, left)
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert [asked for asked, _ in server.log] == [f"bytes={len(left)}-", None]


def test_a_part_that_is_complete_is_not_fetched_again(server: Server, target: Path) -> None:
    part(target, CONTENT)
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.log == [(f"bytes={len(CONTENT)}-", 0)]


@pytest.mark.parametrize("script", [["wrong"], ["cuts", "wrong", "wrong"]])
def test_a_wrong_checksum_is_refused_with_both_and_leaves_nothing(
    script: list[str], server: Server, target: Path
) -> None:
    server.script = list(script)
    with pytest.raises(BadInput, match=f"{server.url} .*expected {SHA256}, got sha256:[0-9a-f]{{64}}; deleted"):
        fetch.download(server.url, target, SHA256)
    assert beside(target) == []
    assert len(server.log) == len(script)


def test_ctrl_c_keeps_what_came_for_the_next_run(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    server.script = ["cuts"]
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch.download(server.url, target, SHA256)
    assert beside(target) == ["data.bin.part"]
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.log[-1] == (f"bytes={HALF}-", len(CONTENT) - HALF)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system with SIGKILL")
def test_a_process_that_is_killed_leaves_a_part_from_which_the_next_goes_on(server: Server, target: Path) -> None:
    server.script = ["slowly"]
    code = f"from pathlib import *; from convspec.download import *; download({server.url!r}, {target!r}, {SHA256!r})"
    arguments = [sys.executable, "-c", code]
    left = target.with_name("data.bin.part")
    with subprocess.Popen(arguments, cwd=Path(convspec.__file__).parents[1]) as process:
        until = time.monotonic() + 10
        while time.monotonic() < until and not (left.exists() and left.stat().st_size >= 30_000):
            time.sleep(0.01)
        process.kill()
    assert beside(target) == ["data.bin.part"]
    have = left.stat().st_size
    assert 30_000 <= have < len(CONTENT)
    assert left.read_bytes() == CONTENT[:have]
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert (f"bytes={have}-", len(CONTENT) - have) in server.log


def test_what_is_not_there_is_one_line_that_says_what_to_put_where(server: Server, target: Path) -> None:
    server.script = [404]
    with pytest.raises(MissingData) as raised:
        fetch.download(server.url, target, SHA256)
    assert re.fullmatch(rf"could not get {server.url} \(404 Not Found\).* put it at '{target}' .*", str(raised.value))
    assert len(server.log) == 1, "asking again does not help"


def test_a_machine_that_is_offline_is_one_line_that_says_what_to_put_where(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waits, though nobody ever answered"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, but nobody listens
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/data.bin"
        with pytest.raises(MissingData) as raised:
            fetch.download(url, target, SHA256)
    assert re.fullmatch(rf"could not get {url} \(.*refused.*\).* put it at '{target}' .*", str(raised.value))


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing_under_the_final_name(
    server: Server, target: Path
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a disk that is always full")
    target.parent.mkdir()
    target.with_name("data.bin.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device, make room and run this again: .*data\.bin\.part'"):
        fetch.download(server.url, target, SHA256)
    assert not target.exists()


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/data.bin", "data:,x", "/etc/hostname"])
def test_only_http_is_fetched(url: str, target: Path) -> None:
    with pytest.raises(BadInput, match="give an address that begins with https:// or http://"):
        fetch.download(url, target, SHA256)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/data.bin"])
def test_a_redirection_leads_to_http_only(url: str, server: Server, target: Path) -> None:
    server.script = [("redirects", url)]
    with pytest.raises(MissingData, match=r"unknown url type: ftp|not allowed"):
        fetch.download(server.url, target, SHA256)
    server.script = [("redirects", server.url)]
    fetch.download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", ["", "sha256:", f"sha1:{'0' * 40}", f"md5:{'0' * 64}", SHA256.upper()])
def test_a_checksum_in_another_form_is_refused_before_anything_is_fetched(
    checksum: str, server: Server, target: Path
) -> None:
    with pytest.raises(BadInput, match="give sha256: or md5:"):
        fetch.download(server.url, target, checksum)
    assert server.log == []


def test_progress_counts_what_was_there_already(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MIB", 1000)
    shown: list[Any] = []
    real = fetch.bar

    def watched(*arguments: Any) -> Any:
        shown.append(real(*arguments))
        return shown[-1]

    monkeypatch.setattr(fetch, "bar", watched)
    part(target, CONTENT[:100_000])
    fetch.download(server.url, target, SHA256, io.StringIO())
    assert [(bar.total, bar.initial, bar.n, bar.unit, bar.desc) for bar in shown] == [
        (300, 100, 300, "MiB", "downloading data.bin")
    ]


# Archives

FILES = {"cats/1.jpg": b"a cat" * 400, "cats/2.jpg": bytes(1000), "dogs/more/1.jpg": CONTENT[:2000], "empty.txt": b""}
KINDS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def packed(kind: str, files: dict[str, bytes] = FILES) -> bytes:
    """An archive of these files and a folder without any; the folders of the files have their own members, too."""
    buffer = io.BytesIO()
    folders = sorted(
        {"nothing/"} | {f"{parent}/" for name in files for parent in map(str, Path(name).parents)} - {"./"}
    )
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**dict.fromkeys(folders, b""), **files}.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    else:
        mode: Any = f"w:{kind[4:]}"
        with tarfile.open(fileobj=buffer, mode=mode) as tar:
            for name, content in {**dict.fromkeys(folders, b""), **files}.items():
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(content)
                member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


PACKED = {kind: packed(kind) for kind in KINDS}


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


TREE = {**FILES, **dict.fromkeys(("cats", "dogs", "dogs/more", "nothing"))}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive" / "pictures"


def refused(archive: Path, message: str) -> None:
    """Unpacking is BadInput with that message, and leaves nothing but the archive anywhere near."""
    folder = archive.parent / "folder"
    before = tree(archive.parents[1])
    with pytest.raises(BadInput, match=message) as raised:
        fetch.unpack(archive, folder)
    assert repr(str(archive)) in str(raised.value)
    assert tree(archive.parents[1]) == before, "something was written"


def tar_of(archive: Path, *members: tarfile.TarInfo, content: bytes = b"") -> None:
    with tarfile.open(archive, "w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(content[: member.size]))


def tar_member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty_folder", [False, True])
def test_an_archive_is_told_by_its_content_and_unpacked_whole(kind: str, empty_folder: bool, archive: Path) -> None:
    archive.write_bytes(PACKED[kind])
    folder = archive.parent / "new" / "folder"
    if empty_folder:
        folder.mkdir(parents=True)
    fetch.unpack(archive, folder)
    assert tree(folder) == TREE
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_without_members_is_an_empty_folder(kind: str, archive: Path) -> None:
    (zipfile.ZipFile if kind == "zip" else tarfile.open)(archive, "w").close()
    fetch.unpack(archive, archive.parent / "folder")
    assert tree(archive.parent / "folder") == {}


def test_a_folder_that_holds_something_is_refused_and_left_alone(archive: Path) -> None:
    archive.write_bytes(PACKED["zip"])
    folder = archive.parent / "folder"
    folder.mkdir()
    (folder / "mine").touch()
    for place in (folder, folder / "mine"):
        with pytest.raises(BadInput, match="is not an empty folder; name one that is new"):
            fetch.unpack(archive, place)
    assert tree(folder) == {"mine": b""}


def test_what_a_killed_process_left_is_cleared_away(archive: Path) -> None:
    archive.write_bytes(PACKED["zip"])
    left = archive.parent / f"partial{os.getpid()}-folder"
    left.mkdir()
    (left / "half").touch()
    fetch.unpack(archive, archive.parent / "folder")
    assert tree(archive.parent / "folder") == TREE
    assert not left.exists()


OUTSIDE = (
    "../out", "cats/../../out", "..", "/out", "//out",
    "C:/out", "C:out", "cats/C:out", "..\\out", "cats\\1.jpg", "\\out",
)  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_would_be_written_elsewhere_is_refused_by_name(kind: str, name: str, archive: Path) -> None:
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as written:
            written.writestr("cats/1.jpg", b"a cat")
            written.writestr(name, b"x")
    else:
        tar_of(archive, tar_member("cats/1.jpg", 1), tar_member(name, 1), content=b"x")
    refused(archive, f"member {re.escape(repr(name))}, which would be written elsewhere")


@pytest.mark.parametrize(
    "member",
    [
        tar_member("link", kind=tarfile.SYMTYPE, link="../../out"),
        tar_member("link", kind=tarfile.SYMTYPE, link="/etc/hostname"),
        tar_member("link", kind=tarfile.SYMTYPE, link="cats"),
        tar_member("link", kind=tarfile.LNKTYPE, link="../archive/pictures"),
        tar_member("link", kind=tarfile.LNKTYPE, link="/etc/hostname"),
        tar_member("link", kind=tarfile.LNKTYPE, link="link"),
        tar_member("device", kind=tarfile.CHRTYPE),
        tar_member("device", kind=tarfile.BLKTYPE),
        tar_member("device", kind=tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}-{member.linkname}",
)
def test_a_link_or_a_device_in_a_tar_is_refused_by_name(member: tarfile.TarInfo, archive: Path) -> None:
    tar_of(archive, tar_member("cats", kind=tarfile.DIRTYPE), member, tar_member("link/x"))
    refused(archive, rf"member '{member.name}', a device, or a link to no earlier file")


def test_a_hard_link_to_an_earlier_file_becomes_a_copy(archive: Path) -> None:
    links = [tar_member(f"link{i}", kind=tarfile.LNKTYPE, link=name) for i, name in enumerate(("file", "link0"))]
    tar_of(archive, tar_member("file", 5), tar_member("after", 3), *links, content=b"a cat")
    fetch.unpack(archive, archive.parent / "folder")
    assert tree(archive.parent / "folder") == {"file": b"a cat", "after": b"a c", "link0": b"a cat", "link1": b"a cat"}
    assert (archive.parent / "folder" / "link0").stat().st_nlink == 1


def test_a_symbolic_link_in_a_zip_is_refused_by_name(archive: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr(link, "../../out")
    refused(archive, "member 'link', a link or a device")


@pytest.mark.parametrize("names", [("a", "a"), ("a/b", "a//b"), ("a", "./a"), ("a", "a/"), ("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_stands_twice_is_refused_by_name(kind: str, names: tuple[str, str], archive: Path) -> None:
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as written:
            for name in names:
                written.writestr(name, b"")
    else:
        kinds = [tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE for name in names]
        tar_of(archive, *(tar_member(name, kind=kind) for name, kind in zip(names, kinds, strict=True)))
    refused(archive, r"has the member '[ab./]+' twice")


@pytest.mark.parametrize(("flag", "method"), [(1, 8), (0, 12), (0, 14), (0, 99)])
def test_a_zip_that_is_encrypted_or_packed_in_an_unusual_way_is_refused(flag: int, method: int, archive: Path) -> None:
    content = bytearray(packed("zip", {"secret": b"x" * 100}))
    entry = content.rindex(b"PK\1\2")
    content[entry + 8] |= flag
    content[entry + 10] = method
    archive.write_bytes(content)
    refused(archive, r"is encrypted, or not packed by deflate \(member 'secret'\)")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_grows_beyond_measure_is_refused_before_anything_is_written(
    kind: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write_bytes(packed(kind, {f"{i}": bytes(40_000) for i in range(10)}))
    monkeypatch.setattr(fetch, "_write", lambda *_: pytest.fail("this was seen too late"))
    with monkeypatch.context() as patched:
        patched.setattr(fetch, "MAX_BYTES", 399_999)
        refused(archive, "unpacks to more than 399999 bytes")
    if kind != "tar":
        monkeypatch.setattr(fetch, "RATIO_FLOOR", 200_000)
        monkeypatch.setattr(fetch, "RATIO", 3)
        refused(archive, "unpacks to more than 200000 bytes")
        monkeypatch.setattr(fetch, "RATIO_FLOOR", 0)
        refused(archive, f"unpacks to more than {3 * archive.stat().st_size} bytes")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_at_the_limits_is_unpacked_and_one_past_them_refused(
    kind: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write_bytes(packed(kind))
    monkeypatch.setattr(fetch, "MAX_MEMBERS", len(TREE))
    monkeypatch.setattr(fetch, "MAX_BYTES", 5000 if kind == "zip" else len(PACKED[kind]))
    fetch.unpack(archive, archive.parent / "folder")
    assert tree(archive.parent / "folder") == TREE
    shutil.rmtree(archive.parent / "folder")
    monkeypatch.setattr(fetch, "MAX_MEMBERS", len(TREE) - 1)
    refused(archive, f"or {len(TREE) - 1} members")
    monkeypatch.setattr(fetch, "MAX_MEMBERS", len(TREE))
    monkeypatch.setattr(fetch, "MAX_BYTES", 4999)
    refused(archive, "unpacks to more than 4999 bytes")


def test_a_tar_whose_header_would_fill_the_memory_is_refused(archive: Path) -> None:
    header = tar_member("long", 2**27, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)
    archive.write_bytes(gzip.compress(header + bytes(2**20)))
    refused(archive, f"has a header of {2**27} bytes")


def test_a_tar_that_goes_on_for_ever_behind_its_end_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "RATIO_FLOOR", 100_000)
    monkeypatch.setattr(fetch, "RATIO", 1)
    archive.write_bytes(gzip.compress(packed("tar") + bytes(10**6)))
    refused(archive, "unpacks to more than 100000 bytes")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("declared", [10, 5000])
def test_a_zip_whose_member_has_another_size_than_declared_is_refused(
    declared: int, method: int, archive: Path
) -> None:
    """The checksum is that of as many bytes as are declared, so that the size alone can tell."""
    whole = b"x" * 1000
    with zipfile.ZipFile(archive, "w", method) as written:
        written.writestr("member", whole)
    content = bytearray(archive.read_bytes())
    entry = content.rindex(b"PK\1\2")
    content[entry + 16 : entry + 20] = zlib.crc32(whole[:declared]).to_bytes(4, "little")
    content[entry + 24 : entry + 28] = declared.to_bytes(4, "little")
    archive.write_bytes(content)
    refused(archive, "has the member 'member' of another size than it says|Bad CRC-32")


def test_a_zip_entry_that_swallows_the_next_is_seen_by_the_count(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("first", b"1")
        written.writestr("second", b"2")
    content = bytearray(archive.read_bytes())
    first = content.index(b"PK\1\2")
    content[first + 32] = 46 + len("second")  # the length of the first entry's comment
    archive.write_bytes(content)
    assert zipfile.ZipFile(archive).namelist() == ["first"], "zipfile does not see it"
    refused(archive, "2 members declared, 1 found")


def test_a_zip_with_a_folder_under_another_name_in_its_directory_is_refused(archive: Path) -> None:
    content = bytearray(PACKED["zip"])
    content[content.rindex(b"nothing/")] = ord("N")
    archive.write_bytes(content)
    refused(archive, "is damaged.*'Nothing/'.*b'nothing/'.*; delete it and get it again")


def test_a_tar_with_a_damaged_header_or_without_an_end_is_refused(archive: Path) -> None:
    content = bytearray(packed("tar", {"first": b"1", "second": b"2"}))
    second = content.index(b"./second")
    archive.write_bytes(content[:second])
    refused(archive, f"no end, or a damaged header, at byte {second}")
    content[second] = 0
    archive.write_bytes(content)
    refused(archive, f"no end, or a damaged header, at byte {second}")
    with tarfile.open(archive) as tar:
        assert tar.getnames()[-1] == "./first", "tarfile does not see it"


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_damaged_archive_is_unpacked_as_it_was_or_refused(kind: str, data: st.DataObject) -> None:
    whole = PACKED[kind]
    position = data.draw(st.integers(0, len(whole) - 1), label="position")
    cut = data.draw(st.booleans(), label="cut") or kind == "tar"  # a tar has no checksums of what is in its files
    damaged = whole[:position] if cut else _with_byte(whole, position, data.draw(st.integers(1, 255), label="change"))
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / "archive"
        archive.write_bytes(damaged)
        reason = None
        try:
            fetch.unpack(archive, Path(place) / "folder")
        except BadInput as error:
            reason = str(error)
        if reason is None:
            assert tree(Path(place) / "folder") == TREE
        else:
            assert repr(str(archive)) in reason
            assert re.search("delete it and get it again|get it from a source that you trust", reason)
            assert tree(Path(place)) == {"archive": damaged}


def _with_byte(content: bytes, position: int, change: int) -> bytes:
    return content[:position] + bytes([content[position] ^ change]) + content[position + 1 :]


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all" * 100])
def test_what_is_no_archive_is_refused_with_a_remedy(content: bytes, archive: Path) -> None:
    archive.write_bytes(content)
    refused(archive, "is damaged, or no zip or tar .*; delete it and get it again")


def test_an_archive_that_is_not_there_is_said_to_be_missing(archive: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pictures"):
        fetch.unpack(archive, archive.parent / "folder")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_disk_that_fills_up_or_ctrl_c_leaves_nothing_unpacked(
    kind: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write_bytes(PACKED[kind])
    real = Path.open
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def full(path: Path, mode: str = "r", error: BaseException = error) -> Any:
            if path.name == "2.jpg":
                assert not (archive.parent / "folder").exists(), "whole or not at all"
                raise error
            return real(path, mode)

        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(type(error)) as raised:
            fetch.unpack(archive, archive.parent / "folder")
        assert list(archive.parent.iterdir()) == [archive]
        if isinstance(error, OSError):
            assert re.search(r"No space left on device, make room .*cats/2\.jpg'", str(raised.value))


# Fetching


@pytest.fixture
def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], None]:
    """Puts content on the server in the place of what the name stands for."""

    def serve(name: str, content: bytes) -> None:
        server.content = content
        url = f"{server.url.rpartition('/')[0]}/{fetch.FETCHABLE[name].url.rpartition('/')[2]}"
        changed = fetch.FETCHABLE[name]._replace(url=url, checksum=f"sha256:{hashlib.sha256(content).hexdigest()}")
        monkeypatch.setitem(fetch.FETCHABLE, name, changed)

    return serve


@pytest.fixture(scope="module")
def digits() -> bytes:
    """An archive with MNIST's shapes and nothing drawn."""
    buffer = io.BytesIO()
    parts = {"train": 60000, "test": 10000}
    arrays: dict[str, Any] = {f"x_{part}": np.zeros((count, 28, 28), np.uint8) for part, count in parts.items()}
    arrays |= {f"y_{part}": np.zeros(count, np.uint8) for part, count in parts.items()}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_mnist_is_fetched_once(served: Callable, server: Server, digits: bytes, tmp_path: Path) -> None:
    served("mnist", digits)
    assert fetch.fetch("mnist", tmp_path) is True
    assert (tmp_path / "mnist.npz").read_bytes() == digits
    assert fetch.fetch("mnist", tmp_path) is False
    assert len(server.log) == 1


def test_mnist_from_elsewhere_is_kept_where_it_loads_and_refused_where_not(
    served: Callable, server: Server, digits: bytes, tmp_path: Path
) -> None:
    served("mnist", digits)
    file = tmp_path / "mnist.npz"
    with np.load(io.BytesIO(digits)) as arrays:
        np.savez(file, **{**arrays, "more": np.arange(3)})
    own = file.read_bytes()
    assert fetch.fetch("mnist", tmp_path) is False
    assert file.read_bytes() == own
    file.write_bytes(digits[:1000])
    with pytest.raises(BadInput, match=r"is not MNIST .* delete it and get it again"):
        fetch.fetch("mnist", tmp_path)
    assert server.log == []


def _small_base(input_shape: tuple[int, int, int], weights: Any, include_top: bool) -> Any:
    return models._mini(input_shape, weights, include_top)


def _legacy(base: Any, file: io.BytesIO) -> None:
    """Weights as Keras 1 wrote those that are published."""
    with h5py.File(file, "w") as written:
        written.attrs["layer_names"] = [layer.name.encode() for layer in base.layers]
        for layer in base.layers:
            names = [f"{layer.name}_{kind}_1:0".encode() for kind, _ in zip("Wb", layer.weights, strict=False)]
            group = written.create_group(layer.name)
            group.attrs["weight_names"] = names
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name.decode()] = value


def test_vgg16_is_converted_to_keras_3_and_its_old_file_removed(
    served: Callable, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models.BASES, "vgg16", _small_base)
    base = models.conv_base("vgg16", models.MINI_WEIGHTS, (48, 48, 3))
    legacy = io.BytesIO()
    _legacy(base, legacy)
    served("vgg16", legacy.getvalue())
    assert fetch.fetch("vgg16", tmp_path) is True
    assert beside(tmp_path / "x") == ["vgg16_notop.weights.h5"]
    converted = models.conv_base("vgg16", tmp_path / "vgg16_notop.weights.h5", (48, 48, 3))
    for expected, value in zip(base.get_weights(), converted.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert fetch.fetch("vgg16", tmp_path) is False
    assert len(server.log) == 1


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What splitting.split was called with; it makes the three parts."""
    calls: list[tuple] = []

    def split(source: Path, target: Path, *, seed: int = 0, link: bool = False, progress: Any = None) -> Any:
        assert source.exists()
        calls.append((source, target, seed, link))
        for name in (f"{part}/{label}/1.jpg" for part in datasets.PARTS for label in ("cats", "dogs")):
            (target / name).parent.mkdir(parents=True)
            (target / name).touch()
        return types.SimpleNamespace(summary=lambda: ["first line", "second line"])

    fake = types.SimpleNamespace(split=split)
    monkeypatch.setitem(sys.modules, "convspec.splitting", fake)
    monkeypatch.setattr(convspec, "splitting", fake, raising=False)
    return calls


def test_dogs_vs_cats_is_split_once_and_its_archive_removed(
    served: Callable, server: Server, splits: list, tmp_path: Path
) -> None:
    served("dogs_vs_cats", CONTENT)
    assert fetch.fetch("dogs_vs_cats", tmp_path) is True
    assert splits == [(tmp_path / "kagglecatsanddogs_5340.zip", tmp_path / "dogs_vs_cats_small", 0, False)]
    assert beside(tmp_path / "x") == ["dogs_vs_cats_small"]
    assert fetch.fetch("dogs_vs_cats", tmp_path) is False
    assert len(splits) == len(server.log) == 1


def test_dogs_vs_cats_without_one_of_its_parts_is_refused_before_anything_is_fetched(
    served: Callable, server: Server, splits: list, tmp_path: Path
) -> None:
    served("dogs_vs_cats", CONTENT)
    fetch.fetch("dogs_vs_cats", tmp_path)
    (tmp_path / "dogs_vs_cats_small" / "test" / "dogs" / "1.jpg").unlink()
    with pytest.raises(BadInput, match="no two classes of pictures in test; move it away"):
        fetch.fetch("dogs_vs_cats", tmp_path)
    assert len(server.log) == 1


def test_a_failed_split_keeps_the_archive(
    served: Callable, splits: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["convspec.splitting"], "split", fails)
    served("dogs_vs_cats", CONTENT)
    with pytest.raises(OSError, match="No space left"):
        fetch.fetch("dogs_vs_cats", tmp_path)
    assert beside(tmp_path / "x") == ["kagglecatsanddogs_5340.zip"]


def test_a_split_that_was_interrupted_goes_on_from_the_archive(
    served: Callable, server: Server, splits: list, tmp_path: Path
) -> None:
    served("dogs_vs_cats", CONTENT)
    (tmp_path / "kagglecatsanddogs_5340.zip").write_bytes(CONTENT)
    (tmp_path / "dogs_vs_cats_small" / "train").mkdir(parents=True)
    assert fetch.fetch("dogs_vs_cats", tmp_path) is True
    assert len(splits) == 1
    assert server.log == []
    assert beside(tmp_path / "x") == ["dogs_vs_cats_small"]


def test_dogs_vs_cats_as_it_is_published_becomes_a_dataset(served: Callable, tmp_path: Path) -> None:
    pictures = {}
    for shade, (label, number) in enumerate((label, number) for label in ("Cat", "Dog") for number in range(8)):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
        pictures[f"PetImages/{label}/{number}.jpg"] = buffer.getvalue()
    served("dogs_vs_cats", packed("zip", pictures))
    assert fetch.fetch("dogs_vs_cats", tmp_path) is True
    loaded = datasets.load_dataset("dogs_vs_cats", 8, tmp_path)
    shades = [
        int(image[0, 0, 0]) for part in (loaded.train, loaded.validation, loaded.test) if part for image in part.images
    ]
    assert sorted(shades) == list(range(16))
    assert fetch.fetch("dogs_vs_cats", tmp_path) is False


def test_an_unknown_name_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'cifar10' to fetch; choose from mnist, dogs_vs_cats, vgg16"):
        fetch.fetch("cifar10", tmp_path)


# The command line


def test_fetch_says_where_each_thing_is_now_or_was_already(
    served: Callable, digits: bytes, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    served("mnist", digits)
    monkeypatch.setenv("CONVSPEC_DATA", str(tmp_path / "by environment"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    assert main(["fetch", "mnist", "mnist", "--data-root", str(tmp_path)]) == 0
    assert main(["fetch", "mnist"]) == 0
    assert main(["fetch", "mnist"]) == 0
    given, by_environment = tmp_path / "mnist.npz", tmp_path / "by environment" / "mnist.npz"
    expected = f"mnist: now at {given}\nmnist: now at {by_environment}\nmnist: already at {by_environment}\n"
    assert capsys.readouterr().out == expected


def test_without_a_data_root_the_users_cache_folder_is_used(
    served: Callable, digits: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served("mnist", digits)
    monkeypatch.delenv("CONVSPEC_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    assert main(["fetch", "mnist"]) == 0
    assert (tmp_path / "convspec" / "mnist.npz").read_bytes() == digits


def test_split_passes_its_options_on_and_prints_the_summary(
    splits: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = tmp_path / "source"
    source.touch()
    assert main(["split", str(source), str(tmp_path / "1")]) == 0
    assert main(["split", str(source), str(tmp_path / "2"), "--seed", "7", "--link"]) == 0
    assert splits == [(source, tmp_path / "1", 0, False), (source, tmp_path / "2", 7, True)]
    assert capsys.readouterr().out == 2 * "first line\nsecond line\n"


@pytest.mark.parametrize(
    "error", [BadInput("bad"), MissingData("missing"), OSError(28, "No space left on device", "/full")]
)
def test_an_error_is_one_line_and_exit_code_1(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(fetch, "fetch", fails)
    assert main(["fetch", "mnist", "--data-root", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"convspec: error: {error}\n")


def test_ctrl_c_is_exit_code_130_and_a_line_that_says_how_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "fetch", interrupted)
    assert main(["fetch", "mnist", "--data-root", str(tmp_path)]) == 130
    assert capsys.readouterr().err.strip() == "convspec: interrupted; the same command goes on where it stopped"


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", str(2**32)])
def test_a_seed_that_is_none_is_refused(seed: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["split", "source", "target", f"--seed={seed}"])
    assert "must be a whole number from 0 to 4294967295, got" in capsys.readouterr().err


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "convspec", *arguments],
        cwd=Path(convspec.__file__).parents[1], env=os.environ | environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert re.search(r"fetch +download.*\n(.*\n)*.*split +make", result.stdout)
    assert re.search(r"\| +convspec\.download", result.stderr)
    assert not re.search(r"\| +(numpy|keras|tensorflow|cv2|platformdirs)\n", result.stderr)


def test_the_module_ends_with_the_code_and_the_line_of_an_error(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = run("fetch", "dogs_vs_cats", "--data-root", str(tmp_path), https_proxy=proxy, no_proxy="")
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    assert len(errors) == 1
    place = tmp_path / "kagglecatsanddogs_5340.zip"
    assert re.fullmatch(rf"convspec: error: could not get https://download\.micro.* put it at '{place}' .*", errors[0])


def test_a_name_that_cannot_be_fetched_is_a_usage_error_with_the_list() -> None:
    result = run("fetch", "cifar10")
    assert result.returncode == 2
    assert re.search("cifar10.*mnist.*dogs_vs_cats.*vgg16", result.stderr)
