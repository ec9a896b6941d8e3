"""Histogram binning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from modelwright.methods._method import Params
from modelwright.methods._outputs import CLASSES, NumpyArray, OutputMethod, fixed, on_outputs
from modelwright.methods.calibration._by_class import apply_by_class, fit_by_class


class HistogramParams(Params):
    """Parameters of `histogram`."""

    count: int = Field(15, ge=1, description="How many bins.")
    bins: Literal["equal_width", "equal_mass"] = Field(
        "equal_width", description="The same share of [0, 1] each, or the same number of samples each."
    )


@on_outputs(HistogramParams, axes=2)
def histogram(
    outputs: NumpyArray,
    *,
    count: int = 15,
    bins: str = "equal_width",
    classes: list[Mapping[str, Sequence[float]]],
) -> NumpyArray:
    """Each class's probability becomes the share of samples of its bin that are of the class, divided by their sum.

    Args:
        outputs: Probabilities (n, C).
        count: As for `fit_histogram`, like the next; unused here.
        bins: How bins are cut.
        classes: `edges` and `shares` of each class; of two classes of the second alone.

    Returns:
        Probabilities (n, C); even shares where every class comes to 0.

    Differs:
        See `HISTOGRAM.differs`.

    Source:
        Zadrozny and Elkan 2001, "Obtaining calibrated probability estimates from decision trees and naive Bayesian classifiers".
    """
    return apply_by_class(outputs, list(classes), lambda p, one: np.asarray(one["shares"])[_bin(p, one["edges"])])


def fit_histogram(
    outputs: NumpyArray, labels: NumpyArray, *, count: int = 15, bins: str = "equal_width"
) -> dict[str, Any]:
    """The share of right ones in each bin of each class.

    Args:
        outputs: Probabilities (n, C).
        labels: Class indices (n,), of every class.
        count: How many bins. Of equal mass there may be less: equal probabilities are never torn apart.
        bins: `equal_width` or `equal_mass`.

    Returns:
        `classes`.

    Raises:
        InputError: A class has no label.
    """

    def one(probabilities: NumpyArray, right: NumpyArray) -> dict[str, list[float]]:
        edges = bin_edges(probabilities, count, bins)
        place = _bin(probabilities, edges)
        items = np.bincount(place, minlength=len(edges) - 1)
        hits = np.bincount(place, right, len(edges) - 1)
        middle = (edges[:-1] + edges[1:]) / 2
        shares = np.where(items > 0, hits / np.maximum(items, 1), middle)
        return {"edges": edges.tolist(), "shares": shares.tolist()}

    return {"classes": fit_by_class("histogram", outputs, labels, one)}


def bin_edges(confidences: NumpyArray, count: int, bins: str) -> NumpyArray:
    """The edges of bins of confidences: 0, those between them, 1.

    Args:
        confidences: In [0, 1], (n,).
        count: How many bins, at least 1.
        bins: `equal_width`: the same share of [0, 1] each; `equal_mass`: the same number of samples each, as far as equal ones
            stay together.
    """
    if bins == "equal_width":
        return np.linspace(0, 1, count + 1)
    inner = np.quantile(confidences, np.arange(1, count) / count, method="inverted_cdf")
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def _bin(probabilities: NumpyArray, edges: Any) -> NumpyArray:
    """Which bin: above its lower edge, up to its upper one; the first holds 0 too."""
    return np.clip(np.searchsorted(edges, probabilities, side="left") - 1, 0, len(edges) - 2)


HISTOGRAM = OutputMethod(
    name="histogram",
    title="Histogram binning",
    paper="",
    summary="The share of right answers in each bin: no assumption but the bins, and steps where there was a slope.",
    kind="calibration",
    function=histogram,
    params=HistogramParams,
    takes=CLASSES,
    space=fixed("probabilities"),
    laws=frozenset({"classes", "shift"}),
    fit=fit_histogram,
    differs=("A bin without samples has its middle, so that it says what it was told.",),
)
