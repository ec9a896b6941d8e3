"""A stand-in for the Hugging Face Hub on loopback: enough of its API to open and download models."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def commit(label: str) -> str:
    """A commit hash."""
    return hashlib.sha1(label.encode()).hexdigest()


_JSON = {"Content-Type": "application/json"}


def _entries(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Files as the Hub lists them."""
    return [
        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
    ]


@dataclass
class Hub:
    """What the stand-in holds and what has been asked of it.

    Attributes:
        repos: `owner/name` -> revision -> files. The commit of a revision is `commit(f"{repo}:{revision}")`.
        refused: `owner/name` -> (status, the Hub's error code) for everything that is asked about it.
        ranges: Whether range requests are honoured.
        requests: Method, path and range of each request.
        served: File -> bytes of it that were sent.
        fail: How many requests for files are answered 503 from now on.
    """

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    ranges: bool = True
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    fail: int = 0
    url: str = ""

    def revision(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for name, files in self.repos.get(repo, {}).items():
            if revision in (name, commit(f"{repo}:{name}")):
                return commit(f"{repo}:{name}"), files
        return None


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        """What `hf://` asks about single files."""
        path = unquote(urlsplit(self.path).path)
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.hub.requests.append((self.command, path, None))
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/(.+)", path)
        found = self._found(match[1], match[2], True) if match else None
        if found is not None:
            names = json.loads(asked)["paths"] if asked.startswith("{") else parse_qs(asked)["paths"]
            self._send(
                200, json.dumps(_entries({n: found[1][n] for n in names if n in found[1]})).encode(), True, _JSON
            )

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            repo, what, revision = match[1], match[2], match[3] or "main"
            self._api(repo, what, revision, body)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], body)
        else:
            self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def _found(self, repo: str, revision: str, body: bool) -> tuple[str, dict[str, bytes]] | None:
        status, code = self.hub.refused.get(repo, (404, "RepoNotFound"))
        if repo in self.hub.refused or repo not in self.hub.repos:
            self._send(status, b"{}", body, {"X-Error-Code": code} if code else {})
            return None
        found = self.hub.revision(repo, revision)
        if found is None:
            self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        return found

    def _api(self, repo: str, what: str | None, revision: str, body: bool) -> None:
        found = self._found(repo, revision, body)
        if found is None:
            return
        sha, files = found
        answer: Any = {"id": repo, "modelId": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files]}
        if what == "tree":
            answer = _entries(files)
        self._send(200, json.dumps(answer).encode(), body, _JSON)

    def _file(self, repo: str, revision: str, name: str, body: bool) -> None:
        found = self._found(repo, revision, body)
        if found is None:
            return
        sha, files = found
        if name not in files:
            self._send(404, b"", body, {"X-Error-Code": "EntryNotFound"})
            return
        if self.hub.fail:
            self.hub.fail -= 1
            self._send(503, b"", body, {})
            return
        data = files[name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        status, part = 200, data
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and self.hub.ranges:
            start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
            if start >= len(data):
                self._send(416, b"", body, {"Content-Range": f"bytes */{len(data)}"})
                return
            status, part = 206, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        if body:
            self.hub.served[name] = self.hub.served.get(name, 0) + len(part)
        self._send(status, part, body, headers)

    def _send(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)
