"""What has to be known of a tensor before it is merged: dot products, norms, counts of ranks and of signs.

Sums are those of `tensors/_geometry.py` to the bit. Everything else is counted, so that it adds up in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.tensors.kernels._combine import (
    COUNT,
    add,
    apply_keep,
    elected,
    equal,
    fill,
    kept_delta,
    scaled,
    vote,
)
from modelwright.tensors.kernels._formats import TILE, widen, widen_delta
from modelwright.tensors.kernels._jit import kernel
from modelwright.tensors.kernels._pack import WIDTH, pack

#: As in `tensors/_geometry.py`.
BLOCK = 1 << 15
LANES = 64
#: Elements that are added up together: eight rows of lanes, so that lanes are loaded and stored once for all of them.
_EIGHT = 8 * LANES


@kernel
def multiply_up(lanes: Any, a: Any, b: Any) -> None:
    """Add the products of two tiles to the lanes, element i to lane i mod LANES."""
    n = len(a)
    whole, done = n - n % LANES, n - n % _EIGHT
    for i in range(0, done, _EIGHT):
        x = a[i : i + _EIGHT]
        y = b[i : i + _EIGHT]
        for j in range(LANES):
            lanes[j] = (
                lanes[j]
                + np.float64(x[j]) * np.float64(y[j])
                + np.float64(x[j + LANES]) * np.float64(y[j + LANES])
                + np.float64(x[j + 2 * LANES]) * np.float64(y[j + 2 * LANES])
                + np.float64(x[j + 3 * LANES]) * np.float64(y[j + 3 * LANES])
                + np.float64(x[j + 4 * LANES]) * np.float64(y[j + 4 * LANES])
                + np.float64(x[j + 5 * LANES]) * np.float64(y[j + 5 * LANES])
                + np.float64(x[j + 6 * LANES]) * np.float64(y[j + 6 * LANES])
                + np.float64(x[j + 7 * LANES]) * np.float64(y[j + 7 * LANES])
            )
    for i in range(done, whole, LANES):
        x = a[i : i + LANES]
        y = b[i : i + LANES]
        for j in range(LANES):
            lanes[j] += np.float64(x[j]) * np.float64(y[j])
    for j in range(n - whole):
        lanes[j] += np.float64(a[whole + j]) * np.float64(b[whole + j])


@kernel
def _add_up(lanes: Any, a: Any) -> None:
    n = len(a)
    whole, done = n - n % LANES, n - n % _EIGHT
    for i in range(0, done, _EIGHT):
        x = a[i : i + _EIGHT]
        for j in range(LANES):
            lanes[j] = (
                lanes[j]
                + np.float64(abs(x[j]))
                + np.float64(abs(x[j + LANES]))
                + np.float64(abs(x[j + 2 * LANES]))
                + np.float64(abs(x[j + 3 * LANES]))
                + np.float64(abs(x[j + 4 * LANES]))
                + np.float64(abs(x[j + 5 * LANES]))
                + np.float64(abs(x[j + 6 * LANES]))
                + np.float64(abs(x[j + 7 * LANES]))
            )
    for i in range(done, whole, LANES):
        x = a[i : i + LANES]
        for j in range(LANES):
            lanes[j] += np.float64(abs(x[j]))
    for j in range(n - whole):
        lanes[j] += np.float64(abs(a[whole + j]))


@kernel
def joined(lanes: Any) -> Any:
    """The sum of the lanes, by halves; they are zero afterwards."""
    width = LANES
    while width > 1:
        width //= 2
        for j in range(width):
            lanes[j] += lanes[j + width]
    total = lanes[0]
    for j in range(LANES):
        lanes[j] = 0.0
    return total


@kernel
def _load(raw: Any, codes: Any, count: int, at: int, size: int, deltas: bool, keep: Any, tiles: Any) -> Any:
    """Tiles 0 to count - 1 with the kept entries, tile count + 3 with the base; true if an input is not finite."""
    bad = False
    base = tiles[count + 3][:size]
    if len(raw) > count:
        bad |= widen(raw[count], codes[count], at, base)
    for i in range(count):
        bad |= kept_delta(raw, codes, i, at, base, deltas, keep, tiles[i][:size])
    return bad


@kernel
def gram(
    raw: Any, codes: Any, n: int, count: int, deltas: bool, keep: Any, pairs: Any, sums: Any, lanes: Any, tiles: Any
) -> Any:
    """Dot products of pairs of models (number `count` is the base), one sum for each 2**15 elements.

    Args:
        raw: Rows of bytes: `count` models, then the base where one is used.
        codes: Their formats.
        n: Elements; a multiple of 2**15 but in the last block of a tensor.
        count: Models.
        deltas: Whether of task vectors.
        keep: Keeps everything.
        pairs: Which, (p, 2).
        sums: For the result: (p, blocks) float64.
        lanes: Scratch of (p, LANES) float64, zero.
        tiles: Scratch of (count + 4, TILE) float32.

    Returns:
        1 if an input is not finite.
    """
    found = 0
    for at in range(0, n, TILE):
        size = min(TILE, n - at)
        if _load(raw, codes, count, at, size, deltas, keep, tiles):
            found = 1
        for p in range(len(pairs)):
            i, j = pairs[p, 0], pairs[p, 1]
            a = tiles[i if i < count else count + 3][:size]
            b = tiles[j if j < count else count + 3][:size]
            multiply_up(lanes[p], a, b)
        if (at + size) % BLOCK == 0 or at + size == n:
            for p in range(len(pairs)):
                sums[p, at // BLOCK] = joined(lanes[p])
    return found


@kernel
def lengths(
    raw: Any, codes: Any, n: int, count: int, keep: Any, squared: bool, sums: Any, lanes: Any, tiles: Any
) -> Any:
    """Norms of the task vectors whole and kept, one sum for each 2**15 elements: |x| or x * x.

    Args:
        raw: As for `gram`.
        codes: As for `gram`.
        n: As for `gram`.
        count: As for `gram`.
        keep: How entries are kept; the ties left are changed.
        squared: Whether squares are added.
        sums: For the result: (2 count, blocks), whole and kept in turn.
        lanes: Scratch of (2 count, LANES) float64, zero.
        tiles: Scratch of (count + 4, TILE) float32.

    Returns:
        1 if an input is not finite.
    """
    found = 0
    for at in range(0, n, TILE):
        size = min(TILE, n - at)
        base = tiles[count + 3][:size]
        if widen(raw[count], codes[count], at, base):
            found = 1
        for i in range(count):
            x = tiles[i][:size]
            if widen_delta(raw[i], codes[i], at, base, x):
                found = 1
            for side in range(2):
                if side == 1:
                    apply_keep(i, at, keep, x)
                if squared:
                    multiply_up(lanes[2 * i + side], x, x)
                else:
                    _add_up(lanes[2 * i + side], x)
        if (at + size) % BLOCK == 0 or at + size == n:
            for p in range(2 * count):
                sums[p, at // BLOCK] = joined(lanes[p])
    return found


@kernel
def magnitudes(raw: Any, codes: Any, n: int, count: int, out: Any, tiles: Any) -> Any:
    """|task vector| of each model as bit patterns, which sort like the values: (count, n) uint32; 1 if not finite."""
    found = 0
    base, x = tiles[count + 3], tiles[0]
    for at in range(0, n, TILE):
        size = min(TILE, n - at)
        if widen(raw[count], codes[count], at, base[:size]):
            found = 1
        for i in range(count):
            if widen_delta(raw[i], codes[i], at, base[:size], x[:size]):
                found = 1
            magnitude_bits(x[:size], out[i][at : at + size])
    return found


@kernel
def magnitude_bits(x: Any, out: Any) -> None:
    """The bits of magnitudes."""
    bits = x.view(np.uint32)
    for i in range(len(x)):
        out[i] = bits[i] & np.uint32(0x7FFFFFFF)


@kernel
def _above(bits: Any, most: Any) -> Any:
    count = 0
    for i in range(len(bits)):
        count += bits[i] > most
    return count


@kernel
def _near(bits: Any, low: Any, high: Any, out: Any, at: int) -> Any:
    """Copy what lies in [low, high] to `out` from place `at` on, one after the other; the place after the last.

    Without a branch: one that is taken at random costs more than all the rest. Up to `WIDTH` places more are written.
    """
    span = np.uint32(high - low)
    n = len(bits)
    whole = n - n % WIDTH
    for i in range(0, whole, WIDTH):
        at = pack(bits, i, low, span, out, at)
    for i in range(whole, n):
        out[at] = bits[i]
        at += int(np.uint32(bits[i] - low) <= span)  # below `low` it wraps around to a large number
    return at


@kernel
def collect(
    raw: Any, codes: Any, n: int, count: int, owner: Any, low: Any, high: Any, out: Any, filled: Any, above: Any,
    sizes: Any, tiles: Any,
) -> Any:  # fmt: skip
    """Bring together the magnitudes of task vectors that are near the thresholds that are looked for.

    Args:
        raw: Rows of bytes: `count` models, then the base.
        codes: Their formats.
        n: Elements.
        count: Models.
        owner: For each threshold which model it is of, in rising order.
        low: For each the least bits that are near.
        high: For each the greatest.
        out: For the result: (thresholds, room for n + WIDTH) uint32.
        filled: For each how many are there, updated.
        above: For each how many are beyond `high`, added to.
        sizes: Scratch of TILE uint32.
        tiles: Scratch of (count + 4, TILE) float32.

    Returns:
        1 if an input is not finite.
    """
    found = 0
    base, x = tiles[count + 3], tiles[0]
    for at in range(0, n, TILE):
        size = min(TILE, n - at)
        bits = sizes[:size]
        if widen(raw[count], codes[count], at, base[:size]):
            found = 1
        t = 0
        for i in range(count):
            if widen_delta(raw[i], codes[i], at, base[:size], x[:size]):
                found = 1
            if t == len(owner) or owner[t] != i:
                continue
            magnitude_bits(x[:size], bits)
            while t < len(owner) and owner[t] == i:
                above[t] += _above(bits, high[t])
                filled[t] = _near(bits, low[t], high[t], out[t], filled[t])
                t += 1
    return found


@kernel
def scatter(bits: Any, low: Any, shift: Any, counts: Any) -> None:
    """Count bits from `low` on, those that differ in no more than `shift` low bits together."""
    for i in range(len(bits)):
        counts[np.uint32(bits[i] - low) >> shift] += 1


@kernel
def find(counts: Any, rank: int) -> Any:
    """The counter that holds the rank-th largest, from 1, and how many lie above it; -1 where there are not so many."""
    before = 0
    for i in range(len(counts) - 1, -1, -1):
        here = np.int64(counts[i])
        if before + here >= rank:
            return i, before
        before += here
    return -1, before


def select(values: Any, rank: int, room: Any) -> Any:
    """The rank-th largest of some bits, from 1; how many are larger, and how many equal it.

    Args:
        values: At least `rank` numbers.
        rank: Which.
        room: Scratch, as long as the values.
    """
    return _select(values, rank, room, np.empty(4096, np.int64))  # kernels do not allocate


@kernel
def _select(values: Any, rank: int, room: Any, counts: Any) -> Any:
    larger, n = 0, len(values)
    source = values
    while True:
        low, high = source[0], source[0]
        for i in range(n):
            low, high = min(low, source[i]), max(high, source[i])
        shift = np.uint32(0)
        while ((high - low) >> shift) >= 4096:
            shift += np.uint32(1)
        counts[:] = 0
        for i in range(n):
            counts[(source[i] - low) >> shift] += 1
        bucket, before = find(counts, rank - larger)
        larger += before
        if shift == 0:
            return np.int64(low) + bucket, larger, counts[bucket]
        kept = 0
        for i in range(n):  # writes stay behind reads, so that the second round may work in place
            value = source[i]
            room[kept] = value
            kept += ((value - low) >> shift) == bucket
        n, source = kept, room


@kernel
def count_equal(bits: Any, wanted: Any) -> Any:
    """How many of some bits are these."""
    count = 0
    for i in range(len(bits)):
        count += bits[i] == wanted
    return count


@kernel
def ties(raw: Any, codes: Any, n: int, count: int, owner: Any, wanted: Any, counts: Any, tiles: Any) -> Any:
    """How many magnitudes equal each threshold, added to `counts`; 1 if an input is not finite."""
    found = 0
    base, x = tiles[count + 3], tiles[0]
    for at in range(0, n, TILE):
        size = min(TILE, n - at)
        if widen(raw[count], codes[count], at, base[:size]):
            found = 1
        for t in range(len(owner)):
            i = owner[t]
            if (t == 0 or owner[t - 1] != i) and widen_delta(raw[i], codes[i], at, base[:size], x[:size]):
                found = 1
            counts[t] += equal(x[:size], wanted[t])
    return found


@kernel
def net_sign(
    raw: Any, codes: Any, n: int, count: int, keep: Any, factors: Any, elect: int, net: Any, tiles: Any
) -> Any:
    """Positive minus negative elections, added to `net[0]`; 1 if an input is not finite."""
    ratio, divide, weight = factors
    found = 0
    for at in range(0, n, TILE):
        size = min(TILE, n - at)
        if _load(raw, codes, count, at, size, True, keep, tiles):
            found = 1
        sign = tiles[count][:size]
        fill(sign, np.float32(0))
        for i in range(count):
            x = tiles[i][:size]
            scaled(x, ratio[i], divide[i], weight[i])
            if elect == COUNT:
                vote(sign, x)
            else:
                add(sign, x)
        elected(sign, np.float32(0))
        for j in range(size):
            net[0] += np.int64(sign[j])
    return found
