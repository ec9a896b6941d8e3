"""Dice and Hausdorff distances: closed forms of shapes, a slow definition, and MONAI's figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.errors import InputError
from modelwright.predictions.measures import border, dice, dice_by_class, hausdorff, surface_distances

from .renew_monai import blobs

ndimage = pytest.importorskip("scipy.ndimage")
#: Renewed by tests/predictions/renew_monai.py in an environment that has MONAI.
GOLDEN = json.loads((Path(__file__).parent / "monai.json").read_text(encoding="utf-8"))


def square(side: int, at: tuple[int, int], size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[at[0] : at[0] + side, at[1] : at[1] + side] = True
    return mask


def test_dice_of_shifted_squares() -> None:
    for shift in range(11):
        expected = (10 - shift) / 10
        assert dice(square(10, (5, 5)), square(10, (5, 5 + shift))) == pytest.approx(expected)


def test_distances_of_shifted_and_nested_squares() -> None:
    """A square moved by s to the right: its right side is s away, and that is the largest distance."""
    for shift in (1, 3, 10, 20):
        first, second = square(10, (5, 5)), square(10, (5, 5 + shift))
        assert hausdorff(first, second, percentile=100) == shift
        assert hausdorff(first, second, percentile=100, spacing=(2.0, 0.5)) == pytest.approx(shift / 2)
    inner, outer = square(10, (15, 15)), square(20, (10, 10))
    assert hausdorff(inner, outer, percentile=100) == pytest.approx(5 * math.sqrt(2)), "corners"
    assert hausdorff(inner, inner) == 0


def test_the_95th_percentile_leaves_out_a_single_pixel() -> None:
    first, second = square(20, (5, 5)), square(20, (5, 5))
    second[39, 39] = True
    assert hausdorff(first, second, percentile=100) == pytest.approx(math.hypot(15, 15))
    assert hausdorff(first, second) == 0


def test_distances_of_balls() -> None:
    """Balls about one centre: their surfaces lie r2 - r1 apart, but for a pixel."""
    grid = np.stack(np.meshgrid(*[np.arange(31) - 15] * 3, indexing="ij"))
    away = np.sqrt((grid**2).sum(0))
    small, large = away <= 7, away <= 12
    assert hausdorff(small, large) == pytest.approx(5, abs=1)
    ratio = 2 * 7**3 / (7**3 + 12**3)
    assert dice(small, large) == pytest.approx(ratio, abs=0.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_distances_are_what_their_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 9, 7)) < 0.4
    spacing = np.array([1.5, 0.7])
    np.testing.assert_array_equal(border(first), first & ~ndimage.binary_erosion(first))
    if not first.any() or not second.any():
        return
    ends = [np.argwhere(border(mask)) * spacing for mask in (first, second)]
    apart = np.sqrt(((ends[0][:, None] - ends[1][None]) ** 2).sum(-1))
    there, back = surface_distances(first, second, spacing=spacing.tolist())
    np.testing.assert_allclose(there, apart.min(1))
    np.testing.assert_allclose(back, apart.min(0))
    expected = max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95))
    assert hausdorff(first, second, spacing=spacing.tolist()) == pytest.approx(expected)
    assert hausdorff(first, second) == hausdorff(second, first)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['seed']}-{len(case['shape'])}d")
def test_figures_are_those_of_monai(case: dict[str, object]) -> None:
    first, second = blobs(case["seed"], tuple(case["shape"]))  # type: ignore[arg-type]
    assert dice(first, second) == pytest.approx(case["dice"], abs=1e-6)
    assert hausdorff(first, second) == pytest.approx(case["hd95"], abs=1e-5)
    assert hausdorff(first, second, percentile=100) == pytest.approx(case["hd"], abs=1e-5)
    assert hausdorff(first, second, spacing=case["spacing"]) == pytest.approx(case["hd95_spaced"], abs=1e-4)  # type: ignore[arg-type]


def test_empty_masks() -> None:
    empty, full = np.zeros((5, 5), bool), square(3, (1, 1), 5)
    assert math.isnan(dice(empty, empty))
    assert dice(empty, empty, empty=1.0) == 1
    assert dice(empty, full) == 0
    assert math.isnan(hausdorff(empty, empty))
    assert hausdorff(empty, full) == hausdorff(full, empty) == math.inf


def test_label_maps() -> None:
    predicted, target = np.array([[0, 1, 1], [2, 2, 0]]), np.array([[0, 1, 2], [2, 2, 1]])
    np.testing.assert_allclose(dice_by_class(predicted, target, 4), [2 / 3, 1 / 2, 4 / 5, np.nan])
    for c in range(3):
        assert dice_by_class(predicted, target, 4)[c] == pytest.approx(dice(predicted == c, target == c))
    with pytest.raises(InputError, match=r"label maps must hold whole numbers in \[0, 2\)"):
        dice_by_class(predicted, target, 2)


def test_bad_masks_are_refused() -> None:
    with pytest.raises(InputError, match=r"masks must have one shape, got \(2, 2\) and \(3, 3\)"):
        dice(np.ones((2, 2)), np.ones((3, 3)))
    with pytest.raises(InputError, match=r"masks must hold truth values, or 0 and 1. Threshold probabilities first"):
        dice(np.full((2, 2), 0.5), np.ones((2, 2)))
    with pytest.raises(InputError, match=r"spacing must be above 0, one number or 2, one for each axis"):
        hausdorff(np.ones((2, 2)), np.ones((2, 2)), spacing=[1.0, 0.0])
    with pytest.raises(InputError, match=r"percentile must be in \(0, 100\], got 0"):
        hausdorff(np.ones((2, 2)), np.ones((2, 2)), percentile=0)
