"""Records turned into resampled figures and tests; everything that is computed once and looked at in several ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from modelwright.errors import InputError
from modelwright.evaluate._metrics import Metric, Whole, metric
from modelwright.evaluate._records import Part, Records
from modelwright.evaluate._statistics import Sampled, Swaps, is_share, mcnemar, mean_of, p_value, sample, swap, swap_all

#: Swaps of a test by sampling: p values down to 1 in 10,000.
SWAPS = 10_000

Pair = tuple[str, str]


@dataclass
class JudgedTask:
    """The systems of one task on the same items, in the order of the items' ids.

    Attributes:
        name: The task's name.
        parts: Records by system.
        ids: Of the items, sorted, so that the order in files does not matter.
        expert: The task's expert.
        seed: Of resamples and swaps.
        resamples: How many.
    """

    name: str
    parts: Mapping[str, Part]
    ids: tuple[str, ...]
    expert: str | None
    seed: int
    resamples: int
    _swaps: dict[Pair, Swaps] = field(default_factory=dict)

    @staticmethod
    def of(records: Records, task: str, expert: str | None, seed: int, resamples: int) -> JudgedTask:
        """The records of a task."""
        parts = records.on(task)
        ids = tuple(sorted(parts[0].ids))
        judged = JudgedTask(task, {p.head.system: p.ordered(ids) for p in parts}, ids, expert, seed, resamples)
        if judged.metric.name == "perplexity":
            judged._check_tokens()
        return judged

    def _check_tokens(self) -> None:
        """Perplexities are per token: refuse those of texts that were cut in other tokens."""
        (first, mine), *others = self.wholes.items()
        for other, theirs in others:
            if not np.array_equal(mine.weights, theirs.weights):
                raise InputError(
                    f"'{first}' and '{other}' count different tokens in the same texts, so their perplexities do not compare",
                    "Evaluate both with --metric bits_per_byte.",
                    f"task {self.name}",
                )

    @property
    def metric(self) -> Metric:
        """What was measured."""
        return metric(next(iter(self.parts.values())).head.metric)

    @cached_property
    def wholes(self) -> dict[str, Whole]:
        """The columns by system."""
        return {system: part.whole for system, part in self.parts.items()}

    @cached_property
    def figures(self) -> dict[str, Sampled]:
        """Figures with their resamples, by system."""
        wholes = list(self.wholes.values())
        found = sample(self.metric, wholes, self.ids, seed=self.seed, count=self.resamples)
        return dict(zip(self.wholes, found, strict=True))

    def normalised(self, system: str) -> Sampled | None:
        """The figure as a share of the expert's; turned round where lower is better. None without an expert."""
        if self.expert is None:
            return None
        own, expert = self.figures[system], self.figures[self.expert]
        found = own.over(expert) if self.metric.higher_is_better else expert.over(own)
        return None if math.isnan(found.value) else found

    def _normalise(self, figures: np.ndarray) -> np.ndarray:
        expert = self.figures[self.expert or ""].value
        return figures / expert if self.metric.higher_is_better else expert / figures

    def prepare(self, pairs: Sequence[Pair]) -> None:
        """Swap the systems of these pairs, all with the same masks."""
        wanted = [pair for pair in pairs if pair not in self._swaps]
        if wanted:
            wholes = [(self.wholes[a], self.wholes[b]) for a, b in wanted]
            found = swap(self.metric, wholes, self.ids, seed=self.seed, count=SWAPS)
            self._swaps.update(zip(wanted, found, strict=True))

    def p(self, pair: Pair) -> float:
        """The paired test of two systems: McNemar's where answers are right or wrong, else by swapping answers."""
        first, second = (self.wholes[system] for system in pair)
        if is_share(self.metric, first) and is_share(self.metric, second):
            return mcnemar(first.scores, second.scores)
        if len(self.ids) < 2:
            return math.nan
        swaps = swap_all(self.metric, (first, second))
        if swaps is None:
            self.prepare([pair])
            swaps = self._swaps[pair]
        observed = self.figures[pair[0]].value - self.figures[pair[1]].value
        return p_value(observed, swaps.first - swaps.second, complete=swaps.complete)

    def null(self, pair: Pair, normalised: bool) -> np.ndarray:
        """Differences of the two when their answers are swapped at random, after `prepare`."""
        swaps = self._swaps[pair]
        if not normalised:
            return swaps.first - swaps.second
        return self._normalise(swaps.first) - self._normalise(swaps.second)


@dataclass
class Judged:
    """All tasks, and what systems come to over them.

    Attributes:
        tasks: At least one.
    """

    tasks: Sequence[JudgedTask]

    @property
    def metric(self) -> Metric | None:
        """The metric, where all tasks have the same."""
        names = {task.metric.name for task in self.tasks}
        return self.tasks[0].metric if len(names) == 1 else None

    def complete(self, system: str) -> bool:
        """Whether it answered every task."""
        return all(system in task.parts for task in self.tasks)

    def mean(self, system: str) -> Sampled | None:
        """The mean figure; None where metrics differ or a task is missing."""
        if self.metric is None or not self.complete(system):
            return None
        return mean_of([task.figures[system] for task in self.tasks])

    def normalised(self, system: str) -> Sampled | None:
        """The mean normalised figure; None where a task has no expert or is missing."""
        if not self.complete(system):
            return None
        found = [task.normalised(system) for task in self.tasks]
        known = [figure for figure in found if figure is not None]
        return mean_of(known) if len(known) == len(found) else None

    def quality(self, system: str) -> Sampled | None:
        """What systems are compared by: the mean figure, or where metrics differ the normalised one."""
        return self.mean(system) if self.metric is not None else self.normalised(system)

    @property
    def sign(self) -> int:
        """1 where more quality is better, else -1."""
        return 1 if self.metric is None or self.metric.higher_is_better else -1

    def best(self, systems: Sequence[str]) -> str | None:
        """The one with the best quality, the first of equal ones; None where none has any."""
        known = {system: self.quality(system) for system in systems}
        values = {
            system: self.sign * found.value
            for system, found in known.items()
            if found is not None and not math.isnan(found.value)  # of a constant output, a correlation is none
        }
        return max(values, key=lambda system: values[system]) if values else None

    def p(self, pairs: Sequence[Pair]) -> list[float]:
        """The paired test of each two systems over all tasks; items are swapped within tasks."""
        if len(self.tasks) == 1:
            return [self.tasks[0].p(pair) for pair in pairs]
        for task in self.tasks:
            task.prepare(pairs)
        return [self._p(pair) for pair in pairs]

    def _p(self, pair: Pair) -> float:
        first, second = (self.quality(system) for system in pair)
        if first is None or second is None:
            return math.nan
        nulls = [task.null(pair, self.metric is None) for task in self.tasks]
        least = min(len(null) for null in nulls)
        return p_value(first.value - second.value, np.mean([null[:least] for null in nulls], axis=0))
