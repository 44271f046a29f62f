"""Supervised fine-tuning: imitate the assistant's turns of demonstrations.

    tutelage sft --checkpoint runs/base/checkpoint --demonstrations demos.jsonl --out runs/sft

The loss counts assistant text and its end-of-turn token, and nothing else. The checkpoint kept is the epoch with the lowest
held-out loss, or, where a reward model is given, the one whose answers to validation prompts it scores highest: InstructGPT's
SFT overfits the loss after one epoch while people go on preferring later ones (appendix C.1).
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from pydantic import Field, model_validator

from tutelage.data.formats import read_conversations, read_prompts
from tutelage.data.tokens.batches import Example, encode_conversations, fitting_prompts, length_buckets, pad_right
from tutelage.errors import DataError, RecipeError
from tutelage.model.checkpoint import load_scalar
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast, pick_device
from tutelage.model.hub import resolve_model
from tutelage.model.lora import copy_on_trunk, load_own_weights, own_weights
from tutelage.model.vocabulary import fit_vocabulary
from tutelage.objectives.language import next_token_loss
from tutelage.runs.folder import open_run
from tutelage.settings import Settings
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.checkpointing import save_checkpoint
from tutelage.train.loop import Metrics, apply_gradients, run_steps
from tutelage.train.memory import say_memory
from tutelage.train.models import load_trainable
from tutelage.train.optimizer import OptimizerName, make_optimizer
from tutelage.train.pretraining_text import ptx_inputs, ptx_mixture, text_backward, text_windows
from tutelage.train.rollouts import end_scores, sample
from tutelage.train.settings import LoRA, Machine, Source, longest_row


class SFTSettings(Settings):
    """Settings of ``tutelage sft``."""

    out: Path = Field(description="run folder to make")
    checkpoint: Path = Field(description="model to start from: a folder, or a name on the Hugging Face hub")
    chat_template: Path | None = Field(
        None, description="jinja file that lays conversations out, for a model that has none or shall have another"
    )
    demonstrations: Path = Field(description="conversations to imitate")
    heldout: Path | None = Field(None, description="conversations to measure the loss on")
    reward_model: Path | None = Field(None, description="choose the epoch by this model's scores, not by held-out loss")
    prompts: Path | None = Field(None, description="validation prompts that the reward model's choice is made on")
    epochs: int = Field(2, gt=0, description="passes over the demonstrations")
    batch_size: int = Field(32, gt=0, description="conversations a step")
    microbatch: int = Field(0, ge=0, description="conversations a forward pass; 0: the whole batch")
    max_length: int = Field(
        256, gt=1, description="longest conversation; longer ones are left out and counted [tokens]"
    )
    optimizer: OptimizerName = Field(
        "adamw", description="adamw, or muon for the matrices of the layers and AdamW for the rest"
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup: int = Field(20, ge=0, description="steps of linear warm-up")
    floor: float = Field(0.1, ge=0, le=1, description="last learning rate, as a share of the peak")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decay of matrices")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout while training (InstructGPT: 0.2)")
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    max_new_tokens: int = Field(96, gt=0, description="longest answer when the reward model chooses [tokens]")
    ptx_coef: float = Field(0.0, ge=0, description="weight of the pretraining loss beside the demonstrations'; 0: none")
    ptx_sources: dict[str, Source] = Field({}, description="name -> path and weight of the pretraining text mixed in")
    ptx_windows: int = Field(2, gt=0, description="windows of pretraining text a step")
    ptx_sequence: int = Field(256, gt=1, description="length of such a window [tokens]")
    lora: LoRA = Field(LoRA(), description="adapters in place of all weights")
    seed: int = Field(0, description="seed of data order, dropout and adapters")
    machine: Machine = Field(Machine(), description="where it runs")

    @model_validator(mode="after")
    def _has_text(self) -> SFTSettings:
        if self.ptx_coef and not self.ptx_sources:
            raise ValueError("ptx_coef is above 0 but ptx_sources names no pretraining text")
        return self


def main(settings: SFTSettings) -> Path:
    """Run the stage; returns the checkpoint folder."""
    if settings.reward_model and not settings.prompts:
        raise RecipeError("reward_model chooses the epoch by answers to validation prompts: give `prompts` too")
    scorer = resolve_model(settings.reward_model) if settings.reward_model else None
    optional = {
        "heldout": settings.heldout,
        "reward_model": scorer,
        "prompts": settings.prompts,
        "chat_template": settings.chat_template,
    }
    checkpoint = resolve_model(settings.checkpoint)
    inputs = {"checkpoint": checkpoint, "demonstrations": settings.demonstrations}
    inputs |= ptx_inputs(settings)
    with open_run(settings.out, "sft", settings, inputs | {k: v for k, v in optional.items() if v}) as run:
        if run.finished:
            return run.checkpoint

        # model
        device = pick_device(settings.machine.device)
        tokenizer = Tokenizer.load(checkpoint, chat_template=read_template(settings.chat_template))
        torch.manual_seed(settings.seed)
        model = load_trainable(checkpoint, tokenizer, settings.lora, settings.machine).train()
        context = model.config.max_position_embeddings

        # data
        prompts = validation_prompts(settings, tokenizer, context)
        if scorer:
            tokenizer.require_same(scorer)
        longest = longest_row(settings.max_length, context)
        examples, left_out = fitting_conversations(settings.demonstrations, tokenizer, longest)
        heldout = fitting_conversations(settings.heldout, tokenizer, longest)[0] if settings.heldout else []
        lengths = [len(example.ids) for example in examples]
        epochs = [
            length_buckets(lengths, settings.batch_size, seed=settings.seed, epoch=epoch)
            for epoch in range(settings.epochs)
        ]
        batches = [batch for epoch in epochs for batch in epoch]
        mixture = ptx_mixture(settings, tokenizer, run, context)

        # optimiser
        model.dropout = settings.dropout
        optimizer = make_optimizer(settings.optimizer, model, settings.lr, weight_decay=settings.weight_decay)
        best = Best(model)
        rows = settings.microbatch or settings.batch_size
        say_memory([model, best], [model], rows, longest, settings.machine.dtype, settings.optimizer)

        def update(step: int) -> Metrics:
            chosen = [examples[i] for i in batches[step]]
            count = sum(sum(example.loss_mask) for example in chosen)
            total, size = 0.0, settings.microbatch or len(chosen)
            for start in range(0, len(chosen), size):
                loss = demonstration_loss(
                    model, chosen[start : start + size], count, tokenizer.pad_id, settings.machine.dtype
                )
                loss.backward()
                total += loss.item()
            metrics = {"loss": total, "tokens": float(sum(len(example.ids) for example in chosen))}
            if mixture:
                windows = text_windows(mixture, step, settings.ptx_windows, device)
                metrics["ptx_loss"] = text_backward(model, windows, settings.ptx_coef, settings.machine.dtype)
            return metrics | {"grad_norm": apply_gradients(optimizer, settings.clip, model)}

        def evaluate(step: int) -> Metrics:
            metrics: Metrics = {}
            model.eval()
            if heldout:
                metrics["heldout_loss"] = heldout_loss(model, heldout, tokenizer.pad_id, settings.machine.dtype)
            if scorer:
                metrics["reward"] = validation_reward(model, tokenizer, scorer, prompts, settings)
            model.train()
            best.offer(metrics.get("reward", -metrics.get("heldout_loss", -step)), step)
            return metrics

        run_steps(
            run,
            steps=len(batches),
            modules={"model": model, "best": best},
            optimizer=optimizer,
            update=update,
            warmup=settings.warmup,
            floor=settings.floor,
            seed=settings.seed,
            evaluate=evaluate,
            evaluate_every=len(epochs[0]),
            measures=[*(["heldout_loss"] if heldout else []), *(["reward"] if scorer else [])],
            machine=settings.machine,
            result=(model, tokenizer),
            log_every=5,
            show=("loss", "heldout_loss", "reward"),
        )
        best.model.dropout = 0.0
        save_checkpoint(run, best.model, tokenizer)
        run.finish(
            {
                "conversations": len(examples),
                "left_out": left_out,
                "best_step": int(best.step),
                "best": float(best.value),
            }
        )
        return run.checkpoint


def read_template(path: Path | None) -> str | None:
    """The text of a chat template's file; RecipeError where it cannot be read."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"chat_template {path} cannot be read: {error}") from None


def fitting_conversations(path: Path, tokenizer: Tokenizer, longest: int) -> tuple[list[Example], dict[str, int]]:
    """The file's conversations in tokens, and how many were left out or shortened, by reason; DataError where none fits."""
    examples, reasons = encode_conversations(read_conversations(path), tokenizer, longest)
    if not examples:
        raise DataError(f"no conversation fits in {longest} tokens (max_length, or the model's context)", path=path)
    if reasons:
        print(f"{path}: " + ", ".join(f"{count} x {reason}" for reason, count in reasons.items()))
    return examples, reasons


class Best(torch.nn.Module):
    """The best model so far; a module, so that it is saved and resumed with the rest."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.live = [model]  # in a list: not a submodule
        self.model = copy_on_trunk(model).requires_grad_(False)
        self.value: torch.Tensor
        self.step: torch.Tensor
        self.register_buffer("value", torch.tensor(-torch.inf))
        self.register_buffer("step", torch.tensor(0))

    def offer(self, value: float, step: int) -> None:
        """Keep the live model's weights if ``value`` is the highest yet."""
        if value > self.value:
            load_own_weights(self.model, own_weights(self.live[0]))
            self.value.fill_(value)
            self.step.fill_(step)


def demonstration_loss(model: Decoder, examples: list[Example], count: int, pad_id: int, dtype: str) -> torch.Tensor:
    """Sum of the negative log-likelihood of the counted tokens over ``count``, the whole batch's number of them."""
    device = next(model.parameters()).device
    ids, _ = pad_right([example.ids for example in examples], pad_id)
    counted, _ = pad_right([[int(m) for m in example.loss_mask] for example in examples], 0)
    ids, targets_counted = ids.to(device), counted[:, 1:].bool().to(device)
    with autocast(device, dtype):
        logits = model.logits(model(ids[:, :-1])[targets_counted])  # logits only where the loss needs them
        return next_token_loss(logits, ids[:, 1:][targets_counted], count)


@torch.no_grad()
def heldout_loss(model: Decoder, examples: list[Example], pad_id: int, dtype: str, batch_size: int = 64) -> float:
    """Mean negative log-likelihood a counted token [nats]."""
    order = sorted(examples, key=lambda example: len(example.ids))
    count = sum(sum(example.loss_mask) for example in order)
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return sum(demonstration_loss(model, part, count, pad_id, dtype).item() for part in parts)


@torch.no_grad()
def validation_prompts(settings: SFTSettings, tokenizer: Tokenizer, context: int, limit: int = 256) -> list[list[int]]:
    """Up to ``limit`` prompts in tokens, none without ``prompts``; DataError where none leaves room for an answer."""
    if settings.prompts is None:
        return []
    room = context - settings.max_new_tokens
    ids = fitting_prompts(islice(read_prompts(settings.prompts), limit), tokenizer, room)[1]
    if not ids:
        raise DataError(
            f"no prompt leaves room for an answer of {settings.max_new_tokens} tokens", path=settings.prompts
        )
    return ids


def validation_reward(
    model: Decoder, tokenizer: Tokenizer, reward_model: Path, ids: list[list[int]], settings: SFTSettings
) -> float:
    """Mean reward-model score of one sampled answer to each validation prompt."""
    scorer = load_scalar(reward_model, next(model.parameters()).device, torch.float32).eval()
    fit_vocabulary(scorer, tokenizer.vocab_size)
    rollouts = sample(
        model, ids, tokenizer, max_new_tokens=settings.max_new_tokens, temperature=1.0, seed=settings.seed,
        dtype=settings.machine.dtype,
    )  # fmt: skip
    return end_scores(scorer, rollouts, settings.machine.dtype).mean().item()
