"""The pytest face: what a user types, and what the terminal answers."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from builders import result as result_of

from convspec.data import shapes

ROOT = Path(__file__).parents[2]
LADDER = str(ROOT / "benchmarks" / "test_ladder.py")
OPTIONS = (
    "--scale", "--dataset", "--data-root", "--weights", "--rungs", "--seeds", "--require-gpu", "--require-data",
    "--strict-images", "--update-baselines", "--report",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVSPEC_DATA", raising=False)


@pytest.fixture
def few_pictures(tmp_path: Path) -> Path:
    """A user's folder: two classes of 12 pictures."""
    pictures, labels = shapes.pictures(shapes.TARGETS, 12, seed=1)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        folder = tmp_path / "holiday" / ("fish", "key")[label]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return tmp_path / "holiday"


def lines(result: pytest.RunResult) -> str:
    return "\n".join(result.outlines + result.errlines)


def test_help_explains_every_option_in_one_group(pytester: pytest.Pytester) -> None:
    text = lines(pytester.runpytest("--help"))
    group = re.search(r"\nconvspec:.*?\n(?=\S|\n\S)|transfer learning with convnets:.*?\n(?=\S)", text, re.DOTALL)
    assert group, "pytest --help should have a group for convspec"
    missing = [option for option in OPTIONS if not re.search(rf"\n\s+{option}\b", group.group())]
    assert not missing, f"no help for {missing}"


def test_a_run_that_does_not_use_convspec_imports_nothing_heavy_and_says_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_imports():
            heavy = {"keras", "tensorflow", "torch", "jax", "numpy", "cv2", "scipy", "matplotlib", "PIL"}
            assert "convspec.plugin.hooks" in sys.modules
            assert not heavy & set(sys.modules)
        """
    )
    # Hypothesis and benchmark plugins import some of these themselves.
    result = pytester.runpytest_subprocess(
        "-p", "no:benchmark", "-p", "no:hypothesispytest", "-p", "no:xdist", "-p", "no:pytester", "-p", "no:randomly"
    )
    result.assert_outcomes(passed=1)
    assert "convspec:" not in lines(result)


def test_the_plugin_takes_less_than_a_tenth_of_a_second_to_import() -> None:
    code = (
        "import pytest, time; start = time.perf_counter(); import convspec.plugin; print(time.perf_counter() - start)"
    )
    seconds = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(5)]
    assert min(seconds) < 0.1, (
        f"importing convspec.plugin took {min(seconds):.3f} s at best: what heavy module came in?"
    )


def test_the_header_shows_what_the_options_resolved_to(pytester: pytest.Pytester, tmp_path: Path) -> None:
    text = lines(pytester.runpytest("--seeds", "3", "--data-root", str(tmp_path), "--report", "out"))
    assert "convspec: scale mini, dataset each rung its own, seeds 0-2" in text
    assert f"convspec: data folder {tmp_path}, report folder {pytester.path / 'out'}" in text
    assert re.search(r"convspec: keras [\d.]+ on \w+, device .+, threads \d+", text)


def test_the_variable_overrides_the_data_root(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSPEC_DATA", str(tmp_path / "variable"))
    text = lines(pytester.runpytest("--data-root", str(tmp_path / "option")))
    assert f"data folder {tmp_path / 'variable'}" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--rungs", "fine_tune"], "unknown rung 'fine_tune' at scale mini; choose from dense_baseline, "),
        (["--dataset", "nowhere"], "no dataset or folder 'nowhere': give shapes, mnist, dogs_vs_cats, or a folder"),
        (["--weights", "nowhere.h5"], "--weights: no file 'nowhere.h5'; give a file, or imagenet"),
        (["--seeds", "0"], "must be a whole number from 1 up, got '0'"),
        (["--seeds", "many"], "must be a whole number from 1 up, got 'many'"),
        (["--scale", "huge"], "invalid choice: 'huge'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_work_is_a_usage_error_in_one_line(
    arguments: list[str], expected: str, pytester: pytest.Pytester
) -> None:
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert expected in lines(result)
    assert "Traceback" not in lines(result)


def test_without_a_gpu_require_gpu_fails_and_says_so(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convspec import backend

    monkeypatch.setattr(backend, "accelerators", list)
    pytester.makepyfile("def test_passes(): pass")
    result = pytester.runpytest_inprocess("--require-gpu")
    assert result.ret != pytest.ExitCode.OK
    assert "--require-gpu: the Keras backend sees no GPU on this machine" in lines(result)


def test_with_a_gpu_require_gpu_runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    from convspec import backend

    monkeypatch.setattr(backend, "accelerators", lambda: ["a GPU"])
    pytester.makepyfile("def test_passes(): pass")
    pytester.runpytest_inprocess("--require-gpu").assert_outcomes(passed=1)


def test_a_projects_own_names_are_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = full: theirs")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def recipe():
            return "pancakes"

        @pytest.mark.full
        @pytest.mark.parametrize("rung", ["upper", "lower"])
        def test_theirs(recipe, rung):
            assert recipe == "pancakes"
        """
    )
    pytester.runpytest().assert_outcomes(passed=2)


def test_a_bases_weights_are_its_own_file_in_the_data_folder(pytester: pytest.Pytester, tmp_path: Path) -> None:
    from convspec.ladder.rungs import find_recipe
    from convspec.models import MINI_WEIGHTS
    from convspec.plugin.session import SESSION

    (tmp_path / "vgg16_notop.weights.h5").touch()
    session = pytester.parseconfigure("--data-root", str(tmp_path)).stash[SESSION]
    assert session.weights(find_recipe("fine_tuned", "full")) == str(tmp_path / "vgg16_notop.weights.h5")
    assert session.weights(find_recipe("fine_tuned", "mini")) == str(MINI_WEIGHTS)
    assert session.weights(find_recipe("from_scratch", "full")) is None


def test_a_recipes_pictures_have_its_size_and_are_loaded_once_a_session(
    pytester: pytest.Pytester, few_pictures: Path
) -> None:
    from convspec.ladder.rungs import find_recipe
    from convspec.plugin.session import SESSION

    session = pytester.parseconfigure("--dataset", str(few_pictures)).stash[SESSION]
    large, small = (find_recipe(name, scale) for name, scale in (("from_scratch", "mini"), ("mnist_convnet", "full")))
    assert session.dataset(large).train.images.shape[1:] == (48, 48, 3)
    assert session.dataset(small).train.images.shape[1:] == (28, 28, 3)
    assert session.dataset(large) is session.dataset(large)


def test_a_session_with_an_augmented_rung_shows_the_views_and_one_without_does_not(
    pytester: pytest.Pytester, few_pictures: Path
) -> None:
    from convspec.plugin.session import SESSION
    from convspec.plugin.summary import write_report

    session = pytester.parseconfigure("--dataset", str(few_pictures), "--report", str(pytester.path)).stash[SESSION]
    for rung, shown in (("from_scratch", False), ("augmented", True)):
        session.runs[rung] = [result_of(rung, "mini", 0.8)]
        write_report(session)
        assert (pytester.path / "views-holiday.png").is_file() == shown, rung


def ladder(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """The benchmarks as a user of the installed plugin runs them, from a folder of their own."""
    return pytester.runpytest_inprocess(LADDER, "--rootdir", str(pytester.path), "-p", "no:cacheprovider", *arguments)


def fresh_ladder(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """The same in a process of its own."""
    return pytester.runpytest_subprocess(LADDER, "--rootdir", str(pytester.path), "-p", "no:cacheprovider", *arguments)


@pytest.mark.parametrize("rung", ["dense_baseline", "from_scratch"])
def test_missing_pictures_are_a_skip_that_says_how_to_get_them(rung: str, pytester: pytest.Pytester) -> None:
    arguments = ("--scale", "full", "--rungs", rung, "--data-root", str(pytester.path), "-rs", "-k", "test_rung[")
    result = ladder(pytester, *arguments)
    result.assert_outcomes(skipped=1)
    name, wanted = {"dense_baseline": ("MNIST", "mnist"), "from_scratch": ("Dogs vs. Cats", "dogs_vs_cats")}[rung]
    skip = [line for line in result.outlines if line.startswith("SKIPPED")]
    assert len(skip) == 1
    assert name in skip[0]
    assert f"get it with `convspec fetch {wanted}" in skip[0]


def test_missing_pictures_fail_under_require_data(pytester: pytest.Pytester) -> None:
    arguments = ("--scale", "full", "--rungs", "dense_baseline", "--data-root", str(pytester.path), "-k", "test_rung[")
    result = ladder(pytester, "--require-data", *arguments)
    result.assert_outcomes(failed=1)
    assert "MNIST is not at" in lines(result)
    assert "Traceback" not in lines(result)


@pytest.mark.slow
def test_the_ladder_runs_on_a_users_own_folder_and_ends_in_table_picture_and_record(
    pytester: pytest.Pytester, few_pictures: Path
) -> None:
    result = fresh_ladder(
        pytester, "--dataset", str(few_pictures), "--rungs", "feature_extraction,dense_baseline", "--seeds", "2"
    )
    assert result.ret == pytest.ExitCode.OK
    text = lines(result)
    assert re.search(r"dense_baseline +- +0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\].* 2 +[\d.]+ +\d+ +- +\d+\n", text)
    assert text.index("dense_baseline  ") < text.index("feature_extraction  "), "in the ladder's order"
    assert (pytester.path / ".convspec" / "ladder.json").is_file()
    for name in ("ladder", "samples-holiday"):
        assert (pytester.path / ".convspec" / f"{name}.png").is_file(), name
    assert len(list((pytester.path / ".convspec" / "models").glob("*.keras"))) == 4
    assert not list((pytester.path / ".convspec" / "unfinished").iterdir())


def test_with_benchmarks_disabled_every_seed_still_runs(pytester: pytest.Pytester, few_pictures: Path) -> None:
    arguments = ("--dataset", str(few_pictures), "--rungs", "dense_baseline", "--seeds", "2", "--benchmark-disable")
    assert ladder(pytester, *arguments).ret == pytest.ExitCode.OK
    record = json.loads((pytester.path / ".convspec" / "ladder.json").read_text())
    assert [run["seed"] for run in record["runs"]] == [0, 1]


@pytest.mark.slow
def test_a_picture_that_is_none_is_skipped_counted_and_named(pytester: pytest.Pytester, few_pictures: Path) -> None:
    (few_pictures / "fish" / "notes.jpg").write_text("not a picture")
    result = fresh_ladder(pytester, "--dataset", str(few_pictures), "--rungs", "dense_baseline", "--seeds", "1")
    assert result.ret == pytest.ExitCode.OK
    assert re.search(r"holiday: 1 file left out\n +'.*notes.jpg' is not a readable picture", lines(result))


def test_under_strict_images_the_first_file_that_is_no_picture_fails_in_one_line(
    pytester: pytest.Pytester, few_pictures: Path
) -> None:
    (few_pictures / "fish" / "notes.jpg").write_text("not a picture")
    result = ladder(
        pytester, "--dataset", str(few_pictures), "--strict-images", "--rungs", "dense_baseline", "-k", "test_rung["
    )
    result.assert_outcomes(failed=1)
    assert "notes.jpg' is not a readable picture" in lines(result)
    assert "Traceback" not in lines(result)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: [file.unlink() for file in (folder / "key").iterdir()], "the class 'key' is empty"),
        (lambda folder: (folder / "key").rename(folder.parent / "key"), "has only the class 'fish'; give at least two"),
    ],
    ids=["empty class", "single class"],
)
def test_a_folder_that_is_no_problem_to_classify_fails_in_one_line(
    spoil: Callable[[Path], object], expected: str, pytester: pytest.Pytester, few_pictures: Path
) -> None:
    spoil(few_pictures)
    result = ladder(
        pytester, "--dataset", str(few_pictures), "--rungs", "dense_baseline", "--seeds", "1", "-k", "test_rung["
    )
    result.assert_outcomes(failed=1)
    assert expected in lines(result)
    assert "Traceback" not in lines(result)


def test_weights_of_another_architecture_fail_in_one_line(pytester: pytest.Pytester, few_pictures: Path) -> None:
    (pytester.path / "wrong.weights.h5").write_text("not weights")
    result = ladder(
        pytester, "--dataset", str(few_pictures), "--rungs", "feature_extraction", "--seeds", "1", "-k", "test_rung[",
        "--weights", "wrong.weights.h5",
    )  # fmt: skip
    result.assert_outcomes(failed=1)
    assert "'wrong.weights.h5' does not hold the weights of a mini base without its top" in lines(result)
    assert "Traceback" not in lines(result)


@pytest.mark.slow
def test_a_session_that_was_cut_off_keeps_its_finished_runs_and_the_next_one_goes_on(
    pytester: pytest.Pytester, few_pictures: Path
) -> None:
    pytester.makeconftest(
        """
        from convspec import recipes

        run = recipes.run

        def run_twice(recipe, dataset, seed, *arguments, **options):
            if seed == 2:
                raise KeyboardInterrupt
            return run(recipe, dataset, seed, *arguments, **options)

        recipes.run = run_twice
        """
    )
    arguments = ("--dataset", str(few_pictures), "--rungs", "dense_baseline", "--seeds", "3")
    broken = fresh_ladder(pytester, "-p", "conftest", *arguments)
    assert broken.ret == pytest.ExitCode.INTERRUPTED
    kept = sorted((pytester.path / ".convspec" / "unfinished").iterdir())
    assert len(kept) == 2
    texts = [file.read_text() for file in kept]
    (pytester.path / "conftest.py").unlink()
    resumed = fresh_ladder(pytester, *arguments)
    assert resumed.ret == pytest.ExitCode.OK
    record = (pytester.path / ".convspec" / "ladder.json").read_text()
    assert all(text in record for text in texts), "the kept runs stand in the record as they were"
    assert record.count('"test_accuracy"') == 3 + 1, "three runs and their summary"
