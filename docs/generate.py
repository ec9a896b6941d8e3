"""Write what records say: docs/methods/, the navigation in mkdocs.yml, the table in README.md, what studies measured.

python docs/generate.py            write
python docs/generate.py --check    write nothing; exit 1 and name the files that are stale
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelwright.api import registry
from modelwright.chat import TECHNIQUES
from modelwright.cli._methods import cost_text, describe, models_text, output_text
from modelwright.cli._programs import describe as describe_program
from modelwright.methods import CALIBRATORS, COMBINERS, LAWS, OUTPUT_LAWS, Method, OutputMethod
from modelwright.studies import Interval, Part
from modelwright.studies._text import STATEMENT, shown as text_of, statements

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("first", "second", "third")
#: Around what is generated in pages that hold more than that.
OUTCOME = ("<!-- outcome: made by docs/generate.py from the .json files beside -->", "<!-- /outcome -->")
TECHNIQUES_AT = ("<!-- techniques: made by docs/generate.py from the records -->", "<!-- /techniques -->")
NO_BASE = {"required": "required", "optional": "optional", "ignored": "none"}


def files() -> dict[Path, str]:
    """Every generated text by its path; files that hold more than that keep the rest."""
    methods = list(registry().values())
    pages = {ROOT / "docs" / "methods" / f"{method.name}.md": page(method) for method in methods}
    pages[ROOT / "docs" / "methods" / "index.md"] = index(methods)
    nav = ["      - methods/index.md", *(f"      - {method.title}: methods/{method.name}.md" for method in methods)]
    outputs = [*COMBINERS.values(), *CALIBRATORS.values()]
    nav += ["      - methods/outputs/index.md", *(f"      - {m.title}: methods/outputs/{m.name}.md" for m in outputs)]
    pages |= {ROOT / "docs" / "methods" / "outputs" / f"{method.name}.md": output_page(method) for method in outputs}
    pages[ROOT / "docs" / "methods" / "outputs" / "index.md"] = output_index(outputs)
    pages[ROOT / "mkdocs.yml"] = between(ROOT / "mkdocs.yml", "      # methods", "      # /methods", "\n".join(nav))
    readme = ROOT / "README.md"
    pages[readme] = between(readme, "<!-- methods -->", "<!-- /methods -->", table(methods, "docs/methods/"))
    prompting = ROOT / "docs" / "prompting.md"
    pages[prompting] = between(prompting, *TECHNIQUES_AT, techniques())
    return pages | study_pages()


def between(path: Path, start: str, stop: str, text: str) -> str:
    """The file's text with what stands between two marker lines replaced; unchanged where they are missing."""
    old = path.read_text(encoding="utf-8")
    if start not in old or stop not in old:
        return old
    before, _, rest = old.partition(f"{start}\n")
    return f"{before}{start}\n{text}\n{stop}{rest.partition(stop)[2]}"


def table(methods: Sequence[Method], folder: str) -> str:
    """One row a method."""
    rows = ["| method | models | base | paper | |", "|---|---|---|---|---|"]
    for method in methods:
        link = f"[`{method.name}`]({folder}{method.name}.md)"
        cells = [link, models_text(method), NO_BASE[method.base], paper(method), method.summary]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def index(methods: Sequence[Method]) -> str:
    """The methods' first page."""
    return f"""{head("the records of all methods")}
# Merging methods

Each method is one pure function on arrays and one record, from which this page, the command line's help, recipe
validation and the law tests are made. *Models* counts those beside the base; *base* says whether a base model is needed.

{table(methods, "")}

`mw methods` prints this table and `mw methods NAME` one method in full; `--json` gives the records as data, `--cite`
BibTeX. Own methods join by [one file](../contributing.md).

## Semantics

`semantics: community`, the default everywhere, gives what the community's recipes give today. `semantics: paper` fills
in the values of each method's paper where the recipe gives none; they stand in the column *paper* of its page.

## The laws

Each record names the laws that hold for its method, and tests try every one of them, as well as that no law which holds
is left out. They speak of exact arithmetic up to rounding.

{bullets(f"**{law}**: {text}." for law, text in LAWS.items())}
"""


def techniques() -> str:
    """One row a technique, under the headings of the survey."""
    rows = ["| | technique | calls | once | needs | paper |", "|---|---|---|---|---|---|"]
    for record in TECHNIQUES.values():
        data = describe_program(record)
        name = f"`{record.name}`: {cell(record.summary)}"
        calls, once = (f"`{text}`" if text else "" for text in (data["calls"], data["prepares"]))
        cells = [str(data["technique"]["number"]), name, calls, once, ", ".join(data["needs"]), link(record.paper)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def output_index(methods: Sequence[OutputMethod]) -> str:
    """The first page of methods on outputs."""
    rows = ["| method | kind | takes | learns | paper | |", "|---|---|---|---|---|---|"]
    for method in methods:
        learns = "from labels" if method.fit is not None else "nothing"
        cells = [f"[`{method.name}`]({method.name}.md)", method.kind, ", ".join(sorted(method.takes)), learns]
        rows.append(f"| {' | '.join([*cells, link(method.paper), method.summary])} |")
    table = "\n".join(rows)
    return f"""{head("the records of all methods on outputs")}
# Methods on outputs

Combiners make one answer of several, calibrators make an answer's confidence true. Each is a pure function in numpy and float64 with
a record, from which this page, `mw methods` and the law tests are made. [Ensembles of outputs](../../ensembles.md) says how they
are used. Binary predictions are taken wherever classes are.

{table}

## The laws

Each record names the laws that hold for its method, and tests try every one of them, as well as that no law which holds is left
out.

{bullets(f"**{law}**: {text}." for law, text in OUTPUT_LAWS.items())}
"""


def output_page(method: OutputMethod) -> str:
    """One page of a method on outputs."""
    data = describe(method)
    call = f'fit(validation, "{method.name}")'
    use = f"fitted = {call}\nfitted.{ {'sets': 'sets', 'intervals': 'intervals'}.get(method.gives, 'apply') }(test)"
    if method.fit is None:
        use = f'combine(bank, "{method.name}")'
    parts = [
        head(f"the record of {method.name}"), f"# {method.title}", method.summary, f"{output_text(method)}.", link(method.paper),
        "## Use", f"```text\n{use}\n```",
    ]  # fmt: skip
    if data["parameters"]:
        parts += ["## Parameters", parameters(data["parameters"], "each member")]
    home = f"modelwright.methods.{method.kind}"
    functions = [method.function] + ([method.fit] if method.fit is not None else [])
    for function in functions:
        name = f"{function.__module__}.{function.__name__}"
        shown_as = f"{home}.{function.__name__}" if function is method.function else name
        parts.append(f"::: {shown_as}\n    options:\n      heading_level: 3")
    parts.insert(-len(functions), "## What it computes")
    if data["laws"]:
        parts += ["## Laws", bullets(f"**{law}**: {OUTPUT_LAWS[law]}." for law in data["laws"])]
    if method.differs:
        numbered = "\n".join(f"{i}. {escaped(text)}" for i, text in enumerate(method.differs, 1))
        parts += ["## Where it differs", "From the paper, or from well-known implementations:", numbered]
    return "\n\n".join(part for part in parts if part) + "\n"


def study_pages() -> dict[Path, str]:
    """What full runs of the studies measured, from docs/studies/*.json, within the pages that say what we think of it."""
    folder = ROOT / "docs" / "studies"
    outcomes = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    rows = ["| study | claim | verdict |", "|---|---|---|"]
    rows += [f"| [{o['title']}]({o['id']}.md) | {cell(o['claim'])} | {o['verdict']} |" for o in outcomes]
    made = {folder / "index.md": between(folder / "index.md", *OUTCOME, "\n".join(rows))}
    for outcome in outcomes:
        path = folder / f"{outcome['id']}.md"
        made[path] = between(path, *OUTCOME, study(outcome))
    return made


def study(outcome: Mapping[str, Any]) -> str:
    """One study's outcome."""
    parts = [f"| {' | '.join(STATEMENT)} |", "|---|---|---|---|"]
    stored = [{key: value for key, value in part.items() if key != "verdict"} for part in outcome["parts"]]
    records = tuple(Part(**part | {"interval": Interval(**part["interval"])}) for part in stored)
    parts += [f"| {' | '.join(map(cell, row))} |" for row in statements(records)]
    count, versions = len(outcome["seeds"]), outcome["versions"]
    ran = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "modelwright")
    texts = [
        f"*{outcome['claim']}* {link(outcome['paper'])}", f"**Verdict: {outcome['verdict']}.**", "\n".join(parts),
        outcome["rule"], *(measured_table(entry) for entry in outcome["tables"]), "## How it was done",
        bullets(escaped(note) for note in outcome["notes"]),
        f"{count} seeds, {outcome['seconds']:.0f} s on one core; {ran}. In brackets 95 % intervals by paired bootstrap over "
        "seeds and images, or the range over seeds. To do it again:",
        f"```text\nmw study run {outcome['id']} --json {outcome['id']}.json --html {outcome['id']}.html\n```",
        f"[All figures as data]({outcome['id']}.json)",
    ]  # fmt: skip
    return "\n\n".join(texts)


def measured_table(entry: Mapping[str, Any]) -> str:
    """A table of an outcome."""
    title = entry["title"] + (", %" if entry["unit"] == "%" else "")
    rows = [entry["columns"], ["---"] * len(entry["columns"])]
    rows += [[cell(measure(value, entry["unit"])) for value in row] for row in entry["rows"]]
    return f"### {title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measure(value: Any, unit: str) -> str:
    """A name, a number or an interval, as the terminal shows it."""
    return text_of(Interval(**value) if isinstance(value, dict) else value, unit)


def page(method: Method) -> str:
    """One method's page."""
    data = describe(method)
    parts = [head(f"the record of {method.name}"), f"# {method.title}", method.summary, facts(method, data)]
    yaml, command, python = examples(method)
    parts += [
        "## Use", f"```yaml\n{yaml}\n```", f"```console\n$ {command}\n```" if command else "",
        f"```python\nimport modelwright as mw\n\n{python}\n```" if python else "",
    ]  # fmt: skip
    if data["parameters"]:
        parts += ["## Parameters", parameters(data["parameters"])]
    if method.ignored:
        known = bullets(f"`{name}`: {reason}" for name, reason in sorted(method.ignored.items()))
        parts.append(f"Keys of the community's schema that are accepted with a note:\n\n{known}")
    home = "modelwright.methods.merging"
    parts += ["## What it computes", f"::: {home}.{method.name}\n    options:\n      heading_level: 3"]
    if data["laws"]:
        parts += ["## Laws", bullets(f"**{law}**: {LAWS[law]}." for law in data["laws"])]
    if method.differs:
        numbered = "\n".join(f"{i}. {escaped(text)}" for i, text in enumerate(method.differs, 1))
        parts += ["## Where it differs", "From the paper, or from well-known implementations:", numbered]
    if method.cite:
        parts += ["## Cite", f"```bibtex\n{method.cite}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(method: Method, data: Mapping[str, Any]) -> str:
    """What the record says in a word each."""
    rows = {"paper": paper(method), "models": models_text(method)}
    if method.base != "ignored":
        rows["models"] += " beside the base"
    rows["base"] = NO_BASE[method.base]
    if method.parts is not None:
        rows["outcome"] = "a [bundle](../bundles.md): what the tasks share, and a part for each task"
    scope, paper_scope = (by_semantics(method, semantics) for semantics in ("community", "paper"))
    rows["scope"] = scope if scope == paper_scope else f"{scope}; `semantics: paper`: {paper_scope}"
    cost, paper_cost = (cost_text(*method.cost(semantics)) for semantics in ("community", "paper"))
    rows["cost"] = cost if cost == paper_cost else f"{cost}; `semantics: paper`: {paper_cost}"
    if method.random:
        rows["random"] = "masks are drawn from `seed`"
    if not method.differentiable:
        rows["gradients"] = "do not reach every input, or are not finite everywhere"
    same = {"bits": "the same bytes on every CPU", "tolerance": "to the last digits on different CPUs"}
    rows["reproducible"] = same[method.reproducible]
    lines = [
        f"| name | `{method.name}` |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items() if value),
    ]
    return "\n".join(lines)


def by_semantics(method: Method, semantics: str) -> str:
    """How much of a model one output element depends on."""
    values: dict[str, Any] = dict.fromkeys(method.fields) | method.defaults(semantics)
    lists = {name: (value,) if method.fields[name].per_model else value for name, value in values.items()}
    return method.scope(lists)


def parameters(entries: Sequence[Mapping[str, Any]], each: str = "each model") -> str:
    """The table of a method's parameters."""
    has_paper = any(entry["paper"] != entry["default"] for entry in entries)
    rows = [
        f"| parameter | of | value | default |{' paper |' if has_paper else ''} meaning |",
        f"|---|---|---|---|{'---|' if has_paper else ''}---|",
    ]
    for entry in entries:
        default = "required" if entry["required"] else shown(entry["default"])
        special = shown(entry["paper"]) if entry["paper"] != entry["default"] else ""
        cells = [f"`{entry['name']}`", each if entry["per_model"] else "all", entry["rule"], default]
        rows.append(f"| {' | '.join([*cells, *([special] if has_paper else []), cell(entry['help'])])} |")
    return "\n".join(rows)


def examples(method: Method) -> tuple[str, str, str]:
    """A recipe, a command line and a line of Python that this method accepts; the last two may be empty."""
    own = {name: value for name, value in example_values(method).items() if method.fields[name].per_model}
    common = {name: value for name, value in example_values(method).items() if name not in own}
    lines = [f"merge_method: {method.name}"]
    least, most = method.models
    if method.base == "ignored" and most == 1:  # nothing to average: layers are stacked
        lines.append("slices:")
        for model, start, stop in (("first", 0, 24), ("second", 8, 32)):
            lines.append(f"  - sources: [{{model: {model}, layer_range: [{start}, {stop}]}}]")
        return "\n".join([*lines, *block("parameters", common | own)]), "", ""
    if method.base == "required":
        lines.append("base_model: base")
    names = PLACES[: min(most or 2, max(2, least))]
    lines.append("models:")
    for name in names:
        lines += [f"  - model: {name}", *("    " + line for line in block("parameters", own))]
    lines += block("parameters", common)
    base = "--base base " if method.base == "required" else ""
    sets = "".join(f"--set {name}={json.dumps(value)} " for name, value in (own | common).items() if name != "weight")
    models = " ".join(f"{name}" for name in names)
    command = f"mw merge {models} --method {method.name} {base}{sets}-o merged"
    given = {method.fields[name].python_name: value for name, value in (own | common).items() if name != "weight"}
    keywords = "".join(f", {name}={value!r}" for name, value in given.items())
    anchor = ', base="base"' if method.base == "required" else ""
    listed = ", ".join(f'"{name}"' for name in names)
    call = f'mw.merge([{listed}]{anchor}, method="{method.name}"{keywords})'
    return "\n".join(lines), command, f'merged = {call}\nmerged.save("merged")'


def example_values(method: Method) -> dict[str, Any]:
    """What must be given, and the numbers that the paper's preset sets: 1 for each model, 0.5 for all."""
    preset = method.presets.get("paper", {})
    values: dict[str, Any] = {}
    for name, parameter in method.fields.items():
        if parameter.required:
            values[name] = 1.0 if parameter.per_model else 0.5
        if isinstance(preset.get(name), float):
            values[name] = preset[name]
    return values


def block(key: str, values: Mapping[str, Any]) -> list[str]:
    """A mapping as YAML lines, none where it is empty."""
    return [f"{key}:", *(f"  {name}: {json.dumps(value)}" for name, value in values.items())] if values else []


def paper(method: Method) -> str:
    """The reference as a link."""
    return link(method.paper)


def link(reference: str) -> str:
    """A paper's reference as a link."""
    for prefix, address in (("arXiv:", "https://arxiv.org/abs/"), ("doi:", "https://doi.org/")):
        if reference.startswith(prefix):
            return f"[{reference}]({address}{reference.removeprefix(prefix)})"
    if reference.startswith("https://"):
        return f"[{re.sub('^https://(www[.])?', '', reference)}]({reference})"
    return reference


def shown(value: Any) -> str:
    """A value as recipes write it."""
    return "" if value is None else f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def escaped(text: str) -> str:
    """Text that markdown takes as it is."""
    return text.replace("*", "\\*").replace("<", "&lt;")


def cell(text: str) -> str:
    """The same in a table."""
    return escaped(text).replace("|", "\\|")


def bullets(lines: Any) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def head(source: str) -> str:
    """Where a page comes from, for those who would edit it."""
    return f"<!-- Made by docs/generate.py from {source}: edit that, then run make docs. -->"


def main() -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if anything would change")
    check = parser.parse_args().check
    wanted = files()
    folder = ROOT / "docs" / "methods"
    odd = [path for path in folder.rglob("*.md") if path not in wanted]
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check and stale + odd:
        names = ", ".join(str(path.relative_to(ROOT)) for path in [*stale, *odd])
        sys.stderr.write(f"stale: {names}. Run python docs/generate.py.\n")
        return 1
    if not check:
        folder.mkdir(exist_ok=True)
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        for path in odd:  # of a method that is no more
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
