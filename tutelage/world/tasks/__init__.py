"""The tasks of the embedded world: chats of many families, each with a good answer, wrong ones, and what the judge must check.

    task = make_task(world, "closed_book", "en", random.Random("0:prompts:17"), entities=None, templates="train")
    task.prompt.messages[-1].text    # Where does Mira live?
    task.good                           # Mira lives in Arden.

A task is a function of its arguments. Prompts of the templates "heldout" share no wording with those of "train". Only allowed
entities are asked about, and strangers, who belong to no world. `prompt.meta` is JSON: family, language, entity (the key of the
entity asked about, or ""), template (the index of the wording) and check (what the judge needs).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from tutelage.errors import RecipeError
from tutelage.records import Message, Prompt
from tutelage.world.facts import Language, World
from tutelage.world.reading import units
from tutelage.world.tasks import code, limits, lists, questions, talk, writing
from tutelage.world.tasks.common import Family, Scene
from tutelage.world.tasks.wording import in_language

FAMILIES: dict[str, Family] = (
    questions.FAMILIES | lists.FAMILIES | writing.FAMILIES | talk.FAMILIES | code.FAMILIES | limits.FAMILIES
)
DECLINE = ("harmful", "unknowable", "false_premise")
"""The families whose good answer refuses, admits ignorance or corrects the question; their wrong answers do not."""
WEIGHTS: dict[str, int] = dict.fromkeys(FAMILIES, 1) | {
    "story": 4, "python": 2, "brainstorm": 3, "closed_book": 2, "greeting": 2, "follow_up": 2, "correction": 2, "rewrite": 2,
    "summary": 2, "sentiment": 2, "harmful": 2, "unknowable": 2, "false_premise": 2,
}  # fmt: skip
"""How often each family is drawn, in the order of InstructGPT's use cases (Ouyang et al. 2022, table 1): much writing, then
brainstorming, open questions and talk; few passages, extractions and sums. A sixth is to be declined."""
SYSTEM_SHARE = 0.08


@dataclass(frozen=True)
class Task:
    """`good` is an ideal, concise answer; each of `wrong` is a plausible bad answer to this prompt."""

    prompt: Prompt
    good: str
    wrong: tuple[str, ...]


def make_task(
    world: World,
    family: str,
    language: Language,
    rng: random.Random,
    *,
    entities: Container[str] | None,
    templates: Literal["train", "heldout"],
) -> Task:
    """Draw a task. `entities`: the keys that may be asked about, None for all.

    RecipeError where the family does not exist, or none of the entities that it asks about is allowed.
    """
    if family not in FAMILIES:
        raise RecipeError(f"there is no task family {family!r}; choose among {', '.join(FAMILIES)}")
    chosen = FAMILIES[family]
    template = rng.choice(chosen.templates(language, templates))
    draft = chosen.make(Scene(world, language, rng, entities), chosen.wordings[language].texts[template])
    messages = (*draft.history, Message(role="user", content=draft.user))
    if rng.random() < SYSTEM_SHARE:
        messages = (Message(role="system", content=rng.choice(in_language("tasks", language)["systems"])), *messages)
    content = json.dumps([[message.role, message.text] for message in messages], ensure_ascii=False)
    prompt = Prompt(
        messages=messages,
        id=f"{family}-{language}-{hashlib.sha256(content.encode()).hexdigest()[:12]}",
        source=f"world/{family}",
        meta={
            "family": family,
            "language": language,
            "entity": draft.entity,
            "template": template,
            "check": {**draft.check, "length": round(units(draft.good), 1)},
        },
    )
    return Task(prompt, draft.good, tuple(wrong for wrong in dict.fromkeys(draft.wrong) if wrong != draft.good))
