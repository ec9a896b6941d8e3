"""What needs torch: tensors in memory, and pickled weight files (tensors only, never code)."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch as _torch

from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.errors import InputError, listing
from modelwright.tensors import dtype as find_dtype

torch: Any = _torch

#: Formats that numpy knows through ml_dtypes only, moved as integers of the same width.
_VIEWS = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
}
_BACK = {np.dtype(narrow): (integer, kind) for kind, (integer, narrow) in _VIEWS.items()}
#: Where training scripts put the weights inside a file.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params", "weights")


def to_numpy(tensor: Any) -> NumpyArray:
    """A torch tensor's values on the host, without copy where it lies there."""
    tensor = tensor.detach().cpu()
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


def tensor_ref(tensor: Any, source: str = "memory") -> TensorRef:
    """A torch tensor as a reference; it is read when asked for, so later changes to it are seen."""
    return TensorRef(find_dtype(str(tensor.dtype)), tuple(tensor.shape), lambda: to_numpy(tensor), source)


def read_torch_file(path: Path) -> dict[str, TensorRef]:
    """The tensors of a `.bin`, `.pt`, `.pth`, `.ckpt` or `.th` file, memory-mapped where the format allows it.

    Raises:
        InputError: The file holds anything but tensors in dicts, or is damaged.
    """
    loaded = _load(path)
    for _ in range(2):
        if isinstance(loaded, Mapping) and not any(isinstance(v, torch.Tensor) for v in loaded.values()):  # type: ignore[reportUnknownVariableType]
            inner: Any = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)  # type: ignore[reportUnknownMemberType]
            loaded = loaded if inner is None else inner
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a dict of tensors")
    values: dict[str, Any] = {str(name): value for name, value in loaded.items()}  # type: ignore[reportUnknownVariableType]
    odd = [name for name, value in values.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise InputError(f"{path} holds entries that are not tensors: {listing(odd)}", "Save the state dict alone.")
    return {name: tensor_ref(value, f"{path.name}:{name}") for name, value in values.items()}


def _load(path: Path) -> Any:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError) as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # files from before torch 1.6
    except pickle.UnpicklingError as error:
        what = str(error).splitlines()[0][:200]
        raise InputError(
            f"{path} holds more than tensors, and unpickling it could run code ({what})",
            "Convert it to safetensors where you trust it.",
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} cannot be read as a torch file ({what})", "Copy or download it again.") from None
