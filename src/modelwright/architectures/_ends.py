"""Which tensors outside the layers come before them and which after: slices take the two ends from different sources."""

from __future__ import annotations

import re

#: LFM2 calls its final norm embedding_norm. `conv` only as a word of its own: ConvNeXt's names all start with it.
_BEFORE = re.compile(
    r"embed(?!_out|ding_norm)|wte|wpe|patch|position|rotary|stem|token_type|feature_projection|feature_extractor|"
    r"prenet|project_in|(^|[./])conv(?=[._\d])(?!_norm_out|_out|_1x1|_head|_last)"
)
_AFTER = re.compile(
    r"(^|[./])((generator_)?lm_heads?|hc_head|contact_head|heads?|classification_head|score|classifier|pre_classifier|pooler|cls|fc|"
    r"embed_out|output|output_norm|output_projection|qa_outputs|proj_out|project_out|lm_loss|predict_\w+|\w*predictions|"
    r"ln|ln_f|ln_post|ln_out|norm|norm_f|final_norm|out_norm|norm_out|embedding_norm|emb_layer_norm_after|"
    r"(?i:layer_?norm)|final_layer_?norm|post_layernorm|conv_norm_out|conv_out|conv_1x1(_exp)?|conv_head|conv_last|"
    r"top_conv|top_bn|logit_scale|visual_projection|text_projection|final_logits_bias|"
    r"vocab_transform|vocab_layer_norm|vocab_projector|merger)(\.|$)|^decoder\.(weight|bias)$"
)


def comes_after_layers(name: str) -> bool:
    """Whether a tensor outside all layers follows them: final norms, heads, poolers."""
    return not _BEFORE.search(name) and bool(_AFTER.search(name))
