"""Scores that others have written down: csv files, one a member."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, did_you_mean, listing
from modelwright.predictions._predictions import Member, Predictions, join_members
from modelwright.predictions._scales import Kind, Scale


def of_csv(
    files: Mapping[str, str | Path] | Sequence[str | Path],
    *,
    scale: Scale,
    kind: Kind = "classes",
    id: str = "id",
    label: str = "label",
    delimiter: str = ",",
) -> Predictions:
    """A bank of csv files with a header, one a member, with a row a sample.

    Args:
        files: Names of members -> files; or files, whose names without suffix are the members'.
        scale: What the scores are.
        kind: `classes`: every column beside id and label is a class, in that order; `binary`, `regression`: one such column.
        id: The column of the samples' ids. Files may have them in any order.
        label: The column of labels, where there is one: names of classes, or their indices where no name fits; numbers for
            `regression`.
        delimiter: What stands between columns.

    Raises:
        InputError: A file cannot be read, a column is missing, a score is no number, or ids differ. The message has file and line.
    """
    if kind == "dense":
        raise InputError("dense predictions are no table", "Use Predictions.of with arrays.")
    named = files if isinstance(files, Mapping) else {Path(file).stem: file for file in files}
    if not named or len(named) < len(files):
        raise InputError("predictions need files of different names", "Give a dict, names -> files.")
    return join_members([_bank(name, Path(file), scale, kind, id, label, delimiter) for name, file in named.items()])


def _bank(name: str, path: Path, scale: Scale, kind: Kind, id: str, label: str, delimiter: str) -> Predictions:
    header, rows = _rows(path, delimiter)
    if id not in header:
        raise InputError(f"there is no column '{id}'", did_you_mean(id, header), str(path))
    columns = [i for i, column in enumerate(header) if column not in (id, label)]
    if kind != "classes" and len(columns) != 1:
        raise InputError(
            f"predictions of the kind '{kind}' need one column of scores, got {len(columns)}", where=str(path)
        )
    values = np.array([[_number(row[i], header[i], path, line) for i in columns] for line, row in rows])
    classes = [header[i] for i in columns] if kind == "classes" else ["0", "1"] if kind == "binary" else []
    labels = None
    if label in header:
        at = header.index(label)
        labels = [_label(row[at], classes, path, line) for line, row in rows]
    code = xxhash.xxh3_128_hexdigest(path.read_bytes())
    try:
        return Predictions.of(
            values[None] if kind == "classes" else values[None, :, 0], labels, scale=scale, kind=kind, classes=classes,
            ids=[row[header.index(id)] for _, row in rows], members=[Member(name, lineage={"fingerprint": code})],
        )  # fmt: skip
    except InputError as error:
        first = error.problems[0]
        raise InputError(first.what, first.mend, str(path)) from error


def _rows(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and every row with its line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read scores: {error}", where=str(path)) from error
    if len(rows) < 2:
        raise InputError("scores need a header and at least one row", where=str(path))
    header = rows[0][1]
    if len(set(header)) < len(header):
        raise InputError(f"columns must have different names, got {listing(header)}", where=str(path))
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(f"a row must have {len(header)} columns, got {len(row)}", where=f"{path}:{line}")
    return header, rows[1:]


def _number(text: str, column: str, path: Path, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"scores must be numbers, got '{text}' in the column '{column}'", where=f"{path}:{line}"
        ) from None


def _label(text: str, classes: Sequence[str], path: Path, line: int) -> Any:
    if text in classes:
        return classes.index(text)
    try:
        return int(text) if classes else float(text)
    except ValueError:
        mend = did_you_mean(text, classes) if classes else ""
        raise InputError(
            f"labels must be {'classes' if classes else 'numbers'}, got '{text}'", mend, f"{path}:{line}"
        ) from None
