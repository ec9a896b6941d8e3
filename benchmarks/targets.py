"""What the engine is to reach, and whether it does."""

from __future__ import annotations

from typing import Any

#: The size that the targets are about.
SIZE = "0.42B"
#: Times faster than the peer, whole process against whole process.
PEER = {
    "linear": 7.0, "slerp": 7.0, "task_arithmetic": 7.0, "model_stock": 6.0, "dare_linear": 15.0, "dare_ties": 15.0,
    "ties": 30.0, "breadcrumbs": 30.0, "della": 10.0,
}  # fmt: skip
#: Seconds that starting up may take before the floor is the measure.
STARTUP = 0.6
#: Times the floor, of what goes beyond STARTUP.
FLOOR = {
    "linear": 1.5, "task_arithmetic": 1.5, "slerp": 2.5, "model_stock": 2.5, "dare_linear": 2.5, "dare_ties": 2.5,
    "ties": 4.0, "breadcrumbs": 4.0,
}  # fmt: skip
PEAK_MB = 600.0
#: How much more memory a larger model or more experts may take.
GROWTH = 1.1
TINY_SECONDS = 1.2
FIRST_SECONDS = 15.0

Cell = dict[str, Any]


def find(cells: list[Cell], method: str, size: str, experts: int = 3, threads: int | None = None) -> Cell | None:
    """What was measured of a method under these conditions."""
    wanted = (method, size, experts, threads)
    return next((c for c in cells if (c["method"], c["size"], c["experts"], c["threads"]) == wanted), None)


def median(cell: Cell | None, contender: str = "modelwright") -> float | None:
    """Seconds, if it ran."""
    entry = (cell or {}).get("contenders", {}).get(contender, {})
    return entry["seconds"]["median"] if "seconds" in entry else None


def peak(cell: Cell | None, contender: str = "modelwright") -> float | None:
    """Megabytes, if it ran."""
    return (cell or {}).get("contenders", {}).get(contender, {}).get("peak_mb")


def times_faster(cell: Cell | None) -> float | None:
    """Than the peer, if both ran."""
    ours, peer = median(cell), median(cell, "mergekit")
    return peer / ours if ours and peer else None


def times_floor(cell: Cell | None) -> float | None:
    """What goes beyond STARTUP, in floors."""
    ours, floor = median(cell), median(cell, "floor")
    return max(0.0, ours - STARTUP) / floor if ours and floor else None


def first_extra(cell: Cell | None) -> float | None:
    """Seconds that a run with an empty kernel cache takes beyond the usual, if it compiled anything."""
    ours, first = median(cell), median(cell, "first run")
    compiled = (cell or {}).get("contenders", {}).get("first run", {}).get("cached_files")
    return first - ours if ours and first and compiled else None


def judge(cells: list[Cell]) -> list[dict[str, Any]]:
    """Every target that this run can speak of: what, method, value, bound, and whether it is met."""
    rows: list[dict[str, Any]] = []

    def at_most(what: str, method: str, value: float | None, bound: float) -> None:
        if value is not None:
            rows.append({"what": what, "method": method, "value": value, "at_most": bound, "met": value <= bound})

    for method in dict.fromkeys(cell["method"] for cell in cells):
        main, tiny = find(cells, method, SIZE), find(cells, method, "tiny")
        if method in PEER and (faster := times_faster(main)) is not None:
            bound = PEER[method]
            rows.append(
                {"what": "times faster than the peer", "method": method, "value": faster, "at_least": bound,
                 "met": faster >= bound}
            )  # fmt: skip
        if method in FLOOR:
            at_most("times the floor", method, times_floor(main), FLOOR[method])
        at_most("peak MB", method, peak(main), PEAK_MB)
        for what, other in (
            ("peak MB at 1.1B over 0.42B", find(cells, method, "1.1B")),
            ("peak MB of 8 experts over 3", find(cells, method, SIZE, 8)),
        ):
            here, there = peak(main), peak(other)
            at_most(what, method, there / here if here and there else None, GROWTH)
        at_most("seconds of a tiny merge", method, median(tiny), TINY_SECONDS)
        at_most("seconds more with an empty kernel cache", method, first_extra(main), FIRST_SECONDS)
    return rows
