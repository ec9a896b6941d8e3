"""The benchmark of cascades runs and adds up. No times are looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.torch
def test_it_runs_small() -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.cascade",
        "--samples",
        "64",
        "--width",
        "16",
        "--repeats",
        "1",
        "--json",
    ]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert [row["passed_on"] for row in found["cascades"]] == pytest.approx([0, 0.1, 0.25, 0.5, 0.75, 1], abs=0.02)
    assert found["multiply_adds"] == [256 * 4 + 4 * 4 + 4 * 10, 256 * 16 + 3 * 16 * 16 + 160]
