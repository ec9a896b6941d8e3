"""Best of n: with judges against closed forms, with functions and with a reward model."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from modelwright.chat import BEST_OF_N, Agent, AgentScorer, FunctionScorer, ModelScorer, Panel, panel as panel_of
from modelwright.errors import InputError, RunError
from modelwright.evaluate import Sampling

from .helpers import ANSWER, accuracy, agent, close, majority, questions, script, solve
from .test_programs import Recorder

N = 800
YES_NO = ("yes", "no")


def best(backend: Any, scorer: Any, judge: Any = None, **more: Any) -> Panel:
    agents = {"one": agent("one", backend)}
    if judge is not None:
        agents["judge"] = Agent("judge", judge, sampling=Sampling(max_tokens=64, temperature=0.0))
    return Panel("best", agents, BEST_OF_N, BEST_OF_N.params(scorer=scorer, **more), ANSWER)


def expected(n: int, p: float, j: float) -> float:
    """The first of the best rated is right, where a judge takes each reply for what it is with probability j.

    Equal replies get the same judgement, since a judge at temperature 0 is asked the same.
    """
    total = 0.0
    for replies in itertools.product((1, 0), repeat=n):
        chance = math.prod(p if right else 1 - p for right in replies)
        for sees_right, sees_wrong in itertools.product((1, 0), repeat=2):
            weight = (j if sees_right else 1 - j) * (j if sees_wrong else 1 - j)
            rated = [sees_right if right else 1 - sees_wrong for right in replies]
            total += chance * weight * replies[rated.index(max(rated))]
    return total


@pytest.mark.parametrize(("n", "p", "j"), [(3, 0.5, 1.0), (4, 0.6, 0.8)])
def test_a_judge_against_the_closed_form(n: int, p: float, j: float) -> None:
    known = questions(N, YES_NO)
    backend = script(known, accuracy=p, options=YES_NO)
    work = best(backend, AgentScorer(agent="judge"), script(known, "judge", judgement=j), samples=n)
    found = solve(work, list(known))
    if j == 1:
        assert expected(n, p, j) == pytest.approx(1 - (1 - p) ** n)
    assert close(accuracy(found, known), expected(n, p, j), N)
    assert {o.calls for o in found} == {2 * n}
    assert work.calls == (n, 2 * n)


def test_a_function_scores() -> None:
    def longest(question: str, reply: str) -> int:
        assert question == "Q?"
        return len(reply)

    known = {"Q?": "4"}
    backends = {
        "a": agent("a", script(known, "a", accuracy=0.0, options=("4", "5"))),
        "b": agent("b", script(known, "b", says="As anybody can see: The answer is {answer}.")),
    }
    params = BEST_OF_N.params(scorer=FunctionScorer(function=longest), samples=1)
    [found] = solve(Panel("best", backends, BEST_OF_N, params, ANSWER), ["Q?"])
    assert (found.value, found.calls) == ("4", 2)
    assert found.facts["scores"] == [16, 36]


def test_a_vote_adds_up_scores() -> None:
    known = questions(N, YES_NO)
    backend = script(known, accuracy=0.7, options=YES_NO)
    found = solve(best(backend, FunctionScorer(function=lambda _q, _r: 1.0), samples=5, choose="vote"), list(known))
    assert close(accuracy(found, known), majority(5, 0.7), N)  # equal scores: a plain vote
    with pytest.raises(RunError, match="scores must be at least 0 to vote, got -1"):
        solve(best(backend, FunctionScorer(function=lambda _q, _r: -1), samples=2, choose="vote"), ["Question 0?"])


def test_scores_that_are_none() -> None:
    backend = script({"Q?": "4"})
    for value in (float("nan"), "good", None):
        with pytest.raises(RunError, match="gave a score that is no finite number"):
            solve(best(backend, FunctionScorer(function=lambda _q, _r, v=value: v), samples=1), ["Q?"])
    with pytest.raises(InputError, match="fails: ZeroDivisionError"):
        solve(best(backend, FunctionScorer(function=lambda _q, _r: 1 / 0), samples=1), ["Q?"])

    class Mute(Recorder):
        async def ask(self, request: Any) -> Any:
            from modelwright.chat import Reply

            return Reply("I would rather not")

    work = best(backend, AgentScorer(agent="judge"), Mute(backend), samples=2)
    [found] = solve(work, ["Q?"])
    assert found.value == "4"
    assert found.facts["scores"] == [None, None]
    assert found.notes == ("'judge' was to rate a reply and gave no number",) * 2
    with pytest.raises(InputError, match="scorer: there is no agent 'judge'"):
        best(backend, AgentScorer(agent="judge"))


def test_replies_without_an_answer_are_not_scored() -> None:
    seen: list[str] = []
    mute = agent("mute", script({"Q?": "4"}, "mute", says="I say {answer}."))
    agents = {"mute": mute, "b": agent("b", script({"Q?": "4"}, "b"))}
    scorer = FunctionScorer(function=lambda _q, reply: seen.append(reply) or 1.0)
    [found] = solve(Panel("best", agents, BEST_OF_N, BEST_OF_N.params(scorer=scorer, samples=1), ANSWER), ["Q?"])
    assert seen == ["The answer is 4."]
    assert found.facts["scores"] == [None, 1.0]


def test_a_panel_file_names_its_scorer(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Q?", "answer": "4"}\n')
    (tmp_path / "mine.py").write_text("def score(question, reply):\n    return float(len(reply))\n")
    (tmp_path / "best.yml").write_text(
        "kind: panel\ncache: null\nbackends: {s: {kind: scripted, questions: q.jsonl}}\n"
        "program: {name: best_of_n, samples: 3, scorer: {kind: function, function: 'mine.py:score'}}\n"
    )
    work = panel_of(tmp_path / "best.yml")
    [found] = solve(work, ["Q?"])
    assert found.facts["scores"] == [16.0] * 3
    before = work.fingerprint
    (tmp_path / "mine.py").write_text("def score(question, reply):\n    return -float(len(reply))\n")
    assert panel_of(tmp_path / "best.yml").fingerprint != before
    (tmp_path / "best.yml").write_text((tmp_path / "best.yml").read_text().replace("mine.py:score", "mine.py:scores"))
    with pytest.raises(InputError, match=r"has no function 'scores'. Did you mean 'score'"):
        panel_of(tmp_path / "best.yml")


def test_a_reward_model_scores(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[SEP]", "q", "the", "answer", "is", "4", "5", ".", "?"]
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.normalizer = tokenizers.normalizers.Lowercase()
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", 2)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", sep_token="[SEP]")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    agents = {
        "a": agent("a", script({"Q?": "4"}, "a")),
        "b": agent("b", script({"Q?": "4"}, "b", accuracy=0.0, options=("4", "5"), says="The answer is {answer}. .")),
    }
    scorer = ModelScorer(folder=str(tmp_path)).at(Path())
    [found] = solve(Panel("best", agents, BEST_OF_N, BEST_OF_N.params(scorer=scorer, samples=1), ANSWER), ["Q?"])
    with torch.inference_mode():
        expected_ = [
            model(**tokenizer("Q?", step.reply.text, return_tensors="pt")).logits.item() for step in found.steps
        ]
    assert found.facts["scores"] == pytest.approx(expected_, abs=1e-5)
    assert found.text == found.steps[expected_.index(max(expected_))].reply.text
    with pytest.raises(InputError, match="has one output, so there is no label 1"):
        solve(best(script({"Q?": "4"}), ModelScorer(folder=str(tmp_path), label=1), samples=1), ["Q?"])
    with pytest.raises(InputError, match="there is no folder"):
        ModelScorer(folder="nowhere").at(tmp_path)
