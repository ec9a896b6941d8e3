"""What products of adapters are multiplied with: `lora_alpha`, and its patterns by module."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelwright.architectures import is_table
from modelwright.errors import InputError

#: Leading words that module paths may have more or fewer of than the names of tensors.
_MOST_DROPPED = 32
_MOST_ALPHA = 1e9
#: A key of a pattern that is a name. Its dots match any character for peft; names that differ in these only are none.
_PLAIN_KEY = re.compile(r"[\w.-]+")
#: Python's matcher goes back over every combination of choices: for a repeated group and for many groups exponentially
#: many, for k repeats in a name of n letters n^k. Digits up to a dot are no choice.
_REPEAT = re.compile(r"[*+?{]")
_NO_CHOICE = re.compile(r"(\\d|\[0-9\])[*+]\\\.")
_REPEATED_GROUP = re.compile(r"\)[*+?{]|\(\?|\\\d")
_MOST_REPEATS, _MOST_GROUPS, _MOST_EXPRESSIONS = 2, 3, 20
_LONGEST_MATCHED = 300
_COPY = "Copy or download the adapter again."


def shortened(name: str) -> Iterator[str]:
    """`b.c` and `c` for `a.b.c`; of a name of a million words only the first ones are dropped."""
    words = name.split(".", _MOST_DROPPED)
    for i in range(1, len(words)):
        yield ".".join(words[i:])


def adapter_scales(file: Path, config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, float]:
    """What B @ A of each module is multiplied with: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA.

    Args:
        file: The adapter_config.json, for messages.
        config: What it holds; alpha may differ by module.
        ranks: Of each module the rank of its factors.

    Raises:
        InputError: A rank is 0, an alpha is no number, or an alpha_pattern cannot be used.
    """
    default = config.get("lora_alpha")
    alphas = Pattern(file, "alpha_pattern", config.get("alpha_pattern"))
    scales: dict[str, float] = {}
    for module, rank in ranks.items():
        if rank == 0:
            raise InputError(f"{file.parent}: '{module}' of the adapter has rank 0", "Train it again.")
        alpha = alphas.find(module)
        alpha = alpha if alpha is not None else 8 if default is None else default  # 8: peft's default
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < _MOST_ALPHA:
            raise InputError(
                f"{file}: alpha must be a number below {_MOST_ALPHA:g}, got {alpha!r} for '{module}'", _COPY
            )
        scales[module] = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return scales


class Pattern:
    """peft's `alpha_pattern` and `rank_pattern`: keys are module suffixes or regular expressions; the first that matches counts.

    Raises:
        InputError: It is no table, or an expression in it is invalid or could take for ever to match.
    """

    def __init__(self, file: Path, name: str, table: Any):
        if table is not None and not is_table(table):
            raise InputError(f"{file}: {name} must be a table, got {type(table).__name__}", _COPY)
        self._plain: dict[str, tuple[int, Any]] = {}
        self._expressions: list[tuple[int, re.Pattern[str], Any]] = []
        for place, (key, value) in enumerate((table or {}).items()):
            if _PLAIN_KEY.fullmatch(key):
                self._plain[key] = place, value
            else:
                self._expressions.append((place, _expression(file, name, key), value))
        if len(self._expressions) > _MOST_EXPRESSIONS:
            raise InputError(
                f"{file}: {name} has {len(self._expressions)} regular expressions, more than {_MOST_EXPRESSIONS}",
                "Write names of modules.",
            )

    def find(self, module: str) -> Any:
        """The value for a module; None where there is none."""
        found = [self._plain[name] for name in (module, *shortened(module)) if name in self._plain]
        if self._expressions and len(module) <= _LONGEST_MATCHED:
            found += [(place, value) for place, key, value in self._expressions if key.match(module)]
        return min(found, key=lambda entry: entry[0], default=(0, None))[1]


def _expression(file: Path, name: str, key: str) -> re.Pattern[str]:
    """A key as the expression that peft makes of it, unless matching it could take for ever."""
    repeats, groups = len(_REPEAT.findall(_NO_CHOICE.sub("", key))), key.count("(")
    if _REPEATED_GROUP.search(key) or repeats > _MOST_REPEATS or groups > _MOST_GROUPS or len(key) > 1000:
        raise InputError(
            f"{file}: matching '{key}' of {name} could take for ever",
            f"Write names of modules, or expressions with {_MOST_REPEATS} repeats (* + ? {{}}), {_MOST_GROUPS} groups and "
            "no repeated group at most.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may mean something else in a later Python
            re.compile(key)
            return re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{file}: '{key}' of {name} is no regular expression ({error})", _COPY) from None
