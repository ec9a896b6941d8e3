"""The page: what stands on it, that nothing said can act, and what a browser makes of it."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelwright.chat import DYLAN, MOA, Outcome, plurality
from modelwright.serve import Served, Trace
from modelwright.serve._page import deciding, levels, overview, request, tree

from .helpers import Voice, serving, step

pytest.importorskip("fastapi")

EVIL = '<script>alert(1)</script><img src=x onerror=alert(2)>" onmouseover="x'


class Tags(HTMLParser):
    """All tags, attributes and visible text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def layered() -> Outcome:
    first = [step("a", "It is 4.", value="4"), step("b", "It is 5.", value="5")]
    second = [step("a", "Now 4.", "revise", "4", (0, 1)), step("b", "Also 4.", "revise", "4", (0, 1))]
    return Outcome("Now 4.", "4", (*first, *second), plurality(["4", "4"]))


def test_levels_follow_what_was_shown() -> None:
    assert levels(layered().steps) == [0, 0, 1, 1]
    assert deciding(layered()) == [0, 2, 3]
    merged = Outcome("Both.", "4", (step("a", "It is 4."), step("m", "Both.", "merge", "4", (0,))), plurality(["4"]))
    assert deciding(merged) == [1]
    assert deciding(Outcome("", None, (step("a", "?"),))) == []


def test_nothing_that_is_said_can_act() -> None:
    outcome = Outcome(
        EVIL,
        EVIL,
        (step(EVIL, EVIL, EVIL, EVIL), step("b", EVIL, "merge", EVIL, (0,))),
        plurality([EVIL, "x"]),
        notes=(EVIL,),
    )
    trace = Trace(EVIL, EVIL)
    trace.outcome, trace.status = outcome, "done"
    page = Tags(request(trace))
    assert not {"script", "img", "iframe", "form", "link", "object"} & set(page.tags)
    assert not any(name.startswith("on") for name in page.names)
    assert all(link.startswith(("#", "/")) for link in page.links)
    assert EVIL in page.text


def test_a_request_that_failed_says_why() -> None:
    trace = Trace("p", "Q?")
    trace.end("failed", "the server <b> is down")
    assert "the server <b> is down" in Tags(request(trace)).text


def test_pages_over_the_wire(tmp_path: Path) -> None:
    from .test_server import ask, get, panel

    served = Served([panel({"a": Voice(f"The answer is 4. {EVIL}"), "b": Voice(name="b")}, MOA)], keep=2)
    with serving(served) as url:
        assert "Nobody has asked yet" in get(f"{url}/")[1]
        for i in range(3):
            ask(url, f"Question {i}? {EVIL}")
        page = Tags(get(f"{url}/")[1])
        assert "Question 2?" in page.text
        assert "Question 0?" not in page.text  # two are kept
        assert "script" not in page.tags
        [name, _] = [link for link in page.links if link.startswith("/traces/")]
        status, text = get(url + name)
        assert status == 200
        assert "Who said what to whom" in text
        assert get(f"{url}/traces/none")[0] == 404


def test_a_browser_shows_the_tree(tmp_path: Path) -> None:
    """In a headless browser, with a script that must not run: the picture has the tree's colours in it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser here")
    image = pytest.importorskip("PIL.Image")
    from .test_server import ask, panel

    names = ("algebra", "units", "estimate", "check")
    voices = {
        name: Voice(f"{i}. The answer is {4 + (i == 2)}. <script>document.title='hacked'</script>", name)
        for i, name in enumerate(names)
    }
    served = Served([panel(voices, DYLAN, "team", rounds=2, consensus=0.9)])
    with serving(served) as url:
        trace = ask(url, "What is 2 + 2?", model="team").modelwright["trace"]
        shot = tmp_path / "page.png"
        command = [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,1400",
            f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", f"{url}/traces/{trace}",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        dumped = subprocess.run(
            [*command[:-2], "--dump-dom", command[-1]], check=True, capture_output=True, timeout=60, text=True
        ).stdout
    assert "hacked" not in dumped.partition("</title>")[0]
    red, green, blue = np.moveaxis(np.asarray(image.open(shot).convert("RGB")).astype(int), -1, 0)
    assert red.shape == (1400, 1280)
    assert ((green > red + 40) & (green > blue + 20)).sum() > 900  # borders and lines of the replies that won
    assert ((blue > red + 60) & (blue > green + 40)).sum() > 300  # borders of question and answer


def test_the_overview_says_what_is_served() -> None:
    from .test_server import panel

    page = Tags(overview(Served([panel({"a": Voice()}, name="<team>", samples=3)])))
    assert "<team>" in page.text
    assert "2 to 3" in page.text


def test_a_tree_of_many_replies_stays_in_its_picture() -> None:
    steps = tuple(step(f"agent {i}", f"reply {i}", value=str(i)) for i in range(30))
    drawn = tree(Outcome("reply 0", "0", (*steps, step("m", "reply 0", "merge", "0", range(30)))))
    assert drawn.count("<rect") == 33
    height = float(drawn.partition('height="')[2].partition('"')[0])
    tops = [float(part.partition('"')[0]) for part in drawn.split(' y="')[1:]]
    assert max(tops) < height
