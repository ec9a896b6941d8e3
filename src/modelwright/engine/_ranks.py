"""Exact order statistics of task vectors: a sample brackets each threshold, one pass finds it.

Magnitudes are ranked by their float32 bit patterns, which sort like the values. The pass counts what is beyond the bracket
and collects what is inside, or counts that too where it is too much to hold. So the result is exact whatever the sample
was; a bracket that missed is replaced, and the pass repeated. Entries that equal a threshold are kept by lowest index, over
the tensors in output order where ranks count over the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from modelwright.checkpoint import NumpyArray
from modelwright.engine._fused import Fused, Kept
from modelwright.engine._sources import BLOCK, Scratch
from modelwright.engine._whole import NotFiniteError
from modelwright.engine._work import Program, Tally
from modelwright.methods import Ranks
from modelwright.tensors import kernels

#: Up to this many elements are ranked at once in memory.
_SMALL = 1 << 17
#: Counters of one threshold.
_COUNTERS = 1 << 20
_LARGEST = 0x7F800000  # infinity: the difference of finite numbers may be that
#: Bytes of collected values that may be held for one tensor.
_MOST_HELD = 64 << 20
#: Thresholds that are counted in one pass, for each of which each thread has counters.
_MOST_COUNTED = 4
#: Elements that are sampled together.
_STRETCH = 512
_ALL_TIES = 1 << 62

_scratch = Scratch()


@dataclass
class Target:
    """A rank whose value is looked for.

    Attributes:
        model: Whose task vector.
        rank: The rank-th largest, from 1.
        top: Whether it bounds what is dropped at the top, and not what is kept.
        all_ties: Whether all that equal it are meant.
        low: Least bits that it may be.
        high: Greatest bits that it may be.
        inside: About which share of the values lies between.
        value: The bits, once found.
        spare: How many of those that equal it are meant.
        ties: How many equal it.
        by_range: How many equal it in each range of each member, where that is known.
    """

    model: int
    rank: int
    top: bool
    all_ties: bool
    low: int = 0
    high: int = _LARGEST
    inside: float = 1.0
    value: int | None = None
    spare: int = 0
    ties: int = 0
    by_range: list[int] | None = None

    @property
    def shift(self) -> int:
        """How many low bits a counter ignores, so that all counters cover the bracket."""
        return max(0, math.ceil(math.log2((self.high - self.low + 1) / _COUNTERS)))

    def missed(self, above: int, inside: int) -> bool:
        """Take note of how many values are beyond and inside the bracket; whether it has to be moved."""
        if above >= self.rank:
            self.low, self.high, self.inside = min(self.high + 1, _LARGEST), _LARGEST, 1.0
        elif above + inside < self.rank:
            self.low, self.high, self.inside = 0, max(self.low - 1, 0), 1.0
        else:
            return False
        return True

    def found(self, value: int, spare: int, ties: int) -> None:
        """The value is known."""
        self.value, self.spare, self.ties = value, spare, ties


def find_thresholds(members: Sequence[Fused]) -> Program:
    """Thresholds and ties of the tensors whose entries are ranked together; their `kept` is completed."""
    size = sum(member.tensor.size for member in members)
    kept = Kept.of(members[0].lowered, size)
    targets = _targets(members[0].lowered.keep, kept, size)
    for member in members:
        member.kept = Kept(kept.mode, kept.low, kept.high)
    if not targets:
        return
    if size <= _SMALL:
        (ranked,) = yield [partial(_rank_in_memory, members, targets)]
        for target, (value, spare, by_range) in zip(targets, ranked, strict=True):
            target.found(value, spare, sum(by_range))
            target.by_range = by_range
    else:
        samples = yield [partial(_sample, member, size) for member in members if member.tensor.size]
        _bracket(targets, np.concatenate(samples, axis=1), size)
        while open_ones := [target for target in targets if target.value is None]:
            held = sum(target.inside for target in open_ones) * size * 4
            look = _Collect(open_ones) if held <= _MOST_HELD else _Count(open_ones[:_MOST_COUNTED], size)
            results = yield [partial(look.range, m, number) for m in members for number in range(len(m.ranges))]
            look.finish(results)
    unsure = [target for target in targets if target.spare < target.ties and not target.all_ties]
    uncounted = [target for target in unsure if target.by_range is None]
    if uncounted:
        counts = yield [partial(_ties, m, number, uncounted) for m in members for number in range(len(m.ranges))]
        for t, target in enumerate(uncounted):
            target.by_range = [int(row[t]) for row in counts]
    _deal(members, targets, unsure)


def _targets(keep: Sequence[Any], kept: Kept, size: int) -> list[Target]:
    targets: list[Target] = []
    for i, ranks in enumerate(keep):
        if isinstance(ranks, Ranks) and kept.mode[i] == kernels.RANKS:
            targets.append(Target(i, min(ranks.stop, size), top=False, all_ties=ranks.all_ties))
            if ranks.start > 0:
                targets.append(Target(i, ranks.start, top=True, all_ties=False))
    return targets


def _rank_in_memory(members: Sequence[Fused], targets: Sequence[Target]) -> list[tuple[int, int, list[int]]]:
    """Of each target its bits, how many of those that equal it are meant, and how many there are in each range."""
    parts: list[NumpyArray] = []
    for member in members:
        rows = _scratch.rows(len(member.codes))
        for i in range(len(member.codes)):
            member.sources.read(i, 0, member.tensor.size, rows[i])
        parts.append(_bits(member, rows, member.tensor.size))
    found: list[tuple[int, int, list[int]]] = []
    for target in targets:
        bits = np.concatenate([part[target.model] for part in parts])
        place = bits.size - target.rank
        value = np.partition(bits, place)[place]
        by_range = [int(np.count_nonzero(part[target.model] == value)) for part in parts if part.size]
        found.append((int(value), target.rank - int(np.count_nonzero(bits > value)), by_range))
    return found


def _sample(member: Fused, size: int) -> NumpyArray:
    """Magnitudes of short stretches all over a tensor, in proportion to its share of the whole."""
    wanted = min(max(size // 64, 1 << 15), 1 << 18)
    number = math.ceil(wanted * member.tensor.size / size / _STRETCH)
    step, length = member.tensor.size / number, min(_STRETCH, member.tensor.size)
    places = np.random.default_rng(member.tensor.size).random(number)  # so that columns are not all the same
    starts = [min(int((i + place) * step), member.tensor.size - length) for i, place in enumerate(places)]
    rows, most = _scratch.rows(len(member.codes)), max(BLOCK // length, 1)
    parts: list[NumpyArray] = []
    for first in range(0, number, most):
        chosen = starts[first : first + most]
        for i in range(len(member.codes)):
            width = length * member.sources.dtypes[i].itemsize
            for place, start in enumerate(chosen):
                member.sources.read(i, start, length, rows[i][place * width :])
        parts.append(_bits(member, rows, len(chosen) * length))
    return np.concatenate(parts, axis=1)


def _bits(member: Fused, rows: NumpyArray, n: int) -> NumpyArray:
    """Of each model, the magnitudes of its task vector in a block that was read."""
    out = np.empty((member.count, n), np.uint32)
    if kernels.magnitudes(rows, member.codes, n, member.count, out, _scratch.tiles(member.count + 4, kernels.TILE)):
        raise NotFiniteError(member)
    return out


def _bracket(targets: Sequence[Target], sample: NumpyArray, size: int) -> None:
    """Bits between which each target most likely lies: five standard errors of the sample to either side.

    Rows of a matrix differ in scale, so the error is estimated from how much the sampled stretches differ.
    """
    drawn = sample.shape[1]
    room = np.empty(drawn, np.uint32)
    for target in targets:
        bits, middle = sample[target.model], target.rank / size * drawn
        guess = kernels.select(bits, min(max(round(middle), 1), drawn), room)[0]
        stretches = bits[: drawn - drawn % _STRETCH].reshape(-1, _STRETCH)
        above = np.count_nonzero(stretches >= guess, axis=1)
        spread = 5 * math.sqrt(len(above)) * float(np.std(above)) + 16
        first, last = int(middle - spread), int(middle + spread)
        target.high = int(kernels.select(bits, first, room)[0]) if first >= 1 else _LARGEST
        low, beyond, ties = kernels.select(bits, last, room) if last <= drawn else (0, drawn, 0)
        target.low, target.inside = int(low), (int(beyond) + int(ties) - max(first - 1, 0)) / drawn


class _Collect:
    """A pass that brings together what lies in the brackets."""

    def __init__(self, targets: Sequence[Target]):
        self.targets = targets
        self._owner = np.array([target.model for target in targets])
        self._low = np.array([target.low for target in targets], np.uint32)
        self._high = np.array([target.high for target in targets], np.uint32)

    def range(self, member: Fused, number: int) -> Any:
        """Of each target how many values of a range are beyond its bracket, and those that are inside."""
        above = np.zeros(len(self.targets), np.int64)
        inside: list[list[NumpyArray]] = [[] for _ in self.targets]

        def take(near: NumpyArray, filled: NumpyArray) -> None:
            for t, values in enumerate(inside):
                values.append(near[t][: filled[t]].copy())

        self.scan(member, number, above, take)
        return above, [np.concatenate(values) for values in inside]

    def scan(
        self, member: Fused, number: int, above: NumpyArray, take: Callable[[NumpyArray, NumpyArray], None]
    ) -> None:
        """Go through a range; `take` is handed what lies in the brackets, block by block."""
        near, sizes = _scratch.near(len(self.targets)), _scratch.sizes(kernels.TILE)

        def block(raw: NumpyArray, n: int, _keep: Any, _at: int) -> int:
            filled = np.zeros(len(self.targets), np.int64)
            odd = kernels.collect(
                raw, member.codes, n, member.count, self._owner, self._low, self._high, near, filled, above, sizes,
                _scratch.tiles(member.count + 4, kernels.TILE),
            )  # fmt: skip
            take(near, filled)
            return odd

        member.scan(number, block)

    def finish(self, results: Sequence[Any]) -> None:
        """Find the values, and how many of each range equal them."""
        above = np.sum([beyond for beyond, _ in results], axis=0)
        for t, target in enumerate(self.targets):
            parts = [inside[t] for _, inside in results]
            values = np.concatenate(parts)
            parts = np.split(values, np.cumsum([len(part) for part in parts])[:-1])
            if target.missed(int(above[t]), values.size):
                continue
            value, larger, ties = kernels.select(values, target.rank - int(above[t]), np.empty_like(values))
            if larger + ties > target.rank - int(above[t]):
                target.by_range = [int(kernels.count_equal(part, np.uint32(value))) for part in parts]
            target.found(int(value), target.rank - int(above[t]) - int(larger), int(ties))


class _Count(_Collect):
    """A pass that counts what lies in the brackets: its memory does not depend on how much that is."""

    def __init__(self, targets: Sequence[Target], size: int):
        super().__init__(targets)
        self._dtype = np.uint32 if size < 1 << 32 else np.uint64
        self._tally = Tally()

    def range(self, member: Fused, number: int) -> Any:
        """Of each target how many values of a range are beyond its bracket; and counters, to which those inside are added."""
        counts = self._tally.part(lambda: np.zeros((len(self.targets), _COUNTERS), self._dtype))
        above = np.zeros(len(self.targets), np.int64)

        def take(near: NumpyArray, filled: NumpyArray) -> None:
            for t, target in enumerate(self.targets):
                kernels.scatter(near[t][: filled[t]], np.uint32(target.low), np.uint32(target.shift), counts[t])

        self.scan(member, number, above, take)
        return above, counts

    def finish(self, results: Sequence[Any]) -> None:
        """Find the values, or narrower brackets around them."""
        above = np.sum([beyond for beyond, _ in results], axis=0)
        counts = Tally.total(part for _, part in results)
        for t, target in enumerate(self.targets):
            bucket, before = kernels.find(counts[t], target.rank - int(above[t]))
            if target.missed(int(above[t]), before if bucket < 0 else target.rank):
                continue
            shift, ties = target.shift, int(counts[t][bucket])
            low = target.low + (bucket << shift)
            if shift:
                target.low, target.high = low, min(low + (1 << shift) - 1, target.high)
                target.inside = 0.0 if ties < 1 << 20 else 1.0
            else:
                target.found(low, target.rank - int(above[t]) - before, ties)


def _ties(member: Fused, number: int, targets: Sequence[Target]) -> NumpyArray:
    """How many entries of a range equal each target."""
    order = sorted(range(len(targets)), key=lambda t: targets[t].model)
    owner = np.array([targets[t].model for t in order])
    wanted = np.array([targets[t].value for t in order], np.uint32)
    counts = np.zeros(len(targets), np.int64)
    tiles = _scratch.tiles(member.count + 4, kernels.TILE)

    def block(raw: NumpyArray, n: int, _keep: Any, _at: int) -> int:
        return kernels.ties(raw, member.codes, n, member.count, owner, wanted, counts, tiles)

    member.scan(number, block)
    result = np.empty_like(counts)
    result[order] = counts
    return result


def _deal(members: Sequence[Fused], targets: Sequence[Target], unsure: Sequence[Target]) -> None:
    """Write thresholds into `kept`, and deal the ties that are meant to ranges in order."""
    kept = members[0].kept
    for target in targets:
        assert target.value is not None
        (kept.high if target.top else kept.low)[target.model] = target.value
    spare = np.array([target.spare for target in unsure], np.int64)
    place = 0
    for member in members:
        for _ in member.ranges:
            left = np.zeros((member.count, 2), np.int64)
            for target in targets:
                left[target.model, int(target.top)] = _ALL_TIES
            if unsure:
                here = np.array([target.by_range[place] for target in unsure if target.by_range is not None])
                share = np.minimum(spare, here)
                spare = spare - share
                for t, target in enumerate(unsure):
                    left[target.model, int(target.top)] = share[t] if share[t] < here[t] else _ALL_TIES
            member.kept.left.append(left)
            place += 1
