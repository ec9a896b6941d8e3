"""Formats whose tensors are not numbers yet."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from modelwright.architectures._json import level
from modelwright.architectures._tied import TEXT_LEVELS

#: A float8 tensor `x.weight` is de-quantised by multiplying with one of these, element, row or block wise.
SCALE_SUFFIXES = ("_scale_inv", "_scale")

#: Tensors that only packed formats have: GPTQ, AWQ, bitsandbytes, compressed-tensors, HQQ, quanto, AQLM, EXL2 and EXL3.
_PACKED = re.compile(
    r"\.(qweight|qzeros|g_idx|absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\S+|weight_packed|"
    r"weight_shape|SCB|weight_format|scales_and_zeros|W_q|_data|_qdata|codebooks|q_weight|q_invperm|trellis)$"
)
_MXFP4 = re.compile(r"_blocks$")
#: The one kind that is undone here: float8 with scales.
_KNOWN_METHODS = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "finegrained_fp8")


def quantization_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a configuration says of quantisation, wherever it says it; empty where it says nothing."""
    for where in ((), *((key,) for key in TEXT_LEVELS)):
        for key in ("quantization_config", "compression_config"):
            if settings := level(config, *where, key):
                return settings
    return {}


def scale_names(name: str) -> tuple[str, ...]:
    """What the scale of a quantised tensor may be called."""
    module = name.removesuffix(".weight")
    dotted = (f"{module}.scale", f"{module}.weight.scale") if module != name else ()
    return (*(name + suffix for suffix in SCALE_SUFFIXES), *dotted)


def unsupported_quantization(
    config: Mapping[str, Any], names: Iterable[str], integers: Collection[str] = ()
) -> str | None:
    """Why a checkpoint's tensors cannot be read as numbers, or None.

    Args:
        config: The model's configuration.
        names: All tensor names.
        integers: Those of the tensors that hold integers: beside a scale they are codes.
    """
    method = str(quantization_settings(config).get("quant_method", ""))
    known = dict.fromkeys(names)
    packed = [name for name in known if _PACKED.search(name) or _mxfp4(name, known) or _coded(name, known, integers)]
    if packed:
        shown = f"'{packed[0]}'" + (f" and {len(packed) - 1} more like it" if len(packed) > 1 else "")
        return f"it holds packed {method or 'quantised'} weights ({shown})"
    if method and method not in _KNOWN_METHODS:
        return f"its config.json says quant_method: {method}"
    return None


def _mxfp4(name: str, known: Mapping[str, Any]) -> bool:
    return bool(_MXFP4.search(name)) and _MXFP4.sub("_scales", name) in known


def _coded(name: str, known: Mapping[str, Any], integers: Collection[str]) -> bool:
    return name in integers and any(scale in known for scale in (*scale_names(name), f"{name}_scales"))
