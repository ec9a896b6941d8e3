"""Tensors in memory: modules, state dicts, dicts of arrays."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from modelwright.checkpoint._checkpoint import Checkpoint, Part
from modelwright.checkpoint._refs import TensorRef, array_ref
from modelwright.checkpoint._safetensors import METADATA
from modelwright.errors import InputError, did_you_mean
from modelwright.tensors import DTYPES, dtype as find_dtype


def from_mapping(values: Mapping[Any, Any], label: str) -> Checkpoint:
    """A dict of torch tensors, of arrays of any library, or of `TensorRef`.

    Raises:
        InputError: A value is not a tensor, or has no plain values.
    """
    tensors: dict[str, TensorRef] = {}
    for name, value in values.items():
        if not isinstance(name, str) or name == METADATA:
            raise InputError(f"{label}: a tensor cannot be called {name!r}", "Names are text, such as 'layer.weight'.")
        tensors[name] = _ref(value, name, label)
    return Checkpoint(tensors, label=label)


def from_module(module: Any, label: str) -> Checkpoint:
    """An `nn.Module` with its configuration, if it has one."""
    opened = from_mapping(module.state_dict(), label)
    settings: Any = getattr(module, "config", None)
    config = settings.to_dict() if hasattr(settings, "to_dict") else None
    return Checkpoint(dict(opened), label=label, parts=(Part(config=config),))


def _ref(value: Any, name: str, label: str) -> TensorRef:
    if isinstance(value, TensorRef):
        return value
    if sys.modules.get("torch") is not None:  # who passes a torch tensor has imported torch
        from modelwright.checkpoint._torch import is_tensor, tensor_ref

        if is_tensor(value):
            try:
                return tensor_ref(value)
            except ValueError as error:
                raise InputError(f"{label}: '{name}' {error}", "Pass plain tensors with values.") from None
    if not hasattr(value, "__array__"):
        raise InputError(
            f"{label}: '{name}' is a {type(value).__name__}, not a tensor",
            "Pass arrays only; drop counters and settings first.",
        )
    array = np.asarray(value)
    native = array.dtype.newbyteorder("=") if array.dtype.kind in "iufc" else array.dtype
    if native.name not in DTYPES:
        known = did_you_mean(native.name, {entry.name for entry in DTYPES.values()})
        raise InputError(f"{label}: '{name}' has the dtype {array.dtype}, which checkpoints are not read in", known)
    return array_ref(array.astype(native, copy=False), find_dtype(native))
