"""TALL-masks: the sum of all task vectors, and for each task a bit for each weight that says whether it is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelwright.methods._method import PER_MODEL, Method, Params, Parts, Span, checked
from modelwright.methods.merging._parts import Weights, combined, lowered, per_model
from modelwright.tensors import Array, namespace


class TallMaskParams(Params):
    """Parameters of `tall_mask`."""

    weight: Annotated[float, PER_MODEL, Field(description="Factor of this model's task vector; may be negative.")] = 1.0
    strictness: Annotated[
        float,
        PER_MODEL,
        Span(0.2, 0.6),
        Field(
            ge=0, description="How much nearer the sum must be to this model than the base is, for it to take a weight."
        ),
    ] = 0.4
    lambda_: Annotated[float, Span(0.05, 2, log=True)] = Field(
        1.0, alias="lambda", description="Factor of the sum, before masks are made of it."
    )


@checked(TallMaskParams, base="required")
def tall_mask(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    strictness: Weights = 0.4,
    lambda_: float = 1.0,
) -> Array:
    """Add up the task vectors that masks are then made for: base + lambda * sum_i w_i (theta_i - base).

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        strictness: Of the masks (`tall_parts`); the sum does not depend on it.
        lambda_: Scale of the sum; `lambda` in recipes.

    Returns:
        What the tasks share, in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `TALL_MASK.differs`.

    Example:
        >>> import numpy as np
        >>> tall_mask([np.array([1.0, 3.0]), np.array([1.0, 0.0])], base=np.zeros(2))
        array([2., 3.])

    Source:
        Wang et al. 2024, arXiv:2405.07813, section 4.1.
    """
    weights = per_model(weight, len(models))
    return combined(base, [model - base for model in models], weight=weights, normalize=False, lambda_=lambda_)


def tall_parts(model: Array, *, base: Array, shared: Array, parameters: Mapping[str, Any]) -> dict[str, Array]:
    """What is kept of a task: m = [|theta - base| > strictness * |theta - shared|].

    Args:
        model: The task's tensor.
        base: What it was tuned from, same shape.
        shared: What `tall_mask` made, same shape.
        parameters: With the task's `strictness`, at least 0.

    Returns:
        `mask`, truth values of that shape.

    Example:
        >>> import numpy as np
        >>> tall_parts(np.array([1.0, 0.0]), base=np.zeros(2), shared=np.array([1.5, 3.0]), parameters={"strictness": 1.0})
        {'mask': array([ True, False])}
    """
    xp = namespace(model)
    return {"mask": xp.abs(model - base) > xp.abs(shared - model) * parameters["strictness"]}


def tall_task(shared: Array, *, base: Array, pieces: Mapping[str, Array], facts: Mapping[str, float]) -> Array:
    """A task's tensor: the shared one where the mask has a bit, else the base.

    Args:
        shared: What `tall_mask` made.
        base: What the tasks were tuned from.
        pieces: With `mask`.
        facts: None.
    """
    return namespace(shared).where(pieces["mask"], shared, base)


TALL_MASK = Method(
    name="tall_mask",
    title="TALL-masks",
    paper="arXiv:2405.07813",
    summary="A bundle: the sum of all task vectors, and for each task a bit for each weight that says whether it takes it.",
    function=tall_mask,
    params=TallMaskParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation", "single"}),
    lower=lambda p, _shape: lowered({"weight": p["weight"], "normalize": False, "lambda": p["lambda"]}),
    parts=Parts(
        kinds={"mask": "bits"}, shapes=lambda shape, _parameters: {"mask": shape}, split=tall_parts, restore=tall_task
    ),
    differs=(
        "strictness is chosen for each task from 0.2 to 0.6 on its validation data in the paper; 0.4 is the middle.",
        "The sum may be TIES' in the paper; here it is task arithmetic's, the first of its two choices.",
        "The shared model is stored in the output's format, and masks are made for what is stored; `out_dtype: float32` keeps "
        "the sum to more digits than experts in 16 bits have.",
        "Weights per model are ours.",
    ),
    cite="""@inproceedings{wang2024tall,
  title={Localizing Task Information for Improved Model Merging and Compression},
  author={Wang, Ke and Dimitriadis, Nikolaos and Ortiz-Jimenez, Guillermo and Fleuret, Fran{\\c{c}}ois and Frossard, Pascal},
  booktitle={ICML},
  year={2024},
}""",
)
