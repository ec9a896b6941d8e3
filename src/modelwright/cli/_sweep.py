"""`mw sweep`."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.status import Status

from modelwright.errors import InputError
from modelwright.suites import Cell, Leaderboard, Settings, leaderboard, suite as find_suite, sweep
from modelwright.suites._markdown import parameters_text, share_text

_JSON_VERSION = 1


def run_sweep(
    suite: str,
    methods: str,
    out: Path,
    settings: dict[str, Any],
    plugins: Sequence[Path],
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Run a sweep, write its leaderboard, print it; exit code 1 where a method failed."""
    names = "all" if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        raise InputError("--methods names no method", "Separate names by commas, or leave it out for all that fit.")
    with Lines(enabled=not quiet and not json) as shown:
        done = sweep(
            find_suite(suite), names, out=out, settings=Settings(**settings), plugins=plugins, progress=shown.told
        )
    board = leaderboard(out)
    files = board.write(out)
    failed = [{"system": c.label, "seed": c.seed, "reason": c.reason} for c in done.failed]
    if json:
        result = {"version": _JSON_VERSION, "ok": not failed, "out": str(out), "made": done.made, "failed": failed}
        print(json_module.dumps(result | {"leaderboard": board.data}, indent=2, ensure_ascii=False))  # noqa: T201
    elif not quiet:
        _render(board)
        Console().print(f"{files[0]}, records in {out / 'records'}", highlight=False, markup=False, soft_wrap=True)
    for cell in done.failed:
        text = f"failed: {cell.label}, seed {cell.seed}: {cell.reason}"
        Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


class Lines:
    """On stderr a line for each finished cell and, in a terminal, the trial that is being made."""

    def __init__(self, *, enabled: bool):
        self._console = Console(stderr=True, quiet=not enabled)
        self._status = Status("", console=self._console)

    def __enter__(self) -> Lines:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def title(self, text: str) -> None:
        """What the lines that follow are of."""
        self._console.print(text, highlight=False, markup=False)

    def told(self, cell: Cell, done: int, of: int) -> None:
        """Of a cell."""
        if cell.status == "running":
            self._status.update(f"seed {cell.seed}, {cell.label}: {len(cell.trials)} tried")
            return
        found = {
            "done": f"{parameters_text(cell.parameters)}  {cell.seconds:.1f} s".strip(),
            "failed": f"failed: {cell.reason}",
            "skipped": f"skipped: {cell.reason}",
        }[cell.status]
        text = f"{done:>{len(str(of))}}/{of}  seed {cell.seed}  {cell.label:<18} {found}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _render(board: Leaderboard) -> None:
    """The shares, a line a system; the figures by task are in the files."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("system")
    for column in ("of experts", "n", "merge s"):
        table.add_column(column, justify="right")
    for line in board.lines:
        seconds = "" if line.merge_seconds is None else f"{line.merge_seconds:.2g}"
        table.add_row(line.label, share_text(line.share), str(len(line.seeds)), seconds)
    console = Console()
    console.print(table)
    for pair in board.order:
        if pair.verdict != "as expected":
            text = f"{pair.better} > {pair.worse}, which the literature leads to expect: {pair.verdict}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
