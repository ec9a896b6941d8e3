"""Heads that are fixed before fine-tuning, so that every model of a family is judged through the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from modelwright.errors import InputError
from modelwright.evaluate._predictor import needs
from modelwright.tensors import Array


class Head(Protocol):
    """From features to logits, and to named tensors."""

    def logits(self, features: Array) -> Array:
        """float64 (n, classes) of features (n, width)."""
        ...

    def tensors(self) -> Mapping[str, Array]:
        """What it is made of."""
        ...


@dataclass(frozen=True)
class LinearHead:
    """Logits: a matrix and a bias.

    Attributes:
        weight: float32 (classes, width).
        bias: float32 (classes,).
    """

    weight: Array
    bias: Array

    @staticmethod
    def probe(features: Array, labels: Array, classes: int) -> LinearHead:
        """A linear probe: logistic regression on features as they are, with the penalty |w|^2 / 2 on centred features.

        Args:
            features: (n, width), of the base. They are centred, and divided by one number for all.
            labels: (n,), classes in [0, classes).
            classes: How many classes there are; each must have an item.

        Raises:
            InputError: A class has no item.

        Source:
            A probe before tuning: Kumar et al. 2022, arXiv:2202.10054; there the head is tuned further, here it is not.
        """
        linear = needs("sklearn.linear_model", "a linear probe")
        missing = sorted(set(range(classes)) - set(np.asarray(labels).tolist()))
        if missing:
            raise InputError(f"a head needs an item of every class, and class {missing[0]} has none")
        wide = np.asarray(features, np.float64)
        centre, spread = wide.mean(axis=0), max(float(wide.std()), 1e-12)
        found = linear.LogisticRegression(max_iter=1000, tol=1e-4).fit((wide - centre) / spread, labels)
        weight, bias = found.coef_ / spread, found.intercept_
        if classes == 2:  # one row there is the second class against the first
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        bias = bias - weight @ centre
        return LinearHead(weight.astype(np.float32), bias.astype(np.float32))

    def logits(self, features: Array) -> Array:
        """float64 (n, classes) of features (n, width)."""
        return np.asarray(features, np.float64) @ self.weight.T.astype(np.float64) + self.bias

    def tensors(self) -> Mapping[str, Array]:
        """As named tensors."""
        return {"weight": self.weight, "bias": self.bias}


@dataclass(frozen=True)
class CosineHead:
    """Logits: a scale times the cosine of a feature and a class's direction, as CLIP has it.

    Attributes:
        directions: float32 (classes, width), rows of length 1.
        scale: What cosines are multiplied with.
    """

    directions: Array
    scale: float

    def logits(self, features: Array) -> Array:
        """float64 (n, classes) of features (n, width)."""
        wide = np.asarray(features, np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        return self.scale * (wide / np.maximum(lengths, 1e-12)) @ self.directions.T.astype(np.float64)

    def tensors(self) -> Mapping[str, Array]:
        """As named tensors."""
        return {"directions": self.directions, "scale": np.array([self.scale], np.float32)}


def head_of(tensors: Mapping[str, Array]) -> Head:
    """The head that `tensors` was called on."""
    if "directions" in tensors:
        return CosineHead(tensors["directions"], float(tensors["scale"][0]))
    return LinearHead(tensors["weight"], tensors["bias"])
