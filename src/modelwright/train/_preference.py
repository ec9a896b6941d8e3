"""Reward models from preferences: the Bradley-Terry loss with a penalty that makes models comparable."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.errors import InputError, RunError
from modelwright.tensors import Array

_STEPS = 100
_SMALL = 1e-10


def preference_loss(chosen: Any, rejected: Any, eta: float = 0.01) -> tuple[Array, Array, Array]:
    """-log sigmoid(r+ - r-) + eta (r+ + r-)^2 of each pair, and its slopes by r+ and by r-; float64 (n,) each.

    Preferences say nothing about what is added to both rewards of a prompt, so that rewards of two models cannot be
    compared. The penalty makes them lie around 0.

    Args:
        chosen: Rewards r+ of what was preferred, (n,).
        rejected: Rewards r- of what was not, (n,).
        eta: Weight of the penalty, at least 0.

    Raises:
        InputError: `eta` is negative.

    Source:
        Eisenstein et al. 2024, arXiv:2312.09244, section 3.
    """
    if not eta >= 0:
        raise InputError(f"eta must be at least 0, got {eta}")
    chosen, rejected = np.asarray(chosen, np.float64), np.asarray(rejected, np.float64)
    margin, total = chosen - rejected, chosen + rejected
    loss = np.logaddexp(0, -margin) + eta * total**2
    wrong = 0.5 * (1 - np.tanh(margin / 2))  # sigmoid(-margin) without overflow
    return loss, -wrong + 2 * eta * total, wrong + 2 * eta * total


def fit_reward_head(chosen: Any, rejected: Any, *, eta: float = 0.01, ridge: float = 1e-3, counts: Any = None) -> Array:
    """A linear reward on fixed features, by the mean preference loss: its weights, float64 (d,).

    Args:
        chosen: Features of what was preferred, (n, d).
        rejected: Features of what was not, (n, d).
        eta: Weight of the penalty on sums of rewards, at least 0.
        ridge: Weight of half the squared norm of the weights, above 0: the loss then has one minimum.
        counts: How often each pair counts, such as in a bootstrap sample, (n,).

    Raises:
        InputError: Shapes do not fit, or a number is out of its range.
        RunError: Newton's method does not come to an end.
    """
    chosen, rejected = np.asarray(chosen, np.float64), np.asarray(rejected, np.float64)
    if chosen.ndim != 2 or chosen.shape != rejected.shape or not len(chosen):
        raise InputError(f"chosen and rejected must have one shape (n, d), got {chosen.shape} and {rejected.shape}")
    if not ridge > 0:
        raise InputError(f"ridge must be above 0, got {ridge}")
    share = np.ones(len(chosen)) if counts is None else np.asarray(counts, np.float64)
    if share.shape != (len(chosen),) or share.min() < 0 or not share.sum():
        raise InputError(f"counts must be {len(chosen)} numbers of at least 0, and not all 0")
    share = share / share.sum()
    difference, total = chosen - rejected, chosen + rejected
    weights = np.zeros(chosen.shape[1])

    def value(at: Array) -> float:
        return float(share @ preference_loss(chosen @ at, rejected @ at, eta)[0] + ridge / 2 * at @ at)

    for _ in range(_STEPS):
        _, up, down = preference_loss(chosen @ weights, rejected @ weights, eta)
        slope = chosen.T @ (share * up) + rejected.T @ (share * down) + ridge * weights
        wrong = 0.5 * (1 - np.tanh(difference @ weights / 2))
        curve = (difference.T * (share * wrong * (1 - wrong))) @ difference + (total.T * (2 * eta * share)) @ total
        step = np.linalg.solve(curve + ridge * np.eye(len(weights)), slope)
        if float(slope @ step) < _SMALL**2 or np.abs(slope).max() < _SMALL:
            return weights
        size, start = 1.0, value(weights)
        while size > _SMALL and value(weights - size * step) > start - 1e-4 * size * float(slope @ step) + 1e-15:
            size /= 2
        weights = weights - size * step
    raise RunError("a reward's weights were not found: the features may be of very different size")
