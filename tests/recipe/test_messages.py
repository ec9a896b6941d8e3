"""Every message about a recipe: the exact text with file and line, and nothing written. The texts: messages.yml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import modelwright as mw
import tiny_folders as tiny
from modelwright.cli._app import run

TABLE = Path(__file__).parent / "messages.yml"
MESSAGES: dict[str, dict[str, Any]] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
GOOD = "merge_method: ties\nbase_model: base\nmodels:\n- model: a\n- model: b\nparameters: {weight: 1}\n"


def make_models(folder: Path) -> None:
    """The models that the recipes of messages.yml speak of."""
    for seed, name in enumerate(("base", "a", "b", "c")):
        tiny.model(folder / name, seed)
    tiny.model(folder / "deep", 5, layers=6)
    tiny.write(folder / "prefixed", {f"net.{k}": v for k, v in tiny.arrays(7).items()}, tiny.config())
    whole = tiny.arrays(8)
    gap = {k: v for k, v in whole.items() if k not in {f"model.layers.{i}.mlp.up_proj.weight" for i in (2, 3)}}
    tiny.write(folder / "gap", gap, tiny.config())
    tiny.write(folder / "wide", whole | {"model.layers.2.mlp.up_proj.weight": np.ones((3, 3), "f4")}, tiny.config())
    rows = {name: np.ones((9, 4), "f4") for name in ("lm_head.weight", "model.embed_tokens.weight")}
    tiny.write(folder / "vocab", whole | rows, tiny.config())
    tiny.write(folder / "ints", whole | {"model.norm.weight": np.arange(4)}, tiny.config())
    for name, tokens in (("ta", "xy"), ("tb", "xz"), ("tc", "xy")):
        tiny.tokenizer(tiny.model(folder / name, 3), tokens)
    tiny.model(folder / "tnone", 4)
    tiny.write(folder / "kin", {f"kin.{i}": v for i, v in enumerate(whole.values())}, tiny.config(model_type="kin"))
    tiny.write(folder / "lora", {"base_model.model.lm_head.lora_A.weight": np.ones((2, 4), "f4")}, tiny.config())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("messages")
    make_models(folder)
    return folder


@pytest.fixture
def here(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(models)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return models


def on_stderr(says: list[str]) -> str:
    """What the command line makes of problems."""
    if len(says) == 1:
        return f"error: {says[0]}\n"
    return "".join([f"error: {len(says)} problems, nothing was written\n", *(f"  - {line}\n" for line in says)])


@pytest.mark.parametrize("case", MESSAGES)
def test_message(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yml").write_text(MESSAGES[case]["recipe"], encoding="utf-8")
    before = tiny.listing(here)
    with pytest.raises(mw.InputError) as found:
        mw.merge("recipe.yml")
    says = [str(problem) for problem in found.value.problems]
    assert says == MESSAGES[case]["says"]
    for command in (["check", "recipe.yml"], ["merge", "recipe.yml", "-o", "out"]):
        assert run(command) == 2
        assert capsys.readouterr() == ("", on_stderr(says))
    assert tiny.listing(here) == before


def failure(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command line that is wrong, after which the folder is as before."""
    before = tiny.listing(Path())
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert tiny.listing(Path()) == before
    return err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no recipe file 'recipe.yml'. Check the path."),
        (b"", "the recipe 'recipe.yml' is empty."),
        (
            b"\x93NUMPY\xff\x00",
            "'recipe.yml' is not a text file in UTF-8, so it is no recipe. A recipe is a YAML file.",
        ),
        (b"a: 1\nb: \0", "not a text: it holds the character 0x0. A recipe is a YAML file. [recipe.yml:2]"),
        (b"a: 1\n\tb: 2", "not valid YAML: found character '\\t' that cannot start any token. [recipe.yml:2]"),
        ("folder", "'recipe.yml' is a folder, not a recipe. Give a YAML file, or models with --method."),
    ],
)
def test_files_that_are_no_recipes(
    content: bytes | str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path("recipe.yml").write_bytes(content)
    elif content is not None:
        Path("recipe.yml").mkdir()
    assert failure("check", "recipe.yml", capsys=capsys) == f"error: {message}\n"


PARAMETERS = "count, density, lambda, merge_func, normalize, rescale, scope, sign_method, weight, zero_sign"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("density", "--set needs key=value, got 'density'. Write --set density=0.5."),
        ("=3", "--set needs key=value, got '=3'. Write --set density=0.5."),
        ("density=20", "ties: density must be in [0, 1], got 20. It is a fraction; for 20 % write 0.2. [recipe.yml:6]"),
        (
            "density=0.5,0.4,0.3",
            "--set: density has 3 values for 2 models beside the base. Give one value, or one for each entry of models:.",
        ),
        ("density=[", "not valid YAML: expected the node content, but found '<stream end>'. [--set:1]"),
        ("models.7.model=c", "--set: 'models.7' leads nowhere: there are 2 entries, counted from 0."),
        ("merge_method.x=c", "--set: 'merge_method.x' leads nowhere."),
        (
            "models.0.modle=c",
            "unknown key 'models.0.modle'. Did you mean 'model'? Valid: model, parameters, rename. [recipe.yml:4]",
        ),
    ],
)
def test_overrides_that_are_wrong(setting: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yml").write_text(GOOD, encoding="utf-8")
    assert failure("check", "recipe.yml", "--set", setting, capsys=capsys) == f"error: {message}\n"


def test_override_of_an_unknown_key_lists_parameters_and_keys(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yml").write_text(GOOD, encoding="utf-8")
    message = failure("check", "recipe.yml", "--set", "denisty=0.5", capsys=capsys)
    assert message.startswith("error: --set: unknown key 'denisty'. Did you mean 'density'? Valid: ")
    assert set(PARAMETERS.split(", ")) <= set(message.partition("Valid: ")[2].rstrip(".\n").split(", "))


def test_unreadable_weights_are_told_with_the_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken").mkdir(exist_ok=True)
    Path("broken/model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    Path("recipe.yml").write_text(GOOD.replace("- model: b", "- model: broken"), encoding="utf-8")
    message = failure("check", "recipe.yml", capsys=capsys)
    assert message.startswith("error: broken/model.safetensors: the header claims 8 bytes, the file has 10.")
    assert message.endswith("[recipe.yml:5]\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "linear needs models, and the list is empty."),
        ({"models": 3}, "models must be a list of models, got int. Write [a, b]."),
        ({"models": {"w": np.ones(2)}}, "models must be a list of models, got dict. Write [a, b]."),
        (
            {"models": [{"w": np.ones(2)}], "weight": [1, 2]},
            "linear: weight has 2 values for 1 models beside the base. Give one number, or one for each model.",
        ),
        ({"models": [3]}, "cannot open a int as a checkpoint. Pass a path, a Hub id,"),
        ({"models": [{"w": "x"}]}, "state dict: 'w' is a str, not a tensor."),
        ({"models": [{"w": np.ones(2)}], "wieght": 1}, "linear has no parameter 'wieght'. Did you mean 'weight'?"),
        ({"models": [{"w": np.ones(2)}], "weight": "x"}, "linear: weight must be a finite number, got 'x'."),
        (
            {"models": [{"w": np.ones(2)}], "method": None},
            "merging a list of models needs method=. Valid: arcee_fusion, breadcrumbs,",
        ),
        ({"models": [{"w": np.ones(2)}], "method": "ties"}, "ties needs base_model, the model that the others were"),
        ({"models": "recipe.yml"}, "a recipe says itself what method is. Use overrides=['density=0.5'] to change it."),
        (
            {"models": {"merge_method": "linear", "models": [{"model": {1}}]}, "method": None},
            "'models.0.model' is a set, which a recipe cannot hold. Models in memory go into mw.merge([a, b], method=...).",
        ),
    ],
)
def test_python_calls_that_are_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(mw.InputError) as found:
        mw.merge(**{"method": "linear", **arguments})
    assert str(found.value).startswith(message)


def renew() -> None:
    """Write the messages as they are now."""
    import tempfile

    class Block(str):
        """A text over several lines."""

    yaml.SafeDumper.add_representer(Block, lambda d, v: d.represent_scalar("tag:yaml.org,2002:str", v, style="|"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["HF_HUB_OFFLINE"] = "1"
        make_models(Path())
        for case in MESSAGES.values():
            Path("recipe.yml").write_text(case["recipe"], encoding="utf-8")
            try:
                mw.merge("recipe.yml")
                case["says"] = []
            except mw.InputError as error:
                case["says"] = [str(problem) for problem in error.problems]
            case["recipe"] = Block(case["recipe"])
    head = "".join(line for line in TABLE.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    TABLE.write_text(
        head + yaml.safe_dump(MESSAGES, sort_keys=False, allow_unicode=True, width=10000), encoding="utf-8"
    )


if __name__ == "__main__":
    renew()
