"""A model on tasks, row by row; the rows that are done are kept, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from tutelage.data.formats import OnBad
from tutelage.data.read.rows import Rejects
from tutelage.errors import RunFolderError, UsageError
from tutelage.evaluate.tasks.models import Subject, Wrote
from tutelage.evaluate.tasks.programs import passes, sample_scores
from tutelage.evaluate.tasks.rows import read_items
from tutelage.evaluate.tasks.task import Compared, Context, Item, Question, Task, Template, answer_of, ask
from tutelage.files import write_atomic
from tutelage.generate.sampler import Sampling
from tutelage.seeds import derive
from tutelage.settings import as_written

Sample = dict[str, Any]
"""A row of samples.jsonl: task, template, id, group, prompt, what the model made of it, scores, tokens, seconds."""


@dataclass(frozen=True)
class Asking:
    """How tasks are asked."""

    shots: int = 0
    rows: int = 0
    """A random sample of so many rows per task; 0: all."""
    templates: tuple[str, ...] = ()
    """Names of the templates to ask with; none: a task's first, and "all": all it has."""
    chat: bool = False
    """Through the model's chat template, not as plain text."""
    seed: int = 0
    samples: int = 0
    """Samples of each answer that is a program; 0: the likeliest answer."""
    temperature: float = 1.0
    """Of the samples."""
    on_bad: OnBad = "stop"
    """What becomes of a row that is too long with its examples."""


class Asked(NamedTuple):
    """A row with one template."""

    template: str
    item: Item
    question: Question


def run_task(
    name: str,
    task: Task,
    items: Sequence[Item],
    pool: Sequence[Item],
    subject: Subject,
    asking: Asking,
    known: Sequence[Sample] = (),
    keep: Callable[[Sequence[Sample]], None] = lambda samples: None,
    told: Callable[[int, int], None] = lambda done, whole: None,
) -> tuple[list[Sample], int]:
    """The samples of all rows in their order, and how many rows were too long and left out.

    ``known`` are samples of an earlier run, which are not computed again; ``keep`` is called with new ones as they are done, and
    ``told`` with how many of how many are done.
    Raises UsageError where rows are too long for the model, RunFolderError where a known sample is of another question or another
    right answer than the row has now, and SandboxError where the answers are programs and no wall stands.
    """
    asked, left_out = _fitting(name, task, _questions(name, task, items, pool, asking), subject, asking)
    done = {(sample["template"], sample["id"]): sample for sample in known if sample["task"] == name}
    for one in asked:
        kept = done.get((one.template, one.item.id))
        if kept is not None and kept["asked"] != _fingerprint(one):
            raise RunFolderError(f"{one.item.id} was asked or answered otherwise in this folder: give another --out")
    todo = [one for one in asked if (one.template, one.item.id) not in done]
    todo.sort(key=lambda one: -len(one.question.shown))  # the longest first: if memory is short, that shows at once
    together = max(1, subject.together // max(1, asking.samples))
    for start in range(0, len(todo), together):
        told(len(asked) - len(todo) + start, len(asked))
        chunk = todo[start : start + together]
        began = time.perf_counter()
        samples = _answered(name, task, chunk, subject, asking)
        seconds = (time.perf_counter() - began) / len(chunk)
        for one, sample in zip(chunk, samples, strict=True):
            place = {"task": name, "template": one.template, "id": one.item.id, "group": one.item.group}
            place |= {"asked": _fingerprint(one), "prompt": one.question.shown}
            done[one.template, one.item.id] = {**place, **sample, "seconds": seconds}
        keep([done[one.template, one.item.id] for one in chunk])
    return [done[one.template, one.item.id] for one in asked], left_out


def _fingerprint(one: Asked) -> str:
    """A hash of all that a row's score rests on beside the model."""
    rests_on = (one.question, one.item.gold, one.item.answers, one.item.group, one.item.source)
    return hashlib.sha256(repr(rests_on).encode()).hexdigest()[:16]


def choose_rows(name: str, items: Sequence[Item], asking: Asking) -> list[Item]:
    """The seeded sample of a task's rows, the same for every model, in the order of the files."""
    if not 0 < asking.rows < len(items):
        return list(items)
    chosen = random.Random(derive(asking.seed, "tasks.rows", name)).sample(range(len(items)), asking.rows)
    return [items[i] for i in sorted(chosen)]


def examples_of(name: str, item: Item, pool: Sequence[Item], asking: Asking, *, grouped: bool) -> list[Item]:
    """The seeded examples of a row: of its group where files are groups, and never the row itself, under another number either."""
    if not asking.shots:
        return []
    usable = [one for one in pool if _other(one, item) and (not grouped or one.group == item.group)]
    if len(usable) < asking.shots:
        where = f" of {item.group}" if grouped else ""
        raise UsageError(
            f"{name}: --shots {asking.shots} are more than the {len(usable)} examples{where} for {item.id}"
        )
    return random.Random(derive(asking.seed, "tasks.shots", name, item.id)).sample(usable, asking.shots)


def _other(one: Item, item: Item) -> bool:
    return one.id != item.id and (one.fields, one.choices) != (item.fields, item.choices)


def templates_of(name: str, task: Task, asking: Asking) -> list[tuple[str, Template]]:
    """The templates that are asked with, in the task's order. UsageError if it has none of those that are named."""
    every = list(task.templates.items())
    if not asking.templates:
        return every[:1]
    chosen = [one for one in every if one[0] in asking.templates or "all" in asking.templates]
    if not chosen:
        wanted = " or ".join(asking.templates)
        raise UsageError(f"{name} has no template {wanted}; it has {', '.join(task.templates)}")
    return chosen


def load_items(
    name: str, task: Task, data: Path | None, asking: Asking, rejects: Rejects | None = None
) -> tuple[list[Item], list[Item]]:
    """The rows that are asked, and the pool of their examples. With ``on_bad`` skip bad rows are left out and go to ``rejects``."""
    left = (rejects or Rejects()) if asking.on_bad != "stop" else None
    every = read_items(name, task, data, rejects=left)
    own = task.pool or task.hub_pool
    spare = left and Rejects()  # of examples none is missed
    pool = [] if not asking.shots else read_items(name, task, data, pool=True, rejects=spare) if own else every
    return choose_rows(name, every, asking), pool


def _questions(
    name: str, task: Task, items: Sequence[Item], pool: Sequence[Item], asking: Asking
) -> list[tuple[Template, Asked]]:
    """Every row with every template that is asked for."""
    groups: dict[str, list[Item]] = {}
    for one in pool:
        groups.setdefault(one.group if task.grouped else "", []).append(one)
    chosen = templates_of(name, task, asking)
    if asking.shots and not all(template.answer for _, template in chosen):
        raise UsageError(f"{name}: its rows have no answers to show as examples: leave out --shots")
    found = []
    for item in items:
        near = groups.get(item.group if task.grouped else "", [])
        shots = examples_of(name, item, near, asking, grouped=task.grouped)
        for key, template in chosen:
            if bare := next((one for one in shots if not answer_of(one, template).strip()), None):
                raise UsageError(f"{name}: {bare.id} has no answer to show as an example: leave out --shots")
            found.append((template, Asked(key, item, ask(item, template, shots, chat=asking.chat))))
    return found


def _fitting(
    name: str, task: Task, questions: Sequence[tuple[Template, Asked]], subject: Subject, asking: Asking
) -> tuple[list[Asked], int]:
    """The questions that leave room for an answer, half of a short context. A row is asked with all templates or with none."""
    asked = [one for _, one in questions]
    if subject.context is None:
        return asked, 0
    answer = min(task.max_tokens, subject.context // 2)
    lengths = [subject.longest(one.question.pairs, answer) + answer for one in asked]
    long = {one.item.id: tokens for one, tokens in zip(asked, lengths, strict=True) if tokens > subject.context}
    if long and (asking.on_bad == "stop" or len(long) == len({one.item.id for one in asked})):
        first, tokens = next(iter(long.items()))
        room = f" with {asking.shots} examples" if asking.shots else ""
        room += f" and {answer} for the answer" if answer else ""
        raise UsageError(
            f"{name}: {len(long)} rows are longer than the model's context of {subject.context} tokens, the first {first} with "
            f"{tokens}{room}; ask with fewer --shots, or leave such rows out with --on_bad skip"
        )
    return [one for one in asked if one.item.id not in long], len(long)


def _answered(name: str, task: Task, chunk: Sequence[Asked], subject: Subject, asking: Asking) -> list[Sample]:
    if task.compare:
        return _compared(task, chunk, subject)
    return _sampled(name, task, chunk, subject, asking) if asking.samples else _written(task, chunk, subject)


def _compared(task: Task, chunk: Sequence[Asked], subject: Subject) -> list[Sample]:
    assert task.compare is not None
    pairs = [pair for one in chunk for pair in (*one.question.pairs, *one.question.bare)]
    weighed = iter(subject.weigh(pairs))
    samples = []
    for one in chunk:
        own = [next(weighed) for _ in one.question.pairs]
        logprobs = [each.logprob for each in own if each.logprob is not None]
        if len(logprobs) < len(own):
            raise UsageError(
                f"{one.item.id} has no prompt, and the server has no likelihood of a text's first token: ask the model's folder"
            )
        # Without it there is no acc_uncond.
        unconditional = [next(weighed).logprob for _ in one.question.bare]
        bare = [each for each in unconditional if each is not None] if None not in unconditional else []
        written = [text.strip() for _, text in one.question.pairs]
        found = Compared(logprobs, bare, written)
        made = {"choices": written, "gold": list(one.item.gold), "logprobs": found.logprobs, "bare": bare}
        contexts = {context: each.before for (context, _), each in zip(one.question.pairs, own, strict=True)}
        read = sum(contexts.values()) + sum(each.tokens for each in own)
        samples.append({**made, "scores": task.compare(one.item, found), "read": read, "written": 0})
    return samples


def _by_template(task: Task, chunk: Sequence[Asked]) -> Iterator[tuple[list[int], list[Context], tuple[str, ...]]]:
    """For each template the places of its rows in the chunk, their contexts, and what ends an answer."""
    places: dict[str, list[int]] = {}
    for i, one in enumerate(chunk):
        places.setdefault(one.template, []).append(i)
    for key, own in places.items():
        contexts = [chunk[i].question.pairs[0][0] for i in own]
        yield own, contexts, task.templates[key].stop if isinstance(contexts[0], str) else ()


def _written(task: Task, chunk: Sequence[Asked], subject: Subject) -> list[Sample]:
    wrote: dict[int, Wrote] = {}
    for places, contexts, stop in _by_template(task, chunk):
        wrote |= zip(places, subject.write(contexts, task.max_tokens, stop), strict=True)
    answers = [(one.item, wrote[i].answer) for i, one in enumerate(chunk)]
    if task.program:
        passed = passes([task.program(item, answer.text) for item, answer in answers])
        scores = [{task.metric: float(one)} for one in passed]
    else:
        assert task.grade is not None
        scores = [task.grade(item, answer) for item, answer in answers]
    return [
        {"answer": answer.text, "finished": answer.finished, "gold": list(item.answers), "scores": score,
         "read": wrote[i].read, "written": wrote[i].written}
        for i, ((item, answer), score) in enumerate(zip(answers, scores, strict=True))
    ]  # fmt: skip


def _sampled(name: str, task: Task, chunk: Sequence[Asked], subject: Subject, asking: Asking) -> list[Sample]:
    """Several samples of each row; a row's draws depend on no other row."""
    assert task.program is not None
    sampling = Sampling(temperature=asking.temperature, max_tokens=task.max_tokens, n=asking.samples)
    wrote: dict[int, list[Wrote]] = {}
    for places, contexts, stop in _by_template(task, chunk):
        keys = [(name, chunk[i].template, chunk[i].item.id) for i in places]
        seeds = [derive(asking.seed, "tasks.samples", *key) for key in keys]
        wrote |= zip(places, subject.sample(contexts, sampling, seeds, stop), strict=True)
    every = [task.program(one.item, each.answer.text) for i, one in enumerate(chunk) for each in wrote[i]]
    passed = iter(passes(every))
    samples: list[Sample] = []
    for i in range(len(chunk)):
        own, right = wrote[i], list(islice(passed, asking.samples))
        means = [each.mean_logprob for each in own if each.mean_logprob is not None]
        samples.append(
            {"answers": [each.answer.text for each in own], "passed": right, "mean_logprobs": means,
             "finished": fmean(each.answer.finished for each in own), "scores": sample_scores(right, means),
             "read": sum(each.read for each in own), "written": sum(each.written for each in own)}
        )  # fmt: skip
    return samples


# ---- what is kept


class Folder:
    """settings.json and samples.jsonl of one model, from the first row that is kept on. Without a path nothing is kept."""

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        """Reads the rows of an earlier run. RunFolderError if it asked otherwise, or of another model."""
        self.path, self.settings, self.samples = path, dict(settings), list[Sample]()
        if path is None or not (path / "settings.json").is_file():
            return
        try:
            before = json.loads((path / "settings.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunFolderError(f"{path / 'settings.json'} is not JSON ({error}): give another --out") from None
        for name, value in settings.items():
            if before.get(name) != value:
                change = f"{name}: {as_written(before.get(name))} there, {as_written(value)} now"
                raise RunFolderError(f"{path} was made with other settings ({change}): give another --out")
        kept = path / "samples.jsonl"
        if kept.is_file():
            whole, _, torn = kept.read_bytes().rpartition(b"\n")
            for number, line in enumerate(whole.splitlines(), 1):
                try:
                    self.samples.append(json.loads(line))
                except ValueError as error:
                    raise RunFolderError(f"{kept}, line {number} is not JSON ({error}): give another --out") from None
            if torn:  # a kill cut the last row short
                os.truncate(kept, len(whole) + bool(whole))

    def keep(self, samples: Sequence[Sample]) -> None:
        """Add rows, on the disk before the next are computed."""
        if self.path is None:
            return
        if not (self.path / "settings.json").is_file():
            write_atomic(self.path / "settings.json", (json.dumps(self.settings, indent=2) + "\n").encode())
        with (self.path / "samples.jsonl").open("ab") as file:
            file.write("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples).encode())
            file.flush()
            os.fsync(file.fileno())
