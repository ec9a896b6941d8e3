"""Metrics against libraries and float64 formulas written here."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from modelwright.errors import InputError
from modelwright.evaluate import METRICS, Whole, metric


def classified(seed: int = 0, n: int = 300, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.5), n)
    return probabilities, rng.choice(classes, n, p=[0.6, 0.2, 0.15, 0.05])


def figure(name: str, answers: np.ndarray, targets: np.ndarray) -> float:
    found = METRICS[name]
    texts = answers.argmax(axis=1) if answers.ndim == 2 else answers
    return found.figure(
        Whole(
            answers=np.array([repr(v.item()) for v in texts], dtype=object),
            targets=np.array([repr(v.item()) for v in targets], dtype=object),
            scores=found.score(answers, targets),
            weights=np.ones(len(targets)),
        )
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("accuracy", lambda p, y: sk.accuracy_score(y, p.argmax(1))),
        ("balanced_accuracy", lambda p, y: sk.balanced_accuracy_score(y, p.argmax(1))),
        ("macro_f1", lambda p, y: sk.f1_score(y, p.argmax(1), average="macro", zero_division=0)),
        ("mcc", lambda p, y: sk.matthews_corrcoef(y, p.argmax(1))),
        ("log_loss", lambda p, y: sk.log_loss(y, p, labels=range(4))),
        ("brier", lambda p, y: np.mean([((p[i] - np.eye(4)[y[i]]) ** 2).sum() for i in range(len(y))])),
    ],
)
def test_of_probabilities(name: str, oracle, seed: int) -> None:
    probabilities, targets = classified(seed)
    assert figure(name, probabilities, targets) == pytest.approx(oracle(probabilities, targets), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("squared_error", lambda v, y: sk.mean_squared_error(y, v)),
        ("absolute_error", lambda v, y: sk.mean_absolute_error(y, v)),
        ("r2", lambda v, y: sk.r2_score(y, v)),
        ("pearson", lambda v, y: np.corrcoef(v, y)[0, 1]),
        ("spearman", lambda v, y: np.corrcoef(stats.rankdata(v), stats.rankdata(y))[0, 1]),
    ],
)
def test_of_values(name: str, oracle, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=200)
    values = targets + rng.normal(size=200).round(1)  # with ties
    assert figure(name, values, targets) == pytest.approx(oracle(values, targets), rel=1e-10)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "mcc", "balanced_accuracy"])
def test_of_probabilities_by_torchmetrics(name: str) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    p, y = (torch.from_numpy(a) for a in classified(5))
    oracle = {
        "accuracy": lambda: functional.multiclass_accuracy(p, y, 4, average="micro"),
        "balanced_accuracy": lambda: functional.multiclass_accuracy(p, y, 4, average="macro"),
        "macro_f1": lambda: functional.multiclass_f1_score(p, y, 4, average="macro"),
        "mcc": lambda: functional.multiclass_matthews_corrcoef(p, y, 4),
    }[name]
    assert figure(name, p.numpy(), y.numpy()) == pytest.approx(float(oracle()), rel=1e-6)


def test_weights_count() -> None:
    whole = Whole(np.array(["a"] * 3), np.array(["a"] * 3), np.array([1.0, 0.0, 1.0]), np.array([1.0, 2.0, 1.0]))
    assert metric("accuracy").figure(whole) == 0.5


def test_a_certain_mistake_costs_a_finite_amount() -> None:
    found = METRICS["log_loss"].score(np.array([[0.0, 1.0]]), np.array([0]))
    assert found[0] == pytest.approx(-np.log(np.finfo(np.float64).tiny))


def test_of_equal_probabilities_the_first_is_the_answer() -> None:
    assert METRICS["accuracy"].score(np.full((2, 3), 1 / 3), np.array([0, 1])).tolist() == [1.0, 0.0]


def test_scores_are_float64_one_an_item() -> None:
    probabilities, targets = classified()
    for found in METRICS.values():
        if found.asks in ("probabilities", "values"):
            given = probabilities if found.asks == "probabilities" else targets + 0.5
            scores = found.score(given, targets)
            assert (scores.dtype, scores.shape) == (np.float64, targets.shape), found.name


def test_an_unknown_metric() -> None:
    with pytest.raises(InputError, match=r"there is no metric 'acuracy'. Did you mean 'accuracy'?"):
        metric("acuracy")
    assert metric(METRICS["brier"]) is METRICS["brier"]


def test_a_metric_of_other_answers() -> None:
    with pytest.raises(InputError, match="'r2' judges values, and the task gives probabilities"):
        metric("r2").of_probabilities(np.ones((1, 2)) / 2, np.array([0]))
    with pytest.raises(InputError, match="'accuracy' judges probabilities, and the task gives values"):
        metric("accuracy").of_values(np.ones(1), np.array([0]))
