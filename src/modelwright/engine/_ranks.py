"""Exact order statistics of task vectors: a sample brackets each threshold, one pass finds it.

Magnitudes are ranked by their float32 bit patterns, which sort like the values. The pass counts what is beyond the bracket
and collects what is inside, or counts that too where it is too much to hold. So the result is exact whatever the sample
was; a bracket that missed is replaced, and the pass repeated. Entries that equal a threshold are kept by lowest index, over
the tensors in output order where ranks count over the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from modelwright.checkpoint import NumpyArray
from modelwright.engine._fused import Fused, Kept
from modelwright.engine._sources import COUNTERS, MOST_COUNTED, MOST_HELD, MOST_SAMPLED, Scratch, block_length
from modelwright.engine._whole import NotFiniteError
from modelwright.engine._work import Program, Tally
from modelwright.methods import Ranks
from modelwright.tensors import kernels

#: Up to this many elements are ranked at once in memory.
_SMALL = 1 << 15
_LARGEST = 0x7F800000  # infinity: the difference of finite numbers may be that
#: Elements for each one that is looked at in a second sample, at least.
_SPARSE = 16
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
        drawn: Elements of the sample that says so.
        spread: What the rank of a value may be wrong by in that sample.
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
    drawn: int = 0
    spread: float = 0.0
    value: int | None = None
    spare: int = 0
    ties: int = 0
    by_range: list[int] | None = None

    @property
    def shift(self) -> int:
        """How many low bits a counter ignores, so that all counters cover the bracket."""
        return max(0, math.ceil(math.log2((self.high - self.low + 1) / COUNTERS)))

    @property
    def counters(self) -> int:
        """How many counters cover the bracket."""
        return ((self.high - self.low) >> self.shift) + 1

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
        wanted = min(max(size // 64, 1 << 15), max(MOST_SAMPLED // (4 * members[0].count), 1 << 15))
        samples = yield [partial(_sample, member, wanted / size) for member in members if member.tensor.size]
        _bracket(targets, np.concatenate(samples, axis=1), size)
        del samples  # here and below: what stays alive takes memory while the next pass runs
        if (excess := 4 * _held(targets, size) / MOST_HELD) > 2:
            share = min(targets[0].drawn * excess**2 / size, 2 / excess, 1 / _SPARSE)
            look = _Collect(targets)
            samples = yield [partial(look.sample, member, share) for member in members if member.tensor.size]
            look.narrow(samples, size)
            del samples
        while open_ones := [target for target in targets if target.value is None]:
            few = _held(open_ones, size) <= MOST_HELD
            look = _Collect(open_ones) if few else _Count(_countable(open_ones), size)
            results = yield [partial(look.range, m, number) for m in members for number in range(len(m.ranges))]
            look.finish(results)
            del results
    unsure = [target for target in targets if target.spare < target.ties and not target.all_ties]
    uncounted = [target for target in unsure if target.by_range is None]
    if uncounted:
        counts = yield [partial(_ties, m, number, uncounted) for m in members for number in range(len(m.ranges))]
        for t, target in enumerate(uncounted):
            target.by_range = [int(row[t]) for row in counts]
    _deal(members, targets, unsure)


def _held(targets: Sequence[Target], size: int) -> float:
    """Bytes of what is expected in the brackets."""
    return sum(target.inside for target in targets) * size * 4


def _countable(targets: Sequence[Target]) -> Sequence[Target]:
    """As many as there are counters for; one at least."""
    count = len(targets)
    while count * max(target.counters for target in targets[:count]) > MOST_COUNTED * COUNTERS:
        count -= 1
    return targets[:count]


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
        rows = _scratch.rows(len(member.codes), member.sources.itemsize)
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


def _stretches(member: Fused, share: float) -> Iterator[tuple[NumpyArray, int]]:
    """About this share of a tensor, in short stretches from all over it: rows of bytes with many of them, and elements."""
    number = math.ceil(share * member.tensor.size / _STRETCH)
    step, length = member.tensor.size / number, min(_STRETCH, member.tensor.size)
    places = np.random.default_rng(member.tensor.size).random(number)  # so that columns are not all the same
    starts = [min(int((i + place) * step), member.tensor.size - length) for i, place in enumerate(places)]
    inputs = len(member.codes)
    rows, most = _scratch.rows(inputs, member.sources.itemsize), block_length(inputs) // length
    for first in range(0, number, most):
        chosen = starts[first : first + most]
        for i in range(inputs):
            width = length * member.sources.dtypes[i].itemsize
            for place, start in enumerate(chosen):
                member.sources.read(i, start, length, rows[i][place * width :])
        yield rows, len(chosen) * length


def _sample(member: Fused, share: float) -> NumpyArray:
    """Magnitudes of about this share of a tensor."""
    return np.concatenate([_bits(member, rows, n) for rows, n in _stretches(member, share)], axis=1)


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
        target.drawn, target.spread = drawn, spread
        first, last = int(middle - spread), int(middle + spread)
        target.high = int(kernels.select(bits, first, room)[0]) if first >= 1 else _LARGEST
        low, beyond, ties = kernels.select(bits, last, room) if last <= drawn else (0, drawn, 0)
        target.low, target.inside = int(low), (int(beyond) + int(ties) - max(first - 1, 0)) / drawn


@dataclass
class Found:
    """What was found around thresholds.

    Attributes:
        above: Of each target how many values are beyond its bracket.
        filled: Of each how many are inside.
        values: These, one target after the other. In one piece, which leaves the fewest gaps in the memory.
        drawn: Of a sample, how many elements were looked at.
    """

    above: NumpyArray
    filled: NumpyArray
    values: NumpyArray
    drawn: int = 0

    @classmethod
    def of_parts(cls, above: NumpyArray, inside: Sequence[Sequence[NumpyArray]], drawn: int = 0) -> Found:
        """From parts of each target."""
        filled = np.array([sum(map(len, parts)) for parts in inside])
        return cls(above, filled, np.concatenate([part for parts in inside for part in parts]), drawn)

    def of(self, t: int) -> NumpyArray:
        """The values of a target."""
        start = int(self.filled[:t].sum())
        return self.values[start : start + int(self.filled[t])]


class _Collect:
    """A pass that brings together what lies in the brackets."""

    def __init__(self, targets: Sequence[Target]):
        self.targets = targets
        self._owner = np.array([target.model for target in targets])
        self._low = np.array([target.low for target in targets], np.uint32)
        self._high = np.array([target.high for target in targets], np.uint32)

    def range(self, member: Fused, number: int) -> Any:
        """What a range has."""
        above, inside, keep = self._nothing()
        member.scan(number, lambda raw, n, _keep, _at: self.look(member, raw, n, above, keep))
        return Found.of_parts(above, inside)

    def sample(self, member: Fused, share: float) -> Found:
        """What about this share of a tensor has."""
        (above, inside, keep), drawn = self._nothing(), 0
        for rows, n in _stretches(member, share):
            drawn += n
            if self.look(member, rows, n, above, keep):
                raise NotFiniteError(member)
        return Found.of_parts(above, inside, drawn)

    def _nothing(self) -> tuple[NumpyArray, list[list[NumpyArray]], Callable[[list[NumpyArray]], None]]:
        """Nothing beyond, nothing inside, and what adds to that."""
        inside: list[list[NumpyArray]] = [[] for _ in self.targets]

        def keep(near: list[NumpyArray]) -> None:
            for t, values in enumerate(inside):
                values.append(near[t].copy())

        return np.zeros(len(self.targets), np.int64), inside, keep

    def look(
        self, member: Fused, raw: NumpyArray, n: int, above: NumpyArray, take: Callable[[list[NumpyArray]], None]
    ) -> int:
        """Look at a block: `take` is handed what lies in the brackets. 1 if an input is not finite."""
        near, filled = _scratch.near(len(self.targets), n), np.zeros(len(self.targets), np.int64)
        odd = kernels.collect(
            raw, member.codes, n, member.count, self._owner, self._low, self._high, near, filled, above,
            _scratch.sizes(kernels.TILE), _scratch.tiles(member.count + 4, kernels.TILE),
        )  # fmt: skip
        take([row[:n] for row, n in zip(near, filled, strict=True)])
        return odd

    def narrow(self, samples: Sequence[Found], size: int) -> None:
        """Narrow the brackets by a larger sample, of which those inside were collected."""
        drawn = sum(found.drawn for found in samples)
        above = np.sum([found.above for found in samples], axis=0)
        for t, target in enumerate(self.targets):
            values = np.concatenate([found.of(t) for found in samples])
            room = np.empty_like(values)
            spread = target.spread * math.sqrt(drawn / target.drawn)
            middle = target.rank / size * drawn - int(above[t])
            first, last = int(middle - spread), int(middle + spread)
            if first >= 1 and last <= values.size:
                target.high = int(kernels.select(values, first, room)[0])
                low, beyond, ties = kernels.select(values, last, room)
                target.low, target.inside = int(low), (int(beyond) + int(ties) - first + 1) / drawn

    def finish(self, results: Sequence[Any]) -> None:
        """Find the values, and how many of each range equal them."""
        above = np.sum([found.above for found in results], axis=0)
        for t, target in enumerate(self.targets):
            parts = [found.of(t) for found in results]
            values = np.concatenate(parts)
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
        width = max(target.counters for target in self.targets)
        counts = self._tally.part(lambda: np.zeros((len(self.targets), width), self._dtype))
        above = np.zeros(len(self.targets), np.int64)

        def count(near: list[NumpyArray]) -> None:
            for t, target in enumerate(self.targets):
                kernels.scatter(near[t], np.uint32(target.low), np.uint32(target.shift), counts[t])

        member.scan(number, lambda raw, n, _keep, _at: self.look(member, raw, n, above, count))
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
