"""Model Stock: how far to walk from the base to the average, from the angle between the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from modelwright.methods._lowered import Coefficients, Gram, Lowered, Shape
from modelwright.methods._method import Method, Params, checked
from modelwright.methods.merging._parts import added
from modelwright.tensors import Array, namespace, root, row_dot


class ModelStockParams(Params):
    """Parameters of `model_stock`."""

    filter_wise: bool = Field(False, description="One angle for each vector along the last axis, not for each tensor.")


@checked(ModelStockParams, least=2, base="required")
def model_stock(models: Sequence[Array], *, base: Array, filter_wise: bool = False) -> Array:
    """Interpolate: t * mean(models) + (1 - t) * base with t = N cos(a) / (1 + (N - 1) cos(a)).

    cos(a) is the mean cosine over all pairs of task vectors: the more they agree, the further from the base.

    Args:
        models: N >= 2 arrays of one shape.
        base: The model they were tuned from, same shape.
        filter_wise: Angles along the last axis (a row of a matrix, the whole of a vector).

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite, or there are fewer than two models beside the base.

    Differs:
        See `MODEL_STOCK.differs`.

    Example:
        >>> import numpy as np
        >>> model_stock([np.array([1.0, 1.0]), np.array([1.0, -1.0])], base=np.zeros(2))
        array([0., 0.])

    Source:
        Jang et al. 2024, arXiv:2403.19522, equation 4 and its extension to N models.
    """
    xp = namespace(base)
    shape = base.shape
    if not filter_wise or base.ndim < 2:
        base = xp.reshape(base, (1, -1))
        models = [xp.reshape(model, (1, -1)) for model in models]
    deltas = [model - base for model in models]
    t = xp.astype(_ratio(lambda i, j: row_dot(deltas[i], deltas[j]), len(models)), base.dtype)
    average = added(models) / len(models)
    return xp.reshape(t * average + (1 - t) * base, shape)


def _ratio(gram: Gram, count: int) -> Array:
    """How far to go from the base to the average, from the dot products of the task vectors."""
    lengths = [root(gram(i, i)) for i in range(count)]
    xp = namespace(*lengths)
    cosines: list[Array] = []
    for i in range(count):
        for j in range(i + 1, count):
            product = lengths[i] * lengths[j]
            floor = xp.full_like(product, 1e-6)
            cosines.append(xp.clip(gram(i, j) / xp.where(product > floor, product, floor), -1.0, 1.0))
    cosine = added(cosines) / len(cosines)
    divisor = 1 + (count - 1) * cosine
    singular = xp.abs(divisor) < 1e-6
    return xp.where(
        singular, xp.zeros_like(cosine), count * cosine / xp.where(singular, xp.ones_like(divisor), divisor)
    )


def _lower(p: Mapping[str, Any], shape: Shape) -> Lowered | None:
    if shape.axes >= 2 and p["filter_wise"]:
        return None  # one ratio for each vector

    def coefficients(gram: Gram) -> Coefficients:
        t = np.float32(_ratio(gram, shape.models))
        return Coefficients(ones, scale=float(t), base=float(np.float32(1) - t))

    ones = [1.0] * shape.models
    pairs = [(i, j) for i in range(shape.models) for j in range(i, shape.models)]
    return Lowered(ones, deltas=False, divisor=shape.models, gram=pairs, gram_of_deltas=True, coefficients=coefficients)


MODEL_STOCK = Method(
    name="model_stock",
    title="Model Stock",
    paper="arXiv:2403.19522",
    summary="Averages a few fine-tunes of one task and pulls the average towards the base by their angle.",
    function=model_stock,
    params=ModelStockParams,
    base="required",
    models=(2, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation"}),
    scope=lambda p: "row" if p["filter_wise"] else "tensor",
    lower=_lower,
    differs=(
        "The paper has one ratio per layer (weight with bias); per tensor, as mergekit, needs no layer table.",
        "cos is the mean over pairs, each product of norms at least 1e-6, and t = 0 where |1 + (N-1) cos| < 1e-6, as in "
        "mergekit 0.1.5.",
        "The paper alternates this with training; here it is applied once, to finished models.",
    ),
    cite="""@inproceedings{jang2024stock,
  title={Model Stock: All we need is just a few fine-tuned models},
  author={Jang, Dong-Hwan and Yun, Sangdoo and Han, Dongyoon},
  booktitle={ECCV},
  year={2024},
}""",
)
