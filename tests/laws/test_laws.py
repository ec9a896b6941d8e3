"""The laws that a method's record claims, and that it claims every law which holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from modelwright.methods import LAWS, METHODS, Method

from .cases import call, count_of, draw, tensors, variants

#: Laws that speak of default options only; the others must hold for every option value.
DEFAULT_OPTIONS = {"identity", "negation", "single"}
FACTOR = 2.0**-3


@dataclass(frozen=True)
class Case:
    """Arrays and parameters that a law is tried on."""

    models: list[Any]
    base: Any
    parameters: dict[str, Any]


def in_ulps(found: Any, expected: Any, *operands: Any) -> float:
    """Largest deviation in units in the last place of the largest number that took part in the element."""
    if found.size == 0:
        return 0.0
    largest = np.maximum.reduce([np.abs(x) for x in (expected, *operands)])
    return float(np.max(np.abs(found.astype(np.float64) - expected) / np.spacing(largest)))


def relative(found: Any, expected: Any) -> float:
    """Largest deviation in units of 1e-11 of the largest element: float64 rounding passes, nothing else does."""
    if found.size == 0:
        return 0.0
    return float(np.max(np.abs(found - expected)) / (1e-11 * max(1e-9, np.max(np.abs(expected)))))


def identity(method: Method, case: Case) -> float:
    model, count = case.base, len(case.models)
    bases = [model, None] if method.base == "optional" else [model]
    return max(in_ulps(call(method, [model] * count, base, case.parameters), model) for base in bases) / (count + 1)


def base(method: Method, case: Case) -> float:
    copies = [case.base.copy() for _ in case.models]
    return in_ulps(call(method, copies, case.base, case.parameters), case.base)


def permutation(method: Method, case: Case) -> float:
    order = np.roll(np.arange(len(case.models)), 1)
    moved = {
        name: [value[i] for i in order] if method.fields[name].per_model else value
        for name, value in case.parameters.items()
    }
    found = call(method, [case.models[i] for i in order], case.base, moved)
    return relative(found, call(method, case.models, case.base, case.parameters))


def scaled(method: Method, case: Case, factor: float) -> float:
    changed = [case.base + factor * (model - case.base) for model in case.models]
    expected = factor * (call(method, case.models, case.base, case.parameters) - case.base)
    return relative(call(method, changed, case.base, case.parameters) - case.base, expected)


def single(method: Method, case: Case) -> float:
    parameters = {name: 1.0 if parameter.required else parameter.default for name, parameter in method.fields.items()}
    model = case.models[0]
    return in_ulps(call(method, [model], case.base, parameters), model, case.base)


#: The deviation from each law, in units of what rounding may do.
DEVIATION: dict[str, Callable[[Method, Case], float]] = {
    "identity": identity,
    "permutation": permutation,
    "base": base,
    "scaling": lambda method, case: scaled(method, case, FACTOR),
    "negation": lambda method, case: scaled(method, case, -1.0),
    "single": single,
}


def applies(method: Method, law: str) -> bool:
    """Whether the law says anything about the method."""
    if law in ("base", "scaling", "negation"):
        return method.base != "ignored"
    least, most = method.models
    return {"permutation": most != 1, "single": least == 1}.get(law, True)


def random_case(method: Method, law: str, seed: int, step: float = 1.0) -> Case:
    """Gaussian tensors; models `step` times as far from the base as they are drawn."""
    rng = np.random.default_rng(seed)
    count = 1 if law == "single" else count_of(method, int(rng.integers(2, 6)))
    options = variants(method) if law not in DEFAULT_OPTIONS else [{}]
    *models, anchor = tensors(count + 1, (5, 7), seed)
    models = [anchor + step * (model - anchor) for model in models] if step != 1 else models
    return Case(models, anchor, draw(method, count, rng, options[seed % len(options)]))


CLAIMED = [pytest.param(m, law, id=f"{m.name}-{law}") for m in METHODS.values() for law in sorted(m.laws)]
UNCLAIMED = [
    pytest.param(m, law, id=f"{m.name}-{law}")
    for m in METHODS.values()
    for law in sorted(set(LAWS) - m.laws)
    if applies(m, law)
]


def test_every_law_is_checked() -> None:
    assert set(DEVIATION) == set(LAWS)


@pytest.mark.parametrize(("method", "law"), CLAIMED)
def test_claimed_law_holds(method: Method, law: str) -> None:
    assert applies(method, law), f"{method.name} claims '{law}', which says nothing about it"
    for seed in range(24):
        case = random_case(method, law, seed)
        assert DEVIATION[law](method, case) <= 1, case.parameters


@pytest.mark.parametrize(("method", "law"), UNCLAIMED)
def test_law_that_is_not_claimed_has_a_counterexample(method: Method, law: str) -> None:
    cases = [random_case(method, law, seed, step) for seed in range(24) for step in (1.0, 1e-6)]
    assert any(DEVIATION[law](method, case) > 1 for case in cases), (
        f"{method.name} obeys '{law}': list it in the record"
    )


#: Zeros, and sizes that lie above every floor and below what float32 overflows at after a few sums.
SIZES = st.floats(2.0**-10, 2.0**100, width=32)
EXTREME = st.one_of(st.just(0.0), SIZES, SIZES.map(lambda x: -x))
SOME_SHAPE = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)


@pytest.mark.parametrize(("method", "law"), [p for p in CLAIMED if p.values[1] in ("identity", "base", "single")])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_law_holds_at_any_magnitude(method: Method, law: str, data: st.DataObject) -> None:
    shape = data.draw(SOME_SHAPE)
    arrays = hnp.arrays(np.float32, shape, elements=EXTREME)
    count = 1 if law == "single" else count_of(method, data.draw(st.integers(1, 4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    case = Case([data.draw(arrays)] * count, data.draw(arrays), draw(method, count, rng))
    assert DEVIATION[law](method, case) <= 1
