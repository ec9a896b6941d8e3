"""Trees, forests and boosting as weights over training labels, and how strongly they smooth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from modelwright.errors import InputError

_TREES = ("DecisionTreeRegressor", "DecisionTreeClassifier", "ExtraTreeRegressor", "ExtraTreeClassifier")
_FORESTS = ("RandomForestRegressor", "RandomForestClassifier", "ExtraTreesRegressor", "ExtraTreesClassifier")
_BOOSTING = "GradientBoostingRegressor"
#: Numbers of a block of rows of a smoother.
_BLOCK = 1 << 21
_CLOSE = 1e-8


@dataclass(frozen=True)
class Smoothing:
    """How strongly a model smooths, in effective parameters: n times the mean of the squared norms of its weights.

    Attributes:
        train: At the training inputs: (T,) after each tree, the last being the model; n for one that interpolates.
        test: At other inputs, likewise; n is the number of training labels here too.
    """

    train: np.ndarray
    test: np.ndarray

    @property
    def gap(self) -> float:
        """How many more there are on what was seen than on what was not."""
        return float(self.train[-1] - self.test[-1])


def effective_parameters(weights: Any) -> float:
    """Effective parameters of a smoother at some inputs: n times the mean over inputs of their weights' squared norm.

    Args:
        weights: A row of weights of the n training labels for each of m inputs, (m, n): prediction = weights @ labels.

    Raises:
        InputError: It is no such matrix.

    Example:
        >>> import numpy as np
        >>> from modelwright.predictions import effective_parameters
        >>> effective_parameters(np.eye(4)), effective_parameters(np.full((2, 4), 0.25))
        (4.0, 1.0)

    Source:
        Curth et al. 2024, arXiv:2402.01502; Curth et al. 2023, arXiv:2310.18988.
    """
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise InputError(f"weights must be a finite matrix (inputs, training labels), got the shape {array.shape}")
    return float(array.shape[1] * np.einsum("ij,ij->", array, array) / len(array))


def smoother(model: Any, train_inputs: Any, train_labels: Any, inputs: Any) -> np.ndarray:
    """The weights by which a fitted model averages training labels: float64 (m, n), prediction = weights @ labels.

    Args:
        model: A fitted scikit-learn tree, random forest or extra-trees forest, or gradient boosting of squared errors.
        train_inputs: What it was fitted on, (n, d).
        train_labels: Numbers, or classes, (n,).
        inputs: Where it predicts, (m, d).

    Returns:
        The weights. They multiply numbers; for classifiers, a column of 0 and 1 for each class.

    Raises:
        InputError: The model is none of these, is not a smoother (absolute errors, subsampling of boosting), or its
            predictions are not those of these weights, as with sample weights or other labels.

    Differs:
        Bootstrap counts are read from `estimators_samples_` and not rebuilt by private functions. Boosting may start at
        the labels' mean, which is a row of 1/n.

    Source:
        Curth et al. 2024, arXiv:2402.01502.
    """
    fitted = _Fitted.of(model, train_inputs, train_labels)
    at = np.asarray(inputs)
    found = fitted.boosted(at)[0] if fitted.boosting else np.concatenate(list(fitted.rows(at)))
    fitted.check(found, at)
    return found


def smoothing(model: Any, train_inputs: Any, train_labels: Any, test_inputs: Any, *, each: bool = False) -> Smoothing:
    """Effective parameters of a fitted model on what it has seen and on what it has not.

    Weights of trees and forests are made in blocks of rows; boosting keeps the n by n matrix of its training rows.

    Args:
        model: As in `smoother`.
        train_inputs: What it was fitted on, (n, d).
        train_labels: (n,).
        test_inputs: Others, (m, d).
        each: Whether to say it after each tree, and not only of the whole model.

    Raises:
        InputError: As in `smoother`.
    """
    fitted = _Fitted.of(model, train_inputs, train_labels)
    sides = [fitted.inputs, np.asarray(test_inputs)]
    if fitted.boosting:
        weights, norms = fitted.boosted(sides[1], norms=True)
        fitted.check(weights, sides[1])
        found = [np.array(values) for values in norms]
    else:
        found = [fitted.norms(side, each) for side in sides]
    return Smoothing(*(values if each else values[-1:] for values in found))


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A fitted model with what it was fitted on."""

    model: Any
    inputs: np.ndarray
    labels: np.ndarray
    trees: list[Any]
    counts: list[np.ndarray]

    @staticmethod
    def of(model: Any, inputs: Any, labels: Any) -> _Fitted:
        kind = type(model).__name__
        known = (*_TREES, *_FORESTS, _BOOSTING)
        if kind not in known or not type(model).__module__.startswith("sklearn."):
            raise InputError(f"a {kind} has no known weights of its training labels", f"Known: {', '.join(known)}.")
        if not hasattr(model, "tree_") and not hasattr(model, "estimators_"):
            raise InputError(f"the {kind} is not fitted", "Call fit first.")
        x, y = np.asarray(inputs), np.asarray(labels)
        if y.ndim != 1 or len(x) != len(y):
            raise InputError(f"there must be one training label for each input, got {y.shape} for {len(x):,}")
        _refuse_what_is_no_mean(model, kind)
        if kind in _TREES:
            return _Fitted(model, x, y, [model], [np.ones(len(y))])
        if kind == _BOOSTING:
            return _Fitted(model, x, y, list(model.estimators_[:, 0]), [])
        if not model.bootstrap:
            return _Fitted(model, x, y, list(model.estimators_), [np.ones(len(y))] * len(model.estimators_))
        counts = [np.bincount(rows, minlength=len(y)).astype(np.float64) for rows in model.estimators_samples_]
        if any(len(count) != len(y) for count in counts):
            raise InputError(f"the {kind} was fitted on more samples than the {len(y):,} that are given")
        return _Fitted(model, x, y, list(model.estimators_), counts)

    @property
    def boosting(self) -> bool:
        return not self.counts

    def rows(self, inputs: np.ndarray) -> Iterator[np.ndarray]:
        """The smoother in blocks of its rows."""
        for _, leaves in self._blocks(inputs):
            *_, last = self._sums(leaves)
            yield last / len(self.trees)

    def norms(self, inputs: np.ndarray, each: bool) -> np.ndarray:
        """Effective parameters after each tree, or of all."""
        totals = np.zeros(len(self.trees))
        checked = False
        for start, block in self._blocks(inputs):
            for t, sums in enumerate(self._sums(block)):
                last = t == len(self.trees) - 1
                if each or last:
                    totals[t] += np.einsum("ij,ij->", sums, sums) / (t + 1) ** 2
                if last and not checked:
                    self.check(sums / len(self.trees), inputs[start : start + len(sums)])
                    checked = True
        return totals * len(self.labels) / len(inputs)

    def _blocks(self, inputs: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        step = max(1, _BLOCK // len(self.labels))
        leaves = np.stack([tree.apply(inputs) for tree in self.trees])
        for start in range(0, len(inputs), step):
            yield start, leaves[:, start : start + step]

    def _sums(self, leaves: np.ndarray) -> Iterator[np.ndarray]:
        """Sums of the trees' smoothers after each tree, for inputs that fall into these leaves (trees, rows)."""
        sums = np.zeros((leaves.shape[1], len(self.labels)))
        for at, (trained, share) in zip(leaves, self._columns, strict=True):
            sums += np.where(at[:, None] == trained, share, 0.0)
            yield sums

    @cached_property
    def _columns(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each tree the training samples' leaves, and each one's share in its leaf's mean."""
        found = []
        for tree, count in zip(self.trees, self.counts, strict=True):
            leaves = tree.apply(self.inputs)
            total = np.bincount(leaves, count)
            found.append((leaves, np.divide(count, total[leaves], out=np.zeros_like(count), where=count > 0)))
        return found

    def boosted(self, inputs: np.ndarray, norms: bool = False) -> tuple[np.ndarray, tuple[list[float], list[float]]]:
        """The smoother at inputs, and effective parameters on training inputs and on these after each tree.

        A tree averages residuals, labels less the prediction so far, which is itself a smoother: its step is the tree's
        weights less the mean of its leaves' rows.
        """
        n, rate = len(self.labels), self.model.learning_rate
        start = 0.0 if isinstance(self.model.init_, str) else 1 / n
        seen, found = np.full((n, n), start), np.full((len(inputs), n), start)
        on_train, on_test = [], []
        for tree in self.trees:
            leaves, at = tree.apply(self.inputs), tree.apply(inputs)
            names, place = np.unique(leaves, return_inverse=True)
            order = np.argsort(place, kind="stable")
            sizes = np.bincount(place)
            starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            steps = -np.add.reduceat(seen[order], starts, axis=0)
            steps[place, np.arange(n)] += 1.0
            steps *= rate / sizes[:, None]
            found += steps[np.searchsorted(names, at)]
            seen += steps[place]
            if norms:
                on_train.append(effective_parameters(seen))
                on_test.append(effective_parameters(found))
        return found, (on_train, on_test)

    def check(self, weights: np.ndarray, inputs: np.ndarray) -> None:
        """Refuse weights that do not give the model's predictions."""
        if hasattr(self.model, "classes_"):
            targets = (self.labels[:, None] == self.model.classes_).astype(np.float64)
            predicted = self.model.predict_proba(inputs)
        else:
            targets, predicted = np.asarray(self.labels, np.float64), self.model.predict(inputs)
        off = float(np.abs(weights @ targets - predicted).max())
        if not off <= _CLOSE * max(1.0, float(np.abs(predicted).max())):
            raise InputError(
                f"the model does not average these labels: its predictions are off by up to {off:.3g}",
                "Give the data it was fitted on; sample and class weights are not supported.",
            )


def _refuse_what_is_no_mean(model: Any, kind: str) -> None:
    """Refuse what does not predict by means of labels."""
    if kind == _BOOSTING:
        wrong = {
            "loss": model.loss != "squared_error" and "other losses refit the values of leaves",
            "subsample": model.subsample != 1 and "nobody keeps which samples a tree saw",
            "init": not (isinstance(model.init_, str) or type(model.init_).__name__ == "DummyRegressor")
            and "a model to start from has weights of its own",
        }
        for name, why in wrong.items():
            if why:
                raise InputError(f"boosting with {name}={getattr(model, name)!r} has no known weights: {why}")
    elif getattr(model, "criterion", "") == "absolute_error":
        raise InputError(f"a {kind} of absolute errors predicts medians, which are no weighted sums of labels")
    if getattr(model, "monotonic_cst", None) is not None:
        raise InputError(f"a {kind} with monotonic constraints does not predict means of labels")


@dataclass(frozen=True)
class Refits:
    """The error of a model that is fitted several times to the same data with other seeds.

    Attributes:
        mean_error: Mean squared error over refits.
        best_error: That of the best refit: how near the class of functions comes (representation bias).
        variability: Mean squared distance of refits from the best one (model variability).
        excess: Mean error less that of the best.
    """

    mean_error: float
    best_error: float
    variability: float
    excess: float


def refit_parts(predictions: Any, truth: Any) -> Refits:
    """What refits say, taken apart.

    Args:
        predictions: Of R >= 2 refits at m inputs, (R, m).
        truth: What is right there, without noise, (m,).

    Raises:
        InputError: Shapes do not fit.

    Source:
        Curth et al. 2024, arXiv:2402.01502, section 5.
    """
    predictions, truth = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if predictions.ndim != 2 or len(predictions) < 2 or predictions.shape[1:] != truth.shape:
        raise InputError(
            f"refits must have the shape (R, m) with R at least 2, got {predictions.shape} for {truth.shape}"
        )
    errors = ((predictions - truth) ** 2).mean(axis=1)
    best = int(errors.argmin())
    away = float(((predictions - predictions[best]) ** 2).mean())
    return Refits(float(errors.mean()), float(errors[best]), away, float(errors.mean() - errors[best]))


def covariance_degrees(labels: Any, fitted: Any) -> float:
    """Degrees of freedom by their definition: the sum over training inputs of cov(label, fit), by the labels' variance.

    Args:
        labels: R >= 2 draws of the labels of n fixed inputs, (R, n).
        fitted: Predictions at these inputs of models fitted to each draw, (R, n).

    Raises:
        InputError: Shapes do not fit, or the labels do not vary.

    Differs:
        The covariances are divided by the labels' mean variance, so that least squares has its number of columns.

    Source:
        Efron 1986, JASA 81.
    """
    labels, fitted = np.asarray(labels, np.float64), np.asarray(fitted, np.float64)
    if labels.ndim != 2 or len(labels) < 2 or labels.shape != fitted.shape:
        raise InputError(
            f"labels and fits must have one shape (R, n) with R at least 2, got {labels.shape} and {fitted.shape}"
        )
    away = labels - labels.mean(axis=0)
    variance = float((away**2).sum() / ((len(labels) - 1) * labels.shape[1]))
    if not variance:
        raise InputError("degrees of freedom need labels that are drawn anew; these are the same every time")
    return float((away * (fitted - fitted.mean(axis=0))).sum() / (len(labels) - 1) / variance)
