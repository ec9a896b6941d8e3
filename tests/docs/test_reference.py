"""The pages cover what there is, and nothing that is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

import modelwright as mw
from modelwright.cli._app import app, run
from modelwright.methods import CALIBRATORS, COMBINERS, LAWS, METHODS, merging
from modelwright.recipe._plan import Fate
from modelwright.recipe._schema import Recipe
from modelwright.recipe._settings import COMMUNITY
from modelwright.recipe._tokenizers import TEMPLATES

from .pages import DOCS, PAGES, ROOT, script

LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", mw.__all__)
def test_public_names_have_a_place(name: str) -> None:
    assert re.search(rf"\bmw\.{name}\b", page("python")), f"document mw.{name} in docs/python.md"


def test_public_methods_have_a_page() -> None:
    functions = {name for name, value in vars(merging).items() if not name.startswith("_") and callable(value)}
    records = {name for name in functions if name.isupper()} | {"Method", "Registry"}
    assert functions - records == set(METHODS)
    for name in METHODS:
        assert f"::: modelwright.methods.merging.{name}\n" in page(f"methods/{name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_and_their_options_have_a_place(name: str) -> None:
    text = page("command-line")
    section = text.partition(f"\n## mw {name}\n")[2].partition("\n## ")[0]
    assert section, f"document mw {name} in docs/command-line.md"
    general = {"--help"}
    options = {o for p in COMMANDS[name].params for o in p.opts if o.startswith("--")} - general
    missing = {option for option in options if not re.search(rf"{option}\b", section)}
    assert not missing


def test_the_recipe_page_names_every_key() -> None:
    text = page("recipes")
    table = text.partition("## Top level")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|[^|]*\|", table, re.MULTILINE)))) == set(
        Recipe.model_fields
    )
    assert all(f"`{path.stem}`" in table for path in TEMPLATES.glob("*.jinja"))


def test_the_recipe_page_names_the_parameters_that_pass_anywhere() -> None:
    known = page("recipes").partition("## Keys without effect")[2]
    assert set(re.findall(r"`(\w+)`", known)) == COMMUNITY | {"override_architecture", "residual_weight"}


def test_every_fate_and_law_is_explained() -> None:
    fates = re.findall(r"^\| `([\w-]+)` \|", page("checkpoints").partition("| fate |")[2], re.MULTILINE)
    assert sorted(fates) == sorted(get_args(Fate))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"**{law}**" in text for law in LAWS)


def test_the_json_documents_have_the_keys_that_are_named(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page("command-line").partition("\n## JSON")[2]

    def keys(*arguments: str, code: int = 0) -> set[str]:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == code
        document = json.loads(capsys.readouterr().out)
        if isinstance(document, list):
            return {*document[0], *(key for entry in document for one in entry["parameters"] for key in one)}
        assert document.pop("version") == 1
        inner = [entry for value in document.values() if isinstance(value, list) for entry in value]
        return {*document, *(key for entry in inner if isinstance(entry, dict) for key in entry)}

    found = [keys("check", "ties.yml"), keys("merge", "ties.yml", "-o", "out"), keys("methods")]
    found.append(keys("check", "nothing.yml", code=2))
    for name in set().union(*found):
        assert re.search(rf"`(?:stages\[\]\.)?{name}`", text), name


def test_the_architecture_page_has_the_floors_of_the_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    house = page("architecture").partition("## The house")[2].partition("\n## ")[0]
    floors = [name for layer in contract["layers"] for name in layer.split(" | ")]
    assert re.findall(r"^\*\*(\w+)\*\* ", house, re.MULTILINE) == floors


@pytest.mark.parametrize("source", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(source: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://", "mailto:")):
            continue
        file = (source.parent / path).resolve() if path else source
        assert file.exists(), f"{source.name} links to {target}"
        if anchor and "." not in anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}, target


def test_generated_pages_are_fresh() -> None:
    stale = [path for path, text in script("generate").files().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run python docs/generate.py"
    assert {path.stem for path in (DOCS / "methods").glob("*.md")} == {"index", *METHODS}
    assert {path.stem for path in (DOCS / "methods/outputs").iterdir()} == {"index", *COMBINERS, *CALIBRATORS}


def test_a_stale_page_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    generate = script("generate")
    pages = generate.files()
    ties = DOCS / "methods" / "ties.md"
    monkeypatch.setattr(generate, "files", lambda: pages | {ties: pages[ties] + "\n"})
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 1
    assert "docs/methods/ties.md" in capsys.readouterr().err


def test_docstrings_are_rewritten_for_the_pages() -> None:
    text = "Do.\n\ny = x + 1\nz = 2 y\n\nArgs:\n    x: It.\n\nDiffers:\n    See `A.differs`.\n\nExample:\n    >>> 1\n    1\n"
    expected = "Do.\n\n```text\ny = x + 1\nz = 2 y\n```\n\nArgs:\n    x: It.\n\nExamples:\n    >>> 1\n    1\n"
    pytest.importorskip("griffe")
    assert script("docstrings").rewritten(text) == expected


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # Material's notice about its end of life in 2027
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(METHODS)
    for built in pages:
        html = built.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]*src=[\"']?https?:", html)
        assert not re.findall(r"<link[^>]*rel=[\"']?(?:stylesheet|preconnect)[^>]*https?:", html)
