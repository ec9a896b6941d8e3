"""Matrices as float8 with scales, computed when they are read: what `_dequantize` undoes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from modelwright.architectures import ties_embeddings
from modelwright.checkpoint._checkpoint import Checkpoint, Part
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.errors import InputError, did_you_mean, listing
from modelwright.tensors import DTYPES, DType, widen

#: What shares a scale: a block of 128 x 128 entries (DeepSeek's form), a row, or the whole matrix (compressed-tensors').
Grain = Literal["block", "channel", "tensor"]
GRAINS: tuple[Grain, ...] = ("block", "channel", "tensor")
#: The float8 formats by the names that are used here.
FLOAT8 = {"e4m3": DTYPES["F8_E4M3"], "e5m2": DTYPES["F8_E5M2"]}
_BLOCK = 128
#: Elements that are widened at a time; they stay in the cache.
_PIECE = 1 << 18
#: Of the matrices inside layers: norms, embeddings, position tables and routers are small, and errors in them are not.
_SENSITIVE = re.compile(r"(^|[._])(gate|router|routers)(\.|$)|embed|norm|position|relative_|codebook")
#: Their layers hold matrices as (inputs, outputs), and are not what loaders look for to quantise.
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


def quantise(model: Checkpoint, grain: Grain, *, float8: str = "e4m3", keep: Sequence[str] = ()) -> Checkpoint:
    """A model whose layers' matrices are float8 with scales; nothing is read before its tensors are.

    Each group of entries is divided by its largest magnitude over the format's largest number, and rounded to nearest. Embeddings,
    heads, norms, routers, biases and whatever stands outside the layers stay as they are.

    Args:
        model: Any checkpoint; float8 with scales is de-quantised already.
        grain: What shares a scale. `block`: 128 x 128 entries, stored as `weight_scale_inv`, with a configuration that transformers,
            vLLM and SGLang read as `fp8`. `channel`: a row, and `tensor`: the matrix, stored as `weight_scale`, for what reads
            compressed-tensors.
        float8: `e4m3`, or `e5m2`: less exact, for wider ranges, and not read by those loaders.
        keep: Patterns of names (`*.o_proj.weight`) that stay as they are too.

    Returns:
        The model; its `notes` say what stays. `rounding(model.values())` tells the error of each matrix.

    Raises:
        InputError: No matrix is left to quantise, a pattern fits nothing, or the layers hold their matrices transposed.
    """
    if grain not in GRAINS:
        raise InputError(f"what shares a scale cannot be '{grain}'", did_you_mean(grain, GRAINS))
    if float8 not in FLOAT8:
        raise InputError(f"float8 must be e4m3 or e5m2, got '{float8}'")
    kinds = {str((part.config or {}).get("model_type")) for part in model.parts}
    if odd := kinds.intersection(_TRANSPOSED):
        raise InputError(
            f"{model.label} is a {odd.pop()}, whose layers hold matrices transposed: no loader reads them as float8",
            "Quantise it with the tools of its runtime.",
        )
    idle = [pattern for pattern in keep if not any(fnmatchcase(name, pattern) for name in model)]
    if idle:
        raise InputError(
            f"no tensor of {model.label} fits keep '{idle[0]}'", f"Names are such as {listing(list(model)[1:], 2)}."
        )
    chosen, uneven = _chosen(model, grain, keep)
    if not chosen:
        raise InputError(
            f"{model.label} has no matrix to quantise: those of layers are, but for norms, embeddings and routers",
            "Are they called '.weight', and in layers that are numbered?",
        )
    tensors: dict[str, TensorRef] = {}
    for name, ref in model.items():
        if name not in chosen:
            tensors[name] = ref
            continue
        stored = Float8(model.label, name, ref, FLOAT8[float8], grain)
        tensors[name] = TensorRef(stored.dtype, ref.shape, _Weight(stored), ref.source)
        suffix = "_scale_inv" if grain == "block" else "_scale"
        tensors[name + suffix] = TensorRef(DTYPES["F32"], stored.grid, _Scale(stored), ref.source)
    return model.replaced(
        tensors, parts=_described(model, chosen, grain, float8), notes=_notes(model, chosen, uneven, grain, float8)
    )


def _chosen(model: Checkpoint, grain: Grain, keep: Sequence[str]) -> tuple[set[str], list[str]]:
    """The matrices that are quantised, and those that are not because of their sides."""
    layout = model.layout
    chosen: set[str] = set()
    uneven: list[str] = []
    for name, ref in model.items():
        matrix = name.endswith(".weight") and len(ref.shape) == 2 and ref.dtype.floating and ref.size > 0
        if not matrix or layout.place(name) is None or _SENSITIVE.search(name):
            continue
        if any(fnmatchcase(name, pattern) for pattern in keep):
            continue
        if grain == "block" and any(side > _BLOCK and side % _BLOCK for side in ref.shape):
            uneven.append(name)  # transformers takes blocks to be of one size when it de-quantises
        else:
            chosen.add(name)
    return chosen, uneven


def _notes(model: Checkpoint, chosen: set[str], uneven: Sequence[str], grain: Grain, float8: str) -> tuple[str, ...]:
    inside = sum(model[name].size for name in chosen) / max(1, sum(ref.size for ref in model.values()))
    shared = {"block": "each block of 128 x 128", "channel": "each row", "tensor": "each matrix"}[grain]
    kept = [name for name, ref in model.items() if name not in chosen and len(ref.shape) > 1]
    notes = [
        f"{len(chosen)} matrices ({inside:.1%} of the parameters) as float8 {float8} with a scale for {shared}",
        f"of matrices these stay as they are: {listing(kept, 8)}",
    ]
    if uneven:
        notes.append(
            f"their sides are no multiples of {_BLOCK}, so that loaders disagree on blocks: {listing(uneven, 4)}"
        )
    if float8 == "e5m2":
        notes.append("transformers, vLLM and SGLang read e4m3 only; mw reads both")
    return tuple(notes)


def _described(model: Checkpoint, chosen: set[str], grain: Grain, float8: str) -> tuple[Part, ...]:
    """The parts, with configurations that say how theirs are stored."""
    found: list[Part] = []
    for part in model.parts:
        mine = [name.removeprefix(part.prefix) for name in chosen if name.startswith(part.prefix)]
        if part.config is None or not mine:
            found.append(part)
            continue
        every = [name for name in (*model, *model.aliases) if name.startswith(part.prefix)]
        left = [name.removeprefix(part.prefix) for name in every if name not in chosen and name.endswith(".weight")]
        modules = [name.removesuffix(".weight") for name in left if len(_shape(model, part.prefix + name)) == 2]
        if ties_embeddings(part.config) and "lm_head" not in modules:
            modules.append("lm_head")
        settings = _fine_grained(modules, float8) if grain == "block" else _compressed(modules, grain, float8)
        found.append(replace(part, config={**part.config, "quantization_config": settings}))
    return tuple(found)


def _shape(model: Checkpoint, name: str) -> tuple[int, ...]:
    return model[model.aliases.get(name, name)].shape


def _fine_grained(modules: Sequence[str], float8: str) -> dict[str, Any]:
    """What transformers calls FineGrainedFP8Config."""
    return {
        "quant_method": "fp8", "fmt": float8, "activation_scheme": "dynamic", "weight_block_size": [_BLOCK, _BLOCK],
        "modules_to_not_convert": list(modules),
    }  # fmt: skip


def _compressed(modules: Sequence[str], grain: Grain, float8: str) -> dict[str, Any]:
    """What llm-compressor writes for its schemes FP8_DYNAMIC and, of whole matrices, FP8 with dynamic activations."""
    number = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**number, "strategy": grain, "dynamic": False},
                "input_activations": {**number, "strategy": "token", "dynamic": True},
                "output_activations": None,
            }
        },
        "ignore": list(modules), "kv_cache_scheme": None,
    } | ({} if float8 == "e4m3" else {"fmt": float8})  # fmt: skip


class Float8:
    """One matrix with its scales. They and the error are kept once they are known; the values never are.

    Two threads that ask at once both find them: the same ones.

    Attributes:
        dtype: The format.
        grid: Shape of the scales.
    """

    def __init__(self, label: str, name: str, ref: TensorRef, dtype: DType, grain: Grain):
        self.dtype = dtype
        rows, columns = ref.shape
        self._label, self._name, self._ref, self._grain = label, name, ref, grain
        high, wide = (min(side, _BLOCK) for side in ref.shape) if grain == "block" else (1, columns)
        self._block = high, wide
        self.grid = (1,) if grain == "tensor" else (rows // high, columns // wide)
        self._scale: NumpyArray | None = None
        self._error: float | None = None

    def weight(self) -> NumpyArray:
        """The values divided by their scales, rounded."""
        values = self._ref.read()
        scale = self._found(values)
        out: NumpyArray = np.empty(values.shape, self.dtype.numpy)
        numbers = np.arange(256, dtype=np.uint8).view(self.dtype.numpy).astype(np.float32)  # faster than a cast
        square, lost = 0.0, 0.0
        for start, piece, steps in self._pieces(values, scale):
            scaled = np.clip(piece / steps, -self.dtype.largest, self.dtype.largest).astype(self.dtype.numpy)
            out[start : start + len(piece) * piece.shape[1]] = scaled.reshape(-1, out.shape[1])
            difference = (numbers[scaled.view(np.uint8)] * steps).astype(np.float64) - piece
            square += float(np.sum(np.square(piece, dtype=np.float64)))
            lost += float(np.sum(np.square(difference)))
        self._error = math.sqrt(lost / square) if square else 0.0
        return out

    def scale(self) -> NumpyArray:
        """What the values are multiplied with again."""
        found = self._found(None)
        return (found[:1, :1] if self._grain == "tensor" else found).reshape(self.grid)

    @property
    def error(self) -> float:
        """Norm of what rounding lost over the norm of the matrix; it is computed again where another process wrote it."""
        if self._error is None:
            self.weight()
        assert self._error is not None
        return self._error

    def _found(self, values: NumpyArray | None) -> NumpyArray:
        """The scale of each block, (rows / high, columns / wide); of a whole matrix the same for each of its rows."""
        if self._scale is None:
            values = self._ref.read() if values is None else values
            ones = np.ones((values.shape[0] // self._block[0], values.shape[1] // self._block[1]), np.float32)
            largest = np.concatenate([np.abs(piece).max(axis=(1, 3)) for _, piece, _ in self._pieces(values, ones)])
            if not np.isfinite(largest).all():
                raise InputError(
                    f"'{self._name}' of {self._label} holds NaN or infinity, which would spoil its scale",
                    f"Mend the checkpoint, or leave the tensor as it is: --keep '{self._name}'.",
                )
            if self._grain == "tensor":
                largest = np.full_like(largest, largest.max())
            scale = (largest / np.float32(self.dtype.largest)).astype(np.float32)
            if self._grain != "block":  # loaders may round these to the model's own format
                scale = scale.astype(DTYPES["BF16"].numpy).astype(np.float32)
            scale[scale == 0] = 1
            self._scale = scale
        return self._scale

    def _pieces(self, values: NumpyArray, scale: NumpyArray) -> Iterator[tuple[int, NumpyArray, NumpyArray]]:
        """First row, entries (blocks down, high, blocks across, wide) and scales of some rows of blocks at a time."""
        high, wide = self._block
        across = values.shape[1] // wide
        step = max(1, _PIECE // (high * values.shape[1]))
        for first in range(0, len(scale), step):
            some = scale[first : first + step]
            rows = values[first * high : (first + len(some)) * high]
            piece = widen(rows).astype(np.float32, copy=False).reshape(len(some), high, across, wide)
            yield first * high, piece, some[:, None, :, None]


@dataclass(frozen=True)
class _Weight:
    stored: Float8

    def __call__(self) -> NumpyArray:
        return self.stored.weight()


@dataclass(frozen=True)
class _Scale:
    stored: Float8

    def __call__(self) -> NumpyArray:
        return self.stored.scale()


def rounding(tensors: Mapping[str, TensorRef], names: Iterable[str]) -> dict[str, float]:
    """Of those of these tensors that `quantise` has made, the relative error: norm of what was lost over the norm."""
    loads = ((name, tensors[name].load) for name in names)
    return {name: load.stored.error for name, load in loads if isinstance(load, _Weight)}
