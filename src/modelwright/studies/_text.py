"""Outcomes as text: how figures are written in terminals, pages and documents."""

from __future__ import annotations

from modelwright.studies._evidence import Interval, Part
from modelwright.studies._study import Cell, Table

#: Headings of `statements`.
STATEMENT = ("statement", "measured", "claimed", "verdict")


def shown(cell: Cell, unit: str = "%") -> str:
    """A cell of a table: `84.0 [82.0, 85.9]`, shares in per cent."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Interval):
        value, low, high = (_number(x, unit) for x in (cell.value, cell.low, cell.high))
        return value if low == high else f"{value} [{low}, {high}]"
    return _number(cell, unit)


def _number(value: float, unit: str) -> str:
    text = f"{100 * value:.1f}" if unit == "%" else f"{value:.3f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def statements(parts: tuple[Part, ...]) -> list[tuple[str, str, str, str]]:
    """What was claimed, measured and found, one row a part; `STATEMENT` heads the columns."""
    return [
        (
            part.says + ("" if part.decides else " (reported only)"),
            f"{shown(part.interval, part.unit)}{part.unit and ' %'}{', of one seed: no interval' * part.interval.single}",
            f"{part.relation} {_bound(part)}",
            part.verdict,
        )
        for part in parts
    ]


def _bound(part: Part) -> str:
    return f"{100 * part.bound:g} %" if part.unit == "%" else f"{part.bound:g}"


def heading(table: Table) -> str:
    """A table's title with its unit."""
    return f"{table.title}, %" if table.unit == "%" else table.title


def measure(seeds: tuple[int, ...], budget: str) -> str:
    """What was run: `5 seeds`, and that a smoke run proves nothing."""
    text = f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"
    return text if budget == "full" else f"{text}, a {budget} run: what it says about the claim means nothing"
