"""An outcome as a page that opens offline."""

from __future__ import annotations

from modelwright import report
from modelwright.studies._study import Outcome, Plot, Table
from modelwright.studies._text import STATEMENT, heading, measure, shown, statements


def page(outcome: Outcome) -> str:
    """The whole page: claim, verdict, what was measured about each statement, plots, tables, notes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    smoke = " This was a smoke run, of which the verdict means nothing." if outcome.budget == "smoke" else ""
    return report.page(
        outcome.title,
        report.section(
            "The claim",
            report.answer(outcome.claim),
            report.answer(f"Verdict: {outcome.verdict}.{smoke}"),
            _statements(outcome),
            report.note(outcome.rule),
        ),
        *(report.section(plot.title, _plot(plot)) for plot in outcome.plots),
        *(report.section(heading(table), _table(table, table.title)) for table in outcome.tables),
        report.section(
            "How it was done", *outcome.notes, report.code(f"mw study run {outcome.id}{_arguments(outcome)}")
        ),
        lead=f"The claim of {outcome.paper}, put to the test.",
        footer=_footer(outcome),
    )


def _statements(outcome: Outcome) -> report.Html:
    """What was claimed and measured: sentences wrap, so that verdicts are seen without scrolling."""
    rows = [
        report.Row(part.name, [report.Cell(says, words=True), measured, claimed, report.Cell(verdict, words=True)])
        for part, (says, measured, claimed, verdict) in zip(outcome.parts, statements(outcome.parts), strict=True)
    ]
    return report.table(("", *STATEMENT), rows, label="Statements, what was measured and what was claimed")


def _table(table: Table, label: str) -> report.Html:
    rows = [
        report.Row(shown(first, table.unit), [shown(cell, table.unit) for cell in rest]) for first, *rest in table.rows
    ]
    return report.table(table.columns, rows, label=label)


def _plot(plot: Plot) -> report.Html:
    times = 100 if plot.unit == "%" else 1
    curves = [
        report.Line(
            name,
            [x for x, _ in line],
            [times * i.value for _, i in line],
            low=[times * i.low for _, i in line],
            high=[times * i.high for _, i in line],
        )
        for name, line in plot.lines.items()
    ]
    unit = f"{plot.y}, {plot.unit}" if plot.unit else plot.y
    return report.lines(curves, label=plot.title, xlabel=plot.x, ylabel=unit, log=plot.log_x)


def _arguments(outcome: Outcome) -> str:
    return f" --seeds {len(outcome.seeds)}" + (f" --budget {outcome.budget}" if outcome.budget != "full" else "")


def _footer(outcome: Outcome) -> str:
    versions = ", ".join(f"{name} {version}".rstrip() for name, version in outcome.versions.items())
    return f"{measure(outcome.seeds, outcome.budget)}; {outcome.seconds:.0f} s; bands and brackets: 95 %; {versions}"
