"""Tell parts, classes and the pictures of each from where files lie in a folder."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from convspec import BadInput
from convspec.data.scan import Folder

Layout = Literal["classes", "parts"]
PARTS = ("train", "validation", "test")
LISTING_5_4 = {"train": range(1000), "validation": range(1000, 1500), "test": range(1500, 2000)}
NUMBERED = re.compile(r"(?P<label>.+)\.\d+\.\w+")  # Kaggle's cat.0.jpg
KEYWORDS = {
    "train": "train training",
    "validation": "validation validate valid val dev",
    "test": "test testing eval evaluation",
}  # those of Hugging Face's imagefolder, and "validate"
PART_OF = {word: part for part, words in KEYWORDS.items() for word in words.split()}
FILLERS = {"set", "sets", "data", "dataset", "images", "imgs", "img", "pictures", "photos", "part", "split"}
WORDS = re.compile(r"[^\W\d_]+")
CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # within TrainingData
GLUED = re.compile(rf"({'|'.join(PART_OF)})(?:set|sets|data|dataset|images|imgs|img|pictures|photos)")  # trainset
OPTION = "--convspec-layout"


@dataclass(frozen=True)
class PictureFile:
    """A picture's file, its class, its name CLASS/FILE, and its part where the folder says so."""

    path: Path
    label: str
    name: str
    part: str | None = None


def cite(texts: Sequence[str], separator: str = ", ", most: int = 3) -> str:
    """Name the first of some texts, with an ellipsis in the place of the others."""
    return separator.join([*texts[:most], *["..."] * (len(texts) > most)])


def find_part(name: str) -> tuple[str | None, bool]:
    """Return the part that a folder's name speaks of, else None, and whether it says nothing else."""
    words = [GLUED.sub(r"\1", word.lower()) for word in WORDS.findall(CAPITAL.sub(" ", name))]
    parts = {PART_OF[word] for word in words if word in PART_OF}
    return parts.pop() if len(parts) == 1 else None, all(word in PART_OF or word in FILLERS for word in words)


def find_files(tree: Folder, layout: Layout | None, notes: list[str], odd: list[Path]) -> list[PictureFile]:
    """Return the pictures of a folder with their classes and parts; see `folders.read_layout`.

    Args:
        tree: What the folder holds.
        layout: What folders are that could be classes or parts; None to ask where that is open.
        notes: Takes lines that say what was taken for what.
        odd: Takes the pictures among numbered ones that belong to no class.

    Raises:
        BadInput: There are not two classes, a part lacks one, or the layout is open.
    """
    top = look_through(tree)
    if top is not tree:
        notes.append(f"all pictures are in {top.path.relative_to(tree.path).as_posix()!r}, which is read")
    for folder in top.filled:
        if folder.path.name == "PetImages":
            return _split_as_listing_5_4(_list_classes(folder, folder.filled), notes)
    parts = {folder.path.name: find_part(folder.path.name) for folder in top.filled}
    if layout != "classes":
        for folder in (*(each for each in top.filled if parts[each.path.name] == ("train", True)), top):
            if numbered := _list_numbered(folder, odd):
                if layout is None and (others := [name for name, (part, _) in parts.items() if not part]):
                    raise _ask(top, f"{folder.path.name!r} as the part to train with, without {others[0]!r}")
                notes.append(f"classes are told by the names of files, as in {numbered[0].path.name!r}")
                return _list_numbered_parts(top, odd, notes) or _split_as_listing_5_4(numbered, notes)
        if any(part for part, _ in parts.values()):
            return _list_named(top, layout, notes)
        if _has_parts(top):
            notes.append("each class has parts")
            return [
                PictureFile(path, label.path.name, f"{label.path.name}/{path.relative_to(inner.path).as_posix()}", part)
                for label in top.filled
                for inner in label.filled
                for path in inner.all_pictures()
                if (part := find_part(inner.path.name)[0])
            ]
        if layout == "parts":
            raise BadInput(f"{str(top.path)!r} has no folder that is named after a part: leave out {OPTION}")
    inner = {tuple(each.path.name for each in label.filled) for label in top.filled}
    if len(top.filled) > 1 and len(inner) == 1 and len(names := next(iter(inner))) > 1:
        notes.append(
            f"WARNING: each of these classes has the subfolders {cite(names)}; if those are the classes, call"
            " the folders that they are in train, validation and test, or read one alone"
        )
    return _list_classes(top, top.filled)


def look_through(folder: Folder) -> Folder:
    """Return where the layout begins: inside of a single top folder that has others in it."""
    while len(folder.filled) == 1 and not folder.pictures and not folder.bad:
        (inner,) = folder.filled
        if inner.path.name == "PetImages" or not inner.filled:
            break
        folder = inner
    return folder


def _has_parts(top: Folder) -> bool:
    """Return whether the subfolders, classes, have training pictures and those of another part, and nothing else.

    Raises BadInput where one has and another has not.
    """
    complete: list[str] = []
    others: list[str] = []
    for label in top.filled:
        parts = [find_part(folder.path.name) for folder in label.filled]
        has_parts = len(parts) == len(dict(parts)) > 1 and ("train", True) in parts and all(dict(parts).values())
        (complete if has_parts and not label.pictures else others).append(label.path.name)
    if complete and others:
        raise BadInput(
            f"{str(top.path)!r}: the class {complete[0]!r} has parts and nothing else, {others[0]!r} has not; make them"
            f" alike, or {OPTION} classes if all that is in a folder is its class"
        )
    return len(complete) > 1


def _list_named(top: Folder, layout: Layout | None, notes: list[str]) -> list[PictureFile]:
    """List the pictures of a folder some of whose subfolders are named after parts."""
    with_classes: dict[str, list[Folder]] = {}
    flat: list[tuple[str, bool]] = []
    others = []
    for folder in top.filled:
        part, exact = find_part(folder.path.name)
        if not part:
            others.append(folder)
        elif len((inner := look_through(folder)).filled) > bool(inner.pictures):  # classes
            with_classes.setdefault(part, []).append(inner)
        else:
            flat.append((part, exact))
    if "train" in with_classes:
        if layout is None and others and len(with_classes) == 1:
            train = with_classes["train"][0].path.name
            raise _ask(top, f"{train!r} as the part to train with, and its subfolders as the classes")
        return _list_parts(top, with_classes, notes)
    if with_classes:
        names = cite([repr(folder.path.name) for folder in top.filled])
        raise BadInput(
            f"{str(top.path)!r} has {', '.join(with_classes)} but no train part with classes among its folders {names};"
            " give one"
        )
    if len(others) > 1 and layout == "parts":
        return _list_classes(top, others)
    if len(others) > 1 and any(exact and part != "train" for part, exact in flat):
        names = ", ".join(repr(folder.path.name) for folder in others)
        raise _ask(top, f"{names} alone as the classes")
    if layout == "parts" or (not others and all(exact for _, exact in flat) and len(dict(flat)) == len(flat)):
        raise BadInput(
            f"{str(top.path)!r} has parts ({', '.join(folder.path.name for folder in top.filled)}) without classes:"
            f" give each a subfolder of pictures a class, or {OPTION} classes if these are the classes{_hint(top)}"
        )
    if layout is None and not others and "train" in (named := dict(flat)) and 1 < len(named) < len(flat):
        raise BadInput(
            f"{str(top.path)!r}: names such as {top.filled[0].path.name!r} hold a class and a part; make folders"
            f" such as train/CLASS of them, or {OPTION} classes if each is a class"
        )
    return _list_classes(top, top.filled)


def _ask(top: Folder, parts: str) -> BadInput:
    classes = ", ".join(repr(folder.path.name) for folder in top.filled)
    return BadInput(
        f"{str(top.path)!r} can be read in two ways: {classes} as the classes, or {parts}; choose with"
        f" {OPTION} classes or {OPTION} parts"
    )


def _hint(folder: Folder) -> str:
    """Return what to do with a table of labels or an archive that lies in a folder without classes."""
    others = [*folder.others, *(other for each in folder.filled for other in each.others)]
    names = {kind: path.relative_to(folder.path).as_posix() for kind, path in reversed(others)}
    if archive := names.get("archives"):
        return f"; unpack {archive!r}, or give it to `convspec split`"
    if table := names.get("texts and tables"):
        return f"; {table!r} is not read: if it has the labels, sort the pictures by it"
    return ""


def _list_classes(
    folder: Folder, classes: Sequence[Folder], part: str | None = None, names: Mapping[str, str] | None = None
) -> list[PictureFile]:
    """List the pictures of subfolders, each a class; `names` has the names of those that are called otherwise."""
    if len(classes) < 2:
        content = f"only the class {classes[0].path.name!r}" if classes else "no subfolders with pictures"
        content += f" beside {len(folder.pictures)} loose pictures" if folder.pictures else ""
        content += f" ({folder.bad[0]})" if folder.bad else ""
        if empty := [repr(each.path.name) for each in folder.folders if each not in folder.filled]:
            content += f", and no picture in {cite(empty)}"
        raise BadInput(
            f"{str(folder.path)!r} has {content}; give at least two subfolders of pictures, one a class{_hint(folder)}"
        )
    return [
        PictureFile(path, name, f"{name}/{path.relative_to(label.path).as_posix()}", part)
        for label in classes
        for name in [(names or {}).get(label.path.name, label.path.name)]
        for path in label.all_pictures()
    ]


def _list_parts(top: Folder, by_part: dict[str, list[Folder]], notes: list[str]) -> list[PictureFile]:
    for part, folders in by_part.items():
        if len(folders) > 1:
            both = " and ".join(repr(folder.path.name) for folder in folders)
            raise BadInput(f"{str(top.path)!r}: {both} are both {part} by their names; rename one")
    folders_of = {part: by_part[part][0] for part in PARTS if part in by_part}
    classes = {part: [label.path.name for label in folder.filled] for part, folder in folders_of.items()}
    names_of = _match_names(classes, notes)
    for part, names in classes.items():
        if sorted(names_of[part].values()) != classes["train"]:
            raise BadInput(
                f"{str(folders_of[part].path)!r} has the classes {', '.join(names)}; train has"
                f" {', '.join(classes['train'])}; give both the same"
            )
    shown = ", ".join(f"{part} is {folder.path.name!r}" for part, folder in folders_of.items())
    notes.append(f"parts with classes: {shown}")
    return [
        file
        for part, folder in folders_of.items()
        for file in _list_classes(folder, folder.filled, part if len(folders_of) > 1 else None, names_of[part])
    ]


def _match_names(classes: Mapping[str, Sequence[str]], notes: list[str]) -> dict[str, dict[str, str]]:
    """Return, by part, each class's name in train, which may differ in case and form."""
    known = {plain(name): name for name in classes["train"]}
    if len(known) < len(classes["train"]):  # they differ in case alone
        known = {}
    names_of = {part: {name: known.get(plain(name), name) for name in names} for part, names in classes.items()}
    for part, names in names_of.items():
        if other := next((name for name in names if names[name] != name), None):
            notes.append(f"{other!r} in {part} is the class {names[other]!r}")
    return names_of


def printable(name: str) -> str:
    """Return a name as it is, or as Python writes it where it would break a line of text."""
    return name if name.isprintable() else repr(name)


def plain(name: str) -> str:
    """Return a class's name as it is compared: in one case, and composed, which macOS and others do differently."""
    return unicodedata.normalize("NFC", name).casefold()


def _list_numbered_parts(top: Folder, odd: list[Path], notes: list[str]) -> list[PictureFile]:
    """List the pictures of parts that are each named by class and number; nothing where there is but one."""
    files: list[PictureFile] = []
    left: list[Path] = []
    for folder in top.filled:
        part, exact = find_part(folder.path.name)
        if part and exact:
            if any(file.part == part for file in files):
                raise BadInput(f"{str(top.path)!r} has two folders that are {part} by their names; rename one")
            files += [replace(file, part=part) for file in _list_numbered(folder, left)]
    parts = dict.fromkeys(file.part or "" for file in files)
    if len(parts) < 2:
        return []
    odd[:] = left
    names_of = _match_names({part: sorted({f.label for f in files if f.part == part}) for part in parts}, notes)
    return [
        replace(file, label=label, name=f"{label}/{file.path.name}")
        for file in files
        for label in [names_of[file.part or ""][file.label]]
    ]


def _list_numbered(folder: Folder, odd: list[Path]) -> list[PictureFile]:
    """List the pictures of a folder without subfolders whose names begin with their class: Kaggle's layout."""
    matches = {path: NUMBERED.fullmatch(path.name) for path in folder.pictures}
    files = [
        PictureFile(path, match["label"], f"{match['label']}/{path.name}") for path, match in matches.items() if match
    ]
    if folder.filled or len({file.label for file in files}) < 2:
        return []
    odd += [path for path, match in matches.items() if not match]
    return files


def _split_as_listing_5_4(files: list[PictureFile], notes: list[str]) -> list[PictureFile]:
    """Name and split cats and dogs 0 to 1999 as listing 5.4 does, where there is no third class.

    Others are left without a part.
    """
    named: dict[tuple[str, int], Path] = {}
    for file in files:
        if number := re.search(r"(\d+)\.\w+$", file.path.name):
            named.setdefault((file.label.lower(), int(number[1])), file.path)
    complete = all((label, number) in named for label in ("cat", "dog") for number in range(2000))
    if not complete or {file.label.lower() for file in files} != {"cat", "dog"}:
        return files
    chosen = [
        PictureFile(path, f"{label}s", f"{label}s/{label}.{number}{path.suffix}", part)
        for (label, number), path in named.items()
        for part, numbers in LISTING_5_4.items()
        if number in numbers
    ]
    paths = {file.path for file in chosen}
    notes.append(f"Dogs vs. Cats, split as in listing 5.4; pictures from number 2000 on are left: {len(files) - 4000}")
    return [*chosen, *(file for file in files if file.path not in paths)]
