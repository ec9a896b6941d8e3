"""Files of questions in the layouts that are usual for them, so that nothing has to be said about them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

#: As GSM8K has them: a solution that ends in #### and a number. An answer is the last number of a text.
WORKED: Mapping[str, Any] = {
    "kind": "generation",
    "prompt": "{{ question }}",
    "target": "{{ answer.split('####')[-1].strip() }}",
    "shown": "\n{{ answer }}",
    "metric": "number_match",
    "extract": r"-?\d+(?:,\d{3})*(?:\.\d+)?",
    "which": "last",
    "max_tokens": 512,
}
_LETTER = (
    f"{{% if answer is integer %}}{{{{ '{_LETTERS}'[answer] }}}}{{% elif answer in choices %}}"
    f"{{{{ '{_LETTERS}'[choices.index(answer)] }}}}{{% else %}}{{{{ answer }}}}{{% endif %}}"
)
#: As MMLU has them: choices, and which of them is right, as a position from 0, a letter or a text. An answer is a letter:
#: that at the beginning of a text, in a bracket or after "answer is", the last of these.
LETTERED: Mapping[str, Any] = {
    "kind": "generation",
    "prompt": f"{{{{ question }}}}{{% for one in choices %}}\n{{{{ '{_LETTERS}'[loop.index0] }}}}. {{{{ one }}}}{{% endfor %}}",
    "target": _LETTER,
    "shown": f"\n{_LETTER}",
    "metric": "exact_match",
    "extract": r"(?:^\W*|\(|[Aa]nswer(?: is|:)\W*)([A-Z])(?!\w)",
    "which": "last",
}
#: Any other question with its answer, or a list of answers of which any is right. An answer is what stands after the last
#: "answer is" of a text, else the text.
FREE: Mapping[str, Any] = {
    "kind": "generation",
    "prompt": "{{ question }}",
    "target": "answer",
    "metric": "normalised_match",
    "extract": r"(?s)(?:.*[Aa]nswer(?: is|:)\s*)?(.*\S)",
}


def layout(reference: str) -> Mapping[str, Any]:
    """What a task file would say of a jsonl file whose rows have `question` and `answer`, by its first row.

    Returns:
        `LETTERED` where there are `choices` too, `WORKED` where the answer has ####, else `FREE`; nothing of another file,
        or of one with the column `target`.
    """
    row = _first(Path(reference).expanduser())
    if not isinstance(row, dict) or "target" in row or not {"question", "answer"} <= set(row):
        return {}
    if "choices" in row:
        return LETTERED
    return WORKED if "####" in str(row["answer"]) else FREE


def _first(path: Path) -> Any:
    """The first row; None where there is none, for what is wrong with a file is said when it is read."""
    name = path.name.lower()
    if not name.endswith((".jsonl", ".jsonl.gz")) or not path.is_file():
        return None
    try:
        with gzip.open(path, "rt", encoding="utf-8") if name.endswith(".gz") else path.open(encoding="utf-8") as file:
            return json.loads(next(line for line in file if line.strip()))
    except (OSError, EOFError, zlib.error, ValueError, StopIteration):
        return None
