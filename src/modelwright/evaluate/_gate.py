"""Gates: what a system must hold to take another one's place, checked from records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelwright.errors import InputError, Problem, did_you_mean, listing
from modelwright.evaluate._calibration import calibration
from modelwright.evaluate._judged import JudgedTask
from modelwright.evaluate._metrics import Metric
from modelwright.evaluate._records import Part, Records
from modelwright.evaluate._statistics import Interval, mean_of, sample
from modelwright.predictions.measures import Bins, Convention, Norm, Of, negative_flips
from modelwright.recipe import Lines
from modelwright.recipe._yaml import load


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class NonInferiority(_Strict):
    """Not worse than the reference by more than a margin: the worse end of the paired interval stays within it."""

    margin: float = Field(ge=0, description="In the metric's own unit: 0.01 is one point of accuracy.")
    tasks: dict[str, float] = Field(default_factory=dict, description="Other margins, by task.")
    mean: float | None = Field(None, ge=0, description="For the mean over the tasks; left out, it is not checked.")

    @model_validator(mode="after")
    def _margins(self) -> Self:
        for task, margin in self.tasks.items():
            if margin < 0:
                raise ValueError(f"a margin must be at least 0, got {margin} for '{task}'")
        return self


class NegativeFlips(_Strict):
    """How much of what the reference has right may be wrong."""

    at_most: float = Field(ge=0, le=1, description="A share in [0, 1].")
    of: Literal["all", "right"] = Field("all", description="Of all items, or of those that the reference has right.")
    tasks: list[str] = Field(default_factory=list, description="Only on these.")


class Floor(_Strict):
    """How good a figure must be at least, on a task or a part of it."""

    task: str
    at_least: float | None = Field(None, description="For metrics of which more is better.")
    at_most: float | None = Field(None, description="For metrics of which less is better.")
    slice: dict[str, str] = Field(default_factory=dict, description="Only items with all these properties.")
    by: Literal["figure", "bound"] = Field("figure", description="bound: the worse end of the interval must hold it.")
    items: int = Field(1, ge=1, description="With fewer items it does not pass, whatever the figure is.")

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a floor needs either at_least or at_most")
        return self


class Ceiling(_Strict):
    """How bad calibration may be on a task."""

    task: str
    measure: Literal["error", "brier", "nll"] = "error"
    at_most: float = Field(ge=0)
    count: int = Field(15, ge=1)
    bins: Bins = "equal_width"
    of: Of = "top_label"
    norm: Norm = "l1"

    @property
    def convention(self) -> Convention:
        """Which error."""
        return Convention(self.count, self.bins, self.of, self.norm)


class Rules(_Strict):
    """A gate file."""

    systems: list[str] = Field(min_length=1, description="Which must pass.")
    reference: str | None = Field(None, description="Whose place they would take.")
    non_inferiority: NonInferiority | None = None
    negative_flips: NegativeFlips | None = None
    floors: list[Floor] = Field(default_factory=list)
    calibration: list[Ceiling] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not (self.non_inferiority or self.negative_flips or self.floors or self.calibration):
            raise ValueError("a gate that asks for nothing passes everything: give one of the checks")
        if self.reference is None and (self.non_inferiority or self.negative_flips):
            raise ValueError("non_inferiority and negative_flips need a reference")
        if self.reference in self.systems:
            raise ValueError(f"'{self.reference}' is the reference and cannot be compared with itself")
        return self


@dataclass(frozen=True)
class Check:
    """One thing that was asked for.

    Attributes:
        kind: `non_inferiority`, `negative_flips`, `floor` or `calibration`.
        system: Of which system.
        task: On which task; `mean` for the mean over all.
        slice: On which part of it, as `language=de`; empty for the whole.
        figure: What was found; NaN where it cannot be had.
        limit: What it may be at most, or must be at least.
        passed: Whether it holds.
        text: In words.
        items: Of how many items.
    """

    kind: str
    system: str
    task: str
    slice: str
    figure: float
    limit: float
    passed: bool
    text: str
    items: int

    @property
    def name(self) -> str:
        """How reports call it."""
        about = f"{self.task} [{self.slice}]" if self.slice else self.task
        return f"{self.system} on {about}"


@dataclass(frozen=True)
class Verdicts:
    """What a gate found.

    Attributes:
        checks: In the order of the gate file.
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """All checks, in plain values."""
        checks = [asdict(check) for check in self.checks]
        for check in checks:
            check["figure"] = None if math.isnan(check["figure"]) else check["figure"]
        return {"version": 1, "passed": self.passed, "checks": checks}

    def junit(self) -> str:
        """JUnit XML, which CI systems read: a test case a check."""
        from modelwright.evaluate._junit import junit

        return junit(self)


@dataclass(frozen=True)
class Gate:
    """A gate file, with the lines of its values.

    Attributes:
        rules: What it asks for.
        lines: Where that stands.
    """

    rules: Rules
    lines: Lines = field(default_factory=Lines)

    @staticmethod
    def read(path: str | Path) -> Gate:
        """A gate from a YAML file.

        Raises:
            InputError: It cannot be read, or all that is wrong with it, with lines.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the gate '{path}' cannot be read: {error}", "Give a YAML file.") from None
        documents = load(text, str(path))
        if len(documents) != 1:
            raise InputError(f"a gate file holds one document, got {len(documents)}", where=str(path))
        return Gate.of(*documents[0])

    @staticmethod
    def of(data: Any, lines: Lines | None = None) -> Gate:
        """A gate from what YAML or Python says.

        Raises:
            InputError: All that is wrong with it.
        """
        lines = lines or Lines()
        if not isinstance(data, Mapping):
            mend = f"Its keys are {listing(Rules.model_fields)}."
            raise InputError(Problem(f"a gate is a mapping of keys, got {type(data).__name__}", mend, lines.where(())))
        try:
            return Gate(Rules.model_validate(data), lines)
        except ValidationError as error:
            raise InputError([_problem(entry, lines) for entry in error.errors()]) from None

    def check_names(
        self, systems: Iterable[str], tasks: Iterable[str], slices: Mapping[str, Mapping[str, set[str]]] | None = None
    ) -> None:
        """Refuse names that are none; what can be asked before anything is evaluated.

        Args:
            systems: All there are.
            tasks: Likewise.
            slices: By task the properties of its items, each with its values; None where they are not known yet.

        Raises:
            InputError: Every unknown name, with what is valid.
        """
        known, asked, rules = list(systems), list(tasks), self.rules
        problems = [self._unknown("system", name, known, ("systems", i)) for i, name in enumerate(rules.systems)]
        if rules.reference is not None:
            problems.append(self._unknown("system", rules.reference, known, ("reference",)))
        places: list[tuple[str, tuple[Any, ...]]] = []
        if rules.non_inferiority:
            places += [(task, ("non_inferiority", "tasks", task)) for task in rules.non_inferiority.tasks]
        if rules.negative_flips:
            places += [(task, ("negative_flips", "tasks", i)) for i, task in enumerate(rules.negative_flips.tasks)]
        places += [(floor.task, ("floors", i, "task")) for i, floor in enumerate(rules.floors)]
        places += [(ceiling.task, ("calibration", i, "task")) for i, ceiling in enumerate(rules.calibration)]
        problems += [self._unknown("task", task, asked, at) for task, at in places]
        for i, floor in enumerate(rules.floors):
            if slices is not None and floor.task in slices:
                problems += self._unknown_slices(floor, slices[floor.task], ("floors", i, "slice"))
        found = [problem for problem in problems if problem is not None]
        if found:
            raise InputError(found)

    def _unknown(self, what: str, name: str, known: Sequence[str], at: tuple[Any, ...]) -> Problem | None:
        if name in known:
            return None
        return Problem(
            f"the gate names the {what} '{name}', which is not there", did_you_mean(name, known), self.lines.where(at)
        )

    def _unknown_slices(self, floor: Floor, known: Mapping[str, set[str]], at: tuple[Any, ...]) -> list[Problem | None]:
        problems: list[Problem | None] = []
        for name, value in floor.slice.items():
            if name not in known:
                rule = f"the items of '{floor.task}' have no property '{name}'"
                problems.append(Problem(rule, did_you_mean(name, known), self.lines.where((*at, name))))
            elif value not in known[name]:
                rule = f"no item of '{floor.task}' has {name} = '{value}'"
                problems.append(Problem(rule, did_you_mean(value, known[name]), self.lines.where((*at, name))))
        return problems

    def check(self, records: Records, *, seed: int = 0, level: float = 0.95, resamples: int = 2000) -> Verdicts:
        """Check records.

        Args:
            records: With all systems and tasks that the gate names.
            seed: Of resamples.
            level: Coverage of two-sided intervals; a bound is one end, so 0.95 leaves 2.5 % on its side.
            resamples: How many.

        Raises:
            InputError: A name is unknown, a limit does not fit its metric, or confidences are missing.
        """
        slices = {
            task: {name: set(values.tolist()) - {""} for name, values in records.on(task)[0].slices().items()}
            for task in records.tasks
        }
        self.check_names(records.systems, records.tasks, slices)
        judge = _Judge(self, records, seed, level, resamples)
        return Verdicts(tuple(judge.all()))


def _problem(entry: Any, lines: Lines) -> Problem:
    path = tuple(entry["loc"])
    where, dotted = lines.where(path), ".".join(str(part) for part in path)
    if entry["type"] == "extra_forbidden":
        owner: Any = Rules
        for part in path[:-1]:
            owner = _OWNERS.get(str(part), owner)
        return Problem(f"unknown key '{dotted}'", did_you_mean(str(path[-1]), owner.model_fields), where)
    if entry["type"] == "missing":
        return Problem(f"the key '{dotted}' is missing", where=where)
    if entry["type"] == "value_error":
        return Problem(f"{dotted + ': ' if dotted else ''}{entry['ctx']['error']}", where=where)
    message = entry["msg"][:1].lower() + entry["msg"][1:]
    return Problem(f"'{dotted}': {message}, got {entry['input']!r}", where=where)


_OWNERS: dict[str, type[BaseModel]] = {
    "non_inferiority": NonInferiority, "negative_flips": NegativeFlips, "floors": Floor, "calibration": Ceiling,
}  # fmt: skip


class _Judge:
    """The checks of one gate on records."""

    def __init__(self, gate: Gate, records: Records, seed: int, level: float, resamples: int):
        self._rules, self._lines, self._records = gate.rules, gate.lines, records
        self._seed, self._level, self._resamples = seed, level, resamples
        self._tasks: dict[str, JudgedTask] = {}

    def all(self) -> Iterable[Check]:
        rules = self._rules
        for i, floor in enumerate(rules.floors):
            self._fits(floor, ("floors", i))
        for system in rules.systems:
            yield from self._non_inferiority(system)
            yield from self._flips(system)
            yield from (self._floor(floor, system) for floor in rules.floors)
            yield from (self._ceiling(ceiling, system) for ceiling in rules.calibration)

    def _task(self, name: str) -> JudgedTask:
        """The systems that the gate names, on one task."""
        if name not in self._tasks:
            wanted = [*self._rules.systems, *([self._rules.reference] if self._rules.reference else [])]
            parts = Records([self._records.part(name, system) for system in wanted])
            self._tasks[name] = JudgedTask.of(parts, name, None, self._seed, self._resamples)
        return self._tasks[name]

    def _non_inferiority(self, system: str) -> Iterable[Check]:
        rule, reference = self._rules.non_inferiority, self._rules.reference
        if rule is None or reference is None:
            return
        tasks = [self._task(name) for name in self._records.tasks]
        for task in tasks:
            behind = task.figures[system] - task.figures[reference]
            if not task.metric.higher_is_better:
                behind = task.figures[reference] - task.figures[system]
            margin = rule.tasks.get(task.name, rule.margin)
            yield self._within(system, task.name, behind.interval(self._level), margin, len(task.ids))
        if rule.mean is not None:
            if len({task.metric.name for task in tasks}) > 1:
                raise InputError(
                    "a margin for the mean needs tasks with one metric", "Leave mean out.",
                    self._lines.where(("non_inferiority", "mean")),
                )  # fmt: skip
            sign = 1 if tasks[0].metric.higher_is_better else -1
            pair = (system, reference)[::sign]
            first, second = (mean_of([task.figures[name] for task in tasks]) for name in pair)
            found = (first - second).interval(self._level)
            yield self._within(system, "mean", found, rule.mean, sum(len(task.ids) for task in tasks))

    def _within(self, system: str, task: str, found: Interval, margin: float, items: int) -> Check:
        passed = found.low >= -margin
        text = (
            f"{system} is {_signed(found.value)} better than {self._rules.reference}, interval {_signed(found.low)} to "
            f"{_signed(found.high)}; it may be worse by {margin:g} at most"
        )
        return Check("non_inferiority", system, task, "", found.low, -margin, passed, text, items)

    def _flips(self, system: str) -> Iterable[Check]:
        rule, reference = self._rules.negative_flips, self._rules.reference
        if rule is None or reference is None:
            return
        for name in rule.tasks or self._records.tasks:
            task = self._task(name)
            try:
                if not task.metric.flips:
                    raise InputError(f"'{task.metric.name}' does not say which answers are right, so nothing flips")
                flips = negative_flips(task.wholes[reference].scores, task.wholes[system].scores, task.ids)
            except InputError as error:
                mend = "Name the tasks that it holds for."
                raise InputError(error.problems[0].what, mend, f"task {name}") from None
            rate = flips.rate if rule.of == "all" else flips.rate_of_right
            of = flips.items if rule.of == "all" else flips.right
            text = f"{system} has {flips.count:,} of {of:,} items wrong that {reference} has right, {rate:.4f}; at most {rule.at_most:g}"
            if flips.count:
                text += f". Such as {listing(flips.names, 5)}"
            yield Check("negative_flips", system, name, "", rate, rule.at_most, rate <= rule.at_most, text, flips.items)

    def _fits(self, floor: Floor, at: tuple[Any, ...]) -> None:
        metric = self._records.on(floor.task)[0].metric
        if (floor.at_least is None) == metric.higher_is_better:
            word, other = ("at_least", "more") if metric.higher_is_better else ("at_most", "less")
            raise InputError(
                f"of '{metric.name}' {other} is better, so its floor is {word}", f"Write {word}.", self._lines.where(at)
            )

    def _floor(self, floor: Floor, system: str) -> Check:
        part = self._task(floor.task).parts[system]
        rows = _rows_of(part, floor.slice)
        chosen = part.ordered([part.ids[i] for i in rows]) if rows.size else None
        about = ", ".join(f"{name}={value}" for name, value in floor.slice.items())
        limit = floor.at_least if floor.at_least is not None else floor.at_most
        assert limit is not None
        found = math.nan if chosen is None else self._figure(chosen, floor, part.metric)
        holds = found >= limit if floor.at_least is not None else found <= limit
        what = "the worse end of the interval" if floor.by == "bound" else "the figure"
        way = "at least" if floor.at_least is not None else "at most"
        text = f"{what} of {system} is {found:.4g} on {len(rows):,} items; it must be {way} {limit:g}"
        if len(rows) < floor.items:
            text += f", on at least {floor.items:,} items"
        return Check(
            "floor", system, floor.task, about, found, limit, holds and len(rows) >= floor.items, text, len(rows)
        )

    def _figure(self, part: Part, floor: Floor, metric: Metric) -> float:
        if floor.by == "figure":
            return part.figure
        sampled = sample(metric, [part.whole], part.ids, seed=self._seed, count=self._resamples)[0]
        found = sampled.interval(self._level)
        return found.low if metric.higher_is_better else found.high

    def _ceiling(self, ceiling: Ceiling, system: str) -> Check:
        part = self._task(ceiling.task).parts[system]
        found = getattr(calibration(part, ceiling.convention), ceiling.measure)
        if found is None:
            raise InputError(
                f"'{system}' has no probabilities of classes, which {ceiling.measure} needs",
                "Use the calibration error.",
                f"task {ceiling.task}",
            )
        of = f" ({ceiling.convention})" if ceiling.measure == "error" else ""
        text = (
            f"the calibration {ceiling.measure} of {system} is {found:.4g}{of}; it must be at most {ceiling.at_most:g}"
        )
        passed = found <= ceiling.at_most
        return Check("calibration", system, ceiling.task, "", found, ceiling.at_most, passed, text, part.table.num_rows)


def _rows_of(part: Part, wanted: Mapping[str, str]) -> np.ndarray:
    """The rows that have all these properties."""
    slices = part.slices() if wanted else {}
    chosen = np.ones(part.table.num_rows, dtype=bool)
    for name, value in wanted.items():
        chosen &= slices[name] == value if name in slices else False
    return np.flatnonzero(chosen)


def _signed(value: float) -> str:
    return f"{value:+.4f}"
