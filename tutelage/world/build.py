"""Builds the files that a run on the embedded world begins with, and keeps held-out data apart from training data.

    documents.jsonl                 texts to pretrain on, with some dirt; they tell about everybody
    documents_heldout.jsonl         other texts, clean: for bits per byte
    demonstrations.jsonl            conversations by imperfect trainers
    demonstrations_heldout.jsonl    the same trainers on other prompts: for the validation loss, so alike in everything
    prompts.jsonl                   prompts to sample answers for, for rankings and PPO
    prompts_heldout.jsonl           prompts to evaluate on: families by their weights, the same share of Chinese in each
    world.json                      settings, counts, held-out entities, hash of every file

A held-out prompt asks about an entity (person, town, animal, thing) that no demonstration or training prompt asks about; its
wording is in none of them, and neither is its sum, list, passage, function or sentence. What some families draw from a short list
(function bodies, harmful requests, mysteries, mistakes) is in training too. `check_leaks` verifies this before anything is written.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tutelage.errors import DataError, RecipeError
from tutelage.files import write_atomic
from tutelage.records import Conversation
from tutelage.settings import Inputs, Rows, Settings
from tutelage.world.dirt import with_dirt
from tutelage.world.facts import LANGUAGES, RELATIONS, Language, World, make_world
from tutelage.world.judge import Judge
from tutelage.world.leaks import LeakFinder, check_leaks, problem_of, subjects_of, text_of
from tutelage.world.tasks import WEIGHTS, Task, make_task
from tutelage.world.texts import documents
from tutelage.world.trainers import TrainerRates, demonstrate

Split = Literal["train", "heldout"]
_HELDOUT_SEED = 7_000_001
"""Added to the seed for held-out documents, which come from a stream of their own."""
_TRIES = 40
"""Draws before a family counts as having no new prompt left in a language; after a quarter of them a repetition will do."""


class WorldSettings(Settings):
    """How large a world, how much of everything, and how good its trainers are."""

    seed: int = Field(0, description="seed of the world and of all its texts")
    people: int = Field(64, ge=8, description="people of the world, at most 96")
    towns: int = Field(14, ge=6, description="towns of the world, at most 20")
    values: int = Field(20, ge=6, description="most animals, things, jobs, foods, years ... of the world, of each")
    documents: int = Field(30_000, gt=0, description="documents to pretrain on, before dirt")
    heldout_documents: int = Field(1000, gt=0, description="documents to measure bits per byte on")
    dirt: float = Field(0.05, ge=0, lt=1, description="share of dirty documents for a filter to find; 0: none")
    demonstrations: int = Field(6000, gt=0, description="conversations written by trainers")
    heldout_demonstrations: int = Field(300, gt=0, description="demonstrations for the validation loss")
    prompts: int = Field(5000, gt=0, description="prompts for rankings and PPO")
    heldout_prompts: int = Field(600, gt=0, description="prompts to evaluate on")
    chinese: float = Field(0.3, ge=0, le=1, description="share of Chinese among demonstrations and prompts")
    heldout_entities: float = Field(
        0.25, gt=0, lt=1, description="share of each kind of entities that training never asks about"
    )
    rates: TrainerRates = Field(TrainerRates(), description="faults of the trainers")

    def most_rows(self, file: str, inputs: Inputs, rows: Rows, enough: int) -> int | None:
        """As many as asked for."""
        name = file.removesuffix(".jsonl")
        asked = f"heldout_{name.removesuffix('_heldout')}" if name.endswith("_heldout") else name
        return None if name.startswith("documents") else getattr(self, asked, None)  # dirt adds documents


@dataclass(frozen=True)
class WorldData:
    """All of it, in memory."""

    world: World
    heldout_entities: tuple[str, ...]
    left_out: int
    """How many documents contained a held-out prompt and were dropped."""
    files: dict[str, list[Any]]
    """Name (without .jsonl) -> records."""


def build_world(settings: WorldSettings, out: Path) -> dict[str, int]:
    """Draw everything, check it, write the files; the counts of each file and of what was checked.

    DataError if training data contain something held out; RecipeError if the world is too small for so many prompts.
    """
    data = draw_world_data(settings)
    files = data.files
    counts = {name: len(records) for name, records in files.items()}
    counts["left_out_documents"] = data.left_out
    counts |= check_leaks(files, data.heldout_entities)
    hashes = {}
    for name, records in files.items():
        content = "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records).encode()
        hashes[f"{name}.jsonl"] = hashlib.sha256(content).hexdigest()
        write_atomic(out / f"{name}.jsonl", content)
    about = {
        "settings": settings.model_dump(mode="json"),
        "counts": counts,
        "heldout_entities": data.heldout_entities,
        "sha256": hashes,
    }
    write_atomic(out / "world.json", json.dumps(about, indent=2, ensure_ascii=False).encode())
    return counts


def load_judge(folder: Path) -> Judge:
    """The judge of the world that a folder was built from; DataError if it is not such a folder."""
    path = folder / "world.json"
    try:
        settings = WorldSettings.model_validate(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read the world: {error}", path=path, expected="the file of `tutelage world`") from None
    return Judge(world_of(settings))


def world_of(settings: WorldSettings) -> World:
    return make_world(settings.seed, people=settings.people, towns=settings.towns, values=settings.values)


def draw_world_data(settings: WorldSettings) -> WorldData:
    """Everything that `build_world` writes. Later parts avoid what earlier ones hold out, never the other way round."""
    world = world_of(settings)
    heldout = choose_heldout(world, settings.heldout_entities, settings.seed)
    drawer = _Drawer(world, settings, heldout)
    evaluation = drawer.tasks("heldout_prompts", settings.heldout_prompts, "heldout")
    drawer.reserve(evaluation, problems=True)
    validation = drawer.tasks("heldout_demonstrations", settings.heldout_demonstrations, "train")
    drawer.reserve(validation)
    demonstrated = drawer.tasks("demonstrations", settings.demonstrations, "train", repeat=True)
    prompts = drawer.tasks("prompts", settings.prompts, "train", avoid=demonstrated)
    clean = documents(world, count=settings.documents, seed=settings.seed)
    raw = list(with_dirt(clean, seed=settings.seed, rate=settings.dirt))
    texts = [document for document in raw if not drawer.finder.find(document.text)]
    known = {document.text for document in texts}
    fresh = documents(world, count=3 * settings.heldout_documents, seed=settings.seed + _HELDOUT_SEED)
    files: dict[str, list[Any]] = {
        "documents": texts,
        "documents_heldout": list(islice((d for d in fresh if d.text not in known), settings.heldout_documents)),
        "demonstrations": _demonstrate(demonstrated, "demonstrations", settings),
        "demonstrations_heldout": _demonstrate(validation, "heldout_demonstrations", settings),
        "prompts": [task.prompt for task in prompts],
        "prompts_heldout": [task.prompt for task in evaluation],
    }
    return WorldData(world, heldout, len(raw) - len(texts), files)


def choose_heldout(world: World, share: float, seed: int) -> tuple[str, ...]:
    """The share of the entities of each kind that training never asks about; at least one, and never all."""
    chosen: list[str] = []
    for kind in RELATIONS:
        keys = sorted(world.subjects(kind))
        n = min(max(1, round(share * len(keys))), len(keys) - 1)
        chosen += random.Random(f"{seed}:heldout:{kind}").sample(keys, n)
    return tuple(sorted(chosen))


def _demonstrate(tasks: Iterable[Task], purpose: str, settings: WorldSettings) -> list[Conversation]:
    return [
        demonstrate(task, rates=settings.rates, rng=random.Random(f"{settings.seed}:{purpose}:trainer:{i}"))
        for i, task in enumerate(tasks)
    ]


class _Drawer:
    """Draws tasks for one purpose after the other, and keeps what is reserved out of later ones."""

    def __init__(self, world: World, settings: WorldSettings, heldout: tuple[str, ...]) -> None:
        self.world, self.settings = world, settings
        self.heldout = frozenset(heldout)
        self.others = frozenset(world.entities) - self.heldout
        self.texts: set[str] = set()
        """Prompts that may not be drawn any more."""
        self.problems: set[str] = set()
        """Sums, lists, passages and functions that may not be asked for any more."""
        self.finder = LeakFinder(())

    def reserve(self, tasks: Sequence[Task], *, problems: bool = False) -> None:
        """Keep these prompts, and their problems if asked, out of everything drawn later."""
        self.texts.update(text_of(task.prompt) for task in tasks)
        if problems:
            self.problems.update(problem for task in tasks if (problem := problem_of(task.prompt)))
            self.finder = LeakFinder(task.prompt for task in tasks)

    def tasks(
        self, purpose: str, count: int, split: Split, *, avoid: Sequence[Task] = (), repeat: bool = False
    ) -> list[Task]:
        """`count` tasks in random order, families by their weights and the languages of each family in their shares.

        All prompts differ, and none is in `avoid` as long as there are others. A family that has no new prompt left asks
        again with `repeat`; without it the other families make up for it.
        """
        drawn: list[Task] = []
        seen: set[str] = set()
        barred, second_best = (set(), seen) if repeat else (seen, {text_of(task.prompt) for task in avoid})
        shares = {"en": 1 - self.settings.chinese, "zh": self.settings.chinese}
        left = {(family, language) for family in WEIGHTS for language in LANGUAGES if shares[language] > 0}
        numbers: Counter[str] = Counter()
        for family in cycle(family for family, weight in WEIGHTS.items() for _ in range(weight)):
            if len(drawn) == count:
                break
            if not left:
                raise RecipeError(
                    f"world.{purpose} is {count}, but there are only {len(drawn)} such prompts; choose fewer"
                )
            number = numbers[family]
            numbers[family] += 1
            chinese = int((number + 1) * shares["zh"] + 1e-9) > int(number * shares["zh"] + 1e-9)
            language: Language = "zh" if chinese else "en"
            if (family, language) not in left:
                continue
            task = self._new(f"{purpose}:{number}", family, language, split, barred, second_best)
            if task is None:
                left.remove((family, language))
                continue
            drawn.append(task)
            seen.add(text_of(task.prompt))
        random.Random(f"{self.settings.seed}:{purpose}:order").shuffle(drawn)
        return drawn

    def _new(
        self, key: str, family: str, language: Language, split: Split, barred: set[str], second_best: set[str]
    ) -> Task | None:
        """An allowed task, with a prompt from `second_best` only if nothing else turns up; None if there is none."""
        second = None
        entities = self.heldout if split == "heldout" else self.others
        for attempt in range(_TRIES):
            if second is not None and attempt >= _TRIES // 4:
                break
            rng = random.Random(f"{self.settings.seed}:{key}:{family}:{language}:{attempt}")
            task = make_task(self.world, family, language, rng, entities=entities, templates=split)
            text = text_of(task.prompt)
            if text in self.texts or text in barred or problem_of(task.prompt) in self.problems:
                continue
            if split == "train" and not self.heldout.isdisjoint(subjects_of(task.prompt)):
                continue  # for example a question over two steps that ends at a held-out person
            if self.finder.within(task.prompt):
                continue  # for example a question about a stranger behind a passage, which is held out without one
            if text not in second_best:
                return task
            second = second or task
        return second
