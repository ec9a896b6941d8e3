"""Averages with weights that are learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from modelwright.errors import needs
from modelwright.methods._method import Params
from modelwright.methods._outputs import (
    VALUES,
    NumpyArray,
    OutputMethod,
    Space,
    check_fit,
    chosen,
    finished,
    of_labels,
    on_outputs,
    weighted as weighted_sum,
)
from modelwright.tensors import SMALLEST, softmax


class WeightedParams(Params):
    """Parameters of `weighted`."""

    space: Space = Field("probabilities", description="Where answers are averaged.")


@on_outputs(WeightedParams)
def weighted(outputs: NumpyArray, *, space: str = "probabilities", weights: Sequence[float]) -> NumpyArray:
    """Weighted sum with the weights that `fit` has learnt.

    Probabilities: weights on the simplex that minimise the log loss of the mixture, a convex problem. Logits: weights from 0
    up that minimise the log loss of softmax(sum_m w_m z_m), convex too; their sum is free, so that they set the temperature
    as well. Values: weights on the simplex that minimise the squared error.

    Args:
        outputs: (M, n, C) on the scale of `space`; values (M, n, ...) for `space="values"`.
        space: As in `mean`.
        weights: M numbers from `fit`.

    Returns:
        Probabilities (n, C), or values (n, ...).

    Differs:
        See `WEIGHTED.differs`.

    Example:
        >>> import numpy as np
        >>> said = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]])
        >>> [round(w, 3) for w in fit_weights(said, np.array([0, 1]))["weights"]]
        [1.0, 0.0]
    """
    return finished(weighted_sum(outputs, weights), space)


def fit_weights(outputs: NumpyArray, labels: NumpyArray, *, space: str = "probabilities") -> dict[str, Any]:
    """The weights of `weighted` on labelled data.

    Args:
        outputs: As for `weighted`.
        labels: Class indices (n,), or values (n, ...).
        space: As for `weighted`.

    Returns:
        `weights`; for probabilities `gap` too, by how much at most the log loss lies above the least possible one, in nats.

    Raises:
        InputError: There are labels of one class only.
    """
    if space == "values":
        return {"weights": _least_squares(outputs.reshape(len(outputs), -1), labels.reshape(-1))}
    check_fit("weighted", outputs, labels)
    if space == "probabilities":
        weights, gap = _mixture(np.maximum(of_labels(outputs, labels), SMALLEST))
        return {"weights": weights, "gap": gap}
    return {"weights": _log_linear(outputs, labels)}


def _mixture(likelihoods: NumpyArray) -> tuple[list[float], float]:
    """Weights of a mixture, by sequential quadratic programming and expectation maximisation after it.

    With g_m the mean of p_m / p over samples, max(g) - 1 bounds what the log loss can still lose (the problem is convex and
    its weights sum to 1), so that the end is proved and not guessed. Expectation maximisation, w_m g_m, is sure to get there,
    and slow; so it begins where a solver of second order has ended.
    """
    weights = _least(lambda w: _mixture_loss(w, likelihoods), np.full(len(likelihoods), 1 / len(likelihoods)))
    gap = np.inf
    for _ in range(500):
        gain = likelihoods @ (1 / np.maximum(weights @ likelihoods, SMALLEST)) / likelihoods.shape[1]
        gap = float(gain.max() - 1)
        if gap < 1e-7:
            break
        weights = weights * gain
        weights = weights / weights.sum()
    return [float(weight) for weight in weights], max(gap, 0.0)


def _mixture_loss(weights: NumpyArray, likelihoods: NumpyArray) -> tuple[float, NumpyArray]:
    together = np.maximum(weights @ likelihoods, SMALLEST)
    return float(-np.log(together).mean()), -(likelihoods @ (1 / together)) / len(together)


def _least(loss: Callable[[NumpyArray], tuple[float, NumpyArray]], start: NumpyArray) -> NumpyArray:
    """Weights on the simplex of the least loss, which is given with its slopes."""
    optimize = needs("scipy.optimize", "learning weights")

    def excess(weights: NumpyArray) -> float:
        return float(weights.sum()) - 1

    found = optimize.minimize(
        loss, start, jac=True, method="SLSQP", bounds=[(0, 1)] * len(start),
        constraints=[{"type": "eq", "fun": excess, "jac": np.ones_like}], options={"maxiter": 1000, "ftol": 1e-14},
    )  # fmt: skip
    weights = np.asarray(found.x, np.float64)
    weights = np.where(weights > 1e-12, weights, 0.0)  # rounding, not weight: such members need not be asked
    return weights / weights.sum()


def _log_linear(logits: NumpyArray, labels: NumpyArray) -> list[float]:
    optimize = needs("scipy.optimize", "learning weights")
    right = of_labels(logits, labels)

    def loss(weights: NumpyArray) -> tuple[float, NumpyArray]:
        together = weighted_sum(logits, weights.tolist())
        probabilities = softmax(together)
        peak = together.max(axis=-1)
        sums = peak + np.log(np.exp(together - peak[:, None]).sum(axis=-1))
        expected = (logits * probabilities).sum(axis=-1)
        return float((sums - weights @ right).mean()), (expected - right).mean(axis=1)

    start = np.full(len(logits), 1 / len(logits))
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, 1e3)] * len(logits),
        options={"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-9},
    )
    return [float(weight) for weight in found.x]


def _least_squares(values: NumpyArray, labels: NumpyArray) -> list[float]:
    """Weights on the simplex: a quadratic problem in the members' products."""
    scale = float(np.sqrt((values**2).mean())) or 1.0
    errors = (values - labels) / scale  # weights sum to 1, so the error of the mean is the mean of the errors
    products = errors @ errors.T / errors.shape[1]

    def loss(weights: NumpyArray) -> tuple[float, NumpyArray]:
        return float(weights @ products @ weights), 2 * products @ weights

    return [float(weight) for weight in _least(loss, np.full(len(values), 1 / len(values)))]


WEIGHTED = OutputMethod(
    name="weighted",
    title="Weighted mean",
    paper="",
    summary="A mean whose weights are learnt: bad members lose theirs, and the problem has one optimum.",
    kind="ensembling",
    function=weighted,
    params=WeightedParams,
    takes=VALUES,
    space=chosen,
    laws=frozenset({"classes", "shift"}),
    fit=fit_weights,
    right_only=lambda params: params["space"] == "probabilities",
    differs=(
        "Stacked generalisation with weights from 0 up (Breiman 1996) minimises squared errors of classes; here it is the log "
        "loss, and the squared error for values only.",
    ),
)
