"""Merging by a method's array function, on whole tensors: any method, any device, any array library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import xxhash

from modelwright.checkpoint import NumpyArray
from modelwright.engine._device import fetch, on, send, torch_for
from modelwright.engine._sources import RANGE
from modelwright.errors import InputError, RunError
from modelwright.methods import PerTensor
from modelwright.recipe import Plan, PlannedTensor
from modelwright.tensors import Array, NoiseKey, all_finite, namespace, narrow, to_numpy, widen


class NotFiniteError(Exception):
    """A kernel met NaN or infinity in an input, or made one.

    Attributes:
        member: The tensor as the kernels have it (`_fused.Fused`), which can tell more.
    """

    def __init__(self, member: Any):
        super().__init__(member.tensor.name)
        self.member = member


@dataclass
class Look:
    """What merging a tensor has shown.

    Attributes:
        allow: Whether NaN and infinity may pass.
        digests: xxh3-128 of the stored bytes of each source, by range.
        changed: Whether the merged values differ from the base's.
        differs: Labels of models whose buffer differs from the one that is kept.
        odd: How many values of each source are not finite, by model's label.
    """

    allow: bool = False
    digests: list[list[str]] = field(default_factory=list[list[str]])
    changed: bool = False
    differs: list[str] = field(default_factory=list[str])
    odd: dict[str, int] = field(default_factory=dict[str, int])


def compute(
    plan: Plan, tensor: PlannedTensor, facts: Mapping[str, Any], device: str = "cpu", look: Look | None = None
) -> NumpyArray:
    """One output tensor in its final format.

    Raises:
        InputError: An input holds NaN or infinity.
        RunError: The result does not fit the output format.
    """
    look = look or Look()
    if tensor.action != "merge":
        return _copied(plan, tensor, look)
    if device != "cpu":
        with on(device):
            merged = _merged(plan, tensor, facts, device, look)
            result = narrow(merged, getattr(torch_for(device), tensor.dtype.name))
            return fetch(result if look.odd else _fitting(tensor, merged, result), device)
    merged = to_numpy(_merged(plan, tensor, facts, device, look))
    result = narrow(merged, tensor.dtype.numpy)
    return result if look.odd else _fitting(tensor, merged, result)


def _merged(plan: Plan, tensor: PlannedTensor, facts: Mapping[str, Any], device: str, look: Look) -> Array:
    models, base = wide_inputs(plan, tensor, device, look)
    key = NoiseKey(plan.recipe.seed, tensor.name)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by the caller, by name
        try:
            facts = facts_for(facts, tensor.name)
            merged = plan.method.run(models, base, tensor.parameters, key, facts, tensor.position)
        except InputError as error:
            raise InputError([replace(p, where=p.where or tensor.name) for p in error.problems]) from None
    if base is not None:
        look.changed = bool((merged != base).any())
    return merged


def _fitting(tensor: PlannedTensor, wide: Array, result: Array) -> Array:
    if not all_finite(widen(result)):
        host = to_numpy(wide)
        raise RunError(too_large(tensor, host.dtype.name, float(np.max(np.abs(host))) if all_finite(host) else np.inf))
    return result


def too_large(tensor: PlannedTensor, computed: str, largest: float) -> str:
    """What to say of a result that the output format cannot hold, or that is infinite before it is rounded."""
    if not np.isfinite(largest):
        if tensor.action != "merge":
            return f"'{tensor.name}' holds NaN or infinite values, which cannot be converted to {tensor.dtype}."
        return (
            f"'{tensor.name}': the merge overflows {computed}, in which it is computed, though every input is finite. "
            "Lower the weights or lambda."
        )
    wider = {"float16": "bfloat16 or float32", "float32": "float64"}.get(tensor.dtype.name, "float32")
    return (
        f"'{tensor.name}' reaches {largest:.4g}, which {tensor.dtype} cannot hold (its largest is "
        f"{tensor.dtype.largest:.4g}). Set out_dtype: {wider}."
    )


def _copied(plan: Plan, tensor: PlannedTensor, look: Look) -> NumpyArray:
    first, *others = tensor.inputs
    array = plan.models[first.model][first.name].read()
    look.digests.append(digests(array))
    for other in others:
        theirs = plan.models[other.model][other.name].read()
        look.digests.append(digests(theirs))
        if not np.array_equal(array, theirs):
            look.differs.append(plan.models[other.model].label)
    if array.dtype == tensor.dtype.numpy:
        return array
    with np.errstate(over="ignore"):
        result = narrow(array, tensor.dtype.numpy)
        return result if look.allow else _fitting(tensor, widen(array), result)


def wide_inputs(
    plan: Plan, tensor: PlannedTensor, device: str, look: Look | None = None
) -> tuple[list[Array], Array | None]:
    """The tensors that meet, in float32 or float64, checked to be finite, on the device.

    Raises:
        InputError: One is not finite, and that is not allowed.
    """
    arrays: list[Array] = []
    look = look or Look()
    for source in tensor.sources:
        model = plan.models[source.model]
        stored = model[source.name].read()
        look.digests.append(digests(stored))
        wide = widen(stored if device == "cpu" else send(stored, device, len(arrays)))
        if not all_finite(wide):
            host = to_numpy(wide)
            count = int(host.size - np.count_nonzero(np.isfinite(host)))
            if not look.allow:
                raise InputError(
                    f"'{source.name}' of {model.label} holds {count} value{'s that are' if count > 1 else ' that is'} NaN or infinite",
                    "A merge would spread them: mend or replace the checkpoint, or pass --allow-nonfinite.",
                )
            look.odd[model.label] = count
        arrays.append(wide)
    xp = namespace(*arrays)
    if any(array.dtype == xp.float64 for array in arrays):
        arrays = [xp.astype(array, xp.float64, copy=False) for array in arrays]
    if tensor.base is not None:
        return arrays[:-1], arrays[-1]
    return arrays, None


def digests(array: NumpyArray) -> list[str]:
    """xxh3-128 of the bytes of each range of elements."""
    flat = bytes_of(array)
    step = RANGE * array.dtype.itemsize
    return [xxhash.xxh3_128_hexdigest(flat[at : at + step].data) for at in range(0, len(flat), step)]


def bytes_of(array: NumpyArray) -> NumpyArray:
    """The bytes of an array in row-major order."""
    return cast(Any, np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def facts_for(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The facts of rounds as one tensor sees them; of what is counted by layers, layers may have none."""
    return {
        key: value[name] if isinstance(value, PerTensor) else value
        for key, value in facts.items()
        if not isinstance(value, PerTensor) or name in value
    }
