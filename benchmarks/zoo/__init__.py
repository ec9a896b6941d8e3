"""The zoo: every method that the library has on families of models that are trained here, and their leaderboard.

    make zoo                                everything; images and text need MODELWRIGHT_DATA
    make zoo ZOO="--suite digits --seeds 1" one suite; all options: python -m benchmarks.zoo --help
    python -m benchmarks.zoo --smoke        families that know little, in seconds: does it run?
    python -m benchmarks.zoo --write        nothing is run: docs/zoo.md anew from leaderboard.json

A full run replaces leaderboard.md, leaderboard.json and the pictures here, and what docs/zoo.md says between its marks; one
that is narrowed by an option writes beside its records unless --results says otherwise. Stopped, it goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError
from modelwright.suites import Leaderboard
from modelwright.suites._cells import as_json, write_text
from modelwright.suites._markdown import share_text

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs" / "zoo.md"
#: In the order of the table. What needs data packs is passed over where MODELWRIGHT_DATA is not set.
SUITES = ("digits", "images-vit", "images-cnn", "text-lm")
NEED_DATA = ("images-vit", "images-cnn", "text-lm")
_MARKS = ("<!-- results -->", "<!-- /results -->")


def overview(boards: Mapping[str, Leaderboard]) -> str:
    """One table of all suites: the share of what the experts reach, methods by their mean over the suites."""
    shares = {name: {line.label: line.share for line in board.lines} for name, board in boards.items()}
    groups = {line.label: line.group for board in boards.values() for line in board.lines}
    order = list(dict.fromkeys(groups.values()))

    def place(label: str) -> tuple[int, float]:
        known = [float(own[label].mean()) for own in shares.values() if label in own and np.isfinite(own[label].mean())]
        ranked = known and groups[label] != "reference"
        return order.index(groups[label]), sum(known) / len(known) if ranked else 0.0

    rows = [f"| system | {' | '.join(boards)} |", f"|---|{'---:|' * len(boards)}"]
    for label in sorted(groups, key=place):
        cells = [share_text(own[label]) if label in own else "" for own in shares.values()]
        rows.append(f"| `{label}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def told(run: Mapping[str, Any]) -> str:
    """What the work took."""
    return (
        f"Written by `python -m benchmarks.zoo`: {run['cells']} cells of {run['cell_seconds'] / 60:.0f} minutes in all, and "
        f"{run['train_seconds'] / 60:.0f} minutes of training, {run['workers']} at a time."
    )


def write(boards: Mapping[str, Leaderboard], run: Mapping[str, Any], folder: Path) -> None:
    """The leaderboards of all suites, as one page, one JSON document and a picture each."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures(boards, folder)
    parts = [
        "# The zoo",
        f"{told(run)} Per cent of what the experts reach, mean over tasks, ± standard deviation over seeds; details below. "
        "How to read this: [docs/zoo.md](../../docs/zoo.md).",
        overview(boards),
        *(f"{board.markdown('##')}\n![{name}]({name}.svg)" for name, board in boards.items()),
    ]
    write_text(folder / "leaderboard.md", "\n\n".join(parts) + "\n")
    data = {"version": 1, "run": dict(run), "suites": {name: board.data for name, board in boards.items()}}
    write_text(folder / "leaderboard.json", as_json(data, indent=1) + "\n")


def pictures(boards: Mapping[str, Leaderboard], folder: Path) -> None:
    """A picture of each leaderboard."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, board in boards.items():
        write_text(folder / f"{name}.svg", board.picture())


def write_docs(results: Path, page: Path = DOCS) -> None:
    """Put what leaderboard.json says between the marks of a page, with the pictures in a folder of its name beside it.

    Args:
        results: The folder of leaderboard.json.
        page: A page in markdown.

    Raises:
        InputError: The page lacks the marks, or there are no results.
    """
    found = results / "leaderboard.json"
    if not found.is_file():
        raise InputError(f"there is no '{found}'", "make zoo writes it.")
    text = page.read_text(encoding="utf-8")
    if not all(text.count(mark) == 1 for mark in _MARKS) or text.index(_MARKS[0]) > text.index(_MARKS[1]):
        raise InputError(f"the page must have {' and '.join(_MARKS)} once each, in this order", where=str(page))
    data = json.loads(found.read_text(encoding="utf-8"))
    boards = {name: Leaderboard.of(board) for name, board in data["suites"].items()}
    pictures(boards, page.parent / page.stem)
    parts = [
        "## What was found", told(data["run"]),
        "Per cent of what the experts reach, mean over tasks, ± standard deviation over seeds:", overview(boards),
    ]  # fmt: skip
    for name, board in boards.items():
        heading, _, rest = board.markdown("###", chosen=False).partition("\n\n")
        parts += [heading, f"![Shares of what the experts reach in {name}]({page.stem}/{name}.svg)", rest.strip()]
    before, after = text.partition(_MARKS[0])[0], text.partition(_MARKS[1])[2]
    write_text(page, before + "\n\n".join([_MARKS[0], *parts, _MARKS[1]]) + after)
