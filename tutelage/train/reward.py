"""The reward model: a scalar score learned from rankings of K completions.

    tutelage reward --checkpoint runs/sft/checkpoint --rankings rankings.jsonl --out runs/reward

All K(K-1)/2 pairs of a prompt form one loss term (InstructGPT, equation 1), from one forward pass of the prompt and all its
completions. They are laid out as [prompt | c1 | c2 | ...] under a tree mask, so the shared prefix is computed once. The scores are
finally shifted so that demonstrations average 0.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from tutelage.data.formats import read_conversations
from tutelage.data.tokens.batches import cut_by_length, pad_right, render_each
from tutelage.errors import DataError
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.objectives.ranking import centring_offset, kwise_loss, pairwise_accuracy
from tutelage.seeds import derive
from tutelage.settings import Inputs, ModelPath, Rows
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics, Schedule, Training, apply_gradients, epoch_batches, shuffled, train
from tutelage.train.memory import say_memory
from tutelage.train.models import load_trainable, new_scorer
from tutelage.train.optimizer import Optimizer, make_optimizer
from tutelage.train.rankings import (
    NONCONTEXTUAL,
    RankingExample,
    RankingSplit,
    check_rankings,
    score_packed,
    with_noncontextual,
)
from tutelage.train.settings import LearningSettings, longest_row, rows_of


class RewardInputs(Inputs):
    """What reward-model training reads."""

    checkpoint: ModelPath = Field(description="language model to start from: the SFT model")
    rankings: Path = Field(description="rankings to learn from")
    heldout: Path | None = Field(None, description="rankings to measure on; none: those of a share of the prompts")
    demonstrations: Path | None = Field(None, description="conversations whose last answers score 0 on average")


class RewardSettings(LearningSettings):
    """Knobs of ``tutelage reward``."""

    heldout_share: float = Field(0.1, gt=0, lt=1, description="share of prompts to measure on without a held-out file")
    epochs: int = Field(1, gt=0, description="passes over the rankings (InstructGPT: 1; more overfits)")
    batch_size: int = Field(32, gt=0, description="prompts per step")
    microbatch: int = Field(8, ge=0, description="most prompts per forward pass; 0: no limit")
    max_length: int = Field(512, gt=1, description="longest prompt and completion; longer are left out [tokens]")
    ties: Literal["skip", "half"] = Field("half", description="what equal ranks count: nothing, or half a win each")
    noncontextual: int = Field(0, ge=0, description="answers to other prompts ranked last (RRM, Liu et al. 2024)")
    evaluate_every: int = Field(0, ge=0, description="steps between held-out measurements; 0: only at the end")

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """An answer must be preferred to another, and training should outlast the warm-up."""
        assert isinstance(inputs, RewardInputs)
        yield from check_rankings(inputs.rankings, rows, self.batch_size, self.epochs, self.warmup)


def main(knobs: RewardSettings, inputs: RewardInputs, out: Path) -> Path:
    """Run the stage; returns the checkpoint folder."""
    with parallel.open_stage(out, "reward", knobs, inputs) as (run, inputs):
        if run.finished:
            return run.checkpoint
        dtype = knobs.machine.dtype

        # data
        tokenizer = Tokenizer.load(inputs.checkpoint)
        pad_id = tokenizer.pad_id
        torch.manual_seed(derive(knobs.seed, "reward.adapters"))
        decoder = load_trainable(inputs.checkpoint, tokenizer, knobs.lora, knobs.machine)
        longest = longest_row(knobs.max_length, decoder.config.max_position_embeddings)
        share, seed = knobs.heldout_share, knobs.seed
        split = RankingSplit.read(inputs.rankings, inputs.heldout, share, seed, tokenizer, longest, knobs.on_bad)
        split.require_some(longest, inputs.rankings)
        examples, heldout = split.examples, split.heldout
        demonstrations = inputs.demonstrations
        shown = demonstration_ids(demonstrations, tokenizer, longest, knobs) if demonstrations else []
        batches = epoch_batches(examples, knobs.batch_size, knobs.epochs, knobs.seed, "reward.order")

        # model and optimiser
        torch.manual_seed(derive(knobs.seed, "reward.head"))
        model = new_scorer(decoder).train()
        optimizer = make_optimizer(knobs.optimizer, model, knobs.lr, weight_decay=knobs.weight_decay)
        answer = max(len(completion) for example in examples for completion in example.completions)
        widest = max(example.size for example in examples) + knobs.noncontextual * answer
        most = min(knobs.microbatch or knobs.batch_size, knobs.batch_size)
        rows = rows_of(widest, most, knobs.machine.pass_tokens)
        say_memory([model], [model.decoder], rows, widest, dtype, knobs.optimizer)

        def batch_of(step: int) -> list[RankingExample]:
            rng = random.Random(derive(knobs.seed, "reward.noncontextual", step))
            return [with_noncontextual(one, examples, knobs.noncontextual, longest, rng) for one in batches[step]]

        dropout = derive(knobs.seed, "reward.dropout")  # of adapters
        training = Training(
            modules={"model": model},
            optimizer=optimizer,
            update=lambda step: reward_update(knobs, model, optimizer, batch_of(step), pad_id),
            schedule=Schedule(len(batches), knobs.warmup, knobs.floor, dropout, knobs.evaluate_every, log_every=2),
            result=(model, tokenizer),
            evaluate=(lambda step: heldout_metrics(model, heldout, pad_id, knobs)) if heldout else None,
            measures=("heldout_loss", "heldout_accuracy") if heldout else (),
            complete=lambda: centre(model, shown, pad_id, dtype),
            show=("loss", "accuracy", "heldout_accuracy"),
        )
        outcome = train(run, training, knobs.machine)
        run.finish(split.figures() | outcome.measured)
        return run.checkpoint


def demonstration_ids(
    path: Path, tokenizer: Tokenizer, longest: int, knobs: RewardSettings, most: int = 512
) -> list[list[int]]:
    """Up to ``most`` tokenised demonstrations that fit and end with the assistant; DataError if there is none.

    They are drawn from the whole file, whose sources may stand one after the other.
    """
    places: list[str] = []
    every = list(read_conversations(path, on_bad=knobs.on_bad, places=places))
    answered = [i for i, conversation in enumerate(every) if conversation.messages[-1].role == "assistant"]
    order = shuffled(len(answered), derive(knobs.seed, "reward.centre"))
    drawn = (answered[i] for i in order)
    rows = (render_each(tokenizer, [every[i].messages], [places[i]], knobs.on_bad)[0] for i in drawn)
    cut = (row.until_end().ids for row in rows if row is not None)
    fitting = list(islice((ids for ids in cut if len(ids) <= longest), most))
    if not fitting:
        raise DataError(f"no demonstration ends with the assistant and fits in {longest} tokens", path=path)
    return fitting


def reward_update(
    knobs: RewardSettings, model: ScalarModel, optimizer: Optimizer, batch: Sequence[RankingExample], pad_id: int
) -> Metrics:
    """One optimisation step."""
    mine = parallel.shard(batch)
    count, total, right = sum(len(example.ranks) for example in batch), 0.0, 0.0
    for rows in cut_by_length([example.size for example in mine], knobs.microbatch, knobs.machine.pass_tokens):
        part = [mine[i] for i in rows]
        scores, ranks, mask = score_packed(model, part, pad_id, knobs.machine.dtype)
        loss = kwise_loss(scores, ranks, mask, tie=knobs.ties, count=count)
        loss.backward()
        total += loss.item()
        right += pairwise_accuracy(scores, ranks, mask & (ranks < NONCONTEXTUAL))[0].sum().item()
    norm = apply_gradients(optimizer, knobs.clip, model)
    tokens = float(sum(example.size for example in batch))
    accuracy = parallel.total(right) / count
    return {"loss": parallel.total(total), "accuracy": accuracy, "grad_norm": norm, "tokens": tokens}


@torch.no_grad()
def heldout_metrics(
    model: ScalarModel, examples: Sequence[RankingExample], pad_id: int, knobs: RewardSettings
) -> Metrics:
    """Loss and pair accuracy on held-out rankings, as means over the rankings."""
    model.eval()
    count, loss, right = sum(len(example.ranks) for example in examples), 0.0, 0.0
    most, tokens = knobs.microbatch or knobs.batch_size, knobs.machine.pass_tokens
    for rows in cut_by_length([example.size for example in examples], most, tokens):
        scores, ranks, mask = score_packed(model, [examples[i] for i in rows], pad_id, knobs.machine.dtype)
        loss += kwise_loss(scores, ranks, mask, tie=knobs.ties, count=count).item()
        right += pairwise_accuracy(scores, ranks, mask)[0].sum().item()
    model.train()
    return {"heldout_loss": loss, "heldout_accuracy": right / count}


@contextmanager
def centre(model: ScalarModel, demonstrations: Sequence[list[int]], pad_id: int, dtype: str) -> Iterator[None]:
    """In this context the demonstrations score 0 on average (InstructGPT, section 3.5). Training is not affected."""
    model.eval()
    device = next(model.parameters()).device
    scores = []
    with torch.no_grad(), autocast(device, dtype):
        for rows in parallel.microbatches(demonstrations, 32):
            ids, mask = pad_right(rows, pad_id)
            values = model(ids.to(device))
            scores.append(values.float().gather(1, mask.sum(1, keepdim=True).to(device) - 1)[:, 0])
    if scores:
        model.offset += centring_offset(torch.cat(scores))
    yield
    model.offset.zero_()
    model.train()
