"""One pytest session: what the options resolved to, its datasets, its runs, and what the gate says of them.

Imported by every pytest run in an environment that has convspec, so nothing heavy is imported at the top.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import pytest

from convspec import BadInput, MissingData

if TYPE_CHECKING:
    from convspec.datasets import Dataset
    from convspec.determinism import Repeat
    from convspec.judgement import Judgement
    from convspec.recipes import Recipe, Result

DEFAULT_SEEDS = {"mini": 5, "full": 1}


class Session:
    """What the options resolved to, and the runs of this session."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        option = config.option
        self.scale: str = option.scale
        self.looks: tuple[int, ...] = option.seeds or (DEFAULT_SEEDS[option.scale],)
        self.seeds = range(self.looks[0])
        self.baselines = config.rootpath / "fixtures" / "baselines"
        given, default = option.report, config.rootpath / ".convspec"
        self.folder: Path = (config.invocation_params.dir / given.expanduser()).resolve() if given else default
        self.runs: dict[str, list[Result]] = {}
        self.judgements: list[Judgement] = []
        self.repeats: dict[str, Repeat] = {}
        self._datasets: dict[tuple[str, int, str], Dataset] = {}

    @property
    def data_root(self) -> Path:
        """$CONVSPEC_DATA, else --data-root, else the user's cache folder."""
        if given := os.environ.get("CONVSPEC_DATA") or self.config.option.data_root:
            return Path(given).expanduser().resolve()
        import platformdirs

        return platformdirs.user_cache_path("convspec")

    def weights(self, recipe: "Recipe") -> str | None:
        """--weights, else the base's file in the data folder, else None, which leaves it to the recipe."""
        if recipe.base is None or self.config.option.weights:
            return self.config.option.weights
        file = self.data_root / f"{recipe.base}_notop.weights.h5"
        return str(file) if file.is_file() else None

    def dataset(self, recipe: "Recipe") -> "Dataset":
        """The recipe's dataset or the one of --dataset, loaded once a session."""
        from convspec import datasets

        name, size, interpolation = key = (
            self.config.option.dataset or recipe.dataset,
            recipe.size,
            recipe.interpolation,
        )
        if key not in self._datasets:
            self._datasets[key] = datasets.load(
                name,
                size,
                self.data_root,
                interpolation=interpolation,
                most_bad=0.0 if self.config.option.strict_images else 0.05,
                progress=uncaptured(self.config),
            )
        return self._datasets[key]

    def unfinished(self, recipe: "Recipe", seed: int) -> Path:
        """Where a run's result waits until the whole session is done, so that a session that was cut off can go on."""
        from convspec.recipes import run_key

        return self.folder / "unfinished" / f"{run_key(recipe, self.dataset(recipe), seed, self.weights(recipe))}.json"

    def run(self, recipe: "Recipe", seed: int) -> "Result":
        """One run; one that was finished in a session that was cut off is not trained again."""
        from convspec.recipes import Result, run

        if not (kept := self.unfinished(recipe, seed)).is_file():
            dataset, weights, stream = self.dataset(recipe), self.weights(recipe), uncaptured(self.config)
            devices = self.config.option.devices
            run(recipe, dataset, seed, self.folder, weights=weights, devices=devices, progress=stream).save(kept)
        return Result.load(kept)

    def climb(self, recipe: "Recipe") -> "list[Result]":
        """The runs of all seeds, and under --seeds auto of more while the verdict on them is open."""
        runs = self.runs[recipe.name] = [self.run(recipe, seed) for seed in self.seeds]
        for count in self.looks[1:]:
            if self.judge(runs).outcome != "underpowered":
                break
            runs += [self.run(recipe, seed) for seed in range(len(runs), count)]
        return runs

    def judge(self, runs: "list[Result]") -> "Judgement":
        """What the gate says of runs of one recipe, by --margin and as one of the looks that --seeds has."""
        from convspec.judgement import judge

        return judge(self.baselines, runs, self.config.option.margin, len(self.looks))

    def hold(self, runs: "list[Result]", item: pytest.Item) -> None:
        """Pass, fail or skip `item` as the gate says, which goes into the summary and the properties of JUnit's XML.

        The first runs of their kind are written as a baseline, and fail, as nobody has looked at them yet.
        """
        from convspec import baselines

        judgement = self.judge(runs)
        self.judgements.append(judgement)
        lines, repeat = judgement.lines, self.repeats.get(judgement.runs[0].recipe.name)
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

    def finish(self) -> None:
        """Write the record and the picture of all runs; nothing is left unfinished."""
        from convspec import report

        report.record(
            self.runs,
            self.folder / "ladder.json",
            scale=self.scale,
            command=["pytest", *self.config.invocation_params.args],
        )
        report.picture(self.runs, self.folder / "ladder.png")
        report.markdown(self.runs, self.judgements, self.folder / "ladder.md")
        for group in self.runs.values():
            recipe, dataset = group[0].recipe, self.dataset(group[0].recipe)
            report.samples(dataset, self.folder / f"samples-{dataset.name}.png")
            if recipe.augmentation:
                report.views(dataset, recipe.augmentation, self.folder / f"views-{dataset.name}.png")
        for judgement in self.judgements:
            if judgement.flips and judgement.flips.outcome == "change":
                recipe = judgement.runs[0].recipe
                report.flipped(self.dataset(recipe), judgement, self.folder / f"flipped-{recipe.name}.png")
        for result in (result for group in self.runs.values() for result in group):
            self.unfinished(result.recipe, result.seed).unlink(missing_ok=True)


SESSION = pytest.StashKey[Session]()


@contextmanager
def explained(config: pytest.Config) -> Iterator[None]:
    """Missing data is a skip (a failure under --require-data) and bad input a failure, each told in one line."""
    try:
        yield
    except MissingData as error:
        if config.option.require_data:
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    except BadInput as error:
        pytest.fail(str(error), pytrace=False)


class _Uncaptured(io.TextIOBase):
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


def uncaptured(config: pytest.Config) -> TextIO:
    """A text stream to the terminal that pytest's capturing does not swallow, for progress bars."""
    return cast(TextIO, _Uncaptured(config))
