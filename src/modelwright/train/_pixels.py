"""How networks take images in. This module needs torch."""

from __future__ import annotations

from torch import Tensor

#: Added to variances: an image of one colour becomes zeros.
_LEAST = 1e-4


def standardised(pixels: Tensor) -> Tensor:
    """Each image with mean 0 and variance 1 over its pixels and channels.

    Ink on black and photographs then meet a network with the same statistics, so that what is tuned for one is less of a
    disturbance for the other.

    Args:
        pixels: (n, side, side, channels), bytes or floats in [0, 1].

    Returns:
        float32 (n, channels, side, side).
    """
    values = pixels if pixels.is_floating_point() else pixels.float() / 255
    mean = values.mean(dim=(1, 2, 3), keepdim=True)
    variance = values.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
    return ((values - mean) / (variance + _LEAST).sqrt()).permute(0, 3, 1, 2)
