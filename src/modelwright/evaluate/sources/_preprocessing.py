"""What is done to inputs before a model sees them, step by step as a task file says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modelwright.errors import InputError, listing
from modelwright.evaluate.sources._images import as_colour, resized
from modelwright.evaluate.sources._settings import Normalise, Step


def preprocessed(inputs: Any, steps: Sequence[Step], ids: Sequence[str]) -> Any:
    """Inputs after all steps; images of one size become one array.

    Args:
        inputs: An array (n, ...), a list of arrays, or texts.
        steps: In order.
        ids: For messages.

    Raises:
        InputError: A step does not fit the inputs.
    """
    for number, step in enumerate(steps, 1):
        try:
            inputs = _STEPS[step.word](inputs, getattr(step, step.word), ids)
        except InputError as error:
            raise InputError(error.problems[0].what, error.problems[0].mend, f"preprocessing step {number}") from None
    return _together(inputs, ids)


def _together(inputs: Any, ids: Sequence[str]) -> Any:
    """One array of a list of them; texts and arrays stay as they are."""
    if isinstance(inputs, np.ndarray) or not isinstance(inputs[0], np.ndarray):
        return inputs
    shapes = {image.shape: name for image, name in zip(inputs, ids, strict=True)}
    if len(shapes) > 1:
        found = [f"{shape} ('{name}')" for shape, name in shapes.items()]
        mend = "Say preprocessing: [{colour: rgb}, {resize: [32, 32]}] in a task file."
        raise InputError(f"inputs must have one shape, got {listing(found, 3)}", mend)
    return np.stack(inputs)


def _array(inputs: Any, ids: Sequence[str]) -> np.ndarray:
    found = _together(inputs, ids)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iufb":
        raise InputError("inputs must be numbers or images, got texts", "Leave preprocessing out.")
    return found


def _images(inputs: Any) -> list[np.ndarray]:
    images = list(inputs)
    wrong = [i for i in images if getattr(i, "dtype", None) != np.uint8 or not (i.ndim == 2 or i.shape[2:] == (3,))]
    if wrong:
        found = f"{wrong[0].dtype} of shape {wrong[0].shape}" if isinstance(wrong[0], np.ndarray) else "a text"
        mend = "colour and resize come first, before scale and channels."
        raise InputError(f"images must be uint8 of shape (h, w) or (h, w, 3), got {found}", mend)
    return images


def _colour(inputs: Any, colour: str, ids: Sequence[str]) -> Any:
    return [as_colour(image, colour) for image in _images(inputs)]


def _resize(inputs: Any, size: Sequence[int], ids: Sequence[str]) -> Any:
    return [resized(image, size) for image in _images(inputs)]


def _channels(inputs: Any, place: str, ids: Sequence[str]) -> np.ndarray:
    images = _array(inputs, ids)
    if images.ndim == 3:
        return images[:, None] if place == "first" else images[..., None]
    if images.ndim != 4:
        raise InputError(f"images must have shape (n, h, w) or (n, h, w, c), got {images.shape}")
    return np.moveaxis(images, -1, 1) if place == "first" else images


def _scale(inputs: Any, bounds: Sequence[float], ids: Sequence[str]) -> np.ndarray:
    values, (low, high) = _array(inputs, ids), bounds
    if not low < high:
        raise InputError(f"scale must be [low, high] with low below high, got [{low:g}, {high:g}]")
    flat = values.reshape(len(values), -1)
    wrong = np.flatnonzero(~((flat >= low) & (flat <= high)).all(axis=1))  # NaN is in no range
    if wrong.size:
        row = flat[wrong[0]]
        found = row[~((row >= low) & (row <= high))][0]
        raise InputError(f"values must be in [{low:g}, {high:g}], got {found:g} in item '{ids[wrong[0]]}'")
    return ((values.astype(np.float64) - low) / (high - low)).astype(np.float32)


def _normalise(inputs: Any, said: Normalise, ids: Sequence[str]) -> np.ndarray:
    values = _array(inputs, ids)
    axes = values.ndim - 1
    if not -axes <= said.axis < axes:
        raise InputError(
            f"normalise: an item has {axes} axes, so axis must be in [-{axes}, {axes - 1}], got {said.axis}"
        )
    axis = said.axis if said.axis < 0 else said.axis + 1
    mean, std = (_along(number, values, axis) for number in (said.mean, said.std))
    if (std <= 0).any():
        raise InputError(f"normalise: std must be above 0, got {said.std}")
    kind = values.dtype if values.dtype.kind == "f" else np.dtype(np.float32)
    return ((values.astype(np.float64) - mean) / std).astype(kind)


def _along(numbers: list[float], values: np.ndarray, axis: int) -> np.ndarray:
    """One number for all, or one for each place along an axis."""
    if len(numbers) not in (1, values.shape[axis]):
        places = f"{values.shape[axis]} values along axis {axis if axis < 0 else axis - 1} of an item"
        raise InputError(f"normalise: {len(numbers)} numbers for {places}", "Say axis: 0 after channels: first.")
    shape = [1] * values.ndim
    shape[axis] = len(numbers)
    return np.asarray(numbers, dtype=np.float64).reshape(shape)


def _flatten(inputs: Any, _: bool, ids: Sequence[str]) -> np.ndarray:
    values = _array(inputs, ids)
    return values.reshape(len(values), -1)


def _dtype(inputs: Any, name: str, ids: Sequence[str]) -> np.ndarray:
    values = _array(inputs, ids)
    result = values.astype(name)
    if np.dtype(name).kind in "iu" and not np.array_equal(result, values):
        raise InputError(f"dtype: some values are no {name}", "Scale them first, or choose a floating format.")
    return result


_STEPS: dict[str, Callable[[Any, Any, Sequence[str]], Any]] = {
    "colour": _colour, "resize": _resize, "channels": _channels, "scale": _scale, "normalise": _normalise,
    "flatten": _flatten, "dtype": _dtype,
}  # fmt: skip
