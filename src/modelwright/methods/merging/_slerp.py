"""Spherical linear interpolation of two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelwright.methods._lowered import Coefficients, Gram, Lowered, Shape
from modelwright.methods._method import Method, Params, Span, checked
from modelwright.tensors import Array, dot, namespace, root


class SlerpParams(Params):
    """Parameters of `slerp`."""

    t: Annotated[float, Span(0, 1)] = Field(description="Where between the two: 0 is the base, 1 the other model.")


@checked(SlerpParams, least=1, most=1, base="required")
def slerp(models: Sequence[Array], *, base: Array, t: float) -> Array:
    """sin((1-t) a)/sin(a) * base + sin(t a)/sin(a) * model, a being the angle between them as flat vectors.

    Args:
        models: One array.
        base: The array at t = 0, same shape.
        t: Usually in [0, 1]; beyond, it extrapolates.

    Returns:
        The interpolated tensor in the shape and format of the base. Where |cos a| > 0.9995 it is the straight line.

    Raises:
        InputError: Shapes differ, a value is not finite or there is not exactly one model beside the base.

    Differs:
        See `SLERP.differs`.

    Example:
        >>> import numpy as np
        >>> slerp([np.array([0.0, 1.0])], base=np.array([1.0, 0.0]), t=0.5).round(4)
        array([0.7071, 0.7071])

    Source:
        Shoemake 1985, "Animating rotation with quaternion curves"; the community's thresholds.
    """
    (model,) = models
    of_base, of_model = _factors(dot(base, base), dot(model, model), dot(base, model), t)
    xp = namespace(base)
    return xp.astype(of_base, base.dtype) * base + xp.astype(of_model, base.dtype) * model


def _factors(aa: Array, bb: Array, ab: Array, t: float) -> tuple[Array, Array]:
    """What the base and the model are multiplied with, from their dot products."""
    xp = namespace(aa)
    a, b = root(aa), root(bb)
    one = xp.ones_like(a)
    a, b = xp.where(a > 1e-8, a, one), xp.where(b > 1e-8, b, one)
    cosine = xp.clip(ab / a / b, -1.0, 1.0)
    straight = xp.abs(cosine) > 0.9995
    angle = xp.acos(xp.where(straight, xp.zeros_like(cosine), cosine))
    from_base = xp.where(straight, one * (1 - t), xp.sin((1 - t) * angle) / xp.sin(angle))
    from_model = xp.where(straight, one * t, xp.sin(t * angle) / xp.sin(angle))
    return from_base, from_model


def _lower(p: Mapping[str, Any], _shape: Shape) -> Lowered:
    def coefficients(gram: Gram) -> Coefficients:
        of_base, of_model = _factors(gram(1, 1), gram(0, 0), gram(0, 1), p["t"])
        return Coefficients([of_model], base=of_base)

    return Lowered([1.0], deltas=False, gram=[(1, 1), (0, 0), (0, 1)], coefficients=coefficients)


SLERP = Method(
    name="slerp",
    title="SLERP",
    paper="doi:10.1145/325165.325242",
    summary="Walks the arc between two models instead of the chord, so that norms are kept.",
    function=slerp,
    params=SlerpParams,
    base="required",
    models=(1, 1),
    laws=frozenset({"identity", "base", "single"}),
    lower=_lower,
    reproducible="tolerance",  # sine and arc cosine are not the same to the last bit on every CPU
    differs=(
        "Angle and norms are float64 sums (mergekit: float32), so the last digits differ on large tensors.",
        "A tensor of norm below 1e-8 counts as having norm 1, as in mergekit.",
    ),
    cite="""@inproceedings{shoemake1985slerp,
  title={Animating rotation with quaternion curves},
  author={Shoemake, Ken},
  booktitle={SIGGRAPH},
  year={1985},
}""",
)
