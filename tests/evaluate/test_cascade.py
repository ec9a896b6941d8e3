"""A cascade as a system: what it says, whom it asks, what records say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from modelwright.errors import InputError
from modelwright.evaluate import METRICS, CascadePredictor, Classification, FunctionPredictor, Items, Splits, run
from modelwright.predictions import Predictions
from modelwright.predictions.cascades import apply_cascade, fit_cascade

pytest.importorskip("pyarrow")


def members(n: int = 200) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    logits = rng.normal(size=(2, n, 3)) + 2 * np.eye(3)[labels]
    powers = np.exp(logits)
    said = powers / powers.sum(-1, keepdims=True)
    systems = [
        FunctionPredictor(
            f"m{i}", function=lambda rows, p=p: p[np.asarray(rows)[:, 0].astype(int)], fingerprint=f"f{i}"
        )
        for i, p in enumerate(said)
    ]
    return said, labels, systems


def test_it_is_evaluated_like_any_system(tmp_path: Any) -> None:
    said, labels, systems = members()
    bank = Predictions.of(said, labels, scale="probabilities", members=["m0", "m1"])
    rule = fit_cascade(bank, width=0.2)
    offline = apply_cascade(rule, bank)
    system = CascadePredictor("cascade", asks=systems, rule=rule)
    inputs = np.arange(200)[:, None]
    task = Classification(
        name="made",
        splits=Splits({"test": Items.of(inputs, labels)}),
        metric=METRICS["accuracy"],
        names=("0", "1", "2"),
    )
    part = run([system], [task]).part("made", "cascade")
    np.testing.assert_allclose(part.probabilities, offline.probabilities, atol=1e-12)
    assert part.head.made["kind"] == "ensemble"
    assert part.head.made["members"] == ["m0", "m1"]
    share = (offline.stages > 0).mean()
    assert system.remarks() == [f"'m1' was asked for {share:.1%} of the samples"]
    assert 0.25 < share < 0.5


def test_its_fingerprint_is_of_members_and_rule() -> None:
    said, labels, systems = members()
    bank = Predictions.of(said, labels, scale="probabilities", members=["m0", "m1"])
    rules = [fit_cascade(bank, width=width) for width in (0.1, 0.2)]
    prints = {CascadePredictor("c", asks=systems, rule=rule).fingerprint for rule in [*rules, rules[0]]}
    assert len(prints) == 2
    unknown = [systems[0], FunctionPredictor("m1", function=systems[1].function, fingerprint="other")]
    assert CascadePredictor("c", asks=unknown, rule=rules[0]).fingerprint not in prints


def test_what_is_refused() -> None:
    said, labels, systems = members()
    bank = Predictions.of(said, labels, scale="probabilities", members=["m0", "m1"])
    rule = fit_cascade(bank)
    with pytest.raises(InputError, match="the rule of 'c' is for 2 members, got 1"):
        CascadePredictor("c", asks=systems[:1], rule=rule)
    with pytest.raises(InputError, match=r"the score 'energy' needs logits, and 'm0' gives probabilities"):
        CascadePredictor("c", asks=systems, rule=replace(rule, score="energy"))


@pytest.mark.torch
def test_modules_give_the_logits_that_scores_need() -> None:
    torch = pytest.importorskip("torch")
    from modelwright.evaluate import ModulePredictor

    generator = torch.Generator().manual_seed(0)
    modules = [torch.nn.Linear(4, 3).eval() for _ in range(2)]
    x = torch.randn(80, 4, generator=generator)
    with torch.no_grad():
        logits = np.stack([module(x).double().numpy() for module in modules])
    bank = Predictions.of(logits, logits[1].argmax(1), scale="logits", members=["a", "b"])
    rule = fit_cascade(bank, score="energy", width=0.3)
    systems = [ModulePredictor(name, module=module) for name, module in zip("ab", modules, strict=True)]
    found = CascadePredictor("c", asks=systems, rule=rule).run(x.numpy(), 3)
    np.testing.assert_array_equal(found.stages, apply_cascade(rule, bank).stages)
