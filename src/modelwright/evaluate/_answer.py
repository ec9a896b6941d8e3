"""One honest sentence: best single, merge, or ensemble?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from modelwright.errors import listing
from modelwright.evaluate._comparison import Answer, Mean, Verdict
from modelwright.evaluate._judged import Judged
from modelwright.evaluate._kinds import SystemKind
from modelwright.evaluate._metrics import Metric
from modelwright.evaluate._statistics import Interval, IntervalKind, holm

_ASKED: tuple[SystemKind, ...] = ("single", "merge", "ensemble")
#: From which ratio on a cost is worth a word; seconds differ from run to run.
_APART = {"memory": 1.05, "money": 1.05, "time": 1.5}
_PLURAL = {"single": "singles", "merge": "merges", "ensemble": "ensembles"}


@dataclass(frozen=True)
class _Lead:
    """How far one system is ahead of another; positive is better."""

    interval: Interval
    p: float
    clear: bool


def answer(
    judged: Judged, kinds: Mapping[str, SystemKind], means: Sequence[Mean], level: float, interval: IntervalKind
) -> Answer:
    """Compare the best of each kind with each other, and say what these items tell.

    One is called better only where the paired test says so after Holm's correction and the interval of the difference
    leaves out 0.
    """
    ours = {kind: [s for s in kinds if kinds[s] == kind and judged.quality(s) is not None] for kind in _ASKED}
    best: dict[SystemKind, str] = {kind: name for kind in _ASKED if (name := judged.best(ours[kind])) is not None}
    words = _Words(judged, kinds, {kind: len(ours[kind]) for kind in _ASKED}, {mean.system: mean for mean in means})
    if len(best) < 2:
        return _unasked(judged, kinds, best, words)
    order = sorted(best.values(), key=lambda name: -judged.sign * _value(judged, name))
    leads = _leads(judged, order, level, interval)
    top = order[0]
    close = [name for name in order[1:] if not leads[top, name].clear]
    if close:
        return Answer("too close to call", top, words.close(top, close, order, leads))
    verdict: Verdict = next(kind for kind in ("single", "merge", "ensemble") if best.get(kind) == top)
    return Answer(verdict, top, words.clear(top, order[1:], leads))


def _value(judged: Judged, name: str) -> float:
    found = judged.quality(name)
    assert found is not None
    return found.value


def _leads(judged: Judged, order: Sequence[str], level: float, kind: IntervalKind) -> dict[tuple[str, str], _Lead]:
    pairs = list(combinations(order, 2))
    leads: dict[tuple[str, str], _Lead] = {}
    for pair, p in zip(pairs, holm(judged.p(pairs)), strict=True):
        first, second = (judged.quality(name) for name in pair)
        assert first is not None
        assert second is not None
        found = (first - second if judged.sign > 0 else second - first).interval(level, kind)
        leads[pair] = _Lead(found, p, p < 1 - level and found.low > 0)
    return leads


def _unasked(judged: Judged, kinds: Mapping[str, SystemKind], best: Mapping[SystemKind, str], words: _Words) -> Answer:
    top = judged.best(list(kinds))
    if top is None:
        text = (
            "There is no one figure over these tasks: they have different metrics and no experts to measure by, or no "
            "system answered all of them; see the rows."
        )
        return Answer("not asked", "", text)
    if not best:
        text = f"No system is known to be a single model, a merge or an ensemble; {words.best(top)} is the best of {len(kinds)}."
        return Answer("not asked", top, text if len(kinds) > 1 else f"Only {words.best(top)} was asked.")
    (kind, name), *_ = best.items()
    text = f"Only {_PLURAL[kind]} were compared; {words.best(name)} is the best of {words.counts[kind]}"
    if words.counts[kind] == 1:
        text = f"Only one {kind} was compared, {words.best(name)}"
    ahead = top != name and _value(judged, top) != _value(judged, name)
    other = f"; {words.best(top)}, of the kind {kinds[top]}, has the better figure" if ahead else ""
    return Answer("not asked", name, f"{text}{other}.")


@dataclass(frozen=True)
class _Words:
    judged: Judged
    kinds: Mapping[str, SystemKind]
    counts: Mapping[SystemKind, int]
    means: Mapping[str, Mean]

    @property
    def _percent(self) -> bool:
        metric: Metric | None = self.judged.metric
        return metric is None or metric.bounded

    def _figure(self, value: float) -> str:
        text = f"{100 * value:.1f} %" if self._percent else f"{value:.4g}"
        return text if self.judged.metric is not None else f"{text} of the experts' figures"

    def best(self, name: str) -> str:
        """`'ties' with 83.1 % (82.0 to 84.2)`."""
        found = self.means[name].quality()
        assert found is not None
        return f"'{name}' with {self._figure(found.value)} ({self._range(found)})"

    def _range(self, found: Interval) -> str:
        if math.isnan(found.low):
            return "no interval"
        scale, digits = (100, ".1f") if self._percent else (1, ".3g")
        return f"{scale * found.low:{digits}} to {scale * found.high:{digits}}".replace("-", "\N{MINUS SIGN}")

    def _lead(self, lead: _Lead) -> str:
        value = lead.interval.value
        text = f"{100 * value:.1f} points" if self._percent else f"{value:.3g}"
        p = ", no test" if math.isnan(lead.p) else ", p < 0.001" if lead.p < 0.001 else f", p = {lead.p:.2g}"
        return f"{text} ({self._range(lead.interval)}{p})"

    def name(self, name: str) -> str:
        """`the merge 'ties'`."""
        kind = self.kinds[name]
        noun = "single model" if kind == "single" else kind
        return f"the {noun} '{name}'"

    def _items(self) -> str:
        items = sum(len(task.ids) for task in self.judged.tasks)
        tasks = len(self.judged.tasks)
        return ("on this one item" if items == 1 else f"on these {items:,} items") + (
            f" of {tasks} tasks" if tasks > 1 else ""
        )

    def clear(self, top: str, others: Sequence[str], leads: Mapping[tuple[str, str], _Lead]) -> str:
        """One is better than the others."""
        found = self.means[top].quality()
        assert found is not None
        ahead = " and ".join(f"{self._lead(leads[top, other])} better than {self.name(other)}" for other in others)
        kind = "best single model" if self.kinds[top] == "single" else self.kinds[top]
        text = f"The {kind}: '{top}' gets {self._figure(found.value)} {self._items()}, {ahead}"
        return f"{text}{self._price(top, others)}."

    def close(
        self, top: str, close: Sequence[str], order: Sequence[str], leads: Mapping[tuple[str, str], _Lead]
    ) -> str:
        """These items do not tell."""
        found = self.means[top].quality()
        assert found is not None
        ahead = " and ".join(f"{self._lead(leads[top, other])} better than {self.name(other)}" for other in close)
        text = (
            f"Too close to call {self._items()}: {self.name(top)} has the best figure, {self._figure(found.value)}, but is "
            f"only {ahead}"
        )
        cheap = self._cheapest([top, *close])
        text += f"; {cheap}" if cheap else ""
        beaten = [other for other in order[1:] if other not in close]
        if beaten:
            text += f"; {listing([self.name(other) for other in beaten])} is behind {self.name(top)}"
        return f"{text}."

    def _price(self, top: str, others: Sequence[str]) -> str:
        """What the winner costs more than the cheapest of the others, where it does."""
        for what, costs in self._costs([top, *others]):
            cheapest = min(others, key=lambda name: costs[name])
            if costs[top] > _APART[what] * costs[cheapest]:
                return f", at {costs[top] / costs[cheapest]:.1f} times the {what} of {self.name(cheapest)}"
        return ""

    def _cheapest(self, names: Sequence[str]) -> str:
        for what, costs in self._costs(names):
            order = sorted(names, key=lambda name: costs[name])
            if costs[order[-1]] > _APART[what] * costs[order[0]]:
                share = f"{costs[order[0]] / costs[order[-1]]:.2g}"
                return f"{self.name(order[0])} takes {share} times the {what} of {self.name(order[-1])}"
        return ""

    def _costs(self, names: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
        """Costs that are known of all and can be told apart: memory first, because it does not hang on the day."""
        found = {name: self.means[name].cost for name in names}
        kinds = {
            "memory": {name: cost.nbytes for name, cost in found.items()},
            "money": {name: cost.money_per_item for name, cost in found.items()},
            "time": {name: cost.seconds_per_item for name, cost in found.items()},
        }
        return [
            (what, {name: float(value) for name, value in costs.items() if value})
            for what, costs in kinds.items()
            if all(costs.values())
        ]
