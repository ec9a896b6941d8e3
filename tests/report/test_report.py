"""Pages are whole, open offline, escape what is not theirs, and their figures follow the page's colours."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from modelwright import report
from modelwright.report import Cell, Estimate, Group, Html, Line, Point, Row

NASTY = "<script>$x$ & \"q\" 'a' é 模型 \x1b"

pytest.importorskip("matplotlib")


def estimates() -> list[Estimate]:
    return [Estimate(f"{NASTY}{i}", i / 10, i / 10 - 0.1, i / 10 + 0.1, ("single", "merge")[i % 2]) for i in range(4)]


def points() -> list[Point]:
    """Many in one place, so that names have to move."""
    crowd = [Point(f"{NASTY} {i}", 10, 80 + i / 10, 79, 82, "merge", front=i == 5) for i in range(6)]
    return [*crowd, Point("ensemble", 40, 85, group="ensemble", front=True)]


FIGURES: dict[str, Callable[[], Html]] = {
    "forest": lambda: report.forest(estimates(), label=NASTY, xlabel="accuracy", at=0.2, at_label="reference"),
    "tradeoff": lambda: report.tradeoff(points(), label=NASTY, xlabel="MB", ylabel="%"),
    "tradeoff, log": lambda: report.tradeoff(points(), label=NASTY, xlabel="MB", ylabel="%", log=True),
    "lines": lambda: report.lines(
        [Line(f"{NASTY}{i}", [1, 2, 4], [0, i, 1], [0, i - 1, 0], [1, i + 1, 2]) for i in range(12)],
        label=NASTY, at=0.5, log=True,
    ),
    "heat_map": lambda: report.heat_map(np.array([[1.0, np.nan], [-1, 0]]), [NASTY, "b"], ["c", "d"], label=NASTY, middle=0),
    "heat_map of one value": lambda: report.heat_map(np.ones((2, 2)), ["a", "b"], ["c", "d"], label=NASTY),
}  # fmt: skip


def svg(part: Html) -> ET.Element:
    text = part[part.index("<svg") : part.index("</svg>") + len("</svg>")]
    return ET.fromstring(text.replace("xlink:href", "href"))


def texts(part: Html) -> list[str]:
    return ["".join(element.itertext()) for element in svg(part).iter() if element.tag.endswith("text")]


@pytest.fixture(scope="module")
def page() -> str:
    rows = [Group("Merges"), Row("<ties>", ["1", Cell("words", words=True)], best=True, mark="best")]
    rows += [Row("b", [Cell("2", tint=0.5, framed=True, strong=True), "<x>"])]
    return report.page(
        NASTY,
        report.section("A", report.answer(NASTY), NASTY, report.table(["a", "b", "c"], rows, label=NASTY)),
        report.section("B", report.note(NASTY), report.bullets([NASTY]), report.code("mw a <b>\n  c")),
        report.section("C", *(draw() for draw in FIGURES.values())),
        lead=NASTY,
        footer=NASTY,
    )


class _Reader(HTMLParser):
    """Tags must close in order, and no attribute may be one that a text broke out to."""

    VOID = frozenset({"meta", "path", "use", "line", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_a_page_is_well_formed_and_nothing_breaks_out(page: str) -> None:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    assert "script" not in {tag for tag, _ in reader.seen}
    assert page.count("<!doctype html>") == 1
    assert "$style" not in page
    assert "\x1b" not in page


def test_a_page_opens_offline(page: str) -> None:
    targets = re.findall(r"""(?:src|href|url\(|@import)\s*=?\s*["']?([^"'\s)>]+)""", page)
    assert targets, "the pattern must find the figures' own references at least"
    assert all(target.startswith("#") for target in targets)
    assert "http" not in page


def test_a_page_is_accessible(page: str) -> None:
    reader = _Reader()
    reader.feed(page)
    assert ("html", {"lang": "en"}) in reader.seen
    identifiers = [attributes["id"] for _, attributes in reader.seen if "id" in attributes]
    assert len(identifiers) == len(set(identifiers)) > 100
    for tag, attributes in reader.seen:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in {"col", "row", "rowgroup"}
        if tag == "table" or attributes.get("tabindex"):
            assert attributes["aria-label"]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_take_the_colours_of_the_page(name: str) -> None:
    part = FIGURES[name]()
    assert "var(--ink)" in part
    left = set(re.findall(r"#[0-9a-f]{6}\b", part))
    assert left <= {"#ffffff", "#000000"}, "a colour that does not follow the page's"
    assert part == FIGURES[name](), "the same figure has the same bytes"


def test_labels_are_texts_and_not_formulas() -> None:
    assert "<script>$x$ & \"q\" 'a' é 模型 \x1b0".replace("\x1b", "\\x1b") in texts(FIGURES["forest"]())


def test_names_of_points_do_not_lie_on_each_other() -> None:
    found = [text for text in texts(FIGURES["tradeoff"]()) if "script" in text or text == "ensemble"]
    assert len([text for text in found if "script" in text]) == 6, "there is room for all of them"


def test_a_table_refuses_rows_of_another_length() -> None:
    with pytest.raises(ValueError, match="row 'x' has 2 cells for 1 columns"):
        report.table(["a", "b"], [Row("x", ["1", "2"])], label="t")


def test_numbers() -> None:
    assert report.percent(0.8125) == "81.2"
    assert report.percent(float("nan")) == ""
    assert [report.signed(v) for v in (1.23, -1.23, -0.01, float("nan"))] == ["+1.2", "\u22121.2", "0.0", ""]
    assert report.interval(-1, 2.04) == "\u22121.0 to 2.0"
    assert [report.quantity(v, "B") for v in (12, 999.96, 1234, 5e6, 1.5e9, 0.25)] == [
        "12 B", "1.00 kB", "1.23 kB", "5.00 MB", "1.50 GB", "0.250 B",
    ]  # fmt: skip


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    report.write(tmp_path / "deep" / "page.html", "é")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["page.html"]
    assert (tmp_path / "deep" / "page.html").read_text(encoding="utf-8") == "é"


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it(page: str, dark: bool, tmp_path: Path) -> None:
    """The paper has the scheme's colour, and ink of the figures lies on it."""
    report.write(tmp_path / "page.html", page)
    shot = tmp_path / "shot.png"
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=900,3000",
        "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []), (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    from matplotlib.image import imread

    pixels = imread(shot)[..., :3]
    paper = {False: "#ffffff", True: "#15181d"}[dark]
    wanted = np.array([int(paper[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    on_paper = np.abs(pixels - wanted).max(axis=2) < 0.01
    assert on_paper[5, 5]
    assert 0.5 < on_paper.mean() < 0.98
