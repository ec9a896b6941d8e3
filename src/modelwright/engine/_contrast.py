"""How models differ from a base: sums over the tensors that meet, in one pass on threads, and spectra of matrices."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xxhash

from modelwright.checkpoint import NumpyArray, TensorRef
from modelwright.engine._merge import WORTH
from modelwright.engine._sources import Scratch, Sources, blocks, ranges
from modelwright.engine._work import Program, run_programs
from modelwright.tensors import Spectrum, dot, spectrum, widen

#: Larger matrices get no spectrum: a task vector is held in memory for it, in float32.
MOST_SPECTRUM = 1 << 27
_CODES = ("float32", "float16", "bfloat16")
#: Elements to a sum, as in `tensors/_geometry.py` and the kernels.
_BLOCK = 1 << 15

_scratch = Scratch()


@dataclass(frozen=True)
class Meeting:
    """Tensors that are compared.

    Attributes:
        name: What to call them.
        shape: Which part: the leading entries of each, as many as this shape has.
        refs: The models', then the base's.
    """

    name: str
    shape: tuple[int, ...]
    refs: tuple[TensorRef, ...]

    @property
    def size(self) -> int:
        """Elements of each that are compared."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that are read, once."""
        return sum(ref.dtype.itemsize for ref in self.refs) * self.size

    @property
    def matrix(self) -> tuple[int, int] | None:
        """The shape as that of a matrix, kernels of convolutions as (out, rest); None where there is no spectrum."""
        if len(self.shape) < 2 or not 0 < self.size <= MOST_SPECTRUM:
            return None
        return self.shape[0], self.size // self.shape[0]


@dataclass(frozen=True)
class Contrast:
    """Sums over a tensor of k task vectors, model minus base. Of a group of tensors, the sums of the sums.

    Attributes:
        size: Elements that were compared: those that are finite in every model.
        dots: Dot products, (k + 1, k + 1) float64; the last is the base itself.
        zeros: Entries of each task vector that are zero, (k,).
        both: For each pair the entries that are nonzero in both, (k, k), symmetric, the diagonal 0.
        against: How many of these differ in sign, likewise.
        odd: Entries of each that are NaN or infinite, (k + 1,), the base last.
        spectra: The singular values of each task vector; None where there are none to be had.
    """

    size: int
    dots: NumpyArray
    zeros: NumpyArray
    both: NumpyArray
    against: NumpyArray
    odd: NumpyArray
    spectra: tuple[Spectrum | None, ...]


def contrast(
    meetings: Sequence[Meeting],
    *,
    spectra: bool = True,
    threads: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Contrast]:
    """Compare tensors.

    Task vectors are taken in float32, or float64 where an input is float64, and summed up in float64 in an order that does not
    depend on threads. Memory is a block of each input for each thread, and with spectra one matrix more.

    Args:
        meetings: What meets; all with equally many tensors.
        spectra: Whether matrices get their singular values; that reads them a second time.
        threads: How many work.
        progress: Called with (what, bytes done, bytes in all).

    Returns:
        One for each meeting.
    """
    work = _Work(sum(meeting.size for meeting in meetings) >= WORTH, spectra)
    total = sum(meeting.nbytes for meeting in meetings)
    found: dict[int, Contrast] = {}

    def programs() -> Iterator[Program]:
        for number, meeting in enumerate(meetings):
            yield _kept(found, number, work.program(meeting))

    def tick() -> None:
        if progress is not None:
            progress("comparing", work.done, total)

    run_programs(programs(), threads, tick)
    return [found[number] for number in range(len(meetings))]


def _kept(found: dict[int, Contrast], number: int, program: Program) -> Program:
    found[number] = yield from program


@dataclass
class _Sums:
    """Of a range."""

    dots: list[NumpyArray]  # (pairs, blocks) each
    zeros: NumpyArray
    signs: NumpyArray
    odd: NumpyArray
    left_out: int = 0


class _Work:
    """What programs share.

    Attributes:
        fused: Whether kernels are used where they can be.
        spectra: Whether singular values are wanted.
        done: Bytes that were read for sums.
    """

    def __init__(self, fused: bool, spectra: bool):
        self.fused, self.spectra, self.done = fused, spectra, 0
        self._lock = threading.Lock()

    def program(self, meeting: Meeting) -> Program:
        """Reads a meeting, and returns its contrast."""
        sources, parts = Sources(meeting.refs), ranges(meeting.size)
        if sources.streamed:
            sums: list[_Sums] = yield [partial(self._sums, sources, start, stop) for start, stop in parts]
        else:  # what has to be read as a whole: by one thread, so that few such tensors are in memory
            (sums,) = yield [lambda: self._loaded(sources, parts)]
        count = len(meeting.refs) - 1
        odd = sum((part.odd for part in sums), np.zeros(count + 1, np.int64))
        shape = meeting.matrix if self.spectra and not odd.any() else None
        seen: list[Spectrum | None] = [None] * count
        if shape is not None:
            seen = yield [partial(_spectrum, meeting.name, sources, i, shape) for i in range(count)]
        return _joined(meeting, sums, odd, tuple(seen))

    def _loaded(self, sources: Sources, parts: Sequence[tuple[int, int]]) -> list[_Sums]:
        sources.load()
        return [self._sums(sources, start, stop) for start, stop in parts]

    def _sums(self, sources: Sources, start: int, stop: int) -> _Sums:
        width = len(sources.refs)
        pairs = _pairs(width)
        total = _Sums([], np.zeros(width - 1, np.int64), np.zeros((len(pairs), 2), np.int64), np.zeros(width, np.int64))
        raw = _scratch.rows(width, sources.itemsize)
        fused = self.fused and all(dtype.name in _CODES for dtype in sources.dtypes)
        for at, n in blocks(start, stop, width):
            rows = [sources.read(i, at, n, raw[i]) for i in range(width)]
            done = _by_kernel(raw, sources, n, pairs) if fused else None
            if done is None:
                done = _by_arrays([row.view(dtype) for row, dtype in zip(rows, sources.dtypes, strict=True)], pairs)
            total.dots += done.dots
            total.zeros += done.zeros
            total.signs += done.signs
            total.odd += done.odd
            total.left_out += done.left_out
        with self._lock:
            self.done += sum(ref.dtype.itemsize for ref in sources.refs) * (stop - start)
        return total


def _pairs(width: int) -> NumpyArray:
    """Of which rows dot products are taken: all, the base's own included."""
    return np.array([(i, j) for i in range(width) for j in range(i, width)])


def _by_kernel(raw: NumpyArray, sources: Sources, n: int, pairs: NumpyArray) -> _Sums | None:
    """The sums of a block; None where a value is not finite, so that it has to be looked at more closely."""
    from modelwright.engine._fused import CODES
    from modelwright.tensors import kernels

    width = len(sources.refs)
    codes = np.array([CODES[dtype.name] for dtype in sources.dtypes])
    sums, lanes = np.zeros((len(pairs), -(-n // kernels.BLOCK))), np.zeros((len(pairs), kernels.LANES))
    zeros, signs = np.zeros(width - 1, np.int64), np.zeros((len(pairs), 2), np.int64)
    tiles = _scratch.tiles(width, kernels.TILE)
    if kernels.contrast(raw, codes, n, width - 1, pairs, sums, lanes, zeros, signs, tiles):
        return None
    return _Sums([sums], zeros, signs, np.zeros(width, np.int64))


def _by_arrays(rows: Sequence[NumpyArray], pairs: NumpyArray) -> _Sums:
    """As the kernel, to the bit; entries that are not finite in one of the models are counted and left out."""
    wide: list[Any] = [widen(row) for row in rows]
    finite = [np.isfinite(row) for row in wide]
    odd = np.array([row.size - np.count_nonzero(row) for row in finite])
    left_out = 0
    if odd.any():
        whole = np.logical_and.reduce(finite)
        left_out = whole.size - int(np.count_nonzero(whole))
        wide = [row[whole] for row in wide]
    if any(row.dtype == np.float64 for row in wide):
        wide = [row.astype(np.float64) for row in wide]
    *models, base = wide
    with np.errstate(over="ignore"):
        vectors = [*(model - base for model in models), base]
    size = base.size
    dots = np.array(
        [[float(dot(vectors[i][at : at + _BLOCK], vectors[j][at : at + _BLOCK])) for at in range(0, size, _BLOCK)] for i, j in pairs]
    ).reshape(len(pairs), -1)  # fmt: skip
    zeros = np.array([vector.size - np.count_nonzero(vector) for vector in vectors[:-1]])
    signs = np.zeros((len(pairs), 2), np.int64)
    for p, (i, j) in enumerate(pairs):
        if i != j and j < len(models):
            here = (vectors[i] != 0) & (vectors[j] != 0)
            signs[p] = np.count_nonzero(here), np.count_nonzero(here & ((vectors[i] < 0) != (vectors[j] < 0)))
    return _Sums([dots], zeros, signs, odd, left_out)


def _joined(meeting: Meeting, sums: Sequence[_Sums], odd: NumpyArray, seen: tuple[Spectrum | None, ...]) -> Contrast:
    width = len(meeting.refs)
    count = width - 1
    dots, both, against = np.zeros((width, width)), np.zeros((count, count), int), np.zeros((count, count), int)
    blocks_of = [block for part in sums for block in part.dots]
    for p, (i, j) in enumerate(_pairs(width)):
        total = math.fsum(float(value) for block in blocks_of for value in block[p])
        dots[i, j] = dots[j, i] = total
        if i != j and j < count:
            both[i, j] = both[j, i] = sum(int(part.signs[p, 0]) for part in sums)
            against[i, j] = against[j, i] = sum(int(part.signs[p, 1]) for part in sums)
    zeros = sum((part.zeros for part in sums), np.zeros(count, np.int64))
    size = meeting.size - sum(part.left_out for part in sums)
    return Contrast(size, dots, zeros, both, against, odd, seen)


def _spectrum(name: str, sources: Sources, i: int, shape: tuple[int, int]) -> Spectrum:
    """The singular values of one task vector, which is held in memory as long."""
    ends = [sources.dtypes[i], sources.dtypes[-1]]
    size = math.prod(shape)
    vector = np.empty(size, np.float64 if np.dtype(np.float64) in ends else np.float32)
    raw = _scratch.rows(2, sources.itemsize)
    for at, n in blocks(0, size, 2):
        model, base = (
            widen(sources.read(k, at, n, raw[side]).view(sources.dtypes[k])) for side, k in enumerate((i, -1))
        )
        np.subtract(model, base, out=vector[at : at + n])
    return spectrum(vector.reshape(shape), seed=xxhash.xxh3_64_intdigest(name.encode()))
