"""The median of what members say."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from modelwright.methods._method import Params
from modelwright.methods._outputs import VALUES, NumpyArray, OutputMethod, Space, chosen, finished, on_outputs


class MedianParams(Params):
    """Parameters of `median`."""

    space: Space = Field("probabilities", description="Where the median is taken.")


@on_outputs(MedianParams)
def median(outputs: NumpyArray, *, space: str = "probabilities") -> NumpyArray:
    """The median of each number over members, the mean of the middle two where their count is even.

    Medians of probabilities do not sum to 1; they are divided by their sum, and an even share is given where all are 0.

    Args:
        outputs: (M, n, C) on the scale of `space`; values (M, n, ...) for `space="values"`.
        space: As in `mean`. Medians of logits depend on a number added to one member's logits; those of log-probabilities do not.

    Returns:
        Probabilities (n, C), or values (n, ...).

    Example:
        >>> import numpy as np
        >>> median(np.array([[[0.8, 0.2]], [[0.6, 0.4]], [[0.0, 1.0]]]))
        array([[0.6, 0.4]])
    """
    ordered = np.sort(outputs, axis=0)
    low, high = (len(ordered) - 1) // 2, len(ordered) // 2
    return finished(ordered[low] if low == high else (ordered[low] + ordered[high]) / 2, space)


MEDIAN = OutputMethod(
    name="median",
    title="Median",
    paper="",
    summary="The middle of what members say, number by number: less than half of them can be wild without harm.",
    kind="ensembling",
    function=median,
    params=MedianParams,
    takes=VALUES,
    space=chosen,
    laws=frozenset({"single", "identity", "permutation", "duplicates", "classes", "shift", "scaling"}),
)
