"""YAML that keeps its line numbers, reads `1e-8` as a number and refuses a key that stands twice."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from modelwright.errors import InputError, Problem

Path = tuple[Hashable, ...]


class Lines:
    """Where each value of a document stands.

    Attributes:
        file: Name of the document, for messages.
    """

    def __init__(self, file: str = ""):
        self.file = file
        self._lines: dict[Path, int] = {}

    def mark(self, path: Path, line: int) -> None:
        """Record a line, counted from 1."""
        self._lines.setdefault(path, line)

    def where(self, path: Path) -> str:
        """`recipe.yml:7`, of the value or of the nearest one around it; empty for recipes that are not text."""
        while path and path not in self._lines:
            path = path[:-1]
        line = self._lines.get(path)
        return f"{self.file}:{line}" if line else self.file

    def items(self) -> list[tuple[Path, int]]:
        """Every path with its line."""
        return list(self._lines.items())

    def below(self, *prefix: Hashable) -> Lines:
        """The lines of a part of the document, as if it stood alone."""
        part = Lines(self.file)
        for path, line in self._lines.items():
            if path[: len(prefix)] == prefix:
                part.mark(path[len(prefix) :], line)
        return part


class _Loader(yaml.SafeLoader):
    pass


# YAML 1.1 reads `1e-8` as a text because it has no dot; every user means a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|^[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def load(text: str, file: str) -> list[tuple[Any, Lines]]:
    """Every document of a YAML text, with the lines of its values.

    Raises:
        InputError: It is not YAML, or a key stands twice.
    """
    loader = _Loader(text)
    documents: list[tuple[Any, Lines]] = []
    try:
        while loader.check_node():
            lines = Lines(file)
            documents.append((_build(loader, loader.get_node(), (), lines), lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{file}:{mark.line + 1}" if mark else file
        raise InputError(Problem(f"not valid YAML: {error.problem or error.context}", where=at)) from None
    except yaml.YAMLError as error:
        raise InputError(Problem(f"not valid YAML: {error}", where=file)) from None
    finally:
        loader.dispose()
    return documents


def _build(loader: _Loader, node: Any, path: Path, lines: Lines) -> Any:
    lines.mark(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), lines) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    own = [key.value for key, _ in node.value]
    loader.flatten_mapping(node)  # `<<: *anchor`
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key: Any = loader.construct_object(key_node, deep=True)
        if own.count(key_node.value) > 1:
            where = f"{lines.file}:{key_node.start_mark.line + 1}"
            raise InputError(Problem(f"the key '{key}' stands twice", "Keep one of them.", where))
        lines.mark((*path, key), key_node.start_mark.line + 1)
        result[key] = _build(loader, value_node, (*path, key), lines)
    return result
