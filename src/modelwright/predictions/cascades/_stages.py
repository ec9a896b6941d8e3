"""The one loop of every cascade: ask, combine, decide who exits; on arrays, whoever answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelwright.errors import InputError, RunError
from modelwright.predictions._predictions import Predictions
from modelwright.predictions._scales import Scale, log, of_classes
from modelwright.predictions.cascades._rule import CascadeRule
from modelwright.predictions.measures._shift import confidence

#: Asks one member, by its place, for some samples, by theirs: numbers of the classes (n, C).
Ask = Callable[[int, np.ndarray], np.ndarray]
#: Which of the scores (n,) after a stage stop there.
Exits = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class CascadeOutput:
    """What a cascade says of N samples.

    Attributes:
        probabilities: float64 (N, C).
        scores: The confidence each sample left with, (N,); ranked as one list.
        stages: The stage at which each left, counted from 0, (N,).
        costs: What each cost, in the rule's unit, (N,).
    """

    probabilities: np.ndarray
    scores: np.ndarray
    stages: np.ndarray
    costs: np.ndarray

    @property
    def mean_cost(self) -> float:
        """Of a sample."""
        return float(self.costs.mean())

    def passed_on(self) -> list[float]:
        """The share of all samples that each stage but the last passed on."""
        most = int(self.stages.max(initial=0))
        return [float((self.stages > stage).mean()) for stage in range(most)]


class _Running:
    """Answers and scores so far, of the samples that are still in."""

    def __init__(self, rule: CascadeRule, scale: Scale):
        self.rule = rule
        self.scale: Scale = scale
        self.asked = 0
        self.probabilities = np.empty(0)
        self.scores = np.empty(0)

    def add(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One more member's numbers (n, C); the answers and scores after it."""
        rule = self.rule
        probabilities = of_classes(values, self.scale, "probabilities")
        logits = log(probabilities) if self.scale == "probabilities" else values
        scores = confidence(logits, rule.score)
        if self.asked and rule.combine == "running":
            probabilities += self.probabilities
            scores += self.scores
        self.asked += 1
        self.probabilities, self.scores = probabilities, scores
        if rule.combine == "replace":
            return probabilities, scores
        mean = probabilities / self.asked
        if rule.score_of == "score_of_mean":
            return mean, confidence(log(mean), rule.score)
        return mean, scores / self.asked

    def keep(self, rows: np.ndarray) -> None:
        self.probabilities, self.scores = self.probabilities[rows], self.scores[rows]


def run_stages(
    rule: CascadeRule, ask: Ask, count: int, *, scale: Scale = "logits", exits: Exits | None = None
) -> CascadeOutput:
    """Ask the members one after the other, each only for the samples that none before was sure of.

    Args:
        rule: The cascade.
        ask: Answers (member, rows); rows are positions of samples, ascending.
        count: How many samples there are, N.
        scale: What the members give.
        exits: Who stops after a stage that is not the last; default by the rule's windows.

    Raises:
        InputError: There are no samples, or scores need logits that are not there.
        RunError: A member gave numbers that are not finite, or of another shape.
    """
    if count < 1:
        raise InputError("a cascade needs samples, got none")
    if rule.needs_logits and scale != "logits":
        raise InputError(f"the score '{rule.score}' needs logits, and the members give {scale}", "Use the score msp.")
    decide = exits or (lambda stage, scores: rule.windows[stage].exits(scores))
    running = _Running(rule, scale)
    rows = np.arange(count)
    probabilities, scores = np.empty((count, 0)), np.empty(count)
    stages = np.zeros(count, np.intp)
    for stage, name in enumerate(rule.members):
        values = _checked(ask(stage, rows), name, len(rows), probabilities.shape[1])
        if not stage:
            probabilities = np.empty((count, values.shape[1]))
        answers, found = running.add(values)
        last = stage == len(rule.members) - 1
        done = np.ones(len(rows), bool) if last else decide(stage, found)
        left = rows[done]
        probabilities[left], scores[left], stages[left] = answers[done], found[done], stage
        rows = rows[~done]
        if not rows.size:
            break
        running.keep(~done)
    return CascadeOutput(probabilities, scores, stages, rule.cost_of(stages))


def _checked(values: np.ndarray, name: str, count: int, classes: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) != count or array.shape[1] < 2:
        raise RunError(f"'{name}' was asked for {count:,} samples and gave numbers of shape {array.shape}, not (n, C)")
    if classes and array.shape[1] != classes:
        raise RunError(f"'{name}' has {array.shape[1]} classes, and the members before it {classes}")
    most = array.max(axis=1)
    if not np.isfinite(most).all():
        raise RunError(f"'{name}' gave numbers that are not finite for {int((~np.isfinite(most)).sum()):,} samples")
    return array


def stage_scores(rule: CascadeRule, bank: Predictions) -> np.ndarray:
    """The scores of all samples after every stage, as if none exited: (M, N)."""
    running, found = _Running(rule, _scale(bank)), np.empty((len(rule.members), len(bank)))
    for stage, values in enumerate(_in_order(rule, bank)):
        found[stage] = running.add(values)[1]
    return found


def apply_cascade(rule: CascadeRule, bank: Predictions, *, exits: Exits | None = None) -> CascadeOutput:
    """What a cascade says, from what all its members have said: nothing is asked again.

    Args:
        rule: The cascade.
        bank: Predictions of classes by its members at least, in any order.
        exits: Who stops after a stage; default by the rule's windows.

    Raises:
        InputError: A member is missing, or the bank holds no classes, or no logits where scores need them.
    """
    members = _in_order(rule, bank)
    return run_stages(rule, lambda stage, rows: members[stage][rows], len(bank), scale=_scale(bank), exits=exits)


def _scale(bank: Predictions) -> Scale:
    return "probabilities" if bank.scale == "probabilities" else "logits"


def _in_order(rule: CascadeRule, bank: Predictions) -> list[np.ndarray]:
    """Each member's numbers (N, C) in the order of the rule."""
    if bank.kind not in ("classes", "binary"):
        raise InputError(f"a cascade is of classes, and these predictions are of the kind '{bank.kind}'")
    if rule.needs_logits and bank.scale != "logits":
        raise InputError(
            f"the score '{rule.score}' needs logits, and the bank holds {bank.scale}", "Use the score msp."
        )
    if bank.kind == "classes":
        return list(bank.select(list(rule.members)).values)
    return [bank.select([name]).block(slice(None), _scale(bank))[0] for name in rule.members]
