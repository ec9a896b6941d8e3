"""Proper scores: how good probabilities are, and what of the Brier score is whose fault."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelwright.predictions._scales import log
from modelwright.predictions.measures._calibration import DEFAULT, Convention, bin_places
from modelwright.predictions.measures._inputs import blocks, checked_probabilities, checked_targets


def brier_scores(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Squared distance of each sample's probabilities from the truth, summed over classes: float64 (N,), in [0, 2].

    Args:
        probabilities: (N, C).
        targets: Class indices, (N,).
    """
    scores = np.empty(len(targets))
    for rows in blocks(probabilities.shape):
        block = np.array(probabilities[rows], dtype=np.float64)
        block[np.arange(len(block)), targets[rows]] -= 1
        np.einsum("nc,nc->n", block, block, out=scores[rows])
    return scores


def nll_scores(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-probability of each sample's right class, in nats: float64 (N,), at most 708.4.

    Args:
        probabilities: (N, C).
        targets: Class indices, (N,).
    """
    of_target = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return -log(of_target)


def brier(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The Brier score: mean of `brier_scores`, in [0, 2], summed over classes and not halved.

    Args:
        probabilities: (N, C).
        targets: Class indices, (N,).

    Raises:
        InputError: Rows do not sum to one, a value is not finite, or a target is out of range.

    Example:
        >>> import numpy as np
        >>> from modelwright.predictions.measures import brier
        >>> brier(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0, 1]))
        0.25

    Source:
        Brier 1950, Monthly Weather Review 78.
    """
    probabilities, targets = _checked(probabilities, targets)
    return float(brier_scores(probabilities, targets).mean())


def nll(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean negative log-likelihood in nats.

    Args:
        probabilities: (N, C).
        targets: Class indices, (N,).

    Raises:
        InputError: As in `brier`.
    """
    probabilities, targets = _checked(probabilities, targets)
    return float(nll_scores(probabilities, targets).mean())


def _checked(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    array = checked_probabilities(probabilities)
    return array, checked_targets(targets, *array.shape)


@dataclass(frozen=True)
class BrierParts:
    """What a Brier score is made of: `brier == reliability - resolution + uncertainty + within`, exactly.

    Attributes:
        brier: The score, in [0, 2].
        reliability: How far the bins' mean probabilities lie from what happened in them; 0 is calibrated.
        resolution: How far what happened in the bins differs from what happens on average; the more the better.
        uncertainty: The score of always giving the classes' shares; it is the data's.
        within: What binning leaves over: the variance of probabilities within bins, less twice their covariance with
            what happened. 0 where each bin holds one probability.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


def brier_parts(probabilities: np.ndarray, targets: np.ndarray, convention: Convention = DEFAULT) -> BrierParts:
    """The Brier score as reliability, resolution and uncertainty, summed over classes.

    Args:
        probabilities: (N, C).
        targets: Class indices, (N,).
        convention: `count` and `bins` of it: how each class's probabilities are binned.

    Raises:
        InputError: As in `brier`.

    Source:
        Murphy 1973, Journal of Applied Meteorology 12; the rest within bins: Stephenson et al. 2008, Weather and
        Forecasting 23.
    """
    probabilities, targets = _checked(probabilities, targets)
    total = np.zeros(4)
    for c in range(probabilities.shape[1]):
        total += _class_parts(probabilities[:, c].astype(np.float64), targets == c, convention)
    score, reliability, resolution, uncertainty = map(float, total)
    return BrierParts(score, reliability, resolution, uncertainty, score - (reliability - resolution + uncertainty))


def _class_parts(probability: np.ndarray, happened: np.ndarray, convention: Convention) -> np.ndarray:
    edges, place = bin_places(probability, convention)
    items = np.bincount(place, minlength=len(edges) - 1)
    known = items > 0
    shares, counts = items[known] / len(place), items[known]
    mean = np.bincount(place, probability, len(items))[known] / counts
    rate = np.bincount(place, happened, len(items))[known] / counts
    base = happened.mean()
    return np.array(
        [
            np.mean((probability - happened) ** 2),
            shares @ (mean - rate) ** 2,
            shares @ (rate - base) ** 2,
            base * (1 - base),
        ]
    )
