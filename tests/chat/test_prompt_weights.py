"""Prompt weights: the synthetic case of the card, its invariants, closed forms and an oracle in plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from modelwright.chat import (
    choice_logits,
    class_vectors,
    embedding_logits,
    outliers,
    prompt_scores,
    weigh,
    weighted_logits,
    weights_of,
)
from modelwright.errors import InputError


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def made(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, reference logits and labels: 5 good prompts, then 15 that are biased towards a common direction."""
    rng = np.random.default_rng(seed)
    d, classes = 64, 5
    g, mu = unit(rng.normal(size=d)), unit(rng.normal(size=(classes, d)))
    labels = rng.integers(classes, size=n)

    def noise(scale: float, *shape: int) -> np.ndarray:
        return scale * rng.normal(size=(*shape, d)) / math.sqrt(d)

    images = unit(g + 0.6 * mu[labels] + noise(0.10 * math.sqrt(d), n))
    other = unit(g + 0.5 * unit(rng.normal(size=(n, d))) + noise(0.10 * math.sqrt(d), n))
    good = [unit(mu + 0.25 * g + noise(0.05 * math.sqrt(d), classes)) for _ in range(5)]
    biased = [
        unit(0.1 * mu + (0.8 + 0.15 * rng.normal(size=(classes, 1))) * g + noise(0.10 * math.sqrt(d), classes))
        for _ in range(15)
    ]
    texts = np.stack([*good, *biased])
    return embedding_logits(images, texts, 100.0), embedding_logits(other, texts, 100.0), labels


def test_the_card_s_synthetic_case() -> None:
    for seed in range(3):
        logits, reference, labels = made(seed)
        found = {
            debias: weigh(logits, weights_of(prompt_scores(logits, reference, debias=debias)), labels)
            for debias in ("none", "test", "both")
        }
        for debias in ("test", "both"):
            assert found[debias].weighted >= found[debias].uniform > found["none"].weighted
            assert sum(found[debias].weights[:5]) > 0.99
        assert sum(found["none"].weights[:5]) < 0.01


def test_scores_against_loops() -> None:
    rng = np.random.default_rng(1)
    logits, other = rng.normal(size=(7, 3, 4)), rng.normal(size=(9, 3, 4))
    for debias in ("none", "test", "pretrain", "pretrain_star", "both"):
        expected = []
        for p in range(3):
            per_image = []
            for n in range(7):
                values = []
                for c in range(4):
                    test = sum(logits[i, p, c] for i in range(4)) / 4  # ceil(0.5 * 7) of the images
                    pre = sum(other[i, p, c] for i in range(9)) / 9
                    star = sum(other[i, p, k] for i in range(9) for k in range(4)) / 36
                    off = {"none": 0, "test": test, "pretrain": pre, "pretrain_star": star, "both": (test + pre) / 2}[
                        debias
                    ]
                    values.append(logits[n, p, c] - off)
                per_image.append(max(values))
            expected.append(per_image)
        each = prompt_scores(logits, other, debias=debias, per_example=True, test_fraction=0.5)
        np.testing.assert_allclose(each, np.array(expected).T)
        np.testing.assert_allclose(prompt_scores(logits, other, debias=debias, test_fraction=0.5), each.mean(axis=0))


def test_invariants() -> None:
    rng = np.random.default_rng(2)
    logits, other = rng.normal(size=(20, 4, 3)), rng.normal(size=(20, 4, 3))
    scores = prompt_scores(logits, other)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(prompt_scores(logits[:, order], other[:, order]), scores[order])
    shift = np.array([5.0, 0, 0, -3.0])[:, None]
    np.testing.assert_allclose(prompt_scores(logits + shift, debias="test"), prompt_scores(logits, debias="test"))
    np.testing.assert_allclose(prompt_scores(logits + shift, other + shift), scores)
    same = weights_of(prompt_scores(logits[:, [0, 0, 1]], debias="test"))
    assert same[0] == same[1]
    one = weigh(logits[:, :1], weights_of(prompt_scores(logits[:, :1], debias="test")), np.zeros(20, int))
    assert one.weights == (1.0,)
    assert one.weighted == one.uniform == one.best_single == one.chosen_single


def test_weights_of_vectors_are_weights_of_logits() -> None:
    rng = np.random.default_rng(3)
    images, texts = rng.normal(size=(6, 8)), rng.normal(size=(4, 3, 8))
    logits = embedding_logits(images, texts, 50.0)
    weights = weights_of(rng.normal(size=4))
    np.testing.assert_allclose(50 * unit(images) @ class_vectors(texts, weights).T, weighted_logits(logits, weights))


def test_scores_to_weights() -> None:
    assert weights_of([2.0, 1.0])[0] == pytest.approx(1 / (1 + math.exp(-1)))
    assert weights_of([2.0, 1.0], temperature=0.5)[0] == pytest.approx(1 / (1 + math.exp(-2)))
    assert weights_of([3.0, 1.0], "linear").tolist() == [0.75, 0.25]
    assert weights_of([3.0, 1.0], "power", power=2)[0] == pytest.approx(0.9)
    assert weights_of([0.0, 0.0], "linear").tolist() == [0.5, 0.5]
    assert weights_of([9.0, 1.0], "equal").tolist() == [0.5, 0.5]
    assert weights_of([1e300, -1e300]).tolist() == [1.0, 0.0]
    rows = weights_of([[1.0, 1.0], [0.0, 700.0]])
    assert rows.sum(axis=1).tolist() == pytest.approx([1, 1])


def test_selection_by_deviations() -> None:
    stats = pytest.importorskip("scipy.stats")
    scores = np.array([0.0, 1.0, 2.0, 3.0, 10.0])
    deviation = stats.median_abs_deviation(scores, scale=1.0)
    assert outliers(scores, 2.0).tolist() == np.flatnonzero((scores - 2) / deviation > 2).tolist() == [4]
    assert weights_of(scores, threshold=2.0).tolist() == [0, 0, 0, 0, 1]
    assert weights_of(scores, "equal", threshold=0.5).tolist() == [0, 0, 0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: weights_of([]), "weights need scores"),
        (lambda: weights_of([math.nan]), "each a finite number"),
        (lambda: weights_of([1.0], "soft"), "weighting cannot be 'soft'. Did you mean 'softmax'"),
        (lambda: weights_of([1.0], temperature=0), "temperature must be above 0, got 0"),
        (lambda: weights_of([-1.0, 1.0], "linear"), "linear and power weights need scores of at least 0, got -1"),
        (lambda: outliers([1.0, 1.0, 1.0, 2.0], 1), "more than half of the scores are equal"),
        (lambda: outliers([0.0, 1.0, 2.0], 9), "no score lies above the median by 9 deviations. Lower the threshold"),
        (
            lambda: prompt_scores(np.zeros((2, 2))),
            r"logits must be finite numbers \(n, prompts, classes\), got \(2, 2\)",
        ),
        (lambda: prompt_scores(np.zeros((1, 1, 1))), "debias 'both' needs logits of reference inputs"),
        (lambda: prompt_scores(np.zeros((1, 1, 1)), test_fraction=0), r"test_fraction must be in \(0, 1\], got 0"),
        (lambda: prompt_scores(np.zeros((1, 2, 1)), np.zeros((1, 1, 1))), r"reference must be \(n', 2, 1\)"),
        (lambda: weighted_logits(np.zeros((1, 2, 1)), np.array([1.0, 1.0])), "sum to 1"),
        (
            lambda: embedding_logits(np.zeros((1, 2)), np.ones((1, 1, 2)), 1.0),
            "embeddings of images must be finite and not 0",
        ),
        (lambda: embedding_logits(np.ones((1, 2)), np.ones((1, 1, 2)), 0.0), "scale must be above 0, got 0"),
        (lambda: weigh(np.zeros((2, 1, 2)), np.ones(1), [0]), r"labels must be \(2,\), got \(1,\)"),
    ],
)
def test_what_cannot_be_weighted(call: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        call()


def test_logits_of_a_text_model() -> None:
    class Letters:
        """The log-likelihood of a choice is minus the length of all."""

        def loglikelihoods(self, pairs: Any) -> Any:
            from modelwright.evaluate import Likelihood

            return [Likelihood(-float(len(context) + len(text)), 1) for context, text in pairs]

    found = choice_logits(Letters(), ["{question} Answer:", "Q: {question}"], ["a?", "long?"], ["yes", "no"])
    assert found.shape == (2, 2, 2)
    assert found[1, 0].tolist() == [-len("long? Answer:") - 4, -len("long? Answer:") - 3]
    with pytest.raises(InputError, match=r"a prompt must have {question} in it once"):
        choice_logits(Letters(), ["no place"], ["q"], ["a", "b"])
    with pytest.raises(InputError, match="prompts must differ"):
        choice_logits(Letters(), ["{question}", "{question}"], ["q"], ["a", "b"])
