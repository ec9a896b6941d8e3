"""Borda counts: ranks instead of probabilities."""

from __future__ import annotations

import numpy as np

from modelwright.errors import needs
from modelwright.methods._outputs import CLASSES, NoParams, NumpyArray, OutputMethod, fixed, on_outputs

#: With more classes than this, sorting is faster than comparing each with each.
_COMPARED = 64


class BordaParams(NoParams):
    """Parameters of `borda`: none."""


@on_outputs(BordaParams)
def borda(outputs: NumpyArray) -> NumpyArray:
    """Each member gives a class one point for every class that it puts below it, and half a point for every equal one.

    Args:
        outputs: (M, n, C) on any scale: only the order within a sample counts.

    Returns:
        Points (n, C) divided by the M C (C - 1) / 2 that there are, so that they sum to 1.

    Example:
        >>> import numpy as np
        >>> borda(np.array([[[0.5, 0.3, 0.2]], [[0.1, 0.8, 0.1]]]))
        array([[0.41666667, 0.5       , 0.08333333]])

    Source:
        Ho et al. 1994, "Decision combination in multiple classifier systems".
    """
    count = outputs.shape[-1]
    points = np.zeros(outputs.shape[1:])
    for member in outputs:
        points += _points(member) if count <= _COMPARED else _sorted_points(member)
    return points / (len(outputs) * count * (count - 1) / 2)


def _points(member: NumpyArray) -> NumpyArray:
    """Twice the points are counted, so that bytes can be added up."""
    columns = np.ascontiguousarray(np.moveaxis(member, -1, 0))
    doubled = np.full(columns.shape, -1, np.int16)  # each is equal to itself
    for other in columns:
        doubled += columns > other
        doubled += columns >= other
    return np.moveaxis(doubled, 0, -1) / 2


def _sorted_points(member: NumpyArray) -> NumpyArray:
    stats = needs("scipy.stats", "ranks of many classes")
    return stats.rankdata(member, method="average", axis=-1) - 1


BORDA = OutputMethod(
    name="borda",
    title="Borda count",
    paper="doi:10.1109/34.273716",
    summary="The mean of ranks: for members whose probabilities cannot be compared with each other's.",
    kind="ensembling",
    function=borda,
    params=BordaParams,
    takes=CLASSES,
    space=fixed("probabilities"),
    laws=frozenset({"permutation", "duplicates", "classes", "shift"}),
    differs=("Equal probabilities share their points; the paper has no equal ranks.",),
)
