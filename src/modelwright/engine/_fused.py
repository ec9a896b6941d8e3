"""Merging with the fused kernels: programs that read statistics, decide, and write the tensor range by range.

What the kernels compute is what the method's array function computes, to the bit; `Lowered` says it as data. Memory does
not depend on the size of a tensor: each thread holds one block of each input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from modelwright.checkpoint import NumpyArray
from modelwright.engine._sources import Scratch, Sources, blocks, ranges
from modelwright.engine._whole import NotFiniteError
from modelwright.engine._work import Program
from modelwright.methods import Drop, Lowered, RankDrop, Ranks
from modelwright.recipe import PlannedTensor
from modelwright.tensors import NoiseKey, kernels, root

CODES = {"float32": kernels.F32, "float16": kernels.F16, "bfloat16": kernels.BF16}
_ELECT = {None: kernels.PLAIN, "sum": kernels.SUM, "count": kernels.COUNT}
_JOIN = {"sum": kernels.ADD, "mean": kernels.MEAN, "max": kernels.MAX}
_ALL_TIES = 1 << 62
_NO_LIMIT = 0xFFFFFFFF
_NO_MASK = np.zeros((1, 1), np.uint8)
#: What changes a task vector's length.
_DROPPING = (kernels.RANKS, kernels.NOISE, kernels.MASK)

_scratch = Scratch()


@dataclass
class Kept:
    """How the entries of each model are kept, as the kernels take it.

    Attributes:
        mode: `kernels.ALL`, `RANKS`, `NOISE`, `MASK` or `NONE`.
        low: Bits of the magnitude at the last rank kept.
        high: Bits of the magnitude at the last rank dropped at the top.
        left: For each range how many entries that equal these bounds are kept, and dropped, in it: (models, 2).
        masks: For each range a bit an entry, (models, bytes), where `MASK` needs them.
    """

    mode: NumpyArray
    low: NumpyArray
    high: NumpyArray
    left: list[NumpyArray] = field(default_factory=list[NumpyArray])
    masks: list[NumpyArray] = field(default_factory=list[NumpyArray])

    @classmethod
    def of(cls, lowered: Lowered, size: int) -> Kept:
        """Before thresholds are known. `size` is what ranks count over."""
        count = len(lowered.weights)
        kept = cls(np.full(count, kernels.ALL), np.zeros(count, np.uint32), np.full(count, _NO_LIMIT, np.uint32))
        for i, keep in enumerate(lowered.keep):
            if isinstance(keep, Drop):
                kept.mode[i] = kernels.NOISE if _threshold(keep) < 1 << 32 else kernels.ALL
            elif isinstance(keep, RankDrop):
                kept.mode[i] = kernels.MASK
            elif isinstance(keep, Ranks):
                stop = min(keep.stop, size)
                whole = keep.start <= 0 and stop == size
                kept.mode[i] = kernels.NONE if stop <= keep.start else kernels.ALL if whole else kernels.RANKS
        return kept


class Fused:
    """One tensor and what is known of it so far.

    Attributes:
        tensor: The tensor.
        lowered: What its method does.
        sources: Its inputs.
        kept: How entries are kept.
        ranges: Its ranges, (start, stop).
        zero_sign: What an even split elects; None until the majority is known.
        told: Is told how many bytes were read, after each range.
    """

    def __init__(self, tensor: PlannedTensor, lowered: Lowered, sources: Sources, seed: int):
        self.tensor, self.lowered, self.sources = tensor, lowered, sources
        self.count = len(lowered.weights)
        self.ranges = ranges(tensor.size)
        self.codes = np.array([CODES[dtype.name] for dtype in sources.dtypes])
        self.kept = Kept.of(lowered, tensor.size)
        self.zero_sign = lowered.zero_sign
        self.told: Callable[[int], None] | None = None
        self._decided = False
        self._key = NoiseKey(seed, tensor.name)
        ones = np.ones(self.count, np.float32)
        self._ratio, self._divide, self._weight = ones, ones.copy(), np.array(lowered.weights, np.float64)
        self._scale, self._base = lowered.scale, 1.0 if lowered.add_base else None
        for i, keep in enumerate(lowered.keep):
            if isinstance(keep, Drop) and lowered.rescale == "expectation" and keep.density > 0:
                self._divide[i] = keep.density

    # --- what is known before merging -----------------------------------------------------------------------------

    def decide(self) -> Program:
        """Rescaling and coefficients, once; thresholds are found already."""
        if self._decided:
            return
        self._decided, lowered = True, self.lowered
        if lowered.rescale in ("l1", "l2") and any(mode in _DROPPING for mode in self.kept.mode):
            sums = yield [partial(self._lengths, number) for number in range(len(self.ranges))]
            before, after = (_added(sums, slice(side, None, 2)) for side in (0, 1))
            for i in range(self.count):
                if self.kept.mode[i] in _DROPPING:
                    self._ratio[i] = _ratio(before[i], after[i], lowered.rescale)
        if lowered.coefficients is not None:
            sums = yield [partial(self._gram, number) for number in range(len(self.ranges))]
            totals = _added(sums, slice(None))
            known = {frozenset(pair): np.asarray(total) for pair, total in zip(lowered.gram, totals, strict=True)}
            found = lowered.coefficients(lambda i, j: known[frozenset((i, j))])
            self._weight = np.array([float(weight) for weight in found.weights])
            self._scale, self._base = float(found.scale), None if found.base is None else float(found.base)

    def _lengths(self, number: int) -> NumpyArray:
        rows = 2 * self.count

        def block(raw: NumpyArray, n: int, keep: Any, at: int, sums: NumpyArray) -> int:
            return kernels.lengths(
                raw, self.codes, n, self.count, keep, self.lowered.rescale == "l2", sums, _lanes(rows), self._tiles()
            )  # fmt: skip

        return self._summed(number, rows, block)

    def _gram(self, number: int) -> NumpyArray:
        pairs = np.array(self.lowered.gram)

        def block(raw: NumpyArray, n: int, keep: Any, at: int, sums: NumpyArray) -> int:
            return kernels.gram(
                raw, self.codes, n, self.count, self.lowered.gram_of_deltas, keep, pairs, sums, _lanes(len(pairs)),
                self._tiles(),
            )  # fmt: skip

        return self._summed(number, len(pairs), block)

    def _summed(self, number: int, rows: int, block: Callable[..., int]) -> NumpyArray:
        """Sums of a range, one column for each block of the geometry."""
        parts: list[NumpyArray] = []

        def collect(raw: NumpyArray, n: int, keep: Any, at: int) -> int:
            parts.append(np.zeros((rows, -(-n // kernels.BLOCK))))
            return block(raw, n, keep, at, parts[-1])

        self.scan(number, collect)
        return np.concatenate(parts, axis=1) if parts else np.zeros((rows, 0))

    def net_sign(self, number: int) -> int:
        """Positive minus negative elections in a range."""
        net = np.zeros(1, np.int64)

        def block(raw: NumpyArray, n: int, keep: Any, at: int) -> int:
            return kernels.net_sign(
                raw, self.codes, n, self.count, keep, self._factors(), _ELECT[self.lowered.elect], net, self._tiles()
            )

        self.scan(number, block)
        return int(net[0])

    # --- merging ----------------------------------------------------------------------------------------------------

    def combine(
        self,
        number: int,
        emit: Callable[[int, NumpyArray], None],
        read: Callable[[int, NumpyArray], None] | None = None,
    ) -> bool:
        """Merge a range.

        Args:
            number: Which.
            emit: Takes the first element of each block and its bytes in the output format.
            read: Takes the number of each source and its bytes.

        Returns:
            Whether the merged values, before they are rounded, differ from the base's.

        Raises:
            NotFiniteError: An input or the result is not finite.
        """
        return bool(self._combine(number, CODES[self.tensor.dtype.name], emit, read) & 4)

    def largest(self) -> float:
        """The largest magnitude of the result, in float32 and so before it is rounded to the output's format."""
        most = 0.0

        def look(_at: int, data: NumpyArray) -> None:
            nonlocal most
            most = max(most, float(np.max(np.abs(data.view(np.float32)), initial=0)))

        for number in range(len(self.ranges)):
            try:
                self._combine(number, kernels.F32, look, None)
            except NotFiniteError:
                return math.inf
        return most

    def _combine(
        self,
        number: int,
        code: int,
        emit: Callable[[int, NumpyArray], None],
        read: Callable[[int, NumpyArray], None] | None,
    ) -> int:
        lowered = self.lowered
        zero_sign = 1.0 if self.zero_sign is None else self.zero_sign
        way = (_ELECT[lowered.elect], _JOIN[lowered.join], np.float32(zero_sign), lowered.normalize)
        use_base = self._base is not None
        finish = (
            np.float32(lowered.divisor), np.float32(self._scale), use_base, np.float32(1.0 if self._base is None else self._base)
        )  # fmt: skip
        width = 4 if code == kernels.F32 else 2
        factors, out, found = self._factors(), _scratch.out(width), 0

        def block(raw: NumpyArray, n: int, keep: Any, at: int) -> int:
            nonlocal found
            flags = kernels.combine(
                raw, self.codes, n, self.count, lowered.deltas, keep, factors, way, finish, out, code, self._tiles()
            )
            emit(at, out[: n * width])
            found |= flags
            return flags & 3

        self.scan(number, block, read)
        return found

    # --- blocks -----------------------------------------------------------------------------------------------------

    def scan(
        self,
        number: int,
        block: Callable[[NumpyArray, int, Any, int], int],
        read: Callable[[int, NumpyArray], None] | None = None,
    ) -> None:
        """Read a range block by block and hand each to `block(rows, elements, keep, first element)`.

        Raises:
            NotFiniteError: `block` returned something.
        """
        start, stop = self.ranges[number]
        left = self.kept.left[number].copy() if self.kept.left else np.zeros((self.count, 2), np.int64)
        noise = self.noise(number)
        mask = self.kept.masks[number] if self.kept.masks else _NO_MASK
        raw = _scratch.rows(len(self.codes), self.sources.itemsize)
        for at, n in blocks(start, stop, len(self.codes)):
            for i in range(len(self.codes)):
                part = self.sources.read(i, at, n, raw[i])
                if read is not None:
                    read(i, part)
            keep = (self.kept.mode, self.kept.low, self.kept.high, left, noise, at - start, mask)
            if block(raw, n, keep, at):
                raise NotFiniteError(self)
        if self.told is not None:
            self.told(sum(dtype.itemsize for dtype in self.sources.dtypes) * (stop - start))

    def noise(self, segment: int) -> NumpyArray:
        """Keys of the models for a range, which is one segment of noise, and thresholds where ranks do not decide."""
        table = np.zeros((self.count, 3), np.uint32)
        for i, keep in enumerate(self.lowered.keep):
            if isinstance(keep, Drop | RankDrop) and self.kept.mode[i] in (kernels.NOISE, kernels.MASK):
                table[i] = *self._key.words(i, segment), _threshold(keep) if isinstance(keep, Drop) else 0
        return table

    def _factors(self) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        with np.errstate(over="ignore"):
            return self._ratio, self._divide, self._weight.astype(np.float32)

    def _tiles(self) -> NumpyArray:
        return _scratch.tiles(self.count + 4, kernels.TILE)


def _threshold(keep: Drop) -> int:
    """What 32 random bits must be below for an element to be kept."""
    return math.ceil(keep.density * 2**32)


def _lanes(rows: int) -> NumpyArray:
    return np.zeros((rows, kernels.LANES))


def _added(parts: Sequence[NumpyArray], which: slice) -> list[float]:
    """The exact sum of each row over all parts, rounded once; NaN where it is not finite."""
    rows = np.concatenate(parts, axis=1)[which]
    if not np.isfinite(rows).all():
        return [math.nan] * len(rows)
    return [math.fsum(row.tolist()) for row in rows]


def _ratio(before: float, after: float, kind: str) -> float:
    """By what kept entries are multiplied; see `methods/merging/_parts.py:rescaled`."""
    if kind == "l2":
        before, after = (float(root(np.asarray(square))) for square in (before, after))
    return before / after if before >= 1e-7 and after >= 1e-7 else 1.0
