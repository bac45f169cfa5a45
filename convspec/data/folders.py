"""List the classes and pictures of a folder, and assign them to training, validation and test."""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convspec import BadInput
from convspec.files import checksum

PARTS = ("train", "validation", "test")
SHARES = (0.5, 0.25, 0.25)  # the chapter's 2,000 / 1,000 / 1,000
LISTING_5_4 = {"train": range(1000), "validation": range(1000, 1500), "test": range(1500, 2000)}
NUMBERED = re.compile(r"(?P<label>.+)\.(?P<number>\d+)\.\w+")  # Kaggle's cat.0.jpg


@dataclass(frozen=True)
class PictureFiles:
    """Files of a folder of classes, in the order of their classes and names.

    `labels`: int64 (n,), positions in `classes`; `names`: one for each file, CLASS/FILE; `parts`: for each file one of
    PARTS, or None where the folder does not say. `bad` names what cannot be a picture, `duplicates` what has the same
    content as another file; neither is among the files.
    """

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    names: tuple[str, ...]
    parts: tuple[str, ...] | None
    bad: tuple[str, ...]
    duplicates: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    path: Path
    label: str
    name: str
    part: str | None = None


def list_pictures(folder: Path) -> PictureFiles:
    """List the pictures of a folder in any of these layouts, without what is hidden.

    One subfolder a class; `train`, `validation` and `test` that each have one; Kaggle's `train/cat.0.jpg`; the public
    download's `PetImages/Cat/0.jpg`. Cats and dogs in the latter two, complete to number 1999, are split as in listing
    5.4. The same content under two names is taken once: in the test part rather than in validation or training, else
    under the first name. Raises BadInput where there are not two classes, or a part lacks one.
    """
    bad: list[str] = []
    present = [part for part in PARTS if (folder / part).is_dir()]
    if (folder / "PetImages").is_dir():
        files = _split_as_listing_5_4(_list_classes(folder / "PetImages", bad))
    elif numbered := _list_numbered(folder / "train" if "train" in present else folder, bad):
        files = _split_as_listing_5_4(numbered)
    elif not present:
        files = _list_classes(folder, bad)
    elif missing := [part for part in PARTS if part not in present]:
        raise BadInput(
            f"{str(folder)!r} has {', '.join(present)} but no {', '.join(missing)};"
            " give all three, or one subfolder a class"
        )
    else:
        files = _list_parts(folder, bad)
    classes = tuple(sorted({file.label for file in files}))
    unique, duplicates = _drop_duplicates(files)
    unique.sort(key=lambda file: (PARTS.index(file.part) if file.part else 0, file.label, file.name))
    return PictureFiles(
        folder=folder,
        classes=classes,
        paths=tuple(file.path for file in unique),
        labels=np.array([classes.index(file.label) for file in unique], np.int64),
        names=tuple(file.name for file in unique),
        parts=tuple(file.part for file in unique if file.part) or None,
        bad=tuple(bad),
        duplicates=tuple(duplicates),
    )


def assign(files: PictureFiles, readable: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the positions of the train, validation and test pictures, of those that are `readable`.

    A folder that is not split yet is split 50 / 25 / 25, stratified, in an order that only the names and the seed
    fix. Raises BadInput, naming the class, where one is too small for that or has no readable picture in a part.
    """
    chosen: list[list[int]] = [[], [], []]
    for label, name in enumerate(files.classes):
        members = np.flatnonzero(readable & (files.labels == label))
        if files.parts:
            groups = [members[np.array(files.parts)[members] == part] for part in PARTS]
            if empty := [part for part, group in zip(PARTS, groups, strict=True) if not len(group)]:
                raise _empty_class(files.folder / empty[0] / name)
        elif not len(members):
            raise _empty_class(files.folder / name)
        elif len(members) < 4:
            raise BadInput(
                f"{str(files.folder)!r}: a class needs at least 4 readable pictures to be split, but {name!r} has"
                f" {len(members)}"
            )
        else:
            members = members[np.random.RandomState(seed).permutation(len(members))]
            held_out = [int(len(members) * share) for share in SHARES[1:]]
            validation, test, train = np.split(members, np.cumsum(held_out))
            groups = [train, validation, test]
        for part, group in zip(chosen, groups, strict=True):
            part.extend(group)
    return [np.sort(np.array(part, np.int64)) for part in chosen]


def _empty_class(folder: Path) -> BadInput:
    return BadInput(f"the class {folder.name!r} is empty: no readable picture in {str(folder)!r}")


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        paths = sorted(Path(entry) for entry in entries if not entry.name.startswith("."))
    return [path for path in paths if path.is_dir()]  # unlike an entry's, not an error for a link to itself


def _list_classes(folder: Path, bad: list[str], part: str | None = None) -> list[_File]:
    """List the files of each subfolder, which is a class."""
    above = tuple(_identity(parent.stat()) for parent in [folder, *folder.absolute().parents])
    subfolders = _subfolders(folder)
    classes = [label for label in subfolders if _identity(label.stat()) not in above]
    bad += [_loop_reason(label) for label in subfolders if label not in classes]
    if len(classes) < 2:
        content = f"only the class {classes[0].name!r}" if classes else "no subfolders"
        raise BadInput(f"{str(folder)!r} has {content}; give at least two subfolders of pictures, one a class")
    files = []
    for label in classes:
        paths = sorted(_regular_files(label, bad, above))
        if not paths:
            raise _empty_class(label)
        files += [_File(path, label.name, path.relative_to(folder).as_posix(), part) for path in paths]
    return files


def _list_parts(folder: Path, bad: list[str]) -> list[_File]:
    files = {part: _list_classes(folder / part, bad, part) for part in PARTS}
    classes = {part: sorted({file.label for file in files[part]}) for part in PARTS}
    for part in PARTS:
        if classes[part] != classes["train"]:
            raise BadInput(
                f"{str(folder / part)!r} has the classes {', '.join(classes[part])}; train has"
                f" {', '.join(classes['train'])}"
            )
    return [file for part in PARTS for file in files[part]]


def _list_numbered(folder: Path, bad: list[str]) -> list[_File]:
    """List the files of a folder without subfolders whose names begin with their class: Kaggle's layout."""
    if _subfolders(folder):
        return []
    odd: list[str] = []
    files = []
    for path in _regular_files(folder, odd, ()):
        if match := NUMBERED.fullmatch(path.name):
            files.append(_File(path, match["label"], f"{match['label']}/{path.name}"))
        else:
            odd.append(f"{str(path)!r} is not named CLASS.NUMBER, as the others are")
    if len({file.label for file in files}) < 2:
        return []
    bad += odd
    return files


def _split_as_listing_5_4(files: list[_File]) -> list[_File]:
    """Name and split cats and dogs 0 to 1999 as listing 5.4 does; leave other files as they are."""
    named: dict[tuple[str, int], Path] = {}
    for file in files:
        number = re.search(r"(\d+)\.\w+$", file.path.name)
        if number and file.label.lower() in ("cat", "dog"):
            named.setdefault((file.label.lower(), int(number[1])), file.path)
    if any((label, number) not in named for label in ("cat", "dog") for number in range(2000)):
        return files
    return [
        _File(path, f"{label}s", f"{label}s/{label}.{number}{path.suffix}", part)
        for (label, number), path in named.items()
        for part, numbers in LISTING_5_4.items()
        if number in numbers
    ]


def _regular_files(folder: Path, bad: list[str], above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Yield regular files at any depth, through links; add what else is there to `bad`, with its reason."""
    try:
        here = _identity(folder.stat())
        with os.scandir(folder) as listing:
            entries = sorted(
                (entry for entry in listing if not entry.name.startswith(".")), key=lambda entry: entry.name
            )
    except OSError as error:
        bad.append(f"{str(folder)!r} cannot be listed: {error.strerror}")
        return
    if here in above:
        bad.append(_loop_reason(folder))
        return
    for entry in entries:
        path = Path(entry)
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            bad.append(f"{str(path)!r} is a link that leads nowhere: {error.strerror}")
            continue
        if stat.S_ISDIR(mode):
            yield from _regular_files(path, bad, (*above, here))
        elif stat.S_ISREG(mode):
            yield path
        else:
            bad.append(f"{str(path)!r} is not a file but a pipe, socket or device")


def _loop_reason(folder: Path) -> str:
    return f"{str(folder)!r} is a link to a folder that it is in"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _drop_duplicates(files: Iterable[_File]) -> tuple[list[_File], list[str]]:
    """Return one file of each content, and what was left out; only files of equal size are read."""
    sizes = defaultdict(list)
    order = sorted(files, key=lambda file: (-PARTS.index(file.part) if file.part else 0, file.label, file.name))
    for file in order:
        try:
            sizes[file.path.stat().st_size].append(file)
        except OSError:
            sizes[-1].append(file)  # gone since it was listed: whoever reads it says so
    unique, duplicates = [], []
    for size, group in sizes.items():
        first: dict[str, _File] = {}
        for file in group:
            content = _digest(file.path) if len(group) > 1 and size > 0 else None
            if content is None:
                unique.append(file)
            elif content in first:
                duplicates.append(f"{str(file.path)!r} is the same picture as {str(first[content].path)!r}")
            else:
                first[content] = file
                unique.append(file)
    return unique, sorted(duplicates)


def _digest(path: Path) -> str | None:
    try:
        return checksum(path)
    except OSError:
        return None  # whoever reads it as a picture says so
