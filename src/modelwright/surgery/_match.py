"""Which tensors of several models meet, and how the models differ before a weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modelwright.architectures import Layout, is_computed, tie_source, ties_embeddings, vocabulary_tensor
from modelwright.checkpoint import Checkpoint, TensorRef
from modelwright.engine import Meeting
from modelwright.errors import InputError, listing
from modelwright.recipe import fingerprint
from modelwright.surgery._names import ordered


@dataclass(frozen=True)
class Structure:
    """How models differ in what is no weight; every entry is plain data, as in JSON.

    Attributes:
        dtypes: Tensors stored in different formats, put together by these: `dtypes` by model, `tensors`, `example`.
        shapes: Tensors that are not compared, because their shapes differ: `tensor`, `shapes` by model.
        vocabulary: Embeddings and heads of unequal numbers of rows: `tensor`, `rows` by model, `compared` rows.
        missing: What a model lacks of the tensors that another has: `model`, `tensors`.
        buffers: Tensors of integers whose values differ: `tensor`, `models` that differ from the base.
        tokenizers: A hash of each model's vocabulary, or None, where they are not all the same.
    """

    dtypes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    shapes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    vocabulary: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    missing: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    buffers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tokenizers: dict[str, str | None] = field(default_factory=dict[str, "str | None"])


@dataclass
class Match:
    """What meets.

    Attributes:
        meetings: Tensors of floating-point numbers that all have.
        buffers: Tensors of other numbers, likewise.
        structure: What differs, but for the values of buffers.
        layout: The layers, by the names of the base.
    """

    meetings: list[Meeting]
    buffers: list[Meeting]
    structure: Structure
    layout: Layout


def match(models: Sequence[Checkpoint], labels: Sequence[str]) -> Match:
    """Bring tensors of one name together; the last model is the base.

    Raises:
        InputError: There is none that all have.
    """
    structure = Structure()
    found = Match([], [], structure, Layout(models[-1]))
    known = dict.fromkeys(name for model in (models[-1], *models[:-1]) for name in model)
    names = ordered(known, Layout(known))
    lacking: dict[str, list[str]] = {}
    formats: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        if all(name not in model or name in model.tied for model in models):
            continue  # another name of an embedding, which is compared under its own
        refs = [_ref(model, name, models) for model in models]
        for label, ref in zip(labels, refs, strict=True):
            if ref is None:
                lacking.setdefault(label, []).append(name)
        held = [ref for ref in refs if ref is not None]
        if len(held) == len(refs):
            _meet(found, name, held, labels, formats)
    structure.missing.extend({"model": label, "tensors": names} for label, names in lacking.items())
    for codes, listed in formats.items():
        by_model = dict(zip(labels, codes, strict=True))
        structure.dtypes.append({"dtypes": by_model, "tensors": len(listed), "example": listed[0]})
    prints = {label: fingerprint(model) for label, model in zip(labels, models, strict=True)}
    if len(set(prints.values())) > 1:
        structure.tokenizers.update(prints)
    if not found.meetings:
        raise InputError(
            f"{listing(labels)} have no tensor in common that could be compared",
            "They start with: "
            + "; ".join(f"{label}: {listing(list(m), 2)}" for label, m in zip(labels, models, strict=True)),
        )
    return found


def _ref(model: Checkpoint, name: str, models: Sequence[Checkpoint]) -> TensorRef | None:
    """The tensor of this name, or the embedding that it is tied to in this model."""
    if name in model:
        return model[name]
    if vocabulary_tensor(name) and ties_embeddings(model.config):
        shape = next(other[name].shape for other in models if name in other)
        target = tie_source(name, model.shapes, shape)
        return model[target] if target else None
    return None


def _meet(
    found: Match, name: str, refs: list[TensorRef], labels: Sequence[str], formats: dict[tuple[str, ...], list[str]]
) -> None:
    shapes = [ref.shape for ref in refs]
    shape = shapes[0]
    if len(set(shapes)) > 1:
        rows = [shape[0] for shape in shapes if shape]
        alike = len(rows) == len(shapes) and len({shape[1:] for shape in shapes}) == 1
        if not alike or not vocabulary_tensor(name):
            by_model = {label: list(shape) for label, shape in zip(labels, shapes, strict=True)}
            found.structure.shapes.append({"tensor": name, "shapes": by_model})
            return
        shape = (min(rows), *shape[1:])
        by_model = dict(zip(labels, rows, strict=True))
        found.structure.vocabulary.append({"tensor": name, "rows": by_model, "compared": shape[0]})
    if len({ref.dtype for ref in refs}) > 1:
        formats.setdefault(tuple(ref.dtype.name for ref in refs), []).append(name)
    meeting = Meeting(name, shape, tuple(refs))
    if all(ref.dtype.floating for ref in refs) and not is_computed(name, shape):
        found.meetings.append(meeting)
    else:
        found.buffers.append(meeting)
