"""The records of a sweep with its seeds as one, for comparisons that know no seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError
from modelwright.evaluate import Part, Records
from modelwright.evaluate._predictor import needs
from modelwright.suites._cells import Cells, key_of
from modelwright.suites._sweep import CONDITIONS

#: Metrics that are no mean of the items' scores, and yet a function of such means: those of each class, or its exponential.
_OF_MEANS = ("balanced_accuracy", "perplexity")


def pooled(folder: str | Path) -> Records:
    """The records of a sweep, each item once: its score is the mean over the seeds.

    A test item is the same item in every seed. Were it in the records once a seed, whoever resamples items would take three
    answers to one question for answers to three, and intervals would be too narrow: with seeds that agree, by the root
    of their number. So an item is one row, whatever it was asked, and its score the mean over the seeds; intervals and tests
    are then of drawing other items of these tasks, for these seeds, whose spread stands in the leaderboard.

    A figure over all items is the mean over seeds for means of scores, and for perplexity the geometric mean. Probabilities
    and confidences are those of one model, and are not kept. Where the models differ by seed, systems that lack one are
    left out.

    Args:
        folder: The sweep's folder.

    Raises:
        InputError: It has no finished cells, or several seeds of a metric that is no function of mean scores, or of items
            that differ.
    """
    folder = Path(folder)
    said = json.loads((folder / CONDITIONS).read_text(encoding="utf-8"))
    store = Cells(folder)
    cells = [c for c in store if c.status == "done" and c.said == said.get("said") and c.seed < said["seeds"]]
    seeds = sorted({cell.seed for cell in cells})
    if not seeds:
        raise InputError(f"the sweep in '{folder}' has no finished cells", "Run mw sweep again.")
    results = {seed: Records.read(store.records(seed)) for seed in seeds}
    made = {name: [cell.seed for cell in cells if cell.label == name] for name in results[seeds[0]].systems}
    systems = {name: own for name, own in made.items() if own and (said["fixed"] or own == seeds)}
    return Records(
        _averaged({seed: results[seed].part(task, name) for seed in own})
        for task in results[seeds[0]].tasks
        for name, own in systems.items()
    )


def _averaged(by_seed: Mapping[int, Part]) -> Part:
    """One system's records on a task, averaged over its seeds."""
    first, *others = by_seed.values()
    if any(other.head.task_fingerprint != first.head.task_fingerprint for other in others):
        raise InputError(
            f"task {first.head.task}: its test items are not the same in all seeds, so the seeds are not one",
            "Compare a seed: mw compare RUNS/records/seed-0.",
        )
    parts = [first, *(part.ordered(first.ids) for part in others)]
    if others and first.metric.total is not None and first.metric.name not in _OF_MEANS:
        raise InputError(
            f"task {first.head.task}: {first.metric.name} is no mean over items, so several seeds are not one",
            "Compare a seed: mw compare RUNS/records/seed-0.",
        )
    heads = [part.head for part in parts]
    made = {**heads[0].made, "seed": list(by_seed), "parameters": [head.made.get("parameters") for head in heads]}
    prints = [head.system_fingerprint for head in heads]
    head = replace(heads[0], system_fingerprint=key_of(systems=prints) if all(prints) else "", made=made)
    return Part(head, _table(parts) if others else first.table)


def _table(parts: Sequence[Part]) -> Any:
    """The rows of one part, with means over the parts."""
    pa = needs("pyarrow", "evaluation")
    first, table = parts[0], parts[0].table
    form = table.schema

    def put(name: str, values: Any) -> None:
        nonlocal table
        place = form.get_field_index(name)
        table = table.set_column(place, form.field(place), pa.array(values, form.field(place).type))

    def mean(name: str, finish: Callable[[np.ndarray], np.ndarray] = lambda values: values) -> None:
        if not any(part.table[name].null_count for part in parts):
            put(name, finish(np.mean([part.column(name) for part in parts], axis=0)))

    answers = [part.column("answer") for part in parts]
    if first.metric.asks == "loglikelihoods":
        put("answer", [repr(float(value)) for value in np.mean([own.astype(np.float64) for own in answers], axis=0)])
    else:
        put("answer", [" | ".join(dict.fromkeys(own)) for own in zip(*answers, strict=True)])
    mean("score")
    mean("seconds")
    mean("money")
    for name in ("calls", "tokens_in", "tokens_out"):
        mean(name, lambda values: np.rint(values).astype(np.int64))
    for name in ("confidence", "probabilities"):
        place = form.get_field_index(name)
        table = table.set_column(place, form.field(place), pa.nulls(len(table), form.field(place).type))
    return table.replace_schema_metadata(None)
