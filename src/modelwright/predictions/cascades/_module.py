"""A cascade as one torch module: it stays on its device, and later members see only part of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.errors import InputError
from modelwright.predictions.cascades._rule import CascadeRule


class CascadeModule(nn.Module):
    """Members and a rule as a module; what it gives are log-probabilities, which are logits.

    Attributes:
        members: The members.
        rule: When to stop.
        stages: The stage at which each sample of the last batch left, counted from 0, (N,).
    """

    stages: Tensor

    def __init__(self, members: Sequence[nn.Module], rule: CascadeRule):
        super().__init__()
        if len(members) != len(rule.members):
            raise InputError(f"the rule is for {len(rule.members)} members, got {len(members)}")
        self.members = nn.ModuleList(members)
        self.rule = rule
        self.stages = torch.empty(0, dtype=torch.long)

    def forward(self, inputs: Any = None, **named: Any) -> Tensor:
        """Log-probabilities (N, C) in the members' format.

        Args:
            inputs: A tensor (N, ...).
            **named: Tensors by name in its place, as tokenizers give.
        """
        batch: Any = named if inputs is None else inputs
        first = self._logits(0, batch)
        count, classes = first.shape
        answers = first.new_empty((count, classes), dtype=torch.float64)
        self.stages = torch.zeros(count, dtype=torch.long, device=first.device)
        rows = torch.arange(count, device=first.device)
        total, scores = (
            first.new_zeros((count, classes), dtype=torch.float64),
            first.new_zeros(count, dtype=torch.float64),
        )
        running = self.rule.combine == "running"
        for stage in range(len(self.members)):
            logits = (first if not stage else self._logits(stage, _rows(batch, rows))).double()
            total = logits.softmax(1) + (total if running else 0)
            scores = _score(logits, self.rule.score) + (scores if running else 0)
            asked = stage + 1 if running else 1
            mean = total / asked
            found = scores / asked
            if running and self.rule.score_of == "score_of_mean":
                found = _score(mean.clamp_min(torch.finfo(torch.float64).tiny).log(), self.rule.score)
            if stage == len(self.members) - 1:
                done = torch.ones_like(rows, dtype=torch.bool)
            else:
                window = self.rule.windows[stage]
                done = (found > window.high) | (found < window.low)
            left = rows[done]
            answers[left], self.stages[left] = mean[done], stage
            rows, total, scores = rows[~done], total[~done], scores[~done]
            if not len(rows):
                break
        return answers.clamp_min(torch.finfo(torch.float64).tiny).log().to(first.dtype)

    def _logits(self, stage: int, batch: Any) -> Tensor:
        member = self.members[stage]
        found = member(**batch) if isinstance(batch, Mapping) else member(batch)
        return getattr(found, "logits", found)


def _rows(batch: Any, rows: Tensor) -> Any:
    if isinstance(batch, Mapping):
        return {name: value.index_select(0, rows) for name, value in batch.items()}
    return batch.index_select(0, rows)


def _score(logits: Tensor, score: str) -> Tensor:
    """As in `measures.confidence`."""
    if score == "max_logit":
        return logits.amax(1)
    if score == "energy":
        return logits.logsumexp(1)
    logs = logits.log_softmax(1)
    if score == "entropy":
        return torch.xlogy(logs.exp(), logs.exp()).sum(1)
    if score == "margin":
        two = logs.exp().topk(2, dim=1).values
        return two[:, 0] - two[:, 1]
    return logs.amax(1).exp()
