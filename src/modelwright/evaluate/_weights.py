"""A checkpoint on its way to being a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError, Problem, did_you_mean, listing


@dataclass(frozen=True)
class Weights:
    """A checkpoint with what it takes to make a model of it.

    Attributes:
        label: How tables call it.
        checkpoint: Its tensors and configuration.
        folder: Where tokenizer and image processor lie; of a merge that of its first model. None where there is none.
        device: Where it is to run.
    """

    label: str
    checkpoint: Checkpoint
    folder: Path | None
    device: str = "cpu"

    @property
    def config(self) -> Mapping[str, Any]:
        """Its config.json; empty where there is none."""
        return self.checkpoint.config or {}


def load_strictly(module: Any, weights: Weights) -> None:
    """Put tensors into a module; each must have its place, and each place its tensor.

    Raises:
        InputError: Names or shapes differ.
    """
    state = weights.checkpoint.state_dict()
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    _check_names(weights.label, wanted, shapes)
    module.load_state_dict(state)


def _check_names(label: str, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    missing, unexpected = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
    problems: list[Problem] = []
    if missing:
        mend = did_you_mean(missing[0], unexpected, 3) if unexpected else "The checkpoint is of another network."
        problems.append(Problem(f"tensors of the network are missing: {listing(missing, 5)}", mend, label))
    if unexpected:
        problems.append(Problem(f"the network has no place for {listing(unexpected, 5)}", where=label))
    odd = [name for name in wanted if name in found and wanted[name] != found[name]]
    if odd:
        first = f"'{odd[0]}' has shape {found[odd[0]]}, and the network's {wanted[odd[0]]}"
        problems.append(Problem(f"{first} ({len(odd)} such tensors)", where=label))
    if problems:
        raise InputError(problems)


def processor_files(folder: Path | None) -> str:
    """A hash of the small files that decide how inputs are read: tokenizer and processor."""
    digest = xxhash.xxh3_128()
    for path in sorted(folder.glob("*")) if folder is not None else ():
        if path.is_file() and re.search(r"token|vocab|merges|processor", path.name):
            digest.update(path.name.encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()
