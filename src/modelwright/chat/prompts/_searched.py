"""Several thoughts, scored and chosen from: trees, graphs, layers of constraints, and cues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from modelwright.chat._programs import Program, Technique
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Step, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work, items, numbers, score, word

_REASONING = "Reasoning and logic"
#: What a thought is worth.
_VALUES = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}


class TreeParams(TechniqueParams):
    """Parameters of `tree_of_thoughts`."""

    search: Literal["bfs", "dfs"] = Field(
        "bfs", description="A beam level by level, or the best thought first, going back."
    )
    branch: Count = Field(5, description="Thoughts that are proposed after a state.")
    beam: Count = Field(5, description="With bfs: states that are kept at each level.")
    depth: Count = Field(3, description="Levels.")
    states: Count = Field(20, description="With dfs: most states that are gone on from.")


@dataclass(frozen=True)
class Thoughts:
    """Thoughts one after another, and what the last is worth."""

    path: tuple[str, ...] = ()
    value: float = 0.0


async def tree_of_thoughts(talk: Talk, params: TreeParams) -> Outcome:
    """Thoughts are proposed, valued and searched, and the question is answered along the best path.

    Source:
        Yao et al. 2023, arXiv:2305.10601.
    """
    work = Work(talk, params)
    best = await (_breadth_first if params.search == "bfs" else _depth_first)(work, params)
    step = await work.answer("thoughts_answer", thoughts=list(best.path))
    return work.outcome(step, path=list(best.path), value=best.value)


async def _after(work: Work, params: TreeParams, state: Thoughts) -> list[Thoughts]:
    """The thoughts after a state, valued, the best first; of equal ones the first."""
    told = await work.say("tree_propose", "propose", thoughts=list(state.path), most=params.branch)
    proposed = list(dict.fromkeys(items(told, params.branch) or [told.strip()]))
    paths = [(*state.path, thought) for thought in proposed]
    said = await together([work.say("tree_value", "value", thoughts=list(path)) for path in paths])
    values = [_VALUES.get(word(text, tuple(_VALUES)) or "", 0.0) for text in said]
    return sorted(map(Thoughts, paths, values), key=lambda state: -state.value)


async def _breadth_first(work: Work, params: TreeParams) -> Thoughts:
    beam = [Thoughts()]
    for _ in range(params.depth):
        grown = await together([_after(work, params, state) for state in beam])
        beam = sorted((state for states in grown for state in states), key=lambda state: -state.value)[: params.beam]
    return beam[0]


async def _depth_first(work: Work, params: TreeParams) -> Thoughts:
    """The first path to the bottom on which nothing is impossible; where there is none, the deepest state that was met."""
    deepest = Thoughts()
    stack, left = [Thoughts()], params.states
    while stack and left:
        state = stack.pop()
        if len(state.path) > len(deepest.path):
            deepest = state
        if len(state.path) == params.depth:
            return state
        left -= 1
        grown = await _after(work, params, state)
        stack += reversed([one for one in grown if one.value > _VALUES["impossible"]])
    return deepest


def _tree_calls(params: TreeParams, _agents: Sequence[str] = (), pool: int = 0) -> tuple[int, int]:
    return (_BFS if params.search == "bfs" else _DFS)(params)


_BFS = Formula("2 * depth + 1", "2 + branch + (depth - 1) * beam * (1 + branch)")
_DFS = Formula("3", "1 + states * (1 + branch)")


class GraphParams(TechniqueParams):
    """Parameters of `graph_of_thoughts`."""

    branch: Count = Field(4, description="Thoughts that are generated at first.")
    keep: Count = Field(2, description="Of these, the best, which are merged.")
    merges: Count = Field(2, description="Merged thoughts, of which the best one is refined.")
    rounds: Count = Field(1, description="Refinements, each kept if it scores higher.")

    @property
    def sampled(self) -> int:
        """Thoughts of one prompt."""
        return max(self.branch, self.merges)


async def graph_of_thoughts(talk: Talk, params: GraphParams) -> Outcome:
    """Generate, score, keep the best, merge them, score, keep the best, refine; the best node of the last ones is the answer.

    Source:
        Besta et al. 2023, arXiv:2308.09687.
    """
    work = Work(talk, params)

    async def scored(steps: Sequence[Step]) -> list[tuple[int, Step]]:
        said = await together([work.say("graph_score", "score", thought=step.reply.text) for step in steps])
        return sorted(zip(map(score, said), steps, strict=True), key=lambda pair: -pair[0])

    first = await scored(await work.samples("chain_of_thought", params.branch, examples=[]))
    kept = [step.reply.text for _, step in first[: params.keep]]
    merged = await scored(await work.samples("graph_merge", params.merges, thoughts=kept))
    value, best = merged[0]
    nodes = [*first, *merged]
    for _ in range(params.rounds):
        [(again, step)] = await scored([await work.answer("graph_refine", thought=best.reply.text)])
        nodes.append((again, step))
        if again > value:
            value, best = again, step
    return work.outcome(best, scores=[node[0] for node in nodes])


class LayerParams(TechniqueParams):
    """Parameters of `layer_of_thoughts`."""

    top_k: Count = Field(8, description="Passages that are found to begin with.")
    layers: Count = Field(3, description="Layers of constraints, from the most to the least important.")
    options: Count = Field(2, description="Ways to meet a layer's constraint.")


async def layer_of_thoughts(talk: Talk, params: LayerParams) -> Outcome:
    """Constraints in layers: passages that meet none of a layer's options are left out, and the rest goes on to the next.

    Source:
        Fungwacharakorn et al. 2024, arXiv:2410.12153.
    """
    work = Work(talk, params)
    left = [f"{p.source}: {p.text}" for p in work.found(talk.question, params.top_k)]
    told = await work.say("layers_plan", "plan", layers=params.layers, options=params.options)
    layers = [
        [o.strip() for o in line.split(";") if o.strip()][: params.options] for line in items(told, params.layers)
    ]
    counts = [len(left)]
    for options in layers:
        if len(left) < 2:
            break
        said = await together([work.say("layers_filter", "filter", option=o, passages=left) for o in options])
        kept = {i for text in said for i in numbers(text, len(left))}
        if kept:
            left = [passage for i, passage in enumerate(left) if i in kept]
        else:
            talk.notes.append("layer_of_thoughts: no passage met a layer, which was left out")
        counts.append(len(left))
    return work.outcome(await work.last("rag", passages=left), layers=layers, left=counts)


class CueParams(TechniqueParams):
    """Parameters of `instance_adaptive`."""

    cues: list[str] = Field(
        [
            "Let's think step by step.",
            "Let's work this out carefully, one part after the other.",
            "First, let's find out what is given and what is asked for.",
            "Let's solve this like a teacher who explains it.",
            "Let's check every step before going on.",
        ],
        min_length=2,
        description="Cues that are tried.",
    )


async def instance_adaptive(talk: Talk, params: CueParams) -> Outcome:
    """Several cues are tried on the question, and the answers vote.

    Source:
        Yuan et al. 2024, arXiv:2409.20441.
    """
    work = Work(talk, params)
    steps = await together([work.answer("instance_adaptive", cue=cue) for cue in params.cues])
    return work.vote(steps, answers={cue: step.value for cue, step in zip(params.cues, steps, strict=True)})


TREE_OF_THOUGHTS = Program(
    "tree_of_thoughts", "Tree-of-thoughts", "arXiv:2305.10601",
    "Proposes next thoughts, values them, and searches with a beam or by going back.",
    TreeParams, tree_of_thoughts, _tree_calls,
    ("A thought's value is asked for once; the paper asks three times and adds up.",),
    technique=Technique(8, _REASONING, "hybrid", aliases=("tot",), calls=f"{_BFS}; with dfs {_DFS}"),
)  # fmt: skip
GRAPH_OF_THOUGHTS = Program(
    "graph_of_thoughts", "Graph-of-thoughts", "arXiv:2308.09687",
    "Thoughts are nodes: generated, scored, merged and refined.",
    GraphParams, graph_of_thoughts, Formula("2 * branch + 2 * merges + 2 * rounds"),
    (
        "The survey names arXiv:2305.16582, which trains a network; this is the one that works with prompts.",
        "The graph of operations is that of one question, without splitting it; the paper has one for each task.",
    ),
    technique=Technique(9, _REASONING, "hybrid", aliases=("got",)),
)  # fmt: skip
LAYER_OF_THOUGHTS = Program(
    "layer_of_thoughts", "Layer-of-thoughts", "arXiv:2410.12153",
    "Filters retrieved passages by constraints, layer by layer, before it answers.",
    LayerParams, layer_of_thoughts, Formula("2", "2 + layers * options"),
    ("A passage stays that meets one option of a layer at least, one of the paper's metrics.",),
    lambda _params: {"documents": 1}, technique=Technique(19, _REASONING, "hybrid"),
)  # fmt: skip
INSTANCE_ADAPTIVE = Program(
    "instance_adaptive", "Instance-adaptive prompting", "arXiv:2409.20441",
    "Tries several zero-shot cues on each question; the answers vote.",
    CueParams, instance_adaptive, Formula("cues"),
    (
        "All cues vote. The paper measures by gradients of attention how much a cue takes from the question, and lets the best cues "
        "vote; a chat endpoint shows no attention.",
    ),
    technique=Technique(17, _REASONING, "hybrid", aliases=("iap",)),
)  # fmt: skip
