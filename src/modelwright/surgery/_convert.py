"""One model written anew: another format, other shards, other layers, other names. A recipe, run like any merge."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelwright.api import Job, open_model as open_checkpoint, registry
from modelwright.checkpoint import (
    GRAINS,
    Checkpoint,
    Grain,
    from_pieces,
    pieces,
    quantise as quantise_checkpoint,
)
from modelwright.errors import InputError, did_you_mean, listing
from modelwright.surgery._origin import origin_of
from modelwright.tensors import OUTPUT_NAMES

#: What matrices can be quantised to, and what shares a scale there.
QUANTISED: dict[str, Grain] = {f"fp8-{grain}": grain for grain in GRAINS}

_SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
#: More layers than any model has, and fewer than fill a memory.
_MOST_LAYERS = 100_000


def convert(
    models: str | Path | Checkpoint | Mapping[str, Any] | Iterable[Any],
    *,
    dtype: str | None = None,
    layers: str | None = None,
    rename: Mapping[str, str] | None = None,
    quantise: str | None = None,
    float8: str = "e4m3",
    keep: Sequence[str] = (),
) -> Checkpoint:
    """A model in another form. Nothing is read before it is saved.

    Args:
        models: A model, whatever `mw.open` opens; or a list of folders and weight files that are the parts of one, such as what
            several nodes have written. Their tensors are put together; none may be in two of them.
        dtype: The format of floating-point tensors: float64, float32, float16 or bfloat16. Default as they are.
        layers: Which layers, in which order, counted from 0, both ends of a range included: `0-15,8-23` for depth up-scaling, `0-11`
            to drop the others. The configuration's number of layers and its lists with an entry a layer follow.
        rename: Patterns to names, as in recipes: `{"model.*": "language_model.*"}`; each `*` is carried over.
        quantise: `fp8-block`, `fp8-channel` or `fp8-tensor`: matrices of layers as float8 with a scale for each block of 128 x 128, row
            or matrix, after everything else; see `modelwright.checkpoint.quantise`.
        float8: With `quantise`: e4m3, or e5m2.
        keep: With `quantise`: patterns of names that are not quantised either.

    Returns:
        A lazy `Checkpoint`; `.save(folder, shard_bytes=...)` streams it to safetensors.

    Raises:
        InputError: A part is missing, a tensor is in two parts, the layers are not there, a name is taken.

    Example:
        >>> import numpy as np
        >>> model = {f"layers.{i}.w": np.full(1, i, np.float32) for i in range(4)}
        >>> [float(ref.read()[0]) for ref in convert(model, layers="0-2,1-3").values()]
        [0.0, 1.0, 2.0, 1.0, 2.0, 3.0]
    """
    chosen = {"quantise": quantise, "float8": float8, "keep": keep}
    return conversion(models, dtype=dtype, layers=layers, rename=rename, **chosen).checkpoint()


def conversion(
    models: Any,
    *,
    dtype: str | None = None,
    layers: str | None = None,
    rename: Mapping[str, str] | None = None,
    quantise: str | None = None,
    float8: str = "e4m3",
    keep: Sequence[str] = (),
    folder: Path | None = None,
) -> Job:
    """What `convert` is: a recipe of one model, bound to it. Relative paths start in `folder`, else in the working directory."""
    if dtype is not None and dtype not in OUTPUT_NAMES:
        raise InputError(
            f"dtype must be one of {listing(OUTPUT_NAMES)}, got '{dtype}'",
            f"To quantise: {listing(QUANTISED)}.",
        )
    if quantise is not None and quantise not in QUANTISED:
        raise InputError(
            f"quantise must be one of {listing(QUANTISED)}, got '{quantise}'", did_you_mean(quantise, QUANTISED)
        )
    if quantise is None and (keep or float8 != "e4m3"):
        raise InputError(
            "keep and float8 say how to quantise, and quantise is not given", "Add fp8-block, or leave them out."
        )
    spans = None if layers is None else spans_of(layers)
    opened = _opened(models, folder)
    _check_adapter(opened)
    entry: dict[str, Any] = {"model": opened.label} | ({"rename": dict(rename)} if rename else {})
    data: dict[str, Any] = {"merge_method": "passthrough"} | ({"out_dtype": dtype} if dtype else {})
    if spans is None:
        data["models"] = [entry]
    else:
        _check_depth(opened, spans)
        data["slices"] = [{"sources": [{**entry, "layer_range": [first, last + 1]}]} for first, last in spans]
    settings = {
        "dtype": dtype,
        "layers": layers,
        "rename": dict(rename or {}),
        "quantise": quantise,
        "keep": list(keep),
    }
    origin = origin_of("convert", {"models": models}, **settings, float8=float8 if quantise else None)
    if quantise is None:
        whole = isinstance(models, str | os.PathLike) and not _in_pieces(models, folder)
        return Job.from_recipe(data, [], registry(), {opened.label: opened}, origin=None if whole else origin)
    if dtype or rename or spans:
        opened = _labelled(Job.from_recipe(data, [], registry(), {opened.label: opened}).checkpoint(), opened)
    small = quantise_checkpoint(opened, QUANTISED[quantise], float8=float8, keep=keep)
    data = {"merge_method": "passthrough", "models": [{"model": small.label}]}
    return Job.from_recipe(data, [], registry(), {small.label: small}, origin=origin)


def _labelled(changed: Checkpoint, of: Checkpoint) -> Checkpoint:
    """A conversion that is computed while it is read goes by the name of its model, and lies where that does."""
    result = copy.copy(changed)
    result.label, result.notes, result.path, result.beneath, result.states = (
        of.label, of.notes, of.path, of.beneath, of.states,
    )  # fmt: skip
    return result


def spans_of(text: str) -> list[tuple[int, int]]:
    """The ranges of `0-15,8-23`, both ends included.

    Raises:
        InputError: It is no such list.
    """
    spans: list[tuple[int, int]] = []
    for piece in text.split(","):
        match = _SPAN.fullmatch(piece.strip())
        if match is None:
            raise InputError(
                f"layers must be numbers and ranges such as 0-15,8-23, got '{text}'",
                "Count from 0; both ends are included.",
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(
                f"layers: the range {first}-{last} ends before it starts",
                f"Write {last}-{first}; to turn layers around, list them one by one: {first},{first - 1}.",
            )
        spans.append((first, last))
    if sum(last - first + 1 for first, last in spans) > _MOST_LAYERS:
        raise InputError(f"layers: '{text}' are more than {_MOST_LAYERS:,} layers")
    return spans


def _check_depth(model: Checkpoint, spans: Sequence[tuple[int, int]]) -> None:
    """Say in the words of `layers` what the recipe would say of slices."""
    stacks = model.layout.stacks
    if len(stacks) == 1:
        ((stack, count),) = stacks.items()
        beyond = next((f"{first}-{last}" for first, last in spans if last >= count), None)
        if beyond:
            raise InputError(
                f"layers: {beyond} goes beyond the last layer of '{stack}' in {model.label}, which is {count - 1}",
                "Count from 0; both ends are included.",
            )


def _check_adapter(model: Checkpoint) -> None:
    if any(".lora_A." in name for name in model):
        raise InputError(
            f"{model.label} is an adapter, not a model",
            "Write model+adapter to convert the model with the adapter in it.",
        )


def _opened(models: Any, folder: Path | None = None) -> Checkpoint:
    one = isinstance(models, str | os.PathLike | Mapping) or hasattr(models, "state_dict")
    listed: list[Any] = [models] if one else list(models)  # type: ignore[reportArgumentType]
    if not listed:
        raise InputError("no model to convert")
    if len(listed) == 1:
        try:
            return open_checkpoint(listed[0], folder=folder)
        except InputError:
            if not _in_pieces(listed[0], folder):
                raise
    odd = [type(part).__name__ for part in listed if not isinstance(part, str | Path)]
    if odd:
        raise InputError(f"parts of one model must be folders and files, got {listing(odd)}")
    places = [(folder or Path()) / Path(part).expanduser() for part in listed]
    missing = [str(part) for part, place in zip(listed, places, strict=True) if not place.exists()]
    if missing:
        raise InputError(
            f"no file or folder is called {listing(repr(name) for name in missing)}",
            "Several inputs are the parts of one model, on this machine.",
        )
    return from_pieces(places, label=", ".join(str(part) for part in listed))


def _in_pieces(part: Any, folder: Path | None = None) -> bool:
    """Whether a folder has several weight files and no index that says which are a model's."""
    if not isinstance(part, str | Path):
        return False
    place = (folder or Path()) / Path(part).expanduser()
    if (
        not place.is_dir()
        or any(place.glob("*.index.json"))
        or any((place / f).exists() for f in ("model_index.json", "modules.json"))
    ):
        return False
    return len(pieces(place)) > 1
