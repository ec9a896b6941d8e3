"""What is read of requests, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from modelwright.chat import Message
from modelwright.errors import InputError
from modelwright.serve._protocol import asked, pieces

USER = {"role": "user", "content": "Q?"}


def body(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages) or [USER], **more}


def test_a_conversation_is_the_last_turn_and_what_stood_before() -> None:
    said = asked(
        body(
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]},
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": "And 3 + 3?"},
            temperature=0.3,
            stream=True,
            stream_options={"include_usage": True},
            user="me",
        )
    )
    assert said.question == "And 3 + 3?"
    assert said.before == (
        Message("system", "Be brief.\n\nBe kind."),
        Message("user", "2 + 2?"),
        Message("assistant", "4"),
    )
    assert (said.model, said.stream, said.usage) == ("m", True, True)
    assert said.ignored == ("temperature", "user")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "a request is a JSON object"),
        ({"messages": []}, "messages must be a list of at least one message"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]: content must be a text, got NoneType"),
        (body({"role": "user", "content": " "}), "the last message is empty"),
        (body({"role": "assistant", "content": "x"}), "the last message must be the user's, got the role 'assistant'"),
        (body({"role": "boss", "content": "x"}), "there is no role 'boss'"),
        (body(USER, {"role": "system", "content": "x"}, USER), r"messages\[1\]: a system message stands before all"),
        (body({"role": "tool", "content": "x"}), r"messages\[0\]: panels use no tools of clients"),
        (
            body({"role": "user", "content": [{"type": "image_url"}]}),
            "read text only, got a part of the type 'image_url'",
        ),
        (body(n=2), r"a panel cannot answer with 'n', got 2. Leave it out"),
        (body(tools=[{"type": "function"}]), "cannot answer with 'tools'"),
        (body(response_format={"type": "json_object"}), "cannot answer with 'response_format'"),
        (body(stream="yes"), "stream true or false"),
    ],
)
def test_what_cannot_be_answered_is_refused(given: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        asked(given)


def test_what_asks_for_nothing_is_taken() -> None:
    said = asked(body(n=1, tools=[], logprobs=False, response_format={"type": "text"}, tool_choice="none", stop=None))
    assert said.ignored == ()


@pytest.mark.parametrize("text", ["", "one", "  two  words ", "x" * 200, "a\n\n  b c", "\n", "日本語 " * 30])
def test_pieces_are_the_whole_text(text: str) -> None:
    found = pieces(text, 10)
    assert "".join(found) == text
    assert all(found)
