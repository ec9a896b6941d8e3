"""Models behind servers that speak OpenAI's protocol, many requests at a time."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from modelwright.chat._messages import BrokenOffError, Finish, Piece, Reply, Request
from modelwright.errors import InputError, RunError, listing
from modelwright.evaluate._predictor import needs
from modelwright.evaluate._server import check_settings, choice_of, failed, usage_of

#: Most probable first tokens that OpenAI's servers show.
_MOST_TOP = 20


@dataclass
class OpenAIBackend:
    """A chat model behind an OpenAI-compatible server, such as vLLM, llama.cpp or OpenAI's own.

    Answers 408, 409, 429 and 5xx, broken connections and time-outs are tried again, later each time, or when the server says.

    Attributes:
        url: Its base, as `http://localhost:8000/v1`.
        name: How the server calls the model.
        key_variable: The environment variable that holds the API key; where it is not set, no key is sent. Keys are nowhere
            else: not in panels, caches or transcripts.
        concurrency: Most requests at a time.
        retries: How often a request is tried again.
        timeout: Seconds until one is given up.
        per_minute: Most requests begun in any minute, tries among them; None is without limit.

    Raises:
        InputError: A value is out of its range.
    """

    url: str
    name: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    retries: int = 5
    timeout: float = 120.0
    per_minute: int | None = None
    _pace: Pace | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        check_settings(self.url, self.concurrency, self.retries, self.timeout)
        if "@" in self.url.partition("://")[2].partition("/")[0]:
            raise InputError(
                "a server's address must not hold a name or password, as it is written into caches and transcripts",
                "Keys come from the environment variable that key_variable names.",
            )
        if not self.name:
            raise InputError(f"the server {self.url} must be told which model", "Give the name that it has there.")
        if self.per_minute is not None:
            self._pace = Pace(self.per_minute, 60.0)
        self._places = asyncio.Semaphore(self.concurrency)

    @property
    def model(self) -> str:
        """Server and model: the same name elsewhere may be another model."""
        return f"{self.url.rstrip('/')} {self.name}"

    @cached_property
    def _client(self) -> Any:
        openai = needs("openai", "asking a server", "chat")
        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._wait]})
        key = os.environ.get(self.key_variable) or "none"
        return openai.AsyncOpenAI(
            base_url=self.url, api_key=key, max_retries=self.retries, timeout=self.timeout, http_client=http
        )

    async def _wait(self, _request: Any) -> None:
        """Before each try, those that the client repeats among them."""
        if self._pace is not None:
            await self._pace.turn()

    async def ask(self, request: Request) -> Reply:
        """The server's reply.

        Raises:
            InputError: It refuses the request, or gives no log-probabilities where they are wanted.
            RunError: It cannot be reached, fails after all tries, or answers something else.
        """
        openai = needs("openai", "asking a server", "chat")
        async with self._places:
            try:
                raw = await self._client.chat.completions.with_raw_response.create(**self._settings(request))
                answer = raw.parse()
            except (openai.OpenAIError, json.JSONDecodeError) as error:
                raise self._failed(error) from None
        choice = choice_of(answer, self.url)
        if choice.message is None:
            raise self._failed(ValueError(str(answer)))
        read, written = usage_of(answer)
        if request.options:
            scores = self._scores(choice, request.options)
            best = request.options[max(range(len(scores)), key=scores.__getitem__)]
            return Reply(best, read, written, None, "stop", 1 + raw.retries_taken, scores)
        logprobs = self._logprobs(choice) if request.logprobs else None
        text = choice.message.content or ""
        return Reply(text, read, written, logprobs, _finish(choice.finish_reason), 1 + raw.retries_taken)

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """The server's reply while it comes, and at the end the whole of it.

        Until the answer begins, failures are tried again as in `ask`; after that, what was said cannot be taken back.

        Raises:
            BrokenOffError: The connection broke, or the server ended without saying why it did.
            InputError: It refuses the request, or gives no log-probabilities where they are wanted.
            RunError: It cannot be reached, or fails after all tries.
        """
        openai = needs("openai", "asking a server", "chat")
        settings = {**self._settings(request), "stream": True, "stream_options": {"include_usage": True}}
        async with self._places:
            try:
                raw = await self._client.chat.completions.with_raw_response.create(**settings)
            except openai.OpenAIError as error:
                raise self._failed(error) from None
            said = _Said(self.url, 1 + raw.retries_taken)
            try:
                async with raw.parse() as chunks:
                    async for chunk in chunks:
                        if piece := said.heard(chunk):
                            yield piece
            except Exception as error:  # whatever it is, of the client or the connection: half of a reply is lost
                raise said.broken(f"{type(error).__name__}: {error}") from error
        if said.finish is None:
            raise said.broken("it did not say that it had ended")
        logprobs = None
        if request.logprobs:
            logprobs = tuple(said.logprobs) if said.logprobs or not said.text else self._logprobs(None)
        yield Reply(said.text, said.read, said.written, logprobs, _finish(said.finish), said.tries)

    def _failed(self, error: Exception) -> Exception:
        """What went wrong, without the key: servers may say it in their answer. The cause is left out, as it has headers."""
        found = failed(error, self.url, self.retries, self.timeout)
        key = os.environ.get(self.key_variable)
        if not key or key not in str(found):
            return found
        text = str(found).replace(key, f"[{self.key_variable}]")
        return RunError(text, resumable=found.resumable) if isinstance(found, RunError) else InputError(text)

    def _settings(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        settings: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": request.seed(),
        }
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        if request.logprobs:
            settings["logprobs"] = True
        if request.options:
            settings |= {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": _MOST_TOP}
        return settings

    def _logprobs(self, choice: Any) -> tuple[float, ...]:
        tokens = getattr(getattr(choice, "logprobs", None), "content", None)
        if tokens is None:
            raise InputError(
                f"the server {self.url} gives no log-probabilities of what it writes", "Leave logprobs out."
            )
        return tuple(float(token.logprob) for token in tokens)

    def _scores(self, choice: Any, options: tuple[str, ...]) -> tuple[float, ...]:
        """Of each option, by the tokens that the reply may begin with; one that is not among them is less probable than all."""
        self._logprobs(choice)  # there are some
        first = choice.logprobs.content[:1]
        top = [(t.token.strip().casefold(), float(t.logprob)) for token in first for t in token.top_logprobs]
        found = dict.fromkeys(options, 0.0)
        for token, value in top:
            begun = [option for option in options if token and option.casefold().startswith(token)]
            meant = [option for option in begun if option.casefold() == token] or begun
            if len(meant) > 1:
                raise InputError(
                    f"the options {listing(meant)} begin with the token {token!r}, and a server shows only the first token",
                    "Let options begin differently, such as with letters.",
                )
            for option in meant:  # "A" and " A" are two tokens
                found[option] += math.exp(value)
        least = min((value for _, value in top), default=0.0)
        return tuple(math.log(share) if share else least for share in found.values())

    async def close(self) -> None:
        """Close connections."""
        if "_client" in self.__dict__:
            await self._client.close()


def _finish(reason: Any) -> Finish:
    return reason if reason in ("stop", "length") else "other"


@dataclass
class _Said:
    """What was heard of a reply so far."""

    url: str
    tries: int
    text: str = ""
    read: int = 0
    written: int = 0
    finish: str | None = None
    logprobs: list[float] = field(default_factory=list)

    def heard(self, chunk: Any) -> str:
        """Take a chunk; its piece of the text."""
        if getattr(chunk, "usage", None) is not None:
            self.read, self.written = usage_of(chunk)
        piece = ""
        for choice in chunk.choices[:1]:
            piece = choice.delta.content or ""
            self.finish = choice.finish_reason or self.finish
            tokens = getattr(getattr(choice, "logprobs", None), "content", None) or ()
            self.logprobs += [float(token.logprob) for token in tokens]
        self.text += piece
        return piece

    def broken(self, reason: str) -> BrokenOffError:
        """The failure to raise."""
        return BrokenOffError(
            f"the server {self.url} broke off its reply after {len(self.text):,} characters ({reason}); nothing of it is kept"
        )


class Pace:
    """Lets so many through in any window of time, in the order they came.

    Args:
        most: How many.
        window: In seconds.

    Raises:
        InputError: `most` is below 1.
    """

    def __init__(self, most: int, window: float):
        if most < 1:
            raise InputError(f"a rate must be at least 1 a minute, got {most}")
        self._times: list[float] = []
        self._most, self._window = most, window
        self._line = asyncio.Lock()

    async def turn(self) -> None:
        """Wait for a place."""
        async with self._line:
            now = time.monotonic()
            self._times = [t for t in self._times if t > now - self._window]
            if len(self._times) >= self._most:
                await asyncio.sleep(self._times[-self._most] + self._window - now)
            self._times.append(time.monotonic())
