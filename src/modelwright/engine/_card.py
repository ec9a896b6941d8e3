"""README.md of the output: the model card."""

from __future__ import annotations

from modelwright.recipe import Plan, licence


def card_text(plan: Plan, name: str) -> str:
    """A model card: front matter that the Hub reads, what was merged and how, and the recipe."""
    licences = {licence(model) for model in plan.models}
    front = ["---", "base_model:", *(f"- {model.label}" for model in plan.models), "tags:", "- merge", "- modelwright"]
    if any(part.config and "architectures" in part.config for part in plan.parts):
        front.append("library_name: transformers")
    if len(licences) == 1 and (only := next(iter(licences))):
        front.append(f"license: {only}")
    method = plan.method
    source = f" ({method.paper})" if method.paper else ""
    merged = sum(tensor.action == "merge" for tensor in plan.tensors)
    lines = [
        *front, "---", "", f"# {name}", "",
        f"A merge of {len(plan.models)} checkpoints with [modelwright](https://pypi.org/project/modelwright/), method "
        f"**{method.title}**{source}, {plan.recipe.semantics} semantics, seed {plan.recipe.seed}.",
        "", f"{merged} of {len(plan.tensors)} tensors were merged, the others copied. Configuration and tokenizer come from "
        f"`{plan.models[plan.donor].label}`. Every input tensor is accounted for in `manifest.json`.",
    ]  # fmt: skip
    if len(licences) > 1:
        lines += ["", "The inputs state different licences: check that they allow this combination.", ""]
        lines += [f"- `{model.label}`: {licence(model) or 'not stated'}" for model in plan.models]
    lines += ["", "## Recipe", "", "```yaml", plan.recipe_text.rstrip(), "```", ""]
    return "\n".join(lines)
