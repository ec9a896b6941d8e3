"""Steps: one recipe, several merges; what has not changed is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.engine import _run

HEAD = "lm_head.weight"
RECIPE = """
seed: 5
steps:
- name: soup
  merge_method: linear
  models: [{model: a}, {model: b}]
  parameters: {weight: 1}
- name: sparse
  merge_method: dare_linear
  base_model: base
  models: [{model: soup}]
  parameters: {weight: 1, density: 0.5}
- name: last
  merge_method: task_arithmetic
  base_model: base
  models: [{model: soup}, {model: sparse}]
  parameters: {weight: 0.5}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    Path("recipe.yml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the merges that are really run, in order."""
    found: list[str] = []
    original = _run.run_merge

    def counted(merge, *rest):  # type: ignore[no-untyped-def]
        found.append(merge.plan.method.name)
        return original(merge, *rest)

    monkeypatch.setattr(_run, "run_merge", counted)
    return found


def test_steps_give_what_single_merges_give(here: Path) -> None:
    result = mw.merge("recipe.yml").save("out")
    mw.merge(["a", "b"], method="linear").save("soup")
    sparse = mw.merge(["soup"], base="base", method="dare_linear", density=0.5, seed=5)
    expected = mw.merge([mw.open("soup"), sparse], base="base", method="task_arithmetic", weight=0.5)
    out = tiny.read(here / "out")
    for name, ref in expected.items():
        assert np.array_equal(out[name], ref.read()), name
    assert result.notes[-1].startswith("the results of the steps are kept in 'out.steps'")
    manifest = json.loads((here / "out/manifest.json").read_text())
    assert [entry["model"] for entry in manifest["inputs"]] == ["soup", "sparse", "base"]
    assert manifest["seed"] == 5


def test_lazy_result_is_the_saved_one(here: Path) -> None:
    lazy = mw.merge("recipe.yml")
    arrays = lazy.arrays()
    lazy.save("out")
    for name, array in tiny.read(here / "out").items():
        assert np.array_equal(arrays[name], array)


def test_unchanged_steps_are_not_redone(here: Path, computed: list[str]) -> None:
    mw.merge("recipe.yml").save("out")
    first = tiny.contents(here / "out")
    mw.merge("recipe.yml").save("out", overwrite=True)
    assert computed == ["linear", "dare_linear", "task_arithmetic", "task_arithmetic"]
    assert tiny.contents(here / "out") == first


def test_a_changed_step_and_those_after_it_are_redone(here: Path, computed: list[str]) -> None:
    mw.merge("recipe.yml").save("out")
    computed.clear()
    Path("recipe.yml").write_text(RECIPE.replace("density: 0.5", "density: 0.25"), encoding="utf-8")
    mw.merge("recipe.yml").save("out", overwrite=True)
    assert computed == ["dare_linear", "task_arithmetic"]
    computed.clear()
    Path("recipe.yml").write_text(RECIPE.replace("seed: 5", "seed: 6"), encoding="utf-8")
    mw.merge("recipe.yml").save("out", overwrite=True)
    assert computed[-2:] == ["dare_linear", "task_arithmetic"]


def test_changed_input_bytes_are_noticed(here: Path, computed: list[str]) -> None:
    mw.merge("recipe.yml").save("out")
    before = tiny.read(here / "out")
    computed.clear()
    stat = (here / "b/model.safetensors").stat()
    tiny.model(here / "b", 77)
    import os

    os.utime(here / "b/model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # not by its date
    mw.merge("recipe.yml").save("out", overwrite=True)
    assert computed == ["linear", "dare_linear", "task_arithmetic"]
    assert not np.array_equal(tiny.read(here / "out")[HEAD], before[HEAD])


def test_a_step_killed_half_way_is_done_again(here: Path, computed: list[str]) -> None:
    mw.merge("recipe.yml").save("out")
    (soup,) = (here / "out.steps").glob("soup-*")
    soup.rename(soup.with_name(soup.name + ".partial"))
    (soup.with_name(soup.name + ".partial") / ".modelwright-partial").touch()
    computed.clear()
    mw.merge("recipe.yml").save("out", overwrite=True)
    assert computed == ["linear", "task_arithmetic"]


def test_documents_are_steps(here: Path) -> None:
    text = """
name: soup
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
---
merge_method: linear
models: [{model: soup}, {model: base}]
parameters: {weight: [1, 3]}
"""
    Path("recipe.yml").write_text(text, encoding="utf-8")
    merged = mw.merge("recipe.yml")
    a, b, base = (tiny.arrays(seed)[HEAD] for seed in (1, 2, 0))
    np.testing.assert_allclose(merged[HEAD].read(), ((a + b) / 2 + base) / 2, rtol=1e-5)


def test_steps_do_not_hide_an_output_in_the_way(here: Path) -> None:
    Path("out").mkdir()
    before = tiny.listing(here)
    with pytest.raises(mw.InputError, match=r"^the output 'out' exists\."):
        mw.merge("recipe.yml").save("out")
    assert tiny.listing(here) == before


def test_overrides_reach_every_step_that_has_the_parameter(here: Path) -> None:
    from modelwright.api import Job, registry

    plans = Job.from_recipe("recipe.yml", ["weight=0.25", "density=0.75"], registry()).plans()
    assert [plan.tensors[0].parameters["weight"] for plan in plans] == [(0.25, 0.25), (0.25,), (0.25, 0.25)]
    assert plans[1].tensors[0].parameters["density"] == (0.75,)


@pytest.mark.parametrize("key", ["parameters: {weight: 2}", "chat_template: chatml", "tokenizer_source: base"])
def test_keys_of_one_merge_do_not_stand_beside_steps(key: str, here: Path) -> None:
    Path("recipe.yml").write_text(key + RECIPE, encoding="utf-8")
    name = key.partition(":")[0]
    with pytest.raises(mw.InputError, match=f"beside steps there must be no {name}: they belong to a step"):
        mw.merge("recipe.yml")


def test_an_override_wins_over_what_a_step_says(here: Path) -> None:
    own = RECIPE.replace("merge_method: linear", "merge_method: linear\n  dtype: float16\n  seed: 7")
    Path("recipe.yml").write_text(own, encoding="utf-8")
    from modelwright.api import Job, registry

    plans = Job.from_recipe("recipe.yml", ["dtype=bfloat16", "seed=9"], registry()).plans()
    assert [(plan.recipe.dtype, plan.recipe.seed) for plan in plans] == [("bfloat16", 9)] * 3


def test_an_input_of_an_earlier_step_is_not_overwritten(here: Path) -> None:
    mw.merge(["a", "b"], method="linear").save("mine")
    Path("recipe.yml").write_text(RECIPE.replace("model: a}", "model: mine}"), encoding="utf-8")
    before = tiny.contents(here)
    with pytest.raises(mw.InputError, match=r"^the output 'mine' is or holds one of the inputs\."):
        mw.merge("recipe.yml").save("mine", overwrite=True)
    assert tiny.contents(here) == before


def test_a_changed_plugin_is_noticed(here: Path) -> None:
    code = """
from modelwright.methods import Method, Params
def first(models):
    return models[0] * FACTOR
FIRST = Method("first", "First", "", "", first, Params, base="ignored", models=(1, None), laws=frozenset())
"""
    recipe = RECIPE.replace("merge_method: linear", "merge_method: first").replace("  parameters: {weight: 1}\n", "", 1)
    Path("recipe.yml").write_text(recipe, encoding="utf-8")
    found = []
    for factor in ("1", "2"):
        Path("my.py").write_text(code.replace("FACTOR", factor), encoding="utf-8")
        mw.merge("recipe.yml", plugins=["my.py"]).save("out", overwrite=True)
        found.append(tiny.read(here / "out")[HEAD])
    assert not np.array_equal(*found)


def test_changed_code_of_an_input_is_noticed(here: Path, computed: list[str]) -> None:
    (here / "a/modeling.py").write_text("x = 1", encoding="utf-8")
    mw.merge("recipe.yml").save("out")
    computed.clear()
    (here / "a/modeling.py").write_text("x = 2", encoding="utf-8")
    mw.merge("recipe.yml").save("out", overwrite=True)
    assert computed[0] == "linear"


def test_a_step_has_the_tokenizer_that_its_result_will_have(here: Path) -> None:
    for name in ("a", "b", "base"):
        tiny.tokenizer(here / name, "xyz", template="{{ 'hi' }}")
    text = RECIPE + "  tokenizer_source: base\n  chat_template: auto\n"
    Path("recipe.yml").write_text(text, encoding="utf-8")
    from modelwright.api import Job, registry

    assert all("tokenizer" not in plan.facts for plan in Job.from_recipe("recipe.yml", [], registry()).plans())
    mw.merge("recipe.yml").save("out")
    assert Path("out/tokenizer.json").read_bytes() == Path("base/tokenizer.json").read_bytes()


def test_a_merge_in_memory_hands_its_tokenizer_on(here: Path) -> None:
    tiny.tokenizer(here / "a", "xyz", template="{{ 'hi' }}")
    soup = mw.merge(["a", "b"], method="linear")
    mw.merge([soup, "base"], method="linear").save("out")
    assert Path("out/tokenizer.json").read_bytes() == Path("a/tokenizer.json").read_bytes()
