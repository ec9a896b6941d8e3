"""Counter-based noise: the value at an element depends on its key alone, never on order, blocks or threads.

Element i of the stream (seed, model position, tensor name) is two rounds of the SplitMix64 finaliser
(Steele, Lea and Flood 2014) over the counter i, each keyed with 64 bits of a 128-bit hash of the stream's identity.
It is computed on the host in numpy for every array library, so that a GPU gets the same masks as a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash

from modelwright.tensors._arrays import Array

_U64 = np.uint64
_STEP = _U64(0x9E3779B97F4A7C15)
_MIX_A = _U64(0xBF58476D1CE4E5B9)
_MIX_B = _U64(0x94D049BB133111EB)


@dataclass(frozen=True)
class NoiseKey:
    """The identity of a family of streams: one per model of a merged tensor.

    Attributes:
        seed: The run's seed, any integer in [0, 2**63).
        tensor: The name of the output tensor.
    """

    seed: int = 0
    tensor: str = ""

    def words(self, position: int) -> tuple[int, int]:
        """Two 64-bit words for the model at this position in the list of models that are not the base."""
        digest = xxhash.xxh3_128_intdigest(f"{self.seed}\x1f{position}\x1f{self.tensor}".encode())
        return digest >> 64, digest & 0xFFFFFFFFFFFFFFFF


#: Elements per block: the intermediate integers stay in the cache, which is four times as fast.
_BLOCK = 1 << 14


def uniform(key: NoiseKey, position: int, size: int, start: int = 0) -> Array:
    """Uniform numbers in [0, 1) with 53 random bits.

    Args:
        key: The stream family.
        position: Which model, from 0.
        size: How many numbers.
        start: The index of the first element, so that blocks of one tensor join to the whole.

    Returns:
        numpy float64 array of shape (size,).
    """
    first, second = (_U64(word) for word in key.words(position))
    out = np.empty(size)
    ramp = np.arange(min(size, _BLOCK), dtype=np.uint64)
    counter, scratch = np.empty_like(ramp), np.empty_like(ramp)
    for at in range(0, size, _BLOCK):
        n = min(_BLOCK, size - at)
        x, y = counter[:n], scratch[:n]
        np.multiply(np.add(ramp[:n], _U64(start + at), out=x), _STEP, out=x)
        np.add(x, first, out=x)
        _mix(x, y)
        np.bitwise_xor(x, second, out=x)
        _mix(x, y)
        np.multiply(np.right_shift(x, _U64(11), out=x), 2.0**-53, out=out[at : at + n])
    return out


def _mix(x: Array, scratch: Array) -> None:
    """The SplitMix64 finaliser, in place."""
    for shift, factor in ((30, _MIX_A), (27, _MIX_B), (31, None)):
        np.bitwise_xor(x, np.right_shift(x, _U64(shift), out=scratch), out=x)
        if factor is not None:
            np.multiply(x, factor, out=x)
