"""Parameter values: scalars, gradients over layers, and lists of conditions; who wins and what they come to."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelwright.architectures import Place
from modelwright.errors import InputError, Problem, did_you_mean
from modelwright.methods import Method, Parameter
from modelwright.recipe._yaml import Lines

_CONDITION_KEYS = {"filter", "layers", "value"}
_SCALARS = (bool, int, float, str)


#: What the community's recipes carry from method to method; where it does nothing it passes with a note.
COMMUNITY = frozenset(
    {
        "weight",
        "density",
        "gamma",
        "epsilon",
        "normalize",
        "int8_mask",
        "rescale",
        "lambda",
        "t",
        "scale",
        "filter_wise",
    }
)


def idle(name: str, method: Method) -> str | None:
    """Why a parameter of the community's schema does nothing here; None for one that does, or that nobody knows."""
    if name in method.ignored:
        return method.ignored[name]
    return f"{name} has no effect on {method.name}." if name in COMMUNITY and name not in method.fields else None


def check_settings(settings: Mapping[str, Any], method: Method, path: tuple[Any, ...], lines: Lines) -> list[Problem]:
    """Everything that is wrong with one `parameters:` block: names and every value in it."""
    problems: list[Problem] = []
    for name, setting in settings.items():
        at = (*path, name)
        if idle(name, method):
            continue
        if name not in method.fields:
            mend = did_you_mean(str(name), method.fields)
            problems.append(Problem(f"{method.name} has no parameter '{name}'", mend, lines.where(at)))
            continue
        problems += _check(setting, method.fields[name], at, lines)
    return problems


def _check(setting: Any, parameter: Parameter, path: tuple[Any, ...], lines: Lines) -> list[Problem]:
    if isinstance(setting, Mapping):
        return _check_conditions([setting], parameter, path, lines)
    if isinstance(setting, list):
        entries: list[Any] = setting  # type: ignore[reportUnknownVariableType]
        if any(isinstance(entry, Mapping) for entry in entries):
            return _check_conditions(entries, parameter, path, lines)
        found = [p for i, entry in enumerate(entries) for p in _check_scalar(entry, parameter, (*path, i), lines)]
        empty = Problem(f"{parameter.method}: {parameter.name} is an empty list", "Give a value.", lines.where(path))
        return found if entries else [empty]
    return _check_scalar(setting, parameter, path, lines)


def _check_scalar(value: Any, parameter: Parameter, path: tuple[Any, ...], lines: Lines) -> list[Problem]:
    try:
        parameter.check(_meant(parameter, value))
    except InputError as error:
        return [Problem(p.what, p.mend, lines.where(path)) for p in error.problems]
    return []


def _meant(parameter: Parameter, value: Any) -> Any:
    """What the community's tool reads from the same text: 1 and 0 as true and false, "0.5" as a number."""
    others: list[Any] = []
    if isinstance(value, int | float) and not isinstance(value, bool) and value in (0, 1):
        others.append(bool(value))
    elif isinstance(value, str):
        with contextlib.suppress(ValueError):
            others.append(float(value))
    for candidate in (value, *others):
        with contextlib.suppress(InputError):
            return parameter.check(candidate)
    return value


def _check_conditions(
    entries: Sequence[Any], parameter: Parameter, path: tuple[Any, ...], lines: Lines
) -> list[Problem]:
    problems: list[Problem] = []
    for i, entry in enumerate(entries):
        at = (*path, i)
        if not isinstance(entry, Mapping) or "value" not in entry:
            rule = f"{parameter.method}: {parameter.name}: a list of conditions needs `value:` in every entry"
            problems.append(Problem(rule, "Such as {filter: mlp, value: 0.5}.", lines.where(at)))
            continue
        unknown = [str(key) for key in entry if key not in _CONDITION_KEYS]  # type: ignore[reportUnknownVariableType]
        for key in unknown:
            problems.append(
                Problem(f"unknown key '{key}'", did_you_mean(key, _CONDITION_KEYS), lines.where((*at, key)))
            )
        layers: Any = entry.get("layers")  # type: ignore[reportUnknownMemberType]
        if layers is not None and not _is_range(layers):
            rule = f"{parameter.method}: {parameter.name}: layers must be [first, one past the last], got {layers!r}"
            problems.append(Problem(rule, where=lines.where((*at, "layers"))))
        if not isinstance(entry.get("filter"), str | None):  # type: ignore[reportUnknownMemberType]
            rule = f"{parameter.method}: {parameter.name}: filter must be a text, got {entry['filter']!r}"
            problems.append(Problem(rule, where=lines.where((*at, "filter"))))
        if isinstance(entry["value"], Mapping):
            rule = f"{parameter.method}: {parameter.name}: value must be a number, text or list, got a mapping"
            problems.append(Problem(rule, where=lines.where((*at, "value"))))
        else:
            problems += _check(entry["value"], parameter, (*at, "value"), lines)
    return problems


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) is int and v >= 0 for v in value)  # type: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def evaluate(setting: Any, parameter: Parameter, name: str, place: Place | None, t: float) -> Any:
    """What a setting comes to for one tensor; None where no condition matches, so that the next level is asked.

    Args:
        setting: Scalar, gradient or list of conditions, checked already.
        parameter: What it is a value of.
        name: The tensor's name, which filters look at.
        place: Its layer, which `layers:` looks at.
        t: Where it stands between the first and the last layer, in [0, 1]; 0 for tensors outside the layers.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return _meant(parameter, setting)
    entries: list[Any] = setting  # type: ignore[reportUnknownVariableType]
    if all(isinstance(entry, _SCALARS) or entry is None for entry in entries):
        return _gradient([_meant(parameter, entry) for entry in entries], t)
    for entry in entries:
        if _matches(entry, name, place):
            return evaluate(entry["value"], parameter, name, place, t)
    return None


def _gradient(values: Sequence[Any], t: float) -> Any:
    """Numbers are interpolated linearly, texts and booleans indexed."""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return values[int(t * (len(values) - 1))]
    scaled = t * (len(values) - 1)
    low = int(scaled)
    high = min(len(values) - 1, low + 1)
    share = scaled - low
    return (1 - share) * values[low] + share * values[high]


def _matches(entry: Mapping[str, Any], name: str, place: Place | None) -> bool:
    layers = entry.get("layers")
    if layers is not None and (place is None or not layers[0] <= place.number < layers[1]):
        return False
    wanted = entry.get("filter")
    if wanted is None or wanted == "*":
        return True
    return fnmatch.fnmatchcase(name, wanted) if "*" in wanted or "?" in wanted else wanted in name


def resolve(parameter: Parameter, levels: Iterable[Mapping[str, Any]], name: str, place: Place | None, t: float) -> Any:
    """The value of the first level that has one: source, slice, module, recipe.

    Returns:
        The value, or None where no level has one.
    """
    for settings in levels:
        if parameter.name in settings:
            value = evaluate(settings[parameter.name], parameter, name, place, t)
            if value is not None:
                return parameter.check(value)
    return None
