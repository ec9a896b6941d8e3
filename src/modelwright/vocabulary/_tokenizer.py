"""A tokenizer as its files describe it: strings, numbers, special tokens, and what a string stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from modelwright.architectures import is_list, is_table, is_text
from modelwright.checkpoint import Checkpoint, open as open_checkpoint, parse_json, read_small, user_path
from modelwright.errors import InputError, MissingExtraError, listing
from modelwright.vocabulary._templates import kept_template

#: How a token's characters stand for text: each for a byte; with `▁` for a space; with a mark on what goes on a word; as they are.
Alphabet = Literal["bytes", "metaspace", "wordpiece", "plain"]
KINDS = ("BPE", "Unigram", "WordPiece", "WordLevel")
_SLOW = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "sentencepiece.bpe.model")
#: What tells `tokenizer_config.json` of special tokens.
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, read and not yet loaded.

    Attributes:
        label: What messages call it.
        table: What `tokenizer.json` says.
        settings: What `tokenizer_config.json` says.
        special: Role, such as `bos_token`, -> its string.
        template: The chat template, or None.
    """

    label: str
    table: Mapping[str, Any] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    special: Mapping[str, str] = field(default_factory=dict[str, str])
    template: str | None = field(default=None, repr=False)

    @property
    def model(self) -> Mapping[str, Any]:
        """The part of the table that has the vocabulary."""
        return self.table["model"]

    @property
    def kind(self) -> str:
        """`BPE`, `Unigram`, `WordPiece` or `WordLevel`."""
        return str(self.model["type"])

    @cached_property
    def pieces(self) -> dict[str, int]:
        """Strings of the model's own vocabulary -> their numbers."""
        return _pieces(self.model)

    @cached_property
    def added(self) -> dict[str, Mapping[str, Any]]:
        """Added tokens by their strings; the last of equal strings."""
        return {entry["content"]: entry for entry in self.table.get("added_tokens") or ()}

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Every string -> its number, added tokens included."""
        return self.pieces | {text: entry["id"] for text, entry in self.added.items()}

    @cached_property
    def size(self) -> int:
        """One more than the highest number."""
        return max(self.tokens.values(), default=-1) + 1

    @cached_property
    def alphabet(self) -> Alphabet:
        """How its strings stand for text."""
        parts = [self.table.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]
        types = {entry.get("type") for part in parts for entry in _nested(part)}
        if "ByteLevel" in types:
            return "bytes"
        if "Metaspace" in types or any("\u2581" in json.dumps(part, ensure_ascii=False) for part in parts):
            return "metaspace"
        return "wordpiece" if self.kind == "WordPiece" else "plain"

    @cached_property
    def meanings(self) -> dict[bytes, int]:
        """What its tokens stand for, as bytes -> number. Of tokens that mean the same, one that spells it wins over one of bytes."""
        found: dict[bytes, int] = {}
        for text, number in sorted(self.pieces.items(), key=lambda item: (bool(_BYTE.fullmatch(item[0])), item[1])):
            if text not in self.added:
                found.setdefault(self.meaning(text), number)
        return found

    def meaning(self, text: str) -> bytes:
        """The bytes of text that a token of the vocabulary stands for."""
        if self.alphabet == "bytes":
            known = _bytes_of_characters()
            return b"".join(known.get(c) or c.encode("utf-8", "replace") for c in text)
        if self.alphabet == "metaspace":
            byte = _BYTE.fullmatch(text)
            return bytes([int(byte[1], 16)]) if byte else text.replace("\u2581", " ").encode("utf-8", "replace")
        if self.alphabet == "wordpiece":
            mark = str(self.model.get("continuing_subword_prefix") or "##")
            goes_on = text.startswith(mark) and len(text) > len(mark)
            return (text[len(mark) :] if goes_on else " " + text).encode("utf-8", "replace")
        return text.encode("utf-8", "replace")

    @cached_property
    def text(self) -> str:
        """`tokenizer.json` as it is written: in one piece, since indenting doubles its size."""
        found = json.dumps(self.table, ensure_ascii=False)
        return found if is_text(found) else json.dumps(self.table)

    @cached_property
    def backend(self) -> Any:
        """It, loaded by the library `tokenizers`.

        Raises:
            MissingExtraError: That is not installed.
            InputError: The library cannot make a tokenizer of it.
        """
        try:
            from tokenizers import Tokenizer as Loaded
        except ImportError as error:
            raise MissingExtraError("comparing tokenizers", "tokenizers", "torch") from error
        try:
            made = Loaded.from_str(self.text)
        except BaseException as error:  # the library's panics are no Exceptions
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            raise InputError(
                f"{self.label}: its tokenizer.json cannot be loaded ({str(error)[:300]})", "Copy it again."
            ) from None
        made.no_padding()
        made.no_truncation()
        return made

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Numbers of each text, without what a template puts around it."""
        return [encoding.ids for encoding in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, numbers: Sequence[Sequence[int]]) -> list[str]:
        """Texts of numbers."""
        return self.backend.decode_batch([list(ids) for ids in numbers], skip_special_tokens=False)


@lru_cache(1)
def _bytes_of_characters() -> dict[str, bytes]:
    """The characters that byte-level tokenizers write bytes as: printable ones as themselves, others from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    known = {chr(byte): bytes([byte]) for byte in plain}
    return known | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)}


def byte_characters() -> dict[int, str]:
    """Byte -> the character that byte-level tokenizers write it as."""
    return {byte[0]: character for character, byte in _bytes_of_characters().items()}


def _nested(part: Any) -> Iterator[Mapping[str, Any]]:
    """A part of the pipeline, and the steps inside."""
    if is_table(part):
        yield part
        for value in part.values():
            yield from _nested(value)
    elif is_list(part):
        for value in part:
            yield from _nested(value)


def _pieces(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    if is_table(vocabulary):
        return vocabulary
    found: dict[str, int] = {}
    for number, (text, _) in enumerate(vocabulary):
        found.setdefault(text, number)
    return found


# --- reading -------------------------------------------------------------------------------------------------------


#: Files that are a tokenizer's, or what is said with it.
TOKENIZER_FILES = re.compile(
    r"^(tokenizer.*|special_tokens_map\.json|added_tokens\.json|merges\.txt|vocab\..*|spiece\.model|.*\.tiktoken|"
    r"sentencepiece.*|chat_template.*|bpe\.codes)$"
)


def file_beside(model: Checkpoint, name: str) -> Path | str | None:
    """A file beside the weights, or its text. What a model in memory has beside it stands for what is in its folder, and a tokenizer for all of that one's files."""
    if name in model.beside:
        return model.beside[name]
    if model.path is None or ("tokenizer.json" in model.beside and TOKENIZER_FILES.match(name)):
        return None
    return model.path / name


def tokenizer_of(model: Checkpoint, *, convert: bool = True) -> Tokenizer | None:
    """The tokenizer beside a model's weights; None where there is none.

    Args:
        model: The model.
        convert: Let transformers convert one that only has the files of slow tokenizers, such as `tokenizer.model`.

    Raises:
        InputError: It is damaged, or of a kind that is not known here.
    """

    def content(name: str) -> bytes | None:
        file = file_beside(model, name)
        if isinstance(file, str):
            return file.encode("utf-8", "surrogatepass")
        return read_small(file) if file is not None and file.is_file() else None

    folder = model.path if convert and model.path is not None and model.path.is_dir() else None
    return _read(model.label, content, folder)


def open_tokenizer(reference: str | Path) -> Tokenizer:
    """The tokenizer of a folder (weights need not be there), of a `tokenizer.json`, or of whatever `mw.open` opens.

    Raises:
        InputError: There is none.
    """
    path = user_path(reference)
    folder = path.parent if path.name == "tokenizer.json" and path.is_file() else path
    if folder.is_dir():
        found = _read(
            str(reference), lambda name: read_small(folder / name) if (folder / name).is_file() else None, folder
        )
    else:
        found = tokenizer_of(open_checkpoint(str(reference)))
    if found is None:
        raise InputError(f"'{reference}' has no tokenizer", "Put its tokenizer.json there.")
    return found


def _read(label: str, content: Callable[[str], bytes | None], folder: Path | None) -> Tokenizer | None:
    def table(name: str) -> Any:
        raw = content(name)
        if raw is None:
            return None
        try:
            return parse_json(raw, strict=False)
        except ValueError as error:
            raise InputError(f"{label}: {name} is not valid JSON ({error})", "Copy it again.") from None

    found = table("tokenizer.json")
    if found is None:
        if folder is None or not any((folder / name).is_file() for name in _SLOW):
            return None
        found = json.loads(_converted(label, folder))
    _check(label, found)
    settings = table("tokenizer_config.json")
    settings = settings if is_table(settings) else {}
    mapped = table("special_tokens_map.json")
    special = _special(settings) | (_special(mapped) if is_table(mapped) else {})
    template = kept_template(label, content("chat_template.jinja"), settings)
    return Tokenizer(label, found, settings, special, template)


def _special(settings: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for role in ROLES:
        value = settings.get(role)
        value = value.get("content") if is_table(value) else value
        if is_text(value):
            found[role] = value
    return found


def _converted(label: str, folder: Path) -> str:
    """The tokenizer of files that hold no `tokenizer.json`, as that file's text."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"{label}: reading a tokenizer without tokenizer.json", "transformers", "torch"
        ) from error
    try:
        library: Any = transformers
        loaded = library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return str(loaded.backend_tokenizer.to_str())
    except Exception as error:  # of many kinds, from conversions for many kinds
        raise InputError(
            f"{label}: its tokenizer has no tokenizer.json and cannot be converted ({str(error).splitlines()[0][:200]})",
            "Load it with transformers and save it as a fast tokenizer.",
        ) from None


def _check(label: str, table: Any) -> None:
    model = table.get("model") if is_table(table) else None
    if not is_table(model):
        raise InputError(f"{label}: tokenizer.json has no model", "Copy it again.")
    vocabulary, added = model.get("vocab"), table.get("added_tokens")
    if "type" not in model:  # old files leave it out
        model["type"] = "BPE" if "merges" in model else "Unigram" if is_list(vocabulary) else "WordPiece"
    if model["type"] not in KINDS:
        raise InputError(
            f"{label}: tokenizers of the kind {model['type']} are not known here", f"Known: {listing(KINDS)}."
        )
    if is_list(vocabulary):
        good = all(is_list(entry) and len(entry) == 2 and isinstance(entry[0], str) for entry in vocabulary)
    else:
        good = is_table(vocabulary) and all(_number(value) for value in vocabulary.values())
    good = good and (added is None or is_list(added))
    for entry in added if is_list(added) else ():
        good = good and is_table(entry) and isinstance(entry.get("content"), str) and _number(entry.get("id"))
    if not good:
        raise InputError(f"{label}: the vocabulary of tokenizer.json is damaged", "Copy it again.")


def _number(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


# --- what is wrong, and what goes together -------------------------------------------------------------------------


def defects(tokenizer: Tokenizer, rows: int | None = None) -> list[str]:
    """What is wrong with a vocabulary: numbers beyond the embedding, holes, strings that share a number or have two.

    Args:
        tokenizer: It.
        rows: Rows of the model's embedding, where there is one.
    """
    found: list[str] = []
    beyond = [text for text, number in tokenizer.tokens.items() if rows is not None and number >= rows]
    if beyond:
        found.append(
            f"{_count(beyond, 'token')} with numbers from {rows} on, beyond the {rows:,} rows of the embedding: {_shown(beyond)}"
        )
    numbers = set(tokenizer.tokens.values())
    holes = tokenizer.size - len(numbers)
    if holes:
        first = next(i for i in range(tokenizer.size) if i not in numbers)
        found.append(f"{holes:,} hole{'s' * (holes != 1)}: numbers without a token, such as {first}")
    if len(numbers) < len(tokenizer.tokens):
        seen: dict[int, str] = {}
        pairs = [f"{seen[n]!r} and {t!r}" for t, n in tokenizer.tokens.items() if seen.setdefault(n, t) != t]
        found.append(f"{len(pairs):,} numbers stand for two strings: {listing(pairs, 3)}")
    twice = list(_twice(tokenizer))
    if twice:
        found.append(f"{_count(twice, 'string')} with two numbers: {_shown(twice)}")
    return found


def _twice(tokenizer: Tokenizer) -> Iterator[str]:
    entries = [(entry["content"], entry["id"]) for entry in tokenizer.table.get("added_tokens") or ()]
    vocabulary = tokenizer.model["vocab"]
    if is_list(vocabulary):
        entries += [(entry[0], number) for number, entry in enumerate(vocabulary)]
    else:
        entries += [(text, vocabulary[text]) for text, _ in entries if text in vocabulary]
    seen: dict[str, int] = {}
    yield from dict.fromkeys(text for text, number in entries if seen.setdefault(text, number) != number)


def matching(tokenizer: Tokenizer, other: Tokenizer) -> Callable[[str], int]:
    """The number that a token of `tokenizer` has in `other`, or -1.

    By string, where both write text in one way; else by the bytes that it stands for, so that `Ġthe`, `▁the` and, of whole
    words, `the` of a WordPiece are one. Added tokens always go by their strings.
    """
    own = other.tokens
    if tokenizer.alphabet == other.alphabet:
        return lambda text: own.get(text, -1)
    meanings, added = other.meanings, tokenizer.added
    return lambda text: own.get(text, -1) if text in added else meanings.get(tokenizer.meaning(text), -1)


def _count(items: Sequence[object], what: str) -> str:
    return f"{len(items):,} {what}{'s' * (len(items) != 1)}"


def _shown(texts: Iterable[str], most: int = 4) -> str:
    return listing([repr(text[:40]) for text in texts], most)
