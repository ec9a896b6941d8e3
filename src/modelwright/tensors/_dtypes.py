"""Which number formats exist, what they are called, and in which one a sum is taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from modelwright.errors import InputError, did_you_mean


@dataclass(frozen=True)
class DType:
    """A storage format of tensor elements.

    Attributes:
        code: Its name in safetensors headers, such as `BF16`.
        name: Its name in recipes, such as `bfloat16`.
        numpy: The numpy dtype (from ml_dtypes for the formats numpy lacks).
        floating: Whether it holds floating-point numbers, and so takes part in a merge.
        largest: The largest finite value; infinity for formats that do not float.
    """

    code: str
    name: str
    numpy: np.dtype[Any]
    floating: bool
    largest: float = float("inf")

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.numpy.itemsize

    def __str__(self) -> str:
        return self.name


def _floating(code: str, name: str, numpy: Any, largest: float) -> DType:
    return DType(code, name, np.dtype(numpy), True, largest)


def _plain(code: str, name: str) -> DType:
    return DType(code, name, np.dtype(name), False)


_ALL = (
    _floating("F64", "float64", np.float64, float(np.finfo(np.float64).max)),
    _floating("F32", "float32", np.float32, float(np.finfo(np.float32).max)),
    _floating("F16", "float16", np.float16, float(np.finfo(np.float16).max)),
    _floating("BF16", "bfloat16", ml_dtypes.bfloat16, float.fromhex("0x1.fep127")),
    _floating("F8_E4M3", "float8_e4m3fn", ml_dtypes.float8_e4m3fn, 448.0),
    _floating("F8_E5M2", "float8_e5m2", ml_dtypes.float8_e5m2, 57344.0),
    *(_plain(f"I{bits}", f"int{bits}") for bits in (64, 32, 16, 8)),
    *(_plain(f"U{bits}", f"uint{bits}") for bits in (64, 32, 16, 8)),
    _plain("BOOL", "bool"),
    _plain("C64", "complex64"),
)

#: Every storage format, by safetensors code and by name.
DTYPES: dict[str, DType] = {key: entry for entry in _ALL for key in (entry.code, entry.name)}
_BY_NUMPY = {entry.numpy: entry for entry in _ALL}

#: Formats a merge may write.
OUTPUT_NAMES = ("float64", "float32", "float16", "bfloat16")


def dtype(key: object) -> DType:
    """The `DType` of a safetensors code, a name such as `bfloat16` or `torch.bfloat16`, or a numpy dtype.

    Raises:
        InputError: The format is not one that checkpoints can be read in.
    """
    if isinstance(key, DType):
        return key
    found = DTYPES.get(key.removeprefix("torch.")) if isinstance(key, str) else _from_numpy(key)
    if found is None:
        raise InputError(f"unknown dtype '{key}'", did_you_mean(str(key), {entry.name for entry in _ALL}))
    return found


def _from_numpy(key: Any) -> DType | None:
    try:
        return None if key is None else _BY_NUMPY.get(np.dtype(key))  # numpy reads None as float64
    except TypeError:  # not a dtype at all
        return None


def promote(dtypes: Iterable[DType]) -> DType:
    """The smallest floating format that holds all of these: bfloat16 with float16 gives float32.

    One-byte floats are storage formats only: they count as bfloat16 here, the format they are de-quantised to.
    """
    result: DType | None = None
    for entry in dtypes:
        wide = DTYPES["BF16"] if entry.itemsize == 1 else entry
        if result is None or result == wide:
            result = wide
        elif DTYPES["F64"] in (result, wide):
            result = DTYPES["F64"]
        else:  # any two different formats among float32, float16 and bfloat16
            result = DTYPES["F32"]
    if result is None:
        raise ValueError("promote needs at least one dtype")
    return result
