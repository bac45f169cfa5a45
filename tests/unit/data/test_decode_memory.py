"""Memory that loading pictures takes, in a process of its own, counted up to three times."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import convspec

PER_FILE = 1100  # bytes: a path, which takes 500 more in Python 3.13 than in 3.11, a name, a label
PER_LETTER = 4  # bytes of each file for a letter in its folder's name, of which a path has several copies
BYTES = 48 * 48 * 3  # of a decoded picture
COMPARED = 1280  # bytes of each picture: a grey thumbnail of 32 x 32, and frequencies, which find near copies

# Whatever another thread of the process takes meanwhile is counted, too: one of three counts must be within the limit.
CHILD = """
import gc, json, re, sys, tracemalloc
from pathlib import Path
from convspec.data import datasets, decode

def status(name):
    return int(re.findall(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024

def allocated(folder):
    gc.collect()
    tracemalloc.start()
    datasets.load_dataset(folder, 48)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak

def own(folder):
    before = status("RssAnon")
    dataset = datasets.load_dataset(folder, 48)
    return status("RssAnon") - before

def resident(file):
    Path("/proc/self/clear_refs").write_text("5")  # forgets the most memory that was ever in use
    before = status("VmHWM")
    try:
        decode.load_image(file, 8)
    except decode.UnreadableImage:
        return status("VmHWM") - before

measure, limit, place, budget, warm = globals()[sys.argv[1]], *json.loads(sys.argv[2])
decode.MEMORY_BUDGET = budget
if warm:
    datasets.load_dataset(warm, 48)  # imports what is needed first
counts = [measure(place)]
while len(counts) < 3 and min(counts) > limit:
    counts.append(measure(place))
print(min(counts))
"""
on_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")


def check(measure: str, limit: float, *arguments: Any) -> None:
    child = subprocess.run(
        [sys.executable, "-P", "-c", CHILD, measure, json.dumps([limit, *arguments])],
        env=os.environ | {"PYTHONPATH": str(Path(convspec.__file__).parents[1])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(child.stdout) <= limit, measure


def many(folder: Path, count: int) -> str:
    """Write so many small pictures of two classes, no two of them alike."""
    for label in ("cats", "dogs"):
        (folder / label).mkdir(parents=True)
    for number in range(count):
        pixels = number.to_bytes(4, "big") * 48
        (folder / ("cats", "dogs")[number % 2] / f"{number:05d}.ppm").write_bytes(b"P6 8 8 255\n" + pixels)
    return str(folder)


def per_file(count: int, folder: str) -> int:
    return count * (PER_FILE + PER_LETTER * len(folder))


each_count = pytest.mark.parametrize("count", [1_000, pytest.param(50_000, marks=pytest.mark.slow)])


@each_count
def test_decoded_pictures_take_a_tenth_more_memory_than_their_pixels(tmp_path: Path, count: int) -> None:
    warm, folder = many(tmp_path / "warm", 8), many(tmp_path / "pictures", count)
    check("allocated", 1.1 * count * BYTES + per_file(count, folder), folder, 2**40, warm)


@on_linux
@each_count
def test_pictures_in_a_file_take_no_more_memory_than_the_budget(tmp_path: Path, count: int) -> None:
    budget = count * BYTES // 4
    warm, folder = many(tmp_path / "warm", 8), many(tmp_path / "pictures", count)
    for measure in ("allocated", "own"):
        check(measure, budget + count * COMPARED + per_file(count, folder), folder, budget, warm)


@on_linux
@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_picture_that_says_it_is_enormous_takes_no_memory(tmp_path: Path, side: int) -> None:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    (tmp_path / "picture.png").write_bytes(header + bytes(10_000))
    # Three bytes a pixel would be 300 MB and more; the decoder's own buffers take a megabyte or two.
    check("resident", 20 * 2**20, str(tmp_path / "picture.png"), 0, None)
