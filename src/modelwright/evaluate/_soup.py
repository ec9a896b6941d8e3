"""Greedy soups: which of many fine-tuned models to average, decided on validation items."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modelwright.api import merge, open_model as open_checkpoint
from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError
from modelwright.evaluate._items import Items
from modelwright.evaluate._metrics import Whole
from modelwright.evaluate._predictor import Predictor
from modelwright.evaluate._task import Task

#: How good a model is: higher is better.
Scorer = Callable[[Checkpoint], float]


@dataclass(frozen=True)
class Soup:
    """An average of some models, and how it came about.

    Attributes:
        weights: The mean of the ingredients, computed when it is read or saved.
        ingredients: Positions of the models in it, in the order in which they joined.
        order: Positions of all models, in the order in which they were tried.
        singles: What each model scores alone, by position.
        trace: The soup's score after each ingredient: it starts at the best single one and never falls.
        tried: What the soup would score with each further model, in the order of trying.
    """

    weights: Checkpoint
    ingredients: tuple[int, ...]
    order: tuple[int, ...]
    singles: tuple[float, ...]
    trace: tuple[float, ...]
    tried: tuple[float, ...]


def greedy_soup(
    models: Iterable[Any], score: Scorer, *, strict: bool = False, order: Literal["score", "given"] = "score"
) -> Soup:
    """Go through the models from best to worst, and keep each that does not make their average worse.

    soup = {best}; for each other model j in order: soup = soup + {j} if score(mean(soup + {j})) >= score(mean(soup)).

    Args:
        models: n >= 1 models, as `merge` takes them, tuned from one start. Of models that were started apart an average
            is worth nothing.
        score: Judges a model by items that are there to choose with, such as `validation_score`; never by test items.
        strict: A model must make the average better, as in the authors' code; the paper lets equal ones in.
        order: `score`: best first, the earlier of equal ones first; `given`: as they stand.

    Returns:
        The soup. Every candidate is a fresh mean of its ingredients, summed in float32.

    Raises:
        InputError: There are no models, they do not fit together, or a score is not a number.

    Differs:
        The paper keeps a running mean, which rounds once more with every ingredient. Its code tries equal scores last
        one first.

    Example:
        >>> import numpy as np
        >>> models = [{"w": np.array([w], np.float32)} for w in (3.0, -2.0, -9.0)]
        >>> soup = greedy_soup(models, lambda model: -abs(float(model["w"].read()[0])))
        >>> soup.ingredients, soup.trace, soup.weights["w"].read().tolist()
        ((1, 0), (-2.0, -0.5), [0.5])

    Source:
        Wortsman et al. 2022, arXiv:2203.05482, recipe 1.
    """
    opened = [open_checkpoint(model) for model in models]
    if not opened:
        raise InputError("a soup needs models, and there are none")
    merge(opened, method="linear")  # what does not fit together is said before anything is scored
    singles = tuple(_checked(score(model), f"model {i + 1}") for i, model in enumerate(opened))
    ranked = sorted(range(len(opened)), key=lambda i: -singles[i]) if order == "score" else list(range(len(opened)))
    ingredients, trace, tried = ranked[:1], [singles[ranked[0]]], list[float]()
    for i in ranked[1:]:
        found = _checked(score(_mean(opened, [*ingredients, i])), f"the soup with model {i + 1}")
        tried.append(found)
        if found > trace[-1] or (found == trace[-1] and not strict):
            ingredients.append(i)
            trace.append(found)
    return Soup(_mean(opened, ingredients), tuple(ingredients), tuple(ranked), singles, tuple(trace), tuple(tried))


def _mean(models: Sequence[Checkpoint], chosen: Sequence[int]) -> Checkpoint:
    return merge([models[i] for i in chosen], method="linear")


def _checked(score: float, what: str) -> float:
    if math.isnan(score):
        raise InputError(f"scores must be numbers, got NaN for {what}", "With NaN no model would ever be better.")
    return float(score)


def figure_of(task: Task, system: Predictor, items: Items) -> float:
    """What a system comes to on some items of a task."""
    found = task.score(system, items)
    whole = Whole(
        answers=np.asarray(found.answers, dtype=object),
        targets=np.asarray(found.targets, dtype=object),
        scores=found.scores,
        weights=np.ones(len(items)) if found.weights is None else found.weights,
        probabilities=found.table,
        classes=task.classes,
    )
    return task.metric.figure(whole)


def validation_score(tasks: Iterable[Task], system: Callable[[Checkpoint], Predictor]) -> Scorer:
    """A score that sees validation items only: the mean of the tasks' figures on them, negated where lower is better.

    Args:
        tasks: What the models are for, at least one; a search gets them without `test`.
        system: Makes a model that answers from weights.

    Raises:
        InputError: There are no tasks, or one has no validation items.
    """
    searched = [task.for_search() for task in tasks]
    if not searched:
        raise InputError("a score needs tasks, and there are none")
    parts = [(task, task.items("validation")) for task in searched]

    def score(weights: Checkpoint) -> float:
        answering = system(weights)
        figures: list[float] = []
        for task, items in parts:
            found = figure_of(task, answering.for_task(task), items)
            figures.append(found * (1 if task.metric.higher_is_better else -1))
        return float(np.mean(figures))

    return score
