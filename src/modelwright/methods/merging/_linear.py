"""Weighted average of models (model soups)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._lowered import Lowered, Shape
from modelwright.methods._method import PER_MODEL, Method, Params, checked
from modelwright.methods.merging._parts import Weights, added, per_model
from modelwright.tensors import Array


class LinearParams(Params):
    """Parameters of `linear`."""

    weight: Annotated[float, PER_MODEL, Field(description="Weight of this model; may be negative.")]
    normalize: bool = Field(True, description="Divide by the sum of the weights, so that only their ratios matter.")


@checked(LinearParams)
def linear(models: Sequence[Array], *, weight: Weights = 1.0, normalize: bool = True) -> Array:
    """Weighted average: sum_i w_i theta_i, divided by sum_i w_i when normalize is set.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        weight: One number for all, or n numbers; finite. Their sum must not be 0 when normalize is set.
        normalize: Whether to divide by the sum of the weights.

    Returns:
        The average, in the shape and format of the first model; computed in float32 (float64 for float64).

    Raises:
        InputError: Shapes differ, a value is not finite, or the weights add up to 0 under normalize.

    Differs:
        See `LINEAR.differs`.

    Example:
        >>> import numpy as np
        >>> linear([np.array([0.0, 2.0]), np.array([4.0, 2.0])], weight=[3, 1])
        array([1., 2.])

    Source:
        Wortsman et al. 2022, arXiv:2203.05482, "uniform soup" with weights.
    """
    weights = per_model(weight, len(models))
    _check({"weight": weights, "normalize": normalize})
    total = added([model * w for model, w in zip(models, weights, strict=True)])
    return total / sum(weights) if normalize else total


def _check(p: Mapping[str, Any]) -> None:
    # Relative to their size: 0.1 + 0.2 - 0.3 is not 0 in binary.
    if p["normalize"] and abs(sum(p["weight"])) <= 1e-12 * sum(abs(w) for w in p["weight"]):
        raise InputError(
            "linear: the weights add up to 0, so they cannot be normalised",
            "Change them, or set normalize: false.",
        )


def _lower(p: Mapping[str, Any], _shape: Shape) -> Lowered | None:
    if not p["normalize"]:
        return Lowered(p["weight"], deltas=False, add_base=False)
    total = sum(p["weight"])
    if np.float32(total) == 0:  # which the kernels read as no division
        return None
    return Lowered(p["weight"], deltas=False, add_base=False, divisor=total)


LINEAR = Method(
    name="linear",
    title="Linear (model soup)",
    paper="arXiv:2203.05482",
    summary="The average of models tuned from one start: the safe first choice, and the baseline of all others.",
    function=linear,
    params=LinearParams,
    check=_check,
    base="ignored",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "single"}),
    lower=_lower,
    ignored={},
    differs=(
        "Weights that add up to 0 under normalize are refused; mergekit divides by zero and writes NaN.",
        "Integer and boolean buffers come from the donor and differing values are recorded; mergekit refuses them.",
    ),
    cite="""@inproceedings{wortsman2022soups,
  title={Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
    inference time},
  author={Wortsman, Mitchell and Ilharco, Gabriel and Gadre, Samir Yitzhak and Roelofs, Rebecca and others},
  booktitle={ICML},
  year={2022},
}""",
)
