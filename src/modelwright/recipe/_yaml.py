"""YAML that keeps its line numbers, reads `1e-8` as a number and refuses a key that stands twice."""

from __future__ import annotations

import re
from collections import Counter
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
        """Record a line, counted from 1. The first mark of a path holds: of a key, not of its value on the next line."""
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


#: More values than any recipe has; aliases of aliases can spell out billions in a few lines.
_MOST_VALUES = 1_000_000


class _Loader(yaml.SafeLoader):
    values = 0


# YAML 1.1 reads `1e-8` as a text because it has no dot; every user means a number.
_Loader.add_implicit_resolver(  # type: ignore[reportUnknownMemberType]
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|^[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def load(text: str, file: str) -> list[tuple[Any, Lines]]:
    """Every document of a YAML text, with the lines of its values.

    Raises:
        InputError: It is not YAML, or a key stands twice.
    """
    documents: list[tuple[Any, Lines]] = []
    loader = None
    try:
        loader = _Loader(text)
        while loader.check_node():
            lines = Lines(file)
            documents.append((_build(loader, loader.get_node(), (), lines), lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{file}:{mark.line + 1}" if mark else file
        raise InputError(Problem(f"not valid YAML: {error.problem or error.context}", where=at)) from None
    except yaml.reader.ReaderError as error:
        at = f"{file}:{text.count(chr(10), 0, error.position) + 1}"
        raise InputError(
            Problem(f"not a text: it holds the character {error.character:#x}", "A recipe is a YAML file.", at)
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as the date 2024-13-45
        if isinstance(error, InputError):
            raise
        raise InputError(Problem(f"not valid YAML: {error}", where=file)) from None
    except RecursionError:
        raise InputError(Problem("an anchor refers to itself, or values are nested too deep", where=file)) from None
    finally:
        if loader is not None:
            loader.dispose()
    return documents


def _build(loader: _Loader, node: Any, path: Path, lines: Lines) -> Any:
    lines.mark(path, node.start_mark.line + 1)
    loader.values += 1
    if loader.values > _MOST_VALUES:
        raise InputError(Problem(f"the aliases spell out more than {_MOST_VALUES:,} values", where=lines.file))
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), lines) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node)
    own = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
    loader.flatten_mapping(node)  # `<<: *anchor`
    result: dict[Any, Any] = {}
    last = {
        key_node.value if isinstance(key_node, yaml.ScalarNode) else i: i for i, (key_node, _) in enumerate(node.value)
    }
    for i, (key_node, value_node) in enumerate(node.value):
        if not isinstance(key_node, yaml.ScalarNode):
            where = f"{lines.file}:{key_node.start_mark.line + 1}"
            raise InputError(Problem("a key must be a text, not a list or mapping", where=where))
        key = _scalar(loader, key_node)
        if own[key_node.value] > 1:
            where = f"{lines.file}:{key_node.start_mark.line + 1}"
            raise InputError(Problem(f"the key '{key}' stands twice", "Keep one of them.", where))
        if i != last[key_node.value]:
            continue  # merged from an anchor, and given anew here
        lines.mark((*path, key), key_node.start_mark.line + 1)
        result[key] = _build(loader, value_node, (*path, key), lines)
    return result


def _scalar(loader: _Loader, node: yaml.Node) -> Any:
    return loader.construct_object(node, deep=True)  # type: ignore[reportUnknownMemberType]
