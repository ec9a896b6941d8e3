"""Language models that run here, asked in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from modelwright.chat._messages import Piece, Reply, Request
from modelwright.errors import InputError
from modelwright.evaluate import CausalPredictor, Sampling

#: Told the text so far.
_Watch = Callable[[str], None]
_Waiting = tuple[Request, "asyncio.Future[Reply]", _Watch | None]


@dataclass
class TransformersBackend:
    """A causal language model of transformers, with its tokenizer's chat template.

    Requests that come while the event loop is busy, or while a batch is running, are answered together; noise is keyed by
    request and sample, so that a reply does not depend on its batch.

    Attributes:
        predictor: The model; `CausalPredictor.from_folder` loads one.
        batch: Most requests of a batch.

    Raises:
        InputError: `batch` is below 1, or the tokenizer has no chat template.
    """

    predictor: CausalPredictor
    batch: int = 16
    _waiting: list[_Waiting] = field(default_factory=list, init=False, repr=False)
    _worker: asyncio.Task[None] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch must be at least 1, got {self.batch}")
        if not getattr(self.predictor.tokenizer, "chat_template", None):
            raise InputError(f"'{self.predictor.label}' has no chat template", "Give its tokenizer one.")

    @property
    def model(self) -> str:
        """A hash of weights, tokenizer and template."""
        return f"transformers:{self.predictor.fingerprint}"

    async def ask(self, request: Request) -> Reply:
        """The model's reply.

        Raises:
            InputError: The conversation does not fit, or the chat template refuses it.
            RunError: Logits are not finite.
        """
        return await self._join(request, None)

    def _join(self, request: Request, watch: _Watch | None) -> asyncio.Future[Reply]:
        """The reply to come, in the next batch."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future, watch))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return future

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """The model's reply token by token; it shares batches with others.

        Raises:
            InputError: As `ask`.
            RunError: As `ask`.
        """
        loop = asyncio.get_running_loop()
        texts: asyncio.Queue[str | None] = asyncio.Queue()

        def heard(text: str) -> None:
            loop.call_soon_threadsafe(texts.put_nowait, text)

        future = self._join(request, heard)
        future.add_done_callback(lambda _done: texts.put_nowait(None))
        said = ""
        while (text := await texts.get()) is not None:
            if text.startswith(said) and len(text) > len(said):
                yield text[len(said) :]
                said = text
        reply = await future
        if rest := reply.text[len(said) :]:
            yield rest
        yield reply

    async def _work(self) -> None:
        await asyncio.sleep(0)  # whoever is about to ask may join the first batch
        while self._waiting:
            first = self._waiting[0][0]
            sampling = self._alike(first)
            group = [pair for pair in self._waiting if self._alike(pair[0]) == sampling]
            group = [pair for pair in group if bool(pair[0].options) == bool(first.options)][: self.batch]
            self._waiting = [pair for pair in self._waiting if not any(pair is other for other in group)]
            group = [pair for pair in group if not pair[1].cancelled()]
            try:
                await self._answer(group, sampling)
            except InputError:  # one of them cannot be answered; the others can
                for pair in group:
                    await self._alone(pair, sampling)
            except Exception as error:  # whoever waits raises it
                for _, future, _ in group:
                    if not future.done():
                        future.set_exception(error)

    async def _answer(self, group: list[_Waiting], sampling: Sampling) -> None:
        replies = await asyncio.to_thread(self._run, group, sampling)
        for (_, future, _), reply in zip(group, replies, strict=True):
            if not future.done():
                future.set_result(reply)

    async def _alone(self, pair: _Waiting, sampling: Sampling) -> None:
        try:
            await self._answer([pair], sampling)
        except Exception as error:
            if not pair[1].done():
                pair[1].set_exception(error)

    @staticmethod
    def _alike(request: Request) -> Sampling:
        """What requests of one batch share: all but the seed."""
        s = request.sampling
        return Sampling(s.max_tokens, s.stop, s.temperature)

    def _run(self, group: list[_Waiting], sampling: Sampling) -> list[Reply]:
        requests = [request for request, _, _ in group]
        if requests and requests[0].options:
            return self._scored(requests)
        conversations: list[Any] = [[asdict(message) for message in request.messages] for request in requests]

        def told(i: int, text: str) -> None:
            watch = group[i][2]
            if watch is not None:
                watch(_settled(text, sampling.stop))

        listened = told if any(watch for *_, watch in group) else None
        found = self.predictor.texts(conversations, sampling, [request.seed() for request in requests], listened)
        return [
            Reply(
                one.text,
                one.tokens_in,
                one.tokens_out,
                one.logprobs if request.logprobs else None,
                "length" if one.cut else "stop",
            )
            for one, request in zip(found, requests, strict=True)
        ]

    def _scored(self, requests: list[Request]) -> list[Reply]:
        """How probable each option is as the whole reply's beginning."""
        pairs = [
            (self.predictor.in_template([asdict(message) for message in request.messages]), option)
            for request in requests
            for option in request.options
        ]
        found = iter(self.predictor.loglikelihoods(pairs))
        replies: list[Reply] = []
        for request in requests:
            own = [next(found) for _ in request.options]
            scores = tuple(one.total for one in own)
            best = request.options[max(range(len(scores)), key=scores.__getitem__)]
            replies.append(
                Reply(best, max(one.context_tokens for one in own), sum(one.tokens for one in own), scores=scores)
            )
        return replies

    async def close(self) -> None:
        """Wait for the batch under way."""
        if self._worker is not None:
            await self._worker


def _settled(text: str, stops: tuple[str, ...]) -> str:
    """As much of a text as what comes next cannot change: no half a character, and nothing that may begin a stop."""
    text = text.rstrip("\ufffd")
    return text[: len(text) - max((len(stop) - 1 for stop in stops), default=0)] if stops else text
