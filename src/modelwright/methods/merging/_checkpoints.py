"""Averages over the checkpoints of one training run: stochastic weight averaging, and the exponential moving average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from modelwright.methods._lowered import Lowered, Shape
from modelwright.methods._method import Method, Params, checked
from modelwright.methods.merging._parts import added
from modelwright.tensors import Array


class SwaParams(Params):
    """Parameters of `swa`."""


class EmaParams(Params):
    """Parameters of `ema`."""

    decay: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of the average that stays at each checkpoint: 0 is the last one, 1 the first.",
    )


@checked(SwaParams)
def swa(models: Sequence[Array]) -> Array:
    """The mean of a run's checkpoints, each counting the same.

    Args:
        models: n >= 1 arrays of one shape, checkpoints of one run, in any order.

    Returns:
        The mean in the shape and format of the first; computed in float32 (float64 for float64).

    Raises:
        InputError: Shapes differ or a value is not finite.

    Differs:
        See `SWA.differs`.

    Example:
        >>> import numpy as np
        >>> swa([np.array([1.0]), np.array([2.0]), np.array([6.0])])
        array([3.])

    Source:
        Izmailov et al. 2018, arXiv:1803.05407, algorithm 1.
    """
    return added(models) / len(models)


@checked(EmaParams)
def ema(models: Sequence[Array], *, decay: float = 0.9) -> Array:
    """What an exponential moving average over a run's checkpoints has come to at the last one.

    a_1 = theta_1; a_i = decay * a_(i-1) + (1 - decay) * theta_i; the result is a_n.

    Args:
        models: n >= 1 arrays of one shape, checkpoints of one run, the earliest first.
        decay: Share of the average that stays at each checkpoint, in [0, 1].

    Returns:
        The average in the shape and format of the first; computed in float32 (float64 for float64).

    Raises:
        InputError: Shapes differ, a value is not finite or decay is out of range.

    Differs:
        See `EMA.differs`.

    Example:
        >>> import numpy as np
        >>> ema([np.array([0.0]), np.array([4.0]), np.array([8.0])], decay=0.5)
        array([5.])

    Source:
        Polyak and Juditsky 1992, doi:10.1137/0330046, for averaging; Morales-Brotons et al. 2024, arXiv:2411.18704, for
        this form.
    """
    return added([model * w for model, w in zip(models, _shares(decay, len(models)), strict=True)])


def _shares(decay: float, count: int) -> list[float]:
    """The weights of the checkpoints, written out: they add up to 1."""
    return [decay ** (count - 1), *((1 - decay) * decay ** (count - 1 - i) for i in range(1, count))]


def _lower_swa(_p: Mapping[str, Any], shape: Shape) -> Lowered:
    return Lowered([1.0] * shape.models, deltas=False, add_base=False, divisor=shape.models)


def _lower_ema(p: Mapping[str, Any], shape: Shape) -> Lowered:
    return Lowered(_shares(p["decay"], shape.models), deltas=False, add_base=False)


SWA = Method(
    name="swa",
    title="SWA",
    paper="arXiv:1803.05407",
    summary="The mean of checkpoints of one training run: flatter and better than the last one, for nothing.",
    function=swa,
    params=SwaParams,
    base="ignored",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "single"}),
    lower=_lower_swa,
    differs=(
        "The paper trains with a cyclic or constant rate and averages once a cycle; here the checkpoints are given.",
        "It is linear with equal weights. Running statistics of batch normalisation are averaged too; the paper computes them "
        "anew on training data, which is to be done after the merge.",
    ),
    cite="""@inproceedings{izmailov2018swa,
  title={Averaging Weights Leads to Wider Optima and Better Generalization},
  author={Izmailov, Pavel and Podoprikhin, Dmitrii and Garipov, Timur and Vetrov, Dmitry and Wilson, Andrew Gordon},
  booktitle={UAI},
  year={2018},
}""",
)

EMA = Method(
    name="ema",
    title="EMA",
    paper="arXiv:2411.18704",
    summary="The exponential moving average over checkpoints of one training run, given in the order they were made.",
    function=ema,
    params=EmaParams,
    base="ignored",
    models=(1, None),
    laws=frozenset({"identity", "single"}),
    lower=_lower_ema,
    differs=(
        "Averages kept during training move at every step, with decays of 0.99 and more; here they move once a checkpoint. "
        "For checkpoints k steps apart, decay = (decay per step)^k.",
        "Begins at the first checkpoint, without a correction for the start.",
    ),
    cite="""@article{moralesbrotons2024ema,
  title={Exponential Moving Average of Weights in Deep Learning: Dynamics and Benefits},
  author={Morales-Brotons, Daniel and Vogels, Thijs and Hendrikx, Hadrien},
  journal={Transactions on Machine Learning Research},
  year={2024},
}""",
)
