"""What an answer costs: multiply-adds that are counted, or milliseconds that are measured."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelwright.errors import InputError, MissingExtraError
from modelwright.predictions.cascades._run import count_of


def multiply_adds(module: Any, inputs: Any) -> float:
    """Multiply-adds of one sample in a module's forward pass.

    Counted are products of matrices, convolutions and the two products of attention, on the shapes that occur: a product
    of (n, k) and (k, m) is n k m. Not counted are what is added or done element by element (biases, norms, activations,
    softmax) and looking up embeddings. A causal mask saves nothing in this count, nor does padding.

    Args:
        module: A torch module.
        inputs: A batch of N >= 1 samples: a tensor, or tensors by name. Counts are divided by N. Tensors on the device
            `meta`, with a module there, count without computing.

    Raises:
        MissingExtraError: torch is not installed.
        InputError: There are no samples.

    Differs:
        Half of what torch's FlopCounterMode says, which counts a multiply-add as two.
    """
    try:
        import torch
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError as error:
        raise MissingExtraError("counting multiply-adds", "torch", "torch") from error
    count = count_of(inputs)
    if not count:
        raise InputError("multiply-adds are counted on at least one sample, got none")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _written_out(), counter:
        if isinstance(inputs, Mapping):
            module(**inputs)
        else:
            module(inputs)
    return counter.get_total_flops() / 2 / count


@contextmanager
def _quiet() -> Iterator[None]:
    """Switching oneDNN off speaks of graphics cards that are not there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        yield


@contextmanager
def _written_out() -> Iterator[None]:
    """Fused attention and recurrent kernels are computed as products of matrices: the counter does not know them all."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            _quiet(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def folder_multiply_adds(folder: str | Path, tokens: int | None = None) -> float:
    """Multiply-adds of one sample for a transformers folder, from its config.json alone: no weights are read.

    The rule is that of `multiply_adds`, with attention as two explicit products of matrices.

    Args:
        folder: With a config.json that names its architecture.
        tokens: Length of a text; needed for models of texts. Images have the size that the configuration says.

    Raises:
        MissingExtraError: torch or transformers are not installed.
        InputError: There is no configuration, no architecture, or no length for a model of texts.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError("counting multiply-adds", "transformers", "torch") from error
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise InputError(f"there is no config.json in '{path}'", "Give the folder of a transformers model.")
    config = transformers.AutoConfig.from_pretrained(path)
    named = (getattr(config, "architectures", None) or [None])[0]
    kind = getattr(transformers, named, None) if named else None
    if kind is None:
        raise InputError(
            f"config.json in '{path}' names no architecture that transformers has: {named}",
            "Open the model yourself and use multiply_adds.",
        )
    with torch.device("meta"):
        module = kind._from_config(config, attn_implementation="eager").eval()
        inputs = _example(module, config, tokens, str(path))
    return multiply_adds(module, inputs)


def _example(module: Any, config: Any, tokens: int | None, where: str) -> dict[str, Any]:
    """One sample without values, on the device `meta`."""
    import torch

    name = module.main_input_name
    if name == "pixel_values":
        size = config.image_size
        sides = size if isinstance(size, list | tuple) else (size, size)
        return {name: torch.empty(1, getattr(config, "num_channels", 3), *sides)}
    if name != "input_ids":
        raise InputError(f"a model that takes '{name}' cannot be counted from its configuration", where=where)
    if tokens is None or tokens < 1:
        raise InputError(f"models of texts need the number of tokens, at least 1, got {tokens}", "Pass tokens=.", where)
    return {name: torch.empty(1, tokens, dtype=torch.long)}


def milliseconds(member: Callable[[Any], Any], inputs: Any, *, repeats: int = 5) -> float:
    """Time of one sample on this machine: the median over some runs of a batch, divided by its size.

    Args:
        member: A function of a batch; it is called once before it is timed. On an accelerator it must wait for its result.
        inputs: A batch of N >= 1 samples.
        repeats: How many runs, at least 1.

    Raises:
        InputError: There are no samples or no runs.
    """
    count = count_of(inputs)
    if not count or repeats < 1:
        raise InputError(f"time is measured on at least one sample and run, got {count} and {repeats}")
    member(inputs)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        member(inputs)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3 / count
