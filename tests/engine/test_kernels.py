"""The fused kernels give the bits of the array functions: every method, format, shape and kind of task vector."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import modelwright as mw
import tiny_folders as tiny
from modelwright.checkpoint import lay_out
from modelwright.methods import METHODS, RankDrop, Shape
from modelwright.tensors import DTYPES, NoiseKey, absolute_sum, descending_ranks, dot, kernels, uniform

BF16 = ml_dtypes.bfloat16
#: dtype, shape, kind of task vector. One tensor has two ranges; several have sizes that no tile or block divides.
TENSORS: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "layers.0.grid.weight": (BF16, (1100, 1003), "grid"),
    "layers.0.dense.weight": (BF16, (500, 301), "dense"),
    "layers.0.wild.weight": (np.float32, (600, 333), "wild"),
    "layers.1.half.weight": (np.float16, (211, 157), "dense"),
    "layers.1.same.weight": (BF16, (40, 70), "same"),
    "layers.1.one.weight": (BF16, (1,), "dense"),
    "layers.1.vector.weight": (BF16, (1025,), "dense"),
    "layers.2.scalar": (np.float32, (), "dense"),
    "layers.2.empty.weight": (BF16, (0, 5), "dense"),
    "layers.2.tiny.weight": (np.float16, (3, 7), "grid"),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("linear", {"weight": [0.3, -0.2, 0.7], "normalize": False}),
    ("task_arithmetic", {"weight": [0.3, -0.5, 1]}),
    ("task_arithmetic", {"weight": 0.3, "normalize": True, "lambda_": 0.7}),
    ("ties", {"density": 0.3}),
    ("ties", {"density": [0.1, 0.5, 0.9], "weight": [0.5, 1, -0.3], "normalize": False}),
    ("ties", {"density": 0.4, "sign_method": "count", "merge_func": "max"}),
    ("ties", {"density": 0.2, "rescale": True, "merge_func": "sum"}),
    ("ties", {"density": 0.3, "count": "official"}),
    ("ties", {"density": 0.3, "scope": "model"}),
    ("ties", {"density": [0.1, 0.01, 0.7], "scope": "model", "zero_sign": "majority"}),
    ("ties", {"density": 0.3, "zero_sign": "majority", "rescale": True}),
    ("ties", {"density": 0.3, "scope": "model", "zero_sign": "majority", "rescale": True}),
    ("ties", {"density": [0, 1, 0.5]}),
    ("ties", {"density": 0.3, "scope": "model", "count": "official", "rescale": True}),
    ("ties", {"density": 0.3, "scope": "row"}),
    ("dare_linear", {"density": 0.4, "weight": 0.4}),
    ("dare_linear", {"density": 0.4, "rescale": "l2"}),
    ("dare_ties", {"density": [0.1, 0.5, 0], "rescale": "expectation", "normalize": True}),
    ("dare_ties", {"density": 0.5, "rescale": False}),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.01}),
    ("breadcrumbs", {"density": 0.9, "gamma": 0.3, "rescale": True}),
    ("breadcrumbs_ties", {"density": 0.1, "gamma": [0, 0.1, 0.99]}),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.1, "order": "keep_first"}),
    ("breadcrumbs", {"density": 0.3, "gamma": 0.02, "scope": "model"}),
    ("breadcrumbs", {"density": 0.3, "gamma": 0.02, "scope": "layer"}),
    ("breadcrumbs_ties", {"density": [0.3, 1, 0.001], "gamma": [0.02, 0.1, 0.3], "scope": "layer", "rescale": True}),
    ("breadcrumbs", {"density": [0.3, 1, 0.001], "gamma": [0.02, 0.1, 0.3], "scope": "model", "rescale": True}),
    ("breadcrumbs_ties", {"density": 0.2, "gamma": [0, 0.02, 0.5], "scope": "model", "order": "keep_first"}),
    ("wise_ft", {"alpha": 0.3}),
    ("negation", {"lambda_": 0.4}),
    ("negation", {"lambda_": 0.4, "most": 0.01}),
    ("swa", {}),
    ("ema", {"decay": 0.7}),
    ("lines", {"alpha": 0.2, "beta": 0.5}),
    ("lines", {"weight": [1, 0.5, -1]}),
    ("model_stock", {}),
    ("model_stock", {"filter_wise": True}),
    ("slerp", {"t": 0.3}),
    ("nuslerp", {"weight": [0.2, 0.8]}),
    ("passthrough", {"scale": 0.7}),
    ("della", {"density": 0.4}),
    ("della", {"density": [0.2, 1, 0], "epsilon": 0.1, "rescale": "l2", "normalize": False}),
    ("della", {"density": 0.6, "rescale": "expectation"}),
    ("della_linear", {"density": [0.5, 0.7, 0.3], "epsilon": [0.49, 0, 0.2], "weight": 0.4, "rescale": False}),
    ("emr", {}),
    ("tall_mask", {"weight": [1, 0.5, -1], "lambda_": 0.7}),
    ("twin_merging", {"rank": 2}),
    ("karcher", {}),
    ("multislerp", {"weight": [0.5, 0.2, 0.9]}),
]


def write(folder: Path, arrays: dict[str, Any]) -> None:
    folder.mkdir()
    listed = [(name, DTYPES[array.dtype.name], array.shape) for name, array in arrays.items()]
    (shard,) = lay_out(listed, "model", 1 << 60, {"format": "pt"})
    with (folder / shard.file).open("wb") as file:
        file.write(shard.header)
        for name in shard.tensors:
            file.write(arrays[name].tobytes())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("kernels"), np.random.default_rng(0)
    base = {name: (rng.standard_normal(shape) * 0.02).astype(dtype) for name, (dtype, shape, _) in TENSORS.items()}
    write(folder / "base", base)
    for model in "abc":
        arrays = {}
        for name, (dtype, shape, kind) in TENSORS.items():
            delta = {
                "grid": rng.integers(-2, 3, shape) * 2.0**-10,
                "dense": rng.standard_normal(shape) * 0.002,
                "wild": rng.standard_normal(shape) * 10.0 ** rng.uniform(-8, -1, shape),
                "same": np.zeros(shape),
            }[kind]
            arrays[name] = (base[name].astype(np.float64) + delta).astype(dtype)
        write(folder / model, arrays)
    return folder


def merged(models: Path, out: Path, method: str, options: dict[str, Any], **run: Any) -> dict[str, Any]:
    most = METHODS[method].models[1] or 3
    base = None if METHODS[method].base == "ignored" else models / "base"
    mw.merge([models / name for name in "abc"[:most]], base=base, method=method, **options).save(out, **run)
    return tiny.contents(out)


@pytest.mark.parametrize("out_dtype", [None, "float16"])
@pytest.mark.parametrize(("method", "options"), CASES)
def test_kernels_give_the_bits_of_the_array_functions(
    method: str, options: dict[str, Any], out_dtype: str | None, models: Path, tmp_path: Path
) -> None:
    options = options | ({"out_dtype": out_dtype} if out_dtype else {})
    expected = merged(models, tmp_path / "functions", method, options, kernels="never", threads=1)
    assert merged(models, tmp_path / "kernels", method, options, kernels="always", threads=2) == expected


def test_every_method_with_a_lowering_is_tried_above() -> None:
    assert {name for name, method in METHODS.items() if method.lower} == {name for name, _ in CASES}


@pytest.mark.parametrize("method", ["nuslerp", "linear"])
def test_without_a_base(method: str, models: Path, tmp_path: Path) -> None:
    contents = []
    for choice in ("never", "always"):
        out = tmp_path / choice
        mw.merge([models / "a", models / "b"], method=method, weight=[0.2, 0.8]).save(out, kernels=choice)
        contents.append(tiny.contents(out))
    assert contents[0] == contents[1]


def test_models_in_memory_and_lazy_reading(models: Path, tmp_path: Path) -> None:
    """Tensors that cannot be read in parts, and single tensors that are read without saving."""
    arrays = [mw.open(models / name).arrays() for name in ("a", "b", "base")]
    lazy = mw.merge(arrays[:2], base=arrays[2], method="ties", density=0.3)
    lazy.save(tmp_path / "memory", kernels="always")
    mw.merge([models / "a", models / "b"], base=models / "base", method="ties", density=0.3).save(
        tmp_path / "files", kernels="never"
    )
    ours, theirs = mw.open(tmp_path / "memory"), mw.open(tmp_path / "files")
    for name in TENSORS:
        assert ours[name].read().tobytes() == theirs[name].read().tobytes() == lazy[name].read().tobytes()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bytes_for_any_number_of_threads(threads: int, models: Path, tmp_path: Path) -> None:
    for i, (method, options) in enumerate((CASES[9], CASES[15], CASES[20], CASES[23], CASES[29])):
        found = merged(
            models, tmp_path / f"{i}", method, options, kernels="always", threads=threads, shard_bytes=500_000
        )
        expected = merged(models, tmp_path / f"e{i}", method, options, kernels="never", threads=1, shard_bytes=500_000)
        assert found == expected


@pytest.mark.parametrize("block", [1 << 15, 1 << 16])
def test_same_bytes_for_any_block(block: int, models: Path, tmp_path: Path) -> None:
    """In a process of its own, because the size is a constant."""
    code = f"import sys, modelwright.engine._sources as s; s.BLOCK = {block}\nfrom modelwright.cli import main; main()"
    out = tmp_path / "blocks"
    arguments = [str(models / name) for name in "abc"] + ["--base", str(models / "base"), "-o", str(out), "--quiet"]
    for method, sets in (
        ("dare_ties", ["density=0.4", "rescale=l2"]),
        ("ties", ["density=0.3"]),
        ("della", ["density=0.3"]),
        ("model_stock", []),
    ):
        options = [word for text in (*sets, *(["weight=1.0"] if sets else [])) for word in ("--set", text)]
        command = [sys.executable, "-c", code, "merge", *arguments, "--method", method, *options, "--overwrite"]
        subprocess.run(command, check=True)
        parsed = {key: float(v) if v[0].isdigit() else v for key, v in (text.split("=") for text in sets)}
        assert tiny.contents(out) == merged(models, tmp_path / method, method, parsed, kernels="never")


RANKED = [
    case for case in CASES if case[0] in ("ties", "breadcrumbs", "breadcrumbs_ties") and case[1].get("scope") != "row"
]


@pytest.mark.parametrize(("method", "options"), RANKED)
@pytest.mark.parametrize("trouble", ["nothing held", "too low", "too high", "wide"])
def test_thresholds_are_exact_whatever_the_sample_said(
    trouble: str, method: str, options: dict[str, Any], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting instead of collecting, brackets that miss to either side, brackets too wide for the counters."""
    from modelwright.engine import _ranks

    original = _ranks._bracket

    def bracket(targets: Any, sample: Any, size: int) -> None:
        original(targets, sample, size)
        for target in targets:
            target.low, target.high, target.inside = {
                "nothing held": (target.low, target.high, 1.0),
                "too low": (0, 1, 0.0),
                "too high": (0x7F000000, 0x7F000001, 0.0),
                "wide": (0, 0x7F7FFFFF, 1.0),
            }[trouble]

    monkeypatch.setattr(_ranks, "_bracket", bracket)
    if trouble != "too high":
        monkeypatch.setattr(_ranks, "MOST_HELD", 1000)
    expected = merged(models, tmp_path / "functions", method, options, kernels="never")
    assert merged(models, tmp_path / "kernels", method, options, kernels="always") == expected


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ties", {"density": 0.3}),
        ("ties", {"density": 0.3, "scope": "model"}),
        ("breadcrumbs", {"density": 0.3, "gamma": 0.02}),
    ],
)
def test_a_second_sample_narrows_what_is_held(
    method: str, options: dict[str, Any], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelwright.engine import _ranks

    original, shares = _ranks._Collect.narrow, []

    def narrow(self: Any, samples: Any, size: int) -> None:
        before = sum(target.inside for target in self.targets)
        original(self, samples, size)
        shares.append(sum(target.inside for target in self.targets) / before)

    monkeypatch.setattr(_ranks._Collect, "narrow", narrow)
    monkeypatch.setattr(_ranks, "MOST_HELD", 100_000)
    monkeypatch.setattr(_ranks, "_SPARSE", 2)
    expected = merged(models, tmp_path / "functions", method, options, kernels="never")
    assert merged(models, tmp_path / "kernels", method, options, kernels="always") == expected
    assert 0 < min(shares) < 1  # the largest tensor has few values, so that no sample separates them well


@given(
    n=st.integers(0, 100),
    room=st.integers(0, 5),
    seed=st.integers(0, 99),
    low=st.integers(0, 9),
    span=st.integers(0, 9),
)
def test_packing(n: int, room: int, seed: int, low: int, span: int) -> None:
    from modelwright.tensors.kernels._statistics import _near

    bits = np.random.default_rng(seed).integers(0, 12, n).astype(np.uint32)
    out = np.zeros(room + n + kernels.WIDTH, np.uint32)
    inside = bits[(bits >= low) & (bits <= low + span)]
    assert _near(bits, np.uint32(low), np.uint32(low + span), out, room) == room + len(inside)
    np.testing.assert_array_equal(out[room : room + len(inside)], inside)


@settings(deadline=None, max_examples=60)
@given(
    n=st.sampled_from([1, 2, 3, 63, 64, 65, 1000, 5000]),
    kind=st.sampled_from(["equal", "zero", "few", "sparse", "wild", "dense", "outlier"]),
    epsilon=st.sampled_from([0.0, 0.01, 0.3]),
    cut=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    seed=st.integers(0, 99),
)
def test_keeping_by_rank(n: int, kind: str, epsilon: float, cut: tuple[int, int], seed: int) -> None:
    """Three rows, of which the range has all but some entries at either end, against ranks by sorting."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, n)).astype(np.float32)
    x = {
        "equal": np.full_like(x, 0.5), "zero": np.zeros_like(x), "few": np.round(x), "sparse": np.where(x > 1, x, 0),
        "wild": x * np.float32(10) ** rng.integers(-30, 30, x.shape), "dense": x, "outlier": np.where(x > 3, 1e30, 1 + x * 1e-4),
    }[kind].astype(np.float32)  # fmt: skip
    first, size = min(cut[0], n), 3 * n - min(cut[0], n) - min(cut[1], n)
    drop, key = RankDrop(0.5, epsilon, n), NoiseKey(seed, "w")
    raw = np.zeros((2, 12 * n), np.uint8)
    raw[0] = x.view(np.uint8).reshape(-1)
    out = np.zeros((1, size + 3), np.uint8)
    words = np.array([[*key.words(0, 0), 0]], np.uint32)
    table = np.ceil(drop.probabilities() * 2**32).astype(np.uint32)[None]
    kernels.keep_by_rank(
        raw, np.zeros(2, np.int64), 3, n, 1, np.zeros(1, np.int64), table, words, -first, size, out,
        np.zeros((2, n), np.float32), np.zeros((4, n + 1), np.uint32), np.zeros((3, kernels.BUCKETS + 1), np.uint32),
    )  # fmt: skip
    shares = drop.probabilities()[n - 1 - descending_ranks(np.abs(x))].reshape(-1)[first : first + size]
    expected = uniform(key, 0, size) < shares
    there = x.reshape(-1)[first : first + size] != 0  # of zeros it does not matter
    assert np.array_equal(out[0, :size].astype(bool)[there], expected[there])
    assert not out[0, size:].any()


@pytest.mark.parametrize("size", [1, 127, 128, 129, 1023, 1024, 1025, 5000])
def test_masks_come_back_as_they_went_in(size: int) -> None:
    from modelwright.tensors.kernels import _combine

    kept = np.random.default_rng(size).integers(0, 2, size).astype(np.uint8)
    mask = np.zeros(-(-size // kernels.TILE) * kernels.PLANE, np.uint8)
    kernels.pack_mask(kept, mask)
    x = np.ones(size, np.float32)
    for at in range(0, size, kernels.TILE):
        _combine.masked(x[at : at + kernels.TILE], mask, at)
    np.testing.assert_array_equal(x, kept.astype(np.float32))


def test_rows_that_are_too_long_for_the_kernel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("base", "a"):
        write(tmp_path / name, {"w": rng.standard_normal((2, 40_000)).astype(np.float32)})
    first, second = both(tmp_path, [tmp_path / "a"], base=tmp_path / "base", method="della", density=0.5)
    assert first == second


# --- what is not finite ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "ties", "model_stock", "dare_linear"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_input_that_is_not_finite(method: str, bad: float, models: Path, tmp_path: Path) -> None:
    arrays = mw.open(models / "b").arrays()
    name = "layers.0.grid.weight"
    arrays[name] = arrays[name].copy()
    arrays[name][1099, 1000:] = bad  # the last elements
    write(tmp_path / "b", arrays)
    options = {"density": 0.3} if method in ("ties", "dare_linear") else {}
    base = None if method == "linear" else models / "base"
    with pytest.raises(mw.InputError) as found:
        mw.merge([models / "a", tmp_path / "b"], base=base, method=method, **options).save(
            tmp_path / "o", kernels="always"
        )
    assert str(found.value) == (
        f"'{name}' of {tmp_path / 'b'} holds 3 values that are NaN or infinite. A merge would spread them: mend or replace the "
        "checkpoint, or pass --allow-nonfinite."
    )
    assert not (tmp_path / "o.partial").exists()
    result = mw.merge([models / "a", tmp_path / "b"], base=base, method=method, **options).save(
        tmp_path / "o", kernels="always", allow_nonfinite=True
    )
    note = f"values that are NaN or infinite passed, as --allow-nonfinite asks: {name} of {tmp_path / 'b'} (3)"
    assert note in result.notes
    found_array = mw.open(tmp_path / "o")[name].read().astype(np.float32)
    assert np.isfinite(found_array).all(axis=1).sum() >= (
        1099 if method in ("linear", "ties") else 0
    )  # others have sums over the tensor


def test_overflow_of_the_output_format(models: Path, tmp_path: Path) -> None:
    name = "layers.0.dense.weight"
    one = {name: mw.open(models / "a")[name].read()}
    largest = np.abs(one[name].astype(np.float32) * np.float32(1e7)).max()
    with pytest.raises(mw.RunError) as found:
        mw.merge([one], method="passthrough", scale=1e7, out_dtype="float16").save(tmp_path / "o", kernels="always")
    assert str(found.value) == (
        f"'{name}' reaches {largest:.4g}, which float16 cannot hold (its largest is 6.55e+04). Set out_dtype: bfloat16 or "
        "float32."
    )


def test_overflow_of_the_sum(models: Path, tmp_path: Path) -> None:
    with pytest.raises(mw.RunError, match="the merge overflows float32, in which it is computed"):
        mw.merge([models / "a"], method="passthrough", scale=3e38 * 100).save(tmp_path / "o", kernels="always")


# --- the parts ------------------------------------------------------------------------------------------------------


def narrowed(values: Any, code: int, size: int) -> Any:
    raw = np.zeros(size * 4, np.uint8)
    kernels_formats().narrow(values, code, raw, 0)
    return raw


def kernels_formats() -> Any:
    from modelwright.tensors.kernels import _formats

    return _formats


@pytest.mark.parametrize(("code", "dtype"), [(kernels.F16, np.float16), (kernels.BF16, BF16)])
def test_every_half_is_widened_and_rounded_as_numpy_does(code: int, dtype: Any) -> None:
    formats = kernels_formats()
    every = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(1 << 16, np.float32)
    formats.widen(every.view(np.uint8), code, 0, wide)
    expected = every.view(dtype).astype(np.float32)
    finite = np.isfinite(expected)
    assert np.array_equal(wide[finite].view(np.uint32), expected[finite].view(np.uint32))
    assert not np.isfinite(wide[~finite]).any()
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint64).astype(np.uint32).view(np.float32)
    middles = expected[finite].astype(np.float64)
    middles = ((middles[:-1] + middles[1:]) / 2).astype(
        np.float32
    )  # halfway between neighbours, where it has to be even
    values = np.concatenate(
        [values[np.isfinite(values)], middles, np.nextafter(middles, 0), np.float32([0, -0.0, 65520])]
    )
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    assert np.array_equal(
        narrowed(values, code, values.size)[: values.size * 2].view(np.uint16), rounded.view(np.uint16)
    )


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    values=st.lists(
        st.sampled_from([0, 1, 2, 3, 1000, 1 << 20, (1 << 31) - 1]) | st.integers(0, (1 << 31) - 1), min_size=1
    ),
    data=st.data(),
)
def test_select(values: list[int], data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, len(values)))
    bits = np.array(values, np.uint32)
    value, larger, ties = kernels.select(bits, rank, np.empty_like(bits))
    expected = sorted(values, reverse=True)[rank - 1]
    assert (value, larger, ties) == (expected, sum(v > expected for v in values), values.count(expected))


def test_sums_have_the_order_of_the_array_functions() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 63, 64, 65, 1024, 32768, 32769, 100_001):
        a, b = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
        raw = np.zeros((2, max(size, 1) * 4), np.uint8)
        raw[0, : size * 4], raw[1, : size * 4] = a.view(np.uint8), b.view(np.uint8)
        keep = (np.zeros(1, np.int64), np.zeros(1, np.uint32), np.zeros(1, np.uint32), np.zeros((1, 2), np.int64))
        keep = (*keep, np.zeros((1, 3), np.uint32), 0, np.zeros((1, 1), np.uint8))
        pairs = np.array([(0, 1), (0, 0)])
        blocks = -(-size // kernels.BLOCK)
        sums, tiles = np.zeros((2, blocks)), np.zeros((5, kernels.TILE), np.float32)
        kernels.gram(raw, np.zeros(2, np.int64), size, 1, False, keep, pairs, sums, np.zeros((2, kernels.LANES)), tiles)
        if blocks <= 1:  # further blocks are added exactly
            assert [float(total) for total in sums.sum(axis=1)] == [float(dot(a, b)), float(dot(a, a))]
        assert np.isclose(float(absolute_sum(a)), float(np.abs(a).astype(np.float64).sum()), rtol=1e-12)


def test_noise_is_that_of_the_array_functions() -> None:
    from modelwright.tensors.kernels import _noise

    key = NoiseKey(7, "w")
    drawn = uniform(key, 2, 5000, start=(3 << 20) + 100)
    for density in (0.0, 1e-9, 0.3, 0.999999999):
        x = np.ones(5000, np.float32)
        words = np.array([*key.words(2, 3), int(np.ceil(density * 2**32))], np.uint32)
        _noise.drop(x, 100, words)
        assert np.array_equal(x == 1, drawn < density)


def test_lowering_is_refused_where_a_vector_has_its_own_statistics() -> None:
    shape = Shape(size=12, total=12, axes=2, row=4, models=2, base=True)
    for name, parameters in (
        ("model_stock", {"filter_wise": True}),
        ("nuslerp", {"nuslerp_flatten": False, "weight": (1.0, 1.0)}),
        ("breadcrumbs", {"scope": "row"}),
    ):
        lower = METHODS[name].lower
        assert lower is not None
        assert lower(METHODS[name].defaults("community") | parameters, shape) is None


# --- where compiled kernels are kept ---------------------------------------------------------------------------------


def test_without_home_and_with_packages_that_cannot_be_written(models: Path, tmp_path: Path) -> None:
    """Kernels are compiled in this run alone, and it says so; the manifest does not, for the output is the same."""
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"MODELWRIGHT_CACHE": "/proc/nowhere", "NUMBA_CACHE_DIR": "/proc/nowhere"}
    code = "import sys, modelwright as mw; r = mw.merge(sys.argv[1:3], method='linear').save(sys.argv[3], kernels='always'); "
    code += "print(*r.notes, sep='\\n')"
    arguments = [str(models / "a"), str(models / "b"), str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    note = (
        "no folder for compiled kernels can be written, so they are compiled in every run; set MODELWRIGHT_CACHE to one"
    )
    assert done.stdout.splitlines()[-1] == note
    assert "compiled kernels" not in (tmp_path / "out" / "manifest.json").read_text()


CACHE = "from modelwright.tensors import kernels; print(kernels.uncached or 'cached')"


@pytest.mark.parametrize("writable", [True, False])
def test_cache_of_compiled_kernels(writable: bool, tmp_path: Path) -> None:
    place = tmp_path / "cache"
    if not writable:
        place.write_text("a file, not a folder")
    environment = os.environ | {"MODELWRIGHT_CACHE": str(place)}
    done = subprocess.run([sys.executable, "-c", CACHE], env=environment, capture_output=True, text=True, check=True)
    if writable:
        assert done.stdout == "cached\n"
        assert list(itertools.islice(place.rglob("*"), 1))
    else:
        assert done.stdout.startswith(
            "no folder for compiled kernels can be written, so they are compiled in every run"
        )


# --- corners that once went wrong -----------------------------------------------------------------------------------


def both(tmp_path: Path, models: list[Any], **options: Any) -> list[Any]:
    """What array functions and kernels make of it: contents, or the text of an error."""
    found: list[Any] = []
    for choice in ("never", "always"):
        try:
            mw.merge(models, **options).save(
                tmp_path / choice, kernels=choice, threads=1
            )  # so that errors are of one tensor
            found.append(tiny.contents(tmp_path / choice))
        except (mw.InputError, mw.RunError) as error:
            found.append(str(error))
    return found


def test_plain_float8_goes_through_the_array_functions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        write(tmp_path / name, {"w": rng.standard_normal((40, 30)).astype(ml_dtypes.float8_e4m3fn)})
    first, second = both(tmp_path, [tmp_path / "a", tmp_path / "b"], method="linear", out_dtype="float16")
    assert first == second


def test_weights_that_vanish_in_float32(models: Path, tmp_path: Path) -> None:
    first, second = both(tmp_path, [models / "a", models / "b"], method="linear", weight=[1e-46, 1e-46])
    assert first == second
    assert "overflows" in first


@pytest.mark.parametrize("rescale", [True, "l2", "expectation", False])
def test_a_density_next_to_one(rescale: Any, models: Path, tmp_path: Path) -> None:
    options = {"density": 0.9999999999, "rescale": rescale}
    first, second = both(tmp_path, [models / "a"], base=models / "base", method="dare_linear", **options)
    assert first == second


def test_task_vectors_that_overflow(tmp_path: Path) -> None:
    base = np.full((600, 400), 1.0, np.float32)
    tuned = base + np.float32(0.5)
    base[0, :5], tuned[0, :5] = 3e38, -3e38
    write(tmp_path / "base", {"w": base})
    write(tmp_path / "a", {"w": tuned})
    first, second = both(tmp_path, [tmp_path / "a"], base=tmp_path / "base", method="ties", density=2e-5)
    assert first == second
    assert "the merge overflows float32" in first
