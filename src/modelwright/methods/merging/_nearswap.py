"""NearSwap: take another model's values where they are near, and go at most so far towards them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from modelwright.methods._method import Method, Params, Span, checked
from modelwright.tensors import Array, namespace


class NearswapParams(Params):
    """Parameters of `nearswap`."""

    t: Annotated[float, Span(1e-5, 0.1, log=True)] = Field(
        ge=0, description="How far an entry moves at most from the base towards the other model, in units of weights."
    )


@checked(NearswapParams, least=1, most=1, base="required")
def nearswap(models: Sequence[Array], *, base: Array, t: float) -> Array:
    """The task vector cut off at t: base + clip(theta - base, -t, t).

    The community writes it as an interpolation whose share is t / |theta - base|, at most 1.

    Args:
        models: One array, any floating format.
        base: The array that is moved, same shape.
        t: Largest change of an entry, at least 0; the inventor's is 0.0001.

    Returns:
        The merged tensor in the shape and format of the base; where the two are within t, the model's very values.

    Raises:
        InputError: Shapes differ, a value is not finite, t is negative, or there is not exactly one model beside the base.

    Differs:
        See `NEARSWAP.differs`.

    Example:
        >>> import numpy as np
        >>> nearswap([np.array([1.1, 3.0])], base=np.array([1.0, 1.0]), t=0.5)
        array([1.1, 1.5])

    Source:
        alchemonaut 2024, the card of QuartetAnemoi-70B-t0.0001.
    """
    (model,) = models
    xp = namespace(base)
    delta = model - base
    return xp.where(xp.abs(delta) <= t, model, base + xp.clip(delta, -t, t))


NEARSWAP = Method(
    name="nearswap",
    title="NearSwap",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    summary="Moves each weight of the base towards another model, by no more than t: keeps what the two disagree on.",
    function=nearswap,
    params=NearswapParams,
    base="required",
    models=(1, 1),
    laws=frozenset({"identity", "base", "negation"}),
    differs=(
        "mergekit replaces |theta - base| by at least 1e-6, so that entries nearer than that move less than they could "
        "where t is below 1e-6; here, as in the original script, they are taken over.",
        "A negative t, which gives the base in mergekit, is refused.",
    ),
)
