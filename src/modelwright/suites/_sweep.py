"""A sweep: every method on a suite's families, its hyper-parameters chosen on `validation`, its answers recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelwright.api import registry
from modelwright.errors import InputError
from modelwright.methods import Registry
from modelwright.suites._bench import Bench
from modelwright.suites._cells import Cell, Cells, as_json, write_text
from modelwright.suites._family import Family
from modelwright.suites._rows import check_fit, rows_of
from modelwright.suites._settings import Settings, Trainable
from modelwright.suites._workers import Work, in_processes

#: The average with equal weights: what is had without choosing anything, so it is in every sweep.
AVERAGE = "linear"
CONDITIONS = "sweep.json"

#: Called with a cell, how many are finished, and how many there are: for each finished cell, and after each trial of one
#: that is being made, whose status is `running`.
Progress = Callable[[Cell, int, int], None]


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
    ensemble of the experts. Finished cells are not made again, wherever an earlier run of the same sweep stopped. Where
    the models are the same for all seeds, as published ones are, only methods that draw noise are run with more than one.

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
    settings = (settings or Settings()).settled(suite)
    known = registry(plugins)
    wanted = [known.find(name) for name in _named(methods, known)]
    work = Work(suite, settings, tuple(plugins), tuple(method.name for method in wanted), Path(out).expanduser())
    conditions = _conditions(suite, settings)
    _check_same(work.folder, conditions)
    cells = Cells(work.folder)
    told = _Told(progress)

    def begin(family: Family) -> tuple[Bench, list[Cell]]:
        """What is made of a family, and the cells of it that are not there yet."""
        bench = Bench(family, known, settings, cells, work.said, work.wanted)
        if methods != "all":
            check_fit(list(bench.rows.values()))
        if not told.of:
            told.of = sum(len(rows_of(replace(family, seed=seed), wanted)) for seed in range(settings.seeds))
            _keep(work, {**conditions, "items": bench.judge.most}, family)
        cells.discard_others(family.seed, bench.fingerprint)
        blank: list[Cell] = []
        for cell in map(bench.blank, bench.rows.values()):
            if (found := cells.done(cell.seed, cell.label, cell.key)) is not None:
                told(found)
            else:
                blank.append(cell)
        return bench, blank

    if settings.workers > 1:
        in_processes(work, lambda seed: begin(settings.family(suite, seed))[1], lambda cell: told(cell, made=True))
    else:
        for bench, blank in map(begin, settings.families(suite)):
            for cell in blank:
                told(bench.make(bench.rows[cell.label], told), made=True)
    own = [cell for cell in cells if cell.said == work.said and cell.seed < settings.seeds]
    return Sweep(work.folder, tuple(own), told.made)


class _Told:
    """Counts cells for `Progress`."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self.made, self.done, self.of = 0, 0, 0

    def __call__(self, cell: Cell, made: bool = False) -> None:
        if cell.status != "running":
            self.made += made
            self.done += 1
        self._progress(cell, self.done, self.of)


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


def _keep(work: Work, conditions: Mapping[str, Any], family: Family) -> None:
    """Say what is swept: cells of another suite of this name, or of more seeds, that lie in the folder are not tabled."""
    work.folder.mkdir(parents=True, exist_ok=True)
    said = {
        "conditions": conditions, "said": work.said, "seeds": work.settings.seeds, "fixed": family.fixed,
        "tasks": list(family.tasks),
    }  # fmt: skip
    write_text(work.folder / CONDITIONS, as_json(said, indent=1) + "\n")
