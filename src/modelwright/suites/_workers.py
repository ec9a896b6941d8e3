"""Families trained and cells made by several processes, each of which has its share of the cores.

Processes and not threads: of what training small networks takes, Python's part is so large that two threads do the work of 1.1.
"""

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
from modelwright.errors import RunError
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


def in_processes(work: Work, begin: Callable[[int], Sequence[Cell]], told: Callable[[Cell], None]) -> None:
    """Train the families of all seeds, and make their cells as soon as they are trained.

    A process that dies over a cell, for want of memory or by a fault, leaves a failed cell and nothing worse.

    Args:
        work: The sweep.
        begin: Given a seed whose family is trained: its cells that are to be made.
        told: Told of cells that are finished, and of those that are running after each trial.

    Raises:
        RunError: A process died over a training.
        Exception: What a process met outside the making of a cell, such as data that are gone.
    """
    seeds, cells = deque(range(work.settings.seeds)), deque[Cell]()
    count = work.settings.workers
    workers = [_Worker(work, count) for _ in range(count)]
    try:
        while True:
            for worker in workers:
                if worker.idle and (seeds or cells):  # trainings first: they take longest
                    worker.give(seeds.popleft() if seeds else cells.popleft())
            busy = {worker.pipe: worker for worker in workers if not worker.idle}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                found = worker.take()
                if found is None:
                    workers[workers.index(worker)] = _Worker(work, count)
                    found = worker.lost()
                    Cells(work.folder).finish(found)
                if isinstance(found, Cell):
                    told(found)
                else:
                    cells.extend(begin(found))
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that does one thing after another: trains the family of a seed, or makes a cell."""

    def __init__(self, work: Work, count: int):
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may wait for a lock for ever
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, count, other), daemon=True)
        self._process.start()
        other.close()
        self._at: int | Cell | None = None

    @property
    def idle(self) -> bool:
        """Whether it waits for something to do."""
        return self._at is None

    def give(self, job: int | Cell) -> None:
        """Have it train the family of a seed, or make a cell."""
        self._at = job
        self.pipe.send(job if isinstance(job, int) else (job.seed, job.label))

    def take(self) -> int | Cell | None:
        """The seed that is trained, or what it says of its cell; None where it has died."""
        try:
            found: Any = self.pipe.recv()
        except (EOFError, OSError):
            return None
        if isinstance(found, Exception):
            raise found
        if isinstance(found, int) or found.status != "running":
            self._at = None
        return found

    def lost(self) -> Cell:
        """The cell that it died over.

        Raises:
            RunError: It died over a training.
        """
        self._process.join()
        code = self._process.exitcode
        why = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        if not isinstance(self._at, Cell):
            raise RunError(f"the process that trained the family of seed {self._at} {why}; is there enough memory?")
        return replace(self._at, status="failed", reason=f"the process that made it {why}; is there enough memory?")

    def end(self) -> None:
        """End it, whatever it is at."""
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _serve(work: Work, count: int, pipe: Connection) -> None:
    """What a process does: train and make what it is told to, until nobody tells it any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that began it decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _share_cores(count)
    bench = work.benches()
    while True:
        try:
            job: int | tuple[int, str] = pipe.recv()
        except EOFError:
            return
        try:
            if isinstance(job, int):
                work.settings.family(work.suite, job)
                pipe.send(job)
                continue
            own = bench(job[0])
            pipe.send(own.make(own.rows[job[1]], pipe.send))
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
