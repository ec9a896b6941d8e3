"""Who answers in studies of chat ensembles: scripts whose accuracy is known, and classifiers of digits that speak."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from modelwright.chat import Agent, Outcome, Panel, Program, Reply, Request, ScriptedBackend, Session, pattern, together
from modelwright.chat._forms import FORMS, read_blocks
from modelwright.evaluate import Sampling
from modelwright.studies._digits import digits
from modelwright.tensors import Array

#: How answers stand in replies.
ANSWER = pattern(r"The answer is (\S+?)\.")
_SAYS = "The answer is {answer}."
WARM = Sampling(max_tokens=64, temperature=1.0)
#: Questions that are under way at a time.
_AT_ONCE = 200


def questions(count: int, options: Sequence[str]) -> dict[str, str]:
    """Made-up questions with answers that take turns."""
    return {f"Question {i}?": options[i % len(options)] for i in range(count)}


def script(known: Mapping[str, str], name: str, seed: int, **more: Any) -> ScriptedBackend:
    """A stand-in that is as good as it is told."""
    return ScriptedBackend(known, name, says=_SAYS, seed=seed, **more)


def panel(backends: Mapping[str, Any], program: Program, **params: Any) -> Panel:
    """Agents of these names, and a program with these parameters."""
    agents = {name: Agent(name, backend, sampling=WARM) for name, backend in backends.items()}
    return Panel(program.name, agents, program, program.params(**params), ANSWER)


def solved(work: Panel, asked: Sequence[str]) -> list[Outcome]:
    """What a panel comes to for each question."""

    async def go() -> list[Outcome]:
        session, found = Session(), list[Outcome]()
        for start in range(0, len(asked), _AT_ONCE):
            found += await together([work.solve(session, question) for question in asked[start : start + _AT_ONCE]])
        await session.close()
        return found

    return asyncio.run(go())


def right(outcomes: Sequence[Outcome], known: Mapping[str, str], asked: Sequence[str]) -> Array:
    """1 where the answer is right, else 0."""
    return np.array([float(o.value == known[q]) for o, q in zip(outcomes, asked, strict=True)])


def majority_of(shares: Sequence[float]) -> float:
    """How often a vote of independent members is right, with two possible answers and the first of equal ones."""
    total = 0.0
    for votes in itertools.product((1, 0), repeat=len(shares)):
        ahead = sum(votes) * 2 - len(votes)
        if ahead > 0 or (ahead == 0 and votes[0]):
            total += math.prod(p if vote else 1 - p for p, vote in zip(shares, votes, strict=True))
    return total


def correlated_majority(n: int, p: float, correlation: float) -> float:
    """The same for n samples of one member of which any two are right together with this correlation.

    Each takes the question's shared draw with probability sqrt(correlation), and else its own.
    """
    copy, total = math.sqrt(correlation), 0.0
    for shared in range(n + 1):
        chance = math.comb(n, shared) * copy**shared * (1 - copy) ** (n - shared)
        for good, weight in ((1, p), (0, 1 - p)):
            own = sum(
                math.comb(n - shared, k) * p**k * (1 - p) ** (n - shared - k)
                for k in range(n - shared + 1)
                if 2 * (k + good * shared) > n
            )
            total += chance * weight * own
    return total


def deviation(found: float, expected: float, items: int) -> float:
    """How many standard errors a share lies from where it should."""
    return abs(found - expected) / math.sqrt(max(expected * (1 - expected), 1e-12) / items)


# --- classifiers that speak --------------------------------------------------------------------------------------------


@dataclass
class Classifier:
    """A classifier of digits as a backend: it draws its answer from its probabilities, another one for each sample.

    Where it is shown replies and asked to rate them, it rates each by the probability that it gives to that answer itself, and
    answers anew by its own probabilities and the others' votes together.

    Attributes:
        name: Tells its draws from others'.
        probabilities: Of the ten digits, by question.
        seed: Of its draws.
        sharp: Probabilities are taken to this power before one is drawn.
    """

    name: str
    probabilities: Mapping[str, Array] = field(repr=False)
    seed: int = 0
    sharp: float = 1.0

    @property
    def model(self) -> str:
        """Its name and seed."""
        return f"classifier:{self.name}:{self.seed}:{self.sharp}"

    async def ask(self, request: Request) -> Reply:
        """An answer, with ratings where they are asked for."""
        text = request.messages[-1].content
        question = text.partition("\n\n")[0]
        own = self.probabilities[question] ** self.sharp
        own = own / own.sum()
        shown = [ANSWER(block) for block in read_blocks(text)]
        votes = Counter(value for value in shown if value is not None)
        if votes:
            own = own + np.array([votes[str(digit)] / len(shown) for digit in range(len(own))])
            answer = int(own.argmax())
        else:
            answer = int(np.searchsorted(np.cumsum(own), self._uniform(question, request.sample) * own.sum()))
        said = _SAYS.format(answer=min(answer, len(own) - 1))
        if FORMS["rate"] in text:
            plain = self.probabilities[question]
            ratings = [0 if value is None else 1 + round(4 * float(plain[int(value)])) for value in shown]
            said += f" [{ratings}]"
        return Reply(said, len(text.split()), len(said.split()))

    def _uniform(self, question: str, sample: int) -> float:
        said = f"{self.seed}\x1f{self.name}\x1f{question}\x1f{sample}"
        return (xxhash.xxh3_64_intdigest(said.encode()) >> 11) * 2.0**-53

    async def close(self) -> None:
        """It holds nothing."""


@dataclass(frozen=True)
class Spoken:
    """Digits as questions.

    Attributes:
        known: Questions -> answers, of the test images.
        pixels: Of these images, float64 (n, 64).
        train: Pixels and digits to fit on.
        validation: Pixels and digits to choose by.
    """

    known: Mapping[str, str]
    pixels: Array
    train: tuple[Array, Array]
    validation: tuple[Array, Array]

    def classifier(
        self, name: str, fitted: Any, seed: int, columns: Any = slice(None), sharp: float = 1.0
    ) -> Classifier:
        """A fitted estimator that speaks about the test images, of which it sees some pixels."""
        rows = np.zeros((len(self.pixels), 10))
        rows[:, np.asarray(fitted.classes_)] = fitted.predict_proba(self.pixels[:, columns])
        return Classifier(name, dict(zip(self.known, rows, strict=True)), seed, sharp)


def spoken(seed: int, most: int) -> Spoken:
    """The digits of scikit-learn, split by the seed, at most so many of the test images."""
    parts = digits(seed)

    def of(name: str) -> tuple[Array, Array]:
        items = parts[name]
        return np.asarray(items.inputs, np.float64).reshape(len(items), -1), np.asarray(items.targets).astype(int)

    pixels, targets = of("test")
    pixels, targets = pixels[:most], targets[:most]
    known = {f"Which digit is image {i}?": str(digit) for i, digit in enumerate(targets)}
    return Spoken(known, pixels, of("tune"), of("validation"))
