"""Split conformal prediction: intervals that hold the right number as often as is asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._method import Params
from modelwright.methods._outputs import NumpyArray, OutputMethod, fixed, on_outputs
from modelwright.methods.calibration._conformal import quantile


class ConformalIntervalsParams(Params):
    """Parameters of `conformal_intervals`."""

    coverage: float = Field(0.9, gt=0, lt=1, description="How often the interval must hold the right number, at least.")


@on_outputs(ConformalIntervalsParams, axes=1)
def conformal_intervals(outputs: NumpyArray, *, coverage: float = 0.9, radius: float | None) -> NumpyArray:
    """The prediction plus and minus the radius.

    Args:
        outputs: Values (n,).
        coverage: As for `fit_intervals`; unused here.
        radius: From `fit_intervals`; None is infinite.

    Returns:
        Lower and upper ends, (n, 2).

    Source:
        Lei et al. 2018, arXiv:1604.04173, algorithm 2.
    """
    reach = math.inf if radius is None else radius
    return np.stack([outputs - reach, outputs + reach], axis=-1)


def fit_intervals(outputs: NumpyArray, labels: NumpyArray, *, coverage: float = 0.9) -> dict[str, Any]:
    """The radius: the ceil((n + 1) coverage)-th smallest absolute error of n samples.

    Args:
        outputs: Values (n,).
        labels: Numbers (n,).
        coverage: In (0, 1).

    Returns:
        `radius`; None where there are too few samples for any.

    Raises:
        InputError: There is more than one number a sample.
    """
    if outputs.ndim != 1:
        raise InputError(f"conformal_intervals takes one number a sample, got {outputs.shape[1:]}")
    return {"radius": quantile(np.abs(labels - outputs), coverage)}


CONFORMAL_INTERVALS = OutputMethod(
    name="conformal_intervals",
    title="Conformal intervals",
    paper="arXiv:1604.04173",
    summary="Intervals of one width that hold the right number as often as is asked for, whatever the model is.",
    kind="calibration",
    function=conformal_intervals,
    params=ConformalIntervalsParams,
    takes=frozenset({"regression"}),
    space=fixed("values"),
    gives="intervals",
    fit=fit_intervals,
)
