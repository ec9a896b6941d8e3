"""Whether confidence can be believed: calibration errors, with every convention named."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.methods.calibration import bin_edges

Bins = Literal["equal_width", "equal_mass"]
Of = Literal["top_label", "classwise"]
Norm = Literal["l1", "l2", "max"]


@dataclass(frozen=True)
class Convention:
    """Which calibration error: papers mean different ones by one name.

    Attributes:
        count: How many bins, at least 1.
        bins: `equal_width`: the same share of [0, 1] each; `equal_mass`: the same number of items each.
        of: `top_label`: the confidence in the answer, against its being right; `classwise`: the probability of each
            class, against its being the right one, averaged over classes.
        norm: `l1`: mean gap between confidence and accuracy, weighted by items (the ECE of Guo et al. 2017); `l2`: root
            of the mean squared gap; `max`: the largest.
        debiased: Take off what gaps of bins come to by chance alone, which makes the plain error of a perfectly calibrated
            system grow with the number of bins. For `l1` and `l2`; the result is at least 0.

    Raises:
        InputError: A word is none of these, there are no bins, or the largest gap is to be debiased.
    """

    count: int = 15
    bins: Bins = "equal_width"
    of: Of = "top_label"
    norm: Norm = "l1"
    debiased: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"calibration needs at least 1 bin, got {self.count}")
        for name, kind in (("bins", Bins), ("of", Of), ("norm", Norm)):
            if getattr(self, name) not in get_args(kind):
                word = getattr(self, name)
                raise InputError(f"calibration: {name} cannot be '{word}'", did_you_mean(word, get_args(kind)))
        if self.debiased and self.norm == "max":
            raise InputError("calibration: the largest gap cannot be debiased", "Use the norm l1 or l2.")

    def __str__(self) -> str:
        words = f"{self.count} {self.bins.replace('_', '-')} bins"
        return f"{words}, {self.of.replace('_', ' ')}, {self.norm}{', debiased' if self.debiased else ''}"


#: What tables show.
DEFAULT = Convention()


@dataclass(frozen=True)
class Bin:
    """One line of a reliability table.

    Attributes:
        low: Confidences above this,
        high: up to this.
        items: How many there are.
        confidence: Their mean confidence; NaN without items.
        accuracy: The share of them that is right; NaN without items.
    """

    low: float
    high: float
    items: int
    confidence: float
    accuracy: float


def reliability(confidences: np.ndarray, right: np.ndarray, convention: Convention = DEFAULT) -> list[Bin]:
    """Confidence against accuracy, bin by bin; the first bin holds 0 too.

    Args:
        confidences: In [0, 1], (n,).
        right: Whether the answers are right, (n,).
        convention: `count` and `bins` of it. Items with equal confidences are never torn apart, so that bins of equal
            mass may have less equal ones.

    Raises:
        InputError: There are no items, or a confidence is missing or out of range.
    """
    confidences, right = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    if not confidences.size:
        raise InputError("calibration needs items, got none")
    if not (confidences.min() >= 0 and confidences.max() <= 1):
        wrong = np.flatnonzero(~((confidences >= 0) & (confidences <= 1)))
        raise InputError(f"confidences must be in [0, 1], got {confidences[wrong[0]]} for item {wrong[0]}")
    edges, place = bin_places(confidences, convention)
    count = len(edges) - 1
    items = np.bincount(place, minlength=count)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, confidences, count) / items
        share = np.bincount(place, right, count) / items
    return [
        Bin(float(edges[i]), float(edges[i + 1]), int(items[i]), float(mean[i]), float(share[i])) for i in range(count)
    ]


def bin_places(confidences: np.ndarray, convention: Convention) -> tuple[np.ndarray, np.ndarray]:
    """The edges of the bins (b + 1,), and the bin of each confidence (n,)."""
    edges = bin_edges(confidences, convention.count, convention.bins)
    if convention.bins == "equal_width":
        return edges, even_places(confidences, edges)
    return edges, np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, len(edges) - 2)


def even_places(confidences: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The same for bins of equal width, of any shape: the place is computed, and moved where rounding put it beside."""
    last = len(edges) - 2
    place = np.ceil(confidences * (last + 1)).astype(np.intp)
    place -= 1
    np.clip(place, 0, last, out=place)
    place -= (confidences <= edges[place]) & (place > 0)
    place += (confidences > edges[place + 1]) & (place < last)
    return place


def calibration_error(probabilities: np.ndarray, targets: np.ndarray, convention: Convention = DEFAULT) -> float:
    """How far confidence and accuracy lie apart.

    Args:
        probabilities: Of the classes, (n, C).
        targets: Indices of the right ones, (n,).
        convention: Which error.

    Differs:
        1. The debiased l1 error takes the mean of a folded normal distribution for the expected gap of a bin, in closed
           form, where Kumar et al.'s code draws 1000 times.
        2. A debiased error below 0 is given as 0.

    Source:
        Guo et al. 2017, arXiv:1706.04599, for the top label; Kull et al. 2019, arXiv:1910.12656, for classes; Kumar et
        al. 2019, arXiv:1909.10155, for l2 and for debiasing.
    """
    probabilities, targets = np.asarray(probabilities), np.asarray(targets)
    if convention.of == "top_label":
        return top_label_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets, convention)
    classes = range(probabilities.shape[1])
    return float(np.mean([top_label_error(probabilities[:, c], targets == c, convention) for c in classes]))


def top_label_error(confidences: np.ndarray, right: np.ndarray, convention: Convention = DEFAULT) -> float:
    """The same from confidences (n,) and whether the answers are right (n,)."""
    return error_of_table(reliability(confidences, right, convention), convention)


def error_of_table(table: Sequence[Bin], convention: Convention) -> float:
    """The same from a reliability table."""
    table = [line for line in table if line.items]
    gaps = np.array([abs(line.confidence - line.accuracy) for line in table])
    items = np.array([line.items for line in table])
    shares = items / items.sum()
    if convention.norm == "max":
        return float(gaps.max())
    chance = np.zeros_like(gaps)
    if convention.debiased:
        chance = _by_chance(gaps, np.array([line.accuracy for line in table]), items, convention.norm)
    if convention.norm == "l1":
        return float(max((shares * (gaps - chance)).sum(), 0.0))
    return float(np.sqrt(max((shares * (gaps**2 - chance)).sum(), 0.0)))


def _by_chance(gaps: np.ndarray, accuracies: np.ndarray, items: np.ndarray, norm: Norm) -> np.ndarray:
    """By how much sampling the labels anew raises each bin's gap (l1) or squared gap (l2) on average.

    A bin of one item says nothing of its variance; its gap is taken as it is.
    """
    variance = accuracies * (1 - accuracies)
    if norm == "l2":
        return variance / np.maximum(items - 1, 1)
    spread = np.sqrt(variance / items)
    certain = spread == 0
    ratio = gaps / np.where(certain, 1, spread)
    normal = np.array([math.erf(r / math.sqrt(2)) for r in ratio])
    folded = spread * math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2) + gaps * normal
    return np.where(certain, 0.0, folded - gaps)


def classwise_error(blocks: Iterable[tuple[np.ndarray, np.ndarray]], convention: Convention) -> float:
    """`calibration_error` of the convention `classwise` with bins of equal width, from blocks: one pass, and no copy.

    Args:
        blocks: Probabilities (n, C), float64, in [0, 1], with class indices (n,).
        convention: `count` and `norm` of it, and `debiased`.
    """
    edges = np.linspace(0, 1, convention.count + 1)
    count, sums = convention.count, np.empty(0)
    for probabilities, targets in blocks:
        classes = probabilities.shape[1]
        place = even_places(probabilities, edges)
        place += np.arange(classes) * count
        right = place[np.arange(len(targets)), targets]
        found = np.stack(
            [
                np.bincount(place.reshape(-1), minlength=classes * count),
                np.bincount(place.reshape(-1), probabilities.reshape(-1), classes * count),
                np.bincount(right, minlength=classes * count),
            ]
        )
        sums = sums + found if sums.size else found
    with np.errstate(invalid="ignore"):
        items, mean, rate = sums[0], sums[1] / sums[0], sums[2] / sums[0]
    table = [
        Bin(float(edges[i % count]), float(edges[i % count + 1]), int(items[i]), float(mean[i]), float(rate[i]))
        for i in range(len(items))
    ]
    return float(np.mean([error_of_table(table[i : i + count], convention) for i in range(0, len(table), count)]))
