"""NuSLERP: spherical interpolation by weights, optionally of task vectors and along one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelwright.methods._lowered import Coefficients, Gram, Lowered, Shape
from modelwright.methods._method import PER_MODEL, Method, Params, checked
from modelwright.methods.merging._parts import Weights, per_model
from modelwright.tensors import Array, namespace, root, row_dot


class NuslerpParams(Params):
    """Parameters of `nuslerp`."""

    weight: Annotated[float, PER_MODEL, Field(description="Relative weight: t is the second's share of the sum.")]
    nuslerp_flatten: bool = Field(True, description="One angle for the whole tensor, instead of one for each vector.")
    nuslerp_row_wise: bool = Field(
        False, description="Without flatten: vectors run along the first axis (true) or along the last (false)."
    )


@checked(NuslerpParams, least=2, most=2, base="optional")
def nuslerp(
    models: Sequence[Array],
    *,
    base: Array | None = None,
    weight: Weights = 1.0,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
) -> Array:
    """SLERP between two models, or between their task vectors when a base is given.

    Args:
        models: Two arrays of one shape.
        base: Origin of the sphere, same shape; None for zero.
        weight: Two numbers; t = w_2 / (w_1 + w_2), or 0.5 where the sum is below 1e-6.
        nuslerp_flatten: One angle per tensor; otherwise one per vector along an axis.
        nuslerp_row_wise: Without flatten: vectors run along the first axis if true, else along the last.

    Returns:
        The interpolated tensor in the shape and format of the base or the first model.

    Raises:
        InputError: Shapes differ, a value is not finite or there are not exactly two models beside the base.

    Differs:
        See `NUSLERP.differs`.

    Example:
        >>> import numpy as np
        >>> nuslerp([np.array([1.0, 0.0]), np.array([0.0, 1.0])], weight=[1, 1]).round(4)
        array([0.7071, 0.7071])

    Source:
        mergekit, `nuslerp` (2024).
    """
    t = _place(*per_model(weight, 2))
    a, b = models if base is None else (models[0] - base, models[1] - base)
    xp = namespace(a)
    shape = a.shape
    flat = nuslerp_flatten or a.ndim < 2
    swapped = nuslerp_row_wise and not flat
    if flat:
        a, b = xp.reshape(a, (-1,)), xp.reshape(b, (-1,))
    elif swapped:
        a, b = _swap_ends(a), _swap_ends(b)
    mixed = _arc(a, b, t)
    mixed = xp.reshape(_swap_ends(mixed) if swapped else mixed, shape)
    return mixed if base is None else base + mixed


def _place(first: float, second: float) -> float:
    return 0.5 if abs(first + second) < 1e-6 else second / (first + second)


def _swap_ends(array: Array) -> Array:
    axes = list(range(array.ndim))
    axes[0], axes[-1] = axes[-1], axes[0]
    return namespace(array).permute_dims(array, tuple(axes))


def _arc(a: Array, b: Array, t: float) -> Array:
    """SLERP of the vectors along the last axis."""
    from_a, from_b = _factors(row_dot(a, a), row_dot(b, b), row_dot(a, b), t)
    xp = namespace(a)
    return xp.astype(from_a, a.dtype) * a + xp.astype(from_b, b.dtype) * b


def _factors(aa: Array, bb: Array, ab: Array, t: float) -> tuple[Array, Array]:
    """What the two are multiplied with, from their dot products."""
    xp = namespace(aa)
    floor = 1e-7
    length_a, length_b = root(aa), root(bb)
    length_a = xp.where(length_a > floor, length_a, xp.full_like(length_a, floor))
    length_b = xp.where(length_b > floor, length_b, xp.full_like(length_b, floor))
    cosine = xp.clip(ab / (length_a * length_b), -1.0, 1.0)
    # A few units of float64 wide: the norms' rounding may move the cosine of exact opposites off -1, and the arc there
    # would divide by the sine of almost pi.
    straight = 1 - cosine * cosine <= 1e-14
    angle = xp.acos(xp.where(straight, xp.zeros_like(cosine), cosine))
    from_a = xp.where(straight, xp.full_like(angle, 1 - t), xp.sin((1 - t) * angle) / xp.sin(angle))
    from_b = xp.where(straight, xp.full_like(angle, t), xp.sin(t * angle) / xp.sin(angle))
    return from_a, from_b


def _lower(p: Mapping[str, Any], shape: Shape) -> Lowered | None:
    if shape.axes >= 2 and not p["nuslerp_flatten"]:
        return None  # one angle for each vector

    def coefficients(gram: Gram) -> Coefficients:
        factors = _factors(gram(0, 0), gram(1, 1), gram(0, 1), _place(*p["weight"]))
        return Coefficients(factors, base=1.0 if shape.base else None)

    pairs = [(0, 0), (1, 1), (0, 1)]
    return Lowered(
        [1.0, 1.0],
        deltas=shape.base,
        add_base=shape.base,
        gram=pairs,
        gram_of_deltas=shape.base,
        coefficients=coefficients,
    )


NUSLERP = Method(
    name="nuslerp",
    title="NuSLERP",
    paper="https://github.com/arcee-ai/mergekit",
    summary="SLERP with weights like every other method, on models or on their task vectors.",
    function=nuslerp,
    params=NuslerpParams,
    base="optional",
    models=(2, 2),
    lower=_lower,
    reproducible="tolerance",  # sine and arc cosine are not the same to the last bit on every CPU
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation"}),
    differs=(
        "Angles are computed in float64; vectors whose cosine is 1 in float32 but not in float64 stay on the arc.",
        "nuslerp_row_wise: true takes vectors along the first axis (columns of a matrix) as mergekit does, whatever "
        "its name says; false takes rows.",
    ),
)
