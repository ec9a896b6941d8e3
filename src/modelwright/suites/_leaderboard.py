"""The leaderboard of a sweep: what its records come to, like the tables of several tasks that papers print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError, MissingExtraError
from modelwright.evaluate import Metric, Part, Records, metric
from modelwright.suites._cells import Cell, Cells, as_json, finite, write_text
from modelwright.suites._order import Comparison, compare_orders
from modelwright.suites._search import has_shares, relative
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
        shares: By task, the same as a share of the expert's; None where the expert has no figure above 0, so that no system
            has a share, and NaN where the system's own figure leaves none.
        parameters: What was chosen, by seed.
        trials: How many sets of parameters were tried, by seed.
        untuned: What the first of them, the defaults, came to on `validation`, as a mean share of the experts', by seed; None
            where it failed.
        merge_seconds: Mean time to merge once.
        train_seconds: Mean time to train.
        peak_bytes: Most memory that merging took.
        nbytes: Bytes of the weights that are kept to answer.
    """

    label: str
    group: str
    seeds: tuple[int, ...]
    figures: Mapping[str, Sequence[float]]
    shares: Mapping[str, Sequence[float | None]]
    parameters: Sequence[Mapping[str, Any]] = ()
    trials: Sequence[int] = ()
    untuned: Sequence[float | None] = ()
    merge_seconds: float | None = None
    train_seconds: float | None = None
    peak_bytes: int | None = None
    nbytes: int | None = None

    @property
    def share(self) -> np.ndarray:
        """Mean over tasks of the shares, float64 (seeds,); tasks without shares are left out, and NaN is where there are none."""
        by_seed = [[s for s in own if s is not None] for own in zip(*self.shares.values(), strict=True)]
        return np.array([np.mean(own) if own else np.nan for own in by_seed])

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
        conditions: What holds for all its cells: budget, semantics, most validation items (`validation`), and how many there
            are in fact (`items`).
        metrics: The metric of each task, by name.
        lines: In the order of the table.
        left_out: Failed and skipped cells.
        order: What the literature leads to expect, and what was found.
        without: Tasks of which there are no shares, with the seeds: their experts have no figure above 0.
        fixed: Whether the models are the same for all seeds, so that only methods that draw noise have several.
    """

    suite: str
    conditions: Mapping[str, Any]
    metrics: Mapping[str, str]
    lines: Sequence[Line]
    left_out: Sequence[Cell] = ()
    order: Sequence[Comparison] = field(default_factory=tuple)
    without: Mapping[str, Sequence[int]] = field(default_factory=dict)
    fixed: bool = False

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
        """Plain values, for JSON: None where a figure is no number."""
        lines = [
            {
                **asdict(line),
                "n": len(line.seeds),
                "share": list(line.share),
                "mean_share": float(line.share.mean()),
                "spread": spread(line.share),
            }
            for line in self.lines
        ]
        left_out = [
            {"label": c.label, "seed": c.seed, "group": c.group, "status": c.status, "reason": c.reason}
            for c in self.left_out
        ]
        return finite({
            "version": VERSION, "suite": self.suite, "conditions": dict(self.conditions), "metrics": dict(self.metrics),
            "lines": lines, "left_out": left_out, "order": [asdict(pair) for pair in self.order],
            "without": dict(self.without), "fixed": self.fixed,
        })  # fmt: skip

    @staticmethod
    def of(data: Mapping[str, Any]) -> Leaderboard:
        """The leaderboard that `data` was had from.

        Raises:
            InputError: These are data of something else.
        """
        if data.get("version") != VERSION or "lines" not in data or "without" not in data:
            raise InputError("these are no data of a leaderboard as this version writes it", "Run the sweep again.")
        without = data["without"]
        return Leaderboard(
            data["suite"], data["conditions"], data["metrics"],
            [_line_of(line, without, data["fixed"]) for line in data["lines"]],
            [Cell(**cell) for cell in data["left_out"]], [Comparison(**_nan(pair)) for pair in data["order"]],
            without, data["fixed"],
        )  # fmt: skip

    def markdown(self, heading: str = "#", *, chosen: bool = True) -> str:
        """The tables, and where the order differs from what is expected.

        Args:
            heading: The signs before its title.
            chosen: Whether there is a table of the parameters that were chosen.
        """
        from modelwright.suites._markdown import page

        return page(self, heading, chosen=chosen)

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
        texts = {"leaderboard.md": self.markdown(), "leaderboard.json": as_json(self.data, indent=1) + "\n"}
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
    if "said" not in said:
        raise InputError(f"the sweep in '{folder}' was begun by an earlier version", "Run mw sweep again.")
    cells, fixed = Cells(folder), said["fixed"]
    # What an edited suite or more seeds have left in the folder belongs to another table.
    every = [cell for cell in cells if cell.said == said["said"] and cell.seed < said["seeds"]]
    done = [cell for cell in every if cell.status == "done"]
    complete = [s for s in sorted({c.seed for c in done}) if _complete(done, 0 if fixed else s, said["tasks"])]
    if not complete:
        raise InputError(f"the sweep in '{folder}' has no seed whose experts are finished", "Run mw sweep again.")
    results = {seed: Records.read(cells.records(seed)) for seed in complete}
    board = _Board(results, [cell for cell in done if cell.seed in results], said["tasks"], fixed)
    left_out = [cell for cell in every if cell.status in ("failed", "skipped")]
    conditions = said["conditions"]
    return Leaderboard(
        conditions["suite"], conditions, board.metrics, board.lines(), left_out, compare_orders(board), board.without,
        fixed,
    )  # fmt: skip


def _complete(done: Sequence[Cell], seed: int, tasks: Sequence[str]) -> bool:
    """Whether the expert of each task is finished."""
    return set(tasks) == {cell.expert_of for cell in done if cell.seed == seed and cell.expert_of}


class _Board:
    """The records by seed, and what is computed from them."""

    def __init__(self, results: Mapping[int, Records], cells: Sequence[Cell], tasks: Sequence[str], fixed: bool):
        self.results = results
        self.cells = cells
        self.fixed = fixed
        first = next(iter(results.values()))
        self.tasks = list(tasks)
        self._figures: dict[tuple[str, int, str], float] = {}
        self.metrics = {task: first.on(task)[0].head.metric for task in self.tasks}

    @property
    def labels(self) -> list[str]:
        """Systems with lines of their own, experts left out."""
        return list(dict.fromkeys(cell.label for cell in self.cells if not cell.expert_of))

    def part(self, label: str, seed: int, task: str) -> Part:
        """A system's records on a task; of `experts`, those of the expert of the task.

        Where the models are the same for all seeds, what draws no noise has been asked once.
        """
        system = f"expert-{task}" if label == EXPERTS else label
        found = self.results[seed]
        return (self.results[0] if self.fixed and system not in found.systems else found).part(task, system)

    def seeds(self, label: str) -> tuple[int, ...]:
        """The seeds that a system has results of."""
        if label in (EXPERTS, ANY_EXPERT):
            return (0,) if self.fixed else tuple(self.results)
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

        def place(line: Line) -> tuple[int, int, float, str]:
            share = float(line.share.mean())
            return groups.index(line.group), first.get(line.label, 9), -np.inf if np.isnan(share) else share, line.label

        return sorted(lines, key=place)

    @cached_property
    def without(self) -> dict[str, list[int]]:
        """Tasks of which there are no shares, with the seeds."""
        seeds = self.seeds(EXPERTS)
        found = {t: [s for s in seeds if not has_shares(self.figure(EXPERTS, s, t))] for t in self.tasks}
        return {task: seeds for task, seeds in found.items() if seeds}

    def _line(self, label: str) -> Line:
        seeds = self.seeds(label)
        figures = {task: [self.figure(label, seed, task) for seed in seeds] for task in self.tasks}
        experts = {task: [self.figure(EXPERTS, seed, task) for seed in seeds] for task in self.tasks}
        shares = {task: _shares(figures[task], experts[task], self.metric(task)) for task in self.tasks}
        cells = [cell for cell in self.cells if cell.label == label]
        return Line(
            label, cells[0].group if cells else "reference", seeds, figures, shares,
            parameters=[cell.parameters for cell in cells], trials=[len(cell.trials) for cell in cells],
            untuned=[cell.trials[0].objective for cell in cells if cell.trials],
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


def _shares(figures: Sequence[float], experts: Sequence[float], measured: Metric) -> list[float | None]:
    found = relative(figures, experts, measured).tolist()
    return [share if known else None for share, known in zip(found, has_shares(experts), strict=True)]


def _line_of(data: Mapping[str, Any], without: Mapping[str, Sequence[int]], fixed: bool) -> Line:
    """A line from JSON, where NaN and what there is not are both null."""
    seeds = data["seeds"]

    def share(task: str, seed: int, value: float | None) -> float | None:
        there = (0 if fixed else seed) not in without.get(task, ())
        return float("nan") if value is None and there else value

    return Line(**{
        **{one.name: data[one.name] for one in fields(Line)},
        "seeds": tuple(seeds),
        "figures": {task: list(_nan(dict(enumerate(own))).values()) for task, own in data["figures"].items()},
        "shares": {t: [share(t, s, v) for s, v in zip(seeds, own, strict=True)] for t, own in data["shares"].items()},
    })  # fmt: skip


def _nan(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same with NaN for None."""
    return {name: float("nan") if value is None else value for name, value in values.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
