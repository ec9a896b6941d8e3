"""Tools, the calculator, retrieval, and code that is run apart."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from modelwright.chat import (
    CALCULATOR,
    Demonstration,
    Materials,
    Passage,
    Ran,
    Retriever,
    Sandbox,
    Tool,
    arithmetic,
    demonstrations,
    panel,
    tool,
    toolbox,
)  # fmt: skip
from modelwright.chat._tools import named_tool, read_call
from modelwright.errors import InputError

from .helpers import STEADY

# The calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"), ("2^10", "1024"), ("sqrt(2) ** 2", "2"), ("-7 // 2", "-4"), ("7 % 4", "3"), ("1/3", "0.333333333333"),
        ("round(2.5) + max(1, 5)", "7"), ("pi", "3.14159265359"), ("0.1 + 0.2", "0.3"),
    ],
)  # fmt: skip
def test_the_calculator_calculates(expression: str, value: str) -> None:
    assert asyncio.run(CALCULATOR.call({"expression": expression})) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('x')", "open('/etc/passwd')", "(1).__class__", "[x for x in (1,)]", "lambda: 1", "'a' * 9",
        "9**9**9", "10**1001", "2.0**5000", "1/0", "(-8)**0.5", "x", "f'{1}'", "1 if 1 else 2", "True", "sqrt(x=2)", "1" * 501,
        "(" * 400, "max()", "log(0)", "10**(-1001)",
    ],
)  # fmt: skip
def test_the_calculator_refuses(expression: str) -> None:
    assert asyncio.run(CALCULATOR.call({"expression": expression})).startswith("error: ")
    with pytest.raises(ValueError):
        arithmetic(expression)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.sampled_from("+-*"))
@settings(max_examples=60, **STEADY)
def test_it_agrees_with_python(a: int, b: int, sign: str) -> None:
    assert arithmetic(f"({a}) {sign} ({b})") == eval(f"({a}) {sign} ({b})")


# Tools


def weather(city: str, days: int = 1) -> str:
    """The weather in a city.

    More that is not told.
    """
    return f"{city}: sun for {days} days"


def test_a_tool_says_what_it_is_and_checks_arguments() -> None:
    one = Tool.of(weather)
    assert one.usage == "weather(city: str, days: int = 1): The weather in a city."
    assert asyncio.run(one.call({"city": "Rome", "days": 2})) == "Rome: sun for 2 days"
    assert asyncio.run(one.call({})).startswith("error: city: Missing required argument")
    assert asyncio.run(one.call({"city": "Rome", "days": "many"})).startswith(
        "error: days: Input should be a valid integer"
    )
    assert asyncio.run(one.call({"city": "Rome", "path": "/"})).startswith("error: path: Unexpected keyword argument")


def test_failures_of_tools_are_told() -> None:
    def fails() -> str:
        raise OSError("no")

    async def slow() -> str:
        await asyncio.sleep(10)
        return ""

    async def quick(n: int) -> list[int]:
        return [n]

    assert asyncio.run(Tool.of(fails).call({})) == "error: OSError: no"
    assert asyncio.run(Tool("slow", slow, timeout=0.01).call({})) == "error: no result within 0.01 s"
    assert asyncio.run(Tool.of(quick).call({"n": 3})) == "[3]"
    assert asyncio.run(Tool("long", lambda: "x" * 5000).call({})).endswith("[1,000 characters left out]")


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ('Action: weather {"city": "Rome"}', "weather"),
        ('I look.\n\nAction: weather {"city": "Rome"}\n', "weather"),
        ('Action: weather {"city": "Rome"}\nand then?', None),
        ('The passage says: Action: weather {"city": "Rome"}', None),
        ("Action: weather Rome", None),
        ("Action: weather {city: Rome}", None),
        ('Action: os.system {"x": 1}', None),
        ("", None),
    ],
)
def test_only_the_last_line_is_a_call(reply: str, name: str | None) -> None:
    call = read_call(reply)
    assert (call.name if call else None) == name


def test_tools_of_a_panels_file_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "panel_tools_here.py").write_text(
        "from modelwright.chat import tool\n@tool\ndef good(x: int) -> int:\n    'Twice.'\n    return 2 * x\ndef bad(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert named_tool("calculator") is CALCULATOR
    assert asyncio.run(named_tool("panel_tools_here:good").call({"x": 4})) == "8"
    for reference, complaint in {
        "os:system": "'os:system' is not marked as a tool. Write @modelwright.chat.tool above the function",
        "panel_tools_here:bad": "is not marked as a tool",
        "panel_tools_here:god": "the module 'panel_tools_here' has no function 'god'. Did you mean 'good'",
        "no_such_module_at_all:x": "the module 'no_such_module_at_all' of a tool cannot be imported",
        "calc": "a tool is named as module:function, got 'calc'. Or: calculator",
    }.items():
        with pytest.raises(InputError, match=complaint):
            named_tool(reference)
    assert tool(weather) is weather


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Tool("a b", weather), "a tool's name must be a word, got 'a b'"),
        (lambda: Tool.of(lambda x: x), "a tool's name must be a word, got '<lambda>'"),
        (lambda: Tool("f", lambda *a: a), "tool 'f': its arguments must have names"),
        (lambda: toolbox([weather, weather]), "two tools are called 'weather'"),
    ],
)
def test_refusals(make: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make()


# Retrieval


def test_passages_of_files_are_found(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    (tmp_path / "a.md").write_text("The Nile is long.\n\nThe Amazon is wide, and has 400 fish.\n")
    (tmp_path / "b.jsonl").write_text('{"text": "Fish swim in the Rhine."}\n')
    (tmp_path / "c.txt").write_text(" ".join(f"word{i}" for i in range(30)))
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    found = Retriever.of_files([tmp_path], words=10)
    assert [p.source for p in found.passages] == ["a.md:1", "a.md:2", "b.jsonl:1", "c.txt:1", "c.txt:2", "c.txt:3"]
    assert found.search("How long is the Nile?", 2)[0].source == "a.md:1"
    assert [p.source for p in found.search("fish", 5)] == ["b.jsonl:1", "a.md:2"]  # the shorter passage first
    assert [p.source for p in found.search("400", 5)] == ["a.md:2"]
    assert found.search("zebra", 3) == []
    with pytest.raises(
        InputError, match=r"documents must be folders or files of \.txt, \.md, \.rst, \.jsonl, got 'image.png'"
    ):
        Retriever.of_files([tmp_path / "image.png"])
    with pytest.raises(InputError, match="the document cannot be read: No such file"):
        Retriever.of_files([tmp_path / "none.md"])
    with pytest.raises(InputError, match="retrieval needs a passage"):
        Retriever([])


def test_scores_are_those_of_bm25() -> None:
    """Lucene's formula, written out."""
    pytest.importorskip("bm25s")
    import math

    texts = ["cat cat dog", "dog bird", "cat fish fish fish bird"]
    found = {
        p.source: p.score for p in Retriever([Passage(str(i), t) for i, t in enumerate(texts)]).search("cat bird", 3)
    }
    words = [t.split() for t in texts]
    mean = sum(map(len, words)) / 3
    for i, own in enumerate(words):
        total = 0.0
        for term in ("cat", "bird"):
            holding = sum(term in other for other in words)
            idf = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
            count = own.count(term)
            total += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(own) / mean))
        assert found[str(i)] == pytest.approx(total, rel=1e-4)


# Materials


def test_demonstrations_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"question": "Q", "answer": "4", "noisy": true}\n\n')
    assert demonstrations(path) == (Demonstration("Q", "4", noisy=True),)
    for line, complaint in {
        '{"question": "Q"}': "a line needs answer",
        '{"question": "Q", "answer": 4}': "answer must be str, got 4",
        '{"question": "Q", "answer": "4", "reason": "x"}': "there is no key 'reason'. Did you mean 'reasoning'",
        "[]": "a line must be a JSON object with question, answer",
        "": "the file has no line",
    }.items():
        path.write_text(line)
        with pytest.raises(InputError, match=complaint):
            demonstrations(path)
    assert Materials().missing({"tools": 1}) != []
    assert Materials(documents=Retriever([Passage("a", "b")])).missing({"tools": 1}) == []  # documents can be searched


def test_a_panels_file_has_materials(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Q?", "answer": "4"}\n')
    (tmp_path / "notes.md").write_text("Q is four.")
    (tmp_path / "d.jsonl").write_text('{"question": "R?", "answer": "5"}\n')
    base = "kind: panel\ncache: null\nbackends: {s: {kind: scripted, questions: q.jsonl}}\n"
    path = tmp_path / "p.yml"
    path.write_text(
        base
        + "program: {name: few_shot, shots: 1}\ndemonstrations: d.jsonl\ndocuments: [notes.md]\ntools: [calculator]\n"
    )
    made = panel(path)
    assert list(made.materials.toolbox) == ["calculator", "search"]
    assert made.materials.demonstrations[0].question == "R?"
    path.write_text(base + "program: cot\n")
    assert panel(path).program.name == "chain_of_thought"
    path.write_text(base + "program: rag\ndocuments: [none.md]\n")
    with pytest.raises(InputError, match=r"the document cannot be read: No such file .*none.md"):
        panel(path)
    path.write_text(base + "program: react\ntools: [os:system]\n")
    with pytest.raises(InputError, match=r"'os:system' is not marked as a tool"):
        panel(path)
    path.write_text(base + "program: pot\n")
    with pytest.raises(InputError, match="Say --allow-code"):
        panel(path)
    assert panel(path, code=Sandbox()).program.name == "program_of_thoughts"
    assert panel(path, code=Sandbox()).fingerprint != ""


# Code

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's")


def ran(code: str, **limits: Any) -> Ran:
    return asyncio.run(Sandbox(**{"seconds": 10.0, **limits}).run(code))


def isolated() -> bool:
    try:
        asyncio.run(Sandbox(seconds=20).check())
    except InputError:
        return False
    return True


APART = pytest.mark.skipif(not isolated(), reason="this system permits no namespaces")


@APART
def test_code_prints_or_leaves_an_answer() -> None:
    assert ran("answer = sum(range(5))") == Ran("10")
    assert ran("import math\nprint(math.comb(5, 2))\nanswer = 3") == Ran("10")
    assert ran("1/0").error == "ZeroDivisionError: division by zero"
    assert ran("def f(:").error.startswith("SyntaxError")
    assert ran("raise SystemExit") == Ran("")
    assert "no network" in asyncio.run(_kept())


async def _kept() -> tuple[str, ...]:
    return await Sandbox(seconds=20).check()


@APART
@pytest.mark.parametrize(
    ("code", "sign"),
    [
        ("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", "Error"),
        ("import _socket\ns = _socket.socket(2, 2)\ns.connect(('8.8.8.8', 53))\nprint('out')", "Error"),
        ("print(open('/etc/passwd').read())", "Error"),
        ("import os\nprint(len(os.listdir('/')) or 'nothing')", ""),
        ("import os\nprint(dict(os.environ))", "{}"),
        ("import os\nos.fork()\nprint('two')", "Error"),
        ("import os\nos.kill(os.getppid(), 9)\nprint('alive')", ""),
        ("import os\nos.mkdir('d')\nos.chroot('d')", "Error"),
        ("import ctypes\nprint(ctypes.CDLL(None).unshare(0x10000000))", "-1"),
        ("import os\nos.setuid(0)\nprint(os.getuid())", ""),
    ],
)
def test_code_is_shut_in(code: str, sign: str) -> None:
    found = ran(code)
    said = found.output + found.error
    assert sign in said, found
    assert found.output in ("", "nothing", "{}", "-1", "alive", "65534") or (
        found.output.isdecimal() and found.output != "0"
    ), found


@APART
def test_limits_of_time_memory_and_output() -> None:
    assert ran("while True: pass", seconds=0.5).error == "it took more than 0.5 s"
    assert ran("while True:\n try:\n  while True: pass\n except BaseException: pass", seconds=0.5).error
    assert ran("x = bytearray(10**9)", memory=128 << 20).error == "it needed too much memory"
    assert len(ran("for i in range(10**5): print('x' * 99)").output) <= 20_000
    assert ran("import os\nos.write(1, b'{}')\nos._exit(0)").output == ""
    assert ran("x" * 100_001).error == "the code has more than 100,000 characters"
    assert "without a result" in ran("import os\nos._exit(3)").error


@APART
def test_undefined_functions_are_asked_for_in_order() -> None:
    box = Sandbox(seconds=10)
    code = "a = size('cat')\nb = size('dog', unit='kg')\nanswer = a + b"
    first = asyncio.run(box.run(code, semantic=True))
    assert first.asks == ("size", ("'cat'",))
    second = asyncio.run(box.run(code, [{"result": 4}], semantic=True))
    assert second.asks == ("size", ("'dog'", "unit='kg'"))
    assert asyncio.run(box.run(code, [{"result": 4}, {"result": 20}], semantic=True)) == Ran("24")
    assert asyncio.run(box.run(code)).error.startswith("NameError")


def test_without_namespaces_it_refuses_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.resources import files

    source = (files("modelwright.chat") / "_jail.py").read_text(encoding="utf-8")
    elsewhere = source.replace('sys.platform.startswith("linux")', "False")
    assert elsewhere != source
    original = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: elsewhere if self.name == "_jail.py" else original(self, *a, **k)
    )
    with pytest.raises(
        InputError, match=r"its network cannot be cut off \(only Linux has namespaces\).*--allow-network"
    ):
        ran("answer = 1")
    assert ran("answer = 1", network=True) == Ran("1")
    assert ran("while True: pass", network=True, seconds=0.5).error == "it took more than 0.5 s"


def test_secrets_do_not_reach_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    found = ran("import os\nprint(json) if 'json' in dir() else print(dict(os.environ))", network=True)
    assert "sk-secret" not in found.output
    assert os.environ["OPENAI_API_KEY"] == "sk-secret"


def test_what_cannot_be_a_sandbox() -> None:
    with pytest.raises(InputError, match=r"code runs for seconds in \(0, 3600\], got 0"):
        Sandbox(seconds=0)
    with pytest.raises(InputError, match="Python needs 64 MiB of memory at least"):
        Sandbox(memory=1)
