"""From files that people have to the files that the stages read: held-out parts split off, sources capped and merged.

Nothing of a held-out part can leak: text is split by whole file (a novel), conversations and rankings by their opening,
that is up to the first answer. Left out of training, and counted, are

- demonstrations, rankings and prompts that ask a held-out prompt at any of their turns, and
- demonstrations to train on with the opening of a held-out ranking: the reward model starts from the SFT model.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from tutelage.data.formats import read_conversations, read_documents, read_prompts, read_rankings, write_jsonl
from tutelage.data.tokens.mixing import split_by_key
from tutelage.errors import DataError, RecipeError
from tutelage.records import Message, Prompt, Ranking
from tutelage.runs.folder import open_run
from tutelage.settings import Inputs, Settings, nearest

R = TypeVar("R", bound=BaseModel)

_logger = logging.getLogger("tutelage.data")


class PrepareInputs(Inputs):
    """Files and folders of your own, each under a name of your choice."""

    text: dict[str, Path] = Field(description="pretraining text")
    demonstrations: dict[str, Path] = Field(description="conversations to imitate")
    rankings: dict[str, Path] = Field(description="rankings for the reward model")
    prompts: dict[str, Path] = Field(description="prompts that PPO answers")
    heldout_prompts: dict[str, Path] = Field(description="prompts that models are compared on")


class PrepareSettings(Settings):
    """How they are split and capped."""

    heldout: dict[str, float] = Field(
        {}, description="share of a text's files (or documents, if it is one file) held out, by name"
    )
    limit: dict[str, dict[str, int]] = Field(
        {}, description="most records to take, by input and name, such as limit.demonstrations.alpaca; default: all"
    )
    heldout_share: float = Field(0.05, gt=0, lt=1, description="share of demonstrations held out")
    heldout_rankings_share: float = Field(0.15, gt=0, lt=1, description="share of ranked prompts held out")
    seed: int = Field(0, description="seed of splits and of which records a limit keeps")

    def check(self, inputs: Inputs) -> None:
        """Shares and limits must name what the inputs have."""
        assert isinstance(inputs, PrepareInputs)
        given = {name: list(getattr(inputs, name)) for name in type(inputs).model_fields}
        for name in self.heldout:
            if name not in given["text"]:
                raise RecipeError(f"heldout: there is no text {name!r}{nearest(name, given['text'])}")
        for group, limits in self.limit.items():
            for name in limits:
                if name not in given.get(group, []):
                    known = [f"{g}.{n}" for g, names in given.items() for n in names]
                    raise RecipeError(f"limit: there is no input {group}.{name}{nearest(f'{group}.{name}', known)}")


def main(knobs: PrepareSettings, inputs: PrepareInputs, out: Path) -> Path:
    """Write the files that the other steps read; returns their folder."""
    with open_run(out, "prepare", knobs, inputs) as run:
        if not run.finished:
            run.finish(prepare(knobs, inputs, out))
    return out


def prepare(knobs: PrepareSettings, inputs: PrepareInputs, out: Path) -> dict[str, int]:
    """Write text/NAME.jsonl, documents_heldout.jsonl, demonstrations, rankings, prompts (+ _heldout).

    Returns the records in each file, and as ``left_out_...`` how many were left out of demonstrations, rankings and prompts.
    """
    counts: dict[str, int] = {}
    seed, limits = knobs.seed, knobs.limit
    heldout_documents = []
    for name, path in inputs.text.items():
        documents, share = list(read_documents(path)), knobs.heldout.get(name, 0.0)
        files = {document.source for document in documents}
        key = (lambda d: d.source) if len(files) > 1 else (lambda d: d.text)
        kept, apart = split_by_key(documents, key, share, seed) if share else (documents, [])
        counts[f"documents_{name}"] = write_jsonl(out / "text" / f"{name}.jsonl", kept)
        heldout_documents += apart
    if not heldout_documents:
        raise DataError(
            "no text is held out to measure on; give a source of `text` a larger `heldout` share, or more files"
        )
    counts["documents_heldout"] = write_jsonl(out / "documents_heldout.jsonl", heldout_documents)

    heldout = gather(inputs.heldout_prompts, limits.get("heldout_prompts", {}), read_prompts, seed)
    asked = {text_of(prompt.messages) for prompt in heldout}

    rankings = gather(inputs.rankings, limits.get("rankings", {}), read_rankings, seed)
    new_rankings = [r for r in rankings if asked.isdisjoint(questions(r.prompt.messages))]
    kept_r, apart_r = split_by_key(
        new_rankings, lambda r: opening(r.prompt.messages), knobs.heldout_rankings_share, seed
    )
    ranked = {opening(r.prompt.messages) for r in apart_r}

    demonstrations = gather(inputs.demonstrations, limits.get("demonstrations", {}), read_conversations, seed)
    new_demonstrations = [c for c in demonstrations if asked.isdisjoint(questions(c.messages))]
    kept_c, apart_c = split_by_key(new_demonstrations, lambda c: opening(c.messages), knobs.heldout_share, seed)
    # Split first: the larger share of rankings is chosen by the same hash, so of shared openings none would be held out.
    unranked = [c for c in kept_c if opening(c.messages) not in ranked]

    prompts = gather(inputs.prompts, limits.get("prompts", {}), read_prompts, seed)
    new_prompts = [p for p in prompts if asked.isdisjoint(questions(p.messages))]

    counts["prompts_heldout"] = write_jsonl(out / "prompts_heldout.jsonl", unique(heldout))
    counts["demonstrations"] = write_jsonl(out / "demonstrations.jsonl", unranked)
    counts["demonstrations_heldout"] = write_jsonl(out / "demonstrations_heldout.jsonl", apart_c)
    counts["rankings"] = write_jsonl(out / "rankings.jsonl", kept_r)
    counts["rankings_heldout"] = write_jsonl(out / "rankings_heldout.jsonl", apart_r)
    counts["prompts"] = write_jsonl(out / "prompts.jsonl", unique(new_prompts))

    counts["left_out_prompts_heldout"] = len(heldout) - counts["prompts_heldout"]
    counts["left_out_demonstrations"] = len(demonstrations) - len(unranked) - len(apart_c)
    counts["left_out_rankings"] = len(rankings) - len(new_rankings)
    counts["left_out_prompts"] = len(prompts) - counts["prompts"]
    _say(
        out,
        {
            "held-out prompt given before": counts["left_out_prompts_heldout"],
            "demonstration that asks a held-out prompt": len(demonstrations) - len(new_demonstrations),
            "demonstration that opens like a held-out ranking": len(kept_c) - len(unranked),
            "ranking that asks a held-out prompt": counts["left_out_rankings"],
            "prompt that asks a held-out prompt": len(prompts) - len(new_prompts),
            "prompt given before": len(new_prompts) - counts["prompts"],
        },
    )
    return counts


def gather(
    parts: Mapping[str, Path], limits: Mapping[str, int], read: Callable[[Path], Iterator[R]], seed: int
) -> list[R]:
    """All parts' records, each part capped at its limit; which ones stay depends on their content and the seed alone."""
    gathered: list[R] = []
    for name, path in parts.items():
        records = list(read(path))
        if not records:
            raise DataError(f"{name} has no usable rows", path=path)
        if len(records) > limits.get(name, len(records)):
            records = sorted(records, key=lambda r: hashlib.sha256(f"{seed}{_content(r)}".encode()).digest())
            records = records[: limits[name]]
        gathered += records
    return gathered


_ADDED = {"reasoning", "tool_calls", "tool_call_id", "name", "evidence", "citations"}
_ADDED_IN: dict[str, Any] = {
    "messages": {"__all__": _ADDED},
    "prompt": {"messages": {"__all__": _ADDED}},
    "completions": {"__all__": _ADDED},
}


def _content(record: BaseModel) -> str:
    """The record as JSON. Fields that records gained later are in it only where one says something: limits keep the same
    rows as before."""
    added = (
        _ADDED_IN | dict.fromkeys(["id", "weight", "note", "meta"], True) if isinstance(record, Ranking) else _ADDED_IN
    )
    before = record.model_dump_json(exclude=added)
    return before if type(record).model_validate_json(before) == record else record.model_dump_json()


def unique(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Prompts without exact repetitions, first come first kept."""
    return list({text_of(prompt.messages): prompt for prompt in reversed(list(prompts))}.values())[::-1]


def text_of(messages: Sequence[Message]) -> str:
    """The turns of a conversation as one string, for comparing."""
    return "\n".join(f"{message.role}: {message.text}" for message in messages)


def questions(messages: Sequence[Message]) -> set[str]:
    """What a conversation asks: its beginnings that an answer follows, and the whole, which may wait for one."""
    answered = {text_of(messages[:i]) for i, message in enumerate(messages) if message.role == "assistant"}
    return answered | {text_of(messages)}


def opening(messages: Sequence[Message]) -> str:
    """A conversation up to the first answer to its user, the same for all that go on from there; else the whole."""
    first = next((i for i, message in enumerate(messages) if message.role == "user"), len(messages))
    answer = next((i for i in range(first, len(messages)) if messages[i].role == "assistant"), len(messages))
    return text_of(messages[:answer])


def _say(out: Path, left_out: Mapping[str, int]) -> None:
    """One line with what was left out and why, if anything was."""
    reasons = ", ".join(f"{count} x {reason}" for reason, count in left_out.items() if count)
    if reasons:
        _logger.warning("%s: left out %s", out, reasons)
