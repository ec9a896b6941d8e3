"""README.md of the output: the model card, made from the manifest and the configuration and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
import yaml

from modelwright.architectures import is_list, is_table
from modelwright.checkpoint import MANIFEST, read_json
from modelwright.engine._licences import LICENCES, Verdict, verdict
from modelwright.engine._lineage import CARD, hub_ids, licences
from modelwright.engine._manifest import add_file, manifest_json
from modelwright.errors import InputError

#: What a class of transformers ends in -> the Hub's name of its task, and the class that opens such a model.
_TASKS = {
    "ForCausalLM": ("text-generation", "AutoModelForCausalLM"),
    "LMHeadModel": ("text-generation", "AutoModelForCausalLM"),
    "ForMaskedLM": ("fill-mask", "AutoModelForMaskedLM"),
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "ForTokenClassification": ("token-classification", "AutoModelForTokenClassification"),
    "ForQuestionAnswering": ("question-answering", "AutoModelForQuestionAnswering"),
    "ForImageClassification": ("image-classification", "AutoModelForImageClassification"),
}
_WEIGHTS = (".safetensors", ".gguf", ".bin")
#: A name for a folder that has none yet.
_HERE = "path/to/this/folder"
_MOST_CLASSES = 100


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the model card of an output, and take it into the manifest's list of files."""
    content = card_text(folder, manifest).encode()
    (folder / CARD).write_bytes(content)
    add_file(manifest, CARD, content)


def rewrite_card(
    out: Path,
    manifest: dict[str, Any],
    *,
    evaluations: Sequence[Mapping[str, Any]] | None = None,
    licence: tuple[str, str] | None = None,
    keep: bool = False,
    overwrite: bool = False,
) -> None:
    """Write the model card of a finished output anew, and its manifest with it.

    Args:
        out: The output.
        manifest: Its manifest.
        evaluations: What was measured, to be shown from now on; None leaves what is shown.
        licence: The Hub's id of the licence that was decided on by hand, and why.
        keep: Take the card as it is, edited by hand, into the manifest, and write nothing else.
        overwrite: Write it though it was edited by hand.

    Raises:
        InputError: It was edited by hand, or an option does not fit.
    """
    path = out / CARD
    content = path.read_bytes() if path.is_file() else b""
    if keep:
        if evaluations is not None or licence is not None:
            raise InputError("--keep takes the card as it is, so nothing else can be put into it", "Leave one out.")
        if not content:
            raise InputError(f"there is no '{path}' to keep", "Leave --keep (keep=True) out.")
    else:
        _check_unedited(path, content, manifest, overwrite=overwrite)
        manifest |= {} if evaluations is None else {"evaluations": [dict(entry) for entry in evaluations]}
        manifest |= {} if licence is None else {"licence": {"id": licence[0], "reason": licence[1]}}
        content = card_text(out, manifest).encode()
    add_file(manifest, CARD, content)
    for name, text in ((CARD, content), (MANIFEST, manifest_json(manifest).encode())):
        beside = out / f".{name}.new"  # a folder without its manifest would be nobody's
        beside.write_bytes(text)
        beside.replace(out / name)


def _check_unedited(path: Path, content: bytes, manifest: Mapping[str, Any], *, overwrite: bool) -> None:
    known: dict[str, Any] = {"files": {}}
    add_file(known, CARD, content)
    stored: Any = manifest["files"].get(CARD, {})
    if content and not overwrite and known["files"][CARD]["xxh3_128"] != stored.get("xxh3_128"):
        raise InputError(
            f"'{path}' was changed since modelwright wrote it",
            "Take it as it is with --keep (keep=True), or write it anew with --overwrite (overwrite=True).",
        )


def card_text(folder: Path, manifest: Mapping[str, Any], repo: str = "") -> str:
    """A model card: front matter that the Hub reads, what was merged and how, licences, evaluation, hashes, the recipe.

    It does not name the output folder: the same merge gives the same card wherever it is written.

    Args:
        folder: The output, of which the configuration is read.
        manifest: Its manifest; what that says of the card itself and of the run is not looked at.
        repo: Where it is on the Hub, `owner/name`; empty where it is not.

    Raises:
        InputError: The manifest is not as modelwright writes it.
    """
    try:
        found = verdict_of(manifest)
        config = read_json(folder / "config.json") or {}
        library, task, opener = _kind(folder, config)
        sections = (
            _intro(manifest), _use(library, opener, repo), _outputs(config), _lineage(manifest),
            _licensing(manifest, found), _evaluation(manifest), _changes(manifest), _hashes(manifest), _recipe(manifest),
        )  # fmt: skip
        matter = _front_matter(manifest, found, library, task, repo)
    except (LookupError, TypeError, AttributeError):
        raise InputError("the manifest is not as modelwright writes it, or is damaged", "Merge again.") from None
    return matter + "\n".join("\n".join(section) + "\n" for section in sections if section)


# --- front matter ----------------------------------------------------------------------------------------------------


def _front_matter(manifest: Mapping[str, Any], found: Verdict, library: str, task: str, repo: str) -> str:
    ids = list(dict.fromkeys(name for entry in manifest["inputs"] for name in hub_ids(entry)))
    data: dict[str, Any] = {"base_model": ids, "base_model_relation": "merge"} if ids else {}
    if found.licence:
        data["license"] = found.licence
    if found.licence == "other":
        data["license_name"] = "terms-of-the-inputs"
    data |= {"library_name": library} if library else {}
    data |= {"pipeline_tag": task} if task else {}
    data["tags"] = ["merge", "modelwright", str(manifest["method"])]
    results = list(_index(manifest, task))
    if results:
        data["model-index"] = [{"name": repo.rpartition("/")[2] or _title(manifest), "results": results}]
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{text}---\n\n"


def _index(manifest: Mapping[str, Any], task: str) -> Iterator[dict[str, Any]]:
    """The figures of this model as the Hub's model-index has them."""
    for entry in manifest.get("evaluations", ()):
        if entry["ours"]:
            metric = {"type": entry["metric"], "value": entry["figure"], "name": entry["title"]}
            data = {"type": entry["task"], "name": entry["task"], "split": entry["split"]}
            yield {"task": {"type": task or "other"}, "dataset": data, "metrics": [metric]}


def _kind(folder: Path, config: Mapping[str, Any]) -> tuple[str, str, str]:
    """The Hub's names of the library and of the task, and the class that opens the model; empty where not known."""
    if (folder / "model_index.json").is_file():
        return "diffusers", "", "DiffusionPipeline"
    if (folder / "modules.json").is_file():
        return "sentence-transformers", "sentence-similarity", "SentenceTransformer"
    names: Any = config.get("architectures")
    if not is_list(names) or not names:
        return "", "", ""
    task, opener = next((known for end, known in _TASKS.items() if str(names[0]).endswith(end)), ("", "AutoModel"))
    return "transformers", task, opener


# --- sections --------------------------------------------------------------------------------------------------------


def _title(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("title", manifest["method"]))


def _code(text: Any) -> str:
    """A name that others chose, so that it cannot be read as anything else."""
    return "`" + str(text).replace("`", "'").replace("\n", " ") + "`"


def _intro(manifest: Mapping[str, Any]) -> list[str]:
    title, count = _title(manifest), len(manifest["inputs"])
    source = f" ({manifest['paper']})" if manifest.get("paper") else ""
    lines = [
        f"# {title}: a merge of {count} checkpoints" if count > 1 else "# Made from one checkpoint", "",
        f"Made with [modelwright](https://pypi.org/project/modelwright/), method **{title}**{source}, "
        f"{manifest['semantics']} semantics, seed {manifest['seed']}.",
    ]  # fmt: skip
    donor = f"Configuration and tokenizer come from {_code(manifest['donor'])}."
    return [*lines, "", f"{_share(manifest)}{donor} Every input tensor is accounted for in `manifest.json`."]


def _share(manifest: Mapping[str, Any]) -> str:
    output: Any = manifest.get("output")
    if not is_table(output):  # an older manifest
        return ""
    merged, count = output["merged"], output["tensors"]
    share, rest = (f"All {merged}", "") if merged == count else (f"{merged} of {count}", ", the others copied")
    return f"{share} tensors were merged{rest}. "


def _use(library: str, opener: str, repo: str) -> list[str]:
    where = json.dumps(repo or _HERE)
    lines = ["import modelwright as mw", "", f"model = mw.open({where})"]
    if library == "transformers":
        reader = "AutoImageProcessor" if "Image" in opener else "AutoTokenizer"
        lines = [
            f"from transformers import {', '.join(sorted((opener, reader)))}", "",
            f"model = {opener}.from_pretrained({where})",
            f"{'processor' if 'Image' in opener else 'tokenizer'} = {reader}.from_pretrained({where})",
        ]  # fmt: skip
    elif library == "diffusers":
        lines = [f"from diffusers import {opener}", "", f"pipeline = {opener}.from_pretrained({where})"]
    elif library == "sentence-transformers":
        lines = [f"from sentence_transformers import {opener}", "", f"model = {opener}({where})"]
    return ["## Use", "", "```python", *lines, "```"]


def _outputs(config: Mapping[str, Any]) -> list[str]:
    """The classes by their places, where the configuration names them."""
    names: Any = config.get("id2label")
    if not is_table(names) or not names or len(names) > _MOST_CLASSES:
        return []
    listed = ", ".join(f"{_code(place)} {_code(name)}" for place, name in names.items())
    return ["## Outputs", "", f"One logit a class, in this order: {listed}."]


def _lineage(manifest: Mapping[str, Any]) -> list[str]:
    tree = [f"this model: {_title(manifest)}", *_tree(manifest["inputs"], "")]
    return ["## Lineage", "", "```text", *tree, "```"]


def _tree(inputs: Sequence[Mapping[str, Any]], before: str) -> Iterator[str]:
    for number, entry in enumerate(inputs, 1):
        last = number == len(inputs)
        made = entry.get("lineage", {})
        told = [str(entry["model"]).replace("\n", " ")]
        told += [f"licence {entry['licence']}"] if entry.get("licence") else []
        if entry.get("hub") and entry["hub"] != entry["model"]:
            told.append(f"{entry['hub']} on the Hub")
        told += [f"commit {entry['commit'][:12]}"] if entry.get("commit") else []
        told += [f"{made['method']} of"] if made else []
        yield f"{before}{'└── ' if last else '├── '}{', '.join(told)}"
        below = before + ("    " if last else "│   ")
        yield from _tree(made.get("inputs", ()), below)
        for adapter in entry.get("adapters", ()):
            yield from _tree([{"model": "and an adapter", **adapter}], below)


def verdict_of(manifest: Mapping[str, Any]) -> Verdict:
    """What the inputs' licences come to, or what was decided by hand."""
    found = verdict(licences(manifest).values())
    chosen: Any = manifest.get("licence")
    if is_table(chosen):
        return Verdict(found.outcome, str(chosen["id"]), found.because, found.duties, found.names)
    return found


def _licensing(manifest: Mapping[str, Any], found: Verdict) -> list[str]:
    chosen: Any = manifest.get("licence")
    under = f", under {_licence_name(found.licence)}" if found.licence and not is_table(chosen) else ""
    lines = ["## Licence", "", f"**{found.outcome.capitalize()}{under}:** {'; '.join(found.because)}.", ""]
    for name, stated in licences(manifest).items():
        lines.append(f"- {_code(name)}: {_licence_name(stated)}")
    if is_table(chosen):
        lines += ["", f"Set by hand: {_licence_name(str(chosen['id']))}. {chosen['reason']}"]
    if found.duties:
        lines += [
            "",
            "Who passes this model on has to do what each of these asks:",
            "",
            *(f"- {d}" for d in found.duties),
        ]
    for name, licence in found.names:
        lines.append(f"- {licence}: its name begins with '{name}'")
    return [*lines, "", "Worked out from what the cards of the inputs say; this is no legal advice."]


def _licence_name(licence: str | None) -> str:
    return "not stated" if licence is None else licence if licence in LICENCES else _code(licence)


def _evaluation(manifest: Mapping[str, Any]) -> list[str]:
    entries: Sequence[Any] = manifest.get("evaluations", ())
    if not entries:
        return ["## Evaluation", "", "Not measured."]
    lines = [
        "## Evaluation",
        "",
        "| task | split | items | model | metric | figure | interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        system = "**this model**" if entry["ours"] else _cell(entry["system"])
        interval = f"{entry['low']:.4g} to {entry['high']:.4g}" if entry["low"] is not None else "none"
        cells = (
            _cell(entry["task"]),
            entry["split"],
            entry["items"],
            system,
            _cell(entry["title"]),
            f"{entry['figure']:.4g}",
            interval,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return [*lines, "", f"Intervals: {entries[0]['level']:.0%}, by bootstrap over items."]


def _cell(text: Any) -> str:
    return str(text).replace("\n", " ").replace("|", "\\|")


def _changes(manifest: Mapping[str, Any]) -> list[str]:
    lines = ["## What was done", ""]
    for entry in manifest["inputs"]:
        counts = ", ".join(f"{len(names)} {fate}" for fate, names in sorted(entry["tensors"].items()))
        lines.append(f"- {_code(entry['model'])}: tensors {counts or 'none'}")
    lines += [f"- created: {len(manifest['created'])}"] if manifest["created"] else []
    if manifest["notes"]:
        lines += ["", *(f"- {str(note).replace(chr(10), ' ')}" for note in manifest["notes"])]
    return lines


def _hashes(manifest: Mapping[str, Any]) -> list[str]:
    lines = ["## Hashes", "", "`mw verify` compares every byte with `manifest.json`. In short:", ""]
    for name, entry in manifest["files"].items():
        if name.endswith(_WEIGHTS):
            chunks = xxhash.xxh3_128_hexdigest("".join(entry["xxh3_128"]).encode())
            digest = (
                f"BLAKE3 `{entry['blake3']}`" if "blake3" in entry else f"xxh3-128 of its chunks' hashes `{chunks}`"
            )
            lines.append(f"- {_code(name)}: {entry['bytes']:,} bytes, {digest}")
    for entry in manifest["inputs"]:
        lines.append(f"- read from {_code(entry['model'])}: xxh3-128 `{entry['xxh3_128']}`")
    return lines


def _recipe(manifest: Mapping[str, Any]) -> list[str]:
    text = str(manifest["recipe"]).rstrip()
    fence = "```"
    while fence in text:
        fence += "`"
    lines = ["## Recipe", "", f"{fence}yaml", text, fence]
    origin: Any = manifest.get("origin")
    if is_table(origin):
        told = [
            f"{key} {_code(value if isinstance(value, str) else json.dumps(value))}"
            for key, value in origin.items()
            if key != "command"
        ]
        command = _code(f"mw {origin['command']}")
        lines += ["", f"Its model is what {command} makes of {', '.join(told)}."]
    return lines
