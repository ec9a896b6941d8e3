"""A server in the foreground, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from modelwright.errors import InputError, RunError
from modelwright.evaluate._predictor import needs
from modelwright.serve._served import Served

#: Seconds that requests under way get when the server is told to stop.
GRACE = 30.0


@dataclass(frozen=True)
class Address:
    """Where a server listens, and who may ask.

    Attributes:
        host: A name or an address of this machine; by default only programs on it can connect.
        port: In [0, 65535]; 0 takes any free one.
        key_variable: The environment variable with the key that clients must send; None asks for none.

    Raises:
        InputError: The port is none, or the variable is not set.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key_variable: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"port must be in [0, 65535], got {self.port}")
        if self.key_variable is not None and not self.key:
            raise InputError(
                f"the environment variable '{self.key_variable}' is to hold the key of clients, and is not set",
                f"Set it, as in: export {self.key_variable}=...",
            )

    @property
    def key(self) -> str | None:
        """What clients must send; it is nowhere but in the environment."""
        return None if self.key_variable is None else os.environ.get(self.key_variable)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False

    @property
    def warning(self) -> str:
        """What is to be said before it listens; empty where nothing is."""
        if self.loopback:
            return ""
        who = "without a key, anybody there can spend your budget and read what was asked; set --key-variable"
        told = who if self.key is None else "keys and questions travel unencrypted; put it behind a proxy with TLS"
        return f"{self.host} can be reached from other machines: {told}"


def app(served: Served, address: Address | None = None) -> Any:
    """The ASGI application of a server, for tests and for other servers than uvicorn.

    Args:
        served: What is served; it is closed when the application shuts down.
        address: Who may ask.
    """
    needs("fastapi", "serving", "serve")
    from modelwright.serve._web import application

    return application(served, address or Address())


def serve(
    make: Callable[[], Served],
    address: Address,
    *,
    grace: float = GRACE,
    ready: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve until SIGINT or SIGTERM; then no request is taken, and those that came are answered.

    Args:
        make: Makes what is served, inside of the event loop that it works on.
        address: Where, and for whom.
        grace: Seconds that requests under way get when it is told to stop.
        ready: Told the server's URL when it listens.

    Raises:
        InputError: The address cannot be listened on.
        MissingExtraError: fastapi, uvicorn or prometheus_client are not installed.
    """
    uvicorn = needs("uvicorn", "serving", "serve")
    asyncio.run(_serve(uvicorn, make, address, grace, ready))


async def _serve(uvicorn: Any, make: Callable[[], Served], address: Address, grace: float, ready: Any) -> None:
    served = make()
    config = uvicorn.Config(
        app(served, address), host=address.host, port=address.port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=round(grace), server_header=False,
    )  # fmt: skip
    sockets = [_listening(config, address)]
    server = _server(uvicorn, config, served)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    host, port = sockets[0].getsockname()[:2]
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    await server.serve(sockets=sockets)
    if not server.started:
        raise RunError("the server did not start")


def _listening(config: Any, address: Address) -> Any:
    """The socket, so that a port that is taken is our error and not uvicorn's."""
    import socket

    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((address.host, address.port))
    except OSError as error:
        found.close()
        raise InputError(
            f"cannot listen on {address.host}, port {address.port}: {error.strerror or error}", "Give another --port."
        ) from error
    found.listen(config.backlog)
    found.set_inheritable(True)
    return found


def _server(uvicorn: Any, config: Any, served: Served) -> Any:
    class Server(uvicorn.Server):
        """Signals are handled by our loop: being told to stop is no failure."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        def handle_exit(self, sig: int, frame: Any) -> None:
            served.stop()
            super().handle_exit(sig, frame)

    return Server(config)
