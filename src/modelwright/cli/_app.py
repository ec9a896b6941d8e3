"""The commands and their options."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="mw",
    help="Build models out of models: merge checkpoints from a recipe, checked before a byte is read.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Set = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value or method parameter; repeatable."),
]
Plugin = Annotated[
    list[Path], typer.Option("--plugin", metavar="FILE.py", help="Python file that defines methods; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Base = Annotated[str | None, typer.Option("--base", metavar="MODEL", help="The model the others were tuned from.")]
MethodName = Annotated[
    str | None, typer.Option("--method", metavar="NAME", help="Merge these models with this method.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of random methods.  [default: 0]")]
Threads = Annotated[int, typer.Option("--threads", "-j", min=0, help="Threads that work; 0 for all cores.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output made by modelwright.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Discard what an interrupted run left, instead of going on with it.")
]
Retokenize = Annotated[
    bool,
    typer.Option(
        "--allow-retokenization", help="Accept a tokenizer that encodes texts otherwise than the base's does."
    ),
]
ShardSize = Annotated[str, typer.Option("--shard-size", help="Most bytes per weight file, as 5GB or 500MB.")]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Run code that a chat model writes, apart from everything and without a network."
    ),
]
AllowNetwork = Annotated[
    bool, typer.Option("--allow-network", help="With --allow-code: run it even where its network cannot be cut off.")
]
Inputs = Annotated[
    list[str], typer.Argument(metavar="RECIPE | MODEL..", help="A recipe file, or models with --method.")
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"modelwright {version('modelwright')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """The options of all commands; `run` looks for --debug itself."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.")] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of data splits and training.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Train, merge and compare small experts.

    Experts on scikit-learn's digits, merged with every method; offline, in well under a minute.
    """
    from modelwright.demo import run as run_demo

    run_demo(out, seed=seed, quiet=quiet)


@app.command()
def check(
    inputs: Inputs,
    method: MethodName = None,
    base: Base = None,
    sets: Set = [],  # noqa: B006  # typer copies it
    seed: Seed = None,
    threads: Threads = 0,
    retokenize: Retokenize = False,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a merge would do, or all that is wrong.

    Reads headers only. Takes the arguments of mw merge. Exit code 0, or 2 where the merge would be refused.
    """
    from modelwright.cli._merge import job_of, show_check

    job = job_of(inputs, method, base, sets, seed, plugin, retokenize)
    show_check(job, threads=threads, json=json, quiet=quiet)


@app.command()
def merge(
    inputs: Inputs,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER | URL", help="The folder to make.")],
    method: MethodName = None,
    base: Base = None,
    sets: Set = [],  # noqa: B006
    overwrite: Overwrite = False,
    restart: Restart = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Let NaN and infinity in the inputs pass, and say where they are.")
    ] = False,
    retokenize: Retokenize = False,
    seed: Seed = None,
    threads: Threads = 0,
    device: Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, mps, xpu.")] = "cpu",
    engine: Annotated[str, typer.Option("--engine", help="threads, or ray: tasks on a Ray cluster.")] = "threads",
    address: Annotated[
        str | None, typer.Option("--address", help="With --engine ray: a running cluster, or auto.")
    ] = None,
    shard_size: ShardSize = "5GB",
    staging: Annotated[
        Path | None, typer.Option("--staging", help="Where an output behind a URL is made before it is uploaded.")
    ] = None,
    hashing: Annotated[
        str, typer.Option("--hash", metavar="xxh3 | blake3", help="blake3 hashes whole files as well, for audits.")
    ] = "xxh3",
    gguf: Annotated[
        str | None,
        typer.Option("--gguf", metavar="f16 | bf16 | q8_0", help="Of GGUF files: write a single one, OUT.gguf."),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            metavar="R | energy:SHARE | error:SHARE",
            help="Of adapters: rank of the result.  [default: the sum]",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Of adapters: refuse a result that loses more than rounding.")
    ] = False,
    refer_base: Annotated[
        bool, typer.Option("--refer-base", help="Of bundles: say where the base is, with its hash, and do not copy it.")
    ] = False,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge models by a recipe or directly, or adapters.

    mw merge RECIPE -o OUT, or mw merge A B --method ties --base X --set density=0.5 -o OUT. Adapters of one base are merged into an
    adapter, by the same methods or by cat, svd, knots, lora_lego and mos.
    """
    from modelwright.cli._adapters import are_adapters, run_merge_adapters
    from modelwright.cli._merge import job_of, run_merge, size_of

    options: dict[str, Any] = {"overwrite": overwrite, "restart": restart, "threads": threads, "device": device}
    if are_adapters(inputs):
        del options["device"]
        run_merge_adapters(
            inputs, out, method, base, sets, rank, seed, plugin, options, exact=exact, json=json, quiet=quiet
        )  # fmt: skip
        return
    if rank is not None or exact:
        from modelwright.errors import InputError

        raise InputError("--rank and --exact are for merging adapters", "Leave them out.")
    job = job_of(inputs, method, base, sets, seed, plugin, retokenize)
    options |= {
        "allow_nonfinite": allow_nonfinite,
        "shard_bytes": size_of(shard_size),
        "staging": staging,
        "hash": hashing,
        "engine": engine,
        "address": address,
        "gguf": gguf,
        "refer_base": refer_base,
    }
    run_merge(job, out, options, json=json, quiet=quiet)


@app.command("eval")
def evaluate(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RECORDS", help="The folder of records.")],
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="X..", help="Model folders, recipes, panels, checkpoints, module:function; each also LABEL=X."
        ),
    ] = [],  # noqa: B006  # typer copies it
    tasks: Annotated[
        list[str],
        typer.Option("--task", metavar="T", help="A task file, data, or module:function; repeatable."),
    ] = [],  # noqa: B006
    split: Annotated[str, typer.Option("--split", help="Which items: tune, validation or test.")] = "test",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Ask only so many items, the same ones for every system.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Items at a time.")] = 64,
    device: Annotated[str, typer.Option("--device", help="Where models run: cpu, cuda, mps, xpu.")] = "cpu",
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="M:F", help="Function that builds the nn.Module of bare checkpoints."),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", metavar="M", help="Instead of the tasks' own.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Ask again what was answered, instead of going on.")
    ] = False,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="URL", help="Ask the model of an OpenAI-compatible server, such as vLLM."),
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="With --backend: which of its models.")] = "",
    api: Annotated[
        str, typer.Option("--api", help="With --backend: chat, or completions, which choice tasks take anyway.")
    ] = "chat",
    score: Annotated[
        str | None,
        typer.Option("--score", metavar="CMD", help="Instead of tasks: a command with {model} in it that prints JSON."),
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="With --score: of figures whose names do not say so.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="MONEY", help="With panels of chat models: each spends no more."),
    ] = None,
    allow_code: AllowCode = False,
    allow_network: AllowNetwork = False,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask models about tasks.

    Writes paired records, one row for each model and item. Run again, it goes on where it was: what was answered is not asked again.
    """
    from modelwright.cli._eval import Asking, run_eval

    options = Asking(
        out, split, limit, batch, device, network, metric, restart, plugin,
        backend=backend, model=model, api=api, score=score, lower_is_better=lower_is_better, budget=budget,
        allow_code=allow_code, allow_network=allow_network,
    )  # fmt: skip
    run_eval(references, tasks, options, json=json, quiet=quiet)


@app.command()
def ensemble(
    members: Annotated[
        list[str],
        typer.Argument(metavar="A B ..", help="Model folders, recipes, checkpoints, .onnx, .skops; each also NAME=X."),
    ],
    task: Annotated[str, typer.Option("--task", metavar="T", help="What it is fitted to; as for mw eval.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="BUNDLE", help="The folder to make.")],
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="mean, greedy, stacking, majority_vote, ...")
    ] = "mean",
    sets: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the method; repeatable.")
    ] = [],  # noqa: B006
    calibrate: Annotated[
        str | None, typer.Option("--calibrate", metavar="NAME", help="Make confidence true: temperature, isotonic, ...")
    ] = None,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Ask them in this order, each only where those before were not sure.")
    ] = False,
    risk: Annotated[
        float | None,
        typer.Option("--risk", help="With --cascade: the share of wrong answers to aim at.  [default: 0.1]"),
    ] = None,
    coverage: Annotated[
        float | None, typer.Option("--coverage", help="With --cascade, instead: the share of items to answer.")
    ] = None,
    width: Annotated[
        float | None, typer.Option("--width", help="With --cascade: share of items around the threshold that go on.")
    ] = None,
    most_cost: Annotated[
        float | None, typer.Option("--most-cost", help="With --cascade, instead of --width: what an item may cost.")
    ] = None,
    unit: Annotated[
        str, typer.Option("--unit", metavar="milliseconds | answers", help="With --cascade: how costs are counted.")
    ] = "milliseconds",
    split: Annotated[str, typer.Option("--split", help="Fit on validation, or on tune.")] = "validation",
    refer: Annotated[
        bool, typer.Option("--refer", help="Say where members are, with their hashes, and do not copy them.")
    ] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Items at a time.")] = 64,
    device: Annotated[str, typer.Option("--device", help="Where models run: cpu, cuda, mps, xpu.")] = "cpu",
    network: Annotated[
        str | None, typer.Option("--network", metavar="M:F", help="Builds the nn.Module of bare checkpoints.")
    ] = None,
    overwrite: Overwrite = False,
    restart: Restart = False,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Combine the answers of several models.

    Fits what combines them, on validation items and never on test, and writes a bundle that mw eval, mw compare and mw predict take
    like a model.
    """
    from modelwright.cli._ensemble import run_ensemble

    said = {
        "method": method, "sets": sets, "calibrate": calibrate, "cascade": cascade, "risk": risk, "coverage": coverage,
        "width": width, "most_cost": most_cost, "unit": unit, "split": split, "batch": batch, "device": device,
        "network": network, "plugins": plugin,
    }  # fmt: skip
    how = {"refer": refer, "overwrite": overwrite, "restart": restart}
    run_ensemble(members, task, out, said, how, json=json, quiet=quiet)


@app.command()
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="X.. DATA", help="Systems as for mw eval, and last the data: a task, or a file."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="A .parquet or .safetensors file of predictions.")
    ],
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="T", help="What data without labels are like: classes, columns, preprocessing."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="A,B,..", help="Instead: the classes, in the order of outputs.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of a task: which items.")] = "test",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Items at a time.")] = 64,
    device: Annotated[str, typer.Option("--device", help="Where models run: cpu, cuda, mps, xpu.")] = "cpu",
    network: Annotated[
        str | None, typer.Option("--network", metavar="M:F", help="Builds the nn.Module of bare checkpoints.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write down what models say of data.

    Probabilities of classes or values, one member for each model, with ids, and labels where they are known.
    """
    from modelwright.cli._predict import run_predict

    said = {"task": task, "classes": classes, "split": split, "batch": batch, "device": device, "network": network}
    run_predict(inputs, out, said | {"plugins": plugin}, overwrite=overwrite, json=json, quiet=quiet)


@app.command()
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The output of a merge: a folder, or its URL.")],
    rerun: Annotated[bool, typer.Option("--rerun", help="Merge again, writing nothing, and compare.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Where the recipe's relative paths start.  [default: as then]"),
    ] = None,
    threads: Threads = 0,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check an output against its manifest.

    Reads every byte. Exit code 0, or 3 where anything differs.
    """
    from modelwright.cli._verify import run_verify

    run_verify(out, {"rerun": rerun, "folder": folder, "threads": threads, "plugins": plugin}, json=json, quiet=quiet)


@app.command()
def card(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The output of a merge.")],
    records: Annotated[
        Path | None, typer.Option("--records", metavar="FOLDER", help="Show the figures of these records of mw eval.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="LABEL", help="Which of their systems it is.  [default: the folder's name]"),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--licence", metavar="ID", help="The licence that you have decided on, by the Hub's id."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="With --licence: why.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Take README.md as it is, edited by hand.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write it though it was edited by hand.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write an output's model card anew.

    With the figures of records, with a licence that you decided on, or as you edited it; the manifest follows.
    """
    from modelwright.cli._push import run_card

    options = {"records": records, "system": system, "licence": licence, "reason": reason}
    run_card(out, options | {"keep": keep, "overwrite": overwrite}, json=json, quiet=quiet)


@app.command()
def push(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The output of a merge.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the Hub, or name for one of your own.")],
    branch: Annotated[
        str, typer.Option("--branch", "--revision", metavar="NAME", help="Which branch; made if need be.")
    ] = "main",
    private: Annotated[
        bool, typer.Option("--private", help="If the repository has to be made, make it private.")
    ] = False,
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Of the commit.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace files there without being asked.")] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Send files without comparing them with the manifest first.")
    ] = False,
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send an output to the Hugging Face Hub.

    In one commit, with its model card. The token is what hf auth login keeps, or HF_TOKEN. Exit code 3 where the output is not
    as its manifest says.
    """
    from modelwright.cli._push import run_push

    options = {"branch": branch, "private": private, "message": message, "dry_run": dry_run, "yes": yes}
    run_push(out, repo, options | {"verify": not no_verify, "threads": threads}, json=json, quiet=quiet)


@app.command()
def compare(
    inputs: Annotated[
        list[str], typer.Argument(metavar="RECORDS.. | MODEL..", help="Folders of records, or models with --task.")
    ],
    task: Annotated[
        list[str], typer.Option("--task", metavar="TASK", help="Evaluate the models on this first; repeatable.")
    ] = [],  # noqa: B006
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="SYSTEM", help="What to compare with.  [default: the best single]"),
    ] = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Add the ensemble of the single models.")] = False,
    member: Annotated[
        list[str], typer.Option("--member", metavar="SYSTEM", help="Add the ensemble of these; repeatable.")
    ] = [],  # noqa: B006
    members: Annotated[
        bool, typer.Option("--members", help="With --task: add the members of bundles of models, each alone.")
    ] = False,
    space: Annotated[
        str, typer.Option("--space", metavar="probabilities | logits", help="Where the ensemble averages.")
    ] = "probabilities",
    kind: Annotated[
        list[str],
        typer.Option("--kind", metavar="SYSTEM=KIND", help="single, merge, ensemble, base or other; repeatable."),
    ] = [],  # noqa: B006
    expert: Annotated[
        list[str], typer.Option("--expert", metavar="TASK=SYSTEM", help="By whom to normalise a task; repeatable.")
    ] = [],  # noqa: B006
    prices: Annotated[Path | None, typer.Option("--prices", metavar="FILE.yml", help="What asking costs.")] = None,
    gate: Annotated[
        Path | None, typer.Option("--gate", metavar="FILE.yml", help="What must hold; exit code 3 where it does not.")
    ] = None,
    latex: Annotated[Path | None, typer.Option("--latex", metavar="FILE", help="Write a table for a paper.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a row a system and task.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page that opens offline.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write what the gate found.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of resamples.")] = 0,
    level: Annotated[float, typer.Option("--level", help="Coverage of intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option("--resamples", help="How often items are drawn anew.")] = 2000,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="With --task: where to keep the records.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="With --task: which items.")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="With --task: only so many items.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="With --task: items at a time.")] = 64,
    device: Annotated[str, typer.Option("--device", help="With --task: where models run.")] = "cpu",
    network: Annotated[
        str | None, typer.Option("--network", metavar="M:F", help="With --task: builds the modules of checkpoints.")
    ] = None,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Best single, merge, or ensemble?

    One table with intervals, paired tests and costs, and one sentence; from records, or from models with --task.
    """
    from modelwright.cli._compare import Comparing, run_compare

    asking = {"out": out, "split": split, "limit": limit, "batch": batch, "device": device, "network": network}
    asking["plugins"] = plugin
    if members:
        from modelwright.cli._compare import with_members

        inputs = with_members(inputs, task)
    options = Comparing(
        task,
        reference,
        ensemble,
        member,
        space,
        kind,
        expert,
        prices,
        gate,
        latex,
        csv,
        html,
        junit,
        seed,
        level,
        resamples,
        asking,
    )
    run_compare(inputs, options, json=json, quiet=quiet)


@app.command()
def diff(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A [B..]", help="Models; without --base the first is what the others are compared with."
        ),
    ],
    base: Base = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor instead of layers and kinds.")] = False,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Only so many rows, those of the largest relative norm first.")
    ] = None,
    spectrum: Annotated[
        bool,
        typer.Option("--spectrum/--no-spectrum", help="Ranks of matrices; without them it is a matter of reading."),
    ] = True,
    threads: Threads = 0,
    json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write all figures; - for stdout.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page of heat maps that opens offline.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Show how models differ from a base and each other.

    Of the whole, of each layer and of each kind of tensor: relative norms, zeros and ranks of task vectors, cosines and sign
    conflicts between them.
    """
    from modelwright.cli._diff import Showing, run_diff

    run_diff(models, base, Showing(tensors, top, json, html, quiet), spectra=spectrum, threads=threads)


@app.command()
def inspect(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL | ADAPTER..",
            help="A folder, file, Hub id, URL, adapter, model+adapter, or bundle; or several adapters.",
        ),
    ],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor instead of layers and kinds.")] = False,
    json: Json = False,
) -> None:
    """Show what a model is and what it was made from.

    Parameters by layer and kind, shapes, formats, tied weights, vocabulary, licence, and the lineage that manifests tell; of
    adapters rank, effective rank, alpha, targets and norms, and of several what they have in common. Reads headers, and little more.
    """
    from modelwright.cli._inspect import run_inspect

    run_inspect(models, tensors=tensors, json=json)


@app.command()
def convert(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="MODEL | PART..", help="A model, or folders and files that are the parts of one."),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER | URL", help="The folder to make.")],
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Format of the weights: float32, float16, bfloat16 or float64.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers", metavar="A-B,..", help="Which layers in which order, from 0, ends included: 0-15,8-23."
        ),
    ] = None,
    rename: Annotated[
        list[str],
        typer.Option("--rename", metavar="PATTERN=NAME", help="Rename tensors; each * is carried over; repeatable."),
    ] = [],  # noqa: B006
    quantise: Annotated[
        str | None,
        typer.Option(
            "--quantise",
            metavar="FORM",
            help="fp8-block, fp8-channel, fp8-tensor; gguf:TYPE by llama.cpp, llm-compressor:SCHEME by that, where installed.",
        ),
    ] = None,
    float8: Annotated[str, typer.Option("--float8", metavar="e4m3 | e5m2", help="Of fp8-*: which float8.")] = "e4m3",
    keep: Annotated[
        list[str],
        typer.Option("--keep", metavar="PATTERN", help="Of fp8-*: tensors that stay as they are; repeatable."),
    ] = [],  # noqa: B006
    shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    restart: Restart = False,
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model in another form.

    As safetensors, in another format, in other shards, with other layers or other names, or quantised; streamed, checked and
    resumable like a merge.
    """
    from modelwright.cli._convert import run_convert
    from modelwright.cli._merge import size_of

    options = {"shard_bytes": size_of(shard_size), "overwrite": overwrite, "restart": restart, "threads": threads}
    settings = {"dtype": dtype, "layers": layers, "quantise": quantise, "float8": float8, "keep": keep}
    run_convert(inputs, out, settings, rename, options, json=json, quiet=quiet)


@app.command()
def extract(
    source: Annotated[str, typer.Argument(metavar="TUNED | BUNDLE", help="A fine-tune, or a bundle with --task.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER | URL", help="The folder to make.")],
    base: Annotated[str | None, typer.Option("--base", metavar="MODEL", help="What it was tuned from.")] = None,
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            metavar="NAME[=WEIGHT]",
            help="Of a bundle: whose model to write; with weights several, repeatable.",
        ),
    ] = [],  # noqa: B006
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            metavar="R | energy:SHARE | error:SHARE",
            help="Store matrices as factors of this rank, or of the least that reaches a target; not exact, the error is printed.",
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Store task vectors in 8 bits an entry; not exact, the error is printed.")
    ] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="With --rank: write a LoRA that peft loads, instead of a delta.")
    ] = False,
    save: Annotated[
        list[str], typer.Option("--save", metavar="NAME", help="With --adapter: modules to store whole; repeatable.")
    ] = [],  # noqa: B006
    skip: Annotated[
        list[str], typer.Option("--skip", metavar="NAME", help="With --adapter: tensors to leave out; repeatable.")
    ] = [],  # noqa: B006
    small: Annotated[
        bool, typer.Option("--small/--no-small", help="With --adapter: store norms and biases that changed whole.")
    ] = True,
    exact: Annotated[bool, typer.Option("--exact", help="Refuse what is not exact: --rank and --int8.")] = False,
    shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    restart: Restart = False,
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Store what a fine-tune changed, or write a bundle's model.

    With --base exact to the bit: what did not change is left out, and of the rest the smaller of changed entries and all bits is
    stored; mw apply brings it back. With --adapter a LoRA of a rank. With --task the model that the bundle has for that task.
    """
    from modelwright.cli._delta import run_extract
    from modelwright.cli._merge import size_of

    options = {"shard_bytes": size_of(shard_size), "overwrite": overwrite, "restart": restart, "threads": threads}
    if task:
        from modelwright.cli._bundle import run_task

        run_task(source, task, out, {"base": base, "rank": rank, "int8": int8 or None}, options, json=json, quiet=quiet)
        return
    if adapter:
        from modelwright.cli._adapters import run_extract_adapter

        run_extract_adapter(
            source, base, out, rank, options, save=save, skip=skip, small=small, exact=exact, json=json, quiet=quiet
        )  # fmt: skip
        return
    if save or skip or not small:
        from modelwright.errors import InputError

        raise InputError("--save, --skip and --no-small go with --adapter", "A delta stores every tensor.")
    run_extract(source, base, out, {"rank": rank, "int8": int8}, options, exact=exact, json=json, quiet=quiet)


@app.command()
def apply(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that the delta was made from.")],
    deltas: Annotated[
        list[str], typer.Argument(metavar="DELTA | ADAPTER..", help="What mw extract has written, or adapters.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER | URL", help="The folder to make.")],
    exact: Annotated[bool, typer.Option("--exact", help="Refuse a delta that is not exact.")] = False,
    shard_size: ShardSize = "5GB",
    overwrite: Overwrite = False,
    restart: Restart = False,
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring back a fine-tune from its delta, or bake adapters in.

    With a delta every tensor of the base is checked to be what it was, and every exact one to come out as it was. What several
    adapters add is added up.
    """
    from modelwright.cli._adapters import are_adapters, run_apply_adapters
    from modelwright.cli._delta import run_apply
    from modelwright.cli._merge import size_of
    from modelwright.errors import InputError

    options = {"shard_bytes": size_of(shard_size), "overwrite": overwrite, "restart": restart, "threads": threads}
    if are_adapters(deltas):
        run_apply_adapters(base, deltas, out, options, json=json, quiet=quiet)
        return
    if len(deltas) > 1:
        raise InputError(f"a fine-tune comes of one delta, got {len(deltas)}", "Only adapters add up.")
    run_apply(base, deltas[0], out, options, exact=exact, json=json, quiet=quiet)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind", metavar="KIND", help="merging, ensembling or calibration only; or program: what chat panels do."
        ),
    ] = None,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
    cite: Annotated[bool, typer.Option("--cite", help="Print BibTeX entries.")] = False,
) -> None:
    """List the methods on weights and on outputs, or show one."""
    from modelwright.cli._methods import show_methods

    show_methods(name, plugin, kind, json=json, cite=cite)


@app.command()
def chat(
    panel: Annotated[Path, typer.Argument(metavar="PANEL.yml", help="Backends, agents, a program and a budget.")],
    question: Annotated[
        str | None,
        typer.Argument(metavar="QUESTION", help="A text, or - for standard input.  [default: show the panel]"),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="MONEY", help="Spend no more, instead of what the panel says.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="FILE", help="Where replies are kept, instead of the panel's.")
    ] = None,
    transcript: Annotated[
        Path | None, typer.Option("--transcript", metavar="FILE.jsonl", help="Write down all that is said.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE.jsonl", help="Answer from a transcript, asking nobody.")
    ] = None,
    allow_code: AllowCode = False,
    allow_network: AllowNetwork = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer and nothing else.")] = False,
) -> None:
    """Put a question to several chat models.

    Prints one answer, the votes, and what it cost. Replies that were paid for once are kept and not asked for again.
    """
    from modelwright.cli._chat import run_chat
    from modelwright.cli._programs import sandbox

    run_chat(
        panel, question, budget=budget, cache=cache, transcript=transcript, replay=replay, json=json, quiet=quiet,
        code=sandbox(allow_code=allow_code, allow_network=allow_network),
    )  # fmt: skip


@app.command()
def serve(
    panels: Annotated[
        list[str],
        typer.Argument(
            metavar="PANEL.yml | MODEL..", help="Panels, and models or bundles that predict; each also NAME=X."
        ),
    ],
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; the default is for programs on this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Which port; 0 takes a free one.")] = 8000,
    key_variable: Annotated[
        str | None,
        typer.Option(
            "--key-variable", metavar="NAME", help="Environment variable with the key that clients must send."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", help="Most requests answered at a time.")] = 64,
    queue: Annotated[int, typer.Option("--queue", help="Most requests that wait; one more is refused with 429.")] = 256,
    quorum: Annotated[
        int | None,
        typer.Option(
            "--quorum", metavar="N", help="Go on with N replies when backends fail, instead of what panels say."
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="MONEY", help="Each panel spends no more while it is served.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="FILE", help="Where replies are kept, instead of the panels' files."),
    ] = None,
    transcript: Annotated[
        Path | None, typer.Option("--transcript", metavar="FILE.jsonl", help="Write down all that is said.")
    ] = None,
    keep: Annotated[int, typer.Option("--keep", help="How many requests the page shows.")] = 200,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", help="What requests under way get when it is told to stop.")
    ] = 30.0,
    task: Annotated[
        str | None, typer.Option("--task", metavar="T", help="With models: the task that says what inputs are like.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="A,B..", help="With models, without a task: names of their classes."),
    ] = None,
    allow_code: AllowCode = False,
    allow_network: AllowNetwork = False,
    quiet: Quiet = False,
) -> None:
    """Serve ensembles of chat models as models.

    Speaks OpenAI's protocol: /v1/chat/completions, /v1/models; a page of recent requests at /, Prometheus figures at /metrics.
    """
    from modelwright.cli._programs import sandbox
    from modelwright.cli._serve import Serving, run_serve
    from modelwright.serve import Address

    served = {
        "concurrency": concurrency, "queue": queue, "quorum": quorum, "budget": budget, "transcript": transcript,
        "keep": keep,
    }  # fmt: skip
    names = [] if classes is None else [name.strip() for name in classes.split(",")]
    code = sandbox(allow_code=allow_code, allow_network=allow_network)
    run_serve(panels, Serving(Address(host, port, key_variable), grace, cache, served, task, names, code), quiet=quiet)


study = typer.Typer(help="Put published claims to the test.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(study, name="study")
StudyPlugin = Annotated[
    list[Path], typer.Option("--plugin", metavar="FILE.py", help="Python file that defines studies; repeatable.")
]


@study.command("list")
def study_list(
    plugin: StudyPlugin = [],  # noqa: B006
    json: Json = False,
) -> None:
    """List the studies with their papers and claims."""
    from modelwright.cli._study import list_studies

    list_studies(plugin, json=json)


@study.command("run")
def study_run(
    name: Annotated[str, typer.Argument(metavar="ID", help="Which study; see mw study list.")],
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="How many repetitions.  [default: the study's own]")
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", metavar="smoke | full", help="smoke: seconds, to see that it runs.")
    ] = "full",
    json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write figures; - for stdout.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots.")] = None,
    require: Annotated[
        str | None, typer.Option("--require", metavar="VERDICT", help="Exit with 3 unless this is the verdict.")
    ] = None,
    plugin: StudyPlugin = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Run a study: its claim, what was measured, and a verdict.

    Exit code 0 whichever the verdict is.
    """
    from modelwright.cli._study import run_study

    run_study(name, plugin, seeds=seeds, budget=budget, json=json, html=html, require=require, quiet=quiet)


tokenizer = typer.Typer(
    help="Compare tokenizers, and give a model another one.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(tokenizer, name="tokenizer")


@tokenizer.command("diff")
def tokenizer_diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A model, a folder, or a tokenizer.json.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    text: Annotated[
        list[Path], typer.Option("--text", metavar="FILE", help="Encode the lines of this file too; repeatable.")
    ] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Compare two tokenizers, and what each makes of the same texts.

    Strings, added and special tokens, chat templates, and texts of several languages, code, digits, white space and emoji.
    """
    from modelwright.cli._tokenizer import run_diff

    run_diff(first, second, text, json=json)


@tokenizer.command("transplant")
def tokenizer_transplant(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model that gets another tokenizer.")],
    donor: Annotated[str, typer.Option("--from", metavar="DONOR", help="The model whose tokenizer it gets.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to make.")],
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="How new rows are made: omp, landmark, subword, mean, zero.")
    ] = "omp",
    k: Annotated[int, typer.Option("--k", min=1, help="Of omp and landmark: rows that a new one is made of.")] = 64,
    pad: Annotated[int, typer.Option("--pad-to-multiple-of", min=1, help="Rows are a multiple of this.")] = 1,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="Say how well it is predicted, before and after.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, mps, xpu.")] = "cpu",
    overwrite: Overwrite = False,
    restart: Restart = False,
    threads: Threads = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give a model another tokenizer.

    Rows of tokens that it knows are kept to the bit; new ones are made of those, and the error is measured on known rows.
    """
    from modelwright.cli._tokenizer import run_transplant

    settings = {"donor": donor, "method": method, "k": k, "pad_to_multiple_of": pad, "device": device}
    options = {"overwrite": overwrite, "restart": restart, "threads": threads}
    run_transplant(model, out, settings, options, text, json=json, quiet=quiet)


@app.command()
def sweep(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name, or a suite file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where records and leaderboard go.")],
    methods: Annotated[
        str, typer.Option("--methods", metavar="NAME,NAME..", help="Which methods; all that fit by default.")
    ] = "all",
    seeds: Annotated[int, typer.Option("--seeds", help="How many families are trained and merged.")] = 3,
    budget: Annotated[
        int, typer.Option("--budget", help="Most evaluations to choose a method's parameters with.")
    ] = 20,
    semantics: Annotated[
        str,
        typer.Option("--semantics", metavar="community | paper", help="Where parameters stand that are not searched."),
    ] = "community",
    validation: Annotated[
        int | None,
        typer.Option("--validation", help="Most validation items a task to choose with.  [default: the suite's]"),
    ] = None,
    training: Annotated[
        str, typer.Option("--training", metavar="full | smoke", help="smoke: families that are trained in seconds.")
    ] = "full",
    device: Annotated[str, typer.Option("--device", help="Where models are trained and evaluated.")] = "cpu",
    workers: Annotated[
        int, typer.Option("--workers", help="Cells made at a time, by processes that share the cores.")
    ] = 1,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="FOLDER", help="Where trained families are kept.")
    ] = None,
    plugin: Plugin = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods on a suite of tasks.

    Trains a family a seed, merges it with each method, parameters chosen on validation, and writes records and a
    leaderboard. Finished cells are not made again. Exit code 1 where a method failed.
    """
    from modelwright.cli._sweep import run_sweep

    settings = {
        "seeds": seeds, "budget": budget, "semantics": semantics, "validation": validation, "training": training,
        "device": device, "cache": cache, "workers": workers,
    }  # fmt: skip
    run_sweep(suite, methods, out, settings, plugin, json=json, quiet=quiet)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; errors go to stderr without traceback unless --debug."""
    debug = "--debug" in arguments or bool(os.environ.get("MODELWRIGHT_DEBUG"))
    arguments = [word for word in arguments if word != "--debug"]  # it may stand anywhere
    kept = "Nothing unfinished was kept."
    try:
        code: Any = app(arguments, standalone_mode=False, prog_name="mw")
    except (typer.Abort, KeyboardInterrupt):
        code = 130  # which some versions of typer return themselves
    except InterruptedError as error:  # what a merge makes of Ctrl-C: the text says what is kept
        code, kept = 130, str(error)
    except typer.Exit as stop:
        code = stop.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        show: Any = getattr(error, "show", None)
        if show is not None and hasattr(error, "exit_code"):  # a usage error; typer has its own copy of click
            show()
            if "--json" in arguments:
                from modelwright.errors import Problem

                _say_json([Problem(str(getattr(error, "format_message", error.__str__)()))])
            return 2
        if debug:
            import traceback

            traceback.print_exc()
        return _failed(error, json="--json" in arguments)
    if code == 130:
        return _say(f"interrupted. {kept}".rstrip(), 130)
    return code if isinstance(code, int) else 0


def _failed(error: Exception, *, json: bool) -> int:
    from modelwright.errors import InputError, Problem, RunError, printable

    if isinstance(error, InputError):
        if json:
            _say_json(error.problems)
        count = len(error.problems)
        if count > 1:
            sys.stderr.write(f"error: {count} problems, nothing was written\n")
        for problem in error.problems:
            sys.stderr.write(f"{'  - ' if count > 1 else 'error: '}{problem}\n")
        return 2
    if isinstance(error, RunError):
        if json:
            _say_json([Problem(str(error))])
        return _say(str(error), 1)
    if isinstance(error, MemoryError):
        return _say("out of memory; --threads 1 needs least", 1)
    return _say(
        f"{printable(f'{type(error).__name__}: {error}')}\nThis is not expected. Run again with --debug for a traceback.",
        1,
    )


def _say_json(problems: Any) -> None:
    import json

    found = [{"what": p.what, "mend": p.mend, "where": p.where} for p in problems]
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"version": 1, "ok": False, "problems": found}, indent=2, ensure_ascii=False))  # noqa: T201


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"error: {text}\n")
    return code
