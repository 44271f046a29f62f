"""Pretraining: next-token prediction on a mixture of texts.

    tutelage pretrain --tokenizer runs/tok --text.novels novels/ --heldout heldout.jsonl --out runs/base

Sources are mixed by weight, not by size (GPT-3, table 2.2). Held-out text is measured in bits per byte, which allows comparing
models with different tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import Field, ValidationError, model_validator

from tutelage.data.tokens.heldout import HeldoutText
from tutelage.errors import RecipeError
from tutelage.model.compiling import compile_layers, compiled
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.device import pick_device
from tutelage.model.likelihood import negative_log_likelihood
from tutelage.seeds import derive
from tutelage.settings import Inputs, ModelPath, Rows, Settings, TokenizerPath, describe_problem
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.loop import Metrics, Schedule, Training, apply_gradients, train
from tutelage.train.memory import say_memory
from tutelage.train.models import TYPES, load_trainable
from tutelage.train.optimizer import make_optimizer
from tutelage.train.pretraining_text import check_weights, text_backward, text_loss, text_mixture
from tutelage.train.settings import LearningRate, LearningSettings, Warmup, require_microbatch, rows_of, warn_of_warmup


class Shape(Settings):
    """The decoder's shape; the vocabulary comes from the tokenizer."""

    family: str = Field("llama", description="gpt2, gpt_neox, llama, mistral, qwen2 or qwen3")
    layers: int = Field(4, gt=0, description="decoder layers")
    hidden_size: int = Field(128, gt=0, description="width of the residual stream")
    heads: int = Field(4, gt=0, description="attention heads")
    kv_heads: int | None = Field(None, gt=0, description="key and value heads; none: as many as heads")
    intermediate_size: int | None = Field(None, gt=0, description="width of the MLP; none: 8/3 of hidden_size (LLaMA)")
    context: int = Field(512, gt=0, description="longest sequence that the model can process [tokens]")
    tie_embeddings: bool = Field(True, description="input and output embeddings are one matrix")
    init_std: float | None = Field(None, gt=0, description="spread of the initial weights; none: 1/sqrt(hidden_size)")

    @model_validator(mode="after")
    def _makes_a_model(self) -> Shape:
        try:
            self.config(vocab_size=512)
        except ValidationError as error:
            problem = describe_problem(error.errors()[0])
            for ours, theirs in _NAMES.items():
                problem = problem.replace(theirs, ours)
            raise ValueError(problem) from None
        return self

    def config(self, vocab_size: int) -> ModelConfig:
        """The full model configuration for a vocabulary of this size."""
        given = {_NAMES.get(name, name): value for name, value in self if value is not None}
        # The default is not GPT-2's 0.02, which is too small for narrow models.
        return ModelConfig(**{"vocab_size": vocab_size, "init_std": self.hidden_size**-0.5} | given)


_NAMES = {
    "layers": "num_layers",
    "heads": "num_heads",
    "kv_heads": "num_kv_heads",
    "context": "max_position_embeddings",
}
"""ModelConfig's names of the settings of Shape."""


class PretrainInputs(Inputs):
    """What pretraining reads."""

    tokenizer: TokenizerPath | None = Field(None, description="folder with tokenizer.json, for a new model")
    checkpoint: ModelPath | None = Field(None, description="or a model to train further, with its shape and tokenizer")
    text: dict[str, Path] = Field(description="each source of text by name: a file or folder of documents")
    heldout: Path | None = Field(None, description="documents to measure bits per byte on")

    @model_validator(mode="after")
    def _one_start(self) -> PretrainInputs:
        if (self.tokenizer is None) == (self.checkpoint is None):
            raise ValueError("give either tokenizer, for a new model, or checkpoint, to train one further")
        return self


class PretrainSettings(LearningSettings):
    """Knobs of ``tutelage pretrain``."""

    model: Shape = Field(Shape(), description="the decoder's shape")
    weights: dict[str, float] = Field({}, description="share of each source of text by name; default 1 each")
    sequence: int = Field(256, gt=1, description="length of a training window [tokens]")
    batch_size: int = Field(16, gt=0, description="windows per step")
    microbatch: int = Field(0, ge=0, description="windows per forward pass; 0: the whole batch")
    steps: int = Field(1000, gt=0, description="optimiser steps")
    lr: LearningRate = 3e-3
    warmup: Warmup = 50
    compile: bool = Field(False, description="use torch.compile: half a minute at the start, faster steps afterwards")
    evaluate_every: int = Field(0, ge=0, description="steps between held-out measurements; 0: only at the end")

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainSettings:
        require_microbatch(self.microbatch, self.batch_size)
        return self

    def check(self, inputs: Inputs) -> None:
        """Raise RecipeError for a shape with a checkpoint, adapters without one, or weights without text."""
        assert isinstance(inputs, PretrainInputs)
        check_weights(self.weights, inputs.text, "weights")
        if inputs.checkpoint is not None and self.model != Shape():
            raise RecipeError("model is the shape of a new model; a checkpoint has its own: give one of the two")
        if inputs.checkpoint is None and self.lora.r:
            raise RecipeError("lora needs a checkpoint: adapters on untrained weights learn nothing")

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """Training should outlast the warm-up."""
        yield from warn_of_warmup(self.steps, self.warmup)


def main(knobs: PretrainSettings, inputs: PretrainInputs, out: Path) -> Path:
    """Run the stage; returns the checkpoint folder."""
    with parallel.open_stage(out, "pretrain", knobs, inputs) as (run, inputs):
        if run.finished:
            return run.checkpoint
        dtype = knobs.machine.dtype

        # model and optimiser
        start = inputs.checkpoint or inputs.tokenizer
        assert start is not None  # PretrainInputs
        tokenizer = Tokenizer.load(start)
        torch.manual_seed(derive(knobs.seed, "pretrain.weights"))
        if inputs.checkpoint:
            model = load_trainable(inputs.checkpoint, tokenizer, knobs.lora, knobs.machine).train()
        else:
            model = Decoder(knobs.model.config(tokenizer.vocab_size)).train()
            model = model.to(pick_device(knobs.machine.device), TYPES[knobs.machine.weights])
            model.recompute = knobs.machine.recompute
        optimizer = make_optimizer(knobs.optimizer, model, knobs.lr, weight_decay=knobs.weight_decay)
        rows = rows_of(knobs.sequence, knobs.microbatch or knobs.batch_size, knobs.machine.pass_tokens)
        say_memory([model], [model], rows, knobs.sequence, dtype, knobs.optimizer)

        # data
        windows = derive(knobs.seed, "pretrain.windows")
        sequence, on_bad = knobs.sequence, knobs.on_bad
        mixture = text_mixture(inputs.text, knobs.weights, sequence, windows, model, tokenizer, run, on_bad)
        heldout = HeldoutText.read(inputs.heldout, tokenizer, sequence, on_bad=on_bad) if inputs.heldout else None

        loss_of = text_loss
        if knobs.compile:
            compile_layers(model)
            loss_of = compiled(text_loss)

        def update(step: int) -> Metrics:
            windows = torch.from_numpy(mixture.batch(step, knobs.batch_size))
            loss = text_backward(model, windows, dtype, microbatch=rows, loss_of=loss_of)
            norm = apply_gradients(optimizer, knobs.clip, model)
            return {"loss": loss, "grad_norm": norm, "tokens": float(knobs.batch_size * knobs.sequence)}

        def evaluate(step: int) -> Metrics:
            assert heldout is not None
            nats = negative_log_likelihood(model, heldout.ids, heldout.targets, dtype).sum().item()
            return {"bits_per_byte": heldout.bits_per_byte(nats)}

        dropout = derive(knobs.seed, "pretrain.dropout")  # of adapters
        training = Training(
            modules={"model": model},
            optimizer=optimizer,
            update=update,
            schedule=Schedule(knobs.steps, knobs.warmup, knobs.floor, dropout, knobs.evaluate_every, log_every=10),
            result=(model, tokenizer),
            evaluate=evaluate if heldout else None,
            measures=("bits_per_byte",) if heldout else (),
            show=("loss", "bits_per_byte"),
        )
        outcome = train(run, training, knobs.machine)
        run.finish(outcome.measured)
        return run.checkpoint
