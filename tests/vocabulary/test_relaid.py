"""Where rows come from, and re-laid tensors, beside what numpy makes of the same by hand."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.checkpoint import TensorRef
from modelwright.tensors import dtype as find_dtype
from modelwright.vocabulary import ZERO, Override, Tokenizer, lay_rows, relaid


def tokenizer(label: str, words: str, holes: tuple[int, ...] = ()) -> Tokenizer:
    numbers = [i for i in range(len(words) + len(holes)) if i not in holes]
    return Tokenizer(label, {"model": {"type": "BPE", "vocab": dict(zip(words, numbers, strict=True)), "merges": []}})


@dataclass
class Held:
    """A tensor that can go to another process."""

    array: np.ndarray[Any, Any]

    def load(self) -> np.ndarray[Any, Any]:
        return self.array

    def fill(self, buffer: Any, start: int) -> None:
        flat = np.ascontiguousarray(self.array).reshape(-1).view(np.uint8)
        buffer[:] = flat[start : start + len(buffer)]


def ref(array: np.ndarray[Any, Any], streamed: bool = True) -> TensorRef:
    held = Held(array)
    return TensorRef(find_dtype(array.dtype), array.shape, held.load, "memory", held.fill if streamed else None)


def by_hand(
    out: Tokenizer, rows: int, models: list[Tokenizer], arrays: list[np.ndarray[Any, Any]], base: int | None, own: int
) -> np.ndarray[Any, Any]:
    """The rule, token by token, in float64."""
    mine = arrays[own].astype(np.float64)
    mean = mine[sorted(set(models[own].tokens.values()))].mean(0)
    result = np.empty((rows, mine.shape[1]))
    texts = {number: text for text, number in out.tokens.items()}
    for row in range(rows):
        text = texts.get(row)
        places: list[int | None] = []
        for model, array in zip(models, arrays, strict=True):
            number = model.tokens.get(text) if text is not None else None
            if text is None and row < len(array) and row not in model.tokens.values():
                number = row
            places.append(number if number is not None and number < len(array) else None)
        holders = [j for j, place in enumerate(places) if place is not None]
        if places[own] is not None:
            result[row] = mine[places[own]]
        elif base is not None and places[base] is not None:
            result[row] = arrays[base][places[base]].astype(np.float64)
        elif holders:
            result[row] = np.mean([arrays[j][places[j]].astype(np.float64) for j in holders], axis=0)
        else:
            result[row] = mean
    return result


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_are_those_of_the_rule(data: Any) -> None:
    words = [
        data.draw(st.text("abcdefgh", min_size=2, max_size=8).map(lambda t: "".join(dict.fromkeys("ab" + t))))
        for _ in range(3)
    ]
    models = [tokenizer(f"m{i}", text) for i, text in enumerate(words)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    arrays = [rng.normal(size=(len(text) + data.draw(st.integers(0, 3)), 3)).astype(np.float32) for text in words]
    out = tokenizer("out", "".join(dict.fromkeys(data.draw(st.permutations(list("".join(words)))))))
    rows = out.size + data.draw(st.integers(0, 4))
    base = data.draw(st.sampled_from([None, 0, 1, 2]))
    laid = lay_rows(out, rows, models, [len(array) for array in arrays], base)
    for own in range(3):
        made = relaid(laid.rows[own], [ref(array) for array in arrays], own)
        expected = by_hand(out, rows, models, arrays, base, own).astype(np.float32)
        np.testing.assert_array_equal(made.read(), expected)
        assert sum(count for key, count in laid.counts[own].items() if key != "padding") == len(out.tokens)


FORMATS = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_parts_are_those_of_the_whole_in_any_formats(first: Any, second: Any) -> None:
    rng = np.random.default_rng(0)
    models = [tokenizer("a", "abcdef"), tokenizer("b", "fxbyaz")]
    arrays = [rng.normal(size=(8, 5)).astype(first), rng.normal(size=(6, 5)).astype(second)]
    out = tokenizer("out", "zfedcbaxyq")
    laid = lay_rows(out, 13, models, [8, 6], None)
    for streamed in (True, False):
        made = relaid(laid.rows[0], [ref(array, streamed) for array in arrays], 0)
        whole = made.read()
        expected = by_hand(out, 13, models, arrays, None, 0)
        np.testing.assert_array_equal(whole.astype(np.float64), expected.astype(whole.dtype).astype(np.float64))
        assert made.dtype.numpy == whole.dtype
        if streamed:
            raw = whole.reshape(-1).view(np.uint8)
            again = pickle.loads(pickle.dumps(made.fill.__self__)).fill  # type: ignore[union-attr]  # as in another process
            size = whole.dtype.itemsize
            for start, stop in ((0, 65), (3, 4), (7, 41), (64, 65), (10, 10)):
                for fill in (made.fill, again):
                    buffer = np.zeros((stop - start) * size, np.uint8)
                    assert fill is not None
                    fill(buffer, start * size)
                    np.testing.assert_array_equal(buffer, raw[start * size : stop * size])


def test_biases_are_laid_too() -> None:
    models = [tokenizer("a", "abc"), tokenizer("b", "cd")]
    laid = lay_rows(tokenizer("out", "dcba"), 4, models, [3, 2], 0)
    bias = [np.array([1, 2, 3], np.float32), np.array([30, 40], np.float32)]
    made = relaid(laid.rows[0], [ref(array) for array in bias], 0)
    assert made.read().tolist() == [40, 3, 2, 1]
    flat = relaid(laid.rows[1], [ref(array[None]) for array in bias], 1)
    assert flat.read().tolist() == [[40, 30, 2, 1]]


def test_single_tokens_start_from_what_is_asked() -> None:
    models = [tokenizer("a", "abc"), tokenizer("b", "bcd")]
    arrays = [np.arange(6, dtype=np.float32).reshape(3, 2), 10 + np.arange(6, dtype=np.float32).reshape(3, 2)]
    asked = {"d": Override(ZERO), "c": Override((0, 0), force=True), "b": Override((1, 2))}
    laid = lay_rows(tokenizer("out", "abcd"), 4, models, [3, 3], 0, asked)
    made = [relaid(laid.rows[j], [ref(array) for array in arrays], j).read().tolist() for j in range(2)]
    assert made[0] == [[0, 1], [2, 3], [0, 1], [0, 0]]
    assert made[1] == [[0, 1], [10, 11], [0, 1], [14, 15]]
    assert laid.counts[0]["zero"] == 1


def test_what_need_not_move_is_told() -> None:
    models = [tokenizer("a", "abc"), tokenizer("b", "acb")]
    laid = lay_rows(models[0], 3, models, [3, 3], 0)
    assert laid.rows[0].unchanged(0, 3)
    assert not laid.rows[1].unchanged(1, 3)
    assert laid.counts[1] == {"own": 3, "base": 0, "others": 0, "average": 0, "mean": 0, "zero": 0, "padding": 0}
