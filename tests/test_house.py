"""The house stands: imports run downwards only, public names are documented, examples run."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import modelwright as mw

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "modelwright"
LINT = (
    "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
)


def copied(folder: Path) -> Path:
    """A copy of the package and its import contract."""
    shutil.copytree(SOURCE, folder / "src/modelwright", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder / "src/modelwright"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, check=False)


def test_imports_run_downwards(tmp_path: Path) -> None:
    copied(tmp_path)
    done = lint_imports(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 1 kept, 0 broken." in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("methods/merging/_linear.py", "import modelwright.checkpoint", "modelwright.methods is not allowed to import"),
        ("engine/_card.py", "def f():\n    import modelwright.cli", "modelwright.engine is not allowed to import"),
    ],
)
def test_an_import_upwards_is_found(module: str, line: str, complaint: str, tmp_path: Path) -> None:
    file = copied(tmp_path) / module
    file.write_text(file.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert complaint in done.stdout


def test_a_package_outside_the_contract_is_found(tmp_path: Path) -> None:
    package = copied(tmp_path) / "attic"
    package.mkdir()
    (package / "__init__.py").touch()
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "attic" in done.stdout + done.stderr


def test_public_names_are_documented() -> None:
    assert mw.__doc__
    for name in mw.__all__:
        value = getattr(mw, name)
        assert inspect.getdoc(value), name
        if inspect.isclass(value):
            for member, function in vars(value).items():
                public = not member.startswith("_") and getattr(function, "__name__", "") != "<lambda>"
                if public and (inspect.isfunction(function) or isinstance(function, property)):
                    assert inspect.getdoc(function), f"{name}.{member}"


def test_public_names_are_the_ones_that_type_checkers_see() -> None:
    text = (SOURCE / "__init__.py").read_text(encoding="utf-8")
    for name in mw.__all__:
        assert f" {name} as {name}" in text, name
    with pytest.raises(AttributeError, match="module 'modelwright' has no attribute 'mrege'"):
        _ = mw.mrege


def test_no_package_has_the_name_of_a_public_function() -> None:
    """Importing such a subpackage would put it in the function's place."""
    functions = {name for name in mw.__all__ if inspect.isfunction(getattr(mw, name))}
    assert {"open", "merge"} <= functions
    assert not functions & {path.stem for path in SOURCE.iterdir()}


def test_what_is_rarely_needed_is_imported_when_it_is(tmp_path: Path) -> None:
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    script = (
        "import sys; import modelwright as mw, modelwright.cli; mw.open('.'); mw.open('file://.'); mw.open({}); "
        "heavy = {'aiohttp', 'botocore', 'fsspec', 'huggingface_hub', 'numba', 's3fs', 'safetensors', 'torch'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_examples_run() -> None:
    arguments = ["--doctest-modules", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(SOURCE)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
