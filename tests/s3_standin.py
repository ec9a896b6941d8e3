"""An S3 server on loopback (moto's), with a count of what was asked and sent, and with faults on demand."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class S3:
    """The server, and what has been asked of it.

    Attributes:
        url: Its endpoint.
        requests: Method, path and range of each request.
        served: Path -> bytes of it that were sent.
        uploads: Path -> how many requests brought bytes for it.
        broken: How many requests for ranges are answered 500 from now on.
        hidden: Buckets that nobody may look into.
    """

    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    hidden: set[str] = field(default_factory=set)

    def ranges(self, path: str) -> list[tuple[int, int]]:
        """The byte ranges [start, stop) asked of a file."""
        found = [wanted for _, asked, wanted in self.requests if asked == path and wanted]
        pairs = [wanted.removeprefix("bytes=").split("-") for wanted in found]
        return [(int(start), int(last) + 1) for start, last in pairs]

    def forget(self) -> None:
        """Count from here."""
        self.requests.clear()
        self.served.clear()
        self.uploads.clear()


@contextmanager
def serve() -> Iterator[S3]:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3 = S3()
    server = make_server("127.0.0.1", 0, _Counted(DomainDispatcherApplication(create_backend_app), s3), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    s3.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield s3
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Counted:
    """The application, its requests and answers counted."""

    def __init__(self, inner: Callable[..., Iterable[bytes]], s3: S3):
        self._inner, self._s3 = inner, s3

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path, wanted = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE")
        s3 = self._s3
        s3.requests.append((method, path, wanted))
        if path.split("/")[1] in s3.hidden:
            return _refused(start, "403 Forbidden", "AccessDenied", "Access Denied", body=method != "HEAD")
        if wanted and s3.broken:
            s3.broken -= 1
            return _refused(start, "500 Internal Server Error", "InternalError", "We encountered an internal error.")
        if method == "PUT":
            s3.uploads[path] = s3.uploads.get(path, 0) + 1
        answer = list(self._inner(environ, start))
        if method == "GET":
            s3.served[path] = s3.served.get(path, 0) + sum(len(piece) for piece in answer)
        return answer


def _refused(start: Callable[..., Any], status: str, code: str, message: str, body: bool = True) -> Iterable[bytes]:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text) if body else 0))])
    return [text] if body else []
