"""The command line: help, exit codes, JSON, plugins, quiet, terminals of any width."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_folders as tiny
from modelwright.cli import _app
from modelwright.cli._app import run
from modelwright.cli._merge import size_of, size_text
from modelwright.errors import InputError
from modelwright.methods import CALIBRATORS, COMBINERS, METHODS

MW = str(Path(sys.executable).with_name("mw"))
RECIPE = (
    "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, density: 0.5}\n"
)
DIRECT = ["a", "b", "--method", "ties", "--base", "base", "--set", "density=0.5"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELWRIGHT_DEBUG", raising=False)
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    Path("recipe.yml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MW, *arguments], capture_output=True, text=True, env=os.environ | environment, check=False, timeout=60
    )


# --- help ----------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_in_whole_sentences(said: Any) -> None:
    code, out, err = said("--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: mw [OPTIONS] COMMAND [ARGS]...")
    assert "..." not in out.partition("Commands:")[2]
    for name in ("demo", "check", "merge", "eval", "methods"):
        assert f"\n  {name} " in out


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "merge",
            "--out --method --base --set --overwrite --seed --threads --device --shard-size --plugin --json --quiet",
        ),
        ("check", "--method --base --set --seed --threads --plugin --json --quiet"),
        ("methods", "--plugin --json --cite"),
        ("demo", "--out --seed --quiet"),
        ("eval", "--task --out --split --limit --batch --device --network --metric --restart --plugin --json --quiet"),
    ],
)
def test_help_of_a_command(name: str, options: str, said: Any) -> None:
    code, out, _ = said(name, "-h")
    assert code == 0
    for option in options.split():
        assert option in out, option


def test_version(said: Any) -> None:
    code, out, _ = said("--version")
    assert code == 0
    assert out.startswith("modelwright ")


HEAVY = "numpy pydantic rich yaml torch transformers ml_dtypes safetensors huggingface_hub modelwright.api modelwright.methods"
IMPORTED = """
import sys
from modelwright.cli._app import run
code = run(sys.argv[1].split())
found = sorted(name for name in sys.argv[2].split() if name in sys.modules)
print("\\nIMPORTED", code, found)
"""


@pytest.mark.parametrize("arguments", ["--help", "merge --help", "check --help", "methods --help", "--version"])
def test_help_imports_nothing_heavy(arguments: str) -> None:
    heavy = HEAVY if arguments.startswith("--") else HEAVY.replace("pydantic", "")  # typer reads options with it
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, arguments, heavy], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "IMPORTED 0 []"


@pytest.mark.parametrize(
    "arguments",
    ["check recipe.yml", "methods", "methods ties --json", "merge recipe.yml -o out", "merge a b --method linear -o o"],
)
def test_the_cpu_path_imports_no_torch(arguments: str, here: Path) -> None:
    wanted = "torch transformers tokenizers jax huggingface_hub"
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, arguments, wanted], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "IMPORTED 0 []"


WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Absent())
from modelwright.cli._app import run
sys.exit(run(sys.argv[1:]))
"""


def test_without_torch_installed_at_all(here: Path) -> None:
    def without(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, check=False
        )

    done = without("merge", "recipe.yml", "-o", "out", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(tiny.read(here / "out")) == sorted(tiny.names())
    done = without("merge", "recipe.yml", "-o", "other", "--device", "cuda")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --device cuda needs the package 'torch', which is not installed. Install the extra: pip install "
        '"modelwright[torch]".\n'
    )
    Path("old.bin").write_bytes(b"PK")  # torch files need no torch
    done = without("check", "old.bin", "--method", "linear")
    assert done.returncode == 2
    assert done.stderr.startswith("error: old.bin cannot be read as a torch file (its zip directory is not at its end:")


# --- exit codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mrge"], "Error: No such command 'mrge'. Did you mean 'merge'?"),
        (["merge"], "Error: Missing argument 'RECIPE | MODEL..'."),
        (["merge", "recipe.yml"], "Error: Missing option '--out' / '-o'."),
        (["merge", "recipe.yml", "-o", "out", "--thread", "1"], "Error: No such option: --thread"),
        (["merge", "recipe.yml", "-o", "out", "-j", "x"], "Error: Invalid value for '--threads' / '-j'"),
        (["merge", "recipe.yml", "-o", "out", "--seed", "-1"], "Error: Invalid value for '--seed'"),
        (["check", "a", "b"], "error: 2 models need --method, or give one recipe file. See mw methods."),
        (["check", "recipe.yml", "--base", "a"], "error: --base goes with --method. In a recipe write base_model,"),
        (["check", "a"], "error: 'a' is a folder, not a recipe. Give a YAML file, or models with --method."),
        (
            ["check", "recipe.yml", "--method", "ties"],
            "error: 'recipe.yml' is a recipe, and a recipe says itself what its method is. Leave --method out, or use "
            "--set merge_method=NAME.",
        ),
        (
            ["check", "a", "--method", "tis"],
            "error: unknown merge method 'tis'. Did you mean 'ties'? Valid: arcee_fusion,",
        ),
        (
            ["check", "a", "--method", "ties"],
            "error: ties needs base_model, the model that the others were tuned from.",
        ),
        (["methods", "--kind", "merge"], "error: there are no methods of the kind 'merge'. Did you mean 'merging'?"),
        (["methods", "tis"], "error: unknown merge method 'tis'. Did you mean 'ties'?"),
        (
            ["merge", "recipe.yml", "-o", "out", "--shard-size", "5XB"],
            "error: --shard-size must be a size such as 5GB or 500MB, got '5XB'.",
        ),
        (["check", "recipe.yml", "--plugin", "gone.py"], "error: no plugin file 'gone.py'."),
        (["merge", "recipe.yml", "-o", "a"], "error: the output 'a' is or holds one of the inputs."),
    ],
)
def test_wrong_input_is_code_2(arguments: list[str], message: str, here: Path, said: Any) -> None:
    before = tiny.listing(here)
    code, out, err = said(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert tiny.listing(here) == before


def test_failure_is_code_1(here: Path, said: Any) -> None:
    weights = tiny.arrays(1) | {"lm_head.weight": tiny.arrays(1)["lm_head.weight"] * 1e30}
    tiny.write(here / "a", weights, tiny.config())
    code, out, err = said("merge", "a", "--method", "linear", "--set", "out_dtype=float16", "-o", "out")
    assert (code, out) == (1, "")
    assert err.startswith("error: 'lm_head.weight' reaches ")
    assert err.count("\n") == 1


def test_what_is_not_expected_is_code_1_and_asks_for_debug(
    here: Path, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect of ours")

    monkeypatch.setattr("modelwright.cli._merge.job_of", broken)
    code, _, err = said("check", "recipe.yml")
    assert code == 1
    assert err == (
        "error: ZeroDivisionError: a defect of ours\nThis is not expected. Run again with --debug for a traceback.\n"
    )


@pytest.mark.parametrize(
    "arguments", [["--debug", "check", "gone.yml"], ["check", "gone.yml", "--debug"], ["check", "--debug", "gone.yml"]]
)
def test_debug_shows_the_traceback_wherever_it_stands(arguments: list[str], here: Path, said: Any) -> None:
    code, _, err = said(*arguments)
    assert code == 2  # as without it
    assert err.startswith("Traceback (most recent call last)")
    assert "modelwright.errors.InputError: no recipe file 'gone.yml'" in err
    plain = said(*(word for word in arguments if word != "--debug"))
    assert plain == (2, "", "error: no recipe file 'gone.yml'. Check the path.\n")


def test_out_of_memory_is_said_plainly(here: Path, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("modelwright.engine._merge.compute", starved)
    assert said("merge", "recipe.yml", "-o", "out") == (1, "", "error: out of memory; --threads 1 needs least\n")


def test_interrupt_is_code_130(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_app, "app", interrupted)
    code, out, err = said("methods")
    assert (code, out, err) == (130, "", "error: interrupted. Nothing unfinished was kept.\n")


def test_a_reader_that_leaves_is_no_failure(here: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{MW} methods --json | head -c 10"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


# --- what is printed -----------------------------------------------------------------------------------------------


def test_merge_says_what_it_made(here: Path, said: Any) -> None:
    code, out, err = said("merge", "recipe.yml", "-o", "out")
    assert (code, err) == (0, "")
    assert out.startswith("merged into out: 1.04 kB in ")
    assert out.endswith("/s read and written)\n")


def test_direct_merge_gives_the_weights_of_the_recipe(here: Path, said: Any) -> None:
    assert said("merge", "recipe.yml", "-o", "one", "-q") == (0, "", "")
    assert said("merge", *DIRECT, "-o", "two", "-q") == (0, "", "")
    assert Path("one/model.safetensors").read_bytes() == Path("two/model.safetensors").read_bytes()


def test_options_of_merge(here: Path, said: Any) -> None:
    arguments = ["merge", *DIRECT[:3], "dare_ties", *DIRECT[4:], "-o", "out", "-q", "--seed", "3", "-j", "1"]
    assert said(*arguments, "--shard-size", "300B", "--device", "cpu") == (0, "", "")
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert (manifest["seed"], manifest["run"]["threads"], manifest["run"]["device"]) == (3, 1, "cpu")
    assert len(list(Path("out").glob("model-*.safetensors"))) > 1
    assert said(*arguments)[0] == 2
    assert said(*arguments, "--overwrite") == (0, "", "")
    assert len(list(Path("out").glob("*.safetensors"))) == 1


def test_quiet_check_tells_by_its_code_alone(here: Path, said: Any) -> None:
    assert said("check", "recipe.yml", "--quiet") == (0, "", "")
    code, out, err = said("check", "gone.yml", "--quiet")
    assert (code, out) == (2, "")
    assert err


def test_json_of_check(here: Path, said: Any) -> None:
    code, out, err = said("check", "recipe.yml", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["version"], found["ok"]) == (1, True)
    (stage,) = found["stages"]
    assert stage["method"] == "ties"
    assert stage["models"] == ["a", "b", "base"]
    assert stage["donor"] == "base"
    assert stage["accounting"] == {name: {"merged": 15} for name in ("a", "b", "base")}
    assert (stage["tensors"], stage["bytes_read"], stage["bytes_written"], stage["passes"]) == (15, 3120, 1040, 1)
    assert stage["peak_bytes"] > 0
    assert (stage["semantics"], stage["seed"]) == ("community", 0)
    assert {"name", "created", "differences", "notes"} < set(stage)


def test_names_with_brackets_are_shown_whole(here: Path, said: Any) -> None:
    tiny.model(here / "run [red] 1", 5)
    code, out, _ = said("check", "run [red] 1", "a", "--method", "linear")
    assert code == 0
    assert "run [red] 1 " in out


def test_json_of_merge(here: Path, said: Any) -> None:
    code, out, err = said("merge", "recipe.yml", "-o", "out", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert set(found) == {"version", "ok", "out", "seconds", "bytes_read", "bytes_written", "notes"}
    assert (found["version"], found["ok"], found["out"], found["bytes_read"]) == (1, True, "out", 3120)


def test_json_of_problems(here: Path, said: Any) -> None:
    Path("recipe.yml").write_text(RECIPE.replace("density: 0.5", "density: 50, lamda: 1"), encoding="utf-8")
    for arguments in (["check", "recipe.yml", "--json"], ["merge", "recipe.yml", "-o", "out", "--json"]):
        code, out, err = said(*arguments)
        found = json.loads(out)
        assert code == 2
        assert (found["version"], found["ok"]) == (1, False)
        assert [problem["where"] for problem in found["problems"]] == ["recipe.yml:4"] * 2
        assert found["problems"][0] == {
            "what": "ties: density must be in [0, 1], got 50",
            "mend": "It is a fraction; for 50 % write 0.5.",
            "where": "recipe.yml:4",
        }
        assert err.startswith("error: 2 problems, nothing was written\n")


def test_json_of_methods(said: Any) -> None:
    code, out, _ = said("methods", "--json")
    found = json.loads(out)
    assert code == 0
    assert [entry["name"] for entry in found] == [*sorted(METHODS), *sorted(COMBINERS), *sorted(CALIBRATORS)]
    assert {entry["kind"] for entry in found} == {"merging", "ensembling", "calibration"}
    assert json.loads(said("methods", "--json", "--kind", "ensembling")[1])[0]["takes"] == ["classes"]
    for entry in found:
        if entry["kind"] != "merging":
            assert {"name", "title", "paper", "needs", "takes", "gives", "parameters"} <= set(entry)
            continue
        assert {"name", "title", "paper", "needs", "scope"} <= set(entry)
        assert isinstance(entry["needs"], list)
        assert entry["scope"] in ("row", "tensor", "layer", "model")
    ties = next(entry for entry in found if entry["name"] == "ties")
    assert ties["needs"] == ["base"]
    assert (ties["passes"], ties["bytes_per_element"]) == (2, None)
    assert ties["paper"] == "arXiv:2306.01708"
    density = next(p for p in ties["parameters"] if p["name"] == "density")
    assert (density["default"], density["paper"], density["rule"], density["per_model"]) == (
        1.0,
        0.2,
        "in [0, 1]",
        True,
    )
    assert json.loads(said("methods", "ties", "--json")[1]) == [ties]


def test_citations(said: Any) -> None:
    code, out, _ = said("methods", "--cite")
    assert code == 0
    assert out.count("@inproceedings{yadav2023ties,") == 1
    assert said("methods", "ties", "--cite")[1].startswith("@inproceedings{yadav2023ties,")
    assert said("methods", "passthrough", "--cite")[0] == 0


def test_check_shows_what_differs(here: Path, said: Any) -> None:
    for name in ("a", "b"):
        tiny.tokenizer(here / name, name)
        Path(name, "README.md").write_text(f"---\nlicense: licence-{name}\n---\n", encoding="utf-8")
    code, out, _ = said("check", "recipe.yml")
    assert code == 0
    assert "TIES-Merging of 3 checkpoints, community semantics" in out
    for text in (
        "licence differs",
        "a: licence-a",
        "base: not stated",
        "tokenizer differs",
        "reads",
        "writes",
        "memory",
    ):
        assert text in out, text
    assert "note: the models' tokenizers differ; base's is copied" in out


def test_check_of_steps_shows_each(here: Path, said: Any) -> None:
    text = "steps:\n- {name: one, merge_method: linear, models: [{model: a}, {model: b}], parameters: {weight: 1}}\n- {name: two, merge_method: linear, models: [{model: one}], parameters: {weight: 1}}\n"
    Path("recipe.yml").write_text(text, encoding="utf-8")
    code, out, _ = said("check", "recipe.yml")
    assert code == 0
    assert "(step one)" in out
    assert "(step two)" in out
    stages = json.loads(said("check", "recipe.yml", "--json")[1])["stages"]
    assert [stage["name"] for stage in stages] == ["one", "two"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "recipe.yml"],
        ["methods"],
        ["methods", "ties"],
        ["methods", "greedy"],
        ["methods", "temperature"],
        ["--help"],
    ],
)
@pytest.mark.parametrize("columns", [30, 80, 300])
def test_any_width(arguments: list[str], columns: int, here: Path, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = said(*arguments)
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines()) <= max(columns, 80)
    assert out.strip()


def test_no_escape_codes_in_a_pipe(here: Path) -> None:
    done = command("check", "recipe.yml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout


def test_names_are_not_cut_in_a_narrow_terminal(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = said("methods")[1]
    for name in METHODS:
        assert f"\n{name} " in f"\n{out}", name


# --- plugins -------------------------------------------------------------------------------------------------------

PLUGIN = '''
from __future__ import annotations
from collections.abc import Sequence
from typing import Annotated
from pydantic import Field
from modelwright.methods import Method, Params, checked

class LargestParams(Params):
    """Parameters."""
    factor: Annotated[float, Field(ge=0, description="Factor of the result.")] = 1.0

@checked(LargestParams)
def largest(models: Sequence, *, factor: float = 1.0):
    """Entrywise maximum."""
    result = models[0]
    for model in models[1:]:
        result = (result + model + abs(result - model)) / 2
    return result * factor

LARGEST = Method(
    name="largest", title="Largest", paper="", summary="The larger entry.", function=largest, params=LargestParams,
    base="ignored", models=(1, None), laws=frozenset(),
)
'''


def test_a_plugin_merges(here: Path, said: Any) -> None:
    Path("mine.py").write_text(PLUGIN, encoding="utf-8")
    assert "Largest" in said("methods", "largest", "--plugin", "mine.py")[1]
    arguments = ["merge", "a", "b", "--method", "largest", "--plugin", "mine.py", "-o", "out", "-q"]
    code, _, err = said(*arguments, "--set", "factor=-1")
    assert (code, err) == (2, "error: largest: factor must be in [0, inf), got -1.\n")
    assert said(*arguments, "--set", "factor=2") == (0, "", "")
    a, b = tiny.arrays(1)["lm_head.weight"], tiny.arrays(2)["lm_head.weight"]
    assert abs(tiny.read(here / "out")["lm_head.weight"] - 2 * a.clip(min=b)).max() < 1e-6
    assert said("methods", "largest")[0] == 2  # only where it is asked for


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "error: the plugin 'mine.py' defines no Method. Write NAME = Method(...) at its top level.\n"),
        (
            "x = 1\nx = (\n",
            "error: the plugin fails: SyntaxError: '(' was never closed (mine.py, line 2). [mine.py:2]\n",
        ),
        ("\n\n1 / 0\n", "error: the plugin fails: ZeroDivisionError: division by zero. [mine.py:3]\n"),
        (
            "import gone_forever\n",
            "error: the plugin fails: ModuleNotFoundError: No module named 'gone_forever'. [mine.py:1]\n",
        ),
        (
            PLUGIN.replace('name="largest"', 'name="ties"'),
            "error: two methods are called 'ties'. Rename the one in the plugin.\n",
        ),
    ],
)
def test_plugins_that_are_wrong(text: str, message: str, here: Path, said: Any) -> None:
    Path("mine.py").write_text(text, encoding="utf-8")
    assert said("check", "recipe.yml", "--plugin", "mine.py") == (2, "", message)


def test_entry_points_of_other_packages(here: Path) -> None:
    site = here / "site"
    (site / "other-1.0.dist-info").mkdir(parents=True)
    (site / "other.py").write_text(PLUGIN, encoding="utf-8")
    (site / "other-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    points = site / "other-1.0.dist-info/entry_points.txt"
    points.write_text("[modelwright.methods]\nlargest = other:LARGEST\n")
    environment = {"PYTHONPATH": str(site)}
    assert "largest" in command("methods", **environment).stdout
    done = command("merge", "a", "b", "--method", "largest", "-o", "out", "-q", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    points.write_text("[modelwright.methods]\nlargest = other:GONE\n")
    done = command("methods", **environment)
    assert done.returncode == 2
    assert done.stderr == (
        "error: the entry point 'largest = other:GONE' of other cannot be loaded: AttributeError: module 'other' has no "
        "attribute 'GONE'. Mend or uninstall that package.\n"
    )
    points.write_text("[modelwright.methods]\nlargest = other:largest\n")
    assert (
        "'largest = other:largest' of other is a function. It must name a" in command("methods", **environment).stderr
    )


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("500MB", 5 * 10**8),
        ("1GiB", 2**30),
        ("1.5k", 1500),
        ("7", 7),
        ("2 TB", 2 * 10**12),
        ("9b", 9),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "1e3", "5PB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--shard-size must be a size"):
        size_of(text)


def test_sizes_for_people() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 123456, 5e9, 7e15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "123 kB",
        "5 GB",
        "7e+03 TB",
    ]


@pytest.mark.parametrize("arguments", [("merge", "recipe.yml"), ("merge", "recipe.yml", "-o", "out", "--nope")])
def test_wrong_options_are_json_too(here: Path, said: Callable[..., tuple[int, str, str]], arguments: Any) -> None:
    code, out, _ = said(*arguments, "--json")
    assert (code, json.loads(out)["ok"]) == (2, False)
    assert "option" in json.loads(out)["problems"][0]["what"]


def test_a_failed_run_is_json_too(
    here: Path, said: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelwright.engine import _run
    from modelwright.errors import RunError

    def fail(*_: object) -> None:
        raise RunError("the disk is gone")

    monkeypatch.setattr(_run, "run_merge", fail)
    code, out, _ = said("merge", "recipe.yml", "-o", "out", "--json")
    assert (code, json.loads(out)["problems"][0]["what"]) == (1, "the disk is gone")
