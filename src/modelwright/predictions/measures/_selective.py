"""Answering only where one is confident: risk against coverage, and the area under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.predictions.measures._inputs import checked_numbers

Rule = Literal["at_most", "closest"]


@dataclass(frozen=True)
class RiskCoverage:
    """The risk of answering the most confident samples, for each number of them.

    Attributes:
        coverage: Shares of samples that are answered, k/N for k = 1 ... N, (N,).
        risk: Mean loss of these, (N,). Among samples of equal confidence it is the mean over the orders they can stand in.
        threshold: Confidence of the k-th, descending, (N,).
    """

    coverage: np.ndarray
    risk: np.ndarray
    threshold: np.ndarray

    @property
    def reachable(self) -> np.ndarray:
        """The places k - 1 that a threshold can produce: where the next confidence is lower; ascending."""
        return np.flatnonzero(np.append(self.threshold[1:] != self.threshold[:-1], True))


def risk_coverage(confidences: np.ndarray, losses: np.ndarray) -> RiskCoverage:
    """The risk-coverage curve.

    Args:
        confidences: Larger is surer, any scale, (N,).
        losses: What answering each sample costs: 1 for a wrong answer and 0 for a right one, or any number, (N,).

    Raises:
        InputError: A value is not finite, or lengths differ.

    Differs:
        Samples of equal confidence are not taken in the order of the data but as if in random order: the curve does not
        depend on how the data are sorted, and a constant confidence has the mean loss at every coverage.

    Source:
        El-Yaniv and Wiener 2010, JMLR 11; Geifman and El-Yaniv 2017, arXiv:1705.08500.
    """
    confidences = checked_numbers(confidences, "confidences")
    losses = checked_numbers(losses, "losses", len(confidences))
    order = np.argsort(-confidences, kind="stable")
    threshold, losses = confidences[order], losses[order]
    starts = np.flatnonzero(np.append(True, threshold[1:] != threshold[:-1]))
    if len(starts) < len(losses):
        sizes = np.diff(np.append(starts, len(losses)))
        losses = np.repeat(np.add.reduceat(losses, starts) / sizes, sizes)
    taken = np.arange(1, len(losses) + 1)
    return RiskCoverage(taken / len(losses), np.cumsum(losses) / taken, threshold)


def aurc(confidences: np.ndarray, losses: np.ndarray) -> float:
    """Area under the risk-coverage curve: the mean of the risk over coverages 1/N, 2/N, ..., 1. Lower is better.

    Args:
        confidences: (N,).
        losses: (N,).

    Raises:
        InputError: As in `risk_coverage`.

    Example:
        >>> import numpy as np
        >>> from modelwright.predictions.measures import aurc
        >>> aurc(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 0, 1]))
        0.0625

    Source:
        Geifman et al. 2018, arXiv:1805.08206.
    """
    return float(risk_coverage(confidences, losses).risk.mean())


def e_aurc(confidences: np.ndarray, losses: np.ndarray) -> float:
    """Excess AURC: AURC less that of the best order of the same losses. 0 is a perfect ranking.

    Args:
        confidences: (N,).
        losses: (N,).

    Raises:
        InputError: As in `risk_coverage`.

    Differs:
        The best order's area is computed from the losses, not approximated by r + (1 - r) log(1 - r).

    Source:
        Geifman et al. 2018, arXiv:1805.08206.
    """
    return max(aurc(confidences, losses) - least_area(losses), 0.0)


def least_area(losses: np.ndarray) -> float:
    """AURC of the best order of some losses (N,): the smallest first."""
    best = np.sort(checked_numbers(losses, "losses"))
    return float((np.cumsum(best) / np.arange(1, len(best) + 1)).mean())


def coverage_at_risk(
    confidences: np.ndarray, losses: np.ndarray, risk: float, *, rule: Rule = "at_most", skip: int = 0
) -> float:
    """How large a share can be answered at a risk, by a threshold on the confidence; 0 where no share can.

    Args:
        confidences: (N,).
        losses: (N,).
        risk: The mean loss that is allowed.
        rule: `at_most`: the largest share whose risk is no higher; `closest`: the share whose risk is nearest to it.
        skip: Leave out shares of at most so many samples, whose risks rest on few; in [0, N).

    Raises:
        InputError: As in `risk_coverage`; or `skip` leaves nothing.
    """
    curve = risk_coverage(confidences, losses)
    place = place_at_risk(curve, risk, rule, skip)
    return 0.0 if place is None else float(curve.coverage[place])


def place_at_risk(curve: RiskCoverage, risk: float, rule: Rule, skip: int = 0) -> int | None:
    """Where on a curve a risk is reached, among the places that a threshold can produce; None for nowhere."""
    if rule not in get_args(Rule):
        raise InputError(f"there is no rule '{rule}'", did_you_mean(rule, get_args(Rule)))
    if not 0 <= skip < len(curve.risk):
        raise InputError(f"skip must be in [0, N), got {skip} for {len(curve.risk):,} samples")
    places = curve.reachable[curve.reachable >= skip]
    if rule == "closest":
        return int(places[np.abs(curve.risk[places] - risk).argmin()])
    low = places[curve.risk[places] <= risk + 1e-12]  # a risk of 3/10 is allowed where 0.3 is
    return int(low[-1]) if low.size else None


def risk_at_coverage(confidences: np.ndarray, losses: np.ndarray, coverage: float) -> float:
    """The mean loss of the most confident share of at least `coverage`.

    Args:
        confidences: (N,).
        losses: (N,).
        coverage: Share of samples to answer, in (0, 1].

    Raises:
        InputError: As in `risk_coverage`; or the coverage is no such share.
    """
    curve = risk_coverage(confidences, losses)
    return float(curve.risk[place_at_coverage(curve, coverage)])


def place_at_coverage(curve: RiskCoverage, coverage: float) -> int:
    """Where on a curve a coverage is reached."""
    if not 0 < coverage <= 1:
        raise InputError(f"coverage must be in (0, 1], got {coverage}", "It is a share; for 80 % write 0.8.")
    return min(int(np.ceil(coverage * len(curve.risk) - 1e-9)), len(curve.risk)) - 1
