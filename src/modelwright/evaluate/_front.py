"""`mw.eval`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelwright.errors import InputError
from modelwright.evaluate._metrics import Metric, metric as metric_of
from modelwright.evaluate._records import Records
from modelwright.evaluate._run import Plan, Progress, run
from modelwright.evaluate._systems import systems as systems_of
from modelwright.evaluate._task import Task
from modelwright.evaluate.sources import tasks as tasks_of


def eval(
    systems: Any,
    task: Any,
    *,
    out: str | Path | None = None,
    split: str = "test",
    limit: int | None = None,
    batch: int = 64,
    device: str = "cpu",
    network: str | Callable[[Mapping[str, Any]], Any] | None = None,
    metric: str | Metric | None = None,
    restart: bool = False,
    plugins: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> Records:
    """Ask systems about tasks, and keep what they answer, item by item.

    Args:
        systems: One, a list, or labels -> systems; each as in `modelwright.evaluate.systems`: a folder, a recipe, a module,
            an estimator, a function, a merged `Checkpoint`.
        task: One or a list, each as in `mw.task`, or a group of lm-evaluation-harness.
        out: A folder of records. What is there already, of the same systems and tasks, is not asked again; None keeps
            everything in memory.
        split: `tune`, `validation` or `test`.
        limit: Ask only so many items of each task: a fixed sample, the same for all systems.
        batch: Items at a time.
        device: Where modules run.
        network: Builds the `nn.Module` that a checkpoint's tensors are for, from its configuration.
        metric: Instead of the tasks' own.
        restart: Throw away what `out` holds of these systems and tasks.
        plugins: Python files with further merging methods.
        progress: Called with system, task, items done and items in all.

    Returns:
        Paired records: one row for each system and item.

    Raises:
        InputError: A system or task cannot be loaded, or the records in `out` are of something else.
        RunError: A system gave answers that are none.

    Example:
        >>> import numpy as np
        >>> answers = {"always a": lambda x: np.tile([1.0, 0.0], (len(x), 1))}
        >>> records = eval(answers, (np.zeros((4, 2)), ["a", "a", "a", "b"]))
        >>> records.part("data", "always a").figure
        0.75
    """
    wanted = systems if isinstance(systems, Mapping | list | tuple) else [systems]
    tasks = [found for one in (task if isinstance(task, list) else [task]) for found in tasks_of(one)]
    plan = Plan(split=split, limit=limit, batch=batch, device=device, restart=restart, progress=progress)
    if metric is not None:
        tasks = [replace(one, metric=metric_of(metric)) for one in tasks]
    check_splits(tasks, split)
    return run(systems_of(wanted, device=device, network=network, plugins=plugins), tasks, out, plan)


def check_splits(tasks: Sequence[Task], split: str) -> None:
    """Refuse, before models are loaded, tasks without the split.

    Raises:
        InputError: One lacks it.
    """
    for task in tasks:
        if split not in task.splits:
            task.items(split)  # says which there are
    if not tasks:
        raise InputError("evaluation needs tasks, got none")
