"""A task: items, what is asked of a model about them, and how its answers are scored."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xxhash

from modelwright.errors import InputError, listing
from modelwright.evaluate._items import Items, Splits, content
from modelwright.evaluate._metrics import METRICS, Metric

if TYPE_CHECKING:
    from modelwright.evaluate._predictor import Predictor


@dataclass(frozen=True)
class Scored:
    """What a system answered about n items, and what it is worth: the columns of `Records`.

    Attributes:
        answers: As text: a class's name, a number, what was generated.
        targets: As text, likewise.
        scores: float64 (n,), by the task's metric.
        weights: float64 (n,); what an item counts in the mean, such as its tokens. None: all the same.
        probabilities: float64 (n, classes), or n arrays of different lengths where items have different choices; each
            sums to 1. None where a system gives none.
        confidences: float64 (n,) in [0, 1]: the probability of the answer.
        calls: How often the system was asked about an item; None where unknown.
        tokens_in: Tokens read about an item; None where unknown.
        tokens_out: Tokens generated; None where unknown.
        money: What it cost, float64 (n,); None where the system does not know its prices.
    """

    answers: Sequence[str]
    targets: Sequence[str]
    scores: np.ndarray
    weights: np.ndarray | None = None
    probabilities: np.ndarray | Sequence[np.ndarray] | None = None
    confidences: np.ndarray | None = None
    calls: np.ndarray | int | None = 1
    tokens_in: np.ndarray | int | None = 0
    tokens_out: np.ndarray | int | None = 0
    money: np.ndarray | None = None

    @property
    def table(self) -> np.ndarray | None:
        """The probabilities as one array (n, classes); None where there are none, or not the same number for each item."""
        rows = self.probabilities
        if rows is None or isinstance(rows, np.ndarray):
            return rows
        return np.stack(rows) if len({len(row) for row in rows}) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Data and metric.

    Attributes:
        name: How tables and records call it.
        splits: Its items.
        metric: What is measured.
    """

    name: str
    splits: Splits
    metric: Metric

    def __post_init__(self) -> None:
        if not self.name or any(c in self.name for c in "/\\\0\n") or self.name.startswith("."):
            raise InputError(f"a task's name must be a file's name, got {self.name!r}")
        if self.asks and self.metric.asks != self.asks:
            fitting = [name for name, known in METRICS.items() if known.asks == self.asks]
            raise InputError(
                f"the metric '{self.metric.name}' judges {self.metric.asks}, and a {type(self).__name__} gives {self.asks}",
                f"Fitting: {listing(fitting)}.",
            )

    #: Which method of a Predictor it calls.
    asks: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities; empty where there are none."""
        return ()

    @abstractmethod
    def check(self, items: Items, split: str) -> None:
        """Refuse items that cannot be asked about.

        Raises:
            InputError: Such as labels out of range.
        """

    @abstractmethod
    def score(self, predictor: Predictor, items: Items) -> Scored:
        """Ask about a batch of items."""

    def items(self, split: str = "test") -> Items:
        """The items of a split, checked.

        Raises:
            InputError: There is no such split, it may not be read, or its items are wrong.
        """
        try:
            items = self.splits[split]
            self.check(items, split)
        except InputError as error:
            raise InputError([replace(p, where=p.where or f"task {self.name}") for p in error.problems]) from None
        return items

    def for_search(self) -> Self:
        """The task without its test items."""
        return replace(self, splits=self.splits.for_search())

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What, beside the items, an answer's score depends on; plain values."""
        return {"kind": type(self).__name__, "metric": self.metric.name, "classes": list(self.classes)}

    @cached_property
    def _fingerprints(self) -> dict[tuple[str, int | None], str]:
        return {}

    def fingerprint(self, split: str, limit: int | None = None) -> str:
        """A hash of all that a result depends on: settings, and each item's id, input, target and slices, in any order.

        Args:
            split: Of these items.
            limit: Of that many of them, see `Items.first`.
        """
        if (split, limit) not in self._fingerprints:
            items = self.items(split) if limit is None else self.items(split).first(limit)
            digest = xxhash.xxh3_128(json.dumps(self.settings, sort_keys=True, default=str).encode())
            for _, hashed in sorted(zip(items.ids, _hashed(items), strict=True)):
                digest.update(hashed)
            self._fingerprints[split, limit] = digest.hexdigest()
        return self._fingerprints[split, limit]


def _hashed(items: Items) -> Iterator[bytes]:
    """A hash of each item."""
    slices = sorted(items.slices.items())
    for i, name in enumerate(items.ids):
        said = [name, *(f"{key}={values[i]}" for key, values in slices)]
        yield content(said) + content([items.inputs[i]]) + content([items.targets[i]])


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Which of several classes an input belongs to.

    Targets are indices into `names`. Metrics: `accuracy`, `log_loss`, `brier`, and those of the whole set, such as
    `macro_f1`.

    Attributes:
        names: The classes, in the order of the probabilities.
    """

    names: tuple[str, ...]
    asks: str = "probabilities"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.names

    def check(self, items: Items, split: str) -> None:
        """Targets must be indices of classes."""
        targets = np.asarray(items.targets)
        if targets.dtype.kind not in "iu" or targets.ndim != 1:
            raise InputError(
                f"{split}: class labels must be whole numbers, got {targets.dtype} of shape {targets.shape}"
            )
        wrong = np.flatnonzero((targets < 0) | (targets >= len(self.names)))
        if wrong.size:
            raise InputError(
                f"{split}: labels must be in [0, {len(self.names) - 1}] for {len(self.names)} classes, "
                f"got {targets[wrong[0]]} for item '{items.ids[wrong[0]]}'"
            )

    def score(self, predictor: Predictor, items: Items) -> Scored:
        """Probabilities of the classes; the answer is the most probable, the first of equal ones."""
        probabilities = predictor.checked_probabilities(items, len(self.names))
        guesses, targets = probabilities.argmax(axis=1), np.asarray(items.targets)
        return Scored(
            answers=[self.names[i] for i in guesses],
            targets=[self.names[i] for i in targets],
            scores=self.metric.of_probabilities(probabilities, targets),
            probabilities=probabilities,
            confidences=probabilities.max(axis=1),
        )


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """A number for each input. Metrics: `squared_error`, `absolute_error`, `r2`, `pearson`, `spearman`."""

    asks: str = "values"

    def check(self, items: Items, split: str) -> None:
        """Targets must be finite numbers."""
        targets = np.asarray(items.targets)
        if targets.dtype.kind not in "iuf" or targets.ndim != 1:
            raise InputError(f"{split}: targets must be numbers, got {targets.dtype} of shape {targets.shape}")
        wrong = np.flatnonzero(~np.isfinite(targets))
        if wrong.size:
            raise InputError(
                f"{split}: targets must be finite, got {targets[wrong[0]]} for item '{items.ids[wrong[0]]}'"
            )

    def score(self, predictor: Predictor, items: Items) -> Scored:
        """One value an item."""
        values, targets = predictor.checked_values(items), np.asarray(items.targets, dtype=np.float64)
        return Scored(
            answers=[repr(float(v)) for v in values],
            targets=[repr(float(v)) for v in targets],
            scores=self.metric.of_values(values, targets),
        )
