"""Self-MoA: are several samples of the best model better than one sample of each of several models?"""

from __future__ import annotations

from typing import Any

from modelwright.chat import MOA, SELF_CONSISTENCY, SELF_MOA_SEQ
from modelwright.studies._answerers import (
    correlated_majority,
    deviation,
    majority_of,
    panel,
    questions,
    right,
    script,
    solved,
    spoken,
)
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table

#: Accuracies of three proposers: one stands out, one less so, none does.
TEAMS: dict[str, tuple[float, float, float]] = {
    "one strong": (0.8, 0.6, 0.6), "one stronger": (0.8, 0.7, 0.6), "alike": (0.7, 0.7, 0.7),
}  # fmt: skip
#: Correlations between samples of one model, where the models of a team are independent of each other.
CORRELATIONS = (0.0, 0.25, 0.5, 0.75)
#: Proposals of Self-MoA-Seq, and the merges that they take with a window of 6, 3 of them reserved.
SEQUENTIAL = {6: 1, 7: 2, 9: 2, 30: 9}
YES_NO = ("yes", "no")
#: A figure this many standard errors away from its closed form would be an error of ours.
FAR = 4.5
#: How much of the training images the classifiers of the digits' team see; the first is the best.
SEEN = (300, 60, 40)


def experiment(setting: Setting) -> Findings:
    """Scripted proposers against closed forms; then classifiers of digits."""
    measured = Measured()
    items = 150 if setting.smoke else 1000
    for seed in setting.each_seed():
        _scripted(measured, seed, items)
        _sequential(measured, seed)
        _digits(measured, seed, 60 if setting.smoke else 360)
    return Findings(
        parts=_parts(measured),
        figures=_figures(measured),
        tables=(_table(measured),),
        plots=(_plot(measured),),
        notes=(
            "Aggregators are scripts that write the most frequent answer of what they are shown. So this is about proposals, and "
            "not about how well a model merges texts.",
            "Scripted answers are yes or no, wrong ones all alike: the hardest case for a vote.",
            "Samples of a classifier are drawn from its own probabilities; they share its weaknesses, as samples of a language "
            "model do.",
        ),
    )


def _scripted(measured: Measured, seed: int, items: int) -> None:
    known = questions(items, YES_NO)
    asked = list(known)
    judge = script(known, "judge", seed)
    worst = 0.0

    def measure(name: Any, work: Any, expected: float) -> None:
        nonlocal worst
        scores = right(solved(work, asked), known, asked)
        measured.add(seed, name, scores)
        worst = max(worst, deviation(float(scores.mean()), expected, items))

    for team, shares in TEAMS.items():
        members = {
            f"m{i}": script(known, f"{team} {i}", seed, accuracy=p, options=YES_NO) for i, p in enumerate(shares)
        }
        everyone = {**members, "judge": judge}
        best = max(members, key=lambda name: members[name].accuracy)  # type: ignore[reportArgumentType]
        measure((team, "single"), panel({best: members[best]}, SELF_CONSISTENCY, samples=1), max(shares))
        mixed = panel(everyone, MOA, proposers=list(members), aggregator="judge")
        measure((team, "mixed"), mixed, majority_of(shares))
        own = panel(everyone, MOA, proposers=[best], samples=3, aggregator="judge")
        measure((team, "self"), own, majority_of([max(shares)] * 3))
    for correlation in CORRELATIONS:
        one = script(
            known, "one", seed * 1000 + round(100 * correlation), accuracy=0.7, correlation=correlation, options=YES_NO
        )
        work = panel({"one": one, "judge": judge}, MOA, proposers=["one"], samples=3, aggregator="judge")
        measure(("correlated", correlation), work, correlated_majority(3, 0.7, correlation))
    measured.add(seed, "far", worst)


def _sequential(measured: Measured, seed: int) -> None:
    known = questions(2, YES_NO)
    backends = {"one": script(known, "one", seed, accuracy=0.7, options=YES_NO)}
    wrong = 0
    for samples, merges in SEQUENTIAL.items():
        outcomes = solved(panel(backends, SELF_MOA_SEQ, samples=samples), list(known))
        wrong += sum(abs(sum(s.purpose == "merge" for s in o.steps) - merges) for o in outcomes)
    measured.add(seed, "merges", float(wrong))


def _digits(measured: Measured, seed: int, items: int) -> None:
    from sklearn.linear_model import LogisticRegression

    data = spoken(seed, items)
    pixels, targets = data.train
    asked = list(data.known)
    members: dict[str, Any] = {}
    for i, seen in enumerate(SEEN):
        start = sum(SEEN[:i])
        fitted = LogisticRegression(max_iter=300).fit(pixels[start : start + seen], targets[start : start + seen])
        members[f"m{i}"] = data.classifier(f"m{i}", fitted, seed)
    everyone = {**members, "judge": script(data.known, "judge", seed)}
    works = {
        "single": panel({"m0": members["m0"]}, SELF_CONSISTENCY, samples=1),
        "mixed": panel(everyone, MOA, proposers=list(members), aggregator="judge"),
        "self": panel(everyone, MOA, proposers=["m0"], samples=3, aggregator="judge"),
    }
    for name, work in works.items():
        # Figures of a seed: the digits' images are not the scripted questions.
        measured.add(seed, ("digits", name), float(right(solved(work, asked), data.known, asked).mean()))


def _parts(measured: Measured) -> tuple[Part, ...]:
    def gain(first: Any, second: Any) -> Any:
        return measured.interval(lambda mean: mean(first) - mean(second))

    return (
        Part(
            "closed forms", f"Every accuracy is its closed form, within {FAR} standard errors for every seed",
            measured.range(lambda mean: mean("far")), "<=", FAR, unit="",
        ),
        Part(
            "merges", "Self-MoA-Seq merges 1, 2, 2 and 9 times for 6, 7, 9 and 30 proposals",
            measured.range(lambda mean: mean("merges")), "<=", 0.0, unit="",
        ),
        Part(
            "self beats mixed", "Where one proposer is strong, three samples of it are better than one of each",
            gain(("one strong", "self"), ("one strong", "mixed")), ">", 0.0,
        ),
        Part(
            "mixing costs", "There the mixture is worse than one sample of the best",
            gain(("one strong", "single"), ("one strong", "mixed")), ">", 0.0,
        ),
        Part(
            "mixing pays", "Where proposers are alike and a model's own samples correlate by 0.5, the mixture is better",
            gain(("alike", "mixed"), ("correlated", 0.5)), ">", 0.0,
        ),
        Part(
            "digits", "On digits, samples of the best classifier are better than the mixture",
            gain(("digits", "self"), ("digits", "mixed")), ">", 0.0,
        ),
    )  # fmt: skip


def _figures(measured: Measured) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for team, shares in TEAMS.items():
        for kind in ("single", "mixed", "self"):
            what = f"accuracy, proposers {' / '.join(map(str, shares))}: {kind}"
            found[f"{team}, {kind}"] = Figure(what, measured.interval(lambda mean, n=(team, kind): mean(n)))
    for kind in ("single", "mixed", "self"):
        name = ("digits", kind)
        found[f"digits, {kind}"] = Figure(
            f"accuracy on digits: {kind}", measured.interval(lambda mean, n=name: mean(n))
        )
    return found


def _table(measured: Measured) -> Table:
    rows = [
        (
            f"{team}: {' / '.join(map(str, shares))}",
            *(measured.interval(lambda mean, n=(team, kind): mean(n)) for kind in ("single", "mixed", "self")),
        )
        for team, shares in TEAMS.items()
    ]
    kinds = ("single", "mixed", "self")
    rows.append(("digits", *(measured.interval(lambda mean, n=("digits", kind): mean(n)) for kind in kinds)))
    return Table(
        "Accuracy of one sample, of a mixture, and of three samples of the best", ("team", *kinds), tuple(rows)
    )


def _plot(measured: Measured) -> Plot:
    own = [(c, measured.interval(lambda mean, c=c: mean(("correlated", c)))) for c in CORRELATIONS]
    mixed = measured.interval(lambda mean: mean(("alike", "mixed")))
    return Plot(
        "Three samples of one model that is right at 0.7, and one sample of each of three such models",
        "correlation between samples of one model", "accuracy",
        {"samples of one": own, "independent models": [(c, mixed) for c in CORRELATIONS]},
    )  # fmt: skip


SELF_MOA = Study(
    id="self-moa",
    title="Self-MoA",
    paper="arXiv:2502.00674",
    claim="Several samples of the one best model are better proposals than one sample of each of several; mixing pays among equals only.",
    experiment=experiment,
)
