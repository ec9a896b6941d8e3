"""Cascades: exact identities, a slow reading of the paper, running members, costs, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.errors import InputError, RunError
from modelwright.predictions import Member, MemberCost, Predictions
from modelwright.predictions.cascades import (
    Aim,
    Cascade,
    CascadeRule,
    Window,
    apply_cascade,
    cascade_curve,
    cascade_module,
    fit_cascade,
    folder_multiply_adds,
    milliseconds,
    multiply_adds,
    refit_shifted,
    stage_scores,
)
from modelwright.predictions.measures import confidence

SCORES = ("msp", "entropy", "margin", "max_logit", "energy")


def bank(n: int = 400, members: int = 2, seed: int = 0, prefix: str = "s", skill: float = 1.5) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    shared = rng.normal(size=(n, 3)) + skill * np.eye(3)[labels]
    logits = shared + rng.normal(size=(members, n, 3))
    names = [Member(f"m{i}", MemberCost(multiply_adds=10.0 * 2**i)) for i in range(members)]
    return Predictions.of(logits, labels, scale="logits", members=names, ids=[f"{prefix}{i}" for i in range(n)])


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# --- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_a_window_of_everything_is_the_ensemble_and_one_of_nothing_the_first_member(score: str) -> None:
    data = bank(members=3)
    p, s = softmax(data.values), confidence(data.values, score)
    everything = apply_cascade(fit_cascade(data, width=0.5, score=score, unit="multiply_adds"), data)
    np.testing.assert_allclose(everything.probabilities, p.mean(0), atol=1e-12)
    np.testing.assert_allclose(everything.scores, s.mean(0))
    assert everything.mean_cost == 70
    nothing = apply_cascade(fit_cascade(data, width=0.0, score=score, unit="multiply_adds"), data)
    np.testing.assert_allclose(nothing.probabilities, p[0])
    np.testing.assert_allclose(nothing.scores, s[0])
    assert nothing.mean_cost == 10


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.5), st.sampled_from(["window", "single_threshold"]))
def test_cost_is_what_is_passed_on(seed: int, width: float, policy: str) -> None:
    data = bank(120, 3, seed)
    found = apply_cascade(fit_cascade(data, width=width, policy=policy, unit="multiply_adds"), data)  # type: ignore[arg-type]
    first, second = (found.stages > 0).mean(), (found.stages > 1).mean()
    assert found.mean_cost == pytest.approx(10 + 20 * first + 40 * second)


def test_equal_members_say_the_same_whatever_the_window() -> None:
    one = bank(members=1)
    twice = Predictions.of(np.repeat(one.values, 2, 0), one.labels, scale="logits")
    outputs = [apply_cascade(fit_cascade(twice, width=w), twice) for w in (0.0, 0.1, 0.5)]
    for other in outputs[1:]:
        np.testing.assert_allclose(other.probabilities, outputs[0].probabilities, atol=1e-15)
        np.testing.assert_allclose(other.scores, outputs[0].scores, atol=1e-15)


def test_a_shift_of_all_logits_changes_nothing() -> None:
    data = bank()
    moved = replace(data, values=data.values + 3.0)
    rules = [fit_cascade(one) for one in (data, moved)]
    outputs = [apply_cascade(rule, one) for rule, one in zip(rules, (data, moved), strict=True)]
    np.testing.assert_array_equal(outputs[0].stages, outputs[1].stages)
    np.testing.assert_allclose(outputs[0].probabilities, outputs[1].probabilities, atol=1e-12)


def test_an_increasing_transform_of_score_and_window_changes_no_exit() -> None:
    scores = np.random.default_rng(0).random(200)
    window = Window(0.3, 0.6)
    moved = Window(0.3**3, 0.6**3)
    np.testing.assert_array_equal(window.exits(scores), moved.exits(scores**3))


def test_ends_of_windows_go_on() -> None:
    np.testing.assert_array_equal(Window(0.2, 0.4).exits(np.array([0.1, 0.2, 0.3, 0.4, 0.5])), [1, 0, 0, 0, 1])


# --- as the paper and its code have it -------------------------------------------------------------------------------


def paper_cascade(validation: Predictions, test: Predictions, risk: float, skip: int) -> tuple[np.ndarray, ...]:
    """Two members, MSP, coverage at a risk: written from the paper and its code, with no ties."""
    stats = pytest.importorskip("scipy.stats")
    z, labels = validation.values[0], validation.labels
    assert labels is not None
    score = softmax(z).max(1)
    order = np.argsort(-score)
    wrong = (z.argmax(1) != labels)[order]
    risks = np.r_[0, np.cumsum(wrong) / np.arange(1, len(wrong) + 1)]
    k = skip + 1 + np.abs(risks[skip + 1 :] - risk).argmin()
    tau = np.sort(score)[::-1][min(k, len(score) - 1)]
    q = stats.percentileofscore(score, tau) / 100
    low, high = np.quantile(score, [max(q - 0.1, 0), min(q + 0.1, 1)])
    first = softmax(test.values[0])
    both = (first + softmax(test.values[1])) / 2
    out = (first.max(1) > high) | (first.max(1) < low)
    mean = (first.max(1) + softmax(test.values[1]).max(1)) / 2
    return np.where(out[:, None], first, both), np.where(out, first.max(1), mean), (~out).astype(int)


@pytest.mark.parametrize("seed", range(4))
def test_the_windows_are_those_of_the_paper(seed: int) -> None:
    validation, test = bank(700, seed=seed), bank(500, seed=seed + 100, prefix="t")
    probabilities, scores, stages = paper_cascade(validation, test, 0.1, 70)
    found = apply_cascade(fit_cascade(validation, aim=Aim("coverage_at_risk", 0.1)), test)
    np.testing.assert_allclose(found.probabilities, probabilities)
    np.testing.assert_allclose(found.scores, scores)
    np.testing.assert_array_equal(found.stages, stages)
    assert 0.1 < stages.mean() < 0.3, "about a fifth goes on"


def test_windows_of_validation_data_hold_the_share_that_was_asked_for() -> None:
    data = bank(1000)
    for level in (0.3, 0.5, 0.7):
        rule = fit_cascade(data, aim=Aim("risk_at_coverage", level), width=0.15)
        assert (apply_cascade(rule, data).stages > 0).mean() == pytest.approx(0.3, abs=0.005)
        scores = stage_scores(rule, data)[0]
        assert (scores > rule.thresholds[0]).sum() == 1000 * level, "so many are accepted"
    rule = fit_cascade(data.with_labels(None), aim=Aim("fpr_at_tpr", 0.95), score="energy")
    assert (stage_scores(rule, data)[0] >= rule.thresholds[0]).mean() == pytest.approx(0.95)
    assert fit_cascade(data.with_labels(None), aim=Aim("threshold", 0.8)).thresholds == (0.8,)


def test_a_single_threshold_passes_on_the_least_sure() -> None:
    data = bank(1000)
    found = apply_cascade(fit_cascade(data, policy="single_threshold", width=0.2), data)
    passed = stage_scores(fit_cascade(data), data)[0][found.stages > 0]
    assert len(passed) == 200
    assert passed.max() <= np.quantile(stage_scores(fit_cascade(data), data)[0], 0.2)


def test_exits_of_one_network_replace_each_other() -> None:
    data = bank(members=3)
    rule = fit_cascade(data, combine="replace", width=0.2)
    found = apply_cascade(rule, data)
    p = softmax(data.values)
    np.testing.assert_allclose(found.probabilities, p[found.stages, np.arange(len(data))])
    np.testing.assert_allclose(stage_scores(rule, data), p.max(-1))
    assert set(found.stages) == {0, 1, 2}


def test_each_stage_has_a_window_of_its_own() -> None:
    data = bank(1000, 3)
    rule = fit_cascade(data, width=[0.3, 0.1])
    scores, found = stage_scores(rule, data), apply_cascade(rule, data)
    stages = np.where(rule.windows[0].exits(scores[0]), 0, np.where(rule.windows[1].exits(scores[1]), 1, 2))
    np.testing.assert_array_equal(found.stages, stages)
    np.testing.assert_allclose(found.scores, scores[stages, np.arange(1000)])


def test_the_score_of_the_mean() -> None:
    data = bank()
    found = apply_cascade(fit_cascade(data, width=0.5, score="entropy", score_of="score_of_mean"), data)
    mean = softmax(data.values).mean(0)
    np.testing.assert_allclose(found.scores, (mean * np.log(mean)).sum(1))
    with pytest.raises(InputError, match=r"the score 'energy' is of logits, and a mean of probabilities has none"):
        fit_cascade(data, score="energy", score_of="score_of_mean")


def test_a_budget_takes_the_widest_window_it_can_pay() -> None:
    data = bank(1000)
    rule = fit_cascade(data, most_cost=18.0, unit="multiply_adds")
    cost = apply_cascade(rule, data).mean_cost
    assert 16.5 < cost <= 18
    assert fit_cascade(data, most_cost=1e9, unit="multiply_adds").windows == (Window(-np.inf, np.inf),)
    single = fit_cascade(data, most_cost=18.0, unit="multiply_adds", policy="single_threshold")
    assert 16.5 < apply_cascade(single, data).mean_cost <= 18
    with pytest.raises(
        InputError, match=r"no cascade costs at most 9 multiply_adds a sample: its first member alone costs 10"
    ):
        fit_cascade(data, most_cost=9.0, unit="multiply_adds")


def test_windows_follow_a_shift() -> None:
    """Where all are less sure, quantiles of unlabelled data pass on what was meant to be passed on."""
    validation = bank(1000, skill=3.0)
    shifted = replace(validation, values=validation.values * 0.6, labels=None)
    rule = fit_cascade(validation, aim=Aim("risk_at_coverage", 0.5))
    again = refit_shifted(rule, shifted)
    assert (apply_cascade(again, shifted).stages > 0).mean() <= 0.205
    assert again.thresholds == rule.thresholds
    with pytest.raises(InputError, match=r"windows lie around thresholds, and this rule has none"):
        refit_shifted(fit_cascade(validation, policy="single_threshold"), shifted)


# --- curves ----------------------------------------------------------------------------------------------------------


def test_the_curve_runs_from_the_first_member_to_the_ensemble() -> None:
    validation, test = bank(600), bank(600, seed=1, prefix="t")
    out = bank(300, seed=2, prefix="o", skill=0.0)
    points = cascade_curve(validation, test, widths=(0.0, 0.1, 0.5), out=out, unit="multiply_adds")
    assert [point.cost for point in points][::2] == [10, 30]
    assert 10 < points[1].cost < 20
    assert all(point.auroc is not None and 0.5 < point.auroc < 1 and point.fpr is not None for point in points)
    mean = softmax(test.values).mean(0)
    assert points[-1].accuracy == pytest.approx((mean.argmax(1) == test.labels).mean())
    with pytest.raises(
        InputError, match=r"the cascade would be judged on 600 samples that it was fitted on, such as 's0'"
    ):
        cascade_curve(validation, validation)


# --- plain data ------------------------------------------------------------------------------------------------------


def test_rules_are_plain_json() -> None:
    data = bank(members=3)
    for rule in (
        fit_cascade(data, width=[0.2, 0.5], unit="multiply_adds"),
        fit_cascade(data, width=0.0),
        fit_cascade(data, policy="single_threshold", score="energy"),
    ):
        text = json.dumps(rule.as_json(), allow_nan=False)
        assert CascadeRule.from_json(text) == rule
        assert CascadeRule.from_json(json.loads(text)) == rule


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"version": 2}, "must be an object of version 1"),
        ({"windos": []}, "has no 'windos'. Did you mean 'windows'"),
        ({"windows": [[0.5, 0.1]]}, "low end must be at most its high end, got 0.5 and 0.1"),
        ({"windows": [["a", "b"]]}, "windows and costs must be numbers"),
        ({"windows": []}, "a cascade of 2 members needs 1 windows, one after each but the last, got 0"),
        ({"members": ["a"], "windows": [], "costs": []}, "a cascade needs at least 2 members, got 1"),
        ({"costs": [1.0, -1.0]}, "costs must be at least 0, got -1"),
        ({"costs": [1.0]}, "a cascade of 2 members needs 2 costs in answers, got 1"),
        ({"score": "mps"}, "score cannot be 'mps'. Did you mean 'msp'"),
        ({"unit": "hours"}, "unit cannot be 'hours'"),
        ({"thresholds": [0.1, 0.2]}, "has 1 thresholds or none, got 2"),
    ],
)
def test_bad_rules_are_refused(change: dict[str, Any], what: str) -> None:
    good = {"version": 1, "members": ["a", "b"], "windows": [[0.1, 0.5]], "costs": [1.0, 1.0]}
    CascadeRule.from_json(good)
    with pytest.raises(InputError, match=what):
        CascadeRule.from_json(good | change)
    with pytest.raises(InputError, match=r"must be JSON"):
        CascadeRule.from_json("{")
    with pytest.raises(InputError, match=r"must be an object of version 1"):
        CascadeRule.from_json("[1]")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"width": 0.6}, r"widths of the policy window must be in \[0, 0.5\], got 0.6"),
        ({"width": 10}, r"widths of the policy window must be in \[0, 0.5\], got 10"),
        ({"width": "0.1"}, r"widths must be numbers, got '0.1'"),
        ({"width": [None]}, r"widths must be numbers, got \[None\]"),
        ({"aim": "cov@10"}, r"aim must be an Aim, got 'cov@10'. Such as Aim"),
        ({"width": [0.1, 0.1]}, "a cascade of 2 members takes 1 widths, got 2"),
        ({"width": 0.1, "most_cost": 2.0}, "fitted to a width or to a cost, got both"),
        ({"policy": "windows"}, "there is no policy 'windows'. Did you mean 'window'"),
        ({"unit": "milliseconds"}, "nobody has said what 'm0' costs in milliseconds. Pass costs="),
        ({"members": ["m0"]}, "a cascade needs at least 2 members, got 1"),
        ({"members": ["m0", "mm"]}, "there is no member 'mm'"),
        ({"skip": 400}, r"skip must be in \[0, N\), got 400 for 400 samples"),
    ],
)
def test_bad_fits_are_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        fit_cascade(bank(), **options)


def test_more_that_is_refused() -> None:
    data = bank()
    with pytest.raises(InputError, match=r"fitting a cascade needs labels"):
        fit_cascade(data.with_labels(None))
    with pytest.raises(
        InputError, match=r"level of coverage_at_risk must be in \(0, 1\], got 10. It is a share; for 10 % write 0.1"
    ):
        Aim("coverage_at_risk", 10)
    with pytest.raises(InputError, match=r"the score 'energy' needs logits, and the bank holds probabilities"):
        fit_cascade(data.to("probabilities"), score="energy")


# --- running ---------------------------------------------------------------------------------------------------------


class Asked:
    """A member that looks its answers up, and keeps what it was asked for."""

    def __init__(self, logits: np.ndarray):
        self.logits, self.asked = logits, []

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.asked += list(map(int, rows))
        return self.logits[rows]


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_later_members_are_asked_for_what_was_passed_on_and_for_nothing_else(batch: int) -> None:
    data = bank(members=3)
    rule = fit_cascade(data, width=[0.3, 0.2])
    members = [Asked(logits) for logits in data.values]
    found = Cascade(members, rule, batch=batch)(np.arange(len(data)))
    offline = apply_cascade(rule, data)
    np.testing.assert_array_equal(found.stages, offline.stages)
    np.testing.assert_array_equal(found.probabilities, offline.probabilities)
    for stage, member in enumerate(members):
        assert member.asked == np.flatnonzero(found.stages >= stage).tolist()


def test_inputs_may_be_lists_and_mappings() -> None:
    data = bank(50)
    rule = fit_cascade(data, width=0.3)
    offline = apply_cascade(rule, data)
    rows = list(range(50))
    lists = Cascade([lambda batch, z=z: z[batch] for z in data.values], rule)(rows)
    named = Cascade([lambda ids, mask, z=z: z[ids] for z in data.values], rule)(
        {"ids": np.array(rows), "mask": np.ones(50)}
    )
    for found in (lists, named):
        np.testing.assert_array_equal(found.probabilities, offline.probabilities)
    with pytest.raises(InputError, match=r"must be of the same samples, got the lengths \{'a': 2, 'b': 3\}"):
        Cascade([len, len], rule)({"a": [1, 2], "b": [1, 2, 3]})
    with pytest.raises(InputError, match=r"a cascade needs samples, got none"):
        Cascade([len, len], rule)([])


def test_members_that_misbehave_are_named() -> None:
    data = bank(50)
    rule = fit_cascade(data, width=0.5)
    good = Asked(data.values[0])
    for member, what in (
        (lambda rows: np.full((len(rows), 3), np.nan), "'m1' gave numbers that are not finite for 50 samples"),
        (lambda rows: np.zeros((len(rows), 4)), "'m1' has 4 classes, and the members before it 3"),
        (lambda rows: np.zeros(len(rows)), r"'m1' was asked for 50 samples and gave numbers of shape \(50,\)"),
    ):
        with pytest.raises(RunError, match=what):
            Cascade([good, member], rule)(np.arange(50))
    with pytest.raises(InputError, match=r"the rule is for 2 members, got 1"):
        Cascade([good], rule)
    with pytest.raises(InputError, match=r"batch must be at least 1, got 0"):
        Cascade([good, good], rule, batch=0)


# --- torch -----------------------------------------------------------------------------------------------------------


def networks() -> tuple[Any, list[Any], Predictions, Any]:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator)
    members = []
    for width in (4, 16, 32):
        net = torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)).eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            members.append(net)
    with torch.no_grad():
        logits = np.stack([net(x).double().numpy() for net in members])
    return torch, members, Predictions.of(logits, logits.sum(0).argmax(1), scale="logits", members=["a", "b", "c"]), x


@pytest.mark.torch
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("combine", ["running", "replace"])
def test_modules_say_what_the_bank_says(score: str, combine: str) -> None:
    torch, members, data, x = networks()
    rule = fit_cascade(data, width=0.25, score=score, combine=combine)  # type: ignore[arg-type]
    offline = apply_cascade(rule, data)
    found = Cascade(members, rule)(x)
    np.testing.assert_array_equal(found.stages, offline.stages)
    np.testing.assert_allclose(found.probabilities, offline.probabilities, atol=1e-6)
    module = cascade_module(members, rule).eval()
    with torch.no_grad():
        answers = module(x)
    np.testing.assert_array_equal(module.stages.numpy(), offline.stages)
    np.testing.assert_allclose(answers.softmax(1).numpy(), offline.probabilities, atol=1e-5)
    assert 0 < offline.stages.mean() < 2


@pytest.mark.torch
def test_a_module_scores_the_mean_where_asked_to() -> None:
    torch, members, data, x = networks()
    rule = fit_cascade(data, width=0.25, score_of="score_of_mean")
    module = cascade_module(members, rule)
    with torch.no_grad():
        module(x)
    np.testing.assert_array_equal(module.stages.numpy(), apply_cascade(rule, data).stages)
    members[0].train()
    with pytest.raises(InputError, match=r"'a' is in train mode.*Call .eval\(\) on it first"):
        Cascade(members, rule)


@pytest.mark.torch
def test_multiply_adds_are_products_of_matrices() -> None:
    torch, members, _, x = networks()
    assert [multiply_adds(net, x) for net in members] == [6 * w + w * 3 for w in (4, 16, 32)]
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert multiply_adds(conv, torch.zeros(2, 3, 10, 10)) == 10 * 10 * 8 * 3 * 9
    assert multiply_adds(conv.to("meta"), torch.empty(2, 3, 10, 10, device="meta")) == 10 * 10 * 8 * 3 * 9


@pytest.mark.torch
def test_fused_kernels_are_counted_too() -> None:
    """Attention, its fast path in evaluation mode and recurrent layers have kernels of their own on every device."""
    torch = pytest.importorskip("torch")
    t, d = 7, 16
    x = torch.zeros(3, t, d)

    class Attention(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])

    assert multiply_adds(Attention(), x) == 2 * t * t * d
    layer = torch.nn.TransformerEncoderLayer(d, 4, 32, batch_first=True).eval()
    assert multiply_adds(layer, x) == 4 * t * d * d + 2 * t * t * d + 2 * t * d * 32
    assert multiply_adds(torch.nn.LSTM(d, 5, batch_first=True).eval(), x) == t * 4 * 5 * (d + 5)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.torch
def test_multiply_adds_of_folders_come_from_the_configuration(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

    bert = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=5
    )
    bert.architectures = ["BertForSequenceClassification"]
    bert.save_pretrained(tmp_path / "bert")
    t, d, f = 12, 32, 64
    layer = 4 * t * d * d + 2 * t * t * d + 2 * t * d * f
    assert folder_multiply_adds(tmp_path / "bert", tokens=t) == 2 * layer + d * d + d * 5
    vit = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=4,
        num_channels=1, num_labels=7,
    )  # fmt: skip
    vit.architectures = ["ViTForImageClassification"]
    vit.save_pretrained(tmp_path / "vit")
    t = 17
    layer = 4 * t * d * d + 2 * t * t * d + 2 * t * d * f
    assert folder_multiply_adds(tmp_path / "vit") == layer + 16 * 16 * d + d * 7
    assert BertForSequenceClassification, ViTForImageClassification
    with pytest.raises(
        InputError, match=r"models of texts need the number of tokens, at least 1, got None. Pass tokens="
    ):
        folder_multiply_adds(tmp_path / "bert")
    with pytest.raises(InputError, match=r"there is no config.json in"):
        folder_multiply_adds(tmp_path)


def test_milliseconds_are_of_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    clock = iter([0.0, 4.0, 10.0, 12.0, 20.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    member: Callable[[Any], Any] = lambda batch: calls.append(len(batch))  # noqa: E731
    assert milliseconds(member, [1, 2, 3, 4], repeats=3) == 2.0 * 1e3 / 4
    assert calls == [4] * 4
    with pytest.raises(InputError, match=r"time is measured on at least one sample and run, got 0 and 5"):
        milliseconds(member, [])
