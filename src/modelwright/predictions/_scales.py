"""On which scale numbers stand, and the ways between scales: in float64, checked, never guessed."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.tensors import SMALLEST, log, log_softmax, logit, sigmoid, softmax

#: `classes`: one number for each of C >= 2 classes; `binary`: one for the positive class; `regression`: numbers;
#: `dense`: maps of numbers (depth), or of the probability that a pixel belongs to the mask.
Kind = Literal["classes", "binary", "regression", "dense"]
#: `values` are numbers that are no probabilities: those of regression and of dense maps such as depth.
Scale = Literal["logits", "probabilities", "log-probabilities", "values"]

#: How far from 1 the probabilities of a sample may sum.
SUM_TOLERANCE = 1e-3
#: Which scales the numbers of a kind can stand on.
SCALES: dict[Kind, tuple[Scale, ...]] = {
    "classes": ("logits", "probabilities", "log-probabilities"),
    "binary": ("logits", "probabilities", "log-probabilities"),
    "regression": ("values",),
    "dense": ("values", "logits", "probabilities"),
}


def check_scale(kind: Kind, scale: str) -> None:
    """Refuse a scale that the numbers of a kind cannot stand on.

    Raises:
        InputError: The kind or the scale is unknown, or they do not go together.
    """
    if kind not in get_args(Kind):
        raise InputError(f"predictions cannot be of the kind '{kind}'", did_you_mean(kind, get_args(Kind)))
    if scale not in SCALES[kind]:
        raise InputError(f"predictions of the kind '{kind}' cannot be {scale}", did_you_mean(scale, SCALES[kind]))


def of_classes(values: np.ndarray, scale: Scale, wanted: Scale) -> np.ndarray:
    """Numbers of classes (..., C) from one scale to another.

    Log-probabilities are logits, so as logits they are what they are. Probabilities are divided by their sum.

    Returns:
        float64 of the same shape, in memory of its own.
    """
    if scale == "log-probabilities":
        values = np.maximum(np.asarray(values, np.float64), np.log(SMALLEST))  # of 0 it is minus infinity
    if wanted == "logits":
        return log(np.asarray(values, np.float64)) if scale == "probabilities" else np.array(values, np.float64)
    if scale == "probabilities":
        found = np.array(values, np.float64)
        found /= found.sum(axis=-1, keepdims=True)
        return found if wanted == "probabilities" else log(found)
    return softmax(values) if wanted == "probabilities" else log_softmax(values)


def of_one(values: np.ndarray, scale: Scale, wanted: Scale) -> np.ndarray:
    """Numbers of the positive class alone from one scale to another: float64 of the same shape."""
    values = np.asarray(values, dtype=np.float64)
    if scale == wanted:
        return values.copy()
    if scale == "logits":
        found = sigmoid(values)
        return found if wanted == "probabilities" else log(found)
    found = np.exp(values) if scale == "log-probabilities" else values
    if wanted == "probabilities":
        return found
    return logit(found) if wanted == "logits" else log(found)


def both_classes(values: np.ndarray, scale: Scale, wanted: Scale) -> np.ndarray:
    """Numbers of the positive class (...) as those of two classes (..., 2), the negative one first."""
    if scale == "logits":
        two = np.stack([np.zeros(values.shape), np.asarray(values, np.float64)], axis=-1)
        return two if wanted == "logits" else of_classes(two, "logits", wanted)
    positive = of_one(values, scale, "probabilities")
    two = np.stack([1.0 - positive, positive], axis=-1)
    return two if wanted == "probabilities" else log(two)
