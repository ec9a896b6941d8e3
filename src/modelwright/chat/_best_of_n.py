"""Best of n: several replies, and the one that a reward model likes best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from modelwright.chat._combine import Ties, chosen, weighted
from modelwright.chat._programs import Count, Program, ProgramParams, enough, known
from modelwright.chat._scorers import AnyScorer
from modelwright.chat._talk import Outcome, Talk
from modelwright.errors import RunError


class BestOfNParams(ProgramParams):
    """Parameters of `best_of_n`."""

    agents: list[str] = Field([], description="Who answers; empty is every agent of the panel but the one that rates.")
    samples: Count = Field(8, description="Replies of each agent.")
    scorer: AnyScorer = Field(description="What scores replies: `kind` is agent, function or transformers.")
    choose: Literal["best", "vote"] = Field(
        "best",
        description="`best`: the reply with the highest score; `vote`: the answer with the largest sum of scores.",
    )
    ties: Ties = Field("first", description="With `vote`: what is done when several answers have the largest sum.")
    quorum: Count | None = Field(
        None, description="Fewest replies to go on with when backends fail; null is all of them."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.quorum is not None and self.agents and self.quorum > len(self.agents) * self.samples:
            raise ValueError(f"quorum must be at most the {len(self.agents) * self.samples} replies, got {self.quorum}")
        return self

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """Every one for `samples` replies."""
        raters = self.judges(agents)
        names = known(self.agents, agents, "agents") or [name for name in agents if name not in raters] or list(agents)
        return [(name, self.samples) for name in names]

    def judges(self, agents: Sequence[str]) -> list[str]:
        """The agent that rates, if one does."""
        return known(self.scorer.judges(), agents, "scorer")

    def at(self, folder: Path) -> Self:
        """The same, with the scorer's files found."""
        return self.model_copy(update={"scorer": self.scorer.at(folder)})


async def best_of_n(talk: Talk, params: BestOfNParams) -> Outcome:
    """Several replies, each scored by what was handed over; the best one, or a vote weighted by scores.

    A reply without an answer is not scored and cannot win.

    Source:
        Stiennon et al. 2020, arXiv:2009.01325 (best of n); Cobbe et al. 2021, arXiv:2110.14168 (verifiers, and the vote).
    """
    turns = [(name, i) for name, count in params.asked(list(talk.agents)) for i in range(count)]
    steps = await enough(talk, [talk.answer(name, i) for name, i in turns], params.quorum or len(turns))
    answers = [step.value for step in steps]
    able = [i for i, value in enumerate(answers) if value is not None]
    told = await params.scorer.scores(talk, [steps[i].reply.text for i in able])
    scores: list[float | None] = [None] * len(steps)
    for i, score in zip(able, told, strict=True):
        scores[i] = score
    known_ = [i for i in able if scores[i] is not None]
    if params.choose == "best":
        order = sorted(known_, key=lambda i: -_number(scores[i]))  # the first of equal ones stays first
        decision = chosen(answers, [*order, *(i for i in able if i not in known_)])
    else:
        negative = [i for i in known_ if _number(scores[i]) < 0]
        if negative:
            raise RunError(
                f"scores must be at least 0 to vote, got {_number(scores[negative[0]]):.4g}. Set choose: best, or let the "
                "scorer give probabilities"
            )
        decision = weighted(
            answers, [_number(score) for score in scores], same=talk.same, ties=params.ties, key=talk.question
        )
    text = "" if decision.index is None else steps[decision.index].reply.text
    return talk.outcome(text, decision.value, decision, {"scores": scores})


def _number(score: float | None) -> float:
    return 0.0 if score is None else score


def _calls(params: BestOfNParams, agents: Sequence[str]) -> tuple[int, int]:
    replies = sum(count for _, count in params.asked(agents))
    return replies, replies * (2 if params.judges(agents) else 1)


BEST_OF_N = Program(
    "best_of_n", "Best of n", "arXiv:2009.01325",
    "Several replies, and the one that a reward model, a function or a judge scores highest.",
    BestOfNParams, best_of_n, _calls,
    differs=(
        "`choose: vote` adds up the scores of equal answers, as verifiers do in arXiv:2110.14168.",
        "A judge's rating that cannot be read puts the reply behind all that have one.",
    ),
)  # fmt: skip
