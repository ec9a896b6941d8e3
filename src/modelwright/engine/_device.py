"""Tensors to an accelerator and back, in their storage formats, through pinned memory and a stream for each thread.

While one thread's tensor is being computed, the other thread's is on its way: two threads are a double buffer. What
crosses the bus is as narrow as on the disk; it is widened and rounded on the device.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

from modelwright.checkpoint import NumpyArray
from modelwright.errors import MissingExtraError
from modelwright.tensors import DTYPES, to_numpy

_own = threading.local()


def torch_for(device: str) -> Any:
    """torch, which a device needs.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtraError(f"--device {device}", "torch", "torch") from None
    return torch


@contextmanager
def on(device: str) -> Generator[None]:
    """Work on this thread's stream of a CUDA device; at the end all of it is done. Other devices have one queue."""
    if not device.startswith("cuda"):
        yield
        return
    torch = torch_for(device)
    streams: dict[str, Any] = _own.__dict__.setdefault("streams", {})
    stream = streams.get(device) or streams.setdefault(device, torch.cuda.Stream(device))
    with torch.cuda.stream(stream):
        yield
        stream.synchronize()


def send(array: NumpyArray, device: str, place: int) -> Any:
    """A numpy array as a torch tensor of the same format on a device.

    Args:
        array: The values, in a storage format.
        device: Where to.
        place: Which of the thread's pinned buffers it goes through. It must not be sent through again before the stream
            was synchronised, which `on` does at its end.
    """
    torch = torch_for(device)
    kind = getattr(torch, DTYPES[array.dtype.name].name)
    if array.size == 0:  # torch cannot look at nothing as another format
        return torch.empty(array.shape, dtype=kind, device=device)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if not device.startswith("cuda"):
        # copied, because what was read may belong to the caller
        return torch.from_numpy(flat.copy()).view(kind).reshape(array.shape).to(device)
    pinned = _pinned(torch, place, flat.size)
    pinned.numpy()[:] = flat
    return pinned.to(device, non_blocking=True).view(kind).reshape(array.shape)


def fetch(tensor: Any, device: str) -> NumpyArray:
    """A tensor's values on the host, in its format."""
    torch = torch_for(device)
    if not device.startswith("cuda") or tensor.numel() == 0:
        return to_numpy(tensor)
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    pinned = _pinned(torch, -1, flat.numel())
    pinned.copy_(flat, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    known = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    return pinned.numpy().copy().view(known.numpy).reshape(tuple(tensor.shape))


def _pinned(torch: Any, place: int, size: int) -> Any:
    """The first bytes of one of this thread's pinned buffers, which grow and are kept."""
    buffers: dict[int, Any] = _own.__dict__.setdefault("buffers", {})
    if place not in buffers or buffers[place].numel() < size:
        buffers[place] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    return buffers[place][:size]
