"""DyLAN: agents over rounds that drop the weak ones, stop at consensus, and tell who deserves to stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import xxhash
from pydantic import Field

from modelwright.chat._combine import plurality
from modelwright.chat._equality import groups
from modelwright.chat._forms import blocks, read_ratings, render
from modelwright.chat._messages import user
from modelwright.chat._programs import Count, Program, ProgramParams, known
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Step, Talk
from modelwright.errors import InputError

#: The largest rating that agents give.
_TOP = 5


class DylanParams(ProgramParams):
    """Parameters of `dylan`."""

    agents: list[str] = Field([], description="The team; empty is every agent of the panel.")
    rounds: Annotated[int, Field(ge=2)] = Field(3, description="Most rounds.")
    consensus: Annotated[float, Field(gt=0, lt=1)] = Field(
        2 / 3, description="It stops when more than this share of a round's agents agree."
    )
    keep: Count = Field(2, description="How many agents stay after ranking.")
    rank_from: Count = Field(2, description="The round, counted from 0, before which agents are ranked first.")
    rank_above: Count = Field(3, description="Teams of up to so many agents are never ranked.")
    ranker: str = Field("", description="Who ranks; empty is the first agent.")
    seed: int = Field(0, description="Of the orders in which agents answer and replies are shown.")

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """Every agent for one reply."""
        return [(name, 1) for name in known(self.agents, agents, "agents") or agents]

    def judges(self, agents: Sequence[str]) -> list[str]:
        """The ranker."""
        return known([self.ranker], agents, "ranker") if self.ranker else [self.asked(agents)[0][0]]


@dataclass
class Round:
    """What one round of the network came to.

    Attributes:
        steps: Replies by agent, in the order of activation.
        weights: For each replying agent, the weight of each agent of the round before that was shown to it; they sum to 1.
            Empty in round 0.
    """

    steps: dict[str, Step] = field(default_factory=dict)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)


def edge_weights(ratings: Mapping[str, int]) -> dict[str, float]:
    """Weights of edges from ratings: rating / 5 in [0, 1], divided by their sum; all equal where every one is 0.

    Args:
        ratings: By agent, of the replies that were shown.

    Example:
        >>> edge_weights({"a": 5, "b": 5, "c": 0})
        {'a': 0.5, 'b': 0.5, 'c': 0.0}
    """
    clipped = {name: min(max(rating, 0), _TOP) / _TOP for name, rating in ratings.items()}
    total = math.fsum(clipped.values())
    if not total:
        return {name: 1 / len(ratings) for name in ratings}
    return {name: value / total for name, value in clipped.items()}


def importances(rounds: Sequence[Round], agrees: Sequence[str]) -> list[dict[str, float]]:
    """Importance of each node: those that agree with the final answer share 1, and it flows back along the edges.

    Args:
        rounds: What happened, in order.
        agrees: Agents of the last round whose answer is the final one; empty shares 1 among all of that round.

    Returns:
        By round and agent; each round's sum to 1. Agents that did not reply in a round are not in it.

    Raises:
        InputError: There are no rounds.

    Source:
        Liu et al. 2023, arXiv:2310.02170, section 3.3.
    """
    if not rounds or not rounds[-1].steps:
        raise InputError("importance needs a round with a reply")
    last = list(rounds[-1].steps)
    final = [name for name in last if name in agrees] or last
    found = [{name: (1 / len(final) if name in final else 0.0) for name in last}]
    for earlier, later in zip(reversed(rounds[:-1]), reversed(rounds[1:]), strict=True):
        after = found[0]
        flow = {
            name: math.fsum(later.weights[i].get(name, 0.0) * after[i] for i in later.steps) for name in earlier.steps
        }
        found.insert(0, flow)
    return found


def agent_importance(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Each agent's importance: summed over rounds, averaged over questions.

    Args:
        outcomes: Of `dylan`, with one team.

    Raises:
        InputError: There are none, or of another program or team.
    """
    if not outcomes or any("importance" not in o.facts for o in outcomes):
        raise InputError("importance of agents comes from outcomes of dylan")
    names = list(outcomes[0].facts["importance"])
    if any(list(o.facts["importance"]) != names for o in outcomes):
        raise InputError("importance can be averaged over the questions of one team only")
    return {name: math.fsum(o.facts["importance"][name] for o in outcomes) / len(outcomes) for name in names}


def best_team(outcomes: Sequence[Outcome], size: int) -> list[str]:
    """The agents of most importance, in the team's order: who should work on the rest of a task.

    Args:
        outcomes: Of `dylan` with the whole pool on a sample of the task's questions.
        size: How many agents stay.

    Raises:
        InputError: It is not in [1, agents].
    """
    scores = agent_importance(outcomes)
    if not 1 <= size <= len(scores):
        raise InputError(f"a team of {len(scores)} agents has best ones in [1, {len(scores)}], got {size}")
    best = sorted(scores, key=lambda name: -scores[name])[:size]
    return [name for name in scores if name in best]


async def dylan(talk: Talk, params: DylanParams) -> Outcome:
    """Agents answer over rounds, see and rate each other's replies, are ranked, and stop at consensus.

    In a round, agents are asked in a random order, in waves of the fewest that can bring consensus, so that as many are
    asked as one by one.

    Source:
        Liu et al. 2023, arXiv:2310.02170.
    """
    return await _Network(talk, params).run()


class _Network:
    def __init__(self, talk: Talk, params: DylanParams):
        self._talk, self._params = talk, params
        self._team = [name for name, _ in params.asked(list(talk.agents))]
        self._ranker = params.judges(list(talk.agents))[0]
        self._rounds: list[Round] = []

    async def run(self) -> Outcome:
        active = self._team
        for number in range(self._params.rounds):
            if number >= self._params.rank_from and len(self._team) > self._params.rank_above:
                active = await self._ranked(active)
            if await self._round(number, active):
                break
        return self._outcome()

    async def _ranked(self, active: list[str]) -> list[str]:
        """The agents of the best replies of the round before."""
        keep = self._params.keep
        shown = self._shuffled(list(self._rounds[-1].steps), f"rank {len(self._rounds)}")
        if len(shown) <= keep:
            return active
        steps = [self._rounds[-1].steps[name] for name in shown]
        ranks = await self._talk.order(self._ranker, [s.reply.text for s in steps], keep)
        names = self._shuffled(shown, "unreadable ranks") if ranks is None else [shown[i] for i in ranks]
        rest = [name for name in shown if name not in names]  # a ranker that names fewer than it was asked for
        kept = [*names, *rest][:keep]
        return [name for name in self._team if name in kept]

    async def _round(self, number: int, active: list[str]) -> bool:
        """Ask the active agents; whether they came to a consensus."""
        order = self._shuffled(active, f"round {number}")
        needed = math.floor(len(order) * self._params.consensus + 1e-9) + 1
        now = Round()
        before = self._rounds[-1] if self._rounds else None
        self._rounds.append(now)
        while len(now.steps) < len(order):
            missing = needed - self._agreeing(now)
            left = order[len(now.steps) :]
            # Where consensus cannot come any more, all the others are asked at once.
            wave = left[: missing if missing <= len(left) else len(left)]
            for name, (step, weights) in zip(
                wave, await together([self._reply(name, number, before) for name in wave]), strict=True
            ):
                now.steps[name] = step
                if before is not None:
                    now.weights[name] = weights
            if self._agreeing(now) >= needed:
                return True
        return False

    async def _reply(self, name: str, number: int, before: Round | None) -> tuple[Step, dict[str, float]]:
        if before is None:
            return await self._talk.answer(name), {}
        shown = self._shuffled(list(before.steps), f"shown {number} {name}")
        texts = [before.steps[other].reply.text for other in shown]
        asked = render("revise", question=self._talk.asked, count=len(texts), replies=blocks(texts))
        step = await self._talk.ask(name, user(asked), "revise")
        ratings = read_ratings(step.reply.text, len(shown)) or [0] * len(shown)
        return step, edge_weights(dict(zip(shown, ratings, strict=True)))

    def _agreeing(self, now: Round) -> int:
        """How many agents gave the most frequent answer of a round; who abstains agrees with nobody."""
        homes = [home for home in groups([s.value for s in now.steps.values()], self._talk.same) if home is not None]
        return max(map(homes.count, homes), default=0)

    def _outcome(self) -> Outcome:
        last = self._rounds[-1].steps
        steps = list(last.values())
        vote = plurality([step.value for step in steps], same=self._talk.same)
        homes = groups([step.value for step in steps], self._talk.same)
        agrees = [name for name, home in zip(last, homes, strict=True) if home is not None and home == vote.index]
        nodes = importances(self._rounds, agrees)
        scores = {name: math.fsum(nodes_of.get(name, 0.0) for nodes_of in nodes) for name in self._team}
        facts: dict[str, Any] = {
            "importance": scores,
            "nodes": nodes,
            "rounds": [[*now.steps] for now in self._rounds],
        }
        text = "" if vote.index is None else steps[vote.index].reply.text
        return self._talk.outcome(text, vote.value, vote, facts)

    def _shuffled(self, names: Sequence[str], what: str) -> list[str]:
        """A random order that depends on seed, question and purpose alone."""
        said = f"{self._params.seed}\x1f{self._talk.question}\x1f{what}\x1f"
        return sorted(names, key=lambda name: xxhash.xxh3_64_intdigest((said + name).encode("utf-8", "surrogatepass")))


def _calls(params: DylanParams, agents: Sequence[str]) -> tuple[int, int]:
    team = len(params.asked(agents))
    least = math.floor(team * params.consensus + 1e-9) + 1
    most = 0
    active = team
    for number in range(params.rounds):
        if number >= params.rank_from and team > params.rank_above and active > params.keep:
            active, most = params.keep, most + 1
        most += active
    return least, most


DYLAN = Program(
    "dylan", "DyLAN", "arXiv:2310.02170",
    "Agents in different roles over a few rounds; it stops at consensus, and tells which agents a team needs.",
    DylanParams, dylan, _calls,
    differs=(
        "Agents without a readable answer agree with nobody; in the authors' code two of them can be a consensus.",
        "The agents that the ranker names stay; the authors' code takes their numbers for places in a shuffled order.",
        "A ranking that cannot be read keeps random agents, as in the authors' code; one that names a reply that is not "
        "there counts as such.",
        "Where nobody of the last round agrees with the final answer, all of that round share its importance.",
        "Replies stand between numbered marks. Judges with tools, for code, are not here.",
    ),
)  # fmt: skip
