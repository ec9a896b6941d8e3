"""Chat templates: where they are kept, and what they make of the same conversations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from modelwright.architectures import is_list, is_table, is_text
from modelwright.errors import InputError, MissingExtraError

_ASK = {"role": "user", "content": "Hello! How are you?"}
#: What templates are compared on.
CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "a question": [_ASK],
    "with a system prompt": [{"role": "system", "content": "Answer briefly."}, _ASK],
    "several turns": [_ASK, {"role": "assistant", "content": "Fine."}, {"role": "user", "content": "And\nnow?"}],
}
#: What looks like a token that a template writes.
_MARKUP = re.compile(r"<\|[^<>|\s]+\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")


def kept_template(label: str, file: bytes | None, settings: Mapping[str, Any]) -> str | None:
    """The chat template of a folder.

    Args:
        label: What messages call the model.
        file: `chat_template.jinja`, where there is one.
        settings: `tokenizer_config.json`, which holds older ones.

    Raises:
        InputError: The file is no text.
    """
    if file is not None:
        try:
            return file.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{label}: chat_template.jinja is not UTF-8 ({error})", "Copy it again.") from None
    value: Any = settings.get("chat_template")
    if is_list(value):
        tables = [entry for entry in value if is_table(entry)]
        value = next((entry.get("template") for entry in tables if entry.get("name") == "default"), None)
    return value if is_text(value) else None


def rendered(template: str, special: Mapping[str, str]) -> dict[str, str]:
    """What a template makes of each conversation, as transformers renders it; a refusal is told in brackets.

    Args:
        template: Jinja text. It runs in jinja's sandbox, since others wrote it.
        special: Role -> string, such as `bos_token`, which templates write.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtraError("rendering chat templates", "jinja2", "torch") from error

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    def today(_format: str) -> str:
        return "1 January 2000"

    world: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    world.filters["tojson"] = tojson
    world.globals |= {"raise_exception": refuse, "strftime_now": today}
    found: dict[str, str] = {}
    for name, messages in CONVERSATIONS.items():
        try:
            made = world.from_string(template)
            found[name] = made.render(messages=messages, add_generation_prompt=True, **special)
        except Exception as error:  # a template can fail in any way
            found[name] = f"[fails: {error}]"
    return found


def markup(texts: Mapping[str, str]) -> tuple[str, ...]:
    """What looks like tokens in rendered conversations, in order."""
    return tuple(dict.fromkeys(match for text in texts.values() for match in _MARKUP.findall(text)))
