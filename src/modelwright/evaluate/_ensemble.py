"""The ensemble of systems that were evaluated, from their records alone: nothing is asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean, listing
from modelwright.evaluate._calibration import class_indices
from modelwright.evaluate._kinds import kinds_of
from modelwright.evaluate._predictor import needs
from modelwright.evaluate._records import Part, Records, check_alike, schema
from modelwright.predictions import Predictions, combine

Space = Literal["probabilities", "logits"]


def with_ensemble(
    records: Records,
    members: Sequence[str] | None = None,
    *,
    label: str = "ensemble",
    space: Space = "probabilities",
    kinds: Mapping[str, str] | None = None,
) -> Records:
    """The records with those of one more system: the members asked together.

    Args:
        records: Of classification tasks.
        members: At least two systems; default all of the kind `single` that answered every task.
        label: What the ensemble is called.
        space: Where answers are averaged: `probabilities` gives the arithmetic mean; `logits` the mean of
            log-probabilities, which after the softmax is exactly that of the logits.
        kinds: What the records do not say, or say wrong, by system: which are single models.

    Returns:
        The ensemble's scores are those of its mean probabilities. It costs what its members cost together.

    Raises:
        InputError: There are fewer than two members, one has not answered every task or has no probabilities, or the
            label is taken.
    """
    if space not in get_args(Space):
        raise InputError(f"an ensemble cannot average {space}", did_you_mean(space, get_args(Space)))
    if label in records.systems:
        raise InputError(f"there are records of a system '{label}' already", "Give the ensemble another label.")
    names = _members(records, members, kinds_of(records, kinds))
    parts = [_together([records.part(task, name) for name in names], label, space) for task in records.tasks]
    return Records([*records, *parts])


def _members(records: Records, members: Sequence[str] | None, kinds: Mapping[str, str]) -> list[str]:
    if members is None:
        whole = [s for s in records.systems if all(s in [p.head.system for p in records.on(t)] for t in records.tasks)]
        names = [system for system in whole if kinds[system] == "single"]
        if len(names) < 2:
            raise InputError(
                f"an ensemble needs at least two single models that answered every task, and there are: {listing(names)}",
                f"Name its members. Systems: {listing(records.systems)}.",
            )
        return names
    for name in members:
        if name not in records.systems:
            raise InputError(f"there are no records of '{name}'", did_you_mean(name, records.systems))
    if len(set(members)) < max(2, len(members)):
        raise InputError(f"an ensemble needs at least two different members, got {listing(members)}")
    return list(members)


def _together(parts: Sequence[Part], label: str, space: Space) -> Part:
    pa = needs("pyarrow", "evaluation")
    first = parts[0]
    where = f"task {first.head.task}"
    for part in parts[1:]:
        check_alike(first, part)
    parts = [first, *(part.ordered(first.ids) for part in parts[1:])]
    values = np.stack([_probabilities(part) for part in parts])
    bank = Predictions.of(values, scale="probabilities", ids=first.ids, classes=first.head.classes)
    probabilities = np.clip(combine(bank, "mean", space=space).values[0], 0.0, 1.0)  # a mean of ones may be a bit more
    if first.metric.asks != "probabilities":
        raise InputError(f"the metric '{first.metric.name}' does not judge probabilities", where=where)
    classes = np.array(first.head.classes, dtype=object)
    columns: dict[str, Any] = {
        "answer": classes[probabilities.argmax(axis=1)],
        "score": first.metric.of_probabilities(probabilities, class_indices(first)),
        "confidence": probabilities.max(axis=1),
        "probabilities": list(probabilities),
    }
    for name in ("seconds", "money", "calls", "tokens_in", "tokens_out"):
        values = np.sum([part.column(name).astype(np.float64) for part in parts], axis=0)
        columns[name] = values
        if name not in ("seconds", "money"):
            columns[name] = [None if np.isnan(value) else int(value) for value in values]
    table = first.table
    for i, column in enumerate(schema()):
        if column.name in columns:
            table = table.set_column(i, column, pa.array(columns[column.name], column.type, from_pandas=True))
    head = replace(
        first.head,
        system=label,
        system_fingerprint="",
        parameters=_sum([part.head.parameters for part in parts]),
        nbytes=_sum([part.head.nbytes for part in parts]),
        made={"kind": "ensemble", "members": [part.head.system for part in parts], "space": space},
    )
    return Part(head, table)


def _probabilities(part: Part) -> np.ndarray:
    probabilities = part.probabilities
    if probabilities is None or not part.head.classes:
        raise InputError(
            f"'{part.head.system}' has no probabilities of classes, which an ensemble is averaged from",
            "Leave it out of the members, or evaluate it as a classifier.",
            f"task {part.head.task}",
        )
    return probabilities


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
