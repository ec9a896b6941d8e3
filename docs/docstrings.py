"""A griffe extension: our docstrings as mkdocstrings likes them, so that the sources can stay as they read best.

`Example:` becomes a section of runnable examples, lines that are equations are set as such, and a `Differs:` that points to
the record is left out, because the method's page lists the record's entries.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_EQUATIONS = re.compile(r"(?:^\w+ = .*\n?)+", re.MULTILINE)
_DIFFERS = re.compile(r"^Differs:\n    See `\w+\.differs`\.\n+", re.MULTILINE)
_SECTION = re.compile(r"^\w+:\n    ", re.MULTILINE)


class Sections(griffe.Extension):
    """Rewrites docstrings while they are collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """A docstring with our sections made mkdocstrings'."""
    text = _DIFFERS.sub("", text)
    text = re.sub(r"^Example:\n", "Examples:\n", text, flags=re.MULTILINE)
    first = _SECTION.search(text)
    body, rest = (text[: first.start()], text[first.start() :]) if first else (text, "")
    return _EQUATIONS.sub(lambda found: f"```text\n{found[0].rstrip()}\n```\n", body) + rest
