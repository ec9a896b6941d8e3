"""Bundles as systems under test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import xxhash

from modelwright.bundle import WeightBundle, tensors_hash
from modelwright.errors import InputError, listing
from modelwright.evaluate._predictor import Predictor, Size


@dataclass
class TaskwisePredictor(Predictor):
    """A bundle of weights: each task is answered by the model that the bundle has for it, so that it is told the task.

    Attributes:
        bundle: The bundle.
        build: Makes what answers of a task's name.
    """

    bundle: WeightBundle = field(kw_only=True)
    build: Callable[[str], Predictor] = field(kw_only=True)
    _built: dict[str, Predictor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        bundle = self.bundle
        hashes = [tensors_hash(bundle.shared), *(f"{name} {tensors_hash(bundle.parts[name])}" for name in bundle.tasks)]
        self.fingerprint = xxhash.xxh3_128_hexdigest(" ".join([bundle.method.name, *hashes]).encode())
        self.size = Size(sum(ref.size for ref in bundle.shared.values()), bundle.storage.total)
        self.made = {"kind": "other", "reference": bundle.label, "told_task": True, "tasks": list(bundle.tasks)}

    def for_task(self, task: Any) -> Predictor:
        """The model of the task of this name.

        Raises:
            InputError: The bundle has none.
        """
        if task.name not in self.bundle.tasks:
            raise InputError(
                f"'{self.label}' has no model for the task '{task.name}', but for {listing(self.bundle.tasks)}",
                f"Say which one is to answer: {self.bundle.label}#{self.bundle.tasks[0]}; or name the task so, by name: in its file.",
            )
        if task.name not in self._built:
            self._built[task.name] = self.build(task.name)
        return self._built[task.name].for_task(task)

    def remarks(self) -> list[str]:
        """That it is told what a merged model is not."""
        return [f"'{self.label}' is told the task of each item, which one merged model is not"]
