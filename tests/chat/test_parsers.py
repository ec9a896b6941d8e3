"""Answers in replies, and when two of them are the same."""

from __future__ import annotations

import re
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from modelwright.chat import (
    boxed,
    choice,
    code,
    exact,
    groups,
    json_by,
    near,
    normalised,
    number,
    pattern,
    symbolic,
    text,
)
from modelwright.chat._equality import as_number
from modelwright.chat._forms import blocks, read_blocks, read_ranks, read_ratings, read_verdict, render
from modelwright.errors import InputError

from .helpers import STEADY


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("The answer is (B).", "B"),
        ("(A) is wrong, so (C)", "C"),
        ("the answer is (c)", "C"),
        ("Answer: D", "D"),
        ("The answer is **B**", "B"),
        ("B", "B"),
        ("B.", "B"),
        ("D) it is", "D"),
        ("A dog is an animal", None),
        ("The answer is Because", None),
        ("(E)", None),
        ("", None),
    ],
)
def test_choice(said: str, found: str | None) -> None:
    assert choice()(said) == found


def test_choice_of_words() -> None:
    either = choice(["positive", "very positive"])
    assert either("The answer is very positive.") == "very positive"
    assert either("(Positive)") == "positive"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("So 3 + 4 = 7.", "7"),
        ("The answer is 12. I saw 3 cats.", "12"),
        ("The answer is 1. No, the answer is -2.", "-2"),
        ("It costs $1,250.50.", "1250.5"),
        ("The answer is: 3/4", "0.75"),
        ("answer = 1e3", "1000"),
        ("about 12%", "0.12"),
        (r"We get \boxed{42} from 17 and 3", "42"),
        ("7.0", "7"),
        ("-0", "0"),
        ("\u22125 degrees", "-5"),
        ("1,2 and 3", "3"),
        ("no number here", None),
        ("version v2", None),
        ("The answer is 5/0", None),
    ],
)
def test_number(said: str, found: str | None) -> None:
    assert number()(said) == found


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
@settings(**STEADY)
def test_any_number_is_read_back(value: Decimal) -> None:
    assert Decimal(number()(f"The answer is {value:,}.") or "nan") == value


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (r"So \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{ 2 }", "2"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{1", None),
        (r"\boxed{}", None),
        ("7", None),
    ],
)
def test_boxed(said: str, found: str | None) -> None:
    assert boxed()(said) == found


def test_json_by_schema() -> None:
    parser = json_by({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}})
    assert parser('{"n": 1} then ```json\n{"n": 2, "a": []}\n```') == '{"a":[],"n":2}'
    assert parser('{"n": "1"}') is None
    assert parser('{"n": 1') is None
    assert parser('{"n": NaN}') is None
    assert parser("[" * 5000) is None
    assert json_by({"type": "integer"})(" 5 ") == "5"
    with pytest.raises(InputError, match="the answer's schema is no JSON Schema: 'many' is not valid"):
        json_by({"type": "many"})


def test_code() -> None:
    said = "```python\nx = 1\n```\nor\n```js\ny\n```\n"
    assert code("python")(said) == "x = 1"
    assert code()(said) == "y"
    assert code("rust")(said) is None
    assert code()("```python\nnever closed") is None


def test_pattern_and_text() -> None:
    assert pattern(r"plan: (\w+)")("plan: a, plan: b") == "b"
    assert pattern("x+")("no") is None
    with pytest.raises(InputError, match=r"pattern must be a regular expression, got '\('"):
        pattern("(")
    assert text()("  a b\n") == "a b"
    assert text()(" ") is None
    with pytest.raises(
        InputError, match=r"a choice needs two options or more, different without case, got \['a', 'A'\]"
    ):
        choice(["a", "A"])


@given(st.text(max_size=300))
@settings(**STEADY)
def test_parsers_read_or_abstain_whatever_is_said(said: str) -> None:
    for parser in (choice(), number(), boxed(), code(), json_by({}), pattern("a(b)?"), text()):
        found = parser(said)
        assert found is None or (isinstance(found, str) and found)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1/2", "0.5", True),
        (r"\frac{1}{2}", "1/2", True),
        ("(x+1)^2", "x^2+2x+1", True),
        (r"2\sqrt{2}", "sqrt(8)", True),
        (r"\frac{\pi}{2}", "pi/2", True),
        ("x(x+1)", "x^2 + x", True),
        ("x", "y", False),
        ("x^2", "x^3", False),
        ("1/0", "2", False),
        ("cat", "Cat.", True),
        ("__import__('os').system('false')", "1", False),
    ],
)
def test_symbolic(a: str, b: str, same: bool) -> None:
    assert symbolic(a, b) is same
    assert symbolic(b, a) is same


def test_formulas_that_would_never_end_are_not_read() -> None:
    start = time.monotonic()
    assert not symbolic("9^9^9^9", "1")
    assert not symbolic("(" * 190 + "x" + ")" * 9, "1")
    assert time.monotonic() - start < 60


def test_equalities() -> None:
    assert normalised("The Nile", " nile. ")
    assert not normalised("Nile", "Rhine")
    assert exact("1", "1")
    assert not exact(1, True)
    assert near()("0.3333333", "1/3")
    assert not near(0)("0.3333333", "1/3")
    assert near()("Paris", "paris")
    assert as_number("12 apples") is None
    with pytest.raises(InputError, match="tolerance must be a number of at least 0, got -1"):
        near(-1)


def test_groups_keep_what_came_before() -> None:
    same = near(0.1)
    values: list[Any] = ["10", "10.9", "11.7", None, "10"]
    assert groups(values, same) == [0, 0, 2, None, 0]
    for size in range(len(values)):
        assert groups(values[:size], same) == groups(values, same)[:size]


@given(st.lists(st.text(alphabet="<>/reply 123\nab", max_size=40), max_size=5))
@settings(**STEADY)
def test_a_reply_cannot_imitate_another(texts: list[str]) -> None:
    found = read_blocks(f"before\n{blocks(texts)}\nafter")
    assert len(found) == len(texts)
    for text_, read in zip(texts, found, strict=True):
        assert read == re.sub(r"<(?=/?reply \d)", "(", text_)


def test_replies_are_data_for_templates() -> None:
    shown = render("merge", replies=blocks(["{{ 7 * 7 }} {% for %}"]))
    assert "{{ 7 * 7 }} {% for %}" in shown


def test_forms_are_read() -> None:
    assert read_ratings("so [[5, x, 3]]", 3) == [5, 0, 3]
    assert read_ratings("[[5, 1]]", 3) is None
    assert read_ratings("none", 1) is None
    assert read_ranks("first [1] then [2, 1, 2]", 2) == [1, 0]
    assert read_ranks("[3]", 2) is None
    assert read_ranks("", 2) is None
    assert read_verdict("[wrong] no: [Right]") is True
    assert read_verdict("right") is None
