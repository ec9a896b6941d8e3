"""Self-ensembled in-context learning: one model, several demonstrations and prompts, one calibrated distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import xxhash
from pydantic import Field

from modelwright.chat._forms import render
from modelwright.chat._materials import Demonstration
from modelwright.chat._messages import user
from modelwright.chat._programs import Program
from modelwright.chat._retrieval import Passage, Retriever
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat._variants import Rule, combine_variants, label_probabilities
from modelwright.chat.prompts._work import TechniqueParams, Work

#: Templates that come with the library, `templates/prompts/labels_1.j2` and on.
TEMPLATES = 4
_DEFAULT = {"demonstrations": 20, "template": TEMPLATES, "both": 20}


class SelfEnsembledParams(TechniqueParams):
    """Parameters of `self_ensembled_icl`."""

    labels: Annotated[list[str], Field(min_length=2)] = Field(
        description="What answers can be, one token each at best."
    )
    variation: Literal["demonstrations", "template", "both"] = Field("demonstrations", description="What differs.")
    num_variants: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Variants; null is 20, and 4 where templates alone differ."
    )
    num_demonstrations: Annotated[int, Field(ge=0)] = Field(3, description="Demonstrations in a prompt.")
    retriever: Literal["random", "balanced", "bm25"] = Field(
        "random",
        description="How demonstrations are drawn: by chance, from each label in turn, or by likeness to the question.",
    )
    combine: Rule = Field("max_prob", description="How one distribution comes of those of the variants.")
    min_votes: Annotated[int, Field(ge=1)] = Field(
        1, description="With `majority`: variants that must agree, else it abstains."
    )

    @property
    def variants(self) -> list[tuple[int, int]]:
        """Of each variant the draw of demonstrations and the template."""
        count = self.num_variants or _DEFAULT[self.variation]
        if self.variation == "demonstrations":
            return [(i, 0) for i in range(count)]
        if self.variation == "template":
            return [(0, i) for i in range(min(count, TEMPLATES))]
        return [(i // TEMPLATES, i % TEMPLATES) for i in range(count)]


def drawn(
    pool: Sequence[Demonstration], question: str, count: int, draw: int, how: str = "random"
) -> list[Demonstration]:
    """Demonstrations for a question, another set for each draw; the question itself is never among them.

    Args:
        pool: What is drawn from.
        question: For which.
        count: How many.
        draw: Which set.
        how: `random`; `balanced`, from each answer in turn; `bm25`, the most similar ones, from one place further down for each draw, the most
            similar last, next to the question.
    """
    others = [one for one in pool if one.question != question]
    if how == "bm25":
        index = Retriever([Passage(str(i), one.question) for i, one in enumerate(others)])
        near = [int(p.source) for p in index.search(question, len(others))]
        order = [*near, *(i for i in range(len(others)) if i not in near)]
        start = draw % max(1, len(order) - count + 1)
        return [others[i] for i in reversed(order[start : start + count])]
    key = {
        i: xxhash.xxh3_64_intdigest(f"{draw}\x1f{question}\x1f{i}".encode("utf-8", "surrogatepass"))
        for i in range(len(others))
    }
    order = sorted(key, key=key.__getitem__)
    if how == "balanced":
        by_answer: dict[str, list[int]] = {}
        for i in order:
            by_answer.setdefault(others[i].answer, []).append(i)
        turns = [i for turn in range(len(order)) for own in by_answer.values() for i in own[turn : turn + 1]]
        order = turns
    return [others[i] for i in order[:count]]


async def self_ensembled_icl(talk: Talk, params: SelfEnsembledParams) -> Outcome:
    """Each variant of the prompt gives a distribution over the labels; these are combined into one.

    Source:
        Li et al. 2023, arXiv:2312.13772.
    """
    work = Work(talk, params)
    pool = talk.materials.demonstrations
    steps = await together([_scored(work, params, pool, draw, template) for draw, template in params.variants])
    found = np.array([label_probabilities(np.array(step.reply.scores)) for step in steps])
    made, labels = combine_variants(found[:, None, :], params.combine, params.min_votes)
    value = params.labels[int(labels[0])] if labels[0] >= 0 else None
    facts: dict[str, Any] = {
        "probabilities": dict(zip(params.labels, made[0].tolist(), strict=True)),
        "variants": found.tolist(),
    }
    text = talk.parser.write(value) if value is not None else ""
    return talk.outcome(text, value, facts=facts)


async def _scored(
    work: Work, params: SelfEnsembledParams, pool: Sequence[Demonstration], draw: int, template: int
) -> Any:
    shown = drawn(pool, work.talk.question, params.num_demonstrations, draw, params.retriever)
    pairs = [(one.question, one.answer) for one in shown]
    values = {"question": work.talk.question, "labels": params.labels, "pairs": pairs}
    text = render(f"prompts/labels_{template + 1}", **values)
    return await work.talk.ask(work.agent, user(text), "score", options=params.labels, reads=False)


def _calls(params: SelfEnsembledParams, _agents: Sequence[str] = (), pool: int = 0) -> tuple[int, int]:
    return len(params.variants), len(params.variants)


SELF_ENSEMBLED_ICL = Program(
    "self_ensembled_icl", "Self-ensembled in-context learning", "arXiv:2312.13772",
    "One model under varied demonstrations and prompts; the mean or largest probability of each label is better calibrated.",
    SelfEnsembledParams, self_ensembled_icl, _calls,
    (
        "Labels are scored as replies: by their likelihood in models here, by the first token's most probable values behind "
        "servers.",
        "Demonstrations are drawn by a hash of question and variant. Drawing by embeddings is not here.",
    ),
    lambda params: {"demonstrations": params.num_demonstrations},
)  # fmt: skip
