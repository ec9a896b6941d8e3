"""Probabilities and logits, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

NumpyArray = np.ndarray[Any, Any]

#: What a probability of 0 counts as where its logarithm is taken: a certain mistake costs 708 nats and not infinity,
#: which no mean survives.
SMALLEST = float(np.finfo(np.float64).tiny)


def softmax(logits: NumpyArray) -> NumpyArray:
    """Probabilities from logits along the last axis, in float64."""
    powers = np.array(logits, dtype=np.float64)  # a copy, which is worked on in place: blocks are large
    powers -= powers.max(axis=-1, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


def log_softmax(logits: NumpyArray) -> NumpyArray:
    """Log-probabilities from logits along the last axis, in float64."""
    shifted = np.array(logits, dtype=np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def log(probabilities: NumpyArray) -> NumpyArray:
    """Logarithms of probabilities in float64, 0 counting as `SMALLEST`."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST))


def sigmoid(logits: NumpyArray) -> NumpyArray:
    """Probabilities of the positive class from its logits, in float64, without overflow on either side."""
    wide = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1.0, small) / (1.0 + small)


def logit(probabilities: NumpyArray) -> NumpyArray:
    """Logits of the positive class from its probabilities, in float64; those of 0 and 1 are -708 and 708."""
    wide = np.asarray(probabilities, dtype=np.float64)
    return log(wide) - log(1.0 - wide)


def normalised(shares: NumpyArray) -> NumpyArray:
    """Numbers from 0 up, divided by their sum along the last axis; rows of zeros become even."""
    total = shares.sum(axis=-1, keepdims=True)
    empty = total == 0
    if not empty.any():
        return shares / total
    return np.where(empty, 1.0 / shares.shape[-1], shares / np.where(empty, 1.0, total))
