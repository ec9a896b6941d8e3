"""manifest.json: what came in, what was done, what came out, so that a merge can be checked and repeated."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from modelwright.checkpoint import Quantised, quantised, rounding
from modelwright.engine._lineage import provenance
from modelwright.engine._merge import Findings
from modelwright.engine._output import CHUNK
from modelwright.engine._sources import ranges
from modelwright.errors import MissingExtraError
from modelwright.recipe import Plan


def chunk_hashes(file: BinaryIO) -> dict[str, Any]:
    """Size of a file, and xxh3-128 of each of its chunks."""
    chunks: list[str] = []
    size = 0
    while block := file.read(CHUNK):
        chunks.append(xxhash.xxh3_128_hexdigest(block))
        size += len(block)
    return {"bytes": size, "xxh3_128": chunks}


def file_hash(path: Path) -> dict[str, Any]:
    """Size and xxh3-128 of every chunk of a file."""
    with path.open("rb") as file:
        return chunk_hashes(file)


def file_hashes(folder: Path, skip: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Size and xxh3-128 of every chunk of each file in a folder, by relative path, but for those to skip."""
    table: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and path.relative_to(folder).as_posix() not in skip:
            table[path.relative_to(folder).as_posix()] = file_hash(path)
    return table


def add_file(manifest: dict[str, Any], name: str, content: bytes) -> None:
    """Take a small file into a manifest's list, with hashes of the kinds that the others have."""
    files: dict[str, Any] = manifest["files"]
    entry = chunk_hashes(BytesIO(content))
    if any("blake3" in other for other in files.values()):
        entry["blake3"] = _blake3()(content).hexdigest()
    manifest["files"] = dict(sorted({**files, name: entry}.items()))


def audit_hash() -> Any:
    """A BLAKE3 hash to be fed: slower than the chunks' hashes, and what nobody can forge.

    Raises:
        MissingExtraError: The package blake3 is not installed.
    """
    blake3 = _blake3()
    return blake3(max_threads=blake3.AUTO)


def audited(path: Path) -> str:
    """BLAKE3 of a whole file; read, not mapped, so that its pages do not count as this process's memory."""
    digest = audit_hash()
    with path.open("rb", buffering=0) as file:
        while block := file.read(4 * CHUNK):
            digest.update(block)
    return digest.hexdigest()


def check_audit() -> None:
    """Refuse early what `audit_hash` would refuse late."""
    _blake3()


def _blake3() -> Any:
    try:
        from blake3 import blake3
    except ModuleNotFoundError:
        raise MissingExtraError("--hash blake3", "blake3", "audit") from None
    return blake3


def manifest_of(
    plan: Plan,
    files: Mapping[str, Mapping[str, Any]],
    findings: Findings,
    lost: Mapping[str, Sequence[Quantised]],
    rounded: Mapping[str, float],
    notes: Sequence[str],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest. Everything but `run` is the same whenever the same merge is done again."""
    hashes = input_hashes(plan, findings)
    read = {source for tensor in plan.tensors for source in tensor.sources}
    inputs: list[dict[str, Any]] = []
    for index, model in enumerate(plan.models):
        count = sum(source.model == index for source in read)
        fates: dict[str, list[str]] = {}
        for (i, name), fate in plan.fates.items():
            if i == index:
                fates.setdefault(fate, []).append(name)
        told: dict[str, Any] = {"model": model.label, "tensors_read": count, "xxh3_128": hashes[model.label]}
        if found := lost.get(model.label):
            told["quantised"] = {one.kind: {"tensors": one.tensors, "estimated_error": one.error} for one in found}
        inputs.append(told | provenance(model) | {"tensors": fates})
    return {
        "manifest_version": 1,
        "made_by": {
            "modelwright": version("modelwright"),
            "numpy": version("numpy"),
            "ml-dtypes": version("ml-dtypes"),
        },
        "method": plan.method.name,
        "title": plan.method.title,
        "paper": plan.method.paper,
        "semantics": plan.recipe.semantics,
        "seed": plan.recipe.seed,
        "recipe": plan.recipe_text,
        **({"origin": dict(plan.origin)} if plan.origin is not None else {}),
        "resolved": plan.recipe.model_dump(exclude_none=True, exclude_defaults=True),
        "parameters": _parameters(plan),
        "donor": plan.models[plan.donor].label,
        "inputs": inputs,
        "output": {
            "tensors": len(plan.tensors),
            "merged": sum(tensor.action == "merge" for tensor in plan.tensors),
            "elements": sum(tensor.size for tensor in plan.tensors),
            "dtypes": sorted({tensor.dtype.name for tensor in plan.tensors}),
        },
        "created": list(plan.created),
        "buffers_that_differ": sorted(findings.buffers),
        "notes": list(notes),
        **({"vocabulary": plan.vocabulary.as_json()} if plan.vocabulary else {}),
        **({"rounding": dict(rounded)} if rounded else {}),
        "chunk_bytes": CHUNK,
        "files": dict(files),
        "run": {**run, "host": platform.node(), "platform": platform.platform(), "python": platform.python_version()},
    }


def manifest_json(manifest: Mapping[str, Any]) -> str:
    """The manifest's text."""
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


def input_hashes(plan: Plan, findings: Findings) -> dict[str, str]:
    """Of each model, by label, a hash of the tensors that were read: of their names and of the hashes of their ranges."""
    lines: dict[str, set[str]] = {model.label: set() for model in plan.models}
    for tensor in plan.tensors:
        for source in tensor.sources:
            parts = [findings.digests[source, number] for number in range(len(ranges(tensor.size)))]
            digest = xxhash.xxh3_128_hexdigest("".join(parts).encode())
            lines[plan.models[source.model].label].add(f"{source.name} {digest}")
    return {label: xxhash.xxh3_128_hexdigest("\n".join(sorted(found)).encode()) for label, found in lines.items()}


def losses(plan: Plan) -> dict[str, list[Quantised]]:
    """Of each model that is quantised, by label, the types of the tensors that are read and what those have lost."""
    read: dict[int, dict[str, None]] = {}
    for tensor in plan.tensors:
        for source in tensor.sources:
            read.setdefault(source.model, {})[source.name] = None
    found = {
        plan.models[index].label: quantised(plan.models[index][name] for name in names) for index, names in read.items()
    }
    return {label: types for label, types in found.items() if types}


def loss_notes(lost: Mapping[str, Sequence[Quantised]]) -> list[str]:
    """The same for the user."""
    notes: list[str] = []
    for label, types in lost.items():
        told = [f"{one.kind} {one.error:.2%}" if one.error is not None else f"{one.kind} unknown" for one in types]
        notes.append(f"{label}: estimated relative error of quantising, before this merge: {', '.join(told)}")
    return notes


def roundings(plan: Plan) -> dict[str, float]:
    """Of each tensor of the output that is written as float8 with scales, the relative error of that."""
    found = [(tensor, tensor.sources[0]) for tensor in plan.tensors if tensor.action == "copy"]
    told = {tensor.name: rounding(plan.models[source.model], [source.name]) for tensor, source in found}
    return {name: error for name, errors in told.items() for error in errors.values()}


def rounding_notes(rounded: Mapping[str, float]) -> list[str]:
    """The same for the user, in a sentence."""
    if not rounded:
        return []
    worst = max(rounded, key=lambda name: rounded[name])
    middle = sorted(rounded.values())[len(rounded) // 2]
    return [
        f"relative error of rounding to float8: {middle:.2%} in the middle, at most {rounded[worst]:.2%}, in '{worst}'; of each matrix in "
        "manifest.json"
    ]


def _parameters(plan: Plan) -> dict[str, Any]:
    """What every parameter came to: its value, or each of its values in the order of the tensors."""
    found: dict[str, dict[str, Any]] = {}
    for tensor in plan.tensors:
        for name, value in tensor.parameters.items():
            found.setdefault(name, {})[json.dumps(value)] = value
    return {
        name: next(iter(values.values())) if len(values) == 1 else {"values": list(values.values())}
        for name, values in found.items()
    }
