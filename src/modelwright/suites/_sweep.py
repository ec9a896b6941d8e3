"""A sweep: every method on a suite's families, its hyper-parameters chosen on `validation`, its answers recorded."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from modelwright.api import Job, content_hash, direct_recipe, registry
from modelwright.checkpoint import Checkpoint, TensorRef
from modelwright.engine import method_source
from modelwright.errors import InputError, Problem, RunError, did_you_mean, listing
from modelwright.evaluate import Plan, Predictor, SystemKind, run
from modelwright.methods import Method, Registry
from modelwright.suites._cells import Cell, Cells, Group, key_of, write_text
from modelwright.suites._ensemble import OutputEnsemble
from modelwright.suites._family import Family
from modelwright.suites._search import Judge, Trial, best, candidates, search

#: The average with equal weights: what is had without choosing anything, so it is in every sweep.
AVERAGE = "linear"
CONDITIONS = "sweep.json"
#: Most validation items a task to choose with, where the suite says nothing.
_VALIDATION = 500
#: Families of fewer bytes are kept in memory while they are merged again and again.
_HELD = 2 << 30
#: Packages whose versions figures may depend on.
_PACKAGES = ("modelwright", "numpy", "scipy", "torch")

#: Called with a cell, how many are finished, and how many there are: for each finished cell, and after each trial of one
#: that is being made, whose status is `running`.
Progress = Callable[[Cell, int, int], None]


class Trainable(Protocol):
    """What a sweep needs of a suite: its name, and the family of a seed."""

    @property
    def name(self) -> str:
        """The suite's name."""
        ...

    def family(self, seed: int, *, cache: Path | None, device: str, budget: str) -> Family:
        """Train a family, or load it."""
        ...


@dataclass(frozen=True)
class Settings:
    """How a sweep is run.

    Attributes:
        seeds: How many families are trained and merged, with the seeds 0, 1, ...
        budget: Most evaluations on `validation` that the hyper-parameters of a method are chosen with.
        semantics: `community` or `paper`: where parameters that are not searched stand.
        validation: Most validation items a task to choose with; None for the suite's own number.
        device: Where models are trained and evaluated; the processor merges.
        batch: Items at a time.
        training: `full`, or `smoke` for families that are trained in seconds.
        cache: Where trained families are kept; None for the suite's own place.

    Raises:
        InputError: A number is below 1, or a word is none of those.
    """

    seeds: int = 3
    budget: int = 20
    semantics: str = "community"
    validation: int | None = None
    device: str = "cpu"
    batch: int = 256
    training: str = "full"
    cache: Path | None = None

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for name in ("seeds", "budget", "validation", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(Problem(f"{name} must be at least 1, got {value}"))
        for name, valid in (("semantics", ("community", "paper")), ("training", ("full", "smoke"))):
            if getattr(self, name) not in valid:
                problems.append(
                    Problem(f"no {name} is called '{getattr(self, name)}'", did_you_mean(getattr(self, name), valid))
                )
        if problems:
            raise InputError(problems)


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to.

    Attributes:
        folder: Where it lies.
        cells: Its cells, those of earlier runs among them.
        made: How many cells this run made.
    """

    folder: Path
    cells: tuple[Cell, ...]
    made: int

    @property
    def failed(self) -> list[Cell]:
        """The cells that failed."""
        return [cell for cell in self.cells if cell.status == "failed"]


def sweep(
    suite: Trainable,
    methods: str | Sequence[str] = "all",
    *,
    out: str | Path,
    settings: Settings | None = None,
    plugins: Sequence[str | Path] = (),
    progress: Progress = lambda _cell, _done, _of: None,
) -> Sweep:
    """Merge a suite's families with many methods, and record what everything answers to the `test` items.

    Beside the methods there are the base, every expert on every task, training on all tasks together, and the output
    ensemble of the experts. Finished cells are not made again, wherever an earlier run of the same sweep stopped.

    Args:
        suite: Trains the families.
        methods: Names, or `all`: every known method that can merge as many models as there are experts.
        out: The folder of the sweep: `records/seed-0/TASK/SYSTEM.test.parquet` and `cells/seed-0/SYSTEM.json`.
        settings: How.
        plugins: Python files with further methods.
        progress: Told of cells and trials.

    Returns:
        The cells. A method that fails is a failed cell with its reason, and does not stop the others.

    Raises:
        InputError: A method is unknown, or was named and cannot merge such a family; a task has no `validation`; or
            `out` holds a sweep with other settings.
    """
    settings = settings or Settings()
    if settings.validation is None:
        settings = replace(settings, validation=getattr(suite, "validation", _VALIDATION))
    known = registry(plugins)
    wanted = [known.find(name) for name in _named(methods, known)]
    folder = Path(out).expanduser()
    conditions = _conditions(suite, settings)
    _check_same(folder, conditions)
    cells, made, done = Cells(folder), 0, 0
    for seed in range(settings.seeds):
        family = suite.family(seed, cache=settings.cache, device=settings.device, budget=settings.training)
        rows = [*_references(family), *(_merged(method, family) for method in wanted)]
        if methods != "all":
            _check_fit(rows)
        bench = _Bench(family, known, settings, cells)
        _keep(folder, conditions, list(family.tasks))
        cells.discard_others(seed, bench.fingerprint)
        for row in rows:
            total = len(rows) * settings.seeds
            cell = cells.done(seed, row.label, bench.key(row))
            made += cell is None
            cell = cell or bench.make(row, lambda running, at=(done, total): progress(running, *at))
            done += 1
            progress(cell, done, total)
    return Sweep(folder, tuple(cells), made)


def _named(methods: str | Sequence[str], known: Registry) -> list[str]:
    """The methods' names without repetition, the average always among them."""
    names = list(known) if methods == "all" else [methods] if isinstance(methods, str) else list(methods)
    return list(dict.fromkeys([AVERAGE, *names]))


def _conditions(suite: Trainable, settings: Settings) -> dict[str, Any]:
    """What must be equal for all cells of a folder, or its table would compare what cannot be compared."""
    return {
        "suite": suite.name, "budget": settings.budget, "semantics": settings.semantics,
        "validation": settings.validation, "training": settings.training,
    }  # fmt: skip


def _check_same(folder: Path, conditions: Mapping[str, Any]) -> None:
    path = folder / CONDITIONS
    there = json.loads(path.read_text(encoding="utf-8"))["conditions"] if path.is_file() else conditions
    for name, value in conditions.items():
        if there.get(name) != value:
            raise InputError(
                f"'{folder}' holds a sweep with {name} {there.get(name)}, and this one has {value}",
                "Give another folder: one table compares like with like.",
            )


def _keep(folder: Path, conditions: Mapping[str, Any], tasks: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONDITIONS, json.dumps({"conditions": conditions, "tasks": list(tasks)}, indent=1) + "\n")


@dataclass(frozen=True)
class _Row:
    """A system to be: of weights that exist, of a method, or of all experts together."""

    label: str
    group: Group
    weights: Checkpoint | None = None
    method: Method | None = None
    expert_of: str = ""
    train_seconds: float | None = None
    unfit: str = ""

    @property
    def kind(self) -> SystemKind:
        """What a comparison takes it for; multitask training is neither an expert nor what experts are tuned from."""
        if self.method is not None:
            return "merge"
        if self.expert_of:
            return "single"
        return "ensemble" if self.group == "ensemble" else "base" if self.label == "base" else "other"


def _references(family: Family) -> Iterator[_Row]:
    yield _Row("base", "reference", family.base, train_seconds=family.seconds.get("base"))
    for name, expert in family.experts.items():
        seconds = family.seconds.get(name)
        yield _Row(f"expert-{name}", "reference", expert, expert_of=name, train_seconds=seconds)
    if family.multitask is not None:
        yield _Row("multitask", "reference", family.multitask, train_seconds=family.seconds.get("multitask"))
    yield _Row("ensemble", "ensemble")


def _merged(method: Method, family: Family) -> _Row:
    return _Row(
        method.name, "data-driven" if method.needs else "data-free", method=method,
        unfit=unfit(method, len(family.experts)),
    )  # fmt: skip


def unfit(method: Method, count: int) -> str:
    """Why a method cannot merge so many experts; empty where it can."""
    least, most = method.models
    beside = "" if method.base == "ignored" else " beside the base"
    if count < least or (most is not None and count > most):
        takes = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        return f"it takes {takes} model{'s' * (takes != '1')}{beside}, and there are {count} experts"
    if method.needs:
        return f"it needs {listing(method.needs)}, which a sweep cannot collect yet"
    return ""


def _check_fit(rows: Sequence[_Row]) -> None:
    problems = [Problem(f"{row.label}: {row.unfit}", "Leave it out of --methods.") for row in rows if row.unfit]
    if problems:
        raise InputError(problems)


class _Bench:
    """A family and what is needed to make its cells."""

    def __init__(self, family: Family, known: Registry, settings: Settings, cells: Cells):
        self.family, self.settings, self.cells = family, settings, cells
        self._known = known
        self._plan = Plan(batch=settings.batch, device=settings.device)
        small = sum(model.nbytes for model in (family.base, *family.experts.values())) <= _HELD
        self._base = in_memory(family.base) if small else family.base
        self._experts = [in_memory(expert) if small else expert for expert in family.experts.values()]
        self._judge = Judge(
            {name: task.for_search() for name, task in family.tasks.items()},
            {name: partial(self._system, expert, name) for name, expert in family.experts.items()},
            settings.validation,
            self._plan,
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all models, of all tasks, and of the versions that figures may depend on."""
        family = self.family
        return key_of(
            base=content_hash(family.base),
            experts={name: content_hash(expert) for name, expert in family.experts.items()},
            multitask=None if family.multitask is None else content_hash(family.multitask),
            tasks={
                n: [task.fingerprint(split) for split in ("validation", "test")] for n, task in family.tasks.items()
            },
            versions={name: _version(name) for name in _PACKAGES},
            device=self.settings.device,
        )

    def key(self, row: _Row) -> str:
        """A hash of all that a cell depends on."""
        parts: dict[str, Any] = {"family": self.fingerprint, "label": row.label, "seed": self.family.seed}
        if row.method is not None:
            parts |= {
                "method": row.method.name, "source": method_source(row.method), "sets": self._sets(row.method),
                "semantics": self.settings.semantics, "defaults": row.method.defaults(self.settings.semantics),
                "validation": self.settings.validation, "unfit": row.unfit,
            }  # fmt: skip
        return key_of(**parts)

    def _sets(self, method: Method) -> list[dict[str, Any]]:
        return candidates(method, self.settings.semantics, self.settings.budget)

    def make(self, row: _Row, told: Callable[[Cell], None]) -> Cell:
        """Make a cell, and keep it whatever came of it."""
        start = time.perf_counter()
        cell = Cell(
            row.label, self.family.seed, row.group, self.key(row), self.fingerprint,
            train_seconds=row.train_seconds, expert_of=row.expert_of,
        )  # fmt: skip
        done = self.cells.begin(cell.seed, cell.label, cell.key)
        try:
            cell = self._made(row, cell, done, told)
        except InterruptedError:  # what the engine makes of Ctrl-C
            raise
        except Exception as error:  # whatever a method of somebody else raises must not stop the others
            cell = replace(cell, status="failed", reason=_reason(error))
        cell = replace(cell, seconds=time.perf_counter() - start)
        self.cells.finish(cell)
        return cell

    def _made(self, row: _Row, cell: Cell, done: Sequence[Trial], told: Callable[[Cell], None]) -> Cell:
        if row.unfit:
            return replace(cell, status="skipped", reason=row.unfit)
        if row.method is not None:
            system, cell = self._chosen(row.method, cell, done, told)
        elif row.weights is not None:
            system = self._system(row.weights, row.label)
        else:
            experts = self.family.experts.items()
            system = OutputEnsemble(row.label, parts=[self._system(expert, name) for name, expert in experts])
        run(
            [system], list(self.family.tasks.values()), self.cells.records(cell.seed),
            replace(self._plan, made=self._said(row, cell)),
        )  # fmt: skip
        return cell

    def _chosen(
        self, method: Method, cell: Cell, done: Sequence[Trial], told: Callable[[Cell], None]
    ) -> tuple[Predictor, Cell]:
        """The method with the parameters that are best on `validation`, and what it cost."""
        tried = list(done)

        def keep(trial: Trial) -> None:
            self.cells.keep(cell.seed, cell.label, trial)
            tried.append(trial)
            told(replace(cell, status="running", trials=tuple(tried)))

        trials = search(self._sets(method), partial(self._attempt, method), done, keep)
        parameters = best(trials).parameters
        weights, seconds = self._merge(method, parameters)
        peak = peak_bytes(lambda: self._merge(method, parameters))
        cell = replace(
            cell, parameters=parameters, trials=tuple(trials), merge_seconds=seconds, peak_bytes=peak
        )  # fmt: skip
        return self._system(weights, method.name), cell

    def _attempt(self, method: Method, parameters: Mapping[str, Any]) -> Trial:
        start = time.perf_counter()
        try:
            weights, merging = self._merge(method, parameters)
            figures = self._judge.figures(self._system(weights, method.name))
            objective = self._judge.objective(figures)
        except InterruptedError:
            raise
        except Exception as error:  # such as values that do not go together, or weights that overflow
            return Trial(parameters, seconds=time.perf_counter() - start, reason=_reason(error))
        return Trial(parameters, objective, figures, merging, time.perf_counter() - start)

    def _merge(self, method: Method, parameters: Mapping[str, Any]) -> tuple[Checkpoint, float]:
        """The merged model in memory, and the seconds that took."""
        start = time.perf_counter()
        data, objects, notes = direct_recipe(self._experts, method.name, self._base, parameters, self._known)
        data |= {"semantics": self.settings.semantics, "seed": self.family.seed}
        merged = in_memory(Job.from_recipe(data, [], self._known, objects, notes).checkpoint())
        return merged, time.perf_counter() - start

    def _system(self, weights: Checkpoint, label: str) -> Predictor:
        return self.family.system(weights, label, device=self.settings.device)

    def _said(self, row: _Row, cell: Cell) -> dict[str, Any]:
        """What records say of a system beside its answers."""
        return {
            "suite": self.family.name, "seed": cell.seed, "kind": row.kind, "group": row.group,
            "method": row.method.name if row.method else "", "expert_of": row.expert_of,
            "semantics": self.settings.semantics if row.method else "", "parameters": dict(cell.parameters),
            "merge_seconds": cell.merge_seconds, "peak_bytes": cell.peak_bytes, "train_seconds": row.train_seconds,
        }  # fmt: skip


def in_memory(model: Checkpoint) -> Checkpoint:
    """A checkpoint with its values read or computed, and nothing of its files."""

    def ref(stored: TensorRef) -> TensorRef:
        array = stored.read().astype(stored.dtype.numpy, copy=False)
        return TensorRef(stored.dtype, stored.shape, lambda: array, stored.source)

    return Checkpoint(
        {name: ref(stored) for name, stored in model.items()},
        label=model.label, parts=model.parts, metadata=model.metadata, aliases=model.aliases,
    )  # fmt: skip


def peak_bytes(work: Callable[[], Any]) -> int:
    """Most memory that Python objects and numpy arrays made meanwhile took at once."""
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not running:
            tracemalloc.stop()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, InputError | RunError) else f"{type(error).__name__}: {error}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
