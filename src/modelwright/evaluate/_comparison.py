"""What a comparison found, and its forms for programs and papers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate._calibration import Calibration
from modelwright.evaluate._kinds import Cost, SystemKind
from modelwright.evaluate._metrics import Metric, metric
from modelwright.evaluate._statistics import Interval, IntervalKind
from modelwright.predictions.measures import Convention, Flips

JSON_VERSION = 1
#: What quality is weighed against: bytes of weights, seconds an item, money an item.
Against = Literal["memory", "time", "money"]
_ORDER: tuple[SystemKind, ...] = ("base", "single", "merge", "ensemble", "other")
Verdict = Literal["single", "merge", "ensemble", "too close to call", "not asked"]


@dataclass(frozen=True)
class Row:
    """One system on one task.

    Attributes:
        task: The task's name.
        system: The system's label.
        kind: What kind of system it is.
        metric: The metric's name.
        figure: The figure, with its interval.
        normalised: Divided by the figure of the task's expert, so that 1 is the expert and more is better (where lower
            figures are better, the expert's divided by it); None without an expert.
        difference: The figure minus the reference's, paired; None for the reference itself, or where it has no records.
        p: Of the paired test that there is no difference; NaN where there is none.
        p_adjusted: The same, adjusted by Holm's method for all rows.
        flips: What the reference has right and this system has not; None unless scores are right or wrong.
        calibration: None without confidences.
        cost: What it cost.
    """

    task: str
    system: str
    kind: SystemKind
    metric: str
    figure: Interval
    normalised: Interval | None
    difference: Interval | None
    p: float
    p_adjusted: float
    flips: Flips | None
    calibration: Calibration | None
    cost: Cost


@dataclass(frozen=True)
class Mean:
    """One system over all tasks.

    Attributes:
        system: The system's label.
        kind: What kind of system it is.
        figure: Mean figure; None where tasks have different metrics, or it did not answer all.
        normalised: Mean of the normalised figures; None where a task has no expert.
        difference: The mean figure minus the reference's; of normalised figures where metrics differ.
        p: Of the paired test that there is no difference.
        p_adjusted: The same, adjusted by Holm's method for all systems.
        cost: On all tasks together.
        front: Against which costs no other system is at least as good and as cheap, and better in one.
    """

    system: str
    kind: SystemKind
    figure: Interval | None
    normalised: Interval | None
    difference: Interval | None
    p: float
    p_adjusted: float
    cost: Cost
    front: tuple[Against, ...] = ()

    def quality(self) -> Interval | None:
        """The figure that systems are compared by."""
        return self.figure or self.normalised

    def money_per_right(self, unit: Metric | None) -> float | None:
        """What a right answer costs; None where that is unknown, or where answers are not right or wrong.

        Args:
            unit: The metric that the figure is of, if that is one.
        """
        money, figure = self.cost.money_per_item, self.figure
        if money is None or figure is None or unit is None or not unit.flips or figure.value <= 0:
            return None
        return money / figure.value


@dataclass(frozen=True)
class Answer:
    """The answer to "best single, merge, or ensemble?".

    Attributes:
        verdict: Which, or that these items do not tell.
        system: The system with the best figure.
        sentence: In words, with figures.
    """

    verdict: Verdict
    system: str
    sentence: str


@dataclass(frozen=True, repr=False)
class Comparison:
    """Systems side by side.

    Attributes:
        tasks: In the order of the records.
        systems: Likewise.
        kinds: By system.
        reference: What the others are compared with.
        experts: The expert of each task that has one.
        rows: One a system and task.
        means: One a system, over the tasks.
        answer: The sentence.
        notes: What else a reader should know.
        level: Coverage of the intervals.
        seed: Of resamples and swaps.
        resamples: How many.
        interval: Of which kind.
        convention: Of the calibration errors.
    """

    tasks: tuple[str, ...]
    systems: tuple[str, ...]
    kinds: Mapping[str, SystemKind]
    reference: str
    experts: Mapping[str, str]
    rows: tuple[Row, ...]
    means: tuple[Mean, ...]
    answer: Answer
    notes: tuple[str, ...]
    level: float
    seed: int
    resamples: int
    interval: IntervalKind
    convention: Convention

    def __repr__(self) -> str:
        return f"Comparison({len(self.systems)} systems, {len(self.tasks)} tasks: {self.answer.sentence})"

    def row(self, task: str, system: str) -> Row:
        """One system on one task.

        Raises:
            InputError: There is no such row.
        """
        for row in self.rows:
            if (row.task, row.system) == (task, system):
                return row
        if task not in self.tasks:
            raise InputError(f"no task '{task}' was compared", did_you_mean(task, self.tasks))
        raise InputError(f"'{system}' was not compared on '{task}'", did_you_mean(system, self.systems))

    def mean(self, system: str) -> Mean:
        """One system over all tasks.

        Raises:
            InputError: There is no such system.
        """
        for mean in self.means:
            if mean.system == system:
                return mean
        raise InputError(f"no system '{system}' was compared", did_you_mean(system, self.systems))

    @property
    def unit(self) -> Metric | None:
        """The metric of all tasks; None where they have different ones."""
        names = {row.metric for row in self.rows}
        return metric(names.pop()) if len(names) == 1 else None

    def ordered(self) -> list[Mean]:
        """The systems as tables have them: by kind, the best of each first."""
        sign = -1 if self.unit is None or self.unit.higher_is_better else 1

        def key(mean: Mean) -> tuple[int, float]:
            quality = mean.quality()
            return _ORDER.index(mean.kind), math.inf if quality is None else sign * quality.value

        return sorted(self.means, key=key)

    def as_rows(self) -> list[dict[str, Any]]:
        """Flat rows, one a system and task, for tables elsewhere; what is unknown is None."""
        return [_flat(row) for row in self.rows]

    def as_json(self) -> dict[str, Any]:
        """All of it, in plain values."""
        return {
            "version": JSON_VERSION,
            "answer": asdict(self.answer),
            "reference": self.reference,
            "level": self.level,
            "interval": self.interval,
            "resamples": self.resamples,
            "seed": self.seed,
            "calibration": str(self.convention),
            "tasks": list(self.tasks),
            "experts": dict(self.experts),
            "systems": [_mean_json(mean, self.unit) for mean in self.means],
            "rows": [{**_flat(row), **_curves(row)} for row in self.rows],
            "notes": list(self.notes),
        }

    def csv(self) -> str:
        """The flat rows as comma-separated values with a heading."""
        rows, file = self.as_rows(), io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()

    def latex(self) -> str:
        """A table for a paper: systems by tasks, the best figures in bold; needs the package booktabs."""
        from modelwright.evaluate._latex import table

        return table(self)


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    value, low, high = (interval.value, interval.low, interval.high) if interval else (None, None, None)
    return {name: _number(value), f"{name}_low": _number(low), f"{name}_high": _number(high)}


def _flat(row: Row) -> dict[str, Any]:
    flips, known = row.flips, row.calibration
    return {
        "task": row.task,
        "system": row.system,
        "kind": row.kind,
        "metric": row.metric,
        **_ends("figure", row.figure),
        **_ends("normalised", row.normalised),
        **_ends("difference", row.difference),
        "p": _number(row.p),
        "p_adjusted": _number(row.p_adjusted),
        "negative_flips": None if flips is None else flips.count,
        "negative_flip_rate": None if flips is None else flips.rate,
        "negative_flip_rate_of_right": None if flips is None else flips.rate_of_right,
        "calibration_error": None if known is None else known.error,
        "aurc": None if known is None else known.aurc,
        "brier": None if known is None else known.brier,
        "nll": None if known is None else known.nll,
        **_cost_json(row.cost),
    }


def _curves(row: Row) -> dict[str, Any]:
    """What is no single number of a row."""
    known = row.calibration
    if known is None:
        return {}
    return {
        "reliability": [asdict(line) for line in known.bins],
        "risk_coverage": [list(point) for point in known.risk],
    }


def _cost_json(cost: Cost) -> dict[str, Any]:
    found = asdict(cost)
    found["bytes"] = found.pop("nbytes")
    return found


def _mean_json(mean: Mean, unit: Metric | None) -> dict[str, Any]:
    return {
        "system": mean.system,
        "kind": mean.kind,
        **_ends("figure", mean.figure),
        **_ends("normalised", mean.normalised),
        **_ends("difference", mean.difference),
        "p": _number(mean.p),
        "p_adjusted": _number(mean.p_adjusted),
        "pareto": list(mean.front),
        **_cost_json(mean.cost),
        "money_per_right": _number(mean.money_per_right(unit)),
    }
