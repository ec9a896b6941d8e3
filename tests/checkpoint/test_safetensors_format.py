"""The safetensors reader and layout, against the safetensors library and byte by byte."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import load_file, save_file
from weights_helpers import entry, raw_safetensors

import modelwright.checkpoint as mc
from modelwright.checkpoint import Shard, index_json, lay_out
from modelwright.checkpoint._safetensors import MAX_HEADER, parse_header
from modelwright.errors import InputError, RunError
from modelwright.tensors import DTYPES, dtype

ALL = sorted({entry.code for entry in DTYPES.values()})


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refused(path: Path, data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        mc.open(write(path, data))
    return str(caught.value).removeprefix(f"{path}: ")


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ALL)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4), (2, 1, 3, 1)])
def test_every_dtype_bit_for_bit(tmp_path: Path, code: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape)) * DTYPES[code].itemsize
    data = os.urandom(count) if code != "BOOL" else bytes(i % 2 for i in range(count))
    path = write(tmp_path / "x.safetensors", raw_safetensors({"t": entry(code, list(shape), 0, count)}, data))
    ref = mc.open(path)["t"]
    assert (ref.dtype, ref.shape, ref.nbytes, ref.size) == (DTYPES[code], shape, count, int(np.prod(shape)))
    array = ref.read()
    assert (array.dtype, array.shape, array.tobytes()) == (DTYPES[code].numpy, shape, data)
    assert array.flags.aligned
    ((name, told),) = deserialize(path.read_bytes())  # what the library sees
    assert (name, told["dtype"], tuple(told["shape"]), bytes(told["data"])) == ("t", code, shape, data)


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "float64", "bool", "uint16", "complex64"]
)
def test_torch_round_trip(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as torch_load, save_file as torch_save

    kind = getattr(torch, name)
    values = (torch.arange(-12, 12).reshape(4, 6) / 8 if name not in ("bool", "uint16") else torch.arange(24)).to(kind)
    torch_save({"x": values, "s": values.reshape(-1)[3].clone()}, tmp_path / "m.safetensors")
    opened = mc.open(tmp_path / "m.safetensors")
    state = opened.state_dict()
    for key, value in torch_load(tmp_path / "m.safetensors").items():
        assert (state[key].dtype, state[key].shape) == (value.dtype, value.shape)
        assert (
            state[key].contiguous().reshape(-1).view(torch.uint8).tolist()
            == value.reshape(-1).view(torch.uint8).tolist()
        )
        assert opened.arrays()[key].dtype == dtype(name).numpy


def test_odd_alignment(tmp_path: Path) -> None:
    """The format allows a float at any byte; the order is the order of the bytes."""
    header = {"z": entry("F64", [2], 3, 19), "a": entry("BOOL", [3], 0, 3), "m": entry("I8", [0], 3, 3)}
    data = b"\x01\x00\x01" + np.array([1.5, -2.0]).tobytes()
    opened = mc.open(write(tmp_path / "x.safetensors", raw_safetensors(header, data, None)))
    assert list(opened) == ["a", "m", "z"]
    assert opened["z"].read().tolist() == [1.5, -2.0]
    assert opened["a"].read().tolist() == [True, False, True]


def test_metadata_and_odd_names(tmp_path: Path) -> None:
    names = ["ünï/cödé.权重", "", " ", "a/b/../c", "x" * 5000, "\u0000", "__class__", "😀.weight"]
    tensors = {name: np.full(2, i, np.float32) for i, name in enumerate(names)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt", "ключ": "значение"})
    opened = mc.open(tmp_path / "m.safetensors")
    assert opened.metadata == {"format": "pt", "ключ": "значение"}
    assert set(opened) == set(names)
    assert all(opened[name].read()[0] == i for i, name in enumerate(names))


def test_only_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a terabyte, mostly hole, opens at once."""
    size = 2**40
    path = tmp_path / "x.safetensors"
    header = raw_safetensors({"t": entry("F32", [size // 4], 0, size)})
    with path.open("wb") as file:
        file.write(header)
        try:
            file.truncate(len(header) + size)
        except OSError:
            pytest.skip("the file system has no room for a hole of this size")
    assert mc.open(path)["t"].nbytes == size


# --- damage --------------------------------------------------------------------------------------------------------

AGAIN = "The file is damaged; copy or download it again."
F32 = entry("F32", [2], 0, 8)
CASES: dict[str, tuple[Any, bytes, str]] = {
    "truncated": ({"a": F32}, b"1234", f"'a' lies at bytes 0 to 8, but the file holds 4. {AGAIN}"),
    "trailing": (
        {"a": F32},
        b"12345678xx",
        "its tensors take 8 bytes, the file holds 10. The file is cut short or damaged; copy or download it again.",
    ),
    "overlap": ({"a": F32, "b": entry("F32", [2], 4, 12)}, b"x" * 12, f"'b' overlaps the tensor before it. {AGAIN}"),
    "same place": ({"a": F32, "b": F32}, b"x" * 8, f"'b' overlaps the tensor before it. {AGAIN}"),
    "gap": (
        {"a": F32, "b": entry("U8", [1], 9, 10)},
        b"x" * 10,
        f"'b' leaves 1 bytes before it unexplained. {AGAIN}",
    ),
    "gap at the start": ({"a": entry("U8", [1], 1, 2)}, b"xx", f"'a' leaves 1 bytes before it unexplained. {AGAIN}"),
    "backwards": ({"a": entry("F32", [2], 8, 0)}, b"x" * 8, f"'a' lies at bytes 8 to 0, but the file holds 8. {AGAIN}"),
    "shape": (
        {"a": entry("F32", [3], 0, 8)},
        b"x" * 8,
        f"'a' has shape [3] of float32, which does not fit its 8 bytes. {AGAIN}",
    ),
    "dtype": (
        {"a": entry("F16", [2], 0, 8)},
        b"x" * 8,
        f"'a' has shape [2] of float16, which does not fit its 8 bytes. {AGAIN}",
    ),
    "negative": (
        {"a": entry("F32", [-2], 0, 8)},
        b"x" * 8,
        f"'a' has a shape or data_offsets that are not lists of natural numbers. {AGAIN}",
    ),
    "bool as number": (
        {"a": entry("U8", [True], 0, 1)},
        b"x",
        f"'a' has a shape or data_offsets that are not lists of natural numbers. {AGAIN}",
    ),
    "float as number": (
        {"a": entry("U8", [1.0], 0, 1)},  # type: ignore[list-item]
        b"x",
        f"'a' has a shape or data_offsets that are not lists of natural numbers. {AGAIN}",
    ),
    "three offsets": (
        {"a": {**F32, "data_offsets": [0, 4, 8]}},
        b"x" * 8,
        f"'a' has a shape or data_offsets that are not lists of natural numbers. {AGAIN}",
    ),
    "missing field": (
        {"a": {"dtype": "F32", "shape": [2]}},
        b"x" * 8,
        f"'a' needs exactly dtype, shape and data_offsets. {AGAIN}",
    ),
    "extra field": ({"a": {**F32, "x": 1}}, b"x" * 8, f"'a' needs exactly dtype, shape and data_offsets. {AGAIN}"),
    "no object": ({"a": 7}, b"", f"'a' needs exactly dtype, shape and data_offsets. {AGAIN}"),
    "list": ([1], b"", "the header must be a JSON object, got list. Copy or download it again."),
    "metadata list": (
        {"__metadata__": ["x"]},
        b"",
        "__metadata__ must map text to text. Copy or download it again.",
    ),
    "metadata number": (
        {"__metadata__": {"x": 1}},
        b"",
        "__metadata__ must map text to text. Copy or download it again.",
    ),
    "huge dimension": (
        {"a": entry("F32", [0, 2**62], 0, 0)},
        b"",
        f"'a' has a shape that no array can have (2 axes). {AGAIN}",
    ),
    "many axes": (
        {"a": entry("U8", [1] * 65, 0, 1)},
        b"x",
        f"'a' has a shape that no array can have (65 axes). {AGAIN}",
    ),
    "surrogate": (
        b'{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}',
        b"x",
        r"the name '\ud800' is not valid Unicode. Copy or download it again.",
    ),
    "E8M0": (
        {"a": entry("F8_E8M0", [8], 0, 8)},
        b"x" * 8,
        "'a' has the block-exponent format F8_E8M0. Quantised checkpoints are not merged: use the unquantised weights.",
    ),
    "F4": (
        {"a": entry("F4", [16], 0, 8)},
        b"x" * 8,
        "'a' has the sub-byte format F4. Quantised checkpoints are not merged: use the unquantised weights.",
    ),
    "F6": (
        {"a": entry("F6_E2M3", [8], 0, 6)},
        b"x" * 6,
        "'a' has the sub-byte format F6_E2M3. Quantised checkpoints are not merged: use the unquantised weights.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    header, data, message = CASES[name]
    assert refused(tmp_path / "x.safetensors", raw_safetensors(header, data)) == message


def test_unknown_dtype(tmp_path: Path) -> None:
    for code in ("F3", "bfloat16", "F", ["F32"], None, {"a": 1}):
        data = raw_safetensors({"a": {**F32, "dtype": code}}, b"x" * 8)
        message = refused(tmp_path / "x.safetensors", data)
        assert message.startswith(f"'a' has the unknown dtype '{code}'")
        assert "Valid: BF16, BOOL, C64, F16, F32, F64, F8_E4M3, F8_E5M2" in message


def test_duplicate_names(tmp_path: Path) -> None:
    one = '"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}'
    message = refused(tmp_path / "x.safetensors", raw_safetensors(f"{{{one}, {one}}}".encode(), b"x"))
    assert message == "the header is not valid JSON (the name 'a' stands twice). Copy or download it again."
    twice = b'{"a": {"dtype": "U8", "dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}'
    assert "the name 'dtype' stands twice" in refused(tmp_path / "x.safetensors", raw_safetensors(twice, b"x"))


def test_header_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for claim in (3, 1000, MAX_HEADER + 1, 2**63, 2**64 - 1):
        message = refused(path, claim.to_bytes(8, "little") + b"{}")
        mend = "It is cut short or not a safetensors file; copy or download it again."
        assert message == f"the header claims {claim} bytes, the file has 10. {mend}"
    for data in (b"", b"1234567"):
        assert refused(path, data) == (
            f"{path} is not a safetensors file: it has {len(data)} bytes. Copy or download it again."
        )


@pytest.mark.parametrize("header", [b"", b"{", b"nonsense", b"\xff\xfe{}", b"[" * 100_000, b'{"a": 1e}', b"9" * 5000])
def test_header_that_is_no_json(tmp_path: Path, header: bytes) -> None:
    assert refused(tmp_path / "x.safetensors", raw_safetensors(header)).startswith(
        ("the header is not valid JSON", "the header must")
    )


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    """What a clone without git-lfs leaves in place of the weights."""
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    path = tmp_path / "model.safetensors"
    assert refused(path, text) == f"{path} is a git-lfs pointer, not the weights themselves. Fetch them: git lfs pull."


def test_not_readable(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").symlink_to(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"no file, folder or Hub model is called"):
        mc.open(tmp_path / "x.safetensors")


def test_cut_short_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones(4, np.float32)}, path)
    ref = mc.open(path)["a"]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RunError, match=r"expected 16 bytes at offset \d+, got 13; the file was cut short"):
        ref.read()
    path.unlink()
    with pytest.raises(RunError, match=r"x\.safetensors can no longer be read \(No such file or directory\)"):
        ref.read()


# --- fuzz ----------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-2, 40), st.sampled_from([2**31, 2**63, 2**64, 10**30, 1.5, True, None, "4"]))
FIELD = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from([*ALL, "F4", "F8_E8M0", "X"]), st.none(), st.lists(st.integers())),
        "shape": st.one_of(st.lists(NUMBERS, max_size=4), NUMBERS),
        "data_offsets": st.one_of(st.lists(NUMBERS, min_size=2, max_size=2), st.lists(NUMBERS, max_size=3)),
    }
)
HEADER = st.dictionaries(st.text(max_size=4), st.one_of(FIELD, NUMBERS), max_size=3)


def agrees_with_the_library(data: bytes, path: Path) -> None:
    """No error but ours; whatever we accept the library reads the same, whatever it refuses so do we."""
    path.write_bytes(data)
    try:
        theirs: Any = {
            name: (told["dtype"], tuple(told["shape"]), bytes(told["data"])) for name, told in deserialize(data)
        }
    except (SafetensorError, UnicodeDecodeError):
        theirs = None
    try:
        opened = mc.open(path)
    except InputError:
        return  # stricter is fine: gaps in JSON, duplicate names, packed formats
    assert theirs is not None
    assert {n: (r.dtype.code, r.shape, r.read().tobytes()) for n, r in opened.items()} == theirs


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(header=HEADER, data=st.binary(max_size=40))
@example(header={"a": entry("F32", [2], 0, 8)}, data=b"x" * 8)
def test_fuzzed_headers(tmp_path_factory: pytest.TempPathFactory, header: Any, data: bytes) -> None:
    agrees_with_the_library(raw_safetensors(header, data), tmp_path_factory.getbasetemp() / "fuzz.safetensors")


VALID = raw_safetensors(
    {"__metadata__": {"format": "pt"}, "a": F32, "b": entry("BF16", [1, 3], 8, 14), "c": entry("U8", [], 14, 15)},
    b"x" * 15,
)


def mutated(data: bytes, edits: list[tuple[int, int]], cut: int) -> bytes:
    raw = bytearray(data)
    for at, value in edits:
        raw[at % len(raw)] = value
    return bytes(raw[: len(raw) - cut])


EDITS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=3)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS, cut=st.integers(0, 3))
def test_fuzzed_bytes(tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]], cut: int) -> None:
    agrees_with_the_library(mutated(VALID, edits, cut), tmp_path_factory.getbasetemp() / "fuzz.safetensors")


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS, cut=st.integers(0, 3), header=HEADER)
def test_fuzz_at_length(tmp_path_factory: pytest.TempPathFactory, edits: Any, cut: int, header: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    agrees_with_the_library(mutated(VALID, edits, cut), path)
    agrees_with_the_library(raw_safetensors(header, b"x" * 8), path)


def test_parse_header_never_touches_the_file() -> None:
    tensors, metadata = parse_header(
        b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', Path("/nowhere"), 1, 99
    )
    assert (tensors["a"].source, metadata) == ("nowhere @ 99", {})


# --- writing -------------------------------------------------------------------------------------------------------

Entry = tuple[str, Any, tuple[int, ...]]
ENTRIES = [("a", "F32", (3, 4)), ("ü/β", "BF16", (5,)), ("s", "F64", ()), ("e", "F32", (0, 7)), ("i", "I64", (2,))]


def entries(*rows: tuple[str, str, tuple[int, ...]]) -> list[Entry]:
    return [(name, dtype(code), shape) for name, code, shape in rows]


def write_shard(folder: Path, shard: Shard) -> dict[str, bytes]:
    """The shard with random bytes, through its offsets; what was written by name."""
    raw = bytearray(shard.header) + bytearray(shard.nbytes - len(shard.header))
    written: dict[str, bytes] = {}
    for name, (start, count) in shard.tensors.items():
        written[name] = os.urandom(count)
        raw[start : start + count] = written[name]
    (folder / shard.file).write_bytes(raw)
    return written


@pytest.mark.parametrize("limit", [1, 16, 60, 10**9])
def test_layout_is_read_back_by_the_library(tmp_path: Path, limit: int) -> None:
    shards = lay_out(entries(*ENTRIES), "model", limit, {"format": "pt", "made": "hier"})
    written: dict[str, bytes] = {}
    for shard in shards:
        part = write_shard(tmp_path, shard)
        with safe_open(tmp_path / shard.file, framework="np") as file:
            assert file.metadata() == {"format": "pt", "made": "hier"}
            assert set(file.keys()) == set(part)
            for name, data in part.items():
                if name != "ü/β":  # numpy alone has no bfloat16
                    assert file.get_tensor(name).tobytes() == data
        for name, told in deserialize((tmp_path / shard.file).read_bytes()):
            code, shape = next((code, shape) for other, code, shape in ENTRIES if other == name)
            assert (told["dtype"], tuple(told["shape"]), bytes(told["data"])) == (code, shape, part[name])
        assert len(shard.header) % 8 == 0
        written |= part
        assert sum(count for _, count in shard.tensors.values()) <= limit or len(shard.tensors) == 1
    assert set(written) == {name for name, _, _ in ENTRIES}
    if len(shards) > 1:
        (tmp_path / "model.safetensors.index.json").write_text(index_json(shards), encoding="utf-8")
    opened = mc.open(tmp_path)
    assert {name: ref.read().tobytes() for name, ref in opened.items()} == written
    assert opened.metadata == {"format": "pt", "made": "hier"}
    assert opened.notes == ()


def test_shards_are_full_and_named() -> None:
    rows = entries(*((f"t{i}", "U8", (4,)) for i in range(7)))
    shards = lay_out(rows, "model", 9, {})
    assert [(shard.file, list(shard.tensors)) for shard in shards] == [
        ("model-00001-of-00004.safetensors", ["t0", "t1"]),
        ("model-00002-of-00004.safetensors", ["t2", "t3"]),
        ("model-00003-of-00004.safetensors", ["t4", "t5"]),
        ("model-00004-of-00004.safetensors", ["t6"]),
    ]
    index = json.loads(index_json(shards))
    assert index["metadata"] == {"total_size": 28}
    assert index["weight_map"] == {f"t{i}": f"model-0000{i // 2 + 1}-of-00004.safetensors" for i in range(7)}
    (one,) = lay_out(rows, "diffusion_pytorch_model", 28, {})
    assert one.file == "diffusion_pytorch_model.safetensors"
    big, small = lay_out(entries(("big", "F32", (100,)), ("small", "U8", (1,))), "m", 10, {})
    assert (list(big.tensors), list(small.tensors)) == (["big"], ["small"])
    assert big.nbytes == len(big.header) + 400


def test_nothing_to_write(tmp_path: Path) -> None:
    (shard,) = lay_out([], "model", 10, {})
    write_shard(tmp_path, shard)
    assert load_file(tmp_path / shard.file) == {}
    assert dict(mc.open(tmp_path)) == {}


def test_layout_aligns_only_where_it_must() -> None:
    (kept,) = lay_out(entries(("b", "BF16", (4,)), ("f", "F32", (2,)), ("n", "I64", ())), "m", 10**6, {})
    assert list(kept.tensors) == ["b", "f", "n"]
    (moved,) = lay_out(
        entries(("m", "BOOL", (3,)), ("f", "F32", (2,)), ("n", "I64", ()), ("g", "F32", ())), "m", 10**6, {}
    )
    assert list(moved.tensors) == ["n", "f", "g", "m"]
    assert all(start % size == 0 for (start, _), size in zip(moved.tensors.values(), (8, 4, 4, 1), strict=True))


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_cannot_be_written(name: str) -> None:
    message = re.escape(f"a tensor cannot be called {name!r} in a safetensors file. Rename it.")
    with pytest.raises(InputError, match=message):
        lay_out(entries((name, "U8", (1,))), "m", 10, {})


def test_two_tensors_of_one_name() -> None:
    with pytest.raises(InputError, match=r"two tensors of the output are called 'a'\. Rename one of them\."):
        lay_out(entries(("a", "U8", (1,)), ("a", "F32", (1,))), "m", 2, {})


def test_ml_dtypes_are_the_formats_of_the_file() -> None:
    assert DTYPES["F8_E4M3"].numpy == np.dtype(ml_dtypes.float8_e4m3fn)
    assert DTYPES["F8_E5M2"].numpy == np.dtype(ml_dtypes.float8_e5m2)
