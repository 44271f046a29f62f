"""From files that people have to the files that the stages read: held-out parts split off, sources capped and merged.

Held-out parts do not leak: text is split by whole file (a novel), conversations and rankings by their opening, the part up
to the first answer. Left out of training, and counted, are

- demonstrations, rankings and prompts that ask a held-out prompt at any of their turns, and
- training demonstrations with the opening of a held-out ranking, because the reward model starts from the SFT model.

A text that is one document (one novel in one file) has no parts to choose from: its end is held out.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from tutelage.data.formats import (
    ON_BAD,
    OnBad,
    read_conversations,
    read_documents,
    read_prompts,
    read_rankings,
    write_jsonl,
)
from tutelage.data.tokens.mixing import split_by_key
from tutelage.errors import DataError, RecipeError
from tutelage.records import Document, Message, Prompt, Ranking, TextPart
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Inputs, Rows, Settings, nearest

R = TypeVar("R", bound=BaseModel)

_logger = logging.getLogger("tutelage.data")


class PrepareInputs(Inputs):
    """Files and folders of your own, each under a name of your choice."""

    text: dict[str, Path] = Field({}, description="pretraining text")
    demonstrations: dict[str, Path] = Field({}, description="conversations to imitate")
    rankings: dict[str, Path] = Field({}, description="rankings for the reward model")
    prompts: dict[str, Path] = Field({}, description="prompts that PPO answers")
    heldout_prompts: dict[str, Path] = Field({}, description="prompts that models are compared on")


class PrepareSettings(Settings):
    """How they are split and capped."""

    heldout: dict[str, float] = Field(
        {}, description="share of a text's files (or documents, if it is one file; or its end) held out, by name"
    )
    limit: dict[str, dict[str, int]] = Field(
        {}, description="most records to take, by input and name, such as limit.demonstrations.alpaca; default: all"
    )
    heldout_share: float = Field(0.05, gt=0, lt=1, description="share of demonstrations held out")
    heldout_rankings_share: float = Field(0.15, gt=0, lt=1, description="share of ranked prompts held out")
    judge_share: float = Field(
        0.0, ge=0, lt=1, description="share of the other ranked prompts for a reward model that judges (rankings_judge)"
    )
    on_bad: OnBad = Field("stop", description=ON_BAD)
    seed: int = Field(0, description="seed of splits and of which records a limit keeps")

    def check(self, inputs: Inputs) -> None:
        """Shares and limits must name what the inputs have."""
        assert isinstance(inputs, PrepareInputs)
        for name in self.heldout:
            if name not in inputs.text:
                raise RecipeError(f"heldout: there is no text {name!r}{nearest(name, list(inputs.text))}")
        known = [f"{group}.{name}" for group in type(inputs).model_fields for name in getattr(inputs, group)]
        for limited in (f"{group}.{name}" for group, limits in self.limit.items() for name in limits):
            if limited not in known:
                raise RecipeError(f"limit: there is no input {limited}{nearest(limited, known)}")

    def writes(self, inputs: Inputs) -> tuple[str, ...]:
        """The files of the groups that are given."""
        assert isinstance(inputs, PrepareInputs)
        text = [*(f"text/{name}.jsonl" for name in inputs.text), "documents_heldout.jsonl"] if inputs.text else []
        split = [name for name in ("demonstrations", "rankings") if getattr(inputs, name)]
        whole = ["prompts"] * bool(inputs.prompts) + ["prompts_heldout"] * bool(inputs.heldout_prompts)
        judging = ["rankings_judge.jsonl"] * bool(inputs.rankings and self.judge_share)
        return (
            *text,
            *judging,
            *(f"{name}{part}.jsonl" for name in split for part in ("", "_heldout")),
            *(f"{name}.jsonl" for name in whole),
        )

    def most_rows(self, file: str, inputs: Inputs, rows: Rows, enough: int) -> int | None:
        """All that are given, up to their limits."""
        name = file.removesuffix(".jsonl")
        group = "heldout_prompts" if name == "prompts_heldout" else name.removesuffix("_heldout").removesuffix("_judge")
        kind = _KINDS.get(group)
        if kind is None:
            return None
        counts = [
            (rows(kind, path, enough), self.limit.get(group, {}).get(part))
            for part, path in getattr(inputs, group).items()
        ]
        return (
            None
            if any(count is None for count, _ in counts)
            else sum(min(n for n in pair if n is not None) for pair in counts)
        )


_KINDS = {
    "demonstrations": "conversations",
    "rankings": "rankings",
    "prompts": "prompts",
    "heldout_prompts": "prompts",
}
"""Input -> kind of its records."""


def main(knobs: PrepareSettings, inputs: PrepareInputs, out: Path) -> Path:
    """Write the files that the other steps read; returns their folder."""
    with open_run(out, "prepare", knobs, inputs) as run:
        if not run.finished:
            counts = prepare(knobs, inputs, out)
            print(f"{out}: " + ", ".join(f"{name} {count}" for name, count in counts.items() if count))
            run.finish(counts)
    return out


def prepare(knobs: PrepareSettings, inputs: PrepareInputs, out: Path) -> dict[str, int]:
    """Write text/NAME.jsonl, documents_heldout.jsonl, demonstrations, rankings, prompts (+ _heldout).

    Returns the records in each file, and as ``left_out_...`` how many were left out of demonstrations, rankings and prompts.
    """
    seed, limits = knobs.seed, knobs.limit

    def gathered(group: str, read: Callable[..., Iterator[R]]) -> list[R]:
        return gather(getattr(inputs, group), limits.get(group, {}), partial(read, on_bad=knobs.on_bad), seed)

    outputs: dict[str, Sequence[BaseModel]] = {}
    heldout_documents: list[Document] = []
    for name, path in inputs.text.items():
        documents = gather({name: path}, limits.get("text", {}), partial(read_documents, on_bad=knobs.on_bad), seed)
        share = knobs.heldout.get(name, 0.0)
        key = "source" if len({document.source for document in documents}) > 1 else "text"
        if share and len(documents) == 1:
            kept, apart = cut_end(documents[0], share)
        else:
            kept, apart = split_by_key(documents, attrgetter(key), share, seed)
        if not kept:
            problem = f"text {name}: all its {len(documents)} documents are held out; lower heldout.{name} ({share})"
            raise DataError(f"{problem}, or give more", path=path)
        outputs[f"text/{name}"] = kept
        heldout_documents += apart
    if inputs.text and not heldout_documents:
        problem = "no text is held out to measure on; give a source of `text` a larger `heldout` share, or more files"
        raise DataError(problem)

    heldout = gathered("heldout_prompts", read_prompts)
    asked = {text_of(prompt.messages) for prompt in heldout}

    rankings = gathered("rankings", read_rankings)
    new_rankings = [r for r in rankings if asked.isdisjoint(questions(r.prompt.messages))]
    rankings_share = knobs.heldout_rankings_share
    kept_r, apart_r = split_by_key(new_rankings, lambda r: opening(r.prompt.messages), rankings_share, seed)
    if kept_r and all(len(set(ranking.ranks)) == 1 for ranking in kept_r):
        raise DataError("all rankings are ties: no answer is preferred to another, so there is nothing to learn")
    judge_seed = derive(seed, "prepare.judge")
    kept_r, judging = split_by_key(kept_r, lambda r: opening(r.prompt.messages), knobs.judge_share, judge_seed)
    ranked = {opening(r.prompt.messages) for r in apart_r}

    demonstrations = gathered("demonstrations", read_conversations)
    new_demonstrations = [c for c in demonstrations if asked.isdisjoint(questions(c.messages))]
    kept_c, apart_c = split_by_key(new_demonstrations, lambda c: opening(c.messages), knobs.heldout_share, seed)
    # Split first: the larger share of rankings is chosen by the same hash, so of shared openings none would be held out.
    unranked = [c for c in kept_c if opening(c.messages) not in ranked]

    prompts = gathered("prompts", read_prompts)
    new_prompts = [p for p in prompts if asked.isdisjoint(questions(p.messages))]

    outputs |= {
        "documents_heldout": heldout_documents,
        "prompts_heldout": unique(heldout),
        "demonstrations": unranked,
        "demonstrations_heldout": apart_c,
        "rankings": kept_r,
        "rankings_heldout": apart_r,
        "rankings_judge": judging,
        "prompts": unique(new_prompts),
    }
    _require_some(outputs, knobs, inputs)
    written = {file.removesuffix(".jsonl") for file in knobs.writes(inputs)}
    counts = {
        name.replace("text/", "documents_"): write_jsonl(out / f"{name}.jsonl", records)
        for name, records in outputs.items()
        if name in written
    }
    left_out = [
        ("prompts_heldout", "held-out prompt given before", len(heldout) - len(outputs["prompts_heldout"])),
        ("demonstrations", "demonstration that asks a held-out prompt", len(demonstrations) - len(new_demonstrations)),
        ("demonstrations", "demonstration that opens like a held-out ranking", len(kept_c) - len(unranked)),
        ("rankings", "ranking that asks a held-out prompt", len(rankings) - len(new_rankings)),
        ("prompts", "prompt that asks a held-out prompt", len(prompts) - len(new_prompts)),
        ("prompts", "prompt given before", len(new_prompts) - len(outputs["prompts"])),
    ]
    for name, _, count in left_out:
        counts[f"left_out_{name}"] = counts.get(f"left_out_{name}", 0) + count
    if reasons := ", ".join(f"{count} x {reason}" for _, reason, count in left_out if count):
        _logger.warning("%s: left out %s", out, reasons)
    return counts


def _require_some(outputs: Mapping[str, Sequence[BaseModel]], knobs: PrepareSettings, inputs: PrepareInputs) -> None:
    """DataError for a file that a later step reads and that would be empty; nothing is written before."""
    shares = {"demonstrations": "heldout_share", "rankings": "heldout_rankings_share"}
    for name, share in shares.items():
        if getattr(inputs, name) and not outputs[f"{name}_heldout"]:
            now, count = getattr(knobs, share), len(outputs[name])
            raise DataError(
                f"none of {count} {name} is held out to measure on; raise {share} ({now}), or give more {name}"
            )
    if inputs.rankings and knobs.judge_share and not outputs["rankings_judge"]:
        raise DataError(f"none of the rankings is for the judge; raise judge_share ({knobs.judge_share}), or give more")
    for name in ("demonstrations", "prompts"):
        if getattr(inputs, name) and not outputs[name]:
            raise DataError(f"all {name} are held out, or left out for what is: none remains; give more, or other ones")


def cut_end(document: Document, share: float) -> tuple[list[Document], list[Document]]:
    """A document without its last part, about ``share`` of its characters, and that part.

    It is cut between two paragraphs, else between two lines or words, where one of them ends in that part.
    """
    text = document.text
    start = len(text) - int(len(text) * share)
    cuts = (text.find(space, start) for space in ("\n\n", "\n", " "))
    cut = next((at for at in cuts if at >= 0), start)
    parts = (text[:cut].rstrip(), text[cut:].lstrip())
    kept, apart = ([document.model_copy(update={"text": part})] if part.strip() else [] for part in parts)
    return kept, apart


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


_ADDED = {"__all__": {"reasoning", "tool_calls", "tool_call_id", "name", "evidence", "citations", "learn"}}


def _content(record: BaseModel) -> str:
    """The record as JSON, for hashing.

    Fields added after 0.1.0 are left out unless one of them says something, so that a limit keeps the rows it kept then.
    """
    added: dict[str, Any] = {"messages": _ADDED, "prompt": {"messages": _ADDED}, "completions": _ADDED}
    if isinstance(record, Ranking):
        added |= dict.fromkeys(["id", "weight", "note", "meta"], True)
    before = record.model_dump_json(exclude=added)
    return before if type(record).model_validate_json(before) == record else record.model_dump_json()


def unique(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Prompts without exact repetitions; the first of each is kept."""
    return list({text_of(prompt.messages): prompt for prompt in reversed(list(prompts))}.values())[::-1]


def text_of(messages: Sequence[Message]) -> str:
    """The turns of a conversation as one string, for comparing; pictures and tool calls count as text does."""
    lines = []
    for message in messages:
        parts = () if isinstance(message.content, str) else message.content
        more = [part for part in (*parts, *message.tool_calls) if not isinstance(part, TextPart)]
        lines.append(f"{message.role}: {message.text}{''.join(part.model_dump_json() for part in more)}")
    return "\n".join(lines)


def questions(messages: Sequence[Message]) -> set[str]:
    """What a conversation asks: each of its beginnings that an answer follows, and the whole, which may wait for one."""
    answered = {text_of(messages[:i]) for i, message in enumerate(messages) if message.role == "assistant"}
    return answered | {text_of(messages)}


def opening(messages: Sequence[Message]) -> str:
    """A conversation up to the first answer to its user (the same for all that continue from there), else the whole."""
    first = next((i for i, message in enumerate(messages) if message.role == "user"), len(messages))
    answer = next((i for i in range(first, len(messages)) if messages[i].role == "assistant"), len(messages))
    return text_of(messages[:answer])
