"""Training a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from tutelage.data.formats import ON_BAD, OnBad, read_conversations, read_documents
from tutelage.runs.folder import open_run
from tutelage.settings import Inputs, Settings
from tutelage.text.tokenizer import Tokenizer


class TokenizerInputs(Inputs):
    """What the tokenizer is trained on."""

    text: dict[str, Path] = Field(description="sources of text by name: files or folders of documents")
    demonstrations: Path | None = Field(None, description="conversations, whose messages count as text too")


class TokenizerSettings(Settings):
    """Knobs of ``tutelage tokenizer``."""

    vocab_size: int = Field(2048, gt=262, description="tokens of the byte-level BPE")
    on_bad: OnBad = Field("stop", description=ON_BAD)


def main(knobs: TokenizerSettings, inputs: TokenizerInputs, out: Path) -> Path:
    """Train a byte-level BPE tokenizer; returns its folder, ``out``/tokenizer."""
    folder = out / "tokenizer"
    with open_run(out, "tokenizer", knobs, inputs) as run:
        if not run.finished:
            tokenizer = Tokenizer.train(texts(inputs, knobs.on_bad), knobs.vocab_size)
            tokenizer.save(folder)
            run.finish({"tokens": tokenizer.vocab_size})
    return folder


def texts(inputs: TokenizerInputs, on_bad: OnBad) -> Iterator[str]:
    """All documents, then all messages."""
    for path in inputs.text.values():
        yield from (document.text for document in read_documents(path, on_bad=on_bad))
    if inputs.demonstrations:
        for conversation in read_conversations(inputs.demonstrations, on_bad=on_bad):
            yield from (message.text for message in conversation.messages)
