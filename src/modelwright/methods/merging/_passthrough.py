"""Passthrough: take tensors as they are, to stack slices of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from modelwright.methods._lowered import Lowered
from modelwright.methods._method import PER_MODEL, Method, Params, checked
from modelwright.methods.merging._parts import per_model
from modelwright.tensors import Array


class PassthroughParams(Params):
    """Parameters of `passthrough`."""

    scale: Annotated[float | None, PER_MODEL, Field(description="Factor of the tensor; absent leaves its bits.")] = None


@checked(PassthroughParams, least=1, most=1)
def passthrough(models: Sequence[Array], *, scale: float | Sequence[float | None] | None = None) -> Array:
    """The tensor, times scale if there is one.

    Args:
        models: One array.
        scale: A factor, or None.

    Returns:
        The tensor in its shape and format.

    Raises:
        InputError: There is not exactly one model.

    Differs:
        See `PASSTHROUGH.differs`.

    Example:
        >>> import numpy as np
        >>> passthrough([np.array([1.0, 2.0])], scale=2.0)
        array([2., 4.])

    Source:
        The community's "frankenmerge" recipes.
    """
    (factor,) = per_model(scale, 1) if isinstance(scale, int | float) else scale or [None]
    return models[0] if factor is None else models[0] * factor


PASSTHROUGH = Method(
    name="passthrough",
    title="Passthrough (frankenmerge)",
    paper="",
    summary="Copies tensors, optionally scaled by filter: for stacking layers of one or several models.",
    function=passthrough,
    params=PassthroughParams,
    base="ignored",
    models=(1, 1),
    laws=frozenset({"identity", "single"}),
    lower=lambda p, _shape: None if p["scale"][0] is None else Lowered(p["scale"], deltas=False, add_base=False),
    copies=lambda p: all(scale is None for scale in p["scale"]),
    differs=("Without a scale the bytes are copied, not computed.",),
)
