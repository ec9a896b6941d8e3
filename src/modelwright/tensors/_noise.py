"""Counter-based noise: the value at an element depends on its key alone, never on order, blocks or threads.

Elements are counted in segments of 2**20. A segment's key is a 128-bit hash of (seed, model position, tensor name,
segment). Element c of a segment is h(h(c + k0) ^ k1), h being a 32-bit bijection of multiply-xorshift rounds with the
constants that Chris Wellons' search found least biased (2018, "lowbias32"). It is computed on the host for every array
library, so that a GPU gets the same masks as a CPU. Arithmetic of 32 bits is what vectors of every CPU have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash

from modelwright.tensors._arrays import Array

_U32 = np.uint32
_MIX_A = _U32(0x7FEB352D)
_MIX_B = _U32(0x846CA68B)

#: Elements that share a key.
SEGMENT = 1 << 20


@dataclass(frozen=True)
class NoiseKey:
    """The identity of a family of streams: one per model of a merged tensor.

    Attributes:
        seed: The run's seed, any integer in [0, 2**63).
        tensor: The name of the output tensor.
    """

    seed: int = 0
    tensor: str = ""

    def words(self, position: int, segment: int) -> tuple[int, int]:
        """Two 32-bit words for a segment of the model at this position in the list of models that are not the base."""
        text = f"{self.seed}\x1f{position}\x1f{self.tensor}\x1f{segment}"
        digest = xxhash.xxh3_128_intdigest(text.encode())
        return digest & 0xFFFFFFFF, (digest >> 32) & 0xFFFFFFFF


#: Elements per block: the intermediate integers stay in the cache, which is four times as fast.
_BLOCK = 1 << 14


def uniform(key: NoiseKey, position: int, size: int, start: int = 0) -> Array:
    """Uniform numbers in [0, 1) with 32 random bits.

    Args:
        key: The stream family.
        position: Which model, from 0.
        size: How many numbers.
        start: The index of the first element, so that blocks of one tensor join to the whole.

    Returns:
        numpy float64 array of shape (size,).
    """
    out = np.empty(size)
    ramp = np.arange(min(size, _BLOCK), dtype=np.uint32)
    counter, scratch = np.empty_like(ramp), np.empty_like(ramp)
    at = 0
    while at < size:
        segment, place = divmod(start + at, SEGMENT)
        n = min(_BLOCK, size - at, SEGMENT - place)
        first, second = key.words(position, segment)
        x, y = counter[:n], scratch[:n]
        np.add(ramp[:n], _U32((place + first) & 0xFFFFFFFF), out=x)
        _mix(x, y)
        np.bitwise_xor(x, _U32(second), out=x)
        _mix(x, y)
        np.multiply(x, 2.0**-32, out=out[at : at + n])
        at += n
    return out


def _mix(x: Array, scratch: Array) -> None:
    """lowbias32, in place."""
    for shift, factor in ((16, _MIX_A), (15, _MIX_B), (16, None)):
        np.bitwise_xor(x, np.right_shift(x, _U32(shift), out=scratch), out=x)
        if factor is not None:
            np.multiply(x, factor, out=x)
