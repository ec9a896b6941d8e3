"""Small models and adapters, trained by nobody: peft makes the folders, random numbers fill them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

PREFIX = "base_model.model."


def by_hand(path: Path, modules: dict[str, tuple[np.ndarray, np.ndarray]], scale: float = 1.0, **config: Any) -> Path:
    """A folder of peft from B and A of each module."""
    path.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, np.ndarray] = {}
    for module, (up, down) in modules.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(down)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(up)
    save_file(tensors, path / "adapter_model.safetensors")
    rank = next(iter(modules.values()))[1].shape[0]
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "target_modules": list(modules), **config}
    ranks = {m: down.shape[0] for m, (_, down) in modules.items() if down.shape[0] != rank}
    if ranks and "rank_pattern" not in config:
        settings |= {"rank_pattern": ranks, "alpha_pattern": {m: scale * r for m, r in ranks.items()}}
    (path / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def factors(seed: int, rank: int, rows: int = 6, columns: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, rank)).astype(np.float32), rng.standard_normal((rank, columns)).astype(np.float32)


def adapter(path: Path, seed: int, ranks: dict[str, int], scale: float = 1.0, **config: Any) -> Path:
    return by_hand(path, {m: factors(seed * 100 + i, r) for i, (m, r) in enumerate(ranks.items())}, scale, **config)


def tiny(kind: str) -> Any:
    """A model of each family, with random weights."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 2, "num_hidden_layers": 2,
             "num_key_value_heads": 1, "tie_word_embeddings": False}  # fmt: skip
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    if kind == "qwen3":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape, head_dim=6))
    if kind == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=31, n_embd=12, n_layer=2, n_head=2, n_positions=8)
        )
    if kind == "t5":
        return transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=31, d_model=12, d_kv=6, d_ff=20, num_layers=2, num_heads=2)
        )
    config = transformers.ViTConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config)


def answers(model: Any) -> Any:
    """What a model says to fixed inputs."""
    import torch

    model.eval()
    with torch.no_grad():
        if "ViT" in type(getattr(model, "base_model", model)).__name__ or hasattr(model.config, "image_size"):
            generator = torch.Generator().manual_seed(1)
            return model(pixel_values=torch.randn(2, 3, 8, 8, generator=generator)).logits
        ids = torch.arange(7).reshape(1, 7)
        if model.config.model_type == "t5":
            return model(input_ids=ids, decoder_input_ids=ids).logits
        return model(input_ids=ids).logits


def with_peft(path: Path, kind: str, seed: int, config: str = "LoraConfig", **options: Any) -> Path:
    """A folder of peft with random values for a tiny model."""
    import torch

    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(tiny(kind), getattr(peft, config)(**options))
        torch.manual_seed(seed)
        with torch.no_grad():
            for _, value in tuned.named_parameters():
                if value.requires_grad:
                    value.add_(torch.randn(value.shape) * 0.2)
        tuned.save_pretrained(path)
    return path


def loaded(kind: str, path: Path) -> Any:
    """A tiny model with an adapter, as peft loads it; any warning is an error."""
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        return peft.PeftModel.from_pretrained(tiny(kind), path)
