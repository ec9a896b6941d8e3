"""The model acts: it calls tools, or works on a table, and sees what comes of it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from modelwright.chat._programs import Program, Technique
from modelwright.chat._retrieval import Passage, Retriever
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat._tools import read_call
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work, until_call
from modelwright.errors import InputError


class ActParams(TechniqueParams):
    """Parameters of techniques that act in rounds."""

    rounds: Count = Field(5, description="Most actions.")


class LibraryParams(ActParams):
    """Parameters of `art`."""

    shots: Count = Field(2, description="Programs of like questions that are shown.")


async def react(talk: Talk, params: ActParams) -> Outcome:
    """A thought, a call of a tool, what it gave, and so on, until a reply ends without a call: that is the answer.

    Source:
        Yao et al. 2022, arXiv:2210.03629.
    """
    work = Work(talk, params)
    turns: list[tuple[str, str]] = []
    while True:
        more = len(turns) < params.rounds
        step = await work.answer("react", tools=work.tools, turns=turns, more=more)
        call = read_call(step.reply.text) if more else None
        if call is None:
            return work.outcome(step, actions=len(turns))
        turns.append((step.reply.text, await work.act(call)))


async def art(talk: Talk, params: LibraryParams) -> Outcome:
    """Programs of like questions are shown, the model writes one, and stops at each call of a tool until it is carried out.

    Source:
        Paranjape et al. 2023, arXiv:2303.09014.
    """
    work = Work(talk, params)
    library = [d for d in talk.materials.demonstrations if d.program]
    index = Retriever([Passage(str(i), d.question) for i, d in enumerate(library)])
    near = [int(p.source) for p in index.search(talk.question, params.shots)]
    chosen = [*near, *(i for i in range(len(library)) if i not in near)][: params.shots]
    examples = [f"{d.question}\n\n{d.program}\n{talk.parser.write(d.answer)}" for d in (library[i] for i in chosen)]
    turns: list[tuple[str, str]] = []
    while True:
        more = len(turns) < params.rounds
        step = await work.answer("art", tools=work.tools, examples=examples, turns=turns, more=more)
        written, call = until_call(step.reply.text) if more else (step.reply.text, None)
        if call is None:
            return work.outcome(step, actions=len(turns), shown=[library[i].question for i in chosen])
        turns.append((written, await work.act(call)))


# Tables


@dataclass(frozen=True)
class Table:
    """Rows under named columns, all texts.

    Attributes:
        columns: Their names, all different.
        rows: A text for each column.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, text: str) -> Table | None:
        """The first table with bars in a text, or with commas where there is none; None where there is neither."""
        lines = [line.strip() for line in text.splitlines()]
        barred = [line for line in lines if line.count("|") >= 2 or (line.startswith("|") and line.endswith("|"))]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in barred]
        rows = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
        if len(rows) < 2:
            block = next(
                (part for part in text.split("\n\n") if part.count("\n") and part.count(",") > part.count("\n")), ""
            )
            rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(block)) if row]
        if len(rows) < 2 or len(set(rows[0])) < len(rows[0]) or any(len(row) != len(rows[0]) for row in rows):
            return None
        return cls(tuple(rows[0]), tuple(tuple(row) for row in rows[1:]))

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        return "\n".join(" | ".join([str(i) if i else "row", *line]) for i, line in enumerate(lines))

    def select_row(self, rows: list[int]) -> Table:
        """The rows of these numbers, from 1."""
        wrong = [i for i in rows if not 1 <= i <= len(self.rows)]
        if wrong:
            raise ValueError(f"there is no row {wrong[0]}")
        return Table(self.columns, tuple(self.rows[i - 1] for i in rows))

    def select_column(self, columns: list[str]) -> Table:
        """These columns."""
        places = [self._place(name) for name in columns]
        return Table(tuple(columns), tuple(tuple(row[i] for i in places) for row in self.rows))

    def group_by(self, column: str) -> Table:
        """The values of a column, and how many rows have each."""
        values = [row[self._place(column)] for row in self.rows]
        counts = {value: values.count(value) for value in dict.fromkeys(values)}
        return Table((column, "count"), tuple((value, str(count)) for value, count in counts.items()))

    def sort_by(self, column: str, descending: bool = False) -> Table:
        """Rows by a column: by numbers where all are numbers."""
        place = self._place(column)
        plain = [row[place].replace(",", "") for row in self.rows]
        numeric = all(re.fullmatch(r"[-+]?\d+(\.\d+)?%?", value) for value in plain)
        key = [float(value.rstrip("%")) if numeric else value for value in plain]
        order = sorted(range(len(key)), key=lambda i: key[i], reverse=descending)  # type: ignore[reportArgumentType]
        return Table(self.columns, tuple(self.rows[i] for i in order))

    def add_column(self, name: str, values: list[str]) -> Table:
        """A new column."""
        if name in self.columns or len(values) != len(self.rows):
            raise ValueError(f"a new column needs a new name and {len(self.rows)} values")
        rows = tuple((*row, str(value)) for row, value in zip(self.rows, values, strict=True))
        return Table((*self.columns, name), rows)

    def _place(self, name: str) -> int:
        if name not in self.columns:
            raise ValueError(f"there is no column '{name}'")
        return self.columns.index(name)


#: Operations, and the arguments that a model is asked for.
OPERATIONS = {
    "select_row": '{"rows": [1, 3]}',
    "select_column": '{"columns": ["name"]}',
    "group_by": '{"column": "name"}',
    "sort_by": '{"column": "name", "descending": true}',
    "add_column": '{"name": "year", "values": ["1999", "2001"]}',
}
_KINDS: dict[str, Mapping[str, tuple[Any, bool]]] = {
    "select_row": {"rows": (list, True)},
    "select_column": {"columns": (list, True)},
    "group_by": {"column": (str, True)},
    "sort_by": {"column": (str, True), "descending": (bool, False)},
    "add_column": {"name": (str, True), "values": (list, True)},
}


def operated(table: Table, operation: str, said: str) -> Table:
    """The table after an operation, whose arguments a model wrote as JSON.

    Raises:
        ValueError: They are not what the operation takes.
    """
    found = re.findall(r"\{.*\}", said, re.DOTALL)
    arguments = json.loads(found[-1]) if found else None
    kinds = _KINDS[operation]
    if not isinstance(arguments, dict) or not set(arguments) <= set(kinds):
        raise ValueError(f"{operation} takes {OPERATIONS[operation]}")
    for name, (kind, needed) in kinds.items():
        if (name in arguments or needed) and not isinstance(arguments.get(name), kind):
            raise ValueError(f"{operation} takes {OPERATIONS[operation]}")
    if operation == "select_row" and not all(isinstance(i, int) for i in arguments["rows"]):
        raise ValueError(f"{operation} takes {OPERATIONS[operation]}")
    return getattr(table, operation)(**arguments)


async def chain_of_table(talk: Talk, params: ActParams) -> Outcome:
    """The model chooses operations on the table of the question, which are carried out, and answers from what is left.

    Raises:
        InputError: The question has no table.

    Source:
        Wang et al. 2024, arXiv:2401.04398.
    """
    table = Table.read(talk.question)
    if table is None:
        raise InputError(
            "chain_of_table needs a table in the question", "Write it with a line a row and | between cells."
        )
    work = Work(talk, params)
    done: list[str] = []
    while len(done) < params.rounds:
        values = {"table": str(table), "done": done, "operations": list(OPERATIONS)}
        said = await work.say("table_choose", "choose", **values)
        names = re.findall(rf"\[\s*({'|'.join(OPERATIONS)}|end)\s*\]", said)
        if not names or names[-1] == "end":
            break
        operation = names[-1]
        form = OPERATIONS[operation]
        told = await work.say("table_arguments", "arguments", table=str(table), operation=operation, example=form)
        try:
            table = operated(table, operation, told)
            done.append(operation)
        except ValueError as error:
            done.append(f"{operation}, which failed")
            talk.notes.append(f"chain_of_table: {operation} failed: {error}")
    return work.outcome(
        await work.answer("table_answer", table=str(table), done=done), operations=done, table=str(table)
    )


_STOP = "A reply that has no call in the form which was asked for is the answer."

REACT = Program(
    "react", "ReAct", "arXiv:2210.03629",
    "Thinks, calls a tool, sees what it gives, and goes on, until it can answer.",
    ActParams, react, Formula("1", "1 + rounds"),
    (_STOP, "No worked examples are shown; the tools say what they are."),
    lambda _params: {"tools": 1}, technique=Technique(26, "Reducing hallucination", "hybrid"),
)  # fmt: skip
ART = Program(
    "art", "Automatic reasoning and tool-use", "arXiv:2303.09014",
    "Writes a program of steps after those of like questions, pausing at each call of a tool.",
    LibraryParams, art, Formula("1", "1 + rounds"),
    (_STOP, "Programs are found by BM25 among the panel's demonstrations; the paper has a library of fifteen tasks."),
    lambda params: {"programs": params.shots, "tools": 1},
    technique=Technique(32, "Knowledge-based reasoning and generation", "hybrid"),
)  # fmt: skip
CHAIN_OF_TABLE = Program(
    "chain_of_table", "Chain-of-table", "arXiv:2401.04398",
    "Works on a table step by step with operations that are carried out, and answers from the last one.",
    ActParams, chain_of_table, Formula("2", "1 + 2 * rounds"),
    ("Values of a new column are written by the model, as in the paper; an operation that fails leaves the table as it was.",),
    technique=Technique(12, "Reasoning and logic", "model"),
)  # fmt: skip
