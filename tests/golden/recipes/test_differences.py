"""Where whole recipes give another model than mergekit on purpose: what docs/parity.md says, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.errors import InputError

from .models import build, llama, tensors, write


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build(folder)
    shapes, config = llama(4)
    old = tensors("llama", "a", shapes)
    old |= {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.array([1.0, 0.01], np.float32) * (i + 1) for i in range(4)
    }
    write(folder / "old-a", old, config)
    shapes, config = llama(4, tied=True)
    twice = tensors("llama", "a", shapes)
    write(folder / "twice-a", twice | {"lm_head.weight": twice["model.embed_tokens.weight"]}, config)
    return folder


def merged(root: Path, tmp_path: Path, **recipe: Any) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Tensors, configuration and notes of a recipe whose models are named by their folders."""

    def at(node: Any) -> Any:
        if isinstance(node, dict):
            keys = ("model", "base_model")
            return {k: str(root / v) if k in keys and isinstance(v, str) else at(v) for k, v in node.items()}
        return [at(v) for v in node] if isinstance(node, list) else node

    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    result = mw.merge(at(recipe)).save(out, threads=1)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    return {name: ref.read() for name, ref in mw.open(out).items()}, config, result.notes


def piece(*sources: tuple[str, int, int], **more: Any) -> dict[str, Any]:
    return {"sources": [{"model": model, "layer_range": [a, b]} for model, a, b in sources]} | more


def read(root: Path, model: str, name: str) -> Any:
    return mw.open(root / model)[name].read()


def test_an_end_that_is_tied_brings_its_head(root: Path, tmp_path: Path) -> None:
    slices = [piece(("llama-a", 0, 2)), piece(("tied-b", 2, 4))]
    out, config, _ = merged(root, tmp_path, merge_method="passthrough", slices=slices)
    np.testing.assert_array_equal(out["lm_head.weight"], read(root, "tied-b", "model.embed_tokens.weight"))
    np.testing.assert_array_equal(out["model.embed_tokens.weight"], read(root, "llama-a", "model.embed_tokens.weight"))
    assert config["tie_word_embeddings"] is False


def test_an_end_with_a_head_unties_the_donor(root: Path, tmp_path: Path) -> None:
    slices = [piece(("tied-a", 0, 2)), piece(("llama-b", 2, 4))]
    out, config, _ = merged(root, tmp_path, merge_method="passthrough", slices=slices)
    np.testing.assert_array_equal(out["lm_head.weight"], read(root, "llama-b", "lm_head.weight"))
    assert config["tie_word_embeddings"] is False


def test_all_sources_of_the_last_slice_meet_in_the_head(root: Path, tmp_path: Path) -> None:
    slices = [piece(("llama-a", 0, 2)), piece(("llama-a", 2, 4), ("llama-b", 0, 2))]
    out, _, _ = merged(root, tmp_path, merge_method="linear", slices=slices, parameters={"weight": 1})
    mean = (read(root, "llama-a", "lm_head.weight") + read(root, "llama-b", "lm_head.weight")) / 2
    np.testing.assert_allclose(out["lm_head.weight"], mean, rtol=1e-6)


def test_a_tied_head_is_written_once(root: Path, tmp_path: Path) -> None:
    models = [{"model": "twice-a"}, {"model": "tied-b"}]
    out, config, _ = merged(root, tmp_path, merge_method="linear", models=models, parameters={"weight": 1})
    assert "lm_head.weight" not in out
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize("order", [["old-a", "llama-b"], ["llama-b", "old-a"]])
def test_computed_tensors_need_not_be_in_every_model(root: Path, tmp_path: Path, order: list[str]) -> None:
    models = [{"model": model} for model in order]
    settings = {"weight": 0.5, "density": 0.5}
    out, _, _ = merged(root, tmp_path, merge_method="ties", base_model="llama-base", models=models, parameters=settings)
    name = "model.layers.3.self_attn.rotary_emb.inv_freq"
    np.testing.assert_array_equal(out[name], read(root, "old-a", name))


def test_parameters_of_other_methods_pass_with_a_note(root: Path, tmp_path: Path) -> None:
    models = [{"model": "llama-a", "parameters": {"weight": 1}}, {"model": "llama-b"}]
    settings = {"normalize": False, "int8_mask": True}
    _, _, notes = merged(
        root, tmp_path, merge_method="model_stock", base_model="llama-base", models=models, parameters=settings
    )
    for name in ("weight", "normalize", "int8_mask"):
        assert f"{name} has no effect on model_stock." in notes


def test_python_refuses_parameters_of_other_methods(root: Path) -> None:
    with pytest.raises(InputError, match="model_stock has no parameter 'weight'"):
        mw.merge([root / "llama-a", root / "llama-b"], base=root / "llama-base", method="model_stock", weight=1.0)


def test_an_asterisk_in_a_filter_is_a_glob(root: Path, tmp_path: Path) -> None:
    weight = [{"filter": "*.layers.?.mlp.*", "value": 0}, {"value": 1}]
    models = [{"model": "llama-a", "parameters": {"weight": weight}}, {"model": "llama-b"}]
    out, _, _ = merged(root, tmp_path, merge_method="linear", models=models, parameters={"weight": 1})
    name = "model.layers.1.mlp.up_proj.weight"
    np.testing.assert_array_equal(out[name], read(root, "llama-b", name))


def test_tensors_of_no_listed_module_are_copied(root: Path, tmp_path: Path) -> None:
    modules = {"decoder": {"models": [{"model": "t5-a"}, {"model": "t5-b"}]}}
    out, _, _ = merged(root, tmp_path, merge_method="linear", modules=modules, parameters={"weight": 1})
    np.testing.assert_array_equal(out["shared.weight"], read(root, "t5-a", "shared.weight"))
