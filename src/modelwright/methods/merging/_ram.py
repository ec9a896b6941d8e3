"""RAM: average what several models changed, keep whole what only one did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from modelwright.methods._method import Method, Params, Span, checked
from modelwright.methods.merging._parts import added
from modelwright.tensors import Array, namespace


class RamParams(Params):
    """Parameters of `ram`."""

    epsilon: Annotated[float, Span(1e-6, 1e-2, log=True)] = Field(
        1e-5, ge=0, description="An entry counts as changed where it differs from the base by more than this."
    )


class RamplusParams(RamParams):
    """Parameters of `ramplus_tl`."""

    r: Annotated[float, Span(0, 2)] = Field(
        0.1, ge=0, description="How strongly entries that only one model changed are scaled up."
    )
    alpha: Annotated[float, Span(0, 2)] = Field(
        0.2, ge=0, description="Ratio of shared to unique changes of a model beyond which its factor grows no more."
    )


@checked(RamParams, base="required")
def ram(models: Sequence[Array], *, base: Array, epsilon: float = 1e-5) -> Array:
    """Add to each entry of the base the mean change over the models that changed it.

    result = base + sum_{i: |tau_i| > epsilon} tau_i / number of the same i.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        epsilon: Largest difference that counts as none, at least 0.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or epsilon is negative.

    Differs:
        See `RAM.differs`.

    Example:
        >>> import numpy as np
        >>> ram([np.array([2.0, 0.0, 3.0]), np.array([4.0, 0.0, 0.0])], base=np.zeros(3))
        array([3., 0., 3.])

    Source:
        arXiv:2601.13572, "Reinforced Agent Merging".
    """
    return _averaged(models, base, epsilon)


@checked(RamplusParams, base="required")
def ramplus_tl(
    models: Sequence[Array], *, base: Array, epsilon: float = 1e-5, r: float = 0.1, alpha: float = 0.2
) -> Array:
    """RAM with the entries that only model i changed scaled by 1 + r min(shared_i / unique_i, alpha).

    shared_i and unique_i count, in this tensor, the entries that model i changed together with others and alone: what
    averaging takes from a model where it overlaps is given back where it does not.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        epsilon: Largest difference that counts as none, at least 0.
        r: Strength of the scaling, at least 0; at 0 it is `ram`.
        alpha: Bound of the ratio, at least 0.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is negative.

    Differs:
        See `RAMPLUS_TL.differs`.

    Example:
        >>> import numpy as np
        >>> ramplus_tl([np.array([2.0, 3.0]), np.array([4.0, 0.0])], base=np.zeros(2), r=1, alpha=0.5)
        array([3. , 4.5])

    Source:
        arXiv:2601.13572, "Reinforced Agent Merging", the variant RAM+ with counts per tensor.
    """
    return _averaged(models, base, epsilon, r, alpha)


def _averaged(models: Sequence[Array], base: Array, epsilon: float, r: float = 0.0, alpha: float = 0.0) -> Array:
    """The base with the mean changes."""
    xp = namespace(base)
    deltas = [model - base for model in models]
    changed = [xp.abs(delta) > epsilon for delta in deltas]
    count = added([xp.astype(mask, base.dtype) for mask in changed])
    alone, zero, one = count == 1, xp.zeros_like(base), xp.ones_like(base)
    parts: list[Array] = []
    for delta, mask in zip(deltas, changed, strict=True):
        if r > 0:
            delta = delta * xp.where(alone, one * _boost(mask, alone, r, alpha), one)
        parts.append(xp.where(mask, delta, zero))
    return base + added(parts) / xp.maximum(count, one)


def _boost(mask: Array, alone: Array, r: float, alpha: float) -> float:
    """The factor of what only this model changed. Where there is no such entry it does not matter."""
    xp = namespace(mask)
    unique, every = (int(xp.sum(xp.astype(one, xp.int64))) for one in (mask & alone, mask))
    return 1 + r * min((every - unique) / max(unique, 1), alpha)


_CITE = """@article{ram2026,
  title={Reinforced Agent Merging},
  journal={arXiv:2601.13572},
  year={2026},
}"""
_LAWS = frozenset({"identity", "permutation", "base", "negation"})

RAM = Method(
    name="ram",
    title="RAM",
    paper="arXiv:2601.13572",
    summary="Averages a change over the models that made it, not over all: for sparse changes, as reinforcement leaves.",
    function=ram,
    params=RamParams,
    base="required",
    models=(1, None),
    laws=_LAWS,
    differs=(
        "epsilon is an absolute difference, as in mergekit, so what counts as a change depends on the scale of the "
        "weights; a single model comes out without its smaller changes.",
        "Differences are float32 (mergekit: in the storage format), so that for bfloat16 the two agree to its accuracy.",
    ),
    cite=_CITE,
)

RAMPLUS_TL = Method(
    name="ramplus_tl",
    title="RAM+ (tensor-local)",
    paper="arXiv:2601.13572",
    summary="RAM that scales up what only one model changed, the more the model overlaps with others elsewhere.",
    function=ramplus_tl,
    params=RamplusParams,
    base="required",
    models=(1, None),
    laws=_LAWS,
    differs=(
        *RAM.differs,
        "Shared and unique changes are counted in each tensor, as in mergekit, and not over the model.",
    ),
    cite=_CITE,
)
