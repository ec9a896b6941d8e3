"""The kinds of tasks that a task file can name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError
from modelwright.evaluate._metrics import metric
from modelwright.evaluate._task import Classification, Regression, Task
from modelwright.evaluate.sources import _language
from modelwright.evaluate.sources._data import data_of
from modelwright.evaluate.sources._rows import Rows, class_names, divide, indices, rows_of
from modelwright.evaluate.sources._settings import DataSettings, Settings


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
        settings: Which keys its task files have: a strict pydantic model.
        build: The task, or several, from those and the folder that relative paths start from.
    """

    settings: type[Settings]
    build: Callable[[Any, Path], Task | list[Task]]


def _classification(settings: DataSettings, folder: Path) -> Task:
    data = data_of(settings.data, folder, settings.columns.split)
    rows = rows_of(data, settings)
    names = class_names(rows, data, settings)
    if len(names) < 2:
        raise InputError(f"a classification needs two classes, got {len(names)}", where=_label(rows))
    targets = {name: indices(part, names) for name, part in rows.items()}
    splits = divide(rows, targets, data, settings, classes=names)
    return Classification(
        name=settings.name or "data", splits=splits, metric=metric(settings.metric or "accuracy"), names=names
    )


def _regression(settings: DataSettings, folder: Path) -> Task:
    if settings.classes is not None:
        raise InputError("a regression has no classes", "Leave classes out, or say kind: classification.")
    data = data_of(settings.data, folder, settings.columns.split)
    rows = rows_of(data, settings)
    for part in rows.values():
        if not isinstance(part.targets, np.ndarray) or part.targets.dtype.kind not in "iuf":
            raise InputError(
                "targets must be numbers, got texts", "For names say kind: classification.", part.table.label
            )
    targets = {name: part.targets.astype(np.float64) for name, part in rows.items()}
    splits = divide(rows, targets, data, settings, classes=())
    return Regression(name=settings.name or "data", splits=splits, metric=metric(settings.metric or "squared_error"))


def _label(rows: dict[str, Rows]) -> str:
    return next(iter(rows.values())).table.label


#: What stands after `kind:` -> what is made of the rest.
KINDS: dict[str, Kind] = {
    "classification": Kind(DataSettings, _classification),
    "regression": Kind(DataSettings, _regression),
    "perplexity": Kind(_language.PerplexitySettings, _language.perplexity),
    "choice": Kind(_language.ChoiceSettings, _language.choice),
    "generation": Kind(_language.GenerationSettings, _language.generation),
    "lm-eval": Kind(_language.HarnessSettings, _language.harness),
}
