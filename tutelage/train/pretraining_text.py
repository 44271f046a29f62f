"""Pretraining text: what pretraining reads, and what later stages mix into their gradient to retain what the model knows.

InstructGPT mixes text into the RL gradient (PPO-ptx, equation 2) and into the fine-tuning before it, where "we find it
helpful for PPO training" (Ouyang et al. 2022, appendix C: 10%).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from tutelage.data.formats import OnBad, read_documents
from tutelage.data.tokens.mixing import Mixture
from tutelage.data.tokens.shards import tokenise
from tutelage.errors import RecipeError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.likelihood import summed_nll
from tutelage.objectives.language import over_count
from tutelage.runs.folder import RunFolder
from tutelage.settings import Settings, nearest
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.settings import Machine, rows_of


class PtxSettings(Settings):
    """Pretraining text in the gradient of another stage."""

    coef: float = Field(0.0, ge=0, description="weight of the pretraining loss in the joint gradient; 0: none")
    weights: dict[str, float] = Field({}, description="share of each source of text by name; default 1 each")
    windows: int = Field(8, gt=0, description="windows of text per optimiser step")
    sequence: int = Field(256, gt=1, description="length of a window [tokens]")

    def check_text(self, text: Mapping[str, Path]) -> None:
        """Raise RecipeError if there is no text to mix in, or if a weight does not belong to any."""
        if self.coef and not text:
            raise RecipeError("ptx.coef is above 0, but the inputs name no text")
        check_weights(self.weights, text, "ptx.weights")


def check_weights(weights: Mapping[str, float], text: Mapping[str, Path], name: str) -> None:
    """Raise RecipeError for a weight of an unknown source, or one that is not above 0."""
    for source, weight in weights.items():
        if source not in text:
            raise RecipeError(f"{name}: there is no text {source!r} among the inputs{nearest(source, list(text))}")
        if weight <= 0:
            raise RecipeError(f"{name}.{source}: a weight is above 0, found {weight}; leave the source out instead")


def text_mixture(
    text: Mapping[str, Path],
    weights: Mapping[str, float],
    sequence: int,
    seed: int,
    model: Decoder,
    tokenizer: Tokenizer,
    run: RunFolder,
    on_bad: OnBad = "stop",
) -> Mixture:
    """Windows of ``sequence`` + 1 tokens from all sources by weight, tokenised into the run folder.

    Identical token files of the runs that the inputs come from are linked. Raises RecipeError if the windows exceed the model's
    context.
    """
    context = model.config.max_position_embeddings
    if sequence > context:
        raise RecipeError(f"windows of {sequence} tokens are longer than the model's context of {context}")
    parents = [Path(entry["path"]).parent for entry in run.lineage()["inputs"].values()]
    shards = []
    with parallel.writer_first():
        for name, path in text.items():
            key = run.input_hash(f"text.{name}")
            known = [parent / "tokens" / name for parent in parents]
            documents = read_documents(path, on_bad=on_bad)
            shards.append(tokenise(documents, tokenizer, run.path / "tokens" / name, key=key, known=known))
    return Mixture(shards, [weights.get(name, 1.0) for name in text], context=sequence, seed=seed)


def text_loss(model: Decoder, hidden: Tensor, targets: Tensor, count: int) -> Tensor:
    """Sum of the next-token losses over ``count``, from hidden states [b, s, d] and targets [b, s] [nats per token]."""
    return over_count(summed_nll(model, hidden.flatten(0, 1), targets.flatten()), count)


def text_backward(
    model: Decoder,
    windows: Tensor,
    dtype: str,
    *,
    coef: float = 1.0,
    microbatch: int = 0,
    loss_of: Callable[[Decoder, Tensor, Tensor, int], Tensor] = text_loss,
) -> float:
    """Add ``coef`` times the gradient of the mean next-token loss over ``windows`` [b, s + 1] to the model's.

    Returns the loss [nats per token]. ``microbatch``: windows per forward pass; 0: all.
    """
    windows = windows.to(model.embed.weight.device)
    count, total = windows[:, 1:].numel(), 0.0
    for part in parallel.microbatches(parallel.shard(windows), microbatch):
        with autocast(windows.device, dtype):
            loss = loss_of(model, model(part[:, :-1]), part[:, 1:], count)
        (coef * loss).backward()
        total += loss.item()
    return parallel.total(total)


@dataclass(frozen=True)
class Ptx:
    """The text that a stage mixes into its gradient."""

    settings: PtxSettings
    mixture: Mixture
    machine: Machine

    def backward(self, model: Decoder, step: int) -> float:
        """Add ``coef`` times the gradient of the loss on this step's windows to the model's; return the loss [nats per token]."""
        windows = torch.from_numpy(self.mixture.batch(step, self.settings.windows))
        rows = rows_of(self.settings.sequence, self.settings.windows, self.machine.pass_tokens)
        return text_backward(model, windows, self.machine.dtype, coef=self.settings.coef, microbatch=rows)


def ptx_of(
    settings: PtxSettings,
    text: Mapping[str, Path],
    seed: int,
    model: Decoder,
    tokenizer: Tokenizer,
    run: RunFolder,
    machine: Machine,
    on_bad: OnBad,
) -> Ptx | None:
    """The text that these settings mix in, ``seed`` that of its windows; None without any."""
    if not settings.coef:
        return None
    mixture = text_mixture(text, settings.weights, settings.sequence, seed, model, tokenizer, run, on_bad)
    return Ptx(settings, mixture, machine)
