"""Sums of adapters: `cat`, which is exact, and `svd`, the best of a rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from modelwright.adapters._method import AdapterMethod
from modelwright.methods import PER_MODEL, Params
from modelwright.tensors import Product, stacked


class SumParams(Params):
    """Parameters of `cat` and `svd`."""

    weight: Annotated[float, PER_MODEL, Field(description="Weight of this adapter; may be negative.")] = 1.0


def weighted_sum(products: Sequence[Product], *, weight: Sequence[float]) -> Product:
    """The weighted sum of adapters, sum_i w_i B_i A_i: columns of all w_i B_i side by side, rows of all A_i below each other.

    Args:
        products: For each adapter B (m, r_i), its scale in it, and A (r_i, n).
        weight: A number for each.

    Returns:
        up (m, sum r_i) and down (sum r_i, n).

    Example:
        >>> import numpy as np
        >>> one = np.array([[1.0], [0.0]]), np.array([[2.0, 0.0]])
        >>> up, down = weighted_sum([one, one], weight=[1.0, 0.5])
        >>> up.shape, (up @ down).tolist()
        ((2, 2), [[3.0, 0.0], [0.0, 0.0]])
    """
    return stacked([(up * w, down) for (up, down), w in zip(products, weight, strict=True)])


CAT = AdapterMethod(
    name="cat",
    title="Concatenation",
    paper="",
    summary="The weighted sum of what the adapters add, exactly; its rank is the sum of theirs.",
    function=weighted_sum,
    params=SumParams,
    sums=True,
    differs=(
        "Weights and scales stand in the factors, in float32, whatever adapters and modules have for alpha; peft 0.21 does so too, but "
        "leaves biases of factors out and takes DoRA's norms from the untuned model (its issue 3761).",
    ),
)

SVD = AdapterMethod(
    name="svd",
    title="Truncated sum",
    paper="",
    summary="The weighted sum of what the adapters add, brought to a rank: the nearest adapter of that rank.",
    function=weighted_sum,
    params=SumParams,
    sums=True,
    differs=(
        "The decomposition is of the factors (two QR decompositions and a small SVD), where peft multiplies them out and decomposes a "
        "matrix of the weight's size.",
        "A rank may be a target: as many directions as keep a share of the squared norm, or lose no more than a share of the norm.",
    ),
)
