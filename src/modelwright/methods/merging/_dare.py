"""DARE: drop most of a task vector at random, rescale the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modelwright.methods._lowered import Drop, Lowered, Shape
from modelwright.methods._method import PER_MODEL, Method, Span, checked
from modelwright.methods.merging._parts import (
    ARITHMETIC_DIFFERS,
    INT8_MASK,
    Rescale,
    TaskVectorParams,
    Weights,
    combined,
    dropped,
    fraction,
    lowered,
    per_model,
)
from modelwright.tensors import Array, NoiseKey


class DareParams(TaskVectorParams):
    """Parameters of `dare_linear` and `dare_ties`."""

    density: Annotated[
        float, PER_MODEL, Span(0.05, 1, log=True), fraction("Probability that an entry of this task vector is kept.")
    ] = 1.0
    rescale: Rescale = Field(
        True, description="true or 'l1': restore the L1 norm; 'l2'; 'expectation': divide by density; false: nothing."
    )


@checked(DareParams, base="required")
def dare_linear(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    density: Weights = 1.0,
    normalize: bool = False,
    lambda_: float = 1.0,
    rescale: Rescale = True,
    key: NoiseKey | None = None,
    masks: Sequence[Array] | None = None,
) -> Array:
    """Add thinned task vectors: base + lambda * sum_i w_i dare(theta_i - base).

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        density: Probability of keeping an entry, in [0, 1]; the paper's 1 - p.
        normalize: Divide the sum by sum_i w_i.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        rescale: See `DareParams`.
        key: Seed and tensor name of the noise; each model draws from its own stream.
        masks: n boolean arrays to use instead of drawn ones.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `DARE_LINEAR.differs`.

    Source:
        Yu et al. 2024, arXiv:2311.03099, section 3.2.
    """
    deltas = _dropped(models, base, density, rescale, key, masks)
    weights = per_model(weight, len(models))
    return combined(base, deltas, weight=weights, normalize=normalize, lambda_=lambda_)


@checked(DareParams, base="required")
def dare_ties(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    density: Weights = 1.0,
    normalize: bool = False,
    lambda_: float = 1.0,
    rescale: Rescale = True,
    key: NoiseKey | None = None,
    masks: Sequence[Array] | None = None,
) -> Array:
    """DARE on each task vector, then sign election by mass and the sum of the entries that agree.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        density: Probability of keeping an entry, in [0, 1]; the paper's 1 - p.
        normalize: Divide by the weights that agree.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        rescale: See `DareParams`.
        key: Seed and tensor name of the noise; each model draws from its own stream.
        masks: n boolean arrays to use instead of drawn ones.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `DARE_TIES.differs`.

    Source:
        Yu et al. 2024, arXiv:2311.03099, with the election of arXiv:2306.01708.
    """
    deltas = _dropped(models, base, density, rescale, key, masks)
    weights = per_model(weight, len(models))
    return combined(base, deltas, weight=weights, normalize=normalize, lambda_=lambda_, elect="sum")


def _dropped(
    models: Sequence[Array],
    base: Array,
    density: Weights,
    rescale: Rescale,
    key: NoiseKey | None,
    masks: Sequence[Array] | None,
) -> list[Array]:
    densities = per_model(density, len(models))
    given = masks if masks is not None else [None] * len(models)
    return [
        dropped(model - base, kept, rescale, key or NoiseKey(), i, mask)
        for i, (model, kept, mask) in enumerate(zip(models, densities, given, strict=True))
    ]


def _lower(elect: Literal["sum"] | None) -> Callable[[Mapping[str, Any], Shape], Lowered]:
    def lower(p: Mapping[str, Any], _shape: Shape) -> Lowered:
        keep = [None if density >= 1 else Drop(density) for density in p["density"]]
        return lowered(p, keep, rescale=p["rescale"], elect=elect)

    return lower


_DIFFERS = (
    ARITHMETIC_DIFFERS,
    "rescale: true restores each tensor's L1 norm as mergekit does; the paper, peft and FusionBench divide by the "
    "density (rescale: expectation, the default of semantics: paper).",
    "Masks come from counter-based noise keyed by seed, model position, tensor name and element, so they do not depend "
    "on the order of tensors or on threads; they are not the masks that torch.bernoulli draws.",
    "density 0 gives zeros without division; MergeLM does the same, FusionBench yields NaN.",
)
_CITE = """@inproceedings{yu2024dare,
  title={Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch},
  author={Yu, Le and Yu, Bowen and Yu, Haiyang and Huang, Fei and Li, Yongbin},
  booktitle={ICML},
  year={2024},
}"""
_PAPER = {"paper": {"density": 0.1, "rescale": "expectation", "weight": 1.0}}

DARE_LINEAR = Method(
    name="dare_linear",
    title="DARE",
    paper="arXiv:2311.03099",
    summary="Drops most of each task vector at random and rescales the rest before adding: fewer collisions.",
    function=dare_linear,
    params=DareParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "base", "scaling", "negation", "single"}),
    presets=_PAPER,
    ignored={"int8_mask": INT8_MASK},
    differs=_DIFFERS,
    random=True,
    lower=_lower(None),
    cite=_CITE,
)

DARE_TIES = Method(
    name="dare_ties",
    title="DARE with TIES",
    paper="arXiv:2311.03099",
    summary="DARE, then TIES' sign election: for many models whose changes contradict each other.",
    function=dare_ties,
    params=DareParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "base", "scaling", "negation", "single"}),
    presets=_PAPER,
    ignored={"int8_mask": INT8_MASK},
    differs=(*_DIFFERS, "The TIES trim is not applied after the drop (density 1 there), as in mergekit and peft."),
    random=True,
    lower=_lower("sum"),
    cite=_CITE,
)
