"""Runs: what was answered is never asked again, and what has changed is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelwright.errors import InputError, RunError
from modelwright.evaluate import (
    METRICS,
    Classification,
    FunctionPredictor,
    Items,
    Plan,
    Predictor,
    Records,
    Regression,
    Splits,
    run,
)  # fmt: skip
from modelwright.evaluate._records import table_of, write_part
from modelwright.predictions import function_hash

N = 50


def items(n: int = N, *, seed: int = 0, order: Any = None, slices: bool = False) -> Items:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 2)), rng.integers(0, 2, n)
    whole = Items.of(x, y, [f"item {i}" for i in range(n)], {"side": [f"{v}" for v in y]} if slices else None)
    return whole if order is None else whole.take(order)


def task(data: Items | None = None, **said: Any) -> Classification:
    splits = Splits({"test": data or items()})
    return Classification(
        **{"name": "sides", "splits": splits, "metric": METRICS["accuracy"], "names": ("no", "yes"), **said}
    )


class Asked:
    """A function that notes what it was asked, and breaks where it is told to."""

    def __init__(self, breaks_after: int | None = None):
        self.inputs: list[float] = []
        self.breaks_after = breaks_after

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.breaks_after is not None and len(self.inputs) >= self.breaks_after:
            raise ValueError("out of paper")
        self.inputs += x[:, 0].tolist()
        p = 1 / (1 + np.exp(-x[:, 0]))
        return np.stack([1 - p, p], axis=1)


def system(function: Any, label: str = "s", **said: Any) -> FunctionPredictor:
    return FunctionPredictor(label, function=function, **said)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_run_asks_each_item_once_and_scores_it() -> None:
    asked = Asked()
    data = items(slices=True)
    found = run([system(asked)], [task(data)], plan=Plan(batch=7)).part("sides", "s")
    assert asked.inputs == data.inputs[:, 0].tolist()
    right = (data.inputs[:, 0] > 0).astype(int) == data.targets
    assert found.column("score").tolist() == right.astype(float).tolist()
    assert found.figure == right.mean()
    assert found.ids == list(data.ids)
    assert found.slices()["side"].tolist() == data.slices["side"]
    assert found.column("answer").tolist() == ["yes" if x > 0 else "no" for x in data.inputs[:, 0]]
    np.testing.assert_allclose(found.column("confidence"), found.probabilities.max(1), rtol=1e-6)
    assert found.head.made["modelwright"]


def test_a_regression() -> None:
    data = Items.of(np.arange(5.0)[:, None], np.arange(5.0) + 1)
    asked = Regression(name="plus", splits=Splits({"test": data}), metric=METRICS["squared_error"])
    found = run([system(lambda x: x[:, 0])], [asked]).part("plus", "s")
    assert found.figure == 1.0
    assert found.column("answer").tolist() == ["0.0", "1.0", "2.0", "3.0", "4.0"]


def test_what_a_system_says_of_itself_is_recorded() -> None:
    found = run([system(Asked(), made={"kind": "merge", "seconds": 2.5})], [task()], plan=Plan(device="cuda:0"))
    head = found.part("sides", "s").head
    assert head.made["kind"] == "merge"
    assert head.made["seconds"] == 2.5
    assert (head.device, head.limit, head.classes) == ("cuda:0", None, ("no", "yes"))


# --- resuming --------------------------------------------------------------------------------------------------------


def test_what_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    broken = Asked(breaks_after=20)
    with pytest.raises(
        RunError, match=r"'s' fails on 'sides', at one of the items 'item 20' .. 'item 29': ValueError: out of paper"
    ):
        run([system(broken)], [task()], tmp_path, Plan(batch=10))
    assert not list(tmp_path.rglob("*.parquet"))
    again = Asked()
    told: list[tuple[int, int]] = []
    plan = Plan(batch=8, progress=lambda system, task, done, total: told.append((done, total)))
    found = run([system(again)], [task()], tmp_path, plan)
    assert Counter(broken.inputs + again.inputs) == Counter(items().inputs[:, 0].tolist())
    assert told[0] == (28, N)
    assert told[-1] == (N, N)
    assert files(tmp_path) == ["sides/s.test.parquet"]
    straight = run([system(Asked())], [task()])
    for name in ("item", "score", "answer", "probabilities"):
        assert found.part("sides", "s").table[name].equals(straight.part("sides", "s").table[name]), name


def test_what_is_done_is_not_asked_again(tmp_path: Path) -> None:
    run([system(Asked())], [task()], tmp_path)
    before = (tmp_path / "sides" / "s.test.parquet").stat()
    asked = Asked()
    other = Asked()
    found = run([system(asked), system(other, "u")], [task()], tmp_path)
    assert asked.inputs == []
    assert len(other.inputs) == N
    assert found.systems == ["s", "u"]
    assert (tmp_path / "sides" / "s.test.parquet").stat().st_mtime_ns == before.st_mtime_ns


def test_restart_asks_again(tmp_path: Path) -> None:
    run([system(Asked())], [task()], tmp_path)
    asked = Asked()
    run([system(asked)], [task()], tmp_path, Plan(restart=True))
    assert len(asked.inputs) == N
    with pytest.raises(RunError, match="out of paper"):
        run([system(Asked(breaks_after=16))], [task()], tmp_path, Plan(batch=16, restart=True))
    asked = Asked()
    run([system(asked)], [task()], tmp_path, Plan(restart=True))  # neither are the parts of the broken one left
    assert len(asked.inputs) == N


# --- functions -------------------------------------------------------------------------------------------------------


def rising(at: float, unit: Any = None) -> Any:
    """A function with its threshold in a closure, and something beside that nobody can hash."""

    def answer(x: np.ndarray) -> np.ndarray:
        assert unit is None or unit
        return np.stack([x[:, 0] <= at, x[:, 0] > at], axis=1).astype(float)

    return answer


def test_a_function_that_has_changed_is_another_system(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same line of code with another number in its closure."""
    run([system(rising(0.0))], [task()], tmp_path)
    run([system(rising(0.0))], [task()], tmp_path)
    assert caplog.messages == []
    with pytest.raises(InputError, match=r"records of 's' on 'sides', and the system has changed since"):
        run([system(rising(0.5))], [task()], tmp_path)
    run([system(rising(0.5))], [task()], tmp_path, Plan(restart=True))
    with pytest.raises(InputError, match="the system has changed since"):
        run([system(rising(0.5), outputs="logits")], [task()], tmp_path)


def test_what_cannot_be_told_of_a_function_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A list may hold anything by the next run; its answers are gone on with, and a warning names it."""
    run([system(rising(0.0, [1]))], [task()], tmp_path)
    assert caplog.messages == []  # there is nothing to go on with yet
    run([system(rising(0.0, [2]))], [task()], tmp_path)
    assert caplog.messages == [
        "'s' on 'sides': 50 answers are those of an earlier run, and whether 'unit' has changed since cannot be told. "
        "To ask again: --restart, or restart=True."
    ]
    notes: list[str] = []
    run([system(Asked())], [task()], tmp_path / "other", Plan(note=notes.append))
    run([system(Asked())], [task()], tmp_path / "other", Plan(note=notes.append))
    assert len(notes) == 1
    assert "whether 'Asked' has changed since" in notes[0]


def test_records_of_a_system_without_a_fingerprint(tmp_path: Path) -> None:
    """Such as of a predictor of one's own, or records that an earlier version wrote of a function."""

    class Mine(Predictor):
        def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
            return rising(0.0)(inputs)

    notes: list[str] = []
    plan = Plan(note=notes.append)
    run([Mine("s")], [task()], tmp_path, plan)
    run([Mine("s")], [task()], tmp_path, plan)
    run([system(rising(0.0))], [task()], tmp_path, plan)
    assert len(notes) == 2
    assert all("whether it has changed since cannot be told" in note for note in notes)


SCALE, ROWS = 2.0, [1, 2]


def scaled(x: float) -> float:
    return SCALE * x


@pytest.mark.parametrize(
    ("function", "unknown"),
    [
        (rising(1.0), ()),
        (lambda x: [scaled(one) for one in x], ()),
        (lambda x: x[ROWS], ("ROWS",)),
        (lambda x: [x[i] for i in range(3) if i in ROWS], ("ROWS",)),
        (partial(scaled), ()),
        (partial(scaled, [1]), ("argument 0",)),
        (Counter().get, ("get",)),
        (np.log1p, ()),
        (len, ()),
    ],
)
def test_what_is_seen_of_a_function(function: Any, unknown: tuple[str, ...]) -> None:
    first = function_hash(function)
    assert first[1] == unknown
    assert function_hash(function) == first


def test_variables_and_functions_around_a_function_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def direct(x: float) -> float:
        return SCALE * x

    def through(x: float) -> float:
        return scaled(x)

    before = [function_hash(f)[0] for f in (direct, through)]
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    after = [function_hash(f)[0] for f in (direct, through)]
    assert not set(before) & set(after)


def test_a_function_without_a_file_is_known_by_its_bytecode() -> None:
    def made(text: str) -> Any:
        found: dict[str, Any] = {}
        exec(text, found)
        return found["f"]

    plus, same, minus = made("def f(x): return x + 1"), made("def f(x): return x + 1"), made("def f(x): return x - 1")
    inner, other = (made(f"def f(x): return [y {sign} 1 for y in x]") for sign in "+-")
    assert function_hash(plus) == function_hash(same)
    assert len({function_hash(f)[0] for f in (plus, minus, inner, other)}) == 4


def test_shuffled_data_are_the_same_data(tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(N)
    with pytest.raises(RunError, match="out of paper"):
        run([system(Asked(breaks_after=20))], [task()], tmp_path, Plan(batch=10))
    found = run([system(Asked())], [task(items(order=order))], tmp_path, Plan(batch=10)).part("sides", "s")
    assert found.ids == [f"item {i}" for i in order]
    straight = run([system(Asked())], [task()]).part("sides", "s")
    expected = dict(zip(straight.ids, straight.column("score"), strict=True))
    assert found.column("score").tolist() == [expected[name] for name in found.ids]
    assert task(items(order=order)).fingerprint("test") == task().fingerprint("test")


def torn(folder: Path) -> Path:
    """A run that was killed while it wrote: its last batch is cut off in the middle."""
    with pytest.raises(RunError, match="out of paper"):
        run([system(Asked(breaks_after=30))], [task()], folder, Plan(batch=10))
    (stream,) = folder.rglob("*.arrows")
    data = stream.read_bytes()
    stream.write_bytes(data[: int(len(data) * 0.8)])
    return stream


def test_a_batch_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    torn(tmp_path)
    asked = Asked()
    found = run([system(asked)], [task()], tmp_path, Plan(batch=10))
    assert len(asked.inputs) == 30  # 20 that nobody had asked, and the batch of 10
    assert (
        found.part("sides", "s")
        .table["score"]
        .equals(run([system(Asked())], [task()]).part("sides", "s").table["score"])
    )


@pytest.mark.parametrize("size", [0, 1, 7, 100])
def test_a_file_of_which_hardly_anything_was_written(tmp_path: Path, size: int) -> None:
    stream = torn(tmp_path)
    stream.write_bytes(stream.read_bytes()[:size])
    asked = Asked()
    run([system(asked)], [task()], tmp_path)
    assert len(asked.inputs) == N


def test_killed_between_writing_the_records_and_removing_the_parts(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="out of paper"):
        run([system(Asked(breaks_after=20))], [task()], tmp_path, Plan(batch=10))
    whole = run([system(Asked())], [task()]).part("sides", "s")
    write_part(whole, tmp_path / whole.head.file)
    asked = Asked()
    found = run([system(asked)], [task()], tmp_path)
    assert asked.inputs == []
    assert found.part("sides", "s").ids == list(items().ids)
    assert files(tmp_path) == ["sides/s.test.parquet"]


def test_a_finished_folder_may_be_one_that_cannot_be_written(tmp_path: Path) -> None:
    run([system(Asked())], [task()], tmp_path)
    (tmp_path / "sides").chmod(0o500)
    try:
        assert len(run([system(Asked())], [task()], tmp_path)) == 1
    finally:
        (tmp_path / "sides").chmod(0o700)


# --- what has changed since ------------------------------------------------------------------------------------------


def changed(data: Items, **columns: Any) -> Items:
    return replace(data, **columns)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: task(items().take(range(49))), "items are gone, such as item 49"),
        (
            lambda: task(changed(items(), targets=1 - items().targets)),
            "its items have the same ids, and other inputs, targets",
        ),
        (lambda: task(changed(items(), inputs=items().inputs + 1)), "its items have the same ids, and other inputs"),
        (
            lambda: task(items(slices=True)),
            "its items have the same ids, and other inputs, targets, slices or settings",
        ),
        (lambda: task(names=("yes", "no")), "its classes are others"),
        (lambda: task(metric=METRICS["brier"]), "its metric was accuracy and is brier"),
        (
            lambda: task(items(51)),
            "it has other items, inputs, targets, slices or settings",
        ),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_task_that_has_changed(tmp_path: Path, other: Any, said: str, finished: bool) -> None:
    before = Asked(breaks_after=None if finished else 49)
    with pytest.raises(RunError) if not finished else _nothing():
        run([system(before)], [task()], tmp_path, Plan(batch=1))
    kept = files(tmp_path)
    if not finished and "item" in said:
        said = "it has other items, inputs, targets, slices or settings"  # which cannot be told from a part of them
    with pytest.raises(
        InputError, match=f"there are records of 's' on 'sides', and the task has changed since: {said}"
    ):
        run([system(Asked())], [other()], tmp_path)
    assert files(tmp_path) == kept


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_a_system_that_has_changed(tmp_path: Path) -> None:
    run([system(Asked(), fingerprint="one")], [task()], tmp_path)
    with pytest.raises(
        InputError, match=r"the system has changed since. Use another label or another folder, or --restart"
    ):
        run([system(Asked(), fingerprint="two")], [task()], tmp_path)
    run([system(Asked(), fingerprint="two")], [task()], tmp_path, Plan(restart=True))


def test_limited_records_do_not_mix_with_whole_ones(tmp_path: Path) -> None:
    found = run([system(Asked())], [task()], tmp_path, Plan(limit=10)).part("sides", "s")
    assert (found.table.num_rows, found.head.limit) == (10, 10)
    with pytest.raises(
        InputError, match="there are records of 's' on 'sides' of 10 items, and now all items are asked"
    ):
        run([system(Asked())], [task()], tmp_path)
    with pytest.raises(InputError, match="of 10 items, and now 20 items are asked"):
        run([system(Asked())], [task()], tmp_path, Plan(limit=20))
    again = Asked()
    run([system(again)], [task(items(order=range(N - 1, -1, -1)))], tmp_path, Plan(limit=10))
    assert again.inputs == []
    assert run([system(Asked())], [task()], plan=Plan(limit=N)).part("sides", "s").head.limit is None


def test_records_with_items_that_the_task_has_not(tmp_path: Path) -> None:
    """Such as of a file that somebody changed by hand: the fingerprint is right and the rows are not."""
    whole = run([system(Asked())], [task()]).part("sides", "s")
    more = Items.of(np.zeros((1, 2)), np.array([0]), ["stranger"])
    row = table_of(whole.head, more, task().score(system(Asked()), more), 0.1)
    import pyarrow as pa

    write_part(replace(whole, table=pa.concat_tables([whole.table, row])), tmp_path / whole.head.file)
    with pytest.raises(InputError, match="the records of 's' hold items that 'sides' has not: stranger"):
        run([system(Asked())], [task()], tmp_path)


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_are_taken() -> None:
    with pytest.raises(InputError, match=r"two systems are called 's'. Give each a name of its own, as NAME=MODEL"):
        run([system(Asked()), system(Asked())], [task()])
    with pytest.raises(InputError, match="'Ties' and 'ties' differ only in case"):
        run([system(Asked(), "Ties"), system(Asked(), "ties")], [task()])
    with pytest.raises(InputError, match="two tasks are called 'sides'"):
        run([system(Asked())], [task(), task()])
    with pytest.raises(InputError, match="evaluation needs systems and tasks, got 0 and 1"):
        run([], [task()])


def test_the_data_are_looked_at_before_anybody_is_asked(tmp_path: Path) -> None:
    asked = Asked()
    wrong = task(changed(items(), targets=np.full(N, 2)), name="wrong")
    with pytest.raises(
        InputError, match=r"test: labels must be in \[0, 1\] for 2 classes, got 2 for item 'item 0'. \[task wrong\]"
    ):
        run([system(asked)], [task(), wrong], tmp_path)
    assert asked.inputs == []
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("said", "text"), [({"batch": 0}, "batch must be at least 1"), ({"limit": 0}, "limit must be at least 1")]
)
def test_plans_that_are_none(said: dict[str, int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Plan(**said)


# --- other processes -------------------------------------------------------------------------------------------------

#: A system that notes in a file which items it was asked, once it has answered them.
SLOW = """
import sys, time
import numpy as np
from modelwright.evaluate import METRICS, Classification, FunctionPredictor, Items, Plan, Splits, run

out, notes, pause = sys.argv[1], open(sys.argv[2], "a"), float(sys.argv[3])
data = Items.of(np.arange(200)[:, None], np.zeros(200, int))
task = Classification(name="t", splits=Splits({"test": data}), metric=METRICS["accuracy"], names=("a", "b"))

def answer(x):
    time.sleep(pause)
    return np.full((len(x), 2), 0.5)

def told(system, task, done, total):
    notes.write(f"{done}\\n")
    notes.flush()

class System(FunctionPredictor):
    def probabilities(self, inputs, classes):
        for i in inputs[:, 0]:
            notes.write(f"asked {i}\\n")
        notes.flush()
        return super().probabilities(inputs, classes)

print("asking", flush=True)
run([System("s", function=answer, fingerprint="whatever the pause")], [task], out, Plan(batch=4, progress=told))
"""


def asking(out: Path, notes: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(out), str(notes), str(pause)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "asking\n"
    return process


def wait_for(notes: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while not notes.exists() or len(notes.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, "it does not get on"
        time.sleep(0.005)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_asks_no_item_twice(tmp_path: Path, how: signal.Signals) -> None:
    notes = tmp_path / "notes"
    process = asking(tmp_path / "out", notes, 0.02)
    wait_for(notes, 30)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == -how
    again = asking(tmp_path / "out", notes, 0)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    lines = notes.read_text().splitlines()
    asked = Counter(line for line in lines if line.startswith("asked"))
    assert len(asked) == 200
    twice = [line for line, count in asked.items() if count > 1]
    assert len(twice) <= 4  # the batch that was being answered when it was killed
    found = Records.read(tmp_path / "out").part("t", "s")
    assert found.ids == [str(i) for i in range(200)]
    assert files(tmp_path / "out") == ["t/s.test.parquet"]


def test_two_processes_do_not_write_the_same_records(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    process = asking(tmp_path / "out", notes, 2.0)
    try:
        wait_for(notes, 5)
        second = asking(tmp_path / "out", tmp_path / "others", 0)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "another process is asking 's' about 't'. Wait for it, or use another folder." in errors
        assert not (tmp_path / "others").read_text()
    finally:
        process.kill()
        process.communicate()


def test_evaluation_imports_nothing_heavy() -> None:
    code = "import sys, json, modelwright.evaluate; print(json.dumps([m for m in sys.argv[1:] if m in sys.modules]))"
    heavy = ["torch", "pyarrow", "sklearn", "scipy", "transformers", "PIL", "matplotlib", "datasets"]
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, env=os.environ
    )
    assert json.loads(done.stdout) == []
