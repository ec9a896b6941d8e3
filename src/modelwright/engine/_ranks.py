"""Exact order statistics of task vectors in a few passes: a sample brackets each threshold, a count finds it.

Magnitudes are ranked by their float32 bit patterns, which sort like the values. The passes only count, so the result is
exact whatever the sample was; a bracket that missed is replaced and counted again. Entries that equal a threshold are kept
by lowest index, over the tensors in output order where ranks count over the whole model.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from modelwright.checkpoint import NumpyArray
from modelwright.engine._fused import Fused, Kept, NotFiniteError
from modelwright.engine._sources import Scratch, blocks
from modelwright.engine._work import Program
from modelwright.methods import Ranks
from modelwright.tensors import kernels

#: Up to this many elements are ranked at once in memory.
_SMALL = 1 << 17
#: Counters of one threshold.
_COUNTERS = 1 << 20
_LARGEST = 0x7F7FFFFF
_SEGMENT = 512
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
        low: Bits where the counters start.
        shift: How many low bits a counter ignores.
        width: Number of counters.
        value: The bits, once found.
        spare: How many of those that equal it are meant.
        ties: How many equal it.
    """

    model: int
    rank: int
    top: bool
    all_ties: bool
    low: int = 0
    shift: int = 0
    width: int = 0
    value: int | None = None
    spare: int = 0
    ties: int = 0

    def bracket(self, low: int, high: int) -> None:
        """Look between these bits, both included."""
        span = high - low + 1
        self.low, self.shift = low, max(0, math.ceil(math.log2(span / _COUNTERS)))
        self.width = -(-span >> self.shift)

    def narrow(self, counts: NumpyArray, above: int) -> None:
        """Take a count into account: the value is found, or the bracket is moved or made narrower."""
        if above >= self.rank:
            self.bracket(min(self.low + (self.width << self.shift), _LARGEST), _LARGEST)
            return
        bucket, before = kernels.find(counts, self.rank - above)
        if bucket < 0:
            self.bracket(0, max(self.low - 1, 0))
        elif self.shift:
            low = self.low + (bucket << self.shift)
            self.bracket(low, min(low + (1 << self.shift) - 1, _LARGEST))
        else:
            self.value = self.low + bucket
            self.ties = int(counts[bucket])
            self.spare = self.rank - above - before


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
        yield [partial(_rank_in_memory, members, targets)]
    else:
        samples = yield [partial(_sample, member, size) for member in members if member.tensor.size]
        _bracket(targets, np.concatenate(samples, axis=1), size)
        while open_ones := [target for target in targets if target.value is None]:
            counter = _Counter(members[0].count, open_ones, size)
            yield [partial(counter.count, m, number) for m in members for number in range(len(m.ranges))]
            counter.finish()
    unsure = [target for target in targets if target.spare < target.ties and not target.all_ties]
    counts = yield [partial(_ties, m, number, unsure) for m in members for number in range(len(m.ranges)) if unsure]
    _deal(members, targets, unsure, counts)


def _targets(keep: Sequence[Any], kept: Kept, size: int) -> list[Target]:
    targets: list[Target] = []
    for i, ranks in enumerate(keep):
        if isinstance(ranks, Ranks) and kept.mode[i] == kernels.RANKS:
            targets.append(Target(i, min(ranks.stop, size), top=False, all_ties=ranks.all_ties))
            if ranks.start > 0:
                targets.append(Target(i, ranks.start, top=True, all_ties=False))
    return targets


def _magnitudes(member: Fused, start: int, count: int) -> NumpyArray:
    """Of each model, the bits of |task vector| in a stretch of a tensor."""
    out = np.empty((member.count, count), np.uint32)
    rows = _scratch.rows(len(member.codes))
    for at, n in blocks(start, start + count):
        for i in range(len(member.codes)):
            member.sources.read(i, at, n, rows[i])
        part = out if n == count else np.empty((member.count, n), np.uint32)
        if kernels.magnitudes(
            rows, member.codes, n, member.count, part, _scratch.tiles(member.count + 4, kernels.TILE)
        ):
            raise NotFiniteError
        if part is not out:
            out[:, at - start : at - start + n] = part
    return out


def _rank_in_memory(members: Sequence[Fused], targets: Sequence[Target]) -> None:
    whole = [_magnitudes(member, 0, member.tensor.size) for member in members]
    for target in targets:
        bits = np.concatenate([part[target.model] for part in whole])
        target.value = int(np.partition(bits, bits.size - target.rank)[bits.size - target.rank])
        target.spare = target.rank - int(np.count_nonzero(bits > target.value))
        target.ties = int(np.count_nonzero(bits == target.value))


def _sample(member: Fused, size: int) -> NumpyArray:
    """Magnitudes of short stretches all over a tensor, in proportion to its share of the whole."""
    wanted = min(max(size // 64, 1 << 15), 1 << 18)
    number = math.ceil(wanted * member.tensor.size / size / _SEGMENT)
    step = member.tensor.size / number
    places = np.random.default_rng(member.tensor.size).random(number)  # so that columns are not all the same
    parts: list[NumpyArray] = []
    for i, place in enumerate(places):
        start = min(int((i + place) * step), max(member.tensor.size - _SEGMENT, 0))
        parts.append(_magnitudes(member, start, min(_SEGMENT, member.tensor.size - start)))
    return np.concatenate(parts, axis=1)


def _bracket(targets: Sequence[Target], sample: NumpyArray, size: int) -> None:
    """Bits between which each target most likely lies: six standard deviations of twice a fair sample's spread."""
    drawn = sample.shape[1]
    for target in targets:
        share = target.rank / size
        middle, spread = share * drawn, 12 * math.sqrt(drawn * share * (1 - share)) + 8
        first, last = int(middle - spread), int(middle + spread)
        places = [place for place in (drawn - 1 - first, drawn - 1 - last) if 0 <= place < drawn]
        ordered = np.partition(sample[target.model], places) if places else sample[target.model]
        high = int(ordered[drawn - 1 - first]) if first >= 0 else _LARGEST
        low = int(ordered[drawn - 1 - last]) if last < drawn else 0
        target.bracket(low, high)


class _Counter:
    """One pass that counts near the open targets; each thread adds to counters of its own."""

    def __init__(self, models: int, targets: Sequence[Target], size: int):
        self.targets = targets
        self._owner = np.array([target.model for target in targets])
        self._low = np.array([target.low for target in targets], np.uint32)
        self._shift = np.array([target.shift for target in targets], np.uint32)
        self._width = np.array([target.width for target in targets])
        self._models = models
        self._dtype = np.dtype(np.uint32 if size < 1 << 32 else np.uint64)
        self._own = threading.local()
        self._all: list[tuple[NumpyArray, NumpyArray]] = []

    def count(self, member: Fused, number: int) -> None:
        """Count a range."""
        if not hasattr(self._own, "counts"):
            self._own.counts = _zeroed(len(self.targets), self._dtype), np.zeros(len(self.targets), np.int64)
            self._all.append(self._own.counts)
        counts, above = self._own.counts
        tiles, sizes = _scratch.tiles(self._models + 4, kernels.TILE), np.empty(kernels.TILE, np.uint32)

        def block(raw: NumpyArray, n: int, _keep: Any, _at: int) -> int:
            return kernels.histogram(
                raw, member.codes, n, self._models, self._owner, self._low, self._shift, self._width, counts, above, sizes,
                tiles,
            )  # fmt: skip

        member.scan(number, block)

    def finish(self) -> None:
        """Add the threads' counts up, narrow the targets, and give the counters back."""
        (total, beyond), *others = self._all
        for counts, above in others:
            beyond += above
            for t, width in enumerate(self._width):
                total[t][:width] += counts[t][:width]
        for t, target in enumerate(self.targets):
            target.narrow(total[t][: target.width], int(beyond[t]))
        for counts, _ in self._all:
            for t, width in enumerate(self._width):
                counts[t][:width] = 0
            _spare.append(counts)


#: Counters that are zero and wait to be used again: making new ones costs more than counting.
_spare: list[NumpyArray] = []


def _zeroed(number: int, dtype: np.dtype[Any]) -> NumpyArray:
    try:
        found = _spare.pop()
    except IndexError:
        found = None
    if found is None or len(found) < number or found.dtype != dtype:
        found = np.zeros((number, _COUNTERS), dtype)
    return found


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


def _deal(
    members: Sequence[Fused], targets: Sequence[Target], unsure: Sequence[Target], counts: Sequence[NumpyArray]
) -> None:
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
                share = np.minimum(spare, counts[place])
                spare = spare - share
                for t, target in enumerate(unsure):
                    left[target.model, int(target.top)] = share[t]
            member.kept.left.append(left)
            place += 1
