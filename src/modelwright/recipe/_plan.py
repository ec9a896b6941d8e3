"""A plan: what will be read, computed and written, to the byte, before any of it happens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modelwright.checkpoint import Checkpoint, Part, Shard, TensorRef, lay_out
from modelwright.methods import Method, Position
from modelwright.recipe._schema import Recipe
from modelwright.tensors import DType

#: Where an input tensor ends up; each ends in exactly one.
Fate = Literal[
    "merged",  # went into a merged tensor
    "copied",  # its bytes are in the output
    "renamed",  # merged or copied under the name that `rename:` gives it
    "compared",  # an integer buffer: the donor's is copied, differing values are recorded
    "tied-alias",  # another name of an embedding, written once
    "consumed",  # de-quantisation scales and the like
    "dropped",  # because the recipe asked: outside the layer ranges, or `missing: skip`
    "base",  # of the base model, in place of one that a model lacks: `missing: base`
]


@dataclass(frozen=True)
class Input:
    """A tensor of a model: which model (index into `Plan.models`) and its name there."""

    model: int
    name: str


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output.

    Attributes:
        name: Its name.
        part: Prefix of the part it belongs to.
        shape: Its shape.
        dtype: The format it is written in.
        inputs: The tensors of the models that are not the base, in order.
        base: The base's tensor, or None.
        action: `merge` calls the method; `copy` takes the bytes of the first input; `compare` does that and compares.
        parameters: Values by name; per-model ones as tuples in the order of the inputs.
        position: Where it stands in the output.
    """

    name: str
    part: str
    shape: tuple[int, ...]
    dtype: DType
    inputs: tuple[Input, ...]
    base: Input | None
    action: Literal["merge", "copy", "compare"]
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    position: Position = field(default_factory=Position)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return self.size * self.dtype.itemsize

    @property
    def sources(self) -> tuple[Input, ...]:
        """Every tensor that is read for it."""
        return (*self.inputs, self.base) if self.base else self.inputs


def counted_together(method: Method, tensors: Sequence[PlannedTensor]) -> list[list[PlannedTensor]]:
    """Merged tensors by what a statistic of the method counts over: the whole model, or each layer.

    Outside the layers each tensor is one of its own.
    """
    if not any(method.scope(tensor.parameters) == "layer" for tensor in tensors):
        return [list(tensors)] if tensors else []
    groups: dict[tuple[str, int], list[PlannedTensor]] = {}
    for tensor in tensors:
        at = tensor.position
        groups.setdefault((at.stack, at.number) if at.count else (tensor.name, -1), []).append(tensor)
    return list(groups.values())


@dataclass(frozen=True)
class SideFile:
    """A file beside the weights: copied from `source`, or written from `text`."""

    name: str
    source: Path | None = None
    text: str | None = None


@dataclass(frozen=True)
class PlannedVocabulary:
    """The output's vocabulary, where it is not simply that of every model.

    Attributes:
        source: `base`, `union` or the model whose tokenizer the output has.
        tokens: Strings of the output's tokenizer.
        rows: Rows of its embeddings.
        models: Of each model by label, its `tokens`, its `rows`, and how many of the output's rows are its `own`, from the
            `base`, from `others`, an `average` of some, the `mean` of all its own, `zero`, or `padding`.
        encoded: Of each model by label, how many probe `texts` there are, how many are `changed`: encoded otherwise than by it,
            and how many `lost`: not given back though the model's own tokenizer does.
        changed: Of the base's changed texts some, with tokens before and after.
        findings: What the user should know.
        tokenizer_json: What the output's tokenizer is meant to be.
    """

    source: str
    tokens: int
    rows: int
    models: Mapping[str, Mapping[str, int]]
    encoded: Mapping[str, Mapping[str, int]]
    changed: tuple[tuple[str, int, int], ...]
    findings: tuple[str, ...]
    tokenizer_json: str = field(default="", repr=False)

    def as_json(self) -> dict[str, Any]:
        """For manifest and `mw check --json`."""
        found = {key: value for key, value in vars(self).items() if key != "tokenizer_json"}
        names = ("text", "tokens_before", "tokens_after")
        return found | {
            "models": {label: dict(counts) for label, counts in self.models.items()},
            "encoded": {label: dict(counts) for label, counts in self.encoded.items()},
            "changed": [dict(zip(names, entry, strict=True)) for entry in self.changed],
            "findings": list(self.findings),
        }


@dataclass(frozen=True)
class Plan:
    """A merge, ready to run.

    Attributes:
        recipe: What was asked, as resolved.
        method: How tensors are merged.
        models: Every checkpoint that is read.
        donor: Index of the model that config, tokenizer and integer buffers come from.
        base: Index of the base model, or None.
        tensors: The output, in the order it is written.
        parts: The parts of the output with their configurations.
        fates: Where every input tensor ends up: (model, name) -> fate.
        created: Output tensors without an input of that name, such as a head that is no longer tied.
        files: Configuration, tokenizer and other files beside the weights.
        notes: What the user should know; nothing that stops the merge.
        facts: Differences between the inputs worth a look: licences, tokenizers, chat templates.
        recipe_text: The recipe as it was written.
        folder: Where its relative paths start.
        vocabulary: What becomes of vocabularies, where they differ or are changed.
        origin: Where its model is computed from others that the recipe does not name: the command and its arguments.
    """

    recipe: Recipe
    method: Method
    models: tuple[Checkpoint, ...]
    donor: int
    base: int | None
    tensors: tuple[PlannedTensor, ...]
    parts: tuple[Part, ...]
    fates: Mapping[tuple[int, str], Fate]
    created: tuple[str, ...]
    files: tuple[SideFile, ...]
    notes: tuple[str, ...]
    facts: Mapping[str, Mapping[str, str]]
    recipe_text: str
    folder: str = ""
    vocabulary: PlannedVocabulary | None = None
    origin: Mapping[str, Any] | None = None

    def refs(self, tensor: PlannedTensor) -> list[TensorRef]:
        """The tensors that are read for an output tensor."""
        return [self.models[source.model][source.name] for source in tensor.sources]

    @property
    def bytes_in(self) -> int:
        """Bytes read in one pass."""
        return sum(self.models[i.model][i.name].nbytes for tensor in self.tensors for i in tensor.sources)

    @property
    def bytes_out(self) -> int:
        """Bytes of tensor data written."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def passes(self) -> int:
        """How often the inputs are read: once, and once for every model-wide statistic."""
        merged = next((tensor for tensor in self.tensors if tensor.action == "merge"), None)
        return 1 + (len(self.method.rounds(merged.parameters)) if merged else 0)

    def accounting(self) -> dict[str, dict[str, int]]:
        """For each model, how many of its tensors ended where."""
        table: dict[str, Counter[str]] = {}
        for (model, _), fate in self.fates.items():
            table.setdefault(self.models[model].label, Counter())[fate] += 1
        return {label: dict(sorted(counts.items())) for label, counts in table.items()}

    def shards(self, limit: int) -> dict[str, list[Shard]]:
        """The weight files of each part, laid out to the byte."""
        metadata = {"format": "pt"} | {k: v for k, v in self.models[self.donor].metadata.items() if k != "format"}
        result: dict[str, list[Shard]] = {}
        for part in self.parts:
            mine = [t for t in self.tensors if t.part == part.prefix]
            entries = [(t.name.removeprefix(part.prefix), t.dtype, t.shape) for t in mine]
            result[part.prefix] = lay_out(
                entries, part.stem, limit, {k: v for k, v in metadata.items() if len(v) < 4096}
            )
        return result
