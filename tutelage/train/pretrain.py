"""Pretraining: next-token prediction on a mixture of texts.

    tutelage pretrain --tokenizer runs/tok --sources.novels.path novels/ --heldout heldout.jsonl --out runs/base

Sources are mixed by weight, not by size (GPT-3, table 2.2). Held-out text is measured in bits per byte, which does not depend on
the tokenizer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from tutelage.data.tokens.heldout import HeldoutText
from tutelage.model.compiling import compile_layers, compiled
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast, pick_device
from tutelage.model.hub import resolve_model
from tutelage.model.likelihood import negative_log_likelihood
from tutelage.objectives.language import next_token_loss
from tutelage.runs.folder import open_run
from tutelage.settings import Settings
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.checkpointing import save_checkpoint
from tutelage.train.loop import Metrics, apply_gradients, run_steps
from tutelage.train.memory import say_memory
from tutelage.train.models import TYPES, load_trainable
from tutelage.train.optimizer import OptimizerName, make_optimizer
from tutelage.train.pretraining_text import text_inputs, text_mixture, text_windows
from tutelage.train.settings import LoRA, Machine, Source


class Shape(Settings):
    """The decoder's shape; the vocabulary comes from the tokenizer."""

    family: str = Field("llama", description="gpt2, gpt_neox, llama, mistral, qwen2 or qwen3")
    layers: int = Field(4, gt=0, description="decoder layers")
    hidden_size: int = Field(128, gt=0, description="width of the residual stream")
    heads: int = Field(4, gt=0, description="attention heads")
    kv_heads: int | None = Field(None, gt=0, description="key and value heads; none: as many as heads")
    intermediate_size: int | None = Field(None, gt=0, description="width of the MLP; none: 8/3 of hidden_size (LLaMA)")
    context: int = Field(512, gt=0, description="longest sequence the model will ever see [tokens]")
    tie_embeddings: bool = Field(True, description="input and output embeddings are one matrix")
    init_std: float | None = Field(
        None,
        gt=0,
        description="spread of the first weights; none: 1/sqrt(hidden_size), as GPT-2's 0.02 is too small for narrow models",
    )

    @model_validator(mode="after")
    def _makes_a_model(self) -> Shape:
        try:
            self.config(vocab_size=512)
        except ValidationError as error:
            first = error.errors()[0]
            named = "".join(f"{name}: " for name in first["loc"]) + first["msg"].removeprefix("Value error, ")
            for theirs, ours in _NAMES.items():
                named = re.sub(rf"\b{theirs}\b", ours, named)
            raise ValueError(named) from None
        return self

    def config(self, vocab_size: int) -> ModelConfig:
        """The full model configuration for a vocabulary of this size."""
        shape: dict[str, Any] = {
            "family": self.family,
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.layers,
            "num_heads": self.heads,
            "max_position_embeddings": self.context,
            "tie_embeddings": self.tie_embeddings,
            "init_std": self.init_std or self.hidden_size**-0.5,
        }
        optional = {"num_kv_heads": self.kv_heads, "intermediate_size": self.intermediate_size}
        return ModelConfig(**shape | {name: value for name, value in optional.items() if value is not None})


_NAMES = {
    "num_layers": "layers",
    "num_heads": "heads",
    "num_kv_heads": "kv_heads",
    "max_position_embeddings": "context",
}
"""What ModelConfig calls the settings of Shape."""


class PretrainSettings(Settings):
    """Settings of ``tutelage pretrain``."""

    out: Path = Field(description="run folder to make")
    tokenizer: Path | None = Field(None, description="folder with tokenizer.json")
    checkpoint: Path | None = Field(
        None,
        description="go on from this model, a folder or a name on the Hugging Face hub, with its shape and its tokenizer",
    )
    sources: dict[str, Source] = Field(description="name -> path and weight of each source of text")
    heldout: Path | None = Field(None, description="documents to measure bits per byte on")
    model: Shape = Field(Shape(), description="the decoder's shape")
    sequence: int = Field(256, gt=1, description="length of a training window [tokens]")
    batch_size: int = Field(16, gt=0, description="windows a step")
    microbatch: int = Field(0, ge=0, description="windows a forward pass; 0: the whole batch")
    steps: int = Field(1000, gt=0, description="optimiser steps")
    optimizer: OptimizerName = Field(
        "adamw", description="adamw, or muon for the matrices of the layers and AdamW for the rest"
    )
    lr: float = Field(3e-3, gt=0, description="peak learning rate")
    warmup: int = Field(50, ge=0, description="steps of linear warm-up")
    floor: float = Field(0.1, ge=0, le=1, description="last learning rate, as a share of the peak (cosine in between)")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decay of matrices")
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    compile: bool = Field(
        False, description="compile the step with torch.compile: half a minute at the start, then faster"
    )
    evaluate_every: int = Field(0, ge=0, description="steps between held-out measurements; 0: only at the end")
    lora: LoRA = Field(LoRA(), description="adapters in place of all weights, where a checkpoint is gone on from")
    seed: int = Field(0, description="seed of weights and data order")
    machine: Machine = Field(Machine(), description="where it runs")

    @model_validator(mode="after")
    def _one_start(self) -> PretrainSettings:
        if (self.tokenizer is None) == (self.checkpoint is None):
            raise ValueError(
                "give either tokenizer, for a new model, or checkpoint, to go on from one that has its own"
            )
        if self.checkpoint is not None and self.model != Shape():
            raise ValueError("model is the shape of a new model; a checkpoint has its own: give one of the two")
        if self.checkpoint is None and self.lora.r:
            raise ValueError("lora needs a checkpoint: adapters on weights that have learnt nothing learn nothing")
        return self


def main(settings: PretrainSettings) -> Path:
    """Run the stage; returns the checkpoint folder."""
    start = resolve_model(settings.checkpoint) if settings.checkpoint else settings.tokenizer
    assert start is not None  # PretrainSettings
    inputs = {"checkpoint" if settings.checkpoint else "tokenizer": start} | text_inputs(settings.sources)
    if settings.heldout:
        inputs["heldout"] = settings.heldout
    with open_run(settings.out, "pretrain", settings, inputs) as run:
        if run.finished:
            return run.checkpoint

        # model
        device = pick_device(settings.machine.device)
        tokenizer = Tokenizer.load(start)
        torch.manual_seed(settings.seed)
        if settings.checkpoint:
            model = load_trainable(start, tokenizer, settings.lora, settings.machine).train()
        else:
            model = new_model(settings, tokenizer).train()
        optimizer = make_optimizer(settings.optimizer, model, settings.lr, weight_decay=settings.weight_decay)

        rows = settings.microbatch or settings.batch_size
        say_memory([model], [model], rows, settings.sequence, settings.machine.dtype, settings.optimizer)

        # data
        context = model.config.max_position_embeddings
        mixture = text_mixture(
            settings.sources, tokenizer, run, sequence=settings.sequence, context=context, seed=settings.seed
        )
        heldout = HeldoutText.read(settings.heldout, tokenizer, settings.sequence) if settings.heldout else None

        def loss_of(hidden: Tensor, targets: Tensor, count: int) -> Tensor:
            return next_token_loss(model.logits(hidden).flatten(0, 1), targets.flatten(), count)

        if settings.compile:
            compile_layers(model)
            loss_of = compiled(loss_of)

        def update(step: int) -> Metrics:
            windows = text_windows(mixture, step, settings.batch_size, device)
            count = windows.shape[0] * settings.sequence
            total = 0.0
            for part in windows.split(settings.microbatch or len(windows)):
                with autocast(device, settings.machine.dtype):
                    loss = loss_of(model(part[:, :-1]), part[:, 1:], count)
                loss.backward()
                total += loss.item()
            norm = apply_gradients(optimizer, settings.clip, model)
            return {"loss": total, "grad_norm": norm, "tokens": float(count)}

        last: Metrics = {}

        def evaluate(step: int) -> Metrics:
            assert heldout is not None
            nats = negative_log_likelihood(model, heldout.ids, heldout.targets, settings.machine.dtype).sum().item()
            last["bits_per_byte"] = heldout.bits_per_byte(nats)
            return dict(last)

        run_steps(
            run,
            steps=settings.steps,
            modules={"model": model},
            optimizer=optimizer,
            update=update,
            warmup=settings.warmup,
            floor=settings.floor,
            seed=settings.seed,
            evaluate=evaluate if heldout else None,
            evaluate_every=settings.evaluate_every,
            measures=("bits_per_byte",),
            machine=settings.machine,
            result=(model, tokenizer),
            log_every=10,
            show=("loss", "bits_per_byte"),
        )
        save_checkpoint(run, model, tokenizer)
        run.finish(last or evaluate(settings.steps) if heldout else {})
        return run.checkpoint


def new_model(settings: PretrainSettings, tokenizer: Tokenizer) -> Decoder:
    """A decoder with weights drawn anew."""
    machine = settings.machine
    model = Decoder(settings.model.config(tokenizer.vocab_size)).to(pick_device(machine.device), TYPES[machine.weights])
    model.recompute = machine.recompute
    return model
