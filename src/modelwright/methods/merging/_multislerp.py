"""Multi-SLERP: the mean direction of several models, at their mean length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._lowered import Coefficients, Gram, Lowered, Shape
from modelwright.methods._method import PER_MODEL, Method, Params, checked
from modelwright.methods.merging._parts import Weights, added, per_model
from modelwright.tensors import Array, dot, namespace, root

#: In float32 the direction of a mean of unit vectors that is shorter than this is made of rounding.
_SHORTEST = 1e-6


class MultislerpParams(Params):
    """Parameters of `multislerp`."""

    weight: Annotated[float, PER_MODEL, Field(description="Weight of this model; may be negative.")]
    normalize_weights: bool = Field(True, description="Divide the weights by their sum.")
    eps: float = Field(1e-8, gt=0, description="Added to each norm before it divides.")


@checked(MultislerpParams, base="optional")
def multislerp(
    models: Sequence[Array],
    *,
    base: Array | None = None,
    weight: Weights = 1.0,
    normalize_weights: bool = True,
    eps: float = 1e-8,
) -> Array:
    """Interpolate models, or their task vectors where there is a base, on the sphere.

    u_i = tau_i / (|tau_i| + eps); m = sum_i w_i u_i; result = (sum_i w_i |tau_i|) m / |m|, plus the base.

    Args:
        models: n >= 1 arrays of one shape, any floating format. A single one is returned as it is.
        base: Origin of the sphere, same shape; None for zero.
        weight: One number for all, or n numbers. Their sum must not be 0 when normalize_weights is set.
        normalize_weights: Whether to divide the weights by their sum.
        eps: Guards the division by norms, above 0.

    Returns:
        The merged tensor in the shape and format of the base or the first model. Where m has no direction (it is shorter
        than eps, or than 1e-6 sum_i |w_i|), it is the weighted sum of the tau_i instead.

    Raises:
        InputError: Shapes differ, a value is not finite, or the weights add up to 0 under normalize_weights.

    Differs:
        See `MULTISLERP.differs`.

    Example:
        >>> import numpy as np
        >>> multislerp([np.array([1.0, 0.0]), np.array([0.0, 3.0])]).round(4)
        array([1.4142, 1.4142])

    Source:
        Goddard 2025, "Multi-SLERP", goddard.blog.
    """
    if len(models) == 1:
        return models[0]
    p = {"weight": per_model(weight, len(models)), "normalize_weights": normalize_weights, "eps": eps}
    _check(p)
    taus = models if base is None else [model - base for model in models]
    factors = _factors(lambda i, j: dot(taus[i], taus[j]), p)
    xp = namespace(*taus)
    merged = added([tau * xp.astype(factor, tau.dtype) for tau, factor in zip(taus, factors, strict=True)])
    return merged if base is None else base + merged


def _factors(gram: Gram, p: Mapping[str, Any]) -> list[Array]:
    """What each tau is multiplied with, from their dot products."""
    total = sum(p["weight"]) if p["normalize_weights"] else 1.0
    weights = [w / total for w in p["weight"]]
    count = len(weights)
    lengths = [root(gram(i, i)) for i in range(count)]
    of_units = [w / (length + p["eps"]) for w, length in zip(weights, lengths, strict=True)]
    square = added([of_units[i] * of_units[j] * gram(i, j) for i in range(count) for j in range(count)])
    xp = namespace(square)
    length = root(square)
    straight = length < max(p["eps"], _SHORTEST * sum(abs(w) for w in weights))
    radius = added([w * of_model for w, of_model in zip(weights, lengths, strict=True)])
    scale = radius / xp.where(straight, xp.ones_like(length), length)
    return [xp.where(straight, xp.full_like(scale, w), x * scale) for w, x in zip(weights, of_units, strict=True)]


def _check(p: Mapping[str, Any]) -> None:
    # Relative to their size: 0.1 + 0.2 - 0.3 is not 0 in binary.
    if p["normalize_weights"] and abs(sum(p["weight"])) <= 1e-12 * sum(abs(w) for w in p["weight"]):
        raise InputError(
            "multislerp: the weights add up to 0, so they cannot be normalised",
            "Change them, or set normalize_weights: false.",
        )


def _lower(p: Mapping[str, Any], shape: Shape) -> Lowered | None:
    if shape.models == 1:
        return None  # the model as it is

    def coefficients(gram: Gram) -> Coefficients:
        return Coefficients(_factors(gram, p), base=1.0 if shape.base else None)

    pairs = [(i, j) for i in range(shape.models) for j in range(i, shape.models)]
    return Lowered(
        [1.0] * shape.models, deltas=shape.base, add_base=shape.base,
        gram=pairs, gram_of_deltas=shape.base, coefficients=coefficients,
    )  # fmt: skip


MULTISLERP = Method(
    name="multislerp",
    title="Multi-SLERP",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    summary="Averages directions and lengths apart, so that norms are kept: SLERP for more than two models.",
    function=multislerp,
    params=MultislerpParams,
    check=_check,
    base="optional",
    models=(1, None),
    lower=_lower,
    reproducible="tolerance",  # dot products decide, and array libraries add them up in their own order
    laws=frozenset({"identity", "permutation", "base", "negation", "single"}),
    differs=(
        "mergekit projects the unit vectors on the tangent space at their weighted mean and adds them up there, which "
        "gives exactly zero; what is left, and computed here, is the mean's direction at the mean length.",
        "Where the weighted mean of the unit vectors is zero, mergekit falls back to the straight line for two models and "
        "fails for more: so it does as soon as one tensor equals the base in all models. Here it is the straight line for "
        "any number.",
        "A mean shorter than 1e-6 counts as zero, because in float32 its direction is rounding; mergekit's bound is eps.",
        "Weights that add up to 0 under normalize_weights are refused; mergekit divides by zero.",
    ),
)
