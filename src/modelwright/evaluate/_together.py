"""Several systems that are asked together and answer as one; `_cascade` asks them one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, listing
from modelwright.evaluate._predictor import Likelihood, Predictor, Rolling, Size
from modelwright.predictions import Fitted, Predictions


@dataclass
class EnsemblePredictor(Predictor):
    """Members that answer together: all are asked about every input at the same time.

    Attributes:
        parts: The members.
        combine: What makes one answer of theirs, fitted to members of their labels; None is the mean.
        calibrate: What makes its confidence true.
        classes: Names of the classes that it was fitted to; empty where it was fitted to none.
    """

    parts: Sequence[Predictor] = field(kw_only=True)
    combine: Fitted | None = field(default=None, kw_only=True)
    calibrate: Fitted | None = field(default=None, kw_only=True)
    classes: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        self.members = sum(part.members for part in self.parts)
        parameters, nbytes = ([getattr(part.size, name) for part in self.parts] for name in ("parameters", "nbytes"))
        self.size = Size(_sum(parameters), _sum(nbytes))
        self.unseen = tuple(dict.fromkeys(name for part in self.parts for name in part.unseen))
        prints = [part.fingerprint for part in self.parts]
        if all(prints) and not self.fingerprint:
            said = [one.as_dict() for one in (self.combine, self.calibrate) if one is not None]
            how = json.dumps(said, sort_keys=True) if said else "mean"
            self.fingerprint = xxhash.xxh3_128_hexdigest(" ".join([how, *prints]).encode())
        if not self.made:
            self.made = {"kind": "ensemble", "members": [part.label for part in self.parts]}

    def for_task(self, task: Any) -> Predictor:
        """Every member with what it has of its own for the task.

        Raises:
            InputError: The task has other classes than those that it was fitted to.
        """
        check_classes(self.label, self.classes, task)
        return replace(self, parts=[part.for_task(task) for part in self.parts])

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        """Probabilities (n, classes) of all members together."""
        found = self._combined(self._all(lambda part: part.probabilities(inputs, classes)))
        if self.calibrate is None:
            return found
        (said,) = self.calibrate.members
        return self.calibrate.apply(_bank([found], [said], self.calibrate.classes), threads=1).values[0]

    def values(self, inputs: Any) -> np.ndarray:
        """Values (n,) of all members together."""
        if self.calibrate is not None:
            raise self._cannot("give numbers")
        return self._combined(self._all(lambda part: np.asarray(part.values(inputs)).reshape(len(inputs))))

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]], rolling: Rolling | None = None) -> Sequence[Likelihood]:
        """The log of the mean of the members' probabilities of each whole continuation."""
        if self.combine is not None or self.calibrate is not None:
            raise InputError(f"'{self.label}' was fitted to classes, and has no likelihoods of texts")
        each = self._all(lambda part: part.loglikelihoods(pairs, rolling))
        totals = np.array([[found.total for found in answers] for answers in each], np.float64)
        mixed = np.logaddexp.reduce(totals, axis=0) - np.log(len(totals))
        return [
            Likelihood(float(total), found.tokens, found.context_tokens)
            for total, found in zip(mixed, each[0], strict=True)
        ]

    def remarks(self) -> list[str]:
        """What its members say."""
        return [remark for part in self.parts for remark in part.remarks()]

    def _all(self, ask: Callable[[Predictor], Any]) -> list[Any]:
        """What every member says, asked at the same time."""
        with ThreadPoolExecutor(len(self.parts)) as pool:
            return list(pool.map(ask, self.parts))

    def _combined(self, each: Sequence[np.ndarray]) -> np.ndarray:
        if self.combine is None:
            return np.mean(each, axis=0)
        return self.combine.apply(
            _bank(each, [part.label for part in self.parts], self.combine.classes), threads=1
        ).values[0]


def check_classes(label: str, classes: Sequence[str], task: Any) -> None:
    """Refuse a task of other classes than those that something was fitted to.

    Raises:
        InputError: It has others, or in another order.
    """
    if classes and tuple(task.classes) != tuple(classes):
        raise InputError(
            f"'{label}' was fitted to the classes {listing(classes, 6)}, and the task has {listing(task.classes, 6)}",
            "Fit an ensemble to this task, or put its classes in that order: classes: in the task file.",
            f"task {task.name}",
        )


def _bank(each: Sequence[Any], members: Sequence[str], classes: Sequence[str]) -> Predictions:
    """What members say of some inputs, refused by name where it is no probabilities, or not finite."""
    scale, kind = ("probabilities", "classes") if np.ndim(each[0]) == 2 else ("values", "regression")
    values = np.stack([np.asarray(one, np.float64) for one in each])
    return Predictions.of(values, scale=scale, kind=kind, members=members, classes=classes)  # type: ignore[arg-type]


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
