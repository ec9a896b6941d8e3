"""Answers in replies. What cannot be read abstains: it is None, and never a vote."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelwright.chat._equality import as_number
from modelwright.errors import InputError
from modelwright.evaluate._predictor import needs

#: A reply's text -> its answer, or None.
Parse = Callable[[str], Any]


@dataclass(frozen=True)
class Parser:
    """How an answer is asked for, and read.

    Attributes:
        name: `choice`, `number`, `boxed`, `json`, `code`, `pattern` or `text`.
        form: A sentence that asks for the form which is read; empty for none.
        parse: The reader.
        says: How an answer is written so that it is read, with `{}`: for demonstrations.
    """

    name: str
    form: str
    parse: Parse = field(repr=False)
    says: str = "The answer is {}."

    def __call__(self, text: str) -> Any:
        """The answer in a reply, or None."""
        return self.parse(text)

    def write(self, answer: Any) -> str:
        """An answer in the form that is read."""
        return self.says.replace("{}", str(answer))


def choice(options: Sequence[str] = tuple("ABCD")) -> Parser:
    """One of several letters or words: the last in brackets, else after "answer is" or "answer:", else the whole reply.

    Args:
        options: At least two, told apart without case.

    Raises:
        InputError: They are fewer, or two are the same without case.

    Example:
        >>> choice()("Not (A), as ... so the answer is (c).")
        'C'
    """
    known = {option.casefold(): option for option in options}
    if len(known) < 2 or len(known) < len(options) or "" in known:
        raise InputError(f"a choice needs two options or more, different without case, got {list(options)}")
    either = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    patterns = [
        re.compile(rf"\(\s*({either})\s*\)", re.IGNORECASE),
        re.compile(rf"\banswer\s*(?:is|:)\s*\**\s*({either})(?!\w)", re.IGNORECASE),
        re.compile(rf"(?<!\w)({either})\)", re.IGNORECASE),
    ]
    whole = re.compile(rf"\W*({either})\W*", re.IGNORECASE)

    def parse(text: str) -> str | None:
        for pattern in patterns:
            if found := pattern.findall(text):
                return known[found[-1].casefold()]
        match = whole.fullmatch(text.strip())
        return known[match[1].casefold()] if match else None

    return Parser(
        "choice", f"End with one of {', '.join(f'({option})' for option in options)}.", parse, "The answer is ({})."
    )


_ANSWER = re.compile(r"\banswer(?:\s+is\b|\s*:|\s*=)\s*:?\s*", re.IGNORECASE)
#: Fractions, thousands in commas, powers of ten; a full stop at the end is not part of it.
_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?\s?[$€£]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d+)?"
    r"(?:\s?/\s?\d+(?:\.\d+)?)?%?"
)


def number() -> Parser:
    """A number: the first after the last "answer is", else in the last box, else the last of the reply.

    Example:
        >>> number()("3 + 4 = 7, so the answer is $1,007.50.")
        '1007.5'
    """

    def parse(text: str) -> str | None:
        places = [match.end() for match in _ANSWER.finditer(text)]
        if places and (match := _NUMBER.search(text, places[-1])):
            return _written(match[0])
        box = _boxed(text)
        found = _NUMBER.findall(box if box is not None and _NUMBER.search(box) else text)
        return _written(found[-1]) if found else None

    return Parser("number", "End with: The answer is NUMBER.", parse)


def _written(text: str) -> str | None:
    """A number in one way of writing, so that equal ones are equal texts where their digits end."""
    value = as_number(text.replace(" ", ""))
    if value is None:
        return None
    written = f"{value.normalize():f}" if abs(value.adjusted()) < 30 else str(value.normalize())
    return "0" if value == 0 else written


def _boxed(text: str) -> str | None:
    r"""What the last \\boxed{..} holds, its braces balanced."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0) if text[i - 1] != "\\" else 0
        if not depth:
            return text[start:i].strip()
    return None


def boxed() -> Parser:
    r"""What the last \\boxed{..} holds; nothing else is an answer.

    Example:
        >>> boxed()(r"So it is \\boxed{\\frac{1}{2}}.")
        '\\\\frac{1}{2}'
    """
    return Parser("boxed", "Put the final answer into \\boxed{}.", lambda text: _boxed(text) or None, r"\boxed{{}}")


_FENCE = re.compile(r"^[ \t]*```([\w+#.-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)


def json_by(schema: Mapping[str, Any]) -> Parser:
    """A JSON value that fits a schema: the last such in the reply, in a fence or not. Its canonical text is the answer.

    Args:
        schema: JSON Schema.

    Raises:
        InputError: It is no schema.
        MissingExtraError: The package jsonschema is not installed.

    Example:
        >>> json_by({"type": "object", "required": ["n"]})('Here: {"n": 3, "a": 1} Good?')
        '{"a":1,"n":3}'
    """
    jsonschema = needs("jsonschema", "reading JSON by a schema", "chat")
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InputError(f"the answer's schema is no JSON Schema: {error.message}") from error
    validator = kind(schema)

    def parse(text: str) -> str | None:
        fits = [value for value in _values(text) if validator.is_valid(value)]
        return json.dumps(fits[-1], sort_keys=True, separators=(",", ":"), ensure_ascii=False) if fits else None

    said = json.dumps(schema, ensure_ascii=False)
    return Parser("json", f"Reply with a JSON value that fits this schema and nothing else: {said}", parse, "{}")


def _values(text: str) -> list[Any]:
    """Every outermost JSON value that begins where a value may; numbers and words only where they are the whole text."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    found: list[Any] = []
    place = 0
    while (match := re.compile(r"[\[{]").search(text, place)) is not None:
        try:
            value, place = decoder.raw_decode(text, match.start())
            found.append(value)
        except ValueError:
            place = match.start() + 1
        except RecursionError:  # nested as deep from the next place as from here
            break
    if not found:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(decoder.decode(text.strip()))
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def code(language: str = "") -> Parser:
    """What the last closed fence holds.

    Args:
        language: Only fences of this language; empty takes any.
    """

    def parse(text: str) -> str | None:
        found = [body for name, body in _FENCE.findall(text) if not language or name.lower() == language.lower()]
        return found[-1].rstrip() or None if found else None

    return Parser("code", f"Put the final code into one fence: ```{language}", parse, f"```{language}\n{{}}\n```")


def pattern(expression: str) -> Parser:
    """The last match of a regular expression: its first group, or the whole of it.

    Raises:
        InputError: It is none.
    """
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise InputError(f"pattern must be a regular expression, got {expression!r}: {error}") from error

    def parse(text: str) -> str | None:
        found = list(compiled.finditer(text))
        if not found:
            return None
        last = found[-1]
        return ((last[1] if compiled.groups else last[0]) or "").strip() or None

    return Parser("pattern", "", parse)


def text() -> Parser:
    """The whole reply, without white space at its ends; an empty one abstains."""
    return Parser("text", "", lambda said: said.strip() or None, "{}")
