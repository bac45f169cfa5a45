"""The ladder by the plugin: what ends a session or fails a rung, and what a session leaves behind."""

import json
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from builders import LADDER, lines, put_shapes, result_with_history
from PIL import Image

from convspec import models
from convspec.cli.main import main
from convspec.data import folders
from convspec.ladder import run as run_module
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.plugin import summary
from convspec.plugin.session import Session
from convspec.plugin.verdicts import NO_BASELINE, REGRESSED
from convspec.report import html, tables
from convspec.timings import compare

pytestmark = pytest.mark.usefixtures("no_real_data")
NCNN = pytest.mark.skipif(not find_spec("ncnn"), reason="needs ncnn: pip install -e '.[ncnn]'")


@pytest.fixture
def few_pictures(tmp_path: Path) -> Path:
    return put_shapes(tmp_path / "holiday")


def arguments_of(pytester: pytest.Pytester, *arguments: str) -> tuple[str, ...]:
    """Return the command line of the ladder as the user of the installed plugin types it, in a folder of their own."""
    return LADDER, "--rootdir", str(pytester.path), "-p", "no:cacheprovider", *arguments


@pytest.mark.parametrize(
    ("rung", "name", "source"),
    [("dense_baseline", "MNIST", "mnist"), ("from_scratch", "Dogs vs. Cats", "dogs_vs_cats")],
)
def test_missing_pictures_are_a_skip_that_says_how_to_get_them(
    rung: str, name: str, source: str, pytester: pytest.Pytester
) -> None:
    arguments = ["--convspec-scale=full", f"--convspec-rungs={rung}", f"--convspec-data-root={pytester.path}"]
    result = pytester.runpytest_inprocess(*arguments_of(pytester, *arguments, "-rs", "-k", "test_rung["))
    result.assert_outcomes(skipped=1)
    (skip,) = (line for line in result.outlines if line.startswith("SKIPPED"))
    assert name in skip
    assert f"get it with `convspec fetch {source}" in skip


def add_text_file(folder: Path) -> None:
    (folder / "fish" / "notes.jpg").write_text("not a picture")


@pytest.mark.parametrize(
    ("spoil", "arguments", "expected"),
    [
        (add_text_file, "--convspec-strict-images --convspec-rungs dense_baseline",
         "notes.jpg' is not a readable picture"),
        (lambda folder: (folder.parent / "wrong.weights.h5").write_text("not weights"),
         "--convspec-rungs feature_extraction --convspec-weights={}/wrong.weights.h5",
         "wrong.weights.h5' does not hold the weights of a mini base without its top"),
        (lambda folder: None,
         "--convspec-require-data --convspec-rungs dense_baseline --convspec-dataset mnist --convspec-data-root={}",
         "MNIST is not at"),
    ],
    ids=["text file", "weights of another architecture", "missing pictures"],
)  # fmt: skip
def test_unusable_pictures_or_weights_fail_a_rung_in_one_line(
    spoil: Callable[[Path], object], arguments: str, expected: str, pytester: pytest.Pytester, few_pictures: Path
) -> None:
    spoil(few_pictures)
    words = arguments.format(few_pictures.parent).split()
    result = pytester.runpytest_inprocess(
        *arguments_of(
            pytester, "--convspec-seeds", "1", "-k", "test_rung[", f"--convspec-dataset={few_pictures}", *words
        )
    )
    result.assert_outcomes(failed=1)
    assert expected in lines(result)
    assert "Traceback" not in lines(result)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: [file.unlink() for file in (folder / "key").iterdir()], "has only the class 'fish', and no"),
        (lambda folder: (folder / "key").rename(folder.parent / "key"), "has only the class 'fish'; give at least two"),
        (lambda folder: [file.unlink() for file in sorted((folder / "key").iterdir())[3:]], "at least 4 readable"),
    ],
    ids=["empty class", "single class", "small class"],
)
def test_an_unusable_folder_ends_the_session_and_keeps_the_report(
    spoil: Callable[[Path], object], message: str, pytester: pytest.Pytester, few_pictures: Path
) -> None:
    (pytester.mkdir(".convspec") / "index.html").write_text("of another folder")
    spoil(few_pictures)
    result = pytester.runpytest_inprocess(*arguments_of(pytester, f"--convspec-dataset={few_pictures}"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert sum(message in line for line in result.errlines) == 1
    assert "test_rung" not in lines(result)
    assert (pytester.path / ".convspec" / "index.html").read_text() == "of another folder"


@pytest.mark.usefixtures("accuracy")
def test_near_copies_are_looked_for_and_told_only_once_the_ladder_runs(
    pytester: pytest.Pytester, few_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other sessions of a project whose ini file names the pictures would decode them all for nothing."""
    monkeypatch.setattr(html, "write", lambda *_: [])
    Image.open(few_pictures / "fish" / "0.png").save(few_pictures / "fish" / "copy.jpg", quality=95)
    options = f"--convspec-dataset={few_pictures}", "--convspec-rungs=dense_baseline", "--convspec-seeds=1"
    compare_pictures, compared = folders.compare, list[Path]()

    def compare(reading: folders.Reading, *others: Any) -> folders.Reading:
        compared.append(reading.folder)
        return compare_pictures(reading, *others)

    monkeypatch.setattr(folders, "compare", compare)
    listed = lines(pytester.runpytest_inprocess(*arguments_of(pytester, *options, "--collect-only")))
    assert "25 pictures of 2 classes" in listed
    assert not compared
    run = lines(pytester.runpytest_inprocess(*arguments_of(pytester, *options, "-k", "test_rung[")))
    assert compared
    assert run.count("25 pictures of 2 classes") == run.count("near copies: 1 (fish/0.png = fish/copy.jpg)") == 1
    assert run.index("collected ") < run.index("near copies: 1") < run.index("1 passed")


@pytest.mark.usefixtures("accuracy")
def test_the_ladder_runs_without_a_terminal_to_tell_of_near_copies(
    pytester: pytest.Pytester, few_pictures: Path
) -> None:
    Image.open(few_pictures / "fish" / "0.png").save(few_pictures / "fish" / "copy.jpg", quality=95)
    options = f"--convspec-dataset={few_pictures}", "--convspec-rungs=dense_baseline", "-p", "no:terminal"
    result = pytester.runpytest_inprocess(*arguments_of(pytester, *options, "-k", "test_rung["))
    assert result.ret == pytest.ExitCode.OK, lines(result)


def test_the_ladder_is_collected_without_pytests_plugin_of_warnings(pytester: pytest.Pytester) -> None:
    options = "-p", "no:warnings", "--strict-markers", "--collect-only", "-q"
    result = pytester.runpytest_subprocess(*arguments_of(pytester, *options))
    assert result.ret == pytest.ExitCode.OK, lines(result)


def test_required_weights_that_cannot_be_had_end_the_session_first(
    pytester: pytest.Pytester, few_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise Exception("URL fetch failure on https://example.org/mobilenet.h5: None -- Name or service not known")

    monkeypatch.setitem(models.BASES, "mobilenet", offline)
    arguments = f"--convspec-dataset={few_pictures}", "--convspec-base=MobileNet", "--convspec-rungs=feature_extraction"
    result = pytester.runpytest_inprocess(*arguments_of(pytester, *arguments, "--convspec-require-data"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "mobilenet's ImageNet weights are not on this machine and could not be fetched" in "\n".join(result.errlines)
    assert "test_rung" not in lines(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark-only"], "--benchmark-only would leave out rungs or gates of the ladder: leave that option out"),
        (["--benchmark-skip"], "--benchmark-skip would leave out rungs or gates of the ladder: leave that option out"),
        (["--convspec-report=file/report"], "--convspec-report: nothing can be written in '"),
        pytest.param(["--convspec-engine=ncnn", "--convspec-rungs=feature_extraction", "--convspec-base=MobileNet"],
                     "--convspec-engine ncnn computes chains of Conv2D", marks=NCNN),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_ladder_that_could_not_run_is_a_usage_error_in_one_line(
    arguments: list[str], message: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # there pytest-benchmark would refuse first
    (pytester.path / "file").touch()
    options = arguments_of(pytester, "--convspec-rungs=dense_baseline", "--convspec-seeds=1", *arguments)
    result = pytester.runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert sum(line.startswith(f"ERROR: {message}") for line in result.errlines) == 1
    assert "INTERNALERROR" not in lines(result)


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the accuracy, to be changed, of what runs give that train nothing."""
    share = [0.9]

    def run(recipe: Recipe, dataset: object, seed: int, *_: object, **__: object) -> Result:
        return result_with_history(recipe.name, recipe.scale, share[0], seed)

    monkeypatch.setattr(run_module, "run_recipe", run)
    monkeypatch.setattr(Session, "processes", None)  # they would not have this function
    return share


def test_a_gate_alone_trains_its_rung_and_stays_a_failure_until_it_passes(
    pytester: pytest.Pytester, accuracy: list[float], few_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "write_report", lambda *_: [])
    folders = f"--rootdir={pytester.path}", f"--convspec-dataset={few_pictures}"

    def outcome(*arguments: str) -> tuple[int, dict[str, int]]:
        for file in (pytester.path / ".convspec").rglob("*.json"):  # of the session before
            file.unlink()
        result = pytester.runpytest_inprocess(
            LADDER, "--convspec-rungs=dense_baseline", *folders, "-o", "convspec_baselines=kept", *arguments
        )
        return int(result.ret), result.parseoutcomes()

    assert outcome("-k", "is_that_of_the_baseline", "--convspec-update-baselines")[0] == NO_BASELINE
    accuracy[0] = 0.8
    for arguments in (["-k", "test_rung[ or is_that_of_the_baseline"], ["--lf"], ["--lf"], ["--sw", "-x"]):
        code, counts = outcome(*arguments)
        assert counts["failed"] == 1, arguments
        assert code == REGRESSED or "--sw" in arguments, arguments
    accuracy[0] = 0.9
    assert outcome("--lf")[1]["passed"] == 1


def test_a_record_that_cannot_be_written_is_a_line_and_no_internal_error(
    pytester: pytest.Pytester, accuracy: list[float], few_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "record", full)
    options = "--convspec-rungs=dense_baseline", "-k", "test_rung[", f"--convspec-dataset={few_pictures}"
    result = pytester.runpytest_inprocess(*arguments_of(pytester, *options))
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["no report: *No space left on device; another folder for it: --convspec-report=DIR"])
    result.assert_outcomes(passed=1)


@pytest.mark.slow
def test_the_packages_name_collects_the_ladder_from_a_repository_too(pytester: pytest.Pytester) -> None:
    """In a process of its own, without `tests` on its path."""
    options = "--pyargs", "convspec", "--collect-only", "-q", "--convspec-rungs=fine_tuned"
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*test_ladder.py::test_rung?fine_tuned?"])
    assert not (pytester.path / ".convspec").exists()


def test_the_command_ladder_names_tests_by_file_and_makes_no_other_folder(
    pytester: pytest.Pytester, few_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file outside of the root folder that is given itself has the name "", as have its tests in JUnit's XML."""
    results: list[pytest.RunResult] = []

    def run_pytest(arguments: list[str]) -> int:
        results.append(pytester.runpytest_inprocess(*arguments))
        return int(results[0].ret)

    monkeypatch.setattr(pytest, "main", run_pytest)
    options = "--rungs", "fine_tuned", "--", "--collect-only", "-q", "-p", "no:randomly"
    assert main(["ladder", str(few_pictures), *options]) == pytest.ExitCode.OK
    names = [line for line in results[0].outlines if "::" in line]
    assert names[0] == "test_ladder.py::test_rung[fine_tuned]"
    assert all(name.startswith("test_ladder.py::") for name in names)
    assert not (pytester.path / ".benchmarks").exists()  # as pytest-benchmark would make it beside .convspec


def test_the_command_ladder_finds_its_plugin_where_none_is_loaded_unasked(
    pytester: pytest.Pytester, few_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = pytester.run(sys.executable, "-m", "convspec", "ladder", str(few_pictures), "--", "--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK, lines(result)


def test_records_of_timings_lie_in_the_report_folder_of_an_ini_file_too(
    pytester: pytest.Pytester, few_pictures: Path
) -> None:
    """Its ~ is the home folder, as for the report itself."""
    ini = pytester.makeini(f"[pytest]\nconvspec_dataset = {few_pictures}\nconvspec_report = ~/report")
    arguments = arguments_of(pytester, "-c", str(ini), "--import-mode=importlib", "--collect-only")
    assert pytester.runpytest_inprocess(*arguments).ret == pytest.ExitCode.OK
    assert (Path.home() / "report" / "benchmarks").is_dir()
    assert not {path.name for path in pytester.path.iterdir()} & {"~", ".benchmarks", ".convspec"}


@pytest.mark.usefixtures("accuracy")
def test_with_benchmarks_disabled_every_seed_still_runs(
    pytester: pytest.Pytester, few_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "write", lambda *_: [])
    options = "--convspec-rungs=dense_baseline", "--convspec-seeds=2", "--benchmark-disable"
    arguments = f"--convspec-dataset={few_pictures}", *options
    assert pytester.runpytest_inprocess(*arguments_of(pytester, *arguments)).ret == pytest.ExitCode.OK
    record = json.loads((pytester.path / ".convspec" / "ladder.json").read_text())
    assert [run["seed"] for run in record["runs"]] == [0, 1]


def test_a_rung_is_trained_and_saved_where_a_project_has_w_error(
    pytester: pytest.Pytester, few_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "write", lambda *_: [])
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # there pytest-benchmark would time nothing
    options = "--convspec-rungs=dense_baseline", "--convspec-seeds=1", "-W", "error", "-k", "test_rung["
    arguments = arguments_of(pytester, f"--convspec-dataset={few_pictures}", *options, "--benchmark-json=record.json")
    result = pytester.runpytest_inprocess(*arguments, "-p", "no:xdist")
    assert result.ret == pytest.ExitCode.OK, lines(result)
    ((timing,),) = (record.timings.values() for record in compare.read([pytester.path / "record.json"]))
    assert {"recipe", "pictures"} <= timing.work.keys(), "other work would be laid beside it as the same"


@pytest.mark.usefixtures("accuracy")
def test_a_rungs_record_has_every_seed_trained_ahead_or_added_by_auto(
    pytester: pytest.Pytester, few_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_ahead(session: Session, recipe: Recipe) -> list[Result]:
        runs = {other.name: [session.run(other, seed) for seed in range(5)] for other in session.recipes}
        return runs[recipe.name]

    monkeypatch.setattr(html, "write", lambda *_: [])
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # there pytest-benchmark would time nothing
    monkeypatch.setattr(Session, "run_all_seeds", run_ahead)
    options = "--convspec-rungs=dense_baseline,from_scratch", "--convspec-seeds=auto", "-k", "test_rung["
    arguments = arguments_of(pytester, f"--convspec-dataset={few_pictures}", *options, "--benchmark-json=record.json")
    pytester.runpytest_inprocess(*arguments, "-p", "no:xdist")
    (record,) = compare.read([pytester.path / "record.json"])
    assert [len(timing.seconds) for timing in record.timings.values()] == [5, 5]


@pytest.mark.slow
def test_the_ladder_on_a_users_folder_ends_in_table_picture_and_record(
    pytester: pytest.Pytester, few_pictures: Path
) -> None:
    add_text_file(few_pictures)
    options = "--convspec-rungs=feature_extraction,dense_baseline", "--convspec-seeds=2"
    arguments = f"--convspec-dataset={few_pictures}", *options
    result = pytester.runpytest_subprocess(*arguments_of(pytester, *arguments))
    assert result.ret == pytest.ExitCode.OK
    text, folder = lines(result), pytester.path / ".convspec"
    assert re.search(r"dense_baseline +- +0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\].* 2 +[\d.]+ +\d+ +- +\d+\n", text)
    assert text.index("dense_baseline  ") < text.index("feature_extraction  "), "in the ladder's order"
    assert re.search(r"holiday: 1 file left out\n +'.*notes.jpg' is not a readable picture", text)
    for name in ("ladder.json", "ladder.png", "ladder.md", "index.html"):
        assert (folder / name).is_file(), name
    assert len(list((folder / "models").glob("*.keras"))) == 4
    assert not list((folder / "unfinished").iterdir())


@pytest.mark.slow
def test_an_interrupted_session_keeps_finished_runs_for_the_next(pytester: pytest.Pytester, few_pictures: Path) -> None:
    pytester.makeconftest(
        """
        from convspec.ladder import run as module
        from convspec.plugin.session import Session

        Session.processes = None  # others would not be patched
        run = module.run_recipe

        def run_twice(recipe, dataset, seed, *arguments, **options):
            if seed == 2:
                raise KeyboardInterrupt
            return run(recipe, dataset, seed, *arguments, **options)

        module.run_recipe = run_twice
        """
    )
    arguments = arguments_of(
        pytester, f"--convspec-dataset={few_pictures}", "--convspec-rungs", "dense_baseline", "--convspec-seeds", "3"
    )
    assert pytester.runpytest_subprocess("-p", "conftest", *arguments).ret == pytest.ExitCode.INTERRUPTED
    files = sorted((pytester.path / ".convspec" / "unfinished").iterdir())
    kept = [json.loads(file.read_text()) for file in files]
    (pytester.path / "conftest.py").unlink()
    assert pytester.runpytest_subprocess(*arguments).ret == pytest.ExitCode.OK
    record = json.loads((pytester.path / ".convspec" / "ladder.json").read_text())
    assert len(kept) == 2
    assert [run["seconds"] for run in record["runs"]][:2] == [run["seconds"] for run in kept], "as they were"
    assert len(record["runs"]) == 3
