"""Names as real models have them: layers, ends, towers, tied weights, and configurations of another depth."""

from __future__ import annotations

from typing import Any

import pytest

from modelwright.architectures import (
    Layout,
    Place,
    comes_after_layers,
    module_of,
    over_vocabulary,
    renumbered,
    resize_config,
    tie_source,
    ties_embeddings,
    vocabulary_rows,
    vocabulary_tensor,
)

# --- layers --------------------------------------------------------------------------------------------------------

#: A tensor of layer 1 of 3 -> the stack it belongs to.
STACKS = {
    "model.layers.1.self_attn.q_proj.weight": "model.layers",
    "model.layers.1.block_sparse_moe.experts.3.w1.weight": "model.layers",
    "model.layers.1.mlp.experts.7.down_proj.weight": "model.layers",
    "model.layers.1.moe.layers.2.experts.0.w.weight": "model.layers",
    "model.language_model.layers.1.mlp.gate.weight": "model.language_model.layers",
    "model.visual.blocks.1.attn.qkv.weight": "model.visual.blocks",
    "visual.blocks.1.attn.qkv.weight": "visual.blocks",
    "visual.transformer.resblocks.1.attn.in_proj_weight": "visual.transformer.resblocks",
    "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight": "vision_tower.vision_model.encoder.layers",
    "h.1.attn.c_attn.weight": "h",
    "transformer.h.1.attn.c_attn.weight": "transformer.h",
    "encoder.block.1.layer.0.SelfAttention.q.weight": "encoder.block",
    "decoder.block.1.layer.2.DenseReluDense.wi.weight": "decoder.block",
    "bert.encoder.layer.1.attention.self.query.weight": "bert.encoder.layer",
    "distilbert.transformer.layer.1.ffn.lin1.weight": "distilbert.transformer.layer",
    "model.decoder.layers.1.encoder_attn.k_proj.weight": "model.decoder.layers",
    "backbone.layers.1.mixer.A_log": "backbone.layers",
    "rwkv.blocks.1.attention.time_decay": "rwkv.blocks",
    "blocks.1.norm1.weight": "blocks",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight": "down_blocks",
    "unet/down_blocks.1.resnets.0.conv1.weight": "unet/down_blocks",
    "transformer/single_transformer_blocks.1.attn.to_q.weight": "transformer/single_transformer_blocks",
    "mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj.weight": "mid_block.attentions.0.transformer_blocks",
    "wav2vec2.feature_extractor.conv_layers.1.conv.weight": "wav2vec2.feature_extractor.conv_layers",
    "0_Transformer/encoder.layer.1.output.dense.weight": "0_Transformer/encoder.layer",
    "layers.1.weight": "layers",
    "blk.1.attn_q.weight": "blk",
    "blk.1.ffn_gate.3.weight": "blk",
    "dec.blk.1.cross_attn_q.weight": "dec.blk",
    "v.blk.1.ffn_up.weight": "v.blk",
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks(name: str) -> None:
    stack = STACKS[name]
    names = [renumbered(name, Place(stack, 1, 3), number) for number in (0, 1, 2)]
    assert names[1] == name
    layout = Layout(["model.embed_tokens.weight", *names, "model.norm.weight"])
    assert layout.stacks == {stack: 3}
    assert [layout.place(other) for other in names] == [Place(stack, i, 3) for i in range(3)]
    assert layout.place("model.norm.weight") is None
    assert layout.place("nowhere") is None


#: Tensors -> stack and depths: two numbers make one.
NESTED: dict[str, tuple[list[str], str, list[int]]] = {
    "swin": (
        [
            "swin.encoder.layers.0.blocks.0.w", "swin.encoder.layers.0.blocks.1.w", "swin.encoder.layers.0.downsample.w",
            "swin.encoder.layers.1.blocks.0.w", "swin.encoder.layers.1.blocks.2.w",
        ],
        "swin.encoder.layers",
        [0, 1, 1, 2, 3],
    ),
    "convnext": (
        [
            "convnext.encoder.stages.0.layers.0.w", "convnext.encoder.stages.1.downsampling_layer.0.w",
            "convnext.encoder.stages.1.layers.0.w", "convnext.encoder.stages.1.layers.1.w",
        ],
        "convnext.encoder.stages",
        [0, 1, 1, 2],
    ),
    "torchvision resnet": (
        ["layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight", "layer2.0.downsample.0.weight"],
        "layer",
        [0, 1, 2, 2],
    ),
    "transformers resnet": (
        ["resnet.encoder.stages.0.layers.0.layer.1.w", "resnet.encoder.stages.1.layers.0.layer.0.w"],
        "resnet.encoder.stages",
        [0, 1],
    ),
    "a stage without layers": (["stages.0.blocks.0.w", "stages.1.w", "stages.2.blocks.0.w", "stages.3.w"], "stages", [0, 1, 1, 1]),
}  # fmt: skip


@pytest.mark.parametrize("kind", NESTED)
def test_nested_stages(kind: str) -> None:
    names, stack, depths = NESTED[kind]
    layout = Layout(names)
    count = max(depths) + 1
    assert layout.stacks == {stack: count}
    assert [layout.place(name) for name in names] == [Place(stack, depth, count, nested=True) for depth in depths]


def test_several_stacks() -> None:
    names = [f"model.encoder.layers.{i}.w" for i in range(2)] + [f"model.decoder.layers.{i}.w" for i in range(4)]
    assert Layout(names).stacks == {"model.encoder.layers": 2, "model.decoder.layers": 4}


def test_bare_sequential() -> None:
    layout = Layout(["0.weight", "0.bias", "2.weight", "4.weight"])
    assert layout.stacks == {"": 3}
    assert [layout.place(name) for name in ("0.bias", "2.weight", "4.weight")] == [Place("", i, 3) for i in range(3)]
    assert renumbered("2.weight", Place("", 1, 3), 7) == "7.weight"
    assert Layout(["net.0.0.w", "net.3.1.w"]).stacks == {"net": 2}


def test_a_number_elsewhere_does_not_count_beside_layers() -> None:
    layout = Layout(["model.layers.0.w", "heads.0.weight", "heads.1.weight"])
    assert layout.stacks == {"model.layers": 1}
    assert layout.place("heads.0.weight") is None


def test_ggufs_projectors_are_no_layers() -> None:
    layout = Layout(["v.blk.0.attn_q.weight", "v.blk.1.attn_q.weight", "mm.0.weight", "mm.2.weight"])
    assert layout.stacks == {"v.blk": 2}


def test_numbers_with_gaps_are_counted() -> None:
    layout = Layout([f"layers.{i}.w" for i in (2, 10, 30)])
    assert [layout.place(f"layers.{i}.w") for i in (2, 10, 30)] == [Place("layers", i, 3) for i in range(3)]


def test_no_layers_at_all() -> None:
    layout = Layout(["weight", "bias", "conv1.weight", "w2"])
    assert (layout.stacks, layout.place("weight")) == ({}, None)
    assert Layout([]).stacks == {}


@pytest.mark.parametrize(("number", "count", "t"), [(0, 3, 0.0), (1, 3, 0.5), (2, 3, 1.0), (0, 1, 1.0)])
def test_position_for_gradients(number: int, count: int, t: float) -> None:
    assert Place("layers", number, count).t == t


def test_renumbering_moves_the_layer_alone() -> None:
    place = Place("model.layers", 3, 8)
    assert renumbered("model.layers.3.mlp.experts.3.w.3", place, 12) == "model.layers.12.mlp.experts.3.w.3"
    assert (
        renumbered("unet/down_blocks.0.resnets.0.w", Place("unet/down_blocks", 0, 4), 2)
        == "unet/down_blocks.2.resnets.0.w"
    )


# --- ends ----------------------------------------------------------------------------------------------------------

BEFORE = [
    "model.embed_tokens.weight",
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "shared.weight",
    "gpt_neox.embed_in.weight",
    "bert.embeddings.LayerNorm.weight",
    "bert.embeddings.position_embeddings.weight",
    "model.encoder.embed_positions.weight",
    "model.encoder.layernorm_embedding.weight",
    "transformer.word_embeddings_layernorm.weight",
    "model.encoder.conv1.weight",
    "conv1.weight",
    "bn1.weight",
    "visual.patch_embed.proj.weight",
    "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.weight",
    "visual.class_embedding",
    "vit.embeddings.cls_token",
    "swin.embeddings.norm.weight",
    "conv_in.weight",
    "stem.0.conv.weight",
    "model.decoder.project_in.weight",
    "wav2vec2.feature_projection.layer_norm.weight",
    "model.rotary_emb.inv_freq",
    "deberta.encoder.rel_embeddings.weight",
    "encoder.embed_tokens.weight",
]
AFTER = [
    "model.norm.weight",
    "lm_head.weight",
    "lm_head.bias",
    "score.weight",
    "transformer.ln_f.weight",
    "gpt_neox.final_layer_norm.bias",
    "embed_out.weight",
    "encoder.final_layer_norm.weight",
    "model.decoder.layer_norm.weight",
    "proj_out.weight",
    "backbone.norm_f.weight",
    "cls.predictions.decoder.weight",
    "cls.predictions.transform.LayerNorm.weight",
    "bert.pooler.dense.weight",
    "classifier.weight",
    "classifier.out_proj.weight",
    "pre_classifier.weight",
    "qa_outputs.weight",
    "fc.weight",
    "fc.bias",
    "head.weight",
    "heads.head.weight",
    "visual.ln_post.weight",
    "vision_model.post_layernorm.weight",
    "visual.merger.mlp.0.weight",
    "text_projection",
    "logit_scale",
    "visual_projection.weight",
    "vit.layernorm.weight",
    "swin.layernorm.weight",
    "convnext.layernorm.weight",
    "resnet.pooler.weight",
    "model.embedding_norm.weight",
    "conv_norm_out.weight",
    "conv_out.weight",
    "model.decoder.project_out.weight",
    "final_logits_bias",
    "vocab_transform.weight",
    "vocab_layer_norm.weight",
    "vocab_projector.weight",
    "classification_head.dense.weight",
    "rwkv.ln_out.weight",
    "backbone.out_norm.weight",
    "lm_heads.0.weight",
    "output_projection.weight",
    "generator_lm_head.weight",
    "esm.encoder.emb_layer_norm_after.weight",
    "roberta.encoder.LayerNorm.weight",
    "discriminator_predictions.dense.weight",
    "decoder.weight",
    "predict_action.0.weight",
    "efficientnet.encoder.top_bn.weight",
    "norm_out.linear.weight",
    "output.weight",
    "output_norm.weight",
]


@pytest.mark.parametrize("name", BEFORE)
def test_before_the_layers(name: str) -> None:
    assert not comes_after_layers(name)


@pytest.mark.parametrize("name", AFTER)
def test_after_the_layers(name: str) -> None:
    assert comes_after_layers(name)


# --- towers --------------------------------------------------------------------------------------------------------

VLM = ["text_decoder", "vision_tower", "multi_modal_projector"]


@pytest.mark.parametrize(
    ("name", "modules", "module"),
    [
        ("language_model.model.layers.0.w", VLM, "text_decoder"),
        ("lm_head.weight", VLM, "text_decoder"),
        ("vision_tower.vision_model.encoder.layers.0.w", VLM, "vision_tower"),
        ("model.visual.blocks.0.w", VLM, "vision_tower"),
        ("model.image_encoder.w", VLM, "vision_tower"),
        ("multi_modal_projector.linear_1.weight", VLM, "multi_modal_projector"),
        ("visual.merger.mlp.0.weight", VLM, "multi_modal_projector"),
        ("visual.merger.mlp.0.weight", ["text_decoder", "vision_tower"], "vision_tower"),
        ("model.mm_projector.0.weight", ["text_decoder", "vision_tower"], None),
        ("audio_tower.layers.0.w", VLM, None),
        ("audio_tower.layers.0.w", ["audio_tower"], "audio_tower"),
        ("lm_head.weight", ["vision_tower"], None),
        ("model.layers.0.w", ["default"], "default"),
        ("vision_tower.w", ["default"], "default"),
        ("vision_tower.w", ["default", "vision_tower"], "vision_tower"),
        ("model.encoder.layers.0.w", ["encoder", "decoder"], "encoder"),
        ("decoder.block.0.w", ["encoder", "decoder"], "decoder"),
        ("decoder", ["decoder"], "decoder"),
        ("unet/down_blocks.0.w", ["unet", "vae"], "unet"),
        ("shared.weight", ["encoder", "decoder"], None),
        ("model.encoder.layers.0.w", ["encoder", "model.encoder"], "model.encoder"),
        ("encoders.0.w", ["encoder"], None),
    ],
)  # fmt: skip
def test_modules(name: str, modules: list[str], module: str | None) -> None:
    assert module_of(name, modules) == module


# --- tied weights --------------------------------------------------------------------------------------------------

V, H = (50, 8), (8, 8)
#: Another name of an embedding -> the embedding.
TIED = {
    "lm_head.weight": "model.embed_tokens.weight",
    "embed_out.weight": "gpt_neox.embed_in.weight",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "proj_out.weight": "model.decoder.embed_tokens.weight",
    "vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight",
    "encoder.embed_tokens.weight": "shared.weight",
    "model.decoder.embed_tokens.weight": "model.shared.weight",
    "prophetnet.encoder.word_embeddings.weight": "prophetnet.word_embeddings.weight",
    "lm_head.out_proj.weight": "model.decoder.embed_tokens.weight",
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "text_decoder.lm_head.weight": "transformer.wte.weight",
}


@pytest.mark.parametrize("name", TIED)
def test_tie_source(name: str) -> None:
    source = TIED[name]
    shapes = {source: V, name: V, "model.layers.0.w": V, "other.bias": (50,), "position_embeddings.weight": V}
    assert tie_source(name, shapes) == source
    assert tie_source(source, {source: V}) is None
    assert tie_source(name, {**shapes, name: H}) is None
    assert tie_source(name, {source: V}) is None  # its shape is not known
    assert tie_source(name, {source: V}, V) == source
    assert vocabulary_tensor(name)
    assert vocabulary_tensor(source)


def test_tied_biases() -> None:
    for head in ("cls.predictions", "lm_head", "predictions"):
        shapes = {f"{head}.bias": (50,), f"{head}.decoder.bias": (50,)}
        assert tie_source(f"{head}.decoder.bias", shapes) == f"{head}.bias"
        assert tie_source(f"{head}.bias", shapes) is None
        assert vocabulary_tensor(f"{head}.decoder.bias")
    assert tie_source("decoder.bias", {"bias": (5,), "decoder.bias": (5,)}) is None


def test_shared_comes_first() -> None:
    shapes = {
        "encoder.embed_tokens.weight": V,
        "decoder.embed_tokens.weight": V,
        "shared.weight": V,
        "lm_head.weight": V,
    }
    assert {tie_source(name, shapes) for name in shapes if name != "shared.weight"} == {"shared.weight"}
    assert tie_source("shared.weight", shapes) is None


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.down_proj.weight", "model.norm.weight", "score.weight", "head.bias"]
)
def test_what_is_never_tied(name: str) -> None:
    assert tie_source(name, {name: V, "model.embed_tokens.weight": V}) is None
    assert not vocabulary_tensor(name)


@pytest.mark.parametrize(
    ("config", "ties"),
    [
        (None, False),
        ({}, True),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": None}, True),
        ({"text_config": {"tie_word_embeddings": False}}, False),
        ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}, False),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, False),
        ({"text_config": None, "llm_config": "odd"}, True),
    ],
)
def test_ties_embeddings(config: Any, ties: bool) -> None:
    assert ties_embeddings(config) is ties


# --- configurations ------------------------------------------------------------------------------------------------

LLAMA: dict[str, Any] = {"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"], "eos_token_id": [1, 2, 3, 4]}


def test_layer_count_and_lists() -> None:
    other = {**LLAMA, "layer_types": ["A", "B", "C", "D"]}
    config, found = resize_config(LLAMA, "model.layers", [(LLAMA, 0, 3), (other, 1, 4)], 4)
    assert found
    assert config == {
        "num_hidden_layers": 6, "layer_types": ["a", "b", "c", "B", "C", "D"], "eos_token_id": [1, 2, 3, 4],
    }  # fmt: skip
    assert LLAMA["num_hidden_layers"] == 4
    assert LLAMA["layer_types"] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("stack", "config", "old", "key"),
    [
        ("transformer.h", {"n_layer": 2, "n_head": 2}, 2, "n_layer"),
        ("distilbert.transformer.layer", {"n_layers": 2}, 2, "n_layers"),
        ("backbone.layers", {"num_hidden_layers": 2, "state_size": 2}, 2, "num_hidden_layers"),
        ("bert.encoder.layer", {"num_hidden_layers": 2, "num_attention_heads": 2}, 2, "num_hidden_layers"),
        ("encoder.block", {"num_layers": 2, "num_decoder_layers": 2}, 2, "num_layers"),
        ("decoder.block", {"num_layers": 2, "num_decoder_layers": 2}, 2, "num_decoder_layers"),
        ("model.encoder.layers", {"encoder_layers": 2, "decoder_layers": 2}, 2, "encoder_layers"),
        ("model.decoder.layers", {"encoder_layers": 2, "decoder_layers": 2}, 2, "decoder_layers"),
        ("model.decoder.layers", {"num_hidden_layers": 2}, 2, "num_hidden_layers"),
        ("visual.blocks", {"vision_config": {"depth": 2}, "num_hidden_layers": 2}, 2, "vision_config/depth"),
        ("model.visual.blocks", {"vision_config": {"depth": 2}}, 2, "vision_config/depth"),
        ("language_model.model.layers", {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 2}}, 2, "text_config/num_hidden_layers"),
        ("vision_tower.encoder.layers", {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 2}}, 2, "vision_config/num_hidden_layers"),
    ],
)  # fmt: skip
def test_which_key(stack: str, config: dict[str, Any], old: int, key: str) -> None:
    resized, found = resize_config(config, stack, [(config, 0, 2), (config, 1, 2)], old)
    assert found
    flat = lambda c: {  # noqa: E731
        **{k: v for k, v in c.items() if not isinstance(v, dict)},
        **{f"{k}/{inner}": v for k, part in c.items() if isinstance(part, dict) for inner, v in part.items()},
    }
    changed = {k: v for k, v in flat(resized).items() if v != flat(config)[k]}
    assert changed == {key: 3}


def test_lists_of_layer_numbers_are_moved() -> None:
    config = {"num_hidden_layers": 6, "cross_attention_layers": [1, 3, 5], "mlp_only_layers": [0, 1, 2, 3, 4, 5]}
    resized, _ = resize_config(config, "model.layers", [(config, 0, 2), (config, 3, 6), (config, 3, 4)], 6)
    assert resized == {
        "num_hidden_layers": 6, "cross_attention_layers": [1, 2, 4, 5], "mlp_only_layers": [0, 1, 2, 3, 4, 5],
    }  # fmt: skip
    bare = {"num_hidden_layers": 6}
    resized, _ = resize_config(config, "model.layers", [(bare, 1, 2)], 6)
    assert resized["cross_attention_layers"] == [0]  # a source that says nothing is as the donor


def test_lists_inside_a_tower() -> None:
    text = {"num_hidden_layers": 2, "no_rope_layers": [1, 0], "num_attention_heads": 2, "intermediate_size": [8, 16]}
    config = {"text_config": text, "vision_config": {"num_hidden_layers": 2, "layer_types": ["x", "y"]}}
    resized, found = resize_config(config, "language_model.layers", [(config, 1, 2), (config, 0, 2)], 2)
    assert found
    assert resized["text_config"] == {
        "num_hidden_layers": 3, "no_rope_layers": [0, 1, 0], "num_attention_heads": 2, "intermediate_size": [16, 8, 16],
    }  # fmt: skip
    assert resized["vision_config"] == config["vision_config"]


def test_no_key_for_the_count() -> None:
    config = {"hidden_size": 4, "layer_types": ["a", "b"], "text_config": None}
    resized, found = resize_config(config, "model.layers", [(config, 0, 1)], 2)
    assert (resized, found) == (config, False)
    assert resized is not config


def test_the_same_depth_keeps_the_configuration() -> None:
    config, found = resize_config(LLAMA, "model.layers", [(LLAMA, 0, 2), (LLAMA, 2, 4)], 4)
    assert (config, found) == (LLAMA, True)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.embed_tokens.weight", (50, 4), True),
        ("lm_head.weight", (50, 4), True),
        ("lm_head.weight", (49, 4), False),
        ("model.language_model.embed_tokens_per_layer.weight", (50, 8), True),
        ("cls.predictions.bias", (50,), True),
        ("final_logits_bias", (1, 50), True),
        ("bert.embeddings.position_embeddings.weight", (50, 4), False),
        ("bert.embeddings.token_type_embeddings.weight", (50, 4), False),
        ("model.layers.0.mlp.up_proj.weight", (50, 4), False),
        ("model.norm.weight", (50,), False),
    ],
)
def test_what_has_a_row_for_each_token(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert over_vocabulary(name, shape, 50) is expected


def test_rows_of_the_vocabulary_are_those_of_the_configuration_where_a_tensor_has_them() -> None:
    shapes = {"model.embed_tokens.weight": (50, 4), "draft.embed_tokens.weight": (70, 9)}
    assert vocabulary_rows(shapes, {"vocab_size": 50}) == 50
    assert vocabulary_rows(shapes, {"text_config": {"vocab_size": 50}}) == 50
    assert vocabulary_rows(shapes, {"vocab_size": 51}) == 70
    assert vocabulary_rows({"w": (3, 3)}, {"vocab_size": 3}) is None
