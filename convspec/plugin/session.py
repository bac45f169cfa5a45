"""One pytest session: what the options resolved to, its datasets, its runs, and what the gate says of them.

Imported by every pytest run in an environment that has convspec, so nothing heavy is imported at the top.
"""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import pytest

from convspec import BadInput, MissingData

if TYPE_CHECKING:
    from convspec.accuracy.baselines import Run
    from convspec.accuracy.judgement import Judgement
    from convspec.data.datasets import Dataset
    from convspec.ladder.determinism import Repeat
    from convspec.ladder.recipe import Recipe, Scale
    from convspec.ladder.result import Result


DEFAULT_SEEDS = {"mini": 5, "full": 1}


class Session:
    """What the options resolved to, and the runs of this session."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        option = config.option
        self.scale: Scale = option.scale
        self.looks: tuple[int, ...] = option.seeds or (DEFAULT_SEEDS[option.scale],)
        self.seeds = range(self.looks[0])
        self.baselines = config.rootpath / "fixtures" / "baselines"
        given, default = option.report, config.rootpath / ".convspec"
        self.folder: Path = (config.invocation_params.dir / given.expanduser()).resolve() if given else default
        self.runs: dict[str, list[Result]] = {}
        self.begun: dict[str, list[int]] = {}  # the seeds that are finished of each rung that was begun
        self.judgements: list[Judgement] = []
        self.repeats: dict[str, Repeat] = {}
        self._datasets: dict[tuple[str, int, str], Dataset] = {}

    @property
    def data_root(self) -> Path:
        """$CONVSPEC_DATA, else --data-root, else the user's cache folder."""
        from convspec.data.datasets import data_folder

        return data_folder(self.config.option.data_root)

    def weights(self, recipe: "Recipe") -> str | None:
        """--weights, else the default ones of the recipe's base; None where it has no base."""
        if recipe.base is None or self.config.option.weights:
            return self.config.option.weights
        from convspec.models import default_weights

        return str(default_weights(recipe.base, self.data_root))

    def dataset(self, recipe: "Recipe") -> "Dataset":
        """The recipe's dataset or the one of --dataset, loaded once a session."""
        from convspec.data import datasets

        self.begun.setdefault(recipe.name, [])
        name, size, interpolation = key = (
            self.config.option.dataset or recipe.dataset,
            recipe.size,
            recipe.interpolation,
        )
        if key not in self._datasets:
            self._datasets[key] = datasets.load_dataset(
                name,
                size,
                self.data_root,
                interpolation=interpolation,
                max_bad_fraction=0.0 if self.config.option.strict_images else 0.05,
                progress=terminal_stream(self.config),
            )
        return self._datasets[key]

    def unfinished(self, recipe: "Recipe", seed: int) -> Path:
        """Where a run's result waits until the whole session is done, so that a session that was cut off can go on."""
        from convspec.ladder.run import run_key

        return self.folder / "unfinished" / f"{run_key(recipe, self.dataset(recipe), seed, self.weights(recipe))}.json"

    def run(self, recipe: "Recipe", seed: int) -> "Result":
        """One run; one that was finished in a session that was cut off is not trained again."""
        from convspec.ladder.result import Result
        from convspec.ladder.run import run_recipe

        if not (kept := self.unfinished(recipe, seed)).is_file():
            dataset, weights, stream = self.dataset(recipe), self.weights(recipe), terminal_stream(self.config)
            devices = self.config.option.devices
            if self.config.option.engine == "ray":
                self._spread(recipe, seed)
            else:
                options: Any = {"weights": weights, "devices": devices, "progress": stream}
                run_recipe(recipe, dataset, seed, self.folder, **options).save(kept)
        result = Result.load(kept)
        done = self.begun.setdefault(recipe.name, [])
        done += [seed] * (seed not in done)
        return result

    def _spread(self, recipe: "Recipe", seed: int) -> None:
        """That run, with all others of the session that are not finished yet, on a Ray cluster."""
        from convspec.ladder import ray
        from convspec.ladder.rungs import RUNGS, select_recipes

        option, runs = self.config.option, []
        climbed = select_recipes(self.scale, option.mode, option.rungs or RUNGS)
        session = [(which, number) for which in climbed for number in self.seeds]
        for which, number in session if (recipe, seed) in session else [(recipe, seed)]:
            with suppress(BadInput, MissingData):  # which that rung's own test tells
                if not self.unfinished(which, number).is_file():
                    runs.append(ray.Run(which, self.dataset(which), number, self.weights(which)))
        stream = terminal_stream(self.config)
        for run, result in ray.runs(runs, self.folder, devices=option.devices, progress=stream):
            result.save(self.unfinished(run.recipe, run.seed))

    def run_all_seeds(self, recipe: "Recipe") -> "list[Result]":
        """The runs of all seeds, and under --seeds auto of more while the verdict on them is open."""
        runs = self.runs[recipe.name] = [self.run(recipe, seed) for seed in self.seeds]
        for count in self.looks[1:]:
            if self.judge([run.as_run() for run in runs]).outcome != "underpowered":
                break
            runs += [self.run(recipe, seed) for seed in range(len(runs), count)]
        return runs

    def judge(self, runs: "list[Run]") -> "Judgement":
        """What the gate says of runs of one recipe, by --margin and as one of the looks that --seeds has."""
        from convspec.accuracy.judgement import judge

        return judge(self.baselines, runs, self.config.option.margin, len(self.looks))

    def hold(self, runs: "list[Run]", item: pytest.Item) -> None:
        """Pass, fail or skip `item` as the gate says, which goes into the summary and the properties of JUnit's XML.

        The first runs of their kind are written as a baseline, and fail, as nobody has looked at them yet.
        """
        from convspec.accuracy import baselines

        judgement = self.judge(runs)
        self.judgements.append(judgement)
        lines, repeat = judgement.lines, self.repeats.get(judgement.name)
        if repeat and repeat.outcome == "bit-identical" and judgement.differs_for_no_known_reason:
            lines.append(
                "it repeats itself bit by bit here, and neither versions nor machine changed: code or data did"
            )
        text, update = "\n".join(lines), self.config.option.update_baselines
        item.user_properties += [*judgement.properties.items(), ("verdict", text)]
        first = judgement.outcome == "missing" and not judgement.left_out
        if update or first:
            for run in runs:
                baselines.write(self.baselines, run)
        if first:
            pytest.fail(
                f"{text}\nThese runs are the baseline from now on: look at {str(self.baselines)!r}, keep it under"
                " version control, and run again.",
                pytrace=False,
            )
        if judgement.outcome == "missing" and not update:
            pytest.fail(f"{text}\nTo hold runs against these from now on: --update-baselines.", pytrace=False)
        if judgement.outcome == "regressed" and not update:
            pytest.fail(text, pytrace=False)
        if judgement.outcome == "underpowered":
            pytest.skip(text)

    def model(self, result: "Result") -> Path:
        """Where the trained model of a run is kept."""
        from convspec.ladder.run import run_key

        dataset, weights = self.dataset(result.recipe), self.weights(result.recipe)
        return self.folder / "models" / f"{run_key(result.recipe, dataset, result.seed, weights)}.keras"

    def finish(self, outcome: str = "complete", failures: Sequence[tuple[str, str]] = ()) -> list[str]:
        """Write the record of all runs, then what is drawn from it: pictures, and the page with all in it.

        `outcome` is "complete", "failed" or "interrupted", `failures` each test that failed, and why. What could not be
        drawn is returned, a line each, and takes nothing else with it. Unless the session was interrupted, nothing is
        left unfinished.
        """
        from convspec.ladder import rungs
        from convspec.report import charts, images, tables

        option = self.config.option
        asked = [recipe.name for recipe in rungs.select_recipes(self.scale, option.mode, option.rungs or rungs.RUNGS)]
        told = {
            "scale": self.scale,
            "command": ["pytest", *self.config.invocation_params.args],
            "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "outcome": outcome,
            "failures": [{"test": test, "why": why} for test, why in failures],
            "unfinished": {rung: self.begun.get(rung, []) for rung in asked if rung not in self.runs},
            "repeats": {rung: repeat.outcome for rung, repeat in self.repeats.items()},
            "verdicts": [judgement.properties | {"lines": judgement.lines} for judgement in self.judgements],
        }
        tables.record(self.runs, self.folder / "ladder.json", **told)
        undrawn = []

        def draw(name: str, function: Callable[..., None], *arguments: Any) -> None:
            try:
                function(*arguments, self.folder / name)
            except Exception as error:  # of whatever kind: it is told, and the rest is worth having
                undrawn.append(f"{name} could not be written: {type(error).__name__}: {error}")

        draw("ladder.md", tables.markdown, self.runs, self.judgements)
        if self.runs:
            draw("ladder.png", charts.picture, self.runs)
        for group in self.runs.values():
            recipe, dataset = group[0].recipe, self.dataset(group[0].recipe)
            draw(f"samples-{dataset.name}.png", images.samples, dataset)
            if recipe.augmentation:
                draw(f"views-{dataset.name}.png", images.views, dataset, recipe.augmentation)
        for judgement in self.judgements:
            if judgement.name in self.runs and judgement.flips and judgement.flips.outcome == "change":
                recipe = self.runs[judgement.name][0].recipe
                draw(f"flipped-{recipe.name}.png", images.flipped, self.dataset(recipe), judgement)

        def page(path: Path) -> None:
            from convspec.report.html import write

            stream = terminal_stream(self.config)
            parts = write(path, self.runs, self.judgements, told, self.dataset, self.model, progress=stream)
            undrawn.extend(f"{path.name}: {part}" for part in parts)

        draw("index.html", page)
        for result in (result for group in self.runs.values() for result in group if outcome != "interrupted"):
            self.unfinished(result.recipe, result.seed).unlink(missing_ok=True)
        return undrawn


SESSION = pytest.StashKey[Session]()


@contextmanager
def skip_or_fail_on_bad_data(config: pytest.Config) -> Iterator[None]:
    """Missing data is a skip (a failure under --require-data) and bad input a failure, each told in one line."""
    try:
        yield
    except MissingData as error:
        if config.option.require_data:
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    except BadInput as error:
        pytest.fail(str(error), pytrace=False)


class _TerminalStream(io.TextIOBase):
    def __init__(self, config: pytest.Config) -> None:
        super().__init__()
        self._capture: Any = config.pluginmanager.getplugin("capturemanager")

    def write(self, text: str) -> int:
        with self._capture.global_and_fixture_disabled():
            return sys.stderr.write(text)

    def isatty(self) -> bool:
        with self._capture.global_and_fixture_disabled():
            return sys.stderr.isatty()

    def flush(self) -> None:
        with self._capture.global_and_fixture_disabled():
            sys.stderr.flush()


def terminal_stream(config: pytest.Config) -> TextIO:
    """A text stream to the terminal that pytest's capturing does not swallow, for progress bars."""
    return cast(TextIO, _TerminalStream(config))
