"""What the demo found: the rows of the table, the curves, the geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modelwright.demo._recipes import Recipe
from modelwright.demo._tasks import Tasks
from modelwright.tensors import Array

Kind = Literal["base", "expert", "ensemble", "joint", "merge"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: The model.
        kind: What it is.
        experts: How many experts it is made of.
        accuracy: Share of test images it gets right, by task.
        margin: Half the width of the 95 % interval of the mean, over the draw of test images.
        normalised: Mean over tasks of its accuracy divided by that of the task's own expert.
        validation: Its mean accuracy on the validation images.
        scale: The lambda chosen on the validation images, or None.
        seconds: Training; for a merge, from the recipe to the saved folder. None where neither took place.
        peak: Bytes that Python allocated at the peak of that merge; None for others.
    """

    name: str
    kind: Kind
    experts: int
    accuracy: Mapping[str, float]
    margin: float
    normalised: float
    validation: float
    scale: float | None = None
    seconds: float | None = None
    peak: int | None = None

    @property
    def mean(self) -> float:
        """Mean accuracy over the tasks."""
        return float(np.mean(list(self.accuracy.values())))

    def as_json(self) -> dict[str, Any]:
        """The row as it stands in results.json."""
        return {**vars(self), "accuracy": dict(self.accuracy), "mean": self.mean}


@dataclass(frozen=True)
class Geometry:
    """How the experts' task vectors lie to each other in one layer.

    Attributes:
        layer: Name of its weight.
        cosine: Cosine of the angle between each pair of task vectors, shape (experts, experts).
        conflict: Of the entries that are among the largest fifth of both, the share with opposite signs.
    """

    layer: str
    cosine: Array
    conflict: Array


@dataclass(frozen=True, repr=False)
class DemoResult:
    """What `mw demo` found.

    Attributes:
        folder: Where everything lies.
        seed: What was asked for.
        rows: The table: base, experts, references, then the merges, best on the validation images first.
        hits: For each row which test images it gets right: booleans of shape (tasks, images).
        scales: The values of lambda that were tried.
        curves: Mean validation accuracy at each of them, by method.
        geometry: For each layer that fine-tuning changed.
        recipes: What was merged, by method.
        tasks: The data.
        seconds: How long everything took.
        peak_rss: The most memory the process has held, in bytes.
    """

    folder: Path
    seed: int
    rows: tuple[Row, ...]
    hits: Mapping[str, Array]
    scales: Sequence[float]
    curves: Mapping[str, Sequence[float]]
    geometry: Sequence[Geometry]
    recipes: Mapping[str, Recipe]
    tasks: Tasks
    seconds: float
    peak_rss: int

    def __repr__(self) -> str:
        return f"DemoResult(best={self.best.name!r}, mean={self.best.mean:.3f}, report={str(self.report)!r})"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    @property
    def best(self) -> Row:
        """The merge that does best on the validation images; test accuracy has no part in the choice."""
        return self.of("merge")[0]

    def of(self, kind: Kind) -> list[Row]:
        """The rows of one kind."""
        return [row for row in self.rows if row.kind == kind]

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    def as_json(self) -> dict[str, Any]:
        """What results.json holds: everything but the recipes and the data."""
        return {
            "seed": self.seed,
            "best": self.best.name,
            "rows": [row.as_json() for row in self.rows],
            "scales": list(self.scales),
            "validation": {name: list(values) for name, values in self.curves.items()},
            "layers": {
                entry.layer: {"cosine": entry.cosine.tolist(), "conflict": entry.conflict.tolist()}
                for entry in self.geometry
            },
            "seconds": round(self.seconds, 2),
            "peak_rss_bytes": self.peak_rss,
        }
