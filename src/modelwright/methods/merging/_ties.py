"""TIES-Merging: trim, elect signs, merge what agrees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from modelwright.methods._lowered import Keep, Lowered, Ranks, Shape
from modelwright.methods._method import PER_MODEL, Method, PerTensor, Round, Span, checked
from modelwright.methods.merging._parts import (
    ARITHMETIC_DIFFERS,
    INT8_MASK,
    TaskVectorParams,
    Weights,
    combined,
    elected_sign,
    fraction,
    lowered,
    per_model,
    rescaled,
    trimmed_ranks,
)
from modelwright.tensors import Array, keep_above, namespace, to_numpy


class TiesParams(TaskVectorParams):
    """Parameters of `ties`."""

    density: Annotated[
        float, PER_MODEL, Span(0.05, 1, log=True), fraction("Share of this task vector that is kept, largest first.")
    ] = 1.0
    # Factor of a mean and not of a sum, so it is larger.
    lambda_: Annotated[float, Span(0.3, 3, log=True)] = Field(
        1.0, alias="lambda", description="Factor of the merged task vector, applied last."
    )
    normalize: bool = Field(True, description="Divide by the sum of the weights that agree with the elected sign.")
    rescale: bool = Field(False, description="Scale the trimmed task vector back to its L1 norm, tensor by tensor.")
    scope: Literal["row", "tensor", "model"] = Field(
        "tensor", description="What the kept share is counted over: each row (last axis), each tensor, or the model."
    )
    sign_method: Literal["sum", "count"] = Field("sum", description="Signs are elected by mass, or by number of votes.")
    merge_func: Literal["mean", "sum", "max"] = Field("mean", description="How entries that agree are joined.")
    zero_sign: Literal["positive", "majority"] = Field(
        "positive", description="What an even split elects: +1, or the sign that most elements of the model elected."
    )
    count: Literal["exact", "official"] = Field(
        "exact", description="int(density n) entries, at least one; or the official code's + 1 with all ties kept."
    )


@checked(TiesParams, base="required")
def ties(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    density: Weights = 1.0,
    normalize: bool = True,
    lambda_: float = 1.0,
    rescale: bool = False,
    scope: Literal["row", "tensor", "model"] = "tensor",
    sign_method: Literal["sum", "count"] = "sum",
    merge_func: Literal["mean", "sum", "max"] = "mean",
    zero_sign: Literal["positive", "majority"] = "positive",
    count: Literal["exact", "official"] = "exact",
    facts: Mapping[str, Any] | None = None,
) -> Array:
    """Trim each task vector to its largest entries, elect a sign per element, merge the entries that have it.

    tau_i = theta_i - base, trimmed to density; s = sign(sum_i w_i tau_i);
    result = base + lambda * sum_{i: sign(w_i tau_i) = s} w_i tau_i / sum_{the same i} w_i.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        density: Share kept, in [0, 1]; one for all, or n. 0 drops the task vector.
        normalize: Divide by the agreeing weights; otherwise the agreeing entries are added.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        rescale: Restore the L1 norm of each tensor of a task vector after trimming.
        scope: `row` counts along the last axis, `tensor` over the array. `model` is the paper's: `mw.merge` counts over
            the whole model; called directly, the arrays given are the model.
        sign_method: `sum` (mass, the paper's) or `count`.
        merge_func: `mean`, `sum` or `max`.
        zero_sign: `positive`, or `majority` of all elected signs (negative if that is even too).
        count: `exact`: max(1, int(density n)) entries by index. `official`: every |tau| that reaches the official
            code's threshold, which are int(density n) + 1 and more when values tie.
        facts: What the model-wide rounds found; `mw.merge` passes it.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `TIES.differs`.

    Example:
        >>> import numpy as np
        >>> ties([np.array([1.0, 0.1]), np.array([3.0, -0.2])], base=np.zeros(2), density=0.5)
        array([2., 0.])

    Source:
        Yadav et al. 2023, arXiv:2306.01708, section 3.2.
    """
    settings = {"density": per_model(density, len(models)), "scope": scope, "count": count, "rescale": rescale}
    deltas = _trimmed(models, base, settings, facts or {})
    weights = per_model(weight, len(models))
    undecided = 1.0
    if zero_sign == "majority":
        if facts is not None and "majority" in facts:
            undecided = facts["majority"]
        else:
            signs = elected_sign([d * w for d, w in zip(deltas, weights, strict=True)], sign_method, 0.0)
            undecided = 1.0 if _net(signs) > 0 else -1.0
    return combined(
        base, deltas, weight=weights, normalize=normalize, lambda_=lambda_,
        elect=sign_method, zero_sign=undecided, merge_func=merge_func,
    )  # fmt: skip


def _kept(size: int, density: float, count: str) -> int:
    """How many of `size` entries a density keeps."""
    if count == "official":
        return min(size, int(density * size) + 1)
    return min(size, max(1, int(density * size)))


def _trimmed(models: Sequence[Array], base: Array, p: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Array]:
    """The task vectors, trimmed: by the thresholds in facts where the scope is the model."""
    xp = namespace(base)
    result: list[Array] = []
    for i, (model, density) in enumerate(zip(models, p["density"], strict=True)):
        delta = model - base
        size = delta.shape[-1] if p["scope"] == "row" and delta.ndim else math.prod(delta.shape)
        if density >= 1 or size == 0:
            result.append(delta)
            continue
        if density <= 0:
            result.append(xp.zeros_like(delta))
            continue
        if "threshold" in facts:
            spare = facts["ties"][i] if "ties" in facts else None
            keep = keep_above(_magnitude(xp, delta), facts["threshold"][i], spare)
        elif p["count"] == "official":
            keep = _official(xp, delta, density, p["scope"] == "row")
        else:
            keep = trimmed_ranks(delta, 0, _kept(size, density, "exact"), p["scope"] == "row")
        result.append(rescaled(delta, keep, bool(p.get("rescale", False)), density))
    return result


def _official(xp: Any, delta: Array, density: float, rowwise: bool) -> Array:
    """Every entry that reaches the value at the official code's index: one more than density n, and all ties."""
    magnitude = xp.abs(delta)
    flat = magnitude if rowwise and delta.ndim else xp.reshape(magnitude, (-1,))
    n = flat.shape[-1]
    threshold = xp.sort(flat, axis=-1)[..., n - _kept(n, density, "official"), None]
    return xp.reshape(flat >= threshold, delta.shape)


# --- scope: model. An exact selection over all tensors in streaming passes -----------------------------------------
# |tau| is ranked in float32, whose bit patterns of non-negative values sort like the values. Pass 1 counts the upper
# 16 bits, pass 2 the lower 16 within the bucket that holds the k-th value, pass 3 the ties, which go to the first
# tensors in output order. Counts add up over tensors, so the result does not depend on how they are dealt to threads.


def _magnitude(xp: Any, delta: Array) -> Array:
    return xp.astype(xp.abs(delta), xp.float32)


def _bits(model: Array, base: Array) -> Any:
    return np.abs(to_numpy(model - base)).astype(np.float32).reshape(-1).view(np.uint32)


def _count_upper(models: Sequence[Array], base: Array, p: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    return np.stack([np.bincount(_bits(model, base) >> 16, minlength=65536) for model in models])


def _pick(counts: Any, wanted: int) -> tuple[int, int]:
    """The bucket that holds the wanted-th largest entry, and how many of its entries are still wanted."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, wanted))
    return len(counts) - 1 - place, wanted - int(above[place - 1] if place else 0)


def _find_upper(counts: Any, p: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    size = int(counts[0].sum())
    wanted = [_kept(size, density, p["count"]) if size else 0 for density in p["density"]]
    picked = [_pick(row, k) if k else (65535, 0) for row, k in zip(counts, wanted, strict=True)]
    return {"upper": [bucket for bucket, _ in picked], "left": [left for _, left in picked]}


def _count_lower(models: Sequence[Array], base: Array, p: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    rows: list[Any] = []
    for model, upper in zip(models, facts["upper"], strict=True):
        bits = _bits(model, base)
        rows.append(np.bincount(bits[(bits >> 16) == upper] & 0xFFFF, minlength=65536))
    return np.stack(rows)


def _find_threshold(counts: Any, p: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    picked = [_pick(row, left) if left else (65535, 0) for row, left in zip(counts, facts["left"], strict=True)]
    bits = [(upper << 16) | lower for upper, (lower, _) in zip(facts["upper"], picked, strict=True)]
    values = [float(np.uint32(b).view(np.float32)) for b in bits]
    return {"threshold": values, "spare": [left for _, left in picked]}


def _count_ties(models: Sequence[Array], base: Array, p: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    wanted = [np.float32(threshold).view(np.uint32) for threshold in facts["threshold"]]
    return np.array(
        [np.count_nonzero(_bits(model, base) == bits) for model, bits in zip(models, wanted, strict=True)],
        dtype=np.int64,
    )


def _deal_ties(counts: Mapping[str, Any], p: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    spare = np.array(facts["spare"], dtype=np.int64)
    dealt = PerTensor()
    for name, found in counts.items():
        dealt[name] = np.minimum(spare, found).tolist()
        spare = spare - np.minimum(spare, found)
    return {"ties": dealt}


def _count_signs(models: Sequence[Array], base: Array, p: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    deltas = _trimmed(models, base, p, facts)
    signs = elected_sign([d * w for d, w in zip(deltas, p["weight"], strict=True)], p["sign_method"], 0.0)
    return np.array([_net(signs)])


def _net(signs: Array) -> int:
    """Positive minus negative elections, exact at any size."""
    return int(to_numpy(signs).astype(np.int64).sum())


def _find_majority(total: Any, p: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"majority": 1.0 if int(total[0]) > 0 else -1.0}


def rounds(p: Mapping[str, Any]) -> Sequence[Round]:
    """The passes over the whole model that these parameters need."""
    result: list[Round] = []
    counted = ("scope", "count", "density")
    if p["scope"] == "model" and any(density < 1 for density in p["density"]):
        result.append(Round("threshold, upper bits", _count_upper, _find_upper, counted))
        result.append(Round("threshold, lower bits", _count_lower, _find_threshold, counted))
        if p["count"] == "exact":
            result.append(Round("ties at the threshold", _count_ties, _deal_ties, counted, fold="list"))
    if p["zero_sign"] == "majority":
        result.append(Round("majority sign", _count_signs, _find_majority, ("zero_sign",)))
    return result


def _lower(p: Mapping[str, Any], shape: Shape) -> Lowered | None:
    if p["scope"] == "row" and any(0 < density < 1 for density in p["density"]):
        return None
    size = shape.total if p["scope"] == "model" else shape.size
    keep: list[Keep] = []
    for density in p["density"]:
        if density >= 1 or size == 0:
            keep.append(None)
        elif density <= 0:
            keep.append(Ranks(0, 0))
        else:
            keep.append(Ranks(0, _kept(size, density, p["count"]), all_ties=p["count"] == "official"))
    return lowered(
        p, keep, rescale=p["rescale"], elect=p["sign_method"], join=p["merge_func"],
        zero_sign=None if p["zero_sign"] == "majority" else 1.0, whole_model=p["scope"] == "model",
    )  # fmt: skip


TIES = Method(
    name="ties",
    title="TIES-Merging",
    paper="arXiv:2306.01708",
    summary="Keeps each task vector's largest entries and merges those that agree in sign: less interference.",
    function=ties,
    params=TiesParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation", "single"}),
    scope=lambda p: "model" if rounds(p) else p["scope"],
    rounds=rounds,
    lower=_lower,
    presets={"paper": {"density": 0.2, "scope": "model", "zero_sign": "majority", "weight": 1.0}},
    ignored={"int8_mask": INT8_MASK},
    differs=(
        ARITHMETIC_DIFFERS,
        "The paper trims over the whole model, mergekit and peft per tensor: scope decides, `tensor` by default.",
        "Exactly max(1, int(density n)) entries are kept, ties going to the lowest index; the official code keeps one "
        "more and all ties (count: official), mergekit breaks ties in the order of an unstable sort.",
        "Under scope: model |tau| is ranked in float32, so two float64 entries that round to one float32 tie.",
        "Where the elected sum is 0, + is elected as in mergekit and peft; zero_sign: majority is the official rule.",
        "Weights multiply before the election and normalize divides by the agreeing weights, as in mergekit; peft "
        "elects on unweighted task vectors and divides by the count.",
        "density above 1 is refused (mergekit takes it as 1, the official code as per cent).",
        "Left out of the official code: trimming by share of the norm or by standard deviations, election by share of "
        "the norm, and signs given from outside.",
    ),
    cite="""@inproceedings{yadav2023ties,
  title={TIES-Merging: Resolving Interference When Merging Models},
  author={Yadav, Prateek and Tam, Derek and Choshen, Leshem and Raffel, Colin and Bansal, Mohit},
  booktitle={NeurIPS},
  year={2023},
}""",
)
