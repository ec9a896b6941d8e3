"""`mw convert --quantise`: float8 as other loaders read it, and the programs of others, by stand-ins on PATH."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.cli._app import run

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


def llama(folder: Path, *, tied: bool = False) -> Path:
    """A tiny Llama of transformers, with matrices of one and of several blocks."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=256, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=64,
        tie_word_embeddings=tied,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def loaded(folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    return model, {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}


# --- float8 --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_blocks(tmp_path: Path, said: Said, tied: bool) -> None:
    import torch

    pytest.importorskip("accelerate")
    folder = llama(tmp_path / "a", tied=tied)
    assert said("convert", str(folder), "-o", str(tmp_path / "small"), "--quantise", "fp8-block", "--quiet")[0] == 0
    model, state = loaded(tmp_path / "small")
    ours = mw.open(tmp_path / "small")
    for name, ref in ours.items():
        wide = ref.read().astype(np.float32)
        np.testing.assert_allclose(state[name], wide, rtol=2**-8, atol=0, err_msg=name)  # it de-quantises to bfloat16
    _, before = loaded(folder)
    assert not np.array_equal(state["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])
    tokens = torch.arange(12)[None]
    assert torch.isfinite(model(tokens).logits).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["fp8-channel", "fp8-tensor"])
def test_transformers_loads_rows_and_matrices_by_compressed_tensors(tmp_path: Path, said: Said, form: str) -> None:
    pytest.importorskip("compressed_tensors")
    folder = llama(tmp_path / "a")
    assert said("convert", str(folder), "-o", str(tmp_path / "small"), "--quantise", form, "--quiet")[0] == 0
    from transformers import CompressedTensorsConfig

    _, state = loaded(tmp_path / "small", quantization_config=CompressedTensorsConfig(dequantize=True))
    for name, ref in mw.open(tmp_path / "small").items():
        np.testing.assert_allclose(state[name], ref.read().astype(np.float32), rtol=2**-7, atol=0, err_msg=name)


def test_errors_are_in_the_manifest_and_told(here: Path, said: Said) -> None:
    code, out, err = said("convert", "a", "-o", "small", "--quantise", "fp8-block")
    assert (code, err) == (0, "")
    assert "note: 8 matrices (73.8% of the parameters) as float8 e4m3 with a scale for each block of 128 x 128" in out
    assert "note: relative error of rounding to float8: " in out
    manifest = json.loads(Path("small/manifest.json").read_text())
    assert len(manifest["rounding"]) == 8
    name, error = next(iter(manifest["rounding"].items()))
    back, whole = mw.open("small")[name].read(), tiny.arrays(1)[name]
    assert error == pytest.approx(np.linalg.norm(back - whole) / np.linalg.norm(whole), rel=1e-5)
    assert json.loads(Path("small/config.json").read_text())["torch_dtype"] == "float32"
    assert mw.verify("small", rerun=True).problems == ()


def test_it_goes_with_the_other_options_and_can_be_undone(here: Path, said: Said) -> None:
    arguments = ("--layers", "0-2,1-3", "--dtype", "bfloat16", "--quantise", "fp8-channel", "--keep", "*.q_proj.weight")
    assert said("convert", "a", "-o", "small", *arguments, "--quiet") == (0, "", "")
    found = mw.open("small")
    assert found.layout.stacks == {"model.layers": 6}
    assert found["model.layers.5.self_attn.q_proj.weight"].read().dtype == tiny.bfloat16
    assert mw.verify("small", rerun=True).problems == ()
    assert said("convert", "small", "-o", "wide", "--dtype", "float32", "--quiet") == (0, "", "")
    config = json.loads(Path("wide/config.json").read_text())
    assert (config["num_hidden_layers"], config["torch_dtype"]) == (6, "float32")
    assert "quantization_config" not in config


def test_the_same_bytes_after_a_kill(here: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelwright.checkpoint._quantise import Float8

    assert said("convert", "a", "-o", "whole", "--quantise", "fp8-tensor", "--quiet") == (0, "", "")
    calls: list[str] = []
    weight = Float8.weight

    def failing(self: Float8) -> Any:
        calls.append("")
        if len(calls) == 5:
            raise KeyboardInterrupt
        return weight(self)

    monkeypatch.setattr(Float8, "weight", failing)
    assert said("convert", "a", "-o", "again", "--quantise", "fp8-tensor", "--quiet", "--threads", "1")[0] == 130
    monkeypatch.setattr(Float8, "weight", weight)
    assert said("convert", "a", "-o", "again", "--quantise", "fp8-tensor", "--quiet")[0] == 0
    assert tiny.contents(here / "again") == tiny.contents(here / "whole")


def test_wrong_forms_are_refused(here: Path, said: Said) -> None:
    before = tiny.listing(here)
    for arguments, text in (
        (("--quantise", "fp8"), "quantise must be one of fp8-block, fp8-channel, fp8-tensor, got 'fp8'."),
        (("--keep", "*"), "keep and float8 say how to quantise, and quantise is not given."),
        (("--quantise", "fp8-block", "--float8", "e2m5"), "float8 must be e4m3 or e5m2, got 'e2m5'."),
        (
            ("--dtype", "fp8"),
            "dtype must be one of float64, float32, float16, bfloat16, got 'fp8'. To quantise: fp8-block",
        ),
        (("--quantise", "gguf:"), "quantise 'gguf:' lacks a type."),
    ):
        code, _, err = said("convert", "a", "-o", "out", *arguments)
        assert (code, err[:7]) == (2, "error: ")
        assert text in err
    assert tiny.listing(here) == before


# --- llama.cpp -----------------------------------------------------------------------------------------------------


def program(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\nimport sys, pathlib, json\n{text}")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


QUANTIZE = """
source, out, kind, *threads = sys.argv[1:]
pathlib.Path(out).write_bytes(f"{kind} {threads} of ".encode() + pathlib.Path(source).read_bytes())
"""
CONVERT = """
folder, _, out, _, kind = sys.argv[1:]
layers = json.loads(pathlib.Path(folder, "config.json").read_text())["num_hidden_layers"]
pathlib.Path(out).write_bytes(f"{kind} {layers} layers".encode())
"""


def test_gguf_by_the_programs_of_llama_cpp(here: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    program(here / "bin", "llama-quantize", QUANTIZE, monkeypatch)
    program(here / "bin", "convert_hf_to_gguf.py", CONVERT, monkeypatch)
    code, out, err = said("convert", "a", "-o", "a.gguf", "--quantise", "gguf:Q4_K_M", "--threads", "3")
    assert (code, err) == (0, "")
    assert Path("a.gguf").read_text() == "Q4_K_M ['3'] of auto 4 layers"
    assert "note: written by llama-quantize as Q4_K_M" in out
    assert "converted into a.gguf: 29 B" in out
    assert said("convert", "a", "-o", "b.gguf", "--quantise", "gguf:Q8_0", "--layers", "0-1", "--quiet") == (0, "", "")
    assert Path("b.gguf").read_text() == "Q8_0 [] of auto 2 layers"
    code, out, _ = said("convert", "a", "-o", "a.gguf", "--quantise", "gguf:Q4_K_M", "--overwrite", "--json")
    assert (code, json.loads(out)["bytes_written"]) == (0, Path("a.gguf").stat().st_size)
    assert not [name for name in tiny.listing(here) if name.startswith(".")]


def test_what_is_not_installed_is_named(here: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here / "bin"))
    code, _, err = said("convert", "a", "-o", "a.gguf", "--quantise", "gguf:Q4_K_M")
    assert (code, err.split(". ")[0]) == (
        2,
        "error: no program 'llama-quantize' on PATH, which writes the types of GGUF files",
    )
    program(here / "bin", "llama-quantize", QUANTIZE, monkeypatch)
    code, _, err = said("convert", "a", "-o", "a.gguf", "--quantise", "gguf:Q4_K_M")
    assert "no program 'convert_hf_to_gguf.py' on PATH, which makes a GGUF file of a folder. Install llama.cpp" in err
    monkeypatch.setitem(sys.modules, "llmcompressor", None)
    code, _, err = said("convert", "a", "-o", "packed", "--quantise", "llm-compressor:W4A16")
    assert (code, err.split(". ")[0]) == (2, "error: the package llm-compressor, which writes W4A16, is not installed")
    assert not Path("packed").exists()


def test_a_program_that_fails_leaves_nothing(here: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    program(here / "bin", "convert_hf_to_gguf.py", CONVERT, monkeypatch)
    program(here / "bin", "llama-quantize", "sys.exit('invalid ftype')", monkeypatch)
    before = tiny.listing(here)
    code, _, err = said("convert", "a", "-o", "a.gguf", "--quantise", "gguf:Q9")
    assert (code, err) == (1, "error: llama-quantize failed with exit code 1: invalid ftype\n")
    program(here / "bin", "llama-quantize", "", monkeypatch)
    assert "and wrote no file" in said("convert", "a", "-o", "a.gguf", "--quantise", "gguf:Q9")[2]
    assert tiny.listing(here) == before


def test_outputs_of_programs_are_kept_from_harm(here: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    program(here / "bin", "llama-quantize", QUANTIZE, monkeypatch)
    (here / "mine").mkdir()
    Path("there.gguf").write_text("mine")
    for out, text in (("x", "must end in .gguf"), ("there.gguf", "exists"), ("a.gguf", "on PATH")):
        code, _, err = said("convert", "a", "-o", out, "--quantise", "gguf:Q8_0")
        assert (code, text in err) == (2, True)
    monkeypatch.setitem(sys.modules, "llmcompressor", None)
    for out, text in (("mine", "is a folder without a model"), ("a", "is or holds one of the inputs")):
        code, _, err = said("convert", "a", "-o", out, "--quantise", "llm-compressor:W4A16", "--overwrite")
        assert (code, text in err) == (2, True)
    assert Path("there.gguf").read_text() == "mine"


# --- llm-compressor ------------------------------------------------------------------------------------------------


def test_llm_compressor_is_called_without_data(here: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    compressor, quantization = ModuleType("llmcompressor"), ModuleType("llmcompressor.modifiers.quantization")

    def oneshot(*, model: str, recipe: dict[str, Any], output_dir: str) -> None:
        if recipe["scheme"] == "W1":
            raise KeyError("W1")
        Path(output_dir).mkdir()
        (Path(output_dir) / "config.json").write_text(json.dumps({"of": Path(model).name, **recipe}))

    compressor.oneshot = oneshot  # type: ignore[attr-defined]
    quantization.QuantizationModifier = dict  # type: ignore[attr-defined]
    for name, module in (
        ("llmcompressor", compressor),
        ("llmcompressor.modifiers", ModuleType("m")),
        (quantization.__name__, quantization),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    code, out, err = said("convert", "a", "-o", "packed", "--quantise", "llm-compressor:W4A16")
    assert (code, err) == (0, "")
    assert "note: written by llm-compressor as W4A16, without calibration data" in out
    written = json.loads(Path("packed/config.json").read_text())
    assert written == {"of": "a", "targets": "Linear", "scheme": "W4A16", "ignore": ["lm_head"]}
    code, _, err = said("convert", "a", "-o", "other", "--quantise", "llm-compressor:W1")
    assert (code, err) == (1, "error: llm-compressor failed: KeyError: 'W1'\n")
    assert not Path("other").exists()
