"""A family: one base, one expert a task, and what it takes to ask a merged model about the tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from modelwright.checkpoint import Checkpoint
from modelwright.evaluate import Predictor, Task


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """Models that were tuned from one base, and their tasks, for one seed.

    Checkpoints hold what is merged and nothing else: heads of tasks stay outside, and `system` puts them on.

    Attributes:
        name: The suite's name.
        seed: What the models were trained with.
        base: What the experts were tuned from.
        experts: One checkpoint by the name of its task.
        multitask: Trained on all tasks together; None where there is none.
        tasks: By name, in the order of tables; each with `tune`, `validation` and `test` where it has them.
        seconds: Seconds of training by model: `base`, the tasks' names, `multitask`.
        fixed: Whether it is the same for all seeds, as published models are.
    """

    name: str
    seed: int
    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    multitask: Checkpoint | None
    tasks: Mapping[str, Task]
    seconds: Mapping[str, float]
    fixed: bool = False

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that answers depend on beside the weights and the items: heads, tokenizer, length of answers, ..."""

    @abstractmethod
    def system(self, weights: Checkpoint, label: str, *, device: str = "cpu") -> Predictor:
        """A model with these weights, merged or not; its `for_task` answers with the task's own head."""
