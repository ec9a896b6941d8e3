"""The largest of what members say."""

from __future__ import annotations

from pydantic import Field

from modelwright.methods._method import Params
from modelwright.methods._outputs import VALUES, NumpyArray, OutputMethod, Space, chosen, finished, on_outputs


class MaximumParams(Params):
    """Parameters of `maximum`."""

    space: Space = Field("probabilities", description="Where the maximum is taken.")


@on_outputs(MaximumParams)
def maximum(outputs: NumpyArray, *, space: str = "probabilities") -> NumpyArray:
    """The largest value of each number over members: the most confident member decides.

    Args:
        outputs: (M, n, C) on the scale of `space`; values (M, n, ...) for `space="values"`.
        space: As in `median`.

    Returns:
        Probabilities (n, C), divided by their sum, or values (n, ...).

    Example:
        >>> import numpy as np
        >>> maximum(np.array([[[0.6, 0.4]], [[0.0, 1.0]]]))
        array([[0.375, 0.625]])

    Source:
        Kittler et al. 1998, "On combining classifiers", the max rule with equal priors.
    """
    return finished(outputs.max(axis=0), space)


MAXIMUM = OutputMethod(
    name="maximum",
    title="Maximum",
    paper="doi:10.1109/34.667881",
    summary="The largest value of each number: for members that are sure only where they know.",
    kind="ensembling",
    function=maximum,
    params=MaximumParams,
    takes=VALUES,
    space=chosen,
    laws=frozenset({"single", "identity", "permutation", "duplicates", "classes", "shift", "scaling"}),
    differs=("The paper decides only; here the maxima are divided by their sum, so that they are probabilities.",),
)
