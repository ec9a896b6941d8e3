"""Order statistics, noise and number formats against oracles in plain Python."""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from modelwright.errors import InputError
from modelwright.tensors import (
    DTYPES,
    DType,
    NoiseKey,
    all_finite,
    dot,
    dtype,
    keep_above,
    keep_ranks,
    narrow,
    norm,
    promote,
    row_dot,
    to_numpy,
    uniform,
    widen,
)

QUICK = settings(max_examples=150, deadline=None)
#: Few different values, so that nearly every row has ties.
SIZES = st.sampled_from([0.0, 0.5, 1.0, 1.5, 7.0])
ROWS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=7), elements=SIZES)


def libraries(array: Any) -> list[Any]:
    """The array in numpy and, where it is installed, in torch."""
    try:
        import torch
    except ModuleNotFoundError:
        return [array]
    return [array, torch.from_numpy(array.copy())]


@QUICK
@given(array=ROWS, start=st.integers(0, 9), stop=st.integers(0, 9))
def test_keep_ranks(array: Any, start: int, stop: int) -> None:
    expected = np.zeros(array.shape, dtype=bool)
    for row in np.ndindex(array.shape[:-1]):
        falling = sorted(range(array.shape[-1]), key=lambda i, row=row: (-array[row][i], i))
        for i in falling[start:stop]:
            expected[(*row, i)] = True
    for same in libraries(array):
        np.testing.assert_array_equal(np.asarray(keep_ranks(same, start, stop)), expected, strict=True)


@QUICK
@given(array=ROWS, threshold=SIZES, ties=st.none() | st.integers(0, 12))
def test_keep_above(array: Any, threshold: float, ties: int | None) -> None:
    left = math.inf if ties is None else ties
    expected = []
    for value in array.reshape(-1):
        expected.append(value > threshold or (value == threshold and left > 0))
        left -= value == threshold
    for same in libraries(array):
        found = np.asarray(keep_above(same, threshold, ties))
        np.testing.assert_array_equal(found, np.reshape(np.array(expected, bool), array.shape), strict=True)


def lowbias(place: int, first: int, second: int) -> float:
    """The documented generator for one element, in whole numbers modulo 2**32."""

    def mix(x: int) -> int:
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    return mix(mix((place + first) % 2**32) ^ second) / 2**32


@pytest.mark.parametrize("position", [0, 3])
@pytest.mark.parametrize("key", [NoiseKey(), NoiseKey(2**63 - 1, "model.layers.0.weight"), NoiseKey(1, "gewicht-ß")])
def test_uniform_is_the_documented_generator(key: NoiseKey, position: int) -> None:
    starts = (0, 1000, 2**20 - 7, 2**40)  # one across two segments, one beyond any 32-bit counter
    for start in starts:
        expected: list[float] = []
        for i in range(start, start + 50):
            segment, place = divmod(i, 2**20)
            digest = xxhash.xxh3_128_intdigest(f"{key.seed}\x1f{position}\x1f{key.tensor}\x1f{segment}".encode())
            expected.append(lowbias(place, digest % 2**32, digest // 2**32 % 2**32))
        np.testing.assert_array_equal(uniform(key, position, 50, start), expected, strict=False)


def test_uniform_is_uniform_and_uncorrelated() -> None:
    """Across elements, neighbours, segments and models; bounds are six standard deviations."""
    n = 2**20
    streams = [uniform(NoiseKey(5, "w"), position, n, start) for position in (0, 1) for start in (0, n)]
    for stream in streams:
        counts = np.bincount((stream * 1024).astype(int), minlength=1024)
        chi = ((counts - n / 1024) ** 2 / (n / 1024)).sum()
        assert abs(chi - 1023) < 6 * math.sqrt(2 * 1023)
        for lag in (1, 2, 64, 4096):
            assert abs(np.corrcoef(stream[:-lag], stream[lag:])[0, 1]) < 6 / math.sqrt(n)
        low = (stream * 2**32).astype(np.uint64) & 1  # the last bit as well
        assert abs(low.mean() - 0.5) < 3 / math.sqrt(n)
    for first, second in itertools.combinations(streams, 2):
        assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(n)


def test_uniform_never_changes() -> None:
    """These three numbers are in every merge with noise that was ever made: a change is a new file format."""
    found = uniform(NoiseKey(seed=0, tensor="model.norm.weight"), 0, 3)
    pinned = ["0x1.9d98269600000p-1", "0x1.a31bbc3000000p-4", "0x1.1543bcee00000p-1"]
    assert [x.hex() for x in found.tolist()] == pinned


@QUICK
@given(size=st.integers(0, 300), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_blocks_join_to_the_whole(size: int, cuts: list[int]) -> None:
    key = NoiseKey(3, "w")
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    blocks = [uniform(key, 1, stop - start, start) for start, stop in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(blocks), uniform(key, 1, size), strict=True)


def test_a_long_stream_is_its_elements() -> None:
    """Whatever blocks it is computed in: places around every power of two, one element at a time."""
    key, n = NoiseKey(8, "w"), 300_000
    whole = uniform(key, 2, n)
    for place in sorted({2**power + step for power in range(19) for step in (-1, 0, 1)} & set(range(n))):
        assert whole[place] == uniform(key, 2, 1, place)[0]


def test_uniform_is_uniform_and_streams_are_independent() -> None:
    n = 200_000
    streams = [
        uniform(NoiseKey(seed, tensor), position, n)
        for seed, tensor, position in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))
    ]
    for stream in streams:
        assert 0 <= stream.min() <= stream.max() < 1
        counts = np.bincount((stream * 100).astype(int), minlength=100)
        chi_square = float(np.sum((counts - n / 100) ** 2) / (n / 100))
        assert abs(chi_square - 99) < 5 * math.sqrt(2 * 99)
        assert abs(np.corrcoef(stream[:-1], stream[1:])[0, 1]) < 5 / math.sqrt(n)
    between = np.corrcoef(streams)[np.triu_indices(len(streams), 1)]
    assert np.max(np.abs(between)) < 5 / math.sqrt(n)


FLOATS = [entry for entry in dict.fromkeys(DTYPES.values()) if entry.floating]


@pytest.mark.parametrize("a", FLOATS, ids=str)
@pytest.mark.parametrize("b", FLOATS, ids=str)
def test_promote_is_the_smallest_common_format(a: DType, b: DType) -> None:
    digits = {"float64": (53, 11), "float32": (24, 8), "float16": (11, 5), "bfloat16": (8, 8)}
    needs = [digits[entry.name if entry.itemsize > 1 else "bfloat16"] for entry in (a, b)]
    holds = [name for name, has in digits.items() if all(has[0] >= n[0] and has[1] >= n[1] for n in needs)]
    assert promote([a, b]).name == min(holds, key=lambda name: DTYPES[name].itemsize)
    assert promote([a, a, b]) == promote([b, a])


def test_promote_needs_something() -> None:
    with pytest.raises(ValueError, match="at least one dtype"):
        promote([])


@pytest.mark.parametrize("key", ["BF16", "bfloat16", "torch.bfloat16", ml_dtypes.bfloat16, DTYPES["BF16"]])
def test_dtype_by_any_name(key: object) -> None:
    assert dtype(key) is DTYPES["BF16"]


@pytest.mark.parametrize("key", ["bfloat", "float128", None, object(), np.dtype("S3")])
def test_unknown_dtypes_are_refused_with_the_list(key: object) -> None:
    with pytest.raises(InputError, match=r"unknown dtype .* Valid: bfloat16, bool, complex64, float16"):
        dtype(key)


@pytest.mark.parametrize("entry", FLOATS, ids=str)
def test_largest_is_the_largest_finite_value(entry: DType) -> None:
    assert entry.largest == float(ml_dtypes.finfo(entry.numpy).max)


def bfloat16_bits(value: float) -> int:
    """The bits of a float32 rounded to bfloat16: to nearest, ties to even, as the text says."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    low, high = bits & 0xFFFF, bits >> 16
    return high + (low > 0x8000 or (low == 0x8000 and high & 1))


HALFWAY = [1.0, 1.00390625, 1.01171875, -1.00390625, 0.0, -0.0, 1e-40, 3.0e38, 65504.0, 2.0**-24, 2.0**-25]


@QUICK
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(HALFWAY), max_size=6)
)
def test_narrow_rounds_once_to_nearest_even(values: list[float]) -> None:
    array = np.array(values, np.float32)
    expected = [bfloat16_bits(value) for value in values]
    for same, target in zip(libraries(array), ("numpy", "torch"), strict=False):
        short = narrow(same, ml_dtypes.bfloat16 if target == "numpy" else __import__("torch").bfloat16)
        assert to_numpy(short).view(np.uint16).tolist() == expected
    for value, half in zip(values, narrow(array, np.float16), strict=True):
        if abs(value) < 65520:  # what rounds to the largest half
            assert struct.pack("<e", value) == half.tobytes()
        else:
            assert math.isinf(half)


@QUICK
@given(base=st.integers(0, 0x7F7F), side=st.sampled_from([-1, 0, 1]), sign=st.sampled_from([-1.0, 1.0]))
def test_float64_is_rounded_to_bfloat16_in_one_step(base: int, side: int, sign: float) -> None:
    """Just beside the middle of two neighbours, where float32 in between would land on the middle."""
    low, high = np.array([base, base + 1], np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
    if math.isinf(high):
        return
    value = np.array([np.nextafter((low + high) / 2, low + side * math.inf if side else (low + high) / 2)])
    expected = base if side < 0 or (side == 0 and base % 2 == 0) else base + 1
    found = int(narrow(sign * value, ml_dtypes.bfloat16).view(np.uint16)[0])
    assert found == expected | (0x8000 if sign < 0 else 0)


@pytest.mark.parametrize("entry", FLOATS, ids=str)
def test_widen_keeps_every_value(entry: DType) -> None:
    values = np.array([0.0, 0.5, -1.75, entry.largest], np.float64).astype(entry.numpy)
    wide = widen(values)
    assert wide.dtype == (np.float64 if entry.name == "float64" else np.float32)
    np.testing.assert_array_equal(wide.astype(np.float64), values.astype(np.float64))
    assert (wide is values) == (entry.name in ("float32", "float64"))


def test_widen_takes_foreign_byte_order() -> None:
    for code, wide in ((">f8", np.float64), (">f4", np.float32), (">f2", np.float32)):
        found = widen(np.array([1.5, 1e-4], code))
        assert found.dtype == wide
        assert found.dtype.isnative


@pytest.mark.parametrize("code", ["int64", "bool", "complex64", "float128"])
def test_widen_refuses_what_does_not_float(code: str) -> None:
    if code == "float128" and not hasattr(np, "float128"):
        pytest.skip("no extended precision here")
    with pytest.raises(TypeError, match=f"merging needs floating-point tensors, got {code}"):
        widen(np.zeros(2, code))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_torch_formats_cross_to_numpy(name: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([[0.5, -1.75], [0.0, 3.0]]).to(getattr(torch, name))
    found = to_numpy(tensor.requires_grad_(name.startswith("float") and "8" not in name))
    assert found.dtype == DTYPES[name].numpy
    assert found.astype(np.float64).tolist() == [[0.5, -1.75], [0.0, 3.0]]
    assert widen(tensor).dtype == (torch.float64 if name == "float64" else torch.float32)


def test_all_finite() -> None:
    for same in libraries(np.array([1.0, -2.0], np.float32)):
        assert all_finite(same)
        assert all_finite(same[:0])
        for poison in (math.inf, -math.inf, math.nan):
            assert not all_finite(same * poison)


@QUICK
@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-(2.0**60), 2.0**60, width=32)))
def test_dot_and_norm(pair: Any) -> None:
    a, b = pair
    exact = math.fsum(float(x) * float(y) for x, y in zip(a.flat, b.flat, strict=True))
    scale = math.fsum(abs(float(x) * float(y)) for x, y in zip(a.flat, b.flat, strict=True))
    assert dot(a, b).dtype == np.float64
    assert abs(float(dot(a, b)) - exact) <= 1e-14 * scale
    assert float(norm(a)) == pytest.approx(math.hypot(*map(float, a.flat)), rel=1e-14)
    for row, x, y in zip(row_dot(a, b), a, b, strict=True):
        products = [float(p) * float(q) for p, q in zip(x, y, strict=True)]
        assert abs(float(row[0]) - math.fsum(products)) <= 1e-14 * math.fsum(map(abs, products))
