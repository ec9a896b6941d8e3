"""Causal language models: likelihoods against a slow float64 loop, batches, windows, generation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_language as tiny
from modelwright.errors import InputError, RunError
from modelwright.evaluate import CausalPredictor, Likelihood, Rolling, Sampling
from modelwright.evaluate._causal import _Writing

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

PAIRS = [("hello wor", "ld"), ("a", " b c d e"), ("", "foo"), ("ab ", "cd"), ("q", "x")]


def predictor(kind: str = "llama", *, words: Any = None, **options: Any) -> CausalPredictor:
    return CausalPredictor(
        kind, module=tiny.model(kind, len(words or tiny.tokenizer())), tokenizer=words or tiny.tokenizer(), **options
    )


def logprobs(module: Any, ids: Sequence[int]) -> np.ndarray:
    """float64 log-probabilities of each next token, one sequence at a time, without padding, mask or cache."""
    with torch.no_grad():
        logits = module(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].double().numpy()
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


def oracle(module: Any, read: Sequence[int], wanted: Sequence[int]) -> float:
    """The sum over wanted tokens, each predicted from everything before it."""
    total = 0.0
    for i, token in enumerate(wanted):
        total += logprobs(module, [*read, *wanted[:i]])[-1, token]
    return total


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_likelihoods_are_those_of_a_slow_loop(kind: str) -> None:
    system = predictor(kind)
    encode = lambda text: system.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    found = system.loglikelihoods(PAIRS)
    for (context, text), answer in zip(PAIRS, found, strict=True):
        kept = context.rstrip()
        read, wanted = encode(kept) or [1], encode(context[len(kept) :] + text)
        assert answer.total == pytest.approx(oracle(system.module, read, wanted), rel=1e-5)
        assert (answer.tokens, answer.context_tokens) == (len(wanted), len(encode(kept)))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_batch_answers_as_one_by_one(kind: str) -> None:
    system = predictor(kind)
    together = system.loglikelihoods(PAIRS)
    alone = [system.loglikelihoods([pair])[0] for pair in PAIRS]
    assert [t.total for t in together] == pytest.approx([a.total for a in alone], rel=1e-5)
    few = predictor(kind, batch_tokens=1).loglikelihoods(PAIRS)
    assert [t.total for t in few] == pytest.approx([a.total for a in alone], rel=1e-5)


def test_a_merge_across_the_boundary_belongs_to_the_continuation() -> None:
    """`o` + ` ` + `w`: the space moves, and ` w` is one token; without merges the boundary falls between bytes."""
    words = tiny.tokenizer(merges=[("Ġ", "w")])
    system = predictor(words=words)
    joined = words("o", add_special_tokens=False)["input_ids"], words(" w", add_special_tokens=False)["input_ids"]
    assert len(joined[1]) == 1
    (spaced,) = system.loglikelihoods([("o ", "w")])
    (plain,) = system.loglikelihoods([("o", " w")])
    assert spaced == plain
    assert spaced.total == pytest.approx(oracle(system.module, *joined), rel=1e-5)


def test_a_text_is_counted_once_where_a_merge_crosses_its_beginning() -> None:
    words = tiny.tokenizer(merges=[("a", "b")])
    system = predictor(words=words)
    (found,) = system.loglikelihoods([("xa", "bc")], Rolling())
    encode = lambda text: words(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    assert found.tokens == 2
    assert found.total == pytest.approx(oracle(system.module, encode("xa"), encode("b") + encode("c")), rel=1e-5)


def test_contexts_that_do_not_fit_lose_their_beginning_and_are_counted() -> None:
    system = predictor()
    long = "abcdefgh" * 8
    (found,) = system.loglikelihoods([(long, "yz")])
    ids = system.tokenizer(long, add_special_tokens=False)["input_ids"]
    wanted = system.tokenizer("yz", add_special_tokens=False)["input_ids"]
    assert found.total == pytest.approx(oracle(system.module, ids[-(tiny.WINDOW - 1) :], wanted), rel=1e-5)
    assert system.remarks() == ["'llama': 1 contexts were longer than the model reads and lost their beginning"]
    (fits,) = system.loglikelihoods([("a" * (tiny.WINDOW - 1), "yz")])
    assert fits.context_tokens == tiny.WINDOW - 1
    assert "1 contexts" in system.remarks()[0]


def test_a_start_token_stays_where_the_tokenizer_puts_one() -> None:
    words = tiny.tokenizer(start="<s>")
    system = predictor(words=words)
    ids = words("abcdefgh" * 8, add_special_tokens=False)["input_ids"]
    (found,) = system.loglikelihoods([("abcdefgh" * 8, "y")])
    assert found.total == pytest.approx(
        oracle(system.module, [0, *ids[-(tiny.WINDOW - 1) :]], words("y", add_special_tokens=False)["input_ids"]),
        rel=1e-5,
    )
    without = predictor(words=words, start=False)
    assert without.loglikelihoods([("ab", "c")])[0].total == pytest.approx(
        oracle(without.module, ids[:2], ids[2:3]), rel=1e-5
    )


def test_a_continuation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"'llama' reads at most 32 tokens, and a continuation has 33\. A perplexity"):
        predictor().loglikelihoods([("a", "b" * 33)])
    assert predictor().loglikelihoods([("a", "b" * 32)])[0].tokens == 32


@pytest.mark.parametrize(("length", "stride"), [(None, None), (8, None), (8, 8), (8, 3), (2, 1), (32, 32)])
@pytest.mark.parametrize("start", [None, "<s>"])
@pytest.mark.parametrize("before", ["", "wxyzwxyzw"])
def test_windows_score_each_token_once(length: int | None, stride: int | None, start: str | None, before: str) -> None:
    words = tiny.tokenizer(start=start)
    system = predictor(words=words)
    text = "the quick brown fox jumps over the lazy dog, twice"
    context, ids = (words(t, add_special_tokens=False)["input_ids"] for t in (before, text))
    (found,) = system.loglikelihoods([(before, text)], Rolling(length, stride))
    length = length or tiny.WINDOW
    stride = stride or length
    lead = [0] if start else ([] if before else [1])
    whole, first, total, done = [*context, *ids], len(context), 0.0, 0
    while done < len(ids):
        # The first window holds `length` tokens with the start; each later one scores `stride` more.
        room = length + 1 - len(lead) - len(context) if not done else 0
        size = min(max(stride, room), len(ids) - done)
        end = first + done + size
        mine = [0] if start else ([] if before or done else [1])
        seen = whole[max(0, end - 1 - (length - len(mine))) : first + done]
        total += oracle(system.module, [*mine, *seen], ids[done : done + size])
        done += size
    assert found.tokens == len(ids)
    assert found.total == pytest.approx(total, rel=1e-5)


def test_uniform_logits_give_the_vocabulary_exactly() -> None:
    words = tiny.tokenizer()
    system = CausalPredictor("uniform", module=tiny.uniform(len(words)), tokenizer=words)
    (found,) = system.loglikelihoods([("", "any text " * 20)], Rolling(16, 4))
    assert math.exp(-found.total / found.tokens) == pytest.approx(len(words), rel=1e-12)


def test_without_any_start_token_the_first_token_is_a_guess() -> None:
    words = tiny.tokenizer(end=None)
    system = predictor(words=words)
    ids = words("abc", add_special_tokens=False)["input_ids"]
    (found,) = system.loglikelihoods([("", "abc")])
    assert found.total == pytest.approx(-math.log(len(words)) + oracle(system.module, ids[:1], ids[1:]), rel=1e-5)
    assert found.greedy is False
    assert system.loglikelihoods([("", "a")])[0].total == pytest.approx(-math.log(len(words)))


def test_greedy_is_what_generation_would_write() -> None:
    system = predictor()
    prompts = [f"prompt {i}" for i in range(40)]
    written = [w.text for w in system.texts(prompts, Sampling(max_tokens=1))]
    usable = [(p, w) for p, w in zip(prompts, written, strict=True) if len(w) == 1 and w.isascii() and w.isprintable()]
    assert usable, "a token must be a character that can be asked about"
    for prompt, text in usable:
        other = "x" if text != "x" else "y"
        best, worse = system.loglikelihoods([(prompt, text), (prompt, other)])
        assert (best.greedy, worse.greedy) == (True, False)
        assert best.total > worse.total


def test_choices_of_one_token_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    system = predictor()
    rows: list[int] = []
    forward = system.module.forward
    monkeypatch.setattr(
        system.module, "forward", lambda **given: rows.append(len(given["input_ids"])) or forward(**given)
    )
    system.loglikelihoods([("ab", c) for c in "wxyz"])
    assert rows == [1]


def by_hand(system: CausalPredictor, prompt: str, count: int) -> str:
    ids = list(system.tokenizer(prompt)["input_ids"])
    written: list[int] = []
    while len(written) < count:
        token = int(logprobs(system.module, [*ids, *written])[-1].argmax())
        if token == 1:
            break
        written.append(token)
    return system.tokenizer.decode(written)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("start", [None, "<s>"])
def test_greedy_generation_is_that_of_a_slow_loop(kind: str, start: str | None) -> None:
    system = predictor(kind, words=tiny.tokenizer(start=start))
    prompts = ["hello there", "a", "the quick", "b"]
    found = system.texts(prompts, Sampling(max_tokens=8))
    assert [f.text for f in found] == [by_hand(system, prompt, 8) for prompt in prompts]
    assert [f.tokens_in for f in found] == [len(p) + bool(start) for p in prompts]
    assert len({f.text for f in found}) > 1


def test_a_sample_depends_on_seed_and_prompt_and_not_on_its_batch() -> None:
    system = predictor()
    prompts, sampling = ["hello there", "a", "the quick"], Sampling(max_tokens=8, temperature=1.0, seed=3)
    together = system.texts(prompts, sampling)
    assert list(together) == [system.texts([p], sampling)[0] for p in prompts]
    assert list(together) != list(system.texts(prompts, Sampling(max_tokens=8, temperature=1.0, seed=4)))


def test_samples_have_the_probabilities_of_the_softmax() -> None:
    """Shares of the likeliest token among draws, within four standard errors."""
    count, temperature = 4000, 0.5
    logits = torch.tensor([2.0, 1.0, 0.0, -3.0], dtype=torch.float64)
    shares = np.exp(logits.numpy() / temperature)
    shares /= shares.sum()
    prompts = [str(i) for i in range(count)]
    writing = _Writing(predictor(), [[5]] * count, prompts, Sampling(temperature=temperature))
    drawn = np.array([writing._next(logits, row) for row in range(count)])
    for token, share in enumerate(shares[:3]):
        assert abs((drawn == token).mean() - share) < 4 * math.sqrt(share * (1 - share) / count)


def test_stops_and_limits() -> None:
    system = predictor()
    (whole,) = system.texts(["hello"], Sampling(max_tokens=8))
    assert len(whole.text) >= 4
    assert whole.tokens_out == 8
    assert system.remarks() == ["'llama': 1 answers ended only because max_tokens was reached"]
    stop = whole.text[2]
    (cut,) = system.texts(["hello"], Sampling(max_tokens=8, stop=("never", stop)))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.tokens_out < 8
    with pytest.raises(InputError, match=r"max_tokens must be below 32, what 'llama' reads at once, got 32"):
        system.texts(["a"], Sampling(max_tokens=32))


def test_long_prompts_lose_their_beginning() -> None:
    system = predictor()
    (found,) = system.texts(["ab" * 40], Sampling(max_tokens=8))
    assert found.tokens_in == tiny.WINDOW - 8
    assert found.text == by_hand(system, ("ab" * 40)[-(tiny.WINDOW - 8) :], 8)
    assert "1 contexts were longer" in system.remarks()[0]


def test_logits_that_are_not_finite_are_named() -> None:
    system = predictor()
    with tiny.failing(system.module):
        with pytest.raises(RunError, match=r"'llama' gave logits that are not finite for the text 'ld'"):
            system.loglikelihoods([("wor", "ld")])
        with pytest.raises(RunError, match=r"'llama' gave logits that are not finite after the prompt 'wor'"):
            system.texts(["wor"], Sampling(max_tokens=2))


def test_folders(tmp_path: Path) -> None:
    words = tiny.tokenizer()
    module = tiny.model("gpt2", len(words))
    folder = tiny.save(tmp_path / "model", module, words)
    system = CausalPredictor.from_folder(folder)
    assert system.label == "model"
    mine = CausalPredictor("x", module=module, tokenizer=words)
    assert [a.total for a in system.loglikelihoods(PAIRS)] == [b.total for b in mine.loglikelihoods(PAIRS)]
    assert system.fingerprint == mine.fingerprint
    half = CausalPredictor.from_folder(folder, "half", dtype="bfloat16")
    assert half.size.nbytes is not None
    assert system.size.nbytes == 2 * half.size.nbytes
    assert half.fingerprint != system.fingerprint
    assert CausalPredictor.from_folder(folder, length=16).fingerprint != system.fingerprint


def test_what_is_refused(tmp_path: Path) -> None:
    words = tiny.tokenizer()
    module = tiny.model("gpt2", len(words))
    with pytest.raises(InputError, match=r"not a folder of a transformers model: it has no config\.json"):
        CausalPredictor.from_folder(tmp_path)
    with pytest.raises(InputError, match=r"dtype must be one of auto, float32, .* got 'int8'"):
        CausalPredictor.from_folder(tmp_path, dtype="int8")
    module.save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match=r"there is no tokenizer in the folder"):
        CausalPredictor.from_folder(tmp_path / "bare")
    broken = tiny.save(tmp_path / "broken", module, words)
    (broken / "model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"cannot load a causal language model and its tokenizer: .*Nothing is fetched"
    ):
        CausalPredictor.from_folder(broken)
    with pytest.raises(InputError, match=r"'x': its tokenizer has tokens up to number 257, and the model 100 of them"):
        CausalPredictor("x", module=tiny.model("gpt2", 100), tokenizer=words)
    with pytest.raises(InputError, match=r"'x' reads between 2 and 32 tokens, got 33"):
        CausalPredictor("x", module=module, tokenizer=words, length=33)
    with pytest.raises(InputError, match=r"'x' has no chat template"):
        CausalPredictor("x", module=module, tokenizer=words, chat=True)
    with pytest.raises(InputError, match=r"'x' must be a causal language model of transformers, got a Linear"):
        CausalPredictor("x", module=torch.nn.Linear(2, 2).eval(), tokenizer=words)
    with pytest.raises(InputError, match=r"'x' is in train mode"):
        CausalPredictor("x", module=module.train(), tokenizer=words)
    with pytest.raises(InputError, match=r"'llama' reads at most 32 tokens, got windows of 64"):
        predictor().loglikelihoods([("", "abc")], Rolling(64))
    with pytest.raises(InputError, match=r"stride must be in \[1, length\], got 9 for the length 8"):
        Rolling(8, 9)
    with pytest.raises(InputError, match=r"makes no token of ''"):
        predictor().loglikelihoods([("a", "")])


def test_chat_templates_are_used() -> None:
    words = tiny.tokenizer()
    words.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>"
    system = predictor(words=words, chat=True)
    (found,) = system.texts(["hi"], Sampling(max_tokens=4))
    assert found.tokens_in == len("[user]hi>")
    assert found.text == by_hand(system, "[user]hi>", 4)


def test_no_order_is_lost() -> None:
    system = predictor(batch_tokens=20)
    pairs = [("a" * (1 + i * 7 % 13), "b" * (1 + i % 3)) for i in range(12)]
    found = system.loglikelihoods(pairs)
    assert [(f.context_tokens, f.tokens) for f in found] == [(len(c), len(t)) for c, t in pairs]
    assert all(isinstance(f, Likelihood) for f in found)
