"""Torch files: zip archives since torch 1.6, a sequence of pickles before. Read here to the byte, without torch.

What is read is the container and the pickle of names and shapes; both are checked before anything is made of them, and
each tensor becomes a place in the file, as in a safetensors file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from modelwright.architectures import is_list, is_mapping, is_table
from modelwright.checkpoint._pickle import (
    MAX_PICKLE,
    CodeError,
    Odd,
    Other,
    PickleError,
    Stored,
    Unpickled,
    read_pickle,
)
from modelwright.checkpoint._refs import NumpyArray, TensorRef, file_ref, possible
from modelwright.checkpoint._safetensors import LFS_POINTER, lfs_pointer
from modelwright.checkpoint._untrusted import open_regular
from modelwright.errors import InputError, listing
from modelwright.tensors import DTYPES

#: Where training scripts put the weights inside a file; the first that is there is read.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params", "weights")
#: The first pickle of a file from before torch 1.6.
_MAGIC = 0x1950A86A20F9469CFC6C
_AGAIN = "Copy or download it again."
_STATE_DICT = "Save the state dict alone."
_LITTLE = "Save it again on a common one."
_PLAIN = "Save it as a plain tensor."
_REPACK = "torch stores its records as they are: save it again with torch.save."

#: Byte of the file, number of bytes.
_Place = tuple[int, int]


class _BrokenError(ValueError):
    """The file is damaged; the text says how."""


def read_torch_file(path: Path) -> tuple[dict[str, TensorRef], list[str]]:
    """The tensors of a `.bin`, `.pt`, `.pth`, `.ckpt` or `.th` file.

    Returns:
        The tensors, and notes on what else the file holds.

    Raises:
        InputError: The file holds anything but tensors in dicts, or is damaged.
    """
    with open_regular(path) as (file, size):
        try:
            content, places = _content(path, file, size)
        except CodeError as error:
            raise InputError(
                f"{path} holds more than tensors: unpickling it would import {error}, which could run code",
                "Save its state dict alone, or convert it to safetensors where you trust it.",
            ) from None
        except (_BrokenError, PickleError) as error:
            raise InputError(f"{path} cannot be read as a torch file ({error})", _AGAIN) from None
    loaded, notes = _unwrapped(path, content)
    if not is_table(loaded):
        raise InputError(f"{path} holds a {_kind(loaded)}, not a dict of tensors", _STATE_DICT)
    odd = [_name(key) for key, value in loaded.items() if not isinstance(key, str) or not _is_tensor(value)]  # type: ignore[reportUnnecessaryIsInstance]
    if odd:
        raise InputError(f"{path} holds entries that are not tensors: {listing(odd)}", _STATE_DICT)
    return {name: _ref(path, size, name, value, places) for name, value in loaded.items()}, notes


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Stored | Odd)


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Other) else "Tensor" if _is_tensor(value) else type(value).__name__


def _name(key: Any) -> str:
    return f"a key of kind {key.name}" if isinstance(key, Other) else str(key)


def _unwrapped(path: Path, loaded: Any) -> tuple[Any, list[str]]:
    """The state dict inside what a training script saved, at most two levels deep."""
    notes: list[str] = []
    for _ in range(2):
        table: Mapping[Any, Any] = loaded if is_mapping(loaded) else {}
        key = next((key for key in _WRAPPERS if is_mapping(table.get(key))), None)
        if key is None:
            break
        rest = [_name(other) for other in table if other != key]
        if rest:
            notes.append(f"{path.name}: the weights are its '{key}'; left out: {listing(rest)}")
        loaded = table[key]
    return loaded, notes


# --- the container -------------------------------------------------------------------------------------------------


def _content(path: Path, file: BinaryIO, size: int) -> tuple[Any, Mapping[str, _Place]]:
    """What was saved, and where the elements of each storage lie."""
    start = file.read(262)
    if start.startswith(LFS_POINTER):
        raise lfs_pointer(path)
    if start[257:] == b"ustar":
        raise InputError(
            f"{path} is a tar file, as torch wrote them before 0.1.10", "Load and save it with torch < 1.6."
        )
    if start.startswith(b"PK"):
        return _zipped(path, file, size)
    return _sequence(path, file, size)


def _zipped(path: Path, file: BinaryIO, size: int) -> tuple[Any, dict[str, _Place]]:
    records = _records(path, file, size)
    roots = [name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise _BrokenError("it is a zip archive, but not of torch: it has no data.pkl")
    here = f"{roots[0]}/"
    start, count = records[f"{here}data.pkl"]
    if count > MAX_PICKLE:
        raise InputError(
            f"{path}: its data.pkl has {count:,} bytes; at most {MAX_PICKLE:,} are read",
            "Names and shapes never take so many. Save the state dict alone, or as safetensors.",
        )
    if f"{here}byteorder" in records and _bytes(file, *records[f"{here}byteorder"], most=16) != b"little":
        raise InputError(f"{path} was saved on a big-endian machine", _LITTLE)
    content = _unpickled(path, _bytes(file, start, count), 0).value
    return content, {name.removeprefix(f"{here}data/"): at for name, at in records.items() if name.startswith(f"{here}data/")}  # fmt: skip


def _bytes(file: BinaryIO, start: int, count: int, most: int = MAX_PICKLE) -> bytes:
    file.seek(start)
    return file.read(min(count, most))


def _unpickled(path: Path, raw: bytes, at: int) -> Unpickled:
    if raw[at : at + 1] == b"\x80" and raw[at + 1 : at + 2] > b"\x03":
        raise InputError(f"{path} is pickled with protocol 4 or newer", "Save it with torch.save as it is by default.")
    return read_pickle(raw, at)


@dataclass(frozen=True)
class _Entry:
    """One record, as the archive's directory lists it."""

    name: bytes
    flags: int
    method: int
    packed: int
    size: int
    offset: int


def _records(path: Path, file: BinaryIO, size: int) -> dict[str, _Place]:
    """Where each record of the archive lies: stored as it is, inside the file, apart from all others."""
    begin, end, count = _directory(file, size)
    entries = _entries(_bytes(file, begin, end - begin), count)
    names = [_decoded(entry.name) for entry in entries]
    if any(name.endswith("/constants.pkl") and name.count("/") == 1 for name in names):
        raise InputError(f"{path} is a TorchScript program, not weights", "Save its state_dict() alone.")
    places: dict[str, _Place] = {}
    stops = [*sorted(entry.offset for entry in entries), begin]
    after = dict(pairwise(stops))
    for name, entry in zip(names, entries, strict=True):
        if entry.method or entry.flags & 1 or entry.packed != entry.size:
            kind = "encrypted" if entry.flags & 1 else "compressed"
            raise InputError(
                f"{path}: its record '{name}' is {kind} ({entry.packed:,} bytes that claim to be {entry.size:,})",
                _REPACK,
            )
        if name in places:
            raise _BrokenError(f"two of its records are called '{name}'")
        start = _data_start(file, entry, name)
        if start + entry.size > after[entry.offset]:
            raise _BrokenError(
                f"its record '{name}' claims bytes {start} to {start + entry.size}, but what follows starts at "
                f"{after[entry.offset]}"
            )
        places[name] = start, entry.size
    return places


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Where the archive's directory starts and ends, and how many records it lists."""
    tail = _bytes(file, max(0, size - 98), 98)  # its end in 64 bits (56 bytes), the way there (20), its end (22)
    if len(tail) < 22 or tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise _BrokenError("its zip directory is not at its end: it is cut short, or something follows")
    count, length, begin = struct.unpack("<HII", tail[-12:-2])
    end = size - 22
    if tail[-42:-38] == b"PK\6\7":
        if tail[-98:-94] != b"PK\6\6":
            raise _BrokenError("its zip directory has no end in 64 bits, though it says so")
        count, length, begin = struct.unpack("<QQQ", tail[-66:-42])
        end = size - 98
    if length > MAX_PICKLE:
        raise _BrokenError(f"its zip directory has {length:,} bytes, more than {MAX_PICKLE:,}")
    if begin + length != end:
        raise _BrokenError(f"its zip directory claims bytes {begin} to {begin + length}, but ends at {end}")
    return begin, end, count


def _entries(raw: bytes, count: int) -> list[_Entry]:
    found: list[_Entry] = []
    at = 0
    while at < len(raw):
        head = raw[at : at + 46]
        if len(head) < 46 or head[:4] != b"PK\1\2":
            raise _BrokenError(f"its zip directory is damaged at byte {at}")
        flags, method = struct.unpack("<HH", head[8:12])
        packed, size, name, extra, comment = struct.unpack("<IIHHH", head[20:34])
        (offset,) = struct.unpack("<I", head[42:])
        at += 46 + name + extra + comment
        names = at - extra - comment
        wide = _wide(raw[names : names + extra], [size, packed, offset])
        found.append(_Entry(raw[names - name : names], flags, method, wide[1], wide[0], wide[2]))
    if at != len(raw) or len(found) != count:
        raise _BrokenError(f"its zip directory lists {len(found)} records and says {count}")
    return found


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """The values, each that has no room in 32 bits taken from the extra field, in their order."""
    fields: list[int] = []
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            fields = [value for (value,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + min(length, 24) // 8 * 8])]
        at += 4 + length
    rest = iter(fields)
    return [next(rest, value) if value == 0xFFFFFFFF else value for value in values]


def _data_start(file: BinaryIO, entry: _Entry, name: str) -> int:
    """Where a record's bytes start, by its own head, which must say what the directory says."""
    head = _bytes(file, entry.offset, 30 + len(entry.name))
    if len(head) < 30 or head[:4] != b"PK\3\4" or head[30:] != entry.name or head[8:10] != b"\0\0":
        raise _BrokenError(f"its record '{name}' is not at byte {entry.offset}, where the zip directory has it")
    return entry.offset + sum(struct.unpack("<HH", head[26:30]), 30)


def _decoded(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise _BrokenError(f"the name of a record is not UTF-8: {name!r}") from None


def _sequence(path: Path, file: BinaryIO, size: int) -> tuple[Any, dict[str, _Place]]:
    """A file from before torch 1.6: five pickles, then each storage with its length before it."""
    raw = _bytes(file, 0, size)
    magic = _unpickled(path, raw, 0)
    if magic.value != _MAGIC:
        raise _BrokenError("it is no zip archive, and has not the number that older files start with")
    version = _unpickled(path, raw, magic.end)
    system = _unpickled(path, raw, version.end)
    if not is_table(system.value) or system.value.get("little_endian") is not True:
        raise InputError(f"{path} was saved on a big-endian machine", _LITTLE)
    content = _unpickled(path, raw, system.end)
    keys = _unpickled(path, raw, content.end)
    at = keys.end
    places: dict[str, _Place] = {}
    for key in keys.value if is_list(keys.value) else []:
        storage = content.storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise _BrokenError("it lists a storage that no tensor has")
        head = _bytes(file, at, 8)
        count = int.from_bytes(head, "little") * storage.itemsize
        if len(head) < 8 or at + 8 + count > size:
            raise _BrokenError(f"it is cut short: its storage '{key}' claims {count:,} bytes at byte {at + 8}")
        places[key] = at + 8, count
        at += 8 + count
    return content.value, places


# --- tensors -------------------------------------------------------------------------------------------------------


def _ref(path: Path, size: int, name: str, tensor: Stored | Odd, places: Mapping[str, _Place]) -> TensorRef:
    """One tensor as a place in the file, checked to lie in its storage, and that to lie in the file."""
    if isinstance(tensor, Odd):
        raise InputError(f"{path}: '{name}' {tensor.what}", _PLAIN)
    dtype = DTYPES.get(tensor.dtype.removeprefix("torch."))
    if dtype is None:
        packed = "int" in tensor.dtype
        what = "is quantised or packed ({})" if packed else "has the dtype {}, which checkpoints are not read in"
        raise InputError(f"{path}: '{name}' {what.format(tensor.dtype)}", _PLAIN)
    storage, count = tensor.storage, math.prod(tensor.shape)
    start, held = places.get(storage.key, (0, -1))
    if held < storage.count * storage.itemsize:
        there = f"has {held:,}" if held >= 0 else "is not in the file"
        raise InputError(
            f"{path}: '{name}' needs storage '{storage.key}' of {storage.count * storage.itemsize:,} bytes, which {there}",
            "The file is cut short or damaged; copy or download it again.",
        )
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if not possible(tensor.shape, dtype.itemsize) or (count and (last + 1) * dtype.itemsize > held):
        raise InputError(
            f"{path}: '{name}' of shape {list(tensor.shape)} goes beyond its storage of {held:,} bytes",
            "The file is damaged; copy or download it again.",
        )
    if count * dtype.itemsize > size:
        raise InputError(
            f"{path}: '{name}' repeats the {held:,} bytes of its storage to {count * dtype.itemsize:,}",
            "Save what tensor.contiguous() gives.",
        )
    source = f"{path.name}:{name}"
    first = start + tensor.offset * dtype.itemsize if count else start
    if _in_order(tensor.shape, tensor.strides) and not tensor.conjugated and not tensor.negated:
        return replace(file_ref(path, dtype, tensor.shape, first), source=source)
    span = file_ref(path, dtype, (last + 1 - tensor.offset,), first)
    return TensorRef(dtype, tensor.shape, _View(span, tensor), source)


def _in_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements lie one after another, the last axis fastest; the stride of a single index says nothing."""
    step = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != step:
            return 0 in shape
        step *= n
    return True


class _View:
    """Loads elements that are spread over a span of their storage, or stand for other values."""

    def __init__(self, span: TensorRef, tensor: Stored):
        self.span, self.tensor = span, tensor

    def __call__(self) -> NumpyArray:
        flat = self.span.read()
        # not as_strided: this one checks the bounds, and takes float8
        steps = [step * flat.itemsize for step in self.tensor.strides]
        values = np.ndarray(self.tensor.shape, flat.dtype, flat.view(np.uint8).data, strides=steps).copy()
        values = np.conj(values) if self.tensor.conjugated else values
        return np.negative(values) if self.tensor.negated else values
