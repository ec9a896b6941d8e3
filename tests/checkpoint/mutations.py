"""Valid values and files made hostile, a little or much: what the fuzzers feed the readers."""

from __future__ import annotations

import copy
import random
from typing import Any

#: Values that have broken readers: wrong kinds, ends of ranges, texts that are paths, escapes, expressions.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30), 10**400, 0.5, -0.0,
    1e308, float("inf"), float("nan"), "", "0", "1", "a", "..", ".", "/", "../x", "/etc/passwd", "a/b", "a\\b", "\0", "\x1b[2J",
    "\ud800", "\u202e", "ü", "a" * 300, "a" * 5000, "." * 3000, "layers." + "9" * 5000, "F32", "BF16", "F4", "LORA",
    "__metadata__", "(a+)+$", "[", ".*", "model.safetensors", [], [[]], {}, {"a": {}}, [1, 2], [None], [0, 0], ["a", "b"],
    [2**63, 2**63], [0] * 100, {"id": 1}, {"path": ".."}, {"name": "default"}, {"weight_map": {"a": ".."}},
)  # fmt: skip
_BYTES = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFE, 0xFF)


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every place inside a JSON value: the container and the key or index."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        inner = (
            list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
        )
        found += [(node, key) for key, _ in inner]
        waiting += [child for _, child in inner]
    return found


def other_json(value: Any, rng: random.Random) -> Any:
    """The value with one to three changes: replaced, removed, doubled, moved, renamed, or nested deeper."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = spots(value)
        if not places or rng.random() < 0.02:
            return copy.deepcopy(rng.choice(HOSTILE))
        node, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                del node[key]
            case 1:
                other, place = rng.choice(places)
                node[key] = copy.deepcopy(other.get(place) if isinstance(other, dict) else other[place : place + 1])
            case 2 if isinstance(node, dict):
                name = rng.choice(HOSTILE)
                node[name if isinstance(name, str) else str(name)[:50]] = node.pop(key)
            case 3 if isinstance(node, list):
                node.insert(key, copy.deepcopy(rng.choice(HOSTILE)))
            case 4 if type(node[key]) is int:
                node[key] += rng.choice((-8, -4, -1, 1, 4, 8, 2**32, 2**62))
            case 5:
                for _ in range(rng.choice((1, 5, 150))):
                    node[key] = [node[key]] if rng.random() < 0.5 else {"a": node[key]}
            case _:
                node[key] = copy.deepcopy(rng.choice(HOSTILE))
    return value


def other_bytes(raw: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four changes: set, cut, repeated, moved, or a number of 2, 4 or 8 bytes made extreme."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        if not data:
            break
        at, count = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 8, 30))
        match rng.randrange(7):
            case 0:
                del data[at : at + count]
            case 1:
                data[at:at] = data[at : at + count]
            case 2:
                start = rng.randrange(len(data))
                data[at : at + count] = data[start : start + count]
            case 3:
                width = rng.choice((2, 4, 8))
                value = rng.choice((0, 1, len(data), len(data) - 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1)))
                data[at : at + width] = value.to_bytes(width, "little")
            case 4:
                del data[at:]
            case _:
                data[at] = rng.choice((*_BYTES, rng.randrange(256)))
    return bytes(data)
