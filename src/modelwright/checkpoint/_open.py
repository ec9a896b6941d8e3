"""`open(ref)`: whatever holds named tensors becomes a `Checkpoint`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.architectures import unsupported_quantization
from modelwright.checkpoint._checkpoint import Checkpoint, Part
from modelwright.checkpoint._dequantize import dequantized
from modelwright.checkpoint._refs import TensorRef, array_ref
from modelwright.checkpoint._safetensors import read_header
from modelwright.errors import InputError, MissingExtraError, listing
from modelwright.tensors import dtype as find_dtype

_TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".th")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$|^[A-Za-z0-9][\w.-]*$")


def open(ref: Any, *, folder: str | Path | None = None, label: str | None = None) -> Checkpoint:
    """Open anything that is named tensors; only headers are read.

    Args:
        ref: A folder (Hugging Face, diffusers, sentence-transformers), a `.safetensors` or torch file, `a+b` for a
            model with a LoRA adapter, a Hub id with an optional `@revision`, an `nn.Module`, a state dict, a dict of
            numpy arrays, or a `Checkpoint`.
        folder: Where relative paths start; default the working directory. An existing path wins before `@` and `+` are
            parsed, and before the Hub.
        label: What to call it in messages; default the reference itself.

    Returns:
        A lazy `Checkpoint`.

    Raises:
        InputError: It does not exist, is damaged, is quantised, or holds something other than tensors.
        MissingExtraError: It needs torch, which is not installed.

    Example:
        >>> import numpy as np
        >>> open({"w": np.ones((2, 2), np.float32)})["w"].shape
        (2, 2)
    """
    if isinstance(ref, Checkpoint):
        return ref
    if isinstance(ref, str | os.PathLike):
        return _open_text(str(ref), Path(folder) if folder else Path(), label or str(ref))
    if isinstance(ref, Mapping):
        return _from_mapping(ref, label or "state dict")  # type: ignore[reportUnknownArgumentType]
    if callable(getattr(ref, "state_dict", None)):
        return _from_module(ref, label)
    raise InputError(
        f"cannot open a {type(ref).__name__} as a checkpoint",
        "Pass a path, a Hub id, an nn.Module, a state dict or a dict of numpy arrays.",
    )


def _open_text(text: str, folder: Path, label: str) -> Checkpoint:
    path = _existing(text, folder)
    if path is None and "+" in text:
        model, _, adapter = text.partition("+")
        if "+" in adapter:
            raise InputError(f"'{text}' has more than one +", "One adapter per reference: model+adapter.")
        from modelwright.checkpoint._adapter import with_adapter

        return with_adapter(_open_text(model, folder, model), _adapter_folder(adapter, folder), label)
    if path is None:
        name, _, revision = text.partition("@")
        path = _existing(name, folder) if not revision else None
        if path is None:
            path = _from_hub(text, name, revision or None)
    return _from_folder(path, label) if path.is_dir() else _from_file(path, label)


def _existing(text: str, folder: Path) -> Path | None:
    for candidate in (folder / Path(text).expanduser(), Path(text).expanduser()):
        if candidate.exists():
            return candidate
    return None


def _adapter_folder(text: str, folder: Path) -> Path:
    name, _, revision = text.partition("@")
    return _existing(text, folder) or _from_hub(text, name, revision or None)


def _from_hub(text: str, repo: str, revision: str | None) -> Path:
    if not _HUB_ID.match(repo) or "/" not in repo:
        raise InputError(f"no file, folder or Hub model is called '{text}'", "Check the path; a Hub id is owner/name.")
    from modelwright.checkpoint._hub import snapshot

    return snapshot(repo, revision)


# --- folders and files ---------------------------------------------------------------------------------------------


def _from_folder(folder: Path, label: str) -> Checkpoint:
    roots = [folder]
    if (folder / "model_index.json").exists() or (folder / "modules.json").exists():
        roots += sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    tensors: dict[str, TensorRef] = {}
    metadata: dict[str, str] = {}
    parts: list[Part] = []
    notes: list[str] = []
    consumed: dict[str, str] = {}
    for root in roots:
        files, stem = weight_files(root)
        if not files:
            continue
        prefix = "" if root == folder else f"{root.name}/"
        config = read_json(root / "config.json")
        found = _read_files(files, metadata)
        found, eaten, said = _numbers(found, config or {}, f"{label}{'/' + root.name if prefix else ''}")
        tensors |= {prefix + name: ref for name, ref in found.items()}
        consumed |= {prefix + name: why for name, why in eaten.items()}
        notes += said
        if eaten and config:
            config = {key: value for key, value in config.items() if key != "quantization_config"}
        parts.append(Part(prefix, stem, config))
    if not parts:
        shown = listing(sorted(child.name for child in folder.iterdir()))
        raise InputError(
            f"{folder} holds no weights; it has: {shown}", "A model folder has *.safetensors or *.bin files."
        )
    return Checkpoint(
        tensors, label=label, path=folder, parts=tuple(parts), metadata=metadata, notes=tuple(notes), consumed=consumed
    )


def _from_file(path: Path, label: str) -> Checkpoint:
    metadata: dict[str, str] = {}
    tensors, consumed, notes = _numbers(_read_files([path], metadata), {}, label)
    return Checkpoint(tensors, label=label, path=path, metadata=metadata, notes=tuple(notes), consumed=consumed)


def weight_files(folder: Path) -> tuple[list[Path], str]:
    """The weight files of one model folder, complete and in order, and the stem of their names."""
    for pattern, suffix in (("*.safetensors.index.json", ".safetensors"), ("*.bin.index.json", ".bin")):
        indices = sorted(folder.glob(pattern))
        preferred = [p for p in indices if p.name.startswith(("model.safetensors", "pytorch_model"))] or indices
        if preferred:
            return _indexed(preferred[0]), _stem(preferred[0].name.removesuffix(f"{suffix}.index.json"))
    for preferred_name in ("model.safetensors", "diffusion_pytorch_model.safetensors", "adapter_model.safetensors"):
        if (folder / preferred_name).exists():
            return [folder / preferred_name], preferred_name.removesuffix(".safetensors")
    for suffixes in ((".safetensors",), _TORCH_SUFFIXES):
        found = sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.is_file() and not _is_state(p.name))
        if len(found) > 1:
            raise InputError(
                f"{folder} has several weight files and no index: {listing(p.name for p in found)}",
                "Name the file itself, or add the index.json that came with the shards.",
            )
        if found:
            return found, _stem(found[0].stem)
    return [], "model"


def _is_state(name: str) -> bool:
    """Files that trainers leave beside the weights."""
    return name.startswith(("optimizer", "scheduler", "training_args", "rng_state", "scaler"))


def _stem(stem: str) -> str:
    return "model" if stem == "pytorch_model" else stem


def _indexed(index: Path) -> list[Path]:
    """The shards that an index names, checked to lie beside it and to hold exactly the tensors it says."""
    table = (read_json(index) or {}).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise InputError(f"{index} has no weight_map", "Copy or download the index again.")
    names = sorted({str(name) for name in table.values()})  # type: ignore[reportUnknownVariableType]
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{index} points to '{name}', outside its folder", "Shards lie beside their index.")
        if not (index.parent / name).is_file():
            raise InputError(f"{index} names the shard '{name}', which is missing", "Copy or download it again.")
    return [index.parent / name for name in names]


def _read_files(files: list[Path], metadata: dict[str, str]) -> dict[str, TensorRef]:
    tensors: dict[str, TensorRef] = {}
    for file in files:
        if file.suffix == ".safetensors":
            found, said = read_header(file)
            metadata |= said
        elif file.suffix in _TORCH_SUFFIXES:
            found = _read_torch(file)
        else:
            raise InputError(
                f"{file} is not a weight file that can be read", "Known: .safetensors, .bin, .pt, .pth, .ckpt, .th."
            )
        twice = tensors.keys() & found.keys()
        if twice:
            raise InputError(f"{file} repeats tensors of another shard: {listing(sorted(twice))}", "Download it again.")
        tensors |= found
    return tensors


def _read_torch(file: Path) -> dict[str, TensorRef]:
    try:
        from modelwright.checkpoint._torch import read_torch_file
    except ModuleNotFoundError:
        raise MissingExtraError(f"reading {file.name}", "torch", "torch") from None
    return read_torch_file(file)


def _numbers(
    tensors: dict[str, TensorRef], config: Mapping[str, Any], label: str
) -> tuple[dict[str, TensorRef], dict[str, str], list[str]]:
    """Quantised checkpoints refused, float8 with scales turned into numbers."""
    reason = unsupported_quantization(config, tensors)
    if reason:
        raise InputError(
            f"{label} cannot be merged: {reason}",
            "Merge the unquantised weights, and quantise the result.",
        )
    return dequantized(tensors, config, label)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where there is no file.

    Raises:
        InputError: The file is not a JSON object.
    """
    if not path.is_file():
        return None
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value  # type: ignore[reportUnknownVariableType]


# --- memory --------------------------------------------------------------------------------------------------------


def _from_mapping(values: Mapping[Any, Any], label: str) -> Checkpoint:
    tensors: dict[str, TensorRef] = {}
    for name, value in values.items():
        if isinstance(value, TensorRef):
            tensors[str(name)] = value
        elif isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            tensors[str(name)] = array_ref(array, find_dtype(array.dtype))
        elif type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
            from modelwright.checkpoint._torch import tensor_ref

            tensors[str(name)] = tensor_ref(value)
        elif hasattr(value, "__array__"):
            array = np.asarray(value)
            tensors[str(name)] = array_ref(array, find_dtype(array.dtype))
        else:
            raise InputError(
                f"{label}: '{name}' is a {type(value).__name__}, not a tensor",
                "Pass arrays only; drop counters and settings first.",
            )
    return Checkpoint(tensors, label=label)


def _from_module(module: Any, label: str | None) -> Checkpoint:
    opened = _from_mapping(module.state_dict(), label or type(module).__name__)
    settings = getattr(module, "config", None)
    config = settings.to_dict() if hasattr(settings, "to_dict") else None
    return Checkpoint(dict(opened), label=opened.label, parts=(Part(config=config),))
