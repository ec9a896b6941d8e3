"""Ensemble selection: members are added one by one, with replacement, while it helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._method import Params
from modelwright.methods._outputs import (
    VALUES,
    NumpyArray,
    OutputMethod,
    check_fit,
    finished,
    fixed,
    log_loss,
    of_labels,
    on_outputs,
    weighted,
)
from modelwright.tensors import NoiseKey, uniform

#: (sum of what is chosen (n, C), how many that is, labels) -> a loss.
Loss = Callable[[NumpyArray, int, NumpyArray], float]


class GreedyParams(Params):
    """Parameters of `greedy`."""

    metric: Literal["log_loss", "accuracy", "brier", "squared_error"] = Field(
        "log_loss", description="What members are chosen by; squared_error for values, where it is the only one."
    )
    rounds: int = Field(50, ge=1, description="How many are chosen, each perhaps more than once.")
    start: int = Field(1, ge=1, description="How many of the best members are in from the start.")
    bags: int = Field(1, ge=1, description="How many selections are averaged, each from a random part of the members.")
    share: float = Field(0.5, gt=0, le=1, description="Which share of the members a bag has; all with one bag.")
    seed: int = Field(0, ge=0, description="Of the bags.")


@on_outputs(GreedyParams)
def greedy(
    outputs: NumpyArray,
    *,
    metric: str = "log_loss",
    rounds: int = 50,
    start: int = 1,
    bags: int = 1,
    share: float = 0.5,
    seed: int = 0,
    weights: Sequence[float],
    space: str = "probabilities",
) -> NumpyArray:
    """The mean of the members that were chosen, each as often as it was.

    Args:
        outputs: Probabilities (M, n, C), or values (M, n, ...).
        metric: As for `fit_greedy`, like all that follow but the last two; nothing is chosen here.
        rounds: How many were chosen.
        start: How many were in from the start.
        bags: How many selections were averaged.
        share: Which share of the members a bag had.
        seed: Of the bags.
        weights: Shares of the choices, M numbers.
        space: `probabilities` or `values`.

    Returns:
        Probabilities (n, C), or values (n, ...).

    Differs:
        See `GREEDY.differs`.

    Source:
        Caruana et al. 2004, "Ensemble selection from libraries of models".
    """
    return finished(weighted(outputs, weights), space)


def fit_greedy(
    outputs: NumpyArray,
    labels: NumpyArray,
    *,
    metric: str = "log_loss",
    rounds: int = 50,
    start: int = 1,
    bags: int = 1,
    share: float = 0.5,
    seed: int = 0,
    space: str = "probabilities",
) -> dict[str, Any]:
    """Choose members on labelled data.

    Starting with the `start` best members, the one is added whose mean with what is chosen has the least loss, the first of
    several, whether it is in already or not; after `rounds` choices the best ensemble on the way is taken, the smallest of
    several. With several bags each chooses from max(1, round(share M)) members drawn without replacement, and their weights
    are averaged.

    Args:
        outputs: Probabilities (M, n, C), or values (M, n, ...).
        labels: Class indices (n,), or values (n, ...).
        metric: `log_loss`, `accuracy`, `brier`; `squared_error` for values.
        rounds: How many are chosen, those of the start among them.
        start: How many are in from the start, at most `rounds`.
        bags: How many selections are averaged.
        share: Which share of the members a bag has, in (0, 1].
        seed: Of the bags.
        space: `probabilities` or `values`.

    Returns:
        `weights`, which sum to 1, and `path`: for each bag the members in the order of their choice, and the loss after each.

    Raises:
        InputError: The metric does not go with the labels, there are labels of one class only, or `start` is above `rounds`.
    """
    if start > rounds:
        raise InputError(f"greedy: start must be at most rounds, got {start} and {rounds}")
    if space == "values":
        metric = "squared_error" if metric == "log_loss" else metric  # the default of classes
    if (metric == "squared_error") != (space == "values"):
        raise InputError(
            f"greedy: {metric} does not judge {space}", "squared_error is for values, the others are for classes."
        )
    if space != "values":
        check_fit("greedy", outputs, labels)
    count = len(outputs)
    weights, path = np.zeros(count), list[dict[str, list[Any]]]()
    for bag in range(bags):
        order = np.argsort(uniform(NoiseKey(seed, "bag"), bag, count), kind="stable")  # type: ignore[reportArgumentType]
        members = sorted(order[: max(1, round(share * count))].tolist()) if bags > 1 else list(range(count))
        chosen, losses = _selected(outputs, labels, metric, members, rounds, start)
        best = int(np.argmin(losses))
        first = min(start, len(members)) if best == 0 else min(start, len(members)) + best
        weights += np.bincount(chosen[:first], minlength=count) / first
        path.append({"members": chosen, "losses": losses})
    return {"weights": (weights / bags).tolist(), "path": path}


def _selected(
    outputs: NumpyArray, labels: NumpyArray, metric: str, members: list[int], rounds: int, start: int
) -> tuple[list[int], list[float]]:
    """All choices, and the loss of the start and of each choice after it."""
    seen, loss = _seen(outputs, labels, metric)
    alone = {i: loss(seen[i], 1, labels) for i in members}
    chosen = sorted(members, key=alone.__getitem__)[:start]  # stable: of equal ones the first
    total = np.sum([seen[i] for i in chosen], axis=0)
    losses = [loss(total, len(chosen), labels)]
    while len(chosen) < rounds:
        trials = [loss(total + seen[i], len(chosen) + 1, labels) for i in members]
        best = int(np.argmin(trials))
        chosen.append(members[best])
        total = total + seen[members[best]]
        losses.append(trials[best])
    return chosen, losses


def _seen(outputs: NumpyArray, labels: NumpyArray, metric: str) -> tuple[NumpyArray, Loss]:
    """What a loss looks at, and the loss of a sum of so many of it."""
    if metric == "log_loss":  # the right class alone
        return of_labels(outputs, labels), lambda total, count, _labels: log_loss(total / count)
    if metric == "accuracy":
        return outputs, lambda total, _count, right: float((total.argmax(axis=-1) != right).mean())
    if metric == "brier":
        wanted = np.eye(outputs.shape[-1])[labels]
        return outputs, lambda total, count, _labels: float(((total / count - wanted) ** 2).sum(axis=-1).mean())
    return outputs, lambda total, count, right: float(((total / count - right) ** 2).mean())


GREEDY = OutputMethod(
    name="greedy",
    title="Ensemble selection",
    paper="doi:10.1145/1015330.1015432",
    summary="Members are added one by one with replacement, by whichever metric is asked for: for many members, good and bad.",
    kind="ensembling",
    function=greedy,
    params=GreedyParams,
    takes=VALUES,
    space=fixed("probabilities"),
    laws=frozenset({"classes", "shift"}),
    fit=fit_greedy,
    right_only=lambda params: params["metric"] == "log_loss",
    differs=(
        "The paper stops where nothing helps any more, or takes the best ensemble on the way; here it is the latter, after a fixed "
        "number of choices.",
        "Bags are off by default; the paper's larger libraries use 20 of half the members.",
    ),
)
