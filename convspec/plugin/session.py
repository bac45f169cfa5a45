"""One pytest session: its settings, its datasets and its runs.

Imported by every pytest run in an environment that has convspec, so nothing heavy is imported at the top.
"""

import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import pytest

from convspec import BadInput, MissingData, require_extras
from convspec.plugin.options import Settings

if TYPE_CHECKING:
    from convspec.accuracy.baselines import Run
    from convspec.accuracy.judgement import Judgement
    from convspec.data.datasets import Dataset
    from convspec.data.folders import Reading
    from convspec.features import Engine
    from convspec.ladder.determinism import Repeat
    from convspec.ladder.processes import Processes
    from convspec.ladder.recipe import Recipe
    from convspec.ladder.result import Result
    from convspec.ladder.run import Run as RunInputs
    from convspec.timings.cost import Cost


class Session:
    """Settings, datasets and runs of one pytest session."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = settings = Settings(config)
        self.scale, self.folder, self.seeds = settings.scale, settings.folder, range(settings.looks[0])
        self.runs: dict[str, list[Result]] = {}  # of the finished rungs
        self.begun: set[str] = set()  # rungs
        self.failed: set[str] = set()  # rungs whose own test did not finish
        self.judgements: list[Judgement] = []  # by this process's gates
        self.repeats: dict[str, Repeat] = {}  # whether a rung repeated itself
        self.costs: list[Cost] = []  # of whole rungs that were timed
        self.selected: set[str] = set()  # rungs whose own tests are selected
        self._datasets: dict[tuple[str, int, str], Dataset] = {}
        self._results: dict[Path, Result] = {}  # by the file, which another session may remove

    @property
    def data_root(self) -> Path:
        """$CONVSPEC_DATA, else --convspec-data-root, else the user's cache folder."""
        from convspec.data.datasets import data_folder

        return data_folder(self.settings.data_root)

    @property
    def recipes(self) -> "list[Recipe]":
        """Recipes of --convspec-rungs and --convspec-mode, with --convspec-base, in the ladder's order."""
        from convspec.ladder import rungs
        from convspec.ladder.recipe import with_base

        chosen = rungs.select_recipes(self.scale, self.settings.mode, self.settings.rungs or rungs.RUNGS)
        return [with_base(recipe, base) for recipe in chosen] if (base := self.settings.base) else chosen

    def recipe(self, rung: str) -> "Recipe":
        """Return the recipe of that name among `recipes`."""
        return next(recipe for recipe in self.recipes if recipe.name == rung)

    def weights(self, recipe: "Recipe") -> str | None:
        """Return --convspec-weights, else the default of the recipe's base; None for a recipe without a base."""
        from convspec.models import default_weights

        if self.settings.weights or recipe.base is None:
            return self.settings.weights
        return str(default_weights(recipe.base, self.data_root))

    def dataset(self, recipe: "Recipe") -> "Dataset":
        """Return the dataset of --convspec-dataset, else the recipe's own; each is loaded once a session."""
        from convspec.data import datasets

        self.begun.add(recipe.name)
        name = self.settings.dataset or recipe.dataset
        key = name, recipe.size, recipe.interpolation
        if key not in self._datasets:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "skipped")  # the summary names each file
                self._datasets[key] = datasets.load_dataset(
                    self.reading or name,
                    recipe.size,
                    self.data_root,
                    interpolation=recipe.interpolation,
                    max_bad_fraction=0.0 if self.settings.strict_images else 0.05,
                    truncated=self.settings.truncated,
                    progress=terminal_stream(self.config),
                )
        return self._datasets[key]

    @cached_property
    def _layout(self) -> "Reading | None":
        """How the folder of --convspec-dataset is read, by names alone; None for a dataset of the package."""
        from convspec.data import datasets, folders
        from convspec.files import expand

        name = self.settings.dataset
        if name is None or name in datasets.NAMES:
            return None
        return folders.read_layout(expand(name), self.settings.layout)

    @cached_property
    def reading(self) -> "Reading | None":
        """The folder of --convspec-dataset as it is trained on, with its near copies, for which all is decoded."""
        from convspec.data import folders

        if (layout := self._layout) is None:
            return None
        return folders.compare(layout, terminal_stream(self.config), self.settings.truncated)

    @cached_property
    def outline(self) -> list[str]:
        """Lines that say how the folder of --convspec-dataset is read, as far as its names tell."""
        with suppress(BadInput, OSError):  # which `explanation` gives
            return self._layout.explain()[0] if self._layout else []
        return []

    @property
    def findings(self) -> list[str]:
        """Lines of `explanation` that are not in `outline`, once it was asked for."""
        return [line for line in self.__dict__.get("explanation", ([],))[0] if line not in self.outline]

    @cached_property
    def explanation(self) -> tuple[list[str], Exception | None]:
        """Lines that say how the folder of --convspec-dataset is read, and why it cannot be used, if so."""
        try:
            return self.reading.explain() if self.reading else ([], None)
        except (BadInput, OSError) as error:
            return [], error

    def unfinished(self, recipe: "Recipe", seed: int) -> Path:
        """Return the file that keeps a run's result until its session ends, so that the next one can go on."""
        return self.folder / "unfinished" / f"{self._key(recipe, seed)}.json"

    def kept(self, recipe: "Recipe") -> list[int]:
        """Return the seeds of a rung whose results are kept, those trained ahead included."""
        if recipe.name in self.begun:
            with suppress(BadInput, MissingData):
                return [seed for seed in range(self.settings.looks[-1]) if self.unfinished(recipe, seed).is_file()]
        return []

    def model(self, result: "Result") -> Path:
        """Return the file of a run's trained model."""
        return self.folder / "models" / f"{self._key(result.recipe, result.seed)}.keras"

    def _key(self, recipe: "Recipe", seed: int) -> str:
        from convspec.ladder.run import run_key

        return run_key(recipe, self.dataset(recipe), seed, self.weights(recipe), self.engine)

    @property
    def engine(self) -> "Engine":
        """What computes frozen bases in this process; with --convspec-engine ray, workers do as Keras does."""
        from convspec import features

        if self.settings.engine != "ncnn":
            return features.KERAS
        from convspec.ladder import ncnn

        return ncnn.ENGINE

    def run(self, recipe: "Recipe", seed: int) -> "Result":
        """Train a recipe with one seed, unless a session that was interrupted has finished that run."""
        from convspec.ladder.run import train_once

        file = self.unfinished(recipe, seed)
        if file not in self._results:
            options: Any = {"devices": self.settings.devices, "progress": terminal_stream(self.config)}
            if self.settings.engine == "ray":
                self._results |= _train_on_ray(self, recipe, seed, options)
            elif self.processes and not file.is_file():
                for place, run in self._pending(recipe, seed):
                    self.processes.train(place, run)
                self._results[file] = self.processes.result(file)
            else:
                run = self._inputs(recipe, seed)
                self._results[file] = train_once(run, file, self.folder, engine=self.engine, **options)
        return self._results[file]

    @cached_property
    def processes(self) -> "Processes | None":
        """Processes that train, where runs are small; None elsewhere, and where one thread is all there is anyway."""
        from convspec import backend
        from convspec.ladder.processes import Processes

        small = self.scale == "mini" and self.settings.devices == 1 and self.settings.engine == "keras"
        if not small or backend.accelerators() or backend.threads() == 1:
            return None
        return Processes(self.folder, terminal_stream(self.config))

    def close(self) -> None:
        """End what still trains."""
        if processes := self.__dict__.get("processes"):
            processes.close()

    def _inputs(self, recipe: "Recipe", seed: int) -> "RunInputs":
        from convspec.ladder.run import Run

        return Run(recipe, self.dataset(recipe), seed, self.weights(recipe))

    def _expected(self, rung: str) -> "list[Recipe]":
        """Return the recipes of a rung and of those whose own tests are selected."""
        return [recipe for recipe in self.recipes if recipe.name in self.selected | {rung}]

    def _pending(self, recipe: "Recipe", seed: int) -> "Iterator[tuple[Path, RunInputs]]":
        """Yield files and inputs of that run and of all that will be asked for before any is judged."""
        yield self.unfinished(recipe, seed), self._inputs(recipe, seed)
        look = next((range(count) for count in self.settings.looks if seed < count), self.seeds)
        for other in self._expected(recipe.name):
            for number in look if other.name == recipe.name else self.seeds:
                with suppress(BadInput, MissingData):  # that rung's own test reports it
                    if (other, number) != (recipe, seed) and not (file := self.unfinished(other, number)).is_file():
                        yield file, self._inputs(other, number)

    def repeat(self, rung: str) -> "Repeat":
        """Train the first steps of a rung twice, where it trains, and return how closely both agree."""
        from convspec.ladder import determinism

        inputs = self._inputs(self.recipe(rung), 0)
        if not self.processes:
            return determinism.repeat(inputs, self.engine, self.settings.devices)
        self.processes.begin(("repeat", rung), determinism.repeat, inputs)
        for recipe in self._expected(rung):
            with suppress(BadInput, MissingData):
                self.processes.begin(("repeat", recipe.name), determinism.repeat, self._inputs(recipe, 0))
        return self.processes.result(("repeat", rung))

    def run_all_seeds(self, recipe: "Recipe") -> "list[Result]":
        """Train with all seeds of --convspec-seeds; with auto, add seeds while the verdict is open."""
        runs = self.runs[recipe.name] = [self.run(recipe, seed) for seed in self.seeds]
        for count in self.settings.looks[1:]:
            if self.judge([run.as_run() for run in runs]).outcome != "underpowered":
                break
            runs += [self.run(recipe, seed) for seed in range(len(runs), count)]
        return runs

    def results(self, rung: str) -> "list[Result]":
        """Return a rung's runs, trained now where its own test was left out; skip where none can be."""
        if all(recipe.name != rung for recipe in self.recipes):
            pytest.skip(f"needs the rung {rung}, which --convspec-rungs and --convspec-mode leave out")
        if rung in self.failed:
            pytest.skip(f"needs the rung {rung}, whose own test did not finish")
        if rung not in self.runs:
            with skip_or_fail_on_bad_data(self.config):
                self.run_all_seeds(self.recipe(rung))
        return self.runs[rung]

    def judge(self, runs: "Sequence[Run]") -> "Judgement":
        """Compare runs of one model with its baseline, by the margin, looks and measure that the options set."""
        from convspec.accuracy.judgement import judge

        settings = self.settings
        looks = len(settings.looks) if runs[0].dataset else 1  # no seeds are added to somebody's own model
        return judge(settings.baselines, runs, settings.margin, looks, settings.measure)


SESSION = pytest.StashKey[Session]()


def _train_on_ray(session: Session, recipe: "Recipe", seed: int, options: dict[str, Any]) -> "dict[Path, Result]":
    """Train that run, and with it all others that are pending, on a Ray cluster; of several sessions one does."""
    from convspec.files import lock
    from convspec.ladder import ray
    from convspec.ladder.result import Result

    file = session.unfinished(recipe, seed)
    with lock(file, options["progress"]):
        with suppress(FileNotFoundError):
            return {file: Result.load(file)}
        results = {}
        wanted = [run for _, run in session._pending(recipe, seed)]
        try:
            for run, result in ray.runs(wanted, session.folder, **options):
                result.save(place := session.unfinished(run.recipe, run.seed))
                results[place] = result
        except Exception:
            if file not in results:  # the test of the rung that failed reports it otherwise
                raise
        return results


@contextmanager
def skip_or_fail_on_bad_data(config: pytest.Config) -> Iterator[None]:
    """Skip on missing data, or fail where it is required; fail on bad input and missing packages, in one line."""
    try:
        with require_extras():
            yield
    except (MissingData, BadInput) as error:
        if isinstance(error, MissingData) and not config.stash[SESSION].settings.require_data:
            pytest.skip(str(error))
        raise pytest.fail.Exception(str(error), pytrace=False) from None


class _TerminalStream(io.TextIOBase):
    def __init__(self, config: pytest.Config) -> None:
        super().__init__()
        capture = config.pluginmanager.getplugin("capturemanager")  # None under -p no:capture
        self._pause_capture = capture.global_and_fixture_disabled if capture else nullcontext

    def write(self, text: str) -> int:
        with self._pause_capture():
            return sys.stderr.write(text)

    def isatty(self) -> bool:
        with self._pause_capture():
            return sys.stderr.isatty()

    def flush(self) -> None:
        with self._pause_capture():
            sys.stderr.flush()


def terminal_stream(config: pytest.Config) -> TextIO:
    """Return a text stream to the terminal that pytest does not capture, for progress bars."""
    return cast(TextIO, _TerminalStream(config))
