"""The leaderboard of a sweep: what its records come to, like the tables of several tasks that papers print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError, MissingExtraError
from modelwright.evaluate import Metric, Part, Records, metric
from modelwright.suites._cells import Cell, Cells, write_text
from modelwright.suites._order import Comparison, compare_orders
from modelwright.suites._search import relative
from modelwright.suites._sweep import CONDITIONS

VERSION = 1
GROUPS = {
    "reference": "References", "data-free": "Merged without data", "data-driven": "Merged with data",
    "ensemble": "Ensembles",
}  # fmt: skip
#: Every expert on its own task: what 1 is.
EXPERTS = "experts"
#: What is to be expected of an expert that is picked without knowing the task.
ANY_EXPERT = "any expert"


@dataclass(frozen=True)
class Line:
    """A system's line.

    Attributes:
        label: Its name.
        group: Which part of the table it stands in.
        seeds: The seeds that it has results of.
        figures: By task, the figure on `test` of each seed.
        shares: By task, the same as a share of the expert's.
        parameters: What was chosen, by seed.
        trials: How many sets of parameters were tried, by seed.
        merge_seconds: Mean time to merge once.
        train_seconds: Mean time to train.
        peak_bytes: Most memory that merging took.
        nbytes: Bytes of the weights that are kept to answer.
    """

    label: str
    group: str
    seeds: tuple[int, ...]
    figures: Mapping[str, Sequence[float]]
    shares: Mapping[str, Sequence[float]]
    parameters: Sequence[Mapping[str, Any]] = ()
    trials: Sequence[int] = ()
    merge_seconds: float | None = None
    train_seconds: float | None = None
    peak_bytes: int | None = None
    nbytes: int | None = None

    @property
    def share(self) -> np.ndarray:
        """Mean over tasks of the shares, float64 (seeds,)."""
        return np.mean([self.shares[task] for task in self.shares], axis=0)

    @property
    def raw(self) -> np.ndarray:
        """Mean over tasks of the figures, float64 (seeds,)."""
        return np.mean([self.figures[task] for task in self.figures], axis=0)


def spread(values: Sequence[float] | np.ndarray) -> float | None:
    """Standard deviation over seeds (n - 1 in the denominator); None for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Leaderboard:
    """All lines of a sweep.

    Attributes:
        suite: The suite's name.
        conditions: What holds for all its cells: budget, semantics, validation items.
        metrics: The metric of each task, by name.
        lines: In the order of the table.
        left_out: Failed and skipped cells.
        order: What the literature leads to expect, and what was found.
    """

    suite: str
    conditions: Mapping[str, Any]
    metrics: Mapping[str, str]
    lines: Sequence[Line]
    left_out: Sequence[Cell] = ()
    order: Sequence[Comparison] = field(default_factory=tuple)

    def line(self, label: str) -> Line:
        """The line of a system.

        Raises:
            InputError: There is none.
        """
        for line in self.lines:
            if line.label == label:
                return line
        raise InputError(f"the leaderboard has no system '{label}'")

    @cached_property
    def data(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        lines = [
            {
                **asdict(line),
                "share": list(line.share),
                "mean_share": float(line.share.mean()),
                "spread": spread(line.share),
            }
            for line in self.lines
        ]
        left_out = [{"label": c.label, "seed": c.seed, "status": c.status, "reason": c.reason} for c in self.left_out]
        return {
            "version": VERSION, "suite": self.suite, "conditions": dict(self.conditions), "metrics": dict(self.metrics),
            "lines": lines, "left_out": left_out, "order": [asdict(pair) for pair in self.order],
        }  # fmt: skip

    def markdown(self, heading: str = "#") -> str:
        """The tables, and where the order differs from what is expected."""
        from modelwright.suites._markdown import page

        return page(self, heading)

    def picture(self) -> str:
        """A bar for each system, as SVG.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from modelwright.suites._plots import shares_plot

        return shares_plot(self)

    def html(self) -> str:
        """A page that opens offline, with the tables and figures.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from modelwright.suites._page import html_page

        return html_page(self)

    def write(self, folder: str | Path) -> list[Path]:
        """Write `leaderboard.md` and `.json` and, where matplotlib is installed, `.svg` and `.html`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {"leaderboard.md": self.markdown(), "leaderboard.json": json.dumps(self.data, indent=1) + "\n"}
        with suppress(MissingExtraError):  # tables without pictures are tables
            texts |= {"leaderboard.svg": self.picture(), "leaderboard.html": self.html()}
        for name, text in texts.items():
            write_text(folder / name, text)
        return [folder / name for name in texts]


def leaderboard(folder: str | Path) -> Leaderboard:
    """What a sweep's records come to.

    Args:
        folder: The sweep's folder; it may be unfinished.

    Raises:
        InputError: It holds no sweep, or no expert's records yet.
    """
    folder = Path(folder)
    if not (folder / CONDITIONS).is_file():
        raise InputError(f"no sweep in '{folder}'", "mw sweep SUITE -o FOLDER makes one.")
    said = json.loads((folder / CONDITIONS).read_text(encoding="utf-8"))
    cells = Cells(folder)
    every = list(cells)
    done = [cell for cell in every if cell.status == "done"]
    results = {seed: Records.read(cells.records(seed)) for seed in sorted({cell.seed for cell in done})}
    results = {seed: found for seed, found in results.items() if _complete(done, seed, said["tasks"])}
    if not results:
        raise InputError(f"the sweep in '{folder}' has no seed whose experts are finished", "Run mw sweep again.")
    board = _Board(results, [cell for cell in done if cell.seed in results], said["tasks"])
    left_out = [cell for cell in every if cell.status in ("failed", "skipped")]
    conditions = said["conditions"]
    return Leaderboard(
        conditions["suite"], conditions, board.metrics, board.lines(), left_out, compare_orders(board)
    )  # fmt: skip


def _complete(done: Sequence[Cell], seed: int, tasks: Sequence[str]) -> bool:
    """Whether the expert of each task is finished."""
    return set(tasks) == {cell.expert_of for cell in done if cell.seed == seed and cell.expert_of}


class _Board:
    """The records by seed, and what is computed from them."""

    def __init__(self, results: Mapping[int, Records], cells: Sequence[Cell], tasks: Sequence[str]):
        self.results = results
        self.cells = cells
        first = next(iter(results.values()))
        self.tasks = list(tasks)
        self._figures: dict[tuple[str, int, str], float] = {}
        self.metrics = {task: first.on(task)[0].head.metric for task in self.tasks}

    @property
    def labels(self) -> list[str]:
        """Systems with lines of their own, experts left out."""
        return list(dict.fromkeys(cell.label for cell in self.cells if not cell.expert_of))

    def part(self, label: str, seed: int, task: str) -> Part:
        """A system's records on a task; of `experts`, those of the expert of the task."""
        return self.results[seed].part(task, f"expert-{task}" if label == EXPERTS else label)

    def seeds(self, label: str) -> tuple[int, ...]:
        """The seeds that a system has results of."""
        if label in (EXPERTS, ANY_EXPERT):
            return tuple(self.results)
        return tuple(cell.seed for cell in self.cells if cell.label == label)

    def metric(self, task: str) -> Metric:
        """The metric of a task."""
        return metric(self.metrics[task])

    def figure(self, label: str, seed: int, task: str) -> float:
        """A system's figure; of any expert, the mean of all of theirs."""
        if (label, seed, task) not in self._figures:
            self._figures[label, seed, task] = self._figure(label, seed, task)
        return self._figures[label, seed, task]

    def _figure(self, label: str, seed: int, task: str) -> float:
        if label == ANY_EXPERT:
            return float(np.mean([self.figure(f"expert-{other}", seed, task) for other in self.tasks]))
        return self.part(label, seed, task).figure

    def lines(self) -> list[Line]:
        """All lines: base, experts and training together first, then methods from worst to best, then ensembles."""
        lines = [self._line(label) for label in (*self.labels, EXPERTS, ANY_EXPERT)]
        first = {"base": 0, ANY_EXPERT: 1, EXPERTS: 2, "multitask": 3}
        groups = list(GROUPS)
        return sorted(
            lines, key=lambda x: (groups.index(x.group), first.get(x.label, 9), float(x.share.mean()), x.label)
        )

    def _line(self, label: str) -> Line:
        seeds = self.seeds(label)
        figures = {task: [self.figure(label, seed, task) for seed in seeds] for task in self.tasks}
        experts = {task: [self.figure(EXPERTS, seed, task) for seed in seeds] for task in self.tasks}
        shares = {task: relative(figures[task], experts[task], self.metric(task)).tolist() for task in self.tasks}
        cells = [cell for cell in self.cells if cell.label == label]
        return Line(
            label, cells[0].group if cells else "reference", seeds, figures, shares,
            parameters=[cell.parameters for cell in cells], trials=[len(cell.trials) for cell in cells],
            merge_seconds=_mean([cell.merge_seconds for cell in cells]),
            train_seconds=_mean([cell.train_seconds for cell in cells]),
            peak_bytes=max((cell.peak_bytes for cell in cells if cell.peak_bytes is not None), default=None),
            nbytes=self._kept(label, seeds[0]),
        )  # fmt: skip

    def _kept(self, label: str, seed: int) -> int | None:
        """Bytes of the weights that are kept: one model, or the experts of all tasks."""
        if label == ANY_EXPERT:
            label = f"expert-{self.tasks[0]}"
        parts = [self.part(label, seed, task).head.nbytes for task in self.tasks]
        known = [count for count in parts if count is not None]
        if len(known) < len(parts):
            return None
        return sum(known) if label == EXPERTS else max(known)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
