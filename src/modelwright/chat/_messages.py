"""The nouns of a conversation: what is asked, what comes back, and whoever answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import xxhash

from modelwright.errors import InputError, did_you_mean
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

    Raises:
        InputError: There are no messages, or the assistant has the last one.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    sample: int = 0
    logprobs: bool = False

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role == "assistant":
            raise InputError("a request needs messages, of which the last is a user's or the system's")
        if self.sample < 0:
            raise InputError(f"sample must be at least 0, got {self.sample}")

    @cached_property
    def text(self) -> str:
        """Everything that its reply depends on beside the model, as canonical JSON."""
        said = {
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "sampling": {**vars(self.sampling)},
            "sample": self.sample,
            "logprobs": self.logprobs,
        }
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
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    logprobs: tuple[float, ...] | None = None
    finish: Finish = "stop"
    tries: int = 1

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Reply:
        """From what `as_json` gave and JSON made of it."""
        logprobs = said.get("logprobs")
        return cls(**{**said, "logprobs": None if logprobs is None else tuple(logprobs)})


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

    def request(self, messages: Sequence[Message], sample: int = 0, temperature: float | None = None) -> Request:
        """What its backend is asked: its system message first, joined with one that the messages begin with."""
        sampling = self.sampling
        if temperature is not None:
            sampling = Sampling(sampling.max_tokens, sampling.stop, temperature, sampling.seed)
        return Request(tuple(with_system(messages, self.system, before=True)), sampling, sample, self.logprobs)

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
