"""From columns to items: which column plays which part, what classes there are, how items are called and divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, did_you_mean, listing
from modelwright.evaluate._items import Items, Splits, content, contents_of, drawing_key, plain
from modelwright.evaluate.sources._preprocessing import preprocessed
from modelwright.evaluate.sources._settings import Columns, DataSettings
from modelwright.evaluate.sources._table import ALIASES, Data, Table


@dataclass(frozen=True)
class Rows:
    """One part of the data with its columns in their parts.

    Attributes:
        ids: One an item.
        inputs: Undecoded.
        targets: As the data have them: class names, whole numbers or numbers.
        slices: Texts by property.
        table: Where they come from.
    """

    ids: list[str]
    inputs: Any
    targets: Any
    slices: Mapping[str, list[str]]
    table: Table

    def where(self, i: int) -> str:
        """Item i in messages."""
        return f"{self.table.label}, {self.table.rows(i)}"

    def items(self, places: Sequence[int], targets: Any, settings: DataSettings) -> Items:
        """Some of them, decoded and preprocessed, with these targets for all."""
        ids = tuple(self.ids[i] for i in places)
        inputs = (
            self.inputs[np.asarray(places)] if isinstance(self.inputs, np.ndarray) else [self.inputs[i] for i in places]
        )
        if self.table.decode is not None:
            inputs = self.table.decode(inputs)
        slices = {name: [values[i] for i in places] for name, values in self.slices.items()}
        return Items(ids, preprocessed(inputs, settings.preprocessing, ids), np.asarray(targets)[list(places)], slices)


def rows_of(data: Data, settings: DataSettings) -> dict[str, Rows]:
    """Every part of the data that a split needs, by the data's own name.

    Raises:
        InputError: A column is missing, empty, or of the wrong type.
    """
    wanted = set(own_splits(data, settings).values())
    return {name: _rows(name, table, data, settings) for name, table in data.parts.items() if name in wanted}


def _rows(part: str, table: Table, data: Data, settings: DataSettings) -> Rows:
    columns = settings.columns
    target = columns.target or data.names.get("target", "target")
    named = columns.id or next((n for n in ("id", data.names.get("id", "ids")) if n in table.columns), None)
    targets = _targets(table, target)  # first: a target of another name would be taken for an input
    inputs = _inputs(table, columns, data, {target, named})
    count = len(targets)
    if not count:
        raise InputError("the data are empty: a task needs items", where=table.label)
    slices = {name: _texts(table, name) for name in columns.slices}
    beside = {"inputs": inputs, **slices}
    if named is not None:
        beside[named] = ids = _texts(table, named)
        _check_ids(ids, table)
    else:
        ids = _made_ids(part, inputs, targets, settings.ids)
    for name, values in beside.items():
        if len(values) != count:
            raise InputError(
                f"each item must have one of {name}, got {len(values):,} for {count:,} targets", where=table.label
            )
    return Rows(ids, inputs, targets, slices, table)


def unlabelled(table: Table, data: Data, settings: DataSettings) -> Items:
    """Items whose targets are not known: None each. A column for targets may be there, and is not looked at.

    Raises:
        InputError: A column is missing, empty, or of the wrong type.
    """
    columns = settings.columns
    target = columns.target or data.names.get("target", "target")
    named = columns.id or next((n for n in ("id", data.names.get("id", "ids")) if n in table.columns), None)
    inputs = _inputs(table, columns, data, {target, named})
    blank = np.full(len(inputs), None, dtype=object)
    if named is not None:
        ids = _texts(table, named)
        _check_ids(ids, table)
    else:
        ids = _made_ids("", inputs, blank.tolist(), settings.ids)
    return Rows(ids, inputs, blank, {}, table).items(range(len(ids)), blank, settings)


def _inputs(table: Table, columns: Columns, data: Data, taken: set[str | None]) -> Any:
    """One column as it is, or several columns of numbers as one row an item."""
    name = columns.inputs or data.names.get("inputs", "inputs")
    if columns.inputs is None and name not in table.columns:
        name = [key for key in table.columns if key not in (taken | set(columns.slices) | {columns.split})]
        if not name:
            raise InputError("there is no column for the inputs", did_you_mean("inputs", table.columns), table.label)
    if isinstance(name, str):
        return _usable(table, name)
    found = [_usable(table, key) for key in name]
    if all(isinstance(column, np.ndarray) and column.ndim == 1 for column in found):
        return np.stack(found, axis=1)
    if all(isinstance(column, list) and isinstance(column[0], str) for column in found) and len(found) == 2:
        return list(zip(*found, strict=True))  # pairs of texts
    odd = next(key for key, column in zip(name, found, strict=True) if not isinstance(column, np.ndarray))
    raise InputError(
        f"inputs of several columns must be numbers, or two texts, and '{odd}' is {_said(table.columns[odd])}",
        "Say columns: {inputs: ..}, with one column of text or those that hold numbers.",
        table.label,
    )


def _usable(table: Table, name: str) -> Any:
    """A column without gaps; lists of numbers become an array."""
    column = table.column(name)
    if isinstance(column, np.ndarray):
        if column.dtype.kind not in "iufb":
            column = column.tolist()
        else:
            _check_finite(column, name, table)
            return column
    if not len(column):
        raise InputError("the data are empty: a task needs items", where=table.label)
    if isinstance(column[0], list):
        return _numbers(column, name, table)
    empty = next((i for i, value in enumerate(column) if isinstance(value, str) and not value.strip()), None)
    if empty is not None:
        raise InputError(
            f"'{name}' is empty", "Give it a value, or leave the item out.", f"{table.label}, {table.rows(empty)}"
        )
    return column


def _numbers(column: list[Any], name: str, table: Table) -> np.ndarray:
    try:
        found = np.array(column)
    except ValueError:
        found = np.empty(0, dtype=object)
    if found.dtype.kind not in "iuf":
        raise InputError(f"lists in '{name}' must be of numbers, all of one shape", where=table.label)
    _check_finite(found, name, table)
    return found


def _check_finite(column: np.ndarray, name: str, table: Table) -> None:
    if column.dtype.kind != "f":
        return
    wrong = np.flatnonzero(~np.isfinite(column.reshape(len(column), -1)).all(axis=1))
    if wrong.size:
        raise InputError(
            f"'{name}' must be finite, got NaN or infinity ({wrong.size:,} such items)",
            where=f"{table.label}, {table.rows(int(wrong[0]))}",
        )


def _targets(table: Table, name: str) -> Any:
    if name not in table.columns:
        mend = did_you_mean(name, table.columns) + " Say columns: {target: NAME}."
        raise InputError(f"there is no column '{name}' for the targets", mend, table.label)
    found = _usable(table, name)
    if isinstance(found, np.ndarray) and found.ndim != 1:
        raise InputError(f"targets must be one an item, got shape {found.shape}", where=table.label)
    return found


def _texts(table: Table, name: str) -> list[str]:
    column = _usable(table, name)
    return [str(value) for value in (column.tolist() if isinstance(column, np.ndarray) else column)]


def _said(column: Any) -> str:
    return "text" if isinstance(column[0], str) else type(column[0]).__name__


# --- ids -------------------------------------------------------------------------------------------------------------


def _check_ids(ids: list[str], table: Table) -> None:
    first: dict[str, int] = {}
    for i, name in enumerate(ids):
        if name in first:
            raise InputError(
                f"ids must be unique, got '{name}' in {table.rows(first[name])} and {table.rows(i)}",
                "Give each item a name of its own: results are put together by it.",
                table.label,
            )
        first[name] = i


def _made_ids(part: str, inputs: Any, targets: Any, how: str) -> list[str]:
    """`test/0`, or a hash of input and target with `-2`, `-3` for repetitions, which nothing tells apart."""
    prefix = f"{part}/" if part else ""
    if how == "position":
        return [f"{prefix}{i}" for i in range(len(targets))]
    seen: dict[str, int] = {}
    ids: list[str] = []
    for value, target in zip(inputs, targets, strict=False):
        name = prefix + xxhash.xxh3_64_hexdigest(content([value]) + content([plain(target)]))
        seen[name] = seen.get(name, 0) + 1
        ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return ids


# --- classes ---------------------------------------------------------------------------------------------------------


def class_names(rows: Mapping[str, Rows], data: Data, settings: DataSettings) -> tuple[str, ...]:
    """The classes: as said, as the data say, else the labels: texts in alphabetical order, or 0, 1, .. without a gap.

    Raises:
        InputError: Labels are no labels.
    """
    said = settings.classes or data.classes
    if said is not None:
        return tuple(str(name) for name in said)
    labels = [part.targets for part in rows.values()]
    kinds = {values.dtype.kind if isinstance(values, np.ndarray) else "text" for values in labels}
    if kinds == {"text"}:
        return tuple(sorted({str(value) for values in labels for value in values}))
    if not kinds <= {"i", "u"}:
        raise InputError(
            "labels must be texts or whole numbers, all of one type, got numbers with fractions",
            "For numbers say kind: regression.",
            next(iter(rows.values())).table.label,
        )
    found = sorted({int(v) for values in labels for v in np.unique(values)})
    if found != list(range(len(found))):
        raise InputError(
            f"whole-number labels must be 0, 1, .. without a gap where no classes are named, got {listing(found, 6)}",
            "Say classes: with a name for each, in the order of a model's outputs.",
            next(iter(rows.values())).table.label,
        )
    return tuple(str(i) for i in found)


def indices(rows: Rows, classes: tuple[str, ...]) -> np.ndarray:
    """Targets as indices of classes: labels are names if all of them are names of classes, else indices.

    Raises:
        InputError: One is neither.
    """
    texts = [str(plain(value)) for value in rows.targets]
    place = {name: i for i, name in enumerate(classes)}
    unknown = next((i for i, text in enumerate(texts) if text not in place), None)
    if unknown is None:
        return np.array([place[text] for text in texts], dtype=np.int64)
    if not isinstance(rows.targets, np.ndarray) or rows.targets.dtype.kind not in "iu":
        raise InputError(
            f"the label '{texts[unknown]}' is no class", did_you_mean(texts[unknown], classes), rows.where(unknown)
        )
    wrong = np.flatnonzero((rows.targets < 0) | (rows.targets >= len(classes)))
    if wrong.size:
        raise InputError(
            f"labels must be in [0, {len(classes) - 1}] for {len(classes)} classes, got {rows.targets[wrong[0]]}",
            "Say all classes, or mend the label.",
            rows.where(int(wrong[0])),
        )
    return rows.targets.astype(np.int64)


# --- splits ----------------------------------------------------------------------------------------------------------


def own_splits(data: Data, settings: DataSettings) -> dict[str, str]:
    """Our splits -> the data's own ones that they are, or are a share of.

    Raises:
        InputError: The data have no such split, or it cannot be told which is which.
    """
    label = next(iter(data.parts.values())).label
    if settings.splits is not None:
        found: dict[str, str] = {name: said.of for name, said in settings.splits.items()}
        missing = [own for own in found.values() if own not in data.parts]
        if missing:
            shown = listing(sorted(data.parts)) if list(data.parts) != [""] else "no splits of their own"
            raise InputError(f"splits: the data have no split '{missing[0]}'", f"They have: {shown}.", label)
        return found
    if list(data.parts) == [""]:
        return {"test": ""}
    found: dict[str, str] = {}
    for ours, names in ALIASES.items():
        own = [name for name in names if name in data.parts]
        if len(own) > 1:
            raise InputError(
                f"'{own[0]}' and '{own[1]}' could both be {ours}", f"Say splits: {{{ours}: {own[0]}}}.", label
            )
        found.update((ours, name) for name in own)
    unknown = [name for name in data.parts if name not in found.values()]
    if unknown:
        known = listing([name for names in ALIASES.values() for name in names], 99)
        mend = f"Known are {known}; for others say splits: {{test: '{unknown[0]}'}}."
        raise InputError(f"it is not known what the split '{unknown[0]}' is for", mend, label)
    return found


def divide(
    rows: Mapping[str, Rows],
    targets: Mapping[str, np.ndarray],
    data: Data,
    settings: DataSettings,
    *,
    classes: Sequence[str],
) -> Splits:
    """The splits; inputs are decoded when a split is asked for.

    Args:
        rows: By the data's own split.
        targets: Likewise.
        data: For what its splits are called.
        settings: What was said.
        classes: Their names; empty for numbers, which are not stratified.
    """
    own = own_splits(data, settings)
    shares = {name: said for name, said in (settings.splits or {}).items() if said.share is not None}
    places: dict[str, list[int]] = {ours: list(range(len(rows[name].ids))) for ours, name in own.items()}
    for of in dict.fromkeys(share.of for share in shares.values()):
        wanted = {name: said.share for name, said in shares.items() if said.of == of and said.share is not None}
        places |= _shared(rows[of], targets[of], wanted, settings, classes)
    contents = {ours: _contents(rows[name], places[ours], targets[name]) for ours, name in own.items()}
    loaders = {ours: _loader(rows[name], places[ours], targets[name], settings) for ours, name in own.items()}
    return Splits(loaders, contents=contents if len(contents) > 1 else None)


def _contents(rows: Rows, places: list[int], targets: np.ndarray) -> Counter[int]:
    return contents_of([rows.inputs[i] for i in places], targets[places])


def _loader(rows: Rows, places: list[int], targets: np.ndarray, settings: DataSettings) -> Callable[[], Items]:
    return lambda: rows.items(places, targets, settings)


def _shared(
    rows: Rows, targets: np.ndarray, shares: Mapping[str, float], settings: DataSettings, classes: Sequence[str]
) -> dict[str, list[int]]:
    """Shares by a hash of seed and id, so that they do not depend on the order of the data."""
    drawn = sorted(range(len(rows.ids)), key=lambda i: drawing_key(rows.ids[i], settings.seed))
    stratified = bool(classes) if settings.stratified is None else settings.stratified
    if stratified and not classes:
        raise InputError("stratified is for classes, and these targets are numbers", "Leave it out.", rows.table.label)
    strata = [[i for i in drawn if targets[i] == k] for k in range(len(classes))] if stratified else [drawn]
    found: dict[str, list[int]] = {name: [] for name in shares}
    for k, stratum in enumerate(strata):
        start, total = 0, 0.0
        for name, share in shares.items():
            total += share
            stop = int(np.floor(total * len(stratum) + 0.5))
            if stop == start and stratum:
                _too_small(name, len(stratum), share, classes[k] if stratified else "", rows)
            found[name] += stratum[start:stop]
            start = stop
    for name, chosen in found.items():
        if not chosen:
            _too_small(name, len(drawn), shares[name], "", rows)
    return {name: sorted(chosen) for name, chosen in found.items()}


def _too_small(name: str, count: int, share: float, label: str, rows: Rows) -> None:
    of = f"the class '{label}', which has {count:,} items" if label else f"{count:,} items"
    mend = "Give it a larger share, or say stratified: false." if label else "Give it a larger share."
    raise InputError(
        f"the data are too small to split: no item of {of}, is in '{name}' with its share {share:g}",
        mend,
        rows.table.label,
    )
