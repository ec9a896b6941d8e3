"""Who is to answer which question: a router learned on records, and a cascade that asks dearer agents when in doubt."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import xxhash
from pydantic import ConfigDict, Field, field_serializer, model_validator

from modelwright.chat._combine import plurality
from modelwright.chat._programs import Count, Program, ProgramParams, known
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Step, Talk, probability
from modelwright.errors import InputError, listing
from modelwright.evaluate import Price, Records, Task
from modelwright.evaluate._kinds import cost_of
from modelwright.tensors import Array

#: Places that words are hashed to.
_PLACES = 4096
#: Penalties that the router's ridge regression chooses from, by leave-one-out error.
_PENALTIES = tuple(10.0**k for k in range(-3, 4))
#: Thresholds that are tried for each stage of a cascade: quantiles of its confidences.
_TRIED = 20
_VERSION = 1
_WORD = re.compile(r"\w+|[^\w\s]")


# --- the router --------------------------------------------------------------------------------------------------------


def features(questions: Sequence[str]) -> Array:
    """Hashed words and pairs of words, by their square roots of counts, float64 (n, places); rows have length 1."""
    found = np.zeros((len(questions), _PLACES))
    for row, question in enumerate(questions):
        words = [word.lower() for word in _WORD.findall(question)]
        for text in (*words, *(" ".join(pair) for pair in itertools.pairwise(words))):
            found[row, xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) % _PLACES] += 1
    found = np.sqrt(found)
    lengths = np.sqrt((found**2).sum(axis=1, keepdims=True))
    return found / np.where(lengths > 0, lengths, 1.0)


@dataclass(frozen=True)
class Router:
    """Expected scores of agents by question, and what each costs.

    Attributes:
        agents: Their names.
        weights: Of the features, float64 (places, agents).
        means: Scores of a question that has none of the known words, float64 (agents,).
        money: What a question costs on average, float64 (agents,).
        worth: What a right answer is worth, in the currency of the costs.
    """

    agents: tuple[str, ...]
    weights: Array
    means: Array
    money: Array
    worth: float

    def expected(self, questions: Sequence[str]) -> Array:
        """Expected scores, float64 (n, agents)."""
        return features(questions) @ self.weights + self.means

    def choose(self, questions: Sequence[str]) -> list[str]:
        """For each question the agent with the most expected worth after its costs; the first of equal ones."""
        worth = self.worth * self.expected(questions) - self.money
        return [self.agents[i] for i in worth.argmax(axis=1)]

    @property
    def fingerprint(self) -> str:
        """A hash of all that its choices depend on."""
        digest = xxhash.xxh3_128(json.dumps([self.agents, self.worth]).encode())
        for array in (self.weights, self.means, self.money):
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write it, as an npz file without pickled objects."""
        said = json.dumps({"version": _VERSION, "agents": self.agents, "worth": self.worth})
        buffer = io.BytesIO()
        np.savez_compressed(buffer, said=np.array(said), weights=self.weights, means=self.means, money=self.money)
        Path(path).write_bytes(buffer.getvalue())

    @staticmethod
    def load(path: str | Path) -> Router:
        """Read what `save` wrote.

        Raises:
            InputError: It is none of ours.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                said = json.loads(str(file["said"]))
                arrays = {name: file[name].astype(np.float64) for name in ("weights", "means", "money")}
            agents = tuple(said["agents"])
            shapes = (arrays["weights"].shape, arrays["means"].shape, arrays["money"].shape)
            if said["version"] != _VERSION or shapes != ((_PLACES, len(agents)), (len(agents),), (len(agents),)):
                raise ValueError("another version or shape")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"not a router: {error}", "fit_router(...).save makes one.", str(path)) from error
        return Router(agents, **arrays, worth=float(said["worth"]))


def fit_router(
    records: Records,
    task: Task,
    agents: Mapping[str, str] | Sequence[str],
    *,
    worth: float = 1.0,
    prices: Mapping[str, Price] | None = None,
    split: Any = "validation",
) -> Router:
    """Learn from records which agent is to answer which question.

    Each agent's score is regressed on the question's words (ridge regression; its penalty has the least leave-one-out error),
    and the agent with the most expected worth minus costs is chosen.

    Args:
        records: What each agent scored on the task, asked alone.
        task: Has the questions.
        agents: Names of agents in the panel, by the systems of the records; or names that are both.
        worth: What a score of 1 is worth in the currency of the prices. Small: cheap agents are chosen.
        prices: By system, where the records do not tell what was paid.
        split: Which of the task's items were asked. Not `test`: what is learned there cannot be judged there.

    Returns:
        The router; `save` writes it for a panel.

    Raises:
        InputError: A system has no records or no costs, the split is `test`, or there are fewer than ten items.

    Source:
        Hu et al. 2024, arXiv:2403.12031, for the problem and its measures; the regression is ours.
    """
    if split == "test":
        raise InputError("a router learned on the split test cannot be judged on it", "Learn it on validation.")
    if not 0 <= worth < math.inf:
        raise InputError(f"worth must be a number of at least 0, got {worth}")
    names = agents if isinstance(agents, Mapping) else {name: name for name in agents}
    items = task.items(split)
    place = {name: i for i, name in enumerate(items.ids)}
    parts = [records.part(task.name, system) for system in names]
    wrong = [part.head.system for part in parts if part.head.split != split]
    if wrong:
        raise InputError(f"the records of '{wrong[0]}' are not of the split '{split}'", "Evaluate on that split.")
    if parts[0].table.num_rows < 10:
        raise InputError(f"a router is learned on ten items or more, got {parts[0].table.num_rows}")
    questions = [str(items.inputs[place[name]]) for name in parts[0].ids]
    scores = np.stack([part.ordered(parts[0].ids).column("score").astype(np.float64) for part in parts], axis=1)
    money = np.array([_money(records, task.name, system, prices) for system in names])
    weights, means = ridge(features(questions), scores)
    return Router(tuple(names.values()), weights, means, money, float(worth))


def _money(records: Records, task: str, system: str, prices: Mapping[str, Price] | None) -> float:
    money = cost_of(records.part(task, system), records, prices).money_per_item
    if money is None:
        raise InputError(
            f"what '{system}' costs is not known", "Say prices in the panel's backends, or give prices={...}."
        )
    return money


def ridge(inputs: Array, outputs: Array) -> tuple[Array, Array]:
    """Ridge regression with means, one penalty for all outputs, chosen by leave-one-out error in closed form.

    Args:
        inputs: float64 (n, places).
        outputs: float64 (n, k).

    Returns:
        Weights (places, k) and means (k,), for `inputs @ weights + means`.
    """
    centre, means = inputs.mean(axis=0), outputs.mean(axis=0)
    x, y = inputs - centre, outputs - means
    values, vectors = np.linalg.eigh(x @ x.T)
    values, turned = np.clip(values, 0.0, None), vectors.T @ y
    best, least = 0.0, math.inf
    for penalty in _PENALTIES:
        shrunk = values / (values + penalty)
        fitted = vectors @ (shrunk[:, None] * turned)
        leverage = (vectors**2) @ shrunk + 1 / len(x)
        error = float((((y - fitted) / (1 - np.clip(leverage, 0.0, 1 - 1e-9))[:, None]) ** 2).mean())
        if error < least:
            best, least = penalty, error
    weights = x.T @ (vectors @ (turned / (values + best)[:, None]))
    return weights, means - centre @ weights


class RouteParams(ProgramParams):
    """Parameters of `route`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )

    router: str | Router = Field(description="A file that `fit_router(...).save` wrote; in Python also the router.")
    worth: Annotated[float, Field(ge=0)] | None = Field(
        None, description="What a right answer is worth in the currency of the prices; null is what the router says."
    )

    @field_serializer("router")
    def _said(self, router: str | Router) -> str:
        return self.made.fingerprint

    def at(self, folder: Path) -> Self:
        """The same with its router read."""
        if isinstance(self.router, Router):
            return self
        return self.model_copy(update={"router": Router.load(folder / Path(self.router).expanduser())})

    @property
    def made(self) -> Router:
        """The router, with this worth."""
        found = self.router if isinstance(self.router, Router) else Router.load(self.router)
        if self.worth is None:
            return found
        return Router(found.agents, found.weights, found.means, found.money, self.worth)

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """Whom the router knows; one of them is asked."""
        return [(name, 1) for name in known(self.made.agents, agents, "router")]


async def route(talk: Talk, params: RouteParams) -> Outcome:
    """The agent whose answer is expected to be worth most after its costs, and nobody else."""
    router = params.made
    [name] = router.choose([talk.question])
    expected = dict(zip(router.agents, router.expected([talk.question])[0].tolist(), strict=True))
    step = await talk.answer(name, final=True)
    return talk.outcome(step.reply.text, step.value, facts={"agent": name, "expected": expected})


# --- the cascade -------------------------------------------------------------------------------------------------------

Confidence = Literal["agreement", "probability", "verify"]


class CascadeParams(ProgramParams):
    """Parameters of `cascade`."""

    agents: list[str] = Field([], description="Who is asked, the cheapest first; empty is every agent, in order.")
    confidence: Confidence = Field(
        "agreement",
        description="What it goes by: `agreement` of several replies, the mean `probability` of a reply's tokens, or how often "
        "the agent, or the judge, can `verify` its reply.",
    )
    threshold: float | list[float] = Field(
        0.8, description="The least confidence to stop at, in [0, 1]; one, or one for each agent but the last."
    )
    samples: Count = Field(3, description="Replies for an agreement, or verdicts for `verify`.")
    judge: str = Field("", description="Who verifies; empty is each agent its own replies.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wrong = [t for t in self._thresholds(1) if not 0 <= t <= 1]
        if wrong:
            raise ValueError(f"threshold must be in [0, 1], got {wrong[0]:g}; for 80 % write 0.8")
        if self.confidence == "agreement" and self.samples < 2:
            raise ValueError(f"agreement needs samples of at least 2, got {self.samples}")
        return self

    def _thresholds(self, count: int) -> list[float]:
        return self.threshold if isinstance(self.threshold, list) else [self.threshold] * count

    def stages(self, agents: Sequence[str]) -> list[tuple[str, float]]:
        """Agents with their thresholds; the last one's answer is taken as it is."""
        names = known(self.agents, agents, "agents") or list(agents)
        thresholds = self._thresholds(len(names) - 1)
        if len(thresholds) != len(names) - 1:
            raise InputError(
                f"a cascade of {len(names)} agents needs {len(names) - 1} thresholds, got {len(thresholds)}"
            )
        return list(zip(names, [*thresholds, 0.0], strict=True))

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """All but the last for as many replies as confidence needs."""
        names = [name for name, _ in self.stages(agents)]
        several = self.samples if self.confidence == "agreement" else 1
        return [*((name, several) for name in names[:-1]), (names[-1], 1)]

    def judges(self, agents: Sequence[str]) -> list[str]:
        """The judge, where one verifies."""
        return known([self.judge], agents, "judge") if self.judge and self.confidence == "verify" else []

    def verdicts(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """Who verifies how often."""
        if self.confidence != "verify":
            return []
        return [(self.judge or name, self.samples) for name, _ in self.stages(agents)[:-1]]

    @property
    def logprobs(self) -> bool:
        """Whether replies need log-probabilities."""
        return self.confidence == "probability"


async def cascade(talk: Talk, params: CascadeParams) -> Outcome:
    """Agents in turn, the cheapest first, until one is sure enough of its answer.

    Source:
        Chen et al. 2023, arXiv:2305.05176 (cascades by price); Yue et al. 2023, arXiv:2310.03094 (agreement of samples);
        Madaan et al. 2023, arXiv:2310.12963 (verification of itself).
    """
    stages = params.stages(list(talk.agents))
    sure: dict[str, float] = {}
    for place, (name, threshold) in enumerate(stages):
        if place == len(stages) - 1:
            step = await talk.answer(name, final=True)
            return talk.outcome(step.reply.text, step.value, facts={"agent": name, "confidences": sure})
        found, confidence = await _stage(talk, params, name)
        sure[name] = confidence
        if found is not None and confidence >= threshold - 1e-12:
            facts = {"agent": name, "confidences": sure, "confidence": confidence}
            return talk.outcome(found.reply.text, found.value, facts=facts)
    raise AssertionError("a cascade has a last stage")


async def _stage(talk: Talk, params: CascadeParams, name: str) -> tuple[Step | None, float]:
    """An agent's answer, and how sure it is; an answer that cannot be read is none."""
    if params.confidence == "agreement":
        steps = await together([talk.answer(name, i) for i in range(params.samples)])
        vote = plurality([step.value for step in steps], same=talk.same)
        if vote.index is None:
            return None, 0.0
        return steps[vote.index], vote.share * (len(steps) - vote.abstained) / len(steps)
    step = await talk.answer(name)
    if step.value is None:
        return None, 0.0
    if params.confidence == "probability":
        return step, probability(step, mean=True)
    judge = params.judge or name
    verdicts = await together([talk.accepts(judge, step.reply.text, i) for i in range(params.samples)])
    return step, sum(verdict is True for verdict in verdicts) / len(verdicts)


def _calls(params: CascadeParams, agents: Sequence[str]) -> tuple[int, int]:
    replies = [count for _, count in params.asked(agents)]
    verdicts = [count for _, count in params.verdicts(agents)]
    least = replies[0] + sum(verdicts[:1])
    return least, sum(replies) + sum(verdicts)


@dataclass(frozen=True)
class Thresholds:
    """What thresholds of a cascade come to on the records that they were chosen on.

    Attributes:
        values: One for each agent but the last.
        score: Mean score.
        money: Mean cost of an item.
        asked: Share of items that reach each agent.
    """

    values: tuple[float, ...]
    score: float
    money: float
    asked: tuple[float, ...]


def fit_cascade(
    records: Records,
    task: str,
    systems: Sequence[str],
    *,
    worth: float | None = None,
    budget: float | None = None,
    prices: Mapping[str, Price] | None = None,
) -> Thresholds:
    """Thresholds of a cascade from records of its stages, each asked alone about all items.

    Quantiles of each stage's confidences are tried, in all combinations.

    Args:
        records: With confidences, as those of panels are: a panel of each stage, with its samples and without `early_stop`,
            so that confidence is the agreement that the cascade goes by.
        task: On which task; the items should not be those that the cascade is judged on.
        systems: The stages, the cheapest first.
        worth: What a score of 1 is worth: the most worth minus costs is sought.
        budget: Or: most money of an item on average, at which the best score is sought.
        prices: By system, where the records do not tell what was paid.

    Raises:
        InputError: Neither worth nor budget is given, or both; there are fewer than two or more than four stages; records have
            no confidences or costs; or no choice fits the budget.
    """
    if (worth is None) == (budget is None):
        raise InputError("thresholds need either a worth or a budget", "Give one of them.")
    if not 2 <= len(systems) <= 4:
        raise InputError(f"a cascade has 2 to 4 stages, got {len(systems)}")
    parts = [records.part(task, system) for system in systems]
    if any(part.head.split == "test" for part in parts):
        raise InputError(
            "thresholds chosen on the split test cannot be judged on it", "Evaluate with --split validation."
        )
    first = parts[0].ids
    parts = [part.ordered(first) for part in parts]
    scores = np.stack([part.column("score").astype(np.float64) for part in parts])
    sure = np.stack([part.column("confidence").astype(np.float64) for part in parts[:-1]])
    if np.isnan(sure).any():
        missing = systems[int(np.isnan(sure).any(axis=1).argmax())]
        raise InputError(f"the records of '{missing}' have no confidences", "Panels of several votes have them.")
    money = np.array([_money(records, task, system, prices) for system in systems])
    tried = [np.unique([0.0, *np.quantile(row, np.linspace(0, 1, _TRIED), method="inverted_cdf"), 1.0]) for row in sure]
    found = [_judged(scores, sure, money, values) for values in itertools.product(*(t.tolist() for t in tried))]
    if worth is not None:
        return max(found, key=lambda one: (worth * one.score - one.money, -one.money))
    assert budget is not None
    able = [one for one in found if one.money <= budget * (1 + 1e-9)]
    if not able:
        least = min(one.money for one in found)
        raise InputError(
            f"no cascade of {listing(systems)} costs at most {budget:.4g} an item; the cheapest is {least:.4g}"
        )
    return max(able, key=lambda one: (one.score, -one.money))


def _judged(scores: Array, sure: Array, money: Array, values: Sequence[float]) -> Thresholds:
    """What a choice of thresholds comes to."""
    left = np.ones(scores.shape[1], dtype=bool)
    score, spent, asked = np.zeros(scores.shape[1]), 0.0, []
    for place in range(len(scores)):
        asked.append(float(left.mean()))
        spent += money[place] * asked[-1]
        stops = left if place == len(sure) else left & (sure[place] >= values[place] - 1e-12)
        score[stops] = scores[place][stops]
        left = left & ~stops
    return Thresholds(tuple(values), float(score.mean()), float(spent), tuple(asked))


ROUTE = Program(
    "route", "Router", "arXiv:2403.12031",
    "Each question goes to one agent: the one whose answer, as learned on records, is worth most after its costs.",
    RouteParams, route, lambda _params, _agents: (1, 1),
    differs=("Scores are regressed on hashed words and pairs of words, which needs no model; the paper compares several ways.",),
)  # fmt: skip
CASCADE = Program(
    "cascade", "Cascade", "arXiv:2305.05176",
    "Cheap agents first; a dearer one is asked when the answer before is not sure enough.",
    CascadeParams, cascade, _calls,
    differs=(
        "FrugalGPT scores answers by a model that it trains; here confidence is agreement, probability or verification.",
        "An answer that cannot be read is never stopped at, but for that of the last agent.",
    ),
)  # fmt: skip
