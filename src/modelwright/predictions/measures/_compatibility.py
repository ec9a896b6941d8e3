"""What an update breaks and mends: flips between an old and a new system."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.errors import InputError, listing


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


@dataclass(frozen=True)
class Compatibility:
    """How a new system's answers fit an old one's; shares of all samples unless said otherwise.

    Attributes:
        samples: How many there are.
        old_accuracy: Share the old system has right.
        new_accuracy: Share the new one has right.
        negative_flips: Old right, new wrong (NFR).
        positive_flips: Old wrong, new right (PFR).
        inconsistency: New wrong, and not as the old one was (NFR_mc): negative flips, and changes from one wrong answer
            to another.
        trust: Of what the old one has right, the share that stays right (backward trust compatibility); NaN where that is
            nothing.
    """

    samples: int
    old_accuracy: float
    new_accuracy: float
    negative_flips: float
    positive_flips: float
    inconsistency: float
    trust: float


def compatibility(
    old: Any,
    new: Any,
    targets: Any,
    *,
    ids: Sequence[Hashable] | None = None,
    new_ids: Sequence[Hashable] | None = None,
) -> Compatibility:
    """What an update breaks and mends, where answers are right or wrong.

    Always `positive_flips - negative_flips == new_accuracy - old_accuracy`, and negative flips are at least the loss of
    accuracy: a low rate says little without the accuracies beside it.

    Args:
        old: Answers of the old system, (N,): classes, or texts.
        new: Answers of the new one.
        targets: The right answers, in the old system's order.
        ids: What the samples are called, in the old system's order.
        new_ids: The same in the new system's order, which may be another; they are joined by them.

    Raises:
        InputError: Lengths differ, ids are not unique, or a sample is missing on one side.

    Example:
        >>> from modelwright.predictions.measures import compatibility
        >>> found = compatibility(list("ABCA"), list("ACDB"), list("ABAB"))
        >>> found.negative_flips, found.positive_flips, found.inconsistency, found.trust
        (0.25, 0.25, 0.5, 0.5)

    Source:
        MUSCLE, arXiv:2407.09435; negative flips: Yan et al. 2021, arXiv:2011.09161; trust: Srivastava et al. 2020,
        arXiv:2008.04572.
    """
    old, targets = np.asarray(old), np.asarray(targets)
    new = _joined(np.asarray(new), ids, new_ids)
    _same_length(old, new, targets)
    was, now = old == targets, new == targets
    kept = int(was.sum())
    return Compatibility(
        samples=len(old),
        old_accuracy=float(was.mean()),
        new_accuracy=float(now.mean()),
        negative_flips=float((was & ~now).mean()),
        positive_flips=float((~was & now).mean()),
        inconsistency=float((~now & (new != old)).mean()),
        trust=float((was & now).sum() / kept) if kept else float("nan"),
    )


@dataclass(frozen=True)
class GradedCompatibility:
    """How a new system's answers fit an old one's, where answers are more or less good.

    Attributes:
        samples: How many there are.
        old_score: Mean score of the old system.
        new_score: Mean score of the new one.
        losses: Share of samples whose score falls (NFR).
        gains: Share whose score rises (PFR).
        mean_loss: By how much scores fall, where they do; NaN where none does.
        mean_gain: By how much scores rise, where they do; NaN where none does.
    """

    samples: int
    old_score: float
    new_score: float
    losses: float
    gains: float
    mean_loss: float
    mean_gain: float


def graded_compatibility(
    old: Any,
    new: Any,
    *,
    tolerance: float = 0.0,
    ids: Sequence[Hashable] | None = None,
    new_ids: Sequence[Hashable] | None = None,
) -> GradedCompatibility:
    """What an update breaks and mends, where each answer has a score such as ROUGE-1.

    Args:
        old: Scores of the old system, the higher the better, (N,).
        new: Scores of the new one.
        tolerance: Changes of at most this much are none, at least 0.
        ids: What the samples are called, in the old system's order.
        new_ids: The same in the new system's order; they are joined by them.

    Raises:
        InputError: As in `compatibility`; or a score is not finite, or the tolerance negative.

    Source:
        MUSCLE, arXiv:2407.09435.
    """
    old, new = np.asarray(old, np.float64), _joined(np.asarray(new, np.float64), ids, new_ids)
    _same_length(old, new, old)
    if not np.isfinite([old, new]).all():
        raise InputError("scores must be finite")
    if not tolerance >= 0:
        raise InputError(f"tolerance must be at least 0, got {tolerance}")
    change = new - old
    up, down = change[change > tolerance], -change[change < -tolerance]
    return GradedCompatibility(
        samples=len(old),
        old_score=float(old.mean()),
        new_score=float(new.mean()),
        losses=len(down) / len(old),
        gains=len(up) / len(old),
        mean_loss=float(down.mean()) if down.size else float("nan"),
        mean_gain=float(up.mean()) if up.size else float("nan"),
    )


def expected_flips(old_accuracy: float, new_accuracy: float, correlation: float = 0.0) -> float:
    """The negative flip rate of two systems whose hits have this correlation: a1 (1 - a2) - rho sqrt(a1(1-a1) a2(1-a2)).

    Args:
        old_accuracy: In [0, 1].
        new_accuracy: In [0, 1].
        correlation: Of being right, in [-1, 1]; 0 for systems that fail independently.

    Raises:
        InputError: A number is out of its range, or no two systems with these accuracies have that correlation.
    """
    a, b = old_accuracy, new_accuracy
    if not (0 <= a <= 1 and 0 <= b <= 1 and -1 <= correlation <= 1):
        raise InputError(f"accuracies must be in [0, 1] and the correlation in [-1, 1], got {a}, {b} and {correlation}")
    rate = a * (1 - b) - correlation * float(np.sqrt(a * (1 - a) * b * (1 - b)))
    if not max(0.0, a - b) - 1e-12 <= rate <= min(a, 1 - b) + 1e-12:
        raise InputError(f"accuracies of {a} and {b} cannot have the correlation {correlation}")
    return rate


def _joined(new: np.ndarray, ids: Sequence[Hashable] | None, new_ids: Sequence[Hashable] | None) -> np.ndarray:
    """The new system's values in the old one's order."""
    if ids is None and new_ids is None:
        return new
    if ids is None or new_ids is None:
        raise InputError("ids of one side say nothing", "Give both, or none where the order is the same.")
    place = {name: i for i, name in enumerate(new_ids)}
    if len(place) < len(new_ids) or len(set(ids)) < len(ids):
        raise InputError("ids must be unique: some samples have the same")
    if len(new_ids) != len(new):
        raise InputError(f"there are {len(new_ids):,} ids for {len(new):,} samples")
    missing = [name for name in ids if name not in place]
    more = set(place) - set(ids)
    if missing or more:
        some = listing(sorted(map(str, missing or more)), 3)
        side = "new" if missing else "old"
        raise InputError(f"both systems must have answered the same samples; the {side} one lacks {some}")
    return new[[place[name] for name in ids]]


def _same_length(old: np.ndarray, new: np.ndarray, targets: np.ndarray) -> None:
    if not (old.shape == new.shape == targets.shape and old.ndim == 1 and old.size):
        raise InputError(
            f"old, new and targets must have one value a sample, (N,), got {old.shape}, {new.shape} and {targets.shape}"
        )
