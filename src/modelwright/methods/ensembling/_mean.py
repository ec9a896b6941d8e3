"""Averages of what members say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from modelwright.methods._method import PER_MODEL, Params
from modelwright.methods._outputs import (
    VALUES,
    NumpyArray,
    OutputMethod,
    Space,
    chosen,
    finished,
    on_outputs,
    shares,
    weighted,
)


class MeanParams(Params):
    """Parameters of `mean`."""

    space: Space = Field("probabilities", description="Where answers are averaged.")
    weight: Annotated[float, PER_MODEL] = Field(1.0, ge=0, description="Weight of this member; only ratios matter.")


@on_outputs(MeanParams)
def mean(outputs: NumpyArray, *, space: str = "probabilities", weight: float | Sequence[float] = 1.0) -> NumpyArray:
    """Weighted average: sum_m w_m z_m / sum_m w_m, of probabilities, or of logits with a softmax after it.

    The mean of probabilities is the linear opinion pool, that of logits the normalised geometric mean, or logarithmic pool.

    Args:
        outputs: (M, n, C) on the scale of `space`; values (M, n, ...) for `space="values"`.
        space: `probabilities`, `logits`, `log-probabilities`, or `values` for what are no classes.
        weight: One number for all, or M numbers, at least 0.

    Returns:
        Probabilities (n, C), or values (n, ...).

    Raises:
        InputError: A value is not finite, or all weights are 0.

    Differs:
        See `MEAN.differs`.

    Example:
        >>> import numpy as np
        >>> mean(np.array([[[0.9, 0.1]], [[0.5, 0.5]]]))
        array([[0.7, 0.3]])

    Source:
        Lakshminarayanan et al. 2017, arXiv:1612.01474, for probabilities.
    """
    weights = weight if isinstance(weight, Sequence) else [weight] * len(outputs)
    return finished(weighted(outputs, shares("mean", weights)), space)


MEAN = OutputMethod(
    name="mean",
    title="Mean",
    paper="arXiv:1612.01474",
    summary="The average of probabilities, of logits or of log-probabilities, as said: the first thing to try.",
    kind="ensembling",
    function=mean,
    params=MeanParams,
    takes=VALUES,
    space=chosen,
    laws=frozenset({"single", "identity", "permutation", "duplicates", "classes", "shift", "scaling"}),
    differs=(
        "The paper averages probabilities; `space: logits` and `space: log-probabilities` give the same result as each other, "
        "because they differ by one number for each member and sample, which the softmax takes away.",
    ),
)
