"""A toy task small enough to train in seconds: answer with the colour that the question names.

Demonstrations are right two times in three; rankings prefer the right colour. So every stage has something to gain and the gain
can be asserted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.formats import write_jsonl
from tutelage.records import Completion, Conversation, Document, Message, Prompt, Ranking
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.ppo import PPOSettings
from tutelage.train.pretrain import PretrainSettings
from tutelage.train.reward import RewardSettings
from tutelage.train.sft import SFTSettings

ROOT = Path(__file__).resolve().parents[1]

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


def make_toy(folder: Path) -> Toy:
    """Write the task's files."""
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


MACHINE = {"device": "cpu", "dtype": "fp32"}
SHAPE = {"layers": 2, "hidden_size": 64, "heads": 2, "context": 128}


def pretrain_settings(toy, out, **changes: Any) -> PretrainSettings:
    values = {
        "out": out,
        "tokenizer": toy.folder / "tokenizer",
        "sources": {"toy": {"path": toy.folder / "documents.jsonl"}},
        "heldout": toy.folder / "documents.jsonl",
        "model": SHAPE,
        "sequence": 64,
        "batch_size": 8,
        "steps": 120,
        "lr": 5e-3,
        "warmup": 5,
        "machine": MACHINE,
    }
    return PretrainSettings.model_validate(values | changes)


def sft_settings(toy, base, out, **changes: Any) -> SFTSettings:
    values = {
        "out": out,
        "checkpoint": base,
        "demonstrations": toy.folder / "demonstrations.jsonl",
        "heldout": toy.folder / "demonstrations.jsonl",
        "epochs": 2,
        "batch_size": 16,
        "lr": 2e-3,
        "warmup": 2,
        "max_new_tokens": 8,
        "machine": MACHINE,
    }
    return SFTSettings.model_validate(values | changes)


def reward_settings(toy, tuned, out, **changes: Any) -> RewardSettings:
    values = {
        "out": out,
        "checkpoint": tuned,
        "rankings": toy.folder / "rankings.jsonl",
        "demonstrations": toy.folder / "demonstrations.jsonl",
        "epochs": 4,
        "batch_size": 16,
        "lr": 2e-3,
        "warmup": 2,
        "machine": MACHINE,
    }
    return RewardSettings.model_validate(values | changes)


def ppo_settings(toy, tuned, scorer, out, **changes: Any) -> PPOSettings:
    values = {
        "out": out,
        "checkpoint": tuned,
        "reward_model": scorer,
        "prompts": toy.folder / "prompts.jsonl",
        "batch_size": 32,
        "minibatch": 16,
        "max_new_tokens": 8,
        "lr": 3e-4,
        "value_lr": 1e-3,
        "kl": {"coef": 0.02},
        "ptx_sources": {"toy": {"path": toy.folder / "documents.jsonl"}},
        "ptx_windows": 4,
        "ptx_sequence": 64,
        "machine": MACHINE,
    }
    return PPOSettings.model_validate(values | changes)
