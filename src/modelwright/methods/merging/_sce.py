"""SCE: select the entries that vary most, calculate weights from energies, erase what disagrees in sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from modelwright.methods._method import Method, Params, Span, checked
from modelwright.methods.merging._parts import INT8_MASK, added, elected_sign, fraction
from modelwright.tensors import Array, dot, keep_ranks, namespace

Merged = Literal["selected", "all"]


class SceParams(Params):
    """Parameters of `sce`."""

    select_topk: Annotated[
        float,
        Span(0.05, 1, log=True),
        fraction("Share of the entries that is selected: those whose task vectors differ most between the models."),
    ] = 1.0
    floor: float = Field(1e-6, ge=0, description="Sum of the mean squares below which all models weigh the same.")
    merged: Merged = Field(
        "selected",
        description="Which entries are merged: the selected ones (mergekit), or all, so that selecting decides weights only.",
    )


@checked(SceParams, base="required")
def sce(
    models: Sequence[Array], *, base: Array, select_topk: float = 1.0, floor: float = 1e-6, merged: Merged = "selected"
) -> Array:
    """Average the task vectors where they agree in sign, weighted by their energy on the selected entries.

    Select: of the entries whose variance over the models is not 0, the share `select_topk` with the largest one; the
    rest of each task vector becomes 0. Calculate: weight_i = mean square of task vector i, over the sum of all.
    Erase: s = sign(sum_i tau_i); result = base + sum_{i: sign(tau_i) = s} weight_i tau_i / sum_{the same i} weight_i.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        select_topk: Share selected, in [0, 1]; at 1 nothing is dropped, also where nothing varies.
        floor: Where the mean squares add up to less, the weights are 1/n each; 0 for never.
        merged: `selected`: the rest of each task vector is dropped; `all`: it is merged too, with the same weights.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `SCE.differs`.

    Example:
        >>> import numpy as np
        >>> sce([np.array([3.0, 1.0]), np.array([1.0, -3.0])], base=np.zeros(2))
        array([ 2., -3.])

    Source:
        Wan et al. 2024, arXiv:2408.07990, section 3.3.
    """
    xp = namespace(base)
    deltas = [model - base for model in models]
    zero, chosen = xp.zeros_like(base), deltas
    if select_topk < 1:
        keep = _selected(deltas, select_topk)
        chosen = [xp.where(keep, delta, zero) for delta in deltas]
    shares = [xp.astype(share, base.dtype) for share in _shares(chosen, floor)]
    deltas = chosen if merged == "selected" else deltas
    sign = elected_sign(deltas, "sum", 1.0)
    agreeing = [delta * sign > 0 for delta in deltas]
    total = added([xp.where(agrees, d * w, zero) for d, w, agrees in zip(deltas, shares, agreeing, strict=True)])
    divisor = added([xp.where(agrees, w, zero) for w, agrees in zip(shares, agreeing, strict=True)])
    return base + total / xp.maximum(divisor, xp.full_like(divisor, 1e-6))


def _selected(deltas: Sequence[Array], share: float) -> Array:
    """Mask of the entries with the largest variance over the models."""
    xp = namespace(*deltas)
    # From the first, so that equal ones vary by exactly 0 and do not count.
    apart = [delta - deltas[0] for delta in deltas]
    mean = added(apart) / len(apart)
    variance = xp.reshape(added([(x - mean) ** 2 for x in apart]), (-1,))
    varying = int(xp.sum(xp.astype(variance > 0, xp.int64)))
    return xp.reshape(keep_ranks(variance, 0, int(varying * share)), deltas[0].shape)


def _shares(deltas: Sequence[Array], floor: float) -> list[Array]:
    """The weight of each model: its part of the energy, in float64."""
    size = max(1, math.prod(deltas[0].shape))
    energies = [dot(delta, delta) / size for delta in deltas]
    total = added(energies)
    xp = namespace(total)
    uneven = (total >= floor) & (total > 0)
    divisor = xp.where(uneven, total, xp.ones_like(total))
    return [xp.where(uneven, energy / divisor, xp.full_like(total, 1 / len(deltas))) for energy in energies]


SCE = Method(
    name="sce",
    title="SCE",
    paper="arXiv:2408.07990",
    summary="Weighs task vectors by their energy where the models differ most: for several strong models, nothing to set.",
    function=sce,
    params=SceParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "negation", "single"}),
    presets={"paper": {"select_topk": 0.1, "floor": 0.0, "merged": "all"}},
    ignored={"int8_mask": INT8_MASK},
    differs=(
        "mergekit gives equal weights wherever the mean squares add up to less than 1e-6, which is the rule for "
        "fine-tuned language models (a change of 0.001 per weight); floor keeps that number, and semantics: paper sets "
        "it to 0, so that energies always decide.",
        "The official code (FuseChat's mergekit) selects entries only to weigh the models by them, and merges all entries "
        "(merged: all); mergekit 0.1.5 drops what was not selected, as the paper's text reads. semantics: paper has the official code's "
        "way and its configuration for FuseChat, select_topk 0.1.",
        "Variances that tie go to the lowest index; mergekit leaves the choice to an unstable selection.",
        "With one model nothing varies, so that any select_topk below 1 gives the base, as in mergekit.",
        "An entry on which all agreeing models together weigh less than 1e-6 is divided by 1e-6, as in mergekit.",
    ),
    cite="""@article{wan2024fusechat,
  title={FuseChat: Knowledge Fusion of Chat Models},
  author={Wan, Fanqi and Zhong, Longguang and Yang, Ziyi and Chen, Ruijun and Quan, Xiaojun},
  journal={arXiv:2408.07990},
  year={2024},
}""",
)
