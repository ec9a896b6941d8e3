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
        difference: Of their mean shares of what the experts reach, over tasks and seeds.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        verdict: `cannot be told` where the interval holds 0.
    """

    better: str
    worse: str
    difference: float
    low: float
    high: float
    verdict: Verdict


def compare_orders(board: Board) -> list[Comparison]:
    """Every system of a rank against every one of the next rank that is there."""
    there = {*board.labels, "experts"}
    ranks = [[label for label in rank if label in there] for rank in EXPECTED]
    ranks = [rank for rank in ranks if rank]
    return [_compared(board, better, worse) for above, below in pairwise(ranks) for better in above for worse in below]


def _compared(board: Board, better: str, worse: str) -> Comparison:
    seeds = [seed for seed in board.seeds(better) if seed in board.seeds(worse)]
    point = 0.0
    draws = np.zeros(RESAMPLES)
    for task in board.tasks:
        a, b = _task_difference(board, better, worse, task, seeds)
        point += a / len(board.tasks)
        draws += b / len(board.tasks)
    low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    verdict = "as expected" if low > 0 else "the other way round" if high < 0 else "cannot be told"
    return Comparison(better, worse, point, float(low), float(high), verdict)


def _task_difference(
    board: Board, better: str, worse: str, task: str, seeds: Sequence[int]
) -> tuple[float, np.ndarray]:
    """The difference of shares on a task, mean over seeds, and the same for resampled items, float64 (RESAMPLES,).

    Items are drawn with replacement once for all systems and seeds, so that what they have in common cancels out. Seeds
    are not resampled: there are too few, and their spread stands in the table.
    """
    measured = board.metric(task)
    names = ("experts", better, worse)
    parts = {seed: [board.part(name, seed, task) for name in names] for seed in seeds}
    ids = sorted({item for some in parts.values() for item in some[0].ids})
    place = {item: i for i, item in enumerate(ids)}
    rng = np.random.default_rng(0)
    points: list[np.ndarray] = []
    draws: list[np.ndarray] = []
    counts = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=RESAMPLES)
    for some in parts.values():
        mine = counts[:, [place[item] for item in some[0].ids]]
        figures = np.stack([_resampled(part, mine) for part in some])
        points.append(_difference(np.array([part.figure for part in some]), measured))
        draws.append(_difference(figures, measured))
    return float(np.mean(points)), np.mean(draws, axis=0)


def _difference(figures: np.ndarray, measured: Metric) -> np.ndarray:
    """Of figures (3, ..) of the expert and the two, how much larger the share of the first of the two is."""
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
