"""What a model was made from: the manifests of merges, followed as far as there are any."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.architectures import is_list, is_table, is_text
from modelwright.engine import known_manifest, lineage as known_lineage

#: Merges of merges that are followed; beyond it is no lineage but a loop or a joke.
_MOST_DEPTH = 20


@dataclass(frozen=True)
class Ancestor:
    """A model in a lineage.

    Attributes:
        model: What its child called it; of the root its label.
        how: How it was made: the method of its manifest; `stated` where a model card alone names the parents; empty
            where nothing is known.
        parameters: Of that method, as they came to be.
        hash: xxh3-128 of what was read of it, by the child's manifest; empty where there is none.
        licence: What it stated when its child was made; empty where it did not, or nobody wrote it down.
        parents: What it was made from.
        note: Why it is not followed further, where that is not simply its origin.
    """

    model: str
    how: str = ""
    parameters: Mapping[str, Any] | None = None
    hash: str = ""
    licence: str = ""
    parents: tuple[Ancestor, ...] = ()
    note: str = ""

    def lines(self) -> Iterator[str]:
        """The tree as text, a line for each model."""
        yield self._line()
        for i, parent in enumerate(self.parents):
            last = i == len(self.parents) - 1
            for j, line in enumerate(parent.lines()):
                yield f"{('└─ ' if last else '├─ ') if j == 0 else ('   ' if last else '│  ')}{line}"

    def _line(self) -> str:
        settings = ", ".join(f"{name}={_shown(value)}" for name, value in (self.parameters or {}).items())
        how = f"  {self.how}" + (f" ({settings})" if settings else "") if self.how else ""
        licence = f"  {self.licence}" if self.licence else ""
        return self.model + how + licence + (f"  [{self.note}]" if self.note else "")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "varies"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(entry) for entry in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def lineage(label: str, path: Path | None, url: str | None = None) -> Ancestor:
    """The tree of what a model was made from.

    Args:
        label: What to call it.
        path: Its folder; None for a model in memory.
        url: Where it is, if it is not here: parents by relative paths are not looked for then.
    """
    return _ancestor(label, path, {}, (), here=url is None)


def _ancestor(
    label: str,
    path: Path | None,
    entry: Mapping[str, Any],
    above: tuple[Path, ...],
    *,
    here: bool = True,
) -> Ancestor:
    """A model with its parents: from its own folder where that is here, else from what its child's manifest says of it."""
    digest, licence = str(entry.get("xxh3_128", "")), _text(entry.get("licence"))
    told = entry.get("lineage")
    if path is None or not path.is_dir():
        return _told(label, told if is_table(told) else {}, digest, licence)
    place = path.resolve()
    if place in above or len(above) >= _MOST_DEPTH:
        note = "already above" if place in above else "not followed further"
        return Ancestor(label, hash=digest, licence=licence, note=note)
    manifest = known_manifest(path)
    if manifest is None:
        return _told(label, known_lineage(path), digest, licence)
    run, inputs = manifest.get("run"), manifest.get("inputs")
    start = Path(str(run.get("folder", ""))) if is_table(run) else Path()
    parents: list[Ancestor] = []
    for parent in inputs if is_list(inputs) else []:
        if is_table(parent) and is_text(parent.get("model")):
            name = str(parent["model"])
            found = _place(name, start, path) if here else None
            parents.append(_ancestor(name, found, parent, (*above, place)))
    parameters = manifest.get("parameters")
    return Ancestor(
        label, how=str(manifest.get("method", "")), parameters=parameters if is_table(parameters) else None, hash=digest,
        licence=licence, parents=tuple(parents),
    )  # fmt: skip


def _told(label: str, made: Mapping[str, Any], digest: str = "", licence: str = "") -> Ancestor:
    """From the tree that a manifest carries along, or that a model card states."""
    parents = tuple(
        _told(str(parent["model"]), parent.get("lineage", {}), licence=_text(parent.get("licence")))
        for parent in made.get("inputs", ())
    )
    how = "" if not parents else str(made.get("method", "")) if made.get("merge") else "stated"
    return Ancestor(label, how=how, hash=digest, licence=licence, parents=parents)


def _text(value: Any) -> str:
    return value if is_text(value) else ""


def _place(name: str, start: Path, child: Path) -> Path | None:
    """The folder of a parent; of a step, whose name is no path, the one beside its child that is kept under its name."""
    for candidate in (start / Path(name.partition("+")[0]).expanduser(), Path(name.partition("+")[0])):
        if candidate.is_dir():
            return candidate
    steps = child.with_name(f"{child.name}.steps")
    kept = sorted(steps.glob(f"{name}-*")) if re.fullmatch(r"\w[\w.-]*", name) and steps.is_dir() else []
    return kept[0] if len(kept) == 1 else None
