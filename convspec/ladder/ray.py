"""Spread runs, or a base's batches, over the machines of a Ray cluster; needs the extra "ray".

The cluster is the one that $RAY_ADDRESS or an earlier `ray.init` names, else this machine. Its machines need convspec
in the same versions and nothing else: pictures, weights and models travel.
"""

import copy
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import keras
import numpy as np

from convspec import BadInput, backend, features
from convspec.data.batches import Batches
from convspec.data.datasets import Dataset
from convspec.files import atomic_write, room_for
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.ladder.run import Run, run_key, run_recipe
from convspec.progress import bar

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else each cluster begun here is reported to Ray's makers
try:
    import pyarrow
    import ray
    import ray.data
except ImportError as error:
    raise BadInput('Ray is not installed: pip install "convspec[ray]"') from error

CHUNK = 8  # batches that a worker gets at once, and computes again if it dies


def predict_batches(base: keras.Model, batches: Batches, first: int) -> Iterator[np.ndarray]:
    """Compute the base's output for each batch from number `first` on, on the cluster's GPUs, else on its machines.

    Stands in for `features.predict_batches`. Workers see whole batches, so that on processors of the same kind the
    bytes are the same. The pictures lie in Ray's memory on this machine, or on its disk where they do not fit. The
    chunk of a worker that dies is computed again; each batch comes once, in order.
    """
    if first == len(batches):
        return
    gpus = _join_cluster()
    starts = range(first, len(batches), CHUNK)
    pictures = [ray.put(np.asarray(batches.inputs[_chunk(batches, start)])) for start in starts]
    without_pictures = copy.copy(batches)
    without_pictures.inputs = np.empty(0)
    chunks = ray.data.from_items(
        [{"chunk": chunk, "first": start} for chunk, start in enumerate(starts)], override_num_blocks=len(starts)
    )
    chunks.context.execution_options.preserve_order = True
    chunks.context.enable_progress_bars = chunks.context.print_on_execution_start = False
    computed = chunks.map_batches(
        _Worker,
        fn_constructor_args=(ray.put(base), without_pictures, pictures, len(batches.inputs), backend.precision()),
        compute=ray.data.ActorPoolStrategy(size=gpus or sum(machine["Alive"] for machine in ray.nodes())),
        runtime_env=_environment(),
        **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
    )
    for expected, row in enumerate(computed.iter_rows(), first):
        assert row["number"] == expected, f"batch {row['number']} of {len(batches)} came in place of {expected}"
        yield np.frombuffer(row["output"], np.float32).reshape(-1, *base.output_shape[1:])


ENGINE = features.Engine(predict_batches)


def runs(
    wanted: Sequence[Run], folder: Path, *, devices: int = 1, progress: TextIO | None = None
) -> Iterator[tuple[Run, Result]]:
    """Run all that are `wanted` on the cluster; yield results as they come, with their models in `folder`.

    A rung that starts from another waits for it, or takes its model from `folder`. A run has one CPU, or `devices`
    GPUs where there are some, and begins anew if its worker dies. A single run is done here, and the base's features
    for it on the cluster. What a run raised is raised once the others are done.
    """
    if len(wanted) == 1:
        (run,) = wanted
        options: Any = {"devices": devices, "engine": ENGINE, "progress": progress}
        yield run, run_recipe(run.recipe, run.dataset, run.seed, folder, weights=run.weights, **options)
        return
    gpus = _join_cluster()
    task = ray.remote(_run_in_worker).options(
        num_returns=2,
        runtime_env=_environment(),
        scheduling_strategy="SPREAD",
        **({"num_gpus": devices} if gpus else {"num_cpus": 1}),
    )
    datasets = {key: ray.put(dataset) for key, dataset in {id(run.dataset): run.dataset for run in wanted}.items()}
    files = {run.weights for run in wanted if run.weights and Path(run.weights).is_file()}
    contents: dict[str | None, Any] = {name: ray.put(Path(name).read_bytes()) for name in files}
    models: dict[str, Any] = {}  # by the key of the run that leaves them
    pending: dict[Any, tuple[Run, Any]] = {}
    for run in wanted:
        start = run_key(run.recipe.starts_from, *run[1:]) if run.recipe.starts_from else ""
        if (file := folder / "models" / f"{start}.keras").is_file():
            models[start] = ray.put({file.name: file.read_bytes()})
        weights = Path(run.weights).name if run.weights else None
        shared = datasets[id(run.dataset)], run.seed, weights, contents.get(run.weights), models.get(start)
        result, model = task.remote(run.recipe, *shared, devices, backend.precision())
        pending[result] = run, model
        models[run_key(*run)] = model
    failures: list[Any] = []
    with bar(len(wanted), "runs on the cluster", "run", progress) as shown:
        try:
            while pending:
                (done,), _ = ray.wait(list(pending))
                run, model = pending.pop(done)
                shown.update()
                try:
                    result, trained = ray.get([done, model])
                except ray.exceptions.RayError as error:  # a worker that died each time, too
                    failures.append(error)
                    continue
                for name, content in trained.items():
                    with room_for(name, folder), atomic_write(folder / "models" / name) as partial:
                        partial.write_bytes(content)
                yield run, result
        finally:  # only what is interrupted: Ray aborts this process where a run ends just as it is cancelled
            for reference in pending:
                ray.cancel(reference, force=True)
    if failures:
        raise getattr(failures[0], "cause", failures[0]) from failures[0]


def _join_cluster() -> int:
    """Connect to the cluster and return how many GPUs it has."""
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return int(ray.cluster_resources().get("GPU", 0))


def _environment() -> dict[str, dict[str, str]]:
    """Return the environment variables that decide how the backend computes."""
    threads = str(backend.threads())  # which Ray sets to one else
    return {"env_vars": {"KERAS_BACKEND": backend.BACKEND, "OMP_NUM_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3"}}


def _chunk(batches: Batches, first: int) -> slice:
    return slice(first * batches.batch_size, (first + CHUNK) * batches.batch_size)


def _configure(precision: backend.Precision) -> None:
    backend.make_deterministic()
    if backend.precision() != precision:
        backend.set_precision(precision)


class _Chunk:
    """Some of `count` pictures, from number `start` on, which keep their numbers."""

    def __init__(self, pictures: np.ndarray, start: int, count: int) -> None:
        self.pictures, self.start, self.count = pictures, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, which: Any) -> np.ndarray:
        if isinstance(which, slice):
            return self.pictures[which.start - self.start : which.stop - self.start]
        return self.pictures[which - self.start]


class _Worker:
    """A base of its own, which computes chunk after chunk."""

    def __init__(
        self, base: Any, batches: Batches, pictures: list[Any], count: int, precision: backend.Precision
    ) -> None:
        _configure(precision)
        self.base, self.batches, self.pictures, self.count = ray.get(base), batches, pictures, count

    def __call__(self, rows: dict[str, np.ndarray]) -> "pyarrow.Table":
        """Return a row a batch: its number, and the output as bytes of float32."""
        numbers, outputs = [], []
        for chunk, first in zip(rows["chunk"].tolist(), rows["first"].tolist(), strict=True):
            inputs: Any = _Chunk(ray.get(self.pictures[chunk]), _chunk(self.batches, first).start, self.count)
            self.batches.inputs = inputs
            for number in range(first, min(first + CHUNK, len(self.batches))):
                output = next(features.predict_batches(self.base, self.batches, number))
                numbers.append(number)
                outputs.append(np.ascontiguousarray(output, np.float32).tobytes())
        return pyarrow.table({"number": numbers, "output": pyarrow.array(outputs, pyarrow.large_binary())})


def _run_in_worker(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    weights: str | None,
    content: bytes | None,
    start: dict[str, bytes] | None,
    devices: int,
    precision: backend.Precision,
) -> tuple[Result, dict[str, bytes]]:
    """Run in a folder of its own that begins with `start`; return the result and the new models' files.

    `content` is what the file called `weights` holds, None for "imagenet".
    """
    _configure(precision)
    with TemporaryDirectory() as name:
        models = Path(name, "models")
        models.mkdir()
        for file, model in (start or {}).items():
            (models / file).write_bytes(model)
        if weights and content:
            weights = str(Path(name, weights))
            Path(weights).write_bytes(content)
        result = run_recipe(recipe, dataset, seed, Path(name), weights=weights, devices=devices)
        return result, {file.name: file.read_bytes() for file in models.iterdir() if file.name not in (start or {})}
