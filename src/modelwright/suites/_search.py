"""Choosing a method's hyper-parameters on `validation`, with the same budget of evaluations for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from modelwright.errors import InputError, RunError
from modelwright.evaluate import Metric, Plan, Predictor, Splits, Task, run
from modelwright.evaluate._predictor import needs
from modelwright.methods import Method


def candidates(method: Method, semantics: str, budget: int) -> list[dict[str, Any]]:
    """The parameter sets that are tried, in order; the first of a larger budget are those of a smaller one.

    First come the values that the semantics give, then those of the paper where they differ, then points of the
    Halton sequence over the spans that the record names. Parameters that each model has its own of get one value for
    all. A method without such parameters is tried once, and one whose record says `tries` no more often than that.

    Args:
        method: Its record says what is worth searching: `Method.spans`.
        semantics: `community` or `paper`: where parameters that are not searched stand.
        budget: Most evaluations, at least 1.

    Returns:
        Values of the searched parameters by their names in recipes.

    Raises:
        InputError: The budget is below 1.
    """
    if budget < 1:
        raise InputError(f"budget must be at least 1 evaluation a method, got {budget}")
    budget, spans = min(budget, method.tries or budget), method.spans
    defaults, preset = method.defaults(semantics), method.presets.get("paper", {})
    start = {name: defaults.get(name, span.at(0.5)) for name, span in spans.items()}
    found = [start, {name: preset.get(name, value) for name, value in start.items()}]
    if spans and budget > 1:
        halton = needs("scipy.stats.qmc", "a search").Halton(d=len(spans), scramble=False)
        halton.fast_forward(1)  # the sequence begins in a corner
        for point in halton.random(budget):
            found.append({name: span.at(float(x)) for (name, span), x in zip(spans.items(), point, strict=True)})
    distinct = [values for i, values in enumerate(found) if values not in found[:i]]
    return distinct[:budget]


@dataclass(frozen=True)
class Trial:
    """One set of parameters, and what it came to.

    Attributes:
        parameters: By their names in recipes.
        objective: Mean over tasks of the figure on `validation`, as a share of the expert's; None where it failed.
        figures: The figure on `validation` by task; NaN, or None where it was read from a file, where it is no number.
        merge_seconds: Time to merge.
        seconds: Time of merging and evaluating.
        reason: Why it failed.
    """

    parameters: Mapping[str, Any]
    objective: float | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    merge_seconds: float = 0.0
    seconds: float = 0.0
    reason: str = ""

    @property
    def judged(self) -> bool:
        """Whether it came to an objective: a number, and not NaN, which would win or lose any comparison."""
        return self.objective is not None and bool(np.isfinite(self.objective))


def search(
    sets: Iterable[Mapping[str, Any]],
    attempt: Callable[[Mapping[str, Any]], Trial],
    done: Sequence[Trial] = (),
    keep: Callable[[Trial], None] = lambda _trial: None,
) -> list[Trial]:
    """Try every set of parameters that has not been tried.

    Args:
        sets: As `candidates` gives them.
        attempt: Merges and judges.
        done: Trials of an earlier run; those that failed are tried again.
        keep: Told of every new trial.

    Returns:
        All trials, in the order of the sets.
    """
    trials: list[Trial] = []
    for parameters in sets:
        known = [trial for trial in done if trial.judged and dict(trial.parameters) == dict(parameters)]
        trials.append(known[0] if known else attempt(parameters))
        if not known:
            keep(trials[-1])
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the greatest objective, the first of equal ones.

    Raises:
        RunError: All have failed; the first one's reason.
    """
    judged = [trial for trial in trials if trial.judged]
    if not judged:
        raise RunError(trials[0].reason)
    return max(judged, key=lambda trial: trial.objective or 0.0)


def relative(figures: Any, references: Any, metric: Metric) -> np.ndarray:
    """Figures as shares of the expert's: above 1 is better than the expert, whichever way the metric runs.

    Args:
        figures: Of a system, of any shape.
        references: Of the expert, of the same shape.
        metric: Of both.

    Returns:
        float64 of that shape; NaN where there is no such share: of an expert without one (`has_shares`), or where a figure
        that would be divided by is not above 0.
    """
    figures, references = np.asarray(figures, np.float64), np.asarray(references, np.float64)
    above, below = (figures, references) if metric.higher_is_better else (references, figures)
    known = has_shares(references) & has_shares(below)
    return np.divide(above, below, out=np.full(known.shape, np.nan), where=known)


def has_shares(references: Any) -> np.ndarray:
    """Whether there are shares of these figures of experts: of 0, of less, and of what is no number, there are none."""
    references = np.asarray(references, np.float64)
    return np.isfinite(references) & (np.nan_to_num(references) > 0)


class Judge:
    """Scores systems on `validation`.

    It is given tasks without their `test` items, so that nothing which is chosen by it can have seen them.

    Args:
        tasks: By name, without `test`.
        experts: The system that was tuned for each task: what 1 is.
        most: Most items a task, spread evenly over `validation`; None takes all.
        plan: Batch and device.

    Raises:
        InputError: A task has no `validation`, or still has `test`.
    """

    def __init__(
        self, tasks: Mapping[str, Task], experts: Mapping[str, Callable[[], Predictor]], most: int | None, plan: Plan
    ):
        self._tasks = {name: _thinned(task, most) for name, task in tasks.items()}
        self._experts = experts
        self._plan = replace(plan, split="validation", progress=None)

    @property
    def most(self) -> int:
        """Items of the task that has most."""
        return max(len(task.items("validation")) for task in self._tasks.values())

    @cached_property
    def references(self) -> dict[str, float]:
        """The experts' figures on their own tasks."""
        return {name: self._figures(self._experts[name](), [task])[name] for name, task in self._tasks.items()}

    def figures(self, system: Predictor) -> dict[str, float]:
        """A system's figure on each task."""
        return self._figures(system, list(self._tasks.values()))

    def objective(self, figures: Mapping[str, float]) -> float:
        """Mean over tasks of the figures as shares of the experts'. Tasks whose expert has no figure above 0 do not count.

        Raises:
            RunError: There is no such share of any expert, or of the system's figure on a task.
        """
        counted = {name: task for name, task in self._tasks.items() if has_shares(self.references[name])}
        if not counted:
            raise RunError(
                f"no expert's figure on validation is above 0, so nothing is a share of it: {_listed(self.references)}. "
                "Take a metric that is above 0, such as accuracy, log_loss or perplexity"
            )
        shares = {n: float(relative(figures[n], self.references[n], task.metric)) for n, task in counted.items()}
        odd = {name: figures[name] for name, share in shares.items() if not np.isfinite(share)}
        if odd:
            raise RunError(f"the figure on validation is no share of the expert's: {_listed(odd)}")
        return float(np.mean(list(shares.values())))

    def _figures(self, system: Predictor, tasks: Sequence[Task]) -> dict[str, float]:
        return {part.head.task: part.figure for part in run([system], tasks, None, self._plan)}


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items())


def _thinned(task: Task, most: int | None) -> Task:
    """The task with only so many validation items, and nothing else."""
    if "test" in task.splits:
        raise InputError(f"task {task.name}: a search is given tasks without `test`", "Pass task.for_search().")
    if "validation" not in task.splits:
        raise InputError(
            f"task {task.name} has no split 'validation', and hyper-parameters are chosen on it", "Add the split."
        )
    items = task.items("validation")
    if most is not None and len(items) > most:
        items = items.take([int(i) for i in np.linspace(0, len(items) - 1, most)])
    return replace(task, splits=Splits({"validation": items}).for_search())
