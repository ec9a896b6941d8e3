"""Dot products and norms that do not depend on threads or memory layout: float64 pairwise sums, never BLAS."""

from __future__ import annotations

import numpy as np

from modelwright.tensors._arrays import Array, is_numpy, namespace


def dot(a: Array, b: Array) -> Array:
    """Sum of a * b over all elements, in float64. Shapes equal; returns a 0-d float64 array."""
    return namespace(a, b).sum(_double(a) * _double(b))


def norm(a: Array) -> Array:
    """Euclidean norm over all elements, in float64."""
    return _root(dot(a, a))


def row_dot(a: Array, b: Array) -> Array:
    """Sum of a * b along the last axis, kept as an axis of length 1, in float64."""
    return namespace(a, b).sum(_double(a) * _double(b), axis=-1, keepdims=True)


def row_norm(a: Array) -> Array:
    """Euclidean norm along the last axis, kept as an axis of length 1, in float64."""
    return _root(row_dot(a, a))


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
