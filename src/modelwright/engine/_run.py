"""Run a plan: tensor by tensor, to a partial folder that becomes the output in one rename."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copyfile
from typing import Any, cast

import numpy as np
import xxhash

from modelwright.checkpoint import NumpyArray, Shard, index_json
from modelwright.engine._card import card_text
from modelwright.engine._folder import check_disk, check_free, partial_folder, recover
from modelwright.engine._manifest import file_hashes, manifest_json
from modelwright.errors import InputError, MissingExtraError, RunError
from modelwright.methods import PerTensor
from modelwright.recipe import Plan, PlannedTensor
from modelwright.tensors import Array, NoiseKey, all_finite, narrow, to_numpy, widen

#: (what is being done, bytes done, bytes in all)
Progress = Callable[[str, int, int], None]

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Options:
    """How to run, none of which changes a byte of the output on a CPU.

    Attributes:
        threads: Tensors in work at once; 0 for the number of cores.
        device: `cpu`, or where torch computes: `cuda`, `cuda:1`, `mps`, `xpu`.
        overwrite: Replace an existing output.
        shard_bytes: Most bytes of data per weight file.
        progress: Called as bytes are done.
    """

    threads: int = 0
    device: str = "cpu"
    overwrite: bool = False
    shard_bytes: int = SHARD_BYTES
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


@dataclass
class Findings:
    """What running has shown, for the manifest."""

    digests: dict[tuple[int, str], str] = field(default_factory=dict[tuple[int, str], str])
    buffers: list[str] = field(default_factory=list[str])
    changed: bool = False


def execute(plan: Plan, out: str | Path, options: Options | None = None) -> Result:
    """Merge to a folder.

    Args:
        plan: What to do.
        out: The folder to make; it must not exist unless `overwrite` is set.
        options: Threads, device and the like.

    Raises:
        InputError: The output exists or the disk is too full, before anything is written; or an input holds NaN.
        RunError: Reading or writing failed, or a result does not fit its format. Nothing is left behind.
    """
    options = options or Options()
    out = settled(out)
    check_out(plan, out, options)
    started = time.time()
    shards = plan.shards(options.shard_bytes)
    findings = Findings()
    with partial_folder(out) as folder:
        facts = model_facts(plan, options)
        _write_tensors(plan, folder, shards, facts, findings, options)
        _write_files(plan, folder, shards)
        seconds = time.time() - started
        notes = [*plan.notes, *_late_notes(plan, findings)]
        (folder / "README.md").write_text(card_text(plan), encoding="utf-8")
        hashes = file_hashes(folder)
        run = {"started": started, "seconds": round(seconds, 3), "threads": options.workers, "device": options.device}
        text = manifest_json(plan, hashes, findings.digests, findings.buffers, notes, run)
        (folder / "manifest.json").write_text(text, encoding="utf-8")
    return Result(out, time.time() - started, plan.bytes_in * plan.passes, plan.bytes_out, tuple(notes))


def settled(out: str | Path) -> Path:
    """The output's path with `~` and links resolved, after an overwrite that was killed half-way is undone or ended."""
    path = Path(out).expanduser()
    if path.is_symlink() or path.name in ("", ".."):
        path = path.resolve()
    if not path.name:
        raise InputError(f"'{path}' cannot be the output", "Give a folder that can be made.")
    recover(path)
    return path


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
    torch = _torch(device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"no device '{device}' here ({reason})", "Leave --device out to compute on the CPU.") from None


def _torch(device: str) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtraError(f"--device {device}", "torch", "torch") from None
    return torch


# --- statistics over the whole model -------------------------------------------------------------------------------


def model_facts(plan: Plan, options: Options) -> dict[str, Any]:
    """What the method's rounds find: one pass over the inputs each."""
    merged = [tensor for tensor in plan.tensors if tensor.action == "merge"]
    if not merged:
        return {}
    facts: dict[str, Any] = {}
    for entry in plan.method.rounds(merged[0].parameters):

        def collect(tensor: PlannedTensor, entry: Any = entry, known: dict[str, Any] = facts) -> Any:
            models, base = _wide_inputs(plan, tensor, options.device, None)
            with np.errstate(over="ignore", invalid="ignore"):
                return entry.collect(models, base, tensor.parameters, facts_for(known, tensor.name))

        total: Any = None
        listed: dict[str, Any] = {}
        for tensor, result in _in_order(merged, collect, options, plan, entry.name):
            if entry.fold == "sum":
                total = result if total is None else np.add(total, result, out=total)
            else:
                listed[tensor.name] = result
        facts = facts | entry.reduce(total if entry.fold == "sum" else listed, merged[0].parameters, facts)
    return facts


def facts_for(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The facts as one tensor sees them."""
    return {key: value[name] if isinstance(value, PerTensor) else value for key, value in facts.items()}


def _in_order(
    tensors: list[PlannedTensor],
    work: Callable[[PlannedTensor], Any],
    options: Options,
    plan: Plan,
    what: str,
) -> Iterator[tuple[PlannedTensor, Any]]:
    """Results in the order of the tensors, computed by threads, with no more in flight than there are threads."""
    size = {t.name: sum(plan.models[i.model][i.name].nbytes for i in t.sources) for t in tensors}
    total, done = sum(size.values()), 0
    with ThreadPoolExecutor(options.workers) as pool:
        waiting: list[tuple[PlannedTensor, Future[Any]]] = []
        queue = iter(tensors)
        try:
            while True:
                while len(waiting) < options.workers and (tensor := next(queue, None)) is not None:
                    waiting.append((tensor, pool.submit(work, tensor)))
                if not waiting:
                    return
                tensor, future = waiting.pop(0)
                while not future.done():  # a plain result() would not let Ctrl-C through on every platform
                    wait([future], timeout=1.0, return_when=FIRST_COMPLETED)
                yield tensor, future.result()
                done += size[tensor.name]
                if options.progress:
                    options.progress(what, done, total)
        finally:
            for _, future in waiting:
                future.cancel()


# --- tensors -------------------------------------------------------------------------------------------------------


def compute(
    plan: Plan, tensor: PlannedTensor, facts: Mapping[str, Any], device: str = "cpu", findings: Findings | None = None
) -> NumpyArray:
    """One output tensor in its final format.

    Raises:
        InputError: An input holds NaN or infinity.
        RunError: The result does not fit the output format.
    """
    if tensor.action != "merge":
        return _copied(plan, tensor, findings)
    models, base = _wide_inputs(plan, tensor, device, findings)
    key = NoiseKey(plan.recipe.seed, tensor.name)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below, by name
        try:
            merged = to_numpy(plan.method.run(models, base, tensor.parameters, key, facts_for(facts, tensor.name)))
        except InputError as error:
            raise InputError([replace(p, where=p.where or tensor.name) for p in error.problems]) from None
        result = narrow(merged, tensor.dtype.numpy)
    if findings is not None and not findings.changed and base is not None:
        findings.changed = not np.array_equal(merged, to_numpy(base))
    return _fitting(tensor, merged, result)


def _fitting(tensor: PlannedTensor, wide: NumpyArray, result: NumpyArray) -> NumpyArray:
    if not all_finite(result.astype(np.float32) if result.dtype.itemsize < 4 else result):
        raise RunError(_too_large(tensor, wide))
    return result


def _too_large(tensor: PlannedTensor, merged: NumpyArray) -> str:
    if not all_finite(merged):
        if tensor.action != "merge":
            return f"'{tensor.name}' holds NaN or infinite values, which cannot be converted to {tensor.dtype}."
        return (
            f"'{tensor.name}': the merge overflows {merged.dtype}, in which it is computed, though every input is finite. "
            "Lower the weights or lambda."
        )
    wider = {"float16": "bfloat16 or float32", "float32": "float64"}.get(tensor.dtype.name, "float32")
    return (
        f"'{tensor.name}' reaches {float(np.max(np.abs(merged))):.4g}, which {tensor.dtype} cannot hold (its largest is "
        f"{tensor.dtype.largest:.4g}). Set out_dtype: {wider}."
    )


def _copied(plan: Plan, tensor: PlannedTensor, findings: Findings | None) -> NumpyArray:
    first, *others = tensor.inputs
    array = plan.models[first.model][first.name].read()
    if findings is not None:
        findings.digests[first.model, first.name] = _digest(array)
    for other in others:
        theirs = plan.models[other.model][other.name].read()
        if findings is not None:
            findings.digests[other.model, other.name] = _digest(theirs)
            if not np.array_equal(array, theirs):
                findings.buffers.append(f"{tensor.name}: {plan.models[other.model].label} differs")
    if array.dtype == tensor.dtype.numpy:
        return array
    with np.errstate(over="ignore"):
        return _fitting(tensor, widen(array), narrow(array, tensor.dtype.numpy))


def _wide_inputs(
    plan: Plan, tensor: PlannedTensor, device: str, findings: Findings | None
) -> tuple[list[Array], Array | None]:
    """The tensors that meet, in float32 or float64, checked to be finite, on the device."""
    arrays: list[Array] = []
    for source in tensor.sources:
        model = plan.models[source.model]
        stored = model[source.name].read()
        if findings is not None:
            findings.digests[source.model, source.name] = _digest(stored)
        wide = widen(stored)
        if not all_finite(wide):
            count = int(np.size(wide) - np.count_nonzero(np.isfinite(wide)))
            raise InputError(
                f"'{source.name}' of {model.label} holds {count} value{'s that are' if count > 1 else ' that is'} NaN or infinite",
                "A merge would spread them: mend or replace the checkpoint.",
            )
        arrays.append(wide)
    if any(array.dtype == np.float64 for array in arrays):
        arrays = [array.astype(np.float64) for array in arrays]
    if device != "cpu":
        arrays = [_to_device(array, device) for array in arrays]
    if tensor.base is not None:
        return arrays[:-1], arrays[-1]
    return arrays, None


def _to_device(array: NumpyArray, device: str) -> Array:
    return _torch(device).from_numpy(array).to(device)


def _bytes_of(array: NumpyArray) -> memoryview:
    return memoryview(cast(Any, np.ascontiguousarray(array).reshape(-1).view(np.uint8)))


def _digest(array: NumpyArray) -> str:
    return xxhash.xxh3_128_hexdigest(_bytes_of(array))


def _write_tensors(
    plan: Plan,
    folder: Path,
    shards: Mapping[str, list[Shard]],
    facts: Mapping[str, Any],
    findings: Findings,
    options: Options,
) -> None:
    where: dict[str, tuple[Path, int]] = {}
    for prefix, files in shards.items():
        for shard in files:
            path = folder / prefix / shard.file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(shard.header)
                file.truncate(shard.nbytes)
            where |= {prefix + name: (path, offset) for name, (offset, _) in shard.tensors.items()}

    def work(tensor: PlannedTensor) -> None:
        array = compute(plan, tensor, facts, options.device, findings)
        path, offset = where[tensor.name]
        _write_at(path, _bytes_of(array), offset)

    for _ in _in_order(list(plan.tensors), work, options, plan, "merging"):
        pass


def _write_at(path: Path, data: memoryview, offset: int) -> None:
    """Write at an offset until everything is out; the file is opened each time, so that 1000 shards need few handles."""
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        while data:
            data = data[file.write(data) :]


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
    if plan.base is not None and plan.method.base == "required" and not findings.changed:
        notes.append(f"{plan.method.name} changed nothing: the output equals the base")
    return notes
