"""When two answers are the same one."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from modelwright.errors import InputError
from modelwright.evaluate._predictor import needs

#: Whether two values are the same answer; neither is None.
Same = Callable[[Any, Any], bool]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_LONGEST = 200
_LARGEST_POWER = 64


def exact(first: Any, second: Any) -> bool:
    """Equal values of one type: 1 is neither True nor "1"."""
    return type(first) is type(second) and bool(first == second)


def normalised(first: Any, second: Any) -> bool:
    """Equal texts without case, accents' way of writing, punctuation at their ends, articles and extra white space.

    Example:
        >>> normalised("The  Nile.", "nile")
        True
    """
    return _plain(str(first)) == _plain(str(second))


@cache
def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    text = " ".join(_ARTICLES.sub(" ", text).split())
    return text.strip(" .,;:!?\"'`") or text


def as_number(value: Any) -> Decimal | None:
    """The number that a value is or a text says: thousands in commas, a leading currency sign, per cent, fractions.

    Example:
        >>> as_number("$1,250.50"), as_number("3/4"), as_number("12%")
        (Decimal('1250.50'), Decimal('0.75'), Decimal('0.12'))
    """
    text = str(value).strip().replace("\u2212", "-")
    match = _NUMBER.fullmatch(text)
    if match is None or isinstance(value, bool):
        return None
    try:
        number = Decimal(match["whole"].replace(",", ""))
        if match["below"]:
            below = Decimal(match["below"].replace(",", ""))
            if not below:
                return None
            number /= below
    except InvalidOperation:
        return None
    if match["sign"] == "-":
        number = -number
    return number / 100 if match["percent"] else number


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*[$€£]?\s*(?P<whole>{_DIGITS})(?:\s*/\s*(?P<below>{_DIGITS}))?\s*(?P<percent>%?)"
)


def near(tolerance: float = 1e-6) -> Same:
    """Equal numbers within a tolerance; what is no number is compared as text.

    Args:
        tolerance: Largest difference, as a share of the larger of 1 and either number's size.

    Raises:
        InputError: It is negative or not finite.

    Example:
        >>> near()("1,000", "1000.0")
        True
    """
    if not 0 <= tolerance < float("inf"):
        raise InputError(f"tolerance must be a number of at least 0, got {tolerance}")
    share = Decimal(tolerance)

    def same(first: Any, second: Any) -> bool:
        a, b = as_number(first), as_number(second)
        if a is None or b is None:
            return normalised(first, second)
        return abs(a - b) <= share * max(abs(a), abs(b), Decimal(1))

    return same


def symbolic(first: Any, second: Any) -> bool:
    """Equal as formulas: sympy simplifies their difference to 0. What is no formula is compared as text.

    Texts come from models, so they are never evaluated: only numbers, single letters, + - * / ^, brackets, sqrt, fractions
    of LaTeX and pi are read, up to 200 characters and powers up to 64.

    Raises:
        MissingExtraError: sympy is not installed.

    Example:
        >>> symbolic("(x+1)^2", "x^2 + 2x + 1")
        True
    """
    sympy = needs("sympy", "comparing formulas", "chat")
    if near()(first, second):
        return True
    a, b = _formula(str(first), sympy), _formula(str(second), sympy)
    if a is None or b is None:
        return False
    return bool(sympy.simplify(a - b) == 0)


_LATEX = (
    (re.compile(r"\\left|\\right|\\,|\\;|\\!|\$"), ""),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\sqrt\s*\{([^{}]*)\}"), r"sqrt(\1)"),
    (re.compile(r"\\(?:cdot|times)"), "*"),
    (re.compile(r"\\pi\b|\u03c0"), "pi"),
    (re.compile(r"\^\s*\{([^{}]*)\}"), r"^(\1)"),
)
#: Where a product is meant: 2x, 2(, )(, )x, x(; but not in names such as sqrt( and pi.
_PRODUCT = re.compile(r"(?<=[\d)])\s*(?=[A-Za-z(])|(?<=\))\s*(?=\d)|(?<![A-Za-z])([A-Za-z])(?=\()")


def _formula(text: str, sympy: Any) -> Any:
    """A sympy expression, or None."""
    for _ in range(4):  # fractions within fractions
        for pattern, instead in _LATEX:
            text = pattern.sub(instead, text)
    text = text.strip().rstrip(".")
    if not text or len(text) > _LONGEST:
        return None
    text = _PRODUCT.sub(lambda m: f"{m[1] or ''}*", text).replace("^", "**")
    try:
        return _sympy(ast.parse(text, mode="eval").body, sympy)
    except (SyntaxError, ValueError, RecursionError, ZeroDivisionError, MemoryError):
        return None


def _sympy(node: ast.expr, sympy: Any) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return sympy.Rational(str(value))
        case ast.Name(id="pi"):
            return sympy.pi
        case ast.Name(id=name) if len(name) == 1:
            return sympy.Symbol(name, positive=True) if name != "e" else sympy.E
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
            value = _sympy(inner, sympy)
            return -value if isinstance(sign, ast.USub) else value
        case ast.Call(func=ast.Name(id="sqrt"), args=[inner], keywords=[]):
            return sympy.sqrt(_sympy(inner, sympy))
        case ast.BinOp(left=left, op=operation, right=right):
            a: Any = _sympy(left, sympy)
            b: Any = _sympy(right, sympy)
            match operation:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    if b == 0:
                        raise ZeroDivisionError
                    return a / b
                case ast.Pow() if not b.is_number or abs(b) <= _LARGEST_POWER:
                    return a**b
    raise ValueError("not a formula that is read here")


EQUALITIES: dict[str, Same] = {"exact": exact, "normalised": normalised, "near": near(), "symbolic": symbolic}


def groups(answers: Sequence[Any], same: Same = exact) -> list[int | None]:
    """Which answers are the same one: for each the position of the first of its group, None where it abstains.

    An answer joins the first group whose first member it equals. Where equality is not transitive, as with a tolerance, the
    order so decides; but what comes later never changes the group of what came before.

    Args:
        answers: None abstains.
        same: When two are the same.

    Example:
        >>> groups([4, None, 5, 4])
        [0, None, 2, 0]
    """
    firsts: list[int] = []
    found: list[int | None] = []
    for i, answer in enumerate(answers):
        if answer is None:
            found.append(None)
            continue
        home = next((first for first in firsts if same(answers[first], answer)), None)
        if home is None:
            firsts.append(i)
        found.append(i if home is None else home)
    return found
