"""`mw serve`, as a user starts and stops it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright.cli._app import run

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text(json.dumps({"question": "What is 2 + 2?", "answer": "4"}))
    backends = {"s": {"kind": "scripted", "questions": "q.jsonl"}}
    path = tmp_path / "sums.yml"
    path.write_text(
        yaml.safe_dump({"kind": "panel", "backends": backends, "parser": "number", "program": {"name": "moa"}})
    )
    return path


def test_it_serves_until_it_is_told_to_stop(panel: Path) -> None:
    code = "import sys; from modelwright.cli._app import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", f"mine={panel}", "--port", "0", "--transcript", "said.jsonl"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"panels at (http://127\.0\.0\.1:\d+)/v1", line)
            assert found, line + process.stderr.read()
            body = json.dumps({"model": "mine", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}).encode()
            asked = urllib.request.Request(f"{found[1]}/v1/chat/completions", body)
            with urllib.request.urlopen(asked, timeout=20) as answer:
                assert json.load(answer)["choices"][0]["message"]["content"] == "The answer is 4."
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert process.stderr.read() == "stopped\n"
        finally:
            process.kill()
    assert len(Path("said.jsonl").read_text().splitlines()) == 2
    assert panel.with_suffix(".replies.sqlite").is_file()


def test_code_runs_only_where_it_is_allowed(
    panel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = yaml.safe_load(panel.read_text())
    panel.write_text(yaml.safe_dump({**said, "program": "pot", "cache": None}))
    found: list[Any] = []
    monkeypatch.setattr("modelwright.cli._serve.serve", lambda make, *_args, **_more: found.append(make()))
    assert run(["serve", str(panel)]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert run(["serve", str(panel), "--allow-network"]) == 2
    assert "--allow-network is for code that models write" in capsys.readouterr().err
    assert not found
    for options, network in ((["--allow-code"], False), (["--allow-code", "--allow-network"], True)):
        assert run(["serve", str(panel), *options]) == 0
        sandbox = found.pop().panels["sums"].materials.code
        assert sandbox is not None
        assert sandbox.network is network


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.yml"], "the panel cannot be read: No such file or directory"),
        (["sums.yml", "sums.yml"], "panels with different names, and two are called 'sums'"),
        (["sums.yml", "--quorum", "2"], r"quorum must be in \[1, 1\], the replies of 'sums', got 2"),
        (["sums.yml", "--key-variable", "NO_SUCH_KEY"], "the environment variable 'NO_SUCH_KEY' is to hold the key"),
        (["sums.yml", "--grace", "-1"], "grace must be at least 0 seconds, got -1"),
        (["sums.yml", "--host", "192.0.2.1", "--port", "1"], "cannot listen on 192.0.2.1, port 1"),
    ],
)
def test_what_cannot_be_served(
    arguments: list[str], complaint: str, panel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", *arguments]) == 2
    assert re.search(complaint, capsys.readouterr().err)
