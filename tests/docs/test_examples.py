"""Everything that the documentation shows works as shown."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml

import modelwright as mw
from modelwright.chat import panel
from modelwright.cli._app import app, run
from modelwright.evaluate import KINDS, Gate
from modelwright.methods import METHODS
from modelwright.recipe import load_recipe

from .pages import DOCS, PAGES, ROOT, Block, blocks, commands, tensors, text_names, vision_names


def by_page(pages: list[Path]) -> list[Any]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


YAML = [block for page in PAGES for block in blocks(page, "yaml")]
TASKS = [pytest.param(b, id=b.id) for b in YAML if re.search(r"^data:", b.text, re.MULTILINE)]
GATES = [pytest.param(b, id=b.id) for b in YAML if re.search(r"^systems:", b.text, re.MULTILINE)]
RECIPES = [
    pytest.param(b, id=b.id)
    for b in YAML
    if b.run and not re.search(r"^(data|systems|kind: panel)\b", b.text, re.MULTILINE)
]
PANELS = [pytest.param(b, id=b.id) for b in YAML if re.search(r"^kind: panel$", b.text, re.MULTILINE)]
LINES = [
    pytest.param(command, id=f"{page.relative_to(ROOT)}:{line}") for page in PAGES for line, command in commands(page)
]


def write_files(page: Path, folder: Path) -> None:
    """The recipes and modules that a page shows under a file's name."""
    for block in blocks(page, "yaml", "python"):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")


# --- Python --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", by_page([page for page in PAGES if blocks(page, "python")]))
def test_python_runs(page: Path, workshop: Path) -> None:
    write_files(page, workshop)
    names: dict[str, Any] = modules() if page.name == "README.md" else {}
    for block in blocks(page, "python"):
        if block.run and not block.file:
            code = "\n" * block.line + block.text
            exec(compile(code, str(page), "exec"), names)


def modules() -> dict[str, Any]:
    """What README calls model_a, model_b and base: modules that were built elsewhere."""
    torch = pytest.importorskip("torch")

    def module(seed: int) -> Any:
        root = torch.nn.Module()
        root.lm_head = torch.nn.Linear(4, 8, bias=False)
        root.lm_head.weight.data = torch.from_numpy(np.random.default_rng(seed).standard_normal((8, 4)))
        return root

    return {"model_a": module(1), "model_b": module(2), "base": module(0)}


def docstrings() -> list[Any]:
    known = [
        f"modelwright.methods.{kind}.{path.stem}"
        for kind in ("merging", "ensembling", "calibration")
        for path in (ROOT / "src/modelwright/methods" / kind).glob("_*.py")
    ]
    known += [
        "modelwright.api",
        "modelwright.checkpoint._open",
        "modelwright.evaluate._bank",
        "modelwright.evaluate._front",
        "modelwright.evaluate.sources._task",
        "modelwright.predictions._collect",
        "modelwright.predictions._fitted",
        "modelwright.predictions._predictions",
    ]
    return [pytest.param(name, id=name) for name in sorted(known) if not name.endswith("__init__")]


@pytest.mark.parametrize("name", docstrings())
def test_docstrings_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), raise_on_error=True).failed == 0


def test_a_docstring_is_run() -> None:
    ties = importlib.import_module("modelwright.methods.merging._ties")
    assert doctest.testmod(ties).attempted > 1


# --- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", RECIPES)
def test_recipes_are_accepted(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text(block.text, encoding="utf-8")
    data = yaml.safe_load(block.text)
    stages, _, _ = load_recipe(path, [], METHODS)
    objects = {
        ref: mw.open(tiny(ref, rename, "modules" in data), label=ref) for ref, rename in references(data).items()
    }
    job = mw.Job.from_recipe(path, [], METHODS, objects)
    plans = job.plans()
    assert len(plans) == len(stages)
    assert all(any(tensor.action in ("merge", "copy") for tensor in plan.tensors) for plan in plans)


def references(node: Any) -> dict[str, dict[str, str]]:
    """Every model that a recipe names and is no step, with its renames."""
    found: dict[str, dict[str, str]] = {}

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("model"), str):
                found.setdefault(node["model"], {}).update(node.get("rename", {}))
            if isinstance(node.get("base_model"), str):
                found.setdefault(node["base_model"], {})
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(node)
    steps = {step["name"] for step in node.get("steps", [])}
    return {reference: rename for reference, rename in found.items() if reference not in steps}


def tiny(reference: str, rename: dict[str, str], towers: bool) -> dict[str, Any]:
    """A small model whose names are such that `rename` mends them."""
    named = tensors(len(reference), vision_names() if towers else text_names())
    for pattern, target in rename.items():
        wanted = re.compile(re.escape(target).replace(r"\*", "(.*)"))
        named = {wanted.sub(pattern.replace("*", r"\1"), name): array for name, array in named.items()}
    return named


def test_a_wrong_recipe_is_noticed(tmp_path: Path) -> None:
    text = "merge_method: linear\nmodels:\n  - {model: a, parameters: {wait: 1}}\n"
    with pytest.raises(mw.InputError, match="no parameter 'wait'"):
        test_recipes_are_accepted(Block(ROOT / "README.md", 1, "yaml", text, True), tmp_path)


# --- task files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", TASKS)
def test_task_files_are_accepted(block: Block) -> None:
    said = yaml.safe_load(block.text)
    KINDS[said.get("kind", "classification")].settings.model_validate(said)


@pytest.mark.parametrize("block", GATES)
def test_gates_are_accepted(block: Block) -> None:
    Gate.of(yaml.safe_load(block.text))


# --- command lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", LINES)
def test_command_lines_parse(command: str) -> None:
    parse(command)


def parse(command: str) -> None:
    group: Any = typer.main.get_command(app)
    _, name, *arguments = shlex.split(command)
    group.commands[name].make_context(name, arguments)


def test_a_wrong_option_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option: --densty"):
        parse("mw merge ties.yml -o merged --densty 1")


RUN = [page for page in PAGES if any(commands(page, fenced_only=True))]


@pytest.mark.parametrize("page", by_page(RUN))
def test_commands_run(page: Path, workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(page, workshop)
    for line, command in commands(page, fenced_only=True):
        name, *arguments = shlex.split(command)[1:]
        if name not in ("demo", "sweep"):  # they train for minutes, and have tests of their own
            assert run([name, *arguments]) == 0, f"{page.name}:{line}: {capsys.readouterr().err}"


# --- what is shown as output ---------------------------------------------------------------------------------------


def test_the_error_message_is_the_real_one(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = (workshop / "ties.yml").read_text(encoding="utf-8").removeprefix("# ties.yml\n")
    recipe = recipe.replace("density: 0.3", "denisty: 0.3").replace("density: [0.5, 0.1]", "density: 20")
    (workshop / "ties.yml").write_text(recipe, encoding="utf-8")
    assert run(["check", "ties.yml"]) == 2
    (shown,) = blocks(DOCS / "index.md", "text")
    pattern = re.escape(shown.text).replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern, capsys.readouterr().err)


@pytest.mark.parametrize("block", PANELS)
def test_panels_are_accepted(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "panel.yml"
    path.write_text(block.text, encoding="utf-8")
    panel(path)
