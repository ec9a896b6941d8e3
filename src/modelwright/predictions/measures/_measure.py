"""Measures by name, and all of them of a bank, in two passes over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.predictions._predictions import Predictions
from modelwright.predictions.measures._calibration import DEFAULT, Convention, classwise_error, top_label_error
from modelwright.predictions.measures._disagreement import (
    Kinship,
    by_lineage,
    cohen_kappa,
    double_fault,
    error_correlation,
    fleiss_kappa,
    mean_of_pairs,
    mutual_information,
    pairwise_disagreement,
    q_statistic,
    variation_ratio,
)
from modelwright.predictions.measures._oracle import oracle_gain
from modelwright.predictions.measures._proper import brier_scores, nll_scores
from modelwright.predictions.measures._selective import aurc, least_area
from modelwright.predictions.measures._shift import auroc


@dataclass(frozen=True)
class Said:
    """What one system said of N labelled samples; what measures need of it is computed once.

    Attributes:
        bank: Predictions of one member.
        targets: Class indices, (N,).
    """

    bank: Predictions
    targets: np.ndarray

    @cached_property
    def _columns(self) -> tuple[np.ndarray, ...]:
        count = len(self.targets)
        answers = np.empty(count, np.min_scalar_type(len(self.bank.classes) - 1))
        confidence, brier, nll = np.empty(count), np.empty(count), np.empty(count)
        for rows, (block,) in self.bank.blocks("probabilities"):
            targets = self.targets[rows]
            answers[rows] = best = block.argmax(axis=1)
            confidence[rows] = block[np.arange(len(block)), best]
            brier[rows], nll[rows] = brier_scores(block, targets), nll_scores(block, targets)
        return answers, confidence, brier, nll

    @property
    def answers(self) -> np.ndarray:
        """The most probable class, the first of several, (N,)."""
        return self._columns[0]

    @property
    def confidence(self) -> np.ndarray:
        """Its probability, float64 (N,)."""
        return self._columns[1]

    @cached_property
    def right(self) -> np.ndarray:
        """Whether the answer is right, (N,)."""
        return self.answers == self.targets

    @cached_property
    def aurc(self) -> float:
        """Area under the risk-coverage curve of the confidence."""
        return aurc(self.confidence, ~self.right)

    @property
    def brier(self) -> np.ndarray:
        """Brier score of each sample, float64 (N,)."""
        return self._columns[2]

    @property
    def nll(self) -> np.ndarray:
        """Negative log-likelihood of each sample in nats, float64 (N,)."""
        return self._columns[3]


@dataclass(frozen=True)
class Together:
    """What several members said of the same labelled samples.

    Attributes:
        bank: Their predictions.
        answers: Classes, (M, N).
        right: Whether these are right, (M, N).
    """

    bank: Predictions
    answers: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class Measure:
    """The record of a measure.

    Attributes:
        name: How tables call it.
        title: In words, with its unit or range.
        function: The figure of what one system said, or of members together.
        together: Whether it is of members together.
        higher_is_better: Which of two figures is the better one; None where neither is.
        paper: Where it comes from.
    """

    name: str
    title: str
    function: Callable[[Any], float]
    together: bool = False
    higher_is_better: bool | None = False
    paper: str = ""


def _ece(convention: Convention) -> Callable[[Said], float]:
    def figure(said: Said) -> float:
        return top_label_error(said.confidence, said.right, convention)

    return figure


def _classwise(said: Said) -> float:
    return classwise_error(
        ((block, said.targets[rows]) for rows, (block,) in said.bank.blocks("probabilities")), DEFAULT
    )


def _auroc(said: Said) -> float:
    if said.right.all() or not said.right.any():
        return float("nan")  # with no mistakes, or nothing else, there is nothing to tell apart
    return auroc(said.confidence[said.right], said.confidence[~said.right])


def _pairs(matrix: Callable[[np.ndarray], np.ndarray], of: str) -> Callable[[Together], float]:
    def figure(together: Together) -> float:
        return mean_of_pairs(matrix(getattr(together, of)))

    return figure


def _information(together: Together) -> float:
    total = 0.0
    for _, block in together.bank.blocks("probabilities"):
        total += float(mutual_information(block).sum())
    return total / len(together.bank)


_GUO, _KUMAR = "arXiv:1706.04599", "arXiv:1909.10155"
_KUNCHEVA = "Kuncheva and Whitaker 2003"
_ALL = (
    Measure("accuracy", "share of right answers", lambda s: float(s.right.mean()), higher_is_better=True),
    Measure("brier", "Brier score summed over classes, in [0, 2]", lambda s: float(s.brier.mean()), paper="Brier 1950"),
    Measure("nll", "negative log-likelihood in nats", lambda s: float(s.nll.mean())),
    Measure("ece", f"calibration error: {DEFAULT}", _ece(DEFAULT), paper=_GUO),
    Measure(
        "ece_equal_mass",
        f"calibration error: {Convention(bins='equal_mass')}",
        _ece(Convention(bins="equal_mass")),
        paper="arXiv:1904.01685",
    ),
    Measure(
        "ece_debiased",
        f"calibration error: {Convention(bins='equal_mass', norm='l2', debiased=True)}",
        _ece(Convention(bins="equal_mass", norm="l2", debiased=True)),
        paper=_KUMAR,
    ),
    Measure("ece_classwise", f"calibration error: {Convention(of='classwise')}", _classwise, paper="arXiv:1910.12656"),
    Measure("mce", f"calibration error: {Convention(norm='max')}", _ece(Convention(norm="max")), paper=_GUO),
    Measure("aurc", "area under the risk-coverage curve", lambda s: s.aurc, paper="arXiv:1805.08206"),
    Measure(
        "e_aurc",
        "AURC above that of the best order",
        lambda s: max(s.aurc - least_area(~s.right), 0.0),
        paper="arXiv:1805.08206",
    ),
    Measure(
        "auroc_of_errors",
        "AUROC of confidence for right answers",
        _auroc,
        higher_is_better=True,
        paper="arXiv:1610.02136",
    ),
    Measure(
        "disagreement",
        "share of samples that a pair answers differently",
        _pairs(pairwise_disagreement, "answers"),
        True,
        None,
        _KUNCHEVA,
    ),
    Measure(
        "variation_ratio",
        "share of members not of the majority",
        lambda t: float(variation_ratio(t.answers).mean()),
        True,
        None,
    ),
    Measure(
        "mutual_information",
        "entropy of the mean less mean entropy, in nats",
        _information,
        True,
        None,
        "arXiv:1112.5745",
    ),
    Measure("kappa", "Cohen's kappa of a pair's answers", _pairs(cohen_kappa, "answers"), True, None, "Cohen 1960"),
    Measure(
        "fleiss_kappa", "agreement of all beyond chance", lambda t: fleiss_kappa(t.answers), True, None, "Fleiss 1971"
    ),
    Measure("q", "Yule's Q of a pair's hits", _pairs(q_statistic, "right"), True, None, _KUNCHEVA),
    Measure(
        "error_correlation", "correlation of a pair's hits", _pairs(error_correlation, "right"), True, None, _KUNCHEVA
    ),
    Measure(
        "double_fault", "share of samples that both of a pair have wrong", _pairs(double_fault, "right"), True, False
    ),
    Measure("oracle", "share of samples that some member has right", lambda t: oracle_gain(t.right).oracle, True, True),
    Measure("oracle_gain", "oracle above the best member", lambda t: oracle_gain(t.right).gain, True, None),
)
#: Every measure by its name.
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}


@dataclass(frozen=True)
class Measured:
    """What was measured of a bank.

    Attributes:
        members: Figures by measure, then by member.
        together: Figures of members together by measure; empty for one member.
    """

    members: dict[str, dict[str, float]]
    together: dict[str, float]


def measure(bank: Predictions, names: str | Sequence[str] | None = None) -> Measured:
    """Measure the members of a bank, and how they differ.

    Memory beside the bank is three numbers a sample for one member at a time, and two bytes for each member.

    Args:
        bank: Labelled predictions of classes, or binary ones.
        names: Which measure or measures; default all of `MEASURES`, those of members together only where there are several.

    Returns:
        A figure for each member and measure. NaN where a measure says nothing, such as AUROC without mistakes.

    Raises:
        InputError: There is no such measure, no labels, no classes, or one member where several are needed.
    """
    if bank.kind not in ("classes", "binary"):
        raise InputError(f"these measures are of classes, and the predictions are of the kind '{bank.kind}'")
    targets = bank.need_labels("measuring")
    names = [names] if isinstance(names, str) else names
    several = len(bank.members) > 1
    chosen = [_named(name) for name in names] if names is not None else [m for m in _ALL if several or not m.together]
    if any(m.together for m in chosen) and not several:
        names = [m.name for m in chosen if m.together]
        raise InputError(f"'{names[0]}' is of members together, and there is one")
    members: dict[str, dict[str, float]] = {m.name: {} for m in chosen if not m.together}
    answers = np.empty((len(bank.members), len(bank)), np.min_scalar_type(len(bank.classes) - 1))
    for i, name in enumerate(bank.names):
        said = Said(bank.select([i]), targets)
        answers[i] = said.answers
        for m in chosen:
            if not m.together:
                members[m.name][name] = float(m.function(said))
    together = Together(bank, answers, answers == targets)
    return Measured(members, {m.name: float(m.function(together)) for m in chosen if m.together})


def _named(name: str) -> Measure:
    if name not in MEASURES:
        raise InputError(f"there is no measure '{name}'", did_you_mean(name, MEASURES))
    return MEASURES[name]


def kinship(bank: Predictions, matrix: np.ndarray | None = None) -> Kinship:
    """How much members of a common origin differ, and members without one, by what the bank says of their lineage.

    Args:
        bank: Predictions of classes by members whose lineage has `parents`.
        matrix: A pairwise measure of its members, (M, M); default how often they answer differently.

    Raises:
        InputError: The bank holds no classes, or of a member no parents are known.
    """
    if bank.kind not in ("classes", "binary"):
        raise InputError(f"answers are of classes, and the predictions are of the kind '{bank.kind}'")
    parents = [tuple(map(str, member.lineage.get("parents", ()))) for member in bank.members]
    for name, known in zip(bank.names, parents, strict=True):
        if not known:
            raise InputError(
                f"nobody has said what '{name}' was made from", "Give its lineage 'parents', or use by_lineage."
            )
    if matrix is None:
        answers = [block.argmax(axis=-1) for _, block in bank.blocks("probabilities")]
        matrix = pairwise_disagreement(np.concatenate(answers, axis=1))
    return by_lineage(matrix, parents)
