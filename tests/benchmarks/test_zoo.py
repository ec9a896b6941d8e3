"""The zoo runs, and its page shows what its sweeps came to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")

from benchmarks.zoo.__main__ import chosen, main

from benchmarks import zoo


def test_smoke(tmp_path: Path, capsys: Any) -> None:
    options = ["--smoke", "--suite", "digits", "--cache", str(tmp_path / "families"), "--out", str(tmp_path / "runs")]
    assert main([*options, "--methods", "ties,breadcrumbs"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'runs/leaderboard.md'}\n"
    assert err.startswith("digits\n")
    text = (tmp_path / "runs/leaderboard.md").read_text(encoding="utf-8")
    data = json.loads((tmp_path / "runs/leaderboard.json").read_text(encoding="utf-8"))
    lines = {line["label"]: line for line in data["suites"]["digits"]["lines"]}
    assert set(lines) >= {"base", "experts", "multitask", "linear", "ties", "breadcrumbs", "ensemble"}
    assert f"| `ties` | {100 * lines['ties']['mean_share']:.1f} % |" in text
    assert "![digits](digits.svg)" in text
    assert (tmp_path / "runs/digits.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert main([*options, "--methods", "ties,breadcrumbs"]) == 0
    assert json.loads((tmp_path / "runs/leaderboard.json").read_text(encoding="utf-8"))["run"]["made"] == 0


def test_what_needs_data_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("MODELWRIGHT_DATA", raising=False)
    assert chosen(None) == ["digits"]
    assert "MODELWRIGHT_DATA is not set: images-vit, images-cnn, text-lm are left out" in capsys.readouterr().err
    assert chosen(["images-vit"]) == ["images-vit"]
    monkeypatch.setenv("MODELWRIGHT_DATA", "somewhere")
    assert chosen(None) == list(zoo.SUITES)
