"""What a method says to the fused kernels: the same arithmetic as its array function, as data.

A record's `lower` turns parameters into a `Lowered`. The engine runs it block by block with the kernels of
`tensors/kernels`, with the same bits as the array function; where `lower` gives None, the array function runs on whole
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Rescaling = Literal["none", "l1", "l2", "expectation"]


@dataclass(frozen=True)
class Ranks:
    """Keep the entries whose magnitude has a descending rank in [start, stop).

    Attributes:
        start: First rank kept, 0 being the largest.
        stop: One past the last.
        all_ties: Keep every entry that equals the one of rank stop - 1, and not only those of the lowest index.
    """

    start: int
    stop: int
    all_ties: bool = False


@dataclass(frozen=True)
class Drop:
    """Keep each entry with this probability, by keyed noise."""

    density: float


@dataclass(frozen=True)
class RankDrop:
    """Keep each entry with a probability that rises with the rank of its magnitude in its row, by keyed noise.

    Attributes:
        density: Mean probability.
        epsilon: The smallest entry of a row is kept with density - epsilon, the largest with density + epsilon.
        row: Entries of a row, the last axis.
    """

    density: float
    epsilon: float
    row: int

    def probabilities(self) -> Any:
        """By rank, from the smallest magnitude to the largest: float64 of shape (row,). A row of one has the mean."""
        if self.row == 1:
            return np.array([self.density])
        return (self.density - self.epsilon) + np.arange(self.row) / (self.row - 1) * (2 * self.epsilon)


#: How the entries of a model are kept: None keeps all of them, `Ranks(0, 0)` none.
Keep = Ranks | Drop | RankDrop | None


@dataclass(frozen=True)
class Coefficients:
    """What dot products decide: weights of the models, a scale of their sum, and the factor of the base.

    Attributes:
        weights: One for each model.
        scale: Factor of the weighted sum.
        base: Factor of the base that is added, or None to add none.
    """

    weights: Sequence[float]
    scale: float = 1.0
    base: float | None = None


class Gram(Protocol):
    """Dot products between the models, or between their task vectors, in float64; `len(models)` is the base."""

    def __call__(self, i: int, j: int) -> Any: ...


@dataclass(frozen=True)
class Lowered:
    """base + scale * sum_i weight_i rescaled(kept(theta_i - base)), and its relatives.

    Attributes:
        weights: One for each model.
        deltas: Whether task vectors are added up, or the models themselves.
        keep: Of each model, which entries.
        rescale: How kept entries are scaled up, where some were dropped; see `_parts.rescaled`.
        elect: Sign election by `sum` or `count`, or None to add everything.
        join: Under election, how agreeing entries are joined.
        zero_sign: What an even split elects; None for the majority over the whole model.
        normalize: Under election: divide by the weights that agree.
        divisor: Without election: what the sum is divided by; 0 for nothing.
        scale: Factor of the merged sum.
        add_base: Whether the base is added.
        whole_model: Whether ranks count over the whole model.
        gram: The pairs of models whose dot products are needed, the base being number `len(weights)`.
        gram_of_deltas: Whether these are of task vectors.
        coefficients: Makes of these what replaces weights, scale and the base's factor.
    """

    weights: Sequence[float]
    deltas: bool = True
    keep: Sequence[Keep] = ()
    rescale: Rescaling = "none"
    elect: Literal["sum", "count"] | None = None
    join: Literal["sum", "mean", "max"] = "mean"
    zero_sign: float | None = 1.0
    normalize: bool = False
    divisor: float = 0.0
    scale: float = 1.0
    add_base: bool = True
    whole_model: bool = False
    gram: Sequence[tuple[int, int]] = ()
    gram_of_deltas: bool = False
    coefficients: Callable[[Gram], Coefficients] | None = None

    @property
    def passes(self) -> int:
        """How often the inputs are read: once to merge, and once for each statistic; samples do not count."""
        ranked = any(isinstance(keep, Ranks) for keep in self.keep)
        measured = self.rescale in ("l1", "l2") and any(keep is not None for keep in self.keep)
        return 1 + ranked + self.by_rank + measured + bool(self.gram) + (self.zero_sign is None)

    @property
    def by_rank(self) -> bool:
        """Whether entries are dropped by their rank in a row."""
        return any(isinstance(keep, RankDrop) for keep in self.keep)


@dataclass(frozen=True)
class Shape:
    """What `lower` may know of the tensor.

    Attributes:
        size: Elements of the tensor.
        total: Elements of all merged tensors.
        axes: Number of axes.
        row: Elements along the last axis; 1 where there is none.
        models: Number of models beside the base.
        base: Whether there is a base.
        position: Where it stands in its model (`Position`).
    """

    size: int
    total: int
    axes: int
    row: int
    models: int
    base: bool
    position: Any = None


Lower = Callable[[Mapping[str, Any], Shape], Lowered | None]
