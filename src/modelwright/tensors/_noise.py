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


def _mix(x: Array) -> Array:
    x = (x ^ (x >> _U64(30))) * _MIX_A
    x = (x ^ (x >> _U64(27))) * _MIX_B
    return x ^ (x >> _U64(31))


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
    first, second = key.words(position)
    counter = np.arange(start, start + size, dtype=np.uint64)
    bits = _mix((_mix(counter * _STEP + _U64(first))) ^ _U64(second))
    return (bits >> _U64(11)) * 2.0**-53
