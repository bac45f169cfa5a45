"""Records laid side by side say what they hold and no more; slower is told from noise by a rule with known errors."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from convspec import BadInput
from convspec.cli.main import main
from convspec.timings import compare, interleave
from convspec.timings.interleave import PYTEST

VERSIONS = {"python": "3.11.7", "convspec": "0.1.0", "keras": "3.15.1", "numpy": "2.4.6"}
LAPTOP = {
    "processor": "AMD EPYC", "cores": 2, "threads": 3, "accelerators": [], "backend": "tensorflow",
    "versions": VERSIONS,
}  # fmt: skip
H100 = LAPTOP | {
    "processor": "Intel Xeon", "cores": 16, "threads": 8, "accelerators": ["NVIDIA H100"],
    "versions": VERSIONS | {"keras": "3.14.0"},
}  # fmt: skip
RUNG, PLAIN = "benchmarks/test_ladder.py::test_rung[from_scratch]", "benchmarks/test_it.py::test_a_picture_is_read"


def entry(fullname: str = PLAIN, seconds: float = 0.25, rounds: int = 9, **facts: Any) -> dict[str, Any]:
    """A benchmark as pytest-benchmark writes it, of rounds that spread by 10 % about `seconds`."""
    data = [float(second) for second in seconds * np.linspace(0.9, 1.1, rounds)]
    told = {"group": "reading", "params": None, "extra_info": {}} | facts
    return {"fullname": fullname, "stats": {"median": seconds, "data": data}} | told


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, *entries: dict[str, Any], machine: dict[str, Any] | None = LAPTOP) -> Path:
        for benchmark in entries if machine else ():
            benchmark["extra_info"] = {"machine": machine} | benchmark["extra_info"]
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine_info": {"cpu": {"brand_raw": "Some CPU"}}, "benchmarks": entries}
        file.write_text(json.dumps(content), encoding="utf-8")
        return file

    return written


def compared(*files: Path) -> compare.Table:
    return compare.compare(compare.read(files))


# Reading


def test_a_record_is_called_by_its_file_without_pytest_benchmarks_number(write: Write) -> None:
    files = [write("Linux/0001_laptop.json", entry()), write("h100.json", entry()), write("0003_.json", entry())]
    assert [record.label for record in compare.read(files)] == ["laptop", "h100", "0003_"]


def test_records_of_one_name_are_numbered_in_the_order_given(write: Write) -> None:
    files = [write(f"{folder}/0001_x.json", entry()) for folder in "ab"]
    one, _, other = compare.read([files[1], write("y.json", entry()), files[0]])
    assert [one.label, other.label] == ["x #1", "x #2"]
    assert [one.path, other.path] == [str(files[1]), str(files[0])]


def test_what_pytest_benchmark_writes_is_read_as_it_was_measured(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # pytest-benchmark times nothing in xdist's processes
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("what", [object()])
        def test_it(benchmark, what):
            benchmark.extra_info.update(images_per_second=20.5, share_of_probe=0.5, machine={"processor": "Z80"})
            benchmark.group = "some group"
            benchmark.pedantic(lambda: None, rounds=7)
        """
    )
    pytester.runpytest("--benchmark-json=0001_it.json", "-p", "no:randomly", "-p", "no:xdist").assert_outcomes(passed=1)
    (record,) = compare.read([pytester.path / "0001_it.json"])
    assert record.machine == "Z80, cores unknown, threads unknown"
    (timing,) = record.timings.values()
    assert len(timing.seconds) == 7
    assert timing.median == np.median(timing.seconds)
    assert (timing.images_per_second, timing.flops_per_second, timing.share_of_probe) == (20.5, None, 0.5)
    params = "{'what': 'UNSERIALIZABLE[<object object>]'}"  # without its address, which no two runs share
    assert timing.work == {"group": "some group", "params": params}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "JSONDecodeError"),
        (b'{"benchmarks": [{"fullname": "a', "JSONDecodeError"),
        (b"\x89PNG\r\n", "UnicodeDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b"[1]", "TypeError"),
        (b'{"runs": []}', "KeyError: 'benchmarks'"),
        (b'{"benchmarks": []}', "no benchmarks in it"),
        (b'{"benchmarks": [3]}', "TypeError"),
        (b'{"benchmarks": [{"fullname": "a"}]}', "KeyError: 'stats'"),
        (b'{"benchmarks": [{"fullname": "a", "stats": {"median": "x"}}]}', "the median of a is 'x'"),
        (b'{"benchmarks": [{"fullname": "a", "stats": {"median": NaN}}]}', "the median of a is nan"),
        (b'{"benchmarks": [{"fullname": "a", "stats": {"median": 0}}]}', "the median of a is 0"),
        (b'{"benchmarks": [{"fullname": "a", "stats": {"median": 1}, "extra_info": []}]}', "AttributeError"),
        (b'{"benchmarks": [{"fullname": "a", "stats": {"median": 1' + b"0" * 400 + b"}}]}", "OverflowError"),
    ],
)
def test_a_file_that_is_damaged_or_foreign_is_named_with_the_reason(
    content: bytes, reason: str, tmp_path: Path, write: Write, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "strange.json"
    file.write_bytes(content)
    assert main(["compare", str(write("good.json", entry())), str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"convspec: error: '{file}' is damaged or no record of pytest-benchmark (")
    assert reason in captured.err
    assert captured.err.endswith("; give files that pytest wrote with --benchmark-json or --benchmark-save\n")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'.*none\.json' is missing; give files"):
        compare.read([tmp_path / "none.json"])


def test_a_name_that_is_no_text_can_be_printed(write: Write) -> None:
    table = compared(write("caf\udce9.json", entry()))
    assert "caf\\xe9" in table.titles[1]
    table.text().encode()


# The table


def test_each_record_has_its_median_speed_share_and_the_ratio_to_the_first(write: Write) -> None:
    facts = {"images_per_second": 1234.5, "share_of_probe": 0.614}
    table = compared(
        write("a.json", entry(seconds=0.25, extra_info=facts)), write("b.json", entry(seconds=0.5), machine=H100)
    )
    assert table.titles == ["benchmark", "a: median", "speed", "of limit", "b: median", "speed", "of limit", "ratio"]
    assert table.rows[0] == ["reading"]
    assert table.rows[1][:7] == ["a picture is read", "250 ms", "1,234 img/s", "61.4 %", "500 ms", "unknown", "unknown"]
    assert table.rows[1][7].startswith("2.00 [")


@pytest.mark.parametrize("value", [None, 0, -1, float("nan"), float("inf"), "fast", []])
def test_what_was_not_measured_is_unknown_and_never_0(value: object, write: Write) -> None:
    facts = dict.fromkeys(("images_per_second", "flops_per_second", "share_of_probe"), value)
    assert compared(write("a.json", entry(extra_info=facts))).rows[1][2:] == ["unknown", "unknown"]


def test_what_has_no_images_is_told_in_operations(write: Write) -> None:
    assert compared(write("a.json", entry(extra_info={"flops_per_second": 2.5e12}))).rows[1][2] == "2,500 GFLOP/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(95, "95.0 s"), (1234.4, "1,234 s"), (1, "1.00 s"), (0.0948, "94.8 ms"), (0.00012, "120 us"), (3e-8, "0.0300 us")],
)
def test_a_time_has_three_digits_and_the_unit_that_suits_it(seconds: float, text: str, write: Write) -> None:
    assert compared(write("a.json", entry(seconds=seconds))).rows[1][1] == text


def test_groups_stand_in_the_order_of_the_first_record_with_all_their_benchmarks(write: Write) -> None:
    first = [entry("t.py::test_1", group="x"), entry("t.py::test_2", group="y")]
    table = compared(
        write("a.json", *first), write("b.json", entry("t.py::test_3", group="x"), entry("t.py::test_4", group=None))
    )
    assert [row[0] for row in table.rows] == ["x", "1", "3", "y", "2", "no group", "4"]


def test_an_installed_packages_benchmarks_are_those_of_its_repository(write: Write) -> None:
    installed = "../.venv/lib/site-packages/convspec/benchmarks/test_ladder.py::test_rung[from_scratch]"
    table = compared(write("a.json", entry(RUNG)), write("b.json", entry(installed)))
    assert [row[0] for row in table.rows] == ["reading", "rung[from_scratch]"]
    assert not any("missing" in line for line in table.below)


def test_benchmarks_of_one_name_in_two_files_are_told_apart(write: Write) -> None:
    table = compared(write("a.json", entry("one.py::test_it"), entry("b/two.py::test_it"), entry("b/two.py::test_a_b")))
    assert [row[0] for row in table.rows[1:]] == ["one.py::test_it", "b/two.py::test_it", "a b"]


def test_the_interval_is_of_the_ratio_of_the_medians_and_the_same_every_time(write: Write) -> None:
    """For normal data the median of n has a deviation of about 1.2533 sigma / sqrt(n)."""
    rng = np.random.default_rng(1)
    sides = []
    for name, mean in (("a", 1.0), ("b", 0.95)):
        benchmark = entry()
        data = rng.normal(mean, 0.1 * mean, 400)
        benchmark["stats"] = {"median": float(np.median(data)), "data": list(data)}
        sides.append(write(f"{name}.json", benchmark))
    cells = {compared(*sides).rows[1][-1] for _ in range(5)}
    assert len(cells) == 1
    ratio, low, high = map(float, re.findall(r"[\d.]+", cells.pop()))
    half = 1.96 * 0.95 * 0.1 * 1.2533 * np.sqrt(2 / 400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.3)
    assert ratio == pytest.approx(0.95, abs=half)
    assert low < ratio < high


@pytest.mark.parametrize(("rounds", "told"), [(0, False), (4, False), (5, True)])
def test_the_interval_is_left_out_where_the_rounds_are_too_few(rounds: int, told: bool, write: Write) -> None:
    table = compared(write("a.json", entry()), write("b.json", entry(rounds=rounds)))
    assert bool(re.fullmatch(r"1\.00( \[0\.\d+, 1\.\d+\])?", table.rows[1][-1]))
    assert ("[" in table.rows[1][-1]) == told


# What is not the same


def test_the_lines_above_say_which_machine_and_versions_each_record_is_of(write: Write) -> None:
    a, b, c = write("a.json", entry()), write("b.json", entry(), machine=H100), write("c.json", entry(), machine=None)
    versions = "backend tensorflow, python 3.11.7, convspec 0.1.0, keras"
    assert compared(a, b, c).above == [
        f"a ({a}): AMD EPYC, cores 2, threads 3; versions: {versions} 3.15.1, numpy 2.4.6",
        f"b ({b}): NVIDIA H100 with Intel Xeon, cores 16, threads 8; versions: {versions} 3.14.0, numpy 2.4.6",
        f"c ({c}): Some CPU, cores unknown, threads unknown; versions: unknown",
    ]


def test_a_benchmark_that_a_record_lacks_is_named_and_has_no_figures(write: Write) -> None:
    others = [entry(f"t.py::test_{name}") for name in ("one", "two")]
    table = compared(write("a.json", entry()), write("b.json", entry(), *others))
    assert "missing in a: one; two" in table.below
    assert not any(line.startswith("missing in b") for line in table.below)
    assert table.rows[2] == ["one", "missing", "-", "-", "250 ms", "unknown", "unknown", "-"]


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"group": "writing"}, "group: reading (a), writing (b)"),
        ({"params": {"n": 2}}, "params: {'n': 1} (a), {'n': 2} (b)"),
        ({"extra_info": {"recipe": "other", "pictures": 4}}, "recipe: one (a), other (b)"),
        ({"extra_info": {"recipe": "one", "pictures": 5}}, "pictures: 4 (a), 5 (b)"),
    ],
)
def test_a_benchmark_of_other_work_is_named_and_not_set_in_proportion(
    facts: dict[str, Any], line: str, write: Write
) -> None:
    def work() -> dict[str, Any]:
        return {"params": {"n": 1}, "extra_info": {"recipe": "one", "pictures": 4}}

    table = compared(write("a.json", entry(**work())), write("b.json", entry(**work() | facts)))
    changes = [line for line in table.below if line.startswith("changed: ")]
    assert changes == [f"changed: a picture is read: {line}"]
    assert [table.rows[0], table.rows[1][-1]] == [["reading"], "changed"]


def test_a_fact_that_one_record_does_not_tell_is_no_change(write: Write) -> None:
    one = entry(params={"n": 1}, extra_info={"pictures": 4})
    table = compared(write("a.json", one), write("b.json", entry(), machine=None))
    assert table.rows[1][-1].startswith("1.00 [")
    assert table.below == compare.FOOTNOTES


def test_versions_that_differ_are_named_and_those_that_do_not_are_not(write: Write) -> None:
    table = compared(write("a.json", entry()), write("b.json", entry(), machine=H100 | {"backend": "jax"}))
    assert [line for line in table.below if "version" in line] == [
        "differs: version of backend: tensorflow (a), jax (b)",
        "differs: version of keras: 3.15.1 (a), 3.14.0 (b)",
    ]


# As text, Markdown and picture

TABLE = compare.Table(
    ["a_b (file): machine"],
    ["benchmark", "a: median", "ratio"],
    [["group 1"], ["name of a benchmark " * 4, "95.0 ms", "-"], ["short[a|b-*]", "1 s", "2.00 [1.90, 2.10]"]],
    ["missing"],
)


def test_the_text_is_in_columns_and_long_names_run_on_below() -> None:
    assert TABLE.text().split("\n") == [
        "a_b (file): machine",
        "",
        f"{'benchmark':44}  a: median              ratio",
        "",
        "group 1",
        f"{'name of a benchmark name of a benchmark name':44}    95.0 ms                  -",
        "  of a benchmark name of a benchmark",
        f"{'short[a|b-*]':44}        1 s  2.00 [1.90, 2.10]",
        "",
        "missing",
    ]
    assert compare.Table([], ["x", "y"], [], []).text().split() == ["x", "y"]


def test_markdown_is_a_table_between_lists_with_what_is_special_escaped() -> None:
    assert TABLE.markdown().split("\n") == [
        r"- a\_b (file): machine",
        "",
        "| benchmark | a: median | ratio |",
        "| --- | ---: | ---: |",
        "| **group 1** |  |  |",
        f"| {'name of a benchmark ' * 4} | 95.0 ms | - |",
        r"| short[a\|b-\*] | 1 s | 2.00 [1.90, 2.10] |",
        "",
        "- missing",
        "",
    ]
    assert compare.Table([], ["x", "y"], [], []).markdown().split("\n")[1] == "| x | y |"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved, too."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def drawn(folder: Path, write: Write, *figures: tuple[float, float | None]) -> np.ndarray:
    """The chart of a record with a benchmark for each speed and share."""
    entries = [
        entry(f"t.py::test_{n}", extra_info={"images_per_second": speed, "share_of_probe": share})
        for n, (speed, share) in enumerate(figures)
    ]
    compare.plot(compare.read([write("a.json", *entries)]), folder / "chart.png")
    return np.asarray(Image.open(folder / "chart.png").convert("RGB")).astype(int)


def test_a_dot_stands_for_each_speed_at_the_left_and_each_share_at_the_right(tmp_path: Path, write: Write) -> None:
    chart = drawn(tmp_path, write, (10, 0.3), (100, 0.5), (1000, 0.7))
    for middle, at_the_left in (((300, 0.5), True), ((100, 0.6), False)):
        other = drawn(tmp_path, write, (10, 0.3), middle, (1000, 0.7))
        rows, columns, _ = np.nonzero(chart != other)
        height, width, _ = chart.shape
        assert len(rows), f"moving the middle benchmark to {middle} must show"
        assert np.ptp(rows) < height / 8, "only one benchmark may change"
        assert (columns.max() < 0.62 * width) if at_the_left else (columns.min() > 0.55 * width)


def test_an_unknown_share_has_no_dot(tmp_path: Path, write: Write) -> None:
    for share, expected in ((0.5, True), (None, False)):
        right = drawn(tmp_path, write, (10, share))[:, 850:]
        blue = np.abs(right - (0x44, 0x77, 0xAA)).sum(axis=-1) < 9
        assert blue.any() == expected


def test_the_chart_names_records_benchmarks_units_and_what_is_not_known_and_no_two_texts_overlap(
    tmp_path: Path, write: Write, figures: list[Figure]
) -> None:
    long = "test_a_class_activation_map_takes_no_longer_than_two_forward_passes_of_the_same_model_$x$_would"
    facts = [{"images_per_second": 20, "share_of_probe": 0.5}, {"images_per_second": 1e6, "share_of_probe": 0.999}]
    of_one = [entry(f"t.py::{long}", extra_info=facts[0]), entry(extra_info={}), entry(RUNG, group="$x$")]
    of_other = [entry(f"t.py::{long}", extra_info=facts[1]), entry(extra_info={}, seconds=1e-3, params={"n": 1})]
    of_third = [entry(extra_info={"share_of_probe": 1.3}, params={"n": 2})]
    files = [write("a.json", *of_one), write("b$x$.json", *of_other, machine=H100), write("c.json", *of_third)]
    compare.plot(compare.read(files), tmp_path / "chart.png")
    (figure,) = figures
    figure.draw_without_rendering()  # places all texts anew, for the figure's own resolution
    texts = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text()]
    texts = [
        text for text in texts if not re.fullmatch(r"\d+|\$.mathdefault.*", text.get_text())
    ]  # but for axes' numbers
    said = [text.get_text().replace("\n", " ") for text in texts]
    expected = [long[5:].replace("_", " "), "a picture is read (changed)", "rung[from_scratch]", "reading", "$x$"]
    expected += ["20.0 img/s", "1,000,000 img/s", "4.00 runs/s", "1,000 runs/s", "50.0 %", "99.9 %", "130 %"]
    expected += ["a: AMD EPYC, cores 2, threads 3", r"b\$x\$: NVIDIA H100 with Intel Xeon, cores 16, threads 8"]
    assert [text for text in expected if text not in said] == []
    assert (said.count("missing"), said.count("unknown")) == (6, 3)
    boxes = [text.get_window_extent() for text in texts]
    width, height = figure.bbox.size
    for place, (box, text) in enumerate(zip(boxes, said, strict=True)):
        assert 0 <= box.x0 < box.x1 <= width, f"{text} is cut off"
        assert 0 <= box.y0 < box.y1 <= height, f"{text} is cut off"
        for other, over in zip(boxes[:place], said[:place], strict=True):
            assert not box.shrunk(0.98, 0.98).overlaps(other.shrunk(0.98, 0.98)), f"{text} lies over {over}"


@pytest.mark.parametrize("name", ["chart", "chart.txt"])
def test_a_chart_that_is_no_picture_by_its_name_is_refused(
    name: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["compare", str(write("a.json", entry())), "--plot", str(tmp_path / name)]) == 1
    error = f"convspec: error: '{tmp_path / name}' is no name of a picture; end it in .png, .svg, .pdf\n"
    assert capsys.readouterr() == ("", error)


# Slower, or noise?


def outcomes(
    slowdown: float, noise: float = 0.1, rounds: int = 10, seconds: float = 0.1, trials: int = 2000
) -> list[str]:
    """Verdicts on sides that differ by `slowdown` and by noise, which half of the time meets both sides of a round."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(trials):
        common = rng.normal(0, noise, rounds)
        base, new = (np.exp(common + rng.normal(0, noise, rounds)) * seconds for _ in range(2))
        verdicts.append(interleave.judge(base, new * slowdown).outcome)
    return verdicts


@pytest.mark.parametrize("rounds", [interleave.MIN_ROUNDS, interleave.ROUNDS])
def test_equal_sides_are_called_slower_less_than_once_in_100_times(rounds: int) -> None:
    assert outcomes(1, rounds=rounds).count("slower") < 20


def test_a_slow_down_by_30_percent_is_caught_95_times_in_100_by_the_usual_rounds() -> None:
    assert outcomes(1.3).count("slower") > 1900


def test_a_slow_down_within_5_percent_is_no_alarm_however_sure() -> None:
    assert outcomes(1.04, noise=0.001, trials=100) == ["no slower"] * 100


def test_a_slow_down_of_less_than_2_ms_is_no_alarm_however_sure() -> None:
    assert outcomes(2, noise=0.001, seconds=0.0019, trials=100) == ["no slower"] * 100
    assert outcomes(2, noise=0.001, seconds=0.0022, trials=100) == ["slower"] * 100


def test_what_noise_hides_is_not_called_the_same() -> None:
    assert outcomes(1.1, noise=0.3, trials=200).count("cannot tell") > 180


def test_the_verdict_holds_the_ratio_and_students_interval_of_its_logarithm() -> None:
    verdict = interleave.judge([1, 1, 1, 1], [2, 2, 4, 4])
    half = 3.18245 * np.log(2) / 2 / np.sqrt(3)  # t for 3 degrees of freedom, and the deviation by n - 1
    center = 1.5 * np.log(2)
    assert [verdict.ratio, verdict.low, verdict.high] == pytest.approx(np.exp([center, center - half, center + half]))
    assert verdict.outcome == "slower"
    assert interleave.judge([2, 2, 4, 4], [1, 1, 1, 1]).ratio == pytest.approx(2**-1.5)


BENCHMARKS = """
import time

def test_sleep(benchmark):
    benchmark.group = "sleeping"
    benchmark.pedantic(lambda: time.sleep({seconds}), rounds=3)
    benchmark.extra_info["pictures"] = 1

def test_same(benchmark):
    benchmark.pedantic(lambda: time.sleep(0.03), rounds=3)
    assert benchmark.disabled, "timed, and failed after that"

def test_left_out(benchmark):
    benchmark.pedantic(int, rounds=1)

def test_only_in_{side}(benchmark):
    benchmark.pedantic(int, rounds=1)

def test_changed(benchmark):
    benchmark.group = "group of {side}"
    benchmark.pedantic(int, rounds=1)
"""


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, Path]:
    """Two installed versions of the package: copies of it with benchmarks that sleep, the new one's for longer."""
    folders = {}
    for side, seconds in (("base", 0.02), ("new", 0.06)):
        folders[side] = tmp_path / side
        package = folders[side] / "convspec"
        shutil.copytree(
            Path(compare.__file__).parents[1], package, ignore=shutil.ignore_patterns("*.h5", "__pycache__")
        )
        (package / "benchmarks").mkdir()
        (package / "benchmarks" / "test_it.py").write_text(BENCHMARKS.format(side=side, seconds=seconds))
    return folders


def interleaved(sides: dict[str, Path], *arguments: str) -> subprocess.CompletedProcess:
    """What the new side's command says of the base side."""
    command = [sys.executable, "-m", "convspec", "compare", "--interleave", str(sides["base"]), "--rounds", "3"]
    environment = os.environ | {"PYTHONPATH": str(sides["new"]), "PYTEST_ADDOPTS": "--no-such-option"}
    return subprocess.run(
        [*command, *arguments], cwd=sides["new"].parent, env=environment, capture_output=True, text=True, check=False
    )


def test_two_versions_in_turn_end_in_a_verdict_on_each_benchmark(sides: dict[str, Path], tmp_path: Path) -> None:
    run = interleaved(sides, "--bench", "not left_out", "--markdown", "table.md")
    assert run.returncode == 1, run.stderr
    order = re.findall(r"round (\d) of 3: (\w+), [\d.]+ s\n", run.stderr)
    assert order == [("1", "base"), ("1", "new"), ("2", "new"), ("2", "base"), ("3", "base"), ("3", "new")], run.stderr
    rows = [re.split(r"\s\s+", line.strip()) for line in run.stdout.splitlines()]
    found = {row[0]: row[1:] for row in rows if len(row) == 5}
    assert found.pop("benchmark") == ["base", "new", "new / base", "verdict"]
    assert re.match(r"0\.\d+ \[|1\.\d+ \[", found.pop("same")[2]), "what fails after it was timed is judged"
    assert {name: row[-1] for name, row in found.items()} == {
        "sleep": "slower", "changed": "changed",
        "only in base": "vanished", "only in new": "not in base",
    }  # fmt: skip
    medians = [float(cell.removesuffix(" ms")) for cell in found["sleep"][:2]]
    assert 20 <= medians[0] < 60 <= medians[1]
    ratio, low, high = map(float, re.findall(r"[\d.]+", found["sleep"][2]))
    assert 1.05 < low <= ratio <= high
    assert found["only in base"][1:3] == ["missing", "-"]
    lines = run.stdout.splitlines()
    assert lines[0].startswith(f"base ({sides['base']}): ")
    assert lines[1].startswith(f"new ({sides['new']}): ")
    assert "missing in new: only in base" in lines
    assert "test_it.py differs between the sides: so may what it times" in lines
    assert lines[-1].startswith("3 rounds, paired. slower: the whole 95 % interval of new / base is above 1.05, and")
    assert "| sleep |" in (tmp_path / "table.md").read_text()
    written = {path.name for side in sides.values() for path in side.rglob("*")} - {"__pycache__"}
    assert not {name for name in written if name.startswith(".")}, "nothing is left in either side's folder"


@pytest.mark.parametrize(
    ("new", "outcome", "well"),
    [([1.0, 1.0, 1.0], "no slower", True), ([0.5, 2, 8], "cannot tell", True), ([2, 2, 2.1], "slower", False)],
)
def test_only_a_slower_or_a_vanished_benchmark_fails(
    new: list[float], outcome: str, well: bool, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, own = tmp_path / "base", tmp_path / "new"
    for side in (base, own):
        (side / "convspec").mkdir(parents=True)
        (side / "convspec" / "__init__.py").touch()
        (side / "benchmarks").mkdir()
    monkeypatch.setattr(compare, "__file__", str(own / "convspec" / "timings" / "compare.py"))
    only_new = entry("benchmarks/test_it.py::test_b")
    lacking: dict[Path, set[int]] = {own: set(), base: set()}
    calls: list[str] = []

    def timed(side: Path, expression: str, folder: Path) -> compare.Record:
        number = calls.count(side.name)
        calls.append(side.name)
        assert (expression, folder.name) == ("x", f"{number}-{side.name}")
        entries = [entry(seconds=new[number]), only_new] if side == own else [entry(seconds=1)]
        entries += [entry(RUNG, seconds=1)] if number not in lacking[side] else []
        return compare.read([write("record.json", *entries)])[0]

    monkeypatch.setattr(interleave, "_timed", timed)
    table, passed = interleave.interleave(base, "x", 3, StringIO())
    assert calls == ["base", "new", "new", "base", "base", "new"]
    assert [row[-1] for row in table.rows[1:]] == [outcome, "no slower", "not in base"]
    assert passed == well, f"{outcome} should {'pass' if well else 'fail'}"
    for side, changed in ((base, "not in base"), (own, "vanished")):
        calls.clear()
        lacking[side] = {1}  # in one of three rounds
        table, passed = interleave.interleave(base, "x", 3, StringIO())
        assert [row[-1] for row in table.rows if row[0] == "rung[from_scratch]"] == [changed], "in two of three rounds"
        assert passed == (well and side == base), f"{changed} should {'pass' if side == base else 'fail'}"
        lacking[side] = set()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "no package",
            "'{base}' has no convspec/ with benchmarks/ in or beside it; give the folder of a version: a git",
        ),
        ("no benchmarks", "'{base}' has no convspec/ with benchmarks/ in or beside it; give the folder of a version:"),
        ("none picked", "--bench 'sleep and same' picks no benchmark of '{base}/convspec/benchmarks'; see pytest --co"),
        ("broken", "the benchmarks in '{base}/convspec/benchmarks' timed nothing, pytest ended with 2:"),
        ("another's package", "the benchmarks in '{base}/convspec/benchmarks' timed nothing, pytest ended with 1:"),
    ],
)
def test_a_side_that_cannot_be_run_is_named_with_the_reason(
    fault: str, message: str, sides: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package, reason = sides["base"] / "convspec", ""
    if fault == "no package":
        (package / "__init__.py").unlink()
    elif fault == "no benchmarks":
        shutil.rmtree(package / "benchmarks")
    elif fault == "broken":
        (package / "benchmarks" / "test_it.py").write_text("import no_such_module_at_all")
        reason = "No module named 'no_such_module_at_all'"
    elif fault == "another's package":
        monkeypatch.setenv("PYTHONSAFEPATH", "1")
        monkeypatch.setattr(interleave, "PYTEST", f"import sys; sys.path.insert(0, {str(sides['new'])!r})\n" + PYTEST)
        reason = f"PYTHONPATH={sides['base']}, but convspec is imported from {sides['new']}/convspec/__init__.py"
    with pytest.raises(BadInput) as error:
        interleave.interleave(sides["base"], "sleep and same" if fault == "none picked" else "sleep", 3, StringIO())
    assert str(error.value).startswith(message.format(base=sides["base"]))
    assert reason in str(error.value)


def test_too_few_rounds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", "--interleave", str(tmp_path), "--rounds", "2"]) == 1
    assert "--rounds 2 cannot tell a difference from noise; give 3 or more" in capsys.readouterr().err


def test_the_benchmarks_picked_by_default_are_there() -> None:
    sources = "".join(file.read_text() for file in (Path(__file__).parents[3] / "benchmarks").glob("test_*.py"))
    words = set(re.findall(r"\w+", interleave.QUICK)) - {"and", "or", "not"}
    assert [word for word in sorted(words) if word not in sources] == []
    assert len(words) == 4


# The command line


def test_records_are_printed_and_written_as_a_table_and_drawn(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = [write("a.json", entry()), write("b.json", entry(seconds=2.5), machine=H100)]
    page, chart = tmp_path / "new" / "table.md", tmp_path / "new" / "chart.png"
    assert main(["compare", *map(str, files), "--markdown", str(page), "--plot", str(chart)]) == 0, "ten times slower"
    table = compared(*files)
    assert capsys.readouterr().out == table.text() + "\n"
    assert page.read_text(encoding="utf-8") == table.markdown()
    assert Image.open(chart).size[0] > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--interleave", "base", "--plot", "x.png"], "--plot draws records; leave it out with --interleave"),
        (["a.json", "--bench", "x"], "--bench and --rounds go with --interleave; leave them out with records"),
        (["a.json", "--rounds", "0"], "--bench and --rounds go with --interleave; leave them out with records"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["compare", *arguments]) == 1
    assert capsys.readouterr().err == f"convspec: error: {message}\n"


@pytest.mark.parametrize("arguments", [[], ["a.json", "--interleave", "base"], ["--interleave", "b", "--rounds", "x"]])
def test_records_or_a_base_must_be_given_and_not_both(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        main(["compare", *arguments])
    assert error.value.code == 2
    assert "usage: convspec compare" in capsys.readouterr().err


def test_interleave_has_its_defaults_and_passes_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []

    def timed(*arguments: Any) -> tuple[compare.Table, bool]:
        calls.append(arguments)
        return TABLE, len(calls) == 1

    monkeypatch.setattr(interleave, "interleave", timed)
    assert main(["compare", "--interleave", "base"]) == 0
    assert main(["compare", "--interleave", "base", "--bench", "x and y", "--rounds", "5"]) == 1
    usual = (Path("base"), interleave.QUICK, 10, sys.stderr)
    assert calls == [usual, (Path("base"), "x and y", 5, sys.stderr)]


def test_ctrl_c_says_that_nothing_is_kept_and_is_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(interleave, "interleave", interrupted)
    assert main(["compare", "--interleave", "base"]) == 130
    assert capsys.readouterr().err == "convspec: interrupted; the same command starts again\n"
