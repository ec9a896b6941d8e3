"""Greedy soups: the rule by hand and against a slow oracle, its invariants, and what it may not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.errors import InputError
from modelwright.evaluate import (
    METRICS,
    Classification,
    FunctionPredictor,
    Items,
    Splits,
    greedy_soup,
    validation_score,
)

TARGET = np.array([1.0, -2.0, 0.5, 3.0])


def quadratic(model: mw.Checkpoint) -> float:
    return -float(((model["w"].read().astype(np.float64) - TARGET) ** 2).sum())


def models(seed: int, count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"w": (TARGET + rng.normal(0, 1, 4)).astype(np.float32)} for _ in range(count)]


def oracle(rows: np.ndarray, *, strict: bool) -> list[int]:
    """Recipe 1 of the paper with a running mean in float64."""
    score = lambda row: -((row - TARGET) ** 2).sum()  # noqa: E731
    order = sorted(range(len(rows)), key=lambda i: -score(rows[i]))
    kept, soup = [order[0]], rows[order[0]]
    for i in order[1:]:
        n = len(kept)
        candidate = soup * n / (n + 1) + rows[i] / (n + 1)
        if score(candidate) > score(soup) or (score(candidate) == score(soup) and not strict):
            kept, soup = [*kept, i], candidate
    return kept


@pytest.mark.parametrize("seed", range(12))
def test_the_rule_is_that_of_the_paper(seed: int) -> None:
    given = models(seed)
    soup = greedy_soup(given, quadratic)
    assert list(soup.ingredients) == oracle(np.stack([m["w"] for m in given]).astype(np.float64), strict=False)
    mean = np.mean([given[i]["w"] for i in soup.ingredients], axis=0)
    np.testing.assert_allclose(soup.weights["w"].read(), mean, rtol=1e-6)
    assert soup.trace[0] == max(soup.singles)
    assert list(soup.trace) == sorted(soup.trace)
    assert soup.trace[-1] == pytest.approx(quadratic(soup.weights))
    assert len(soup.trace) == len(soup.ingredients)
    assert len(soup.tried) == len(given) - 1
    assert [soup.singles[i] for i in soup.order] == sorted(soup.singles, reverse=True)


def test_one_model_is_its_own_soup_and_copies_change_nothing() -> None:
    model = {"w": np.array([1, -2, 0.5, 2], np.float32)}  # of which sums of four are exact
    assert greedy_soup([model], quadratic).ingredients == (0,)
    copies = greedy_soup([model] * 4, quadratic)
    assert copies.ingredients == (0, 1, 2, 3)  # equal ones are let in, the earlier first
    np.testing.assert_array_equal(copies.weights["w"].read(), model["w"])
    assert greedy_soup([model] * 4, quadratic, strict=True).ingredients == (0,)


def test_in_the_given_order() -> None:
    given = [{"w": np.array([value], np.float32)} for value in (4.0, -2.0, 1.0)]
    score = lambda model: -abs(float(model["w"].read()[0]))  # noqa: E731
    soup = greedy_soup(given, score, order="given")
    assert (soup.order, soup.ingredients, soup.trace) == ((0, 1, 2), (0, 1, 2), (-4.0, -1.0, -1.0))
    assert greedy_soup(given, score).ingredients == (2, 1)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="a soup needs models, and there are none"):
        greedy_soup([], quadratic)
    scored: list[Any] = []
    with pytest.raises(InputError, match="model 3 lacks 1 tensor that model 1 has: w"):
        greedy_soup([*models(0, 2), {"v": np.zeros(4, np.float32)}], lambda m: scored.append(m) or 0.0)
    assert not scored, "models that do not fit must be refused before anything is scored"
    with pytest.raises(InputError, match="scores must be numbers, got NaN for model 1"):
        greedy_soup(models(0, 2), lambda _: float("nan"))


def task(splits: dict[str, Items], metric: str = "accuracy") -> Classification:
    return Classification(name="t", splits=Splits(splits), metric=METRICS[metric], names=("0", "1"))


def system(weights: mw.Checkpoint) -> FunctionPredictor:
    slope = float(weights["w"].read()[0])
    return FunctionPredictor(
        "s", function=lambda x: np.stack([1 / (1 + np.exp(slope * x)), 1 / (1 + np.exp(-slope * x))], 1)
    )


def test_the_score_sees_validation_items_only() -> None:
    inputs, labels = np.array([-1.0, -0.5, 0.5, 1.0]), np.array([0, 0, 1, 1])
    read: list[str] = []

    def items(name: str, flip: bool) -> Any:
        def load() -> Items:
            read.append(name)
            return Items.of(inputs, 1 - labels if flip else labels, ids=[f"{name}{i}" for i in range(4)])

        return load

    wanted = task({"validation": items("validation", False), "test": items("test", True)})  # type: ignore[dict-item]
    models = [{"w": np.array([slope], np.float32)} for slope in (-1.0, 2.0, 1.0)]
    soup = greedy_soup(models, validation_score([wanted], system))
    assert read == ["validation"]
    assert soup.singles == (0.0, 1.0, 1.0)
    assert soup.order == (1, 2, 0)


def test_lower_is_better_is_turned_round() -> None:
    inputs, labels = np.array([-1.0, 1.0]), np.array([0, 1])
    score = validation_score([task({"validation": Items.of(inputs, labels)}, "log_loss")], system)
    good, bad = ({"w": np.array([slope], np.float32)} for slope in (3.0, 1.0))
    assert score(mw.open(good)) == pytest.approx(-np.log1p(np.exp(-3.0)))
    assert score(mw.open(good)) > score(mw.open(bad))


def test_a_score_without_items() -> None:
    with pytest.raises(InputError, match="a score needs tasks, and there are none"):
        validation_score([], system)
    with pytest.raises(InputError, match="there is no split 'validation'"):
        validation_score([task({"tune": Items.of(np.ones(1), np.array([0]))})], system)
