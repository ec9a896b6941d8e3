"""Configurations for another vocabulary: how many rows it has, and the numbers of tokens that they name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from modelwright.architectures import is_list, is_table

_NUMBERS = re.compile(r"(^|_)(token_ids?|token_index)$")

#: From a number of the old vocabulary to its string and the new vocabulary's number, None where that lacks it.
Renumber = Callable[[int], tuple[str, int | None]]


def settled(
    config: Mapping[str, Any],
    source: Mapping[str, Any],
    rows: tuple[int, int],
    renumber: Renumber | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """A configuration for another vocabulary, towers included.

    Args:
        config: Of the model.
        source: Of the model whose tokenizer it gets: what it says of the numbers of tokens is right then.
        rows: How many rows embeddings had, and have.
        renumber: For numbers that `source` does not give; None where numbers stay.
        note: Is told of tokens that the new vocabulary lacks.
    """
    result: dict[str, Any] = {}
    for key, value in config.items():
        theirs = source.get(key)
        if is_table(value):
            result[key] = settled(value, theirs if is_table(theirs) else {}, rows, renumber, note)
        elif key == "vocab_size" and value == rows[0]:
            result[key] = rows[1]
        elif renumber is not None and _NUMBERS.search(key) and (type(value) is int or is_list(value)):
            result[key] = theirs if theirs is not None else _renumbered(key, value, renumber, note)
        else:
            result[key] = value
    return result


def _renumbered(key: str, value: Any, renumber: Renumber, note: Callable[[str], None]) -> Any:
    found: list[int] = []
    for number in value if is_list(value) else [value]:
        if type(number) is not int or number < 0:
            return value
        text, new = renumber(number)
        if new is None:
            note(f"{key} stands for {text!r}, which the output's tokenizer does not have; it is left out")
        else:
            found.append(new)
    if is_list(value):
        return found
    return found[0] if found else None
