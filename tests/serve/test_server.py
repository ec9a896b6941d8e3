"""The server on loopback, asked by the official client as it is."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chat.helpers import ANSWER, questions, script, solve
from modelwright.chat import MOA, SELF_CONSISTENCY, SELF_MOA_SEQ, Agent, OpenAIBackend, Panel, Session, cost
from modelwright.errors import InputError, RunError
from modelwright.evaluate import Price, Sampling, predictor, systems
from modelwright.serve import Address, Predicting, Served

from .helpers import Voice, serving

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

WARM = Sampling(max_tokens=64, temperature=0.7)


def panel(
    backends: Any, program: Any = SELF_CONSISTENCY, name: str = "sums", price: float = 0.01, **params: Any
) -> Panel:
    agents = {key: Agent(key, backend, sampling=WARM, price=Price(call=price)) for key, backend in backends.items()}
    return Panel(name, agents, program, program.params(**params), ANSWER)


def client(url: str, key: str = "none", retries: int = 0) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries, timeout=20)


def ask(url: str, question: str, model: str = "sums", **more: Any) -> Any:
    with client(url) as one:
        return one.chat.completions.create(model=model, messages=[{"role": "user", "content": question}], **more)


def heard(url: str, question: str, model: str = "sums", **more: Any) -> Iterator[Any]:
    """The chunks of a stream, as they come."""
    with client(url) as one:
        messages: Any = [{"role": "user", "content": question}]
        yield from one.chat.completions.create(model=model, messages=messages, stream=True, **more)


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def post(url: str, data: bytes, path: str = "/v1/chat/completions") -> tuple[int, dict[str, Any]]:
    try:
        request = urllib.request.Request(f"{url}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


KNOWN = questions(200)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Two panels, of one vote and of one synthesis."""
    backend = script(KNOWN, accuracy=0.7, options=("yes", "no"), delay=0.02)
    vote = panel({"solver": backend}, samples=5, early_stop=False)
    with serving(Served([vote, panel({"solver": backend}, MOA, "mixed", samples=3)], queue=1000)) as found:
        yield found


def test_an_ensemble_is_a_model(url: str) -> None:
    question = "Question 7?"
    [expected] = solve(
        panel({"solver": script(KNOWN, accuracy=0.7, options=("yes", "no"))}, samples=5, early_stop=False), [question]
    )
    answer = ask(url, question)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == expected.tokens_in
    assert answer.usage.completion_tokens == expected.tokens_out
    assert answer.usage.inner_calls == 5
    assert answer.model == "sums"
    about = answer.modelwright
    assert answer._request_id == about["trace"]
    assert about["answer"] == expected.value
    assert about["worth"] == pytest.approx(0.05)
    with client(url) as one:
        assert [model.id for model in one.models.list()] == ["sums", "mixed"]
        assert one.models.retrieve("mixed").owned_by == "modelwright"
    assert get(f"{url}/health") == (200, '{"status":"ok"}')


def test_a_stream_is_the_same_answer_in_pieces(url: str) -> None:
    whole = ask(url, "Question 8?")
    chunks = list(heard(url, "Question 8?", stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-1].usage.cached_calls == 5
    assert chunks[-1].modelwright["paid"] == 0
    plain = list(heard(url, "Question 8?"))
    assert all(chunk.usage is None for chunk in plain)


def test_a_request_that_names_no_model_or_another() -> None:
    served = Served([panel({"solver": Voice()}, samples=1)])
    with serving(served) as url:
        messages = [{"role": "user", "content": "Q?"}]
        status, said = post(url, json.dumps({"messages": messages}).encode())
        assert (status, said["model"]) == (200, "sums")
        with pytest.raises(openai.NotFoundError, match=r"there is no model 'sum'. Did you mean 'sums'"):
            ask(url, "Q?", model="sum")
        for data, code, complaint in (
            (b"{", 400, "the body is no JSON"),
            (b"[" * 20000, 400, "the body is no JSON"),
            (b'{"messages": []}', 400, "messages must be a list"),
            (b" " * (9 << 20), 413, "a request has at most 8,388,608 bytes"),
        ):
            status, said = post(url, data)
            assert (status, said["error"]["type"]) == (code, "invalid_request_error")
            assert complaint in said["error"]["message"]
        assert get(f"{url}/nowhere")[0] == 404


def test_two_hundred_at_a_time_lose_nothing(url: str) -> None:
    async def go() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as one:
            waited = [
                one.chat.completions.create(model="sums", messages=[{"role": "user", "content": question}])
                for question in KNOWN
            ]
            return list(await asyncio.gather(*waited))

    found = asyncio.run(go())
    assert len(found) == 200
    direct = panel({"solver": script(KNOWN, accuracy=0.7, options=("yes", "no"))}, samples=5, early_stop=False)
    for answer, outcome in zip(found, solve(direct, list(KNOWN)), strict=True):
        assert answer.choices[0].message.content == outcome.text
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (outcome.tokens_in, outcome.tokens_out)
        assert answer.usage.inner_calls == 5
    assert len({answer.id for answer in found}) == 200


def test_what_was_said_before_reaches_every_agent() -> None:
    voice = Voice()
    served = Served([panel({"a": voice}, MOA, samples=2)])
    with serving(served) as url, client(url) as one:
        one.chat.completions.create(
            model="sums",
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "First?"},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": "Second?"},
            ],
        )
    first, *_, last = voice.requests
    assert [m.content for m in first.messages[:3]] == ["Be brief.", "First?", "Yes."]
    assert [m.role for m in last.messages] == ["system", "user", "assistant", "user"]
    assert last.messages[0].content.startswith("Be brief.\n\nSeveral models have replied")
    assert "Second?" in last.messages[-1].content


def test_a_panel_that_ends_in_one_call_streams_it_as_it_is_written() -> None:
    proposer, writer = Voice("The answer is 5.", "proposer"), Voice("The answer is 4. It is even.", "writer")
    for program, more in ((MOA, {"proposers": ["p"]}), (SELF_MOA_SEQ, {"proposer": "p", "samples": 6})):
        writer.gate = threading.Event()
        served = Served([panel({"p": proposer, "w": writer}, program, aggregator="w", **more)])
        with serving(served) as url:
            stream = heard(url, "Q?")
            next(stream)
            assert next(stream).choices[0].delta.content == "The"
            assert not writer.gate.is_set()  # the rest is not written yet
            writer.gate.set()
            assert "".join(c.choices[0].delta.content or "" for c in stream) == " answer is 4. It is even."


# --- faults ------------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_others_go_on() -> None:
    voice = Voice()
    voice.gate = threading.Event()
    served = Served([panel({"a": voice}, samples=1)], concurrency=1, queue=1)
    with serving(served) as url:
        found: list[Any] = []
        threads = [threading.Thread(target=lambda i=i: found.append(ask(url, f"Q{i}?"))) for i in range(2)]
        for thread in threads:
            thread.start()
        _until(lambda: served.running == 1 and served.waiting == 1)
        with pytest.raises(openai.RateLimitError, match="1 requests are being answered and 1 wait") as caught:
            ask(url, "Q3?")
        assert caught.value.code == "queue_full"
        assert caught.value.response.headers["retry-after"] == "1"
        voice.gate.set()
        for thread in threads:
            thread.join(20)
        assert len(found) == 2
        served.stop()
        with pytest.raises(openai.InternalServerError, match="the server is going down") as down:
            ask(url, "Q4?")
        assert down.value.status_code == 503
        assert get(f"{url}/health")[0] == 503
        assert "modelwright_refused_total 1.0" in get(f"{url}/metrics")[1]


def _until(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_failures_are_said_and_not_paid_for_twice() -> None:
    down = Voice(name="down", fails=RunError("the server http://x cannot be reached", resumable=True))
    dear = panel({"a": Voice()}, name="dear", samples=1)
    refuses = Voice(name="refuses", fails=InputError("the server refuses this"))
    panels = [
        panel({"a": down}, price=0.0, samples=2),
        panel({"a": refuses}, name="refuses", price=0.0, samples=1),
        dear,
    ]
    with serving(Served(panels, budget=0.005)) as url:
        for stream in (False, True):
            asking = (lambda *what: list(heard(*what))) if stream else ask
            with pytest.raises(openai.InternalServerError, match="cannot be reached") as caught:
                asking(url, "Q?")
            assert (caught.value.status_code, caught.value.code) == (502, "backend_failed")
            with pytest.raises(openai.BadRequestError, match="the server refuses this"):
                asking(url, "Q?", "refuses")
        with client(url, retries=5) as one, pytest.raises(openai.RateLimitError, match=r"the budget of 0.005") as spent:
            one.chat.completions.create(model="dear", messages=[{"role": "user", "content": "Q?"}])
        assert spent.value.code == "budget_exhausted"
        assert get(f"{url}/metrics")[1].count('modelwright_requests_total{panel="dear",status="failed"} 1.0') == 1


def test_a_quorum_goes_on_without_members_that_fail() -> None:
    down = Voice(name="down", fails=RunError("it is down", resumable=True))
    backends = {"a": Voice(name="a"), "b": Voice(name="b"), "c": down}
    with (
        serving(Served([panel(backends, samples=1, early_stop=False)])) as url,
        pytest.raises(openai.InternalServerError, match="is down"),
    ):
        ask(url, "Q?")
    with serving(Served([panel(backends, samples=1, early_stop=False)], quorum=2)) as url:
        answer = ask(url, "Q?")
    assert answer.usage.inner_calls == 2
    assert answer.modelwright["notes"] == ["a reply is missing: it is down"]
    three = Served([panel(backends, samples=1, early_stop=False)], quorum=3)
    with serving(three) as url, pytest.raises(openai.InternalServerError, match="2 replies came, and the quorum is 3"):
        ask(url, "Q?")
    with pytest.raises(InputError, match=r"quorum must be in \[1, 3\], the replies of 'sums', got 4"):
        Served([panel(backends, samples=1)], quorum=4)
    with pytest.raises(InputError, match="the program 'self_moa_seq' of the panel 'sums' knows no quorum"):
        Served([panel(backends, SELF_MOA_SEQ)], quorum=1)


def test_a_stream_that_breaks_off_ends_in_an_error() -> None:
    writer = Voice("The answer is 4.", "writer")
    writer.breaks_after = 2
    served = Served([panel({"p": Voice(name="p"), "w": writer}, MOA, proposers=["p"], aggregator="w")])
    with serving(served) as url:
        told: list[str] = []
        with pytest.raises(openai.APIError, match="it broke off"):
            told.extend(chunk.choices[0].delta.content or "" for chunk in heard(url, "Q?"))
        assert "".join(told) == "The answer"
        writer.breaks_after = None
        assert ask(url, "Q?").choices[0].message.content == "The answer is 4."
        assert ask(url, "Q?").usage.cached_calls == 2  # and what had come is not asked for again


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_not_worked_for_and_nothing_is_paid_twice(stream: bool) -> None:
    voice = Voice()
    voice.gate = threading.Event()
    served = Served([panel({"a": voice}, samples=3, early_stop=False)])
    with serving(served) as url:
        host, port = url.removeprefix("http://").split(":")
        data = json.dumps({"messages": [{"role": "user", "content": "Q?"}], "stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + data)
            _until(lambda: len(voice.requests) == 3)
        [trace] = served.traces
        _until(lambda: trace.status == "cancelled")
        assert (served.running, served.waiting) == (0, 0)
        voice.gate.set()
        answer = ask(url, "Q?")
        assert answer.choices[0].message.content == "The answer is 4."
        assert len(voice.requests) == 3
        assert answer.usage.cached_calls == 3


class Storm(BaseHTTPRequestHandler):
    """A server that answers 429 so many times, and then with 4; each request is one of a list."""

    protocol_version = "HTTP/1.1"
    left = 0
    asked: list[int]
    lock = threading.Lock()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        cls = type(self)
        with cls.lock:
            status = 429 if cls.left else 200
            cls.left -= status == 429
            cls.asked.append(status)
        message = {"role": "assistant", "content": "The answer is 4."}
        answer = {
            "id": "1", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
        }  # fmt: skip
        data = json.dumps(answer if status == 200 else {"error": {"message": "slow down"}}).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", len(data)), ("retry-after-ms", 1)):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def handle(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().handle()


@contextlib.contextmanager
def storm(count: int) -> Iterator[tuple[type[Storm], str]]:
    kind = type("OneStorm", (Storm,), {"left": count, "asked": [], "lock": threading.Lock()})
    web = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    web.daemon_threads = True
    threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield kind, f"http://127.0.0.1:{web.server_port}/v1"
    finally:
        web.shutdown()
        web.server_close()


def ask_all(url: str, count: int) -> list[Any]:
    async def go() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as one:
            create = one.chat.completions.create
            waited = [create(model="sums", messages=[{"role": "user", "content": f"Q{i}?"}]) for i in range(count)]
            return list(await asyncio.gather(*waited, return_exceptions=True))

    return asyncio.run(go())


def test_a_storm_of_429_is_weathered_and_paid_for_once() -> None:
    with storm(40) as (state, far):
        backend = OpenAIBackend(far, "m", concurrency=8, retries=40)
        served = Served([panel({"a": backend}, samples=2, early_stop=False)])
        with serving(served) as url:
            found = ask_all(url, 20)
            assert [answer.choices[0].message.content for answer in found] == ["The answer is 4."] * 20
            assert (state.asked.count(200), state.asked.count(429)) == (40, 40)
            [spent] = served.spent().values()
            assert (spent.calls, spent.retries, spent.failed) == (40, 40, 0)
            assert spent.money == pytest.approx(0.4)
            assert sum(answer.modelwright["paid"] for answer in found) == pytest.approx(0.4)
            again = ask_all(url, 20)
            assert [answer.modelwright["paid"] for answer in again] == [0] * 20
            assert len(state.asked) == 80


def test_a_storm_of_429_that_does_not_end_is_said_and_costs_nothing() -> None:
    with storm(10**6) as (state, far):
        backend = OpenAIBackend(far, "m", concurrency=8, retries=1)
        served = Served([panel({"a": backend}, samples=2, early_stop=False)])
        with serving(served) as url:
            found = ask_all(url, 10)
            assert all(isinstance(error, openai.InternalServerError) for error in found)
            assert {(error.status_code, error.code) for error in found} == {(502, "backend_failed")}
            assert all("answered 429" in str(error) and "(tried 2 times)" in str(error) for error in found)
            _until(lambda: served.running == 0)
            [spent] = served.spent().values()
            assert (spent.calls, spent.money) == (0, 0)
            state.left = 0
            later = ask_all(url, 10)
            assert [answer.usage.inner_calls for answer in later] == [2] * 10
            assert state.asked.count(200) == 20
            [spent] = served.spent().values()
            assert (spent.calls, spent.money) == (20, pytest.approx(0.2))


# --- who may ask -------------------------------------------------------------------------------------------------------


def test_keys_come_from_the_environment_and_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match="the environment variable 'SERVE_KEY' is to hold the key of clients, and is not set"
    ):
        Address(key_variable="SERVE_KEY")
    monkeypatch.setenv("SERVE_KEY", "canary-key")
    with serving(Served([panel({"a": Voice()}, samples=1)]), Address(key_variable="SERVE_KEY")) as url:
        with (
            client(url, "wrong") as one,
            pytest.raises(openai.AuthenticationError, match="the key is wrong or missing"),
        ):
            one.models.list()
        with client(url, "canary-key") as one:
            assert one.models.list().data[0].id == "sums"
        basic = base64.b64encode(b"me:canary-key").decode()
        assert get(f"{url}/")[0] == 401
        status, page = get(f"{url}/", Authorization=f"Basic {basic}")
        assert status == 200
        assert "canary-key" not in page
        assert get(f"{url}/metrics")[0] == get(f"{url}/v1/traces/x", Authorization="Basic x")[0] == 401
        assert get(f"{url}/health")[0] == 200


def test_keys_of_backends_are_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server that says the key in its error, behind a panel that is served: the canary is in nothing that is kept or shown."""
    monkeypatch.setenv("CANARY_KEY", "canary-5f3a")
    monkeypatch.setenv("SERVE_KEY", "canary-5f3a")
    upstream = Served([panel({"a": Voice()}, name="m", samples=1, price=0.0)])
    with serving(upstream, Address(key_variable="SERVE_KEY")) as far:
        backend = OpenAIBackend(f"{far}/v1", "m", "CANARY_KEY", retries=0)
        echoing = OpenAIBackend(f"{far}/v1/canary-5f3a", "m", "CANARY_KEY", retries=0)  # its 404 is of this path
        work = replace(panel({"a": backend}, samples=1), cache=tmp_path / "replies.sqlite")
        broken = panel({"a": echoing}, name="broken", samples=1)
        with serving(Served([work, broken], transcript=tmp_path / "said.jsonl")) as url:
            answer = ask(url, "Q?")
            assert answer.choices[0].message.content == "The answer is 4."
            with pytest.raises(openai.BadRequestError, match=r"\[CANARY_KEY\] answered 404") as caught:
                ask(url, "Q?", "broken")
            shown = [get(f"{url}{path}")[1] for path in ("/", "/metrics", f"/v1/traces/{answer.modelwright['trace']}")]
    written = [path.read_bytes() for path in tmp_path.iterdir()]
    assert len(written) >= 2
    said = "".join([str(caught.value), *shown, *capfd.readouterr()]).encode() + b"".join(written)
    assert b"canary-5f3a" not in said
    with pytest.raises(InputError, match="a server's address must not hold a name or password"):
        OpenAIBackend("http://me:canary@host/v1", "m")


def test_pages_elsewhere_cannot_lead_a_browser_here() -> None:
    with serving(Served([panel({"a": Voice()}, samples=1)])) as url:
        assert get(f"{url}/", Host="evil.example")[0] == 403
        assert get(f"{url}/health", Host="evil.example:80")[0] == 403
        assert get(f"{url}/", Host="localhost:1")[0] == 200


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("10.1.2.3", True)],
)
def test_listening_to_others_is_warned_of(host: str, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bool(Address(host).warning) == warned
    if warned:
        assert "anybody there can spend your budget" in Address(host).warning
        monkeypatch.setenv("SERVE_KEY", "k")
        assert "travel unencrypted" in Address(host, key_variable="SERVE_KEY").warning


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"queue": -1}, "queue must be at least 0, got -1"),
        ({"keep": -1}, "keep must be at least 0, got -1"),
        ({"budget": -1.0}, "a budget must be a number of at least 0"),
    ],
)
def test_what_cannot_be_served(options: dict[str, Any], complaint: str) -> None:
    one = panel({"a": Voice()}, samples=1)
    with pytest.raises(InputError, match=complaint):
        Served([one], **options)
    with pytest.raises(InputError, match="panels with different names, and two are called 'sums'"):
        Served([one, one])
    with pytest.raises(InputError, match=r"port must be in \[0, 65535\], got 70000"):
        Address(port=70000)


def test_figures_and_traces(url: str) -> None:
    answer = ask(url, "Question 9?", model="mixed")
    trace = json.loads(get(f"{url}/v1/traces/{answer.modelwright['trace']}")[1])
    assert trace["status"] == "done"
    assert [reply["shown"] for reply in trace["replies"]] == [[], [], [], [0, 1, 2]]
    assert trace["paid"] == pytest.approx(0.04)
    figures = get(f"{url}/metrics")[1]
    assert 'modelwright_inner_calls_total{agent="solver",kind="answered",panel="mixed"}' in figures
    assert 'modelwright_request_seconds_count{panel="mixed"}' in figures
    assert get(f"{url}/v1/traces/none")[0] == 404


def test_the_cost_of_a_trace_is_that_of_its_calls() -> None:
    backend = script(KNOWN, accuracy=0.7, options=("yes", "no"))
    work = panel({"solver": backend}, samples=3, early_stop=False)
    session = Session()
    [first] = solve(work, ["Question 1?"], session)
    assert [step.cached for step in first.steps] == [False] * 3
    assert sum(cost(work.agents[s.agent].price, s.reply) for s in first.steps) == pytest.approx(0.03)
    [again] = solve(work, ["Question 1?"], session)
    assert [step.cached for step in again.steps] == [True] * 3


# --- models that predict -----------------------------------------------------------------------------------------------


def signs(x: Any) -> Any:
    """Class probabilities by the sign of the first number."""
    positive = 1 / (1 + np.exp(-x[:, 0]))
    return np.stack([1 - positive, positive], axis=1)


def test_models_answer_about_inputs() -> None:
    one = Predicting(predictor(signs, "signs"), classes=("low", "high"))
    with serving(Served([], predicting={"signs": one})) as url:

        def predict(**body: Any) -> tuple[int, dict[str, Any]]:
            return post(url, json.dumps(body).encode(), "/v1/predict")

        status, said = predict(inputs=[[2.0, 1.0], [-1.0, 0.0]])
        assert (status, said["model"], said["classes"]) == (200, "signs", ["low", "high"])
        assert [row["answer"] for row in said["predictions"]] == ["high", "low"]
        assert said["predictions"][0]["probabilities"] == pytest.approx(signs(np.array([[2.0]]))[0].tolist())
        assert predict(model="signs", inputs=[[0.5, 0.0]])[0] == 200
        for body, complaint in (
            ({"model": "sign", "inputs": [[1]]}, "there is no model 'sign' that predicts. Did you mean 'signs'"),
            ({"inputs": []}, "inputs must be a list of at least one input"),
            ({"inputs": [[1], [1, 2]]}, "inputs must be texts, or lists of numbers of one shape"),
            ({"inputs": [[1]], "n": 2}, "unknown key 'n'"),
            ({}, "a request is a JSON object with inputs"),
        ):
            status, said = predict(**body)
            assert status == 400
            assert complaint in said["error"]["message"]
        assert [m["id"] for m in json.loads(get(f"{url}/v1/models")[1])["data"]] == ["signs"]
    with pytest.raises(InputError, match="'signs' is served with a task or with the names of its classes"):
        Predicting(predictor(signs, "signs"))


def test_a_bundle_answers_about_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ensemble as `mw.ensemble` keeps it, of two estimators on the petals of iris."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    pytest.importorskip("skops")
    from sklearn.datasets import load_iris
    from sklearn.tree import DecisionTreeClassifier

    import modelwright as mw

    monkeypatch.chdir(tmp_path)
    x, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(150)
    x, y = x[order][:, 2:].astype(np.float32), y[order]
    parts = {"train": slice(0, 60), "validation": slice(60, 100), "test": slice(100, 150)}
    arrays = {f"{a}_{name}": values[part] for name, part in parts.items() for a, values in (("x", x), ("y", y))}
    np.savez("iris.npz", **arrays)
    Path("iris.yml").write_text("data: iris.npz\nclasses: [setosa, versicolor, virginica]\n")
    members = {
        "line": sklearn.LogisticRegression(max_iter=300).fit(x[:60], y[:60]),
        "tree": DecisionTreeClassifier(max_depth=3, random_state=0).fit(x[:60], y[:60]),
    }
    mw.ensemble(members, "iris.yml").save("mean")
    mw.ensemble(members, "iris.yml", cascade=True, unit="answers").save("steps")
    expected = np.mean([one.predict_proba(x[100:]) for one in members.values()], axis=0)
    names = ["setosa", "versicolor", "virginica"]
    [mean, steps] = systems(["mean", "steps"])
    predicting = {"mean": Predicting(mean, task="iris.yml"), "steps": Predicting(steps, classes=names)}
    with serving(Served([], predicting=predicting)) as url:

        def predict(**body: Any) -> tuple[int, dict[str, Any]]:
            return post(url, json.dumps(body).encode(), "/v1/predict")

        inputs = x[100:].tolist()
        status, said = predict(model="mean", inputs=inputs)
        assert (status, said["kind"], said["classes"]) == (200, "classes", names)
        np.testing.assert_allclose([row["probabilities"] for row in said["predictions"]], expected, atol=1e-6)
        assert [row["answer"] for row in said["predictions"]] == [names[i] for i in expected.argmax(axis=1)]
        status, said = predict(model="steps", inputs=inputs)
        assert status == 200
        right = [row["answer"] == names[i] for row, i in zip(said["predictions"], y[100:], strict=True)]
        assert np.mean(right) > 0.8
        status, said = predict(model="mean", inputs=[[1.0, 2.0, 3.0]])  # petals have two sizes
        assert status == 400
        assert "'mean' cannot answer about these inputs: ValueError: X has 3 features" in said["error"]["message"]
        assert predict(model="mean", inputs=inputs[:1])[0] == 200
        status, said = predict(inputs=inputs)
        assert status == 400
        assert "there is no model '' that predicts" in said["error"]["message"]
