"""What records say of one model, as its model card shows it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate._compare import compare
from modelwright.evaluate._metrics import metric
from modelwright.evaluate._records import Records


def evaluations(records: Records | str | Path, system: str, *, level: float = 0.95) -> list[dict[str, Any]]:
    """The figures of a model and of those it was recorded with, for `mw.card`.

    Args:
        records: `Records`, or a folder of them.
        system: Which of their systems the model is.
        level: Coverage of the intervals, in (0, 1).

    Returns:
        For each task, that system first: `task`, `split`, `system`, `ours`, `metric`, `title`, `figure`, `low`, `high`
        (None where there is no interval), `level` and `items`.

    Raises:
        InputError: There are no records of that system.
    """
    found = records if isinstance(records, Records) else Records.read(records)
    if system not in found.systems:
        raise InputError(f"there are no records of '{system}'", did_you_mean(system, found.systems))
    rows: list[dict[str, Any]] = []
    for row in compare(found, level=level).rows:
        part = found.part(row.task, row.system)
        low, high = (None if math.isnan(edge) else edge for edge in (row.figure.low, row.figure.high))
        rows.append({
            "task": row.task, "split": part.head.split, "system": row.system, "ours": row.system == system, "metric": row.metric,
            "title": metric(row.metric).title, "figure": row.figure.value, "low": low, "high": high, "level": level,
            "items": part.table.num_rows,
        })  # fmt: skip
    order = {task: place for place, task in enumerate(found.tasks)}
    rows = [row for row in rows if any(r["ours"] and r["task"] == row["task"] for r in rows)]
    return sorted(rows, key=lambda row: (order[row["task"]], not row["ours"]))
