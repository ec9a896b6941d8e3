"""The output ensemble of the experts: what merging is measured against where memory and time do not count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from modelwright.evaluate import Likelihood, Predictor, Rolling, Size


@dataclass
class OutputEnsemble(Predictor):
    """Several systems, all of which are asked about every item.

    Class probabilities and values are averaged with equal weights. The likelihood of a text is that of the mixture:
    the mean of the systems' probabilities of the whole text, not of each of its tokens.

    Attributes:
        parts: The systems.
    """

    parts: Sequence[Predictor] = field(kw_only=True)

    def __post_init__(self) -> None:
        self.members = sum(part.members for part in self.parts)
        parameters, nbytes = ([getattr(part.size, name) for part in self.parts] for name in ("parameters", "nbytes"))
        self.size = Size(_sum(parameters), _sum(nbytes))
        self.unseen = tuple(dict.fromkeys(name for part in self.parts for name in part.unseen))
        prints = [part.fingerprint for part in self.parts]
        if all(prints) and not self.fingerprint:
            self.fingerprint = xxhash.xxh3_128_hexdigest(" ".join(["mean", *prints]).encode())

    def for_task(self, task: Any) -> Predictor:
        """Every system with what it has of its own for the task."""
        return OutputEnsemble(self.label, parts=[part.for_task(task) for part in self.parts])

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        """The mean of the systems' probabilities (n, classes)."""
        return np.mean([part.probabilities(inputs, classes) for part in self.parts], axis=0)

    def values(self, inputs: Any) -> np.ndarray:
        """The mean of the systems' values (n,)."""
        return np.mean([np.asarray(part.values(inputs)).reshape(len(inputs)) for part in self.parts], axis=0)

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]], rolling: Rolling | None = None) -> Sequence[Likelihood]:
        """The log of the mean of the systems' probabilities of each continuation."""
        each = [part.loglikelihoods(pairs, rolling) for part in self.parts]
        totals = np.array([[found.total for found in answers] for answers in each], np.float64)
        mixed = np.logaddexp.reduce(totals, axis=0) - np.log(len(totals))
        return [
            Likelihood(float(total), found.tokens, found.context_tokens)
            for total, found in zip(mixed, each[0], strict=True)
        ]


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
