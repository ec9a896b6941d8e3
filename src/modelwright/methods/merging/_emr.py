"""EMR-Merging: one elected task vector for all, and for each task a mask of it and one number that rescales it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.methods._method import Method, Params, Parts, checked
from modelwright.methods.merging._parts import combined, lowered
from modelwright.tensors import Array, absolute_sum, namespace


class EmrParams(Params):
    """Parameters of `emr`: there are none."""


@checked(EmrParams, base="required")
def emr(models: Sequence[Array], *, base: Array) -> Array:
    """Elect one task vector: in each element the sign of the sum, and the largest magnitude that has this sign.

    tau_i = theta_i - base; gamma = sgn(sum_i tau_i); eps = max of |tau_i| over those with tau_i gamma > 0;
    result = base + gamma eps.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.

    Returns:
        What the tasks share, in the shape and format of the base; alone it is no model of any of them.

    Raises:
        InputError: Shapes differ or a value is not finite.

    Differs:
        See `EMR.differs`.

    Example:
        >>> import numpy as np
        >>> emr([np.array([3.0, -1.0]), np.array([1.0, 2.0])], base=np.zeros(2))
        array([3., 2.])

    Source:
        Huang et al. 2024, arXiv:2405.17461, section 3.2, algorithm 1.
    """
    deltas = [model - base for model in models]
    return combined(
        base,
        deltas,
        weight=[1.0] * len(deltas),
        normalize=False,
        lambda_=1.0,
        elect="sum",
        zero_sign=0.0,
        merge_func="max",
    )


def emr_parts(
    model: Array, *, base: Array, shared: Array, parameters: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """What is kept of a task: where its vector has the sign of the shared one, and the sums that its rescaler is made of.

    M = [tau * tau_shared > 0]; the sums are |tau| and |M tau_shared|, which `Parts.reduce` divides once they are those of the
    whole model.

    Args:
        model: The task's tensor.
        base: What it was tuned from, same shape.
        shared: What `emr` made, same shape.
        parameters: Of the method, which has none.

    Returns:
        `mask`, truth values of that shape, and `sums`, two float64 numbers.
    """
    xp = namespace(model)
    delta, unified = model - base, shared - base
    mask = ((delta > 0) & (unified > 0)) | ((delta < 0) & (unified < 0))  # a product could underflow
    kept = xp.where(mask, unified, xp.zeros_like(unified))
    return {"mask": mask, "sums": np.array([float(absolute_sum(delta)), float(absolute_sum(kept))])}


def emr_task(shared: Array, *, base: Array, pieces: Mapping[str, Array], facts: Mapping[str, float]) -> Array:
    """A task's tensor: base + scale * mask * (shared - base).

    Args:
        shared: What `emr` made.
        base: What the tasks were tuned from.
        pieces: With `mask`.
        facts: With `scale`, the task's rescaler.
    """
    xp = namespace(shared)
    delta = shared - base
    return base + xp.where(pieces["mask"], delta, xp.zeros_like(delta)) * facts["scale"]


def _rescaler(sums: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, float]:
    own, kept = (float(value) for value in sums["sums"])
    return {"scale": own / kept if kept > 0 else 1.0}  # nothing that could be rescaled


EMR = Method(
    name="emr",
    title="EMR-Merging",
    paper="arXiv:2405.17461",
    summary="A bundle: one elected task vector for all, and for each task a bit for each weight and one number; the task is told.",
    function=emr,
    params=EmrParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation", "single"}),
    lower=lambda p, shape: lowered(
        {"weight": (1.0,) * shape.models, "normalize": False, "lambda": 1.0}, elect="sum", zero_sign=0.0, join="max"
    ),
    parts=Parts(
        kinds={"mask": "bits", "sums": "sums"},
        shapes=lambda shape, _parameters: {"mask": shape, "sums": (2,)},
        split=emr_parts,
        restore=emr_task,
        reduce=_rescaler,
    ),
    differs=(
        "Where the task vectors sum to 0 nothing is elected, as sgn(0) = 0 in the paper; the official code elects the negative "
        "sign there.",
        "A task's rescaler is sum |tau| / sum |M tau_shared| over all of its weights, as in the paper; the official code adds up "
        "the means of the tensors, so that a bias counts as much as a matrix.",
        "The shared model is stored in the output's format. An elected entry is some expert's own, so nothing is lost where that "
        "is the experts' format.",
        "A task that has no entry of the elected signs at all keeps the rescaler 1; the official code divides by 0.",
    ),
    cite="""@inproceedings{huang2024emr,
  title={EMR-Merging: Tuning-Free High-Performance Model Merging},
  author={Huang, Chenyu and Ye, Peng and Chen, Tao and He, Tong and Yue, Xiangyu and Ouyang, Wanli},
  booktitle={NeurIPS},
  year={2024},
}""",
)
