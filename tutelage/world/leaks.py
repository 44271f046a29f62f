"""Looks for what is held out in what is trained on: prompts word for word, their wordings, their entities, their problems."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from tutelage.errors import DataError
from tutelage.records import Conversation, Document, Prompt
from tutelage.world.tasks import FAMILIES
from tutelage.world.tasks.common import slots_filled

_ANCHOR = 8
"""Characters of a prompt by which places to compare are found."""
PROBLEM_KINDS = ("sum", "sequence", "items", "format", "summary", "story", "python")
"""Kinds of checks that hold a problem drawn afresh, with so many of them that held-out ones can be new."""


class LeakFinder:
    """Finds held-out prompts within texts, whatever the case and the spaces."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        self._texts: dict[str, list[str]] = {}
        texts = sorted({text_of(prompt) for prompt in prompts})
        self._width = min([_ANCHOR, *map(len, texts)])
        for text in texts:
            self._texts.setdefault(text[: self._width], []).append(text)
        self._anchors = frozenset(self._texts)

    def find(self, text: str) -> str | None:
        """A held-out prompt that the text contains; None where it contains none."""
        text, width = normalised(text), self._width
        anchors = self._anchors.intersection(text[i : i + width] for i in range(len(text) - width + 1))
        found = [candidate for anchor in anchors for candidate in self._texts[anchor] if candidate in text]
        return min(found, default=None)


def check_leaks(
    *,
    documents: Iterable[Document],
    demonstrations: Iterable[Conversation],
    prompts: Iterable[Prompt],
    heldout_prompts: Collection[Prompt],
    heldout_entities: Collection[str],
) -> dict[str, int]:
    """Raise DataError at the first leak; the numbers of what was searched.

    A leak is a held-out prompt within a document, a demonstration or a training prompt; one of these two in a held-out wording
    of its family; one that asks about a held-out entity, or for the very sum, list, passage or function of a held-out prompt;
    and a held-out prompt about an entity, or in a wording, that is not held out.
    """
    heldout = frozenset(heldout_entities)
    for prompt in heldout_prompts:
        subject, meta = prompt.meta["entity"], prompt.meta
        if subject and subject not in heldout:
            raise DataError(f"held-out prompt {prompt.id} asks about {subject}, which is not held out")
        if meta["template"] in FAMILIES[meta["family"]].templates(meta["language"], "train"):
            raise DataError(f"held-out prompt {prompt.id} has a wording of training", found=prompt.messages[-1].content)
    finder = LeakFinder(heldout_prompts)
    problems = {problem for prompt in heldout_prompts if (problem := problem_of(prompt))}
    searched = {"searched_documents": 0, "searched_conversations": 0}
    for document in documents:
        searched["searched_documents"] += 1
        if found := finder.find(document.text):
            raise DataError("a document contains a held-out prompt", field=document.source, found=found)
    for name, prompt in _asked(demonstrations, prompts):
        searched["searched_conversations"] += 1
        if found := finder.find("\n".join(message.content for message in prompt.messages)):
            raise DataError(f"{name} contains a held-out prompt", found=found)
        if wording := heldout_wording(prompt):
            raise DataError(f"{name} has the held-out wording {wording!r}", found=prompt.messages[-1].content)
        if asked := heldout.intersection(subjects_of(prompt)):
            raise DataError(
                f"{name} asks about {', '.join(sorted(asked))}, held out", found=prompt.messages[-1].content
            )
        if problem_of(prompt) in problems:
            raise DataError(f"{name} poses the problem of a held-out prompt", found=prompt.messages[-1].content)
    return searched


def _asked(demonstrations: Iterable[Conversation], prompts: Iterable[Prompt]) -> Iterable[tuple[str, Prompt]]:
    """The prompts of both, with a word on where each stands."""
    for i, conversation in enumerate(demonstrations):
        messages = conversation.messages[:-1]
        yield f"demonstration {i}", Prompt(messages=messages, meta=conversation.meta)
    for prompt in prompts:
        yield f"prompt {prompt.id}", prompt


def normalised(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.casefold().split())


def text_of(prompt: Prompt) -> str:
    """What a prompt asks, normalised: all its messages but the system's."""
    return normalised("\n".join(message.content for message in prompt.messages if message.role != "system"))


def subjects_of(prompt: Prompt) -> set[str]:
    """The entities that a prompt asks about, in the end or on the way."""
    check = prompt.meta["check"]
    return {key for key in (prompt.meta["entity"], check.get("subject"), *check.get("via", ())) if key}


def problem_of(prompt: Prompt) -> str | None:
    """What is asked for beneath the wording, in either language; None where this is no problem drawn afresh.

    The same numbers, items or words in another order are the same problem.
    """
    check = prompt.meta["check"]
    if check["kind"] not in PROBLEM_KINDS and "facts" not in check:
        return None
    problem = {key: value for key, value in check.items() if key not in ("length", "limit")}
    if check["kind"] == "sum":
        problem["a"], problem["b"] = sorted((check["a"], check["b"]))
    problem |= {key: sorted(value) for key, value in problem.items() if isinstance(value, list)}
    return json.dumps(problem, sort_keys=True, ensure_ascii=False)


def heldout_wording(prompt: Prompt) -> str | None:
    """The held-out wording of the prompt's own family and language that it has, or could have; None where it has none."""
    meta = prompt.meta
    family, language = FAMILIES[meta["family"]], meta["language"]
    asked = prompt.messages[-1].content
    for index in family.templates(language, "heldout"):
        template = family.wordings[language].texts[index]
        if index == meta["template"] or slots_filled(template).fullmatch(asked):
            return template
    return None
