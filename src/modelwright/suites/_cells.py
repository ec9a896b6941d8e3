"""What a sweep has finished, on disk: a cell is one system of one seed, and is made once."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from modelwright.errors import InputError
from modelwright.evaluate._records import SUFFIX, file_name
from modelwright.suites._search import Trial

#: Of the layout of the files.
VERSION = 1
Group = Literal["reference", "data-free", "data-driven", "ensemble"]
Status = Literal["running", "done", "failed", "skipped"]


@dataclass(frozen=True)
class Cell:
    """One system of one seed.

    Attributes:
        label: The system's label.
        seed: The family's seed.
        group: Which part of the table it stands in.
        key: A hash of all that it depends on.
        family: The family's fingerprint.
        said: A hash of what the suite's file says.
        status: `skipped` where the method cannot merge such a family.
        reason: Why it failed or was skipped.
        parameters: What was chosen.
        trials: What was tried, in order.
        merge_seconds: Time to merge once, with the chosen parameters.
        peak_bytes: Most memory that merging took beyond its inputs, the result included.
        train_seconds: Time to train what was trained.
        expert_of: The task that an expert was tuned for.
        seconds: Time for all of it.
    """

    label: str
    seed: int
    group: Group
    key: str = ""
    family: str = ""
    said: str = ""
    status: Status = "done"
    reason: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    merge_seconds: float | None = None
    peak_bytes: int | None = None
    train_seconds: float | None = None
    expert_of: str = ""
    seconds: float = 0.0


class Cells:
    """The cells in a folder, one file each, with the trials of the one that is being made.

    Args:
        folder: The sweep's folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __iter__(self) -> Iterator[Cell]:
        for path in sorted(self.folder.glob("cells/seed-*/*.json")):
            yield _read(path)

    def records(self, seed: int) -> Path:
        """Where the records of a seed lie."""
        return self.folder / "records" / f"seed-{seed}"

    def done(self, seed: int, label: str, key: str) -> Cell | None:
        """The finished cell, if there is one of this key."""
        path = self._path(seed, label)
        found = _read(path) if path.is_file() else None
        return found if found is not None and found.key == key and found.status != "failed" else None

    def begin(self, seed: int, label: str, key: str) -> list[Trial]:
        """Clear away what another key has left, and give the trials of this one that came to something."""
        journal = self._journal(seed, label)
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
        if not lines or _line(lines[0]) != {"version": VERSION, "key": key}:
            self.discard(seed, label)
            journal.parent.mkdir(parents=True, exist_ok=True)
            write_text(journal, json.dumps({"version": VERSION, "key": key}) + "\n")
            return []
        found = [_line(line) for line in lines[1:]]  # a line that a kill has cut short is None
        trials = [Trial(**values) for values in found if values is not None]
        # What was wrong with those that failed may have been mended since: they are forgotten, and tried again.
        known = [trial for trial in trials if trial.judged]
        if len(known) < len(found):
            write_text(journal, "".join(f"{text}\n" for text in (lines[0], *(as_json(asdict(t)) for t in known))))
        return known

    def keep(self, seed: int, label: str, trial: Trial) -> None:
        """Note a trial, so that a killed sweep does not repeat it."""
        with self._journal(seed, label).open("a", encoding="utf-8") as file:
            file.write(as_json(asdict(trial)) + "\n")

    def finish(self, cell: Cell) -> None:
        """Write a cell in one step."""
        path = self._path(cell.seed, cell.label)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, as_json({"version": VERSION, **asdict(cell)}, indent=1) + "\n")
        if cell.status != "failed":
            self._journal(cell.seed, cell.label).unlink(missing_ok=True)

    def discard(self, seed: int, label: str) -> None:
        """Remove a cell, first that which says it is finished, so that a kill in between does no harm."""
        self._path(seed, label).unlink(missing_ok=True)
        for records in self.records(seed).glob("*/"):
            path = records / f"{file_name(label)}.test{SUFFIX}"
            path.unlink(missing_ok=True)
            shutil.rmtree(records / f".{path.name}.parts", ignore_errors=True)
        self._journal(seed, label).unlink(missing_ok=True)

    def discard_others(self, seed: int, family: str) -> None:
        """Remove the cells of a seed that were made of another family."""
        for cell in [cell for cell in self if cell.seed == seed and cell.family != family]:
            self.discard(seed, cell.label)

    def _path(self, seed: int, label: str) -> Path:
        return self.folder / "cells" / f"seed-{seed}" / f"{file_name(label)}.json"

    def _journal(self, seed: int, label: str) -> Path:
        return self._path(seed, label).with_suffix(".trials")


def key_of(**parts: Any) -> str:
    """A hash of plain values."""
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True, default=str).encode())


def as_json(value: Any, **layout: Any) -> str:
    """JSON that every reader takes: what is not finite is null."""
    return json.dumps(finite(value), allow_nan=False, **layout)


def finite(value: Any) -> Any:
    """Plain values with None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(name): finite(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return finite(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(path: Path) -> Cell:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.pop("version")
        if version != VERSION:
            raise InputError(f"this cell has layout {version}, and this version reads {VERSION}", where=str(path))
        return Cell(**data | {"trials": tuple(Trial(**trial) for trial in data["trials"])})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError("this is no cell of a sweep", "Delete the file; the cell is made again.", str(path)) from error


def _line(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: whole, or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
