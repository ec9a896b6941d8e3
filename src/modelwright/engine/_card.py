"""README.md of the output: the model card."""

from __future__ import annotations

from modelwright.checkpoint import Checkpoint
from modelwright.recipe import Plan, licence


def card_text(plan: Plan) -> str:
    """A model card: front matter that the Hub reads, what was merged and how, and the recipe.

    It does not name the output folder: the same merge gives the same card wherever it is written.
    """
    method, count = plan.method, len(plan.models)
    source = f" ({method.paper})" if method.paper else ""
    merged = sum(tensor.action == "merge" for tensor in plan.tensors)
    share = f"All {merged}" if merged == len(plan.tensors) else f"{merged} of {len(plan.tensors)}"
    rest = "" if merged == len(plan.tensors) else ", the others copied"
    lines = [
        *_front_matter(plan), f"# {method.title}: a merge of {count} checkpoint{'s' * (count != 1)}", "",
        f"Made with [modelwright](https://pypi.org/project/modelwright/), method **{method.title}**{source}, "
        f"{plan.recipe.semantics} semantics, seed {plan.recipe.seed}.",
        "", f"{share} tensors were merged{rest}. Configuration and tokenizer come from "
        f"`{plan.models[plan.donor].label}`. Every input tensor is accounted for in `manifest.json`.",
    ]  # fmt: skip
    if len({licence(model) for model in plan.models}) > 1:
        lines += ["", "The inputs state different licences: check that they allow this combination.", ""]
        lines += [f"- `{model.label}`: {licence(model) or 'not stated'}" for model in plan.models]
    lines += ["", "## Recipe", "", "```yaml", plan.recipe_text.rstrip(), "```", ""]
    return "\n".join(lines)


def _front_matter(plan: Plan) -> list[str]:
    ids = list(dict.fromkeys(name for model in plan.models if (name := _hub_id(model))))
    lines = ["---", *(["base_model:", *(f"- {name}" for name in ids)] if ids else []), "tags:", "- merge"]
    lines.append("- modelwright")
    if any(part.config and "architectures" in part.config for part in plan.parts):
        lines.append("library_name: transformers")
    licences = {licence(model) for model in plan.models}
    if len(licences) == 1 and (only := next(iter(licences))):
        lines.append(f"license: {only}")
    return [*lines, "---", ""]


def _hub_id(model: Checkpoint) -> str | None:
    """`owner/name` of a model from the Hub's cache: the Hub refuses a card whose base_model is a path."""
    name = model.label.partition("+")[0].partition("@")[0]
    cached = model.path is not None and f"models--{name.replace('/', '--')}" in model.path.parts
    return name if cached else None
