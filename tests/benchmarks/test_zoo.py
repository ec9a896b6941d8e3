"""The zoo runs, and its page shows what its sweeps came to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")

from benchmarks.zoo import __main__ as command
from benchmarks.zoo.__main__ import chosen, main, narrowed, parser

from benchmarks import zoo
from modelwright.errors import InputError


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
    again = json.loads((tmp_path / "runs/leaderboard.json").read_text(encoding="utf-8"))["run"]
    assert again["made"] == 0
    # what the work took is told of all of it, and not of the run that came last
    assert {name: again[name] for name in ("cells", "cell_seconds", "train_seconds")} == {
        name: data["run"][name] for name in ("cells", "cell_seconds", "train_seconds")
    }
    assert again["cell_seconds"] > 0
    assert again["cells"] == 14


@pytest.mark.parametrize(
    "option",
    [
        "--suite=digits", "--methods=ties", "--seeds=1", "--budget=2", "--semantics=paper", "--validation=9", "--smoke",
        "--plugin=mine.py",
    ],
)  # fmt: skip
def test_a_narrowed_run_is_none_whose_results_are_kept(option: str) -> None:
    assert narrowed(parser().parse_args([option]))


def test_a_whole_run_may_say_where_and_how() -> None:
    assert not narrowed(parser().parse_args(["--out", "x", "--cache", "y", "--workers", "4", "--device", "cpu"]))


def test_a_whole_run_writes_results_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Of the suites that there are, made small: one of them cannot be had, which does not lose the others."""
    results, page = tmp_path / "results", tmp_path / "docs/zoo.md"
    page.parent.mkdir()
    page.write_text("Before.\n\n<!-- results -->\nbygone\n<!-- /results -->\n\nAfter.\n", encoding="utf-8")
    for name in ("HERE", "SUITES"):
        monkeypatch.setattr(command, name, results if name == "HERE" else ("digits",))
    monkeypatch.setattr(command, "narrowed", lambda _args: False)
    monkeypatch.setenv("MODELWRIGHT_DATA", str(tmp_path))
    places = ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "families"), "--docs", str(page)]
    options = ["--smoke", "--methods", "ties", "--workers", "1", *places]
    assert main([*options, "--suite", "digits", "--suite", "images-vit"]) == 1
    out, err = capsys.readouterr()
    assert out == f"{results / 'leaderboard.md'}\n{page}\n"
    assert "images-vit has no leaderboard: " in err
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.\n\n<!-- results -->\n\n## What was found")
    assert text.endswith("<!-- /results -->\n\nAfter.\n")
    assert "bygone" not in text
    data = json.loads((results / "leaderboard.json").read_text(encoding="utf-8"))
    (ties,) = [line for line in data["suites"]["digits"]["lines"] if line["label"] == "ties"]
    assert f"| `ties` | {100 * ties['mean_share']:.1f} % |" in text
    assert "![Shares of what the experts reach in digits](zoo/digits.svg)" in text
    assert (tmp_path / "docs/zoo/digits.svg").read_text(encoding="utf-8") == (results / "digits.svg").read_text(
        encoding="utf-8"
    )
    page.write_text("<!-- results -->\n<!-- /results -->\n", encoding="utf-8")
    assert main(["--write", "--results", str(results), "--docs", str(page)]) == 0
    assert page.read_text(encoding="utf-8").strip() in text


@pytest.mark.parametrize("text", ["", "<!-- /results -->\n<!-- results -->", "<!-- results -->"])
def test_a_page_without_its_marks_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "zoo.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"there is no '.*leaderboard.json'. make zoo writes it"):
        zoo.write_docs(tmp_path, page)
    (tmp_path / "leaderboard.json").write_text('{"suites": {}}', encoding="utf-8")
    with pytest.raises(InputError, match="the page must have <!-- results --> and <!-- /results --> once each"):
        zoo.write_docs(tmp_path, page)
    assert page.read_text(encoding="utf-8") == text


def test_the_page_of_the_documentation_has_its_marks() -> None:
    text = zoo.DOCS.read_text(encoding="utf-8")
    assert text.index("<!-- results -->") < text.index("<!-- /results -->")


def test_what_needs_data_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("MODELWRIGHT_DATA", raising=False)
    assert chosen(None) == ["digits"]
    assert "MODELWRIGHT_DATA is not set: images-vit, images-cnn, text-lm are left out" in capsys.readouterr().err
    assert chosen(["images-vit"]) == ["images-vit"]
    monkeypatch.setenv("MODELWRIGHT_DATA", "somewhere")
    assert chosen(None) == list(zoo.SUITES)
