"""What vector and matrix scaling share: multinomial logistic regression on logits, from the identity on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from modelwright.errors import RunError, needs
from modelwright.methods._outputs import NumpyArray, of_labels
from modelwright.tensors import softmax

#: Steps of L-BFGS after which it is given up.
_MOST = 5000


def least_log_loss(
    logits: NumpyArray,
    labels: NumpyArray,
    start: NumpyArray,
    forward: Callable[[NumpyArray], NumpyArray],
    backward: Callable[[NumpyArray], NumpyArray],
    penalty: Callable[[NumpyArray], tuple[float, NumpyArray]],
    name: str,
) -> NumpyArray:
    """Parameters of the least log loss plus penalty, by L-BFGS.

    Args:
        logits: (n, C).
        labels: Class indices (n,).
        start: Where to begin.
        forward: Parameters -> new logits (n, C).
        backward: Slopes of the new logits (n, C) -> slopes of the parameters.
        penalty: Parameters -> penalty and its slopes.
        name: For messages.

    Raises:
        RunError: It does not converge.
    """
    optimize = needs("scipy.optimize", "calibration")
    wanted = np.zeros_like(logits)
    wanted[np.arange(len(labels)), labels] = 1.0

    def loss(parameters: NumpyArray) -> tuple[float, NumpyArray]:
        new = forward(parameters)
        peak = new.max(axis=-1)
        sums = peak + np.log(np.exp(new - peak[:, None]).sum(axis=-1))
        extra, slopes = penalty(parameters)
        value = float((sums - of_labels(new, labels)).mean()) + extra
        return value, backward((softmax(new) - wanted) / len(labels)) + slopes

    options: dict[str, Any] = {"maxiter": _MOST, "maxfun": 2 * _MOST, "ftol": 1e-13, "gtol": 1e-9}
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    if not np.isfinite(found.x).all() or found.nit >= _MOST:
        raise RunError(
            f"{name} scaling does not converge in {_MOST:,} steps: classes that can be told apart without a mistake make its "
            "weights grow without end. Use temperature scaling, more samples, or a penalty"
        )
    return found.x
