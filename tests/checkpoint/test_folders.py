"""Folders: single and sharded, pipelines, sentence-transformers; and how references are told apart."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_helpers import arrays, entry, folder, raw_safetensors, save_file, write_json

import modelwright.checkpoint as mc
from modelwright.checkpoint import Part
from modelwright.errors import InputError

AB = arrays(0, **{"b.weight": (2, 3), "a.weight": (4,), "c.weight": (1, 1)})
CONFIG = {"model_type": "x"}


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        mc.open(path)
    return str(caught.value)


def same(opened: mc.Checkpoint, tensors: dict[str, np.ndarray]) -> None:
    assert set(opened) == set(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(opened[name].read(), value)


# --- one model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model", "adapter_model", "custom"])
def test_single_and_sharded(tmp_path: Path, stem: str, shards: int) -> None:
    opened = mc.open(folder(tmp_path, AB, CONFIG, shards=shards, stem=stem))
    same(opened, AB)
    assert opened.parts == (Part("", stem, CONFIG),)
    assert (opened.config, opened.path, opened.label, opened.notes) == (CONFIG, tmp_path, str(tmp_path), ())
    assert list(opened) == list(mc.open(tmp_path))


def test_the_order_is_that_of_shards_and_bytes(tmp_path: Path) -> None:
    folder(tmp_path, {f"t{i}": np.zeros(1, np.float32) for i in (3, 1, 2, 0)}, shards=2)
    assert list(mc.open(tmp_path)) == ["t2", "t3", "t0", "t1"]  # the library sorts within a file


def test_no_config(tmp_path: Path) -> None:
    assert mc.open(folder(tmp_path, AB)).config is None


def test_bare_file(tmp_path: Path) -> None:
    save_file(AB, tmp_path / "any.safetensors", metadata={"format": "pt"})
    opened = mc.open(str(tmp_path / "any.safetensors"), label="it")
    same(opened, AB)
    assert (opened.label, opened.path, opened.metadata) == ("it", tmp_path / "any.safetensors", {"format": "pt"})


def test_safetensors_win_over_bin(tmp_path: Path) -> None:
    folder(tmp_path, AB)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    (tmp_path / "consolidated.safetensors").write_bytes(b"never opened")
    (tmp_path / "model.fp16.safetensors").write_bytes(b"never opened")
    same(mc.open(tmp_path), AB)


def test_a_single_file_wins_over_an_index(tmp_path: Path) -> None:
    folder(tmp_path, arrays(9, old=(1,), older=(1,)), shards=2)
    folder(tmp_path, AB)
    opened = mc.open(tmp_path)
    same(opened, AB)
    index = tmp_path / "model.safetensors.index.json"
    assert opened.notes == (f"{index} is left out, because model.safetensors is there",)


def test_the_usual_index_wins_over_variants(tmp_path: Path) -> None:
    folder(tmp_path, arrays(9, old=(1,), older=(1,)), shards=2, stem="diffusion_pytorch_model.fp16")
    folder(tmp_path, AB, shards=2, stem="diffusion_pytorch_model")
    same(mc.open(tmp_path), AB)


# --- what is refused -----------------------------------------------------------------------------------------------


def test_no_weights(tmp_path: Path) -> None:
    mend = "A model folder has *.safetensors, *.bin or *.gguf files."
    assert refused(tmp_path) == f"{tmp_path} holds no weights; it has: none. {mend}"
    write_json(tmp_path / "config.json", CONFIG)
    write_json(tmp_path / "sub" / "config.json", CONFIG)
    (tmp_path / "x.onnx").touch()
    assert refused(tmp_path) == f"{tmp_path} holds no weights; it has: sub/, config.json, x.onnx. {mend}"


def test_several_files_without_index(tmp_path: Path) -> None:
    for i in (1, 2):
        save_file(AB, tmp_path / f"model-0000{i}-of-00002.safetensors")
    assert refused(tmp_path) == (
        f"{tmp_path} has several weight files and no index: model-00001-of-00002.safetensors, "
        "model-00002-of-00002.safetensors. Name the file itself, or add the index.json that came with the shards."
    )


def test_several_indices(tmp_path: Path) -> None:
    for stem in ("one", "two"):
        folder(tmp_path, AB, shards=2, stem=stem)
    assert refused(tmp_path) == (
        f"{tmp_path} has several indices: one.safetensors.index.json, two.safetensors.index.json. "
        "Move all but one, with its shards, elsewhere."
    )


def test_missing_shard(tmp_path: Path) -> None:
    folder(tmp_path, AB, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    assert refused(tmp_path) == (
        f"{tmp_path / 'model.safetensors.index.json'} names shards that are missing: model-00002-of-00003.safetensors, "
        "model-00003-of-00003.safetensors. Copy or download them again."
    )


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "a\\b.safetensors", "..\\x"])
def test_index_that_points_outside(tmp_path: Path, name: str) -> None:
    save_file(AB, tmp_path / "x.safetensors")
    index = write_json(tmp_path / "m" / "model.safetensors.index.json", {"weight_map": {"a": name}})
    assert refused(tmp_path / "m") == (
        f"{index} points to '{name}', outside its folder. Shards lie beside their index."
    )


def test_index_that_points_to_folders(tmp_path: Path) -> None:
    for name in ("..", ".", "sub"):
        write_json(tmp_path / "m" / "model.safetensors.index.json", {"weight_map": {"a": name}})
        (tmp_path / "m" / "sub").mkdir(exist_ok=True)
        assert re.search("points to|names shards that are missing", refused(tmp_path / "m"))


@pytest.mark.parametrize("value", [{}, {"weight_map": {}}, {"weight_map": [1]}, {"weight_map": {"a": 3}}])
def test_index_without_map(tmp_path: Path, value: Any) -> None:
    index = write_json(tmp_path / "model.safetensors.index.json", value)
    assert refused(tmp_path) == (f"{index} has no weight_map from tensors to files. Copy or download the index again.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must hold a JSON object, got list."),
        ("{", "is not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))."),
        ("[" * 100_000, "is not valid JSON (it is nested more than 100 levels deep)."),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "is not valid JSON (it is nested more than 100 levels deep)."),
        (
            '{"a": ' + "9" * 5000 + "}",
            "is not valid JSON (Exceeds the limit (4300 digits) for integer string conversion",
        ),
        ("\ufeff{}", "is not valid JSON (Unexpected UTF-8 BOM"),
    ],
)
def test_json_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    folder(tmp_path, AB)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    assert refused(tmp_path).startswith(f"{tmp_path / 'config.json'} {message}")


def test_config_that_is_no_utf8(tmp_path: Path) -> None:
    folder(tmp_path, AB)
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    assert "is not valid JSON ('utf-8' codec can't decode" in refused(tmp_path)


def test_index_of_another_version(tmp_path: Path) -> None:
    folder(tmp_path, AB, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    table: dict[str, str] = (mc.read_json(index) or {})["weight_map"]
    one, two = sorted(set(table.values()))
    mend = "The shards are of another version than the index; download all again."
    write_json(index, {"weight_map": {**table, "b.weight": two}})
    assert refused(tmp_path) == (f"{tmp_path}: the index says that 'b.weight' is in {two}, but it is in {one}. {mend}")
    write_json(index, {"weight_map": {**table, "d": one, "e": one}})
    assert (
        refused(tmp_path) == f"{tmp_path}: the index says that 'd' is in {one}, but it is nowhere (and 1 more). {mend}"
    )
    write_json(index, {"weight_map": {name: file for name, file in table.items() if name != "c.weight"}})
    opened = mc.open(tmp_path)
    same(opened, AB)
    assert opened.notes == (f"{tmp_path}: the index does not list these tensors; they are read: c.weight",)


def test_repeated_tensors(tmp_path: Path) -> None:
    folder(tmp_path, AB, shards=2)
    file = tmp_path / "model-00002-of-00002.safetensors"
    save_file(AB, file)
    assert refused(tmp_path) == (f"{file} repeats tensors of another shard: b.weight, c.weight. Download it again.")


def test_damage_names_the_shard(tmp_path: Path) -> None:
    folder(tmp_path, AB, shards=2)
    file = tmp_path / "model-00002-of-00002.safetensors"
    file.write_bytes(raw_safetensors({"a.weight": entry("F4", [2], 0, 1)}, b"x"))
    assert refused(tmp_path).startswith(f"{file}: 'a.weight' has the sub-byte format F4.")


def test_not_a_weight_file(tmp_path: Path) -> None:
    path = write_json(tmp_path / "config.json", {})
    assert refused(path) == (
        f"{path} is not a weight file that can be read. Known: .safetensors, .bin, .pt, .pth, .ckpt, .th, .gguf."
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path: Path) -> None:
    folder(tmp_path, AB)
    (tmp_path / "model.safetensors").chmod(0)
    assert refused(tmp_path) == f"{tmp_path / 'model.safetensors'} cannot be read (Permission denied)."


# --- several models ------------------------------------------------------------------------------------------------


def pipeline(root: Path) -> Path:
    """A diffusers folder, by hand."""
    write_json(
        root / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.30.0",
            "requires_safety_checker": True,
            "vae": ["diffusers", "AutoencoderKL"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "safety_checker": [None, None],
        },
    )
    folder(
        root / "unet",
        arrays(1, **{"down_blocks.0.w": (2, 2), "up_blocks.0.w": (2,)}),
        {"u": 1},
        shards=2,
        stem="diffusion_pytorch_model",
    )
    folder(root / "vae", arrays(2, **{"decoder.w": (2, 2)}), {"v": 1}, stem="diffusion_pytorch_model")
    folder(root / "text_encoder", arrays(3, **{"text_model.w": (2, 2)}), {"t": 1})
    write_json(root / "tokenizer" / "tokenizer_config.json", {})
    write_json(root / "scheduler" / "scheduler_config.json", {})
    return root


def test_diffusers_folder(tmp_path: Path) -> None:
    opened = mc.open(pipeline(tmp_path))
    assert opened.parts == (
        Part("text_encoder/", "model", {"t": 1}),
        Part("unet/", "diffusion_pytorch_model", {"u": 1}),
        Part("vae/", "diffusion_pytorch_model", {"v": 1}),
    )
    assert list(opened) == ["text_encoder/text_model.w", "unet/down_blocks.0.w", "unet/up_blocks.0.w", "vae/decoder.w"]
    np.testing.assert_array_equal(opened["vae/decoder.w"].read(), arrays(2, w=(2, 2))["w"])
    assert opened.notes == ()


def test_what_is_not_in_the_pipeline_is_left_out_aloud(tmp_path: Path) -> None:
    pipeline(tmp_path)
    (tmp_path / "v1-5-pruned.safetensors").touch()
    folder(tmp_path / "safety_checker", arrays(1, a=(1,)), {})
    opened = mc.open(tmp_path)
    assert [part.prefix for part in opened.parts] == ["text_encoder/", "unet/", "vae/"]
    assert opened.notes == (
        f"{tmp_path} is no part of the pipeline; left out: v1-5-pruned.safetensors",
        f"{tmp_path / 'safety_checker'} is no part of the pipeline; left out: model.safetensors",
    )


def test_pipeline_with_a_part_missing(tmp_path: Path) -> None:
    pipeline(tmp_path)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert refused(tmp_path) == f"{tmp_path / 'vae'} has a config.json but no weights. Download it again."


def test_errors_name_the_part(tmp_path: Path) -> None:
    pipeline(tmp_path)
    folder(tmp_path / "vae", {"x.qweight": np.zeros(2, np.int32)}, {}, stem="diffusion_pytorch_model")
    assert refused(tmp_path).startswith(
        f"{tmp_path}/vae cannot be merged: it holds packed quantised weights ('x.qweight')"
    )


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/../../b"])
def test_parts_outside_the_folder(tmp_path: Path, name: str) -> None:
    index = write_json(tmp_path / "m" / "model_index.json", {name: ["a", "b"]})
    assert refused(tmp_path / "m") == (f"{index} points to '{name}', outside its folder. Parts lie below their index.")
    index.unlink()
    index = write_json(tmp_path / "m" / "modules.json", [{"path": name}])
    assert refused(tmp_path / "m") == (f"{index} points to '{name}', outside its folder. Parts lie below their index.")


def sentence_transformer(root: Path, *, nested: bool) -> Path:
    folder(
        root / ("0_Transformer" if nested else ""), arrays(1, **{"embeddings.word_embeddings.weight": (3, 2)}), {"t": 1}
    )
    write_json(root / "1_Pooling" / "config.json", {"word_embedding_dimension": 2})
    folder(root / "2_Dense", arrays(2, **{"linear.weight": (2, 2), "linear.bias": (2,)}), {"in_features": 2})
    write_json(
        root / "modules.json",
        [
            {
                "idx": 0,
                "name": "0",
                "path": "0_Transformer" if nested else "",
                "type": "sentence_transformers.models.Transformer",
            },
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
            {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
    )
    return root


@pytest.mark.parametrize("nested", [True, False])
def test_sentence_transformers_folder(tmp_path: Path, nested: bool) -> None:
    opened = mc.open(sentence_transformer(tmp_path, nested=nested))
    first = "0_Transformer/" if nested else ""
    assert opened.parts == (Part(first, "model", {"t": 1}), Part("2_Dense/", "model", {"in_features": 2}))
    assert set(opened) == {f"{first}embeddings.word_embeddings.weight", "2_Dense/linear.weight", "2_Dense/linear.bias"}
    assert opened.notes == ()


@pytest.mark.parametrize("value", [{}, [1], [{"idx": 0}], [{"path": 3}]])
def test_modules_json_that_is_no_list(tmp_path: Path, value: Any) -> None:
    path = write_json(tmp_path / "modules.json", value)
    assert refused(tmp_path) == (f"{path} must hold a list of modules, each with its path. Copy or download it again.")


# --- references ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a+b", "a@b", "a+b@c", "org/a@main", "with space", "ünï", "~tilde", "a" * 200])
def test_an_existing_path_wins_before_parsing(tmp_path: Path, name: str) -> None:
    folder(tmp_path / name, AB)
    same(mc.open(name, folder=tmp_path), AB)
    same(mc.open(tmp_path / name), AB)


def test_the_folder_wins_over_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "recipe" / "m", {"recipe": np.ones(1)})
    folder(tmp_path / "work" / "m", {"work": np.ones(1)})
    folder(tmp_path / "work" / "n", {"work": np.ones(1)})
    monkeypatch.chdir(tmp_path / "work")
    opened = mc.open("m", folder=tmp_path / "recipe")
    assert (list(opened), opened.notes) == (["recipe"], ())
    assert list(mc.open("m")) == ["work"]
    opened = mc.open("n", folder=tmp_path / "recipe")
    assert opened.notes == (f"'n' is not in {tmp_path / 'recipe'}; taken from the working directory",)
    opened = mc.open(str(tmp_path / "work" / "n"), folder=tmp_path / "recipe")
    assert opened.notes == ()


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder(tmp_path / "m", AB)
    same(mc.open("~/m", folder=tmp_path / "elsewhere"), AB)


@pytest.mark.parametrize("text", ["x" * 5000, "nul\x00byte", "line\nbreak", "", ".../x"])
def test_texts_that_are_no_reference(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"no file, folder or Hub model is called"):
        mc.open(text, folder=tmp_path)


def test_a_checkpoint_is_itself() -> None:
    opened = mc.open({"a": np.ones(1)})
    assert mc.open(opened) is opened


@pytest.mark.parametrize("value", [None, 3, [np.ones(2)], b"bytes", np.ones(2)])
def test_things_that_are_no_checkpoint(value: Any) -> None:
    message = (
        f"cannot open a {type(value).__name__} as a checkpoint. Pass a path, a Hub id, an nn.Module, a state dict or a"
    )
    with pytest.raises(InputError, match=message):
        mc.open(value)
