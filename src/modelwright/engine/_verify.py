"""Check an output against its manifest, and against the same merge done again."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from modelwright.architectures import is_list, is_table, is_text
from modelwright.checkpoint import (
    MANIFEST,
    NumpyArray,
    RemoteFolder,
    TensorRef,
    as_stored,
    is_inside,
    open as open_checkpoint,
)
from modelwright.engine._folder import is_ours
from modelwright.engine._manifest import audit_hash, check_audit, input_hashes
from modelwright.engine._run import Options, check_device, run_merge
from modelwright.engine._store import UNFINISHED
from modelwright.engine._work import Program, run_programs
from modelwright.errors import InputError, RunError, listing
from modelwright.recipe import Plan
from modelwright.tensors import DType, widen

#: What a method whose record says `reproducible: tolerance` may differ by on another CPU, and any method on an accelerator,
#: in units of the last place of the output's format.
TOLERANCE = 2
#: Chunks that are read by one task.
_CHUNKS = 16
#: No manifest of ours has larger chunks; one is held in memory.
_LARGEST_CHUNK = 1 << 28


@dataclass(frozen=True)
class Verification:
    """What checking an output has shown.

    Attributes:
        out: The folder, or its URL.
        files: How many files were checked.
        nbytes: Their bytes.
        problems: What is wrong, a sentence each; empty where all is as the manifest says.
        notes: What is worth knowing beside.
    """

    out: Path | str
    files: int
    nbytes: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


# --- the manifest --------------------------------------------------------------------------------------------------


def read_manifest(out: Path | str) -> dict[str, Any]:
    """The manifest of an output: in a folder, or behind a URL.

    Raises:
        InputError: There is none, or it is not ours.
    """
    place = _place(out)
    name = f"{out}/{MANIFEST}"
    try:
        there = place.sizes()
        if not there and not (isinstance(out, Path) and out.is_dir()):
            raise InputError(f"no folder '{out}'", "Give the output of a merge.")
        if MANIFEST not in there and UNFINISHED in there:
            raise InputError(f"'{out}' holds an output that is not finished", "Go on with the merge that makes it.")
        if MANIFEST not in there:
            raise InputError(
                f"'{out}' has no manifest.json, so there is nothing to check it against", "Merge it again."
            )
        text = place.read(MANIFEST, 0, there[MANIFEST]).decode("utf-8")
        manifest: Any = json.loads(text) if is_ours(text) else None
    except RunError as error:  # of a store
        raise InputError(str(error)) from None
    except (OSError, UnicodeDecodeError):
        manifest = None
    version = manifest.get("manifest_version") if manifest is not None else None
    if type(version) is int and version != 1:
        raise InputError(f"'{name}' has the version {version}, which this modelwright does not know", "Update it.")
    if manifest is None or not _is_sound(manifest):
        raise InputError(f"'{name}' is not a manifest of modelwright, or is damaged", "Merge it again.")
    return manifest


def _is_sound(manifest: Any) -> bool:
    """Whether it has all that checking asks of it; a list of hashes that is too short would let bytes pass unseen."""
    files, chunk, inputs = manifest.get("files"), manifest.get("chunk_bytes"), manifest.get("inputs")
    if (
        manifest.get("manifest_version") != 1
        or not is_table(files)
        or type(chunk) is not int
        or not 0 < chunk <= _LARGEST_CHUNK
    ):
        return False
    if not is_text(manifest.get("recipe")) or not is_table(manifest.get("run")) or not is_list(inputs):
        return False
    if not all(is_table(entry) and is_text(entry.get("model")) and is_text(entry.get("xxh3_128")) for entry in inputs):
        return False
    return all(is_text(name) and is_inside(name) and _is_entry(entry, chunk) for name, entry in files.items())


def _is_entry(entry: Any, chunk: int) -> bool:
    if not is_table(entry) or type(entry.get("bytes")) is not int or not is_text(entry.get("blake3", "")):
        return False
    hashes = entry.get("xxh3_128")
    return is_list(hashes) and len(hashes) == -(-entry["bytes"] // chunk) and all(is_text(one) for one in hashes)


# --- where an output is --------------------------------------------------------------------------------------------


class _Place(Protocol):
    def sizes(self) -> dict[str, int]:
        """Its files, at any depth: relative name -> bytes."""
        ...

    def read(self, name: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file."""
        ...


@dataclass(frozen=True)
class _Local:
    folder: Path

    def sizes(self) -> dict[str, int]:
        listed = self.folder.rglob("*") if self.folder.is_dir() else ()
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in listed if path.is_file()}

    def read(self, name: str, start: int, stop: int) -> bytes:
        with (self.folder / name).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(stop - start)


@dataclass(frozen=True)
class _Remote:
    folder: RemoteFolder

    def sizes(self) -> dict[str, int]:
        return self.folder.names()

    def read(self, name: str, start: int, stop: int) -> bytes:
        return self.folder.read(name, start, stop)


def _place(out: Path | str) -> _Place:
    return _Local(out) if isinstance(out, Path) else _Remote(RemoteFolder(out))


# --- every byte ----------------------------------------------------------------------------------------------------


def verify(out: Path | str, options: Options) -> Verification:
    """Read every file of an output and compare it with its hashes.

    Raises:
        InputError: There is no manifest to compare with.
    """
    manifest = read_manifest(out)
    files: Mapping[str, Any] = manifest["files"]
    if any("blake3" in entry for entry in files.values()):
        check_audit()
    place = _place(out)
    there = place.sizes()
    check = _Check(place, there, manifest["chunk_bytes"])
    total = sum(entry["bytes"] for entry in files.values())

    def tick() -> None:
        if options.progress:
            options.progress("verifying", check.done, total)

    run_programs((check.file(name, entry) for name, entry in sorted(files.items())), options.workers, tick)
    problems = [_told(out, check.found[name]) for name in sorted(check.found)]
    extra = [name for name in sorted(there) if name not in files and name.rpartition("/")[2] != MANIFEST]
    notes = [f"not part of the output: {listing(extra)}"] if extra else []
    return Verification(out, len(files), total, tuple(problems), tuple(notes))


@dataclass
class _Damage:
    """What is wrong with a file: a sentence, or chunks that differ."""

    name: str
    said: str = ""
    bad: list[int] = field(default_factory=list[int])
    chunks: int = 0
    step: int = 0


class _Check:
    """Compares files with their hashes; `found` has those that differ, `done` the bytes that are through."""

    def __init__(self, place: _Place, there: Mapping[str, int], step: int):
        self.found: dict[str, _Damage] = {}
        self.done = 0
        self._place, self._there, self._step = place, there, step
        self._lock = threading.Lock()

    def file(self, name: str, entry: Mapping[str, Any]) -> Program:
        """Compare one file."""
        size, count = self._there.get(name), len(entry["xxh3_128"])
        if size != entry["bytes"]:
            said = f"{name} has {size or 0:,} bytes, the manifest says {entry['bytes']:,}"
            self.found[name] = _Damage(name, said if size is not None else f"{name} is missing")
            return
        groups = [range(at, min(at + _CHUNKS, count)) for at in range(0, count, _CHUNKS)]
        whole = audit_hash() if "blake3" in entry else None
        tasks = [partial(self._bad, name, entry, group, whole) for group in groups]
        results: list[list[int]] = []
        for batch in [tasks] if whole is None else [[task] for task in tasks]:  # one reading for both kinds of hash
            results += yield batch
        bad = [number for some in results for number in some]
        if name in self.found:
            return
        if bad:
            self.found[name] = _Damage(name, "", bad, count, self._step)
        elif whole is not None and whole.hexdigest() != entry["blake3"]:
            what = "has another BLAKE3 hash, though its chunks have theirs: the manifest or the file was tampered with"
            self.found[name] = _Damage(name, f"{name} {what}")

    def _bad(self, name: str, entry: Mapping[str, Any], chunks: range, whole: Any) -> list[int]:
        """Which of some chunks differ."""
        bad: list[int] = []
        for number in chunks:
            start = number * self._step
            try:
                raw = self._place.read(name, start, min(start + self._step, entry["bytes"]))
            except OSError as error:
                self.found[name] = _Damage(name, f"{name} cannot be read ({error.strerror or error})")
                return bad
            if xxhash.xxh3_128_hexdigest(raw) != entry["xxh3_128"][number]:
                bad.append(number)
            if whole is not None:
                whole.update(raw)
            with self._lock:
                self.done += len(raw)
        return bad


def _told(out: Path | str, damage: _Damage) -> str:
    if damage.said:
        return damage.said
    chunks = f"{len(damage.bad)} of {damage.chunks} chunks of {damage.name} differ"
    weights = damage.name.endswith(".safetensors")
    touched = _tensors_at(f"{out}/{damage.name}", damage.bad, damage.step) if weights else []
    return f"{chunks}, first at byte {damage.bad[0] * damage.step:,}" + (
        f"; they hold {listing(touched, 4)}" if touched else ""
    )


def _tensors_at(path: str, chunks: Sequence[int], step: int) -> list[str]:
    """The tensors of a file that lie in some of its chunks."""
    names: list[str] = []
    try:
        tensors = open_checkpoint(path)
    except InputError:  # the header is damaged as well
        return []
    for name, ref in tensors.items():
        start = int(ref.source.rpartition("@ ")[2])
        if any(start < (chunk + 1) * step and start + ref.nbytes > chunk * step for chunk in chunks):
            names.append(name)
    return names


def available(device: str) -> tuple[str, tuple[str, ...]]:
    """Where to merge again what was made on a device: there, or on the CPU where there is none, with a note."""
    try:
        check_device(device)
    except InputError:
        return "cpu", (f"made on {device}, which is not here, so it was merged again on the CPU",)
    return device, ()


# --- the same again ------------------------------------------------------------------------------------------------


def verify_again(plan: Plan, out: Path | str, options: Options) -> tuple[list[str], list[str]]:
    """Merge again without writing, and compare every tensor with the output: to the bit, or within `TOLERANCE`.

    Returns:
        Problems and notes.
    """
    manifest = read_manifest(out)
    stored = as_stored(open_checkpoint(out))
    problems = _differing_names(plan, stored)
    if problems:
        return problems, []
    on_cpu = manifest["run"].get("device", "cpu") == options.device == "cpu"
    exact = on_cpu and plan.method.reproducible == "bits"
    compare = _Compare(plan, stored, exact=exact)
    merge = options.merge(plan)
    run_merge(merge, compare, options)
    recorded = {entry["model"]: entry["xxh3_128"] for entry in manifest["inputs"]}
    changed = [label for label, digest in input_hashes(plan, merge.findings).items() if recorded.get(label) != digest]
    problems = [f"the input '{label}' is not what it was when the output was made" for label in changed]
    problems += [f"'{name}' comes out differently: {what}" for name, what in sorted(compare.different.items())]
    count = f"{len(compare.near)} tensor{'s differ' if len(compare.near) != 1 else ' differs'}"
    allowed = f"which {plan.method.name} allows" if on_cpu else "as accelerators may"
    near = f"{count} by no more than {TOLERANCE} units in the last place, {allowed}"
    return problems, [near] if compare.near else []


def _differing_names(plan: Plan, stored: Mapping[str, TensorRef]) -> list[str]:
    planned = {tensor.name: (tensor.shape, tensor.dtype) for tensor in plan.tensors}
    problems = [f"'{name}' is in the recipe's result and not in the output" for name in planned if name not in stored]
    problems += [f"'{name}' is in the output and not in the recipe's result" for name in stored if name not in planned]
    for name, (shape, dtype) in planned.items():
        if name in stored and (stored[name].shape, stored[name].dtype) != (shape, dtype):
            there = f"{stored[name].dtype} {list(stored[name].shape)}"
            problems.append(f"'{name}' is {there} in the output and {dtype} {list(shape)} in the recipe's result")
    return problems


class _Compare:
    """An output that writes nothing, and compares what it is given with what is there."""

    def __init__(self, plan: Plan, stored: Mapping[str, TensorRef], *, exact: bool):
        self.different: dict[str, str] = {}
        self.near: set[str] = set()
        self._stored = stored
        self._tolerant = {tensor.name for tensor in plan.tensors if tensor.action == "merge" and not exact}

    def write(self, name: str, start: int, data: NumpyArray) -> None:
        """Compare bytes of a tensor, from byte `start` of it on."""
        ref = self._stored[name]
        there = np.empty(len(data), np.uint8)
        assert ref.fill is not None  # it is in a file of ours
        ref.fill(there, start)
        if name in self.different or np.array_equal(there, data):
            return
        places = np.flatnonzero(there.view(ref.dtype.numpy) != data.view(ref.dtype.numpy))
        if name in self._tolerant and _near(there, data, ref.dtype):
            self.near.add(name)
        else:
            first = start // ref.dtype.itemsize + (int(places[0]) if places.size else 0)
            self.different[name] = f"from element {first:,} on"

    def done(self, name: str, start: int, stop: int) -> None:
        """Nothing is to be done."""


def _near(there: NumpyArray, here: NumpyArray, dtype: DType) -> bool:
    """Whether two stretches of numbers differ by a few units in the last place of their format at most."""
    a, b = (widen(raw.view(dtype.numpy)).astype(np.float64) for raw in (there, here))
    digits = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}[dtype.name]
    odd = ~(np.isfinite(a) & np.isfinite(b))  # where NaN and infinity were let pass they must be the same again
    if not np.array_equal(a[odd], b[odd], equal_nan=True):
        return False
    a, b = a[~odd], b[~odd]
    _, exponent = np.frexp(np.maximum(np.abs(a), np.abs(b)))
    return bool(np.all(np.abs(a - b) <= TOLERANCE * np.ldexp(1.0, exponent - digits)))
