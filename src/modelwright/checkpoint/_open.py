"""`open(ref)`: whatever holds named tensors becomes a `Checkpoint`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from modelwright.architectures import is_mapping, is_text
from modelwright.checkpoint._checkpoint import Checkpoint
from modelwright.checkpoint._files import Folder, from_file, from_folder
from modelwright.checkpoint._fsspec import is_url, plain_path
from modelwright.checkpoint._memory import from_mapping, from_module
from modelwright.checkpoint._store import BUNDLE
from modelwright.errors import InputError

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", re.ASCII)


def open(ref: Any, *, folder: str | Path | None = None, label: str | None = None) -> Checkpoint:
    """Open anything that is named tensors; only headers are read.

    Args:
        ref: A folder (Hugging Face, diffusers, sentence-transformers), a `.safetensors`, `.gguf` or torch file, `a+b`
            for a model with a LoRA adapter, a Hub id with an optional `@revision`, a URL of a folder or a weight file
            (`s3://`, `gs://` and whatever else fsspec knows), an `nn.Module`, a state dict, a dict of numpy arrays, or a
            `Checkpoint`.
        folder: Where relative paths start; default the working directory. An existing path wins before `@` and `+` are
            parsed, and before the Hub.
        label: What to call it in messages; default the reference itself.

    Returns:
        A lazy `Checkpoint`. Of a Hub model the small files are in the local cache, and each shard follows when one of
        its tensors is read; behind a URL the weights stay where they are, and each tensor is read by range request.
        Other files are downloaded to look at them: a remote model without safetensors, as a whole.

    Raises:
        InputError: It does not exist, is damaged, is quantised, or holds something other than tensors.
        MissingExtraError: It needs gguf or fsspec, which is not installed.

    Example:
        >>> import numpy as np
        >>> open({"w": np.ones((2, 2), np.float32)})["w"].shape
        (2, 2)
    """
    if isinstance(ref, Checkpoint):
        return ref
    if _is_path(ref):
        return _open_text(os.fspath(ref), Path(folder) if folder else Path(), label or os.fspath(ref))
    if is_mapping(ref):
        return from_mapping(ref, label or "state dict")
    if callable(getattr(ref, "state_dict", None)):
        return from_module(ref, label or type(ref).__name__)
    raise InputError(
        f"cannot open a {type(ref).__name__} as a checkpoint",
        "Pass a path, a Hub id, an nn.Module, a state dict or a dict of numpy arrays.",
    )


def _is_path(ref: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(ref, str | os.PathLike)


def _open_text(text: str, folder: Path, label: str) -> Checkpoint:
    if not is_text(text):
        raise InputError(f"the path '{text}' is not UTF-8, and would stand in the manifest", "Rename it.")
    if is_url(text) and ("+" not in text or _is_there(text, folder)):
        from modelwright.checkpoint._remote import open_url

        return open_url(text, label)
    path = None if is_url(text) else _existing(text, folder)
    if path is not None:
        if (path / BUNDLE).is_file():
            raise InputError(
                f"'{text}' is a bundle, not one model",
                f"mw inspect shows what is in it; of weights for several tasks write '{text}#TASK'.",
            )
        opened = from_folder(Folder(path), label) if path.is_dir() else from_file(path, label)
        return _elsewhere(opened, text, folder, path)
    if "+" in text:
        model, adapter = _model_and_adapter(text, folder)
        return _with_adapter(_open_text(model, folder, model), adapter, folder, label)
    repo, revision = _hub_id(text, folder)
    from modelwright.checkpoint._hub import hub_folder

    remote, note = hub_folder(repo, revision)
    opened = from_folder(remote, label)
    return opened if note is None else opened.with_notes(note)


def _existing(text: str, folder: Path) -> Path | None:
    for candidate in _candidates(text, folder):
        try:
            if text and candidate.exists():
                return candidate
        except OSError:  # a text too long for a path is none
            continue
    return None


def _candidates(text: str, folder: Path) -> Iterator[Path]:
    """Beside the recipe first, then in the working directory."""
    try:
        path = Path(plain_path(text)).expanduser()
    except RuntimeError:  # ~name of nobody
        path = Path(plain_path(text))
    yield folder / path
    yield path


def _elsewhere(opened: Checkpoint, text: str, folder: Path, path: Path) -> Checkpoint:
    """A recipe that works from one directory only deserves a warning."""
    if path == next(_candidates(text, folder)):
        return opened
    return opened.with_notes(f"'{text}' is not in {folder}; taken from the working directory")


def _is_there(text: str, folder: Path) -> bool:
    """Whether a path, or what a URL leads to, exists; the latter takes a request."""
    if not is_url(text):
        return _existing(text, folder) is not None
    from modelwright.checkpoint._remote import exists

    return exists(text)


def _model_and_adapter(text: str, folder: Path) -> tuple[str, str]:
    """The two sides of `model+adapter`; with more than one + the split whose sides exist."""
    pieces = text.split("+")
    splits = [("+".join(pieces[:i]), "+".join(pieces[i:])) for i in range(1, len(pieces))]
    if len(splits) > 1:
        splits = [split for split in splits if all(_is_there(side, folder) for side in split)]
    if not splits:
        raise InputError(f"'{text}' has more than one +", "One adapter per reference: model+adapter.")
    model, adapter = splits[0]
    if not model or not adapter:
        raise InputError(f"'{text}' lacks one side of the +", "Write model+adapter.")
    return model, adapter


def _with_adapter(model: Checkpoint, text: str, folder: Path, label: str) -> Checkpoint:
    from modelwright.checkpoint._adapter import with_adapter

    if not is_url(text):
        return with_adapter(model, _adapter_folder(text, folder), label)
    from modelwright.checkpoint._remote import adapter_at, named

    path, url = adapter_at(text)
    with named(path, url):
        return with_adapter(model, path, label)


def _adapter_folder(text: str, folder: Path) -> Path:
    path = _existing(text, folder)
    if path is not None:
        return path
    from modelwright.checkpoint._hub import adapter_folder

    return adapter_folder(*_hub_id(text, folder))


def _hub_id(text: str, folder: Path) -> tuple[str, str | None]:
    """The parts of `owner/name@revision`."""
    name, at, revision = text.partition("@")
    if at and _existing(name, folder):
        raise InputError(
            f"no file or folder is called '{text}', and '{name}' is a local path, which has no revisions",
            "Leave out the @, or name the Hub model from another directory.",
        )
    if not _HUB_ID.match(name) or (at and not revision):
        raise InputError(
            f"no file, folder or Hub model is called '{text}'",
            "Check the path; a Hub id is owner/name, or owner/name@revision.",
        )
    return name, revision or None
