"""Licences of merges: a truth table written by hand, and what holds for any licences."""

from __future__ import annotations

import itertools

import pytest

from modelwright.engine import LICENCES, verdict

#: Of each pair: the licence of the merge (NC in front where it is for non-commercial use), or why there is none.
NAMES = ("mit", "apache-2.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "gpl-2.0", "gemma", "who-knows")
TRUTH = """
mit            mit           apache-2.0   cc-by-sa-4.0 NC:cc-by-nc-4.0 not-allowed gpl-2.0     gemma       undetermined
apache-2.0     apache-2.0    apache-2.0   cc-by-sa-4.0 NC:cc-by-nc-4.0 not-allowed conflict    gemma       undetermined
cc-by-sa-4.0   cc-by-sa-4.0  cc-by-sa-4.0 cc-by-sa-4.0 conflict        not-allowed conflict    conflict    undetermined
cc-by-nc-4.0   NC:cc-by-nc-4.0 NC:cc-by-nc-4.0 conflict NC:cc-by-nc-4.0 not-allowed conflict   NC:other    undetermined
cc-by-nd-4.0   not-allowed   not-allowed  not-allowed  not-allowed     not-allowed not-allowed not-allowed undetermined
gpl-2.0        gpl-2.0       conflict     conflict     conflict        not-allowed gpl-2.0     conflict    undetermined
gemma          gemma         gemma        conflict     NC:other        not-allowed conflict    gemma       undetermined
who-knows      undetermined  undetermined undetermined undetermined    undetermined undetermined undetermined undetermined
"""
TABLE = {line.split()[0]: line.split()[1:] for line in TRUTH.strip().splitlines()}


def told(*licences: str | None) -> str:
    found = verdict(licences)
    if found.licence is None:
        return found.outcome.replace(" ", "-")
    return ("NC:" if found.outcome == "non-commercial" else "") + found.licence


@pytest.mark.parametrize(("a", "b"), itertools.product(NAMES, NAMES))
def test_the_table(a: str, b: str) -> None:
    assert told(a, b) == TABLE[a][NAMES.index(b)]


TRIPLES = list(itertools.product([*sorted(LICENCES)[::3], "apache-2.0", "llama3", "gpl-3.0", None, "odd"], repeat=3))


def test_order_and_repetition_mean_nothing() -> None:
    for a, b, c in TRIPLES:
        assert verdict([c, a, b, a]) == verdict([a, b, c]), (a, b, c)


def test_more_models_never_lift_a_condition() -> None:
    for licences in TRIPLES:
        found, first = verdict(licences), verdict(licences[:1])
        assert found.because, licences
        if found.licence is not None:
            assert first.licence is not None, licences
            assert set(first.duties) <= set(found.duties), licences
            assert first.outcome == "allowed" or found.outcome == "non-commercial", licences


@pytest.mark.parametrize("licence", sorted(LICENCES))
def test_one_licence_alone_stays_unless_it_forbids_changes(licence: str) -> None:
    assert verdict([licence, licence]).licence == (licence if LICENCES[licence].derivatives else None)


def test_the_facts_that_decided_are_told() -> None:
    assert verdict(["gpl-2.0", "apache-2.0"]).because == (
        "gpl-2.0 asks for gpl-2.0, which cannot take in the conditions of apache-2.0",
    )
    assert verdict(["cc-by-sa-4.0", "agpl-3.0", "mit"]).because == (
        "cc-by-sa-4.0 and agpl-3.0 each ask for their own licence and accept none in common",
    )
    assert verdict(["llama3", "gemma"]).because == (
        "llama3 does not say whether the terms of gemma may be added to its own",
    )
    assert verdict([None, "odd"]).because == (
        "an input does not state its licence", "the terms of 'odd' are not known here",
    )  # fmt: skip
    assert verdict([]).outcome == "undetermined"


def test_one_way_compatibility() -> None:
    assert told("cc-by-sa-4.0", "gpl-3.0") == "gpl-3.0"
    assert told("cc-by-sa-3.0", "cc-by-sa-4.0") == "cc-by-sa-4.0"
    assert told("mpl-2.0", "apache-2.0") == "mpl-2.0"
    assert told("lgpl-2.1", "apache-2.0") == "gpl-3.0"  # whose third version takes in what the second cannot
    assert told("gpl-3.0", "agpl-3.0") == "agpl-3.0"


def test_duties_and_names_add_up() -> None:
    found = verdict(["mit", "llama3.1"])
    assert found.licence == "llama3.1"
    assert found.names == (("Llama", "llama3.1"),)
    assert [duty.partition(":")[0] for duty in found.duties] == ["mit", "llama3.1", "llama3.1"]
    assert "Built with Llama" in found.duties[1]


def test_models_that_stay_apart_keep_their_licences() -> None:
    found = verdict(["cc-by-nd-4.0", "gpl-2.0", None], apart=True)
    assert (found.outcome, found.licence) == ("aggregation", None)
