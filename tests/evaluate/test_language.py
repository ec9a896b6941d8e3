"""Language tasks against closed forms, with systems that answer by rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.errors import InputError, RunError
from modelwright.evaluate import (
    METRICS,
    NORMALISATIONS,
    Choice,
    Generated,
    Generation,
    Items,
    Likelihood,
    Passage,
    Perplexity,
    Plan,
    Predictor,
    Question,
    Records,
    Rolling,
    Sampling,
    Splits,
    bits_per_byte,
    metric,
    passages,
    run,
)

TEXT = "one two three\nfour five\n\nsix seven eight nine\n" * 40


@dataclass
class ByRule(Predictor):
    """Likelihoods and texts by functions; tokens are characters, or chunks of `size` of them."""

    total: Callable[[str, str], float] = field(default=lambda context, text: -float(len(text)), kw_only=True)
    write: Callable[[str], str] = field(default=lambda prompt: prompt, kw_only=True)
    size_of_token: int = field(default=1, kw_only=True)
    asked: list[Any] = field(default_factory=list, kw_only=True)

    def loglikelihoods(self, pairs: Any, rolling: Rolling | None = None) -> Sequence[Likelihood]:
        self.asked += pairs
        n = self.size_of_token
        return [Likelihood(self.total(c, t), -(-len(t) // n), -(-len(c) // n)) for c, t in pairs]

    def texts(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Generated]:
        self.asked += prompts
        return [Generated(self.write(p), len(p), 1) for p in prompts]


def perplexity(name: str = "perplexity", items: Items | None = None, **options: Any) -> Perplexity:
    items = items or passages({"doc": TEXT}, 100)
    return Perplexity(name="text", splits=Splits({"test": items}), metric=metric(name), **options)


def choice(rows: Sequence[tuple[str, tuple[str, ...], int]], name: str = "accuracy", **options: Any) -> Choice:
    items = Items.of([Question(c, choices) for c, choices, _ in rows], [answer for *_, answer in rows])
    return Choice(name="choose", splits=Splits({"test": items}), metric=metric(name), **options)


def generation(rows: Sequence[tuple[str, Any]], name: str = "exact_match", **options: Any) -> Generation:
    items = Items.of([prompt for prompt, _ in rows], [target for _, target in rows])
    return Generation(name="write", splits=Splits({"test": items}), metric=metric(name), **options)


# --- passages --------------------------------------------------------------------------------------------------------


@given(
    st.text(alphabet=st.sampled_from("ab \n\té漢😀"), max_size=300),
    st.integers(1, 60),
    st.integers(0, 20),
)
def test_passages_cover_a_document_once(text: str, piece: int, before: int) -> None:
    if not text:
        with pytest.raises(InputError, match="the data are empty"):
            passages({"d": text}, piece, before)
        return
    items = passages({"d": text}, piece, before)
    assert "".join(p.text for p in items.inputs) == text
    assert sum(items.targets) == len(text.encode())
    place = 0
    for name, passage in zip(items.ids, items.inputs, strict=True):
        assert name == f"d:{place}"
        assert 0 < len(passage.text) <= piece
        assert passage.before == text[max(0, place - before) : place]
        place += len(passage.text)


def test_passages_end_after_lines_or_before_white_space() -> None:
    first, second, third = (p.text for p in passages({"d": "aaa bbb\nccc ddd eee fff"}, 10).inputs)
    assert (first, second, third) == ("aaa bbb\n", "ccc ddd", " eee fff")
    whole = passages({"a": "x y z", "b": "w"}, None)
    assert whole.ids == ("a:0", "b:0")
    with pytest.raises(InputError, match="piece must be at least 1 character, got 0"):
        passages({"a": "x"}, 0)
    with pytest.raises(InputError, match="before must be at least 0 characters, got -1"):
        passages({"a": "x"}, 1, -1)


# --- perplexity ------------------------------------------------------------------------------------------------------


def test_perplexity_is_the_exponential_of_nats_per_token() -> None:
    part = run([ByRule("m", total=lambda c, t: -2.5 * len(t))], [perplexity()]).part("text", "m")
    assert part.figure == pytest.approx(math.exp(2.5), rel=1e-14)
    assert part.column("weight").sum() == len(TEXT)
    assert set(part.column("score")) == {2.5}


def test_items_of_different_lengths_weigh_by_their_tokens() -> None:
    items = Items.of([Passage("", "aa"), Passage("", "bbbbbb")], [2, 6])
    totals = {"aa": -1.0, "bbbbbb": -9.0}
    part = run([ByRule("m", total=lambda c, t: totals[t])], [perplexity(items=items)]).part("text", "m")
    assert part.figure == pytest.approx(math.exp(10 / 8), rel=1e-14)
    assert part.column("score").tolist() == [0.5, 1.5]


def test_bits_per_byte_do_not_depend_on_the_tokenizer() -> None:
    systems = [ByRule(f"m{n}", total=lambda c, t: -math.log(2) * len(t), size_of_token=n) for n in (1, 4)]
    by_bytes = run(systems, [perplexity("bits_per_byte")])
    by_tokens = run(systems, [perplexity()])
    for system in ("m1", "m4"):
        part = by_bytes.part("text", system)
        assert part.figure == pytest.approx(1.0, rel=1e-14)
        assert part.column("weight").sum() == len(TEXT)
        assert bits_per_byte(by_tokens.part("text", system)) == pytest.approx(1.0, rel=1e-14)
    assert by_tokens.part("text", "m1").figure == pytest.approx(2.0)
    assert by_tokens.part("text", "m4").figure > 10


def test_bytes_are_those_of_utf8() -> None:
    items = passages({"d": "é漢"}, None)
    part = run([ByRule("m", total=lambda c, t: -5 * math.log(2))], [perplexity("bits_per_byte", items)]).part(
        "text", "m"
    )
    assert (part.figure, part.column("target").tolist()) == (pytest.approx(1.0), ["5"])


def test_the_windows_are_part_of_what_a_result_depends_on() -> None:
    prints = {perplexity(rolling=r).fingerprint("test") for r in (Rolling(), Rolling(8), Rolling(8, 4))}
    assert len(prints) == 3


def test_perplexity_refuses() -> None:
    with pytest.raises(
        InputError, match=r"'accuracy' judges probabilities, and a Perplexity gives loglikelihoods\. Fitting: perpl"
    ):
        perplexity("accuracy")
    with pytest.raises(InputError, match=r"that of item '1' is empty"):
        run([ByRule("m")], [perplexity(items=Items.of([Passage("", "a"), Passage("a", "")], [1, 0]))])
    with pytest.raises(RunError, match=r"'m' gave a log-likelihood that is not finite for item 'doc:\d+'"):
        run([ByRule("m", total=lambda c, t: math.nan)], [perplexity()])
    with pytest.raises(InputError, match="records of perplexity, and these are of 'accuracy'"):
        bits_per_byte(run([ByRule("m")], [choice([("a", ("b", "c"), 0)])]).part("choose", "m"))


# --- choice ----------------------------------------------------------------------------------------------------------

LIKELY = {" yes": -3.0, " certainly": -4.0, " é": -4.5}
ROWS = [("q", ("yes", "certainly", "é"), 1), ("r", ("yes", "certainly"), 0)]


@pytest.mark.parametrize(
    ("normalisation", "compared"),
    [
        ("none", [-3.0, -4.0, -4.5]),
        ("token", [-3.0 / 4, -4.0 / 10, -4.5 / 2]),
        ("byte", [-3.0 / 3, -4.0 / 9, -4.5 / 2]),
        ("character", [-3.0 / 3, -4.0 / 9, -4.5 / 1]),
        ("unconditional", [-3.0 + 1.0, -4.0 + 5.0, -4.5 + 2.0]),
    ],
)
def test_normalisations(normalisation: Any, compared: list[float]) -> None:
    alone = {" yes": -1.0, " certainly": -5.0, " é": -2.0}
    system = ByRule("m", total=lambda c, t: alone[t] if c == "" else LIKELY[t])
    part = run([system], [choice(ROWS[:1], normalisation=normalisation)]).part("choose", "m")
    shares = np.exp(compared) / np.exp(compared).sum()
    assert part.table["answer"].to_pylist() == [str(int(np.argmax(compared)))]
    assert part.table["probabilities"].to_pylist()[0] == pytest.approx(shares, rel=1e-6)  # kept in float32
    assert part.column("confidence")[0] == pytest.approx(shares.max())
    assert part.column("calls")[0] == (6 if normalisation == "unconditional" else 3)


def test_every_normalisation_is_tested() -> None:
    (marks,) = [m for m in test_normalisations.pytestmark if m.name == "parametrize"]  # type: ignore[attr-defined]
    assert {case[0] for case in marks.args[1]} == set(NORMALISATIONS)


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "brier"])
def test_choices_may_differ_in_number(name: str) -> None:
    system = ByRule("m", total=lambda c, t: LIKELY[t])
    part = run([system], [choice(ROWS, name)]).part("choose", "m")
    assert part.probabilities is None, "ragged"
    assert [len(p) for p in part.table["probabilities"].to_pylist()] == [3, 2]
    shares = [np.exp([-3, -4, -4.5]), np.exp([-3, -4])]
    shares = [s / s.sum() for s in shares]
    wanted = {
        "accuracy": [0.0, 1.0],
        "log_loss": [-math.log(shares[0][1]), -math.log(shares[1][0])],
        "brier": [((s - np.eye(len(s))[t]) ** 2).sum() for s, t in zip(shares, [1, 0], strict=True)],
    }[name]
    assert part.column("score") == pytest.approx(wanted)
    assert part.figure == pytest.approx(np.mean(wanted))


def test_choices_of_one_number_have_classes_and_probabilities() -> None:
    rows = [("q", ("yes", "certainly"), 1), ("r", ("certainly", "yes"), 1)]
    part = run([ByRule("m", total=lambda c, t: LIKELY[t])], [choice(rows, choices=2)]).part("choose", "m")
    assert part.head.classes == ("0", "1")
    assert part.probabilities is not None
    assert part.probabilities.shape == (2, 2)
    assert part.table["answer"].to_pylist() == ["0", "1"]
    assert part.column("score").tolist() == [0.0, 1.0]


def test_ties_go_to_the_first_and_the_delimiter_is_asked_for() -> None:
    system = ByRule("m", total=lambda c, t: -1.0)
    part = run([system], [choice([("q", ("b", "a", "c"), 0)], delimiter="\n")]).part("choose", "m")
    assert part.table["answer"].to_pylist() == ["0"]
    assert system.asked == [("q", "\nb"), ("q", "\na"), ("q", "\nc")]


@pytest.mark.parametrize(
    ("row", "options", "text"),
    [
        (("q", ("a",), 0), {}, r"several choices are needed, got 1\. \[test, item '0'\]"),
        (("q", ("a", "b", "c"), 0), {"choices": 2}, "2 choices are needed, got 3"),
        (("q", ("a", "a"), 0), {}, r"the right choice must be there once, got 'a' more than once\. Leave the item out"),
        (("q", ("a", ""), 0), {}, r"choices must not be empty, got \['a', ''\]"),
        (("q", ("a", "b"), 2), {}, r"the answer must be in \[0, 1\] for 2 choices, got 2\. Positions count from 0"),
        (("q", ("a", "b"), -1), {}, r"the answer must be in \[0, 1\]"),
        (("q", ("a", "b"), True), {}, "the answer must be the position of a choice, got True"),
        (("q", ("a", "b"), "b"), {}, "the answer must be the position of a choice, got 'b'"),
    ],
)
def test_choices_that_are_refused(row: Any, options: Any, text: str) -> None:
    system = ByRule("m")
    with pytest.raises(InputError, match=text):
        run([system], [choice([row], **options)])
    assert not system.asked


def test_choice_refuses_settings() -> None:
    with pytest.raises(InputError, match=r"the normalisation cannot be 'bytes'\. Did you mean 'byte'\?"):
        choice(ROWS, normalisation="bytes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the metric of a choice task cannot be 'mcc'"):
        choice(ROWS, "mcc")
    assert choice(ROWS).fingerprint("test") != choice(ROWS, normalisation="byte").fingerprint("test")
    with pytest.raises(RunError, match="'m' gave a log-likelihood that is not finite for item '1'"):
        run([ByRule("m", total=lambda c, t: math.inf if c == "r" else -1.0)], [choice(ROWS)])


# --- generation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "target", "score"),
    [
        ("exact_match", " Paris \n", "Paris", 1), ("exact_match", "paris", "Paris", 0),
        ("exact_match", "b", ("a", "b"), 1), ("contains", "It is Paris.", "Paris", 1), ("contains", "no", "Paris", 0),
        ("number_match", "so 1,234.0 in all", "1234", 1), ("number_match", "12 or 13", "12", 0),
        ("number_match", "none", "12", 0), ("number_match", "-3", "3", 0), ("number_match", "$5.", "5", 1),
        ("number_match", "1e3", "1000", 1), ("number_match", ".5", "0.5", 1), ("number_match", "7", ("6", "7"), 1),
        ("normalised_match", "The  Eiffel-Tower!", "eiffeltower", 1), ("normalised_match", "an apple", "apple", 1),
        ("normalised_match", "pear", "apple", 0),
        ("token_f1", "the cat sat", "a cat sat down", 0.8), ("token_f1", "dog", "cat", 0), ("token_f1", "", "cat", 0),
    ],
)  # fmt: skip
def test_matches(name: str, text: str, target: Any, score: float) -> None:
    part = run([ByRule("m", write=lambda prompt: text)], [generation([("q", target)], name)]).part("write", "m")
    assert part.column("score").tolist() == pytest.approx([score])


@settings(deadline=None)  # the first call imports torch
@given(st.lists(st.tuples(*[st.text(alphabet=st.sampled_from("ab, .the"), max_size=12)] * 2), min_size=1, max_size=4))
def test_squad_scores_are_those_of_torchmetrics(pairs: list[tuple[str, str]]) -> None:
    pytest.importorskip("torch")
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    for answer, target in pairs:
        theirs = squad(
            {"prediction_text": answer, "id": "0"},
            {"answers": {"answer_start": [0], "text": [target]}, "id": "0"},
        )
        ours = {name: METRICS[name].of_texts([answer], [(target,)])[0] for name in ("normalised_match", "token_f1")}
        assert ours["normalised_match"] == float(theirs["exact_match"]) / 100
        assert ours["token_f1"] == pytest.approx(float(theirs["f1"]) / 100, abs=1e-6)


def test_answers_are_extracted() -> None:
    text = "First #### 11, then #### 12 apples"
    task = generation([("q", "12")], extract=r"#### (\d+)", which="last")
    part = run([ByRule("m", write=lambda prompt: text)], [task]).part("write", "m")
    assert part.table["answer"].to_pylist() == ["12"]
    assert part.column("score").tolist() == [1.0]
    assert replace(task, which="first").answer(text) == "11"
    assert replace(task, extract=r"\d+", which="first").answer(text) == "11"
    assert task.answer("nothing") == ""
    assert part.column("tokens_in").tolist() == [1]
    assert part.column("tokens_out").tolist() == [1]


def test_tolerance() -> None:
    system = ByRule("m", write=lambda prompt: "about 101")
    wide, narrow = (generation([("q", "100")], "number_match", tolerance=t) for t in (0.011, 0.009))
    assert run([system], [wide]).part("write", "m").figure == 1
    assert run([system], [narrow]).part("write", "m").figure == 0


def length_apart(answer: str, targets: tuple[str, ...]) -> float:
    """A score of somebody's own."""
    return -abs(len(answer) - len(targets[0]))


def test_functions_judge_too() -> None:
    name = f"{__name__}:length_apart"
    task = generation([("abc", "a"), ("ab", "ab")], "custom", function=name)
    part = run([ByRule("m")], [task]).part("write", "m")
    assert part.column("score").tolist() == [-2.0, 0.0]
    with pytest.raises(RunError, match=r"not_a_number' gave a score that is no number for item '0'"):
        run([ByRule("m")], [replace(task, function=f"{__name__}:not_a_number")])


def not_a_number(answer: str, targets: tuple[str, ...]) -> float:
    """No score at all."""
    return math.nan


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("accuracy", {}, "the metric 'accuracy' judges probabilities, and a Generation gives texts"),
        ("exact_match", {"extract": "("}, r"extract must be a regular expression, got '\('"),
        ("exact_match", {"which": "middle"}, "which cannot be 'middle'"),
        ("number_match", {"tolerance": -1.0}, "tolerance must be at least 0"),
        ("custom", {}, "the metric 'custom' and a function go together"),
        ("exact_match", {"function": "math:sqrt"}, "the metric 'custom' and a function go together"),
        ("custom", {"function": "math"}, "a function is named as module:function or file.py:function, got 'math'"),
        ("custom", {"function": "math:pi"}, "'math:pi' is a float, not a function"),
        ("custom", {"function": "no_such_module:f"}, "there is no module 'no_such_module'"),
    ],
)
def test_generation_refuses_settings(name: str, options: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        generation([("q", "a")], name, **options)


@pytest.mark.parametrize(
    ("row", "name", "text"),
    [
        (("", "a"), "exact_match", "a prompt must be a text that is not empty"),
        (("q", 3), "exact_match", "a target must be a text, or several, got 3"),
        (("q", ()), "exact_match", r"a target must be a text, or several, got \(\)"),
        (("q", " "), "contains", "a target must not be empty"),
    ],
)
def test_generation_refuses_items(row: Any, name: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        run([ByRule("m")], [generation([row], name)])


def test_sampling_refuses() -> None:
    for options, text in (
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"stop": ("",)}, "a stop must be a text, got an empty one"),
    ):
        with pytest.raises(InputError, match=text):
            Sampling(**options)


# --- records ---------------------------------------------------------------------------------------------------------


def test_records_are_written_and_a_second_run_asks_nothing(tmp_path: Any) -> None:
    tasks = [perplexity(), choice(ROWS), generation([("q", "a")])]
    system = ByRule("m", total=lambda c, t: LIKELY.get(t, -1.0))
    run([system], tasks, tmp_path, Plan(batch=1))
    found = Records.read(tmp_path)
    assert found.tasks == ["choose", "text", "write"]
    assert [len(p) for p in found.part("choose", "m").table["probabilities"].to_pylist()] == [3, 2]
    system.asked.clear()
    run([system], tasks, tmp_path)
    assert not system.asked
