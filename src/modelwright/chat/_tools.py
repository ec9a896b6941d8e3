"""Tools that a model may call: Python callables that the user hands over, and a calculator.

A tool is called only by a program that offers it, when the reply to that very request ends with a call in the form that was
asked for. Nothing else that anybody says calls anything.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, ValidationError, validate_call

from modelwright.errors import InputError, did_you_mean, printable

#: Of an expression, in characters; of numbers in it, in bits; of exponents.
_LONGEST, _BITS, _POWER = 500, 4096, 1000
#: Characters of a tool's result that a model is shown.
_SHOWN = 4000
_TOOL = "__modelwright_tool__"

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt, "abs": abs, "round": round, "min": min, "max": max, "floor": math.floor, "ceil": math.ceil,
    "log": math.log, "log10": math.log10, "exp": math.exp, "sin": math.sin, "cos": math.cos, "tan": math.tan,
}  # fmt: skip


def arithmetic(expression: str, names: Mapping[str, float] | None = None) -> float | int:
    """The value of an arithmetic expression: numbers, names, + - * / // % **, brackets, and a few functions.

    It is read as a syntax tree, and nothing in it is run as code. Its length, its numbers and its powers are bounded.

    Args:
        expression: Such as `2 * (3 + 4)`; `^` is a power.
        names: What names in it stand for, beside pi and e.

    Raises:
        ValueError: It is no such expression, or too large.

    Example:
        >>> arithmetic("1 + 2 * rounds", {"rounds": 3})
        7
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"an expression may have {_LONGEST} characters, and it has {len(expression):,}")
    known = {"pi": math.pi, "e": math.e, **(names or {})}
    try:
        tree = ast.parse(expression.strip().replace("^", "**"), mode="eval")
        return _value(tree.body, known)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"not an arithmetic expression: {expression[:100]!r}") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except (OverflowError, TypeError) as error:
        raise ValueError(str(error)) from None


def _value(node: ast.expr, known: Mapping[str, float]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, known)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _value(inner, known)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, known), _value(right, known))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _BINARY:
            return _bounded(_BINARY[type(operation)](_value(left, known), _value(right, known)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*(_value(one, known) for one in arguments)))
    raise ValueError(f"not arithmetic: {ast.unparse(node)[:100]!r}")


def _power(base: Any, exponent: Any) -> Any:
    if abs(exponent) > _POWER or (isinstance(base, int) and base.bit_length() * abs(exponent) > _BITS):
        raise ValueError("the power is too large")
    return _bounded(base**exponent)


def _bounded(value: Any) -> Any:
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("the result is no finite real number")
    if isinstance(value, int) and value.bit_length() > _BITS:
        raise ValueError("the number is too large")
    return value


def calculator(expression: str) -> str:
    """Calculate an arithmetic expression, such as 12 * (3 + 4.5) or sqrt(2) ^ 3."""
    value = arithmetic(expression)
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def tool(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function as one that models may call, so that a panel's file can name it as `module:function`.

    Example:
        >>> @tool
        ... def capital(country: str) -> str:
        ...     '''The capital of a country.'''
        ...     return {"France": "Paris"}[country]
    """
    setattr(function, _TOOL, True)
    return function


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: How the model calls it.
        function: What is called; it may be asynchronous. Arguments are checked against its annotations.
        summary: What the model is told of it: the first line of its docstring.
        timeout: Seconds until a call is given up.

    Raises:
        InputError: It has no name that can be called, or takes arguments by position only.
    """

    name: str
    function: Callable[..., Any] = field(repr=False)
    summary: str = ""
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", self.name):
            raise InputError(
                f"a tool's name must be a word, got {self.name!r}", "Give it one: Tool('lookup', function)."
            )
        kinds = {p.kind for p in inspect.signature(self.function).parameters.values()}
        if kinds & {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL}:
            raise InputError(f"tool '{self.name}': its arguments must have names", "Leave out / and *args.")

    @classmethod
    def of(cls, function: Callable[..., Any] | Tool) -> Tool:
        """The tool that a function makes, by its name and docstring."""
        if isinstance(function, Tool):
            return function
        doc = (inspect.getdoc(function) or "").strip().split("\n")[0]
        return cls(getattr(function, "__name__", ""), function, doc)

    @property
    def usage(self) -> str:
        """Its name, its arguments and what it does, in one line."""
        try:
            parameters = inspect.signature(self.function, eval_str=True).parameters.values()
        except Exception:  # names that are only there for type checkers
            parameters = inspect.signature(self.function).parameters.values()
        shown = ", ".join(map(str, parameters))
        return f"{self.name}({shown}): {self.summary}" if self.summary else f"{self.name}({shown})"

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """What it returns, as a text for the model; a failure is a text as well, for the model can mend it.

        Args:
            arguments: By name; checked against its annotations.
        """
        checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(self.function)
        try:
            async with asyncio.timeout(self.timeout):
                if inspect.iscoroutinefunction(self.function):
                    result = await checked(**arguments)
                else:
                    result = await asyncio.to_thread(checked, **arguments)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return f"error: {'.'.join(map(str, first['loc'])) or 'arguments'}: {first['msg']}"
        except TimeoutError:
            return f"error: no result within {self.timeout:g} s"
        except Exception as error:
            return f"error: {type(error).__name__}: {error}"[:_SHOWN]
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} [{len(text) - _SHOWN:,} characters left out]"


CALCULATOR = Tool.of(calculator)


def toolbox(functions: Sequence[Callable[..., Any] | Tool]) -> dict[str, Tool]:
    """Tools by their names.

    Raises:
        InputError: Two have the same name.
    """
    found: dict[str, Tool] = {}
    for function in functions:
        one = Tool.of(function)
        if one.name in found:
            raise InputError(f"two tools are called '{one.name}'", "Give one another name: Tool('other', function).")
        found[one.name] = one
    return found


def named_tool(reference: str) -> Tool:
    """The tool that a panel's file names: `calculator`, or `module:function` with the mark `@tool`.

    A file that comes from somebody else can name any function that is installed, such as `os:system`; the mark says that this
    one is meant to be called by models.

    Raises:
        InputError: There is no such function, or it has no mark.
    """
    if reference == CALCULATOR.name:
        return CALCULATOR
    module, colon, name = reference.partition(":")
    if not (colon and module and name):
        raise InputError(f"a tool is named as module:function, got '{reference}'", f"Or: {CALCULATOR.name}.")
    try:
        home = importlib.import_module(module)
    except Exception as error:
        mend = "It must be installed, or in a folder of PYTHONPATH."
        raise InputError(
            f"the module '{module}' of a tool cannot be imported: {printable(str(error))}", mend
        ) from error
    function = getattr(home, name, None)
    if isinstance(function, Tool):
        return function
    if not callable(function):
        raise InputError(f"the module '{module}' has no function '{name}'", did_you_mean(name, vars(home)))
    if not getattr(function, _TOOL, False):
        raise InputError(f"'{reference}' is not marked as a tool", "Write @modelwright.chat.tool above the function.")
    return Tool.of(function)


#: A call is the last line of a reply, in this form; of which a reply has one.
_CALL = re.compile(r"^[ \t*]*Action:[ \t]*([A-Za-z_]\w*)[ \t]*(\{.*\})[ \t*]*$")


@dataclass(frozen=True)
class Call:
    """What a model wants to be called.

    Attributes:
        name: The tool's.
        arguments: By name.
    """

    name: str
    arguments: Mapping[str, Any]


def read_call(text: str) -> Call | None:
    r"""The call that a reply ends with; None where its last line is none.

    Only the last line counts, so that a call which a reply quotes from somewhere calls nothing.

    Example:
        >>> read_call('I must add.\nAction: calculator {"expression": "1 + 1"}').name
        'calculator'
    """
    lines = text.rstrip().splitlines()
    match = _CALL.match(lines[-1]) if lines else None
    if match is None:
        return None
    try:
        arguments = json.loads(match[2])
    except (ValueError, RecursionError):
        return None
    return Call(match[1], arguments) if isinstance(arguments, dict) else None
