"""Formats whose tensors are not numbers yet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: A float8 tensor `x.weight` is de-quantised by multiplying with one of these, element, row or block wise.
SCALE_SUFFIXES = ("_scale_inv", "_scale")

_PACKED = re.compile(
    r"\.(qweight|qzeros|g_idx|absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\S+|weight_packed|"
    r"weight_shape|SCB|weight_format|scales_and_zeros)$|_(blocks|scales)$"
)
#: The one method that is undone here: float8 with scales.
_KNOWN_METHODS = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "finegrained_fp8")


def unsupported_quantization(config: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Why a checkpoint's tensors cannot be read as numbers, or None."""
    settings: Any = config.get("quantization_config") or {}
    method = str(settings.get("quant_method", "")) if isinstance(settings, Mapping) else ""
    packed = [name for name in names if _PACKED.search(name)]
    if packed:
        shown = f"'{packed[0]}'" + (f" and {len(packed) - 1} more like it" if len(packed) > 1 else "")
        return f"it holds packed {method or 'quantised'} weights ({shown})"
    if method and method not in _KNOWN_METHODS:
        return f"its config.json says quant_method: {method}"
    return None
