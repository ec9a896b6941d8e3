"""Tensors that are described but not read yet."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
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


def file_state(path: Path) -> tuple[int, int] | None:
    """Size of a file and time of its last change; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def file_ref(path: Path, dtype: DType, shape: tuple[int, ...], offset: int) -> TensorRef:
    """A tensor at a byte offset of a file, of any alignment."""
    span = FileSpan(path, dtype, shape, offset)
    return TensorRef(dtype, shape, span.load, f"{path.name} @ {offset}", span.fill)


@dataclass(frozen=True)
class FileSpan:
    """Where a tensor's bytes lie in a local file."""

    path: Path
    dtype: DType
    shape: tuple[int, ...]
    offset: int

    def load(self) -> NumpyArray:
        """The whole tensor."""
        raw = np.empty(math.prod(self.shape) * self.dtype.itemsize, np.uint8)
        self.fill(raw, 0)
        return raw.view(self.dtype.numpy).reshape(self.shape)

    def fill(self, buffer: NumpyArray, start: int) -> None:
        """Read `len(buffer)` bytes from byte `start` of the tensor on.

        Raises:
            RunError: The file is gone or shorter than it was.
        """
        at = self.offset + start
        left = memoryview(buffer)  # type: ignore[reportArgumentType]
        try:
            held = getattr(_held, "handles", _NOTHING).get(self.path)
            if held is not None and os.preadv(held, [left], at) == len(left):  # nearly always
                return
            with _opened(self.path) as handle:
                while left:
                    count = os.preadv(handle, [left], at)
                    if count == 0:
                        got = len(buffer) - len(left)
                        raise RunError(
                            f"{self.path}: expected {len(buffer)} bytes at offset {self.offset + start}, got {got}; the file "
                            "was cut short."
                        )
                    left, at = left[count:], at + count
        except OSError as error:
            raise RunError(f"{self.path} can no longer be read ({error.strerror or error}).", resumable=True) from None


#: Files that a thread holds open inside `keep_open`: their handles by path.
_held = threading.local()
_MOST_HELD = 32
_NOTHING: dict[Path, int] = {}


@contextmanager
def keep_open() -> Generator[None]:
    """Let this thread keep files open that it reads again and again, until the end of the block."""
    handles: OrderedDict[Path, int] = OrderedDict()
    _held.handles = handles
    try:
        yield
    finally:
        del _held.handles
        for handle in handles.values():
            os.close(handle)


@contextmanager
def _opened(path: Path) -> Generator[int]:
    handles: OrderedDict[Path, int] | None = getattr(_held, "handles", None)
    if handles is None:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield handle
        finally:
            os.close(handle)
        return
    if path not in handles:
        if len(handles) >= _MOST_HELD:
            os.close(handles.popitem(last=False)[1])
        handles[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    handles.move_to_end(path)
    yield handles[path]


def array_ref(array: NumpyArray, dtype: DType, source: str = "memory") -> TensorRef:
    """A numpy array in memory."""
    return TensorRef(dtype, tuple(array.shape), lambda: array, source)
