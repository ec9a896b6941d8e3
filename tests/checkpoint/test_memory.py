"""Dicts of arrays, and what a `Checkpoint` is."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import modelwright.checkpoint as mc
from modelwright.checkpoint import Checkpoint, Part, TensorRef
from modelwright.errors import InputError
from modelwright.tensors import DTYPES, dtype


def ref(array: np.ndarray) -> TensorRef:
    return TensorRef(dtype(array.dtype), array.shape, lambda: array)


@pytest.mark.parametrize("code", sorted({entry.code for entry in DTYPES.values()}))
def test_numpy_arrays(code: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(DTYPES[code].numpy)
    opened = mc.open({"a": array, "t": array.T, "s": array[0, 0], "e": array[:0]})
    assert {name: (r.dtype.code, r.shape) for name, r in opened.items()} == {
        "a": (code, (2, 3)), "t": (code, (3, 2)), "s": (code, ()), "e": (code, (0, 3)),
    }  # fmt: skip
    assert opened["a"].read() is array
    assert opened["t"].read().tolist() == array.T.tolist()
    assert opened.arrays()["s"].dtype == array.dtype
    assert (opened.label, opened.path, opened.parts) == ("state dict", None, (Part(),))


def test_big_endian_numbers_are_turned() -> None:
    array = np.array([1.5, -2.0]).astype(">f4")
    opened = mc.open({"a": array})
    assert opened["a"].dtype.name == "float32"
    assert opened["a"].read().dtype == np.dtype("<f4")
    assert opened["a"].read().tolist() == [1.5, -2.0]


def test_anything_with_the_array_protocol() -> None:
    class Like:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.ones(3, ml_dtypes.bfloat16)

    assert mc.open({"a": Like()})["a"].dtype.name == "bfloat16"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "'x' is a NoneType, not a tensor. Pass arrays only; drop counters and settings first."),
        (3, "'x' is a int, not a tensor. Pass arrays only; drop counters and settings first."),
        ([1.0], "'x' is a list, not a tensor. Pass arrays only; drop counters and settings first."),
        ({"y": np.ones(1)}, "'x' is a dict, not a tensor. Pass arrays only; drop counters and settings first."),
        (np.array(["a"]), "'x' has the dtype <U1, which checkpoints are not read in. "),
        (np.array([None]), "'x' has the dtype object, which checkpoints are not read in. Valid: "),
        (np.ones(1, np.complex128), "'x' has the dtype complex128, which checkpoints are not read in. Did you mean 'complex64'?"),
        (np.ones(1, ml_dtypes.int4), "'x' has the dtype int4, which checkpoints are not read in. Did you mean 'int"),
        (np.ones(1, ml_dtypes.float8_e8m0fnu), "'x' has the dtype float8_e8m0fnu, which checkpoints are not read in. Did"),
        (np.zeros(1, [("a", "f4")]), "'x' has the dtype [('a', '<f4')], which checkpoints are not read in. Valid: "),
        (np.array(["2020"], "M8[Y]"), "'x' has the dtype datetime64[Y], which checkpoints are not read in. Valid: "),
    ],
)  # fmt: skip
def test_values_that_are_no_tensors(value: Any, message: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(f"net: {message}")):
        mc.open({"ok": np.ones(1), "x": value}, label="net")


@pytest.mark.parametrize("name", [1, None, ("a",), b"a", "__metadata__"])
def test_names_that_are_none(name: Any) -> None:
    message = f"state dict: a tensor cannot be called {name!r}. Names are text, such as 'layer.weight'."
    with pytest.raises(InputError, match=re.escape(message)):
        mc.open({name: np.ones(1)})


def test_torch_is_not_imported_for_arrays() -> None:
    script = "import sys, numpy as np, modelwright.checkpoint as mc; mc.open({'a': np.ones(1)}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- the mapping ---------------------------------------------------------------------------------------------------


def test_mapping() -> None:
    checkpoint = mc.open({"b": np.ones((2, 3), np.float32), "a": np.ones(4, np.float16)})
    assert (list(checkpoint), len(checkpoint), "a" in checkpoint, "c" in checkpoint) == (["b", "a"], 2, True, False)
    assert (checkpoint.nbytes, checkpoint.shapes) == (32, {"b": (2, 3), "a": (4,)})
    assert repr(checkpoint) == "Checkpoint('state dict', 2 tensors, 10 elements)"
    assert checkpoint.get("c") is None
    with pytest.raises(KeyError) as caught:
        checkpoint["c"]
    assert str(caught.value) == "state dict has no tensor 'c'. Valid: a, b."


def test_a_miss_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The near miss is looked for when the message is shown, not by every `get`."""
    checkpoint = mc.open({"weight": np.ones(1)})
    monkeypatch.setattr("modelwright.checkpoint._checkpoint.did_you_mean", lambda *_: pytest.fail("too early"))
    assert checkpoint.get("weigth") is None


def test_notes_are_added_to_a_copy() -> None:
    checkpoint = mc.open({"a": np.ones(1)})
    noted = checkpoint.with_notes("one", "two")
    assert (checkpoint.notes, noted.notes, list(noted)) == ((), ("one", "two"), ["a"])


def test_only_results_are_saved(tmp_path: Any) -> None:
    message = (
        r"state dict is not the result of a merge, so there is nothing to compute\. Copy its folder, or merge it alone"
    )
    with pytest.raises(InputError, match=message):
        mc.open({"a": np.ones(1)}).save(tmp_path)


# --- tied weights --------------------------------------------------------------------------------------------------

EMBEDDING = np.arange(12, dtype=np.float32).reshape(4, 3)


def tied(config: Any, head: np.ndarray, prefix: str = "") -> dict[str, str]:
    tensors = {f"{prefix}model.embed_tokens.weight": ref(EMBEDDING), f"{prefix}lm_head.weight": ref(head)}
    return dict(Checkpoint(tensors, parts=(Part(prefix, "model", config),)).tied)


def test_tied_by_configuration_and_bytes() -> None:
    pair = {"lm_head.weight": "model.embed_tokens.weight"}
    assert tied({"tie_word_embeddings": True}, EMBEDDING.copy()) == pair
    assert tied({}, EMBEDDING.copy()) == pair
    assert tied({"text_config": {"tie_word_embeddings": True}}, EMBEDDING.copy()) == pair
    assert tied({"tie_word_embeddings": False}, EMBEDDING.copy()) == {}
    assert tied({"text_config": {"tie_word_embeddings": False}}, EMBEDDING.copy()) == {}
    assert tied(None, EMBEDDING.copy()) == {}


def test_not_tied_by_name_alone() -> None:
    other = EMBEDDING.copy()
    other[-1, -1] = np.nextafter(other[-1, -1], np.float32(0))
    assert tied({}, other) == {}
    assert tied({}, EMBEDDING.astype(np.float64)) == {}
    assert tied({}, EMBEDDING[:3]) == {}
    assert tied({}, EMBEDDING.view(np.int32)) == {}  # the same bytes, other numbers
    zero = np.zeros((4, 3), np.float32)
    tensors = {"wte.weight": ref(zero), "lm_head.weight": ref(-zero)}
    assert Checkpoint(tensors, parts=(Part(config={}),)).tied == {}  # -0 is 0 but other bytes


def test_not_a_number_is_itself() -> None:
    nan = np.full((4, 3), np.nan, np.float32)
    assert Checkpoint({"wte.weight": ref(nan), "lm_head.weight": ref(nan.copy())}, parts=(Part(config={}),)).tied


def test_large_tensors_are_compared_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelwright.checkpoint._checkpoint._CHUNK", 16)
    assert tied({}, EMBEDDING.copy())
    other = EMBEDDING.copy()
    other[3, 2] += 1
    assert not tied({}, other)


def test_tied_in_the_part_that_says_so() -> None:
    tensors = {
        f"{part}/{name}": ref(EMBEDDING.copy())
        for part in ("one", "two")
        for name in ("shared.weight", "encoder.embed_tokens.weight")
    }
    parts = (
        Part("one/", "model", {"tie_word_embeddings": True}),
        Part("two/", "model", {"tie_word_embeddings": False}),
    )
    assert Checkpoint(tensors, parts=parts).tied == {"one/encoder.embed_tokens.weight": "one/shared.weight"}
    root = {"shared.weight": ref(EMBEDDING.copy()), "2_Dense/encoder.embed_tokens.weight": ref(EMBEDDING.copy())}
    mixed = Checkpoint(root, parts=(Part("", "model", {}), Part("2_Dense/", "model", {})))
    assert mixed.tied == {}
