"""Models behind a server that speaks OpenAI's protocol, such as vLLM, llama.cpp or OpenAI's own."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import xxhash

from modelwright.errors import InputError, RunError, listing
from modelwright.evaluate._predictor import Generated, Likelihood, Predictor, Rolling, Sampling, needs

Api = Literal["chat", "completions"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass
class ServerPredictor(Predictor):
    """A model behind an OpenAI-compatible server.

    Texts come from chat completions or completions. Likelihoods come from completions with `echo` and `logprobs`, which
    vLLM gives and most others do not; the tokens of a continuation are those that the server counts beyond the context's
    own, with white space at the end of the context moved to the continuation, as lm-evaluation-harness does it.

    Answers 408, 409, 429 and 5xx, broken connections and time-outs are tried again, later each time, or when the server says.

    Attributes:
        url: Its base, as `http://localhost:8000/v1`.
        model: How the server calls the model; empty takes the one it serves, if that is one.
        api: `chat`: a prompt is the message of a user; `completions`: a prompt is continued.
        system: With `chat`: a system message before each prompt.
        concurrency: Most requests at a time.
        retries: How often a request is tried again.
        timeout: Seconds until one is given up.
        key: The API key; None is that of the environment variable OPENAI_API_KEY, or none.

    Raises:
        InputError: A value is out of its range.
    """

    url: str = field(kw_only=True)
    model: str = field(default="", kw_only=True)
    api: Api = field(default="chat", kw_only=True)
    system: str = field(default="", kw_only=True)
    concurrency: int = field(default=8, kw_only=True)
    retries: int = field(default=5, kw_only=True)
    timeout: float = field(default=120.0, kw_only=True)
    key: str | None = field(default=None, kw_only=True, repr=False)
    _counts: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self.url, self.concurrency, self.retries, self.timeout)
        if self.api not in get_args(Api):
            raise InputError(f"api must be one of {', '.join(get_args(Api))}, got '{self.api}'")
        if self.system and self.api != "chat":
            raise InputError("a system message needs the api 'chat'")
        self._settle()

    def _settle(self) -> None:
        """Label and fingerprint of the model's name: of its weights a server tells nothing."""
        self.label = self.label or self.model
        said = "\0".join((self.api, self.model, self.system))
        self.fingerprint = xxhash.xxh3_128_hexdigest(said.encode())

    @cached_property
    def _client(self) -> Any:
        openai = needs("openai", "asking a server", "chat")
        key = self.key or os.environ.get("OPENAI_API_KEY") or "none"
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=self.retries, timeout=self.timeout)

    def check(self) -> None:
        """Ask the server which models it has, and settle the model's name.

        Raises:
            InputError: It has none of that name, or several and none was named.
            RunError: It cannot be reached.
        """
        import openai

        try:
            names = [model.id for model in self._client.models.list()]
        except (openai.NotFoundError, openai.APIResponseValidationError, AttributeError, TypeError):
            names = []  # not every server can list them
        except openai.OpenAIError as error:
            raise self._failed(error) from error
        if self.model and names and self.model not in names:
            raise InputError(f"the server {self.url} has no model '{self.model}'", f"It has: {listing(names)}.")
        if not self.model:
            if len(names) != 1:
                raise InputError(
                    f"the server {self.url} must be told which model, as it "
                    + (f"has {len(names)}" if names else "lists none"),
                    f"Say --model NAME, one of {listing(names)}." if names else "Say --model NAME.",
                )
            self.model = names[0]
            self._settle()

    def remarks(self) -> list[str]:
        """Calls, tries and tokens, and answers that were cut off."""
        c = self._counts
        found = [
            f"'{self.label}': {c['calls']:,} calls, {c['retries']:,} of them tried again, "
            f"{c['tokens_in']:,} tokens read and {c['tokens_out']:,} written"
        ]
        if c["ended"]:
            found.append(f"'{self.label}': {c['ended']:,} answers ended only because max_tokens was reached")
        return found if c["calls"] else []

    # Generation

    def texts(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Generated]:
        """Texts that follow the prompts, in their order.

        Raises:
            InputError: The server refuses the request.
            RunError: It cannot be reached, fails after all tries, or answers something else.
        """
        return self._each(lambda prompt: self._generated(prompt, sampling), prompts)

    def _generated(self, prompt: str, sampling: Sampling) -> Generated:
        settings = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "seed": sampling.seed}
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        if self.api == "chat":
            system = [{"role": "system", "content": self.system}] if self.system else []
            messages = [*system, {"role": "user", "content": prompt}]
            answer, calls = self._asked(self._client.chat.completions, messages=messages, **settings)
        else:
            answer, calls = self._asked(self._client.completions, prompt=prompt, **settings)
        choice = self._choice(answer)
        said = choice.message if self.api == "chat" else choice
        if said is None:
            raise self._garbage(answer)
        text = (said.content if self.api == "chat" else said.text) or ""
        # A server that does not know stop gives all it has.
        ends = [place for stop in sampling.stop if (place := text.find(stop)) >= 0]
        self._count(ended=choice.finish_reason == "length" and not ends)
        read, written = self._usage(answer)
        return Generated(text[: min(ends, default=len(text))], read, written, calls)

    # Likelihoods

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]], rolling: Rolling | None = None) -> Sequence[Likelihood]:
        """Log-likelihoods of continuations after their contexts, in the order of the pairs.

        Raises:
            InputError: The server gives no log-probabilities of what it reads, or windows of tokens are asked for.
            RunError: As for `texts`.
        """
        if rolling is not None and (rolling.length or rolling.stride):
            raise InputError(
                f"'{self.label}' reads each passage at once: windows are counted in tokens, which a server does not show",
                "Leave length and stride out and choose the size of passages, or evaluate the model's folder.",
            )
        pairs = [self._moved(c, t) if rolling is None else (c, t) for c, t in pairs]
        contexts = [c for c in dict.fromkeys(c for c, _ in pairs) if c]
        lengths = dict(zip(contexts, self._each(self._length, contexts), strict=True))
        return self._each(lambda pair: self._likelihood(pair, lengths), pairs)

    @staticmethod
    def _moved(context: str, text: str) -> tuple[str, str]:
        kept = context.rstrip()
        return kept, context[len(kept) :] + text

    def _length(self, context: str) -> int:
        """How many tokens a context is."""
        return self._echoed(context)[1]

    def _echoed(self, text: str) -> tuple[Any, int, int]:
        """The log-probabilities that the server gives for a text, how many of its tokens they are, and calls."""
        answer, calls = self._asked(
            self._client.completions, prompt=text, max_tokens=1, temperature=0, echo=True, logprobs=1
        )
        said = self._choice(answer).logprobs
        read, _ = self._usage(answer)
        values = list(getattr(said, "token_logprobs", None) or [])
        if not values or read < 1 or len(values) < read:
            raise InputError(
                f"the server {self.url} does not give log-probabilities of what it reads (completions with echo and "
                "logprobs), and choice tasks and perplexity need them",
                "Serve the model with vLLM, evaluate its folder, or use tasks that generate.",
            )
        return said, read, calls

    def _likelihood(self, pair: tuple[str, str], lengths: Mapping[str, int]) -> Likelihood:
        context, text = pair
        said, read, calls = self._echoed(context + text)
        start = lengths[context] if context else self._first(said, text, read)
        values = said.token_logprobs[start:read]
        if not values or any(not isinstance(v, (int, float)) for v in values):
            raise RunError(f"'{self.label}' gave no log-probability for a token of {text[:60]!r}")
        best = list(getattr(said, "top_logprobs", None) or [])[start:read]
        greedy = None
        if len(best) == len(values) and all(best):
            greedy = all(value >= max(top.values()) for value, top in zip(values, best, strict=True))
        return Likelihood(float(sum(values)), len(values), start, greedy, calls)

    def _first(self, said: Any, text: str, read: int) -> int:
        """Where a text without context begins: after the start token, which the server must have put there."""
        joined = "".join(said.tokens[:read])
        if said.token_logprobs[0] is not None:
            return 0
        if joined == text or not joined.endswith(text):
            raise InputError(
                f"the server {self.url} gives no probability to the first token of a text without context",
                "Give it a context, or evaluate the model's folder.",
            )
        return 1

    # The protocol

    def _each(self, ask: Callable[[_In], _Out], asked: Iterable[_In]) -> list[_Out]:
        """Ask several at a time; the first failure ends it, and what has not begun is not asked."""
        if not self.model:
            self.check()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="ask")
        try:
            return list(pool.map(ask, asked))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _asked(self, endpoint: Any, **settings: Any) -> tuple[Any, int]:
        import openai

        try:
            raw = endpoint.with_raw_response.create(model=self.model, **settings)
            answer = raw.parse()
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            raise self._failed(error) from error
        read, written = self._usage(answer)
        calls = 1 + raw.retries_taken
        self._count(calls=calls, retries=raw.retries_taken, tokens_in=read, tokens_out=written)
        return answer, calls

    def _count(self, **more: int) -> None:
        with self._lock:
            self._counts.update(more)

    def _failed(self, error: Exception) -> Exception:
        return failed(error, self.url, self.retries, self.timeout)

    def _choice(self, answer: Any) -> Any:
        return choice_of(answer, self.url)

    def _garbage(self, found: Any) -> RunError:
        return garbage(found, self.url)

    @staticmethod
    def _usage(answer: Any) -> tuple[int, int]:
        return usage_of(answer)


# What every client of such a server shares


def check_settings(url: str, concurrency: int, retries: int, timeout: float) -> None:
    """Refuse settings that cannot be.

    Raises:
        InputError: One is out of its range.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"a server's address begins with http:// or https://, got '{url}'")
    for name, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if timeout <= 0:
        raise InputError(f"timeout must be above 0 seconds, got {timeout:g}")


def failed(error: Exception, url: str, retries: int, timeout: float) -> Exception:
    """What went wrong, in our words: `InputError` where the server refuses, else `RunError`.

    Args:
        error: What the package openai raised.
        url: Of the server.
        retries: How often a request is tried again.
        timeout: Seconds until one is given up.
    """
    import openai

    where = f"the server {url}"
    if isinstance(error, openai.APITimeoutError):
        return RunError(f"{where} did not answer within {timeout:g} s, tried {retries + 1} times", resumable=True)
    if isinstance(error, openai.APIConnectionError):
        reason = error.__cause__ or error
        return RunError(f"{where} cannot be reached, tried {retries + 1} times: {reason}", resumable=True)
    if isinstance(error, openai.APIStatusError):
        said = f"{where} answered {error.status_code}: {error.response.text[:500]}"
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            return RunError(f"{said} (tried {retries + 1} times)", resumable=True)
        return InputError(said)
    return garbage(error, url)


def choice_of(answer: Any, url: str) -> Any:
    """The first choice of an answer.

    Raises:
        RunError: It has none.
    """
    choices = getattr(answer, "choices", None)
    if not choices:
        raise garbage(answer, url)
    return choices[0]


def garbage(found: Any, url: str) -> RunError:
    """An answer that is none."""
    return RunError(f"the server {url} answered what is not its protocol: {str(found)[:500]}")


def usage_of(answer: Any) -> tuple[int, int]:
    """Tokens read and written, 0 where the server does not say."""
    usage = getattr(answer, "usage", None)
    return (getattr(usage, "prompt_tokens", 0) or 0), (getattr(usage, "completion_tokens", 0) or 0)
