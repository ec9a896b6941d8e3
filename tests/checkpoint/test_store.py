"""Folders in stores as places for outputs, against moto's S3 server on loopback and in memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelwright.checkpoint import RemoteFolder, _store
from modelwright.errors import RunError

pytest.importorskip("fsspec")
pytestmark = pytest.mark.usefixtures("impatient")


def test_uploads_in_parts(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """11 MiB in parts of 5, the least that S3 takes."""
    monkeypatch.setattr(_store, "PART", 5 << 20)
    data = np.random.default_rng(0).bytes((11 << 20) + 3)
    (tmp_path / "shard").write_bytes(data)
    out = RemoteFolder("s3://models/out/")
    sent: list[int] = []
    stamp = out.put(tmp_path / "shard", "model.safetensors", sent.append)
    assert s3.uploads == {"/models/out/model.safetensors": 3}
    assert stamp.size == len(data)
    assert stamp.version.endswith("-3")  # S3's mark of a file of three parts
    assert sent[-1] == len(data)
    assert sorted(sent) == sent
    assert s3.fs.cat_file("models/out/model.safetensors") == data
    assert out.names() == {"model.safetensors": len(data)}


def test_parts_are_not_more_than_the_store_takes(s3: Any, memory: Any) -> None:
    assert _store._put_options(s3.fs, 1 << 30) == {"chunksize": 16 << 20}
    options = _store._put_options(s3.fs, 5 << 40)
    assert -(-(5 << 40) // options["chunksize"]) <= 10_000
    assert _store._put_options(memory, 1 << 30) == {}


@pytest.mark.parametrize("url", ["s3://models/runs/out", "memory://runs/out"])
def test_an_output(s3: Any, memory: Any, tmp_path: Path, url: str) -> None:
    out = RemoteFolder(url)
    assert not out.exists()
    assert out.names() == {}
    recorded = {}
    for name in ("model-00001.safetensors", "model-00002.safetensors", "unet/a b+c@d#e%20?.json"):
        (tmp_path / "file").write_text(name, encoding="utf-8")
        recorded[name] = out.put(tmp_path / "file", name)
    assert out.exists()
    assert out.names() == {name: len(name) for name in recorded}
    assert out.finished(recorded) == set(recorded)
    assert RemoteFolder(url).finished({**recorded, "other": recorded["model-00001.safetensors"]}) == set(recorded)
    assert out.read_text("unet/a b+c@d#e%20?.json") == "unet/a b+c@d#e%20?.json"
    (tmp_path / "file").write_text("model-0000X.safetensors", encoding="utf-8")  # as long, but different
    out.put(tmp_path / "file", "model-00001.safetensors")
    assert out.finished(recorded) == set(recorded) - {"model-00001.safetensors"}
    out.delete([*recorded, "not there"])
    assert not out.exists()


def test_the_manifest_is_deleted_first(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    monkeypatch.setattr(type(memory), "rm_file", lambda self, path: gone.append(path))
    RemoteFolder("memory://out").delete(["z", "manifest.json", "a"])
    assert gone == ["/out/manifest.json", "/out/a", "/out/z"]


def test_a_star_in_a_name_is_a_star(s3: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = RemoteFolder("s3://models/out")
    for name in ("a1", "a2", "a*"):
        out.put(tmp_path / "file", name)
    out.delete(["a*"])
    assert sorted(out.names()) == ["a1", "a2"]


@pytest.mark.parametrize("url", ["s3a://models/out/", "memory://models/out/"])
def test_what_an_output_holds(s3: Any, memory: Any, url: str) -> None:
    out = RemoteFolder(url)
    inside = [out.url, f"{out.url}/a"]
    assert [url for url in [*inside, f"{out.url}2", out.url.removesuffix("/out"), None] if out.holds(url)] == inside


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "a//b"])
def test_names_that_lead_out(memory: Any, tmp_path: Path, name: str) -> None:
    out = RemoteFolder("memory://out")
    (tmp_path / "file").touch()
    message = f"'{name}' is no name for a file in 'memory:///out'. Names are relative and stay in the folder."
    for call in (lambda: out.put(tmp_path / "file", name), lambda: out.read_text(name), lambda: out.delete([name])):
        with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
            call()


def test_outputs_that_fail(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(
        RunError, match=r"^there is nothing at 's3://nowhere/out/a' \(The specified bucket does not exist\)"
    ):
        RemoteFolder("s3://nowhere/out").put(tmp_path / "file", "a")
    assert not s3.fs.exists("nowhere")
    with pytest.raises(
        RunError, match=r"^there is nothing at 's3://nowhere/out' \(The specified bucket does not exist\)"
    ):
        RemoteFolder("s3://nowhere/out").exists()
    with pytest.raises(RunError, match=r"^there is nothing at 's3://models/out/manifest.json'"):
        RemoteFolder("s3://models/out").read_text("manifest.json")
    out = RemoteFolder("s3://models/out")
    monkeypatch.setattr(out._place.fs, "put_file", lambda *_, **__: s3.fs.pipe_file("models/out/a", b"12"))
    with pytest.raises(
        RunError, match=r"^'s3://models/out/a' was sent 5 bytes and has 2 bytes\. Check the store, then"
    ):
        out.put(tmp_path / "file", "a")


def test_outputs_without_permission(s3: Any, tmp_path: Path) -> None:
    s3.hidden.add("models")
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(
        RunError, match=r"^access to 's3://models/out/a' is denied \(Access Denied\)\. Give the store's"
    ):
        RemoteFolder("s3://models/out").put(tmp_path / "file", "a")
