"""Work spread over the machines of a Ray cluster. Needs the extra "ray"; imported by who asks for it only.

The cluster is the one that $RAY_ADDRESS or an earlier `ray.init` names, else this machine. Its machines need convspec
in the same versions, and nothing else: pictures, weights and models travel.
"""

import copy
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TextIO

import keras
import numpy as np

from convspec import BadInput, backend, features
from convspec.data.batches import Batches
from convspec.data.datasets import Dataset
from convspec.files import atomic_write
from convspec.ladder import run as run_module
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.ladder.run import run_key
from convspec.progress import bar as progress_bar

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else each cluster begun here is reported to Ray's makers
try:
    import pyarrow
    import ray
    import ray.data
except ImportError as error:
    raise BadInput("Ray is not installed: pip install -e '.[ray]'") from error

CHUNK = 8  # batches that a worker is given: what is computed again where it dies


def predict_batches(base: keras.Model, batches: Batches, first: int) -> Iterator[np.ndarray]:
    """As `features.predict_batches`: computed on each GPU of the cluster, or where there is none on each of its machines.

    Workers see whole batches, so that the bytes are those of this machine wherever processors are its own. What a
    worker had in hand when it died is computed again; each batch comes once, in order. The pictures lie in Ray's
    memory on this machine, or on its disk where they do not fit, and travel to who needs them.
    """
    if first == len(batches):
        return
    gpus = _join()
    starts = range(first, len(batches), CHUNK)
    pictures = [ray.put(np.asarray(batches.inputs[_slice(batches, start)])) for start in starts]
    without = copy.copy(batches)
    without.inputs = np.empty(0)
    parts = ray.data.from_items(
        [{"part": part, "first": start} for part, start in enumerate(starts)], override_num_blocks=len(starts)
    )
    parts.context.execution_options.preserve_order = True
    parts.context.enable_progress_bars = parts.context.print_on_execution_start = False
    computed = parts.map_batches(
        _Worker,
        fn_constructor_args=(ray.put(base), without, pictures, len(batches.inputs), backend.precision()),
        compute=ray.data.ActorPoolStrategy(size=gpus or sum(machine["Alive"] for machine in ray.nodes())),
        runtime_env=_environment(),
        **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
    )
    expected = first
    for row in computed.iter_rows():
        assert row["number"] == expected, f"batch {row['number']} of {len(batches)} came in place of {expected}"
        yield np.frombuffer(row["output"], np.float32).reshape(-1, *base.output_shape[1:])
        expected += 1
    assert expected == len(batches), f"{expected} of {len(batches)} batches came"


class Run(NamedTuple):
    """What `recipes.run` is to be given."""

    recipe: Recipe
    dataset: Dataset
    seed: int
    weights: str | None


def runs(
    wanted: Sequence[Run], folder: Path, *, devices: int = 1, progress: TextIO | None = None
) -> Iterator[tuple[Run, Result]]:
    """`recipes.run` of all that are `wanted`, spread over the cluster: results as they come, their models in `folder`.

    A rung that starts from another that is wanted, too, waits for it; the model of one that is in `folder` is taken.
    Each run has a CPU of the cluster, or where there are GPUs `devices` of them, and is begun anew where its worker
    dies. A single run is done here, and the base's features of it on the cluster. Raises what a run raised.
    """
    if len(wanted) == 1:
        run = wanted[0]
        options: Any = {"weights": run.weights, "devices": devices, "predict": predict_batches, "progress": progress}
        yield run, run_module.run(run.recipe, run.dataset, run.seed, folder, **options)
        return
    gpus = _join()
    task = ray.remote(_run).options(
        num_returns=2,
        runtime_env=_environment(),
        scheduling_strategy="SPREAD",
        **({"num_gpus": devices} if gpus else {"num_cpus": 1}),
    )
    datasets = {key: ray.put(held) for key, held in {id(run.dataset): run.dataset for run in wanted}.items()}
    files = {str(run.weights) for run in wanted if run.weights and Path(run.weights).is_file()}
    contents = {name: ray.put(Path(name).read_bytes()) for name in files}
    models: dict[str, Any] = {}  # by the key of their run: what it leaves, to be, or the file that is there
    begun: dict[Any, tuple[Run, Any]] = {}
    for run in wanted:
        before = run.recipe.starts_from and run_key(run.recipe.starts_from, *run[1:])
        if before and (file := folder / "models" / f"{before}.keras").is_file():
            models[before] = ray.put({file.name: file.read_bytes()})
        weights = Path(run.weights).name if run.weights else None
        given = contents.get(str(run.weights)), models.get(str(before))
        result, left = task.remote(
            run.recipe, datasets[id(run.dataset)], run.seed, weights, *given, devices, backend.precision()
        )
        begun[result] = run, left
        models[run_key(*run)] = left
    with progress_bar(len(wanted), "runs on the cluster", "run", progress) as bar:
        try:
            while begun:
                (done,), _ = ray.wait(list(begun))
                result, (run, left) = ray.get(done), begun.pop(done)
                for name, content in ray.get(left).items():
                    with atomic_write(folder / "models" / name) as partial:
                        partial.write_bytes(content)
                yield run, result
                bar.update()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        finally:
            for pending in begun:
                ray.cancel(pending, force=True)


def _join() -> int:
    """Be part of the cluster; how many GPUs it has."""
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return int(ray.cluster_resources().get("GPU", 0))


def _environment() -> dict[str, dict[str, str]]:
    """What decides in another process, too, how the backend computes."""
    settings = {
        "KERAS_BACKEND": keras.backend.backend(),
        "OMP_NUM_THREADS": str(backend.threads()),  # which Ray sets to one else
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return {"env_vars": settings}


def _slice(batches: Batches, first: int) -> slice:
    """The pictures of the batches that a worker is given at once."""
    return slice(first * batches.batch_size, (first + CHUNK) * batches.batch_size)


def _compute_in(precision: backend.Precision) -> None:
    backend.make_deterministic()
    if backend.precision() != precision:
        backend.set_precision(precision)


class _Part:
    """Some of `count` pictures, from number `start` on, under their numbers."""

    def __init__(self, pictures: np.ndarray, start: int, count: int) -> None:
        self.pictures, self.start, self.count = pictures, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, which: Any) -> np.ndarray:
        if isinstance(which, slice):
            return self.pictures[which.start - self.start : which.stop - self.start]
        return self.pictures[which - self.start]


class _Worker:
    """A base of its own, which sees one batch after the other."""

    def __init__(
        self, base: Any, batches: Batches, pictures: list[Any], count: int, precision: backend.Precision
    ) -> None:
        _compute_in(precision)
        self.base, self.batches, self.pictures, self.count = ray.get(base), batches, pictures, count

    def __call__(self, rows: dict[str, np.ndarray]) -> "pyarrow.Table":
        """A row a batch: its number, and the output as bytes of float32."""
        numbers, found = [], []
        for part, first in zip(rows["part"].tolist(), rows["first"].tolist(), strict=True):
            inputs: Any = _Part(ray.get(self.pictures[part]), _slice(self.batches, first).start, self.count)
            self.batches.inputs = inputs
            for number in range(first, min(first + CHUNK, len(self.batches))):
                output = next(features.predict_batches(self.base, self.batches, number))
                numbers.append(number)
                found.append(np.ascontiguousarray(output, np.float32).tobytes())
        return pyarrow.table({"number": numbers, "output": pyarrow.array(found, pyarrow.large_binary())})


def _run(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    weights: str | None,
    content: bytes | None,
    started: dict[str, bytes] | None,
    devices: int,
    precision: backend.Precision,
) -> tuple[Result, dict[str, bytes]]:
    """One run in a folder of its own, with the weights and the model it starts from; what models it leaves there."""
    _compute_in(precision)
    with TemporaryDirectory() as name:
        folder, given = Path(name), started or {}
        models = folder / "models"
        models.mkdir()
        for file, model in given.items():
            (models / file).write_bytes(model)
        if weights and content:
            (folder / weights).write_bytes(content)
            weights = str(folder / weights)
        result = run_module.run(recipe, dataset, seed, folder, weights=weights, devices=devices)
        return result, {file.name: file.read_bytes() for file in models.iterdir() if file.name not in given}
