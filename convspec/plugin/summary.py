"""The end of a session: verdicts and tables in the terminal, the record, pictures and page in the report folder."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from convspec import BadInput
from convspec.plugin.session import Session, terminal_stream
from convspec.plugin.verdicts import Channel

if TYPE_CHECKING:
    from convspec.ladder.learning_curve import LearningCurve

Outcome = Literal["complete", "failed", "interrupted"]


def show_verdicts(terminal: "pytest.TerminalReporter", channel: Channel) -> None:
    """Print each gate's verdict, in green, yellow or red; once where a repeated test has the same again."""
    outcomes = {verdict["text"]: verdict["outcome"] for verdict in channel.verdicts}
    if outcomes:
        terminal.section("accuracy against the baseline")
    for text, outcome in (outcomes | dict.fromkeys(channel.errors, "error")).items():
        first, *others = text.split("\n")
        colour = {"pass": "green", "underpowered": "yellow"}.get(outcome, "red")
        terminal.write_line(first, **{colour: True})
        for line in others:
            terminal.write_line(f"    {line}")


def show_ladder(terminal: "pytest.TerminalReporter", session: Session, interrupted: bool) -> None:
    """Print the table of the ladder and write the report, where a run finished, failed or was interrupted."""
    failures = _failures(terminal)
    if not session.runs and not (session.begun and (failures or interrupted)):
        return
    from convspec.report import claims, tables

    terminal.section("the ladder")
    if session.runs:
        terminal.write_line(tables.ladder(session.runs).text())
        if (worth := tables.worth(session.runs)).rows:
            terminal.section("what the accuracy is worth")
            terminal.write_line(worth.text())
    if session.scale == "full" and not session.settings.dataset:
        terminal.section("what the chapter claims")
        terminal.write_line(claims.claims(session.runs).text())
    if session.repeats:
        repeats = ", ".join(f"{rung} {repeat.outcome}" for rung, repeat in session.repeats.items())
        terminal.write_line(f"trained twice with one seed: {repeats}")
    for line in tables.skipped(session.runs):
        terminal.write_line(line, yellow=True)
    if interrupted:
        terminal.write_line(
            "interrupted: the same command goes on from here; finished runs and checkpoints are kept", yellow=True
        )
    outcome: Outcome = "interrupted" if interrupted else "failed" if failures else "complete"
    advice = None if interrupted else _recommend(session)
    try:
        for line in write_report(session, outcome, failures, advice):
            terminal.write_line(line, red=True)
        picture, drawn = (", picture", "ladder.png, ") if (session.folder / "ladder.png").exists() else ("", "")
        terminal.write_line(f"record{picture} and a summary in Markdown: ladder.json, {drawn}ladder.md beside")
        if (page := session.folder / "index.html").exists():
            terminal.write_line(f"report: {page}")
    except OSError as error:
        terminal.write_line(f"no report: {error}; another folder for it: --convspec-report=DIR", red=True)
    if advice:
        terminal.section("recommendation")
        for line in [*advice["lines"], *(f"    {line}" for line in advice["code"])]:
            terminal.write_line(line)


def _recommend(session: Session) -> dict[str, Any] | None:
    """Return what to use on somebody's folder, in text and code; None for a dataset of the package."""
    from convspec.data.datasets import NAMES
    from convspec.report import recommendation

    if session.settings.dataset in (None, *NAMES):
        return None
    advice: dict[str, Any] = {"rung": None, "lines": [], "code": [], "curve": None}
    try:
        best = recommendation.recommend(session.runs, session.settings.margin)
        advice["lines"] += best.lines
        if best.run and session.reading:
            model, test = session.model(best.run), best.run.test_names[0]
            picture = session.reading.paths[session.reading.names.index(test)].absolute()
            here = session.config.invocation_params.dir
            files = (file.relative_to(here) if file.is_relative_to(here) else file for file in (model, picture))
            advice |= {"rung": best.run.recipe.name, "code": recommendation.usage(*files)}
        if best.run and len(session.runs) > 1:
            curve = _learning_curve(session)
            advice["curve"] = asdict(curve)
            inputs = session.runs, best.run.recipe.name, curve, session.settings.margin
            advice["lines"][0] += recommendation.describe_better_probe(*inputs)
            advice["lines"] += recommendation.describe_curve(curve, session.settings.margin)
    except BadInput as error:
        advice["lines"].append(f"{str(error)[:1].upper()}{str(error)[1:]}.")
    except Exception as error:  # of whatever kind: the report is still worth having
        advice["lines"].append(f"The recommendation could not be completed: {type(error).__name__}: {error}")
    return advice


def _learning_curve(session: Session) -> "LearningCurve":
    """Return the learning curve on the base that ran, by the features of its linear probe if it has one."""
    from convspec.ladder.learning_curve import learning_curve
    from convspec.ladder.recipe import with_base
    from convspec.ladder.run import ARCHITECTURES
    from convspec.ladder.rungs import find_recipe

    on_base = [group[0].recipe for group in session.runs.values() if group[0].recipe.base]
    if not on_base:
        raise BadInput("no rung with a base ran, so that there is no learning curve on its features")
    own = with_base(find_recipe("feature_extraction_fast", session.scale), str(on_base[0].base))
    recipe = next((each for each in on_base if ARCHITECTURES[each.model].fit == "logistic regression"), own)
    inputs = session.dataset(recipe), session.folder, session.weights(recipe), session.engine
    return learning_curve(recipe, *inputs, progress=terminal_stream(session.config))


def _failures(terminal: "pytest.TerminalReporter") -> list[dict[str, str]]:
    """Return each failed test and why it did, its message without the traceback."""
    failures = []
    for report in terminal.stats.get("failed", []) + terminal.stats.get("error", []):
        crash = getattr(report.longrepr, "reprcrash", None)
        failures.append({"test": report.nodeid, "why": crash.message if crash else report.longreprtext})
    return failures


def write_report(
    session: Session, outcome: Outcome, failures: Sequence[dict[str, str]], advice: dict[str, Any] | None
) -> list[str]:
    """Write record, pictures and page of all runs; return a line for what could not be drawn.

    Unless the session was interrupted or a rung failed, its finished runs are not kept for the next one.

    Args:
        session: Its runs and verdicts.
        outcome: How it ended.
        failures: What `_failures` returned.
        advice: What `_recommend` returned.
    """
    from convspec.report import charts, html, tables

    unfinished = (session.selected | session.begun) - {*session.runs}
    facts: dict[str, Any] = {
        "scale": session.scale,
        "command": ["pytest", *map(str, session.config.invocation_params.args)],
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "outcome": outcome,
        "failures": failures,
        "unfinished": {recipe.name: session.kept(recipe) for recipe in session.recipes if recipe.name in unfinished},
        "reading": session.explanation[0] if session.runs else [],
        "repeats": {rung: repeat.outcome for rung, repeat in session.repeats.items()},
        "costs": [asdict(cost) for cost in session.costs],
        "recommendation": advice,
        "verdicts": [judgement.properties | {"lines": judgement.lines} for judgement in session.judgements],
    }
    tables.record(session.runs, session.folder / "ladder.json", **facts)
    for name in ("ladder.md", "ladder.png", "index.html"):  # of an earlier session
        (session.folder / name).unlink(missing_ok=True)
    errors: list[str] = []

    def draw(name: str, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments, session.folder / name)
        except Exception as error:  # of whatever kind: the other parts are still worth having
            errors.append(f"{name} could not be written: {type(error).__name__}: {error}")

    def page(path: Path) -> None:
        metadata = facts | {"costs": session.costs}
        inputs = session.runs, session.judgements, metadata, session.dataset, session.model
        errors.extend(f"{path.name}: {part}" for part in html.write(path, *inputs, terminal_stream(session.config)))

    inputs = session.runs, session.judgements, advice["lines"] if advice else (), advice["code"] if advice else ()
    draw("ladder.md", tables.markdown, *inputs)
    if session.runs:
        draw("ladder.png", charts.picture, session.runs)
    draw("index.html", page)
    failed = any(f"test_rung[{rung}]" in failure["test"] for rung in session.failed for failure in failures)
    for result in (run for group in session.runs.values() for run in group if outcome != "interrupted" and not failed):
        session.unfinished(result.recipe, result.seed).unlink(missing_ok=True)
    return errors
