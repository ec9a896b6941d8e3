"""What a program may work with beside agents: demonstrations, documents, tools, templates of thoughts, and code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import xxhash

from modelwright.chat._retrieval import Retriever
from modelwright.chat._sandbox import Sandbox
from modelwright.chat._tools import Tool
from modelwright.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Demonstration:
    """A question with its answer, shown or learned from.

    Attributes:
        question: As it would be asked.
        answer: The right answer.
        reasoning: How it is found; empty where that is not known.
        wrong: Reasoning that is wrong, for contrast; may be empty.
        noisy: Whether `reasoning` may have slips in it.
        program: Steps with calls of tools that find it; may be empty.
    """

    question: str
    answer: str
    reasoning: str = ""
    wrong: str = ""
    noisy: bool = False
    program: str = ""


@dataclass(frozen=True)
class ThoughtTemplate:
    """How a kind of problem is solved.

    Attributes:
        name: Of the kind.
        description: When it fits; it is found by this.
        template: The steps, without the values of one problem.
    """

    name: str
    description: str
    template: str


#: What a program can need, and what to say where it is missing.
NEEDS: dict[str, tuple[str, str]] = {
    "demonstrations": ("{} demonstrations", "Give the panel `demonstrations: FILE.jsonl` with question and answer."),
    "reasoning": ("{} demonstrations with reasoning", "Give the demonstrations a `reasoning`."),
    "noisy": ("{} demonstrations with reasoning that may be noisy", 'Mark them with `"noisy": true`.'),
    "programs": ("{} demonstrations with a program", "Give the demonstrations a `program`."),
    "documents": ("documents", "Give the panel `documents: [FILE or FOLDER, ..]`."),
    "tools": ("tools", "Give the panel `tools: [calculator, module:function, ..]`."),
    "code": (
        "leave to run code that a model writes",
        "Say --allow-code, or Materials(code=Sandbox()) in Python.",
    ),
}


def _lacking(what: str, count: int, there: int) -> str:
    return f"{what.format(count)}, and there are {there}" if "{}" in what else f"{what}, which the panel has not"


@dataclass(frozen=True)
class Materials:
    """What a program may work with.

    Attributes:
        demonstrations: In order.
        documents: Where passages are found; None is nowhere.
        tools: By name.
        templates: Of thoughts, for buffer_of_thoughts.
        code: What runs code that a model wrote; None runs none.
    """

    demonstrations: Sequence[Demonstration] = ()
    documents: Retriever | None = None
    tools: Mapping[str, Tool] = field(default_factory=dict)
    templates: Sequence[ThoughtTemplate] = ()
    code: Sandbox | None = None

    @property
    def toolbox(self) -> dict[str, Tool]:
        """The tools, with `search` where there are documents."""
        documents = self.documents
        if documents is None or "search" in self.tools:
            return dict(self.tools)

        def search(query: str) -> str:
            """Find passages in the documents by words."""
            found = documents.search(query, 2)
            return "\n\n".join(f"{p.source}: {p.text}" for p in found) or "nothing found"

        return {**self.tools, "search": Tool.of(search)}

    def missing(self, needs: Mapping[str, int]) -> list[tuple[str, str]]:
        """What it has too few of, each with the mend.

        Args:
            needs: How many of what, by the names in `NEEDS`.
        """
        has = {
            "demonstrations": len(self.demonstrations),
            "reasoning": sum(bool(d.reasoning) for d in self.demonstrations),
            "noisy": sum(d.noisy and bool(d.reasoning) for d in self.demonstrations),
            "programs": sum(bool(d.program) for d in self.demonstrations),
            "documents": int(self.documents is not None),
            "tools": len(self.toolbox),
            "code": int(self.code is not None),
        }
        few = [name for name, count in needs.items() if has[name] < count]
        return [(_lacking(NEEDS[name][0], needs[name], has[name]), NEEDS[name][1]) for name in few]

    def allowing(self, code: Sandbox | None) -> Materials:
        """The same with code allowed, or not."""
        return replace(self, code=code)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that answers can depend on."""
        said = [
            [vars(d) for d in self.demonstrations],
            None if self.documents is None else self.documents.fingerprint,
            [tool.usage for tool in self.tools.values()],
            [vars(t) for t in self.templates],
            self.code is not None,
        ]
        return xxhash.xxh3_128_hexdigest(json.dumps(said, sort_keys=True).encode("utf-8", "surrogatepass"))


def demonstrations(path: str | Path) -> tuple[Demonstration, ...]:
    """Demonstrations of a jsonl file, whose lines have `Demonstration`'s keys.

    Raises:
        InputError: It cannot be read, is empty, or a line is none; with the line.
    """
    return _rows(path, Demonstration)


def thought_templates(path: str | Path) -> tuple[ThoughtTemplate, ...]:
    """Templates of thoughts of a jsonl file, whose lines have name, description and template.

    Raises:
        InputError: It cannot be read, is empty, or a line is none; with the line.
    """
    return _rows(path, ThoughtTemplate)


def _rows(path: str | Path, kind: type[Any]) -> tuple[Any, ...]:
    where = Path(path).expanduser()
    try:
        lines = where.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the file cannot be read: {reason}", where=str(path)) from error
    found = tuple(_row(line, kind, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip())
    if not found:
        raise InputError("the file has no line", where=str(path))
    return found


def _row(line: str, kind: type[Any], where: str) -> Any:
    hints = get_type_hints(kind)
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise InputError(f"a line must be a JSON object with {', '.join(hints)}", where=where)
    for key, value in row.items():
        if key not in hints:
            raise InputError(f"there is no key '{key}'", did_you_mean(key, hints), where)
        allowed = get_args(hints[key]) or (hints[key],)
        if not isinstance(value, allowed):
            raise InputError(f"{key} must be {hints[key].__name__}, got {json.dumps(value)[:60]}", where=where)
    try:
        return kind(**row)
    except TypeError:
        needed = [name for name in hints if name not in vars(kind)]
        missing = [name for name in needed if name not in row]
        raise InputError(f"a line needs {', '.join(missing)}", where=where) from None
