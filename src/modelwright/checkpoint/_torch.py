"""What needs torch: tensors in memory."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch as _torch

from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.tensors import DTYPES

torch: Any = _torch

#: Formats that numpy knows through ml_dtypes only, moved as integers of the same width.
_VIEWS: dict[Any, tuple[Any, Any]] = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
}
_BACK: dict[Any, tuple[Any, Any]] = {np.dtype(narrow): (integer, kind) for kind, (integer, narrow) in _VIEWS.items()}


def to_numpy(tensor: Any) -> NumpyArray:
    """A torch tensor's values on the host, without copy where it lies there."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype in _VIEWS:
        integer, narrow = _VIEWS[tensor.dtype]
        return tensor.contiguous().view(integer).numpy().view(narrow)
    return tensor.numpy()


def to_torch(array: NumpyArray) -> Any:
    """A numpy array as a torch tensor that owns its memory."""
    array = np.array(array, order="C")
    if array.dtype in _BACK:
        integer, kind = _BACK[array.dtype]
        return torch.from_numpy(array.view(str(integer).removeprefix("torch."))).view(kind)
    return torch.from_numpy(array)


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor, or a subclass of it such as a parameter."""
    return isinstance(value, torch.Tensor)


def tensor_ref(tensor: Any, source: str = "memory") -> TensorRef:
    """A torch tensor as a reference; it is read when asked for, so later changes to it are seen.

    Raises:
        ValueError: It has no plain values: sparse, quantised, nested, on the meta device, of an unknown format.
    """
    dtype = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if tensor.is_quantized or (dtype is None and "int" in str(tensor.dtype)):
        raise ValueError(f"is quantised or packed ({tensor.dtype})")
    if dtype is None:
        raise ValueError(f"has the dtype {tensor.dtype}, which checkpoints are not read in")
    if tensor.device.type == "meta":
        raise ValueError("is on the meta device and has no values")
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise ValueError("is sparse or nested")
    return TensorRef(dtype, tuple(tensor.shape), lambda: to_numpy(tensor), source)
