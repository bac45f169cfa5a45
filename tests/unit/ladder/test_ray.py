"""Work spread over a Ray cluster gives what one machine gives; Ray plays two machines of one processor on this one."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from builders import contents, short_recipe, store_in

from convspec import BadInput, features, models
from convspec.data import shapes
from convspec.data.batches import Batches, Prepare, View, rescale
from convspec.data.datasets import Dataset
from convspec.ladder.run import run_recipe
from convspec.ladder.rungs import CHAPTER_AUGMENTATION
from convspec.progress import Clock

PICTURES = 403  # the last batch of eight is not whole


@pytest.fixture(scope="module")
def cluster() -> Iterator[ModuleType]:
    """convspec.ladder.ray, in a cluster of two machines."""
    if not find_spec("ray"):
        pytest.skip("needs Ray: pip install -e '.[ray]'")
    from convspec.ladder import ray as ray_module

    ray = ray_module.ray
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": 100 << 20}
    machines = Cluster(initialize_head=True, head_node_args=machine | {"include_dashboard": False})
    try:
        machines.add_node(**machine)
        with chdir(os.sep):  # where workers look for modules first
            ray.init(machines.address, log_to_driver=False)
        yield ray_module
    finally:
        ray.shutdown()
        machines.shutdown()


@pytest.fixture(scope="module")
def base() -> keras.Model:
    return models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))


def batches(prepare: Prepare = rescale) -> Batches:
    pictures, labels = shapes.pictures(shapes.TARGETS, 202, seed=1)
    return Batches(pictures[:PICTURES], labels[:PICTURES], 8, prepare)


def differing(one: Path, many: Path) -> set[str]:
    """Names of the files that the stores in two folders do not share, byte for byte."""
    here, there = contents(store_in(one)), contents(store_in(many))
    return {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}


def test_after_a_worker_was_killed_the_store_is_that_of_one_machine(
    cluster: ModuleType, base: keras.Model, tmp_path: Path
) -> None:
    """Under the same key, byte for byte: no picture is lost, and none there twice."""
    alive, driver = tmp_path / "alive", os.getpid()
    alive.touch()

    def rescale_or_die(inputs: np.ndarray) -> np.ndarray:
        # In a worker, at a picture in the middle of the fourth chunk, and once only.
        if os.getpid() != driver and np.array_equal(inputs[0], fateful) and alive.exists():
            alive.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return inputs / np.float32(255)

    fateful = batches().inputs[8 * 28].astype(np.float32)
    one, many = tmp_path / "one", tmp_path / "many"
    features.extract(base, batches(), one, clock=Clock())
    features.extract(base, batches(rescale_or_die), many, clock=Clock(), engine=cluster.ENGINE)
    assert not alive.exists(), "a worker was to be killed"
    assert store_in(many).name == store_in(one).name
    assert differing(one, many) == set()


# Extracts a view, slowly, on the cluster of the test.
DRIVER = """
import sys, time
from pathlib import Path
import numpy as np
from convspec import features, models
from convspec.data import shapes
from convspec.data.batches import Batches, View
from convspec.ladder import ray
from convspec.ladder.rungs import CHAPTER_AUGMENTATION
from convspec.progress import Clock

def slowly(inputs):
    time.sleep(0.3)
    return inputs / np.float32(255)

pictures, labels = shapes.pictures(shapes.TARGETS, 202, seed=1)
view = View(Batches(pictures[:403], labels[:403], 8, slowly), CHAPTER_AUGMENTATION, 0, 1)
base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
features.extract(base, view, Path(sys.argv[1]), clock=Clock(), engine=ray.ENGINE)
"""


def test_an_extraction_that_was_killed_itself_resumes(cluster: ModuleType, base: keras.Model, tmp_path: Path) -> None:
    """And augmented views are those of one machine."""
    one, many = tmp_path / "one", tmp_path / "many"
    whole = 8 * int(np.prod(base.output_shape[1:])) * 4  # bytes of a batch
    settings = {"RAY_ADDRESS": cluster.ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-P", "-c", DRIVER, str(many)]
    with subprocess.Popen(command, env=os.environ | settings, cwd=os.sep) as driver:
        size, until = 0, time.monotonic() + 240
        while size < 8 * whole and driver.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
            size = sum(file.stat().st_size for file in many.rglob("features.npy"))
        driver.kill()
    assert store_in(many).suffix == ".partial", "it was to be killed in mid-run"
    starts: list[int] = []

    def noted(base: keras.Model, batches: Batches, first: int) -> Iterator[np.ndarray]:
        starts.append(first)
        return cluster.predict_batches(base, batches, first)

    view = View(batches(), CHAPTER_AUGMENTATION, 0, 1)
    features.extract(base, view, one, clock=Clock())
    features.extract(base, view, many, clock=Clock(), engine=features.Engine(noted))
    assert starts[0] >= 7, f"some eight batches were there, but it began at {starts}"
    assert differing(one, many) == set()


def test_runs_on_the_cluster_end_as_they_do_here(cluster: ModuleType, few_shapes: Dataset, tmp_path: Path) -> None:
    """A rung, one that goes on with its model, and another seed of the first: to the last digit, models too."""
    weights = str(models.MINI_WEIGHTS)
    frozen = short_recipe("frozen_end_to_end", steps=2)
    tuned = replace(short_recipe("fine_tuned", steps=2), starts_from=frozen)
    wanted = [cluster.Run(recipe, few_shapes, seed, weights) for recipe, seed in ((frozen, 0), (tuned, 0), (frozen, 1))]
    results = {(run.recipe.name, run.seed): result for run, result in cluster.runs(wanted, tmp_path / "many")}
    for recipe, _, seed, _ in wanted:
        here, there = (
            run_recipe(recipe, few_shapes, seed, tmp_path / "one", weights=weights),
            results[recipe.name, seed],
        )
        assert (there.recipe, there.history, there.confidence) == (here.recipe, here.history, here.confidence)
        assert (there.predicted, there.weights, there.dataset) == (here.predicted, here.weights, here.dataset)
    names = sorted(file.name for file in (tmp_path / "one" / "models").iterdir())
    assert sorted(file.name for file in (tmp_path / "many" / "models").iterdir()) == names
    for name in names:
        one, many = (keras.models.load_model(tmp_path / place / "models" / name) for place in ("one", "many"))
        for here, there in zip(one.get_weights(), many.get_weights(), strict=True):
            np.testing.assert_array_equal(there, here)


def test_what_a_run_on_the_cluster_raises_is_raised_here_after_the_others(
    cluster: ModuleType, few_shapes: Dataset, tmp_path: Path
) -> None:
    """And none is cancelled: Ray kills the whole session where a run ends at that moment, as those beside it may."""
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"no weights")
    frozen, dense = short_recipe("frozen_end_to_end", steps=2), short_recipe("dense_baseline")
    wanted = [cluster.Run(frozen, few_shapes, 0, str(damaged)), cluster.Run(dense, few_shapes, 0, None)]
    tuned = replace(short_recipe("fine_tuned", steps=2), starts_from=frozen)
    wanted.append(cluster.Run(tuned, few_shapes, 0, str(damaged)))
    ended: list[str] = []
    with pytest.raises(BadInput, match=r"damaged.weights.h5' does not hold the weights of a mini base"):
        ended.extend(run.recipe.name for run, _ in cluster.runs(wanted, tmp_path))
    assert ended == ["dense_baseline"]


def test_a_session_with_the_engine_ray_spreads_its_runs(cluster: ModuleType, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from convspec.ladder import ray
        from convspec.ladder.rungs import find_recipe

        def test_it(convspec_session, monkeypatch):
            asked, runs = [], ray.runs
            def noted(wanted, folder, **options):
                asked.append([(run.recipe.name, run.seed) for run in wanted])
                return runs(wanted, folder, **options)
            monkeypatch.setattr(ray, "runs", noted)
            recipe = find_recipe("dense_baseline", "mini")
            assert [convspec_session.run(recipe, seed).seed for seed in (0, 1)] == [0, 1]
            assert asked == [[("dense_baseline", 0), ("dense_baseline", 1)]]
        """
    )
    pytester.runpytest(
        "--convspec-engine", "ray", "--convspec-rungs", "dense_baseline", "--convspec-seeds", "2"
    ).assert_outcomes(passed=1)


def test_a_rung_that_fails_on_the_cluster_takes_no_other_with_it(
    cluster: ModuleType, pytester: pytest.Pytester
) -> None:
    """It fails in its own test, and the runs of the others are those that the cluster made."""
    pytester.makepyfile(
        """
        import pytest
        from convspec.ladder.ray import BadInput
        from convspec.ladder.rungs import find_recipe

        def test_it(convspec_session):
            convspec_session.selected = {"dense_baseline", "frozen_end_to_end_fast"}
            assert convspec_session.run(find_recipe("dense_baseline", "mini"), 0).seed == 0
            with pytest.raises(BadInput, match="does not hold the weights"):
                convspec_session.run(find_recipe("frozen_end_to_end_fast", "mini"), 0)
        """
    )
    damaged = pytester.path / "damaged.weights.h5"
    damaged.write_bytes(b"no weights")
    rungs = "dense_baseline,frozen_end_to_end_fast"
    options = "--convspec-engine", "ray", "--convspec-seeds", "1", "--convspec-weights", str(damaged)
    pytester.runpytest(*options, "--convspec-rungs", rungs).assert_outcomes(passed=1)


def test_without_ray_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> None:
    from convspec import ladder

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "convspec.ladder.ray", raising=False)
    monkeypatch.delattr(ladder, "ray", raising=False)
    with pytest.raises(BadInput, match=r'^Ray is not installed: pip install "convspec\[ray\]"$'):
        importlib.import_module("convspec.ladder.ray")
    result = pytester.runpytest("--convspec-engine", "ray")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*Ray is not installed: pip install*"])
