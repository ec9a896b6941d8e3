"""What tells how good a reply is: a function, a reward model of transformers, or an agent as judge."""

from __future__ import annotations

import asyncio
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import xxhash
from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator

from modelwright.chat._forms import blocks, read_ratings, render
from modelwright.chat._messages import user
from modelwright.chat._session import together
from modelwright.chat._talk import Talk
from modelwright.errors import InputError, RunError
from modelwright.evaluate._named import function as named_function, guarded
from modelwright.evaluate._predictor import needs
from modelwright.predictions._code import function_hash

#: Functions and models of users are called by one thread at a time.
_LOCK = threading.Lock()


class Scorer(BaseModel, ABC):
    """Scores replies; the higher, the better."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @abstractmethod
    async def scores(self, talk: Talk, texts: Sequence[str]) -> list[float | None]:
        """A score for each reply to the talk's question; None where there is none.

        Raises:
            RunError: A score is no number.
        """

    def at(self, folder: Path) -> Self:
        """The same, with paths taken from a folder."""
        return self

    def judges(self) -> list[str]:
        """The agents that it asks once for each reply."""
        return []


class AgentScorer(Scorer):
    """An agent rates each reply from 1 to 5, in a call of its own."""

    kind: Literal["agent"] = "agent"
    agent: str = Field(description="Who rates.")

    async def scores(self, talk: Talk, texts: Sequence[str]) -> list[float | None]:
        """Ratings as fractions of 5; None where one cannot be read."""
        return await together([self._one(talk, text) for text in texts])

    async def _one(self, talk: Talk, text: str) -> float | None:
        asked = render("score", question=talk.asked, replies=blocks([text]))
        step = await talk.ask(self.agent, user(asked), "score")
        ratings = read_ratings(step.reply.text, 1)
        if ratings is None:
            talk.notes.append(f"'{self.agent}' was to rate a reply and gave no number")
            return None
        return min(max(ratings[0], 0), 5) / 5

    def judges(self) -> list[str]:
        """The agent."""
        return [self.agent]


class FunctionScorer(Scorer):
    """A Python function from (question, reply) to a number."""

    kind: Literal["function"] = "function"
    function: str | Callable[..., Any] = Field(
        description="`module:name` or `file.py:name`; in Python also the function."
    )

    @field_serializer("function")
    def _said(self, function: str | Callable[..., Any]) -> str:
        return f"{getattr(self._made, '__name__', 'function')} {function_hash(self._made)[0]}"

    def at(self, folder: Path) -> Self:
        """The same with its function found."""
        if callable(self.function):
            return self
        return self.model_copy(update={"function": named_function(self.function, folder)})

    @property
    def _made(self) -> Callable[..., Any]:
        return self.function if callable(self.function) else named_function(self.function)

    async def scores(self, talk: Talk, texts: Sequence[str]) -> list[float | None]:
        """What the function returns."""
        return list(await asyncio.to_thread(self._all, talk.question, list(texts)))

    def _all(self, question: str, texts: list[str]) -> list[float]:
        made = self._made
        name = getattr(made, "__name__", "the scorer")
        with _LOCK:
            return [finite(guarded(name, made, question, text), name) for text in texts]


class ModelScorer(Scorer):
    """A sequence classifier of transformers, such as a reward model with one output."""

    kind: Literal["transformers"] = "transformers"
    folder: str = Field(description="The model's folder.")
    label: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Which output is the score, as a log-probability; null is for models with one output."
    )
    device: str = "cpu"
    batch: Annotated[int, Field(ge=1)] = 16
    content: str = Field("", description="A hash of the folder's files; filled in when the panel is read.")

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.folder:
            raise ValueError("a reward model needs a folder")
        return self

    def at(self, folder: Path) -> Self:
        """The same with its folder found and hashed."""
        place = folder / Path(self.folder).expanduser()
        if not place.is_dir():
            raise InputError(f"there is no folder '{place}' of a reward model")
        digest = xxhash.xxh3_128()
        for path in sorted(path for path in place.iterdir() if path.is_file()):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while part := file.read(1 << 22):
                    digest.update(part)
        return self.model_copy(update={"folder": str(place), "content": digest.hexdigest()})

    async def scores(self, talk: Talk, texts: Sequence[str]) -> list[float | None]:
        """The model's output for question and reply."""
        return list(await asyncio.to_thread(self._all, talk.question, list(texts)))

    def _all(self, question: str, texts: list[str]) -> list[float]:
        with _LOCK:
            model, tokenizer = _loaded(self.folder, self.device)
            outputs = model.config.num_labels
            if (self.label is None) != (outputs == 1) or (self.label or 0) >= outputs:
                raise InputError(
                    f"label must name one of the {outputs} outputs of '{self.folder}', got {self.label}"
                    if outputs > 1
                    else f"'{self.folder}' has one output, so there is no label {self.label}"
                )
            parts = [texts[i : i + self.batch] for i in range(0, len(texts), self.batch)]
            found = [score for part in parts for score in _run(model, tokenizer, question, part, self.label)]
        return [finite(score, self.folder) for score in found]


@cache
def _loaded(folder: str, device: str) -> tuple[Any, Any]:
    transformers = needs("transformers", "a reward model", "torch")
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"the reward model cannot be loaded: {error}", where=folder) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(device).eval(), tokenizer


def _run(model: Any, tokenizer: Any, question: str, texts: list[str], label: int | None) -> list[float]:
    import torch

    if getattr(tokenizer, "chat_template", None):
        whole = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}, {"role": "assistant", "content": text}], tokenize=False
            )
            for text in texts
        ]
        batch = tokenizer(whole, add_special_tokens=False, padding=True, return_tensors="pt")
    else:
        batch = tokenizer([question] * len(texts), texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**batch.to(model.device)).logits.double()
    scores = logits[:, 0] if label is None else logits.log_softmax(dim=-1)[:, label]
    return scores.tolist()


def finite(score: Any, whose: str) -> float:
    """A score as a number.

    Raises:
        RunError: It is none.
    """
    try:
        number = float(score)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RunError(f"'{whose}' gave a score that is no finite number: {score!r}")
    return number


AnyScorer = Annotated[AgentScorer | FunctionScorer | ModelScorer, Field(discriminator="kind")]
