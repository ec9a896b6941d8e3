"""The library's front door on everything that is named tensors; a list of models and a recipe are one thing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny

HEAD = "lm_head.weight"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    return tmp_path


def expected() -> np.ndarray[Any, Any]:
    base, a, b = (tiny.arrays(seed)[HEAD] for seed in range(3))
    return base + (a - base) * np.float32(0.5) + (b - base) * np.float32(0.25)


def call(a: Any, b: Any, base: Any) -> mw.Checkpoint:
    return mw.merge([a, b], base=base, method="task_arithmetic", weight=[0.5, 0.25])


def test_paths_texts_and_checkpoints(here: Path) -> None:
    for ways in (("a", "b", "base"), (Path("a"), here / "b", Path("base")), map(mw.open, ("a", "b", "base"))):
        np.testing.assert_allclose(call(*ways)[HEAD].read(), expected(), rtol=1e-5)


def test_a_base_that_the_method_has_no_use_for(here: Path) -> None:
    merged = mw.merge(["a", "b"], base="base", method="linear")
    np.testing.assert_array_equal(merged[HEAD].read(), mw.merge(["a", "b"], method="linear")[HEAD].read())
    result = merged.save("out")
    assert "linear has no base: 'base' is not used" in result.notes
    with_base = mw.merge(["a", "b"], base="a", method="linear")  # listed, it is one of the models
    np.testing.assert_array_equal(with_base[HEAD].read(), merged[HEAD].read())


def test_dicts_of_arrays_stay_as_they_were() -> None:
    given = [tiny.arrays(seed) for seed in (1, 2, 0)]
    copies = [{name: array.copy() for name, array in entry.items()} for entry in given]
    for entry in given:
        for array in entry.values():
            array.flags.writeable = False
    merged = call(*given)
    np.testing.assert_allclose(merged[HEAD].read(), expected(), rtol=1e-5)
    assert merged.arrays().keys() == given[0].keys()
    for entry, copy in zip(given, copies, strict=True):
        assert all(np.array_equal(entry[name], copy[name]) for name in entry)


def test_a_generator_of_models(here: Path) -> None:
    merged = mw.merge((mw.open(name) for name in ("a", "b")), base="base", method="task_arithmetic", weight=(0.5, 0.25))
    np.testing.assert_allclose(merged[HEAD].read(), expected(), rtol=1e-5)


def test_merges_of_merges_without_files() -> None:
    a, b = tiny.arrays(1), tiny.arrays(2)
    soup = mw.merge([a, b], method="linear")
    again = mw.merge([soup, a], method="linear", weight=np.array([2.0, 1.0]))
    np.testing.assert_allclose(again[HEAD].read(), ((a[HEAD] + b[HEAD]) + a[HEAD]) / 3, rtol=1e-5)


def test_one_object_twice_and_as_the_base() -> None:
    a, base = tiny.arrays(1), tiny.arrays(0)
    merged = mw.merge([a, a, base], base=base, method="task_arithmetic", weight=0.5)
    np.testing.assert_allclose(merged[HEAD].read(), a[HEAD], rtol=1e-4, atol=1e-6)


def test_numbers_of_numpy_and_lambda(here: Path) -> None:
    merged = mw.merge(["a"], base="base", method="ties", density=np.float32(0.5), lambda_=np.float64(0.0))
    assert np.array_equal(merged[HEAD].read(), tiny.arrays(0)[HEAD])


@pytest.mark.parametrize("name", ["linear", "ties", "dare_ties"])
def test_a_list_and_a_recipe_give_the_same_weights(name: str, here: Path) -> None:
    base = None if name == "linear" else "base"
    settings = {} if name == "linear" else {"density": [0.5, 0.25]}
    mw.merge(["a", "b"], base=base, method=name, weight=[1, 2], seed=3, **settings).save("direct")
    text = f"merge_method: {name}\nseed: 3\nmodels:\n- model: a\n  parameters: {{weight: 1, density: 0.5}}\n- model: b\n  parameters: {{weight: 2, density: 0.25}}\n"
    text = text.replace(", density: 0.5", "").replace(", density: 0.25", "") if name == "linear" else text
    Path("recipe.yml").write_text(text + (f"base_model: {base}\n" if base else ""), encoding="utf-8")
    mw.merge("recipe.yml").save("recipe")
    direct, recipe = tiny.contents(here / "direct"), tiny.contents(here / "recipe")
    assert direct["model.safetensors"] == recipe["model.safetensors"]
    assert direct["config.json"] == recipe["config.json"]
    # what was saved tells how to make it again, to the byte
    mw.merge("direct/recipe.yml").save("again")
    assert tiny.contents(here / "again")["model.safetensors"] == direct["model.safetensors"]


def test_a_recipe_as_a_dict_gives_the_bytes_of_the_file(here: Path) -> None:
    data = {
        "merge_method": "ties",
        "base_model": Path("base"),
        "models": ({"model": "a"}, {"model": "b", "parameters": {"density": np.float64(0.5)}}),
        "parameters": {"weight": np.int64(1)},
    }
    mw.merge(data).save("dict")
    Path("recipe.yml").write_bytes(Path("dict/recipe.yml").read_bytes())
    mw.merge("recipe.yml").save("file")
    assert tiny.contents(here / "dict") == tiny.contents(here / "file")


def test_the_result_is_a_checkpoint(here: Path) -> None:
    merged = call("a", "b", "base")
    assert repr(merged) == "Checkpoint('merge', 15 tensors, 260 elements)"
    assert merged[HEAD].shape == (6, 4)
    with pytest.raises(KeyError, match="has no tensor 'lm_head'"):
        merged["lm_head"]


@pytest.mark.torch
def test_modules_and_state_dicts_of_torch(here: Path) -> None:
    torch = pytest.importorskip("torch")

    def net(seed: int) -> Any:
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))

    a, b = net(0), net(1)
    merged = mw.merge([a, b.state_dict()], method="linear").state_dict()
    for name, tensor in a.state_dict().items():
        wanted = (tensor + b.state_dict()[name]) / 2 if tensor.is_floating_point() else tensor
        torch.testing.assert_close(merged[name], wanted)
    a.load_state_dict(merged)
    half = mw.merge([a.to(torch.bfloat16), b.to(torch.bfloat16)], method="linear").state_dict()
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16, torch.int64}


@pytest.mark.torch
def test_a_tied_head_goes_back_into_its_module() -> None:
    torch = pytest.importorskip("torch")

    class Tied(torch.nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            torch.manual_seed(seed)
            self.config = SimpleNamespace(to_dict=lambda: {"tie_word_embeddings": True})
            self.embed_tokens = torch.nn.Embedding(6, 4)
            self.lm_head = torch.nn.Linear(4, 6, bias=False)
            self.lm_head.weight = self.embed_tokens.weight

    a, b = Tied(1), Tied(2)
    wanted = (a.lm_head.weight + b.lm_head.weight).detach() / 2
    merged = mw.merge([a, b], method="linear")
    assert list(merged) == ["embed_tokens.weight"]
    a.load_state_dict(merged.state_dict())
    torch.testing.assert_close(a.lm_head.weight.detach(), wanted)


def test_dtypes_may_be_objects(here: Path) -> None:
    for dtype in (np.float16, np.dtype("float16"), "float16"):
        assert mw.merge(["a", "b"], method="linear", dtype=dtype)[HEAD].dtype.name == "float16"
