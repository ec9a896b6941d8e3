"""Which tensors outside the layers come before them and which after: slices take the two ends from different sources."""

from __future__ import annotations

import re

_BEFORE = re.compile(r"embed(?!_out)|wte|wpe|patch|position|rotary|stem|conv|token_type")
_AFTER = re.compile(
    r"(^|[./_])(lm_head|embed_out|score|classifier|pooler|cls|head|ln_f|ln_post|norm|norm_f|final_norm|"
    r"final_layer_?norm|layer_?norm|post_layernorm|output|logit_scale|visual_projection|text_projection)(\.|$)"
)


def comes_after_layers(name: str) -> bool:
    """Whether a tensor outside all layers follows them: final norms, heads, poolers."""
    return not _BEFORE.search(name) and bool(_AFTER.search(name))
