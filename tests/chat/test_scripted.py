"""The stand-in for models does what it is told, whatever the order."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import pytest

from modelwright.chat import Message, Reply, Request, ScriptedBackend, user
from modelwright.chat._forms import blocks, read_ranks, read_ratings, read_verdict, render
from modelwright.errors import InputError, RunError
from modelwright.evaluate import Sampling

from .helpers import close, questions

WARM = Sampling(temperature=0.7)


def asked(question: str, sample: int = 0, sampling: Sampling = WARM, **more: Any) -> Request:
    return Request(user(question), sampling, sample, **more)


def replies(backend: ScriptedBackend, requests: list[Request]) -> list[Reply]:
    async def go() -> list[Reply]:
        return list(await asyncio.gather(*[backend.ask(request) for request in requests]))

    return asyncio.run(go())


def right(backend: ScriptedBackend, request: Request) -> bool:
    [reply] = replies(backend, [request])
    return backend.answer_of(reply.text) == backend.answers[request.messages[-1].content.split("\n\n")[0]]


def test_it_is_right_as_often_as_it_is_told() -> None:
    known = questions(3000)
    backend = ScriptedBackend(known, accuracy=0.7, options=("yes", "no"))
    found = replies(backend, [asked(q) for q in known])
    share = sum(backend.answer_of(r.text) == a for r, a in zip(found, known.values(), strict=True)) / len(known)
    assert close(share, 0.7, len(known))


def test_accuracy_by_prompt() -> None:
    known = questions(1500)
    backend = ScriptedBackend(known, accuracy={"algebra": 0.9, "": 0.5}, options=("yes", "no"))
    for system, expected in (("Use algebra.", 0.9), ("Guess.", 0.5)):
        requests = [Request((Message("system", system), Message("user", q)), WARM) for q in known]
        found = replies(backend, requests)
        share = sum(backend.answer_of(r.text) == a for r, a in zip(found, known.values(), strict=True)) / len(known)
        assert close(share, expected, len(known))


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_correlation_between_agents(correlation: float) -> None:
    known = questions(3000)
    both = []
    for name in ("a", "b"):
        backend = ScriptedBackend(known, name, accuracy=0.6, correlation=correlation, options=("yes", "no"))
        found = replies(backend, [asked(q) for q in known])
        both.append([backend.answer_of(r.text) == a for r, a in zip(found, known.values(), strict=True)])
    together = sum(x and y for x, y in zip(*both, strict=True)) / len(known)
    # P(both right) = p^2 + rho p (1 - p)
    assert close(together, 0.36 + correlation * 0.24, len(known))


def test_wrong_answers_are_spread_or_distinct() -> None:
    known = questions(3000, ("a", "b", "c", "d"))
    spread = ScriptedBackend(known, accuracy=0.0, options=("a", "b", "c", "d"))
    found = [spread.answer_of(r.text) for r in replies(spread, [asked(q) for q in known])]
    assert set(found) == {"a", "b", "c", "d"}
    assert all(f != a for f, a in zip(found, known.values(), strict=True))
    assert close(found.count("a") / 3000, 0.25, 3000)
    distinct = ScriptedBackend(known, accuracy=0.0)
    found = [distinct.answer_of(r.text) for r in replies(distinct, [asked(q) for q in known])]
    assert len(set(found)) == 3000


def test_order_and_concurrency_change_nothing() -> None:
    known = questions(60)
    backend = ScriptedBackend(known, accuracy=0.5, options=("yes", "no"), delay=0.002)
    requests = [asked(q, sample, logprobs=True) for q in known for sample in range(3)]
    first = dict(zip([r.text for r in requests], replies(backend, requests), strict=True))
    random.Random(1).shuffle(requests)
    one_by_one = ScriptedBackend(known, accuracy=0.5, options=("yes", "no"))
    for request in requests:
        assert replies(one_by_one, [request]) == [first[request.text]]


def test_temperature_0_repeats_itself_and_samples_differ() -> None:
    backend = ScriptedBackend({"Q?": "1"}, accuracy=0.0)
    cold = replies(backend, [asked("Q?", i, Sampling()) for i in range(5)])
    assert len({r.text for r in cold}) == 1
    warm = replies(backend, [asked("Q?", i) for i in range(5)])
    assert len({r.text for r in warm}) == 5
    other = ScriptedBackend({"Q?": "1"}, accuracy=0.0, seed=1)
    assert replies(other, [asked("Q?")])[0].text != warm[0].text


def test_confidence_is_what_log_probabilities_say() -> None:
    known = questions(400)
    backend = ScriptedBackend(known, accuracy=0.5, options=("yes", "no"), sure_right=(0.8, 0.9), sure_wrong=(0.3, 0.4))
    seen = set()
    for reply, answer in zip(replies(backend, [asked(q, logprobs=True) for q in known]), known.values(), strict=True):
        assert reply.logprobs is not None
        assert len(reply.logprobs) == reply.tokens_out
        good = backend.answer_of(reply.text) == answer
        seen.add(good)
        low, high = (0.8, 0.9) if good else (0.3, 0.4)
        assert low <= math.exp(sum(reply.logprobs)) <= high
    assert seen == {True, False}
    assert replies(backend, [asked("Question 0?")])[0].logprobs is None


def test_what_it_does_with_replies_that_it_is_shown() -> None:
    backend = ScriptedBackend({"Q?": "4"}, accuracy=0.0)
    texts = ["The answer is 5.", "The answer is 4.", "The answer is 5."]
    words = {"question": "Q?", "count": 3, "replies": blocks(texts)}

    def said(messages: tuple[Message, ...]) -> str:
        return replies(backend, [Request(messages, WARM)])[0].text

    merged = (Message("system", render("merge", replies=blocks(texts))), Message("user", "Q?"))
    assert said(merged) == "The answer is 5."
    assert read_ranks(said(user(render("select", **words))), 3) == [0]
    assert read_ranks(said(user(render("rank", best=2, **words))), 3) == [1, 0, 2]
    assert read_ratings(said(user(render("revise", **words))), 3) == [1, 5, 1]
    for text, verdict in ((texts[0], False), (texts[1], True)):
        assert read_verdict(said(user(render("verify", question="Q?", replies=blocks([text]))))) is verdict


def test_judgement_and_following() -> None:
    known = questions(1500)
    shown = blocks(["The answer is yes.", "The answer is yes."])
    prompts = [user(render("revise", question=q, count=2, replies=shown)) for q in known]
    backend = ScriptedBackend(known, accuracy=0.5, options=("yes", "no"), follows=0.4, judgement=0.8)
    found = replies(backend, [Request(p, WARM) for p in prompts])
    yes = sum(backend.answer_of(r.text) == "yes" for r in found) / len(found)
    assert close(yes, 0.4 + 0.6 * 0.5, len(found))
    rated = [read_ratings(r.text, 2) or [0, 0] for r in found]
    fair = sum(r[0] == (5 if a == "yes" else 1) for r, a in zip(rated, known.values(), strict=True)) / len(found)
    assert close(fair, 0.8, len(found))


def test_it_fails_as_often_as_it_is_told() -> None:
    known = questions(800)
    backend = ScriptedBackend(known, fails=0.3)

    async def go() -> int:
        found = await asyncio.gather(*[backend.ask(asked(q)) for q in known], return_exceptions=True)
        assert all(isinstance(f, (Reply, RunError)) for f in found)
        return sum(isinstance(f, RunError) for f in found)

    assert close(asyncio.run(go()) / 800, 0.3, 800)


def test_a_reply_that_is_too_long_is_cut() -> None:
    backend = ScriptedBackend({"Q?": "4"})
    [reply] = replies(backend, [asked("Q?", sampling=Sampling(max_tokens=2))])
    assert (reply.text, reply.finish, reply.tokens_out) == ("The answer", "length", 2)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"accuracy": 70}, r"accuracy\[''\] must be in \[0, 1\], got 70. It is a fraction; for 20 % write 0.2"),
        ({"correlation": -0.1}, r"correlation must be in \[0, 1\], got -0.1"),
        ({"sure_right": (0.9, 0.5)}, r"sure_right must be two numbers in \(0, 1\], the lower first, got 0.9 and 0.5"),
        ({"says": "It is so."}, r"says must have \{answer\} in it once, got 'It is so.'"),
        ({"options": ("x", "y")}, "options must hold every right answer and a wrong one, and the answer '4' is none"),
        ({"options": ("4",)}, "and there is only '4'"),
    ],
)
def test_refusals(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        ScriptedBackend({"Q?": "4"}, **given)


def test_an_unknown_question_is_refused() -> None:
    with pytest.raises(InputError, match=r"the scripted backend 'script' knows no question in 'Why\?'. Add it to"):
        replies(ScriptedBackend({"Q?": "4"}), [asked("Why?")])
