"""Trained models, kept by what they depend on: the same settings, data and seed are trained once."""

from __future__ import annotations

import fcntl
import importlib
import inspect
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from modelwright.checkpoint import Checkpoint, cache_folder, open as open_checkpoint
from modelwright.errors import RunError
from modelwright.evaluate import Items
from modelwright.evaluate._items import content
from modelwright.tensors import Array
from modelwright.train import write_folder

#: Says how a model was trained; it is written with the rest, so a folder without it is no finished model.
RECORD = "training.jsonl"
_PACKAGES = ("modelwright", "numpy", "torch", "transformers", "tokenizers", "scikit-learn")


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        config: The network's configuration.
        tensors: Its weights.
        beside: Further text files of its folder.
        note: What else is worth keeping, such as the last loss; plain values.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Array]
    beside: Mapping[str, str] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """A trained model in the cache.

    Attributes:
        key: A hash of all that it depends on.
        folder: Where it lies.
        seconds: What its training took, when it was trained.
        trained: Whether that was now.
    """

    key: str
    folder: Path
    seconds: float
    trained: bool

    def open(self, label: str) -> Checkpoint:
        """The checkpoint."""
        return open_checkpoint(self.folder, label=label)


class Cache:
    """A folder of trained models.

    Args:
        root: Where; default `zoo` in `$MODELWRIGHT_CACHE`, or in `modelwright` in the user's cache folder.
    """

    def __init__(self, root: str | Path | None = None):
        self.root = Path(root).expanduser() if root is not None else cache_folder() / "zoo"

    def model(self, name: str, about: Mapping[str, Any], train: Callable[[], Trained]) -> Kept:
        """The model that depends on these things, trained if it is not there yet.

        Two processes that want one model at a time train it once: the second waits. A training that is killed leaves
        nothing behind.

        Args:
            name: What its folder's name starts with.
            about: All that it depends on, as plain values.
            train: Trains it.

        Raises:
            RunError: The folder cannot be written, or holds something else under this name.
        """
        key = key_of(about)
        folder = self.root / f"{name}-{key[:16]}"
        try:
            with self._alone(folder.name):
                trained = not (folder / RECORD).is_file()
                if trained:
                    self._train(folder, name, key, about, train)
        except OSError as error:
            raise RunError(f"cannot keep '{name}' in '{self.root}': {error}") from error
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["key"] != key:
            raise RunError(f"'{folder}' holds another model under this name; delete it, and it is trained again")
        return Kept(key, folder, float(record["seconds"]), trained)

    def _train(self, folder: Path, name: str, key: str, about: Mapping[str, Any], train: Callable[[], Trained]) -> None:
        for left in (*self.root.glob(f".{folder.name}.*.unfinished"), *([folder] if folder.is_dir() else [])):
            shutil.rmtree(left)  # of a process that was killed while it wrote
        start = time.perf_counter()
        result = train()
        record = {
            "name": name, "key": key, "about": about, "seconds": time.perf_counter() - start, "note": dict(result.note),
            "versions": {package: _version(package) for package in _PACKAGES},
        }  # fmt: skip
        beside = {**result.beside, RECORD: json.dumps(record, ensure_ascii=False) + "\n"}
        write_folder(folder, result.config, result.tensors, beside)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Holds the model's lock, which the system gives back when a process dies."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def key_of(about: Mapping[str, Any]) -> str:
    """A hash of plain values."""
    return xxhash.xxh3_128_hexdigest(json.dumps(about, sort_keys=True, ensure_ascii=False).encode())


def code_of(*modules: str) -> str:
    """A hash of the source of modules: a model that other code would have trained is another model."""
    return xxhash.xxh3_128_hexdigest("".join(inspect.getsource(importlib.import_module(m)) for m in modules).encode())


def data_of(*parts: Items | Array | Sequence[Any]) -> str:
    """A hash of data: of items their ids, inputs and targets."""
    digest = xxhash.xxh3_128()
    for part in parts:
        for values in (part.ids, part.inputs, part.targets) if isinstance(part, Items) else (part,):
            digest.update(content(values))
    return digest.hexdigest()


def side_by_side(
    jobs: Mapping[str, Callable[[], Kept]], *, before: Callable[[], None] = lambda: None, workers: int = 2
) -> dict[str, Kept]:
    """Run trainings that do not depend on each other, some at a time. What comes out does not depend on how many.

    When one fails, those that run are finished, and kept; the others are not begun.

    Args:
        jobs: By name.
        before: Called once in each thread.
        workers: How many at a time.
    """
    with ThreadPoolExecutor(workers, initializer=before) as pool:
        futures = {name: pool.submit(job) for name, job in jobs.items()}
        try:
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
