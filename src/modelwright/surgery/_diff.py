"""How models differ: figures of task vectors by tensor, layer and kind."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.api import open_model as open_checkpoint
from modelwright.bundle import WeightBundle
from modelwright.checkpoint import Checkpoint
from modelwright.engine import MOST_SPECTRUM, Contrast, Meeting, contrast
from modelwright.errors import InputError, listing
from modelwright.surgery._match import Match, Structure, match
from modelwright.surgery._names import kind, layer, unique
from modelwright.tensors import Spectrum

_VERSION = 1
#: Singular values that are kept of each matrix.
_LEADING = 8


@dataclass(frozen=True)
class Vector:
    """A task vector, model minus base, of a tensor or a group of tensors. What has no meaning is NaN.

    Attributes:
        model: Of which model.
        norm: Its Euclidean norm.
        relative: That over the base's norm.
        sparsity: The share of its entries that are exactly zero.
        similarity: The cosine between the model's own weights and the base's.
        effective_rank: exp of the entropy of its singular values over their sum; of a group the mean over its matrices.
        rank_share: That over the shorter side of the matrix, in [0, 1]; of a group likewise the mean.
        stable_rank: Squared norm over the squared largest singular value; of a group likewise.
        rank_90: Of a matrix, how many leading singular values hold 90 % of its squared norm; of a group the mean.
        exact: Whether that is from all singular values and no estimate.
        singular_values: Of a matrix, the largest ones; empty for a group.
        odd: How many of the model's entries are NaN or infinite; they are left out of all other figures.
    """

    model: str
    norm: float
    relative: float
    sparsity: float
    similarity: float
    effective_rank: float = math.nan
    rank_share: float = math.nan
    stable_rank: float = math.nan
    rank_90: float = math.nan
    exact: bool = True
    singular_values: tuple[float, ...] = ()
    odd: int = 0


@dataclass(frozen=True)
class Pair:
    """Two task vectors. What has no meaning, such as the cosine of a zero vector, is NaN.

    Attributes:
        models: Whose.
        cosine: Between them, in [-1, 1].
        conflict: Of the entries that are nonzero in both, the share whose signs differ, in [0, 1].
        overlap: The share of all entries that are nonzero in both.
    """

    models: tuple[str, str]
    cosine: float
    conflict: float
    overlap: float


@dataclass(frozen=True)
class Figures:
    """A tensor, or a group of tensors as if it were one.

    Attributes:
        name: Of the tensor, layer or kind.
        layer: The layer it belongs to; empty for kinds and the whole.
        kind: What it is called in every layer; empty for layers and the whole.
        tensors: How many.
        size: Elements of each model that were compared.
        shape: Of a tensor, what was compared; empty for a group.
        vectors: One for each model.
        pairs: One for each pair of models.
    """

    name: str
    layer: str
    kind: str
    tensors: int
    size: int
    shape: tuple[int, ...]
    vectors: tuple[Vector, ...]
    pairs: tuple[Pair, ...]

    @property
    def relative(self) -> float:
        """The largest relative norm of the models; 0 where none has one."""
        return max((v.relative for v in self.vectors if not math.isnan(v.relative)), default=0.0)


@dataclass(frozen=True)
class Difference:
    """What `diff` found.

    Attributes:
        base: What the models are compared with.
        models: The others, in the order of all figures.
        overall: All tensors together.
        layers: By layer, in the order in which a model computes; what is outside all layers has a group for each kind.
        kinds: By kind, over all layers.
        tensors: Each tensor, in that order.
        structure: What differs beside the weights.
        notes: What the reader should know.
    """

    base: str
    models: tuple[str, ...]
    overall: Figures
    layers: tuple[Figures, ...]
    kinds: tuple[Figures, ...]
    tensors: tuple[Figures, ...]
    structure: Structure
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data with stable keys; what has no meaning is null."""
        return {
            "version": _VERSION, "ok": True, "base": self.base, "models": list(self.models), "overall": _plain(self.overall),
            "layers": _plain(self.layers), "kinds": _plain(self.kinds), "tensors": _plain(self.tensors),
            "structure": _plain(self.structure), "notes": list(self.notes),
        }  # fmt: skip


def diff(
    models: str | Path | Checkpoint | Mapping[str, Any] | Iterable[Any],
    *,
    base: Any = None,
    spectra: bool = True,
    threads: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Difference:
    """How models differ from a base, and from each other: task vectors in figures.

    A task vector is model minus base, in float32 (float64 where an input is float64); sums are in float64. Weights are read in
    blocks, so that memory does not grow with the model; spectra hold one matrix a thread.

    Args:
        models: A model, or a list of them: whatever `mw.open` opens.
        base: The model the others were tuned from. Without it the first of at least two models is what the others are compared with.
        spectra: Whether matrices get singular values and ranks: exact up to a shorter side of 512, else an estimate (see
            `modelwright.tensors.spectrum`); up to 2**27 elements. Without them it is a matter of reading.
        threads: How many work; 0 for the number of cores.
        progress: Called with (what, bytes done, bytes in all).

    Returns:
        Figures for the whole, each layer, each kind of tensor and each tensor. Tensors that a model lacks, or has in another
        shape, are named and not compared; of embeddings with unequal numbers of rows the common ones are.

    Raises:
        InputError: A model cannot be opened, there is nothing to compare with, or no tensor in common.

    Example:
        >>> import numpy as np
        >>> base = {"w": np.zeros(2, np.float32)}
        >>> found = diff([{"w": np.array([3, 0], np.float32)}, {"w": np.array([0, 4], np.float32)}], base=base)
        >>> found.overall.vectors[1].norm, found.overall.pairs[0].cosine
        (4.0, 0.0)
    """
    if threads < 0:
        raise InputError(f"threads must be 0 (all cores) or more, got {threads}")
    opened, labels = _opened(models, base)
    found = match(opened, labels)
    contrasts = contrast(found.meetings, spectra=spectra, threads=threads or os.cpu_count() or 1, progress=progress)
    for meeting in found.buffers:
        differing = _differing(meeting, labels)
        if differing:
            found.structure.buffers.append({"tensor": meeting.name, "models": differing})
    rows = [
        _Row(meeting, layer(meeting.name, place), kind(meeting.name, place), one)
        for meeting, one in zip(found.meetings, contrasts, strict=True)
        for place in [found.layout.place(meeting.name)]
    ]
    models_ = labels[:-1]
    return Difference(
        base=labels[-1],
        models=tuple(models_),
        overall=_figures("all", rows, models_),
        layers=_grouped(rows, models_, "layer"),
        kinds=_grouped(rows, models_, "kind"),
        tensors=tuple(_figures(row.meeting.name, [row], models_, row) for row in rows),
        structure=found.structure,
        notes=tuple(_notes(found, opened, rows, labels, spectra)),
    )


def _opened(models: Any, base: Any) -> tuple[list[Checkpoint], list[str]]:
    """The models with the base last, and what to call them."""
    one = isinstance(models, str | os.PathLike | Mapping | WeightBundle) or hasattr(models, "state_dict")
    listed: list[Any] = [models] if one else list(models)  # type: ignore[reportArgumentType]
    if base is None:
        if len(listed) < 2:
            raise InputError(
                f"{'one model' if listed else 'no model'} and no base: there is nothing to compare with",
                "Give two models, or the one it was tuned from: --base MODEL (base=).",
            )
        base, *listed = listed
    elif not listed:
        raise InputError("no model to compare with the base", "Give at least one.")
    opened = [open_checkpoint(model) for model in (*listed, base)]
    named = [model.label for model in opened]
    if not isinstance(base, str | os.PathLike):  # everything in memory is called by its type
        named[-1] = "base" if named[-1] in named[:-1] else named[-1]
    return opened, unique(named)


@dataclass(frozen=True)
class _Row:
    meeting: Meeting
    layer: str
    kind: str
    found: Contrast


def _grouped(rows: Sequence[_Row], models: Sequence[str], by: str) -> tuple[Figures, ...]:
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, by), []).append(row)
    return tuple(
        _figures(name, members, models, layer=name if by == "layer" else "", kind=name if by == "kind" else "")
        for name, members in groups.items()
    )


def _figures(
    name: str, rows: Sequence[_Row], models: Sequence[str], one: _Row | None = None, *, layer: str = "", kind: str = ""
) -> Figures:
    """Of one tensor, or of several: their sums added up."""
    count = len(models)
    dots = sum((row.found.dots for row in rows), np.zeros((count + 1, count + 1)))
    zeros, odd = (_added(getattr(row.found, name) for row in rows) for name in ("zeros", "odd"))
    both, against = (_added(getattr(row.found, name) for row in rows) for name in ("both", "against"))
    size = sum(row.found.size for row in rows)
    vectors = tuple(
        _vector(models[i], i, dots, _share(zeros[i], size), int(odd[i]), rows, one is not None) for i in range(count)
    )
    pairs = tuple(
        Pair(
            (models[i], models[j]), _cosine(dots[i, j], dots[i, i], dots[j, j]),
            _share(against[i, j], both[i, j]), _share(both[i, j], size),
        )
        for i in range(count) for j in range(i + 1, count)
    )  # fmt: skip
    layer, kind = (one.layer, one.kind) if one else (layer, kind)
    shape = one.meeting.shape if one else ()
    return Figures(name, layer, kind, len(rows), size, shape, vectors, pairs)


def _added(counts: Iterable[Any]) -> Any:
    first, *others = counts  # a group has a tensor
    return sum(others, first)


def _vector(model: str, i: int, dots: Any, sparsity: float, odd: int, rows: Sequence[_Row], single: bool) -> Vector:
    square, base = dots[i, i], dots[-1, -1]
    with_base = base + dots[i, -1]  # of the model's own weights: model = base + task vector
    own = base + 2 * dots[i, -1] + square
    seen = [(row.meeting.matrix, row.found.spectra[i]) for row in rows]
    known = [(min(shape), found) for shape, found in seen if shape is not None and found is not None]
    ranks = [found.effective_rank for _, found in known]
    return Vector(
        model=model,
        norm=math.sqrt(square),
        relative=math.sqrt(square / base) if base > 0 else math.nan,
        sparsity=sparsity,
        similarity=_cosine(with_base, own, base),
        effective_rank=_mean(ranks),
        rank_share=_mean([rank / side for rank, (side, _) in zip(ranks, known, strict=True)]),
        stable_rank=_mean([found.stable_rank for _, found in known]),
        rank_90=_mean([found.rank_of(0.9) for _, found in known]),
        exact=all(found.exact for _, found in known),
        singular_values=_largest(known[0][1]) if single and known else (),
        odd=odd,
    )


def _largest(found: Spectrum) -> tuple[float, ...]:
    """The leading singular values; of an estimate those that were found one by one."""
    return tuple(float(value) for value in found.values[found.counts == 1][:_LEADING])


def _cosine(product: float, a: float, b: float) -> float:
    return max(-1.0, min(1.0, float(product / math.sqrt(a * b)))) if a > 0 and b > 0 else math.nan


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _differing(meeting: Meeting, labels: Sequence[str]) -> list[str]:
    """The models whose buffer is not the base's."""
    *arrays, base = [ref.read() for ref in meeting.refs]
    return [label for label, array in zip(labels, arrays, strict=False) if not np.array_equal(array, base)]


def _notes(
    found: Match, opened: Sequence[Checkpoint], rows: Sequence[_Row], labels: Sequence[str], spectra: bool
) -> list[str]:
    notes = [note for model in opened for note in model.notes]
    structure = found.structure
    for entry in structure.missing:
        names = entry["tensors"]
        notes.append(f"{entry['model']} lacks {_count(names, 'tensor')} that another has: {listing(names, 3)}")
    if structure.shapes:
        names = [entry["tensor"] for entry in structure.shapes]
        verbs = "differs in shape and is" if len(names) == 1 else "differ in shape and are"
        notes.append(f"{_count(names, 'tensor')} {verbs} not compared: {listing(names, 3)}")
    for entry in structure.vocabulary:
        rows_of = ", ".join(f"{label} {count}" for label, count in entry["rows"].items())
        notes.append(
            f"{entry['tensor']} has unequal numbers of rows ({rows_of}); the first {entry['compared']} are compared"
        )
    if structure.tokenizers:
        shown = ", ".join(f"{label} {print_ or 'none'}" for label, print_ in structure.tokenizers.items())
        notes.append(f"the tokenizers differ ({shown}): one row of an embedding may stand for different tokens")
    if structure.buffers:
        names = [entry["tensor"] for entry in structure.buffers]
        notes.append(
            f"{_count(names, 'tensor')} of integers {'differs' if len(names) == 1 else 'differ'}: {listing(names, 3)}"
        )
    for i, label in enumerate(labels):
        odd = {row.meeting.name: int(row.found.odd[i]) for row in rows if row.found.odd[i]}
        if odd:
            notes.append(
                f"{label} holds {sum(odd.values())} values that are NaN or infinite, in {listing(odd, 3)}; they are left out"
            )
    large = [row.meeting.name for row in rows if row.meeting.size > MOST_SPECTRUM and len(row.meeting.shape) > 1]
    if spectra and large:
        notes.append(f"no spectrum of matrices above {MOST_SPECTRUM:,} elements: {listing(large, 3)}")
    return list(dict.fromkeys(notes))


def _count(names: Sequence[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def _plain(value: Any) -> Any:
    """Dataclasses and tuples as dicts and lists, NaN as None."""
    if isinstance(value, Figures | Vector | Pair):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Structure):
        return asdict(value)
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
