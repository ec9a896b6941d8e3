"""`mw.convert`: formats, layers, names, parts; bytes kept where nothing asks for others; a killed run goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.cli._app import run
from modelwright.surgery._convert import spans_of

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.model(tmp_path / "a", 1)
    return tmp_path


def test_without_options_every_byte_is_kept(here: Path, said: Said) -> None:
    arrays = tiny.arrays(1, dtype=tiny.bfloat16)
    arrays["model.norm.weight"][0] = np.nan  # a copy asks nothing of its values
    tiny.write(here / "b", arrays, tiny.config())
    code, out, err = said("convert", "b", "-o", "out")
    assert (code, err) == (0, "")
    assert out.startswith("converted into out: ")
    found = tiny.read(here / "out")
    assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())
    assert mw.verify("out", rerun=True).problems == ()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_formats_are_rounded_once(dtype: str, here: Path, said: Said) -> None:
    assert said("convert", "a", "-o", "out", "--dtype", dtype, "--quiet") == (0, "", "")
    wanted = np.dtype(getattr(ml_dtypes, dtype, dtype))
    for name, array in tiny.read(here / "out").items():
        assert array.dtype == wanted
        np.testing.assert_array_equal(array, tiny.arrays(1)[name].astype(wanted))
    assert json.loads(Path("out/config.json").read_text())["torch_dtype"] == dtype


def test_depth_up_scaling(here: Path, said: Said) -> None:
    settings = tiny.config(layer_types=["full", "sliding", "full", "sliding"])
    tiny.write(here / "b", tiny.arrays(1), settings)
    assert said("convert", "b", "-o", "out", "--layers", "0-2,1-3", "--quiet") == (0, "", "")
    found, before = tiny.read(here / "out"), tiny.arrays(1)
    for new, old in enumerate([0, 1, 2, 1, 2, 3]):
        for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm"):
            np.testing.assert_array_equal(
                found[f"model.layers.{new}.{part}.weight"], before[f"model.layers.{old}.{part}.weight"]
            )
    np.testing.assert_array_equal(found["lm_head.weight"], before["lm_head.weight"])
    assert len(found) == 3 + 6 * 3
    config = json.loads(Path("out/config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert config["layer_types"] == ["full", "sliding", "full", "sliding", "full", "sliding"]


def test_layers_dropped_and_turned_around() -> None:
    model = {f"layers.{i}.w": np.full(1, i, np.float32) for i in range(4)}
    for text, expected in (("0,3", [0, 3]), ("3,2,1,0", [3, 2, 1, 0]), (" 1 , 1-1", [1, 1])):
        found = mw.convert(model, layers=text)
        assert [float(found[f"layers.{i}.w"].read()[0]) for i in range(len(found))] == expected


def test_names(here: Path, said: Said) -> None:
    arguments = [
        "--rename",
        "model.*=language_model.model.*",
        "--rename",
        "lm_head.weight=language_model.lm_head.weight",
    ]
    assert said("convert", "a", "-o", "out", *arguments, "--quiet") == (0, "", "")
    found = tiny.read(here / "out")
    assert set(found) == {f"language_model.{name}" for name in tiny.names()}
    np.testing.assert_array_equal(found["language_model.lm_head.weight"], tiny.arrays(1)["lm_head.weight"])


def test_torch_files_become_safetensors(here: Path, said: Said) -> None:
    torch = pytest.importorskip("torch")
    folder = here / "old"
    folder.mkdir()
    arrays = tiny.arrays(3)
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(tiny.config()), encoding="utf-8")
    assert said("convert", "old", "-o", "new", "--quiet") == (0, "", "")
    found = tiny.read(here / "new")
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert not list(Path("new").glob("*.bin"))


def test_shards(here: Path, said: Said) -> None:
    assert said("convert", "a", "-o", "out", "--shard-size", "500B", "--quiet") == (0, "", "")
    table = json.loads(Path("out/model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(table.values())) > 1
    found = tiny.read(here / "out")
    assert all(np.array_equal(found[name], array) for name, array in tiny.arrays(1).items())


def test_it_loads_in_transformers(here: Path, said: Said) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    settings = transformers.LlamaConfig(
        vocab_size=31, hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(settings)
    model.save_pretrained(here / "llama")
    assert said("convert", "llama", "-o", "deep", "--layers", "0-1,1-2", "--dtype", "bfloat16", "--quiet")[0] == 0
    deep, info = transformers.LlamaForCausalLM.from_pretrained(here / "deep", dtype="auto", output_loading_info=True)
    assert not any(info.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (deep.config.num_hidden_layers, deep.dtype) == (4, torch.bfloat16)
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([layers[0], layers[1], layers[1], layers[2]])
    model.config.num_hidden_layers = 4
    tokens = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        expected = model.to(torch.bfloat16)(tokens, use_cache=False).logits
        torch.testing.assert_close(deep(tokens, use_cache=False).logits, expected)


# --- parts ---------------------------------------------------------------------------------------------------------


def parts(here: Path, *, index: bool = False) -> dict[str, Any]:
    """A model of which each of two folders holds half, beside what trainers leave."""
    arrays = tiny.arrays(5)
    halves = [dict(list(arrays.items())[:7]), dict(list(arrays.items())[7:])]
    for rank, half in enumerate(halves):
        folder = tiny.write(here / f"rank{rank}", half, tiny.config() if rank else None)
        (folder / "model.safetensors").rename(folder / f"model-0000{rank + 1}-of-00002.safetensors")
        tiny.write(folder / "state", {"exp_avg": np.ones(3, np.float32)})
        (folder / "state" / "model.safetensors").rename(folder / "optimizer.safetensors")
        (folder / "state").rmdir()
    if index:
        table = {
            name: f"model-0000{rank + 1}-of-00002.safetensors" for rank, half in enumerate(halves) for name in half
        }
        text = json.dumps({"metadata": {}, "weight_map": table})
        (here / "rank0" / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return arrays


@pytest.mark.parametrize("index", [False, True])
def test_parts_in_several_folders(index: bool, here: Path, said: Said) -> None:
    arrays = parts(here, index=index)
    assert said("convert", "rank0", "rank1", "-o", "whole", "--quiet") == (0, "", "")
    found = tiny.read(here / "whole")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert json.loads(Path("whole/config.json").read_text())["num_hidden_layers"] == 4
    assert not mw.verify("whole").problems


def test_parts_in_one_folder_and_as_files(here: Path) -> None:
    arrays = parts(here)
    file = here / "rank1" / "model-00002-of-00002.safetensors"
    found = mw.convert(["rank0", file])
    assert set(found) == set(arrays)
    file.rename(here / "rank0" / file.name)
    assert set(mw.convert("rank0")) == set(arrays)


def test_parts_that_do_not_fit(here: Path, said: Said) -> None:
    parts(here, index=True)
    code, _, err = said("convert", "rank0", "a", "-o", "whole")
    assert code == 2
    assert "repeats tensors of another shard" in err
    Path("rank1/model-00002-of-00002.safetensors").unlink()
    code, _, err = said("convert", "rank0", "rank1", "-o", "whole")
    assert (code, err) == (
        2,
        "error: rank1 holds no weights. Known: .safetensors, .bin, .pt, .pth, .ckpt, .th, .gguf.\n",
    )
    code, _, err = said("convert", "rank0", "nowhere", "-o", "whole")
    assert (code, err) == (
        2, "error: no file or folder is called 'nowhere'. Several inputs are the parts of one model, on this machine.\n",
    )  # fmt: skip
    tiny.write(here / "other", {"x": np.ones(1, np.float32)})
    code, _, err = said("convert", "rank0", "other", "-o", "whole")
    assert code == 2
    assert "but it is nowhere" in err
    assert not Path("whole").exists()


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--layers", "0-9"], "layers: 0-9 goes beyond the last layer of 'model.layers' in a, which is 3. Count from 0; both ends"),
        (["--layers", "a-b"], "layers must be numbers and ranges such as 0-15,8-23, got 'a-b'"),
        (["--layers", "3-1"], "layers: the range 3-1 ends before it starts. Write 1-3; to turn layers around, list them one by one: 3,2."),
        (["--layers", ""], "layers must be numbers and ranges"),
        (["--dtype", "int8"], "dtype must be one of float64, float32, float16, bfloat16, got 'int8'"),
        (["--rename", "x"], "--rename must be PATTERN=NAME, got 'x'"),
        (["--rename", "x=y", "--rename", "x=z"], "the pattern 'x' stands there twice"),
        (["--rename", "nothing.*=y.*"], "rename: 'nothing.*' matches no tensor of a"),
        (["--rename", "model.layers.*=x"], "rename makes one of two tensors of a"),
        (["--shard-size", "0"], "--shard-size must be a size"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused(arguments: list[str], text: str, here: Path, said: Said) -> None:
    before = tiny.listing(here)
    code, _, err = said("convert", "a", "-o", "out", *arguments)
    assert code == 2
    assert text in err
    assert tiny.listing(here) == before


def test_a_recipe_an_adapter_and_nothing_are_no_models(here: Path, said: Said) -> None:
    assert said("convert", "r.yml", "-o", "out") == (
        2, "", "error: 'r.yml' is a recipe, not a model. Run it: mw merge r.yml -o out.\n",
    )  # fmt: skip
    with pytest.raises(mw.InputError, match="is an adapter, not a model"):
        mw.convert({"q.lora_A.weight": np.ones((1, 2), np.float32)})
    with pytest.raises(mw.InputError, match="no model to convert"):
        mw.convert([])
    assert said("convert", "a", "-o", "a")[0] == 2


def test_a_value_that_the_format_cannot_hold_is_refused(here: Path, said: Said) -> None:
    tiny.write(here / "b", tiny.arrays(1) | {"model.norm.weight": np.full(4, 1e6, np.float32)}, tiny.config())
    code, _, err = said("convert", "b", "-o", "out", "--dtype", "float16")
    assert code == 1
    assert re.search(r"'model.norm.weight' reaches 1e\+06, which float16 cannot hold", err)


def test_spans() -> None:
    assert spans_of("0-15,8-23") == [(0, 15), (8, 23)]
    assert spans_of("7") == [(7, 7)]
    with pytest.raises(mw.InputError, match="more than 100,000 layers"):
        spans_of("0-999999")
