"""The safetensors format: headers read strictly, bytes laid out in advance."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.architectures import is_list, is_table, is_text
from modelwright.checkpoint._refs import TensorRef, file_ref, possible
from modelwright.checkpoint._untrusted import open_regular, parse_json
from modelwright.errors import InputError, did_you_mean
from modelwright.tensors import DTYPES, DType

#: The limit of the reference implementation.
MAX_HEADER = 100_000_000
#: The name that a header keeps for what the file says of itself.
METADATA = "__metadata__"
#: Formats of the safetensors specification that hold codes, not numbers, and how to call them.
_PACKED = {
    "F4": "sub-byte", "F6_E2M3": "sub-byte", "F6_E3M2": "sub-byte", "F4_E2M1": "sub-byte", "I4": "sub-byte",
    "U4": "sub-byte", "F8_E8M0": "block-exponent",
}  # fmt: skip
#: How the small text begins that stands for a big file in git.
LFS_POINTER = b"version "
_AGAIN = "Copy or download it again."


def read_header(path: Path) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """Every tensor of one file, by the order of their bytes, and the file's metadata.

    Raises:
        InputError: The file breaks the format; the message says where. Nothing but the header is read.
    """
    with open_regular(path) as (file, size):
        length = header_length(file.read(8), path, size)
        raw = file.read(length)
    return parse_header(raw, path, size - 8 - length, offset=8 + length)


def header_length(prefix: bytes, path: Path, size: int) -> int:
    """The length of the header, from the first 8 bytes of a file of `size` bytes.

    Raises:
        InputError: The file is too short for what it claims, or claims more than the format allows.
    """
    if len(prefix) < 8:
        raise InputError(f"{path} is not a safetensors file: it has {size} bytes", _AGAIN)
    if prefix == LFS_POINTER:
        raise lfs_pointer(path)
    length = int.from_bytes(prefix[:8], "little")
    if 8 + length > size:
        raise InputError(
            f"{path}: the header claims {length} bytes, the file has {size}",
            "It is cut short or not a safetensors file; copy or download it again.",
        )
    if length > MAX_HEADER:
        raise InputError(
            f"{path}: the header claims {length} bytes, and the format allows {MAX_HEADER}",
            "It is damaged or not a safetensors file; copy or download it again.",
        )
    return length


def lfs_pointer(path: Path) -> InputError:
    """What a clone without git-lfs leaves in place of weights."""
    return InputError(f"{path} is a git-lfs pointer, not the weights themselves", "Fetch them: git lfs pull.")


def parse_header(raw: bytes, path: Path, available: int, offset: int) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """The same from the header's bytes; `available` bytes of data start at `offset` of the file."""
    try:
        entries: Any = parse_json(raw, strict=True)
    except ValueError as error:
        raise InputError(f"{path}: the header is not valid JSON ({error})", _AGAIN) from None
    if not is_table(entries):
        raise InputError(f"{path}: the header must be a JSON object, got {type(entries).__name__}", _AGAIN)
    metadata = _metadata(path, entries.pop(METADATA, None))
    found = [_entry(path, name, entry, available) for name, entry in entries.items()]
    found.sort(key=lambda item: item[:2])
    end = 0
    for start, stop, name, _, _ in found:
        if start != end:
            gap = f"leaves {start - end} bytes before it unexplained"
            raise _broken(path, name, "overlaps the tensor before it" if start < end else gap)
        end = stop
    if end != available:
        raise InputError(
            f"{path}: its tensors take {end} bytes, the file holds {available}",
            "The file is cut short or damaged; copy or download it again.",
        )
    return {name: file_ref(path, dtype, shape, offset + start) for start, _, name, dtype, shape in found}, metadata


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not is_table(value) or not all(is_text(text) for pair in value.items() for text in pair):
        raise InputError(f"{path}: {METADATA} must map text to text", _AGAIN)
    return value


def _broken(path: Path, name: str, what: str) -> InputError:
    return InputError(f"{path}: '{name}' {what}", "The file is damaged; copy or download it again.")


def _entry(path: Path, name: str, entry: Any, available: int) -> tuple[int, int, str, DType, tuple[int, ...]]:
    """One tensor of the header, checked: start, stop, name, format, shape."""
    if not is_text(name):
        raise InputError(f"{path}: the name {name!r} is not valid Unicode", _AGAIN)
    if not is_table(entry) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, name, "needs exactly dtype, shape and data_offsets")
    code, shape, offsets = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if code in _PACKED:
        raise InputError(
            f"{path}: '{name}' has the {_PACKED[code]} format {code}",
            "Quantised checkpoints are not merged: use the unquantised weights.",
        )
    if code not in DTYPES or DTYPES[code].code != code:
        raise _broken(
            path, name, f"has the unknown dtype '{code}'. {did_you_mean(code, {d.code for d in DTYPES.values()})}"
        )
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _broken(path, name, "has a shape or data_offsets that are not lists of natural numbers")
    dtype = DTYPES[code]
    if not possible(shape, dtype.itemsize):
        raise _broken(path, name, f"has a shape that no array can have ({len(shape)} axes)")
    start, stop = offsets
    if stop > available or start > stop:
        raise _broken(path, name, f"lies at bytes {start} to {stop}, but the file holds {available}")
    if math.prod(shape) * dtype.itemsize != stop - start:
        raise _broken(path, name, f"has shape {shape} of {dtype}, which does not fit its {stop - start} bytes")
    return start, stop, name, dtype, tuple(shape)


def _naturals(value: Any) -> bool:
    # type(), because True is an int as well
    return is_list(value) and all(type(item) is int and item >= 0 for item in value)


@dataclass(frozen=True)
class Shard:
    """One weight file to be written, laid out to the byte.

    Attributes:
        file: Its name.
        header: Everything before the data, padded to 8 bytes.
        tensors: For each tensor its offset from the start of the file, and its bytes; by the order of their bytes.
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

    Returns:
        The shards. Within one the order is kept unless a tensor would start between the elements of its format (after
        a bool tensor of odd size, say), which some readers refuse; then wide formats go first.

    Raises:
        InputError: A name cannot be written.
    """
    _check_names(name for name, _, _ in tensors)
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
    return [_shard(name, _aligned(group), metadata) for name, group in zip(names, groups, strict=True)]


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name == METADATA or not is_text(name):
            raise InputError(f"a tensor cannot be called {name!r} in a safetensors file", "Rename it.")
        if name in seen:
            raise InputError(f"two tensors of the output are called '{name}'", "Rename one of them.")
        seen.add(name)


def _aligned(group: list[tuple[str, DType, tuple[int, ...]]]) -> list[tuple[str, DType, tuple[int, ...]]]:
    end = 0
    for _, dtype, shape in group:
        if end % dtype.itemsize:
            return sorted(group, key=lambda entry: -entry[1].itemsize)  # stable
        end += math.prod(shape) * dtype.itemsize
    return group


def _shard(file: str, tensors: Iterable[tuple[str, DType, tuple[int, ...]]], metadata: Mapping[str, str]) -> Shard:
    header: dict[str, Any] = {METADATA: dict(metadata)}
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
