"""Work spread over a Ray cluster: what comes back is what one machine makes. Two machines of one processor each, which
Ray plays on this one.
"""

import ast
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
from typing import Any

import keras
import numpy as np
import pytest
from builders import contents, store_in

import convspec
from convspec import BadInput, features, models
from convspec.data import shapes
from convspec.data.batches import Batches, Prepare, View, rescale
from convspec.data.datasets import Dataset
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.ladder.run import run
from convspec.ladder.rungs import CHAPTER_AUGMENTATION, find_recipe
from convspec.progress import Clock

PICTURES = 403  # the last batch of eight is not whole


@pytest.fixture(scope="module")
def cluster() -> Iterator[ModuleType]:
    """convspec.cluster, in a cluster of two machines."""
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
    """Names of the files that two stores do not share, byte for byte."""
    here, there = contents(one), contents(many)
    return {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}


def test_after_a_worker_was_killed_in_mid_run_the_store_is_that_of_one_machine(
    cluster: ModuleType, base: keras.Model, tmp_path: Path
) -> None:
    """Under the same key, byte for byte: no picture is lost, and none there twice."""
    alive, driver = tmp_path / "alive", os.getpid()
    alive.touch()

    def rescale_or_die(inputs: np.ndarray) -> np.ndarray:
        # In a worker, at a picture in the middle of the fourth part, and once only.
        if os.getpid() != driver and np.array_equal(inputs[0], fateful) and alive.exists():
            alive.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return inputs / np.float32(255)

    fateful = batches().inputs[8 * 28].astype(np.float32)
    features.extract(base, batches(), tmp_path / "one", clock=Clock())
    given = batches(rescale_or_die)
    features.extract(base, given, tmp_path / "many", clock=Clock(), predict=cluster.predict_batches)
    assert not alive.exists(), "a worker was to be killed"
    one, many = store_in(tmp_path / "one"), store_in(tmp_path / "many")
    assert many.name == one.name
    assert differing(one, many) == set()


# Extracts a view, slowly, on the cluster of the test.
DRIVER = """
import sys, time
from pathlib import Path
import numpy as np
from convspec import cluster, features, images, models, shapes
from convspec.recipes import CHAPTER_AUGMENTATION
from convspec.training import Clock

def slowly(inputs):
    time.sleep(0.3)
    return inputs / np.float32(255)

pictures, labels = shapes.pictures(shapes.TARGETS, 202, seed=1)
batches = images.Batches(pictures[:403], labels[:403], 8, slowly)
base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
view = images.View(batches, CHAPTER_AUGMENTATION, 0, 1)
features.extract(base, view, Path(sys.argv[1]), clock=Clock(), predict=cluster.predict_batches)
"""


def test_a_run_that_was_killed_itself_goes_on_where_it_was(
    cluster: ModuleType, base: keras.Model, tmp_path: Path
) -> None:
    """And augmented views are those of one machine."""
    whole = 8 * int(np.prod(base.output_shape[1:])) * 4  # bytes of a batch
    settings = {"RAY_ADDRESS": cluster.ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-P", "-c", DRIVER, str(tmp_path / "many")]
    with subprocess.Popen(command, env=os.environ | settings, cwd=os.sep) as driver:
        grown, until = 0, time.monotonic() + 240
        while grown < 8 * whole and driver.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
            grown = sum(file.stat().st_size for file in (tmp_path / "many").rglob("features.npy"))
        driver.kill()
    left = store_in(tmp_path / "many")
    assert left.suffix == ".partial", "it was to be killed in mid-run"
    begun: list[int] = []

    def noted(base: keras.Model, batches: Batches, first: int) -> Iterator[np.ndarray]:
        begun.append(first)
        return cluster.predict_batches(base, batches, first)

    view = View(batches(), CHAPTER_AUGMENTATION, 0, 1)
    features.extract(base, view, tmp_path / "one", clock=Clock())
    features.extract(base, view, tmp_path / "many", clock=Clock(), predict=noted)
    assert begun[0] >= 7, f"some eight batches were there, but it began at {begun}"
    assert differing(store_in(tmp_path / "one"), store_in(tmp_path / "many")) == set()


def short(name: str) -> Recipe:
    recipe = find_recipe(name, "mini")
    start = short(recipe.starts_from.name) if recipe.starts_from else None
    return replace(recipe, epochs=2, steps=2, starts_from=start)


def outcome(result: Result) -> dict[str, Any]:
    """What is not time, or where it was."""
    taken = ("seconds", "machine", "images_per_second", "peak_memory_mib")
    return {name: value for name, value in result.as_dict().items() if name not in taken}


def test_runs_on_the_cluster_end_as_they_do_here(cluster: ModuleType, few_shapes: Dataset, tmp_path: Path) -> None:
    """A rung, one that goes on with its model, and another seed of the first: to the last digit, models too."""
    weights = str(models.MINI_WEIGHTS)
    frozen, tuned = short("frozen_end_to_end"), short("fine_tuned")
    wanted = [cluster.Run(recipe, few_shapes, seed, weights) for recipe, seed in ((frozen, 0), (tuned, 0), (frozen, 1))]
    came = zip(wanted, cluster.runs(wanted, tmp_path / "many"), strict=True)
    spread = {(done.recipe.name, done.seed): result for _, (done, result) in came}
    assert len(spread) == 3
    for recipe, _, seed, _ in wanted:
        here = run(recipe, few_shapes, seed, tmp_path / "one", weights=weights)
        assert outcome(spread[recipe.name, seed]) == outcome(here)
    names = sorted(file.name for file in (tmp_path / "one" / "models").iterdir())
    assert sorted(file.name for file in (tmp_path / "many" / "models").iterdir()) == names
    for name in names:
        one, many = (keras.models.load_model(tmp_path / place / "models" / name) for place in ("one", "many"))
        for expected, found in zip(one.get_weights(), many.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_what_a_run_on_the_cluster_raises_is_raised_here(
    cluster: ModuleType, few_shapes: Dataset, tmp_path: Path
) -> None:
    wanted = [cluster.Run(short("dense_baseline"), few_shapes, seed, None) for seed in (0, 1)]
    with pytest.raises(BadInput, match=r"^devices must be at most"):
        list(cluster.runs(wanted, tmp_path, devices=5))


def test_a_session_with_the_engine_ray_spreads_its_runs(cluster: ModuleType, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from convspec import cluster
        from convspec.recipes import find_recipe

        def test_it(convspec_session, monkeypatch):
            asked, runs = [], cluster.runs
            def noted(wanted, folder, **options):
                asked.append([(run.recipe.name, run.seed) for run in wanted])
                return runs(wanted, folder, **options)
            monkeypatch.setattr(cluster, "runs", noted)
            recipe = find_recipe("dense_baseline", "mini")
            assert [convspec_session.run(recipe, seed).seed for seed in (0, 1)] == [0, 1]
            assert asked == [[("dense_baseline", 0), ("dense_baseline", 1)]]
        """
    )
    pytester.runpytest("--engine", "ray", "--rungs", "dense_baseline", "--seeds", "2").assert_outcomes(passed=1)


def test_without_ray_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "convspec.cluster", raising=False)
    with pytest.raises(BadInput, match=r"^Ray is not installed: pip install -e '\.\[ray\]'$"):
        importlib.import_module("convspec.cluster")
    monkeypatch.delattr(convspec, "cluster", raising=False)
    result = pytester.runpytest("--engine", "ray")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*Ray is not installed: pip install*"])


def test_nothing_but_the_cluster_imports_ray_and_nothing_imports_that_unasked() -> None:
    asked = {"session.py", "plugin.py"}  # under --engine ray, inside of a function
    for file in (Path(convspec.__file__).parent).glob("*.py"):
        tree = ast.parse(file.read_text())
        everywhere, at_once = ast.walk(tree), tree.body
        named = {name for node in everywhere for name in imported(node)}
        if file.name != "cluster.py":
            assert not named & {"ray", "pyarrow"}, file.name
            assert file.name in asked or "cluster" not in named, file.name
            assert "cluster" not in {name for node in at_once for name in imported(node)}, file.name


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {str(node.module).split(".")[0], *(alias.name for alias in node.names)}
    return {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
