"""Float8 with scales becomes numbers; every other quantised format is refused from the headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from weights_helpers import entry, raw_safetensors, write_json

import modelwright.checkpoint as mc
from modelwright.architectures import unsupported_quantization
from modelwright.errors import InputError
from modelwright.tensors import DTYPES

F8 = ml_dtypes.float8_e4m3fn
BF16 = ml_dtypes.bfloat16
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}, "model_type": "deepseek_v3"}


def save(path: Path, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None) -> Path:
    """A folder, byte by byte: the numpy side of safetensors has no float8."""
    header: dict[str, Any] = {}
    data = b""
    codes = {entry.numpy: entry.code for entry in DTYPES.values()}
    for name, value in tensors.items():
        header[name] = entry(codes[value.dtype], list(value.shape), len(data), len(data) + value.nbytes)
        data += value.tobytes()
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.safetensors").write_bytes(raw_safetensors(header, data))
    if config is not None:
        write_json(path / "config.json", config)
    return path


def weights(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 60, shape).astype(F8)


def scales(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.001, 0.1, shape).astype(np.float32)


def blockwise(weight: np.ndarray, scale: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """The oracle: one product at a time, from the definition."""
    out = np.empty(weight.shape, np.float32)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            out[i, j] = np.float32(weight[i, j]) * scale[i // block[0], j // block[1]]
    return out


# --- float8 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
@pytest.mark.parametrize("dtype", [F8, ml_dtypes.float8_e5m2])
@pytest.mark.parametrize("shape", [(128, 128), (256, 128), (200, 300), (129, 127), (3, 130), (130, 1), (1, 1)])
def test_blocks(tmp_path: Path, shape: tuple[int, int], dtype: Any, suffix: str) -> None:
    weight = weights(shape).astype(np.float32).astype(dtype)
    scale = scales((-(-shape[0] // 128), -(-shape[1] // 128)))
    norm = np.ones(3, BF16)
    opened = mc.open(save(tmp_path, {"a.weight": weight, f"a.weight{suffix}": scale, "norm.weight": norm}, FP8))
    assert set(opened) == {"a.weight", "norm.weight"}
    ref = opened["a.weight"]
    assert (ref.dtype.name, ref.shape, ref.nbytes) == ("bfloat16", shape, 2 * weight.size)
    got = ref.read()
    assert got.dtype == np.float32  # rounding comes last
    np.testing.assert_array_equal(got, blockwise(weight, scale, (128, 128)))
    assert opened.arrays()["a.weight"].dtype == BF16
    assert opened.consumed == {f"a.weight{suffix}": "scale of a.weight"}
    assert opened.config == {"model_type": "deepseek_v3"}
    assert opened.notes == (f"{tmp_path}: 1 float8 tensors de-quantised with their scales, to bfloat16",)


def test_the_stated_block_counts(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 3]}}
    weight, scale = weights((5, 7)), scales((3, 3))
    opened = mc.open(save(tmp_path, {"a.weight": weight, "a.weight_scale_inv": scale}, config))
    np.testing.assert_array_equal(opened["a.weight"].read(), blockwise(weight, scale, (2, 3)))
    with pytest.raises(
        InputError, match=r"float32 \[3, 4\] does not fit 'a\.weight' of \[5, 7\] in blocks of \[2, 3\]\."
    ):
        mc.open(save(tmp_path, {"a.weight": weight, "a.weight_scale_inv": scales((3, 4))}, config))


def test_blocks_without_a_configuration(tmp_path: Path) -> None:
    """128 where it fits; else the one even division; else a refusal, not a guess."""
    weight = weights((300, 10))
    opened = mc.open(save(tmp_path, {"a.weight": weight, "a.weight_scale_inv": (s := scales((3, 1)))}))
    np.testing.assert_array_equal(opened["a.weight"].read(), blockwise(weight, s, (128, 128)))
    opened = mc.open(save(tmp_path, {"a.weight": weight, "a.weight_scale_inv": (s := scales((5, 2)))}))
    np.testing.assert_array_equal(opened["a.weight"].read(), blockwise(weight, s, (60, 5)))
    with pytest.raises(
        InputError, match=r"does not fit 'a\.weight' of \[300, 10\]\. Scales are floating-point: single"
    ):
        mc.open(save(tmp_path, {"a.weight": weight, "a.weight_scale_inv": scales((1, 6))}))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale_for_the_tensor(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weight, scale = weights((5, 7)), scales(shape)
    opened = mc.open(save(tmp_path, {"a.weight": weight, "a.weight_scale": scale, "a.input_scale": scales(())}, FP8))
    np.testing.assert_array_equal(opened["a.weight"].read(), weight.astype(np.float32) * scale.reshape(()))
    assert opened["a.weight"].read().shape == (5, 7)
    assert opened.consumed == {
        "a.weight_scale": "scale of a.weight",
        "a.input_scale": "activation scale of a quantised layer",
    }


@pytest.mark.parametrize("shape", [(6, 1), (6,)])
@pytest.mark.parametrize("weight_shape", [(6, 4), (6, 6)])
def test_one_scale_a_row(tmp_path: Path, shape: tuple[int, ...], weight_shape: tuple[int, int]) -> None:
    weight, scale = weights(weight_shape), scales(shape).astype(BF16)
    opened = mc.open(save(tmp_path, {"a.weight": weight, "a.weight_scale": scale}))
    rows = scale.astype(np.float32).reshape(6, 1)
    np.testing.assert_array_equal(opened["a.weight"].read(), weight.astype(np.float32) * rows)


def test_stacked_experts(tmp_path: Path) -> None:
    weight, scale = weights((3, 130, 4)), scales((3, 2, 1))
    opened = mc.open(save(tmp_path, {"e.gate_up_proj": weight, "e.gate_up_proj_scale_inv": scale}, FP8))
    expected = np.stack([blockwise(weight[i], scale[i], (128, 128)) for i in range(3)])
    np.testing.assert_array_equal(opened["e.gate_up_proj"].read(), expected)
    rows = scales((3, 1, 4))
    opened = mc.open(save(tmp_path, {"e.gate_up_proj": weight, "e.gate_up_proj_scale": rows}))
    np.testing.assert_array_equal(opened["e.gate_up_proj"].read(), weight.astype(np.float32) * rows)


def test_scale_beside_the_weight(tmp_path: Path) -> None:
    weight, scale = weights((4, 4)), scales((1, 1))
    opened = mc.open(save(tmp_path, {"a.weight": weight, "a.scale": scale}))
    np.testing.assert_array_equal(opened["a.weight"].read(), weight.astype(np.float32) * scale)
    assert opened.consumed == {"a.scale": "scale of a.weight"}


def test_scales_that_do_not_fit(tmp_path: Path) -> None:
    for scale in (scales((4, 1, 1)), scales((0, 1)), scales((9, 1)), np.ones((1, 1), np.int32)):
        with pytest.raises(InputError) as caught:
            mc.open(save(tmp_path, {"a.weight": weights((4, 4)), "a.weight_scale": scale}))
        assert str(caught.value) == (
            f"{tmp_path}: the scale 'a.weight_scale' of {scale.dtype} {list(scale.shape)} does not fit 'a.weight' of "
            "[4, 4]. Scales are floating-point: single numbers, rows or blocks."
        )


def test_a_scale_that_is_missing(tmp_path: Path) -> None:
    message = (
        r"'b\.weight' is float8 and quantised, but its scale 'b\.weight_scale_inv' is missing\. Download the model"
    )
    tensors = {"a.weight": weights((4, 4)), "a.weight_scale_inv": scales((1, 1)), "b.weight": weights((4, 4))}
    with pytest.raises(InputError, match=message):
        mc.open(save(tmp_path, tensors, FP8))
    opened = mc.open(save(tmp_path / "other", tensors))  # nothing promises a scale: the elements are the numbers
    assert opened["b.weight"].dtype.name == "bfloat16"
    assert opened["b.weight"].read().dtype == BF16
    np.testing.assert_array_equal(opened["b.weight"].read().astype(np.float32), weights((4, 4)).astype(np.float32))


def test_plain_float8_stays_what_it_is(tmp_path: Path) -> None:
    opened = mc.open(save(tmp_path, {"a.weight": weights((4, 4)), "b": np.ones(2, BF16)}, {}))
    assert opened["a.weight"].dtype.name == "float8_e4m3fn"
    assert opened["a.weight"].read().tobytes() == weights((4, 4)).tobytes()
    assert (opened.notes, opened.consumed) == ((), {})


def test_quantisation_leaves_every_level_of_the_configuration(tmp_path: Path) -> None:
    config = {"text_config": {**FP8, "hidden_size": 4}, "vision_config": {"depth": 2}}
    opened = mc.open(save(tmp_path, {"a.weight": weights((4, 4)), "a.weight_scale_inv": scales((1, 1))}, config))
    assert opened.config == {
        "text_config": {"model_type": "deepseek_v3", "hidden_size": 4},
        "vision_config": {"depth": 2},
    }


def test_a_checkpoint_that_quantises_only_when_it_runs(tmp_path: Path) -> None:
    opened = mc.open(save(tmp_path, {"a.weight": np.ones((4, 4), BF16)}, FP8))
    assert opened.config == FP8


# --- refused -------------------------------------------------------------------------------------------------------

I8, I32, U8, F16, F32 = np.int8, np.int32, np.uint8, np.float16, np.float32
PACKED: dict[str, tuple[dict[str, Any], str, dict[str, tuple[Any, tuple[int, ...]]]]] = {
    "gptq": ({"quant_method": "gptq"}, "m.qweight", {"m.qweight": (I32, (2, 8)), "m.qzeros": (I32, (1, 1)), "m.scales": (F16, (1, 8)), "m.g_idx": (I32, (16,))}),
    "awq": ({"quant_method": "awq"}, "m.qweight", {"m.qweight": (I32, (16, 1)), "m.qzeros": (I32, (1, 1)), "m.scales": (F16, (1, 8))}),
    "bnb4": ({"quant_method": "bitsandbytes"}, "m.weight.absmax", {"m.weight": (U8, (8, 1)), "m.weight.absmax": (F32, (1,)), "m.weight.quant_map": (F32, (16,)), "m.weight.quant_state.bitsandbytes__nf4": (U8, (9,))}),
    "bnb8": ({"quant_method": "bitsandbytes"}, "m.SCB", {"m.weight": (I8, (4, 4)), "m.SCB": (F32, (4,)), "m.weight_format": (U8, ())}),
    "mxfp4": ({"quant_method": "mxfp4"}, "e.gate_up_proj_blocks", {"e.gate_up_proj_blocks": (U8, (2, 4, 1, 16)), "e.gate_up_proj_scales": (U8, (2, 4, 1))}),
    "compressed int4": ({"quant_method": "compressed-tensors"}, "m.weight_packed", {"m.weight_packed": (I32, (4, 1)), "m.weight_scale": (F16, (4, 1)), "m.weight_shape": (np.int64, (2,))}),
    "compressed int8": ({"quant_method": "compressed-tensors"}, "m.weight", {"m.weight": (I8, (4, 4)), "m.weight_scale": (F16, (4, 1))}),
    "nvfp4": ({"quant_method": "modelopt"}, "m.weight", {"m.weight": (U8, (4, 2)), "m.weight_scale": (F8, (4, 1)), "m.weight_scale_2": (F32, ())}),
    "hqq": ({"quant_method": "hqq"}, "m.W_q", {"m.W_q": (U8, (4, 2)), "m.scale": (F16, (4, 1))}),
    "quanto": ({"quant_method": "quanto"}, "m.weight._data", {"m.weight._data": (I8, (4, 4)), "m.weight._scale": (F16, (4, 1))}),
    "eetq": ({"quant_method": "eetq"}, "m.weight", {"m.weight": (I8, (4, 4)), "m.weight_scales": (F16, (4,))}),
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKED)
def test_packed_formats_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, first, layout = PACKED[kind]
    tensors = {name: np.zeros(shape, dtype) for name, (dtype, shape) in layout.items()}
    monkeypatch.setattr(np, "fromfile", lambda *_, **__: pytest.fail("weights were read"))
    method = settings["quant_method"]
    for config, named in (({"quantization_config": settings}, method), (None, "quantised")):
        path = save(tmp_path / str(config is None), tensors, config)
        with pytest.raises(InputError) as caught:
            mc.open(path)
        message = str(caught.value)
        assert message.startswith(f"{path} cannot be merged: it holds packed {named} weights ('{first}'")
        assert message.endswith("). Merge the unquantised weights, and quantise the result.")
        with pytest.raises(InputError, match="cannot be merged: it holds packed quantised weights"):
            mc.open(path / "model.safetensors")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4", "aqlm", "vptq", "bitnet", "something-new"])
def test_the_configuration_alone_is_reason_enough(tmp_path: Path, method: str) -> None:
    for config in (
        {"quantization_config": {"quant_method": method}},
        {"text_config": {"quantization_config": {"quant_method": method}}},
        {"compression_config": {"quant_method": method}},
    ):
        path = save(tmp_path, {"m.weight": np.ones(2, BF16)}, config)
        with pytest.raises(InputError) as caught:
            mc.open(path)
        assert str(caught.value) == (
            f"{path} cannot be merged: its config.json says quant_method: {method}. "
            "Merge the unquantised weights, and quantise the result."
        )


def test_numbers_that_only_look_packed(tmp_path: Path) -> None:
    names = {
        "layer_scale": F32, "blocks_scales": F32, "down_blocks": F32, "logit_scale": F32, "position_ids": np.int64,
        "a.num_batches_tracked": np.int64, "rope_scales": F32, "mask": np.bool_, "codes.weight": I8,
    }  # fmt: skip
    opened = mc.open(save(tmp_path, {name: np.zeros(2, dtype) for name, dtype in names.items()}, {}))
    assert set(opened) == set(names)


def test_the_message_counts() -> None:
    assert unsupported_quantization({}, ["a.qweight"]) == "it holds packed quantised weights ('a.qweight')"
    assert unsupported_quantization({}, iter(["b", "a.qweight", "a.qzeros", "c.SCB"])) == (
        "it holds packed quantised weights ('a.qweight' and 2 more like it)"
    )
    assert unsupported_quantization({"quantization_config": None}, ["a.weight"]) is None
    assert unsupported_quantization({"quantization_config": "odd"}, ["a.weight"]) is None
