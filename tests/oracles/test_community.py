"""The community's methods against their float64 oracles, their theorems and their corners."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import modelwright as mw
from modelwright.errors import InputError
from modelwright.methods import METHODS, merging
from modelwright.tensors import NoiseKey

from . import community, truth
from .test_methods import QUICK, agrees, inputs, python_names, task_vector_cases

SHAPES = [(), (1,), (3,), (4, 6), (2, 3, 4)]
NAMES = ["della", "della_linear", "multislerp", "karcher", "sce", "nearswap", "arcee_fusion", "ram", "ramplus_tl"]


# --- sce ------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 5),
    shape=st.sampled_from([*SHAPES, (0,)]),
    seed=st.integers(0, 999),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1),
    floor=st.sampled_from([0.0, 1e-6, 2.0, 100.0]),
)
def test_sce(count: int, shape: tuple[int, ...], seed: int, share: float, floor: float) -> None:
    models, base = inputs(count, shape, seed, False)
    found = merging.sce(models, base=base, select_topk=share, floor=floor)
    agrees(found, community.sce(models, base, share, floor), shape)


def test_sce_weighs_by_energy_unless_the_changes_are_below_the_floor() -> None:
    """Changes of 0.0009 and 0.0003 have mean squares that add up to 9e-7."""
    tau = np.array([3.0, 1.0])
    for step, expected in ((1.0, 3 * 0.9 + 0.1), (3e-4, 2.0)):
        models = [np.full(4, step * t) for t in tau]
        np.testing.assert_allclose(merging.sce(models, base=np.zeros(4)), np.full(4, step * expected), rtol=1e-12)
        paper = merging.sce(models, base=np.zeros(4), floor=0.0)
        np.testing.assert_allclose(paper, np.full(4, step * 2.8), rtol=1e-12)


def test_sce_can_merge_all_entries_with_the_weights_of_the_selected() -> None:
    """As the official code does: what is selected decides the weights, and nothing else."""
    deltas = [np.array([4.0, 1.0, -2.0, 0.5]), np.array([-2.0, 1.5, -2.0, 0.5])]  # the first entry varies most
    found = merging.sce(deltas, base=np.zeros(4), select_topk=0.5, floor=0.0, merged="all")
    first, second = 16 / 20, 4 / 20
    np.testing.assert_allclose(found, [4.0, first * 1.0 + second * 1.5, -2.0, 0.5], rtol=1e-12)
    kept = merging.sce(deltas, base=np.zeros(4), select_topk=0.5, floor=0.0)
    np.testing.assert_allclose(kept, [4.0, 0.0, 0.0, 0.0], rtol=1e-12)


def test_sce_selects_nothing_where_nothing_varies() -> None:
    (model,), base = inputs(1, (3, 4), 0, False)
    np.testing.assert_array_equal(merging.sce([model] * 3, base=base, select_topk=0.9), base)
    assert not np.array_equal(merging.sce([model] * 3, base=base), base)


# --- nearswap -------------------------------------------------------------------------------------------------------


@QUICK
@given(shape=st.sampled_from([*SHAPES, (0,)]), seed=st.integers(0, 999), coarse=st.booleans(), t=st.floats(0, 3))
def test_nearswap(shape: tuple[int, ...], seed: int, coarse: bool, t: float) -> None:
    (model,), base = inputs(1, shape, seed, coarse)
    agrees(merging.nearswap([model], base=base, t=t), community.nearswap(model, base, t), shape)


def test_nearswap_takes_over_what_is_near_to_the_bit() -> None:
    (model,), base = inputs(1, (500,), 0, False)
    near = np.abs(model - base) <= 1.0
    found = merging.nearswap([model], base=base, t=1.0)
    assert 0 < near.mean() < 1
    np.testing.assert_array_equal(found[near], model[near])
    np.testing.assert_allclose(np.abs(found - base)[~near], 1.0, rtol=1e-12)


# --- multislerp and karcher -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("with_base", [True, False])
@pytest.mark.parametrize("weight", [[1.0, 1.0], [0.2, 0.5, 0.9], [1.0, -0.3, 0.6, 0.5]])
@pytest.mark.parametrize("shape", [(3,), (4, 6), (2, 3, 4)])
def test_multislerp(shape: tuple[int, ...], weight: list[float], with_base: bool, normalize: bool) -> None:
    models, base = inputs(len(weight), shape, 5, False)
    origin = base if with_base else np.zeros(shape)
    vectors = [truth.flat(model - origin) for model in models]
    expected = origin.reshape(-1) + np.array(community.multislerp(vectors, weight, normalize))
    found = merging.multislerp(
        models, base=base if with_base else None, weight=weight, normalize_weights=normalize, eps=1e-16
    )
    agrees(found, expected, shape)


def test_multislerp_keeps_norms_that_averaging_shrinks() -> None:
    models, _ = inputs(4, (300,), 0, False)
    found = np.linalg.norm(merging.multislerp(models))
    assert found == pytest.approx(np.mean([np.linalg.norm(model) for model in models]), rel=1e-6)
    assert np.linalg.norm(merging.linear(models)) < 0.6 * found


@pytest.mark.parametrize("count", [2, 3, 4])
def test_multislerp_without_a_direction_is_the_straight_line(count: int) -> None:
    """Unchanged tensors, and units that cancel, for any number of models."""
    base = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    np.testing.assert_array_equal(merging.multislerp([base] * count, base=base), base)
    angles = [2 * math.pi * i / count for i in range(count)]
    spokes = [np.array([math.cos(a), math.sin(a)]) * (i + 1) for i, a in enumerate(angles)]
    np.testing.assert_allclose(merging.multislerp(spokes), np.mean(spokes, axis=0), atol=1e-12)


def test_multislerp_refuses_weights_that_cancel() -> None:
    models, _ = inputs(3, (4,), 0, False)
    with pytest.raises(InputError, match=r"multislerp: the weights add up to 0.* set normalize_weights: false\."):
        merging.multislerp(models, weight=[0.1, 0.2, -0.3])
    assert np.all(np.isfinite(merging.multislerp(models, weight=[0.1, 0.2, -0.3], normalize_weights=False)))


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("shape", [(3,), (4, 6), (2, 3, 4)])
def test_karcher(shape: tuple[int, ...], count: int, steps: int) -> None:
    models, _ = inputs(count, shape, 5, False)
    expected = community.karcher([truth.flat(model) for model in models], steps)
    found = merging.karcher(models, max_iter=steps, tol=1e-9)
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_logarithms_at_the_karcher_mean_cancel(count: int) -> None:
    models, _ = inputs(count, (40,), count, False)
    units = [truth.flat(model / np.linalg.norm(model)) for model in models]
    found = merging.karcher(models, max_iter=100, tol=1e-8)
    centre = truth.flat(found / np.linalg.norm(found))
    assert math.hypot(*community.pull(centre, units)) < 1e-7
    assert np.linalg.norm(found) == pytest.approx(np.mean([np.linalg.norm(model) for model in models]))


def test_karcher_of_two_is_slerp_half_way() -> None:
    (a, b), _ = inputs(2, (30,), 1, False)
    b = b * np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(merging.karcher([a, b]), merging.slerp([b], base=a, t=0.5), rtol=1e-7, atol=1e-9)


def test_karcher_in_the_degenerate() -> None:
    """Zero tensors have no say in the direction and shorten the result; opposites leave the first one's direction."""
    a = np.array([3.0, 4.0])
    np.testing.assert_allclose(merging.karcher([a, np.zeros(2)]), a / 2, rtol=1e-12)
    np.testing.assert_array_equal(merging.karcher([np.zeros(2)] * 3), np.zeros(2))
    np.testing.assert_allclose(merging.karcher([np.full(2, 1e-7), np.full(2, 3e-7)]), np.full(2, 2e-7), rtol=1e-9)
    np.testing.assert_allclose(merging.karcher([a, -3 * a]), 2 * a, rtol=1e-12)


# --- ram ------------------------------------------------------------------------------------------------------------


@QUICK
@given(
    count=st.integers(1, 4),
    shape=st.sampled_from([*SHAPES, (0,)]),
    seed=st.integers(0, 999),
    coarse=st.booleans(),
    epsilon=st.sampled_from([0.0, 1e-5, 0.6, 1.2]),
    r=st.sampled_from([0.0, 0.1, 2.0]),
    alpha=st.sampled_from([0.0, 0.2, 50.0]),
)
def test_ram(
    count: int, shape: tuple[int, ...], seed: int, coarse: bool, epsilon: float, r: float, alpha: float
) -> None:
    models, base = inputs(count, shape, seed, coarse)
    found = merging.ramplus_tl(models, base=base, epsilon=epsilon, r=r, alpha=alpha)
    agrees(found, community.ram(models, base, epsilon, r, alpha), shape)
    plain = merging.ram(models, base=base, epsilon=epsilon)
    agrees(plain, community.ram(models, base, epsilon, 0.0, 0.0), shape)


# --- arcee_fusion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [*SHAPES, (40, 1), (1, 40), (3, 1, 5)])
def test_arcee_fusion(shape: tuple[int, ...], seed: int) -> None:
    (model,), base = inputs(1, shape, seed, False)
    agrees(merging.arcee_fusion([model], base=base), community.arcee_fusion(model, base), shape)


def test_arcee_fusion_sees_a_divergence_that_float32_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that change by 1e-4 or 3e-4 of a standard deviation differ in divergence by the square of that."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((2, 4000)).astype(np.float32)
    steps = rng.standard_normal(base.shape) * np.array([[1e-4], [3e-4]])
    model = (base + steps).astype(np.float32)
    from modelwright.methods.merging import _arcee_fusion

    exact = _arcee_fusion._divergence(model.astype(np.float64), base.astype(np.float64))
    np.testing.assert_allclose(_arcee_fusion._divergence(model, base), exact, rtol=1e-9)
    assert 4 < float(exact[1, 0] / exact[0, 0]) < 20
    whole = merging.arcee_fusion([model], base=base)
    monkeypatch.setattr(_arcee_fusion, "_BLOCK", 4000)  # row by row
    np.testing.assert_array_equal(merging.arcee_fusion([model], base=base), whole)


# --- della ----------------------------------------------------------------------------------------------------------


@QUICK
@pytest.mark.parametrize("elect", [False, True])
@given(
    case=task_vector_cases(density=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]), rescale=[False, True, "expectation"]),
    half=st.sampled_from([0.0, 0.1, 0.19]),
    seed=st.integers(0, 999),
)
def test_della_with_given_masks(
    elect: bool, case: tuple[list[Any], Any, dict[str, Any]], half: float, seed: int
) -> None:
    models, base, p = case
    rng = np.random.default_rng(seed)
    masks = [np.asarray(rng.random(base.shape) < 0.6) for _ in models]
    p = p | {"epsilon": [half] * len(models)}
    method = merging.della if elect else merging.della_linear
    found = method(models, base=base, masks=masks, **python_names(p))
    agrees(found, community.della(models, base, masks, p, elect), base.shape)


def test_della_keeps_by_rank() -> None:
    """4000 rows with the same magnitudes in other orders: each rank is kept as often as it should be, within five
    standard errors; and by the expectation nothing is lost.
    """
    draws, n = 4000, 8
    rng = np.random.default_rng(3)
    sizes = np.arange(1.0, n + 1)
    tau = rng.permuted(np.tile(sizes, (draws, 1)), axis=1) * rng.choice([-1.0, 1.0], (draws, n))
    settings = {"density": 0.4, "epsilon": 0.3, "key": NoiseKey(7, "w")}
    kept = merging.della_linear([tau], base=np.zeros_like(tau), rescale=False, **settings) != 0
    for rank, size in enumerate(sizes):
        expected = 0.1 + 0.6 * rank / (n - 1)
        share = float(np.mean(kept[np.abs(tau) == size]))
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / draws)
    whole = merging.della_linear([tau], base=np.zeros_like(tau), rescale="expectation", **settings)
    signed = np.sum(whole * np.sign(tau)) / np.sum(np.abs(tau))
    assert signed == pytest.approx(1, abs=0.03)
    restored = merging.della_linear([tau], base=np.zeros_like(tau), **settings)
    np.testing.assert_allclose(np.abs(restored).sum(), np.abs(tau).sum(), rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (5, 1)])
def test_della_keeps_rows_of_one_with_the_mean_probability(shape: tuple[int, ...]) -> None:
    tau = np.ones(shape)
    kept = [
        float(np.mean(merging.della([tau], base=tau * 0, density=0.3, rescale=False, key=NoiseKey(seed)) != 0))
        for seed in range(1500)
    ]
    assert np.mean(kept) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 1500))


def test_della_without_a_range_is_dare() -> None:
    models, base = inputs(3, (6, 7), 0, False)
    settings: dict[str, Any] = {"weight": [0.3, 0.5, 1.0], "density": 0.4, "key": NoiseKey(2, "w")}
    np.testing.assert_array_equal(
        merging.della_linear(models, base=base, epsilon=0.0, **settings),
        merging.dare_linear(models, base=base, **settings),
    )


def test_della_refuses_probabilities_out_of_range() -> None:
    models, base = inputs(2, (4,), 0, False)
    for density, mend in (
        (0.1, "Set epsilon below 0.1, or another density."),
        (0.9, "Set epsilon below 0.1, or another"),
    ):
        with pytest.raises(
            InputError,
            match=rf"density \+ epsilon must be in \(0, 1\), got density {density} with epsilon 0\.15\. {mend}",
        ):
            merging.della(models, base=base, density=[0.5, density])
    merging.della(models, base=base, density=[0.0, 1.0])


# --- all ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_merging_models_is_merging_their_tensors(name: str) -> None:
    rng = np.random.default_rng(0)
    shapes = {"layers.0.mlp.weight": (5, 6), "layers.1.mlp.weight": (5, 6), "norm.weight": (6,)}
    folders = {n: {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()} for n in ("base", "a", "b")}
    method = METHODS[name]
    chosen: dict[str, Any] = {
        "della": {"density": 0.5, "epsilon": 0.2}, "della_linear": {"density": 0.5, "epsilon": 0.2}, "sce": {"select_topk": 0.5},
        "nearswap": {"t": 0.5}, "karcher": {"max_iter": 3, "tol": 1e-4}, "ram": {"epsilon": 0.5},
        "ramplus_tl": {"r": 1, "alpha": 0.5}, "multislerp": {"weight": 0.7},
    }.get(name, {})  # fmt: skip
    models = [folders["a"], folders["b"]][: method.models[1]]
    base = None if method.base == "ignored" else folders["base"]
    given = {"weight": 1.0} | chosen if "weight" in method.fields else chosen
    called = mw.merge(models, base=base, method=name, seed=3, **given).arrays()
    for tensor, shape in shapes.items():
        arguments = {"base": folders["base"][tensor]} if base is not None else {}
        arguments |= {"key": NoiseKey(3, tensor)} if method.random else {}
        direct = method.function([model[tensor] for model in models], **arguments, **given)
        np.testing.assert_array_equal(called[tensor], direct)
        assert called[tensor].shape == shape
