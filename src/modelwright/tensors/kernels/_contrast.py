"""How models differ from a base and from each other, in one pass: dot products, zeros and signs of task vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.tensors.kernels._formats import TILE, widen, widen_delta
from modelwright.tensors.kernels._jit import kernel
from modelwright.tensors.kernels._statistics import BLOCK, joined, multiply_up


@kernel
def contrast(
    raw: Any, codes: Any, n: int, count: int, pairs: Any, sums: Any, lanes: Any, zeros: Any, signs: Any, tiles: Any
) -> Any:
    """Sums over the task vectors of `count` models; number `count` is the base itself.

    Args:
        raw: Rows of bytes: the models, then the base.
        codes: Their formats.
        n: Elements; a multiple of 2**15 but in the last block of a tensor.
        count: Models.
        pairs: Of which dot products are taken, (p, 2).
        sums: For the result: (p, blocks) float64, one sum for each 2**15 elements.
        lanes: Scratch of (p, LANES) float64, zero.
        zeros: Added to: entries of each task vector that are zero, (count,) int64.
        signs: Added to: for each pair how many entries are nonzero in both, and how many of these differ in sign,
            (p, 2) int64; nothing for pairs with the base or of one with itself.
        tiles: Scratch of (count + 1, TILE) float32.

    Returns:
        1 if an input is not finite.
    """
    found = 0
    for at in range(0, n, TILE):
        size = min(TILE, n - at)
        base = tiles[count][:size]
        if widen(raw[count], codes[count], at, base):
            found = 1
        for i in range(count):
            if widen_delta(raw[i], codes[i], at, base, tiles[i][:size]):
                found = 1
            zeros[i] += _zeros(tiles[i][:size])
        for p in range(len(pairs)):
            a = tiles[pairs[p, 0]][:size]
            b = tiles[pairs[p, 1]][:size]
            multiply_up(lanes[p], a, b)
            if pairs[p, 0] != pairs[p, 1] and pairs[p, 1] < count:
                both, against = _signs(a, b)
                signs[p, 0] += both
                signs[p, 1] += against
        if (at + size) % BLOCK == 0 or at + size == n:
            for p in range(len(pairs)):
                sums[p, at // BLOCK] = joined(lanes[p])
    return found


@kernel
def _zeros(x: Any) -> Any:
    count = np.uint32(0)
    for i in range(len(x)):
        count = np.uint32(count + np.uint32(x[i] == np.float32(0)))
    return np.int64(count)


@kernel
def _signs(x: Any, y: Any) -> Any:
    """How many entries are nonzero in both, and how many of these have opposite signs."""
    a = x.view(np.uint32)
    b = y.view(np.uint32)
    both = np.uint32(0)
    against = np.uint32(0)
    for i in range(len(x)):  # on bit patterns: a product could underflow
        here = np.uint32((x[i] != np.float32(0)) & (y[i] != np.float32(0)))
        both = np.uint32(both + here)
        against = np.uint32(against + (here & np.uint32((a[i] ^ b[i]) >> np.uint32(31))))
    return np.int64(both), np.int64(against)
