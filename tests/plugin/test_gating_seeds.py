"""--convspec-seeds auto: seeds are added until the verdict of a gate is certain."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import builders
import numpy as np
import pytest

from convspec.accuracy import judgement
from convspec.accuracy.baselines import write
from convspec.ladder import run as run_module
from convspec.ladder import rungs
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.plugin.session import SESSION, Session


def train(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, drop: float, deviation: float
) -> tuple[Session, list[Result]]:
    """Return what is trained at auto: runs get 0.9 right, give or take `deviation`, `drop` less after a baseline."""
    session = pytester.parseconfigure("--convspec-seeds", "auto").stash[SESSION]
    recipe, rng = rungs.find_recipe("fine_tuned", "mini"), np.random.default_rng(0)

    def run(recipe: Recipe, dataset: object, seed: int, *_: object, **__: object) -> Result:
        right = round(1000 * (0.9 - (drop if written else 0) + rng.normal(0, deviation)))
        return builders.result("fine_tuned", "mini", right / 1000, seed)

    monkeypatch.setattr(run_module, "run_recipe", run)
    monkeypatch.setattr(Session, "processes", None)
    monkeypatch.setattr(Session, "dataset", lambda *_: None)
    monkeypatch.setattr(Session, "unfinished", lambda _, __, seed: session.folder / f"{len(written)}-{seed}.json")
    written: list[Path] = []
    written = [write(session.settings.baselines, session.run(recipe, seed).as_run()) for seed in range(5)]
    return session, session.run_all_seeds(recipe)


@pytest.mark.parametrize(("drop", "deviation", "expected"), [(0.0, 0.002, 3), (0.05, 0.002, 3), (0.01, 0.02, 12)])
def test_seeds_auto_adds_seeds_until_the_verdict_is_certain(
    drop: float, deviation: float, expected: int, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, results = train(pytester, monkeypatch, drop, deviation)
    assert [result.seed for result in results] == list(range(expected))


def test_all_seeds_that_auto_adds_are_begun_before_the_first_is_awaited(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = pytester.parseconfigure("--convspec-seeds=auto", "--convspec-rungs=fine_tuned").stash[SESSION]
    begun, at_each_wait = set[int](), list[int]()

    class Processes:
        def train(self, _: Path, run: run_module.Run) -> None:
            begun.add(run.seed)

        def result(self, file: Path) -> Result:
            at_each_wait.append(len(begun))
            return builders.result("fine_tuned", "mini", 0.9, int(file.stem))

    monkeypatch.setattr(Session, "processes", Processes())
    monkeypatch.setattr(Session, "dataset", lambda *_: None)
    monkeypatch.setattr(Session, "unfinished", lambda _, __, seed: session.folder / f"{seed}.json")
    monkeypatch.setattr(Session, "judge", lambda *_: SimpleNamespace(outcome="underpowered"))
    session.run_all_seeds(session.recipe("fine_tuned"))
    assert at_each_wait == [3] * 3 + [5] * 2 + [8] * 3 + [12] * 4


def test_each_look_of_seeds_auto_takes_its_share_of_the_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, results = train(pytester, monkeypatch, 0.0, 0.002)
    runs = [result.as_run() for result in results]
    alone = judgement.judge(session.settings.baselines, runs).verdict
    shared = session.judge(runs).verdict
    assert alone and shared and shared.low < alone.low, "the interval of one of four looks is wider"  # noqa: PT018
    own = [replace(run, dataset="") for run in runs]
    for run in own:
        write(session.settings.baselines, run)
    assert session.judge(own) == judgement.judge(session.settings.baselines, own), "no seeds are added to one's own"
