"""The pieces that task-vector methods are built from: drop or trim, rescale, elect, combine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modelwright.methods._lowered import Keep, Lowered, Rescaling
from modelwright.methods._method import PER_MODEL, Params, Span
from modelwright.tensors import Array, NoiseKey, absolute_sum, keep_ranks, namespace, norm, uniform

Rescale = bool | Literal["l1", "l2", "expectation"]
Weights = float | Sequence[float]

INT8_MASK = "int8_mask has no effect: masks are never stored, and the sum is the same."
ARITHMETIC_DIFFERS = (
    "mergekit computes in the storage format unless `dtype: float32` is set; here sums are float32 (float64 for "
    "float64 inputs) and rounded once, so bf16 recipes agree only to bf16 accuracy."
)


class TaskVectorParams(Params):
    """What every method on task vectors takes."""

    weight: Annotated[float, PER_MODEL, Field(description="Factor of this model's task vector; may be negative.")]
    normalize: bool = Field(False, description="Divide by the sum of the weights that took part.")
    lambda_: Annotated[float, Span(0.05, 2, log=True)] = Field(
        1.0, alias="lambda", description="Factor of the merged task vector, applied last."
    )


def rescaled(delta: Array, keep: Array, rescale: Rescale, density: float) -> Array:
    """The task vector with dropped entries at zero and the rest scaled up.

    Args:
        delta: Task vector, any shape.
        keep: Boolean mask of the same shape.
        rescale: False: no scaling. True or "l1": the L1 norm of the whole is restored (the community's rule); "l2":
            the L2 norm; "expectation": divided by density (the DARE paper's rule).
        density: Probability that an entry is kept, in [0, 1].
    """
    xp = namespace(delta)
    kept = xp.where(keep, delta, xp.zeros_like(delta))
    if rescale is False:
        return kept
    if rescale == "expectation":
        return kept / density if density > 0 else kept
    before, after = (norm(x) if rescale == "l2" else absolute_sum(x) for x in (delta, kept))
    # Below 1e-7 the ratio is noise; the community leaves such tensors unscaled.
    defined = (before >= 1e-7) & (after >= 1e-7)
    ratio = xp.where(defined, before / xp.where(defined, after, xp.ones_like(after)), xp.ones_like(before))
    return kept * xp.astype(ratio, delta.dtype)


def dropped(
    delta: Array, density: float, rescale: Rescale, key: NoiseKey, position: int, mask: Array | None = None
) -> Array:
    """DARE: each entry kept with probability density, the rest rescaled. `mask` replaces the drawn one."""
    if density >= 1:
        return delta
    xp = namespace(delta)
    if mask is None:
        drawn = uniform(key, position, math.prod(delta.shape)) < density
        mask = xp.asarray(drawn.reshape(delta.shape), device=getattr(delta, "device", None))
    return rescaled(delta, mask, rescale, density)


def trimmed_ranks(delta: Array, start: int, stop: int, rowwise: bool) -> Array:
    """Mask of the entries whose |delta| has a descending rank in [start, stop), per row or over the tensor."""
    xp = namespace(delta)
    magnitude = xp.abs(delta)
    if rowwise and delta.ndim >= 1:
        return keep_ranks(magnitude, start, stop)
    return xp.reshape(keep_ranks(xp.reshape(magnitude, (-1,)), start, stop), delta.shape)


def elected_sign(deltas: Sequence[Array], method: Literal["sum", "count"], zero_sign: float) -> Array:
    """+1 or -1 per element: the sign of the sum (mass), or of the sum of signs (count).

    Args:
        deltas: Weighted and trimmed task vectors.
        method: `sum` or `count`.
        zero_sign: What an even split elects; 0 leaves it undecided, so that no entry agrees.
    """
    xp = namespace(*deltas)
    votes = deltas if method == "sum" else [xp.sign(delta) for delta in deltas]
    total = added(votes)
    return xp.where(total == 0, xp.full_like(total, zero_sign), xp.sign(total))


def combined(
    base: Array,
    deltas: Sequence[Array],
    *,
    weight: Sequence[float],
    normalize: bool,
    lambda_: float,
    elect: Literal["sum", "count"] | None = None,
    zero_sign: float = 1.0,
    merge_func: Literal["mean", "sum", "max"] = "mean",
) -> Array:
    """Add to the base: lambda * weighted sum of the task vectors, over the models with the elected sign.

    Args:
        base: Base tensor, any shape.
        deltas: n task vectors of that shape, trimmed or dropped already.
        weight: n weights.
        normalize: Divide by the sum of the weights, under election by those of the models that agree.
        lambda_: Scale of the merged task vector.
        elect: Sign election, or None to add everything.
        zero_sign: See `elected_sign`.
        merge_func: Under election, how agreeing entries are joined: `mean` (of the weights when normalize is set, else
            their sum), `sum`, or `max` (the largest by magnitude, with its sign).
    """
    xp = namespace(base)
    weighted = [delta * w for delta, w in zip(deltas, weight, strict=True)]
    if elect is None:
        total = added(weighted)
        if normalize:
            divisor = sum(weight)
            total = total / (divisor if abs(divisor) >= 1e-8 else 1.0)
        return base + total * lambda_
    sign = elected_sign(weighted, elect, zero_sign)
    zero = xp.zeros_like(base)
    agreeing = [(xp.sign(delta) == sign) & (delta != 0) for delta in weighted]
    if merge_func == "max":
        total = zero
        for delta, agrees in zip(weighted, agreeing, strict=True):
            total = xp.maximum(total, xp.where(agrees, xp.abs(delta), zero))
        return base + total * sign * lambda_
    total = added([xp.where(agrees, delta, zero) for delta, agrees in zip(weighted, agreeing, strict=True)])
    if normalize and merge_func == "mean":
        shares = zip(weight, agreeing, strict=True)
        divisor = added([xp.where(agrees, xp.full_like(base, w), zero) for w, agrees in shares])
        total = total / xp.where(divisor == 0, xp.ones_like(divisor), divisor)
    return base + total * lambda_


def lowered(
    p: Mapping[str, Any],
    keep: Sequence[Keep] = (),
    *,
    rescale: Rescale = False,
    elect: Literal["sum", "count"] | None = None,
    zero_sign: float | None = 1.0,
    join: Literal["sum", "mean", "max"] = "mean",
    whole_model: bool = False,
) -> Lowered:
    """`rescaled` and `combined` for the fused kernels."""
    total = sum(p["weight"])
    divide = p["normalize"] and elect is None and abs(total) >= 1e-8
    scaled: dict[Rescale, Rescaling] = {False: "none", True: "l1", "l1": "l1", "l2": "l2", "expectation": "expectation"}
    return Lowered(
        p["weight"], keep=keep, rescale=scaled[rescale], elect=elect, join=join, zero_sign=zero_sign,
        normalize=p["normalize"], divisor=total if divide else 0.0, scale=p["lambda"], whole_model=whole_model,
    )  # fmt: skip


def added(arrays: Sequence[Array]) -> Array:
    """The sum from left to right: one order, so that the bits do not depend on the library."""
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total


def per_model(value: Weights, count: int) -> Sequence[float]:
    """A scalar repeated for each model; sequences pass."""
    return [value] * count if isinstance(value, int | float) else value


def fraction(description: str) -> Any:
    """A pydantic field for a share in [0, 1]."""
    return Field(ge=0, le=1, description=description)
