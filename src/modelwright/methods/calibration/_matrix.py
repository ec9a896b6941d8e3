"""Matrix scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from modelwright.methods._method import Params
from modelwright.methods._outputs import CLASSES, NumpyArray, OutputMethod, check_fit, fixed, on_outputs
from modelwright.methods.calibration._affine import least_log_loss
from modelwright.tensors import softmax


class MatrixParams(Params):
    """Parameters of `matrix`."""

    off_diagonal: float = Field(
        1e-3, ge=0, description="Weight of the mean squared entry off the diagonal in the loss."
    )
    bias: float = Field(1e-3, ge=0, description="Weight of the mean squared bias in the loss.")


@on_outputs(MatrixParams, axes=2)
def matrix(
    outputs: NumpyArray,
    *,
    off_diagonal: float = 1e-3,
    bias: float = 1e-3,
    weights: Sequence[Sequence[float]],
    biases: Sequence[float],
) -> NumpyArray:
    """softmax(W z + b).

    Args:
        outputs: Log-probabilities (n, C).
        off_diagonal: As for `fit_matrix`, like the next; unused here.
        bias: Weight of squared biases.
        weights: (C, C).
        biases: C numbers.

    Returns:
        Probabilities (n, C).

    Differs:
        See `MATRIX.differs`.

    Source:
        Guo et al. 2017, arXiv:1706.04599, section 4.2; Kull et al. 2019, arXiv:1910.12656, section 3 for the penalties.
    """
    return softmax(outputs @ np.asarray(weights, np.float64).T + np.asarray(biases))


def fit_matrix(
    outputs: NumpyArray, labels: NumpyArray, *, off_diagonal: float = 1e-3, bias: float = 1e-3
) -> dict[str, Any]:
    """Matrix and biases of the least log loss plus penalties, which is convex in them.

    Args:
        outputs: Log-probabilities (n, C).
        labels: Class indices (n,), of every class.
        off_diagonal: Of the mean of the C (C - 1) squared entries off the diagonal, against the mean log loss.
        bias: Of the mean of the C squared biases.

    Returns:
        `weights` and `biases`.

    Raises:
        InputError: A class has no label.
        RunError: It does not converge.
    """
    check_fit("matrix scaling", outputs, labels, every=True)
    count = outputs.shape[1]
    held = off_diagonal * (1 - np.eye(count)) / (count * (count - 1))
    rates = np.concatenate([held.reshape(-1), np.full(count, bias / count)])
    size = count * count

    def forward(p: NumpyArray) -> NumpyArray:
        return outputs @ p[:size].reshape(count, count).T + p[size:]

    def backward(slopes: NumpyArray) -> NumpyArray:
        return np.concatenate([(slopes.T @ outputs).reshape(-1), slopes.sum(axis=0)])

    def penalty(p: NumpyArray) -> tuple[float, NumpyArray]:
        return float((rates * p**2).sum()), 2 * rates * p

    start = np.concatenate([np.eye(count).reshape(-1), np.zeros(count)])
    found = least_log_loss(outputs, labels, start, forward, backward, penalty, "matrix")
    return {"weights": found[:size].reshape(count, count).tolist(), "biases": found[size:].tolist()}


MATRIX = OutputMethod(
    name="matrix",
    title="Matrix scaling",
    paper="arXiv:1910.12656",
    summary="A linear map of all logits: with thousands of samples for tens of classes, where classes are mistaken for each other.",
    kind="calibration",
    function=matrix,
    params=MatrixParams,
    takes=CLASSES,
    space=fixed("log-probabilities"),
    laws=frozenset({"shift", "classes"}),
    fit=fit_matrix,
    differs=(
        "Guo et al. have no penalty, and find that it fits the validation set too closely; Kull et al. penalise entries off the "
        "diagonal and biases (ODIR) and choose both weights by cross-validation. Here they are parameters.",
        "It is fitted on log-probabilities, as Dirichlet calibration is, not on logits.",
    ),
)
