"""The step "demonstrated": every demonstration above a model's answer to the same prompt, and that above an answer to another.

These are the comparisons of Diamante (Lu et al. 2022, arXiv 2208.14165), which nobody has to label: what a person wrote counts as
better than what the model said, and anything said to the prompt as better than what was said to another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from tutelage.data.formats import read_answers, read_conversations, write_jsonl
from tutelage.data.prepare import text_of
from tutelage.errors import DataError
from tutelage.records import Completion, Conversation, Message, Prompt, Ranking
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Inputs, Rows, Settings


class DemonstratedInputs(Inputs):
    """Whose answers are compared."""

    demonstrations: Path = Field(description="conversations; a person wrote the last answer of each")
    answers: Path = Field(description="a model's answers to their prompts, of which the first counts")


class DemonstratedSettings(Settings):
    """What is drawn at random."""

    seed: int = Field(0, description="seed of the answers to other prompts")

    def most_rows(self, file: str, inputs: Inputs, rows: Rows, enough: int) -> int | None:
        """A row per demonstration."""
        assert isinstance(inputs, DemonstratedInputs)
        return rows("conversations", inputs.demonstrations, enough)


class Pair(NamedTuple):
    """A demonstration, its last answer and the model's."""

    demonstration: Conversation
    prompt: Prompt
    human: Completion
    model: Completion


def main(knobs: DemonstratedSettings, inputs: DemonstratedInputs, out: Path) -> Path:
    """Write the comparisons; returns the folder. DataError if no demonstration has an answer that differs from it.

    rankings.jsonl         the demonstration's answer above the model's
    strangers.jsonl        the model's answer above the demonstration of another prompt, for the same prompts
    demonstrations.jsonl   the same demonstrations, only whose last answer is learned: what rankings.jsonl has at the top
    """
    with open_run(out, "demonstrated", knobs, inputs) as run:
        if run.finished:
            return out
        conversations = list(read_conversations(inputs.demonstrations))
        first = {text_of(one.prompt.messages): one.completions[0] for one in read_answers(inputs.answers)}
        pairs = [pair for one in conversations if (pair := paired(one, first)) is not None]
        if not pairs:
            problem = "has no answer to a demonstration's prompt that differs from the demonstration"
            raise DataError(
                f"{problem}; let a model answer the prompts of {inputs.demonstrations}", path=inputs.answers
            )
        rankings = (Ranking(prompt=one.prompt, completions=(one.human, one.model), ranks=(1, 2)) for one in pairs)
        rng = random.Random(derive(knobs.seed, "reproduce.strangers"))
        counts = {
            "rankings.jsonl": write_jsonl(out / "rankings.jsonl", rankings),
            "strangers.jsonl": write_jsonl(out / "strangers.jsonl", above_strangers(pairs, rng)),
            "demonstrations.jsonl": write_jsonl(out / "demonstrations.jsonl", map(last_alone, pairs)),
        }
        run.finish(counts | {"left_out": len(conversations) - len(pairs)})
    return out


def paired(demonstration: Conversation, answers: dict[str, Completion]) -> Pair | None:
    """The demonstration with the model's answer to its prompt; None without one, or if both say the same."""
    *before, last = demonstration.messages
    model = answers.get(text_of(before))
    if last.role != "assistant" or model is None or model.text == last.text:
        return None
    prompt = Prompt(messages=tuple(before), source=demonstration.source, meta=demonstration.meta)
    return Pair(demonstration, prompt, as_completion(last), model)


def as_completion(message: Message) -> Completion:
    """An assistant's turn as an answer; ``Completion.message`` gives it back."""
    more = {"evidence": message.evidence, "citations": message.citations}
    return Completion(text=message.text, reasoning=message.reasoning, tool_calls=message.tool_calls, **more)


def above_strangers(pairs: Sequence[Pair], rng: random.Random) -> Iterator[Ranking]:
    """Each model's answer above one of the demonstrations of another prompt; none where a hundred draws find no other text."""
    for one in pairs:
        drawn = (rng.choice(pairs) for _ in range(100))
        known = {one.human.text, one.model.text}
        other = next((o for o in drawn if o.prompt.messages != one.prompt.messages and o.human.text not in known), None)
        if other is not None:
            yield Ranking(prompt=one.prompt, completions=(one.model, other.human), ranks=(1, 2))


def last_alone(pair: Pair) -> Conversation:
    """The demonstration, whose earlier answers are context."""
    *before, last = pair.demonstration.messages
    context = (m.model_copy(update={"learn": False}) if m.role == "assistant" else m for m in before)
    return pair.demonstration.model_copy(update={"messages": (*context, last)})
