"""How well masks fit: overlap, and distances between their borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modelwright.errors import InputError, MissingExtraError


def dice(predicted: Any, target: Any, *, empty: float = float("nan")) -> float:
    """Dice coefficient of two masks: twice what both hold, by what each holds; in [0, 1].

    Args:
        predicted: Truth values, or 0 and 1, of any shape.
        target: The same shape.
        empty: What two empty masks come to; NaN leaves the decision to who averages.

    Raises:
        InputError: Shapes differ, or there are values beside 0 and 1.

    Example:
        >>> from modelwright.predictions.measures import dice
        >>> dice([[1, 1, 0, 0]], [[0, 1, 1, 0]])
        0.5

    Source:
        Dice 1945, Ecology 26.
    """
    predicted, target = _masks(predicted, target)
    held = int(np.count_nonzero(predicted)) + int(np.count_nonzero(target))
    return 2 * int(np.count_nonzero(predicted & target)) / held if held else empty


def dice_by_class(predicted: Any, target: Any, classes: int, *, empty: float = float("nan")) -> np.ndarray:
    """Dice coefficient of each class of two label maps: float64 (classes,).

    Args:
        predicted: Whole numbers in [0, classes), of any shape.
        target: The same shape.
        classes: How many there are, the background among them.
        empty: What a class that is in neither comes to.

    Raises:
        InputError: Shapes differ, or a label is out of range.
    """
    maps = [np.asarray(one) for one in (predicted, target)]
    _same_shape(*maps)
    for one in maps:
        if one.dtype.kind not in "iu" or one.min() < 0 or one.max() >= classes:
            raise InputError(f"label maps must hold whole numbers in [0, {classes}), got {one.dtype} up to {one.max()}")
    flat = [one.reshape(-1) for one in maps]
    both = np.bincount(flat[0][flat[0] == flat[1]], minlength=classes)
    held = sum(np.bincount(one, minlength=classes) for one in flat)
    return np.divide(2.0 * both, held, out=np.full(classes, empty), where=held > 0)


def border(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that touch, by a side, one outside of it; the image's edge counts as outside."""
    mask = np.asarray(mask, dtype=bool)
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for shift in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(shift, shift + mask.shape[axis])
            inside &= padded[tuple(window)]
    return mask & ~inside


def surface_distances(
    predicted: Any, target: Any, *, spacing: float | Sequence[float] = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """How far each border pixel of one mask lies from the other's border, both ways.

    Args:
        predicted: Truth values, or 0 and 1, of any shape.
        target: The same shape.
        spacing: Distance between neighbours, one number or one for each axis, above 0.

    Returns:
        Euclidean distances from the predicted border, (b,), and to it from the target's, (c,). Infinite where the other
        mask is empty; none where a mask itself is.

    Raises:
        InputError: Shapes differ, there are values beside 0 and 1, or the spacing does not fit.
    """
    predicted, target = _masks(predicted, target)
    steps = _spacing(spacing, predicted.ndim)
    box = _box(predicted | target)
    edges = border(predicted)[box], border(target)[box]
    return _distances(edges[0], edges[1], steps), _distances(edges[1], edges[0], steps)


def hausdorff(
    predicted: Any, target: Any, *, percentile: float = 95.0, spacing: float | Sequence[float] = 1.0
) -> float:
    """Hausdorff distance of two masks' borders, or a percentile of it: HD95 at its default.

    Args:
        predicted: Truth values, or 0 and 1, of any shape.
        target: The same shape.
        percentile: In (0, 100]; 100 is the largest distance.
        spacing: Distance between neighbours, one number or one for each axis, above 0.

    Returns:
        The larger of the two directions' percentiles, as MONAI has it (MedPy takes one percentile of both together);
        infinite where one mask is empty, NaN where both are.

    Raises:
        InputError: As in `surface_distances`; or the percentile is out of range.
    """
    if not 0 < percentile <= 100:
        raise InputError(f"percentile must be in (0, 100], got {percentile}")
    first, second = surface_distances(predicted, target, spacing=spacing)
    if not first.size and not second.size:
        return float("nan")
    if not first.size or not second.size:
        return float("inf")
    return float(max(np.percentile(first, percentile), np.percentile(second, percentile)))


def _masks(predicted: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    masks = [np.asarray(one) for one in (predicted, target)]
    _same_shape(*masks)
    for one in masks:
        if one.dtype.kind != "b" and not np.isin(one, (0, 1)).all():
            raise InputError("masks must hold truth values, or 0 and 1", "Threshold probabilities first: p >= 0.5.")
    return masks[0].astype(bool), masks[1].astype(bool)


def _same_shape(predicted: np.ndarray, target: np.ndarray) -> None:
    if predicted.shape != target.shape or not predicted.ndim or not predicted.size:
        raise InputError(f"masks must have one shape, got {predicted.shape} and {target.shape}")


def _spacing(spacing: float | Sequence[float], axes: int) -> np.ndarray:
    steps = (
        np.broadcast_to(np.asarray(spacing, np.float64), (axes,))
        if np.ndim(spacing) == 0
        else np.asarray(spacing, np.float64)
    )
    if steps.shape != (axes,) or not (np.isfinite(steps).all() and steps.min() > 0):
        raise InputError(f"spacing must be above 0, one number or {axes}, one for each axis, got {spacing}")
    return steps


def _box(held: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around all that is held; borders' distances need no more."""
    box = []
    for axis in range(held.ndim):
        line = np.flatnonzero(held.any(axis=tuple(a for a in range(held.ndim) if a != axis)))
        box.append(slice(int(line[0]), int(line[-1]) + 1) if line.size else slice(0, 0))
    return tuple(box)


def _distances(from_: np.ndarray, to: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    if not to.any():
        return np.full(int(np.count_nonzero(from_)), np.inf)
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise MissingExtraError("distances between masks", "scipy", "eval") from error
    far = np.asarray(distance_transform_edt(~to, sampling=spacing))
    return far[from_]
