"""Tables with headings for screen readers, tints for eyes, and a row that stands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelwright.report._html import Html, attribute, html
from modelwright.report._page import wide


@dataclass(frozen=True)
class Cell:
    """A cell that is more than its text.

    Attributes:
        text: What it says.
        tint: In [0, 1]: how dark it is; None leaves it white.
        framed: For the cells that a reader looks for first.
        strong: In bold.
        words: Text and not a number, so that it stands on the left and its lines break.
    """

    text: str
    tint: float | None = None
    framed: bool = False
    strong: bool = False
    words: bool = False


@dataclass(frozen=True)
class Row:
    """A row; its name is a heading.

    Attributes:
        name: The first column.
        cells: The others, as texts or as `Cell`s.
        best: Whether it stands out.
        mark: A word beside the name.
    """

    name: str
    cells: Sequence[str | Cell]
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Group:
    """A heading for the rows that follow."""

    title: str


def table(columns: Sequence[str], rows: Sequence[Row | Group], *, label: str) -> Html:
    """A table.

    Args:
        columns: The headings, that of the rows' names first.
        rows: With one cell fewer than there are columns each.
        label: What it shows, for readers who do not see it.

    Raises:
        ValueError: A row has another number of cells.
    """
    for row in rows:
        if isinstance(row, Row) and len(row.cells) != len(columns) - 1:
            raise ValueError(f"row '{row.name}' has {len(row.cells)} cells for {len(columns) - 1} columns")
    words = {i for row in rows if isinstance(row, Row) for i, cell in enumerate(row.cells, 1) if _is_words(cell)}
    heads = [
        html(Html(f'<th scope="col"{_classes(["text"] if i in words else [])}>'), column, Html("</th>"))
        for i, column in enumerate(columns)
    ]
    body = "\n".join(_group(row, len(columns)) if isinstance(row, Group) else _row(row) for row in rows)
    return wide(
        f"<table aria-label={attribute(label)}>\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
        "</table>",
        label,
        "scores",
    )


def _is_words(cell: str | Cell) -> bool:
    return isinstance(cell, Cell) and cell.words


def _group(group: Group, columns: int) -> Html:
    return html(Html(f'<tr class="group"><th scope="rowgroup" colspan="{columns}">'), group.title, Html("</th></tr>"))


def _row(row: Row) -> Html:
    name = html(row.name)
    if row.mark:
        name = html(name, Html(' <span class="star">'), row.mark, Html("</span>"))
    cells = "".join(_cell(cell if isinstance(cell, Cell) else Cell(cell)) for cell in row.cells)
    return Html(f'<tr{_classes(["best"] if row.best else [])}><th scope="row">{name}</th>{cells}</tr>')


def _cell(cell: Cell) -> Html:
    classes = [
        *(["tint"] if cell.tint is not None else []),
        *(["own"] if cell.framed else []),
        *(["text"] if cell.words else []),
    ]
    tint = "" if cell.tint is None else f' style="--a:{min(1.0, max(0.0, cell.tint)):.2f}"'
    text = Html(f"<b>{html(cell.text)}</b>") if cell.strong else html(cell.text)
    return Html(f"<td{_classes(classes)}{tint}>{text}</td>")


def _classes(names: Sequence[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""
