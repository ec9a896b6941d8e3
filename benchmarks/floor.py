"""The floor: every input read once and one output written and fsynced, with no arithmetic.

    python -m benchmarks.floor --inputs BASE A B C --out FOLDER --block 1048576 --flush end

Prints what it took, as JSON. Nothing outside the standard library is imported and starting up is not counted. Each thread
has half of the bytes and one buffer, which is made and touched beforehand.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

#: Bytes after which the kernel is asked to begin writing, under `flush="early"`.
_EARLY = 16 << 20
_SYNC_FILE_RANGE_WRITE = 2


@dataclass(frozen=True)
class Variant:
    """How to copy; which is fastest depends on processor, file system and disk.

    Attributes:
        block: Bytes of one read or write.
        flush: `end` leaves all writing to fsync, `early` asks the kernel to begin while reading goes on.
        allocate: Reserve the output's blocks before writing.
        files: Output files: one for all threads, or one for each.
    """

    block: int = 1 << 20
    flush: str = "end"
    allocate: bool = True
    files: str = "one"


#: Tried one after the other; each is kept if it is faster than the best before.
CHANGES: tuple[dict[str, object], ...] = (
    {"block": 1 << 18}, {"block": 1 << 22}, {"flush": "early"}, {"allocate": False}, {"files": "each"},
)  # fmt: skip


def fastest(seconds: Callable[[Variant], float]) -> Variant:
    """The best variant by one run each."""
    best = Variant()
    least = seconds(best)
    for change in CHANGES:
        variant = replace(best, **change)  # type: ignore[arg-type]
        if (taken := seconds(variant)) < least:
            best, least = variant, taken
    return best


def copy(inputs: list[Path], out: Path, variant: Variant, threads: int) -> float:
    """Seconds of reading all models and writing as many bytes as the first has."""
    models = [sorted(folder.glob("*.safetensors")) for folder in inputs]
    sizes = [file.stat().st_size for file in models[0]]
    if any([file.stat().st_size for file in files] != sizes for files in models):
        raise SystemExit("the inputs differ in their files' sizes")
    total = sum(sizes)
    bounds = [total * t // threads for t in range(threads + 1)]
    targets = [out / f"floor-{t}.bin" for t in range(threads if variant.files == "each" else 1)]
    buffers = [mmap.mmap(-1, variant.block) for _ in range(threads)]
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))  # page faults now, not in the time
    failed: list[BaseException] = []

    def work(t: int) -> None:
        try:
            handles = [[os.open(file, os.O_RDONLY) for file in files] for files in models]
            target = os.open(targets[min(t, len(targets) - 1)], os.O_WRONLY | os.O_CREAT, 0o644)
            shift = bounds[t] if variant.files == "each" else 0
            if variant.allocate and hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(target, bounds[t] - shift, bounds[t + 1] - bounds[t])
            _copy_part(handles, sizes, (bounds[t], bounds[t + 1]), target, shift, memoryview(buffers[t]), variant)
            os.fsync(target)
            for handle in [target, *(handle for files in handles for handle in files)]:
                os.close(handle)
        except BaseException as error:
            failed.append(error)

    started = time.perf_counter()
    workers = [threading.Thread(target=work, args=(t,)) for t in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    _sync_folder(out)
    seconds = time.perf_counter() - started
    if failed:
        raise failed[0]
    assert sum(target.stat().st_size for target in targets) == total
    return seconds


def _copy_part(
    handles: list[list[int]],
    sizes: list[int],
    part: tuple[int, int],
    target: int,
    shift: int,
    buffer: memoryview,
    variant: Variant,
) -> None:
    begun = part[0]
    for file, offset, at, count in _pieces(sizes, part, variant.block):
        piece = buffer[:count]
        for model in handles:
            if os.preadv(model[file], [piece], offset) != count:
                raise OSError("short read")
        if os.pwrite(target, piece, at - shift) != count:
            raise OSError("short write")
        if variant.flush == "early" and at + count - begun >= _EARLY:
            _begin_writing(target, begun - shift, at + count - begun)
            begun = at + count


def _pieces(sizes: list[int], part: tuple[int, int], block: int) -> Iterator[tuple[int, int, int, int]]:
    """A part of the files laid end to end: file, offset in it, place in all, bytes; cut at multiples of the block."""
    start = 0
    for file, size in enumerate(sizes):
        at, end = max(part[0], start), min(part[1], start + size)
        while at < end:
            offset = at - start
            count = min(end - at, block - offset % block)
            yield file, offset, at, count
            at += count
        start += size


def _begin_writing(handle: int, offset: int, count: int) -> None:
    """Ask for it and do not wait; where the system has no such call, nothing happens."""
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call(handle, ctypes.c_int64(offset), ctypes.c_int64(count), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def main() -> None:
    """Copy once and print seconds and variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--block", type=int, default=Variant.block)
    parser.add_argument("--flush", choices=("end", "early"), default=Variant.flush)
    parser.add_argument("--files", choices=("one", "each"), default=Variant.files)
    parser.add_argument("--no-allocate", dest="allocate", action="store_false")
    args = parser.parse_args()
    variant = Variant(args.block, args.flush, args.allocate, args.files)
    args.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"seconds": copy(args.inputs, args.out, variant, args.threads), **asdict(variant)}))


def command(python: str, inputs: list[Path], out: Path, variant: Variant, threads: int) -> list[str]:
    """What runs this variant in a process of its own."""
    given = ["--block", str(variant.block), "--flush", variant.flush, "--files", variant.files]
    allocate = [] if variant.allocate else ["--no-allocate"]
    asked = ["--inputs", *map(str, inputs), "--out", str(out), "--threads", str(threads)]
    return [python, "-m", "benchmarks.floor", *asked, *given, *allocate]


if __name__ == "__main__":
    main()
