"""Tables of docs/scaling.md follow from its constants, and its model from measurements."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scaling

PAGE = (scaling.DOCS / "scaling.md").read_text()
RECORD = json.loads((scaling.DOCS / "scaling.json").read_text())
CONSTANTS = {name: entry["value"] for name, entry in RECORD["constants"].items()}


def test_every_table_follows_from_the_constants() -> None:
    assert scaling.render(PAGE, RECORD) == PAGE, "python -m benchmarks.scaling makes the tables anew"


def test_the_model_predicts_what_was_measured_at_three_sizes() -> None:
    """To a tenth, from a sixteenth of the pictures to all: constants that were taken from other pictures."""
    assert len(RECORD["core_seconds"]) == len(scaling.SIZES) == 3
    for size, taken in zip(scaling.SIZES, RECORD["core_seconds"], strict=True):
        assert scaling.seconds(CONSTANTS, "cpu", 1, size) == pytest.approx(taken, rel=0.1), f"{size} pictures"


def test_every_constant_says_whether_it_was_measured() -> None:
    for name, row in RECORD["constants"].items():
        assert row["whence"].partition(":")[0] in ("measured", "exact", "published", "assumed"), name
    rates = ("decode_per_core", "base_per_core", "hash_bytes_a_second", "store_bytes_a_second", "handed_out_per_core")
    assert {RECORD["constants"][name]["whence"].partition(":")[0] for name in rates} == {"measured"}
    assert RECORD["constants"]["gpu_flops"]["whence"].startswith("published")


def test_a_thousand_gpus_wait_for_the_process_that_hands_out() -> None:
    page = CONSTANTS
    pixels, features, wire = page["decoded_bytes"], page["feature_bytes"], page["network_bytes_a_second"]
    first = 1 / page["decode_per_core"] / page["cores_of_a_machine"] + pixels / page["hash_bytes_a_second"]
    store = features * (1 / page["store_bytes_a_second"] + 1 / page["hash_bytes_a_second"])
    base = page["flop_a_picture"] / page["gpu_flops"] / 1000
    each = first + max(pixels / wire, features / wire, store + 1 / page["handed_out_per_core"], base)
    assert scaling.seconds(page, "gpu", 1000, 1e9) == pytest.approx(1e9 * each)
    assert scaling.bottleneck(page, "gpu", 1000) == "hand out"


@given(
    st.sampled_from(["cpu", "gpu"]), st.integers(2, 10**4), st.integers(1, 10), st.integers(1, 10**9), st.integers(1, 9)
)
def test_devices_never_cost_time_and_pictures_take_time_in_proportion(
    kind: str, devices: int, more: int, pictures: int, times: int
) -> None:
    taken = scaling.seconds(CONSTANTS, kind, devices, pictures)
    assert scaling.seconds(CONSTANTS, kind, devices + more, pictures) <= taken
    assert scaling.seconds(CONSTANTS, kind, devices, times * pictures) == pytest.approx(times * taken)


def test_measuring_without_the_pictures_says_where_they_are_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVSPEC_DATA", raising=False)
    with pytest.raises(SystemExit, match=r"no dogs_vs_cats_small in CONVSPEC_DATA \(unset\)"):
        scaling.main(["measure"])


@pytest.mark.parametrize(
    ("duration", "words"),
    [(3.14159, "3.1 s"), (119, "120 s"), (120, "2 min"), (7200, "2 h"), (200000, "2.3 days"), (1e9, "32 years")],
)
def test_a_time_is_told_in_the_unit_that_suits(duration: float, words: str) -> None:
    assert scaling.format_duration(duration) == words
