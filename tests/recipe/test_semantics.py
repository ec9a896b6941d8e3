"""What recipes mean: whose parameter wins, which tensor goes where, what happens to what is missing, tied or whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.api import Job, registry
from modelwright.recipe import Plan

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    return tmp_path


def plan(text: str, *sets: str) -> Plan:
    """The plan of a recipe's text."""
    Path("recipe.yml").write_text(text, encoding="utf-8")
    return Job.from_recipe("recipe.yml", sets, registry()).plans()[-1]


def values(text: str, parameter: str = "weight", *sets: str) -> dict[str, Any]:
    """What one parameter comes to for each tensor."""
    return {tensor.name: tensor.parameters[parameter] for tensor in plan(text, *sets).tensors}


def layer(i: int, part: str = "mlp.up_proj") -> str:
    return f"model.layers.{i}.{part}.weight"


LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: %s, normalize: false}\n"


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"), [("1e-8", 1e-8), ("1E3", 1e3), ("-2e+1", -20.0), (".5", 0.5), ("1.5e-3", 1.5e-3), ("2", 2.0)]
)
def test_numbers(here: Path, text: str, number: float) -> None:
    assert values(LINEAR % text)[HEAD] == (number, number)


def test_gradient_over_layers(here: Path) -> None:
    found = values(LINEAR % "[0, 1, 4]")
    # t = i / 3 over four layers, two segments; what is outside the layers takes the first value, the head too
    assert [round(found[layer(i)][0], 9) for i in range(4)] == [0, round(2 / 3, 9), 2, 4]
    assert found[EMBEDDING] == found[HEAD] == found["model.norm.weight"] == (0, 0)


def test_gradient_of_one_layer_takes_the_last_value(here: Path) -> None:
    tiny.model(here / "flat", 9, layers=1)
    text = "merge_method: linear\nmodels: [{model: flat}]\nparameters: {weight: [1, 3]}\n"
    assert values(text)[layer(0)] == (3,)


def test_gradient_of_words_is_indexed(here: Path) -> None:
    text = (
        "merge_method: ties\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1, merge_func: [sum, mean]}\n"
    )
    found = values(text, "merge_func")
    assert [found[layer(i)] for i in range(4)] == ["sum", "sum", "sum", "mean"]


def test_filters_first_match_wins_and_none_matches_all(here: Path) -> None:
    found = values(LINEAR % "[{filter: mlp, value: 2}, {filter: layers.1., value: 3}, {value: 5}]")
    assert found[layer(1)] == (2, 2)  # mlp stands first
    assert found[layer(1, "self_attn.q_proj")] == (3, 3)
    assert found[EMBEDDING] == (5, 5)


def test_filters_are_substrings_unless_they_are_globs(here: Path) -> None:
    found = values(
        LINEAR % "[{filter: '*.layers.?.mlp.*', value: 2}, {filter: 'q_proj', value: 3}, {filter: '*', value: 5}]"
    )
    assert (found[layer(3)], found[layer(0, "self_attn.q_proj")], found[HEAD]) == ((2, 2), (3, 3), (5, 5))
    found = values(LINEAR % "[{filter: 'mlp*', value: 2}, {value: 5}]")
    assert found[layer(3)] == (5, 5)  # a glob is of the whole name


def test_layer_conditions(here: Path) -> None:
    found = values(LINEAR % "[{layers: [1, 3], filter: mlp, value: 2}, {layers: [0, 2], value: 3}, {value: 5}]")
    assert [found[layer(i)][0] for i in range(4)] == [3, 2, 2, 5]
    assert [found[layer(i, "self_attn.q_proj")][0] for i in range(4)] == [3, 3, 5, 5]
    assert found[HEAD] == (5, 5)


def test_gradient_inside_a_condition(here: Path) -> None:
    found = values(LINEAR % "[{filter: mlp, value: [0, 3]}, {value: 7}]")
    assert [found[layer(i)][0] for i in range(4)] == [0, 1, 2, 3]
    assert found[HEAD] == (7, 7)


def test_precedence_of_levels(here: Path) -> None:
    text = """
merge_method: linear
modules:
  default:
    slices:
    - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: [{filter: mlp, value: 1}]}}
      - {model: b, layer_range: [0, 2]}
      parameters: {weight: [{filter: q_proj, value: 2}]}
    - sources:
      - {model: a, layer_range: [2, 4]}
      - {model: b, layer_range: [2, 4]}
    parameters: {weight: [{filter: layernorm, value: 3}]}
parameters: {weight: 4}
"""
    found = values(text)
    assert found[layer(0)] == (1, 4)  # source, else recipe
    assert found[layer(0, "self_attn.q_proj")] == (2, 2)  # slice
    assert found[layer(0, "input_layernorm")] == (3, 3)  # module
    assert found[layer(2, "self_attn.q_proj")] == (4, 4)  # recipe


def test_anchors_and_merge_keys(here: Path) -> None:
    text = """
merge_method: ties
base_model: base
models:
- &one
  model: a
  parameters: &p {weight: 0.5, density: 0.25}
- <<: *one
  model: b
- model: b
  parameters:
    <<: *p
    density: 0.75
"""
    found = plan(text).tensors[0].parameters
    assert (found["weight"], found["density"]) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.75))


def test_wrong_value_that_overrides_a_merged_key_is_told_by_its_own_line(here: Path) -> None:
    text = "merge_method: ties\nbase_model: base\nmodels:\n- model: a\n  parameters: &p {weight: 1, density: 1}\n- model: b\n  parameters:\n    <<: *p\n    density: 3\n"
    with pytest.raises(mw.InputError, match=r"density must be .* \[recipe.yml:9\]$"):
        plan(text)


def test_paper_semantics_differ_and_are_recorded(here: Path) -> None:
    text = "merge_method: ties\nbase_model: base\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
    Path("recipe.yml").write_text(text, encoding="utf-8")
    mw.merge("recipe.yml").save("community")
    mw.merge("recipe.yml", semantics="paper").save("paper")
    community, paper = (json.loads(Path(name, "manifest.json").read_text()) for name in ("community", "paper"))
    assert (community["semantics"], paper["semantics"]) == ("community", "paper")
    assert community["parameters"]["density"] == [1.0, 1.0]
    assert paper["parameters"]["density"] == [0.2, 0.2]
    assert paper["parameters"]["scope"] == "model"
    assert tiny.read(here / "paper")[HEAD].tobytes() != tiny.read(here / "community")[HEAD].tobytes()
    assert "paper semantics" in Path("paper/README.md").read_text()


def test_seed_is_recorded_and_changes_random_methods(here: Path) -> None:
    def merged(seed: int) -> np.ndarray[Any, Any]:
        lazy = mw.merge(["a", "b"], base="base", method="dare_linear", density=0.5, seed=seed)
        lazy.save(f"s{seed}", overwrite=True)
        assert json.loads(Path(f"s{seed}/manifest.json").read_text())["seed"] == seed
        assert np.array_equal(lazy[HEAD].read(), tiny.read(here / f"s{seed}")[HEAD])
        return lazy[HEAD].read()

    assert np.array_equal(merged(3), merged(3))
    assert not np.array_equal(merged(3), merged(4))


# --- slices and modules --------------------------------------------------------------------------------------------

STACKED = """
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 3]}]
- sources: [{model: b, layer_range: [1, 3]}]
"""


def test_slices_stack_layers(here: Path) -> None:
    Path("recipe.yml").write_text(STACKED, encoding="utf-8")
    for name in "ab":
        settings = tiny.config(layer_types=[f"{name}{i}" for i in range(4)], other=[1, 2, 3, 4], max_window_layers=4)
        (here / name / "config.json").write_text(json.dumps(settings))
    merged = mw.merge("recipe.yml")
    merged.save("out")
    a, b, out = (tiny.read(here / name) for name in ("a", "b", "out"))
    assert sorted(merged) == sorted(tiny.names(5))
    for i, (source, own) in enumerate([(a, 0), (a, 1), (a, 2), (b, 1), (b, 2)]):
        assert np.array_equal(out[layer(i)], source[layer(own)])
    assert np.array_equal(out[EMBEDDING], a[EMBEDDING])
    assert np.array_equal(out[HEAD], b[HEAD])
    assert np.array_equal(out["model.norm.weight"], b["model.norm.weight"])
    config = json.loads((here / "out/config.json").read_text())
    assert config["num_hidden_layers"] == 5
    assert config["layer_types"] == ["a0", "a1", "a2", "b1", "b2"]
    assert config["other"] == [1, 2, 3, 4]  # no list of layers by its name


def test_override_architecture_is_said_to_have_no_effect(here: Path) -> None:
    text = "merge_method: linear\nmodels:\n- model: {model: {path: a}, override_architecture: MistralForCausalLM}\n"
    found = plan(text + "parameters: {weight: 1}\n")
    assert [model.label for model in found.models] == ["a"]
    assert any(note.startswith("override_architecture has no effect") for note in found.notes)


def test_one_folder_in_two_spellings_is_one_model(here: Path) -> None:
    found = plan(
        "merge_method: ties\nbase_model: ./base\nmodels: [{model: base}, {model: a}]\nparameters: {weight: 1}\n"
    )
    assert found.accounting() == {"base": {"merged": 15}, "a": {"merged": 15}}
    assert all(len(tensor.inputs) == 1 for tensor in found.tensors)


def test_a_tensor_in_too_few_models_is_copied_and_said(here: Path) -> None:
    gapped(here)
    tiny.write(here / "gapped_base", {n: v for n, v in tiny.arrays(0).items() if n != layer(1)}, tiny.config())
    found = plan(TIES.replace("base_model: base", "base_model: gapped_base") % ("a", "skip"))
    said = f"missing: skip: 1 tensor in too few models for task_arithmetic, copied from a: {layer(1)}"
    assert said in found.notes


def test_slices_say_when_a_layer_moves_to_a_place_of_another_kind(here: Path) -> None:
    """A dense first layer, expert layers after it: the configuration tells their kinds by their number."""
    tensors = tiny.arrays(1)
    for i in (1, 2, 3):
        tensors[f"model.layers.{i}.mlp.gate.weight"] = tensors.pop(f"model.layers.{i}.mlp.up_proj.weight")
    tiny.write(here / "moe", tensors, tiny.config(first_k_dense_replace=1))
    stack = "merge_method: passthrough\nslices:\n" + "- sources: [{model: moe, layer_range: [%d, %d]}]\n" * 2
    said = "layers 4 of 'model.layers' hold other tensors than the layers of moe at these places"
    assert any(note.startswith(said) for note in plan(stack % (0, 4, 0, 2)).notes)
    assert not any("hold other tensors" in note for note in plan(stack % (0, 4, 1, 3)).notes)
    tiny.write(here / "listed", tensors, tiny.config(layer_types=["dense", "moe", "moe", "moe"]))
    assert not any("hold other tensors" in n for n in plan(stack.replace("moe,", "listed,") % (0, 4, 0, 2)).notes)


def test_slices_account_for_what_is_left_out(here: Path) -> None:
    accounting = plan(STACKED).accounting()
    assert accounting == {"a": {"copied": 10, "dropped": 5}, "b": {"copied": 8, "dropped": 7}}


def towers(seed: int) -> tiny.Arrays:
    rng = np.random.default_rng(seed)
    found = {f"vision_tower.layers.{i}.fc.weight": rng.normal(size=(3, 3)).astype("f4") for i in range(2)}
    found["multi_modal_projector.weight"] = rng.normal(size=(4, 3)).astype("f4")
    return found | {f"language_model.{name}": array for name, array in tiny.arrays(seed).items()}


def test_modules_merge_each_tower_in_its_own_way(here: Path) -> None:
    for seed, name in enumerate("xy"):
        tiny.write(here / name, towers(seed), {"text_config": {"num_hidden_layers": 4}, "vision_config": {}})
    text = """
merge_method: linear
modules:
  text_decoder:
    slices:
    - sources: [{model: x, layer_range: [0, 2]}, {model: y, layer_range: [2, 4]}]
  vision_tower:
    models: [{model: x}, {model: y, parameters: {weight: 3}}]
parameters: {weight: 1}
"""
    Path("recipe.yml").write_text(text, encoding="utf-8")
    merged = mw.merge("recipe.yml")
    result = merged.save("out")
    x, y, out = towers(0), towers(1), tiny.read(here / "out")
    vision = "vision_tower.layers.1.fc.weight"
    np.testing.assert_allclose(out[vision], (x[vision] + 3 * y[vision]) / 4, rtol=1e-6)
    text0, text2 = f"language_model.{layer(0)}", f"language_model.{layer(2)}"
    np.testing.assert_allclose(out[text0], (x[text0] + y[text2]) / 2, rtol=1e-6)
    assert f"language_model.{layer(2)}" not in out
    assert np.array_equal(out["multi_modal_projector.weight"], x["multi_modal_projector.weight"])
    assert "1 tensors belong to no listed module; they are copied from x" in result.notes
    assert json.loads((here / "out/config.json").read_text())["text_config"]["num_hidden_layers"] == 2


# --- names, missing tensors, ties, formats -------------------------------------------------------------------------


def test_rename_brings_names_together(here: Path) -> None:
    tiny.write(here / "named", {f"net.{k}": v for k, v in tiny.arrays(2).items()}, tiny.config())
    text = 'merge_method: linear\nmodels:\n- {model: a}\n- {model: named, rename: {"net.*": "*"}}\nparameters: {weight: 1}\n'
    found = plan(text)
    assert found.accounting() == {"a": {"merged": 15}, "named": {"renamed": 15}}
    merged = mw.merge("recipe.yml")
    assert list(merged) == list(mw.open("a"))
    assert np.array_equal(merged[HEAD].read(), mw.merge(["a", "b"], method="linear")[HEAD].read())


def gapped(here: Path) -> None:
    whole = tiny.arrays(2)
    tiny.write(here / "gap", {k: v for k, v in whole.items() if k not in (layer(1), HEAD)}, tiny.config())
    tiny.write(here / "more", tiny.arrays(2) | {"extra.weight": np.ones(2, "f4")}, tiny.config())


TIES = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: %s}, {model: a}]\nparameters: {weight: 1}\nmissing: %s\n"


def test_missing_error_is_the_default(here: Path) -> None:
    gapped(here)
    with pytest.raises(mw.InputError, match="gap lacks 2 tensors that a has"):
        plan((TIES % ("gap", "error")).replace("missing: error\n", ""))


def test_missing_base_takes_the_base(here: Path) -> None:
    gapped(here)
    found = plan(TIES % ("gap", "base"))
    assert found.accounting() == {"base": {"base": 2, "merged": 13}, "gap": {"merged": 13}, "a": {"merged": 15}}
    base, a = tiny.arrays(0), tiny.arrays(1)
    merged = mw.merge("recipe.yml")[layer(1)].read()
    np.testing.assert_allclose(merged, base[layer(1)] + (a[layer(1)] - base[layer(1)]), rtol=1e-5)


def test_missing_skip_merges_those_that_have_it(here: Path) -> None:
    gapped(here)
    found = plan(TIES % ("gap", "skip"))
    assert found.accounting() == {"base": {"merged": 15}, "gap": {"merged": 13}, "a": {"merged": 15}}
    inputs = {tensor.name: len(tensor.inputs) for tensor in found.tensors}
    assert (inputs[layer(1)], inputs[HEAD], inputs[layer(0)]) == (1, 1, 2)


def test_missing_skip_copies_what_only_one_model_has(here: Path) -> None:
    gapped(here)
    found = plan(TIES % ("more", "skip"))
    assert found.accounting()["more"] == {"copied": 1, "merged": 15}
    assert "extra.weight" in mw.merge("recipe.yml")


def test_missing_base_for_a_method_without_base(here: Path) -> None:
    gapped(here)
    text = "merge_method: linear\nbase_model: base\nmodels: [{model: gap}, {model: base}]\nparameters: {weight: 1}\nmissing: base\n"
    assert plan(text).accounting() == {"gap": {"merged": 13}, "base": {"base": 2, "merged": 13}}


def tied_model(folder: Path, seed: int, *, stored: bool, tied: bool = True) -> None:
    weights = tiny.arrays(seed)
    if tied:
        weights[HEAD] = weights[EMBEDDING]
    if not stored:
        del weights[HEAD]
    tiny.write(folder, weights, tiny.config(tie_word_embeddings=tied))


@pytest.mark.parametrize("stored", [(False, False), (True, True), (True, False), (False, True)])
def test_tied_everywhere_stays_tied(here: Path, stored: tuple[bool, bool]) -> None:
    for name, is_stored, seed in zip("xy", stored, (5, 6), strict=True):
        tied_model(here / name, seed, stored=is_stored)
    merged = mw.merge(["x", "y"], method="linear")
    assert HEAD not in merged
    merged.save("out")
    assert json.loads((here / "out/config.json").read_text())["tie_word_embeddings"] is True
    accounting = json.loads((here / "out/manifest.json").read_text())["inputs"]
    for entry, is_stored in zip(accounting, stored, strict=True):
        assert entry["tensors"].get("tied-alias", []) == [HEAD] * is_stored


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("first", ["tied", "free"])
def test_mixed_ties_write_a_head_of_its_own(here: Path, stored: bool, first: str) -> None:
    tied_model(here / "tied", 5, stored=stored)
    tied_model(here / "free", 6, stored=True, tied=False)
    other = "free" if first == "tied" else "tied"
    mw.merge([first, other], method="linear").save("out")
    out, tied, free = tiny.read(here / "out"), tiny.arrays(5), tiny.arrays(6)
    np.testing.assert_allclose(out[HEAD], (tied[EMBEDDING] + free[HEAD]) / 2, rtol=1e-6)
    np.testing.assert_allclose(out[EMBEDDING], (tied[EMBEDDING] + free[EMBEDDING]) / 2, rtol=1e-6)
    assert json.loads((here / "out/config.json").read_text())["tie_word_embeddings"] is False


def test_a_head_of_its_own_is_kept_though_the_configuration_would_tie_it(here: Path) -> None:
    for name, seed in (("x", 5), ("y", 6)):
        tiny.write(here / name, tiny.arrays(seed), tiny.config(tie_word_embeddings=True))
    merged = mw.merge(["x", "y"], method="linear")
    np.testing.assert_allclose(merged[HEAD].read(), (tiny.arrays(5)[HEAD] + tiny.arrays(6)[HEAD]) / 2, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_whole_numbers_come_from_the_donor(here: Path, dtype: Any) -> None:
    for name, value in (("base", 0), ("a", 1), ("b", 1)):
        tiny.write(here / name, tiny.arrays(1) | {"ids": np.full(3, value).astype(dtype)}, tiny.config())
    result = mw.merge(["a", "b"], base="base", method="ties").save("out")
    assert tiny.read(here / "out")["ids"].tolist() == [0, 0, 0]
    assert tiny.read(here / "out")["ids"].dtype == dtype
    manifest = json.loads((here / "out/manifest.json").read_text())
    assert manifest["buffers_that_differ"] == ["ids: a differs", "ids: b differs"]
    assert "2 integer buffers differ between the models; the donor's are kept (see manifest.json)" in result.notes
    mw.merge(["a", "b"], method="linear").save("same")
    assert json.loads((here / "same/manifest.json").read_text())["buffers_that_differ"] == []


def test_whole_numbers_come_from_the_base_though_it_is_listed_last(here: Path) -> None:
    for name, value in (("base", 0), ("a", 1)):
        tiny.write(here / name, tiny.arrays(1) | {"ids": np.full(3, value)}, tiny.config())
    text = "merge_method: linear\nbase_model: base\nmodels: [{model: a}, {model: base}]\nparameters: {weight: 1}\n"
    Path("recipe.yml").write_text(text, encoding="utf-8")
    assert mw.merge("recipe.yml")["ids"].read().tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("first", "second", "settings", "expected"),
    [
        ("float32", "float32", {}, "float32"),
        ("bfloat16", "bfloat16", {}, "bfloat16"),
        ("bfloat16", "float16", {}, "float32"),
        ("bfloat16", "float32", {}, "float32"),
        ("float32", "float64", {}, "float64"),
        ("float32", "float32", {"dtype": "bfloat16"}, "bfloat16"),
        ("float32", "float32", {"dtype": "bfloat16", "out_dtype": "float16"}, "float16"),
        ("bfloat16", "bfloat16", {"out_dtype": "float64"}, "float64"),
    ],
)
def test_formats(here: Path, first: str, second: str, settings: dict[str, Any], expected: str) -> None:
    tiny.model(here / "x", 5, dtype=np.dtype(first) if first != "bfloat16" else tiny.bfloat16)
    tiny.model(here / "y", 6, dtype=np.dtype(second) if second != "bfloat16" else tiny.bfloat16)
    merged = mw.merge(["x", "y"], method="linear", **settings)
    assert {ref.dtype.name for ref in merged.values()} == {expected}
    merged.save("out")
    assert json.loads((here / "out/config.json").read_text())["torch_dtype"] == expected
    wide = (mw.open("x")[HEAD].read().astype("f8") + mw.open("y")[HEAD].read().astype("f8")) / 2
    out = mw.open("out")[HEAD].read().astype("f8")
    step = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-23, "float64": 2**-52}[expected]
    np.testing.assert_allclose(out, wide, rtol=2 * max(step, 2**-24), atol=1e-7)


def test_bfloat16_is_rounded_once(here: Path) -> None:
    for name, value in (("x", 1.0), ("y", 1 + 2**-7)):
        tiny.write(here / name, {"w": np.full(3, value).astype(tiny.bfloat16)})
    # 1 + 3 * 2**-9 lies between two bfloat16 numbers; products and sums in bfloat16 would give another one
    merged = mw.merge(["x", "y"], method="linear", weight=[0.625, 0.375])["w"].read()
    assert merged.astype("f4").tolist() == [1.0] * 3
    assert mw.merge(["x", "y"], method="linear", weight=[0.625, 0.375], dtype="float32")["w"].read()[0] == np.float32(
        1 + 0.375 * 2**-7
    )


# --- paths, overrides ----------------------------------------------------------------------------------------------


def test_paths_start_at_the_recipe_then_at_the_working_directory(here: Path) -> None:
    (here / "sub").mkdir()
    tiny.model(here / "sub/a", 7)
    Path("sub/recipe.yml").write_text(LINEAR % "0.5", encoding="utf-8")
    result = mw.merge("sub/recipe.yml").save("out")
    expected = (tiny.arrays(7)[HEAD] + tiny.arrays(2)[HEAD]) / 2
    np.testing.assert_allclose(tiny.read(here / "out")[HEAD], expected, rtol=1e-6)
    assert [note for note in result.notes if "working directory" in note] == [
        "'b' is not in sub; taken from the working directory"
    ]


FORMS = "merge_method: ties\nbase_model: base\nmodels: [{model: a, parameters: {density: 0.1}}, {model: b}]\nparameters: {weight: 1}\n"


@pytest.mark.parametrize(
    ("sets", "parameter", "expected"),
    [
        (["density=0.5"], "density", (0.5, 0.5)),
        (["density=0.5,0.25"], "density", (0.5, 0.25)),
        (["weight=1e-3, 2"], "weight", (1e-3, 2.0)),
        (["models.0.parameters.density=0.75"], "density", (0.75, 1.0)),
        (["models.1.parameters.weight=3"], "weight", (1.0, 3.0)),
        (["parameters.normalize=false"], "normalize", False),
        (["normalize=false"], "normalize", False),
        (["lambda=0.5"], "lambda", 0.5),
        (["density=0.5", "density=0.25"], "density", (0.25, 0.25)),
        (["models.1.model=a"], "density", (0.1, 1.0)),
        (["sign_method=count"], "sign_method", "count"),
        (["density=[{filter: mlp, value: 0.5}, {value: 0.25}]"], "density", (0.25, 0.25)),
    ],
)
def test_overrides(here: Path, sets: list[str], parameter: str, expected: Any) -> None:
    assert values(FORMS, parameter, *sets)[EMBEDDING] == expected


@pytest.mark.parametrize(
    ("setting", "attribute", "expected"),
    [
        ("dtype=bfloat16", "dtype", "bfloat16"),
        ("seed=7", "seed", 7),
        ("semantics=paper", "semantics", "paper"),
        ("missing=skip", "missing", "skip"),
        ("base_model=a", "base_model", "a"),
    ],
)
def test_overrides_of_recipe_keys(here: Path, setting: str, attribute: str, expected: Any) -> None:
    found = plan(FORMS, setting, *(["models.0.model=base"] if setting == "base_model=a" else []))
    assert getattr(found.recipe, attribute) == expected
    assert f"{attribute}: {expected}" in found.recipe_text  # the recorded recipe is the one that ran


# --- tokenizers and templates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["tokenizer_source: union", "tokenizer_source: base", "tokenizer: {source: a}"])
def test_equal_tokenizers_come_together(here: Path, setting: str) -> None:
    for name in ("base", "a", "b"):
        tiny.tokenizer(here / name, "xyz", template=f"{{{{ 'a template of {name}' }}}}")
    text = "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    Path("recipe.yml").write_text(text + setting, encoding="utf-8")
    mw.merge("recipe.yml").save("out")
    donor = "a" if "source: a" in setting else "base"
    assert (here / "out/tokenizer.json").read_bytes() == (here / donor / "tokenizer.json").read_bytes()
    assert (here / "out/tokenizer_config.json").read_bytes() == (here / donor / "tokenizer_config.json").read_bytes()


def test_tokenizers_that_differ_are_noted_and_the_donors_is_copied(here: Path) -> None:
    tiny.tokenizer(here / "a", "xyz")
    tiny.tokenizer(here / "b", "xyw")
    result = mw.merge(["a", "b"], method="linear").save("out")
    assert "the models' tokenizers differ; a's is copied: 1 of 3 numbers stand for other strings in b" in result.notes
    assert (here / "out/tokenizer.json").read_bytes() == (here / "a/tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("auto", "{{ 'often' }}"),
        ("chatml", "<|im_start|>"),
        ("{{ messages[0] }} and some more text", "{{ messages[0] }}"),
    ],
)
def test_chat_templates(here: Path, setting: str, expected: str) -> None:
    for name, template in (("base", "rare"), ("a", "often"), ("b", "often")):
        tiny.tokenizer(here / name, "xyz", template=f"{{{{ '{template}' }}}}")
    data = {"merge_method": "linear", "models": [{"model": m} for m in ("base", "a", "b")], "parameters": {"weight": 1}}
    mw.merge(data | {"chat_template": setting}).save("out")
    assert expected in (here / "out/chat_template.jinja").read_text()
    assert expected in json.loads((here / "out/tokenizer_config.json").read_text())["chat_template"]


# --- parts ---------------------------------------------------------------------------------------------------------


def pipeline(folder: Path, parts: tuple[str, ...], seed: int) -> Path:
    """A folder of several models."""
    rng = np.random.default_rng(seed)
    for part in parts:
        tiny.write(folder / part, {"w": rng.normal(size=4).astype(np.float32)}, {"of": part})
    (folder / "model_index.json").write_text(json.dumps({part: ["diffusers", "Model"] for part in parts}))
    return folder


def test_the_donor_decides_the_parts(here: Path) -> None:
    pipeline(here / "whole", ("unet", "vae"), 1)
    loose = {f"{part}/w": np.ones(4, np.float32) for part in ("unet", "vae")}
    mw.merge([loose], base="whole", method="task_arithmetic").save("out")
    assert mw.open("out")["vae/w"].read().tolist() == [1.0] * 4
    assert Path("out/unet/model.safetensors").is_file()
    mw.merge(["whole"], base=loose, method="task_arithmetic").save("flat")
    assert list(mw.open("flat")) == ["unet/w", "vae/w"]
    assert Path("flat/model.safetensors").is_file()


def test_a_part_that_only_another_model_has(here: Path) -> None:
    pipeline(here / "small", ("unet",), 1)
    pipeline(here / "large", ("unet", "vae"), 2)
    mw.merge(["large"], base="small", method="task_arithmetic", missing="skip").save("out")
    assert np.array_equal(tiny.read(here / "out/vae")["w"], tiny.read(here / "large/vae")["w"])
    assert json.loads(Path("out/vae/config.json").read_text())["of"] == "vae"


def test_a_layer_that_moves_is_no_head_whatever_it_is_called(here: Path) -> None:
    names = [EMBEDDING, *(f"model.layers.{i}.mlp.shared.weight" for i in range(2))]
    tiny.write(here / "m", {name: np.ones((4, 4), np.float32) for name in names}, {"num_hidden_layers": 2})
    slices = "".join(f"- sources: [{{model: m, layer_range: [{a}, {b}]}}]\n" for a, b in ((0, 2), (1, 2)))
    made = plan(f"merge_method: passthrough\nslices:\n{slices}")
    assert made.created == ()
    assert made.parts[0].config == {"num_hidden_layers": 3}


def test_counting_over_the_model_needs_the_same_models_everywhere(here: Path) -> None:
    base = {name: np.zeros(4, np.float32) for name in "xy"}
    one, two = ({name: np.ones(4, np.float32)} for name in "xy")
    with pytest.raises(mw.InputError) as found:
        mw.merge([one, two], base=base, method="ties", density=0.5, scope="model", missing="skip")
    assert str(found.value) == (
        "ties: what is counted over the whole model needs every tensor in every model; x is in model 1, y is in model 2. "
        "Use missing: base, or scope: tensor."
    )
    merged = mw.merge([one, two], base=base, method="ties", density=0.5, scope="model", missing="base")
    assert merged["x"].read().shape == (4,)


# --- classes -------------------------------------------------------------------------------------------------------


def classifier(folder: Path, seed: int, names: list[str]) -> None:
    arrays = {**tiny.arrays(seed), "score.weight": np.full((len(names), 4), seed, np.float32)}
    del arrays[HEAD]
    labels = {str(i): name for i, name in enumerate(names)}
    tiny.write(folder, arrays, tiny.config(architectures=["LlamaForSequenceClassification"], id2label=labels))


def test_classes_in_another_order_are_refused(here: Path) -> None:
    for seed, (name, classes) in enumerate({"x": ["good", "bad"], "y": ["bad", "good"], "z": ["good", "bad"]}.items()):
        classifier(here / name, seed, classes)
    with pytest.raises(mw.InputError) as error:
        mw.merge(["x", "y"], method="linear")
    assert str(error.value).startswith(
        "x and y name the same classes in another order, and 'score.weight' would mix them: class 0 is 'good' in x and 'bad' in y. "
        "Bring the rows of the head and id2label of y into the order of x"
    )
    assert mw.merge(["x", "z"], method="linear")["score.weight"].read().tolist() == [[1.0] * 4] * 2
    recipe = "merge_method: layer_swap\nmodels: [{model: x}, {model: y}]\nparameters: {bottom: 1, top: 1}"
    with pytest.raises(mw.InputError, match="name the same classes in another order"):
        plan(recipe)


def test_other_classes_are_told_and_unnamed_ones_are_not_compared(here: Path) -> None:
    for seed, (name, classes) in enumerate(
        {"x": ["good", "bad"], "y": ["cat", "dog"], "z": ["LABEL_0", "LABEL_1"]}.items()
    ):
        classifier(here / name, seed, classes)
    text = "merge_method: linear\nmodels: [{{model: x}}, {{model: {}}}]\nparameters: {{weight: 1}}"
    said = "'score.weight' is merged of heads for other classes: class 0 is 'good' in x and 'cat' in y"
    assert said in plan(text.format("y")).notes
    assert not any("classes" in note for note in plan(text.format("z")).notes)
