"""A folder or an archive of pictures, copied into train, validation and test as in listing 5.4."""

import errno
import json
import os
import re
import shutil
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TextIO

from convspec import BadInput, MissingData
from convspec.data import folders
from convspec.data.archives import unpack
from convspec.data.layouts import PARTS, Layout, printable
from convspec.data.scan import HIDDEN
from convspec.files import atomic_write, checksum, lock
from convspec.progress import bar

MANIFEST = "manifest.json"
SCHEMA = 1  # of the manifest; one without a number is of schema 1, one of another schema is refused
MAX_REASONS = 10  # of the files left out, in a summary; the manifest names all
# What systems say between disks, of too many links, and where a disk has none: EINVAL is exFAT's on Windows.
CANNOT_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_QUOTED = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")  # as repr writes text

_Place = Callable[[Path, Path], object]  # puts a picture under a new name


@dataclass(frozen=True)
class Manifest:
    """Content of a split folder; `skipped` and `duplicates` are what was left out, with the reason for each file."""

    seed: int
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # of files, by part and class
    files: dict[str, dict[str, str]]  # by PART/CLASS/NAME: sha256, and source, as a path in the folder it came from
    skipped: tuple[str, ...]
    duplicates: tuple[str, ...]

    def summary(self) -> list[str]:
        """Return lines that count the pictures of each class in each part, and name what was left out and why."""
        lines = []
        for name in self.classes:
            counts = ", ".join(f"{self.counts[part][name]} {part}" for part in PARTS)
            lines.append(f"{printable(name)}: {counts}")
        for title, reasons in (("skipped", self.skipped), ("duplicates left out", self.duplicates)):
            lines += [f"{title}: {len(reasons)}"] if reasons else []
            lines += [f"  {reason}" for reason in reasons[:MAX_REASONS]]
            more = len(reasons) - MAX_REASONS
            lines += [f"  ... and {more} more, see {MANIFEST}"] if more > 0 else []
        return lines

    def to_json(self) -> str:
        """Return the text of the manifest's file: ASCII, whatever the names are."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"


def split(
    source: Path,
    target: Path,
    *,
    seed: int = 0,
    layout: Layout | None = None,
    link: bool = False,
    progress: TextIO | None = None,
) -> Manifest:
    """Copy the pictures of `source` to `target`/PART/CLASS/NAME, then write `target`/manifest.json.

    What `target` has already is compared, never overwritten, so that an interrupted run can be repeated.

    Args:
        source: Folder in one of the layouts of `folders.read_layout`, or a zip or tar of one; never changed.
        target: New folder, or one that a run with the same source and seed left unfinished.
        seed: Splits a folder that listing 5.4 says nothing about (see `folders.assign`).
        layout: Whether subfolders are classes or parts, where the source can be read in two ways.
        link: Hard-link a folder's pictures instead of copying them.
        progress: Stream for progress bars; None for none.

    Returns:
        What the target holds and what was left out; files that cannot be decoded are.

    Raises:
        MissingData: There is no `source`.
        BadInput: `source` cannot be split or overlaps with `target`, or `target` holds anything else.
        OSError: `target` cannot be written.
    """
    if not source.is_dir() and not source.is_file():
        raise MissingData(f"no folder or archive {str(source)!r}: give a folder of pictures, or a zip or tar of one")
    if target.exists() and not target.is_dir():
        raise BadInput(f"{str(target)!r} is not a folder; give one that is new or empty")
    inside, outside = source.resolve(), target.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise BadInput(f"{str(source)!r} and {str(target)!r} overlap; give a target outside of the source")
    if source.is_dir():
        return _split(source, target, seed, layout, _link if link else shutil.copyfile, progress)
    unpacked = outside.parent / f".{outside.name}.unpacked"
    with lock(unpacked, progress):
        shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
        try:
            with _name_failures(unpacked):
                unpack(source, unpacked, progress)
            return _split(unpacked, target, seed, layout, _move, progress)
        except BadInput as error:
            raise BadInput(_relocate(str(error), unpacked, source)) from error
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)


def _split(
    root: Path, target: Path, seed: int, layout: Layout | None, place: _Place, progress: TextIO | None
) -> Manifest:
    reading = folders.compare(folders.read_layout(root, layout), progress)
    failures = reading.copies.failures
    sources: dict[str, Path] = {}
    counts: dict[str, dict[str, int]] = {}
    for part, chosen in zip(PARTS, folders.assign(reading, failures, seed), strict=True):
        sources |= {f"{part}/{reading.names[position]}": reading.paths[position] for position in chosen}
        labels = reading.labels[chosen]
        counts[part] = {name: int((labels == label).sum()) for label, name in enumerate(reading.classes)}
    left_out = [
        f"{str(path)!r} is left out: {kind}"
        for kind, paths in reading.left_out.items()
        for path in paths
        if kind != HIDDEN
    ]
    skipped, duplicates = (
        tuple(sorted(_relocate(reason, root, Path()) for reason in reasons))
        for reasons in ([*reading.bad, *failures.values(), *left_out], reading.duplicates)
    )
    files = {
        name: {"source": path.relative_to(root).as_posix(), "sha256": checksum(path)} for name, path in sources.items()
    }
    manifest = Manifest(seed, reading.classes, counts, files, skipped, duplicates)
    present = _compare(target, sources, manifest)
    with bar(len(sources), "writing pictures", "file", progress) as shown:
        for name, path in sources.items():
            if name not in present:
                with _name_failures(target / name), atomic_write(target / name) as partial:
                    place(path, partial)
            shown.update()
    if MANIFEST not in present:
        with _name_failures(target / MANIFEST), atomic_write(target / MANIFEST) as partial:
            partial.write_text(manifest.to_json(), "ascii")
    return manifest


def _compare(target: Path, sources: dict[str, Path], manifest: Manifest) -> set[str]:
    """Return the names of files in place; BadInput for all else but hidden files."""
    remedy = "give a target that is new or empty"
    parents = {str(folder) for name in sources for folder in PurePosixPath(name).parents}
    present = set()
    for path in sorted(target.rglob("*")):
        place = path.relative_to(target)
        name = place.as_posix()
        if any(part.startswith(".") for part in place.parts):
            continue
        if name == MANIFEST:
            if not _is_manifest(path, manifest):
                raise BadInput(f"{str(path)!r} is not that of this source and seed {manifest.seed}; {remedy}")
            present.add(name)
        elif name in sources:
            if not path.is_file() or checksum(path) != manifest.files[name]["sha256"]:
                other = f"is there with other content than {str(sources[name])!r}"
                raise BadInput(f"{str(path)!r} {other}; move it away, or {remedy}")
            present.add(name)
        elif name not in parents or path.is_symlink() or not path.is_dir():
            other = "does not belong to this split (another source or seed?)"
            raise BadInput(f"{str(path)!r} {other}; move it away, or {remedy}")
    return present


def _is_manifest(path: Path, manifest: Manifest) -> bool:
    try:
        return {"schema": SCHEMA, **json.loads(path.read_bytes())} == json.loads(manifest.to_json())
    except (OSError, ValueError, TypeError):
        return False


def _link(source: Path, partial: Path) -> None:
    try:
        os.link(source.resolve(), partial)  # resolved, as the link must be to the picture, not to a link to it
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        raise BadInput(f"cannot link {str(source)!r} into the target ({error.strerror}); leave out --link") from error


def _move(source: Path, partial: Path) -> None:
    os.replace(source.resolve(), partial)


@contextmanager
def _name_failures(path: Path) -> Iterator[None]:
    """Make the system's errors name the file and say what to do."""
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "put that right"
        reason = f"{error.strerror}; {remedy} and run this again, what is written stays"
        raise OSError(error.errno, reason, str(error.filename or path)) from error


def _relocate(text: str, old: Path, new: Path) -> str:
    """Return `text` with the quoted paths that lie in `old` as they would be in `new`."""

    def renamed(quoted: re.Match) -> str:
        path = Path(literal_eval(quoted[0]))
        return repr((new / path.relative_to(old)).as_posix()) if path.is_relative_to(old) else quoted[0]

    return _QUOTED.sub(renamed, text)
