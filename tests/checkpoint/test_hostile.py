"""Broken and hostile files, through the command line: each is a clear error, and nothing is written."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_helpers import arrays, entry, folder, raw_safetensors, save_file, write_json

import modelwright as mw
import modelwright.checkpoint as mc
from modelwright.checkpoint import _pickle
from modelwright.checkpoint._adapter_scales import Pattern
from modelwright.cli._app import run
from modelwright.errors import InputError, Problem, RunError, printable

AGAIN = "Copy or download it again."
DAMAGED = "The file is damaged; copy or download it again."
AB = arrays(0, a=(2, 3), b=(4,))


def model(root: Path) -> Path:
    return folder(root, AB, {"model_type": "x"})


# --- torch files, byte by byte --------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def tensor(
    shape: tuple[int, ...] = (2,), strides: tuple[int, ...] = (1,), offset: int = 0, count: int = 2, key: str = "0"
) -> bytes:
    """The pickle of a float32 tensor."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    arguments = storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state_dict(**tensors: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(text(name) + raw for name, raw in tensors.items()) + b"u."


def zipped(raw: bytes, records: dict[str, bytes] | None = None, kind: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """A torch file; `records` are its storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that stand twice
        archive.writestr("x/data.pkl", raw)
        archive.writestr("x/version", "3\n")
        for name, data in {f"data/{key}": data for key, data in (records or {"0": b"12345678"}).items()}.items():
            archive.writestr(f"x/{name}", data)
        for name, data in more.items():
            archive.writestr(f"x/{name}", data)
    return file.getvalue()


def in_sequence(raw: bytes, *, little: bool = True, count: int = 2) -> bytes:
    """The same as before torch 1.6, when references to storages had one field more."""
    raw = raw.replace(b"tQ", b"NtQ")
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": little}]
    pickles = [*(pickle.dumps(part, 2) for part in head), raw, pickle.dumps(["0"], 2)]
    return b"".join(pickles) + struct.pack("<q", count) + b"12345678"


GOOD = state_dict(a=tensor())
HEX_BOMB = b"\x80\x02" + b"c_codecs\nencode\n" * 41 + text("aaaa") + text("latin1") + b"\x86R"
HEX_BOMB += (text("hex_codec") + b"\x86R") * 40 + b"."
TUPLE_BOMB = b"\x80\x02}" + b"K\x01\x85q\x000" + b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60))
TUPLE_BOMB += b"h\x3cK\x01s."


def overlapping() -> bytes:
    """Two records of one place: the directory lists one twice, under two names."""
    raw = bytearray(zipped(GOOD, {"0": b"12345678", "1": b"12345678"}))
    first, second = raw.index(b"PK\1\2", raw.index(b"x/data/1")), raw.rindex(b"PK\1\2")
    middle = raw.index(b"PK\1\2", first + 4)
    raw[second + 42 : second + 46] = raw[middle + 42 : middle + 46]
    return bytes(raw)


def longer_than_the_file() -> bytes:
    raw = bytearray(zipped(GOOD))
    at = raw.rindex(b"PK\1\2")
    raw[at + 20 : at + 28] = struct.pack("<II", 2**31, 2**31)
    return bytes(raw)


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


def packed(raw: bytes) -> int:
    return zipfile.ZipFile(io.BytesIO(raw)).getinfo("x/data.pkl").compress_size


ZIP_BOMB = zipped(b"N" * 10_000_000, kind=zipfile.ZIP_DEFLATED)


def directory(at: int, new: bytes, where: bytes = b"PK\1\2") -> bytes:
    """A torch file with other bytes in its last directory entry, or in the end of the directory."""
    raw = bytearray(zipped(GOOD))
    start = raw.rindex(where) + at
    raw[start : start + len(new)] = new
    return bytes(raw)


def wide_end() -> bytes:
    """It points to an end of the directory in 64 bits that is not there."""
    raw = zipped(GOOD)
    return raw[:-22] + b"PK\6\7" + bytes(16) + raw[-22:]


BROKEN = "cannot be read as a torch file ({}). Copy or download it again."
TORCH: dict[str, tuple[bytes, str]] = {
    "code": (
        zipped(b"\x80\x02cposix\nsystem\n" + text("touch ran") + b"\x85R."),
        "holds more than tensors: unpickling it would import posix.system, which could run code. Save its state dict "
        "alone, or convert it to safetensors where you trust it.",
    ),
    "zip bomb": (
        ZIP_BOMB,
        f": its record 'x/data.pkl' is compressed ({packed(ZIP_BOMB):,} bytes that claim to be 10,000,000). torch stores its records as "
        "they are: save it again with torch.save.",
    ),
    "record longer than the file": (
        longer_than_the_file(),
        BROKEN.format("its record 'x/data/0' claims bytes 320 to 2147483968, but what follows starts at 328"),
    ),
    "overlapping records": (
        overlapping(),
        BROKEN.format("its record 'x/data/1' is not at byte 241, where the zip directory has it"),
    ),
    "record named twice": (
        zipped(GOOD, {"0": b"12345678"}, **{"data/0": b"12345678"}),
        BROKEN.format("two of its records are called 'x/data/0'"),
    ),
    "something follows": (
        zipped(GOOD) + b"more",
        BROKEN.format("its zip directory is not at its end: it is cut short, or something follows"),
    ),
    "something before": (
        zipped(GOOD)[:4] + b"more" + zipped(GOOD)[4:],
        BROKEN.format("its zip directory claims bytes 328 to 493, but ends at 497"),
    ),
    "encrypted": (
        directory(8, b"\1\0"),
        ": its record 'x/data/0' is encrypted (8 bytes that claim to be 8). torch stores its records as they are: save it "
        "again with torch.save.",
    ),
    "record inside another": (
        directory(42, b"\7\0\0\0"),
        BROKEN.format("its record 'x/data.pkl' claims bytes 40 to 241, but what follows starts at 7"),
    ),
    "record without a name": (
        directory(46, b"\xff"),
        BROKEN.format("the name of a record is not UTF-8: b'\\xff/data/0'"),
    ),
    "damaged directory": (directory(0, b"XX"), BROKEN.format("its zip directory is damaged at byte 111")),
    "directory that counts wrong": (
        directory(10, b"\7\0", b"PK\5\6"),
        BROKEN.format("its zip directory lists 3 records and says 7"),
    ),
    "directory without an end": (
        wide_end(),
        BROKEN.format("its zip directory has no end in 64 bits, though it says so"),
    ),
    "storage of torch 0.3": (
        zipped(GOOD.replace(b"tQ", b"K\1tQ")),
        BROKEN.format("it holds views of storages, as torch wrote them before 0.4"),
    ),
    "another zip": (zipped(GOOD).replace(b"data.pkl", b"data.abc"), BROKEN.format("it is a zip archive, but not of torch: it has no data.pkl")),
    "hex bomb": (zipped(HEX_BOMB), "holds a _codecs.encode, not a dict of tensors. Save the state dict alone."),
    "tuple bomb": (zipped(TUPLE_BOMB), "holds entries that are not tensors: a key of kind tuple. Save the state dict alone."),
    "empty stack": (zipped(b"\x80\x02R."), BROKEN.format("its pickle takes from an empty stack")),
    "no mark": (zipped(b"\x80\x02u."), BROKEN.format("its pickle has an end without a start")),
    "unknown operation": (zipped(b"\x80\x02i."), BROKEN.format("unknown operation 105 at byte 2 of the pickle")),
    "pickle cut short": (zipped(GOOD[:-1]), BROKEN.format("its pickle is cut short")),
    "nothing stored": (zipped(b"\x80\x02h\x07."), BROKEN.format("its pickle looks up 7, which it has not stored")),
    "append to nothing": (zipped(b"\x80\x02}Na."), BROKEN.format("its pickle appends to what is no list")),
    "entries of nothing": (zipped(b"\x80\x02]NNs."), BROKEN.format("its pickle sets entries of what is no dict")),
    "no pairs": (zipped(b"\x80\x02ccollections\nOrderedDict\n]Na\x85R."), BROKEN.format("its pickle fills a dict with what are no pairs")),
    "call of a number": (zipped(b"\x80\x02ctorch\nfloat32\n)R."), BROKEN.format("its pickle calls torch.float32, which is no function")),
    "bad reference": (zipped(b"\x80\x02K\x01Q."), BROKEN.format("its pickle refers to what is no storage")),
    "bad tensor": (zipped(state_dict(a=tensor((-1,)))), BROKEN.format("its pickle builds a tensor from what is none")),
    "name that is no text": (zipped(b"\x80\x02}U\x01\xffNs."), BROKEN.format("its pickle holds a text that is not UTF-8")),
    "view beyond its storage": (
        zipped(state_dict(a=tensor((3,)))),
        f": 'a' of shape [3] goes beyond its storage of 8 bytes. {DAMAGED}",
    ),
    "offset beyond its storage": (
        zipped(state_dict(a=tensor((1,), offset=2**70))),
        f": 'a' of shape [1] goes beyond its storage of 8 bytes. {DAMAGED}",
    ),
    "stride beyond its storage": (
        zipped(state_dict(a=tensor((2,), (2**62,)))),
        f": 'a' of shape [2] goes beyond its storage of 8 bytes. {DAMAGED}",
    ),
    "empty and huge": (
        zipped(state_dict(a=tensor((0, 2**62), (1, 1)))),
        f": 'a' of shape [0, {2**62}] goes beyond its storage of 8 bytes. {DAMAGED}",
    ),
    "storage longer than its record": (
        zipped(state_dict(a=tensor(count=100))),
        ": 'a' needs storage '0' of 400 bytes, which has 8. The file is cut short or damaged; copy or download it again.",
    ),
    "storage that is not there": (
        zipped(state_dict(a=tensor(key="7"))),
        ": 'a' needs storage '7' of 8 bytes, which is not in the file. The file is cut short or damaged; copy or download "
        "it again.",
    ),
    "terabytes of one number": (
        zipped(state_dict(a=tensor((10**12,), (0,)))),
        ": 'a' repeats the 8 bytes of its storage to 4,000,000,000,000. Save what tensor.contiguous() gives.",
    ),
    "big-endian": (
        zipped(GOOD, byteorder=b"big"),
        " was saved on a big-endian machine. Save it again on a common one.",
    ),
    "older: code": (
        in_sequence(b"\x80\x02cbuiltins\neval\n" + text("1") + b"\x85R."),
        "holds more than tensors: unpickling it would import builtins.eval, which could run code. Save its state dict "
        "alone, or convert it to safetensors where you trust it.",
    ),
    "older: big-endian": (in_sequence(GOOD, little=False), " was saved on a big-endian machine. Save it again on a common one."),
    "older: cut short": (
        in_sequence(GOOD, count=2**60),
        BROKEN.format(f"it is cut short: its storage '0' claims {2**62:,} bytes at byte 274"),
    ),
    "older: a storage too many": (
        in_sequence(pickle.dumps({}, 2)),
        BROKEN.format("it lists a storage that no tensor has"),
    ),
    "no torch file": (
        pickle.dumps({"a": 1}, 2),
        BROKEN.format("it is no zip archive, and has not the number that older files start with"),
    ),
    "tar": (tar(), " is a tar file, as torch wrote them before 0.1.10. Load and save it with torch < 1.6."),
}  # fmt: skip


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        mc.open(path)
    return str(caught.value)


@pytest.mark.parametrize("name", TORCH)
def test_torch_files(tmp_path: Path, name: str) -> None:
    raw, message = TORCH[name]
    path = tmp_path / "m.bin"
    path.write_bytes(raw)
    assert refusal(path) == f"{path}{'' if message[0] in ': ' else ' '}{message}"


def test_the_bytes_of_these_files_are_else_good(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(zipped(state_dict(a=tensor((0, 3), (3, 1), offset=2**70))))
    assert mc.open(tmp_path / "m.bin")["a"].read().shape == (0, 3)
    for raw in (zipped(GOOD), in_sequence(GOOD), zipped(GOOD, byteorder=b"little")):
        (tmp_path / "m.bin").write_bytes(raw)
        assert mc.open(tmp_path / "m.bin")["a"].read().tobytes() == b"12345678"


def test_limits_of_torch_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(zipped(GOOD))
    monkeypatch.setattr(_pickle, "_MOST_STEPS", 20)
    assert refusal(path) == f"{path} {BROKEN.format('its pickle takes more than 20 steps')}"
    with path.open("wb") as file:
        size = _pickle.MAX_PICKLE + 1
        head = b"PK\3\4" + bytes(22) + struct.pack("<HH", 10, 0) + b"x/data.pkl"
        record = b"PK\1\2" + bytes(16) + struct.pack("<IIH", size, size, 10) + bytes(16) + b"x/data.pkl"
        file.write(head)
        file.seek(len(head) + size)
        file.write(record + b"PK\5\6" + bytes(6) + struct.pack("<HIIH", 1, len(record), len(head) + size, 0))
    assert refusal(path) == (
        f"{path}: its data.pkl has 67,108,865 bytes; at most 67,108,864 are read. Names and shapes never take so many. "
        "Save the state dict alone, or as safetensors."
    )
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(struct.pack("<II", size, len(head)))
    message = BROKEN.format("its zip directory has 67,108,865 bytes, more than 67,108,864")
    assert refusal(path) == f"{path} {message}"


# --- whole folders, through the command line ------------------------------------------------------------------------

#: Makes a folder; returns what to merge and what is said of it.
Case = Callable[[Path], tuple[Path | str, str]]
CASES: dict[str, Case] = {}


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


def replaced(root: Path, name: str) -> Path:
    model(root)
    (root / name).unlink(missing_ok=True)
    return root / name


@case
def pipe_for_weights(root: Path) -> tuple[Path | str, str]:
    os.mkfifo(path := replaced(root, "model.safetensors"))
    return root, f"{path} is a pipe, not a file. Put the file itself there."


@case
def pipe_by_name(root: Path) -> tuple[Path | str, str]:
    os.mkfifo(path := replaced(root, "x.bin"))
    return path, f"{path} is a pipe, not a file. Put the file itself there."


@case
def pipe_for_gguf(root: Path) -> tuple[Path | str, str]:
    replaced(root, "model.safetensors")
    os.mkfifo(path := root / "x.gguf")
    return root, f"{path} is a pipe, not a file. Put the file itself there."


@case
def device_for_gguf(root: Path) -> tuple[Path | str, str]:
    (path := replaced(root, "x.gguf")).symlink_to("/dev/zero")
    return path, f"{path} is a device, not a file. Put the file itself there."


@case
def pipe_for_configuration(root: Path) -> tuple[Path | str, str]:
    os.mkfifo(path := replaced(root, "config.json"))
    return root, f"{path} is a pipe, not a file. Put the file itself there."


@case
def pipe_for_index(root: Path) -> tuple[Path | str, str]:
    replaced(root, "model.safetensors")
    os.mkfifo(path := root / "model.safetensors.index.json")
    return root, f"{path} is a pipe, not a file. Put the file itself there."


@case
def pipe_for_pipeline(root: Path) -> tuple[Path | str, str]:
    os.mkfifo(path := replaced(root, "model_index.json"))
    return root, f"{path} is a pipe, not a file. Put the file itself there."


@case
def device_for_weights(root: Path) -> tuple[Path | str, str]:
    (path := replaced(root, "model.safetensors")).symlink_to("/dev/zero")
    return root, f"{path} is a device, not a file. Put the file itself there."


@case
def socket_for_weights(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(root)  # such a name must be short
        end.bind(path.name)
        os.chdir(here)
    return root, f"{path} is a socket, not a file. Put the file itself there."


@case
def folder_for_configuration(root: Path) -> tuple[Path | str, str]:
    (path := replaced(root, "config.json")).mkdir()
    return root, f"{path} is a folder, not a file. Put the file itself there."


@case
def dead_link(root: Path) -> tuple[Path | str, str]:
    (path := replaced(root, "model.safetensors")).symlink_to("../blobs/abc")
    return root, f"{path} is a link to '../blobs/abc', where nothing is. {AGAIN}"


@case
def link_to_itself(root: Path) -> tuple[Path | str, str]:
    (path := replaced(root, "model.safetensors")).symlink_to(path.name)
    return root, f"{path} cannot be read (Too many levels of symbolic links)."


@case
def licence_of_somebody_else(root: Path) -> tuple[Path | str, str]:
    (path := replaced(root, "LICENSE")).symlink_to("../secret")
    (secret := root.with_name("secret")).write_text("key", encoding="utf-8")
    return root, (
        f"{path} is a link to {secret}, outside the model's folder, and would be copied into the output. If it belongs "
        "to the model, put a copy of the file there."
    )


@case
def name_of_a_file(root: Path) -> tuple[Path | str, str]:
    path = Path(os.fsdecode(os.fsencode(replaced(root, "x")) + b"\xff.txt"))
    path.touch()
    return root, f"the name of {root}/x\\udcff.txt is not UTF-8, and would stand in the manifest. Rename it."


@case
def name_of_a_folder(root: Path) -> tuple[Path | str, str]:
    path = Path(os.fsdecode(os.fsencode(root) + b"\xff"))
    model(path)
    return path, f"the path '{root}\\udcff' is not UTF-8, and would stand in the manifest. Rename it."


@case
def escapes_in_a_name(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    path.write_bytes(raw_safetensors({"\x1b[2J\r\nerror: \u202e\x9b": entry("F32", [2], 0, 4)}, b"1234"))
    return root, (
        f"{path}: '\\x1b[2J\\r\\nerror: \\u202e\\x9b' has shape [2] of float32, which does not fit its 4 bytes. {DAMAGED}"
    )


@case
def name_without_end(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    path.write_bytes(raw_safetensors({"a" * 10_000_000: 1}))
    what = f"{path}: '{'a' * 10_000_000}' needs exactly dtype, shape and data_offsets"
    return root, f"{what[:1950]} [{len(what) - 3900:,} characters left out] {what[-1950:]}. {DAMAGED}"


@case
def dtype_without_end(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    path.write_bytes(raw_safetensors({"a": entry("F" * 1_000_000, [2], 0, 4)}, b"1234"))
    known = "BF16, BOOL, C64, F16, F32, F64, F8_E4M3, F8_E5M2, I16, I32, I64, I8 and 4 more"
    what = f"{path}: 'a' has the unknown dtype '{'F' * 1_000_000}'. Valid: {known}."
    return root, f"{what[:1950]} [{len(what) - 3900:,} characters left out] {what[-1950:]} {DAMAGED}"


@case
def header_over_the_limit(root: Path) -> tuple[Path | str, str]:
    with (path := replaced(root, "model.safetensors")).open("wb") as file:
        file.write((10**8 + 1).to_bytes(8, "little"))
        file.truncate(2 * 10**8)
    return root, (
        f"{path}: the header claims 100000001 bytes, and the format allows 100000000. It is damaged or not a safetensors "
        "file; copy or download it again."
    )


@case
def shape_of_a_million_numbers(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    path.write_bytes(raw_safetensors({"a": entry("F32", [10**18] * 1_000_000, 0, 4)}, b"1234"))
    return root, f"{path}: 'a' has a shape that no array can have (1000000 axes). {DAMAGED}"


@case
def shape_beyond_64_bits(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    path.write_bytes(raw_safetensors({"a": entry("F32", [2**32, 2**32 + 1, 1], 0, 4)}, b"1234"))
    return root, f"{path}: 'a' has a shape that no array can have (3 axes). {DAMAGED}"


@case
def number_of_5000_digits(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    header = b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % (b"9" * 5000)
    path.write_bytes(raw_safetensors(header, b"1234"))
    return root, (
        f"{path}: the header is not valid JSON (Exceeds the limit (4300 digits) for integer string conversion: value has "
        f"5000 digits). {AGAIN}"
    )


@case
def infinite_number(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    header = b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, NaN]}}'
    path.write_bytes(raw_safetensors(header, b"1234"))
    return root, f"{path}: 'a' has a shape or data_offsets that are not lists of natural numbers. {DAMAGED}"


@case
def metadata_that_is_no_text(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    path.write_bytes(raw_safetensors({"__metadata__": {"x": "\ud800"}}))
    return root, f"{path}: __metadata__ must map text to text. {AGAIN}"


@case
def deep_header(root: Path) -> tuple[Path | str, str]:
    path = replaced(root, "model.safetensors")
    path.write_bytes(raw_safetensors(b'{"a":' * 100_000))
    return root, f"{path}: the header is not valid JSON (it is nested more than 100 levels deep). {AGAIN}"


@case
def gigantic_configuration(root: Path) -> tuple[Path | str, str]:
    with (path := replaced(root, "config.json")).open("wb") as file:
        file.truncate(2**32)
    return root, (f"{path} has 4,294,967,296 bytes; what lies beside weights is read up to 100,000,000. {AGAIN}")


@case
def index_with_a_name_twice(root: Path) -> tuple[Path | str, str]:
    replaced(root, "model.safetensors")
    path = root / "model.safetensors.index.json"
    path.write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', encoding="utf-8")
    return root, f"{path} is not valid JSON (the name 'a' stands twice)."


@case
def shard_with_a_name_too_long(root: Path) -> tuple[Path | str, str]:
    replaced(root, "model.safetensors")
    path = write_json(root / "model.safetensors.index.json", {"weight_map": {"a": "x" * 300, "b": "\0"}})
    return root, f"{path} names shards that are missing: \\x00, {'x' * 300}. Copy or download them again."


@case
def part_that_is_a_link(root: Path) -> tuple[Path | str, str]:
    model(outside := root.with_name("elsewhere") / "unet")
    path = write_json(root / "model_index.json", {"unet": ["diffusers", "UNet2DConditionModel"]})
    (root / "unet").symlink_to(outside)
    return root, f"{path} points to 'unet', a link to {outside}, outside its folder. Put the part itself there."


@case
def module_that_is_a_link(root: Path) -> tuple[Path | str, str]:
    path = write_json(root / "modules.json", [{"path": "up/x"}])
    (root / "up").symlink_to("..")
    return (
        root,
        f"{path} points to 'up/x', a link to {root.parent / 'x'}, outside its folder. Put the part itself there.",
    )


@case
def part_that_is_no_text(root: Path) -> tuple[Path | str, str]:
    path = write_json(root / "modules.json", [{"path": "\ud800"}])
    return root, f"{path} points to '\\ud800', which is no path. {AGAIN}"


@case
def part_with_a_zero_byte(root: Path) -> tuple[Path | str, str]:
    path = write_json(root / "model_index.json", {"a\0b": ["a", "b"]})
    return root, f"{path} points to 'a\\x00b', which is no path. {AGAIN}"


@case
def chat_template_of_bytes(root: Path) -> tuple[Path | str, str]:
    replaced(root, "chat_template.jinja").write_bytes(b"\xff")
    return root, (
        f"{root}: chat_template.jinja is not UTF-8 ('utf-8' codec can't decode byte 0xff in position 0: invalid start "
        "byte). Copy it again."
    )


def adapted(root: Path, rank: int = 1, **config: Any) -> tuple[str, Path]:
    folder(root, {"q.weight": np.ones((2, 2), np.float32)}, {})
    lora = {
        "base_model.model.q.lora_A.weight": np.ones((rank, 2), np.float32),
        "base_model.model.q.lora_B.weight": np.ones((2, rank), np.float32),
    }
    adapter = folder(root.with_name(root.name + "-adapter"), lora, stem="adapter_model")
    return f"{root}+{adapter}", write_json(adapter / "adapter_config.json", {"peft_type": "LORA", **config})


@case
def alpha_that_is_no_number(root: Path) -> tuple[Path | str, str]:
    reference, path = adapted(root, lora_alpha="\x1b[31m")
    return (
        reference,
        f"{path}: alpha must be a number below 1e+09, got '\\x1b[31m' for 'q'. Copy or download the adapter again.",
    )


@case
def alpha_without_end(root: Path) -> tuple[Path | str, str]:
    reference, path = adapted(root, lora_alpha=float("inf"))
    return (
        reference,
        f"{path}: alpha must be a number below 1e+09, got inf for 'q'. Copy or download the adapter again.",
    )


@case
def alpha_pattern_that_is_a_list(root: Path) -> tuple[Path | str, str]:
    reference, path = adapted(root, alpha_pattern=[1])
    return reference, f"{path}: alpha_pattern must be a table, got list. Copy or download the adapter again."


@case
def expression_that_never_ends(root: Path) -> tuple[Path | str, str]:
    reference, path = adapted(root, alpha_pattern={"(.*.*)*x": 1})
    return reference, (
        f"{path}: matching '(.*.*)*x' of alpha_pattern could take for ever. Write names of modules, or expressions with "
        "2 repeats (* + ? {}), 3 groups and no repeated group at most."
    )


@case
def expression_that_is_none(root: Path) -> tuple[Path | str, str]:
    reference, path = adapted(root, alpha_pattern={"[": 1})
    return reference, (
        f"{path}: '[' of alpha_pattern is no regular expression (unterminated character set at position 0). Copy or "
        "download the adapter again."
    )


@case
def too_many_expressions(root: Path) -> tuple[Path | str, str]:
    reference, path = adapted(root, alpha_pattern={f".*{i}": 1 for i in range(21)})
    return reference, (f"{path}: alpha_pattern has 21 regular expressions, more than 20. Write names of modules.")


@case
def rank_zero(root: Path) -> tuple[Path | str, str]:
    reference, path = adapted(root, rank=0)
    return reference, f"{path.parent}: 'q' of the adapter has rank 0. Train it again."


#: Merges each in turn; a gigabyte is enough for all of them.
DRIVER = """
import contextlib, io, json, resource, sys
from modelwright.cli._app import run
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
for reference in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = run(["merge", reference, "--method", "linear", "-q", "-o", "out"])
    print(json.dumps([code, said.getvalue()]))
"""


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[int, str, str]]]:
    root = tmp_path_factory.mktemp("hostile")
    made = {name: make(root / name / "m") for name, make in CASES.items()}
    (root / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([str(reference) for reference, _ in made.values()]),
        cwd=root / "work",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return root / "work", {
        name: (code, text, expected) for (name, (_, expected)), (code, text) in zip(made.items(), said, strict=True)
    }


@pytest.mark.parametrize("name", CASES)
def test_merge_refuses(merged: tuple[Path, dict[str, tuple[int, str, str]]], name: str) -> None:
    folder, results = merged
    code, said, expected = results[name]
    assert said == f"error: {expected}\n"
    assert code == 2
    assert list(folder.iterdir()) == []


def tame(key: str, module: str) -> float | None:
    """What alpha_pattern gives a module for a key, by the adapter's own reader."""
    return Pattern(Path("x"), "alpha_pattern", {key: 2.0}).find(module)


@pytest.mark.parametrize(
    ("key", "module", "found"),
    [
        ("q", "a.b.q", True), ("q", "a.b.xq", False), ("b.q", "a.b.q", True), ("a.b.q", "a.b.q", True),
        (r".*\.0\.q", "layers.0.q", True), (r"[[]", "a.[", True), (r"layers\.\d+\.q", "m.layers.12.q", True),
        (r".*layers\.[0-9]+\..*(q|k)", "m.layers.12.x.k", True), (r"^m.*q", "m.q", True), (r"^m.*q", "x.m.q", False),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Possible nested set")
def test_usual_expressions_are_matched_as_peft_does(key: str, module: str, found: bool) -> None:
    assert (tame(key, module) is not None) == found == bool(re.match(rf"(.*\.)?({key})$", module))


@pytest.mark.parametrize(
    "key", ["(a+)+", "(a|a)*", "(?=a)", r"(a)\1", "a*a*a*", "a?a?a?", "a{1,9}a{1,9}b+", "(a|a)(a|a)(a|a)(a|a)", "a" * 1001 + "|"]
)  # fmt: skip
def test_expressions_that_could_take_for_ever(key: str) -> None:
    with pytest.raises(InputError, match="could take for ever"):
        tame(key, "a")


def test_expressions_end_in_no_time() -> None:
    started = time.perf_counter()
    for key in (r".*.*x", r"[^x]+.*x", r"(.|..)(.|..)(.|..).*x"):
        assert tame(key, ".".join("aaaaaaaaa" for _ in range(30))) is None
    assert time.perf_counter() - started < 1


# --- what is merged all the same ------------------------------------------------------------------------------------


def merge(*models: Path, out: Path) -> mc.Checkpoint:
    mw.merge([str(path) for path in models], method="linear").save(out)
    return mc.open(out)


def test_names_never_become_paths(tmp_path: Path) -> None:
    names = [
        "../../x",
        "/etc/x",
        "..",
        "a/../../b",
        "\x1b[2J",
        "C:\\x",
        "layers." + "9" * 5000 + ".x",
        "." * 5000,
        "layers.٣.x",
    ]
    root = folder(tmp_path / "m" / "m", arrays(1, **dict.fromkeys(names, (2,))), {})
    opened = merge(root, root, out=tmp_path / "out" / "merged")
    assert set(opened) == set(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["merged"]


def test_parts_without_weights(tmp_path: Path) -> None:
    """Tokenizers and schedulers are parts too; one whose name no folder can have is none that has weights."""
    write_json(tmp_path / "model_index.json", {name: ["a", "b"] for name in ("unet", "x" * 300)})
    model(tmp_path / "unet")
    assert [part.prefix for part in mc.open(tmp_path).parts] == ["unet/"]


def test_odd_configurations_are_kept(tmp_path: Path) -> None:
    root = model(tmp_path / "m")
    told = '{"model_type": "x", "half": "\\ud800", "limit": [0.0, Infinity], "large": 1e999, "n": %s}' % ("9" * 4000)
    (root / "config.json").write_text(told, encoding="utf-8")
    write_json(root / "tokenizer.json", {"model": [1], "added_tokens": [3, {"id": "x"}, {"id": 1}, {}]})
    write_json(root / "tokenizer_config.json", {"chat_template": [1, {"name": "default", "template": "\ud800"}]})
    (root / "README.md").write_text("---" + "\n" * 200_000 + "license: mit\n", encoding="utf-8")
    merged = merge(root, root, out=tmp_path / "out").config
    assert merged is not None
    assert merged | {"torch_dtype": None} == json.loads(told) | {"torch_dtype": None}


def test_links_of_the_cache_are_followed(tmp_path: Path) -> None:
    """Of today's snapshots, and of the folders that huggingface_hub once filled with links."""
    cache = tmp_path / "models--a--b"
    blobs, snapshot, elsewhere = cache / "blobs", cache / "snapshots" / "abc", tmp_path / "local"
    model(blobs)
    (blobs / "vocab.txt").write_text("a", encoding="utf-8")
    for place in (snapshot, elsewhere):
        place.mkdir(parents=True)
        for path in blobs.iterdir():
            (place / path.name).symlink_to(os.path.relpath(path, place))
    (tmp_path / "named").symlink_to(snapshot)
    (elsewhere / "merges.txt").symlink_to("vocab.txt")
    merge(snapshot, elsewhere, tmp_path / "named", out=tmp_path / "out")
    assert (tmp_path / "out" / "vocab.txt").read_text(encoding="utf-8") == "a"
    merge(elsewhere, snapshot, out=tmp_path / "two")
    assert (tmp_path / "two" / "merges.txt").read_text(encoding="utf-8") == "a"


# --- messages -------------------------------------------------------------------------------------------------------


def test_messages_are_printable() -> None:
    raw, shown = "\x1b]0;x\x07\x9b\u202e\ud800\n\x7f ü权😀", r"\x1b]0;x\x07\x9b\u202e\ud800\n\x7f ü权😀"
    assert printable(raw) == printable(shown) == shown
    assert str(InputError(Problem(raw, raw, raw))) == f"{shown}. {shown} [{shown}]"
    assert InputError(raw).problems[0].what == shown
    assert str(RunError(raw)) == shown
    long = printable("a" * 10**6)
    assert len(long) < 4000
    assert printable(long) == long
    assert " [996,100 characters left out] " in long
    assert len(printable("\x1b" * 10**6)) <= 4000


def test_notes_are_printed_printable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "m", AB, {}, shards=2)
    index = root / "model.safetensors.index.json"
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    save_file(arrays(1, **{"a": (1,), "\x1b[2Jerror": (1,)}), root / names[0])
    save_file(arrays(1, b=(1,)), root / names[1])
    write_json(index, {"weight_map": {"a": names[0], "b": names[1]}})
    assert run(["check", str(root), "--method", "linear"]) == 0
    said = capfd.readouterr()
    assert "\x1b" not in said.out
    assert r"\x1b[2Jerror" in said.out
