"""Baseline files: what was written is what is read, or is refused."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import H200
from builders import baseline_run as a_run
from hypothesis import example, given
from hypothesis import strategies as st

from convspec import BadInput
from convspec.accuracy import baselines, judgement
from convspec.accuracy.baselines import Run

COMMITTED = Path(__file__).parents[3] / "fixtures" / "baselines"
NAME = "tensorflow-cpu/fine_tuned-pets-full-seed0.json"


def plain(floats: st.SearchStrategy) -> st.SearchStrategy:
    """Plain data, as JSON has it."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | floats | st.text(max_size=3),
        lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
        max_leaves=5,
    )


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Runs of any model, on pictures and machines of any name."""
    pictures = draw(st.lists(st.text(), min_size=1, max_size=6, unique=True))
    records = st.dictionaries(st.text(), plain(st.floats(allow_nan=False, allow_infinity=False)), max_size=3)

    def each(values: st.SearchStrategy) -> list[Any]:
        return draw(st.lists(values, min_size=len(pictures), max_size=len(pictures)))

    return a_run(
        draw(st.integers(0, 2**32 - 1)),
        {"accelerators": draw(st.lists(st.text(), max_size=2))},
        name=draw(st.text(min_size=1, max_size=9)),
        dataset=draw(st.sampled_from(["", "mnist-full", "Kätzchen"])),
        pictures=pictures,
        labels=each(st.integers(0, 3)),
        predicted=each(st.integers(0, 3)),
        confidence=each(st.floats(0, 1)),
        conditions=draw(records),
        measurements=draw(records),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kept for all examples of a test, which write the one file in it anew."""
    return tmp_path_factory.mktemp("baselines")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return baselines.write(tmp_path_factory.mktemp("whole"), a_run()).read_bytes()


def put(content: bytes | str, folder: Path, name: str = NAME) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sealed(content: dict[str, Any]) -> str:
    """A file with that content and the checksum that belongs to it."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return json.dumps(rest | {"sha256": digest})


def edited(text: str | bytes, keys: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The content of a file with one value another, or none where `value` is Ellipsis."""
    content = part = json.loads(text)
    for key in keys[:-1]:
        part = part[key]
    if value is ...:
        del part[keys[-1]]
    else:
        part[keys[-1]] = value
    return content


def reading(folder: Path) -> list[Run] | str:
    """The runs, or the words with which they are refused."""
    try:
        return baselines.read(folder)
    except BadInput as error:
        return str(error)


# Writing and reading


@given(run=runs())
@example(run=a_run(pictures=["\udcff.jpg", "../1", "a\nb", '"']))  # files may have any name, valid UTF-8 or not
def test_what_was_written_is_what_is_read(run: Run, folder: Path) -> None:
    path = baselines.write(folder / "any", run)
    try:
        assert baselines.read(folder / "any") == [run]
    finally:
        path.unlink()


def test_a_file_has_a_line_for_each_field(tmp_path: Path) -> None:
    path = baselines.write(tmp_path, a_run())
    assert path == tmp_path / NAME
    written = path.read_text().splitlines()
    assert (written[0], written[-1]) == ("{", "}")
    keys = [json.loads(f"{{{line.rstrip(',')}}}").popitem()[0] for line in written[1:-1]]
    assert keys == ["schema", *asdict(a_run()), "sha256"]


@pytest.mark.parametrize("name", ["models/v2", "../../v2", "tests::test_v2[a]", "partial_model", "Kätzchen \udcff\n"])
def test_a_model_may_have_any_name_and_stays_within_the_folder(name: str, tmp_path: Path) -> None:
    run = a_run(name=name, dataset="", machine={"backend": "torch"})
    path = baselines.write(tmp_path / "baselines", run)
    assert path.parent == tmp_path / "baselines" / "torch-cpu"
    assert path.name.isascii()
    assert baselines.read(tmp_path / "baselines") == [run]


def test_runs_are_read_by_environment_name_dataset_and_seed(tmp_path: Path) -> None:
    wanted = [
        *(a_run(seed, name="augmented") for seed in (0, 2, 10)),
        *(a_run(seed, name="augmented", dataset="pets-mini") for seed in (0, 1)),
        a_run(0),
        a_run(0, H200),
    ]
    for run in [a_run(0, measurements={}), *reversed(wanted)]:
        baselines.write(tmp_path, run)
    assert baselines.read(tmp_path) == wanted, "the second run of seed 0 replaces the first"
    assert baselines.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_may_be_laid_out_anew(indent: int | None, newline: str, whole: bytes, tmp_path: Path) -> None:
    put(json.dumps(json.loads(whole), indent=indent, sort_keys=True).replace("\n", newline), tmp_path)
    assert baselines.read(tmp_path) == [a_run()]


def test_a_file_that_is_being_written_is_no_baseline_yet(whole: bytes, tmp_path: Path) -> None:
    put(whole, tmp_path)
    put(whole[:100], tmp_path, NAME.replace("/", "/.partial3-"))
    assert baselines.read(tmp_path) == [a_run()]


def test_other_files_and_models_in_the_folder_are_left_alone(whole: bytes, tmp_path: Path) -> None:
    put(whole, tmp_path)
    put(b"{}", tmp_path, "python/plot.json")
    put(b"{}", tmp_path, "python/another-seed0.json")
    for other in ("fine_tuned-seed0", "fine_tuned-pets-full-large-seed0", "fine_tuned-pets-full-seed0-seed0"):
        put(b"{}", tmp_path, f"python/{other}.json")
    assert baselines.read(tmp_path, "fine_tuned", "pets-full") == [a_run()]
    with pytest.raises(BadInput, match=r"(another|fine_tuned.*)-seed0"):
        baselines.read(tmp_path)


def test_a_name_too_long_for_a_file_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be kept: .*File name too long"):
        baselines.write(tmp_path, a_run(name="猫" * 30))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measurements": {"loss": [0.7, float("nan")]}}, r"measurements\.loss\.1 must be a finite number, got nan"),
        ({"measurements": {"loss": float("inf")}}, r"measurements\.loss must be a finite number, got inf"),
        ({"predicted": [0, 1]}, "predicted must have 4 entries, one for each of the pictures, got 2"),
        ({"measurements": {"loss": np.float32(1)}}, "float32 is not JSON serializable"),
    ],
)
def test_a_run_that_could_not_be_read_is_not_written(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"fine_tuned-pets-full-seed0 is no baseline: .*{message}"):
        baselines.write(tmp_path, a_run(**changes))
    assert not list(tmp_path.iterdir())


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from convspec.accuracy import baselines

(run,) = baselines.read(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    for seed in range(8):
        baselines.write(Path(sys.argv[2]), replace(run, seed=seed, measurements={"loss": sys.argv[3:] * 2000}))
"""


def test_processes_that_write_at_once_leave_each_seed_whole(whole: bytes, tmp_path: Path) -> None:
    updated = tmp_path / "updated"
    put(whole, tmp_path / "kept")
    command = [sys.executable, "-c", WRITER, str(tmp_path / "kept"), str(updated)]
    writers = [
        subprocess.Popen([*command, loss], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for loss in "12"
    ]
    assert [writer.stdout.readline() for writer in writers if writer.stdout] == ["ready\n"] * 2
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        assert all(len(set(run.measurements["loss"])) == 1 for run in baselines.read(updated))
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [run.seed for run in baselines.read(updated)] == list(range(8))


# Damaged files


@given(data=st.data())
def test_a_file_cut_short_anywhere_is_refused(data: st.DataObject, whole: bytes, folder: Path) -> None:
    path = put(whole[: data.draw(st.integers(0, len(whole) - 2))], folder)  # the last byte ends the line
    refusal = str(reading(folder))
    assert f"{path.name}': " in refusal
    assert refusal.endswith("or delete it and run again with --convspec-update-baselines")


@given(data=st.data(), byte=st.binary(min_size=1, max_size=1))
def test_a_file_with_another_byte_is_refused_or_says_the_same(
    data: st.DataObject, byte: bytes, whole: bytes, folder: Path
) -> None:
    place = data.draw(st.integers(0, len(whole) - 1))
    path = put(whole[:place] + byte + whole[place + 1 :], folder)
    outcome = reading(folder)
    assert outcome == [a_run()] or f"{path.name}': " in outcome


@given(data=st.data(), value=plain(st.floats()) | st.just(...))
def test_a_file_with_any_other_value_can_be_written_again_or_is_refused(
    data: st.DataObject, value: Any, whole: bytes, folder: Path
) -> None:
    key = data.draw(st.sampled_from(sorted(json.loads(whole).keys() - {"machine"})))
    path = put(sealed(edited(whole, (key,), value)), folder)
    outcome = reading(folder)
    if isinstance(outcome, str):
        assert f"{path.name}': " in outcome
    else:
        assert baselines.write(folder, outcome[0]) == path
        assert baselines.read(folder) == outcome


def test_a_file_edited_by_hand_is_refused(whole: bytes, tmp_path: Path) -> None:
    put(json.dumps(edited(whole, ("machine", "versions", "keras"), "3.16.0")), tmp_path)
    with pytest.raises(BadInput, match=r"seed0\.json': sha256 is '.*not that of the content: edited, or damaged; rest"):
        baselines.read(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("schema",), 3, "schema must be from 1 to 2, got 3: upgrade convspec"),
        (("schema",), ..., "schema must be from 1 to 2, got None"),
        (("schema",), 1, "not a run of schema 1: KeyError 'recipe'"),
        (("seed",), ..., "missing required field `seed`"),
        (("seed",), True, r"Expected `int`, got `bool` - at `\$\.seed`"),
        (("seed",), -1, "seed must not be negative, got -1"),
        (("name",), 1, r"Expected `str`, got `int` - at `\$\.name`"),
        (("conditions",), [], r"Expected `object`, got `array` - at `\$\.conditions`"),
        (("pictures", 1), "cats/1", "pictures must name at least one picture, and each once"),
        (("pictures",), [], "pictures must name at least one picture, and each once"),
        (("labels",), [0, 0, 1], "labels must have 4 entries, one for each of the pictures, got 3"),
        (("predicted", 0), -1, "predicted must not be negative, got -1"),
        (("predicted", 2), 1.5, r"Expected `int`, got `float` - at `\$\.predicted\[2\]`"),
        (("confidence",), [0.5] * 5, "confidence must have 4 entries"),
        (("confidence", 0), 1.5, r"confidence must be at most 1, got 1\.5"),
        (("confidence", 0), float("-inf"), r"confidence\.0 must be a finite number, got -inf"),
    ],
    ids=str,
)
def test_an_impossible_run_is_refused_with_key_value_and_remedy(
    keys: tuple[str, ...], value: Any, message: str, whole: bytes, tmp_path: Path
) -> None:
    put(sealed(edited(whole, keys, value)), tmp_path)
    with pytest.raises(
        BadInput, match=rf"baseline '.*seed0\.json': .*{message}.*; restore it from version control .*, or"
    ):
        baselines.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or cut short"),
        (b"[]", r"the file must be a JSON object, got \[\]"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"[" * 100_000, "recursion"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "damaged or cut short"),
    ],
    ids=["empty", "a list", "no text", "deep", "long"],
)
def test_a_file_of_another_kind_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    put(content, tmp_path)
    with pytest.raises(BadInput, match=rf"seed0\.json': .*{message}"):
        baselines.read(tmp_path)


def test_a_folder_in_place_of_a_file_is_refused_and_the_reverse(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir(parents=True)
    assert "Is a directory" in reading(tmp_path)
    (tmp_path / "file").touch()
    assert str(reading(tmp_path / "file")).startswith("baselines cannot be read: ")


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_two_runs_of_one_seed_merge_in_a_conflict_that_is_refused(tmp_path: Path) -> None:
    sides = [tmp_path / name for name in ("ours", "base", "theirs")]
    for side, loss in zip(sides, (0.25, 0.5, 0.75), strict=True):
        baselines.write(side, a_run(measurements={"loss": loss}))
    merged = subprocess.run(["git", "merge-file", "-p", *(side / NAME for side in sides)], capture_output=True)
    put(merged.stdout, sides[0])
    with pytest.raises(BadInput, match=r"seed0\.json': a merge conflict: take one side whole, `git checkout --ours`"):
        baselines.read(sides[0])


@pytest.mark.parametrize("target", ["tensorflow-cpu/a-seed0.json", NAME.replace("cpu", "gpu"), NAME.rpartition("/")[2]])
def test_a_copy_under_another_name_is_no_second_run(target: str, whole: bytes, tmp_path: Path) -> None:
    put(whole, tmp_path, target)
    with pytest.raises(BadInput, match=rf"{Path(target).name}': this is '{NAME}' by its content, moved or copied"):
        baselines.read(tmp_path)


# Schema 1


def test_all_committed_files_of_schema_1_are_read() -> None:
    files = {path: json.loads(path.read_text()) for path in COMMITTED.rglob("*.json")}
    assert len(files) == len(baselines.read(COMMITTED))
    assert sum(content["schema"] == 1 for content in files.values()) == 16
    for run in baselines.read(COMMITTED):
        old = files[COMMITTED / baselines.environment(run.machine) / f"{run.name}-{run.dataset}-seed{run.seed}.json"]
        if old["schema"] > 1:
            continue
        assert (run.predicted, run.labels, run.pictures) == (old["predicted"], old["test_labels"], old["test_names"])
        assert run.accuracy == old["test_accuracy"]
        assert run.measurements["history"] == old["history"]
        assert run.conditions["dataset"] == {"fingerprint": old["dataset"]["fingerprint"]}


def test_conditions_of_schema_1_leave_out_defaults_and_words() -> None:
    best = next(run for run in baselines.read(COMMITTED) if run.name == "feature_extraction_best")
    assert best.conditions["recipe"] == {
        "name": "feature_extraction_best", "scale": "full", "dataset": "dogs_vs_cats", "model": "linear_probe",
        "size": 288, "learning_rate": 2e-5, "epochs": 1, "batch_size": 20, "steps": 100, "base": "vgg16",
        "extra_sizes": [224], "interpolation": "area", "preprocessing": "base", "precision": "fast",
    }  # fmt: skip
    assert best.conditions["weights"].startswith("a2f511173081")


def of_schema_1(own: Run) -> str:
    """A file that schema 1 kept of somebody's own model."""
    old = {
        "schema": 1, "recipe": {"name": own.name, "scale": "own"}, "seed": own.seed, "machine": own.machine,
        "dataset": {"name": own.name, "classes": ["0", "1"]}, "test_names": own.pictures, "test_labels": own.labels,
        "predicted": own.predicted, "confidence": own.confidence,
    }  # fmt: skip
    return sealed(old)


def test_another_models_run_of_schema_1_is_read_under_its_old_name(tmp_path: Path) -> None:
    (own,) = judgement.results_from_predictions("digits", [0, 1, 1], [0, 1, 0])
    put(of_schema_1(own), tmp_path, "python/digits-digits-own-seed0.json")
    assert baselines.read(tmp_path) == baselines.read(tmp_path, "digits") == [own]


@pytest.mark.parametrize("machine", [{}, {"backend": "tensorflow"}], ids=["python", "tensorflow-cpu"])
def test_a_run_takes_the_place_of_that_of_schema_1_and_of_no_other(machine: dict[str, str], tmp_path: Path) -> None:
    old, second = judgement.results_from_predictions("digits", [[0, 1, 1], [0, 1, 1]], [0, 1, 0])
    for run in (old, second):
        there = replace(run, machine=machine)
        put(of_schema_1(there), tmp_path, f"{baselines.environment(machine)}/digits-digits-own-seed{run.seed}.json")
    (other,) = judgement.results_from_predictions("digits-digits-own", [0, 1, 0], [0, 1, 0])
    (new,) = judgement.results_from_predictions("digits", [0, 1, 0], [0, 1, 0])
    baselines.write(tmp_path, a_run(name="digits"))
    assert [run.seed for run in baselines.read(tmp_path, "digits")] == [0, 1], "of another dataset"
    baselines.write(tmp_path, new)
    assert sorted(run.seed for run in baselines.read(tmp_path, "digits")) == [0, 1]
    path = baselines.write(tmp_path / "others", other)
    baselines.write(tmp_path / "others", new)
    assert path.exists()
