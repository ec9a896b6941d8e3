"""Systems side by side: figures, intervals, paired tests, costs, and one sentence."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean, listing
from modelwright.evaluate._answer import answer
from modelwright.evaluate._calibration import Calibration, calibration
from modelwright.evaluate._comparison import Against, Comparison, Mean, Row
from modelwright.evaluate._front import eval
from modelwright.evaluate._judged import Judged, JudgedTask
from modelwright.evaluate._kinds import Cost, Price, SystemKind, cost_of, experts_of, kinds_of
from modelwright.evaluate._metrics import metric
from modelwright.evaluate._records import Part, Records
from modelwright.evaluate._statistics import Interval, IntervalKind, Sampled, holm, pareto
from modelwright.predictions.measures import DEFAULT, Convention, Flips, negative_flips

_ASKING = [name for name in inspect.signature(eval).parameters if name not in ("systems", "task")]
#: Fewer items than this, and intervals from resamples are too narrow.
_FEW = 30


def compare(
    records: Records | str | Path | Sequence[Any],
    *,
    task: Any = None,
    reference: str | None = None,
    experts: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    prices: Mapping[str, Price] | None = None,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
    interval: IntervalKind = "bca",
    convention: Convention = DEFAULT,
    **asking: Any,
) -> Comparison:
    """Compare systems item by item.

    Args:
        records: `Records`, a folder of them or several; with `task`, systems to evaluate first, as in `mw.eval`.
        task: What to evaluate systems on, as in `mw.eval`.
        reference: The system that the others are compared with; default the best single one.
        experts: The expert of each task, by which figures are normalised; default what the records say.
        kinds: `single`, `merge`, `ensemble`, `base` or `other` for systems whose records do not say so.
        prices: What asking costs, by system.
        seed: Decides resamples and swaps, together with the items' ids.
        level: Coverage of the intervals, in (0, 1).
        resamples: How often items are drawn anew, at least 100.
        interval: `bca`, or `percentile`.
        convention: Of calibration errors.
        **asking: With `task`, how systems are asked: `out`, `split`, `limit`, `device` and the rest of `mw.eval`.

    Returns:
        Rows, means over tasks and the answer. Intervals are of drawing other items of the same tasks.

    Raises:
        InputError: A name is unknown, systems answered different items, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> inputs, labels = np.arange(200) % 7, (np.arange(200) % 7 > 3).astype(int)
        >>> step = lambda at: lambda x: np.stack([x <= at, x > at], axis=1).astype(float)
        >>> systems = {"right": step(3), "wrong": step(5)}
        >>> found = compare(systems, task=(inputs, labels), kinds={"right": "merge", "wrong": "single"})
        >>> found.answer.verdict, found.reference
        ('merge', 'wrong')
    """
    if not 0 < level < 1:
        raise InputError(f"level must be in (0, 1), got {level}", "For 95 % write 0.95.")
    if resamples < 100:
        raise InputError(f"resamples must be at least 100, got {resamples}", "2000 are usual.")
    if interval not in get_args(IntervalKind):
        raise InputError(f"interval cannot be '{interval}'", did_you_mean(interval, get_args(IntervalKind)))
    found = _records(records, task, asking)
    known = kinds_of(found, kinds)
    for name in prices or {}:
        if name not in known:
            raise InputError(f"there is a price for '{name}', of which there are no records", did_you_mean(name, known))
    expert = experts_of(found, experts)
    judged = Judged([JudgedTask.of(found, name, expert.get(name), seed, resamples) for name in found.tasks])
    against = _reference(judged, known, reference)

    def told(figure: Sampled | None) -> Interval | None:
        return None if figure is None else figure.interval(level, interval)

    rows = _rows(judged, found, known, against, told, convention, prices)
    means = _means(judged, known, against, told, rows)
    return Comparison(
        tasks=tuple(found.tasks),
        systems=tuple(found.systems),
        kinds=known,
        reference=against,
        experts=expert,
        rows=rows,
        means=means,
        answer=answer(judged, known, means, level, interval),
        notes=tuple(_notes(judged, found, known, against, rows, chosen=reference is not None)),
        level=level,
        seed=seed,
        resamples=resamples,
        interval=interval,
        convention=convention,
    )


def _records(records: Any, task: Any, asking: Mapping[str, Any]) -> Records:
    if task is not None:
        unknown = [name for name in asking if name not in _ASKING]
        if unknown:
            raise InputError(f"compare has no argument '{unknown[0]}'", did_you_mean(unknown[0], _ASKING))
        return eval(records, task, **asking)
    if asking:
        raise InputError(f"'{next(iter(asking))}' says how systems are asked, and there is no task", "Give task=.")
    if isinstance(records, Records):
        if not len(records):
            raise InputError("there are no records to compare")
        return records
    places = [records] if isinstance(records, str | Path) else list(records)
    wrong = [place for place in places if not isinstance(place, str | Path)]
    if wrong:
        raise InputError(
            f"a {type(wrong[0]).__name__} is no record of answers", "Say on which task=, and it is evaluated first."
        )
    missing = [place for place in places if not Path(place).exists()]
    if missing:
        raise InputError(f"there is no '{missing[0]}'", "Give folders of records, as mw eval writes them.")
    return Records.read(*places)


def _reference(judged: Judged, kinds: Mapping[str, SystemKind], asked: str | None) -> str:
    """The one asked for, or the best of the first kind of which one answered every task."""
    if asked is not None:
        if asked not in kinds:
            raise InputError(f"the reference '{asked}' has no records", did_you_mean(asked, kinds))
        return asked
    for kind in ("single", "other", "base", "merge", "ensemble"):
        ours = [system for system in kinds if kinds[system] == kind and judged.complete(system)]
        if ours:
            return judged.best(ours) or ours[0]
    return max(kinds, key=lambda system: sum(system in task.parts for task in judged.tasks))


def _rows(
    judged: Judged,
    records: Records,
    kinds: Mapping[str, SystemKind],
    reference: str,
    told: Any,
    convention: Convention,
    prices: Mapping[str, Price] | None,
) -> tuple[Row, ...]:
    pairs = [(task, system) for task in judged.tasks for system in task.parts]
    p = [
        task.p((system, reference)) if system != reference and reference in task.parts else math.nan
        for task, system in pairs
    ]
    rows: list[Row] = []
    for (task, system), own, adjusted in zip(pairs, p, holm(p), strict=True):
        other = task.figures.get(reference) if system != reference else None
        rows.append(
            Row(
                task=task.name,
                system=system,
                kind=kinds[system],
                metric=task.metric.name,
                figure=told(task.figures[system]),
                normalised=told(task.normalised(system)),
                difference=told(None if other is None else task.figures[system] - other),
                p=own,
                p_adjusted=adjusted,
                flips=_flips(task, reference, system),
                calibration=_calibration(task.parts[system], convention),
                cost=cost_of(task.parts[system], records, prices),
            )
        )
    return tuple(rows)


def _flips(task: JudgedTask, reference: str, system: str) -> Flips | None:
    if system == reference or reference not in task.parts:
        return None
    old, new = task.wholes[reference].scores, task.wholes[system].scores
    if not task.metric.flips or not (np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all()):
        return None
    return negative_flips(old, new, task.ids)


def _calibration(part: Part, convention: Convention) -> Calibration | None:
    """None where there is nothing to calibrate; a gate that asks for it refuses instead."""
    if part.metric.asks not in ("probabilities", "texts") or part.table["confidence"].null_count:
        return None
    if part.metric.asks == "texts" and not np.isin(part.column("score"), (0, 1)).all():
        return None
    if convention.of == "classwise" and (part.probabilities is None or not part.head.classes):
        return None
    return calibration(part, convention)


def _means(
    judged: Judged, kinds: Mapping[str, SystemKind], reference: str, told: Any, rows: Sequence[Row]
) -> tuple[Mean, ...]:
    base = judged.quality(reference)
    others = [s for s in kinds if s != reference and base is not None and judged.quality(s) is not None]
    p = dict(zip(others, judged.p([(system, reference) for system in others]), strict=True))
    adjusted = dict(zip(others, holm([p[system] for system in others]), strict=True))
    costs = {system: reduce(add, [row.cost for row in rows if row.system == system]) for system in kinds}
    fronts = _fronts(judged, costs)
    means: list[Mean] = []
    for system, kind in kinds.items():
        own = judged.quality(system)
        means.append(
            Mean(
                system=system,
                kind=kind,
                figure=told(judged.mean(system)),
                normalised=told(judged.normalised(system)),
                difference=told(own - base) if system in p and own is not None and base is not None else None,
                p=p.get(system, math.nan),
                p_adjusted=adjusted.get(system, math.nan),
                cost=costs[system],
                front=tuple(name for name, front in fronts.items() if system in front),
            )
        )
    return tuple(means)


def _fronts(judged: Judged, costs: Mapping[str, Cost]) -> dict[Against, set[str]]:
    """The Pareto front of quality against each cost that is known of at least one system."""
    quality = {system: judged.quality(system) for system in costs}
    ways: dict[Against, Mapping[str, float | None]] = {
        "memory": {system: cost.nbytes for system, cost in costs.items()},
        "time": {system: cost.seconds_per_item for system, cost in costs.items()},
        "money": {system: cost.money_per_item for system, cost in costs.items()},
    }
    fronts: dict[Against, set[str]] = {}
    for name, values in ways.items():
        points = [
            (math.nan if values[s] is None else values[s], math.nan if q is None else -judged.sign * q.value)
            for s, q in quality.items()
        ]
        on_front = pareto(np.array(points, dtype=np.float64))
        if on_front.any():
            fronts[name] = {system for system, on in zip(quality, on_front, strict=True) if on}
    return fronts


def _shared(records: Records, task: str) -> Mapping[str, int]:
    """How many items are in other splits too, as the records say."""
    said = records.on(task)[0].head.made.get("shared")
    return {name: n for name, n in said.items() if isinstance(n, int)} if isinstance(said, Mapping) else {}


def _members(records: Records, rows: Sequence[Row], system: str) -> str:
    """Mean member, best member and ensemble side by side, on the first task; empty where members did not answer it."""
    own = next(row for row in rows if row.system == system)
    said = records.part(own.task, system).head.made.get("members", ())
    figures = {row.system: row.figure.value for row in rows if row.task == own.task and row.system in said}
    if len(figures) < 2 or len(figures) < len(said):
        return ""
    unit = metric(own.metric)
    best = (max if unit.higher_is_better else min)(figures, key=lambda name: figures[name])
    scale, sign = (100, " %") if unit.bounded else (1, "")
    shown = [
        f"{scale * value:.4g}{sign}" for value in (own.figure.value, np.mean(list(figures.values())), figures[best])
    ]
    return f"'{system}' on '{own.task}': {shown[0]}; its {len(figures)} members {shown[1]} on average, the best of them, '{best}', {shown[2]}."


def _notes(
    judged: Judged,
    records: Records,
    kinds: Mapping[str, SystemKind],
    reference: str,
    rows: Sequence[Row],
    *,
    chosen: bool,
) -> list[str]:
    notes = [
        "Intervals and tests are about other items of the same tasks: neither about other tasks, nor about training "
        "again with another seed."
    ]
    singles = [system for system, kind in kinds.items() if kind == "single" and judged.complete(system)]
    if not chosen and kinds[reference] == "single" and len(singles) > 1:
        notes.append(
            f"'{reference}' is the best of {len(singles)} singles on these same items, so its figure is a little too high."
        )
    merges = [system for system, kind in kinds.items() if kind == "merge" and judged.complete(system)]
    if len(merges) > 1:
        notes.append(
            f"There are {len(merges)} merges: the best of them on these items looks better than it is, unless it was "
            "chosen on others."
        )
    notes += [note for system in kinds if (note := _members(records, rows, system))]
    told = [p.head.system for p in records if p.head.made.get("told_task")]
    if told:
        names = listing([f"'{name}'" for name in dict.fromkeys(told)])
        notes.append(f"Told the task of each item, which one model for all tasks is not: {names}.")
    unknown = [system for system, kind in kinds.items() if kind == "other" and system not in told]
    if unknown:
        notes.append(f"Neither single, merge, ensemble nor base, as far as the records say: {listing(unknown, 4)}.")
    partial = [system for system in kinds if not judged.complete(system)]
    if partial:
        notes.append(f"Not in the means, because they did not answer every task: {listing(partial, 4)}.")
    for task in judged.tasks:
        if len(task.ids) < _FEW:
            few = (
                "has one item, which gives no interval"
                if len(task.ids) == 1
                else f"has {len(task.ids)} items: intervals from so few are too narrow"
            )
            notes.append(f"'{task.name}' {few}.")
        for split, count in _shared(records, task.name).items():
            notes.append(
                f"'{task.name}': {count:,} of its {records.on(task.name)[0].head.split} items are in its split '{split}' too, "
                "with the same target."
            )
    seeds = max((len(s) for part in records if isinstance(s := part.head.made.get("seed"), list)), default=1)
    if seeds > 1:
        notes.append(
            f"Items of {seeds} seeds are counted as {seeds} times as many items; the spread over seeds is not in it."
        )
    devices = {part.head.device for part in records}
    if len(devices) > 1:
        notes.append(f"Seconds were measured on different devices ({listing(sorted(devices))}) and cannot be compared.")
    if judged.metric is None:
        notes.append("Tasks have different metrics, so that means are of normalised figures.")
    return notes
