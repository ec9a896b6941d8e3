"""The safetensors format: headers read strictly, bytes laid out in advance."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.checkpoint._refs import TensorRef, file_ref
from modelwright.errors import InputError, did_you_mean
from modelwright.tensors import DTYPES, DType

#: The limit of the reference implementation.
MAX_HEADER = 100_000_000
_SUB_BYTE = {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F4_E2M1"}


def read_header(path: Path) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """Every tensor of one file, by the order of their bytes, and the file's metadata.

    Raises:
        InputError: The file breaks the format; the message says where. Nothing but the header is read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise InputError(f"{path} is not a safetensors file: it has {size} bytes", "Copy or download it again.")
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER or 8 + length > size:
            raise InputError(
                f"{path}: the header claims {length} bytes, the file has {size}",
                "It is cut short or not a safetensors file; copy or download it again.",
            )
        raw = file.read(length)
    return parse_header(raw, path, size - 8 - length, offset=8 + length)


def parse_header(raw: bytes, path: Path, available: int, offset: int) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """The same from the header's bytes; `available` bytes of data start at `offset` of the file."""
    try:
        entries: Any = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: the header is not valid JSON ({error})", "Copy or download it again.") from None
    if not isinstance(entries, dict):
        raise InputError(f"{path}: the header must be a JSON object, got {type(entries).__name__}")
    metadata: Any = entries.pop("__metadata__", None) or {}  # type: ignore[reportUnknownMemberType]
    found: list[tuple[int, int, str, DType, tuple[int, ...]]] = []
    for name, entry in entries.items():  # type: ignore[reportUnknownVariableType]
        found.append(_entry(path, str(name), entry, available))  # type: ignore[reportUnknownArgumentType]
    found.sort(key=lambda item: item[:2])
    end = 0
    for start, stop, name, _, _ in found:
        if start != end:
            kind = (
                "overlaps the tensor before it" if start < end else f"leaves {start - end} bytes before it unexplained"
            )
            raise InputError(f"{path}: '{name}' {kind}", "The file is damaged; copy or download it again.")
        end = stop
    if end != available:
        raise InputError(
            f"{path}: its tensors take {end} bytes, the file holds {available}",
            "The file is cut short or damaged; copy or download it again.",
        )
    tensors = {name: file_ref(path, dtype, shape, offset + start) for start, _, name, dtype, shape in found}
    return tensors, {str(key): str(value) for key, value in dict(metadata).items()}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the name '{twice[0]}' stands twice")
    return result


def _entry(path: Path, name: str, entry: Any, available: int) -> tuple[int, int, str, DType, tuple[int, ...]]:
    def broken(what: str) -> InputError:
        return InputError(f"{path}: '{name}' {what}", "The file is damaged; copy or download it again.")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:  # type: ignore[reportUnknownArgumentType]
        raise broken("needs exactly dtype, shape and data_offsets")
    code: Any = entry["dtype"]
    shape: Any = entry["shape"]
    offsets: Any = entry["data_offsets"]
    if code in _SUB_BYTE:
        raise InputError(
            f"{path}: '{name}' has the sub-byte format {code}",
            "Quantised checkpoints are not merged: use the unquantised weights.",
        )
    if code not in DTYPES or DTYPES[code].code != code:
        raise broken(f"has the unknown dtype '{code}'. {did_you_mean(str(code), {d.code for d in DTYPES.values()})}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise broken("has a shape or data_offsets that are not lists of natural numbers")
    dtype = DTYPES[code]
    start, stop = offsets
    if stop > available or start > stop:
        raise broken(f"lies at bytes {start} to {stop}, but the file holds {available}")
    if math.prod(shape) * dtype.itemsize != stop - start:
        raise broken(f"has shape {shape} of {dtype}, which does not fit its {stop - start} bytes")
    return start, stop, name, dtype, tuple(shape)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)  # type: ignore[reportUnknownVariableType]


@dataclass(frozen=True)
class Shard:
    """One weight file to be written, laid out to the byte.

    Attributes:
        file: Its name.
        header: Everything before the data, padded to 8 bytes.
        tensors: For each tensor its offset from the start of the file, and its bytes.
    """

    file: str
    header: bytes
    tensors: Mapping[str, tuple[int, int]]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(count for _, count in self.tensors.values())


def lay_out(
    tensors: Sequence[tuple[str, DType, tuple[int, ...]]], stem: str, limit: int, metadata: Mapping[str, str]
) -> list[Shard]:
    """Deal tensors to shards in order, none above `limit` bytes unless a single tensor is.

    Args:
        tensors: Names, formats and shapes, in the order they are to have.
        stem: `model` gives `model.safetensors`, or `model-00001-of-00003.safetensors`.
        limit: Bytes of data per shard.
        metadata: Goes into every header.
    """
    groups: list[list[tuple[str, DType, tuple[int, ...]]]] = [[]]
    filled = 0
    for entry in tensors:
        count = math.prod(entry[2]) * entry[1].itemsize
        if groups[-1] and filled + count > limit:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += count
    names = [f"{stem}-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    if len(groups) == 1:
        names = [f"{stem}.safetensors"]
    return [_shard(name, group, metadata) for name, group in zip(names, groups, strict=True)]


def _shard(file: str, tensors: Iterable[tuple[str, DType, tuple[int, ...]]], metadata: Mapping[str, str]) -> Shard:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    spans: dict[str, tuple[int, int]] = {}
    end = 0
    for name, dtype, shape in tensors:
        count = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": dtype.code, "shape": list(shape), "data_offsets": [end, end + count]}
        spans[name] = (end, count)
        end += count
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    full = len(raw).to_bytes(8, "little") + raw
    return Shard(file, full, {name: (len(full) + start, count) for name, (start, count) in spans.items()})


def index_json(shards: Sequence[Shard]) -> str:
    """The index of a model in several shards."""
    total = sum(count for shard in shards for _, count in shard.tensors.values())
    where = {name: shard.file for shard in shards for name in shard.tensors}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2) + "\n"
