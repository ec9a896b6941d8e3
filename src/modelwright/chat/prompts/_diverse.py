"""DIV-SE and IDIV-SE: an ensemble of different ways of thinking, instead of one way asked many times."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import xxhash
from pydantic import Field

from modelwright.chat._combine import plurality, weighted
from modelwright.chat._programs import Program, in_waves, known
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Temperature, Work, items
from modelwright.errors import InputError


class DiverseParams(TechniqueParams):
    """Parameters of `div_se` and `idiv_se`."""

    approaches: list[str] = Field([], description="Ways to solve the task; empty asks the guide for them.")
    personas: list[str] = Field(
        [], description="Who the model is to be, joined with each approach; empty asks the guide."
    )
    ensemble_size: Count = Field(5, description="Pairs of persona and approach that are kept.")
    guide: str = Field(
        "", description="The agent that names approaches and rewrites demonstrations; empty is the agent."
    )
    num_queries: Count = Field(100, description="How often the guide is asked for approaches.")
    approaches_per_query: Annotated[int, Field(ge=1, le=5)] = Field(5, description="Approaches it names at a time.")
    candidates: Count = Field(8, description="Of all that it names, the most frequent ones that are tried.")
    validation_size: Annotated[int, Field(ge=0)] = Field(
        19, description="Demonstrations that pairs are tried on; 0 takes the first pairs. They come after those shown."
    )
    shots: Annotated[int, Field(ge=0)] = Field(
        0, description="Demonstrations that are shown, rewritten for each approach."
    )
    temperature: Temperature = Field(0.0, description="Of the answers.")

    @property
    def given(self) -> bool:
        """Whether nothing has to be asked of the guide to know the approaches."""
        return bool(self.approaches)

    def judges(self, agents: Sequence[str]) -> list[str]:
        """The guide."""
        return known([self.guide], agents, "guide") if self.guide else [self.asked(agents)[0][0]]


class SeparateParams(DiverseParams):
    """Parameters of `div_se`."""

    combine: Literal["plurality", "weighted", "verify", "merge"] = Field(
        "plurality",
        description="A vote; one weighted by accuracy on validation; a verifier; or one more call that reasons over all.",
    )
    early_stop: bool = Field(True, description="Ask no further when a plurality can no longer change.")


@dataclass(frozen=True)
class Way:
    """A way of thinking.

    Attributes:
        persona: Who the model is to be; may be empty.
        approach: How it is to think; may be empty.
        accuracy: On the validation questions; 1 where it was not tried.
        examples: Demonstrations in its style.
    """

    persona: str
    approach: str
    accuracy: float = 1.0
    examples: tuple[str, ...] = ()

    @property
    def system(self) -> str:
        """The persona as a system message."""
        return f"You are {self.persona}." if self.persona else ""


def normal(approach: str) -> str:
    """An approach's name without case, articles, punctuation, and the difference of "work" and "working".

    Example:
        >>> normal("Working backwards.") == normal("to work backwards")
        True
    """
    words = re.sub(r"[^\w\s]", " ", approach.casefold()).split()
    words = [word for word in words if word not in ("a", "an", "the", "to", "by", "using", "use")]
    return " ".join(map(_stem, words))


def _stem(word: str) -> str:
    if word.endswith("ing") and len(word) > 5:
        word = word[:-3]
        if len(word) > 2 and word[-1] == word[-2]:
            word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def most_frequent(names: Sequence[str], count: int) -> list[str]:
    """The names that come up most, as they are most often written; of equally frequent ones the first.

    Args:
        names: With repetitions.
        count: How many.
    """
    written: dict[str, Counter[str]] = {}
    for name in names:
        if key := normal(name):
            written.setdefault(key, Counter())[name.strip(" .")] += 1
    order = sorted(written, key=lambda key: -written[key].total())[:count]
    return [written[key].most_common(1)[0][0] for key in order]


async def ways(work: Work, params: DiverseParams) -> list[Way]:
    """The pairs of persona and approach that an ensemble is made of, the most accurate first."""
    guide = params.judges(list(work.talk.agents))[0]
    personas = ["", *params.personas] if params.personas or params.given else ["", *await _personas(work, guide)]
    approaches = params.approaches or ["", *await _approaches(work, params, guide)]
    if params.personas and params.given:
        personas = params.personas
    pairs = [Way(persona, approach) for approach in approaches for persona in personas]
    held = work.materials.demonstrations[params.shots : params.shots + params.validation_size]
    if len(pairs) > params.ensemble_size and held:
        pairs = await together([_tried(work, way, held, params.temperature) for way in pairs])
        pairs = sorted(pairs, key=lambda way: -way.accuracy)
    return await together([_rewritten(work, way, params, guide) for way in pairs[: params.ensemble_size]])


async def _approaches(work: Work, params: DiverseParams, guide: str) -> list[str]:
    pool = work.materials.demonstrations
    drawn = [xxhash.xxh3_64_intdigest(f"approaches {i}".encode()) % len(pool) for i in range(params.num_queries)]
    asked = [
        work.about(pool[which].question).say(
            "diverse_approaches", "guide", i, agent=guide, most=params.approaches_per_query
        )
        for i, which in enumerate(drawn)
    ]
    names = [name for text in await together(asked) for name in items(text, params.approaches_per_query)]
    return most_frequent(names, params.candidates)


async def _personas(work: Work, guide: str) -> list[str]:
    question = work.materials.demonstrations[0].question
    return items(await work.about(question).say("diverse_personas", "guide", agent=guide), 3)


async def _tried(work: Work, way: Way, held: Sequence[Any], temperature: float) -> Way:
    steps = await together([_asked(work.about(one.question), way, temperature) for one in held])
    right = sum(work.right(step.value, one) for step, one in zip(steps, held, strict=True))
    return Way(way.persona, way.approach, right / len(held))


async def _rewritten(work: Work, way: Way, params: DiverseParams, guide: str) -> Way:
    """With the demonstrations solved in its style; those that come to another answer are left out."""
    shown = work.materials.demonstrations[: params.shots]
    values = {"approach": way.approach, "persona": way.system, "agent": guide, "temperature": 0.0}
    steps = await together([work.about(one.question).answer("diverse_rewrite", **values) for one in shown])
    kept = [
        f"{one.question}\n\n{step.reply.text}"
        for one, step in zip(shown, steps, strict=True)
        if work.right(step.value, one)
    ]
    return Way(way.persona, way.approach, way.accuracy, tuple(kept))


async def _asked(work: Work, way: Way, temperature: float) -> Any:
    values = {"approach": way.approach, "examples": list(way.examples)}
    return await work.answer("diverse_answer", persona=way.system, temperature=temperature, **values)


async def _prepared(talk: Talk, params: DiverseParams) -> tuple[Work, list[Way]]:
    work = Work(talk, params)
    held = talk.materials.demonstrations[params.shots : params.shots + params.validation_size]
    if any(one.question == talk.question for one in held):
        raise InputError(
            f"the question {talk.question[:80]!r} is one that approaches are chosen on",
            "Choose them on questions that are not asked: take it out of the demonstrations.",
        )
    found = await work.prepared("ways", lambda inner: ways(inner, params))
    return work, found


async def div_se(talk: Talk, params: SeparateParams) -> Outcome:
    """One call for each way of thinking, at temperature 0; the answers are combined.

    Source:
        Naik et al. 2023, arXiv:2310.07088.
    """
    work, found = await _prepared(talk, params)
    turns = [partial(_asked, work, way, params.temperature) for way in found]
    steps = await in_waves(talk, turns, params.early_stop and params.combine == "plurality")
    talk.facts["ways"] = [{"persona": w.persona, "approach": w.approach, "accuracy": w.accuracy} for w in found]
    if params.combine == "weighted":
        weights = [way.accuracy for way in found]
        vote = weighted([s.value for s in steps], weights, same=talk.same)
        return talk.outcome("" if vote.index is None else steps[vote.index].reply.text, vote.value, vote)
    return await talk.decide(steps, params.combine, params.judges(list(talk.agents))[0])


_HEADER = re.compile(r"^\W*approach\s*(\d+)\b[^\n]*$", re.IGNORECASE | re.MULTILINE)


def blocks_of(text: str) -> list[str]:
    r"""The parts of a reply that begin with `Approach 1`, `Approach 2` and so on, one for each number, in order.

    Example:
        >>> [part.strip() for part in blocks_of("Approach 1: a\nSo 4.\nApproach 2: b\nSo 5.")]
        ['So 4.', 'So 5.']
    """
    found = list(_HEADER.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)] * bool(found)
    parts = {int(match[1]): text[match.end() : end] for match, end in zip(found, ends, strict=True)}
    return [parts[number] for number in sorted(parts)]


async def idiv_se(talk: Talk, params: DiverseParams) -> Outcome:
    """One call that is to solve the question in all ways, one after another; the answers in it vote.

    Source:
        Naik et al. 2023, arXiv:2310.07088.
    """
    work, found = await _prepared(talk, params)
    named = [way.approach or "your own choice" for way in found]
    examples = [_joined(found, i) for i in range(min(len(way.examples) for way in found))]
    values = {"approaches": named, "examples": examples, "temperature": params.temperature}
    step = await work.answer("diverse_in_one", persona=found[0].system, **values)
    parts = blocks_of(step.reply.text)[: len(found)]
    answers = [talk.parser(part.strip()) for part in parts]
    if len(parts) < len(found):
        talk.notes.append(f"idiv_se: {len(parts)} of {len(found)} approaches could be read")
    vote = plurality(answers, same=talk.same)
    text = step.reply.text if vote.index is not None else ""
    return talk.outcome(text, vote.value, vote, {"answers": answers, "approaches": named})


def _joined(found: Sequence[Way], which: int) -> str:
    """A demonstration solved in all ways."""
    question = found[0].examples[which].split("\n\n")[0]
    solved = [way.examples[which].partition("\n\n")[2] for way in found]
    parts = [f"Approach {i}: {w.approach}\n{text}" for i, (w, text) in enumerate(zip(found, solved, strict=True), 1)]
    return "\n\n".join([question, *parts])


def _needs(params: DiverseParams) -> Mapping[str, int]:
    pairs = max(1, len(params.approaches)) * max(1, len(params.personas) + (not params.personas or not params.given))
    tries = params.validation_size if not params.given or pairs > params.ensemble_size else 0
    return {"demonstrations": max(params.shots + tries, int(not params.given))}


def _prepares(params: DiverseParams, _agents: Sequence[str] = (), pool: int = 0) -> tuple[int, int]:
    """Guide calls, tries on validation, and rewritings."""
    asked = 0 if params.given else params.num_queries + (not params.personas)
    most_pairs = max(1, len(params.approaches) or params.candidates + 1) * (
        (len(params.personas) or 3 * (not params.given)) + 1
    )
    tries = most_pairs * params.validation_size
    return asked, asked + tries + min(params.ensemble_size, most_pairs) * params.shots


def _separate_calls(params: SeparateParams, _agents: Sequence[str] = (), pool: int = 0) -> tuple[int, int]:
    n = params.ensemble_size
    more = {"verify": n, "merge": 1}.get(params.combine, 0)
    return (1 if params.given else min(n, 1)), n + more


_DIFFERS = (
    "Ties go to the way that was more accurate on validation; the paper does not say.",
    "Rewritten demonstrations that come to another answer are left out.",
    "Questions that approaches are chosen on cannot be asked.",
)

DIV_SE = Program(
    "div_se", "DIV-SE", "arXiv:2310.07088",
    "Different approaches and personas at temperature 0, one call each, instead of one prompt asked many times.",
    SeparateParams, div_se, _separate_calls, _DIFFERS, _needs, _prepares,
)  # fmt: skip
IDIV_SE = Program(
    "idiv_se", "IDIV-SE", "arXiv:2310.07088",
    "As DIV-SE with all approaches in a single call: cheaper, and an early slip can pull later answers along.",
    DiverseParams, idiv_se, Formula("1"), _DIFFERS, _needs, _prepares,
)  # fmt: skip
