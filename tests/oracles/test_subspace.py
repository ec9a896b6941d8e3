"""The subspace methods against the papers' formulas in float64, by other roads than the library's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.methods import merging
from modelwright.tensors import polar, singular

SHAPES = [(6, 9), (9, 6), (7, 7), (12, 5), (1, 4), (4, 1)]


def tuned(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[list[Any], Any, list[Any]]:
    """Models, their base and their task vectors."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(shape)
    deltas = [rng.standard_normal(shape) for _ in range(count)]
    return [base + delta for delta in deltas], base, deltas


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


def whitened(x: Any) -> Any:
    """X (X^T X)^(-1/2), the paper's equation 6: Procrustes' answer by eigenvectors; on the kernel of X it is zero."""
    values, vectors = np.linalg.eigh(x.T @ x)
    roots = np.array([1 / np.sqrt(v) if v > 1e-12 * values[-1] else 0.0 for v in values])
    return x @ vectors @ np.diag(roots) @ vectors.T


def tsv(deltas: Sequence[Any], count: int) -> Any:
    left, values, right = [], [], []
    for delta in deltas:
        u, s, vt = np.linalg.svd(delta)
        left += [u[:, j] for j in range(count)]
        values += [s[j] for j in range(count)]
        right += [vt[j] for j in range(count)]
    return whitened(np.stack(left, axis=1)) @ np.diag(values) @ whitened(np.stack(right, axis=1)).T


def iso_c(deltas: Sequence[Any]) -> Any:
    total = sum(deltas)
    side = min(total.shape)
    rotation = whitened(total) if total.shape[0] >= total.shape[1] else whitened(total.T).T
    return rotation * np.linalg.norm(total, "nuc") / side


def iso_cts(deltas: Sequence[Any], common: float) -> Any:
    total, n = sum(deltas), len(deltas)
    side = min(total.shape)
    own = round((side - int(side * common)) / n)
    kept = side - own * n
    u, s, vt = np.linalg.svd(total)
    left, values, right = list(u.T[:kept]), list(s[:kept]), list(vt[:kept])
    for delta in deltas:
        rest = delta - sum((np.outer(x, x) @ delta for x in u.T[:kept]), np.zeros_like(delta))
        ut, st, vtt = np.linalg.svd(rest)
        left, values, right = left + list(ut.T[:own]), values + list(st[:own]), right + list(vtt[:own])
    rotation = whitened(np.stack(left, axis=1)) @ whitened(np.stack(right, axis=1)).T
    return rotation * np.mean(values)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_tsv(shape: tuple[int, int], count: int) -> None:
    models, base, deltas = tuned(count, shape)
    expected = tsv(deltas, max(1, min(shape) // count))
    close(merging.tsv(models, base=base, lambda_=0.7) - base, 0.7 * expected)


@pytest.mark.parametrize("rank", [0.2, 0.5, 1.0])
def test_tsv_with_a_rank_of_ones_own(rank: float) -> None:
    models, base, deltas = tuned(2, (10, 8))
    close(merging.tsv(models, base=base, rank=rank) - base, tsv(deltas, int(rank * 8)))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_iso_c(shape: tuple[int, int], count: int) -> None:
    models, base, deltas = tuned(count, shape)
    weights = [1.0, 0.5, 2.0, -1.0][:count]
    expected = iso_c([w * delta for w, delta in zip(weights, deltas, strict=True)])
    close(merging.iso_c(models, base=base, weight=weights, lambda_=1.3) - base, 1.3 * expected)


@pytest.mark.parametrize("common", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("shape", [(10, 14), (14, 10), (11, 11)])
def test_iso_cts(shape: tuple[int, int], count: int, common: float) -> None:
    models, base, deltas = tuned(count, shape)
    close(merging.iso_cts(models, base=base, common=common) - base, iso_cts(deltas, common))


def test_iso_cts_without_room_for_tasks_is_iso_c() -> None:
    models, base, _ = tuned(3, (6, 8))
    close(merging.iso_cts(models, base=base, common=1.0), merging.iso_c(models, base=base))


def test_iso_cts_of_many_tasks_never_wants_more_directions_than_there_are() -> None:
    models, base, _ = tuned(3, (5, 8))  # 5 / 3 rounds to 2, and twice three directions are one too many
    found = merging.iso_cts(models, base=base, common=0.0) - base
    values = np.linalg.svd(found, compute_uv=False)
    np.testing.assert_allclose(values, values[0], rtol=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize(("shape", "count"), [((6, 9), 2), ((9, 6), 3), ((3, 40), 2)])
def test_wudi_is_adam_on_the_papers_loss(shape: tuple[int, int], count: int) -> None:
    torch = pytest.importorskip("torch")
    models, base, deltas = tuned(count, shape)
    stacked = torch.tensor(np.stack(deltas))
    merged = torch.nn.Parameter(stacked.sum(0))
    adam = torch.optim.Adam([merged], lr=1e-3)
    for _ in range(50):
        adam.zero_grad()
        disturbance = (merged - stacked) @ stacked.transpose(1, 2)
        loss = (disturbance.square().sum((1, 2)) / stacked.square().sum((1, 2))).sum()
        loss.backward()
        adam.step()
    found = merging.wudi(models, base=base, steps=50, rate=1e-3) - base
    close(found, merged.detach().numpy())
    assert np.abs(found - sum(deltas)).max() > 1e-2


@pytest.mark.parametrize("shape", [(200, 90), (40, 300)])
def test_wudi_foresees_most_gradients(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from modelwright.methods.merging import _wudi

    rng = np.random.default_rng(0)
    base = rng.standard_normal(shape)
    deltas = [0.01 * rng.standard_normal(shape) for _ in range(3)]
    models = [base + delta for delta in deltas]
    exact = merging.wudi(models, base=base, rate=1e-4) - base
    for error, most in ((0.01, 100), (0.001, 299)):
        counted: list[int] = []
        length = _wudi._length
        monkeypatch.setattr(_wudi, "_length", lambda a, length=length, to=counted: to.append(1) or length(a))
        found = merging.wudi(models, base=base, rate=1e-4, gradient_error=error) - base
        monkeypatch.undo()
        assert len(counted) / 2 < most  # two for each gradient that is compared with what was foreseen
        assert np.linalg.norm(found - exact) < error * np.linalg.norm(exact - sum(deltas))


def test_wudi_goes_by_rows_to_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from modelwright.methods.merging import _wudi

    models, base, _ = tuned(3, (70, 20))
    whole = merging.wudi(models, base=base)
    monkeypatch.setattr(_wudi, "_IN_CACHE", 1)
    close(merging.wudi(models, base=base), whole)


def wudi_loss(tau: Any, deltas: Sequence[Any]) -> float:
    return float(sum(np.sum(((tau - delta) @ delta.T) ** 2) / np.sum(delta**2) for delta in deltas))


@pytest.mark.parametrize(("shape", "count"), [((6, 9), 2), ((9, 6), 3), ((2, 30), 3)])
def test_wudi_closed_is_the_minimum_nearest_to_the_sum(shape: tuple[int, int], count: int) -> None:
    models, base, deltas = tuned(count, shape)
    metric = sum(delta.T @ delta / np.sum(delta**2) for delta in deltas)
    target = sum(delta @ delta.T @ delta / np.sum(delta**2) for delta in deltas)
    total = sum(deltas)
    change, *_ = np.linalg.lstsq(metric.T, (target - total @ metric).T, rcond=1e-10)  # the smallest that solves it
    found = merging.wudi(models, base=base, solver="closed") - base
    close(found, total + change.T)
    descent = merging.wudi(models, base=base, steps=300, rate=1e-3) - base
    assert wudi_loss(found, deltas) <= wudi_loss(descent, deltas) < wudi_loss(total, deltas)


@pytest.mark.parametrize("solver", ["adam", "closed"])
def test_wudi_of_tasks_with_inputs_of_their_own_is_the_sum(solver: Any) -> None:
    """Task vectors whose rows are orthogonal disturb each other nowhere: the loss of their sum is zero."""
    deltas = [np.zeros((3, 6)), np.zeros((3, 6))]
    rng = np.random.default_rng(0)
    deltas[0][:, :3], deltas[1][:, 3:] = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    close(merging.wudi(deltas, base=np.zeros((3, 6)), solver=solver), deltas[0] + deltas[1])


def test_wudi_leaves_other_tensors_at_the_base_where_asked() -> None:
    models, base, deltas = tuned(3, (5,))
    close(merging.wudi(models, base=base) - base, np.mean(deltas, axis=0))
    np.testing.assert_array_equal(merging.wudi(models, base=base, others="base"), base)


# --- what holds for all of them --------------------------------------------------------------------------------------

FAMILY = ["tsv", "iso_c", "iso_cts", "wudi"]


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5,)])
def test_tensors_that_are_no_matrices_get_the_mean_of_the_changes(method: str, shape: tuple[int, ...]) -> None:
    models, base, deltas = tuned(3, shape)
    found = getattr(merging, method)(models, base=base, lambda_=0.5)
    close(found - base, 0.5 * np.mean(deltas, axis=0))


@pytest.mark.parametrize("method", FAMILY)
def test_kernels_are_matrices_of_outputs_by_the_rest_or_averaged(method: str) -> None:
    models, base, deltas = tuned(2, (4, 3, 2, 2))
    function = getattr(merging, method)
    flat = function([model.reshape(4, 12) for model in models], base=base.reshape(4, 12))
    np.testing.assert_array_equal(function(models, base=base), flat.reshape(base.shape))
    close(function(models, base=base, matrices="linear") - base, np.mean(deltas, axis=0))
    close(function([m[0, 0] for m in models], base=base[0, 0], matrices="none"), np.mean([m[0, 0] for m in models], 0))


@pytest.mark.parametrize("method", FAMILY)
def test_a_model_that_was_not_tuned_takes_no_part_in_the_directions(method: str) -> None:
    models, base, deltas = tuned(1, (6, 8))
    found = getattr(merging, method)([*models, base], base=base) - base
    expected = {
        "tsv": tsv(deltas, 3), "iso_c": iso_c(deltas), "iso_cts": iso_cts([*deltas, 0 * base], 0.8), "wudi": deltas[0],
    }[method]  # fmt: skip
    if method != "iso_cts":  # whose zero vector has arbitrary directions of its own in the formula
        close(found, expected)
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_tsv_of_equal_models_is_that_model_cut(count: int) -> None:
    models, base, (delta,) = tuned(1, (16, 20))
    u, s, vt = np.linalg.svd(delta, full_matrices=False)
    kept = 16 // count
    close(merging.tsv(models * count, base=base) - base, (u[:, :kept] * s[:kept]) @ vt[:kept])


def low_rank(rows: int, columns: int, rank: int, noise: float) -> Any:
    rng = np.random.default_rng(3)
    exact = rng.standard_normal((rows, rank)) * 2.0 ** -np.arange(rank) @ rng.standard_normal((rank, columns))
    return exact + noise * rng.standard_normal((rows, columns))


@pytest.mark.parametrize("how", ["gram", "sketch"])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
def test_other_roads_find_the_leading_directions(shape: tuple[int, int], how: Any) -> None:
    matrix = low_rank(*shape, rank=6, noise=1e-6)
    exact, found = singular(matrix, 6), singular(matrix, 6, how)
    np.testing.assert_allclose(found[1], exact[1], rtol=1e-10)
    close((found[0] * found[1]) @ found[2], (exact[0] * exact[1]) @ exact[2])
    close(found[0].T @ found[0], np.eye(6))
    again = singular(matrix, 6, how)
    assert all(np.array_equal(one, two) for one, two in zip(found, again, strict=True))


@pytest.mark.parametrize("how", ["exact", "gram", "sketch"])
def test_directions_of_nothing_are_left_out(how: Any) -> None:
    u, s, vt = singular(low_rank(20, 30, rank=3, noise=0.0), 8, how)
    assert np.count_nonzero(s) == np.count_nonzero(u.any(axis=0)) == np.count_nonzero(vt.any(axis=1)) == 3


@pytest.mark.parametrize(
    ("rank", "road", "tolerance"),
    [(0.05, "gram", 1e-6), (0.5, "gram", 1e-3), (0.6, "exact", 0.0), (0.05, "sketch", 1e-6)],
)
def test_tsv_takes_the_cheapest_road_that_is_as_good(rank: float, road: Any, tolerance: float) -> None:
    """On spectra that fall, all roads lead to the same merge; at 0.5 the last direction is a millionth of the first."""
    base = np.zeros((256, 260))
    rng = np.random.default_rng(0)
    falling = 0.9 ** np.arange(256)
    models = [
        np.linalg.qr(rng.standard_normal((256, 256)))[0] * falling @ rng.standard_normal((256, 260)) for _ in range(2)
    ]
    exact = merging.tsv(models, base=base, rank=rank, decomposition="exact")
    found = merging.tsv(models, base=base, rank=rank, decomposition=road)
    assert np.linalg.norm(found - exact) <= tolerance * np.linalg.norm(exact)
    chosen = "exact" if rank > 0.5 else "gram"
    expected = found if chosen == road else merging.tsv(models, base=base, rank=rank, decomposition=chosen)
    np.testing.assert_array_equal(merging.tsv(models, base=base, rank=rank), expected)


def test_the_polar_factor_is_the_nearest_orthonormal_matrix() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 4))
    nearest = polar(x)
    close(nearest.T @ nearest, np.eye(4))
    for _ in range(20):
        other, _ = np.linalg.qr(x + 0.1 * rng.standard_normal(x.shape))
        assert np.linalg.norm(x - nearest) <= np.linalg.norm(x - other)
    doubled = np.concatenate([x, x], axis=1)  # has a kernel, and the factor is zero there
    close(polar(doubled), np.concatenate([nearest, nearest], axis=1) / np.sqrt(2))
    np.testing.assert_array_equal(polar(np.zeros((3, 2))), np.zeros((3, 2)))


@pytest.mark.parametrize("method", FAMILY)
def test_a_filter_says_which_tensors_are_matrices(method: str) -> None:
    rng = np.random.default_rng(0)
    names = ("embed_tokens.weight", "layers.0.up.weight", "layers.0.norm.weight")
    base = {name: rng.standard_normal((4, 6) if "norm" not in name else (6,)).astype(np.float32) for name in names}
    models = [{name: x + rng.standard_normal(x.shape).astype(np.float32) for name, x in base.items()} for _ in "ab"]
    merged = mw.merge(
        models, base=base, method=method, matrices=[{"filter": "embed", "value": "none"}, {"value": "all"}]
    ).arrays()
    mean = {name: np.mean([model[name] for model in models], axis=0) for name in names}
    np.testing.assert_allclose(merged["embed_tokens.weight"], mean["embed_tokens.weight"], atol=1e-6)
    np.testing.assert_allclose(merged["layers.0.norm.weight"], mean["layers.0.norm.weight"], atol=1e-6)
    assert np.abs(merged["layers.0.up.weight"] - mean["layers.0.up.weight"]).max() > 0.1
