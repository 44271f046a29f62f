"""Knobs that more than one stage has, under one name and with one meaning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tutelage.settings import Settings

OPTIMIZER = "adamw, or muon for the matrices of the layers and AdamW for the rest"


class Machine(Settings):
    """Where a stage runs and how it saves: changes speed and place, never the result's meaning."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of matrix products with fp32 weights; auto: bf16 where the machine has it"
    )
    weights: Literal["fp32", "bf16"] = Field(
        "fp32", description="number type of the weights; bf16 weights learn through fp32 masters kept by the optimiser"
    )
    recompute: bool = Field(
        False, description="recompute the layers in the backward pass: far less activation memory, a third more time"
    )
    save_every: int = Field(0, ge=0, description="steps between saved states to resume from; 0: only when told to stop")
    checkpoint_every: int = Field(
        0, ge=0, description="steps between intermediate checkpoints, each a whole model folder; 0: none"
    )
    keep_last: int = Field(3, gt=0, description="intermediate checkpoints that are kept; older ones are deleted")
    keep_best: str | None = Field(
        None, description="held-out metric whose best checkpoint is kept as checkpoints/best: heldout_loss, reward ..."
    )
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = Field(
        "none", description="where metrics go besides metrics.jsonl; needs that package"
    )
    project: str = Field("tutelage", description="the tracker's name for runs that belong together")


class LoRA(Settings):
    """Adapters (Hu et al. 2021) instead of training all weights; the frozen ones are in memory once."""

    r: int = Field(0, ge=0, description="rank of the adapters; 0: none, all weights are trained")
    alpha: float = Field(32.0, gt=0, description="adapters count alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the adapters while training")
    targets: tuple[str, ...] = Field(
        ("attention.qkv", "attention.out", "mlp.up", "mlp.down"), description="matrices that get an adapter"
    )
    trunk: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="number type of the frozen weights; auto: that of the checkpoint"
    )

    @model_validator(mode="after")
    def _only_with_a_rank(self) -> LoRA:
        changed = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        if changed and not self.r:
            raise ValueError(f"{changed[0]} concerns adapters, and there are none: give r, their rank, too")
        return self


def longest_row(max_length: int, context: int) -> int:
    """``max_length``, or the model's context where that is less; rows are padded to multiples of 8 [tokens]."""
    return min(max_length, context // 8 * 8)
