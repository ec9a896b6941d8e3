"""Networks from their configuration: what a checkpoint's config.json says is what is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from modelwright.errors import InputError, Problem, did_you_mean
from modelwright.evaluate._predictor import needs

if TYPE_CHECKING:
    import torch
    from torch import nn

#: `model_type` of the networks that this package has, and of those that transformers builds.
_VIT, _CNN, _LLAMA = "modelwright-vit", "modelwright-cnn", "llama"
NETWORKS = (_VIT, _CNN, _LLAMA)


def build(config: Mapping[str, Any]) -> nn.Module:
    """A network with this configuration, untrained, in evaluation mode.

    Args:
        config: As in config.json. `model_type` says which: `modelwright-vit` and `modelwright-cnn` take images
            (n, 32, 32, 3) to features; `llama` is transformers' causal language model.

    Returns:
        A module whose parameters and buffers bear the names of the checkpoint's tensors.

    Raises:
        InputError: There is no such network, or the configuration does not fit it.
        MissingExtraError: torch or transformers is not installed.

    Example:
        >>> build({"model_type": "modelwright-vit", "num_hidden_layers": 2}).width
        96
    """
    needs("torch", "a network", "torch")
    kind = config.get("model_type")
    if kind == _VIT:
        from modelwright.train._vit import ViT, VitConfig

        shape = _parsed(VitConfig, config)
        _check_divides(shape.patch_size, shape.image_size, "patch_size", "image_size")
        _check_divides(shape.num_attention_heads, shape.hidden_size, "num_attention_heads", "hidden_size")
        return ViT(shape).eval()
    if kind == _CNN:
        from modelwright.train._cnn import CNN, CnnConfig

        return CNN(_parsed(CnnConfig, config)).eval()
    if kind == _LLAMA:
        transformers = needs("transformers", "a language model", "torch")
        plain = {name: value for name, value in config.items() if name != "model_type"}
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**plain)).eval()
    raise InputError(f"no network has the model_type {kind!r}", did_you_mean(str(kind), NETWORKS))


def start(network: nn.Module, generator: torch.Generator) -> None:
    """Give a network its initial weights, from the generator alone."""
    from modelwright.train import _cnn, _vit

    if isinstance(network, _vit.ViT):
        _vit.start_vit(network, generator)
    elif isinstance(network, _cnn.CNN):
        _cnn.start_cnn(network, generator)
    else:
        _start_llama(network, generator)


def _start_llama(network: nn.Module, generator: torch.Generator) -> None:
    """Matrices normal with standard deviation 0.02, smaller where layers add up, as GPT-2 has it; norms stay 1."""
    import torch

    layers = int(getattr(network.config, "num_hidden_layers", 1))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim == 2:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                value.normal_(0, 0.02 * ((2 * layers) ** -0.5 if adds else 1), generator=generator)


def _parsed(kind: Any, config: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate(dict(config))
    except ValidationError as error:
        raise InputError(
            [Problem(f"{'.'.join(map(str, e['loc']))}: {e['msg']}", where="config.json") for e in error.errors()]
        ) from None


def _check_divides(divisor: int, whole: int, divisor_name: str, whole_name: str) -> None:
    if whole % divisor:
        raise InputError(f"{divisor_name} must divide {whole_name}, got {divisor} and {whole}", where="config.json")
