"""Distributions over labels from variants of one prompt: combined, and calibrated."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.tensors import Array

Rule = Literal["majority", "mean_prob", "max_prob"]


def label_probabilities(scores: Array) -> Array:
    """Softmax over labels, in float64.

    Args:
        scores: Log-probabilities or logits, shape (.., C).

    Raises:
        InputError: One is not finite, or there are fewer than two labels.
    """
    z = np.asarray(scores, dtype=np.float64)
    if z.ndim < 1 or z.shape[-1] < 2:
        raise InputError(f"labels must be two or more, got scores of shape {z.shape}")
    if not np.isfinite(z).all():
        raise InputError("scores of labels must be finite")
    shifted = np.exp(z - z.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def combine_variants(probabilities: Array, rule: Rule = "max_prob", min_votes: int = 1) -> tuple[Array, Array]:
    """One distribution for each item from those of K variants.

    `mean_prob` averages them; `max_prob` takes each label's largest probability, and divides by their sum; `majority` takes the
    label with the largest sum of confidences over the variants that choose it, and the mean distribution of these variants.

    Args:
        probabilities: Shape (K, N, C), in the same order of items for each variant; each row sums to 1.
        rule: How.
        min_votes: With `majority`: variants that must choose the label, in [1, K]; an item with fewer has label -1.

    Returns:
        Distributions of shape (N, C), float64, and labels of shape (N,).

    Raises:
        InputError: Shapes are others, a row does not sum to 1, or there is no such rule.

    Example:
        >>> combine_variants(np.array([[[0.6, 0.4]], [[0.2, 0.8]]]), "mean_prob")[0].round(6).tolist()
        [[0.4, 0.6]]

    Source:
        Li et al. 2023, arXiv:2312.13772, section 3.

    Differs:
        1. Labels are compared by position; the authors' code compares texts loosely, so that "positive" is "very positive".
        2. `min_votes` leaves an item without a label; the authors leave it out.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 3 or p.shape[0] < 1 or p.shape[2] < 2:
        raise InputError(f"probabilities must be of shape (variants, items, labels), got {p.shape}")
    if not (np.isfinite(p).all() and (p >= 0).all() and np.allclose(p.sum(axis=2), 1, atol=1e-6)):
        raise InputError("each variant's probabilities must be at least 0 and sum to 1")
    if rule not in get_args(Rule):
        raise InputError(f"there is no rule '{rule}'", did_you_mean(rule, get_args(Rule)))
    if not 1 <= min_votes <= len(p):
        raise InputError(f"min_votes must be in [1, {len(p)}], got {min_votes}")
    if len(p) == 1:
        return p[0], p[0].argmax(axis=1)
    if rule == "mean_prob":
        made = p.mean(axis=0)
    elif rule == "max_prob":
        made = p.max(axis=0)
        made = made / made.sum(axis=1, keepdims=True)
    else:
        return _majority(p, min_votes)
    return made, made.argmax(axis=1)


def _majority(p: Array, min_votes: int) -> tuple[Array, Array]:
    chosen = p.argmax(axis=2)
    votes = np.eye(p.shape[2])[chosen]  # (K, N, C)
    labels = (votes * p.max(axis=2)[:, :, None]).sum(axis=0).argmax(axis=1)
    agrees = chosen == labels[None, :]
    made = (p * agrees[:, :, None]).sum(axis=0) / agrees.sum(axis=0)[:, None]
    return made, np.where(agrees.sum(axis=0) >= min_votes, labels, -1)


def batch_calibrated(scores: Array) -> Array:
    """Probabilities after each label's scores were standardised over the items, which takes out what a prompt prefers.

    Args:
        scores: Log-probabilities or logits of unlabelled items, shape (N, C), N >= 2.

    Returns:
        Shape (N, C), float64. A label whose score never changes keeps a score of 0.

    Raises:
        InputError: There are fewer than two items or labels, or a score is not finite.

    Source:
        The baseline of Li et al. 2023, arXiv:2312.13772.
    """
    z = np.asarray(scores, dtype=np.float64)
    if z.ndim != 2 or len(z) < 2:
        raise InputError(f"calibration over a batch needs two items or more, got scores of shape {z.shape}")
    centred = z - z.mean(axis=0)
    spread = z.std(axis=0)
    return label_probabilities(np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0))
