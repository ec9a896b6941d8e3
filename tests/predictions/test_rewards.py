"""Rewards of several models: aggregation, best-of-n in closed form and by drawing, preferences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.errors import InputError
from modelwright.predictions import (
    aggregate_rewards,
    best_of_n,
    best_of_n_curve,
    best_of_n_kl,
    rank_correlation,
    standardise_rewards,
)

AGGREGATORS = ("mean", "median", "min", "mean_minus_std", "quantile")


@pytest.mark.parametrize("how", AGGREGATORS)
def test_equal_models_are_one_model(how: str) -> None:
    one = np.random.default_rng(0).normal(size=(4, 6))
    np.testing.assert_allclose(aggregate_rewards(np.repeat(one[None], 5, 0), how), one, atol=1e-15)  # type: ignore[arg-type]
    np.testing.assert_allclose(aggregate_rewards(one[None], how), one)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from(AGGREGATORS))
def test_order_of_models_does_not_matter_and_a_constant_changes_no_choice(seed: int, models: int, how: str) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(models, 3, 5))
    found = aggregate_rewards(rewards, how)  # type: ignore[arg-type]
    np.testing.assert_allclose(aggregate_rewards(rewards[rng.permutation(models)], how), found)  # type: ignore[arg-type]
    np.testing.assert_allclose(aggregate_rewards(rewards + 2.0, how), found + 2.0)  # type: ignore[arg-type]
    low, middle, mean = (aggregate_rewards(rewards, name) for name in ("min", "median", "mean"))
    assert (low <= middle).all()
    assert (low <= mean + 1e-12).all()
    np.testing.assert_allclose(aggregate_rewards(rewards, "quantile", quantile=0.0), low)
    np.testing.assert_allclose(aggregate_rewards(rewards, "quantile", quantile=0.5), middle)


def test_mean_minus_std_is_of_the_population() -> None:
    assert aggregate_rewards(np.array([[0.0], [2.0]]), "mean_minus_std", std_weight=0.5)[0] == 0.5


def test_a_constant_on_one_model_changes_choices_of_the_lowest_only() -> None:
    rewards = np.array([[[3.0, 2.0, 1.0]], [[1.0, 2.5, 3.0]]])
    moved = rewards + np.array([-10.0, 0.0])[:, None, None]
    assert best_of_n(aggregate_rewards(rewards)) == best_of_n(aggregate_rewards(moved))
    assert best_of_n(aggregate_rewards(rewards, "min")) == [1]
    assert best_of_n(aggregate_rewards(moved, "min")) == [0], "the first model alone decides"
    reference = np.array([[0.0, 2.0], [1.0, 3.0]])
    back = standardise_rewards(moved, reference + np.array([[-10.0], [0.0]]))
    np.testing.assert_allclose(back, standardise_rewards(rewards, reference))


def test_what_is_refused() -> None:
    for rewards, how, options, what in (
        ([[1.0], [np.nan]], "mean", {}, "those of model 2 of 2 are not"),
        ([[1.0]], "average", {}, "rewards cannot be aggregated by 'average'"),
        ([[1.0]], "mean", {"std_weight": -1}, "std_weight must be at least 0, got -1"),
        ([[1.0]], "quantile", {"quantile": 25}, r"quantile must be in \[0, 1\], got 25"),
        (np.empty((0, 3)), "mean", {}, "with at least one model"),
    ):
        with pytest.raises(InputError, match=what):
            aggregate_rewards(rewards, how, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"model 2 gives every reference the same reward"):
        standardise_rewards(np.ones((2, 3)), np.array([[1.0, 2.0], [1.0, 1.0]]))
    with pytest.raises(InputError, match=r"best-of-n needs at least one candidate, got 0"):
        best_of_n_kl(0)
    with pytest.raises(InputError, match=r"n must be a whole number in \[1, 3\], the number of candidates, got 4"):
        best_of_n_curve(np.ones(3), np.ones(3), [4])

    with pytest.raises(InputError, match=r"n must be a whole number in \[1, 3\], the number of candidates, got 1.5"):
        best_of_n_curve(np.ones(3), np.ones(3), [1.5])  # type: ignore[list-item]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_divergence_is_that_of_the_largest_of_n(n: int) -> None:
    """The largest of n uniform draws has the density n u^(n-1): its divergence from uniform by quadrature."""
    u = (np.arange(200_000) + 0.5) / 200_000
    density = n * u ** (n - 1)
    assert best_of_n_kl(n) == pytest.approx(np.mean(density * np.log(density)), abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=6), st.integers(0, 100))
def test_the_curve_is_the_mean_over_all_draws(proxy: list[float], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=len(proxy))
    ns = list(range(1, len(proxy) + 1))
    found = best_of_n_curve(np.array(proxy), values, ns)
    for n, own in zip(ns, found, strict=True):
        draws = [
            values[list(subset)][int(best_of_n(np.array(proxy)[list(subset)]))]
            for subset in itertools.combinations(range(len(proxy)), n)
        ]
        assert own == pytest.approx(np.mean(draws))


def test_the_best_of_normal_draws() -> None:
    """The largest of 2 standard normal draws is 1 / sqrt(pi) on average; of all, it is the largest."""
    proxy = np.random.default_rng(0).normal(size=(200, 64))
    first, second, last = best_of_n_curve(proxy, proxy, [1, 2, 64])
    np.testing.assert_allclose(first, proxy.mean(1))
    assert second.mean() == pytest.approx(1 / math.sqrt(math.pi), abs=0.02)
    np.testing.assert_allclose(last, proxy.max(1))


def test_rank_correlation_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rewards = np.random.default_rng(0).integers(0, 6, (3, 7, 9)).astype(float)
    found = rank_correlation(rewards)
    for i, j in itertools.product(range(3), repeat=2):
        expected = np.mean([stats.spearmanr(a, b)[0] for a, b in zip(rewards[i], rewards[j], strict=True)])
        assert found[i, j] == pytest.approx(expected)
