"""What answers, and answers that are none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import LinearSVC

from modelwright.errors import InputError, RunError
from modelwright.evaluate import Items, Sampling, predictor
from modelwright.evaluate._predictor import softmax

X = np.random.default_rng(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
ITEMS = Items.of(X, Y, [f"i{n}" for n in range(60)])


def answering(found):
    return predictor(lambda x: found, "f")


# --- answers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p[:-1], r"'f' gave probabilities of shape \(59, 3\), not \(60, 3\)"),
        (lambda p: p[:, :2], r"shape \(60, 2\), not \(60, 3\)"),
        (lambda p: p[:, 0], r"shape \(60,\), not \(60, 3\)"),
        (
            lambda p: np.where(np.arange(60)[:, None] == 7, np.nan, p),
            "gave a probability that is not finite for item 'i7'",
        ),
        (lambda p: np.where(np.arange(60)[:, None] >= 58, np.inf, p), r"item 'i58' \(2 of 60 items in this batch\)"),
        (lambda p: p * 2, r"must be at least 0 and sum to 1, got the sum 2 for item 'i0'"),
        (lambda p: p - [[1.0, 0.0, -1.0]], "must be at least 0 and sum to 1, got the sum 1 for item 'i0'"),
        (lambda p: 3 * np.log(p), "If these are logits, say outputs='logits'"),
    ],
)
def test_probabilities_that_are_none(change, said: str) -> None:
    good = softmax(X[:, :3])
    with pytest.raises(RunError, match=said):
        answering(change(good)).checked_probabilities(ITEMS, 3)


def test_probabilities_are_made_to_sum_to_one() -> None:
    good = softmax(X[:, :3])
    rounded = good.astype(np.float16)  # off by up to 1e-3
    found = answering(rounded).checked_probabilities(ITEMS, 3)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(found, good, atol=1e-3)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (X[:, :2], r"'f' gave values of shape \(60, 2\), not \(60,\)"),
        (X[:1, 0], r"shape \(1,\), not \(60,\)"),
        (np.where(np.arange(60) == 3, -np.inf, 1.0), "gave a value that is not finite for item 'i3'"),
    ],
)
def test_values_that_are_none(found: np.ndarray, said: str) -> None:
    with pytest.raises(RunError, match=said):
        answering(found).checked_values(ITEMS)


def test_a_column_of_values_will_do() -> None:
    np.testing.assert_array_equal(answering(X[:, :1]).checked_values(ITEMS), X[:, 0])


def test_softmax_of_large_logits() -> None:
    found = softmax(np.array([[1000.0, 1000.0, -1000.0]]))
    np.testing.assert_array_equal(found, [[0.5, 0.5, 0.0]])


def test_what_a_system_cannot_do() -> None:
    found = answering(X)
    with pytest.raises(InputError, match="'f' cannot give likelihoods of texts: it is a FunctionPredictor"):
        found.loglikelihoods([("a", "b")])
    with pytest.raises(InputError, match="'f' cannot generate text"):
        found.texts(["a"], Sampling())
    with pytest.raises(InputError, match="cannot be evaluated: it is of the type int"):
        predictor(3)


# --- estimators ------------------------------------------------------------------------------------------------------


def test_an_estimator_answers_as_itself() -> None:
    fitted = LogisticRegression().fit(X, Y)
    found = predictor(fitted, "lr")
    np.testing.assert_allclose(found.checked_probabilities(ITEMS, 3), fitted.predict_proba(X), rtol=1e-12)
    images = Items.of(X.reshape(60, 2, 2), Y)
    np.testing.assert_array_equal(found.checked_probabilities(images, 3), found.checked_probabilities(ITEMS, 3))
    assert found.fingerprint == predictor(LogisticRegression().fit(X, Y)).fingerprint
    assert found.fingerprint != predictor(LogisticRegression(C=0.1).fit(X, Y)).fingerprint


def test_an_estimator_that_never_saw_a_class() -> None:
    known = Y != 1
    found = predictor(LogisticRegression().fit(X[known], Y[known])).checked_probabilities(ITEMS, 3)
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found[:, [0, 2]], LogisticRegression().fit(X[known], Y[known]).predict_proba(X))


def test_estimators_that_are_refused() -> None:
    with pytest.raises(InputError, match=r"'lr' is not fitted yet. Call its fit first."):
        predictor(LogisticRegression(), "lr")
    with pytest.raises(InputError, match="'svc' cannot give probabilities"):
        predictor(LinearSVC().fit(X, Y), "svc").checked_probabilities(ITEMS, 3)
    named = LogisticRegression().fit(X, np.array(["a", "b", "c"])[Y])
    with pytest.raises(InputError, match=r"'lr': its classes must be indices in \[0, 2\]"):
        predictor(named, "lr").checked_probabilities(ITEMS, 3)


def test_an_estimator_of_numbers() -> None:
    fitted = LinearRegression().fit(X, X @ [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(predictor(fitted).checked_values(ITEMS), X @ [1.0, 2.0, 3.0, 4.0])


# --- modules ---------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_a_module_in_train_mode_is_refused_by_the_part_that_is() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout())
    with pytest.raises(
        InputError, match=r"'net' is in train mode: dropout and batch statistics would change its answers. Call"
    ):
        predictor(net, "net")
    net.eval()[1].train()
    with pytest.raises(InputError, match=r"'net' is in train mode \(its part '1'\)"):
        predictor(net, "net")


@pytest.mark.torch
def test_a_module_gives_logits_unless_said() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3).double().eval()
    logits = net(torch.from_numpy(X)).detach().numpy()
    found = predictor(net, "net").checked_probabilities(ITEMS, 3)
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-12)
    with pytest.raises(RunError, match="say outputs='logits'"):
        predictor(net, "net", outputs="probabilities").checked_probabilities(ITEMS, 3)
    assert predictor(net).size.parameters == 15
    assert predictor(net).size.nbytes == 120


@pytest.mark.torch
def test_fingerprints_are_of_the_weights_bytes() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(4, 3).eval()
    first = predictor(net).fingerprint
    assert predictor(net, "other").fingerprint == first
    with torch.no_grad():
        net.weight[0, 0] = torch.nextafter(net.weight[0, 0], torch.tensor(9.0))
    assert predictor(net).fingerprint != first
