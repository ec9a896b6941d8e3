"""WiSE-FT: between the model before fine-tuning and the one after, for robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from modelwright.methods._lowered import Lowered, Shape
from modelwright.methods._method import Method, Params, checked
from modelwright.methods.merging._parts import combined
from modelwright.tensors import Array


class WiseFtParams(Params):
    """Parameters of `wise_ft`."""

    alpha: float = Field(0.5, ge=0, le=1, description="Share of the fine-tuned model: 0 is the base, 1 that model.")


@checked(WiseFtParams, most=1, base="required")
def wise_ft(models: Sequence[Array], *, base: Array, alpha: float = 0.5) -> Array:
    """Average a model before and after fine-tuning: (1 - alpha) * base + alpha * theta.

    Args:
        models: One array, the fine-tuned model's.
        base: The model it was tuned from (a zero-shot model, in the paper), same shape.
        alpha: Share of the fine-tuned model, in [0, 1].

    Returns:
        The average in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite, alpha is out of range or there is not exactly one model.

    Differs:
        See `WISE_FT.differs`.

    Example:
        >>> import numpy as np
        >>> wise_ft([np.array([3.0, 1.0])], base=np.array([1.0, 1.0]), alpha=0.25)
        array([1.5, 1. ])

    Source:
        Wortsman et al. 2022, arXiv:2109.01903, section 3.
    """
    return combined(base, [models[0] - base], weight=[1.0], normalize=False, lambda_=alpha)


def _lower(p: Mapping[str, Any], _shape: Shape) -> Lowered:
    return Lowered([1.0], scale=p["alpha"])


WISE_FT = Method(
    name="wise_ft",
    title="WiSE-FT",
    paper="arXiv:2109.01903",
    summary="Goes part of the way from a base to one fine-tune of it: keeps what fine-tuning would forget.",
    function=wise_ft,
    params=WiseFtParams,
    base="required",
    models=(1, 1),
    laws=frozenset({"identity", "base", "scaling", "negation"}),
    lower=_lower,
    differs=(
        "It is task_arithmetic of one model, with the weight confined to [0, 1]; computed as base + alpha (theta - base), "
        "which differs from the paper's formula in the last digit only.",
        "The paper averages the head as well, whose start is the zero-shot head; give heads that were made anew alpha: 1 by "
        "a filter.",
        "alpha is 0.5 where nothing better is known, as the paper recommends.",
    ),
    cite="""@inproceedings{wortsman2022wiseft,
  title={Robust fine-tuning of zero-shot models},
  author={Wortsman, Mitchell and Ilharco, Gabriel and Kim, Jong Wook and Li, Mike and Kornblith, Simon and Roelofs,
    Rebecca and Gontijo-Lopes, Raphael and Hajishirzi, Hannaneh and Farhadi, Ali and Namkoong, Hongseok and Schmidt,
    Ludwig},
  booktitle={CVPR},
  year={2022},
}""",
)
