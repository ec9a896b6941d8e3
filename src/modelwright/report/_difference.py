"""The page of a difference between models: heat maps of layers by kinds, and the tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version

import numpy as np

from modelwright.report._html import Html
from modelwright.report._numbers import minus, percent, quantity
from modelwright.report._page import bullets, note, page, paragraph, section
from modelwright.report._plots import heat_map
from modelwright.report._table import Row, table
from modelwright.surgery import Difference, Figures, Pair
from modelwright.surgery._names import short

#: Kinds beside each other in a heat map; the wider ones are cut into several.
_MOST_COLUMNS = 12
#: Pairs of models with heat maps of their own; of more the means are shown.
_MOST_PAIRS = 3

#: Of a stack of layers its layers, its kinds, and the tensors in each square.
_Grid = tuple[list[str], list[str], dict[tuple[str, str], list[Figures]]]


def difference(found: Difference, title: str = "How the models differ") -> str:
    """A page about a difference.

    Args:
        found: From `mw.diff`.
        title: Its heading.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    names = short((*found.models, found.base))
    size = quantity(found.overall.size)
    about = f"{', '.join(found.models)} against {found.base}: {found.overall.tensors:,} tensors, {size} elements."
    sections = [
        section("All together", _vectors(found, names), *_pairs(found, names), note(_legend(found))),
        *_maps(found, names),
        section("Layers", _groups("layer", found.layers, names)),
        section("Kinds of tensors", _groups("kind", found.kinds, names)),
        *([section("What else differs", bullets(found.notes))] if found.notes else []),
    ]
    return page(title, *sections, lead=about, footer=f"modelwright {version('modelwright')}, mw diff.")


def _legend(found: Difference) -> str:
    text = (
        "A task vector is a model minus the base. Relative: its norm over the base's. Zeros: its entries that are exactly zero. "
        "Similarity: the cosine between the model's own weights and the base's. Effective rank: exp of the entropy of a matrix's "
        "singular values over their sum, mean over the matrices; of full: over the shorter side."
    )
    if found.overall.pairs:
        text += " Sign conflict: of the entries that are nonzero in both, those whose signs differ."
    return text


def _vectors(found: Difference, names: dict[str, str]) -> Html:
    columns = ["task vector", "norm", "relative", "zeros, %", "similarity", "effective rank", "of full, %"]
    rows = [
        Row(
            names[v.model],
            [_number(v.norm), _number(v.relative), percent(v.sparsity), _number(v.similarity), _number(v.effective_rank),
             percent(v.rank_share)],
        )
        for v in found.overall.vectors
    ]  # fmt: skip
    return table(columns, rows, label="Task vectors")


def _pairs(found: Difference, names: dict[str, str]) -> list[Html]:
    rows = [
        Row(_pair_name(pair, names), [_number(pair.cosine), percent(pair.conflict), percent(pair.overlap)])
        for pair in found.overall.pairs
    ]
    columns = ["pair", "cosine", "sign conflict, %", "nonzero in both, %"]
    return [table(columns, rows, label="Pairs of task vectors")] if rows else []


def _pair_name(pair: Pair, names: dict[str, str]) -> str:
    return " and ".join(names[model] for model in pair.models)


def _groups(what: str, groups: Sequence[Figures], names: dict[str, str]) -> Html:
    vectors, pairs = groups[0].vectors, groups[0].pairs
    heads = [what, "elements", *(f"{names[v.model]}: relative" for v in vectors)]
    heads += ["zeros, %", "rank of full, %", *(["cosine", "sign conflict, %"] if pairs else [])]
    largest = max((group.relative for group in groups), default=0.0) or 1.0
    rows: list[Row] = []
    for group in groups:
        cells = [f"{group.size:,}", *(_number(v.relative) for v in group.vectors)]
        cells += [
            percent(_mean([v.sparsity for v in group.vectors])),
            percent(_mean([v.rank_share for v in group.vectors])),
        ]
        if pairs:
            cells += [
                _number(_mean([p.cosine for p in group.pairs])),
                percent(_mean([p.conflict for p in group.pairs])),
            ]
        rows.append(Row(group.name, cells, best=len(groups) > 2 and group.relative == largest))
    return table(heads, rows, label=f"Figures by {what}")


# --- heat maps -----------------------------------------------------------------------------------------------------


def _maps(found: Difference, names: dict[str, str]) -> Iterator[Html]:
    """A section for each figure, with a heat map for each stack of layers and each model or pair."""
    grids = _stacks(found)
    moved = [v.relative for figures in found.tensors for v in figures.vectors if figures.layer != figures.kind]
    far = max((value for value in moved if not math.isnan(value)), default=0.0)
    for heading, value, text, reach in (
        (
            "Relative norm",
            lambda v: v.relative,
            "How far each tensor moved, over the norm of the base. Darker is further.",
            far,
        ),
        ("Effective rank", lambda v: v.rank_share, "Of the task vector, over the shorter side of the matrix.", 1.0),
    ):
        maps = [
            part
            for i, one in enumerate(found.overall.vectors)
            for part in _heat(
                grids, f"{heading}: {names[one.model]}", lambda f, i=i, value=value: value(f.vectors[i]), 0.0, reach
            )
        ]
        if maps:
            yield section(heading, paragraph(text), *maps)
    for heading, value, text, middle, least in (
        (
            "Cosine",
            lambda p: p.cosine,
            "Between task vectors: blue where they agree, amber where they oppose.",
            0.0,
            0.2,
        ),
        ("Sign conflict", lambda p: p.conflict, "Entries with opposite signs; a half is what chance gives.", 0.5, 0.1),
    ):
        if found.overall.pairs:
            maps = _pair_maps(found, names, grids, heading, value, middle, least)
            yield section(heading, paragraph(text), *maps)


def _pair_maps(
    found: Difference,
    names: dict[str, str],
    grids: Sequence[_Grid],
    heading: str,
    value: Callable[[Pair], float],
    middle: float,
    least: float,
) -> list[Html]:
    """For each pair, or of many for their mean; the darkest is no nearer than `least`, so that noise stays pale."""
    pairs = found.overall.pairs
    known = [value(p) for f in found.tensors for p in f.pairs if f.layer != f.kind and not math.isnan(value(p))]
    reach = max([least, *(abs(one - middle) for one in known)])
    if len(pairs) > _MOST_PAIRS:
        label = f"{heading}: mean over {len(pairs)} pairs"
        return _heat(grids, label, lambda f: _mean([value(p) for p in f.pairs]), middle, reach)
    return [
        part
        for i, one in enumerate(pairs)
        for part in _heat(
            grids, f"{heading}: {_pair_name(one, names)}", lambda f, i=i: value(f.pairs[i]), middle, reach
        )
    ]


def _stacks(found: Difference) -> list[_Grid]:
    """Of each stack of layers its layers, its kinds, and the tensors in each square."""
    outside = {figures.layer for figures in found.tensors if figures.layer == figures.kind}
    stacks: dict[str, _Grid] = {}
    for figures in found.tensors:
        if figures.layer in outside:
            continue
        stack = figures.layer.rpartition(".")[0]
        layers, kinds, squares = stacks.setdefault(stack, ([], [], {}))
        if figures.layer not in layers:
            layers.append(figures.layer)
        if figures.kind not in kinds:
            kinds.append(figures.kind)
        squares.setdefault((figures.layer, figures.kind), []).append(figures)
    return list(stacks.values())


def _heat(
    grids: Sequence[_Grid], label: str, value: Callable[[Figures], float], middle: float, reach: float
) -> list[Html]:
    form = _short if middle == 0 and reach < 0.1 else _two_digits
    maps: list[Html] = []
    for layers, kinds, squares in grids:
        values = np.array(
            [[_mean([value(f) for f in squares.get((row, kind), [])]) for kind in kinds] for row in layers]
        )
        known = np.flatnonzero(~np.isnan(values).all(axis=0))
        for at in range(0, len(known), _MOST_COLUMNS):
            columns = known[at : at + _MOST_COLUMNS]
            shown = [kinds[i] for i in columns]
            maps.append(note(label))
            maps.append(heat_map(values[:, columns], layers, shown, label=label, middle=middle, reach=reach, form=form))
    return maps


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _number(value: float) -> str:
    return "" if math.isnan(value) else minus(f"{value:.3g}")


def _two_digits(value: float) -> str:
    return minus(f"{value:.2f}").replace("\N{MINUS SIGN}0.00", "0.00")


def _short(value: float) -> str:
    """Where all are small: what a square has room for."""
    if value and abs(value) < 0.01:
        return minus(f"{value:.0e}".replace("e-0", "e-"))
    return minus(f"{value:.2f}")
