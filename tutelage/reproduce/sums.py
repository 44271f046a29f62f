"""The step "sums": sums of three numbers, answered directly and step by step, to fine-tune on and to be asked."""

from __future__ import annotations

import json
import random
from pathlib import Path

from pydantic import Field

from tutelage.data.formats import write_jsonl
from tutelage.errors import DataError
from tutelage.files import write_atomic
from tutelage.records import Conversation, Message
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Inputs, Settings


class NoInputs(Inputs):
    """None."""


class SumsSettings(Settings):
    """How many sums, and how large."""

    rows: int = Field(16_000, gt=0, description="sums to fine-tune on")
    questions: int = Field(500, gt=0, description="other sums, to be asked")
    largest: int = Field(99, ge=10, description="largest term; the least is 10")
    seed: int = Field(0, description="seed of the sums")


def main(knobs: SumsSettings, inputs: NoInputs, out: Path) -> Path:
    """Write the sums; returns the folder. DataError if there are not as many different ones.

    direct.jsonl       demonstrations whose answer is the sum
    steps.jsonl        the same questions, whose answers add two terms first
    gsm8k/test.jsonl   other sums, in GSM8K's format
    """
    with open_run(out, "sums", knobs, inputs) as run:
        if run.finished:
            return out
        count, terms = knobs.rows + knobs.questions, range(10, knobs.largest + 1)
        if count > len(terms) ** 3 // 2:
            raise DataError(f"{count:,} different sums are wanted of {len(terms) ** 3:,} that there are")
        rng = random.Random(derive(knobs.seed, "reproduce.sums"))
        drawn: dict[tuple[int, int, int], None] = {}
        while len(drawn) < count:
            drawn[(rng.choice(terms), rng.choice(terms), rng.choice(terms))] = None
        sums = list(drawn)
        for name, answer in (("direct", directly), ("steps", step_by_step)):
            write_jsonl(out / f"{name}.jsonl", (_conversation(one, answer(one)) for one in sums[: knobs.rows]))
        asked = (
            json.dumps({"question": question(one), "answer": f"{step_by_step(one)}\n#### {sum(one)}"}) + "\n"
            for one in sums[knobs.rows :]
        )
        (out / "gsm8k").mkdir(exist_ok=True)
        write_atomic(out / "gsm8k" / "test.jsonl", "".join(asked).encode())
        run.finish({"rows": knobs.rows, "questions": knobs.questions})
    return out


def question(terms: tuple[int, int, int]) -> str:
    return f"What is {terms[0]} + {terms[1]} + {terms[2]}?"


def directly(terms: tuple[int, int, int]) -> str:
    return str(sum(terms))


def step_by_step(terms: tuple[int, int, int]) -> str:
    first, second, third = terms
    return f"{first} + {second} = {first + second}. {first + second} + {third} = {sum(terms)}."


def _conversation(terms: tuple[int, int, int], answer: str) -> Conversation:
    said = (Message(role="user", content=question(terms)), Message(role="assistant", content=answer))
    return Conversation(messages=said, source="sums")
