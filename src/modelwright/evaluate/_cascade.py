"""A cascade of predictors, evaluated like any system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError
from modelwright.evaluate._predictor import ModulePredictor, Predictor, Size
from modelwright.evaluate._together import check_classes
from modelwright.predictions.cascades import CascadeOutput, CascadeRule, count_of, run_stages, take


@dataclass
class CascadePredictor(Predictor):
    """Predictors that are asked one after the other, each only for the samples that those before were not sure of.

    Attributes:
        asks: The members, in the order of the rule.
        rule: When to stop.
        classes: Names of the classes that it was fitted to; empty where it was fitted to none.
        asked: How many samples each member has been asked for so far.
    """

    asks: Sequence[Predictor] = field(kw_only=True)
    rule: CascadeRule = field(kw_only=True)
    classes: tuple[str, ...] = field(default=(), kw_only=True)
    asked: list[int] = field(init=False)
    _stages: np.ndarray | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.asks) != len(self.rule.members):
            raise InputError(
                f"the rule of '{self.label}' is for {len(self.rule.members)} members, got {len(self.asks)}"
            )
        if self.rule.needs_logits:
            for member in self.asks:
                if not isinstance(member, ModulePredictor) or member.outputs != "logits":
                    raise InputError(
                        f"the score '{self.rule.score}' needs logits, and '{member.label}' gives probabilities",
                        "Fit the cascade with the score msp.",
                        self.label,
                    )
        self.asked = [0] * len(self.asks)
        self.made = self.made or {"kind": "ensemble", "members": [member.label for member in self.asks]}
        prints = [member.fingerprint for member in self.asks]
        if not self.fingerprint and all(prints):
            text = json.dumps([prints, self.rule.as_json()], sort_keys=True)
            self.fingerprint = xxhash.xxh3_128_hexdigest(text.encode())
        if self.size == Size():
            self.size = Size(*(_sum([getattr(m.size, name) for m in self.asks]) for name in ("parameters", "nbytes")))

        if not self.made:
            self.made = {"kind": "ensemble", "members": [member.label for member in self.asks]}

    def for_task(self, task: Any) -> Predictor:
        """Every member with what it has of its own for the task.

        Raises:
            InputError: The task has other classes than those that it was fitted to.
        """
        check_classes(self.label, self.classes, task)
        found = replace(self, asks=[member.for_task(task) for member in self.asks])
        found.asked = self.asked  # what happens to it is told by this one
        return found

    def calls(self, count: int) -> np.ndarray | int:
        """How many models were asked about each of the last inputs."""
        if self._stages is None or len(self._stages) != count:
            return sum(member.members for member in self.asks)
        return np.cumsum([member.members for member in self.asks])[self._stages]

    def run(self, inputs: Any, classes: int) -> CascadeOutput:
        """Answers with the stage that each sample left at, and what it cost."""

        def ask(stage: int, rows: np.ndarray) -> np.ndarray:
            member, batch = self.asks[stage], take(inputs, rows)
            self.asked[stage] += len(rows)
            if self.rule.needs_logits:
                assert isinstance(member, ModulePredictor)
                return member.outputs_of(batch)
            return member.probabilities(batch, classes)

        return run_stages(
            self.rule, ask, count_of(inputs), scale="logits" if self.rule.needs_logits else "probabilities"
        )

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        """Class probabilities of n inputs."""
        found = self.run(inputs, classes)
        self._stages = found.stages
        return found.probabilities

    def remarks(self) -> list[str]:
        """What share of the samples each member was asked for, and what its members say."""
        said = [remark for member in self.asks for remark in member.remarks()]
        if not self.asked[0]:
            return said
        shares = [
            f"'{name}' was asked for {count / self.asked[0]:.1%} of the samples"
            for name, count in zip(self.rule.members[1:], self.asked[1:], strict=True)
        ]
        return [*shares, *said]


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
