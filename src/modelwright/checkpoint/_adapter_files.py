"""Adapters as they lie on disk: folders of peft, and single files as kohya's trainers and diffusers write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from modelwright.architectures import is_list, is_table
from modelwright.checkpoint._adapter_modules import NEEDED, AdaptedModule, AdapterKind
from modelwright.checkpoint._adapter_scales import Pattern, adapter_scales
from modelwright.checkpoint._checkpoint import Checkpoint
from modelwright.checkpoint._files import from_file
from modelwright.checkpoint._refs import TensorRef
from modelwright.checkpoint._untrusted import read_json
from modelwright.errors import InputError, Problem, listing

CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
#: What diffusers calls the file in a folder of its own.
_PIPELINE_FILE = "pytorch_lora_weights.safetensors"
_COPY = "Copy or download the adapter again."
_BAKE = "Bake it in with peft first."
_KINDS = ("LORA", "LOHA", "LOKR", "IA3")
#: Ways to start training that leave the base model's weights alone, so that the adapter alone is the difference.
_PLAIN_STARTS = ("none", "true", "false", "gaussian", "eva", "orthogonal", "mica", "lycoris")
#: Settings of peft under which the change is none of those that are known here, and how to call them.
_UNKNOWN = {
    "use_qalora": "uses QALoRA",
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
_PIECES = "lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|ia3_l"
_PIECE = re.compile(rf"^(?P<module>.+)\.(?P<piece>{_PIECES})(?:\.default)?(?:\.(?P<what>weight|bias))?$")
_SAVED = re.compile(r"\.(?:modules_to_save\.default|base_layer)(?=\.)")
#: kohya's and diffusers' names of the same, each with peft's.
_FILE_PIECES = {
    "lora_down.weight": "lora_A", "lora_up.weight": "lora_B", "lora_A.weight": "lora_A", "lora_B.weight": "lora_B",
    "lora.down.weight": "lora_A", "lora.up.weight": "lora_B", "lora_linear_layer.down.weight": "lora_A",
    "lora_linear_layer.up.weight": "lora_B", "dora_scale": "lora_magnitude_vector", "lora_magnitude_vector.weight": "lora_magnitude_vector",
    "lora_magnitude_vector": "lora_magnitude_vector", "alpha": "alpha",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a",
                               "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
}  # fmt: skip
#: diffusers' first files wrote `attn1.processor.to_q_lora.up` for what is `attn1.to_q`, and `to_out_lora` for `to_out.0`.
_PROCESSOR = re.compile(r"\.processor\.(?P<name>to_[qkv]|to_out)_lora\.(?P<side>up|down)\.weight$")
_Form = Literal["peft", "kohya", "diffusers"]


@dataclass(frozen=True)
class Adapter:
    """An adapter as it was read; of its tensors only headers.

    Attributes:
        label: What to call it.
        path: Its folder, or its file.
        form: `peft`, or what wrote the file: `kohya` (modules as `lora_unet_..`) or `diffusers` (as `unet.down_blocks..`).
        config: Its adapter_config.json; empty for files.
        modules: What it does to each module, by path.
        saved: Tensors that it brings whole: those of modules_to_save, and biases that were tuned.
        states: Of its weight files, as `Checkpoint` has them.
        tensors: Every stored tensor by its name.
    """

    label: str
    path: Path
    form: _Form
    config: Mapping[str, Any]
    modules: Mapping[str, AdaptedModule]
    saved: Mapping[str, TensorRef]
    states: Mapping[Path, tuple[int, int] | None]
    tensors: Mapping[str, TensorRef]

    @property
    def linear(self) -> bool:
        """Whether all that it adds is independent of the base."""
        return not self.saved and all(module.linear and module.own is None for module in self.modules.values())


def adapter_at_path(path: Path) -> bool:
    """Whether a folder or file is an adapter; of a file the header is read."""
    if path.is_dir():
        return (path / CONFIG).is_file() or (path / _PIPELINE_FILE).is_file()
    if path.suffix not in (".safetensors", ".bin", ".pt") or not path.is_file():
        return False
    names = list(from_file(path, str(path)))
    return bool(names) and all(_split(name) for name in names)


def open_adapter(path: Path, label: str | None = None) -> Adapter:
    """Read an adapter's configuration and headers.

    Args:
        path: A peft folder (adapter_config.json beside the weights), or a LoRA file of kohya's trainers or of diffusers, or
            the folder that diffusers writes.
        label: What to call it; default its path.

    Raises:
        InputError: It is no adapter, is damaged, or of a kind that is not known.
    """
    label = label or str(path)
    if path.is_dir() and not (path / CONFIG).is_file() and (path / _PIPELINE_FILE).is_file():
        return _from_file(path / _PIPELINE_FILE, label)
    if path.is_file():
        return _from_file(path, label)
    config = read_json(path / CONFIG)
    if config is None:
        raise InputError(f"{path} is not an adapter: it has no adapter_config.json", "Write model+adapter_folder.")
    _check_kind(path, config)
    file = next((path / name for name in _FILES if (path / name).is_file()), None)
    if file is None:
        raise InputError(f"{path} has an adapter_config.json but no {_FILES[0]}", "Copy or download it again.")
    opened = from_file(file, str(path))
    pieces, saved, own = _sorted(path, config, opened)
    modules = {module: _module(path, config, module, found, own.get(module)) for module, found in pieces.items()}
    alone = [module for module in own if module not in pieces]
    if alone:
        raise InputError(f"{path}: tensors of no known adapter: {listing(f'{m}.base_layer' for m in alone)}", _BAKE)
    if not modules and not saved:
        raise InputError(f"{path} holds no tensors", _COPY)
    return Adapter(
        label, path, "peft", config, _scaled(path / CONFIG, config, modules), saved, opened.states, dict(opened)
    )


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type") or "").upper()
    found: list[str] = []
    if kind not in _KINDS:
        found.append(f"is of kind {kind or 'unknown'}, and known are {listing(_KINDS)}")
    start = str(config.get("init_lora_weights", True))
    if start.lower() not in _PLAIN_STARTS:
        found.append(f"starts from changed base weights (init_lora_weights: {start})")
    found += [what for key, what in _UNKNOWN.items() if config.get(key)]
    if found:
        raise InputError(Problem(f"the adapter {what}", _BAKE, str(folder)) for what in found)


def _sorted(
    folder: Path, config: Mapping[str, Any], opened: Checkpoint
) -> tuple[dict[str, dict[str, TensorRef]], dict[str, TensorRef], dict[str, TensorRef]]:
    """The pieces of each module, tensors that are saved whole, and weights that lie under pieces; nothing is left over."""
    pieces: dict[str, dict[str, TensorRef]] = {}
    saved: dict[str, TensorRef] = {}
    own: dict[str, TensorRef] = {}
    odd: list[str] = []
    may_save = bool(config.get("modules_to_save"))
    biases = str(config.get("bias", "none")) not in ("none", "False")
    for name, ref in opened.items():
        short = name.removeprefix("base_model.model.")
        plain = _SAVED.sub("", short)
        if not ref.dtype.floating or short == name:
            odd.append(name)
        elif match := _PIECE.match(short):
            key = match["piece"] + (".bias" if match["what"] == "bias" else "")
            pieces.setdefault(match["module"], {})[key] = ref
        elif short.endswith(".base_layer.weight"):
            own[plain.removesuffix(".weight")] = ref
        elif may_save or (biases and plain.endswith("bias")):
            saved[plain] = ref
        elif not short.endswith(
            ".base_layer.bias"
        ):  # of an embedded head whose weight came along: it is the model's own
            odd.append(name)
    if odd:
        raise InputError(f"{folder}: tensors of no known adapter: {listing(odd)}", _BAKE)
    return pieces, saved, own


def _module(
    folder: Path, config: Mapping[str, Any], module: str, found: Mapping[str, TensorRef], own: TensorRef | None
) -> AdaptedModule:
    pieces = {name: ref for name, ref in found.items() if name not in ("lora_B.bias", "lora_magnitude_vector", "alpha")}
    kind = _kind_of(pieces)
    if kind is None or any(name not in pieces for name in NEEDED[kind]):
        raise InputError(f"{folder}: '{module}' of the adapter has only {listing(sorted(found))}", _COPY)
    made = AdaptedModule(
        module, kind, pieces, bias=found.get("lora_B.bias"), magnitude=found.get("lora_magnitude_vector"), own=own,
        inputs=kind == "ia3" and _is_named(config.get("feedforward_modules"), module),
    )  # fmt: skip
    if not _fits_together(made):
        shapes = listing(f"{name} {list(ref.shape)}" for name, ref in pieces.items())
        raise InputError(f"{folder}: the factors of '{module}' do not fit each other: {shapes}", _COPY)
    return made


def _kind_of(pieces: Iterable[str]) -> AdapterKind | None:
    starts = {name.rpartition("_")[0] if "embedding" in name else name.partition("_")[0] for name in pieces}
    kinds: dict[str, AdapterKind] = {
        "lora": "lora", "lora_embedding": "embedding", "hada": "loha", "lokr": "lokr", "ia3": "ia3",
    }  # fmt: skip
    return kinds.get(starts.pop()) if len(starts) == 1 else None


def _fits_together(module: AdaptedModule) -> bool:
    """Whether a module's factors can be multiplied with each other."""
    shapes = {name: ref.shape for name, ref in module.pieces.items()}
    try:
        if module.kind == "lora":
            a, b = shapes["lora_A"], shapes["lora_B"]
            return len(a) == len(b) >= 2 and b[1] == a[0] and all(n == 1 for n in b[2:])
        if module.kind == "embedding":
            a, b = shapes["lora_embedding_A"], shapes["lora_embedding_B"]
            return len(a) == len(b) == 2 and a[0] == b[1]
        if module.kind == "loha":
            return _loha_fits(shapes)
        if module.kind == "lokr":
            return _lokr_fits(shapes)
        return True
    except (KeyError, IndexError):
        return False


def _loha_fits(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    a1, b1, a2, b2 = (shapes[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    if not all(len(shape) == 2 for shape in (a1, b1, a2, b2)):
        return False
    if "hada_t1" not in shapes:
        return a1[1] == b1[0] and a2[1] == b2[0] and a1[0] == a2[0] and b1[1] == b2[1]
    one, two = shapes["hada_t1"], shapes["hada_t2"]
    joined = one[:2] == (a1[0], b1[0]) and two[:2] == (a2[0], b2[0])
    return joined and len(one) > 2 and one[2:] == two[2:] and a1[1] == a2[1] and b1[1] == b2[1]


def _lokr_fits(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    whole_one, whole_two = "lokr_w1" in shapes, "lokr_w2" in shapes
    if len(shapes["lokr_w1"]) != 2 if whole_one else shapes["lokr_w1_a"][1] != shapes["lokr_w1_b"][0]:
        return False
    if whole_two:
        return len(shapes["lokr_w2"]) >= 2
    a, b = shapes["lokr_w2_a"], shapes["lokr_w2_b"]
    return shapes["lokr_t2"][:2] == (a[0], b[0]) if "lokr_t2" in shapes else len(a) == len(b) == 2 and a[1] == b[0]


def _is_named(names: Any, module: str) -> bool:
    """Whether peft's list of module suffixes, or its regular expression, names a module."""
    if is_list(names):
        return any(module == str(name) or module.endswith(f".{name}") for name in names)
    return bool(names) and Pattern(Path(CONFIG), "feedforward_modules", {str(names): True}).find(module) is not None


def _scaled(file: Path, config: Mapping[str, Any], modules: Mapping[str, AdaptedModule]) -> dict[str, AdaptedModule]:
    """The modules with their scales."""
    ranks = {name: module.rank for name, module in modules.items() if module.rank is not None}
    lycoris = {name: module for name, module in modules.items() if module.kind in ("loha", "lokr")}
    scales = adapter_scales(file, config, ranks)
    if lycoris:
        by_module, default = Pattern(file, "rank_pattern", config.get("rank_pattern")), config.get("r")
        others: dict[str, int] = {}
        for name, module in lycoris.items():
            rank = _rank_of(module) or by_module.find(name) or default
            if type(rank) is not int or rank < 0:
                raise InputError(f"{file}: r must be a number of ranks, got {rank!r} for '{name}'", _COPY)
            others[name] = rank
        table = {"lora_alpha": config.get("alpha"), "alpha_pattern": config.get("alpha_pattern")}
        scales |= adapter_scales(file, table, others)
    return {name: replace(module, scale=scales.get(name, 1.0)) for name, module in modules.items()}


def _rank_of(module: AdaptedModule) -> int | None:
    """The rank that a Hadamard or Kronecker product shows; None where both factors are whole matrices."""
    for name in ("hada_t1", "hada_w1_b", "lokr_t2", "lokr_w2_b", "lokr_w1_b"):
        if name in module.pieces:
            return module.pieces[name].shape[0]
    return None


# --- files -----------------------------------------------------------------------------------------------------------


def _split(name: str) -> tuple[str, str] | None:
    """Module and piece of a name in a LoRA file; None where it is no such name."""
    name = _PROCESSOR.sub(lambda m: f".{m['name']}{'.0' * (m['name'] == 'to_out')}.lora.{m['side']}.weight", name)
    for ending, piece in _FILE_PIECES.items():
        if name.endswith("." + ending):
            return name[: -len(ending) - 1], piece
    return None


def _from_file(file: Path, label: str) -> Adapter:
    opened = from_file(file, str(file))
    found: dict[str, dict[str, TensorRef]] = {}
    odd = [name for name, ref in opened.items() if _split(name) is None or not ref.dtype.floating]
    if odd or not opened:
        raise InputError(
            f"{file} is no LoRA file: {listing(odd, 3)}", "Give a folder of peft, or a file of LoRA factors."
        )
    for name, ref in opened.items():
        module, piece = _split(name) or ("", "")
        found.setdefault(module, {})[piece] = ref
    config = _metadata(file, opened.metadata)
    modules = {module: _module(file, {}, module, pieces, None) for module, pieces in found.items()}
    scaled = {name: _with_alpha(file, module, found[name].get("alpha"), config) for name, module in modules.items()}
    form: _Form = "kohya" if all(name.startswith("lora_") for name in modules) else "diffusers"
    return Adapter(label, file, form, {}, scaled, {}, opened.states, dict(opened))


def _metadata(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What diffusers says of ranks and alphas in the file's metadata, by component; {} where it says nothing."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return {}
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not is_table(found):
        raise InputError(f"{file}: its lora_adapter_metadata is no JSON object", _COPY)
    components: dict[str, dict[str, Any]] = {}
    for key, value in found.items():
        component, _, setting = str(key).partition(".")
        components.setdefault(component, {})[setting] = value
    return components


def _with_alpha(file: Path, module: AdaptedModule, alpha: TensorRef | None, config: Mapping[str, Any]) -> AdaptedModule:
    """The module with its scale: alpha / rank; without an alpha it is 1, as the tools that write such files read them."""
    rank = module.rank or _rank_of(module)
    if alpha is None:
        component, _, path = module.module.partition(".")
        told = config.get(component)
        if told is None or rank is None:
            return module
        return replace(module, scale=adapter_scales(file, told, {path: rank})[path])
    if alpha.size != 1:
        raise InputError(f"{file}: alpha of '{module.module}' must be one number, got {list(alpha.shape)}", _COPY)
    if rank is None:  # a Kronecker product of whole matrices has no rank, and its alpha no meaning
        return module
    value = float(alpha.read().reshape(-1)[0])
    if rank == 0 or not abs(value) < 1e9:
        raise InputError(f"{file}: alpha of '{module.module}' is {value}, for rank {rank}", _COPY)
    return replace(module, scale=value / rank)
