"""From files that people have to the files that the stages read: held-out parts split off, sources capped and merged.

Nothing of a held-out part can leak: text is split by whole file (a novel), conversations and rankings by prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field

from tutelage.data.formats import read_conversations, read_documents, read_prompts, read_rankings, write_jsonl
from tutelage.data.mixing import split_by_key
from tutelage.errors import DataError
from tutelage.recipe import Settings
from tutelage.records import Conversation, Message, Prompt, Ranking

R = TypeVar("R", bound=BaseModel)


class Text(Settings):
    """A source of pretraining text."""

    path: Path = Field(description="file or folder of documents")
    weight: float = Field(1.0, gt=0, description="share of the training tokens, relative to the other sources")
    heldout: float = Field(
        0.0, ge=0, lt=1, description="share of its files (or of its documents, if one file) held out"
    )


class Part(Settings):
    """A source of conversations, rankings or prompts."""

    path: Path = Field(description="file or folder")
    limit: int = Field(0, ge=0, description="take at most this many, chosen by a keyed hash; 0: all")


class DataSettings(Settings):
    """What a run on one's own data reads."""

    text: dict[str, Text] = Field(description="pretraining text by name")
    demonstrations: dict[str, Part] = Field(description="conversations to imitate")
    rankings: dict[str, Part] = Field(description="rankings for the reward model")
    prompts: dict[str, Part] = Field(description="prompts that PPO answers")
    heldout_prompts: dict[str, Part] = Field(description="prompts that every stage is compared on")
    heldout_share: float = Field(0.05, gt=0, lt=1, description="share of demonstrations held out")
    heldout_rankings_share: float = Field(0.15, gt=0, lt=1, description="share of ranked prompts held out")


def prepare(settings: DataSettings, out: Path, seed: int) -> dict[str, int]:
    """Write text/NAME.jsonl, documents_heldout.jsonl, demonstrations, rankings, prompts (+ _heldout). Returns the counts."""
    counts: dict[str, int] = {}
    heldout_documents = []
    for name, text in settings.text.items():
        documents = list(read_documents(text.path))
        files = {document.source for document in documents}
        key = (lambda d: d.source) if len(files) > 1 else (lambda d: d.text)
        kept, apart = split_by_key(documents, key, text.heldout, seed) if text.heldout else (documents, [])
        counts[f"documents_{name}"] = write_jsonl(out / "text" / f"{name}.jsonl", kept)
        heldout_documents += apart
    if not heldout_documents:
        raise DataError(
            "no text is held out to measure on; give a source of `text` a larger `heldout` share, or more files"
        )
    counts["documents_heldout"] = write_jsonl(out / "documents_heldout.jsonl", heldout_documents)

    prompts = gather(settings.heldout_prompts, read_prompts, seed)
    counts["prompts_heldout"] = write_jsonl(out / "prompts_heldout.jsonl", unique(prompts))
    asked = {text_of(prompt.messages) for prompt in prompts}
    conversations = [c for c in gather(settings.demonstrations, read_conversations, seed) if opening(c) not in asked]
    kept_c, apart_c = split_by_key(conversations, opening, settings.heldout_share, seed)
    counts["demonstrations"] = write_jsonl(out / "demonstrations.jsonl", kept_c)
    counts["demonstrations_heldout"] = write_jsonl(out / "demonstrations_heldout.jsonl", apart_c)
    rankings = [r for r in gather(settings.rankings, read_rankings, seed) if ranked_prompt(r) not in asked]
    kept_r, apart_r = split_by_key(rankings, ranked_prompt, settings.heldout_rankings_share, seed)
    counts["rankings"] = write_jsonl(out / "rankings.jsonl", kept_r)
    counts["rankings_heldout"] = write_jsonl(out / "rankings_heldout.jsonl", apart_r)
    training = [p for p in gather(settings.prompts, read_prompts, seed) if text_of(p.messages) not in asked]
    counts["prompts"] = write_jsonl(out / "prompts.jsonl", unique(training))
    return counts


def gather(parts: dict[str, Part], read: Callable[[Path], Iterator[R]], seed: int) -> list[R]:
    """All parts' records, each part capped at its limit; which ones stay depends on their content and the seed alone."""
    gathered: list[R] = []
    for name, part in parts.items():
        records = list(read(part.path))
        if not records:
            raise DataError(f"{name} has no usable rows", path=part.path)
        if part.limit and len(records) > part.limit:
            records = sorted(records, key=lambda r: hashlib.sha256(f"{seed}{r.model_dump_json()}".encode()).digest())
            records = records[: part.limit]
        gathered += records
    return gathered


def unique(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Prompts without exact repetitions, first come first kept."""
    return list({text_of(prompt.messages): prompt for prompt in reversed(list(prompts))}.values())[::-1]


def text_of(messages: Sequence[Message]) -> str:
    """The turns of a conversation as one string, for comparing."""
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def opening(conversation: Conversation) -> str:
    """A conversation up to its first assistant turn: what it answers."""
    first = next((i for i, m in enumerate(conversation.messages) if m.role == "assistant"), len(conversation.messages))
    return text_of(conversation.messages[:first])


def ranked_prompt(ranking: Ranking) -> str:
    """The prompt that a ranking belongs to."""
    return text_of(ranking.prompt.messages)
