"""The benchmark of banks measures the same thing on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.predictions import FEW, MEASURING, PARTS, TASKS, make

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "bank.safetensors"
    make(path, members=3, samples=FEW + 501, classes=4)
    return path


@pytest.mark.torch
@pytest.mark.parametrize("task", MEASURING)
def test_figures_are_those_of_others(task: str, bank: Path) -> None:
    said = {who: run(bank)[1] for who, run in MEASURING[task].items() if who != "netcal"}
    ours = said.pop("modelwright")
    (theirs,) = said.values()
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_no_task_hides_another() -> None:
    assert len(TASKS) == sum(map(len, PARTS.values()))
