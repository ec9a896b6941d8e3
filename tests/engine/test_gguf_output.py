"""Merges to a single GGUF file: by the command line and in Python, whole or absent."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.checkpoint import write_gguf
from modelwright.cli._app import run

gguf = pytest.importorskip("gguf")


def model(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    for i in range(2):
        values = rng.normal(0, 0.02, (16, 64)).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"blk.{i}.ffn_up.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.add_tensor(f"blk.{i}.attn_norm.weight", rng.normal(1, 0.1, 64).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        model(tmp_path / f"{name}.gguf", seed)
    return tmp_path


def merged(**options: Any) -> mw.Checkpoint:
    return mw.merge(["a.gguf", "b.gguf"], base="base.gguf", method="ties", density=0.5, **options)


COMMAND = ["merge", "a.gguf", "b.gguf", "--base", "base.gguf", "--method", "ties", "--set", "density=0.5"]


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_the_command_writes_what_the_function_writes(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "-o", "out.gguf", "--gguf", kind]) == 0
    errors = write_gguf(merged(out_dtype="float32"), "expected.gguf", kind, donor="base.gguf")
    assert Path("out.gguf").read_bytes() == Path("expected.gguf").read_bytes()
    said = capsys.readouterr().out
    worst = max(errors, key=lambda name: errors[name])
    assert f"stored as {kind} with a relative error of at most {errors[worst]:.2%}, in '{worst}'" in said
    assert "base.gguf: estimated relative error of quantising, before this merge: Q8_0 0." in said
    assert "merged into out.gguf: " in said
    assert list(mw.open("out.gguf")) == list(mw.open("a.gguf"))
    assert not Path("out.gguf.partial").exists()


def test_json_and_python(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "-o", "out.gguf", "--gguf", "f16", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["out"], said["bytes_written"]) == ("out.gguf", Path("out.gguf").stat().st_size)
    told: list[tuple[str, int, int]] = []
    result = merged().save("again.gguf", gguf="f16", progress=lambda *entry: told.append(entry))
    assert Path("again.gguf").read_bytes() == Path("out.gguf").read_bytes()
    assert told[-1] == ("merging", result.bytes_out, result.bytes_out)


def test_a_stated_format_is_kept(here: Path) -> None:
    """Rounded to bfloat16 first, because the recipe says so."""
    merged(out_dtype="bfloat16").save("out.gguf", gguf="f16")
    expected = {name: array.astype(np.float16) for name, array in merged(out_dtype="bfloat16").arrays().items()}
    np.testing.assert_array_equal(mw.open("out.gguf")["blk.1.ffn_up.weight"].read(), expected["blk.1.ffn_up.weight"])


def test_steps(here: Path) -> None:
    Path("recipe.yml").write_text(
        "steps:\n- {name: soup, merge_method: linear, models: [{model: a.gguf}, {model: b.gguf}], parameters: {weight: 1}}\n"
        "- {name: last, merge_method: linear, models: [{model: soup}, {model: base.gguf}], parameters: {weight: 1}}\n"
    )
    with pytest.raises(mw.InputError, match=r"needs the metadata of one, and soup is not from a GGUF file"):
        mw.merge("recipe.yml").save("out.gguf", gguf="f16")
    text = (
        Path("recipe.yml").read_text().replace("{model: soup}, {model: base.gguf}", "{model: base.gguf}, {model: soup}")
    )
    Path("recipe.yml").write_text(text)
    mw.merge("recipe.yml").save("out.gguf", gguf="f16")
    assert len(mw.open("out.gguf")) == 4


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gguf": "q4_k"}, "gguf must be f16, bf16 or q8_0, got 'q4_k'."),
        ({"hash": "blake3"}, "--hash blake3 (hash='blake3'), which goes into a manifest, is not for outputs that are GGUF files. Leave it out."),
        ({"shard_bytes": 10}, "--shard-size (shard_bytes=) is not for outputs that are GGUF files. Leave it out."),
        ({"engine": "ray"}, "--engine ray (engine='ray') is not for outputs that are GGUF files. Leave it out."),
        ({"staging": "x"}, "--staging (staging=) is not for outputs that are GGUF files. Leave it out."),
        ({"allow_nonfinite": True}, "--allow-nonfinite (allow_nonfinite=True) is not for outputs that are GGUF files. Leave it out."),
        ({"out": "out"}, "the output 'out' must end in .gguf. It is a single file: x.gguf."),
        ({"out": "s3://x/out.gguf"}, "a GGUF file is written on this machine, and 's3://x/out.gguf' is a URL. Give a path, and copy it."),
        ({"out": "a.gguf", "overwrite": True}, "the output 'a.gguf' is one of the inputs. Choose another name."),
        ({"out": "there.gguf"}, "the output 'there.gguf' exists. Choose another name, or pass overwrite=True."),
        ({"gguf": None}, "the output is a folder, and 'out.gguf' is named like a weight file. Add --gguf f16, bf16 or q8_0 (gguf=) for a single GGUF file."),
    ],
)  # fmt: skip
def test_refusals(options: dict[str, Any], said: str, here: Path) -> None:
    Path("there.gguf").touch()
    before = tiny.listing(here)
    with pytest.raises(mw.InputError) as found:
        merged().save(**({"out": "out.gguf", "gguf": "f16"} | options))
    assert str(found.value) == said
    assert tiny.listing(here) == before


def test_models_that_are_not_from_gguf(here: Path) -> None:
    tiny.model(here / "x", 0)
    with pytest.raises(mw.InputError) as found:
        mw.merge(["x"], method="linear").save("out.gguf", gguf="f16")
    assert str(found.value) == (
        "a GGUF file needs the metadata of one, and x is not from a GGUF file. Merge GGUF files, or leave --gguf (gguf=) out "
        "and convert the folder with llama.cpp's own tool."
    )


def test_a_full_disk(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(mw.InputError, match=r"^the output needs \d,\d\d\d bytes, and '\.' has 1,000 free\. Free space"):
        merged().save("out.gguf", gguf="f16")
    assert not Path("out.gguf.partial").exists()


# --- in the middle -------------------------------------------------------------------------------------------------


def test_another_process_writes_there(here: Path) -> None:
    with Path("out.gguf.partial").open("wb") as held:
        held.write(b"half of it")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(mw.InputError) as found:
            merged().save("out.gguf", gguf="f16")
        assert str(found.value) == "another merge is writing 'out.gguf'. Wait for it, or choose another file."
        assert Path("out.gguf.partial").read_bytes() == b"half of it"
    merged().save("out.gguf", gguf="f16")  # it is dead
    assert not Path("out.gguf.partial").exists()


def test_an_input_that_changes_meanwhile(here: Path) -> None:
    def change(*_: object) -> None:
        os.utime("b.gguf", (1, 1))

    with pytest.raises(mw.RunError) as found:
        merged().save("out.gguf", gguf="f16", progress=change)
    assert str(found.value) == "'b.gguf' changed while it was being merged, so the output is discarded. Merge again."
    assert sorted(path.name for path in here.iterdir()) == ["a.gguf", "b.gguf", "base.gguf"]


def test_a_file_that_came_in_the_way(here: Path) -> None:
    def appear(*_: object) -> None:
        Path("out.gguf").write_text("years of work")

    with pytest.raises(mw.RunError, match=r"^All is merged, but 'out\.gguf' was made meanwhile\.$"):
        merged().save("out.gguf", gguf="f16", progress=appear)
    assert Path("out.gguf").read_text() == "years of work"


KILLED = """
import os, signal
import modelwright as mw
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
merged = mw.merge(["a.gguf", "b.gguf"], base="base.gguf", method="ties", density=0.5)
merged.save("out.gguf", gguf="f16", progress=die)
"""


def test_killed_it_is_absent_and_is_made_again(here: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert Path("out.gguf.partial").exists()
    assert not Path("out.gguf").exists()
    merged().save("out.gguf", gguf="f16")
    write_gguf(merged(out_dtype="float32"), "expected.gguf", "f16", donor="base.gguf")
    assert Path("out.gguf").read_bytes() == Path("expected.gguf").read_bytes()
    assert not Path("out.gguf.partial").exists()
