"""Banks as files: parquet tables for others to read, safetensors to be memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from modelwright.checkpoint import TensorRef, lay_out, read_header
from modelwright.errors import InputError, RunError, did_you_mean, needs
from modelwright.predictions._predictions import Member, MemberCost, Predictions
from modelwright.predictions._scales import check_scale
from modelwright.tensors import dtype

#: Of the layout of the files.
VERSION = 1
#: Under which name a file says what it holds.
_KEY = "modelwright_predictions"
SUFFIXES = (".parquet", ".safetensors")
#: Columns of a table beside the members'.
_ID, _LABEL = "sample", "label"


def save(bank: Predictions, path: Path) -> Path:
    """Write a bank; see `Predictions.save`."""
    _check_suffix(path)
    write = _parquet_of(bank) if path.suffix == ".parquet" else _safetensors_of(bank)
    whole(path, write)
    return path


def load(path: Path, *, check: bool) -> Predictions:
    """Read a bank; see `Predictions.open`."""
    _check_suffix(path)
    if not path.is_file():
        raise InputError(f"there is no file '{path}'")
    return _of_parquet(path, check) if path.suffix == ".parquet" else _of_safetensors(path, check)


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"predictions are kept in files ending in {' or '.join(SUFFIXES)}, got '{path.name}'",
            did_you_mean(path.suffix, SUFFIXES),
        )


def whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file in one step: whole, or not at all.

    Raises:
        RunError: It cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise RunError(f"cannot write '{path}': {error.strerror or error}", resumable=True) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def head_of(bank: Predictions) -> str:
    """What a bank is beside its numbers, as JSON."""
    members = [{"name": m.name, "cost": asdict(m.cost), "lineage": dict(m.lineage)} for m in bank.members]
    head = {
        "version": VERSION,
        "kind": bank.kind,
        "scale": bank.scale,
        "classes": list(bank.classes),
        "members": members,
    }
    try:
        return json.dumps(head, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the lineage of a member must be plain values: {error}") from error


def _read_head(text: str | None, where: str) -> dict[str, Any]:
    if text is None:
        mend = "Columns of scores by others are read with predictions.of_csv."
        raise InputError("this file holds no predictions of modelwright", mend, where)
    try:
        said = json.loads(text)
        version = said.pop("version")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError("predictions whose head is damaged", where=where) from error
    if version != VERSION:
        mend = "Predict again, or use the version of modelwright that wrote them."
        raise InputError(f"these predictions have layout {version}, and this version reads {VERSION}", mend, where)
    try:
        members = tuple(Member(m["name"], MemberCost(**m["cost"]), m["lineage"]) for m in said.pop("members"))
        head = {"kind": said["kind"], "scale": said["scale"], "classes": tuple(said["classes"]), "members": members}
        check_scale(head["kind"], head["scale"])
        texts = [*head["classes"], *(member.name for member in members)]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(m.lineage, dict) for m in members):
            raise TypeError
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError("predictions whose head is damaged", where=where) from error
    return head


def _safetensors_of(bank: Predictions) -> Callable[[BinaryIO], None]:
    names = [name.encode("utf-8", "surrogatepass") for name in bank.ids]
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    arrays: dict[str, np.ndarray] = {"values": bank.values}
    if bank.labels is not None:
        arrays["labels"] = bank.labels
    arrays |= {"id_ends": ends, "ids": np.frombuffer(b"".join(names), np.uint8)}
    entries = [(name, dtype(array.dtype), array.shape) for name, array in arrays.items()]
    (shard,) = lay_out(entries, "predictions", 2**62, {_KEY: head_of(bank)})

    def write(file: BinaryIO) -> None:
        file.write(shard.header)
        for name in shard.tensors:  # in their order in the file, which alignment may have changed
            array = arrays[name]
            for row in array if array.ndim > 1 else (array,):  # a member at a time: never a copy of all
                file.write(np.ascontiguousarray(row).data)

    return write


def _of_safetensors(path: Path, check: bool) -> Predictions:
    refs, metadata = read_header(path)
    head = _read_head(metadata.get(_KEY), str(path))
    odd = {"values", "id_ends", "ids"} - set(refs)
    if odd:
        raise InputError(f"damaged predictions: the tensor '{min(odd)}' is missing", where=str(path))
    names = _ids(refs["ids"], refs["id_ends"], str(path))
    labels = refs["labels"].read() if "labels" in refs else None
    return _made(head, _mapped(path, refs, "values"), names, labels, str(path), check)


def _mapped(path: Path, refs: Mapping[str, TensorRef], name: str) -> np.ndarray:
    """A tensor as it lies in the file, read when it is used; tensors fill the file's end without gaps."""
    offset = path.stat().st_size - sum(ref.nbytes for ref in refs.values())
    for other, ref in refs.items():
        if other == name:
            break
        offset += ref.nbytes
    ref = refs[name]
    if not ref.size:
        return ref.read()
    return np.memmap(path, ref.dtype.numpy, "r", offset, ref.shape)


def _ids(blob: TensorRef, ends: TensorRef, where: str) -> tuple[str, ...]:
    data, stops = blob.read().tobytes(), ends.read().tolist()
    starts = [0, *stops[:-1]]
    if (stops[-1] if stops else 0) != len(data) or any(a > b for a, b in zip(starts, stops, strict=True)):
        raise InputError("damaged predictions: names of samples", where=where)
    try:
        return tuple(data[a:b].decode("utf-8", "surrogatepass") for a, b in zip(starts, stops, strict=True))
    except UnicodeDecodeError as error:
        raise InputError("damaged predictions: names of samples", where=where) from error


def _made(
    head: Mapping[str, Any], values: np.ndarray, ids: tuple[str, ...], labels: Any, where: str, check: bool
) -> Predictions:
    try:
        return Predictions(values, ids=ids, labels=labels, check=check, **head)
    except InputError as error:
        first = error.problems[0]
        raise InputError(f"damaged predictions: {first.what}", first.mend, where) from error


def _parquet_of(bank: Predictions) -> Callable[[BinaryIO], None]:
    pa, pq = needs("pyarrow", "a table of predictions"), needs("pyarrow.parquet", "a table of predictions")
    if bank.kind == "dense":
        raise InputError("dense predictions are no table", "Save them as .safetensors.")
    for name in bank.names:
        if name in (_ID, _LABEL):
            raise InputError(
                f"a member cannot be called '{name}' in a table: another column is", "Rename it, or save .safetensors."
            )
    columns: dict[str, Any] = {_ID: pa.array(bank.ids, pa.string())}
    if bank.labels is not None:
        columns[_LABEL] = _column(bank.labels)
    for name, values in zip(bank.names, bank.values, strict=True):
        columns[name] = _column(values)
    table = pa.table(columns).replace_schema_metadata({_KEY: head_of(bank)})
    return lambda file: pq.write_table(table, file, use_dictionary=False)  # of numbers it would only cost time


def _column(values: np.ndarray) -> Any:
    """Numbers (n,), or lists of one length (n, C)."""
    pa = needs("pyarrow", "a table of predictions")
    values = np.ascontiguousarray(values)
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _of_parquet(path: Path, check: bool) -> Predictions:
    pa, pq = needs("pyarrow", "a table of predictions"), needs("pyarrow.parquet", "a table of predictions")
    try:
        table = pq.read_table(str(path), partitioning=None)
        said = (table.schema.metadata or {}).get(_KEY.encode())
        text = None if said is None else said.decode()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"cannot read predictions: {error}", where=str(path)) from error
    head = _read_head(text, str(path))
    wanted = [_ID, *(member.name for member in head["members"])]
    missing = [name for name in wanted if name not in table.column_names]
    gaps = [name for name in table.column_names if table[name].null_count]
    if missing or gaps or not table.num_rows:
        what = (
            f"the column '{missing[0]}' is missing"
            if missing
            else f"the column '{gaps[0]}' has gaps"
            if gaps
            else "no rows"
        )
        raise InputError(f"damaged predictions: {what}", where=str(path))
    try:
        first = _numbers(table[wanted[1]])
        values = np.empty((len(head["members"]), *first.shape), first.dtype)
        for i, name in enumerate(wanted[1:]):
            values[i] = _numbers(table[name])
        labels = _numbers(table[_LABEL]) if _LABEL in table.column_names else None
        ids = tuple(str(name) for name in table[_ID].to_pylist())
    except (ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise InputError("damaged predictions: columns that are no numbers of one shape", where=str(path)) from error
    return _made(head, values, ids, labels, str(path), check)


def _numbers(column: Any) -> np.ndarray:
    column = column.combine_chunks()
    if hasattr(column, "flatten") and hasattr(column.type, "list_size"):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return column.to_numpy(zero_copy_only=False)
