"""One noun for weights: everything that is named tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.architectures import Layout, tie_source, ties_embeddings
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.errors import InputError, MissingExtraError, did_you_mean

#: Tensors are compared this many bytes at a time.
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Part:
    """One model inside a folder; most folders have a single one with prefix "".

    Attributes:
        prefix: What its tensor names start with, `unet/`; also its subfolder.
        stem: What its weight files are called, `model` or `diffusion_pytorch_model`.
        config: Its config.json, or None.
    """

    prefix: str = ""
    stem: str = "model"
    config: Mapping[str, Any] | None = None


class _NoTensorError(KeyError):
    """Says what there is instead, but only when shown: `Mapping.get` and `in` raise and forget it."""

    def __init__(self, label: str, name: str, known: Iterable[str]):
        super().__init__(name)
        self._label, self._known = label, known

    def __str__(self) -> str:
        return f"{self._label} has no tensor '{self.args[0]}'. {did_you_mean(str(self.args[0]), self._known)}"


class Checkpoint(Mapping[str, TensorRef]):
    """A lazy mapping from tensor names to `TensorRef`, in a defined order, with what belongs to it.

    Attributes:
        label: What to call it in messages: the reference as given.
        path: Its folder or file, or None. Of a remote one, the local folder with its small files.
        url: Where its weights are, if they stay in a store.
        parts: The models in it.
        metadata: What the weight files say of themselves.
        notes: What was done while opening: de-quantised tensors, an adapter applied.
        consumed: Stored tensors that went into others while opening -> why.
        beside: Files that belong to it and are not in a folder at `path`: name -> the file, or its text.
        beneath: Further folders and files that its tensors come from, such as an adapter's.
        states: State of each weight file here when its header was read, as `file_state` tells it.
        aliases: Names that share a tensor with another, such as a head tied to the embedding -> that other name.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorRef],
        *,
        label: str = "memory",
        path: Path | None = None,
        url: str | None = None,
        parts: tuple[Part, ...] = (Part(),),
        metadata: Mapping[str, str] | None = None,
        notes: tuple[str, ...] = (),
        consumed: Mapping[str, str] | None = None,
        beside: Mapping[str, Path | str] | None = None,
        beneath: tuple[Path, ...] = (),
        states: Mapping[Path, tuple[int, int] | None] | None = None,
        aliases: Mapping[str, str] | None = None,
        save: Callable[..., Any] | None = None,
    ):
        self._tensors = dict(tensors)
        self._save = save
        self._tied: dict[str, str] | None = None
        self.label = label
        self.path = path
        self.url = url
        self.parts = parts
        self.metadata = dict(metadata or {})
        self.notes = notes
        self.consumed = dict(consumed or {})
        self.beside = dict(beside or {})
        self.beneath = beneath
        self.states = dict(states or {})
        self.aliases = dict(aliases or {})

    def __getitem__(self, name: str) -> TensorRef:
        try:
            return self._tensors[name]
        except KeyError:
            raise _NoTensorError(self.label, name, self._tensors) from None

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        total = sum(ref.size for ref in self.values())
        return f"Checkpoint({self.label!r}, {len(self)} tensors, {total:,} elements)"

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The configuration of the only or the first part."""
        return self.parts[0].config

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in their storage formats."""
        return sum(ref.nbytes for ref in self.values())

    @property
    def layout(self) -> Layout:
        """Its stacks of layers."""
        return Layout(self)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: ref.shape for name, ref in self.items()}

    @property
    def tied(self) -> Mapping[str, str]:
        """Tensors that are another name of an embedding -> that embedding.

        Two names are one tensor when the configuration does not forbid it and their bytes are equal, so the first use
        reads the candidates (at most an embedding and a head).
        """
        if self._tied is None:
            self._tied = {}
            for part in self.parts:
                if ties_embeddings(part.config):
                    self._tied |= self._tied_in(part)
        return self._tied

    def _tied_in(self, part: Part) -> dict[str, str]:
        others = tuple(other.prefix for other in self.parts if len(other.prefix) > len(part.prefix))
        shapes = {
            name.removeprefix(part.prefix): ref.shape
            for name, ref in self.items()
            if name.startswith(part.prefix) and not name.startswith(others)
        }
        found: dict[str, str] = {}
        for short in shapes:
            source = tie_source(short, shapes)
            if source and _same_bytes(self[part.prefix + source], self[part.prefix + short]):
                found[part.prefix + short] = part.prefix + source
        return found

    def with_notes(self, *notes: str) -> Checkpoint:
        """The same with more to say about how it was opened."""
        result = copy.copy(self)
        result.notes = (*self.notes, *notes)
        return result

    def with_tensors(self, tensors: Mapping[str, TensorRef]) -> Checkpoint:
        """The same with other tensors in place of its own, such as embeddings for another vocabulary."""
        result = copy.copy(self)
        result._tensors = self._tensors | dict(tensors)
        result._tied = None
        return result

    def replaced(
        self, tensors: Mapping[str, TensorRef], *, parts: tuple[Part, ...], notes: Iterable[str]
    ) -> Checkpoint:
        """The same with other tensors in it, other configurations, and more to say."""
        result = self.with_notes(*notes)
        result._tensors, result._tied, result._save, result.parts = dict(tensors), None, None, parts
        return result

    def arrays(self) -> dict[str, NumpyArray]:
        """All tensors, read or computed now, as numpy arrays in their storage formats."""
        return {name: ref.read().astype(ref.dtype.numpy, copy=False) for name, ref in self.items()}

    def state_dict(self) -> dict[str, Any]:
        """All tensors as torch tensors, for `module.load_state_dict`: a tied head under its own name too.

        Raises:
            MissingExtraError: torch is not installed.
        """
        try:
            from modelwright.checkpoint._torch import to_torch
        except ModuleNotFoundError:
            raise MissingExtraError("state_dict()", "torch", "torch") from None
        tensors = {name: to_torch(array) for name, array in self.arrays().items()}
        return tensors | {alias: tensors[name] for alias, name in self.aliases.items()}

    def save(self, out: str | Path, **options: Any) -> Any:
        """Write it as a folder, streaming. What a merge returns is computed while it is written.

        Args:
            out: The folder to make, or a URL such as `s3://bucket/merged`.
            **options: Fields of `modelwright.engine.Options`: threads, device, overwrite, shard_bytes, progress.
        """
        if self._save is None:
            raise InputError(
                f"{self.label} is not the result of a merge, so there is nothing to compute",
                "Copy its folder, or merge it alone: mw.merge([x], method='passthrough').save(out).",
            )
        return self._save(out, **options)


def _same_bytes(a: TensorRef, b: TensorRef) -> bool:
    """Whether two tensors are equal to the bit; by chunks, so that unequal ones are told apart at once."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.fill and b.fill:  # what lies far away is not brought to the end only to see that it begins differently
        left, right = (np.empty(min(_CHUNK, a.nbytes), np.uint8) for _ in (a, b))
        for at in range(0, a.nbytes, _CHUNK):
            count = min(_CHUNK, a.nbytes - at)
            a.fill(left[:count], at)
            b.fill(right[:count], at)
            if not np.array_equal(left[:count], right[:count]):
                return False
        return True
    left, right = (np.ascontiguousarray(ref.read()).reshape(-1).view(np.uint8) for ref in (a, b))
    if left.size != right.size:
        return False
    return all(np.array_equal(left[at : at + _CHUNK], right[at : at + _CHUNK]) for at in range(0, left.size, _CHUNK))
