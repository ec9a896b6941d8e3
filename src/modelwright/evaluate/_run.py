"""Ask systems about tasks, and keep what they answer: batch by batch, so that a killed run goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError, RunError
from modelwright.evaluate._items import Items
from modelwright.evaluate._predictor import Predictor, needs
from modelwright.evaluate._records import Head, Part, Records, read_part, schema, table_of, write_part
from modelwright.evaluate._task import Scored, Task

#: Called with (system, task, items done, items in all).
Progress = Callable[[str, str, int, int], None]

#: Seconds between two writings of what has been answered.
KEEP_EVERY = 5.0


@dataclass(frozen=True)
class Plan:
    """How to evaluate.

    Attributes:
        split: Which split is asked about.
        batch: Items at a time.
        device: Recorded; predictors were put there when they were made.
        restart: Throw away what an earlier run of the same evaluation has answered.
        progress: Told after each batch.
        made: What else is recorded of the systems, such as how they were merged; plain values.
    """

    split: str = "test"
    batch: int = 64
    device: str = "cpu"
    restart: bool = False
    progress: Progress | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch must be at least 1, got {self.batch}")


def run(
    systems: Sequence[Predictor], tasks: Sequence[Task], out: str | Path | None = None, plan: Plan | None = None
) -> Records:
    """Ask every system about every task.

    Args:
        systems: With different labels.
        tasks: With different names.
        out: A folder of records. What is there already, of the same system and the same task, is not asked again.
            None keeps everything in memory.
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
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two {what} are called '{twice[0]}'", "Give each a name of its own, as NAME=MODEL.")


def _answered(system: Predictor, task: Task, folder: Path | None, plan: Plan) -> Part:
    answering = system.for_task(task)
    items = task.items(plan.split)
    head = head_of(system, task, plan)
    store = _Store(head, folder, restart=plan.restart)
    done = store.done()
    told = len(done)
    for batch in items.batches(plan.batch, skip=done):
        start = time.perf_counter()
        try:
            scored = task.score(answering, batch)
        except RunError:
            store.keep()
            raise
        store.add(table_of(head, batch, _of_all(scored, answering.members), time.perf_counter() - start))
        told += len(batch)
        if plan.progress is not None:
            plan.progress(system.label, task.name, told, len(items))
    return store.finish(items)


def _of_all(scored: Scored, members: int) -> Scored:
    """Its calls and tokens, when every one of several models is asked each time."""
    calls, read, written = (np.asarray(n) * members for n in (scored.calls, scored.tokens_in, scored.tokens_out))
    return replace(scored, calls=calls, tokens_in=read, tokens_out=written)


def head_of(system: Predictor, task: Task, plan: Plan) -> Head:
    """What holds for all records of a system on a task."""
    return Head(
        task=task.name,
        split=plan.split,
        system=system.label,
        metric=task.metric.name,
        task_fingerprint=task.fingerprint(plan.split),
        system_fingerprint=system.fingerprint,
        classes=task.classes,
        parameters=system.size.parameters,
        nbytes=system.size.nbytes,
        device=plan.device,
        made={"modelwright": version("modelwright"), **plan.made},
    )


class _Store:
    """The answers of one system to one task: in memory, and from time to time in files beside the final one."""

    def __init__(self, head: Head, folder: Path | None, *, restart: bool):
        self._head = head
        self._tables: list[Any] = []
        self._kept: list[Any] = []
        self._file = None if folder is None else folder / head.file
        self._parts = None if self._file is None else self._file.with_name(f".{self._file.name}.parts")
        self._saved = time.monotonic()
        if restart:
            self._discard()
        self._load()

    def _discard(self) -> None:
        if self._file is not None and self._parts is not None:
            self._file.unlink(missing_ok=True)
            shutil.rmtree(self._parts, ignore_errors=True)

    def _load(self) -> None:
        if self._file is None or self._parts is None:
            return
        files = [self._file] if self._file.is_file() else []
        files += sorted(self._parts.glob("[0-9]*.parquet")) if self._parts.is_dir() else []
        for path in files:
            part = read_part(path)
            self._check_same(part.head, path)
            self._kept.append(part.table)

    def _check_same(self, found: Head, path: Path) -> None:
        mine = self._head
        for what, a, b in (
            ("the task", found.task_fingerprint, mine.task_fingerprint),
            ("the system", found.system_fingerprint, mine.system_fingerprint),
        ):
            if a != b:
                raise InputError(
                    f"there are records of '{mine.system}' on '{mine.task}', and {what} has changed since",
                    "Use another label or another folder, or --restart to throw them away.",
                    str(path),
                )

    def done(self) -> set[str]:
        """The ids that need not be asked again."""
        return {name for table in self._kept for name in table["item"].to_pylist()}

    def add(self, table: Any) -> None:
        """Take a batch's records."""
        self._tables.append(table)
        if time.monotonic() - self._saved > KEEP_EVERY:
            self.keep()

    def keep(self) -> None:
        """Write what has come since the last time, so that a killed run does not ask again."""
        if self._parts is not None and self._tables:
            pa = needs("pyarrow", "evaluation")
            number = len(list(self._parts.glob("[0-9]*.parquet"))) if self._parts.is_dir() else 0
            write_part(Part(self._head, pa.concat_tables(self._tables)), self._parts / f"{number:06d}.parquet")
        self._kept += self._tables
        self._tables, self._saved = [], time.monotonic()

    def finish(self, items: Items) -> Part:
        """All records in the order of the items; written in one step."""
        pa = needs("pyarrow", "evaluation")
        table = pa.concat_tables([t.cast(schema()) for t in (*self._kept, *self._tables)])
        part = Part(self._head, table.replace_schema_metadata(schema(self._head).metadata)).ordered(items.ids)
        if self._file is not None and self._parts is not None and (self._tables or self._parts.is_dir()):
            write_part(part, self._file)
            shutil.rmtree(self._parts, ignore_errors=True)
        return part
