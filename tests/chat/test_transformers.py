"""A tiny language model made from a configuration, asked in batches."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from modelwright.chat import Message, Reply, Request, TransformersBackend, user  # noqa: E402
from modelwright.errors import InputError  # noqa: E402
from modelwright.evaluate import CausalPredictor, Sampling  # noqa: E402
from tiny_language import model, tokenizer  # noqa: E402

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:"


def backend(template: str | None = TEMPLATE, batch: int = 16) -> TransformersBackend:
    words = tokenizer()
    words.chat_template = template
    return TransformersBackend(CausalPredictor("tiny", module=model(), tokenizer=words), batch)


def replies(tiny: TransformersBackend, requests: list[Request]) -> list[Any]:
    async def go() -> list[Any]:
        found = await asyncio.gather(*[tiny.ask(r) for r in requests], return_exceptions=True)
        await tiny.close()
        return list(found)

    return asyncio.run(go())


def asked(text: str, sample: int = 0, temperature: float = 1.0, **more: Any) -> Request:
    return Request(user(text), Sampling(6, (), temperature), sample, **more)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [asked(text, sample, logprobs=True) for text in ("ab", "xyz", "q") for sample in range(2)]
    tiny = backend()
    sizes: list[int] = []
    inner = tiny.predictor.texts
    monkeypatch.setattr(tiny.predictor, "texts", lambda p, *rest: (sizes.append(len(p)), inner(p, *rest))[1])
    whole = replies(tiny, requests)
    assert sizes == [6]  # one batch, samples with seeds of their own
    alone = [replies(tiny, [request])[0] for request in requests]
    for one, other in zip(whole, alone, strict=True):
        assert (one.text, one.tokens_in, one.tokens_out, one.finish) == (
            other.text, other.tokens_in, other.tokens_out, other.finish,
        )  # fmt: skip
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert whole[0].text != whole[1].text
    sizes.clear()
    replies(backend(batch=4), requests)


def test_log_probabilities_are_the_models() -> None:
    """Summed over a reply they are the likelihood of its text after the prompt, from another path of the code."""
    tiny = backend()
    request = asked("ab", temperature=0.0, logprobs=True)
    [reply] = replies(tiny, [request])
    assert reply.logprobs is not None
    prompt = list(tiny.predictor.tokenizer("u:ab;a:", add_special_tokens=False)["input_ids"])
    ids = list(prompt)
    found = []
    with torch.inference_mode():
        for _ in reply.logprobs:
            row = tiny.predictor.module(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
            found.append(float(row.max()))
            ids.append(int(row.argmax()))
    assert reply.logprobs == pytest.approx(found, abs=1e-5)
    assert reply.tokens_in == len(prompt)
    assert replies(tiny, [asked("ab", temperature=0.0)])[0].logprobs is None


def test_one_that_does_not_fit_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}a:"
    )
    tiny = backend(words)
    refused = Request((Message("system", "s"), *user("ab")), Sampling(6, (), 1.0))
    found = replies(tiny, [asked("ab"), refused])
    assert isinstance(found[0], Reply)
    assert isinstance(found[1], InputError)
    assert "'tiny': its chat template refuses the conversation: no system" in str(found[1])


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"'tiny' has no chat template. Give its tokenizer one"):
        backend(None)
    with pytest.raises(InputError, match="batch must be at least 1, got 0"):
        backend(batch=0)
