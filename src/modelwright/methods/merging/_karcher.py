"""Karcher mean: the point of the sphere that is nearest to all models, at their mean length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from modelwright.methods._lowered import Coefficients, Gram, Lowered, Shape
from modelwright.methods._method import Method, Params, checked
from modelwright.methods.merging._parts import added
from modelwright.tensors import Array, dot, namespace, root

#: Cosines this near to -1 are opposites: no direction leads there.
_OPPOSITE = 1e-12
#: A mean of unit vectors that is shorter has no direction.
_SHORTEST = 1e-6


class KarcherParams(Params):
    """Parameters of `karcher`."""

    max_iter: int = Field(10, ge=1, description="Most steps towards the mean.")
    tol: float = Field(1e-5, gt=0, description="Smallest norm, angle (in radians) and step that count.")


@checked(KarcherParams)
def karcher(models: Sequence[Array], *, max_iter: int = 10, tol: float = 1e-5) -> Array:
    """The Riemannian mean of the directions, times the mean of the norms.

    m starts as the normalised sum of the unit vectors u_i; then m <- exp_m(mean_i log_m(u_i)), until the step is below tol.
    All of it happens in the span of the models, so that their dot products are all that is read of them.

    Args:
        models: n >= 1 arrays of one shape, any floating format, of equal weight. A single one is returned as it is.
        max_iter: Most steps, at least 1.
        tol: Models of a smaller norm have no say in the direction; nearer ones than this angle do not pull; a shorter
            step ends the iteration.

    Returns:
        The merged tensor in the shape and format of the first model. Where no norm exceeds tol it is the average.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `KARCHER.differs`.

    Example:
        >>> import numpy as np
        >>> karcher([np.array([2.0, 0.0]), np.array([0.0, 2.0])]).round(4)
        array([1.4142, 1.4142])

    Source:
        Karcher 1977; Wang, Ye and Yin 2026, arXiv:2603.04972.
    """
    if len(models) == 1:
        return models[0]
    factors = _factors(lambda i, j: dot(models[i], models[j]), len(models), max_iter, tol)
    xp = namespace(*models)
    return added([model * xp.astype(factor, model.dtype) for model, factor in zip(models, factors, strict=True)])


def _factors(gram: Gram, count: int, max_iter: int, tol: float) -> list[Array]:
    """What each model is multiplied with, from their dot products."""
    lengths = [root(gram(i, i)) for i in range(count)]
    xp = namespace(*lengths)
    voting = [i for i in range(count) if bool(lengths[i] > tol)]
    if not voting:
        return [xp.full_like(lengths[0], 1 / count)] * count
    rows = [xp.stack([gram(i, j) / (lengths[i] * lengths[j]) for j in voting]) for i in voting]
    centre = _centre(xp.stack(rows), max_iter, tol)
    radius = added(lengths) / count
    factors = [xp.zeros_like(radius)] * count
    for place, i in enumerate(voting):
        factors[i] = centre[place] * radius / lengths[i]
    return factors


def _centre(cosines: Array, max_iter: int, tol: float) -> Array:
    """The mean of unit vectors as a combination of them, from their cosines: (k, k) -> (k,)."""
    xp = namespace(cosines)

    def with_each(x: Array) -> Array:
        return xp.sum(cosines * x, axis=-1)

    def length(x: Array) -> Array:
        return root(xp.sum(x * with_each(x)))

    count = cosines.shape[0]
    mean = xp.full_like(cosines[0, :], 1 / count)
    size = length(mean)
    # Opposites without a mean: the first model is as good a start as any.
    mean = mean / size if bool(size > _SHORTEST) else xp.astype(xp.cumulative_sum(mean) * count < 1.5, mean.dtype)
    for _ in range(max_iter):
        cosine = with_each(mean)
        pulls = (cosine < math.cos(tol)) & (cosine > _OPPOSITE - 1)
        angle = xp.acos(xp.where(pulls, cosine, xp.zeros_like(cosine)))
        pull = xp.where(pulls, angle / xp.sin(angle), xp.zeros_like(angle)) / count
        step = pull - xp.sum(pull * cosine) * mean
        size = length(step)
        if bool(size < tol):
            break
        mean = xp.cos(size) * mean + xp.sin(size) / size * step
        mean = mean / length(mean)
    return mean


def _lower(p: Mapping[str, Any], shape: Shape) -> Lowered:
    ones = [1.0] * shape.models
    if shape.models == 1:
        return Lowered(ones, deltas=False, add_base=False)

    def coefficients(gram: Gram) -> Coefficients:
        return Coefficients(_factors(gram, shape.models, p["max_iter"], p["tol"]))

    pairs = [(i, j) for i in range(shape.models) for j in range(i, shape.models)]
    return Lowered(ones, deltas=False, add_base=False, gram=pairs, coefficients=coefficients)


KARCHER = Method(
    name="karcher",
    title="Karcher mean",
    paper="arXiv:2603.04972",
    summary="The mean on the sphere, where no model is favoured: keeps norms that averaging shrinks, nothing to set.",
    function=karcher,
    params=KarcherParams,
    base="ignored",
    models=(1, None),
    lower=_lower,
    reproducible="tolerance",  # sine and arc cosine are not the same to the last bit on every CPU
    laws=frozenset({"identity", "permutation", "single"}),
    differs=(
        "The iteration runs on the dot products of the models, in float64, and not on the tensors: the same steps, with "
        "two readings of the models whatever the number of steps.",
        "Where no norm exceeds tol, the result is the average; mergekit writes zeros there.",
        "A model exactly opposite to the mean, to which no direction leads, is left out of the step; mergekit divides by "
        "the sine of an angle that rounding keeps off pi.",
        "The first model is the start only where the mean of the directions is shorter than 1e-6 (mergekit: tol).",
        "Weights are equal, as in mergekit.",
    ),
    cite="""@article{wang2026karcher,
  title={Functionality-Oriented LLM Merging on the Fisher-Rao Manifold},
  author={Wang, Jiayu and Ye, Zuojun and Yin, Wenpeng},
  journal={arXiv:2603.04972},
  year={2026},
}""",
)
