"""Product of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from modelwright.methods._method import PER_MODEL, Params
from modelwright.methods._outputs import CLASSES, NumpyArray, OutputMethod, fixed, on_outputs, weighted
from modelwright.tensors import softmax


class ProductParams(Params):
    """Parameters of `product`."""

    weight: Annotated[float, PER_MODEL] = Field(1.0, ge=0, description="The power that this member is taken to.")


@on_outputs(ProductParams)
def product(outputs: NumpyArray, *, weight: float | Sequence[float] = 1.0) -> NumpyArray:
    """The product of what members say, divided by its sum: p_c = prod_m p_mc^w_m / sum_k prod_m p_mk^w_m.

    Members that agree make it surer than each of them is, which is right where they judge by independent evidence and too
    sure where they do not. With weights 1/M it is the mean of logits.

    Args:
        outputs: Log-probabilities (M, n, C); a probability of 0 counts as 2.2e-308, so that no class is lost for good.
        weight: One number for all, or M numbers, at least 0.

    Returns:
        Probabilities (n, C).

    Example:
        >>> import numpy as np
        >>> product(np.log([[[0.8, 0.2]], [[0.8, 0.2]]])).round(3)
        array([[0.941, 0.059]])

    Source:
        Hinton 2002, "Training products of experts by minimizing contrastive divergence", equation 1, with given experts.
    """
    return softmax(weighted(outputs, weight if isinstance(weight, Sequence) else [weight] * len(outputs)))


PRODUCT = OutputMethod(
    name="product",
    title="Product of experts",
    paper="doi:10.1162/089976602760128018",
    summary="Probabilities multiplied: for members that see different evidence; one that says no is a veto.",
    kind="ensembling",
    function=product,
    params=ProductParams,
    takes=CLASSES,
    space=fixed("log-probabilities"),
    laws=frozenset({"single", "permutation", "classes", "shift"}),
    differs=("The paper trains the experts together; here they are as they come, and only their product is taken.",),
)
