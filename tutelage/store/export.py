"""What people said, as files that trainers read: rankings, demonstrations and prompts, by InstructGPT's rules.

Ouyang et al. 2022, appendix A.2: prompts are deduplicated by a long common prefix, each person gives at most 200, splits are by
person, and personal data are removed. What signals are worth is decided here: rankings train; a comparison in the chat is a ranking
of two, with its position and policies; thumbs are in no file; edits are demonstrations only on request. Whoever has not agreed, or
no longer agrees, is in no row, as asker or as labeller; nor is a conversation that its owner keeps out.

A folder holds ``rankings.jsonl``, ``demonstrations.jsonl`` and ``prompts.jsonl``, each also with ``_heldout`` for evaluation,
``sources.jsonl`` with the origin of every row, and ``manifest.json``. A file without rows is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Select, exists, func, insert, select

from tutelage.errors import StoreError, UsageError
from tutelage.files import atomic_folder, write_atomic
from tutelage.records import Completion, Conversation, Message, Prompt, Ranking, Record
from tutelage.seeds import derive
from tutelage.store.database import Store
from tutelage.store.labels import counts
from tutelage.store.people import consents_now
from tutelage.store.personal import scrub, scrub_record
from tutelage.store.prompts import HELD_OUT, PREFIX, Split, collect, prefix_key, split_of, usable
from tutelage.store.tables import (
    conversations,
    demonstrations,
    erasures,
    export_rows,
    exports,
    feedback,
    labels,
    messages,
    new_id,
    prompts,
    tasks,
)

PER_USER = 200


@dataclass(frozen=True)
class Asked:
    """A prompt that may be used."""

    id: str
    author: str | None
    chat: str | None
    message: str | None
    prompt: Prompt
    evaluates: bool
    """It is in a task for evaluation, or of a gate."""


@dataclass(frozen=True)
class Line:
    """A row of a file, and where it comes from."""

    kind: str
    record: Record
    source: str
    """``label-12``, ``comparison-7``, ``demonstration-3``, ``edit-5`` or ``prompt-ID``: a row of the store."""
    asked: Asked
    labeller: str | None = None


@dataclass
class Chosen:
    """The prompts that are exported, and why others are not."""

    by_id: dict[str, tuple[Asked, Split]]
    """Prompt -> its split, for all that may be in a file; rankings of near-identical prompts are all kept."""
    heads: list[str]
    """The first of each group of near-identical prompts: what prompts.jsonl holds."""
    left_out: Counter[str] = field(default_factory=Counter)

    def take(self, prompt_id: str | None, signal: str) -> Asked | None:
        """The prompt of a label; None, and the label counts as left out, if it is not exported."""
        if prompt_id not in self.by_id:
            self.left_out[f"{signal}: its prompt is not exported"] += 1
            return None
        return self.by_id[prompt_id][0]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    id: str
    folder: Path
    rows: dict[str, int]
    """File -> rows."""
    left_out: dict[str, int]
    """Reason -> how many prompts or labels."""
    personal_data: dict[str, int]
    """Kind -> how many pieces were replaced now; most were when the prompts were collected."""


def pseudonym(user_id: str) -> str:
    """How files name a person: the same in every export, and not to be turned back without the database."""
    return f"p_{hashlib.blake2b(user_id.encode(), digest_size=8, person=b'tutelage').hexdigest()}"


def choose(asked: Sequence[Asked], *, seed: int = 0, per_user: int = PER_USER, held_out: float = HELD_OUT) -> Chosen:
    """Which prompts are exported, and in which split. Pure; ``asked`` is in the order in which people asked.

    No author, and no two near-identical prompts, are in both splits.
    """
    splits: dict[str, Split] = {one.id: split_of(one.author, one.id, held_out=held_out) for one in asked}
    chosen, first = Chosen({}, []), dict[bytes, Asked]()
    allowed = set[str]()
    by_author: dict[str | None, list[Asked]] = {}
    usable_ones = []
    for one in asked:
        if one.evaluates and one.author is None:
            splits[one.id] = "evaluate"
        if one.evaluates and splits[one.id] == "train":
            chosen.left_out["prompt: ranked for evaluation, while its author's others train"] += 1
            continue
        usable_ones.append(one)
        if first.setdefault(prefix_key(one.prompt), one) is one:
            by_author.setdefault(one.author, []).append(one)
        else:
            chosen.left_out["prompt: begins like another"] += 1
    for author, mine in by_author.items():
        drawn = sorted(mine, key=lambda one: derive(seed, "store.export.per user", one.id))
        kept = drawn if author is None else drawn[:per_user]
        allowed |= {one.id for one in kept}
        if len(drawn) > len(kept):
            chosen.left_out[f"prompt: its author has {per_user} others"] += len(drawn) - len(kept)
    for one in usable_ones:
        head = first[prefix_key(one.prompt)]
        if head.id in allowed and splits[one.id] == splits[head.id]:
            chosen.by_id[one.id] = (one, splits[one.id])
    chosen.heads = [one.id for one in usable_ones if one.id in allowed]
    return chosen


def export(
    store: Store,
    folder: Path,
    *,
    seed: int = 0,
    per_user: int = PER_USER,
    held_out: float = HELD_OUT,
    edits: bool = False,
    allow_empty: bool = False,
) -> Exported:
    """Write a folder, which may not exist yet. The same store and settings give the same bytes, whatever the time.

    ``held_out`` is the share of people whose prompts are for evaluation, ``seed`` draws which prompts of a prolific person are
    taken. Raises UsageError if the folder is taken or, unless ``allow_empty``, there is nothing to export.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already; give another name")
    collect(store)
    with store.read() as db:
        erased_before = db.scalar(select(func.max(erasures.c.id)))
        chosen = choose(list(_asked(db)), seed=seed, per_user=per_user, held_out=held_out)
        chosen.left_out.update(_not_usable(db))
        lines = [*_rankings(db, chosen), *_comparisons(db, chosen), *_demonstrations(db, chosen, edits)]
    asked = (chosen.by_id[i][0] for i in chosen.heads)
    lines += [Line("prompts", one.prompt.model_copy(update={"id": one.id}), f"prompt-{one.id}", one) for one in asked]
    if not lines and not allow_empty:
        why = "; ".join(f"{count} x {reason}" for reason, count in sorted(chosen.left_out.items()))
        raise UsageError(f"there is nothing to export yet{f' (left out: {why})' if why else ''}")
    rules = {"seed": seed, "per_user": per_user, "held_out": held_out, "edits": edits}
    with atomic_folder(folder) as temporary:
        manifest, rows = _write(temporary, lines, chosen, rules)
        made = new_id()
        with (
            store.write() as db
        ):  # before the folder is there: a folder that the store knows nothing of could not be listed
            if db.scalar(select(func.max(erasures.c.id))) != erased_before:
                raise StoreError("somebody's data was erased during the export; run it again")
            described = {"id": made, "folder": str(folder.resolve()), "manifest": manifest, "created": store.now()}
            db.execute(insert(exports).values(described))
            if rows:
                db.execute(insert(export_rows), [row | {"export_id": made} for row in rows])
    return Exported(made, folder, manifest["rows"], manifest["left_out"], manifest["personal_data"])


# ---- what there is


def _asked(db: Connection) -> Iterator[Asked]:
    evaluates = select(tasks.c.prompt_id).where(tasks.c.purpose != "train")
    of_gate = exists().where(tasks.c.prompt_id == prompts.c.id, tasks.c.purpose == "gate")
    query = (
        select(prompts, messages.c.conversation_id, prompts.c.id.in_(evaluates).label("evaluates"))
        .outerjoin(messages, messages.c.id == prompts.c.message_id)
        .where(usable(), prompts.c.author_id.is_not(None) | ~of_gate)
        .order_by(prompts.c.id)
    )
    for row in db.execute(query):
        prompt = Prompt.model_validate(row.prompt)
        yield Asked(row.id, row.author_id, row.conversation_id, row.message_id, prompt, row.evaluates)


def _not_usable(db: Connection) -> dict[str, int]:
    """How many messages of people are no prompts, by reason."""
    said = select(func.count()).select_from(messages.join(conversations))
    by_person = messages.c.message["role"].as_string() == "user"
    agrees = consents_now(conversations.c.user_id)
    reasons = {
        "prompt: kept out of training by its author": agrees & conversations.c.keep_out,
        "prompt: its author has not agreed": ~agrees,
    }
    found = {why: db.scalar(said.where(by_person, which)) or 0 for why, which in reasons.items()}
    return {why: count for why, count in found.items() if count}


def _rankings(db: Connection, chosen: Chosen) -> Iterator[Line]:
    of_task = (tasks.c.prompt_id, tasks.c.completions, tasks.c.groups, tasks.c.reason)
    query = select(labels, *of_task).join(tasks).where(counts(), consents_now(labels.c.user_id))
    for row in db.execute(query.where(tasks.c.purpose != "gate").order_by(labels.c.id)):
        if (asked := chosen.take(row.prompt_id, "ranking")) is not None:
            said, source = row.body, f"label-{row.id}"
            shown = [row.groups[group][0] for group in said["shown"]]
            record = Ranking(
                prompt=asked.prompt,
                completions=_completions(row.completions),
                labeller=pseudonym(row.user_id),
                source="store",
                id=source,
                meta={"signal": "ranking", "task": row.task_id, "reason": row.reason, "shown": shown},
                **{name: value for name, value in said.items() if name != "shown"},
            )
            yield Line("rankings", record, source, asked, row.user_id)


def _comparisons(db: Connection, chosen: Chosen) -> Iterator[Line]:
    """The last choice of a person between two answers, as a ranking of two in the order in which they were shown."""
    latest = {(row.user_id, *sorted(row.body["shown"])): row for row in db.execute(_feedback("comparison"))}
    for row in latest.values():
        if (asked := chosen.take(row.prompt_id, "comparison")) is not None:
            source = f"comparison-{row.id}"
            record = Ranking(
                prompt=asked.prompt,
                completions=_completions(row.snapshot["answers"]),
                ranks={"first": (1, 2), "second": (2, 1), "tie": (1, 1)}[row.body["better"]],
                labeller=pseudonym(row.user_id),
                source="store",
                id=source,
                meta={"signal": "comparison", "shown": [0, 1], "policies": row.body["policies"]},
            )
            yield Line("rankings", record, source, asked, row.user_id)


def _demonstrations(db: Connection, chosen: Chosen, edits: bool) -> Iterator[Line]:
    query = select(demonstrations).where(consents_now(demonstrations.c.user_id)).order_by(demonstrations.c.id)
    found = [("demonstration", row, Message.model_validate(row.message)) for row in db.execute(query)]
    last = {row.message_id: row for row in db.execute(_feedback("edit"))} if edits else {}
    found += [("edit", row, Message(role="assistant", content=row.body["text"])) for row in last.values()]
    for signal, row, answer in found:
        if (asked := chosen.take(row.prompt_id, signal)) is not None:
            source = f"{signal}-{row.id}"
            said, meta = (*asked.prompt.messages, answer), {"signal": signal, "id": source}
            yield Line(
                "demonstrations", Conversation(messages=said, source="store", meta=meta), source, asked, row.user_id
            )


def _feedback(kind: str) -> Select[Any]:
    """What people who agree said of answers, with the prompt that was answered, if it may be used."""
    query = select(feedback, prompts.c.id.label("prompt_id")).join(messages, messages.c.id == feedback.c.message_id)
    query = query.outerjoin(prompts, prompts.c.message_id == messages.c.parent_id)
    return query.where(feedback.c.kind == kind, consents_now(feedback.c.user_id)).order_by(feedback.c.id)


def _completions(made: Iterable[Any]) -> tuple[Completion, ...]:
    return tuple(Completion.model_validate(completion) for completion in made)


# ---- files


def _write(
    folder: Path, lines: Iterable[Line], chosen: Chosen, rules: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write everything; returns the manifest and the rows of ``export_rows`` without their export."""
    files: dict[str, list[bytes]] = {}
    sources, people, personal = list[bytes](), list[dict[str, Any]](), Counter[str]()
    for line in lines:
        name = f"{line.kind}{'_heldout' if chosen.by_id[line.asked.id][1] == 'evaluate' else ''}.jsonl"
        record, found = _scrubbed(line.record)
        personal.update(found)
        rows = files.setdefault(name, [])
        rows.append(record.model_dump_json(exclude_defaults=True).encode())
        where = {"file": name, "line": len(rows)}
        author = line.asked.author
        origin = {"source": line.source, "prompt": line.asked.id, "message": line.asked.message}
        origin |= {"author": author and pseudonym(author), "labeller": line.labeller and pseudonym(line.labeller)}
        sources.append(json.dumps(where | origin).encode())
        of_author = {"user_id": author or "", "conversation_id": line.asked.chat}
        of_labeller = {"user_id": line.labeller or "", "conversation_id": None}
        people += [where | one for one in (of_author, of_labeller) if one["user_id"]]
    files["sources.jsonl"] = sources
    for name, rows in files.items():
        write_atomic(folder / name, b"".join(row + b"\n" for row in rows))
    manifest = {
        "rules": rules | {"prefix_bytes": PREFIX},
        "rows": {name: len(rows) for name, rows in sorted(files.items())},
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(files)},
        "left_out": dict(sorted(chosen.left_out.items())),
        "personal_data": dict(sorted(personal.items())),
    }
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=2).encode() + b"\n")
    return manifest, people


def _scrubbed(record: Record) -> tuple[Record, Counter[str]]:
    """The record without personal data: answers may quote what was asked, and what is found may be more than it was."""
    if isinstance(record, Ranking):
        prompt, found = scrub_record(record.prompt)
        answers = [scrub_record(completion) for completion in record.completions]
        note, noted = scrub(record.note)
        changes = {"prompt": prompt, "completions": tuple(answer for answer, _ in answers), "note": note}
        return record.model_copy(update=changes), sum((more for _, more in answers), found + noted)
    return scrub_record(cast(Prompt, record))  # or a Conversation
