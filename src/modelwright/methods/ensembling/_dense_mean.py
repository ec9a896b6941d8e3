"""Means of maps that are brought to one scale."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._method import Params
from modelwright.methods._outputs import NumpyArray, OutputMethod, fixed, on_outputs


class DenseMeanParams(Params):
    """Parameters of `dense_mean`."""

    align: Literal["median", "none"] = Field(
        "median",
        description="median: each member's map is scaled so that its median is that of all; none: as they come.",
    )
    mean: Literal["arithmetic", "geometric", "harmonic"] = Field(
        "arithmetic", description="Of what: depth, log-depth, or disparity."
    )


@on_outputs(DenseMeanParams)
def dense_mean(outputs: NumpyArray, *, align: str = "median", mean: str = "arithmetic") -> NumpyArray:
    """The mean pixel by pixel of maps that are brought to one scale first.

    With `align="median"` member m's map of a sample is multiplied by s / s_m, s_m being its median over pixels and s the
    median of the members' medians. Members that know depth up to a scale only cannot be averaged without.

    Args:
        outputs: Values (M, n, ...), positive where they are aligned or `mean` is not arithmetic.
        align: `median` or `none`.
        mean: `arithmetic`; `geometric`, the mean of logarithms; `harmonic`, the mean of inverses.

    Returns:
        Values (n, ...).

    Raises:
        InputError: A value is not positive where it has to be.

    Example:
        >>> import numpy as np
        >>> dense_mean(np.array([[[1.0, 2.0, 4.0]], [[3.0, 6.0, 12.0]]]))
        array([[2., 4., 8.]])
    """
    if (align == "median" or mean != "arithmetic") and not (outputs > 0).all():
        member, sample = (int(i) for i in np.argwhere(outputs <= 0)[0][:2])
        raise InputError(
            f"dense_mean: values must be positive to be scaled, got {outputs[outputs <= 0][0]:g} (member {member + 1}, sample "
            f"{sample + 1} of the block)",
            "Say align='none' and mean='arithmetic' for values of any sign.",
        )
    maps = outputs
    if align == "median":
        flat = outputs.reshape(*outputs.shape[:2], -1)
        own = np.median(flat, axis=-1)
        maps = outputs * (np.median(own, axis=0) / own).reshape(*own.shape, *[1] * (outputs.ndim - 2))
    if mean == "geometric":
        return np.exp(np.log(maps).mean(axis=0))
    return 1.0 / (1.0 / maps).mean(axis=0) if mean == "harmonic" else maps.mean(axis=0)


DENSE_MEAN = OutputMethod(
    name="dense_mean",
    title="Aligned mean of maps",
    paper="",
    summary="The mean of depth maps pixel by pixel, after each was scaled to the median of all.",
    kind="ensembling",
    function=dense_mean,
    params=DenseMeanParams,
    takes=frozenset({"dense"}),
    space=fixed("values"),
    laws=frozenset({"single", "identity", "permutation", "duplicates", "scaling"}),
    differs=(
        "Median scaling in depth evaluation uses the median of the truth; members are scaled to the median of their medians, "
        "because there is no truth yet.",
    ),
)
