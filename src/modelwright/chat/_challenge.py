"""Challenge sets: does a score prefer the right text to one that is wrong in a known way (ACES)?"""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from modelwright.chat._forms import blocks, render
from modelwright.chat._messages import Agent, user
from modelwright.chat._session import Session, together
from modelwright.errors import InputError, did_you_mean, listing
from modelwright.tensors import Array

TiesCount = Literal["discordant", "half", "drop"]
Missing = Literal["propagate", "raise", "drop"]

#: ACES: what each category counts.
ACES_WEIGHTS: Mapping[str, float] = {
    "addition": 5, "omission": 5, "mistranslation": 5, "untranslated": 1, "do not translate": 1, "overtranslation": 5,
    "undertranslation": 5, "real-world knowledge": 1, "wrong language": 1, "punctuation": 0.1,
}  # fmt: skip
#: ACES: the category of each phenomenon, by patterns; the first that fits decides.
ACES_CATEGORIES: tuple[tuple[str, str], ...] = (
    ("addition", "addition"), ("omission", "omission"),
    ("copy-source", "untranslated"), ("untranslated-vs-ref-word", "untranslated"),
    ("untranslated-vs-synonym", "untranslated"), ("do-not-translate", "do not translate"),
    ("hyponym-replacement", "overtranslation"), ("hypernym-replacement", "undertranslation"),
    ("antonym-replacement", "real-world knowledge"), ("commonsense-only-ref-ambiguous", "real-world knowledge"),
    ("commonsense-src-and-ref-ambiguous", "real-world knowledge"), ("real-world-knowledge-*", "real-world knowledge"),
    ("similar-language-*", "wrong language"), ("punctuation:*", "punctuation"),
    *((pattern, "mistranslation") for pattern in (
        "ambiguous-translation-*", "anaphoric_*", "pleonastic_*", "coreference-*", "hallucination-*", "lexical-overlap",
        "modal_verb:*", "nonsense", "ordering-mismatch", "overly-literal-*", "xnli-*",
    )),
)  # fmt: skip


def aces_category(phenomenon: str) -> str:
    """The ACES category of a phenomenon.

    Raises:
        InputError: It is none of ACES.

    Example:
        >>> aces_category("hallucination-named-entity-level-1")
        'mistranslation'
    """
    for pattern, category in ACES_CATEGORIES:
        if fnmatchcase(phenomenon, pattern):
            return category
    known = [pattern for pattern, _ in ACES_CATEGORIES]
    raise InputError(f"'{phenomenon}' is no phenomenon of ACES", did_you_mean(phenomenon, known, 6))


def tau(good: Array | Sequence[float], bad: Array | Sequence[float], *, ties: TiesCount = "discordant") -> float:
    """(concordant - discordant) / (concordant + discordant) of pairs: concordant where the good text scores higher.

    Args:
        good: Scores of the good texts, the higher the better, (n,). A missing one makes the result NaN.
        bad: Of the bad texts, (n,).
        ties: Equal scores: `discordant` counts them against the score, as ACES does; `half` counts them on both sides; `drop`
            leaves them out.

    Returns:
        In [-1, 1]; NaN where a score is missing, or nothing is left.

    Differs:
        1. It is no Kendall's tau of scipy: pairs are given, and ties count.

    Source:
        Amrhein et al. 2022, arXiv:2210.15615.

    Example:
        >>> tau([2, 2, 1], [1, 2, 0])
        0.3333333333333333
    """
    good, bad = np.asarray(good, np.float64), np.asarray(bad, np.float64)
    if good.shape != bad.shape or good.ndim != 1:
        raise InputError(f"pairs have as many good as bad scores, got {good.shape} and {bad.shape}")
    if ties not in get_args(TiesCount):
        raise InputError(f"ties cannot be '{ties}'", did_you_mean(ties, get_args(TiesCount)))
    if np.isnan(good).any() or np.isnan(bad).any():
        return math.nan
    higher, equal = int((good > bad).sum()), int((good == bad).sum())
    against = len(good) - higher - equal
    if ties == "half":
        return (higher - against) / len(good) if len(good) else math.nan
    against += equal if ties == "discordant" else 0
    return (higher - against) / (higher + against) if higher + against else math.nan


@dataclass(frozen=True)
class Pair:
    """One example of a challenge set.

    Attributes:
        source: What was to be translated, or the question.
        good: The right text.
        bad: One with an error.
        phenomenon: Which error.
        reference: Another right text; empty where there is none.
        langpair: Such as `de-en`.
        annotated: The bad text with its errors between <v> and </v>; empty where they are not marked.
    """

    source: str
    good: str
    bad: str
    phenomenon: str
    reference: str = ""
    langpair: str = ""
    annotated: str = ""


_COLUMNS = {
    "source": "source", "good-translation": "good", "incorrect-translation": "bad", "phenomena": "phenomenon",
    "reference": "reference", "langpair": "langpair", "incorrect-translation-annotated": "annotated",
}  # fmt: skip


def read_pairs(path: str | Path) -> list[Pair]:
    """A challenge set from a table as ACES is published: separated by tabs, quotes are letters.

    Raises:
        InputError: It cannot be read, or a column is missing.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the challenge set cannot be read: {error}", where=str(path)) from error
    rows = list(csv.reader(text.split("\n"), delimiter="\t", quoting=csv.QUOTE_NONE))
    head, body = rows[0], [row for row in rows[1:] if row]
    missing = [name for name in list(_COLUMNS)[:4] if name not in head]
    if missing:
        raise InputError(
            f"a challenge set needs the columns {listing(list(_COLUMNS)[:4])}, and lacks {listing(missing)}",
            where=str(path),
        )
    places = {field: head.index(name) for name, field in _COLUMNS.items() if name in head}
    for number, row in enumerate(body, 2):
        if len(row) != len(head):
            raise InputError(f"a row must have {len(head)} columns, got {len(row)}", where=f"{path}:{number}")
    return [Pair(**{field: row[place] for field, place in places.items()}) for row in body]


@dataclass(frozen=True)
class Challenge:
    """What a score is worth on a challenge set.

    Attributes:
        taus: By phenomenon.
        categories: Mean of the taus of its phenomena, by category.
        score: Categories times their weights, summed; None where a category that counts has no phenomenon.
        ties: Share of pairs with equal scores, by phenomenon: coarse scores have many, which count against them.
        counts: Pairs, by phenomenon.
        missing: Categories that count and have no phenomenon.
    """

    taus: Mapping[str, float]
    categories: Mapping[str, float]
    score: float | None
    ties: Mapping[str, float]
    counts: Mapping[str, int]
    missing: tuple[str, ...] = ()


def challenge(
    good: Array | Sequence[float],
    bad: Array | Sequence[float],
    phenomena: Sequence[str],
    *,
    category: Callable[[str], str] | Mapping[str, str] = aces_category,
    weights: Mapping[str, float] = ACES_WEIGHTS,
    ties: TiesCount = "discordant",
    missing: Missing = "propagate",
    higher_is_better: bool = True,
) -> Challenge:
    """Tau by phenomenon, their means by category, and one weighted score.

    Args:
        good: Scores of the good texts, (n,).
        bad: Scores of the bad texts, (n,).
        phenomena: Of each pair, (n,).
        category: The category of a phenomenon.
        weights: What each category counts; those of ACES by default.
        ties: As in `tau`.
        missing: Scores that are NaN: `propagate` makes their phenomenon NaN, `raise` refuses, `drop` leaves the pair out.
        higher_is_better: False for error rates.

    Returns:
        The taus and what comes of them. Categories weigh phenomena and not pairs.

    Raises:
        InputError: Lengths differ, a phenomenon has no category, or a score is missing and must not be.

    Source:
        Amrhein et al. 2022, arXiv:2210.15615; Moghe et al. 2024, arXiv:2401.16313.
    """
    good, bad = (np.asarray(values, np.float64) * (1 if higher_is_better else -1) for values in (good, bad))
    if not len(good) == len(bad) == len(phenomena):
        raise InputError(f"pairs need scores and phenomena alike, got {len(good)}, {len(bad)} and {len(phenomena)}")
    if missing not in get_args(Missing):
        raise InputError(f"missing cannot be '{missing}'", did_you_mean(missing, get_args(Missing)))
    gaps = np.isnan(good) | np.isnan(bad)
    if missing == "raise" and gaps.any():
        raise InputError(f"{int(gaps.sum())} scores are missing, the first of pair {int(gaps.argmax())}")
    rows: dict[str, list[int]] = defaultdict(list)
    for i, phenomenon in enumerate(phenomena):
        if missing != "drop" or not gaps[i]:
            rows[phenomenon].append(i)
    taus = {name: tau(good[places], bad[places], ties=ties) for name, places in rows.items()}
    equal = {name: float((good[places] == bad[places]).mean()) for name, places in rows.items()}
    home: dict[str, list[float]] = defaultdict(list)
    for name, value in taus.items():
        home[category(name) if callable(category) else _of(category, name)].append(value)
    unknown = [name for name in home if name not in weights]
    if unknown:
        raise InputError(f"the category '{unknown[0]}' has no weight", did_you_mean(unknown[0], weights))
    means = {name: float(np.mean(home[name])) for name in weights if name in home}
    lacking = tuple(name for name in weights if name not in means)
    score = None if lacking else weighted_score(means, weights)
    return Challenge(taus, means, score, equal, {name: len(places) for name, places in rows.items()}, lacking)


def _of(category: Mapping[str, str], phenomenon: str) -> str:
    if phenomenon not in category:
        raise InputError(f"the phenomenon '{phenomenon}' has no category", did_you_mean(phenomenon, category))
    return category[phenomenon]


def weighted_score(categories: Mapping[str, float], weights: Mapping[str, float] = ACES_WEIGHTS) -> float:
    """Categories times their weights, summed; with the weights of ACES in [-29.1, 29.1].

    Raises:
        InputError: A category is missing.
    """
    lacking = [name for name in weights if name not in categories]
    if lacking:
        raise InputError(f"the score needs all categories, and there is no {listing(lacking)}")
    return math.fsum(weights[name] * categories[name] for name in weights)


def sensitivity(
    good: Array | Sequence[float], bad: Array | Sequence[float], ordinary: Array | Sequence[float] | None = None
) -> float:
    """How far a score moves between good and bad texts, in units that do not depend on its scale.

    Args:
        good: Scores of the good texts, (n,).
        bad: Scores of the bad texts, (n,).
        ordinary: The same score on a large ordinary set: the difference is measured in its interquartile ranges. None scales
            by the scores themselves: sum(good - bad) / sum(|good| + |bad|).

    Raises:
        InputError: The interquartile range, or all scores, are 0.
    """
    good, bad = np.asarray(good, np.float64), np.asarray(bad, np.float64)
    if ordinary is None:
        total = float((np.abs(good) + np.abs(bad)).sum())
        if not total:
            raise InputError("all scores are 0, so that there is no scale")
        return float((good - bad).sum()) / total
    low, high = np.quantile(np.asarray(ordinary, np.float64), [0.25, 0.75])
    if low == high:
        raise InputError("the ordinary scores have an interquartile range of 0, so that there is no scale")
    return float((good - bad).mean() / (high - low))


# --- spans ---------------------------------------------------------------------------------------------------------------

_SPAN = re.compile(r"<v>(.*?)</v>", re.DOTALL)


def read_spans(annotated: str) -> list[str]:
    """What stands between <v> and </v>, without white space at its ends; empty ones are left out.

    Example:
        >>> read_spans("The <v>dog </v> sleeps.")
        ['dog']
    """
    return [text for found in _SPAN.findall(annotated) if (text := found.strip())]


def span_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """F1 of two sets of spans: 1 where both are empty, 0 where they have none in common.

    Differs:
        1. The published script compares with the letters of the annotated text; here it is the spans in it.

    Source:
        Moghe et al. 2024, arXiv:2401.16313.
    """
    mine, theirs = ({text for one in spans if (text := one.strip())} for spans in (gold, predicted))
    if not mine and not theirs:
        return 1.0
    common = len(mine & theirs)
    if not common:
        return 0.0
    precision, recall = common / len(theirs), common / len(mine)
    return 2 * precision * recall / (precision + recall)


def span_preference(good: Sequence[Sequence[str]], bad: Sequence[Sequence[str]]) -> tuple[Array, Array]:
    """Scores from predicted error spans: a good text with fewer spans than the bad one gets 60 and that 50, else 10 and 50.

    Args:
        good: Spans predicted in each good text.
        bad: In each bad text.
    """
    fewer = np.array([len(g) < len(b) for g, b in zip(good, bad, strict=True)])
    return np.where(fewer, 60.0, 10.0), np.full(len(fewer), 50.0)


# --- judges --------------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


async def judge_pairs(session: Session, judge: Agent, pairs: Sequence[Pair]) -> tuple[Array, Array]:
    """Scores of an agent that judges each text alone, in the same words; NaN where it gives no number from 0 to 100.

    Args:
        session: What asks.
        judge: At temperature 0, so that equal texts get equal scores.
        pairs: The challenge set.

    Returns:
        Scores of the good and of the bad texts, for `challenge`.

    Raises:
        InputError: The judge has another temperature.
        RunError: It fails, or the budget is spent.
    """
    if judge.sampling.temperature:
        raise InputError(f"a judge of pairs has temperature 0, got {judge.sampling.temperature:g}", "Set it to 0.")

    async def one(pair: Pair, text: str) -> float:
        shown = [pair.source, *([pair.reference] if pair.reference else []), text]
        asked = render("grade", reference=bool(pair.reference), texts=blocks(shown))
        reply = await session.ask(judge, judge.request(user(asked)))
        found = _NUMBER.findall(reply.text)
        value = float(found[-1]) if found else math.nan
        return value if 0 <= value <= 100 else math.nan

    scores = await together([one(pair, text) for pair in pairs for text in (pair.good, pair.bad)])
    return np.array(scores[::2]), np.array(scores[1::2])


def combined(scores: Sequence[Array], calibration: Sequence[Array | Sequence[float]]) -> Array:
    """The mean of several scores, each in standard deviations of its own values on a calibration set.

    Args:
        scores: Of m scores, each (n,).
        calibration: The same scores on other texts.

    Raises:
        InputError: Numbers differ, or a score does not vary on its calibration set.
    """
    if len(scores) != len(calibration) or not scores:
        raise InputError(f"{len(scores)} scores need as many calibration sets, got {len(calibration)}")
    found: list[Any] = []
    for values, known in zip(scores, calibration, strict=True):
        known = np.asarray(known, np.float64)
        if not known.std():
            raise InputError("a score that is the same on its whole calibration set has no scale")
        found.append((np.asarray(values, np.float64) - known.mean()) / known.std())
    return np.mean(found, axis=0)
