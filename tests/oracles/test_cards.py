"""The numbers that the method cards give for generated vectors, and what DARE does on average."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from modelwright.methods import merging
from modelwright.tensors import NoiseKey

TASKS, SIZE, SUPPORT = 8, 20_000, 1_000


def task_vectors(outliers: int = 0) -> tuple[Any, Any]:
    """Signals (8, 20000) on disjoint supports of 5 %, sizes 1 to 1.2, and the same with noise 0.05 everywhere."""
    rng = np.random.default_rng(0)
    signals = np.zeros((TASKS, SIZE))
    places = rng.permutation(SIZE)[: TASKS * SUPPORT].reshape(TASKS, SUPPORT)
    for signal, place in zip(signals, places, strict=True):
        signal[place] = rng.uniform(1, 1.2, SUPPORT) * rng.choice([-1, 1], SUPPORT)
    taus = signals + rng.normal(0, 0.05, signals.shape)
    for tau in taus:
        tau[rng.choice(SIZE, outliers, replace=False)] = 20 * rng.choice([-1, 1], outliers)
    return signals, taus


def recovered(merged: Any, signals: Any) -> tuple[float, float]:
    """Mean share of each signal in the merged vector, and the rms where no signal is."""
    shares = (signals @ merged) / np.sum(signals**2, axis=1)
    return float(np.mean(shares)), float(np.sqrt(np.mean(merged[~signals.any(axis=0)] ** 2)))


@pytest.mark.parametrize(
    ("method", "parameters", "share", "rms"),
    [
        ("linear", {}, 0.125, 0.018),
        ("task_arithmetic", {}, 1.00, 0.143),
        ("ties", {"density": 0.05}, 1.00, 0.004),
        ("ties", {"density": 0.2}, 0.78, 0.085),
    ],
)
def test_ties_card(method: str, parameters: dict[str, Any], share: float, rms: float) -> None:
    signals, taus = task_vectors()
    base = {} if method == "linear" else {"base": np.zeros(SIZE)}
    found = recovered(getattr(merging, method)(list(taus), **base, **parameters), signals)
    assert found == pytest.approx((share, rms), abs=0.02)


@pytest.mark.parametrize(
    ("outliers", "method", "parameters", "error"),
    [
        (20, "task_arithmetic", {}, 2.57),
        (20, "breadcrumbs", {"density": 0.05, "gamma": 0.0}, 2.57),
        (20, "breadcrumbs", {"density": 0.05, "gamma": 0.002}, 0.16),
        (0, "breadcrumbs", {"density": 0.05, "gamma": 0.002}, 0.22),
        (0, "breadcrumbs", {"density": 0.05, "gamma": 0.0}, 0.05),
    ],
)
def test_breadcrumbs_card(outliers: int, method: str, parameters: dict[str, Any], error: float) -> None:
    signals, taus = task_vectors(outliers)
    clean = signals.sum(axis=0)
    merged = getattr(merging, method)(list(taus), base=np.zeros(SIZE), **parameters)
    assert np.linalg.norm(merged - clean) / np.linalg.norm(clean) == pytest.approx(error, abs=0.03)


def random_models(count: int = 4) -> tuple[list[Any], Any]:
    rng = np.random.default_rng(1)
    base = rng.standard_normal(60)
    return [base + rng.standard_normal(60) for _ in range(count)], base


def test_ties_of_one_sign_at_full_density_is_the_mean() -> None:
    models, base = random_models()
    above = [base + np.abs(model - base) for model in models]
    np.testing.assert_allclose(merging.ties(above, base=base), np.mean(above, axis=0), rtol=1e-12)


def test_ties_of_one_model_is_that_model_trimmed() -> None:
    (model, *_), base = random_models()
    changed = merging.ties([model], base=base, density=0.25) != base
    assert np.count_nonzero(changed) == 15
    assert np.min(np.abs(model - base)[changed]) > np.max(np.abs(model - base)[~changed])


def test_breadcrumbs_at_full_density_is_task_arithmetic() -> None:
    models, base = random_models()
    found = merging.breadcrumbs(models, base=base, weight=0.3, density=1.0, gamma=0.0)
    np.testing.assert_array_equal(found, merging.task_arithmetic(models, base=base, weight=0.3))


@pytest.mark.parametrize("density", [0.02, 0.15, 0.5, 0.99])
def test_breadcrumbs_keeps_exactly_its_share(density: float) -> None:
    (model, *_), base = random_models()
    found = merging.breadcrumbs([model], base=base, density=density, gamma=0.1)
    assert np.count_nonzero(found - base) == int(density * base.size)


def test_task_arithmetic_in_the_known_cases() -> None:
    models, base = random_models()
    mean = merging.task_arithmetic(models, base=base, lambda_=1 / len(models))
    np.testing.assert_allclose(mean, merging.linear(models), rtol=1e-12)
    np.testing.assert_array_equal(merging.task_arithmetic(models, base=base, lambda_=0.0), base)
    opposite = [models[0], 2 * base - models[0]]
    np.testing.assert_allclose(merging.task_arithmetic(opposite, base=base), base, atol=1e-14)
    np.testing.assert_allclose(merging.task_arithmetic(models[:1], base=base), models[0], rtol=1e-12)


def test_a_model_named_twice_counts_twice() -> None:
    (a, b, *_), _ = random_models()
    np.testing.assert_allclose(merging.linear([a, b, b]), merging.linear([a, b], weight=[1, 2]), rtol=1e-14)


def test_dare_keeps_everything_at_density_one_and_nothing_at_zero() -> None:
    models, base = random_models()
    for rescale in (True, False, "l2", "expectation"):
        full = merging.dare_linear(models, base=base, density=1.0, rescale=rescale)
        np.testing.assert_array_equal(full, merging.task_arithmetic(models, base=base))
        np.testing.assert_array_equal(merging.dare_linear(models, base=base, density=0.0, rescale=rescale), base)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_is_unbiased(density: float) -> None:
    """The mean of 2000 draws is the task vector within five standard errors, element by element."""
    draws, tau = 2_000, np.random.default_rng(2).standard_normal(50)
    repeated = np.broadcast_to(tau, (draws, tau.size)).copy()
    key = NoiseKey(seed=7, tensor="weight")
    result = merging.dare_linear(
        [repeated], base=np.zeros_like(repeated), density=density, rescale="expectation", key=key
    )
    spread = np.abs(tau) * math.sqrt((1 - density) / density)
    assert np.all(np.abs(result.mean(axis=0) - tau) <= 5 * spread / math.sqrt(draws))
    np.testing.assert_allclose(result.std(axis=0), spread, rtol=0.2)


@pytest.mark.parametrize(("rescale", "order"), [(True, 1), ("l1", 1), ("l2", 2)])
def test_dare_restores_the_norm_it_names(rescale: bool | str, order: int) -> None:
    (model, *_), base = random_models()
    found = merging.dare_linear([model], base=base, density=0.3, rescale=rescale) - base
    assert np.linalg.norm(found, order) == pytest.approx(np.linalg.norm(model - base, order), rel=1e-12)
