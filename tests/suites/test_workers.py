"""Several processes come to what one comes to, and one that dies takes one cell with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelwright.errors import RunError
from modelwright.evaluate import Records
from modelwright.suites import Cell, Settings, sweep
from suites.test_sweep import outcome, plugin
from suites.tiny import TinyFamily, TinySuite

DIES = "import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)"


def settings(**more: object) -> Settings:
    return Settings(**{"seeds": 1, "budget": 2, "validation": 60, **more})  # type: ignore[arg-type]


def test_processes_make_what_one_makes_and_one_that_dies_loses_one_cell(tmp_path: Path) -> None:
    told: list[tuple[Cell, int, int]] = []
    names = ["half", "ties", "dare_linear"]
    two = sweep(
        TinySuite(), names, out=tmp_path / "two", settings=settings(workers=2), plugins=[plugin(tmp_path, DIES)],
        progress=lambda *said: told.append(said),
    )  # fmt: skip
    one = sweep(TinySuite(), names[1:], out=tmp_path / "one", settings=settings())
    assert {(cell.label, cell.reason) for cell in two.failed} == {
        ("half", "the process that made it was ended by signal 9; is there enough memory?")
    }
    done = [cell for cell in two.cells if cell.label != "half"]
    assert [outcome(cell) for cell in done] == [outcome(cell) for cell in one.cells]
    assert [cell.key for cell in done] == [cell.key for cell in one.cells]
    assert two.made == one.made + 1
    (a, b) = (Records.read(tmp_path / name / "records/seed-0") for name in ("one", "two"))
    assert [part.column("answer").tolist() for part in a] == [part.column("answer").tolist() for part in b]
    finished = [(done, of) for cell, done, of in told if cell.status != "running"]
    assert finished == [(i + 1, two.made) for i in range(two.made)]
    assert any(cell.status == "running" for cell, _, _ in told)


class Gone(TinySuite):
    """Its data are there for the process that begins, and not for the others."""

    def __init__(self, process: int):
        self.process = process

    def family(self, seed: int, **more: object) -> TinyFamily:  # type: ignore[override]
        if os.getpid() != self.process:
            raise FileNotFoundError("the data are gone")
        return super().family(seed)


def test_what_a_process_meets_outside_a_cell_ends_the_sweep(tmp_path: Path) -> None:
    sweep(TinySuite(), "linear", out=tmp_path, settings=settings())
    with pytest.raises(FileNotFoundError, match="the data are gone"):
        sweep(Gone(os.getpid()), "ties", out=tmp_path, settings=settings(workers=2))


class Dying(TinySuite):
    """Its training ends the process that it runs in."""

    def __init__(self, process: int):
        self.process = process

    def family(self, seed: int, **more: object) -> TinyFamily:  # type: ignore[override]
        if os.getpid() != self.process:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().family(seed)


def test_a_training_that_ends_its_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        sweep(Dying(os.getpid()), "linear", out=tmp_path, settings=settings(workers=2))
    assert "the process that trained the family of seed 0 was ended by signal 9; is there enough memory?" in str(
        error.value
    )


def test_processes_train_and_make_the_families_of_several_seeds(tmp_path: Path) -> None:
    two = sweep(TinySuite(), "ties", out=tmp_path / "two", settings=settings(seeds=3, workers=2))
    one = sweep(TinySuite(), "ties", out=tmp_path / "one", settings=settings(seeds=3))
    assert [(cell.seed, outcome(cell), cell.key) for cell in two.cells] == [
        (cell.seed, outcome(cell), cell.key) for cell in one.cells
    ]
    assert {cell.seed for cell in two.cells} == {0, 1, 2}


KILLED = """
import os, signal, sys
from pathlib import Path
from modelwright.suites import Settings, sweep
from suites.tiny import TinySuite

def told(cell, done, of):
    if cell.label == "half":
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    out, plugin = map(Path, sys.argv[1:])
    for names, workers in (["linear"], 1), (["half"], 2):
        settings = Settings(seeds=1, budget=60, validation=60, workers=workers)
        sweep(TinySuite(), names, out=out, settings=settings, plugins=[plugin], progress=told)
"""
SLOW = """import os, time
    open({log!r}, "a").write(str(os.getpid()) + "\\n")
    time.sleep(0.2)
    return base"""


def test_processes_end_with_the_one_that_began_them(tmp_path: Path) -> None:
    log = tmp_path / "log"
    slow = plugin(tmp_path, SLOW.format(log=str(log)))
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    paths = [str(Path(__file__).parents[1]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    arguments = [sys.executable, str(script), str(tmp_path / "runs"), str(slow)]
    ended = subprocess.run(arguments, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    worker = int(log.read_text(encoding="utf-8").split()[-1])
    until = time.monotonic() + 20
    while _alive(worker):
        assert time.monotonic() < until, "it goes on without the one that began it"
        time.sleep(0.05)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z")
