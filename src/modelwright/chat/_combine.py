"""One answer from several: pure functions on answers, and their records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import xxhash

from modelwright.chat._equality import Same, exact, groups
from modelwright.errors import InputError, did_you_mean

#: What is done when several answers have most votes. `first`: the one that was given first wins; `abstain`: there is no
#: answer; `random`: one of them by a hash of the key.
Ties = Literal["first", "abstain", "random"]

#: Sums of weights that differ by rounding only are taken as equal, as shares of their size.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Decision:
    """What came of a vote.

    Attributes:
        value: The answer; None where there is none.
        index: Position of the first reply that gave it; None where there is none.
        votes: For each answer that was given, in the order they came up: position of its first reply, and its votes.
        counted: For each of them the answer itself, and its votes.
        voters: How many replies were put to the vote; 0 where a judge chose.
        tied: Whether several had most votes.
        abstained: How many replies gave none.
    """

    value: Any
    index: int | None
    votes: tuple[tuple[int, float], ...] = ()
    tied: bool = False
    abstained: int = 0
    counted: tuple[tuple[Any, float], ...] = ()
    voters: int = field(default=0, compare=False)

    @property
    def share(self) -> float:
        """The answer's share of all votes, in [0, 1]; 0 where there is none."""
        total = math.fsum(count for _, count in self.votes)
        own = next((count for first, count in self.votes if first == self.index), 0.0)
        return own / total if total else 0.0


def plurality(answers: Sequence[Any], *, same: Same = exact, ties: Ties = "first", key: str = "") -> Decision:
    """The answer that was given most often.

    Args:
        answers: n >= 0 answers; None abstains.
        same: When two are the same.
        ties: What is done when several are given equally often.
        key: For random ties.

    Returns:
        The decision; without a value where all abstain.

    Raises:
        InputError: `ties` is something else.

    Example:
        >>> plurality(["4", None, "5", "4"]).value
        '4'
    """
    return weighted(answers, [1] * len(answers), same=same, ties=ties, key=key)


def weighted(
    answers: Sequence[Any], weights: Sequence[float], *, same: Same = exact, ties: Ties = "first", key: str = ""
) -> Decision:
    """The answer with the largest sum of weights, such as probabilities or scores.

    Args:
        answers: n >= 0 answers; None abstains.
        weights: n numbers of at least 0. An answer whose weights are all 0 cannot win.
        same: When two are the same.
        ties: What is done when several have the largest sum.
        key: For random ties.

    Returns:
        The decision.

    Raises:
        InputError: A weight is negative or not finite, their number differs, or `ties` is something else.

    Example:
        >>> weighted(["4", "5", "5"], [0.9, 0.3, 0.4]).value
        '4'
    """
    _check_ties(ties)
    if len(weights) != len(answers):
        raise InputError(f"{len(answers)} answers need as many weights, got {len(weights)}")
    for i, weight in enumerate(weights):
        if not 0 <= weight < math.inf:
            raise InputError(f"a weight must be a number of at least 0, got {weight} for answer {i}")
    homes = groups(answers, same)
    members: dict[int, list[float]] = {}
    for home, weight in zip(homes, weights, strict=True):
        if home is not None:
            members.setdefault(home, []).append(weight)
    votes = tuple((first, math.fsum(each)) for first, each in members.items())
    counted = tuple((answers[first], count) for first, count in votes)
    abstained = homes.count(None)
    most = max((count for _, count in votes), default=0)
    best = [first for first, count in votes if most > 0 and most - count <= _ROUNDING * most]
    if not best or (len(best) > 1 and ties == "abstain"):
        return Decision(None, None, votes, len(best) > 1, abstained, counted, len(answers))
    winner = best[0]
    if len(best) > 1 and ties == "random":
        winner = best[xxhash.xxh3_64_intdigest(f"tie\x1f{key}".encode("utf-8", "surrogatepass")) % len(best)]
    return Decision(answers[winner], winner, votes, len(best) > 1, abstained, counted, len(answers))


def settled(answers: Sequence[Any], remaining: int, *, same: Same = exact, ties: Ties = "first") -> bool:
    """Whether `plurality` will decide the same, whatever the remaining answers are.

    Args:
        answers: Those that are there, in order.
        remaining: How many are still to come.
        same: When two are the same.
        ties: As `plurality` is given it.
    """
    return least_more(answers, remaining, same=same, ties=ties) == 0


def least_more(answers: Sequence[Any], remaining: int, *, same: Same = exact, ties: Ties = "first") -> int:
    """The fewest further answers after which the outcome can be settled; `remaining` where only all of them do.

    So many can be asked for at one time, and none of them would have been saved by asking one by one.

    Args:
        answers: Those that are there, in order.
        remaining: How many are still to come.
        same: When two are the same.
        ties: As `plurality` is given it.

    Returns:
        In [0, remaining]; 0 where it is settled.

    Raises:
        InputError: `remaining` is negative, or `ties` is something else.
    """
    _check_ties(ties)
    if remaining < 0:
        raise InputError(f"remaining must be at least 0, got {remaining}")
    counts: dict[int, int] = {}
    for home in groups(answers, same):
        if home is not None:
            counts[home] = counts.get(home, 0) + 1
    leader = max(counts, key=lambda first: (counts[first], -first), default=len(answers))
    for more in range(remaining + 1):
        left = remaining - more
        # The quickest way there: all of the next go to the leader, or to the first answer of all.
        lead = counts.get(leader, 0) + more
        rivals = [(n, first) for first, n in counts.items() if first != leader] + [(0, len(answers) + remaining)]
        if all(_safe(lead, leader, n + left, first, ties) for n, first in rivals):
            return more
    return remaining


def _safe(lead: int, leader: int, rival: int, first: int, ties: Ties) -> bool:
    """Whether an answer that may still come to `rival` votes cannot win against the leader, nor tie where that matters."""
    if rival == lead:
        return rival == 0 or (ties == "first" and leader < first)
    return rival < lead


def _check_ties(ties: str) -> None:
    if ties not in get_args(Ties):
        raise InputError(f"ties cannot be '{ties}'", did_you_mean(ties, get_args(Ties)))


def chosen(answers: Sequence[Any], ranks: Sequence[int]) -> Decision:
    """The answer of the reply that a judge put first; of those that abstain, none can be.

    Args:
        answers: n answers; None abstains.
        ranks: Positions, best first; what is not named comes after all that is.

    Raises:
        InputError: A position is of no answer.
    """
    wrong = [i for i in ranks if not 0 <= i < len(answers)]
    if wrong:
        raise InputError(f"ranks must be positions in [0, {len(answers) - 1}], got {wrong[0]}")
    abstained = sum(answer is None for answer in answers)
    index = next((i for i in ranks if answers[i] is not None), None)
    return Decision(None if index is None else answers[index], index, (), False, abstained)


def verified(answers: Sequence[Any], verdicts: Sequence[bool | None]) -> Decision:
    """The first answer that a verifier accepts; no answer where it accepts none.

    Args:
        answers: n answers; None abstains.
        verdicts: Up to n, in order: True accepts; None is a verdict that could not be read, and accepts nothing.

    Raises:
        InputError: There are more verdicts than answers.
    """
    if len(verdicts) > len(answers):
        raise InputError(f"{len(answers)} answers need at most as many verdicts, got {len(verdicts)}")
    ranks = [i for i, verdict in enumerate(verdicts) if verdict]
    return chosen(answers, ranks)


@dataclass(frozen=True)
class Combiner:
    """The record of a way to combine.

    Attributes:
        name: Its name in panels.
        title: Its name in prose.
        paper: Where it comes from; empty where it is common.
        summary: What it does, in one sentence.
        function: The pure function that decides.
        calls: (replies) -> most calls of a judge that it takes.
        logprobs: Whether replies need log-probabilities.
        stops_early: Whether fewer replies may settle it.
        differs: What departs from the paper, and why.
    """

    name: str
    title: str
    paper: str
    summary: str
    function: Callable[..., Any]
    calls: Callable[[int], int] = lambda _replies: 0
    logprobs: bool = False
    stops_early: bool = False
    differs: tuple[str, ...] = ()


_FALLBACK = "A judge's reply that cannot be read, or names a reply without an answer, leaves the decision to plurality."

COMBINERS = {
    record.name: record
    for record in (
        Combiner(
            "plurality", "Plurality", "arXiv:2203.11171", "The answer that is given most often.", plurality,
            stops_early=True,
            differs=("The paper leaves ties open; here `ties` says what is done.",),
        ),
        Combiner(
            "probability", "Weighted by probability", "arXiv:2203.11171",
            "The answer whose replies are the most probable together: each votes with the probability of its text.",
            weighted, logprobs=True,
        ),
        Combiner(
            "normalised_probability", "Weighted by probability per token", "arXiv:2203.11171",
            "As `probability`, with the geometric mean over a reply's tokens, so that long replies count as much.",
            weighted, logprobs=True,
        ),
        Combiner(
            "select", "Universal self-consistency", "arXiv:2311.17311",
            "A judge names the reply that agrees most with the others; for answers that cannot be compared as text.",
            chosen, calls=lambda _n: 1, differs=(_FALLBACK,),
        ),
        Combiner(
            "rank", "Ranker", "", "A judge ranks the replies, and the best one's answer is taken.", chosen,
            calls=lambda _n: 1, differs=(_FALLBACK,),
        ),
        Combiner(
            "verify", "Verifier", "arXiv:2310.07088",
            "A judge checks reply after reply, and the first that it accepts is taken; plurality where it accepts none.",
            verified, calls=lambda n: n,
        ),
        Combiner(
            "merge", "Synthesiser", "arXiv:2406.04692", "A judge writes one new reply from all of them.", chosen,
            calls=lambda _n: 1,
        ),
    )
}  # fmt: skip
