"""A folder or an archive of pictures, copied into the parts of listing 5.4: completely, verifiably, and repeatably."""

import errno
import hashlib
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

import numpy as np

from convspec import BadInput, MissingData
from convspec.data import decode, folders
from convspec.data.fetch import unpack
from convspec.data.folders import PARTS
from convspec.files import atomic_write
from convspec.progress import bar

MANIFEST = "manifest.json"
SHOWN = 10  # of the files left out, in a summary; the manifest names all
_QUOTED = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")  # as repr writes text

_Place = Callable[[Path, Path], str]  # takes a picture and the name to put it under, gives its SHA-256


@dataclass(frozen=True)
class Manifest:
    """What a split folder holds. All paths are relative: to the folder, and `source` to where the pictures came from.

    `files`: for each PART/CLASS/NAME its source and sha256; `counts`: of files, for each part and class; `skipped` and
    `duplicates`: each file that was left out, with the reason.
    """

    seed: int
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    files: dict[str, dict[str, str]]
    skipped: tuple[str, ...]
    duplicates: tuple[str, ...]

    def summary(self) -> list[str]:
        """Lines for a terminal: how many pictures each class has in each part, and what was left out and why."""
        lines = []
        for name in self.classes:
            counts = ", ".join(f"{self.counts[part][name]} {part}" for part in PARTS)
            lines.append(f"{name if name.isprintable() else repr(name)}: {counts}")
        for title, reasons in (("skipped", self.skipped), ("duplicates left out", self.duplicates)):
            lines += [f"{title}: {len(reasons)}"] if reasons else []
            lines += [f"  {reason}" for reason in reasons[:SHOWN]]
            lines += [f"  ... and {len(reasons) - SHOWN} more, see {MANIFEST}"] if len(reasons) > SHOWN else []
        return lines


def split(source: Path, target: Path, *, seed: int = 0, link: bool = False, progress: TextIO | None = None) -> Manifest:
    """Copy the pictures of `source` to `target`/PART/CLASS/NAME, and write `target`/manifest.json when all are there.

    `source` is a folder that `folders.find` knows, or a zip or tar of one; it is never changed. `folders.assign` says
    which part a picture belongs to: as in listing 5.4, or drawn with `seed`. Files that cannot be decoded are left out.
    With `link` a folder's pictures are hard-linked. What `target` has already is compared, never overwritten, so that
    a run that was interrupted can be repeated. Raises MissingData where there is no `source`, BadInput where it cannot
    be split, overlaps with `target`, or `target` holds anything else, and OSError where `target` cannot be written.
    """
    if not source.is_dir() and not source.is_file():
        raise MissingData(f"no folder or archive {str(source)!r}: give a folder of pictures, or a zip or tar of one")
    if target.exists() and not target.is_dir():
        raise BadInput(f"{str(target)!r} is not a folder; give one that is new or empty")
    inside, outside = source.resolve(), target.resolve()
    if inside == outside or inside in outside.parents or outside in inside.parents:
        raise BadInput(f"{str(source)!r} and {str(target)!r} overlap; give a target outside of the source")
    if source.is_dir():
        return _split(source, source, target, seed, _link if link else _copy, progress)
    with _unpacked(source, outside.parent / f".{outside.name}.unpacked", progress) as root:
        try:
            return _split(root, _top(root), target, seed, _move, progress)
        except BadInput as error:
            raise BadInput(_relocated(str(error), root, source)) from error


def _split(root: Path, folder: Path, target: Path, seed: int, place: _Place, progress: TextIO | None) -> Manifest:
    found = folders.find(folder)
    _, failures = decode.load_images(found.paths, 1, "area", progress=progress)  # decodes in half the time
    good = np.array([position not in failures for position in range(len(found.paths))], bool)
    sources: dict[str, Path] = {}
    counts: dict[str, dict[str, int]] = {}
    for part, chosen in zip(PARTS, folders.assign(found, good, seed), strict=True):
        sources |= {f"{part}/{found.names[position]}": found.paths[position] for position in chosen}
        labels = found.labels[chosen]
        counts[part] = {name: int((labels == label).sum()) for label, name in enumerate(found.classes)}
    skipped, duplicates = (
        tuple(sorted(_relocated(reason, root, Path()) for reason in reasons))
        for reasons in ([*found.bad, *failures.values()], found.duplicates)
    )

    def manifest(digests: dict[str, str]) -> Manifest:
        files = {
            name: {"source": path.relative_to(root).as_posix(), "sha256": digests[name]}
            for name, path in sources.items()
        }
        return Manifest(seed, found.classes, counts, files, skipped, duplicates)

    digests, partials = _present(target, sources)
    record = target / MANIFEST
    if os.path.lexists(record):
        expected = manifest(digests | {name: _digest(path) for name, path in sources.items() if name not in digests})
        if not record.is_file() or record.read_bytes() != _as_json(expected):
            raise BadInput(
                f"{str(record)!r} is not that of this source and seed {seed}; give a target that is new or empty"
            )
    for partial in partials:
        with _writing(partial):
            partial.unlink()
    with bar(len(sources), "writing pictures", "file", progress) as shown:
        for name, path in sources.items():
            if name not in digests:
                with _writing(target / name), atomic_write(target / name) as partial:
                    digests[name] = place(path, partial)
            shown.update()
    complete = manifest(digests)
    if not record.exists():
        with _writing(record), atomic_write(record) as partial:
            partial.write_bytes(_as_json(complete))
    return complete


def _as_json(manifest: Manifest) -> bytes:
    return (json.dumps(asdict(manifest), indent=1) + "\n").encode()  # ASCII, whatever the names are


def _present(target: Path, sources: dict[str, Path]) -> tuple[dict[str, str], list[Path]]:
    """The SHA-256 of each file that is in place, and what a killed run left half-written; BadInput for all else."""
    expected = {*sources, MANIFEST}
    parents = {str(folder) for name in sources for folder in PurePosixPath(name).parents}
    digests, partials = {}, []
    for path in sorted(target.rglob("*")):
        place = path.relative_to(target)
        name, whole = place.as_posix(), place.with_name(re.sub(r"^partial\d+-", "", place.name) or place.name)
        if any(part.startswith(".") for part in place.parts) or name == MANIFEST:
            continue
        if name in sources:
            digests[name] = _digest(sources[name])
            if not path.is_file() or _digest(path) != digests[name]:
                raise BadInput(
                    f"{str(path)!r} is there with other content than {str(sources[name])!r}; move it away, or give a"
                    " target that is new or empty"
                )
        elif whole.as_posix() in expected and path.is_file():
            partials.append(path)
        elif name not in parents or path.is_symlink() or not path.is_dir():
            raise BadInput(
                f"{str(path)!r} does not belong to this split (another source or seed?); move it away, or give a"
                " target that is new or empty"
            )
    return digests, partials


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, partial: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as whole, partial.open("xb") as copy:
        while chunk := whole.read(2**20):
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest()


def _link(source: Path, partial: Path) -> str:
    try:
        os.link(source.resolve(), partial)  # resolved, as the link must be to the picture, not to a link to it
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        raise BadInput(f"cannot link {str(source)!r} into the target ({error.strerror}); leave out --link") from error
    return _digest(partial)


def _move(source: Path, partial: Path) -> str:
    os.replace(source, partial)
    return _digest(partial)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of the system name the file and say what to do."""
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "put that right"
        reason = f"{error.strerror}; {remedy} and run this again, what is written stays"
        raise OSError(error.errno, reason, str(error.filename or path)) from error


@contextmanager
def _unpacked(archive: Path, folder: Path, progress: TextIO | None) -> Iterator[Path]:
    """The archive in a subfolder of `folder`, which is removed in the end."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        unpack(archive, folder / "archive", progress)
        shutil.rmtree(folder / "archive" / "__MACOSX", ignore_errors=True)  # no class, but what Macs put into zips
        yield folder / "archive"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _top(folder: Path) -> Path:
    """Where the layout begins: inside of a single top folder that is none of it."""
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if len(visible) == 1 and visible[0].is_dir() and visible[0].name not in (*PARTS, "PetImages"):
        return _top(visible[0])
    return folder


def _relocated(text: str, old: Path, new: Path) -> str:
    """`text` with the quoted paths that lie in `old` as they would be in `new`."""

    def renamed(quoted: re.Match) -> str:
        path = Path(literal_eval(quoted[0]))
        return repr((new / path.relative_to(old)).as_posix()) if path.is_relative_to(old) else quoted[0]

    return _QUOTED.sub(renamed, text)
