"""Dropping entries by the rank of their magnitude in their row: which are kept, without sorting.

An entry is kept if its random bits are below a threshold that rises with its rank. Magnitudes are counted in buckets, which
gives the least and the greatest rank that each may have. Only where the bits lie between the thresholds of these two is the
exact rank needed, and for few entries is it worth a look at the whole row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.tensors.kernels._formats import widen, widen_delta
from modelwright.tensors.kernels._jit import kernel
from modelwright.tensors.kernels._noise import bits_of
from modelwright.tensors.kernels._statistics import magnitude_bits

#: Most buckets of a row; one more is for zeros, of which it does not matter whether they are kept.
BUCKETS = 4096


@kernel
def keep_by_rank(
    raw: Any, codes: Any, rows: int, row: int, count: int, owner: Any, tables: Any, noise: Any, place: int, size: int,
    out: Any, tiles: Any, words: Any, buckets: Any,
) -> Any:  # fmt: skip
    """Say of each entry of some rows whether it is kept.

    Args:
        raw: Rows of bytes: `count` models, then the base.
        codes: Their formats.
        rows: Rows of the tensor that are there.
        row: Entries of each.
        count: Models.
        owner: Which models are dropped by rank, in rising order.
        tables: For each of these, by rank from the smallest magnitude: what random bits must be below (k, row), uint32.
        noise: Of each model the two words of its key for this range, and a third that is not used.
        place: Where the first entry lies, counted from the range's first; below 0 where its row begins earlier.
        size: Entries of the range; what lies outside is ranked, but not written.
        out: For the result: a row of `size` bytes for each of the `owner`s, 1 where an entry is kept, else 0.
        tiles: Scratch of (2, row) float32.
        words: Scratch of (4, row + 1) uint32.
        buckets: Scratch of (3, BUCKETS + 1) uint32.

    Returns:
        1 if an input is not finite.
    """
    found = 0
    base, x = tiles[0][:row], tiles[1][:row]
    for r in range(rows):
        at = place + r * row
        if widen(raw[count], codes[count], r * row, base):
            found = 1
        for k in range(len(owner)):
            i = owner[k]
            if widen_delta(raw[i], codes[i], r * row, base, x):
                found = 1
            magnitude_bits(x, words[0][:row])
            _keep(words[0][:row], tables[k], noise[i], at, size, out[k], words, buckets)
    return found


@kernel
def _keep(sizes: Any, table: Any, key: Any, at: int, size: int, out: Any, words: Any, buckets: Any) -> None:
    """One row of one model; its first entry has place `at` in the range."""
    n = len(sizes)
    start, stop = max(0, -at), min(n, size - at)
    place, drawn, listed = words[1][:n], words[2][: stop - start], words[3]
    last = _bucket(sizes, place)
    least, most = buckets[1][: last + 1], buckets[2][: last + 1]
    _bound(place, last, table, buckets[0][: last + 1], least, most)
    bits_of(drawn, at + start, key)
    kept = out[at + start : at + stop]
    unsure = _compare(drawn, place[start:stop], table, least, most, kept, listed)
    for k in range(unsure):
        i = listed[k]
        kept[i] = np.uint8(drawn[i] < table[_rank(sizes, start + i)])


@kernel
def _bucket(sizes: Any, place: Any) -> Any:
    """The bucket of each entry, in the order of magnitudes but for zeros, which have the last; its number."""
    low, high = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(len(sizes)):
        size = sizes[i]
        high = size if size > high else high
        size = np.uint32(size - np.uint32(1))  # zero becomes the largest
        low = size if size < low else low
    low = np.uint32(low + np.uint32(1))
    many = 64
    while many < BUCKETS and 4 * many < len(sizes):  # a bucket costs more than an entry
        many *= 2
    shift = np.uint32(0)
    while high > 0 and ((high - low) >> shift) >= many:
        shift += np.uint32(1)
    last = np.uint32(many)
    for i in range(len(sizes)):
        number = np.uint32(np.uint32(sizes[i] - low) >> shift)
        place[i] = last if (number > last) | (sizes[i] == 0) else number
    return many


@kernel
def _bound(place: Any, last: int, table: Any, counts: Any, least: Any, most: Any) -> None:
    """For each bucket the thresholds of the least and of the greatest rank in it; 0 for the one of zeros."""
    for b in range(last + 1):
        counts[b] = np.uint32(0)
    for i in range(len(place)):
        counts[place[i]] += np.uint32(1)
    before = np.int64(counts[last])
    for b in range(last):
        here = np.int64(counts[b])
        least[b] = table[min(before, len(table) - 1)]
        before += here
        most[b] = table[max(before - 1, 0)]
    least[last] = np.uint32(0)
    most[last] = np.uint32(0)


@kernel
def _compare(drawn: Any, place: Any, table: Any, least: Any, most: Any, out: Any, listed: Any) -> Any:
    """1 for what is kept whatever its exact rank, else 0; list the entries for which it matters, and say how many they are.

    Without branches: they would be taken at random.
    """
    low, span = table[0], np.uint32(table[len(table) - 1] - table[0])
    for i in range(len(drawn)):
        out[i] = np.uint8(drawn[i] < low)
    between = 0
    for i in range(len(drawn)):  # below `low` it wraps around to a large number
        listed[between] = np.uint32(i)
        between += int(np.uint32(drawn[i] - low) < span)
    unsure = 0
    for k in range(between):
        i = listed[k]
        bits, b = drawn[i], place[i]
        out[i] = np.uint8(bits < least[b])
        listed[unsure] = i
        unsure += int((bits >= least[b]) & (bits < most[b]))
    return unsure


@kernel
def _rank(sizes: Any, i: int) -> Any:
    """How many magnitudes of a row rank below one of them: smaller ones, and equal ones that come after it."""
    wanted = sizes[i]
    below = np.uint32(0)
    for j in range(i):
        below = np.uint32(below + np.uint32(sizes[j] < wanted))
    for j in range(i + 1, len(sizes)):
        below = np.uint32(below + np.uint32(sizes[j] <= wanted))
    return below
