"""The zoo: every method that the library has on families of models that are trained here, and their leaderboard.

    make zoo                                everything; images and text need MODELWRIGHT_DATA
    make zoo ZOO="--suite digits --seeds 1" one suite; all options: python -m benchmarks.zoo --help
    python -m benchmarks.zoo --smoke        families that know little, in seconds: does it run?

A full run replaces leaderboard.md, leaderboard.json and the pictures here; one that is narrowed by an option writes beside
its records unless --results says otherwise. Stopped, it goes on where it was. How to read it stands in docs/zoo.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelwright.suites import Leaderboard
from modelwright.suites._markdown import share_text

HERE = Path(__file__).resolve().parent
#: In the order of the table. What needs data packs is passed over where MODELWRIGHT_DATA is not set.
SUITES = ("digits", "images-vit", "images-cnn", "text-lm")
NEED_DATA = ("images-vit", "images-cnn", "text-lm")


def overview(boards: Mapping[str, Leaderboard]) -> str:
    """One table of all suites: the share of what the experts reach."""
    labels = {line.label: line.group for board in boards.values() for line in board.lines}
    rows = [f"| system | {' | '.join(boards)} |", f"|---|{'---:|' * len(boards)}"]
    for label in labels:
        cells = []
        for board in boards.values():
            found = [line for line in board.lines if line.label == label]
            cells.append(share_text(found[0].share) if found else "")
        rows.append(f"| `{label}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def write(boards: Mapping[str, Leaderboard], run: Mapping[str, Any], folder: Path) -> None:
    """The leaderboards of all suites, as one page, one JSON document and a picture each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, board in boards.items():
        (folder / f"{name}.svg").write_text(board.picture(), encoding="utf-8")
    parts = [
        "# The zoo",
        f"Written by `python -m benchmarks.zoo` in {run['seconds'] / 60:.0f} minutes. Per cent of what the experts reach, mean "
        "over tasks, ± standard deviation over seeds; details below. How to read this: [docs/zoo.md](../../docs/zoo.md).",
        overview(boards),
        *(f"{board.markdown('##')}\n![{name}]({name}.svg)" for name, board in boards.items()),
    ]
    (folder / "leaderboard.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    data = {"version": 1, "run": dict(run), "suites": {name: board.data for name, board in boards.items()}}
    (folder / "leaderboard.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
