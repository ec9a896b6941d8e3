"""How good a model is, and how far the experts pull in different directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.demo._result import Geometry, Kind, Row
from modelwright.demo._tasks import Split, Tasks
from modelwright.tensors import Array, dot, keep_ranks, norm
from modelwright.train import Weights, mlp_probabilities

Predict = Callable[[Array], Array]

#: The share of a task vector in which sign conflicts are counted: its largest entries, those that TIES keeps.
LARGEST = 0.2


def single(weights: Weights) -> Predict:
    """The class probabilities of one model."""
    return lambda inputs: mlp_probabilities(weights, inputs)


def ensemble(models: Sequence[Weights]) -> Predict:
    """The mean of the models' class probabilities: every model runs on every image."""
    return lambda inputs: np.mean([mlp_probabilities(weights, inputs) for weights in models], axis=0)


def hits(predict: Predict, tasks: Tasks, split: Split) -> Array:
    """Which images are classified rightly in each task's view: booleans of shape (tasks, n)."""
    guesses = [predict(tasks.inputs(task, split)).argmax(axis=1) for task in tasks.transforms]
    return np.stack(guesses) == split.labels


def margin(values: Array) -> float:
    """Half the width of the 95 % interval of the mean of n values."""
    return float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def difference(first: Array, second: Array) -> tuple[float, float]:
    """Mean accuracy of one model minus that of another, and the 95 % half-width, paired by image.

    Args:
        first: Its `hits`.
        second: The other's. An image counts once, with its mean over the tasks: its views are not independent.
    """
    values = first.mean(axis=0) - second.mean(axis=0)
    return float(values.mean()), margin(values)


class Scoreboard:
    """Collects the rows of the table.

    Args:
        tasks: The data.
        experts: The model tuned for each task, by the task's name.

    Attributes:
        rows: What was added.
        hits: For each of them which test images it gets right.
    """

    def __init__(self, tasks: Tasks, experts: Mapping[str, Weights]):
        self.tasks = tasks
        self.rows: list[Row] = []
        self.hits: dict[str, Array] = {}
        own = [hits(single(experts[task]), tasks, tasks.test)[i].mean() for i, task in enumerate(tasks.transforms)]
        self._own = np.array(own)

    def add(self, name: str, kind: Kind, experts: int, predict: Predict, **measured: Any) -> Row:
        """Score a model on all tasks."""
        found = hits(predict, self.tasks, self.tasks.test)
        accuracy = found.mean(axis=1)
        row = Row(
            name,
            kind,
            experts,
            accuracy=dict(zip(self.tasks.transforms, accuracy.tolist(), strict=True)),
            margin=margin(found.mean(axis=0)),
            normalised=float(np.mean(accuracy / self._own)),
            validation=self.validation(predict),
            **measured,
        )
        self.rows.append(row)
        self.hits[name] = found
        return row

    def ordered(self) -> tuple[Row, ...]:
        """The merges last, best on the validation images first; the others as they were added."""
        merges = [row for row in self.rows if row.kind == "merge"]
        others = [row for row in self.rows if row.kind != "merge"]
        return (*others, *sorted(merges, key=lambda row: -row.validation))

    def validation(self, predict: Predict) -> float:
        """Mean accuracy on the validation images, for choices."""
        return float(hits(predict, self.tasks, self.tasks.validation).mean())


def geometry(base: Weights, experts: Sequence[Weights]) -> list[Geometry]:
    """How the task vectors lie to each other, for every weight matrix that fine-tuning changed."""
    matrices = [name for name in base if base[name].ndim == 2]
    changed = [name for name in matrices if any(np.any(expert[name] != base[name]) for expert in experts)]
    return [_geometry(name, [(expert[name] - base[name]).reshape(-1) for expert in experts]) for name in changed]


def _geometry(layer: str, deltas: Sequence[Array]) -> Geometry:
    large = [keep_ranks(np.abs(delta), 0, max(1, int(LARGEST * delta.size))) for delta in deltas]

    def cosine(i: int, j: int) -> float:
        return float(dot(deltas[i], deltas[j]) / (norm(deltas[i]) * norm(deltas[j])))

    def conflict(i: int, j: int) -> float:
        both = large[i] & large[j]
        return float(np.mean(np.sign(deltas[i][both]) != np.sign(deltas[j][both]))) if both.any() else 0.0

    return Geometry(layer, _pairwise(cosine, len(deltas)), _pairwise(conflict, len(deltas)))


def _pairwise(measure: Callable[[int, int], float], count: int) -> Array:
    return np.array([[measure(i, j) for j in range(count)] for i in range(count)])
