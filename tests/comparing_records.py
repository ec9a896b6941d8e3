"""Records to compare, made from a seed: systems of known accuracy on tasks with classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.evaluate import METRICS, Head, Items, Part, Records, Scored
from modelwright.evaluate._records import table_of

CLASSES = ("ant", "bee", "cat")


def part(
    task: str,
    system: str,
    skill: float,
    *,
    n: int = 200,
    kind: str = "single",
    metric: str = "accuracy",
    nbytes: int | None = 1000,
    seed: int = 0,
    made: Mapping[str, Any] | None = None,
    order: Sequence[int] | None = None,
    slices: bool = True,
) -> Part:
    """Records of a system that is right about a share `skill` of the items; hard items are hard for all."""
    shared = np.random.default_rng([seed, *task.encode()])
    targets, hardness = shared.integers(0, len(CLASSES), n), shared.random(n)
    own = np.random.default_rng([seed, *task.encode(), *system.encode()])
    right = hardness + 0.3 * (own.random(n) - 0.5) < skill
    said = np.where(right, targets, (targets + own.integers(1, len(CLASSES), n)) % len(CLASSES))
    probabilities = own.random((n, len(CLASSES))) * 0.4
    probabilities[np.arange(n), said] += 0.5 + own.random(n)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    names = np.array(CLASSES, dtype=object)
    items = Items.of(
        np.zeros((n, 1)), targets, ids=[f"{task}-{i:04d}" for i in range(n)],
        slices={"language": ["de" if i % 4 == 0 else "en" for i in range(n)]} if slices else {},
    )  # fmt: skip
    scored = Scored(
        answers=list(names[said]), targets=list(names[targets]),
        scores=METRICS[metric].of_probabilities(probabilities, targets),
        probabilities=probabilities, confidences=probabilities.max(axis=1), tokens_in=10, tokens_out=2,
    )  # fmt: skip
    head = Head(
        task=task, split="test", system=system, metric=metric, classes=CLASSES, nbytes=nbytes, parameters=500,
        made={"kind": kind, **(made or {})},
    )  # fmt: skip
    found = Part(head, table_of(head, items, scored, n / 1000))
    return found if order is None else found.ordered([items.ids[i] for i in order])


def records(tasks: Sequence[str] = ("digits", "letters"), n: int = 200, metric: str = "accuracy") -> Records:
    """Two experts, a base, two merges."""
    parts: list[Part] = []
    for i, task in enumerate(tasks):
        for j, expert in enumerate(tasks):
            made = {"expert_of": expert}
            parts.append(part(task, f"expert-{expert}", 0.9 if i == j else 0.6, n=n, metric=metric, made=made))
        parts.append(part(task, "base", 0.5, n=n, kind="base", metric=metric))
        parts.append(part(task, "ties", 0.85, n=n, kind="merge", metric=metric))
        parts.append(part(task, "linear", 0.8, n=n, kind="merge", metric=metric))
    return Records(parts)
