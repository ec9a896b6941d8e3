"""The bank: shapes, scales, names, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from modelwright.errors import InputError
from modelwright.predictions import Member, MemberCost, Predictions, join_members, join_samples


def bank(members: int = 3, samples: int = 8, classes: int = 4, **options: object) -> Predictions:
    logits = np.random.default_rng(0).normal(size=(members, samples, classes)).astype(np.float32)
    return Predictions.of(logits, np.arange(samples) % classes, scale="logits", **options)  # type: ignore[arg-type]


GOOD = [[[0.5, 0.5]], [[0.2, 0.8]]]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (
            [[[0.5, 0.6]]],
            {},
            r"sum to 1, got 1\.1 of 'member 1' for sample '0'\. If these are logits, say scale='logits'",
        ),
        ([[[0.5, 0.5]], [[-0.5, 1.5]]], {"members": ["a", "b"]}, r"in \[0, 1\], got -0\.5 of 'b' for sample '0'"),
        ([[[np.nan, 0.5]]], {}, r"in \[0, 1\], got nan"),
        ([[[np.inf, 0.5]]], {"scale": "logits"}, r"logits must be finite, got inf of 'member 1'"),
        ([[[-0.1, 0.2]]], {"scale": "log-probabilities"}, r"at most 0, got 0\.2"),
        ([[[-0.1, -0.1]]], {"scale": "log-probabilities"}, r"sum to 1, got 1\.80967"),
        (GOOD, {"labels": [2]}, r"class indices in \[0, 1\], got 2 for sample '0'"),
        (GOOD, {"labels": [-1]}, r"class indices in \[0, 1\], got -1"),
        (GOOD, {"labels": [0.5]}, r"must be class indices, got an array of float64"),
        (GOOD, {"labels": ["a"]}, r"must be class indices, got an array of <U1"),
        (GOOD, {"labels": [0, 1]}, r"must have the shape \(1,\), got \(2,\)"),
        ([[[1.0]]], {}, r"at least two classes, got one\. For the probability of one class say kind='binary'"),
        ([[0.5]], {}, r"must have the shape \(M, N, C\), got \(1, 1\)"),
        (GOOD, {"kind": "binary"}, r"must have the shape \(M, N\), got \(2, 1, 2\)"),
        (GOOD, {"members": ["a", "a"]}, r"members must have different names, got 'a' more than once"),
        (GOOD, {"members": ["a"]}, r"there are 1 members for an array of shape \(2, 1, 2\), which needs 2"),
        ([[[0.5, 0.5], [0.5, 0.5]]], {"ids": ["x", "x"]}, r"samples must have different names, got 'x'"),
        (GOOD, {"classes": ["a"]}, r"there are 1 names of classes, and 2 classes"),
        (GOOD, {"scale": "values"}, r"'classes' cannot be values"),
        (GOOD, {"scale": "probs"}, r"cannot be probs\. Valid: log-probabilities, logits, probabilities"),
        (GOOD, {"kind": "klasses"}, r"cannot be of the kind 'klasses'\. Did you mean 'classes'"),
        (np.empty((0, 1, 2)), {}, r"need members, samples and classes, got the shape \(0, 1, 2\)"),
        ([[["a", "b"]]], {}, r"must be numbers, got an array of <U1"),
    ],
)
def test_bad_input_is_refused_by_name(values: object, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Predictions.of(values, options.pop("labels", None), **{"scale": "probabilities", **options})


def test_a_bad_sample_is_found_in_any_block() -> None:
    values = np.full((2, 400_000, 2), 0.5, np.float32)
    values[1, 399_999] = (0.5, np.nan)
    with pytest.raises(InputError, match="got nan of 'member 2' for sample '399999'"):
        Predictions.of(values, scale="probabilities")


def test_labels_of_masks_and_numbers() -> None:
    masks = np.full((2, 3, 4, 4), 0.5)
    with pytest.raises(InputError, match=r"labels of masks must be 0 or 1, got 0\.5 for sample '0'"):
        Predictions.of(masks, masks[0], scale="probabilities", kind="dense")
    with pytest.raises(InputError, match="labels must be finite, got nan for sample '1'"):
        Predictions.of([[1.0, 2.0]], [0.0, np.nan], scale="values", kind="regression")
    with pytest.raises(InputError, match="fitting needs labels, and these predictions have none"):
        bank().with_labels(None).need_labels("fitting")
    assert Predictions.of([[1.0, 2.0]], [0, 1], scale="values", kind="regression").labels.dtype == np.float64


def test_minus_infinity_is_the_logarithm_of_nothing() -> None:
    with np.errstate(divide="ignore"):
        certain = Predictions.of(np.log([[[1.0, 0.0]]]), scale="log-probabilities")
    np.testing.assert_allclose(certain.probabilities(), [[[1.0, 0.0]]], atol=1e-300)
    assert np.isfinite(certain.block(slice(None), "log-probabilities")).all()


numbers = arrays(np.float64, (2, 3, 4), elements=st.floats(-30, 30))


@given(logits=numbers)
@settings(deadline=None, max_examples=30)
def test_scales_lead_back(logits: np.ndarray) -> None:
    first = Predictions.of(logits, scale="logits")
    for way in (
        ("probabilities",),
        ("log-probabilities",),
        ("probabilities", "log-probabilities"),
        ("log-probabilities", "logits"),
    ):
        there = first
        for scale in way:
            there = there.to(scale)  # type: ignore[arg-type]
        np.testing.assert_allclose(there.probabilities(), first.probabilities(), rtol=1e-9, atol=1e-300)


@given(logits=arrays(np.float64, (2, 5), elements=st.floats(-30, 30)))
@settings(deadline=None, max_examples=30)
def test_binary_is_two_classes(logits: np.ndarray) -> None:
    binary = Predictions.of(logits, scale="logits", kind="binary")
    classes = Predictions.of(np.stack([np.zeros_like(logits), logits], -1), scale="logits")
    for scale in ("probabilities", "log-probabilities"):
        there = binary.to(scale).block(slice(None), "probabilities")  # type: ignore[arg-type]
        np.testing.assert_allclose(there, classes.probabilities(), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(binary.block(slice(None), "logits"), classes.values)


def test_values_cannot_become_probabilities() -> None:
    depth = Predictions.of(np.ones((1, 2, 3)), scale="values", kind="dense")
    with pytest.raises(InputError, match="values cannot become probabilities: it is not known how they are related"):
        depth.to("probabilities")


def test_selecting() -> None:
    full = bank(members=3, samples=8)
    some = full.select(["member 3", "member 1"], ["5", "2"])
    assert (some.names, some.ids) == (("member 3", "member 1"), ("5", "2"))
    np.testing.assert_array_equal(some.values, full.values[[2, 0]][:, [5, 2]])
    assert some.labels.tolist() == [5 % 4, 2]
    assert np.shares_memory(full.select([0, 1], slice(2, 5)).values, full.values)
    assert full.select(samples=full.labels == 1).labels.tolist() == [1, 1]
    assert full.select([-1]).names == ("member 3",)
    for wrong, message in (
        ({"members": ["member 9"]}, "no member 'member 9' in these predictions. Did you mean 'member 3'"),
        ({"members": [3]}, "there is no member 3: these predictions have 3"),
        ({"members": [0, "member 1"]}, "each member can be there once, and 'member 1' is asked for twice"),
        ({"members": []}, "no member is left"),
        ({"samples": np.zeros(8, bool)}, "no sample is left"),
        ({"samples": np.zeros(7, bool)}, r"a mask of samples must have the shape \(8,\), got \(7,\)"),
    ):
        with pytest.raises(InputError, match=message):
            full.select(**wrong)


def test_values_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        bank().values[0, 0, 0] = 1


def test_misaligned_ids_are_refused_by_name() -> None:
    full = bank()
    assert full.align(full.ids) is full
    assert full.align(full.ids[::-1]).labels.tolist() == full.labels[::-1].tolist()
    with pytest.raises(InputError, match=r"these differ: 8 and 8, of which 7 are the same; only one has 7, x\."):
        full.align([*full.ids[:-1], "x"])
    with pytest.raises(InputError, match="only one has 0"):
        full.align([*full.ids, "0"])


def test_joining() -> None:
    full = bank(members=3)
    left, right = full.select([0]), full.select([1, 2]).align(full.ids[::-1])
    np.testing.assert_array_equal(join_members([left, right]).values, full.values)
    first, second = full.select(samples=slice(3)), full.select(["member 3", "member 1", "member 2"], slice(3, None))
    whole = join_samples([first, second])
    np.testing.assert_array_equal(whole.values, full.values)
    assert (whole.ids, whole.labels.tolist()) == (full.ids, full.labels.tolist())
    for banks, message in (
        ([left, left], "members must have different names, got 'member 1'"),
        ([left, full.select([1]).with_labels(full.labels[::-1])], "must have the same labels; those of '0' differ"),
        ([left, full.select([1]).to("probabilities")], r"the same scale: logits and probabilities\. Convert one with"),
        ([left, full.select([1], slice(3))], "these differ: 3 and 8"),
        ([], "there are no predictions to put together"),
    ):
        with pytest.raises(InputError, match=message):
            join_members(banks)
    with pytest.raises(InputError, match="the same members; only one has member 2, member 3"):
        join_samples([left, full])
    with pytest.raises(InputError, match="some of these predictions have labels and some have none"):
        join_samples([first, second.with_labels(None)])


def test_costs_add_up_where_all_are_known() -> None:
    known = MemberCost(1.0, 2.0, 3, 4)
    assert known + known == MemberCost(2.0, 4.0, 6, 8)
    assert known + MemberCost(milliseconds=1.0) == MemberCost(milliseconds=3.0)
    with pytest.raises(InputError, match="a member's milliseconds must be a number from 0 up, got -1"):
        MemberCost(milliseconds=-1)
    assert bank(members=2).with_members([Member("a", known), Member("b", known)]).cost.nbytes == 8


def test_blocks_depend_on_the_shape_alone_and_cover_all() -> None:
    full = bank(members=2, samples=100_000, classes=3)
    parts = list(full.parts())
    assert len(parts) > 1
    assert [i for part in parts for i in (part.start, part.stop)] == sorted(
        i for part in parts for i in (part.start, part.stop)
    )
    np.testing.assert_array_equal(np.concatenate([found for _, found in full.blocks()], axis=1), full.values)
