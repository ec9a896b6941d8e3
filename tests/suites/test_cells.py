"""What a sweep has finished is on disk, and what failed is not held against it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from modelwright.errors import RunError
from modelwright.suites import Cell, Cells, Trial
from modelwright.suites._cells import as_json
from modelwright.suites._search import search

GOOD, BAD, ODD = Trial({"x": 1}, 0.5, {"t": 0.4}), Trial({"x": 0}, reason="no"), Trial({"x": 2}, float("nan"))


def test_failed_trials_are_forgotten_when_a_cell_is_gone_on_with(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    assert cells.begin(0, "half", "key") == []
    for trial in (BAD, ODD):
        cells.keep(0, "half", trial)
    assert cells.begin(0, "half", "key") == []
    for trial in (BAD, GOOD, ODD):
        cells.keep(0, "half", trial)
    again = cells.begin(0, "half", "key")
    assert again == [GOOD]
    lines = (tmp_path / "cells/seed-0/half.trials").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"version": 1, "key": "key"}, asdict(GOOD)]


def test_a_cell_whose_first_trials_all_failed_can_still_be_made(tmp_path: Path) -> None:
    """The first run fails, the second is killed after its first trial, the third has to go on."""
    cells = Cells(tmp_path)
    cells.begin(0, "half", "key")
    cells.keep(0, "half", BAD)
    cells.begin(0, "half", "key")
    cells.keep(0, "half", Trial(BAD.parameters, 0.7))
    found = search([BAD.parameters], lambda _: pytest.fail("it was tried already"), cells.begin(0, "half", "key"))
    assert [trial.objective for trial in found] == [0.7]


def test_json_has_no_nan(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    cells.begin(0, "half", "key")
    cells.keep(0, "half", Trial({"x": 1}, 0.5, {"t": float("inf")}))
    cells.finish(Cell("half", 0, "data-free", key="key", trials=(ODD,), merge_seconds=float("nan")))
    text = (tmp_path / "cells/seed-0/half.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    (read,) = cells
    assert (read.trials[0].objective, read.trials[0].judged, read.merge_seconds) == (None, False, None)
    assert (
        as_json({"a": [np.float64("nan"), np.array([1.0, np.inf])], "b": "NaN"})
        == '{"a": [null, [1.0, null]], "b": "NaN"}'
    )


def test_best_says_the_first_reason() -> None:
    from modelwright.suites._search import best

    with pytest.raises(RunError, match="no"):
        best([BAD, ODD])
