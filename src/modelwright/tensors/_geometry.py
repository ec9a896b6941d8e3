"""Dot products and norms that do not depend on threads: float64 pairwise sums, never BLAS."""

from __future__ import annotations

from modelwright.tensors._arrays import Array, namespace


def dot(a: Array, b: Array) -> Array:
    """Sum of a * b over all elements, in float64. Shapes equal; returns a 0-d float64 array."""
    xp = namespace(a, b)
    return xp.sum(xp.astype(a, xp.float64) * xp.astype(b, xp.float64))


def norm(a: Array) -> Array:
    """Euclidean norm over all elements, in float64."""
    return _root(dot(a, a))


def row_dot(a: Array, b: Array) -> Array:
    """Sum of a * b along the last axis, kept as an axis of length 1, in float64."""
    xp = namespace(a, b)
    return xp.sum(xp.astype(a, xp.float64) * xp.astype(b, xp.float64), axis=-1, keepdims=True)


def row_norm(a: Array) -> Array:
    """Euclidean norm along the last axis, kept as an axis of length 1, in float64."""
    return _root(row_dot(a, a))


def _root(square: Array) -> Array:
    """Square root with gradient 0 at 0, where the true one is infinite and would turn into NaN further back."""
    xp = namespace(square)
    positive = square > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, square, xp.ones_like(square))), xp.zeros_like(square))
