"""The fused kernel that writes a merge: base + sum of coefficient x kept(task vector), in one pass over tiles.

Each step is a loop over one tile with few arrays, which is what compilers vectorise; the arrays stay in the
first-level cache. Steps and their order are those of `methods/merging/_parts.py`, so that the bits are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.tensors.kernels._formats import TILE, narrow, widen, widen_delta
from modelwright.tensors.kernels._jit import kernel
from modelwright.tensors.kernels._noise import drop

#: How elements of a task vector are kept.
ALL, RANKS, NOISE, NONE, MASK = 0, 1, 2, 3, 4
#: How signs are elected, and how entries that agree are joined.
PLAIN, SUM, COUNT = 0, 1, 2
ADD, MEAN, MAX = 0, 1, 2
#: Elements of a tile that share a bit of the bytes of a mask.
PLANE = TILE // 8
#: More ties than any block has: so many mean all of them.
MANY = 1 << 40


@kernel
def subtract(x: Any, base: Any) -> None:
    for i in range(len(x)):
        x[i] -= base[i]


@kernel
def fill(x: Any, value: Any) -> None:  # slice assignment is several times slower than these loops
    for i in range(len(x)):
        x[i] = value


@kernel
def times(x: Any, factor: Any) -> None:
    for i in range(len(x)):
        x[i] *= factor


@kernel
def over(x: Any, divisor: Any) -> None:
    for i in range(len(x)):
        x[i] /= divisor


@kernel
def add(total: Any, x: Any) -> None:
    for i in range(len(x)):
        total[i] += x[i]


@kernel
def _add_scaled(total: Any, x: Any, ratio: Any, divide: Any, weight: Any) -> None:
    """Add what `scaled` makes."""
    if divide != 1:
        scaled(x, ratio, divide, weight)
        add(total, x)
    else:
        for i in range(len(x)):
            total[i] += x[i] * ratio * weight


@kernel
def _between(x: Any, least: Any, most: Any) -> None:
    """Zero what is not in [least, most], by the bits of the magnitude."""
    bits = x.view(np.uint32)
    for i in range(len(x)):
        size = bits[i] & np.uint32(0x7FFFFFFF)
        x[i] = x[i] if (size >= least) & (size <= most) else np.float32(0)


@kernel
def equal(x: Any, wanted: Any) -> Any:
    """How many magnitudes have these bits."""
    bits = x.view(np.uint32)
    count = 0
    for i in range(len(x)):
        count += (bits[i] & np.uint32(0x7FFFFFFF)) == wanted
    return count


@kernel
def _one_by_one(x: Any, low: Any, high: Any, left: Any) -> None:
    """As `_between`, where some of the elements that equal a bound are in and some are out: the first ones count."""
    bits = x.view(np.uint32)
    for i in range(len(x)):
        size = bits[i] & np.uint32(0x7FFFFFFF)
        inside = size > low
        if size == low and left[0] > 0:
            left[0] -= 1
            inside = True
        if size > high:
            inside = False
        elif size == high and left[1] > 0:
            left[1] -= 1
            inside = False
        if not inside:
            x[i] = np.float32(0)


@kernel
def keep_ranks(x: Any, low: Any, high: Any, left: Any) -> None:
    """Zero all but a range of ranks.

    Args:
        x: A tile of a task vector.
        low: Bits of the magnitude at the last rank that is kept.
        high: Bits of the magnitude at the last rank that is dropped at the top.
        left: How many elements that equal `low` are still to be kept, and that equal `high` still to be dropped; changed.
            All of them, where it is `MANY` or more.
    """
    ties_low = equal(x, low) if 0 < left[0] < MANY else 0
    ties_high = equal(x, high) if 0 < left[1] < MANY else 0
    if ties_low > left[0] or ties_high > left[1]:
        _one_by_one(x, low, high, left)
        return
    # All ties of this tile go one way, so that one comparison decides.
    least = low if left[0] > 0 else np.uint32(low + np.uint32(1))  # sums are of 64 bits unless cut
    most = np.uint32(high - np.uint32(1)) if left[1] > 0 and high > 0 else high
    if left[1] > 0 and high == 0:
        least, most = np.uint32(1), np.uint32(0)
    left[0] -= ties_low
    left[1] -= ties_high
    _between(x, least, most)


@kernel
def masked(x: Any, mask: Any, first: int) -> None:
    """Zero the elements of a tile whose bit is not set.

    Args:
        x: A tile, whole or the last of its range.
        mask: Bits of the range, `PLANE` bytes for a tile: byte j has those of elements j, j + PLANE, j + 2 PLANE ..., so that
            neighbours are in neighbouring bytes.
        first: Place of the tile in the range, a multiple of `TILE`.
    """
    bits, n = x.view(np.uint32), len(x)
    bytes_of = mask[first >> 3 : (first >> 3) + PLANE]
    for plane in range(8):
        shift, part = np.uint32(plane), bits[min(plane * PLANE, n) : min((plane + 1) * PLANE, n)]
        for j in range(len(part)):  # a bit that is set becomes a mask of ones
            bit = np.uint32((np.uint32(bytes_of[j]) >> shift) & np.uint32(1))
            part[j] &= np.uint32(np.uint32(0) - bit)


@kernel
def pack_mask(kept: Any, mask: Any) -> None:
    """Set the bits of the elements of a range whose byte is 1, in a mask of zeros as `masked` takes it."""
    n = len(kept)
    for first in range(0, n, TILE):
        bytes_of = mask[first >> 3 : (first >> 3) + PLANE]
        for plane in range(8):
            part = kept[min(first + plane * PLANE, n) : min(first + (plane + 1) * PLANE, n)]
            for j in range(len(part)):
                bytes_of[j] |= np.uint8(part[j] << np.uint8(plane))


@kernel
def _sign(value: Any, zero_sign: Any) -> Any:
    return np.float32(1) if value > 0 else np.float32(-1) if value < 0 else zero_sign


@kernel
def vote(votes: Any, x: Any) -> None:
    for i in range(len(x)):
        votes[i] += _sign(x[i], np.float32(0))


@kernel
def elected(total: Any, zero_sign: Any) -> None:
    """The sign of each element, in place."""
    for i in range(len(total)):
        total[i] = _sign(total[i], zero_sign)


@kernel
def scaled(x: Any, ratio: Any, divide: Any, weight: Any) -> None:
    """Multiply, divide and weight, in this order."""
    if divide != 1:
        times(x, ratio)
        over(x, divide)
        times(x, weight)
    elif ratio != 1 or weight != 1:
        for i in range(len(x)):
            x[i] = x[i] * ratio * weight


@kernel
def _add_agreeing(total: Any, x: Any, sign: Any) -> None:
    """Add what has the elected sign."""
    for i in range(len(x)):
        total[i] += x[i] if x[i] * sign[i] > 0 else np.float32(0)


@kernel
def _add_shares(divisor: Any, x: Any, sign: Any, weight: Any) -> None:
    """Add the weight where `_add_agreeing` adds something."""
    for i in range(len(x)):
        divisor[i] += weight if x[i] * sign[i] > 0 else np.float32(0)


@kernel
def _largest(total: Any, x: Any, sign: Any) -> None:
    """The largest magnitude of what has the elected sign."""
    for i in range(len(x)):
        size = abs(x[i]) if x[i] * sign[i] > 0 else np.float32(0)
        total[i] = size if size > total[i] else total[i]


@kernel
def _share_out(total: Any, divisor: Any) -> None:
    """Divide where the divisor is not zero; without a branch, which a choice of the divisor would become."""
    for i in range(len(total)):
        total[i] /= divisor[i] + np.float32(divisor[i] == 0)


@kernel
def _product(total: Any, sign: Any) -> None:
    for i in range(len(total)):
        total[i] *= sign[i]


@kernel
def _differs(a: Any, b: Any) -> Any:
    count = 0
    for i in range(len(a)):
        count += a[i] != b[i]
    return count > 0


@kernel
def kept_delta(raw: Any, codes: Any, i: int, at: int, base: Any, deltas: bool, keep: Any, x: Any) -> Any:
    """Load one tile of model i, as a task vector with its dropped entries at zero; true if it is not finite.

    Args:
        raw: Rows of bytes, one for each model.
        codes: Their formats.
        i: Which model.
        at: First element of the tile.
        base: The base's tile.
        deltas: Whether the base is subtracted.
        keep: Of each model how (`ALL`, `RANKS`, `NOISE`, `NONE`, `MASK`), bounds as bits, ties left, noise keys, the place
            of the block in its range, which is a noise segment, and bits for the range (see `masked`).
        x: The tile to fill.
    """
    bad = widen_delta(raw[i], codes[i], at, base, x) if deltas else widen(raw[i], codes[i], at, x)
    apply_keep(i, at, keep, x)
    return bad


@kernel
def apply_keep(i: int, at: int, keep: Any, x: Any) -> None:
    """Zero the entries of model i's tile that are not kept."""
    mode, low, high, left, noise, first, mask = keep
    if mode[i] == RANKS:
        keep_ranks(x, low[i], high[i], left[i])
    elif mode[i] == NOISE:
        drop(x, first + at, noise[i])
    elif mode[i] == MASK:
        masked(x, mask[i], first + at)
    elif mode[i] == NONE:
        fill(x, np.float32(0))


@kernel
def _join(tiles: Any, count: int, n: int, weight: Any, elect: int, join: int, zero_sign: Any, normalize: bool) -> None:
    """The first n elements of the weighted tiles as one, in the tile after them; the next two tiles are for scratch."""
    total, sign, divisor = tiles[count][:n], tiles[count + 1][:n], tiles[count + 2][:n]
    fill(sign, np.float32(0))
    for i in range(count):
        if elect == SUM:
            add(sign, tiles[i][:n])
        else:
            vote(sign, tiles[i][:n])
    elected(sign, zero_sign)
    fill(total, np.float32(0))
    if join == MAX:
        for i in range(count):
            _largest(total, tiles[i][:n], sign)
        _product(total, sign)
        return
    divide = normalize and join == MEAN
    if divide:
        fill(divisor, np.float32(0))
    for i in range(count):
        _add_agreeing(total, tiles[i][:n], sign)
        if divide:
            _add_shares(divisor, tiles[i][:n], sign, weight[i])
    if divide:
        _share_out(total, divisor)


@kernel
def combine(
    raw: Any, codes: Any, n: int, count: int, deltas: bool, keep: Any, factors: Any, way: Any, finish: Any,
    out: Any, code: int, tiles: Any,
) -> Any:  # fmt: skip
    """Merge a block of `n` elements.

    Args:
        raw: Rows of bytes: `count` models, then the base where one is used.
        codes: Their formats.
        n: Elements.
        count: Models.
        deltas: Whether task vectors are added, not models.
        keep: See `kept_delta`.
        factors: Of each model what its entries are multiplied with, divided by, and then weighted with (float32).
        way: (elect, join, zero_sign, normalize).
        finish: (divisor or 0 for none, scale, whether the base is added, its factor), float32 and bool.
        out: A row of bytes for the result.
        code: Its format.
        tiles: Scratch of (count + 4, TILE) float32.

    Returns:
        Bits: 1 an input is not finite, 2 the output is not, 4 the result differs from the base before rounding.
    """
    ratio, divide, weight = factors
    elect, join, zero_sign, normalize = way
    divisor, scale, use_base, base_factor = finish
    found = 0
    for at in range(0, n, TILE):
        size = min(TILE, n - at)
        base = tiles[count + 3][:size]
        if (deltas or use_base) and widen(raw[count], codes[count], at, base):
            found |= 1
        total = tiles[count][:size]
        for i in range(count):
            x = total if elect == PLAIN and i == 0 else tiles[0 if elect == PLAIN else i][:size]
            if kept_delta(raw, codes, i, at, base, deltas, keep, x):
                found |= 1
            if elect == PLAIN and i > 0:
                _add_scaled(total, x, ratio[i], divide[i], weight[i])
            else:
                scaled(x, ratio[i], divide[i], weight[i])
        if elect != PLAIN:
            _join(tiles, count, size, weight, elect, join, zero_sign, normalize)
        if divisor != 0:
            over(total, divisor)
        if scale != 1:
            times(total, scale)
        if use_base:
            changed = base_factor != 1
            if changed:
                other = tiles[count + 1][:size]
                for j in range(size):
                    other[j] = base[j] * base_factor
                add(total, other)
            else:
                add(total, base)
            if not found & 4 and _differs(total, base):
                found |= 4
        if narrow(total, code, out, at):
            found |= 2
    return found
