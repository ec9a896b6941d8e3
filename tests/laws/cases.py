"""What the law tests know of a method: its record, and parameters drawn from the ranges it declares.

Nothing here names a method, so a new one joins the suite by being registered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest

from modelwright.errors import InputError
from modelwright.methods import METHODS, Method, Parameter
from modelwright.tensors import NoiseKey

ALL = [pytest.param(method, id=name) for name, method in METHODS.items()]
RANDOM = [pytest.param(method, id=name) for name, method in METHODS.items() if method.random]

#: Empty, one, three, scalar, and the ranks of convolutions.
SHAPES = ((0,), (1,), (3,), (), (0, 3), (4, 6), (2, 3, 4), (2, 1, 3, 2))


def parts(annotation: Any) -> Iterable[Any]:
    """The alternatives of a union, or the annotation itself."""
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from parts(part)
    else:
        yield annotation


def is_number(parameter: Parameter) -> bool:
    """Whether it has no value but numbers; a number that may be absent is an option."""
    return set(parts(parameter.field.annotation)) <= {float, int}


def is_whole(parameter: Parameter) -> bool:
    """Whether it has no value but whole numbers."""
    return set(parts(parameter.field.annotation)) == {int}


def options(parameter: Parameter) -> list[Any]:
    """Every value of an option; for a number that may be absent, one that no float format rounds."""
    found: list[Any] = []
    for part in parts(parameter.field.annotation):
        if part is bool:
            found += [False, True]
        elif get_origin(part) is Literal:
            found += get_args(part)
        elif part is float:
            found.append(0.625)
        elif part is int:
            found.append(2)
        elif part is type(None):
            found.append(None)
    return found


def bounds(parameter: Parameter) -> tuple[float | None, bool, float | None, bool]:
    """Lowest value, whether it is allowed, highest value, whether it is allowed."""
    low, low_in, high, high_in = None, True, None, True
    for mark in parameter.field.metadata:
        if getattr(mark, "ge", None) is not None:
            low, low_in = mark.ge, True
        if getattr(mark, "gt", None) is not None:
            low, low_in = mark.gt, False
        if getattr(mark, "le", None) is not None:
            high, high_in = mark.le, True
        if getattr(mark, "lt", None) is not None:
            high, high_in = mark.lt, False
    return low, low_in, high, high_in


def number(parameter: Parameter, rng: np.random.Generator) -> float:
    """A number from the lower half of the range, so that shares of several parameters still fit together."""
    low, _, high, _ = bounds(parameter)
    low = 0.1 if low is None else low
    if is_whole(parameter):
        low = math.ceil(low)
        return int(rng.integers(low, low + 2 if high is None else int(high), endpoint=True))
    high = low + 1 if high is None else high
    return float(rng.uniform(low + 0.1 * (high - low), low + 0.5 * (high - low)))


def draw(method: Method, count: int, rng: np.random.Generator, chosen: dict[str, Any] | None = None) -> dict[str, Any]:
    """Parameters by recipe name that go together: numbers drawn, per model where each has its own; options default or chosen."""
    for _ in range(1000):
        found = _drawn(method, count, rng, chosen or {})
        if not count:  # too few for any method, which is what is tried
            return found
        try:
            method.check(found)
        except InputError:
            continue
        return found
    raise AssertionError(f"{method.name}: no parameters that go together among a thousand")


def _drawn(method: Method, count: int, rng: np.random.Generator, chosen: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, parameter in method.fields.items():
        if name in chosen or not is_number(parameter):
            value = chosen.get(name, parameter.default)
            result[name] = [value] * count if parameter.per_model else value
        elif parameter.per_model:
            result[name] = [number(parameter, rng) for _ in range(count)]
        else:
            result[name] = number(parameter, rng)
    return result


def variants(method: Method) -> list[dict[str, Any]]:
    """The default options, each other value of each option alone, and the paper's preset."""
    result = [{}]
    for name, parameter in method.fields.items():
        if not is_number(parameter):
            result += [{name: value} for value in options(parameter) if value != parameter.default]
    return [*result, method.presets["paper"]] if "paper" in method.presets else result


def described(chosen: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in chosen.items()) or "defaults"


#: Every method with each of its options.
VARIANTS = [
    pytest.param(method, chosen, id=f"{name}-{described(chosen)}")
    for name, method in METHODS.items()
    for chosen in variants(method)
]
SMOOTH = [entry for entry in VARIANTS if entry.values[0].differentiable]


def count_of(method: Method, wanted: int = 3) -> int:
    """The number of models that is nearest to the wanted one."""
    least, most = method.models
    return max(least, min(wanted, most or wanted))


def call(
    method: Method, models: Sequence[Any], base: Any, parameters: dict[str, Any], key: NoiseKey | None = None
) -> Any:
    """The public function on arrays, with recipe parameters and only the arguments it takes."""
    arguments = {method.fields[name].python_name: value for name, value in parameters.items()}
    if method.base != "ignored":
        arguments["base"] = base
    if method.random:
        arguments["key"] = key or NoiseKey(seed=5, tensor="layers.0.weight")
    return method.function(models, **arguments)


def tensors(count: int, shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float64) -> list[Any]:
    """Gaussian tensors; the last is meant as the base."""
    rng = np.random.default_rng([seed, *shape])
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for _ in range(count)]
