"""Supervised fine-tuning (SFT): imitate the assistant's turns in demonstrations.

    tutelage sft --checkpoint runs/base/checkpoint --demonstrations demos.jsonl --out runs/sft

The loss counts only assistant text and its end-of-turn token. The result is the epoch with the lowest held-out loss or, if a reward
model is given, the epoch whose answers to validation prompts it scores highest. InstructGPT's SFT overfits the loss after one
epoch, while people still prefer later epochs (appendix C.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.data.formats import OnBad, read_conversations
from tutelage.data.tokens.batches import Example, cut_by_tokens, encode_conversations, fitting_prompts, pack_examples
from tutelage.errors import DataError, RecipeError
from tutelage.model.checkpoint import load_scalar
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import fit_vocabulary
from tutelage.model.likelihood import summed_nll
from tutelage.objectives.language import over_count
from tutelage.seeds import derive
from tutelage.settings import Inputs, ModelPath, RewardModelPath, Rows
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics, Schedule, Training, apply_gradients, epoch_batches, shuffled, train
from tutelage.train.memory import say_memory
from tutelage.train.models import load_trainable
from tutelage.train.optimizer import Optimizer, make_optimizer
from tutelage.train.pretraining_text import Ptx, PtxSettings, ptx_of
from tutelage.train.rollouts import end_scores, sample
from tutelage.train.settings import (
    LearningRate,
    LearningSettings,
    Machine,
    Warmup,
    longest_row,
    require_microbatch,
    rows_of,
    warn_of_few_rows,
)


class SFTInputs(Inputs):
    """What SFT reads."""

    checkpoint: ModelPath = Field(description="model to start from: a folder, or a name on the Hugging Face hub")
    demonstrations: Path = Field(description="conversations to imitate")
    heldout: Path | None = Field(None, description="conversations to measure the loss on")
    reward_model: RewardModelPath | None = Field(None, description="select the epoch by its scores of sampled answers")
    prompts: Path | None = Field(None, description="validation prompts for that choice")
    chat_template: Path | None = Field(None, description="Jinja chat template, if the model has none or to replace it")
    text: dict[str, Path] = Field({}, description="sources of pretraining text to mix in, by name")


class SFTSettings(LearningSettings):
    """Knobs of ``tutelage sft``."""

    epochs: int = Field(2, gt=0, description="passes over the demonstrations")
    batch_size: int = Field(32, gt=0, description="conversations per step")
    microbatch: int = Field(0, ge=0, description="most conversations per forward pass; 0: no limit")
    max_length: int = Field(256, gt=1, description="longest conversation; longer ones are cut or left out [tokens]")
    lr: LearningRate = 1e-3
    warmup: Warmup = 20
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout while training (InstructGPT: 0.2)")
    max_tokens: int = Field(96, gt=0, description="longest answer if a reward model selects the epoch [tokens]")
    ptx: PtxSettings = Field(PtxSettings(), description="pretraining text mixed into the gradient")

    @model_validator(mode="after")
    def _fits_together(self) -> SFTSettings:
        require_microbatch(self.microbatch, self.batch_size)
        return self

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError for a reward model without validation prompts, or ptx without text."""
        assert isinstance(inputs, SFTInputs)
        self.ptx.check_text(inputs.text)
        if inputs.reward_model and not inputs.prompts:
            raise RecipeError("reward_model chooses the epoch by answers to validation prompts: give `prompts` too")

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """Training should outlast the warm-up."""
        assert isinstance(inputs, SFTInputs)
        yield from warn_of_few_rows(
            rows, "conversations", inputs.demonstrations, self.batch_size, self.epochs, self.warmup
        )


def main(knobs: SFTSettings, inputs: SFTInputs, out: Path) -> Path:
    """Run the stage; returns the checkpoint folder."""
    with parallel.open_stage(out, "sft", knobs, inputs) as (run, inputs):
        if run.finished:
            return run.checkpoint
        dtype = knobs.machine.dtype

        # model
        tokenizer = Tokenizer.load(inputs.checkpoint, chat_template=read_template(inputs.chat_template))
        torch.manual_seed(derive(knobs.seed, "sft.adapters"))
        model = load_trainable(inputs.checkpoint, tokenizer, knobs.lora, knobs.machine).train()
        context = model.config.max_position_embeddings
        longest = longest_row(knobs.max_length, context)

        # data
        prompts: list[list[int]] = []
        if inputs.reward_model and inputs.prompts:
            tokenizer.require_same(inputs.reward_model)
            room = context - knobs.max_tokens
            fitting = fitting_prompts(inputs.prompts, [(tokenizer, room)], knobs.on_bad)[1]
            order = shuffled(len(fitting), derive(knobs.seed, "sft.validation_prompts"))
            prompts = [fitting[i] for i in order[:256]]
        examples, left_out = fitting_conversations(inputs.demonstrations, tokenizer, longest, knobs.on_bad)
        heldout = fitting_conversations(inputs.heldout, tokenizer, longest, knobs.on_bad)[0] if inputs.heldout else []
        batches = epoch_batches(examples, knobs.batch_size, knobs.epochs, knobs.seed, "sft.order")
        windows = derive(knobs.seed, "sft.windows")
        ptx = ptx_of(knobs.ptx, inputs.text, windows, model, tokenizer, run, knobs.machine, knobs.on_bad)

        # optimiser
        model.dropout = knobs.dropout
        optimizer = make_optimizer(knobs.optimizer, model, knobs.lr, weight_decay=knobs.weight_decay)
        rows = rows_of(longest, knobs.microbatch or knobs.batch_size, knobs.machine.pass_tokens)
        say_memory([model], [model], rows, longest, dtype, knobs.optimizer)

        def evaluate(step: int) -> Metrics:
            metrics: Metrics = {}
            model.eval()
            if heldout:
                metrics["heldout_loss"] = heldout_loss(model, heldout, tokenizer.pad_id, knobs.machine)
            if inputs.reward_model:
                metrics["reward"] = validation_reward(model, tokenizer, inputs.reward_model, prompts, knobs)
            model.train()
            return metrics

        measures = (*(["heldout_loss"] if heldout else []), *(["reward"] if inputs.reward_model else []))
        dropout = derive(knobs.seed, "sft.dropout")
        training = Training(
            modules={"model": model},
            optimizer=optimizer,
            update=lambda step: sft_update(step, knobs, model, optimizer, batches[step], ptx, tokenizer.pad_id),
            schedule=Schedule(
                len(batches), knobs.warmup, knobs.floor, dropout, len(batches) // knobs.epochs, log_every=5
            ),
            result=(model, tokenizer),
            evaluate=evaluate if measures else None,
            measures=measures,
            select=measures[-1] if measures else None,
            show=("loss", "heldout_loss", "reward"),
        )
        outcome = train(run, training, knobs.machine)
        figures = {"conversations": len(examples), "left_out": left_out, "best_step": outcome.best_step}
        run.finish(figures | outcome.measured)
        return run.checkpoint


def sft_update(
    step: int,
    knobs: SFTSettings,
    model: Decoder,
    optimizer: Optimizer,
    batch: list[Example],
    ptx: Ptx | None,
    pad_id: int,
) -> Metrics:
    """One optimisation step."""
    count, total = sum(sum(example.loss_mask) for example in batch), 0.0
    for part in passes(parallel.shard(batch), knobs.microbatch, knobs.machine.pass_tokens):
        loss = demonstration_loss(model, part, count, pad_id, knobs.machine.dtype)
        loss.backward()
        total += loss.item()
    metrics = {"loss": parallel.total(total), "tokens": float(sum(len(example.ids) for example in batch))}
    if ptx:
        metrics["ptx_loss"] = ptx.backward(model, step)
    return metrics | {"grad_norm": apply_gradients(optimizer, knobs.clip, model)}


def read_template(path: Path | None) -> str | None:
    """The text of a chat template file; RecipeError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8") if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"chat_template {path} cannot be read: {error}") from None


def fitting_conversations(
    path: Path, tokenizer: Tokenizer, longest: int, on_bad: OnBad
) -> tuple[list[Example], dict[str, int]]:
    """The tokenised conversations of a file, and counts of those left out or shortened, by reason; DataError if none fits."""
    places: list[str] = []
    rows = read_conversations(path, on_bad=on_bad, places=places)
    examples, reasons = encode_conversations(rows, tokenizer, longest, places=places, on_bad=on_bad)
    said = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
    if not examples:
        problem = f"no conversation fits in {longest} tokens (max_length, or the model's context)"
        raise DataError(problem + f": {said}" * bool(said), path=path)
    if said:
        print(f"{path}: {said}")
    return examples, reasons


def demonstration_loss(model: Decoder, examples: Sequence[Example], count: int, pad_id: int, dtype: str) -> Tensor:
    """Sum of the negative log-likelihoods of the counted tokens over ``count``, their number in the whole batch."""
    device = next(model.parameters()).device
    ids, targets, positions, seen = (tensor.to(device) for tensor in pack_examples(examples, pad_id))
    counted = targets >= 0
    with autocast(device, dtype):
        hidden = model(ids, positions=positions, attention_mask=seen)
        nll = summed_nll(model, hidden[counted], targets[counted])
    return over_count(nll, count)


def passes(examples: Sequence[Example], most: int, tokens: int) -> list[list[Example]]:
    """The demonstrations of each forward pass."""
    return [[examples[i] for i in rows] for rows in cut_by_tokens([len(one.ids) - 1 for one in examples], most, tokens)]


@torch.no_grad()
def heldout_loss(model: Decoder, examples: Sequence[Example], pad_id: int, machine: Machine) -> float:
    """Mean negative log-likelihood [nats per counted token]."""
    order = sorted(examples, key=lambda example: len(example.ids))
    count = sum(sum(example.loss_mask) for example in order)
    parts = passes(order, 64, machine.pass_tokens)
    return sum(demonstration_loss(model, part, count, pad_id, machine.dtype).item() for part in parts)


def validation_reward(
    model: Decoder, tokenizer: Tokenizer, reward_model: Path, prompts: list[list[int]], knobs: SFTSettings
) -> float:
    """Mean reward-model score of one sampled answer to each validation prompt."""
    scorer = load_scalar(reward_model, next(model.parameters()).device, torch.float32).eval()
    fit_vocabulary(scorer, tokenizer.vocab_size)
    dtype = knobs.machine.dtype
    seeds = [derive(knobs.seed, "sft.validation", row) for row in range(len(prompts))]
    rollouts = sample(model, prompts, tokenizer, knobs.max_tokens, 1.0, seeds, dtype)
    return end_scores(scorer, rollouts, knobs.machine).mean().item()
