"""Gates: what passes, what does not, what is refused before anything is judged, and what CI systems read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparing_records import part, records
from modelwright.errors import InputError
from modelwright.evaluate import Gate, Part, Records, Verdicts, calibration, compare
from modelwright.evaluate._statistics import sample

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")
pytest.importorskip("sklearn")


def checked(data: Records | None = None, **rules: Any) -> Verdicts:
    return Gate.of({"systems": ["ties"], **rules}).check(data or records())


def one(**rules: Any) -> Any:
    (check,) = checked(records(("digits",)), **rules).checks
    return check


# --- verdicts ------------------------------------------------------------------------------------------------------


def test_non_inferiority_is_judged_by_the_worse_end_of_the_paired_interval() -> None:
    difference = compare(records(("digits",)), reference="expert-digits").row("digits", "ties").difference
    assert difference is not None
    assert difference.low < difference.value < 0
    for margin, passed in ((-difference.low + 1e-9, True), (-difference.low - 1e-9, False), (-difference.value, False)):
        check = one(reference="expert-digits", non_inferiority={"margin": margin})
        assert (check.passed, check.figure) == (passed, pytest.approx(difference.low))


def test_margins_by_task_and_for_the_mean() -> None:
    found = checked(reference="expert-digits", non_inferiority={"margin": 0.0, "tasks": {"digits": 0.5}, "mean": 0.0})
    assert [(c.task, c.limit, c.passed) for c in found.checks] == [
        ("digits", -0.5, True), ("letters", 0, True), ("mean", 0, True),
    ]  # fmt: skip
    mean = compare(records(), reference="expert-digits").mean("ties").difference
    assert mean is not None
    assert found.checks[-1].figure == pytest.approx(mean.low)


def test_where_less_is_better_more_is_worse() -> None:
    data = records(("digits",), metric="log_loss")
    worse = checked(data, reference="expert-digits", non_inferiority={"margin": 0.01}).checks[0]
    assert not worse.passed
    difference = compare(data, reference="expert-digits").row("digits", "ties").difference
    assert difference is not None
    assert worse.figure == pytest.approx(-difference.high, abs=0.02), (
        "the ends of bca intervals turn round with the sign"
    )
    better = Gate.of({"systems": ["expert-digits"], "reference": "base", "non_inferiority": {"margin": 0}}).check(data)
    assert better.passed


def test_systems_that_nothing_tells_apart_are_not_proven_equal_by_few_items() -> None:
    alike = Records([part("digits", name, 0.9, n=10, seed=3) for name in ("a", "b")])
    same = Records([alike.part("digits", "a"), Part(alike.part("digits", "b").head, alike.part("digits", "a").table)])
    gate = Gate.of({"systems": ["b"], "reference": "a", "non_inferiority": {"margin": 0.05}})
    assert not gate.check(same).passed


@pytest.mark.parametrize("of", ["all", "right"])
def test_negative_flips(of: str) -> None:
    flips = compare(records(("digits",)), reference="expert-digits").row("digits", "ties").flips
    assert flips is not None
    assert flips.count > 0
    rate = flips.rate if of == "all" else flips.rate_of_right
    for limit, passed in ((rate, True), (rate - 1e-9, False)):
        check = one(reference="expert-digits", negative_flips={"at_most": limit, "of": of})
        assert (check.passed, check.figure) == (passed, rate)
    assert flips.names[0] in check.text


def test_floors_of_figures_bounds_and_slices() -> None:
    own = records(("digits",)).part("digits", "ties")
    (figure,) = sample(own.metric, [own.whole], own.ids, seed=0, count=2000)
    low = figure.interval().low
    assert one(floors=[{"task": "digits", "at_least": own.figure}]).passed
    assert not one(floors=[{"task": "digits", "at_least": own.figure, "by": "bound"}]).passed
    assert one(floors=[{"task": "digits", "at_least": low, "by": "bound"}]).passed
    german = own.column("score")[own.slices()["language"] == "de"]
    check = one(floors=[{"task": "digits", "at_least": 0.1, "slice": {"language": "de"}, "items": 50}])
    assert (check.figure, check.items, check.slice, check.passed) == (german.mean(), 50, "language=de", True)
    few = one(floors=[{"task": "digits", "at_least": 0.1, "slice": {"language": "de"}, "items": 51}])
    assert not few.passed
    assert few.text.endswith("on 50 items; it must be at least 0.1, on at least 51 items")


def test_floors_where_less_is_better() -> None:
    data = records(("digits",), metric="log_loss")
    own = data.part("digits", "ties").figure
    assert checked(data, floors=[{"task": "digits", "at_most": own}]).passed
    assert not checked(data, floors=[{"task": "digits", "at_most": own, "by": "bound"}]).passed
    with pytest.raises(InputError, match=r"of 'log_loss' less is better, so its floor is at_most. Write at_most."):
        checked(data, floors=[{"task": "digits", "at_least": own}])
    with pytest.raises(InputError, match=r"of 'accuracy' more is better, so its floor is at_least."):
        checked(floors=[{"task": "digits", "at_most": 1}])


@pytest.mark.parametrize("measure", ["error", "brier", "nll"])
def test_ceilings_of_calibration(measure: str) -> None:
    value = getattr(calibration(records().part("digits", "ties")), measure)
    assert one(calibration=[{"task": "digits", "measure": measure, "at_most": value}]).passed
    assert not one(calibration=[{"task": "digits", "measure": measure, "at_most": value - 1e-9}]).passed


def test_calibration_without_confidences_is_refused() -> None:
    import pyarrow as pa

    own = part("digits", "ties", 0.9, n=20)
    place = own.table.schema.get_field_index("confidence")
    table = own.table.set_column(place, own.table.schema.field(place), pa.nulls(20, pa.float64()))
    with pytest.raises(InputError, match="'ties' has no confidence for 20 of 20 items"):
        checked(Records([Part(own.head, table)]), calibration=[{"task": "digits", "at_most": 1}])


# --- what is refused -------------------------------------------------------------------------------------------------

GOOD = """systems: [ties]
reference: base
non_inferiority:
  margin: 0.01
floors:
  - task: digits
    at_least: 0.5
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("systems: [ties]", "systems: [tie]", r"names the system 'tie', which is not there\. Did you mean 'ties'\? Valid: .*gate\.yml:1"),
        ("base", "bass", r"names the system 'bass', which is not there\. Did you mean 'base'\?.*gate\.yml:2"),
        ("task: digits", "task: digit", r"names the task 'digit', which is not there\. Did you mean 'digits'\?.*gate\.yml:6"),
        ("0.01", "0.01\n  tasks: {letter: 1}", r"names the task 'letter', which is not there\. Did you mean 'letters'"),
        ("0.5", "0.5\n    slice: {lang: de}", r"the items of 'digits' have no property 'lang'\. Did you mean 'language'\?.*gate\.yml:8"),
        ("0.5", "0.5\n    slice: {language: fr}", r"no item of 'digits' has language = 'fr'\. Valid: de, en\..*gate\.yml:8"),
        ("margin: 0.01", "margn: 0.01", r"the key 'non_inferiority\.margin' is missing.*gate\.yml:3"),
        ("margin: 0.01", "margin: -1", r"'non_inferiority\.margin': input should be greater than or equal to 0, got -1.*gate\.yml:4"),
        ("margin: 0.01", "margin: 1 %", r"'non_inferiority\.margin': input should be a valid number, got '1 %'"),
        ("at_least: 0.5", "atleast: 0.5", r"unknown key 'floors\.0\.atleast'\. Did you mean 'at_least'\?.*gate\.yml:7"),
        ("at_least: 0.5", "by: bound", r"floors\.0: a floor needs either at_least or at_most.*gate\.yml:6"),
        ("reference: base\n", "", r"non_inferiority and negative_flips need a reference"),
        ("reference: base", "reference: ties", r"'ties' is the reference and cannot be compared with itself"),
        ("reference: base", "referenz: base", r"unknown key 'referenz'\. Did you mean 'reference'\?.*gate\.yml:2"),
        ("systems: [ties]", "systems: []", r"'systems': list should have at least 1 item"),
    ],
)  # fmt: skip
def test_a_wrong_gate(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.yml"
    path.write_text(GOOD, encoding="utf-8")
    assert Gate.read(path).check(records()).passed, "as it is it passes"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        Gate.read(path).check(records())


def test_all_unknown_names_are_said_at_once() -> None:
    gate = Gate.of({"systems": ["a", "b"], "floors": [{"task": "x", "at_least": 0}]})
    with pytest.raises(InputError) as refused:
        gate.check_names(["c"], ["y"])
    assert len(refused.value.problems) == 3
    gate.check_names(["a", "b"], ["x"])


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a gate that asks for nothing passes everything"):
        Gate.of({"systems": ["a"]})
    with pytest.raises(InputError, match="a gate is a mapping of keys, got list"):
        Gate.of([])
    with pytest.raises(InputError, match="cannot be read"):
        Gate.read(tmp_path / "none.yml")
    (tmp_path / "two.yml").write_text("a: 1\n---\nb: 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="a gate file holds one document, got 2"):
        Gate.read(tmp_path / "two.yml")


def test_margins_of_a_mean_need_one_metric() -> None:
    parts = [part("digits", s, 0.8) for s in ("ties", "base")] + [
        part("letters", s, 0.8, metric="log_loss") for s in ("ties", "base")
    ]
    with pytest.raises(InputError, match="a margin for the mean needs tasks with one metric"):
        checked(Records(parts), reference="base", non_inferiority={"margin": 1, "mean": 0.1})


# --- JUnit -----------------------------------------------------------------------------------------------------------

#: What CI systems read of each element; the schema of Jenkins' JUnit plugin, as far as we use it.
SCHEMA: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, set(), {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"}, {"name"},
        {"testcase", "properties", "system-out"},
    ),
    "testcase": ({"name", "classname", "time"}, {"name", "classname"}, {"failure", "error", "skipped", "system-out"}),
    "failure": ({"message", "type"}, set(), set()),
    "error": ({"message", "type"}, set(), set()),
    "system-out": (set(), set(), set()),
}  # fmt: skip


def valid(root: ET.Element) -> None:
    """Elements, attributes and counts are what a reader of JUnit files expects."""
    for element in root.iter():
        may, must, children = SCHEMA[element.tag]
        assert must <= set(element.keys()) <= may, element.tag
        assert {child.tag for child in element} <= children
    for suite in root.iter("testsuite"):
        cases = list(suite.iter("testcase"))
        assert int(suite.get("tests", "")) == len(cases)
        assert int(suite.get("failures", "")) == sum(case.find("failure") is not None for case in cases)
        assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)


def test_the_schema_is_what_pytest_writes(tmp_path: Path) -> None:
    """Files of pytest are read by every CI system; they are valid by the rules that ours are held to."""
    (tmp_path / "test_x.py").write_text("def test_a(): pass\ndef test_b(): assert 0\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=x.xml", "test_x.py"]
    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=120)
    valid(ET.parse(tmp_path / "x.xml").getroot())


def test_junit() -> None:
    nasty = '<"\x00\x1b&é'
    parts = [part("digits", name, skill) for name, skill in ((nasty, 0.9), ("base", 0.8))]
    gate = Gate.of({
        "systems": [nasty], "reference": "base", "non_inferiority": {"margin": 1}, "negative_flips": {"at_most": 0},
        "floors": [{"task": "digits", "at_least": 0.99}, {"task": "digits", "at_least": 0, "slice": {"language": "de"}}],
    })  # fmt: skip
    found = gate.check(Records(parts))
    root = ET.fromstring(found.junit())
    valid(root)
    assert root.get("tests") == str(len(found.checks)) == "4"
    texts = [element.get("message") for element in root.iter("failure")]
    assert len(texts) == sum(not check.passed for check in found.checks) > 0
    assert "\\x00" in (texts[0] or ""), "control characters are shown, because XML has none"
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", found.junit())


def test_verdicts_as_json() -> None:
    found = checked(floors=[{"task": "digits", "at_least": 0.99}])
    assert not found.passed
    again = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert (again["version"], again["passed"], again["checks"][0]["kind"]) == (1, False, "floor")


def test_the_same_seed_gives_the_same_verdicts() -> None:
    rules: dict[str, Any] = {"reference": "base", "non_inferiority": {"margin": 0.1}}
    assert checked(**rules) == checked(**rules)
    shuffled = Records([p.ordered(list(np.random.default_rng(0).permutation(p.ids))) for p in records()])
    assert [c.figure for c in checked(shuffled, **rules).checks] == [c.figure for c in checked(**rules).checks]
