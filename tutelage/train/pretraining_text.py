"""Pretraining text, as pretraining reads it and as later stages mix it into their gradient so that the model keeps what it knows.

InstructGPT mixes text into the RL gradient (PPO-ptx, equation 2), and into the fine-tuning that RL starts from, where "we find it
helpful for PPO training" (Ouyang et al. 2022, appendix C: 10%).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from tutelage.data.formats import read_documents
from tutelage.data.tokens.mixing import Mixture
from tutelage.data.tokens.shards import tokenise
from tutelage.errors import RecipeError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.objectives.language import next_token_loss
from tutelage.runs.folder import RunFolder
from tutelage.settings import Settings, nearest
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel


class PtxSettings(Settings):
    """Pretraining text in the gradient of another stage."""

    coef: float = Field(0.0, ge=0, description="weight of the pretraining loss in the joint gradient; 0: none")
    weights: dict[str, float] = Field({}, description="share of each source of text by name; default 1 each")
    windows: int = Field(8, gt=0, description="windows of text per optimiser step")
    sequence: int = Field(256, gt=1, description="length of a window [tokens]")

    def check_text(self, text: Mapping[str, Path]) -> None:
        """Raise RecipeError where there is no text to mix in, or a weight names none."""
        if self.coef and not text:
            raise RecipeError("ptx.coef is above 0, but the inputs name no text")
        check_weights(self.weights, text, "ptx.weights")


def check_weights(weights: Mapping[str, float], text: Mapping[str, Path], name: str) -> None:
    """Raise RecipeError for a weight of a source that is not there, or that is not above 0."""
    for source, weight in weights.items():
        if source not in text:
            raise RecipeError(f"{name}: there is no text {source!r} among the inputs{nearest(source, list(text))}")
        if weight <= 0:
            raise RecipeError(f"{name}.{source}: a weight is above 0, found {weight}; leave the source out instead")


def text_mixture(
    text: Mapping[str, Path],
    weights: Mapping[str, float],
    tokenizer: Tokenizer,
    run: RunFolder,
    *,
    sequence: int,
    context: int,
    seed: int,
) -> Mixture:
    """Windows of ``sequence`` + 1 tokens from all sources by weight, tokenised into the run folder.

    Token files of a run that this one started from are linked where they are the same. Raises RecipeError where the model's
    ``context`` does not hold the windows.
    """
    if sequence > context:
        raise RecipeError(f"windows of {sequence} tokens are longer than the model's context of {context}")
    parents = [Path(entry["path"]).parent for entry in run.lineage()["inputs"].values()]
    with parallel.writer_first():
        shards = [
            tokenise(
                read_documents(path),
                tokenizer,
                run.path / "tokens" / name,
                key=run.input_hash(f"text.{name}"),
                known=[parent / "tokens" / name for parent in parents],
            )
            for name, path in text.items()
        ]
    return Mixture(shards, [weights.get(name, 1.0) for name in text], context=sequence, seed=seed)


@dataclass(frozen=True)
class Ptx:
    """The text that a stage mixes into its gradient."""

    settings: PtxSettings
    mixture: Mixture
    dtype: str

    @classmethod
    def open(
        cls, settings: PtxSettings, text: Mapping[str, Path], tokenizer: Tokenizer, run: RunFolder, model: Decoder,
        *, seed: int, dtype: str,
    ) -> Ptx | None:  # fmt: skip
        """None where ``coef`` is 0."""
        if not settings.coef:
            return None
        context = model.config.max_position_embeddings
        mixture = text_mixture(
            text, settings.weights, tokenizer, run, sequence=settings.sequence, context=context, seed=seed
        )
        return cls(settings, mixture, dtype)

    def backward(self, model: Decoder, step: int) -> float:
        """Add ``coef`` times the gradient of the mean next-token loss to the model's; returns the loss [nats per token]."""
        windows = text_windows(self.mixture, step, self.settings.windows, model.embed.weight.device)
        mine = parallel.shard_tensor(windows)
        if not len(mine):
            return parallel.total(0.0)
        loss = text_loss(model, mine, windows[:, 1:].numel(), self.dtype)
        (self.settings.coef * loss).backward()
        return parallel.total(loss.item())


def text_loss(model: Decoder, windows: Tensor, count: int, dtype: str) -> Tensor:
    """Sum of the next-token losses in ``windows`` [b, s + 1] over ``count``, the whole batch's number of them [nats]."""
    with autocast(windows.device, dtype):
        logits = model.logits(model(windows[:, :-1]))
        return next_token_loss(logits.flatten(0, 1), windows[:, 1:].flatten(), count)


def text_windows(mixture: Mixture, step: int, count: int, device: torch.device) -> Tensor:
    """int64 [count, sequence + 1]: the windows of one optimiser step."""
    return torch.from_numpy(mixture.batch(step, count)).to(device)
