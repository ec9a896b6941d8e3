"""Models behind servers that speak OpenAI's protocol, many requests at a time."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from modelwright.chat._messages import Finish, Reply, Request
from modelwright.errors import InputError
from modelwright.evaluate._predictor import needs
from modelwright.evaluate._server import check_settings, choice_of, failed, usage_of


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
                raise failed(error, self.url, self.retries, self.timeout) from error
        choice = choice_of(answer, self.url)
        if choice.message is None:
            raise failed(ValueError(str(answer)), self.url, self.retries, self.timeout)
        read, written = usage_of(answer)
        finish: Finish = choice.finish_reason if choice.finish_reason in ("stop", "length") else "other"
        logprobs = self._logprobs(choice) if request.logprobs else None
        return Reply(choice.message.content or "", read, written, logprobs, finish, 1 + raw.retries_taken)

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
        return settings

    def _logprobs(self, choice: Any) -> tuple[float, ...]:
        tokens = getattr(choice.logprobs, "content", None)
        if tokens is None:
            raise InputError(
                f"the server {self.url} gives no log-probabilities of what it writes", "Leave logprobs out."
            )
        return tuple(float(token.logprob) for token in tokens)

    async def close(self) -> None:
        """Close connections."""
        if "_client" in self.__dict__:
            await self._client.close()


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
