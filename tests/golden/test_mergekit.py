"""The community's recipes give what mergekit 0.1.5 gives; renew.py says how the stored results were made."""

from __future__ import annotations

import math
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelwright.methods import METHODS, RankDrop
from modelwright.tensors import NoiseKey

from .cases import CASES, RANKED, Case

TOLERANCE = 1e-5


@cache
def golden() -> dict[str, Any]:
    with np.load(Path(__file__).with_name("mergekit-0.1.5.npz")) as stored:
        return dict(stored)


def ours(case: Case) -> Any:
    models, base = case.tensors()
    method = METHODS[case.method]
    arguments = {method.fields[name].python_name: value for name, value in case.parameters.items()}
    if case.base:
        arguments["base"] = base
    if method.random:
        arguments["masks"] = case.masks()
    return method.function(models, **arguments)


def at_a_tie(case: Case) -> Any:
    """Elements whose magnitude equals one at a cut of its model, on both sides of it: either may be kept."""
    models, base = case.tensors()
    tied = np.zeros(base.shape, dtype=bool)
    if "density" not in case.parameters or METHODS[case.method].random:
        return tied
    gammas = case.parameters.get("gamma", [0] * len(models))
    for model, density, gamma in zip(models, case.parameters["density"], gammas, strict=True):
        size = np.abs(model - base)
        falling = np.sort(size, axis=None)[::-1]
        kept = max(1, int(density * size.size)) if case.method == "ties" else int(density * size.size)
        start = min(int(gamma * size.size), size.size - kept)
        for cut in (start, start + kept):
            if density < 1 and 0 < cut < size.size and falling[cut - 1] == falling[cut]:
                tied |= size == falling[cut]
    return tied


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_agrees_with_mergekit(case: Case) -> None:
    peer, found, tied = golden()[case.label], ours(case), at_a_tie(case)
    rms = math.sqrt(float(np.mean(peer.astype(np.float64) ** 2)))
    near = np.abs(found - peer) <= TOLERANCE * np.maximum(np.abs(peer), rms)
    assert found.dtype == peer.dtype
    assert found.shape == peer.shape
    assert np.all(near | tied)
    if not case.coarse:  # random reals do not tie, so nothing was left out
        assert not tied.any()


def test_few_elements_are_at_a_tie() -> None:
    left_out = {case.label: float(np.mean(at_a_tie(case))) for case in CASES if case.coarse}
    assert len(left_out) == 2
    assert all(0 < share < 0.5 for share in left_out.values()), left_out


def test_the_goldens_are_of_these_cases() -> None:
    stored = golden()
    assert str(stored["mergekit version"]) == "0.1.5"
    assert {label for label in stored if "(" in label} == {case.label for case in CASES}
    inputs = zlib.crc32(b"".join(array.tobytes() for case in CASES for array in case.tensors()[0]))
    assert int(stored["inputs crc32"]) == inputs, "numpy draws other numbers: renew the goldens"


def test_every_method_that_mergekit_has_is_compared() -> None:
    assert set(METHODS) & set(golden()["mergekit methods"].tolist()) == {case.method for case in CASES}


def test_della_keeps_entries_with_the_peers_probabilities() -> None:
    models, base = RANKED.tensors()
    for model, density, epsilon, theirs in zip(
        models,
        RANKED.parameters["density"],
        RANKED.parameters["epsilon"],
        golden()["della probabilities"],
        strict=True,
    ):
        ranks = np.argsort(np.argsort(np.abs(model - base), axis=1), axis=1)
        ours = RankDrop(density, epsilon, base.shape[1]).probabilities()[ranks]
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_drawn_masks_have_the_peers_moments(density: float) -> None:
    """The masks are not mergekit's, but the share kept and the norm restored are."""
    n = 40_000
    delta = np.random.default_rng(0).standard_normal(n)
    key = NoiseKey(seed=1, tensor="weight")
    result = METHODS["dare_linear"].function([delta], base=np.zeros(n), density=density, key=key)
    kept = np.count_nonzero(result) / n
    assert abs(kept - density) <= 5 * math.sqrt(density * (1 - density) / n)
    np.testing.assert_allclose(np.abs(result).sum(), np.abs(delta).sum(), rtol=1e-12)
