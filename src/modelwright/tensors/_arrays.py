"""One source for numpy, torch and JAX: the array API standard, plus the few things it lacks.

JAX has no float64 unless `jax_enable_x64` is set; without it, JAX warns and its dot products are float32.
"""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from modelwright.tensors._dtypes import DTYPES

#: An array of any library that follows the array API standard.
Array = Any


def namespace(*arrays: Array) -> Any:
    """The array-API namespace of these arrays: numpy, torch, jax.numpy.

    Raises:
        TypeError: The arrays belong to different libraries.
    """
    if all(map(is_numpy, arrays)):
        return np  # which follows the standard itself; array_api_compat's wrapper of it takes a tenth of a second to import
    return array_api_compat.array_namespace(*arrays)


def is_numpy(array: Array) -> bool:
    """Whether it is a numpy array, or the numpy scalar that arithmetic makes of a 0-d array."""
    return isinstance(array, np.ndarray | np.generic)


def widen(array: Array) -> Array:
    """The array in the format it is computed in: float64 stays, every other floating format becomes float32.

    Args:
        array: Any shape, any floating format, any library; ml_dtypes formats of numpy included.

    Returns:
        The same values in float32 or float64; the array itself where it is in that format already.

    Raises:
        TypeError: The array does not hold floating-point numbers.
    """
    if is_numpy(array):
        known = DTYPES.get(array.dtype.name)
        if known is None or not known.floating:
            raise TypeError(f"merging needs floating-point tensors, got {array.dtype.name}")
        return np.asarray(array, dtype=np.float64 if known is DTYPES["F64"] else np.float32)
    xp = namespace(array)
    if not xp.isdtype(array.dtype, "real floating"):
        raise TypeError(f"merging needs floating-point tensors, got {array.dtype}")
    return array if array.dtype in (xp.float32, xp.float64) else xp.astype(array, xp.float32)


def narrow(array: Array, dtype: Any) -> Array:
    """The array rounded once (to nearest, ties to even) to a dtype of its own library; itself where it has it."""
    if is_numpy(array):
        with np.errstate(over="ignore"):  # an overflow is found, named and refused by the caller
            if array.dtype == np.float64 and dtype == DTYPES["BF16"].numpy:
                array = _odd(array)
            return np.asarray(array, dtype=dtype)
    return array if array.dtype == dtype else namespace(array).astype(array, dtype)


def _odd(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """float64 to float32 rounded to odd, after which rounding to a shorter format is as if there had been one step.

    ml_dtypes goes from float64 to bfloat16 by way of float32 rounded to nearest, which is off where that lands on a tie.
    """
    near = np.asarray(array, dtype=np.float32)
    bits = near.view(np.uint32) - (np.abs(near.astype(np.float64)) > np.abs(array))  # cut off what is beyond
    return (bits | (near != array)).astype(np.uint32).view(np.float32)


def all_finite(array: Array) -> bool:
    """Whether no element is NaN or infinite. An empty array is finite."""
    xp = namespace(array)
    return bool(xp.all(xp.isfinite(array)))


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """The values as a numpy array on the host, without gradient; no copy where none is needed.

    Formats that numpy has from ml_dtypes only (bfloat16, float8) come out as those.
    """
    if not array_api_compat.is_torch_array(array):
        return np.asarray(array)
    host: Any = array.detach().cpu()
    known = DTYPES.get(str(host.dtype).removeprefix("torch."))
    if known is None or known.numpy.isbuiltin == 1:
        return host.numpy()
    # torch knows the format but cannot hand it to numpy: the bytes go across as integers of that size.
    xp = namespace(host)
    return host.view(xp.uint8 if known.itemsize == 1 else xp.int16).numpy().view(known.numpy)
