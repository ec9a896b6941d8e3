"""Paired records: one row for each system and item, in parquet. Every summary derives from them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, RunError, listing
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
        limit: How many of the split's items were asked, by `Items.first`; None is all.
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
    limit: int | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Where its records lie in a folder of records."""
        return Path(file_name(self.task), f"{file_name(self.system)}.{file_name(self.split)}{SUFFIX}")


#: Letters of a file's name, beside what is added to it; file systems allow 255 bytes.
_LONGEST = 180
#: What Windows keeps for devices, with any suffix.
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))})


def file_name(text: str) -> str:
    """A label as part of a path on any system.

    What is no ASCII letter or digit, nor one of `._-+@=`, becomes %xx, and so do a dot at an end and the first letter of
    a device's name; of a long one the beginning and a hash are left.
    """
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-+@=") else _escaped(c) for c in text)
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 33]}~{xxhash.xxh3_128_hexdigest(text.encode())}"
    if name.startswith(".") or name.partition(".")[0].lower() in _DEVICES:
        name = _escaped(name[0]) + name[1:]
    return name[:-1] + _escaped(".") if name.endswith(".") else name


def _escaped(character: str) -> str:
    return "".join(f"%{b:02x}" for b in character.encode("utf-8", "surrogatepass"))


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
        pa.field("probabilities", pa.large_list(pa.float32())),  # half the size, exact to 6e-8; scores are of float64
        pa.field("seconds", pa.float64()),
        pa.field("calls", pa.int64()),
        pa.field("tokens_in", pa.int64()),
        pa.field("tokens_out", pa.int64()),
        pa.field("money", pa.float64()),
        pa.field("slices", pa.map_(pa.string(), pa.string())),
    ]
    meta = None
    if head is not None:
        meta = {"modelwright": json.dumps({"version": VERSION, **asdict(head)}, ensure_ascii=False)}
    return pa.schema(columns, metadata=meta)


def table_of(head: Head, items: Items, scored: Scored, seconds: float | None) -> Any:
    """Records of a batch. Its seconds are dealt out evenly; None where nobody has measured what it costs."""
    pa = needs("pyarrow", "evaluation")
    n = len(items)

    def whole(values: np.ndarray | int | None) -> np.ndarray | None:
        if seconds is None or values is None:
            return None
        return np.broadcast_to(np.asarray(values, dtype=np.int64), n)

    columns = {
        "item": list(items.ids),
        "answer": list(scored.answers),
        "target": list(scored.targets),
        "score": np.asarray(scored.scores, np.float64),
        "weight": np.ones(n) if scored.weights is None else np.asarray(scored.weights, np.float64),
        "confidence": None if scored.confidences is None else np.asarray(scored.confidences, np.float64),
        "probabilities": None if scored.probabilities is None else _lists(scored.probabilities),
        "seconds": None if seconds is None else np.full(n, seconds / n),
        "calls": whole(scored.calls),
        "tokens_in": whole(scored.tokens_in),
        "tokens_out": whole(scored.tokens_out),
        "money": None if seconds is None or scored.money is None else np.asarray(scored.money, np.float64),
        "slices": _maps(items.slices, n),
    }
    form = schema(head)
    return pa.Table.from_arrays([_array(columns[f.name], f.type, n) for f in form], schema=form)


def _array(values: Any, form: Any, count: int) -> Any:
    pa = needs("pyarrow", "evaluation")
    if isinstance(values, pa.Array):
        return values
    return pa.nulls(count, form) if values is None else pa.array(values, form)


def _lists(values: Any) -> Any:
    """An array (n, classes), or n arrays of any lengths, as lists over one flat array: no object for each number."""
    pa = needs("pyarrow", "evaluation")
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat, lengths = values.reshape(-1), np.full(len(values), values.shape[1])
    else:
        rows = [np.asarray(row) for row in values]
        flat, lengths = np.concatenate(rows), np.array([len(row) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(flat.astype(np.float32)))


def _maps(slices: Mapping[str, Sequence[str]], count: int) -> Any:
    """Each item's properties: the same keys for all, so that they are laid side by side."""
    pa = needs("pyarrow", "evaluation")
    keys = list(slices) * count
    values = [str(value) for row in zip(*slices.values(), strict=True) for value in row]
    offsets = pa.array(np.arange(count + 1) * len(slices), pa.int32())
    return pa.MapArray.from_arrays(offsets, pa.array(keys, pa.string()), pa.array(values, pa.string()))


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
        """float64 (n, classes), rows sum to 1; None where some are missing or items have different numbers of them."""
        column = self.table["probabilities"].combine_chunks()
        if not len(column) or column.null_count or len(column.value_lengths().unique()) > 1:
            return None
        found = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float64)
        found /= found.sum(axis=1, keepdims=True)  # they are kept in float32
        return found

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
        column = self.table["slices"].combine_chunks()
        if not len(column.keys):
            return {}
        rows = [dict(row or ()) for row in column.to_pylist()]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, "") for row in rows], dtype=object) for name in names}

    def ordered(self, ids: Sequence[str]) -> Part:
        """The same with its rows in the order of these ids."""
        mine = self.ids
        if mine == list(ids):
            return self
        place = {name: i for i, name in enumerate(mine)}
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
    if a.limit != b.limit:
        said = [
            f"'{head.system}' was asked {'all' if head.limit is None else f'{head.limit:,}'} items" for head in (a, b)
        ]
        raise InputError(", ".join(said), "Evaluate both with the same --limit.", where)
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
    if a.classes != b.classes:
        raise InputError(f"'{a.system}' and '{b.system}' were given other classes", "Evaluate both again.", where)
    other = second.ordered(first.ids)
    for what in ("target", "slices"):
        if first.table[what].combine_chunks() != other.table[what].combine_chunks():
            raise InputError(
                f"'{a.system}' and '{b.system}' have different {what.removesuffix('s')}s for the same items",
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
    if not Path(path).is_file():
        raise InputError(f"there is no file '{path}'", f"Records are {SUFFIX} files that mw eval writes.")
    try:
        table = pq.read_table(str(path), partitioning=None, memory_map=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"cannot read records: {error}", where=str(path)) from error
    return checked_part(table, str(path))


def checked_part(table: Any, where: str) -> Part:
    """Records of a table that somebody else may have written.

    Raises:
        InputError: They are no records, or not of this version.
    """
    pa = needs("pyarrow", "evaluation")
    head = _read_head(table.schema.metadata or {}, where)
    form = schema(head)
    if "money" not in table.column_names:  # written before systems could tell
        table = table.append_column(form.field("money"), pa.nulls(table.num_rows, pa.float64()))
    try:
        table = table.select(form.names).cast(form)
        table.validate(full=True)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise InputError("a parquet file, but not records of mw eval", where=where) from error
    part = Part(head, table)
    _check_values(part, where)
    return part


_TEXTS = ("task", "split", "system", "metric", "task_fingerprint", "system_fingerprint", "device")
_COUNTS = ("parameters", "nbytes", "limit")


def _read_head(metadata: Mapping[bytes, bytes], where: str) -> Head:
    try:
        said = json.loads(metadata[b"modelwright"])
        version = said.pop("version")
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise InputError("a parquet file, but not records of mw eval", where=where) from error
    if version != VERSION:
        mend = "Evaluate again, or use the version of modelwright that wrote them."
        raise InputError(f"these records have layout {version}, and this version reads {VERSION}", mend, where)
    unknown = [name for name in said if name not in Head.__dataclass_fields__]
    wrong = [name for name in ("task", "split", "system", "metric") if not said.get(name)]
    wrong += [name for name in _TEXTS if not isinstance(said.get(name, ""), str)]
    wrong += [name for name in _COUNTS if not _is_count(said.get(name))]
    classes = said.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        wrong.append("classes")
    wrong += ["made"] * (not isinstance(said.get("made", {}), dict))
    if unknown or wrong:
        raise InputError(f"records whose head is damaged: {listing([*wrong, *unknown], 3)}", where=where)
    return Head(**{**said, "classes": tuple(classes)})


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _check_values(part: Part, where: str) -> None:
    """No gaps, and numbers in their ranges."""

    def refuse(wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            raise InputError(f"damaged records: {what} of item '{part.ids[int(wrong.argmax())]}'", where=where)

    for name in ("item", "answer", "target", "score", "weight"):
        if part.table[name].null_count:
            raise InputError(f"damaged records: the column '{name}' has gaps", where=where)
    score, weight, confidence = (part.column(name) for name in ("score", "weight", "confidence"))
    refuse(~np.isfinite(score), "the score is not finite")
    refuse(~(np.isfinite(weight) & (weight >= 0)), "the weight is no number from 0 up")
    given = np.asarray(confidence, dtype=np.float64)
    refuse((given < 0) | (given > 1 + 1e-6) | np.isinf(given), "the confidence is not in [0, 1]")
    column = part.table["probabilities"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    if not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise InputError("damaged records: a probability is not in [0, 1]", where=where)
    lengths = column.value_lengths().drop_null().to_numpy(zero_copy_only=False)
    if part.head.classes and not (lengths == len(part.head.classes)).all():
        raise InputError(f"damaged records: not all items have {len(part.head.classes)} probabilities", where=where)


def write_part(part: Part, path: Path) -> None:
    """Write a file in one step: whole, or not at all."""
    pq = needs("pyarrow.parquet", "evaluation")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")  # two processes may write the same records
    try:
        with unfinished.open("wb") as file:
            table = part.table.replace_schema_metadata(schema(part.head).metadata)
            pq.write_table(table, file, use_dictionary=["answer", "target"])  # of numbers it would only cost time
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise RunError(f"cannot write records to '{path}': {error.strerror or error}", resumable=True) from error
    finally:
        unfinished.unlink(missing_ok=True)
