"""Looks for held-out data in training data: prompts word for word, their wordings, their entities, their problems."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tutelage.errors import DataError
from tutelage.records import Prompt
from tutelage.world.tasks import FAMILIES
from tutelage.world.tasks.common import slots_filled

_ANCHOR, _STRIDE = 8, 4
"""Characters per anchor, and between the places of a text at which anchors are looked up."""
PROBLEM_KINDS = ("sum", "sequence", "items", "format", "summary", "story", "python", "grammar")
"""Kinds of checks with a freshly drawn problem, of which there are enough for held-out ones to be new."""


class LeakFinder:
    """Finds held-out prompts within texts, whatever the case and the spaces."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        texts = sorted({text_of(prompt) for prompt in prompts})
        self._short = [text for text in texts if len(text) < _ANCHOR + _STRIDE - 1]
        # Wherever a prompt is in a text, one of its first _STRIDE anchors is at a multiple of _STRIDE.
        self._prompts: dict[str, list[str]] = {}
        for text in set(texts).difference(self._short):
            for i in range(_STRIDE):
                self._prompts.setdefault(text[i : i + _ANCHOR], []).append(text)
        self._anchors = frozenset(self._prompts)

    def find(self, text: str) -> str | None:
        """A held-out prompt that the text contains, the first in alphabetical order; None if there is none."""
        text = normalised(text)
        found = self._anchors.intersection([text[i : i + _ANCHOR] for i in range(0, len(text), _STRIDE)])
        candidates = (candidate for anchor in found for candidate in self._prompts[anchor])
        return min((candidate for candidate in (*self._short, *candidates) if candidate in text), default=None)

    def within(self, prompt: Prompt) -> str | None:
        """``find`` in all that is said in a prompt."""
        return self.find("\n".join(message.text for message in prompt.messages))


def check_leaks(files: Mapping[str, Sequence[Any]], heldout_entities: Iterable[str]) -> dict[str, int]:
    """Raise DataError at the first leak; the numbers of documents and conversations that were searched.

    `files` maps the names that build.py lists (without .jsonl) to records. A leak is a held-out prompt within a record of training,
    a held-out wording, entity or problem there, and a held-out prompt with an entity or a wording that is not held out.
    """
    heldout = frozenset(heldout_entities)
    for prompt in files["prompts_heldout"]:
        subject, meta = prompt.meta["entity"], prompt.meta
        if subject and subject not in heldout:
            raise DataError(f"held-out prompt {prompt.id} asks about {subject}, which is not held out")
        if meta["template"] in FAMILIES[meta["family"]].templates(meta["language"], "train"):
            raise DataError(f"held-out prompt {prompt.id} has a wording of training", found=prompt.messages[-1].text)
    finder = LeakFinder(files["prompts_heldout"])
    problems = {problem for prompt in files["prompts_heldout"] if (problem := problem_of(prompt))}
    for document in files["documents"]:
        if found := finder.find(document.text):
            raise DataError("a document contains a held-out prompt", field=document.source, found=found)
    asked = [
        (f"demonstration {i}", Prompt(messages=conversation.messages[:-1], meta=conversation.meta))
        for i, conversation in enumerate([*files["demonstrations"], *files["demonstrations_heldout"]])
    ]
    asked += [(f"prompt {prompt.id}", prompt) for prompt in files["prompts"]]
    for name, prompt in asked:
        if found := finder.within(prompt):
            raise DataError(f"{name} contains a held-out prompt", found=found)
        leak = ""
        if wording := heldout_wording(prompt):
            leak = f"has the held-out wording {wording!r}"
        elif about := heldout.intersection(subjects_of(prompt)):
            leak = f"asks about {', '.join(sorted(about))}, held out"
        elif problem_of(prompt) in problems:
            leak = "poses the problem of a held-out prompt"
        if leak:
            raise DataError(f"{name} {leak}", found=prompt.messages[-1].text)
    return {"searched_documents": len(files["documents"]), "searched_conversations": len(asked)}


def normalised(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.casefold().split())


def text_of(prompt: Prompt) -> str:
    """What a prompt asks, normalised: all its messages except the system's."""
    return normalised("\n".join(message.text for message in prompt.messages if message.role != "system"))


def subjects_of(prompt: Prompt) -> set[str]:
    """The entities that a prompt asks about, in the end or on the way."""
    check = prompt.meta["check"]
    return {key for key in (prompt.meta["entity"], check.get("subject"), *check.get("via", ())) if key}


def problem_of(prompt: Prompt) -> str | None:
    """What is asked for beneath the wording, in either language; None if it is not a freshly drawn problem.

    The same numbers, items or words in another order are the same problem.
    """
    check = prompt.meta["check"]
    if check["kind"] not in PROBLEM_KINDS and "facts" not in check:
        return None
    problem = {key: value for key, value in check.items() if key not in ("length", "limit", "claim")}
    if check["kind"] == "sum":
        problem["a"], problem["b"] = sorted((check["a"], check["b"]))
    problem |= {key: sorted(value) for key, value in problem.items() if isinstance(value, list)}
    return json.dumps(problem, sort_keys=True, ensure_ascii=False)


def heldout_wording(prompt: Prompt) -> str | None:
    """The held-out wording of the prompt's own family and language that it has, or could have; None if it has none."""
    meta = prompt.meta
    family, language = FAMILIES[meta["family"]], meta["language"]
    asked = prompt.messages[-1].text
    for index in family.templates(language, "heldout"):
        template = family.wordings[language].texts[index]
        if index == meta["template"]:
            return template
        opening = template.partition("{")[0].casefold()  # spares compiling most of the patterns
        if asked.casefold().startswith(opening) and slots_filled(template).fullmatch(asked):
            return template
    return None
