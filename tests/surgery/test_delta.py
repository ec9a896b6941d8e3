"""`mw.extract` and `mw.apply`: to the bit, or with the error told; wrong bases and damaged deltas are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.cli._app import run
from modelwright.surgery._delta import INDEX
from modelwright.tensors import EXACT

Said = Callable[..., tuple[int, str, str]]
FORMATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base in bfloat16, and a fine-tune: one tensor untouched, one with few entries changed, the others all over."""
    monkeypatch.chdir(tmp_path)
    base, tuned = (tiny.arrays(seed, dtype=tiny.bfloat16) for seed in (0, 1))
    tuned["lm_head.weight"] = base["lm_head.weight"]
    sparse = "model.layers.0.mlp.up_proj.weight"
    tuned[sparse] = base[sparse].copy()
    tuned[sparse][2, 1] = -0.0 if base[sparse][2, 1] == 0 else 7
    tiny.write(tmp_path / "base", base, tiny.config(torch_dtype="bfloat16"))
    tiny.write(tmp_path / "tuned", tuned, tiny.config(torch_dtype="bfloat16", rope_theta=5))
    tiny.tokenizer(tmp_path / "tuned", "abc")
    return tmp_path


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and a[n].tobytes() == b[n].tobytes() for n in a)


# --- exact ---------------------------------------------------------------------------------------------------------


def test_there_and_back_to_the_bit(here: Path, said: Said) -> None:
    code, out, err = said("extract", "tuned", "--base", "base", "-o", "delta")
    assert (code, err) == (0, "")
    assert "1 tensor as in the base: 0 B" in out
    assert "1 tensor by the entries that changed: 6 B" in out
    assert "exact: it comes back to the bit" in out
    assert said("apply", "base", "delta", "-o", "again", "--exact", "--quiet") == (0, "", "")
    assert same_bits(tiny.read(here / "again"), tiny.read(here / "tuned"))
    assert not list(Path("again").glob("delta*"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert json.loads(Path("again", name).read_text()) == json.loads(Path("tuned", name).read_text())
    assert not mw.verify("delta").problems
    assert not mw.verify("again").problems


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_format_and_special_values(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    base = {
        "dense": rng.integers(0, 9, (5, 7)).astype(dtype),
        "few": rng.integers(0, 2, 300).astype(dtype),
        "none": np.zeros((0, 3), dtype),
    }
    tuned = {name: array.copy() for name, array in base.items()}
    tuned["dense"] = rng.integers(0, 9, (5, 7)).astype(dtype)
    tuned["few"][17] = not base["few"][17]
    tuned["scalar"] = np.asarray(1, dtype)
    if np.dtype(dtype).kind in "fV":
        tuned["few"][3:6] = [np.nan, np.inf, -0.0]
    delta = mw.extract(tuned, base=base)
    assert delta.exact
    assert {change.name: change.form for change in delta.changes}["none"] == "same"
    rebuilt = mw.apply(base, delta.job.checkpoint()).arrays()
    assert same_bits(rebuilt, tuned)


def test_each_tensor_takes_the_smallest_way() -> None:
    base = {
        "a": np.zeros(100, np.float32),
        "b": np.zeros(100, np.float32),
        "c": np.zeros(100, np.float32),
        "d": np.zeros(3, np.float32),
    }
    tuned = {name: array.copy() for name, array in base.items()}
    tuned["b"][:49] = 1
    tuned["c"][:51] = 1
    tuned["d"] = np.zeros(4, np.float32)
    found = {
        change.name: (change.form, change.stored, change.changed) for change in mw.extract(tuned, base=base).changes
    }
    assert found == {"a": ("same", 0, 0), "b": ("sparse", 392, 49), "c": ("bits", 400, 51), "d": ("whole", 16, 4)}


def test_an_adapter_becomes_a_delta(here: Path) -> None:
    at = "base_model.model.model.layers.1.self_attn.q_proj"
    tiny.write(
        here / "lora",
        {f"{at}.lora_A.weight": np.ones((1, 4), np.float32), f"{at}.lora_B.weight": np.ones((4, 1), np.float32)},
    )
    (here / "lora" / "model.safetensors").rename(here / "lora" / "adapter_model.safetensors")
    (here / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    delta = mw.extract("base+lora", base="base")
    assert [change.name for change in delta.changes if change.form != "same"] == [
        "model.layers.1.self_attn.q_proj.weight"
    ]
    expected = mw.merge(["base+lora"], method="passthrough").arrays()
    delta.save("delta")
    assert same_bits(mw.apply("base", "delta").arrays(), expected)


# --- low rank ------------------------------------------------------------------------------------------------------


def family(rank: int, noise: float) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    base = {"w": rng.standard_normal((60, 80)).astype(np.float32), "v": rng.standard_normal(9).astype(np.float32)}
    vector = rng.standard_normal((60, rank)) @ rng.standard_normal((rank, 80)) + noise * rng.standard_normal((60, 80))
    return base, {"w": (base["w"] + vector).astype(np.float32), "v": base["v"] + 1}


def test_a_low_rank_change_comes_back_nearly(here: Path) -> None:
    base, tuned = family(3, 0.0)
    delta = mw.extract(tuned, base=base, rank=3)
    assert {change.name: change.form for change in delta.changes} == {"w": "factors", "v": "bits"}
    assert delta.error < 1e-6
    assert not delta.exact
    delta.save("low")
    rebuilt = mw.apply(base, "low").arrays()
    np.testing.assert_array_equal(rebuilt["v"], tuned["v"])
    np.testing.assert_allclose(rebuilt["w"], tuned["w"], atol=2e-5)


def test_the_error_is_the_one_that_there_is() -> None:
    base, tuned = family(3, 0.5)
    delta = mw.extract(tuned, base=base, rank=2)
    vector = tuned["w"].astype(np.float64) - base["w"]
    values = np.linalg.svd(vector, compute_uv=False)
    assert delta.error == pytest.approx(np.sqrt((values[2:] ** 2).sum() / (values**2).sum()), rel=1e-5)
    rebuilt = mw.apply(base, delta.job.checkpoint())["w"].read()
    assert np.linalg.norm(rebuilt - tuned["w"]) / np.linalg.norm(vector) == pytest.approx(delta.error, rel=1e-4)


def test_factors_of_large_matrices_are_near_the_best() -> None:
    rng = np.random.default_rng(0)
    size = EXACT + 40
    low = rng.standard_normal((size, 5)) @ rng.standard_normal((5, size))
    base, tuned = (
        {"w": array.astype(np.float32)} for array in (np.zeros((size, size)), low + rng.standard_normal((size, size)))
    )
    delta = mw.extract(tuned, base=base, rank=5)
    values = np.linalg.svd(tuned["w"].astype(np.float64), compute_uv=False)
    assert delta.error == pytest.approx(np.sqrt((values[5:] ** 2).sum() / (values**2).sum()), rel=1e-4)


@pytest.mark.parametrize("size", [60, EXACT + 40])
@pytest.mark.parametrize(("target", "energy"), [("energy:0.9", 0.9), ("error:0.2", 0.96)])
def test_a_target_takes_the_least_rank_that_reaches_it(size: int, target: str, energy: float) -> None:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    values = 0.85 ** np.arange(size) + 1e-4
    tuned = {"w": ((left * values) @ right).astype(np.float32), "v": np.ones(5, np.float32)}
    base = {name: np.zeros_like(array) for name, array in tuned.items()}
    change = mw.extract(tuned, base=base, rank=target).changes[0]
    held = np.cumsum(values**2) / np.sum(values**2)
    assert change.form == "factors"
    assert change.rank == np.searchsorted(held, energy) + 1
    assert 1 - change.error**2 >= energy
    assert 1 - change.error**2 == pytest.approx(held[change.rank - 1], abs=1e-4)


def test_a_target_that_takes_too_many_directions_leaves_a_matrix_exact() -> None:
    rng = np.random.default_rng(0)
    size = EXACT + 8
    low = rng.standard_normal((size, 2)) @ rng.standard_normal((2, size))
    tuned = {"low": low.astype(np.float32), "noise": rng.standard_normal((size, size)).astype(np.float32)}
    base = {name: np.zeros_like(array) for name, array in tuned.items()}
    delta = mw.extract(tuned, base=base, rank="energy:0.99")
    assert {change.name: (change.form, change.rank) for change in delta.changes} == {
        "low": ("factors", 2),
        "noise": ("bits", 0),
    }
    assert same_bits({"noise": mw.apply(base, delta.job.checkpoint())["noise"].read()}, {"noise": tuned["noise"]})


# --- 8 bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_eight_bits_are_within_half_a_step_of_each_row(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    tall = np.array([[1.0], [100.0], [0.0]])
    base = {"w": rng.standard_normal((3, 200)).astype(dtype), "one": np.asarray(2, dtype), "few": np.ones(3, dtype)}
    tuned = {
        "w": (base["w"] + tall * rng.standard_normal((3, 200))).astype(dtype),
        "one": np.asarray(3, dtype),
        "few": np.ones(3, dtype),
    }
    delta = mw.extract(tuned, base=base, int8=True)
    assert {c.name: c.form for c in delta.changes} == {"w": "int8", "one": "bits", "few": "same"}
    assert delta.changes[0].stored == 600 + 12
    wide = {name: array["w"].astype(np.float64) for name, array in (("base", base), ("tuned", tuned))}
    rebuilt = mw.apply(base, delta.job.checkpoint())["w"].read().astype(np.float64)
    vector = wide["tuned"] - wide["base"]
    step = np.abs(vector).max(axis=1, keepdims=True) / 127
    rounding = np.abs(wide["tuned"]).max() * float(ml_dtypes.finfo(dtype).eps)
    assert np.all(np.abs(rebuilt - wide["tuned"]) <= step / 2 + rounding)
    assert np.array_equal(rebuilt[2], wide["tuned"][2])
    assert np.linalg.norm(rebuilt.astype(dtype).astype(float) - wide["tuned"]) / np.linalg.norm(
        vector
    ) == pytest.approx(delta.error, rel=1e-3)


def test_eight_bits_from_the_command_line(here: Path, said: Said) -> None:
    for name, arrays in zip(("b", "t"), family(3, 0.1), strict=True):
        tiny.write(here / name, arrays)
    code, out, err = said("extract", "t", "--base", "b", "-o", "small", "--int8")
    assert (code, err) == (0, "")
    assert "in 8 bits an entry" in out
    assert "relative error of the task vectors that are not stored exactly: 0.0" in out
    assert said("apply", "b", "small", "-o", "again", "--quiet") == (0, "", "")
    assert "not exact: " in " ".join(json.loads(Path("small/manifest.json").read_text())["notes"])
    code, _, err = said("apply", "b", "small", "-o", "out", "--exact")
    assert (code, "of its tensors are stored in 8 bits an entry, such as" in err) == (2, True)
    code, _, err = said("extract", "tuned", "--base", "base", "-o", "d", "--exact", "--int8")
    assert (code, err) == (
        2,
        "error: --exact and --int8 exclude each other: --int8 is not exact. Leave one of them out.\n",
    )


# --- refusals ------------------------------------------------------------------------------------------------------


def test_another_base_is_refused(here: Path, said: Said) -> None:
    assert said("extract", "tuned", "--base", "base", "-o", "delta", "--quiet") == (0, "", "")
    tiny.model(here / "other", 9, dtype=tiny.bfloat16)
    code, _, err = said("apply", "other", "delta", "-o", "out")
    assert code == 1
    assert err.startswith("error: delta was not made from other: '")
    assert "holds other values there. Give the base it was made from." in err
    tiny.model(here / "wide", 9)
    code, _, err = said("apply", "wide", "delta", "-o", "out2")
    assert code == 2
    assert "is float32 [" in err
    tiny.write(here / "few", {"model.norm.weight": np.ones(4, tiny.bfloat16)})
    assert "was not made from few, which lacks" in said("apply", "few", "delta", "-o", "out2")[2]
    assert not Path("out").exists()
    assert not Path("out2").exists()


def test_what_is_no_delta_or_damaged_is_refused(here: Path, said: Said) -> None:
    code, _, err = said("apply", "base", "tuned", "-o", "out")
    assert (code, err) == (2, f"error: tuned is no delta: it has no tensor '{INDEX}'. Make one with mw extract.\n")
    whole = mw.extract("tuned", base="base").job.checkpoint().arrays()
    for change, text in (
        ({INDEX: np.frombuffer(b"{", np.uint8)}, f"the tensor '{INDEX}' is damaged"),
        ({INDEX: np.frombuffer(b'{"version": 9, "tensors": {}}', np.uint8)}, "of version 9"),
        (
            {INDEX: np.frombuffer(b'{"version": 1, "tensors": {"w": {"form": "magic"}}}', np.uint8)},
            "what it says of 'w'",
        ),
    ):
        with pytest.raises(mw.InputError, match=text):
            mw.apply("base", whole | change)
    name = "model.norm.weight:bits"
    with pytest.raises(mw.InputError, match="does not come out as it was"):
        mw.apply("base", whole | {name: whole[name] ^ 1}).arrays()
    with pytest.raises(mw.InputError, match="do not fit"):
        mw.apply("base", whole | {name: whole[name][:-1]}).arrays()
    with pytest.raises(mw.InputError, match=r"what it says of 'model\.norm\.weight' is damaged or not there"):
        mw.apply("base", {key: value for key, value in whole.items() if key != name})


def test_wrong_options(here: Path, said: Said) -> None:
    before = tiny.listing(here)
    code, _, err = said("extract", "tuned", "--base", "base", "-o", "d", "--exact", "--rank", "4")
    assert (code, err.split(":")[1]) == (2, " --exact and --rank exclude each other")
    tiny_model = {"other": np.ones(1, np.float32)}
    with pytest.raises(mw.InputError, match="have no tensor in common"):
        mw.extract(tiny_model, base="base")
    for rank, text in (
        (0, "rank must be at least 1, got 0"),
        (
            "half",
            "rank must be a whole number, energy:SHARE or error:SHARE, got 'half'. Write 16, energy:0.95 or error:0.05.",
        ),
        ("energy:95", r"rank: energy must be in \(0, 1\), got '95'. .* For 95 % write energy:0.95."),
        ("error:0", r"rank: error must be in \(0, 1\), got '0'"),
    ):
        with pytest.raises(mw.InputError, match=text):
            mw.extract("tuned", base="base", rank=rank)
    with pytest.raises(mw.InputError, match="rank and int8 exclude each other"):
        mw.extract("tuned", base="base", rank=2, int8=True)
    assert tiny.listing(here) == before


def test_exact_refuses_factors(here: Path, said: Said) -> None:
    base, tuned = family(2, 0.1)
    tiny.write(here / "b", base)
    tiny.write(here / "t", tuned)
    code, out, _ = said("extract", "t", "--base", "b", "-o", "low", "--rank", "2", "--json")
    data = json.loads(out)
    assert (code, data["exact"], [t["form"] for t in data["tensors"]]) == (0, False, ["bits", "factors"])
    assert 0 < data["error"] < 1
    code, _, err = said("apply", "b", "low", "-o", "out", "--exact")
    assert (code, err.split(".")[0]) == (
        2,
        "error: low is not exact: 1 of its tensors are stored as low-rank factors, such as w",
    )
    assert said("apply", "b", "low", "-o", "out", "--quiet")[0] == 0
