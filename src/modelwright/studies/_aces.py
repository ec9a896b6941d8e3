"""ACES: does any score of translations see every kind of error, and do several see more together?"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.chat import ACES_WEIGHTS, Challenge, Pair, aces_category, challenge, combined, tau
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.tensors import Array

#: Pairs of each phenomenon, one phenomenon for each category of ACES.
PHENOMENA = (
    "addition", "omission", "nonsense", "copy-source", "do-not-translate", "hyponym-replacement", "hypernym-replacement",
    "antonym-replacement", "similar-language-high", "punctuation:deletion_all",
)  # fmt: skip
#: Standard deviations of noisy scores of a quality gap of 1, and how many are averaged.
NOISY = ((1.0, 1), (1.0, 4), (2.0, 1), (2.0, 4))
FAR = 4.5
#: Of the made-up language: concepts, words of a sentence.
CONCEPTS, LENGTH = 120, 9


def experiment(setting: Setting) -> Findings:
    """Noisy scores against their closed form; then scores of a made-up language with ten kinds of errors."""
    measured = Measured()
    pairs = 40 if setting.smoke else 300
    for seed in setting.each_seed():
        _noise(measured, seed, 500 if setting.smoke else 5000)
        _language(measured, seed, pairs)
    return Findings(
        parts=_parts(measured),
        figures=_figures(measured),
        tables=(_table(measured),),
        plots=(_plot(measured),),
        notes=(
            "The language is made up: each concept has a source word, two target words of one meaning, a wider and a narrower "
            "word, an opposite, and a word in a similar language. Good translations and references choose between the two at random.",
            "Scores: `overlap` and `pairs` compare words and pairs of words with the reference, `dictionary` looks every word up "
            "in the source, `length` compares lengths. `together` is the mean of the others in standard deviations of their "
            "values on ordinary translations.",
            "Real metrics and language models as judges are not here; the arithmetic that would judge them is.",
        ),
    )


def _noise(measured: Measured, seed: int, n: int) -> None:
    rng = np.random.default_rng((seed, 50))
    far = 0.0
    for sigma, members in NOISY:
        good = 1 + sigma * rng.normal(size=(members, n)).mean(axis=0)
        bad = sigma * rng.normal(size=(members, n)).mean(axis=0)
        found, expected = tau(good, bad), math.erf(math.sqrt(members) / (2 * sigma))
        measured.add(seed, ("noisy", sigma, members), found)
        far = max(far, abs(found - expected) / math.sqrt((1 - expected**2) / n))
    measured.add(seed, "far", far)


# --- the language ------------------------------------------------------------------------------------------------------


@dataclass
class _Language:
    rng: np.random.Generator

    def word(self, concept: int, kind: str = "") -> str:
        """A target word; the two of one meaning take turns at random."""
        return f"{kind or 'ab'[int(self.rng.integers(2))]}{concept}"

    def sentence(self) -> list[int]:
        return [int(i) for i in self.rng.choice(CONCEPTS, size=LENGTH, replace=False)]

    def said(self, concepts: Sequence[int]) -> list[str]:
        """Name first, then words, then a full stop; the name stays as it is."""
        return [f"Name{concepts[0]}", *(self.word(c) for c in concepts[1:]), "."]

    def pair(self, phenomenon: str) -> Pair:
        """A good translation and one with an error."""
        concepts = self.sentence()
        source = [f"Name{concepts[0]}", *(f"s{c}" for c in concepts[1:]), "."]
        good = self.said(concepts)
        place = int(self.rng.integers(1, LENGTH))
        bad = self.spoilt(phenomenon, good, concepts, place)
        reference = " ".join(self.said(concepts))
        return Pair(" ".join(source), " ".join(good), " ".join(bad), phenomenon, reference)

    def spoilt(self, phenomenon: str, good: list[str], concepts: Sequence[int], place: int) -> list[str]:
        other, at = int(self.rng.integers(CONCEPTS)), concepts[place]
        changed = {
            "nonsense": self.word(other), "copy-source": f"s{at}", "hyponym-replacement": f"narrow{at}",
            "hypernym-replacement": f"wide{at}", "antonym-replacement": f"opposite{at}",
        }  # fmt: skip
        match phenomenon:
            case "addition":
                return [*good[:place], self.word(other), *good[place:]]
            case "omission":
                return [*good[:place], *good[place + 1 :]]
            case "do-not-translate":
                return [f"Translated{concepts[0]}", *good[1:]]
            case "similar-language-high":
                return [good[0], *(f"like{c}" for c in concepts[1:]), "."]
            case "punctuation:deletion_all":
                return good[:-1]
            case _:
                return [*good[:place], changed[phenomenon], *good[place + 1 :]]


def _f1(mine: Counter[Any], theirs: Counter[Any]) -> float:
    common = sum((mine & theirs).values())
    return 2 * common / max(sum(mine.values()) + sum(theirs.values()), 1)


def _overlap(pair: Pair, text: str) -> float:
    return _f1(Counter(text.split()), Counter(pair.reference.split()))


def _pairs(pair: Pair, text: str) -> float:
    def of(words: list[str]) -> Counter[Any]:
        return Counter(itertools.pairwise(words))

    return _f1(of(text.split()), of(pair.reference.split()))


def _dictionary(pair: Pair, text: str) -> float:
    """Each word is looked up: which concepts it may mean; punctuation is no word."""
    meant = Counter(word[1:] for word in text.split() if word[0] in "ab" and word[1:].isdigit())
    meant.update(word for word in text.split() if word.startswith("Name"))
    asked = Counter(word[1:] if word[0] == "s" else word for word in pair.source.split() if word != ".")
    unknown = sum(1 for word in text.split() if word != ".") - sum(meant.values())
    meant.update({"": unknown})
    return _f1(meant, asked)


def _length(pair: Pair, text: str) -> float:
    return -abs(len(text.split()) - len(pair.source.split()))


SCORES: dict[str, Callable[[Pair, str], float]] = {
    "overlap": _overlap, "pairs": _pairs, "dictionary": _dictionary, "length": _length,
}  # fmt: skip
SYSTEMS = (*SCORES, "together")


def _language(measured: Measured, seed: int, count: int) -> None:
    language = _Language(np.random.default_rng((seed, 51)))
    pairs = [language.pair(phenomenon) for phenomenon in PHENOMENA for _ in range(count)]
    ordinary = [language.pair(PHENOMENA[i % len(PHENOMENA)]) for i in range(500)]
    values: dict[str, tuple[Array, Array]] = {}
    known: list[Array] = []
    for name, score in SCORES.items():
        good, bad = (
            np.array([score(p, text) for p, text in zip(pairs, texts, strict=True)]) for texts in _sides(pairs)
        )
        values[name] = good, bad
        known.append(
            np.concatenate([[score(p, t) for p, t in zip(ordinary, side, strict=True)] for side in _sides(ordinary)])
        )
    values["together"] = tuple(combined([values[name][side] for name in SCORES], known) for side in (0, 1))  # type: ignore[assignment]
    phenomena = [pair.phenomenon for pair in pairs]
    found: dict[str, Challenge] = {name: challenge(*values[name], phenomena) for name in SYSTEMS}
    for name, one in found.items():
        assert one.score is not None
        measured.add(seed, ("score", name), one.score)
        for category, value in one.categories.items():
            measured.add(seed, ("category", name, category), value)
        measured.add(seed, ("ties", name), float(np.mean(list(one.ties.values()))))
        measured.add(seed, ("wins", name), float(sum(_wins(found, name, category) for category in one.categories)))
    best = max(SCORES, key=lambda name: found[name].score or 0.0)
    measured.add(seed, "gain", (found["together"].score or 0.0) - (found[best].score or 0.0))


def _sides(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [pair.good for pair in pairs], [pair.bad for pair in pairs]


def _wins(found: dict[str, Challenge], name: str, category: str) -> bool:
    """Whether no other single score is better in a category."""
    return all(found[name].categories[category] >= found[other].categories[category] for other in SCORES)


def _parts(measured: Measured) -> tuple[Part, ...]:
    most = measured.range(lambda mean: np.max([mean(("wins", name)) for name in SCORES], axis=0))
    return (
        Part(
            "closed forms", f"tau of noisy scores is its closed form, within {FAR} standard errors for every seed",
            measured.range(lambda mean: mean("far")), "<=", FAR, unit="",
        ),
        Part("no best", "No score is the best in all ten categories, for any seed", most, "<", 10.0, unit=""),
        Part(
            "together", "The mean of all scores is better than the best of them",
            measured.interval(lambda mean: mean("gain")), ">", 0.0, unit="",
        ),
        Part(
            "averaging", "The mean of four equally noisy scores has a higher tau than one",
            measured.interval(lambda mean: mean(("noisy", 1.0, 4)) - mean(("noisy", 1.0, 1))), ">", 0.0, unit="",
        ),
        Part(
            "ties cost", "The score with the most ties has the lowest ACES score, for every seed",
            measured.range(
                lambda mean: np.min([mean(("score", name)) for name in SCORES if name != "length"], axis=0) - mean(("score", "length"))
            ), ">", 0.0, decides=False, unit="",
        ),
    )  # fmt: skip


def _figures(measured: Measured) -> dict[str, Figure]:
    found = {
        f"ACES, {name}": Figure(f"ACES score of {name}, in [-29.1, 29.1]", measured.interval(lambda mean, n=("score", name): mean(n)), unit="")
        for name in SYSTEMS
    }  # fmt: skip
    for name in SYSTEMS:
        found[f"ties, {name}"] = Figure(
            f"pairs with equal scores: {name}", measured.interval(lambda mean, n=("ties", name): mean(n))
        )
    return found


def _table(measured: Measured) -> Table:
    rows = [
        (category, *(measured.interval(lambda mean, n=("category", name, category): mean(n)) for name in SYSTEMS))
        for category in ACES_WEIGHTS
    ]
    rows.append(("ACES score", *(measured.interval(lambda mean, n=("score", name): mean(n)) for name in SYSTEMS)))
    return Table("tau by category", ("category", *SYSTEMS), tuple(rows), unit="")


def _plot(measured: Measured) -> Plot:
    order = {aces_category(phenomenon): float(i + 1) for i, phenomenon in enumerate(PHENOMENA)}
    lines = {
        name: [
            (at, measured.interval(lambda mean, n=("category", name, category): mean(n)))
            for category, at in order.items()
        ]
        for name in SYSTEMS
    }
    return Plot("tau by category, in the order of the table", "category", "tau", lines, unit="")


ACES = Study(
    id="aces",
    title="ACES",
    paper="arXiv:2401.16313",
    claim="No score of translations is the best for every kind of error, and scores that see different errors see more together.",
    experiment=experiment,
)
