"""A small convolutional network with batch normalisation. This module needs torch; `build` imports it."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from modelwright.train._pixels import standardised


class CnnConfig(BaseModel):
    """The shape of a `CNN`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_type: str = "modelwright-cnn"
    image_size: int = Field(32, ge=8, description="Pixels along each side.")
    num_channels: int = Field(3, ge=1, description="Channels of a pixel.")
    hidden_size: int = Field(96, ge=4, multiple_of=4, description="Channels at the end; half before, a quarter first.")
    num_hidden_layers: int = Field(6, ge=3, multiple_of=3, description="Convolutions, a third of them of each width.")


class CNN(nn.Module):
    """Images to features: 3x3 convolutions in three stages that halve the image, the mean over positions.

    Each convolution is followed by batch normalisation and a ReLU; those that keep their shape are added to what they
    were given. The running statistics of the normalisation are buffers, and as such part of a checkpoint.

    Args:
        config: Its shape.

    Source:
        He et al. 2016, arXiv:1512.03385, in small; Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    def __init__(self, config: CnnConfig):
        super().__init__()
        self.config = config
        widths = (config.hidden_size // 4, config.hidden_size // 2, config.hidden_size)
        layers: list[nn.Module] = []
        before = config.num_channels
        for width in widths:
            for i in range(config.num_hidden_layers // 3):
                layers.append(_Layer(before, width, stride=2 if i == 0 else 1))
                before = width
        self.layers = nn.ModuleList(layers)

    @property
    def width(self) -> int:
        """Numbers in a feature."""
        return self.config.hidden_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (n, hidden_size) of images (n, side, side, channels), uint8 in [0, 255] or floats in [0, 1]."""
        values = standardised(pixels)
        for layer in self.layers:
            values = layer(values)
        return values.mean(dim=(2, 3))


class _Layer(nn.Module):
    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.adds = stride == 1

    def forward(self, values: Tensor) -> Tensor:
        found = nn.functional.relu(self.norm(self.conv(values)))
        return values + found if self.adds else found


def start_cnn(network: CNN, generator: torch.Generator) -> None:
    """Initial weights: He's for the convolutions; normalisation starts as the identity."""
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                fan_in = part.in_channels * part.kernel_size[0] * part.kernel_size[1]
                part.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
