"""One prompt, one reply: what is shown and asked for beside the question."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelwright.chat._materials import Demonstration
from modelwright.chat._programs import Acquisition, Program, Technique
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work
from modelwright.errors import InputError

Shots = Annotated[int, Field(ge=0, le=100)]
_ONE = Formula("1")


class ShotsParams(TechniqueParams):
    """Parameters of techniques that show demonstrations."""

    shots: Count = Field(4, description="Demonstrations that are shown, the first ones.")


class CueParams(TechniqueParams):
    """Parameters of techniques that can show demonstrations."""

    shots: Shots = Field(0, description="Demonstrations with reasoning that are shown; 0 is the instruction alone.")


class DraftParams(CueParams):
    """Parameters of `chain_of_draft`."""

    words: Count = Field(5, description="Most words of a step.")


class EmotionParams(TechniqueParams):
    """Parameters of `emotion_prompt`."""

    stimulus: Annotated[int, Field(ge=1, le=11)] = Field(2, description="Which of the eleven sentences is added.")


def _demonstrations(params: Any) -> dict[str, int]:
    return {"demonstrations": params.shots}


def _reasoning(params: Any) -> dict[str, int]:
    return {"reasoning": params.shots}


def _showing(template: str, *, reasoning: bool = True) -> Callable[[Talk, Any], Any]:
    """A technique that shows so many demonstrations and asks once."""

    async def run(talk: Talk, params: Any) -> Outcome:
        work = Work(talk, params)
        shots = getattr(params, "shots", 0)
        examples = work.examples(shots, reasoning=reasoning)
        return work.outcome(await work.last(template, examples=examples, params=params))

    return run


async def scratchpad(talk: Talk, params: CueParams) -> Outcome:
    """Steps go into a marked area, and the answer is read after it; an area that is not closed has no answer after it.

    Source:
        Nye et al. 2021, arXiv:2112.00114.
    """
    work = Work(talk, params)
    step = await work.answer("scratchpad", examples=work.examples(params.shots), params=params)
    opened, _, rest = step.reply.text.rpartition("</scratch>")
    value = talk.parser(rest.strip()) if opened or "<scratch>" not in rest else None
    return talk.outcome(step.reply.text, value, facts={"scratch": opened.partition("<scratch>")[2].strip()})


_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)")


def shuffled(reasoning: str) -> str | None:
    """The reasoning with its numbers in each other's places, so that it no longer holds together; None with fewer than two.

    Example:
        >>> shuffled("3 plus 4 is 7")
        '4 plus 7 is 3'
    """
    seen = list(dict.fromkeys(_NUMBER.findall(reasoning)))
    if len(seen) < 2:
        return None
    after = dict(zip(seen, [*seen[1:], seen[0]], strict=True))
    return _NUMBER.sub(lambda match: after[match[0]], reasoning)


async def contrastive_cot(talk: Talk, params: ShotsParams) -> Outcome:
    """Each demonstration has right reasoning, and wrong reasoning to be avoided.

    Source:
        Chia et al. 2023, arXiv:2311.09277.
    """
    work = Work(talk, params)
    chosen = [d for d in talk.materials.demonstrations if d.reasoning][: params.shots]
    pairs = [(work.example(one), _wrong(one)) for one in chosen]
    return work.outcome(await work.last("contrastive_cot", pairs=pairs))


def _wrong(shown: Demonstration) -> str:
    wrong = shown.wrong or shuffled(shown.reasoning)
    if wrong is None:
        raise InputError(
            f"contrastive_cot needs wrong reasoning for the demonstration {shown.question[:60]!r}, and makes it of numbers "
            "that change places, of which it has not two",
            "Give it `wrong`.",
        )
    return wrong


def _record(
    number: int, name: str, title: str, paper: str, section: str, summary: str, params: type[TechniqueParams],
    run: Callable[[Talk, Any], Any], needs: Callable[[Any], Any] = lambda _p: {}, differs: Sequence[str] = (),
    acquisition: Acquisition = "manual", aliases: tuple[str, ...] = (),
) -> Program:  # fmt: skip
    technique = Technique(number, section, acquisition, "one", aliases)
    return Program(name, title, paper, summary, params, run, _ONE, tuple(differs), needs, technique=technique)


_CUE = "Demonstrations are those of the panel; without them the instruction stands alone."

ZERO_SHOT = _record(
    1, "zero_shot", "Zero-shot", "Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    "New tasks without training", "The question as it is: what every other technique is compared with.",
    TechniqueParams, _showing("zero_shot"),
)  # fmt: skip
FEW_SHOT = _record(
    2, "few_shot", "Few-shot", "arXiv:2005.14165", "New tasks without training",
    "Questions with their answers before the question, where a format or a task is easier shown than said.",
    ShotsParams, _showing("few_shot", reasoning=False), _demonstrations,
)  # fmt: skip
CHAIN_OF_THOUGHT = _record(
    3, "chain_of_thought", "Chain-of-thought", "arXiv:2201.11903", "Reasoning and logic",
    "Demonstrations with their reasoning, or the plain request to think step by step.",
    CueParams, _showing("chain_of_thought"), _reasoning,
    ("Without demonstrations it is zero-shot CoT, arXiv:2205.11916, with reasoning and answer in one call instead of two.",),
    aliases=("cot",),
)  # fmt: skip
CHAIN_OF_SYMBOL = _record(
    7, "chain_of_symbol", "Chain-of-symbol", "arXiv:2305.10276", "Reasoning and logic",
    "Relations are written as symbols first, and reasoning goes over these: for places, orders and plans.",
    CueParams, _showing("chain_of_symbol"), _reasoning,
    ("The paper shows demonstrations in symbols; the instruction alone lets the model choose the symbols.",), aliases=("cos",),
)  # fmt: skip
CHAIN_OF_DRAFT = _record(
    24, "chain_of_draft", "Chain-of-draft", "arXiv:2502.18600", "Reasoning and logic",
    "Thinks step by step in a few words each, for a fraction of the tokens.",
    DraftParams, _showing("chain_of_draft"), _reasoning, (_CUE,),
)  # fmt: skip
CONTRASTIVE_COT = _record(
    33, "contrastive_cot", "Contrastive chain-of-thought", "arXiv:2311.09277", "Consistency and coherence",
    "Demonstrations with right and wrong reasoning side by side.",
    ShotsParams, contrastive_cot, _reasoning,
    (
        "Wrong reasoning that a demonstration has not is made of it by numbers that change places; the paper shuffles names and "
        "other objects too, found by a tagger.",
    ),
    aliases=("ccot",),
)  # fmt: skip
EMOTION_PROMPT = _record(
    34, "emotion_prompt", "EmotionPrompt", "arXiv:2307.11760", "Emotion and tone",
    "A sentence that says how much depends on the answer.", EmotionParams, _showing("emotion_prompt"),
    differs=("The eleven sentences say what the paper's say, in other words.",),
)  # fmt: skip
SCRATCHPAD = _record(
    35, "scratchpad", "Scratchpad", "arXiv:2112.00114", "Code generation and execution",
    "Intermediate results go into a marked area, and the answer comes after it.",
    CueParams, scratchpad, _reasoning,
    ("The paper trains models to write scratchpads; here they are asked to. " + _CUE,),
)  # fmt: skip
