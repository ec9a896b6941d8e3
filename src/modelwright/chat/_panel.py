"""A panel: backends, agents, a program and how answers are read, as one YAML file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelwright.chat._best_of_n import BEST_OF_N
from modelwright.chat._combine import COMBINERS
from modelwright.chat._debate import DEBATE
from modelwright.chat._dylan import DYLAN
from modelwright.chat._equality import EQUALITIES, Same, near
from modelwright.chat._ledger import Ledger, most
from modelwright.chat._materials import Materials, demonstrations, thought_templates
from modelwright.chat._messages import Agent, Backend, Message, user
from modelwright.chat._openai import OpenAIBackend
from modelwright.chat._parsers import Parser, boxed, choice, code, json_by, number, pattern, text
from modelwright.chat._programs import MOA, SELF_CONSISTENCY, SELF_MOA_SEQ, Program, ProgramParams, check_samples
from modelwright.chat._retrieval import Retriever
from modelwright.chat._routing import CASCADE, ROUTE
from modelwright.chat._sandbox import Sandbox
from modelwright.chat._scripted import ScriptedBackend
from modelwright.chat._session import Session
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat._tools import named_tool, toolbox
from modelwright.chat._transformers import TransformersBackend
from modelwright.chat.prompts import TECHNIQUES
from modelwright.chat.prompts._diverse import DIV_SE, IDIV_SE
from modelwright.chat.prompts._self_ensembled import SELF_ENSEMBLED_ICL
from modelwright.errors import InputError, Problem, did_you_mean
from modelwright.evaluate import CausalPredictor, Price, Sampling
from modelwright.recipe import Lines, load
from modelwright.recipe._schema import problems

PROGRAMS: dict[str, Program] = {
    p.name: p
    for p in (
        SELF_CONSISTENCY, MOA, SELF_MOA_SEQ, DYLAN, DEBATE, BEST_OF_N, ROUTE, CASCADE, DIV_SE, IDIV_SE, SELF_ENSEMBLED_ICL,
        *TECHNIQUES.values(),
    )
}  # fmt: skip
#: Other names of programs, by which panels may call them.
ALIASES: dict[str, str] = {a: p.name for p in PROGRAMS.values() if p.technique for a in p.technique.aliases}

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Money = Annotated[float, Field(ge=0)]


class Said(BaseModel):
    """A part of a panel's file: unknown keys are refused, and numbers in quotes are no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Prices(Said):
    """What a backend's calls cost, in any one currency."""

    tokens_in: Money = 0.0
    tokens_out: Money = 0.0
    call: Money = 0.0


class BackendSaid(Said):
    """What all kinds of backends have."""

    kind: str
    prices: Prices = Prices()

    def made(self, name: str, folder: Path) -> Backend:
        """The backend."""
        raise NotImplementedError


class ServerSaid(BackendSaid):
    """A model behind an OpenAI-compatible server."""

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: Count = 8
    retries: Annotated[int, Field(ge=0)] = 5
    timeout: Annotated[float, Field(gt=0)] = 120.0
    per_minute: Count | None = None

    def made(self, name: str, folder: Path) -> Backend:
        """The backend; nothing is asked of the server yet."""
        return OpenAIBackend(
            self.url, self.model, self.key_variable, self.concurrency, self.retries, self.timeout, self.per_minute
        )


class TransformersSaid(BackendSaid):
    """A model folder of transformers."""

    folder: str
    device: str = "cpu"
    dtype: str = "auto"
    batch: Count = 16

    def made(self, name: str, folder: Path) -> Backend:
        """The backend, its model loaded."""
        where = folder / Path(self.folder).expanduser()
        return TransformersBackend(
            CausalPredictor.from_folder(where, name, device=self.device, dtype=self.dtype), self.batch
        )


class ScriptedSaid(BackendSaid):
    """A stand-in that knows the answers."""

    questions: str
    accuracy: Share | dict[str, Share] = 1.0
    options: list[str] = []
    correlation: Share = 0.0
    follows: Share = 0.0
    judgement: Share = 1.0
    fails: Share = 0.0
    breaks: Share = 0.0
    says: str = "The answer is {answer}."
    replies: dict[str, str] = {}
    delay: Annotated[float, Field(ge=0)] = 0.0
    seed: int = 0

    def made(self, name: str, folder: Path) -> Backend:
        """The backend, its questions read."""
        given = self.model_dump(exclude={"kind", "prices", "questions"})
        return ScriptedBackend(_questions(folder / Path(self.questions).expanduser()), name, **given)


def _questions(path: Path) -> dict[str, str]:
    """Questions with their answers, from jsonl with these two keys."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the questions cannot be read: {error}", where=str(path)) from error
    found: dict[str, str] = {}
    for number_, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found[row["question"]] = str(row["answer"])
        except (ValueError, KeyError, TypeError):
            raise InputError(
                "a line must be a JSON object with question and answer", where=f"{path}:{number_}"
            ) from None
    return found


BACKENDS: dict[str, type[BackendSaid]] = {
    "openai": ServerSaid, "transformers": TransformersSaid, "scripted": ScriptedSaid,
}  # fmt: skip


class AgentSaid(Said):
    """A backend in a role."""

    backend: str
    system: str = ""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    max_tokens: Count = 1024
    stop: list[str] = []
    seed: int = 0


class ChoiceSaid(Said):
    """Letters or words."""

    kind: Literal["choice"]
    options: list[str] = list("ABCD")


class JsonSaid(Said):
    """JSON by a schema."""

    kind: Literal["json"]
    schema_: dict[str, Any] = Field(alias="schema")


class CodeSaid(Said):
    """The last fence."""

    kind: Literal["code"]
    language: str = ""


class PatternSaid(Said):
    """A regular expression."""

    kind: Literal["pattern"]
    pattern: str


class PlainSaid(Said):
    """A parser without settings."""

    kind: str


#: Parsers by kind: what may be said of one, and what makes it.
PARSERS: dict[str, tuple[type[Said], Callable[[Any], Parser]]] = {
    "choice": (ChoiceSaid, lambda said: choice(said.options)),
    "number": (PlainSaid, lambda _said: number()),
    "boxed": (PlainSaid, lambda _said: boxed()),
    "json": (JsonSaid, lambda said: json_by(said.schema_)),
    "code": (CodeSaid, lambda said: code(said.language)),
    "pattern": (PatternSaid, lambda said: pattern(said.pattern)),
    "text": (PlainSaid, lambda _said: text()),
}


class PanelFile(Said):
    """A panel's file; backends, program and parser are read by the kind that they name."""

    kind: Literal["panel"]
    name: Annotated[str, Field(min_length=1)] | None = None
    backends: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    agents: dict[str, AgentSaid] = {}
    program: dict[str, Any] | str = "self_consistency"
    parser: dict[str, Any] | str = "text"
    equality: str = "exact"
    tolerance: Annotated[float, Field(ge=0)] | None = None
    budget: Money | None = None
    cache: str | None = ""
    demonstrations: str | None = None
    documents: list[str] = []
    tools: list[str] = []
    templates: str | None = None


@dataclass(frozen=True)
class Panel:
    """Agents, a program, and how answers are read.

    Attributes:
        name: How tables call it.
        agents: By name, in order.
        program: What is done.
        params: Its parameters.
        parser: How answers are asked for, and read.
        same: When two answers are the same.
        budget: Most money of a session; None is without limit.
        cache: Where replies are kept; None is memory.
        said: Its settings as plain values, for records; no secrets.
        materials: What the program may work with beside agents.

    Raises:
        InputError: The program names agents that are not there, asks for several replies at temperature 0, or needs what the
            materials have not.
    """

    name: str
    agents: Mapping[str, Agent]
    program: Program = SELF_CONSISTENCY
    params: ProgramParams | None = None
    parser: Parser = field(default_factory=text)
    same: Same = EQUALITIES["exact"]
    budget: float | None = None
    cache: Path | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    materials: Materials = field(default_factory=Materials)

    def __post_init__(self) -> None:
        if not self.agents:
            raise InputError("a panel needs an agent")
        params = self.program.params() if self.params is None else self.params
        object.__setattr__(self, "params", params)
        names = list(self.agents)
        params.judges(names)
        check_samples(params.asked(names), self.agents)
        missing = self.materials.missing(self.program.needs(params))
        if missing:
            raise InputError([Problem(f"{self.program.name} needs {what}", mend) for what, mend in missing])
        combiner = COMBINERS.get(getattr(params, "combine", ""))
        if params.logprobs or (combiner is not None and combiner.logprobs):
            object.__setattr__(self, "agents", {n: replace(a, logprobs=True) for n, a in self.agents.items()})

    @property
    def fingerprint(self) -> str:
        """A hash of what its answers depend on."""
        assert self.params is not None
        agents = {name: agent.identity for name, agent in self.agents.items()}
        said = [
            agents,
            self.program.name,
            self.params.model_dump(),
            self.parser.form,
            self.parser.name,
            dict(self.said),
        ]
        if self.materials != Materials():
            said.append(self.materials.fingerprint)
        text_ = json.dumps(said, sort_keys=True, ensure_ascii=True, default=str)
        return xxhash.xxh3_128_hexdigest(text_.encode())

    @property
    def calls(self) -> tuple[int, int]:
        """Fewest and most calls for a question."""
        return self.program.calls(self.params, list(self.agents))

    def session(self, **options: Any) -> Session:
        """A new session with this panel's budget, unless `ledger` is given."""
        return Session(**{"ledger": Ledger(self.budget), **options})

    async def solve(
        self,
        session: Session,
        question: str,
        before: Sequence[Message] = (),
        listener: Callable[[str], None] | None = None,
    ) -> Outcome:
        """What the program comes to for a question.

        Args:
            session: What asks.
            question: The last turn.
            before: What was said before it; see `Talk`.
            listener: Told pieces of the answer as they are written; see `Talk`.

        Raises:
            BudgetError: The next call could exceed the budget.
            InputError: A backend refuses.
            RunError: A backend fails.
        """
        talk = Talk(session, question, self.agents, self.parser, self.same, before, listener, self.materials)
        return await self.program.run(talk, self.params)

    def dearest(self, agent: str, question: str) -> float:
        """The most that an agent's own answer to a question can cost."""
        asked = Talk(Session(), question, self.agents, self.parser).asked
        whom = self.agents[agent]
        return most(whom.price, whom.request(user(asked)))


def is_panel(reference: Any) -> bool:
    """Whether a text names a YAML file of the kind `panel`; of a file that is not YAML, others tell what is wrong."""
    path = Path(str(reference)).expanduser()
    if path.suffix not in (".yml", ".yaml") or not path.is_file():
        return False
    try:
        documents = load(path.read_text(encoding="utf-8"), str(path))
    except (InputError, OSError, UnicodeDecodeError):
        return False
    return bool(documents) and isinstance(documents[0][0], dict) and documents[0][0].get("kind") == "panel"


def panel(path: str | Path, name: str | None = None, code: Sandbox | None = None) -> Panel:
    """The panel of a file, its models loaded; servers are not asked anything yet.

    Args:
        path: A YAML file of the kind `panel`.
        name: How tables call it; default what the file says, else the file's name.
        code: What runs code that models write; None runs none. A file cannot say this: it may be somebody else's.

    Raises:
        InputError: It says what no panel can say; with the line.
    """
    path = Path(path).expanduser()
    try:
        written = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the panel cannot be read: {getattr(error, 'strerror', None) or error}", where=str(path)
        ) from error
    documents = load(written, str(path))
    if len(documents) != 1 or not isinstance(documents[0][0], dict):
        raise InputError("a panel is one mapping of keys", "It starts with kind: panel.", str(path))
    data, lines = documents[0]
    said = _read(PanelFile, data, lines, "the panel")
    return _Reader(said, lines, path).panel(name, code)


def _read(kind: type[Any], data: Any, lines: Lines, whole: str) -> Any:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        valid = [f.alias or n for n, f in kind.model_fields.items()]
        found = problems(error, lines, lambda path: did_you_mean(str(path[-1]), valid) if len(path) == 1 else "", whole)
        raise InputError(found) from None


class _Reader:
    """What one file comes to."""

    def __init__(self, said: PanelFile, lines: Lines, path: Path):
        self._said, self._lines, self._path = said, lines, path

    def panel(self, name: str | None, code_: Sandbox | None) -> Panel:
        said = self._said
        program, params = self._program()
        parser = self._parser()
        same = self._same()
        read = {key: self._backend(key, value) for key, value in said.backends.items()}
        agents = said.agents or {key: AgentSaid(backend=key) for key in read}
        for key, agent in agents.items():
            if agent.backend not in read:
                raise InputError(
                    f"agent '{key}': there is no backend '{agent.backend}'",
                    did_you_mean(agent.backend, read),
                    self._lines.where(("agents", key, "backend")),
                )
        made = {key: self._made(key, one) for key, one in read.items()}
        told = {"program": program.name, "params": params.model_dump(), "equality": said.equality}
        told |= {"tolerance": said.tolerance, "parser": said.parser}
        try:
            return Panel(
                name or said.name or self._path.stem,
                {key: self._agent(key, one, made, read) for key, one in agents.items()},
                program, params, parser, same, said.budget, self._cache(), told, self._materials(code_),
            )  # fmt: skip
        except InputError as error:
            where = self._lines.where(("program",))
            raise InputError([Problem(p.what, p.mend, p.where or where) for p in error.problems]) from None

    def _kind(self, key: tuple[str, ...], said: Any, known: Mapping[str, Any], what: str, field_: str = "kind") -> str:
        found = said.get(field_) if isinstance(said, dict) else said
        if found not in known:
            rule = f"{what}: the key '{field_}' is missing" if found is None else f"{what} cannot be '{found}'"
            raise InputError(rule, did_you_mean(str(found or ""), known), self._lines.where((*key, field_)))
        return str(found)

    def _program(self) -> tuple[Program, ProgramParams]:
        said = self._said.program
        called = self._kind(("program",), said, {**PROGRAMS, **ALIASES}, "the program", "name")
        program = PROGRAMS[ALIASES.get(called, called)]
        given = {k: v for k, v in said.items() if k != "name"} if isinstance(said, dict) else {}
        params = _read(program.params, given, self._lines.below("program"), "the program")
        try:
            return program, params.at(self._path.parent)
        except InputError as error:
            where = self._lines.where(("program",))
            raise InputError([Problem(p.what, p.mend, p.where or where) for p in error.problems]) from None

    def _materials(self, code_: Sandbox | None) -> Materials:
        said = self._said
        folder = self._path.parent

        def at(key: str, make: Callable[[], Any]) -> Any:
            try:
                return make()
            except InputError as error:
                where = self._lines.where((key,))
                raise InputError([Problem(p.what, p.mend, p.where or where) for p in error.problems]) from None

        def files(paths: list[str]) -> list[Path]:
            return [folder / Path(one).expanduser() for one in paths]

        return Materials(
            at("demonstrations", lambda: demonstrations(files([said.demonstrations or ""])[0]))
            if said.demonstrations
            else (),
            at("documents", lambda: Retriever.of_files(files(said.documents))) if said.documents else None,
            at("tools", lambda: toolbox([named_tool(one) for one in said.tools])),
            at("templates", lambda: thought_templates(files([said.templates or ""])[0])) if said.templates else (),
            code_,
        )

    def _parser(self) -> Parser:
        said = self._said.parser
        kind, make = PARSERS[self._kind(("parser",), said, PARSERS, "the parser")]
        given = said if isinstance(said, dict) else {"kind": said}
        return make(_read(kind, given, self._lines.below("parser"), "the parser"))

    def _same(self) -> Same:
        said = self._said
        self._kind(("equality",), said.equality, EQUALITIES, "equality")
        if said.tolerance is None:
            return EQUALITIES[said.equality]
        if said.equality != "near":
            where = self._lines.where(("tolerance",))
            raise InputError("a tolerance is for the equality 'near'", "Write equality: near.", where)
        return near(said.tolerance)

    def _backend(self, key: str, said: dict[str, Any]) -> BackendSaid:
        kind = BACKENDS[self._kind(("backends", key), said, BACKENDS, f"backend '{key}'")]
        return _read(kind, said, self._lines.below("backends", key), f"backend '{key}'")

    def _made(self, key: str, said: BackendSaid) -> Backend:
        try:
            return said.made(key, self._path.parent)
        except InputError as error:
            where = self._lines.where(("backends", key))
            raise InputError([Problem(p.what, p.mend, p.where or where) for p in error.problems]) from None

    def _agent(self, key: str, said: AgentSaid, made: Mapping[str, Backend], read: Mapping[str, BackendSaid]) -> Agent:
        sampling = Sampling(said.max_tokens, tuple(said.stop), said.temperature, said.seed)
        prices = read[said.backend].prices
        return Agent(key, made[said.backend], said.system, sampling, Price(**prices.model_dump()))

    def _cache(self) -> Path | None:
        said = self._said.cache
        if said is None:
            return None
        return self._path.with_suffix(".replies.sqlite") if not said else self._path.parent / Path(said).expanduser()
