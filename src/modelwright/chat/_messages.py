"""The nouns of a conversation: what is asked, what comes back, and whoever answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import xxhash

from modelwright.errors import InputError, RunError, did_you_mean
from modelwright.evaluate import Price, Sampling

Role = Literal["system", "user", "assistant"]
#: `stop`: it ended by itself or at a stop; `length`: only because max_tokens was reached.
Finish = Literal["stop", "length", "other"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Whose turn.
        content: What is said.

    Raises:
        InputError: The role is another one.
    """

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise InputError(f"there is no role '{self.role}'", did_you_mean(self.role, get_args(Role)))


@dataclass(frozen=True)
class Request:
    """What is asked of a backend.

    Attributes:
        messages: The conversation so far; the last message is not the assistant's.
        sampling: How the reply is generated.
        sample: Which of several replies to the same messages this is to be, counted from 0. Part of the cache's key, so that
            a second sample is not the first one again.
        logprobs: Whether the log-probabilities of the reply's tokens are wanted.
        options: Replies to be scored instead of writing one: how probable each is, among them. Empty asks for a reply.

    Raises:
        InputError: There are no messages, the assistant has the last one, or there is one option.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    sample: int = 0
    logprobs: bool = False
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.options) == 1 or len(set(self.options)) < len(self.options) or "" in self.options:
            raise InputError(f"options must be two texts or more, all different, got {list(self.options)}")
        if not self.messages or self.messages[-1].role == "assistant":
            raise InputError("a request needs messages, of which the last is a user's or the system's")
        if self.sample < 0:
            raise InputError(f"sample must be at least 0, got {self.sample}")

    @cached_property
    def text(self) -> str:
        """Everything that its reply depends on beside the model, as canonical JSON."""
        said: dict[str, Any] = {
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "sampling": {**vars(self.sampling)},
            "sample": self.sample,
            "logprobs": self.logprobs,
        }
        if self.options:
            said["options"] = list(self.options)
        return json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    def key(self, model: str) -> str:
        """A hash of the request and of the model that is asked."""
        return xxhash.xxh3_128_hexdigest(f"{model}\0{self.text}".encode("utf-8", "surrogatepass"))

    def seed(self, model: str = "") -> int:
        """A number in [0, 2**31) for the noise of this reply: another one for each sample."""
        return xxhash.xxh3_64_intdigest(f"{self.sampling.seed}\x1f{self.sample}\x1f{model}".encode()) >> 33


@dataclass(frozen=True)
class Reply:
    """What comes back.

    Attributes:
        text: What was said.
        tokens_in: Tokens read.
        tokens_out: Tokens written.
        logprobs: Of the tokens written, in nats; None where they are unknown.
        finish: Why it ended.
        tries: How often it was asked for.
        scores: Where options were to be scored, the log-probability of each in nats, up to a constant.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    logprobs: tuple[float, ...] | None = None
    finish: Finish = "stop"
    tries: int = 1
    scores: tuple[float, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        said = asdict(self)
        return said if self.scores is not None else {k: v for k, v in said.items() if k != "scores"}

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Reply:
        """From what `as_json` gave and JSON made of it."""
        listed = {name: tuple(said[name]) for name in ("logprobs", "scores") if said.get(name) is not None}
        return cls(**{**said, **listed})


class Backend(Protocol):
    """Whoever answers: a server, a model here, a script.

    Attributes:
        model: What its replies depend on beside the request; part of the cache's key. It holds no secret.
    """

    @property
    def model(self) -> str:
        """See above."""
        ...

    async def ask(self, request: Request) -> Reply:
        """Answer one request; several may be under way.

        Raises:
            InputError: The request cannot be answered by this backend.
            RunError: It failed; `resumable` where it may succeed later.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


#: What a stream yields: pieces of the text as they come, and at the end the whole reply.
Piece = str | Reply


class BrokenOffError(RunError):
    """A reply broke off half-way. Nothing of it is kept; the most that it can have cost is counted."""

    def __init__(self, text: str):
        super().__init__(text, resumable=True)


@runtime_checkable
class StreamingBackend(Backend, Protocol):
    """A backend that can be listened to while it answers."""

    def stream(self, request: Request) -> AsyncIterator[Piece]:
        """Pieces of the text, which together are the reply's text, and at the end the reply.

        Raises:
            BrokenOffError: It broke off after it had begun.
            InputError: As `ask`.
            RunError: As `ask`.
        """
        ...


async def stream_of(backend: Backend, request: Request) -> AsyncIterator[Piece]:
    """The stream of a backend; of one that has none, the whole text as one piece.

    Raises:
        BrokenOffError: It broke off after it had begun.
        InputError: As `ask`.
        RunError: As `ask`.
    """
    if isinstance(backend, StreamingBackend) and not request.options:
        async for piece in backend.stream(request):
            yield piece
        return
    reply = await backend.ask(request)
    if reply.text:
        yield reply.text
    yield reply


@dataclass(frozen=True)
class Agent:
    """A backend in a role: the same model with another system message or temperature is another agent.

    Attributes:
        name: How traces and ledgers call it.
        backend: Who answers.
        system: A system message before each conversation; empty for none.
        sampling: How it answers.
        price: What its tokens and calls cost.
        logprobs: Whether its replies should come with log-probabilities.

    Raises:
        InputError: The price has a part that is not of tokens and calls.
    """

    name: str
    backend: Backend
    system: str = ""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024, temperature=0.7))
    price: Price = field(default_factory=Price)
    logprobs: bool = False

    def __post_init__(self) -> None:
        if self.price.hour:
            raise InputError(
                f"agent '{self.name}': a price by the hour says nothing of a call, got hour = {self.price.hour:g}",
                "Give tokens_in and tokens_out, for a million tokens each, or call.",
            )

    def request(
        self,
        messages: Sequence[Message],
        sample: int = 0,
        temperature: float | None = None,
        options: Sequence[str] = (),
    ) -> Request:
        """What its backend is asked: its system message first, joined with one that the messages begin with."""
        sampling = self.sampling
        if temperature is not None:
            sampling = Sampling(sampling.max_tokens, sampling.stop, temperature, sampling.seed)
        turns = tuple(with_system(messages, self.system, before=True))
        return Request(turns, sampling, sample, self.logprobs and not options, tuple(options))

    @property
    def identity(self) -> str:
        """All that its replies depend on beside the conversation."""
        return json.dumps([self.backend.model, self.system, asdict(self.sampling), self.logprobs])


def with_system(messages: Iterable[Message], text: str, *, before: bool = False) -> list[Message]:
    """The messages with a text in the system message: joined to the first one's by a blank line, or as a new first one.

    Args:
        messages: A conversation; other turns stay as they are.
        text: Empty changes nothing.
        before: Whether the text comes before what the system message says, instead of after it.
    """
    messages = list(messages)
    if not text:
        return messages
    if messages and messages[0].role == "system":
        old = messages[0].content
        return [Message("system", f"{text}\n\n{old}" if before else f"{old}\n\n{text}"), *messages[1:]]
    return [Message("system", text), *messages]


def user(text: str) -> tuple[Message, ...]:
    """A conversation of one question."""
    return (Message("user", text),)
