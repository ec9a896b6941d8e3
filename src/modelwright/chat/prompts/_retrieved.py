"""Answers from passages that were found."""

from __future__ import annotations

from collections import Counter

from pydantic import Field

from modelwright.chat._equality import groups
from modelwright.chat._programs import Program, Technique
from modelwright.chat._retrieval import Passage
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work, numbers

_HALLUCINATION = "Reducing hallucination"


class PassageParams(TechniqueParams):
    """Parameters of techniques that look passages up."""

    top_k: Count = Field(4, description="Passages that are found.")


def _lines(passages: list[Passage]) -> list[str]:
    return [f"{passage.source}: {passage.text}" for passage in passages]


async def rag(talk: Talk, params: PassageParams) -> Outcome:
    """The passages that fit the question best are shown, and cited by their numbers.

    Source:
        Lewis et al. 2020, arXiv:2005.11401.
    """
    work = Work(talk, params)
    found = work.found(talk.question, params.top_k)
    return work.outcome(await work.last("rag", passages=_lines(found)), passages=[p.source for p in found])


async def chain_of_note(talk: Talk, params: PassageParams) -> Outcome:
    """A note on each passage, and then the answer, or that it is unknown.

    Source:
        Yu et al. 2023, arXiv:2311.09210.
    """
    work = Work(talk, params)
    found = work.found(talk.question, params.top_k)
    return work.outcome(await work.last("chain_of_note", passages=_lines(found)), passages=[p.source for p in found])


class KnowledgeParams(PassageParams):
    """Parameters of `chain_of_knowledge`."""

    samples: Count = Field(5, description="Chains that are drawn first.")
    rationales: Count = Field(2, description="Chains that are corrected, where most do not agree.")

    @property
    def sampled(self) -> int:
        """Chains of one prompt."""
        return self.samples


async def chain_of_knowledge(talk: Talk, params: KnowledgeParams) -> Outcome:
    """Where most chains agree that is the answer; else chains are corrected one after another by what is found in the sources.

    Source:
        Li et al. 2023, arXiv:2305.13269.
    """
    work = Work(talk, params)
    steps = await work.samples("chain_of_thought", params.samples, examples=[])
    homes = [home for home in groups([step.value for step in steps], talk.same) if home is not None]
    if homes and 2 * Counter(homes).most_common(1)[0][1] > len(steps):
        return work.vote(steps, agreed=True)
    sources = sorted({p.source.rpartition(":")[0] for p in work.materials.documents.passages})
    said = await work.say("knowledge_domains", "choose", sources=sources)
    wanted = [sources[i] for i in numbers(said, len(sources))] or sources
    corrected: list[str] = []
    for step in steps[: params.rationales]:
        query = await work.say("knowledge_query", "query", rationale=step.reply.text, corrected=corrected)
        found = [p for p in work.found(query, 10 * params.top_k) if p.source.rpartition(":")[0] in wanted][
            : params.top_k
        ]
        values = {"rationale": step.reply.text, "corrected": corrected, "passages": _lines(found)}
        corrected.append(await work.say("knowledge_correct", "correct", **values))
    step = await work.answer("knowledge_answer", corrected=corrected)
    return work.outcome(step, agreed=False, sources=wanted)


RAG = Program(
    "rag", "Retrieval-augmented generation", "arXiv:2005.11401",
    "Answers from passages of your documents that fit the question.",
    PassageParams, rag, Formula("1"),
    ("Passages are found by BM25 and read by a chat model; the paper trains retriever and generator together.",),
    lambda _params: {"documents": 1}, technique=Technique(25, _HALLUCINATION, "retrieval", "one"),
)  # fmt: skip
CHAIN_OF_NOTE = Program(
    "chain_of_note", "Chain-of-note", "arXiv:2311.09210",
    "Notes on each passage whether it helps, before answering, or saying that the answer is unknown.",
    PassageParams, chain_of_note, Formula("1"),
    ("The paper trains a model on such notes; here it is asked for them.",),
    lambda _params: {"documents": 1}, technique=Technique(28, _HALLUCINATION, "retrieval", "one"),
)  # fmt: skip
CHAIN_OF_KNOWLEDGE = Program(
    "chain_of_knowledge", "Chain-of-knowledge", "arXiv:2305.13269",
    "Corrects chains of thought one after another by what sources say, where the chains do not agree.",
    KnowledgeParams, chain_of_knowledge, Formula("samples", "samples + 2 + 2 * rationales"),
    (
        "Sources are the panel's files; the paper trains generators of queries for databases.",
        "Most is more than half of the chains.",
    ),
    lambda _params: {"documents": 1}, technique=Technique(29, _HALLUCINATION, "hybrid"),
)  # fmt: skip
