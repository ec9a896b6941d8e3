"""A fine-tune as what it changed of its base: exact to the bit, or with matrices as low-rank factors and the error told."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from modelwright.api import Job, open_model as open_checkpoint, registry
from modelwright.architectures import is_table
from modelwright.checkpoint import Checkpoint, NumpyArray, TensorRef
from modelwright.errors import InputError, listing
from modelwright.tensors import DTYPES, EXACT, dtype as find_dtype, singular, widen

#: The tensor of bytes that says what the others are, as JSON.
INDEX = "delta.json"
_VERSION = 1
_UNSIGNED = {1: "U8", 2: "U16", 4: "U32", 8: "U64"}

#: `same`: as in the base; `sparse`: the entries that changed, with their places; `bits`: the exclusive or of all bits;
#: `whole`: a tensor that the base does not have in this shape and format; `factors`: base + up @ down, rounded.
Form = Literal["same", "sparse", "bits", "whole", "factors"]


@dataclass(frozen=True)
class Change:
    """What became of one tensor.

    Attributes:
        name: The tensor.
        form: How the change is stored.
        stored: Bytes that takes.
        changed: Entries whose bits are not the base's.
        error: Of `factors`, norm of what is lost of the task vector over its norm; else 0.
        square: Squared norm of the task vector, of `factors`; else 0.
    """

    name: str
    form: Form
    stored: int
    changed: int
    error: float = 0.0
    square: float = 0.0


@dataclass(frozen=True)
class Delta:
    """A change, ready to be saved.

    Attributes:
        job: The recipe that writes it.
        changes: Of each tensor of the fine-tune.
    """

    job: Job
    changes: tuple[Change, ...]

    @property
    def exact(self) -> bool:
        """Whether the fine-tune comes back to the bit."""
        return all(change.form != "factors" for change in self.changes)

    @property
    def error(self) -> float:
        """What is lost of all task vectors that are stored as factors, over their norm; 0 where nothing is."""
        whole = sum(change.square for change in self.changes)
        lost = sum(change.error**2 * change.square for change in self.changes)
        return math.sqrt(lost / whole) if whole else 0.0

    def save(self, out: str | Path, **options: Any) -> Any:
        """Write it as a folder, through the engine; the options are those of `Checkpoint.save`."""
        return self.job.save(out, **options)


def extract(tuned: Any, *, base: Any, rank: int | None = None, threads: int = 0) -> Delta:
    """What a fine-tune changed of its base.

    Each tensor is stored in the smallest way that is exact: not at all where nothing changed, as the entries that changed, or as the
    exclusive or of its bits with the base's.

    Args:
        tuned: The fine-tune, whatever `mw.open` opens.
        base: What it was tuned from.
        rank: Store matrices as factors of this rank instead, where that is smaller; the best in the sense of least squares up to what a
            randomised decomposition leaves. Not exact.
        threads: How many look for changes; 0 for the number of cores. Each holds a tensor of both models.

    Returns:
        A `Delta`: its `changes` and `error`; `.save(folder)` writes it, `mw.apply` brings the fine-tune back.

    Raises:
        InputError: A model cannot be opened, or the two have nothing in common.

    Example:
        >>> import numpy as np
        >>> base = {"w": np.arange(6, dtype=np.float32), "v": np.ones(2, np.float32)}
        >>> delta = extract({"w": np.array([0, 1, 2, 3, 4, 9], np.float32), "v": np.ones(2, np.float32)}, base=base)
        >>> [(change.name, change.form, change.changed) for change in delta.changes], delta.error
        ([('w', 'sparse', 1), ('v', 'same', 0)], 0.0)
    """
    if rank is not None and rank < 1:
        raise InputError(f"rank must be at least 1, got {rank}")
    one, other = open_checkpoint(tuned), open_checkpoint(base)
    if not any(name in other and other[name].shape == ref.shape for name, ref in one.items()):
        raise InputError(
            f"{one.label} and {other.label} have no tensor in common",
            f"They start with: {one.label}: {listing(list(one), 2)}; {other.label}: {listing(list(other), 2)}",
        )
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        found = list(pool.map(lambda name: _looked_at(name, one[name], other.get(name), rank), one))
    tensors: dict[str, TensorRef] = {}
    entries: dict[str, Any] = {}
    for change, entry, refs in found:
        entries[change.name] = entry
        tensors |= refs
    index = {"version": _VERSION, "base": other.label, "tuned": one.label, "tensors": entries}
    tensors[INDEX] = _bytes_ref(json.dumps(index, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    path, beneath = one.path, (*one.beneath, *((other.path,) if other.path else ()), *other.beneath)
    label = f"{one.label} minus {other.label}"
    held = Checkpoint(
        tensors, label=label, path=path, parts=one.parts, notes=one.notes, beneath=beneath if path else ()
    )
    return Delta(_job(held), tuple(change for change, _, _ in found))


def apply(base: Any, delta: Any) -> Checkpoint:
    """The fine-tune that a delta was extracted from.

    Every tensor of the base is checked to be the one that the delta was made from when it is read, and every exact one to come out
    as it was.

    Args:
        base: The model that the delta was made from, whatever `mw.open` opens.
        delta: The folder that `extract` has written, or its checkpoint.

    Returns:
        A lazy `Checkpoint`; `.save(folder)` streams it, a tensor at a time.

    Raises:
        InputError: It is no delta, or one of another base.
    """
    return application(base, delta).checkpoint()


def application(base: Any, delta: Any) -> Job:
    """What `apply` is: a recipe of one model, bound to it."""
    opened, change = open_checkpoint(base), open_checkpoint(delta)
    entries = _index(change)
    lost = [name for name, entry in entries.items() if entry["base"] and name not in opened]
    if lost:
        raise InputError(
            f"{change.label} was not made from {opened.label}, which lacks {listing(lost, 3)}",
            "Give the base it was made from.",
        )
    tensors: dict[str, TensorRef] = {}
    for name, entry in entries.items():
        own = opened[name] if entry["base"] else None
        wanted = tuple(entry["shape"])
        if own is not None and (own.shape != wanted or own.dtype.code != entry["from"]):
            raise InputError(
                f"{change.label} was not made from {opened.label}: '{name}' is {own.dtype} {list(own.shape)} there, and was "
                f"{DTYPES[entry['from']]} {list(wanted)}",
                "Give the base it was made from.",
            )
        load = partial(_rebuilt, change, opened.label, name, own, entry)
        tensors[name] = TensorRef(find_dtype(entry["dtype"]), wanted, load, f"{change.label}: {entry['form']}")
    beneath = tuple(path for path in (opened.path, *opened.beneath) if path is not None)
    label = f"{opened.label} with {change.label}"
    notes = (*opened.notes, *change.notes)
    return _job(
        Checkpoint(
            tensors,
            label=label,
            path=change.path,
            parts=change.parts,
            notes=notes,
            beneath=beneath if change.path else (),
        )
    )


def _job(model: Checkpoint) -> Job:
    recipe = {"merge_method": "passthrough", "models": [{"model": model.label}]}
    return Job.from_recipe(recipe, [], registry(), {model.label: model})


# --- extracting ----------------------------------------------------------------------------------------------------


def _looked_at(
    name: str, ref: TensorRef, base: TensorRef | None, rank: int | None
) -> tuple[Change, dict[str, Any], dict[str, TensorRef]]:
    """The change of a tensor, its entry in the index, and what is stored of it."""
    entry: dict[str, Any] = {
        "dtype": ref.dtype.code,
        "shape": list(ref.shape),
        "from": ref.dtype.code,
        "base": "",
        "tuned": "",
    }
    mine = _stored(ref)
    entry["tuned"] = _digest(mine)
    unsigned = _UNSIGNED[ref.dtype.itemsize]
    if base is None or base.shape != ref.shape or base.dtype != ref.dtype:
        entry["form"] = "whole"
        stored = {f"{name}:whole": _unsigned(unsigned, lambda: _words(_stored(ref)), (ref.size,))}
        return Change(name, "whole", ref.nbytes, ref.size), entry, stored
    theirs = _stored(base)
    entry["base"] = _digest(theirs)
    different = np.flatnonzero(_words(mine) != _words(theirs))
    count = int(different.size)
    if count == 0:
        entry["form"] = "same"
        return Change(name, "same", 0, 0), entry, {}
    places = "U32" if ref.size <= 1 << 32 else "U64"
    sparse = count * (DTYPES[places].itemsize + ref.dtype.itemsize)
    smallest = min(sparse, ref.nbytes)
    if rank is not None and ref.dtype.floating and len(ref.shape) == 2 and 4 * rank * sum(ref.shape) < smallest:
        wide, below = widen(mine), widen(theirs)
        vector = (wide - below).astype(np.float32)
        if np.isfinite(vector).all():
            return _factored(name, entry, vector, rank, count)
    if sparse < ref.nbytes:
        entry["form"] = "sparse"
        refs = {
            f"{name}:at": _unsigned(places, lambda: _changed(ref, base)[0].astype(DTYPES[places].numpy), (count,)),
            f"{name}:values": _unsigned(unsigned, lambda: _changed(ref, base)[1], (count,)),
        }
        return Change(name, "sparse", sparse, count), entry, refs
    entry["form"] = "bits"
    refs = {f"{name}:bits": _unsigned(unsigned, lambda: _words(_stored(ref)) ^ _words(_stored(base)), (ref.size,))}
    return Change(name, "bits", ref.nbytes, count), entry, refs


def _factored(
    name: str, entry: dict[str, Any], vector: NumpyArray, rank: int, count: int
) -> tuple[Change, dict[str, Any], dict[str, TensorRef]]:
    u, s, vt = singular(vector.astype(np.float64), rank, "sketch" if min(vector.shape) > EXACT else "exact")
    share = np.sqrt(s)
    up, down = (u * share).astype(np.float32), (share[:, None] * vt).astype(np.float32)
    square = float(np.sum(vector.astype(np.float64) ** 2))
    lost = float(np.sum((vector - up @ down).astype(np.float64) ** 2))
    entry |= {"form": "factors", "tuned": ""}
    f32 = DTYPES["F32"]
    refs = {
        f"{name}:{side}": TensorRef(f32, factor.shape, lambda factor=factor: factor, "memory")
        for side, factor in (("up", up), ("down", down))
    }
    error = math.sqrt(lost / square) if square else 0.0
    return Change(name, "factors", up.nbytes + down.nbytes, count, error, square), entry, refs


def _stored(ref: TensorRef) -> NumpyArray:
    """The tensor in its storage format; what is computed while reading, such as an adapter's sum, is rounded to it."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(ref.read().astype(ref.dtype.numpy, copy=False))


def _words(array: NumpyArray) -> NumpyArray:
    """Its elements as unsigned numbers, flat."""
    return array.reshape(-1).view(DTYPES[_UNSIGNED[array.dtype.itemsize]].numpy)


def _digest(array: NumpyArray) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _changed(ref: TensorRef, base: TensorRef) -> tuple[NumpyArray, NumpyArray]:
    mine = _words(_stored(ref))
    places = np.flatnonzero(mine != _words(_stored(base)))
    return places, mine[places]


def _unsigned(code: str, load: Callable[[], NumpyArray], shape: tuple[int, ...]) -> TensorRef:
    return TensorRef(DTYPES[code], shape, load, "memory")


def _bytes_ref(text: bytes) -> TensorRef:
    array = np.frombuffer(text, np.uint8)
    return TensorRef(DTYPES["U8"], array.shape, lambda: array, "memory")


# --- applying ------------------------------------------------------------------------------------------------------

_PIECES: Mapping[str, tuple[str, ...]] = {
    "same": (), "sparse": ("at", "values"), "bits": ("bits",), "whole": ("whole",), "factors": ("up", "down"),
}  # fmt: skip


def _index(delta: Checkpoint) -> dict[str, dict[str, Any]]:
    """What a delta says of its tensors, checked to be there."""
    if INDEX not in delta:
        raise InputError(f"{delta.label} is no delta: it has no tensor '{INDEX}'", "Make one with mw extract.")
    try:
        index: Any = json.loads(delta[INDEX].read().tobytes().decode("utf-8", "surrogatepass"))
    except ValueError:
        index = None
    if not is_table(index) or not is_table(index.get("tensors")):
        raise InputError(f"{delta.label}: the tensor '{INDEX}' is damaged", "Extract it again.")
    if index.get("version") != _VERSION:
        raise InputError(
            f"{delta.label} is a delta of version {index.get('version')}, which this modelwright does not know",
            "Update it.",
        )
    for name, entry in index["tensors"].items():
        good = (
            is_table(entry)
            and entry.get("form") in _PIECES
            and entry.get("dtype") in DTYPES
            and entry.get("from") in DTYPES
        )
        good = good and isinstance(entry.get("shape"), list) and all(type(n) is int and n >= 0 for n in entry["shape"])
        good = good and all(isinstance(entry.get(key), str) for key in ("base", "tuned"))
        good = good and (bool(entry["base"]) or entry["form"] == "whole")
        missing = [piece for piece in _PIECES[entry["form"]] if f"{name}:{piece}" not in delta] if good else []
        if not good or missing:
            raise InputError(f"{delta.label}: what it says of '{name}' is damaged or not there", "Extract it again.")
    return index["tensors"]


def _rebuilt(
    delta: Checkpoint, base_label: str, name: str, base: TensorRef | None, entry: Mapping[str, Any]
) -> NumpyArray:
    """A tensor of the fine-tune."""
    form: Form = entry["form"]
    numpy, shape = DTYPES[entry["dtype"]].numpy, tuple(entry["shape"])
    pieces = {piece: delta[f"{name}:{piece}"].read() for piece in _PIECES[form]}
    below = None
    if base is not None:
        below = _stored(base)
        if _digest(below) != entry["base"]:
            raise InputError(
                f"{delta.label} was not made from {base_label}: '{name}' holds other values there",
                "Give the base it was made from.",
            )
    try:
        made = _put_together(form, below, pieces, numpy, shape)
    except (ValueError, IndexError, TypeError):
        raise InputError(f"{delta.label}: the pieces of '{name}' do not fit", "Extract it again.") from None
    if form != "factors" and _digest(made) != entry["tuned"]:
        raise InputError(
            f"{delta.label}: '{name}' does not come out as it was: the delta is damaged", "Extract it again."
        )
    return made


def _put_together(
    form: Form, base: NumpyArray | None, pieces: Mapping[str, NumpyArray], numpy: Any, shape: tuple[int, ...]
) -> NumpyArray:
    if form == "whole":
        return pieces["whole"].view(numpy).reshape(shape)
    assert base is not None
    if form == "same":
        return base
    if form == "factors":
        return widen(base) + pieces["up"] @ pieces["down"]
    words = _words(base)
    if form == "bits":
        return (words ^ pieces["bits"]).view(numpy).reshape(shape)
    words = words.copy()
    words[pieces["at"]] = pieces["values"]
    return words.view(numpy).reshape(shape)
