"""The chapter's claims: what marks them, what a run writes of them, and that docs/claims.md is as the tests are."""

import ast
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from claims import LAST, Claim, Effect, Entry, assert_control, assert_effect, paired
from claims_table import CHAPTER, PAGE, build_rows, disagreements, missing_numbers, read_tests, update, write_run
from scipy import stats

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
NEED_DATA = {44}  # the competition's archive, which is not among the public data
GOOD: dict[str, Any] = {"number": 44, "section": "5.2.2", "quote": "25,000 images", "verdict": "holds"}


def test_every_claim_of_the_count_has_a_test_or_cannot_be_tested() -> None:
    missing = missing_numbers(read_tests())
    assert not missing, f"{len(missing)} of {LAST['5.4']} claims have no test in tests/chapter: {missing}"


def test_the_tests_of_one_claim_say_the_same_of_it() -> None:
    different = disagreements(read_tests())
    assert not different, "\n".join(different)


def test_a_claim_that_does_not_simply_hold_has_a_test_that_says_why() -> None:
    """In its docstring: the condition of a qualified one, what is true instead of a refuted one."""
    tests = read_tests()
    explained = {claim.number for test in tests if test.docstring for claim in test.claims}
    verdicts = {claim.number: claim.verdict for test in tests for claim in test.claims}
    silent = [number for number, verdict in verdicts.items() if verdict != "holds" and number not in explained]
    assert not silent, f"no test of these claims has a docstring: {silent}"


def test_readme_says_how_many_claims_a_run_without_options_checks() -> None:
    tests = read_tests()
    testable = {claim.number for test in tests for claim in test.claims}
    checked = {claim.number for test in tests if not test.needs for claim in test.claims}
    text = f"`pytest tests` checks {len(checked - NEED_DATA)} of the {len(testable)} testable ones"
    assert text in (ROOT / "README.md").read_text(encoding="utf-8"), f"README.md should say: {text}"


def test_the_page_of_claims_is_as_the_tests_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == update(text, read_tests()), "stale: run `python tests/claims_table.py`"


def test_every_listing_names_its_place_and_tests_that_there_are() -> None:
    listings = tomllib.loads((CHAPTER / "listings.toml").read_text(encoding="utf-8"))
    functions = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert list(listings) == [f"5.{number}" for number in range(1, 45)]
    for number, entry in listings.items():
        assert list(entry) == ["title", "offered", "meaning", "difference", "tests"], number
        assert entry["meaning"] in ("same", "equivalent", "differs", "absent"), number
        assert bool(entry["difference"]) == (entry["meaning"] != "same"), f"listing {number}: what differs?"
        assert bool(entry["offered"]) == (entry["meaning"] != "absent"), f"listing {number}: in what place?"
        assert not (gone := set(entry["tests"]) - functions), f"listing {number}: no such tests: {gone}"
        assert entry["tests"] or entry["meaning"] == "absent", f"listing {number}: tested by what?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 142}, "number must be from 1 to 141 or a decimal such as 44.5, got 142"),
        ({"number": True}, "got True"),
        ({"number": 18}, "claim 18 is one of those that cannot be tested"),
        ({"number": 12}, "claim 12 stands in 5.1, got section '5.2.2'"),
        ({"section": "5.5"}, "got '5.5'"),
        ({"verdict": "true"}, "verdict of claim 44 must be one of"),
        ({"kind": "guessed"}, "kind of claim 44 must be one of"),
        ({"quote": "one " * 11}, "quote of claim 44 must be of 1 to 10 words"),
        ({"source": "listing 5.8b"}, "got 'listing 5.8b'"),
    ],
)
def test_a_claim_that_is_none_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Claim(**GOOD | change)


def test_a_paired_effect_is_that_of_scipys_t_test(rng: np.random.Generator) -> None:
    treated, control = rng.random((2, 6))
    effect, expected = paired(treated, control), stats.ttest_rel(treated, control)
    assert effect.mean == pytest.approx(expected.statistic * stats.sem(treated - control))
    assert effect.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert effect.p_value() == pytest.approx(expected.pvalue)
    assert effect.p_value(0.2) == pytest.approx(stats.ttest_1samp(treated - control, 0.2).pvalue)


def test_an_effect_on_the_wrong_side_of_a_bound_fails_its_test() -> None:
    effect = paired([0.90, 0.91, 0.92, 0.90, 0.93], [0.80, 0.82, 0.83, 0.79, 0.81])
    assert str(effect) == "+10.2 points [8.6, 11.8], p < 0.0001, 5 seeds"
    assert_effect(effect, above=0, below=0.15, why="it is 0.1")
    with pytest.raises(AssertionError, match=r"expected below 0.1 \(too low\), got \+10.2 points .* p = 0.75"):
        assert_effect(effect, below=0.1, why="too low")
    with pytest.raises(ValueError, match="at least 5 seeds"):
        Effect((1.0, 2.0))


def test_without_its_cause_three_quarters_of_an_effect_must_be_gone() -> None:
    effect, control, half = (Effect((size, size + 0.001) * 3) for size in (-0.1, 0.02, 0.05))
    assert_control(control, effect)
    with pytest.raises(AssertionError, match=r"expected none without its cause: \+5\.\d points .* with it -"):
        assert_control(half, effect)


TESTS = """
import time
from pathlib import Path
import pytest
from claims import BEGUN, assert_effect, claim, paired
from matplotlib.figure import Figure

BEGUN[Path(__file__)] = time.perf_counter() - 7000  # an earlier test trained for so long what test_effect shares

@claim(1, "5.1", "97.8%", "holds")
def test_true(evidence): evidence("0.978 | of 10,000")

@claim(2, "5.1", "three channels", "refuted")
@pytest.mark.parametrize("number", [1, 2])
def test_wrong_in_one(number, evidence):
    evidence(f"number {number}")
    assert number < 2, "two is too many"

@claim(3, "5.1", "needs what is not here", "holds")
def test_left_out(): pytest.skip("no weights here")

@claim(4, "5.1", "slow to see", "holds", kind="recorded")
@pytest.mark.slow
def test_slow(): pass

@claim(5, "5.1", "pooling pays", "qualified", source="figure 5.3", kind="measured")
def test_effect(experiment):
    experiment(paired([1] * 5, [0.9, 0.91, 0.9, 0.9, 0.89]), "accuracy", Figure())

@claim(6, "5.1", "never set up", "holds")
def test_broken(nothing): pass

@claim(7, "5.1", "as expected, but too little", "holds", kind="measured")
def test_unclear():
    assert_effect(paired([0.1, 0.3, 0.2, 0.1, 0.3], [0] * 5), above=0, below=0.5, why="as expected")

@claim(8, "5.1", "too little, and wrong besides", "holds", kind="measured")
def test_unclear_and_wrong():
    effect = paired([0.1, 0.3, 0.2, 0.1, 0.3], [0] * 5)
    assert_effect(effect, above=0, why="as expected")
    assert_effect(effect, below=0, why="not at all")
"""
EFFECT = "+20.0 points [7.6, 32.4], p = 0.011, 5 seeds, and against 0 p = 0.011"


@pytest.fixture
def chapter(pytester: pytest.Pytester) -> pytest.Pytester:
    """A repository with claims of every outcome."""
    settings = ["addopts = -p no:randomly -m 'not slow'", "markers = slow: x", f"pythonpath = {CHAPTER.parent}"]
    pytester.makeini("\n".join(["[pytest]", *settings]))
    pytester.makeconftest('pytest_plugins = ["claims"]')
    folder = pytester.mkdir("tests") / "chapter"
    folder.mkdir()
    (folder / "test_it.py").write_text(TESTS)
    (folder / "test_other.py").write_text("def test_other(): pass")
    return pytester


def outcomes(pytester: pytest.Pytester) -> dict[float, tuple[str, str]]:
    record = json.loads((pytester.path / ".convspec" / "claims.json").read_text())
    return {row["number"]: (row["outcome"], row["reason"]) for row in record["claims"]}


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_run_writes_what_became_of_each_claim(processes: str, chapter: pytest.Pytester) -> None:
    result = chapter.runpytest("-n", processes)
    assert outcomes(chapter) == {
        1: ("holds", ""),
        2: ("contradicted in this run", "two is too many"),
        3: ("not run here", "no weights here"),
        4: ("not run here", "needs --slow"),
        5: ("qualified", ""),
        6: ("not run here", "fixture 'nothing' not found"),
        7: ("cannot tell", f"cannot tell here: expected above 0 (as expected), got {EFFECT}: too few seeds"),
        8: ("contradicted in this run", f"expected below 0 (not at all), got {EFFECT}"),
        18: ("untestable", "no test could settle it"),
        30: ("untestable", "no test could settle it"),
        79: ("untestable", "no test could settle it"),
    }
    counted = "1 holds, 1 qualified, 1 cannot tell, 2 contradicted in this run, 3 not run here, 3 untestable"
    result.stdout.fnmatch_lines(
        [f"claims of the chapter, a partial run, 5 of 8 testable claims: {counted}; *claims.html"]
    )
    markdown = (chapter.path / ".convspec" / "claims.md").read_text()
    assert "| 1 | 97.8% | text | **holds** | 0.978 \\| of 10,000 | exact | `test_true` |" in markdown
    assert "| 2 | three channels | text | **contradicted in this run** | number 1; number 2; two is" in markdown
    taken = re.search(r"accuracy: \+10.0 points \[9.1, 10.9\], p \\< 0.0001, 5 seeds, (\d+) s", markdown)
    assert taken, markdown
    assert int(taken[1]) >= 7000, "what tests of one file share counts"
    page = (chapter.path / ".convspec" / "claims.html").read_text()
    assert all("a partial run, 5 of 8 testable claims" in text for text in (markdown, page))
    assert page.count('<img src="data:image/png;base64,') == 1


def test_a_row_is_the_same_in_whatever_order_its_tests_ended(chapter: pytest.Pytester) -> None:
    """With pytest-xdist or pytest-randomly they end in another order each time."""
    file = "tests/chapter/test_it.py"
    run = {f"{file}::test_wrong_in_one[{n}]": Entry([2], "failed", f"{n} is", [f"number {n}"]) for n in (1, 2)}
    tests = read_tests(chapter.path)
    assert build_rows(tests, run) == build_rows(tests, dict(reversed(run.items())))


def test_a_part_of_the_tests_leaves_the_other_claims_unselected(chapter: pytest.Pytester) -> None:
    chapter.runpytest("-k", "test_true")
    assert outcomes(chapter)[1] == ("holds", "")
    assert outcomes(chapter)[5] == ("not run here", "not selected in this run")


@pytest.mark.parametrize(("options", "passed"), [((), 2), (("-m", "experiment"), 1), (("-m", "not experiment"), 2)])
def test_an_experiment_runs_where_m_asks_for_it(
    options: tuple[str, ...], passed: int, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest((ROOT / "conftest.py").read_text())
    pytester.makepyfile(
        "import pytest\n@pytest.mark.experiment\ndef test_a(): pass\ndef test_b(): pass\ndef test_c(): pass"
    )
    pytester.runpytest(*options).assert_outcomes(passed=passed, deselected=3 - passed)


@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_a_search_and_a_verdict_find_a_claim(
    width: int, new_page: "Callable[..., Page]", chapter: pytest.Pytester
) -> None:
    run = {
        "tests/chapter/test_it.py::test_true": Entry([1], "passed", evidence=["0.978"]),
        "tests/chapter/test_it.py::test_wrong_in_one[2]": Entry([2], "failed", "a <b> too many"),
    }
    write_run(chapter.path, run, {"command": "pytest", "written": "today"}, read_tests(chapter.path))
    window = new_page(viewport={"width": width, "height": 800})
    complaints: list[str] = []
    window.on("console", lambda message: complaints.append(message.text))
    window.on("pageerror", lambda error: complaints.append(str(error)))
    window.goto((chapter.path / "claims.html").as_uri())

    def visible() -> list[str]:
        return [each.text_content() or "" for each in window.locator(".claims .quote:visible").all()]

    assert len(visible()) == 11
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    assert window.locator("#claim-2 .evidence").text_content() == "a <b> too many"
    window.get_by_label("contradicted in this run (1)").check()
    assert visible() == ["three channels"]
    window.get_by_label("all").check()
    window.get_by_label("Search").fill("FIGURE pooling")
    assert visible() == ["pooling pays"]
    assert window.locator("h2:visible").all_text_contents() == ["5.1 Introduction to convnets"]
    assert complaints == []
    window.close()


@pytest.mark.parametrize("options", [["tests/chapter/test_other.py"], ["--collect-only"]])
def test_a_run_without_a_test_of_claims_writes_nothing(options: list[str], chapter: pytest.Pytester) -> None:
    chapter.runpytest(*options)
    assert not (chapter.path / ".convspec").exists()


def test_the_page_keeps_its_evidence_until_a_record_brings_newer(chapter: pytest.Pytester) -> None:
    page = "<!-- claims: x -->\n<!-- end of claims -->\nby hand\n<!-- listings: y -->\n<!-- end of listings -->\n"
    tests = read_tests(chapter.path)
    record = {"claims": [{"number": 1, "tests": [{"evidence": ["old | 1"]}]}]}
    first = update(page, tests, [record])
    assert "| old \\| 1 |" in first
    assert "\nby hand\n" in first
    assert update(first, tests) == first
    record["claims"][0]["tests"] = [{"evidence": ["new"]}, {"evidence": ["new"]}]
    assert update(first, tests, [record]) == first.replace("| old \\| 1 |", "| new |")
    with pytest.raises(ValueError, match="around its listings"):
        update(page.replace("end of listings", ""), tests)


def test_a_claim_whose_tests_never_ran_has_no_verdict_on_the_page(chapter: pytest.Pytester) -> None:
    page = "<!-- claims: x -->\n<!-- end of claims -->\n<!-- listings: y -->\n<!-- end of listings -->\n"
    record = {"claims": [{"number": 1, "tests": [{"evidence": ["not run: needs weights"]}]}]}
    written = update(page, read_tests(chapter.path), [record])
    assert "**not run here** | not run: needs weights" in written
    assert "1 not run here" in written


def test_two_tests_of_one_claim_that_disagree_are_named(chapter: pytest.Pytester) -> None:
    more = TESTS.replace("test_true", "test_more").replace('"97.8%", "holds"', '"97.8%", "refuted"')
    (chapter.path / "tests" / "chapter" / "test_more.py").write_text(more)
    assert disagreements(read_tests(chapter.path)) == [
        "claim 1: verdict is 'holds' in test_true, 'refuted' in test_more"
    ]
