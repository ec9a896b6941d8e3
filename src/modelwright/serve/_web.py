"""The routes. Only `app` imports this file, because it needs fastapi to be there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from modelwright.chat import BudgetError, Outcome
from modelwright.errors import InputError, RunError, printable
from modelwright.serve import _page, _predicting, _protocol as protocol
from modelwright.serve._metrics import Metrics
from modelwright.serve._protocol import Asked
from modelwright.serve._run import Address
from modelwright.serve._served import ClosedError, FullError, Served
from modelwright.serve._traces import Trace

_LOG = logging.getLogger("modelwright.serve")
#: Most bytes of a request.
_LARGEST = 8 << 20
#: Seconds until a stream that has nothing to say yet is begun, and between signs of life in it.
_PATIENCE = 10.0
#: Names that a browser may call a server on loopback by; others are pages elsewhere that try to reach it.
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
#: Nothing that members say can run, or fetch anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE_HEADERS = {
    "Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}  # fmt: skip


def application(served: Served, address: Address) -> FastAPI:
    """The application; it closes what is served when it shuts down."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await served.close()

    # No pages of fastapi's own: they would fetch scripts from elsewhere.
    web = FastAPI(title="modelwright", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    metrics = Metrics(served)
    door = _Door(address)
    guarded = APIRouter(dependencies=[Depends(door)])
    _chat_routes(guarded, served)
    _page_routes(guarded, served, metrics)
    web.include_router(guarded)

    @web.get("/health", dependencies=[Depends(door.host)])
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok" if served.open else "stopping"}, 200 if served.open else 503)

    @web.exception_handler(AnyHTTPException)
    async def refused(_request: Request, error: AnyHTTPException) -> JSONResponse:
        kind = "authentication_error" if error.status_code == 401 else "invalid_request_error"
        return JSONResponse(
            protocol.error(str(error.detail), kind), error.status_code, headers=dict(error.headers or {})
        )

    return web


class _Door:
    """Who may come in."""

    def __init__(self, address: Address):
        self._address = address

    async def host(self, request: Request) -> None:
        """On loopback, whoever calls the server by another name is a page elsewhere that a browser was led by."""
        name = request.headers.get("host", "").lower()
        name = name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0]
        if self._address.loopback and name not in (*_LOOPBACK, self._address.host):
            raise HTTPException(403, "this server answers programs on its own machine only")

    async def __call__(self, request: Request) -> None:
        await self.host(request)
        key = self._address.key
        if key is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":  # what browsers send: any name, and the key as its password
            with contextlib.suppress(ValueError):
                given = base64.b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise HTTPException(401, "the key is wrong or missing", {"WWW-Authenticate": 'Basic realm="modelwright"'})


# --- asking ------------------------------------------------------------------------------------------------------------


def _chat_routes(router: APIRouter, served: Served) -> None:
    @router.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse(
            {"object": "list", "data": [protocol.model(name) for name in (*served.panels, *served.predicting)]}
        )

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        try:
            return JSONResponse(protocol.model(served.panel(name).name))
        except InputError as error:
            return _no_model(error)

    @router.post("/v1/predict")
    async def predictions(request: Request) -> JSONResponse:
        try:
            name, inputs = _predicting.asked(await _json(request), served.predicting)
            return JSONResponse({"model": name, **await served.predict(name, inputs)})
        except (InputError, RunError, FullError, ClosedError) as error:
            failure = _Failure.of(error)
            return JSONResponse(failure.said, failure.status)

    @router.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        try:
            asked = protocol.asked(await _json(request))
        except InputError as error:
            return JSONResponse(protocol.error(str(error), "invalid_request_error"), 400)
        try:
            only = next(iter(served.panels)) if len(served.panels) == 1 else ""
            panel = served.panel(asked.model or only)
        except InputError as error:
            return _no_model(error)
        trace = Trace(panel.name, asked.question, len(asked.before))
        served.traces.add(trace)
        work = _Work(served, trace, asked, request)
        return await (work.streamed() if asked.stream else work.whole())


def _no_model(error: InputError) -> JSONResponse:
    return JSONResponse(protocol.error(str(error), "invalid_request_error", "model_not_found"), 404)


async def _json(request: Request) -> Any:
    """A body as JSON.

    Raises:
        InputError: It is none.
        HTTPException: It is too large.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST:
            raise HTTPException(413, f"a request has at most {_LARGEST:,} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON: {error}") from None


@dataclass(frozen=True)
class _Failure:
    """What a client is told."""

    status: int
    kind: str
    code: str | None
    message: str
    retry: bool = True

    @classmethod
    def of(cls, error: BaseException) -> _Failure:
        text = printable(str(error))
        match error:
            case FullError():
                return cls(429, "rate_limit_error", "queue_full", f"{text}. Try again later")
            case ClosedError():
                return cls(503, "server_error", "stopping", text)
            case BudgetError():
                return cls(429, "insufficient_quota", "budget_exhausted", text, retry=False)
            case InputError():
                return cls(400, "invalid_request_error", None, text, retry=False)
            case RunError():
                return cls(502, "server_error", "backend_failed", text, retry=error.resumable)
            case _:
                _LOG.error("a request failed unexpectedly", exc_info=error)
                return cls(500, "server_error", None, f"{type(error).__name__}: {text}", retry=False)

    @property
    def said(self) -> dict[str, Any]:
        return protocol.error(self.message, self.kind, self.code)

    def response(self, trace: Trace) -> JSONResponse:
        headers = {"x-request-id": trace.id, "x-should-retry": "true" if self.retry else "false"}
        if self.status in (429, 503) and self.retry:
            headers["retry-after"] = "1"
        return JSONResponse(self.said, self.status, headers=headers)


class _Work:
    """One request for a completion."""

    def __init__(self, served: Served, trace: Trace, asked: Asked, request: Request):
        self._trace, self._asked, self._request = trace, asked, request
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        listener = self._pieces.put_nowait if asked.stream else None
        self._task = asyncio.create_task(served.answer(trace, asked.before, listener))
        self._task.add_done_callback(lambda _task: self._pieces.put_nowait(None))
        self._gone = asyncio.create_task(self._disconnected())

    async def _disconnected(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    async def whole(self) -> Response:
        """The answer in one piece; nobody works for a client that went away."""
        try:
            await asyncio.wait({self._task, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if not self._task.done():
                return Response(status_code=499)  # nobody reads it
            failure = self._failure()
            if failure is not None:
                return failure.response(self._trace)
            said = protocol.completion(self._trace, self._asked)
            return JSONResponse(said, headers={"x-request-id": self._trace.id})
        finally:
            await self._end()

    async def streamed(self) -> Response:
        """The answer in pieces; what fails before the first of them fails with a status of its own."""
        begun = False
        try:
            first = await self._next()
            if first is None and self._task.done() and (failure := self._failure()) is not None:
                return failure.response(self._trace)
            begun = True
        finally:
            if not begun:
                await self._end()
        headers = {"x-request-id": self._trace.id, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(first), media_type="text/event-stream", headers=headers)

    async def _events(self, piece: str | None) -> AsyncIterator[bytes]:
        try:
            yield _event(protocol.chunk(self._trace, first=True))
            told = ""
            while not self._gone.done():
                if piece is not None:
                    told += piece
                    yield _event(protocol.chunk(self._trace, text=piece))
                elif self._task.done() and self._pieces.empty():
                    break
                else:
                    yield b": working\n\n"
                piece = await self._next()
            if self._task.done():
                for event in self._rest(told):
                    yield event
        finally:
            await self._end()

    def _rest(self, told: str) -> list[bytes]:
        """What is still to be said when the panel is done."""
        failure = self._failure()
        if failure is not None:
            return [_event(failure.said)]
        outcome: Outcome = self._task.result()
        if not outcome.text.startswith(told):
            text = "the answer is not how it began, because a reply had to be asked for again; ask once more"
            return [_event(protocol.error(text, "server_error", "stream_broken"))]
        events = [
            _event(protocol.chunk(self._trace, text=piece)) for piece in protocol.pieces(outcome.text[len(told) :])
        ]
        events.append(_event(protocol.chunk(self._trace, ended=protocol.finish(outcome))))
        if self._asked.usage:
            events.append(_event(protocol.last_chunk(self._trace, self._asked)))
        return [*events, b"data: [DONE]\n\n"]

    async def _next(self) -> str | None:
        """The next piece; None when the panel is done, the client is gone, or nothing came for a while."""
        get = asyncio.ensure_future(self._pieces.get())
        await asyncio.wait({get, self._gone}, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if get.done():
            return get.result()
        get.cancel()
        return None

    def _failure(self) -> _Failure | None:
        error = self._task.exception()
        return None if error is None else _Failure.of(error)

    async def _end(self) -> None:
        """Nothing goes on; calls that are paid for do, in the session."""
        for task in (self._gone, self._task):
            if not task.done():
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(said, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


# --- looking -----------------------------------------------------------------------------------------------------------


def _page_routes(router: APIRouter, served: Served, metrics: Metrics) -> None:
    @router.get("/metrics")
    async def figures() -> Response:
        content, kind = metrics.text()
        return Response(content, media_type=kind)

    @router.get("/")
    async def overview() -> HTMLResponse:
        return HTMLResponse(_page.overview(served), headers=_PAGE_HEADERS)

    @router.get("/traces/{name}")
    async def trace_page(name: str) -> HTMLResponse:
        return HTMLResponse(_page.request(_trace(served, name)), headers=_PAGE_HEADERS)

    @router.get("/v1/traces/{name}")
    async def trace_json(name: str) -> JSONResponse:
        return JSONResponse(_trace(served, name).as_json())


def _trace(served: Served, name: str) -> Trace:
    found = served.traces.get(name)
    if found is None:
        raise HTTPException(404, "there is no such request, or it is too long ago")
    return found
