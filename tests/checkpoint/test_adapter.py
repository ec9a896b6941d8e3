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

LATER = (
    "Until adapters have their own issue only plain LoRA on linear layers is applied here; bake it in with peft first."
)


# --- peft as the oracle --------------------------------------------------------------------------------------------


def tiny(kind: str) -> Any:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=31, n_embd=12, n_layer=2, n_head=2, n_positions=8)
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        vocab_size=31, hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def trained(model: Any, path: Path, **options: Any) -> dict[str, np.ndarray]:
    """Save the model and an adapter with random factors; what peft merges them to, under the names on disk."""
    peft = pytest.importorskip("peft")
    import torch

    model.save_pretrained(path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that fan_in_fan_out is set by itself
        tuned = peft.get_peft_model(model, peft.LoraConfig(**options))
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora_" in name:
                value.normal_(0, 0.3)
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
    assert list(opened) == list(base)
    changed = {key for key in base if not np.array_equal(merged[key], base[key].read())}
    assert changed
    for key, ref in opened.items():
        assert (ref.dtype, ref.shape) == (base[key].dtype, base[key].shape)
        if key in changed:
            np.testing.assert_allclose(ref.read(), merged[key], rtol=1e-5, atol=1e-6)
        else:
            assert ref is base[key] or np.array_equal(ref.read(), base[key].read())
    assert opened.label == "model+adapter"
    assert opened.beneath == (tmp_path / "adapter",)
    assert opened.config == base.config
    ranks = "1, 3, 5" if name == "rank pattern" else options["r"]
    assert opened.notes[0] == f"model+adapter: LoRA of rank {ranks} added to {len(changed)} tensors"
    own = ("model+adapter: the adapter brings its own lm_head.weight",) if name == "head" else ()
    assert opened.notes[1:] == own


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
        ({"use_dora": True}, "the adapter uses DoRA"),
        ({"bias": "lora_only"}, "the adapter tunes biases (bias: lora_only)"),
        ({"modules_to_save": ["lm_head"]}, "the adapter saves whole modules"),
        ({"lora_bias": True}, "the adapter tunes biases (lora_bias)"),
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
    assert str(caught.value) == f"{message}. {LATER} [{tmp_path / 'a'}]"


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_other_kinds_of_adapter(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    model.save_pretrained(tmp_path / "model")
    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "a")
    with pytest.raises(InputError, match=re.escape(f"the adapter is of kind IA3, not LORA. {LATER}")):
        mc.open("model+a", folder=tmp_path)


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
    assert "not a plain LoRA of linear layers: model.layers.1.q." in refused(tmp_path, lone)


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
        ({f"{START}A.weight": (2, 6)}, "model.layers.0.q"),
        ({"base_model.model.e.lora_embedding_A": (2, 6), "base_model.model.e.lora_embedding_B": (4, 2)}, "base_model.model.e.lora_embedding_A, base_model.model.e.lora_embedding_B"),
        ({f"{START}A.weight": (2, 6, 1, 1), f"{START}B.weight": (4, 2, 1, 1)}, f"{START}A.weight, {START}B.weight"),
        ({f"{START}magnitude_vector": (4,)}, f"{START}magnitude_vector"),
        ({"prompt_embeddings": (4, 4)}, "prompt_embeddings"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_pairs(tmp_path: Path, names: dict[str, tuple[int, ...]], shown: str) -> None:
    assert refused(tmp_path, arrays(0, **names)) == (
        f"{tmp_path / 'a'}: not a plain LoRA of linear layers: {shown}. {LATER}"
    )


def test_integer_factors(tmp_path: Path) -> None:
    by_hand(tmp_path)
    save_file(
        {f"{START}A.weight": np.ones((2, 6), np.int8), f"{START}B.weight": np.ones((4, 2), np.int8)},
        tmp_path / "a" / "adapter_model.safetensors",
    )
    with pytest.raises(InputError, match="not a plain LoRA of linear layers"):
        mc.open("model+a", folder=tmp_path)


def test_another_model(tmp_path: Path) -> None:
    tensors = arrays(1, **{f"{START}A.weight": (2, 5), f"{START}B.weight": (4, 2)})
    assert refused(tmp_path, tensors) == (
        f"'model.layers.0.q': B [4, 2] and A [2, 5] do not fit [4, 6]. The adapter was trained on another model. "
        f"[{tmp_path / 'a'}]"
    )
    tensors = arrays(1, **{f"{START}A.weight": (3, 6), f"{START}B.weight": (4, 2)})
    assert refused(tmp_path, tensors).startswith("'model.layers.0.q': B [4, 2] and A [3, 6] do not fit [4, 6].")
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
    message = refused(tmp_path, peft_type="LOHA", use_dora=True, bias="all")
    assert [line.split(". ")[0] for line in message.splitlines()] == [
        "the adapter is of kind LOHA, not LORA",
        "the adapter tunes biases (bias: all)",
        "the adapter uses DoRA",
    ]
    assert "the adapter is of kind unknown, not LORA" in refused(tmp_path, peft_type=None)
