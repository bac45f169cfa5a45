"""The gate as a user meets it: what fails, what it says, the exit code, and what a machine can read."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from PIL import Image

from convspec import BadInput
from convspec.accuracy import judgement
from convspec.accuracy.baselines import write
from convspec.data.datasets import Dataset
from convspec.ladder import run as run_module
from convspec.ladder import rungs
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.plugin.session import SESSION, Session
from convspec.plugin.verdicts import NO_BASELINE, REGRESSED
from convspec.report import images, tables

ROOT = Path(__file__).parents[2]
MODEL = """
import numpy as np

labels = np.arange(1000) % 2
rng = np.random.default_rng({generator})

def test_model(accuracy_gate):
    wrong = rng.random(({runs}, 1000)) < np.where(np.arange(1000) < {hard}, 0.3, 0.001)
    accuracy_gate("model", np.where(wrong, 1 - labels, labels), labels)
"""


def run(pytester: pytest.Pytester, *arguments: str, hard: int = 20, generator: int = 0, runs: int = 5) -> str:
    """One run of the test above: the pictures below `hard` are often wrong. Returns what the terminal shows."""
    pytester.makepyfile(test_model=MODEL.format(hard=hard, generator=generator, runs=runs))
    pytester.result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)  # type: ignore[attr-defined]
    return "\n".join(pytester.result.outlines + pytester.result.errlines)  # type: ignore[attr-defined]


def code(pytester: pytest.Pytester) -> int:
    return int(pytester.result.ret)  # type: ignore[attr-defined]


def baselines(pytester: pytest.Pytester) -> dict[str, str]:
    folder = pytester.path / "fixtures" / "baselines"
    return {file.name: file.read_text() for file in folder.rglob("*.json")}


def test_a_first_run_writes_the_baseline_and_fails_with_the_words_to_say_so(pytester: pytest.Pytester) -> None:
    text = run(pytester)
    assert code(pytester) == NO_BASELINE == 11
    assert "no baseline yet of model" in text
    assert re.search(r"These runs are the baseline from now on: look at '.*baselines', keep it under version", text)
    assert len(baselines(pytester)) == 5


def test_the_same_runs_again_pass_and_say_what_they_were_held_against_and_why(pytester: pytest.Pytester) -> None:
    run(pytester)
    written = baselines(pytester)
    text = run(pytester)
    assert code(pytester) == pytest.ExitCode.OK
    assert "model: pass: 0.99" in text
    here = f"{keras.backend.backend()}-cpu"
    assert f"against {here}, seeds 0, 1, 2, 3, 4: the environment of this run" in text
    assert baselines(pytester) == written, "without --update-baselines nothing is written"


def test_a_regression_fails_with_its_own_exit_code_and_names_what_flipped(pytester: pytest.Pytester) -> None:
    run(pytester)
    text = run(pytester, hard=150, generator=1)
    assert code(pytester) == REGRESSED == 10
    assert re.search(r"model: regressed: 0\.95\d against 0\.99\d, -\d\.\d points", text)
    flipped = re.search(r"flipped most consistently: (\d+) \(-[\d.]+\)", text)
    assert flipped, "the pictures that flipped should be named"
    assert 20 <= int(flipped[1]) < 150, "those that became hard"
    assert "changed: neither versions nor machine" in text


def test_another_failure_beside_a_regression_keeps_pytests_own_exit_code(pytester: pytest.Pytester) -> None:
    run(pytester)
    pytester.makepyfile(test_other="def test_other(): assert False")
    run(pytester, hard=150, generator=1)
    assert code(pytester) == pytest.ExitCode.TESTS_FAILED


def test_a_regression_beside_a_missing_baseline_is_a_regression(pytester: pytest.Pytester) -> None:
    run(pytester)
    pytester.makepyfile(test_new=MODEL.format(hard=20, generator=0, runs=2).replace('"model"', '"other"'))
    run(pytester, hard=150, generator=1)
    assert code(pytester) == REGRESSED


def test_too_few_runs_are_a_skip_that_says_what_would_have_been_seen(pytester: pytest.Pytester) -> None:
    run(pytester, runs=2, hard=500)
    text = run(pytester, "-rs", runs=2, hard=500, generator=1)
    assert code(pytester) == pytest.ExitCode.OK
    assert re.search(r"SKIPPED.*model: underpowered", text)
    assert re.search(r"smallest drop that would have been seen: \d+\.\d points", text)
    assert re.search(r"\d+ more baseline runs and \d+ more runs would see 1\.0", text)


def test_a_wider_margin_lets_more_pass(pytester: pytest.Pytester) -> None:
    run(pytester)
    run(pytester, hard=150, generator=1)
    assert code(pytester) == REGRESSED
    text = run(pytester, "--margin", "0.1", hard=150, generator=1)
    assert code(pytester) == pytest.ExitCode.OK, text


def test_under_update_baselines_runs_are_added_after_they_were_held_against_the_old_ones(
    pytester: pytest.Pytester,
) -> None:
    run(pytester)
    before = baselines(pytester)
    text = run(pytester, "--update-baselines", hard=150, generator=1, runs=6)
    assert code(pytester) == pytest.ExitCode.OK
    assert "model: regressed" in text, "the old ones, so that the reviewer of the update sees it"
    after = baselines(pytester)
    assert len(after) == 6
    assert all(after[name] != before[name] for name in before)
    assert run(pytester, hard=150, generator=1, runs=6)
    assert code(pytester) == pytest.ExitCode.OK


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(", 0, 1, 0", ", 0, 1, 1", 1),
        lambda text: f"<<<<<<< ours\n{text}",
        lambda text: text.replace('"schema": 1', '"schema": 99'),
        lambda text: "[]",
    ],
    ids=["cut short", "edited", "in conflict", "of another schema", "of another kind"],
)
def test_a_baseline_that_is_not_sound_is_one_clear_error_and_never_a_pass(
    spoil: Callable[[str], str], pytester: pytest.Pytester
) -> None:
    run(pytester)
    file = next((pytester.path / "fixtures" / "baselines").rglob("*seed3.json"))
    spoiled = spoil(file.read_text())
    assert spoiled != file.read_text()
    file.write_text(spoiled)
    text = run(pytester)
    assert code(pytester) == pytest.ExitCode.TESTS_FAILED
    assert re.search(r"baseline '.*model-.*seed3\.json': .*--update-baselines", text)
    assert "Traceback" not in text


def test_junit_xml_carries_verdict_and_figures_as_properties(pytester: pytest.Pytester) -> None:
    run(pytester)
    run(pytester, "--junit-xml", "junit.xml", hard=150, generator=1)
    tree = ElementTree.parse(pytester.path / "junit.xml")
    found = {entry.attrib["name"]: entry.attrib["value"] for entry in tree.iter("property")}
    assert found["outcome"] == "regressed"
    assert found["rung"] == "model"
    assert float(found["change"]) == pytest.approx(float(found["new"]) - float(found["baseline"]))
    assert float(found["low"]) < float(found["change"]) < float(found["high"])
    assert float(found["margin"]) == 0.01
    assert found["flips"] == "change"


def test_a_changed_test_set_is_said_not_to_be_comparable_and_is_not_compared(pytester: pytest.Pytester) -> None:
    run(pytester)
    written = baselines(pytester)
    pytester.makepyfile(test_model=MODEL.format(hard=20, generator=0, runs=5).replace("% 2", "% 2 == 0"))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    text = "\n".join(result.outlines)
    assert int(result.ret) == NO_BASELINE
    assert "no comparable baseline of model" in text
    assert "not comparable, the dataset's fingerprint is" in text
    assert "To compare runs with these from now on: --update-baselines" in text
    assert baselines(pytester) == written, "what cannot be compared is not replaced unasked"
    assert int(pytester.runpytest_inprocess("-p", "no:cacheprovider", "--update-baselines").ret) == pytest.ExitCode.OK
    assert int(pytester.runpytest_inprocess("-p", "no:cacheprovider").ret) == pytest.ExitCode.OK


@pytest.mark.slow
def test_the_example_in_the_documentation_writes_its_baseline_and_then_passes(pytester: pytest.Pytester) -> None:
    shutil.copy(ROOT / "examples" / "test_digits.py", pytester.path)
    assert int(pytester.runpytest_inprocess("-p", "no:cacheprovider").ret) == NO_BASELINE
    assert int(pytester.runpytest_inprocess("-p", "no:cacheprovider").ret) == pytest.ExitCode.OK


def test_predictions_and_labels_of_different_pictures_are_refused() -> None:
    with pytest.raises(BadInput, match=r"mine: predicted, .* got shapes \(1, 3\), \(1, 3\), \(4,\) and 4 names"):
        judgement.results_from_predictions("mine", np.zeros(3), np.zeros(4))


def test_classes_may_have_names() -> None:
    (found,) = judgement.results_from_predictions(
        "mine", ["cat", "dog", "dog"], ["cat", "cat", "dog"], confidence=[0.9, 0.6, 0.8]
    )
    assert found.dataset["classes"] == ["cat", "dog"]
    assert (found.predicted, found.test_labels) == ([0, 1, 1], [0, 0, 1])
    assert found.test_accuracy == pytest.approx(2 / 3)
    assert found.confidence == [0.9, 0.6, 0.8]


def test_each_row_of_predictions_is_the_run_of_one_seed() -> None:
    found = judgement.results_from_predictions("mine", [[0, 1], [1, 1]], [0, 1])
    assert [(run.seed, run.test_accuracy) for run in found] == [(0, 1.0), (1, 0.5)]
    assert json.loads(json.dumps(found[0].as_dict()))["recipe"]["name"] == "mine"


@pytest.fixture
def session(pytester: pytest.Pytester) -> Session:
    return pytester.parseconfigure("--seeds", "auto").stash[SESSION]


def climbed(session: Session, drop: float, deviation: float, monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """Under --seeds auto, where a run gets 0.9 right, give or take `deviation`, and those after the baseline less."""
    recipe = rungs.find_recipe("fine_tuned", "mini")
    rng, labels = np.random.default_rng(0), np.zeros(1000, int)

    def run(recipe: Recipe, dataset: object, seed: int, *_: object, **__: object) -> Result:
        wrong = round(1000 * (0.1 + (drop if written else 0.0) + rng.normal(0, deviation)))
        (result,) = judgement.results_from_predictions("model", (np.arange(1000) < wrong).astype(int), labels)
        return replace(result, seed=seed)

    monkeypatch.setattr(run_module, "run", run)
    monkeypatch.setattr(Session, "dataset", lambda *_: None)
    monkeypatch.setattr(Session, "unfinished", lambda self, recipe, seed: self.folder / f"{len(written)}-{seed}.json")
    written: list[Path] = []
    written = [write(session.settings.baselines, session.run(recipe, seed)) for seed in range(5)]
    return session.run_all_seeds(recipe)


@pytest.mark.parametrize(("drop", "deviation", "expected"), [(0.0, 0.002, 3), (0.05, 0.002, 3), (0.01, 0.02, 12)])
def test_seeds_auto_adds_seeds_until_the_verdict_is_certain_or_there_are_twelve(
    drop: float, deviation: float, expected: int, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = climbed(session, drop, deviation, monkeypatch)
    assert [run.seed for run in runs] == list(range(expected))


def test_each_look_of_seeds_auto_takes_its_share_of_the_error(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = climbed(session, 0.0, 0.002, monkeypatch)
    lows = [
        verdict.low
        for verdict in (judgement.judge(session.settings.baselines, runs).verdict, session.judge(runs).verdict)
        if verdict
    ]
    assert lows[1] < lows[0], "the interval of one of four looks is wider"


def test_the_markdown_summary_has_a_row_and_a_verdict_for_each_rung(tmp_path: Path) -> None:
    runs = {
        rung: judgement.results_from_predictions(rung, np.arange(200).reshape(2, 100) % 2, np.arange(100) % 2)
        for rung in ("one", "other")
    }
    for run in runs["one"]:
        write(tmp_path / "baselines", run)
    judged = [judgement.judge(tmp_path / "baselines", group) for group in runs.values()]
    tables.markdown({name: finished(group) for name, group in runs.items()}, judged, tmp_path / "ladder.md")
    text = (tmp_path / "ladder.md").read_text()
    assert re.search(r"^\| one \|.* \| 1\.000 .* \| \*\*pass\*\* \|$", text, re.MULTILINE)
    assert re.search(r"^\| other \|.* \*\*missing\*\* \|$", text, re.MULTILINE)
    assert "- other: no baseline yet of other" in text


def finished(runs: list[Result]) -> list[Result]:
    """With what a rung's own runs have beside that."""
    return [
        replace(run, history={"accuracy": [1.0]}, seconds={"train": 1.0}, images_per_second=1.0, peak_memory_mib=1)
        for run in runs
    ]


def test_the_contact_sheet_shows_the_pictures_that_flipped_most_consistently_first(
    tmp_path: Path, few_shapes: Dataset
) -> None:
    labels = few_shapes.test.labels
    before = np.tile(labels, (5, 1))
    after = before.copy()
    after[:, 7] = 1 - after[:, 7]
    after[:2, 3] = 1 - after[:2, 3]
    sides = [judgement.results_from_predictions("model", side, labels) for side in (before, after)]
    for run in sides[0]:
        write(tmp_path / "baselines", run)
    found = judgement.judge(tmp_path / "baselines", sides[1])
    assert found.flips is not None
    assert found.flips.pictures == (7, 3)
    images.flipped(few_shapes, found, tmp_path / "flipped.png")
    with Image.open(tmp_path / "flipped.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    colours = pixels.reshape(-1, 3)
    for place in found.flips.pictures:
        picture = few_shapes.test.images[place].reshape(-1, 3)
        shown = [(np.abs(colours - pixel.astype(int)).max(axis=1) < 8).any() for pixel in picture[::97]]
        assert np.mean(shown) > 0.9, f"picture {place} should be on the sheet"
