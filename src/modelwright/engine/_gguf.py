"""Merging to a single GGUF file, computed tensor by tensor while it is written. It is there as a whole or not at all.

A GGUF file has no manifest beside it, and what a killed run wrote is not gone on with: such merges are of quantised models,
small beside what folders are made for.
"""

from __future__ import annotations

import time
from pathlib import Path

from modelwright.checkpoint import Checkpoint, is_url, plain_path, user_path, write_gguf
from modelwright.engine._identity import changed_inputs, check_as_opened, inputs
from modelwright.engine._manifest import loss_notes, losses
from modelwright.engine._run import SHARD_BYTES, Options, Result, check_device
from modelwright.errors import InputError, RunError
from modelwright.recipe import Plan


def execute_gguf(plan: Plan, merged: Checkpoint, out: str | Path, options: Options) -> Result:
    """Merge to a GGUF file.

    Args:
        plan: What to do.
        merged: Its result, computed when it is read.
        out: The file to make, `x.gguf`.
        options: How; `gguf` says as what matrices are stored.

    Raises:
        InputError: It cannot be done, before anything is written; or an input holds NaN.
        RunError: Reading or writing failed, an input changed meanwhile, or a result does not fit. Nothing is left behind.
    """
    started = time.time()
    path, donor = _place(out, options), _donor(plan)
    if any(path.resolve() == file.resolve() for model in plan.models for file in model.states):
        raise InputError(f"the output '{out}' is one of the inputs", "Choose another name.")
    check_device(options.device)
    check_as_opened(plan)
    before = {"inputs": inputs(plan)}

    def check() -> None:
        changed = changed_inputs(plan, before)
        if changed:
            raise RunError(f"'{changed}' changed while it was being merged, so the output is discarded. Merge again.")

    kind = options.gguf or "f16"
    errors = write_gguf(
        merged, path, kind, donor=donor, overwrite=options.overwrite, progress=options.progress, check=check
    )
    notes = [*plan.notes, *loss_notes(losses(plan))]
    if errors:
        worst = max(errors, key=lambda name: errors[name])
        notes.append(f"stored as {kind} with a relative error of at most {errors[worst]:.2%}, in '{worst}'")
    return Result(path, time.time() - started, plan.bytes_in, path.stat().st_size, tuple(notes))


def _place(out: str | Path, options: Options) -> Path:
    """The file to make; options that mean nothing for it are refused."""
    if is_url(str(out)):
        raise InputError(f"a GGUF file is written on this machine, and '{out}' is a URL", "Give a path, and copy it.")
    odd = {
        "--engine ray (engine='ray')": options.engine == "ray",
        "--hash blake3 (hash='blake3'), which goes into a manifest,": options.hash == "blake3",
        "--shard-size (shard_bytes=)": options.shard_bytes != SHARD_BYTES,
        "--staging (staging=)": options.staging is not None,
        "--allow-nonfinite (allow_nonfinite=True)": options.allow_nonfinite,
    }
    for what, given in odd.items():
        if given:
            raise InputError(f"{what} is not for outputs that are GGUF files", "Leave it out.")
    return user_path(plain_path(str(out)))


def _donor(plan: Plan) -> Path:
    """The file that architecture, tokenizer and all other metadata are copied from."""
    model = plan.models[plan.donor]
    files = [*model.states, *([model.path] if model.path is not None else [])]  # of one behind a URL, its copy
    found = next((file for file in files if file.suffix == ".gguf" and file.is_file()), None)
    if found is None:
        raise InputError(
            f"a GGUF file needs the metadata of one, and {model.label} is not from a GGUF file",
            "Merge GGUF files, or leave --gguf (gguf=) out and convert the folder with llama.cpp's own tool.",
        )
    return found
