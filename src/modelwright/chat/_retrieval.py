"""Passages of local files by BM25."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from modelwright.errors import InputError
from modelwright.evaluate._predictor import needs

_TEXTS = (".txt", ".md", ".rst")
_ROWS = (".jsonl",)


@dataclass(frozen=True)
class Passage:
    """A piece of a document.

    Attributes:
        source: The file's name, and which of its passages it is, from 1.
        text: What it says.
        score: How well it fits a query, by BM25; 0 where it was not searched for.
    """

    source: str
    text: str
    score: float = 0.0


class Retriever:
    """Finds passages by BM25, with the package bm25s.

    Args:
        passages: What can be found.

    Raises:
        InputError: There are none.
    """

    def __init__(self, passages: Sequence[Passage]):
        if not passages:
            raise InputError("retrieval needs a passage", "Name files that hold text.")
        self.passages = tuple(passages)

    @classmethod
    def of_files(cls, paths: Sequence[str | Path], words: int = 120) -> Retriever:
        """Passages of files, or of the files in folders: .txt, .md and .rst by paragraphs, .jsonl by the key `text`.

        Args:
            paths: Files and folders.
            words: Paragraphs are joined while a passage has no more words than this, and cut where one has more.

        Raises:
            InputError: A file cannot be read, is of another kind, or holds no text; or `words` is below 1.
        """
        if words < 1:
            raise InputError(f"words must be at least 1, got {words}")
        files = [file for path in paths for file in _files(Path(path).expanduser())]
        return cls([passage for file in files for passage in _passages(file, words)])

    @cached_property
    def _index(self) -> Any:
        bm25s = needs("bm25s", "retrieval", "chat")
        index = bm25s.BM25(backend="numpy")
        index.index(self._tokens([p.text for p in self.passages]), show_progress=False)
        return index

    @staticmethod
    def _tokens(texts: list[str]) -> list[list[str]]:
        bm25s = needs("bm25s", "retrieval", "chat")
        pattern = r"(?u)\b\w+\b"  # its own leaves out digits that stand alone
        return bm25s.tokenize(texts, token_pattern=pattern, return_ids=False, show_progress=False)

    def search(self, query: str, count: int) -> list[Passage]:
        """The passages that fit a query best, best first; of equal ones the earlier. Those without a word of it are left out.

        Raises:
            InputError: `count` is below 1.
        """
        if count < 1:
            raise InputError(f"a search finds at least 1 passage, got {count}")
        words = [word for word in self._tokens([query])[0] if word in self._index.vocab_dict]
        if not words:
            return []
        scores = self._index.get_scores(words)
        order = sorted(range(len(self.passages)), key=lambda i: (-float(scores[i]), i))[:count]
        found = [(self.passages[i], float(scores[i])) for i in order if scores[i] > 0]
        return [Passage(passage.source, passage.text, score) for passage, score in found]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that can be found."""
        said = "\x1e".join(f"{p.source}\x1f{p.text}" for p in self.passages)
        return xxhash.xxh3_128_hexdigest(said.encode("utf-8", "surrogatepass"))


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.suffix in (*_TEXTS, *_ROWS) and file.is_file())
    elif path.suffix in (*_TEXTS, *_ROWS):
        yield path
    else:
        kinds = ", ".join((*_TEXTS, *_ROWS))
        raise InputError(f"documents must be folders or files of {kinds}, got '{path.name}'", where=str(path))


def _passages(path: Path, words: int) -> Iterator[Passage]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the document cannot be read: {reason}", where=str(path)) from error
    pieces = _rows(text, path) if path.suffix in _ROWS else text.split("\n\n")
    whole = path.suffix in _ROWS
    for number, piece in enumerate(pieces if whole else _sized(pieces, words), 1):
        yield Passage(f"{path.name}:{number}", piece)


def _rows(text: str, path: Path) -> list[str]:
    found: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(str(json.loads(line)["text"]))
            except (ValueError, KeyError, TypeError):
                raise InputError("a line must be a JSON object with text", where=f"{path}:{number}") from None
    return found


def _sized(paragraphs: Sequence[str], most: int) -> Iterator[str]:
    """Paragraphs joined, or cut, to pieces of up to so many words."""
    held: list[str] = []
    count = 0
    for paragraph in paragraphs:
        words = paragraph.split()
        if held and count + len(words) > most:
            yield "\n\n".join(held)
            held, count = [], 0
        if len(words) > most:
            yield from (" ".join(words[i : i + most]) for i in range(0, len(words), most))
        elif words:
            held.append(paragraph.strip())
            count += len(words)
    if held:
        yield "\n\n".join(held)
