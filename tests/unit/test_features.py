"""The base's output, computed once: in the order of the pictures, kept on disk, never mixed up."""

import errno
import gc
import itertools
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from builders import contents, store_in

from convspec import BadInput, features, models
from convspec.data.batches import Batches, View, identity, rescale
from convspec.data.datasets import Dataset
from convspec.ladder.rungs import CHAPTER_AUGMENTATION
from convspec.progress import Clock


@pytest.fixture(scope="module")
def base() -> keras.Model:
    return models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))


@pytest.fixture
def batches(few_shapes: Dataset) -> Batches:
    return Batches(few_shapes.test.images, few_shapes.test.labels, 8, rescale)


def extract(base: keras.Model, batches: Batches, folder: Path) -> np.ndarray:
    return features.extract(base, batches, folder, clock=Clock())


def test_row_k_is_the_bases_output_for_picture_k(base: keras.Model, batches: Batches, tmp_path: Path) -> None:
    recorded = extract(base, batches, tmp_path)
    assert recorded.shape == (len(batches.inputs), 3, 3, 96)
    assert recorded.dtype == np.float32
    for k in (0, 7, 8, len(recorded) - 1):
        alone = base.predict(rescale(batches.inputs[k : k + 1].astype(np.float32)), verbose=0)
        # One picture and a batch may add products in another order: 864 terms of float32.
        np.testing.assert_allclose(recorded[k], alone[0], rtol=1e-4, atol=1e-5, err_msg=f"picture {k}")


def test_maps_that_lie_in_memory_channels_first_are_recorded_channels_last(
    base: keras.Model, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch gives them."""
    ones = np.arange(len(batches.inputs) * 864, dtype=np.float32).reshape(-1, 96, 3, 3).transpose(0, 2, 3, 1)
    parts = iter(np.split(ones, range(8, len(ones), 8)))
    monkeypatch.setattr(base, "predict_on_batch", lambda inputs: next(parts))
    np.testing.assert_array_equal(extract(base, batches, tmp_path), ones)


def test_features_on_disk_are_read_back_as_they_were(
    base: keras.Model, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract(base, batches, tmp_path)
    monkeypatch.setattr(keras.Model, "predict_on_batch", None)
    np.testing.assert_array_equal(extract(base, batches, tmp_path), first)


@pytest.mark.parametrize("change", ["pictures", "order", "weights", "preparation"])
def test_features_of_other_pictures_weights_or_preparation_are_never_taken(
    change: str, base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    first = extract(base, batches, tmp_path)
    inputs, prepare = batches.inputs, batches.prepare
    if change == "pictures":
        inputs = 255 - inputs
    elif change == "order":
        inputs = inputs[::-1]
    elif change == "weights":
        base = models.conv_base("mini", None, (48, 48, 3))
    else:
        prepare = identity
    other = extract(base, Batches(inputs, batches.labels, 8, prepare), tmp_path)
    assert not np.allclose(first, other)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_seconds_of_the_extraction_count_whenever_its_features_are_used(
    base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    first, again = Clock(), Clock()
    features.extract(base, batches, tmp_path, clock=first)
    features.extract(base, batches, tmp_path, clock=again)
    assert again.seconds["features"] == first.seconds["features"] > 0


def test_the_labels_stand_beside_the_features(base: keras.Model, batches: Batches, tmp_path: Path) -> None:
    extract(base, batches, tmp_path)
    np.testing.assert_array_equal(np.load(store_in(tmp_path) / "labels.npy"), batches.labels)


def test_features_are_mapped_into_memory_and_not_read_into_it(
    base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    assert isinstance(extract(base, batches, tmp_path), np.memmap)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda store: (store / "features.npy").write_bytes(b"\x93NUMPY"), "checksum is not that of the record"),
        (lambda store: os.truncate(store / "features.npy", 1000), "checksum is not that of the record"),
        (lambda store: (store / "features.npy").unlink(), "No such file"),
        (lambda store: (store / "store.json").write_text("{"), "Expecting property name"),
        (lambda store: (store / "store.json").unlink(), "No such file"),
        (lambda store: np.save(store / "labels.npy", np.zeros(3)), "they stand beside other labels"),
    ],
    ids=["overwritten", "cut off", "gone", "damaged record", "no record", "other labels"],
)
def test_damaged_features_are_refused_by_name(
    spoil: Callable[[Path], object], reason: str, base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    extract(base, batches, tmp_path)
    spoil(store_in(tmp_path))
    with pytest.raises(BadInput, match=rf"{store_in(tmp_path).name}' cannot be used: .*{reason}.*; delete that folder"):
        extract(base, batches, tmp_path)


def test_a_store_under_anothers_name_is_refused_and_what_differs_is_named(
    base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    extract(base, batches, tmp_path / "one")
    extract(base, Batches(255 - batches.inputs, batches.labels, 8, batches.prepare), tmp_path / "other")
    name = store_in(tmp_path / "one").name
    shutil.rmtree(tmp_path / "one" / name)
    store_in(tmp_path / "other").rename(tmp_path / "one" / name)
    with pytest.raises(BadInput, match="they were made for another pictures; delete"):
        extract(base, batches, tmp_path / "one")


@pytest.mark.parametrize("written", [0, 1, 60, 128, 5000, 8 * 864 * 4 + 128, 20 * 864 * 4, 23 * 864 * 4 + 128])
def test_an_extraction_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(
    written: int, base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    """Whatever part of the file was written: nothing, a part of its header, of a row, of a batch, or all."""
    extract(base, batches, tmp_path / "whole")
    whole = store_in(tmp_path / "whole")
    partial = tmp_path / "killed" / f"{whole.name}.partial"
    partial.mkdir(parents=True)
    (partial / "features.npy").write_bytes((whole / "features.npy").read_bytes()[:written])
    seen: list[int] = []
    batches = Counted(batches, seen)
    extract(base, batches, tmp_path / "killed")
    assert contents(store_in(tmp_path / "killed")) == contents(whole)
    assert len(seen) == len(batches) - max(written - 128, 0) // (8 * 864 * 4), "whole batches are not computed again"


class Counted(Batches):
    """Notes which batches are asked for."""

    def __init__(self, batches: Batches, seen: list[int]) -> None:
        super().__init__(batches.inputs, batches.labels, batches.batch_size, batches.prepare)
        self.seen = seen

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        self.seen.append(batch)
        return super().__getitem__(batch)


KILLED = """
import os, sys, threading, time
from pathlib import Path
import numpy as np
import keras
from convspec import features, images, models, shapes
from convspec.training import Clock

pictures, labels = shapes.pictures(shapes.TARGETS, 200, seed=1)
base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
base.predict_on_batch(pictures[:8] / np.float32(255))
print("ready", flush=True)
features.extract(base, images.Batches(pictures, labels, 8, images.rescale), Path(sys.argv[1]), clock=Clock())
print("done", flush=True)
"""


def run_and_kill(folder: Path, after: float | None) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    if after is not None:
        time.sleep(after)
        process.kill()
    process.communicate()


@pytest.mark.slow
def test_after_kill_9_at_20_random_moments_the_store_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    run_and_kill(tmp_path / "whole", None)
    for moment in np.random.default_rng(0).uniform(0, 0.4, 20):
        run_and_kill(tmp_path / "killed", moment)
        for store in (tmp_path / "killed").glob("mini-*[0-9a-f]"):
            assert contents(store) == contents(store_in(tmp_path / "whole")), "under its own name it must be whole"
    run_and_kill(tmp_path / "killed", None)
    assert contents(store_in(tmp_path / "killed")) == contents(store_in(tmp_path / "whole"))


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_under_the_final_name(
    base: keras.Model, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(
        BadInput, match=r"no room for the features of 20 pictures in .*--report; what is computed is kept"
    ):
        extract(base, batches, tmp_path)
    assert [store.suffix for store in tmp_path.iterdir()] == [".partial"]


def test_half_the_bytes_hold_the_same_features_to_three_digits(
    base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    whole = extract(base, batches, tmp_path)
    half = features.extract(base, batches, tmp_path, dtype="float16", clock=Clock())
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, whole, rtol=2**-11, atol=2**-24)  # float16 has 11 binary digits, down to 2**-24


def test_features_too_large_for_float16_are_refused(batches: Batches, tmp_path: Path) -> None:
    base = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Rescaling(1e6)], name="huge")
    with pytest.raises(BadInput, match="huge's output does not fit into float16: take float32"):
        features.extract(base, batches, tmp_path, dtype="float16", clock=Clock())


def test_each_view_has_a_store_of_its_own(base: keras.Model, batches: Batches, tmp_path: Path) -> None:
    views = [View(batches, CHAPTER_AUGMENTATION, seed, number) for seed, number in ((0, 0), (0, 1), (1, 0))]
    found = [extract(base, view, tmp_path) for view in (*views, batches)]
    assert len(list(tmp_path.iterdir())) == 4
    for one, other in itertools.combinations(found, 2):
        assert not np.allclose(one, other)


def test_peak_memory_does_not_grow_with_the_pictures(base: keras.Model, tmp_path: Path) -> None:
    """Three times each: what other threads take meanwhile is counted, too, and JAX now and then has a batch more."""
    peaks: dict[int, list[int]] = {600: [], 2400: []}
    for again in range(3):
        for count, found in peaks.items():
            pictures = np.zeros((count, 48, 48, 3), np.uint8)
            batches = Batches(pictures, np.zeros(count, np.int64), 100, rescale)
            gc.collect()
            tracemalloc.start()
            extract(base, batches, tmp_path / str(again))
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    growth, batch = min(peaks[2400]) - min(peaks[600]), 100 * 48 * 48 * 3 * 4
    assert growth < 1.1 * batch, f"6 MB of features more take no memory, a batch more in flight 2.8 MB; peaks: {peaks}"
