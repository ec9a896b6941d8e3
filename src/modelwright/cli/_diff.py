"""`mw diff`."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.cli._files import check_writable, write_json
from modelwright.cli._merge import Bar
from modelwright.errors import printable
from modelwright.surgery import Difference, Figures, diff
from modelwright.surgery._names import short

if TYPE_CHECKING:
    from rich.console import Console

#: Models that have a column each in the table of layers.
_MOST_COLUMNS = 4


@dataclass(frozen=True)
class Showing:
    """What is shown, and where.

    Attributes:
        tensors: Every tensor, instead of layers and kinds.
        top: Only so many rows, the largest relative norms first.
        json: A file for all figures, or - for stdout.
        html: A file for a page.
        quiet: Print nothing.
    """

    tensors: bool
    top: int | None
    json: str | None
    html: Path | None
    quiet: bool


def run_diff(models: Sequence[str], base: str | None, showing: Showing, *, spectra: bool, threads: int) -> None:
    """Compare, and show what was found."""
    check_writable("--json", showing.json)
    check_writable("--html", showing.html)
    if showing.html is not None:
        from modelwright.evaluate._predictor import needs

        needs("matplotlib", "--html", "report")
    silent = showing.quiet or showing.json == "-"
    with Bar(enabled=not silent) as bar:
        found = diff(models, base=base, spectra=spectra, threads=threads, progress=bar.update)
    if showing.json is not None:
        write_json(showing.json, json_module.dumps(found.as_json(), indent=1, ensure_ascii=False))
    if showing.html is not None:
        from modelwright.report import difference, write

        write(showing.html, difference(found))
    if not silent:
        from rich.console import Console

        _show(Console(), found, showing)


def _show(console: Console, found: Difference, showing: Showing) -> None:
    names = short((*found.models, found.base))
    size = found.overall.size
    console.print(
        f"{printable(', '.join(found.models))} against {printable(found.base)}: {found.overall.tensors} tensors, {size:,} elements\n",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    console.print(_models(found, names))
    if found.overall.pairs:
        console.print(_pairs(found, names))
    if showing.tensors:
        _print(console, _groups("tensor", found, found.tensors, names, showing.top, console.width))
    else:
        _print(console, _groups("layer", found, found.layers, names, showing.top, console.width))
        if any(figures.tensors > 1 for figures in found.kinds):
            _print(console, _groups("kind", found, found.kinds, names, showing.top, console.width))
    for note in found.notes:
        console.print(
            printable(f"note: {note}"), style="dim", highlight=False, markup=False, soft_wrap=not console.is_terminal
        )


#: Characters that the names of groups have at least, that the other columns take, and one of figures.
_NAME, _OTHERS, _FIGURE = 20, 62, 10


def _print(console: Console, table: Any) -> None:
    """In a narrow terminal lines are broken, and not what they are about left out."""
    type(console)(width=max(console.width, _NAME + _OTHERS)).print(table)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(
            column, justify="right" if i else "left", no_wrap=i > 0, overflow="fold", min_width=None if i else _NAME
        )
    return table


def _models(found: Difference, names: dict[str, str]) -> Any:
    from rich.text import Text

    table = _table("task vector", "norm", "relative", "zeros", "similarity", "effective rank", "of full")
    for vector in found.overall.vectors:
        table.add_row(
            Text(printable(names[vector.model])), _number(vector.norm), _number(vector.relative), _percent(vector.sparsity),
            _number(vector.similarity), _number(vector.effective_rank), _percent(vector.rank_share),
        )  # fmt: skip
    return table


def _pairs(found: Difference, names: dict[str, str]) -> Any:
    from rich.text import Text

    table = _table("\npair", "\ncosine", "sign\nconflict", "nonzero\nin both")
    for pair in found.overall.pairs:
        who = " and ".join(names[model] for model in pair.models)
        table.add_row(Text(printable(who)), _number(pair.cosine), _percent(pair.conflict), _percent(pair.overlap))
    return table


def _groups(
    what: str, found: Difference, groups: Sequence[Figures], names: dict[str, str], top: int | None, width: int
) -> Any:
    """A row for each layer, kind or tensor; what there are many of, pairs and models, by its mean."""
    from rich.text import Text

    each = len(found.models) <= min(_MOST_COLUMNS, (width - _OTHERS) // _FIGURE)
    columns = [f"relative\n{printable(names[model])}" for model in found.models] if each else ["\nrelative"]
    paired = len(found.models) > 1
    many = "\n(mean)" if len(found.models) > 2 else ""
    pairs = (f"cosine{many}" if many else "\ncosine", f"sign\nconflict{many}") if paired else ()
    table = _table(f"\n{what}", "\nelements", *columns, "\nzeros", "rank\nof full", *pairs)
    shown = groups if top is None else sorted(groups, key=lambda group: -group.relative)[:top]
    for group in shown:
        relative = [vector.relative for vector in group.vectors]
        table.add_row(
            Text(printable(group.name)), f"{group.size:,}",
            *([_number(value) for value in relative] if each else [_number(_mean(relative))]),
            _percent(_mean([vector.sparsity for vector in group.vectors])),
            _percent(_mean([vector.rank_share for vector in group.vectors])),
            *([_number(_mean([p.cosine for p in group.pairs])), _percent(_mean([p.conflict for p in group.pairs]))] if paired else []),
        )  # fmt: skip
    if len(shown) < len(groups):
        table.add_row(Text(f"{len(groups) - len(shown)} more", style="dim"))
    return table


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f} %"
