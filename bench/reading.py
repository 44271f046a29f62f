"""What a stage does with its file before its first step: reading, checking and tokenising examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.worker import Turn


def read(model: str, kind: str, file: str) -> Turn:
    from tutelage.data.formats import read_documents
    from tutelage.data.tokens.shards import tokenise
    from tutelage.text.tokenizer import Tokenizer
    from tutelage.train.rankings import RankingSplit
    from tutelage.train.sft import fitting_conversations

    tokenizer, path = Tokenizer.load(Path(model)), Path(file)

    def turn() -> float:
        if kind == "documents":
            tokenise(read_documents(path), tokenizer, path.with_suffix(""))
        elif kind == "demonstrations":
            fitting_conversations(path, tokenizer, 256, "stop")
        else:
            RankingSplit.read(path, None, 0.1, 0, tokenizer, 256, "stop")
        return 1.0

    return turn


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


ROWS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "documents": lambda asked, answer: {"text": f"{asked} {answer}"},
    "demonstrations": lambda asked, answer: {"messages": [_message("user", asked), _message("assistant", answer)]},
    "rankings": lambda asked, answer: {
        "prompt": {"messages": [_message("user", asked)]},
        "completions": [{"text": text} for text in (answer, f"{answer} {answer}", "No.", "I do not know.")],
        "ranks": [1, 2, 3, 3],
    },
}
