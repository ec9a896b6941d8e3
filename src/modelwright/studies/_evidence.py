"""What a verdict rests on: scores by seed and item, intervals from them, and bounds that were stated beforehand."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from modelwright.errors import RunError
from modelwright.tensors import Array

Verdict = Literal["holds", "does not hold", "inconclusive"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Relation = Literal[">", ">=", "<", "<="]
_RELATIONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}

#: How parts come to one verdict; printed with every outcome.
RULE = (
    "A part holds if its whole interval is on the claimed side of its bound, does not hold if all of it is on the other "
    "side, and is inconclusive otherwise; so is a figure of a single seed that is made of no items, because it has no "
    "interval. The claim holds if there are deciding parts and every one holds, does not hold if one of them does not, "
    "and is inconclusive otherwise."
)
_DRAWS = 2000
_COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and the 95 % interval around it, or the range over seeds where nothing is sampled.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
        single: Whether it is one number of one seed: it has no interval, and both ends are the value.
    """

    value: float
    low: float
    high: float
    single: bool = False

    def __post_init__(self) -> None:
        if not np.isfinite([self.value, self.low, self.high]).all():
            raise RunError(f"a study came to a figure that is not finite: {self.value}, {self.low} to {self.high}")


@dataclass(frozen=True)
class Part:
    """One statement of a claim, and what was measured about it.

    Attributes:
        name: A short name, unique in the study.
        says: The statement in one line.
        interval: What was measured.
        relation: Where the figure should lie,
        bound: of this number, which stands in the study's file and not in its results.
        decides: Whether the verdict on the whole depends on it; otherwise it is only reported.
        unit: `%` for shares and differences of shares; empty for plain numbers.
    """

    name: str
    says: str
    interval: Interval
    relation: Relation
    bound: float
    decides: bool = True
    unit: str = "%"

    @property
    def verdict(self) -> Verdict:
        """By the interval's ends: both on the claimed side, both on the other, or neither; without one nothing is known."""
        if self.interval.single:
            return "inconclusive"
        claimed = _RELATIONS[self.relation]
        ends = [claimed(self.interval.low, self.bound), claimed(self.interval.high, self.bound)]
        return "holds" if all(ends) else "inconclusive" if any(ends) else "does not hold"


def whole_verdict(parts: Sequence[Part]) -> Verdict:
    """The verdict on a claim, from its deciding parts; see `RULE`."""
    found = [part.verdict for part in parts if part.decides]
    if "does not hold" in found:
        return "does not hold"
    return "holds" if found and all(verdict == "holds" for verdict in found) else "inconclusive"


#: From a quantity's name to its mean over items: an array with one value for each draw and seed.
Means = Callable[[Hashable], Array]


class Measured:
    """Scores of single items, by seed and quantity, and intervals of anything that is made of their means.

    Resampling is paired and in two stages: seeds are drawn with replacement, then in each of them items, and all
    quantities of a seed get the same items. An item is an image: its views in several tasks are drawn together.
    """

    def __init__(self) -> None:
        self._scores: dict[int, dict[Hashable, Array]] = {}
        self._drawn: list[tuple[Array, Array]] | None = None

    def add(self, seed: int, name: Hashable, scores: Array | Sequence[float] | float) -> None:
        """Keep one quantity's scores, shape (items,), in the order of the seed's items; a figure of a seed is one number."""
        values = np.atleast_1d(np.asarray(scores, dtype=np.float64))
        known = self._scores.setdefault(seed, {})
        lengths = {len(array) for array in known.values() if len(array) > 1} | ({len(values)} - {1})
        if len(lengths) > 1:
            raise ValueError(f"scores of seed {seed} must be of the same items, got {sorted(lengths)} of them")
        if name in known:
            raise ValueError(f"{name} was measured already for seed {seed}")
        known[name] = values
        self._drawn = None

    def interval(self, figure: Callable[[Means], Array]) -> Interval:
        """A figure and its 95 % interval by paired bootstrap.

        Args:
            figure: Makes the figure of the quantities' means, such as `lambda mean: mean("a") - mean("b")`. It is
                made for each seed and averaged over them.

        Returns:
            With one seed the interval is of drawing other items; a figure that is made of no items has none then.
        """
        sampled: set[bool] = set()
        value = float(np.mean([figure(self._of(seed, sampled)) for seed in self._scores]))
        if len(self._scores) == 1 and True not in sampled:
            return Interval(value, value, value, single=True)
        draws = np.zeros((_DRAWS, len(self._scores)))
        for (seed, scores), (places, weights) in zip(self._scores.items(), self._resampled(), strict=True):
            del seed
            draws[places] = figure(lambda name, s=scores, w=weights: _weighted(w, s[name]))
        outside = (1 - _COVERAGE) / 2
        low, high = np.quantile(draws.mean(axis=1), [outside, 1 - outside])
        return Interval(value, float(low), float(high))

    def range(self, figure: Callable[[Means], Array]) -> Interval:
        """A figure, its mean over seeds and its least and greatest value: for checks that must come out for every seed."""
        values = [float(figure(self._of(seed, set()))) for seed in self._scores]
        return Interval(float(np.mean(values)), min(values), max(values), single=len(values) == 1)

    def _of(self, seed: int, sampled: set[bool]) -> Means:
        """A seed's means; notes whether what was asked for is made of items."""

        def mean(name: Hashable) -> Array:
            scores = self._scores[seed][name]
            sampled.add(len(scores) > 1)
            return np.asarray(scores.mean())

        return mean

    def _resampled(self) -> list[tuple[Array, Array]]:
        """For each seed the places (draw, slot) it was drawn for, and how often its items count there."""
        if self._drawn is None:
            rng = np.random.default_rng(0)  # the same draws for every figure: intervals can be compared
            seeds = rng.integers(len(self._scores), size=(_DRAWS, len(self._scores)))
            self._drawn = []
            for i, scores in enumerate(self._scores.values()):
                places = seeds == i
                items = max(len(values) for values in scores.values())
                counts = rng.multinomial(items, np.full(items, 1 / items), size=int(places.sum()))
                self._drawn.append((places, counts / items))
        return self._drawn


def _weighted(weights: Array, scores: Array) -> Array:
    return np.full(len(weights), scores[0]) if len(scores) == 1 else weights @ scores
