"""Banks of systems that are evaluated: predictions of tasks, and of records, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate._calibration import class_indices
from modelwright.evaluate._predictor import Predictor, Size
from modelwright.evaluate._records import Part, Records, check_alike, table_of
from modelwright.evaluate._run import Plan, head_of
from modelwright.evaluate._systems import systems as systems_of
from modelwright.evaluate._task import Task
from modelwright.evaluate.sources import task as task_of
from modelwright.predictions import Member, MemberCost, Predictions, Progress, Scale, Source, collect


def predictions(
    systems: Sequence[Any] | Mapping[str, Any],
    task: Any,
    *,
    split: str = "validation",
    limit: int | None = None,
    out: str | Path | None = None,
    batch: int = 64,
    device: str = "cpu",
    network: str | Callable[[Mapping[str, Any]], Any] | None = None,
    plugins: Sequence[str | Path] = (),
    restart: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Ask systems about a task, as a bank.

    Args:
        systems: As in `mw.eval`: folders of transformers or timm, recipes, modules, estimators, functions, checkpoints.
        task: As in `mw.task`; of classes or numbers.
        split: `tune`, `validation` or `test`.
        limit: Ask only so many items, a fixed sample.
        out: A `.safetensors` or `.parquet` file; a killed run goes on, and what it holds is not asked again.
        batch: Items at a time.
        device: Where modules run.
        network: As in `mw.eval`.
        plugins: Python files with further merging methods.
        restart: Throw away what `out` holds.
        progress: Called with member, items done and items in all.

    Returns:
        The bank in float32, with the task's items, classes and targets: logits where every system has them, else
        probabilities; values for a task of numbers.

    Raises:
        InputError: A system or the task cannot be loaded, or the task is of texts.
        RunError: A system fails.

    Example:
        >>> import numpy as np
        >>> data = (np.zeros((4, 2)), ["a", "a", "a", "b"])
        >>> predictions({"even": lambda x: np.full((len(x), 2), 0.5)}, data, split="test")
        Predictions(1 members x 4 samples x 2 classes, probabilities, labelled)
    """
    wanted = task if isinstance(task, Task) else task_of(task)
    kind = {"probabilities": "classes", "values": "regression"}.get(wanted.asks)
    if kind is None:
        raise InputError(
            f"the task '{wanted.name}' asks for {wanted.asks}, which are no predictions of classes or numbers"
        )
    items = wanted.items(split)
    items = items if limit is None else items.first(limit)
    found = systems_of(systems, device=device, network=network, plugins=plugins)
    return collect(
        [_source(one.for_task(wanted), one, len(wanted.classes), kind) for one in found], items.inputs,
        np.asarray(items.targets), ids=items.ids, classes=wanted.classes, out=out, batch=batch, restart=restart,
        progress=progress,
    )  # fmt: skip


def _source(answering: Predictor, system: Predictor, classes: int, kind: Any) -> Source:
    def values(inputs: Any) -> np.ndarray:
        return np.asarray(answering.values(inputs), np.float32)

    def scores(inputs: Any) -> np.ndarray:
        return np.asarray(answering.scores(inputs, classes), np.float32)

    scale: Scale = "values" if kind == "regression" else answering.scale
    cost = MemberCost(parameters=system.size.parameters, nbytes=system.size.nbytes)
    lineage = {name: system.made[name] for name in ("kind", "reference", "method", "seed") if name in system.made}
    ask = values if kind == "regression" else scores
    return Source(system.label, ask, scale, kind, f"{system.fingerprint}-{scale}", cost, lineage, system.unseen)


def predictions_of(records: Records, task: str | None = None, systems: Sequence[str] | None = None) -> Predictions:
    """The bank of what systems answered to one task, from their records.

    Args:
        records: Of classification or regression.
        task: Its name; may be left out where there is one.
        systems: In the order they are to have; default all.

    Returns:
        Probabilities, which records keep in float32; or values.

    Raises:
        InputError: Systems answered different items, or one has no probabilities of all classes.
    """
    if task is None and len(records.tasks) > 1:
        raise InputError(f"these records are of {len(records.tasks)} tasks", did_you_mean("", records.tasks))
    name = task or records.tasks[0]
    parts = [records.part(name, system) for system in systems or [part.head.system for part in records.on(name)]]
    for part in parts[1:]:
        check_alike(parts[0], part)
    first = parts[0]
    parts = [first, *(part.ordered(first.ids) for part in parts[1:])]
    members = [_member(part) for part in parts]
    if first.metric.asks == "values":
        values = np.stack([part.column("answer").astype(np.float64) for part in parts])
        targets = first.column("target").astype(np.float64)
        return Predictions.of(values, targets, scale="values", kind="regression", ids=first.ids, members=members)
    values = np.stack([_probabilities(part) for part in parts])
    return Predictions.of(
        values, class_indices(first), scale="probabilities", ids=first.ids, members=members, classes=first.head.classes
    )


def _probabilities(part: Part) -> np.ndarray:
    found = part.probabilities
    if found is None or not part.head.classes:
        raise InputError(
            f"'{part.head.system}' has no probabilities of classes",
            "Leave it out, or evaluate it as a classifier.",
            f"task {part.head.task}",
        )
    return found


def _member(part: Part) -> Member:
    head = part.head
    seconds = part.column("seconds").astype(np.float64)
    each = None if np.isnan(seconds).any() else 1e3 * float(np.median(seconds))
    lineage = {name: head.made[name] for name in ("kind", "reference", "method", "seed") if name in head.made}
    cost = MemberCost(milliseconds=each, parameters=head.parameters, nbytes=head.nbytes)
    return Member(head.system, cost, {**lineage, "fingerprint": head.system_fingerprint})


@dataclass
class _Said(Predictor):
    """One member of a bank, asked about all of its samples at once."""

    said: np.ndarray = field(kw_only=True)

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        """What it said."""
        return self.said

    def values(self, inputs: Any) -> np.ndarray:
        """What it said."""
        return self.said


def records_of(bank: Predictions, task: Any, *, split: str = "test") -> Records:
    """Records of a bank's members, to be compared like those of any system.

    Args:
        bank: Of the task's items, all of them or a part, in any order.
        task: As in `mw.task`: its metric and its targets count.
        split: Which of its items.

    Raises:
        InputError: The bank has samples that the split has not, or other classes.
    """
    wanted = task if isinstance(task, Task) else task_of(task)
    items = wanted.items(split)
    place = {name: i for i, name in enumerate(items.ids)}
    odd = [name for name in bank.ids if name not in place]
    if odd:
        raise InputError(f"the task '{wanted.name}' has no item '{odd[0]}' in its split '{split}' ({len(odd):,} such)")
    if bank.classes and tuple(bank.classes) != tuple(wanted.classes):
        raise InputError(f"the bank has other classes than the task '{wanted.name}', or in another order")
    items = items.take([place[name] for name in bank.ids])
    limit = None if len(items) == len(place) else len(items)
    parts = []
    for i, member in enumerate(bank.members):
        one = bank.select([i])
        said = one.block(slice(None), "probabilities" if bank.classes else "values")[0]
        cost = member.cost
        system = _Said(member.name, fingerprint=member.fingerprint, size=Size(cost.parameters, cost.nbytes), said=said)
        system.made = {
            name: value for name, value in member.lineage.items() if name in ("kind", "reference", "method", "seed")
        }
        head = head_of(system, wanted, Plan(split=split, limit=limit))
        seconds = None if cost.milliseconds is None else cost.milliseconds * len(items) / 1e3
        parts.append(Part(head, table_of(head, items, wanted.score(system, items), seconds)))
    return Records(parts)
