"""Which merge it is: what a partial output must agree on before it is gone on with."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from modelwright.checkpoint import Checkpoint, Shard, file_state
from modelwright.errors import InputError
from modelwright.methods import Method
from modelwright.recipe import Plan

#: Files of a model folder that a merge depends on.
_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".th", ".gguf", ".json"})


def identity(plan: Plan, shards: Mapping[str, Sequence[Shard]], how: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the bytes of an output depend on, in parts that can be named when one differs.

    `how` holds those options that bytes depend on. Inputs are told by path, size and time of change. Those in memory cannot be told when the process is gone, so a merge
    of them cannot be gone on with.
    """
    said = plan.recipe.model_dump(mode="json", exclude={"name"})
    tensors = [
        [t.name, t.dtype.name, t.shape, [[i.model, i.name] for i in t.sources], t.action, dict(t.parameters)]
        for t in plan.tensors
    ]
    headers = [[prefix, shard.file, shard.header.hex()] for prefix, files in shards.items() for shard in files]
    return {
        "recipe": _hash([said, plan.method.name, method_source(plan.method), tensors, dict(how)]),
        "layout": _hash(headers),
        "version": version("modelwright"),
        "inputs": inputs(plan),
        "resumable": all(model.path is not None for model in plan.models),
    }


def changed_inputs(plan: Plan, about: Mapping[str, Any]) -> str:
    """The first input file that is not what it was; empty where there is none."""
    return first_difference(inputs(plan), about["inputs"])


def check_as_opened(plan: Plan) -> None:
    """Refuse weight files that are not what they were when their headers were read: their tensors may lie elsewhere now.

    Raises:
        InputError: One is another, or gone.
    """
    for model in plan.models:
        for path, state in model.states.items():
            now = file_state(path)
            if now != state:
                what = "has changed since it was opened" if now else "is no longer there"
                raise InputError(f"'{path}' {what}", "Open the models again, when nothing writes to them.")


def first_difference(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    """The first file of then that is not the same now; those that came since are downloads of a Hub model."""
    return next((key for key in sorted(then) if now.get(key) != then[key]), "")


def inputs(plan: Plan) -> dict[str, Any]:
    """Size and time of change of every file of every model, by path."""
    found: dict[str, Any] = {}
    for model in plan.models:
        for path in _files(model):
            state = file_state(path)
            if state is not None:
                found[str(path)] = [*state]
    return found


def _files(model: Checkpoint) -> Iterator[Path]:
    """What a model is read from: the files directly in its folders, and not what others may write below them."""
    for path in () if model.path is None else (model.path, *model.beneath):
        if path.is_file():
            yield path
            continue
        folders = dict.fromkeys([path, *(path / part.prefix for part in model.parts)])
        for folder in folders:
            yield from (file for file in sorted(folder.glob("*")) if file.suffix in _SUFFIXES and file.is_file())


def method_source(method: Method) -> str:
    """The file that a method's function is in: a plugin changes without a version."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(method.function))
    except TypeError:  # not a plain function
        file = None
    return Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else ""


def _hash(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, default=str).encode())
