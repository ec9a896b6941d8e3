"""What every method refuses, with the text of the refusal: messages are interface."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelwright.errors import InputError, RunError
from modelwright.methods import METHODS, Method, Parameter, Registry

from .cases import ALL, bounds, call, count_of, draw, is_number, is_whole, options, parts, tensors

PARAMETERS = [
    pytest.param(method, parameter, id=f"{method.name}-{name}")
    for method in METHODS.values()
    for name, parameter in method.fields.items()
]


def setting(method: Method) -> tuple[list[Any], Any, dict[str, Any]]:
    count = count_of(method)
    *models, base = tensors(count + 1, (3, 4))
    return models, base, draw(method, count, np.random.default_rng(0))


def refused(method: Method, models: list[Any], base: Any, parameters: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        call(method, models, base, parameters)
    return str(caught.value)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ALL)
def test_non_finite_inputs_are_refused_by_name(method: Method, dtype: str, poison: float) -> None:
    models, base, parameters = setting(method)
    arrays = [array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype) for array in (*models, base)]
    names = [f"model {i + 1} of {len(models)}" for i in range(len(models))]
    places = list(enumerate(names if method.base == "ignored" else [*names, "base"]))
    for place, label in places:
        changed = [array.copy() for array in arrays]
        changed[place][1, 2] = poison
        text = refused(method, changed[:-1], changed[-1], parameters)
        assert text == f"{method.name}: every input must be finite, found NaN or infinity in {label}."


@pytest.mark.parametrize("method", ALL)
def test_other_shapes_are_refused(method: Method) -> None:
    models, base, parameters = setting(method)
    if len(models) == 1 and method.base == "ignored":
        pytest.skip("one tensor agrees with itself")
    last = f"model {len(models)} of {len(models)}"
    text = refused(method, [*models[:-1], models[-1].T], base, parameters)
    first = f"model 1 of {len(models)}" if method.base == "ignored" else "base"
    assert text == f"{method.name}: shapes must be equal, got (4, 3) in {last} and (3, 4) in {first}."


@pytest.mark.parametrize("method", ALL)
def test_too_few_and_too_many_models_are_refused(method: Method) -> None:
    least, most = method.models
    wrong = [least - 1] + ([most + 1] if most is not None else [])
    for count in wrong:
        *models, base = tensors(count + 1, (3,))
        text = refused(method, models, base, draw(method, count, np.random.default_rng(0)))
        exact = f"exactly {least}" if least == most else f"at least {least}"
        assert re.fullmatch(rf"{method.name}: needs {exact} models? beside the base, got {count}\.", text)


@pytest.mark.parametrize("method", [p for p in ALL if p.values[0].base == "required"])
def test_a_missing_base_is_refused(method: Method) -> None:
    models, _, parameters = setting(method)
    text = refused(method, models, None, parameters)
    assert text == f"{method.name}: needs a base tensor, got None. Pass base=, the model the others were tuned from."


@pytest.mark.parametrize("method", ALL)
def test_integers_and_lists_are_refused(method: Method) -> None:
    models, base, parameters = setting(method)
    for wrong, found in (
        (models[-1].astype(np.int64), "merging needs floating-point tensors, got int64 in"),
        (models[-1].astype(np.complex64), "merging needs floating-point tensors, got complex64 in"),
        (models[-1].tolist(), "every input must be an array, found list in"),
    ):
        text = refused(method, [*models[:-1], wrong], base, parameters)
        assert text == f"{method.name}: {found} model {len(models)} of {len(models)}."


def outside(parameter: Parameter) -> list[Any]:
    """Values that the declaration rules out, next to its bounds and of other types."""
    if not is_number(parameter):
        wrong: list[Any] = ["no such option", [], 3]
        texts = str in parts(parameter.field.annotation)
        return [
            value
            for value in wrong
            if value not in options(parameter)
            and not allows_numbers(parameter, value)
            and not (texts and isinstance(value, str))
        ]
    low, low_in, high, high_in = bounds(parameter)
    found: list[Any] = [math.nan, math.inf, -math.inf, "0.5", True, None]
    if low is not None:
        found += [math.nextafter(low, -math.inf) if low_in else low, low - 1]
    if high is not None:
        found += [math.nextafter(high, math.inf) if high_in else high, high + 1]
    return found


def allows_numbers(parameter: Parameter, value: Any) -> bool:
    return isinstance(value, int) and any(option in (0.625, 2) for option in options(parameter))


@pytest.mark.parametrize(("method", "parameter"), PARAMETERS)
def test_every_declared_range_is_kept(method: Method, parameter: Parameter) -> None:
    models, base, parameters = setting(method)
    values = outside(parameter)
    assert values
    for value in values:
        shown = {"True": "true", "None": "nothing"}.get(repr(value), repr(value))  # as YAML has it
        rule = f"{method.name}: {parameter.name} must be {parameter.rule}, got {shown}."
        with pytest.raises(InputError) as caught:
            parameter.check(value)
        assert str(caught.value).startswith(rule)
        given = [*parameters[parameter.name][1:], value] if parameter.per_model else value
        assert refused(method, models, base, parameters | {parameter.name: given}).startswith(rule)


@pytest.mark.parametrize(("method", "parameter"), PARAMETERS)
def test_every_declared_bound_is_reached(method: Method, parameter: Parameter) -> None:
    low, low_in, high, high_in = bounds(parameter)
    for bound, allowed in ((low, low_in), (high, high_in)):
        if bound is not None and allowed:
            assert parameter.check(bound) == bound
            assert f"{bound:g}" in parameter.rule


@pytest.mark.parametrize(("method", "parameter"), PARAMETERS)
def test_numpy_scalars_are_as_good_as_pythons(method: Method, parameter: Parameter) -> None:
    plain = (2 if is_whole(parameter) else 0.25) if is_number(parameter) else parameter.default
    for value in (plain, np.asarray(plain)[()], np.asarray(plain)):
        if not isinstance(plain, str | None):
            checked = parameter.check(value)
            assert (type(checked), checked) == (type(plain), plain)


@pytest.mark.parametrize(("method", "parameter"), [p for p in PARAMETERS if p.values[1].is_fraction])
def test_a_percentage_is_explained(method: Method, parameter: Parameter) -> None:
    with pytest.raises(InputError, match=r"It is a fraction; for 20 % write 0\.2\."):
        parameter.check(20)


@pytest.mark.parametrize(("method", "parameter"), [p for p in PARAMETERS if p.values[1].per_model])
def test_one_value_per_model_or_one_for_all(method: Method, parameter: Parameter) -> None:
    models, base, parameters = setting(method)
    count = len(models)
    values = [*parameters[parameter.name], parameters[parameter.name][0]]
    text = refused(method, models, base, parameters | {parameter.name: values})
    assert text.startswith(f"{method.name}: {parameter.name} has {count + 1} values for {count} models.")
    same = values[0]
    for given in ([same] * count, (same,) * count, same if same is None else np.float64(same)):
        found = call(method, models, base, parameters | {parameter.name: given})
        np.testing.assert_array_equal(found, call(method, models, base, parameters | {parameter.name: same}))


SCALED = [p for p in ALL if {"normalize", "scale"} & set(p.values[0].fields)]


@pytest.mark.parametrize("method", SCALED)
def test_a_result_that_overflows_is_refused(method: Method) -> None:
    """Finite inputs, an infinite sum: the merge went too far, and no infinity is returned."""
    models, base, parameters = setting(method)
    half = [array.astype(np.float16) for array in (*models, base)]
    wild = {"scale": 1e9} if "scale" in method.fields else {"weight": 1e9, "normalize": False}
    with pytest.raises(RunError, match=f"^{method.name}: the result is not finite in float16 though every input is"):
        call(method, half[:-1], half[-1], parameters | wild)


def test_methods_that_share_a_name_are_refused() -> None:
    first = next(iter(METHODS.values()))
    registry = Registry([first])
    registry.add(first)  # the same record twice is one method
    with pytest.raises(InputError, match=f"two methods are called '{first.name}'"):
        registry.add(dataclasses.replace(first))


def test_an_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown merge method 'tise'. Did you mean 'ties'\? Valid: "):
        METHODS.find("tise")
