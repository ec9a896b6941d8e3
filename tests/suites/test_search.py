"""Parameters are chosen on `validation` alone, by one budget, in an order that can be told in advance."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import Field

from modelwright.errors import InputError, RunError
from modelwright.evaluate import Classification, FunctionPredictor, Items, Plan, Splits, metric
from modelwright.methods import FIXED, METHODS, PER_MODEL, Method, Params, Span
from modelwright.suites import Judge, Trial, candidates
from modelwright.suites._search import best, relative, search


def record(params: type[Params], **more: Any) -> Method:
    return Method("own", "Own", "", "", lambda models: models[0], params, "ignored", (1, None), frozenset(), **more)


def test_what_the_semantics_give_is_tried_first_and_the_paper_next() -> None:
    ties = METHODS["ties"]
    assert candidates(ties, "community", 3)[:2] == [{"lambda": 1.0, "density": 1.0}, {"lambda": 1.0, "density": 0.2}]
    assert candidates(ties, "paper", 3)[0] == {"lambda": 1.0, "density": 0.2}


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_linear", "breadcrumbs", "slerp"])
def test_candidates_are_distinct_in_the_span_and_begin_alike_for_every_budget(name: str) -> None:
    method = METHODS[name]
    many, few = candidates(method, "community", 40), candidates(method, "community", 7)
    assert many[:7] == few
    assert len(many) == 40
    assert len({tuple(values.items()) for values in many}) == 40
    for values in many[2:]:
        assert all(span.low <= values[key] <= span.high for key, span in method.spans.items())
    for key, span in method.spans.items():  # no quarter of a span is left out
        places = [
            np.log(v[key] / span.low) / np.log(span.high / span.low) if span.log else
            (v[key] - span.low) / (span.high - span.low) for v in many[2:]
        ]  # fmt: skip
        assert set(np.floor(np.array(places) * 3.999).astype(int)) == {0, 1, 2, 3}


def test_a_method_without_such_parameters_is_tried_once() -> None:
    assert candidates(METHODS["linear"], "community", 20) == [{}]


def test_a_new_method_is_searched_over_its_bounded_numbers_and_its_marks() -> None:
    class Own(Params):
        weight: Annotated[float, PER_MODEL, Field(description="")] = 1.0
        trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.25
        temperature: Annotated[float, Span(0.1, 10, log=True)] = Field(1.0, gt=0)
        rounds: int = Field(3, ge=1, le=9)

    spans = record(Own).spans
    assert spans == {"trim": Span(0, 0.495), "temperature": Span(0.1, 10, log=True)}
    assert spans["trim"].at(1) < 0.5
    assert candidates(record(Own), "community", 2)[0] == {"trim": 0.25, "temperature": 1.0}


def test_a_record_says_what_is_left_alone_and_how_often_is_enough() -> None:
    class Slow(Params):
        rate: Annotated[float, FIXED, Field(ge=0, le=1)] = 0.5
        scale: Annotated[float, Field(ge=0, le=2)] = 1.0

    slow = record(Slow, tries=3)
    assert set(slow.spans) == {"scale"}
    assert slow.fields["rate"].rule == "in [0, 1]"
    assert candidates(slow, "community", 20) == candidates(record(Slow), "community", 20)[:3]
    assert len(candidates(slow, "community", 2)) == 2
    with pytest.raises(AssertionError, match="own: a sweep must try at least 1 set of parameters"):
        record(Slow, tries=0)


def test_every_span_of_the_library_is_in_the_range_of_its_parameter() -> None:
    for method in METHODS.values():
        for name, span in method.spans.items():
            for share in (0, 0.5, 1):
                assert method.fields[name].check(span.at(share)) == span.at(share)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="budget must be at least 1 evaluation a method, got 0"):
        candidates(METHODS["ties"], "community", 0)


def test_trials_of_an_earlier_run_are_not_repeated() -> None:
    asked: list[Any] = []
    kept: list[Trial] = []

    def attempt(parameters: Any) -> Trial:
        asked.append(parameters["x"])
        return Trial(parameters, objective=-abs(parameters["x"] - 2))

    trials = search([{"x": i} for i in range(4)], attempt, [Trial({"x": 1}, objective=9.0)], kept.append)
    assert asked == [0, 2, 3]
    assert [trial.parameters["x"] for trial in trials] == [0, 1, 2, 3]
    assert [trial.parameters["x"] for trial in kept] == [0, 2, 3]
    assert best(trials).parameters == {"x": 1}


def test_the_first_of_equal_trials_is_chosen_and_a_failed_one_never() -> None:
    trials = [Trial({"x": 0}, reason="no"), Trial({"x": 1}, objective=-1.0), Trial({"x": 2}, objective=-1.0)]
    assert best(trials).parameters == {"x": 1}
    with pytest.raises(RunError, match="no"):
        best(trials[:1])


def test_what_came_to_no_number_neither_wins_nor_is_taken_over() -> None:
    odd = Trial({"x": 0}, objective=float("nan"))
    trials = [odd, Trial({"x": 1}, objective=0.1), Trial({"x": 2}, objective=0.2)]
    assert best(trials).parameters == {"x": 2}
    failed = Trial({"x": 0}, reason="no")
    asked: list[Any] = []

    def attempt(parameters: Any) -> Trial:
        asked.append(parameters["x"])
        return Trial(parameters, objective=1.0)

    found = search([{"x": 0}, {"x": 1}], attempt, [failed, odd, Trial({"x": 1}, objective=0.1)])
    assert asked == [0]
    assert [trial.objective for trial in found] == [1.0, 0.1]


def test_shares_of_the_expert_run_the_same_way_for_every_metric() -> None:
    assert relative(0.8, 0.9, metric("accuracy")) == pytest.approx(8 / 9)
    assert relative(2.0, 0.5, metric("log_loss")) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "figure", "expert"),
    [
        ("accuracy", 0.5, 0.0),
        ("mcc", 0.5, -0.1),
        ("mcc", 0.5, float("nan")),
        ("log_loss", 0.0, 0.4),
        ("log_loss", 0.4, 0.0),
    ],
)
def test_there_is_no_share_of_nothing(name: str, figure: float, expert: float) -> None:
    found = relative([figure, 1.0], [expert, 2.0], metric(name))
    assert np.isnan(found[0])
    assert found[1] == (0.5 if metric(name).higher_is_better else 2.0)


def one_of(x: np.ndarray) -> np.ndarray:
    return np.eye(2)[np.asarray(x, int)]


def task(count: int = 100, **sources: Any) -> Classification:
    rng = np.random.default_rng(0)
    validation = Items.of(rng.integers(0, 2, count), rng.integers(0, 2, count), [f"v{i}" for i in range(count)])
    splits = Splits({"validation": validation, **sources})
    return Classification(name="coin", names=("head", "tail"), metric=metric("accuracy"), splits=splits)


def judge(**experts: Any) -> Judge:
    """Of tasks of one coin each, whose experts answer so."""
    tasks = {name: replace(task(), name=name).for_search() for name in experts}
    return Judge(tasks, {name: lambda answer=answer: answer for name, answer in experts.items()}, None, Plan())


def test_a_task_whose_expert_knows_nothing_does_not_count() -> None:
    strong = judge(a=right(), b=right())
    weak = judge(a=right(), b=right())
    weak.__dict__["references"] = {"a": strong.references["a"], "b": 0.0}
    figures = {"a": strong.references["a"] / 2, "b": 0.3}
    assert weak.objective(figures) == pytest.approx(0.5)
    weak.__dict__["references"] = {"a": 0.0, "b": float("nan")}
    with pytest.raises(RunError, match=r"no expert's figure on validation is above 0.*: a 0, b nan\. Take a metric"):
        weak.objective(figures)


def test_a_figure_that_is_no_number_is_no_objective() -> None:
    with pytest.raises(RunError, match=r"the figure on validation is no share of the expert's: b nan"):
        judge(a=right(), b=right()).objective({"a": 0.5, "b": float("nan")})


def never() -> Items:
    raise AssertionError("the test items were read")


def test_a_search_cannot_read_test() -> None:
    judge = Judge({"coin": task(test=never).for_search()}, {"coin": lambda: right()}, None, Plan())
    inside = judge._tasks["coin"]
    with pytest.raises(InputError, match="the split 'test' cannot be read here: a search must not see what its result"):
        inside.items("test")
    assert judge.figures(right()).keys() == {"coin"}
    with pytest.raises(InputError, match=r"task coin: a search is given tasks without `test`. Pass task.for_search()"):
        Judge({"coin": task(test=never)}, {}, None, Plan())


def right() -> FunctionPredictor:
    return FunctionPredictor("one", function=one_of)


def test_a_task_without_validation_is_refused() -> None:
    bare = Classification(
        name="coin", names=("head", "tail"), metric=metric("accuracy"), splits=Splits({"test": never})
    )
    with pytest.raises(InputError, match="task coin has no split 'validation', and hyper-parameters are chosen on it"):
        Judge({"coin": bare.for_search()}, {}, None, Plan())


def test_no_more_items_are_asked_about_than_said_and_they_are_spread() -> None:
    seen: list[Any] = []

    def listening(x: np.ndarray) -> np.ndarray:
        seen.extend(x)
        return one_of(np.asarray(x) % 2)

    items = Items.of(np.arange(100), np.arange(100) % 2)
    coin = Classification(
        name="coin", names=("head", "tail"), metric=metric("accuracy"), splits=Splits({"validation": items})
    )
    judge = Judge({"coin": coin.for_search()}, {"coin": right}, 10, Plan(batch=4))
    assert judge.figures(FunctionPredictor("one", function=listening)) == {"coin": 1.0}
    assert seen == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
