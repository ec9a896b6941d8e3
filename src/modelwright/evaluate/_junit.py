"""Verdicts as JUnit XML, in the elements and attributes that CI systems agree on."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from modelwright.errors import printable

if TYPE_CHECKING:
    from modelwright.evaluate._gate import Verdicts

_NAME = "modelwright.gate"


def junit(verdicts: Verdicts) -> str:
    """A test suite with a test case for each check, its text in `failure` or `system-out`."""
    counts = {
        "tests": str(len(verdicts.checks)),
        "failures": str(sum(not check.passed for check in verdicts.checks)),
        "errors": "0",
    }
    root = ET.Element("testsuites", {"name": _NAME, **counts})
    suite = ET.SubElement(root, "testsuite", {"name": _NAME, **counts, "skipped": "0", "time": "0"})
    for check in verdicts.checks:
        about = {"classname": f"{_NAME}.{check.kind}", "name": printable(check.name), "time": "0"}
        case = ET.SubElement(suite, "testcase", about)
        text = printable(check.text)
        if check.passed:
            ET.SubElement(case, "system-out").text = text
        else:
            ET.SubElement(case, "failure", {"message": text, "type": check.kind}).text = text
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
