"""Near copies are found whatever was done to them, and pictures that are only alike are not."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from convspec.data import datasets, split
from convspec.data.copies import SIDE, Copies, _agree, find_copies
from convspec.data.folders import PARTS, assign, compare, join, read_layout
from convspec.progress import bar

pytestmark = pytest.mark.filterwarnings("error")


def scene(seed: int, width: int = 200, height: int = 150) -> Image.Image:
    """Draw something with detail at all scales, as photographs have, another one for each seed."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.normal(size=(n, n, 3)) / n**0.7, (width, height), interpolation=cv2.INTER_CUBIC)
              for n in (3, 6, 12, 24, 48)]  # fmt: skip
    pixels = sum(layers[1:], layers[0])
    return Image.fromarray((127 + 90 * pixels / np.abs(pixels).max() * 1.4).clip(0, 255).astype(np.uint8))


def crop(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((width // 40, height // 40, width - width // 40, height - height // 40))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped by 5 %": crop,
    "cropped at a corner": lambda picture: picture.crop((picture.width // 20, picture.height // 20, *picture.size)),
    "encoded at quality 40": lambda picture: picture,
    "10 % brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.1),
    "half as large": lambda picture: picture.reduce(2),
    "grey": lambda picture: picture.convert("L"),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def save(picture: Image.Image, file: Path, quality: int = 90) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, quality=quality)
    return file


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    return [save(scene(seed), folder / f"{seed}.jpg") for seed in range(30)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_no_other(change: str, scenes: list[Path], tmp_path: Path) -> None:
    quality = 40 if change == "encoded at quality 40" else 90
    changed = [save(CHANGES[change](Image.open(path)), tmp_path / path.name, quality) for path in scenes[:10]]
    copies = find_copies([*scenes, *changed])
    assert [tuple(pair) for pair in copies.pairs] == [(n, n + 30, change == "mirrored") for n in range(10)]
    assert copies.failures == {}


def test_frames_of_one_scene_are_one_group(scenes: list[Path], tmp_path: Path) -> None:
    wide = scene(99, 240, 160)
    frames = [save(wide.crop((n, n // 2, n + 200, n // 2 + 150)), tmp_path / f"{n:02d}.jpg") for n in range(0, 40, 4)]
    pairs = find_copies([*scenes, *frames]).pairs
    groups = join(40, [pair[:2] for pair in pairs])
    assert len(set(groups[30:])) == 1
    assert len(set(groups[:30])) == 30
    assert len(pairs) == 9, "no more links than it takes"


def test_plain_tiny_and_broken_pictures_are_copies_of_nothing(scenes: list[Path], tmp_path: Path) -> None:
    plain = [save(Image.new("RGB", (64, 64), (shade,) * 3), tmp_path / f"{shade}.png") for shade in (0, 100, 101)]
    tiny = [save(scene(0).resize((24, 24)), tmp_path / f"tiny{n}.png") for n in range(2)]
    (tmp_path / "cut.jpg").write_bytes(scenes[0].read_bytes()[:999])
    copies = find_copies([*scenes[:3], *plain, *tiny, tmp_path / "cut.jpg"])
    assert copies.pairs == ()
    assert list(copies.failures) == [8]


def test_what_is_plain_where_two_pictures_meet_is_like_nothing_in_silence() -> None:
    page = np.full((SIDE, SIDE), 250, np.float32)
    page[5:20, 0] = 40
    assert _agree(page, page, np.eye(2, 3, dtype=np.float32))
    assert not _agree(page, page, np.array([[1, 0, -3], [0, 1, 0]], np.float32)), "the mark is outside"


def test_the_copies_found_do_not_depend_on_the_size_of_a_block(
    scenes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [path for path in scenes for _ in range(2)]
    expected = find_copies(pictures)
    assert [pair[:2] for pair in expected.pairs] == [(n, n + 1) for n in range(0, 60, 2)]
    monkeypatch.setattr("convspec.data.copies.BLOCK", 7)
    assert find_copies(pictures) == expected


def test_the_comparison_shows_its_progress(scenes: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    def recorded(*arguments: Any) -> Any:
        bars.append(bar(*arguments))
        return bars[-1]

    monkeypatch.setattr("convspec.data.copies.bar", recorded)
    find_copies(scenes, io.StringIO())
    assert [(each.desc, each.n, each.total) for each in bars] == [("looking for near copies", 30, 30)]


@pytest.mark.slow
def test_of_200_planted_pairs_190_are_found_and_at_most_10_false(data_folder: Path, tmp_path: Path) -> None:
    real = sorted((data_folder / "dogs_vs_cats_small").glob("*/*/*.jpg"))
    chosen = random.Random(1).sample(range(len(real)), 200)
    planted = []
    for number, position in enumerate(chosen):
        change = ("cropped by 5 %", "encoded at quality 40", "10 % brighter", "mirrored")[number % 4]
        with Image.open(real[position]) as picture:
            planted.append(save(CHANGES[change](picture), tmp_path / f"{number}.jpg", 40 if number % 4 == 1 else 90))
    copies = find_copies([*real, *planted])
    groups = join(4200, [pair[:2] for pair in copies.pairs])
    found = [number for number, position in enumerate(chosen) if groups[position] == groups[4000 + number]]
    assert len(found) >= 190
    mirrored = {pair.second - 4000 for pair in copies.pairs if pair.mirrored}
    assert mirrored == {number for number in found if number % 4 == 3}
    assert len(copies.pairs) - len(found) <= 10, "two of them are real: dog.74 and dog.180, dog.980 and dog.1273"


# What is made of them


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Return a folder in which each cat has two near copies, and dogs have none."""
    for number in range(8):
        picture = scene(number)
        for name, change in (("a", "grey"), ("b", "cropped by 5 %"), ("c", "mirrored")):
            save(CHANGES[change](picture), tmp_path / "pets" / "cats" / f"{number}{name}.jpg")
        save(scene(100 + number), tmp_path / "pets" / "dogs" / f"{number}.jpg")
    return tmp_path / "pets"


@pytest.mark.parametrize("seed", range(3))
def test_near_copies_get_into_one_part_however_they_are_split(seed: int, pets: Path, tmp_path: Path) -> None:
    dataset = datasets.load_dataset(pets, 32, seed=seed)
    assert dataset.validation is not None
    parts = {name: part for part in PARTS for name in getattr(dataset, part).names}
    for number in range(8):
        assert len({parts[f"cats/{number}{copy}.jpg"] for copy in "abc"}) == 1
    labels = [np.bincount(part.labels).tolist() for part in (dataset.train, dataset.validation, dataset.test)]
    assert labels == [[12, 4], [6, 2], [6, 2]]
    files = split.split(pets, tmp_path / "split", seed=seed).files
    assert {name.partition("/")[2]: name.partition("/")[0] for name in files} == parts


def test_without_near_copies_the_split_is_that_of_the_names_alone(pets: Path) -> None:
    reading = read_layout(pets)
    dogs = np.flatnonzero(reading.labels == 1)
    with_copies, without = (assign(each, {}, 3) for each in (compare(reading), reading))
    for one, other in zip(with_copies, without, strict=True):
        assert np.intersect1d(one, dogs).tolist() == np.intersect1d(other, dogs).tolist()


def test_copies_that_would_empty_a_part_are_split_and_named(pets: Path) -> None:
    for path in (pets / "dogs").iterdir():
        save(ImageEnhance.Brightness(scene(100)).enhance(1 + int(path.stem) / 50), path)
    reading = compare(read_layout(pets))
    lines, problem = reading.explain()
    assert problem is None
    assert "  dogs: 4 train, 2 validation, 2 test" in lines
    (warning,) = [line for line in lines if line.startswith("WARNING: ")]
    assert warning.startswith("WARNING: near copies in two parts, which make accuracy look better: ")


def test_near_copies_in_given_parts_are_counted_and_named(tmp_path: Path) -> None:
    for number, name in enumerate(f"{part}/{label}" for part in PARTS for label in ("cats", "dogs")):
        for copy in range(4):
            save(scene(10 * number + copy), tmp_path / name / f"{copy}.png")
    save(CHANGES["grey"](scene(1)), tmp_path / "test" / "cats" / "again.png")
    save(CHANGES["mirrored"](scene(2)), tmp_path / "train" / "cats" / "flipped.png")
    lines, problem = compare(read_layout(tmp_path)).explain()
    assert problem is None
    assert lines[-3:] == [
        "near copies: 1 (train/cats/1.png = test/cats/again.png)",
        "WARNING: near copies in two parts, which make accuracy look better: 1"
        " (train/cats/1.png = test/cats/again.png)",
        "mirrored copies: 1 (train/cats/2.png = train/cats/flipped.png)",
    ]


def test_a_picture_that_shows_up_in_two_classes_stays_in_one_part(pets: Path) -> None:
    for number in range(8):
        save(CHANGES["10 % brighter"](scene(number)), pets / "dogs" / f"as cat {number}.jpg")
    reading = compare(read_layout(pets))
    for seed in range(3):
        chosen = assign(reading, {}, seed)
        part_of = {n: part for part, positions in zip(PARTS, chosen, strict=True) for n in positions}
        assert isinstance(reading.copies, Copies)
        assert all(part_of[first] == part_of[second] for first, second, _ in reading.copies.pairs)


def test_near_copies_in_two_classes_are_warned_of(pets: Path) -> None:
    save(CHANGES["10 % brighter"](scene(100)), pets / "cats" / "no cat.jpg")
    save(CHANGES["mirrored"](scene(101)), pets / "cats" / "no cat, either.jpg")
    lines, _ = compare(read_layout(pets)).explain()
    assert [line for line in lines if "WARNING" in line] == [
        "WARNING: near copies in two classes, one of which may be wrong: 1 (cats/no cat.jpg = dogs/0.jpg)",
        "WARNING: mirrored copies in two classes, one of which may be wrong: 1 (cats/no cat, either.jpg = dogs/1.jpg)",
    ]
