"""Cascades that run: later members see only the samples that the earlier were not sure of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.errors import InputError
from modelwright.predictions._scales import Scale
from modelwright.predictions.cascades._rule import CascadeRule
from modelwright.predictions.cascades._stages import CascadeOutput, run_stages


class Cascade:
    """Members and a rule, ready to answer.

    Every stage gathers what is passed on over all inputs before it asks the next member, so that batches are full and the
    time saved is in proportion to the samples that exit.

    Args:
        members: One function for each member of the rule, in its order: from a batch of inputs to numbers of the classes,
            (n, C), as numpy, as a torch tensor, or as an output of transformers that has `logits`. A module must be in
            evaluation mode.
        rule: When to stop.
        scale: What the members give: `logits`, `probabilities` or `log-probabilities`.
        batch: Most samples that a member is asked for at once, at least 1.

    Raises:
        InputError: There are not as many members as the rule has; a module is in train mode; scores need logits.

    Example:
        >>> import numpy as np
        >>> from modelwright.predictions.cascades import Cascade, CascadeRule, Window
        >>> rule = CascadeRule(("small", "large"), (Window(0.0, 0.9),), costs=(1.0, 10.0), unit="milliseconds")
        >>> small = lambda x: np.stack([x, 1 - x], axis=1)
        >>> large = lambda x: np.stack([x > 0.5, x <= 0.5], axis=1).astype(float)
        >>> found = Cascade([small, large], rule, scale="probabilities")(np.array([0.95, 0.6]))
        >>> found.stages.tolist(), found.mean_cost
        ([0, 1], 6.0)
    """

    def __init__(
        self, members: Sequence[Callable[[Any], Any]], rule: CascadeRule, *, scale: Scale = "logits", batch: int = 256
    ):
        if len(members) != len(rule.members):
            raise InputError(f"the rule is for {len(rule.members)} members, got {len(members)}")
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        if rule.needs_logits and scale != "logits":
            raise InputError(f"the score '{rule.score}' needs logits, and the members give {scale}")
        for name, member in zip(rule.members, members, strict=True):
            if getattr(member, "training", False):
                raise InputError(
                    f"'{name}' is in train mode: dropout and batch statistics would change its answers",
                    "Call .eval() on it first.",
                )
        self.members, self.rule, self.batch = list(members), rule, batch
        self.scale: Scale = scale

    def __call__(self, inputs: Any) -> CascadeOutput:
        """Answer.

        Args:
            inputs: An array, a tensor or a list of N samples, or a mapping of such, as tokenizers give.

        Raises:
            InputError: There are no samples, or a mapping's entries differ in length.
            RunError: A member gave numbers that are not finite, or of another shape.
        """
        return run_stages(
            self.rule, lambda stage, rows: self._ask(stage, inputs, rows), count_of(inputs), scale=self.scale
        )

    def _ask(self, stage: int, inputs: Any, rows: np.ndarray) -> np.ndarray:
        parts = [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]
        member = self.members[stage]
        with _without_gradients(member):
            return np.concatenate([_numbers(_call(member, take(inputs, part))) for part in parts])


def count_of(inputs: Any) -> int:
    """How many samples inputs hold.

    Raises:
        InputError: A mapping's entries differ in length, or it has none.
    """
    if not isinstance(inputs, Mapping):
        return len(inputs)
    counts = {name: len(value) for name, value in inputs.items()}
    if len(set(counts.values())) != 1:
        raise InputError(f"the entries of inputs must be of the same samples, got the lengths {counts}")
    return next(iter(counts.values()))


def take(inputs: Any, rows: np.ndarray) -> Any:
    """Some samples of inputs, by position, ascending."""
    if isinstance(inputs, Mapping):
        return {name: take(value, rows) for name, value in inputs.items()}
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:  # a run of samples is a view of an array
        return inputs[int(rows[0]) : int(rows[-1]) + 1]
    if isinstance(inputs, np.ndarray):
        return inputs[rows]
    if hasattr(inputs, "index_select"):
        import torch

        return inputs.index_select(0, torch.from_numpy(rows).to(inputs.device))
    return [inputs[i] for i in rows.tolist()]


def _call(member: Any, batch: Any) -> Any:
    return member(**batch) if isinstance(batch, Mapping) else member(batch)


def _without_gradients(member: Any) -> Any:
    from contextlib import nullcontext

    if not hasattr(member, "parameters"):
        return nullcontext()
    import torch

    return torch.inference_mode()


def _numbers(found: Any) -> np.ndarray:
    found = getattr(found, "logits", found)
    if hasattr(found, "detach"):
        found = found.detach().cpu().double().numpy()
    return np.asarray(found, dtype=np.float64)
