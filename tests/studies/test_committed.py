"""The full runs that are committed: of every study, of its present record, and judged by the present code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelwright.studies import RULE, STUDIES, Interval, Part, whole_verdict

FOLDER = Path(__file__).parents[2] / "docs" / "studies"


def stored(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_every_study_has_a_full_run_and_a_page() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(STUDIES)
    assert {path.stem for path in FOLDER.glob("*.md")} == {"index", *STUDIES}


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_a_full_run_is_of_the_present_record(name: str) -> None:
    document, study = stored(name), STUDIES[name]
    assert (document["id"], document["title"], document["paper"]) == (study.id, study.title, study.paper)
    assert document["claim"] == study.claim
    assert document["rule"] == RULE
    assert document["budget"] == "full"
    assert document["seeds"] == list(range(study.seeds))
    assert document["seconds"] < 300


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_its_verdicts_follow_from_its_figures(name: str) -> None:
    document, parts = stored(name), list[Part]()
    for entry in document["parts"]:
        verdict = entry.pop("verdict")
        parts.append(Part(**{**entry, "interval": Interval(**entry["interval"])}))
        assert parts[-1].verdict == verdict, entry["name"]
    assert whole_verdict(parts) == document["verdict"]
