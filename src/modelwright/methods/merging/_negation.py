"""Forgetting by negation: take from a model what fine-tuning on a task adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelwright.methods._lowered import Lowered, Shape
from modelwright.methods._method import Method, Params, Span, checked
from modelwright.methods.merging._parts import combined
from modelwright.tensors import Array, namespace, norm


class NegationParams(Params):
    """Parameters of `negation`."""

    lambda_: Annotated[float, Span(0.05, 2, log=True)] = Field(
        0.5, ge=0, alias="lambda", description="How much of the task vector is taken away."
    )
    most: float | None = Field(
        None,
        gt=0,
        description="Largest norm of a tensor's change, as a share of the tensor's own; a larger one is scaled down.",
    )


@checked(NegationParams, most=1, base="required")
def negation(models: Sequence[Array], *, base: Array, lambda_: float = 0.5, most: float | None = None) -> Array:
    """Subtract a task vector: base - lambda * (theta - base).

    With `most`, the change is scaled down, tensor by tensor, to at most that share of the base tensor's norm.

    Args:
        models: One array, of the model tuned on what is to be forgotten.
        base: The model it was tuned from, and that forgets, same shape.
        lambda_: Share of the task vector that is subtracted, at least 0; `lambda` in recipes.
        most: Largest ||change|| / ||base||, or None for no limit.

    Returns:
        The model that has forgotten, in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite, a parameter is out of range or there is not exactly one model.

    Differs:
        See `NEGATION.differs`.

    Example:
        >>> import numpy as np
        >>> negation([np.array([3.0, 4.0])], base=np.array([3.0, 0.0]), lambda_=1.0, most=0.5)
        array([ 3. , -1.5])

    Source:
        Ilharco et al. 2023, arXiv:2212.04089, section 3.
    """
    delta = models[0] - base
    if most is not None:
        xp = namespace(base)
        change, limit = norm(delta) * lambda_, norm(base) * most
        over = change > limit
        share = xp.where(over, limit / xp.where(over, change, xp.ones_like(change)), xp.ones_like(change))
        delta = delta * xp.astype(share, base.dtype)
    return combined(base, [delta], weight=[1.0], normalize=False, lambda_=-lambda_)


def _lower(p: Mapping[str, Any], _shape: Shape) -> Lowered | None:
    return Lowered([1.0], scale=-p["lambda"]) if p["most"] is None else None


NEGATION = Method(
    name="negation",
    title="Negation (forgetting)",
    paper="arXiv:2212.04089",
    summary="Subtracts the task vector of a model tuned on what is to be forgotten, with a limit on the change.",
    function=negation,
    params=NegationParams,
    base="required",
    models=(1, 1),
    laws=frozenset({"identity", "base", "negation"}),
    lower=_lower,
    differs=(
        "It is task_arithmetic with lambda below 0; the sign is the method's here, so lambda is not negative.",
        "The paper takes the largest lambda at which the accuracy on a control task stays above 95 % of the base's, which "
        "takes data; `most` is ours, a limit that takes none. A base tensor of zeros stays as it is under `most`.",
        "lambda is 0.5 where nothing better is known, as in the official example.",
    ),
    cite="""@inproceedings{ilharco2023task,
  title={Editing models with task arithmetic},
  author={Ilharco, Gabriel and Ribeiro, Marco Tulio and Wortsman, Mitchell and Gururangan, Suchin and Schmidt,
    Ludwig and Hajishirzi, Hannaneh and Farhadi, Ali},
  booktitle={ICLR},
  year={2023},
}""",
)
