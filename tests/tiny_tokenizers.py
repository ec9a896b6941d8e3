"""Small tokenizers of every kind, trained on the spot by the library, and folders of models that have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import tiny_folders as tiny

ENGLISH = (
    "the quick brown fox jumps over the lazy dog. she had not expected it, but they had already left the other place. "
    "in the morning there was nothing further to be done, and the weather was rather cold. " * 4
)
GERMAN = (
    "der schnelle braune Fuchs springt über den faulen Hund. am Morgen war nichts weiter zu tun, und das Wetter war recht kalt. "
    "die Käfer krabbeln über die Wiese, während der Fluss durch das Tal fließt. " * 4
)
CODE = "def main(argument):\n    return argument + 1\n\nfor index in range(10):\n    print(index)\n" * 6
END, START = "<|end|>", "<|im_start|>"


def byte_level(text: str = ENGLISH, size: int = 300, special: Sequence[str] = (END,)) -> Tokenizer:
    """Byte-level BPE, as GPT-2's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text], trainer)
    return made


def sentencepiece_style(text: str = ENGLISH, size: int = 120, special: Sequence[str] = ("<unk>", "</s>")) -> Tokenizer:
    """BPE over characters with a mark for spaces, as Llama's."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.train_from_iterator(
        text.split(". "), trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), show_progress=False)
    )
    return made


def unigram(text: str = ENGLISH, size: int = 120) -> Tokenizer:
    """As T5's."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(text.split(". "), trainer)
    return made


def wordpiece(text: str = ENGLISH, size: int = 140) -> Tokenizer:
    """As BERT's."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    made.train_from_iterator([text], trainer)
    return made


KINDS: dict[str, Any] = {
    "byte-level BPE": byte_level, "sentencepiece-style BPE": sentencepiece_style, "Unigram": unigram, "WordPiece": wordpiece,
}  # fmt: skip


def with_added(made: Tokenizer, *tokens: str) -> Tokenizer:
    """The same with further special tokens."""
    copy = Tokenizer.from_str(made.to_str())
    copy.add_special_tokens(list(tokens))
    return copy


def save(folder: Path, made: Tokenizer, template: str | None = None, **roles: str) -> Path:
    """The files of a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(made.to_str(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **roles} | (
        {"chat_template": template} if template else {}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def model(
    folder: Path,
    made: Tokenizer,
    seed: int,
    rows: int | None = None,
    dtype: Any = np.float32,
    tied: bool = False,
    **extra: Any,
) -> Path:
    """A tiny llama-like folder whose embeddings fit the tokenizer, or have more rows."""
    rows = rows or made.get_vocab_size()
    arrays, rng = tiny.arrays(seed, 2, dtype), np.random.default_rng(seed + 100)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = rng.normal(size=(rows, tiny.HIDDEN)).astype(dtype)
    if tied:
        del arrays["lm_head.weight"]
    end = made.token_to_id(END)
    settings = tiny.config(2, tie_word_embeddings=tied) | {"vocab_size": rows, "eos_token_id": end} | extra
    tiny.write(folder, arrays, settings)
    return save(folder, made, eos_token=END) if end is not None else save(folder, made)
