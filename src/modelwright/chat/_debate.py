"""Debate: agents answer, read what the others said, and answer anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from modelwright.chat._combine import COMBINERS, Ties
from modelwright.chat._equality import groups
from modelwright.chat._forms import blocks, render
from modelwright.chat._messages import Message, user
from modelwright.chat._programs import Count, Program, ProgramParams, check_combiner, enough, known
from modelwright.chat._talk import Outcome, Step, Talk
from modelwright.errors import InputError


class DebateParams(ProgramParams):
    """Parameters of `debate`."""

    agents: list[str] = Field([], description="Who debates; empty is every agent of the panel.")
    samples: Count = Field(1, description="Debaters of each agent.")
    rounds: Annotated[int, Field(ge=1)] = Field(2, description="Rounds, the first answers among them.")
    combine: str = Field("plurality", description="How one answer comes of the last round: a combiner's name.")
    ties: Ties = Field("first", description="What is done when several answers have most votes.")
    judge: str = Field("", description="The agent that selects, ranks, verifies or merges; empty is the first.")
    early_stop: bool = Field(True, description="Debate no further when all agree.")
    quorum: Count | None = Field(
        None, description="Fewest replies of a round to go on with when backends fail; null is all of them."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_combiner(self.combine)
        if self.quorum is not None and self.agents and self.quorum > len(self.agents) * self.samples:
            raise ValueError(
                f"quorum must be at most the {len(self.agents) * self.samples} debaters, got {self.quorum}"
            )
        return self

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """Every one for `samples` replies."""
        found = [(name, self.samples) for name in known(self.agents, agents, "agents") or agents]
        if len(found) * self.samples < 2:
            raise InputError("a debate needs two debaters, got 1", "Name more agents, or set samples.")
        return found

    def judges(self, agents: Sequence[str]) -> list[str]:
        """The judge, where the combiner takes one."""
        if not COMBINERS[self.combine].calls(1):
            return []
        return known([self.judge], agents, "judge") if self.judge else [self.asked(agents)[0][0]]


async def debate(talk: Talk, params: DebateParams) -> Outcome:
    """Agents answer; in each further round each reads the others' last replies after all it said itself, and answers anew.

    Source:
        Du et al. 2023, arXiv:2305.14325.
    """
    turns = [(name, i) for name, count in params.asked(list(talk.agents)) for i in range(count)]
    said: dict[tuple[str, int], list[Message]] = {turn: list(user(talk.asked)) for turn in turns}
    last: list[Step] = []
    rounds: list[list[Any]] = []
    for _ in range(params.rounds):
        if last:
            for turn, own in zip(_turns(last), last, strict=True):
                others = [step.reply.text for step in last if step is not own]
                told = render("debate", count=len(others), replies=blocks(others))
                said[turn] += [Message("assistant", own.reply.text), Message("user", told)]
            turns = _turns(last)
        purpose = "revise" if last else "answer"
        waited = [talk.ask(name, said[name, i], purpose, i) for name, i in turns]
        last = await enough(talk, waited, params.quorum or len(turns))
        rounds.append([step.value for step in last])
        if len(last) < 2 or (params.early_stop and _agree(talk, last)):
            break
    judges = params.judges(list(talk.agents))
    found = await talk.decide(last, params.combine, judges[0] if judges else "", params.ties)
    return talk.outcome(found.text, found.value, found.decision, {"rounds": rounds})


def _turns(steps: Sequence[Step]) -> list[tuple[str, int]]:
    return [(step.agent, step.sample) for step in steps]


def _agree(talk: Talk, steps: Sequence[Step]) -> bool:
    return set(groups([step.value for step in steps], talk.same)) == {0}


def _calls(params: DebateParams, agents: Sequence[str]) -> tuple[int, int]:
    debaters = sum(count for _, count in params.asked(agents))
    judged = COMBINERS[params.combine].calls(debaters)
    least = debaters if params.early_stop else debaters * params.rounds
    return least + min(judged, 1), debaters * params.rounds + judged


DEBATE = Program(
    "debate", "Debate", "arXiv:2305.14325",
    "Agents answer, read each other's replies and answer anew, for a few rounds; then they vote.",
    DebateParams, debate, _calls,
    differs=(
        "Others' replies stand between numbered marks, and agents are told that they are data.",
        "It ends when all agree, unless `early_stop` is off; the authors always go through all rounds.",
        "An agent that fails leaves the debate, where `quorum` allows that.",
        "The authors' summaries of long replies between rounds are not here.",
    ),
)  # fmt: skip
