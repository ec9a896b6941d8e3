"""Every registered study: its smoke run is complete, deterministic and honest; and how runs are asked for."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright import studies
from modelwright.errors import InputError, MissingExtraError
from modelwright.studies import STUDIES, VERDICTS, Figure, Findings, Interval, Outcome, Part, Plot, Study, Table

pytest.importorskip("sklearn")

CARDS = {
    "layer-swapping", "lora-lego", "mos", "llm-domain-adaptation", "merging-at-scale", "model-breadcrumbs", "model-soups", "pcb-merging", "sparse-model-soups",
    "ties-merging",
    "aces", "dylan", "orca-math", "self-moa", "zero-shot-prompt-weighting",
    "diversity-of-thought", "prompt-engineering-survey", "self-ensembled-icl",
    "forests-as-smoothers", "muscle", "reward-ensembles", "window-early-exit",
}  # fmt: skip


@cache
def smoke(name: str) -> Outcome:
    return mw.study(name).run(budget="smoke")


def test_the_studies_of_the_cards_are_there() -> None:
    assert set(STUDIES) >= CARDS
    assert set(mw.study("model-soups").needs) == {"sklearn"}


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_a_smoke_run_has_everything(name: str) -> None:
    outcome = smoke(name)
    document = json.loads(json.dumps(outcome.as_json(), allow_nan=False))
    assert document.keys() >= {"id", "claim", "verdict", "figures", "seconds", "versions", "parts", "rule", "paper"}
    assert (document["version"], document["id"], document["budget"], document["seeds"]) == (1, name, "smoke", [0, 1])
    assert document["verdict"] in VERDICTS
    assert document["versions"].keys() >= {"python", "modelwright", "numpy", "scikit-learn"}
    assert document["seconds"] > 0
    assert len(document["figures"]) > 5
    assert any(part["decides"] for part in document["parts"])
    assert len({part["name"] for part in document["parts"]}) == len(document["parts"])
    assert document["tables"]
    assert document["plots"]
    assert document["notes"]
    for interval in intervals(document):
        assert interval["low"] <= interval["high"]
        assert interval["low"] - 1e-9 <= interval["value"] <= interval["high"] + 1e-9, interval
    assert "\n" not in outcome.claim


def intervals(node: Any) -> Iterator[dict[str, float]]:
    if isinstance(node, dict):
        if node.keys() >= {"value", "low", "high"}:
            yield node
        for child in node.values():
            yield from intervals(child)
    elif isinstance(node, list):
        for child in node:
            yield from intervals(child)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_same_figures_come_out_again(name: str) -> None:
    again, first = mw.study(name).run(seeds=1, budget="smoke").as_json(), mw.study(name).run(1, "smoke").as_json()
    for document in (again, first):
        del document["seconds"]
    assert again == first


def test_more_seeds_are_more_seeds() -> None:
    """What was found for the first seed does not depend on how many there are."""
    one = mw.study("model-soups").run(seeds=1, budget="smoke")
    assert one.seeds == (0,)
    assert one.as_json()["figures"] != smoke("model-soups").as_json()["figures"]


# --- the record ----------------------------------------------------------------------------------------------------


def coin(value: float) -> Study:
    """A study whose one figure is known."""

    def experiment(setting: studies.Setting) -> Findings:
        spread = Interval(value, value - 0.1, value + 0.1)
        for _ in setting.each_seed():
            pass
        return Findings(
            parts=[Part("side", "The coin is not fair", spread, ">", 0.5)],
            figures={"share": Figure("share of heads", spread)},
            tables=[Table("Throws", ("coin", "share"), (("mine", spread),))],
            plots=[Plot("Share", "throws", "share", {"mine": [(1.0, spread)]})],
        )

    return Study("coin", "Coin", "arXiv:0000.00000", "The coin is not fair.", experiment, needs=(), seeds=3)


@pytest.mark.parametrize(("value", "verdict"), [(0.7, "holds"), (0.55, "inconclusive"), (0.3, "does not hold")])
def test_verdicts_come_from_intervals(value: float, verdict: str) -> None:
    outcome = coin(value).run()
    assert outcome.verdict == outcome.as_json()["verdict"] == verdict
    assert outcome.as_json()["parts"][0]["verdict"] == verdict
    assert outcome.seeds == (0, 1, 2)


def test_progress_is_told_by_seed() -> None:
    said: list[tuple[str, int, int]] = []
    coin(0.7).run(progress=lambda *what: said.append(what))
    assert said == [("seed 0", 0, 3), ("seed 1", 1, 3), ("seed 2", 2, 3), ("intervals", 3, 3)]


def test_what_cannot_be_run() -> None:
    study = coin(0.7)
    with pytest.raises(InputError, match=r"coin: there is no budget 'ful'. Did you mean 'full'"):
        study.run(budget="ful")  # type: ignore[arg-type]
    for seeds in (0, -1, 1001):
        with pytest.raises(InputError, match=rf"coin: seeds must be in \[1, 1000\], got {seeds}"):
            study.run(seeds=seeds)
    with pytest.raises(MissingExtraError, match=r"the study coin needs the package 'nowhere'.*modelwright\[eval\]"):
        replace(study, needs=("nowhere",)).run()
    with pytest.raises(ValueError, match="Throws: each row must have 2 cells"):
        Table("Throws", ("coin", "share"), (("mine",),))


def test_versions_are_those_of_the_packages_that_hold_the_modules(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules are imported by other names than packages are installed by, and some belong to none."""
    (tmp_path / "lonely_module.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = replace(coin(0.7), needs=("sklearn", "yaml", "sklearn.metrics", "lonely_module")).run().versions
    assert list(found) == ["python", "modelwright", "numpy", "scikit-learn", "PyYAML", "lonely_module"]
    assert found["PyYAML"] == importlib.metadata.version("PyYAML")
    assert found["lonely_module"] == ""


def test_one_seed_without_items_says_that_it_has_no_interval() -> None:
    from modelwright.studies._text import statements

    def experiment(setting: studies.Setting) -> Findings:
        measured = studies.Measured()
        for seed in setting.each_seed():
            measured.add(seed, "share", 0.7)
        found = measured.interval(lambda mean: mean("share"))
        return Findings([Part("side", "It falls", found, ">", 0.5)], {"share": Figure("share", found)}, [], [])

    one = replace(coin(0.7), experiment=experiment).run(seeds=1)
    assert one.verdict == "inconclusive"
    assert statements(one.parts) == [("It falls", "70.0 %, of one seed: no interval", "> 50 %", "inconclusive")]
    assert one.as_json()["parts"][0]["interval"]["single"] is True
    assert replace(coin(0.7), experiment=experiment).run(seeds=2).verdict == "holds"


def test_an_unknown_id_is_mended() -> None:
    with pytest.raises(InputError, match=r"there is no study 'model-soup'. Did you mean 'model-soups'"):
        mw.study("model-soup")


# --- plugins and entry points --------------------------------------------------------------------------------------

PLUGIN = """
from modelwright.studies import Figure, Findings, Interval, MODEL_SOUPS, Part, Plot, Study

def experiment(setting):
    found = Interval(0.7, 0.6, 0.8)
    return Findings([Part("side", "It falls", found, ">", 0.5)], {"share": Figure("share", found)}, [],
                    [Plot("p", "x", "y", {"mine": [(1, found)]})])

MINE = Study("mine", "Mine", "arXiv:0000.00000", "It falls.", experiment, needs=())
"""


def test_a_plugin_adds_a_study(tmp_path: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN, encoding="utf-8")
    known = studies.studies([path])
    assert set(known) == {*STUDIES, "mine"}
    assert list(known) == sorted(known)
    assert mw.study("mine", [path]).run().verdict == "holds"
    path.write_text(PLUGIN.replace('Study("mine"', 'Study("ties-merging"'), encoding="utf-8")
    with pytest.raises(InputError, match=r"two studies are called 'ties-merging'. Rename the one in the plugin"):
        studies.studies([path])
    path.write_text("from modelwright.studies import MODEL_SOUPS\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"defines no Study. Write NAME = Study"):
        studies.studies([path])
    path.write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"the plugin fails: ZeroDivisionError.*mine\.py:1"):
        studies.studies([path])


class Point:
    """An entry point as importlib.metadata gives it."""

    name, value, dist = "theirs", "package:THEIRS", None

    def __init__(self, loaded: Any):
        self.loaded = loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.mark.parametrize(
    ("loaded", "complaint"),
    [
        (replace(coin(0.7), id="theirs"), None),
        (3, "the entry point 'theirs = package:THEIRS' is a int. It must name a modelwright.studies.Study"),
        (ImportError("no"), "the entry point 'theirs = package:THEIRS' cannot be loaded: ImportError: no"),
    ],
)
def test_installed_packages_add_studies(loaded: Any, complaint: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"modelwright.studies": [Point(loaded)]}
    monkeypatch.setattr("modelwright.studies._registry.installed", lambda group: points.get(group, ()))
    if complaint is None:
        assert mw.study("theirs") is loaded
    else:
        with pytest.raises(InputError, match=complaint):
            studies.studies()


# --- the studies' own arithmetic -----------------------------------------------------------------------------------


def test_disjoint_means_with_elected_signs_are_the_librarys_ties() -> None:
    from modelwright.studies._ties_merging import DENSITY, disjoint_mean, trimmed

    deltas = np.random.default_rng(0).normal(size=(5, 1000))
    kept = trimmed(deltas, DENSITY)
    assert (np.count_nonzero(kept, axis=1) == 200).all()
    ours = disjoint_mean(kept, np.where(kept.sum(axis=0) >= 0, 1.0, -1.0))
    base = {"w": np.zeros(1000)}
    theirs = mw.merge([{"w": delta} for delta in deltas], base=base, method="ties", density=DENSITY)["w"].read()
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_conflicts_are_counted() -> None:
    from modelwright.studies._ties_merging import conflict

    assert conflict(np.array([[1.0, 1.0, 0.0, 2.0], [1.0, -1.0, -1.0, 0.0]])) == 0.25


def test_views_keep_what_an_image_holds_and_splits_are_apart() -> None:
    from modelwright.studies._digits import VIEWS, digits, digits_task
    from modelwright.suites._views import views

    parts = digits(0)
    assert [len(parts[name]) for name in ("tune", "validation", "test")] == [1078, 359, 360]
    assert len({name for items in parts.values() for name in items.ids}) == 1797
    images = np.asarray(parts["test"].inputs)
    known = views(np.random.default_rng(0))
    assert set(known) == set(VIEWS)
    for name, view in known.items():
        shown = view(images)
        assert shown.shape == images.shape
        assert not np.array_equal(shown, images), name
        assert len(np.unique(shown.reshape(len(images), -1), axis=0)) == len(
            np.unique(images.reshape(len(images), -1), axis=0)
        )
        task = digits_task(name, parts, view)
        assert task.items("test").ids == parts["test"].ids
        with pytest.raises(InputError, match="'test' cannot be read here"):
            task.for_search().items("test")


def test_one_merge_serves_all_scales() -> None:
    from modelwright.studies._digits import SMALL, experts

    family = experts(0, ("rotate", "mirror"), SMALL)
    for method, parameters in (
        ("task_arithmetic", {}),
        ("ties", {"semantics": "paper"}),
        ("breadcrumbs", {"density": 0.15, "gamma": 0.006}),
        ("dare_ties", {"density": 0.5, "rescale": "expectation"}),
    ):
        along = family.along(method, **parameters)(0.35)
        for name, array in family.merged(method, lambda_=0.35, **parameters).items():
            np.testing.assert_allclose(along[name], array, atol=1e-6)
    head = [name for name in family.base if name.startswith("head")]
    assert all(np.array_equal(family.tuned[task][name], family.base[name]) for task in family.tuned for name in head)


def test_corruption_touches_few_entries() -> None:
    from modelwright.studies._model_breadcrumbs import corrupted

    rng = np.random.default_rng(0)
    base = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    tuned = {name: array + rng.normal(0, 0.01, array.shape).astype(np.float32) for name, array in base.items()}
    spoilt = corrupted(tuned, base, 20.0, np.random.default_rng(1))
    changed = {name: np.flatnonzero(spoilt[name] != tuned[name]) for name in SHAPES}
    assert {name: len(places) for name, places in changed.items()} == {
        "layers.0.weight": 2,
        "layers.0.bias": 0,
        "head.weight": 0,
    }
    delta = (spoilt["layers.0.weight"] - base["layers.0.weight"]).reshape(-1)[changed["layers.0.weight"]]
    most = np.abs(tuned["layers.0.weight"] - base["layers.0.weight"]).max()
    np.testing.assert_allclose(np.abs(delta), 20 * most, rtol=1e-4)


SHAPES = {"layers.0.weight": (50, 40), "layers.0.bias": (50,), "head.weight": (10, 50)}


def test_generated_vectors_measure_what_they_say() -> None:
    from modelwright.studies._vectors import vectors

    made = vectors(np.random.default_rng(0), outliers=20)
    supports = made.signals != 0
    assert (supports.sum(axis=1) == 1000).all()
    assert supports.sum(axis=0).max() == 1
    assert (np.abs(made.deltas) == 20).sum() == 8 * 20
    clean = made.signals.sum(axis=0)
    assert made.recovered(clean) == pytest.approx(1)
    assert made.off_support(clean) == 0
    assert made.error(clean) == 0
    assert made.error(np.zeros_like(clean)) == pytest.approx(1)


def test_subsets_of_experts() -> None:
    from modelwright.studies._merging_at_scale import HELD_IN, HELD_OUT, subsets

    assert not set(HELD_IN) & set(HELD_OUT)
    for count, number in ((2, 3), (4, 3), (6, 1)):
        found = subsets(1, count)
        assert len(found) == number
        assert all(len(set(names)) == count and set(names) <= set(HELD_IN) for names in found)


def test_what_was_changed_after_results_decides_nothing() -> None:
    """Strengths of corruption and tolerances that came after a first run, and statements that cannot come out otherwise."""
    decides = {
        name: {part.name: part.decides for part in smoke(name).parts}
        for name in ("model-breadcrumbs", "merging-at-scale", "model-soups")
    }
    crumbs = decides["model-breadcrumbs"]
    assert not any(crumbs[name] for name in ("construction", "survives more", "collapses at more"))
    assert crumbs["survives"]
    assert crumbs["collapses"]
    assert all("20-fold" not in part.says for part in smoke("model-breadcrumbs").parts if not part.decides)
    assert not decides["merging-at-scale"]["contains averaging"]
    assert not any(decides["model-soups"][name] for name in ("greedy on validation", "greedy steps"))
    assert decides["model-soups"]["greedy improves"]


def test_one_entry_more_than_the_signal_is_the_noise_of_the_plan() -> None:
    """The authors' TIES keeps int(density x size) + 1 entries, which at the signal's own density is one of noise."""
    from modelwright.studies._ties_merging import GENERATED
    from modelwright.studies._vectors import vectors

    exact, more = (GENERATED[name] for name in ("TIES, density 0.05", "TIES, density 0.05 and one entry"))
    noise: list[float] = []
    for seed in range(5):
        made = vectors(np.random.default_rng((seed, 30)))
        assert made.off_support(made.merged(exact[0], **exact[1])) == 0
        noise.append(made.off_support(made.merged(more[0], **more[1])))
    assert np.mean(noise) == pytest.approx(0.004, abs=0.0005)
