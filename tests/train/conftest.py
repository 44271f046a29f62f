"""A toy task small enough to train in seconds: answer with the colour that the question names.

Demonstrations are right two times in three; rankings prefer the right colour. So every stage has something to gain and the gain
can be asserted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tutelage.data.formats import write_jsonl
from tutelage.records import Completion, Conversation, Document, Message, Prompt, Ranking
from tutelage.text.tokenizer import Tokenizer

COLOURS = ["red", "blue", "green", "black"]
THINGS = ["door", "hat", "cup", "boat", "kite", "drum", "lamp", "rug"]


@dataclass(frozen=True)
class Toy:
    """Paths of the toy task's files."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name


def question(rng: random.Random) -> tuple[str, str]:
    colour, thing = rng.choice(COLOURS), rng.choice(THINGS)
    return f"The {thing} is {colour}. What colour is the {thing}?", colour


def right(prompt: Prompt, answer: str) -> bool:
    return answer.strip(". ") == next(c for c in COLOURS if f" is {c}." in prompt.messages[-1].content)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("toy")
    rng = random.Random(0)
    documents, demonstrations, rankings, prompts = [], [], [], []
    for _ in range(600):
        text, colour = question(rng)
        documents.append(Document(text=f"{text} {colour.capitalize()}, the sky is wide and the road is long."))
    for i in range(300):
        text, colour = question(rng)
        said = colour if i % 3 else rng.choice(COLOURS)
        messages = (Message(role="user", content=text), Message(role="assistant", content=f"{said}."))
        demonstrations.append(Conversation(messages=messages))
    for _ in range(120):
        text, colour = question(rng)
        answers = [colour, *rng.sample([c for c in COLOURS if c != colour], 2)]
        rng.shuffle(answers)
        rankings.append(
            Ranking(
                prompt=Prompt(messages=(Message(role="user", content=text),)),
                completions=tuple(Completion(text=f"{a}.") for a in answers),
                ranks=tuple(1 if a == colour else 2 for a in answers),
            )
        )
    seen: set[str] = set()
    while len(prompts) < 32:
        text, _ = question(rng)
        if text not in seen:
            seen.add(text)
            prompts.append(Prompt(messages=(Message(role="user", content=text),), id=str(len(prompts))))
    for name, records in (
        ("documents.jsonl", documents),
        ("demonstrations.jsonl", demonstrations),
        ("rankings.jsonl", rankings),
        ("prompts.jsonl", prompts),
    ):
        write_jsonl(folder / name, records)
    Tokenizer.train((d.text for d in documents), 320).save(folder / "tokenizer")
    return Toy(folder)
