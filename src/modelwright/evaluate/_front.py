"""`mw.eval`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from modelwright.api import bundle_at, open as open_weights
from modelwright.bundle import WeightBundle, open_bundle
from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError
from modelwright.evaluate._ensembles import Ensemble, fit_ensemble
from modelwright.evaluate._metrics import Metric, metric as metric_of
from modelwright.evaluate._predictor import Predictor
from modelwright.evaluate._records import Records
from modelwright.evaluate._run import Plan, Progress, run
from modelwright.evaluate._systems import labelled, systems as systems_of
from modelwright.evaluate._task import Task
from modelwright.evaluate.sources import tasks as tasks_of
from modelwright.predictions.cascades import Aim


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


def ensemble(
    systems: Any,
    task: Any,
    *,
    method: str = "mean",
    calibrate: str | None = None,
    cascade: bool = False,
    aim: Aim | None = None,
    width: float | None = None,
    most_cost: float | None = None,
    unit: Literal["milliseconds", "answers"] = "milliseconds",
    split: str = "validation",
    label: str = "ensemble",
    batch: int = 64,
    device: str = "cpu",
    network: str | Callable[[Mapping[str, Any]], Any] | None = None,
    plugins: Sequence[str | Path] = (),
    progress: Callable[[str, int, int], None] | None = None,
    **parameters: Any,
) -> Ensemble:
    """Make one system of several, fitted on items that nothing is reported on.

    Args:
        systems: At least two, a list or labels -> systems; each as in `modelwright.evaluate.systems`.
        task: As in `mw.task`; of classes or numbers, with the split that is fitted on. Its `test` is never read.
        method: What combines them: a combiner of `modelwright.predictions`, such as `mean`, `greedy`, `stacking`, `majority_vote`.
        calibrate: What makes the confidence true: a calibrator, such as `temperature`. Where combiner and calibrator both learn,
            each has half of the items.
        cascade: Ask the members one after the other, each only where those before were not sure.
        aim: Of a cascade: what its accepted answers are to be; default as much as can be answered at a risk of 0.1.
        width: Of a cascade: how much is passed on, see `fit_cascade`.
        most_cost: Of a cascade, in place of a width: what it may cost for an item, in the unit.
        unit: Of a cascade's costs: `milliseconds` as measured here, or `answers`.
        split: Fitted on these: `validation`, or `tune` where members have not seen it.
        label: How tables call it.
        batch: Items at a time.
        device: Where modules run.
        network: As in `eval`.
        plugins: As in `eval`.
        progress: Called with a member, items done and items in all.
        **parameters: The combiner's own, such as `space="logits"`.

    Returns:
        The `Ensemble`: its `predictor` answers, `figures` says what members and ensemble come to on the items it was fitted on,
        `save(folder)` writes a bundle that `mw.open` opens.

    Raises:
        InputError: There is nothing to fit on, members do not go together, or a parameter is wrong.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(200, 2))
        >>> y = (x.sum(axis=1) > 0).astype(int)
        >>> def one(i):
        ...     return lambda x: 1 / (1 + np.exp(-2 * x[:, [i]] * [[-1, 1]]))
        >>> data = {"validation": (x[:100], y[:100]), "test": (x[100:], y[100:])}
        >>> made = ensemble({"first": one(0), "second": one(1)}, data)
        >>> bool(made.figures["ensemble"] > max(made.figures["first"], made.figures["second"]))
        True
    """
    wanted = systems if isinstance(systems, Mapping | list | tuple) else [systems]
    members = systems_of(wanted, device=device, network=network, plugins=plugins)
    given = list(wanted.values()) if isinstance(wanted, Mapping) else list(wanted)
    references = [labelled(one)[1] if isinstance(one, str) else one for one in given]
    named = (
        None
        if network is None
        else network
        if isinstance(network, str)
        else getattr(network, "__qualname__", "a function")
    )
    (found,) = tasks_of(task)
    return fit_ensemble(
        members, found, method=method, parameters=parameters, calibrate=calibrate, cascade=cascade, aim=aim, width=width,
        most_cost=most_cost, unit=unit, split=split, label=label, batch=batch,
        sources={member.label: one for member, one in zip(members, references, strict=True)}, network=named, progress=progress,
    )  # fmt: skip


def open(
    ref: Any,
    *,
    folder: str | Path | None = None,
    label: str | None = None,
    device: str = "cpu",
    network: str | Callable[[Mapping[str, Any]], Any] | None = None,
) -> Checkpoint | WeightBundle | Predictor:
    """Open anything that is named tensors, or a bundle; of tensors only headers are read.

    Args:
        ref: A folder (Hugging Face, diffusers, sentence-transformers), a `.safetensors`, `.gguf` or torch file, `a+b` for a model
            with a LoRA adapter, a Hub id, a URL, an `nn.Module`, a state dict, a dict of numpy arrays, a `Checkpoint`; a bundle;
            or `BUNDLE#TASK` for the model of a task.
        folder: Where relative paths start; default the working directory.
        label: What to call it in messages; default the reference itself.
        device: Where the members of an ensemble run.
        network: Builds the networks of an ensemble's members that are no models of transformers, as in `mw.eval`.

    Returns:
        A lazy `Checkpoint`; of a bundle of weights a `WeightBundle`; of an ensemble or a cascade what answers:
        `.probabilities(inputs, classes)`, `.values(inputs)`, members asked at the same time or one after the other.

    Raises:
        InputError: It does not exist, is damaged, is quantised, or holds something else.

    Example:
        >>> import numpy as np
        >>> open({"w": np.ones((2, 2), np.float32)})["w"].shape
        (2, 2)
    """
    place = bundle_at(ref, folder)
    if place is None or place[1] is not None or open_bundle(place[0]).about.weights is not None:
        return open_weights(ref, folder=folder, label=label)
    (found,) = systems_of({label or place[0].resolve().name: str(place[0])}, device=device, network=network)
    return found


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
