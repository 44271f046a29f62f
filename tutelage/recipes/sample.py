"""Sampling several answers to each prompt, for people or simulated labellers to rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import ON_BAD, OnBad, write_jsonl
from tutelage.data.tokens.batches import fitting_prompts
from tutelage.generate.sampler import Sampling
from tutelage.model.hub import resolve_model
from tutelage.records import Answers, Prompt
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Device, Inputs, ModelPath, Rows, Settings


class SampleInputs(Inputs):
    """The prompts, and the model that answers them."""

    checkpoint: ModelPath = Field(description="model that answers")
    prompts: Path = Field(description="prompts to answer")


class SampleSettings(Settings):
    """How answers are sampled."""

    completions: int = Field(4, ge=1, description="answers per prompt (InstructGPT ranked 4 to 9)")
    distinct: bool = Field(True, description="leave out repeated answers; false: keep all, as best-of-n needs them")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    max_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    on_bad: OnBad = Field("stop", description=ON_BAD)
    seed: int = Field(0, description="seed of sampling")
    device: Device = "auto"

    def most_rows(self, file: str, inputs: Inputs, rows: Rows, enough: int) -> int | None:
        """A row per prompt."""
        assert isinstance(inputs, SampleInputs)
        return rows("prompts", inputs.prompts, enough)


def main(knobs: SampleSettings, inputs: SampleInputs, out: Path) -> Path:
    """Write answers.jsonl: each prompt with its answers. Returns the folder."""
    inputs = inputs.local(resolve_model)
    with open_run(out, "sample", knobs, inputs) as run:
        if not run.finished:
            assistant = Assistant.load(inputs.checkpoint, device=knobs.device)
            sampling = Sampling(
                temperature=knobs.temperature,
                max_tokens=knobs.max_tokens,
                n=knobs.completions,
                seed=derive(knobs.seed, "sample.answers"),
            )
            room = (assistant.tokenizer, assistant.context - 1)
            prompts, _, _ = fitting_prompts(inputs.prompts, [room], knobs.on_bad)
            answers = (
                distinct_answers(assistant, prompts, sampling)
                if knobs.distinct
                else assistant.answers(prompts, sampling)
            )
            run.finish({"prompts": write_jsonl(out / "answers.jsonl", answers)})
    return out


def distinct_answers(assistant: Assistant, prompts: Sequence[Prompt], sampling: Sampling) -> list[Answers]:
    """``sampling.n`` answers per prompt without repetitions, since equal answers teach nothing.

    Where several are asked for, prompts with fewer than two distinct answers are left out and counted.
    """
    kept = []
    for answers in assistant.answers(prompts, sampling):
        distinct = tuple({(c.text, c.finished): c for c in answers.completions}.values())
        if len(distinct) >= min(2, sampling.n):
            kept.append(Answers(prompt=answers.prompt, completions=distinct))
    if len(kept) < len(prompts):
        print(f"left out {len(prompts) - len(kept)} x the same answer each time")
    return kept
