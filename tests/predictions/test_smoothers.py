"""Trees, forests and boosting as smoothers: scikit-learn's own predictions, closed forms, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelwright.errors import InputError
from modelwright.predictions import (
    covariance_degrees,
    effective_parameters,
    refit_parts,
    smoother,
    smoothing,
)

ensemble = pytest.importorskip("sklearn.ensemble")
tree = pytest.importorskip("sklearn.tree")


def data(n: int = 80, m: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((n + m, 3))
    y = np.sin(5 * x[:n, 0]) + x[:n, 1] + rng.normal(0, 0.3, n) + 2
    return x[:n], y, x[n:]


MODELS = {
    "tree": lambda: tree.DecisionTreeRegressor(max_leaf_nodes=9, random_state=0),
    "extra tree": lambda: tree.ExtraTreeRegressor(random_state=0),
    "forest": lambda: ensemble.RandomForestRegressor(8, random_state=0),
    "forest of poisson": lambda: ensemble.RandomForestRegressor(5, criterion="poisson", random_state=0),
    "forest of few": lambda: ensemble.RandomForestRegressor(8, max_samples=0.3, max_features=0.5, random_state=0),
    "forest of all": lambda: ensemble.RandomForestRegressor(8, bootstrap=False, max_features=0.5, random_state=0),
    "extra trees": lambda: ensemble.ExtraTreesRegressor(8, random_state=0),
    "extra trees of draws": lambda: ensemble.ExtraTreesRegressor(8, bootstrap=True, random_state=0),
    "boosting from zero": lambda: ensemble.GradientBoostingRegressor(
        n_estimators=30, init="zero", max_leaf_nodes=6, random_state=0
    ),
    "boosting from the mean": lambda: ensemble.GradientBoostingRegressor(n_estimators=30, max_depth=2, random_state=0),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_give_the_predictions(name: str) -> None:
    x, y, others = data()
    model = MODELS[name]().fit(x, y)
    for at in (x, others):
        weights = smoother(model, x, y, at)
        np.testing.assert_allclose(weights @ y, model.predict(at), atol=1e-9)
        if "zero" not in name:
            np.testing.assert_allclose(weights.sum(1), 1, atol=1e-9)
    found = smoothing(model, x, y, others, each=True)
    assert found.train[-1] == pytest.approx(effective_parameters(smoother(model, x, y, x)))
    assert found.test[-1] == pytest.approx(effective_parameters(smoother(model, x, y, others)))
    whole = smoothing(model, x, y, others)
    assert (whole.train, whole.test) == (pytest.approx(found.train[-1:]), pytest.approx(found.test[-1:]))
    assert whole.gap == pytest.approx(found.train[-1] - found.test[-1])


def test_each_is_what_a_model_of_fewer_trees_has() -> None:
    x, y, others = data()
    for make in (
        lambda t: ensemble.RandomForestRegressor(t, random_state=0),
        lambda t: ensemble.GradientBoostingRegressor(n_estimators=t, random_state=0),
    ):
        found = smoothing(make(5).fit(x, y), x, y, others, each=True)
        for t in (1, 3):
            fewer = smoothing(make(t).fit(x, y), x, y, others)
            assert found.train[t - 1] == pytest.approx(fewer.train[0])
            assert found.test[t - 1] == pytest.approx(fewer.test[0])


def test_a_tree_has_as_many_parameters_as_leaves() -> None:
    x, y, others = data()
    for leaves in (2, 5, 20):
        model = tree.DecisionTreeRegressor(max_leaf_nodes=leaves, random_state=0).fit(x, y)
        assert smoothing(model, x, y, others).train[0] == pytest.approx(leaves)
        sizes = np.bincount(model.apply(x))
        expected = np.mean(len(y) / sizes[model.apply(others)])
        assert smoothing(model, x, y, others).test[0] == pytest.approx(expected)
    mean = tree.DecisionTreeRegressor(min_samples_split=1000).fit(x, y)
    assert smoothing(mean, x, y, others).test[0] == pytest.approx(1)


def test_interpolating_forests_keep_all_labels_on_what_they_saw() -> None:
    x, y, others = data()
    model = ensemble.RandomForestRegressor(20, bootstrap=False, max_features=1 / 3, random_state=0).fit(x, y)
    found = smoothing(model, x, y, others, each=True)
    np.testing.assert_allclose(found.train, 80)
    assert found.test[0] == pytest.approx(80)
    assert found.test[-1] < 40


def test_other_smoothers_have_their_closed_forms() -> None:
    neighbours = pytest.importorskip("sklearn.neighbors")
    x, y, others = data()
    for k in (1, 4, 80):
        graph = neighbours.KNeighborsRegressor(k).fit(x, y).kneighbors_graph(others).toarray() / k
        assert effective_parameters(graph) == pytest.approx(80 / k)
    hat = x @ np.linalg.solve(x.T @ x, x.T)
    assert effective_parameters(hat) == pytest.approx(3)
    assert np.trace(hat) == pytest.approx(3)


@pytest.mark.parametrize("kind", ["forest", "tree"])
def test_classifiers_average_shares_of_classes(kind: str) -> None:
    x, y, others = data()
    labels = np.digitize(y, [2.8, 3.4])
    model = {
        "forest": lambda: ensemble.RandomForestClassifier(8, min_samples_leaf=3, random_state=0),
        "tree": lambda: tree.DecisionTreeClassifier(max_leaf_nodes=6, random_state=0),
    }[kind]().fit(x, labels)
    weights = smoother(model, x, labels, others)
    columns = (labels[:, None] == np.arange(3)).astype(float)
    np.testing.assert_allclose(weights @ columns, model.predict_proba(others))


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from modelwright.predictions import _smoothers

    x, y, others = data()
    model = MODELS["forest"]().fit(x, y)
    whole = smoothing(model, x, y, others)
    monkeypatch.setattr(_smoothers, "_BLOCK", 7 * 80)
    again = smoothing(model, x, y, others)
    np.testing.assert_allclose([whole.train, whole.test], [again.train, again.test])
    np.testing.assert_allclose(smoother(model, x, y, others) @ y, model.predict(others))


def refused() -> list[tuple[Any, str]]:
    x, y, _ = data()
    linear = pytest.importorskip("sklearn.linear_model")
    boosting = ensemble.GradientBoostingRegressor
    return [
        (linear.LinearRegression().fit(x, y), "a LinearRegression has no known weights"),
        (ensemble.RandomForestRegressor(), "the RandomForestRegressor is not fitted"),
        (tree.DecisionTreeRegressor(criterion="absolute_error").fit(x, y), "predicts medians"),
        (boosting(n_estimators=3, loss="huber").fit(x, y), "boosting with loss='huber' has no known weights"),
        (boosting(n_estimators=3, subsample=0.5).fit(x, y), "boosting with subsample=0.5 has no known weights"),
        (
            tree.DecisionTreeRegressor(max_leaf_nodes=5).fit(x, y, sample_weight=np.arange(80) + 1.0),
            "is off|off by up to",
        ),
        (ensemble.RandomForestRegressor(5).fit(x, y + np.arange(80)), "does not average these labels"),
    ]


def test_what_is_no_smoother_of_these_labels_is_refused() -> None:
    x, y, others = data()
    for model, what in refused():
        with pytest.raises(InputError, match=what):
            smoothing(model, x, y, others)
    forest = ensemble.RandomForestRegressor(3).fit(x, y)
    with pytest.raises(InputError, match=r"was fitted on more samples than the 40 that are given"):
        smoothing(forest, x[:40], y[:40], others)
    with pytest.raises(InputError, match=r"there must be one training label for each input"):
        smoothing(forest, x, y[:40], others)


def test_refits_taken_apart() -> None:
    found = refit_parts(np.array([[1.0, 1.0], [0.0, 0.5], [2.0, 0.0]]), np.array([0.0, 0.5]))
    assert (found.best_error, found.mean_error) == (0, pytest.approx((0.625 + 0 + 2.125) / 3))
    assert found.variability == pytest.approx(found.mean_error), "the best is the truth"
    assert found.excess == pytest.approx(found.mean_error)
    with pytest.raises(InputError, match=r"\(R, m\) with R at least 2"):
        refit_parts(np.zeros((1, 3)), np.zeros(3))


def test_degrees_of_freedom_of_least_squares_are_its_columns() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4))
    hat = x @ np.linalg.solve(x.T @ x, x.T)
    labels = rng.normal(size=(4000, 30)) + 3.0
    assert covariance_degrees(labels, labels @ hat) == pytest.approx(4, abs=0.1)
    assert covariance_degrees(labels, labels) == pytest.approx(30)
    with pytest.raises(InputError, match=r"the same every time"):
        covariance_degrees(np.ones((3, 4)), np.ones((3, 4)))
