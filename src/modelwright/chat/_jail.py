"""Runs in a process of its own, started by `_sandbox`; reads a job as JSON, shuts itself in, and says what came of it.

It stands alone: nothing of modelwright is imported here, and nothing else after the doors are shut.
"""

import builtins
import ctypes
import importlib
import io
import json
import math
import os
import resource
import signal
import sys

#: What code may import beside what is imported here anyway: after the doors are shut there are no files to import from.
_LOADED = (
    "bisect", "calendar", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools",
    "numbers", "operator", "random", "re", "statistics", "string", "textwrap", "typing",
)  # fmt: skip
_NAMESPACES = {"network": 0x40000000, "processes": 0x20000000, "messages": 0x08000000}
_NEW_USER = 0x10000000
_NOBODY = 65534
_NO_NEW_PRIVILEGES = 38
_CAPABILITIES = 0x20080522


def shut_in(job):
    """Cut off network, files and processes, as far as this system lets us; what was done, or why the network stays."""
    if not sys.platform.startswith("linux"):
        return [], "only Linux has namespaces"
    libc = ctypes.CDLL(None, use_errno=True)
    flags = sum(_NAMESPACES.values())
    root = os.geteuid() == 0
    if libc.unshare(flags) != 0 and libc.unshare(flags | _NEW_USER) != 0:
        return [], f"namespaces are not permitted: {os.strerror(ctypes.get_errno())}"
    pid = os.fork()  # the new namespace of processes is for children
    if pid:
        os.close(1)
        os.waitpid(pid, 0)
        os._exit(0)
    libc.prctl(1, signal.SIGKILL)  # with its parent it ends
    os.chroot(".")
    os.chdir("/")
    if root:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0 or libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return [], "privileges cannot be given up"
    return ["no network", "no files but an empty folder", "no other processes", "no privileges"], ""


def limit(job):
    """Time, memory, files and processes."""
    seconds = max(1, math.ceil(job["seconds"]))
    kinds = {"CPU": seconds, "AS": job["memory"], "FSIZE": 1 << 20, "NOFILE": 16, "NPROC": 0, "CORE": 0}
    for name, most in kinds.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            try:
                resource.setrlimit(kind, (most, most))
            except (ValueError, OSError):
                if name in ("CPU", "AS"):
                    raise
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    return [f"{job['seconds']:g} s", f"{job['memory'] >> 20} MiB"]


class _Late(BaseException):
    """The time is over."""


class _Asks(BaseException):
    """An undefined function was called."""


def _late(*_):
    raise _Late


class _Printed(io.StringIO):
    """Keeps so much, and forgets the rest."""

    most = 0

    def write(self, text):
        if self.tell() < self.most:
            super().write(str(text)[: self.most - self.tell()])
        return len(text)


class _Semantic(dict):
    """Built-in names, and for all others a function whose results come from elsewhere."""

    def __init__(self, known):
        super().__init__(vars(builtins))
        self.known, self.calls = known, 0

    def __missing__(self, name):
        def call(*arguments, **named):
            self.calls += 1
            if self.calls <= len(self.known):
                return self.known[self.calls - 1]["result"]
            shown = [repr(a)[:1000] for a in arguments] + [f"{k}={v!r}"[:1000] for k, v in named.items()]
            raise _Asks(name, shown)

        return call


def run(job, printed):
    """What came of the code."""
    found = {"__builtins__": _Semantic(job["known"]) if job["semantic"] else vars(builtins), "__name__": "__main__"}
    said = {}
    sys.stdout = printed
    try:
        exec(compile(job["code"], "code", "exec"), found)
    except _Late:
        said["error"] = f"it took more than {job['seconds']:g} s"
    except _Asks as call:
        said["asks"] = list(call.args)
    except SystemExit:
        pass
    except MemoryError:
        said["error"] = "it needed too much memory"
    except BaseException as error:
        said["error"] = f"{type(error).__name__}: {error}"[:1000]
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout = sys.__stdout__
    output = printed.getvalue().strip()
    if not output and found.get("answer") is not None and "error" not in said:
        output = str(found["answer"])[: job["most"]]
    return {**said, "output": output}


def main():
    """Read, shut in, run, tell."""
    job = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    for name in _LOADED:
        importlib.import_module(name)
    kept, why = shut_in(job)
    if not kept and not job["network"]:
        said = {"refused": why}
    else:
        kept += limit(job)
        os.environ.clear()
        _Printed.most = job["most"]
        said = {**run(job, _Printed()), "kept": kept}
    os.write(out, json.dumps(said).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
