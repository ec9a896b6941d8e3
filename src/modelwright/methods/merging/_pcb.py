"""PCB-Merging: weights compete within and between tasks; those that win are averaged, the rest are dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modelwright.methods._method import PER_MODEL, Method, Params, Round, Span, checked
from modelwright.methods.merging._model_ranks import order_statistics
from modelwright.methods.merging._parts import Weights, added, per_model
from modelwright.tensors import Array, namespace

Balance = Literal["sum", "signs", "pairs"]


class PcbParams(Params):
    """Parameters of `pcb`."""

    weight: Annotated[float, PER_MODEL, Field(description="Factor of this model's task vector in the average.")] = 1.0
    density: Annotated[float, Span(0.02, 0.5, log=True)] = Field(
        0.05, gt=0, le=1, description="Share of each task vector that wins; the rest is dropped."
    )
    lambda_: Annotated[float, Span(0.3, 3, log=True)] = Field(
        1.2, alias="lambda", description="Factor of the merged task vector, applied last."
    )
    clip: Annotated[float, Span(0, 0.05)] = Field(
        0.01, ge=0, lt=0.5, description="Share of the smallest and of the largest entries that are cut to a limit."
    )
    balance: Balance = Field(
        "signs",
        description="What an entry's agreement with the other tasks is measured by: their sum, the sum of their signed "
        "sizes (signs), or each of them on its own (pairs).",
    )
    scope: Literal["tensor", "model"] = Field(
        "model", description="What entries compete in: the whole model, as the paper has it, or each tensor."
    )


@checked(PcbParams, base="required")
def pcb(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    density: float = 0.05,
    lambda_: float = 1.2,
    clip: float = 0.01,
    balance: Balance = "signs",
    scope: Literal["tensor", "model"] = "model",
    facts: Mapping[str, Any] | None = None,
) -> Array:
    """Average task vectors entry by entry, weighted by how large an entry is in its task and how well it agrees.

    For each task: a_i = |tau_i| cut at its `clip` and 1 - `clip` quantiles, c_i = sign(tau_i) a_i, u_i = a_i scaled to
    [0, 1]; intra_i = exp(n u_i^2); inter_i = tanh(tau_i sum_j tau_j) (`sum`), tanh(tau_i sum_j sign(tau_j) u_j) (`signs`)
    or sum_j tanh(v_i v_j) with v = sign(tau) u (`pairs`); s_i = intra_i inter_i, raised to its 1 - density quantile and
    scaled to [0, 1]. result = base + lambda * sum_i w_i s_i c_i / sum_i s_i.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers: the paper's lambda_i.
        density: Share of entries that win in each task, in (0, 1]; the paper's mask ratio r.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        clip: Share of entries at either end that are cut to the quantile, in [0, 0.5).
        balance: `sum`, `signs` or `pairs`.
        scope: `model` is the paper's: `mw.merge` counts over the whole model; called directly, the arrays given are the
            model. `tensor` has entries compete in each tensor.
        facts: What the model-wide rounds found; `mw.merge` passes it.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `PCB.differs`.

    Example:
        >>> import numpy as np
        >>> one, two = np.array([4.0, 1.0, 0.0, -2.0, 3.0]), np.array([4.0, 0.0, 1.0, 2.0, -3.0])
        >>> pcb([one, two], base=np.zeros(5), density=0.4, lambda_=1.0, clip=0.0)
        array([4., 0., 0., 0., 0.])

    Source:
        Du et al. 2024, arXiv:2410.02396, section 3, and the official code's `pcb.py` and `merge_utils.py`.
    """
    xp = namespace(base)
    p = {"density": density, "clip": clip, "balance": balance}
    deltas = [model - base for model in models]
    if math.prod(base.shape) == 0:
        return base + added(deltas)
    known = facts or {}
    limits = known.get("limits") or [_quantiles(xp.abs(d), *_limit_ranks(math.prod(d.shape), p)) for d in deltas]
    scores = _scores(deltas, limits, balance)
    marks = known.get("marks") or [_quantiles(s, *_mark_ranks(math.prod(s.shape), p)) for s in scores]
    shares = [_scaled(s, low, high) for s, (low, high) in zip(scores, marks, strict=True)]
    total = added(shares)
    parts = zip(deltas, limits, shares, per_model(weight, len(models)), strict=True)
    merged = added([xp.sign(d) * _between(xp.abs(d), *limit) * s * w for d, limit, s, w in parts])
    floor = xp.full_like(total, 1e-12)
    return base + merged / xp.where(total > floor, total, floor) * lambda_


def _scores(deltas: Sequence[Array], limits: Sequence[Any], balance: Balance) -> list[Array]:
    """How strongly each entry of each task competes: size within the task times agreement with the others."""
    xp = namespace(*deltas)
    sizes = [_scaled(xp.abs(delta), *limit) for delta, limit in zip(deltas, limits, strict=True)]
    signed = [xp.sign(delta) * size for delta, size in zip(deltas, sizes, strict=True)]
    if balance == "pairs":
        inter = [added([xp.tanh(own * other) for other in signed]) for own in signed]
    else:
        together = added(deltas if balance == "sum" else signed)
        inter = [xp.tanh(delta * together) for delta in deltas]
    # Divided by exp(n), which scaling to [0, 1] takes away again: of many tasks exp(n) is beyond float32.
    return [xp.exp((size * size - 1) * len(deltas)) * other for size, other in zip(sizes, inter, strict=True)]


def _between(x: Array, low: Any, high: Any) -> Array:
    xp = namespace(x)
    low, high = xp.zeros_like(x) + low, xp.zeros_like(x) + high
    return xp.where(x < low, low, xp.where(x > high, high, x))


def _scaled(x: Array, low: Any, high: Any) -> Array:
    """The values cut to [low, high] and scaled to [0, 1]; zeros where the two are equal."""
    width = _between(x, low, high) * 0 + (high - low)
    xp = namespace(x)
    some = width > 0
    return xp.where(some, (_between(x, low, high) - low) / xp.where(some, width, xp.ones_like(x)), xp.zeros_like(x))


def _quantiles(x: Array, first: int, last: int) -> tuple[Array, Array]:
    xp = namespace(x)
    values = xp.sort(xp.reshape(x, (-1,)))
    return values[first], values[last]


def _limit_ranks(size: int, p: Mapping[str, Any]) -> tuple[int, int]:
    """Ranks of the two magnitudes that entries are cut to."""
    first = int(size * p["clip"])
    return first, max(first, int(size * (1 - p["clip"]) - 1))


def _mark_ranks(size: int, p: Mapping[str, Any]) -> tuple[int, int]:
    """Ranks of the greatest score that loses, and of the greatest score."""
    return min(int(size * (1 - p["density"])), size - 1), size - 1


def _rounds(p: Mapping[str, Any]) -> Sequence[Round]:
    if p["scope"] == "tensor":
        return ()

    def magnitudes(models: Sequence[Array], base: Array, _p: Any, _facts: Any) -> Sequence[Array]:
        return [namespace(base).abs(model - base) for model in models]

    def scores(models: Sequence[Array], base: Array, p: Mapping[str, Any], facts: Mapping[str, Any]) -> Sequence[Array]:
        return _scores([model - base for model in models], facts["limits"], p["balance"])

    uniform = ("scope", "clip", "balance", "density")
    return [
        *order_statistics("limits", "limits", magnitudes, lambda n, p, _: _limit_ranks(n, p), uniform),
        *order_statistics("marks", "winners", scores, lambda n, p, _: _mark_ranks(n, p), uniform),
    ]


PCB = Method(
    name="pcb",
    title="PCB-Merging",
    paper="arXiv:2410.02396",
    summary="Lets weights compete within and between tasks and averages the few that win: strong where tasks collide.",
    function=pcb,
    params=PcbParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "negation"}),
    scope=lambda p: p["scope"],
    rounds=_rounds,
    reproducible="tolerance",  # exponentials are not the same to the last bit on every CPU
    workspace=lambda models: 4.0 * (5 * models + 8),
    differs=(
        "The paper's text has softmaxes over the whole model; the official code, whose three forms are here, leaves out their "
        "denominators, cuts outliers first and takes a hyperbolic tangent. balance: signs is its vision script, sum its "
        "language scripts, pairs its search script.",
        "density, lambda and clip are the vision script's for eight tasks; for T5 it has 0.1 and 0.8 to 2.2, for (IA)3 0.2 "
        "and 1.",
        "Where all magnitudes or all scores are equal there is nothing to compete for, and the change is dropped; the official "
        "code divides by zero.",
        "exp(n u^2) is taken as exp(n (u^2 - 1)), which gives the same after scaling and does not overflow for many tasks.",
        "Under scope: model, entries are ranked in float32.",
        "The search for a scale per task needs data; its result can be given as weight.",
    ),
    cite="""@inproceedings{du2024pcb,
  title={Parameter Competition Balancing for Model Merging},
  author={Du, Guodong and Lee, Junlin and Li, Jing and Jiang, Runhua and Guo, Yifei and Yu, Shuyang and Liu, Hanting and Goh,
    Sim Kuan and Tang, Ho-Kin and He, Daojing and Zhang, Min},
  booktitle={NeurIPS},
  year={2024},
}""",
)
