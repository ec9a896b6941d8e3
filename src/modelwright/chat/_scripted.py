"""A stand-in for a model whose accuracy, errors, ratings and confidence are set, and known in closed form."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import xxhash

from modelwright.chat._forms import FORMS, read_blocks, without_blocks, without_marks
from modelwright.chat._messages import BrokenOffError, Message, Piece, Reply, Request
from modelwright.errors import InputError, RunError

Interval = tuple[float, float]


@dataclass(frozen=True)
class ScriptedBackend:
    """Answers questions whose answers it knows, right as often as it is told.

    Nothing is drawn from a stream: each number is a hash of seed, name, messages and sample, so that it depends neither on
    what else is asked nor on the order. At temperature 0 the sample is left out, and repeating a request repeats the reply.

    It finds the question as whole paragraphs of a user's message. Where it is shown replies (`blocks`), it does what it is
    asked to: it merges them to their most frequent answer, the first of equal ones; selects a reply of that answer;
    rates right ones 5 and wrong ones 1; ranks right ones first; or says whether one is right. Asked to rate, it also answers.

    Attributes:
        name: Tells its errors from other backends' errors.
        answers: Questions -> right answers.
        accuracy: How probably a reply is right, in [0, 1]; or texts -> probabilities, where the first text that is found in
            the messages decides, and "" is found in all: accuracy by persona or approach.
        options: What answers can be; wrong ones are spread evenly over the others. Empty: every wrong answer is another one.
        correlation: Of being right, between any two replies to a question at equal accuracy, in [0, 1], across all scripted
            backends of this seed: each reply takes with probability sqrt(correlation) the question's shared draw.
        follows: How probably it adopts the most frequent answer of the replies it is shown when it answers anew, in [0, 1].
        judgement: How probably it takes one reply for what it is, right or wrong, where it rates, ranks or verifies, in
            [0, 1].
        sure_right: Its confidence where it is right: uniform between these, each in (0, 1]. exp(sum of logprobs) is it.
        sure_wrong: Its confidence where it is wrong.
        fails: How probably a request fails, in [0, 1].
        breaks: How probably a stream breaks off after half of the reply, in [0, 1].
        says: The form of its replies, with `{answer}`.
        replies: Texts -> what it says where the text is found in the last message, the first such; `{answer}` in it stands for
            its answer. For all that a program asks beside the answer.
        delay: Longest time in seconds until it replies, keyed as well.
        seed: Of all draws.

    Raises:
        InputError: A number is out of its range, or a right answer is not among the options.
    """

    answers: Mapping[str, str] = field(repr=False)
    name: str = "script"
    accuracy: float | Mapping[str, float] = 1.0
    options: Sequence[str] = ()
    correlation: float = 0.0
    follows: float = 0.0
    judgement: float = 1.0
    sure_right: Interval = (0.6, 1.0)
    sure_wrong: Interval = (0.2, 0.8)
    fails: float = 0.0
    breaks: float = 0.0
    says: str = "The answer is {answer}."
    replies: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {"correlation": self.correlation, "follows": self.follows, "judgement": self.judgement}
        shares |= {"fails": self.fails, "breaks": self.breaks} | {
            f"accuracy[{k!r}]": v for k, v in self._accuracies.items()
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise InputError(f"{name} must be in [0, 1], got {value:g}", "It is a fraction; for 20 % write 0.2.")
        for name in ("sure_right", "sure_wrong"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise InputError(f"{name} must be two numbers in (0, 1], the lower first, got {low:g} and {high:g}")
        if self.says.count("{answer}") != 1:
            raise InputError(f"says must have {{answer}} in it once, got {self.says!r}")
        missing = [a for a in self.answers.values() if self.options and a not in self.options]
        if missing or len(self.options) == 1:
            found = f"the answer {missing[0]!r} is none" if missing else f"there is only {self.options[0]!r}"
            raise InputError(f"options must hold every right answer and a wrong one, and {found}")

    @property
    def _accuracies(self) -> Mapping[str, float]:
        return self.accuracy if isinstance(self.accuracy, Mapping) else {"": self.accuracy}

    @property
    def model(self) -> str:
        """A hash of its script."""
        return self._model

    @cached_property
    def _model(self) -> str:
        said = {**asdict(self), "delay": None}  # which changes no reply
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
        return f"script:{self.name}:{xxhash.xxh3_64_hexdigest(text.encode('utf-8', 'surrogatepass'))}"

    async def ask(self, request: Request) -> Reply:
        """The scripted reply.

        Raises:
            InputError: It finds no question that it knows.
            RunError: It fails, as often as `fails` says.
        """
        draws = _Draws(self, request)
        if self.delay:
            await asyncio.sleep(self.delay * draws.uniform("delay"))
        if draws.uniform("fails") < self.fails:
            raise RunError(f"the scripted backend '{self.name}' fails, as it is told to", resumable=True)
        reads = sum(len(message.content.split()) for message in request.messages)
        if request.options:
            return draws.scored(request.options, reads)
        text, right = draws.reply()
        words = text.split()
        written = words[: request.sampling.max_tokens]
        finish = "stop"
        if len(written) < len(words):
            text, finish = " ".join(written), "length"
        return Reply(
            text, reads, len(written), self._logprobs(draws, right, len(written)) if request.logprobs else None, finish
        )

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """The scripted reply word by word.

        Raises:
            BrokenOffError: As often as `breaks` says.
            InputError: As `ask`.
            RunError: As `ask`.
        """
        reply = await self.ask(request)
        pieces = re.findall(r"\s*\S+\s*$|\s*\S+", reply.text) or [reply.text]
        broken = _Draws(self, request).uniform("breaks") < self.breaks
        for piece in pieces[: len(pieces) // 2] if broken else pieces:
            await asyncio.sleep(0)
            yield piece
        if broken:
            raise BrokenOffError(f"the scripted backend '{self.name}' breaks off, as it is told to")
        yield reply

    def _logprobs(self, draws: _Draws, right: bool, tokens: int) -> tuple[float, ...]:
        """All the doubt is about the last token."""
        low, high = self.sure_right if right else self.sure_wrong
        sure = low + (high - low) * draws.uniform("sure")
        return (*[0.0] * (tokens - 1), math.log(sure))

    async def close(self) -> None:
        """It holds nothing."""

    @cached_property
    def _answer_in(self) -> re.Pattern[str]:
        before, after = self.says.split("{answer}")
        return re.compile(f"{re.escape(before)}(.+?){re.escape(after)}" if after else f"{re.escape(before)}(.+)")

    def answer_of(self, text: str) -> str | None:
        """The last answer in a text of the form that it speaks in; None where there is none."""
        found = self._answer_in.findall(text)
        return found[-1] if found else None


#: What it may be asked for beside an answer, by the names of forms.
_TASKS = ("merge", "select", "verify", "rank", "rate")


class _Draws:
    """All that is drawn for one request."""

    def __init__(self, script: ScriptedBackend, request: Request):
        self._script = script
        self._text = "\x1e".join(f"{m.role}\x1f{m.content}" for m in request.messages)
        self._sample = request.sample if request.sampling.temperature else 0
        self._seed = request.sampling.seed
        last = request.messages[-1].content
        self._said = next((said for text, said in script.replies.items() if text in last), None)
        if self._said is None or "{answer}" in self._said:
            self._question = _question(script, request.messages)
            self._right = script.answers[self._question]
        self._shown = [text for m in request.messages for text in read_blocks(m.content)]
        self._task = next((name for name in _TASKS if FORMS[name] in self._text), "answer")

    def uniform(self, what: str) -> float:
        """A number in [0, 1) of this request's own."""
        said = (self._script.seed, self._script.name, self._text, self._sample, self._seed, what)
        return _uniform("\x1d".join(map(str, said)))

    def reply(self) -> tuple[str, bool]:
        """What is said, and whether that is right."""
        if self._said is not None:
            answer = self._own([]) if "{answer}" in self._said else ""
            return self._said.replace("{answer}", answer), bool(answer) and answer == self._right
        answers = [self._script.answer_of(text) for text in self._shown]
        if self._task in ("answer", "rate") or not answers:
            answer = self._own(answers)
            text = self._script.says.format(answer=answer)
            if self._task == "rate":
                text += f" [{[5 if good else 1 for good in self._judged(answers)]}]"
            return text, answer == self._right
        if self._task == "merge":
            answer = _most_frequent(answers)
            if answer is None:
                answer = self._own([])
            return self._script.says.format(answer=answer), answer == self._right
        if self._task == "select":
            answer = _most_frequent(answers)
            return f"That is [{1 + (answers.index(answer) if answer else 0)}]", answer == self._right
        good = self._judged(answers)
        if self._task == "verify":
            return ("[right]" if good[0] else "[wrong]"), (answers[0] == self._right) == good[0]
        order = sorted(range(len(good)), key=lambda i: not good[i])
        return str([i + 1 for i in order]), answers[order[0]] == self._right

    def scored(self, options: Sequence[str], reads: int) -> Reply:
        """Its answer has its confidence, and the other options share the rest evenly."""
        answer = self._own([])
        low, high = self._script.sure_right if answer == self._right else self._script.sure_wrong
        sure = low + (high - low) * self.uniform("sure")
        rest = max((1 - sure) / (len(options) - 1), 1e-9)
        scores = tuple(math.log(sure if option == answer else rest) for option in options)
        return Reply(answer, reads, 1, scores=scores)

    def _judged(self, answers: Sequence[str | None]) -> list[bool]:
        """Which replies it takes for right."""
        truth = [answer == self._right for answer in answers]
        return [t == (self.uniform(f"judge {i}") < self._script.judgement) for i, t in enumerate(truth)]

    def _own(self, shown: Sequence[str | None]) -> str:
        popular = _most_frequent(shown)
        if popular is not None and self.uniform("follow") < self._script.follows:
            return popular
        if self.uniform("share") < math.sqrt(self._script.correlation):
            key = f"{self._script.seed}\x1d{self._question}\x1dshared"
            return self._drawn(_uniform(key), _uniform(f"{key} wrong"), "shared")
        return self._drawn(self.uniform("right"), self.uniform("wrong"), str(self.uniform("distinct")))

    def _drawn(self, at: float, which: float, mark: str) -> str:
        accuracy = next((p for text, p in self._script._accuracies.items() if text in self._text), 0.0)
        if at < accuracy:
            return self._right
        others = [option for option in self._script.options if option != self._right]
        return others[int(which * len(others))] if others else f"wrong-{xxhash.xxh3_64_hexdigest(mark.encode())}"


def _question(script: ScriptedBackend, messages: Sequence[Message]) -> str:
    said = [message.content for message in reversed(messages) if message.role == "user"]
    # What is asked stands outside of marks; where there is no question, what is shown is looked through.
    for text in (*map(without_blocks, said), *map(without_marks, said)):
        parts = [part.strip("\n") for part in text.split("\n\n")]
        for size in range(len(parts), 0, -1):
            for start in range(len(parts) - size + 1):
                question = "\n\n".join(parts[start : start + size])
                if question in script.answers:
                    return question
    last = messages[-1].content
    raise InputError(
        f"the scripted backend '{script.name}' knows no question in {last[:200]!r}", "Add it to its answers."
    )


def _most_frequent(answers: Sequence[str | None]) -> str | None:
    """The first of the most frequent answers; None where there are none."""
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts, key=counts.__getitem__) if counts else None


def _uniform(text: str) -> float:
    return (xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) >> 11) * 2.0**-53
