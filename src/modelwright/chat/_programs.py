"""What a program is: who is asked what, in which order, and how one answer comes of it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelwright.chat._combine import COMBINERS, Ties, least_more
from modelwright.chat._ledger import BudgetError
from modelwright.chat._messages import Agent
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Step, Talk
from modelwright.errors import InputError, RunError, did_you_mean

Count = Annotated[int, Field(ge=1)]


class ProgramParams(BaseModel):
    """What all programs' parameters have."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """Which agents are asked for how many replies to the same messages, of those that the panel has.

        Raises:
            InputError: One is not there, or parameters do not go together.
        """
        raise NotImplementedError

    def judges(self, agents: Sequence[str]) -> list[str]:
        """Which agents combine, rank or verify."""
        return []

    @property
    def logprobs(self) -> bool:
        """Whether replies need log-probabilities."""
        return False

    def at(self, folder: Path) -> Self:
        """The same, with paths of files taken from the folder of the panel's file."""
        return self


#: How a technique comes by its prompts: written, by a model, by search, or by several of these.
Acquisition = Literal["manual", "model", "retrieval", "hybrid"]


@dataclass(frozen=True)
class Technique:
    """A program's place in the survey of prompting techniques, arXiv:2402.07927.

    Attributes:
        number: In the order of the survey, from 1 to 41.
        section: The application that it is listed under.
        acquisition: How it comes by its prompts.
        turns: Whether a question takes one call or several.
        aliases: Other names of it that are of no other technique.
        calls: Its calls in words, where a record's `calls` is a function and no formula.
    """

    number: int
    section: str
    acquisition: Acquisition = "manual"
    turns: Literal["one", "several"] = "several"
    aliases: tuple[str, ...] = ()
    calls: str = ""


def _nothing(_params: Any) -> dict[str, int]:
    return {}


@dataclass(frozen=True)
class Program:
    """The record of a program.

    Attributes:
        name: Its name in panels.
        title: Its name in prose.
        paper: `arXiv:2203.11171`.
        summary: What it does and when to use it, in one sentence.
        params: The pydantic model of its parameters.
        run: (talk, parameters) -> what it comes to.
        calls: (parameters, agents) -> fewest and most calls for a question.
        differs: What departs from the paper and well-known implementations, and why.
        needs: (parameters) -> what it needs beside agents, and how many of each; see `NEEDS`.
        prepares: As `calls`, for what is done once for all questions; None where nothing is.
        technique: Its place in the survey, if it has one.
    """

    name: str
    title: str
    paper: str
    summary: str
    params: type[ProgramParams]
    run: Callable[[Talk, Any], Awaitable[Outcome]]
    calls: Callable[[Any, Sequence[str]], tuple[int, int]]
    differs: tuple[str, ...] = ()
    needs: Callable[[Any], Mapping[str, int]] = _nothing
    prepares: Callable[..., tuple[int, int]] | None = None
    technique: Technique | None = None


def known(names: Sequence[str], agents: Sequence[str], what: str) -> list[str]:
    """The names, each of an agent there is.

    Raises:
        InputError: One is not.
    """
    for name in names:
        if name not in agents:
            raise InputError(f"{what}: there is no agent '{name}'", did_you_mean(name, agents))
    return list(names)


def check_samples(asked: Sequence[tuple[str, int]], agents: Mapping[str, Agent]) -> None:
    """Refuse several samples at temperature 0: they would be one reply, paid for many times.

    Raises:
        InputError: An agent is asked so.
    """
    for name, count in asked:
        if count > 1 and not agents[name].sampling.temperature:
            raise InputError(
                f"agent '{name}' is asked for {count} replies at temperature 0, which are one and the same",
                "Set its temperature above 0, such as 0.7, or ask for one reply of several agents.",
            )


def check_combiner(name: str) -> None:
    """Refuse a combiner that there is not; for validators."""
    if name not in COMBINERS:
        raise ValueError(f"there is no combiner '{name}'. {did_you_mean(name, COMBINERS)}")


async def enough(talk: Talk, waited: Sequence[Awaitable[Step]], quorum: int, what: str = "a reply") -> list[Step]:
    """The replies in their order, without those whose backends failed where at least `quorum` came.

    Args:
        talk: Where a note is left of each that is missing.
        waited: What is asked, together.
        quorum: Fewest to go on with.
        what: What is missing, for the note.

    Raises:
        BudgetError: The budget is spent; that is no failure of a member.
        RunError: Fewer came; it is the first failure.
    """
    found = await together([_or_failure(one) for one in waited])
    steps = [one for one in found if isinstance(one, Step)]
    failures = [one for one in found if isinstance(one, RunError)]
    if len(steps) < quorum:
        raise failures[0]
    talk.notes += [f"{what} is missing: {failure}" for failure in failures]
    return steps


async def _or_failure(waited: Awaitable[Step]) -> Step | RunError:
    try:
        return await waited
    except BudgetError:
        raise
    except RunError as error:
        return error


async def in_waves(
    talk: Talk,
    turns: Sequence[Callable[[], Awaitable[Step]]],
    stops: bool = True,
    ties: Ties = "first",
    quorum: int | None = None,
) -> list[Step]:
    """Replies that vote, asked for in waves of the fewest that can settle the vote: as many as one by one, in less time.

    How many were not asked for stands in the talk's facts, as `unasked`: without it, the replies look more of one mind than
    all would have been.

    Args:
        talk: Where.
        turns: Each asks for one reply.
        stops: Whether to stop when the vote is settled; else all are asked at once.
        ties: As `plurality` is given it.
        quorum: Fewest replies to go on with when backends fail; None is all of them.

    Raises:
        RunError: Too many backends failed.
    """
    steps: list[Step] = []
    left = list(turns)
    while left:
        answers = [step.value for step in steps]
        size = least_more(answers, len(left), same=talk.same, ties=ties) if stops else len(left)
        if not size:
            break
        wave, left = left[:size], left[size:]
        steps += await enough(talk, [turn() for turn in wave], len(wave) if quorum is None else 0)
    if left:
        talk.facts["unasked"] = len(left)
    if len(steps) < (quorum or 0):
        raise RunError(f"{len(steps)} replies came, and the quorum is {quorum}: {talk.notes[-1]}", resumable=True)
    return steps


# Self-consistency


class SelfConsistencyParams(ProgramParams):
    """Parameters of `self_consistency`."""

    agents: list[str] = Field([], description="Who answers; empty is every agent of the panel.")
    samples: Count = Field(5, description="Replies of each agent.")
    combine: str = Field("plurality", description="How one answer comes of them: a combiner's name.")
    ties: Ties = Field("first", description="What is done when several answers have most votes.")
    judge: str = Field("", description="The agent that selects, ranks, verifies or merges; empty is the first.")
    early_stop: bool = Field(True, description="Ask no further when a plurality can no longer change.")
    quorum: Count | None = Field(
        None, description="Fewest replies to go on with when backends fail; null is all of them."
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        check_combiner(self.combine)
        if self.quorum is not None and self.agents and self.quorum > len(self.agents) * self.samples:
            raise ValueError(f"quorum must be at most the {len(self.agents) * self.samples} replies, got {self.quorum}")
        return self

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """Every one for `samples` replies."""
        return [(name, self.samples) for name in known(self.agents, agents, "agents") or agents]

    def judges(self, agents: Sequence[str]) -> list[str]:
        """The judge, where the combiner takes one."""
        if not COMBINERS[self.combine].calls(1):
            return []
        return known([self.judge], agents, "judge") if self.judge else [self.asked(agents)[0][0]]


async def self_consistency(talk: Talk, params: SelfConsistencyParams) -> Outcome:
    """Several replies to one question, and the answer that most of them give.

    With `early_stop`, replies are asked for in waves of the fewest that can settle the vote, so that as many are asked
    as one by one, at less time, and the answer is that of all of them.

    Source:
        Wang et al. 2022, arXiv:2203.11171.
    """
    asked = params.asked(list(talk.agents))
    turns = [partial(talk.answer, name, i) for i in range(params.samples) for name, _ in asked]
    stops = params.early_stop and COMBINERS[params.combine].stops_early
    steps = await in_waves(talk, turns, stops, params.ties, params.quorum)
    judges = params.judges(list(talk.agents))
    return await talk.decide(steps, params.combine, judges[0] if judges else "", params.ties)


def _self_consistency_calls(params: SelfConsistencyParams, agents: Sequence[str]) -> tuple[int, int]:
    combiner = COMBINERS[params.combine]
    replies = sum(count for _, count in params.asked(agents))
    least = least_more([], replies, ties=params.ties) if params.early_stop and combiner.stops_early else replies
    judged = combiner.calls(replies)
    return least + min(judged, 1 if replies > 1 or params.combine in ("merge", "verify") else 0), replies + judged


# Mixture of agents


class MixtureParams(ProgramParams):
    """Parameters of `moa`."""

    proposers: list[str] = Field([], description="Who proposes; empty is every agent of the panel.")
    samples: Count = Field(1, description="Proposals of each proposer in a layer.")
    layers: Count = Field(1, description="Layers of proposers before the aggregator.")
    aggregator: str = Field("", description="Who merges the last layer's proposals; empty is the first proposer.")
    aggregator_temperature: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Of the aggregator's reply; null is the agent's own."
    )
    quorum: Count | None = Field(
        None, description="Fewest proposals of a layer to go on with when backends fail; null is all of them."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.quorum is not None and self.proposers and self.quorum > len(self.proposers) * self.samples:
            most = len(self.proposers) * self.samples
            raise ValueError(f"quorum must be at most the {most} proposals of a layer, got {self.quorum}")
        return self

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """Every proposer for `samples` proposals."""
        return [(name, self.samples) for name in known(self.proposers, agents, "proposers") or agents]

    def judges(self, agents: Sequence[str]) -> list[str]:
        """The aggregator."""
        return known([self.aggregator], agents, "aggregator") if self.aggregator else [self.asked(agents)[0][0]]


async def moa(talk: Talk, params: MixtureParams) -> Outcome:
    """Proposers answer; those of each further layer see the replies before; an aggregator merges the last ones.

    Source:
        Wang et al. 2024, arXiv:2406.04692; with one proposer and several samples it is Self-MoA, Li et al. 2025,
        arXiv:2502.00674.
    """
    asked = params.asked(list(talk.agents))
    turns = [(name, i) for name, count in asked for i in range(count)]
    proposals: list[Step] = []
    layers: list[list[Any]] = []
    for layer in range(params.layers):
        texts = [step.reply.text for step in proposals]
        waited = [talk.merge(name, texts, i) if layer else talk.answer(name, i) for name, i in turns]
        proposals = await enough(talk, waited, params.quorum or len(turns), "a proposal")
        layers.append([step.value for step in proposals])
    judge = params.judges(list(talk.agents))[0]
    texts = [step.reply.text for step in proposals]
    # A sample of its own: where it reads what a proposer has read, its reply is not that one's again.
    final = await talk.merge(judge, texts, params.samples, params.aggregator_temperature, final=True)
    return talk.outcome(final.reply.text, final.value, facts={"layers": layers})


def _moa_calls(params: MixtureParams, agents: Sequence[str]) -> tuple[int, int]:
    calls = params.layers * sum(count for _, count in params.asked(agents)) + 1
    return calls, calls


# Self-MoA-Seq


class SequentialParams(ProgramParams):
    """Parameters of `self_moa_seq`."""

    proposer: str = Field("", description="Who proposes; empty is the panel's first agent.")
    samples: Count = Field(12, description="Proposals in all.")
    window: Annotated[int, Field(ge=2)] = Field(6, description="Most references that are merged at a time.")
    reserved: Count = Field(3, description="Of these, copies of what was merged so far.")
    aggregator: str = Field("", description="Who merges; empty is the proposer.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.reserved >= self.window:
            raise ValueError(
                f"reserved must be below window, got {self.reserved} and {self.window}: new proposals need places"
            )
        return self

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """The proposer for all proposals."""
        return [((known([self.proposer], agents, "proposer") if self.proposer else agents)[0], self.samples)]

    def judges(self, agents: Sequence[str]) -> list[str]:
        """The aggregator."""
        return known([self.aggregator], agents, "aggregator") if self.aggregator else [self.asked(agents)[0][0]]


async def self_moa_seq(talk: Talk, params: SequentialParams) -> Outcome:
    """Many proposals of one agent, merged in a sliding window, so that the aggregator's context stays bounded.

    Source:
        Li et al. 2025, arXiv:2502.00674.
    """
    agents = list(talk.agents)
    [(proposer, count)], judge = params.asked(agents), params.judges(agents)[0]
    proposals = await together([talk.answer(proposer, i) for i in range(count)])
    texts = [step.reply.text for step in proposals]
    final = await talk.merge(judge, texts[: params.window], count, final=count <= params.window)
    merged = [final.value]
    fresh = params.window - params.reserved
    for start in range(params.window, count, fresh):
        references = [final.reply.text] * params.reserved + texts[start : start + fresh]
        final = await talk.merge(judge, references, count, final=start + fresh >= count)
        merged.append(final.value)
    return talk.outcome(final.reply.text, final.value, facts={"merged": merged})


def _sequential_calls(params: SequentialParams, _agents: Sequence[str]) -> tuple[int, int]:
    rest = max(0, params.samples - params.window)
    calls = params.samples + 1 + math.ceil(rest / (params.window - params.reserved))
    return calls, calls


_MARKS = (
    "References stand between numbered marks instead of in numbered lines, so that a reply cannot imitate the next one, and "
    "the aggregator is told that they are data."
)

SELF_CONSISTENCY = Program(
    "self_consistency", "Self-consistency", "arXiv:2203.11171",
    "Several replies of one agent, or of several, and the answer that most of them give: the baseline of all others.",
    SelfConsistencyParams, self_consistency, _self_consistency_calls,
    differs=(
        "Replies without a readable answer abstain.",
        "It asks no further when the vote is settled; the answer is the same.",
        "With several agents it is a vote of different models.",
    ),
    technique=Technique(5, "Reasoning and logic", "manual", "several", ("sc",), "samples of each agent at most"),
)  # fmt: skip
MOA = Program(
    "moa", "Mixture-of-Agents and Self-MoA", "arXiv:2406.04692",
    "An aggregator merges the replies of several agents, in layers; several samples of the best one are often better.",
    MixtureParams, moa, _moa_calls,
    differs=(
        _MARKS,
        "A proposer that fails ends it, unless `quorum` allows fewer; the authors' scripts go on with what is there, and "
        "without any.",
    ),
)  # fmt: skip
SELF_MOA_SEQ = Program(
    "self_moa_seq", "Self-MoA-Seq", "arXiv:2502.00674",
    "Many samples of one agent, merged a window at a time, for aggregators with little context.",
    SequentialParams, self_moa_seq, _sequential_calls,
    differs=(_MARKS, "Window 6 with 3 reserved places is from an independent implementation; the paper gives no values."),
)  # fmt: skip
