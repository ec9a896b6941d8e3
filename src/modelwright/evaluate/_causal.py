"""Causal language models of transformers, from a folder or in memory: likelihoods and generation in batches."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash

from modelwright.errors import InputError, RunError
from modelwright.evaluate._heads import from_folder, loaded
from modelwright.evaluate._predictor import (
    Generated,
    Likelihood,
    Predictor,
    Rolling,
    Sampling,
    Size,
    evaluating,
    needs,
    state_hash,
)
from modelwright.evaluate._weights import Weights

#: Most logits of a batch: 1 GiB in float32.
_MOST_LOGITS = 2**28
#: Names of a tokenizer's files; without any, transformers makes an empty one and says nothing.
_TOKENIZER = re.compile(r"^(tokenizer\.|vocab|merges|spiece|sentencepiece|tekken|.*\.(model|tiktoken)$)")
_DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")


#: Messages, each with `role` and `content`.
Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class _Job:
    """Predict tokens at the end of a sequence.

    Attributes:
        read: The tokens that the model reads.
        wanted: The tokens that its last len(wanted) outputs should predict.
        owner: For which of the texts.
    """

    read: tuple[int, ...]
    wanted: tuple[int, ...]
    owner: int


@dataclass
class CausalPredictor(Predictor):
    """A causal language model of transformers with its tokenizer.

    Likelihoods. A context and what follows are tokenised as lm-evaluation-harness does it: white space at the end of the
    context moves to the continuation, both together are tokenised, and the continuation is what comes after as many tokens
    as the context has alone. With `rolling` nothing moves, so that a text's bytes are counted once: the tokens of both
    together are used where they begin with those of the context, else those of each. Where there is no context, the first
    token follows the start token: that of the tokenizer, or its end token if it has none; a tokenizer without either gives
    the first token the probability 1 / vocabulary. Contexts too long for the model lose their beginning, which is counted
    in `remarks`. Batches are padded on the right, where causal attention does not see it.

    Generation is greedy or sampled from the whole distribution at `temperature`; nothing of the folder's generation_config
    is used but its end tokens. Noise is keyed by seed and prompt, so that an answer does not depend on its batch. Batches
    are padded on the left, with positions that leave the padding out; models that take no positions get prompts of one
    length at a time. No pad token is needed.

    Attributes:
        module: In evaluation mode; it is moved to the device.
        tokenizer: A transformers tokenizer.
        device: Where it runs.
        length: Most tokens the model reads at once; None is what its configuration says.
        batch_tokens: Most tokens of a batch, padding included; fewer where the logits of a batch would take over 1 GiB.
        start: Whether texts begin with the start token; None is what the tokenizer itself does.
        chat: Whether prompts are put into the tokenizer's chat template, as the message of a user.

    Raises:
        InputError: The module is in train mode, is no causal language model, or there is no chat template.

    Differs:
        1. lm-evaluation-harness drops the start token when it cuts a context, and from all windows of a text but the first;
           here it stays where the tokenizer puts one, because models trained so need it.
    """

    module: Any = field(kw_only=True)
    tokenizer: Any = field(kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    length: int | None = field(default=None, kw_only=True)
    batch_tokens: int = field(default=8192, kw_only=True)
    start: bool | None = field(default=None, kw_only=True)
    chat: bool = field(default=False, kw_only=True)
    _counts: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def __post_init__(self) -> None:
        evaluating(self.module, self.label)
        if not callable(getattr(self.module, "get_output_embeddings", None)) or not hasattr(self.module, "config"):
            raise InputError(
                f"'{self.label}' must be a causal language model of transformers, got a {type(self.module).__name__}"
            )
        if self.chat and not getattr(self.tokenizer, "chat_template", None):
            raise InputError(f"'{self.label}' has no chat template", "Leave chat out, or give the tokenizer one.")
        if self.batch_tokens < 1:
            raise InputError(f"batch_tokens must be at least 1, got {self.batch_tokens}")
        self.module.to(self.device)
        self._settle_tokens()
        parameters = list(self.module.parameters())
        self.size = Size(sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters))
        self.fingerprint = self.fingerprint or self._hash()

    @classmethod
    def from_folder(
        cls, path: str | Path, label: str | None = None, *, device: str = "cpu", dtype: str = "auto", **options: Any
    ) -> Self:
        """The model of a transformers folder. Nothing is fetched, and no code of the folder is run.

        Args:
            path: A folder with config.json, weights and tokenizer.
            label: How tables call it; default the folder's name.
            device: Where it runs.
            dtype: `auto`: as it is stored; `float32`, `float16`, `bfloat16`, `float64`.
            options: The other attributes.

        Raises:
            InputError: There is no such folder, or it holds no causal language model with its tokenizer.
        """
        needs("torch", "evaluating a language model", "torch")
        transformers = needs("transformers", "evaluating a language model", "torch")
        folder = Path(path)
        if dtype not in _DTYPES:
            raise InputError(f"dtype must be one of {', '.join(_DTYPES)}, got '{dtype}'")
        if not (folder / "config.json").is_file():
            raise InputError("not a folder of a transformers model: it has no config.json", where=str(folder))
        if not _has_tokenizer(folder):
            raise InputError(
                "there is no tokenizer in the folder", "Put the model's tokenizer files beside it.", str(folder)
            )
        kept: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            module = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, **kept)
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **kept)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InputError(
                f"cannot load a causal language model and its tokenizer: {str(error).splitlines()[0]}",
                "Nothing is fetched from the Hub here; all its files must be in the folder.",
                str(folder),
            ) from error
        return cls(label or folder.name, module=module.eval(), tokenizer=tokenizer, device=device, **options)

    def _settle_tokens(self) -> None:
        """Which tokens texts begin and answers end with, and how many tokens fit."""
        bare, whole = (self.tokenizer("a", add_special_tokens=s)["input_ids"] for s in (False, True))
        added = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        first = [t for t in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if t is not None][:1]
        self._prefix: list[int] = {None: whole[:added], True: first, False: []}[self.start]
        if self.start and not first:
            raise InputError(f"'{self.label}': its tokenizer has no start token", "Leave start out.")
        self._first = self._prefix or first
        settings = self.module.config.get_text_config()
        self._vocabulary = int(settings.vocab_size)
        largest = max(self.tokenizer.get_vocab().values(), default=-1)
        if not 0 <= largest < self._vocabulary:
            raise InputError(
                f"'{self.label}': its tokenizer has tokens up to number {largest}, and the model {self._vocabulary} of them",
                "The tokenizer is of another model.",
            )
        said = [getattr(settings, name, None) for name in ("max_position_embeddings", "n_positions", "n_ctx")]
        said = [n for n in said if isinstance(n, int) and n > 0]
        most = said[0] if said else None
        if self.length is not None and (self.length < 2 or (most is not None and self.length > most)):
            raise InputError(f"'{self.label}' reads between 2 and {most or 'any number of'} tokens, got {self.length}")
        self._most = self.length or most or 2**40
        ends = getattr(getattr(self.module, "generation_config", None), "eos_token_id", None)
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        self._ends = {t for t in (*ends, self.tokenizer.eos_token_id) if t is not None}
        parameters = inspect.signature(self.module.forward).parameters
        self._has_positions = "position_ids" in parameters
        # The newest transformers call it cache, those before it past_key_values, and state-space models had cache_params.
        self._cache = next((n for n in ("cache", "past_key_values", "cache_params") if n in parameters), "")

    def _hash(self) -> str:
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        words = fast.to_str() if fast is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        template = str(self.tokenizer.chat_template) if self.chat else ""
        said = [state_hash(self.module.state_dict()), words, template, str((self._prefix, self._first, self._most))]
        return xxhash.xxh3_128_hexdigest("\0".join(said).encode())

    def remarks(self) -> list[str]:
        """Contexts that were cut, tokens that the tokenizer does not know, answers that were cut off."""
        texts = {
            "cut": "contexts were longer than the model reads and lost their beginning",
            "unknown": "tokens were unknown to the tokenizer, so their text was not really predicted",
            "ended": "answers ended only because max_tokens was reached",
        }
        return [f"'{self.label}': {self._counts[key]:,} {text}" for key, text in texts.items() if self._counts[key]]

    # Likelihoods

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]], rolling: Rolling | None = None) -> Sequence[Likelihood]:
        """Log-likelihoods of continuations after their contexts, in the order of the pairs.

        Args:
            pairs: Contexts, which may be empty, and continuations, which may not.
            rolling: Read in windows of tokens. None reads each pair at once.

        Raises:
            InputError: A continuation has no tokens, or is longer than the model reads, or a window is.
            RunError: Logits are not finite.
        """
        encoded = [self._encoded(c, t, exact=rolling is not None) for c, t in pairs]
        totals, greedy = np.zeros(len(pairs)), np.ones(len(pairs), dtype=bool)
        jobs: list[_Job] = []
        for i, (context, target) in enumerate(encoded):
            if not target:
                raise InputError(f"'{self.label}': its tokenizer makes no token of {pairs[i][1][:60]!r}")
            self._counts["unknown"] += target.count(self.tokenizer.unk_token_id)
            if not context and not self._first:  # nothing to predict the first token from: each is as probable
                totals[i] -= np.log(self._vocabulary)
                greedy[i] = False
                context, target = target[:1], target[1:]
            jobs += self._windows(context, target, i, rolling) if rolling else self._single(context, target, i)
        for job, logprobs, best in self._predicted(jobs):
            if not np.isfinite(logprobs).all():
                text = pairs[job.owner][1]
                raise RunError(f"'{self.label}' gave logits that are not finite for the text {text[:60]!r}")
            totals[job.owner] += logprobs.sum()
            greedy[job.owner] &= best
        return [
            Likelihood(float(total), len(target), len(context), bool(best))
            for total, best, (context, target) in zip(totals, greedy, encoded, strict=True)
        ]

    def _bare(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []

    def _encoded(self, context: str, text: str, *, exact: bool) -> tuple[list[int], list[int]]:
        """Tokens of the context and of what follows, start token left out."""
        if not exact:
            kept = context.rstrip()
            context, text = kept, context[len(kept) :] + text
        before, whole = self._bare(context), self._bare(context + text)
        if len(whole) > len(before) and (not exact or whole[: len(before)] == before):
            return before, whole[len(before) :]
        return before, self._bare(text)

    def _lead(self, context: Sequence[int]) -> list[int]:
        """What is read before the context: the start token, where there is one and the context has it not itself."""
        if not context:
            return self._first
        return [] if list(context[: len(self._prefix)]) == self._prefix else self._prefix

    def _job(self, context: list[int], target: list[int], owner: int, length: int) -> _Job:
        """Predict `target` from as much of the context's end as fits into `length` tokens."""
        lead = self._lead(context)
        room = max(0, length - len(lead) - (len(target) - 1))
        kept = context[len(context) - min(room, len(context)) :]
        return _Job((*lead, *kept, *target[:-1]), tuple(target), owner)

    def _single(self, context: list[int], target: list[int], owner: int) -> Iterator[_Job]:
        if not target:
            return
        lead = len(self._lead(context))
        if len(target) + max(1, lead) - 1 > self._most:
            raise InputError(
                f"'{self.label}' reads at most {self._most:,} tokens, and a continuation has {len(target):,}",
                "A perplexity task reads texts of any length, in windows.",
            )
        self._counts["cut"] += lead + len(context) + len(target) - 1 > self._most
        yield self._job(context, target, owner, self._most)

    def _windows(self, context: list[int], target: list[int], owner: int, rolling: Rolling) -> Iterator[_Job]:
        """Windows of `length` tokens that each score `stride` new ones, the first as many as it holds."""
        length = rolling.length or self._most
        if length > self._most:
            raise InputError(f"'{self.label}' reads at most {self._most:,} tokens, got windows of {length:,}")
        lead = len(self._lead(context))
        stride = min(rolling.stride or length, length + 1 - max(1, lead))
        done, size = 0, max(stride, length + 1 - lead - len(context))
        while done < len(target):
            seen = target[max(0, done - length) : done]
            seen = [*context[len(context) - min(len(context), length - len(seen)) :], *seen]
            yield self._job(seen, target[done : done + size], owner, length)
            done, size = done + size, stride

    def _predicted(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, np.ndarray, bool]]:
        """Each job with the float64 log-probabilities of what it wants, and whether all are the most probable.

        Jobs that read the same, such as choices of one token after one context, share a pass. The longest come first, so
        that what does not fit into memory shows at once.
        """
        import torch

        sharing: dict[tuple[int, ...], list[_Job]] = {}
        for job in jobs:
            sharing.setdefault(job.read, []).append(job)
        for batch in self._batches(sorted(sharing, key=len, reverse=True)):
            width = len(batch[0])
            ids = torch.tensor([[*read, *[0] * (width - len(read))] for read in batch], device=self.device)
            mask = torch.tensor([[1] * len(read) + [0] * (width - len(read)) for read in batch], device=self.device)
            with torch.inference_mode():
                logits = self.module(input_ids=ids, attention_mask=mask, use_cache=False).logits
                for row, read in enumerate(batch):
                    for job in sharing[read]:
                        end = len(read)
                        wanted = torch.tensor(job.wanted, device=self.device)
                        found = logits[row, end - len(job.wanted) : end].to(torch.float64).log_softmax(-1)
                        chosen = found.gather(1, wanted[:, None])[:, 0]
                        best = bool((found.argmax(-1) == wanted).all())
                        yield job, chosen.cpu().numpy(), best

    def _batches(self, reads: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Sequences, longest first, in batches that fit."""
        most = max(1, min(self.batch_tokens, _MOST_LOGITS // self._vocabulary))
        start = 0
        while start < len(reads):
            size = max(1, most // len(reads[start]))
            yield list(reads[start : start + size])
            start += size

    # Generation

    def texts(
        self,
        prompts: Sequence[str | Conversation],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        watch: Callable[[int, str], None] | None = None,
    ) -> Sequence[Generated]:
        """Texts that follow the prompts, in their order.

        Args:
            prompts: Texts; or conversations, lists of `{"role": .., "content": ..}` for the tokenizer's chat template.
            sampling: How.
            seeds: For each prompt a seed of its own, instead of the sampling's.
            watch: Told a prompt's position and its text so far, after each token.

        Raises:
            InputError: `max_tokens` leaves no room for a prompt, or the tokenizer refuses a conversation.
            RunError: Logits are not finite.
        """
        room = self._most - sampling.max_tokens
        if room < 1:
            raise InputError(
                f"max_tokens must be below {self._most:,}, what '{self.label}' reads at once, got {sampling.max_tokens:,}"
            )
        reads = [self._prompt(prompt, room) for prompt in prompts]
        found: list[Generated | None] = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: -len(reads[i]))
        for batch in self._prompt_batches(order, reads, sampling.max_tokens):
            own = None if seeds is None else [seeds[i] for i in batch]
            told = None if watch is None else [partial(watch, i) for i in batch]
            texts = [str(prompts[i]) for i in batch]
            written = _Writing(self, [reads[i] for i in batch], texts, sampling, own, told).run()
            for i, answer in zip(batch, written, strict=True):
                found[i] = answer
        return [answer for answer in found if answer is not None]

    def _prompt(self, prompt: str | Conversation, room: int) -> list[int]:
        if self.chat or not isinstance(prompt, str):
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            ids, lead = self._bare(self.in_template(messages)), []  # the template has the start token itself
        else:
            ids = self._bare(prompt)
            lead = self._lead(ids)
        if not ids and not lead:
            raise InputError(f"'{self.label}': its tokenizer makes no token of the prompt {prompt[:60]!r}")
        kept = max(room - len(lead), 1)
        self._counts["cut"] += len(ids) > kept
        return [*lead[:room], *ids[-kept:]][-room:]

    def in_template(self, messages: list[Any]) -> str:
        """A conversation as the text that the model continues.

        Raises:
            InputError: There is no template, or it refuses the conversation.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(f"'{self.label}' has no chat template", "It continues texts: give its tokenizer one.")
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:  # such as a template without a place for a system message
            raise InputError(f"'{self.label}': its chat template refuses the conversation: {error}") from error

    def _prompt_batches(self, order: list[int], reads: list[list[int]], more: int) -> Iterator[list[int]]:
        """Prompts by falling length; of one length only, where the model has no positions to tell padding by."""
        start = 0
        while start < len(order):
            longest = len(reads[order[start]])
            size = max(1, self.batch_tokens // (longest + more))
            batch = order[start : start + size]
            if not self._has_positions:
                batch = [i for i in batch if len(reads[i]) == longest]
            yield batch
            start += len(batch)


class _Writing:
    """One batch of answers as they grow."""

    def __init__(
        self,
        model: CausalPredictor,
        reads: list[list[int]],
        prompts: list[str],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        told: Sequence[Callable[[str], None]] | None = None,
    ):
        import torch

        self._model, self._prompts, self._sampling, self._told = model, prompts, sampling, told
        self._reads = reads
        self._written: list[list[int]] = [[] for _ in reads]
        self._texts: list[str | None] = [None] * len(reads)
        self._logprobs: list[list[float]] = [[] for _ in reads]
        keys = [
            xxhash.xxh3_64_intdigest(p.encode("utf-8", "surrogatepass"), seed=seed)
            for p, seed in zip(prompts, seeds or [sampling.seed] * len(prompts), strict=True)
        ]
        self._noise = [torch.Generator().manual_seed(key >> 1) for key in keys]

    def run(self) -> list[Generated]:
        """Write until every answer has ended."""
        import torch

        model = self._model
        width = max(map(len, self._reads))
        ids = torch.tensor([[0] * (width - len(r)) + r for r in self._reads], device=model.device)
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in self._reads], device=model.device)
        more: dict[str, Any] = {}  # nothing is padded for models without positions, so that they need no mask either
        with torch.inference_mode():
            for _ in range(self._sampling.max_tokens):
                if model._has_positions:
                    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                    more |= {"attention_mask": mask, "position_ids": positions}
                answer = model.module(input_ids=ids, use_cache=True, **more)
                tokens = self._take(answer.logits[:, -1])
                if all(text is not None for text in self._texts):
                    break
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
                new = torch.tensor(tokens, device=model.device)[:, None]
                cache = answer.get(model._cache)
                # Without a cache all is read again: slow, and right for any model.
                ids, more = (new, {model._cache: cache}) if cache is not None else (torch.cat([ids, new], 1), {})
        return [self._finished(row) for row in range(len(self._reads))]

    def _take(self, logits: Any) -> list[int]:
        """The next token of each answer; those that have ended get one that nobody looks at."""
        import torch

        logits = logits.to("cpu", torch.float64)
        tokens = [0] * len(self._reads)
        for row, written in enumerate(self._written):
            if self._texts[row] is not None:
                continue
            if not torch.isfinite(logits[row]).any() or torch.isnan(logits[row]).any():
                raise RunError(
                    f"'{self._model.label}' gave logits that are not finite after the prompt {self._prompts[row][:60]!r}"
                )
            tokens[row] = self._next(logits[row], row)
            self._logprobs[row].append(float(logits[row, tokens[row]] - logits[row].logsumexp(-1)))
            if tokens[row] in self._model._ends:
                self._texts[row] = self._decoded(written)
            else:
                written.append(tokens[row])
                self._stop(row)
                if self._told and self._texts[row] is None:
                    self._told[row](self._decoded(written))
        return tokens

    def _next(self, logits: Any, row: int) -> int:
        import torch

        if not self._sampling.temperature:
            return int(logits.argmax())
        shares = torch.softmax((logits - logits.max()) / self._sampling.temperature, -1)
        return int(torch.multinomial(shares, 1, generator=self._noise[row]))

    def _stop(self, row: int) -> None:
        if not self._sampling.stop:
            return
        text = self._decoded(self._written[row])
        places = [place for stop in self._sampling.stop if (place := text.find(stop)) >= 0]
        if places:
            self._texts[row] = text[: min(places)]

    def _decoded(self, tokens: list[int]) -> str:
        return self._model.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _finished(self, row: int) -> Generated:
        text = self._texts[row]
        ended = text is None
        if text is None:
            self._model._counts["ended"] += 1
            text = self._decoded(self._written[row])
        logprobs = tuple(self._logprobs[row])
        return Generated(text, len(self._reads[row]), len(self._written[row]), logprobs=logprobs, cut=ended)


def causal_head(weights: Weights) -> Predictor:
    """A `..ForCausalLM`, merged or not, with the tokenizer beside it.

    Raises:
        InputError: There is no tokenizer, or the weights are of something else.
    """
    if weights.folder is None or not _has_tokenizer(weights.folder):
        where = str(weights.folder or weights.label)
        raise InputError("there is no tokenizer beside the model", "It reads texts: copy tokenizer.json there.", where)
    transformers = needs("transformers", "evaluating a language model", "torch")
    tokenizer = from_folder(transformers, transformers.AutoTokenizer, weights.folder)
    return CausalPredictor(weights.label, module=loaded(weights)[0], tokenizer=tokenizer, device=weights.device)


def _has_tokenizer(folder: Path) -> bool:
    return any(_TOKENIZER.search(path.name) for path in folder.iterdir())
