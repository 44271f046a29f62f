"""The reward model: a scalar score learned from rankings of K completions.

    tutelage reward --checkpoint runs/sft/checkpoint --rankings rankings.jsonl --out runs/reward

All K(K-1)/2 pairs of a prompt stand in one loss term (InstructGPT, equation 1), from one forward of the prompt and each of its
completions: they are laid out [prompt | c1 | c2 | ...] under a tree mask, so the prompt's prefix is computed once. Afterwards the
scores are shifted so that demonstrations average 0.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.data.formats import read_conversations, read_rankings
from tutelage.data.prepare import opening, text_of
from tutelage.data.tokens.batches import pack_ranking, pad_right, tree_mask
from tutelage.data.tokens.mixing import split_by_key
from tutelage.errors import DataError
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.model.hub import resolve_model
from tutelage.objectives.ranking import centring_offset, kwise_loss, pairwise_accuracy
from tutelage.records import Ranking
from tutelage.runs.folder import open_run
from tutelage.settings import Settings
from tutelage.text.chat import render, render_answers
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.checkpointing import save_checkpoint
from tutelage.train.loop import Metrics, apply_gradients, run_steps
from tutelage.train.memory import say_memory
from tutelage.train.models import load_trainable, new_scorer
from tutelage.train.optimizer import OptimizerName, make_optimizer
from tutelage.train.settings import LoRA, Machine, longest_row


class RewardSettings(Settings):
    """Settings of ``tutelage reward``."""

    out: Path = Field(description="run folder to make")
    checkpoint: Path = Field(description="language model to start from: the SFT model")
    rankings: Path = Field(description="rankings to learn from")
    heldout: Path | None = Field(None, description="rankings to measure on; none: a share of the prompts is kept apart")
    heldout_share: float = Field(0.1, gt=0, lt=1, description="that share, where no held-out file is given")
    demonstrations: Path | None = Field(None, description="conversations whose last answers shall score 0 on average")
    epochs: int = Field(1, gt=0, description="passes over the rankings (InstructGPT: 1; more overfits)")
    batch_size: int = Field(32, gt=0, description="prompts a step")
    microbatch: int = Field(8, gt=0, description="prompts a forward pass")
    max_length: int = Field(
        512, gt=1, description="longest prompt with one completion [tokens]; longer ones are left out"
    )
    ties: Literal["skip", "half"] = Field(
        "half", description="what a pair of equal ranks gives: nothing, or half a win each"
    )
    noncontextual: int = Field(
        0,
        ge=0,
        description="answers to other prompts that each ranking gets at its bottom, drawn anew each time (RRM, Liu et al. 2024)",
    )
    surprisal: bool = Field(
        False,
        description="also read how little the model it starts from expects each token; the result keeps that model, frozen",
    )
    optimizer: OptimizerName = Field(
        "adamw", description="adamw, or muon for the matrices of the layers and AdamW for the rest"
    )
    lr: float = Field(5e-4, gt=0, description="peak learning rate")
    warmup: int = Field(10, ge=0, description="steps of linear warm-up")
    floor: float = Field(0.1, ge=0, le=1, description="last learning rate, as a share of the peak")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decay of matrices")
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    evaluate_every: int = Field(0, ge=0, description="steps between held-out measurements; 0: only at the end")
    lora: LoRA = Field(LoRA(), description="adapters in place of all weights")
    seed: int = Field(0, description="seed of the head, of adapters and of data order")
    machine: Machine = Field(Machine(), description="where it runs")

    @model_validator(mode="after")
    def _of_one_trunk(self) -> RewardSettings:
        if self.surprisal and self.lora.r:
            raise ValueError("surprisal is for reward models with all weights trained; leave out surprisal or lora")
        return self


def main(settings: RewardSettings) -> Path:
    """Run the stage; returns the checkpoint folder."""
    checkpoint = resolve_model(settings.checkpoint)
    inputs = {"checkpoint": checkpoint, "rankings": settings.rankings}
    optional = {"heldout": settings.heldout, "demonstrations": settings.demonstrations}
    with open_run(settings.out, "reward", settings, inputs | {k: v for k, v in optional.items() if v}) as run:
        if run.finished:
            return run.checkpoint

        tokenizer = Tokenizer.load(checkpoint)
        torch.manual_seed(settings.seed)
        decoder = load_trainable(checkpoint, tokenizer, settings.lora, settings.machine)

        # data
        longest = longest_row(settings.max_length, decoder.config.max_position_embeddings)
        rankings = list(read_rankings(settings.rankings))
        if settings.heldout:
            heldout_rankings = list(read_rankings(settings.heldout))
        else:
            rankings, heldout_rankings = split_by_key(
                rankings, lambda r: opening(r.prompt.messages), settings.heldout_share, settings.seed
            )
        examples, left_out = encode_rankings(rankings, tokenizer, longest)
        heldout, heldout_left_out = encode_rankings(heldout_rankings, tokenizer, longest)
        if not examples:
            raise DataError(
                f"no ranking with a preference fits in {longest} tokens: {left_out}", path=settings.rankings
            )
        if left_out:
            print(f"{settings.rankings}: left out " + ", ".join(f"{n} x {reason}" for reason, n in left_out.items()))
        shown = demonstration_ids(settings.demonstrations, tokenizer, longest) if settings.demonstrations else []
        batches = [batch for epoch in range(settings.epochs) for batch in prompt_batches(examples, settings, epoch)]

        # model and optimiser
        torch.manual_seed(settings.seed)
        model = new_scorer(decoder, surprisal=settings.surprisal).train()
        optimizer = make_optimizer(settings.optimizer, model, settings.lr, weight_decay=settings.weight_decay)
        answer = max(len(completion) for example in examples for completion in example.completions)
        widest = max(example.size for example in examples) + settings.noncontextual * answer
        say_memory([model], [model.decoder], settings.microbatch, widest, settings.machine.dtype, settings.optimizer)

        def update(step: int) -> Metrics:
            rng = random.Random(f"{settings.seed} {step}")
            drawn = [
                with_noncontextual(examples[i], examples, settings.noncontextual, longest, rng) for i in batches[step]
            ]
            chosen = sorted(drawn, key=lambda example: example.size)
            count, total, right = sum(len(example.ranks) for example in chosen), 0.0, 0.0
            for start in range(0, len(chosen), settings.microbatch):
                part = chosen[start : start + settings.microbatch]
                scores, ranks, mask = score_packed(model, part, tokenizer.pad_id, settings.machine.dtype)
                loss = kwise_loss(scores, ranks, mask, tie=settings.ties, count=count)
                loss.backward()
                total += loss.item()
                own = mask & (ranks < NONCONTEXTUAL)
                right += pairwise_accuracy(scores.detach(), ranks, own)[0].sum().item()
            norm = apply_gradients(optimizer, settings.clip, model)
            tokens = float(sum(example.size for example in chosen))
            return {"loss": total, "accuracy": right / count, "grad_norm": norm, "tokens": tokens}

        last: Metrics = {}

        def evaluate(step: int) -> Metrics:
            model.eval()
            last.update(heldout_metrics(model, heldout, tokenizer.pad_id, settings))
            model.train()
            return dict(last)

        @contextmanager
        def centred() -> Iterator[None]:
            model.eval()
            if shown:
                centre(model, shown, tokenizer.pad_id, settings.machine.dtype)
            yield
            model.offset.zero_()  # training goes on as if nothing had been written
            model.train()

        run_steps(
            run,
            steps=len(batches),
            modules={"model": model},
            optimizer=optimizer,
            update=update,
            warmup=settings.warmup,
            floor=settings.floor,
            seed=settings.seed,
            evaluate=evaluate if heldout else None,
            evaluate_every=settings.evaluate_every,
            measures=("heldout_loss", "heldout_accuracy"),
            complete=centred,
            machine=settings.machine,
            result=(model, tokenizer),
            log_every=2,
            show=("loss", "accuracy", "heldout_accuracy"),
        )
        with centred():
            save_checkpoint(run, model, tokenizer)
        used = sum(len(example.ranks) for example in examples)
        figures = {
            "prompts": len(examples),
            "rankings": used,
            "left_out": left_out,
            "heldout": len(heldout),
            "heldout_left_out": heldout_left_out,
        }
        run.finish(figures | (last or evaluate(len(batches)) if heldout else {}))
        return run.checkpoint


@dataclass(frozen=True)
class RankingExample:
    """A prompt and its completions in tokens, and how each of its labellers ranked them."""

    prompt: list[int]
    completions: list[list[int]]
    ranks: list[tuple[int, ...]]

    @property
    def size(self) -> int:
        """Tokens of the packed row."""
        return len(self.prompt) + sum(map(len, self.completions))


def encode_rankings(
    rankings: Iterable[Ranking], tokenizer: Tokenizer, max_length: int
) -> tuple[list[RankingExample], dict[str, int]]:
    """Rankings that express a preference and fit, together where several labellers ranked the same completions.

    And how many were left out, by reason. A completion that was cut off gets no end-of-turn token.
    """
    examples: dict[tuple[object, ...], RankingExample] = {}
    reasons: Counter[str] = Counter()
    for ranking in rankings:
        if len(set(ranking.ranks)) < 2:
            reasons["all tied"] += 1
            continue
        same = (text_of(ranking.prompt.messages), *((c.text, c.finished) for c in ranking.completions))
        if same in examples:
            examples[same].ranks.append(ranking.ranks)
            continue
        texts, finished = [c.text for c in ranking.completions], [c.finished for c in ranking.completions]
        prompt, completions = render_answers(tokenizer, ranking.prompt.messages, texts, finished)
        if not all(completions):
            reasons["an empty completion that did not end"] += 1
        elif any(len(prompt) + len(c) > max_length for c in completions):
            reasons["too long"] += 1
        else:
            examples[same] = RankingExample(prompt, completions, [ranking.ranks])
    return list(examples.values()), dict(reasons)


NONCONTEXTUAL = 1 << 30
"""The rank of an answer to another prompt: below every rank that a labeller gives."""


def with_noncontextual(
    example: RankingExample, others: Sequence[RankingExample], count: int, max_length: int, rng: random.Random
) -> RankingExample:
    """The ranking with ``count`` answers to other prompts below its own; fewer where hardly any fits in ``max_length``.

    They teach that an answer is good *to a prompt*. Rankings alone may not: a phrase that is good wherever the policy uses it now
    ("Nobody can know that") looks good everywhere, and PPO will use it everywhere (Liu et al. 2024, RRM, section 3).
    """
    strangers: list[list[int]] = []
    for _ in range(10 * count):
        other = rng.choice(others)
        completion = rng.choice(other.completions)
        fits = len(example.prompt) + len(completion) <= max_length
        if fits and other.prompt != example.prompt and completion not in example.completions:
            strangers.append(completion)
        if len(strangers) == count:
            break
    ranks = [ranks + (NONCONTEXTUAL,) * len(strangers) for ranks in example.ranks]
    return RankingExample(example.prompt, example.completions + strangers, ranks)


def prompt_batches(examples: Sequence[RankingExample], settings: RewardSettings, epoch: int) -> list[list[int]]:
    """A shuffled pass over the prompts in batches; a short last batch is kept."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    order = torch.randperm(len(examples), generator=generator).tolist()
    return [order[i : i + settings.batch_size] for i in range(0, len(order), settings.batch_size)]


def score_packed(
    model: ScalarModel, examples: Sequence[RankingExample], pad_id: int, dtype: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, ranks and mask, each [r, k], a row for every ranking.

    Every prompt's prefix runs once, all its completions branch from it, and all its rankings read the same scores.
    """
    device = next(model.parameters()).device
    packed = [pack_ranking(example.prompt, example.completions) for example in examples]
    ids, _ = pad_right([p.ids for p in packed], pad_id)
    positions, _ = pad_right([p.positions for p in packed], 0)
    segments, _ = pad_right([p.segments for p in packed], -1)
    last, mask = pad_right([p.last for p in packed], 0, multiple=1)
    ranks, _ = pad_right([list(ranks) for example in examples for ranks in example.ranks], 0, multiple=1)
    owner = torch.tensor([i for i, example in enumerate(examples) for _ in example.ranks])
    with autocast(device, dtype):
        values = model(ids.to(device), positions=positions.to(device), attention_mask=tree_mask(segments.to(device)))
    scores = values.float().gather(1, last.to(device))
    return scores[owner.to(device)], ranks.to(device), mask[owner].to(device)


@torch.no_grad()
def heldout_metrics(
    model: ScalarModel, examples: Sequence[RankingExample], pad_id: int, settings: RewardSettings
) -> Metrics:
    """Loss and pair accuracy on held-out rankings, each a mean over rankings."""
    order = sorted(examples, key=lambda example: example.size)
    count = sum(len(example.ranks) for example in examples)
    loss = right = 0.0
    for start in range(0, len(order), settings.microbatch):
        part = order[start : start + settings.microbatch]
        scores, ranks, mask = score_packed(model, part, pad_id, settings.machine.dtype)
        loss += kwise_loss(scores, ranks, mask, tie=settings.ties, count=count).item()
        right += pairwise_accuracy(scores, ranks, mask)[0].sum().item()
    return {"heldout_loss": loss, "heldout_accuracy": right / count}


def demonstration_ids(path: Path, tokenizer: Tokenizer, longest: int, most: int = 512) -> list[list[int]]:
    """Up to ``most`` demonstrations that fit and end with the assistant, in tokens; DataError where there is none."""
    rows: list[list[int]] = []
    for conversation in read_conversations(path):
        rendered = render(tokenizer, conversation.messages).until_end().ids
        if conversation.messages[-1].role == "assistant" and len(rendered) <= longest:
            rows.append(rendered)
        if len(rows) == most:
            break
    if not rows:
        raise DataError(
            f"no demonstration ends with the assistant and fits in {longest} tokens (max_length, or the context)",
            path=path,
        )
    return rows


@torch.no_grad()
def centre(model: ScalarModel, rows: Sequence[list[int]], pad_id: int, dtype: str) -> None:
    """Shift the scores so that these demonstrations average 0 (InstructGPT, section 3.5)."""
    device = next(model.parameters()).device
    scores = []
    for start in range(0, len(rows), 32):
        ids, mask = pad_right(rows[start : start + 32], pad_id)
        with autocast(device, dtype):
            values = model(ids.to(device))
        scores.append(values.float().gather(1, mask.sum(1, keepdim=True).to(device) - 1)[:, 0])
    model.offset += centring_offset(torch.cat(scores))
