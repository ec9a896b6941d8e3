"""Measure one process at a time, and what else the machine was doing meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class CommandFailedError(Exception):
    """A contender ended with an error."""


@dataclass(frozen=True)
class Run:
    """What one process took.

    Attributes:
        seconds: From before it is started until it has ended.
        cpu_seconds: User and system time.
        peak_mb: Largest resident memory, in 10^6 bytes; mapped files count.
        disk_mb: Read from the disk rather than from the page cache, in 10^6 bytes.
        other_cpu_seconds: CPU time of all other processes meanwhile, where the system tells.
        stolen_seconds: CPU time that a virtual machine's host withheld, where the system tells.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    disk_mb: float
    other_cpu_seconds: float | None
    stolen_seconds: float | None


def timed(command: Sequence[str], out: Path, env: Mapping[str, str] | None = None) -> tuple[Run, str]:
    """Run a command and measure it; its output folder is removed before and after, outside the time.

    Dirty pages of whatever ran before are written first, so that this run does not pay for them.

    Args:
        command: Program and arguments.
        out: The folder that it makes.
        env: Its environment; this process's if None.

    Returns:
        The measures, and what it printed.

    Raises:
        CommandFailedError: It did; the message ends with what it wrote to stderr.
    """
    _remove(out)
    os.sync()
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
        before = _cpu_times()
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=errors, stdin=subprocess.DEVNULL, env=env, cwd=ROOT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - started
        after = _cpu_times()
        process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped: Popen need not look for it
        printed.seek(0)
        errors.seek(0)
        text, error = printed.read().decode(errors="replace"), errors.read().decode(errors="replace")
    _remove(out)
    if process.returncode:
        raise CommandFailedError(f"exit code {process.returncode}: {error.strip()[-1500:]}")
    cpu = usage.ru_utime + usage.ru_stime
    others = stolen = None
    if before and after:
        others, stolen = max(0.0, after[0] - before[0] - cpu), after[1] - before[1]
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return Run(seconds, cpu, peak, usage.ru_inblock * 512 / 1e6, others, stolen), text


def _remove(out: Path) -> None:
    for path in (out, out.with_name(out.name + ".partial"), out.with_name(out.name + ".old")):
        shutil.rmtree(path, ignore_errors=True)


def _cpu_times() -> tuple[float, float] | None:
    """Seconds that all cores were busy and that the host withheld, since the system's start; None outside Linux."""
    try:
        with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123 - quicker, and it is inside the time
            user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + soft) / tick, steal / tick


def probe() -> float:
    """Seconds of a fixed piece of work on one core: how fast the processor is just now."""
    block = bytes(1 << 20)
    started = time.perf_counter()
    digest = hashlib.sha256()
    for _ in range(48):
        digest.update(block)
    return time.perf_counter() - started


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Medians, extremes, and every run."""
    seconds = [run.seconds for run in runs]
    return {
        "seconds": {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
        "cpu_seconds": statistics.median(run.cpu_seconds for run in runs),
        "peak_mb": max(run.peak_mb for run in runs),
        "runs": [vars(run) for run in runs],
    }


def rounded(value: Any, digits: int = 4) -> Any:
    """The same with its floats rounded."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(entry, digits) for key, entry in value.items()}
    return [rounded(entry, digits) for entry in value] if isinstance(value, list | tuple) else value


def machine() -> dict[str, Any]:
    """What figures depend on."""
    return {
        "cores": cores(),
        "cpu": _cpu_model(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions("modelwright", "numpy", "numba", "ml_dtypes"),
        "commit": _commit(),
    }


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Of those that are installed, without importing them."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """What was measured; a plus sign where files were changed since."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "--", "src") else "")
    return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def available_gb() -> float | None:
    """Memory that the page cache and processes can have; None outside Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e9
    return None
