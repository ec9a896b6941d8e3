"""Threads that run programs: generators that yield batches of tasks and go on when all of a batch are done.

A program tells one story from top to bottom (read statistics, decide, merge); its tasks run on any thread. Tasks of
earlier programs go first, and a program is opened only when threads would idle, so that few tensors are in work at once.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from modelwright.checkpoint import NumpyArray, keep_open

Task = Callable[[], Any]
#: Yields tasks, is sent their results in order, returns anything.
Program = Generator[Sequence[Task], list[Any], Any]

#: Called now and then by the thread that waits.
Tick = Callable[[], None]


class Tally:
    """A sum of whole numbers that tasks add to. Each thread has a part of its own, and every task returns its thread's.

    So the parts come back from other processes too, where a copy of this is pickled with the tasks.
    """

    def __init__(self) -> None:
        self._own = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return Tally, ()

    def part(self, like: Callable[[], NumpyArray]) -> NumpyArray:
        """This thread's part; zeros like what is given at first."""
        if not hasattr(self._own, "part"):
            self._own.part = np.zeros_like(like())
        return self._own.part

    @staticmethod
    def total(parts: Iterable[NumpyArray]) -> NumpyArray:
        """The sum of what tasks returned, in which each part stands as often as its thread had a task."""
        first, *others = {id(part): part for part in parts}.values()
        total = first.copy()
        for other in others:
            total += other
        return total


def run_here(program: Program) -> Any:
    """Run a program in this thread; what it returns."""
    try:
        batch = next(program)
        while True:
            batch = program.send([task() for task in batch])
    except StopIteration as end:
        return end.value


def run_programs(programs: Iterable[Program], workers: int, tick: Tick) -> None:
    """Run programs to their end on threads. The first error stops them all and is raised here."""
    pool = _Pool(iter(programs))
    threads = [threading.Thread(target=pool.work, name=f"merge-{i}", daemon=True) for i in range(workers)]
    begun: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            begun.append(thread)
        while not pool.over.wait(0.1):  # a wait without end would not let Ctrl-C through on every platform
            tick()
    finally:
        pool.stop()
        for thread in begun:  # nobody may take the folder away from a task that runs
            _joined(thread)
        pool.close()
    if pool.error is not None:
        raise pool.error
    tick()


def _joined(thread: threading.Thread) -> None:
    """Wait for a thread, also through further Ctrl-Cs, of which the last is raised at the end."""
    again: KeyboardInterrupt | None = None
    while thread.is_alive():
        try:
            thread.join(0.1)
        except KeyboardInterrupt as error:
            again = error
    if again is not None:
        raise again


class _Batch:
    """The tasks that a program waits for."""

    def __init__(self, program: Program, number: int, size: int):
        self.program, self.number = program, number
        self.results: list[Any] = [None] * size
        self.left = size


class _Pool:
    def __init__(self, programs: Iterator[Program]):
        self.over = threading.Event()
        self.error: BaseException | None = None
        self._programs = programs
        self._ready: list[tuple[int, int, _Batch, Task]] = []  # a heap: the earliest program's next task first
        self._live: dict[int, Program] = {}
        self._opened = 0
        self._exhausted = False
        self._changed = threading.Condition()

    def work(self) -> None:
        """What each thread does."""
        try:
            with keep_open():
                while (item := self._next()) is not None:
                    number, place, batch, task = item
                    batch.results[place] = task()
                    with self._changed:
                        batch.left -= 1
                        complete = batch.left == 0
                    if complete:
                        self._advance(batch.program, number, batch.results)
        except BaseException as error:
            with self._changed:
                self.error = self.error or error
            self.stop()

    def stop(self) -> None:
        """Let every thread end after its task."""
        with self._changed:
            self.over.set()
            self._changed.notify_all()

    def close(self) -> None:
        """End programs that did not come to their end."""
        for program in self._live.values():
            program.close()

    def _next(self) -> tuple[int, int, _Batch, Task] | None:
        while True:
            with self._changed:
                while not self.over.is_set() and not self._ready and self._exhausted:
                    if not self._live:
                        self.over.set()
                        self._changed.notify_all()
                        break
                    self._changed.wait()
                if self.over.is_set():
                    return None
                if self._ready:
                    return heapq.heappop(self._ready)
                program = next(self._programs, None)
                if program is None:
                    self._exhausted = True
                    self._changed.notify_all()
                    continue
                number = self._opened
                self._opened += 1
                self._live[number] = program
            self._advance(program, number, None)

    def _advance(self, program: Program, number: int, results: list[Any] | None) -> None:
        """Run a program to its next batch that has tasks, or to its end."""
        try:
            batch = next(program) if results is None else program.send(results)
            while not batch:
                batch = program.send([])
        except StopIteration:
            with self._changed:
                del self._live[number]
                self._changed.notify_all()
            return
        waiting = _Batch(program, number, len(batch))
        with self._changed:
            for place, task in enumerate(batch):
                heapq.heappush(self._ready, (number, place, waiting, task))
            self._changed.notify_all()
