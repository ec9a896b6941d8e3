"""A fine-tune as what it changed of its base: exact to the bit, or low-rank or in 8 bits with the error told."""

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
from modelwright.checkpoint import Checkpoint, NumpyArray, TensorRef, array_ref
from modelwright.errors import InputError, listing
from modelwright.surgery._origin import origin_of
from modelwright.surgery._rank import Rank
from modelwright.tensors import DTYPES, dtype as find_dtype, widen

#: The tensor of bytes that says what the others are, as JSON.
INDEX = "delta.json"
_VERSION = 1
_UNSIGNED = {1: "U8", 2: "U16", 4: "U32", 8: "U64"}

#: `same`: as in the base; `sparse`: the entries that changed, with their places; `bits`: the exclusive or of all bits;
#: `whole`: a tensor that the base does not have in this shape and format; `factors`: base + up @ down, rounded; `int8`: base + whole
#: numbers x a scale for each row, rounded.
Form = Literal["same", "sparse", "bits", "whole", "factors", "int8"]
#: Those that do not bring a tensor back to the bit.
LOSSY = frozenset({"factors", "int8"})
_STEPS = 127


@dataclass(frozen=True)
class Change:
    """What became of one tensor.

    Attributes:
        name: The tensor.
        form: How the change is stored.
        stored: Bytes that takes.
        changed: Entries whose bits are not the base's.
        error: Norm of what `apply` does not bring back over the norm of the task vector, the rounding to the tensor's format
            included; 0 for exact forms.
        square: Squared norm of the task vector; 0 for exact forms.
        rank: Of `factors`, their rank; else 0.
    """

    name: str
    form: Form
    stored: int
    changed: int
    error: float = 0.0
    square: float = 0.0
    rank: int = 0


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
        return all(change.form not in LOSSY for change in self.changes)

    @property
    def error(self) -> float:
        """What is lost of all task vectors that are not stored exactly, over their norm; 0 where nothing is."""
        whole = sum(change.square for change in self.changes)
        lost = sum(change.error**2 * change.square for change in self.changes)
        return math.sqrt(lost / whole) if whole else 0.0

    def save(self, out: str | Path, **options: Any) -> Any:
        """Write it as a folder, through the engine; the options are those of `Checkpoint.save`."""
        return self.job.save(out, **options)


def extract(
    tuned: Any, *, base: Any, rank: int | str | Rank | None = None, int8: bool = False, threads: int = 0
) -> Delta:
    """What a fine-tune changed of its base.

    Each tensor is stored in the smallest way that is exact: not at all where nothing changed, as the entries that changed, or as the
    exclusive or of its bits with the base's.

    Args:
        tuned: The fine-tune, whatever `mw.open` opens.
        base: What it was tuned from.
        rank: Store matrices as factors instead, where that is smaller: of this rank, or, for each matrix, of the least rank that keeps
            a share of its task vector's squared norm (`energy:0.95`) or loses no more than a share of its norm (`error:0.05`). Not exact.
        int8: Store task vectors as whole numbers of 8 bits with a scale for each row (last axis) instead, where that is smaller. Not
            exact.
        threads: How many look for changes; 0 for the number of cores. Each holds a tensor of both models.

    Returns:
        A `Delta`: its `changes` and `error`; `.save(folder)` writes it, `mw.apply` brings the fine-tune back.

    Raises:
        InputError: A model cannot be opened, the two have nothing in common, or `rank` is not one of these, or stands beside `int8`.

    Example:
        >>> import numpy as np
        >>> base = {"w": np.arange(6, dtype=np.float32), "v": np.ones(2, np.float32)}
        >>> delta = extract({"w": np.array([0, 1, 2, 3, 4, 9], np.float32), "v": np.ones(2, np.float32)}, base=base)
        >>> [(change.name, change.form, change.changed) for change in delta.changes], delta.error
        ([('w', 'sparse', 1), ('v', 'same', 0)], 0.0)
    """
    wanted = None if rank is None else Rank.of(rank)
    if wanted is not None and int8:
        raise InputError("rank and int8 exclude each other: a matrix is stored in one of these ways", "Leave one out.")
    one, other = open_checkpoint(tuned), open_checkpoint(base)
    origin = origin_of("extract", {"tuned": tuned, "base": base}, rank=rank, int8=int8)
    if not any(name in other and other[name].shape == ref.shape for name, ref in one.items()):
        raise InputError(
            f"{one.label} and {other.label} have no tensor in common",
            f"They start with: {one.label}: {listing(list(one), 2)}; {other.label}: {listing(list(other), 2)}",
        )
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        found = list(pool.map(lambda name: _looked_at(name, one[name], other.get(name), wanted, int8), one))
    changes = tuple(change for change, _, _ in found)
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
    delta = Delta(_job(held, origin), changes)
    if delta.exact:
        return delta
    lossy = sum(change.form in LOSSY for change in changes)
    note = f"not exact: {lossy} task vectors come back with a relative error of {delta.error:.3g} in all"
    return Delta(_job(held.with_notes(note), origin), changes)


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
        ),
        origin_of("apply", {"base": base, "delta": delta}),
    )


def _job(model: Checkpoint, origin: Mapping[str, Any] | None) -> Job:
    recipe = {"merge_method": "passthrough", "models": [{"model": model.label}]}
    return Job.from_recipe(recipe, [], registry(), {model.label: model}, origin=origin)


# --- extracting ----------------------------------------------------------------------------------------------------


def _looked_at(
    name: str, ref: TensorRef, base: TensorRef | None, rank: Rank | None, int8: bool
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
    if ref.dtype.floating and (rank is not None or int8):
        vector = _vector(mine, theirs)
        finite = bool(np.isfinite(vector).all())
        found = None
        if finite and rank is not None and len(ref.shape) == 2:
            found = _factored(name, vector, rank, (smallest - 1) // (4 * sum(ref.shape)))
        elif finite and int8 and ref.shape and ref.size + 4 * (ref.size // ref.shape[-1]) < smallest:
            found = _in_bytes(name, ref, base, vector)
        change = None if found is None else _lossy(name, *found, mine, theirs, vector, count)
        if found is not None and change is not None:
            return change, entry | {"form": change.form, "tuned": "", "error": change.error}, found[1]
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


def _vector(mine: NumpyArray, theirs: NumpyArray) -> NumpyArray:
    """The task vector, in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (widen(mine) - widen(theirs)).astype(np.float32)


def _factored(name: str, vector: NumpyArray, rank: Rank, most: int) -> tuple[Form, dict[str, TensorRef]] | None:
    """The task vector as factors; they are small, and so they are kept."""
    found = rank.factors(vector, most)
    if found is None:
        return None
    pairs = zip(("up", "down"), found, strict=True)
    return "factors", {f"{name}:{side}": array_ref(factor, DTYPES["F32"]) for side, factor in pairs}


def _in_bytes(name: str, ref: TensorRef, base: TensorRef, vector: NumpyArray) -> tuple[Form, dict[str, TensorRef]]:
    """The task vector in 8 bits; taken again when it is written, as all of them together may be as large as half a model."""
    scale = _row_scale(vector)

    def load() -> NumpyArray:
        again = _vector(_stored(ref), _stored(base))
        steps = np.where(scale > 0, scale, 1)[..., None]
        return np.rint(again / steps).astype(np.int8)

    return "int8", {
        f"{name}:int8": TensorRef(DTYPES["I8"], ref.shape, load, "memory"),
        f"{name}:scale": array_ref(scale, DTYPES["F32"]),
    }


def _row_scale(vector: NumpyArray) -> NumpyArray:
    """What one step of 8 bits is worth in each row."""
    return np.max(np.abs(vector), axis=-1, initial=0) / np.float32(_STEPS)


def _lossy(
    name: str,
    form: Form,
    refs: Mapping[str, TensorRef],
    mine: NumpyArray,
    theirs: NumpyArray,
    vector: NumpyArray,
    count: int,
) -> Change | None:
    """What storing a tensor so takes and loses; None where it cannot be brought back at all."""
    pieces = {piece: refs[f"{name}:{piece}"].read() for piece in _PIECES[form]}
    with np.errstate(over="ignore"):
        made = _put_together(form, theirs, pieces, mine.dtype, mine.shape).astype(mine.dtype)
    lost = _vector(made, mine).astype(np.float64)
    if not np.isfinite(lost).all():
        return None
    square = float(np.sum(vector.astype(np.float64) ** 2))
    error = math.sqrt(float(np.sum(lost**2)) / square) if square else 0.0
    rank = pieces["up"].shape[1] if form == "factors" else 0
    return Change(name, form, sum(ref.nbytes for ref in refs.values()), count, error, square, rank)


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
    "same": (), "sparse": ("at", "values"), "bits": ("bits",), "whole": ("whole",), "factors": ("up", "down"), "int8": ("int8", "scale"),
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
    if form not in LOSSY and _digest(made) != entry["tuned"]:
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
    if form == "int8":
        return widen(base) + pieces["int8"].astype(np.float32) * pieces["scale"][..., None]
    words = _words(base)
    if form == "bits":
        return (words ^ pieces["bits"]).view(numpy).reshape(shape)
    words = words.copy()
    words[pieces["at"]] = pieces["values"]
    return words.view(numpy).reshape(shape)
