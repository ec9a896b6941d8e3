"""The command line: parse, call, render. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Entry point of `modelwright` and `mw`.

    Exit codes: 0 done, 1 failed, 2 wrong input, 3 a gate did not pass, 130 interrupted (Ctrl-C or SIGTERM).
    """
    # What schedulers and containers send first; like Ctrl-C it leaves nothing half-made.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _start_quickly()
    try:
        from modelwright.cli._app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while importing
        code = 130
    _leave(code)


def _start_quickly() -> None:
    """Leave out what takes a third of the time of starting up and is of no use to a command."""
    # Imports make objects by the ten thousand, all of them to stay: looking for garbage among them finds none.
    gc.set_threshold(100_000, 50, 100)
    # numpy's matrix products would start a thread per core; tensors are what is worked on in parallel here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # pydantic would look for plugins of its own in every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def _leave(code: int) -> None:
    """End the process at once: with the compiler of the kernels loaded, Python takes a quarter of a second to fall apart."""
    atexit._run_exitfuncs()  # type: ignore[reportPrivateUsage]
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a closed pipe
            stream.flush()
    os._exit(code)
