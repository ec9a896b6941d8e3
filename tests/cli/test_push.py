"""`mw push` and `mw card`: what they print, ask and return."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import modelwright as mw
import tiny_folders as tiny
from hub_upload_standin import TOKEN, Hub, environment, lead, serve
from modelwright.cli import _push
from modelwright.cli._app import run

MW = [sys.executable, "-c", "from modelwright.cli import main; main()"]
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        tiny.model(tmp_path / name, seed)
    mw.merge(["a", "b"], method="linear").save("out")
    mw.merge(["a", "b"], method="linear", weight=[1, 3]).save("other")
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve() as standin:
        lead(monkeypatch, standin, tmp_path)
        yield standin


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        return code, out, err

    return call


def test_a_push_in_words(hub: Hub, here: Path, said: Said) -> None:
    code, out, _ = said("push", "out", "org/merged", "--dry-run")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert lines[1] == f"{hub.url}/org/merged (public, repository to be made)"
    assert "new 2.43 kB model.safetensors" in lines
    assert "note: licence: undetermined (an input does not state its licence)" in lines
    assert lines[-1].startswith("would be sent: 5 files, ")
    assert hub.repos == {}
    code, out, _ = said("push", "out", "org/merged", "--private", "-m", "The first")
    assert code == 0
    commit = hub.repos["org/merged"].branches["main"][-1]
    assert out.splitlines()[-1].startswith(f"pushed to {hub.url}/org/merged: 5 files, ")
    assert out.splitlines()[-1].endswith(f"commit {commit.oid[:12]}")
    assert (commit.message, hub.repos["org/merged"].private) == ("The first", True)
    assert (
        said("push", "out", "org/merged")[1].splitlines()[-1] == f"nothing to send: {hub.url}/org/merged has all of it"
    )


def test_a_push_as_json(hub: Hub, here: Path, said: Said) -> None:
    code, out, err = said("push", "out", "org/merged", "--branch", "v1", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["version"], found["ok"], found["repo"], found["branch"], found["creates"]) == (
        1, True, "org/merged", "v1", "repository",
    )  # fmt: skip
    assert found["commit"] == hub.repos["org/merged"].branches["v1"][-1].oid
    assert {file["fate"] for file in found["files"]} == {"new"}
    assert "the Hub on the model card: empty or missing license" in found["notes"]


def test_quiet_says_nothing(hub: Hub, here: Path, said: Said) -> None:
    assert said("push", "out", "org/merged", "-q") == (0, "", "")


def test_overwriting_is_asked_about(hub: Hub, here: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    said("push", "out", "org/merged")
    commits = hub.repos["org/merged"].branches["main"]
    code, _, err = said("push", "other", "org/merged")  # nobody is at a terminal
    assert code == 2
    assert err.startswith("error: 'org/merged' has files that would be replaced or removed: ")
    assert err.endswith("Look at them with --dry-run, and pass --yes.\n")
    answers = ["n", "y"]
    monkeypatch.setattr(_push.sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda *_: answers.pop(0))
    monkeypatch.setattr("typer.confirm", lambda text, **_: "Go on?" in text and answers.pop(0) == "y")
    code, _, err = said("push", "other", "org/merged")
    assert (code, err) == (1, "error: Nothing was sent.\n")
    assert len(commits) == 2
    assert said("push", "other", "org/merged")[0] == 0
    assert len(commits) == 3
    assert said("push", "out", "org/merged", "--yes", "-q") == (0, "", "")


def test_what_verify_finds_is_not_sent(hub: Hub, here: Path, said: Said) -> None:
    with Path("out/model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    code, out, err = said("push", "out", "org/merged")
    assert (code, out) == (3, "")
    assert "1 of 1 chunks of model.safetensors differ" in err
    code, out, _ = said("push", "out", "org/merged", "--json")
    assert (code, json.loads(out)["ok"]) == (3, False)
    assert hub.requests == []
    assert said("push", "out", "org/merged", "--no-verify", "-q")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "x"], "no folder 'nowhere'"),
        (["a", "x"], "'a' has no manifest.json"),
        (["out", "a/b/c"], "'a/b/c' cannot be a repository"),
        (["out"], "Missing argument 'REPO'"),
        (["out", "x", "--privat"], "No such option: --privat"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, hub: Hub, here: Path, said: Said) -> None:
    code, out, err = said("push", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert hub.requests == []


def test_killed_while_uploading(hub: Hub, here: Path, tmp_path: Path) -> None:
    env = os.environ | environment(hub, tmp_path / "hf")
    process: list[subprocess.Popen[str]] = []
    hub.before_commit = lambda: process[0].send_signal(signal.SIGTERM) or process[0].wait()
    process.append(subprocess.Popen([*MW, "push", "out", "org/merged"], env=env, stderr=subprocess.PIPE, text=True))
    _, err = process[0].communicate(timeout=60)
    assert process[0].returncode == 130
    assert err.splitlines()[-1] == (
        "error: interrupted. 'org/merged' is as it was. What was uploaded is not sent again by the same command."
    )
    assert TOKEN not in err


# --- mw card ---------------------------------------------------------------------------------------------------------


def test_cards(here: Path, said: Said) -> None:
    assert said("card", "out") == (0, f"wrote {Path('out/README.md')}\n", "")
    with Path("out/README.md").open("a") as file:
        file.write("Mine.\n")
    code, _, err = said("card", "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "Take it as it is with --keep (keep=True), or write it anew with --overwrite" in err
    code, out, _ = said("card", "out", "--keep", "--json")
    assert (code, json.loads(out)) == (0, {"version": 1, "ok": True, "card": "out/README.md"})
    assert said("verify", "out")[0] == 0
    assert said("card", "out", "--overwrite", "--licence", "mit", "--reason", "Ours.", "-q") == (0, "", "")
    assert "license: mit\n" in Path("out/README.md").read_text(encoding="utf-8")
    code, _, err = said("card", "out", "--system", "out")
    assert err == "error: --system says which system of --records the model is. Give --records FOLDER too.\n"


def test_records_in_a_card(here: Path, said: Said) -> None:
    pytest.importorskip("pyarrow")
    from comparing_records import part
    from modelwright.evaluate import Records

    Records([part("x", "out", 0.8, kind="merge"), part("x", "a", 0.6)]).write("records")
    assert said("card", "out", "--records", "records")[0] == 0
    text = Path("out/README.md").read_text(encoding="utf-8")
    assert "| x | test | 200 | **this model** | " in text
    assert "model-index:" in text
    code, _, err = said("card", "other", "--records", "records")
    assert (code, err) == (2, "error: there are no records of 'other'. Valid: a, out.\n")
    assert said("card", "other", "--records", "records", "--system", "a")[0] == 0
