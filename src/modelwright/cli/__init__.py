"""The command line: parse, call, render. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Entry point of `modelwright` and `mw`.

    Exit codes: 0 done, 1 failed, 2 wrong input, 3 a gate did not pass, 130 interrupted (Ctrl-C or SIGTERM).
    """
    # What schedulers and containers send first; like Ctrl-C it leaves nothing half-made.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from modelwright.cli._app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:  # while importing
        sys.exit(130)
