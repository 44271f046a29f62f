"""Pretraining text, as pretraining reads it and as the later stages mix it in so that the model keeps what it knows.

InstructGPT mixes text into the RL gradient (PPO-ptx, equation 2), and into the fine-tuning that RL starts from, where "we find it
helpful for PPO training" (Ouyang et al. 2022, appendix C: 10%).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tutelage.data.formats import read_documents
from tutelage.data.tokens.mixing import Mixture
from tutelage.data.tokens.shards import tokenise
from tutelage.errors import RecipeError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.objectives.language import next_token_loss
from tutelage.runs.folder import RunFolder
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.settings import Source


class Ptx(Protocol):
    """The settings of a stage that mixes pretraining text into its gradient."""

    @property
    def ptx_coef(self) -> float: ...
    @property
    def ptx_sources(self) -> dict[str, Source]: ...
    @property
    def ptx_sequence(self) -> int: ...
    @property
    def seed(self) -> int: ...


def text_inputs(sources: Mapping[str, Source]) -> dict[str, Path]:
    """The sources as inputs of a run, to be hashed: "text_" and the source's name -> path."""
    return {f"text_{name}": source.path for name, source in sources.items()}


def text_mixture(
    sources: Mapping[str, Source], tokenizer: Tokenizer, run: RunFolder, *, sequence: int, context: int, seed: int
) -> Mixture:
    """Windows of ``sequence`` + 1 tokens from all sources by weight, tokenised into the run folder.

    Where a run that this one goes on from has the same tokens, they are linked. Raises RecipeError where the model's ``context``
    does not hold the windows.
    """
    if sequence > context:
        raise RecipeError(f"windows of {sequence} tokens are longer than the model's context of {context}")
    parents = [Path(entry["path"]).parent for entry in run.lineage()["inputs"].values()]
    shards = [
        tokenise(
            read_documents(source.path),
            tokenizer,
            run.path / "tokens" / name,
            key=run.input_hash(f"text_{name}"),
            known=[parent / "tokens" / name for parent in parents],
        )
        for name, source in sources.items()
    ]
    return Mixture(shards, [source.weight for source in sources.values()], context=sequence, seed=seed)


def ptx_inputs(settings: Ptx) -> dict[str, Path]:
    """``text_inputs`` of a stage that mixes text in, none where it does not."""
    return text_inputs(settings.ptx_sources) if settings.ptx_coef else {}


def ptx_mixture(settings: Ptx, tokenizer: Tokenizer, run: RunFolder, context: int) -> Mixture | None:
    """The text that a stage mixes in, as ``text_mixture``; None where ``ptx_coef`` is 0."""
    if not settings.ptx_coef:
        return None
    sequence, seed = settings.ptx_sequence, settings.seed
    return text_mixture(settings.ptx_sources, tokenizer, run, sequence=sequence, context=context, seed=seed)


def text_windows(mixture: Mixture, step: int, count: int, device: torch.device) -> Tensor:
    """int64 [count, sequence + 1]: the windows of one optimiser step."""
    return torch.from_numpy(mixture.batch(step, count)).to(device)


def text_backward(model: Decoder, windows: Tensor, coef: float, dtype: str) -> float:
    """Add ``coef`` times the gradient of the mean next-token loss to the model's; returns the loss [nats a token]."""
    with autocast(windows.device, dtype):
        logits = model.logits(model(windows[:, :-1]))
        loss = next_token_loss(logits.flatten(0, 1), windows[:, 1:].flatten(), windows[:, 1:].numel())
    (coef * loss).backward()
    return loss.item()
