"""However a session of the ladder ends, it leaves a page and a record that say how."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import keras
import pytest
from builders import LADDER, result_with_history
from keras import layers

from convspec.accuracy import measures
from convspec.data.datasets import Dataset
from convspec.ladder import run as run_module
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.ladder.run import run_key
from convspec.ladder.rungs import find_recipe
from convspec.plugin import summary
from convspec.plugin.session import SESSION, Session
from convspec.report import charts, html, tables


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model for two classes."""
    model = keras.Sequential(
        [keras.Input((48, 48, 3)), layers.Conv2D(1, 1), layers.Flatten(), layers.Dense(1, "sigmoid")]
    )
    model.save(file := tmp_path_factory.mktemp("model") / "small.keras")
    return file


Ladder = Callable[..., tuple[str, Path]]


@pytest.fixture
def run_ladder(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, few_shapes: Dataset, model_file: Path
) -> Ladder:
    """Three rungs of two seeds in this process, whose runs take no time; the second of from_scratch may raise.

    Returns what the terminal shows, on one line, and the report's folder.
    """
    monkeypatch.delenv("CONVSPEC_DATA", raising=False)

    def dataset(session: Session, recipe: Recipe) -> Dataset:
        session.begun.add(recipe.name)
        return few_shapes

    def run_ladder(raises: BaseException | None = None, *arguments: str) -> tuple[str, Path]:
        def run(recipe: Recipe, dataset: Dataset, seed: int, folder: Path, **_: Any) -> Result:
            if recipe.name == "from_scratch" and seed == 1 and raises:
                raise raises
            file = folder / "models" / f"{run_key(recipe, dataset, seed)}.keras"
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(model_file, file)
            labels = dataset.test.labels
            return replace(
                result_with_history(recipe.name, "mini", 0.5, seed), predicted=[0] * len(labels),
                test_labels=labels.tolist(), test_names=list(dataset.test.names), confidence=[0.75] * len(labels),
            )  # fmt: skip

        monkeypatch.setattr(run_module, "run_recipe", run)
        monkeypatch.setattr(Session, "dataset", dataset)
        monkeypatch.setattr(Session, "processes", None)
        ended = pytester.runpytest_inprocess(
            LADDER, "--rootdir", str(pytester.path), "-p", "no:cacheprovider", "-p", "no:randomly",
            "--convspec-rungs", "dense_baseline,from_scratch,augmented", "--convspec-seeds", "2",
            "-k", "test_rung[", "-x", *arguments,
            no_reraise_ctrlc=True,
        )  # fmt: skip
        return " ".join(ended.outlines + ended.errlines), pytester.path / ".convspec"

    return run_ladder


def page_and_record(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the page, which is well-formed, with single spaces, and the record."""
    ElementTree.parse(folder / "index.html")
    page = (folder / "index.html").read_text(encoding="utf-8")
    return " ".join(page.split()), json.loads((folder / "ladder.json").read_text())


def test_a_run_that_went_well_ends_in_a_whole_page_and_says_where(run_ladder: Ladder) -> None:
    terminal, folder = run_ladder(None, "--convspec-rungs", "dense_baseline,from_scratch")
    assert terminal.count(f"report: {folder / 'index.html'}") == 1
    assert "could not be" not in terminal
    page, record = page_and_record(folder)
    assert "<strong>Complete.</strong> 2 rungs finished, 4 runs in all." in page
    assert 'role="note"' not in page, "no part is missing"
    assert (record["outcome"], record["schema"], len(record["runs"])) == ("complete", tables.SCHEMA, 4)
    assert not list((folder / "unfinished").iterdir())


@pytest.mark.parametrize(("unbalanced", "shown"), [(1.2, 0), (0.5, 1)])
def test_the_terminal_shows_what_an_accuracy_is_worth_where_it_misleads(
    unbalanced: float, shown: int, run_ladder: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures are balanced, unless an equal share of each class counts as too much."""
    monkeypatch.setattr(measures, "UNBALANCED", unbalanced)
    monkeypatch.setattr(html, "write", lambda *_: [])
    terminal, _ = run_ladder(None, "--convspec-rungs", "dense_baseline", "--convspec-seeds", "1")
    assert terminal.count("what the accuracy is worth") == shown


def test_a_run_that_failed_half_way_says_which_test_and_why(run_ladder: Ladder) -> None:
    terminal, folder = run_ladder(RuntimeError("<b>the disk is full</b>"))
    assert str(folder / "index.html") in terminal
    page, record = page_and_record(folder)
    assert "<strong>Failed.</strong> 1 rung finished, 2 runs in all; not finished: from_scratch (1 run kept)" in page
    assert ">test_rung[from_scratch]</span>" in page
    assert "RuntimeError: &lt;b&gt;the disk is full&lt;/b&gt;" in page
    assert record["outcome"] == "failed"
    assert "the disk is full" in record["failures"][0]["why"]
    assert record["unfinished"] == {"from_scratch": [0], "augmented": []}
    assert len(list((folder / "unfinished").iterdir())) == 3, "the next session goes on: the rung that finished, too"


def test_a_run_that_was_interrupted_says_so_and_can_go_on(run_ladder: Ladder) -> None:
    _, folder = run_ladder(KeyboardInterrupt())
    page, record = page_and_record(folder)
    assert "Interrupted.</strong> 1 rung finished, 2 runs in all; not finished: from_scratch (1 run kept)" in page
    assert "The same command goes on from here" in page
    assert page.count("left out, so that a run that is interrupted ends soon") == 3
    assert record["outcome"] == "interrupted"
    assert len(list((folder / "unfinished").iterdir())) == 3, "two runs of one rung, and one of the next"


def test_runs_that_were_trained_ahead_count_as_kept(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    session = pytester.parseconfigure().stash[SESSION]
    monkeypatch.setattr(Session, "unfinished", lambda _, recipe, seed: pytester.path / f"{recipe.name}-{seed}.json")
    for run in ("dense_baseline-0", "dense_baseline-2", "augmented-2"):
        (pytester.path / f"{run}.json").touch()
    session.begun.add("dense_baseline")
    assert session.kept(find_recipe("dense_baseline", "mini")) == [0, 2]
    assert session.kept(find_recipe("augmented", "mini")) == [], "it was not begun, and its pictures are not loaded"


def test_a_run_that_fails_before_any_rung_is_finished_has_a_page_too(run_ladder: Ladder) -> None:
    run_ladder(None, "--convspec-rungs", "dense_baseline", "--convspec-seeds", "1")
    terminal, folder = run_ladder(RuntimeError("no"), "--convspec-rungs", "from_scratch")
    assert "record and a summary in Markdown: ladder.json, ladder.md beside" in terminal
    assert not (folder / "ladder.png").exists(), "that was of the session before"
    page, _ = page_and_record(folder)
    assert "Failed.</strong> 0 rungs finished, 0 runs in all; not finished: from_scratch (1 run kept). 1 test" in page


def test_what_cannot_be_drawn_is_told_and_the_record_is_written(
    run_ladder: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(charts, "chart", broken)
    monkeypatch.setattr(tables, "markdown", broken)
    terminal, folder = run_ladder(None, "--convspec-rungs", "dense_baseline", "--convspec-seeds", "1")
    for part in ("ladder.md could not be written", "ladder.png could not be written", "index.html: chart could not be"):
        assert part in terminal
    page, record = page_and_record(folder)
    assert len(record["runs"]) == 1
    assert page.count('role="note"') == 1, "the other parts are there"


def test_a_rung_that_was_not_selected_is_not_called_unfinished(run_ladder: Ladder) -> None:
    _, folder = run_ladder(None, "-k", "test_rung[dense")
    page, record = page_and_record(folder)
    assert "<strong>Complete.</strong> 1 rung finished, 2 runs in all." in page
    assert record["unfinished"] == {}


def test_a_page_that_cannot_be_written_leaves_none_of_an_earlier_session(
    run_ladder: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no template")

    rung = "--convspec-rungs", "dense_baseline", "--convspec-seeds", "1"
    _, folder = run_ladder(None, *rung)
    assert (folder / "index.html").exists()
    monkeypatch.setattr(html, "write", broken)
    terminal, _ = run_ladder(None, *rung)
    assert "index.html could not be written: RuntimeError: no template" in terminal
    assert "report: " not in terminal
    assert not (folder / "index.html").exists()


def test_an_argument_that_is_a_path_is_recorded_as_text(pytester: pytest.Pytester) -> None:
    session = pytester.parseconfigure().stash[SESSION]
    arguments: Any = [Path("benchmarks")]
    session.config.invocation_params = pytest.Config.InvocationParams(args=arguments, plugins=None, dir=pytester.path)
    assert summary.write_report(session, "failed", [], None) == []
    assert page_and_record(session.folder)[1]["command"] == ["pytest", "benchmarks"]


def test_a_model_is_found_where_its_training_left_it(
    pytester: pytest.Pytester, few_shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = pytester.parseconfigure("--convspec-report", str(pytester.path)).stash[SESSION]
    monkeypatch.setattr(Session, "dataset", lambda *_: few_shapes)
    recipe = replace(find_recipe("dense_baseline", "mini"), epochs=1, steps=1)
    run = run_module.run_recipe(recipe, few_shapes, 1, session.folder)
    assert [session.model(run)] == [*(session.folder / "models").iterdir()]
