"""The pytest plugin's options: what a user types, what it resolves to, and what the terminal answers."""

import re
from pathlib import Path

import pytest
from builders import lines, put_noise

from convspec.ladder.rungs import find_recipe
from convspec.models import MINI_WEIGHTS
from convspec.plugin.options import Settings
from convspec.plugin.session import SESSION

pytestmark = pytest.mark.usefixtures("no_real_data")
OPTIONS = (
    "--convspec-scale", "--convspec-dataset", "--convspec-data-root", "--convspec-base", "--convspec-weights",
    "--convspec-rungs", "--convspec-mode", "--convspec-precision", "--convspec-devices", "--convspec-engine",
    "--convspec-require-gpu", "--convspec-require-data", "--convspec-strict-images", "--convspec-truncated",
    "--convspec-enforce-timings", "--convspec-layout",
    "--convspec-seeds", "--convspec-margin", "--convspec-measure", "--convspec-update-baselines", "--convspec-report",
)  # fmt: skip


def test_help_explains_every_option_in_one_group(pytester: pytest.Pytester) -> None:
    text = lines(pytester.runpytest("--help"))
    group = re.search(r"\nconvspec:.*?\n(?=\S|\n\S)|transfer learning with convnets:.*?\n(?=\S)", text, re.DOTALL)
    assert group, "pytest --help should have a group for convspec"
    assert set(re.findall(r"\n\s+(--convspec-[a-z-]+)", group.group())) == set(OPTIONS)


def test_the_header_shows_what_the_options_resolved_to(pytester: pytest.Pytester, tmp_path: Path) -> None:
    text = lines(
        pytester.runpytest("--convspec-seeds", "3", f"--convspec-data-root={tmp_path}", "--convspec-report", "out")
    )
    assert "convspec: scale mini, dataset each rung its own, seeds 0-2" in text
    assert f"convspec: data folder {tmp_path}, report folder {pytester.path / 'out'}" in text
    assert re.search(r"convspec: keras [\d.]+ on \w+, device .+, threads \d+", text)


def test_an_empty_value_is_as_none(pytester: pytest.Pytester) -> None:
    """As a variable leaves it that is not set."""
    names = "dataset", "data-root", "base", "weights", "report"
    given = Settings(pytester.parseconfig(*(f"--convspec-{name}=" for name in names)))
    assert vars(given) == vars(Settings(pytester.parseconfig()))


def test_results_go_to_the_folder_where_pytest_was_started(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to the root folder, which may be somebody's project above."""
    monkeypatch.chdir(inner := pytester.mkdir("inner"))
    session = pytester.parseconfigure(f"--rootdir={pytester.path}", "--convspec-seeds=1").stash[SESSION]
    assert session.folder == inner / ".convspec"


def test_the_variable_overrides_the_data_root(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSPEC_DATA", str(tmp_path / "variable"))
    session = pytester.parseconfigure(f"--convspec-data-root={tmp_path / 'option'}").stash[SESSION]
    assert session.data_root == tmp_path / "variable"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--convspec-rungs", "fine_tune"],
            "--convspec-rungs: unknown rung 'fine_tune' at scale mini; choose from dense_baseline, ",
        ),
        (
            ["--convspec-dataset", "nowhere"],
            "--convspec-dataset: no dataset or folder 'nowhere': give shapes, digits, mnist, dogs_vs_cats, or a folder",
        ),
        (["--convspec-base", "vgg61"], "--convspec-base: unknown base 'vgg61'; choose from convnextbase, "),
        (["--convspec-weights", "nowhere.h5"], "--convspec-weights: no file 'nowhere.h5'; give a file, or imagenet"),
        (["--convspec-seeds", "0"], "must be a whole number from 1 up, got '0'"),
        (["--convspec-seeds", "many"], "must be a whole number from 1 up, got 'many'"),
        (["--convspec-margin", "1"], "must be a number between 0 and 1, such as 0.01 for one point, got '1'"),
        (["--convspec-scale", "huge"], "invalid choice: 'huge'"),
        (["--convspec-rungs="], "must be names of rungs, separated by commas, got ''"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_impossible_value_is_a_usage_error_in_one_line(
    arguments: list[str], expected: str, pytester: pytest.Pytester
) -> None:
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert expected in lines(result)
    assert "Traceback" not in lines(result)


@pytest.mark.parametrize(("gpus", "code"), [([], pytest.ExitCode.TESTS_FAILED), (["a GPU"], pytest.ExitCode.OK)])
def test_require_gpu_fails_where_there_is_none(
    gpus: list[str], code: int, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convspec.backend.accelerators", lambda: gpus)
    pytester.makepyfile("def test_passes(): pass")
    result = pytester.runpytest_inprocess("--convspec-require-gpu")
    assert result.ret == code
    assert ("--convspec-require-gpu: the Keras backend sees no GPU on this machine" in lines(result)) == bool(code)


def test_the_default_weights_of_a_base_lie_in_the_data_folder(pytester: pytest.Pytester, tmp_path: Path) -> None:
    (tmp_path / "vgg16_notop.weights.h5").touch()
    session = pytester.parseconfigure(f"--convspec-data-root={tmp_path}").stash[SESSION]
    assert session.weights(find_recipe("fine_tuned", "full")) == str(tmp_path / "vgg16_notop.weights.h5")
    assert session.weights(find_recipe("fine_tuned", "mini")) == str(MINI_WEIGHTS), "the package has its own"
    assert session.weights(find_recipe("from_scratch", "full")) is None, "it has no base"


def test_the_base_of_the_option_or_the_ini_file_is_in_every_rung_with_one(pytester: pytest.Pytester) -> None:
    for arguments in (["--convspec-base=EfficientNet_V2-B0"], ["-o", "convspec_base=EfficientNetV2B0"]):
        session = pytester.parseconfigure(*arguments).stash[SESSION]
        bases = [recipe.base for recipe in session.recipes]
        assert bases == [None] * 4 + ["efficientnetv2b0"] * 3
        assert session.recipe("fine_tuned") == session.recipes[-1]


def test_pictures_have_the_recipes_size_and_are_loaded_once(pytester: pytest.Pytester, tmp_path: Path) -> None:
    session = pytester.parseconfigure(f"--convspec-dataset={put_noise(tmp_path, 'fish', 'key')}").stash[SESSION]
    large, small = find_recipe("from_scratch", "mini"), find_recipe("mnist_convnet", "full")
    assert session.dataset(large).train.images.shape[1:] == (48, 48, 3)
    assert session.dataset(small).train.images.shape[1:] == (28, 28, 3)
    assert session.dataset(large) is session.dataset(large)


def test_a_folder_that_cannot_be_listed_is_a_reason(pytester: pytest.Pytester, tmp_path: Path) -> None:
    pictures = put_noise(tmp_path / "holiday", "fish", "key")
    session = pytester.parseconfigure(f"--convspec-dataset={pictures}").stash[SESSION]
    pictures.rename(pytester.path / "elsewhere")
    shown, problem = session.explanation
    assert not shown
    assert isinstance(problem, FileNotFoundError)


def test_an_option_after_a_space_does_not_move_the_root_folder(pytester: pytest.Pytester, tmp_path: Path) -> None:
    pytester.makeini("[pytest]")
    for option, value in (("--convspec-dataset", tmp_path), ("--convspec-report", tmp_path / "new")):
        result = pytester.runpytest_inprocess(option, str(value))
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert f"ERROR: {option} {value}: written with a space, it makes pytest look for its root" in lines(result)
        assert f"and not in '{pytester.path}'; write {option}={value}" in lines(result)
        assert pytester.parseconfig(f"{option}={value}").rootpath == pytester.path
    (pytester.path / "inside").mkdir()
    assert pytester.parseconfig("--convspec-report", "inside").rootpath == pytester.path


@pytest.mark.parametrize("in_ini", [False, True])
def test_weights_may_lie_in_the_home_folder(in_ini: bool, pytester: pytest.Pytester) -> None:
    """A shell leaves the ~ of --convspec-weights=~/FILE as it is."""
    if in_ini:
        pytester.makeini("[pytest]\nconvspec_weights = ~/base.weights.h5")
    settings = Settings(pytester.parseconfig(*([] if in_ini else ["--convspec-weights=~/base.weights.h5"])))
    assert settings.weights == str(Path.home() / "base.weights.h5")


@pytest.mark.parametrize("name", ["dataset", "weights"])
@pytest.mark.parametrize("value", ["here", "imagenet"])
def test_a_file_in_an_ini_option_is_looked_for_beside_the_ini_file(
    name: str, value: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini(f"[pytest]\nconvspec_{name} = {value}")
    (pytester.path / "here").touch()
    monkeypatch.chdir(pytester.mkdir("below"))
    expected = str(pytester.path / "here") if value == "here" else value
    assert getattr(Settings(pytester.parseconfig()), name) == expected
