"""What holds for every method whatever it computes: inputs, formats, shapes, libraries and gradients."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelwright.methods import Method
from modelwright.tensors import NoiseKey, narrow, to_numpy, widen

from .cases import ALL, SHAPES, SMOOTH, VARIANTS, call, count_of, draw, tensors

KEY = NoiseKey(seed=11, tensor="model.norm.weight")


def torch_of(dtype: str) -> Callable[[Any], Any]:
    torch = pytest.importorskip("torch")
    return lambda array: torch.tensor(np.asarray(array, np.float64), dtype=getattr(torch, dtype))


def jax_of(dtype: str) -> Callable[[Any], Any]:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return lambda array: jax.numpy.asarray(np.asarray(array, np.float64), dtype=dtype)


def numpy_of(dtype: str) -> Callable[[Any], Any]:
    return lambda array: np.asarray(array).astype(getattr(ml_dtypes if dtype == "bfloat16" else np, dtype))


LIBRARIES = {"numpy": numpy_of, "torch": torch_of, "jax": jax_of}
FORMATS = [
    pytest.param(library, dtype, id=f"{library}-{dtype}")
    for library in LIBRARIES
    for dtype in ("float32", "float64", "float16", "bfloat16")
]


def setting(method: Method, chosen: dict[str, Any], shape: tuple[int, ...] = (4, 6)) -> tuple[list[Any], Any, Any]:
    """Models, base and parameters, the same in every process."""
    count = count_of(method)
    seed = zlib.crc32(method.name.encode())
    *models, base = tensors(count + 1, shape, seed)
    return models, base, draw(method, count, np.random.default_rng(seed), chosen)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("method", "chosen"), VARIANTS)
def test_inputs_are_untouched_and_the_result_is_new(method: Method, chosen: dict[str, Any], library: str) -> None:
    models, base, parameters = setting(method, chosen)
    arrays = [LIBRARIES[library]("float32")(array) for array in (*models, base)]
    before = [to_numpy(array).copy() for array in arrays]
    result = to_numpy(call(method, arrays[:-1], arrays[-1], parameters))
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(to_numpy(array), copy, strict=True)
        assert library == "jax" or not np.shares_memory(result, to_numpy(array))  # jax arrays cannot be written


@pytest.mark.parametrize(("library", "dtype"), FORMATS)
@pytest.mark.parametrize("method", ALL)
def test_type_format_and_shape_are_kept(method: Method, library: str, dtype: str) -> None:
    convert = LIBRARIES[library](dtype)
    for shape in SHAPES:
        models, base, parameters = setting(method, {}, shape)
        arrays = [convert(array) for array in (*models, base)]
        result = call(method, arrays[:-1], arrays[-1], parameters)
        assert type(result) is type(arrays[0])
        assert (result.dtype, tuple(result.shape)) == (arrays[0].dtype, shape)
        assert getattr(result, "device", None) == getattr(arrays[0], "device", None)


@pytest.mark.parametrize(("method", "chosen"), VARIANTS)
def test_every_option_takes_every_shape(method: Method, chosen: dict[str, Any]) -> None:
    for shape in SHAPES:
        models, base, parameters = setting(method, chosen, shape)
        result = call(method, models, base, parameters)
        assert isinstance(result, np.ndarray)
        assert result.shape == shape
        assert np.all(np.isfinite(result))


@pytest.mark.parametrize(("method", "chosen"), VARIANTS)
def test_memory_layout_does_not_matter(method: Method, chosen: dict[str, Any]) -> None:
    models, base, parameters = setting(method, chosen, (6, 5, 4))
    strided = [np.repeat(array, 2, axis=1)[:, ::2] for array in (*models, base)]
    turned = [np.asfortranarray(array) for array in (*models, base)]
    expected = call(method, models, base, parameters)
    for arrays in (strided, turned):
        assert not any(array.flags.c_contiguous for array in arrays)
        np.testing.assert_array_equal(call(method, arrays[:-1], arrays[-1], parameters), expected)


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize(("method", "chosen"), VARIANTS)
def test_libraries_agree_with_numpy(method: Method, chosen: dict[str, Any], library: str) -> None:
    convert = LIBRARIES[library]("float32")
    models, base, parameters = setting(method, chosen, (9, 8))
    models, base = [array.astype(np.float32) for array in models], base.astype(np.float32)
    expected = call(method, models, base, parameters, KEY)
    found = to_numpy(call(method, [convert(array) for array in models], convert(base), parameters, KEY))
    if library == "torch" and method.reproducible == "bits":
        np.testing.assert_array_equal(found, expected, strict=True)
    else:  # other sines, and fused multiply-adds
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, float(np.finfo(np.float32).smallest_subnormal)])
@pytest.mark.parametrize(("method", "chosen"), VARIANTS)
def test_constant_tensors_and_denormals(method: Method, chosen: dict[str, Any], value: float) -> None:
    _, _, parameters = setting(method, chosen)
    steps = range(count_of(method) + 1)
    for arrays in (
        [np.full((3, 4), value, np.float32)] * len(steps),
        [np.full(12, value * i, np.float32) for i in steps],
    ):
        result = call(method, arrays[:-1], arrays[-1], parameters)
        assert np.all(np.isfinite(result))
        assert np.all(np.abs(result) <= 8 * len(steps) ** 2 * value)  # no floor turned nothing into something


@pytest.mark.parametrize(("method", "chosen"), VARIANTS)
def test_a_sixteen_bit_merge_rounds_once(method: Method, chosen: dict[str, Any]) -> None:
    models, base, parameters = setting(method, chosen)
    short = [array.astype(ml_dtypes.bfloat16) for array in (*models, base)]
    wide = [widen(array) for array in short]
    expected = narrow(call(method, wide[:-1], wide[-1], parameters), np.dtype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(call(method, short[:-1], short[-1], parameters), expected)


@pytest.mark.parametrize(("method", "chosen"), VARIANTS)
def test_the_record_runs_the_same_function(method: Method, chosen: dict[str, Any]) -> None:
    models, base, parameters = setting(method, chosen)
    expected = call(method, models, base, parameters, KEY)
    anchor = None if method.base == "ignored" else base
    np.testing.assert_array_equal(method.run(models, anchor, parameters, KEY, {}), expected)


@pytest.mark.torch
@pytest.mark.parametrize("degenerate", ["gaussian", "equal", "zero"])
@pytest.mark.parametrize(("method", "chosen"), SMOOTH)
def test_gradients_reach_every_input(method: Method, chosen: dict[str, Any], degenerate: str) -> None:
    convert = torch_of("float64")
    models, base, parameters = setting(method, chosen)
    if degenerate != "gaussian":  # norms of zero and angles of zero: where a careless square root gives NaN
        models, base = [base * (degenerate == "equal")] * len(models), base * (degenerate == "equal")
    arrays = [convert(array).requires_grad_() for array in (*models, base)]
    used = arrays[:-1] if method.base == "ignored" else arrays
    call(method, arrays[:-1], arrays[-1], parameters).square().sum().backward()
    for array in used:
        assert array.grad is not None
        assert bool(array.grad.isfinite().all())


@pytest.mark.torch
@pytest.mark.parametrize(("method", "chosen"), SMOOTH)
def test_gradients_are_those_of_finite_differences(method: Method, chosen: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    models, base, parameters = setting(method, chosen, (2, 4))
    arrays = [torch_of("float64")(array).requires_grad_() for array in (*models, base)]

    def merged(*inputs: Any) -> Any:
        return call(method, inputs[:-1], inputs[-1], parameters)

    assert torch.autograd.gradcheck(merged, arrays)
