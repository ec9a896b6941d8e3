"""When a cascade stops: windows of confidence, what is averaged, what members cost; plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.predictions.measures._shift import CONFIDENCES, NEED_LOGITS

Combine = Literal["running", "replace"]
ScoreOf = Literal["mean_of_scores", "score_of_mean"]
Unit = Literal["multiply_adds", "milliseconds", "answers"]
VERSION = 1


@dataclass(frozen=True)
class Window:
    """Confidences for which a stage is not sure enough, and the next one is asked.

    Attributes:
        low: A sample exits if its score is below this, for it would be refused whatever the others say;
        high: or above this. Scores at the ends go on. `low=-inf` is one threshold, as accuracy asks for; `low=inf` with
            `high=inf` lets all exit.

    Raises:
        InputError: An end is NaN, or `low` is above `high`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if math.isnan(self.low) or math.isnan(self.high) or self.low > self.high:
            raise InputError(f"a window's low end must be at most its high end, got {self.low} and {self.high}")

    def exits(self, scores: np.ndarray) -> np.ndarray:
        """Which samples stop here, (n,)."""
        return (scores > self.high) | (scores < self.low)


@dataclass(frozen=True)
class CascadeRule:
    """All that a cascade is, beside its members' weights.

    Attributes:
        members: Names, in the order they are asked; at least 2.
        windows: One for each member but the last.
        score: The confidence that decides, as in `measures.confidence`.
        combine: `running`: after stage k the answer is the mean of the probabilities of members 1 to k; `replace`: it is
            that of member k, for the exits of one network.
        score_of: With `running`, the score after stage k: `mean_of_scores` of the members so far, or `score_of_mean`, of
            their mean probabilities.
        costs: What asking each member for one sample costs.
        thresholds: The score of accepting that each window lies around; empty where there is none.
        unit: Of the costs: `multiply_adds`, `milliseconds`, or `answers`, each of which costs 1.
        fitted: How the windows came about, for the reader.

    Raises:
        InputError: Numbers of members, windows and costs do not fit, a cost is negative, or a word is unknown.
    """

    members: tuple[str, ...]
    windows: tuple[Window, ...]
    score: str = "msp"
    combine: Combine = "running"
    score_of: ScoreOf = "mean_of_scores"
    costs: tuple[float, ...] = ()
    unit: Unit = "answers"
    thresholds: tuple[float, ...] = ()
    fitted: str = ""

    def __post_init__(self) -> None:
        for name, values in (
            ("score", CONFIDENCES),
            ("combine", get_args(Combine)),
            ("score_of", get_args(ScoreOf)),
            ("unit", get_args(Unit)),
        ):
            word = getattr(self, name)
            if word not in values:
                raise InputError(f"cascade: {name} cannot be '{word}'", did_you_mean(str(word), values))
        count = len(self.members)
        if count < 2:
            raise InputError(f"a cascade needs at least 2 members, got {count}")
        if len(self.windows) != count - 1:
            raise InputError(
                f"a cascade of {count} members needs {count - 1} windows, one after each but the last, "
                f"got {len(self.windows)}"
            )
        if not self.costs and self.unit == "answers":
            object.__setattr__(self, "costs", (1.0,) * count)
        if len(self.costs) != count:
            raise InputError(f"a cascade of {count} members needs {count} costs in {self.unit}, got {len(self.costs)}")
        if self.thresholds and len(self.thresholds) != count - 1:
            raise InputError(
                f"a cascade of {count} members has {count - 1} thresholds or none, got {len(self.thresholds)}"
            )
        wrong = [cost for cost in self.costs if not (math.isfinite(cost) and cost >= 0)]
        if wrong:
            raise InputError(f"costs must be at least 0, got {wrong[0]}")
        if self.score in NEED_LOGITS and self.score_of == "score_of_mean" and self.combine == "running":
            raise InputError(
                f"the score '{self.score}' is of logits, and a mean of probabilities has none",
                "Use score_of='mean_of_scores', or the score msp, entropy or margin.",
            )

    @property
    def needs_logits(self) -> bool:
        """Whether members must give logits, and not only probabilities."""
        return self.score in NEED_LOGITS

    def cost_of(self, stages: np.ndarray) -> np.ndarray:
        """What samples cost that exit at these stages, counted from 0: float64 of their shape."""
        return np.cumsum(self.costs)[stages]

    def as_json(self) -> dict[str, Any]:
        """Plain data for a file; infinite ends are the texts "inf" and "-inf"."""
        data = asdict(self) | {
            "members": list(self.members),
            "costs": list(self.costs),
            "thresholds": list(self.thresholds),
            "windows": [[_written(window.low), _written(window.high)] for window in self.windows],
        }
        return {"version": VERSION, **data}

    @staticmethod
    def from_json(data: str | Mapping[str, Any]) -> CascadeRule:
        """What `as_json` has written.

        Raises:
            InputError: It is something else, of another version, or not valid.
        """
        try:
            said = json.loads(data) if isinstance(data, str) else data
        except ValueError as error:
            raise InputError(f"a cascade's rule must be JSON: {error}") from None
        read = dict(said) if isinstance(said, Mapping) else {}
        if read.pop("version", None) != VERSION:
            raise InputError(f"a cascade's rule must be an object of version {VERSION}")
        known = {field.name for field in fields(CascadeRule)}
        for name in read:
            if name not in known:
                raise InputError(f"a cascade's rule has no '{name}'", did_you_mean(name, known))
        missing = sorted({"members", "windows"} - set(read))
        if missing:
            raise InputError(f"a cascade's rule needs '{missing[0]}'")
        try:
            windows = tuple(Window(float(low), float(high)) for low, high in read.pop("windows"))
            members = tuple(map(str, read.pop("members")))
            costs, taus = (tuple(map(float, read.pop(name, ()))) for name in ("costs", "thresholds"))
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"a cascade's windows and costs must be numbers: {error}") from None
        return CascadeRule(members, windows, costs=costs, thresholds=taus, **read)


def _written(end: float) -> float | str:
    return end if math.isfinite(end) else ("inf" if end > 0 else "-inf")


def costs_of(members: Sequence[Any], unit: Unit) -> tuple[float, ...]:
    """The costs that a bank's members say they have.

    Raises:
        InputError: One says nothing, or there is no such unit.
    """
    if unit not in get_args(Unit):
        raise InputError(f"costs are not counted in '{unit}'", did_you_mean(unit, get_args(Unit)))
    if unit == "answers":
        return (1.0,) * len(members)
    costs = [getattr(member.cost, unit) for member in members]
    for member, cost in zip(members, costs, strict=True):
        if cost is None:
            raise InputError(
                f"nobody has said what '{member.name}' costs in {unit}",
                "Pass costs=, or unit='answers' to count every answer as 1.",
            )
    return tuple(map(float, costs))
