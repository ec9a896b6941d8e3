"""Generated task vectors of which it is known what is signal and what is noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.api import merge
from modelwright.tensors import Array

COUNT, SIZE, SHARE, NOISE = 8, 20_000, 0.05, 0.05


@dataclass(frozen=True)
class Vectors:
    """Task vectors on one base of zeros.

    Attributes:
        signals: What each task is about, shape (tasks, size): zero outside its own support.
        deltas: The same with noise, and with outliers where there are any.
    """

    signals: Array
    deltas: Array

    def merged(self, method: str, **parameters: Any) -> Array:
        """The merged task vector."""
        base = {"w": np.zeros(self.deltas.shape[1], np.float32)}
        models = [{"w": delta.astype(np.float32)} for delta in self.deltas]
        return merge(models, base=None if method == "linear" else base, method=method, **parameters)["w"].read()

    def recovered(self, found: Array) -> float:
        """The share of each task's signal that a merged vector has: its projection, averaged over tasks."""
        return float(np.mean((self.signals @ found) / (self.signals**2).sum(axis=1)))

    def off_support(self, found: Array) -> float:
        """The root mean square of a merged vector where no task has signal."""
        return float(np.sqrt(np.mean(found[~self.signals.any(axis=0)].astype(np.float64) ** 2)))

    def error(self, found: Array) -> float:
        """The distance of a merged vector from the sum of all signals, relative to that sum."""
        clean = self.signals.sum(axis=0)
        return float(np.linalg.norm(found - clean) / np.linalg.norm(clean))


def vectors(rng: np.random.Generator, outliers: int = 0, height: float = 20.0) -> Vectors:
    """Eight task vectors of 20,000 entries.

    Each has signal of magnitude 1 to 1.2 and random sign on 5 % of them, disjoint from the others', and everywhere
    Gaussian noise of standard deviation 0.05.

    Args:
        rng: Decides all of it.
        outliers: How many entries of each task vector, anywhere, become plus or minus `height`.
        height: How large outliers are.
    """
    support = int(SHARE * SIZE)
    places = rng.permutation(SIZE)[: COUNT * support].reshape(COUNT, support)
    signals = np.zeros((COUNT, SIZE))
    for signal, at in zip(signals, places, strict=True):
        signal[at] = rng.uniform(1, 1.2, support) * rng.choice([-1, 1], support)
    deltas = signals + rng.normal(0, NOISE, signals.shape)
    for delta in deltas:
        delta[rng.permutation(SIZE)[:outliers]] = height * rng.choice([-1, 1], outliers)
    return Vectors(signals, deltas)
