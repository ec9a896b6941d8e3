"""Isotonic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.errors import needs
from modelwright.methods._outputs import CLASSES, NoParams, NumpyArray, OutputMethod, fixed, on_outputs
from modelwright.methods.calibration._by_class import apply_by_class, fit_by_class


class IsotonicParams(NoParams):
    """Parameters of `isotonic`: none."""


@on_outputs(IsotonicParams, axes=2)
def isotonic(outputs: NumpyArray, *, classes: list[Mapping[str, Sequence[float]]]) -> NumpyArray:
    """A rising curve for each class against the rest, straight between its points, divided by their sum.

    Args:
        outputs: Probabilities (n, C).
        classes: `at` and `to`, the points of each class's curve; of two classes of the second alone.

    Returns:
        Probabilities (n, C); even shares where every class comes to 0.

    Differs:
        See `ISOTONIC.differs`.

    Source:
        Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass probability estimates".
    """
    return apply_by_class(outputs, list(classes), _apply_one)


def _apply_one(probabilities: NumpyArray, one: Mapping[str, Sequence[float]]) -> NumpyArray:
    return np.asarray(np.interp(probabilities, one["at"], one["to"]))  # type: ignore[reportUnknownArgumentType]


def fit_isotonic(outputs: NumpyArray, labels: NumpyArray) -> dict[str, Any]:
    """The rising curves of the least squared error, by scikit-learn's `IsotonicRegression`.

    Args:
        outputs: Probabilities (n, C).
        labels: Class indices (n,), of every class.

    Returns:
        `classes`.

    Raises:
        InputError: A class has no label.
    """
    return {"classes": fit_by_class("isotonic", outputs, labels, _fit_one)}


def _fit_one(probabilities: NumpyArray, right: NumpyArray) -> dict[str, list[float]]:
    regression = needs("sklearn.isotonic", "isotonic calibration").IsotonicRegression
    found = regression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(probabilities, right)
    return {"at": found.X_thresholds_.tolist(), "to": found.y_thresholds_.tolist()}


ISOTONIC = OutputMethod(
    name="isotonic",
    title="Isotonic calibration",
    paper="doi:10.1145/775047.775151",
    summary="Any rising curve for each class: with thousands of samples, where no formula fits.",
    kind="calibration",
    function=isotonic,
    params=IsotonicParams,
    takes=CLASSES,
    space=fixed("probabilities"),
    laws=frozenset({"classes", "shift"}),
    fit=fit_isotonic,
    differs=("Between points the curve is straight, as scikit-learn's is, not a staircase.",),
)
