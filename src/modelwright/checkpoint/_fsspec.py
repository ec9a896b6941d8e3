"""What fsspec knows behind a URL: listed, read by range, copied. It is imported only when a URL is opened.

Inputs (`_remote.py`) and outputs (`_store.py`) stand on this: where a file lies, which state of it is meant, patience with a
network that stutters, and everybody's errors in our words.
"""

from __future__ import annotations

import errno
import importlib
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from modelwright.errors import InputError, MissingExtraError, Problem, RunError

T = TypeVar("T")

#: No + in the scheme: `base+s3://bucket/lora` is a model with an adapter. And `file://` is a path like any other.
_URL = re.compile(r"^(?!file:)(?P<scheme>[A-Za-z][\w.-]*)://", re.ASCII)
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
#: What stores call the state of a file, the surest first: contents, then a number or time that every write changes.
_VERSIONS = (
    "ETag", "etag", "md5Hash", "blob_id", "generation", "mtime", "last_modified", "LastModified", "created",
)  # fmt: skip
#: Seconds before the second, third and last attempt at a transfer.
WAITS = (0.5, 1.0, 2.0)


def is_url(text: str) -> bool:
    """Whether a reference is the URL of something that is not on this machine's disk."""
    return bool(_URL.match(text))


def plain_path(text: str) -> str:
    """`file:///models/base` as a path, and every other text as it is."""
    return text.removeprefix("file://")


def user_path(text: str | Path) -> Path:
    """A path of the user's, with `~` resolved.

    Raises:
        InputError: It begins with the home folder of somebody who has none.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"'{text}' is below a home folder, and there is none", "Write the path in full.") from None


def is_inside(name: str) -> bool:
    """Whether a relative name stays in its folder, on every machine that it may be copied to."""
    return bool(name) and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


@dataclass(frozen=True)
class Stamp:
    """The state of a remote file: equal stamps, equal bytes.

    Attributes:
        size: Bytes of it.
        version: Its ETag, or what else the store has: a hash, a generation, the time of its last change.
    """

    size: int
    version: str


@dataclass(frozen=True)
class Place:
    """A file or folder behind a URL. Its methods raise whatever the file system raises; see `explained`.

    Attributes:
        url: The URL in its usual spelling, without a slash at the end.
        fs: The fsspec file system.
        path: What that file system calls it.
    """

    url: str
    fs: Any
    path: str

    def child(self, name: str) -> Place:
        """A file in the folder."""
        return Place(f"{self.url}/{name}", self.fs, f"{self.path}/{name}")

    def stamp(self) -> Stamp | None:
        """The state of the file now, at the cost of one small request; None where there is no such file."""
        try:
            self.fs.invalidate_cache(self.path)  # listings are remembered
            info = self.fs.info(self.path)
        except FileNotFoundError:
            return None
        return _stamp(info) if info["type"] == "file" else None

    def files(self) -> dict[str, Stamp]:
        """All files below the folder, by relative name; names that would lead out of a copy of it are left out."""
        self.fs.invalidate_cache(self.path)
        found = {
            str(name).removeprefix(self.path).removeprefix("/"): info
            for name, info in sorted(self.fs.find(self.path, detail=True).items())
            if info["type"] == "file"
        }
        return {name: _stamp(info) for name, info in found.items() if is_inside(name)}

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), and no others, by a range request."""
        # file systems that are not asynchronous go through a file object, which would read ahead
        exact = {} if self.fs.async_impl else {"cache_type": "none"}

        def once() -> bytes:
            raw = bytes(self.fs.cat_file(self.path, start=start, end=stop, **exact)) if stop > start else b""
            if len(raw) > stop - start:
                raise OSError(errno.EOPNOTSUPP, "the server does not answer range requests")
            if len(raw) < stop - start:
                raise OSError(f"{len(raw)} bytes came in place of the {stop - start} from byte {start} on")
            return raw

        return patiently(once)

    def download(self, file: Path) -> None:
        """Copy the whole file to a local one."""
        patiently(lambda: self.fs.get_file(self.path, str(file)))


def place_of(url: str) -> Place:
    """Where a URL leads; nothing is asked of the network yet.

    Raises:
        InputError: The scheme is not known, or the URL holds a password.
        MissingExtraError: fsspec, or its package for the scheme, is not installed.
    """
    scheme = url.partition("://")[0]
    if _PASSWORD.search(url):
        shown = _PASSWORD.sub("://...@", url)
        raise InputError(
            f"'{shown}' holds a password, which would go into manifest and model card",
            "Leave it to fsspec's configuration or the environment.",
        )
    try:
        fsspec: Any = importlib.import_module("fsspec")
    except ModuleNotFoundError:
        raise MissingExtraError(f"opening '{url}'", "fsspec", "remote") from None
    if scheme not in fsspec.available_protocols():
        raise InputError(
            f"'{url}': fsspec knows no scheme '{scheme}'",
            "It knows s3, gs, abfs, hf, https, sftp and more; a path has no ://.",
        )
    try:
        fs, path = fsspec.url_to_fs(url)
    except ImportError as error:
        if scheme in ("s3", "s3a"):
            raise MissingExtraError(f"opening '{url}'", "s3fs", "remote") from None
        what = f"opening '{url}' needs a package that is not installed"
        raise InputError(what, f"fsspec says: {str(error).rstrip('.')}.") from None
    except Exception as error:
        raise InputError(_problem(url, error)) from None
    path = str(path).rstrip("/")
    return Place(str(fs.unstrip_protocol(path)), fs, path)


def patiently(transfer: Callable[[], T]) -> T:
    """The result of a transfer that may be repeated, after short waits where what failed may pass."""
    for wait in WAITS:
        try:
            return transfer()
        except Exception as error:
            if not _is_passing(error):
                raise
        time.sleep(wait)
    return transfer()


@contextmanager
def explained(url: str, kind: type[InputError] | type[RunError]) -> Generator[None]:
    """Errors of any file system as one of ours that names the URL."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:  # each store has exceptions of its own, of no common class
        problem = _problem(url, error)
        raise (kind(str(problem)) if issubclass(kind, RunError) else kind(problem)) from None


def _stamp(info: Mapping[str, Any]) -> Stamp:
    size = info.get("size")
    if size is None:
        raise OSError("the server does not say how long the file is")
    version: Any = next((info[key] for key in _VERSIONS if info.get(key)), "")
    if isinstance(version, datetime):  # some give this in one answer, and seconds in the other
        version = version.timestamp()
    return Stamp(int(size), str(version).strip('"'))


def _is_connection(error: Exception) -> bool:
    """By name too, because each store's library has its own."""
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    return isinstance(error, ConnectionError | TimeoutError) or bool(re.search("Connection|Timeout|Network", names))


def _is_passing(error: Exception) -> bool:
    """Whether trying again may help: the line, a busy or broken server, an answer that was cut short."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError):
        return False
    busy = (None, errno.EIO, errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO))
    cut = re.search("Payload|IncompleteRead|Protocol", type(error).__name__)
    return _is_connection(error) or bool(cut) or (isinstance(error, OSError) and error.errno in busy)


def _problem(url: str, error: Exception) -> Problem:
    text = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    reason = (text.splitlines() or [""])[0].rstrip(".") or type(error).__name__
    if isinstance(error, FileNotFoundError):
        said = "" if reason.strip("/") in url else f" ({reason})"
        return Problem(f"there is nothing at '{url}'{said}", "Check bucket and path.")
    if isinstance(error, PermissionError) or re.search("Credential|Forbidden|Unauthori", type(error).__name__):
        return Problem(
            f"access to '{url}' is denied ({reason})",
            "Give the store's own credentials: environment variables, its configuration file or its login command.",
        )
    if _is_connection(error):
        return Problem(
            f"'{url}' cannot be reached ({type(error).__name__}: {reason})",
            "Check the network and, where the store is your own, its endpoint.",
        )
    mend = "Try again later." if _is_passing(error) else ""
    return Problem(f"'{url}' failed ({type(error).__name__}: {reason})", mend)
