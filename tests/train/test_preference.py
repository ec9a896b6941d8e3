"""Rewards from preferences: slopes, the penalty, and the minimum that is found."""

from __future__ import annotations

import numpy as np
import pytest

from modelwright.errors import InputError
from modelwright.train import fit_reward_head, preference_loss


def test_slopes_are_those_of_finite_differences() -> None:
    up, down = np.random.default_rng(0).normal(size=(2, 6)) * 3
    _, by_up, by_down = preference_loss(up, down, 0.05)
    step = 1e-6
    for slope, moves in ((by_up, (step, 0.0)), (by_down, (0.0, step))):
        after = preference_loss(up + moves[0], down + moves[1], 0.05)[0]
        before = preference_loss(up - moves[0], down - moves[1], 0.05)[0]
        np.testing.assert_allclose(slope, (after - before) / (2 * step), atol=1e-6)


def test_the_penalty_pulls_both_alike_and_preferences_apart() -> None:
    up, down = np.array([1.0, -2.0]), np.array([3.0, 0.5])
    plain, with_penalty = preference_loss(up, down, 0.0), preference_loss(up, down, 0.1)
    np.testing.assert_allclose(plain[1] + plain[2], 0, atol=1e-15)
    for side in (1, 2):
        np.testing.assert_allclose(with_penalty[side] - plain[side], 2 * 0.1 * (up + down))
    assert preference_loss(np.array([800.0]), np.array([-800.0]), 0.0)[0] == 0
    assert preference_loss(np.array([-800.0]), np.array([800.0]), 0.0)[0] == 1600


def test_the_head_is_the_minimum() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(size=(2, 80, 5))
    counts = rng.integers(0, 3, 80)
    found = fit_reward_head(chosen, rejected, eta=0.02, ridge=0.1, counts=counts)

    def value(w: np.ndarray) -> float:
        losses = preference_loss(chosen @ w, rejected @ w, 0.02)[0]
        return float((counts * losses).sum() / counts.sum() + 0.05 * w @ w)

    np.testing.assert_allclose(found, optimize.minimize(value, np.zeros(5), tol=1e-10).x, atol=1e-4)


def test_preferences_are_learnt() -> None:
    rng = np.random.default_rng(0)
    truth, pairs = rng.normal(size=8), rng.normal(size=(2, 500, 8))
    first = pairs[0] @ truth > pairs[1] @ truth
    chosen = np.where(first[:, None], *pairs)
    rejected = np.where(first[:, None], pairs[1], pairs[0])
    found = fit_reward_head(chosen, rejected)
    assert np.corrcoef(found, truth)[0, 1] > 0.98
    np.testing.assert_array_equal(found, fit_reward_head(chosen, rejected, counts=np.full(500, 3.0)))


def test_what_is_refused() -> None:
    pairs = np.zeros((4, 2))
    with pytest.raises(InputError, match="eta must be at least 0, got -1"):
        fit_reward_head(pairs, pairs, eta=-1)
    with pytest.raises(InputError, match="ridge must be above 0, got 0"):
        fit_reward_head(pairs, pairs, ridge=0)
    with pytest.raises(InputError, match=r"one shape \(n, d\), got \(4, 2\) and \(3, 2\)"):
        fit_reward_head(pairs, pairs[:3])
    with pytest.raises(InputError, match="counts must be 4 numbers of at least 0, and not all 0"):
        fit_reward_head(pairs, pairs, counts=np.zeros(4))
