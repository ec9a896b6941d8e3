"""What measures are given, checked once and by name; and how a large bank is gone through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from modelwright.errors import InputError
from modelwright.predictions._scales import SUM_TOLERANCE

#: Numbers of a block: 2 MB in float64, which stays in a core's cache.
_BLOCK = 1 << 18


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the samples of (N, C) or (M, N, C), each of so few samples that a block of float64 stays small."""
    count, width = shape[-2], shape[-1] * (shape[0] if len(shape) == 3 else 1)
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def checked_probabilities(probabilities: Any, axes: int = 2) -> np.ndarray:
    """An array of class probabilities as it is, (N, C) or (M, N, C), float32 or float64.

    Raises:
        InputError: It has another number of axes, fewer than two classes, no samples, a value that is not finite or
            negative, or a row that does not sum to 1 within 0.001.
    """
    array = np.asarray(probabilities)
    letters = "(N, C)" if axes == 2 else "(M, N, C)"
    if array.ndim != axes or array.dtype.kind != "f":
        raise InputError(f"probabilities must be floats of shape {letters}, got {array.dtype} {array.shape}")
    if array.shape[-1] < 2:
        raise InputError(
            f"probabilities must be of at least 2 classes, got {array.shape[-1]}",
            "Give both columns of a binary problem: 1 - p and p.",
        )
    if 0 in array.shape:
        raise InputError(f"there are no samples in probabilities of shape {array.shape}")
    for rows in blocks(array.shape):
        _check_block(array[..., rows, :], rows.start)
    return array


def _check_block(block: np.ndarray, start: int) -> None:
    sums = block @ np.ones(block.shape[-1], block.dtype)  # NaN and infinity survive sums; opposite infinities are a NaN
    wrong = ~(np.abs(sums - 1) <= SUM_TOLERANCE)
    negative = block.min() < 0
    if not wrong.any() and not negative:
        return
    if not np.isfinite(block).all():
        place = np.argwhere(~np.isfinite(block))[0]
        raise InputError(f"a probability of {_sample(place[:-1], start)} is not finite: {block[tuple(place)]}")
    if negative:
        place = np.argwhere(block < 0)[0]
        raise InputError(
            f"a probability of {_sample(place[:-1], start)} is negative: {block[tuple(place)]:.4g}",
            "If these are logits, take a softmax of them first.",
        )
    place = np.argwhere(wrong)[0]
    raise InputError(
        f"probabilities must sum to 1, those of {_sample(place, start)} sum to {sums[tuple(place)]:.4g}",
        "If these are logits, take a softmax of them first.",
    )


def _sample(place: np.ndarray, start: int) -> str:
    member = f" of member {place[0]}" if len(place) == 2 else ""
    return f"sample {start + place[-1]}{member}"


def checked_targets(targets: Any, count: int, classes: int) -> np.ndarray:
    """Class indices (N,).

    Raises:
        InputError: They are not N whole numbers in [0, C).
    """
    array = np.asarray(targets)
    if array.shape != (count,):
        raise InputError(f"there must be one target for each of {count:,} samples, got the shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise InputError(f"targets must be indices of classes, whole numbers, got {array.dtype}")
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if wrong.size:
        raise InputError(f"targets must be in [0, {classes}), got {array[wrong[0]]} for sample {wrong[0]}")
    return array


def checked_numbers(values: Any, what: str, count: int | None = None) -> np.ndarray:
    """Numbers (N,) as float64, at least one.

    Raises:
        InputError: They have another shape, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise InputError(f"{what} must be one number a sample, (N,) with N at least 1, got the shape {array.shape}")
    if count is not None and len(array) != count:
        raise InputError(f"there must be {count:,} {what}, one for each sample, got {len(array):,}")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise InputError(f"{what} must be finite, got {array[wrong[0]]} for sample {wrong[0]}")
    return array


def checked_members(values: Any, what: str, least: int = 1) -> np.ndarray:
    """An array (M, N) of what M members said about N samples.

    Raises:
        InputError: It has another number of axes, too few members, or no samples.
    """
    array = np.asarray(values)
    if array.ndim != 2 or not array.shape[1]:
        raise InputError(f"{what} must have the shape (M, N), members and samples, got {array.shape}")
    if array.shape[0] < least:
        raise InputError(f"{what} of at least {least} members are needed, got {array.shape[0]}")
    return array
