"""Arcee Fusion: take over from another model what stands out, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelwright.methods._method import Method, Params, checked
from modelwright.tensors import Array, is_numpy, namespace

#: Elements whose distributions are compared at once, in float64.
_BLOCK = 1 << 18
_EPSILON = 1e-8


class ArceeFusionParams(Params):
    """Parameters of `arcee_fusion`: none."""


@checked(ArceeFusionParams, least=1, most=1, base="required")
def arcee_fusion(models: Sequence[Array], *, base: Array) -> Array:
    """The model's value where its importance is exceptional in the tensor, the base's elsewhere.

    importance = |theta - base| KL(softmax(theta) || softmax(base)), the divergence taken along the last axis. Taken over is
    what reaches median + 1.5 (third - first quartile) of it.

    Args:
        models: One array, any floating format.
        base: The model that is kept elsewhere, same shape.

    Returns:
        The merged tensor in the shape and format of the base. Where three quarters of the entries have importance 0, all
        reach the bound, which is 0: the model's values.

    Raises:
        InputError: Shapes differ, a value is not finite, or there is not exactly one model beside the base.

    Differs:
        See `ARCEE_FUSION.differs`.

    Example:
        >>> import numpy as np
        >>> base = np.zeros((2, 4))
        >>> arcee_fusion([base + [[0, 0.1, 0.1, 3], [0.1, 0.1, 0, 0]]], base=base)
        array([[0., 0., 0., 3.],
               [0., 0., 0., 0.]])

    Source:
        mergekit, `arcee_fusion` (2025).
    """
    (model,) = models
    xp = namespace(base)
    if 0 in base.shape:
        return base
    importance = xp.abs(model - base) * xp.astype(_divergence(model, base), base.dtype)
    first, median, third = _quartiles(xp.reshape(importance, (-1,)))
    return xp.where(importance >= median + 1.5 * (third - first), model, base)


def _divergence(model: Array, base: Array) -> Array:
    """KL(softmax(model) || softmax(base)) along the last axis, kept as an axis of length 1; float64."""
    xp = namespace(base)
    width = base.shape[-1] if base.ndim else 1
    # By way of one axis, so that memory is in row-major order, in which numpy adds up.
    p, q = (xp.reshape(xp.reshape(array, (-1,)), (-1, width)) for array in (model, base))
    step = max(1, _BLOCK // width)
    parts: list[Array] = []
    for at in range(0, p.shape[0], step):
        a, b = (_softmax(rows[at : at + step, :]) + _EPSILON for rows in (p, q))
        parts.append(xp.sum(a * xp.log(a / b), axis=-1))
    return xp.reshape(xp.concat(parts), (*base.shape[:-1], 1) if base.ndim else ())


def _softmax(rows: Array) -> Array:
    xp = namespace(rows)
    rows = xp.astype(rows, xp.float64)
    powers = xp.exp(rows - xp.max(rows, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True)


def _quartiles(values: Array) -> list[Array]:
    """The values at a quarter, a half and three quarters of the way from the smallest to the largest, rounded down."""
    places = [int(share * (values.shape[0] - 1)) for share in (0.25, 0.5, 0.75)]
    ordered = np.partition(values, places) if is_numpy(values) else namespace(values).sort(values)
    return [ordered[place] for place in places]


ARCEE_FUSION = Method(
    name="arcee_fusion",
    title="Arcee Fusion",
    paper="https://github.com/arcee-ai/mergekit",
    summary="Takes the changes of one model that stand out in their tensor, leaves the rest as it was: nothing to set.",
    function=arcee_fusion,
    params=ArceeFusionParams,
    base="required",
    models=(1, 1),
    reproducible="tolerance",  # exponentials and logarithms are not the same to the last bit on every CPU
    laws=frozenset({"identity", "base"}),
    differs=(
        "Quartiles are those of all entries. mergekit draws a million of them, without a seed of its own, from tensors "
        "that have more, so that its masks differ from run to run.",
        "The divergence is computed in float64: for two models that are close it is a sum of terms that cancel but for "
        "their second order, and in bfloat16 or float32 what is left is rounding.",
        "The output has the format that the recipe asks for; mergekit writes float32 unless out_dtype is set (its issue 604).",
        "Entries that are taken over have the model's very values.",
    ),
)
