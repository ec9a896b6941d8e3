"""The report: one self-contained HTML page with the table, two figures, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from string import Template

from modelwright.demo import _figures, _scores
from modelwright.demo._merge import command
from modelwright.demo._result import DemoResult, Row
from modelwright.demo._table import GROUPS, TITLES
from modelwright.demo._tasks import MEANING
from modelwright.demo._train import BASE_IMAGES
from modelwright.report import minus, style


def page(result: DemoResult) -> str:
    """The whole page."""
    template = Template(files("modelwright.demo").joinpath("report.html").read_text(encoding="utf-8"))
    best, tasks = result.best, result.tasks
    recipe = result.folder / "recipes" / f"{best.name}.yml"
    return template.substitute(
        style=style(),
        tasks=_tasks(_figures.samples(result)),
        findings="\n".join(f"<li>{sentence}</li>" for sentence in _findings(result)),
        heads="".join(f'<th scope="col">{escape(task)}</th>' for task in tasks.transforms),
        rows="\n".join(_rows(result)),
        margin=_percent(best.margin),
        curves=_figures.accuracy_over_scale(result),
        geometry=_figures.geometry(result),
        conflict=_conflict(result),
        recipes="\n".join(_recipes(result)),
        command=escape(command(recipe, f"my-{best.name}")),
        recipe=escape(recipe.read_text(encoding="utf-8")),
        best=escape(best.name),
        base_images=BASE_IMAGES,
        train=len(tasks.train),
        validation=len(tasks.validation),
        test=len(tasks.test),
        scales=", ".join(f"{scale:g}" for scale in result.scales),
        seed=result.seed,
        seconds=f"{result.seconds:.0f}",
        resident=f"{result.peak_rss / 1e6:.0f}",
    )


def _tasks(samples: Mapping[str, str]) -> str:
    return "\n".join(
        f'<figure><img src="{image}" alt="Three test digits, {MEANING[task]}">'
        f"<figcaption><b>{escape(task)}</b> {escape(MEANING[task])}</figcaption></figure>"
        for task, image in samples.items()
    )


def _findings(result: DemoResult) -> Iterable[str]:
    """What the table says, in sentences that hold whatever the numbers are."""
    best, experts = result.best, result.of("expert")
    own = sum(row.accuracy[row.name] for row in experts) / len(experts)
    mean = sum(row.mean for row in experts) / len(experts)
    count = len(experts)
    base = result.row("base")
    yield (
        f"On its own task an expert gets {_percent(own)} % on average; over all five tasks {_percent(mean)} %. "
        f"The base they were tuned from gets {_percent(base.mean)} %."
    )
    scale = "" if best.scale is None else f" with λ = {best.scale:g}"
    yield (
        f"The merge that does best on the validation images is <b>{escape(best.name)}</b>{scale}: one model of the "
        f"experts' size that gets <b>{_percent(best.mean)} %</b> on the test images. {_versus(result, 'linear')}"
    )
    yield (
        f"Asking all experts and averaging their probabilities costs {count} times as much for each image and gets "
        f"{_percent(result.row('ensemble').mean)} %. {_versus(result, 'ensemble')}"
    )
    yield (
        f"Training one model on all tasks together gets {_percent(result.row('joint').mean)} %: where all data are in "
        "one place, that is what merging has to be measured against."
    )


def _versus(result: DemoResult, other: str) -> str:
    """The best merge minus another row, with the interval of the paired difference."""
    name = result.best.name
    if name == other:
        return ""
    value, margin = _scores.difference(result.hits[name], result.hits[other])
    verdict = "" if abs(value) > margin else "; too close to call on these images"
    return (
        f"({escape(name)} minus {escape(other)}: {_signed(value)} points, 95 % interval {_signed(value - margin)} to "
        f"{_signed(value + margin)}{verdict}.)"
    )


def _rows(result: DemoResult) -> Iterable[str]:
    group = ""
    for row in result.rows:
        if GROUPS[row.kind] != group:
            group = GROUPS[row.kind]
            yield f'<tr class="group"><th scope="rowgroup" colspan="{len(row.accuracy) + 5}">{_HEADINGS[group]}</th></tr>'
        yield _row(row, row is result.best)


_HEADINGS = {
    "trained": "Base and experts",
    "reference": "For reference: five models at once, and one trained on all data",
    "merged": "Merges, best on the validation images first",
}


def _row(row: Row, best: bool) -> str:
    name = escape(TITLES.get(row.name, row.name)) + (' <span class="star">best</span>' if best else "")
    cells = [_tinted(value, own=task == row.name) for task, value in row.accuracy.items()]
    cells += [f"<td><b>{_percent(row.mean)}</b></td>", f"<td>{_percent(row.normalised)}</td>"]
    cells.append(f"<td>{row.seconds:.2f}</td>" if row.seconds is not None else "<td></td>")
    cells.append(f"<td>{row.peak / 1e6:.1f}</td>" if row.peak is not None else "<td></td>")
    marked = ' class="best"' if best else ""
    return f'<tr{marked}><th scope="row">{name}</th>{"".join(cells)}</tr>'


def _tinted(value: float, own: bool) -> str:
    """A cell that is the darker the higher its accuracy is; an expert's own task is framed."""
    tint = max(0.0, (value - 0.5) / 0.5)
    return f'<td class="tint{" own" if own else ""}" style="--a:{tint:.2f}">{_percent(value)}</td>'


def _conflict(result: DemoResult) -> str:
    """The pair with the most sign conflict, and the largest cosine, in words."""
    names = list(result.tasks.transforms)
    pairs = [
        (entry.conflict[i, j], entry.cosine[i, j], names[j], names[i], entry.layer.removesuffix(".weight"))
        for entry in result.geometry
        for i in range(len(names))
        for j in range(i)
    ]
    share, _, first, second, layer = max(pairs)
    highest = max(abs(cosine) for _, cosine, *_ in pairs)
    return (
        f"Most opposed are {escape(first)} and {escape(second)} in {escape(layer)}, with {100 * share:.0f} % opposite signs. "
        f"The largest cosine is {highest:.2f} in magnitude."
    )


def _recipes(result: DemoResult) -> Iterable[str]:
    for row in result.of("merge"):
        recipe = result.recipes[row.name]
        settings = {**recipe.parameters, **({} if row.scale is None else {"λ": row.scale})}
        shown = [f"{name}\u00a0{value:g}" for name, value in settings.items()]
        shown += [f"{_layers(start, stop)} of {model}" for model, start, stop in recipe.slices]
        paper = f' <span class="note">{escape(recipe.method.paper)}</span>' if recipe.method.paper else ""
        yield (
            f'<tr><th scope="row">{escape(row.name)}</th><td class="words">{escape(recipe.method.summary)}{paper}</td>'
            f"<td>{row.experts}</td><td>{escape(', '.join(shown) or 'defaults')}</td></tr>"
        )


def _layers(start: int, stop: int) -> str:
    return f"layer {start}" if stop == start + 1 else f"layers {start} to {stop - 1}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return minus(f"{100 * value:+.1f}")
