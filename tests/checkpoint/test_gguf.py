"""GGUF files, against the gguf package and byte by byte."""

from __future__ import annotations

import json
import math
import struct
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from weights_helpers import folder as hf_folder

import modelwright as mw
import modelwright.checkpoint as mc
from modelwright.checkpoint import _gguf, quantisation_error, write_gguf
from modelwright.errors import InputError, MissingExtraError, RunError
from modelwright.tensors import DTYPES

gguf = pytest.importorskip("gguf")
quants = gguf.quants
Type = gguf.GGMLQuantizationType

PLAIN = ["F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"]
PACKED = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
]  # fmt: skip
#: Newer than the oldest package that we take.
PACKED += [name for name in ("MXFP4", "NVFP4") if hasattr(Type, name)]
STEPS = sorted(_gguf._LOWEST_BITS)
AGAIN = "The file is damaged; copy or download it again."
CUT = "It is cut short or damaged; copy or download it again."

Tensors = dict[str, tuple[np.ndarray, str]]


def save(path: Path, tensors: Tensors, fields: Callable[[Any], None] | None = None) -> Path:
    """A file as the package writes it: name -> stored bytes or numbers, type."""
    writer = gguf.GGUFWriter(path, "llama")
    if fields:
        fields(writer)
    for name, (stored, kind) in tensors.items():
        if kind == "BF16":
            stored = stored.view(np.uint8)
        writer.add_tensor(name, stored, raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored(kind: str, rows: int, blocks: int, seed: int = 0) -> np.ndarray:
    """Random blocks whose scales are ordinary numbers."""
    rng = np.random.default_rng(seed)
    _, nbytes = gguf.GGML_QUANT_SIZES[Type[kind]]
    found = np.empty((0, nbytes), np.uint8)
    while len(found) < rows * blocks:
        drawn = rng.integers(0, 256, (4 * rows * blocks, nbytes), dtype=np.uint8)
        values = oracle(drawn, kind)
        found = np.concatenate([found, drawn[np.isfinite(values).all(1) & (np.abs(values).max(1) < 1e3)]])
    return found[: rows * blocks].reshape(rows, -1)


def oracle(blocks: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return quants.dequantize(blocks, Type[kind])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


def quantised(values: np.ndarray, kind: str) -> tuple[np.ndarray, str]:
    return quants.quantize(values, Type[kind]), kind


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    exact = exact.astype(np.float64)
    return float(np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact))


def refusal(action: Callable[[], Any], kind: type[Exception] = InputError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 5), (2, 3, 4), (2, 1, 3, 1)])
def test_plain_types_bit_for_bit(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    dtype = DTYPES[kind]
    values = (np.arange(math.prod(shape)) - 3).astype(dtype.numpy).reshape(shape)
    opened = mw.open(save(tmp_path / "x.gguf", {"before": (normal(3), "F32"), "t": (values, kind)}))
    assert list(opened) == ["before", "t"]
    ref = opened["t"]
    assert (ref.dtype, ref.shape) == (dtype, shape)
    assert (ref.read().dtype, ref.read().tobytes()) == (dtype.numpy, values.tobytes())
    assert opened.notes == ()
    theirs = gguf.GGUFReader(tmp_path / "x.gguf").get_tensor(1)
    assert tuple(reversed(theirs.shape.tolist())) == shape
    assert theirs.data.tobytes() == values.tobytes()
    assert ref.source == f"x.gguf @ {theirs.data_offset}"


@pytest.mark.parametrize("kind", PACKED)
def test_quantised_types(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = stored(kind, 6, 5)
    opened = mw.open(save(tmp_path / "x.gguf", {"a": (blocks, kind), "b": (blocks.reshape(2, 3, -1), kind)}))
    size, _ = gguf.GGML_QUANT_SIZES[Type[kind]]
    ref = opened["a"]
    assert ref.dtype.name == ("bfloat16" if kind.endswith("FP4") else "float16")
    assert ref.shape == (6, 5 * size)
    assert ref.read().dtype == np.float32  # rounding comes last
    np.testing.assert_array_equal(ref.read(), oracle(blocks, kind))
    np.testing.assert_array_equal(opened["b"].read(), oracle(blocks, kind).reshape(2, 3, -1))
    assert opened.notes == (f"x.gguf: de-quantised tensors: 2 {kind}",)
    assert ref.source.endswith(f", {kind}")
    monkeypatch.setattr(_gguf, "_PIECE", 4 * size)  # 30 blocks by fours
    np.testing.assert_array_equal(ref.read(), oracle(blocks, kind))


def test_every_type_is_read_or_refused_by_name(tmp_path: Path) -> None:
    for kind in Type:
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        data = header(tensors=[info("t", [block], kind.value)])
        path = write(tmp_path / "x.gguf", data + bytes(nbytes))
        if kind.name in PLAIN + PACKED:
            assert mw.open(path)["t"].read().shape == (block,)
        else:
            assert refusal(lambda path=path: mw.open(path)) == (
                f"{path}: 't' has the type {kind.name}, which the package gguf cannot de-quantise. "
                "Update the package, or use a file with other types, best the unquantised weights."
            )


def test_metadata(tmp_path: Path) -> None:
    def fields(writer: Any) -> None:
        writer.add_name("a läma")
        writer.add_uint32("llama.block_count", 2)
        writer.add_float64("x", 0.5)
        writer.add_bool("y", True)
        writer.add_string("template", "x" * 5000)
        writer.add_array("tokens", ["a", "bc", ""])
        writer.add_array("types", [1, 2, 3])

    opened = mw.open(save(tmp_path / "x.gguf", {"t": (normal(4), "F32")}, fields))
    assert opened.metadata == {"general.architecture": "llama", "general.name": "a läma"}
    read = _gguf.read_gguf_header(tmp_path / "x.gguf")
    assert read.values == {
        "general.architecture": "llama", "general.name": "a läma", "llama.block_count": 2, "x": 0.5, "y": True,
        "template": None, "tokens": None, "types": None,
    }  # fmt: skip


def test_other_alignment_and_missing_padding(tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.gguf", {"a": (normal(3), "F32"), "b": (normal(5), "F32")}, lambda w: w.add_custom_alignment(128)
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - (128 - 5 * 4)])  # the padding after the last tensor is nobody's
    np.testing.assert_array_equal(mw.open(path)["b"].read(), normal(5))


def test_a_file_that_is_cut_after_opening(tmp_path: Path) -> None:
    path = save(tmp_path / "x.gguf", {"a": quantised(normal(4, 64), "Q8_0")})
    ref = mw.open(path)["a"]
    path.write_bytes(path.read_bytes()[:-100])
    assert "expected 272 bytes at offset" in refusal(ref.read, RunError)


def test_plain_files_need_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = save(tmp_path / "plain.gguf", {"a": (normal(3, 4), "F32")})
    packed = save(tmp_path / "packed.gguf", {"a": quantised(normal(3, 32), "Q8_0")})
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert mw.open(plain)["a"].shape == (3, 4)
    assert refusal(lambda: mw.open(packed), MissingExtraError) == (
        "reading the quantised tensors of packed.gguf needs the package 'gguf', which is not installed. "
        'Install the extra: pip install "modelwright[gguf]".'
    )
    write_gguf(mw.open(plain), tmp_path / "f16.gguf", "f16", donor=plain)
    assert refusal(lambda: write_gguf(mw.open(plain), tmp_path / "q.gguf", "q8_0", donor=plain), MissingExtraError) == (
        "writing q8_0 needs the package 'gguf', which is not installed. "
        'Install the extra: pip install "modelwright[gguf]".'
    )


# --- folders and parts ---------------------------------------------------------------------------------------------


def split(path: Path, stem: str = "x") -> list[Path]:
    """Two parts, as the package splits them."""
    writer = gguf.GGUFWriter(path / f"{stem}.gguf", "llama", split_max_tensors=1)
    for name in ("a", "b"):
        writer.add_tensor(name, normal(4, seed=ord(name)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [path / f"{stem}-0000{i}-of-00002.gguf" for i in (1, 2)]


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    save(tmp_path / "x.gguf", {"a": (normal(4), "F32")})
    assert list(mw.open(tmp_path)) == ["a"]
    save(tmp_path / "y.gguf", {"a": (normal(4), "F32")})
    assert refusal(lambda: mw.open(tmp_path)) == (
        f"{tmp_path} has several GGUF models: x.gguf, y.gguf. Name the file itself; one from the Hub must be downloaded "
        "first (hf download)."
    )
    hf_folder(tmp_path, {"b": normal(2)})
    assert list(mw.open(tmp_path)) == ["b"]  # the model's own format comes first


def test_split_files(tmp_path: Path) -> None:
    parts = split(tmp_path)
    for ref in (tmp_path, *parts):
        opened = mw.open(ref)
        assert list(opened) == ["a", "b"]
        np.testing.assert_array_equal(opened["b"].read(), normal(4, seed=ord("b")))
    parts[0].rename(tmp_path / "other.gguf")
    assert refusal(lambda: mw.open(parts[1])) == (
        f"{parts[1]} is one of 2 parts, of which these are missing: x-00001-of-00002.gguf. Copy or download them again."
    )
    assert refusal(lambda: mw.open(tmp_path / "other.gguf")) == (
        f"{tmp_path / 'other.gguf'} is part 0 of 2, counted from 0, and its name does not say so. "
        "Give the parts their names again: NAME-00001-of-00002.gguf, ..."
    )


@pytest.mark.parametrize("name", ["x-00003-of-00002.gguf", "x-00000-of-00000.gguf", "x-1-of-2.gguf", "x.gguf"])
def test_names_that_are_no_parts(name: str) -> None:
    assert _gguf.gguf_parts(name) == [name]


# --- merging -------------------------------------------------------------------------------------------------------


def model(path: Path, seed: int, kind: str = "Q8_0", layers: int = 2) -> Path:
    tensors: Tensors = {"token_embd.weight": quantised(normal(8, 64, seed=seed), kind)}
    for i in range(layers):
        tensors[f"blk.{i}.attn_norm.weight"] = (normal(64, seed=seed + i), "F32")
        tensors[f"blk.{i}.ffn_up.weight"] = quantised(normal(96, 64, seed=seed + 10 + i), kind)
    tensors["output_norm.weight"] = (normal(64, seed=seed + 20), "F32")
    return save(path, tensors, lambda writer: writer.add_block_count(layers))


def test_merge(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a.gguf", 0), model(tmp_path / "b.gguf", 100, "Q4_0")
    merged = mw.merge([a, b], method="linear", weight=[3, 1])
    one, two = mw.open(a), mw.open(b)
    assert merged.layout.stacks == {"blk": 2}
    for name, ref in merged.items():
        expected = 0.75 * one[name].read().astype(np.float64) + 0.25 * two[name].read().astype(np.float64)
        assert ref.dtype.name == ("float32" if "norm" in name else "float16")
        np.testing.assert_allclose(ref.read(), expected, rtol=2e-3, atol=1e-7)
    merged.save(tmp_path / "out")
    saved = mw.open(tmp_path / "out")
    assert set(saved) == set(one)
    assert saved.metadata["general.architecture"] == "llama"


def test_gradients_know_the_layers(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a.gguf", 0), model(tmp_path / "b.gguf", 100)
    recipe = {
        "merge_method": "linear",
        "models": [
            {"model": str(a), "parameters": {"weight": [1, 0]}},
            {"model": str(b), "parameters": {"weight": [0, 1]}},
        ],
    }
    merged = mw.merge(recipe)
    for i, source in enumerate((a, b)):
        name = f"blk.{i}.ffn_up.weight"
        np.testing.assert_array_equal(
            merged[name].read().astype(np.float16), mw.open(source)[name].read().astype(np.float16)
        )


# --- the error of quantised inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("drawn", ["normal", "uniform", "student"])
def test_the_estimate_is_near_the_truth(tmp_path: Path, kind: str, drawn: str) -> None:
    rng = np.random.default_rng(0)
    values: np.ndarray = {
        "normal": lambda: rng.standard_normal((64, 1024)),
        "uniform": lambda: rng.uniform(-1, 1, (64, 1024)),
        "student": lambda: rng.standard_t(4, (64, 1024)),
    }[drawn]().astype(np.float32)
    ref = mw.open(save(tmp_path / "x.gguf", {"t": quantised(values, kind)}))["t"]
    estimate = quantisation_error(ref)
    assert estimate is not None
    assert estimate == pytest.approx(relative(ref.read(), values), rel=0.1)  # Q4_0 clips one end


def test_the_estimate_of_uneven_codes(tmp_path: Path) -> None:
    """IQ4_NL from its definition: the nearest of 16 uneven levels times a scale for 32 elements."""
    values = normal(256, 32)
    levels = np.array(quants.IQ4_NL.kvalues, np.float32)
    scale = (np.abs(values).max(1, keepdims=True) / 113).astype(np.float16)
    codes = np.abs(values[:, :, None] / scale[:, :, None].astype(np.float32) - levels).argmin(2).astype(np.uint8)
    blocks = np.concatenate([scale.view(np.uint8), codes[:, :16] | codes[:, 16:] << 4], axis=1)
    ref = mw.open(save(tmp_path / "x.gguf", {"t": (blocks, "IQ4_NL")}))["t"]
    assert quantisation_error(ref) == pytest.approx(relative(ref.read(), values), rel=0.1)


@pytest.mark.parametrize("kind", [kind for kind in STEPS if not kind.startswith("IQ")])
def test_the_flipped_bit_is_one_step(kind: str) -> None:
    """Elements that share a scale differ by whole steps, and some by exactly one."""
    start, stop, bits = _gguf._LOWEST_BITS[kind]
    size, _ = gguf.GGML_QUANT_SIZES[Type[kind]]
    blocks = stored(kind, 200, 1)
    flipped = blocks.copy()
    flipped[:, start:stop] ^= bits
    values = oracle(blocks, kind).astype(np.float64).reshape(-1, 16)
    steps = np.abs(oracle(flipped, kind).astype(np.float64).reshape(-1, 16) - values)
    usual = (steps[:, :1] > 1e-3) & (np.abs(values).max(1, keepdims=True) < 1e3 * steps[:, :1])
    values, steps = values[usual[:, 0]], steps[usual[:, 0]]
    assert len(values) > 50 * (size // 32)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), rtol=1e-3)
    apart = np.abs(values - values[:, :1]) / steps
    np.testing.assert_allclose(apart, np.round(apart), atol=0.02)
    assert np.round(apart[apart > 0.5]).min() == 1


@pytest.mark.parametrize("kind", [kind for kind in STEPS if kind.startswith("IQ")])
def test_the_flipped_bit_is_the_next_level(kind: str) -> None:
    start, stop, bits = _gguf._LOWEST_BITS[kind]
    blocks = stored(kind, 200, 1)
    flipped = blocks.copy()
    flipped[:, start:stop] ^= bits
    values = oracle(blocks, kind).astype(np.float64)
    with np.errstate(all="ignore"):
        ratios = (oracle(flipped, kind) / values)[np.abs(values) > 1e-3]
    levels = np.array(quants.IQ4_NL.kvalues, np.float64)
    allowed = levels.reshape(-1, 2)[:, ::-1].reshape(-1) / levels
    assert np.abs(ratios[:, None] / allowed - 1).min(1).max() < 1e-5


def test_types_with_what_they_lost(tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.gguf",
        {
            "a": quantised(normal(64, 4096), "Q4_0"),  # read in part
            "b": quantised(10 * normal(3, 32, seed=1), "Q4_0"),
            "c": quantised(normal(5, 64), "Q8_0"),
            "d": (stored("IQ2_S", 2, 1), "IQ2_S"),
            "e": (normal(4), "F32"),
            "f": (np.empty((0, 18), np.uint8), "Q4_0"),
        },
    )
    opened = mw.open(path)
    found = {one.kind: one for one in mc.quantised(opened.values())}
    assert {kind: one.tensors for kind, one in found.items()} == {"Q4_0": 3, "Q8_0": 1, "IQ2_S": 1}
    assert found["IQ2_S"].error is None
    assert found["Q8_0"].error == pytest.approx(quantisation_error(opened["c"]))
    sums = [
        (float(np.square(opened[name].read().astype(float)).sum()), quantisation_error(opened[name])) for name in "ab"
    ]
    errors = sum(values * error**2 / (1 - error**2) for values, error in sums if error)
    assert found["Q4_0"].error == pytest.approx(math.sqrt(errors / (errors + sum(v for v, _ in sums))), rel=0.01)
    assert mc.quantised(mw.open({"w": normal(4)}).values()) == []


def test_a_merge_says_what_quantising_had_lost(tmp_path: Path) -> None:
    values = normal(64, 256)
    a = save(tmp_path / "a.gguf", {"w": quantised(values, "Q4_0"), "n": (normal(4), "F32")})
    b = save(tmp_path / "b.gguf", {"w": (stored("IQ2_S", 64, 1), "IQ2_S"), "n": (normal(4), "F32")})
    result = mw.merge([a, b], method="linear").save(tmp_path / "out")
    (entry, other) = json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]
    told = entry["quantised"]["Q4_0"]["estimated_error"]
    assert entry["quantised"] == {"Q4_0": {"tensors": 1, "estimated_error": told}}
    assert told == pytest.approx(relative(mw.open(a)["w"].read(), values), rel=0.1)
    assert other["quantised"] == {"IQ2_S": {"tensors": 1, "estimated_error": None}}
    what = "estimated relative error of quantising, before this merge"
    assert f"{a}: {what}: Q4_0 {told:.2%}" in result.notes
    assert f"{b}: {what}: IQ2_S unknown" in result.notes


def test_no_estimate(tmp_path: Path) -> None:
    zeros = np.zeros((2, 64), np.float32)
    tensors = {
        "plain": (normal(4, 4).astype(np.float16), "F16"),
        "zeros": quantised(zeros, "Q8_0"),
        "t": quantised(normal(1, 256), "TQ1_0"),
    }
    path = save(tmp_path / "x.gguf", tensors)
    opened = mw.open(path)
    assert [quantisation_error(ref) for ref in opened.values()] == [None, 0.0, None]
    assert quantisation_error(mc.open({"w": normal(2)})["w"]) is None
    merged = mw.merge([path, path], method="linear")
    assert quantisation_error(merged["zeros"]) is None


# --- writing -------------------------------------------------------------------------------------------------------


def fields_of(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


@pytest.mark.parametrize(("kind", "number"), [("f16", 1), ("bf16", 32), ("q8_0", 7)])
def test_write(tmp_path: Path, kind: str, number: int) -> None:
    def fields(writer: Any) -> None:
        writer.add_block_count(1)
        writer.add_array("tokenizer.ggml.tokens", ["a", "bß", "c"])
        writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
        writer.add_file_type(0)
        writer.add_string("quantize.imatrix.file", "some.dat")
        writer.add_custom_alignment(64)

    values = {
        "blk.0.ffn_up.weight": normal(3, 5, 64), "blk.0.odd.weight": normal(7, 33, seed=1), "norm.weight": normal(64, seed=2),
        "blk.0.ids": np.arange(6, dtype=np.int32).reshape(2, 3), "big.weight": normal(33, 32 * 1024, seed=3),
    }  # fmt: skip
    donor = save(
        tmp_path / "donor.gguf",
        {name: (v, "I32" if v.dtype == np.int32 else "F32") for name, v in values.items()},
        fields,
    )
    out = tmp_path / "out.gguf"
    errors = write_gguf(mw.open(donor), out, kind, donor=donor)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["donor.gguf", "out.gguf"]
    assert fields_of(out) == {
        "general.architecture": "llama", "llama.block_count": 1, "tokenizer.ggml.tokens": ["a", "bß", "c"],
        "tokenizer.ggml.scores": [0.5, 1.5], "general.file_type": number, "general.quantization_version": 2,
    }  # fmt: skip
    types = dict.fromkeys(values, Type[kind.upper()]) | {"norm.weight": Type.F32, "blk.0.ids": Type.I32}
    if kind == "q8_0":
        types["blk.0.odd.weight"] = Type.F16
    read = gguf.GGUFReader(out).tensors
    assert [tensor.name for tensor in read] == list(values)
    for tensor in read:
        exact = values[tensor.name]
        assert tensor.tensor_type == types[tensor.name]
        assert tuple(reversed(tensor.shape.tolist())) == exact.shape
        if exact.dtype == np.int32:
            np.testing.assert_array_equal(tensor.data, exact)
            assert errors[tensor.name] == 0
            continue
        assert tensor.data.tobytes() == quants.quantize(exact, tensor.tensor_type).tobytes()
        back = quants.dequantize(tensor.data, tensor.tensor_type)
        assert errors[tensor.name] == pytest.approx(relative(back.reshape(exact.shape), exact), rel=1e-12)
        np.testing.assert_array_equal(mw.open(out)[tensor.name].read().astype(np.float32), back.reshape(exact.shape))
    assert 0.004 < {"q8_0": 1, "bf16": 3.2, "f16": 26}[kind] * errors["big.weight"] < 0.006


def test_write_a_merge(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a.gguf", 0), model(tmp_path / "b.gguf", 100)
    errors = write_gguf(mw.merge([a, b], method="linear", out_dtype="float32"), tmp_path / "m.gguf", "q8_0", donor=a)
    one, two, found = mw.open(a), mw.open(b), gguf.GGUFReader(tmp_path / "m.gguf").tensors
    assert list(errors) == list(one)
    for tensor in found:
        mean = (one[tensor.name].read() + two[tensor.name].read()) / 2
        assert tensor.data.tobytes() == quants.quantize(mean, tensor.tensor_type).tobytes()
    again = write_gguf(mw.open(tmp_path / "m.gguf"), tmp_path / "n.gguf", "q8_0", donor=tmp_path / "m.gguf")
    assert max(again.values()) < 1e-3  # what is on the grid stays there, up to the scale's rounding
    assert max(errors.values()) == pytest.approx(0.0054, rel=0.1)
    estimate = quantisation_error(mw.open(tmp_path / "m.gguf")["blk.0.ffn_up.weight"])
    assert estimate == pytest.approx(errors["blk.0.ffn_up.weight"], rel=0.06)


def test_the_same_format_is_written_without_error(tmp_path: Path) -> None:
    donor = save(tmp_path / "x.gguf", {"w": (normal(4, 32).astype(np.float16), "F16"), "n": (normal(4), "F32")})
    assert write_gguf(mw.open(donor), tmp_path / "y.gguf", "f16", donor=donor) == {"w": 0.0, "n": 0.0}


def test_what_the_donor_keeps_wide_stays_wide(tmp_path: Path) -> None:
    donor = save(
        tmp_path / "x.gguf",
        {"blk.0.ffn_gate_inp.weight": (normal(4, 32), "F32"), "w": quantised(normal(4, 32), "Q8_0")},
    )
    errors = write_gguf(mw.open(donor), tmp_path / "y.gguf", "q8_0", donor=donor)
    assert errors["blk.0.ffn_gate_inp.weight"] == 0
    assert [t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "y.gguf").tensors] == ["F32", "Q8_0"]


def test_a_donor_in_parts(tmp_path: Path) -> None:
    parts = split(tmp_path)
    write_gguf(mw.open(tmp_path), tmp_path / "y.gguf", "f16", donor=parts[1])
    assert fields_of(tmp_path / "y.gguf")["general.architecture"] == "llama"
    assert not [key for key in fields_of(tmp_path / "y.gguf") if key.startswith("split")]
    np.testing.assert_array_equal(mw.open(tmp_path / "y.gguf")["b"].read(), normal(4, seed=ord("b")))


def test_in_place(tmp_path: Path) -> None:
    path = save(tmp_path / "x.gguf", {"w": (normal(4, 32), "F32")})
    assert refusal(lambda: write_gguf(mw.open(path), path, "f16", donor=path)) == (
        f"the output '{path}' exists. Choose another name, or pass overwrite=True."
    )
    before = path.read_bytes()
    huge = {"w": np.full((4, 32), 1e6, np.float32)}
    refusal(lambda: write_gguf(mc.open(huge), path, "f16", donor=path, overwrite=True), RunError)
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]
    assert path.read_bytes() == before
    write_gguf(mw.open(path), path, "f16", donor=path, overwrite=True)
    np.testing.assert_array_equal(mw.open(path)["w"].read(), normal(4, 32).astype(np.float16))


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    donor = save(tmp_path / "x.gguf", {f"blk.{i}.w": quantised(normal(1024, 1024), "Q8_0") for i in range(12)})
    opened = mw.open(donor)
    tracemalloc.start()
    try:
        write_gguf(opened, tmp_path / "y.gguf", "q8_0", donor=donor)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (
        peak < 5 * 4 * 2**20
    )  # one of the twelve in float32 is 4 MiB; two may meet, and a piece has copies in float64


def test_what_is_not_written(tmp_path: Path) -> None:
    donor = save(tmp_path / "x.gguf", {"w": (normal(4, 32), "F32"), "n": (normal(4), "F32")})
    out = tmp_path / "y.gguf"
    opened = mw.open(donor)

    def attempt(tensors: Any, kind: str = "q8_0", out: Path = out, error: type[Exception] = InputError) -> str:
        found = refusal(lambda: write_gguf(mc.open(tensors), out, kind, donor=donor), error)
        assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]
        return found

    assert (
        attempt(opened, "q4_0")
        == "the kind of a GGUF file cannot be 'q4_0'. Did you mean 'q8_0'? Valid: bf16, f16, q8_0."
    )
    assert (
        attempt(opened, out=tmp_path / "y")
        == f"the output '{tmp_path / 'y'}' must end in .gguf. It is a single file: x.gguf."
    )
    mend = (
        "Choose a donor of the same architecture and size; names are those of GGUF files, such as blk.0.attn_q.weight."
    )
    assert attempt({"w": normal(4, 33), "z": normal(2)}) == (
        f"state dict must have the tensors of its donor {donor}; it lacks n; it has besides z; of another shape are w. {mend}"
    )
    assert attempt({"w": np.ones((4, 32), bool), "n": normal(4)}) == (
        "state dict: 'w' is bool, which GGUF files cannot hold. Leave it out."
    )
    values = {"w": normal(4, 32).astype(np.float64), "n": normal(4)}
    values["w"][1, 2] = 1e5
    assert attempt(values, "f16", error=RunError) == "'w' reaches 1e+05, which F16 cannot hold. Write bf16."
    values["w"][1, 2] = -1e8
    assert attempt(values, "q8_0", error=RunError) == "'w' reaches 1e+08, which Q8_0 cannot hold. Write bf16."
    values["w"][1, 2] = 1e300
    assert attempt(values, "bf16", error=RunError) == "'w' reaches 1e+300, which BF16 cannot hold."
    values["w"][1, 2] = np.nan
    assert attempt(values, error=RunError) == "'w' holds NaN or infinite values: mend or replace the checkpoint."
    nowhere = tmp_path / "no" / "y.gguf"
    assert (
        attempt(opened, out=nowhere, error=RunError) == f"'{nowhere}' could not be written: No such file or directory."
    )


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 40), min_size=0, max_size=4),
    st.sampled_from(["f16", "bf16", "q8_0"]),
    st.integers(0, 2**32),
)
@example([0, 32], "q8_0", 0)
@example([], "f16", 0)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, shape: list[int], kind: str, seed: int) -> None:
    path = tmp_path_factory.mktemp("gguf")
    data = header(tensors=[info("t", shape, 0)])
    donor = write(path / "x.gguf", data + normal(*shape, seed=seed).tobytes())
    errors = write_gguf(mw.open(donor), path / "y.gguf", kind, donor=donor)
    back = mw.open(path / "y.gguf")["t"].read()
    assert back.shape == tuple(shape)
    if back.size:
        assert errors["t"] == pytest.approx(relative(back, normal(*shape, seed=seed)), rel=1e-9)
        assert errors["t"] <= {"f16": 1e-3, "bf16": 5e-3, "q8_0": 2e-2}[kind]


# --- damaged and hostile files -------------------------------------------------------------------------------------


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def info(name: str | bytes, shape: list[int], kind: int = 0, offset: int = 0, axes: int | None = None) -> bytes:
    axes = len(shape) if axes is None else axes
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", axes, *reversed(shape), kind, offset)


def header(
    *,
    fields: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    version: int = 3,
    counts: tuple[int, int] | None = None,
    pad: bool = True,
) -> bytes:
    counts = counts or (len(tensors), len(fields))
    data = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(fields) + b"".join(tensors)
    return data + bytes(-len(data) % 32) if pad else data


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


U32 = struct.pack("<I", 4)
TEXT, ARRAY = struct.pack("<I", 8), struct.pack("<I", 9)

DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", " is not a GGUF file: it starts with b''. Copy or download it again."),
    "short": (b"GGUF\3", " is not a GGUF file: it starts with b'GGUF\\x03'. Copy or download it again."),
    "magic": (
        b"GGML" + bytes(40),
        " is not a GGUF file: it starts with b'GGML\\x00\\x00\\x00\\x00'. Copy or download it again.",
    ),
    "git-lfs": (
        b"version https://git-lfs",
        " is a git-lfs pointer, not the weights themselves. Fetch them: git lfs pull.",
    ),
    "version": (header(version=1), " has the GGUF version 1, but 2 and 3 can be read. Convert the model again."),
    "version 0": (header(version=0), " has the GGUF version 0, but 2 and 3 can be read. Convert the model again."),
    "endian": (
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        " is big-endian. Convert a copy with the package's own tool: gguf-convert-endian.",
    ),
    "counts missing": (
        header(pad=False)[:20],
        f": the header reaches to byte 24 at least, the file has 20. {CUT}",
    ),
    "tensors": (
        header(counts=(2**60, 0)),
        f" claims to have {2**60} tensors, more than 100000. {AGAIN}",
    ),
    "fields": (
        header(counts=(0, 2**64 - 1)),
        f" claims to have {2**64 - 1} pieces of metadata, more than 100000. {AGAIN}",
    ),
    "one tensor less": (
        header(counts=(2, 0), tensors=[info("t", [1])], pad=False),
        f": the header reaches to byte 65 at least, the file has 57. {CUT}",
    ),
    "long key": (
        header(fields=[struct.pack("<Q", 2**63)]),
        f": the header reaches to byte {2**63 + 32} at least, the file has 32. {CUT}",
    ),
    "key": (
        header(fields=[text(b"\xff") + U32 + U32]),
        f": the text b'\\xff' is not valid UTF-8. {AGAIN}",
    ),
    "key twice": (
        header(fields=[text("k") + U32 + U32] * 2),
        f": the metadata 'k' stand twice. {AGAIN}",
    ),
    "type of metadata": (
        header(fields=[text("k") + struct.pack("<I", 13)]),
        f": the metadata 'k' have the unknown type 13. {AGAIN}",
    ),
    "array in array": (
        header(fields=[text("k") + ARRAY + ARRAY + struct.pack("<Q", 1)]),
        f": the metadata 'k' have the unknown type 9. {AGAIN}",
    ),
    "long array": (
        header(fields=[text("k") + ARRAY + U32 + struct.pack("<Q", 2**62)]),
        f": the header reaches to byte {2**64 + 49} at least, the file has 64. {CUT}",
    ),
    "long array of texts": (
        header(fields=[text("k") + ARRAY + TEXT + struct.pack("<Q", 2**64 - 1)], pad=False),
        f": the header reaches to byte 57 at least, the file has 49. {CUT}",
    ),
    "long text": (
        header(fields=[text("k") + TEXT + struct.pack("<Q", 2**40)], pad=False),
        f": the header reaches to byte {2**40 + 45} at least, the file has 45. {CUT}",
    ),
    "alignment": (
        header(fields=[text("general.alignment") + U32 + struct.pack("<I", 24)]),
        f": general.alignment must be a power of two, got 24. {AGAIN}",
    ),
    "alignment 0": (
        header(fields=[text("general.alignment") + U32 + struct.pack("<I", 0)]),
        f": general.alignment must be a power of two, got 0. {AGAIN}",
    ),
    "alignment as text": (
        header(fields=[text("general.alignment") + TEXT + text("x")]),
        f": general.alignment must be a power of two, got 'x'. {AGAIN}",
    ),
    "name": (header(tensors=[info(b"\xc3(", [1])]), f": the text b'\\xc3(' is not valid UTF-8. {AGAIN}"),
    "name twice": (
        header(tensors=[info("t", [8]), info("t", [8], offset=32)]) + bytes(64),
        f": the tensor 't' stands twice. {AGAIN}",
    ),
    "axes": (
        header(tensors=[info("t", [1], axes=2**31)]),
        f": 't' has {2**31} axes; GGUF has at most 4. {AGAIN}",
    ),
    "five axes": (header(tensors=[info("t", [1] * 5)]), f": 't' has 5 axes; GGUF has at most 4. {AGAIN}"),
    "shape": (
        header(tensors=[info("t", [2**40, 2**40])]),
        f": 't' has a shape that no array can have, [{2**40}, {2**40}]. {AGAIN}",
    ),
    "empty shape": (
        header(tensors=[info("t", [2**61, 0])]),
        f": 't' has a shape that no array can have, [{2**61}, 0]. {AGAIN}",
    ),
    "type": (
        header(tensors=[info("t", [1], 99)]),
        ": 't' has the type number 99, which the package gguf does not know. "
        "Update the package, or use a file with other types, best the unquantised weights.",
    ),
    "rows": (
        header(tensors=[info("t", [32, 33], 8)]) + bytes(4000),
        f": 't' has the shape [32, 33], whose rows are no whole blocks of Q8_0. {AGAIN}",
    ),
    "scalar block": (
        header(tensors=[info("t", [], 8)]) + bytes(4000),
        f": 't' has the shape [], whose rows are no whole blocks of Q8_0. {AGAIN}",
    ),
    "gap": (
        header(tensors=[info("t", [1]), info("u", [1], offset=64)]) + bytes(128),
        f": 'u' starts at byte 64 of the data, but 32 is its place. {AGAIN}",
    ),
    "overlap": (
        header(tensors=[info("t", [1]), info("u", [1])]) + bytes(128),
        f": 'u' starts at byte 0 of the data, but 32 is its place. {AGAIN}",
    ),
    "far away": (
        header(tensors=[info("t", [1], offset=2**63)]) + bytes(128),
        f": 't' starts at byte {2**63} of the data, but 0 is its place. {AGAIN}",
    ),
    "data": (
        header(tensors=[info("t", [9])]) + bytes(32),
        f": 't' ends at byte 100, the file has 96. {CUT}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named(tmp_path: Path, case: str) -> None:
    data, message = DAMAGED[case]
    path = write(tmp_path / "x.gguf", data)
    mw.open(save(tmp_path / "warm.gguf", {"t": quantised(normal(1, 32), "Q8_0")}))  # imports are no part of the count
    tracemalloc.start()
    try:
        assert refusal(lambda: mw.open(path)) == f"{path}{message}"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_header_without_end(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(header(fields=[text("k") + TEXT + struct.pack("<Q", 2**27)], pad=False))
        file.truncate(2**28)  # sparse
    assert refusal(lambda: mw.open(path)) == f"{path}: the header is longer than 100000000 bytes. {AGAIN}"


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(lambda: _gguf.read_gguf_header(tmp_path / "x.gguf")) == (
        f"{tmp_path / 'x.gguf'} cannot be read (No such file or directory)."
    )


def sound_file() -> bytes:
    """A small file with a bit of everything."""
    fields = [
        text("general.architecture") + TEXT + text("llama"),
        text("general.alignment") + U32 + struct.pack("<I", 32),
        text("list") + ARRAY + TEXT + struct.pack("<Q", 2) + text("a") + text("bc"),
        text("numbers") + ARRAY + U32 + struct.pack("<Q", 2) + bytes(8),
    ]
    tensors = [info("a", [2, 3]), info("b", [1, 32], 8, 32), info("c", [256], 12, 96)]
    data = np.random.default_rng(0).bytes(96 + 144)
    return header(fields=fields, tensors=tensors) + data


def is_sound_or_refused(path: Path) -> None:
    try:
        opened = mw.open(path)
    except InputError:
        return
    for ref in opened.values():
        assert ref.read().shape == ref.shape


def mutations() -> st.SearchStrategy[bytes]:
    """The file with bytes replaced, a number put somewhere, and cut or lengthened."""
    sound = sound_file()
    numbers = st.sampled_from([0, 1, 2, 31, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1])

    def spoilt(edits: list[tuple[int, bytes]], cut: int, tail: bytes) -> bytes:
        data = bytearray(sound)
        for at, piece in edits:
            data[at : at + len(piece)] = piece
        return bytes(data[:cut]) + tail

    piece = st.binary(min_size=1, max_size=8) | numbers.map(lambda n: struct.pack("<Q", n))
    head = len(sound) - 240
    return st.builds(
        spoilt,
        st.lists(st.tuples(st.integers(0, head), piece), max_size=3),
        st.just(len(sound)) | st.integers(0, len(sound)),
        st.just(b"") | st.binary(max_size=40),
    )


def test_the_sound_file_is_sound(tmp_path: Path) -> None:
    assert list(mw.open(write(tmp_path / "x.gguf", sound_file()))) == ["a", "b", "c"]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations())
def test_fuzz(tmp_path: Path, data: bytes) -> None:
    is_sound_or_refused(write(tmp_path / "x.gguf", data))


@pytest.mark.slow
@settings(deadline=None, max_examples=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations() | st.binary(max_size=200).map(lambda tail: header(pad=False)[:8] + tail))
def test_fuzz_long(tmp_path: Path, data: bytes) -> None:
    is_sound_or_refused(write(tmp_path / "x.gguf", data))


@pytest.mark.slow
def test_every_truncation_and_every_flipped_bit(tmp_path: Path) -> None:
    sound = sound_file()
    path = tmp_path / "x.gguf"
    for cut in range(len(sound)):
        assert refusal(lambda cut=cut: mw.open(write(path, sound[:cut]))).startswith(str(path))
    for bit in range(8 * (len(sound) - 240)):
        data = bytearray(sound)
        data[bit // 8] ^= 1 << bit % 8
        is_sound_or_refused(write(path, bytes(data)))


def test_values_that_are_not_finite_are_refused_by_the_merge(tmp_path: Path) -> None:
    blocks = quantised(normal(2, 32), "Q8_0")[0]
    blocks[:, :2] = np.array([np.inf], np.float16).view(np.uint8)
    path = save(tmp_path / "x.gguf", {"w": (blocks, "Q8_0")})
    message = refusal(lambda: mw.merge([path, path], method="linear")["w"].read())
    assert message.startswith(f"'w' of {path} holds ")


def test_bfloat16_is_the_same_as_the_packages(tmp_path: Path) -> None:
    values = normal(4, 32)
    path = save(tmp_path / "x.gguf", {"w": (quants.quantize(values, Type.BF16), "BF16")})
    np.testing.assert_array_equal(mw.open(path)["w"].read(), values.astype(ml_dtypes.bfloat16))
