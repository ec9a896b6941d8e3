"""Comparisons: what the rows say, and that the sentence says what the figures say."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from comparing_records import CLASSES, part, records
from modelwright.errors import InputError
from modelwright.evaluate import (
    Comparison,
    Part,
    Price,
    Records,
    compare,
    with_ensemble,
)  # fmt: skip
from modelwright.evaluate._predictor import softmax
from modelwright.evaluate._statistics import sample

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(records())


# --- rows ----------------------------------------------------------------------------------------------------------


def test_figures_and_intervals_are_those_of_the_records(found: Comparison) -> None:
    data = records()
    for row in found.rows:
        own = data.part(row.task, row.system)
        ids = sorted(own.ids)
        (figure,) = sample(own.metric, [own.ordered(ids).whole], ids, seed=0, count=2000)
        assert row.figure == figure.interval()
        assert row.figure.value == own.figure
        assert row.figure.low < row.figure.value < row.figure.high


def test_differences_are_to_the_reference(found: Comparison) -> None:
    for row in found.rows:
        if row.system == found.reference:
            assert row.difference is None
            assert math.isnan(row.p)
            continue
        assert row.difference is not None
        assert row.difference.value == pytest.approx(
            row.figure.value - found.row(row.task, found.reference).figure.value
        )
        assert row.p <= row.p_adjusted <= 1


def test_normalised_by_the_tasks_expert(found: Comparison) -> None:
    assert found.experts == {"digits": "expert-digits", "letters": "expert-letters"}
    for row in found.rows:
        expert = found.row(row.task, found.experts[row.task]).figure.value
        assert row.normalised is not None
        assert row.normalised.value == pytest.approx(row.figure.value / expert)
    mean = found.mean("ties")
    assert mean.figure is not None
    assert mean.normalised is not None
    own = [row for row in found.rows if row.system == "ties"]
    assert mean.figure.value == pytest.approx(np.mean([row.figure.value for row in own]))
    assert mean.normalised.value == pytest.approx(np.mean([row.normalised.value for row in own if row.normalised]))


def test_where_less_is_better_normalised_is_turned_round() -> None:
    found = compare(records(("digits",), metric="log_loss"))
    row, expert = found.row("digits", "base"), found.row("digits", "expert-digits")
    assert row.figure.value > expert.figure.value
    assert row.normalised is not None
    assert row.normalised.value == pytest.approx(expert.figure.value / row.figure.value)
    assert row.flips is None, "without right and wrong there are no flips"


def test_flips_are_what_the_reference_had_right(found: Comparison) -> None:
    data = records()
    old, new = (data.part("digits", name) for name in (found.reference, "ties"))
    scores = dict(zip(old.ids, old.column("score"), strict=True))
    lost = {i for i, s in zip(new.ids, new.column("score"), strict=True) if s == 0 and scores[i] == 1}
    flips = found.row("digits", "ties").flips
    assert flips is not None
    assert set(flips.names) == lost
    assert flips.right == sum(scores.values())


def test_neither_the_order_of_rows_nor_that_of_systems_matters(found: Comparison) -> None:
    shuffled = list(reversed(list(records())))
    parts = [p.ordered(list(np.random.default_rng(i).permutation(p.ids))) for i, p in enumerate(shuffled)]
    again = compare(Records(parts))
    assert {(r.task, r.system): (r.figure, r.difference, r.p) for r in again.rows if r.difference} == {
        (r.task, r.system): (r.figure, r.difference, r.p) for r in found.rows if r.difference
    }
    assert again.answer == found.answer
    assert {mean.system: mean.p for mean in again.means if mean.p == mean.p} == {
        mean.system: mean.p for mean in found.means if mean.p == mean.p
    }


def test_another_seed_moves_the_ends_a_little(found: Comparison) -> None:
    other = compare(records(), seed=1)
    assert other.row("digits", "ties").figure.value == found.row("digits", "ties").figure.value
    a, b = (c.row("digits", "linear").difference for c in (found, other))
    assert a is not None
    assert b is not None
    assert a != b
    assert abs(a.low - b.low) < 0.02


def test_costs_add_up_and_weights_do_not(found: Comparison) -> None:
    cost = found.mean("ties").cost
    assert (cost.items, cost.calls, cost.tokens_in, cost.tokens_out) == (400, 400, 4000, 800)
    assert cost.seconds == pytest.approx(0.4)
    assert (cost.parameters, cost.nbytes, cost.money) == (500, 1000, None)


def test_money_by_the_table_of_prices() -> None:
    data = with_ensemble(records(), ["ties", "linear"])
    prices = {"ties": Price(tokens_in=3, tokens_out=10, call=0.01), "linear": Price(hour=36)}
    found = compare(data, prices=prices)
    ties = 400 * (10 * 3 / 1e6 + 2 * 10 / 1e6 + 0.01)
    assert found.mean("ties").cost.money == pytest.approx(ties)
    assert found.mean("linear").cost.money == pytest.approx(0.4 / 3600 * 36)
    assert found.mean("ensemble").cost.money == pytest.approx(ties + 0.004), "what its members cost"
    assert found.mean("base").cost.money is None
    with pytest.raises(InputError, match=r"there is a price for 'tie'.*Did you mean 'ties'"):
        compare(data, prices={"tie": Price()})
    with pytest.raises(InputError, match="a price must be a number of at least 0, got call = -1"):
        Price(call=-1)


def test_the_front_is_quality_against_memory(found: Comparison) -> None:
    small = [part(t, "small", 0.4, kind="single", nbytes=10) for t in found.tasks]
    front = {mean.system for mean in compare(Records([*records(), *small])).means if "memory" in mean.front}
    best = max(found.means, key=lambda mean: mean.figure.value if mean.figure else 0).system
    assert front == {"small", best}


def test_systems_with_gaps_are_in_rows_and_not_in_means() -> None:
    found = compare(Records([*records(), part("digits", "extra", 0.99)]))
    assert found.row("digits", "extra").figure.value > 0.9
    assert found.mean("extra").figure is None
    assert "Not in the means, because they did not answer every task: extra." in found.notes
    assert found.reference != "extra", "the reference answered every task"
    (note,) = [note for note in found.notes if "too high" in note]
    counted = sum(found.kinds[system] == "single" for system in found.systems if system != "extra")
    assert f"the best of {counted} singles" in note


# --- the sentence ----------------------------------------------------------------------------------------------------


def three(single: float, merge: float, ensemble: float, n: int = 400, metric: str = "accuracy", **more: Any) -> Records:
    skills = {"single": single, "merge": merge, "ensemble": ensemble}
    return Records([part("digits", f"the-{k}", s, kind=k, n=n, metric=metric, **more) for k, s in skills.items()])


@pytest.mark.parametrize(
    ("skills", "verdict", "start"),
    [
        ((0.9, 0.6, 0.7), "single", "The best single model: 'the-single' gets "),
        ((0.6, 0.9, 0.7), "merge", "The merge: 'the-merge' gets "),
        ((0.6, 0.7, 0.9), "ensemble", "The ensemble: 'the-ensemble' gets "),
        ((0.8, 0.8, 0.8), "too close to call", "Too close to call on these 400 items: the "),
        ((0.8, 0.8, 0.3), "too close to call", "Too close to call on these 400 items: the "),
    ],
)
@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_answer_follows_the_figures(skills: Any, verdict: str, start: str, metric: str) -> None:
    found = compare(three(*skills, metric=metric))
    assert found.answer.verdict == verdict
    assert found.answer.sentence.startswith(start)
    assert found.answer.sentence.count(". ") == 0, "one sentence"
    best = (max if metric == "accuracy" else min)(found.rows, key=lambda row: row.figure.value)
    assert found.answer.system == best.system
    if skills[2] == 0.3:
        assert "the ensemble 'the-ensemble' is behind the" in found.answer.sentence


def test_few_items_are_too_few_to_tell() -> None:
    """The same skills, of which 400 items tell."""
    found = compare(three(0.6, 0.75, 0.7, n=12))
    assert found.answer.verdict == "too close to call"
    assert "'digits' has 12 items: intervals from so few are too narrow." in found.notes


def test_one_item_tells_nothing() -> None:
    found = compare(three(0.99, 0.99, 0.01, n=1))
    assert found.answer.verdict == "too close to call"
    assert found.answer.sentence.startswith("Too close to call on this one item: ")
    assert "(no interval, p = 1)" in found.answer.sentence
    assert "nan" not in found.answer.sentence
    assert "'digits' has one item, which gives no interval." in found.notes
    assert json.dumps(found.as_json(), allow_nan=False)


def test_the_answer_names_what_it_costs() -> None:
    parts = [
        part("digits", "m", 0.6, kind="merge", nbytes=1000),
        part("digits", "e", 0.9, kind="ensemble", nbytes=4000),
    ]
    assert ", at 4.0 times the memory of the merge 'm'." in compare(Records(parts)).answer.sentence
    same = [
        Part(replace(parts[0].head, system=name, nbytes=size, made={"kind": kind}), parts[0].table)
        for name, kind, size in (("m", "merge", 1000), ("e", "ensemble", 4000))
    ]
    assert "; the merge 'm' takes 0.25 times the memory of the ensemble 'e'" in compare(Records(same)).answer.sentence


def test_what_was_not_compared_is_not_answered() -> None:
    merges = Records([part("digits", name, skill, kind="merge") for name, skill in (("a", 0.6), ("b", 0.9))])
    assert re.fullmatch(
        r"Only merges were compared; 'b' with [\d.]+ % \([\d.]+ to [\d.]+\) is the best of 2\.",
        compare(merges).answer.sentence,
    )
    nobody = Records([part("digits", name, 0.6, kind="") for name in "ab"])
    found = compare(nobody)
    assert found.answer.verdict == "not asked"
    assert found.answer.sentence.startswith("No system is known to be a single model, a merge or an ensemble;")
    assert compare(nobody, kinds={"a": "single", "b": "merge"}).answer.verdict == "too close to call"


def test_tasks_with_different_metrics_need_experts() -> None:
    parts = [part("digits", s, k) for s, k in (("a", 0.9), ("b", 0.5))]
    parts += [part("letters", s, k, metric="log_loss") for s, k in (("a", 0.9), ("b", 0.5))]
    kinds = {"a": "merge", "b": "single"}
    assert compare(Records(parts), kinds=kinds).answer.sentence.startswith("There is no one figure over these tasks")
    found = compare(Records(parts), kinds=kinds, experts={"digits": "b", "letters": "b"})
    assert found.answer.verdict == "merge"
    assert "of the experts' figures" in found.answer.sentence
    assert found.mean("a").figure is None
    mean = found.mean("a")
    assert mean.difference is not None
    assert mean.normalised is not None
    assert mean.difference.value == pytest.approx(mean.normalised.value - 1)
    assert mean.p < 0.01
    assert mean.difference.low > 0


def test_the_default_reference_is_the_best_single(found: Comparison) -> None:
    singles = [mean for mean in found.means if mean.kind == "single"]
    assert found.reference == max(singles, key=lambda mean: mean.figure.value if mean.figure else 0).system
    assert any("is the best of 2 singles on these same items" in note for note in found.notes)
    assert not any("best of 2 singles" in note for note in compare(records(), reference="base").notes)


def test_kinds_that_records_do_not_say() -> None:
    parts = [
        part("digits", "a", 0.5, kind="", made={"method": "ties"}),
        part("digits", "b", 0.5, kind="", made={"expert_of": "x"}),
    ]
    assert compare(Records(parts)).kinds == {"a": "merge", "b": "single"}


# --- the ensemble ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["probabilities", "logits"])
def test_the_ensemble_of_records(space: Any) -> None:
    data = records()
    found = with_ensemble(data, ["ties", "linear", "base"], label="all", space=space)
    members = [data.part("digits", name) for name in ("ties", "linear", "base")]
    ids = found.part("digits", "all").ids
    each = np.array([member.ordered(ids).probabilities for member in members])
    expected = each.mean(axis=0) if space == "probabilities" else softmax(np.log(each).mean(axis=0))
    own = found.part("digits", "all")
    np.testing.assert_allclose(own.probabilities, expected, atol=2e-7)
    assert own.column("answer").tolist() == [CLASSES[i] for i in expected.argmax(axis=1)]
    assert own.column("score").tolist() == (own.column("answer") == own.column("target")).astype(float).tolist()
    assert own.column("confidence").tolist() == pytest.approx(expected.max(axis=1).tolist())
    assert own.column("seconds").sum() == pytest.approx(0.6)
    assert (own.head.nbytes, own.head.parameters) == (3000, 1500)
    assert own.column("calls").tolist() == [3] * 200
    assert own.head.made == {"kind": "ensemble", "members": ["ties", "linear", "base"], "space": space}


def test_means_of_logits_are_means_of_log_probabilities() -> None:
    """What records hold is enough, because the softmax does not see what is added to all logits of an item."""
    logits = np.random.default_rng(0).normal(size=(3, 20, 4)) * 5
    from_records = softmax(np.log(softmax(logits)).mean(axis=0))
    np.testing.assert_allclose(from_records, softmax(logits.mean(axis=0)), rtol=1e-9)


def test_the_ensemble_goes_through_files(tmp_path: Any) -> None:
    with_ensemble(records()).write(tmp_path)
    assert compare(tmp_path).kinds["ensemble"] == "ensemble"


def test_who_can_be_a_member() -> None:
    data = records()
    with pytest.raises(InputError, match=r"there are no records of 'tie'. Did you mean 'ties'"):
        with_ensemble(data, ["tie", "base"])
    with pytest.raises(InputError, match="an ensemble needs at least two different members, got ties, ties"):
        with_ensemble(data, ["ties", "ties"])
    with pytest.raises(InputError, match="an ensemble needs at least two different members, got ties"):
        with_ensemble(data, ["ties"])
    with pytest.raises(InputError, match="there are records of a system 'base' already"):
        with_ensemble(data, label="base")
    with pytest.raises(InputError, match=r"an ensemble cannot average logit. Did you mean 'logits'"):
        with_ensemble(data, space="logit")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least two single models that answered every task, and there are: a"):
        with_ensemble(Records([part("digits", "a", 0.5), part("digits", "b", 0.5, kind="merge")]))
    import pyarrow as pa

    bare = part("digits", "bare", 0.5)
    place = bare.table.schema.get_field_index("probabilities")
    table = bare.table.set_column(
        place, bare.table.schema.field(place), pa.nulls(200, bare.table.schema.field(place).type)
    )
    with pytest.raises(InputError, match=r"'bare' has no probabilities of classes.*\[task digits\]"):
        with_ensemble(Records([part("digits", "a", 0.5), Part(bare.head, table)]))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 95}, r"level must be in \(0, 1\), got 95. For 95 % write 0.95."),
        ({"resamples": 5}, "resamples must be at least 100, got 5"),
        ({"interval": "bc"}, "interval cannot be 'bc'"),
        ({"reference": "bsae"}, "the reference 'bsae' has no records. Did you mean 'base'"),
        ({"experts": {"digit": "base"}}, "there are no records of a task 'digit'. Did you mean 'digits'"),
        ({"experts": {"digits": "x"}}, "there are no records of 'x' on 'digits'"),
        ({"kinds": {"x": "merge"}}, "there are no records of 'x'"),
        ({"kinds": {"base": "merger"}}, "'base' cannot be of the kind 'merger'. Did you mean 'merge'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(records(("digits",), n=20), **arguments)


def test_other_things_than_records(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="there are no records to compare"):
        compare(Records([]))
    with pytest.raises(InputError, match=r"a dict is no record of answers. Say on which task="):
        compare([{}])
    with pytest.raises(InputError, match=r"there is no '.*nowhere'"):
        compare(tmp_path / "nowhere")
    two = [part("digits", name, 0.9, made={"expert_of": "digits"}) for name in "ab"]
    with pytest.raises(InputError, match="'digits' has two experts, 'a' and 'b'"):
        compare(Records(two))


# --- forms -------------------------------------------------------------------------------------------------------------


def test_json_is_plain_and_has_no_nan(found: Comparison) -> None:
    again = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert again["version"] == 1
    assert again["answer"]["verdict"] == found.answer.verdict
    assert {row["system"] for row in again["rows"]} == set(found.systems)
    assert [system["figure"] for system in again["systems"]] == [
        m.figure.value if m.figure else None for m in found.means
    ]


def test_csv_reads_back(found: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    assert len(rows) == len(found.rows)
    for read, row in zip(rows, found.rows, strict=True):
        assert (read["task"], read["system"]) == (row.task, row.system)
        assert float(read["figure"]) == row.figure.value
        assert (read["difference"] == "") == (row.difference is None)


def test_latex_is_escaped_and_marks_the_best() -> None:
    parts = [part(r"a_b & 50 %", r"m\x{1}$", 0.9, kind="merge"), part("a_b & 50 %", "#s~^", 0.5)]
    text = compare(Records(parts)).latex()
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert r"a\_b \& 50 \% (\%)" in text
    assert r"m\textbackslash{}x\{1\}\$ & \textbf{" in text
    assert r"\#s\textasciitilde{}\textasciicircum{} & " in text
    assert r"\textsuperscript{*}" in text
    for line in body:
        bare = line.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}")
        assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0
    assert [w for w in (r"\toprule", r"\midrule", r"\bottomrule") if w in body] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    assert {len(re.split(r"(?<!\\)&", line)) for line in body if line.endswith(r"\\")} == {2}


def test_latex_of_many_tasks_has_no_room_for_every_interval() -> None:
    few, many = (compare(records([f"t{i}" for i in range(count)], n=40), resamples=100).latex() for count in (4, 5))
    lines = [next(line for line in text.splitlines() if line.startswith("ties")) for text in (few, many)]
    assert [line.count(r"\pm") for line in lines] == [4 + 2, 2], "those of the means stay"
    order = [line.partition(" &")[0] for line in few.splitlines() if line.endswith(r"\\")]
    assert order.index("base") < min(order.index("ties"), order.index("linear"))
    assert set(order[-2:]) == {"ties", "linear"}


def test_a_page_of_a_comparison(found: Comparison) -> None:
    pytest.importorskip("matplotlib")
    from modelwright import report

    page = report.comparison(found)
    assert "<script" not in page
    assert "http" not in page
    curves = 2 * len(found.tasks)  # reliability, and risk against coverage
    assert page.count("<svg") == 1 + curves, "costs are alike, so there is no plot of them"
    assert html.escape(found.answer.sentence) in page
    for row in found.rows:
        assert f">{100 * row.figure.value:.1f}<" in page
    priced = report.comparison(compare(with_ensemble(records()), prices={"base": Price(call=1), "ties": Price(call=2)}))
    assert priced.count("<svg") == 2 + curves
    assert "money for 1,000 items" in priced


def test_systems_are_evaluated_first_where_there_is_a_task(tmp_path: Path) -> None:
    x = np.arange(60) % 7

    def step(at: int) -> Any:
        return lambda values: np.stack([values <= at, values > at], axis=1).astype(float)

    found = mw.compare({"right": step(3), "wrong": step(5)}, task=(x, (x > 3).astype(int)), out=tmp_path, limit=40)
    assert found.row("data", "right").figure.value == 1.0
    assert found.row("data", "wrong").figure.value < 1.0
    assert mw.compare(tmp_path).as_rows() == found.as_rows(), "the records were kept"
    with pytest.raises(InputError, match=r"'limit' says how systems are asked, and there is no task\. Give task="):
        mw.compare(tmp_path, limit=3)
    with pytest.raises(InputError, match=r"compare has no argument 'limt'\. Did you mean 'limit'"):
        mw.compare({}, task=(x, x), limt=3)
