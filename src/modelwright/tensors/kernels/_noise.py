"""Keyed noise inside a kernel: the same numbers as `tensors.uniform`, as 32 random bits an element."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.tensors.kernels._jit import kernel


@kernel
def _mixed(x: Any) -> Any:
    """A bijection of 32 bits whose every output bit depends on every input bit (`tensors/_noise.py` names the source)."""
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))  # numba widens sums and products of 32 bits to 64
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel
def bits_of(out: Any, first: int, key: Any) -> None:
    """The random bits of elements `first` and on of a segment.

    Args:
        out: For the result.
        first: Place in the segment.
        key: Two words.
    """
    start, second = np.uint32(np.uint32(first) + key[0]), key[1]
    for i in range(len(out)):
        out[i] = _mixed(np.uint32(_mixed(np.uint32(start + np.uint32(i))) ^ second))


@kernel
def drop(x: Any, first: int, key: Any) -> None:
    """Zero the elements whose noise reaches a threshold.

    Args:
        x: Elements `first` and on of a segment.
        first: Place in the segment.
        key: Two words, then the threshold: 32 random bits below it keep the element.
    """
    start, second, threshold = np.uint32(np.uint32(first) + key[0]), key[1], key[2]
    for i in range(len(x)):
        bits = _mixed(np.uint32(_mixed(np.uint32(start + np.uint32(i))) ^ second))
        x[i] = x[i] if bits < threshold else np.float32(0)
