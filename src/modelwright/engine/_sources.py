"""The tensors that meet in an output tensor, read in blocks; and the buffers that threads reuse for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from modelwright.checkpoint import NumpyArray, TensorRef

#: Elements of a tensor that are one task; also the unit of journal, resume and digests. A multiple of the blocks of
#: `tensors/_geometry.py`, and the segment of `tensors/_noise.py`.
RANGE = 1 << 20
#: Elements that are read, merged and written together, at most. Half of it would stay in the second-level cache, and yet take
#: longer: the calls for a block cost more than its misses.
BLOCK = 1 << 18
#: Elements of all inputs that a thread holds; more inputs are read in smaller blocks.
_MOST_READ = 1 << 20
#: The least, as sums over a tensor are made of blocks of so many.
_LEAST = 1 << 15

#: Elements of a row that is ranked as a whole, at most.
LONGEST = _LEAST

#: Bytes of values near thresholds that may be held for the tensors that are ranked together; a quarter is aimed at.
MOST_HELD = 8 << 20
#: Bytes of the sample that says what is near, at most, where that many values can say it.
MOST_SAMPLED = 1 << 20
#: Thresholds that can be counted in one pass with all the counters that one may have; more where they need fewer.
MOST_COUNTED = 4
COUNTERS = 1 << 18


def ranges(size: int) -> list[tuple[int, int]]:
    """The ranges of a tensor, (start, stop)."""
    return [(at, min(at + RANGE, size)) for at in range(0, size, RANGE)]


def block_length(inputs: int) -> int:
    """Elements of a block of so many inputs."""
    length = BLOCK
    while length > _LEAST and length * inputs > _MOST_READ:
        length //= 2
    return length


def blocks(start: int, stop: int, inputs: int) -> Iterator[tuple[int, int]]:
    """The blocks of a range, (start, number)."""
    length = block_length(inputs)
    for at in range(start, stop, length):
        yield at, min(length, stop - at)


class Sources:
    """Tensors that are read together, such as those for an output tensor: the models', then the base's.

    Attributes:
        refs: Them.
        streamed: Whether all can be read in parts. If not, `load` brings those that cannot, whole.
    """

    def __init__(self, refs: Sequence[TensorRef]):
        self.refs = list(refs)
        self.streamed = all(ref.fill is not None for ref in self.refs)
        self._bytes: list[NumpyArray | None] = [None] * len(self.refs)
        self.dtypes = [ref.dtype.numpy for ref in self.refs]

    def load(self) -> None:
        """Read what cannot be read in parts."""
        for i, ref in enumerate(self.refs):
            if ref.fill is None and self._bytes[i] is None:
                array = ref.read()
                self.dtypes[i] = array.dtype
                self._bytes[i] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    @property
    def itemsize(self) -> int:
        """Bytes of an element in the widest of their formats."""
        return max(dtype.itemsize for dtype in self.dtypes)

    def read(self, i: int, start: int, count: int, row: NumpyArray) -> NumpyArray:
        """The stored bytes of `count` elements of source i, in the row."""
        size = self.dtypes[i].itemsize
        part = row[: count * size]
        whole, fill = self._bytes[i], self.refs[i].fill
        if whole is not None:
            part[:] = whole[start * size : (start + count) * size]
        else:
            assert fill is not None
            fill(part, start * size)
        return part


class Scratch(threading.local):
    """Buffers of a thread, made once and reused: rows of bytes for inputs, one for the output, float32 tiles."""

    def __init__(self) -> None:
        self._arrays: dict[str, Any] = {}

    def rows(self, count: int, itemsize: int) -> NumpyArray:
        """`count` rows that hold a block of a format. Their distance is odd, so that they share no cache sets.

        They are no longer than they have to be: numpy asks for pages of 2 MB, which are taken whole when they are touched.
        """
        return self._at_least("rows", count, block_length(count) * itemsize + 64 * 9, np.uint8)

    def out(self, itemsize: int) -> NumpyArray:
        """A row for the output."""
        return self._at_least("out", 1, BLOCK * itemsize, np.uint8)[0]

    def near(self, count: int, length: int) -> NumpyArray:
        """Rows of uint32 that hold so many, and a vector more."""
        return self._at_least("near", count, length + 64, np.uint32)

    def sizes(self, width: int) -> NumpyArray:
        """A tile of uint32."""
        return self._at_least("sizes", 1, width, np.uint32)[0]

    def kept(self, count: int, length: int) -> NumpyArray:
        """A byte for each element of a range."""
        return self._at_least("kept", count, length, np.uint8)

    def buckets(self, count: int, width: int) -> NumpyArray:
        """Counters of uint32, and what goes with each."""
        return self._at_least("buckets", count, width, np.uint32)

    def tiles(self, count: int, width: int) -> NumpyArray:
        """Tiles of float32."""
        return self._at_least("tiles", count, width, np.float32)

    def _at_least(self, name: str, count: int, width: int, dtype: Any) -> NumpyArray:
        found = self._arrays.get(name)
        if found is None or len(found) < count or found.shape[1] < width:
            self._arrays[name] = None  # so that the two do not exist at once
            found = self._arrays[name] = np.zeros((count, width), dtype)
        return found[:count]
