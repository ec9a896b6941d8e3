"""LiNeS: task vectors scaled by depth, so that the lower layers stay near the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelwright.methods._lowered import Lowered, Shape
from modelwright.methods._method import PER_MODEL, Method, Params, Position, Span, checked
from modelwright.methods.merging._parts import Weights, combined, per_model
from modelwright.tensors import Array


class LinesParams(Params):
    """Parameters of `lines`."""

    weight: Annotated[float, PER_MODEL, Field(description="Factor of this model's task vector; may be negative.")] = 1.0
    alpha: float | None = Field(
        None, description="Scale of the first layer, and of what is in no layer; absent for 1/n of n models."
    )
    beta: Annotated[float | None, Span(0.05, 1, log=True)] = Field(
        None, description="What is added to alpha up to the last layer; absent for 1 - alpha."
    )


@checked(LinesParams, base="required")
def lines(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    alpha: float | None = None,
    beta: float | None = None,
    position: Position | None = None,
) -> Array:
    """Add up the task vectors, scaled linearly with depth: base + (alpha + beta * l / (L - 1)) * sum_i w_i tau_i.

    l is the tensor's layer, from 0, and L their number; tensors outside the layers are scaled by alpha.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        alpha: Scale at the first layer; None for 1/n.
        beta: Added to it up to the last layer; None for 1 - alpha.
        position: Where the tensor stands; `mw.merge` passes it. None is outside the layers.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `LINES.differs`.

    Example:
        >>> import numpy as np
        >>> from modelwright.methods import Position
        >>> tuned, base = [np.array([2.0]), np.array([4.0])], np.zeros(1)
        >>> [lines(tuned, base=base, position=Position("layers", i, 3)).item() for i in range(3)]
        [3.0, 4.5, 6.0]

    Source:
        Wang et al. 2025, arXiv:2410.17146, equation 2 and section 5.1.
    """
    deltas = [model - base for model in models]
    scale = _scale({"alpha": alpha, "beta": beta}, position, len(models))
    return combined(base, deltas, weight=per_model(weight, len(models)), normalize=False, lambda_=scale)


def _scale(p: Mapping[str, Any], position: Position | None, models: int) -> float:
    alpha = 1 / models if p["alpha"] is None else p["alpha"]
    beta = 1 - alpha if p["beta"] is None else p["beta"]
    if position is None or not position.count:
        return alpha
    return alpha + beta * (position.number / (position.count - 1) if position.count > 1 else 1.0)


def _lower(p: Mapping[str, Any], shape: Shape) -> Lowered:
    return Lowered(p["weight"], scale=_scale(p, shape.position, shape.models))


LINES = Method(
    name="lines",
    title="LiNeS",
    paper="arXiv:2410.17146",
    summary="Scales task vectors up with depth: lower layers keep what all tasks share, upper ones what each has learnt.",
    function=lines,
    params=LinesParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation", "single"}),
    lower=_lower,
    differs=(
        "Layers are read from tensor names, each stack of a model on its own; the official code looks for its block numbers "
        "in names. A stack of one layer gets alpha + beta, where the official formula divides by 0.",
        "alpha is 1/n as in the official code for task arithmetic. It chooses beta on validation data; here it is 1 - alpha "
        "where it is not given, as the paper has it for one model.",
        "The laws are those of one tensor; one model comes out as it went in at any depth.",
        "On other methods, `lambda: [a, a + b]` in a recipe is the same scaling, because gradients take their first value "
        "outside the layers.",
    ),
    cite="""@inproceedings{wang2025lines,
  title={LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging},
  author={Wang, Ke and Dimitriadis, Nikolaos and Favero, Alessandro and Ortiz-Jimenez, Guillermo and Fleuret,
    Fran{\\c{c}}ois and Frossard, Pascal},
  booktitle={ICLR},
  year={2025},
}""",
)
