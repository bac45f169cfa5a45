"""Zip and tar archives."""

import errno
import lzma
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import TextIO

from convspec import BadInput
from convspec.data.content import identify
from convspec.files import DAMAGED
from convspec.progress import bar

if not hasattr(tarfile, "data_filter"):  # Python before 3.11.4, as in Debian 12
    from backports import tarfile  # type: ignore[no-redef]

# What an archive brings about itself: seeks before its start, names too long, and a file where it has a folder, too.
ARCHIVE_ERRORS = (None, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def unpack(archive: Path, folder: Path, progress: TextIO | None = None) -> None:
    """Unpack a zip or a tar into a new folder, which the caller removes after an error.

    A tar may be plain, gzip, bzip2 or xz; the content decides. Raises BadInput for an archive that is damaged,
    encrypted, or holds devices or names and links that leave `folder`, and OSError for one that cannot be read.
    """
    try:
        folder.mkdir(parents=True)
        is_tar = tarfile.is_tarfile(archive)  # whose first bytes are a name: PKLot/ is no zip
        if not is_tar and not zipfile.is_zipfile(archive):
            raise ValueError(f"no whole zip or tar; its content is: {identify(archive).name}")
        (_untar if is_tar else _unzip)(archive, folder, progress)
    except (*DAMAGED, IndexError, tarfile.TarError, lzma.LZMAError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno not in ARCHIVE_ERRORS:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"cannot unpack {str(archive)!r} ({reason}); get it again, or unpack it by hand") from error


def _unzip(archive: Path, folder: Path, progress: TextIO | None) -> None:
    with zipfile.ZipFile(archive) as packed:
        if not any("/" in name for name in packed.namelist()):
            for member in packed.infolist():  # old packers on Windows
                member.filename = member.filename.replace("\\", "/")
        for name in (member.filename for member in packed.infolist()):  # zipfile would write it under another name
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{name!r} would be extracted outside the destination")
        _extract(packed.infolist(), partial(packed.extract, path=folder), archive, progress)


def _untar(archive: Path, folder: Path, progress: TextIO | None) -> None:
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
        if stream := packed.fileobj:
            stream.seek(packed.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError("it ends early")
            while stream.read(2**20):  # up to the checksum
                pass
        _extract(members, partial(packed.extract, path=folder, filter="data"), archive, progress)


def _extract(members: list, extract: partial, archive: Path, progress: TextIO | None) -> None:
    with bar(len(members), f"unpacking {archive.name}", "file", progress) as shown:
        for member in members:
            extract(member)
            shown.update()
