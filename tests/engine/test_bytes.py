"""The same recipe gives the same bytes; what is written can be read by others, checked, and made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import yaml
from hypothesis import given, settings, strategies as st
from safetensors import safe_open

import modelwright as mw
import tiny_folders as tiny
from modelwright.api import Job, registry
from modelwright.methods.merging import breadcrumbs, ties

HEAD = "lm_head.weight"
RECIPES = {
    "linear": "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: [0.2, 0.8]}\n",
    "dare_ties": "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, density: 0.4}\nseed: 9\n",
    "whole-model ties": "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, density: 0.3, scope: model, zero_sign: majority}\n",
    "slices": "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 3]}]\n- sources: [{model: b, layer_range: [1, 4]}]\n",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    for seed, name in enumerate(("base", "a", "b", "c")):
        tiny.model(folder / name, seed)
        tiny.tokenizer(folder / name, "xyz")
    return folder


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "a", "b", "c"):
        (tmp_path / name).symlink_to(models / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merge(text: str, out: str, **options: Any) -> dict[str, Any]:
    Path("recipe.yml").write_text(text, encoding="utf-8")
    mw.merge("recipe.yml").save(out, **options)
    return tiny.contents(Path(out))


@pytest.mark.parametrize("case", RECIPES)
def test_same_bytes_for_any_number_of_threads(case: str, here: Path) -> None:
    first = merge(RECIPES[case], "one", threads=1)
    assert merge(RECIPES[case], "two", threads=2) == first
    assert merge(RECIPES[case], "eight", threads=8) == first
    assert merge(RECIPES[case], "again", threads=8) == first
    assert not any(name.startswith(".") for name in first)


def test_same_bytes_for_any_hash_seed(here: Path) -> None:
    Path("recipe.yml").write_text(RECIPES["dare_ties"], encoding="utf-8")
    results = []
    for seed in ("0", "1", "12345"):
        command = [Path(sys.executable).with_name("mw"), "merge", "recipe.yml", "-o", f"out{seed}", "--quiet"]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
        results.append(tiny.contents(here / f"out{seed}"))
    assert results[0] == results[1] == results[2]


EVERY = """
import sys, modelwright as mw
for name, method in sorted(mw.METHODS.items()):
    most = method.models[1] or 3
    base = None if method.base == "ignored" else "base"
    models = ["a", "b", "c"][:most]
    given = {"t": 0.3} if "t" in method.fields else {}
    merged = mw.merge(models, base=base, method=name, seed=5, **given)
    merged.save(f"{sys.argv[1]}/{name}", threads=int(sys.argv[2]), kernels=sys.argv[3])
"""


def test_every_method_gives_the_same_bytes_in_any_process(here: Path) -> None:
    """With its defaults, for any hash seed, any number of threads, with and without kernels."""
    found = []
    for out, threads, kernels, seed in (
        ("x", "1", "never", "0"),
        ("y", "2", "always", "1"),
        ("z", "8", "always", "12345"),
    ):
        command = [sys.executable, "-c", EVERY, out, threads, kernels]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
        found.append({name: tiny.contents(here / out / name) for name in mw.METHODS})
    assert found[0] == found[1] == found[2]
    assert all({"model.safetensors", "shared/model.safetensors"} & set(contents) for contents in found[0].values())


def test_same_bytes_from_another_working_directory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = merge(RECIPES["linear"], "one")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    mw.merge(here / "recipe.yml").save("two")
    assert tiny.contents(Path("two")) == first


@pytest.mark.parametrize("limit", [1, 100, 300, 10_000])
def test_shards_are_read_back_by_others_and_by_us(limit: int, here: Path) -> None:
    whole = merge(RECIPES["linear"], "whole")
    merge(RECIPES["linear"], "shards", shard_bytes=limit)
    files = sorted(path.name for path in Path("shards").glob("*.safetensors"))
    if limit == 10_000:
        assert tiny.contents(here / "shards") == whole
        return
    index = json.loads(Path("shards/model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == files
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == 260 * 4
    expected, ours = tiny.read(here / "whole"), mw.open("shards")
    assert set(ours) == set(expected) == set(index["weight_map"])
    for name, array in expected.items():
        with safe_open(here / "shards" / index["weight_map"][name], framework="numpy") as file:
            assert np.array_equal(file.get_tensor(name), array)
        assert np.array_equal(ours[name].read(), array)
    for file in files:
        size = sum(4 * expected[name].size for name, place in index["weight_map"].items() if place == file)
        assert size <= limit or sum(place == file for place in index["weight_map"].values()) == 1


def test_a_merge_of_a_sharded_merge(here: Path) -> None:
    merge(RECIPES["linear"], "shards", shard_bytes=300)
    merged = mw.merge(["shards", "a"], method="linear")
    expected = (tiny.read(here / "shards")[HEAD] + tiny.arrays(1)[HEAD]) / 2
    np.testing.assert_allclose(merged[HEAD].read(), expected, rtol=1e-6)


# --- manifest and card ---------------------------------------------------------------------------------------------


def test_manifest_tells_every_file_and_input(here: Path) -> None:
    merge(RECIPES["dare_ties"], "out", shard_bytes=300, threads=2)
    manifest = json.loads(Path("out/manifest.json").read_text())
    on_disk = {path.name for path in Path("out").iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == on_disk
    for name, entry in manifest["files"].items():
        content = Path("out", name).read_bytes()
        chunks = [content[i : i + (4 << 20)] for i in range(0, len(content), 4 << 20)]
        assert entry == {"bytes": len(content), "xxh3_128": [xxhash.xxh3_128_hexdigest(c) for c in chunks]}
    assert manifest["manifest_version"] == 1
    assert manifest["method"] == "dare_ties"
    assert manifest["seed"] == 9
    assert manifest["recipe"] == RECIPES["dare_ties"] == Path("out/recipe.yml").read_text()
    assert manifest["resolved"]["parameters"] == {"weight": 1, "density": 0.4}
    assert manifest["parameters"]["rescale"] is True  # defaults are told too
    assert manifest["donor"] == "base"
    assert [entry["model"] for entry in manifest["inputs"]] == ["a", "b", "base"]
    assert all(entry["tensors_read"] == 15 for entry in manifest["inputs"])
    assert {"modelwright", "numpy", "ml-dtypes"} == set(manifest["made_by"])
    keys = "started seconds threads engine device allow_nonfinite resumes folder host platform python"
    assert set(manifest["run"]) == set(keys.split())
    assert manifest["run"]["threads"] == 2


def test_manifest_hash_of_an_input_follows_its_bytes(here: Path) -> None:
    def digest(model: str) -> str:
        mw.merge([model], method="linear").save("out", overwrite=True)
        return json.loads(Path("out/manifest.json").read_text())["inputs"][0]["xxh3_128"]

    weights = tiny.arrays(1)
    tiny.write(here / "same", weights)
    assert digest("same") == digest("a")
    weights["model.norm.weight"][0] = np.nextafter(weights["model.norm.weight"][0], np.float32(9))
    tiny.write(here / "same", weights)
    assert digest("same") != digest("a")


def front_matter(folder: str) -> dict[str, Any]:
    text = Path(folder, "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_model_card(here: Path) -> None:
    merge(RECIPES["linear"], "out")
    # no base_model: the Hub refuses a card in which it is a path
    assert front_matter("out") == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "modelwright", "linear"],
    }
    text = Path("out/README.md").read_text(encoding="utf-8")
    assert "# Linear (model soup): a merge of 2 checkpoints\n" in text
    assert "All 15 tensors were merged. Configuration and tokenizer come from `a`." in text
    assert f"```yaml\n{RECIPES['linear']}```\n" in text


def test_model_card_names_models_of_the_hub(here: Path) -> None:
    cache = here / "hub/models--owner--name/snapshots/0123"
    cache.parent.mkdir(parents=True)
    cache.symlink_to((here / "a").resolve())
    models = [mw.open(cache, label="owner/name@main"), mw.open("b")]
    mw.merge(models, method="linear").save("out")
    assert front_matter("out")["base_model"] == ["owner/name"]
    assert "owner/name@main, owner/name on the Hub, commit 0123" in Path("out/README.md").read_text(encoding="utf-8")


def test_licences_agree_or_are_listed(here: Path) -> None:
    for name, licence in (("x", "apache-2.0"), ("y", "mit")):
        tiny.model(here / name, 1)
        Path(name, "README.md").write_text(f"---\nlicense: {licence}\n---\n# {name}\n", encoding="utf-8")
    mw.merge(["x", "x"], method="linear").save("one")
    assert front_matter("one")["license"] == "apache-2.0"
    mw.merge(["x", "y"], method="linear").save("two")
    assert front_matter("two")["license"] == "apache-2.0"  # which takes in what mit asks for
    assert "- `x`: apache-2.0\n- `y`: mit\n" in Path("two/README.md").read_text()


# --- whole-model statistics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("count", ["exact", "official"])
@pytest.mark.parametrize("zero_sign", ["positive", "majority"])
def test_whole_model_ties_is_ties_of_the_concatenation(zero_sign: str, count: str, threads: int, here: Path) -> None:
    parameters = {"density": [0.3, 0.15], "weight": [1.0, 0.5], "zero_sign": zero_sign, "count": count}
    merged = mw.merge(["a", "b"], base="base", method="ties", scope="model", **parameters)
    merged.save("out", threads=threads)
    names, out = list(merged), tiny.read(here / "out")

    def joined(arrays: tiny.Arrays) -> np.ndarray[Any, Any]:
        return np.concatenate([arrays[name].reshape(-1) for name in names])

    base, a, b = (joined(tiny.arrays(seed)) for seed in range(3))
    expected = ties([a, b], base=base, scope="tensor", **parameters)
    np.testing.assert_array_equal(joined(out), expected)


def test_whole_model_ties_deals_ties_in_the_order_of_the_output(here: Path) -> None:
    base = {f"layers.{i}.w": np.zeros(4, "f4") for i in range(5)}
    flat = {name: np.ones(4, "f4") for name in base}  # every entry ties with every other
    merged = mw.merge([flat], base=base, method="ties", scope="model", density=0.35).arrays()
    assert [int(merged[f"layers.{i}.w"].sum()) for i in range(5)] == [4, 3, 0, 0, 0]


@pytest.mark.parametrize("kernels", ["never", "always"])
def test_breadcrumbs_of_layers_are_those_of_each_layer_laid_end_to_end(kernels: Any, here: Path) -> None:
    """Outside the layers each tensor is one of its own; layers may have shares of their own."""
    density, gamma = [0.2, 0.4, 0.6, 1.0], 0.1
    parameters = {"density": [{"filter": "layers", "value": density}, {"value": 0.5}], "gamma": gamma, "weight": 1.0}
    recipe = {"merge_method": "breadcrumbs", "base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
    mw.merge({**recipe, "parameters": {**parameters, "scope": "layer"}}).save("out", kernels=kernels)
    out = tiny.read(here / "out")
    models = [tiny.arrays(seed) for seed in range(3)]
    layers = [[name for name in out if f"layers.{i}." in name] for i in range(4)]
    for names, share in (*zip(layers, density, strict=True), *(([n], 0.5) for n in out if "layers." not in n)):
        base, a, b = (np.concatenate([arrays[name].reshape(-1) for name in names]) for arrays in models)
        expected = breadcrumbs([a, b], base=base, density=share, gamma=gamma)
        np.testing.assert_array_equal(np.concatenate([out[name].reshape(-1) for name in names]), expected)


def test_a_layer_has_one_share(here: Path) -> None:
    shares = [{"filter": "mlp", "value": 0.3}, {"value": 0.5}]
    recipe = {"merge_method": "breadcrumbs", "base_model": "base", "models": [{"model": "a"}]}
    with pytest.raises(
        mw.InputError,
        match="breadcrumbs: 'density' must have one value for all tensors, because it is counted over the layer",
    ):
        mw.merge({**recipe, "parameters": {"density": shares, "weight": 1.0, "scope": "layer"}})


# --- accounting ----------------------------------------------------------------------------------------------------


@st.composite
def recipes(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, tiny.Arrays]]:
    """A recipe over models that lack, add and rename tensors, hold whole numbers, or tie their heads."""
    layers = draw(st.integers(1, 3))
    models: dict[str, tiny.Arrays] = {}
    entries: list[dict[str, Any]] = []
    for name in ("base", "m0", "m1", "m2"):
        weights = tiny.arrays(draw(st.integers(0, 3)), layers)
        if draw(st.booleans()):
            weights[HEAD] = weights["model.embed_tokens.weight"]
        for lost in draw(st.lists(st.sampled_from(sorted(weights)), max_size=2, unique=True)):
            del weights[lost]
        if draw(st.booleans()):
            weights["extra.ids"] = np.arange(3)
        if draw(st.booleans()):
            weights[f"extra.{name}.weight"] = np.ones(2, "f4")
        entry: dict[str, Any] = {"model": name}
        if draw(st.booleans()):
            weights = {f"net.{key}": value for key, value in weights.items()}
            entry["rename"] = {"net.*": "*"}
        models[name] = weights
        entries.append(entry)
    method = draw(st.sampled_from(["linear", "ties", "dare_linear", "slerp", "model_stock", "passthrough"]))
    count = {"slerp": 2, "passthrough": 1}.get(method, draw(st.integers(2, 3)))
    chosen = entries[1 : count + 1]
    data: dict[str, Any] = {
        "merge_method": method,
        "models": chosen,
        "missing": "skip",
    }
    data["parameters"] = (
        {"t": 0.5} if method == "slerp" else {} if method in ("model_stock", "passthrough") else {"weight": 1}
    )
    if method in ("ties", "dare_linear", "model_stock", "slerp"):
        data |= {"base_model": "base", "models": [entries[0], *chosen]}
        data["missing"] = draw(st.sampled_from(["skip", "base"]))
        if method == "slerp":
            data["models"] = [entries[0], entries[1]]
    return data, models


@settings(max_examples=150, deadline=None)
@given(recipes())
def test_every_input_tensor_ends_in_one_class(drawn: tuple[dict[str, Any], dict[str, tiny.Arrays]]) -> None:
    data, models = drawn
    objects = {}
    for name, weights in models.items():
        part = replace(mw.open(weights).parts[0], config={"model_type": "llama"})  # ties where the bytes are equal
        objects[name] = mw.Checkpoint(dict(mw.open(weights)), label=name, parts=(part,))
    said = ""
    try:
        (plan,) = Job.from_recipe(data, [], registry(), objects).plans()
    except mw.InputError as error:
        said = str(error)
    if said:
        assert said.startswith("missing: base needs the tensor in the base, and base lacks")
        return
    used = {model.label for model in plan.models}
    assert used == {entry["model"] for entry in data["models"]}
    for index, model in enumerate(plan.models):
        assert {name for i, name in plan.fates if i == index} == set(models[model.label])
    assert {label: sum(counts.values()) for label, counts in plan.accounting().items()} == {
        label: len(models[label]) for label in used
    }
    written = [tensor.name for tensor in plan.tensors]
    assert len(written) == len(set(written))
    for tensor in plan.tensors:
        assert all(plan.fates[s.model, s.name] != "dropped" for s in tensor.sources)
