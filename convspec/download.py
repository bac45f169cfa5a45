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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, TextIO
from urllib import request
from urllib.error import HTTPError, URLError

from convspec import BadInput, MissingData
from convspec.progress import bar
from convspec.storage import DAMAGED, replacing

TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each new attempt; attempts that bring something new do not count
MOST_BYTES = 16 * 2**30  # unpacked
MOST_MEMBERS = 1_000_000
RATIO = 100  # of an archive's unpacked size to its own; pictures hardly shrink, zeros do a thousandfold
RATIO_FLOOR = 100 * 2**20  # unpacked bytes below which no ratio is suspicious
HEADER = 16 * 2**20  # bytes that tarfile may take into memory at once
CHUNK = 2**16
MIB = 2**20


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
    if target.exists():
        _check(name, target)
        return False
    file = target if name == "mnist" else root / source.url.rpartition("/")[2]
    download(source.url, file, source.checksum, progress)
    if name == "dogs_vs_cats":
        from convspec import splitting

        splitting.split(file, target, progress=progress)
    if name == "vgg16":
        from convspec import models

        with replacing(target) as partial:
            models.conv_base(name, file).save_weights(partial)
    if file != target:
        file.unlink()
    return True


def _check(name: str, target: Path) -> None:
    """BadInput for a target that is not what its name says; weights are checked when a model loads them."""
    from convspec import datasets

    if name == "mnist":
        datasets.load(name, 28, target.parent)
    if name == "dogs_vs_cats":
        for part in datasets.PARTS:
            filled = {file.parent.name for file in target.glob(f"{part}/*/*")}
            if len(filled) < 2:
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
            if isinstance(error, HTTPError) and error.code == 416:  # nothing is left to send; the checksum decides
                return joined
            refused = isinstance(error, HTTPError) and error.code < 500 and error.code not in (408, 429)
            answered |= isinstance(error, HTTPError) or not isinstance(error, URLError)
            if refused or not answered or failures == len(PAUSES):
                reason = error.reason if isinstance(error, URLError) else error
                status = f"{error.code} " if isinstance(error, HTTPError) else ""
                raise MissingData(
                    f"could not get {url} ({status}{reason}): run this again when it can be reached, or get the file"
                    f" by other means and put it at {str(path)!r}"
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
        title = f"downloading {partial.stem}"
        with (
            partial.open("ab" if have else "wb") as file,
            bar(-(-(have + missing) // MIB), title, "MiB", progress, have // MIB) as shown,
        ):
            received = 0
            while True:
                with _network():
                    if not (chunk := response.read1(CHUNK)):
                        break
                with _disk(partial):
                    file.write(chunk)
                received += len(chunk)
                shown.update((have + received) // MIB - shown.n)
            with _disk(partial):
                file.flush()
    if received < missing:
        raise _Cut from ConnectionError(f"{missing - received} bytes are missing")


@contextmanager
def _disk(file: Path) -> Iterator[None]:
    """Errors of writing name the file, which those of a full disk do not by themselves."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; make room and run this again", str(file)) from error


class _Member(NamedTuple):
    name: str
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]


class _Stream(io.RawIOBase):
    """An unpacked tar that ends in an error past `limit` bytes, or where much would be taken into memory at once."""

    def __init__(self, content: IO[bytes], limit: int) -> None:
        self.content, self.limit = content, limit

    def read(self, size: int = -1) -> bytes:
        if size > HEADER or self.tell() > self.limit:
            raise BadInput("unpacks to far more than its own size")
        return self.content.read(size)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        return self.content.seek(min(position, self.limit + 1), whence)

    def tell(self) -> int:
        return self.content.tell()
