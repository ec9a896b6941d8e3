"""A stand-in for the part of the Hugging Face Hub's API that uploads go through, on loopback.

Repositories, branches, commits, the choice between git and LFS, LFS' batch, transfer and verification, and the check of model
cards. What it cannot do, Xet, is switched off in the client by `environment`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_0123456789secret"
USER = "somebody"
#: What the Hub keeps outside git, of the files that a merge writes.
LFS = (".safetensors", ".model", ".bin")


@dataclass
class Commit:
    """A state of a branch: its files, and which of them are in LFS."""

    files: dict[str, bytes]
    message: str = "initial commit"
    parent: str = ""

    @property
    def oid(self) -> str:
        digest = hashlib.sha1(f"{self.parent} {self.message}".encode())
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + hashlib.sha256(content).digest())
        return digest.hexdigest()


@dataclass
class Repo:
    """A repository.

    Attributes:
        private: As it was made.
        branches: Commits of each branch, the newest last.
    """

    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": [Commit({".gitattributes": b"x"})]})

    @property
    def files(self) -> dict[str, bytes]:
        """Of the newest commit of main."""
        return self.branches["main"][-1].files

    def at(self, revision: str) -> Commit | None:
        for name, commits in self.branches.items():
            for commit in reversed(commits):
                if revision in (name, commit.oid):
                    return commit
        return None


@dataclass
class Hub:
    """What the stand-in holds and was asked.

    Attributes:
        repos: By `owner/name`.
        objects: Contents in LFS, by their SHA-256.
        requests: Method and path of each request, and the token that came with it.
        puts: Files that were put into LFS, by SHA-256, each time.
        refused: Path -> (status, text) for requests whose path begins so.
        fail_puts: How many uploads are refused, once so many were accepted.
        before_commit: Called when a commit arrives.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    puts: list[str] = field(default_factory=list)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    accept_puts: int = 1_000_000
    before_commit: Any = None
    url: str = ""

    def asked(self, method: str, path: str) -> int:
        """How many requests of this kind came."""
        return sum(m == method and re.fullmatch(path, p) is not None for m, p, _ in self.requests)


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
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


def lead(monkeypatch: Any, hub: Hub, folder: Path) -> None:
    """Lead this process to the stand-in, with caches in a folder: huggingface_hub reads its settings once."""
    from huggingface_hub import constants, file_download, utils

    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {
        "ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(folder / "cache"),
        "HUGGINGFACE_HUB_CACHE": str(folder / "cache"), "HF_TOKEN_PATH": str(folder / "no-token"), "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    utils.disable_progress_bars()


def environment(hub: Hub, folder: Path) -> dict[str, str]:
    """What leads a process to the stand-in, and keeps its caches in a folder."""
    return {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def _route(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.requests.append((self.command, path, token))
        for start, (status, text) in self.hub.refused.items():
            if path.startswith(start):
                self._error(status, "", text)
                return
        if not path.startswith("/lfs/") and token != TOKEN:
            self._error(401, "", "Invalid credentials in Authorization header")
            return
        for pattern, handle in _ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                handle(self, *match.groups())
                return
        self._error(404, "", f"no such route: {self.command} {path}")

    # --- answers -----------------------------------------------------------------------------------------------------

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, answer: Any, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), Content_Type="application/json")

    def _error(self, status: int, code: str, text: str) -> None:
        headers = {"X_Error_Code": code} if code else {}
        self._send(status, json.dumps({"error": text}).encode(), **headers, X_Error_Message=text)

    def _found(self, repo: str, revision: str = "main") -> Commit | None:
        if repo not in self.hub.repos:
            self._error(404, "RepoNotFound", "Repository not found")
            return None
        commit = self.hub.repos[repo].at(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # --- requests ----------------------------------------------------------------------------------------------------

    def whoami(self) -> None:
        self._json({"type": "user", "name": USER, "orgs": [], "auth": {}})

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked['organization'] or USER}/{asked['name']}"
        if not repo.startswith((f"{USER}/", "org/")):
            self._error(403, "", "You don't have the rights to create a model under this namespace")
        elif repo in self.hub.repos:
            self._json({"error": "exists", "url": f"{self.hub.url}/{repo}"}, 409)
        else:
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.hub.repos[repo] = Repo(private)
            self._json({"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo})

    def info(self, repo: str, revision: str | None = None) -> None:
        commit = self._found(repo, revision or "main")
        if commit is None:
            return
        siblings: list[dict[str, Any]] = []
        for name, content in commit.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _git(content)}
            if name.endswith(LFS):
                entry["lfs"] = {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        private = self.hub.repos[repo].private
        self._json({"id": repo, "modelId": repo, "sha": commit.oid, "private": private, "siblings": siblings})

    def branch(self, repo: str, name: str) -> None:
        if self._found(repo) is not None:
            branches = self.hub.repos[repo].branches
            branches.setdefault(name, list(branches["main"]))
            self._json({})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        matter = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else {}
        names = matter.get("base_model", [])
        wrong = [n for n in names if not re.fullmatch(r"[\w.-]+/[\w.-]+", n)]
        errors = [{"message": f'"base_model" with value "{name}" is not valid'} for name in wrong]
        warnings = [] if matter.get("license") else [{"message": "empty or missing license"}]
        self._json({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def preupload(self, repo: str, revision: str) -> None:
        commit = self._found(repo, revision)
        if commit is None:
            return
        answer: list[dict[str, Any]] = []
        for file in json.loads(self.body)["files"]:
            name = file["path"]
            mode = "lfs" if name.endswith(LFS) else "regular"
            there = commit.files.get(name)
            oid = None if there is None else _sha256(there) if mode == "lfs" else _git(there)
            answer.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answer})

    def batch(self, repo: str) -> None:
        if self._found(repo) is None:
            return
        objects: list[dict[str, Any]] = []
        for wanted in json.loads(self.body)["objects"]:
            entry: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"},
                    "verify": {"href": f"{self.hub.url}/api/verify"},
                }
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        self.hub.puts.append(oid)
        if len(self.hub.puts) > self.hub.accept_puts:
            self._error(400, "", "the store is full")
        elif _sha256(self.body) != oid:
            self._error(400, "", "another content than was announced")
        else:
            self.hub.objects[oid] = self.body
            self._send(200, b"")

    def verify(self) -> None:
        asked = json.loads(self.body)
        found = self.hub.objects.get(asked["oid"])
        self._json({}, 200 if found is not None and len(found) == asked["size"] else 404)

    def commit(self, repo: str, branch: str) -> None:
        if self.hub.before_commit is not None:
            self.hub.before_commit()
        before = self._found(repo, branch)
        if before is None:
            return
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        if header["value"].get("parentCommit") not in (None, before.oid):
            self._error(412, "", "A commit has happened since. Please refresh and try again.")
            return
        files = dict(before.files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        made = Commit(files, header["value"]["summary"], before.oid)
        self.hub.repos[repo].branches[branch].append(made)
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{made.oid}", "commitOid": made.oid})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        commit = self._found(repo, revision)
        if commit is not None and name in commit.files:
            content = commit.files[name]
            self._send(200, content, ETag=f'"{_git(content)}"', X_Repo_Commit=commit.oid)
        elif commit is not None:
            self._error(404, "EntryNotFound", "Entry not found")


_ID = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Any]] = [
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (rf"GET /api/models/{_ID}", _Handler.info),
    (rf"GET /api/models/{_ID}/revision/(.+)", _Handler.info),
    (rf"POST /api/models/{_ID}/branch/(.+)", _Handler.branch),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_ID}/preupload/(.+)", _Handler.preupload),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(\w+)", _Handler.put),
    (r"POST /api/verify", _Handler.verify),
    (rf"POST /api/models/{_ID}/commit/(.+)", _Handler.commit),
    (rf"(?:GET|HEAD) /{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
