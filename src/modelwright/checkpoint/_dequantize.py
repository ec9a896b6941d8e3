"""Float8 weights with scales, as the numbers they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from modelwright.architectures import is_list, is_table, quantization_settings, scale_names
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.errors import InputError
from modelwright.tensors import DTYPES

#: Scales of activations and caches: they mean nothing without the quantised kernel.
_ACTIVATIONS = (
    ".input_scale", ".output_scale", ".activation_scale", ".k_scale", ".v_scale", ".q_scale", ".prob_scale",
    ".input_scale_ub", ".activation_scale_ub", ".input_global_scale",
)  # fmt: skip
#: Rows and columns that share a scale where the configuration does not say.
_USUAL_BLOCK = (128, 128)


def dequantized(
    tensors: dict[str, TensorRef], config: Mapping[str, Any], label: str
) -> tuple[dict[str, TensorRef], dict[str, str], list[str]]:
    """Replace each float8 tensor that has a scale by their product, in bfloat16 once it is written.

    A file of plain float8 tensors, without any scale, stays as it is: its elements are numbers already.

    Returns:
        The tensors, the scales that were consumed (name -> why), and notes for the user.

    Raises:
        InputError: A scale does not fit its tensor, or one is missing though the configuration promises it.
    """
    small = [name for name, ref in tensors.items() if ref.dtype.itemsize == 1 and ref.dtype.floating]
    found = {name: next((scale for scale in scale_names(name) if scale in tensors), None) for name in small}
    scales = set(found.values())
    pairs = {name: scale for name, scale in found.items() if scale and name not in scales}
    settings = quantization_settings(config)
    missing = [name for name in small if name not in pairs and name not in scales]
    if missing and settings:
        raise InputError(
            f"{label}: '{missing[0]}' is float8 and quantised, but its scale '{scale_names(missing[0])[0]}' is missing",
            "Download the model again, or use the unquantised weights.",
        )
    if not pairs:
        return tensors, {}, []
    block = _stated_block(settings)
    result = dict(tensors)
    for name, scale in pairs.items():
        result[name] = _scaled(label, name, tensors[name], scale, tensors[scale], block)
    for name in missing:  # beside de-quantised tensors these too become bfloat16, which holds every float8 number
        result[name] = TensorRef(DTYPES["BF16"], tensors[name].shape, _Widened(tensors[name]), tensors[name].source)
    consumed = {scale: f"scale of {name}" for name, scale in pairs.items()}
    consumed |= {name: "activation scale of a quantised layer" for name in tensors if name.endswith(_ACTIVATIONS)}
    result = {name: ref for name, ref in result.items() if name not in consumed}
    return result, consumed, [f"{label}: {len(pairs)} float8 tensors de-quantised with their scales, to bfloat16"]


def as_stored(tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Tensors as they lie in their files: those that were de-quantised while opening as float8, with their scales."""
    found: dict[str, TensorRef] = {}
    for name, ref in tensors.items():
        if isinstance(ref.load, _Product):
            found |= {name: ref.load.weight, ref.load.name: ref.load.scale}
        else:
            found[name] = ref.load.ref if isinstance(ref.load, _Widened) else ref
    return found


def without_quantization(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The configuration of the same model de-quantised."""
    if config is None:
        return None
    result = {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}
    for key, value in result.items():
        if key.endswith("_config") and is_table(value):
            result[key] = without_quantization(value)
    return result


class _Product:
    """Loads weight x scale in float32."""

    def __init__(self, weight: TensorRef, name: str, scale: TensorRef, shape: tuple[int, ...], steps: tuple[int, ...]):
        self.weight, self.name, self.scale, self.shape, self.steps = weight, name, scale, shape, steps

    def __call__(self) -> NumpyArray:
        values = self.weight.read().astype(np.float32)
        scale = self.scale.read().astype(np.float32).reshape(self.shape)
        for axis, step in enumerate(self.steps):
            if step > 1:  # the last block may be cut short
                scale = np.repeat(scale, step, axis=axis).take(range(values.shape[axis]), axis=axis)
        return values * scale


class _Widened:
    """Loads a float8 tensor as bfloat16."""

    def __init__(self, ref: TensorRef):
        self.ref = ref

    def __call__(self) -> NumpyArray:
        return self.ref.read().astype(DTYPES["BF16"].numpy)


def _stated_block(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    size = settings.get("weight_block_size")
    if is_list(size) and len(size) == 2 and all(type(item) is int and item > 0 for item in size):
        return size[0], size[1]
    return None


def _scaled(
    label: str, name: str, ref: TensorRef, scale_name: str, scale: TensorRef, block: tuple[int, int] | None
) -> TensorRef:
    shape = scale.shape
    if scale.size == 1:
        shape = (1,) * len(ref.shape)
    elif len(shape) == 1 and len(ref.shape) == 2 and shape[0] == ref.shape[0]:
        shape = (shape[0], 1)  # one number per row, written as a list
    steps = _steps(ref.shape, shape, block) if len(shape) == len(ref.shape) and scale.dtype.floating else None
    if steps is None:
        stated = f" in blocks of {list(block)}" if block else ""
        raise InputError(
            f"{label}: the scale '{scale_name}' of {scale.dtype} {list(scale.shape)} does not fit '{name}' of "
            f"{list(ref.shape)}{stated}",
            "Scales are floating-point: single numbers, rows or blocks.",
        )
    return TensorRef(DTYPES["BF16"], ref.shape, _Product(ref, scale_name, scale, shape, steps), ref.source)


def _steps(shape: tuple[int, ...], scales: tuple[int, ...], block: tuple[int, int] | None) -> tuple[int, ...] | None:
    """How many elements along each axis share a scale (1: plain broadcasting), or None where that is not clear."""
    steps: list[int] = []
    for axis, (n, s) in enumerate(zip(shape, scales, strict=True)):
        if s in (1, n):
            steps.append(1)
            continue
        from_end = axis - len(shape) + 2
        choices = [-(-n // s)] if s else []
        if from_end >= 0:
            choices = [block[from_end]] if block else [_USUAL_BLOCK[from_end], *choices]
        step = next((choice for choice in choices if -(-n // choice) == s), None)
        if step is None:
            return None
        steps.append(step)
    return tuple(steps)
