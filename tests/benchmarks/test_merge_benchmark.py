"""The benchmark runs, and what it writes has the form that its tables read. No times are looked at."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import modelwright as mw

ROOT = Path(__file__).resolve().parents[2]
ENV = {key: value for key, value in os.environ.items() if key != "PEER"}


def run(*arguments: object, module: str = "benchmarks.merge") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, check=False)


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports one of the benchmark's modules: it is beside the package, not in it."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def measured(models: Path) -> tuple[dict[str, Any], str]:
    """What a run of one method writes and prints."""
    results = models / "here.json"
    asked = ["--size", "tiny", "--runs", 1, "--methods", "linear", "--models", models, "--results", results]
    done = run(*asked)
    assert done.returncode == 0, done.stderr
    assert "pip install mergekit==0.1.5" in done.stderr
    return json.loads(results.read_text(encoding="utf-8")), done.stdout


def test_results_have_their_form(measured: tuple[dict[str, Any], str]) -> None:
    document, _ = measured
    assert document["version"] == 1
    assert document["peer"] is None
    assert {"cores", "cpu", "memory_gb", "python", "versions"} <= set(document["machine"])
    assert len(document["conditions"]["load_before"]) == 3
    assert document["sizes"]["tiny"]["parameters"] == 127296
    assert document["sizes"]["tiny"]["bytes"] > 2 * 127296
    assert document["sizes"]["tiny"]["shards"] == 1
    (cell,) = document["cells"]
    assert (cell["method"], cell["size"], cell["experts"], cell["threads"]) == ("linear", "tiny", 3, None)
    assert set(cell["contenders"]) == {"floor", "modelwright"}
    for contender in cell["contenders"].values():
        (only,) = contender["runs"]
        assert contender["seconds"] == dict.fromkeys(("median", "min", "max"), only["seconds"])
        assert only["cpu_seconds"] > 0
        assert only["peak_mb"] > 1
    assert [row["what"] for row in document["targets"]] == ["seconds of a tiny merge"]


def test_results_hold_no_paths(measured: tuple[dict[str, Any], str], models: Path) -> None:
    text = json.dumps(measured[0])
    assert str(models) not in text
    assert str(ROOT) not in text


def test_the_tables_are_printed_again(measured: tuple[dict[str, Any], str], models: Path) -> None:
    done = run("--table", "--results", models / "here.json")
    assert done.returncode == 0
    assert done.stdout == measured[1]
    assert "| linear | " in done.stdout


def test_results_of_another_form_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"rows": []}', encoding="utf-8")
    done = run("--table", "--results", tmp_path / "old.json")
    assert done.returncode == 1
    assert "make bench" in done.stderr


def test_the_floor_copies_every_byte(part: Any, tmp_path: Path) -> None:
    """It writes the input that it read last; blocks, halves and files do not end together."""
    floor: ModuleType = part("floor")
    sizes = (1 << 12, 5000, 3)
    for model in "ab":
        (tmp_path / model).mkdir()
        for shard, size in enumerate(sizes):
            data = np.random.default_rng([ord(model), shard]).bytes(size)
            (tmp_path / model / f"{shard}.safetensors").write_bytes(data)
    expected = b"".join((tmp_path / "b" / f"{i}.safetensors").read_bytes() for i in range(len(sizes)))
    for files in ("one", "each"):
        out = tmp_path / files
        out.mkdir()
        variant = floor.Variant(block=1 << 10, files=files, allocate=files == "one", flush="early")
        floor.copy([tmp_path / "a", tmp_path / "b"], out, variant, 2)
        assert b"".join(file.read_bytes() for file in sorted(out.iterdir())) == expected


def test_models_are_what_the_page_says(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: ModuleType = part("models")
    monkeypatch.setattr(models, "SHARD_BYTES", 100_000)
    shape = models.SIZES["tiny"]
    models.make(tmp_path, shape, 2)
    base, expert = (mw.open(str(tmp_path / name)) for name in ("base", "b"))
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    assert {name: ref.shape for name, ref in base.items()} == shape.tensors()
    start, tuned = (np.asarray(m["lm_head.weight"].read(), np.float32) for m in (base, expert))
    assert start.std() == pytest.approx(0.02, rel=0.05)
    assert (tuned - start).std() == pytest.approx(0.002, rel=0.05)
    assert np.asarray(base["model.norm.weight"].read(), np.float32).mean() == pytest.approx(1, abs=0.02)
    assert models.wanting(tmp_path, shape, 3) == ["c"]
    before = (tmp_path / "a" / "model-00001-of-00003.safetensors").read_bytes()
    (tmp_path / "a" / models.MARK).unlink()
    models.make(tmp_path, shape, 3)
    assert (tmp_path / "a" / "model-00001-of-00003.safetensors").read_bytes() == before


def test_sizes_are_what_they_are_called(part: Any) -> None:
    sizes = part("models").SIZES
    assert {name: round(sizes[name].parameters() / 1e9, 2) for name in ("0.1B", "0.42B", "1.1B")} == {
        "0.1B": 0.10, "0.42B": 0.42, "1.1B": 1.10,
    }  # fmt: skip


def test_targets_are_judged(part: Any) -> None:
    def cell(size: str, experts: int, megabytes: float, **seconds: float) -> dict[str, Any]:
        contenders = {name: {"seconds": {"median": s}, "peak_mb": megabytes} for name, s in seconds.items()}
        return {"method": "ties", "size": size, "experts": experts, "threads": None, "contenders": contenders}

    cells = [
        cell("0.42B", 3, 500, modelwright=3.0, mergekit=90.0, floor=0.5),
        cell("0.42B", 8, 551, modelwright=5.0),
        cell("1.1B", 3, 549, modelwright=7.0),
    ]
    judged = {row["what"]: (round(row["value"], 3), row["met"]) for row in part("targets").judge(cells)}
    assert judged == {
        "times faster than the peer": (30.0, True),
        "times the floor": (4.8, False),
        "peak MB": (500, True),
        "peak MB at 1.1B over 0.42B": (1.098, True),
        "peak MB of 8 experts over 3": (1.102, False),
    }


def test_the_page_shows_what_was_measured_last(part: Any) -> None:
    tables: ModuleType = part("tables")
    page = tables.PAGE.read_text(encoding="utf-8")
    document = tables.load(ROOT / "benchmarks" / "results.json")
    if document is None:
        pytest.skip("nothing was measured yet in the present form")
    assert tables.placed(page, tables.render(document)) == page, "python -m benchmarks.merge --table --write"
