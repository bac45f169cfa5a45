"""What lies in a folder: pictures, told by name and content, and all else by kind."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

KINDS = {  # by the ends of names; whether a picture can be read is for the decoder to say
    "pictures": "jpg jpeg jpe jfif jif mpo png apng gif bmp dib tif tiff webp ppm pgm pbm pnm avif heic heif jp2 j2k",
    "texts and tables": "csv tsv json jsonl ndjson xml txt yaml yml toml md html htm log pdf xls xlsx doc docx mat npy",
    "raw photographs": "cr2 cr3 nef arw dng raf orf rw2 pef srw",  # some begin as TIFF does
    "drawings and projects": "svg ai eps psd psb xcf kra indd",
    "videos and sounds": "mp4 mov avi mkv webm m4v mpg mpeg wmv 3gp mp3 wav",
    "archives": "zip tar gz tgz bz2 xz 7z rar",
    "system files": "db ini lnk url tmp",
    "programs": "py ipynb sh bat exe js pyc m r",
}
KIND_OF = {suffix: kind for kind, suffixes in KINDS.items() for suffix in suffixes.split()}
SYSTEM_FOLDERS = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "#recycle", "system volume information", "lost+found", "__pycache__")
)
HIDDEN = "hidden files and folders of the system"
POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER = 1024  # bytes, by its specification


@dataclass
class Folder:
    """A folder and all below it, without what is hidden: pictures, others by kind, and why some cannot be pictures.

    `pointers` are the pictures in whose place Git LFS has left a text.
    """

    path: Path
    pictures: list[Path] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    others: list[tuple[str, Path]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    pointers: list[Path] = field(default_factory=list)

    @cached_property
    def filled(self) -> "list[Folder]":
        """Subfolders that hold a picture at any depth."""
        return [folder for folder in self.folders if folder.pictures or folder.filled]

    def walk(self) -> "Iterator[Folder]":
        """Yield this folder and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def all_pictures(self) -> list[Path]:
        """Return the pictures at any depth, in order."""
        return sorted(path for folder in self.walk() for path in folder.pictures)


def scan(path: Path) -> Folder:
    """List a folder at any depth, through links; what cannot be listed or is no file is bad. Raises OSError for it."""
    above = tuple(_identity(parent.stat()) for parent in path.absolute().parents)
    return _scan(Folder(path), path.stat(), above)


def _scan(folder: Folder, status: os.stat_result, above: tuple[tuple[int, int], ...]) -> Folder:
    above = (*above, _identity(status))
    with os.scandir(folder.path) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        path = Path(entry)
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FOLDERS:
            folder.others.append((HIDDEN, path))
            continue
        try:
            status = entry.stat()
        except OSError as error:
            folder.bad.append(f"{str(path)!r} is a link that leads nowhere: {error.strerror}")
            continue
        if stat.S_ISDIR(status.st_mode):
            if _identity(status) in above:
                folder.bad.append(f"{str(path)!r} is a link to a folder that it is in")
                continue
            try:
                folder.folders.append(_scan(Folder(path), status, above))
            except OSError as error:
                folder.bad.append(f"{str(path)!r} cannot be listed: {error.strerror}")
        elif stat.S_ISREG(status.st_mode):
            _add_file(folder, path, status.st_size)
        else:
            folder.bad.append(f"{str(path)!r} is not a file but a pipe, socket or device")
    return folder


def _add_file(folder: Folder, path: Path, size: int) -> None:
    suffix = path.suffix.lower().removeprefix(".")
    kind = KIND_OF.get(suffix, "other files")
    named = kind == "pictures"
    head = b"" if named and not 0 < size <= MAX_POINTER else _head(path)
    if head.startswith(POINTER) and named:
        folder.pointers.append(path)
    if named or (kind != "raw photographs" and _begins_as_picture(head)):
        folder.pictures.append(path)
    else:
        folder.others.append((kind, path))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""  # whoever reads it as a picture says so


def _begins_as_picture(head: bytes) -> bool:
    magic = (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n",
        b"GIF87a",
        b"GIF89a",
        b"II*\0",
        b"MM\0*",
        b"\0\0\0\x0cjP  ",
        b"\xff\x4f\xff\x51",
    )
    return (
        head.startswith(magic)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() and head[3:4].isdigit())
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"))
    )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
