"""`model+adapter`: a plain LoRA applied tensor by tensor, never as a second model on disk."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.architectures import is_table
from modelwright.checkpoint._checkpoint import Checkpoint
from modelwright.checkpoint._files import from_file
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.checkpoint._untrusted import read_json
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
#: Leading words that module paths may have more or fewer of than the names of tensors.
_MOST_DROPPED = 32
_MOST_ALPHA = 1e9
#: A key of alpha_pattern that is a name. Its dots match any character for peft; names that differ in these only are none.
_PLAIN_KEY = re.compile(r"[\w.-]+")
#: Python's matcher goes back over every combination of choices: for a repeated group and for many groups exponentially
#: many, for k repeats in a name of n letters n^k. Digits up to a dot are no choice.
_REPEAT = re.compile(r"[*+?{]")
_NO_CHOICE = re.compile(r"(\\d|\[0-9\])[*+]\\\.")
_REPEATED_GROUP = re.compile(r"\)[*+?{]|\(\?|\\\d")
_MOST_REPEATS, _MOST_GROUPS, _MOST_EXPRESSIONS = 2, 3, 20
_LONGEST_MATCHED = 300
_COPY = "Copy or download the adapter again."


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
    adapter = _opened(folder)
    pairs = _pairs(folder, adapter, model)
    _check_fit(folder, pairs, model)
    square = _square_transposed(pairs, model, config)
    ranks = {pair.module: pair.down.shape[0] for pair in pairs}
    scales = adapter_scales(folder / "adapter_config.json", config, ranks)
    tensors = dict(model)
    for pair in pairs:
        ref = tensors[pair.target]
        transposed = not pair.fits(ref.shape, False) or (square and pair.fits(ref.shape, True))
        total = _Sum(pair.base or ref, pair, scales[pair.module], transposed)
        tensors[pair.target] = TensorRef(ref.dtype, ref.shape, total, ref.source)
    ranks = listing(sorted({pair.down.shape[0] for pair in pairs}))
    notes = [f"{label}: LoRA of rank {ranks} added to {len(pairs)} tensors"]
    if own := [pair.target for pair in pairs if pair.base]:
        notes.append(f"{label}: the adapter brings its own {listing(own)}")
    return Checkpoint(
        tensors, label=label, path=model.path, url=model.url, parts=model.parts, metadata=model.metadata,
        consumed=model.consumed, notes=(*model.notes, *notes), beneath=(*model.beneath, folder),
        states=model.states | adapter.states,
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


def _opened(folder: Path) -> Checkpoint:
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise InputError(f"{folder} has an adapter_config.json but no {_FILES[0]}", "Copy or download it again.")
    return from_file(file, str(folder))


def _pairs(folder: Path, adapter: Checkpoint, model: Checkpoint) -> list[_Pair]:
    """The factors with their targets; every tensor of the adapter is one of them."""
    sides: dict[str, dict[str, TensorRef]] = {}
    own: dict[str, TensorRef] = {}
    odd: list[str] = []
    for name, ref in adapter.items():
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
    """`b.c` and `c` for `a.b.c`; of a name of a million words only the first ones are dropped."""
    words = name.split(".", _MOST_DROPPED)
    for i in range(1, len(words)):
        yield ".".join(words[i:])


def adapter_scales(file: Path, config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, float]:
    """What B @ A of each module is multiplied with: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA.

    Args:
        file: The adapter_config.json, for messages.
        config: What it holds; alpha may differ by module.
        ranks: Of each module the rank of its factors.

    Raises:
        InputError: A rank is 0, an alpha is no number, or an alpha_pattern cannot be used.
    """
    default = config.get("lora_alpha")
    alphas = _AlphaPattern(file, config.get("alpha_pattern"))
    scales: dict[str, float] = {}
    for module, rank in ranks.items():
        if rank == 0:
            raise InputError(f"{file.parent}: '{module}' of the adapter has rank 0", "Train it again.")
        alpha = alphas.find(module)
        alpha = alpha if alpha is not None else 8 if default is None else default  # 8: peft's default
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < _MOST_ALPHA:
            raise InputError(
                f"{file}: alpha must be a number below {_MOST_ALPHA:g}, got {alpha!r} for '{module}'", _COPY
            )
        scales[module] = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return scales


class _AlphaPattern:
    """peft's `alpha_pattern`: keys are module suffixes or regular expressions; the first that matches counts.

    Raises:
        InputError: It is no table, or an expression in it is invalid or could take for ever to match.
    """

    def __init__(self, file: Path, table: Any):
        if table is not None and not is_table(table):
            raise InputError(f"{file}: alpha_pattern must be a table, got {type(table).__name__}", _COPY)
        self._plain: dict[str, tuple[int, Any]] = {}
        self._expressions: list[tuple[int, re.Pattern[str], Any]] = []
        for place, (key, value) in enumerate((table or {}).items()):
            if _PLAIN_KEY.fullmatch(key):
                self._plain[key] = place, value
            else:
                self._expressions.append((place, _expression(file, key), value))
        if len(self._expressions) > _MOST_EXPRESSIONS:
            raise InputError(
                f"{file}: alpha_pattern has {len(self._expressions)} regular expressions, more than {_MOST_EXPRESSIONS}",
                "Write names of modules.",
            )

    def find(self, module: str) -> Any:
        """The value for a module; None where there is none."""
        found = [self._plain[name] for name in (module, *_shortened(module)) if name in self._plain]
        if self._expressions and len(module) <= _LONGEST_MATCHED:
            found += [(place, value) for place, key, value in self._expressions if key.match(module)]
        return min(found, key=lambda entry: entry[0], default=(0, None))[1]


def _expression(file: Path, key: str) -> re.Pattern[str]:
    """A key as the expression that peft makes of it, unless matching it could take for ever."""
    repeats, groups = len(_REPEAT.findall(_NO_CHOICE.sub("", key))), key.count("(")
    if _REPEATED_GROUP.search(key) or repeats > _MOST_REPEATS or groups > _MOST_GROUPS or len(key) > 1000:
        raise InputError(
            f"{file}: matching '{key}' of alpha_pattern could take for ever",
            f"Write names of modules, or expressions with {_MOST_REPEATS} repeats (* + ? {{}}), {_MOST_GROUPS} groups and "
            "no repeated group at most.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may mean something else in a later Python
            re.compile(key)
            return re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{file}: '{key}' of alpha_pattern is no regular expression ({error})", _COPY) from None
