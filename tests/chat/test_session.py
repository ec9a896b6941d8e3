"""Cache, ledger and transcripts: nothing is paid for twice, lost, or spent beyond the budget."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from modelwright.chat import (
    Agent,
    BudgetError,
    Cache,
    Conversations,
    Ledger,
    Message,
    Panel,
    Reply,
    Request,
    Session,
    Transcript,
    read_transcript,
    user,
    with_system,
)
from modelwright.chat._ledger import cost, most
from modelwright.errors import InputError, RunError
from modelwright.evaluate import Price, Sampling

from .helpers import STEADY, agent, questions, script

WARM = Sampling(max_tokens=50, temperature=0.7)


class Priced:
    """Replies of a given size, some of which fail."""

    model = "priced"

    def __init__(self, sizes: list[int], fails: set[int] | None = None):
        self.sizes, self.fails, self.asked = sizes, fails or set(), 0

    async def ask(self, request: Request) -> Reply:
        self.asked += 1
        size = self.sizes[request.sample % len(self.sizes)]
        await asyncio.sleep(0.001 * (size % 3))
        if request.sample in self.fails:
            raise RunError("broken", resumable=True)
        return Reply("x", 3, min(size, request.sampling.max_tokens))

    async def close(self) -> None:
        """Nothing."""


# The nouns


def test_a_key_holds_all_that_a_reply_depends_on() -> None:
    base = Request(user("Q?"), WARM)
    others = [
        Request(user("Q!"), WARM),
        Request((Message("system", "S"), *user("Q?")), WARM),
        Request(user("Q?"), Sampling(max_tokens=51, temperature=0.7)),
        Request(user("Q?"), WARM, 1),
        Request(user("Q?"), WARM, logprobs=True),
    ]
    keys = {r.key("m") for r in [base, *others]} | {base.key("n")}
    assert len(keys) == 7
    assert Request(user("Q?"), WARM).key("m") == base.key("m")
    assert base.seed() != Request(user("Q?"), WARM, 1).seed()


def test_system_messages_are_joined() -> None:
    question = user("Q?")
    assert with_system(question, "A") == [Message("system", "A"), *question]
    assert with_system(with_system(question, "A"), "B")[0].content == "A\n\nB"
    assert with_system(with_system(question, "A"), "B", before=True)[0].content == "B\n\nA"
    assert with_system(question, "") == list(question)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: Message("robot", "x"), "there is no role 'robot'"),  # type: ignore[arg-type]
        (lambda: Request(()), "a request needs messages, of which the last is a user's or the system's"),
        (lambda: Request((Message("assistant", "x"),)), "a request needs messages"),
        (lambda: Request(user("x"), sample=-1), "sample must be at least 0, got -1"),
        (lambda: Ledger(-1), "a budget must be a number of at least 0, got -1"),
        (lambda: Agent("a", script({}), price=Price(hour=1)), "agent 'a': a price by the hour says nothing of a call"),
    ],
)
def test_refusals(call: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        call()


# The cache


def test_replies_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    reply = Reply("caf\u00e9 \ud800", 3, 4, (-0.1, 0.0), "length", 2)
    cache = Cache(path)
    cache.put("k", reply)
    cache.put("k", Reply("another"))
    assert len(cache) == 1
    cache.close()
    again = Cache(path)
    assert again.get("k") == reply
    assert again.get("l") is None
    again.close()


WRITER = """
import sys
from modelwright.chat import Cache, Reply
cache = Cache(sys.argv[1])
for i in range(int(sys.argv[3])):
    cache.put(f"{sys.argv[2]} {i}", Reply(f"reply {i}"))
    cache.put(f"both {i}", Reply("both"))
    print(i, flush=True)
"""


def test_processes_share_a_file_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    Cache(path).close()
    command = [sys.executable, "-c", WRITER, str(path)]
    one, two = (
        subprocess.Popen([*command, name, count], stdout=subprocess.PIPE, text=True)
        for name, count in (("one", "1000000"), ("two", "60"))
    )
    assert two.wait(120) == 0
    assert one.stdout is not None
    assert two.stdout is not None
    two.stdout.close()
    os.kill(one.pid, signal.SIGKILL)
    said = [int(line) for line in one.stdout.read().splitlines()]
    one.stdout.close()
    one.wait()
    cache = Cache(path)
    assert said
    for i in said:
        assert cache.get(f"one {i}") == Reply(f"reply {i}")
    for i in range(60):
        assert cache.get(f"two {i}") == Reply(f"reply {i}")
    cache.close()


def test_files_that_are_no_caches(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(InputError, match=r"not a cache of replies: file is not a database. Name another file"):
        Cache(tmp_path / "text")
    with pytest.raises(InputError, match="a cache must be a file, and it is a folder"):
        Cache(tmp_path)
    with pytest.raises(InputError, match="a cache must be a file, and there is no folder"):
        Cache(tmp_path / "none" / "x")
    other = sqlite3.connect(tmp_path / "new")
    other.execute("PRAGMA user_version=9")
    other.close()
    with pytest.raises(InputError, match="the cache is of version 9, and this is 1"):
        Cache(tmp_path / "new")


# The ledger


def spend(session: Session, whom: Agent, count: int) -> list[Any]:
    async def go() -> list[Any]:
        asked = [session.ask(whom, whom.request(user("Q?"), i)) for i in range(count)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        await session.settle()
        return list(found)

    return asyncio.run(go())


@given(
    st.lists(st.integers(0, 80), min_size=1, max_size=12),
    st.integers(1, 25),
    st.floats(0, 0.002),
    st.sets(st.integers(0, 24)),
)
@settings(max_examples=40, **STEADY)
def test_no_order_of_replies_exceeds_the_budget(sizes: list[int], calls: int, budget: float, fails: set[int]) -> None:
    price = Price(tokens_in=1, tokens_out=5, call=1e-5)
    whom = Agent("a", Priced(sizes, fails), sampling=WARM, price=price)
    session = Session(ledger=Ledger(budget))
    found = spend(session, whom, calls)
    total = session.ledger.total
    good = [f for f in found if isinstance(f, Reply)]
    refused = [f for f in found if isinstance(f, BudgetError)]
    assert total.money == pytest.approx(sum(cost(price, reply) for reply in good))
    assert total.money <= budget + 1e-9
    assert (total.calls, total.tokens_out) == (len(good), sum(r.tokens_out for r in good))
    assert total.calls + total.failed + len(refused) == calls
    if refused:  # not before it could have been exceeded
        assert total.money + most(price, whom.request(user("Q?"))) > budget


def test_what_the_budget_says() -> None:
    whom = Agent("a", Priced([50]), sampling=WARM, price=Price(call=0.3))
    session = Session(ledger=Ledger(1.0))
    found = spend(session, whom, 5)
    assert [type(f).__name__ for f in found] == ["Reply"] * 3 + ["BudgetError"] * 2
    assert str(found[3]) == (
        "the budget of 1 does not allow another call of 'a': 0.9 is spent, and the call could cost up to 0.3. Raise the budget "
        "or lower max_tokens; answers so far are kept"
    )
    assert found[3].resumable


def test_replies_from_the_cache_are_free() -> None:
    backend = Priced([10])
    whom = Agent("a", backend, sampling=WARM, price=Price(call=0.5))
    cache = Cache()
    spend(Session(cache, Ledger(1.0)), whom, 2)
    ledger = Ledger(0.0)
    assert all(isinstance(f, Reply) for f in spend(Session(cache, ledger), whom, 2))
    assert backend.asked == 2
    assert (ledger.total.cached, ledger.total.money) == (2, 0)
    assert ledger.agents["a"].cached == 2


def test_a_failure_is_not_kept() -> None:
    backend = Priced([1], {0})
    whom = Agent("a", backend, sampling=WARM)
    session = Session()
    [failure] = spend(session, whom, 1)
    assert isinstance(failure, RunError)
    backend.fails = set()
    assert isinstance(spend(Session(session.cache), whom, 1)[0], Reply)


def test_a_failing_question_waits_for_calls_under_way_and_keeps_them() -> None:
    """What is paid for reaches the cache although another question failed meanwhile."""
    known = {"fast": "1", "slow": "2"}

    class Uneven:
        model = "uneven"
        inner = script(known)

        async def ask(self, request: Request) -> Reply:
            if "fast" in request.text:
                raise RunError("broken")
            await asyncio.sleep(0.05)
            return await self.inner.ask(request)

        async def close(self) -> None:
            """Nothing."""

    with Conversations(Panel("p", {"a": agent("a", Uneven())})) as work:
        with pytest.raises(RunError, match="broken"):
            work.solve(["slow", "fast"])
        assert work.session.ledger.total.calls == 3  # the first wave of a vote of five
        work.solve(["slow"])
        assert (work.session.ledger.total.calls, work.session.ledger.total.cached) == (3, 3)


# Transcripts


def test_a_transcript_has_everything_but_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    path = tmp_path / "said.jsonl"
    transcript = Transcript(path)
    session = Session(transcript=transcript)
    whom = Agent("a", script({"Q?": "4"}), system="Be brief.", sampling=WARM)
    spend(session, whom, 1)
    spend(session, whom, 1)
    transcript.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["cached"] for line in lines] == [False, True]
    assert lines[0]["agent"] == "a"
    assert lines[0]["request"]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert lines[0]["reply"]["text"] == "The answer is 4."
    assert "sk-secret" not in path.read_text()


def test_a_line_that_was_cut_off_is_left_out_and_written_after(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    whom = Agent("a", script({"Q?": "4"}), sampling=WARM)

    def write(sample: int) -> None:
        transcript = Transcript(path)
        transcript.add(whom, whom.request(user("Q?"), sample), Reply(f"reply {sample}"), cached=False)
        transcript.close()

    write(0)
    with path.open("a") as file:
        file.write('{"version": 1, "key": "cut o')
    write(1)
    assert sorted(r.text for r in read_transcript(path).values()) == ["reply 0", "reply 1"]


def test_transcripts_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"version": 2}\n')
    with pytest.raises(InputError, match=r"not a line of a transcript of version 1. Was it edited\? \[.*x.jsonl:1\]"):
        read_transcript(tmp_path / "x.jsonl")
    with pytest.raises(InputError, match="the transcript cannot be read: No such file"):
        read_transcript(tmp_path / "none")
    with pytest.raises(InputError, match="the transcript cannot be written: No such file"):
        Transcript(tmp_path / "none" / "x.jsonl")


def test_what_a_transcript_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    Transcript(path).close()
    whom = Agent("a", script({"Q?": "4"}), sampling=WARM)
    [found] = spend(Session(replay=path), whom, 1)
    assert isinstance(found, InputError)
    assert "the transcript does not have what is asked of 'a'. It is of other questions" in str(found)


def test_panels_work_inside_a_running_loop() -> None:
    known = questions(3)

    async def notebook() -> list[Any]:
        with Conversations(Panel("p", {"a": agent("a", script(known))})) as work:
            return [o.value for o in work.solve(list(known))]

    assert asyncio.run(notebook()) == [f"The answer is {a}." for a in known.values()]


def test_an_interrupt_ends_the_wait() -> None:
    from modelwright.chat._predictor import Loop

    loop = Loop()
    cancelled: list[bool] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def stop() -> None:
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    asyncio.run_coroutine_threadsafe(stop(), loop._loop)
    with pytest.raises(KeyboardInterrupt):
        loop.run(endless())
    for _ in range(500):
        if cancelled:
            break
        time.sleep(0.01)
    assert cancelled
    loop.close()
