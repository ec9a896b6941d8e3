"""`model+adapter`: a plain LoRA applied tensor by tensor, never as a second model on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.checkpoint._checkpoint import Checkpoint
from modelwright.checkpoint._files import from_file, read_json
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.errors import InputError, Problem, listing

_PLAIN = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.(?:default\.)?weight$")
#: peft saves what lies under the factors too where it is a head or an embedding, and puts it in place when it loads.
_OWN_BASE = re.compile(r"^base_model\.model\.(?P<module>.+)\.base_layer\.weight$")
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_LATER = (
    "Until adapters have their own issue only plain LoRA on linear layers is applied here; bake it in with peft first."
)
#: Ways to start training that leave the base model's weights alone, so that the adapter alone is the difference.
_PLAIN_STARTS = ("none", "true", "false", "gaussian", "eva", "orthogonal", "mica")
#: Settings of peft under which the difference is not scale * B @ A, and how to call them.
_OTHER_KINDS = {
    "use_dora": "uses DoRA",
    "use_qalora": "uses QALoRA",
    "lora_bias": "tunes biases (lora_bias)",
    "modules_to_save": "saves whole modules",
    "trainable_token_indices": "tunes single tokens (trainable_token_indices)",
    "target_parameters": "tunes bare parameters (target_parameters)",
    "layer_replication": "replicates layers",
    "alora_invocation_tokens": "is an activated LoRA",
    "use_bdlora": "uses BD-LoRA",
    "arrow_config": "uses Arrow routing",
    "kasa_config": "uses KaSA",
    "velora_config": "uses VeLoRA",
    "monteclora_config": "uses MonteCLoRA",
}


@dataclass(frozen=True)
class _Pair:
    """The two factors for one module, and the tensor of the model that they belong to."""

    module: str
    target: str
    down: TensorRef  # A: (rank, in)
    up: TensorRef  # B: (out, rank)
    base: TensorRef | None = None  # what the adapter brings in place of the model's tensor

    def fits(self, shape: tuple[int, ...], transposed: bool) -> bool:
        """Whether B @ A, or its transpose, has this shape."""
        product = (self.up.shape[0], self.down.shape[1])
        return shape == (product[::-1] if transposed else product)


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
        raise InputError(f"{folder} is not an adapter: it has no adapter_config.json", "Write model+adapter_folder.")
    _check_kind(folder, config)
    pairs = _pairs(folder, model)
    _check_fit(folder, pairs, model)
    square = _square_transposed(pairs, model, config)
    tensors = dict(model)
    for pair in pairs:
        ref = tensors[pair.target]
        transposed = not pair.fits(ref.shape, False) or (square and pair.fits(ref.shape, True))
        total = _Sum(pair.base or ref, pair, _scale(config, pair.module, pair.down.shape[0]), transposed)
        tensors[pair.target] = TensorRef(ref.dtype, ref.shape, total, ref.source)
    notes = [f"{label}: LoRA of rank {config.get('r')} added to {len(pairs)} tensors"]
    if own := [pair.target for pair in pairs if pair.base]:
        notes.append(f"{label}: the adapter brings its own {listing(own)}")
    return Checkpoint(
        tensors, label=label, path=model.path, url=model.url, parts=model.parts, metadata=model.metadata,
        consumed=model.consumed, notes=(*model.notes, *notes),
    )  # fmt: skip


class _Sum:
    """Loads weight + scale * B @ A, the product in float32 (float64 for float64 weights)."""

    def __init__(self, weight: TensorRef, pair: _Pair, scale: float, transposed: bool):
        self.weight, self.pair, self.scale, self.transposed = weight, pair, scale, transposed

    def __call__(self) -> NumpyArray:
        values = self.weight.read()
        wide = np.float64 if values.dtype == np.float64 else np.float32
        product = self.pair.up.read().astype(wide) @ self.pair.down.read().astype(wide)
        return values.astype(wide) + wide(self.scale) * (product.T if self.transposed else product)


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type") or "").upper()
    found: list[str] = []
    if kind != "LORA":
        found.append(f"is of kind {kind or 'unknown'}, not LORA")
    if str(config.get("bias", "none")) not in ("none", "False"):
        found.append(f"tunes biases (bias: {config['bias']})")
    start = str(config.get("init_lora_weights", True))
    if start.lower() not in _PLAIN_STARTS:
        found.append(f"starts from changed base weights (init_lora_weights: {start})")
    found += [what for key, what in _OTHER_KINDS.items() if config.get(key)]
    if found:
        raise InputError(Problem(f"the adapter {what}", _LATER, str(folder)) for what in found)


def _pairs(folder: Path, model: Checkpoint) -> list[_Pair]:
    """The factors with their targets; every tensor of the adapter is one of them."""
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise InputError(f"{folder} has an adapter_config.json but no {_FILES[0]}", "Copy or download it again.")
    sides: dict[str, dict[str, TensorRef]] = {}
    own: dict[str, TensorRef] = {}
    odd: list[str] = []
    for name, ref in from_file(file, str(folder)).items():
        if len(ref.shape) != 2 or not ref.dtype.floating:
            odd.append(name)
        elif match := _PLAIN.match(name):
            sides.setdefault(match["module"], {})[match["side"]] = ref
        elif match := _OWN_BASE.match(name):
            own[match["module"]] = ref
        else:
            odd.append(name)
    odd += [module for module, found in sides.items() if len(found) != 2]
    odd += [module for module in own if module not in sides]
    if odd or not sides:
        raise InputError(f"{folder}: not a plain LoRA of linear layers: {listing(odd)}", _LATER)
    endings = _endings(model)
    targets = {module: _target(module, model, endings) for module in sides}
    lost = [module for module, target in targets.items() if target is None]
    if lost:
        raise InputError(
            Problem(
                f"'{module}' of the adapter is no tensor of {model.label}",
                "The adapter was trained on another model.",
                str(folder),
            )
            for module in lost
        )
    return [
        _Pair(module, str(targets[module]), found["A"], found["B"], own.get(module)) for module, found in sides.items()
    ]


def _check_fit(folder: Path, pairs: Iterable[_Pair], model: Checkpoint) -> None:
    problems: list[Problem] = []
    for pair in pairs:
        shape = model[pair.target].shape
        fits = pair.fits(shape, False) or pair.fits(shape, True)
        fits = fits and (pair.base is None or pair.base.shape == shape)
        if not fits or pair.down.shape[0] != pair.up.shape[1] or not model[pair.target].dtype.floating:
            problems.append(
                Problem(
                    f"'{pair.module}': B {list(pair.up.shape)} and A {list(pair.down.shape)} do not fit {list(shape)}",
                    "The adapter was trained on another model.",
                    str(folder),
                )
            )
    if problems:
        raise InputError(problems)


def _square_transposed(pairs: Iterable[_Pair], model: Checkpoint, config: Mapping[str, Any]) -> bool:
    """Whether square weights, whose shape does not tell, are stored (in, out) as GPT-2 does.

    Its oblong neighbours tell. Only without any does the adapter's `fan_in_fan_out` decide: peft writes what held for
    the module it saw last, which may have been a head stored the other way.
    """
    oblong = [pair for pair in pairs if pair.up.shape[0] != pair.down.shape[1]]
    layout = model.layout
    inner = [pair for pair in oblong if layout.place(pair.target)] or oblong
    if inner:
        return any(pair.fits(model[pair.target].shape, True) for pair in inner)
    return bool(config.get("fan_in_fan_out"))


def _target(module: str, model: Checkpoint, endings: Mapping[str, Sequence[str]]) -> str | None:
    """The tensor of a module path; checkpoints and modules may differ in a leading `model.` or `transformer.`."""
    wanted = f"{module}.weight"
    if wanted in model:
        return wanted
    found = [*endings.get(wanted, ()), *(ending for ending in _shortened(wanted) if ending in model)]
    return found[0] if len(found) == 1 else None


def _endings(names: Iterable[str]) -> dict[str, list[str]]:
    """The names without their first words -> those names."""
    table: dict[str, list[str]] = {}
    for name in names:
        for ending in _shortened(name):
            table.setdefault(ending, []).append(name)
    return table


def _shortened(name: str) -> Iterator[str]:
    """`b.c` and `c` for `a.b.c`."""
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA; alpha may differ by module."""
    alphas = [_pattern(config.get("alpha_pattern"), module), config.get("lora_alpha"), 8]  # 8: peft's default
    alpha = float(next(alpha for alpha in alphas if alpha is not None))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _pattern(table: Any, module: str) -> Any:
    """A peft pattern table: keys are module suffixes or regular expressions; the first that matches counts."""
    entries = dict[str, Any](table or {})
    return next((value for key, value in entries.items() if re.match(rf"(.*\.)?({key})$", module)), None)
