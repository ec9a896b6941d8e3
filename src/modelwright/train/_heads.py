"""Heads that are fixed before fine-tuning: class means of the base's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modelwright.errors import InputError
from modelwright.tensors import Array


@dataclass(frozen=True)
class CosineHead:
    """Logits: a scale times the cosine of a feature and a class's direction.

    Zero-shot heads of CLIP are this with directions from the class's name; here they come from few items a class as the
    base sees them. Either way a head is fixed before any expert is tuned, and all models are judged through the same.

    Attributes:
        directions: float32 (classes, width), rows of length 1.
        centre: float32 (width,), taken off features first: without it all features of a network point one way.
        scale: What cosines are multiplied with.
    """

    directions: Array
    centre: Array
    scale: float = 16.0

    @staticmethod
    def of(features: Array, labels: Array, classes: int, scale: float = 16.0) -> CosineHead:
        """The head of some features: the directions of the classes' means from the mean of those.

        Args:
            features: (n, width), of the base.
            labels: (n,), classes in [0, classes).
            classes: How many classes there are; each must have an item.
            scale: As the attribute.

        Raises:
            InputError: A class has no item.
        """
        missing = sorted(set(range(classes)) - set(np.asarray(labels).tolist()))
        if missing:
            raise InputError(f"a head needs an item of every class, and class {missing[0]} has none")
        wide = np.asarray(features, np.float64)
        means = np.stack([wide[labels == c].mean(axis=0) for c in range(classes)])
        centre = means.mean(axis=0)
        lengths = np.linalg.norm(means - centre, axis=1, keepdims=True)
        directions = (means - centre) / np.maximum(lengths, 1e-12)
        return CosineHead(directions.astype(np.float32), centre.astype(np.float32), scale)

    def logits(self, features: Array) -> Array:
        """float64 (n, classes) of features (n, width)."""
        wide = np.asarray(features, np.float64) - self.centre
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        return self.scale * (wide / np.maximum(lengths, 1e-12)) @ self.directions.T.astype(np.float64)

    def tensors(self) -> Mapping[str, Array]:
        """As named tensors."""
        return {"directions": self.directions, "centre": self.centre, "scale": np.array([self.scale], np.float32)}

    @staticmethod
    def from_tensors(values: Mapping[str, Array]) -> CosineHead:
        """From what `tensors` gave."""
        return CosineHead(values["directions"], values["centre"], float(values["scale"][0]))
