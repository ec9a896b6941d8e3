"""The mean of what members say without the extremes."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from modelwright.methods._method import Params
from modelwright.methods._outputs import VALUES, NumpyArray, OutputMethod, Space, chosen, finished, on_outputs


class TrimmedParams(Params):
    """Parameters of `trimmed`."""

    space: Space = Field("probabilities", description="Where the mean is taken.")
    trim: float = Field(0.2, ge=0, lt=0.5, description="Share of the members that is left out at either end.")


@on_outputs(TrimmedParams)
def trimmed(outputs: NumpyArray, *, space: str = "probabilities", trim: float = 0.2) -> NumpyArray:
    """Sort the M values of each number, leave out int(trim M) at either end, average the rest.

    Args:
        outputs: (M, n, C) on the scale of `space`; values (M, n, ...) for `space="values"`.
        space: As in `median`.
        trim: Share left out at either end, in [0, 0.5).

    Returns:
        Probabilities (n, C), divided by their sum, or values (n, ...).

    Example:
        >>> import numpy as np
        >>> trimmed(np.array([[[1.0]], [[2.0]], [[30.0]]]), space="values", trim=0.34)
        array([[2.]])
    """
    ordered = np.sort(outputs, axis=0)
    cut = int(trim * len(ordered))
    kept = ordered[cut : len(ordered) - cut]
    return finished(kept.sum(axis=0) / len(kept), space)


TRIMMED = OutputMethod(
    name="trimmed",
    title="Trimmed mean of answers",
    paper="",
    summary="The average without the extremes of each number: between mean and median.",
    kind="ensembling",
    function=trimmed,
    params=TrimmedParams,
    takes=VALUES,
    space=chosen,
    laws=frozenset({"single", "identity", "permutation", "classes", "shift", "scaling"}),
    differs=("How many are left out is rounded down, so that few members may lose none.",),
)
