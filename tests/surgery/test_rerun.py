"""`mw verify --rerun` of what is computed from several folders: deltas, what they are applied to, conversions, steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    rng = np.random.default_rng(0)
    wide = {"layers.0.w": rng.standard_normal((60, 80)).astype(np.float32)}
    tiny.write(tmp_path / "wide", wide)
    tiny.write(tmp_path / "tuned", {"layers.0.w": wide["layers.0.w"] + rng.standard_normal((60, 1)).astype(np.float32)})
    for i, part in enumerate(("part0", "part1")):
        names = list(tiny.arrays(1))[i::2]
        tiny.write(tmp_path / part, {name: tiny.arrays(1)[name] for name in names}, tiny.config())
    return tmp_path


COMMANDS = {
    "extract": ("extract", "a", "--base", "base"),
    "extract a rank": ("extract", "tuned", "--base", "wide", "--rank", "2"),
    "extract a target": ("extract", "tuned", "--base", "wide", "--rank", "error:0.1"),
    "extract 8 bits": ("extract", "tuned", "--base", "wide", "--int8"),
    "convert parts": ("convert", "part0", "part1", "--dtype", "bfloat16"),
    "convert layers": ("convert", "a", "--layers", "0-1,1-3", "--rename", "model.*=body.*"),
    "convert to float8": ("convert", "a", "--quantise", "fp8-block", "--layers", "0-1"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_commands_make_can_be_made_again(
    name: str, here: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(*COMMANDS[name], "-o", "out", "--quiet") == (0, "", "")
    assert (
        f"Its model is what `mw {COMMANDS[name][0]}` makes of " in Path("out/README.md").read_text()
        or name == "convert layers"
    )
    code, out, err = said("verify", "out", "--rerun")
    assert (code, err) == (0, "")
    assert "and the same comes out again" in out
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")  # relative paths start where they did then
    assert said("verify", "../out", "--rerun", "--quiet") == (0, "", "")


def test_deltas_that_are_applied(here: Path, said: Said) -> None:
    assert said("extract", "a", "--base", "base", "-o", "delta", "--quiet")[0] == 0
    assert said("apply", "base", "delta", "-o", "again", "--quiet")[0] == 0
    assert said("verify", "again", "--rerun", "--quiet") == (0, "", "")
    tiny.model(here / "base", 7)
    code, _, err = said("verify", "again", "--rerun")
    assert (code, "delta was not made from base" in err) == (2, True)


def test_another_input_is_told(here: Path, said: Said) -> None:
    assert said("extract", "a", "--base", "base", "-o", "delta", "--quiet")[0] == 0
    tiny.model(here / "a", 5)
    code, _, err = said("verify", "delta", "--rerun")
    assert code == 3
    assert "the input 'a minus base' is not what it was when the output was made" in err
    with np.errstate(all="ignore"):
        (here / "a" / "model.safetensors").unlink()
    assert said("verify", "delta", "--rerun")[0] == 2
    assert said("verify", "delta", "--quiet") == (0, "", "")


def test_steps_of_several_folders(here: Path, said: Said) -> None:
    Path("recipe.yml").write_text(
        "steps:\n"
        "  - {name: half, merge_method: linear, models: [{model: a}, {model: b}], parameters: {weight: 1}}\n"
        "  - {name: whole, merge_method: slerp, base_model: base, models: [{model: base}, {model: half}], parameters: {t: 0.5}}\n"
    )
    assert said("merge", "recipe.yml", "-o", "out", "--quiet") == (0, "", "")
    assert said("verify", "out", "--rerun", "--quiet") == (0, "", "")
    for folder in Path("out.steps").iterdir():
        assert said("verify", str(folder), "--rerun", "--quiet") == (0, "", "")
    tiny.model(here / "b", 8)
    code, _, err = said("verify", "out", "--rerun")
    assert (code, "'half' is not what it was" in err) == (3, True)


def test_manifests_of_strangers(here: Path, said: Said) -> None:
    assert said("extract", "a", "--base", "base", "-o", "delta", "--quiet")[0] == 0
    path = here / "delta" / "manifest.json"
    manifest = json.loads(path.read_text())
    for origin in (
        [],
        {"command": "erase"},
        {"command": "extract", "tuned": 3, "base": "base"},
        {"command": "extract", "tuned": "a", "base": "base", "rank": [1]},
        {"command": "convert", "models": [1]},
        {"command": "convert", "models": "a", "layers": 3},
        {"command": "convert", "models": "a", "rename": {"a": 1}},
    ):
        path.write_text(json.dumps(manifest | {"origin": origin}))
        code, _, err = said("verify", "delta", "--rerun")
        assert (code, err) == (
            2,
            "error: what the manifest says of how the model was made is damaged. Make it again.\n",
        )


def test_models_in_memory_cannot_be_made_again(here: Path, said: Said) -> None:
    mw.extract(tiny.arrays(1), base="base").save("delta")
    code, _, err = said("verify", "delta", "--rerun")
    assert code == 2
    assert "state dict minus base" in err
