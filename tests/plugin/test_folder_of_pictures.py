"""The ladder on somebody's folder: its reading by --convspec-layout, and the recommendation at the end."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import LADDER, lines, result
from PIL import Image

from convspec.cli.main import main
from convspec.ladder import learning_curve
from convspec.ladder.recipe import Recipe
from convspec.plugin import summary
from convspec.plugin.session import SESSION


@pytest.fixture
def pictures(pytester: pytest.Pytester) -> Path:
    """Return a folder of dark and bright noise, and a picture in `test`, so that it can be read in two ways."""
    folder = pytester.path / "pictures"
    for label, darkest in (("bright", 128), ("dark", 0)):
        (folder / label).mkdir(parents=True)
        for number in range(48):
            rng = np.random.default_rng([darkest, number])
            Image.fromarray(rng.integers(darkest, darkest + 128, (40, 40, 3), np.uint8)).save(
                folder / label / f"{number:02d}.png"
            )
    (folder / "test").mkdir()
    Image.effect_noise((40, 40), 50).save(folder / "test" / "loose.png")
    return folder


def run_ladder(pytester: pytest.Pytester, *arguments: str) -> tuple[str, str, dict[str, Any]]:
    """Return what the terminal shows, the page's text and the record of the ladder on the folder."""
    shown = pytester.runpytest_inprocess(
        LADDER, f"--rootdir={pytester.path}", "-p", "no:cacheprovider", "--convspec-dataset=pictures",
        "--convspec-mode=fast", "--convspec-seeds=1", "-k", "test_rung[", *arguments,
    )  # fmt: skip
    folder = pytester.path / ".convspec"
    page = re.sub(r"\s+", " ", (folder / "index.html").read_text(encoding="utf-8"))
    return lines(shown), page, json.loads((folder / "ladder.json").read_text())


@pytest.mark.parametrize("option", ["--seeds", "--convspec-seeds"])
def test_the_command_refuses_an_impossible_value_under_its_own_name(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ladder", "pictures", option, "0"])
    assert ended.value.code == 2
    expected = f"convspec ladder: error: argument {option}: must be a whole number from 1 up, got '0'"
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_is_read_by_the_layout_and_ends_in_advice_that_runs(
    pytester: pytest.Pytester, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = pictures / "dark" / "20.png"
    cut.write_bytes(cut.read_bytes()[:-400])
    rungs = "--convspec-rungs=dense_baseline,feature_extraction"
    terminal, page, record = run_ladder(pytester, "--convspec-layout=parts", "--convspec-truncated=fill", rungs)
    for text in (terminal, page.replace("&#39;", "'")):
        assert "read in part: 1 ('pictures/dark/20.png' is read as far as it goes: image file is truncated" in text
        assert "pictures: 1 file read in part" in text
    for run in record["runs"]:
        assert ["pictures/dark/20.png" in line for line in run["dataset"]["incomplete"]] == [True]
    reading = [line for line in record["reading"] if line.startswith("  bright: ")]
    assert reading == ["  bright: 24 train, 12 validation, 12 test"]
    assert reading[0] in terminal.splitlines()
    assert reading[0].strip() in page
    advice = record["recommendation"]
    assert advice["curve"]["pictures"] == [12, 24, 48]
    markdown = (pytester.path / ".convspec" / "ladder.md").read_text(encoding="utf-8")
    ending = terminal.split("= recommendation =")[1]
    for line in (*advice["lines"], *advice["code"]):
        assert line in ending
        assert line in page.replace("&#39;", "'")
        assert line in markdown
    monkeypatch.chdir(pytester.path)
    capsys.readouterr()
    exec("\n".join(advice["code"]))
    given = eval(capsys.readouterr().out)
    assert f"pictures/{max(given, key=given.get)}/" in advice["code"][1], "the picture is of the class that it is given"


def test_a_folder_with_two_readings_is_told_so_and_not_trained_on(pytester: pytest.Pytester, pictures: Path) -> None:
    shown = pytester.runpytest_inprocess(
        LADDER, f"--rootdir={pytester.path}", "-p", "no:cacheprovider", "--convspec-dataset=pictures"
    )
    assert shown.ret == pytest.ExitCode.USAGE_ERROR
    assert sum("choose with --convspec-layout classes or --convspec-layout parts" in line for line in shown.errlines)


def test_what_a_learning_curve_lacks_is_told_beside_the_rest(pytester: pytest.Pytester, pictures: Path) -> None:
    session = pytester.parseconfigure("--convspec-dataset=pictures", "--convspec-layout=parts").stash[SESSION]
    labels = [0, 1] * 500
    for rung in ("dense_baseline", "mnist_convnet"):
        run = replace(result(rung, "mini", 1.0), test_labels=labels, predicted=labels)
        session.runs[rung] = [replace(run, test_names=["bright/00.png"] * 1000)]
    advice = summary._recommend(session)
    assert advice is not None
    assert (advice["rung"], advice["curve"], len(advice["code"])) == ("dense_baseline", None, 2)
    assert advice["lines"][-1] == "No rung with a base ran, so that there is no learning curve on its features."


def test_the_first_line_of_the_advice_says_that_a_probe_would_be_better(
    pytester: pytest.Pytester, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the line that the page begins with."""
    session = pytester.parseconfigure("--convspec-dataset=pictures", "--convspec-layout=parts").stash[SESSION]
    labels = [0, 1] * 500
    for rung in ("dense_baseline", "feature_extraction"):
        run = replace(result(rung, "mini", 0.9), test_labels=labels, predicted=[*labels[:900], *labels[1:101]])
        session.runs[rung] = [replace(run, test_names=["bright/00.png"] * 1000)]
    curve = learning_curve.LearningCurve("mini", [1, 2, 4], [[0.8], [0.9], [0.95]], [learning_curve.Gain(0, 0, 0)] * 2)
    monkeypatch.setattr(summary, "_learning_curve", lambda _: curve)
    advice = summary._recommend(session)
    assert advice is not None
    assert advice["lines"][0].startswith("Use dense_baseline. But a linear probe on mini's features gets 0.950 of the")
    assert advice["lines"][-2].startswith("More pictures: ")


def test_a_learning_curve_is_on_pictures_of_the_size_that_its_base_takes(
    pytester: pytest.Pytester, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--convspec-dataset=pictures", "--convspec-layout=parts", "--convspec-base=xception"
    session, recipes = pytester.parseconfigure(*options).stash[SESSION], list[Recipe]()
    recipe = session.recipe("frozen_end_to_end")
    session.runs[recipe.name] = [replace(result(recipe.name, "mini", 1.0), recipe=recipe)]
    monkeypatch.setattr(learning_curve, "learning_curve", lambda recipe, *_, **__: recipes.append(recipe))
    summary._learning_curve(session)
    assert [(recipe.model, recipe.base, recipe.size) for recipe in recipes] == [("linear_probe", "xception", 71)]
