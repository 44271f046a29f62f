"""A toy task small enough to train in seconds: answer with the colour that the question names.

Demonstrations are right two times in three; rankings prefer the right colour. So every stage has something to gain and the gain
can be asserted.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from tutelage.data.formats import write_jsonl
from tutelage.records import Completion, Conversation, Document, Message, Prompt, Ranking
from tutelage.settings import Inputs, Settings, merge
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import direct, grpo, ppo, pretrain, reward, sft

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


@dataclass(frozen=True)
class Job:
    """A stage with its knobs, its inputs and its run folder."""

    main: Callable[[Any, Any, Path], Path]
    knobs: Settings
    inputs: Inputs
    out: Path

    def run(self) -> Path:
        """Run it here; returns the checkpoint folder."""
        return self.main(self.knobs, self.inputs, self.out)


def make_job(main: Callable[..., Path], out: Path, values: dict[str, Any], changes: dict[str, Any]) -> Job:
    """A job of ``values`` with ``changes`` merged in, each put among the knobs or the inputs by its name."""
    hints = get_type_hints(main)
    knobs_class, inputs_class = hints["knobs"], hints["inputs"]
    merged = merge(values, changes)
    inputs = {name: merged.pop(name) for name in list(merged) if name in inputs_class.model_fields}
    return Job(main, knobs_class.model_validate(merged), inputs_class.model_validate(inputs), out)


def pretrain_job(toy: Toy, out: Path, **changes: Any) -> Job:
    values = {
        "tokenizer": toy.folder / "tokenizer",
        "text": {"toy": toy.folder / "documents.jsonl"},
        "heldout": toy.folder / "documents.jsonl",
        "model": SHAPE,
        "sequence": 64,
        "batch_size": 8,
        "steps": 120,
        "lr": 5e-3,
        "warmup": 5,
        "machine": MACHINE,
    }
    return make_job(pretrain.main, out, values, changes)


def sft_job(toy: Toy, base: Path, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": base,
        "demonstrations": toy.folder / "demonstrations.jsonl",
        "heldout": toy.folder / "demonstrations.jsonl",
        "epochs": 2,
        "batch_size": 16,
        "lr": 2e-3,
        "warmup": 2,
        "max_tokens": 8,
        "ptx": {"sequence": 64},
        "machine": MACHINE,
    }
    return make_job(sft.main, out, values, changes)


def reward_job(toy: Toy, tuned: Path, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": tuned,
        "rankings": toy.folder / "rankings.jsonl",
        "demonstrations": toy.folder / "demonstrations.jsonl",
        "epochs": 4,
        "batch_size": 16,
        "lr": 2e-3,
        "warmup": 2,
        "machine": MACHINE,
    }
    return make_job(reward.main, out, values, changes)


def ppo_job(toy: Toy, tuned: Path, scorer: Path, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": tuned,
        "reward_model": scorer,
        "prompts": toy.folder / "prompts.jsonl",
        "text": {"toy": toy.folder / "documents.jsonl"},
        "batch_size": 32,
        "minibatch": 16,
        "max_tokens": 8,
        "lr": 3e-4,
        "value_lr": 1e-3,
        "kl": {"coef": 0.02},
        "ptx": {"windows": 4, "sequence": 64},
        "machine": MACHINE,
    }
    return make_job(ppo.main, out, values, changes)


def grpo_job(toy: Toy, tuned: Path, scorer: Path, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": tuned,
        "reward_models": {"main": scorer},
        "prompts": toy.folder / "prompts.jsonl",
        "text": {"toy": toy.folder / "documents.jsonl"},
        "prompts_per_update": 8,
        "group": 4,
        "minibatch": 16,
        "max_tokens": 8,
        "lr": 5e-4,
        "kl": {"coef": 0.02},
        "ptx": {"windows": 4, "sequence": 64},
        "machine": MACHINE,
    }
    return make_job(grpo.main, out, values, changes)


def direct_job(toy: Toy, tuned: Path, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": tuned,
        "rankings": toy.folder / "rankings.jsonl",
        "epochs": 2,
        "batch_size": 16,
        "lr": 1e-3,
        "warmup": 2,
        "max_tokens": 8,
        "machine": MACHINE,
    }
    return make_job(direct.main, out, values, changes)


def few_documents(toy: Toy, folder: Path) -> Path:
    """A short held-out file, so that evaluation takes a moment and not a second."""
    path = folder / "few.jsonl"
    path.write_text("".join((toy.folder / "documents.jsonl").read_text().splitlines(keepends=True)[:40]))
    return path


def logged(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl, without what a clock says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows]


def rows(checkpoint: Path) -> list[dict[str, float]]:
    """``logged`` of the run that made this checkpoint."""
    return logged(checkpoint.parent)


def assert_reward_rises(log: list[dict[str, float]]) -> None:
    """PPO has raised the reward, from a policy that was its reference, with first ratios of 1."""
    first, last = (sum(row["reward"] for row in part) / 4 for part in (log[:4], log[-4:]))
    assert last > first + 0.1
    assert abs(log[0]["kl"]) < 1e-5
    assert all(abs(row["first_ratio"] - 1) < 1e-5 for row in log)
