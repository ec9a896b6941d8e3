"""One family on the bench: its merges are made, judged on `validation`, and asked about `test`."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from modelwright.api import Job, content_hash, direct_recipe
from modelwright.checkpoint import Checkpoint, TensorRef
from modelwright.engine import method_source
from modelwright.errors import InputError, RunError
from modelwright.evaluate import EnsemblePredictor, Plan, Predictor, run
from modelwright.methods import Method, Registry
from modelwright.suites._cells import Cell, Cells, key_of
from modelwright.suites._family import Family
from modelwright.suites._rows import Row, rows_of
from modelwright.suites._search import Judge, Trial, best, candidates, search
from modelwright.suites._settings import Settings

#: Families of fewer bytes are kept in memory while they are merged again and again.
_HELD = 2 << 30
#: Packages whose versions figures may depend on.
_PACKAGES = ("modelwright", "numpy", "scipy", "torch")


class Bench:
    """A family and what is needed to make its cells.

    Args:
        family: Of one seed.
        known: The methods.
        settings: With what the suite decides.
        cells: Where they are kept.
        said: A hash of what the suite says.
        wanted: Names of the methods that are swept.
    """

    def __init__(
        self, family: Family, known: Registry, settings: Settings, cells: Cells, said: str, wanted: Sequence[str]
    ):
        self.family, self.settings, self.cells, self.said = family, settings, cells, said
        self.rows = {row.label: row for row in rows_of(family, [known.find(name) for name in wanted])}
        self._known = known
        self._plan = Plan(batch=settings.batch, device=settings.device)
        small = sum(model.nbytes for model in (family.base, *family.experts.values())) <= _HELD
        self._base = in_memory(family.base) if small else family.base
        self._experts = [in_memory(expert) if small else expert for expert in family.experts.values()]
        self.judge = Judge(
            {name: task.for_search() for name, task in family.tasks.items()},
            {name: partial(self._system, expert, name) for name, expert in family.experts.items()},
            settings.validation,
            self._plan,
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all models, of all tasks, of what is put on the models, and of the versions that figures may depend on."""
        family = self.family
        return key_of(
            said=self.said,
            base=content_hash(family.base),
            experts={name: content_hash(expert) for name, expert in family.experts.items()},
            multitask=None if family.multitask is None else content_hash(family.multitask),
            beside=family.fingerprint,
            tasks={
                n: [task.fingerprint(split) for split in ("validation", "test")] for n, task in family.tasks.items()
            },
            versions={name: _version(name) for name in _PACKAGES},
            device=self.settings.device,
        )

    def blank(self, row: Row) -> Cell:
        """A row's cell before it is made."""
        return Cell(
            row.label, self.family.seed, row.group, key=self._key(row), family=self.fingerprint, said=self.said,
            train_seconds=row.train_seconds, expert_of=row.expert_of,
        )  # fmt: skip

    def _key(self, row: Row) -> str:
        """A hash of all that a cell depends on."""
        parts: dict[str, Any] = {
            "family": self.fingerprint, "label": row.label, "seed": self.family.seed, "unfit": row.unfit
        }  # fmt: skip
        if row.method is not None:
            parts |= {
                "method": row.method.name, "source": method_source(row.method), "sets": self._sets(row.method),
                "semantics": self.settings.semantics, "defaults": row.method.defaults(self.settings.semantics),
                "validation": self.settings.validation,
            }  # fmt: skip
        return key_of(**parts)

    def _sets(self, method: Method) -> list[dict[str, Any]]:
        return candidates(method, self.settings.semantics, self.settings.budget)

    def make(self, row: Row, told: Callable[[Cell], None]) -> Cell:
        """Make a cell, and keep it whatever came of it."""
        start = time.perf_counter()
        cell = self.blank(row)
        done = self.cells.begin(cell.seed, cell.label, cell.key)
        try:
            cell = self._made(row, cell, done, told)
        except InterruptedError:  # what the engine makes of Ctrl-C
            raise
        except Exception as error:  # whatever a method of somebody else raises must not stop the others
            cell = replace(cell, status="failed", reason=_reason(error))
        # what earlier runs that were killed have tried is a part of the work
        cell = replace(cell, seconds=time.perf_counter() - start + sum(trial.seconds for trial in done))
        self.cells.finish(cell)
        return cell

    def _made(self, row: Row, cell: Cell, done: Sequence[Trial], told: Callable[[Cell], None]) -> Cell:
        if row.unfit:
            return replace(cell, status="skipped", reason=row.unfit)
        if row.method is not None:
            system, cell = self._chosen(row.method, cell, done, told)
        elif row.weights is not None:
            system = self._system(row.weights, row.label)
        else:
            experts = self.family.experts.items()
            system = EnsemblePredictor(row.label, parts=[self._system(expert, name) for name, expert in experts])
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
        figures: Mapping[str, float] = {}
        try:
            weights, merging = self._merge(method, parameters)
            figures = self.judge.figures(self._system(weights, method.name))
            objective = self.judge.objective(figures)
        except InterruptedError:
            raise
        except Exception as error:  # such as values that do not go together, or weights that overflow
            return Trial(parameters, None, figures, seconds=time.perf_counter() - start, reason=_reason(error))
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

    def _said(self, row: Row, cell: Cell) -> dict[str, Any]:
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
