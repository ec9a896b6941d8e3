"""Task files for language models: perplexity, multiple choice, generation, and tasks of lm-evaluation-harness."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import Field

from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate._items import Items, Split, Splits, drawing_key, plain
from modelwright.evaluate._language import Choice, Generation, Normalisation, Perplexity, Question, passages
from modelwright.evaluate._lm_eval import lm_eval_tasks
from modelwright.evaluate._metrics import metric
from modelwright.evaluate._named import function as named_function
from modelwright.evaluate._predictor import Rolling, Sampling, needs
from modelwright.evaluate._task import Task
from modelwright.evaluate.sources._data import data_of
from modelwright.evaluate.sources._rows import Rows, divide, own_splits
from modelwright.evaluate.sources._settings import Names, Part, Settings
from modelwright.evaluate.sources._table import Data, Table

#: Data that are one document each.
TEXTS = (".txt", ".txt.gz", ".md")

_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]


class RowSettings(Settings):
    """The keys of tasks whose items are rows.

    Attributes:
        split: The column that says which split a row is in; default `split` where there is one.
        splits: For `tune`, `validation`, `test` one of the data's own splits, or a share of one.
        seed: Of the shares and of the few-shot examples.
        id: A template of the rows' ids, which may use `split`, the data's own name of it; default the column `id`, else the row's place in its file.
        slices: Properties to look at parts of the data by.
    """

    split: str | None = None
    splits: Annotated[dict[Split, Part], Field(min_length=1)] | None = None
    seed: _Count = 0
    id: str | None = None
    slices: Names = Field(default_factory=list)


class ShotSettings(RowSettings):
    """The keys of tasks that may show examples first.

    Attributes:
        shots: How many examples of the split `tune` stand before each item's own text.
        shots_by: A slice: an item's examples are those that share its value.
        separator: What stands between examples.
    """

    shots: _Count = 0
    shots_by: str | None = None
    separator: str = "\n\n"


class PerplexitySettings(RowSettings):
    """The keys of `kind: perplexity`; data are text files, one or a list or by split, or rows with a text.

    Attributes:
        text: A template of a row's text.
        piece: Most characters of a passage; null leaves documents whole.
        before: Most characters of the same document that a passage is read after.
        length: Tokens of a window; default what the model can read.
        stride: Tokens that a window scores; default `length`.
    """

    text: str = "{{ text }}"
    piece: _Positive | None = 2048
    before: _Count = 0
    length: int | None = None
    stride: int | None = None


class ChoiceSettings(ShotSettings):
    """The keys of `kind: choice`.

    Attributes:
        context: A template of what stands before the choices.
        choices: The column with a list of choices, or a list of templates.
        answer: The column with the position of the right choice, counted from 0, or with its text; or a position that
            holds for all rows.
        ambiguous: What happens to rows whose right choice is there more than once.
        normalisation: How log-likelihoods are made comparable.
        delimiter: What stands between context and choice.
        unconditional: With `normalisation: unconditional`: the context that does not ask.
    """

    context: str = "{{ context }}"
    choices: str | list[str] = "choices"
    answer: str | int = "answer"
    ambiguous: Literal["error", "drop"] = "error"
    normalisation: Normalisation = "none"
    delimiter: str = " "
    unconditional: str = ""


class GenerationSettings(ShotSettings):
    """The keys of `kind: generation`.

    Attributes:
        prompt: A template of what the model continues or answers.
        target: The column with the right answer, or with a list of several, of which examples show the first; or a template.
        shown: A template of what an example shows as its answer; default the target.
        max_tokens: Most tokens of an answer.
        stop: Texts at which it ends.
        temperature: 0 takes the most probable token each time.
        extract: A regular expression that finds the answer in the text.
        which: Which of several matches it is.
        tolerance: For `number_match`.
        function: For `custom`: `module:name` or `file.py:name`.
    """

    prompt: str = "{{ prompt }}"
    target: str = "target"
    shown: str | None = None
    max_tokens: _Positive = 256
    stop: Names = Field(default_factory=list)
    temperature: Annotated[float, Field(ge=0, strict=False)] = 0.0
    extract: str | None = None
    which: Literal["first", "last"] = "first"
    tolerance: Annotated[float, Field(ge=0, strict=False)] = 1e-6
    function: str | None = None


class HarnessSettings(Settings):
    """The keys of `kind: lm-eval`; data is the harness's name of the task.

    Attributes:
        include: A folder of further task files.
        filter: Which of the task's filters; default its first.
        shots: Number of few-shot examples; default the task's own.
    """

    include: str | None = None
    filter: str | None = None
    shots: _Count | None = None


# --- templates -------------------------------------------------------------------------------------------------------


class Template:
    """A jinja2 template over the columns of a row, in a sandbox: it can compute, but neither call into Python nor import.

    Args:
        text: The template.
        what: The key that it is the value of, for messages.

    Raises:
        MissingExtraError: jinja2 is not installed.
        InputError: The text is no template.
    """

    def __init__(self, text: str, what: str):
        jinja2 = needs("jinja2", "a template")
        sandbox = needs("jinja2.sandbox", "a template")
        self._what = what
        environment = sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True
        )
        try:
            self._template = environment.from_string(text)
            self.columns = sorted(needs("jinja2.meta", "a template").find_undeclared_variables(environment.parse(text)))
        except jinja2.TemplateError as error:
            raise InputError(f"{what} must be a template, got {text!r}: {error}") from error

    def rendered(self, table: Table, **beside: str) -> list[str]:
        """The text of each row.

        Args:
            table: The rows.
            beside: What the template may use beside their columns.

        Raises:
            InputError: A column is missing, or the template fails on a row.
        """
        columns = {name: _plain(table.column(name)) for name in self.columns if name not in beside}
        return [self._one({**beside, **{n: v[i] for n, v in columns.items()}}, table, i) for i in range(_length(table))]

    def _one(self, row: Mapping[str, Any], table: Table, i: int) -> str:
        try:
            return self._template.render(row)
        except Exception as error:  # whatever an expression on somebody's data raises
            where = f"{table.label}, {table.rows(i)}"
            raise InputError(
                f"the template of {self._what} fails: {type(error).__name__}: {error}", where=where
            ) from error


def _length(table: Table) -> int:
    first = next(iter(table.columns), None)
    return 0 if first is None else len(table.columns[first])


def _plain(column: Any) -> list[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else list(column)


# --- rows ------------------------------------------------------------------------------------------------------------


class _Whole:
    """What dividing rows asks of settings, beside those of `RowSettings`: nothing is stratified or preprocessed."""

    stratified = False
    preprocessing: Sequence[Any] = ()

    def __init__(self, settings: RowSettings):
        self.splits, self.seed = settings.splits, settings.seed


def _splits(
    settings: RowSettings, data: Data, read: Callable[[Table], tuple[list[Any], list[Any]]]
) -> tuple[Splits, dict[str, Rows]]:
    """The rows of each split, read into inputs and targets; rows whose target is None are left out."""
    whole = cast(Any, _Whole(settings))
    wanted = dict.fromkeys(own_splits(data, whole).values())
    rows: dict[str, Rows] = {}
    targets: dict[str, np.ndarray] = {}
    for name in wanted:
        table = data.parts[name]
        inputs, found = read(table)
        kept = [i for i, target in enumerate(found) if target is not None]
        if not kept:
            raise InputError("the data are empty: a task needs items", where=table.label)

        def some(values: Sequence[Any], kept: Sequence[int] = kept) -> list[Any]:
            return [values[i] for i in kept]

        slices = {key: some([str(v) for v in _plain(table.column(key))]) for key in settings.slices}
        rows[name] = Rows(some(_ids(settings, name, table)), some(inputs), some(found), slices, table)
        targets[name] = _objects(some(found))
    return divide(rows, targets, data, whole, classes=()), rows


def _objects(values: Sequence[Any]) -> np.ndarray:
    """One object an item, so that tuples stay tuples."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _ids(settings: RowSettings, part: str, table: Table) -> list[str]:
    if settings.id is not None:
        return Template(settings.id, "id").rendered(table, split=part)
    if "id" in table.columns:
        return [str(value) for value in _plain(table.column("id"))]
    return [f"{part or 'row'}/{i}" for i in range(_length(table))]


def _with_shots(
    settings: ShotSettings, splits: Splits, shown: Callable[[Items, int], str], put: Callable[[str, Any], Any]
) -> Splits:
    """Items with their examples, if any, before each text.

    Args:
        settings: How many examples, of which kind.
        splits: The items without.
        shown: An example as text, from items and position.
        put: An item's input, from the text of its examples and what it was read as.
    """
    if settings.shots and "tune" not in splits:
        raise InputError("few-shot examples come from the split tune, and there is none", "Say splits: {tune: ..}.")
    by = settings.shots_by
    if by is not None and by not in settings.slices:
        raise InputError(f"shots_by must be one of the slices, got '{by}'", f"Say slices: [{by}].")

    def loaded(name: str) -> Items:
        items = splits[name]
        if not settings.shots:
            return replace(items, inputs=[put("", value) for value in items.inputs])
        examples = splits["tune"]
        order = sorted(range(len(examples)), key=lambda i: drawing_key(examples.ids[i], settings.seed))
        inputs: list[Any] = []
        for i, value in enumerate(items.inputs):
            like = [j for j in order if by is None or examples.slices[by][j] == items.slices[by][i]]
            mine = [j for j in like if examples.ids[j] != items.ids[i]][: settings.shots]
            if len(mine) < settings.shots:
                kind = "" if by is None else f" with {by} '{items.slices[by][i]}'"
                raise InputError(
                    f"shots must be at most the number of examples in the split tune{kind}, got {settings.shots} for "
                    f"{len(mine)}"
                )
            inputs.append(put("".join(shown(examples, j) + settings.separator for j in mine), value))
        return replace(items, inputs=inputs)

    return Splits({name: (lambda name=name: loaded(name)) for name in splits}, contents=splits.contents)


# --- kinds -----------------------------------------------------------------------------------------------------------


def perplexity(settings: PerplexitySettings, folder: Path) -> Task:
    """Texts in passages."""
    rolling = Rolling(settings.length, settings.stride)
    texts = _texts(settings.data, folder)
    if texts is not None:
        for key in ("split", "splits", "id"):
            if getattr(settings, key) is not None:
                raise InputError(f"{key} is for rows, and these data are texts", "Name the files by split instead.")
        splits = Splits({name: _loader(settings, documents) for name, documents in texts.items()})
    else:
        data = data_of(settings.data, folder, settings.split)
        text = Template(settings.text, "text")
        rows, _ = _splits(settings, data, lambda table: (found := text.rendered(table), found))
        loaders = {name: _loader(settings, _documents(rows, name)) for name in rows}
        splits = Splits(loaders, contents=rows.contents)
    return Perplexity(
        name=settings.name or "text", splits=splits, metric=metric(settings.metric or "perplexity"), rolling=rolling
    )


def _loader(settings: PerplexitySettings, documents: Callable[[], Mapping[str, str]]) -> Callable[[], Items]:
    return lambda: passages(documents(), settings.piece, settings.before)


def _documents(rows: Splits, name: str) -> Callable[[], Mapping[str, str]]:
    return lambda: dict(zip(rows[name].ids, rows[name].inputs, strict=True))


def _texts(data: Any, folder: Path) -> dict[str, Callable[[], Mapping[str, str]]] | None:
    """Documents by split where the data are text files; None where they are something else."""
    if isinstance(data, Mapping):
        found = {str(name): _texts(value, folder) for name, value in data.items()}
        if any(value is None for value in found.values()):
            return None
        return {name: value["test"] for name, value in found.items() if value is not None}
    names = [data] if isinstance(data, str | Path) else data
    if not isinstance(names, list) or not all(str(name).lower().endswith(TEXTS) for name in names):
        return None
    paths = [folder / Path(str(name)).expanduser() for name in names]
    for path in paths:
        if not path.is_file():
            raise InputError(f"there is no file '{path}'", "Check the path.")
    return {"test": lambda: {path.name: _read(path) for path in paths}}


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot read: {error}"
        raise InputError(what, where=str(path)) from error


def choice(settings: ChoiceSettings, folder: Path) -> Task:
    """Contexts with choices."""
    data = data_of(settings.data, folder, settings.split)
    context = Template(settings.context, "context")
    written = settings.choices
    templates = None if isinstance(written, str) else [Template(text, "choices") for text in written]

    def read(table: Table) -> tuple[list[Any], list[Any]]:
        if templates is None:
            found = [
                _listed(value, str(written), table, i) for i, value in enumerate(_plain(table.column(str(written))))
            ]
        else:
            found = list(zip(*(template.rendered(table) for template in templates), strict=True))
        questions = [Question(c, choices) for c, choices in zip(context.rendered(table), found, strict=True)]
        answers = _answers(settings.answer, found, table)
        if settings.ambiguous == "drop":
            answers = [None if _twice(mine, answer) else answer for mine, answer in zip(found, answers, strict=True)]
        return questions, answers

    splits, rows = _splits(settings, data, read)
    counts = {len(question.choices) for part in rows.values() for question in part.inputs}
    splits = _with_shots(
        settings,
        splits,
        lambda items, i: settings.delimiter.join((items.inputs[i].context, items.inputs[i].choices[items.targets[i]])),
        lambda before, question: question._replace(context=before + question.context),
    )
    return Choice(
        name=settings.name or "choice",
        splits=splits,
        metric=metric(settings.metric or "accuracy"),
        normalisation=settings.normalisation,
        delimiter=settings.delimiter,
        unconditional=settings.unconditional,
        choices=counts.pop() if len(counts) == 1 else None,
    )


def _twice(choices: Sequence[str], answer: Any) -> bool:
    return isinstance(answer, int) and 0 <= answer < len(choices) and choices.count(choices[answer]) > 1


def _listed(value: Any, name: str, table: Table, i: int) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str | int | float) for one in value):
        raise InputError(f"'{name}' must be a list of texts, got {value!r}", where=f"{table.label}, {table.rows(i)}")
    return tuple(str(plain(one)) for one in value)


def _answers(said: str | int, choices: Sequence[Sequence[str]], table: Table) -> list[int]:
    """Positions of the right choices, from positions or texts."""
    values = [said] * len(choices) if isinstance(said, int) else _plain(table.column(said))
    found: list[int] = []
    for i, (value, mine) in enumerate(zip(values, choices, strict=True)):
        if isinstance(value, str):
            if value not in mine:
                where = f"{table.label}, {table.rows(i)}"
                raise InputError(f"the answer '{value}' is none of the choices", did_you_mean(value, mine), where)
            value = list(mine).index(value)
        found.append(value)
    return found


def generation(settings: GenerationSettings, folder: Path) -> Task:
    """Prompts with targets."""
    data = data_of(settings.data, folder, settings.split)
    prompt = Template(settings.prompt, "prompt")
    shown = Template(settings.shown, "shown") if settings.shown is not None else None

    def read(table: Table) -> tuple[list[Any], list[Any]]:
        if "{" not in settings.target:
            values = _plain(table.column(settings.target))
            targets = [_accepted(value, settings.target, table, i) for i, value in enumerate(values)]
        else:
            targets = [(text,) for text in Template(settings.target, "target").rendered(table)]
        answers = [t[0] for t in targets] if shown is None else shown.rendered(table)
        return list(zip(prompt.rendered(table), answers, strict=True)), targets

    splits, _ = _splits(settings, data, read)
    splits = _with_shots(
        settings, splits, lambda items, i: "".join(items.inputs[i]), lambda before, both: before + both[0]
    )
    return Generation(
        name=settings.name or "generation",
        splits=splits,
        metric=metric(settings.metric or ("custom" if settings.function else "exact_match")),
        sampling=Sampling(settings.max_tokens, tuple(settings.stop), settings.temperature, settings.seed),
        extract=settings.extract,
        which=settings.which,
        tolerance=settings.tolerance,
        function=_from_here(settings.function, folder),
    )


def _accepted(value: Any, name: str, table: Table, i: int) -> tuple[str, ...]:
    return _listed(value, name, table, i) if isinstance(value, list | tuple) else (str(plain(value)),)


def _from_here(name: str | None, folder: Path) -> str | None:
    """A function's name with the path of its file, where it is one beside the task file."""
    if name is None:
        return None
    named_function(name, folder)
    module, _, attribute = name.rpartition(":")
    return f"{(folder / module).resolve()}:{attribute}" if module.endswith(".py") else name


def harness(settings: HarnessSettings, folder: Path) -> list[Task]:
    """A task of lm-evaluation-harness, or all of a group."""
    if not isinstance(settings.data, str):
        raise InputError("data must be the name of a task of lm-evaluation-harness")
    return list(lm_eval_tasks(
        settings.data, include=None if settings.include is None else folder / settings.include, metric=settings.metric,
        filter=settings.filter, shots=settings.shots,
    ))  # fmt: skip


def only(tasks: Iterable[Task], name: str) -> Task:
    """The one task of a name.

    Raises:
        InputError: It is several.
    """
    found = list(tasks)
    if len(found) != 1:
        names = ", ".join(task.name for task in found[:5])
        raise InputError(f"'{name}' is {len(found)} tasks: {names} ..", "Name one of them; `evaluate.tasks` gives all.")
    return found[0]
