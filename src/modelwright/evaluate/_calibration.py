"""Whether confidence can be believed, and what a new system gets wrong that the old one had right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate._metrics import METRICS
from modelwright.evaluate._records import Part

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

    Raises:
        InputError: A word is none of these, or there are no bins.
    """

    count: int = 15
    bins: Bins = "equal_width"
    of: Of = "top_label"
    norm: Norm = "l1"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"calibration needs at least 1 bin, got {self.count}")
        for name, kind in (("bins", Bins), ("of", Of), ("norm", Norm)):
            if getattr(self, name) not in get_args(kind):
                word = getattr(self, name)
                raise InputError(f"calibration: {name} cannot be '{word}'", did_you_mean(word, get_args(kind)))

    def __str__(self) -> str:
        words = f"{self.count} {self.bins.replace('_', '-')} bins"
        return f"{words}, {self.of.replace('_', ' ')}, {self.norm}"


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
    wrong = np.flatnonzero(~((confidences >= 0) & (confidences <= 1)))
    if wrong.size:
        raise InputError(f"confidences must be in [0, 1], got {confidences[wrong[0]]} for item {wrong[0]}")
    edges = _edges(confidences, convention)
    place = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, len(edges) - 2)
    count = len(edges) - 1
    items = np.bincount(place, minlength=count)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, confidences, count) / items
        share = np.bincount(place, right, count) / items
    return [
        Bin(float(edges[i]), float(edges[i + 1]), int(items[i]), float(mean[i]), float(share[i])) for i in range(count)
    ]


def _edges(confidences: np.ndarray, convention: Convention) -> np.ndarray:
    if convention.bins == "equal_width":
        return np.linspace(0, 1, convention.count + 1)
    inner = np.quantile(confidences, np.arange(1, convention.count) / convention.count, method="inverted_cdf")
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def calibration_error(probabilities: np.ndarray, targets: np.ndarray, convention: Convention = DEFAULT) -> float:
    """How far confidence and accuracy lie apart.

    Args:
        probabilities: Of the classes, (n, C).
        targets: Indices of the right ones, (n,).
        convention: Which error.

    Source:
        Guo et al. 2017, arXiv:1706.04599, for the top label; Kull et al. 2019, arXiv:1910.12656, for classes; Kumar et
        al. 2019, arXiv:1909.10155, for l2.
    """
    probabilities, targets = np.asarray(probabilities, np.float64), np.asarray(targets)
    if convention.of == "top_label":
        return top_label_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets, convention)
    classes = range(probabilities.shape[1])
    return float(np.mean([top_label_error(probabilities[:, c], targets == c, convention) for c in classes]))


def top_label_error(confidences: np.ndarray, right: np.ndarray, convention: Convention = DEFAULT) -> float:
    """The same from confidences (n,) and whether the answers are right (n,)."""
    table = [line for line in reliability(confidences, right, convention) if line.items]
    gaps = np.array([abs(line.confidence - line.accuracy) for line in table])
    shares = np.array([line.items for line in table]) / sum(line.items for line in table)
    if convention.norm == "max":
        return float(gaps.max())
    return float((shares * gaps).sum()) if convention.norm == "l1" else float(np.sqrt((shares * gaps**2).sum()))


@dataclass(frozen=True)
class Calibration:
    """How well a system knows what it knows.

    Attributes:
        error: The calibration error, by the convention.
        brier: Brier score, summed over classes, in [0, 2]; None without probabilities of all classes.
        nll: Negative log-likelihood in nats; None likewise.
        convention: Which error.
    """

    error: float
    brier: float | None
    nll: float | None
    convention: Convention = DEFAULT


def calibration(part: Part, convention: Convention = DEFAULT) -> Calibration:
    """The calibration of one system's records on a task.

    Raises:
        InputError: They have no confidences, or no classes where the convention needs them.
    """
    head = part.head
    judged = part.metric.asks == "texts"  # where several answers may be right, the score tells
    right = part.column("score") == 1 if judged else part.column("answer") == part.column("target")
    confidences = part.column("confidence").astype(np.float64)
    if np.isnan(confidences).any():
        missing = int(np.isnan(confidences).sum())
        raise InputError(
            f"'{head.system}' has no confidence for {missing:,} of {len(confidences):,} items, which calibration needs",
            "Systems that give probabilities have one.",
            f"task {head.task}",
        )
    probabilities = part.probabilities
    if probabilities is None or not head.classes:
        if convention.of == "classwise":
            raise InputError(
                f"'{head.system}' has no probabilities of classes, which a classwise error needs",
                "Use the top label.",
                f"task {head.task}",
            )
        return Calibration(top_label_error(confidences, right, convention), None, None, convention)
    targets = class_indices(part)
    error = (
        top_label_error(confidences, right, convention)
        if convention.of == "top_label"
        else calibration_error(probabilities, targets, convention)
    )
    brier = METRICS["brier"].of_probabilities(probabilities, targets).mean()
    nll = METRICS["log_loss"].of_probabilities(probabilities, targets).mean()
    return Calibration(error, float(brier), float(nll), convention)


def class_indices(part: Part) -> np.ndarray:
    """The targets as indices of the classes, (n,).

    Raises:
        InputError: A target is no class.
    """
    place = {name: i for i, name in enumerate(part.head.classes)}
    targets = part.column("target").tolist()
    unknown = [target for target in targets if target not in place]
    if unknown:
        raise InputError(
            f"the target '{unknown[0]}' is none of the classes of these records",
            "Evaluate again.",
            f"task {part.head.task}, system {part.head.system}",
        )
    return np.array([place[target] for target in targets], dtype=np.intp)


@dataclass(frozen=True)
class Flips:
    """What a new system gets wrong that the old one had right.

    Attributes:
        count: How many items.
        items: Of how many.
        right: How many the old one had right.
        names: Their ids.
    """

    count: int
    items: int
    right: int
    names: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Their share of all items: the negative flip rate of Yan et al. 2021, arXiv:2011.09161."""
        return self.count / self.items

    @property
    def rate_of_right(self) -> float:
        """Their share of what the old system had right; 0 where that was nothing."""
        return self.count / self.right if self.right else 0.0


def negative_flips(old: np.ndarray, new: np.ndarray, ids: Sequence[str] = ()) -> Flips:
    """The items that the old system had right and the new one has wrong.

    Args:
        old: Scores of the old system, 0 or 1, (n,).
        new: Those of the new one on the same items.
        ids: Names of the items.

    Raises:
        InputError: A score is neither 0 nor 1: without right and wrong there are no flips.
    """
    old, new = np.asarray(old), np.asarray(new)
    if not (np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all()):
        raise InputError("negative flips need scores of 0 and 1", "Use a metric such as accuracy.")
    flipped = (old == 1) & (new == 0)
    names = tuple(ids[i] for i in np.flatnonzero(flipped).tolist()) if len(ids) else ()
    return Flips(int(flipped.sum()), len(old), int(old.sum()), names)
