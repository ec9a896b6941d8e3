"""The Hub, against a stand-in on loopback: headers before weights, revisions, the cache, refusals."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from hub_standin import Hub, commit, serve
from weights_helpers import arrays, files_of, folder, write_json

import modelwright.checkpoint as mc
from modelwright.errors import InputError, RunError

CONFIG = {"model_type": "llama", "tie_word_embeddings": False}
A = arrays(1, **{"model.embed.weight": (64, 48), "model.layers.0.w": (48, 48), "model.layers.1.w": (48, 48)})
B = arrays(2, **{"model.embed.weight": (64, 48), "model.layers.0.w": (48, 48)})
ID = "org/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with one model: three shards on main, a single file on the branch `v2`."""
    from huggingface_hub import constants, file_download, hf_api

    main = folder(tmp_path / "main", A, CONFIG, shards=3)
    (main / "tokenizer.json").write_text("{}", encoding="utf-8")
    (main / "LICENSE").write_text("free", encoding="utf-8")
    (main / "picture.png").write_bytes(b"\x89PNG" * 100)
    branch = folder(tmp_path / "v2", B, CONFIG)
    with serve(Hub({ID: {"main": files_of(main), "v2": files_of(branch)}})) as standin:
        monkeypatch.setattr(constants, "ENDPOINT", standin.url)
        template = standin.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(hf_api.api, "endpoint", standin.url)
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(constants, name, str(tmp_path / "cache"), raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.utils.disable_progress_bars()
        monkeypatch.chdir(tmp_path / "v2")  # where nothing is called org
        yield standin


def header_bytes(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def shards(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    return {name: data for name, data in hub.repos[ID][revision].items() if name.endswith(".safetensors")}


def test_opening_transfers_headers_only(hub: Hub) -> None:
    opened = mc.open(ID)
    assert {name: ref.shape for name, ref in opened.items()} == {name: value.shape for name, value in A.items()}
    assert {name: hub.served[name] for name in shards(hub)} == {
        name: header_bytes(data) for name, data in shards(hub).items()
    }
    assert opened.config == CONFIG
    assert opened.path is not None
    assert {file.name for file in opened.path.iterdir()} == {
        "config.json", "model.safetensors.index.json", "tokenizer.json", "LICENSE",
    }  # fmt: skip
    assert "picture.png" not in hub.served


def test_reading_downloads_each_shard_once(hub: Hub) -> None:
    opened = mc.open(ID)
    for name in A:
        for _ in range(2):
            np.testing.assert_array_equal(opened[name].read(), A[name])
    for name, data in shards(hub).items():
        assert hub.served[name] == header_bytes(data) + len(data)
    again = mc.open(ID)  # everything is in the cache now
    np.testing.assert_array_equal(again["model.layers.1.w"].read(), A["model.layers.1.w"])
    for name, data in shards(hub).items():
        assert hub.served[name] == header_bytes(data) + len(data)


def test_reading_from_many_threads(hub: Hub) -> None:
    from concurrent.futures import ThreadPoolExecutor

    opened = mc.open(f"{ID}@v2")
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: opened["model.layers.0.w"].read(), range(8)))
    assert all(np.array_equal(value, B["model.layers.0.w"]) for value in values)
    (data,) = shards(hub, "v2").values()
    assert hub.served["model.safetensors"] == header_bytes(data) + len(data)


@pytest.mark.parametrize("revision", ["v2", commit(f"{ID}:v2")])
def test_revision(hub: Hub, revision: str) -> None:
    opened = mc.open(f"{ID}@{revision}")
    assert list(opened) == list(mc.open(f"{ID}@v2"))
    np.testing.assert_array_equal(opened["model.embed.weight"].read(), B["model.embed.weight"])
    assert opened.path is not None
    assert opened.path.name == commit(f"{ID}:v2")


def test_an_existing_path_wins(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "here" / "org" / "tiny", {"local": np.ones(2, np.float32)})
    assert list(mc.open(ID, folder=tmp_path / "here")) == ["local"]
    folder(tmp_path / "here" / "org" / "tiny@v2", {"at": np.ones(2, np.float32)})
    assert list(mc.open(f"{ID}@v2", folder=tmp_path / "here")) == ["at"]
    assert hub.requests == []


def test_only_bin_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "old").mkdir()
    torch.save({"w": torch.arange(3.0)}, tmp_path / "old" / "pytorch_model.bin")
    hub.repos["org/old"] = {"main": files_of(tmp_path / "old")}
    opened = mc.open("org/old")
    assert opened["w"].read().tolist() == [0, 1, 2]
    assert opened.parts[0].stem == "model"


def test_gguf_is_downloaded(hub: Hub) -> None:
    one_float = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<QcIQIQ", 1, b"w", 1, 1, 0, 0)
    data = one_float + bytes(-len(one_float) % 32) + np.float32(0.5).tobytes()
    hub.repos["org/gguf"] = {"main": {"x.gguf": data, "config.json": b"{}"}}
    assert mc.open("org/gguf")["w"].read().tolist() == [0.5]
    hub.repos["org/ggufs"] = {"main": {"x.gguf": data, "y.gguf": data}}
    with pytest.raises(InputError, match=r"has several GGUF models: x\.gguf, y\.gguf\. Name the file itself; one from"):
        mc.open("org/ggufs")


def test_pipeline_with_subfolders(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "pipe"
    write_json(root / "model_index.json", {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]})
    folder(root / "unet", arrays(1, a=(4, 4)), {"u": 1}, stem="diffusion_pytorch_model")
    folder(root / "vae", arrays(2, b=(4, 4)), {"v": 1}, stem="diffusion_pytorch_model")
    hub.repos["org/pipe"] = {"main": files_of(root)}
    opened = mc.open("org/pipe")
    assert {part.prefix: part.config for part in opened.parts} == {"unet/": {"u": 1}, "vae/": {"v": 1}}
    assert all(size < 200 for name, size in hub.served.items() if name.endswith(".safetensors"))
    np.testing.assert_array_equal(opened["vae/b"].read(), arrays(2, b=(4, 4))["b"])


def test_model_plus_adapter(hub: Hub, tmp_path: Path) -> None:
    lora = arrays(5, A=(2, 48), B=(48, 2))
    start = "base_model.model.model.layers.0"
    hub.repos[ID]["main"]["odd.txt"] = b""
    folder(
        tmp_path / "lora",
        {f"{start}.lora_A.weight": lora["A"], f"{start}.lora_B.weight": lora["B"]},
        stem="adapter_model",
    )
    write_json(tmp_path / "lora" / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    main = {"model.layers.0.weight": A["model.layers.0.w"]}
    folder(tmp_path / "base", main)
    hub.repos["org/base"] = {"main": files_of(tmp_path / "base")}
    hub.repos["org/lora"] = {"main": files_of(tmp_path / "lora")}
    opened = mc.open("org/base+org/lora@main")
    expected = main["model.layers.0.weight"] + np.float32(2) * (lora["B"] @ lora["A"])
    np.testing.assert_allclose(opened["model.layers.0.weight"].read(), expected, rtol=1e-6)


def test_by_url_through_fsspec(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hf://` leaves the weights on the Hub, and reads each tensor by its own range."""
    pytest.importorskip("fsspec")
    monkeypatch.setenv("MODELWRIGHT_CACHE", str(tmp_path / "copies"))
    huggingface_hub.HfFileSystem.clear_instance_cache()
    for revision in ("", "@v2"):
        url = f"hf://{ID}{revision}"
        opened = mc.open(url)
        assert opened.url == url
        assert opened.config == CONFIG
        hub.served.clear()
        expected = B if revision else A
        np.testing.assert_array_equal(opened["model.embed.weight"].read(), expected["model.embed.weight"])
        assert sum(hub.served.values()) == expected["model.embed.weight"].nbytes
    assert "picture.png" not in hub.served
    with pytest.raises(InputError, match=r"^there is nothing at 'hf://org/none'"):
        mc.open("hf://org/none")
    huggingface_hub.HfFileSystem.clear_instance_cache()


# --- the cache -----------------------------------------------------------------------------------------------------


def cached(root: Path, tensors: dict[str, np.ndarray], label: str = "abc") -> str:
    """A cache as huggingface_hub lays it out."""
    sha = commit(label)
    repo = root / "cache" / "models--org--cached"
    folder(repo / "snapshots" / sha, tensors, CONFIG)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(sha, encoding="utf-8")
    return sha


def test_offline_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = cached(tmp_path, A)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for ref in ("org/cached", f"org/cached@{sha}"):
        opened = mc.open(ref)
        np.testing.assert_array_equal(opened["model.layers.1.w"].read(), A["model.layers.1.w"])
        assert opened.notes == ()
    with pytest.raises(InputError, match=r"no file or folder is called 'org/other', and the Hub cannot be reached"):
        mc.open("org/other")
    assert hub.requests == []


def test_offline_after_an_online_open(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = mc.open(ID)
    opened["model.layers.0.w"].read()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"names shards that are missing: .*00003.*HF_HUB_OFFLINE is set; unset it"):
        mc.open(ID)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for ref in mc.open(ID).values():
        ref.read()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert list(mc.open(ID)) == list(opened)


def test_unreachable_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = cached(tmp_path, A)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")
    opened = mc.open("org/cached")
    assert opened.notes == (f"org/cached: the Hub cannot be reached; taken from the cache, commit {sha}",)
    np.testing.assert_array_equal(opened["model.layers.1.w"].read(), A["model.layers.1.w"])
    with pytest.raises(InputError, match=r"'org/nothing', and the Hub cannot be reached\. Check the path; to use"):
        mc.open("org/nothing")


# --- refusals ------------------------------------------------------------------------------------------------------


def test_no_such_model(hub: Hub) -> None:
    message = "no file or folder is called 'org/none', and the Hub has no such model (or it is private). Check the path"
    with pytest.raises(InputError, match=re.escape(message)):
        mc.open("org/none")
    hub.refused["org/secret"] = (401, "")
    with pytest.raises(InputError, match=r"for a private model log in: hf auth login\."):
        mc.open("org/secret")


def test_no_such_revision(hub: Hub) -> None:
    with pytest.raises(InputError, match=r"'org/tiny' has no revision 'v9' on the Hub\. Check what follows the @\."):
        mc.open(f"{ID}@v9")


def test_gated(hub: Hub) -> None:
    hub.refused["org/gated"] = (403, "GatedRepo")
    with pytest.raises(InputError, match=r"'org/gated@x' is gated on the Hub\. Accept its terms there, then log in"):
        mc.open("org/gated@x")


@pytest.mark.parametrize("text", ["org/tiny@", "tiny", "./org/tiny", "a/b/c", "org/", "/nowhere/at all", "", "~nobody"])
def test_no_hub_id(hub: Hub, text: str) -> None:
    message = f"no file, folder or Hub model is called '{text}'. Check the path; a Hub id is owner/name, or owner/name@"
    with pytest.raises(InputError, match=re.escape(message)):
        mc.open(text)
    assert hub.requests == []


def test_revision_of_a_local_folder(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"and 'main' is a local path, which has no revisions\. Leave out the @"):
        mc.open("main@v2", folder=tmp_path)


def test_hub_without_ranges(hub: Hub) -> None:
    hub.ranges = False
    with pytest.raises(InputError, match=r"'org/tiny/model-0000\d-of-00003.safetensors': the Hub, or a mirror of it"):
        mc.open(ID)


def test_damaged_header_on_the_hub(hub: Hub) -> None:
    hub.repos["org/bad"] = {"main": {"model.safetensors": b"\xff" * 100, "config.json": b"{}"}}
    with pytest.raises(InputError, match=r"model.safetensors: the header claims \d+ bytes, the file has 100"):
        mc.open("org/bad")
    hub.repos["org/empty"] = {"main": {"model.safetensors": b"", "config.json": b"{}"}}
    with pytest.raises(InputError, match=r"'org/empty' could not be fetched|it has 0 bytes"):
        mc.open("org/empty")


def test_missing_shard_on_the_hub(hub: Hub) -> None:
    del hub.repos[ID]["main"]["model-00002-of-00003.safetensors"]
    with pytest.raises(InputError, match=r"names shards that are missing: model-00002-of-00003\.safetensors\."):
        mc.open(ID)


def test_no_weights_on_the_hub(hub: Hub) -> None:
    hub.repos["org/none"] = {"main": {"config.json": b"{}", "model.onnx": b"ONNX"}}
    with pytest.raises(InputError, match=r"holds no weights; it has: config\.json\."):
        mc.open("org/none")


def test_weights_only_repo(hub: Hub, tmp_path: Path) -> None:
    hub.repos["org/bare"] = {"main": {"model.safetensors": shards(hub, "v2")["model.safetensors"]}}
    np.testing.assert_array_equal(mc.open("org/bare")["model.layers.0.w"].read(), B["model.layers.0.w"])


def test_names_outside_the_folder_are_ignored(hub: Hub) -> None:
    hub.repos[ID]["v2"]["../../evil.safetensors"] = b"x"
    assert len(mc.open(f"{ID}@v2")) == 2


def test_a_busy_hub_is_asked_again(hub: Hub) -> None:
    opened = mc.open(f"{ID}@v2")  # small files first
    assert len(opened) == 2
    hub.fail = 1
    assert len(mc.open(f"{ID}@v2")) == 2
    assert hub.fail == 0


def test_gone_between_opening_and_reading(hub: Hub) -> None:
    opened = mc.open(ID)
    hub.refused[ID] = (404, "RepoNotFound")
    with pytest.raises(RunError, match=r"no file or folder is called 'org/tiny', and the Hub has no such model"):
        opened["model.layers.0.w"].read()


def test_huggingface_hub_is_imported_for_hub_ids_only(tmp_path: Path) -> None:
    folder(tmp_path / "m", A, CONFIG, shards=2)
    script = (
        "import sys; import modelwright.checkpoint as mc; mc.open('m'); mc.open({}); "
        "print(sorted({'huggingface_hub', 'torch', 'safetensors', 'requests', 'httpx'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
