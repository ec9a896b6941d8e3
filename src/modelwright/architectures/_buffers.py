"""Tensors that older checkpoints store although every model computes them itself."""

from __future__ import annotations

import re

_COMPUTED = re.compile(r"(^|[./])(rotary_emb\.inv_freq|rotary_emb\.freqs|masked_bias|position_ids)$")
#: The causal mask of GPT-2 and GPT-NeoX, told from a bias by its shape [1, 1, n, n].
_MASK = re.compile(r"(^|[./])(attn|attention|self_attn)\.bias$")


def is_computed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is no weight, so that it need not be in every model and is never merged."""
    return bool(_COMPUTED.search(name) or (_MASK.search(name) and len(shape) == 4 and shape[:2] == (1, 1)))
