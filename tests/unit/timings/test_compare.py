"""Records laid side by side say what they hold and no more."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from convspec import BadInput
from convspec.cli.main import main
from convspec.report.tables import Table
from convspec.timings import compare

VERSIONS = {"python": "3.11.7", "convspec": "0.1.0", "keras": "3.15.1", "numpy": "2.4.6"}
LAPTOP = {
    "processor": "AMD EPYC", "cores": 2, "threads": 3, "accelerators": [], "backend": "tensorflow",
    "precision": "float32", "versions": VERSIONS,
}  # fmt: skip
H100 = LAPTOP | {
    "processor": "Intel Xeon", "cores": 16, "threads": 8, "accelerators": ["NVIDIA H100"],
    "precision": "tf32", "versions": VERSIONS | {"keras": "3.14.0"},
}  # fmt: skip
RUNG, PLAIN = "benchmarks/test_ladder.py::test_rung[from_scratch]", "benchmarks/test_it.py::test_a_picture_is_read"


def entry(fullname: str = PLAIN, seconds: float = 0.25, rounds: int = 9, **facts: Any) -> dict[str, Any]:
    """A benchmark as pytest-benchmark writes it, of rounds that spread by 10 % about `seconds`."""
    data = [float(second) for second in seconds * np.linspace(0.9, 1.1, rounds)]
    defaults: dict[str, Any] = {"group": "reading", "params": None, "extra_info": {}}
    return {"fullname": fullname, "stats": {"median": seconds, "data": data}} | defaults | facts


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, *entries: dict[str, Any], machine: dict[str, Any] | None = LAPTOP) -> Path:
        for benchmark in entries if machine else ():
            benchmark["extra_info"] = {"machine": machine} | benchmark["extra_info"]
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine_info": {"cpu": {"brand_raw": "Some CPU"}}, "benchmarks": entries}
        file.write_text(json.dumps(content), encoding="utf-8")
        return file

    return write


def compared(*files: Path) -> Table:
    return compare.compare(compare.read(files))


# Reading


def test_a_record_is_called_by_its_file_and_numbered_where_two_are_alike(write: Write) -> None:
    files = [write(name, entry()) for name in ("Linux/0001_x.json", "h100.json", "0003_.json", "b/0001_x.json")]
    records = compare.read(files)
    assert [record.label for record in records] == ["x #1", "h100", "0003_", "x #2"]
    assert [record.path for record in records] == [str(file) for file in files]


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
    assert record.machine == "Z80, cores unknown, threads unknown, precision unknown"
    (timing,) = record.timings.values()
    assert len(timing.seconds) == 7
    assert timing.median == np.median(timing.seconds)
    assert (timing.images_per_second, timing.flops_per_second, timing.share_of_probe) == (20.5, None, 0.5)
    params = "{'what': 'UNSERIALIZABLE[<object object>]'}"  # without its address, which no two runs share
    assert timing.work == {"group": "some group", "params": params}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"benchmarks": [{"fullname": "a', "JSONDecodeError"),
        (b"\x89PNG\r\n", "UnicodeDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b"[1]", "Expected `object`, got `array`"),
        (b'{"runs": []}', "missing required field `benchmarks`"),
        (b'{"benchmarks": []}', "Expected `array` of length >= 1 - at `$.benchmarks`"),
        (b'{"benchmarks": [{"fullname": "a"}]}', "missing required field `stats` - at `$.benchmarks[0]`"),
        (b'{"benchmarks": [{"fullname": "a", "stats": {"median": "x"}}]}', "got `str` - at `$.benchmarks[0].stats.me"),
        (b'{"benchmarks": [{"fullname": "a", "stats": {"median": NaN}}]}', "Expected `float` >= 1e-09"),
        (b'{"benchmarks": [{"fullname": "a", "stats": {"median": 1' + b"0" * 400 + b"}}]}", "[0].stats.median"),
        (
            b'{"benchmarks": [{"fullname": "a", "stats": {"median": 1}, "extra_info": {"machine": 3}}]}',
            "AttributeError",
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_named_with_the_reason(
    content: bytes, reason: str, tmp_path: Path, write: Write, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "strange.json"
    file.write_bytes(content)
    assert main(["compare", str(write("good.json", entry())), str(file)]) == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(f"convspec: error: '{file}' is damaged or no record of pytest-benchmark (")
    assert reason in error
    assert error.endswith("; give files that pytest wrote with --benchmark-json or --benchmark-save\n")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'.*none\.json' is missing; give files"):
        compare.read([tmp_path / "none.json"])


def test_a_name_that_is_no_unicode_can_be_printed(write: Write) -> None:
    table = compared(write("caf\udce9.json", entry()))
    assert "caf\\xe9" in table.titles[1]
    table.text().encode()


# The table


def test_each_record_has_median_speed_share_and_ratio_to_the_first(write: Write) -> None:
    facts = {"images_per_second": 1234.5, "share_of_probe": 0.614}
    table = compared(
        write("a.json", entry(seconds=0.25, extra_info=facts)), write("b.json", entry(seconds=0.5), machine=H100)
    )
    assert table.titles == ["benchmark", "a: median", "speed", "of limit", "b: median", "speed", "of limit", "ratio"]
    assert table.rows[0] == ["reading"]
    assert table.rows[1][:7] == ["a picture is read", "250 ms", "1,234 img/s", "61.4 %", "500 ms", "unknown", "unknown"]
    assert table.rows[1][7].startswith("2.00 [")


@pytest.mark.parametrize("value", [None, "unknown", 0, -1, float("nan"), float("inf")])
def test_what_was_not_measured_is_unknown_and_never_0(value: object, write: Write) -> None:
    facts = dict.fromkeys(("images_per_second", "flops_per_second", "share_of_probe"), value)
    assert compared(write("a.json", entry(extra_info=facts))).rows[1][2:] == ["unknown", "unknown"]


def test_speed_is_in_operations_where_there_are_no_images(write: Write) -> None:
    assert compared(write("a.json", entry(extra_info={"flops_per_second": 2.5e12}))).rows[1][2] == "2,500 GFLOP/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(95, "95.0 s"), (1234.4, "1,234 s"), (1, "1.00 s"), (0.0948, "94.8 ms"), (0.00012, "120 us"), (3e-8, "0.0300 us")],
)
def test_a_time_has_three_digits_and_the_unit_that_suits_it(seconds: float, text: str, write: Write) -> None:
    assert compared(write("a.json", entry(seconds=seconds))).rows[1][1] == text


def test_groups_stand_in_the_order_of_the_first_record(write: Write) -> None:
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


def test_the_interval_of_the_ratio_is_as_wide_as_theory_has_it(write: Write) -> None:
    """For normal data the median of n has a deviation of about 1.2533 sigma / sqrt(n)."""
    rng = np.random.default_rng(1)
    sides = []
    for name, mean in (("a", 1.0), ("b", 0.95)):
        data = rng.normal(mean, 0.1 * mean, 400)
        sides.append(write(f"{name}.json", entry(stats={"median": float(np.median(data)), "data": list(data)})))
    cells = {compared(*sides).rows[1][-1] for _ in range(3)}
    assert len(cells) == 1, "the same every time"
    ratio, low, high = map(float, re.findall(r"[\d.]+", cells.pop()))
    half = 1.96 * 0.95 * 0.1 * 1.2533 * np.sqrt(2 / 400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.3)
    assert ratio == pytest.approx(0.95, abs=half)
    assert low < ratio < high


@pytest.mark.parametrize(("rounds", "interval"), [(0, ""), (4, ""), (5, r" \[0\.\d+, 1\.\d+\]")])
def test_fewer_than_five_rounds_give_no_interval(rounds: int, interval: str, write: Write) -> None:
    table = compared(write("a.json", entry()), write("b.json", entry(rounds=rounds)))
    assert re.fullmatch(rf"1\.00{interval}", table.rows[1][-1])


# What is not the same


def test_the_lines_above_tell_machine_and_versions_of_each_record(write: Write) -> None:
    a, b, c = write("a.json", entry()), write("b.json", entry(), machine=H100), write("c.json", entry(), machine=None)
    versions = "versions: backend tensorflow, python 3.11.7, convspec 0.1.0, keras"
    assert compared(a, b, c).above == [
        f"a ({a}): AMD EPYC, cores 2, threads 3, precision float32; {versions} 3.15.1, numpy 2.4.6",
        f"b ({b}): NVIDIA H100 with Intel Xeon, cores 16, threads 8, precision tf32; {versions} 3.14.0, numpy 2.4.6",
        f"c ({c}): Some CPU, cores unknown, threads unknown, precision unknown; versions: unknown",
    ]


def test_settings_that_differ_between_benchmarks_are_all_named(write: Write) -> None:
    """Runs of the ladder have a thread each, the timings after them all cores."""
    ladder = entry(RUNG, extra_info={"machine": LAPTOP | {"threads": 1}})
    (record,) = compare.read([write("a.json", ladder, entry(), entry("t.py::test_it"))])
    assert record.machine == "AMD EPYC, cores 2, threads 1 or 3, precision float32"


def test_accelerators_that_are_alike_are_counted(write: Write) -> None:
    """The chart's legend has a line for each record, which eight names would not fit on."""
    accelerators = [*["NVIDIA H100"] * 8, "NVIDIA T4"]
    (record,) = compare.read([write("a.json", entry(), machine=LAPTOP | {"accelerators": accelerators})])
    assert record.machine.startswith("8 x NVIDIA H100 with NVIDIA T4 with AMD EPYC, cores 2")


def test_a_benchmark_that_a_record_lacks_is_named_and_has_no_figures(write: Write) -> None:
    others = [entry(f"t.py::test_{name}") for name in ("one", "two")]
    table = compared(write("a.json", entry()), write("b.json", entry(), *others))
    assert [line for line in table.below if line.startswith("missing")] == ["missing in a: one; two"]
    assert table.rows[2] == ["one", "missing", "-", "-", "250 ms", "unknown", "unknown", "-"]


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"group": "writing"}, "group: reading (a), writing (b)"),
        ({"params": {"n": 2}}, "params: {'n': 1} (a), {'n': 2} (b)"),
        ({"extra_info": {"recipe": "other", "pictures": 4}}, "recipe: one (a), other (b)"),
        ({"extra_info": {"recipe": "one", "pictures": 5}}, "pictures: 4 (a), 5 (b)"),
        ({"extra_info": {}}, None),
    ],
)
def test_a_benchmark_of_other_work_is_named_and_has_no_ratio(
    facts: dict[str, Any], line: str | None, write: Write
) -> None:
    def work() -> dict[str, Any]:
        return {"params": {"n": 1}, "extra_info": {"recipe": "one", "pictures": 4}}

    table = compared(write("a.json", entry(**work())), write("b.json", entry(**work() | facts)))
    changes = [text for text in table.below if text.startswith("changed: ")]
    assert changes == ([f"changed: a picture is read: {line}"] if line else []), "what one does not tell is no change"
    assert table.rows[0] == ["reading"]
    assert (table.rows[1][-1] == "changed") == bool(line)


def test_only_versions_that_differ_are_named(write: Write) -> None:
    table = compared(write("a.json", entry()), write("b.json", entry(), machine=H100 | {"backend": "jax"}))
    assert table.below == [
        "differs: version of backend: tensorflow (a), jax (b)",
        "differs: version of keras: 3.15.1 (a), 3.14.0 (b)",
        *compare.FOOTNOTES,
    ]


# As a chart


def drawn(folder: Path, write: Write, *figures: tuple[float, float | None]) -> np.ndarray:
    """The chart of a record with a benchmark for each speed and share."""
    entries = [
        entry(f"t.py::test_{n}", extra_info={"images_per_second": speed, "share_of_probe": share})
        for n, (speed, share) in enumerate(figures)
    ]
    compare.plot(compare.read([write("a.json", *entries)]), folder / "chart.png")
    return np.asarray(Image.open(folder / "chart.png").convert("RGB")).astype(int)


def test_speeds_are_dots_at_the_left_and_shares_at_the_right(tmp_path: Path, write: Write) -> None:
    chart = drawn(tmp_path, write, (10, 0.3), (100, 0.5), (1000, 0.7))
    for middle, at_the_left in (((300, 0.5), True), ((100, 0.6), False)):
        other = drawn(tmp_path, write, (10, 0.3), middle, (1000, 0.7))
        rows, columns, _ = np.nonzero(chart != other)
        height, width, _ = chart.shape
        assert len(rows), f"moving the middle benchmark to {middle} must show"
        assert np.ptp(rows) < height / 8, "only one benchmark may change"
        assert (columns.max() < 0.62 * width) if at_the_left else (columns.min() > 0.55 * width)


def test_the_chart_names_everything_in_texts_that_do_not_overlap(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: saved.append(figure))
    long = "test_a_class_activation_map_takes_no_longer_than_two_forward_passes_of_the_same_model_$x$_would"
    facts = [{"images_per_second": 20, "share_of_probe": 0.5}, {"images_per_second": 1e6, "share_of_probe": 0.999}]
    of_one = [entry(f"t.py::{long}", extra_info=facts[0]), entry(extra_info={}), entry(RUNG, group="$x$")]
    of_other = [entry(f"t.py::{long}", extra_info=facts[1]), entry(extra_info={}, seconds=1e-3, params={"n": 1})]
    of_third = [entry(extra_info={"share_of_probe": 1.3}, params={"n": 2})]
    files = [write("a.json", *of_one), write("b$x$.json", *of_other, machine=H100), write("c.json", *of_third)]
    with pytest.raises(FileNotFoundError):  # as nothing is saved
        compare.plot(compare.read(files), tmp_path / "chart.png")
    (figure,) = saved
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text()]
    texts = [text for text in texts if not re.fullmatch(r"\d+|\$.mathdefault.*", text.get_text())]  # no axis's numbers
    words = [text.get_text().replace("\n", " ") for text in texts]
    expected = [long[5:].replace("_", " "), "a picture is read (changed)", "rung[from_scratch]", "reading", "$x$"]
    expected += ["20.0 img/s", "1,000,000 img/s", "4.00 runs/s", "1,000 runs/s", "50.0 %", "99.9 %", "130 %"]
    expected += [
        "a: AMD EPYC, cores 2, threads 3, precision float32",
        r"b\$x\$: NVIDIA H100 with Intel Xeon, cores 16, threads 8, precision tf32",
    ]
    assert [text for text in expected if text not in words] == []
    assert (words.count("missing"), words.count("unknown")) == (6, 3)
    boxes = [text.get_window_extent() for text in texts]
    width, height = figure.bbox.size
    for place, (box, text) in enumerate(zip(boxes, words, strict=True)):
        assert 0 <= box.x0 < box.x1 <= width, f"{text} is cut off"
        assert 0 <= box.y0 < box.y1 <= height, f"{text} is cut off"
        for other, over in zip(boxes[:place], words[:place], strict=True):
            assert not box.shrunk(0.98, 0.98).overlaps(other.shrunk(0.98, 0.98)), f"{text} lies over {over}"


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


@pytest.mark.parametrize("name", ["chart", "chart.txt"])
def test_a_chart_whose_name_is_no_images_is_refused(
    name: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["compare", str(write("a.json", entry())), "--plot", str(tmp_path / name)]) == 1
    error = f"convspec: error: '{tmp_path / name}' is no name of a picture; end it in .png, .svg, .pdf\n"
    assert capsys.readouterr() == ("", error)


def test_a_benchmark_that_has_vanished_is_an_error(write: Write) -> None:
    both = str(write("both.json", entry("a.py::test_one"), entry("a.py::test_two")))
    fewer = str(write("fewer.json", entry("a.py::test_one")))
    assert [main(["compare", *records]) for records in ((both, fewer), (fewer, both))] == [1, 0]
