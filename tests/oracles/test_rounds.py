"""TIES over the whole model: streaming rounds over tensors give what the oracle gives on one long vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.methods import METHODS, PerTensor
from modelwright.tensors import NoiseKey

from . import truth

TIES = METHODS["ties"]
Model = dict[str, Any]

SHAPES = {"embed": (6, 5), "norm": (5,), "empty": (0, 4), "scalar": (), "conv": (2, 3, 2), "head": (3, 5)}


def model(seed: int, step: float) -> Model:
    """Named tensors on a grid of this step, so that magnitudes tie within and across tensors."""
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(np.round(rng.standard_normal(shape) / step) * step, dtype=np.float32)
        for name, shape in SHAPES.items()
    }


def share_of(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What one tensor gets of the facts."""
    return {key: value[name] if isinstance(value, PerTensor) else value for key, value in facts.items()}


def gathered(models: list[Model], base: Model, p: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of all rounds; sums are taken from the last tensor to the first, as threads might."""
    facts: dict[str, Any] = {}
    for step in TIES.rounds(p):
        parts = {name: step.collect([m[name] for m in models], base[name], p, share_of(facts, name)) for name in SHAPES}
        folded = sum(reversed(list(parts.values()))) if step.fold == "sum" else parts
        facts |= step.reduce(folded, p, facts)
    return facts


def merged(models: list[Model], base: Model, p: Mapping[str, Any]) -> Any:
    """All tensors merged one by one, joined in order."""
    facts = gathered(models, base, p)
    results = [TIES.run([m[name] for m in models], base[name], p, NoiseKey(), share_of(facts, name)) for name in SHAPES]
    return joined(dict(zip(SHAPES, results, strict=True)))


def joined(tensors: Model) -> Any:
    return np.concatenate([np.reshape(tensors[name], -1) for name in SHAPES]).astype(np.float64)


def settings_of(**changes: Any) -> dict[str, Any]:
    return {
        "weight": [1.0, 0.5, 2.0],
        "density": [0.2, 0.45, 0.7],
        "normalize": True,
        "lambda": 1.0,
        "rescale": False,
        "scope": "model",
        "sign_method": "sum",
        "merge_func": "mean",
        "zero_sign": "positive",
        "count": "exact",
    } | changes


def expected(models: list[Model], base: Model, p: dict[str, Any]) -> Any:
    whole = joined(base)
    return truth.ties([joined(m) for m in models], whole, p, [list(range(whole.size))])


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    step=st.sampled_from([2.0**-40, 0.25, 1.0]),
    density=st.lists(st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.9, 1.0]) | st.floats(0, 1), min_size=3, max_size=3),
    options=st.fixed_dictionaries(
        {
            "count": st.sampled_from(["exact", "official"]),
            "zero_sign": st.sampled_from(["positive", "majority"]),
            "sign_method": st.sampled_from(["sum", "count"]),
            "merge_func": st.sampled_from(["mean", "sum", "max"]),
        }
    ),
)
def test_rounds_equal_the_oracle(seed: int, step: float, density: list[float], options: dict[str, str]) -> None:
    base, *models = (model(4 * seed + i, step) for i in range(4))
    p = settings_of(density=density, **options)
    np.testing.assert_allclose(merged(models, base, p), expected(models, base, p), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.77, 0.99])
def test_neighbouring_floats_are_told_apart(density: float) -> None:
    """Magnitudes that differ in their last bits only: the second round decides."""
    total = sum(int(np.prod(shape)) for shape in SHAPES.values())
    sizes = 1 + np.random.default_rng(0).permutation(total) * 2.0**-23
    cuts = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])[:-1]
    pieces = zip(SHAPES.items(), np.split(sizes.astype(np.float32), cuts), strict=True)
    tuned = {name: piece.reshape(shape) for (name, shape), piece in pieces}
    base = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    p = settings_of(density=[density], weight=[1.0])
    np.testing.assert_array_equal(merged([tuned], base, p), expected([tuned], base, p))


def test_ties_across_tensors_go_to_the_first_tensors() -> None:
    base = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    equal = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    p = settings_of(density=[0.6], weight=[1.0])
    total = joined(base).size
    found = merged([equal], base, p)
    np.testing.assert_array_equal(found, np.arange(total) < int(0.6 * total))
    everything = merged([equal], base, p | {"count": "official"})
    np.testing.assert_array_equal(everything, np.ones(total))


@pytest.mark.parametrize(("positive", "negative"), [(3, 1), (1, 3), (2, 2)])
def test_an_even_sum_takes_the_sign_of_the_whole_model(positive: int, negative: int) -> None:
    """One tensor's split is settled by what the others elected; an even model counts as negative."""
    ones = {"decided": np.array([1.0] * positive + [-1.0] * negative, np.float32), "split": np.array([2.0], np.float32)}
    other = {"decided": ones["decided"], "split": np.array([-2.0], np.float32)}
    p = settings_of(density=[1.0, 1.0], weight=[1.0, 1.0], zero_sign="majority", scope="tensor")
    (step,) = TIES.rounds(p)
    parts = [step.collect([ones[n], other[n]], np.zeros_like(ones[n]), p, {}) for n in ones]
    facts = step.reduce(sum(parts), p, {})
    found = TIES.run([ones["split"], other["split"]], np.zeros(1, np.float32), p, NoiseKey(), facts)
    np.testing.assert_array_equal(found, [2.0 if positive > negative else -2.0])


def test_rescale_restores_the_norm_of_each_tensor() -> None:
    base, tuned = model(0, 2.0**-40), model(1, 2.0**-40)
    p = settings_of(density=[0.6], weight=[1.0], rescale=True)
    found = np.abs(merged([tuned], base, p) - joined(base))
    whole = np.abs(joined(tuned) - joined(base))
    start = 0
    for shape in SHAPES.values():
        part = slice(start, start + int(np.prod(shape)))
        if found[part].any():  # a tensor that keeps nothing has nothing to scale
            assert np.sum(found[part]) == pytest.approx(np.sum(whole[part]), rel=1e-5)
        start = part.stop
    assert np.count_nonzero(found) == int(0.6 * found.size)


@pytest.mark.torch
@pytest.mark.parametrize("count", ["exact", "official"])
def test_torch_tensors_take_the_same_rounds(count: str) -> None:
    torch = pytest.importorskip("torch")
    numpy_models = [model(seed, 0.25) for seed in range(4)]
    torch_models = [{name: torch.tensor(array) for name, array in m.items()} for m in numpy_models]
    p = settings_of(zero_sign="majority", count=count)
    expected = merged(numpy_models[:3], numpy_models[3], p)
    np.testing.assert_array_equal(merged(torch_models[:3], torch_models[3], p), expected)


def test_rounds_are_asked_for_only_where_they_are_needed() -> None:
    names = lambda **changes: [step.name for step in TIES.rounds(settings_of(**changes))]  # noqa: E731
    assert names(scope="tensor") == names(scope="row") == names(density=[1.0, 1.0, 1.0]) == []
    assert names(scope="tensor", zero_sign="majority") == ["majority sign"]
    assert len(names()) == 3
    assert len(names(count="official")) == 2
    assert len(names(zero_sign="majority")) == 4


def test_the_paper_trims_the_model_not_the_tensor() -> None:
    """A loud tensor keeps more than its share, a quiet one keeps nothing."""
    base = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    tuned = model(1, 2.0**-40)
    tuned["embed"] = 100 + np.abs(tuned["embed"])
    p = settings_of(density=[0.2], weight=[1.0])
    found = merged([tuned], base, p)
    embed = SHAPES["embed"][0] * SHAPES["embed"][1]
    assert np.count_nonzero(found[:embed]) == int(0.2 * found.size)
    assert not np.any(found[embed:])
