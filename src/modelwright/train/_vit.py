"""A small vision transformer. This module needs torch; `build` imports it when a network is asked for."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from modelwright.train._pixels import standardised


class VitConfig(BaseModel):
    """The shape of a `ViT`, under the names that transformers has for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_type: str = "modelwright-vit"
    image_size: int = Field(32, ge=1, description="Pixels along each side.")
    num_channels: int = Field(3, ge=1, description="Channels of a pixel.")
    patch_size: int = Field(8, ge=1, description="Pixels along each side of a patch; it divides image_size.")
    hidden_size: int = Field(96, ge=1, description="Width; a multiple of num_attention_heads.")
    intermediate_size: int = Field(192, ge=1, description="Width inside the perceptrons.")
    num_hidden_layers: int = Field(4, ge=1, description="How many layers there are.")
    num_attention_heads: int = Field(4, ge=1, description="Heads of attention in each.")


class ViT(nn.Module):
    """Images to features: patches, pre-norm transformer layers, the mean over the patches.

    Positions are learnt. There is no class token and no dropout. Every matrix is a `Linear` of its own, so that what
    collects statistics of layers sees each of them.

    Args:
        config: Its shape.

    Source:
        Dosovitskiy et al. 2021, arXiv:2010.11929; the mean over patches as in Beyer et al. 2022, arXiv:2205.01580.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        self.config = config
        patches = (config.image_size // config.patch_size) ** 2
        self.patch = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size)
        self.position = nn.Parameter(torch.zeros(patches, config.hidden_size))
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    @property
    def width(self) -> int:
        """Numbers in a feature."""
        return self.config.hidden_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (n, hidden_size) of images (n, side, side, channels), uint8 in [0, 255] or floats in [0, 1]."""
        images, side = standardised(pixels), self.config.patch_size
        patches = nn.functional.unfold(images, side, stride=side).transpose(1, 2)
        values = self.patch(patches) + self.position
        for layer in self.layers:
            values = layer(values)
        return self.norm(values).mean(dim=1)


class _Layer(nn.Module):
    def __init__(self, config: VitConfig):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp_norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, values: Tensor) -> Tensor:
        values = values + self._attention(self.attention_norm(values))
        return values + self.down(nn.functional.gelu(self.up(self.mlp_norm(values))))

    def _attention(self, values: Tensor) -> Tensor:
        n, tokens, width = values.shape
        parts = (f(values).view(n, tokens, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed: Any = nn.functional.scaled_dot_product_attention(*parts)
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, width))


def start_vit(network: ViT, generator: torch.Generator) -> None:
    """Initial weights: normal with standard deviation fan_in ** -0.5, smaller where layers add up; biases zero."""
    layers = network.config.num_hidden_layers
    with torch.no_grad():
        network.position.normal_(0, 0.02, generator=generator)
        for name, part in network.named_modules():
            if isinstance(part, nn.Linear):
                last = name.rpartition(".")[2]
                shrink = (2 * layers) ** -0.5 if last in ("out", "down") else 1.0
                part.weight.normal_(0, shrink * part.in_features**-0.5, generator=generator)
                part.bias.zero_()
