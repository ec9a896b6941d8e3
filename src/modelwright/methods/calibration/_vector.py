"""Vector scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from modelwright.methods._method import Params
from modelwright.methods._outputs import CLASSES, NumpyArray, OutputMethod, check_fit, fixed, on_outputs
from modelwright.methods.calibration._affine import least_log_loss
from modelwright.tensors import softmax


class VectorParams(Params):
    """Parameters of `vector`."""

    penalty: float = Field(0.0, ge=0, description="Weight of the squared distance from the identity in the loss.")


@on_outputs(VectorParams, axes=2)
def vector(
    outputs: NumpyArray, *, penalty: float = 0.0, weights: Sequence[float], biases: Sequence[float]
) -> NumpyArray:
    """softmax(w * z + b), a weight and a bias for each class.

    Args:
        outputs: Logits (n, C).
        penalty: As for `fit_vector`; unused here.
        weights: C numbers.
        biases: C numbers.

    Returns:
        Probabilities (n, C).

    Differs:
        See `VECTOR.differs`.

    Source:
        Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    return softmax(outputs * np.asarray(weights) + np.asarray(biases))


def fit_vector(outputs: NumpyArray, labels: NumpyArray, *, penalty: float = 0.0) -> dict[str, Any]:
    """Weights and biases of the least log loss, which is convex in them.

    Args:
        outputs: Log-probabilities (n, C).
        labels: Class indices (n,), of every class.
        penalty: Of sum (w - 1)^2 + sum b^2, against the mean log loss.

    Returns:
        `weights` and `biases`.

    Raises:
        InputError: A class has no label.
        RunError: It does not converge.
    """
    check_fit("vector scaling", outputs, labels, every=True)
    count = outputs.shape[1]
    identity = np.concatenate([np.ones(count), np.zeros(count)])
    found = least_log_loss(
        outputs,
        labels,
        identity,
        lambda p: outputs * p[:count] + p[count:],
        lambda slopes: np.concatenate([(slopes * outputs).sum(axis=0), slopes.sum(axis=0)]),
        lambda p: (penalty * float(((p - identity) ** 2).sum()), 2 * penalty * (p - identity)),
        "vector",
    )
    return {"weights": found[:count].tolist(), "biases": found[count:].tolist()}


VECTOR = OutputMethod(
    name="vector",
    title="Vector scaling",
    paper="arXiv:1706.04599",
    summary="A weight and a bias for each class's logit: where some classes are too sure and others not sure enough.",
    kind="calibration",
    function=vector,
    params=VectorParams,
    takes=CLASSES,
    space=fixed("log-probabilities"),
    laws=frozenset({"shift", "classes"}),
    fit=fit_vector,
    differs=(
        "It is fitted on log-probabilities, so that a number added to all logits of a sample, which means nothing, changes nothing.",
        "`penalty` is none of the paper's; without it, as there, nothing holds the weights of few samples.",
    ),
)
