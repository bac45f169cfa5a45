"""Which baselines new runs are compared with: of the nearest environment, of the same conditions and test pictures."""

from dataclasses import replace
from typing import Any

import pytest
from builders import CPU, H200
from builders import baseline_run as a_run

from convspec.accuracy import baselines
from convspec.accuracy.baselines import Run

CONDITIONS = a_run().conditions
RECIPE, VERSIONS = CONDITIONS["recipe"], a_run().machine["versions"]


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (CPU, "tensorflow-cpu"),
        (CPU | {"accelerators": ["NVIDIA H200"]}, "tensorflow-nvidia-h200"),
        ({"backend": "torch", "accelerators": ["NVIDIA A100-SXM4-80GB"] * 8}, "torch-nvidia-a100-sxm4-80gb"),
        (CPU | {"precision": "mixed_bfloat16"}, "tensorflow-cpu-mixed_bfloat16"),
        ({"backend": "jax"}, "jax-cpu"),
        ({"versions": {"sklearn": "1.9"}}, "python"),
    ],
    ids=str,
)
def test_an_environment_is_backend_device_and_precision(machine: dict[str, Any], expected: str) -> None:
    assert baselines.environment(machine) == expected


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"conditions": CONDITIONS | {"recipe": RECIPE | {"epochs": 99}}}, ["recipe.epochs is 99, was 100"]),
        (
            {"conditions": CONDITIONS | {"recipe": RECIPE | {"learning_rate": 2e-5, "starts_from": {"epochs": 1}}}},
            ["recipe.learning_rate is 2e-05, was 1e-05", "recipe.starts_from.epochs is 1, was 30"],
        ),
        (
            {"conditions": {"recipe": RECIPE | {"dropout": 0.5}, "dataset": CONDITIONS["dataset"]}},
            ["recipe.dropout is 0.5, was not set", "weights is not set, was 'a2f5'"],
        ),
        ({"conditions": CONDITIONS | {"weights": None}}, ["weights is None, was 'a2f5'"]),
        (
            {"conditions": CONDITIONS | {"dataset": {"fingerprint": "0"}}},
            ["dataset.fingerprint is '0', was '2002bfeb03a8'"],
        ),
        (
            {"pictures": ["cats/1", "cats/3", "dogs/1", "dogs/2"]},
            ["the test pictures differ: 1 are new ('cats/3'), 1 are gone ('cats/2')"],
        ),
        (
            {"pictures": ["cats/1", "cats/2", "dogs/1", "dogs/2", "dogs/3"], "labels": [0, 0, 1, 1, 1]},
            ["the test pictures differ: 1 are new ('dogs/3'), 0 are gone"],
        ),
        ({"pictures": ["cats/2", "cats/1", "dogs/1", "dogs/2"]}, []),
        ({"pictures": ["dogs/1", "cats/2", "cats/1", "dogs/2"]}, ["2 test pictures have another label"]),
        ({"labels": [0, 0, 0, 1]}, ["a test picture has another label"]),
        ({"seed": 7, "predicted": [0, 1, 1, 0], "measurements": {}}, []),
        ({"machine": H200 | {"backend": "jax", "versions": {"keras": "4.0"}}}, []),
    ],
)
def test_runs_are_comparable_by_conditions_and_test_pictures(changes: Any, reasons: list[str]) -> None:
    assert baselines.incomparable(a_run(), a_run(**changes)) == reasons


def test_a_baseline_is_compared_in_the_order_of_the_new_pictures() -> None:
    def move(run: Run) -> Run:
        parts: dict[str, Any] = {name: [getattr(run, name)[place] for place in (2, 0, 3, 1)] for name in fields}
        return replace(run, **parts)

    fields = ("pictures", *baselines.PER_PICTURE)
    old = [a_run(0), a_run(1, predicted=[1, 0, 1, 1])]
    moved = [move(run) for run in old]
    assert baselines.choose(old, moved).runs == moved
    assert baselines.choose([moved[0], old[1]], old).runs == old, "also where the baseline has several orders"


def test_classes_that_differ_after_the_first_few_are_named() -> None:
    old, new = (a_run(conditions={"classes": [*"abcdefgh", *more]}) for more in ("", "i"))
    shown = "['a', 'b', 'c', 'd', 'e', 'f', ...]"
    assert baselines.incomparable(old, new) == [f"classes is {shown} with ['i'] of 9, was {shown} with [] of 8"]


def test_another_decoder_is_named_as_a_possible_cause_of_other_pictures() -> None:
    new = a_run(
        machine={"versions": VERSIONS | {"pillow": "12.0.0"}}, conditions=CONDITIONS | {"dataset": {"fingerprint": "0"}}
    )
    (reason,) = baselines.incomparable(a_run(), new)
    assert reason.endswith(", was '2002bfeb03a8', which may come of pillow 11.0.0 -> 12.0.0")


def test_changes_of_versions_and_machine_are_listed() -> None:
    newer = {"versions": VERSIONS | {"keras": "3.16.0", "opencv": "5.0.0"}, "load_average": [9, 9, 9], "threads": 8}
    new = [a_run(machine=newer), a_run(machine=newer | H200 | {"precision": "mixed_bfloat16", "engine": "ncnn"})]
    assert sorted(baselines.changes([a_run(0), a_run(1)], new)) == [
        "device CPU -> CPU, NVIDIA H200",
        "engine keras -> keras, ncnn",
        "keras 3.15.1 -> 3.16.0",
        "precision float32 -> float32, mixed_bfloat16",
        "threads 2 -> 8",
    ]
    assert baselines.changes(new, new) == []
    assert baselines.changes([a_run(machine={})], [replace(a_run(), machine={})]) == [], "nothing is known"


def runs_in(place: str, seeds: int = 1, **changes: Any) -> list[Run]:
    backend, _, device = place.partition("-")
    machine = {"backend": backend} | (H200 if device != "cpu" else {})
    placed = [a_run(seed, machine, **changes) for seed in range(seeds)]
    assert {baselines.environment(run.machine) for run in placed} == {place}
    return placed


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"jax-cpu": 3, "tensorflow-cpu": 2, "tensorflow-nvidia-h200": 3}, "tensorflow-cpu"),
        ({"jax-cpu": 3, "tensorflow-nvidia-h200": 2}, "tensorflow-nvidia-h200"),
        ({"jax-cpu": 2, "jax-nvidia-h200": 3}, "jax-nvidia-h200"),
    ],
    ids=["its own environment", "its backend", "the most runs"],
)
def test_the_nearest_environment_is_chosen(there: dict[str, int], chosen: str) -> None:
    choice = baselines.choose([run for place, seeds in there.items() for run in runs_in(place, seeds)], [a_run(7)])
    assert choice.runs == runs_in(chosen, there[chosen])
    nearest = "the nearest, as nothing is comparable of tensorflow-cpu"
    why = "the environment of this run" if chosen == "tensorflow-cpu" else nearest
    assert choice.reason == f"{chosen}, seeds {', '.join(map(str, range(there[chosen])))}: {why}"


def test_incomparable_runs_are_left_out_with_the_reason() -> None:
    old, elsewhere = runs_in("tensorflow-cpu", 3), runs_in("jax-cpu")
    stale = [replace(run, conditions=CONDITIONS | {"weights": "ffff"}) for run in old[:2]]
    choice = baselines.choose([*stale, old[2], *elsewhere], [a_run()])
    assert choice.runs == [old[2]]
    assert choice.reason == "tensorflow-cpu, seed 2: the environment of this run"
    left_out = ["tensorflow-cpu, seeds 0, 1: not comparable, weights is 'a2f5', was 'ffff'"]
    assert choice.left_out == left_out
    assert baselines.choose([*stale, *elsewhere], [a_run()]).runs == elsewhere
    none = baselines.choose(stale, [a_run()])
    assert none == baselines.Baseline([], "no comparable baseline of fine_tuned on pets-full", left_out)


@pytest.mark.parametrize("other", [{"name": "augmented"}, {"dataset": "pets-mini"}, {"dataset": ""}], ids=str)
def test_runs_of_another_model_or_dataset_are_no_baseline(other: Any) -> None:
    choice = baselines.choose([a_run(**other)], [a_run()])
    assert choice == baselines.Baseline([], "no baseline yet of fine_tuned on pets-full", [])
