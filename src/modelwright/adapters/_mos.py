"""MOS's adapter merging: the newest adapter, pulled towards the mean of those before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from modelwright.adapters._method import AdapterMethod
from modelwright.errors import InputError
from modelwright.methods import Params
from modelwright.tensors import Array


class MosParams(Params):
    """Parameters of `mos`."""

    momentum: float = Field(
        0.1, ge=0, le=1, description="How far the newest adapter moves towards the mean of the earlier ones."
    )


def pulled(newest: Array, earlier: Sequence[Array], momentum: float = 0.1) -> Array:
    """Theta <- (1 - m) theta + m mean_k theta_k, of one parameter of adapters that were trained one after the other.

    Args:
        newest: The parameter in the adapter that is being trained, or was trained last; any shape and array library.
        earlier: The same in the adapters of earlier stages; none leave it as it is.
        momentum: m, in [0, 1].

    Returns:
        A new array.

    Raises:
        InputError: m is out of range.

    Differs:
        See `MOS.differs`.

    Example:
        >>> import numpy as np
        >>> pulled(np.array([1.0]), [np.array([0.0]), np.array([2.0]), np.array([4.0])], 0.5)
        array([1.5])

    Source:
        Sun et al. 2024, arXiv:2412.09441, equation 6.
    """
    if not 0 <= momentum <= 1:
        raise InputError(f"momentum must be in [0, 1], got {momentum}")
    if not earlier:
        return newest * 1
    total = earlier[0]
    for other in earlier[1:]:
        total = total + other
    return (1 - momentum) * newest + (momentum / len(earlier)) * total


def mos_tensors(tensors: Sequence[dict[str, np.ndarray]], momentum: float) -> dict[str, np.ndarray]:
    """`pulled` for each tensor of whole adapters, of which the last is the newest; in float32, rounded to its format."""
    wide = [{name: value.astype(np.float32) for name, value in each.items()} for each in tensors]
    made = {name: pulled(value, [each[name] for each in wide[:-1]], momentum) for name, value in wide[-1].items()}
    return {name: np.asarray(value).astype(tensors[-1][name].dtype) for name, value in made.items()}


MOS = AdapterMethod(
    name="mos",
    title="MOS adapter merging",
    paper="arXiv:2412.09441",
    summary="For adapters trained one after the other, each from the last: keeps the newest near those before it.",
    function=None,
    params=MosParams,
    models=1,
    differs=(
        "Parameters are averaged, not what they add, as in the paper: it is meant for adapters of one lineage, whose ranks correspond.",
        "It is applied when it is asked for, and stored adapters stay as they are; the official code also applies it in every forward "
        "pass of every block, in evaluation too, and changes stored adapters in place.",
    ),
    cite="""@inproceedings{sun2025mos,
  title={{MOS}: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning},
  author={Sun, Hai-Long and Zhou, Da-Wei and Zhao, Hanbin and Gan, Le and Zhan, De-Chuan and Ye, Han-Jia},
  booktitle={AAAI},
  year={2025},
}""",
)
