"""From reasoning back to questions: data, not answers."""

from __future__ import annotations

import json
import re

from pydantic import Field

from modelwright.chat._programs import Program, Technique
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work, items


class ReverseParams(TechniqueParams):
    """Parameters of `reverse_chain_of_thought`."""

    pairs: Count = Field(5, description="Most questions that are made.")


async def reverse_chain_of_thought(talk: Talk, params: ReverseParams) -> Outcome:
    """A figure is described element by element, results are derived from the description, and questions are made for these.

    The question of the talk is the figure, in words. What comes out is the pairs, as JSON.

    Source:
        Deng et al. 2024, arXiv:2410.17885.
    """
    work = Work(talk, params)
    described = await work.say("reverse_describe", "describe")
    told = await work.say("reverse_derive", "derive", described=described, most=params.pairs)
    results = items(told, params.pairs)
    said = await work.say("reverse_ask", "ask", described=described, results=results or [told.strip()])
    found = re.findall(r"^\W*Q(?:uestion)?\s*\d*\s*:\s*(\S.*)\n+\W*A(?:nswer)?\s*\d*\s*:\s*(\S.*)$", said, re.MULTILINE)
    pairs = [{"question": question.strip(), "answer": answer.strip()} for question, answer in found[: params.pairs]]
    text = json.dumps(pairs, ensure_ascii=False)
    return talk.outcome(text, text if pairs else None, facts={"pairs": pairs, "results": results})


REVERSE_CHAIN_OF_THOUGHT = Program(
    "reverse_chain_of_thought", "Reverse chain-of-thought", "arXiv:2410.17885",
    "Makes questions with answers of a figure's description, from the reasoning back to the question: for training data.",
    ReverseParams, reverse_chain_of_thought, Formula("3"),
    ("Figures are given in words. The paper draws and describes pictures of geometry with a program of its own.",),
    technique=Technique(23, "Reasoning and logic", "model"),
)  # fmt: skip
