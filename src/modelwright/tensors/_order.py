"""Order statistics with one tie rule everywhere: among equal values the lowest flat index ranks first."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.tensors._arrays import Array, is_numpy, namespace


def keep_ranks(magnitude: Array, start: int, stop: int) -> Array:
    """Which elements have a descending rank in [start, stop), by index so that counts are exact.

    Args:
        magnitude: Non-negative values, shape (..., n); ranks are taken along the last axis.
        start: First rank kept, 0 being the largest value; 0 <= start.
        stop: One past the last rank kept; clipped to n.

    Returns:
        Boolean array of the same shape with exactly max(0, min(stop, n) - start) true values per row.
    """
    n = magnitude.shape[-1]
    stop = min(stop, n)
    xp = namespace(magnitude)
    if stop <= start:
        return xp.zeros_like(magnitude, dtype=xp.bool)
    if start == 0 and stop == n:
        return xp.ones_like(magnitude, dtype=xp.bool)
    if is_numpy(magnitude):
        return _keep_numpy(magnitude, start, stop)
    rank = descending_ranks(magnitude)
    return (rank >= start) & (rank < stop)


def descending_ranks(magnitude: Array) -> Array:
    """The rank of each element along the last axis: 0 for the largest, of equal ones for the lowest index.

    Args:
        magnitude: Non-negative values, shape (..., n).

    Returns:
        Integers of the same shape.
    """
    xp = namespace(magnitude)
    # A sort has no gradient to give, and ranks need none.
    if is_numpy(magnitude):
        order = np.argsort(-magnitude, axis=-1, stable=True)
    else:
        order = xp.argsort(magnitude, axis=-1, descending=True, stable=True)
    return xp.argsort(order, axis=-1, stable=True)


def _keep_numpy(magnitude: Array, start: int, stop: int) -> Array:
    """The same by selection instead of sorting: linear time, and the memory of one copy."""
    shape: tuple[int, ...] = magnitude.shape
    rows = magnitude.reshape(-1, shape[-1])
    keep = np.empty((len(rows), shape[-1]), dtype=bool)
    for row, out in zip(rows, keep, strict=True):
        np.logical_and(_first(row, stop), ~_first(row, start), out=out)
    return keep.reshape(shape)


def _first(row: Array, count: int) -> Array:
    """The `count` largest of one row; equal values at the threshold go to the lowest indices."""
    if count <= 0:
        return np.zeros(row.shape, dtype=bool)
    if count >= row.size:
        return np.ones(row.shape, dtype=bool)
    threshold: Any = np.partition(row, row.size - count)[row.size - count]
    keep: Any = row > threshold
    ties = np.flatnonzero(row == threshold)
    keep[ties[: count - int(np.count_nonzero(keep))]] = True
    return keep


def keep_above(magnitude: Array, threshold: float, ties: int | None) -> Array:
    """Which elements exceed a threshold found elsewhere, with the first `ties` of those that equal it.

    Args:
        magnitude: Non-negative values, any shape.
        threshold: Exact value; elements above it are kept.
        ties: How many of the elements equal to it are kept, lowest flat index first; None keeps all of them.
    """
    xp = namespace(magnitude)
    equal = magnitude == threshold
    if ties is not None:
        flat = xp.reshape(equal, (-1,))
        before = xp.cumulative_sum(xp.astype(flat, xp.int64))
        equal = xp.reshape(flat & (before <= ties), equal.shape)
    return (magnitude > threshold) | equal
