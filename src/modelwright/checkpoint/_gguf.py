"""The GGUF format: headers read strictly, quantised tensors as the numbers they stand for."""

from __future__ import annotations

import importlib
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from modelwright.checkpoint._refs import NumpyArray, TensorRef, file_ref
from modelwright.checkpoint._safetensors import LFS_POINTER, MAX_HEADER, lfs_pointer
from modelwright.checkpoint._untrusted import open_regular
from modelwright.errors import InputError, MissingExtraError
from modelwright.tensors import DTYPES, DType

MAGIC = b"GGUF"
#: Where a file does not say otherwise.
ALIGNMENT = 32
_VERSIONS = (2, 3)
#: Far more metadata, and tensors, than any model has; a header that claims more is damaged.
_MOST_ENTRIES = 100_000
#: As in ggml.
_MOST_AXES = 4
#: What numpy can hold, of elements of 8 bytes.
_MOST_ELEMENTS = (2**63 - 1) // 8
#: Longer texts (chat templates, licences in full) are read past.
_LONGEST_TEXT = 4096
#: Types of metadata, as `struct` spells them.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
#: De-quantised in pieces of this many elements: their intermediate results stay in the processor's cache.
_PIECE = 1 << 18
#: For types with one code an element: the bytes of a block that hold the codes' lowest bits, and those bits.
#: Not here: codebooks (IQ1 to IQ3) have no step between codes; ternary types and FP4 hold weights trained that way.
_LOWEST_BITS = {
    "Q4_0": (2, 18, 0x11), "Q4_1": (4, 20, 0x11), "Q5_0": (6, 22, 0x11), "Q5_1": (8, 24, 0x11), "Q8_0": (2, 34, 0x01),
    "Q2_K": (16, 80, 0x55), "Q3_K": (32, 96, 0x55), "Q4_K": (16, 144, 0x11), "Q5_K": (48, 176, 0x11),
    "Q6_K": (0, 128, 0x11), "IQ4_NL": (2, 18, 0x11), "IQ4_XS": (8, 136, 0x11),
}  # fmt: skip
#: Elements of a tensor that tell how much was lost, and in how many places of it.
_SAMPLE, _RUNS = 1 << 16, 16
_AGAIN = "Copy or download it again."
_DAMAGED = "The file is damaged; copy or download it again."


@dataclass(frozen=True)
class Kind:
    """A tensor type of GGUF.

    Attributes:
        code: Its number in headers.
        name: What ggml calls it, `Q4_K`.
        dtype: What a tensor of it counts as in a merge.
        block: Elements that are stored together; 1 for plain numbers.
        nbytes: Bytes of such a block.
    """

    code: int
    name: str
    dtype: DType
    block: int
    nbytes: int

    @property
    def plain(self) -> bool:
        """Whether its bytes are the numbers."""
        return self.code in PLAIN


#: The types that need no de-quantisation; their names are those of safetensors.
PLAIN = {
    code: Kind(code, name, DTYPES[name], 1, DTYPES[name].itemsize)
    for code, name in {
        0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16",
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a header.

    Attributes:
        kind: Its type.
        shape: Its shape in numpy's order, the reverse of the file's.
        offset: Where it starts in the file.
    """

    kind: Kind
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self.kind.block * self.kind.nbytes


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        values: Its metadata: numbers and short texts; None for what is long.
        spans: Where each piece of metadata stands in the file, with its key.
        tensors: Its tensors, by the order of their bytes.
    """

    values: Mapping[str, Any]
    spans: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, Entry]


def gguf_parts(name: str) -> list[str]:
    """The names of all files of the model that a file is of: `x-00001-of-00002.gguf` and its sibling, or itself."""
    match = _SPLIT.fullmatch(name)
    if not match or not 1 <= int(match[2]) <= int(match[3]):
        return [name]
    return [f"{match[1]}-{i + 1:05d}-of-{match[3]}.gguf" for i in range(int(match[3]))]


def read_gguf(path: Path) -> tuple[dict[str, TensorRef], dict[str, str], list[str]]:
    """Every tensor of one file, its short texts, and a note on what is de-quantised.

    Raises:
        InputError: The file breaks the format, or holds a type that cannot be de-quantised. Only the header is read.
        MissingExtraError: It holds quantised tensors, and the package gguf is not installed.
    """
    header = read_gguf_header(path)
    tensors = {name: _ref(path, entry) for name, entry in header.tensors.items()}
    texts = {key: value for key, value in header.values.items() if isinstance(value, str)}
    packed = Counter(entry.kind.name for entry in header.tensors.values() if not entry.kind.plain)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(packed.items()))
    return tensors, texts, [f"{path.name}: de-quantised tensors: {counts}"] if packed else []


def quantisation_error(ref: TensorRef) -> float | None:
    """Estimate how far a tensor of a quantised GGUF file is from what it was rounded from.

    The original is not in the file, so this is no measurement. It is what rounding to the nearest code loses on average:
    an error spread evenly over the step s between neighbouring codes has the mean square s^2 / 12. Relative to the
    original, whose mean square is about that of the values y and of the error together:

    estimate = sqrt(sum(s^2 / 12) / sum(y^2 + s^2 / 12))

    The step of each element is read off the file: flip the lowest bit of every code, de-quantise, subtract.

    Args:
        ref: A tensor of a checkpoint that was opened from a GGUF file. It is read, in pieces.

    Returns:
        The estimate; None where there is nothing to go by: plain numbers (what they were before is unknown), codebooks
        (IQ1, IQ2, IQ3), types that models are trained in (TQ, MXFP4, NVFP4), tensors that are not from a GGUF file.

    Differs:
        1. Quantisers that minimise a weighted error (llama.cpp's K and imatrix types) round a little more than to the
           nearest code, for a smaller error where it matters; and clipping is not seen. The estimate is a little low then.
        2. What an earlier rounding lost, to float16 or to other codes, is not seen.
    """
    if not isinstance(ref.load, _Dequantised) or ref.load.kind.name not in _LOWEST_BITS:
        return None
    return _relative(*_squares(ref.load.kind, ref.load.pieces()))


@dataclass(frozen=True)
class Quantised:
    """The tensors of one type in a GGUF model.

    Attributes:
        kind: What ggml calls the type, `Q4_K`.
        tensors: How many there are.
        error: What quantising them lost, as `quantisation_error` estimates it; None where there is nothing to go by.
    """

    kind: str
    tensors: int
    error: float | None


def quantised(refs: Iterable[TensorRef]) -> list[Quantised]:
    """What tensors are quantised as, and how much that lost: an estimate for each type from some blocks of each tensor.

    Args:
        refs: Tensors of a checkpoint that was opened from a GGUF file; at most 65,536 elements of each are read.

    Returns:
        The types by name; empty where nothing is quantised.
    """
    counts: Counter[str] = Counter()
    sums: dict[str, tuple[float, float]] = {}
    for ref in refs:
        if not isinstance(ref.load, _Dequantised):
            continue
        kind = ref.load.kind
        counts[kind.name] += 1
        if kind.name not in _LOWEST_BITS or not ref.size:
            continue
        read, blocks = ref.load.sample(_SAMPLE)
        values, errors = (ref.size / read * square for square in _squares(kind, blocks))  # as of all its elements
        before = sums.get(kind.name, (0.0, 0.0))
        sums[kind.name] = (before[0] + values, before[1] + errors)
    known = {name: _relative(*squares) for name, squares in sums.items() if math.isfinite(sum(squares))}
    return [Quantised(name, count, known.get(name)) for name, count in sorted(counts.items())]


def _squares(kind: Kind, pieces: Iterable[NumpyArray]) -> tuple[float, float]:
    """The sums of squares of the values in blocks, and of their expected errors."""
    start, stop, bits = _LOWEST_BITS[kind.name]
    values, errors = 0.0, 0.0
    for blocks in pieces:
        flipped = blocks.copy()
        flipped[:, start:stop] ^= bits
        here = dequantize(blocks, kind.code).astype(np.float64)
        steps = dequantize(flipped, kind.code) - here
        values += float(np.vdot(here, here))
        errors += float(np.vdot(steps, steps)) / 12
    return values, errors


def _relative(values: float, errors: float) -> float:
    return math.sqrt(errors / (values + errors)) if errors else 0.0


# --- values --------------------------------------------------------------------------------------------------------


def gguf_package(feature: str) -> Any:
    """The package gguf, which knows the layouts of the quantised types.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError:
        raise MissingExtraError(feature, "gguf", "gguf") from None


def dequantize(blocks: NumpyArray, code: int) -> NumpyArray:
    """The float32 values of blocks (n, bytes of a block), in one row."""
    gguf = gguf_package("de-quantising")
    with np.errstate(all="ignore"):  # a scale may be anything in a damaged file; the engine refuses what is not finite
        return gguf.quants.dequantize(blocks.reshape(1, -1), gguf.GGMLQuantizationType(code)).reshape(-1)


class _Dequantised:
    """Loads a quantised tensor in float32."""

    def __init__(self, kind: Kind, shape: tuple[int, ...], packed: TensorRef):
        self.kind, self.shape, self.packed = kind, shape, packed

    def __call__(self) -> NumpyArray:
        values = np.empty(math.prod(self.shape), np.float32)
        at = 0
        for blocks in self.pieces():
            piece = dequantize(blocks, self.kind.code)
            values[at : at + piece.size] = piece
            at += piece.size
        return values.reshape(self.shape)

    def pieces(self) -> Iterator[NumpyArray]:
        """The stored blocks, some at a time."""
        blocks = self.packed.read()
        step = _PIECE // self.kind.block
        for at in range(0, len(blocks), step):
            yield blocks[at : at + step]

    def sample(self, most: int) -> tuple[int, list[NumpyArray]]:
        """How many elements, and the blocks of them: about `most`, in runs that are spread evenly over the tensor."""
        count, length = self.packed.shape
        run = max(most // self.kind.block // _RUNS, 1)
        starts = [(count - run) * i // (_RUNS - 1) for i in range(_RUNS)]
        if count <= run * _RUNS:
            starts, run = [0], count
        blocks = np.empty((len(starts), run, length), np.uint8)
        assert self.packed.fill is not None  # it is in a file
        for place, start in zip(blocks, starts, strict=True):
            self.packed.fill(place.reshape(-1), start * length)
        return len(starts) * run * self.kind.block, list(blocks)


def _ref(path: Path, entry: Entry) -> TensorRef:
    kind, shape = entry.kind, entry.shape
    if kind.plain:
        return file_ref(path, kind.dtype, shape, entry.offset)
    packed = file_ref(path, DTYPES["U8"], (entry.nbytes // kind.nbytes, kind.nbytes), entry.offset)
    return TensorRef(kind.dtype, shape, _Dequantised(kind, shape, packed), f"{packed.source}, {kind.name}")


def _packed_kind(path: Path, name: str, code: int) -> Kind:
    """A quantised type, if the package can de-quantise it.

    Such tensors count as float16: their scales are float16, and its rounding, 2^-11, is far below their own. FP4's
    scales reach further, and bfloat16 holds every one of their values.
    """
    gguf = gguf_package(f"reading the quantised tensors of {path.name}")
    try:
        kind = gguf.GGMLQuantizationType(code)
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise _unreadable(path, name, f"number {code}", "does not know") from None
    try:
        dequantize(np.zeros((1, nbytes), np.uint8), code)
    except NotImplementedError:
        raise _unreadable(path, name, kind.name, "cannot de-quantise") from None
    return Kind(code, kind.name, DTYPES["BF16" if kind.name.endswith("FP4") else "F16"], block, nbytes)


def _unreadable(path: Path, name: str, kind: str, why: str) -> InputError:
    return InputError(
        f"{path}: '{name}' has the type {kind}, which the package gguf {why}",
        "Update the package, or use a file with other types, best the unquantised weights.",
    )


# --- headers -------------------------------------------------------------------------------------------------------


def read_gguf_header(path: Path) -> Header:
    """The header of one file, checked against the format and the file's size.

    Raises:
        InputError: The file breaks the format; the message says where.
        MissingExtraError: It holds quantised tensors, and the package gguf is not installed.
    """
    with open_regular(path) as (file, size):
        return _header(_Cursor(file, path, size))


class _Cursor:
    """Reads a header forwards, and never asks for more than there is."""

    def __init__(self, file: BinaryIO, path: Path, size: int):
        self.file, self.path, self.size, self.at = file, path, size, 0

    def take(self, count: int) -> bytes:
        self._advance(count)
        data = self.file.read(count)
        if len(data) != count:
            raise self._too_long()
        return data

    def skip(self, count: int) -> None:
        self._advance(count)
        self.file.seek(count, 1)

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: the text {raw[:80]!r} is not valid UTF-8", _DAMAGED) from None

    def _advance(self, count: int) -> None:
        self.at += count
        if self.at > min(self.size, MAX_HEADER):
            raise self._too_long()

    def _too_long(self) -> InputError:
        if self.at > MAX_HEADER and self.size > MAX_HEADER:
            return InputError(f"{self.path}: the header is longer than {MAX_HEADER} bytes", _DAMAGED)
        return InputError(
            f"{self.path}: the header reaches to byte {self.at} at least, the file has {self.size}",
            "It is cut short or damaged; copy or download it again.",
        )


def _header(cursor: _Cursor) -> Header:
    tensor_count, field_count = _preamble(cursor)
    values: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(field_count):
        start = cursor.at
        key = cursor.text()
        if key in values:
            raise InputError(f"{cursor.path}: the metadata '{key}' stand twice", _DAMAGED)
        values[key] = _value(cursor, key)
        spans[key] = (start, cursor.at)
    _check_split(cursor.path, values)
    return Header(values, spans, _tensors(cursor, tensor_count, _alignment(cursor.path, values)))


def _preamble(cursor: _Cursor) -> tuple[int, int]:
    """The numbers of tensors and of metadata."""
    path = cursor.path
    start = cursor.take(min(8, cursor.size))
    if start == LFS_POINTER:
        raise lfs_pointer(path)
    if start[:4] != MAGIC or len(start) < 8:
        raise InputError(f"{path} is not a GGUF file: it starts with {start!r}", _AGAIN)
    version = int.from_bytes(start[4:], "little")
    if version and version % 0x10000 == 0:
        raise InputError(f"{path} is big-endian", "Convert a copy with the package's own tool: gguf-convert-endian.")
    if version not in _VERSIONS:
        raise InputError(f"{path} has the GGUF version {version}, but 2 and 3 can be read", "Convert the model again.")
    counts = (cursor.number("Q"), cursor.number("Q"))
    for count, what in zip(counts, ("tensors", "pieces of metadata"), strict=True):
        if count > _MOST_ENTRIES:
            raise InputError(f"{path} claims to have {count} {what}, more than {_MOST_ENTRIES}", _DAMAGED)
    return counts


def _value(cursor: _Cursor, key: str) -> Any:
    """A number or short text; what is long is read past and gives None."""
    kind = cursor.number("I")
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _TEXT:
        length = cursor.number("Q")
        if length > _LONGEST_TEXT:
            return cursor.skip(length)
        return cursor.take(length).decode(errors="replace")  # said to be UTF-8; nothing hangs on it
    item = cursor.number("I") if kind == _ARRAY else kind
    count = cursor.number("Q") if kind == _ARRAY else 0
    if item in _SCALARS:
        return cursor.skip(count * struct.calcsize(_SCALARS[item]))
    if item != _TEXT:  # arrays in arrays too, as ggml does
        raise InputError(f"{cursor.path}: the metadata '{key}' have the unknown type {item}", _DAMAGED)
    for _ in range(count):
        cursor.skip(cursor.number("Q"))
    return None


def _alignment(path: Path, values: Mapping[str, Any]) -> int:
    alignment = values.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise InputError(f"{path}: general.alignment must be a power of two, got {alignment!r}", _DAMAGED)
    return alignment


def _check_split(path: Path, values: Mapping[str, Any]) -> None:
    """One part of several, under a name of its own, would pass for a whole model."""
    count, number = values.get("split.count", 1), values.get("split.no", 0)
    if count in (0, 1):
        return
    parts = gguf_parts(path.name)
    if len(parts) != count or parts.index(path.name) != number:
        raise InputError(
            f"{path} is part {number} of {count}, counted from 0, and its name does not say so",
            "Give the parts their names again: NAME-00001-of-00002.gguf, ...",
        )


def _tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, Entry]:
    """The tensors; as in ggml each must start where the one before it ends, aligned."""
    path = cursor.path
    kinds = dict(PLAIN)
    found: dict[str, tuple[Kind, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = cursor.text()
        if name in found:
            raise InputError(f"{path}: the tensor '{name}' stands twice", _DAMAGED)
        axes = cursor.number("I")
        if axes > _MOST_AXES:
            raise _broken(path, name, f"has {axes} axes; GGUF has at most {_MOST_AXES}")
        shape = tuple(reversed([cursor.number("Q") for _ in range(axes)]))
        code, offset = cursor.number("I"), cursor.number("Q")
        if code not in kinds:
            kinds[code] = _packed_kind(path, name, code)
        _check_shape(path, name, kinds[code], shape)
        found[name] = (kinds[code], shape, offset)
    data = aligned(cursor.at, alignment)
    result: dict[str, Entry] = {}
    end = 0
    for name, (kind, shape, offset) in found.items():
        if offset != end:
            raise _broken(path, name, f"starts at byte {offset} of the data, but {end} is its place")
        entry = Entry(kind, shape, data + offset)
        if entry.offset + entry.nbytes > cursor.size:
            raise InputError(
                f"{path}: '{name}' ends at byte {entry.offset + entry.nbytes}, the file has {cursor.size}",
                "It is cut short or damaged; copy or download it again.",
            )
        end = aligned(offset + entry.nbytes, alignment)
        result[name] = entry
    return result


def _check_shape(path: Path, name: str, kind: Kind, shape: tuple[int, ...]) -> None:
    if math.prod(max(n, 1) for n in shape) > _MOST_ELEMENTS:
        raise _broken(path, name, f"has a shape that no array can have, {list(shape)}")
    if (shape[-1] if shape else 1) % kind.block:
        raise _broken(path, name, f"has the shape {list(shape)}, whose rows are no whole blocks of {kind.name}")


def aligned(at: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-at // alignment) * alignment


def _broken(path: Path, name: str, what: str) -> InputError:
    return InputError(f"{path}: '{name}' {what}", _DAMAGED)
