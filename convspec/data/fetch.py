"""The real data, fetched: downloads that go on where they stopped, archives unpacked safely, whole or not at all."""

import bz2
import errno
import gzip
import hashlib
import http.client
import io
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial as bound
from pathlib import Path
from typing import IO, NamedTuple, TextIO
from urllib import request
from urllib.error import HTTPError, URLError

from convspec import BadInput, MissingData
from convspec.files import DAMAGED, atomic_write
from convspec.progress import bar

TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each new attempt; attempts that bring something new do not count
MAX_BYTES = 16 * 2**30  # unpacked
MAX_MEMBERS = 1_000_000
RATIO = 100  # of an archive's unpacked size to its own; pictures hardly shrink, zeros do a thousandfold
RATIO_FLOOR = 100 * 2**20  # unpacked bytes below which no ratio is suspicious
HEADER = 16 * 2**20  # bytes that tarfile may take into memory at once
CHUNK = 2**16
MIB = 2**20

_ELSEWHERE = re.compile(r"^/|\\|(^|/)(\.\.(/|$)|[A-Za-z]:)")  # a drive's letter counts anywhere in a path on Windows
_UNUSABLE = (*DAMAGED, tarfile.TarError, lzma.LZMAError, struct.error, MemoryError)


class Source(NamedTuple):
    """Where something is to be had, and its name in the data folder once it is ready for use."""

    url: str
    checksum: str
    target: str


FETCHABLE = {
    "mnist": Source(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        "mnist.npz",
    ),
    "dogs_vs_cats": Source(
        "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
        "sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
        "dogs_vs_cats_small",
    ),
    "vgg16": Source(
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:6d6bbae143d832006294945121d1f1fc",
        "vgg16_notop.weights.h5",
    ),
}


class _Cut(Exception):
    """The network failed, not the disk; the cause says how."""


@contextmanager
def _network() -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise _Cut from error


def fetch(name: str, root: Path, progress: TextIO | None = None) -> bool:
    """Get "mnist", "dogs_vs_cats" or "vgg16" into the data folder `root`, ready for use; whether it had to be fetched.

    VGG16's weights are converted to Keras 3's format, Dogs vs. Cats is unpacked and split. Raises BadInput for another
    name, or where something else stands in the target's place, and MissingData where the source cannot be reached.
    """
    if name not in FETCHABLE:
        raise BadInput(f"nothing called {name!r} to fetch; choose from {', '.join(FETCHABLE)}")
    source = FETCHABLE[name]
    target = root / source.target
    file = target if name == "mnist" else root / source.url.rpartition("/")[2]
    if target.exists() and (file == target or not file.exists()):  # the file goes last: where it is, work is unfinished
        _check(name, target)
        return False
    download(source.url, file, source.checksum, progress)
    if name == "dogs_vs_cats":
        from convspec.data import split

        split.split(file, target, progress=progress)
    if name == "vgg16":
        from convspec import models

        with atomic_write(target) as partial:
            models.conv_base(name, file).save_weights(partial)
    if file != target:
        file.unlink()
    return True


def _check(name: str, target: Path) -> None:
    """BadInput for a target that is not what its name says; weights are checked when a model loads them."""
    if name == "mnist":
        from convspec.data import datasets

        datasets.load_dataset(name, 28, target.parent)
    if name == "dogs_vs_cats":
        from convspec.data.folders import PARTS

        for part in PARTS:
            if len({picture.parent for picture in target.glob(f"{part}/*/*")}) < 2:
                raise BadInput(f"{str(target)!r} has no two classes of pictures in {part}; move it away or complete it")


def download(url: str, path: Path, checksum: str, progress: TextIO | None = None) -> None:
    """Get `url` (http or https) to `path`, which appears once `checksum` ("sha256:HEX" or "md5:HEX") holds.

    What has come stays in `path`.part when the download ends early, and the next call goes on from there. A file that
    is there already with the right checksum is left alone. Raises BadInput for a wrong checksum (of what is there, or
    of what came, which is deleted), MissingData where the server does not have it or cannot be reached, and OSError
    where it cannot be written.
    """
    if not re.match("https?://", url):
        raise BadInput(f"cannot download {url!r}: give an address that begins with https:// or http://")
    if not re.fullmatch("sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", checksum):
        raise BadInput(f"checksum {checksum!r} of {url}: give sha256: or md5: and its digits in lower case")
    if path.exists():
        if (found := _checksum(path, checksum)) != checksum:
            raise BadInput(f"{str(path)!r} is there but is not {url}: expected {checksum}, got {found}; move it away")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    joined = _receive(url, partial, path, progress)
    if (found := _checksum(partial, checksum)) != checksum and joined:
        partial.unlink()  # the server may have another version by now than when the first part came
        _receive(url, partial, path, progress)
        found = _checksum(partial, checksum)
    if found != checksum:
        partial.unlink()
        raise BadInput(f"{url} is not what it was: expected {checksum}, got {found}; deleted, try again later")
    os.replace(partial, path)


def _checksum(file: Path, like: str) -> str:
    algorithm = like.partition(":")[0]
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def _receive(url: str, partial: Path, path: Path, progress: TextIO | None) -> bool:
    """All that is missing in `partial`, in as many requests as it takes; whether it was joined from several."""
    joined = answered = False
    most = failures = 0
    while True:
        have = partial.stat().st_size if partial.exists() else 0
        joined |= have > 0
        if have > most:  # more than ever before: a server that begins anew each time gets no endless attempts
            most, failures = have, 0
        try:
            _request(url, partial, have, progress)
            return joined
        except _Cut as cut:
            error = cut.__cause__
            if have and isinstance(error, HTTPError) and error.code == 416:  # nothing is left; the checksum decides
                return joined
            refused = isinstance(error, HTTPError) and error.code < 500 and error.code not in (408, 429)
            answered |= isinstance(error, HTTPError) or not isinstance(error, URLError)
            if refused or not answered or failures == len(PAUSES):
                reason = error.reason if isinstance(error, URLError) else error
                status = f"{error.code} " if isinstance(error, HTTPError) else ""
                raise MissingData(
                    f"could not get {url} ({status}{reason}): try again later, or get the file"
                    f" by other means, put it at {str(path)!r} and run this again"
                ) from error
        time.sleep(PAUSES[failures])
        failures += 1


def _request(url: str, partial: Path, have: int, progress: TextIO | None) -> None:
    """One request for what comes after the first `have` bytes."""
    opener = request.OpenerDirector()  # without urllib's handlers for file: and ftp:, where a redirection could lead
    for handler in (
        request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.UnknownHandler,
        request.HTTPDefaultErrorHandler, request.HTTPRedirectHandler, request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    headers = {"User-Agent": "convspec", **({"Range": f"bytes={have}-"} if have else {})}
    with _network():
        response = opener.open(request.Request(url, headers=headers), timeout=TIMEOUT)
        assert response is not None
    with response:
        if response.status != 206:  # all of it, though only the rest was asked for
            have = 0
        missing = int(response.headers.get("Content-Length", 0))
        with (
            _disk(partial),
            partial.open("ab" if have else "wb") as file,
            bar(-(-(have + missing) // MIB), f"downloading {partial.stem}", "MiB", progress, have // MIB) as shown,
        ):
            while True:
                with _network():
                    if not (chunk := response.read1(CHUNK)):
                        break
                file.write(chunk)
                have, missing = have + len(chunk), missing - len(chunk)
                shown.update(have // MIB - shown.n)
    if missing > 0:  # read1 takes an early end for the end
        raise _Cut from ConnectionError(f"{missing} bytes are missing")


@contextmanager
def _disk(file: Path) -> Iterator[None]:
    """A disk that is full says so with the name of the file and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(error.errno, f"{error.strerror}, make room and run this again", str(file)) from error


def unpack(archive: Path, folder: Path, progress: TextIO | None = None) -> None:
    """Unpack a zip or a tar (plain, gzip, bzip2 or xz, whatever its name) into `folder`, whole or not at all.

    `folder` must be new or empty. Hard links become copies. Raises BadInput for a folder that holds something, and for
    an archive that is damaged, encrypted, packed in an unusual way, grows beyond measure, or has members that stand
    twice, are links or devices, or would be written elsewhere; OSError where it cannot be read or `folder` written.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{str(folder)!r} is not an empty folder; name one that is new or empty for {archive.name}")
    partial = folder.with_name(f"partial{os.getpid()}-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that had this number and was killed
    try:
        with _members(archive) as found:
            _write(archive, _checked(archive, found), partial, progress)
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    except BadInput:
        raise
    except _UNUSABLE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: seeks before the start
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(
            f"{str(archive)!r} is damaged, or no zip or tar ({reason}); delete it and get it again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Member(NamedTuple):
    name: str
    size: int
    is_folder: bool
    offset: int
    open: Callable[[], IO[bytes] | None]


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    """What is in the archive, which is recognised by its first bytes."""
    unpackers: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    with archive.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith((b"PK\3\4", b"PK\5\6")):
            with zipfile.ZipFile(file) as packed:
                yield _of_zip(archive, packed, file)
        else:
            unpacker = next((unpackers[magic] for magic in unpackers if start.startswith(magic)), lambda plain: plain)
            with unpacker(file) as content, tarfile.open(fileobj=_Stream(archive, content), mode="r:") as tar:
                yield _of_tar(archive, tar)


def _of_zip(archive: Path, packed: zipfile.ZipFile, file: IO[bytes]) -> Iterator[_Member]:
    file.seek(-12 - len(packed.comment), os.SEEK_END)
    declared = int.from_bytes(file.read(2), "little")
    if declared not in (len(packed.infolist()) % 2**16, 2**16 - 1):  # damage can make an entry swallow the next
        raise zipfile.BadZipFile(f"{declared} members declared, {len(packed.infolist())} found")
    for info in packed.infolist():
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refusal(archive, f"is encrypted, or not packed by deflate (member {info.filename!r})")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refusal(archive, f"has the member {info.filename!r}, a link or a device")
        size = info.file_size
        info.file_size += 1  # zipfile would hide what comes after the declared size
        yield _Member(info.filename, size, info.is_dir(), info.header_offset, bound(packed.open, info))


def _of_tar(archive: Path, tar: tarfile.TarFile) -> Iterator[_Member]:
    files: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        # Not tarfile's own filter, which before Python 3.11.13 lets links lead out: no link is ever written.
        file = files.get(member.linkname, member) if member.islnk() else member
        if not (file.isreg() or file.isdir()):
            raise _refusal(archive, f"has the member {member.name!r}, a device, or a link to no earlier file")
        files[member.name] = file
        yield _Member(member.name, file.size, file.isdir(), file.offset_data, bound(tar.extractfile, file))
    stream = tar.fileobj
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
        raise tarfile.ReadError(f"no end, or a damaged header, at byte {tar.offset}")
    while stream.read(CHUNK):  # up to the checksum
        pass


class _Stream(io.RawIOBase):
    """An unpacked tar that is an error past its limit, or where much would be taken into memory at once."""

    def __init__(self, archive: Path, content: IO[bytes]) -> None:
        self.archive, self.content, self.limit = archive, content, _limit(archive)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER:
            raise _refusal(self.archive, f"has a header of {size} bytes")
        if self.tell() > self.limit:
            raise _refusal(self.archive, f"unpacks to more than {self.limit} bytes")
        return self.content.read(size)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        return self.content.seek(min(position, self.limit + 1), whence)

    def tell(self) -> int:
        return self.content.tell()


def _limit(archive: Path) -> int:
    """The bytes that an archive of this size may unpack to."""
    return min(MAX_BYTES, max(RATIO_FLOOR, RATIO * archive.stat().st_size))


def _refusal(archive: Path, what: str) -> BadInput:
    return BadInput(f"{str(archive)!r} {what}; get it from a source that you trust, or unpack it by hand")


def _checked(archive: Path, members: Iterator[_Member]) -> dict[tuple[str, ...], _Member]:
    """The members by the parts of their names, where all of them may be written."""
    checked: dict[tuple[str, ...], _Member] = {}
    left = limit = _limit(archive)
    for member in members:
        parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
        if _ELSEWHERE.search(member.name) or not (parts or member.is_folder):
            raise _refusal(archive, f"has the member {member.name!r}, which would be written elsewhere")
        if parts in checked:
            raise _refusal(archive, f"has the member {member.name!r} twice")
        if not 0 <= member.size <= left or len(checked) == MAX_MEMBERS:
            raise _refusal(archive, f"unpacks to more than {limit} bytes, or {MAX_MEMBERS} members")
        checked[parts] = member
        left -= member.size
    return checked


def _write(archive: Path, members: dict[tuple[str, ...], _Member], folder: Path, progress: TextIO | None) -> None:
    total = sum(member.size for member in members.values())
    folder.mkdir(parents=True)
    with bar(-(-total // MIB), f"unpacking {archive.name}", "MiB", progress) as shown:
        done = 0
        for parts, member in sorted(members.items(), key=lambda item: item[1].offset):  # tars are read in one go
            target = folder.joinpath(*parts)
            with _disk(target), member.open() or io.BytesIO() as source:
                try:
                    (target if member.is_folder else target.parent).mkdir(parents=True, exist_ok=True)
                    file = None if member.is_folder else target.open("xb")
                except (FileExistsError, NotADirectoryError) as error:
                    raise _refusal(
                        archive, f"has the member {member.name!r} twice, or as a file and a folder"
                    ) from error
                if not file:
                    continue
                with file:
                    left = member.size
                    while chunk := source.read(min(CHUNK, left + 1)):
                        left -= len(chunk)
                        if left < 0:
                            break
                        file.write(chunk)
                        done += len(chunk)
                        shown.update(done // MIB - shown.n)
                    if left:
                        raise _refusal(archive, f"has the member {member.name!r} of another size than it says")
