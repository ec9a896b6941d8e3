"""Texts that tokenizers are compared on: several languages, code, digits, white space, emoji, what chats are made of."""

from __future__ import annotations

from typing import NamedTuple


class Probe(NamedTuple):
    """A text, and what it is an example of."""

    kind: str
    text: str


_TEXTS: dict[str, tuple[str, ...]] = {
    "English": (
        "The quick brown fox jumps over the lazy dog.",
        "She hadn't expected it, but they'd already left; wasn't that odd?",
        "ALL CAPITALS, mixedCase and hyphen-ated words.",
        "In 1969, people walked on the Moon for the first time.",
    ),
    "German": ("Der Fluß fließt über die Wiesen, während Käfer krabbeln.", "Donaudampfschifffahrtsgesellschaft"),
    "French": ("L'été dernier, nous étions à la plage ; c'était très agréable.",),
    "Spanish": ("¿Dónde está la niña? ¡Mañana será otro día!",),
    "Polish": ("Zażółć gęślą jaźń.",),
    "Turkish": ("Pijamalı hasta yağız şoföre çabucak güvendi.",),
    "Vietnamese": ("Tôi đang học tiếng Việt ở thành phố.",),
    "Russian": ("Съешь же ещё этих мягких французских булок.",),
    "Greek": ("Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",),
    "Arabic": ("اللغة العربية جميلة جدا.",),
    "Hebrew": ("שלום עולם, מה שלומך היום?",),
    "Hindi": ("नमस्ते दुनिया, आप कैसे हैं?",),
    "Thai": ("สวัสดีชาวโลก วันนี้อากาศดี",),
    "Chinese": ("今天天气很好，我们去公园散步吧。", "機器學習是人工智慧的一個分支。"),
    "Japanese": ("吾輩は猫である。名前はまだ無い。", "カタカナとひらがなと漢字。"),
    "Korean": ("안녕하세요, 만나서 반갑습니다.",),
    "code": (
        "def f(x: int) -> int:\n    return x ** 2 if x else 0\n",
        "for (int i = 0; i < n; ++i) { sum += a[i]; }",
        'SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;',
        '<div class="box"><a href="https://example.org/?q=1&r=2">link</a></div>',
        '{"key": [1, 2.5, null, true], "nested": {"a": "b"}}',
        "\tif err != nil {\n\t\treturn nil, err\n\t}",
        "x_train[:, ::-1] @ W.T + b",
    ),
    "digits": ("0 1 2 3 4 5 6 7 8 9", "3.14159265358979", "1234567890", "1,234,567.89", "2026-11-25T19:30:00Z", "0xDEADBEEF"),
    "white space": (
        "a b", "a  b", "a    b", "        indented", "trailing   ", "a\tb", "a\nb", "a\n\n\nb", "a\r\nb", "a\u00a0b", "\n", "   ",
    ),
    "emoji": ("😀", "👩‍💻 writes code 🚀🚀", "👍🏽 ❤️ 🇩🇪", "e\u0301 and é", "ﬁ ligature, ½, ①"),
    "mathematics": ("∀x ∈ ℝ: x² ≥ 0", "$\\int_0^1 x^2\\,dx = \\frac{1}{3}$", "a ≠ b ⇒ ¬(a = b)"),
    "chat": (
        "<|im_start|>user\nHello!<|im_end|>\n",
        "<s>[INST] Hello! [/INST] Hi.</s>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>",
        "### Instruction:\nSay hello.\n\n### Response:\n",
    ),
}  # fmt: skip

#: The texts, in order.
PROBES: tuple[Probe, ...] = tuple(Probe(kind, text) for kind, texts in _TEXTS.items() for text in texts)
