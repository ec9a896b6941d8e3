"""Run a plan: to a partial folder that becomes the output in one rename, and that a killed merge goes on with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Literal

from modelwright.checkpoint import Shard, index_json
from modelwright.engine._card import card_text
from modelwright.engine._device import torch_for
from modelwright.engine._folder import Partial, check_disk, check_free, partial_folder, settled as settled
from modelwright.engine._identity import changed_inputs, identity
from modelwright.engine._journal import Journal
from modelwright.engine._manifest import file_hashes, manifest_json
from modelwright.engine._merge import WORTH, Findings, Merge
from modelwright.engine._output import Output, WeightFiles
from modelwright.engine._sources import ranges
from modelwright.engine._work import Program, run_programs
from modelwright.errors import InputError, RunError
from modelwright.recipe import Plan

#: (what is being done, bytes done, bytes in all)
Progress = Callable[[str, int, int], None]

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Options:
    """How to run, none of which changes a byte of the output on a CPU.

    Attributes:
        threads: Threads that work; 0 for the number of cores.
        device: `cpu`, or where torch computes: `cuda`, `cuda:1`, `mps`, `xpu`.
        overwrite: Replace an existing output.
        restart: Discard what a killed merge left, instead of going on with it.
        shard_bytes: Most bytes of data per weight file.
        allow_nonfinite: Let NaN and infinity in the inputs pass, and say where they are.
        kernels: `auto` takes the fused kernels for all but small merges; `always`; `never`.
        progress: Called as bytes are done.
    """

    threads: int = 0
    device: str = "cpu"
    overwrite: bool = False
    restart: bool = False
    shard_bytes: int = SHARD_BYTES
    allow_nonfinite: bool = False
    kernels: Literal["auto", "always", "never"] = "auto"
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise InputError(f"threads must be 0 (all cores) or more, got {self.threads}")
        if self.shard_bytes < 1:
            raise InputError(f"shard_bytes must be at least 1, got {self.shard_bytes}")

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
        out: The folder.
        seconds: Wall-clock time.
        bytes_in: Bytes read, all passes.
        bytes_out: Bytes of tensor data written.
        notes: What the user should know, of the plan and of the run.
    """

    out: Path
    seconds: float
    bytes_in: int
    bytes_out: int
    notes: tuple[str, ...]


def execute(plan: Plan, out: str | Path, options: Options | None = None) -> Result:
    """Merge to a folder, or go on with a merge of the same that was killed.

    Args:
        plan: What to do.
        out: The folder to make; it must not exist unless `overwrite` is set.
        options: Threads, device and the like.

    Raises:
        InputError: The output exists, the disk is too full, or another merge was left unfinished there: before anything
            is written. Or an input holds NaN.
        RunError: Reading or writing failed; what is done is kept for the next run. Or a result does not fit its format.
    """
    options = options or Options()
    out = settled(out)
    check_out(plan, out, options)
    started = time.time()
    shards = plan.shards(options.shard_bytes)
    about = identity(plan, shards)
    with partial_folder(out, about, restart=options.restart) as partial:
        merge = options.merge(plan)
        journal = Journal(partial.path, about, partial.past)
        partial.journal = journal
        files = _merged(merge, partial, shards, journal, options)
        changed = changed_inputs(plan, about)
        if changed:
            raise RunError(f"'{changed}' changed while it was being merged, so the output is discarded. Merge again.")
        _write_files(plan, partial.path, shards)
        notes = [*plan.notes, *_late_notes(plan, merge.findings)]
        (partial.path / "README.md").write_text(card_text(plan), encoding="utf-8")
        table = files.table()
        hashes = table | file_hashes(partial.path, skip=table)
        run = {
            "started": started, "seconds": round(time.time() - started, 3), "threads": options.workers,
            "device": options.device, "resumes": partial.resumes, "folder": plan.folder,
        }  # fmt: skip
        text = manifest_json(plan, dict(sorted(hashes.items())), merge.findings, notes, run)
        (partial.path / "manifest.json").write_text(text, encoding="utf-8")
    notes += merge.remarks()
    return Result(out, time.time() - started, plan.bytes_in * plan.passes, plan.bytes_out, tuple(notes))


def _merged(
    merge: Merge, partial: Partial, shards: Mapping[str, list[Shard]], journal: Journal, options: Options
) -> WeightFiles:
    """Write the weight files, or what is missing of them."""
    plan, past = merge.plan, partial.past
    files = WeightFiles(partial.path, shards, journal)
    files.create()
    if past is not None:
        files.recall(past.chunks, options.workers)
    files.start()
    skip: dict[int, set[int]] = {}
    for (index, number), done in past.ranges.items() if past is not None else ():
        tensor = plan.tensors[index]
        start, stop = (edge * tensor.dtype.itemsize for edge in ranges(tensor.size)[number])
        if files.complete(tensor.name, start, stop):
            skip.setdefault(index, set()).add(number)
            merge.recall(tensor, number, done)
    run_merge(merge, files, options, journal, skip)
    return files


def run_merge(
    merge: Merge,
    output: Output,
    options: Options,
    journal: Journal | None = None,
    skip: Mapping[int, set[int]] | None = None,
) -> None:
    """Find out what has to be known of the whole model, then merge every tensor that is not skipped."""
    plan = merge.plan

    def pass_of(what: str, programs: Iterable[Program], total: int) -> None:
        begun = merge.findings.bytes_done

        def tick() -> None:
            if options.progress:
                options.progress(what, min(merge.findings.bytes_done - begun, total), total)

        with merge.explained():
            run_programs(programs, options.workers, tick)

    for what, whole, program in merge.survey():
        pass_of(what, [program], whole)
    done = sum(len(numbers) for numbers in (skip or {}).values())
    whole = sum(len(ranges(tensor.size)) for tensor in plan.tensors)
    total = plan.bytes_in * (whole - done) // max(whole, 1)
    pass_of("merging", merge.programs(output, journal, skip), total)


def check_out(plan: Plan, out: Path, options: Options, also: int = 0) -> None:
    """Refuse before anything is written: an output in the way, a disk that is too full, a device that is not there.

    Args:
        plan: What is to be written.
        out: The folder to make.
        options: How.
        also: Bytes that are written beside it, such as earlier steps.
    """
    if out.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf") and not out.is_dir():
        raise InputError(
            f"the output is a folder, and '{out}' is named like a weight file",
            f"Choose '{out.with_suffix('')}': it will hold model.safetensors and what belongs to it.",
        )
    check_inputs(plan, out)
    check_free(out, overwrite=options.overwrite)
    check_disk(out, plan.bytes_out + also)
    _check_device(options.device)


def check_inputs(plan: Plan, out: Path) -> None:
    """Refuse an output that would replace what it is made from."""
    inputs = [model.path.resolve() for model in plan.models if model.path is not None]
    if out.exists() and any(path.is_relative_to(out.resolve()) for path in inputs):
        raise InputError(f"the output '{out}' is or holds one of the inputs", "Choose another folder.")


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    torch = torch_for(device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"no device '{device}' here ({reason})", "Leave --device out to compute on the CPU.") from None


def _write_files(plan: Plan, folder: Path, shards: Mapping[str, list[Shard]]) -> None:
    for prefix, files in shards.items():
        if len(files) > 1:
            stem = files[0].file.rsplit("-", 3)[0]
            (folder / prefix / f"{stem}.safetensors.index.json").write_text(index_json(files), encoding="utf-8")
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
