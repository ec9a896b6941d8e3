"""Language models that run here, asked in batches."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from typing import Any

from modelwright.chat._messages import Reply, Request
from modelwright.errors import InputError
from modelwright.evaluate import CausalPredictor, Sampling

_Waiting = tuple[Request, "asyncio.Future[Reply]"]


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
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        await asyncio.sleep(0)  # whoever is about to ask may join the first batch
        while self._waiting:
            sampling = self._alike(self._waiting[0][0])
            group = [pair for pair in self._waiting if self._alike(pair[0]) == sampling][: self.batch]
            self._waiting = [pair for pair in self._waiting if not any(pair is other for other in group)]
            group = [pair for pair in group if not pair[1].cancelled()]
            try:
                await self._answer(group, sampling)
            except InputError:  # one of them cannot be answered; the others can
                for pair in group:
                    await self._alone(pair, sampling)
            except Exception as error:  # whoever waits raises it
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)

    async def _answer(self, group: list[_Waiting], sampling: Sampling) -> None:
        replies = await asyncio.to_thread(self._run, [request for request, _ in group], sampling)
        for (_, future), reply in zip(group, replies, strict=True):
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

    def _run(self, requests: list[Request], sampling: Sampling) -> list[Reply]:
        conversations: list[Any] = [[asdict(message) for message in request.messages] for request in requests]
        found = self.predictor.texts(conversations, sampling, [request.seed() for request in requests])
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

    async def close(self) -> None:
        """Wait for the batch under way."""
        if self._worker is not None:
            await self._worker
