"""Instructions that the model writes itself, judged on questions with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from modelwright.chat._materials import Demonstration
from modelwright.chat._programs import Program, Technique
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work


class InstructionParams(TechniqueParams):
    """Parameters of techniques that write instructions."""

    shown: Count = Field(3, description="Demonstrations that proposals are made from, the first ones.")
    scored: Count = Field(8, description="Demonstrations that instructions are judged on, the next ones.")
    rounds: Count = Field(2, description="Rounds of new proposals.")
    candidates: Count = Field(4, description="Proposals of a round.")

    @property
    def sampled(self) -> int:
        """Proposals from one prompt."""
        return self.candidates


class ApeParams(InstructionParams):
    """Parameters of `ape`."""

    keep: Count = Field(2, description="Best instructions that variations are made of in each round.")


class OproParams(InstructionParams):
    """Parameters of `opro`."""

    start: str = Field("Let's solve the problem.", min_length=1, description="The first instruction.")
    history: Count = Field(20, description="Most instructions that are shown with their scores, the best ones.")


class _Judged:
    """Instructions with their scores, as they come."""

    def __init__(self, work: Work, params: InstructionParams):
        pool = work.materials.demonstrations
        self._work, self.scores = work, dict[str, float]()
        self.shown: Sequence[Demonstration] = pool[: params.shown]
        self._held = pool[params.shown : params.shown + params.scored]

    async def judge(self, instructions: Sequence[str]) -> None:
        """The share of held questions that each leads to the right answer for."""

        async def one(instruction: str) -> float:
            abouts = [self._work.about(held.question) for held in self._held]
            steps = await together([about.answer("instructed", instruction=instruction) for about in abouts])
            right = [self._work.right(s.value, held) for s, held in zip(steps, self._held, strict=True)]
            return sum(right) / len(right)

        found = await together([one(instruction) for instruction in instructions])
        for instruction, score in zip(instructions, found, strict=True):
            self.scores.setdefault(instruction, score)

    def best(self, count: int) -> list[str]:
        """The instructions with the highest scores, of equal ones the first."""
        return sorted(self.scores, key=lambda one: -self.scores[one])[:count]

    def finished(self) -> str:
        """The best one; what was tried stands in the facts."""
        self._work.talk.facts["instructions"] = dict(self.scores)
        return self.best(1)[0]

    @property
    def examples(self) -> list[str]:
        """The shown demonstrations."""
        return [self._work.example(one, "") for one in self.shown]


async def _instructed(work: Work, name: str, make: Any) -> Outcome:
    instruction = await work.prepared(name, make)
    return work.outcome(await work.last("instructed", instruction=instruction), instruction=instruction)


async def ape(talk: Talk, params: ApeParams) -> Outcome:
    """Instructions are inferred from questions with answers, judged on others, and varied around the best.

    Source:
        Zhou et al. 2022, arXiv:2211.01910.
    """

    async def make(work: Work) -> str:
        judged = _Judged(work, params)
        asked = [work.say("ape_propose", "propose", i, examples=judged.examples) for i in range(params.candidates)]
        await judged.judge([text.strip() for text in await together(asked)])
        for turn in range(params.rounds):
            kept = judged.best(params.keep)
            varied = [work.say("ape_vary", "vary", turn, instruction=one) for one in kept]
            await judged.judge([text.strip() for text in await together(varied)])
        return judged.finished()

    return await _instructed(Work(talk, params), "ape", make)


async def opro(talk: Talk, params: OproParams) -> Outcome:
    """The model sees past instructions with their scores, the worst first, and proposes better ones.

    Source:
        Yang et al. 2023, arXiv:2309.03409.
    """

    async def make(work: Work) -> str:
        judged = _Judged(work, params)
        await judged.judge([params.start])
        for _ in range(params.rounds):
            past = [(one, round(100 * judged.scores[one])) for one in reversed(judged.best(params.history))]
            values = {"past": past, "examples": judged.examples}
            asked = [work.say("opro_propose", "propose", i, **values) for i in range(params.candidates)]
            await judged.judge([text.strip() for text in await together(asked)])
        return judged.finished()

    return await _instructed(Work(talk, params), "opro", make)


def _pool(params: Any) -> dict[str, int]:
    return {"demonstrations": params.shown + params.scored}


APE = Program(
    "ape", "Automatic prompt engineer", "arXiv:2211.01910",
    "Infers instructions from questions with answers, and keeps the one that works best on others.",
    ApeParams, ape, Formula("1"),
    (
        "Every instruction is judged on the same questions; the paper spends more of them on the promising ones.",
        "Search by resampling around the best; the survey calls it reinforcement learning, which it is not.",
    ),
    _pool, Formula("candidates * (1 + scored) + rounds * (1 + scored)", "candidates * (1 + scored) + rounds * keep * (1 + scored)"),
    Technique(31, "Fine-tuning and optimisation", "model"),
)  # fmt: skip
OPRO = Program(
    "opro", "Optimisation by prompting", "arXiv:2309.03409",
    "Shows the model its past instructions with their scores, and asks for better ones.",
    OproParams, opro, Formula("1"), ("Questions to judge on are the same in each round.",),
    _pool, Formula("scored + rounds * candidates * (1 + scored)"), Technique(39, "Optimisation and efficiency", "model"),
)  # fmt: skip
