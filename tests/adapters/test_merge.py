"""Merging adapters: laws, oracles, what is refused, and peft's defects."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.adapters.making import adapter, answers, by_hand, factors, loaded, tiny, with_peft

import modelwright as mw
from modelwright.adapters import ADAPTER_METHODS, merge_adapters, open_adapter
from modelwright.adapters._merge import ON_WEIGHTS
from modelwright.errors import InputError
from modelwright.methods import METHODS

RANKS = {"layers.0.q": 2, "layers.1.q": 3}


def delta(source: Any, module: str, tmp: Path | None = None) -> np.ndarray:
    """What an adapter adds to a module, as it is read from its folder."""
    if not isinstance(source, Path):
        source.save(tmp)
        source = tmp
    found = open_adapter(source).modules.get(module)
    return np.zeros((6, 5), np.float32) if found is None else found.delta()


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Adapters that differ in ranks, scales and targets."""
    return [
        adapter(tmp_path / "a", 1, RANKS, 2.0),
        adapter(tmp_path / "b", 2, {"layers.0.q": 1, "layers.1.q": 4, "layers.1.v": 2}, 0.5),
        adapter(tmp_path / "c", 3, {"layers.0.q": 3}, 1.0),
    ]


MODULES = ("layers.0.q", "layers.1.q", "layers.1.v")

# --- laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cat", "linear", "task_arithmetic", "swa"])
def test_one_adapter_at_weight_1_is_itself(three: list[Path], tmp_path: Path, method: str) -> None:
    merged = merge_adapters(three[:1], method=method)
    assert merged.exact
    for module in RANKS:
        np.testing.assert_allclose(
            delta(merged, module, tmp_path / f"o{module}"), delta(three[0], module), rtol=1e-6, atol=1e-6
        )


def test_cat_is_the_sum_exactly(three: list[Path], tmp_path: Path) -> None:
    merged = merge_adapters(three, method="cat", weight=[1.0, -0.5, 2.0], exact=True)
    merged.save(tmp_path / "out")
    for module in MODULES:
        expected = delta(three[0], module) - 0.5 * delta(three[1], module) + 2 * delta(three[2], module)
        np.testing.assert_allclose(delta(tmp_path / "out", module), expected, rtol=1e-5, atol=1e-5)
    assert {module.module: module.rank for module in merged.modules} == {
        "layers.0.q": 5,
        "layers.1.q": 5,
        "layers.1.v": 2,
    }


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("cat", {}),
        ("svd", {"rank": 2}),
        ("linear", {}),
        ("ties", {"density": 0.5}),
        ("knots", {}),
        ("lora_lego", {"k": 3}),
    ],
)
def test_order_does_not_matter(three: list[Path], tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    pytest.importorskip("sklearn")
    there = merge_adapters(three, method=method, **options)
    back = merge_adapters(three[::-1], method=method, **options)
    for module in MODULES:
        one, two = delta(there, module, tmp_path / f"1{module}"), delta(back, module, tmp_path / f"2{module}")
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_lego_with_all_ranks_is_the_concatenation(three: list[Path], tmp_path: Path) -> None:
    lego = merge_adapters(three, method="lora_lego", k=99, output_reweight=False)
    for module in MODULES:
        expected = sum(delta(path, module) for path in three)
        np.testing.assert_allclose(delta(lego, module, tmp_path / module), expected, rtol=1e-4, atol=1e-5)


def test_svd_is_the_nearest_of_its_rank(three: list[Path], tmp_path: Path) -> None:
    merged = merge_adapters(three, method="svd", rank=2)
    for module in merged.modules:
        total = sum(delta(path, module.module).astype(np.float64) for path in three)
        u, s, vt = np.linalg.svd(total)
        nearest = (u[:, :2] * s[:2]) @ vt[:2]
        np.testing.assert_allclose(delta(merged, module.module, tmp_path / module.module), nearest, atol=1e-5)
        assert module.error == pytest.approx(np.sqrt((s[2:] ** 2).sum() / (s**2).sum()), abs=1e-6)
    norms = np.array([module.norm for module in merged.modules])
    errors = np.array([module.error for module in merged.modules])
    assert merged.error == pytest.approx(np.sqrt(((errors * norms) ** 2).sum() / (norms**2).sum()))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_targets_take_the_least_rank_that_meets_them(three: list[Path], share: float) -> None:
    for rank in (f"energy:{share}", f"error:{(1 - share) ** 0.5}"):
        for module in merge_adapters(three, method="svd", rank=rank).modules:
            s = np.linalg.svd(sum(delta(path, module.module).astype(np.float64) for path in three), compute_uv=False)
            kept = np.cumsum(s**2) / np.sum(s**2)
            assert kept[module.rank - 1] >= share - 1e-9
            assert module.rank == 1 or kept[module.rank - 2] < share


@pytest.mark.parametrize(
    "method",
    sorted({name for name in METHODS if METHODS[name].base != "ignored" and METHODS[name].parts is None} - ON_WEIGHTS),
)
def test_task_vector_methods_are_those_of_models(tmp_path: Path, method: str) -> None:
    """The merged adapter on a model is the merge of the models with the adapters in them: so no method is on weights unsaid."""
    record = METHODS[method]
    count = max(record.models[0], min(2, record.models[1] or 2))
    names = [f"model.layers.{i}.q" for i in (0, 1)]
    rng = np.random.default_rng(0)

    def coarse(
        *shape: int,
    ) -> np.ndarray:  # so that every sum is exact, and methods that rank entries see the same ones
        return rng.integers(-16, 17, shape).astype(np.float32) / 8

    paths = [by_hand(tmp_path / f"a{i}", {name: (coarse(6, 2), coarse(2, 5)) for name in names}) for i in range(count)]
    base = {f"{name}.weight": coarse(6, 5) for name in names}
    read = [open_adapter(path).modules for path in paths]
    models = [{f"{name}.weight": base[f"{name}.weight"] + each[name].delta() for name in names} for each in read]
    needed = {
        "lambda_" if n == "lambda" else n: 0.5 for n, f in record.fields.items() if f.required and not f.per_model
    }
    expected = mw.merge(models, base=base, method=method, **needed)
    merged = merge_adapters(paths, method=method, rank=5, **needed)
    for name, weight in base.items():
        module = name.removesuffix(".weight")
        found = delta(merged, module, tmp_path / f"o{module}")
        np.testing.assert_allclose(found, expected[name].read() - weight, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("method", sorted(ON_WEIGHTS - {"passthrough", "layer_swap"}))
def test_methods_on_weights_are_such(method: str) -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((6, 5))
    record = METHODS[method]
    deltas = [rng.standard_normal((6, 5)) for _ in range(record.models[1] or 2)]
    options: dict[str, Any] = {} if record.base == "ignored" else {"base": 0}
    needed = {n: 0.3 for n, f in record.fields.items() if f.required and not f.per_model}
    settled = dict.fromkeys(options, base), {key: np.zeros_like(base) for key in options}
    there = record.function([base + d for d in deltas], **settled[0], **needed) - base
    here = record.function(deltas, **settled[1], **needed)
    assert not np.allclose(there, here, atol=1e-3)


def test_knots_with_addition_is_the_sum(three: list[Path], tmp_path: Path) -> None:
    merged = merge_adapters(three, method="knots", inner="task_arithmetic", weight=[1.0, 2.0, -1.0], **{"lambda": 0.5})
    for module in MODULES:
        expected = 0.5 * (delta(three[0], module) + 2 * delta(three[1], module) - delta(three[2], module))
        np.testing.assert_allclose(delta(merged, module, tmp_path / module), expected, atol=1e-5)


def test_knots_against_its_definition(tmp_path: Path) -> None:
    """With matrices, as the paper has it."""
    from modelwright.methods.merging import ties

    paths = [adapter(tmp_path / name, i, {"q": 3}) for i, name in enumerate("ab")]
    dense = [delta(path, "q").astype(np.float64) for path in paths]
    u, s, vt = np.linalg.svd(np.concatenate(dense, axis=1), full_matrices=False)
    held = s > 1e-5
    parts = np.split(s[held, None] * vt[held], 2, axis=1)
    expected = u[:, held] @ ties(parts, base=np.zeros_like(parts[0]), density=0.4)
    merged = merge_adapters(paths, method="knots", density=0.4)
    np.testing.assert_allclose(delta(merged, "q", tmp_path / "o"), expected, atol=1e-5)
    assert merged.modules[0].rank <= 5
    assert merged.exact


# --- LoRA-LEGO -------------------------------------------------------------------------------------------------------------


def test_lego_of_equal_adapters_is_that_adapter(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a", 1, {"q": 3}, 1.7)
    for count in (1, 3):
        merged = merge_adapters([path] * count, method="lora_lego")
        np.testing.assert_allclose(delta(merged, "q", tmp_path / f"o{count}"), delta(path, "q"), rtol=1e-5, atol=1e-5)


def test_lego_does_not_see_the_order_of_ranks(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    up, down = factors(1, 4)
    other = adapter(tmp_path / "b", 2, {"q": 4})
    order = [2, 0, 3, 1]
    one = by_hand(tmp_path / "a", {"q": (up, down)})
    two = by_hand(tmp_path / "c", {"q": (up[:, order], down[order])})
    there, here = (merge_adapters([path, other], method="lora_lego", k=3) for path in (one, two))
    np.testing.assert_allclose(delta(there, "q", tmp_path / "1"), delta(here, "q", tmp_path / "2"), atol=1e-6)


def test_lego_finds_shared_ranks(tmp_path: Path) -> None:
    """Three adapters of rank 4 with two ranks in common: 8 clusters hold everything once, which neither sum nor mean does."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((2, 56))
    own = rng.standard_normal((3, 2, 56))
    target = np.concatenate([shared, own.reshape(-1, 56)])
    paths = []
    for i in range(3):
        units = np.concatenate([shared * (1 + 0.02 * rng.standard_normal(shared.shape)), own[i]])[
            rng.permutation(4)
        ].astype(np.float32)
        paths.append(by_hand(tmp_path / str(i), {"q": (units[:, 32:].T, units[:, :32])}))
    wanted = target[:, 32:].T @ target[:, :32]
    plain = {"parameter_reweight": "off", "output_reweight": False}

    def off(merged: Any, name: str) -> float:
        merged.save(tmp_path / name)
        return float(
            np.linalg.norm(open_adapter(tmp_path / name).modules["q"].delta() - wanted) / np.linalg.norm(wanted)
        )

    assert off(merge_adapters(paths, method="lora_lego", k=8, **plain), "lego") < 0.05
    assert off(merge_adapters(paths, method="cat"), "cat") > 0.5
    assert off(merge_adapters(paths, method="linear"), "mean") > 0.5


# --- MOS -------------------------------------------------------------------------------------------------------------------


def test_mos_pulls_the_newest(tmp_path: Path) -> None:
    paths = [adapter(tmp_path / str(i), i, {"q": 2}) for i in range(3)]
    merged = merge_adapters(paths, method="mos", momentum=0.25)
    merged.save(tmp_path / "out")
    pieces = [open_adapter(path).modules["q"].pieces for path in (*paths, tmp_path / "out")]
    for name in ("lora_A", "lora_B"):
        one, two, new, made = (each[name].read() for each in pieces)
        np.testing.assert_allclose(made, 0.75 * new + 0.25 * (one + two) / 2, rtol=1e-6)
    still = merge_adapters(paths, method="mos", momentum=0.0)
    still.save(tmp_path / "still")
    np.testing.assert_array_equal(delta(tmp_path / "still", "q"), delta(paths[2], "q"))


def test_mos_converges_as_its_closed_form() -> None:
    from modelwright.adapters import pulled

    earlier = [np.array([1.0, 3.0]), np.array([3.0, 5.0])]
    theta = start = np.array([10.0, -2.0])
    for _ in range(5):
        theta = pulled(theta, earlier, 0.1)
    mean = np.array([2.0, 4.0])
    np.testing.assert_allclose(theta - mean, 0.9**5 * (start - mean))


# --- other kinds -----------------------------------------------------------------------------------------------------------

torch_too = pytest.mark.torch
quiet = pytest.mark.filterwarnings("ignore")


@torch_too
@quiet
def test_dora_and_ia3_need_the_base_and_add_up(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "base")
    dora = with_peft(tmp_path / "dora", "llama", 1, r=2, target_modules=["q_proj"], use_dora=True)
    ia3 = with_peft(
        tmp_path / "ia3", "llama", 2, "IA3Config", target_modules=["q_proj", "v_proj"], feedforward_modules=[]
    )
    with pytest.raises(InputError, match="what DoRA adds depends on the weights it was trained on"):
        merge_adapters([dora], method="cat")
    merged = merge_adapters([dora, ia3], method="svd", base=tmp_path / "base", rank=12, weight=[1.0, 0.5])
    merged.save(tmp_path / "out")
    base = mw.open(tmp_path / "base")
    names = [f"model.layers.{i}.self_attn.{m}_proj.weight" for i in (0, 1) for m in "qv"]
    for name in names:
        one, two = (mw.open(f"{tmp_path / 'base'}+{path}")[name].read() - base[name].read() for path in (dora, ia3))
        found = mw.open(f"{tmp_path / 'base'}+{tmp_path / 'out'}")[name].read() - base[name].read()
        np.testing.assert_allclose(found, one + 0.5 * two, atol=1e-5)


@torch_too
@quiet
@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig"])
def test_hadamard_and_kronecker_products_become_factors(tmp_path: Path, kind: str) -> None:
    path = with_peft(tmp_path / "a", "llama", 1, kind, r=2, target_modules=["q_proj", "down_proj"])
    with pytest.raises(InputError, match="is no product of factors, so the result needs a rank"):
        merge_adapters([path], method="cat")
    merged = merge_adapters([path], method="task_arithmetic", rank="error:0.0001")
    merged.save(tmp_path / "out")
    assert merged.error <= 1e-4
    one, two = open_adapter(path), open_adapter(tmp_path / "out")
    for name, module in one.modules.items():
        np.testing.assert_allclose(
            two.modules[name].delta(), module.delta(), atol=1e-4 * np.linalg.norm(module.delta()) + 1e-6
        )


@torch_too
@quiet
def test_whole_modules_and_biases_are_merged(tmp_path: Path) -> None:
    tiny("vit").save_pretrained(tmp_path / "base")
    options = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["classifier"]}
    paths = [with_peft(tmp_path / str(i), "vit", i, **options) for i in (1, 2)]
    base = mw.open(tmp_path / "base")
    heads = [open_adapter(path).saved["classifier.weight"].read() for path in paths]
    merge_adapters(paths, method="linear").save(tmp_path / "mean")
    np.testing.assert_allclose(
        open_adapter(tmp_path / "mean").saved["classifier.weight"].read(), sum(heads) / 2, rtol=1e-5
    )
    with pytest.raises(InputError, match="the adapters bring tensors of their own"):
        merge_adapters(paths, method="cat")
    merge_adapters(paths, method="cat", base=tmp_path / "base").save(tmp_path / "sum")
    own = base["classifier.weight"].read()
    np.testing.assert_allclose(
        open_adapter(tmp_path / "sum").saved["classifier.weight"].read(), sum(heads) - own, rtol=1e-4, atol=1e-6
    )
    assert answers(loaded("vit", tmp_path / "sum")).shape == (2, 3)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"], "rank_pattern": {"v_proj": 1}}),
    "qwen3": ("qwen3", {"target_modules": "all-linear", "use_rslora": True}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}),
    "gpt2 with biases": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "lora_bias": True}),
    "t5": ("t5", {"target_modules": ["q", "wo"]}),
    "vit": ("vit", {"target_modules": ["q_proj", "fc1"]}),
}


@torch_too
@quiet
@pytest.mark.parametrize("name", CASES)
def test_peft_loads_it_and_says_what_it_should(tmp_path: Path, name: str) -> None:
    """Logits of the merged adapter are those of a model into which both were baked."""
    import torch
    from safetensors.torch import load_file

    kind, options = CASES[name]
    paths = [with_peft(tmp_path / str(i), kind, i, r=2 + i, lora_alpha=3, **options) for i in (1, 2)]
    tiny(kind).save_pretrained(tmp_path / "base")
    merge_adapters(paths, method="cat", weight=[1.0, -0.5], exact=True).save(tmp_path / "out")
    base = mw.open(tmp_path / "base")
    state = {key: ref.read() for key, ref in base.items()}
    for path, weight in zip(paths, (1.0, -0.5), strict=True):
        baked = mw.open(f"{tmp_path / 'base'}+{path}")
        state = {
            key: value + np.float32(weight) * (baked[key].read() - base[key].read()) for key, value in state.items()
        }
    mw.merge([state], method="passthrough").save(tmp_path / "both")
    shutil.copy(tmp_path / "base" / "config.json", tmp_path / "both")
    model = type(tiny(kind)).from_pretrained(tmp_path / "both")
    torch.testing.assert_close(answers(loaded(kind, tmp_path / "out")), answers(model), rtol=1e-4, atol=2e-5)
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") for key in written)


# --- peft's defects ----------------------------------------------------------------------------------------------------------


@torch_too
@quiet
@pytest.mark.parametrize("options", [{"use_rslora": True}, {"lora_bias": True}], ids=["rslora", "bias"])
def test_peft_3761_one_adapter_at_weight_1_is_itself(tmp_path: Path, options: dict[str, Any]) -> None:
    import torch

    path = with_peft(tmp_path / "a", "gpt2", 1, r=4, target_modules=["c_attn"], fan_in_fan_out=True, **options)
    merge_adapters([path], method="cat", exact=True).save(tmp_path / "out")
    torch.testing.assert_close(
        answers(loaded("gpt2", tmp_path / "out")), answers(loaded("gpt2", path)), rtol=1e-4, atol=1e-5
    )


@torch_too
@quiet
def test_peft_3761_dora_is_itself_given_its_base(tmp_path: Path) -> None:
    import torch

    tiny("llama").save_pretrained(tmp_path / "base")
    path = with_peft(tmp_path / "a", "llama", 1, r=4, target_modules=["q_proj"], use_dora=True)
    merge_adapters([path], method="svd", base=tmp_path / "base", rank=12, exact=True).save(tmp_path / "out")
    torch.testing.assert_close(
        answers(loaded("llama", tmp_path / "out")), answers(loaded("llama", path)), rtol=1e-4, atol=1e-5
    )


@torch_too
@quiet
@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties", "breadcrumbs"])
def test_peft_3737_ranks_by_module_can_be_loaded_again(tmp_path: Path, method: str) -> None:
    one = with_peft(tmp_path / "1", "llama", 1, r=3, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 1})
    two = with_peft(tmp_path / "2", "llama", 2, r=3, target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 2})
    needed = {"density": 0.5} if METHODS[method].fields.get("density") else {}
    merged = merge_adapters([one, two], method=method, **needed)
    merged.save(tmp_path / "out")
    ranks = {module.module.rpartition(".")[2]: module.rank for module in merged.modules}
    tuned = loaded("llama", tmp_path / "out")
    layer = tuned.base_model.model.model.layers[0].self_attn
    assert {name: getattr(layer, name).r["default"] for name in ("q_proj", "v_proj")} == ranks
    for name, module in open_adapter(tmp_path / "out").modules.items():
        got = tuned.base_model.model.get_submodule(name).get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(got, module.delta(), atol=1e-5)


@torch_too
@quiet
def test_linear_has_no_cross_terms(tmp_path: Path) -> None:
    """peft's `linear` adds up A and B apart, so that (A1 + A2)(B1 + B2) holds products of one adapter with the other."""
    paths = [adapter(tmp_path / str(i), i, {"q": 2}) for i in (1, 2)]
    merged = merge_adapters(paths, method="linear", weight=[1.0, 3.0])
    expected = 0.25 * delta(paths[0], "q") + 0.75 * delta(paths[1], "q")
    np.testing.assert_allclose(delta(merged, "q", tmp_path / "o"), expected, atol=1e-5)
    ups, downs = zip(*(factors(i * 100, 2) for i in (1, 2)), strict=True)
    crossed = (0.5 * ups[0] + 0.75**0.5 * ups[1]) @ (0.5 * downs[0] + 0.75**0.5 * downs[1])
    assert np.linalg.norm(crossed - expected) > 0.1 * np.linalg.norm(expected)


# --- files for image models ----------------------------------------------------------------------------------------------------


def test_files_of_kohya(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    shapes = {"lora_unet_conv": ((2, 4, 3, 3), (6, 2, 1, 1)), "lora_unet_to_q": ((2, 4), (6, 2))}
    paths = []
    for i in range(2):
        tensors = {}
        for module, (down, up) in shapes.items():
            tensors |= {f"{module}.lora_down.weight": rng.standard_normal(down).astype(np.float32),
                        f"{module}.lora_up.weight": rng.standard_normal(up).astype(np.float32),
                        f"{module}.alpha": np.array(1 + i, np.float32)}  # fmt: skip
        save_file(tensors, tmp_path / f"{i}.safetensors")
        paths.append(tmp_path / f"{i}.safetensors")
    merge_adapters(paths, method="cat").save(tmp_path / "out")
    read = open_adapter(tmp_path / "out")
    assert read.form == "kohya"
    for name, module in read.modules.items():
        expected = sum(open_adapter(path).modules[name].delta() for path in paths)
        np.testing.assert_allclose(module.delta(), expected, rtol=1e-5, atol=1e-6)
        assert module.shape == (6, *shapes[name][0][1:])
        assert module.scale == 1


# --- refused ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "slerp"}, "slerp looks at weights, and not only at what adapters add to them. Merge the models with the adapters in them"),
        ({"method": "catt"}, "unknown merge method 'catt'. Did you mean 'cat'?"),
        ({"method": "svd"}, "svd needs a rank to bring the sum to. Add --rank 16, energy:0.99 or error:0.01"),
        ({"method": "cat", "rank": 2}, "cat keeps every rank, so it has no --rank. Use svd."),
        ({"method": "svd", "rank": "energy:2"}, "rank: energy must be in (0, 1), got '2'"),
        ({"method": "cat", "weight": [1.0]}, "cat: weight has 1 values for 3 adapters"),
        ({"method": "cat", "wieght": 1.0}, "cat has no parameter 'wieght'. Did you mean 'weight'?"),
        ({"method": "svd", "rank": 1, "exact": True}, "svd is not exact here: "),
        ({"method": "mos"}, "mos averages parameters, and "),
        ({"method": "cat", "out_dtype": "int8"}, "out_dtype must be float32, float16 or bfloat16, got 'int8'"),
    ],
)  # fmt: skip
def test_refused(three: list[Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        merge_adapters(three, **options)


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    one = by_hand(tmp_path / "a", {"q": factors(1, 2)})
    two = by_hand(tmp_path / "b", {"q": factors(2, 2, columns=7)})
    with pytest.raises(InputError, match="the adapters differ in the shape of 'q'"):
        merge_adapters([one, two], method="cat")
    bad = factors(3, 2)
    bad[0][0, 0] = np.nan
    with pytest.raises(InputError, match="'q' holds or becomes NaN or infinity"):
        merge_adapters([by_hand(tmp_path / "c", {"q": bad})], method="cat")


def test_half_precision_is_told(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a", 1, {"q": 2}, 0.3)
    merged = merge_adapters([path], method="cat", out_dtype="bfloat16")
    assert 1e-4 < merged.error < 1e-2
    with pytest.raises(InputError, match="cat is not exact here"):
        merge_adapters([path], method="cat", out_dtype="bfloat16", exact=True)


def test_adapter_methods_have_records() -> None:
    for name, record in ADAPTER_METHODS.items():
        assert record.name == name
        assert record.title
        assert record.summary
        assert record.differs
        assert set(record.parameters({}, 2)) == {field.python_name for field in record.fields.values()}


def test_no_warning_is_left_over(three: list[Path], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge_adapters(three, method="ties", density=0.3).save(tmp_path / "out")
