"""Merging on a Ray cluster: the same programs, dealt to tasks on any of its machines.

The driver plans, locks, journals and renames as ever. A task opens the inputs itself, writes its tensors at their places in
the reserved files, and returns what the journal has to know; so a merge begun here can be gone on with by threads, and the
other way round. A task that is run twice, because its worker died, writes the same bytes to the same places.
"""

from __future__ import annotations

import io
import os
import pickle
import platform
import re
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelwright.checkpoint import Checkpoint, Shard
from modelwright.engine._folder import MARKER
from modelwright.engine._journal import Journal, RangeDone
from modelwright.engine._merge import Merge
from modelwright.engine._output import Output, WeightFiles
from modelwright.engine._sources import ranges
from modelwright.engine._work import Program, Task, Tick, run_programs
from modelwright.errors import InputError, MissingExtraError, RunError

#: How often a task is tried again after its worker has died.
_RETRIES = 3
#: Tasks for each place where one can run, so that all are busy to the end.
_EACH = 4
#: Bytes that one task reads at most, if it has more than one tensor: what is lost with a worker.
_MOST = 256 << 20
#: Seconds without any cancelled task having ended by itself, after which they are killed.
_PATIENCE = 10


def ray_package() -> Any:
    """ray, imported only here.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("--engine ray", "ray", "ray") from None
    return ray


def check_models(models: Iterable[Checkpoint]) -> None:
    """Refuse models that workers cannot read, and a library that is not there.

    Raises:
        InputError: A model is in memory, or ray is not installed.
    """
    ray_package()
    for model in models:
        if model.path is None:
            raise InputError(
                f"{model.label} is in memory, where Ray's workers cannot read it",
                "Save it as a folder first, or leave --engine ray (engine='ray') out.",
            )


@contextmanager
def cluster(address: str | None, threads: int, device: str) -> Generator[Cluster]:
    """A connection to Ray: the one that this process has, one to a running cluster, or to an own one for as long.

    Args:
        address: Of the cluster, `auto` for the one on this machine; None for `$RAY_ADDRESS`, or an own one.
        threads: Threads of each task; 0 for one.
        device: Where array functions compute.

    Raises:
        InputError: There is no such cluster, or none of its nodes has what a task needs.
    """
    ray = ray_package()
    if ray.is_initialized():
        yield Cluster(ray, threads or 1, device)
        return
    _connect(ray, address)
    try:
        yield Cluster(ray, threads or 1, device)
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS")
    handler = signal.getsignal(signal.SIGTERM)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start does not call home
    try:
        if address and (place := re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address)):
            socket.create_connection((place[1], int(place[2])), timeout=10).close()  # ray itself tries for minutes
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise InputError(
            f"no Ray cluster at '{address or 'local'}' ({_reason(error)})",
            "Start one with ray start --head, or leave --address (address=) out for one of this merge's own.",
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # ray puts in its own


def _reason(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# --- in the driver -------------------------------------------------------------------------------------------------


class Cluster:
    """Where tasks run.

    Args:
        ray: The package, connected.
        threads: Threads of each task, and CPUs that it asks for.
        device: Where array functions compute; one GPU is asked for if that is one.

    Raises:
        InputError: No node has what a task needs.
    """

    def __init__(self, ray: Any, threads: int, device: str):
        self._ray, self._threads = ray, threads
        kind, _, number = device.partition(":")
        gpus = int(kind in ("cuda", "xpu"))
        if gpus and number not in ("", "0"):
            raise InputError(f"--device {device} with --engine ray: a task sees one GPU, its own", f"Write {kind}.")
        self._needs = {"CPU": threads} | ({"GPU": 1} if gpus else {})
        self._places = sum(self._room(node["Resources"]) for node in ray.nodes() if node["Alive"])
        if not self._places:
            needs = " and ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in self._needs.items())
            raise InputError(
                f"no node of the Ray cluster has the {needs} that a task needs", "Lower --threads, or add such a node."
            )

        as_task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=_RETRIES)
        self._remote: dict[Any, Any] = {function: as_task(function) for function in (_survey, _write)}

    def _room(self, resources: Mapping[str, float]) -> int:
        return min(int(resources.get(name, 0) // count) for name, count in self._needs.items())

    def survey(self, merge: Merge, output: Output, program: Program, tick: Tick) -> None:
        """Run a program of `Merge.survey`."""
        files = _files(output)
        shared = self._shared(merge, files)
        try:
            batch = next(program)
            while True:
                batch = program.send(self._mapped(merge, files, shared, batch, tick))
        except StopIteration:
            return

    def _mapped(self, merge: Merge, files: WeightFiles, shared: Any, batch: Sequence[Task], tick: Tick) -> list[Any]:
        """The results of a batch, in order."""
        groups = _dealt(batch, _EACH * self._places)
        found: list[list[Any]] = [[] for _ in groups]

        def take(place: int, result: tuple[list[Any], int]) -> None:
            found[place], read = result
            merge.findings.bytes_done += read

        calls = [(shared, _pickled(self._ray, group, merge)) for group in groups]
        self._run(files.folder / MARKER, _survey, calls, take, tick)
        return [result for group in found for result in group]

    def write(
        self, merge: Merge, output: Output, journal: Journal | None, skip: Mapping[int, Collection[int]], tick: Tick
    ) -> None:
        """Merge every tensor that is not skipped; see `Merge.programs`."""
        files = _files(output)
        shared = self._shared(merge, files)
        tensors = merge.plan.tensors

        def take(_place: int, wrote: _Wrote) -> None:
            merge.findings.odd |= wrote.odd
            for index, number, done in wrote.ranges:
                merge.note(index, tensors[index], journal, number, done)
            files.take(wrote.chunks)
            for index, number, _ in wrote.ranges:  # what is left are chunks that tasks share
                start, stop = ranges(tensors[index].size)[number]
                size = tensors[index].dtype.itemsize
                files.done(tensors[index].name, start * size, stop * size)

        groups = _grouped(merge, skip, self._places * _EACH)
        calls = [(shared, some, {i: skip[i] for i in some if i in skip}) for some in groups]
        self._run(files.folder / MARKER, _write, calls, take, tick)

    def _shared(self, merge: Merge, files: WeightFiles) -> Any:
        """What all tasks need, in the object store."""
        module = sys.modules.get(getattr(merge.plan.method.function, "__module__", ""))
        if module is not None and module.__name__.startswith("modelwright_plugin_"):
            self._ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import a plugin by its name
        folder, number = files.folder.absolute(), uuid.uuid4().hex
        (folder / MARKER).write_text(number, encoding="utf-8")
        context = _Context(merge, self._threads, Path.cwd(), folder, files.shards, number)
        # as bytes, because arrays in the store are read-only, and kernels would be compiled for such ones anew
        return self._ray.put(_pickled(self._ray, context))

    def _run(
        self,
        marker: Path,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        take: Callable[[int, Any], None],
        tick: Tick,
    ) -> None:
        """Call a function in tasks and take its results as they come; at the first error cancel what is left."""
        ray = self._ray
        waiting: dict[Any, int] = {}
        try:
            for place, arguments in enumerate(calls):
                waiting[self._remote[function].remote(*arguments)] = place
            while waiting:
                for ref in ray.wait(list(waiting), timeout=0.1)[0]:
                    result = ray.get(ref)
                    take(waiting.pop(ref), result)
                tick()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            what = f"Ray gave up a task, after {_RETRIES} retries: {_reason(error)}."
            raise RunError(what, resumable=True) from error
        finally:
            self._cancel(marker, list(waiting))

    def _cancel(self, marker: Path, refs: list[Any]) -> None:
        """End tasks, and wait for it: none may write any more when the folder is given up.

        They are asked to, by the marker: `ray.cancel` on a task that is just being sent to a worker brings this process down
        (Ray 2.60: "Tried to complete task that was not pending").
        """
        if refs:
            marker.write_text("", encoding="utf-8")
        killed = False
        while refs:
            ended, refs = self._ray.wait(refs, timeout=_PATIENCE)
            if not ended and killed:
                return
            if not ended:
                killed = True
                for ref in refs:
                    self._ray.cancel(ref, force=True)


def _files(output: Output) -> WeightFiles:
    assert isinstance(output, WeightFiles), "tasks write into a folder that all machines see"
    return output


def _dealt(batch: Sequence[Task], number: int) -> list[Sequence[Task]]:
    """A batch in about so many groups of neighbours."""
    step = max(-(-len(batch) // number), 1)
    return [batch[at : at + step] for at in range(0, len(batch), step)]


def _grouped(merge: Merge, skip: Mapping[int, Collection[int]], number: int) -> list[range]:
    """The tensors in groups of neighbours that read about as much, so that most chunks of a file are of one group."""
    work: list[float] = []
    for index, tensor in enumerate(merge.plan.tensors):
        count = len(ranges(tensor.size))
        work.append(merge.nbytes([tensor]) * (count - len(skip.get(index, ()))) / max(count, 1))
    most = min(sum(work) / number, _MOST)
    groups: list[range] = []
    start, held = 0, 0.0
    for index, size in enumerate(work):
        if held and held + size > most:
            groups.append(range(start, index))
            start, held = index, 0.0
        held += size
    return [*groups, range(start, len(work))]


# --- in the workers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Context:
    """What all tasks share.

    Attributes:
        merge: The plan, and what is known of the whole model.
        threads: Threads of a task.
        at: The driver's working directory, which paths may be relative to.
        folder: The partial folder.
        shards: Its weight files.
        number: What its marker says as long as tasks are to go on; another one when the folder is another run's.
    """

    merge: Merge
    threads: int
    at: Path
    folder: Path
    shards: Mapping[str, Sequence[Shard]]
    number: str

    def run(self, programs: Iterable[Program]) -> None:
        """Run programs in the driver's working directory; one that other nodes lack is not needed.

        Raises:
            RunError: The folder is not here, or the driver has no use for them any more.
        """
        self._check()
        with chdir(self.at) if self.at.is_dir() else nullcontext(), self.merge.explained():
            run_programs(programs, self.threads, self._check)

    def _check(self) -> None:
        try:
            number = (self.folder / MARKER).read_text(encoding="utf-8")
        except FileNotFoundError:
            what = f"'{self.folder}' is not there on the node {platform.node()}: all nodes need inputs and output at the same"
            raise RunError(f"{what} paths, on a shared file system.", resumable=True) from None
        if number != self.number:
            raise RunError(f"'{self.folder}' is another run's, or was given up.", resumable=True)


@dataclass
class _Wrote:
    """What a task has written: the journal of a worker, which the driver copies into the real one."""

    ranges: list[tuple[int, int, RangeDone]] = field(default_factory=list[tuple[int, int, RangeDone]])
    chunks: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    odd: dict[str, int] = field(default_factory=dict[str, int])

    def range(self, tensor: int, number: int, done: RangeDone) -> None:
        """Note a range that was written."""
        self.ranges.append((tensor, number, done))

    def chunk(self, file: int, number: int, digest: str) -> None:
        """Note a chunk that this task has written from end to end."""
        self.chunks[file, number] = digest


def _survey(shared: bytes, raw: bytes) -> tuple[list[Any], int]:
    """Run tasks of a batch: their results, and bytes read for them."""
    context: _Context = pickle.loads(shared)
    results: list[Any] = []

    def program() -> Program:
        results.extend((yield _Unpickler(raw, context.merge).load()))

    context.run([program()])
    return results, context.merge.findings.bytes_done


def _write(shared: bytes, some: range, skip: Mapping[int, set[int]]) -> _Wrote:
    """Merge some tensors into their places."""
    context: _Context = pickle.loads(shared)
    merge, wrote = context.merge, _Wrote()
    files = WeightFiles(context.folder, context.shards, wrote)
    context.run(merge.programs(files, wrote, skip, some))
    wrote.odd = merge.findings.odd
    files.flush(merge.plan.tensors[index].name for index, _, _ in wrote.ranges)  # the driver may be another machine
    return wrote


def _pickled(ray: Any, value: Any, merge: Merge | None = None) -> bytes:
    """Anything as bytes; a merge that it refers to, and that workers have already, is left out."""

    class Pickler(ray.cloudpickle.CloudPickler):
        def persistent_id(self, obj: Any) -> str | None:
            return "merge" if merge is not None and obj is merge else None

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


class _Unpickler(pickle.Unpickler):
    def __init__(self, raw: bytes, merge: Merge):
        super().__init__(io.BytesIO(raw))
        self._merge = merge

    def persistent_load(self, pid: str) -> Merge:
        return self._merge
