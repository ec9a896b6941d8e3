"""`mw.predict`: what systems say of data, labelled or not, as a bank of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelwright.errors import InputError
from modelwright.evaluate._ensembles import Progress, answers_of
from modelwright.evaluate._items import Items, Splits
from modelwright.evaluate._metrics import metric
from modelwright.evaluate._systems import systems as systems_of
from modelwright.evaluate._task import Classification, Task
from modelwright.evaluate.sources import new_items, tasks as tasks_of
from modelwright.predictions import Predictions


def predict(
    systems: Any,
    data: Any,
    *,
    task: Any = None,
    split: str = "test",
    classes: Sequence[str] = (),
    batch: int = 64,
    device: str = "cpu",
    network: str | Callable[[Mapping[str, Any]], Any] | None = None,
    plugins: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> Predictions:
    """Ask systems about data.

    Args:
        systems: One, a list, or labels -> systems, as in `modelwright.evaluate.systems`.
        data: A task as in `mw.task`, whose split is asked about; or, with `task` or `classes`, data without labels: a file, or
            inputs as an array or a list of texts.
        task: What data without labels are like: a task whose classes, columns and preprocessing hold for them.
        split: Of a task: which items.
        classes: Of data without labels and without a task: names of the classes; none for numbers.
        batch: Items at a time.
        device: Where modules run.
        network: As in `mw.eval`.
        plugins: As in `mw.eval`.
        progress: Called with a system, items done and items in all.

    Returns:
        A bank with a member for each system: probabilities of classes or values, ids, labels where they are known, and the
        milliseconds that a sample took.

    Raises:
        InputError: Data or systems cannot be read, or answer with texts.
        RunError: A system gave answers that are none.

    Example:
        >>> import numpy as np
        >>> def sure(x):
        ...     return np.stack([x[:, 0] < 0, x[:, 0] >= 0], axis=1).astype(float)
        >>> predict(sure, np.array([[1.0], [-2.0]]), classes=["low", "high"]).values[0].argmax(axis=1).tolist()
        [1, 0]
    """
    wanted = systems if isinstance(systems, Mapping | list | tuple) else [systems]
    like, items = _asked(data, task, split, classes)
    members = systems_of(wanted, device=device, network=network, plugins=plugins)
    labels = [member.label for member in members]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise InputError(f"two systems are called '{twice[0]}'", "Write NAME=MODEL for one of them.")
    return answers_of(members, like, items, batch=batch, progress=progress, labelled=not _unlabelled(items))


def _asked(data: Any, task: Any, split: str, classes: Sequence[str]) -> tuple[Task, Items]:
    """What is asked, and about which items."""
    if task is None and not classes:
        (found,) = tasks_of(data)
        return found, found.items(split)
    if task is not None and classes:
        raise InputError("a task says itself what its classes are", "Leave classes out.")
    items = new_items(data, task)
    if task is not None:
        (found,) = tasks_of(task)
        return found, items
    names = tuple(map(str, classes))
    return Classification(name="data", splits=Splits({"test": items}), metric=metric("accuracy"), names=names), items


def _unlabelled(items: Items) -> bool:
    return len(items) > 0 and items.targets[0] is None
