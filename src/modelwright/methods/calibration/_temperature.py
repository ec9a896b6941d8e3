"""Temperature scaling."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.errors import needs
from modelwright.methods._outputs import (
    CLASSES,
    NoParams,
    NumpyArray,
    OutputMethod,
    check_fit,
    fixed,
    of_labels,
    on_outputs,
)
from modelwright.tensors import softmax

#: Temperatures are looked for between 1 / this and this.
HOTTEST = 100.0


class TemperatureParams(NoParams):
    """Parameters of `temperature`: none."""


@on_outputs(TemperatureParams, axes=2)
def temperature(outputs: NumpyArray, *, temperature: float) -> NumpyArray:
    """softmax(z / T): above 1 less sure, below 1 surer; answers stay what they are.

    Args:
        outputs: Logits (n, C).
        temperature: T, above 0.

    Returns:
        Probabilities (n, C).

    Differs:
        See `TEMPERATURE.differs`.

    Example:
        >>> import numpy as np
        >>> temperature(np.log([[0.9, 0.1]]), temperature=2.0)
        array([[0.75, 0.25]])

    Source:
        Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    return softmax(outputs / temperature)


def fit_temperature(outputs: NumpyArray, labels: NumpyArray) -> dict[str, Any]:
    """The temperature that minimises the log loss.

    The loss is convex in b = 1 / T, and its slope, the mean over samples of sum_c p_c z_c - z_y, rises with b: the optimum is
    its zero, found by Brent's method in log T. Where there is none in [1/100, 100], as for logits without a mistake or without
    any relation to labels, the end of the range is taken.

    Args:
        outputs: Logits (n, C).
        labels: Class indices (n,).

    Returns:
        `temperature`.

    Raises:
        InputError: There are labels of one class only.
    """
    check_fit("temperature", outputs, labels)
    optimize = needs("scipy.optimize", "learning temperatures")
    right = of_labels(outputs, labels).mean()

    def slope(heat: float) -> float:
        return float((softmax(outputs / np.exp(heat)) * outputs).sum(axis=-1).mean() - right)

    low, high = -np.log(HOTTEST), np.log(HOTTEST)
    if slope(low) <= 0:  # even the coldest is not sure enough
        return {"temperature": 1 / HOTTEST}
    if slope(high) >= 0:
        return {"temperature": HOTTEST}
    return {"temperature": float(np.exp(optimize.brentq(slope, low, high, xtol=1e-12, rtol=1e-12)))}


TEMPERATURE = OutputMethod(
    name="temperature",
    title="Temperature scaling",
    paper="arXiv:1706.04599",
    summary="One number that all logits are divided by: the first calibration to try, for it cannot change an answer.",
    kind="calibration",
    function=temperature,
    params=TemperatureParams,
    takes=CLASSES,
    space=fixed("logits"),
    laws=frozenset({"classes", "shift", "answer"}),
    fit=fit_temperature,
    differs=("The paper's code takes 50 steps of L-BFGS; here the optimum is a root that is found to twelve digits.",),
)
