"""Another tokenizer for a model: rows of tokens that it knows are kept, rows of new ones are made of those."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modelwright.api import Job, registry
from modelwright.architectures import over_vocabulary, vocabulary_rows, vocabulary_tensor
from modelwright.checkpoint import Checkpoint, TensorRef, open as open_checkpoint, user_path
from modelwright.errors import InputError, did_you_mean
from modelwright.tokenizers._methods import METHODS, Coefficients, Floats, coefficients, subwords
from modelwright.vocabulary import (
    MEAN,
    TOKENIZER_FILES,
    Rows,
    Tokenizer,
    file_beside,
    matching,
    open_tokenizer,
    relaid,
    settled,
    tokenizer_of,
)

#: Shared tokens that are left out and made again, to see how well that goes.
_HELD_OUT = 512


class Restored(NamedTuple):
    """How well rows that a model has come out when they are made as if they were new.

    Attributes:
        tensor: Which embedding or head.
        rows: How many were made again.
        error: Norm of the difference over the norm of the rows.
        cosine: Mean cosine of a row with what was made in its place.
        residual: Of the targets in the donor's tensor, the mean norm of what no combination explains over their norms; NaN of
            methods that do not look there.
    """

    tensor: str
    rows: int
    error: float
    cosine: float
    residual: float


@dataclass(frozen=True)
class Transplant:
    """A model with another tokenizer, ready to be saved.

    Attributes:
        job: The recipe that writes it.
        method: How new rows are made.
        tokens: Strings of its tokenizer.
        shared: Of these, tokens that the model had: their rows are kept.
        rows: Rows of its embeddings.
        restored: Of each embedding and head, how well rows come out.
        notes: What the user should know.
    """

    job: Job
    method: str
    tokens: int
    shared: int
    rows: int
    restored: tuple[Restored, ...]
    notes: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Share of its tokens whose rows are the model's own."""
        return self.shared / self.tokens

    def save(self, out: str | Path, **options: Any) -> Any:
        """Write it as a folder, through the engine; the options are those of `Checkpoint.save`."""
        return self.job.save(out, **options)


def transplant(
    model: str | Path,
    *,
    donor: str | Path,
    method: str = "omp",
    k: int = 64,
    pad_to_multiple_of: int = 1,
    device: str = "cpu",
) -> Transplant:
    """Give a model the tokenizer of another.

    Rows of tokens that both have are kept to the bit. A new token's row, in the embedding and in a head of its own, is

    - `omp`: the combination of at most k shared tokens that explains the donor's row best by orthogonal matching pursuit, applied
      to the model's rows;
    - `landmark`: the k shared tokens nearest to it in the donor, with the weights of locally linear embedding, applied likewise;
    - `subword`: the mean of the rows of the tokens that the model's old tokenizer makes of its text;
    - `mean`: the mean of all shared rows;
    - `zero`: zeros.

    Args:
        model: The model, with its tokenizer, whatever `mw.open` opens.
        donor: The model with the other tokenizer; for methods that do not look at its embeddings, its tokenizer is enough.
        method: One of these.
        k: At least 1.
        pad_to_multiple_of: Rows are padded to a multiple of it, with the mean row.
        device: Where `omp` and `landmark` compute; other than cpu needs torch.

    Returns:
        A `Transplant`; `.save(folder)` writes it.

    Raises:
        InputError: A tokenizer is missing, or the method needs embeddings that are not there, or the two have no token in common.

    Differs:
        1. mergekit's tokensurgeon matches tokens by their strings after removing word-start marks of known classes; here tokens
           that write text differently are matched by the bytes that they stand for, and an error of made rows is measured on rows
           that are known.
    """
    if method not in METHODS:
        raise InputError(f"there is no method '{method}'", did_you_mean(method, METHODS))
    if k < 1 or pad_to_multiple_of < 1:
        raise InputError(f"k and pad_to_multiple_of must be at least 1, got {k} and {pad_to_multiple_of}")
    opened = open_checkpoint(str(model))
    old, size = tokenizer_of(opened), vocabulary_rows(opened.shapes, opened.config)
    if old is None or size is None:
        what = "tokenizer" if old is None else "embedding"
        raise InputError(f"{opened.label} has no {what}", "Give a language model with its tokenizer.")
    giver = open_checkpoint(str(donor)) if METHODS[method] or not _bare(donor) else None
    new = tokenizer_of(giver) if giver is not None else open_tokenizer(donor)
    if new is None:
        raise InputError(f"{donor} has no tokenizer", "Put its tokenizer files there.")
    work = _Work(opened, old, size, new, giver, method, k, device)
    rows = -(-new.size // pad_to_multiple_of) * pad_to_multiple_of
    tensors: dict[str, TensorRef] = {}
    restored: list[Restored] = []
    for name, ref in opened.items():
        if over_vocabulary(name, ref.shape, size):
            tensors[name], told = work.tensor(name, ref, rows)
            restored += [told] if told is not None else []
    notes: list[str] = []
    how = f"rows by {method}" + (f" of {k}" if METHODS[method] else "") + (f" on {device}" if device != "cpu" else "")
    held = _with_tokenizer(opened, tensors, old, new, giver, donor, (size, rows), notes, how)
    job = Job.from_recipe(
        {"merge_method": "passthrough", "models": [{"model": held.label}]}, [], registry(), {held.label: held}
    )
    return Transplant(job, method, len(new.tokens), work.shared, rows, tuple(restored), (*notes, *work.notes))


def _bare(donor: str | Path) -> bool:
    """Whether a donor is a folder, or a file, with a tokenizer and no weights."""
    path = user_path(donor)
    if path.is_file():
        return path.name == "tokenizer.json"
    return path.is_dir() and not any(path.glob("*.safetensors")) and not any(path.glob("*.bin"))


class _Work:
    """Which tokens are shared, and rows for those that are not."""

    def __init__(
        self,
        model: Checkpoint,
        old: Tokenizer,
        size: int,
        new: Tokenizer,
        donor: Checkpoint | None,
        method: str,
        k: int,
        device: str,
    ):
        self.model, self.old, self.donor, self.method, self.k, self.device = model, old, donor, method, k, device
        self.notes: list[str] = []
        find = matching(new, old)
        mine = {number: found for text, number in new.tokens.items() if 0 <= (found := find(text)) < size}
        self.texts = {
            n: (t.encode() if t in new.added else new.meaning(t)) for t, n in new.tokens.items() if n not in mine
        }
        self.shared = len(new.tokens) - sum(n not in mine for n in new.tokens.values())
        self.kept = np.array(sorted(mine), np.int64)  # the new numbers of shared tokens
        self.own = np.array([mine[n] for n in self.kept], np.int64)  # and their rows in the model
        self.fresh = np.array(sorted(self.texts), np.int64)
        if not len(self.kept) and method not in ("zero", "subword"):
            raise InputError(f"{model.label} and {new.label} have no token in common", "Use the method subword.")
        self.rows_of_donor = vocabulary_rows(donor.shapes, donor.config) if donor is not None else None
        self._found: dict[str, tuple[Coefficients, Coefficients, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
        if METHODS[method] and self.rows_of_donor is None:
            raise InputError(f"{method} looks at embeddings, and {new.label} has none", "Use the method subword.")

    def tensor(self, name: str, ref: TensorRef, rows: int) -> tuple[TensorRef, Restored | None]:
        """An embedding, a head or a bias for the new tokenizer, and how well its rows come out."""
        array = _matrix(ref)
        made, told = self._made(name, array)
        given = made.astype(ref.dtype.numpy).reshape(
            (len(made), *ref.shape[1:]) if ref.shape[0] != 1 else (1, len(made))
        )
        model, row = np.full(rows, MEAN, np.int64), np.zeros(rows, np.int64)
        model[self.kept], row[self.kept] = 0, self.own
        if self.method != "mean":
            model[self.fresh], row[self.fresh] = 1, np.arange(len(self.fresh))
        known = np.unique(self.own)
        fresh = TensorRef(ref.dtype, given.shape, lambda: given, "memory", _filler(given))
        return relaid(Rows(model, row, {}, known), [ref, fresh], 0), told

    def _made(self, name: str, array: Floats) -> tuple[Floats, Restored | None]:
        """New rows in float32."""
        shared = array[self.own]
        if self.method in ("zero", "mean"):
            mean = shared.mean(0, dtype=np.float64) if self.method == "mean" else np.zeros(array.shape[1])
            made = np.broadcast_to(mean.astype(np.float32), (len(self.fresh), array.shape[1]))
            out, _ = _held_out(len(shared))
            again = np.broadcast_to(mean.astype(np.float32), (len(out), array.shape[1]))
            return made, _told(name, shared[out], again, float("nan")) if array.shape[1] > 1 else None
        if self.method == "subword":
            found = subwords([self.texts[int(n)] for n in self.fresh], self.old)
            empty = found.weight.sum(1) == 0
            made = found.applied(array)
            if len(shared):
                made[empty] = shared.mean(0, dtype=np.float64)
            if empty.any():
                self.notes.append(
                    f"{int(empty.sum()):,} new tokens cannot be written with the old ones: they get the mean row"
                )
            self.notes[:] = list(dict.fromkeys(self.notes))
            return made, None
        found, again, out, rest = self._looked_up(name)
        made = found.applied(shared)
        if array.shape[1] == 1:  # a bias
            return made, None
        residual = float(np.mean(found.residual)) if found.residual is not None and len(found.residual) else 0.0
        return made, _told(name, shared[out], again.applied(shared[rest]), residual)

    def _looked_up(self, name: str) -> tuple[Coefficients, Coefficients, Any, Any]:
        """Coefficients from the donor's tensor of this name, where it has one of its own; else from its embedding."""
        assert self.donor is not None
        assert self.rows_of_donor is not None
        ref = self.donor.get(name)
        if ref is None or len(ref.shape) != 2 or ref.shape[0] != self.rows_of_donor:
            found = [
                n
                for n, r in self.donor.items()
                if vocabulary_tensor(n) and r.shape[:1] == (self.rows_of_donor,) and len(r.shape) == 2
            ]
            name = min(found, key=lambda n: ("embed" not in n and "wte" not in n, list(self.donor or ()).index(n)))
            ref = self.donor[name]
        if name not in self._found:
            rows = _matrix(ref)
            lost = int((self.fresh >= len(rows)).sum() + (self.kept >= len(rows)).sum())
            if lost:
                raise InputError(
                    f"{lost:,} tokens of {self.donor.label} are beyond the {len(rows):,} rows of its {name}"
                )
            shared, new = rows[self.kept], rows[self.fresh]
            out, rest = _held_out(len(shared))
            self._found[name] = (
                self._solved(new, shared), self._solved(shared[out], shared[rest]), out, rest,
            )  # fmt: skip
        return self._found[name]

    def _solved(self, targets: Floats, rows: Floats) -> Coefficients:
        if self.device == "cpu":
            return coefficients(self.method, targets, rows, self.k)
        from modelwright.evaluate._predictor import needs

        torch = needs("torch", f"computing on {self.device}", "torch")
        there = [torch.from_numpy(np.ascontiguousarray(x)).to(self.device) for x in (targets, rows)]
        return coefficients(self.method, there[0], there[1], self.k)


def _matrix(ref: TensorRef) -> Floats:
    """A tensor with a row for each token, in float32."""
    array = ref.read()
    array = array.reshape(-1, 1) if array.ndim == 1 or array.shape[0] == 1 else array.reshape(len(array), -1)
    return np.ascontiguousarray(array.astype(np.float32))


def _held_out(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Shared tokens that are made again, evenly spread, and the others; at most half of them."""
    out = (
        np.unique(np.linspace(0, count - 1, min(_HELD_OUT, max(count // 2, 1))).astype(np.int64))
        if count
        else np.zeros(0, np.int64)
    )
    return out, np.setdiff1d(np.arange(count), out)


def _told(name: str, meant: Floats, made: Floats, residual: float) -> Restored:
    whole = float(np.linalg.norm(meant))
    lengths = np.linalg.norm(meant, axis=1) * np.linalg.norm(made, axis=1)
    cosine = np.divide((meant * made).sum(1), lengths, out=np.zeros(len(meant)), where=lengths > 0)
    error = float(np.linalg.norm(meant - made)) / whole if whole else 0.0
    return Restored(name, len(meant), error, float(cosine.mean()) if len(meant) else 0.0, residual)


def _filler(array: Any) -> Any:
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def fill(buffer: Any, start: int) -> None:
        buffer[:] = flat[start : start + len(buffer)]

    return fill


def _with_tokenizer(
    model: Checkpoint,
    tensors: dict[str, TensorRef],
    old: Tokenizer,
    new: Tokenizer,
    giver: Checkpoint | None,
    donor: str | Path,
    rows: tuple[int, int],
    notes: list[str],
    how: str,
) -> Checkpoint:
    """The model with the new tensors, the donor's tokenizer files, and configurations that are true of both."""
    texts = {number: text for text, number in old.tokens.items()}

    def renumber(number: int) -> tuple[str, int | None]:
        return texts.get(number, ""), new.tokens.get(texts.get(number, ""))

    def note(text: str) -> None:
        notes.append(f"config.json: {text}")

    said = dict(giver.config or {}) if giver is not None else {}
    first = model.parts[0]
    config = settled(first.config, said, rows, renumber, note) if first.config is not None else None
    beside: dict[str, Path | str] = dict(model.beside)
    folder = giver.path if giver is not None else user_path(donor)
    folder = folder.parent if folder is not None and folder.is_file() else folder
    files = [] if folder is None else [file for file in sorted(folder.iterdir()) if file.is_file()]
    beside |= {file.name: file for file in files if TOKENIZER_FILES.match(file.name)}
    beside["tokenizer.json"] = beside.get("tokenizer.json") or new.text
    generation = file_beside(model, "generation_config.json")
    if isinstance(generation, Path) and generation.is_file():
        theirs = folder / "generation_config.json" if folder is not None else None
        source = json.loads(theirs.read_text(encoding="utf-8")) if theirs is not None and theirs.is_file() else said
        found = settled(json.loads(generation.read_text(encoding="utf-8")), source, rows, renumber, note)
        beside["generation_config.json"] = json.dumps(found, indent=2) + "\n"
    result = model.with_tensors(tensors)
    # the recipe is all that tells one transplant from another, and whether a killed one may be gone on with
    result.label = f"{model.label} with the tokenizer of {new.label}, {how}"
    result.parts = (replace(first, config=config), *model.parts[1:])
    result.beside = beside
    result.beneath = (*model.beneath, *([giver.path] if giver is not None and giver.path else []))
    notes[:] = list(dict.fromkeys(notes))
    return result


__all__: Sequence[str] = ("Restored", "Transplant", "transplant")
