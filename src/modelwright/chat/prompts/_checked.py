"""A draft is looked at again: feedback, checks, or arguments for and against each step."""

from __future__ import annotations

from pydantic import Field

from modelwright.chat._programs import Program, Technique
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work, items, word


class RefineParams(TechniqueParams):
    """Parameters of `self_refine`."""

    rounds: Count = Field(3, description="Most rounds of feedback and rewriting.")


class VerifyParams(TechniqueParams):
    """Parameters of `chain_of_verification`."""

    checks: Count = Field(4, description="Most questions that check the draft.")


class LogicotParams(TechniqueParams):
    """Parameters of `logicot`."""

    steps: Count = Field(8, description="Most steps that are examined.")


async def self_refine(talk: Talk, params: RefineParams) -> Outcome:
    """Draft, feedback by the same model, rewrite, until the feedback says that nothing is to be improved.

    Source:
        Madaan et al. 2023, arXiv:2303.17651.
    """
    work = Work(talk, params)
    step = await work.answer("zero_shot")
    rounds = 0
    while rounds < params.rounds:
        draft = step.reply.text
        feedback = await work.say("self_refine_feedback", "feedback", draft=draft)
        if word(feedback, ("stop",)):
            break
        step = await work.answer("self_refine_rewrite", draft=draft, feedback=feedback)
        rounds += 1
    return work.outcome(step, rewritten=rounds)


async def chain_of_verification(talk: Talk, params: VerifyParams) -> Outcome:
    """Questions that check the draft are answered without it, and the answer is written anew from what came out.

    Source:
        Dhuliawala et al. 2023, arXiv:2309.11495.
    """
    work = Work(talk, params)
    draft = await work.answer("zero_shot")
    plan = await work.say("verification_plan", "plan", draft=draft.reply.text, most=params.checks)
    checks = items(plan, params.checks)
    if not checks:
        talk.notes.append("chain_of_verification: no question to check the draft could be read")
        return work.outcome(draft, checks=[])
    found = await together([work.say("verification_check", "check", check=check) for check in checks])
    pairs = [f"{check}\n{answer}" for check, answer in zip(checks, found, strict=True)]
    return work.outcome(await work.last("verification_answer", draft=draft.reply.text, checks=pairs), checks=checks)


async def logicot(talk: Talk, params: LogicotParams) -> Outcome:
    """For each step there are arguments for it and for its opposite; what loses is revised, and the chain goes on from there.

    Source:
        Zhao et al. 2023, arXiv:2309.13339.
    """
    work = Work(talk, params)
    chain = _steps(await work.say("logicot_chain", "chain", most=params.steps), params.steps)
    good: list[str] = []
    revised = 0
    while chain and len(good) < params.steps:
        step, chain = chain[0], chain[1:]
        for_it, against = await together(
            [
                work.say("logicot_argue", "argue", before=good, step=step, holds=True),
                work.say("logicot_argue", "argue", before=good, step=step, holds=False),
            ]
        )
        verdict = await work.say("logicot_judge", "judge", before=good, step=step, arguments=[for_it, against])
        if word(verdict, ("right", "wrong")) == "wrong":
            said = await work.say("logicot_revise", "rewrite", before=good, step=step, argument=against)
            step, *chain = _steps(said, params.steps)
            revised += 1
        good.append(step)
    return work.outcome(await work.last("logicot_answer", steps=good), steps=good, revised=revised)


def _steps(text: str, most: int) -> list[str]:
    """The steps of a chain; a text without a list is one step."""
    return items(text, most) or [text.strip()]


SELF_REFINE = Program(
    "self_refine", "Self-refine", "arXiv:2303.17651",
    "The model criticises its own answer and rewrites it, until it has nothing to say.",
    RefineParams, self_refine, Formula("2", "1 + 2 * rounds"),
    ("No examples of feedback are shown; the paper shows a few for each task.",),
    technique=Technique(13, "Reasoning and logic", "model"),
)  # fmt: skip
CHAIN_OF_VERIFICATION = Program(
    "chain_of_verification", "Chain-of-verification", "arXiv:2309.11495",
    "Plans questions that check a draft, answers each without seeing the draft, and rewrites.",
    VerifyParams, chain_of_verification, Formula("2", "3 + checks"),
    ("The factored variant: each check has a call of its own. Without a readable check the draft stands.",),
    technique=Technique(27, "Reducing hallucination", "model", aliases=("cove",)),
)  # fmt: skip
LOGICOT = Program(
    "logicot", "LogiCoT", "arXiv:2309.13339",
    "Examines each step of a chain by arguments for it and for its opposite, and revises those that lose.",
    LogicotParams, logicot, Formula("5", "2 + 4 * steps"),
    (
        "A revised step is taken as it is, and the rest of the chain is written anew in the same call.",
        "The answer is asked for in a last call, from the steps that stand.",
    ),
    technique=Technique(6, "Reasoning and logic", "model"),
)  # fmt: skip
