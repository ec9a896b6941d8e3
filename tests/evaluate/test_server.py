"""Models behind a server, against a small real one on loopback that also fails in all the usual ways."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from modelwright.errors import InputError, RunError
from modelwright.evaluate import (
    Choice,
    Generation,
    Items,
    Perplexity,
    Question,
    Rolling,
    Sampling,
    ServerPredictor,
    Splits,
    metric,
    passages,
    run,
)

pytest.importorskip("openai")

Answer = tuple[int, dict[str, str], Any]


class Server:
    """One character is a token, each with the probability 1 / 2; letters are certain where `greedy` says so.

    Attributes:
        fail: What it does instead of answering, once for each entry.
        start: Whether texts get a start token.
        asked: Paths and bodies, in order.
    """

    def __init__(self) -> None:
        self.fail: list[Callable[[], Answer | None]] = []
        self.start, self.echoes, self.models = False, True, ["tiny"]
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self.wait = 0.0

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        with self.lock:
            self.asked.append((path, body))
            self.busy += 1
            self.most = max(self.most, self.busy)
            failure = self.fail.pop(0) if self.fail else None
        try:
            time.sleep(self.wait)
            if failure is not None and (said := failure()) is not None:
                return said
            if path == "/v1/models":
                return 200, {}, {"object": "list", "data": [{"id": m, "object": "model"} for m in self.models]}
            return 200, {}, self.chat(body) if path.startswith("/v1/chat") else self.complete(body)
        finally:
            with self.lock:
                self.busy -= 1

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        text = body["messages"][-1]["content"][::-1][: body["max_tokens"]]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 5, "completion_tokens": len(text), "total_tokens": 5 + len(text)}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "tiny",
            "choices": [choice],
            "usage": usage,
        }

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        tokens = (["<s>"] if self.start else []) + list(prompt)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "text": prompt[::-1][: body["max_tokens"]]}
        if body.get("echo") and self.echoes:
            values = [None, *[-math.log(2)] * len(tokens)]  # one token is written at the end
            tops = [None, *[{"x": -0.1, "y": -math.log(2)}] * len(tokens)]
            choice["logprobs"] = {
                "tokens": [*tokens, "!"], "token_logprobs": values, "top_logprobs": tops,
                "text_offset": [0] * len(values),
            }  # fmt: skip
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 1, "total_tokens": len(tokens) + 1}
        return {
            "id": "1",
            "object": "text_completion",
            "created": 0,
            "model": "tiny",
            "choices": [choice],
            "usage": usage,
        }


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self, body: dict[str, Any]) -> None:
            status, headers, content = state.answer(self.path, body)
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

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_GET(self) -> None:
            self._reply({})

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

        def handle(self) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that gave up
                super().handle()

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state, f"http://127.0.0.1:{web.server_port}/v1"
    web.shutdown()
    web.server_close()


SOON = {"retry-after-ms": "1"}


def predictor(url: str, **options: Any) -> ServerPredictor:
    return ServerPredictor("far", url=url, **{"model": "tiny", "retries": 2, "timeout": 20.0, **options})


def test_chat_and_completions(server: tuple[Server, str]) -> None:
    state, url = server
    sampling = Sampling(max_tokens=9, stop=("c",), temperature=0.5, seed=7)
    chat = predictor(url, system="be brief")
    found = chat.texts(["abcdef", "xyz"], sampling)
    assert [(f.text, f.tokens_in, f.tokens_out, f.calls) for f in found] == [("fed", 5, 6, 1), ("zyx", 5, 3, 1)]
    path, body = next(a for a in state.asked if a[1]["messages"][-1]["content"] == "abcdef")
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "tiny", "max_tokens": 9, "temperature": 0.5, "seed": 7, "stop": ["c"],
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "abcdef"}],
    }  # fmt: skip
    assert chat.remarks() == ["'far': 2 calls, 0 of them tried again, 10 tokens read and 9 written"]
    plain = predictor(url, api="completions")
    (text,) = plain.texts(["abc"], Sampling(max_tokens=2))
    assert text.text == "cb"
    assert "1 answers ended only because max_tokens" in plain.remarks()[1]


def test_order_and_limit_of_concurrency(server: tuple[Server, str]) -> None:
    state, url = server
    state.wait = 0.01
    prompts = [f"{i:03d}" for i in range(24)]
    found = predictor(url, concurrency=3).texts(prompts, Sampling())
    assert [f.text for f in found] == [p[::-1] for p in prompts]
    assert 1 < state.most <= 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_failures_that_pass_are_tried_again(server: tuple[Server, str], status: int) -> None:
    state, url = server
    state.fail = [lambda: (status, SOON, {"error": {"message": "busy"}})] * 2
    far = predictor(url)
    (found,) = far.texts(["ab"], Sampling())
    assert (found.text, found.calls) == ("ba", 3)
    assert far.remarks() == ["'far': 3 calls, 2 of them tried again, 5 tokens read and 2 written"]


@pytest.mark.parametrize("status", [429, 500])
def test_failures_that_stay_are_said(server: tuple[Server, str], status: int) -> None:
    state, url = server
    state.fail = [lambda: (status, SOON, {"error": {"message": "busy"}})] * 3
    with pytest.raises(RunError, match=rf"answered {status}: .*busy.*tried 3 times") as caught:
        predictor(url).texts(["ab"], Sampling())
    assert caught.value.resumable


def test_wrong_requests_are_not_tried_again(server: tuple[Server, str]) -> None:
    state, url = server
    state.fail = [lambda: (400, {}, {"error": {"message": "too long for me"}})]
    with pytest.raises(InputError, match=r"the server http://127.* answered 400: .*too long for me"):
        predictor(url).texts(["ab"], Sampling())
    assert len(state.asked) == 1


@pytest.mark.parametrize(
    "garbage", [b"<html>hello</html>", b"{", b"[]", b'{"choices": []}', b'{"choices": [{}]}', b"7"]
)
def test_garbage_is_named(server: tuple[Server, str], garbage: bytes) -> None:
    state, url = server
    state.fail = [lambda: (200, {}, garbage)]
    with pytest.raises(RunError, match=r"the server http://127.* answered what is not its protocol"):
        predictor(url).texts(["ab"], Sampling())


def test_slow_servers_are_given_up(server: tuple[Server, str]) -> None:
    state, url = server
    state.wait = 0.5
    with pytest.raises(RunError, match=r"did not answer within 0\.05 s, tried 1 times"):
        predictor(url, timeout=0.05, retries=0).texts(["ab"], Sampling())


def test_nobody_there() -> None:
    with pytest.raises(RunError, match=r"the server http://127\.0\.0\.1:9/v1 cannot be reached, tried 1 times"):
        predictor("http://127.0.0.1:9/v1", retries=0).texts(["ab"], Sampling())


def test_the_first_failure_ends_it(server: tuple[Server, str]) -> None:
    state, url = server
    state.wait = 0.01
    state.fail = [lambda: (400, {}, {"error": {"message": "no"}})]
    with pytest.raises(InputError, match="answered 400"):
        predictor(url, concurrency=1).texts([str(i) for i in range(50)], Sampling())
    assert len(state.asked) < 50


def test_models(server: tuple[Server, str]) -> None:
    state, url = server
    alone = predictor(url, model="")
    alone.check()
    assert alone.model == "tiny"
    with pytest.raises(InputError, match=r"has no model 'large'\. It has: tiny"):
        predictor(url, model="large").check()
    state.models = ["a", "b"]
    with pytest.raises(InputError, match=r"must be told which model, as it has 2\. Say --model NAME, one of a, b"):
        predictor(url, model="").texts(["x"], Sampling())
    state.fail = [lambda: (404, {}, {"error": "not here"})]
    predictor(url, model="large").check()  # a server that cannot list its models is believed


@pytest.mark.parametrize("start", [False, True])
def test_likelihoods_by_echo(server: tuple[Server, str], start: bool) -> None:
    state, url = server
    state.start = start
    pairs = [("ab", " cd"), ("ab ", "cde"), ("ab", " x")]
    found = predictor(url).loglikelihoods(pairs)
    assert [(f.tokens, f.context_tokens) for f in found] == [(3, 2 + start), (4, 2 + start), (2, 2 + start)]
    assert [f.total for f in found] == pytest.approx([-n * math.log(2) for n in (3, 4, 2)])
    assert [f.greedy for f in found] == [False] * 3
    lengths = [body["prompt"] for _, body in state.asked].count("ab")
    assert lengths == 1, "the length of a context is asked for once"


def test_texts_without_context_need_a_start_token(server: tuple[Server, str]) -> None:
    state, url = server
    with pytest.raises(InputError, match=r"gives no probability to the first token of a text without context"):
        predictor(url).loglikelihoods([("", "abc")])
    state.start = True
    (found,) = predictor(url).loglikelihoods([("", "abc")], Rolling())
    assert (found.total, found.tokens) == (pytest.approx(-3 * math.log(2)), 3)
    with pytest.raises(InputError, match=r"windows are counted in tokens, which a server does not show"):
        predictor(url).loglikelihoods([("", "abc")], Rolling(8))


def test_servers_that_do_not_echo_are_refused(server: tuple[Server, str]) -> None:
    state, url = server
    state.echoes = False
    with pytest.raises(
        InputError, match=r"does not give log-probabilities of what it reads.*Serve the model with vLLM"
    ):
        predictor(url).loglikelihoods([("a", "b")])


def test_tasks_on_a_server(server: tuple[Server, str], tmp_path: Any) -> None:
    state, url = server
    state.start = True
    tasks = [
        Choice(
            name="choose", metric=metric("accuracy"),
            splits=Splits({"test": Items.of([Question("q", ("long one", "short"))], [1])}),
        ),
        Generation(
            name="write", metric=metric("exact_match"), splits=Splits({"test": Items.of(["abc", "xx"], ["cba", "x"])})
        ),
        Perplexity(name="text", metric=metric("bits_per_byte"), splits=Splits({"test": passages({"d": "some text"})})),
    ]  # fmt: skip
    found = run([predictor(url)], tasks, tmp_path)
    assert [found.part(task, "far").figure for task in found.tasks] == [1.0, 0.5, pytest.approx(1.0)]
    part = found.part("write", "far")
    assert part.column("tokens_in").tolist() == [5, 5]
    assert part.column("tokens_out").tolist() == [3, 2]
    asked = len(state.asked)
    run([predictor(url)], tasks, tmp_path)
    assert len(state.asked) == asked


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": "localhost:8000"}, "a server's address begins with http:// or https://, got 'localhost:8000'"),
        ({"api": "talk"}, "api must be one of chat, completions, got 'talk'"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"timeout": 0.0}, "timeout must be above 0 seconds, got 0"),
        ({"api": "completions", "system": "x"}, "a system message needs the api 'chat'"),
    ],
)
def test_settings_that_are_refused(options: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        ServerPredictor("far", **{"url": "http://x/v1", **options})


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(ServerPredictor("far", url="http://x/v1", key="secret"))
