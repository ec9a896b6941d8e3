"""Pages, sections and their simple parts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template

from modelwright.report._html import Html, attribute, html


@cache
def style() -> str:
    """The style sheet of all pages, for those that are made otherwise."""
    return files("modelwright.report").joinpath("style.css").read_text(encoding="utf-8").rstrip("\n")


@cache
def _template() -> Template:
    return Template(files("modelwright.report").joinpath("page.html").read_text(encoding="utf-8"))


def page(title: str, *sections: Html, lead: str = "", footer: str = "") -> str:
    """A whole page.

    Args:
        title: Its heading, and the name of its tab.
        *sections: From `section`, or any parts.
        lead: What it is about, in a sentence or two.
        footer: Where it comes from: versions, seeds, seconds.
    """
    parts = list(sections)
    if lead:
        parts.insert(0, html(Html('<p class="lead">'), lead, Html("</p>")))
    if footer:
        parts.append(html(Html('<footer class="note">'), footer, Html("</footer>")))
    return _template().substitute(title=html(title), style=style(), body="\n\n".join(html(part) for part in parts))


def write(path: str | Path, text: str) -> None:
    """Write a page: whole, or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def section(heading: str, *parts: str) -> Html:
    """A heading and what stands below it; plain texts become paragraphs."""
    inside = Html("\n").join(part if isinstance(part, Html) else paragraph(part) for part in parts)
    return html(Html("<section>\n<h2>"), heading, Html("</h2>\n"), Html(inside), Html("\n</section>"))


def paragraph(text: str) -> Html:
    """A paragraph."""
    return html(Html("<p>"), text, Html("</p>"))


def answer(text: str) -> Html:
    """The sentence that the reader came for."""
    return html(Html('<p class="answer">'), text, Html("</p>"))


def note(text: str) -> Html:
    """What a table's columns mean, and other small print."""
    return html(Html('<p class="note">'), text, Html("</p>"))


def bullets(texts: Iterable[str]) -> Html:
    """A list."""
    return Html(f"<ul>\n{chr(10).join(html(Html('<li>'), text, Html('</li>')) for text in texts)}\n</ul>")


def code(text: str) -> Html:
    """Something to copy, such as a command; its line breaks stay."""
    lines = Html("\n").join(html(line) for line in text.splitlines())
    return Html(f"<pre><code>{lines}</code></pre>")


def wide(inside: str, label: str, kind: str = "") -> Html:
    """What may be wider than a phone, and is scrolled by itself, with the keyboard too."""
    kinds = f"wide {kind}".rstrip()
    return Html(f'<div class="{kinds}" role="region" aria-label={attribute(label)} tabindex="0">\n{inside}\n</div>')
