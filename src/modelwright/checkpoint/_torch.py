"""What needs torch: tensors in memory, and pickled weight files (tensors only, never code)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch as _torch

from modelwright.architectures import is_mapping
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.checkpoint._safetensors import LFS_POINTER, lfs_pointer
from modelwright.errors import InputError, listing
from modelwright.tensors import DTYPES

torch: Any = _torch

#: Formats that numpy knows through ml_dtypes only, moved as integers of the same width.
_VIEWS: dict[Any, tuple[Any, Any]] = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
}
_BACK: dict[Any, tuple[Any, Any]] = {np.dtype(narrow): (integer, kind) for kind, (integer, narrow) in _VIEWS.items()}
#: Where training scripts put the weights inside a file; the first that is there is read.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params", "weights")


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


def read_torch_file(path: Path) -> tuple[dict[str, TensorRef], list[str]]:
    """The tensors of a `.bin`, `.pt`, `.pth`, `.ckpt` or `.th` file, memory-mapped where the format allows it.

    Returns:
        The tensors, and notes on what else the file holds.

    Raises:
        InputError: The file holds anything but tensors in dicts, or is damaged.
    """
    loaded, notes = _unwrapped(path, _load(path))
    if not is_mapping(loaded):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a dict of tensors", "Save the state dict alone.")
    odd = [str(name) for name, value in loaded.items() if not isinstance(name, str) or not is_tensor(value)]
    if odd:
        raise InputError(f"{path} holds entries that are not tensors: {listing(odd)}", "Save the state dict alone.")
    tensors: dict[str, TensorRef] = {}
    for name, value in loaded.items():
        try:
            tensors[name] = tensor_ref(value, f"{path.name}:{name}")
        except ValueError as error:
            raise InputError(f"{path}: '{name}' {error}", "Save it as a plain tensor.") from None
    return tensors, notes


def _unwrapped(path: Path, loaded: Any) -> tuple[Any, list[str]]:
    """The state dict inside what a training script saved, at most two levels deep."""
    notes: list[str] = []
    for _ in range(2):
        table: Mapping[Any, Any] = loaded if is_mapping(loaded) else {}
        key = next((key for key in _WRAPPERS if is_mapping(table.get(key))), None)
        if key is None:
            break
        rest = [str(other) for other in table if other != key]
        if rest:
            notes.append(f"{path.name}: the weights are its '{key}'; left out: {listing(rest)}")
        loaded = table[key]
    return loaded, notes


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    if pointer:
        raise lfs_pointer(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the pickle is of a newer protocol than usual
            return _load_mapped(path)
    except Exception as error:  # torch's unpickler raises nearly anything on a damaged file
        raise _refusal(path, str(error) or type(error).__name__) from None


def _load_mapped(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError) as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # files from before torch 1.6


def _refusal(path: Path, text: str) -> InputError:
    """What is wrong, without torch's advice on how to run the code anyway."""
    if match := re.search(r"GLOBAL (\S+)", text):
        return InputError(
            f"{path} holds more than tensors: unpickling it would import {match[1]}, which could run code",
            "Save its state dict alone, or convert it to safetensors where you trust it.",
        )
    if "TorchScript" in text:
        return InputError(f"{path} is a TorchScript program, not weights", "Save its state_dict() alone.")
    if "Unsupported operand 149" in text:
        return InputError(f"{path} is pickled with protocol 4 or newer", "Save it with torch.save as it is by default.")
    match = re.search(r"Unsupported \w+ \S+", text)
    what = match[0] if match else re.split(r"\. |\n", text)[0][:200]
    return InputError(f"{path} cannot be read as a torch file ({what})", "Copy or download it again.")
