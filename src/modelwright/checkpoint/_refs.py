"""Tensors that are described but not read yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import RunError
from modelwright.tensors import DType

NumpyArray = np.ndarray[Any, Any]
#: What numpy can hold: bytes in a signed 64-bit number, and this many axes.
_MOST_BYTES = 2**63 - 1
_MOST_AXES = 64


@dataclass(frozen=True)
class TensorRef:
    """A tensor's description and the way to its values.

    Attributes:
        dtype: Its storage format.
        shape: Its shape.
        load: Reads it. May return a wider format than `dtype` where the tensor is computed (de-quantised, merged), so
            that rounding happens once, at the very end.
        source: Where the bytes lie, for messages: `model.safetensors @ 4096`.
        fill: Fills a buffer of bytes with the stored ones from a byte of the tensor on; None where the tensor has to
            be computed, or read, as a whole.
    """

    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], NumpyArray] = field(repr=False, compare=False)
    source: str = ""
    fill: Callable[[NumpyArray, int], None] | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the storage format."""
        return self.size * self.dtype.itemsize

    def read(self) -> NumpyArray:
        """The values as a numpy array (bfloat16 and float8 through ml_dtypes). The caller may keep, not write it."""
        return self.load()


def possible(shape: tuple[int, ...] | list[int], itemsize: int) -> bool:
    """Whether an array can have this shape; zeros hide numbers that overflow, so they count as one."""
    # the number of axes first: the product of a million big numbers takes hours
    return len(shape) <= _MOST_AXES and math.prod(max(n, 1) for n in shape) * itemsize <= _MOST_BYTES


def file_ref(path: Path, dtype: DType, shape: tuple[int, ...], offset: int) -> TensorRef:
    """A tensor at a byte offset of a file, of any alignment."""
    count = math.prod(shape) * dtype.itemsize

    def load() -> NumpyArray:
        try:
            raw = np.fromfile(path, dtype=np.uint8, count=count, offset=offset)
        except OSError as error:
            raise RunError(f"{path} can no longer be read ({error.strerror or error})") from None
        if raw.size != count:
            raise RunError(f"{path}: expected {count} bytes at offset {offset}, got {raw.size}; the file was cut short")
        return raw.view(dtype.numpy).reshape(shape)

    return TensorRef(dtype, shape, load, f"{path.name} @ {offset}")


def array_ref(array: NumpyArray, dtype: DType, source: str = "memory") -> TensorRef:
    """A numpy array in memory."""
    return TensorRef(dtype, tuple(array.shape), lambda: array, source)
