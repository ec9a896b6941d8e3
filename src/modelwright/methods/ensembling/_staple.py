"""STAPLE: the true mask and how good each member is, estimated together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._method import Params
from modelwright.methods._outputs import NumpyArray, OutputMethod, fixed, on_outputs
from modelwright.tensors import log


class StapleParams(Params):
    """Parameters of `staple`."""

    threshold: float = Field(
        0.5, gt=0, lt=1, description="From which probability on a pixel belongs to a member's mask."
    )
    prior: float | None = Field(
        None, gt=0, lt=1, description="Share of pixels in the true mask; the mean of the members' shares where absent."
    )
    iterations: int = Field(200, ge=1, description="Most steps of expectation maximisation.")
    tolerance: float = Field(1e-8, gt=0, description="Stop where no sensitivity or specificity changes by more.")


@dataclass(frozen=True)
class Staple:
    """What STAPLE estimates from the masks of one sample.

    Attributes:
        probabilities: Of belonging to the true mask, of the pixels' shape.
        sensitivities: Of each member: the share of the true mask that it marks, (M,).
        specificities: Of each member: the share of the rest that it leaves, (M,).
        iterations: Steps that were taken.
    """

    probabilities: NumpyArray
    sensitivities: NumpyArray
    specificities: NumpyArray
    iterations: int


@on_outputs(StapleParams)
def staple(
    outputs: NumpyArray,
    *,
    threshold: float = 0.5,
    prior: float | None = None,
    iterations: int = 200,
    tolerance: float = 1e-8,
) -> NumpyArray:
    """Simultaneous truth and performance level estimation: masks weighted by how good each member turns out to be.

    Expectation maximisation for each sample: given sensitivity p_m and specificity q_m of each member, the probability of a
    pixel is w = f prod p_m^d (1-p_m)^(1-d) / (that + (1-f) prod q_m^(1-d) (1-q_m)^d); given w, p_m = sum w d / sum w and
    q_m = sum (1-w)(1-d) / sum (1-w).

    Args:
        outputs: Probabilities of masks (M, n, ...).
        threshold: As in the paper members decide: a pixel is marked from this probability on.
        prior: f, in (0, 1).
        iterations: Most steps.
        tolerance: Largest change of any p_m or q_m at the end.

    Returns:
        Probabilities (n, ...) of the true mask.

    Differs:
        See `STAPLE.differs`.

    Source:
        Warfield et al. 2004, "Simultaneous truth and performance level estimation (STAPLE)", equations 14 to 19.
    """
    marked = outputs >= threshold
    found = [staple_estimates(marked[:, i], prior, iterations, tolerance).probabilities for i in range(marked.shape[1])]
    return np.stack(found)


def staple_estimates(
    marked: NumpyArray, prior: float | None = None, iterations: int = 200, tolerance: float = 1e-8
) -> Staple:
    """STAPLE of one sample, with what it finds out about the members.

    Args:
        marked: Whether a member marks a pixel, (M, ...), M at most 62.
        prior: As for `staple`.
        iterations: As for `staple`.
        tolerance: As for `staple`.

    Raises:
        InputError: There are more than 62 members.
    """
    count, shape = len(marked), marked.shape[1:]
    if count > 62:
        raise InputError(f"staple takes at most 62 members, got {count}")
    flat = marked.reshape(count, -1)
    # pixels of the same decisions have the same probability: what is worked on is at most 2^M patterns
    codes = (flat.astype(np.int64) << np.arange(count)[:, None]).sum(axis=0)
    patterns, inverse, times = np.unique(codes, return_inverse=True, return_counts=True)
    decisions = ((patterns[None] >> np.arange(count)[:, None]) & 1).astype(np.float64)
    share = float(flat.mean()) if prior is None else prior
    p, q = np.full(count, 0.99999), np.full(count, 0.99999)
    if share in (0.0, 1.0):  # everybody marks nothing, or everything
        return Staple(
            np.full(shape, share),
            np.full(count, np.nan if share == 0 else 1.0),
            np.full(count, np.nan if share == 1 else 1.0),
            0,
        )
    taken = 0
    for _ in range(iterations):
        taken += 1
        w = _expected(decisions, p, q, share)
        inside, outside = w * times, (1 - w) * times
        new_p = _ratio(decisions @ inside, inside.sum(), p)
        new_q = _ratio((1 - decisions) @ outside, outside.sum(), q)
        change = max(float(np.abs(new_p - p).max()), float(np.abs(new_q - q).max()))
        p, q = new_p, new_q
        if change <= tolerance:
            break
    w = _expected(decisions, p, q, share)
    return Staple(w[inverse.reshape(-1)].reshape(shape), p, q, taken)


def _expected(decisions: NumpyArray, p: NumpyArray, q: NumpyArray, share: float) -> NumpyArray:
    """The probability of each pattern, in logarithms, because products of many members underflow."""
    yes = log(np.array(share)) + log(p) @ decisions + log(1 - p) @ (1 - decisions)
    no = log(np.array(1 - share)) + log(q) @ (1 - decisions) + log(1 - q) @ decisions
    return np.exp(yes - np.logaddexp(yes, no))


def _ratio(part: NumpyArray, whole: Any, before: NumpyArray) -> NumpyArray:
    """Shares of a sum; what was before where the sum is nothing."""
    return np.clip(part / whole, 0.0, 1.0) if whole > 0 else before


STAPLE = OutputMethod(
    name="staple",
    title="STAPLE",
    paper="doi:10.1109/TMI.2004.828354",
    summary="Masks weighted by how good each member turns out to be, which is estimated together with the true mask.",
    kind="ensembling",
    function=staple,
    params=StapleParams,
    takes=frozenset({"dense"}),
    space=fixed("probabilities"),
    laws=frozenset({"permutation"}),
    differs=(
        "The prior is one share for all pixels of a sample; the paper's Markov random field over neighbours is left out.",
        "A sample that nobody marks, or everybody marks wholly, is that mask; the paper's shares are undefined there.",
    ),
)
