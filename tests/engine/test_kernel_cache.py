"""Machine code of kernels: compiled once, kept, loaded without numba, and compiled anew where it is not what was kept."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_folders as tiny
from modelwright.engine._sources import block_length, blocks
from modelwright.tensors.kernels import _cache, _compile
from modelwright.tensors.kernels._jit import Kernel, intrinsic, kernel

LABEL = "test_kernel_cache.count(I1 I)"


@kernel
def is_it(value: Any, wanted: Any) -> Any:
    return value == wanted


def count(values: Any, wanted: Any) -> Any:
    found = 0
    for i in range(len(values)):
        found += is_it(values[i], wanted)
    return found


VALUES = np.arange(10, dtype=np.uint32) % np.uint32(3)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "version"
    folder.mkdir()
    monkeypatch.setattr(_cache, "FOLDER", folder)
    return folder


def compiled(values: Any = VALUES) -> bool:
    """Whether numba compiles the kernel, as a process that starts would; the result is right in any case."""
    fresh = Kernel(count)
    assert fresh(values, np.uint32(1)) == 3
    return fresh._compiler is not None


def only(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_it_is_compiled_once(place: Path) -> None:
    assert compiled()
    assert only(place).name.startswith("test_kernel_cache.count-")
    assert not compiled()


@pytest.mark.parametrize("damage", ["flipped", "short", "empty"])
def test_damage_is_mended(damage: str, place: Path) -> None:
    assert compiled()
    file = only(place)
    for share in (0, 0.1, 0.9):
        raw = file.read_bytes()
        at = 20 + int(share * (len(raw) - 20))
        made = {"flipped": raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], "short": raw[:at], "empty": b""}
        file.write_bytes(made[damage])
        assert compiled()
        assert not compiled()


def test_what_can_be_neither_read_nor_replaced(place: Path) -> None:
    assert compiled()
    file = only(place)
    file.unlink()
    file.mkdir()
    assert compiled()
    assert [*place.iterdir()] == [file]


def test_what_was_kept_for_other_arguments_or_processors_is_not_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled()
    here = only(place)
    _cache._machine.cache_clear()
    monkeypatch.setattr(_cache, "processor", lambda: "another")
    try:
        assert compiled()
        (there,) = set(place.iterdir()) - {here}
        there.write_bytes(here.read_bytes())
        assert compiled()
        assert not compiled()
    finally:
        _cache._machine.cache_clear()


def test_code_without_its_function_is_compiled_anew() -> None:
    assert compiled()
    code = _cache.read(LABEL)
    assert code is not None
    _cache.write(LABEL, dataclasses.replace(code, entry="another"))
    assert compiled()
    assert not compiled()


def test_a_folder_that_is_gone_or_was_never_there_costs_time_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.rmdir()
    assert compiled()
    monkeypatch.setattr(_cache, "FOLDER", None)
    assert compiled()


def test_arrays_that_machine_code_does_not_take_go_through_numba(place: Path) -> None:
    spread = np.zeros(20, np.uint32)[::2]
    spread[:] = VALUES
    fixed = VALUES.copy()
    fixed.flags.writeable = False
    for values in (spread, fixed, VALUES.astype(np.uint16)):
        compiled(values)
    assert any(file.suffix in (".nbi", ".nbc") for file in place.rglob("*"))  # which numba keeps


def test_a_numba_that_passes_arguments_in_another_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "_ARRAY", ("data", "shape"))
    compiled()
    assert not list(place.glob("*.o"))


def test_a_kernel_may_not_allocate() -> None:
    def allocating(values: Any) -> Any:
        return len(np.zeros(len(values)))

    with pytest.raises(Exception, match="zeros"):
        Kernel(allocating)(VALUES)


@pytest.mark.parametrize(
    ("returned", "expected"), [("None", None), ("x[0] > 1", True), ("len(x)", 2), ("(len(x), 5)", (2, 5))]
)
def test_results(returned: str, expected: Any, place: Path, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        f"def made(x, pair, flag):\n    x[0] += pair[0][0] + flag\n    return {returned}\n"
    )
    scope: dict[str, Any] = {"__name__": "made"}
    exec(compile((tmp_path / "made.py").read_text(), str(tmp_path / "made.py"), "exec"), scope)
    for _ in range(2):
        x = np.ones(2)
        result = Kernel(scope["made"])(x, (np.full(1, 2.0),), True)
        assert result == expected
        assert type(result) is type(expected)
        assert x.tolist() == [4, 1]


MERGE = """
import sys, modelwright as mw
mw.merge(sys.argv[1:3], base=sys.argv[3], method="ties", density=0.5).save(sys.argv[4], kernels="always")
print(sorted({"numba", "scipy"} & {*sys.modules}))
"""


def test_a_merge_with_kept_kernels_does_not_import_numba(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    models = [
        tiny.write(tmp_path / name, {"w": rng.standard_normal((400, 500)).astype(np.float32)})
        for name in ("a", "b", "base")
    ]
    environment = os.environ | {"MODELWRIGHT_CACHE": str(tmp_path / "cache")}

    def started(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", MERGE, *map(str, models), str(tmp_path / name)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    together = [started("one"), started("two")]  # both write the same files
    assert all("numba" in process.communicate()[0] for process in together)
    assert started("three").communicate()[0] == "[]\n"
    contents = [tiny.contents(tmp_path / name) for name in ("one", "two", "three")]
    assert contents[0] == contents[1] == contents[2]


@intrinsic
def ones(_typing: Any, value: Any) -> Any:
    from numba import types

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), generate


def test_an_intrinsic_in_a_kernel() -> None:
    def bits(value: Any) -> Any:
        return ones(value) + ones(value >> 1)

    for _ in range(2):
        made = Kernel(bits)
        assert made(7) == 5
    assert made._compiler is None


def test_more_inputs_are_read_in_smaller_blocks() -> None:
    assert [block_length(inputs) for inputs in (1, 4, 5, 9, 1000)] == [1 << 18, 1 << 18, 1 << 17, 1 << 16, 1 << 15]
    assert [*blocks(10, 10 + (1 << 17), 9)] == [(10, 1 << 16), (10 + (1 << 16), 1 << 16)]
