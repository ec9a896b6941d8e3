"""Dot products and norms that do not depend on threads, memory layout or CPU: float64 sums in a stated order, never BLAS.

The order: blocks of 2**15 elements; within one, element i goes to lane i mod 64, lanes are added up from left to right
and then joined by halves; the blocks' sums are added without any rounding but the last. The fused kernels
(`tensors/kernels/_statistics.py`) add in the same order and so give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from modelwright.tensors._arrays import Array, is_numpy, namespace

#: Elements per block of a reduction: float64 copies of one block stay in the cache, which is four times as fast as
#: copies of the whole. The sizes are part of the result's last bits, and so fixed.
_BLOCK = 1 << 15
_LANES = 64


def dot(a: Array, b: Array) -> Array:
    """Sum of a * b over all elements, in float64. Shapes equal; returns a 0-d float64 array."""
    if is_numpy(a):
        return _blocked_dot(np.ravel(a), np.ravel(b))
    return namespace(a, b).sum(_double(a) * _double(b))


def absolute_sum(a: Array) -> Array:
    """Sum of |a| over all elements (the L1 norm), in float64; a 0-d array."""
    if is_numpy(a):
        flat = np.ravel(a)
        return _total(_lanes(np.abs(flat[i : i + _BLOCK]).astype(np.float64)) for i in range(0, flat.size, _BLOCK))
    return namespace(a).sum(namespace(a).abs(_double(a)))


def norm(a: Array) -> Array:
    """Euclidean norm over all elements, in float64."""
    return root(dot(a, a))


def row_dot(a: Array, b: Array) -> Array:
    """Sum of a * b along the last axis, kept as an axis of length 1, in float64."""
    if is_numpy(a) and (a.shape[-1] >= _BLOCK or a.size == a.shape[-1] > 0):  # few and long rows, or a single one
        rows = zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1]), strict=True)
        return np.stack([_blocked_dot(x, y) for x, y in rows]).reshape(*a.shape[:-1], 1)
    return namespace(a, b).sum(_double(a) * _double(b), axis=-1, keepdims=True)


def row_norm(a: Array) -> Array:
    """Euclidean norm along the last axis, kept as an axis of length 1, in float64."""
    return root(row_dot(a, a))


def _blocked_dot(a: Array, b: Array) -> Array:
    def product(i: int) -> Any:
        block = a[i : i + _BLOCK].astype(np.float64)
        block *= b[i : i + _BLOCK]
        return _lanes(block)

    return _total(product(i) for i in range(0, a.size, _BLOCK))


def _lanes(block: Array) -> Any:
    """The sum of one block of float64."""
    whole = block.size - block.size % _LANES
    lanes = np.add.reduce(block[:whole].reshape(-1, _LANES), axis=0)  # row by row, each lane on its own
    lanes[: block.size - whole] += block[whole:]
    width = _LANES
    while width > 1:
        width //= 2
        lanes[:width] += lanes[width : 2 * width]
    return lanes[0]


def _total(parts: Iterable[Any]) -> Array:
    try:
        return np.asarray(math.fsum(parts))
    except (OverflowError, ValueError):  # infinities, which the caller refuses by name
        return np.asarray(np.nan)


def _double(a: Array) -> Array:
    """In float64 and, on numpy, in row-major order: numpy adds up in the order of the memory."""
    if is_numpy(a):
        return np.asarray(a, dtype=np.float64, order="C")
    xp = namespace(a)
    return xp.astype(a, xp.float64, copy=False)


def root(square: Array) -> Array:
    """Square root with gradient 0 at 0, where the true one is infinite and would turn into NaN further back."""
    xp = namespace(square)
    positive = square > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, square, xp.ones_like(square))), xp.zeros_like(square))
