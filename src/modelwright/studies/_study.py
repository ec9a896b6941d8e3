"""The nouns of the studies: what one is, what it runs with, and what comes of it."""

from __future__ import annotations

import importlib.util
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any, Literal, get_args

from modelwright.errors import InputError, MissingExtraError, did_you_mean
from modelwright.evaluate._predictor import needs
from modelwright.studies._evidence import RULE, Interval, Part, Verdict, whole_verdict

Budget = Literal["smoke", "full"]
BUDGETS: tuple[Budget, ...] = get_args(Budget)
#: Told what is going on, how many steps are done, and of how many.
Progress = Callable[[str, int, int], None]

#: Seeds of a smoke run; two, so that what is done over seeds is done.
_SMOKE_SEEDS = 2
_MOST_SEEDS = 1000
#: What to install for a module that is missing; of those that are there, the installation knows.
_PACKAGES = {"sklearn": "scikit-learn"}

Cell = str | float | Interval | None


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        what: In words.
        interval: With its interval.
        unit: `%` for shares, which are stored as fractions; empty for plain numbers.
    """

    what: str
    interval: Interval
    unit: str = "%"


@dataclass(frozen=True)
class Table:
    """Measured numbers in rows; every row begins with its name.

    Attributes:
        title: What it shows.
        columns: Headings; the first is that of the names.
        rows: Cells: names, numbers with or without intervals, None for nothing.
        unit: As in `Figure`.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    unit: str = "%"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: each row must have {len(self.columns)} cells, got {row}")


@dataclass(frozen=True)
class Plot:
    """Lines to draw.

    Attributes:
        title: What it shows.
        x: Heading of the horizontal axis.
        y: Heading of the vertical axis.
        lines: Points (x, interval) by the line's name.
        unit: Of the vertical axis, as in `Figure`.
        log_x: Whether the horizontal axis is logarithmic.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, Interval]]]
    unit: str = "%"
    log_x: bool = False


@dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Attributes:
        parts: The statements that the claim comes to, each measured.
        figures: Named numbers.
        tables: For reading.
        plots: For looking at; at least one.
        notes: What a reader should know, such as how the experiment differs from the paper's.
    """

    parts: Sequence[Part]
    figures: Mapping[str, Figure]
    tables: Sequence[Table]
    plots: Sequence[Plot]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Setting:
    """What an experiment runs with.

    Attributes:
        seeds: One repetition each, with its own splits, weights and draws.
        budget: `full`, or `smoke`: the same code, so small that it takes seconds and proves nothing.
        progress: Told what is going on.
    """

    seeds: tuple[int, ...]
    budget: Budget = "full"
    progress: Progress = lambda _what, _done, _total: None

    @property
    def smoke(self) -> bool:
        """Whether it is a smoke run."""
        return self.budget == "smoke"

    def each_seed(self) -> Iterator[int]:
        """The seeds, saying how far one is."""
        for done, seed in enumerate(self.seeds):
            self.progress(f"seed {seed}", done, len(self.seeds))
            yield seed
        self.progress("intervals", len(self.seeds), len(self.seeds))


@dataclass(frozen=True)
class Study:
    """A published claim, and the small experiment that puts it to the test.

    Attributes:
        id: Its name, that of the paper.
        title: The method or the question.
        paper: Where the claim was made.
        claim: In one line.
        experiment: Runs it. It must give the same findings for the same setting.
        needs: Modules that must be there, by the names they are imported by.
        seeds: How many seeds a full run has unless told otherwise.
    """

    id: str
    title: str
    paper: str
    claim: str
    experiment: Callable[[Setting], Findings]
    needs: tuple[str, ...] = ("sklearn",)
    seeds: int = 5

    def run(self, seeds: int | None = None, budget: Budget = "full", progress: Progress | None = None) -> Outcome:
        """Run the experiment, on one thread so that the figures are the same on any number of cores.

        Args:
            seeds: How many repetitions, seeded 0, 1, ...; default 2 for a smoke run, else the study's own number.
            budget: `full`, or `smoke` for seconds; what a smoke run says about the claim means nothing.
            progress: Called with what is going on, steps done and steps in all.

        Returns:
            The verdict and what it rests on.

        Raises:
            InputError: A package is missing, or there is no such budget or number of seeds.
        """
        if budget not in BUDGETS:
            raise InputError(f"{self.id}: there is no budget '{budget}'", did_you_mean(budget, BUDGETS))
        count = (_SMOKE_SEEDS if budget == "smoke" else self.seeds) if seeds is None else seeds
        if not 1 <= count <= _MOST_SEEDS:
            raise InputError(f"{self.id}: seeds must be in [1, {_MOST_SEEDS}], got {count}")
        for module in self.needs:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                raise MissingExtraError(f"the study {self.id}", _PACKAGES.get(module, module), "eval")
        start = time.perf_counter()
        setting = Setting(tuple(range(count)), budget, progress or (lambda _what, _done, _total: None))
        with _one_thread():
            findings = self.experiment(setting)
        return Outcome(
            id=self.id,
            title=self.title,
            paper=self.paper,
            claim=self.claim,
            parts=tuple(findings.parts),
            figures=dict(findings.figures),
            tables=tuple(findings.tables),
            plots=tuple(findings.plots),
            notes=tuple(findings.notes),
            seconds=time.perf_counter() - start,
            versions=_versions(self.needs),
            seeds=setting.seeds,
            budget=budget,
        )


def _one_thread() -> Any:
    """Sums of one BLAS thread are the same on any machine's number of cores."""
    return needs("threadpoolctl", "a study").threadpool_limits(limits=1)  # scikit-learn brings it


def _versions(modules: Sequence[str]) -> dict[str, str]:
    """Of Python and of the packages that hold these modules; empty for a module that no package holds."""
    holders = packages_distributions() if modules else {}
    tops = dict.fromkeys(module.partition(".")[0] for module in modules)
    packages = ["modelwright", "numpy", *(name for top in tops for name in dict.fromkeys(holders.get(top, [top])))]
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a study.

    Attributes:
        id: The study's.
        title: The study's.
        paper: The study's.
        claim: The study's, in one line.
        parts: The statements that it comes to, each with its interval, its bound and its verdict.
        figures: Measured numbers by name.
        tables: For reading.
        plots: For looking at.
        notes: What a reader should know.
        seconds: How long it took.
        versions: Of Python and the packages that computed it; empty for a module that is no package.
        seeds: Which were run.
        budget: `smoke` or `full`.
    """

    id: str
    title: str
    paper: str
    claim: str
    parts: tuple[Part, ...]
    figures: Mapping[str, Figure]
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    notes: tuple[str, ...]
    seconds: float
    versions: Mapping[str, str]
    seeds: tuple[int, ...]
    budget: Budget
    rule: str = field(default=RULE, init=False)

    @property
    def verdict(self) -> Verdict:
        """On the whole claim, from its deciding parts."""
        return whole_verdict(self.parts)

    def as_json(self) -> dict[str, Any]:
        """Plain data; the keys are stable. Shares are fractions."""
        parts = [asdict(part) | {"verdict": part.verdict} for part in self.parts]
        figures = {name: {"what": f.what, **asdict(f.interval), "unit": f.unit} for name, f in self.figures.items()}
        plots = [
            asdict(plot) | {"lines": {name: [(x, asdict(i)) for x, i in line] for name, line in plot.lines.items()}}
            for plot in self.plots
        ]
        return {
            "version": 1, "id": self.id, "title": self.title, "paper": self.paper, "claim": self.claim,
            "verdict": self.verdict, "rule": self.rule, "parts": parts, "figures": figures,
            "tables": [asdict(table) for table in self.tables], "plots": plots, "notes": list(self.notes),
            "seconds": round(self.seconds, 3), "versions": dict(self.versions), "seeds": list(self.seeds),
            "budget": self.budget,
        }  # fmt: skip
