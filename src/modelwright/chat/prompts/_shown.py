"""Demonstrations that are chosen, written or mended by the model before it answers."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import xxhash
from pydantic import Field

from modelwright.chat._equality import groups
from modelwright.chat._materials import Demonstration, ThoughtTemplate
from modelwright.chat._parsers import number
from modelwright.chat._programs import Program, Technique
from modelwright.chat._retrieval import Passage, Retriever
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work, items
from modelwright.errors import InputError
from modelwright.evaluate._predictor import needs

_REASONING = "Reasoning and logic"


class AutoParams(TechniqueParams):
    """Parameters of `auto_cot`."""

    clusters: Count = Field(4, description="Groups of questions, of each of which one is shown.")
    words: Count = Field(60, description="Most words of a question that is shown.")
    steps: Count = Field(5, description="Most lines of reasoning that is shown.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Of the clusters.")


class EchoParams(AutoParams):
    """Parameters of `echo`."""

    rounds: Count = Field(2, description="How often each demonstration's reasoning is written anew.")


def clustered(questions: Sequence[str], clusters: int, seed: int = 0) -> list[list[int]]:
    """Positions of questions in so many groups of like words, in each those nearest to its centre first.

    Args:
        questions: At least `clusters`.
        clusters: Groups of k-means on TF-IDF.
        seed: Of the first centres.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    needs("sklearn", "auto_cot", "eval")
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    found: Any = TfidfVectorizer().fit_transform(questions).toarray()  # type: ignore[reportAttributeAccessIssue]
    model: Any = KMeans(clusters, n_init=10, random_state=seed).fit(found)  # type: ignore[reportArgumentType]
    far = ((found - model.cluster_centers_[model.labels_]) ** 2).sum(axis=1)
    order = sorted(range(len(questions)), key=lambda i: (round(float(far[i]), 9), i))
    homes = [[i for i in order if model.labels_[i] == home] for home in range(clusters)]
    return sorted((home for home in homes if home), key=min)


async def _automatic(work: Work, params: AutoParams) -> list[Demonstration]:
    """Of each cluster the first question whose own reasoning is short and has an answer."""
    pool = work.materials.demonstrations
    homes = clustered([one.question for one in pool], params.clusters, params.seed)
    chosen = await together([_first_simple(work, [pool[i] for i in home], params) for home in homes])
    return [one for one in chosen if one is not None]


async def _first_simple(work: Work, pool: Sequence[Demonstration], params: AutoParams) -> Demonstration | None:
    for one in pool:
        if len(one.question.split()) > params.words:
            continue
        step = await work.about(one.question).answer("chain_of_thought", examples=[])
        lines = [line for line in step.reply.text.splitlines() if line.strip()]
        if step.value is not None and len(lines) <= params.steps:
            return Demonstration(one.question, str(step.value), step.reply.text)
    work.talk.notes.append("a group of questions has none with short reasoning and an answer, and none of it is shown")
    return None


def _written(shown: Demonstration) -> str:
    """A demonstration whose reasoning is a whole reply: the answer is in it."""
    return f"{shown.question}\n\n{shown.reasoning}"


async def auto_cot(talk: Talk, params: AutoParams) -> Outcome:
    """Questions are grouped, and of each group one is shown with reasoning that the model wrote without examples.

    Source:
        Zhang et al. 2022, arXiv:2210.03493.
    """
    work = Work(talk, params)
    shown = await work.prepared("auto_cot", lambda inner: _automatic(inner, params))
    examples = [_written(one) for one in shown]
    return work.outcome(await work.last("chain_of_thought", examples=examples), shown=[one.question for one in shown])


async def echo(talk: Talk, params: EchoParams) -> Outcome:
    """As `auto_cot`, and then each demonstration's reasoning is written anew with the others as examples.

    Source:
        Jin and Lu 2024, arXiv:2409.04057.
    """
    work = Work(talk, params)

    async def make(inner: Work) -> list[Demonstration]:
        shown = await _automatic(inner, params)
        for turn in range(params.rounds):
            order = sorted(
                range(len(shown)), key=lambda i: xxhash.xxh3_64_intdigest(f"{params.seed} {turn} {i}".encode())
            )
            for i in order:
                others = [_written(one) for j, one in enumerate(shown) if j != i]
                step = await inner.about(shown[i].question).answer("chain_of_thought", examples=others)
                if step.value is not None:
                    shown[i] = Demonstration(shown[i].question, str(step.value), step.reply.text)
        return shown

    shown = await work.prepared("echo", make)
    examples = [_written(one) for one in shown]
    return work.outcome(await work.last("chain_of_thought", examples=examples), shown=[one.question for one in shown])


class ActiveParams(TechniqueParams):
    """Parameters of `active_prompt`."""

    samples: Annotated[int, Field(ge=2)] = Field(5, description="Answers to each question of the pool.")
    shots: Count = Field(4, description="Questions that are shown: the least certain ones.")
    uncertainty: Literal["disagreement", "entropy", "variance"] = Field(
        "disagreement", description="How doubt is measured."
    )

    @property
    def sampled(self) -> int:
        """Answers to each question of the pool."""
        return self.samples


def uncertainty(answers: Sequence[Any], kind: str, same: Any) -> float:
    """How much answers differ: the share of different ones, their entropy in nats, or the variance of their numbers.

    Args:
        answers: None abstains, and is an answer of its own.
        kind: `disagreement`, `entropy` or `variance`.
        same: When two are the same.

    Example:
        >>> uncertainty(["4", "4", "5", "6"], "disagreement", lambda a, b: a == b)
        0.75
    """
    if kind == "variance":
        values = [number()(f"answer is {a}") for a in answers if a is not None]
        figures = [float(value) for value in values if value is not None]
        mean = math.fsum(figures) / len(figures) if figures else 0.0
        return math.fsum((f - mean) ** 2 for f in figures) / len(figures) if figures else 0.0
    homes = [f"none {i}" if home is None else str(home) for i, home in enumerate(groups(answers, same))]
    counts = Counter(homes)
    if kind == "disagreement":
        return len(counts) / len(answers)
    return -math.fsum(n / len(answers) * math.log(n / len(answers)) for n in counts.values())


async def active_prompt(talk: Talk, params: ActiveParams) -> Outcome:
    """The questions that the model is least certain of are shown, with the reasoning that people wrote for them.

    Raises:
        InputError: One of these questions has no reasoning yet.

    Source:
        Diao et al. 2023, arXiv:2302.12246.
    """
    work = Work(talk, params)

    async def make(inner: Work) -> list[int]:
        pool = inner.materials.demonstrations
        asked = [inner.about(one.question).samples("chain_of_thought", params.samples, examples=[]) for one in pool]
        found = [[step.value for step in steps] for steps in await together(asked)]
        doubts = [uncertainty(answers, params.uncertainty, talk.same) for answers in found]
        inner.talk.facts["uncertainty"] = doubts
        return sorted(range(len(pool)), key=lambda i: -doubts[i])[: params.shots]

    chosen = [talk.materials.demonstrations[i] for i in await work.prepared("active_prompt", make)]
    bare = [one.question for one in chosen if not one.reasoning]
    if bare:
        raise InputError(
            f"active_prompt shows the questions that the model is least certain of, and {len(bare)} of them have no reasoning, "
            f"the first: {bare[0][:100]!r}",
            "Write down how they are solved, under `reasoning`.",
        )
    examples = [work.example(one) for one in chosen]
    return work.outcome(
        await work.answer("chain_of_thought", examples=examples), shown=[one.question for one in chosen]
    )


class DenoisingParams(TechniqueParams):
    """Parameters of `contrastive_denoising`."""

    shots: Count = Field(2, description="Noisy demonstrations that are mended.")
    rephrasings: Count = Field(3, description="Of each.")
    contexts: Count = Field(2, description="Prompts with different rephrasings.")
    samples: Count = Field(4, description="Replies in all, shared out over the prompts.")

    @property
    def sampled(self) -> int:
        """Rephrasings of one, or replies to one prompt."""
        return max(self.rephrasings, math.ceil(self.samples / self.contexts))


async def contrastive_denoising(talk: Talk, params: DenoisingParams) -> Outcome:
    """Noisy reasoning is rephrased by contrast with clean reasoning; rephrasings with the right answer are shown, and replies vote.

    Source:
        Zhou et al. 2024, arXiv:2410.23856.
    """
    work = Work(talk, params)
    known = [d for d in talk.materials.demonstrations if d.reasoning]
    clean = next((d for d in known if not d.noisy), None)
    if clean is None:
        raise InputError(
            "contrastive_denoising needs a demonstration with clean reasoning", "Leave `noisy` out of one."
        )

    async def make(inner: Work) -> list[list[str]]:
        """Of each noisy demonstration the rephrasings whose answer is the right one."""
        noisy = [d for d in known if d.noisy][: params.shots]

        async def mended(one: Demonstration) -> list[str]:
            about = inner.about(one.question)
            values = {"clean": inner.example(clean), "noisy": inner.example(one)}
            steps = await about.samples("denoising_rephrase", params.rephrasings, **values)
            return [f"{one.question}\n\n{s.reply.text}" for s in steps if inner.right(s.value, one)]

        return await together([mended(one) for one in noisy])

    mended = await work.prepared("contrastive_denoising", make)
    contexts = [[work.example(clean), *(own[i % len(own)] for own in mended if own)] for i in range(params.contexts)]
    turns = [(i % params.contexts, i // params.contexts) for i in range(params.samples)]
    steps = await together([work.answer("chain_of_thought", s, examples=contexts[c]) for c, s in turns])
    return work.vote(steps, mended=[len(own) for own in mended])


class BufferParams(TechniqueParams):
    """Parameters of `buffer_of_thoughts`."""

    learn: bool = Field(True, description="Whether new templates are distilled, and kept for the questions after.")
    novelty: Annotated[float, Field(ge=0, le=1)] = Field(
        0.7, description="A new template is kept if it shares fewer words than this share with each known one."
    )


@dataclass
class Buffer:
    """Templates of thoughts, and the turn of who may add to them."""

    templates: list[ThoughtTemplate] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def nearest(self, text: str) -> ThoughtTemplate | None:
        """The template whose description fits a text best, by BM25."""
        if not self.templates:
            return None
        passages = [Passage(str(i), f"{t.name} {t.description}") for i, t in enumerate(self.templates)]
        found = Retriever(passages).search(text, 1)
        return self.templates[int(found[0].source)] if found else None

    def add(self, new: ThoughtTemplate, novelty: float) -> bool:
        """Keep a template, if it is new."""
        if any(alike(new.template, old.template) >= novelty for old in self.templates):
            return False
        self.templates.append(new)
        return True


def alike(first: str, second: str) -> float:
    """The share of words of either text that both have, in [0, 1]."""
    a, b = set(first.casefold().split()), set(second.casefold().split())
    return len(a & b) / len(a | b) if a | b else 1.0


async def buffer_of_thoughts(talk: Talk, params: BufferParams) -> Outcome:
    """The problem is distilled, a template of thoughts is found and filled in, and what is new is distilled into a template.

    Where it learns, questions of a session wait for each other, in their order.

    Source:
        Yang et al. 2024, arXiv:2406.04271.
    """
    work = Work(talk, params)
    key = json.dumps(["buffer_of_thoughts", talk.materials.fingerprint])
    buffer = talk.kept(key, lambda: Buffer(list(talk.materials.templates)))
    if not params.learn:
        return await _with_buffer(work, params, buffer)
    async with buffer.turn:
        return await _with_buffer(work, params, buffer)


async def _with_buffer(work: Work, params: BufferParams, buffer: Buffer) -> Outcome:
    distilled = await work.say("buffer_distil", "distil")
    template = buffer.nearest(f"{work.talk.question} {distilled}")
    step = await work.answer("buffer_answer", distilled=distilled, thoughts=template.template if template else "")
    learned = False
    if params.learn:
        said = await work.say("buffer_learn", "learn", solution=step.reply.text)
        match items(said, 20):
            case [name, description, *steps] if steps:
                learned = buffer.add(ThoughtTemplate(name, description, "\n".join(steps)), params.novelty)
            case _:
                work.talk.notes.append("buffer_of_thoughts: no template could be read")
    return work.outcome(
        step, template=template.name if template else None, learned=learned, known=len(buffer.templates)
    )


AUTO_COT = Program(
    "auto_cot", "Auto-CoT", "arXiv:2210.03493",
    "Chooses diverse questions and writes their reasoning by itself, instead of people.",
    AutoParams, auto_cot, Formula("1"),
    ("Questions are grouped by TF-IDF, not by Sentence-BERT.",),
    lambda params: {"demonstrations": params.clusters}, Formula("clusters", "pool"),
    Technique(4, _REASONING, "model"),
)  # fmt: skip
ECHO = Program(
    "echo", "Self-harmonised chain-of-thought", "arXiv:2409.04057",
    "Auto-CoT whose demonstrations are rewritten in each other's light, until they are of one pattern.",
    EchoParams, echo, Formula("1"),
    ("Questions are grouped by TF-IDF, not by Sentence-BERT. A rewriting without an answer is not taken.",),
    lambda params: {"demonstrations": params.clusters}, Formula("clusters", "pool + rounds * clusters"),
    Technique(15, _REASONING, "model"),
)  # fmt: skip
ACTIVE_PROMPT = Program(
    "active_prompt", "Active-prompt", "arXiv:2302.12246",
    "Finds the questions that the model is least certain of, for people to write reasoning for, and shows these.",
    ActiveParams, active_prompt, Formula("1"),
    ("One reply answers; the paper votes over 40. `self_consistency` over its replies is not built in.",),
    lambda params: {"demonstrations": params.shots}, Formula("pool * samples"),
    Technique(30, "User interaction", "hybrid"),
)  # fmt: skip
CONTRASTIVE_DENOISING = Program(
    "contrastive_denoising", "Contrastive denoising", "arXiv:2410.23856",
    "Mends demonstrations whose reasoning may be wrong, with one that is right beside them, and votes.",
    DenoisingParams, contrastive_denoising, Formula("samples"),
    ("A noisy demonstration of which no rephrasing has the right answer is left out.",),
    lambda params: {"noisy": params.shots, "reasoning": params.shots + 1}, Formula("shots * rephrasings"),
    Technique(22, _REASONING, "hybrid", aliases=("cd_cot",)),
)  # fmt: skip
BUFFER_OF_THOUGHTS = Program(
    "buffer_of_thoughts", "Buffer-of-thoughts", "arXiv:2406.04271",
    "Solves problems along templates of thoughts that it keeps from problems before.",
    BufferParams, buffer_of_thoughts, Formula("2 + learn"),
    (
        "Templates are found by BM25 and compared by their words; the paper uses embeddings.",
        "Templates last for a session; those of the panel's file are there from the beginning.",
    ),
    technique=Technique(21, _REASONING, "hybrid", aliases=("bot",)),
)  # fmt: skip
