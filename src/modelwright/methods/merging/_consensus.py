"""Consensus Merging: drop what no task needs, and what only one needs; TALL-masks say which that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._method import PER_MODEL, Method, Params, Span, checked
from modelwright.methods.merging._parts import Weights, added, per_model
from modelwright.tensors import Array, namespace


class ConsensusParams(Params):
    """Parameters of `consensus`."""

    weight: Annotated[float, PER_MODEL, Field(description="Factor of this model's task vector; may be negative.")] = 1.0
    strictness: Annotated[
        float,
        PER_MODEL,
        Span(0.2, 0.6),
        Field(
            ge=0, description="How much nearer the sum must be to this model than the base is, for it to need a weight."
        ),
    ] = 0.4
    least: int = Field(2, ge=0, description="How many models must need a weight for its change to stay.")
    lambda_: Annotated[float, Span(0.05, 2, log=True)] = Field(
        1.0, alias="lambda", description="Factor of the merged task vector, applied last."
    )


@checked(ConsensusParams, least=2, base="required")
def consensus(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    strictness: Weights = 0.4,
    least: int = 2,
    lambda_: float = 1.0,
) -> Array:
    """Add up the task vectors where enough tasks need it: base + lambda * [sum_i m_i >= least] * tau.

    tau = sum_i w_i tau_i; m_i = [|tau_i| > strictness_i * |tau - tau_i|], the TALL-mask of task i, is 1 where the sum serves
    that task better than the base does.

    Args:
        models: n >= 2 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        strictness: The paper's lambda_t, at least 0; one for all, or n. Higher is stricter.
        least: The paper's k, at most n: 2 drops weights that only one task needs, 1 those that none does, 0 nothing.
        lambda_: Scale of the merged task vector; `lambda` in recipes.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite, a parameter is out of range or least is more than n.

    Differs:
        See `CONSENSUS.differs`.

    Example:
        >>> import numpy as np
        >>> consensus([np.array([1.0, 3.0]), np.array([1.0, 0.0])], base=np.zeros(2))
        array([2., 0.])

    Source:
        Wang et al. 2024, arXiv:2405.07813, equations 3 and 7.
    """
    _check({"weight": per_model(weight, len(models)), "least": least})
    xp = namespace(base)
    total, masks = _masks(models, base, weight, strictness)
    needed = added([xp.astype(one, base.dtype) for one in masks])
    return base + xp.where(needed >= least, total, xp.zeros_like(total)) * lambda_


def _masks(models: Sequence[Array], base: Array, weight: Weights, strictness: Weights) -> tuple[Array, list[Array]]:
    """The sum of the task vectors, and each task's TALL-mask."""
    xp = namespace(base)
    deltas = [(model - base) * w for model, w in zip(models, per_model(weight, len(models)), strict=True)]
    total = added(deltas)
    pairs = zip(deltas, per_model(strictness, len(models)), strict=True)
    return total, [xp.abs(delta) > xp.abs(total - delta) * factor for delta, factor in pairs]


def _check(p: Mapping[str, Any]) -> None:
    if p["least"] > len(p["weight"]):
        raise InputError(
            f"consensus: least must be at most the number of models, got {p['least']} for {len(p['weight'])}",
            "No weight can be needed by more models than there are: lower it.",
        )


CONSENSUS = Method(
    name="consensus",
    title="Consensus Merging",
    paper="arXiv:2405.07813",
    summary="Drops the changes that no task or only one needs, and adds up the rest: task arithmetic for many tasks.",
    function=consensus,
    params=ConsensusParams,
    base="required",
    models=(2, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation"}),
    check=_check,
    differs=(
        "strictness is chosen for each task from 0.2 to 0.6 on its validation data in the paper; 0.4 is the middle.",
        "The sum may be TIES' in the official code; here it is task arithmetic's, the first of its two choices.",
        "Weights per model are ours, and multiply the task vectors before anything else.",
        "least above the number of models, which would leave the base, is refused.",
        "Only the merge is here. Restoring each task's model from the sum and its mask (TALL-mask compression) is not a "
        "merge, and writes more than one model.",
    ),
    cite="""@inproceedings{wang2024tall,
  title={Localizing Task Information for Improved Model Merging and Compression},
  author={Wang, Ke and Dimitriadis, Nikolaos and Ortiz-Jimenez, Guillermo and Fleuret, Fran{\\c{c}}ois and Frossard, Pascal},
  booktitle={ICML},
  year={2024},
}""",
)
