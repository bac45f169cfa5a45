"""Tables of the chapter's claims: of a run in the report folder, and the committed one, docs/claims.md.

`python tests/claims_table.py` writes the claims and listings of docs/claims.md anew, with the evidence that is there;
`python tests/claims_table.py .convspec/claims.json` with that of runs, which their `claims.json` hold: what all of them
together say of a claim takes the place of what the page says.
"""

import ast
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from claims import LAST, UNCLEAR, UNTESTABLE, Claim, Entry

from convspec.files import atomic_write
from convspec.report.tables import Table, escape

ROOT = Path(__file__).parents[1]
CHAPTER, PAGE = ROOT / "tests" / "chapter", ROOT / "docs" / "claims.md"
Outcome = Literal[
    "holds", "qualified", "refuted", "cannot tell", "contradicted in this run", "not run here", "untestable"
]
NEEDS = {
    "slow": "needs --slow",
    "full": "needs --convspec-scale full",
    "experiment": "an experiment, needs -m experiment",
}  # by marker
SECTIONS = {
    "5.1": "Introduction to convnets",
    "5.1.1": "The convolution operation",
    "5.1.2": "The max-pooling operation",
    "5.2": "Training a convnet from scratch on a small dataset",
    "5.2.1": "The relevance of deep learning for small-data problems",
    "5.2.2": "Downloading the data",
    "5.2.3": "Building your network",
    "5.2.4": "Data preprocessing",
    "5.2.5": "Using data augmentation",
    "5.3": "Using a pretrained convnet",
    "5.3.1": "Feature extraction",
    "5.3.2": "Fine-tuning",
    "5.3.3": "Wrapping up",
    "5.4": "Visualizing what convnets learn",
    "5.4.1": "Visualizing intermediate activations",
    "5.4.2": "Visualizing convnet filters",
    "5.4.3": "Visualizing heatmaps of class activation",
}


class MarkedTest(NamedTuple):
    """A test of claims, as its source says."""

    file: str  # from the root
    name: str
    claims: list[Claim]
    needs: list[str]  # markers of NEEDS
    docstring: str


@dataclass
class ShownTest:
    """A test as a claim's row shows it."""

    file: str
    name: str
    kind: str
    state: str = ""  # "passed", "failed", or why it did not run; empty without a run
    evidence: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)


@dataclass
class Row:
    """A claim with what is known of it."""

    number: float
    section: str
    source: str
    quote: str
    outcome: Outcome
    reason: str
    tests: list[ShownTest]

    @property
    def evidence(self) -> list[str]:
        """Lines of all tests, each once."""
        return list(dict.fromkeys(line for test in self.tests for line in test.evidence))

    @property
    def kinds(self) -> list[str]:
        """Kinds of evidence."""
        return list(dict.fromkeys(test.kind for test in self.tests))


def read_tests(root: Path = ROOT) -> list[MarkedTest]:
    """Return the tests of claims in tests/chapter, from their source; ValueError for a claim that is none."""
    tests = []
    for path in sorted((root / "tests" / "chapter").glob("test_*.py")):
        module, file = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root).as_posix()
        marks = [
            node.value for node in module.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)
        ]
        for function in (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)):
            nodes = [node for mark in [*function.decorator_list, *marks] for node in ast.walk(mark)]
            calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "claim"]
            needs = [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr in NEEDS]
            if calls:
                claims, docstring = [_read_claim(call, file) for call in calls], ast.get_docstring(function) or ""
                tests.append(MarkedTest(file, function.name, claims, needs, docstring))
    return tests


def _read_claim(call: ast.Call, file: str) -> Claim:
    try:
        settings = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
        return Claim(*map(ast.literal_eval, call.args), **settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}:{call.lineno}: {error}") from error


def disagreements(tests: Iterable[MarkedTest]) -> list[str]:
    """Return the claims of which two tests say different things."""
    first: dict[float, tuple[Claim, str]] = {}
    lines = []
    for test in tests:
        for claim in test.claims:
            other, name = first.setdefault(claim.number, (claim, test.name))
            lines += [
                f"claim {claim.number}: {part} is {getattr(other, part)!r} in {name}, {getattr(claim, part)!r} in"
                f" {test.name}"
                for part in ("section", "quote", "verdict", "source")
                if getattr(claim, part) != getattr(other, part)
            ]
    return lines


def missing_numbers(tests: Iterable[MarkedTest]) -> list[int]:
    """Return the numbers of the count that are neither tested nor untestable."""
    claimed = {claim.number for test in tests for claim in test.claims}
    return [number for number in range(1, LAST["5.4"] + 1) if number not in claimed and number not in UNTESTABLE]


def build_rows(tests: Sequence[MarkedTest], run: Mapping[str, Entry] | None = None) -> list[Row]:
    """Return a row for each claim, by number.

    `run` holds what ran by node id, in whatever order it ended; without it, rows say what the tests assert.
    """
    entries: dict[tuple[str, str], list[Entry]] = {}
    for identifier, entry in sorted((run or {}).items()):
        file, _, name = identifier.partition("[")[0].partition("::")
        entries.setdefault((file, name.rpartition("::")[2]), []).append(entry)
    pairs: dict[float, list[tuple[Claim, MarkedTest]]] = {}
    for test in tests:
        for claim in test.claims:
            pairs.setdefault(claim.number, []).append((claim, test))
    rows = [
        Row(number, section, "text", quote, "untestable", "no test could settle it", [])
        for number, (section, quote) in UNTESTABLE.items()
    ]
    for number, group in pairs.items():
        claim, shown, own = group[0][0], [], []
        for each, test in group:
            mine = [entry for entry in entries.get((test.file, test.name), ()) if number in entry.numbers]
            own += mine
            state = _state(mine, test) if run is not None else ""
            lines, figures = ([x for entry in mine for x in getattr(entry, part)] for part in ("evidence", "figures"))
            kind = next((entry.kind for entry in mine if entry.kind), each.kind)
            shown.append(ShownTest(test.file, test.name, kind, state, lines, figures))
        outcome, reason = _outcome(claim, own, shown) if run is not None else (claim.verdict, "")
        rows.append(Row(number, claim.section, claim.source, claim.quote, outcome, reason, shown))
    return sorted(rows, key=lambda row: row.number)


def _state(entries: Sequence[Entry], test: MarkedTest) -> str:
    for outcome in ("failed", "passed"):
        if any(entry.outcome == outcome for entry in entries):
            return outcome
    if entries:
        return entries[0].reason
    return "; ".join(NEEDS[name] for name in test.needs) or "not selected in this run"


def _outcome(claim: Claim, entries: Sequence[Entry], tests: Sequence[ShownTest]) -> tuple[Outcome, str]:
    if failures := [entry.reason for entry in entries if entry.outcome == "failed"]:
        return "contradicted in this run", failures[0]
    if unclear := [entry.reason for entry in entries if entry.reason.startswith(UNCLEAR)]:
        return "cannot tell", unclear[0]
    if any(entry.outcome == "passed" for entry in entries):
        return claim.verdict, ""
    return "not run here", "; ".join(dict.fromkeys(test.state for test in tests))


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Return how many claims have each outcome, in the order of Outcome, without those that none has."""
    number = Counter(row.outcome for row in rows)
    return {name: number[name] for name in get_args(Outcome) if number[name]}


def extent(rows: Sequence[Row]) -> str:
    """Return how many of the claims that can be tested ran, and whether the run is a partial one."""
    testable = [row for row in rows if row.outcome != "untestable"]
    number = sum(row.outcome != "not run here" for row in testable)
    return f"{'a partial run, ' * (number < len(testable))}{number} of {len(testable)} testable claims"


def sections(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows by section, the sections in the chapter's order."""
    rows = list(rows)
    return {name: group for name in SECTIONS if (group := [row for row in rows if row.section == name])}


def markdown(rows: Sequence[Row], evidence: Mapping[float, str] | None = None) -> str:
    """Return the tables of claims by section; `evidence` is Markdown by number, by default that of the rows."""
    total = ", ".join(f"{number} {name}" for name, number in counts(rows).items())
    parts = [f"{len(rows)} claims: {total}.\n"]
    for section, group in sections(rows).items():
        table = (
            Table(["no.", "claim", "where", "verdict", "evidence", "kind", "tests"], [], "<" * 7).markdown().rstrip()
        )
        lines = [
            [
                f"{row.number:g}",
                escape(row.quote),
                row.source,
                f"**{row.outcome}**",
                _evidence(row) if evidence is None else evidence.get(row.number, ""),
                ", ".join(row.kinds),
                _names(test.name for test in row.tests),
            ]
            for row in group
        ]
        body = "\n".join([table, *(f"| {' | '.join(cells)} |" for cells in lines)])
        parts.append(f"### {section} {SECTIONS[section]}\n\n{body}\n")
    return "\n".join(parts)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _evidence(row: Row) -> str:
    return escape("; ".join([*row.evidence, *([row.reason] if row.reason else [])]))


def listings_table(path: Path = CHAPTER / "listings.toml") -> str:
    """Return the table of the listings."""
    rows = [
        [number, *(entry[name] for name in ("title", "offered", "meaning", "difference")), _names(entry["tests"])]
        for number, entry in tomllib.loads(path.read_text(encoding="utf-8")).items()
    ]
    titles = ["listing", "title", "in convspec", "meaning", "what differs", "tests"]
    table = Table(titles, [], "<" * 6).markdown()
    return table + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write_run(
    folder: Path, run: Mapping[str, Entry], facts: Mapping[str, Any], tests: Sequence[MarkedTest]
) -> list[Row]:
    """Write claims.json, claims.md and claims.html of a run; `facts` are "command" and "written"."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    rows = build_rows(tests, run)
    places = [Path(__file__).parent, ROOT / "convspec" / "report"]
    environment = Environment(loader=FileSystemLoader(places), autoescape=True, undefined=StrictUndefined)
    content = {"counts": counts(rows), "extent": extent(rows), "sections": sections(rows), "titles": SECTIONS, **facts}
    plain = [asdict(row) for row in rows]
    for row in plain:
        for test in row["tests"]:
            del test["figures"]  # which the page has
    texts = {
        "claims.json": json.dumps({"schema": 1, **facts, "counts": counts(rows), "claims": plain}, indent=1),
        "claims.md": f"# The chapter, claim by claim\n\n`{facts['command']}`, {facts['written']}: {extent(rows)}\n\n"
        + markdown(rows),
        "claims.html": environment.get_template("claims.html").render(content),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return rows


def update(text: str, tests: Sequence[MarkedTest], records: Iterable[Mapping[str, Any]] = ()) -> str:
    """Return docs/claims.md with its claims and listings written anew.

    Evidence stays as it is, but for the claims of which a record of a run has evidence. Where it begins with "not
    run: ", no verdict stands.
    """
    fresh: dict[float, list[str]] = {}
    for row in (row for record in records for row in record["claims"]):
        fresh.setdefault(row["number"], []).extend(line for test in row["tests"] for line in test["evidence"])
    evidence = dict(read_evidence(text))
    evidence |= {number: escape("; ".join(dict.fromkeys(lines))) for number, lines in fresh.items() if lines}
    rows = build_rows(tests)
    for row in rows:
        if evidence.get(row.number, "").startswith("not run: "):
            row.outcome = "not run here"
    blocks = {"claims": markdown(rows, evidence), "listings": listings_table()}
    for name, block in blocks.items():
        start, end = re.search(rf"<!-- {name}: [^>]*-->\n", text), text.find(f"<!-- end of {name} -->")
        if not start or end < 0:
            raise ValueError(f"docs/claims.md has no <!-- {name}: ... --> and <!-- end of {name} --> around its {name}")
        text = f"{text[: start.end()]}\n{block}\n{text[end:]}"
    return text


def read_evidence(text: str) -> Iterator[tuple[float, str]]:
    """Yield each claim's number, and its evidence in Markdown, as docs/claims.md has them."""
    for line in text.splitlines():
        cells = line.removeprefix("| ").split(" | ")  # a | in a cell is escaped
        if len(cells) == 7 and re.fullmatch(r"[\d.]+", cells[0]):
            yield float(cells[0]), cells[4]


if __name__ == "__main__":
    new = update(
        PAGE.read_text(encoding="utf-8"), read_tests(), [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    )
    with atomic_write(PAGE) as partial:
        partial.write_text(new, encoding="utf-8")
