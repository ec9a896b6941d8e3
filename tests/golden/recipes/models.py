"""The tiny models that the recipes merge: names and configurations of real families, numbers from integer arithmetic.

No torch, no random generator of any library: the same bytes everywhere, for as long as crc32 and uint64 are what they are.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WIDTH, INNER, HEADS, VOCABULARY = 8, 12, 2, 16


def numbers(seed: str, shape: tuple[int, ...]) -> Array:
    """About normal numbers of variance 1, a function of the seed alone (splitmix64, four uniforms each)."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        x = np.arange(1, 4 * count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(zlib.crc32(seed.encode())) * np.uint64(0xD1342543DE82EF95)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    uniform = (x >> np.uint64(40)).astype(np.float64) / 2**24
    return ((uniform.reshape(count, 4).sum(axis=1) - 2.0) * 3**0.5).reshape(shape)


def llama(layers: int, *, tied: bool = False, **more: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {
            f"{at}input_layernorm.weight": (WIDTH,),
            f"{at}self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{at}self_attn.k_proj.weight": (WIDTH // 2, WIDTH),
            f"{at}self_attn.v_proj.weight": (WIDTH // 2, WIDTH),
            f"{at}self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{at}post_attention_layernorm.weight": (WIDTH,),
            f"{at}mlp.gate_proj.weight": (INNER, WIDTH),
            f"{at}mlp.up_proj.weight": (INNER, WIDTH),
            f"{at}mlp.down_proj.weight": (WIDTH, INNER),
        }
    shapes["model.norm.weight"] = (WIDTH,)
    if not tied:
        shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS // 2, "num_hidden_layers": layers,
        "vocab_size": VOCABULARY, "max_position_embeddings": 32, "tie_word_embeddings": tied, "torch_dtype": "float32",
    }  # fmt: skip
    return shapes, config | more


def gpt2(layers: int) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (VOCABULARY, WIDTH),
        "transformer.wpe.weight": (10, WIDTH),
    }
    for i in range(layers):
        at = f"transformer.h.{i}."
        for name, shape in {
            "ln_1": (WIDTH,), "attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH), "ln_2": (WIDTH,),
            "mlp.c_fc": (WIDTH, INNER), "mlp.c_proj": (INNER, WIDTH),
        }.items():  # fmt: skip
            shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[-1:]}
    shapes |= {"transformer.ln_f.weight": (WIDTH,), "transformer.ln_f.bias": (WIDTH,)}
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": WIDTH, "n_inner": INNER, "n_head": HEADS,
        "n_layer": layers, "n_positions": 10, "vocab_size": VOCABULARY, "torch_dtype": "float32",
    }  # fmt: skip
    return shapes, config


def t5(encoder: int, decoder: int) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Gated, with a head of its own."""
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (VOCABULARY, WIDTH)}
    for side, layers in (("encoder", encoder), ("decoder", decoder)):
        for i in range(layers):
            parts = ["SelfAttention", *(["EncDecAttention"] if side == "decoder" else [])]
            for j, part in enumerate(parts):
                at = f"{side}.block.{i}.layer.{j}."
                shapes |= {f"{at}{part}.{x}.weight": (WIDTH, WIDTH) for x in "qkvo"}
                shapes[f"{at}layer_norm.weight"] = (WIDTH,)
            if i == 0:
                shapes[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, HEADS)
            at = f"{side}.block.{i}.layer.{len(parts)}."
            shapes |= {f"{at}DenseReluDense.{x}.weight": (INNER, WIDTH) for x in ("wi_0", "wi_1")}
            shapes |= {f"{at}DenseReluDense.wo.weight": (WIDTH, INNER), f"{at}layer_norm.weight": (WIDTH,)}
        shapes[f"{side}.final_layer_norm.weight"] = (WIDTH,)
    shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    config = {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": WIDTH, "d_ff": INNER,
        "d_kv": WIDTH // HEADS, "num_heads": HEADS, "num_layers": encoder, "num_decoder_layers": decoder,
        "vocab_size": VOCABULARY, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }  # fmt: skip
    return shapes, config


def tensors(family: str, member: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """A member of a family: the base, or the base and a change of its own."""
    steps = {"base": 0.0, "a": 0.1, "b": 0.2, "c": 0.3}
    values: dict[str, Array] = {}
    for name, shape in shapes.items():
        value = numbers(f"{family} {name}", shape) * 0.3
        if len(shape) == 1 and not name.endswith("bias"):
            value += 1.0
        values[name] = (value + steps[member] * numbers(f"{family} {name} {member}", shape)).astype(np.float32)
    return values


def bfloat16(values: Array) -> Array:
    """The upper halves of float32, rounded to even; numpy alone has no name for the format."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


_CODES = {"float32": "F32", "uint16": "BF16"}


def write(folder: Path, values: dict[str, Array], config: dict[str, Any] | None, stem: str = "model") -> None:
    """A safetensors file and config.json, byte by byte."""
    folder.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, value in values.items():
        code = _CODES[str(value.dtype)]
        header[name] = {"dtype": code, "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(np.ascontiguousarray(value).tobytes() for value in values.values())
    (folder / f"{stem}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def adapter(folder: Path, seed: str, modules: dict[str, tuple[int, int]], *, base: str, transposed: bool) -> None:
    """A plain LoRA of rank 2: module -> (inputs, outputs)."""
    values: dict[str, Array] = {}
    for module, (inputs, outputs) in modules.items():
        at = f"base_model.model.{module}"
        values[f"{at}.lora_A.weight"] = (numbers(f"{seed} {module} A", (2, inputs)) * 0.3).astype(np.float32)
        values[f"{at}.lora_B.weight"] = (numbers(f"{seed} {module} B", (outputs, 2)) * 0.3).astype(np.float32)
    write(folder, values, None, "adapter_model")
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": 2, "lora_alpha": 6,
        "target_modules": sorted({module.rsplit(".", 1)[1] for module in modules}), "fan_in_fan_out": transposed,
        "bias": "none", "lora_dropout": 0.0, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


#: Words of models whose vocabularies differ: other numbers, and one word that the base lacks.
WORDS = {
    "base": [f"w{i}" for i in range(3, VOCABULARY)],
    "a": ["x3", *(f"w{i}" for i in range(VOCABULARY - 1, 3, -1))],
    "b": [*(f"w{i}" for i in range(8, VOCABULARY)), *(f"w{i}" for i in range(4, 8)), "y3"],
}


def tokenizer(folder: Path, template: str | None, words: list[str] | None = None) -> None:
    """One word for each row of the embedding."""
    names = words or WORDS["base"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{word: i for i, word in enumerate(names, 3)}}
    special = [
        {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for text, i in list(vocabulary.items())[:3]
    ]  # fmt: skip
    table = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def build(root: Path) -> None:
    """Every model, as `FAMILY-MEMBER`."""
    families = {
        "llama": llama(4), "tied": llama(4, tied=True), "deep": llama(6), "gpt2": gpt2(3), "t5": t5(2, 3),
    }  # fmt: skip
    for family, (shapes, config) in families.items():
        for member in ("base", "a", "b", "c"):
            values = tensors("llama" if family == "tied" else family, member, shapes)
            write(root / f"{family}-{member}", values, config)
            if family == "llama":
                half = {name: bfloat16(value) for name, value in values.items()}
                write(root / f"half-{member}", half, config | {"torch_dtype": "bfloat16"})
                text = {"a": "{{ 'first template' }}"}.get(member, "{{ 'second template' }}")
                write(root / f"chat-{member}", values, config)
                tokenizer(root / f"chat-{member}", None if member == "base" else text)
                if member in WORDS:
                    write(root / f"words-{member}", values, config)
                    tokenizer(root / f"words-{member}", None, WORDS[member])
    layers = {f"model.layers.{i}.self_attn.q_proj": (WIDTH, WIDTH) for i in range(4)}
    layers |= {f"model.layers.{i}.mlp.down_proj": (INNER, WIDTH) for i in range(4)}
    adapter(root / "llama-lora", "lora", layers, base="llama-a", transposed=False)
    turned = {f"transformer.h.{i}.attn.c_attn": (WIDTH, 3 * WIDTH) for i in range(3)}
    adapter(root / "gpt2-lora", "lora", turned, base="gpt2-a", transposed=True)


def probes(name: str, values: Array, count: int = 16) -> Array:
    """The tensor's norm and its sums under random signs: any change of any element changes nearly all of them."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    signs = np.where(numbers(f"probe {name}", (count, flat.size)) > 0, 1.0, -1.0)
    return np.concatenate([[np.linalg.norm(flat)], signs @ flat])
