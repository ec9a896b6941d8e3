"""Calibration errors against closed forms, torchmetrics and scikit-learn; negative flips."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from comparing_records import part
from modelwright.errors import InputError
from modelwright.evaluate import Convention, Part, calibration, calibration_error, negative_flips, reliability
from modelwright.predictions.measures import top_label_error

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")


def made(n: int = 400, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    powers = np.exp(logits)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    return probabilities, rng.integers(0, classes, n)


def test_a_closed_form() -> None:
    """Nine of ten right at confidence 0.7, one of ten at 0.3: gaps of 0.2 each."""
    confidences = np.repeat([0.7, 0.3], 10)
    right = np.array([1] * 9 + [0] + [1] + [0] * 9)
    for norm, expected in (("l1", 0.2), ("l2", 0.2), ("max", 0.2)):
        assert top_label_error(confidences, right, Convention(10, norm=norm)) == pytest.approx(expected)
    one_bin = Convention(1)
    assert top_label_error(confidences, right, one_bin) == pytest.approx(0), "two wrongs in one bin"


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("count", [1, 7, 15])
def test_top_label_is_that_of_torchmetrics(norm: str, count: int) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    probabilities, targets = made()
    theirs = functional.multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(targets), num_classes=4, n_bins=count, norm=norm
    )
    own = calibration_error(probabilities, targets, Convention(count, norm=norm))  # type: ignore[arg-type]
    assert own == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("bins", ["equal_width", "equal_mass"])
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_classwise_is_what_the_paper_says(bins: str, norm: str) -> None:
    """Written from Kull et al.: for each class, the probabilities of that class against its being right."""
    probabilities, targets = made(300)
    errors = []
    for c in range(4):
        p, y = probabilities[:, c], (targets == c).astype(float)
        edges = np.linspace(0, 1, 11)
        if bins == "equal_mass":
            edges = np.array([0.0, *[sorted(p)[30 * k - 1] for k in range(1, 10)], 1.0])
        gaps, shares = [], []
        for low, high in itertools.pairwise(edges):
            inside = (p > low) & (p <= high)
            if inside.any():
                gaps.append(abs(p[inside].mean() - y[inside].mean()))
                shares.append(inside.mean())
        g, s = np.array(gaps), np.array(shares)
        errors.append({"l1": (s * g).sum(), "l2": np.sqrt((s * g**2).sum()), "max": g.max()}[norm])
    convention = Convention(10, bins, "classwise", norm)  # type: ignore[arg-type]
    assert calibration_error(probabilities, targets, convention) == pytest.approx(np.mean(errors))


def test_bins_of_equal_mass_have_equally_many_items() -> None:
    confidences = np.random.default_rng(0).random(150)
    table = reliability(confidences, np.ones(150), Convention(15, "equal_mass"))
    assert [line.items for line in table] == [10] * 15
    tied = reliability(np.full(30, 0.5), np.ones(30), Convention(15, "equal_mass"))
    assert [line.items for line in tied if line.items] == [30]


def test_the_ends_belong_to_bins() -> None:
    table = reliability(np.array([0.0, 0.5, 1.0]), np.array([0, 1, 1]), Convention(2))
    assert [(line.items, line.accuracy) for line in table] == [(2, 0.5), (1, 1.0)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.integers(1, 20))
def test_errors_are_shares_and_norms_are_ordered(pairs: list[tuple[float, bool]], count: int) -> None:
    confidences, right = (np.array(column) for column in zip(*pairs, strict=True))
    l1, l2, most = (top_label_error(confidences, right, Convention(count, norm=norm)) for norm in ("l1", "l2", "max"))  # type: ignore[arg-type]
    assert 0 <= l1 <= l2 + 1e-12 <= most + 2e-12 <= 1 + 3e-12


def test_brier_and_nll_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import log_loss

    found = part("digits", "a", 0.8)
    known = calibration(found)
    targets = [found.head.classes.index(name) for name in found.column("target")]
    probabilities = found.probabilities
    assert probabilities is not None
    assert known.nll == pytest.approx(log_loss(targets, probabilities, labels=[0, 1, 2]))
    assert known.brier == pytest.approx(np.mean(((np.eye(3)[targets] - probabilities) ** 2).sum(axis=1)))
    assert str(known.convention) == "15 equal-width bins, top label, l1"


def test_a_missing_confidence_is_refused_by_name() -> None:
    import pyarrow as pa

    found = part("digits", "a", 0.8, n=5)
    place = found.table.schema.get_field_index("confidence")
    field = found.table.schema.field(place)
    without = Part(
        found.head, found.table.set_column(place, field, pa.array([0.5, None, 0.5, None, 1.0], pa.float64()))
    )
    with pytest.raises(
        InputError, match=r"'a' has no confidence for 2 of 5 items, which calibration needs.*\[task digits\]"
    ):
        calibration(without)
    place = found.table.schema.get_field_index("probabilities")
    field = found.table.schema.field(place)
    bare = Part(found.head, found.table.set_column(place, field, pa.nulls(5, field.type)))
    assert calibration(bare).brier is None
    with pytest.raises(InputError, match="'a' has no probabilities of classes, which a classwise error needs"):
        calibration(bare, Convention(of="classwise"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "calibration needs at least 1 bin, got 0"),
        ({"bins": "equal-width"}, "bins cannot be 'equal-width'. Did you mean 'equal_width'"),
        ({"norm": "l3"}, "norm cannot be 'l3'"),
    ],
)
def test_conventions_are_checked(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Convention(**arguments)  # type: ignore[arg-type]


def test_confidences_out_of_range() -> None:
    with pytest.raises(InputError, match=r"confidences must be in \[0, 1\], got 1.5 for item 1"):
        reliability(np.array([0.5, 1.5]), np.ones(2))
    with pytest.raises(InputError, match="calibration needs items, got none"):
        reliability(np.array([]), np.array([]))


def test_flips() -> None:
    old, new = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 0, 1, 1, 0, 0])
    found = negative_flips(old, new, list("abcdef"))
    assert (found.count, found.names) == (2, ("b", "f"))
    assert (found.rate, found.rate_of_right) == (2 / 6, 2 / 4)
    assert negative_flips(np.zeros(3), np.ones(3)).rate_of_right == 0.0
    with pytest.raises(InputError, match="negative flips need scores of 0 and 1"):
        negative_flips(np.array([0.5]), np.array([1.0]))
