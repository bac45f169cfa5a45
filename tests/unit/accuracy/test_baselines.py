"""Baseline files: what was written is what is read, or is refused; what a run is held against, and why."""

import hashlib
import json
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from convspec import BadInput
from convspec.accuracy import baselines
from convspec.ladder.recipe import Recipe, Scale
from convspec.ladder.result import Result
from convspec.ladder.rungs import RECIPES, find_recipe

VERSIONS = {"python": "3.11.7", "keras": "3.15.1", "tensorflow": "2.21.0", "pillow": "11.0.0"}
MACHINE = {
    "backend": "tensorflow", "accelerators": [], "processor": "AMD EPYC", "threads": 2, "system": "Linux x86_64",
    "precision": "float32", "load_average": [0.1, 0.2, 0.3], "versions": VERSIONS,
}  # fmt: skip
H200 = {"accelerators": ["NVIDIA H200"], "accelerator_state": [{"name": "NVIDIA H200", "driver": "570.1"}]}
NAME = "tensorflow-cpu/fine_tuned-dogs_vs_cats-full-seed0.json"


def a_run(seed: int = 0, rung: str = "fine_tuned", scale: Scale = "full", **changes: Any) -> Result:
    """Four test pictures, of which three were told right."""
    recipe = find_recipe(rung, scale)
    machine = MACHINE | changes.pop("machine", {})
    dataset = {
        "name": recipe.dataset, "fingerprint": "2002bfeb03a87cd9", "classes": ["cats", "dogs"],
        "pictures": {"train": 8, "test": 4}, "skipped": [],
    } | changes.pop("dataset", {})  # fmt: skip
    usual: dict[str, Any] = {
        "recipe": recipe, "seed": seed, "dataset": dataset, "machine": machine,
        "weights": "vgg16.h5 sha256:a2f5", "history": {"loss": [0.7, 0.25], "accuracy": [0.5, 0.875]},
        "test_accuracy": 0.75, "test_names": ["cats/1", "cats/2", "dogs/1", "dogs/2"],
        "test_labels": [0, 0, 1, 1], "predicted": [0, 0, 1, 0], "confidence": [0.9, 0.8, 0.7, 0.6],
        "seconds": {"train": 12.5}, "images_per_second": 100.5, "peak_memory_mib": 900,
    }  # fmt: skip
    return Result(**usual | changes)


def changed(recipe: Recipe, **changes: Any) -> Result:
    return replace(a_run(), recipe=replace(recipe, **changes))


@st.composite
def runs(draw: st.DrawFn) -> Result:
    """Runs of any rung, with any number of classes, on pictures and machines of any name."""
    names = draw(st.lists(st.text(), min_size=1, max_size=6, unique=True))
    classes = draw(st.lists(st.text(), min_size=2, max_size=4, unique=True))
    labels, predicted = (
        draw(st.lists(st.integers(0, len(classes) - 1), min_size=len(names), max_size=len(names))) for _ in range(2)
    )
    epochs, finite = draw(st.integers(1, 3)), st.floats(allow_nan=False, allow_infinity=False)
    scale = draw(st.sampled_from(sorted(RECIPES)))
    dataset = {
        "name": draw(st.sampled_from(["mnist", "my pictures", "Kätzchen"])), "classes": classes,
        "pictures": {"test": len(names)},
    }  # fmt: skip
    return a_run(
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from(sorted(RECIPES[scale]))),
        scale,
        machine={"accelerators": draw(st.lists(st.text(), max_size=2))},
        dataset=dataset,
        weights=draw(st.none() | st.text()),
        history={"loss": draw(st.lists(finite, min_size=epochs, max_size=epochs))},
        test_accuracy=sum(map(int.__eq__, labels, predicted)) / len(names),
        test_names=names,
        test_labels=labels,
        predicted=predicted,
        confidence=draw(st.lists(st.floats(0, 1), min_size=len(names), max_size=len(names))),
        images_per_second=draw(finite | st.integers()),
        base_pictures=draw(st.none() | st.integers()),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kept for all examples of a test, which write the one file in it anew."""
    return tmp_path_factory.mktemp("baselines")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return baselines.write(tmp_path_factory.mktemp("whole"), a_run()).read_bytes()


def put(content: bytes | str, folder: Path) -> Path:
    path = folder / NAME
    path.parent.mkdir(exist_ok=True)
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


def reading(folder: Path) -> list[Result] | str:
    """The runs, or the words with which they are refused."""
    try:
        return baselines.read(folder)
    except BadInput as error:
        return str(error)


# Files


@given(run=runs())
@example(run=a_run(test_names=["\udcff.jpg", "../1", "a\nb", '"']))  # files may have any name, valid UTF-8 or not
def test_what_was_written_is_what_is_read(run: Result, folder: Path) -> None:
    path = baselines.write(folder / "any", run)
    try:
        assert baselines.read(folder / "any") == [run]
    finally:
        path.unlink()


def test_a_file_is_named_for_what_it_holds_and_has_a_line_for_each_field(tmp_path: Path) -> None:
    path = baselines.write(tmp_path, a_run())
    assert path == tmp_path / NAME
    written = path.read_text().splitlines()
    assert (written[0], written[-1]) == ("{", "}")
    keys = [json.loads(f"{{{line.rstrip(',')}}}").popitem()[0] for line in written[1:-1]]
    assert keys == ["schema", *a_run().as_dict(), "sha256"]


@pytest.mark.parametrize("name", ["models/v2", "../../v2", "tests::test_v2[a]", "partial_model", "Kätzchen \udcff\n"])
def test_a_model_may_have_any_name_and_stays_within_the_folder(name: str, tmp_path: Path) -> None:
    run = a_run(recipe=replace(find_recipe("fine_tuned", "full"), name=name), dataset={"name": name}, history={})
    path = baselines.write(tmp_path / "baselines", run)
    assert path.parent == tmp_path / "baselines" / "tensorflow-cpu"
    assert path.name.isascii()
    assert baselines.read(tmp_path / "baselines") == [run]


def test_runs_are_read_by_environment_rung_dataset_scale_and_seed(tmp_path: Path) -> None:
    wanted = [
        *(a_run(seed, "augmented") for seed in (0, 2, 10)),
        *(a_run(seed, "augmented", "mini", dataset={"name": "dogs_vs_cats"}) for seed in (0, 1)),
        a_run(0),
        a_run(0, machine=H200),
    ]
    for run in reversed(wanted):
        baselines.write(tmp_path, run)
    assert baselines.read(tmp_path) == wanted


def test_where_there_is_no_folder_there_are_no_runs(tmp_path: Path) -> None:
    assert baselines.read(tmp_path / "nowhere") == []


def test_a_run_replaces_the_one_of_its_seed_and_no_other(tmp_path: Path) -> None:
    for seed in range(3):
        baselines.write(tmp_path, a_run(seed))
    again = a_run(1, history={"loss": [0.5], "accuracy": [0.75]})
    baselines.write(tmp_path, again)
    assert baselines.read(tmp_path) == [a_run(0), again, a_run(2)]


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_may_be_laid_out_anew(indent: int | None, newline: str, tmp_path: Path) -> None:
    text = baselines.write(tmp_path, a_run()).read_text()
    put(json.dumps(json.loads(text), indent=indent, sort_keys=True).replace("\n", newline), tmp_path)
    assert baselines.read(tmp_path) == [a_run()]


def test_a_field_that_came_later_has_its_default(tmp_path: Path) -> None:
    path = baselines.write(tmp_path, a_run())
    content = edited(path.read_text(), ("base_pictures",), ...)
    del content["recipe"]["interpolation"]
    path.write_text(sealed(content))
    assert baselines.read(tmp_path) == [a_run()]


def test_what_is_being_written_is_no_baseline_yet(tmp_path: Path) -> None:
    path = baselines.write(tmp_path, a_run())
    path.with_name(f"partial123-{path.name}").write_text(path.read_text()[:100])
    assert baselines.read(tmp_path) == [a_run()]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_run_that_diverged_is_not_written(loss: float, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"seed0 is no baseline: history\.loss\[1\] must be a finite number, got (nan|inf)"
    ):
        baselines.write(tmp_path, a_run(history={"loss": [0.7, loss]}))
    assert not list(tmp_path.iterdir())


@given(data=st.data())
def test_a_file_cut_short_anywhere_is_refused(data: st.DataObject, whole: bytes, folder: Path) -> None:
    path = put(whole[: data.draw(st.integers(0, len(whole) - 2))], folder)  # the last byte ends the line
    found = reading(folder)
    assert f"{path.name}': " in found
    assert str(found).endswith("; restore it from version control, or delete it and run again with --update-baselines")


@given(data=st.data(), byte=st.binary(min_size=1, max_size=1))
def test_a_file_with_any_byte_another_is_refused_or_says_the_same(
    data: st.DataObject, byte: bytes, whole: bytes, folder: Path
) -> None:
    place = data.draw(st.integers(0, len(whole) - 1))
    path = put(whole[:place] + byte + whole[place + 1 :], folder)
    found = reading(folder)
    assert found == [a_run()] or f"{path.name}': " in found


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=5,
)


@given(data=st.data(), value=ANYTHING | st.just(...))
def test_whatever_stands_where_a_value_should_is_a_run_that_can_be_written_or_refused(
    data: st.DataObject, value: Any, whole: bytes, folder: Path
) -> None:
    part: Any = json.loads(whole)
    keys: list[Any] = []
    while isinstance(part, list | dict) and part and (not keys or data.draw(st.booleans())):
        keys.append(data.draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part)))))
        part = part[keys[-1]]
    path = put(sealed(edited(whole, tuple(keys), value)), folder)
    found = reading(folder)
    if isinstance(found, str):
        assert f"{path.name}': " in found
    else:
        assert baselines.write(folder, found[0]) == path
        assert baselines.read(folder) == found


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("confidence", 3), 0.65),
        (("dataset", "fingerprint"), "0"),
        (("machine", "versions", "keras"), "3.16.0"),
        (("recipe", "epochs"), 1),
        (("seconds", "train"), 1.0),
    ],
    ids=str,
)
def test_a_file_edited_by_hand_is_refused(keys: tuple[str, ...], value: Any, tmp_path: Path) -> None:
    path = baselines.write(tmp_path, a_run())
    path.write_text(json.dumps(edited(path.read_text(), keys, value)))
    with pytest.raises(
        BadInput, match=r"seed0\.json': sha256 is '.*not that of the content: edited, or damaged; restore"
    ):
        baselines.read(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("schema",), 2, "schema must be 1, got 2: another version"),
        (("schema",), ..., "schema must be 1, got None: another version"),
        (("seed",), ..., "seed is missing"),
        (("seed",), True, "seed must be a whole number, got True"),
        (("seed",), -1, "seed must not be negative, got -1"),
        (("seeds",), [0], "seeds is not known"),
        (("recipe", "epochs"), ..., r"recipe\.epochs is missing"),
        (("recipe", "epochs"), "30", r"recipe\.epochs must be a whole number, got '30'"),
        (("recipe", "epochs"), 30.5, r"recipe\.epochs must be a whole number, got 30\.5"),
        (("recipe", "starts_from", "size"), None, r"recipe\.starts_from\.size must be a whole number, got None"),
        (("recipe", "published", "test"), [0.9], r"recipe\.published\.test must be a list of 2, got \[0\.9\]"),
        (("recipe", "augmentation", "zoom_range"), -1, "zoom_range must not be negative"),
        (("recipe", "augmentation", "horizontal_flip"), 1, "horizontal_flip must be true or false, got 1"),
        (("recipe", "name"), 1, r"recipe\.name must be a text, got 1"),
        (("dataset",), [], r"dataset must be a JSON object, got \[\]"),
        (("dataset", "fingerprint"), ..., r"dataset\.fingerprint must be a text, got None"),
        (("dataset", "pictures", "test"), 5, r"dataset\.pictures\.test must be 4, .* got 5"),
        (("dataset", "classes"), ["cats"], "test_labels must be from 0 to 0, the classes' numbers, got 1"),
        (("machine", "versions", "keras"), 3, r"machine\.versions\.keras must be a text, got 3"),
        (("history", "loss", 1), float("nan"), r"history\.loss\[1\] must be a finite number, got nan"),
        (("history", "loss"), [0.5], "history must have the same epochs, at least one, for each metric"),
        (("history",), {"loss": []}, "history must have the same epochs, at least one"),
        (("test_names", 1), "cats/1", "test_names must name at least one picture, and each once"),
        (("test_names",), [], "test_names must name at least one picture, and each once"),
        (("test_labels",), [0, 0, 1], "test_labels must have 4 entries, as there are test_names, got 3"),
        (("predicted",), [0, 0, 1], "predicted must have 4 entries"),
        (("predicted", 0), 2, "predicted must be from 0 to 1, the classes' numbers, got 2"),
        (("predicted", 0), -1, "predicted must be from 0 to 1, the classes' numbers, got -1"),
        (("predicted", 0), 1, r"test_accuracy must be 2 / 4, what predicted gets right, got 0\.75"),
        (("confidence",), [0.5] * 5, "confidence must have 4 entries"),
        (("confidence", 0), 1.5, r"confidence must be from 0 to 1, got 0\.6 to 1\.5"),
        (("confidence", 0), float("-inf"), r"confidence\[0\] must be a finite number, got -inf"),
        (("test_accuracy",), 0.76, r"test_accuracy must be 3 / 4, what predicted gets right, got 0\.76"),
    ],
    ids=str,
)
def test_what_a_run_cannot_be_is_refused_with_key_value_and_remedy(
    keys: tuple[str, ...], value: Any, message: str, tmp_path: Path
) -> None:
    path = baselines.write(tmp_path, a_run())
    path.write_text(sealed(edited(path.read_text(), keys, value)))
    with pytest.raises(
        BadInput, match=rf"baseline '.*seed0\.json': .*{message}.*; restore it from version control, or"
    ):
        baselines.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or cut short"),
        (b"[]", r"the file must be a JSON object, got \[\]"),
        (b"{}", "schema must be 1, got None"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"[" * 100_000, "recursion"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "damaged or cut short"),
    ],
    ids=["empty", "a list", "no schema", "no text", "deep", "long"],
)
def test_what_is_no_baseline_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    put(content, tmp_path)
    with pytest.raises(BadInput, match=rf"seed0\.json': .*{message}"):
        baselines.read(tmp_path)


def test_a_merge_conflict_is_named_with_what_to_do(tmp_path: Path) -> None:
    sides = [tmp_path / name for name in ("ours", "base", "theirs")]
    for side, loss in zip(sides, (0.25, 0.5, 0.75), strict=True):
        baselines.write(side, a_run(history={"loss": [loss]}))
    merged = subprocess.run(["git", "merge-file", "-p", *(side / NAME for side in sides)], capture_output=True)
    assert merged.returncode > 0, "git should find two runs of one seed in conflict"
    (sides[0] / NAME).write_bytes(merged.stdout)
    with pytest.raises(BadInput, match=r"seed0\.json': a merge conflict: take one side whole, `git checkout --ours`"):
        baselines.read(sides[0])


def test_a_merge_never_mixes_two_runs_without_a_conflict(tmp_path: Path) -> None:
    sides = [tmp_path / name for name in ("ours", "base", "theirs")]
    recorded = [a_run(peak_memory_mib=1), a_run(), a_run(history={"loss": [0.5]})]
    for side, run in zip(sides, recorded, strict=True):
        baselines.write(side, run)
    merged = subprocess.run(["git", "merge-file", "-p", *(side / NAME for side in sides)], capture_output=True)
    assert b"<<<<<<<" in merged.stdout


@pytest.mark.parametrize(
    "target",
    [
        NAME.replace("seed0", "seed1"),
        NAME.replace("seed0", "seed0-copy"),
        NAME.replace("cpu", "nvidia-h200"),
        NAME.rpartition("/")[2],
    ],
)
def test_a_copy_under_another_name_is_no_second_run(target: str, tmp_path: Path) -> None:
    path = baselines.write(tmp_path, a_run())
    (tmp_path / target).parent.mkdir(exist_ok=True)
    (tmp_path / target).write_text(path.read_text())
    with pytest.raises(BadInput, match=rf"{Path(target).name}': this is '{NAME}' by its content, moved or copied"):
        baselines.read(tmp_path)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "baselines").touch()
    with pytest.raises(BadInput, match=r"baselines cannot be read: .*Not a directory: .*baselines"):
        baselines.read(tmp_path / "baselines")


def test_a_baseline_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir(parents=True)
    with pytest.raises(BadInput, match=r"seed0\.json': .*Is a directory"):
        baselines.read(tmp_path)


def test_readers_see_the_old_run_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = a_run(), a_run(peak_memory_mib=901)
    baselines.write(tmp_path, old)
    write_text, seen = Path.write_text, []

    def slowly(path: Path, text: str) -> int:
        write_text(path, text[:500])
        seen.append(reading(tmp_path))
        return write_text(path, text)

    monkeypatch.setattr(Path, "write_text", slowly)
    baselines.write(tmp_path, new)
    assert seen == [[old]]
    assert baselines.read(tmp_path) == [new]


def test_threads_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    wanted = [a_run(seed) for seed in range(16)]
    start = threading.Barrier(4)

    def write(first: int) -> None:
        start.wait()
        for run in wanted[first::4]:
            baselines.write(tmp_path, run)

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert baselines.read(tmp_path) == wanted


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from convspec import baselines

kept, target, loss = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
(run,) = baselines.read(kept)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    for seed in range(8):
        baselines.write(target, replace(run, seed=seed, history={"loss": [loss] * 2000}))
"""


@pytest.mark.slow
def test_processes_that_update_the_same_baseline_at_once_leave_each_seed_whole(tmp_path: Path) -> None:
    kept, updated = tmp_path / "kept", tmp_path / "updated"
    baselines.write(kept, a_run())
    command = [sys.executable, "-c", WRITER, str(kept), str(updated)]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen([*command, loss], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for loss in ("0.25", "0.5")
        ]
        assert [writer.stdout.readline() for writer in writers if writer.stdout] == ["ready\n"] * 2
        for writer in writers:
            assert writer.stdin
            writer.stdin.write("\n")
            writer.stdin.flush()
        while any(writer.poll() is None for writer in writers):
            assert all(len(set(run.history["loss"])) == 1 for run in baselines.read(updated))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [run.seed for run in baselines.read(updated)] == list(range(8))


# Environments, and what can be compared


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({}, "tensorflow-cpu"),
        ({"backend": "jax"}, "jax-cpu"),
        ({"accelerators": ["NVIDIA H200"]}, "tensorflow-nvidia-h200"),
        ({"backend": "torch", "accelerators": ["NVIDIA A100-SXM4-80GB"] * 8}, "torch-nvidia-a100-sxm4-80gb"),
        ({"precision": "mixed_bfloat16"}, "tensorflow-cpu-mixed_bfloat16"),
    ],
    ids=str,
)
def test_an_environment_is_backend_device_and_precision(machine: dict[str, Any], expected: str) -> None:
    assert baselines.environment(MACHINE | machine) == expected


def test_before_precision_was_recorded_it_was_float32() -> None:
    assert baselines.environment({"backend": "jax", "accelerators": []}) == "jax-cpu"


FINE_TUNED = find_recipe("fine_tuned", "full")
FROZEN = FINE_TUNED.starts_from
assert FROZEN
assert FROZEN.augmentation


@pytest.mark.parametrize(
    ("new", "reasons"),
    [
        (changed(FINE_TUNED, epochs=99), ["the recipe has epochs 99, had 100"]),
        (changed(FINE_TUNED, steps=None), ["the recipe has steps None, had 100"]),
        (changed(FINE_TUNED, thaw="block4_conv1"), ["the recipe has thaw 'block4_conv1', had 'block5_conv1'"]),
        (
            changed(FINE_TUNED, starts_from=replace(FROZEN, batch_size=10)),
            ["the recipe has starts_from.batch_size 10, had 20"],
        ),
        (
            changed(FINE_TUNED, augmentation=replace(FROZEN.augmentation, zoom_range=0.1), dropout=0.5),
            ["the recipe has dropout 0.5, had 0.0", "the recipe has augmentation.zoom_range 0.1, had 0.2"],
        ),
        (
            a_run(dataset={"fingerprint": "0123456789abcdef"}),
            ["the dataset's fingerprint is 0123456789ab, was 2002bfeb03a8"],
        ),
        (
            a_run(test_names=["cats/1", "cats/3", "dogs/1", "dogs/2"]),
            ["the test pictures differ: 1 are new, 1 are gone"],
        ),
        (a_run(test_labels=[0, 0, 0, 1]), ["the test pictures differ: in order or labels"]),
        (
            a_run(weights="vgg16.h5 sha256:ffff"),
            ["the base's weights are vgg16.h5 sha256:ffff, were vgg16.h5 sha256:a2f5"],
        ),
        (a_run(weights=None), ["the base's weights are None, were vgg16.h5 sha256:a2f5"]),
    ],
)
def test_another_recipe_dataset_test_set_or_base_cannot_be_compared(new: Result, reasons: list[str]) -> None:
    assert baselines.incomparable(a_run(), new) == reasons


@pytest.mark.parametrize(
    "new",
    [
        a_run(),
        a_run(seed=7, test_accuracy=0.5, predicted=[0, 1, 1, 0]),
        a_run(machine=H200 | {"backend": "jax", "versions": {"keras": "4.0"}}),
        a_run(weights="another name sha256:a2f5"),
        changed(FINE_TUNED, listings="5.22", published={}, starts_from=replace(FROZEN, published={})),
    ],
)
def test_seeds_versions_machines_and_words_may_differ(new: Result) -> None:
    assert baselines.incomparable(a_run(), new) == []


def test_pictures_that_another_decoder_may_have_changed_are_told_so() -> None:
    new = a_run(dataset={"fingerprint": "0"}, machine={"versions": VERSIONS | {"pillow": "12.0.0"}})
    (reason,) = baselines.incomparable(a_run(), new)
    assert reason == "the dataset's fingerprint is 0, was 2002bfeb03a8, which may come of pillow 11.0.0 -> 12.0.0"


def test_what_changed_is_listed() -> None:
    newer = {"versions": VERSIONS | {"keras": "3.16.0", "opencv": "5.0.0"}, "load_average": [9, 9, 9], "threads": 8}
    new = [a_run(machine=newer), a_run(machine=newer | H200 | {"precision": "mixed_bfloat16"})]
    assert sorted(baselines.changes([a_run(0), a_run(1)], new)) == [
        "device CPU -> CPU, NVIDIA H200",
        "driver not recorded -> 570.1",
        "keras 3.15.1 -> 3.16.0",
        "opencv not recorded -> 5.0.0",
        "precision float32 -> float32, mixed_bfloat16",
        "threads 2 -> 8",
    ]
    assert baselines.changes(new, new) == []


def in_(place: str, seeds: int = 1, **changes: Any) -> list[Result]:
    machines = {
        "tensorflow-cpu": {},
        "tensorflow-nvidia-h200": H200,
        "jax-cpu": {"backend": "jax"},
        "jax-nvidia-h200": H200 | {"backend": "jax"},
    }
    found = [a_run(seed, machine=machines[place], **changes) for seed in range(seeds)]
    assert {baselines.environment(run.machine) for run in found} == {place}
    return found


@pytest.mark.parametrize(
    ("there", "chosen", "reason"),
    [
        (["jax-cpu", "tensorflow-cpu", "tensorflow-nvidia-h200"], "tensorflow-cpu", "the environment of this run"),
        (
            ["jax-cpu", "tensorflow-nvidia-h200"],
            "tensorflow-nvidia-h200",
            "there is nothing comparable of tensorflow-cpu, and this is the same backend",
        ),
        (
            ["jax-nvidia-h200"],
            "jax-nvidia-h200",
            "there is nothing comparable of tensorflow-cpu, nor of another device with tensorflow",
        ),
    ],
)
def test_a_run_is_held_against_its_own_environment_else_its_backend_else_another(
    there: list[str], chosen: str, reason: str
) -> None:
    recorded = [run for place in there for run in in_(place, 2 if place == chosen else 3)]
    found = baselines.choose(recorded, [a_run(7)])
    assert found == baselines.Baseline(in_(chosen, 2), f"{chosen}, seeds 0, 1: {reason}", [])


def test_of_several_as_near_the_one_with_most_runs_is_chosen() -> None:
    found = baselines.choose([*in_("jax-cpu", 2), *in_("jax-nvidia-h200", 3)], [a_run()])
    assert found.runs == in_("jax-nvidia-h200", 3)


def test_what_cannot_be_compared_is_left_out_and_told_so_never_compared() -> None:
    old, elsewhere = in_("tensorflow-cpu", 3), in_("jax-cpu")
    stale = [replace(run, recipe=replace(run.recipe, epochs=50)) for run in old[:2]]
    found = baselines.choose([*stale, old[2], *elsewhere], [a_run()])
    assert found.runs == [old[2]]
    assert found.reason == "tensorflow-cpu, seed 2: the environment of this run"
    assert found.left_out == ["tensorflow-cpu, seeds 0, 1: not comparable, the recipe has epochs 100, had 50"]


def test_a_stale_baseline_of_the_same_environment_gives_way_to_another() -> None:
    stale = in_("tensorflow-cpu", weights="vgg16.h5 sha256:ffff")
    found = baselines.choose([*stale, *in_("tensorflow-nvidia-h200")], [a_run()])
    assert found.runs == in_("tensorflow-nvidia-h200")
    assert len(found.left_out) == 1


def test_where_nothing_can_be_compared_that_is_what_is_said() -> None:
    found = baselines.choose(in_("tensorflow-cpu", dataset={"fingerprint": "f"}), [a_run()])
    assert found.runs == []
    assert found.reason == "no comparable baseline of fine_tuned on dogs_vs_cats at --scale full"
    assert found.left_out == [
        "tensorflow-cpu, seed 0: not comparable, the dataset's fingerprint is 2002bfeb03a8, was f"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "others",
    [
        [],
        [a_run(0, "augmented")],
        [a_run(0, scale="mini", dataset={"name": "dogs_vs_cats"})],
        [a_run(dataset={"name": "pets"})],
    ],
    ids=["none", "another rung", "another scale", "another dataset"],
)
def test_runs_of_something_else_are_no_baseline(others: list[Result]) -> None:
    found = baselines.choose(others, [a_run()])
    assert found == baselines.Baseline([], "no baseline yet of fine_tuned on dogs_vs_cats at --scale full", [])
