"""Intervals by resampling items, paired tests, and what else it takes to compare figures honestly.

All systems of a task are judged by the same resamples of the same items, so that differences are paired. The samples
are keyed by seed and by the items' names: neither the order of the rows nor that of the systems changes a result, and
tasks that ask about the same items, such as the same images in two views, are resampled together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import xxhash

from modelwright.evaluate._metrics import Metric, Whole
from modelwright.evaluate._predictor import needs
from modelwright.evaluate._sums import Sums, names_of, products, sums_of, take

IntervalKind = Literal["bca", "percentile"]

#: Floats of one block of resamples: 32 MB.
_BLOCK = 4_000_000
#: Items with a difference up to which all ways to swap two systems are tried: 2**13 of them.
_EXACT = 13
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A figure and its interval; the ends are NaN where there is none to be had, such as for one item."""

    value: float
    low: float
    high: float


def names_for(ids: Sequence[str], targets: np.ndarray) -> list[str]:
    """What items are known by across tasks: their ids, taken at their word, unless these are bare numbers.

    Numbers are what items are called that nobody has named, and say of two tasks only that both have a third item. So
    items that are called by numbers are the same ones only where their targets are the same too.
    """
    if not all(name.isdecimal() for name in ids):
        return list(ids)
    return [f"{name}={target}" for name, target in zip(ids, targets, strict=True)]


def key_of(seed: int, names: Sequence[str], purpose: str) -> np.random.Generator:
    """The random numbers that belong to these items: the same for tasks whose items have the same `names_for`."""
    digest = xxhash.xxh3_64(f"{purpose}\n{seed}\n".encode())
    for name in names:
        digest.update(f"{len(name)}:{name}\n".encode())
    return np.random.default_rng([seed, digest.intdigest()])


def resampled(n: int, count: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of n items is in each of `count` samples of n with replacement: float64 blocks (b, n)."""
    size = max(1, _BLOCK // n)
    for start in range(0, count, size):
        rows = min(size, count - start)
        drawn = generator.integers(0, n, size=(rows, n), dtype=np.int64)
        drawn += np.arange(rows, dtype=np.int64)[:, None] * n
        yield np.bincount(drawn.reshape(-1), minlength=rows * n).reshape(rows, n).astype(np.float64)


def swapped(n: int, count: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Which of n items two systems swap, each with probability one half: blocks (b, n) of 0 and 1."""
    size = max(1, _BLOCK // n)
    for start in range(0, count, size):
        rows = min(size, count - start)
        packed = np.frombuffer(generator.bytes(rows * -(-n // 8)), dtype=np.uint8).reshape(rows, -1)
        yield np.unpackbits(packed, axis=1, count=n).astype(np.float64)


# --- bootstrap -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampled:
    """A figure with what resampling says of it. Differences, ratios and means of such figures are such figures.

    Attributes:
        value: The figure of all items.
        draws: Those of the resamples, (B,).
        influence: What each item adds to the figure, to first order, by the jackknife, (n,); None where that was not
            computed.
        trials: Of how many items it is a share, or the difference of two; None where it is none.
        lowest: 0 for a share, -1 for a difference of shares.
        key: Stands for the items: figures with the same key are resampled together.
    """

    value: float
    draws: np.ndarray
    influence: np.ndarray | None = None
    trials: int | None = None
    lowest: float = 0.0
    key: str = ""

    def __sub__(self, other: Sampled) -> Sampled:
        influence = None
        if self.influence is not None and other.influence is not None:
            influence = self.influence - other.influence
        trials = self.trials if self.trials == other.trials else None
        return Sampled(self.value - other.value, self.draws - other.draws, influence, trials, -1.0, self.key)

    def over(self, other: Sampled) -> Sampled:
        """The ratio of two figures; NaN where the other is not positive, because a share of it means nothing then."""
        if not other.value > 0:
            return Sampled(math.nan, np.full_like(self.draws, math.nan), key=self.key)
        value = self.value / other.value
        influence = None
        if self.influence is not None and other.influence is not None:
            influence = (self.influence - value * other.influence) / other.value
        draws = np.divide(self.draws, other.draws, out=np.full_like(self.draws, np.nan), where=other.draws > 0)
        return Sampled(value, draws, influence, key=self.key)

    def interval(self, level: float = 0.95, kind: IntervalKind = "bca") -> Interval:
        """The interval of the figure.

        Args:
            level: Its coverage, in (0, 1).
            kind: `percentile` takes quantiles of the resamples. `bca` corrects them for bias and for a spread that
                changes with the figure; it is percentile where no influence is known.

        Differs:
            1. A share of 0 or 1, or a difference between systems of which no item tells one from the other, has
               resamples that are all alike, and an interval of width 0 would be false. There it reaches as far as a
               share may go of which none of n items was seen: 1 - (alpha / 2)^(1 / n), the limit of Clopper and Pearson.
               For means over classes, such as macro F1, this is a rough guide: a rare class can move them further.

        Source:
            Efron 1987, Better Bootstrap Confidence Intervals; for several samples as in scipy.stats.bootstrap.
        """
        draws = self.draws[np.isfinite(self.draws)]
        if not draws.size or math.isnan(self.value):
            return Interval(self.value, math.nan, math.nan)
        alpha = 1 - level
        if np.ptp(draws) <= 1e-12 * max(1.0, abs(self.value)):
            if self.trials is None:
                return Interval(self.value, self.value, self.value)
            reach = 1 - (alpha / 2) ** (1 / self.trials)
            return Interval(self.value, max(self.lowest, self.value - reach), min(1.0, self.value + reach))
        ends = alpha / 2, 1 - alpha / 2
        if kind == "bca":
            ends = self._corrected(draws, *ends)
        low, high = np.quantile(draws, ends)
        return Interval(self.value, float(low), float(high))

    def _corrected(self, draws: np.ndarray, *ends: float) -> tuple[float, float]:
        below = float((np.mean(draws < self.value) + np.mean(draws <= self.value)) / 2)
        if self.influence is None or not 0 < below < 1:
            return ends[0], ends[1]
        bias = _NORMAL.inv_cdf(below)
        squares = float((self.influence**2).sum())
        skew = float((self.influence**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0

        def moved(end: float) -> float:
            z = bias + _NORMAL.inv_cdf(end)
            return _NORMAL.cdf(bias + z / (1 - skew * z))

        return moved(ends[0]), moved(ends[1])


def mean_of(figures: Sequence[Sampled]) -> Sampled:
    """The mean over tasks. Tasks are what they are; items are drawn within each, and together where tasks share them."""
    count = len(figures)
    trials = [figure.trials for figure in figures]
    influences: dict[str, np.ndarray] | None = {}
    for i, figure in enumerate(figures):
        if figure.influence is None or influences is None:
            influences = None
            continue
        key = figure.key or str(i)
        influences[key] = influences[key] + figure.influence if key in influences else figure.influence
    return Sampled(
        value=float(np.mean([figure.value for figure in figures])),
        draws=np.mean([figure.draws for figure in figures], axis=0),
        influence=None if influences is None else np.concatenate(list(influences.values())) / count,
        trials=None if None in trials else count * min(t for t in trials if t is not None),
        lowest=min(figure.lowest for figure in figures),
    )


def sample(metric: Metric, wholes: Sequence[Whole], ids: Sequence[str], *, seed: int, count: int) -> list[Sampled]:
    """The figures of several systems on the same items, with the same resamples of them.

    Args:
        metric: What is measured.
        wholes: One a system, with rows in the order of the ids.
        ids: Of the items.
        seed: Decides the resamples, together with the items' names.
        count: How many resamples.
    """
    names = names_of(metric, wholes)
    sums = [sums_of(metric, whole, names) for whole in wholes]
    parts: list[list[np.ndarray]] = [[] for _ in wholes]
    known = names_for(ids, wholes[0].targets)
    for counts in resampled(len(ids), count, key_of(seed, known, "resample")):
        found = iter(products(counts, [form.terms for form in sums if form is not None]))
        for part, form, whole in zip(parts, sums, wholes, strict=True):
            part.append(_of_rows(metric, whole, counts) if form is None else form.finish(next(found)))
    key = xxhash.xxh3_64_hexdigest("\n".join(known).encode())
    return [
        Sampled(
            value=metric.figure(whole),
            draws=np.concatenate(parts[i]) if len(ids) > 1 else np.full(count, math.nan),  # one item tells no spread
            influence=_influence(metric, whole, sums[i], count),
            trials=len(ids) if metric.bounded or is_share(metric, whole) else None,
            key=key,
        )
        for i, whole in enumerate(wholes)
    ]


def _of_rows(metric: Metric, whole: Whole, counts: np.ndarray) -> np.ndarray:
    """The slow way, for metrics that are no functions of sums."""
    rows = (np.repeat(np.arange(counts.shape[1]), row.astype(np.intp)) for row in counts)
    return np.array([metric.figure(take(whole, chosen)) for chosen in rows])


def is_share(metric: Metric, whole: Whole) -> bool:
    """Whether a figure is the share of items that a system got right: scores 0 or 1, with equal weights."""
    return metric.total is None and bool(np.isin(whole.scores, (0, 1)).all() and np.ptp(whole.weights) == 0)


def _influence(metric: Metric, whole: Whole, sums: Sums | None, most: int) -> np.ndarray | None:
    """(n - 1) / n times the mean of the leave-one-out figures less each of them; None where that would take too long."""
    n = len(whole.scores)
    if n < 2:
        return np.zeros(n)
    if sums is not None:
        total, size = sums.total(), max(1, _BLOCK // sums.terms.shape[1])
        starts = range(0, n, size)
        left_out = np.concatenate([sums.finish(total - _dense(sums.terms[i : i + size])) for i in starts])
    elif n <= most:
        left_out = np.array([metric.figure(take(whole, np.delete(np.arange(n), i))) for i in range(n)])
    else:
        return None
    return (n - 1) / n * (left_out.mean() - left_out) if np.isfinite(left_out).all() else None


def _dense(terms: Any) -> np.ndarray:
    return terms if isinstance(terms, np.ndarray) else terms.toarray()


# --- paired tests --------------------------------------------------------------------------------------------------


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p that two systems are right on equally many items.

    Args:
        first: 0 or 1 an item, (n,).
        second: Likewise, of the other system.

    Source:
        McNemar 1947, with the binomial distribution instead of chi-squared.
    """
    binom = needs("scipy.stats", "statistics").binom
    only_first, only_second = int(((first == 1) & (second == 0)).sum()), int(((first == 0) & (second == 1)).sum())
    apart = only_first + only_second
    return min(1.0, 2 * float(binom.cdf(min(only_first, only_second), apart, 0.5))) if apart else 1.0


@dataclass(frozen=True)
class Swaps:
    """What two systems' figures would be if whose answer is whose were decided by tossing a coin for each item.

    Attributes:
        first: The figures of the first, (B,).
        second: Those of the second.
        complete: Whether these are all the ways to swap them, and not a sample.
    """

    first: np.ndarray
    second: np.ndarray
    complete: bool = False


def swap(
    metric: Metric, pairs: Sequence[tuple[Whole, Whole]], ids: Sequence[str], *, seed: int, count: int
) -> list[Swaps]:
    """Each pair of systems with their answers swapped on items drawn at random; for means this flips signs of differences.

    Args:
        metric: What is measured.
        pairs: Systems with rows in the order of the ids.
        ids: Of the items.
        seed: Decides the swaps, together with the items' names.
        count: How many; a metric that is no function of sums gets a tenth of them.
    """
    names = names_of(metric, [whole for pair in pairs for whole in pair])
    forms = [tuple(sums_of(metric, whole, names) for whole in pair) for pair in pairs]
    slow = any(None in form for form in forms)
    apart = [None if None in form else form[1].terms - form[0].terms for form in forms]  # type: ignore[union-attr]
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in pairs]
    known = key_of(seed, names_for(ids, pairs[0][0].targets), "swap")
    for masks in swapped(len(ids), -(-count // 10) if slow else count, known):
        moved = iter(products(masks, [terms for terms in apart if terms is not None]))
        for part, pair, form in zip(found, pairs, forms, strict=True):
            part.append(_swap_whole(metric, pair, masks) if None in form else _swap_sums(form, next(moved)))
    return [Swaps(np.concatenate([a for a, _ in part]), np.concatenate([b for _, b in part])) for part in found]


def _swap_sums(form: Any, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = form
    return first.finish(first.total() + moved), second.finish(second.total() - moved)


def _swap_whole(metric: Metric, pair: tuple[Whole, Whole], masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def mixed(a: Whole, b: Whole, mask: np.ndarray) -> float:
        both = {
            name: np.where(mask, getattr(b, name), getattr(a, name))
            for name in ("answers", "targets", "scores", "weights")
        }
        probabilities = None
        if a.probabilities is not None and b.probabilities is not None:
            probabilities = np.where(mask[:, None], b.probabilities, a.probabilities)
        return metric.figure(Whole(**both, probabilities=probabilities, classes=a.classes))

    first, second = pair
    chosen = masks.astype(bool)
    return (
        np.array([mixed(first, second, mask) for mask in chosen]),
        np.array([mixed(second, first, mask) for mask in chosen]),
    )


def swap_all(metric: Metric, pair: tuple[Whole, Whole]) -> Swaps | None:
    """All ways to swap two systems' answers; None where more than a dozen items differ."""
    first, second = (sums_of(metric, whole, names_of(metric, pair)) for whole in pair)
    if first is None or second is None:
        return None
    apart = _dense(second.terms - first.terms)
    apart = apart[(apart != 0).any(axis=1)]
    if len(apart) > _EXACT:
        return None
    ways = np.arange(2 ** len(apart))[:, None] >> np.arange(len(apart)) & 1
    moved = ways.astype(np.float64) @ apart
    return Swaps(first.finish(first.total() + moved), second.finish(second.total() - moved), complete=True)


def p_value(observed: float, null: np.ndarray, *, complete: bool = False) -> float:
    """Two-sided p of a difference among those of swapped systems.

    Args:
        observed: The difference.
        null: Those of swapped systems, (B,).
        complete: Whether these are all there are; among a sample the observed one counts as one more (Phipson and Smyth 2010).
    """
    null = null[np.isfinite(null)]
    if not math.isfinite(observed) or not null.size:
        return math.nan
    least = abs(observed) - 1e-12 * max(1.0, float(np.abs(null).max()))  # sums in another order differ in the last bits
    as_far = int((np.abs(null) >= least).sum())
    return as_far / null.size if complete else (1 + as_far) / (1 + null.size)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values for being several, so that one false alarm among all is as rare as asked for.

    Args:
        values: In [0, 1]; NaN stands for no test, and stays.

    Source:
        Holm 1979.
    """
    p = np.asarray(values, dtype=np.float64)
    order = [i for i in np.argsort(p, kind="stable") if not math.isnan(p[i])]
    adjusted = np.full(len(p), math.nan)
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, float(p[i]) * (len(order) - rank)))
        adjusted[i] = worst
    return adjusted.tolist()


def pareto(costs: np.ndarray) -> np.ndarray:
    """Which of n things no other beats: none is at least as good in everything and better in something.

    Args:
        costs: (n, d), the less the better. A thing with NaN is not among them.

    Returns:
        Booleans, (n,).
    """
    costs = np.asarray(costs, dtype=np.float64)
    known = ~np.isnan(costs).any(axis=1)
    beaten = [bool(((costs[known] <= cost).all(axis=1) & (costs[known] < cost).any(axis=1)).any()) for cost in costs]
    return known & ~np.array(beaten, dtype=bool)
