"""Tiny random models of many transformers architectures, built offline from their configuration classes.

`TINY` maps a name to an `Entry`; `build(name, seed)` makes the model. Everything that a checkpoint holds differs
between two seeds, norms, biases and running statistics included, so that a tensor taken from the wrong model shows.

Not in the table: gemma3n with its vision tower, timm_wrapper, and the default conditional_detr, deformable_detr and
table_transformer (they need timm; detr is here with a ResNet from transformers); layoutlmv2 (needs detectron2);
cohere_compass_text (transformers 5.23 raises KeyError 'full_attention' for a small configuration). Every entry survives
save_pretrained -> from_pretrained with clean loading information. Twice the values differ, in memory only: youtu and
chinese_clip zero the padding row of their embedding after it has been loaded. In transformers 5 every T5 is tied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Entry:
    """One model: its class, what its configuration class is called with, and the dtype that it is kept in."""

    model: str
    config: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"

    @property
    def config_class(self) -> Any:
        import transformers

        return getattr(transformers, self.model).config_class

    @property
    def model_class(self) -> type[PreTrainedModel]:
        import transformers

        return getattr(transformers, self.model)


def e(model: str, *configs: dict[str, Any], dtype: str = "float32", **config: Any) -> Entry:
    """An entry from shared dictionaries, later ones winning."""
    merged: dict[str, Any] = {}
    for part in (*configs, config):
        merged |= part
    return Entry(model, merged, dtype)


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BASE = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MHA = {**BASE, **IDS, "intermediate_size": 24, "max_position_embeddings": 32}
GQA = {**MHA, "num_key_value_heads": 1}
GQA8 = {**GQA, "head_dim": 8}
BIG = {**GQA8, "hidden_size": 32}
BERT = {**MHA, "type_vocab_size": 2}
GPT = {**IDS, "vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
T5 = {
    "vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2,
    "relative_attention_num_buckets": 4, "relative_attention_max_distance": 8,
}  # fmt: skip
BART = {
    **IDS, "vocab_size": 64, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32,
    "decoder_start_token_id": 2,
}  # fmt: skip
VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
LABELS = {"num_labels": 3}  # num_labels is a property, not a field, of every configuration
STAGES = {"depths": [1, 1], "hidden_sizes": [8, 16]}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
MAMBA = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 4, "expand": 2, **IDS,
}  # fmt: skip
SPEECH = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3],
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, **IDS,
}  # fmt: skip
DENSE_FIRST = {
    "moe_intermediate_size": 8, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
RANKS = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
MLA = {**RANKS, **DENSE_FIRST}
INDEX = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 4}
DELTA = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 1, "linear_num_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
MOE = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
SSM = {"mamba_d_state": 4, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_heads": 4, "mamba_d_head": 8}
SSM |= {"mamba_n_groups": 1, "mamba_chunk_size": 8}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
QWEN_VL_IDS = {"image_token_id": 10, "video_token_id": 11, "vision_start_token_id": 12, "vision_end_token_id": 13}
QWEN2_VL_VISION = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
QWEN25_VL_VISION = {
    "depth": 2, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4,
    "fullatt_block_indexes": [1],
}  # fmt: skip
QWEN3_VL_VISION = {
    "depth": 2, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
CLIP_TEXT = {"model_type": "clip_text_model", **MHA, "projection_dim": 16}
CLIP_VISION = {"model_type": "clip_vision_model", **VIT, "projection_dim": 16}
SIGLIP_TEXT = {"model_type": "siglip_text_model", **MHA, "projection_size": 16}
SIGLIP_VISION = {"model_type": "siglip_vision_model", **VIT}
LLAMA_TEXT = {"model_type": "llama", **GQA}
QWEN2_TEXT = {"model_type": "qwen2", **GQA}

TINY: dict[str, Entry] = {
    # --- decoders --------------------------------------------------------------------------------------------------
    "llama": e("LlamaForCausalLM", GQA),
    "llama-tied": e("LlamaForCausalLM", GQA, tie_word_embeddings=True),
    "llama-bias-bf16": e("LlamaForCausalLM", GQA, attention_bias=True, mlp_bias=True, dtype="bfloat16"),
    "llama-classifier": e("LlamaForSequenceClassification", GQA, LABELS),
    "llama4": e("Llama4ForCausalLM", GQA8, LOCAL, intermediate_size_mlp=24, interleave_moe_layer_step=2),
    "mistral": e("MistralForCausalLM", GQA8, dtype="bfloat16"),
    "ministral": e("MinistralForCausalLM", GQA8),
    "ministral3": e("Ministral3ForCausalLM", GQA8),
    "mixtral": e("MixtralForCausalLM", GQA, LOCAL, dtype="bfloat16"),
    "qwen2": e("Qwen2ForCausalLM", GQA, tie_word_embeddings=False),
    "qwen2-tied": e("Qwen2ForCausalLM", GQA, tie_word_embeddings=True, dtype="bfloat16"),
    "qwen2_moe": e("Qwen2MoeForCausalLM", GQA, MOE, shared_expert_intermediate_size=12, decoder_sparse_step=1),
    "qwen3": e("Qwen3ForCausalLM", GQA8),
    "qwen3_moe": e("Qwen3MoeForCausalLM", GQA, MOE, decoder_sparse_step=1, mlp_only_layers=[0]),
    "qwen3_next": e("Qwen3NextForCausalLM", GQA8, MOE, DELTA, shared_expert_intermediate_size=8),
    "qwen3_5": e("Qwen3_5ForCausalLM", GQA8, DELTA),
    "qwen3_5_moe": e(
        "Qwen3_5MoeForCausalLM", without(GQA8, "intermediate_size"), MOE, DELTA,
        shared_expert_intermediate_size=8,
    ),
    "gemma": e("GemmaForCausalLM", GQA8),
    "gemma2": e("Gemma2ForCausalLM", GQA8, sliding_window=16),
    "gemma3_text": e("Gemma3ForCausalLM", GQA8, sliding_window=16),
    "gemma3n_text": e(
        "Gemma3nForCausalLM", GQA8, num_hidden_layers=4, num_kv_shared_layers=2, vocab_size_per_layer_input=64,
        hidden_size_per_layer_input=4, laurel_rank=4, sliding_window=16, altup_num_inputs=2,
        intermediate_size=[24] * 4, activation_sparsity_pattern=[0.5, 0.5, 0.0, 0.0],
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "gemma4_text": e(
        "Gemma4ForCausalLM", GQA8, num_hidden_layers=4, num_kv_shared_layers=2, vocab_size_per_layer_input=64,
        hidden_size_per_layer_input=4, sliding_window=16, global_head_dim=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "vaultgemma": e("VaultGemmaForCausalLM", GQA8, sliding_window=16),
    "phi": e("PhiForCausalLM", GQA, qk_layernorm=True),
    "phi3": e("Phi3ForCausalLM", GQA, tie_word_embeddings=False),
    "phimoe": e("PhimoeForCausalLM", GQA, LOCAL),
    "gpt2": e("GPT2LMHeadModel", GPT),
    "gpt2-untied": e("GPT2LMHeadModel", GPT, tie_word_embeddings=False, dtype="float16"),
    "gpt2-model": e("GPT2Model", GPT),
    "openai-gpt": e("OpenAIGPTLMHeadModel", vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "gpt_neo": e(
        "GPTNeoForCausalLM", IDS, vocab_size=64, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24,
        max_position_embeddings=32, attention_types=[[["global", "local"], 1]], window_size=8,
    ),
    "gpt_neox": e("GPTNeoXForCausalLM", MHA),
    "gpt_neox_japanese": e(
        "GPTNeoXJapaneseForCausalLM", BASE, IDS, max_position_embeddings=32, intermediate_multiple_size=2,
    ),
    "gptj": e("GPTJForCausalLM", GPT, rotary_dim=4),
    "gpt_bigcode": e("GPTBigCodeForCausalLM", GPT, multi_query=True),
    "gpt_oss": e("GptOssForCausalLM", GQA8, LOCAL, sliding_window=16),
    "codegen": e(
        "CodeGenForCausalLM", vocab_size=64, n_embd=16, n_layer=2, n_head=4, n_positions=32, rotary_dim=4,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "opt": e(
        "OPTForCausalLM", BASE, IDS, ffn_dim=24, max_position_embeddings=32, word_embed_proj_dim=8,
    ),
    "bloom": e("BloomForCausalLM", IDS, vocab_size=64, hidden_size=16, n_layer=2, n_head=2),
    "falcon": e("FalconForCausalLM", BASE, IDS, multi_query=True, parallel_attn=True, bias=False),
    "falcon-new": e(
        "FalconForCausalLM", BASE, IDS, new_decoder_architecture=True, num_kv_heads=1, bias=True,
        tie_word_embeddings=False,
    ),
    "falcon_h1": e("FalconH1ForCausalLM", GQA, SSM, mamba_d_ssm=32, mamba_rms_norm=True),
    "falcon_mamba": e("FalconMambaForCausalLM", MAMBA, time_step_rank=4),
    "mamba": e("MambaForCausalLM", MAMBA, time_step_rank=4),
    "mamba2": e("Mamba2ForCausalLM", MAMBA, num_heads=4, head_dim=8, n_groups=1, chunk_size=8),
    "jamba": e(
        "JambaForCausalLM", GQA, num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
        expert_layer_offset=1, num_experts=2, num_experts_per_tok=1, mamba_d_state=4, mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "bamba": e("BambaForCausalLM", GQA, SSM, attn_layer_indices=[1]),
    "zamba": e(
        "ZambaForCausalLM", GQA, num_hidden_layers=6, attn_layer_period=3, attn_layer_offset=2, n_mamba_heads=2,
        mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False, attention_head_dim=16,
    ),
    "zamba2": e(
        "Zamba2ForCausalLM", GQA, num_hidden_layers=4, layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
        mamba_d_state=4, n_mamba_heads=4, mamba_ngroups=1, chunk_size=8, adapter_rank=4, num_mem_blocks=2,
        use_shared_attention_adapter=True,
    ),
    "nemotron_h": e(
        "NemotronHForCausalLM", without(GQA8, "num_hidden_layers"), ssm_state_size=4,
        mamba_num_heads=4, mamba_head_dim=8, n_groups=1, chunk_size=8, n_routed_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=8, moe_shared_expert_intermediate_size=8,
        layers_block_type=["mamba", "attention", "moe", "mlp"],
    ),
    "rwkv": e(
        "RwkvForCausalLM", vocab_size=64, hidden_size=16, num_hidden_layers=2, intermediate_size=24, context_length=32,
    ),
    "recurrent_gemma": e(
        "RecurrentGemmaForCausalLM", without(GQA, "max_position_embeddings"), num_hidden_layers=3,
        lru_width=16, attention_window_size=16,
    ),
    "xlstm": e(
        "xLSTMForCausalLM", vocab_size=64, hidden_size=16, num_hidden_layers=2, num_blocks=2, num_heads=2,
        ffn_round_up_to_multiple_of=8, **IDS,
    ),
    "deepseek_v2": e("DeepseekV2ForCausalLM", MHA, MLA, num_key_value_heads=2, n_group=2),
    "deepseek_v3": e("DeepseekV3ForCausalLM", MHA, MLA, num_key_value_heads=2, n_group=2, dtype="bfloat16"),
    "glm4_moe_lite": e(
        "Glm4MoeLiteForCausalLM", MHA, without(MLA, "first_k_dense_replace"),
        num_key_value_heads=2, mlp_layer_types=["dense", "sparse"],
    ),
    "longcat_flash": e(
        "LongcatFlashForCausalLM", IDS, RANKS, vocab_size=64, hidden_size=16, num_layers=2, num_attention_heads=2,
        ffn_hidden_size=24, head_dim=4, moe_topk=2, n_routed_experts=2, zero_expert_num=1, expert_ffn_hidden_size=8,
        max_position_embeddings=32,
    ),
    "olmo": e("OlmoForCausalLM", GQA),
    "olmo2": e("Olmo2ForCausalLM", GQA),
    "olmo3": e("Olmo3ForCausalLM", GQA, sliding_window=16),
    "olmoe": e("OlmoeForCausalLM", GQA, num_experts=4, num_experts_per_tok=2),
    "flex_olmo": e("FlexOlmoForCausalLM", GQA, num_experts=4, num_experts_per_tok=2),
    "cohere": e("CohereForCausalLM", GQA, use_qk_norm=True),
    "cohere2": e("Cohere2ForCausalLM", GQA, sliding_window=16),
    "glm": e("GlmForCausalLM", GQA8),
    "glm4": e("Glm4ForCausalLM", GQA8),
    "glm4_moe": e("Glm4MoeForCausalLM", GQA, DENSE_FIRST, use_qk_norm=True),
    "granite": e("GraniteForCausalLM", GQA),
    "granitemoe": e("GraniteMoeForCausalLM", GQA, LOCAL),
    "granitemoeshared": e("GraniteMoeSharedForCausalLM", GQA, LOCAL, shared_intermediate_size=12),
    "granitemoehybrid": e(
        "GraniteMoeHybridForCausalLM", GQA, LOCAL, SSM, shared_intermediate_size=12, layer_types=["mamba", "attention"],
    ),
    "starcoder2": e("Starcoder2ForCausalLM", GQA),
    "stablelm": e("StableLmForCausalLM", GQA, use_qkv_bias=True, qk_layernorm=True),
    "mpt": e("MptForCausalLM", vocab_size=64, d_model=16, n_heads=2, n_layers=2, max_seq_len=32, expansion_ratio=2),
    "persimmon": e("PersimmonForCausalLM", MHA),
    "nemotron": e("NemotronForCausalLM", GQA8),
    "smollm3": e("SmolLM3ForCausalLM", GQA),
    "exaone4": e("Exaone4ForCausalLM", GQA, sliding_window=16),
    "ernie4_5": e("Ernie4_5ForCausalLM", GQA8),
    "ernie4_5_moe": e(
        "Ernie4_5_MoeForCausalLM", GQA, moe_intermediate_size=8, moe_num_experts=4, moe_k=2, moe_num_shared_experts=1,
        moe_layer_start_index=1, moe_layer_end_index=1, moe_layer_interval=1,
    ),
    "hunyuan_v1_dense": e("HunYuanDenseV1ForCausalLM", GQA8),
    "hunyuan_v1_moe": e("HunYuanMoEV1ForCausalLM", GQA8, num_experts=4, moe_topk=2),
    "lfm2": e(
        "Lfm2ForCausalLM", GQA, block_multiple_of=8, layer_types=["conv", "full_attention"], conv_L_cache=3,
    ),
    "lfm2_moe": e(
        "Lfm2MoeForCausalLM", GQA, MOE, layer_types=["conv", "full_attention"], num_dense_layers=1,
    ),
    "apertus": e("ApertusForCausalLM", GQA),
    "arcee": e("ArceeForCausalLM", GQA),
    "minimax": e(
        "MiniMaxForCausalLM", GQA8, LOCAL, layer_types=["linear_attention", "full_attention"], block_size=8,
    ),
    "minimax_m2": e("MiniMaxM2ForCausalLM", GQA8, LOCAL),
    "dbrx": e(
        "DbrxForCausalLM", vocab_size=64, d_model=16, n_heads=2, n_layers=2, max_seq_len=32,
        attn_config={"kv_n_heads": 1, "rope_theta": 1e4},
        ffn_config={"hidden_size": 16, "ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    ),
    "jetmoe": e(
        "JetMoeForCausalLM", vocab_size=64, hidden_size=16, num_hidden_layers=2, num_key_value_heads=2, kv_channels=8,
        intermediate_size=24, max_position_embeddings=32, num_local_experts=4, num_experts_per_tok=2, **IDS,
    ),
    "diffllama": e("DiffLlamaForCausalLM", MHA, num_key_value_heads=2),
    "helium": e("HeliumForCausalLM", GQA8),
    "seed_oss": e("SeedOssForCausalLM", GQA8),
    "dots1": e("Dots1ForCausalLM", GQA, DENSE_FIRST),
    "bitnet": e("BitNetForCausalLM", GQA),
    "doge": e("DogeForCausalLM", GQA, is_moe=False),
    "afmoe": e("AfmoeForCausalLM", GQA8, MOE, num_shared_experts=1, sliding_window=16),
    "nanochat": e("NanoChatForCausalLM", GQA),
    "biogpt": e("BioGptForCausalLM", MHA),
    "xglm": e(
        "XGLMForCausalLM", IDS, vocab_size=64, d_model=16, ffn_dim=24, num_layers=2, attention_heads=2,
        max_position_embeddings=32,
    ),
    "reformer": e(
        "ReformerModelWithLMHead", is_decoder=True, vocab_size=64, hidden_size=16, attention_head_size=8,
        num_attention_heads=2, feed_forward_size=24, attn_layers=["local", "lsh"], axial_pos_shape=[4, 8],
        axial_pos_embds_dim=[8, 8], num_buckets=4, lsh_attn_chunk_length=4, local_attn_chunk_length=4,
        max_position_embeddings=32,
    ),
    "ctrl": e("CTRLLMHeadModel", vocab_size=64, n_embd=16, dff=24, n_layer=2, n_head=2, n_positions=32),
    "aria_text": e("AriaTextForCausalLM", GQA8, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1),
    "bailing_hybrid": e(
        "BailingHybridForCausalLM", GQA8, without(RANKS, "q_lora_rank"), without(DENSE_FIRST, "n_routed_experts"),
        num_local_experts=4, num_mtp_layers=0,
    ),
    "bert-generation": e("BertGenerationDecoder", MHA),
    "cohere2_moe": e(
        "Cohere2MoeForCausalLM", GQA8, num_experts=4, num_experts_per_tok=2, num_shared_experts=1, sliding_window=16,
    ),
    "cwm": e("CwmForCausalLM", GQA8, sliding_window=16),
    "deepseek_v32": e("DeepseekV32ForCausalLM", GQA8, MLA, INDEX),
    "deepseek_v4": e(
        "DeepseekV4ForCausalLM", without(GQA8, "intermediate_size"), INDEX, moe_intermediate_size=8,
        num_experts_per_tok=2, n_routed_experts=4, n_shared_experts=1, q_lora_rank=8, o_lora_rank=8, sliding_window=16,
        num_nextn_predict_layers=0,
    ),
    "emu3_text": e("Emu3ForCausalLM", GQA),
    "exaone_moe": e(
        "ExaoneMoeForCausalLM", GQA, MOE, n_group=1, topk_group=1, first_k_dense_replace=1, num_shared_experts=1,
        sliding_window=16,
    ),
    "glm_moe_dsa": e("GlmMoeDsaForCausalLM", GQA8, MLA, INDEX),
    "granite_swa": e("GraniteSWAForCausalLM", GQA, sliding_window=16),
    "granitemoe_swa": e("GraniteMoeSWAForCausalLM", GQA, LOCAL, sliding_window=16, shared_intermediate_size=8),
    "hy_v3": e("HYV3ForCausalLM", GQA8, MOE, num_shared_experts=1),
    "hyperclovax": e("HyperCLOVAXForCausalLM", GQA8),
    "jais2": e("Jais2ForCausalLM", GQA8),
    "kimi_linear": e(
        "KimiLinearForCausalLM", GQA, RANKS, LOCAL, moe_intermediate_size=8, n_group=1, topk_group=1,
        n_shared_experts=1, linear_head_dim=8, linear_num_heads=2,
    ),
    "mimo_v2_flash": e(
        "MiMoV2FlashForCausalLM", GQA8, moe_intermediate_size=8, num_experts_per_tok=2, n_routed_experts=4, n_group=1,
        topk_group=1, v_head_dim=8, sliding_window=16,
    ),
    "minicpm3": e("MiniCPM3ForCausalLM", GQA8, RANKS),
    "minimax_m3_vl_text": e(
        "MiniMaxM3VLForCausalLM", GQA8, LOCAL, index_n_heads=2, index_head_dim=8, dense_intermediate_size=24,
        shared_intermediate_size=8, index_block_size=8,
    ),
    "mllama_text": e("MllamaForCausalLM", GQA),
    "olmo_hybrid": e("OlmoHybridForCausalLM", GQA, DELTA),
    "solar_open": e(
        "SolarOpenForCausalLM", without(GQA8, "intermediate_size"), without(DENSE_FIRST, "first_k_dense_replace"),
    ),
    "youtu": e("YoutuForCausalLM", GQA, RANKS),
    # --- vision-language -------------------------------------------------------------------------------------------
    "qwen2_vl": e(
        "Qwen2VLForConditionalGeneration", QWEN_VL_IDS, text_config={**GQA, **MROPE}, vision_config=QWEN2_VL_VISION,
    ),
    "qwen2_5_vl": e(
        "Qwen2_5_VLForConditionalGeneration", QWEN_VL_IDS, text_config={**GQA, **MROPE}, vision_config=QWEN25_VL_VISION,
    ),
    "qwen3_vl": e(
        "Qwen3VLForConditionalGeneration", QWEN_VL_IDS, text_config={**GQA8, **MROPE}, vision_config=QWEN3_VL_VISION,
    ),
    "qwen3_vl_moe": e(
        "Qwen3VLMoeForConditionalGeneration", QWEN_VL_IDS, text_config={**GQA8, **MROPE, **MOE},
        vision_config=QWEN3_VL_VISION,
    ),
    "gemma3": e(
        "Gemma3ForConditionalGeneration", text_config={**GQA8, "sliding_window": 16}, vision_config=SIGLIP_VISION,
        mm_tokens_per_image=4, image_token_index=10, boi_token_index=11, eoi_token_index=12,
    ),
    "mistral3": e(
        "Mistral3ForConditionalGeneration", text_config={"model_type": "mistral", **GQA8},
        vision_config={"model_type": "pixtral", **VIT, "head_dim": 8}, image_token_index=10, spatial_merge_size=2,
    ),
    "llava": e(
        "LlavaForConditionalGeneration", text_config=LLAMA_TEXT, vision_config=CLIP_VISION, image_token_index=10,
    ),
    "llava_next": e(
        "LlavaNextForConditionalGeneration", text_config=LLAMA_TEXT, vision_config=CLIP_VISION, image_token_index=10,
    ),
    "llava_onevision": e(
        "LlavaOnevisionForConditionalGeneration", text_config=QWEN2_TEXT, vision_config=SIGLIP_VISION,
        image_token_index=10, video_token_index=11,
    ),
    "paligemma": e(
        "PaliGemmaForConditionalGeneration", text_config={"model_type": "gemma", **GQA8},
        vision_config={**SIGLIP_VISION, "projection_dim": 16}, image_token_index=10, projection_dim=16,
    ),
    "idefics3": e(
        "Idefics3ForConditionalGeneration", text_config=LLAMA_TEXT, vision_config=VIT, image_token_id=10,
        scale_factor=2,
    ),
    "smolvlm": e(
        "SmolVLMForConditionalGeneration", text_config=LLAMA_TEXT, vision_config=VIT, image_token_id=10, scale_factor=2,
    ),
    "internvl": e(
        "InternVLForConditionalGeneration", text_config=QWEN2_TEXT,
        vision_config={**VIT, "image_size": [16, 16], "patch_size": [8, 8]}, image_token_id=10,
    ),
    "blip": e(
        "BlipForConditionalGeneration",
        text_config={**MHA, "encoder_hidden_size": 16, "projection_dim": 16},
        vision_config={**VIT, "projection_dim": 16}, projection_dim=16,
    ),
    "blip_2": e(
        "Blip2ForConditionalGeneration", text_config={"model_type": "opt", **BASE, **IDS, "ffn_dim": 24,
        "max_position_embeddings": 32, "word_embed_proj_dim": 16},
        vision_config=VIT, qformer_config={**MHA, "encoder_hidden_size": 16}, num_query_tokens=4, image_token_index=10,
    ),
    "git": e("GitForCausalLM", MHA, vision_config=VIT),
    "clip": e("CLIPModel", text_config=CLIP_TEXT, vision_config=CLIP_VISION, projection_dim=16),
    "siglip": e("SiglipModel", text_config=SIGLIP_TEXT, vision_config=SIGLIP_VISION),
    "siglip2": e(
        "Siglip2Model", text_config={**MHA, "projection_size": 16},
        vision_config={"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
        "patch_size": 8, "num_patches": 4},
    ),
    "chinese_clip": e("ChineseCLIPModel", text_config=BERT, vision_config=VIT, projection_dim=16),
    "vilt": e("ViltModel", without(BERT, *IDS), image_size=16, patch_size=8, modality_type_vocab_size=2),
    "florence2": e(
        "Florence2ForConditionalGeneration", text_config={"model_type": "bart", **BART},
        vision_config={
            "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
            "patch_prenorm": [False, True], "embed_dim": [8, 16], "num_heads": [1, 2], "num_groups": [1, 2],
            "window_size": 4, "projection_dim": 16, "max_temporal_embeddings": 4, "max_position_embeddings": 8,
            "mlp_ratio": 2.0,
        },
        image_token_id=10,
    ),
    # --- encoders --------------------------------------------------------------------------------------------------
    "bert": e("BertForMaskedLM", BERT),
    "bert-untied": e("BertForMaskedLM", BERT, tie_word_embeddings=False),
    "bert-classifier": e("BertForSequenceClassification", BERT, LABELS, dtype="float16"),
    "bert-pretraining": e("BertForPreTraining", BERT),
    "roberta": e("RobertaForMaskedLM", BERT),
    "roberta_prelayernorm": e("RobertaPreLayerNormForMaskedLM", BERT),
    "distilbert": e(
        "DistilBertForMaskedLM", vocab_size=64, dim=16, hidden_dim=24, n_layers=2, n_heads=2,
        max_position_embeddings=32,
    ),
    "albert": e("AlbertForMaskedLM", BERT, embedding_size=8),
    "deberta": e("DebertaForMaskedLM", BERT, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "deberta-v2": e(
        "DebertaV2ForMaskedLM", BERT, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=4,
        norm_rel_ebd="layer_norm", share_att_key=True, conv_kernel_size=3,  # read from the configuration's extras
    ),
    "electra": e("ElectraForMaskedLM", BERT, embedding_size=8),
    "xlm-roberta": e("XLMRobertaForMaskedLM", BERT),
    "xlm-roberta-xl": e("XLMRobertaXLForMaskedLM", BERT),
    "camembert": e("CamembertForMaskedLM", BERT),
    "xmod": e("XmodForMaskedLM", BERT, languages=["en_XX", "de_DE"], default_language="en_XX"),
    "modernbert": e(
        "ModernBertForMaskedLM", MHA, cls_token_id=1, sep_token_id=2, local_attention=8,
    ),
    "modernbert-decoder": e("ModernBertDecoderForCausalLM", MHA, cls_token_id=1, sep_token_id=2, local_attention=8),
    "mpnet": e("MPNetForMaskedLM", MHA, relative_attention_num_buckets=4),
    "longformer": e("LongformerForMaskedLM", BERT, attention_window=[4, 4]),
    "big_bird": e("BigBirdForMaskedLM", BERT, block_size=4, num_random_blocks=1),
    "funnel": e(
        "FunnelForMaskedLM", vocab_size=64, block_sizes=[1, 1], num_decoder_layers=1, d_model=16, n_head=2, d_head=8,
        d_inner=24,
    ),
    "xlnet": e("XLNetLMHeadModel", vocab_size=64, d_model=16, n_layer=2, n_head=2, d_inner=24, **IDS),
    "xlm": e(
        "XLMWithLMHeadModel", vocab_size=64, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=32, n_langs=1,
        pad_index=0, bos_index=1, eos_index=2, unk_index=3, mask_index=4, mask_token_id=4, **IDS,
    ),
    "flaubert": e(
        "FlaubertWithLMHeadModel", vocab_size=64, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=32,
        pad_index=0, bos_index=1, eos_index=2, unk_index=3, mask_index=4, mask_token_id=4, **IDS,
    ),
    "mobilebert": e("MobileBertForMaskedLM", without(BERT, *IDS), embedding_size=8, intra_bottleneck_size=8),
    "squeezebert": e(
        "SqueezeBertForMaskedLM", BERT, embedding_size=16, q_groups=2, k_groups=2, v_groups=2, post_attention_groups=1,
        intermediate_groups=2, output_groups=2,
    ),
    "convbert": e("ConvBertForMaskedLM", BERT, embedding_size=16, num_attention_heads=4, conv_kernel_size=3),
    "roformer": e("RoFormerForMaskedLM", BERT, embedding_size=16),
    "rembert": e("RemBertForMaskedLM", BERT, input_embedding_size=8, output_embedding_size=12),
    "nystromformer": e("NystromformerForMaskedLM", BERT, segment_means_seq_len=8, num_landmarks=4, conv_kernel_size=3),
    "fnet": e(
        "FNetForMaskedLM", vocab_size=64, hidden_size=16, num_hidden_layers=2, intermediate_size=24,
        max_position_embeddings=32, **IDS,
    ),
    "ibert": e("IBertForMaskedLM", BERT),
    "megatron-bert": e("MegatronBertForMaskedLM", BERT),
    "data2vec-text": e("Data2VecTextForMaskedLM", BERT),
    "ernie": e("ErnieForMaskedLM", BERT, use_task_id=True),
    "nomic_bert": e("NomicBertForMaskedLM", BERT),
    "eurobert": e("EuroBertForMaskedLM", GQA),
    "esm": e("EsmForMaskedLM", MHA, mask_token_id=4, position_embedding_type="rotary", emb_layer_norm_before=True),
    "layoutlm": e("LayoutLMForMaskedLM", BERT, max_2d_position_embeddings=32),
    "lilt": e("LiltModel", BERT, max_2d_position_embeddings=32, channel_shrink_ratio=2),
    "canine": e("CanineModel", without(BERT, "vocab_size"), num_hash_buckets=16, local_transformer_stride=8),
    "luke": e("LukeForMaskedLM", BERT, entity_vocab_size=16, entity_emb_size=8),
    "tapas": e("TapasModel", MHA, type_vocab_sizes=[3, 8, 8, 2, 8, 8, 10]),
    # --- encoder-decoders ------------------------------------------------------------------------------------------
    "t5": e("T5ForConditionalGeneration", T5),
    # transformers 5 ties every T5 and takes this flag for the sign of version 1.1
    "t5-untied": e("T5ForConditionalGeneration", T5, tie_word_embeddings=False, feed_forward_proj="gated-gelu"),
    "t5-encoder": e("T5EncoderModel", T5),
    "mt5": e("MT5ForConditionalGeneration", T5, dtype="bfloat16"),
    "umt5": e("UMT5ForConditionalGeneration", T5),
    "longt5": e("LongT5ForConditionalGeneration", T5, local_radius=4, encoder_attention_type="transient-global"),
    "switch_transformers": e(
        "SwitchTransformersForConditionalGeneration", T5, num_experts=2, num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
    "t5gemma": e("T5GemmaForConditionalGeneration", encoder={**GQA8}, decoder={**GQA8}, vocab_size=64),
    "bart": e("BartForConditionalGeneration", BART),
    "bart-untied": e("BartForConditionalGeneration", BART, tie_word_embeddings=False),
    "bart-classifier": e("BartForSequenceClassification", BART, LABELS),
    "mbart": e("MBartForConditionalGeneration", BART),
    "mvp": e("MvpForConditionalGeneration", BART),
    "plbart": e("PLBartForConditionalGeneration", without(BART, "decoder_start_token_id")),
    "pegasus": e("PegasusForConditionalGeneration", without(BART, "bos_token_id")),
    "pegasus_x": e("PegasusXForConditionalGeneration", without(BART, "bos_token_id")),
    "bigbird_pegasus": e("BigBirdPegasusForConditionalGeneration", BART, block_size=4),
    "blenderbot": e("BlenderbotForConditionalGeneration", BART),
    "blenderbot-small": e("BlenderbotSmallForConditionalGeneration", BART),
    "marian": e("MarianMTModel", BART),
    "m2m_100": e("M2M100ForConditionalGeneration", BART),
    "nllb-moe": e("NllbMoeForConditionalGeneration", BART, num_experts=2, encoder_sparse_step=2, decoder_sparse_step=2),
    "led": e(
        "LEDForConditionalGeneration",
        without(BART, "max_position_embeddings"),
        max_encoder_position_embeddings=32, max_decoder_position_embeddings=32, attention_window=4,
    ),
    "prophetnet": e(
        "ProphetNetForConditionalGeneration", IDS, vocab_size=64, hidden_size=16, encoder_ffn_dim=24,
        num_encoder_layers=2, num_encoder_attention_heads=2, decoder_ffn_dim=24, num_decoder_layers=2,
        num_decoder_attention_heads=2, max_position_embeddings=32, num_buckets=4, relative_max_distance=8,
    ),
    "trocr": e(
        "TrOCRForCausalLM", IDS, vocab_size=64, d_model=16, decoder_layers=2, decoder_attention_heads=2,
        decoder_ffn_dim=24, max_position_embeddings=32, cross_attention_hidden_size=16,
    ),
    # --- vision ----------------------------------------------------------------------------------------------------
    "vit": e("ViTForImageClassification", VIT, LABELS),
    "vit-pooler": e("ViTModel", VIT),
    "deit": e("DeiTForImageClassificationWithTeacher", VIT, LABELS),
    "beit": e("BeitForImageClassification", VIT, LABELS, use_relative_position_bias=True),
    "data2vec-vision": e("Data2VecVisionForImageClassification", VIT, LABELS, use_shared_relative_position_bias=True),
    "vit_mae": e(
        "ViTMAEForPreTraining", VIT, decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    ),
    "vit_msn": e("ViTMSNForImageClassification", VIT, LABELS),
    "ijepa": e("IJepaForImageClassification", VIT, LABELS),
    "swin": e("SwinForImageClassification", SWIN, LABELS),
    "swinv2": e("Swinv2ForImageClassification", SWIN, LABELS),
    "convnext": e("ConvNextForImageClassification", STAGES, LABELS, num_stages=2, patch_size=2, image_size=16),
    "convnextv2": e("ConvNextV2ForImageClassification", STAGES, LABELS, num_stages=2, patch_size=2, image_size=16),
    "dinov2": e("Dinov2ForImageClassification", without(VIT, "intermediate_size"), LABELS, mlp_ratio=2),
    "dinov2_with_registers": e(
        "Dinov2WithRegistersForImageClassification", without(VIT, "intermediate_size"), LABELS,
        mlp_ratio=2, num_register_tokens=2,
    ),
    "dinov3_vit": e("DINOv3ViTModel", VIT, num_register_tokens=2),
    "dinov3_convnext": e("DINOv3ConvNextModel", hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=32),
    "resnet": e(
        "ResNetForImageClassification", STAGES, LABELS, embedding_size=8, layer_type="bottleneck",
    ),
    "regnet": e("RegNetForImageClassification", STAGES, LABELS, embedding_size=8, groups_width=4),
    "mobilenet_v1": e("MobileNetV1ForImageClassification", LABELS, image_size=32, depth_multiplier=0.05, min_depth=4),
    "mobilenet_v2": e(
        "MobileNetV2ForImageClassification", LABELS, image_size=32, depth_multiplier=0.05, min_depth=4,
        finegrained_output=True,
    ),
    "mobilevit": e(
        "MobileViTForImageClassification", LABELS, image_size=32, patch_size=2, hidden_sizes=[8, 8, 8],
        neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 16], num_attention_heads=2, mlp_ratio=2.0, expand_ratio=2.0,
    ),
    "segformer": e(
        "SegformerForSemanticSegmentation", LABELS, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=[8, 16], patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=8,
    ),
    "efficientnet": e(
        "EfficientNetForImageClassification", LABELS, image_size=32, width_coefficient=0.1, depth_coefficient=0.3,
        hidden_dim=32, depth_divisor=2,
    ),
    "poolformer": e("PoolFormerForImageClassification", LABELS, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]),
    "pvt": e(
        "PvtForImageClassification", LABELS, image_size=32, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 2, 2], mlp_ratios=[2, 2, 2, 2],
    ),
    "levit": e(
        "LevitForImageClassification", LABELS, image_size=32, hidden_sizes=[16, 16, 16], num_attention_heads=[1, 1, 2],
        depths=[1, 1, 1], key_dim=[4, 4, 4], patch_size=8, mlp_ratio=[2, 2, 2], attention_ratio=[2, 2, 2],
    ),
    "focalnet": e(
        "FocalNetForImageClassification", LABELS, image_size=16, patch_size=2, embed_dim=8, hidden_sizes=[8, 16],
        depths=[1, 1], focal_levels=[2, 2], focal_windows=[3, 3],
    ),
    "hiera": e(
        "HieraForImageClassification", LABELS, image_size=[32, 32], embed_dim=8, depths=[1, 1], num_heads=[1, 2],
        query_stride=[2, 2], masked_unit_size=[4, 4], num_query_pool=1,
    ),
    "bit": e("BitForImageClassification", LABELS, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_groups=4),
    "cvt": e(
        "CvtForImageClassification", LABELS, embed_dim=[8, 16], num_heads=[1, 2], depth=[1, 2], patch_sizes=[7, 3],
        patch_stride=[4, 2], patch_padding=[2, 1], mlp_ratio=[2.0, 2.0], attention_drop_rate=[0.0, 0.0],
        drop_rate=[0.0, 0.0], drop_path_rate=[0.0, 0.0], qkv_bias=[True, True], cls_token=[False, True],
        qkv_projection_method=["dw_bn", "dw_bn"], kernel_qkv=[3, 3], padding_kv=[1, 1], stride_kv=[2, 2],
        padding_q=[1, 1], stride_q=[1, 1],
    ),
    "imagegpt": e("ImageGPTForCausalImageModeling", vocab_size=33, n_embd=16, n_layer=2, n_head=2, n_positions=16),
    "dpt": e(
        "DPTForDepthEstimation", VIT, is_hybrid=False, backbone_out_indices=[0, 0, 1, 1], neck_hidden_sizes=[4, 4, 8,
        8], fusion_hidden_size=8,
    ),
    "yolos": e("YolosForObjectDetection", VIT, LABELS, image_size=[16, 16], num_detection_tokens=4),
    "detr": e(
        "DetrForObjectDetection", LABELS, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_queries=4,
        backbone_config={"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
        "out_features": ["stage2"]},
    ),
    "sam": e(
        "SamModel",
        vision_config={"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8, "mlp_dim": 24, "global_attn_indexes": [1], "window_size": 2},
        prompt_encoder_config={"hidden_size": 8, "image_size": 32, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 8, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "iou_head_hidden_dim": 8, "iou_head_depth": 2},
    ),
    "videomae": e("VideoMAEForVideoClassification", VIT, LABELS, num_frames=2, tubelet_size=2),
    "vivit": e("VivitForVideoClassification", without(VIT, "patch_size"), LABELS, num_frames=2, tubelet_size=[2, 8, 8]),
    "timesformer": e("TimesformerForVideoClassification", VIT, LABELS, num_frames=2),
    # --- sound -----------------------------------------------------------------------------------------------------
    "whisper": e(
        "WhisperForConditionalGeneration", without(BART, "max_position_embeddings"),
        num_mel_bins=8, max_source_positions=16, max_target_positions=16, suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
    "wav2vec2": e("Wav2Vec2ForCTC", SPEECH),
    "wav2vec2-pretraining": e(
        "Wav2Vec2ForPreTraining", SPEECH, codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=4,
    ),
    "wav2vec2-conformer": e("Wav2Vec2ConformerForCTC", SPEECH, conv_depthwise_kernel_size=3),
    "wav2vec2-bert": e(
        "Wav2Vec2BertForCTC", vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, feature_projection_input_dim=8, conv_depthwise_kernel_size=3, **IDS,
    ),
    "hubert": e("HubertForCTC", SPEECH),
    "wavlm": e("WavLMForCTC", SPEECH, num_buckets=8, max_bucket_distance=16),
    "data2vec-audio": e("Data2VecAudioForCTC", SPEECH, conv_pos_kernel_size=3, num_conv_pos_embeddings=2),
    "unispeech-sat": e("UniSpeechSatForCTC", SPEECH),
    "sew": e("SEWForCTC", SPEECH, squeeze_factor=2),
    "speech_to_text": e(
        "Speech2TextForConditionalGeneration", without(BART, "max_position_embeddings"),
        input_feat_per_channel=8, conv_channels=8, num_conv_layers=1, conv_kernel_sizes=[3], max_source_positions=32,
        max_target_positions=32,
    ),
    "musicgen": e(
        "MusicgenForCausalLM", IDS, vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        ffn_dim=24,
        max_position_embeddings=32, num_codebooks=2,
    ),
    "encodec": e(
        "EncodecModel", num_filters=4, hidden_size=16, codebook_size=8, upsampling_ratios=[2, 2], num_lstm_layers=1,
        target_bandwidths=[1.5], codebook_dim=16,
    ),
    "mimi": e(
        "MimiModel", num_filters=4, hidden_size=16, codebook_size=8, codebook_dim=8, num_quantizers=3,
        upsampling_ratios=[2, 2], num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        intermediate_size=24, vector_quantization_hidden_dimension=8, upsample_groups=4,
    ),
    "dac": e(
        "DacModel", encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=[2, 2], n_codebooks=2,
        codebook_size=8, codebook_dim=4,
    ),
    "vits": e(
        "VitsModel", vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24,
        window_size=2,
        flow_size=16, spectrogram_bins=9, prior_encoder_num_flows=2, prior_encoder_num_wavenet_layers=1,
        posterior_encoder_num_wavenet_layers=1, upsample_initial_channel=8, upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]],
        duration_predictor_num_flows=1, duration_predictor_filter_channels=8, depth_separable_num_layers=1,
        duration_predictor_flow_bins=4,
    ),
    "speecht5": e(
        "SpeechT5ForTextToSpeech", vocab_size=32, hidden_size=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=8,
        speech_decoder_prenet_units=8,
        speech_decoder_postnet_units=8, speech_decoder_postnet_layers=2, speaker_embedding_dim=8, conv_dim=[8],
        conv_stride=[5],
        conv_kernel=[10], encoder_max_relative_position=8, max_speech_positions=32, max_text_positions=32, **IDS,
    ),
    "audio-spectrogram-transformer": e(
        "ASTForAudioClassification", without(VIT, "image_size"), LABELS, max_length=32, num_mel_bins=16,
    ),
    "clap": e("ClapTextModel", BERT),
    "moonshine": e(
        "MoonshineForConditionalGeneration", IDS, vocab_size=64, hidden_size=16, intermediate_size=24,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2, encoder_num_attention_heads=2, decoder_num_attention_heads=2,
        max_position_embeddings=32,
    ),
    # --- time series -----------------------------------------------------------------------------------------------
    "patchtst": e(
        "PatchTSTForPrediction", num_input_channels=1, context_length=16, patch_length=4, patch_stride=4,
        num_hidden_layers=2, d_model=16, num_attention_heads=2, ffn_dim=24, prediction_length=4,
    ),
    "time_series_transformer": e(
        "TimeSeriesTransformerForPrediction", prediction_length=4, context_length=8, lags_sequence=[1, 2], d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
        decoder_ffn_dim=24, num_time_features=1,
    ),
    "decision_transformer": e(
        "DecisionTransformerModel", state_dim=4, act_dim=2, hidden_size=16, n_layer=2, n_head=2, n_positions=32,
        max_ep_len=16,
    ),
}  # fmt: skip


def build(name: str, seed: int) -> PreTrainedModel:
    """The model of a table entry, in evaluation mode, all of its floating weights and buffers drawn from the seed.

    Args:
        name: A key of `TINY`.
        seed: Which of the endless models of this architecture; models of two seeds agree in no floating tensor.

    Returns:
        A model of `TINY[name].model`, in the entry's dtype.
    """
    import torch

    entry = TINY[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = entry.model_class(entry.config_class(**entry.config))
            ignored = model._keys_to_ignore_on_save or ()
            saved = {t.data_ptr() for key, t in model.state_dict(keep_vars=True).items() if key not in ignored}
            with torch.no_grad():
                for key, tensor in (*model.named_parameters(), *model.named_buffers()):
                    if tensor.data_ptr() not in saved:
                        continue  # computed from the configuration: must stay what it is
                    if key.endswith("num_batches_tracked"):
                        tensor.fill_(7)
                    elif tensor.is_floating_point():
                        # factors near 1 keep the signs of A_log and running variances; the sum moves what starts at 0
                        tensor.mul_(1 + 0.1 * torch.rand_like(tensor)).add_(0.02 * torch.rand_like(tensor))
        model.to(getattr(torch, entry.dtype))
        for key, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() and any(part in key for part in _float32(model)):
                tensor.data = tensor.data.float()  # as from_pretrained would
        return model.eval()
    finally:
        torch.set_num_threads(threads)


def _float32(model: PreTrainedModel) -> set[str]:
    """The parts of names whose tensors transformers keeps in float32 whatever the model's dtype."""
    return {part.strip("^$") for part in model._keep_in_fp32_modules_strict or ()}
