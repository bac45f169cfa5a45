"""Read a folder of pictures, and assign its pictures to training, validation and test."""

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from convspec import BadInput
from convspec.data.layouts import PARTS, Layout, PictureFile, cite, find_files, look_through, plain, printable
from convspec.data.scan import Folder, scan
from convspec.files import checksum

if TYPE_CHECKING:
    from convspec.data.decode import Truncated

SHARE = 0.25  # of the pictures, for validation and for test: the chapter's 2,000 / 1,000 / 1,000
TAKEN = 0.2  # of the training pictures, for a part that a folder with parts lacks
MAX_BAD = 0.05  # share of files that may be no pictures
MIN_DRAWN = 4  # pictures of a class that parts are drawn from
GROUPS = "groups.csv"
FEW = 10  # test pictures of a class, below which its accuracy says little
MAX_CLASSES = 50  # that are listed one by one


class Pair(NamedTuple):
    """Positions of two pictures that are near copies; `mirrored` where one must be mirrored to look like the other."""

    first: int
    second: int
    mirrored: bool


@dataclass(frozen=True)
class Copies:
    """Near copies among pictures: pairs that link each group, and why others could not be read, or only in part."""

    pairs: tuple[Pair, ...] = ()
    failures: dict[int, str] = field(default_factory=dict)
    incomplete: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """Files of a folder of classes, by part, class and name, and how the folder was read."""

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray  # int64 (n,), positions in `classes`
    names: tuple[str, ...]  # CLASS/FILE
    parts: tuple[str, ...] | None  # of each file, one of PARTS; None where the folder does not say
    bad: tuple[str, ...]  # why files, which are not among these, cannot be pictures
    duplicates: tuple[str, ...]  # which others have the same content as one of these
    left_out: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)  # all else, by kind
    groups: tuple[tuple[int, ...], ...] = ()  # positions of files, for each group that must stay in one part
    notes: tuple[str, ...] = ()  # what was taken for what
    copies: Copies = Copies()  # near copies that `compare` has found
    compared: bool = False  # whether `compare` has looked for copies

    @property
    def missing(self) -> list[str]:
        """Parts that the folder lacks and that are drawn from its training pictures, or from all."""
        return [part for part in PARTS[1:] if part not in (self.parts or ())]

    def refuse_bad(self, bad: Sequence[str], max_fraction: float = MAX_BAD) -> None:
        """Raise BadInput where more than that share of the files is bad."""
        total = len(self.paths) + len(self.bad)
        if len(bad) > max_fraction * total:
            raise BadInput(
                f"{len(bad)} of {total} files in {str(self.folder)!r} are no pictures, more than {max_fraction:.0%};"
                f" take them away: {cite(bad, '; ', 5)}"
            )

    def explain(self, seed: int = 0, complete: bool = False) -> tuple[list[str], BadInput | None]:
        """Return the reading in lines: parts, classes, counts, what is left out; and why it cannot be used, if so.

        Of files, three are named beside their number; where `complete`, all are, on lines of their own.
        """
        bad = [*self.bad, *self.copies.failures.values()]
        try:
            self.refuse_bad(bad)
            parts, problem = dict(zip(PARTS, assign(self, self.copies.failures, seed), strict=True)), None
        except BadInput as error:
            parts, problem = {"": np.arange(len(self.paths))}, error
        lines = [f"{str(self.folder)!r}: {len(self.paths)} pictures of {len(self.classes)} classes"]
        lines += [f"  {note}" for note in self.notes]
        counts = {part: np.bincount(self.labels[chosen], minlength=len(self.classes)) for part, chosen in parts.items()}
        for label, name in enumerate(self.classes[:MAX_CLASSES]):
            shown = ", ".join(f"{count[label]} {part}".strip() for part, count in counts.items())
            lines.append(f"  {printable(name)}: {shown}")
        if rest := np.bincount(self.labels, minlength=len(self.classes))[MAX_CLASSES:].tolist():
            sizes = " to ".join(map(str, sorted({min(rest), max(rest)})))
            lines.append(f"  and {len(rest)} more classes of {sizes} pictures")
        lines += self._describe_balance(list(counts.values())[-1], tested="test" in counts)
        for kind, paths in self.left_out.items():
            lines += _list(f"left out: {len(paths)} {kind}", [*map(self._name, paths)], complete, ", ")
        for title, reasons in (
            ("no pictures", bad),
            ("read in part", [*self.copies.incomplete.values()]),
            ("the same content again, left out", self.duplicates),
        ):
            lines += _list(f"{title}: {len(reasons)}", reasons, complete)
        return lines + self._describe_groups(parts, complete), problem

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self.folder).as_posix())

    def _describe_balance(self, counts: np.ndarray, tested: bool) -> list[str]:
        """Say what always answering the largest class reaches, and which classes have few pictures (to test with)."""
        always, share = printable(self.classes[counts.argmax()]), counts.max() / max(counts.sum(), 1)
        few = [f"{printable(name)} ({n})" for name, n in zip(self.classes, counts, strict=True) if n < FEW]
        lines = [f"a model that always answers {always} is right in {share:.1%}"]
        if few:
            of_test = " to test with" if tested else " in all"
            lines.append(f"few pictures{of_test}, so that accuracy says little about these classes: {cite(few)}")
        return lines

    def _describe_groups(self, parts: Mapping[str, np.ndarray], complete: bool) -> list[str]:
        """Count groups and near copies, and how many of them lie in two parts, or, of copies, in two classes."""
        kinds = {
            f"pictures in a group with another ({GROUPS})": [(g[0], other) for g in self.groups for other in g[1:]],
            "near copies": [pair[:2] for pair in self.copies.pairs if not pair.mirrored],
            "mirrored copies": [pair[:2] for pair in self.copies.pairs if pair.mirrored],
        }
        part_of = {position: part for part, chosen in parts.items() for position in chosen.tolist()}
        lines = []
        for kind, links in kinds.items():
            apart = [link for link in links if len({part_of[each] for each in link if each in part_of}) > 1]
            torn = [link for link in links if "copies" in kind and len({*self.labels[[*link]].tolist()}) > 1]
            for title, some in (
                (kind, links),
                (f"WARNING: {kind} in two classes, one of which may be wrong", torn),
                (f"WARNING: {kind} in two parts, which make accuracy look better", apart),
            ):
                named = [" = ".join(self._name(self.paths[each]) for each in link) for link in some]
                lines += _list(f"{title}: {len(some)}", named, complete)
        return lines


def _list(title: str, texts: Sequence[str], complete: bool, separator: str = "; ") -> list[str]:
    """Return a title with the first of some texts beside it, or all below; nothing for no text."""
    if complete and texts:
        return [title, *(f"  {text}" for text in texts)]
    return [f"{title} ({cite(texts, separator)})"] if texts else []


def read_layout(folder: Path, layout: Layout | None = None) -> Reading:
    """Read a folder of pictures, from names and the first bytes of files, in any of these layouts.

    One subfolder a class; parts that each have one, named as in `layouts.KEYWORDS`; classes that each have parts;
    Kaggle's `train/cat.0.jpg`; the public download's `PetImages/Cat/0.jpg`. A single folder on top is looked through.
    Cats and dogs alone in the latter two layouts, complete to number 1999, are split as in listing 5.4. The same
    content under two names is taken once: in the test part rather than in validation or training, else under the first
    name.

    Raises BadInput where there are not two classes, a part lacks one, Git LFS has left texts in place of the pictures,
    GROUPS cannot be used, or `layout` must say whether folders are classes or parts.
    """
    tree = scan(folder)
    absent = _find_absent(tree)
    bad = [*(reason for each in tree.walk() for reason in each.bad), *absent.values()]
    notes: list[str] = []
    odd: list[Path] = []
    files = find_files(tree, layout, notes, odd)
    bad += [f"{str(path)!r} is not named CLASS.NUMBER, as the others are" for path in odd if path not in absent]
    table = next((f for f in (folder / GROUPS, look_through(tree).path / GROUPS) if f.is_file()), folder / GROUPS)
    left_out = _list_left_out(tree, {file.path for file in files} | {*odd, table, *absent})
    split = any(file.part for file in files)
    listed = [f for f in files if bool(f.part) == split]
    files, copies = _drop_duplicates([f for f in listed if f.path not in absent], tree)
    duplicates = sorted(f"{str(path)!r} is the same picture as {str(kept)!r}" for path, kept in copies.items())
    place_of = {file.path: (file.part or "", file.label) for file in listed}
    if gone := {*place_of.values()} - {place_of[file.path] for file in files}:
        part, label = min(gone)
        copy = next(path for path in (*copies, *absent) if place_of.get(path) == (part, label))
        where = f"{part} of {str(folder)!r}" if part else f"{str(folder)!r}"
        if copy in absent:
            raise BadInput(f"the class {label!r} is empty: no readable picture of it in {where}; {absent[copy]}")
        raise BadInput(
            f"all pictures of {label!r} in {where} are there twice: {str(copy)!r} is the same picture as"
            f" {str(copies[copy])!r}; take those away that do not belong there"
        )
    if torn := [path for path, kept in copies.items() if place_of[path][1] != place_of[kept][1]]:
        named = f"{str(torn[0])!r} is the same picture as {str(copies[torn[0]])!r}"
        notes.append(f"WARNING: pictures in two classes, taken as one of them: {len(torn)} ({named})")
    files.sort(key=lambda file: (PARTS.index(file.part) if file.part else 0, file.label, file.name))
    classes = tuple(sorted({file.label for file in files}))
    for name, count in Counter(plain(name).strip() for name in classes).items():
        if count > 1:
            notes.append(f"WARNING: {count} classes are called {name!r}, but for capitals, spaces and forms of accents")
    numbers = {label: number for number, label in enumerate(classes)}
    parts = tuple(file.part for file in files if file.part) or None
    if not parts:
        notes.append("split by class and seed: 50 % train, 25 % validation, 25 % test")
    notes += [f"no {p} part: {TAKEN:.0%} of train, by class and seed" for p in PARTS if parts and p not in parts]
    return Reading(
        folder=folder,
        classes=classes,
        paths=tuple(file.path for file in files),
        labels=np.array([numbers[file.label] for file in files], np.int64),
        names=tuple(file.name for file in files),
        parts=parts,
        bad=tuple(bad),
        duplicates=tuple(duplicates),
        left_out=left_out,
        groups=_read_groups(table, files, copies),
        notes=tuple(notes),
    )


def _find_absent(tree: Folder) -> dict[Path, str]:
    """Return pictures in whose place is something else, and what; raise BadInput for many pointers of Git LFS."""
    absent = {path: reason for folder in tree.walk() for path, reason in folder.absent.items()}
    pointers = [path for path, reason in absent.items() if reason.endswith("`git lfs pull`")]
    total = len(tree.all_pictures())
    if len(pointers) > MAX_BAD * total:
        raise BadInput(
            f"{len(pointers)} of {total} pictures in {str(tree.path)!r} are pointers of Git LFS, texts in the place of"
            f" pictures that were not downloaded, such as {str(pointers[0])!r}; run `git lfs pull` there"
        )
    return absent


def _list_left_out(tree: Folder, used: set[Path]) -> dict[str, tuple[Path, ...]]:
    """Return by kind what is neither a used picture nor bad; of a folder without any picture the folder alone."""
    left_out: dict[str, list[Path]] = defaultdict(list)
    remaining = [tree]
    while remaining:
        folder = remaining.pop()
        left_out["pictures outside of the classes"] += [path for path in folder.pictures if path not in used]
        for kind, path in folder.others:
            if path not in used:
                left_out[kind].append(path)
        for each in folder.folders:
            if each in folder.filled or each.holds_unread():
                remaining.append(each)
            else:
                left_out["folders without pictures"].append(each.path)
    return {kind: tuple(sorted(paths)) for kind, paths in sorted(left_out.items()) if paths}


def _drop_duplicates(files: Sequence[PictureFile], tree: Folder) -> tuple[list[PictureFile], dict[Path, Path]]:
    """Return one file of each content, and for others the one kept; reads only files of equal size."""
    sizes = {path: size for folder in tree.walk() for path, size in folder.pictures.items()}
    shared = Counter(sizes[file.path] for file in files)
    first: dict[Path | str, PictureFile] = {}  # by content, or by path where that tells it from the others
    duplicates: dict[Path, Path] = {}
    for file in sorted(files, key=lambda file: (-PARTS.index(file.part) if file.part else 0, file.label, file.name)):
        content: Path | str = file.path
        if (size := sizes[file.path]) and shared[size] > 1:
            with suppress(OSError):  # whoever reads it as a picture says so
                content = checksum(file.path)
        if (kept := first.setdefault(content, file)) is not file:
            duplicates[file.path] = kept.path
    return [*first.values()], duplicates


def _read_groups(file: Path, files: Sequence[PictureFile], copies: Mapping[Path, Path]) -> tuple[tuple[int, ...], ...]:
    """Return the positions of each group's files, from a table of the columns file and group.

    A file is a path from the table's folder, or a regular expression of such paths whose `(?P<group>...)` is the group.
    """
    if not file.is_file():
        return ()
    number_of = {entry.path: number for number, entry in enumerate(files)}
    number_of |= {path: number_of[kept] for path, kept in copies.items()}
    positions = {path.relative_to(file.parent).as_posix(): number for path, number in number_of.items()}
    spelled = {plain(name): name for name in positions}
    groups: dict[str, list[int]] = defaultdict(list)
    try:
        with file.open(encoding="utf-8-sig", newline="") as table:
            rows = csv.DictReader(table)
            if not {"file", "group"} <= {*(rows.fieldnames or ())}:
                raise ValueError("its first line must name the columns file and group, separated by a comma")
            for row in rows:
                name, group = row["file"] or "", row["group"] or ""
                if "(?P<group>" in name:
                    tried = ((re.fullmatch(name, path), number) for path, number in positions.items())
                    matches = [(match["group"], number) for match, number in tried if match and match["group"]]
                elif name and group:
                    name = Path(os.path.relpath(file.parent / name, file.parent)).as_posix()  # of ./NAME and /PATH, too
                    if name not in positions and (file.parent / name).is_file():  # macOS and Windows ignore its case
                        name = spelled.get(plain(name), name)
                    matches = [(group, positions[name])] if name in positions else []
                else:
                    raise ValueError(f"line {rows.line_num} lacks a file or a group")
                if not matches and not (file.parent / name).is_file():
                    raise ValueError(f"line {rows.line_num}: no picture {name!r} in this folder")
                for group, number in matches:
                    groups[group].append(number)
    except (OSError, ValueError, re.error, csv.Error) as error:
        raise BadInput(f"{str(file)!r}: {error}; put that right, or take the file away") from error
    return tuple(tuple(dict.fromkeys(numbers)) for _, numbers in sorted(groups.items()))


def compare(reading: Reading, progress: TextIO | None = None, truncated: "Truncated" = "skip") -> Reading:
    """Return the reading with its near copies; every picture is decoded once, as a thumbnail."""
    from convspec.data.copies import find_copies  # imports OpenCV and Pillow

    return replace(reading, copies=find_copies(reading.paths, progress, truncated), compared=True)


def assign(reading: Reading, failures: Mapping[int, str], seed: int) -> list[np.ndarray]:
    """Return the positions of the train, validation and test pictures, but for those with `failures`.

    A folder that is not split yet is split 50 / 25 / 25, stratified, in an order that only the names and the seed fix;
    a part that it lacks is taken from train in the same way. Pictures of a group, and near copies as far as the sizes
    of the parts allow, get into one part. Raises BadInput, naming the class, where one is too small for that, has no
    readable picture in a part, or consists of groups that are too large.
    """
    count, source = len(reading.paths), "train" if reading.parts else ""
    readable = ~np.isin(np.arange(count), list(failures))
    place = np.array(reading.parts or ("",) * count, "<U10")
    shares = dict.fromkeys(reading.missing, TAKEN if reading.parts else SHARE)
    pairs = [(group[0], other) for group in reading.groups for other in group]
    groups = join(count, pairs)
    linked = join(count, [*pairs, *(pair[:2] for pair in reading.copies.pairs)])
    filled = {*(reading.parts or ("",))}
    drawn: dict[int, str] = {}  # part of each of `linked`, which may have members in several classes
    placed: dict[int, str] = {}  # and of each of `groups`
    counts = np.bincount(reading.labels[readable & (place == source)], minlength=len(reading.classes))
    if shares and ((counts > 0) & (counts < MIN_DRAWN)).any():
        few = [f"{n!r} has {count}" for n, count in zip(reading.classes, counts, strict=True) if 0 < count < MIN_DRAWN]
        raise BadInput(
            f"{str(reading.folder)!r}: a class needs at least {MIN_DRAWN} readable pictures to be split, but"
            f" {cite(few)}"
        )
    # Rare classes first, as they have the least choice.
    for label in np.bincount(reading.labels, minlength=len(reading.classes)).argsort(kind="stable").tolist():
        name = reading.classes[label]
        here = readable & (reading.labels == label)
        if empty := [part for part in filled if not (here & (place == part)).any()]:
            where = f"{min(empty)} of " if reading.parts else ""
            members = np.flatnonzero(reading.labels == label)
            why = next((f"; {failures[number]}" for number in members.tolist() if number in failures), "")
            raise BadInput(
                f"the class {name!r} is empty: no readable picture of it in {where}{str(reading.folder)!r}{why}"
            )
        members = np.flatnonzero(here & (place == source))
        order = members[np.random.RandomState(seed).permutation(len(members))]
        quotas = {part: max(int(len(members) * share), 1) for part, share in shares.items()}
        own = groups[order].tolist()
        for units, earlier in ((linked[order], drawn), (groups[order], placed)):
            parts = _draw(units, quotas, {unit: earlier[unit] for unit in units.tolist() if unit in earlier})
            sizes = Counter(parts)
            apart = any(placed.get(group, part) != part for group, part in zip(own, parts, strict=True))
            if not apart and sizes["train"] and all(sizes[part] >= quota / 2 for part, quota in quotas.items()):
                break
        else:
            raise BadInput(
                f"{str(reading.folder / GROUPS)!r}: the groups of {name!r} are too large for the parts; split them"
            )
        place[order] = parts
        drawn |= zip(linked[order].tolist(), parts, strict=True)
        placed |= zip(own, parts, strict=True)
    return [np.flatnonzero(readable & (place == part)) for part in PARTS]


def _draw(units: np.ndarray, quotas: Mapping[str, int], drawn: dict[int, str]) -> list[str]:
    """Return the part of each picture in this order; those of a unit get into one, which `drawn` takes down."""
    left = dict(quotas)
    for unit, size in Counter(units.tolist()).items():
        part = drawn.setdefault(unit, next((part for part, free in left.items() if free >= size), "train"))
        if part in left:
            left[part] -= size
    return [drawn[unit] for unit in units.tolist()]


def join(count: int, pairs: Sequence[Sequence[int]]) -> np.ndarray:
    """Return a number for each of `count` things, the same for those that pairs connect."""
    first, second = np.array(pairs, np.int32).reshape(-1, 2).T  # int64 connects nothing, silently, before SciPy 1.11.3
    links = coo_array((np.ones(len(first), np.int8), (first, second)), (count, count))
    return connected_components(links, directed=False)[1]
