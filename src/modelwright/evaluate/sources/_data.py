"""What `data:` may be: a file, a folder, a function, or an object in Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate._items import SPLITS, Items
from modelwright.evaluate._named import called, is_named
from modelwright.evaluate.sources._table import Data, Table, is_dataset, of_dataset, open_data


def data_of(value: Any, folder: Path, split: str | None) -> Data:
    """Data from whatever names or holds them.

    Raises:
        InputError: It is none of the known.
    """
    if isinstance(value, str | Path):
        text = str(value)
        if is_named(text, folder):
            return data_of(_not_a_name(called(text, folder), text), folder, split)
        return open_data(text, folder, split)
    if isinstance(value, Data):
        return value
    if is_dataset(value):
        return of_dataset(value, "the data set", split)
    if isinstance(value, Mapping):
        wrong = [str(name) for name in value if name not in SPLITS]
        if wrong:
            raise InputError(f"no split is called '{wrong[0]}'", did_you_mean(wrong[0], SPLITS))
        return Data({str(name): _table(part, f"the split '{name}'") for name, part in value.items()})
    return Data({"": _table(value, "the data")})


def _not_a_name(value: Any, text: str) -> Any:
    if isinstance(value, str | Path):
        raise InputError(f"'{text}' gave a text, not data", "Name the file itself.")
    return value


def _table(value: Any, label: str) -> Table:
    """Items, or (inputs, targets)."""
    if isinstance(value, Items):
        columns = {"inputs": value.inputs, "target": value.targets, "id": list(value.ids), **value.slices}
        return Table(columns, label)
    if isinstance(value, tuple) and len(value) == 2:
        inputs, targets = (part if isinstance(part, np.ndarray) else list(part) for part in value)
        if isinstance(targets, list) and targets and not isinstance(targets[0], str):
            targets = np.asarray(targets)
        return Table({"inputs": inputs, "target": targets}, label)
    raise InputError(
        f"a {type(value).__name__} is no data for a task",
        "Give a file, a folder, Items, (inputs, targets), or one of these for each of tune, validation and test.",
    )
