"""Tiny llama-like folders made with numpy: what the recipe, engine and command-line tests merge.

Written with safetensors' own writer, so that nothing here depends on the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

Arrays = dict[str, np.ndarray[Any, Any]]
HIDDEN, VOCABULARY = 4, 6


def names(layers: int = 4) -> list[str]:
    """Tensor names of a llama-like model, in the order of its modules."""
    found = ["model.embed_tokens.weight"]
    for i in range(layers):
        found += [f"model.layers.{i}.{part}.weight" for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")]
    return [*found, "model.norm.weight", "lm_head.weight"]


def shape(name: str) -> tuple[int, ...]:
    """Shape of a tensor of the tiny model."""
    if "embed_tokens" in name or "lm_head" in name:
        return (VOCABULARY, HIDDEN)
    return (HIDDEN,) if "norm" in name else (2 * HIDDEN, HIDDEN) if "mlp" in name else (HIDDEN, HIDDEN)


def arrays(seed: int, layers: int = 4, dtype: Any = np.float32) -> Arrays:
    """Seeded weights."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape(name)).astype(dtype) for name in names(layers)}


def config(layers: int = 4, **extra: Any) -> dict[str, Any]:
    """Its config.json."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": VOCABULARY,
        "num_hidden_layers": layers, "tie_word_embeddings": False, "torch_dtype": "float32", **extra,
    }  # fmt: skip


def write(folder: Path, tensors: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Path:
    """A model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    if settings is not None:
        (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def model(folder: Path, seed: int, layers: int = 4, dtype: Any = np.float32, **extra: Any) -> Path:
    """A whole tiny model with its configuration."""
    return write(folder, arrays(seed, layers, dtype), config(layers, **extra))


def tokenizer(folder: Path, tokens: Iterable[str], template: str | None = None) -> None:
    """A tokenizer, and a chat template if one is given."""
    table = {"model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def read(folder: Path) -> Arrays:
    """Every tensor of a folder by safetensors' own reader; no name may be in two files."""
    found: Arrays = {}
    for file in sorted(folder.glob("*.safetensors")):
        part = load_file(file)
        assert not found.keys() & part.keys()
        found |= part
    return found


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a folder by name; of manifests, also those of a bundle's members, all but their `run` part."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    for name in [name for name in found if name.rpartition("/")[2] == "manifest.json"]:
        try:
            manifest = json.loads(found[name])
        except ValueError:  # of another program
            continue
        if isinstance(manifest, dict):
            manifest.pop("run", None)
        found[name] = json.dumps(manifest)
    return found


def listing(folder: Path) -> list[str]:
    """Everything in a folder, to show that nothing was added."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


bfloat16 = ml_dtypes.bfloat16
