"""How a sweep is run, and what it needs of a suite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from modelwright.errors import InputError, Problem, did_you_mean
from modelwright.suites._family import Family

#: Most validation items a task to choose with, where the suite says nothing.
_VALIDATION = 500


class Trainable(Protocol):
    """What a sweep needs of a suite: its name, what it says, and the family of a seed."""

    @property
    def name(self) -> str:
        """The suite's name."""
        ...

    def fingerprint(self, budget: str) -> str:
        """A hash of all that the suite says of its models and tasks."""
        ...

    def family(self, seed: int, *, cache: Path | None, device: str, budget: str) -> Family:
        """Train a family, or load it."""
        ...


@dataclass(frozen=True)
class Settings:
    """How a sweep is run.

    Attributes:
        seeds: How many families are trained and merged, with the seeds 0, 1, ...
        budget: Most evaluations on `validation` that the hyper-parameters of a method are chosen with.
        semantics: `community` or `paper`: where parameters that are not searched stand.
        validation: Most validation items a task to choose with; None for the suite's own number.
        device: Where models are trained and evaluated; the processor merges.
        batch: Items at a time.
        training: `full`, or `smoke` for families that are trained in seconds.
        cache: Where trained families are kept; None for the suite's own place.
        workers: How many cells are made at a time, each by a process of its own that has its share of the cores. One
            makes them in this process.

    Raises:
        InputError: A number is below 1, or a word is none of those.
    """

    seeds: int = 3
    budget: int = 20
    semantics: str = "community"
    validation: int | None = None
    device: str = "cpu"
    batch: int = 256
    training: str = "full"
    cache: Path | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for name in ("seeds", "budget", "validation", "batch", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(Problem(f"{name} must be at least 1, got {value}"))
        for name, valid in (("semantics", ("community", "paper")), ("training", ("full", "smoke"))):
            if getattr(self, name) not in valid:
                problems.append(
                    Problem(f"no {name} is called '{getattr(self, name)}'", did_you_mean(getattr(self, name), valid))
                )
        if problems:
            raise InputError(problems)

    def settled(self, suite: Trainable) -> Settings:
        """The same with what the suite decides."""
        if self.validation is not None:
            return self
        return replace(self, validation=getattr(suite, "validation", _VALIDATION))

    def family(self, suite: Trainable, seed: int) -> Family:
        """The family of a seed."""
        return suite.family(seed, cache=self.cache, device=self.device, budget=self.training)

    def families(self, suite: Trainable) -> Iterator[Family]:
        """The families of all seeds; one that is the same for all is loaded once."""
        first = self.family(suite, 0)
        yield first
        for seed in range(1, self.seeds):
            yield replace(first, seed=seed) if first.fixed else self.family(suite, seed)
