"""The mean of members with a temperature before it, after it, or both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from modelwright.errors import needs
from modelwright.methods._method import Params
from modelwright.methods._outputs import (
    CLASSES,
    NumpyArray,
    OutputMethod,
    check_fit,
    fixed,
    log_loss,
    of_labels,
    on_outputs,
)
from modelwright.methods.calibration._temperature import HOTTEST, fit_temperature
from modelwright.tensors import log, softmax


class TemperedMeanParams(Params):
    """Parameters of `tempered_mean`."""

    place: Literal["before", "after", "both"] = Field(
        "after",
        description="Where the temperature is: on members' logits, on the logarithm of their mean, or one at each.",
    )


@on_outputs(TemperedMeanParams)
def tempered_mean(outputs: NumpyArray, *, place: str = "after", before: float = 1.0, after: float = 1.0) -> NumpyArray:
    """softmax(log(mean_m softmax(z_m / before)) / after).

    Args:
        outputs: Logits (M, n, C).
        place: As for `fit_tempered`; unused here.
        before: Temperature of the members' logits, one for all.
        after: Temperature of the ensemble.

    Returns:
        Probabilities (n, C).

    Differs:
        See `TEMPERED_MEAN.differs`.

    Source:
        Rahaman and Thiery 2021, arXiv:2007.08792, section 3.
    """
    total = np.zeros(outputs.shape[1:])
    for member in outputs:
        total += softmax(member if before == 1 else member / before)
    total /= len(outputs)
    return total if after == 1 else softmax(log(total) / after)


def fit_tempered(outputs: NumpyArray, labels: NumpyArray, *, place: str = "after") -> dict[str, Any]:
    """The temperatures that minimise the log loss of the ensemble.

    Args:
        outputs: Logits (M, n, C).
        labels: Class indices (n,).
        place: `before`, `after` or `both`.

    Returns:
        `before` and `after`; one that is not learnt is 1.

    Raises:
        InputError: There are labels of one class only.
    """
    check_fit("tempered_mean", outputs, labels)

    def early(heat: float) -> float:
        return log_loss(of_labels(tempered(outputs, heat), labels))

    def early_and_late(heat: float) -> float:
        return _loss(outputs, labels, heat, _after(outputs, labels, heat))

    if place == "after":
        return {"before": 1.0, "after": _after(outputs, labels, 1.0)}
    if place == "before":
        return {"before": _least(early), "after": 1.0}
    before = _least(early_and_late)
    return {"before": before, "after": _after(outputs, labels, before)}


def tempered(outputs: NumpyArray, before: float) -> NumpyArray:
    """The mean of probabilities at a temperature of the members' logits."""
    return tempered_mean.__wrapped__(outputs, before=before)  # type: ignore[reportFunctionMemberAccess]


def _after(outputs: NumpyArray, labels: NumpyArray, before: float) -> float:
    return float(fit_temperature(log(tempered(outputs, before)), labels)["temperature"])


def _loss(outputs: NumpyArray, labels: NumpyArray, before: float, after: float) -> float:
    return log_loss(of_labels(softmax(log(tempered(outputs, before)) / after), labels))


def _least(loss: Callable[[float], float]) -> float:
    """The temperature of the least loss: the best of a grid, then Brent's method around it; a loss may have several valleys."""
    optimize = needs("scipy.optimize", "learning temperatures")
    reach = math.log(HOTTEST)
    grid = [reach * (i / 12 - 1) for i in range(25)]

    def at(heat: float) -> float:
        return loss(math.exp(heat))

    losses = [at(heat) for heat in grid]
    best = losses.index(min(losses))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(at, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return math.exp(float(found.x) if found.fun <= losses[best] else grid[best])


TEMPERED_MEAN = OutputMethod(
    name="tempered_mean",
    title="Tempered mean",
    paper="arXiv:2007.08792",
    summary="The mean of probabilities with a temperature that is learnt for the ensemble: averages of calibrated members are not sure enough.",
    kind="ensembling",
    function=tempered_mean,
    params=TemperedMeanParams,
    takes=CLASSES,
    space=fixed("logits"),
    laws=frozenset({"classes", "shift"}),
    fit=fit_tempered,
    differs=(
        "`before` is one temperature for all members, learnt on the loss of their mean. For a temperature of each member's own, "
        "learnt on its own loss, calibrate the bank and take the mean.",
    ),
)
