"""Stacking: a small model on what members say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from modelwright.errors import InputError, RunError, needs
from modelwright.methods._method import Params
from modelwright.methods._outputs import NumpyArray, OutputMethod, Space, check_fit, chosen, on_outputs
from modelwright.tensors import softmax


class StackingParams(Params):
    """Parameters of `stacking`."""

    space: Space = Field("probabilities", description="What the small model sees of classes.")
    penalty: float = Field(
        1.0, gt=0, description="How strongly squared coefficients are held down, for the sum over samples."
    )


@on_outputs(StackingParams)
def stacking(
    outputs: NumpyArray,
    *,
    space: str = "probabilities",
    penalty: float = 1.0,
    coefficients: Sequence[Sequence[float]],
    intercepts: Sequence[float],
) -> NumpyArray:
    """Multinomial logistic regression on all numbers of all members; linear ridge regression for values.

    Args:
        outputs: (M, n, C) on the scale of `space`; values (M, n) or (M, n, D) for `space="values"`.
        space: As in `mean`.
        penalty: As in `fit`; nothing is penalised here.
        coefficients: (C, M C) from `fit_stacking`: for each class, of every member's every number.
        intercepts: C numbers.

    Returns:
        Probabilities (n, C), or values (n,) or (n, D).

    Differs:
        See `STACKING.differs`.

    Source:
        Wolpert 1992, "Stacked generalization".
    """
    table = np.asarray(coefficients, np.float64)
    found = _features(outputs) @ table.T + np.asarray(intercepts, np.float64)
    return found.reshape(outputs.shape[1:]) if space == "values" else softmax(found)


def fit_stacking(
    outputs: NumpyArray, labels: NumpyArray, *, space: str = "probabilities", penalty: float = 1.0
) -> dict[str, Any]:
    """Fit with scikit-learn: `LogisticRegression(C=1/penalty)`, or `Ridge(alpha=penalty)` for values.

    Args:
        outputs: As for `stacking`.
        labels: Class indices (n,), of every class; values (n,) or (n, D).
        space: As for `stacking`.
        penalty: Of half the squared coefficients, against the sum of the samples' log losses (of the squared coefficients,
            against the sum of squared errors, for values).

    Returns:
        `coefficients` and `intercepts` as lists.

    Raises:
        InputError: A class has no label.
        RunError: The fit does not converge.
    """
    linear = needs("sklearn.linear_model", "stacking")
    if space == "values":
        if outputs.ndim > 3:
            raise InputError("stacking takes no dense predictions", "Use mean, weighted or dense_mean.")
        model = linear.Ridge(alpha=penalty).fit(_features(outputs), labels.reshape(len(labels), -1))
        return {
            "coefficients": model.coef_.reshape(-1, _features(outputs).shape[1]).tolist(),
            "intercepts": np.ravel(model.intercept_).tolist(),
        }
    check_fit("stacking", outputs, labels, every=True)
    model = linear.LogisticRegression(C=1 / penalty, max_iter=10_000)
    model.fit(_features(outputs), labels)
    if model.n_iter_.max() >= 10_000:
        raise RunError("stacking does not converge in 10,000 steps: raise the penalty, or use space='probabilities'")
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:  # of two classes scikit-learn keeps the second one's only
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([[0.0], intercepts])
    return {"coefficients": coefficients.tolist(), "intercepts": intercepts.tolist()}


def _features(outputs: NumpyArray) -> NumpyArray:
    """(n, M C): member by member."""
    return np.moveaxis(outputs.reshape(*outputs.shape[:2], -1), 0, 1).reshape(outputs.shape[1], -1)


STACKING = OutputMethod(
    name="stacking",
    title="Stacking",
    paper="doi:10.1016/S0893-6080(05)80023-1",
    summary="Logistic regression on what members say: it can learn which member to believe for which class.",
    kind="ensembling",
    function=stacking,
    params=StackingParams,
    takes=frozenset({"classes", "regression"}),
    space=chosen,
    laws=frozenset({"classes", "shift"}),
    fit=fit_stacking,
    differs=(
        "The paper fits on what members say of samples that they were not trained on, by cross-validation; here that is whatever "
        "the labelled predictions are of, so members must not have seen them.",
    ),
)
