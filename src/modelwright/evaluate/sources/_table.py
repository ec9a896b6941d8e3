"""Data as columns, from whatever file they are in."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from modelwright.errors import InputError, did_you_mean, listing
from modelwright.evaluate._items import Split

#: What data call our splits.
ALIASES: Mapping[Split, tuple[str, ...]] = {
    "tune": ("tune", "train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
OWN_NAMES = frozenset(name for names in ALIASES.values() for name in names)


@dataclass(frozen=True)
class Table:
    """Columns of one length.

    Attributes:
        columns: One value an item: an array (n, ...) or a list.
        label: What to call it in messages.
        rows: What to call its items in messages, such as `line 7`; default their numbers.
        decode: Makes an array of values of `inputs`, when they are wanted: images stay files until then.
    """

    columns: Mapping[str, Any]
    label: str
    rows: Callable[[int], str] = field(default=lambda i: f"row {i + 1}")
    decode: Callable[[Any], Any] | None = None

    def column(self, name: str) -> Any:
        """A column by its name.

        Raises:
            InputError: There is none.
        """
        if name not in self.columns:
            raise InputError(f"there is no column '{name}'", did_you_mean(name, self.columns), self.label)
        return self.columns[name]


@dataclass(frozen=True)
class Data:
    """What a source holds.

    Attributes:
        parts: Tables by the names of the data's own splits; one called "" where it has none.
        classes: Names of the classes, where the data say them.
        names: Columns by the part they play, where the format knows: `inputs`, `target`, `id`.
    """

    parts: Mapping[str, Table]
    classes: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def by_split(table: Table, column: str | None) -> Data:
    """A table in parts by a column, or by `split` where there is one."""
    column = column or ("split" if "split" in table.columns else None)
    if column is None:
        return Data({"": table})
    values = [str(value) for value in table.column(column)]
    rest = [name for name in table.columns if name != column]
    parts: dict[str, Table] = {}
    for name in dict.fromkeys(values):
        rows = [i for i, value in enumerate(values) if value == name]
        makers = {key: _Selected(table, key, rows) for key in rest}
        columns = _Lazy(makers, lambda wanted: wanted in table.columns)
        parts[name] = Table(columns, table.label, _Rows(table.rows, rows))
    return Data(parts)


@dataclass(frozen=True)
class _Selected:
    table: Table
    name: str
    rows: list[int]

    def __call__(self) -> Any:
        column = self.table.columns[self.name]
        return column[self.rows] if isinstance(column, np.ndarray) else [column[i] for i in self.rows]


@dataclass(frozen=True)
class _Rows:
    whole: Callable[[int], str]
    rows: list[int]

    def __call__(self, i: int) -> str:
        return self.whole(self.rows[i])


# --- files -----------------------------------------------------------------------------------------------------------


def read_npz(path: Path) -> Data:
    """`x` and `y`, or `x_train`, `y_train`, `x_test`, ..; `classes`, `ids` and further columns likewise."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    classes: tuple[str, ...] | None = None
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                stem, _, split = key.rpartition("_")
                if key == "classes":
                    classes = tuple(str(name) for name in archive[key].tolist())
                elif stem and split in OWN_NAMES:
                    parts.setdefault(split, {})[stem] = archive[key]
                else:
                    parts.setdefault("", {})[key] = archive[key]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"cannot read: {error}", "It must be an archive of plain arrays, by numpy.savez.", str(path)
        ) from error
    if len(parts) > 1:
        parts.pop("", None)  # such as the names of another labelling
    if not parts:
        raise InputError("there are no arrays in it", "Save x and y, or x_train, y_train, x_test, y_test.", str(path))
    names = {"inputs": "x", "target": "y", "id": "ids"}
    return Data({name: Table(columns, str(path)) for name, columns in parts.items()}, classes, names)


def read_csv(path: Path, split: str | None) -> Data:
    """A header and rows; a column whose cells are all numbers holds numbers."""
    lines: list[int] = []
    rows: list[list[str]] = []
    with _text(path) as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise InputError("the data are empty: a task needs items", where=str(path))
            _check_header(header, path)
            for row in reader:
                if len(row) != len(header):
                    raise InputError(
                        f"each row must have {len(header)} cells, got {len(row)}", where=f"{path}:{reader.line_num}"
                    )
                rows.append(row)
                lines.append(reader.line_num)
        except (csv.Error, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            _damaged(error, path, reader.line_num)
    if not rows:
        raise InputError("the data are empty: a task needs items", where=str(path))
    columns = {
        name: _numbers_or_text(list(values)) for name, values in zip(header, zip(*rows, strict=True), strict=True)
    }
    return by_split(Table(columns, str(path), lambda i: f"line {lines[i]}"), split)


def _check_header(header: list[str], path: Path) -> None:
    wrong = [name for name, count in Counter(header).items() if count > 1 or not name.strip()]
    if len(header) == 1 and (found := [sign for sign in ";\t|" if sign in header[0]]):
        mend = "Save it with commas; cells that hold some in quotation marks."
        raise InputError(f"cells seem to be separated by {found[0]!r}, and must be by commas", mend, f"{path}:1")
    if wrong:
        what = f"the column '{wrong[0]}' stands twice" if wrong[0].strip() else "a column has no name"
        raise InputError(what, "The first line holds the names of the columns.", f"{path}:1")


def _numbers_or_text(cells: list[str]) -> Any:
    """Whole numbers if all cells are such as they are written (`01` is a name), else numbers, else the texts."""
    if all(cell.lstrip("-").isdecimal() and len(cell) < 19 and str(int(cell)) == cell for cell in cells):
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    try:
        return np.array([float(cell) for cell in cells], dtype=np.float64)
    except ValueError:
        return cells


def read_jsonl(path: Path, split: str | None) -> Data:
    """One object a line; all have the same keys, and a key's values are of one type."""
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    number = 0
    with _text(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_object(line, f"{path}:{number}"))
                    lines.append(number)
        except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            _damaged(error, path, number + 1)
    if not rows:
        raise InputError("the data are empty: a task needs items", where=str(path))
    common = [name for name in rows[0] if all(name in row for row in rows)]
    columns = _Lazy({name: _JsonColumn(rows, name, path, lines) for name in common}, _missing(rows, lines, path))
    return by_split(Table(columns, str(path), lambda i: f"line {lines[i]}"), split)


def _object(line: str, where: str) -> dict[str, Any]:
    def refused(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number in JSON")

    try:
        found = json.loads(line, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}", "Each line holds one object.", where) from None
    if not isinstance(found, dict):
        raise InputError(f"each line must hold an object, got {type(found).__name__}", where=where)
    return found


def _missing(rows: list[dict[str, Any]], lines: list[int], path: Path) -> Callable[[str], None]:
    """Says where a column ends that only some lines have."""

    def check(name: str) -> None:
        lack = [lines[i] for i, row in enumerate(rows) if name not in row]
        if 0 < len(lack) < len(rows):
            raise InputError(f"'{name}' is missing in {len(lack):,} lines", "All must have it.", f"{path}:{lack[0]}")

    return check


@dataclass(frozen=True)
class _JsonColumn:
    rows: list[dict[str, Any]]
    name: str
    path: Path
    lines: list[int]

    def __call__(self) -> Any:
        values = [row[self.name] for row in self.rows]
        kinds = [_kind(value) for value in values]
        if set(kinds) == {"a whole number", "a number"}:
            kinds = ["a number"] * len(kinds)
        odd = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
        if odd is not None:
            raise InputError(
                f"a column's values must be of one type: '{self.name}' is {kinds[odd]} here, and {kinds[0]} in line "
                f"{self.lines[0]}", where=f"{self.path}:{self.lines[odd]}",
            )  # fmt: skip
        if kinds[0] == "nothing":
            raise InputError(f"'{self.name}' is null", where=f"{self.path}:{self.lines[0]}")
        if kinds[0] in ("a whole number", "a number"):
            return np.array(values, dtype=np.int64 if kinds[0] == "a whole number" else np.float64)
        return values if kinds[0] != "true or false" else [str(value).lower() for value in values]


def _kind(value: Any) -> str:
    names = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
    return "nothing" if value is None else names.get(type(value), "an object")


class _Lazy(Mapping[str, Any]):
    """Columns that are made when they are asked for, so that what is not used is not checked either."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]], before: Callable[[str], object] = lambda name: None):
        self._makers, self._before = makers, before
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        self._before(str(name))
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _text(path: Path) -> io.TextIOBase:
    try:
        raw = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115  # the wrapper closes it
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=str(path)) from error
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")  # type: ignore[reportArgumentType]


def _damaged(error: Exception, path: Path, line: int) -> NoReturn:
    what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot read: {error}"
    raise InputError(what, where=f"{path}:{line}") from error


# --- data sets -------------------------------------------------------------------------------------------------------


def is_dataset(value: Any) -> bool:
    """Whether it is a Dataset or DatasetDict of the package `datasets`."""
    return hasattr(value, "column_names") and hasattr(value, "cache_files")


def of_dataset(value: Any, label: str, split: str | None) -> Data:
    """A Dataset, or a DatasetDict whose keys are the splits."""
    parts = dict(value) if isinstance(value, dict) else {"": value}
    if not parts or not all(len(part) for part in parts.values()):
        raise InputError("the data are empty: a task needs items", where=label)
    tables = {
        name: Table(_Lazy(_of_arrow(part)), f"{label}, {name}" if name else label) for name, part in parts.items()
    }
    features = next(iter(parts.values())).features
    named = {name: tuple(f.names) for name, f in features.items() if getattr(f, "names", None)}
    aliases = {"target": "label" if "label" in features else "target"}
    aliases |= {"inputs": next((n for n in ("inputs", "text", "sentence", "image") if n in features), "inputs")}
    classes = named.get(aliases["target"])
    if "" in tables and (split or "split" in features):
        return Data(by_split(tables[""], split).parts, classes, aliases)
    return Data(tables, classes, aliases)


def _of_arrow(dataset: Any) -> dict[str, Callable[[], Any]]:
    return {name: _DatasetColumn(dataset, name) for name in dataset.column_names}


@dataclass(frozen=True)
class _DatasetColumn:
    dataset: Any
    name: str

    def __call__(self) -> Any:
        values = list(self.dataset.with_format(None)[self.name])
        absent = [i for i, value in enumerate(values) if value is None]
        if absent:
            raise InputError(f"'{self.name}' is null in row {absent[0] + 1} ({len(absent):,} such rows)")
        if isinstance(values[0], bool):
            return [str(value).lower() for value in values]
        if isinstance(values[0], int | float):
            return np.asarray(values)
        return [np.asarray(value) for value in values] if hasattr(values[0], "convert") else values


def open_data(reference: str, folder: Path, split: str | None) -> Data:
    """Data from a file or folder.

    Raises:
        InputError: There is none, or it is of no known format.
    """
    path = folder / Path(reference).expanduser()
    name = path.name.lower().removesuffix(".gz")
    if not path.exists():
        raise InputError(f"there is no file or folder '{path}'", "Check the path; a function is module:function.")
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            return _saved_dataset(path, split)
        from modelwright.evaluate.sources._images import image_folder

        return image_folder(path)
    if name.endswith(".npz"):
        return read_npz(path)
    if name.endswith((".csv", ".jsonl")):
        return (read_csv if name.endswith(".csv") else read_jsonl)(path, split)
    known = (".npz", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", "a folder of images", "a folder of datasets")
    raise InputError(
        f"no format of data is called '{path.suffix or path.name}'", f"Known: {listing(known)}.", str(path)
    )


def _saved_dataset(path: Path, split: str | None) -> Data:
    from modelwright.evaluate._predictor import needs

    datasets = needs("datasets", f"the data set '{path}'", "datasets")
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read the data set: {error}", where=str(path)) from error
    return of_dataset(found, str(path), split)
