"""Pickled weights and torch tensors in memory: tensors only, never code."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from weights_helpers import write_json

import modelwright.checkpoint as mc
from modelwright.errors import InputError, MissingExtraError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        mc.open(path)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt", "th"])
def test_every_suffix(tmp_path: Path, suffix: str) -> None:
    opened = mc.open(saved(tmp_path / f"m.{suffix}", OrderedDict(b=torch.ones(2), a=torch.zeros(()))))
    assert {name: ref.shape for name, ref in opened.items()} == {"b": (2,), "a": ()}
    assert list(opened) == ["b", "a"]
    assert opened["b"].source == f"m.{suffix}:b"


KINDS = [
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool", "complex64",
]  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_every_dtype(tmp_path: Path, name: str, zipped: bool) -> None:
    if not zipped and ((name.startswith("uint") and name != "uint8") or "float8" in name):
        pytest.skip("torch itself cannot load these from its old format")
    kind = getattr(torch, name)
    itemsize = torch.empty((), dtype=kind).element_size()
    raw = np.frombuffer(
        os.urandom(24 * itemsize) if name != "bool" else bytes(i % 2 for i in range(24)), np.uint8
    ).copy()
    value = torch.from_numpy(raw).view(kind).reshape(4, 6)
    path = saved(tmp_path / "m.bin", {"t": value, "v": value.T}, _use_new_zipfile_serialization=zipped)
    for opened in (mc.open(path), mc.open({"t": value, "v": value.T})):
        assert opened["t"].dtype.name == name
        assert opened["t"].read().tobytes() == raw.tobytes()
        assert opened["v"].shape == (6, 4)
        assert opened["v"].read().T.tobytes() == raw.tobytes()
        back = opened.state_dict()["t"]
        assert back.dtype == kind
        assert back.contiguous().view(torch.uint8).numpy().tobytes() == raw.tobytes()


@pytest.mark.parametrize("zipped", [True, False])
def test_views_of_one_storage(tmp_path: Path, zipped: bool) -> None:
    storage = torch.arange(12.0)
    tensors = {
        "all": storage,
        "part": storage[2:5],
        "steps": storage[::3],
        "turned": storage.view(3, 4).T,
        "none": storage[:0],
    }
    opened = mc.open(saved(tmp_path / "m.bin", tensors, _use_new_zipfile_serialization=zipped))
    for name, value in tensors.items():
        np.testing.assert_array_equal(opened[name].read(), value.numpy())
    assert opened.arrays()["turned"].shape == (4, 3)


def test_parameters_and_conjugates(tmp_path: Path) -> None:
    values = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    tensors = {"p": torch.nn.Parameter(torch.ones(2)), "c": values.conj(), "n": values.clone().conj().imag}
    file = {**tensors, "n": tensors["n"].clone()}  # torch does not save two kinds of view of one storage
    for opened in (mc.open(tensors), mc.open(saved(tmp_path / "m.pt", file))):
        assert opened["p"].read().tolist() == [1, 1]
        assert opened["c"].read().tolist() == [1 - 2j, 3 + 1j]
        assert opened["n"].read().tolist() == [-2, 1]


def test_later_changes_are_seen_and_reading_changes_nothing() -> None:
    value = torch.ones(2)
    opened = mc.open({"w": value})
    value.mul_(3)
    assert opened["w"].read().tolist() == [3, 3]
    state = opened.state_dict()
    state["w"].zero_()
    assert value.tolist() == [3, 3]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "params", "weights"])
def test_nested_state_dict(tmp_path: Path, key: str) -> None:
    opened = mc.open(saved(tmp_path / "m.pt", {"epoch": 3, key: {"a": torch.ones(2)}, "step": torch.tensor(1)}))
    assert list(opened) == ["a"]
    assert opened.notes == (f"m.pt: the weights are its '{key}'; left out: epoch, step",)
    twice = mc.open(saved(tmp_path / "n.pt", {key: {"state_dict": {"a": torch.ones(2)}}}))
    assert (list(twice), twice.notes) == (["a"], ())


# --- refusals ------------------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "m.bin", {"a": Evil(tmp_path / "ran")}, _use_new_zipfile_serialization=zipped)
    assert refused(path) == (
        f"{path} holds more than tensors: unpickling it would import posix.system, which could run code. "
        "Save its state dict alone, or convert it to safetensors where you trust it."
    )
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)  # the bait is real
    assert (tmp_path / "ran").exists()


def test_bare_malicious_pickle(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(pickle.dumps({"a": Evil(tmp_path / "ran")}))
    assert "m.bin is pickled with protocol 4 or newer" in refused(tmp_path / "m.bin")
    (tmp_path / "m.bin").write_bytes(pickle.dumps({"a": Evil(tmp_path / "ran")}, protocol=2))
    assert "which could run code" in refused(tmp_path / "m.bin")
    assert not (tmp_path / "ran").exists()


def test_whole_modules_and_scripts(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    assert "unpickling it would import torch.nn.modules.linear.Linear" in refused(saved(tmp_path / "m.pt", module))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(tmp_path / "s.pt")
    assert refused(tmp_path / "s.pt") == (
        f"{tmp_path / 's.pt'} is a TorchScript program, not weights. Save its state_dict() alone."
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2), "holds a Tensor, not a dict of tensors. Save the state dict alone."),
        ([torch.ones(2)], "holds a list, not a dict of tensors. Save the state dict alone."),
        ({"a": torch.ones(2), "b": None}, "holds entries that are not tensors: b. Save the state dict alone."),
        ({"a": 3, "b": [1]}, "holds entries that are not tensors: a, b. Save the state dict alone."),
        ({1: torch.ones(2)}, "holds entries that are not tensors: 1. Save the state dict alone."),
        ({"s": {"a": torch.ones(2)}}, "holds entries that are not tensors: s. Save the state dict alone."),
    ],
)
def test_not_a_dict_of_tensors(tmp_path: Path, value: Any, message: str) -> None:
    path = saved(tmp_path / "m.pt", value)
    assert refused(path) == f"{path} {message}"


def odd_tensors() -> dict[str, tuple[Any, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    return {
        "quantised": (quantised, "is quantised or packed (torch.qint8)"),
        "sparse": (torch.eye(3).to_sparse(), "is sparse or nested"),
        "csr": (torch.eye(3).to_sparse_coo(), "is sparse or nested"),
        "complex128": (
            torch.ones(2, dtype=torch.complex128),
            "has the dtype torch.complex128, which checkpoints are not read in",
        ),
        "fnuz": (
            torch.ones(2).to(torch.float8_e4m3fnuz),
            "has the dtype torch.float8_e4m3fnuz, which checkpoints are not read in",
        ),
        "meta": (torch.empty(2, device="meta"), "is on the meta device and has no values"),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", odd_tensors())
def test_tensors_without_plain_values(tmp_path: Path, kind: str) -> None:
    value, message = odd_tensors()[kind]
    path = saved(tmp_path / "m.pt", {"x.y": value})
    assert refused(path) == f"{path}: 'x.y' {message}. Save it as a plain tensor."
    with pytest.raises(InputError) as caught:
        mc.open({"x.y": value})
    assert str(caught.value) == f"state dict: 'x.y' {message}. Pass plain tensors with values."


def test_sub_byte_torch_dtypes() -> None:
    for name in ("int4", "uint4", "int1"):
        if hasattr(torch, name):
            with pytest.raises(InputError, match=rf"'w' is quantised or packed \(torch\.{name}\)"):
                mc.open({"w": torch.empty(2, dtype=getattr(torch, name))})


def test_damaged_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.bin", {"a": torch.ones(1000)})
    whole = path.read_bytes()
    for data in (b"", b"garbage" * 10, b"PK\x03\x04" + b"x" * 100, whole[:-200], whole[: len(whole) // 2], whole[100:]):
        path.write_bytes(data)
        assert refused(path).startswith(f"{path} cannot be read as a torch file (")
        assert refused(path).endswith("). Copy or download it again.")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert refused(path) == f"{path} is a git-lfs pointer, not the weights themselves. Fetch them: git lfs pull."


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=60), at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_fuzzed_files(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, value: int) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.bin"
    saved(path, {"a": torch.ones(3)}, _use_new_zipfile_serialization=at % 2 == 0)
    whole = bytearray(path.read_bytes())
    whole[at % len(whole)] = value
    for raw in (bytes(whole), b"\x80\x02" + data, data):
        path.write_bytes(raw)
        with contextlib.suppress(InputError):
            assert all(ref.read() is not None for ref in mc.open(path).values())


def test_newer_pickle_protocol(tmp_path: Path) -> None:
    assert list(mc.open(saved(tmp_path / "m.pt", {"a": torch.ones(1)}, pickle_protocol=3))) == ["a"]
    path = saved(tmp_path / "m.pt", {"a": torch.ones(1)}, pickle_protocol=4)
    assert refused(path) == f"{path} is pickled with protocol 4 or newer. Save it with torch.save as it is by default."


# --- folders -------------------------------------------------------------------------------------------------------


def test_folder_of_bins(tmp_path: Path) -> None:
    saved(tmp_path / "pytorch_model-00001-of-00002.bin", {"a": torch.ones(2)})
    saved(tmp_path / "pytorch_model-00002-of-00002.bin", {"b": torch.zeros(2)})
    saved(tmp_path / "training_args.bin", {"lr": 1.0})
    saved(tmp_path / "optimizer.pt", {"state": {}})
    table = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": table})
    opened = mc.open(tmp_path)
    assert (list(opened), opened.parts[0].stem) == (["a", "b"], "model")
    saved(tmp_path / "pytorch_model.bin", {"c": torch.ones(2)})
    opened = mc.open(tmp_path)
    assert list(opened) == ["c"]
    assert opened.notes == (
        f"{tmp_path / 'pytorch_model.bin.index.json'} is left out, because pytorch_model.bin is there",
    )


# --- modules -------------------------------------------------------------------------------------------------------


def test_module_with_tied_weights() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=11, n_embd=8, n_layer=2, n_head=2, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    opened = mc.open(model)
    assert opened.label == "GPT2LMHeadModel"
    assert opened.config is not None
    assert opened.config["model_type"] == "gpt2"
    assert set(opened) == set(model.state_dict())
    assert opened.tied == {"lm_head.weight": "transformer.wte.weight"}
    config.tie_word_embeddings = False
    assert mc.open(transformers.GPT2LMHeadModel(config)).tied == {}


def test_module_without_configuration() -> None:
    opened = mc.open(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)), label="net")
    assert (opened.label, opened.config) == ("net", None)
    assert {name: ref.dtype.name for name, ref in opened.items()}["1.num_batches_tracked"] == "int64"
    assert opened["1.num_batches_tracked"].shape == ()


def test_without_torch(tmp_path: Path) -> None:
    saved(tmp_path / "m.bin", {"a": torch.ones(1)})
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import modelwright.checkpoint as mc\n"
        "opened = mc.open('m.bin')\n"
        "print(opened['a'].read())\n"
        "try: opened.state_dict()\n"
        "except mc._open.InputError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    mend = "needs the package 'torch', which is not installed. Install the extra: pip install \"modelwright[torch]\"."
    assert done.stdout.splitlines() == ["[1.]", f"MissingExtraError state_dict() {mend}"]
    assert issubclass(MissingExtraError, InputError)
