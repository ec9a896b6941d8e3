"""`mw.inspect`: counts, ties, vocabulary, adapters, lineage, and the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.cli._app import run

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    monkeypatch.setenv("COLUMNS", "140")

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
    return tmp_path


def lora(folder: Path, **config: Any) -> dict[str, Any]:
    """An adapter of rank 2 on two modules; its factors by module and side."""
    rng = np.random.default_rng(0)
    factors: dict[str, Any] = {}
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.3.mlp.up_proj"):
        rows = 8 if "mlp" in module else 4
        factors[module, "A"], factors[module, "B"] = rng.standard_normal((2, 4)), rng.standard_normal((rows, 2))
    named = {f"base_model.model.{m}.lora_{s}.weight": v.astype(np.float32) for (m, s), v in factors.items()}
    tiny.write(folder, named)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["up_proj", "q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return factors


def test_a_model_is_counted(here: Path) -> None:
    tiny.tokenizer(here / "a", "abcde")
    (here / "a" / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    found = mw.inspect("a")
    arrays = tiny.arrays(1)
    assert (found.model, found.what, found.architectures, found.licence) == (
        "a", "model", ("LlamaForCausalLM",), "apache-2.0",
    )  # fmt: skip
    assert found.parameters == sum(array.size for array in arrays.values())
    assert found.bytes == 4 * found.parameters
    assert dict(found.stacks) == {"model.layers": 4}
    assert {group.name: (group.tensors, group.shapes) for group in found.kinds}["mlp.up_proj"] == (4, ((8, 4),))
    assert sum(group.parameters for group in found.layers) == found.parameters
    assert {k: v for k, v in found.vocabulary.items() if k != "tokenizer"} == {"tokens": 5, "config": 6, "rows": 6}
    assert found.shapes["lm_head.weight"] == ("float32", (6, 4))


def test_a_tied_head_is_named_and_counted_once(here: Path) -> None:
    arrays = tiny.arrays(0)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    tiny.write(here / "tied", arrays, tiny.config(tie_word_embeddings=True))
    found = mw.inspect("tied")
    assert dict(found.tied) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert found.parameters == mw.inspect("base").parameters - 24
    assert found.bytes == mw.inspect("base").bytes


def test_odd_layers_and_integers_are_noted() -> None:
    layers = {f"layers.{i}.{part}": np.ones(2, np.float32) for i in range(4) for part in ("a", "b")[: 1 + (i > 2)]}
    found = mw.inspect(layers | {"steps": np.array([3])})
    assert found.parameters == 10
    assert "1 tensor of integers, which no merge averages: steps (int64)" in found.notes
    assert "the layers of 'layers' do not all hold equally many tensors: 0-2: 1, 3: 2" in found.notes


def test_an_adapter_alone(here: Path) -> None:
    factors = lora(here / "lora", use_rslora=True, base_model_name_or_path="someone/base")
    found = mw.inspect("lora")
    adapter = found.adapter
    assert found.what == "adapter"
    assert adapter is not None
    assert (adapter.kind, adapter.rank, adapter.alpha, adapter.targets, adapter.base) == (
        "LORA", 2, 8, ("q_proj", "up_proj"), "someone/base",
    )  # fmt: skip
    assert adapter.settings == {"use_rslora": True}
    assert [module.layer for module in adapter.modules] == ["model.layers.0", "model.layers.3"]
    for module in adapter.modules:
        assert module.scale == pytest.approx(8 / 2**0.5)
        product = module.scale * factors[module.module, "B"] @ factors[module.module, "A"]
        assert module.norm == pytest.approx(np.linalg.norm(product), rel=1e-5)


def test_a_model_with_its_adapter_is_a_model(here: Path) -> None:
    lora(here / "lora")
    found = mw.inspect("base+lora")
    assert (found.what, found.adapter) == ("model", None)
    assert any("LoRA of rank 2 added to 2 tensors" in note for note in found.notes)


# --- lineage -------------------------------------------------------------------------------------------------------


def test_the_lineage_of_a_merge_of_merges(here: Path) -> None:
    mw.merge(["a", "b"], base="base", method="task_arithmetic", lambda_=0.4).save("first")
    (here / "b" / "README.md").write_text("---\nbase_model: someone/base\n---\n", encoding="utf-8")
    Path("recipe.yml").write_text(
        "merge_method: linear\nmodels: [{model: first}, {model: b}]\nparameters: {weight: 0.5}\n"
    )
    mw.merge("recipe.yml").save("second")
    tree = mw.inspect("second").lineage
    assert (tree.how, [parent.model for parent in tree.parents]) == ("linear", ["first", "b"])
    first, b = tree.parents
    assert (first.how, [parent.model for parent in first.parents]) == ("task_arithmetic", ["a", "b", "base"])
    assert first.parameters is not None
    assert first.parameters["lambda"] == 0.4
    assert (b.how, b.parents[0].model) == ("stated", "someone/base")
    assert all(len(parent.hash) == 32 for parent in (first, b, *first.parents))
    lines = list(tree.lines())
    assert lines[0].startswith("second  linear (")
    assert lines[1].startswith("├─ first  task_arithmetic (")
    assert lines[2].startswith("│  ├─ a")
    assert lines[-1] == "   └─ someone/base"


def test_parents_that_are_gone_are_told_by_the_manifests(here: Path) -> None:
    (here / "a" / "README.md").write_text("---\nlicense: mit\nbase_model: someone/base\n---\n", encoding="utf-8")
    mw.merge(["a", "b"], method="linear").save("first")
    mw.merge(["first", "b"], method="linear").save("second")
    shutil.rmtree("first")
    shutil.rmtree("a")
    first, b = mw.inspect("second").lineage.parents
    assert (first.how, [parent.model for parent in first.parents], b.parents) == ("linear", ["a", "b"], ())
    a = first.parents[0]
    assert (a.licence, a.how, [parent.model for parent in a.parents]) == ("mit", "stated", ["someone/base"])


def test_a_lineage_that_bites_its_tail(here: Path) -> None:
    mw.merge(["a", "b"], method="linear").save("merged")
    manifest = json.loads(Path("merged/manifest.json").read_text(encoding="utf-8"))
    manifest["inputs"][0]["model"] = "merged"
    Path("merged/manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    first = mw.inspect("merged").lineage.parents[0]
    assert (first.note, first.parents) == ("already above", ())


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"made_by": 3}', '{"made_by": {"modelwright": 1}, "inputs": 4, "run": []}']
)
def test_a_strange_manifest_is_no_lineage(here: Path, text: str) -> None:
    Path("a/manifest.json").write_text(text, encoding="utf-8")
    assert mw.inspect("a").lineage.parents == ()


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_shows_a_merge(here: Path, said: Said) -> None:
    mw.merge(["a", "b"], method="linear").save("merged")
    code, out, err = said("inspect", "merged")
    assert (code, err) == (0, "")
    for text in (
        "made by modelwright",
        "LlamaForCausalLM",
        "4 in model.layers",
        "lineage",
        "├─ a",
        "└─ b",
        "8 x 4",
        "not stated",
    ):
        assert text in out, text
    code, out, _ = said("inspect", "merged", "--tensors")
    assert "model.layers.3.mlp.up_proj.weight" in out


def test_the_command_shows_an_adapter(here: Path, said: Said) -> None:
    lora(here / "lora")
    code, out, _ = said("inspect", "lora")
    assert code == 0
    for text in ("an adapter", "alpha         8", "targets       q_proj, up_proj", "model.layers.3"):
        assert text in out, text


def test_json(here: Path, said: Said) -> None:
    code, out, err = said("inspect", "base", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert (data["version"], data["ok"], data["tensors"]) == (1, True, 15)
    assert data["shapes"]["model.norm.weight"] == {"dtype": "float32", "shape": [4]}
    assert data["lineage"] == {
        "model": "base",
        "how": "",
        "parameters": None,
        "hash": "",
        "licence": "",
        "parents": [],
        "note": "",
    }


def test_wrong_arguments(here: Path, said: Said) -> None:
    Path("recipe.yml").write_text("merge_method: linear\n")
    assert said("inspect", "recipe.yml") == (
        2, "", "error: 'recipe.yml' is a recipe, not a model. mw check shows what a recipe would make.\n",
    )  # fmt: skip
    code, _, err = said("inspect", "nowhere")
    assert (code, err.split(".")[0]) == (2, "error: no file, folder or Hub model is called 'nowhere'")
