"""Votes, with a rule for ties that is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from modelwright.methods._method import PER_MODEL, Params
from modelwright.methods._outputs import (
    CLASSES,
    NumpyArray,
    OutputMethod,
    fixed,
    on_outputs,
    shares,
    weighted,
)
from modelwright.tensors import normalised

#: How much is added to leading classes to settle a tie: less than any difference that counts, more than rounding.
_NUDGE = 2.0**-20
#: Shares closer than this are equal: sums of the same weights in another order are.
_EQUAL = 1e-12


class MajorityVoteParams(Params):
    """Parameters of `majority_vote`."""

    tie: Literal["mean", "lowest"] = Field(
        "mean", description="Who wins among equals: the class of the highest mean probability, or the first class."
    )
    weight: Annotated[float, PER_MODEL] = Field(1.0, ge=0, description="Votes of this member; only ratios matter.")


@on_outputs(MajorityVoteParams)
def majority_vote(outputs: NumpyArray, *, tie: str = "mean", weight: float | Sequence[float] = 1.0) -> NumpyArray:
    """Shares of the votes: each member votes for its most probable class, the first of several.

    Ties: with `tie="mean"` the leading classes get 2^-20 times their mean probability more, and the row is divided by its
    sum, so that the class of the highest mean probability is the answer, and the first one where these are equal too. With
    `tie="lowest"` shares stay equal, and the answer is the first class. Rows without a tie are shares exactly.

    Args:
        outputs: Probabilities (M, n, C).
        tie: `mean` or `lowest`.
        weight: One number for all, or M numbers, at least 0.

    Returns:
        Shares (n, C), which sum to 1.

    Raises:
        InputError: All weights are 0.

    Differs:
        See `MAJORITY_VOTE.differs`.

    Example:
        >>> import numpy as np
        >>> said = np.array([[[0.6, 0.4]], [[0.9, 0.1]], [[0.0, 1.0]]])
        >>> majority_vote(said).round(3)
        array([[0.667, 0.333]])

    Source:
        Condorcet 1785 for independent members; Kittler et al. 1998, the majority rule.
    """
    weights = shares("majority_vote", weight if isinstance(weight, Sequence) else [weight] * len(outputs))
    votes = _votes(outputs, weights)
    return votes if tie == "lowest" else _settled(votes, lambda rows: weighted(outputs[:, rows], weights))


class SoftVoteParams(Params):
    """Parameters of `soft_vote`."""

    tie: Literal["votes", "lowest"] = Field(
        "votes", description="Who wins among equals: the class that more members put first, or the first class."
    )
    weight: Annotated[float, PER_MODEL] = Field(1.0, ge=0, description="Weight of this member; only ratios matter.")


@on_outputs(SoftVoteParams)
def soft_vote(outputs: NumpyArray, *, tie: str = "votes", weight: float | Sequence[float] = 1.0) -> NumpyArray:
    """The mean of probabilities, as `mean` gives it, with ties settled by votes.

    Args:
        outputs: Probabilities (M, n, C).
        tie: `votes`: of classes whose mean probabilities are equal within 1e-12 the one that most members put first is the
            answer, by a nudge as in `majority_vote`; `lowest`: the first of them.
        weight: One number for all, or M numbers, at least 0.

    Returns:
        Probabilities (n, C).

    Raises:
        InputError: All weights are 0.

    Example:
        >>> import numpy as np
        >>> said = np.array([[[0.45, 0.55]], [[0.45, 0.55]], [[0.6, 0.4]]])
        >>> int(soft_vote(said)[0].argmax())
        1
    """
    weights = shares("soft_vote", weight if isinstance(weight, Sequence) else [weight] * len(outputs))
    mean = normalised(weighted(outputs, weights))
    return mean if tie == "lowest" else _settled(mean, lambda rows: _votes(outputs[:, rows], weights))


def _votes(outputs: NumpyArray, weights: Sequence[float]) -> NumpyArray:
    """Shares of the votes, (n, C)."""
    votes = np.zeros(outputs.shape[1:])
    rows = np.arange(len(votes))
    for member, weight in zip(outputs, weights, strict=True):
        votes[rows, member.argmax(axis=-1)] += weight
    return votes


def _settled(scores: NumpyArray, judge: Callable[[NumpyArray], NumpyArray]) -> NumpyArray:
    """Scores (n, C) whose ties for the first place are settled by others: judge(rows) gives them for those rows."""
    leading = scores >= scores.max(axis=-1, keepdims=True) - _EQUAL
    tied = np.flatnonzero(leading.sum(axis=-1) > 1)
    if not tied.size:
        return scores
    others = judge(tied)
    scores = scores.copy()
    scores[tied] = normalised(scores[tied] + np.where(leading[tied], _NUDGE * others, 0.0))
    return scores


MAJORITY_VOTE = OutputMethod(
    name="majority_vote",
    title="Majority vote",
    paper="doi:10.1109/34.667881",
    summary="Each member has one vote: for members whose confidence says nothing, or that give no more than a class.",
    kind="ensembling",
    function=majority_vote,
    params=MajorityVoteParams,
    takes=CLASSES,
    space=fixed("probabilities"),
    laws=frozenset({"permutation", "duplicates", "classes", "shift"}),
    differs=(
        "scikit-learn's VotingClassifier gives ties to the class that sorts first, as `tie: lowest` does; the default looks at "
        "the mean probabilities of those classes.",
    ),
)

SOFT_VOTE = OutputMethod(
    name="soft_vote",
    title="Soft vote",
    paper="",
    summary="The mean of probabilities, with ties settled by how many members put a class first.",
    kind="ensembling",
    function=soft_vote,
    params=SoftVoteParams,
    takes=CLASSES,
    space=fixed("probabilities"),
    laws=frozenset({"single", "identity", "permutation", "duplicates", "classes", "shift"}),
)
