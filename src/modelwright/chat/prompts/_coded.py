"""The model writes code: which is run, read, or run as far as it goes."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from modelwright.chat._programs import Program, Technique
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work, code_of

_CODE = "Code generation and execution"


class CodeParams(TechniqueParams):
    """Parameters of `chain_of_code`."""

    rounds: Count = Field(6, description="Most calls that the model stands in for.")


async def program_of_thoughts(talk: Talk, params: TechniqueParams) -> Outcome:
    """The model writes a program, which is run; its output is the answer. What fails abstains.

    Source:
        Chen et al. 2022, arXiv:2211.12588.
    """
    work = Work(talk, params)
    code = code_of(await work.say("program_of_thoughts", "code"))
    ran = await talk.materials.code.run(code)  # type: ignore[reportOptionalMemberAccess]
    if ran.error:
        talk.notes.append(f"program_of_thoughts: the program failed: {ran.error}")
    return _of_output(talk, "" if ran.error else ran.output, code=code, error=ran.error)


def _of_output(talk: Talk, output: str, **facts: Any) -> Outcome:
    """What a program printed, as a reply that says so would be read."""
    text = talk.parser.write(output) if output else ""
    return talk.outcome(text, talk.parser(text) if text else None, facts=facts)


async def chain_of_code(talk: Talk, params: CodeParams) -> Outcome:
    """The interpreter runs what it can; a call of a function that nobody defined is answered by the model, and it goes on.

    Code is run anew from its beginning with all results so far, so it must not depend on time or chance.

    Source:
        Li et al. 2023, arXiv:2312.04474.
    """
    work = Work(talk, params)
    code = code_of(await work.say("chain_of_code", "code"))
    known: list[dict[str, Any]] = []
    while True:
        ran = await talk.materials.code.run(code, known, semantic=True)  # type: ignore[reportOptionalMemberAccess]
        if ran.asks is None or len(known) == params.rounds:
            break
        call = f"{ran.asks[0]}({', '.join(ran.asks[1])})"
        said = await work.say("chain_of_code_simulate", "simulate", code=code, call=call)
        known.append({"call": call, "result": _value(said)})
    failed = ran.error or ("too many calls of undefined functions" if ran.asks else "")
    facts = {"code": code, "simulated": [one["call"] for one in known], "error": failed}
    if not failed:
        return _of_output(talk, ran.output, **facts)
    talk.notes.append(f"chain_of_code: the model stands in for the interpreter: {failed}")
    return work.outcome(await work.last("chain_of_code_finish", code=code, error=failed), **facts)


def _value(said: str) -> Any:
    """What a call gives: the last line that is JSON, or the last line as a text."""
    lines = [line.strip().strip("`") for line in said.strip().splitlines() if line.strip().strip("`")]
    if not lines:
        return None
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(lines[-1], lines[-1]))
    except ValueError:
        return lines[-1].strip("'\"")


async def structured_cot(talk: Talk, params: TechniqueParams) -> Outcome:
    """A plan of sequence, branches and loops with input and output first, and code after it.

    Source:
        Li et al. 2023, arXiv:2305.06599.
    """
    work = Work(talk, params)
    plan = await work.say("structured_plan", "plan")
    return work.outcome(await work.last("structured_code", plan=plan), plan=plan)


PROGRAM_OF_THOUGHTS = Program(
    "program_of_thoughts", "Program-of-thoughts", "arXiv:2211.12588",
    "Writes a program and lets the interpreter do the arithmetic.",
    TechniqueParams, program_of_thoughts, Formula("1"),
    ("No programs are shown as examples. The standard library only.",),
    lambda _params: {"code": 1}, technique=Technique(36, _CODE, "manual", "one", ("pot",)),
)  # fmt: skip
STRUCTURED_COT = Program(
    "structured_cot", "Structured chain-of-thought", "arXiv:2305.06599",
    "Plans code in terms of sequence, branches and loops before writing it. Use the parser `code`.",
    TechniqueParams, structured_cot, Formula("2"), ("No examples are shown; the paper shows three.",),
    technique=Technique(37, _CODE, "manual", aliases=("scot",)),
)  # fmt: skip
CHAIN_OF_CODE = Program(
    "chain_of_code", "Chain-of-code", "arXiv:2312.04474",
    "Writes code with calls that only a model can answer; the interpreter runs the rest.",
    CodeParams, chain_of_code, Formula("1", "2 + rounds"),
    (
        "The model answers single calls; in the paper it gives the whole state after a line that cannot be run.",
        "Code that fails otherwise is followed by the model to its end.",
    ),
    lambda _params: {"code": 1}, technique=Technique(38, _CODE, "manual"),
)  # fmt: skip
