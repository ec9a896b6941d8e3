"""Run a plan: to a partial folder that becomes the output in one rename, and that a killed merge goes on with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Literal, Protocol

from modelwright.checkpoint import MANIFEST, Checkpoint, Shard, file_state, index_json, is_url, plain_path
from modelwright.engine._card import write_card
from modelwright.engine._device import torch_for
from modelwright.engine._folder import Destination, LocalFolder, Partial, check_disk, partial_folder, settled
from modelwright.engine._identity import changed_inputs, check_as_opened, identity
from modelwright.engine._journal import Journal
from modelwright.engine._manifest import (
    audited,
    check_audit,
    file_hashes,
    loss_notes,
    losses,
    manifest_json,
    manifest_of,
    rounding_notes,
    roundings,
)
from modelwright.engine._merge import WORTH, Findings, Merge
from modelwright.engine._output import Output, WeightFiles
from modelwright.engine._sources import ranges
from modelwright.engine._store import StoreFolder
from modelwright.engine._work import Program, Tick, run_programs
from modelwright.errors import InputError, RunError
from modelwright.recipe import Plan, check_result

#: (what is being done, bytes done, bytes in all)
Progress = Callable[[str, int, int], None]

SHARD_BYTES = 5_000_000_000
#: What a header says of a tensor beside its name, and the manifest says of it and the chunks that hold it.
_ENTRY = 200


@dataclass(frozen=True)
class Options:
    """How to run, none of which changes a byte of the output on a CPU.

    Attributes:
        threads: Threads that work; 0 for the number of cores.
        device: `cpu`, or where torch computes: `cuda`, `cuda:1`, `mps`, `xpu`.
        overwrite: Replace an existing output.
        restart: Discard what a killed merge left, instead of going on with it.
        shard_bytes: Most bytes of data per weight file.
        staging: Where an output behind a URL is made before it is uploaded, in a folder of its own; default a folder in
            `$MODELWRIGHT_CACHE`, or in the user's cache.
        allow_nonfinite: Let NaN and infinity in the inputs pass, and say where they are.
        hash: `xxh3` for the chunks of files; `blake3` writes that of whole files into the manifest as well, for audits.
        kernels: `auto` takes the fused kernels for all but small merges; `always`; `never`.
        progress: Called as bytes are done.
        engine: `threads` of this process, or `ray`: tasks on a Ray cluster, all of whose nodes have the inputs and the
            output at the same paths. `threads` counts for each task then, and 0 is one.
        gguf: `f16`, `bf16` or `q8_0`: write a single GGUF file that stores matrices so, instead of a folder. The models must be
            from GGUF files; the donor's metadata are kept.
        refer_base: Of bundles: say where the base is and what its hash is, instead of copying it.
        address: Of the Ray cluster, `auto` for one that runs on this machine; else `$RAY_ADDRESS`, or one of its own.
    """

    threads: int = 0
    device: str = "cpu"
    overwrite: bool = False
    restart: bool = False
    shard_bytes: int = SHARD_BYTES
    staging: str | Path | None = None
    allow_nonfinite: bool = False
    hash: Literal["xxh3", "blake3"] = "xxh3"
    kernels: Literal["auto", "always", "never"] = "auto"
    progress: Progress | None = None
    engine: Literal["threads", "ray"] = "threads"
    address: str | None = None
    gguf: Literal["f16", "bf16", "q8_0"] | None = None
    refer_base: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ("threads", "ray"):
            raise InputError(f"engine must be 'threads' or 'ray', got '{self.engine}'")
        if self.address is not None and self.engine != "ray":
            raise InputError(
                f"address is where a Ray cluster is, and engine is '{self.engine}'",
                "Add --engine ray (engine='ray'), or leave the address out.",
            )
        if self.threads < 0:
            raise InputError(f"threads must be 0 (all cores) or more, got {self.threads}")
        if self.shard_bytes < 1:
            raise InputError(f"shard_bytes must be at least 1, got {self.shard_bytes}")
        if self.gguf not in (None, "f16", "bf16", "q8_0"):
            raise InputError(f"gguf must be f16, bf16 or q8_0, got '{self.gguf}'")
        if self.hash not in ("xxh3", "blake3"):
            raise InputError(f"hash must be xxh3 or blake3, got '{self.hash}'")

    @property
    def workers(self) -> int:
        """Threads in fact."""
        return self.threads or os.cpu_count() or 1

    def merge(self, plan: Plan) -> Merge:
        """A plan, to be run so."""
        worth = sum(tensor.size for tensor in plan.tensors if tensor.action == "merge") >= WORTH
        fused = self.kernels == "always" or (self.kernels == "auto" and worth)
        return Merge(plan, device=self.device, fused=fused, allow=self.allow_nonfinite)


@dataclass(frozen=True)
class Result:
    """What a run has done.

    Attributes:
        out: The folder, or its URL.
        seconds: Wall-clock time.
        bytes_in: Bytes read, all passes.
        bytes_out: Bytes of tensor data written.
        notes: What the user should know, of the plan and of the run.
    """

    out: Path | str
    seconds: float
    bytes_in: int
    bytes_out: int
    notes: tuple[str, ...]


def destination(out: str | Path, options: Options) -> Destination:
    """Where an output goes: to a folder on this machine, or behind a URL.

    Raises:
        InputError: It cannot go there.
    """
    text = str(out)
    if isinstance(out, str) and is_url(out):
        return StoreFolder(out, options.staging, options.progress)
    url = text.replace(":/", "://", 1)
    if is_url(url):
        raise InputError(f"'{text}' lacks a slash of a URL", f"Write '{url}', as text: Path leaves that slash out.")
    if options.staging is not None:
        raise InputError(
            f"--staging (staging=) is for outputs behind URLs, and '{text}' is a folder on this machine",
            "Leave it out: the folder is made beside its place.",
        )
    return LocalFolder(settled(plain_path(text)))


def execute(plan: Plan, out: str | Path, options: Options | None = None) -> Result:
    """Merge to a folder, or go on with a merge of the same that was killed.

    Args:
        plan: What to do.
        out: The folder to make, or a URL; it must not exist unless `overwrite` is set.
        options: Threads, device and the like.

    Raises:
        InputError: The output exists, the disk is too full, or another merge was left unfinished there: before anything
            is written. Or an input holds NaN.
        RunError: Reading or writing failed; what is done is kept for the next run. Or a result does not fit its format.
    """
    options = options or Options()
    place = destination(out, options)
    check_out(plan, place, options)
    check_engine(plan.models, options)
    started = time.time()
    shards = plan.shards(options.shard_bytes)
    about = identity(plan, shards, {"device": options.device, "allow_nonfinite": options.allow_nonfinite})
    with _crew(options) as crew, partial_folder(place, about, restart=options.restart) as partial:
        merge = options.merge(plan)
        journal = Journal(partial.path, about, partial.past)
        partial.journal = journal
        _write_files(plan, partial.path, shards)
        audits: dict[str, str] = {}
        files = _merged(merge, place, partial, shards, journal, options, crew, audits)
        changed = changed_inputs(plan, about)
        if changed:
            raise RunError(f"'{changed}' changed while it was being merged, so the output is discarded. Merge again.")
        lost = losses(plan)
        rounded = roundings(plan)
        notes = [*plan.notes, *loss_notes(lost), *rounding_notes(rounded), *_late_notes(plan, merge.findings)]
        notes += check_result(plan, partial.path)
        table = files.table()
        hashes = table | file_hashes(partial.path, skip=table)
        if options.hash == "blake3":
            audits |= {name: audited(partial.path / name) for name in hashes if name not in audits}
            hashes = {name: entry | {"blake3": audits[name]} for name, entry in hashes.items()}
        threads = options.workers if options.engine == "threads" else options.threads or 1  # of each task
        run = {
            "started": started, "seconds": round(time.time() - started, 3), "threads": threads,
            "engine": options.engine, "device": options.device, "allow_nonfinite": options.allow_nonfinite, "resumes": partial.resumes, "folder": plan.folder,
        }  # fmt: skip
        manifest = manifest_of(plan, hashes, merge.findings, lost, rounded, notes, run)
        write_card(partial.path, manifest)
        (partial.path / MANIFEST).write_text(manifest_json(manifest), encoding="utf-8")
    notes += merge.remarks()
    if partial.past is not None:
        notes.append("gone on with a merge that was interrupted; what was finished was checked and kept")
    return Result(place.out, time.time() - started, plan.bytes_in * merge.passes, plan.bytes_out, tuple(notes))


class _Crew(Protocol):
    """Who does the work."""

    def survey(self, merge: Merge, output: Output, program: Program, tick: Tick) -> None:
        """Run a program of `Merge.survey`."""
        ...

    def write(
        self, merge: Merge, output: Output, journal: Journal | None, skip: Mapping[int, set[int]], tick: Tick
    ) -> None:
        """Merge every tensor that is not skipped."""
        ...


@dataclass(frozen=True)
class _Threads:
    count: int

    def survey(self, merge: Merge, output: Output, program: Program, tick: Tick) -> None:
        run_programs([program], self.count, tick)

    def write(
        self, merge: Merge, output: Output, journal: Journal | None, skip: Mapping[int, set[int]], tick: Tick
    ) -> None:
        run_programs(merge.programs(output, journal, skip), self.count, tick)


@contextmanager
def _crew(options: Options) -> Generator[_Crew]:
    if options.engine == "threads":
        yield _Threads(options.workers)
    else:
        from modelwright.engine._ray import cluster

        with cluster(options.address, options.threads, options.device) as found:
            yield found


def _merged(
    merge: Merge,
    place: Destination,
    partial: Partial,
    shards: Mapping[str, list[Shard]],
    journal: Journal,
    options: Options,
    crew: _Crew,
    audits: dict[str, str],
) -> WeightFiles:
    """Write the weight files, or what is missing of them; `audits` takes BLAKE3 of each where that is asked for."""
    plan, past = merge.plan, partial.past

    def complete(name: str) -> None:
        if options.hash == "blake3":  # now, for a store takes the bytes away
            audits[name] = audited(partial.path / name)
            journal.audit(name, audits[name])
        place.complete(name)

    files = WeightFiles(partial.path, shards, journal, complete)
    elsewhere = place.begin(files.names, journal, past)
    if options.hash == "blake3" and past is not None:  # what an earlier run put there without that hash is made again
        audits |= {name: past.audits[name] for name in elsewhere if name in past.audits}
        elsewhere = audits.keys() & elsewhere
    files.create(elsewhere=elsewhere)
    if past is not None:
        files.recall(past.chunks, options.workers, options.progress)
    files.start()
    skip: dict[int, set[int]] = {}
    for (index, number), done in past.ranges.items() if past is not None else ():
        tensor = plan.tensors[index]
        start, stop = (edge * tensor.dtype.itemsize for edge in ranges(tensor.size)[number])
        if files.complete(tensor.name, start, stop):
            skip.setdefault(index, set()).add(number)
            merge.recall(tensor, number, done)
    run_merge(merge, files, options, journal, skip, crew)
    return files


def run_merge(
    merge: Merge,
    output: Output,
    options: Options,
    journal: Journal | None = None,
    skip: Mapping[int, set[int]] | None = None,
    crew: _Crew | None = None,
) -> None:
    """Find out what has to be known of the whole model, then merge every tensor that is not skipped."""
    plan, skip, crew = merge.plan, skip or {}, crew or _Threads(options.workers)

    def ticking(what: str, total: int) -> Tick:
        begun = merge.findings.bytes_done

        def tick() -> None:
            if options.progress:
                options.progress(what, min(merge.findings.bytes_done - begun, total), total)

        return tick

    with merge.explained():
        for what, total, program in merge.survey():
            crew.survey(merge, output, program, ticking(what, total))
        done = sum(len(numbers) for numbers in skip.values())
        whole = sum(len(ranges(tensor.size)) for tensor in plan.tensors)
        crew.write(merge, output, journal, skip, ticking("merging", plan.bytes_in * (whole - done) // max(whole, 1)))


def check_engine(models: Iterable[Checkpoint], options: Options) -> None:
    """Refuse models that the engine cannot read, and an engine that is not installed."""
    if options.engine == "ray":
        from modelwright.engine._ray import check_models

        check_models(models)


def check_out(plan: Plan, place: Destination, options: Options, also: int = 0) -> None:
    """Refuse before anything is written: an output in the way, a disk that is too full, a device that is not there.

    Args:
        plan: What is to be written.
        place: Where it goes.
        options: How.
        also: Bytes that are written beside it, such as earlier steps.
    """
    check_inputs(plan, place)
    check_as_opened(plan)
    place.check(overwrite=options.overwrite, restart=options.restart)
    check_disk(place.folder, _bytes_written(plan) + also)
    if options.engine == "threads":  # where the others compute, this machine may have none
        check_device(options.device)
    if options.hash == "blake3":
        check_audit()


def _bytes_written(plan: Plan) -> int:
    """Bytes of the output: of tensors, of headers at most, and of the larger files beside them."""
    headers = sum(len(tensor.name.encode()) + _ENTRY for tensor in plan.tensors)
    texts = sum(len(file.text) for file in plan.files if file.text is not None)
    copies = sum((file_state(file.source) or (0, 0))[0] for file in plan.files if file.source is not None)
    return plan.bytes_out + headers + texts + copies


def check_inputs(plan: Plan, place: Destination) -> None:
    """Refuse an output that would replace what it is made from."""
    if any(place.holds(model) for model in plan.models):
        raise InputError(f"the output '{place.out}' is or holds one of the inputs", "Choose another folder.")


def check_device(device: str) -> None:
    """Refuse a device that is not here."""
    if device == "cpu":
        return
    torch = torch_for(device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"no device '{device}' here ({reason})", "Leave --device out to compute on the CPU.") from None


def _write_files(plan: Plan, folder: Path, shards: Mapping[str, list[Shard]]) -> None:
    """Everything beside the weights but the manifest and the model card, which say what came of it."""
    for prefix, files in shards.items():
        if len(files) > 1:
            stem = files[0].file.rsplit("-", 3)[0]
            path = folder / prefix / f"{stem}.safetensors.index.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(index_json(files), encoding="utf-8")
    for file in plan.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.text is not None:
            path.write_text(file.text, encoding="utf-8")
        elif file.source is not None:
            copyfile(file.source, path)
    (folder / "recipe.yml").write_text(plan.recipe_text, encoding="utf-8")


def _late_notes(plan: Plan, findings: Findings) -> list[str]:
    notes: list[str] = []
    if findings.buffers:
        notes.append(
            f"{len(findings.buffers)} integer buffers differ between the models; the donor's are kept (see manifest.json)"
        )
    if findings.odd:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(findings.odd.items()))
        notes.append(f"values that are NaN or infinite passed, as --allow-nonfinite asks: {listed}")
    if plan.base is not None and plan.method.base == "required" and not findings.changed:
        notes.append(f"{plan.method.name} changed nothing: the output equals the base")
    return notes
