"""Text that is HTML already, told from text that is not."""

from __future__ import annotations

from html import escape

from modelwright.errors import printable


class Html(str):
    """A piece of a page; all that is not of this type is escaped."""

    __slots__ = ()


def html(*parts: str) -> Html:
    """The parts one after the other; plain text is escaped, with its control characters shown.

    Example:
        >>> html("a < b", Html("<br>"))
        'a &lt; b<br>'
    """
    return Html("".join(part if isinstance(part, Html) else escape(printable(part)) for part in parts))


def attribute(text: str) -> str:
    """A text as the value of an attribute, with its quotes."""
    return f'"{escape(printable(text))}"'
