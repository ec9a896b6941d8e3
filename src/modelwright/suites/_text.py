"""Families of small causal language models: a base on one mix of texts, and an expert for each corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError
from modelwright.evaluate import SPLITS, CausalPredictor, Choice, Items, Perplexity, Predictor, Splits, Task, metric
from modelwright.evaluate._predictor import needs
from modelwright.suites._cache import Cache, Kept, Trained, code_of, data_of, key_of, side_by_side
from modelwright.suites._family import Family
from modelwright.suites._packs import rows, text
from modelwright.suites._schema import Corpus, TextFile, Tuning
from modelwright.train import build

#: All code that trained weights depend on.
_CODE = ("modelwright.suites._text", "modelwright.train._build", "modelwright.train._trainer")
#: Begins and ends every text.
_END = "<|end|>"
#: A choice question asks which of so many texts follows, each of so many characters at most.
_CHOICES, _FOLLOWS = 4, 64
#: Shares of a corpus that is one text: its middle and its end are kept from training.
_TUNE, _VALIDATION = 0.85, 0.05


@dataclass(frozen=True, kw_only=True)
class TextFamily(Family):
    """Causal language models with one tokenizer.

    Attributes:
        network: The configuration of the models.
        tokenizer: A transformers tokenizer.
    """

    network: Mapping[str, Any]
    tokenizer: Any

    @property
    def fingerprint(self) -> str:
        """Of the network's configuration and the tokenizer."""
        return key_of({"network": dict(self.network), "tokenizer": self.tokenizer.backend_tokenizer.to_str()})

    def system(self, weights: Checkpoint, label: str, *, device: str = "cpu") -> Predictor:
        """A language model with these weights; there are no heads."""
        from modelwright.train._trainer import load

        module = load(build(self.network), weights.arrays(), device)
        return CausalPredictor(label, module=module, tokenizer=self.tokenizer, device=device)


def corpus(said: Corpus) -> dict[str, str]:
    """A corpus by split.

    A set of items keeps its own splits (`dev` is `validation`); where it has no `dev`, that is the end of `train`. A
    corpus that is one text is cut twice: first `tune`, then `validation`, then `test`.

    Raises:
        InputError: It is not in the packs, or has no item with these fields.
    """
    if said.text is not None:
        whole = text(said.text)[: said.most]
        cuts = [_line_end(whole, round(len(whole) * share)) for share in (_TUNE, _TUNE + _VALIDATION)]
        return dict(zip(SPLITS, (whole[: cuts[0]], whole[cuts[0] : cuts[1]], whole[cuts[1] :]), strict=True))
    lines: dict[str, list[str]] = {}
    for row in rows(said.rows or ""):
        lines.setdefault(str(row.get("split", "train")), []).append(" ".join(str(row.get(f, "")) for f in said.fields))
    if not lines or not all(any(line.strip() for line in part) for part in lines.values()):
        raise InputError(f"the set '{said.rows}' has no texts under {', '.join(said.fields)}")
    train = lines.get("train", [])
    if "dev" not in lines:
        most = round(len(train) * (1 - _VALIDATION))
        train, lines["dev"] = train[:most], train[most:]
    parts = {"tune": train, "validation": lines["dev"], "test": lines.get("test", [])}
    return {split: "\n".join(part)[: said.most] for split, part in parts.items()}


def _line_end(whole: str, near: int) -> int:
    """Just after the first line that ends at or after a place."""
    return whole.find("\n", near) + 1 or len(whole)


def passages_of(name: str, whole: str, count: int, size: int) -> Items:
    """Passages at equal distances in a text: what is read before each (nothing), and the passage.

    Args:
        name: What ids start with.
        whole: The text.
        count: Most passages.
        size: Most characters of each; they begin and end between words.
    """
    count = max(1, min(count, len(whole) // (size + 1)))
    step = len(whole) // count
    found = [(i * step, _between_words(whole, i * step, size)) for i in range(count)]
    kept = [(f"{name}:{at}", piece) for at, piece in found if piece]
    nbytes = [len(piece.encode()) for _, piece in kept]
    return Items(tuple(i for i, _ in kept), [("", piece) for _, piece in kept], nbytes)


def _between_words(whole: str, start: int, size: int) -> str:
    """The piece of a text from the first word that begins at or after a place, words whole."""
    piece = whole[start : start + size + 1]
    if start:
        piece = piece[piece.find(" ") + 1 :]
    return piece[: piece.rfind(" ")] if " " in piece else ""


def questions_of(name: str, whole: str, count: int, size: int, seed: int = 0) -> Items:
    """Which text follows: the real one, among continuations of other places of the same text.

    Args:
        name: What ids start with.
        whole: The text.
        count: Most questions.
        size: Most characters of the context.
        seed: Decides which others are offered, and in which order.

    Raises:
        InputError: The text is too short for that many different continuations.
    """
    pieces = passages_of(name, whole, count, size + _FOLLOWS)
    halves: dict[str, tuple[str, str]] = {}
    for item, (_, piece) in zip(pieces.ids, pieces.inputs, strict=True):
        cut = piece.rfind(" ", 0, len(piece) - _FOLLOWS // 2)
        if cut > 0 and piece[cut + 1 :] not in {follows for _, follows in halves.values()}:
            halves[item] = (piece[:cut], piece[cut + 1 :])
    if len(halves) < _CHOICES:
        raise InputError(f"'{name}': too short a text for questions with {_CHOICES} choices")
    rng = np.random.default_rng(seed)
    names, inputs, targets = list(halves), [], []
    for i, item in enumerate(names):
        context, follows = halves[item]
        others = rng.permutation([j for j in range(len(names)) if j != i])[: _CHOICES - 1]
        choices = [halves[names[j]][1] for j in others]
        place = int(rng.integers(_CHOICES))
        inputs.append((context, (*choices[:place], follows, *choices[place:])))
        targets.append(place)
    return Items(tuple(names), inputs, targets)


def text_tasks(file: TextFile, parts: Mapping[str, Mapping[str, str]]) -> dict[str, Task]:
    """The tasks of a suite: predicting held-out passages of each corpus, or telling which continuation is real."""
    result: dict[str, Task] = {}
    for name, splits in parts.items():
        make = passages_of if file.judged_by == "bits_per_byte" else questions_of
        items = {s: make(f"{name}-{s}", splits[s], getattr(file.items, s), file.passage) for s in SPLITS}
        if file.judged_by == "bits_per_byte":
            result[name] = Perplexity(name=name, splits=Splits(items), metric=metric("bits_per_byte"))
        else:
            result[name] = Choice(name=name, splits=Splits(items), metric=metric("accuracy"), choices=_CHOICES)
    return result


def text_family(file: TextFile, seed: int, cache: Cache, device: str) -> TextFamily:
    """Train tokenizer, base, experts and the model of all corpora together; or take them from the cache."""
    needs("torch", f"the suite '{file.name}'", "torch")
    needs("transformers", f"the suite '{file.name}'", "torch")
    from modelwright.train._trainer import one_thread, steady

    build({**file.network, "vocab_size": file.vocabulary})  # what is wrong with it is said before anything is trained
    parts = {name: corpus(said) for name, said in file.tasks.items()}
    tasks = text_tasks(file, parts)
    mix = [corpus(said)["tune"] for said in file.base.corpora]
    common = {"seed": seed, "network": file.network, "device": device.partition(":")[0], "code": code_of(*_CODE)}
    with steady(device):
        about = {**common, "base": file.base.model_dump(), "vocabulary": file.vocabulary, "data": data_of(mix)}
        base = cache.model("text-base", about, partial(_base, file, mix, seed, device))
        tokenizer = _tokenizer(base)

        def tuned(name: str, names: Sequence[str], tuning: Tuning, number: int) -> Callable[[], Kept]:
            texts = [parts[n]["tune"] for n in names]
            said = {**common, "base": base.key, "data": data_of(texts), "tuning": tuning.model_dump(), "number": number}
            train = partial(_tuned, base, texts, tuning, (seed, number), device, name)
            return partial(cache.model, f"text-{name}", said, train)

        jobs = {"multitask": tuned("multitask", list(tasks), file.multitask, 4)}
        jobs |= {name: tuned(name, [name], file.experts, 10 + i) for i, name in enumerate(tasks)}
        kept = side_by_side(jobs, before=one_thread)
    opened = base.open("base")
    return TextFamily(
        name=file.name, seed=seed, base=opened, tasks=tasks, network=dict(opened.config or {}), tokenizer=tokenizer,
        experts={name: kept[name].open(name) for name in tasks}, multitask=kept["multitask"].open("multitask"),
        seconds={"base": base.seconds, **{name: model.seconds for name, model in kept.items()}},
    )  # fmt: skip


def _base(file: TextFile, mix: Sequence[str], seed: int, device: str) -> Trained:
    """Tokenizer and model of the mix."""
    import torch

    from modelwright.train._build import start

    words = _trained_tokenizer(mix, file.vocabulary)
    end = words.token_to_id(_END)
    config = {
        "architectures": ["LlamaForCausalLM"], **file.network, "vocab_size": words.get_vocab_size(),
        "bos_token_id": end, "eos_token_id": end, "pad_token_id": None,
    }  # fmt: skip
    network = build(config)
    start(network, torch.Generator().manual_seed(seed))
    streams = [_stream(words, whole) for whole in mix]
    last = _fit(network.to(device), streams, end, file.base, np.random.default_rng((seed, 1)), f"{file.name}, base")
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": _END, "eos_token": _END}
    return _trained(
        network, config, {"tokenizer.json": words.to_str(), "tokenizer_config.json": json.dumps(said)}, last
    )


def _tuned(
    base: Kept, texts: Sequence[str], tuning: Tuning, stream: tuple[int, int], device: str, what: str
) -> Trained:
    """The base tuned on some corpora at once."""
    from modelwright.train._trainer import load

    opened = base.open("base")
    config = dict(opened.config or {})
    network = load(build(config), opened.arrays(), device)
    beside = {
        name: (base.folder / name).read_text(encoding="utf-8") for name in ("tokenizer.json", "tokenizer_config.json")
    }
    words = _fast(beside["tokenizer.json"])
    streams = [_stream(words, whole) for whole in texts]
    last = _fit(network, streams, config["bos_token_id"], tuning, np.random.default_rng(stream), what)
    return _trained(network, config, beside, last)


def _fit(network: Any, streams: Sequence[np.ndarray], end: int, tuning: Tuning, rng: Any, what: str) -> float:
    """Train on windows at random places, the same number from each stream."""
    import torch

    from modelwright.train._trainer import Schedule, fit

    length = int(network.config.max_position_embeddings)
    length = min(length, *(len(stream) for stream in streams))
    each = max(1, tuning.batch // len(streams))
    device = next(network.parameters()).device

    def loss(_step: int) -> Any:
        places = [(stream, at) for stream in streams for at in rng.integers(len(stream) - length + 1, size=each)]
        wanted = torch.as_tensor(np.stack([stream[at : at + length] for stream, at in places])).to(device)
        read = torch.cat([torch.full_like(wanted[:, :1], end), wanted[:, :-1]], dim=1)
        logits = network(input_ids=read, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    schedule = Schedule(steps=tuning.steps, rate=tuning.rate, batch=tuning.batch, weight_decay=tuning.weight_decay)
    return fit(network, loss, schedule, what=what)


def _trained(network: Any, config: Mapping[str, Any], beside: Mapping[str, str], loss: float) -> Trained:
    from modelwright.train._trainer import arrays_of

    return Trained(config, arrays_of(network), beside, {"loss": loss})


def _trained_tokenizer(mix: Sequence[str], size: int) -> Any:
    """Byte-pair encoding of bytes, learnt from the mix: it can spell everything."""
    tokenizers = needs("tokenizers", "a language model", "torch")
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[_END], show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    words.train_from_iterator((line for whole in mix for line in whole.splitlines(keepends=True)), trainer)
    return words


def _fast(said: str) -> Any:
    return needs("tokenizers", "a language model", "torch").Tokenizer.from_str(said)


def _stream(words: Any, whole: str) -> np.ndarray:
    """A text as tokens."""
    return np.asarray(words.encode(whole, add_special_tokens=False).ids, np.int64)


def _tokenizer(base: Kept) -> Any:
    transformers = needs("transformers", "a language model", "torch")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(base.folder / "tokenizer.json"), bos_token=_END, eos_token=_END
    )
