"""Adapters from fine-tunes, adapters in models, adapters beside each other; and the commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.adapters.making import adapter, answers, by_hand, factors, loaded, tiny, with_peft

import modelwright as mw
from modelwright.adapters import apply_adapters, extract_adapter, merge_adapters, open_adapter, overlap
from modelwright.cli._app import run
from modelwright.errors import InputError

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    monkeypatch.setenv("COLUMNS", "140")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def model(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {f"model.layers.{i}.{name}": shape for i in (0, 1) for name, shape in {
        "q_proj.weight": (6, 5), "q_proj.bias": (6,), "norm.weight": (5,), "conv.weight": (4, 3, 2, 2),
    }.items()}  # fmt: skip
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


# --- extracting ------------------------------------------------------------------------------------------------------------


def test_extracting_what_was_applied_gives_it_back(tmp_path: Path) -> None:
    base = model()
    ranks = {"model.layers.0.q_proj": 2, "model.layers.1.q_proj": 3}
    path = adapter(tmp_path / "a", 1, ranks, 1.5)
    tuned = apply_adapters(base, [path]).checkpoint()
    found = extract_adapter(tuned, base=base, rank="error:0.0001")
    assert {m.module: m.rank for m in found.modules} == ranks
    found.save(tmp_path / "b")
    one, two = open_adapter(path), open_adapter(tmp_path / "b")
    for name in ranks:
        np.testing.assert_allclose(two.modules[name].delta(), one.modules[name].delta(), atol=1e-5)
        mine, theirs = one.modules[name].factors()[0], two.modules[name].factors()[0]
        angles = np.linalg.svd(np.linalg.qr(mine)[0].T @ np.linalg.qr(theirs)[0], compute_uv=False)
        np.testing.assert_allclose(angles, 1, atol=1e-5)


def test_the_best_of_its_rank_and_what_it_loses() -> None:
    base, tuned = model(0), model(1)
    found = extract_adapter(tuned, base=base, rank=2)
    for module in found.modules:
        vector = (tuned[f"{module.module}.weight"] - base[f"{module.module}.weight"]).reshape(
            len(base[f"{module.module}.weight"]), -1
        )
        s = np.linalg.svd(vector.astype(np.float64), compute_uv=False)
        assert module.error == pytest.approx(np.sqrt((s[2:] ** 2).sum() / (s**2).sum()), abs=1e-6)
    assert not found.exact
    lost = sum((m.error * m.norm) ** 2 for m in found.modules)
    whole = sum(float(np.sum((tuned[n].astype(np.float64) - base[n]) ** 2)) for n in base)
    assert found.error == pytest.approx(np.sqrt(lost / whole), rel=1e-5)
    assert set(found.saved) == {name for name in base if "norm" in name or "bias" in name}


def test_what_is_left_out_is_told() -> None:
    base, tuned = model(0), model(1)
    found = extract_adapter(tuned, base=base, rank=6, small=False, skip=["*.1.q_proj.weight"])
    assert set(found.left) == {n for n in base if "norm" in n or "bias" in n} | {"model.layers.1.q_proj.weight"}
    assert found.notes[0].startswith("left out, though they changed: model.layers.0.q_proj.bias")
    with pytest.raises(
        InputError,
        match=r"an adapter of rank 6 is not exact: .* of the norm is lost, and .* changed and cannot be stored",
    ):
        extract_adapter(tuned, base=base, rank=6, small=False, exact=True)
    assert extract_adapter(tuned, base=base, rank=12, exact=True).exact


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        (
            {"rank": 2, "save": ["nothing"]},
            "no tensor is called 'nothing'. Names are like model.layers.0.q_proj.weight",
        ),
        ({"rank": 2, "save": ["conv"], "skip": []}, ""),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    if not message:
        found = extract_adapter(model(1), base=model(0), **options)
        assert "model.layers.0.conv.weight" in found.saved
        return
    with pytest.raises(InputError, match=re.escape(message)):
        extract_adapter(model(1), base=model(0), **options)


def test_models_that_do_not_fit() -> None:
    other = {name: value[:3] for name, value in model(1).items()}
    with pytest.raises(InputError, match=r"differ in shape: model.layers.0.q_proj.weight"):
        extract_adapter(other, base=model(0), rank=2)
    more = model(1) | {"score.weight": np.ones((2, 5), np.float32)}
    with pytest.raises(InputError, match=r"lacks score.weight, which state dict has. Store them whole with --save"):
        extract_adapter(more, base=model(0), rank=2)
    assert "score.weight" in extract_adapter(more, base=model(0), rank=2, save=["score"]).saved


FAMILIES: dict[str, list[str]] = {"llama": [], "qwen3": [], "gpt2": ["transformer.wte.weight"], "t5": ["shared.weight"], "vit": ["*embeddings.cls_token", "*position_embeddings"]}  # fmt: skip


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FAMILIES)
def test_peft_loads_it_and_gives_the_same_logits(tmp_path: Path, kind: str) -> None:
    """Every weight moves, and the ranks suffice: so the adapter on the base answers as the fine-tune does."""
    import torch

    tiny(kind).save_pretrained(tmp_path / "base")
    tuned = tiny(kind)
    skipped = [name.removeprefix("*").removesuffix(".weight") for name in FAMILIES[kind]]
    torch.manual_seed(5)
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if not any(name.removesuffix(".weight").endswith(s) for s in skipped):
                value.add_(torch.randn(value.shape) * 0.1)
    tuned.save_pretrained(tmp_path / "tuned")
    found = extract_adapter(tmp_path / "tuned", base=tmp_path / "base", rank=32, exact=True)
    found.save(tmp_path / "out")
    torch.testing.assert_close(answers(loaded(kind, tmp_path / "out")), answers(tuned), rtol=1e-4, atol=2e-5)
    opened = mw.open(f"{tmp_path / 'base'}+{tmp_path / 'out'}")
    for name, ref in mw.open(tmp_path / "tuned").items():
        np.testing.assert_allclose(opened[name].read(), ref.read(), atol=1e-5)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_a_tied_embedding_is_refused(tmp_path: Path) -> None:
    import torch

    tiny("gpt2").save_pretrained(tmp_path / "base")
    tuned = tiny("gpt2")
    with torch.no_grad():
        tuned.transformer.wte.weight.add_(0.1)
    tuned.save_pretrained(tmp_path / "tuned")
    with pytest.raises(
        InputError, match=r"'transformer.wte.weight' changed, and is the head too: a LoRA of peft on the one"
    ):
        extract_adapter(tmp_path / "tuned", base=tmp_path / "base", rank=2)


# --- applying --------------------------------------------------------------------------------------------------------------


def test_several_adapters_add_up_in_any_order(tmp_path: Path) -> None:
    base = model()
    paths = [adapter(tmp_path / str(i), i, {"model.layers.0.q_proj": 2}) for i in range(3)]
    name = "model.layers.0.q_proj.weight"
    there = apply_adapters(base, paths).checkpoint()[name].read()
    back = apply_adapters(base, paths[::-1]).checkpoint()[name].read()
    expected = base[name] + sum(open_adapter(path).modules["model.layers.0.q_proj"].delta() for path in paths)
    np.testing.assert_allclose(there, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(there, back, rtol=1e-5, atol=1e-5)


# --- comparing -------------------------------------------------------------------------------------------------------------


def test_overlap(tmp_path: Path) -> None:
    up, down = factors(1, 2)
    other = factors(2, 2)
    one = by_hand(tmp_path / "a", {"q": (up, down), "v": factors(3, 1)})
    twice = by_hand(tmp_path / "b", {"q": (2 * up, down)})
    against = by_hand(tmp_path / "c", {"q": (-up, down)})
    apart = by_hand(tmp_path / "d", {"q": (up, other[1])})
    found = overlap([one, twice, against, apart])
    same = found.between(0, 1)
    assert [m.cosine for m in same.modules] == pytest.approx([1.0])
    assert (same.modules[0].outputs, same.modules[0].inputs) == pytest.approx((1.0, 1.0))
    dense = [open_adapter(path).modules["q"].delta().astype(np.float64) for path in (one, apart)]
    v = np.linalg.norm(open_adapter(one).modules["v"].delta())
    assert same.cosine == pytest.approx(np.linalg.norm(dense[0]) / np.hypot(np.linalg.norm(dense[0]), v), rel=1e-6)
    assert found.between(0, 2).modules[0].cosine == pytest.approx(-1.0)
    part = found.between(0, 3).modules[0]
    assert part.cosine == pytest.approx(
        np.sum(dense[0] * dense[1]) / np.linalg.norm(dense[0]) / np.linalg.norm(dense[1])
    )
    assert part.outputs == pytest.approx(1.0)
    assert part.inputs < 0.999


# --- the commands ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    ranks = {"layers.0.q": 2, "layers.1.q": 3}
    return adapter(tmp_path / "a", 1, ranks), adapter(tmp_path / "b", 2, ranks)


def test_mw_merge(two: tuple[Path, Path], tmp_path: Path, said: Said) -> None:
    code, out, _ = said(
        "merge", *two, "--method", "svd", "--rank", "2", "--set", "weight=1,0.5", "-o", tmp_path / "out"
    )
    assert code == 0
    assert "2 modules of rank 2; loses" in out
    assert "layers.0.q" in out
    merged = merge_adapters(two, method="svd", rank=2, weight=[1, 0.5])
    assert f"loses {merged.error:.3g} of the norm in all" in out
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    }
    code, out, _ = said("merge", *two, "--method", "cat", "--exact", "--json", "-o", tmp_path / "sum")
    told = json.loads(out)
    assert (code, told["exact"], told["modules"][1]["rank"]) == (0, True, 6 if told["modules"][1]["rank"] == 6 else 5)
    assert said("merge", *two, "--method", "cat", "-o", tmp_path / "sum")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "svd", "--rank", "1", "--exact"), "svd is not exact here"),
        ((), "merging adapters needs --method"),
        (("--method", "ties", "--set", "desnity=1"), "--set: unknown key 'desnity'. Did you mean 'density'?"),
    ],
)
def test_mw_merge_refuses(
    two: tuple[Path, Path], tmp_path: Path, said: Said, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = said("merge", *two, *arguments, "-o", tmp_path / "out")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_models_and_adapters_are_told_apart(two: tuple[Path, Path], tmp_path: Path, said: Said) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "m").mkdir()
    save_file(model(), tmp_path / "m" / "model.safetensors")
    code, _, err = said("merge", two[0], tmp_path / "m", "--method", "linear", "-o", tmp_path / "out")
    assert code == 2
    assert "is an adapter, and" in err
    code, _, err = said("merge", tmp_path / "m", "--method", "linear", "--rank", "2", "-o", tmp_path / "out")
    assert code == 2
    assert "--rank and --exact are for merging adapters" in err


def test_mw_inspect_of_several(two: tuple[Path, Path], said: Said) -> None:
    code, out, _ = said("inspect", *two)
    assert code == 0
    assert "cosine" in out
    found = overlap(two).between(0, 1)
    assert f"cosine {found.cosine:.3f} over 2 shared modules" in out
    code, out, _ = said("inspect", *two, "--json")
    assert json.loads(out)["pairs"][0]["cosine"] == pytest.approx(found.cosine)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_mw_inspect_of_other_kinds(tmp_path: Path, said: Said) -> None:
    with_peft(tmp_path / "a", "llama", 1, r=2, target_modules=["q_proj"], use_dora=True)
    found = mw.inspect(tmp_path / "a").adapter
    assert found is not None
    assert {module.kind for module in found.modules} == {"dora"}
    assert all(1 < (module.effective or 0) <= 2 for module in found.modules)
    assert said("inspect", tmp_path / "a")[0] == 0
    with_peft(tmp_path / "b", "llama", 1, "IA3Config", target_modules=["k_proj"], feedforward_modules=[])
    other = mw.inspect(tmp_path / "b").adapter
    assert other is not None
    assert {module.rank for module in other.modules} == {None}
