"""Telling what one knows from what one does not: confidence scores, and how well they separate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.predictions.measures._inputs import blocks, checked_numbers


def _msp(logits: np.ndarray) -> np.ndarray:
    """The largest probability, 1 / sum of exp(z - max z)."""
    return 1 / np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1)


def _entropy(logits: np.ndarray) -> np.ndarray:
    """Minus the entropy in nats; with shifted logits it is the mean of z less log sum exp z, with no log of 0."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(axis=-1)
    weighted = np.where(powers > 0, powers * np.where(powers > 0, shifted, 0), 0)
    return weighted.sum(axis=-1) / total - np.log(total)


def _max_logit(logits: np.ndarray) -> np.ndarray:
    return logits.max(axis=-1)


def _energy(logits: np.ndarray) -> np.ndarray:
    most = logits.max(axis=-1)
    return most + np.log(np.exp(logits - most[..., None]).sum(axis=-1))


def _margin(logits: np.ndarray) -> np.ndarray:
    """The difference of the two largest probabilities."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    two = np.partition(powers, -2, axis=-1)[..., -2:]
    return (two[..., 1] - two[..., 0]) / powers.sum(axis=-1)


#: Scores of logits (..., C) by name; each is larger the surer the answer is.
CONFIDENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "msp": _msp,
    "entropy": _entropy,
    "max_logit": _max_logit,
    "energy": _energy,
    "margin": _margin,
}
#: Those that a constant added to all logits of a sample changes: log-probabilities do for logits with the others only.
NEED_LOGITS = ("max_logit", "energy")


def confidence(logits: Any, score: str = "msp") -> np.ndarray:
    """How sure an answer is, larger is surer: float64 of the shape without classes.

    Args:
        logits: (..., N, C), finite. Log-probabilities do for `msp`, `entropy` and `margin`.
        score: `msp`: the largest probability; `entropy`: minus the entropy in nats; `max_logit`: the largest logit;
            `energy`: log of the sum of exponentials; `margin`: the two largest probabilities' difference.

    Raises:
        InputError: There is no such score, or a logit is NaN or plus infinity.

    Source:
        Hendrycks and Gimpel 2017, arXiv:1610.02136 (msp); Liu et al. 2020, arXiv:2010.03759 (energy); Hendrycks et al.
        2022, arXiv:1911.11132 (max_logit).
    """
    if score not in CONFIDENCES:
        raise InputError(f"there is no confidence score '{score}'", did_you_mean(score, CONFIDENCES))
    array = np.asarray(logits)
    if array.ndim < 2 or array.shape[-1] < 2:
        raise InputError(f"logits must have the shape (N, C) with at least 2 classes, got {array.shape}")
    found = np.empty(array.shape[:-1])
    flat, out = array.reshape(-1, array.shape[-1]), found.reshape(-1)
    for rows in blocks(flat.shape):
        block = np.asarray(flat[rows], dtype=np.float64)
        most = block.max(axis=-1)
        if not np.isfinite(most).all():
            wrong = rows.start + int(np.flatnonzero(~np.isfinite(most))[0])
            raise InputError(f"logits must be finite, those of sample {wrong % array.shape[-2]} are not")
        out[rows] = CONFIDENCES[score](block)
    return found


def auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """The chance that a positive scores above a negative, ties counting half: in [0, 1], 0.5 for no separation.

    Args:
        positives: Confidences of what should score high: in-distribution samples, or right answers, (n,).
        negatives: Of what should score low, (m,).

    Raises:
        InputError: A side is empty, or a score is not finite.

    Example:
        >>> import numpy as np
        >>> from modelwright.predictions.measures import auroc
        >>> auroc(np.array([0.9, 0.8]), np.array([0.8, 0.1]))
        0.875
    """
    positives, negatives = checked_numbers(positives, "positives"), checked_numbers(negatives, "negatives")
    ordered = np.sort(negatives)
    positives = np.sort(positives)  # neighbours search in the same places, which is several times faster
    below = np.searchsorted(ordered, positives, side="left").sum(dtype=np.int64)
    up_to = np.searchsorted(ordered, positives, side="right").sum(dtype=np.int64)
    return float(int(below) + int(up_to)) / (2 * len(positives) * len(negatives))


def threshold_at_tpr(positives: np.ndarray, tpr: float = 0.95) -> float:
    """The largest threshold at or above which a share of at least `tpr` of the positives lies.

    Raises:
        InputError: There are no positives, one is not finite, or `tpr` is not in (0, 1].
    """
    positives = checked_numbers(positives, "positives")
    if not 0 < tpr <= 1:
        raise InputError(f"tpr must be in (0, 1], got {tpr}", "It is a share; for 95 % write 0.95.")
    kept = min(max(int(np.ceil(tpr * len(positives) - 1e-9)), 1), len(positives))
    return float(np.partition(positives, len(positives) - kept)[len(positives) - kept])


def fpr_at_tpr(positives: np.ndarray, negatives: np.ndarray, tpr: float = 0.95) -> float:
    """The share of negatives that is accepted where `tpr` of the positives are: FPR95 at its default. Lower is better.

    Args:
        positives: Confidences of in-distribution samples, (n,).
        negatives: Of out-of-distribution samples, (m,).
        tpr: Share of positives to accept, in (0, 1].

    Raises:
        InputError: As in `auroc`, or `tpr` is no such share.
    """
    return float(np.mean(checked_numbers(negatives, "negatives") >= threshold_at_tpr(positives, tpr)))
