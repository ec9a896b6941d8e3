"""Replies that are listened to while they come: pieces, usage, sharing, and what is left when they break off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelwright.chat import (
    Agent,
    BrokenOffError,
    Ledger,
    OpenAIBackend,
    Piece,
    Reply,
    Request,
    Session,
    StreamingBackend,
    Transcript,
    stream_of,
    user,
)
from modelwright.chat._ledger import most
from modelwright.errors import InputError, RunError
from modelwright.evaluate import Price, Sampling

from .helpers import script

WARM = Sampling(max_tokens=50, temperature=0.7)


async def all_of(stream: AsyncIterator[Piece]) -> tuple[list[str], Reply]:
    """The pieces of a stream, and the reply at its end."""
    pieces: list[str] = []
    reply = None
    async for piece in stream:
        assert reply is None, "nothing comes after the reply"
        if isinstance(piece, Reply):
            reply = piece
        else:
            pieces.append(piece)
    assert reply is not None
    assert "".join(pieces) == reply.text
    return pieces, reply


class Counted:
    """A scripted backend that counts."""

    def __init__(self, inner: Any):
        self.inner, self.model, self.asked, self.gate = inner, inner.model, 0, asyncio.Event()

    async def ask(self, request: Request) -> Reply:
        self.asked += 1
        return await self.inner.ask(request)

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        self.asked += 1
        async for piece in self.inner.stream(request):
            yield piece
            await self.gate.wait()

    async def close(self) -> None:
        """Nothing."""


def test_a_stream_is_the_reply_in_pieces_and_is_kept() -> None:
    async def go() -> None:
        backend = script({"Q?": "4"})
        whom = Agent("a", backend, sampling=WARM, price=Price(tokens_out=1e6))
        session = Session()
        pieces, reply = await all_of(session.stream(whom, whom.request(user("Q?"))))
        assert pieces == ["The", " answer", " is", " 4."]
        assert reply == await backend.ask(whom.request(user("Q?")))
        again, same = await all_of(session.stream(whom, whom.request(user("Q?"))))
        assert (again, same) == (["The answer is 4."], reply)
        assert await session.ask(whom, whom.request(user("Q?"))) == reply
        total = session.ledger.total
        assert (total.calls, total.cached, total.tokens_out, total.money) == (1, 2, 4, pytest.approx(4))

    asyncio.run(go())


def test_readers_share_a_call_and_leaving_does_not_end_it() -> None:
    async def go() -> None:
        backend = Counted(script({"Q?": "4"}))
        assert isinstance(backend, StreamingBackend)
        whom = Agent("a", backend, sampling=WARM)
        session = Session()
        request = whom.request(user("Q?"))
        leaver = session.stream(whom, request)
        assert await anext(leaver) == "The"
        late = asyncio.create_task(all_of(session.stream(whom, request)))
        plain = asyncio.create_task(session.ask(whom, request))
        await asyncio.sleep(0.01)
        await leaver.aclose()  # type: ignore[attr-defined]
        backend.gate.set()
        pieces, reply = await late
        assert pieces == ["The", " answer", " is", " 4."]
        assert await plain == reply
        await session.settle()
        assert backend.asked == 1
        assert session.cache.get(request.key(backend.model)) == reply
        assert (session.ledger.total.calls, session.ledger.total.cached) == (1, 2)

    asyncio.run(go())


def test_one_who_listens_to_a_call_that_was_not_streamed_gets_it_whole() -> None:
    async def go() -> None:
        whom = Agent("a", script({"Q?": "4"}, delay=0.01), sampling=WARM)
        session = Session()
        request = whom.request(user("Q?"))
        plain = asyncio.create_task(session.ask(whom, request))
        await asyncio.sleep(0)
        pieces, reply = await all_of(session.stream(whom, request))
        assert pieces == ["The answer is 4."]
        assert await plain == reply
        assert session.ledger.total.calls == 1

    asyncio.run(go())


def test_a_backend_without_streams_says_all_at_once() -> None:
    class Plain:
        model = "plain"

        async def ask(self, request: Request) -> Reply:
            return Reply("All of it.", 1, 3)

        async def close(self) -> None:
            """Nothing."""

    pieces, reply = asyncio.run(all_of(stream_of(Plain(), Request(user("Q?")))))
    assert (pieces, reply.tokens_out) == (["All of it."], 3)


def test_half_a_reply_is_not_kept_and_its_most_is_counted() -> None:
    async def go() -> None:
        price = Price(tokens_in=1e3, tokens_out=1e3)
        whom = Agent("a", script({"Q?": "4"}, breaks=1.0), sampling=WARM, price=price)
        session = Session(ledger=Ledger(10.0))
        request = whom.request(user("Q?"))
        heard: list[Piece] = []

        async def listen_to_it() -> None:
            async for piece in session.stream(whom, request):
                heard.append(piece)

        with pytest.raises(BrokenOffError, match="the scripted backend 'script' breaks off") as found:
            await listen_to_it()
        assert heard == ["The", " answer"]
        assert found.value.resumable
        assert session.cache.get(request.key(whom.backend.model)) is None
        total = session.ledger.total
        assert (total.calls, total.failed, total.money) == (0, 1, pytest.approx(most(price, request)))
        assert (await session.ask(whom, request)).text == "The answer is 4."

    asyncio.run(go())


def test_a_transcript_is_listened_to_again(tmp_path: Path) -> None:
    async def go() -> None:
        whom = Agent("a", script({"Q?": "4"}), sampling=WARM)
        session = Session(transcript=Transcript(tmp_path / "said.jsonl"))
        _, first = await all_of(session.stream(whom, whom.request(user("Q?"))))
        await session.close()
        pieces, again = await all_of(Session(replay=tmp_path / "said.jsonl").stream(whom, whom.request(user("Q?"))))
        assert (pieces, again) == ([first.text], first)

    asyncio.run(go())


def test_what_is_made_once() -> None:
    async def go() -> None:
        session = Session()
        made: list[int] = []

        async def make() -> int:
            made.append(1)
            await asyncio.sleep(0)
            if len(made) == 1:
                raise RunError("not yet")
            return 7

        with pytest.raises(RunError, match="not yet"):
            await session.once("k", make)
        assert await asyncio.gather(*[session.once("k", make) for _ in range(5)]) == [7] * 5
        assert len(made) == 2

    asyncio.run(go())


# Servers


class Events:
    """A server that streams what it is told to, and may break off."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.cut = False


def chunk(content: str = "", finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish, **more}
    return {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}


USAGE = {**chunk(), "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}


@pytest.fixture
def events() -> Iterator[tuple[Events, str]]:
    pytest.importorskip("openai")
    state = Events()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            state.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in state.lines:
                data = f"data: {line if isinstance(line, str) else json.dumps(line)}\n\n".encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
            if not state.cut:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = state.cut

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


def listen(url: str, request: Request | None = None) -> tuple[list[str], Reply]:
    async def go() -> tuple[list[str], Reply]:
        backend = OpenAIBackend(url, "m", retries=0)
        try:
            return await all_of(backend.stream(request or Request(user("Q?"), WARM)))
        finally:
            await backend.close()

    return asyncio.run(go())


def test_a_server_is_listened_to(events: tuple[Events, str]) -> None:
    state, url = events
    state.lines = [chunk("It"), chunk(" is"), chunk(" 4."), chunk("", "stop"), USAGE, "[DONE]"]
    assert listen(url) == (["It", " is", " 4."], Reply("It is 4.", 5, 3))
    assert state.bodies[0]["stream_options"] == {"include_usage": True}
    state.lines = [
        chunk("It", logprobs={"content": [{"token": "It", "logprob": -0.5, "bytes": None, "top_logprobs": []}]})
    ]
    state.lines += [chunk("", "length"), "[DONE]"]
    _, reply = listen(url, Request(user("Q?"), WARM, logprobs=True))
    assert (reply.logprobs, reply.finish) == ((-0.5,), "length")


@pytest.mark.parametrize(
    ("lines", "cut", "complaint"),
    [
        ([chunk("It is")], True, r"broke off its reply after 5 characters \(\w+Error: .*\); nothing of it is"),
        ([chunk("It is"), "[DONE]"], False, r"after 5 characters \(it did not say that it had ended\)"),
        ([chunk("It"), "{half"], False, r"after 2 characters \(JSONDecodeError: "),
        ([chunk("It"), {"error": {"message": "overloaded"}}], False, r"after 2 characters \(APIError: overloaded\)"),
    ],
)
def test_servers_that_break_off(events: tuple[Events, str], lines: list[Any], cut: bool, complaint: str) -> None:
    state, url = events
    state.lines, state.cut = lines, cut
    with pytest.raises(BrokenOffError, match=complaint):
        listen(url)


def test_a_server_without_log_probabilities(events: tuple[Events, str]) -> None:
    state, url = events
    state.lines = [chunk("It"), chunk("", "stop"), "[DONE]"]
    with pytest.raises(InputError, match="gives no log-probabilities of what it writes"):
        listen(url, Request(user("Q?"), WARM, logprobs=True))


# Models here


@pytest.mark.torch
def test_a_model_here_is_listened_to_in_a_batch() -> None:
    pytest.importorskip("torch")
    from .test_transformers import asked, backend

    async def go() -> None:
        tiny = backend()
        requests = [asked("ab"), asked("xyz", 1), asked("q", logprobs=True)]
        whole = [await tiny.ask(request) for request in requests]
        together = await asyncio.gather(*[all_of(tiny.stream(request)) for request in requests])
        await tiny.close()
        for (pieces, reply), expected in zip(together, whole, strict=True):
            assert reply.text == expected.text
            assert reply.tokens_out == expected.tokens_out
            assert len(pieces) > 1
        with pytest.raises(InputError, match="max_tokens must be below"):
            await all_of(tiny.stream(Request(user("ab"), Sampling(1000))))

    asyncio.run(go())


@pytest.mark.torch
def test_nothing_is_said_that_a_stop_may_take_back() -> None:
    from modelwright.chat._transformers import _settled

    assert _settled("abc\ufffd", ()) == "abc"
    assert _settled("abcEN", ("END",)) == "abc"
    assert _settled("a", ("END",)) == ""


# Scores of options


def test_options_are_scored() -> None:
    request = Request(user("Q?"), WARM, options=("yes", "no"))
    reply = asyncio.run(script({"Q?": "yes"}, options=("yes", "no"), sure_right=(0.8, 0.8)).ask(request))
    assert reply.text == "yes"
    assert [round(pow(2.718281828, s), 6) for s in reply.scores or ()] == [0.8, 0.2]
    assert Reply.from_json(json.loads(json.dumps(reply.as_json()))) == reply
    assert "scores" not in Reply("x").as_json()  # caches of before stay readable, and as small
    with pytest.raises(InputError, match="options must be two texts or more, all different"):
        Request(user("Q?"), options=("yes", "yes"))


@pytest.mark.torch
def test_a_model_here_scores_options_by_their_likelihood() -> None:
    pytest.importorskip("torch")
    from .test_transformers import backend

    tiny = backend()
    request = Request(user("ab"), Sampling(1), options=("x", "yz"))
    reply = asyncio.run(tiny.ask(request))
    found = tiny.predictor.loglikelihoods([("u:ab;a:", option) for option in request.options])
    assert reply.scores == pytest.approx([one.total for one in found])
    assert reply.text == max(zip(request.options, reply.scores or (), strict=True), key=lambda pair: pair[1])[0]
