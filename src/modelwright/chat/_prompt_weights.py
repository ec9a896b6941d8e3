"""Weights for prompts without labels (ZPE), and for anything else that has scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.tensors import Array

Debias = Literal["none", "test", "pretrain", "pretrain_star", "both"]
Weighting = Literal["softmax", "linear", "power", "equal"]


# --- scores -> weights ---------------------------------------------------------------------------------------------------


def _softmax(scores: Array, temperature: float) -> Array:
    powers = np.exp((scores - scores.max(axis=-1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def _shares(scores: Array) -> Array:
    if (scores < 0).any():
        raise InputError(f"linear and power weights need scores of at least 0, got {scores.min():.4g}", "Use softmax.")
    total = scores.sum(axis=-1, keepdims=True)
    return np.where(total > 0, scores / np.where(total > 0, total, 1.0), 1.0 / scores.shape[-1])


_WEIGHTINGS: Mapping[str, Callable[[Array, float, float], Array]] = {
    "softmax": lambda scores, temperature, _power: _softmax(scores, temperature),
    "linear": lambda scores, _temperature, _power: _shares(scores),
    "power": lambda scores, _temperature, power: _shares(_shares(scores) ** power),
    "equal": lambda scores, _temperature, _power: np.full(scores.shape, 1.0 / scores.shape[-1]),
}


def weights_of(
    scores: Array | Sequence[float],
    weighting: Weighting = "softmax",
    *,
    temperature: float = 1.0,
    power: float = 10.0,
    threshold: float | None = None,
) -> Array:
    """Weights of members from their scores.

    Args:
        scores: Finite, of members along the last axis, (..., members).
        weighting: `softmax` of the scores; `linear`: their shares; `power`: the shares of their powers; `equal`.
        temperature: Of the softmax, above 0.
        power: Of `power`, above 0.
        threshold: Keep only members whose scores lie above the median by more than so many MADs (`outliers`), the others
            get 0; None keeps all. For one row of scores.

    Returns:
        float64, as the scores; at least 0, sums to 1 along the last axis.

    Raises:
        InputError: A number is out of its range, there are no members, or the threshold keeps none.

    Example:
        >>> weights_of([1.0, 1.0]).tolist()
        [0.5, 0.5]
    """
    found = np.asarray(scores, dtype=np.float64)
    if not found.size or not np.isfinite(found).all():
        raise InputError("weights need scores, each a finite number", f"Got {np.asarray(scores).shape} of them.")
    if weighting not in get_args(Weighting):
        raise InputError(f"weighting cannot be '{weighting}'", did_you_mean(weighting, get_args(Weighting)))
    for name, value in (("temperature", temperature), ("power", power)):
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be above 0, got {value}")
    if threshold is None:
        return _WEIGHTINGS[weighting](found, temperature, power)
    kept = outliers(found, threshold)
    weights = np.zeros_like(found)
    weights[kept] = _WEIGHTINGS[weighting](found[kept], temperature, power)
    return weights


def outliers(scores: Array | Sequence[float], threshold: float) -> Array:
    """Positions of scores that lie above the median by more than `threshold` times the median absolute deviation.

    Args:
        scores: (members,).
        threshold: At least 0; 0.5 and 2.0 are the paper's, for ImageNet and for fine-grained tasks. The deviation has no
            factor that would make it a standard deviation.

    Raises:
        InputError: None lies above it, the deviation is 0, or the threshold is negative.
    """
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 1 or threshold < 0:
        raise InputError(f"a threshold of at least 0 is for one row of scores, got {threshold:g} for {found.shape}")
    median = np.median(found)
    deviation = np.median(np.abs(found - median))
    if not deviation:
        raise InputError(
            "more than half of the scores are equal, so that none can stand out", "Leave the threshold out."
        )
    kept = np.flatnonzero((found - median) / deviation > threshold)
    if not kept.size:
        raise InputError(f"no score lies above the median by {threshold:g} deviations", "Lower the threshold.")
    return kept


# --- ZPE -----------------------------------------------------------------------------------------------------------------


def embedding_logits(images: Array, texts: Array, scale: float) -> Array:
    """Logits of images for classes under each prompt, from embeddings of any CLIP-like model.

    Args:
        images: (n, d); normalised here.
        texts: Of prompts and classes, (prompts, classes, d); normalised here.
        scale: What cosines are multiplied by: exp(logit_scale), about 100 for CLIP. It decides how selective weights are.

    Returns:
        float64 (n, prompts, classes).

    Raises:
        InputError: Shapes do not fit, a row is 0, or the scale is not above 0.
    """
    images, texts = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    if images.ndim != 2 or texts.ndim != 3 or images.shape[1] != texts.shape[2]:
        raise InputError(f"embeddings must be (n, d) and (prompts, classes, d), got {images.shape} and {texts.shape}")
    if not 0 < scale < math.inf:
        raise InputError(f"scale must be above 0, got {scale}", "For CLIP it is about 100.")
    return scale * np.einsum("nd,pcd->npc", _unit(images, "images"), _unit(texts, "texts"))


def _unit(rows: Array, what: str) -> Array:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise InputError(f"embeddings of {what} must be finite and not 0")
    return rows / lengths


def prompt_scores(
    logits: Array,
    reference: Array | None = None,
    *,
    debias: Debias = "both",
    per_example: bool = False,
    test_fraction: float = 1.0,
) -> Array:
    """How well each prompt fits unlabelled inputs: the largest logit of a class, less what is to be expected of that logit.

    score[p] = mean over n of max over c of (logits[n, p, c] - expected[p, c]). Without the subtraction, prompts win that give
    high logits to everything.

    Args:
        logits: Of the inputs that are to be classified, or others like them, (n, prompts, classes); no labels.
        reference: Of inputs of all kinds, (n', prompts, classes), which `pretrain`, `pretrain_star` and `both` need.
        debias: What is expected: `test`: the mean over these inputs; `pretrain`: over the reference; `both`: the mean of the
            two; `pretrain_star`: over the reference and all classes; `none`: nothing.
        per_example: Scores for each input, (n, prompts), instead of their mean.
        test_fraction: The share of the inputs, from the first, that the mean over them is taken of, in (0, 1].

    Returns:
        float64 (prompts,), or (n, prompts).

    Raises:
        InputError: Shapes do not fit, a logit is not finite, or the reference is missing.

    Differs:
        1. In the authors' notebook the weighted logits are averaged over prompts, which makes them P times smaller; what is
           made of weights here is a weighted mean.
        2. The expected value of a test set is that of the batch being classified, as in the paper; give other unlabelled
           inputs to score prompts without looking at it.

    Source:
        Allingham et al. 2023, arXiv:2302.06235.

    Example:
        >>> prompt_scores(np.array([[[1.0, 0.0], [5.0, 5.0]]]), debias="none").tolist()
        [1.0, 5.0]
    """
    found = _logits(logits, "logits")
    if debias not in get_args(Debias):
        raise InputError(f"debias cannot be '{debias}'", did_you_mean(debias, get_args(Debias)))
    if not 0 < test_fraction <= 1:
        raise InputError(f"test_fraction must be in (0, 1], got {test_fraction}")
    expected = np.zeros(found.shape[1:])
    if debias in ("test", "both"):
        expected = found[: max(1, math.ceil(test_fraction * len(found)))].mean(axis=0)
    if debias in ("pretrain", "pretrain_star", "both"):
        if reference is None:
            raise InputError(
                f"debias '{debias}' needs logits of reference inputs", "Give reference=, or debias='test'."
            )
        other = _logits(reference, "reference")
        if other.shape[1] != found.shape[1] or (debias != "pretrain_star" and other.shape[2] != found.shape[2]):
            raise InputError(f"reference must be (n', {found.shape[1]}, {found.shape[2]}), got {other.shape}")
        mean = other.mean(axis=(0, 2))[:, None] if debias == "pretrain_star" else other.mean(axis=0)
        expected = (expected + mean) / 2 if debias == "both" else np.broadcast_to(mean, expected.shape)
    scores = (found - expected).max(axis=2)
    return scores if per_example else scores.mean(axis=0)


def _logits(values: Array, what: str) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 3 or not found.size or not np.isfinite(found).all():
        raise InputError(f"{what} must be finite numbers (n, prompts, classes), got {found.shape}")
    return found


def weighted_logits(logits: Array, weights: Array) -> Array:
    """The ensemble's logits: the weighted mean of the original ones.

    Args:
        logits: (n, prompts, classes).
        weights: (prompts,), or (n, prompts); they sum to 1 over prompts.

    Returns:
        float64 (n, classes).
    """
    found, weights = _logits(logits, "logits"), np.asarray(weights, np.float64)
    if weights.shape not in (found.shape[1:2], found.shape[:2]) or not np.allclose(weights.sum(axis=-1), 1):
        raise InputError(f"weights must be ({found.shape[1]},) or {found.shape[:2]} and sum to 1, got {weights.shape}")
    return np.einsum("npc,np->nc" if weights.ndim == 2 else "npc,p->nc", found, weights)


def class_vectors(texts: Array, weights: Array) -> Array:
    """One vector for each class, whose dot products with normalised images are the weighted cosines; not normalised again.

    Args:
        texts: (prompts, classes, d); normalised here.
        weights: (prompts,).

    Returns:
        float64 (classes, d).
    """
    return np.einsum("pcd,p->cd", _unit(np.asarray(texts, np.float64), "texts"), np.asarray(weights, np.float64))


def choice_logits(predictor: Any, prompts: Sequence[str], questions: Sequence[str], choices: Sequence[str]) -> Array:
    """Logits of a language model for choices under each prompt: the log-likelihoods of the choices.

    Args:
        predictor: A system of `mw.eval` that gives likelihoods, such as `CausalPredictor`.
        prompts: Templates with `{question}` in each once; a choice follows after a space.
        questions: What is put in.
        choices: The same for all questions.

    Returns:
        float64 (questions, prompts, choices), for `prompt_scores` and `weighted_logits`.

    Raises:
        InputError: A prompt has no `{question}` in it once, or two prompts are the same.
    """
    for prompt in prompts:
        if prompt.count("{question}") != 1:
            raise InputError(f"a prompt must have {{question}} in it once, got {prompt!r}")
    if len(set(prompts)) != len(prompts):
        raise InputError("prompts must differ: one that is there twice has twice the weight", "Leave one out.")
    pairs = [(p.replace("{question}", q), f" {c}") for q in questions for p in prompts for c in choices]
    found = [likelihood.total for likelihood in predictor.loglikelihoods(pairs)]
    return np.array(found, dtype=np.float64).reshape(len(questions), len(prompts), len(choices))


@dataclass(frozen=True)
class Weighed:
    """What weights come to, beside what they have to beat.

    Attributes:
        weighted: Accuracy with the weights.
        uniform: With equal weights.
        best_single: Of the best member, chosen on these very labels: no choice of one can be better.
        mean_single: Mean of the members' own.
        chosen_single: Of the member with the largest weight, which needs no labels.
        weights: As they were.
    """

    weighted: float
    uniform: float
    best_single: float
    mean_single: float
    chosen_single: float
    weights: tuple[float, ...]


def weigh(logits: Array, weights: Array, labels: Array | Sequence[int]) -> Weighed:
    """Accuracy of a weighted ensemble beside the uniform one and its members.

    Args:
        logits: (n, members, classes).
        weights: (members,).
        labels: Indices of the right classes, (n,).

    Raises:
        InputError: Shapes do not fit.
    """
    found, labels = _logits(logits, "logits"), np.asarray(labels)
    if labels.shape != (len(found),):
        raise InputError(f"labels must be ({len(found)},), got {labels.shape}")
    weights = np.asarray(weights, np.float64)
    equal = np.full(found.shape[1], 1 / found.shape[1])
    each = (found.argmax(axis=2) == labels[:, None]).mean(axis=0)
    own, uniform = (float((weighted_logits(found, w).argmax(axis=1) == labels).mean()) for w in (weights, equal))
    return Weighed(
        own, uniform, float(each.max()), float(each.mean()), float(each[int(weights.argmax())]), tuple(weights.tolist())
    )
