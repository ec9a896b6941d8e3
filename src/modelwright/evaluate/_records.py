"""Paired records: one row for each system and item, in parquet. Every summary derives from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError, listing
from modelwright.evaluate._items import Items
from modelwright.evaluate._metrics import Metric, Whole, metric
from modelwright.evaluate._predictor import needs
from modelwright.evaluate._task import Scored

SUFFIX = ".parquet"
#: Of the layout of the files.
VERSION = 1


@dataclass(frozen=True)
class Head:
    """What holds for all records of one system on one task.

    Attributes:
        task: The task's name.
        split: Which of its splits.
        system: The system's label.
        metric: The metric's name.
        task_fingerprint: Of items, targets and settings.
        system_fingerprint: Of the system's weights; empty where unknown.
        classes: Names of the classes in the order of the probabilities; empty where there are none.
        parameters: Numbers in the system's weights; None where unknown.
        nbytes: Bytes of its weights; None where unknown.
        device: Where it ran.
        made: Anything else worth keeping, such as method, seed, versions, seconds of merging.
    """

    task: str
    split: str
    system: str
    metric: str
    task_fingerprint: str = ""
    system_fingerprint: str = ""
    classes: tuple[str, ...] = ()
    parameters: int | None = None
    nbytes: int | None = None
    device: str = "cpu"
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Where its records lie in a folder of records."""
        return Path(file_name(self.task), f"{file_name(self.system)}.{self.split}{SUFFIX}")


def file_name(text: str) -> str:
    """A label as part of a path: what is no letter, digit, or one of `._-+@=` becomes %xx."""
    name = "".join(c if c.isalnum() or c in "._-+@=" else "".join(f"%{b:02x}" for b in c.encode()) for c in text)
    return f"%2e{name[1:]}" if name.startswith(".") else name


def schema(head: Head | None = None) -> Any:
    """The columns of the files."""
    pa = needs("pyarrow", "evaluation")
    columns = [
        pa.field("item", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("confidence", pa.float64()),
        pa.field("probabilities", pa.list_(pa.float64())),
        pa.field("seconds", pa.float64()),
        pa.field("calls", pa.int64()),
        pa.field("tokens_in", pa.int64()),
        pa.field("tokens_out", pa.int64()),
        pa.field("slices", pa.map_(pa.string(), pa.string())),
    ]
    meta = None
    if head is not None:
        meta = {"modelwright": json.dumps({"version": VERSION, **asdict(head)}, ensure_ascii=False)}
    return pa.schema(columns, metadata=meta)


def table_of(head: Head, items: Items, scored: Scored, seconds: float) -> Any:
    """Records of a batch. Its seconds are dealt out evenly."""
    pa = needs("pyarrow", "evaluation")
    n = len(items)

    def whole(values: np.ndarray | int) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, dtype=np.int64), n)

    probabilities = None if scored.probabilities is None else [np.asarray(p, np.float64) for p in scored.probabilities]
    columns = {
        "item": list(items.ids),
        "answer": list(scored.answers),
        "target": list(scored.targets),
        "score": np.asarray(scored.scores, np.float64),
        "weight": np.ones(n) if scored.weights is None else np.asarray(scored.weights, np.float64),
        "confidence": None if scored.confidences is None else np.asarray(scored.confidences, np.float64),
        "probabilities": probabilities,
        "seconds": np.full(n, seconds / n),
        "calls": whole(scored.calls),
        "tokens_in": whole(scored.tokens_in),
        "tokens_out": whole(scored.tokens_out),
        "slices": [[(name, str(values[i])) for name, values in items.slices.items()] for i in range(n)],
    }
    form = schema(head)
    arrays = [pa.nulls(n, f.type) if columns[f.name] is None else pa.array(columns[f.name], f.type) for f in form]
    return pa.Table.from_arrays(arrays, schema=form)


@dataclass(frozen=True)
class Part:
    """The records of one system on one task.

    Attributes:
        head: What holds for all of them.
        table: A pyarrow table, one row an item.
    """

    head: Head
    table: Any

    @property
    def ids(self) -> list[str]:
        """The items' ids."""
        return self.table["item"].to_pylist()

    @property
    def metric(self) -> Metric:
        """The metric of the task."""
        return metric(self.head.metric)

    def column(self, name: str) -> np.ndarray:
        """A column as an array; numbers that are missing are NaN, texts are objects."""
        return self.table[name].to_numpy(zero_copy_only=False)

    @property
    def probabilities(self) -> np.ndarray | None:
        """float64 (n, classes), or None where some are missing or items have different numbers of them."""
        column = self.table["probabilities"].combine_chunks()
        if not len(column) or column.null_count or len(column.value_lengths().unique()) > 1:
            return None
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)

    @property
    def whole(self) -> Whole:
        """What the metric needs for its figure."""
        return Whole(
            answers=self.column("answer"),
            targets=self.column("target"),
            scores=self.column("score"),
            weights=self.column("weight"),
            probabilities=self.probabilities,
            classes=self.head.classes,
        )

    @property
    def figure(self) -> float:
        """The metric over all items."""
        return self.metric.figure(self.whole)

    def slices(self) -> dict[str, np.ndarray]:
        """Text (n,) by the name of the property; items that lack it have an empty text."""
        rows = [dict(row or ()) for row in self.table["slices"].to_pylist()]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, "") for row in rows], dtype=object) for name in names}

    def ordered(self, ids: Sequence[str]) -> Part:
        """The same with its rows in the order of these ids."""
        place = {name: i for i, name in enumerate(self.ids)}
        return Part(self.head, self.table.take([place[name] for name in ids]))


class Records:
    """Results of systems on tasks.

    Args:
        parts: One for each system and task.

    Raises:
        InputError: A system has two results on one task, an item is there twice, or systems answered different items.
    """

    def __init__(self, parts: Iterable[Part]):
        self._parts: dict[tuple[str, str], Part] = {}
        for part in parts:
            self._add(part)
        for task in self.tasks:
            self._align(task)

    def _add(self, part: Part) -> None:
        key = (part.head.task, part.head.system)
        where = f"task {key[0]}, system {key[1]}"
        if key in self._parts:
            other = self._parts[key].head
            mend = (
                "Compare one split at a time." if other.split != part.head.split else "Give each system its own label."
            )
            raise InputError("two results of one system on one task", mend, where)
        if not part.table.num_rows:
            raise InputError("there are records without items", where=where)
        if len(set(part.ids)) != part.table.num_rows:
            raise InputError("an item is recorded twice", "Delete these records and evaluate again.", where)
        self._parts[key] = part

    def _align(self, task: str) -> None:
        """All systems' rows in the order of the first's, refused unless they answered the same items."""
        first, *others = [part for (name, _), part in self._parts.items() if name == task]
        ids = first.ids
        for part in others:
            check_alike(first, part)
            self._parts[(task, part.head.system)] = part.ordered(ids)

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in the order they came."""
        return list(dict.fromkeys(task for task, _ in self._parts))

    @property
    def systems(self) -> list[str]:
        """The systems' labels, in the order they came."""
        return list(dict.fromkeys(system for _, system in self._parts))

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    def __len__(self) -> int:
        return len(self._parts)

    def part(self, task: str, system: str) -> Part:
        """One system's records on one task.

        Raises:
            InputError: There are none.
        """
        if (task, system) not in self._parts:
            raise InputError(f"there are no records of '{system}' on '{task}'", f"Systems: {listing(self.systems)}.")
        return self._parts[(task, system)]

    def on(self, task: str) -> list[Part]:
        """All systems' records on one task, with rows in the same order."""
        return [part for (name, _), part in self._parts.items() if name == task]

    @staticmethod
    def read(*places: str | Path) -> Records:
        """Records from parquet files and folders of them, and from sample logs of lm-evaluation-harness.

        Raises:
            InputError: There are none, or a file holds something else.
        """
        from modelwright.evaluate._lm_eval import is_log, parts_of_logs

        files: list[Path] = []
        logs: list[Part] = []
        for place in map(Path, places):
            found = sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place]
            found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(place).parts)]
            if (not found or place.is_file()) and is_log(place):
                logs += parts_of_logs(place)
                continue
            if not found:
                raise InputError(f"no records in '{place}'", f"Records are {SUFFIX} files that mw eval writes.")
            files += found
        return Records([*(read_part(path) for path in files), *logs])

    def write(self, folder: str | Path) -> None:
        """Write one file for each system and task; files of the same name are replaced, each in one step."""
        for part in self:
            write_part(part, Path(folder) / part.head.file)


def check_alike(first: Part, second: Part) -> None:
    """Two systems' records on one task must be of the same items, metric and targets.

    Raises:
        InputError: They are not.
    """
    a, b = first.head, second.head
    where = f"task {a.task}"
    mine, theirs = set(first.ids), set(second.ids)
    if mine != theirs:
        only = sorted(mine ^ theirs)
        raise InputError(
            f"'{a.system}' and '{b.system}' answered different items: {len(mine):,} and {len(theirs):,}, of which "
            f"{len(mine & theirs):,} are the same; only one has {listing(only, 3)}",
            "Evaluate both on the same items; a comparison is made item by item.",
            where,
        )
    for what, x, y in (("metric", a.metric, b.metric), ("split", a.split, b.split)):
        if x != y:
            raise InputError(f"'{a.system}' has the {what} '{x}', and '{b.system}' '{y}'", where=where)
    if a.task_fingerprint and b.task_fingerprint and a.task_fingerprint != b.task_fingerprint:
        raise InputError(
            f"'{a.system}' and '{b.system}' were asked different things: the task has changed between them",
            "Evaluate both again.",
            where,
        )


def read_part(path: str | Path) -> Part:
    """Records of one file.

    Raises:
        InputError: It cannot be read, or holds something else.
    """
    pa = needs("pyarrow", "evaluation")
    pq = needs("pyarrow.parquet", "evaluation")
    try:
        table = pq.read_table(str(path), partitioning=None, memory_map=False)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read records: {error}", where=str(path)) from error
    try:
        said = json.loads((table.schema.metadata or {})[b"modelwright"])
        version = said.pop("version")
        if version != VERSION:
            raise InputError(f"these records have layout {version}, and this version reads {VERSION}", where=str(path))
        head = Head(**{**said, "classes": tuple(said["classes"])})
        table = table.select(schema().names).cast(schema(head))
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("a parquet file, but not records of mw eval", where=str(path)) from error
    return Part(head, table)


def write_part(part: Part, path: Path) -> None:
    """Write a file in one step: whole, or not at all."""
    pq = needs("pyarrow.parquet", "evaluation")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    pq.write_table(part.table.replace_schema_metadata(schema(part.head).metadata), unfinished)
    unfinished.replace(path)
