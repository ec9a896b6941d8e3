"""Figures that are functions of sums over items, so that thousands of resamples are one product of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modelwright.evaluate._metrics import Metric, Whole
from modelwright.evaluate._predictor import needs


@dataclass(frozen=True)
class Sums:
    """A figure as a function of sums over items.

    Attributes:
        terms: What each item adds, float64 (n, k), an array or a sparse one.
        finish: Figures (...) from sums (..., k).
    """

    terms: Any
    finish: Callable[[np.ndarray], np.ndarray]

    def total(self) -> np.ndarray:
        """The sums over all items, (k,)."""
        return np.asarray(self.terms.sum(axis=0)).reshape(-1)


def products(counts: np.ndarray, several: Sequence[Any]) -> list[np.ndarray]:
    """`counts` (b, n) times each of several terms (n, k): dense ones as one product, which is much faster."""
    dense = [terms for terms in several if isinstance(terms, np.ndarray)]
    if not dense:
        return [np.asarray(counts @ terms) for terms in several]
    widths = np.cumsum([terms.shape[1] for terms in dense])[:-1]
    parts = iter(np.split(counts @ np.concatenate(dense, axis=1), widths, axis=1))
    return [next(parts) if isinstance(terms, np.ndarray) else np.asarray(counts @ terms) for terms in several]


def names_of(metric: Metric, wholes: Sequence[Whole]) -> np.ndarray:
    """All that is said or wanted, sorted; what systems' sums have their columns by. None where a metric counts no classes.

    Generated texts are not names: an array of them takes for each as much as for the longest.
    """
    if metric.name not in _BY_CLASS:
        return np.empty(0, dtype=str)
    texts = [column.astype(str) for whole in wholes for column in (whole.answers, whole.targets)]
    return np.unique(np.concatenate(texts))


def sums_of(metric: Metric, whole: Whole, names: np.ndarray) -> Sums | None:
    """The figure of a metric as a function of sums; None where it is none, or nobody has written it as one.

    Args:
        metric: What is measured.
        whole: What a system said.
        names: From `names_of`, of all systems that are compared: their sums then have the same columns.
    """
    form = _weighted_mean if metric.total is None else _FORMS.get(metric.name)
    if form is None:
        return None
    sums = form(whole, names)
    # a metric of the same name may be somebody else's
    same = np.isclose(sums.finish(sums.total()), metric.figure(whole), rtol=1e-9, atol=1e-12, equal_nan=True)
    return sums if same else None


def take(whole: Whole, rows: np.ndarray) -> Whole:
    """Some of the items, in the given order, also more than once."""
    probabilities = None if whole.probabilities is None else whole.probabilities[rows]
    return replace(
        whole,
        answers=whole.answers[rows],
        targets=whole.targets[rows],
        scores=whole.scores[rows],
        weights=whole.weights[rows],
        probabilities=probabilities,
    )


def _weighted_mean(whole: Whole, names: np.ndarray) -> Sums:
    terms = np.stack([whole.scores * whole.weights, whole.weights], axis=1)
    return Sums(terms, lambda sums: _ratio(sums[..., 0], sums[..., 1]))


def _perplexity(whole: Whole, names: np.ndarray) -> Sums:
    mean = _weighted_mean(whole, names)
    return Sums(mean.terms, lambda sums: np.exp(mean.finish(sums)))


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(below, otherwise), where=below != 0)


def _marked(column: np.ndarray, names: np.ndarray) -> Any:
    """A sparse row an item with a 1 at its class."""
    n = len(column)
    places = np.arange(n), np.searchsorted(names, column.astype(str))
    return needs("scipy.sparse", "statistics").csr_array((np.ones(n), places), shape=(n, len(names)))


def _beside(*parts: Any) -> Any:
    return needs("scipy.sparse", "statistics").hstack(parts, format="csr")


def _column(values: np.ndarray) -> Any:
    return needs("scipy.sparse", "statistics").csr_array(np.asarray(values, np.float64)[:, None])


def _balanced(whole: Whole, names: np.ndarray) -> Sums:
    count, targets = len(names), _marked(whole.targets, names)
    terms = _beside(targets * whole.scores[:, None], targets)

    def finish(sums: np.ndarray) -> np.ndarray:
        return _mean_of_known(_ratio(sums[..., :count], sums[..., count:]))

    return Sums(terms, finish)


def _macro_f1(whole: Whole, names: np.ndarray) -> Sums:
    count, answers, targets = len(names), _marked(whole.answers, names), _marked(whole.targets, names)

    def finish(sums: np.ndarray) -> np.ndarray:
        return _mean_of_known(_ratio(2 * sums[..., :count], sums[..., count:]))

    return Sums(_beside(answers * targets, answers + targets), finish)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Over the classes that a sample has items of."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def _mcc(whole: Whole, names: np.ndarray) -> Sums:
    count, answers, targets = len(names), _marked(whole.answers, names), _marked(whole.targets, names)
    right = (whole.answers == whole.targets).astype(np.float64)

    def finish(sums: np.ndarray) -> np.ndarray:
        right, n = sums[..., 0], sums[..., 1]
        said, true = sums[..., 2 : 2 + count], sums[..., 2 + count :]
        spread = (n**2 - (said**2).sum(axis=-1)) * (n**2 - (true**2).sum(axis=-1))
        return _ratio(right * n - (said * true).sum(axis=-1), np.sqrt(np.maximum(spread, 0)), 0.0)

    return Sums(_beside(_column(right), _column(np.ones(len(right))), answers, targets), finish)


def _numbers(whole: Whole) -> tuple[np.ndarray, np.ndarray]:
    """Answers and targets, both less the targets' mean: squares of large numbers would lose their digits."""
    answers, targets = whole.answers.astype(np.float64), whole.targets.astype(np.float64)
    return answers - targets.mean(), targets - targets.mean()


def _r2(whole: Whole, names: np.ndarray) -> Sums:
    answers, targets = _numbers(whole)
    terms = np.stack([(targets - answers) ** 2, targets**2, targets, np.ones_like(targets)], axis=1)

    def finish(sums: np.ndarray) -> np.ndarray:
        spread = np.maximum(sums[..., 1] - sums[..., 2] ** 2 / sums[..., 3], 0)
        return 1 - _ratio(sums[..., 0], np.where(spread > 1e-12 * sums[..., 1], spread, 0))

    return Sums(terms, finish)


def _pearson(whole: Whole, names: np.ndarray) -> Sums:
    x, y = _numbers(whole)
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def finish(sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread = np.maximum(xx - x * x / n, 0) * np.maximum(yy - y * y / n, 0)
        return _ratio(xy - x * y / n, np.sqrt(spread))

    return Sums(terms, finish)


#: Whose sums have a column for each class.
_BY_CLASS = ("balanced_accuracy", "macro_f1", "mcc")
#: By the metric's name; `sums_of` checks that the figure is the same.
_FORMS: dict[str, Callable[[Whole, np.ndarray], Sums]] = {
    "balanced_accuracy": _balanced,
    "macro_f1": _macro_f1,
    "mcc": _mcc,
    "pearson": _pearson,
    "perplexity": _perplexity,
    "r2": _r2,
}
