"""The records of all seeds of a sweep as one, for comparisons that know no seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelwright.errors import InputError
from modelwright.evaluate import Part, Records
from modelwright.evaluate._predictor import needs
from modelwright.suites._cells import Cells, key_of


def pooled(folder: str | Path) -> Records:
    """The records of a sweep, with `seed-0/ITEM` for an item's name.

    Systems are paired by seed and item. A figure over all is the mean over seeds, as every seed has the same number of
    items; its interval speaks of these seeds, whose spread stands in the leaderboard. Systems that lack a seed are left
    out.

    Args:
        folder: The sweep's folder.

    Raises:
        InputError: It has no finished cells.
    """
    cells = Cells(Path(folder))
    seeds = sorted({cell.seed for cell in cells if cell.status == "done"})
    if not seeds:
        raise InputError(f"the sweep in '{folder}' has no finished cells", "Run mw sweep again.")
    results = [Records.read(cells.records(seed)) for seed in seeds]
    finished = [{cell.label for cell in cells if cell.seed == seed and cell.status == "done"} for seed in seeds]
    systems = [name for name in results[0].systems if all(name in some for some in finished)]
    return Records(
        _joined([found.part(task, system) for found in results], seeds)
        for task in results[0].tasks
        for system in systems
    )


def _joined(parts: Sequence[Part], seeds: Sequence[int]) -> Part:
    pa = needs("pyarrow", "evaluation")
    tables = []
    for part, seed in zip(parts, seeds, strict=True):
        place = part.table.schema.get_field_index("item")
        names = pa.array([f"seed-{seed}/{name}" for name in part.ids])
        tables.append(part.table.set_column(place, part.table.schema.field(place), names).replace_schema_metadata(None))
    heads = [part.head for part in parts]
    made = {**heads[0].made, "seed": list(seeds), "parameters": [head.made.get("parameters") for head in heads]}
    head = replace(
        heads[0],
        task_fingerprint=key_of(tasks=[head.task_fingerprint for head in heads]),
        system_fingerprint=key_of(systems=[head.system_fingerprint for head in heads]),
        made=made,
    )
    return Part(head, pa.concat_tables(tables))
