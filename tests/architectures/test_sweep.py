"""Merge tiny models of every architecture in the table, through files, and load the results with transformers.

What is checked is what people lost weights to: a tensor that is dropped, renamed, created or merged wrongly shows in the
comparison on disk, and one that transformers would initialise anew shows when the result is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402
from tiny import TINY, build  # noqa: E402

import modelwright as mw  # noqa: E402
from modelwright.methods.merging import ties  # noqa: E402

pytestmark = pytest.mark.torch

Tensors = dict[str, "torch.Tensor"]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def saved(name: str, seed: int, path: Path) -> Path:
    """A folder with the model of this seed."""
    build(name, seed).save_pretrained(path)
    return path


def tensors(path: Path) -> Tensors:
    """Every tensor of a folder, read by safetensors itself; no name may be in two files."""
    found: Tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as handle:
            for key in handle.keys():  # noqa: SIM118 (a safe_open is no mapping)
                assert key not in found, key
                found[key] = handle.get_tensor(key)
    assert found, f"no safetensors in {sorted(p.name for p in path.iterdir())}"
    return found


def assert_same(got: Tensors, wanted: Mapping[str, torch.Tensor]) -> None:
    """The same names, and under each the same shape, dtype and bits."""
    assert sorted(got) == sorted(wanted)
    for key, value in wanted.items():
        assert (got[key].dtype, got[key].shape) == (value.dtype, value.shape), key
        assert torch.equal(got[key], value), (key, (got[key].double() - value.double()).abs().max().item())


def assert_loads(path: Path, model_class: Any) -> Any:
    """The model, loaded without a key missing, left over or of another shape, and finite."""
    model, info = model_class.from_pretrained(path, output_loading_info=True)
    assert {key: value for key, value in info.items() if value} == {}
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    infinite = [
        k for k, v in state.items() if k in model.state_dict() and v.is_floating_point() and not v.isfinite().all()
    ]
    assert infinite == []
    return model


@pytest.mark.parametrize("name", TINY)
def test_merges_and_reloads(name: str, tmp_path: Path) -> None:
    base_path, a_path, b_path = (saved(name, seed, tmp_path / f"model-{seed}") for seed in range(3))
    base, a, b = tensors(base_path), tensors(a_path), tensors(b_path)
    floating = [key for key, value in base.items() if value.is_floating_point()]
    assert base.keys() == a.keys() == b.keys()
    agree = [k for k in floating if torch.equal(a[k], b[k]) or torch.equal(a[k], base[k]) or torch.equal(b[k], base[k])]
    assert agree == [], "seeds must differ, or a tensor taken from the wrong model goes unseen"

    mw.merge([a_path, b_path], method="linear", weight=0.5).save(tmp_path / "linear")
    mean = {key: ((a[key].float() + b[key].float()) / 2).to(a[key].dtype) for key in floating}
    assert_same(tensors(tmp_path / "linear"), {**a, **mean})
    assert_loads(tmp_path / "linear", TINY[name].model_class)

    mw.merge([a_path, b_path], base=base_path, method="ties", weight=1.0, density=0.5).save(tmp_path / "ties")
    merged = {key: ties([a[key], b[key]], base=base[key], weight=1.0, density=0.5) for key in floating}
    assert_same(tensors(tmp_path / "ties"), {**base, **merged})
    assert_loads(tmp_path / "ties", TINY[name].model_class)


def test_table_covers_sixty_model_types(record_property: Any) -> None:
    types = {entry.config_class.model_type for entry in TINY.values()}
    record_property("model_types", len(types))
    assert len(types) >= 60


def test_builds_are_reproducible() -> None:
    first, second = (build("llama", 1).state_dict() for _ in range(2))
    assert_same(first, second)


# Where the numbered layers are, and what comes before them: by the community's rule the first slice's model gives what
# lies before the layers and the last slice's model gives what lies behind.
STACKS = {
    "llama": ("model.layers.", ["model.embed_tokens.weight"]),
    "llama-tied": ("model.layers.", ["model.embed_tokens.weight"]),
    "qwen2": ("model.layers.", ["model.embed_tokens.weight"]),
    "qwen2_moe": ("model.layers.", ["model.embed_tokens.weight"]),
    "qwen3_moe": ("model.layers.", ["model.embed_tokens.weight"]),
    "qwen3_next": ("model.layers.", ["model.embed_tokens.weight"]),
    "gemma3_text": ("model.layers.", ["model.embed_tokens.weight"]),
    "mixtral": ("model.layers.", ["model.embed_tokens.weight"]),
    "gpt2": ("transformer.h.", ["transformer.wte.weight", "transformer.wpe.weight"]),
    "gpt_neox": ("gpt_neox.layers.", ["gpt_neox.embed_in.weight"]),
    "mamba": ("backbone.layers.", ["backbone.embeddings.weight"]),
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks_layers_of_two_models(name: str, tmp_path: Path) -> None:
    a_path, b_path = (saved(name, seed, tmp_path / f"model-{seed}") for seed in (1, 2))
    a, b = tensors(a_path), tensors(b_path)
    recipe = {
        "merge_method": "passthrough",
        "dtype": TINY[name].dtype,
        "slices": [
            {"sources": [{"model": str(a_path), "layer_range": [0, 2]}]},
            {"sources": [{"model": str(b_path), "layer_range": [1, 2]}]},
            {"sources": [{"model": str(b_path), "layer_range": [0, 2]}]},
        ],
    }
    mw.merge(recipe).save(tmp_path / "out")

    prefix, before = STACKS[name]
    wanted = {key: (a if key in before else b)[key] for key in a if not key.startswith(prefix)}
    for number, (model, source) in enumerate([(a, 0), (a, 1), (b, 1), (b, 0), (b, 1)]):
        layer = f"{prefix}{source}."
        wanted |= {f"{prefix}{number}.{key.removeprefix(layer)}": model[key] for key in model if key.startswith(layer)}
    assert_same(tensors(tmp_path / "out"), wanted)

    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["n_layer" if name == "gpt2" else "num_hidden_layers"] == 5
    assert assert_loads(tmp_path / "out", TINY[name].model_class).config.num_hidden_layers == 5
