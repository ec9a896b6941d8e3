"""Platt scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from modelwright.errors import needs
from modelwright.methods._outputs import CLASSES, NoParams, NumpyArray, OutputMethod, fixed, on_outputs
from modelwright.methods.calibration._by_class import apply_by_class, fit_by_class
from modelwright.tensors import logit, sigmoid


class PlattParams(NoParams):
    """Parameters of `platt`: none."""


@on_outputs(PlattParams, axes=2)
def platt(outputs: NumpyArray, *, classes: list[Mapping[str, float]]) -> NumpyArray:
    """sigmoid(a s + b) of each class's logit s = log(p / (1 - p)) against the rest, divided by their sum.

    Args:
        outputs: Probabilities (n, C).
        classes: `slope` and `intercept` of each class; of two classes of the second alone.

    Returns:
        Probabilities (n, C).

    Differs:
        See `PLATT.differs`.

    Source:
        Platt 1999, "Probabilistic outputs for support vector machines"; Lin et al. 2007 for the optimisation.
    """
    return apply_by_class(outputs, list(classes), lambda p, one: sigmoid(one["slope"] * _scores(p) + one["intercept"]))


def fit_platt(outputs: NumpyArray, labels: NumpyArray) -> dict[str, Any]:
    """Slope and intercept of each class by maximum likelihood, with Platt's targets.

    Samples of the class have the target (n+ + 1) / (n+ + 2), others 1 / (n- + 2), which keeps weights finite where a class can
    be told without a mistake.

    Args:
        outputs: Probabilities (n, C).
        labels: Class indices (n,), of every class.

    Returns:
        `classes`.

    Raises:
        InputError: A class has no label.
    """
    return {"classes": fit_by_class("platt", outputs, labels, _fit_one)}


def _scores(probabilities: NumpyArray) -> NumpyArray:
    return logit(probabilities)


def _fit_one(probabilities: NumpyArray, right: NumpyArray) -> dict[str, float]:
    optimize = needs("scipy.optimize", "calibration")
    scores = _scores(probabilities)
    positive = float(right.sum())
    high, low = (positive + 1) / (positive + 2), 1 / (len(right) - positive + 2)
    targets = right * high + (1 - right) * low

    def loss(ab: NumpyArray) -> tuple[float, NumpyArray]:
        at = ab[0] * scores + ab[1]
        slopes = (sigmoid(at) - targets) / len(at)
        value = float((np.logaddexp(0.0, at) - targets * at).mean())
        return value, np.array([float(slopes @ scores), float(slopes.sum())])

    found = optimize.minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-10}
    )
    return {"slope": float(found.x[0]), "intercept": float(found.x[1])}


PLATT = OutputMethod(
    name="platt",
    title="Platt scaling",
    paper="doi:10.1007/s10994-007-5018-6",
    summary="A logistic curve for each class: for two classes, or scores that are no probabilities yet; it takes few samples.",
    kind="calibration",
    function=platt,
    params=PlattParams,
    takes=CLASSES,
    space=fixed("probabilities"),
    laws=frozenset({"classes", "shift"}),
    fit=fit_platt,
    differs=(
        "Scores are the logits of probabilities; Platt's are distances of a support vector machine.",
        "More than two classes are taken one against the rest and divided by their sum, as scikit-learn does.",
    ),
)
