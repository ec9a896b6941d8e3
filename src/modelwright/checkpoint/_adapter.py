"""`model+adapter`: a plain LoRA applied tensor by tensor, never as a second model on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.checkpoint._checkpoint import Checkpoint
from modelwright.checkpoint._open import open as open_checkpoint
from modelwright.checkpoint._open import read_json
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.errors import InputError, Problem, listing

_PLAIN = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.(?:default\.)?weight$")
_LATER = (
    "Until adapters have their own issue only plain LoRA on linear layers is applied here; bake it in with peft first."
)


def with_adapter(model: Checkpoint, folder: Path, label: str) -> Checkpoint:
    """The model with `scale * B @ A` added to each tensor that the adapter tunes.

    Args:
        model: The checkpoint that the adapter was trained on.
        folder: A peft folder with adapter_config.json.
        label: What to call the result.

    Raises:
        InputError: It is not a plain LoRA (DoRA, bias, other kinds), or does not fit the model.
    """
    config = read_json(folder / "adapter_config.json")
    if config is None:
        raise InputError(f"{folder} is not an adapter: it has no adapter_config.json")
    _check_kind(folder, config)
    pairs = _pairs(folder, open_checkpoint(folder))
    tensors = dict(model)
    problems: list[Problem] = []
    for module, (down, up) in pairs.items():
        target = _target(module, model)
        if target is None:
            problems.append(Problem(f"'{module}' of the adapter is no tensor of {model.label}", "", str(folder)))
            continue
        transposed = bool(config.get("fan_in_fan_out"))
        expected = (down.shape[1], up.shape[0]) if transposed else (up.shape[0], down.shape[1])
        if model[target].shape != expected or down.shape[0] != up.shape[1]:
            problems.append(
                Problem(
                    f"'{module}': B {list(up.shape)} and A {list(down.shape)} do not fit {list(model[target].shape)}",
                    "The adapter was trained on another model.",
                    str(folder),
                )
            )
            continue
        scale = _scale(config, module, down.shape[0])
        ref = model[target]
        tensors[target] = TensorRef(ref.dtype, ref.shape, _Sum(ref, down, up, scale, transposed), ref.source)
    if problems:
        raise InputError(problems)
    note = f"{label}: LoRA of rank {config.get('r')} added to {len(pairs)} tensors"
    return Checkpoint(
        tensors, label=label, path=model.path, parts=model.parts, metadata=model.metadata, consumed=model.consumed,
        notes=(*model.notes, note),
    )  # fmt: skip


class _Sum:
    """Loads weight + scale * B @ A, the product in float32 (float64 for float64 weights)."""

    def __init__(self, weight: TensorRef, down: TensorRef, up: TensorRef, scale: float, transposed: bool):
        self.weight, self.down, self.up, self.scale, self.transposed = weight, down, up, scale, transposed

    def __call__(self) -> NumpyArray:
        values = self.weight.read()
        wide = np.float64 if values.dtype == np.float64 else np.float32
        product = self.up.read().astype(wide) @ self.down.read().astype(wide)
        return values.astype(wide) + wide(self.scale) * (product.T if self.transposed else product)


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type", "")).upper()
    problems: list[Problem] = []
    if kind != "LORA":
        problems.append(Problem(f"the adapter is of kind {kind or 'unknown'}, not LORA", _LATER, str(folder)))
    if config.get("use_dora"):
        problems.append(Problem("the adapter uses DoRA", _LATER, str(folder)))
    if str(config.get("bias", "none")) not in ("none", "False"):
        problems.append(Problem(f"the adapter tunes biases (bias: {config['bias']})", _LATER, str(folder)))
    if config.get("modules_to_save"):
        problems.append(Problem(f"the adapter saves whole modules ({config['modules_to_save']})", _LATER, str(folder)))
    if problems:
        raise InputError(problems)


def _pairs(folder: Path, adapter: Checkpoint) -> dict[str, tuple[TensorRef, TensorRef]]:
    sides: dict[str, dict[str, TensorRef]] = {}
    odd: list[str] = []
    for name, ref in adapter.items():
        match = _PLAIN.match(name)
        if match is None or len(ref.shape) != 2:
            odd.append(name)
        else:
            sides.setdefault(match["module"], {})[match["side"]] = ref
    odd += [module for module, found in sides.items() if len(found) != 2]
    if odd:
        raise InputError(f"{folder}: not a plain LoRA of linear layers: {listing(odd)}", _LATER)
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def _target(module: str, model: Checkpoint) -> str | None:
    """The tensor of a module path; checkpoints and modules may differ in a leading `model.` or `transformer.`."""
    wanted = f"{module}.weight"
    if wanted in model:
        return wanted
    found = [name for name in model if wanted.endswith("." + name) or name.endswith("." + wanted)]
    return found[0] if len(found) == 1 else None


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = float(_pattern(config.get("alpha_pattern"), module) or config.get("lora_alpha") or 8)
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _pattern(table: Any, module: str) -> Any:
    """A peft pattern table: keys are module suffixes or regular expressions."""
    for key, value in (table or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return None
