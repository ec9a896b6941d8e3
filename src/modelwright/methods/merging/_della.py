"""DELLA: drop entries of a task vector at random, the small ones of each row more often; rescale, elect, fuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._lowered import Keep, Lowered, RankDrop, Ranks, Shape
from modelwright.methods._method import PER_MODEL, Method, Span, checked
from modelwright.methods.merging._parts import (
    ARITHMETIC_DIFFERS,
    INT8_MASK,
    Rescale,
    TaskVectorParams,
    Weights,
    combined,
    fraction,
    lowered,
    per_model,
    rescaled,
)
from modelwright.tensors import Array, NoiseKey, descending_ranks, namespace, to_numpy, uniform


class DellaLinearParams(TaskVectorParams):
    """Parameters of `della_linear`."""

    # The spans are such that density and epsilon go together whatever is drawn.
    density: Annotated[
        float,
        PER_MODEL,
        Span(0.15, 0.85, log=True),
        fraction(
            "Mean probability that an entry of this task vector is kept; at 1 it stays whole, at 0 it is dropped."
        ),
    ] = 1.0
    epsilon: Annotated[
        float,
        PER_MODEL,
        Span(0.01, 0.14),
        Field(
            ge=0, lt=0.5, description="The smallest entry of a row is kept with density - epsilon, the largest with +."
        ),
    ] = 0.15
    rescale: Rescale = Field(
        True,
        description="true or 'l1': restore the L1 norm; 'l2'; 'expectation': divide each entry by its probability; false.",
    )


class DellaParams(DellaLinearParams):
    """Parameters of `della`."""

    # Factor of a mean and not of a sum, so it is larger.
    lambda_: Annotated[float, Span(0.3, 3, log=True)] = Field(
        1.0, alias="lambda", description="Factor of the merged task vector, applied last."
    )
    normalize: bool = Field(True, description="Divide by the sum of the weights that agree with the elected sign.")


@checked(DellaParams, base="required")
def della(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    density: Weights = 1.0,
    epsilon: Weights = 0.15,
    normalize: bool = True,
    lambda_: float = 1.0,
    rescale: Rescale = True,
    key: NoiseKey | None = None,
    masks: Sequence[Array] | None = None,
) -> Array:
    """Thin each task vector by magnitude, elect a sign per element, average the entries that have it.

    Of n entries in a row (the last axis), the one whose magnitude has rank r from 0, the smallest, is kept with probability
    density - epsilon + 2 epsilon r / (n - 1).

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        density: Mean probability of keeping an entry, in [0, 1]; the paper's 1 - p.
        epsilon: Half of the range of the probabilities, in [0, 0.5); half of the paper's epsilon. Where density is neither
            0 nor 1, density - epsilon must be above 0 and density + epsilon below 1.
        normalize: Divide by the weights that agree.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        rescale: See `DellaLinearParams`.
        key: Seed and tensor name of the noise; each model draws from its own stream.
        masks: n boolean arrays to use instead of drawn ones.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite, a parameter is out of range, or density and epsilon do not go
            together.

    Differs:
        See `DELLA.differs`.

    Source:
        Deep, Bhardwaj and Poria 2024, arXiv:2406.11617, section 3.
    """
    deltas = _thinned(models, base, density, epsilon, rescale, key, masks)
    weights = per_model(weight, len(models))
    return combined(base, deltas, weight=weights, normalize=normalize, lambda_=lambda_, elect="sum")


@checked(DellaLinearParams, base="required")
def della_linear(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    density: Weights = 1.0,
    epsilon: Weights = 0.15,
    normalize: bool = False,
    lambda_: float = 1.0,
    rescale: Rescale = True,
    key: NoiseKey | None = None,
    masks: Sequence[Array] | None = None,
) -> Array:
    """Add task vectors that are thinned by magnitude: base + lambda * sum_i w_i magprune(theta_i - base).

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        density: Mean probability of keeping an entry, in [0, 1].
        epsilon: Half of the range of the probabilities; see `della`.
        normalize: Divide the sum by sum_i w_i.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        rescale: See `DellaLinearParams`.
        key: Seed and tensor name of the noise; each model draws from its own stream.
        masks: n boolean arrays to use instead of drawn ones.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: As `della`.

    Differs:
        See `DELLA_LINEAR.differs`.

    Source:
        arXiv:2406.11617 without its election, a variant of the community's.
    """
    deltas = _thinned(models, base, density, epsilon, rescale, key, masks)
    weights = per_model(weight, len(models))
    return combined(base, deltas, weight=weights, normalize=normalize, lambda_=lambda_)


def _thinned(
    models: Sequence[Array],
    base: Array,
    density: Weights,
    epsilon: Weights,
    rescale: Rescale,
    key: NoiseKey | None,
    masks: Sequence[Array] | None,
) -> list[Array]:
    densities, ranges = per_model(density, len(models)), per_model(epsilon, len(models))
    _check({"density": densities, "epsilon": ranges})
    given = masks if masks is not None else [None] * len(models)
    result: list[Array] = []
    for i, (model, mean, half, mask) in enumerate(zip(models, densities, ranges, given, strict=True)):
        delta = model - base
        if mean >= 1 or 0 in delta.shape:
            result.append(delta)
        elif mean <= 0:
            result.append(namespace(delta).zeros_like(delta))
        else:
            drop = RankDrop(mean, half, delta.shape[-1] if delta.ndim else 1)
            result.append(_dropped(delta, drop, rescale, key or NoiseKey(), i, mask))
    return result


def _dropped(delta: Array, drop: RankDrop, rescale: Rescale, key: NoiseKey, position: int, mask: Array | None) -> Array:
    """MagPrune: the task vector with dropped entries at zero and the rest scaled up."""
    xp = namespace(delta)
    device = getattr(delta, "device", None)
    rows = to_numpy(descending_ranks(xp.abs(xp.reshape(delta, (-1, drop.row)))))
    share = drop.probabilities()[drop.row - 1 - rows].reshape(delta.shape)
    if mask is None:
        mask = xp.asarray(uniform(key, position, share.size).reshape(delta.shape) < share, device=device)
    if rescale == "expectation":
        return xp.where(mask, delta / xp.asarray(share, dtype=delta.dtype, device=device), xp.zeros_like(delta))
    return rescaled(delta, mask, rescale, drop.density)


def _check(p: Mapping[str, Any]) -> None:
    for density, epsilon in zip(p["density"], p["epsilon"], strict=True):
        if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            raise InputError(
                f"della: density - epsilon and density + epsilon must be in (0, 1), got density {density:g} with epsilon {epsilon:g}",
                f"Set epsilon below {min(density, 1 - density):.4g}, or another density.",
            )


def _lower(elect: Literal["sum"] | None) -> Callable[[Mapping[str, Any], Shape], Lowered | None]:
    def lower(p: Mapping[str, Any], shape: Shape) -> Lowered | None:
        keep: list[Keep] = []
        for density, epsilon in zip(p["density"], p["epsilon"], strict=True):
            if density >= 1:
                keep.append(None)
            elif density <= 0:
                keep.append(Ranks(0, 0))
            elif density + epsilon > 1 - 2**-32:
                return None  # what 32 random bits do not tell from 1
            else:
                keep.append(RankDrop(density, epsilon, shape.row))
        thinned = any(isinstance(one, RankDrop) for one in keep)
        if thinned and p["rescale"] == "expectation":
            return None  # each entry has a factor of its own
        return lowered(p, keep, rescale=p["rescale"], elect=elect)

    return lower


_DIFFERS = (
    ARITHMETIC_DIFFERS,
    "rescale: true restores each tensor's L1 norm as mergekit does; the official code (declare-lab/della) divides each entry by its "
    "own probability (rescale: expectation, the default of semantics: paper).",
    "epsilon is half of the range of the probabilities, as in mergekit; the official code's window_size is the whole range.",
    "The values of semantics: paper are those of the official code's example: drop rate 0.3, window_size 0.14, lambda 1.1. Its methods "
    "without ranks, with ranks over the whole tensor, and with a lambda for each row or tensor are left out.",
    "Rows run along the last axis. mergekit ranks tensors of three and more axes along the second, which for the experts "
    "of a stacked tensor are the columns.",
    "Equal magnitudes are ranked by index, the lowest first in size, and ranks are whole numbers; mergekit leaves ties to "
    "an unstable sort and keeps ranks in the storage format (8 bits of them in bfloat16).",
    "A row of one entry is kept with the mean probability; mergekit divides zero by zero there and fails, as it does for "
    "a scalar.",
    "Masks come from counter-based noise keyed by seed, model position, tensor name and element, so they do not depend "
    "on the order of tensors, on threads or on the device; they are not the masks that torch.bernoulli draws.",
)
_CITE = """@article{deep2024della,
  title={DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling},
  author={Deep, Pala Tej and Bhardwaj, Rishabh and Poria, Soujanya},
  journal={arXiv:2406.11617},
  year={2024},
}"""
_LAWS = frozenset({"identity", "base", "scaling", "negation", "single"})
_PAPER = {"paper": {"density": 0.7, "epsilon": 0.07, "lambda": 1.1, "rescale": "expectation", "weight": 1.0}}

DELLA = Method(
    name="della",
    title="DELLA",
    paper="arXiv:2406.11617",
    summary="Drops small entries of each row more often than large ones, then elects signs: DARE that looks at sizes.",
    function=della,
    params=DellaParams,
    check=_check,
    base="required",
    models=(1, None),
    laws=_LAWS,
    presets=_PAPER,
    ignored={"int8_mask": INT8_MASK},
    differs=_DIFFERS,
    random=True,
    lower=_lower("sum"),
    cite=_CITE,
)

DELLA_LINEAR = Method(
    name="della_linear",
    title="DELLA without election",
    paper="arXiv:2406.11617",
    summary="Drops small entries of each row more often than large ones and adds what is left.",
    function=della_linear,
    params=DellaLinearParams,
    check=_check,
    base="required",
    models=(1, None),
    laws=_LAWS,
    presets=_PAPER,
    ignored={"int8_mask": INT8_MASK},
    differs=_DIFFERS,
    random=True,
    lower=_lower(None),
    cite=_CITE,
)
