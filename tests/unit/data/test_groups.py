"""Pictures that belong together, by a table of groups, get into one part."""

import re
from pathlib import Path

import pytest
from builders import put_noise as put

from convspec import BadInput
from convspec.data import load_dataset
from convspec.data.folders import PARTS, Reading, assign, read_layout
from convspec.data.layouts import plain

pytestmark = pytest.mark.filterwarnings("error")
PETS = ("cats", "dogs")


def part_of(reading: Reading, seed: int) -> dict[str, str]:
    """Return the part of each picture, by its path in the folder."""
    chosen = assign(reading, {}, seed)
    return {
        reading.paths[n].relative_to(reading.folder).as_posix(): part
        for part, positions in zip(PARTS, chosen, strict=True)
        for n in positions
    }


@pytest.mark.parametrize("names_part", ["", "train/"])
def test_a_group_of_a_table_or_a_pattern_stays_in_one_part(names_part: str, tmp_path: Path) -> None:
    for label in PETS:
        for scene in range(8):
            put(tmp_path, f"{names_part}{label}/scene{scene}", count=3)
    if names_part:
        put(tmp_path, "test/cats", "test/dogs")
    rows = rf"{names_part}cats/(?P<group>scene\d)/.*,"
    singles = [f"{names_part}dogs/scene{scene}/{n}.png,dog {scene}" for scene in range(8) for n in range(3)]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", rows, *singles]))
    reading = read_layout(tmp_path)
    assert (len(reading.groups), reading.left_out) == (16, {})
    for seed in range(5):
        parts: dict[str, set[str]] = {}
        for name, part in part_of(reading, seed).items():
            if not name.startswith("test/"):
                parts.setdefault(str(Path(name).parent), set()).add(part)
        assert all(len(places) == 1 for places in parts.values()), parts
        assert len(set.union(*parts.values())) == (2 if names_part else 3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file;group\ncats/0.png;a\n", "its first line must name the columns file and group, separated by a comma"),
        ("file,group\ncats/nobody.png,a\n", r"line 2: no picture 'cats/nobody\.png' in this folder"),
        ("file,group\ncats/0.png,\n", "line 2 lacks a file or a group"),
        ("file,group\n(?P<group>,a\n", "(missing|unterminated)"),
        ("file,group\n(?P<group>cats)/.*,\n", "groups of 'cats' are too large for the parts"),
    ],
)
def test_a_table_of_groups_that_cannot_be_used_is_refused(table: str, message: str, tmp_path: Path) -> None:
    put(tmp_path, *PETS)
    (tmp_path / "groups.csv").write_text(table)
    with pytest.raises(BadInput, match=rf"^{re.escape(repr(str(tmp_path / 'groups.csv')))}: .*{message}"):
        load_dataset(tmp_path, 8)


@pytest.mark.parametrize("seed", range(6))
def test_a_group_with_members_in_two_classes_stays_in_one_part(seed: int, tmp_path: Path) -> None:
    """Twenty patients, of each of whom a hundred pictures show nothing and twelve something."""
    put(tmp_path, "healthy", count=100)
    put(tmp_path, "ill", count=12)
    rows = [f"healthy/{n}.png,{n % 20}" for n in range(100)] + [f"ill/{n}.png,{n % 6}" for n in range(12)]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", *rows]))
    parts: dict[int, set[str]] = {}
    for name, part in part_of(read_layout(tmp_path), seed).items():
        parts.setdefault(int(Path(name).stem) % (6 if name.startswith("ill") else 20), set()).add(part)
    assert all(len(places) == 1 for places in parts.values()), parts


def test_a_table_names_files_as_people_write_them(tmp_path: Path) -> None:
    """From here, by their whole path, or a copy that is left out; in the single folder that has the classes, too."""
    folder = put(tmp_path / "all" / "pets", *PETS).parent
    copy = folder / "pets" / "cats" / "again.png"
    copy.write_bytes((copy.parent / "5.png").read_bytes())
    rows = f"./cats/0.png,a\n{copy.parent}/1.png,a\ncats/9.png,b\ncats/again.png,b\n(?P<group>dogs/0)?.*,c\n"
    (folder / "pets" / "groups.csv").write_text(f"file,group\n{rows}")
    reading = read_layout(folder)
    named = sorted(sorted(reading.names[number] for number in group) for group in reading.groups)
    assert named == [["cats/0.png", "cats/1.png"], ["cats/5.png", "cats/9.png"], ["dogs/0.png"]]
    assert reading.left_out == {}


def test_a_name_that_the_system_finds_in_another_spelling_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS and Windows find files in whatever case, and macOS with accents in either form."""
    put(tmp_path, "caf\u00e9s", "dogs")
    (tmp_path / "groups.csv").write_text("file,group\ncafe\u0301s/0.PNG,a\nCaf\u00e9s/1.png,a\n", encoding="utf-8")
    spellings = {plain(str(path)) for path in tmp_path.rglob("*")}
    monkeypatch.setattr(Path, "is_file", lambda path: plain(str(path)) in spellings)
    assert read_layout(tmp_path).groups == ((0, 1),)
