"""Models on the Hugging Face Hub, through huggingface_hub: imported only when a Hub id is opened.

Opening downloads configuration, tokenizer, code and indices to the usual cache, and of each safetensors file its header
alone, by range request. The first tensor that is read from a file brings the file.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelwright.checkpoint._files import ADAPTER_FILES, SMALL_FILES, WEIGHT_SUFFIXES, Folder, RemoteFile
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.checkpoint._safetensors import header_length, parse_header
from modelwright.errors import InputError, RunError

_OFFLINE = "HF_HUB_OFFLINE is set; unset it, or download the whole model first (hf download)."


def hub_folder(repo: str, revision: str | None) -> tuple[Folder, str | None]:
    """The local folder of a Hub model, with the weight files that are not in the cache as remote files.

    Args:
        repo: `owner/name`.
        revision: A branch, tag or commit; None for main.

    Returns:
        The folder, and a note for the user where the cache stands in for a Hub that cannot be reached.

    Raises:
        InputError: It does not exist, needs a login, or can be had neither from the Hub nor from the cache
            (HF_HUB_OFFLINE is honoured).
    """
    hub = library()
    at = _at(repo, revision)
    path = _download(repo, revision, SMALL_FILES)
    if hub.constants.HF_HUB_OFFLINE:
        return Folder(path, hint=_OFFLINE), None
    commit = path.name  # a branch may move meanwhile; everything else is asked for by commit
    try:
        with _explained(repo, revision):
            names = [str(entry.rfilename) for entry in hub.HfApi().model_info(repo, revision=commit).siblings or ()]
    except _UnreachableError:
        note = f"{at}: the Hub cannot be reached; taken from the cache, commit {commit}"
        return Folder(path, hint="The Hub cannot be reached to fetch the rest."), note
    remote: dict[Path, RemoteFile] = {}
    for name in names:
        file = path / name
        if file.suffix in WEIGHT_SUFFIXES and not file.exists() and _inside(name):
            remote[file] = _RemoteFile(repo, revision, commit, name, file)
    return Folder(path, remote), None


def adapter_folder(repo: str, revision: str | None) -> Path:
    """The local folder of an adapter on the Hub, downloaded: adapters are small.

    Raises:
        InputError: As for `hub_folder`.
    """
    return _download(repo, revision, ADAPTER_FILES)


def library() -> Any:
    hub: Any = importlib.import_module("huggingface_hub")
    for part in ("constants", "errors", "utils"):
        importlib.import_module(f"huggingface_hub.{part}")
    return hub


def _at(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision}" if revision else repo


def _inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _download(repo: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """The snapshot's folder with the files of these patterns; the cached one where the Hub cannot be reached."""
    try:
        with _explained(repo, revision):
            hub = library()
            offline = bool(hub.constants.HF_HUB_OFFLINE)
            return Path(
                hub.snapshot_download(repo, revision=revision, allow_patterns=list(patterns), local_files_only=offline)
            )
    except _UnreachableError as error:
        if error.cached is not None:  # a part of it is there; what is missing will be named
            return error.cached
        raise InputError(
            f"no file or folder is called '{_at(repo, revision)}', and the Hub cannot be reached",
            "Check the path; to use a Hub model offline, download it first (hf download).",
        ) from None


class _UnreachableError(Exception):
    """The Hub does not answer. `cached` is what the cache has of the snapshot, or None."""

    def __init__(self, cached: Path | None = None):
        super().__init__()
        self.cached = cached


@contextmanager
def _explained(repo: str, revision: str | None) -> Generator[None]:
    """Errors of huggingface_hub in our words."""
    errors = library().errors
    at = _at(repo, revision)
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"'{at}' is gated on the Hub", "Accept its terms there, then log in: hf auth login.") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"'{repo}' has no revision '{revision}' on the Hub", "Check what follows the @.") from None
    except errors.RepositoryNotFoundError:
        raise _unknown(at) from None
    except errors.LocalEntryNotFoundError as error:
        if _is_denied(error.__cause__):
            raise _unknown(at) from None
        cached = getattr(error, "snapshot_path", None)
        raise _UnreachableError(Path(cached) if cached else None) from None
    except errors.HfHubHTTPError as error:
        raise (_unknown(at) if _is_denied(error) else _failed(at, error)) from None
    except Exception as error:
        if is_connection(error):
            raise _UnreachableError from None
        if isinstance(error, InputError) or not isinstance(error, OSError | ValueError):
            raise
        raise _failed(at, error) from None


def _is_denied(error: BaseException | None) -> bool:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None) in (401, 403)


def _unknown(at: str) -> InputError:
    return InputError(
        f"no file or folder is called '{at}', and the Hub has no such model (or it is private)",
        "Check the path or id; for a private model log in: hf auth login.",
    )


def _failed(at: str, error: Exception) -> InputError:
    first = (str(error).splitlines() or [""])[0]
    return InputError(f"'{at}' could not be fetched from the Hub ({type(error).__name__}: {first})", "Try again later.")


def is_connection(error: Exception) -> bool:
    """By name, because it is requests' error or httpx's, by version of huggingface_hub."""
    return bool(re.search("Connect|Timeout|Offline|NetworkError|ReadError|ProtocolError", type(error).__name__))


class _RemoteFile:
    """A weight file on the Hub: its header by range request, itself by download, once."""

    def __init__(self, repo: str, revision: str | None, commit: str, name: str, path: Path):
        self._repo, self._revision, self._commit, self._name, self._path = repo, revision, commit, name, path
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:  # into another process, without the lock
        return _RemoteFile, (self._repo, self._revision, self._commit, self._name, self._path)

    def header(self) -> tuple[dict[str, TensorRef], dict[str, str]]:
        """Its tensors and metadata, for which nothing but the header is transferred."""
        with self._reached():
            prefix, size = self._range(0, 8)
            length = header_length(prefix, self._path, size)
            raw, _ = self._range(8, 8 + length)
        tensors, metadata = parse_header(raw, self._path, size - 8 - length, offset=8 + length)
        return {name: replace(ref, load=self._fetching(ref), fill=None) for name, ref in tensors.items()}, metadata

    def fetch(self) -> Path:
        """Download it to the cache, unless it has come meanwhile."""
        with self._lock, self._reached():
            if not self._path.exists():
                library().hf_hub_download(self._repo, self._name, revision=self._commit)
        return self._path

    def _fetching(self, ref: TensorRef) -> Callable[[], NumpyArray]:
        def load() -> NumpyArray:
            try:
                self.fetch()
            except InputError as error:  # it was there when it was opened
                raise RunError(str(error)) from None
            return ref.load()

        return load

    @contextmanager
    def _reached(self) -> Generator[None]:
        at = f"{_at(self._repo, self._revision)}/{self._name}"
        try:
            with _explained(self._repo, self._revision):
                yield
        except _UnreachableError:
            raise InputError(f"'{at}' could not be fetched: the Hub cannot be reached", "Try again later.") from None

    def _range(self, start: int, stop: int) -> tuple[bytes, int]:
        """The bytes [start, stop) and the size of the whole file."""
        hub = library()
        url = hub.hf_hub_url(self._repo, self._name, revision=self._commit)
        headers = {**hub.utils.build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        answer = hub.utils.http_backoff(
            "GET", url, headers=headers, timeout=hub.constants.HF_HUB_DOWNLOAD_TIMEOUT, max_retries=3
        )
        hub.utils.hf_raise_for_status(answer)
        size = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status_code != 206 or size is None:
            raise InputError(
                f"'{self._repo}/{self._name}': the Hub, or a mirror of it, does not answer range requests",
                "Download the whole model first (hf download), then set HF_HUB_OFFLINE=1.",
            )
        return answer.content[: stop - start], int(size[1])
