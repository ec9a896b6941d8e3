"""What a panel adds to each inner call, and what serving adds to a request, on top of a backend that answers at once.

    python -m benchmarks.chat [--calls 2000] [--out FILE.json]

Overhead of an inner call: the time of a program divided by its calls, minus the time of asking the backend directly. Nothing is
cached: each question is new. Of a request: the official client over loopback, one after the other, minus the program itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from modelwright.chat import MOA, SELF_CONSISTENCY, Agent, Panel, Program, ScriptedBackend, Session, user
from modelwright.evaluate import Sampling
from modelwright.serve import Served, app

#: Milliseconds that a panel may add to an inner call, at the median.
TARGET_MS = 2.0
WARM = Sampling(max_tokens=64, temperature=0.7)


def panel(known: dict[str, str], program: Program, **params: Any) -> Panel:
    agent = Agent("solver", ScriptedBackend(known), sampling=WARM)
    return Panel(program.name, {"solver": agent}, program, program.params(**params))


async def timed(ask: Callable[[str], Awaitable[Any]], questions: list[str]) -> list[float]:
    """Milliseconds of each, one after the other."""
    found: list[float] = []
    for question in questions:
        start = time.perf_counter()
        await ask(question)
        found.append(1000 * (time.perf_counter() - start))
    return found


def inner_calls(count: int) -> dict[str, float]:
    """Milliseconds that a call takes beyond the backend's own, at the median, by program."""
    found: dict[str, float] = {}
    for program, calls, params in ((SELF_CONSISTENCY, 5, {"early_stop": False}), (MOA, 6, {"samples": 5})):
        known = {f"Question {i}?": "4" for i in range(count // calls)}
        work = panel(known, program, **params)
        agent = work.agents["solver"]

        async def go(
            work: Panel = work, agent: Agent = agent, known: dict[str, str] = known, calls: int = calls
        ) -> float:
            session = Session()
            whole = await timed(lambda question: work.solve(session, question), list(known))
            alone = await timed(lambda question: agent.backend.ask(agent.request(user(question))), list(known))
            return statistics.median(whole) / calls - statistics.median(alone)

        found[program.name] = asyncio.run(go())
    return found


def requests(count: int) -> float:
    """Milliseconds that serving adds to a request, at the median, the client among them."""
    import openai
    import uvicorn

    known = {f"Question {i}?": "4" for i in range(count)}
    work = panel(known, SELF_CONSISTENCY, samples=1)
    config = uvicorn.Config(app(Served([work])), port=0, log_level="error", access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    asked = list(known)

    async def served() -> list[float]:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:

            async def ask(question: str) -> Any:
                return await client.chat.completions.create(
                    model=work.name, messages=[{"role": "user", "content": question}]
                )

            await ask(asked[0])
            return await timed(ask, asked[1:])

    async def direct() -> list[float]:
        session = Session()
        return await timed(lambda question: work.solve(session, question), asked)

    found = statistics.median(asyncio.run(served())) - statistics.median(asyncio.run(direct()))
    server.should_exit = True
    thread.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--out")
    options = parser.parse_args()
    calls = inner_calls(options.calls)
    found = {"inner_call_ms": calls, "request_ms": requests(max(50, options.calls // 10)), "target_ms": TARGET_MS}
    print(json.dumps(found, indent=2))
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(found, file, indent=2)
    if max(calls.values()) >= TARGET_MS:
        raise SystemExit(f"a panel adds {max(calls.values()):.2f} ms to an inner call, and may add {TARGET_MS:g}")


if __name__ == "__main__":
    main()
