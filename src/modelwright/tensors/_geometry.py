"""Dot products and norms that do not depend on threads or memory layout: float64 pairwise sums, never BLAS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from modelwright.tensors._arrays import Array, is_numpy, namespace

#: Elements per block of a reduction: float64 copies of one block stay in the cache, which is four times as fast as
#: copies of the whole. The size is part of the result's last bits, and so fixed.
_BLOCK = 1 << 15


def dot(a: Array, b: Array) -> Array:
    """Sum of a * b over all elements, in float64. Shapes equal; returns a 0-d float64 array."""
    if is_numpy(a):
        return _blocked_dot(np.ravel(a), np.ravel(b))
    return namespace(a, b).sum(_double(a) * _double(b))


def absolute_sum(a: Array) -> Array:
    """Sum of |a| over all elements (the L1 norm), in float64; a 0-d array."""
    if is_numpy(a):
        flat = np.ravel(a)
        return _total(np.sum(np.abs(flat[i : i + _BLOCK]), dtype=np.float64) for i in range(0, flat.size, _BLOCK))
    return namespace(a).sum(namespace(a).abs(_double(a)))


def norm(a: Array) -> Array:
    """Euclidean norm over all elements, in float64."""
    return _root(dot(a, a))


def row_dot(a: Array, b: Array) -> Array:
    """Sum of a * b along the last axis, kept as an axis of length 1, in float64."""
    if is_numpy(a) and a.shape[-1] >= _BLOCK:  # few and long rows
        rows = zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1]), strict=True)
        return np.stack([_blocked_dot(x, y) for x, y in rows]).reshape(*a.shape[:-1], 1)
    return namespace(a, b).sum(_double(a) * _double(b), axis=-1, keepdims=True)


def row_norm(a: Array) -> Array:
    """Euclidean norm along the last axis, kept as an axis of length 1, in float64."""
    return _root(row_dot(a, a))


def _blocked_dot(a: Array, b: Array) -> Array:
    def product(i: int) -> Any:
        block = a[i : i + _BLOCK].astype(np.float64)
        block *= b[i : i + _BLOCK]
        return np.sum(block)

    return _total(product(i) for i in range(0, a.size, _BLOCK))


def _total(parts: Iterable[Any]) -> Array:
    return np.asarray(np.sum(np.fromiter(parts, np.float64)))


def _double(a: Array) -> Array:
    """In float64 and, on numpy, in row-major order: numpy adds up in the order of the memory."""
    if is_numpy(a):
        return np.asarray(a, dtype=np.float64, order="C")
    xp = namespace(a)
    return xp.astype(a, xp.float64, copy=False)


def _root(square: Array) -> Array:
    """Square root with gradient 0 at 0, where the true one is infinite and would turn into NaN further back."""
    xp = namespace(square)
    positive = square > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, square, xp.ones_like(square))), xp.zeros_like(square))
