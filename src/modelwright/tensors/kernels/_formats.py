"""Widening stored numbers to float32 and rounding float32 to storage, one tile at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.tensors.kernels._jit import kernel

#: What the kernels call the formats they read and write.
F32, F16, BF16 = 0, 1, 2
#: Elements that are worked on together: a few arrays of them stay in the first-level cache.
TILE = 1024


@kernel
def widen(raw: Any, code: int, at: int, out: Any) -> Any:
    """Read `len(out)` numbers of a format from element `at` of a row of bytes; true if one is not finite."""
    n = len(out)
    bits = out.view(np.uint32)
    largest = np.uint32(0)
    if code == BF16:
        half = raw.view(np.uint16)[at : at + n]
        for i in range(n):
            bits[i] = np.uint32(half[i]) << np.uint32(16)
        return _exceeds(half, np.uint16(0x7F7F))
    elif code == F32:
        single = raw.view(np.uint32)[at : at + n]
        for i in range(n):
            bits[i] = single[i]
    else:
        half = raw.view(np.uint16)[at : at + n]
        for i in range(n):
            h = np.uint32(half[i])
            bits[i] = (h & np.uint32(0x7FFF)) << np.uint32(13)
        for i in range(n):  # exponents are 112 apart; the product is exact, subnormal numbers included
            out[i] *= np.float32(2.0**112)
        for i in range(n):
            h = np.uint32(half[i])
            special = np.uint32(0x7F800000) if (h & np.uint32(0x7C00)) == np.uint32(0x7C00) else np.uint32(0)
            bits[i] |= special | ((h & np.uint32(0x8000)) << np.uint32(16))
    for i in range(n):
        size = np.uint32(bits[i] & np.uint32(0x7FFFFFFF))
        largest = size if size > largest else largest
    return largest >= np.uint32(0x7F800000)


@kernel
def widen_delta(raw: Any, code: int, at: int, base: Any, out: Any) -> Any:
    """As `widen`, and subtract the base."""
    n = len(out)
    if code == BF16:  # in one loop: what is written twice takes twice as long
        half = raw.view(np.uint16)[at : at + n]
        for i in range(n):
            out[i] = np.uint32(np.uint32(half[i]) << np.uint32(16)).view(np.float32) - base[i]
        return _exceeds(half, np.uint16(0x7F7F))
    bad = widen(raw, code, at, out)
    for i in range(n):
        out[i] -= base[i]
    return bad


@kernel
def _exceeds(half: Any, most: Any) -> Any:
    """Whether a magnitude is above the largest finite number, of 16-bit formats."""
    top = np.uint16(0)
    for i in range(len(half)):  # `max` would be of 64 bits, and a quarter as many to a vector
        size = np.uint16(half[i] & np.uint16(0x7FFF))
        top = size if size > top else top
    return top > most


@kernel
def narrow(tile: Any, code: int, raw: Any, at: int) -> Any:
    """Round a tile to nearest, ties to even, into a row of bytes from element `at` on; true if one is not finite."""
    n = len(tile)
    bits = tile.view(np.uint32)
    largest = np.uint32(0)
    if code == BF16:
        half = raw.view(np.uint16)[at : at + n]
        for i in range(n):
            half[i] = np.uint16(
                (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            )
        return _exceeds(half, np.uint16(0x7F7F))
    if code == F32:
        single = raw.view(np.uint32)[at : at + n]
        for i in range(n):
            size = np.uint32(bits[i] & np.uint32(0x7FFFFFFF))
            largest = size if size > largest else largest
            single[i] = bits[i]
        return largest >= np.uint32(0x7F800000)
    half = raw.view(np.uint16)[at : at + n]
    for i in range(n):
        half[i] = _to_half(bits[i])
    return _exceeds(half, np.uint16(0x7BFF))


@kernel
def _to_half(bits: Any) -> Any:
    """One float32 as float16, from and to bit patterns."""
    size = bits & np.uint32(0x7FFFFFFF)
    sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
    normal = (size + np.uint32(0xC8000FFF) + ((size >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
    # Below 2**-14 the spacing is constant: rounding is what adding a number of that spacing does.
    shift = np.uint32(126) - (size >> np.uint32(23))
    shift = min(shift, np.uint32(25))
    mantissa = (size & np.uint32(0x7FFFFF)) | np.uint32(0x800000)
    down = mantissa >> shift
    rest = mantissa & ((np.uint32(1) << shift) - np.uint32(1))
    middle = np.uint32(1) << (shift - np.uint32(1))
    up = np.uint32(1) if (rest > middle or (rest == middle and (down & np.uint32(1)) == 1)) else np.uint32(0)
    small = down + up
    half = normal if size >= np.uint32(0x38800000) else small
    half = np.uint32(0x7C00) if size >= np.uint32(0x47800000) else half
    return np.uint16(half | sign)
