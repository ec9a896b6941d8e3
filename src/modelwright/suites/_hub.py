"""Models and data sets that others published: from the Hub, or from a folder that holds them under their ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.checkpoint import Checkpoint, open as open_checkpoint
from modelwright.errors import InputError, listing
from modelwright.evaluate import Items
from modelwright.evaluate._items import Source
from modelwright.evaluate._predictor import needs
from modelwright.recipe import SIDE_SUFFIXES
from modelwright.suites._packs import stratified
from modelwright.suites._schema import Held, HubTask

_MEND = "Download it where the Hub can be reached, and say root: FOLDER in a suite file that extends this one."


def published_model(name: str, root: str | None) -> Checkpoint:
    """A model by its id.

    Raises:
        InputError: It is not under `root`, or cannot be had from the Hub.
    """
    if root is None:
        try:
            return open_checkpoint(name)
        except InputError as error:
            raise InputError(f"cannot open the published model '{name}': {error}", _MEND) from error
    folder = Path(root).expanduser() / name
    if not folder.is_dir():
        raise InputError(f"there is no model '{name}' under root", "It is looked for as root/owner/name.", str(folder))
    return open_checkpoint(folder, label=name)


def folder_of(model: Checkpoint) -> Path:
    """The local folder with a model's small files: configuration, tokenizer, preprocessing.

    Raises:
        InputError: It has none.
    """
    if model.path is None or not model.path.is_dir():
        raise InputError(f"'{model.label}' is not a folder of a model: its tokenizer and configuration are needed too")
    return model.path


def files_hash(folder: Path) -> str:
    """A hash of a model's small files: what its answers depend on beside its weights."""
    digest = xxhash.xxh3_128()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in SIDE_SUFFIXES):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def published_splits(
    task: HubTask,
    root: str | None,
    held: Held,
    columns: Sequence[str],
    items: Callable[[str, Mapping[str, Any], Any], Items],
) -> dict[str, Source]:
    """The splits of a data set, each read when it is asked for.

    `tune` and `validation` are held out from the published training data, and `test` is a split of its own, of which
    no item is in the others.

    Args:
        task: Which data set, and how its splits are called.
        root: Where it lies; None for the Hub.
        held: How many items.
        columns: Which columns are needed; the last one has the labels.
        items: Makes items of (the split's name there, columns, positions).
    """

    @cache
    def parts() -> list[Any]:
        """Positions of `tune` and `validation`."""
        labels = np.asarray(read_columns(task, task.train, root, columns[-1:])[columns[-1]])
        return stratified(_strata(labels), held.tune, held.validation)

    def of_train(which: int) -> Items:
        return items(task.train, read_columns(task, task.train, root, columns), parts()[which])

    def of_test() -> Items:
        found = read_columns(task, task.test, root, columns)
        labels = np.asarray(found[columns[-1]])
        (chosen,) = stratified(_strata(labels), held.test or len(labels))
        return items(task.test, found, chosen)

    return {"tune": partial(of_train, 0), "validation": partial(of_train, 1), "test": of_test}


def _strata(labels: Any) -> Any:
    """What to keep in proportion: classes, or numbers rounded to whole ones."""
    return labels if labels.dtype.kind in "iu" else np.rint(labels.astype(np.float64)).astype(np.int64)


def read_columns(task: HubTask, split: str, root: str | None, columns: Sequence[str]) -> dict[str, Any]:
    """Some columns of a split, from all of its parquet files.

    Raises:
        InputError: The data set or the split is not there, or lacks a column.
        MissingExtraError: pyarrow is not installed.
    """
    pq = needs("pyarrow.parquet", "a published data set")
    files = _files(task, split, root)
    known = pq.read_schema(files[0]).names
    missing = [name for name in columns if name not in known]
    if missing:
        raise InputError(
            f"the data set '{task.data}' has no column '{missing[0]}'", f"It has {listing(known)}.", str(files[0])
        )
    tables = [pq.read_table(path, columns=list(columns), partitioning=None) for path in files]
    return {name: [value for table in tables for value in table[name].to_pylist()] for name in columns}


def _files(task: HubTask, split: str, root: str | None) -> list[Path]:
    folder = Path(root).expanduser() / task.data if root is not None else _downloaded(task, split)
    inside = folder / task.config if task.config and (folder / task.config).is_dir() else folder
    files = [
        path for path in inside.rglob("*.parquet") if path.name.startswith(f"{split}-") or path.parent.name == split
    ]
    if not files:
        raise InputError(
            f"there are no parquet files of the split '{split}' of the data set '{task.data}'",
            "They are looked for as SPLIT-*.parquet and SPLIT/*.parquet.",
            str(inside),
        )
    return sorted(files)


def _downloaded(task: HubTask, split: str) -> Path:
    """The local copy of a data set's files of one split."""
    hub = needs("huggingface_hub", "a published data set", "all")
    start = f"{task.config}/*" if task.config else "*"
    try:
        found = hub.snapshot_download(
            task.data, repo_type="dataset", allow_patterns=[f"{start}{split}-*.parquet", f"{start}{split}/*.parquet"]
        )
    except Exception as error:  # its own errors, those of the HTTP library, and of the network below
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"cannot fetch the data set '{task.data}' from the Hub: {reason}", _MEND) from error
    return Path(found)
