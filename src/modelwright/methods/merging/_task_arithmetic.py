"""Task arithmetic: add what fine-tuning changed."""

from __future__ import annotations

from collections.abc import Sequence

from modelwright.methods._method import Method, checked
from modelwright.methods.merging._parts import (
    ARITHMETIC_DIFFERS,
    INT8_MASK,
    TaskVectorParams,
    Weights,
    combined,
    lowered,
    per_model,
)
from modelwright.tensors import Array


class TaskArithmeticParams(TaskVectorParams):
    """Parameters of `task_arithmetic`."""


@checked(TaskArithmeticParams, base="required")
def task_arithmetic(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    normalize: bool = False,
    lambda_: float = 1.0,
) -> Array:
    """Add the task vectors: base + lambda * sum_i w_i (theta_i - base).

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers; negative to forget.
        normalize: Divide the sum by sum_i w_i (left undivided where that is below 1e-8 in magnitude).
        lambda_: Scale of the whole task vector; `lambda` in recipes.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ or a value is not finite.

    Differs:
        See `TASK_ARITHMETIC.differs`.

    Example:
        >>> import numpy as np
        >>> task_arithmetic([np.array([2.0]), np.array([0.0])], base=np.array([1.0]), weight=[0.5, 0.25])
        array([1.25])

    Source:
        Ilharco et al. 2023, arXiv:2212.04089, section 2.
    """
    weights = per_model(weight, len(models))
    return combined(base, [model - base for model in models], weight=weights, normalize=normalize, lambda_=lambda_)


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    title="Task arithmetic",
    paper="arXiv:2212.04089",
    summary="Adds the weighted task vectors to the base: the plain way to give one model several skills.",
    function=task_arithmetic,
    params=TaskArithmeticParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation", "single"}),
    lower=lambda p, _shape: lowered(p),
    presets={"paper": {"lambda": 0.3}},
    ignored={
        "int8_mask": INT8_MASK,
        "density": "density has no effect on task_arithmetic, which drops nothing.",
        "rescale": "rescale has no effect on task_arithmetic, which drops nothing.",
    },
    differs=(
        ARITHMETIC_DIFFERS,
        "The paper has one coefficient for the sum, searched on held-out data; weights per model are the community's.",
        "semantics: paper starts at lambda 0.3, what the literature recommends for about eight tasks.",
    ),
    cite="""@inproceedings{ilharco2023task,
  title={Editing models with task arithmetic},
  author={Ilharco, Gabriel and Ribeiro, Marco Tulio and Wortsman, Mitchell and Gururangan, Suchin and Schmidt,
    Ludwig and Hajishirzi, Hannaneh and Farhadi, Ali},
  booktitle={ICLR},
  year={2023},
}""",
)
