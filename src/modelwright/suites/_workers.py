"""Cells made by several processes, each of which has its share of the cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from modelwright.api import registry
from modelwright.evaluate._predictor import needs
from modelwright.suites._bench import Bench
from modelwright.suites._cells import Cell, Cells
from modelwright.suites._settings import Settings, Trainable


@dataclass(frozen=True)
class Work:
    """What a sweep is, for a process that makes some of its cells.

    Attributes:
        suite: Trains the families, or finds them in the cache.
        settings: With what the suite decides.
        plugins: Python files with further methods.
        wanted: Names of the methods.
        folder: Of the sweep.
    """

    suite: Trainable
    settings: Settings
    plugins: tuple[str | Path, ...]
    wanted: tuple[str, ...]
    folder: Path

    @cached_property
    def said(self) -> str:
        """A hash of what the suite says."""
        return self.suite.fingerprint(self.settings.training)

    def benches(self) -> Callable[[int], Bench]:
        """The bench of a seed; the last one is kept, for cells come seed by seed."""
        known, cells = registry(self.plugins), Cells(self.folder)
        kept: dict[int, Bench] = {}

        def bench(seed: int) -> Bench:
            if seed not in kept:
                kept.clear()
                family = self.settings.family(self.suite, seed)
                kept[seed] = Bench(family, known, self.settings, cells, self.said, self.wanted)
            return kept[seed]

        return bench


def in_processes(work: Work, blank: Sequence[Cell], told: Callable[[Cell], None]) -> None:
    """Make cells. A process that dies over one, for want of memory or by a fault, leaves a failed cell and nothing worse.

    Args:
        work: The sweep.
        blank: The cells to make.
        told: Told of cells that are finished, and of those that are running after each trial.

    Raises:
        Exception: What a process met outside the making of a cell, such as data that are gone.
    """
    waiting = deque(blank)
    count = min(work.settings.workers, len(waiting))
    workers = [_Worker(work, count) for _ in range(count)]
    try:
        while True:
            for worker in workers:
                if worker.cell is None and waiting:
                    worker.give(waiting.popleft())
            busy = {worker.pipe: worker for worker in workers if worker.cell is not None}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                cell = worker.take()
                if cell is None:
                    workers[workers.index(worker)] = _Worker(work, count)
                    cell = worker.lost()
                    Cells(work.folder).finish(cell)
                told(cell)
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that makes one cell after another."""

    def __init__(self, work: Work, count: int):
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may wait for a lock for ever
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, count, other), daemon=True)
        self._process.start()
        other.close()
        self.cell: Cell | None = None

    def give(self, cell: Cell) -> None:
        """Have it make a cell."""
        self.cell = cell
        self.pipe.send((cell.seed, cell.label))

    def take(self) -> Cell | None:
        """What it says of its cell; None where it has died."""
        try:
            found: Any = self.pipe.recv()
        except (EOFError, OSError):
            return None
        if isinstance(found, Exception):
            raise found
        if found.status != "running":
            self.cell = None
        return found

    def lost(self) -> Cell:
        """The cell that it died over."""
        assert self.cell is not None
        self._process.join()
        code = self._process.exitcode
        why = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return replace(self.cell, status="failed", reason=f"the process that made it {why}; is there enough memory?")

    def end(self) -> None:
        """End it, whatever it is at."""
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _serve(work: Work, count: int, pipe: Connection) -> None:
    """What a process does: make the cells that it is told to, until nobody tells it any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that began it decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _share_cores(count)
    bench = work.benches()
    while True:
        try:
            seed, label = pipe.recv()
        except EOFError:
            return
        try:
            own = bench(seed)
            pipe.send(own.make(own.rows[label], pipe.send))
        except Exception as error:
            pipe.send(error)


def _end_with_parent() -> None:
    """A process whose parent was killed would go on writing beside the next sweep."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _share_cores(count: int) -> None:
    """Several processes with as many threads as there are cores would stand in each other's way."""
    threads = max(1, (os.cpu_count() or 1) // count)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # what torch reads when it is imported
    needs("threadpoolctl", "several workers").threadpool_limits(threads)
