"""Learning from rankings directly, without a reward model or sampling: DPO, IPO, and Diamante's joint loss.

    tutelage direct --checkpoint runs/sft/checkpoint --rankings rankings.jsonl --out runs/dpo

DPO and IPO raise the likelihood of the better answer of each pair against the checkpoint's, which stays the reference. All pairs of
a prompt are in one batch, and the prompt runs once for all its answers, as in the reward stage.

Diamante learns to write the human answer and, with a linear head on the same network, to score it above the model's answers and
those above an answer to another prompt. The human answer is the demonstration of the same prompt or, without demonstrations, the
answer that people chose: the best of the ranking. The head is kept as a reward model in the folder `scorer`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.data.formats import OnBad, read_conversations
from tutelage.data.tokens.batches import REFUSED, cut_by_length
from tutelage.errors import DataError, RecipeError, UsageError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.objectives import direct as objectives
from tutelage.objectives.ranking import pairwise_accuracy
from tutelage.seeds import derive
from tutelage.settings import Inputs, ModelPath, Rows
from tutelage.text.chat import render_answers
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.checkpointing import write_checkpoint
from tutelage.train.loop import Metrics, Schedule, Training, apply_gradients, epoch_batches, train
from tutelage.train.memory import say_memory
from tutelage.train.models import load_trainable, new_scorer, reference_of
from tutelage.train.optimizer import Optimizer, make_optimizer
from tutelage.train.rankings import (
    NONCONTEXTUAL,
    RankingExample,
    RankingSplit,
    check_rankings,
    completion_lengths,
    completion_logprobs,
    ranks_of,
    run_packed,
    with_noncontextual,
)
from tutelage.train.rl import before_update
from tutelage.train.rollouts import sample
from tutelage.train.settings import LearningRate, LearningSettings, WeightDecay, longest_row, rows_of

DEMONSTRATED = 0
"""The rank of a demonstration, which is better than any rank that a labeller gives."""
KL_PROMPTS = 64
"""The most held-out prompts that are answered to measure the KL to the reference."""


class DirectInputs(Inputs):
    """What direct learning reads."""

    checkpoint: ModelPath = Field(description="model to start from, which is the reference too: the SFT model")
    rankings: Path = Field(description="rankings to learn from")
    heldout: Path | None = Field(None, description="rankings to measure on; none: those of a share of the prompts")
    demonstrations: Path | None = Field(None, description="diamante: human answers to the rankings' prompts")


class DirectSettings(LearningSettings):
    """Knobs of ``tutelage direct``."""

    loss: Literal["dpo", "ipo", "diamante"] = Field("dpo", description="what is learned from a ranking")
    beta: float = Field(0.1, gt=0, description="dpo and ipo: how strongly the reference holds (ipo's tau)")
    margin: float = Field(0.0, ge=0, description="dpo: by how much the better reward should be higher (ODPO)")
    heldout_share: float = Field(0.1, gt=0, lt=1, description="share of prompts to measure on without a held-out file")
    epochs: int = Field(1, gt=0, description="passes over the rankings")
    batch_size: int = Field(32, gt=0, description="prompts per step")
    microbatch: int = Field(8, ge=0, description="most prompts per forward pass; 0: no limit")
    max_length: int = Field(512, gt=1, description="longest prompt and completion; longer are left out [tokens]")
    lr: LearningRate = 5e-5
    weight_decay: WeightDecay = 0.0
    evaluate_every: int = Field(0, ge=0, description="steps between held-out measurements; 0: only at the end")
    max_tokens: int = Field(96, gt=0, description="longest answer that the KL is measured on [tokens]")

    @model_validator(mode="after")
    def _fits_together(self) -> DirectSettings:
        if self.margin and self.loss != "dpo":
            raise ValueError(f"margin is part of dpo: leave it out with loss {self.loss}")
        return self

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError for demonstrations that the loss does not read."""
        assert isinstance(inputs, DirectInputs)
        if inputs.demonstrations and self.loss != "diamante":
            raise RecipeError(f"demonstrations are for loss diamante: {self.loss} learns from rankings alone")

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """An answer must be preferred to another, and training should outlast the warm-up."""
        assert isinstance(inputs, DirectInputs)
        yield from check_rankings(inputs.rankings, rows, self.batch_size, self.epochs, self.warmup)

    def writes(self, inputs: Inputs) -> tuple[str, ...]:
        """Only Diamante's loss trains a head."""
        return () if self.loss == "diamante" else ("checkpoint", "checkpoints/*", "metrics.jsonl", "done.json")


@dataclass(frozen=True)
class Compared:
    """A ranking in tokens, and the log-probability of each completion under the reference."""

    example: RankingExample
    reference: tuple[float, ...]


def main(knobs: DirectSettings, inputs: DirectInputs, out: Path) -> Path:
    """Run the stage; returns the checkpoint folder."""
    with parallel.open_stage(out, "direct", knobs, inputs) as (run, inputs):
        if run.finished:
            return run.checkpoint
        machine = knobs.machine

        # policy and reference
        tokenizer = Tokenizer.load(inputs.checkpoint)
        torch.manual_seed(derive(knobs.seed, "direct.adapters"))
        policy = load_trainable(inputs.checkpoint, tokenizer, knobs.lora, machine)
        reference = reference_of(policy).eval()
        context = policy.config.max_position_embeddings
        longest = longest_row(knobs.max_length, context)

        # data
        share, seed = knobs.heldout_share, knobs.seed
        split = RankingSplit.read(inputs.rankings, inputs.heldout, share, seed, tokenizer, longest, knobs.on_bad)
        if inputs.demonstrations:
            answers = demonstrated(inputs.demonstrations, tokenizer, knobs.on_bad)
            split = with_demonstrations(split, answers, longest)
        split.require_some(longest, inputs.rankings)
        examples, heldout = split.examples, split.heldout
        compared, held_compared = (
            with_reference(reference, rows, tokenizer.pad_id, knobs) for rows in (examples, heldout)
        )
        batches = epoch_batches(compared, knobs.batch_size, knobs.epochs, knobs.seed, "direct.order")

        # model and optimiser
        torch.manual_seed(derive(knobs.seed, "direct.head"))
        model = (ScalarModel(policy) if knobs.loss == "diamante" else policy).train()
        optimizer = make_optimizer(knobs.optimizer, model, knobs.lr, weight_decay=knobs.weight_decay)
        widest = max(example.size for example in examples)
        rows = rows_of(widest, min(knobs.microbatch or knobs.batch_size, knobs.batch_size), machine.pass_tokens)
        say_memory([model, reference], [policy], rows, widest, machine.dtype, knobs.optimizer)

        def batch_of(step: int) -> list[Compared]:
            if knobs.loss != "diamante":
                return batches[step]
            rng = random.Random(derive(knobs.seed, "direct.random", step))
            every = (with_noncontextual(one.example, examples, 1, longest, rng) for one in batches[step])
            return [Compared(example, ()) for example in every]

        def evaluate(step: int) -> Metrics:
            model.eval()
            metrics = heldout_metrics(model, held_compared, tokenizer.pad_id, knobs)
            metrics |= sampled_kl(policy, reference, heldout, tokenizer, knobs)
            model.train()
            return metrics

        training = Training(
            modules={"model": model},
            optimizer=optimizer,
            update=lambda step: direct_update(knobs, model, optimizer, batch_of(step), tokenizer.pad_id),
            schedule=Schedule(
                len(batches), knobs.warmup, knobs.floor, derive(knobs.seed, "direct.dropout"), knobs.evaluate_every,
                log_every=2,
            ),
            result=(policy, tokenizer),
            evaluate=evaluate if heldout else None,
            measures=("heldout_loss", "heldout_accuracy") if heldout else (),
            show=("loss", "accuracy", "heldout_accuracy", "kl"),
        )  # fmt: skip
        outcome = train(run, training, machine)
        if isinstance(model, ScalarModel) and run.writer:
            scorer = new_scorer(policy)
            scorer.head = model.head
            write_checkpoint(run, out / "scorer", scorer, tokenizer)
        run.finish(split.figures() | outcome.measured)
        return run.checkpoint


def demonstrated(path: Path, tokenizer: Tokenizer, on_bad: OnBad) -> dict[tuple[int, ...], list[int]]:
    """The ids of each prompt with a demonstration -> those of its first answer."""
    places: list[str] = []
    found: dict[tuple[int, ...], list[int]] = {}
    refused = 0
    for conversation in read_conversations(path, on_bad=on_bad, places=places):
        *before, last = conversation.messages
        if last.role != "assistant":
            continue
        try:
            prompt, (answer,) = render_answers(tokenizer, before, [last])
        except UsageError as error:
            if on_bad == "stop":
                raise DataError(str(error), path=places[-1]) from None
            refused += 1
            continue
        found.setdefault(tuple(prompt), answer)
    if refused:
        print(f"{path}: left out {refused} x {REFUSED}")
    return found


def with_demonstrations(split: RankingSplit, answers: dict[tuple[int, ...], list[int]], longest: int) -> RankingSplit:
    """The rankings to learn from with the demonstration of their prompt ranked first; without one that fits they are left out."""
    found = []
    for example in split.examples:
        answer = answers.get(tuple(example.prompt))
        if answer and len(example.prompt) + len(answer) <= longest:
            ranks = [(*one, DEMONSTRATED) for one in example.ranks]
            found.append(RankingExample(example.prompt, [*example.completions, answer], ranks))
    without = len(split.examples) - len(found)
    left_out = split.left_out | ({"no demonstration of this prompt that fits": without} if without else {})
    return replace(split, examples=found, left_out=left_out)


@torch.no_grad()
def with_reference(
    reference: Decoder, examples: Sequence[RankingExample], pad_id: int, knobs: DirectSettings
) -> list[Compared]:
    """The rankings with the reference's log-probabilities, which training needs again and again."""
    if knobs.loss == "diamante":
        return [Compared(example, ()) for example in examples]
    found: list[tuple[float, ...]] = [()] * len(examples)
    for rows in _passes(examples, knobs):
        part = [examples[i] for i in rows]
        with autocast(reference.embed.weight.device, knobs.machine.dtype):
            hidden, _ = run_packed(reference, part, pad_id)
            logprobs = completion_logprobs(reference, hidden, part)
        for i, row in zip(rows, logprobs.tolist(), strict=True):
            found[i] = tuple(row[: len(examples[i].completions)])
    return [Compared(example, row) for example, row in zip(examples, found, strict=True)]


def direct_update(
    knobs: DirectSettings, model: Decoder | ScalarModel, optimizer: Optimizer, batch: Sequence[Compared], pad_id: int
) -> Metrics:
    """One optimisation step."""
    metrics = _over_passes(knobs, model, parallel.shard(batch), batch, pad_id, learn=True)
    metrics = {name: parallel.total(metrics.get(name, 0.0)) for name in NAMES[knobs.loss]}
    tokens = float(sum(one.example.size for one in batch))
    return metrics | {"grad_norm": apply_gradients(optimizer, knobs.clip, model), "tokens": tokens}


NAMES = {
    "dpo": ("loss", "accuracy", "margin", "best_reward"),
    "ipo": ("loss", "accuracy", "margin", "best_reward"),
    "diamante": ("loss", "accuracy", "margin", "likelihood_loss", "preference_loss"),
}
"""What each loss logs."""


@torch.no_grad()
def heldout_metrics(
    model: Decoder | ScalarModel, rows: Sequence[Compared], pad_id: int, knobs: DirectSettings
) -> Metrics:
    """Loss, pair accuracy and margin on held-out rankings, as means over the rankings."""
    metrics = _over_passes(knobs, model, rows, rows, pad_id, learn=False)
    return {f"heldout_{name}": metrics[name] for name in ("loss", "accuracy", "margin")}


def _over_passes(
    knobs: DirectSettings, model: Decoder | ScalarModel, mine: Sequence[Compared], batch: Sequence[Compared], pad_id: int,
    *, learn: bool,
) -> Metrics:  # fmt: skip
    """The summed figures of ``mine``, this rank's share of the batch; with ``learn`` their gradient is added to the model's."""
    count = sum(len(one.example.ranks) for one in batch)
    tokens = sum(_best_tokens(one.example) for one in batch)
    totals: Metrics = {}
    for rows in _passes([one.example for one in mine], knobs):
        loss, figures = piece_loss(knobs, model, [mine[i] for i in rows], pad_id, count, tokens)
        if learn:
            loss.backward()
        for name, value in (figures | {"loss": loss}).items():
            totals[name] = totals.get(name, 0.0) + value.item()
    return totals


def piece_loss(
    knobs: DirectSettings, model: Decoder | ScalarModel, part: Sequence[Compared], pad_id: int, count: int, tokens: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a forward pass and what is logged of it, each a sum over ``count``, the rankings of the whole batch.

    ``tokens``: those of the best answers of the whole batch, which Diamante's likelihood is a mean over. Accuracy and margin are
    those of the implicit rewards, in Diamante of the head's scores; answers to other prompts do not count in them.
    """
    policy = model.decoder if isinstance(model, ScalarModel) else model
    examples = [one.example for one in part]
    with autocast(policy.embed.weight.device, knobs.machine.dtype):
        hidden, last = run_packed(policy, examples, pad_id)
        sums = completion_logprobs(policy, hidden, examples)
        scores = model.score(hidden).gather(1, last) if isinstance(model, ScalarModel) else None
    ranks, mask, owner = ranks_of(examples, sums.device)
    logprobs = sums[owner]
    if scores is not None:
        values = scores[owner]
        likelihood, preference = objectives.diamante_loss(values, logprobs, ranks, mask, tokens=tokens, count=count)
        loss, figures = likelihood + preference, {"likelihood_loss": likelihood, "preference_loss": preference}
    else:
        width = sums.shape[1]
        table = [[*one.reference, *[0.0] * (width - len(one.reference))] for one in part]
        reference = torch.tensor(table, device=sums.device)[owner]
        if knobs.loss == "dpo":
            loss = objectives.dpo_loss(
                logprobs, reference, ranks, mask, beta=knobs.beta, margin=knobs.margin, count=count
            )
        else:
            lengths = completion_lengths(examples, sums.device)[owner]
            loss = objectives.ipo_loss(logprobs, reference, lengths, ranks, mask, beta=knobs.beta, count=count)
        values = objectives.implicit_rewards(logprobs, reference, knobs.beta)
        best = objectives.best_of(ranks, mask)
        figures = {"best_reward": (values.masked_fill(~best, 0.0).sum(1) / best.sum(1)).sum() / count}
    ranked = mask & (ranks < NONCONTEXTUAL)
    figures["accuracy"] = pairwise_accuracy(values, ranks, ranked)[0].sum() / count
    figures["margin"] = objectives.mean_margin(values, ranks, ranked, count)
    return loss, figures


@torch.no_grad()
def sampled_kl(
    policy: Decoder, reference: Decoder, examples: Sequence[RankingExample], tokenizer: Tokenizer, knobs: DirectSettings
) -> Metrics:
    """KL to the reference [nats per answer], as PPO logs it: estimated on one answer to each of some held-out prompts."""
    room = policy.config.max_position_embeddings - knobs.max_tokens
    prompts = [list(ids) for ids in dict.fromkeys(tuple(example.prompt) for example in examples) if len(ids) <= room]
    prompts = prompts[:KL_PROMPTS]
    if not prompts:
        return {}
    seeds = [derive(knobs.seed, "direct.kl", row) for row in range(len(prompts))]
    rollouts = sample(policy, prompts, tokenizer, knobs.max_tokens, 1.0, seeds, knobs.machine.dtype)
    pieces = cut_by_length(rollouts.total_lengths.tolist(), 32, knobs.machine.pass_tokens)
    before = before_update(rollouts, policy, reference, [torch.tensor(rows) for rows in pieces], 1.0, knobs.machine)
    found = before.metrics(rollouts)
    return {name: found[name] for name in ("kl", "kl_k3")}


def _passes(examples: Sequence[RankingExample], knobs: DirectSettings) -> list[list[int]]:
    """The rankings of each forward pass."""
    return cut_by_length([example.size for example in examples], knobs.microbatch, knobs.machine.pass_tokens)


def _best_tokens(example: RankingExample) -> int:
    """Tokens of the best completions, of each labeller's ranking."""
    return sum(
        len(completion)
        for ranks in example.ranks
        for completion, rank in zip(example.completions, ranks, strict=True)
        if rank == min(ranks)
    )
