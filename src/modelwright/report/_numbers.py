"""How numbers are written on pages."""

from __future__ import annotations

import math


def minus(number: str) -> str:
    """With the sign that typography has for it."""
    return number.replace("-", "\N{MINUS SIGN}")


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] in per cent, without the sign; nothing for NaN.

    Example:
        >>> percent(0.8123)
        '81.2'
    """
    return "" if math.isnan(share) else minus(f"{100 * share:.{digits}f}")


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign; nothing for NaN. What rounds to zero has none."""
    if math.isnan(value):
        return ""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else minus(text)


def interval(low: float, high: float, digits: int = 1) -> str:
    """`80.1 to 82.3`: with a word, because a dash between numbers reads as a minus; nothing for NaN."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return minus(f"{low:.{digits}f} to {high:.{digits}f}")


def quantity(value: float, unit: str = "") -> str:
    """Three digits and a prefix: `1.24 M`, `350 k`, `12.0 MB`; thousands are counted in tens.

    Example:
        >>> quantity(1_240_000, "B")
        '1.24 MB'
    """
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power * 0.9995:
            value /= 10**power
            return f"{value:#.3g}".rstrip(".") + f" {prefix}{unit}"
    text = f"{value:.0f}" if float(value).is_integer() else f"{value:#.3g}".rstrip(".")
    return f"{text} {unit}".rstrip()
