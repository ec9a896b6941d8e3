"""MagMax: of all task vectors, each weight takes the largest change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from modelwright.methods._method import PER_MODEL, Method, Params, Span, checked
from modelwright.methods.merging._parts import Weights, per_model
from modelwright.tensors import Array, namespace


class MagMaxParams(Params):
    """Parameters of `magmax`."""

    weight: Annotated[float, PER_MODEL, Field(description="Factor of this model's task vector; may be negative.")] = 1.0
    lambda_: Annotated[float, Span(0.05, 2, log=True)] = Field(
        1.0, alias="lambda", description="Factor of the merged task vector, applied last."
    )


@checked(MagMaxParams, base="required")
def magmax(models: Sequence[Array], *, base: Array, weight: Weights = 1.0, lambda_: float = 1.0) -> Array:
    """Take in each element the task vector's entry that is largest by magnitude: base + lambda * w_k tau_k.

    k = argmax_i |w_i tau_i|, the last of equal ones.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        lambda_: Scale of the merged task vector; `lambda` in recipes.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ or a value is not finite.

    Differs:
        See `MAGMAX.differs`.

    Example:
        >>> import numpy as np
        >>> magmax([np.array([3.0, -1.0]), np.array([1.0, -2.0])], base=np.zeros(2))
        array([ 3., -2.])

    Source:
        Marczak et al. 2024, arXiv:2407.06322, section 3.2.
    """
    xp = namespace(base)
    deltas = [(model - base) * w for model, w in zip(models, per_model(weight, len(models)), strict=True)]
    largest = deltas[0]
    for delta in deltas[1:]:
        largest = xp.where(xp.abs(delta) >= xp.abs(largest), delta, largest)
    return base + largest * lambda_


MAGMAX = Method(
    name="magmax",
    title="MagMax",
    paper="arXiv:2407.06322",
    summary="Keeps the largest change of each weight: made for models tuned on one task after another.",
    function=magmax,
    params=MagMaxParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation", "single"}),
    differs=(
        "Of two changes that are equally large the later model's counts, as in the official code, so their order matters "
        "where they have opposite signs.",
        "Weights per model are ours. The paper chooses lambda on validation data.",
        "The paper tunes its models one after another; that is training, not part of the merge.",
    ),
    cite="""@inproceedings{marczak2024magmax,
  title={MagMax: Leveraging Model Merging for Seamless Continual Learning},
  author={Marczak, Daniel and Twardowski, Bart{\\l}omiej and Trzci{\\'n}ski, Tomasz and Cygert, Sebastian},
  booktitle={ECCV},
  year={2024},
}""",
)
