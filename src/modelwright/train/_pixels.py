"""How networks take images in. This module needs torch."""

from __future__ import annotations

from torch import Tensor


def centred(pixels: Tensor) -> Tensor:
    """Images (n, side, side, channels), bytes or floats in [0, 1], as floats (n, channels, side, side) in [-1, 1]."""
    values = pixels if pixels.is_floating_point() else pixels.float() / 255
    return (2 * values - 1).permute(0, 3, 1, 2)
