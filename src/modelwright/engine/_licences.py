"""Which licence a merge can have, from what the licences of its inputs ask for.

A table of facts and five rules. It knows the licences that the Hub knows by an id and whose texts are settled; of any other
it says that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from modelwright.errors import listing

Outcome = Literal["allowed", "non-commercial", "not allowed", "conflict", "undetermined", "aggregation"]


@dataclass(frozen=True)
class Licence:
    """What a licence asks of a work that is made from the licensed one.

    Attributes:
        id: As the Hub spells it.
        commercial: Whether it may be used commercially.
        derivatives: Whether it may be changed at all and then passed on.
        accepts: Licences that the derived work may be under; empty where any may be.
        refuses: Licences whose conditions it cannot take in, though they ask for little.
        terms: Whether it has terms of its own about use, which pass on to derived works.
        adds: Whether a derived work may be put under further terms; None where the text does not say. Of licences with
            terms.
        notice: What has to go with the derived work.
        name: What the derived work's name has to begin with.
        limits: Further limits, a sentence each.
    """

    id: str
    commercial: bool = True
    derivatives: bool = True
    accepts: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    terms: bool = False
    adds: bool | None = True
    notice: str = "keep its copyright notice and licence text"
    name: str = ""
    limits: tuple[str, ...] = ()


_GPL3 = ("gpl-3.0", "agpl-3.0")
_CREDIT = "name the authors, link the licence, and say that it was changed"
_COPY = "pass on the agreement and its list of forbidden uses"
_OPENRAIL = ("creativeml-openrail-m", "bigscience-openrail-m", "bigcode-openrail-m", "bigscience-bloom-rail-1.0")


def _llama(version: str, name: str, built: str, limits: tuple[str, ...] = ()) -> Licence:
    users = "more than 700 million users a month need a licence from Meta"
    notice = _COPY + (f", and show '{built}'" if built else "")
    return Licence(f"llama{version}", terms=True, adds=None, notice=notice, name=name, limits=(*limits, users))


#: Those that ask for more come later: of two that agree, a merge is under the later.
_TABLE = (
    *(Licence(id, notice="") for id in ("cc0-1.0", "unlicense", "wtfpl", "pddl")),
    *(Licence(id) for id in ("isc", "mit", "zlib", "ncsa", "postgresql", "bsl-1.0")),
    *(Licence(id) for id in ("bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear")),
    *(Licence(id, notice="keep its notices (NOTICE too), and say which files were changed")
      for id in ("ecl-2.0", "afl-3.0", "apache-2.0")),
    *(Licence(f"cc-by-{version}", notice=_CREDIT) for version in ("2.0", "2.5", "3.0", "4.0")),
    Licence("cc-by-sa-3.0", accepts=("cc-by-sa-3.0", "cc-by-sa-4.0"), notice=_CREDIT),
    Licence("cc-by-sa-4.0", accepts=("cc-by-sa-4.0", "gpl-3.0"), notice=_CREDIT),
    Licence("mpl-2.0", accepts=("mpl-2.0", "lgpl-2.1", "lgpl-3.0", "gpl-2.0", *_GPL3)),
    Licence("lgpl-2.1", accepts=("lgpl-2.1", "gpl-2.0", *_GPL3), refuses=("apache-2.0", "ecl-2.0", "afl-3.0")),
    Licence("lgpl-3.0", accepts=("lgpl-3.0", *_GPL3), refuses=("afl-3.0",)),
    Licence("gpl-2.0", accepts=("gpl-2.0",), refuses=("apache-2.0", "ecl-2.0", "afl-3.0")),
    Licence("gpl-3.0", accepts=_GPL3, refuses=("afl-3.0",)),
    Licence("agpl-3.0", accepts=("agpl-3.0",), refuses=("afl-3.0",)),
    *(Licence(id, terms=True, notice=_COPY) for id in (*_OPENRAIL, "openrail++")),
    Licence("gemma", terms=True, notice="pass on the terms of use with their list of forbidden uses, and say which files were changed"),
    _llama("2", "", "", ("not to be used to improve other language models than those made from Llama 2",)),
    _llama("3", "Llama 3", "Built with Meta Llama 3", ("not to be used to improve other language models than those made from Llama 3",)),
    *(_llama(version, "Llama", "Built with Llama") for version in ("3.1", "3.2", "3.3", "4")),
    *(Licence(f"cc-by-nc-{version}", commercial=False, notice=_CREDIT) for version in ("2.0", "3.0", "4.0")),
    *(Licence(f"cc-by-nc-sa-{version}", commercial=False, accepts=later, notice=_CREDIT) for version, later in (
        ("3.0", ("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0")), ("4.0", ("cc-by-nc-sa-4.0",)),
    )),
    Licence("cc-by-nd-4.0", derivatives=False, notice=_CREDIT),
    *(Licence(f"cc-by-nc-nd-{version}", commercial=False, derivatives=False, notice=_CREDIT) for version in ("3.0", "4.0")),
)  # fmt: skip
LICENCES: dict[str, Licence] = {licence.id: licence for licence in _TABLE}
_ORDER = {id: place for place, id in enumerate(LICENCES)}


@dataclass(frozen=True)
class Verdict:
    """Whether models may be merged, and what the merge is then under.

    Attributes:
        outcome: `allowed`, `non-commercial` (allowed, for that), `not allowed`, `conflict`, `undetermined`, or
            `aggregation` where models stay files of their own.
        licence: The Hub's id of the licence that the merge can have; `other` where the terms of several add up; None
            where there is none.
        because: The facts that decided, a sentence each.
        duties: What has to be done when the merge is passed on, a sentence each.
        names: What its name has to begin with, each with the licence that asks for it.
    """

    outcome: Outcome
    licence: str | None
    because: tuple[str, ...]
    duties: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()


def verdict(licences: Iterable[str | None], *, apart: bool = False) -> Verdict:
    """Which licence a merge of models under these can have. It is no legal advice.

    In this order: one that is not known leaves it undetermined; one that forbids changed versions forbids the merge; one
    for non-commercial use makes the merge non-commercial; those that ask for their own licence must agree on one, which
    must take in what the others ask for; terms about use add up if each licence with such terms allows others beside it.

    Args:
        licences: One for each model, by the Hub's ids; None where a model does not state any. Their order means nothing.
        apart: The models stay separate files, as in an ensemble: each keeps its licence.

    Returns:
        The verdict with the facts that decided it.

    Example:
        >>> verdict(["mit", "cc-by-sa-4.0"]).licence
        'cc-by-sa-4.0'
        >>> verdict(["apache-2.0", "cc-by-nc-4.0"]).outcome
        'non-commercial'
    """
    given = {licence.lower() if licence else "" for licence in licences}
    unknown = sorted(given - LICENCES.keys())
    if apart:
        return Verdict("aggregation", None, ("the models stay separate files, and each keeps its licence",))
    if unknown or not given:
        return Verdict("undetermined", None, tuple(_unknown(id) for id in unknown or [""]))
    all_of = sorted((LICENCES[id] for id in given), key=lambda licence: _ORDER[licence.id])
    fixed = [licence.id for licence in all_of if not licence.derivatives]
    if fixed:
        return Verdict("not allowed", None, tuple(f"{id} forbids passing on changed versions" for id in fixed))
    return _shared(all_of)


def _unknown(id: str) -> str:
    return f"the terms of '{id}' are not known here" if id else "an input does not state its licence"


def _shared(all_of: Sequence[Licence]) -> Verdict:
    """The verdict on licences that all allow changed versions, those that ask for little first."""
    copyleft = [licence for licence in all_of if licence.accepts]
    because = [f"{licence.id} is for non-commercial use" for licence in all_of if not licence.commercial]
    if copyleft:
        found, reasons = _common(copyleft, all_of)
        if found is None:
            return Verdict("conflict", None, reasons)
    else:
        found, reasons = _strictest(all_of)
        if found is None:
            return Verdict("undetermined", None, reasons)
    because += reasons
    if len(all_of) == 1:
        because.append(f"every input is under {found}")
    elif not because:
        because.append(f"{found} takes in what the others ask for")
    return Verdict(
        "allowed" if all(licence.commercial for licence in all_of) else "non-commercial",
        found,
        tuple(because),
        tuple(f"{licence.id}: {duty}" for licence in all_of for duty in (licence.notice, *licence.limits) if duty),
        tuple((licence.name, licence.id) for licence in all_of if licence.name),
    )


def _common(copyleft: Sequence[Licence], all_of: Sequence[Licence]) -> tuple[str | None, tuple[str, ...]]:
    """The licence that all who insist on one accept and that takes in what the others ask for."""
    common = [id for id in copyleft[0].accepts if all(id in licence.accepts for licence in copyleft)]
    if not common:
        pairs = [(a, b) for a, b in combinations(copyleft, 2) if not set(a.accepts) & set(b.accepts)]
        apart = " and ".join(licence.id for licence in (pairs[0] if pairs else copyleft))
        return None, (f"{apart} each ask for their own licence and accept none in common",)
    fits = {id: [other for other in all_of if not _takes_in(LICENCES[id], other)] for id in common}
    possible = [id for id, against in fits.items() if not against]
    if possible:
        own = {licence.id for licence in copyleft}
        found = next((id for id in possible if id in own), possible[0])
        return found, (f"changed versions have to be under it, as {' and '.join(sorted(own))} asks",) if len(
            all_of
        ) > 1 else ()
    against = fits[common[0]][0]
    return None, (
        f"{copyleft[0].id} asks for {' or '.join(common)}, which cannot take in the conditions of {against.id}",
    )


def _takes_in(copyleft: Licence, other: Licence) -> bool:
    """Whether a work under a copyleft licence may hold one under another."""
    if other.accepts:  # it accepts the copyleft licence, which was looked at before
        return True
    return not other.terms and (other.commercial or not copyleft.commercial) and other.id not in copyleft.refuses


def _strictest(all_of: Sequence[Licence]) -> tuple[str | None, tuple[str, ...]]:
    """The one that asks for most, or `other` where the terms of several add up."""
    limited = [licence for licence in all_of if licence.terms or not licence.commercial]
    own = [licence for licence in limited if licence.terms]
    if not own or len(limited) == 1:
        return all_of[-1].id if not own else own[0].id, ()
    silent = [licence.id for licence in own if licence.adds is None]
    if silent:
        others = [licence.id for licence in limited if licence.id != silent[0]]
        return None, (f"{silent[0]} does not say whether the terms of {listing(others)} may be added to its own",)
    return "other", (
        f"the terms of {listing(licence.id for licence in limited)} add up, and no one licence has them all",
    )
