"""OpenAI's chat protocol, as far as a panel can keep it: what is asked, and what answers look like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelwright.chat import Message, Outcome, with_system
from modelwright.errors import InputError
from modelwright.serve._traces import Trace

#: What would change the form of the answer, and panels cannot give; with the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "n": (1,), "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "logprobs": (False,), "top_logprobs": (0,), "audio": (), "modalities": (["text"],), "prediction": (),
    "response_format": ({"type": "text"},), "web_search_options": (),
}  # fmt: skip
_KNOWN = frozenset({"model", "messages", "stream", "stream_options", *_REFUSED})
#: Other names of roles.
_ROLES = {"developer": "system"}


@dataclass(frozen=True)
class Asked:
    """A request for a chat completion.

    Attributes:
        model: The panel's name; empty where the request names none.
        question: The last turn, a user's.
        before: The turns before it.
        stream: Whether the answer is to come in pieces.
        usage: Whether the last of these pieces is to say what it took.
        ignored: Keys that were sent and change nothing, as agents have their own sampling.
    """

    model: str
    question: str
    before: tuple[Message, ...]
    stream: bool
    usage: bool
    ignored: tuple[str, ...]


def asked(body: Any) -> Asked:
    """What a body asks.

    Raises:
        InputError: It is no such request, or asks for what a panel cannot give.
    """
    if not isinstance(body, Mapping):
        raise InputError("a request is a JSON object")
    for key, nothing in _REFUSED.items():
        if body.get(key) is not None and body[key] not in nothing:
            raise InputError(f"a panel cannot answer with '{key}', got {str(body[key])[:80]}", "Leave it out.")
    model, stream, options = body.get("model") or "", body.get("stream") or False, body.get("stream_options") or {}
    if not isinstance(model, str) or not isinstance(stream, bool) or not isinstance(options, Mapping):
        raise InputError("model must be a text, stream true or false, and stream_options an object")
    messages = _messages(body.get("messages"))
    ignored = tuple(sorted(key for key, value in body.items() if key not in _KNOWN and value is not None))
    usage = options.get("include_usage") is True
    return Asked(model, messages[-1].content, tuple(messages[:-1]), stream, usage, ignored)


def _messages(said: Any) -> list[Message]:
    """The conversation; the system messages that it begins with become one."""
    if not isinstance(said, list) or not said:
        raise InputError("messages must be a list of at least one message")
    found = [_message(one, i) for i, one in enumerate(said)]
    turns = next((i for i, message in enumerate(found) if message.role != "system"), len(found))
    late = [i for i, message in enumerate(found) if message.role == "system" and i >= turns]
    if late:
        raise InputError(f"messages[{late[0]}]: a system message stands before all others", "Put it first.")
    if found[-1].role != "user":
        raise InputError(f"the last message must be the user's, got the role '{found[-1].role}'")
    if not found[-1].content.strip():
        raise InputError("the last message is empty")
    system = "\n\n".join(message.content for message in found[:turns])
    return with_system(found[turns:], system)


def _message(said: Any, place: int) -> Message:
    where = f"messages[{place}]"
    if not isinstance(said, Mapping) or not isinstance(said.get("role"), str):
        raise InputError(f"{where}: a message is an object with role and content")
    if said.get("tool_calls") or said["role"] in ("tool", "function"):
        raise InputError(f"{where}: panels use no tools of clients", "Leave tools out.")
    role: Any = _ROLES.get(said["role"], said["role"])
    content = said.get("content")
    if isinstance(content, list):
        content = "".join(_part(one, where) for one in content)
    if not isinstance(content, str):
        raise InputError(f"{where}: content must be a text, got {type(content).__name__}")
    return Message(role, content)


def _part(said: Any, where: str) -> str:
    if not isinstance(said, Mapping) or said.get("type") != "text" or not isinstance(said.get("text"), str):
        kind = said.get("type") if isinstance(said, Mapping) else type(said).__name__
        raise InputError(f"{where}: panels read text only, got a part of the type '{kind}'")
    return said["text"]


def usage(outcome: Outcome) -> dict[str, Any]:
    """Tokens of all inner calls, those whose replies were in the cache among them, and how many calls that were."""
    read, written = outcome.tokens_in, outcome.tokens_out
    return {
        "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
        "inner_calls": outcome.calls, "cached_calls": sum(step.cached for step in outcome.steps),
    }  # fmt: skip


def finish(outcome: Outcome) -> str:
    """Why the reply that stands for the answer ended."""
    reasons = [step.reply.finish for step in reversed(outcome.steps) if step.reply.text == outcome.text]
    return "length" if reasons[:1] == ["length"] else "stop"


def completion(trace: Trace, request: Asked) -> dict[str, Any]:
    """An answer in one piece."""
    assert trace.outcome is not None
    choice = {
        "index": 0, "message": {"role": "assistant", "content": trace.outcome.text, "refusal": None},
        "finish_reason": finish(trace.outcome), "logprobs": None,
    }  # fmt: skip
    said = {**_head(trace, "chat.completion"), "choices": [choice], "usage": usage(trace.outcome)}
    return {**said, "modelwright": about(trace, request)}


def about(trace: Trace, request: Asked) -> dict[str, Any]:
    """What other servers do not tell."""
    assert trace.outcome is not None
    value = trace.outcome.value
    return {
        "trace": trace.id, "answer": None if value is None else str(value), "paid": trace.paid, "worth": trace.worth,
        "notes": list(trace.outcome.notes), "ignored": list(request.ignored),
    }  # fmt: skip


def chunk(trace: Trace, *, text: str | None = None, ended: str | None = None, first: bool = False) -> dict[str, Any]:
    """A piece of an answer."""
    delta: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
    if text is not None:
        delta["content"] = text
    choice = {"index": 0, "delta": delta, "finish_reason": ended, "logprobs": None}
    return {**_head(trace, "chat.completion.chunk"), "choices": [choice]}


def last_chunk(trace: Trace, request: Asked) -> dict[str, Any]:
    """The piece after the last, for those that asked for usage."""
    assert trace.outcome is not None
    said = {**_head(trace, "chat.completion.chunk"), "choices": [], "usage": usage(trace.outcome)}
    return {**said, "modelwright": about(trace, request)}


def _head(trace: Trace, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{trace.id}", "object": kind, "created": int(trace.begun), "model": trace.panel}


def model(name: str) -> dict[str, Any]:
    """A panel in the list of models."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "modelwright"}


def error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


_WORDS = re.compile(r"\s*\S+|\s+$")


def pieces(text: str, size: int = 48) -> Sequence[str]:
    """A text in pieces that end between words where they can, at least one character each.

    Example:
        >>> pieces("It is a quarter to five.", 10)
        ['It is a', ' quarter', ' to five.']
    """
    found: list[str] = []
    for word in _WORDS.findall(text):
        if found and len(found[-1]) + len(word) <= size:
            found[-1] += word
        else:
            found.append(word)
    return found
