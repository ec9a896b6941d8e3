"""Models behind URLs, against moto's S3 server on loopback: exact byte ranges, the cache, faults, refusals."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_helpers import arrays, files_of, folder, save, write_json

import modelwright as mw
import modelwright.checkpoint as mc
from modelwright.checkpoint import _checkpoint, _fsspec, _remote
from modelwright.errors import InputError, MissingExtraError, RunError

fsspec = pytest.importorskip("fsspec")

CONFIG = {"model_type": "llama", "tie_word_embeddings": False}
A = arrays(1, **{"model.embed.weight": (64, 48), "model.layers.0.w": (48, 48), "model.layers.1.w": (48, 48)})
B = arrays(2, **{"model.embed.weight": (64, 48), "model.layers.0.w": (48, 48), "model.layers.1.w": (48, 48)})


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    monkeypatch.setenv("MODELWRIGHT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def put(fs: Any, root: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        fs.pipe_file(f"{root}/{name}", data)


@pytest.fixture
def base(s3: Any, tmp_path: Path) -> str:
    """A model of three shards, with more beside it than a merge needs."""
    local = folder(tmp_path / "base", A, CONFIG, shards=3)
    (local / "tokenizer.json").write_text("{}", encoding="utf-8")
    (local / "picture.png").write_bytes(b"\x89PNG" * 100)
    (local / "checkpoint-5").mkdir()
    (local / "checkpoint-5" / "trainer_state.json").write_text("{}", encoding="utf-8")
    put(s3.fs, "models/base", files_of(local))
    s3.forget()
    return "s3://models/base"


def header_bytes(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


# --- reading -------------------------------------------------------------------------------------------------------


def test_opening_transfers_headers_and_small_files_only(s3: Any, base: str, tmp_path: Path) -> None:
    opened = mc.open(base)
    assert {name: ref.shape for name, ref in opened.items()} == {name: value.shape for name, value in A.items()}
    assert opened.config == CONFIG
    assert opened.label == base
    assert opened.url == base
    assert opened.notes == ()
    assert opened.path is not None
    assert {file.name for file in opened.path.iterdir()} == {
        "config.json", "model.safetensors.index.json", "tokenizer.json",
    }  # fmt: skip
    for file in sorted((tmp_path / "base").glob("*.safetensors")):
        data = file.read_bytes()
        assert s3.ranges(f"/models/base/{file.name}") == [(0, 8), (8, header_bytes(data))]
        assert s3.served[f"/models/base/{file.name}"] == header_bytes(data)
    assert not [path for path in s3.served if "picture" in path or "trainer" in path]


def test_one_tensor_is_one_range(s3: Any, base: str) -> None:
    opened = mc.open(base)
    s3.forget()
    np.testing.assert_array_equal(opened["model.layers.0.w"].read(), A["model.layers.0.w"])
    ((path, sent),) = s3.served.items()
    ((start, stop),) = s3.ranges(path)
    assert stop - start == sent == A["model.layers.0.w"].nbytes


def test_parts_of_a_tensor(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file with several tensors, so that offsets matter; big reads come in pieces."""
    many = arrays(7, b=(5, 3), a=(7,), c=(2, 2, 2), none=(0, 4)) | {"half": np.arange(9, dtype=np.float16)}
    put(s3.fs, "models/many", files_of(folder(tmp_path / "many", many)))
    opened = mc.open("s3://models/many")
    monkeypatch.setattr(_remote, "_PIECE", 16)
    for name, value in many.items():
        ref = opened[name]
        s3.forget()
        np.testing.assert_array_equal(ref.read(), value)
        assert sum(s3.served.values()) == value.nbytes
        assert ref.fill is not None
        raw = value.tobytes()
        for start, count in ((0, len(raw)), (4, len(raw) - 4), (2, 7)):
            if 0 <= count <= len(raw) - start:
                buffer = np.empty(count, np.uint8)
                ref.fill(buffer, start)
                assert buffer.tobytes() == raw[start : start + count]


def test_merging_one_layer_reads_no_more(s3: Any, base: str, tmp_path: Path) -> None:
    """A merge by recipe gives the bytes of the same merge on disk; a single tensor of it takes its inputs alone."""
    put(s3.fs, "models/other", files_of(folder(tmp_path / "other", B, CONFIG)))
    local = {"models": [{"model": str(tmp_path / name)} for name in ("base", "other")], "merge_method": "linear"}
    remote = {"models": [{"model": f"s3://models/{name}"} for name in ("base", "other")], "merge_method": "linear"}
    for recipe in (local, remote):
        recipe["parameters"] = {"weight": 0.5}  # type: ignore[assignment]
    merged = mw.merge(remote)
    s3.forget()
    value = merged["model.layers.0.w"].read()
    assert sum(s3.served.values()) == 2 * A["model.layers.0.w"].nbytes
    np.testing.assert_array_equal(value, mw.merge(local)["model.layers.0.w"].read())
    merged.save(tmp_path / "out-remote")
    mw.merge(local).save(tmp_path / "out-local")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out-remote" / name).read_bytes() == (tmp_path / "out-local" / name).read_bytes()


def test_two_spellings_are_one_model(s3: Any, base: str, tmp_path: Path) -> None:
    put(s3.fs, "models/other", files_of(folder(tmp_path / "other", B, CONFIG)))
    recipe = {
        "models": [{"model": f"{base}/"}, {"model": "s3://models/other", "parameters": {"weight": 1.0}}],
        "base_model": base, "merge_method": "task_arithmetic",
    }  # fmt: skip
    np.testing.assert_allclose(mw.merge(recipe)["model.layers.0.w"].read(), B["model.layers.0.w"], atol=1e-6)


def test_a_single_file(s3: Any, base: str) -> None:
    url = f"{base}/model-00002-of-00003.safetensors"
    opened = mc.open(url)
    assert list(opened) == ["model.layers.0.w"]
    assert opened.url == url
    assert opened.path is not None
    assert not opened.path.exists()
    np.testing.assert_array_equal(opened["model.layers.0.w"].read(), A["model.layers.0.w"])


def test_pipeline_with_subfolders(s3: Any, tmp_path: Path) -> None:
    root = tmp_path / "pipe"
    write_json(root / "model_index.json", {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]})
    folder(root / "unet", arrays(1, a=(4, 4)), {"u": 1}, stem="diffusion_pytorch_model")
    folder(root / "vae", arrays(2, b=(4, 4)), {"v": 1}, stem="diffusion_pytorch_model")
    folder(root / "extra", arrays(3, c=(4, 4)))
    put(s3.fs, "models/pipe", files_of(root))
    opened = mc.open("s3://models/pipe/")
    assert {part.prefix: part.config for part in opened.parts} == {"unet/": {"u": 1}, "vae/": {"v": 1}}
    assert opened.notes == ("s3://models/pipe/extra is no part of the pipeline; left out: model.safetensors",)
    np.testing.assert_array_equal(opened["vae/b"].read(), arrays(2, b=(4, 4))["b"])


def test_unequal_candidates_for_tying_are_told_apart_at_once(s3: Any, tmp_path: Path, monkeypatch: Any) -> None:
    tensors = arrays(4, **{"model.embed_tokens.weight": (64, 8), "lm_head.weight": (64, 8)})
    put(s3.fs, "models/tied", files_of(folder(tmp_path / "tied", tensors, {"model_type": "llama"})))
    monkeypatch.setattr(_checkpoint, "_CHUNK", 128)
    opened = mc.open("s3://models/tied")
    s3.forget()
    assert opened.tied == {}
    assert sum(s3.served.values()) == 2 * 128
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    put(s3.fs, "models/tied", files_of(folder(tmp_path / "tied", tensors, {"model_type": "llama"})))
    assert mc.open("s3://models/tied").tied == {"lm_head.weight": "model.embed_tokens.weight"}


def test_torch_files_are_downloaded(memory: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "old").mkdir()
    torch.save({"w": torch.arange(3.0)}, tmp_path / "old" / "pytorch_model.bin")
    put(memory, "/old", files_of(tmp_path / "old"))
    for _ in range(2):
        opened = mc.open("memory://old")
        assert opened["w"].read().tolist() == [0, 1, 2]
        assert opened.url == "memory:///old"
        assert opened.path is not None
        assert [file.name for file in opened.path.iterdir()] == ["pytorch_model.bin"]
    put(memory, "/old", {"pytorch_model.bin": b"no pickle"})
    with pytest.raises(InputError, match=r"^memory:///old/pytorch_model.bin cannot be read as a torch file"):
        mc.open("memory://old")


def test_memory(memory: Any, tmp_path: Path) -> None:
    put(memory, "/m", files_of(folder(tmp_path / "m", A, CONFIG)))
    np.testing.assert_array_equal(mc.open("memory://m")["model.layers.1.w"].read(), A["model.layers.1.w"])


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    local = folder(tmp_path / "m", A, CONFIG)
    opened = mc.open(f"file://{local}")
    assert opened.path == local
    assert opened.url is None
    with pytest.raises(InputError, match=r"^no file, folder or Hub model is called 'file:///nowhere'"):
        mc.open("file:///nowhere")


# --- adapters ------------------------------------------------------------------------------------------------------


def lora(path: Path, module: str) -> dict[str, np.ndarray]:
    factors = arrays(5, A=(2, 48), B=(48, 2))
    start = f"base_model.model.{module}"
    tensors = {f"{start}.lora_A.weight": factors["A"], f"{start}.lora_B.weight": factors["B"]}
    folder(path, tensors, stem="adapter_model")
    write_json(path / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    return factors


def test_model_plus_adapter(s3: Any, tmp_path: Path) -> None:
    weight = {"model.layers.0.weight": A["model.layers.0.w"]}
    local = folder(tmp_path / "base", weight)
    factors = lora(tmp_path / "lora", "model.layers.0")
    expected = weight["model.layers.0.weight"] + np.float32(2) * (factors["B"] @ factors["A"])
    put(s3.fs, "models/a+b", files_of(local))
    put(s3.fs, "models/lora+x", files_of(tmp_path / "lora"))
    put(s3.fs, "models/lora", files_of(tmp_path / "lora"))
    put(s3.fs, "models/base", files_of(local))
    for model, adapter, url in (
        ("s3://models/base", "s3://models/lora", "s3://models/base"),
        ("s3://models/base", tmp_path / "lora", "s3://models/base"),
        ("s3://models/a+b", "s3://models/lora+x", "s3://models/a+b"),
        (local, "s3://models/lora", None),
    ):
        opened = mc.open(f"{model}+{adapter}")
        np.testing.assert_allclose(opened["model.layers.0.weight"].read(), expected, rtol=1e-6)
        assert opened.url == url
    assert list(mc.open("s3://models/a+b")) == ["model.layers.0.weight"]  # what exists wins before the + is parsed
    with pytest.raises(InputError, match=r"'s3://models/base\+c\+d' has more than one \+"):
        mc.open("s3://models/base+c+d")
    s3.fs.rm_file("models/lora/adapter_config.json")
    with pytest.raises(InputError, match=r"^s3://models/lora is not an adapter: it has no adapter_config.json"):
        mc.open("s3://models/base+s3://models/lora")


# --- the cache -----------------------------------------------------------------------------------------------------


def test_small_files_are_fetched_once(s3: Any, base: str) -> None:
    first = mc.open(base)
    s3.forget()
    again = mc.open(f"{base}/")
    assert again.path == first.path
    assert "/models/base/config.json" not in s3.served


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00003.safetensors"])
def test_what_changes_is_never_stale(s3: Any, base: str, tmp_path: Path, name: str) -> None:
    first = mc.open(base)
    data = (tmp_path / "base" / name).read_bytes()
    other = data.replace(b"false", b"true ") if name == "config.json" else data[:-4] + b"\0\0\0\0"  # of the same length
    s3.fs.pipe_file(f"models/base/{name}", other)
    again = mc.open(base)
    assert again.path != first.path
    if name == "config.json":
        assert again.config == CONFIG | {"tie_word_embeddings": True}
        assert first.config == CONFIG


def test_a_broken_download_leaves_nothing(s3: Any, base: str, tmp_path: Path) -> None:
    s3.broken = 99
    with pytest.raises(InputError, match=r"'s3://models/base/\S+' failed \(OSError: "):
        mc.open(base)
    assert list((tmp_path / "cache" / "remote").iterdir()) == []
    s3.broken = 0
    assert len(mc.open(base)) == 3


def test_a_cache_that_cannot_be_written(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(memory, "/m", files_of(folder(tmp_path / "m", A, CONFIG)))
    (tmp_path / "file").touch()
    monkeypatch.setenv("MODELWRIGHT_CACHE", str(tmp_path / "file"))
    message = f"{tmp_path}/file/remote cannot be written (Not a directory). It keeps copies of small remote files; set"
    with pytest.raises(InputError, match=re.escape(message)):
        mc.open("memory://m")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/x")
    assert _remote.cache_folder() == Path("/var/x/modelwright")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert _remote.cache_folder() == Path("/home/me/.cache/modelwright")


def test_names_outside_the_folder_are_ignored(memory: Any, tmp_path: Path) -> None:
    put(memory, "/m", files_of(folder(tmp_path / "m", A, CONFIG)))
    memory.store["/m/../../evil.json"] = memory.store["/m/config.json"]
    opened = mc.open("memory://m")
    assert opened.path is not None
    assert [file.name for file in opened.path.iterdir()] == ["config.json"]
    names = ["a", "a/b", "..", "a/../b", "/a", "a//b", "", ".", "a/", "x\0"]
    assert [name for name in names if _fsspec.is_inside(name)] == ["a", "a/b"]


# --- faults --------------------------------------------------------------------------------------------------------


def test_transient_failures_are_tried_again(s3: Any, base: str) -> None:
    opened = mc.open(base)
    s3.broken = 3
    np.testing.assert_array_equal(opened["model.layers.0.w"].read(), A["model.layers.0.w"])
    s3.broken = 4
    message = r"^'s3://models/base/model-00002-of-00003.safetensors' failed \(OSError: .*\)\. Try again later\.$"
    with pytest.raises(RunError, match=message):
        opened["model.layers.0.w"].read()
    assert s3.broken == 0


def test_waits_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(_fsspec, "WAITS", (0.5, 1.0, 2.0))
    monkeypatch.setattr(_fsspec.time, "sleep", waits.append)

    def attempt(error: Exception) -> int:
        calls = 0

        def fail() -> None:
            nonlocal calls
            calls += 1
            raise error

        with pytest.raises(type(error)):
            _fsspec.patiently(fail)
        return calls

    assert attempt(TimeoutError()) == 4
    assert waits == [0.5, 1.0, 2.0]
    assert attempt(ConnectionResetError(104, "reset")) == 4
    for error in (
        FileNotFoundError("x"),
        PermissionError("x"),
        OSError(22, "bad range"),
        OSError(28, "full"),
        KeyError(),
    ):
        assert attempt(error) == 1


def test_answers_that_are_cut_short(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(memory, "/m", files_of(folder(tmp_path / "m", A, CONFIG)))
    opened = mc.open("memory://m")
    whole = type(memory).cat_file
    cut = [5, 5]

    def cat_file(self: Any, path: str, **options: Any) -> bytes:
        data = whole(self, path, **options)
        return data[: -cut.pop()] if cut else data

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    np.testing.assert_array_equal(opened["model.layers.0.w"].read(), A["model.layers.0.w"])
    cut[:] = [5, 5, 5, 5]
    message = (
        r"'memory:///m/model.safetensors' failed \(OSError: 9211 bytes came in place of the 9216 from byte \d+ on\)"
    )
    with pytest.raises(RunError, match=message):
        opened["model.layers.0.w"].read()


def test_a_server_without_ranges(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(memory, "/m", files_of(folder(tmp_path / "m", A)))
    asked: list[str] = []

    def cat_file(self: Any, path: str, **_: Any) -> bytes:
        asked.append(path)
        return self.store[path].getvalue()

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    message = "'memory:///m/model.safetensors' failed (OSError: the server does not answer range requests)."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        mc.open("memory://m")
    assert len(asked) == 1  # once is enough


def test_changed_between_opening_and_reading(s3: Any, base: str, tmp_path: Path) -> None:
    name = "model-00002-of-00003.safetensors"
    opened = mc.open(base)
    data = (tmp_path / "base" / name).read_bytes()
    start = f"'s3://models/base/{name}' "
    for other in (data[:-4] + b"\0\0\0\0", data[:-4], data[:20]):  # of the same length, cut, cut to the header
        s3.fs.pipe_file(f"models/base/{name}", other)
        message = f"{start}has changed since it was opened. Start again when nothing writes to it."
        with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
            opened["model.layers.0.w"].read()
    s3.fs.rm_file(f"models/base/{name}")
    with pytest.raises(RunError, match=f"^{start}is no longer there"):
        opened["model.layers.0.w"].read()


def test_changed_while_it_was_opened(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(memory, "/m", files_of(folder(tmp_path / "m", A, CONFIG)))
    whole = type(memory).cat_file

    def cat_file(self: Any, path: str, **options: Any) -> bytes:
        data = whole(self, path, **options)
        self.pipe_file(path, data)
        return data

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    with pytest.raises(InputError, match=r"^'memory:///m/config.json' changed while it was read\. Open it again when"):
        mc.open("memory://m")


# --- refusals ------------------------------------------------------------------------------------------------------


def refused(reference: str) -> str:
    with pytest.raises(InputError) as caught:
        mc.open(reference)
    return str(caught.value)


def test_nothing_there(s3: Any, base: str) -> None:
    check = "Check bucket and path."
    missing = "there is nothing at 's3://nowhere/base' (The specified bucket does not exist)."
    assert refused("s3://nowhere/base") == f"{missing} {check}"
    assert refused("s3://models/none/") == f"there is nothing at 's3://models/none'. {check}"
    assert refused("s3://models/none.safetensors") == f"there is nothing at 's3://models/none.safetensors'. {check}"
    assert refused("s3://models").startswith("s3://models holds no weights; it has: base/. A model folder has")


def test_no_permission(s3: Any) -> None:
    s3.hidden.add("models")
    mend = "Give the store's own credentials: environment variables, its configuration file or its login command."
    for url in ("s3://models/base", "s3://models/x.safetensors"):
        assert re.fullmatch(rf"access to '{url}' is denied \((Access Denied|Forbidden)\)\. {mend}", refused(url))


def test_no_credentials(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    type(s3.fs).clear_instance_cache()
    assert refused("s3://models/base").startswith(
        "access to 's3://models/base' is denied (Unable to locate credentials)."
    )


def test_no_network(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    type(s3.fs).clear_instance_cache()
    text = refused("s3://models/base")
    assert text.startswith(
        "'s3://models/base' cannot be reached (EndpointConnectionError: Could not connect to the endp"
    )
    assert text.endswith("Check the network and, where the store is your own, its endpoint.")


def test_unknown_scheme() -> None:
    assert refused("s4://models/base") == (
        "'s4://models/base': fsspec knows no scheme 's4'. "
        "It knows s3, gs, abfs, hf, https, sftp and more; a path has no ://."
    )


def test_a_password_in_the_url() -> None:
    text = refused("sftp://me:hush@host/base")
    assert text.startswith("'sftp://...@host/base' holds a password, which would go into manifest and model card.")
    assert "hush" not in text


def test_folders_over_http() -> None:
    assert refused("https://127.0.0.1/org/name") == (
        "there is no weight file at 'https://127.0.0.1/org/name', and folders are not read over HTTP. "
        "Name a .safetensors file; for a model on the Hub write owner/name."
    )


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("s3", "abfs"):  # those that were asked for before are remembered
        monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, scheme, raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(MissingExtraError) as caught:
        mc.open("s3://models/base")
    assert str(caught.value) == (
        "opening 's3://models/base' needs the package 's3fs', which is not installed. "
        'Install the extra: pip install "modelwright[remote]".'
    )
    assert refused("abfs://models/base") == (
        "opening 'abfs://models/base' needs a package that is not installed. "
        "fsspec says: Install adlfs to access Azure Datalake Gen2 and Azure Blob Storage."
    )
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"'memory://a' needs the package 'fsspec'.*modelwright\[remote\]"):
        mc.open("memory://a")


def test_damaged_files_are_called_by_their_url(memory: Any) -> None:
    put(memory, "/bad", {"model.safetensors": b"\xff" * 100, "config.json": b"{}"})
    assert refused("memory://bad").startswith("memory:///bad/model.safetensors: the header claims ")
    put(memory, "/bad", {"model.safetensors": save(A), "config.json": b"{"})
    assert refused("memory://bad").startswith("memory:///bad/config.json is not valid JSON")
    put(memory, "/bad", {"short.safetensors": b"123"})
    assert refused("memory://bad/short.safetensors").startswith(
        "memory:///bad/short.safetensors is not a safetensors file: it has 3 bytes"
    )
