"""Rejection sampling: the best of several sampled answers become demonstrations, which the step `sft` fine-tunes on.

    tutelage best --checkpoint runs/sft/checkpoint --reward_models.main runs/reward/checkpoint --prompts p.jsonl --out runs/best

Answers and scores are those of PPO. An answer that did not end is not a demonstration, whatever its score. Fine-tuning on the best
of n is RAFT (Dong et al. 2023), or rejection-sampling fine-tuning (Touvron et al. 2023, section 3.2.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.data.formats import ON_BAD, OnBad, write_jsonl
from tutelage.data.tokens.batches import fitting_prompts
from tutelage.errors import DataError
from tutelage.records import Conversation, Message, Prompt
from tutelage.settings import Inputs, ModelPath, RewardModelPath, Rows, Settings, WorldPath
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.models import load_scoring, load_trainable
from tutelage.train.rl import scored_answers, texts_of
from tutelage.train.rl_settings import check_reward, code_of
from tutelage.train.scorers import Gold, ScorerSettings, make_scorers
from tutelage.train.settings import LoRA, Machine

BATCH = 128
"""Answers that are drawn and scored together."""


class BestInputs(Inputs):
    """The prompts, the model that answers them, and what scores the answers."""

    checkpoint: ModelPath = Field(description="model that answers")
    prompts: Path = Field(description="prompts to answer")
    reward_models: dict[str, RewardModelPath] = Field({}, description="reward models to score with, by name")
    world: WorldPath | None = Field(None, description="folder of an embedded world, whose judge is the scorer `gold`")


class BestSettings(Settings):
    """Knobs of ``tutelage best``."""

    completions: int = Field(8, gt=1, description="answers per prompt")
    best: int = Field(1, gt=0, description="how many of them become demonstrations: those of the highest scores")
    most: int = Field(0, ge=0, description="first prompts of the file that are answered; 0: all")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    max_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    scorers: dict[str, ScorerSettings] = Field({}, description="terms of the score: reward models, functions and gold")
    on_bad: OnBad = Field("stop", description=ON_BAD)
    seed: int = Field(0, description="seed of sampling")
    machine: Machine = Field(Machine(), description="where it runs")

    @model_validator(mode="after")
    def _fits_together(self) -> BestSettings:
        if self.best >= self.completions:
            raise ValueError(f"best {self.best} of {self.completions} completions rejects none")
        return self

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError for an unknown scorer, or a score to which nothing adds."""
        assert isinstance(inputs, BestInputs)
        check_reward(self.scorers, inputs.reward_models, inputs.world)

    def most_rows(self, file: str, inputs: Inputs, rows: Rows, enough: int) -> int | None:
        """``best`` rows per prompt."""
        assert isinstance(inputs, BestInputs)
        count = rows("prompts", inputs.prompts, enough)
        return count and self.best * min(count, self.most or count)

    def code(self) -> dict[str, Path]:
        """The files of the scorers' functions."""
        return code_of(self.scorers)


def main(knobs: BestSettings, inputs: BestInputs, out: Path, gold: Gold | None = None) -> Path:
    """Write demonstrations.jsonl; returns the folder. ``gold``: a judge that knows the truth, as one more scorer."""
    with parallel.open_stage(out, "best", knobs, inputs) as (run, inputs):
        if run.finished:
            return out
        tokenizer = Tokenizer.load(inputs.checkpoint)
        policy = load_trainable(inputs.checkpoint, tokenizer, LoRA(), knobs.machine).eval()
        models = load_scoring(inputs.reward_models, policy, inputs.checkpoint, tokenizer, knobs.machine)
        scorers = make_scorers(knobs.scorers, models, gold)
        room = policy.config.max_position_embeddings - knobs.max_tokens
        prompts, ids, left_out = fitting_prompts(inputs.prompts, [(tokenizer, room)], knobs.on_bad)
        pairs = list(zip(prompts, ids, strict=True))[: knobs.most or None]

        found: list[Conversation] = []
        sums: dict[str, float] = {}
        size = max(1, BATCH // knobs.completions)
        for step, start in enumerate(range(0, len(pairs), size)):
            few = pairs[start : start + size]
            every = [pair for pair in few for _ in range(knobs.completions)]
            rollouts, scores, metrics = scored_answers(step, policy, tokenizer, scorers, every, knobs)
            texts = texts_of(rollouts, tokenizer)
            found += demonstrations([prompt for prompt, _ in few], texts, scores, rollouts.finished, knobs)
            for name in ("reward", "length", "finished", *(["gold"] if gold else [])):
                sums[name] = sums.get(name, 0.0) + metrics[name] * len(few)
        if not found:
            raise DataError("no answer ended, so none can be a demonstration: raise max_tokens", path=inputs.prompts)
        if run.writer:
            write_jsonl(out / "demonstrations.jsonl", found)
        means = {name: total / len(pairs) for name, total in sums.items()}
        if run.writer:
            advice = "; raise max_tokens, for those that did not end are left out" if means["finished"] < 0.5 else ""
            said = f"best  {len(found)} demonstrations from {len(pairs)} prompts, {means['finished']:.0%} of the answers ended"
            print(said + advice, flush=True)
        run.finish({"prompts": len(pairs), "demonstrations": len(found), "left_out": left_out} | means)
    return out


def demonstrations(
    prompts: Sequence[Prompt], texts: Sequence[str], scores: Tensor, finished: Tensor, knobs: BestSettings
) -> Iterator[Conversation]:
    """The ``best`` different answers to each prompt, highest score first; ``completions`` answers to a prompt stand together.

    An answer that did not end, or says nothing, is left out. Of equal scores the first wins.
    """
    order = torch.argsort(scores.view(len(prompts), -1), dim=1, descending=True, stable=True).tolist()
    for number, (prompt, row) in enumerate(zip(prompts, order, strict=True)):
        places = [number * knobs.completions + i for i in row]
        answers = dict.fromkeys(texts[i].strip() for i in places if finished[i] and texts[i].strip())
        for text in list(answers)[: knobs.best]:
            messages = (*prompt.messages, Message(role="assistant", content=text))
            yield Conversation(messages=messages, source=prompt.source, meta=prompt.meta)
