"""Float8 weights with scales, as the numbers they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from modelwright.architectures import SCALE_SUFFIXES
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.errors import InputError
from modelwright.tensors import DTYPES


def dequantized(
    tensors: dict[str, TensorRef], config: Mapping[str, Any], label: str
) -> tuple[dict[str, TensorRef], dict[str, str], list[str]]:
    """Replace each float8 tensor that has a scale by their product, in bfloat16 once it is written.

    Returns:
        The tensors, the scales that were consumed (name -> why), and notes for the user.
    """
    consumed: dict[str, str] = {}
    result = dict(tensors)
    block = _block_size(config)
    for name, ref in tensors.items():
        if ref.dtype.itemsize != 1 or not ref.dtype.floating:
            continue
        scale_name = next((name + suffix for suffix in SCALE_SUFFIXES if name + suffix in tensors), None)
        if scale_name is None:
            result[name] = TensorRef(DTYPES["BF16"], ref.shape, ref.load, ref.source)
            continue
        scale = tensors[scale_name]
        _check_scale(label, name, ref, scale_name, scale)
        result[name] = TensorRef(DTYPES["BF16"], ref.shape, _Product(ref, scale, block), ref.source)
        consumed[scale_name] = f"scale of {name}"
    if consumed:
        for name in tensors:  # activation scales mean nothing without the quantised kernel
            if name.endswith((".input_scale", ".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale")):
                consumed[name] = "activation scale of a quantised layer"
        result = {name: ref for name, ref in result.items() if name not in consumed}
    notes = [f"{label}: {len(consumed)} scales of float8 weights applied; the output is bfloat16"] if consumed else []
    return result, consumed, notes


class _Product:
    """Loads weight x scale in float32."""

    def __init__(self, weight: TensorRef, scale: TensorRef, block: tuple[int, int]):
        self.weight, self.scale, self.block = weight, scale, block

    def __call__(self) -> NumpyArray:
        values = self.weight.read().astype(np.float32)
        scale = self.scale.read().astype(np.float32)
        if scale.size == 1:
            return values * scale.reshape(())
        for axis in range(values.ndim):
            repeats = -(-values.shape[axis] // scale.shape[axis])
            if 1 < scale.shape[axis] < values.shape[axis]:
                step = self.block[axis - values.ndim + 2] if axis >= values.ndim - 2 else repeats
                step = step if -(-values.shape[axis] // step) == scale.shape[axis] else repeats
                scale = np.repeat(scale, step, axis=axis)
                scale = np.take(scale, np.arange(values.shape[axis]), axis=axis)
        return values * scale


def _block_size(config: Mapping[str, Any]) -> tuple[int, int]:
    settings: Any = config.get("quantization_config") or {}
    size: Any = settings.get("weight_block_size") if isinstance(settings, Mapping) else None
    return (int(size[0]), int(size[1])) if isinstance(size, list) and len(size) == 2 else (128, 128)  # type: ignore[reportUnknownArgumentType]


def _check_scale(label: str, name: str, ref: TensorRef, scale_name: str, scale: TensorRef) -> None:
    fits = scale.size == 1 or (
        len(scale.shape) == len(ref.shape) and all(0 < s <= n for s, n in zip(scale.shape, ref.shape, strict=True))
    )
    if not fits or not scale.dtype.floating:
        raise InputError(
            f"{label}: the scale '{scale_name}' of shape {list(scale.shape)} does not fit '{name}' of {list(ref.shape)}",
            "Scales are single numbers, rows or blocks.",
        )
