"""The method of CONTRIBUTING is what it says: a complete one, in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import modelwright as mw
from laws import test_laws, test_records
from laws.cases import draw
from modelwright.methods import LAWS, Method

from .pages import ROOT, blocks


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (block,) = (block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if block.file)
    path = tmp_path / str(block.file)
    path.write_text(block.text, encoding="utf-8")
    return path


@pytest.fixture
def method(plugin: Path) -> Method:
    return mw.registry([plugin])["trimmed_mean"]


def test_it_merges(plugin: Path) -> None:
    models = [{"w": np.array([value, -value])} for value in (1.0, 2.0, 6.0, 100.0)]
    merged = mw.merge(models, method="trimmed_mean", trim=0.25, plugins=[plugin])
    assert merged["w"].read().tolist() == [4.0, -4.0]


def test_it_is_the_papers(method: Method) -> None:
    rng = np.random.default_rng(0)
    models = [rng.standard_normal((3, 5)) for _ in range(7)]
    for trim in (0.0, 0.2, 0.49):
        cut = int(trim * 7)
        for place in np.ndindex(3, 5):
            values = sorted(model[place] for model in models)
            expected = np.mean(values[cut : 7 - cut])
            assert method.function(models, trim=trim)[place] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("law", LAWS)
def test_it_keeps_the_laws_that_it_names_and_no_other(method: Method, law: str) -> None:
    if not test_laws.applies(method, law):
        assert law not in method.laws
    elif law in method.laws:
        test_laws.test_claimed_law_holds(method, law)
    else:
        test_laws.test_law_that_is_not_claimed_has_a_counterexample(method, law)


def test_its_record_is_complete(method: Method) -> None:
    test_records.test_the_text_is_complete(method)
    test_records.test_presets_and_defaults_are_valid(method)
    assert draw(method, 2, np.random.default_rng(0))["trim"] < 0.5


def test_its_range_is_kept(plugin: Path) -> None:
    with pytest.raises(mw.InputError, match=r"trimmed_mean: trim must be in \[0, 0\.5\), got 0\.5"):
        mw.merge([{"w": np.ones(1)}] * 2, method="trimmed_mean", trim=0.5, plugins=[plugin])
