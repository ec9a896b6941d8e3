"""Singular values: exact cases in closed form, estimates beside numpy's own decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelwright.tensors import EXACT, Spectrum, spectrum


def orthonormal(rows: int, columns: int, seed: int = 0) -> Any:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((rows, columns)))[0]


def with_values(rows: int, columns: int, values: Any) -> Any:
    """A matrix whose singular values are these and zeros."""
    k = len(values)
    return ((orthonormal(rows, k) * values) @ orthonormal(columns, k, 1).T).astype(np.float32)


def test_an_orthogonal_matrix_has_full_rank() -> None:
    found = spectrum(orthonormal(30, 30).astype(np.float32))
    assert found.exact
    assert found.effective_rank == pytest.approx(30, rel=1e-5)
    assert found.stable_rank == pytest.approx(30, rel=1e-5)
    assert found.rank_of(0.9) == 27
    assert found.rank_of(1.0) == 30


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (700, 900)])
def test_a_matrix_of_known_rank(shape: tuple[int, int]) -> None:
    found = spectrum(with_values(*shape, np.full(5, 3.0)))
    assert found.exact == (min(shape) <= EXACT)
    assert found.effective_rank == pytest.approx(5, rel=1e-3)
    np.testing.assert_allclose(found.values[:5], 3.0, rtol=1e-4)
    assert found.rank_of(0.99) == 5
    assert found.energy == pytest.approx(45, rel=1e-4)


def test_a_single_direction_and_nothing_at_all() -> None:
    one = spectrum(np.outer([3.0, 0, 0], [0, 4.0]))
    assert (one.effective_rank, one.stable_rank, one.rank_of(0.9)) == pytest.approx((1, 1, 1))
    assert one.values[0] == pytest.approx(12)
    for shape in ((3, 2), (600, 700), (0, 4), (1, 1)):
        none = spectrum(np.zeros(shape, np.float32))
        assert (none.effective_rank, none.stable_rank, none.rank_of(0.9), none.energy) == (0, 0, 0, 0)


def test_the_exact_one_is_numpys() -> None:
    matrix = np.random.default_rng(0).standard_normal((60, 200))
    expected = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(spectrum(matrix).values, expected, rtol=1e-9)
    p = expected / expected.sum()
    assert spectrum(matrix).effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)


DECAYS = {
    "noise": None,
    "power law": np.arange(1, 641) ** -0.5,
    "exponential": np.exp(-np.arange(640) / 100),
    "low rank and noise": np.r_[np.full(20, 30.0), np.full(620, 1.0)],
    "rank 200": np.full(200, 1.0),
}


@pytest.mark.parametrize("name", DECAYS)
@pytest.mark.parametrize("seed", [0, 1])
def test_estimates_are_near_the_exact_figures(name: str, seed: int) -> None:
    values = DECAYS[name]
    noise = np.random.default_rng(seed).standard_normal((640, 1000)).astype(np.float32)
    matrix = noise if values is None else with_values(640, 1000, values)
    true = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    exact, found = Spectrum(true, np.ones(640), True), spectrum(matrix, seed)
    assert not found.exact
    assert found.counts.sum() == pytest.approx(640)
    assert found.effective_rank == pytest.approx(exact.effective_rank, rel=0.09)
    assert found.stable_rank == pytest.approx(exact.stable_rank, rel=0.12)
    assert found.energy == pytest.approx(exact.energy, rel=0.12)  # of 4 probes: 3.6 % is one standard error at rank 200
    assert found.rank_of(0.9) == pytest.approx(exact.rank_of(0.9), rel=0.15)


def test_it_depends_on_its_seed_alone() -> None:
    matrix = np.random.default_rng(0).standard_normal((600, 600)).astype(np.float32)
    first, again, other = spectrum(matrix, 1), spectrum(matrix, 1), spectrum(matrix, 2)
    np.testing.assert_array_equal(first.values, again.values)
    assert not np.array_equal(first.values, other.values)
