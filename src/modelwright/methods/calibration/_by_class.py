"""What one-against-rest calibrators share: each class on its own, then rows that sum to 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from modelwright.methods._outputs import NumpyArray, check_fit
from modelwright.tensors import normalised

#: (probabilities of one class (n,), whether it is right (n,)) -> what is learnt of it.
FitOne = Callable[[NumpyArray, NumpyArray], Any]
#: (probabilities of one class (n,), what was learnt of it) -> new ones (n,).
ApplyOne = Callable[[NumpyArray, Any], NumpyArray]


def fit_by_class(name: str, outputs: NumpyArray, labels: NumpyArray, fit: FitOne) -> list[Any]:
    """What is learnt of each class; of two classes only of the second, which settles the first."""
    check_fit(name, outputs, labels, every=True)
    classes = [1] if outputs.shape[1] == 2 else range(outputs.shape[1])
    return [fit(outputs[:, c], (labels == c).astype(np.float64)) for c in classes]


def apply_by_class(outputs: NumpyArray, learnt: list[Any], apply: ApplyOne) -> NumpyArray:
    """Probabilities (n, C): each class by what was learnt of it, divided by their sum; even shares where all are 0."""
    if outputs.shape[1] == 2:
        positive = apply(outputs[:, 1], learnt[0])
        return np.stack([1.0 - positive, positive], axis=1)
    return normalised(np.stack([apply(outputs[:, c], one) for c, one in enumerate(learnt)], axis=1))
