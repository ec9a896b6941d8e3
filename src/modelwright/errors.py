"""What can go wrong, said so that the reader can mend it.

Every problem of the user's input is a `Problem`: the rule with what was found, the mend, and where. Several are
collected before anything is raised, because a recipe with three slips should need one correction, not three runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

#: Characters of one message; names in files can be as long as the file.
_LONGEST = 4000


def printable(text: str) -> str:
    """The text as any terminal and any file may have it.

    Names come from files that others wrote. Control characters in them could rewrite the screen, and other marks turn
    the reading direction; they are shown as escapes, and so is half a surrogate pair, which cannot be encoded.
    """
    return _shortened("".join(c if c.isprintable() else _escape(c) for c in _shortened(text)))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _shortened(text: str) -> str:
    """At most `_LONGEST` characters, so that doing it twice changes nothing."""
    if len(text) <= _LONGEST:
        return text
    side = _LONGEST // 2 - 50
    return f"{text[:side]} [{len(text) - 2 * side:,} characters left out] {text[-side:]}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input; every text is kept `printable`.

    Attributes:
        what: The rule and what was found: `density must be in [0, 1], got 20`.
        mend: What to write instead: `It is a fraction; for 20 % write 0.2.` May be empty.
        where: File and line, tensor, model. May be empty.
    """

    what: str
    mend: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        for name in ("what", "mend", "where"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        text = self.what.rstrip(".") + "."
        if self.mend:
            text += f" {self.mend}"
        return f"{text} [{self.where}]" if self.where else text


class InputError(ValueError):
    """The input is wrong; nothing was written. Exit code 2.

    Attributes:
        problems: All that was found, in the order of the input.
    """

    def __init__(self, problems: str | Problem | Iterable[Problem], mend: str = "", where: str = ""):
        if isinstance(problems, str):
            problems = [Problem(problems, mend, where)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return _input_error, (type(self), self.problems)


def _input_error(kind: type[InputError], problems: tuple[Problem, ...]) -> InputError:
    """One that comes from another process, whatever its class is made from."""
    error = kind.__new__(kind)
    InputError.__init__(error, problems)
    return error


class MissingExtraError(InputError):
    """A part of the library needs an optional package that is not installed. Exit code 2."""

    def __init__(self, feature: str, package: str, extra: str):
        super().__init__(
            f"{feature} needs the package '{package}', which is not installed",
            f'Install the extra: pip install "modelwright[{extra}]".',
        )


def needs(package: str, what: str, extra: str = "eval") -> Any:
    """An optional package, imported; named with its extra where it is missing.

    Raises:
        MissingExtraError: It is not installed.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(what, package.partition(".")[0], extra) from error


class RunError(RuntimeError):
    """The input was accepted, but the run failed (disk, memory, a result that is not finite). Exit code 1.

    Attributes:
        resumable: Whether the same run may succeed later, so that what it has done is worth keeping.
    """

    def __init__(self, text: str, *, resumable: bool = False):
        super().__init__(printable(text))
        self.resumable = resumable


def did_you_mean(word: str, known: Iterable[str], most: int = 12) -> str:
    """`Did you mean 'density'? ` for a near miss, and always the list of what is valid, up to `most`."""
    options = sorted(known)
    word = str(word)[:100]
    begun = [option for option in options if len(word) > 2 and str(option).startswith(word)]  # `acc` is no `mcc`
    close = begun[:1] or difflib.get_close_matches(word, options, n=1, cutoff=0.6)  # takes length squared
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Valid: {listing(options, most)}."


def listing(items: Sequence[object] | Iterable[object], most: int = 12) -> str:
    """`a, b, c and 9 more`: a list that stays readable when it is long."""
    words = [str(item) for item in items]
    if len(words) > most:
        return ", ".join(words[:most]) + f" and {len(words) - most} more"
    return ", ".join(words) if words else "none"
