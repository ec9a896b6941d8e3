"""Models behind servers: against a small real one on loopback that also fails in the usual ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from modelwright.chat import OpenAIBackend, Reply, Request, user
from modelwright.chat._openai import Pace
from modelwright.errors import InputError, RunError
from modelwright.evaluate import Sampling

pytest.importorskip("openai")

Answer = tuple[int, dict[str, str], Any]
SOON = {"retry-after-ms": "1"}
WARM = Sampling(max_tokens=20, temperature=0.7)


class Server:
    """It says the last message backwards."""

    def __init__(self) -> None:
        self.fail: list[Answer] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.busy = self.most = 0
        self.wait, self.logprobs = 0.0, True
        self.lock = threading.Lock()

    def answer(self, body: dict[str, Any]) -> Answer:
        with self.lock:
            self.asked.append(body)
            self.times.append(time.monotonic())
            self.busy += 1
            self.most = max(self.most, self.busy)
            failure = self.fail.pop(0) if self.fail else None
        time.sleep(self.wait)
        with self.lock:
            self.busy -= 1
        if failure is not None:
            return failure
        text = body["messages"][-1]["content"][::-1][: body["max_tokens"]]
        cut = len(body["messages"][-1]["content"]) > body["max_tokens"]
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "length" if cut else "stop",
            "message": {"role": "assistant", "content": text},
        }
        if body.get("logprobs") and self.logprobs:
            tokens = [{"token": c, "logprob": -0.5, "bytes": None, "top_logprobs": []} for c in text]
            choice["logprobs"] = {"content": tokens, "refusal": None}
        usage = {"prompt_tokens": 5, "completion_tokens": len(text), "total_tokens": 5 + len(text)}
        said = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return 200, {}, {**said, "usage": usage}


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            state.keys.append(self.headers["Authorization"])
            status, headers, content = state.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

        def handle(self) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().handle()

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield state, f"http://127.0.0.1:{web.server_port}/v1"
    web.shutdown()
    web.server_close()


def replies(url: str, requests: list[Request], **options: Any) -> list[Any]:
    async def go() -> list[Any]:
        backend = OpenAIBackend(url, "m", **options)
        found = await asyncio.gather(*[backend.ask(r) for r in requests], return_exceptions=True)
        await backend.close()
        return list(found)

    return asyncio.run(go())


def failure(url: str, **options: Any) -> Exception:
    [found] = replies(url, [Request(user("abc"), WARM)], **options)
    assert isinstance(found, Exception)
    return found


def test_what_is_sent_and_what_comes_back(server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    state, url = server
    monkeypatch.setenv("MY_KEY", "sk-secret")
    requests = [Request(user("abc"), Sampling(20, ("\n",), 0.7), i, logprobs=True) for i in range(2)]
    found = replies(url, requests, key_variable="MY_KEY")
    assert found == [Reply("cba", 5, 3, (-0.5,) * 3)] * 2
    assert state.asked[0]["messages"] == [{"role": "user", "content": "abc"}]
    assert (state.asked[0]["max_tokens"], state.asked[0]["stop"], state.asked[0]["logprobs"]) == (20, ["\n"], True)
    assert state.asked[0]["seed"] != state.asked[1]["seed"]  # a sample of its own
    assert state.keys == ["Bearer sk-secret"] * 2
    backend = OpenAIBackend(url, "m", key_variable="MY_KEY")
    assert "sk-secret" not in repr(backend) + backend.model
    [cut] = replies(url, [Request(user("abcdef"), Sampling(2))])
    assert (cut.text, cut.finish) == ("fe", "length")


def test_it_tries_again(server: tuple[Server, str]) -> None:
    state, url = server
    state.fail = [(429, SOON, {}), (503, SOON, {})]
    [found] = replies(url, [Request(user("abc"), WARM)])
    assert (found.text, found.tries) == ("cba", 3)


def test_a_storm_of_429_loses_no_request(server: tuple[Server, str]) -> None:
    state, url = server
    state.fail = [(429, SOON, {})] * 30
    requests = [Request(user(f"question {i}"), WARM) for i in range(20)]
    found = replies(url, requests, retries=30)
    assert [f.text for f in found] == [f"question {i}"[::-1] for i in range(20)]
    assert sum(f.tries for f in found) == 50 == len(state.asked)


def test_how_many_at_a_time(server: tuple[Server, str]) -> None:
    state, url = server
    state.wait = 0.03
    replies(url, [Request(user(f"q{i}"), WARM) for i in range(9)], concurrency=3)
    assert state.most == 3


@pytest.mark.parametrize(
    ("answers", "options", "kind", "complaint"),
    [
        (
            [(429, SOON, {"no": "more"})] * 3,
            {"retries": 2},
            RunError,
            r"answered 429: {\"no\": \"more\"} \(tried 3 times\)",
        ),
        ([(400, {}, {"error": "too long"})], {}, InputError, 'answered 400: {"error": "too long"}'),
        ([(200, {}, {"choices": []})], {}, RunError, "answered what is not its protocol"),
        ([(200, {}, b"{half")], {}, RunError, "answered what is not its protocol|cannot be reached"),
    ],
)
def test_failures(
    server: tuple[Server, str], answers: list[Answer], options: dict[str, Any], kind: type, complaint: str
) -> None:
    state, url = server
    state.fail = list(answers)
    found = failure(url, **options)
    assert type(found) is kind
    import re

    assert re.search(complaint, str(found)), str(found)


def test_a_server_that_is_down_or_slow(server: tuple[Server, str]) -> None:
    found = failure("http://127.0.0.1:9/v1", retries=0)
    assert "the server http://127.0.0.1:9/v1 cannot be reached, tried 1 times" in str(found)
    state, url = server
    state.wait = 0.5
    assert f"the server {url} did not answer within 0.05 s, tried 1 times" in str(failure(url, retries=0, timeout=0.05))


def test_a_server_without_log_probabilities(server: tuple[Server, str]) -> None:
    state, url = server
    state.logprobs = False
    [found] = replies(url, [Request(user("abc"), WARM, logprobs=True)])
    assert "gives no log-probabilities of what it writes. Leave logprobs out" in str(found)


def test_the_pace_counts_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that only sleeping moves."""
    now = [100.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("modelwright.chat._openai.time.monotonic", lambda: now[0])
    monkeypatch.setattr("modelwright.chat._openai.asyncio.sleep", sleep)
    begun: list[float] = []

    async def go() -> None:
        pace = Pace(3, 60.0)
        for i in range(10):
            now[0] += 1.0 if i % 2 else 0.0
            await pace.turn()
            begun.append(now[0])

    asyncio.run(go())
    for first, fourth in zip(begun, begun[3:], strict=False):
        assert fourth - first >= 60.0
    assert begun[9] < 100 + 4 * 60.0


def test_tries_keep_the_pace_too(server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    state, url = server
    turns: list[int] = []

    async def turn(_self: Pace) -> None:
        turns.append(1)

    monkeypatch.setattr(Pace, "turn", turn)
    state.fail = [(429, SOON, {})] * 2
    replies(url, [Request(user("abc"), WARM)], per_minute=100)
    assert len(turns) == 3


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"url": "localhost"}, "a server's address begins with http:// or https://, got 'localhost'"),
        ({"name": ""}, "must be told which model. Give the name that it has there"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"timeout": 0}, "timeout must be above 0 seconds, got 0"),
        ({"per_minute": 0}, "a rate must be at least 1 a minute, got 0"),
    ],
)
def test_refusals(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        OpenAIBackend(**{"url": "http://x/v1", "name": "m", **options})


def test_options_are_scored_by_the_first_token(server: tuple[Server, str]) -> None:
    import math

    state, url = server

    def answer(tops: dict[str, float]) -> Answer:
        top = [{"token": t, "logprob": math.log(p), "bytes": None, "top_logprobs": []} for t, p in tops.items()]
        choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "A"}}
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
        return 200, {}, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}

    asked = Request(user("Q?"), WARM, options=("positive", "negative", "mixed"))
    state.fail = [answer({"pos": 0.5, " Pos": 0.2, "neg": 0.2, "the": 0.05})]
    [found] = replies(url, [asked])
    assert [math.exp(s) for s in found.scores] == pytest.approx([0.7, 0.2, 0.05])  # at most the least that is shown
    assert (state.asked[0]["max_tokens"], state.asked[0]["top_logprobs"]) == (1, 20)
    state.fail = [answer({"pos": 0.5})]
    [found] = replies(url, [Request(user("Q?"), WARM, options=("positive", "posh"))])
    assert "the options positive, posh begin with the token 'pos'" in str(found)
    state.logprobs = False
    [found] = replies(url, [asked])
    assert "gives no log-probabilities" in str(found)
