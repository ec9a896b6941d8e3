"""`model+adapter` against peft's own merged weights."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_helpers import arrays, folder, save_file, write_json

import modelwright.checkpoint as mc
from modelwright.errors import InputError

BAKE = "Bake it in with peft first."


# --- peft as the oracle --------------------------------------------------------------------------------------------


def tiny(kind: str) -> Any:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {
        "vocab_size": 31,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_attention_heads": 2,
        "tie_word_embeddings": False,
    }
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=31, n_embd=12, n_layer=2, n_head=2, n_positions=8)
        return transformers.GPT2LMHeadModel(config)
    if kind == "qwen3":
        config = transformers.Qwen3Config(**shape, num_hidden_layers=2, num_key_value_heads=1, head_dim=6)
        return transformers.Qwen3ForCausalLM(config)
    if kind == "t5":
        config = transformers.T5Config(vocab_size=31, d_model=12, d_kv=6, d_ff=20, num_layers=2, num_heads=2)
        return transformers.T5ForConditionalGeneration(config)
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, image_size=8, patch_size=4,
            num_labels=3,
        )  # fmt: skip
        return transformers.ViTForImageClassification(config)
    if kind == "resnet":
        config = transformers.ResNetConfig(embedding_size=6, hidden_sizes=[8, 10], depths=[1, 1], num_labels=3)
        return transformers.ResNetForImageClassification(config)
    config = transformers.LlamaConfig(**shape, num_hidden_layers=3, num_key_value_heads=1, max_position_embeddings=8)
    return transformers.LlamaForCausalLM(config)


def trained(model: Any, path: Path, kind: str = "LoraConfig", **options: Any) -> dict[str, np.ndarray]:
    """Save the model and an adapter with random values; what peft merges them to, under the names on disk."""
    peft = pytest.importorskip("peft")
    import torch

    model.save_pretrained(path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that fan_in_fan_out is set by itself
        tuned = peft.get_peft_model(model, getattr(peft, kind)(**options))
    with torch.no_grad():
        for _name, value in tuned.named_parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape) * 0.3)
    tuned.save_pretrained(path / "adapter")
    merged = tuned.merge_and_unload()
    merged.save_pretrained(path / "merged")
    return {name: ref.read() for name, ref in mc.open(path / "merged").items()}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "every linear layer": ("llama", {"r": 2, "target_modules": "all-linear"}),
    "head": ("llama", {"r": 2, "target_modules": ["q_proj", "lm_head"]}),
    "some layers": ("llama", {"r": 2, "target_modules": ["o_proj"], "layers_to_transform": [0, 2]}),
    "rank-stabilised": ("llama", {"r": 4, "lora_alpha": 5, "use_rslora": True, "target_modules": ["q_proj", "k_proj"]}),
    "alpha pattern": (
        "llama",
        {
            "r": 3,
            "lora_alpha": 7,
            "target_modules": ["q_proj", "v_proj", "up_proj"],
            "alpha_pattern": {
                "q_proj": 2,
                r"^model\.layers\.1\.mlp\.up_proj": 11,
                r"layers\.[02]\.self_attn\.v_proj": 5,
            },
        },
    ),
    "rank pattern": (
        "llama",
        {
            "r": 3,
            "lora_alpha": 7,
            "use_rslora": True,
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"q_proj": 5, r"layers\.1\.self_attn\.v_proj": 1},
            "alpha_pattern": {"v_proj": 1},
        },
    ),
    "gpt2": ("gpt2", {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "gpt2 with square weights": ("gpt2", {"r": 3, "target_modules": ["c_attn", "c_proj"]}),
    "gpt2 square weights alone": ("gpt2", {"r": 3, "target_modules": ["attn.c_proj"]}),
    "DoRA": ("llama", {"r": 2, "lora_alpha": 7, "target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "DoRA of gpt2": ("gpt2", {"r": 2, "target_modules": ["c_attn", "attn.c_proj"], "use_dora": True}),
    "DoRA of an embedding": ("llama", {"r": 2, "target_modules": ["embed_tokens", "v_proj"], "use_dora": True}),
    "DoRA of kernels": ("resnet", {"r": 2, "target_modules": ["convolution"], "use_dora": True}),
    "embedding": ("llama", {"r": 2, "lora_alpha": 5, "target_modules": ["embed_tokens", "lm_head"]}),
    "kernels": ("resnet", {"r": 3, "lora_alpha": 5, "target_modules": ["convolution"]}),
    "biases of factors": ("gpt2", {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn", "c_fc"], "lora_bias": True}),
    "all biases": ("gpt2", {"r": 3, "target_modules": ["c_attn"], "bias": "all"}),
    "whole modules": ("vit", {"r": 2, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}),
    "whole embedding": (
        "llama",
        {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "encoder and decoder": ("t5", {"r": 2, "target_modules": ["q", "v", "wo"]}),
    "query norms": ("qwen3", {"r": 2, "target_modules": "all-linear"}),
    "gaussian start": ("llama", {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
}


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_as_peft_merges_it(tmp_path: Path, name: str) -> None:
    kind, options = CASES[name]
    merged = trained(tiny(kind), tmp_path, **options)
    base = mc.open(tmp_path / "model")
    opened = mc.open("model+adapter", folder=tmp_path)
    changed = compared(opened, base, merged)
    assert opened.label == "model+adapter"
    assert opened.beneath == (tmp_path / "adapter",)
    assert opened.config == base.config
    ranks = "1, 3, 5" if name == "rank pattern" else options["r"]
    whole = {
        key
        for key in changed
        if re.search(r"bias|classifier", key) or (name == "whole embedding" and "proj" not in key)
    }
    assert opened.notes[0] == f"model+adapter: LoRA of rank {ranks} added to {len(changed - whole)} tensors"
    if name == "head":
        assert opened.notes[1:] == ("model+adapter: the adapter brings its own lm_head.weight",)


def compared(opened: Any, base: Any, merged: dict[str, np.ndarray]) -> set[str]:
    """Check a model with its adapter against what peft made of them; the tensors that changed."""
    assert list(opened) == list(base)
    changed = {key for key in base if not np.array_equal(merged[key], base[key].read())}
    assert changed
    for key, ref in opened.items():
        assert (ref.dtype, ref.shape) == (base[key].dtype, base[key].shape)
        if key in changed:
            np.testing.assert_allclose(ref.read(), merged[key], rtol=1e-5, atol=2e-6)
        else:
            assert ref is base[key] or np.array_equal(ref.read(), base[key].read())
    return changed


OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "LoHa": ("llama", "LoHaConfig", {"r": 2, "alpha": 5, "target_modules": ["q_proj", "down_proj"]}),
    "LoHa of kernels": ("resnet", "LoHaConfig", {"r": 2, "target_modules": ["convolution"], "use_effective_conv2d": True}),
    "LoHa of flat kernels": ("resnet", "LoHaConfig", {"r": 2, "target_modules": ["convolution"]}),
    "LoKr": ("llama", "LoKrConfig", {"r": 2, "alpha": 5, "target_modules": ["q_proj", "down_proj"]}),
    "LoKr of two pairs": ("llama", "LoKrConfig", {"r": 1, "target_modules": ["q_proj"], "decompose_both": True}),
    "LoKr of whole factors": (
        "llama", "LoKrConfig", {"r": 8, "alpha": 4, "target_modules": ["q_proj", "k_proj"], "rank_pattern": {"k_proj": 9}},
    ),
    "LoKr of kernels": ("resnet", "LoKrConfig", {"r": 2, "target_modules": ["convolution"], "use_effective_conv2d": True}),
    "IA3": ("llama", "IA3Config", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "IA3 with biases": ("vit", "IA3Config", {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []}),
    "IA3 of gpt2": ("gpt2", "IA3Config", {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}),
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_as_peft_merges_them(tmp_path: Path, name: str) -> None:
    kind, config, options = OTHERS[name]
    merged = trained(tiny(kind), tmp_path, config, **options)
    compared(mc.open("model+adapter", folder=tmp_path), mc.open(tmp_path / "model"), merged)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_two_dora_do_not_depend_on_their_order(tmp_path: Path) -> None:
    for name in ("one", "two"):
        trained(tiny("llama"), tmp_path / name, r=2, target_modules=["q_proj"], use_dora=True)
    base = mc.open(tmp_path / "one" / "model")
    read = [mc.open_adapter(tmp_path / name / "adapter") for name in ("one", "two")]
    there, back = mc.with_adapters(base, read, "x"), mc.with_adapters(base, read[::-1], "x")
    alone = [mc.with_adapters(base, [each], "x") for each in read]
    name = "model.layers.1.self_attn.q_proj.weight"
    np.testing.assert_allclose(there[name].read(), back[name].read(), atol=1e-6)
    added = sum(each[name].read() - base[name].read() for each in alone)
    np.testing.assert_allclose(there[name].read() - base[name].read(), added, atol=1e-6)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_square_weights_beside_a_head_stored_the_other_way(tmp_path: Path) -> None:
    """peft ends with fan_in_fan_out=False here, because the head came last; the neighbours know better."""
    model = tiny("gpt2")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = type(model.lm_head.weight)(model.lm_head.weight.detach().clone() + 1)
    merged = trained(model, tmp_path, r=2, target_modules=["c_attn", "attn.c_proj", "lm_head"])
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["fan_in_fan_out"] is False
    opened = mc.open("model+adapter", folder=tmp_path)
    for key, ref in opened.items():
        np.testing.assert_allclose(ref.read(), merged[key], rtol=1e-5, atol=1e-6)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_lora_weights": "pissa"}, "the adapter starts from changed base weights (init_lora_weights: pissa)"),
        ({"init_lora_weights": "olora"}, "the adapter starts from changed base weights (init_lora_weights: olora)"),
        ({"layer_replication": [(0, 2), (1, 3)]}, "the adapter replicates layers"),
        ({"trainable_token_indices": [0, 1]}, "the adapter tunes single tokens (trainable_token_indices)"),
    ],
)
def test_other_kinds_of_lora(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    model.save_pretrained(tmp_path / "model")
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], **options)).save_pretrained(
        tmp_path / "a"
    )
    with pytest.raises(InputError) as caught:
        mc.open("model+a", folder=tmp_path)
    assert str(caught.value) == f"{message}. {BAKE} [{tmp_path / 'a'}]"


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_biases_that_the_model_does_not_have(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    model.save_pretrained(tmp_path / "model")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], lora_bias=True)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "a")
    with pytest.raises(
        InputError, match=r"which have none in model. Such an adapter cannot be baked in: load it with peft"
    ):
        mc.open("model+a", folder=tmp_path)


# --- files of kohya's trainers and of diffusers ------------------------------------------------------------------------

UNET = {
    "down_blocks.0.attentions.0.to_q.weight": (6, 4), "down_blocks.0.resnets.0.conv_1.weight": (6, 4, 3, 3),
    "down_blocks.0.proj_in.weight": (6, 4, 1, 1),
}  # fmt: skip


def pipeline(path: Path) -> mc.Checkpoint:
    """A folder of diffusers with a network for images and a text encoder."""
    write_json(
        path / "model_index.json",
        {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]},
    )
    folder(path / "unet", arrays(0, **UNET), {"_class_name": "UNet2DConditionModel"}, stem="diffusion_pytorch_model")
    folder(path / "text_encoder", arrays(1, **{"text_model.layers.0.q_proj.weight": (4, 4)}), {"model_type": "clip"})
    return mc.open(path)


def test_kohya(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "sd")
    flat = {name: "lora_unet_" + name.removesuffix(".weight").replace(".", "_") for name in UNET}
    to_q, conv, proj = flat.values()
    factors = arrays(
        2, **{f"{to_q}.lora_down.weight": (2, 4), f"{to_q}.lora_up.weight": (6, 2), f"{conv}.lora_down.weight": (2, 4, 3, 3),
              f"{conv}.lora_up.weight": (6, 2, 1, 1), f"{proj}.lora_down.weight": (2, 4), f"{proj}.lora_up.weight": (6, 2),
              "lora_te_text_model_layers_0_q_proj.lora_down.weight": (1, 4), "lora_te_text_model_layers_0_q_proj.lora_up.weight": (4, 1)},
    )  # fmt: skip
    save_file(factors | {f"{to_q}.alpha": np.array(1, np.float32)}, tmp_path / "lora.safetensors")
    opened = mc.open("sd+lora.safetensors", folder=tmp_path)
    for name, scale in zip(UNET, (0.5, 1, 1), strict=True):
        up, down = (factors[f"{flat[name]}.lora_{side}.weight"] for side in ("up", "down"))
        added = scale * up.reshape(6, 2) @ down.reshape(2, -1)
        own = base[f"unet/{name}"].read()
        np.testing.assert_allclose(opened[f"unet/{name}"].read(), own + added.reshape(own.shape), rtol=1e-5, atol=1e-6)
    text = "text_encoder/text_model.layers.0.q_proj.weight"
    assert not np.array_equal(opened[text].read(), base[text].read())


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("to_q.lora_A.weight", "to_q.lora_B.weight"), ("to_q.lora.down.weight", "to_q.lora.up.weight"),
        ("processor.to_q_lora.down.weight", "processor.to_q_lora.up.weight"),
    ],
)  # fmt: skip
def test_diffusers(tmp_path: Path, down: str, up: str) -> None:
    base = pipeline(tmp_path / "sd")
    start = "unet.down_blocks.0.attentions.0."
    factors = arrays(2, **{start + down: (2, 4), start + up: (6, 2)})
    (tmp_path / "lora").mkdir()
    told = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 3})} if "lora_A" in down else {}
    save_file(factors, tmp_path / "lora" / "pytorch_lora_weights.safetensors", told)
    opened = mc.open("sd+lora", folder=tmp_path)
    name = "unet/down_blocks.0.attentions.0.to_q.weight"
    added = (1.5 if told else 1) * factors[start + up] @ factors[start + down]
    np.testing.assert_allclose(opened[name].read(), base[name].read() + added, rtol=1e-5, atol=1e-6)


def test_files_that_are_no_lora(tmp_path: Path) -> None:
    pipeline(tmp_path / "sd")
    save_file(arrays(0, x=(2, 2)), tmp_path / "x.safetensors")
    with pytest.raises(
        InputError, match=r"x\.safetensors is no LoRA file: x\. Give a folder of peft, or a file of LoRA factors"
    ):
        mc.open("sd+x.safetensors", folder=tmp_path)
    save_file(
        arrays(0, **{"lora_unet_nothing.lora_down.weight": (2, 4), "lora_unet_nothing.lora_up.weight": (6, 2)}),
        tmp_path / "y.safetensors",
    )
    with pytest.raises(InputError, match="'lora_unet_nothing' of the adapter is no tensor of sd"):
        mc.open("sd+y.safetensors", folder=tmp_path)


# --- made by hand --------------------------------------------------------------------------------------------------

BASE = {"model.layers.0.q.weight": (4, 6), "model.layers.1.q.weight": (4, 6), "model.norm.weight": (6,)}
START = "base_model.model.model.layers.0.q.lora_"


def by_hand(path: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> mc.Checkpoint:
    """A model and an adapter on its first layer, opened together."""
    folder(path / "model", arrays(0, **BASE), {"model_type": "x"})
    if tensors is None:
        tensors = arrays(1, **{f"{START}A.weight": (2, 6), f"{START}B.weight": (4, 2)})
    if tensors:
        folder(path / "a", tensors, stem="adapter_model")
    write_json(path / "a" / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 3, **config})
    return mc.open("model+a", folder=path)


def refused(path: Path, *args: Any, **config: Any) -> str:
    with pytest.raises(InputError) as caught:
        by_hand(path, *args, **config)
    return str(caught.value)


def product(seed: int = 1) -> np.ndarray:
    factors = arrays(seed, **{f"{START}A.weight": (2, 6), f"{START}B.weight": (4, 2)})
    return factors[f"{START}B.weight"] @ factors[f"{START}A.weight"]


def test_the_definition(tmp_path: Path) -> None:
    opened = by_hand(tmp_path)
    base = arrays(0, **BASE)
    expected = base["model.layers.0.q.weight"] + np.float32(1.5) * product()
    np.testing.assert_array_equal(opened["model.layers.0.q.weight"].read(), expected)
    np.testing.assert_array_equal(opened["model.layers.1.q.weight"].read(), base["model.layers.1.q.weight"])


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 0}, 0.0),
        ({"lora_alpha": None}, 4.0),
        ({"alpha_pattern": {"q": 0}}, 0.0),
        ({"alpha_pattern": {"k": 9}}, 1.5),
        ({"alpha_pattern": {r".*\.0\.q": 5, "q": 7}}, 2.5),
        ({"use_rslora": True, "lora_alpha": 2}, 2 / 2**0.5),
        ({"r": 99}, 1.5),  # the factors themselves tell the rank
    ],
)
def test_scales(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    opened = by_hand(tmp_path, **config)
    expected = arrays(0, **BASE)["model.layers.0.q.weight"] + np.float32(scale) * product()
    np.testing.assert_allclose(opened["model.layers.0.q.weight"].read(), expected, rtol=1e-6, atol=1e-7)


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    import ml_dtypes

    base = mc.open({"q.weight": np.full((4, 6), 1, ml_dtypes.bfloat16)})
    by_hand(tmp_path)
    from modelwright.checkpoint._adapter import with_adapter

    tensors = arrays(
        1, **{"base_model.model.q.lora_A.default.weight": (2, 6), "base_model.model.q.lora_B.default.weight": (4, 2)}
    )
    folder(tmp_path / "a", tensors, stem="adapter_model")
    ref = with_adapter(base, tmp_path / "a", "x")["q.weight"]
    assert ref.dtype.name == "bfloat16"
    assert ref.read().dtype == np.float32
    wide = with_adapter(mc.open({"q.weight": np.ones((4, 6))}), tmp_path / "a", "x")["q.weight"]
    assert wide.read().dtype == np.float64


@pytest.mark.parametrize("names", [("layers.0.q.weight",), ("transformer.model.layers.0.q.weight",)])
def test_names_that_differ_in_their_start(tmp_path: Path, names: tuple[str, ...]) -> None:
    from modelwright.checkpoint._adapter import with_adapter

    by_hand(tmp_path)
    model = mc.open({name: np.zeros((4, 6), np.float32) for name in names})
    opened = with_adapter(model, tmp_path / "a", "x")
    np.testing.assert_allclose(opened[names[0]].read(), 1.5 * product(), rtol=1e-6)


def test_adapter_beside_a_model(tmp_path: Path) -> None:
    """A trainer may leave the adapter in the folder of the model that it belongs to."""
    by_hand(tmp_path)
    for file in (tmp_path / "a").iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    opened = mc.open("model+model", folder=tmp_path)
    np.testing.assert_array_equal(
        opened["model.layers.0.q.weight"].read(), mc.open("model+a", folder=tmp_path)["model.layers.0.q.weight"].read()
    )


@pytest.mark.torch
def test_adapter_as_bin(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    expected = by_hand(tmp_path)["model.layers.0.q.weight"].read()
    state = mc.open(tmp_path / "a" / "adapter_model.safetensors").state_dict()
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    torch.save(state, tmp_path / "a" / "adapter_model.bin")
    opened = mc.open("model+a", folder=tmp_path)
    np.testing.assert_array_equal(opened["model.layers.0.q.weight"].read(), expected)


def test_plus_in_names(tmp_path: Path) -> None:
    by_hand(tmp_path)
    (tmp_path / "model").rename(tmp_path / "m+1")
    (tmp_path / "a").rename(tmp_path / "a+b")
    assert len(mc.open("m+1+a+b", folder=tmp_path).notes) == 1
    for text, message in {
        "x+y+z": "'x+y+z' has more than one +. One adapter per reference: model+adapter.",
        "m+": "'m+' lacks one side of the +. Write model+adapter.",
        "+a": "'+a' lacks one side of the +. Write model+adapter.",
    }.items():
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            mc.open(text, folder=tmp_path)
    with pytest.raises(InputError, match=r"no file, folder or Hub model is called 'nothing'\."):
        mc.open("nothing+a", folder=tmp_path)


def test_the_adapter_brings_its_own_base(tmp_path: Path) -> None:
    factors = arrays(1, **{f"{START}A.weight": (2, 6), f"{START}B.weight": (4, 2)})
    own = np.full((4, 6), 7, np.float32)
    opened = by_hand(tmp_path, {**factors, "base_model.model.model.layers.0.q.base_layer.weight": own})
    np.testing.assert_array_equal(opened["model.layers.0.q.weight"].read(), own + np.float32(1.5) * product())
    assert opened.notes[1] == "model+a: the adapter brings its own model.layers.0.q.weight"
    wrong = {**factors, "base_model.model.model.layers.0.q.base_layer.weight": own[:3]}
    assert "do not fit [4, 6]. The adapter was trained on another model." in refused(tmp_path, wrong)
    lone = {**factors, "base_model.model.model.layers.1.q.base_layer.weight": own}
    assert "tensors of no known adapter: model.layers.1.q.base_layer." in refused(tmp_path, lone)


# --- by hand, refused ----------------------------------------------------------------------------------------------


def test_not_an_adapter(tmp_path: Path) -> None:
    folder(tmp_path / "m", arrays(0, a=(1,)))
    with pytest.raises(
        InputError, match=r"m is not an adapter: it has no adapter_config\.json\. Write model\+adapter_folder\."
    ):
        mc.open("m+m", folder=tmp_path)


def test_no_factors(tmp_path: Path) -> None:
    assert refused(tmp_path, {}) == (
        f"{tmp_path / 'a'} has an adapter_config.json but no adapter_model.safetensors. Copy or download it again."
    )


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ({f"{START}A.weight": (2, 6)}, "'model.layers.0.q' of the adapter has only lora_A. Copy or download the adapter again."),
        ({f"{START}A.weight": (2, 6, 1, 1), f"{START}B.weight": (4, 2)}, "the factors of 'model.layers.0.q' do not fit each other: lora_A [2, 6, 1, 1], lora_B [4, 2]. Copy or download the adapter again."),
        ({f"{START}magnitude_vector": (4,)}, "'model.layers.0.q' of the adapter has only lora_magnitude_vector. Copy or download the adapter again."),
        ({"prompt_embeddings": (4, 4)}, f"tensors of no known adapter: prompt_embeddings. {BAKE}"),
        ({"base_model.model.norm.weight": (6,)}, f"tensors of no known adapter: base_model.model.norm.weight. {BAKE}"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_pairs(tmp_path: Path, names: dict[str, tuple[int, ...]], shown: str) -> None:
    assert refused(tmp_path, arrays(0, **names)) == f"{tmp_path / 'a'}: {shown}"


def test_integer_factors(tmp_path: Path) -> None:
    by_hand(tmp_path)
    save_file(
        {f"{START}A.weight": np.ones((2, 6), np.int8), f"{START}B.weight": np.ones((4, 2), np.int8)},
        tmp_path / "a" / "adapter_model.safetensors",
    )
    with pytest.raises(InputError, match="tensors of no known adapter"):
        mc.open("model+a", folder=tmp_path)


def test_another_model(tmp_path: Path) -> None:
    tensors = arrays(1, **{f"{START}A.weight": (2, 5), f"{START}B.weight": (4, 2)})
    assert refused(tmp_path, tensors) == (
        f"'model.layers.0.q': B [4, 2] and A [2, 5] do not fit [4, 6]. The adapter was trained on another model. "
        f"[{tmp_path / 'a'}]"
    )
    tensors = arrays(1, **{f"{START}A.weight": (3, 6), f"{START}B.weight": (4, 2)})
    assert "the factors of 'model.layers.0.q' do not fit each other: lora_A [3, 6], lora_B [4, 2]." in refused(
        tmp_path, tensors
    )
    names = {f"base_model.model.other.{i}.lora_{side}.weight": (1, 1) for i in (0, 1) for side in "AB"}
    assert refused(tmp_path, arrays(1, **names)) == "\n".join(
        f"'other.{i}' of the adapter is no tensor of model. The adapter was trained on another model. [{tmp_path / 'a'}]"
        for i in (0, 1)
    )


def test_ambiguous_start(tmp_path: Path) -> None:
    from modelwright.checkpoint._adapter import with_adapter

    by_hand(tmp_path)
    model = mc.open({f"{side}.model.layers.0.q.weight": np.zeros((4, 6), np.float32) for side in ("left", "right")})
    with pytest.raises(InputError, match=r"'model\.layers\.0\.q' of the adapter is no tensor of state dict\."):
        with_adapter(model, tmp_path / "a", "x")


def test_every_problem_is_told(tmp_path: Path) -> None:
    message = refused(tmp_path, peft_type="VERA", use_qalora=True, init_lora_weights="pissa")
    assert [line.split(". ")[0] for line in message.splitlines()] == [
        "the adapter is of kind VERA, and known are LORA, LOHA, LOKR, IA3",
        "the adapter starts from changed base weights (init_lora_weights: pissa)",
        "the adapter uses QALoRA",
    ]
    assert "the adapter is of kind unknown, and known are LORA" in refused(tmp_path, peft_type=None)
