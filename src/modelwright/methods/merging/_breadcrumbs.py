"""Model Breadcrumbs: keep the middle of each task vector, drop both tails."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._lowered import Keep, Lowered, Ranks, Shape
from modelwright.methods._method import PER_MODEL, Method, Round, Scope, Span, checked
from modelwright.methods.merging._model_ranks import between, magnitude_edges
from modelwright.methods.merging._parts import (
    ARITHMETIC_DIFFERS,
    INT8_MASK,
    TaskVectorParams,
    Weights,
    combined,
    fraction,
    lowered,
    per_model,
    rescaled,
    trimmed_ranks,
)
from modelwright.tensors import Array

#: What holds several tensors, whose entries are ranked together.
_SEVERAL = ("layer", "model")


class BreadcrumbsParams(TaskVectorParams):
    """Parameters of `breadcrumbs` and `breadcrumbs_ties`."""

    density: Annotated[
        float,
        PER_MODEL,
        Span(0.05, 1, log=True),
        fraction("Share of this task vector that is kept, after the outliers."),
    ] = 1.0
    gamma: Annotated[
        float,
        PER_MODEL,
        Span(0.001, 0.1, log=True),
        Field(ge=0, lt=1, description="Share of largest entries that is dropped."),
    ] = 0.01
    rescale: bool = Field(False, description="Scale the kept middle back to the task vector's L1 norm.")
    scope: Literal["row", "tensor", "layer", "model"] = Field(
        "tensor",
        description="What shares are counted over: each row (the official code), tensor (the paper), layer (all tensors of one; outside "
        "the layers each tensor) or the model.",
    )
    order: Literal["remove_first", "keep_first"] = Field(
        "remove_first", description="keep_first takes the outliers out of the kept share, leaving density - gamma."
    )
    overlap: Literal["clip", "error"] = Field(
        "clip", description="Where density + gamma > 1: drop fewer outliers so that density holds, or refuse."
    )


@checked(BreadcrumbsParams, base="required")
def breadcrumbs(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    density: Weights = 1.0,
    gamma: Weights = 0.01,
    normalize: bool = False,
    lambda_: float = 1.0,
    rescale: bool = False,
    scope: Literal["row", "tensor", "layer", "model"] = "tensor",
    order: Literal["remove_first", "keep_first"] = "remove_first",
    overlap: Literal["clip", "error"] = "clip",
    facts: Mapping[str, Any] | None = None,
) -> Array:
    """Add the middle of each task vector: base + lambda * sum_i w_i m_i (theta_i - base).

    Of n entries sorted by falling |tau|, int(gamma n) are dropped, the next int(density n) kept, the rest dropped.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        density: Share kept, in [0, 1]. At 1 the task vector stays whole and gamma has no effect.
        gamma: Share of the largest entries dropped, in [0, 1).
        normalize: Divide the sum by sum_i w_i.
        lambda_: Scale of the merged task vector (the paper's alpha); `lambda` in recipes.
        rescale: Restore the L1 norm of each task vector.
        scope: `tensor`, `row` (the last axis), `layer` or `model`: called directly, the arrays given are all of that.
        order: `remove_first`, or `keep_first`: ranks [int(gamma n), int(density n)).
        overlap: `clip` or `error`.
        facts: What the model-wide rounds found; `mw.merge` passes it.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite, a parameter is out of range, or density + gamma > 1 under
            overlap: error.

    Differs:
        See `BREADCRUMBS.differs`.

    Example:
        >>> import numpy as np
        >>> breadcrumbs([np.array([9.0, 1.0, 2.0, 0.1])], base=np.zeros(4), density=0.5, gamma=0.25)
        array([0., 1., 2., 0.])

    Source:
        Davari and Belilovsky 2023, arXiv:2312.06795, section 3.
    """
    deltas = _middles(models, base, density, gamma, rescale, scope, order, overlap, facts or {})
    weights = per_model(weight, len(models))
    return combined(base, deltas, weight=weights, normalize=normalize, lambda_=lambda_)


@checked(BreadcrumbsParams, base="required")
def breadcrumbs_ties(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    density: Weights = 1.0,
    gamma: Weights = 0.01,
    normalize: bool = False,
    lambda_: float = 1.0,
    rescale: bool = False,
    scope: Literal["row", "tensor", "layer", "model"] = "tensor",
    order: Literal["remove_first", "keep_first"] = "remove_first",
    overlap: Literal["clip", "error"] = "clip",
    facts: Mapping[str, Any] | None = None,
) -> Array:
    """Breadcrumbs masks, then sign election by mass and the sum of the entries that agree.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        density: Share kept, in [0, 1].
        gamma: Share of the largest entries dropped, in [0, 1).
        normalize: Divide by the weights that agree.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        rescale: Restore the L1 norm of each task vector.
        scope: `tensor`, `row` (the last axis), `layer` or `model`: called directly, the arrays given are all of that.
        order: `remove_first` or `keep_first`.
        overlap: `clip` or `error`.
        facts: What the model-wide rounds found; `mw.merge` passes it.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: As `breadcrumbs`.

    Differs:
        See `BREADCRUMBS_TIES.differs`.

    Source:
        arXiv:2312.06795 with the election of arXiv:2306.01708, a combination of the community's.
    """
    deltas = _middles(models, base, density, gamma, rescale, scope, order, overlap, facts or {})
    weights = per_model(weight, len(models))
    return combined(base, deltas, weight=weights, normalize=normalize, lambda_=lambda_, elect="sum")


def _middles(
    models: Sequence[Array],
    base: Array,
    density: Weights,
    gamma: Weights,
    rescale: bool,
    scope: str,
    order: str,
    overlap: str,
    facts: Mapping[str, Any],
) -> list[Array]:
    result: list[Array] = []
    pairs = zip(per_model(density, len(models)), per_model(gamma, len(models)), strict=True)
    for i, (model, (kept, outliers)) in enumerate(zip(models, pairs, strict=True)):
        delta = model - base
        if "edges" in facts:
            edges = facts["edges"][i]
            result.append(delta if edges is None else rescaled(delta, between(delta, edges), rescale, max(kept, 1e-9)))
            continue
        rowwise = scope == "row" and delta.ndim >= 1
        ranks = _ranks(delta.shape[-1] if rowwise else math.prod(delta.shape), kept, outliers, order, overlap)
        if ranks is None:
            result.append(delta)
            continue
        mask = trimmed_ranks(delta, ranks.start, ranks.stop, rowwise)
        result.append(rescaled(delta, mask, rescale, max(kept, 1e-9)))
    return result


def _ranks(n: int, kept: float, outliers: float, order: str, overlap: str) -> Ranks | None:
    """Which of n entries by falling magnitude; None for all of them."""
    if order == "keep_first":
        return Ranks(int(outliers * n), int(kept * n))
    if overlap == "error" and kept + outliers > 1:
        raise InputError(
            f"breadcrumbs: density + gamma must be at most 1, got {kept:g} + {outliers:g}",
            "Lower one of them, or set overlap: clip to drop fewer outliers.",
        )
    if kept >= 1:
        return None
    count = int(kept * n)
    start = min(int(outliers * n), n - count)  # fewer outliers go where density asks for their place
    return Ranks(start, start + count)


def _wanted(size: int, p: Mapping[str, Any], model: int) -> tuple[int, int] | None:
    ranks = _ranks(size, p["density"][model], p["gamma"][model], p["order"], p["overlap"])
    return None if ranks is None else (ranks.start, ranks.stop)


def _rounds(p: Mapping[str, Any]) -> Sequence[Round]:
    pairs = zip(p["density"], p["gamma"], strict=True) if p["scope"] in _SEVERAL else ()
    if all(_ranks(1000, *pair, p["order"], p["overlap"]) is None for pair in pairs):
        return ()
    return magnitude_edges("edges", _wanted, ("scope", "density", "gamma", "order", "overlap"))


def _scope(p: Mapping[str, Any]) -> Scope:
    return "tensor" if p["scope"] in _SEVERAL and not _rounds(p) else p["scope"]


def _lower(elect: Literal["sum"] | None) -> Callable[[Mapping[str, Any], Shape], Lowered | None]:
    def lower(p: Mapping[str, Any], shape: Shape) -> Lowered | None:
        if p["scope"] == "row":
            return None
        pairs = zip(p["density"], p["gamma"], strict=True)
        whole = p["scope"] in _SEVERAL
        size = shape.total if whole else shape.size
        keep: list[Keep] = [_ranks(size, *pair, p["order"], p["overlap"]) for pair in pairs]
        whole = whole and any(ranks is not None for ranks in keep)
        return lowered(p, keep, rescale=p["rescale"], elect=elect, whole_model=whole)

    return lower


_DIFFERS = (
    ARITHMETIC_DIFFERS,
    "Counts are int(density n) and int(gamma n) by index, ties going to the lowest index; a tensor with fewer than "
    "1/density entries keeps nothing, as in the official code and mergekit 0.1.5.",
    "scope: tensor is the paper's definition and mergekit's; the official code masks along the last axis (scope: row). "
    "The paper says layer and means a tensor; scope: layer, one ranking over the tensors of a transformer layer, and scope: model, over "
    "all, are ours; there |tau| is ranked in float32.",
    "Where density + gamma > 1, fewer outliers are dropped as in mergekit; semantics: paper refuses it.",
    "At density 1 gamma has no effect, as in mergekit.",
)
_CITE = """@inproceedings{davari2024breadcrumbs,
  title={Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks},
  author={Davari, MohammadReza and Belilovsky, Eugene},
  booktitle={ECCV},
  year={2024},
}"""
_PAPER = {"paper": {"density": 0.15, "gamma": 0.006, "lambda": 0.3, "overlap": "error", "weight": 1.0}}
_LAWS = frozenset({"identity", "permutation", "base", "scaling", "negation", "single"})

BREADCRUMBS = Method(
    name="breadcrumbs",
    title="Model Breadcrumbs",
    paper="arXiv:2312.06795",
    summary="Drops both the noise and the outliers of each task vector: settings that carry over to many tasks.",
    function=breadcrumbs,
    params=BreadcrumbsParams,
    base="required",
    models=(1, None),
    laws=_LAWS,
    scope=_scope,
    rounds=_rounds,
    lower=_lower(None),
    presets=_PAPER,
    ignored={"int8_mask": INT8_MASK},
    differs=_DIFFERS,
    cite=_CITE,
)

BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    title="Model Breadcrumbs with TIES",
    paper="arXiv:2312.06795",
    summary="Breadcrumbs masks with TIES' sign election.",
    function=breadcrumbs_ties,
    params=BreadcrumbsParams,
    base="required",
    models=(1, None),
    laws=_LAWS,
    scope=_scope,
    rounds=_rounds,
    lower=_lower("sum"),
    presets=_PAPER,
    ignored={"int8_mask": INT8_MASK},
    differs=_DIFFERS,
    cite=_CITE,
)
