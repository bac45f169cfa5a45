"""Cost of recording features of very many pictures: time by stages, constants, and the page docs/scaling.md.

`python -m benchmarks.scaling measure` takes the constants on this machine (needs $CONVSPEC_DATA and some minutes)
and writes docs/scaling.json; `python -m benchmarks.scaling` writes the tables of docs/scaling.md from that.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convspec.report.tables import Table

DOCS = Path(__file__).parents[1] / "docs"
SIZES = (25, 100, 400)
PICTURES = {"a million": 10**6, "a billion": 10**9}
DEVICES = (1, 8, 1000)
MACHINE = 8  # devices in one machine, where each machine has a run of its own

Constants = dict[str, float]


def stages(constants: Constants, device: str, devices: int) -> dict[str, float]:
    """Return the seconds of each stage for one picture, in a run on so many devices: "cpu" cores or "gpu"s.

    The cores of one machine decode, and one process identifies pictures and writes the store. On one device nothing
    is sent.
    """
    cores = min(devices, constants["cores_of_a_machine"]) if device == "cpu" else constants["cores_of_a_machine"]
    rate = constants["base_per_core"] if device == "cpu" else constants["gpu_flops"] / constants["flop_a_picture"]
    wire = constants["network_bytes_a_second"] if devices > 1 else float("inf")
    decoded, features = constants["decoded_bytes"], constants["feature_bytes"]
    return {
        "decode": 1 / (constants["decode_per_core"] * cores),
        "identify": decoded / constants["hash_bytes_a_second"],
        "send": decoded / wire,
        "base": 1 / (rate * devices),
        "return": features / wire,
        "store": features / constants["store_bytes_a_second"] + features / constants["hash_bytes_a_second"],
        "hand out": 1 / constants["handed_out_per_core"] if devices > 1 else 0.0,
    }


def seconds(constants: Constants, device: str, devices: int, pictures: float) -> float:
    """Return the seconds of a run.

    Decoding and identifying come first. On several devices the other stages overlap, but for storing and handing out.
    """
    cost = stages(constants, device, devices)
    rest = [cost["send"], cost["base"], cost["return"], cost["store"] + cost["hand out"]]
    return pictures * (cost["decode"] + cost["identify"] + (max(rest) if devices > 1 else sum(rest)))


def bottleneck(constants: Constants, device: str, devices: int) -> str:
    """Return the stage that takes longest."""
    cost = stages(constants, device, devices)
    return max(cost, key=cost.__getitem__)


def format_duration(duration: float) -> str:
    """Return a duration in words, with two digits: "3.4 min"."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if duration >= 2 * size:
            return f"{float(f'{duration / size:.2g}'):g} {unit}"
    return f"{float(f'{duration:.2g}'):g} s"


def tables(record: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Return the tables of the page by name: rows of cells, the header first."""
    constants: Constants = {name: entry["value"] for name, entry in record["constants"].items()}
    check = [["pictures", "measured, core s", "predicted, core s", "predicted / measured"]]
    for size, taken in zip(SIZES, record["core_seconds"], strict=True):
        predicted = seconds(constants, "cpu", 1, size)
        check.append([str(size), f"{taken:.1f}", f"{predicted:.1f}", f"{predicted / taken:.2f}"])
    called = {
        (device, devices): f"{devices:,} {kind}{'s' if devices > 1 else ''}"
        for device, kind in (("cpu", "core"), ("gpu", "GPU"))
        for devices in DEVICES
    }
    each = f"predicted, a run for each {MACHINE}"
    cost = [["pictures", "devices", "predicted time, one run", "longest stage", each, "store"]]
    for words, pictures in PICTURES.items():
        store = f"{pictures * constants['feature_bytes'] / 1e12:.3g} TB"
        for (device, devices), name in called.items():
            runs = max(devices // MACHINE, 1)
            one = format_duration(seconds(constants, device, devices, pictures))
            many = format_duration(seconds(constants, device, devices // runs, pictures / runs))
            cost.append([words, name, one, bottleneck(constants, device, devices), many, store])
    moves = [["stage", *called.values()]]
    columns = [stages(constants, *run) for run in called]
    moves += [[stage, *(f"{1e6 * column[stage]:.3g}" for column in columns)] for stage in columns[0]]
    given = [["constant", "value", "unit", "whence"]]
    given += [
        [name, f"{entry['value']:.6g}", entry["unit"], entry["whence"]] for name, entry in record["constants"].items()
    ]
    return {"constants": given, "check": check, "stages": moves, "cost": cost}


def render(page: str, record: dict[str, Any]) -> str:
    """Return the page with the table after each mark `<!-- table NAME -->` made anew."""
    for name, rows in tables(record).items():
        before, mark, after = page.partition(f"<!-- table {name} -->\n")
        assert mark, f"the page must have a mark of the table {name}"
        table = Table(rows[0], rows[1:], "<" * len(rows[0])).markdown()
        page = before + mark + table + re.sub(r"\A(\|[^\n]*\n)*", "", after)
    return page


def _core_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of all threads, on which other work of the machine has little effect."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(data: Path) -> dict[str, Any]:
    """Measure the constants of this machine, and extraction of three numbers of other pictures."""
    from convspec import backend, machine, models, progress
    from convspec.arithmetic import multiply_adds
    from convspec.data import decode
    from convspec.data.batches import Batches, rescale
    from convspec.features import extract

    files = sorted((data / "dogs_vs_cats_small").rglob("*.jpg"))
    sample = [files[place] for place in np.random.default_rng(0).permutation(len(files))]
    base = models.conv_base("vgg16", models.default_weights("vgg16", data), (150, 150, 3))
    apart, sample = sample[:300], sample[300:]
    decoding = _core_seconds(lambda: [decode.load_image(path, 150) for path in apart])
    batch = np.stack([decode.load_image(path, 150) for path in apart[:20]]) / np.float32(255)
    output = np.asarray(base.predict_on_batch(batch))  # a warm-up
    running = min(_core_seconds(lambda: base.predict_on_batch(batch)) for _ in range(5))
    block = np.random.default_rng(0).integers(0, 256, 2**28, np.uint8)
    hashing = min(_core_seconds(lambda: hashlib.sha256(block.data)) for _ in range(3))

    def store() -> None:
        with tempfile.TemporaryFile() as file:
            for start in range(0, len(block), output.nbytes):
                part = block[start : start + output.nbytes]
                file.write(part.data)
                digest.update(part.data)

    digest = hashlib.sha256()
    storing = min(_core_seconds(store) for _ in range(3))

    def extraction(count: int) -> None:
        decoded, *_ = decode.load_images(sample[:count], 150)
        batches = Batches(decoded, np.zeros(count, np.int64), 20, rescale)
        with tempfile.TemporaryDirectory() as folder:
            extract(base, batches, Path(folder), clock=progress.Clock())

    values: dict[str, tuple[float, str, str]] = {
        "decode_per_core": (len(apart) / decoding, "pictures/core s", "measured"),
        "base_per_core": (len(batch) / running, "pictures/core s", "measured"),
        "hash_bytes_a_second": (len(block) / hashing, "bytes/s", "measured"),
        "store_bytes_a_second": (len(block) / storing, "bytes/s", "measured"),
        "file_bytes": (float(np.mean([path.stat().st_size for path in files])), "bytes/picture", "measured"),
        "decoded_bytes": (150 * 150 * 3, "bytes/picture", "exact"),
        "feature_bytes": (output[0].nbytes, "bytes/picture", "exact"),
        "flop_a_picture": (2 * multiply_adds(base), "FLOP/picture", "exact"),
        "gpu_flops": (494.7e12, "FLOP/s", "published: H100 SXM, TF32 dense, at its peak"),
        "network_bytes_a_second": (1.25e9, "bytes/s", "assumed: 10 Gbit/s"),
        "cores_of_a_machine": (16, "cores", "assumed"),
    }
    constants = {
        name: {"value": value, "unit": unit, "whence": whence} for name, (value, unit, whence) in values.items()
    }
    return {
        "machine": f"{machine.machine()['processor']}, {backend.cores()} cores",
        "constants": constants,
        "core_seconds": [_core_seconds(partial(extraction, size)) for size in SIZES],
    }


def main(arguments: list[str]) -> None:
    assert arguments in ([], ["measure"]), f"the argument must be measure, or none, got {arguments}"
    record, page = DOCS / "scaling.json", DOCS / "scaling.md"
    if arguments == ["measure"]:
        kept = json.loads(record.read_text())["constants"]["handed_out_per_core"]  # taken by hand, as it needs Ray
        data = Path(os.environ.get("CONVSPEC_DATA", "unset"))
        if not (data / "dogs_vs_cats_small").is_dir():
            sys.exit(f"no dogs_vs_cats_small in CONVSPEC_DATA ({data}): docs/own-pictures.md says how to get it")
        taken = measure(data)
        taken["constants"]["handed_out_per_core"] = kept
        record.write_text(json.dumps(taken, indent=1) + "\n")
    page.write_text(render(page.read_text(), json.loads(record.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
