"""Reward ensembles: what members that differ by pretraining do against over-optimisation, and what they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.predictions import aggregate_rewards, best_of_n_curve, best_of_n_kl, rank_correlation
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.tensors import Array
from modelwright.train import fit_reward_head

INPUTS = 20
UNITS = 64
MEMBERS = 5
PAIRS, FLIPPED = 400, 0.15
#: How much wider candidates are drawn than what rewards were fitted on.
WIDER = 2.0
ETA, RIDGE = 0.01, 1e-3
AGGREGATORS = ("mean", "median", "min", "mean_minus_std")
NS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
JUDGED, MOST = 64, 256
#: Held-out accuracies are called alike up to this; the share of a single model's drift that an ensemble must keep to be said
#: not to help; the share of the promised gain that arrives where gold is said to flatten.
ALIKE, SAME_DRIFT, FLAT = 0.03, 0.8, 0.5


@dataclass(frozen=True)
class Gold:
    """What candidates are worth: linear, with waves that random features can only roughly follow."""

    weights: Array
    directions: Array

    def __call__(self, candidates: Array) -> Array:
        return candidates @ self.weights + 0.5 * np.sin(candidates @ self.directions).sum(axis=-1)


@dataclass(frozen=True)
class Features:
    """A network of random hidden units: what pretraining with one seed leaves."""

    weights: Array
    biases: Array

    def __call__(self, candidates: Array) -> Array:
        return np.maximum(candidates @ self.weights + self.biases, 0)


def experiment(setting: Setting) -> Findings:
    """Linear rewards on random features, chosen by and judged by a reward that is known."""
    measured = Measured()
    prompts, most = (20, 64) if setting.smoke else (300, MOST)
    for seed in setting.each_seed():
        _choose(measured, seed, prompts, most)
        _shared_hack(measured, seed, prompts, most)
    judged = min(JUDGED, most)
    return Findings(
        parts=_parts(measured, judged, most),
        figures=_figures(measured, judged),
        tables=(_table(measured, judged), _hack_table(measured, most)),
        plots=(_plot(measured, most),),
        notes=(
            "Rewards are linear on 64 random units in 20 dimensions; the paper's are language models of 220 million to 3 billion "
            "parameters, and its gold reward is a larger model. Pretraining is the draw of the units, fine-tuning a bootstrap sample "
            "of 400 preferences, of which 15 % are flipped.",
            "Five times five members are fitted for each seed. Pretrain ensembles have one fine-tuning of each pretraining, finetune "
            "ensembles five of one, and figures are means over all five ensembles of a kind, and over all 25 members for a single one.",
            "Best-of-n is the mean over all draws of n of a prompt's candidates. Rewards are in standard deviations of the gold reward.",
            f"The weight {ETA} of the penalty on sums of rewards is a choice: the paper's value was not at hand.",
        ),
    )


def _gold(rng: np.random.Generator) -> Gold:
    return Gold(rng.normal(0, 1 / np.sqrt(INPUTS), INPUTS), rng.normal(0, 2 / np.sqrt(INPUTS), (INPUTS, 6)))


def _features(rng: np.random.Generator, inputs: int) -> Features:
    return Features(rng.normal(0, 1 / np.sqrt(inputs), (inputs, UNITS)), rng.normal(0, 0.5, UNITS))


def _fitted(features: Features, pairs: tuple[Array, Array], rng: np.random.Generator) -> Array:
    """A head that is fitted to a bootstrap sample of preferences."""
    counts = np.bincount(rng.integers(0, len(pairs[0]), len(pairs[0])), minlength=len(pairs[0]))
    return fit_reward_head(features(pairs[0]), features(pairs[1]), eta=ETA, ridge=RIDGE, counts=counts)


def _preferences(candidates: Array, worth: Array, rng: np.random.Generator | None) -> tuple[Array, Array]:
    """Pairs (2, n, d), the better one first, but for some that are flipped."""
    first = worth[0] > worth[1]
    if rng is not None:
        first = first ^ (rng.random(len(first)) < FLIPPED)
    return np.where(first[:, None], *candidates), np.where(first[:, None], candidates[1], candidates[0])


def _members(seed: int, stream: int, pairs: tuple[Array, Array]) -> list[list[tuple[Features, Array]]]:
    """By pretraining, then by fine-tuning."""
    found = []
    for pretraining in range(MEMBERS):
        features = _features(np.random.default_rng((seed, stream, pretraining)), pairs[0].shape[1])
        draws = [np.random.default_rng((seed, stream, pretraining, f)) for f in range(MEMBERS)]
        found.append([(features, _fitted(features, pairs, rng)) for rng in draws])
    return found


def _rewards(members: list[list[tuple[Features, Array]]], candidates: Array) -> Array:
    """(pretraining, fine-tuning, ...)."""
    return np.stack([np.stack([row[0][0](candidates) @ head for _, head in row]) for row in members])


def _ensembles(rewards: Array, kind: str) -> list[Array]:
    """The rewards of the members of every ensemble of a kind, (members, ...) each."""
    if kind == "single":
        return [rewards[p, f][None] for p in range(MEMBERS) for f in range(MEMBERS)]
    return [rewards[:, i] if kind == "pretrain" else rewards[i] for i in range(MEMBERS)]


def _choose(measured: Measured, seed: int, prompts: int, most: int) -> None:
    rng = np.random.default_rng((seed, 0))
    gold = _gold(rng)
    train, held_out = rng.normal(size=(2, PAIRS, INPUTS)), rng.normal(size=(2, 2000, INPUTS))
    members = _members(seed, 1, _preferences(train, gold(train), rng))
    near, wide = rng.normal(size=(prompts, 32, INPUTS)), rng.normal(0, WIDER, (prompts, most, INPUTS))
    unit = float(gold(wide).std())
    worth = gold(wide) / unit
    rewards = _rewards(members, wide)
    ns = [n for n in NS if n <= most]
    for kind in ("single", "finetune", "pretrain"):
        for how in AGGREGATORS if kind != "single" else ("mean",):
            proxies = [aggregate_rewards(one, how) for one in _ensembles(rewards, kind)]
            golds = np.mean([best_of_n_curve(proxy, worth, ns) for proxy in proxies], axis=0)
            promised = np.mean([best_of_n_curve(proxy, proxy / proxy.std(), ns) for proxy in proxies], axis=0)
            for n, score, own in zip(ns, golds, promised, strict=True):
                measured.add(seed, ("gold", kind, how, n), score)
                measured.add(seed, ("proxy", kind, how, n), own)
    _agreement(measured, seed, members, (near, wide[:, :32]))
    judged = _rewards(members, held_out)
    better = gold(held_out)[0] > gold(held_out)[1]
    for kind in ("single", "finetune", "pretrain"):
        hits = [(one.mean(axis=0)[0] > one.mean(axis=0)[1]) == better for one in _ensembles(judged, kind)]
        measured.add(seed, ("accuracy", kind), float(np.mean(hits)))


def _agreement(measured: Measured, seed: int, members: Any, candidates: tuple[Array, Array]) -> None:
    """Rank correlation of members within a prompt, of the same pretraining and of different ones."""
    for name, drawn in zip(("near", "wide"), candidates, strict=True):
        rewards = _rewards(members, drawn)
        for kind in ("finetune", "pretrain"):
            found = [rank_correlation(one)[np.triu_indices(MEMBERS, 1)].mean() for one in _ensembles(rewards, kind)]
            measured.add(seed, ("ranks", kind, name), float(np.mean(found)))


def _shared_hack(measured: Measured, seed: int, prompts: int, most: int) -> None:
    """One more coordinate that goes with worth in training and means nothing later, for all members."""
    rng = np.random.default_rng((seed, 5))
    gold = _gold(rng)
    train = rng.normal(size=(2, PAIRS, INPUTS))
    worth = gold(train)
    spurious = worth / worth.std() + rng.normal(size=worth.shape)
    shown = np.concatenate([train, (spurious / spurious.std())[..., None]], axis=-1)
    members = _members(seed, 6, _preferences(shown, worth, rng))
    candidates = rng.normal(0, WIDER, (prompts, most, INPUTS + 1))
    rewards = _rewards(members, candidates)
    feature = candidates[..., INPUTS] / WIDER
    for kind in ("single", "pretrain"):
        for how in AGGREGATORS if kind == "pretrain" else ("mean",):
            proxies = [aggregate_rewards(one, how) for one in _ensembles(rewards, kind)]
            drift = np.mean([best_of_n_curve(proxy, feature, [most])[0] for proxy in proxies], axis=0)
            measured.add(seed, ("drift", kind, how), drift)


def _parts(measured: Measured, judged: int, most: int) -> tuple[Part, ...]:
    def gain(first: str, second: str) -> Any:
        return measured.interval(
            lambda mean: mean(("gold", first, "mean", judged)) - mean(("gold", second, "mean", judged))
        )

    def late(mean: Any, what: str) -> Any:
        return mean((what, "single", "mean", most)) - mean((what, "single", "mean", most // 4))

    return (
        Part(
            "pretraining over fine-tuning",
            f"At best of {judged}, ensembles of different pretraining choose better than those of different fine-tuning",
            gain("pretrain", "finetune"),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "ensembles over one",
            f"At best of {judged}, even ensembles of one pretraining choose better than one model",
            gain("finetune", "single"),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "alike before",
            "On held-out pairs both kinds are right about as often, within three points",
            measured.interval(lambda mean: np.abs(mean(("accuracy", "pretrain")) - mean(("accuracy", "finetune")))),
            "<",
            ALIKE,
        ),
        Part(
            "not eliminated",
            f"At best of {most}, ensembles of different pretraining still promise more than they give",
            measured.interval(
                lambda mean: mean(("proxy", "pretrain", "mean", most)) - mean(("gold", "pretrain", "mean", most))
            ),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "shared errors stay",
            "An error that all members share is followed by every aggregate at least 0.8 times as far as by one model",
            measured.interval(
                lambda mean: (
                    np.min([mean(("drift", "pretrain", how)) for how in AGGREGATORS], axis=0)
                    - SAME_DRIFT * mean(("drift", "single", "mean"))
                )
            ),
            ">=",
            0.0,
            unit="",
        ),
        Part(
            "less agreement",
            "Members of different pretraining rank wide candidates less alike than near ones",
            measured.interval(lambda mean: mean(("ranks", "pretrain", "near")) - mean(("ranks", "pretrain", "wide"))),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "flattening",
            f"Of what one model promises from best of {most // 4} to {most}, less than half arrives",
            measured.interval(lambda mean: late(mean, "gold") - FLAT * late(mean, "proxy")),
            "<",
            0.0,
            decides=False,
            unit="",
        ),
    )


def _figures(measured: Measured, judged: int) -> dict[str, Figure]:
    names = {"single": "one model", "finetune": "one pretraining, five fine-tunings", "pretrain": "five pretrainings"}
    figures = {
        f"gold of {kind}": Figure(
            f"gold reward at best of {judged}: {words}",
            measured.interval(lambda mean, k=kind: mean(("gold", k, "mean", judged))),
            "",
        )
        for kind, words in names.items()
    }
    accuracies = {
        f"accuracy of {kind}": Figure(
            f"right on held-out pairs: {words}", measured.interval(lambda mean, k=kind: mean(("accuracy", k)))
        )
        for kind, words in names.items()
    }
    return figures | accuracies


def _table(measured: Measured, judged: int) -> Table:
    rows = [
        (
            f"{kind}, {how}" if kind != "single" else "one model",
            *(
                measured.interval(lambda mean, w=what, k=kind, h=how: mean((w, k, h, judged)))
                for what in ("gold", "proxy")
            ),
        )
        for kind in ("single", "finetune", "pretrain")
        for how in (AGGREGATORS if kind != "single" else ("mean",))
    ]
    return Table(
        f"Best of {judged}: what was promised and what was given", ("ensemble", "gold", "its own"), tuple(rows), ""
    )


def _hack_table(measured: Measured, most: int) -> Table:
    rows = [
        (name, measured.interval(lambda mean, k=key: mean(("drift", *k))))
        for name, key in {
            "one model": ("single", "mean"),
            **{f"five pretrainings, {how}": ("pretrain", how) for how in AGGREGATORS},
        }.items()
    ]
    return Table(
        f"A coordinate that means nothing, of what is chosen at best of {most}", ("ensemble", "mean"), tuple(rows), ""
    )


def _plot(measured: Measured, most: int) -> Plot:
    kinds = {"one model": "single", "five fine-tunings": "finetune", "five pretrainings": "pretrain"}
    lines = {
        f"{words}, {'gold' if what == 'gold' else 'its own'}": [
            (best_of_n_kl(n), measured.interval(lambda mean, w=what, k=kind, n=n: mean((w, k, "mean", n))))
            for n in NS
            if n <= most
        ]
        for what in ("gold", "proxy")
        for words, kind in kinds.items()
    }
    return Plot("Over-optimisation", "divergence log n - (n - 1)/n in nats", "reward", lines, unit="")


REWARD_ENSEMBLES = Study(
    id="reward-ensembles",
    title="Reward model ensembles",
    paper="arXiv:2312.09244",
    claim="Ensembles of reward models mitigate reward hacking, more so with different pretraining seeds, and do not eliminate it.",
    experiment=experiment,
    needs=("sklearn", "scipy"),
    seeds=10,
)
