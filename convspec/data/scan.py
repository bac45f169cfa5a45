"""What lies in a folder: pictures, told by name and content, and all else by kind."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from convspec import BadInput
from convspec.data.content import POINTER, identify

KINDS = {  # by the ends of names; whether a picture can be read is for the decoder to say
    "pictures": "jpg jpeg jpe jfif jif mpo png apng gif bmp dib tif tiff webp ppm pgm pbm pnm avif heic heif jp2 j2k",
    "texts and tables": "csv tsv json jsonl ndjson xml txt yaml yml toml md html htm log pdf xls xlsx doc docx mat npy",
    "raw photographs": "cr2 cr3 nef arw dng raf orf rw2 pef srw",  # some begin as TIFF does
    "pictures in other formats, to be saved as JPEG or PNG": (
        "tga pcx sgi ras dds exr hdr pfm ico cur icns jxl jxr wdp bpg qoi fits dcm xpm xbm wmf emf djvu"
    ),
    "drawings and projects": "svg ai eps psd psb xcf kra indd",
    "unfinished downloads": "part partial crdownload download",
    "videos and sounds": "mp4 mov avi mkv webm m4v mpg mpeg wmv 3gp mp3 wav",
    "archives": "zip tar gz tgz bz2 xz 7z rar",
    "system files": "db ini lnk url tmp",
    "programs": "py ipynb sh bat exe js pyc m r",
}
KIND_OF = {suffix: kind for kind, suffixes in KINDS.items() for suffix in suffixes.split()}
# Kinds of pictures whose folders are no empty ones.
UNREAD = tuple(kind for kind in KINDS if kind.startswith(("raw", "pictures in", "drawings")))
SYSTEM_FOLDERS = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "#recycle", "system volume information", "lost+found", "__pycache__")
)
HIDDEN = "hidden files and folders of the system"
MAX_POINTER = 1024  # bytes, by its specification


@dataclass(eq=False)  # compared by identity: by content is slow for thousands
class Folder:
    """A folder and all below it, without what is hidden."""

    path: Path
    pictures: dict[Path, int] = field(default_factory=dict)  # with their sizes in bytes
    folders: list["Folder"] = field(default_factory=list)
    others: list[tuple[str, Path]] = field(default_factory=list)  # with their kinds
    bad: list[str] = field(default_factory=list)  # why some cannot be pictures
    absent: dict[Path, str] = field(default_factory=dict)  # pictures in whose place is something else, and what it is

    @cached_property
    def filled(self) -> "list[Folder]":
        """Subfolders that hold a picture at any depth."""
        return [folder for folder in self.folders if folder.pictures or folder.filled]

    def walk(self) -> "Iterator[Folder]":
        """Yield this folder and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def holds_unread(self) -> bool:
        """Return whether pictures of a kind that is not read lie in it, at any depth."""
        return any(kind in UNREAD for folder in self.walk() for kind, _ in folder.others)

    def all_pictures(self) -> list[Path]:
        """Return the pictures at any depth, in order."""
        return sorted(path for folder in self.walk() for path in folder.pictures)


def scan(path: Path) -> Folder:
    """List a folder at any depth, through links; what is no file is bad.

    Raises OSError where the folder itself cannot be listed and entered, and BadInput where one below it cannot, which
    may be a link.
    """
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
            status = (path if entry.is_dir() else entry).stat()  # Windows lists folders without their identity
        except OSError as error:
            if isinstance(error, PermissionError) and not entry.is_symlink():
                raise  # the folder may be listed, but not entered
            reason, kind = f"{str(path)!r} is a link that leads nowhere: {error.strerror}", _kind(path)
            if not kind:  # it may be a class
                raise BadInput(f"{reason}; make it lead to a folder or file, or take it away") from error
            if kind == "pictures":
                folder.pictures[path], folder.absent[path] = 0, reason
            else:
                folder.bad.append(reason)
            continue
        if stat.S_ISDIR(status.st_mode):
            if _identity(status) in above:
                folder.bad.append(f"{str(path)!r} is a link to a folder that it is in")
                continue
            try:
                folder.folders.append(_scan(Folder(path), status, above))
            except OSError as error:
                reason = f"{str(path)!r} cannot be listed: {error.strerror}"
                raise BadInput(f"{reason}; make it readable, or take it away") from error
        elif stat.S_ISREG(status.st_mode):
            _add_file(folder, path, status.st_size)
        else:
            folder.bad.append(f"{str(path)!r} is not a file but a pipe, socket or device")
    return folder


def _add_file(folder: Folder, path: Path, size: int) -> None:
    kind, content = _kind(path) or "other files", None
    named = kind == "pictures"
    if not named or size <= MAX_POINTER:
        with suppress(OSError):  # whoever reads it as a picture says so
            content = identify(path)
    if named and content and content.name == POINTER:
        folder.absent[path] = f"{str(path)!r} is a pointer of Git LFS; run `git lfs pull`"
    readable = content and content.picture and not content.remedy
    if named or (readable and kind not in ("raw photographs", "unfinished downloads")):
        folder.pictures[path] = size
    else:
        folder.others.append((kind, path))


def _kind(path: Path) -> str | None:
    return KIND_OF.get(path.suffix.lower().removeprefix("."))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
