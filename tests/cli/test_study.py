"""`mw study`: lists, runs, files, exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from modelwright.cli._app import app, run
from modelwright.studies import STUDIES

pytest.importorskip("sklearn")

MW = str(Path(sys.executable).with_name("mw"))
PLUGIN = """
from modelwright.studies import Figure, Findings, Interval, Part, Plot, Study, Table

def experiment(setting):
    for seed in setting.each_seed():
        pass
    found = Interval(MIDDLE, MIDDLE - 0.1, MIDDLE + 0.1)
    return Findings([Part("side", "It falls <b>", found, ">", 0.5), Part("odd", "It is odd", found, "<", 9, False, "")],
                    {"share": Figure("share", found)},
                    [Table("Falls", ("coin", "share"), (("mine", found), ("none", None)))],
                    [Plot("Throws", "x", "y", {"mine": [(1.0, found), (2.0, found)]})], ["A note."])

MINE = Study("mine", "Mine", "arXiv:0000.00000", "It falls.", experiment, needs=(), seeds=3)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("MODELWRIGHT_DEBUG", raising=False)
    for name, middle in (("holds", 0.7), ("open", 0.55), ("fails", 0.3)):
        Path(f"{name}.py").write_text(PLUGIN.replace("MIDDLE", str(middle)), encoding="utf-8")
    return tmp_path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["study", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_list(said: Any, here: Path) -> None:
    code, out, err = said("list", "--json")
    assert (code, err) == (0, "")
    entries = json.loads(out)
    assert [entry["id"] for entry in entries] == sorted(STUDIES)
    assert all(entry.keys() >= {"id", "paper", "claim"} for entry in entries)
    code, out, _ = said("list", "--plugin", "holds.py")
    assert code == 0
    assert all(name in out for name in (*STUDIES, "mine", "arXiv:2306.01708"))


def test_a_run_shows_claim_figures_and_verdict(said: Any, here: Path) -> None:
    code, out, err = said("run", "mine", "--plugin", "holds.py")
    assert (code, err) == (0, "")
    assert "Mine  arXiv:0000.00000" in out
    assert re.search(r"It falls <b> +70\.0 \[60\.0, 80\.0\] % +> 50 % +holds", out)
    assert re.search(r"It is odd \(reported only\) +0\.700 \[0\.600, 0\.800\] +< 9 +holds", out)
    assert "Falls, %" in out
    assert "A note." in out
    assert "3 seeds" in out
    assert out.endswith("verdict: holds\n")


@pytest.mark.parametrize(
    ("plugin", "verdict"), [("holds.py", "holds"), ("open.py", "inconclusive"), ("fails.py", "does not hold")]
)
def test_exit_codes(plugin: str, verdict: str, said: Any, here: Path) -> None:
    """0 whichever the verdict is; 3 where another one was required."""
    assert said("run", "mine", "--plugin", plugin, "-q") == (0, "", "")
    code, out, _ = said("run", "mine", "--plugin", plugin, "--require", "holds", "--json", "-")
    assert code == (0 if verdict == "holds" else 3)
    assert json.loads(out)["verdict"] == verdict
    assert said("run", "mine", "--plugin", plugin, "-q", "--require", verdict)[0] == 0


def test_files(said: Any, here: Path) -> None:
    pytest.importorskip("matplotlib")
    code, out, err = said(
        "run", "mine", "--plugin", "open.py", "-q", "--seeds", "2", "--json", "a.json", "--html", "a.html"
    )
    assert (code, out, err) == (0, "", "")
    document = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert (document["id"], document["seeds"], document["budget"]) == ("mine", [0, 1], "full")
    share = document["figures"]["share"]
    assert (share.pop("what"), share.pop("unit"), share.pop("single")) == ("share", "%", False)
    assert share == pytest.approx({"value": 0.55, "low": 0.45, "high": 0.65})
    html = Path("a.html").read_text(encoding="utf-8")
    assert "It falls &lt;b&gt;" in html
    assert "Verdict: inconclusive" in html
    assert "<svg" in html
    assert "mw study run mine --seeds 2" in html
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html), "a page opens offline"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mein"], "there is no study 'mein'. Did you mean 'mine'? Valid: "),
        (["mine", "--budget", "ful"], "mine: there is no budget 'ful'. Did you mean 'full'? Valid: full, smoke."),
        (["mine", "--seeds", "0"], "mine: seeds must be in [1, 1000], got 0."),
        (["mine", "--require", "hold"], "--require: there is no verdict 'hold'. Did you mean 'holds'? Valid: "),
        (["mine", "--json", "no/a.json"], "--json: there is no folder 'no'. Make it first."),
        (["mine", "--html", "."], "--html must be a file, and '.' is a folder. Give a file's name."),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(arguments: list[str], message: str, said: Any, here: Path) -> None:
    before = sorted(here.iterdir())
    code, out, err = said("run", *arguments, "--plugin", "holds.py")
    assert code == 2
    assert out == "" or json.loads(out)["ok"] is False  # --json is there
    assert err.startswith(f"error: {message}")
    assert sorted(here.iterdir()) == before


def test_a_page_needs_matplotlib(said: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = said("run", "mine", "--plugin", "holds.py", "--html", "a.html")
    assert code == 2
    assert "--html needs the package 'matplotlib'" in err
    assert 'pip install "modelwright[report]"' in err


def test_a_run_that_is_stopped_leaves_nothing(here: Path) -> None:
    """Ctrl-C in the middle of a study; the study sends it to itself, so that nothing has to be waited for."""
    body = "        import signal; signal.raise_signal(signal.SIGINT)"
    Path("stopped.py").write_text(PLUGIN.replace("        pass", body), encoding="utf-8")
    before = sorted(here.iterdir())
    done = subprocess.run(
        [MW, "study", "run", "mine", "--plugin", "stopped.py", "--json", "a.json"], capture_output=True, text=True
    )
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr == "error: interrupted. Nothing unfinished was kept.\n"
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before


def test_every_option_has_a_place_on_the_page() -> None:
    page = Path(__file__).parents[2] / "docs/command-line.md"
    section = page.read_text(encoding="utf-8").partition("\n## mw study\n")[2].partition("\n## ")[0]
    group: Any = typer.main.get_command(app).commands["study"]  # type: ignore[attr-defined]
    assert set(group.commands) == {"list", "run"}
    for command in group.commands.values():
        for option in (o for p in command.params for o in p.opts if o.startswith("--") and o != "--help"):
            assert re.search(rf"{option}\b", section), option


def test_help_needs_nothing_heavy(here: Path) -> None:
    script = "import sys; from modelwright.cli._app import run; run(['study', '--help']); run(['study', 'run', '-h'])"
    check = "; print(sorted({'numpy', 'rich', 'sklearn', 'torch', 'modelwright.studies'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script + check], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "Put published claims to the test" in done.stdout
