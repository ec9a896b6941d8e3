"""`model+adapter`: an adapter applied tensor by tensor, never as a second model on disk."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelwright.architectures import module_path
from modelwright.checkpoint._adapter_files import Adapter, open_adapter
from modelwright.checkpoint._adapter_modules import AdaptedModule
from modelwright.checkpoint._adapter_scales import shortened
from modelwright.checkpoint._checkpoint import Checkpoint
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.errors import InputError, Problem, listing

_OTHER_MODEL = "The adapter was trained on another model."
#: kohya's names of the components of a pipeline -> the folders of diffusers.
_COMPONENTS = {
    "lora_unet_": "unet_", "lora_te_": "text_encoder_", "lora_te1_": "text_encoder_", "lora_te2_": "text_encoder_2_",
    "lora_te3_": "text_encoder_3_", "lora_transformer_": "transformer_", "lora_prior_": "prior_",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What one adapter does to one tensor of a model.

    Attributes:
        module: The module that the tensor belongs to.
        transposed: Whether the model stores it (in, out).
    """

    module: AdaptedModule
    transposed: bool = False


@dataclass(frozen=True)
class Joined:
    """An adapter with the tensors of a model that it changes.

    Attributes:
        adapter: The adapter.
        weights: Of each tensor of the model, what becomes of it.
        biases: The same of biases.
        whole: Tensors that the adapter brings, by the model's names; new ones by the adapter's.
    """

    adapter: Adapter
    weights: Mapping[str, Change]
    biases: Mapping[str, AdaptedModule]
    whole: Mapping[str, TensorRef]


def with_adapter(model: Checkpoint, path: Path, label: str) -> Checkpoint:
    """The model with what an adapter adds to each tensor that it tunes.

    Args:
        model: The checkpoint that the adapter was trained on.
        path: A peft folder with adapter_config.json, or a LoRA file.
        label: What to call the result.

    Raises:
        InputError: It is of a kind that is not known, or does not fit the model.
    """
    return with_adapters(model, [open_adapter(path)], label)


def with_adapters(model: Checkpoint, adapters: Sequence[Adapter], label: str) -> Checkpoint:
    """The model with what several adapters add to it.

    What does not depend on the weight is added up, in float32 (float64 for float64 weights). DoRA's change is that of the model's
    own weight, so that the order of adapters does not matter there either; vectors of IA3 multiply.

    Raises:
        InputError: One does not fit the model, or two bring the same tensor whole.
    """
    joined = [join_adapter(model, adapter) for adapter in adapters]
    tensors = dict(model)
    notes: list[str] = []
    for name in dict.fromkeys(name for each in joined for name in each.whole):
        bringing = [each for each in joined if name in each.whole]
        if len(bringing) > 1:
            raise InputError(
                f"{listing(each.adapter.label for each in bringing)} each bring their own '{name}'",
                "One model can hold one of them; merge the adapters first, with --base.",
            )
        tensors[name] = bringing[0].whole[name]
    for name in dict.fromkeys(name for each in joined for name in each.weights):
        changes = [each.weights[name] for each in joined if name in each.weights]
        tensors[name] = _computed(tensors[name], _Weight(tensors[name], changes))
    for name in dict.fromkeys(name for each in joined for name in each.biases):
        modules = [each.biases[name] for each in joined if name in each.biases]
        tensors[name] = _computed(tensors[name], _Bias(tensors[name], modules))
    for each in joined:
        notes += _notes(label, each, model)
    states = dict(model.states)
    for each in joined:
        states.update(each.adapter.states)
    return Checkpoint(
        tensors, label=label, path=model.path, url=model.url, parts=model.parts, metadata=model.metadata,
        consumed=model.consumed, notes=(*model.notes, *notes), beneath=(*model.beneath, *(each.adapter.path for each in joined)),
        states=states,
    )  # fmt: skip


def _computed(ref: TensorRef, load: _Weight | _Bias) -> TensorRef:
    return TensorRef(ref.dtype, ref.shape, load, ref.source)


class _Weight:
    """Loads a weight with the changes of adapters."""

    def __init__(self, weight: TensorRef, changes: Sequence[Change]):
        self.weight, self.changes = weight, changes

    def __call__(self) -> NumpyArray:
        own = next((change.module.own for change in self.changes if change.module.own is not None), None)
        basis = _wide(own or self.weight)
        made = basis
        for change in self.changes:
            made = change.module.changed(made, basis, change.transposed)
        return made


class _Bias:
    """Loads a bias with the changes of adapters."""

    def __init__(self, bias: TensorRef, modules: Sequence[AdaptedModule]):
        self.bias, self.modules = bias, modules

    def __call__(self) -> NumpyArray:
        made = _wide(self.bias)
        for module in self.modules:
            made = module.changed_bias(made)
        return made


def _wide(ref: TensorRef) -> NumpyArray:
    values = ref.read()
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)


def _notes(label: str, joined: Joined, model: Checkpoint) -> list[str]:
    adapter = joined.adapter
    ranks = sorted({module.rank for module in adapter.modules.values() if module.rank is not None})
    what = f"LoRA of rank {listing(ranks)}" if ranks else listing(sorted({m.kind for m in adapter.modules.values()}))
    notes = [f"{label}: {what} added to {len(joined.weights)} tensors"]
    own = [name for name, change in joined.weights.items() if change.module.own]
    if own or joined.whole:
        notes.append(f"{label}: the adapter brings its own {listing([*own, *joined.whole])}")
    for name in joined.whole:
        if name not in model:
            notes.append(f"{label}: '{name}' is in the adapter only; the configuration does not know of it")
    return notes


# --- which tensors it tunes --------------------------------------------------------------------------------------------


def join_adapter(model: Checkpoint, adapter: Adapter) -> Joined:
    """Find the tensors of a model that an adapter tunes, and check that they fit.

    Raises:
        InputError: A module is no tensor of the model, or has another shape there; all that is wrong is told.
    """
    names = _Names(model, adapter)
    found = {module: names.weight(module) for module in adapter.modules}
    where = str(adapter.path)
    lost = [module for module, target in found.items() if target is None]
    if lost:
        raise InputError(
            Problem(f"'{module}' of the adapter is no tensor of {model.label}", _OTHER_MODEL, where) for module in lost
        )
    targets = {module: str(target) for module, target in found.items()}
    _check_fit(adapter, targets, model)
    square = _square_transposed(adapter, targets, model)
    weights = {target: _change(adapter.modules[m], model[target].shape, square) for m, target in targets.items()}
    biases = {f"{target.removesuffix('.weight')}.bias": adapter.modules[m] for m, target in targets.items()}
    tuned = {
        name: module for name, module in biases.items() if module.bias or (module.kind == "ia3" and not module.inputs)
    }
    bare = [module.module for name, module in tuned.items() if name not in model and module.bias]
    if bare:
        raise InputError(
            f"the adapter tunes biases of {listing(bare, 3)}, which have none in {model.label}",
            "Such an adapter cannot be baked in: load it with peft.",
            where,
        )
    tuned = {name: module for name, module in tuned.items() if name in model}
    return Joined(adapter, weights, tuned, _whole(adapter, names, model))


def _change(module: AdaptedModule, shape: tuple[int, ...], square: bool) -> Change:
    if module.kind == "ia3":  # only a square one leaves it open, and then the vector does not show it
        return Change(module, _ia3_transposed(module, shape, square))
    return Change(module, not _fits(module, shape, False) or (square and _fits(module, shape, True)))


def _ia3_transposed(module: AdaptedModule, shape: tuple[int, ...], square: bool) -> bool:
    size = module.pieces["ia3_l"].size
    axis = 1 if module.inputs else 0
    return len(shape) == 2 and (shape[axis] != size or (square and shape[1 - axis] == size))


def _whole(adapter: Adapter, names: _Names, model: Checkpoint) -> dict[str, TensorRef]:
    whole: dict[str, TensorRef] = {}
    for name, ref in adapter.saved.items():
        target = names.tensor(name) or name
        if target in model and model[target].shape != ref.shape:
            raise InputError(
                f"the adapter's '{name}' is {list(ref.shape)}, and {model.label} has it as {list(model[target].shape)}",
                _OTHER_MODEL,
                str(adapter.path),
            )
        whole[target] = ref
    return whole


def _flat(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _fits(module: AdaptedModule, shape: tuple[int, ...], transposed: bool) -> bool:
    """Whether what a module adds, or its transpose, has this shape."""
    own = module.shape
    if own is None:  # a vector
        size, axis = module.pieces["ia3_l"].size, int(module.inputs)
        return len(shape) > 1 and shape[1 - axis if transposed else axis] == size
    if transposed:
        return module.kind != "embedding" and len(shape) == 2 and shape == (own[1], own[0]) and math.prod(own[2:]) == 1
    return len(shape) >= 2 and _flat(own) == _flat(shape)


def _check_fit(adapter: Adapter, targets: Mapping[str, str], model: Checkpoint) -> None:
    problems: list[Problem] = []
    for name, target in targets.items():
        module, shape = adapter.modules[name], model[target].shape
        fits = _fits(module, shape, False) or _fits(module, shape, True)
        fits = fits and (module.own is None or module.own.shape == shape)
        fits = fits and (module.magnitude is None or module.magnitude.size in shape)
        if not fits or not model[target].dtype.floating:
            pieces = {piece: list(ref.shape) for piece, ref in module.pieces.items()}
            pieces |= {"base_layer": list(module.own.shape)} if module.own else {}
            shapes = " and ".join(
                f"{piece.removeprefix('lora_')} {size}" for piece, size in sorted(pieces.items(), reverse=True)
            )
            problems.append(Problem(f"'{name}': {shapes} do not fit {list(shape)}", _OTHER_MODEL, str(adapter.path)))
    if problems:
        raise InputError(problems)


def _square_transposed(adapter: Adapter, targets: Mapping[str, str], model: Checkpoint) -> bool:
    """Whether square weights, whose shape does not tell, are stored (in, out) as GPT-2 does.

    Its oblong neighbours tell. Only without any does the adapter's `fan_in_fan_out` decide: peft writes what held for
    the module it saw last, which may have been a head stored the other way.
    """
    matrices = [m for m in targets if len(model[targets[m]].shape) == 2 and adapter.modules[m].kind != "embedding"]
    oblong = [m for m in matrices if len(set(model[targets[m]].shape)) == 2]
    layout = model.layout
    inner = [m for m in oblong if layout.place(targets[m])] or oblong
    if inner:
        return any(not _fits(adapter.modules[m], model[targets[m]].shape, False) for m in inner)
    return bool(adapter.config.get("fan_in_fan_out"))


class _Names:
    """A model's tensors by the names that adapters have for them."""

    def __init__(self, model: Checkpoint, adapter: Adapter):
        self._form = adapter.form
        family = str((model.config or {}).get("model_type") or "")
        self._own = {module_path(name, family): name for name in model} | {name: name for name in model}
        self._endings = _endings(self._own)
        self._flat: dict[str, list[str]] = {}
        if adapter.form != "peft":
            for name in model:
                if name.endswith(".weight"):
                    self._flat.setdefault(re.sub(r"[./]", "_", name.removesuffix(".weight")), []).append(name)

    def weight(self, module: str) -> str | None:
        """The weight of a module."""
        return self.tensor(f"{module}.weight") if self._form == "peft" else self._of_file(module)

    def tensor(self, wanted: str) -> str | None:
        """A tensor; checkpoints and modules may differ in a leading `model.` or `transformer.`."""
        if wanted in self._own:
            return self._own[wanted]
        found = [*self._endings.get(wanted, ()), *(ending for ending in shortened(wanted) if ending in self._own)]
        owners = {self._own[name] for name in found}
        return owners.pop() if len(owners) == 1 else None

    def _of_file(self, module: str) -> str | None:
        """Kohya writes every dot of a path as an underscore, which cannot be undone, but can be done to the model's names."""
        flat = module.replace(".", "_")
        for start, component in _COMPONENTS.items():
            if flat.startswith(start):
                flat = component + flat.removeprefix(start)
        bare = flat.partition("_")[2] if flat.startswith(("unet_", "transformer_", "prior_")) else flat
        found = self._flat.get(flat) or self._flat.get(bare) or []
        return found[0] if len(found) == 1 else None


def _endings(names: Iterable[str]) -> dict[str, list[str]]:
    """The names without their first words -> those names."""
    table: dict[str, list[str]] = {}
    for name in names:
        for ending in shortened(name):
            table.setdefault(ending, []).append(name)
    return table
