"""`task(reference)`: a task from whatever names one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelwright.errors import InputError, did_you_mean, listing
from modelwright.evaluate._items import Items
from modelwright.evaluate._named import called, is_named
from modelwright.evaluate._task import Task
from modelwright.evaluate.sources._data import data_of
from modelwright.evaluate.sources._kinds import KINDS
from modelwright.evaluate.sources._language import TEXTS, only
from modelwright.evaluate.sources._questions import layout
from modelwright.evaluate.sources._rows import unlabelled
from modelwright.evaluate.sources._settings import DataSettings, instead
from modelwright.evaluate.sources._table import Data, Table
from modelwright.recipe import Lines, load as read_yaml, problems


def task(reference: Any, **options: Any) -> Task:
    """A task from data, or from a file that describes one.

    Args:
        reference: A task file (`.yml`); data: `.npz`, `.csv`, `.jsonl` (both also `.gz`), a folder of images, a folder
            of a `datasets` data set; a text (`.txt`), for perplexity; `lm-eval:NAME`, a task of lm-evaluation-harness;
            `module:function` or `file.py:function`, which returns a `Task` or data; a `datasets` data set, `Items`, `(inputs, targets)`, or a mapping of these by split; or a `Task`.
        **options: The keys of a task file, such as `kind`, `metric`, `columns`, `splits`, `preprocessing`; of a task file
            they override what it says.

    Returns:
        A `Classification` unless `kind` says otherwise. Data without splits of their own are all `test`.

    Raises:
        InputError: The data cannot be read, or do not fit what is said about them.

    Example:
        >>> import numpy as np
        >>> numbers = task((np.eye(3), ["a", "b", "a"]), name="letters")
        >>> numbers.classes, len(numbers.items("test"))
        (('a', 'b'), 3)
    """
    return only(tasks(reference, **options), str(reference))


def tasks(reference: Any, **options: Any) -> list[Task]:
    """As `task`; of lm-evaluation-harness also a group or a tag, which is several.

    Args:
        reference: As in `task`.
        **options: Likewise, for each.

    Raises:
        InputError: The data cannot be read, or do not fit what is said about them.
    """
    if isinstance(reference, Task):
        return [_as_it_is(reference, options)]
    if not isinstance(reference, str | Path):
        return _built({"data": reference, **options}, Lines(), Path(), "data")
    text = str(reference)
    if text.endswith((".yml", ".yaml")):
        return _from_file(Path(text).expanduser(), options)
    if text.startswith("lm-eval:"):
        return _built({"kind": "lm-eval", "data": text, **options}, Lines(), Path(), text)
    if text.lower().endswith(TEXTS):
        options = {"kind": "perplexity", **options}
    if "kind" not in options and "columns" not in options:
        options = {**layout(text), **options}
    if is_named(text):
        made = called(text)
        name = text.rpartition(":")[2].replace(".", "_")
        if isinstance(made, Task):
            return [_as_it_is(made, options)]
        return _built({"data": made, **options}, Lines(), Path(), name)
    return _built({"data": text, **options}, Lines(), Path(), _stem(text))


def _stem(text: str) -> str:
    """`digits` of `data/digits.csv.gz`."""
    path = Path(text).expanduser()
    name = path.resolve().name if path.is_dir() else path.name.removesuffix(".gz")
    return name if path.is_dir() else name.rpartition(".")[0] or name


def _as_it_is(made: Task, options: Mapping[str, Any]) -> Task:
    if options:
        raise InputError(f"the task '{made.name}' says itself what its {', '.join(options)} is", "Leave it out.")
    return made


def new_items(data: Any, like: Any = None) -> Items:
    """Items without targets.

    Args:
        data: A file, a folder, or inputs: an array, a list of texts.
        like: A task file whose columns and preprocessing hold for them; None where there are none.

    Raises:
        InputError: The data cannot be read, or have several parts.
    """
    settings = DataSettings(kind="classification", data="")
    if isinstance(like, str | Path) and str(like).endswith((".yml", ".yaml")):
        said, lines = _said(Path(like).expanduser())
        known = DataSettings.model_fields
        try:
            settings = DataSettings.model_validate({key: value for key, value in said.items() if key in known})
        except ValidationError as error:
            raise InputError(problems(error, lines, instead(DataSettings), "the task")) from None
    if not isinstance(data, str | Path):
        return unlabelled(Table({"inputs": data}, "the data"), Data({}), settings)
    found = data_of(data, Path(), settings.columns.split)
    if len(found.parts) != 1:
        raise InputError(f"{data} has several parts, {listing(found.parts)}", "Give a file with one.")
    return unlabelled(next(iter(found.parts.values())), found, settings)


def _from_file(path: Path, options: Mapping[str, Any]) -> list[Task]:
    said, lines = _said(path)
    return _built({**said, **options}, lines, path.parent, path.stem)


def _said(path: Path) -> tuple[dict[str, Any], Lines]:
    """The keys of a task file, and where they stand."""
    if not path.is_file():
        raise InputError(f"no task file '{path}'", "Check the path.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the task file: {error}", where=str(path)) from error
    documents = read_yaml(text, str(path))
    if len(documents) != 1:
        raise InputError(f"a task file holds one document, got {len(documents)}", where=str(path))
    said, lines = documents[0]
    if not isinstance(said, dict):
        raise InputError("a task file is a mapping of keys", "It starts with kind: and data:.", lines.where(()))
    return said, lines


def _built(said: Mapping[str, Any], lines: Lines, folder: Path, name: str) -> list[Task]:
    word = said.get("kind", "classification")
    if word not in KINDS:
        raise InputError(f"no kind of task is called '{word}'", did_you_mean(str(word), KINDS), lines.where(("kind",)))
    kind = KINDS[word]
    try:
        settings = kind.settings.model_validate(said)
    except ValidationError as error:
        raise InputError(problems(error, lines, instead(kind.settings), "the task")) from None
    if settings.name is None:
        settings = settings.model_copy(update={"name": name})
    try:
        made = kind.build(settings, folder)
        return made if isinstance(made, list) else [made]
    except InputError as error:
        raise InputError([replace(p, where=p.where or lines.file) for p in error.problems]) from None
