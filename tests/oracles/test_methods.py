"""Every method against its float64 oracle, over the space of its options."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.errors import InputError
from modelwright.methods import merging

from . import truth

SHAPES = st.sampled_from([(), (1,), (7,), (4, 6), (2, 3, 4), (0,), (3, 0)])
SHARE = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8, 1.0]) | st.floats(0, 1)
WEIGHT = st.floats(-2, 2).map(lambda x: round(x, 2)).filter(lambda x: x != 0)
QUICK = settings(max_examples=120, deadline=None)


def inputs(count: int, shape: tuple[int, ...], seed: int, coarse: bool) -> tuple[list[Any], Any]:
    """Models and base; coarse ones have many equal magnitudes, opposite votes and zeros, all exact."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.standard_normal(shape)) for _ in range(count + 1)]
    if coarse:
        arrays = [np.asarray(np.round(2 * array) / 2) for array in arrays]
    return arrays[:-1], arrays[-1]


def python_names(p: dict[str, Any]) -> dict[str, Any]:
    return {("lambda_" if name == "lambda" else name): value for name, value in p.items()}


def agrees(found: Any, expected: Any, shape: tuple[int, ...]) -> None:
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.reshape(expected, shape), rtol=1e-11, atol=1e-12, strict=True)


def steady(weights: list[float]) -> bool:
    """Whether no choice of agreeing models has weights that almost cancel: that would divide rounding by nothing."""
    sums = [0.0]
    for weight in weights:
        sums += [total + weight for total in sums]
    return all(abs(total) > 0.05 for total in sums[1:])


@st.composite
def task_vector_cases(draw: st.DrawFn, **choices: Any) -> tuple[list[Any], Any, dict[str, Any]]:
    count = draw(st.integers(1, 4))
    models, base = inputs(count, draw(SHAPES), draw(st.integers(0, 999)), draw(st.booleans()))
    several = st.lists(WEIGHT, min_size=count, max_size=count)
    p: dict[str, Any] = {"normalize": draw(st.booleans()), "lambda": draw(st.sampled_from([1.0, 0.3, -2.0]))}
    p["weight"] = draw(several.filter(lambda weights: not p["normalize"] or steady(weights)))
    for name, values in choices.items():
        per_model = name in ("density", "gamma")
        p[name] = draw(st.lists(values, min_size=count, max_size=count) if per_model else st.sampled_from(values))
    return models, base, p


@QUICK
@given(task_vector_cases())
def test_task_arithmetic(case: tuple[list[Any], Any, dict[str, Any]]) -> None:
    models, base, p = case
    expected = truth.added(base, truth.task_vectors(models, base), p["weight"], p["normalize"], p["lambda"])
    agrees(merging.task_arithmetic(models, base=base, **python_names(p)), expected, base.shape)


@pytest.mark.parametrize("name", ["task_arithmetic", "breadcrumbs", "dare_linear"])
def test_task_vectors_whose_weights_cancel_are_left_undivided(name: str) -> None:
    models, base = inputs(2, (5,), 0, False)
    method = getattr(merging, name)
    found = method(models, base=base, weight=[1.0, -1.0], normalize=True)
    np.testing.assert_array_equal(found, method(models, base=base, weight=[1.0, -1.0], normalize=False))


@QUICK
@given(task_vector_cases())
def test_linear(case: tuple[list[Any], Any, dict[str, Any]]) -> None:
    models, base, p = case
    found = merging.linear(models, weight=p["weight"], normalize=p["normalize"])
    agrees(found, truth.linear(models, p["weight"], p["normalize"]), base.shape)


@settings(max_examples=500, deadline=None)
@given(
    task_vector_cases(
        density=SHARE,
        scope=["row", "tensor", "model"],
        sign_method=["sum", "count"],
        merge_func=["mean", "sum", "max"],
        zero_sign=["positive", "majority"],
        count=["exact", "official"],
        rescale=[False, True],
    )
)
def test_ties(case: tuple[list[Any], Any, dict[str, Any]]) -> None:
    models, base, p = case
    groups = truth.rows(base.shape) if p["scope"] == "row" else [list(range(base.size))]
    agrees(merging.ties(models, base=base, **python_names(p)), truth.ties(models, base, p, groups), base.shape)


@QUICK
@pytest.mark.parametrize("elect", [False, True])
@given(
    case=task_vector_cases(
        density=SHARE,
        gamma=st.sampled_from([0.0, 0.01, 0.2, 0.6]) | st.floats(0, 0.99),
        scope=["row", "tensor"],
        order=["remove_first", "keep_first"],
        rescale=[False, True],
    )
)
def test_breadcrumbs(elect: bool, case: tuple[list[Any], Any, dict[str, Any]]) -> None:
    models, base, p = case
    method = merging.breadcrumbs_ties if elect else merging.breadcrumbs
    agrees(method(models, base=base, **python_names(p)), truth.breadcrumbs(models, base, p, elect), base.shape)


def test_breadcrumbs_refuses_an_overlap_where_asked() -> None:
    models, base = inputs(2, (10,), 0, False)
    merging.breadcrumbs(models, base=base, density=0.9, gamma=0.1, overlap="error")
    with pytest.raises(InputError, match=r"density \+ gamma must be at most 1, got 0\.9 \+ 0\.2\. Lower one of them"):
        merging.breadcrumbs(models, base=base, density=0.9, gamma=[0.1, 0.2], overlap="error")


@QUICK
@pytest.mark.parametrize("elect", [False, True])
@given(
    case=task_vector_cases(density=SHARE, rescale=[False, True, "l1", "l2", "expectation"]),
    seed=st.integers(0, 999),
)
def test_dare_with_given_masks(elect: bool, case: tuple[list[Any], Any, dict[str, Any]], seed: int) -> None:
    models, base, p = case
    rng = np.random.default_rng(seed)
    masks = [np.asarray(rng.random(base.shape) < density) for density in p["density"]]
    method = merging.dare_ties if elect else merging.dare_linear
    found = method(models, base=base, masks=masks, **python_names(p))
    agrees(found, truth.dare(models, base, masks, p, elect), base.shape)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0, 1.4])
@pytest.mark.parametrize("shape", [(3,), (4, 6), (2, 3, 4)])
def test_slerp(shape: tuple[int, ...], t: float) -> None:
    (model,), base = inputs(1, shape, 3, False)
    expected = truth.arc(truth.flat(base), truth.flat(model), t)
    agrees(merging.slerp([model], base=base, t=t), expected, shape)


@pytest.mark.parametrize("degrees", [1.9, 10, 90, 170, 178.1])
def test_slerp_keeps_to_the_arc_up_to_its_threshold(degrees: float) -> None:
    """|cos| = 0.9995 is at 1.81 degrees from parallel and from opposite."""
    angle = math.radians(degrees)
    found = merging.slerp([np.array([math.cos(angle), math.sin(angle)])], base=np.array([1.0, 0.0]), t=0.25)
    np.testing.assert_allclose(found, [math.cos(angle / 4), math.sin(angle / 4)], rtol=1e-9)


@pytest.mark.parametrize("model", [[0.0, 0.0], [1.0, 0.03], [3.0, 0.001], [-2.0, 0.01], [1.0, 0.0], [-1.0, 0.0]])
def test_slerp_of_the_degenerate_is_the_line(model: list[float]) -> None:
    """Zero, almost parallel and almost opposite tensors; a zero tensor counts as a right angle."""
    base = np.array([1.0, 0.0])
    found = merging.slerp([np.array(model)], base=base, t=0.25)
    share = math.sin(0.75 * math.pi / 2) if model == [0.0, 0.0] else 0.75
    np.testing.assert_allclose(found, share * base + 0.25 * np.array(model), rtol=1e-14)


@pytest.mark.parametrize("weight", [[1, 1], [1, 3], [2.0, 0.0], [0.5, -0.5], [3, -1]])
@pytest.mark.parametrize(("flatten", "row_wise", "axis"), [(True, False, None), (False, False, -1), (False, True, 0)])
@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 4)])
def test_nuslerp(
    shape: tuple[int, ...], with_base: bool, flatten: bool, row_wise: bool, axis: int | None, weight: list[float]
) -> None:
    (a, b), base = inputs(2, shape, 5, False)
    t = 0.5 if sum(weight) == 0 else weight[1] / sum(weight)
    found = merging.nuslerp(
        [a, b],
        base=base if with_base else None,
        weight=weight,
        nuslerp_flatten=flatten,
        nuslerp_row_wise=row_wise,
    )
    origin = base if with_base else np.zeros(shape)
    agrees(found, origin + truth.nuslerp(a - origin, b - origin, t, axis), shape)


@pytest.mark.parametrize("scale", [1.0, -1.0, -3.0, 2.5, 0.0])
@pytest.mark.parametrize("seed", range(4))
def test_nuslerp_of_parallel_and_opposite_tensors_is_the_line(scale: float, seed: int) -> None:
    """Rounding must not send exact opposites along an arc, whose formula divides by the sine of pi."""
    a = np.random.default_rng(seed).standard_normal(50).astype(np.float32)
    found = merging.nuslerp([a, np.float32(scale) * a], weight=[0.7, 0.3])
    shares = (0.7, 0.3) if scale else (math.sin(0.7 * math.pi / 2), 0)
    np.testing.assert_allclose(found, shares[0] * a + shares[1] * np.float32(scale) * a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("filter_wise", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 4)])
def test_model_stock(shape: tuple[int, ...], count: int, filter_wise: bool) -> None:
    models, base = inputs(count, shape, 7, False)
    found = merging.model_stock(models, base=base, filter_wise=filter_wise)
    agrees(found, truth.model_stock(models, base, filter_wise), shape)


def test_model_stock_in_the_known_cases() -> None:
    base = np.array([1.0, 2.0])
    right_angle = [np.array([2.0, 2.0]), np.array([1.0, 5.0])]
    np.testing.assert_array_equal(merging.model_stock(right_angle, base=base), base)
    same = [base + 0.5] * 3
    np.testing.assert_allclose(merging.model_stock(same, base=base), base + 0.5, rtol=1e-15)
    opposite = [base + 1.0, base - 3.0]  # 1 + cos = 0: no finite ratio
    np.testing.assert_array_equal(merging.model_stock(opposite, base=base), base)


@pytest.mark.parametrize("weight", [[0.0, 0.0], [1.0, -1.0], [0.1, 0.2, -0.3]])
def test_linear_refuses_weights_that_cancel(weight: list[float]) -> None:
    models = [np.ones(2)] * len(weight)
    with pytest.raises(InputError, match=r"linear: the weights add up to 0, so they cannot be normalised\. Change"):
        merging.linear(models, weight=weight)
    np.testing.assert_allclose(merging.linear(models, weight=weight, normalize=False), 0, atol=1e-15)


def test_passthrough_scales_or_copies() -> None:
    model = np.array([1.5, -2.0])
    np.testing.assert_array_equal(merging.passthrough([model]), model)
    np.testing.assert_array_equal(merging.passthrough([model], scale=-2.0), [-3.0, 4.0])
