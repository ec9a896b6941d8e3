"""Whether methods stand in the order that the literature leads to expect, with paired intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np

from modelwright.evaluate import Metric, Part
from modelwright.suites._search import relative

#: From best to worst; those of one rank are not compared with each other. What a sweep has not got is passed over.
EXPECTED = (
    ("experts",),
    ("regmean", "adamerging", "wudi"),
    ("ties", "task_arithmetic"),
    ("fisher",),
    ("linear",),
    ("base",),
)
RESAMPLES = 1000
_LEVEL = 0.95
Verdict = Literal["as expected", "cannot be told", "the other way round"]


class Board(Protocol):
    """Where records are had from."""

    tasks: list[str]

    @property
    def labels(self) -> list[str]:
        """The systems."""
        ...

    def part(self, label: str, seed: int, task: str) -> Part:
        """A system's records."""
        ...

    def seeds(self, label: str) -> tuple[int, ...]:
        """The seeds that a system has results of."""
        ...

    def metric(self, task: str) -> Metric:
        """The metric of a task."""
        ...


@dataclass(frozen=True)
class Comparison:
    """Two systems, of which the first is expected to be the better one.

    Attributes:
        better: The one that is expected to be better.
        worse: The other.
        difference: Of their mean shares of what the experts reach, over tasks and seeds; NaN where there is none.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        verdict: `cannot be told` where the interval holds 0, or where more than half of the resamples have no difference.
        undefined: Resamples without a difference, because in them an expert has no figure above 0; they are left out.
    """

    better: str
    worse: str
    difference: float
    low: float
    high: float
    verdict: Verdict
    undefined: int = 0


def compare_orders(board: Board) -> list[Comparison]:
    """Every system of a rank against every one of the next rank that is there."""
    there = {*board.labels, "experts"}
    ranks = [[label for label in rank if label in there] for rank in EXPECTED]
    ranks = [rank for rank in ranks if rank]
    return [_compared(board, better, worse) for above, below in pairwise(ranks) for better in above for worse in below]


def _compared(board: Board, better: str, worse: str) -> Comparison:
    seeds = [seed for seed in board.seeds(better) if seed in board.seeds(worse)]
    found = [_task_differences(board, better, worse, task, seeds) for task in board.tasks]
    with np.errstate(invalid="ignore"):
        point, *draws = _over_tasks_and_seeds(np.array(found))
    known = [draw for draw in draws if np.isfinite(draw)]
    undefined = len(draws) - len(known)
    if not np.isfinite(point) or undefined > len(draws) / 2:
        return Comparison(better, worse, float(point), np.nan, np.nan, "cannot be told", undefined)
    low, high = np.quantile(known, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    verdict = "as expected" if low > 0 else "the other way round" if high < 0 else "cannot be told"
    return Comparison(better, worse, float(point), float(low), float(high), verdict, undefined)


def _over_tasks_and_seeds(differences: np.ndarray) -> np.ndarray:
    """Means (1 + RESAMPLES,) of differences (tasks, seeds, 1 + RESAMPLES), as in the table: of each seed over its tasks first.

    A task without shares in a seed, because its expert has no figure above 0, is left out of that seed, as in the table.
    """
    by_seed = [own[~np.isnan(own[:, 0])] for own in np.moveaxis(differences, 1, 0)]
    if not by_seed or any(not len(own) for own in by_seed):
        return np.full(differences.shape[2], np.nan)
    return np.mean([own.mean(axis=0) for own in by_seed], axis=0)


def _task_differences(board: Board, better: str, worse: str, task: str, seeds: Sequence[int]) -> np.ndarray:
    """The difference of shares on a task in each seed, and the same for resampled items, float64 (seeds, 1 + RESAMPLES).

    Items are drawn with replacement once for all systems and seeds, so that what they have in common cancels out. Seeds
    are not resampled: there are too few, and their spread stands in the table.
    """
    measured = board.metric(task)
    names = ("experts", better, worse)
    parts = {seed: [board.part(name, seed, task) for name in names] for seed in seeds}
    ids = sorted({item for some in parts.values() for item in some[0].ids})
    place = {item: i for i, item in enumerate(ids)}
    counts = np.random.default_rng(0).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=RESAMPLES)
    found = np.empty((len(seeds), 1 + RESAMPLES))
    for own, some in zip(found, parts.values(), strict=True):
        mine = counts[:, [place[item] for item in some[0].ids]]
        own[0] = _difference(np.array([part.figure for part in some]), measured)
        own[1:] = _difference(np.stack([_resampled(part, mine) for part in some]), measured)
    return found


def _difference(figures: np.ndarray, measured: Metric) -> np.ndarray:
    """Of figures (3, ..) of the expert and the two, how much larger the share of the first of the two is; NaN without shares."""
    expert, better, worse = figures
    return relative(better, expert, measured) - relative(worse, expert, measured)


def _resampled(part: Part, counts: np.ndarray) -> np.ndarray:
    """The figure for each row of counts (RESAMPLES, n), which say how often an item was drawn."""
    measured = part.metric
    if measured.total is None:
        weights = counts * part.column("weight")
        return weights @ part.column("score") / weights.sum(axis=1)
    positions = np.arange(counts.shape[1])
    return np.array([Part(part.head, part.table.take(np.repeat(positions, row))).figure for row in counts])
