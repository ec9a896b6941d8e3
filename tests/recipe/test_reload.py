"""Methods on whole matrices, of whole models: what transformers loads is what the array functions give, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.methods import METHODS, Position
from modelwright.tensors import NoiseKey, widen

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

#: What each needs to be told beside the base and its models; one model where it takes only one.
CASES: dict[str, dict[str, Any]] = {
    "tsv": {}, "iso_c": {}, "iso_cts": {}, "wudi": {"steps": 20}, "karcher": {}, "multislerp": {"weight": 1.0}, "pcb": {}, "consensus": {},
    "magmax": {}, "sce": {"select_topk": 0.5}, "ram": {}, "ramplus_tl": {}, "della": {"density": 0.5}, "arcee_fusion": {}, "nearswap": {"t": 0.001},
    "breadcrumbs": {"density": 0.5, "scope": "layer"}, "ties": {"density": 0.5, "scope": "model"}, "lines": {}, "layer_swap": {},
}  # fmt: skip


def network(seed: int, *, tied: bool) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, vocab_size=64,
        max_position_embeddings=32, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two models that were moved a little from it, as transformers writes them."""
    folder = tmp_path_factory.mktemp("llama")
    base = network(0, tied=request.param)
    base.save_pretrained(folder / "base")
    for seed, name in ((1, "a"), (2, "b")):
        tuned = network(0, tied=request.param)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in tuned.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        tuned.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("method", sorted(CASES))
def test_transformers_loads_what_the_array_function_gives(method: str, models: Path, tmp_path: Path) -> None:
    record, parameters = METHODS[method], CASES[method]
    used = ["a", "b"][: record.models[1] or 2]
    base = None if record.base == "ignored" else models / "base"
    merged = mw.merge([models / name for name in used], base=base, method=method, **parameters)
    merged.save(tmp_path / "out")
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    with torch.no_grad():
        assert torch.isfinite(loaded(torch.arange(16)[None]).logits).all()
    state = {name: tensor.numpy() for name, tensor in loaded.state_dict().items()}
    plan = _plan(models, used, base, method, parameters)
    changed = 0
    if record.rounds(plan.tensors[0].parameters):  # what counts over several tensors has tests of its own
        assert all(np.array_equal(state[name], ref.read()) for name, ref in mw.open(tmp_path / "out").items())
        return
    for tensor in plan.tensors:
        arrays = [widen(mw.open(models / name)[tensor.name].read()) for name in used]
        below = None if base is None else widen(mw.open(base)[tensor.name].read())
        key = NoiseKey(0, tensor.name)
        expected = record.run(arrays, below, tensor.parameters, key, {}, tensor.position or Position())
        np.testing.assert_array_max_ulp(state[tensor.name], np.asarray(expected, np.float32), 2)
        changed += not np.array_equal(state[tensor.name], arrays[0])
    assert changed, "the merge is one of its inputs"


def _plan(models: Path, used: list[str], base: Path | None, method: str, parameters: dict[str, Any]) -> Any:
    from modelwright.api import Job, direct_recipe, registry

    known = registry()
    data, objects, _ = direct_recipe([models / name for name in used], method, base, parameters, known)
    return Job.from_recipe(data, [], known, objects).plans()[-1]
