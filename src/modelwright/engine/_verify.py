"""Check an output against its manifest, and against the same merge done again."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.checkpoint import Checkpoint, NumpyArray, open as open_checkpoint
from modelwright.engine._manifest import audit_hashes, input_hashes
from modelwright.engine._run import Options, run_merge
from modelwright.errors import InputError, listing
from modelwright.recipe import Plan
from modelwright.tensors import DType, widen

#: What a method whose record says `reproducible: tolerance` may differ by on another CPU, in units of the last place
#: of the output's format.
TOLERANCE = 2


@dataclass(frozen=True)
class Verification:
    """What checking an output has shown.

    Attributes:
        out: The folder.
        files: How many files were checked.
        nbytes: Their bytes.
        problems: What is wrong, a sentence each; empty where all is as the manifest says.
        notes: What is worth knowing beside.
    """

    out: Path
    files: int
    nbytes: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of an output.

    Raises:
        InputError: There is none, or it is not ours.
    """
    path = out / "manifest.json"
    if not out.is_dir():
        raise InputError(f"no folder '{out}'", "Give the output of a merge.")
    if not path.is_file():
        raise InputError(f"'{out}' has no manifest.json, so there is nothing to check it against", "Merge it again.")
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
        if "modelwright" not in manifest["made_by"]:
            raise LookupError
        for entry in manifest["files"].values():
            if not isinstance(entry["bytes"], int) or not isinstance(entry["xxh3_128"], list):
                raise LookupError
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"'{path}' is not a manifest of modelwright, or is damaged", "Merge it again.") from None
    if manifest.get("manifest_version") != 1:
        version = manifest.get("manifest_version")
        raise InputError(f"'{path}' has the version {version}, which this modelwright does not know", "Update it.")
    return manifest


def verify(out: Path, options: Options) -> Verification:
    """Read every file of an output and compare it with its hashes.

    Raises:
        InputError: There is no manifest to compare with.
    """
    manifest = read_manifest(out)
    files: Mapping[str, Any] = manifest["files"]
    total, done, lock = sum(int(entry["bytes"]) for entry in files.values()), 0, threading.Lock()

    def check(item: tuple[str, Any]) -> list[str]:
        nonlocal done
        name, entry = item
        found = _damage(out, name, entry, int(manifest["chunk_bytes"]))
        with lock:
            done += int(entry["bytes"])
            if options.progress:
                options.progress("verifying", done, total)
        return found

    with ThreadPoolExecutor(options.workers) as pool:
        problems = [problem for found in pool.map(check, sorted(files.items())) for problem in found]
    known = {*files, "manifest.json"}
    extra = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    extra = [name for name in extra if name not in known]
    notes = [f"not part of the output: {listing(extra)}"] if extra else []
    return Verification(out, len(files), total, tuple(problems), tuple(notes))


def _damage(out: Path, name: str, entry: Mapping[str, Any], step: int) -> list[str]:
    """What is wrong with one file."""
    path = out / name
    if not path.is_file():
        return [f"{name} is missing"]
    size = path.stat().st_size
    if size != entry["bytes"]:
        return [f"{name} has {size:,} bytes, the manifest says {entry['bytes']:,}"]
    bad: list[int] = []
    with path.open("rb", buffering=0) as file:
        for number, digest in enumerate(entry["xxh3_128"]):
            if xxhash.xxh3_128_hexdigest(file.read(step)) != digest:
                bad.append(number)
    if not bad and "blake3" in entry and audit_hashes(out, [name])[name] != entry["blake3"]:
        return [
            f"{name} has another BLAKE3 hash, though its chunks have theirs: the manifest or the file was tampered with"
        ]
    if not bad:
        return []
    chunks = f"{len(bad)} of {len(entry['xxh3_128'])} chunks of {name} differ"
    touched = _tensors_at(path, bad, step) if path.suffix == ".safetensors" else []
    return [f"{chunks}, first at byte {bad[0] * step:,}" + (f"; they hold {listing(touched, 4)}" if touched else "")]


def _tensors_at(path: Path, chunks: Sequence[int], step: int) -> list[str]:
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


def verify_again(plan: Plan, out: Path, options: Options) -> tuple[list[str], list[str]]:
    """Merge again without writing, and compare every tensor with the output: to the bit, or within `TOLERANCE`.

    Returns:
        Problems and notes.
    """
    manifest = read_manifest(out)
    stored = open_checkpoint(out)
    problems = _differing_names(plan, stored)
    if problems:
        return problems, []
    compare = _Compare(plan, stored)
    merge = options.merge(plan)
    run_merge(merge, compare, options)
    recorded = {entry["model"]: entry["xxh3_128"] for entry in manifest["inputs"]}
    changed = [label for label, digest in input_hashes(plan, merge.findings).items() if recorded.get(label) != digest]
    problems = [f"the input '{label}' is not what it was when the output was made" for label in changed]
    problems += [f"'{name}' comes out differently: {what}" for name, what in sorted(compare.different.items())]
    near = f"{len(compare.near)} tensors differ by no more than {TOLERANCE} units in the last place, which {plan.method.name} allows"
    return problems, [near] if compare.near else []


def _differing_names(plan: Plan, stored: Checkpoint) -> list[str]:
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

    def __init__(self, plan: Plan, stored: Checkpoint):
        self.different: dict[str, str] = {}
        self.near: set[str] = set()
        self._stored = stored
        self._tolerant = {
            tensor.name
            for tensor in plan.tensors
            if tensor.action == "merge" and plan.method.reproducible == "tolerance"
        }

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
    _, exponent = np.frexp(np.maximum(np.abs(a), np.abs(b)))
    return bool(np.all(np.abs(a - b) <= TOLERANCE * np.ldexp(1.0, exponent - digits)))
