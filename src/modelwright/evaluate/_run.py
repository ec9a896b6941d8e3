"""Ask systems about tasks, and keep what they answer: batch by batch, so that a killed run goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError, RunError, listing
from modelwright.evaluate._items import Items
from modelwright.evaluate._predictor import Predictor
from modelwright.evaluate._records import Head, Part, Records, table_of
from modelwright.evaluate._store import Store
from modelwright.evaluate._task import Scored, Task

_LOG = logging.getLogger("modelwright")
#: Called with (system, task, items done, items in all).
Progress = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """How to evaluate.

    Attributes:
        split: Which split is asked about.
        batch: Items at a time.
        device: Recorded; predictors were put there when they were made.
        limit: Ask only so many items, a fixed sample of the split (`Items.first`); None is all.
        restart: Throw away what an earlier run of the same evaluation has answered.
        progress: Told after each batch.
        made: What else is recorded of the systems, such as how they were merged; plain values.
        note: Told what the records should be read with; by default it is logged as a warning.
    """

    split: str = "test"
    batch: int = 64
    device: str = "cpu"
    limit: int | None = None
    restart: bool = False
    progress: Progress | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    note: Callable[[str], None] = _LOG.warning

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch must be at least 1, got {self.batch}")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be at least 1, got {self.limit}")


def run(
    systems: Sequence[Predictor], tasks: Sequence[Task], out: str | Path | None = None, plan: Plan | None = None
) -> Records:
    """Ask every system about every task.

    Args:
        systems: With different labels.
        tasks: With different names.
        out: A folder of records. What is there already, of the same system and the same task, is not asked again.
            None keeps everything in memory. Where it cannot be told whether the system is the same, a note says so.
        plan: How.

    Returns:
        The records, those that were there already among them.

    Raises:
        InputError: Two have one name, a task cannot be read, or `out` holds another system's or task's records under
            the same name.
        RunError: A system gave answers that are none.
    """
    plan = plan or Plan()
    if not systems or not tasks:
        raise InputError(f"evaluation needs systems and tasks, got {len(systems)} and {len(tasks)}")
    _distinct("systems", [system.label for system in systems])
    _distinct("tasks", [task.name for task in tasks])
    for task in tasks:
        task.items(plan.split)  # what is wrong with data is said before anything is computed
    folder = None if out is None else Path(out)
    return Records(_answered(system, task, folder, plan) for task in tasks for system in systems)


def _distinct(what: str, names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other is not name or names.count(name) > 1:
            same = f"two {what} are called '{name}'" if other == name else f"'{other}' and '{name}' differ only in case"
            way = "as NAME=MODEL" if what == "systems" else "by name: in a task file"
            raise InputError(same, f"Give each a name of its own, {way}; some disks do not tell case.")


def _answered(system: Predictor, task: Task, folder: Path | None, plan: Plan) -> Part:
    answering = system.for_task(task)
    items = task.items(plan.split)
    if plan.limit is not None:
        items = items.first(plan.limit)
    head = head_of(system, task, plan)
    with Store(head, items, folder, restart=plan.restart) as store:
        told = len(store.done)
        if told and (system.unseen or store.unsure):
            what = listing([f"'{name}'" for name in system.unseen], 4) if system.unseen else "it"
            plan.note(
                f"'{system.label}' on '{task.name}': {told:,} answers are those of an earlier run, and whether {what} has "
                "changed since cannot be told. To ask again: --restart, or restart=True."
            )
        for batch in items.batches(plan.batch, skip=store.done):
            start = time.perf_counter()
            scored = _of_all(_asked(answering, task, batch), answering.calls(len(batch)))
            store.add(table_of(head, batch, scored, time.perf_counter() - start))
            told += len(batch)
            if plan.progress is not None:
                plan.progress(system.label, task.name, told, len(items))
        return store.finish()


def _asked(system: Predictor, task: Task, batch: Items) -> Scored:
    try:
        return task.score(system, batch)
    except (InputError, RunError, MemoryError):
        raise
    except Exception as error:  # whatever a foreign model raises
        what = f"'{system.label}' fails on '{task.name}', at one of the items '{batch.ids[0]}' .. '{batch.ids[-1]}'"
        raise RunError(f"{what}: {type(error).__name__}: {error}", resumable=True) from error


def _of_all(scored: Scored, members: np.ndarray | int) -> Scored:
    """Its calls and tokens, when so many models were asked about each item."""
    known = {name: getattr(scored, name) for name in ("calls", "tokens_in", "tokens_out")}
    return replace(scored, **{name: np.asarray(n) * members for name, n in known.items() if n is not None})


def head_of(system: Predictor, task: Task, plan: Plan) -> Head:
    """What holds for all records of a system on a task."""
    shared = task.splits.shared(plan.split)
    limit = None if plan.limit is None or plan.limit >= len(task.items(plan.split)) else plan.limit
    return Head(
        task=task.name,
        split=plan.split,
        system=system.label,
        metric=task.metric.name,
        task_fingerprint=task.fingerprint(plan.split, limit),
        system_fingerprint=system.fingerprint,
        classes=task.classes,
        parameters=system.size.parameters,
        nbytes=system.size.nbytes,
        device=plan.device,
        limit=limit,
        made={
            "modelwright": version("modelwright"),
            **({"shared": shared} if shared else {}),
            **system.made,
            **plan.made,
        },
    )
