"""A comparison as a LaTeX table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from modelwright.errors import printable
from modelwright.evaluate._metrics import metric
from modelwright.evaluate._statistics import Interval

if TYPE_CHECKING:
    from modelwright.evaluate._comparison import Comparison

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


#: With more tasks than this, their figures stand without intervals.
_ROOM = 4


def escaped(text: str) -> str:
    r"""A text that LaTeX sets as it stands.

    Example:
        >>> escaped("50 % of a_b")
        '50 \\% of a\\_b'
    """
    return re.sub(r'[\\{}$&#_%~^<>|"]', lambda match: _SPECIAL[match[0]], printable(text))


def table(comparison: Comparison) -> str:
    """Systems by tasks; the best of a column in bold. Half-widths of intervals where there is room, else of the means."""
    several = len(comparison.tasks) > 1
    heads = [f"{escaped(task)}{_direction(comparison, task)}" for task in comparison.tasks]
    mean = several and any(m.figure for m in comparison.means)
    shares = any(m.normalised for m in comparison.means)
    heads += [*(["mean"] if mean else []), *([r"norm. (\%)"] if shares else [])]
    columns = [_column(comparison, task) for task in comparison.tasks]
    if mean:
        unit = comparison.unit
        figures = {m.system: m.figure for m in comparison.means}
        columns.append(_cells(figures, bool(unit and unit.bounded), bool(unit and unit.higher_is_better)))
    if shares:
        columns.append(_cells({m.system: m.normalised for m in comparison.means}, True, True))
    lines = [
        f"% Intervals of {100 * comparison.level:g} % from {comparison.resamples} resamples of the items, seed {comparison.seed}.",
        f"% * differs from {printable(comparison.reference)} (paired test, Holm-adjusted p < {1 - comparison.level:.2g}).",
        rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
        r"\toprule",
        " & ".join(["system", *heads]) + r" \\",
        r"\midrule",
        *(
            " & ".join([escaped(system), *(c.get(system, "") for c in columns)]) + r" \\"
            for system in comparison.systems
        ),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _lines(comparison: Comparison, columns: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """A line a system; kinds are set apart."""
    kind = ""
    for mean in comparison.ordered():
        if kind and mean.kind != kind:
            yield r"\midrule"
        kind = mean.kind
        yield " & ".join([escaped(mean.system), *(column.get(mean.system, "") for column in columns)]) + r" \\"


def _direction(comparison: Comparison, task: str) -> str:
    judged = metric(next(row.metric for row in comparison.rows if row.task == task))
    unit = r" (\%)" if judged.bounded else f" ({escaped(judged.name)})"
    return unit if judged.higher_is_better else rf"{unit} $\downarrow$"


def _column(comparison: Comparison, task: str) -> dict[str, str]:
    rows = [row for row in comparison.rows if row.task == task]
    judged = metric(rows[0].metric)
    marks = {row.system: r"\textsuperscript{*}" for row in rows if row.p_adjusted < 1 - comparison.level}
    spread = len(comparison.tasks) <= _ROOM
    return _cells(
        {row.system: row.figure for row in rows}, judged.bounded, judged.higher_is_better, marks, spread=spread
    )


def _cells(
    figures: Mapping[str, Interval | None],
    percent: bool,
    higher: bool,
    marks: Mapping[str, str] | None = None,
    *,
    spread: bool = True,
) -> dict[str, str]:
    known = {system: figure for system, figure in figures.items() if figure and not math.isnan(figure.value)}
    shown = {system: _text(figure.value, percent) for system, figure in known.items()}
    best = {_text((max if higher else min)(f.value for f in known.values()), percent)} if known else set()
    cells: dict[str, str] = {}
    for system, figure in known.items():
        text = rf"\textbf{{{shown[system]}}}" if shown[system] in best else shown[system]
        half = (figure.high - figure.low) / 2
        within = "" if math.isnan(half) or not spread else rf" {{\scriptsize$\pm${_text(half, percent)}}}"
        cells[system] = f"{text}{(marks or {}).get(system, '')}{within}"
    return cells


def _text(value: float, percent: bool) -> str:
    text = f"{100 * value:.1f}" if percent else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return text.replace("-", "$-$")
