"""Stores for the tests of remote inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from modelwright.checkpoint import _fsspec


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts."""
    monkeypatch.setattr(_fsspec, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system behind `memory://`, empty."""
    fs = pytest.importorskip("fsspec").filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    from s3_standin import serve

    with serve() as s3:
        yield s3


@pytest.fixture
def s3(server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server whose only bucket is empty, and the environment that leads to it."""
    environment = {
        "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url, "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": "none",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # it remembers endpoint and credentials
    server.fs = s3fs.S3FileSystem(skip_instance_cache=True)  # somebody else's, who tells ours nothing of what it writes
    server.fs.mkdir("models")
    server.forget()
    yield server
    server.broken = 0
    server.hidden.clear()
    server.fs.invalidate_cache()
    server.fs.rm("models", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
