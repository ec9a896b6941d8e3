"""What split conformal methods share: the quantile of finite samples."""

from __future__ import annotations

import math

import numpy as np

from modelwright.methods._outputs import NumpyArray


def quantile(scores: NumpyArray, coverage: float) -> float | None:
    """The finite-sample quantile of split conformal prediction: the ceil((n + 1) coverage)-th smallest of n scores.

    Args:
        scores: (n,).
        coverage: In (0, 1).

    Returns:
        The score; None where n is too small for any.
    """
    place = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 0.9 is not nine tenths in binary
    return None if place > len(scores) else float(np.partition(scores, place - 1)[place - 1])
