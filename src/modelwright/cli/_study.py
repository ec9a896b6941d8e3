"""`mw study`."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from modelwright.cli._files import STDOUT, check_writable, write_json
from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate._predictor import needs
from modelwright.report import write
from modelwright.studies import VERDICTS, Outcome, studies, study
from modelwright.studies._study import Cell, Table as Figures
from modelwright.studies._text import STATEMENT, heading, measure, shown, statements

_COLOURS = {"holds": "green", "does not hold": "red", "inconclusive": "yellow"}


def list_studies(plugins: Sequence[Path], *, json: bool) -> None:
    """Print every study with its paper and claim."""
    known = studies(plugins)
    if json:
        entries = [
            {"id": s.id, "title": s.title, "paper": s.paper, "claim": s.claim, "seeds": s.seeds} for s in known.values()
        ]
        print(json_module.dumps(entries, indent=2, ensure_ascii=False))  # noqa: T201
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("id", "paper", "claim"):
        table.add_column(column, no_wrap=column != "claim")
    for entry in known.values():
        table.add_row(entry.id, entry.paper, entry.claim)
    Console().print(table)


def run_study(
    name: str,
    plugins: Sequence[Path],
    *,
    seeds: int | None,
    budget: str,
    json: str | None,
    html: Path | None,
    require: str | None,
    quiet: bool,
) -> None:
    """Run a study and show what came of it; exit code 3 where another verdict was required."""
    chosen = study(name, plugins)
    if require is not None and require not in VERDICTS:
        raise InputError(f"--require: there is no verdict '{require}'", did_you_mean(require, VERDICTS))
    check_writable("--json", json)
    check_writable("--html", html)
    if html is not None:
        needs("matplotlib", "--html", "report")
    silent = quiet or json == STDOUT
    with _Bar(enabled=not silent) as bar:
        outcome = chosen.run(seeds, budget, bar.update)  # type: ignore[arg-type]  # run checks it
    text = json_module.dumps(outcome.as_json(), indent=1, ensure_ascii=False)
    if json is not None:
        write_json(json, text)
    if html is not None:
        from modelwright.studies._page import page

        write(html, page(outcome))
    if not silent:
        _show(Console(), outcome)
    if require is not None and outcome.verdict != require:
        raise typer.Exit(3)


def _show(console: Console, outcome: Outcome) -> None:
    plain: dict[str, Any] = {"highlight": False, "markup": False}
    console.print(f"[bold]{outcome.title}[/bold]  {outcome.paper}", highlight=False)
    console.print(outcome.claim, **plain)
    console.print()
    console.print(_rendered(Figures("", STATEMENT, tuple(statements(outcome.parts)))))
    for table in outcome.tables:
        console.print(f"\n{heading(table)}", style="dim", **plain)
        console.print(_rendered(table))
    console.print()
    for note in outcome.notes:
        console.print(note, style="dim", **plain)
    ran = f"{measure(outcome.seeds, outcome.budget)}; {outcome.seconds:.0f} s; in brackets 95 % intervals"
    console.print(f"{ran}, or ranges over seeds where every seed must pass.", style="dim", **plain)
    console.print(Text.assemble(("\nverdict: ", "bold"), (outcome.verdict, f"bold {_COLOURS[outcome.verdict]}")))


def _rendered(table: Figures) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    names = [str(row[0]) for row in table.rows]
    longest = max(len(word) for name in (table.columns[0], *names) for word in name.split(" "))
    for i, column in enumerate(table.columns):
        made.add_column(column, min_width=None if i else longest)
    for row in table.rows:
        made.add_row(*(_coloured(cell, table.unit) for cell in row))
    return made


def _coloured(cell: Cell, unit: str) -> Text:
    text = shown(cell, unit)
    return Text(text, style=_COLOURS.get(text, ""))


class _Bar:
    """Which seed is run, and how long it has taken; on a terminal only."""

    def __init__(self, *, enabled: bool):
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns, console=console, disable=not (enabled and console.is_terminal), transient=True
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def update(self, what: str, done: int, total: int) -> None:
        """Show what is going on."""
        self._progress.update(self._task, description=what, completed=done, total=total)
