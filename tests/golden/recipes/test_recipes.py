"""Whole recipes of the community against what mergekit 0.1.5 made of them (renew.py): one model, tensor by tensor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.errors import InputError

from .models import build, probes

HERE = Path(__file__).parent
RECIPES = sorted(path.stem for path in (HERE / "yaml").glob("*.yml"))
#: Share of a tensor's norm by which a sum under random signs may be off.
EXACT, HALF = 1e-5, 1e-2
#: The tied configuration of the donor is kept by mergekit beside a head of its own, which loading then ignores.
HEAD_IGNORED_BY_THE_PEER = {"untied_model_tied_base"}
#: mergekit writes `true` for every T5, because transformers' T5Config says so whatever the file says.
TIED_BY_TRANSFORMERS = {"t5_models", "t5_modules"}
#: Random ones: runs here, and how many standard errors the means may differ.
RUNS, ERRORS = 40, 6.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipes")
    build(root)
    for path in (HERE / "yaml").glob("*.yml"):
        shutil.copy(path, root)
    return root


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """By recipe; rows are dealt out in the order in which they were written."""
    with np.load(HERE / "mergekit-0.1.5.npz") as file:
        index, rows = json.loads(file["index"].tobytes()), iter(file["rows"])
    for name, entry in index["recipes"].items():
        each = 2 if name.startswith("random_") else 1
        entry["rows"] = {tensor: [next(rows) for _ in range(each)] for tensor in entry.get("formats", {})}
    assert next(rows, None) is None
    return index


def test_every_recipe_has_a_golden(golden: dict[str, Any]) -> None:
    assert sorted(golden["recipes"]) == RECIPES
    assert golden["mergekit"] == "0.1.5"


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith(("error_", "random_"))])
def test_recipe_gives_the_peers_model(name: str, folder: Path, golden: dict[str, Any], tmp_path: Path) -> None:
    expected = golden["recipes"][name]
    out = tmp_path / "out"
    mw.merge(folder / f"{name}.yml").save(out, threads=1)
    saved = mw.open(out)
    assert {key: ref.dtype.name for key, ref in saved.items()} == expected["formats"]
    for key, ref in saved.items():
        (theirs,) = expected["rows"][key]
        ours = probes(key, ref.read().astype(np.float64))
        tolerance = EXACT if ref.dtype.name == "float32" else HALF
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * theirs[0] + 1e-12, err_msg=key)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = config.pop("torch_dtype")
    facts = dict(expected["config"])
    if name in HEAD_IGNORED_BY_THE_PEER:
        assert facts["tie_word_embeddings"] is True
        facts["tie_word_embeddings"] = False
    if name in TIED_BY_TRANSFORMERS or "tie_word_embeddings" not in config:
        assert facts.pop("tie_word_embeddings") is True
    if name == "formats_promote":
        facts.pop("dtype")  # of the donor, which is any of the models there
    assert {key: config.get(key) for key in facts} == facts
    if expected["template"] is not None:
        assert (out / "chat_template.jinja").read_text(encoding="utf-8") == expected["template"]


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("error_")])
def test_recipe_is_refused_as_by_the_peer(name: str, folder: Path, golden: dict[str, Any]) -> None:
    assert golden["recipes"][name]["error"]
    with pytest.raises(InputError):
        mw.merge(folder / f"{name}.yml")


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("random_")])
def test_random_recipe_has_the_peers_moments(name: str, folder: Path, golden: dict[str, Any]) -> None:
    expected = golden["recipes"][name]
    runs = [mw.merge(folder / f"{name}.yml", seed=seed).arrays() for seed in range(RUNS)]
    assert set(runs[0]) == set(expected["formats"])
    squares: list[float] = []
    for key, (mean, variance) in expected["rows"].items():
        ours = np.stack([probes(key, run[key]) for run in runs])
        spread = np.maximum(variance, 1e-12)
        z = (ours.mean(axis=0) - mean) / np.sqrt(spread / RUNS + spread / golden["runs"])
        assert np.abs(z).max() < ERRORS, key
        ratio = ours.var(axis=0, ddof=1).sum() / spread.sum()
        assert 0.4 < ratio < 2.5, key
        squares.extend(z**2)
    assert 0.7 < np.mean(squares) < 1.4
