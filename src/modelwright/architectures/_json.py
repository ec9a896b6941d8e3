"""JSON that others wrote: what it holds is asked before it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

_SURROGATE = re.compile("[\ud800-\udfff]")


def is_table(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value from JSON is an object."""
    return isinstance(value, dict)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether a value can be looked up in; its keys may be anything."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether a value from JSON is a list."""
    return isinstance(value, list)


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text that can be encoded: JSON can spell half of a surrogate pair; no file can hold it."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def level(config: Mapping[str, Any] | None, *path: str) -> Mapping[str, Any]:
    """A nested part of a configuration; empty where it is not there."""
    value: Any = config
    for key in path:
        value = value.get(key) if is_mapping(value) else None
    return value if is_mapping(value) else {}
