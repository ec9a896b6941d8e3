"""Matrices as float8 with scales: against the definition, torch's rounding, and our own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import modelwright.checkpoint as mc
from modelwright.checkpoint import Checkpoint, Part, quantise, rounding
from modelwright.errors import InputError

LARGEST = {"e4m3": 448.0, "e5m2": 57344.0}
NUMPY = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
Q, UP = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"


def model(dtype: Any = np.float32, seed: int = 0, **more: Any) -> Checkpoint:
    """Matrices of one and of several blocks, and what is not quantised."""
    rng = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens.weight": (300, 256), Q: (256, 256), UP: (384, 128), "model.layers.0.mlp.down_proj.weight": (96, 64),
        "model.layers.0.mlp.gate.weight": (8, 256), "model.layers.0.input_layernorm.weight": (256,), "model.layers.0.mlp.bias": (4, 4),
        "model.norm.weight": (256,), "lm_head.weight": (300, 256),
    }  # fmt: skip
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()} | more
    opened = mc.open(arrays, label="tiny")
    return opened.replaced(
        dict(opened), parts=(Part(config={"model_type": "llama", "tie_word_embeddings": False}),), notes=()
    )


def grouped(shape: tuple[int, int], grain: str) -> list[tuple[slice, slice]]:
    """The groups that share a scale, by their definition."""
    high, wide = {"block": (128, 128), "channel": (1, shape[1]), "tensor": shape}[grain]
    return [
        (slice(i, i + high), slice(j, j + wide)) for i in range(0, shape[0], high) for j in range(0, shape[1], wide)
    ]


@pytest.mark.parametrize("grain", ["block", "channel", "tensor"])
@pytest.mark.parametrize("float8", ["e4m3", "e5m2"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.float64])
def test_each_group_is_divided_by_its_largest_magnitude(grain: Any, float8: str, dtype: Any) -> None:
    whole = model(dtype)
    small = quantise(whole, grain, float8=float8)
    arrays = small.arrays()
    for name in (Q, UP, "model.layers.0.mlp.down_proj.weight"):
        before = whole[name].read().astype(np.float32)
        after, scales = arrays[name], arrays[name + ("_scale_inv" if grain == "block" else "_scale")].reshape(-1)
        assert after.dtype == NUMPY[float8]
        groups = grouped(before.shape, grain)
        assert len(groups) == scales.size
        for group, scale in zip(groups, scales, strict=True):
            wanted = np.float32(np.abs(before[group]).max() / np.float32(LARGEST[float8]))
            if grain != "block":
                wanted = np.float32(wanted.astype(ml_dtypes.bfloat16))
            assert scale == wanted
            limited = np.clip(before[group] / scale, -LARGEST[float8], LARGEST[float8])
            np.testing.assert_array_equal(after[group], limited.astype(NUMPY[float8]))


def test_rounding_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    small = quantise(model(), "block").arrays()
    scale = np.repeat(np.repeat(small[f"{Q}_scale_inv"], 128, 0), 128, 1)
    wanted = torch.from_numpy(model()[Q].read() / scale).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(small[Q].view(np.uint8), wanted)


def test_what_is_quantised_and_what_stays() -> None:
    whole, small = model(), quantise(model(), "block")
    quantised = {name for name, ref in small.items() if ref.dtype.itemsize == 1}
    assert quantised == {Q, UP, "model.layers.0.mlp.down_proj.weight"}
    for name in whole.keys() - quantised:
        np.testing.assert_array_equal(small[name].read(), whole[name].read())
    assert list(small)[1:3] == [Q, f"{Q}_scale_inv"]
    kept = quantise(model(), "block", keep=["*.q_proj.weight"])
    assert (kept[Q].dtype.name, f"{Q}_scale_inv" in kept) == ("float32", False)
    assert (
        small.notes[0] == "3 matrices (43.6% of the parameters) as float8 e4m3 with a scale for each block of 128 x 128"
    )
    assert "model.layers.0.mlp.gate.weight" in small.notes[1]


def test_matrices_with_a_rest_of_a_block_stay() -> None:
    small = quantise(model(**{Q: np.ones((200, 256), np.float32)}), "block")
    assert small[Q].dtype.name == "float32"
    assert small.notes[2].startswith("their sides are no multiples of 128")
    assert quantise(model(**{Q: np.ones((200, 256), np.float32)}), "channel")[Q].dtype.name == "float8_e4m3fn"


def test_configurations_name_what_is_not_converted() -> None:
    fine = quantise(model(), "block").config["quantization_config"]  # type: ignore[index]
    assert fine == {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        "modules_to_not_convert": ["model.embed_tokens", "model.layers.0.mlp.gate", "lm_head"],
    }  # fmt: skip
    packed = quantise(model(), "channel").config["quantization_config"]  # type: ignore[index]
    assert (packed["quant_method"], packed["format"]) == ("compressed-tensors", "float-quantized")
    assert packed["config_groups"]["group_0"]["weights"]["strategy"] == "channel"
    assert packed["ignore"] == ["model.embed_tokens", "model.layers.0.mlp.gate", "lm_head"]


@pytest.mark.parametrize("grain", ["block", "channel", "tensor"])
def test_our_reader_undoes_it_and_the_error_is_the_one_told(grain: Any, tmp_path: Path) -> None:
    import modelwright as mw

    whole = model()
    small = quantise(whole, grain)
    mw.merge([small], method="passthrough").save(tmp_path / "out")
    back = mc.open(tmp_path / "out")
    assert back.keys() == whole.keys()
    assert back.config is not None
    assert "quantization_config" not in back.config
    told = rounding(small, small)
    assert told.keys() == {Q, UP, "model.layers.0.mlp.down_proj.weight"}
    for name, error in told.items():
        before = whole[name].read().astype(np.float64)
        assert error == pytest.approx(np.linalg.norm(back[name].read() - before) / np.linalg.norm(before), rel=1e-5)
        assert (
            0.02 < error < 0.04
        )  # of e4m3's 4 significant bits, for normal numbers: 2^-4 / sqrt(3), less for the upper half


def test_zeros_have_the_scale_one_and_no_error() -> None:
    small = quantise(model(**{Q: np.zeros((256, 256), np.float32)}), "block")
    assert np.all(small[f"{Q}_scale_inv"].read() == 1)
    assert not small[Q].read().astype(np.float32).any()
    assert rounding(small, [Q]) == {Q: 0.0}


def test_large_matrices_go_by_pieces_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for grain in ("block", "channel", "tensor"):
        once = quantise(model(), grain).arrays()
        monkeypatch.setattr("modelwright.checkpoint._quantise._PIECE", 1 << 10)
        again = quantise(model(), grain).arrays()
        monkeypatch.undo()
        assert all(once[name].tobytes() == again[name].tobytes() for name in once)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"grain": "row"}, "what shares a scale cannot be 'row'"),
        ({"float8": "e3m4"}, "float8 must be e4m3 or e5m2, got 'e3m4'"),
        ({"keep": ["*.o_proj.weight"]}, r"no tensor of tiny fits keep '\*\.o_proj\.weight'"),
        ({"keep": ["*.weight"]}, "tiny has no matrix to quantise"),
    ],
)
def test_wrong_options_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        quantise(model(), **({"grain": "block"} | change))


def test_transposed_layers_and_values_that_are_not_finite_are_refused() -> None:
    odd = model().replaced(dict(model()), parts=(Part(config={"model_type": "gpt2"}),), notes=())
    with pytest.raises(InputError, match="tiny is a gpt2, whose layers hold matrices transposed"):
        quantise(odd, "block")
    bad = np.ones((256, 256), np.float32)
    bad[3, 3] = np.inf
    with pytest.raises(InputError, match=f"'{Q}' of tiny holds NaN or infinity, which would spoil its scale"):
        quantise(model(**{Q: bad}), "block")[Q].read()
