"""Training in torch, the same bits each time. This module needs torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.errors import InputError, RunError
from modelwright.train._threads import THREADS, one_blas_thread


@dataclass(frozen=True)
class Schedule:
    """How a network is trained: AdamW with a warm-up and a cosine down to zero.

    Attributes:
        steps: How many steps, at least 0.
        rate: Highest learning rate, above 0.
        batch: Items a step, at least 1.
        warmup: Share of the steps in which the rate rises, in [0, 1].
        weight_decay: Share that is taken off matrices a step, times the rate; vectors have none.
        clip: Largest norm of the gradient of all parameters.

    Raises:
        InputError: A number is out of its range.
    """

    steps: int
    rate: float
    batch: int = 64
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0

    def __post_init__(self) -> None:
        least = {"steps": self.steps >= 0, "rate": self.rate > 0, "batch": self.batch >= 1, "clip": self.clip > 0}
        least |= {"warmup": 0 <= self.warmup <= 1, "weight_decay": self.weight_decay >= 0}
        for name, fits in least.items():
            if not fits:
                raise InputError(f"{name} is out of its range, got {getattr(self, name)}")

    def at(self, step: int) -> float:
        """The share of the highest rate at a step, counted from 0."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))


@contextmanager
def steady(device: str = "cpu") -> Iterator[None]:
    """One thread and deterministic algorithms, as far as torch has them; afterwards everything is as it was.

    On a GPU, matrix products are repeatable only with `CUBLAS_WORKSPACE_CONFIG`, which is set unless it is already.
    """
    if device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with one_blas_thread():
            yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(threads)


def one_thread() -> None:
    """Have torch use `THREADS` in this thread, which does not learn of it from the one that began it."""
    torch.set_num_threads(THREADS)


def fit(
    network: nn.Module,
    loss: Callable[[int], Tensor],
    schedule: Schedule,
    *,
    what: str = "training",
    statistics: str = "own",
) -> float:
    """Train a network in place, and leave it in evaluation mode.

    Args:
        network: Parameters that require gradients are trained.
        loss: The loss of a step, counted from 0; it draws its own batch.
        schedule: How.
        what: What is trained, for messages.
        statistics: Of batch normalisation: `own`, those of the batches, with running ones kept; or `frozen`, the running
            ones as they are.

    Returns:
        Mean loss of the last tenth of the steps; NaN where there are none.

    Raises:
        RunError: A loss is not finite.
    """
    trained = [value for value in network.parameters() if value.requires_grad]
    groups = [
        {"params": [v for v in trained if v.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [v for v in trained if v.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98))
    network.train()
    if statistics == "frozen":
        for part in _normalisations(network):
            part.eval()
    last: list[float] = []
    for step in range(schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * schedule.at(step)
        value = loss(step)
        if not torch.isfinite(value):
            raise RunError(f"{what}: the loss is not finite at step {step + 1} of {schedule.steps}")
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(trained, schedule.clip)
        optimiser.step()
        if step >= schedule.steps * 9 // 10:
            last.append(value.item())
    network.eval()
    return float(np.mean(last)) if last else float("nan")


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Positions of batches without end: every item once in a random order, then again in another."""
    left = np.empty(0, np.intp)
    while True:
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(count)])
        yield left[:size]
        left = left[size:]


def load(network: nn.Module, arrays: Mapping[str, Any], device: str = "cpu") -> nn.Module:
    """The network with these tensors, in evaluation mode on a device.

    A tensor that is another name of one, such as a head tied to the embedding, may be left out. Where it is there, it is
    a tensor of its own from now on, as in checkpoints whose head is not tied whatever their library thinks.

    Args:
        network: Made by `build`, or by another library.
        arrays: Tensors by name: what the network has, no more and no fewer.
        device: Where it goes.

    Raises:
        InputError: Names or shapes differ.
    """
    state = {name: torch.as_tensor(np.array(value)) for name, value in arrays.items()}
    for alias in _aliases(network):
        if alias in state:
            _untie(network, alias)
    aliases = _aliases(network)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items() if name not in aliases}
    found = {name: tuple(value.shape) for name, value in state.items()}
    for name in (*wanted, *found):
        if name not in found:
            raise InputError(f"the weights do not fit the network: they have no tensor '{name}'")
        if name not in wanted:
            raise InputError(f"the weights do not fit the network: it has no tensor '{name}'")
        if wanted[name] != found[name]:
            raise InputError(
                f"the weights do not fit the network: '{name}' must have the shape {wanted[name]}, got {found[name]}"
            )
    network.load_state_dict(state | {alias: state[name] for alias, name in aliases.items()})
    return network.to(device).eval()


def _untie(network: nn.Module, name: str) -> None:
    """Give a tensor that is shared a copy of its own."""
    owner, _, last = name.rpartition(".")
    part = network.get_submodule(owner)
    setattr(part, last, nn.Parameter(getattr(part, last).detach().clone()))


def _aliases(network: nn.Module) -> dict[str, str]:
    """Tensors of the state that are another one's, such as a head tied to the embedding -> that one's name."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if id(value) in first:
            found[name] = first[id(value)]
        first.setdefault(id(value), name)
    return found


def arrays_of(network: nn.Module) -> dict[str, np.ndarray]:
    """A network's tensors as numpy arrays, each once."""
    aliases = _aliases(network)
    return {
        name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items() if name not in aliases
    }


def features(network: nn.Module, pixels: np.ndarray, device: str = "cpu", batch: int = 256) -> np.ndarray:
    """What a network in evaluation mode makes of inputs, float32 (n, width)."""
    found: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            part = torch.as_tensor(pixels[start : start + batch]).to(device)
            found.append(network(part).float().cpu().numpy())
    return np.concatenate(found)


def reestimate_statistics(network: nn.Module, parts: Sequence[np.ndarray], device: str = "cpu") -> int:
    """Set the running statistics of batch normalisation to those of given inputs, in place.

    Averaging networks averages the statistics that each saw, which are not those that the averaged network meets.
    This is the usual mend; it needs inputs and no labels.

    Args:
        network: In evaluation mode, and left so.
        parts: Batches of inputs; all count the same.
        device: Where the network is.

    Returns:
        How many normalisations there are; without any, nothing was done.

    Source:
        Jordan et al. 2023, arXiv:2211.08403, section 3.1 ("reset").
    """
    norms = _normalisations(network)
    kept = [part.momentum for part in norms]
    for part in norms:
        part.reset_running_stats()
        part.momentum = None  # the plain mean over batches
        part.train()
    try:
        with torch.inference_mode():
            for part in parts if norms else ():
                network(torch.as_tensor(part).to(device))
    finally:
        for part, momentum in zip(norms, kept, strict=True):
            part.momentum = momentum
            part.eval()
    return len(norms)


def _normalisations(network: nn.Module) -> list[Any]:
    """Every batch normalisation in a network."""
    return [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
