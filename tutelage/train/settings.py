"""Settings that several stages share, under one name and with one meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tutelage.data.formats import ON_BAD, OnBad
from tutelage.model.lora import TARGETS
from tutelage.settings import Device, Rows, Settings
from tutelage.train.optimizer import OptimizerName

LearningRate = Annotated[float, Field(gt=0, description="peak learning rate")]
Warmup = Annotated[int, Field(ge=0, description="steps of linear warm-up")]
Floor = Annotated[float, Field(ge=0, le=1, description="last learning rate, as a share of the peak")]
WeightDecay = Annotated[float, Field(ge=0, description="AdamW's decay of matrices")]


class Machine(Settings):
    """Where a stage runs and what it saves; these settings change speed and place, not what is computed."""

    device: Device = "auto"
    dtype: Literal["auto", "fp32", "bf16"] = Field("auto", description="type of matrix products; auto: bf16 if fast")
    weights: Literal["fp32", "bf16"] = Field("fp32", description="type of the weights; bf16 ones have fp32 masters")
    pass_tokens: int = Field(
        16384,
        gt=0,
        description="most tokens, padding included, in one forward and backward pass; a longer row is alone",
    )
    recompute: bool = Field(False, description="recompute layers in the backward pass: less memory, a third more time")
    save_every: float = Field(10.0, ge=0, description="minutes between saved states; 0: only when told to stop")
    checkpoint_every: int = Field(0, ge=0, description="steps between intermediate checkpoints; 0: none")
    keep_last: int = Field(3, gt=0, description="intermediate checkpoints that are kept; older ones are deleted")
    keep_best: str | None = Field(None, description="held-out metric whose best checkpoint is kept as checkpoints/best")
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = Field("none", description="also send metrics to this")
    project: str = Field("tutelage", description="the tracker's name for runs that belong together")


class LoRA(Settings):
    """Low-rank adapters (Hu et al. 2021) that are trained instead of all weights."""

    r: int = Field(0, ge=0, description="rank of the adapters; 0: none, all weights are trained")
    alpha: float = Field(32.0, gt=0, description="adapters are scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the adapters while training")
    targets: tuple[str, ...] = Field(TARGETS, description="matrices that get an adapter")
    trunk: Literal["auto", "fp32", "bf16"] = Field("auto", description="type of frozen weights; auto: the checkpoint's")

    @model_validator(mode="after")
    def _only_with_a_rank(self) -> LoRA:
        changed = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        if changed and not self.r:
            raise ValueError(f"{changed[0]} applies to adapters only: set lora.r, their rank, as well")
        return self


class LearningSettings(Settings):
    """The knobs of every stage that learns from data which is there, whatever its loss. A stage may have other defaults."""

    optimizer: OptimizerName = Field(
        "adamw", description="adamw, or muon for the layers' matrices and AdamW for the rest"
    )
    lr: LearningRate = 5e-4
    warmup: Warmup = 10
    floor: Floor = 0.1
    weight_decay: WeightDecay = 0.1
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    lora: LoRA = Field(LoRA(), description="adapters instead of all weights")
    on_bad: OnBad = Field("stop", description=ON_BAD)
    seed: int = Field(0, description="seed of data order, and of fresh weights, adapters, dropout and samples")
    machine: Machine = Field(Machine(), description="where it runs")


def longest_row(max_length: int, context: int) -> int:
    """The smaller of ``max_length`` and the model's context, which is rounded down because rows are padded to multiples of 8."""
    return min(max_length, context // 8 * 8)


def rows_of(longest: int, rows: int, pass_tokens: int) -> int:
    """The most rows of ``longest`` tokens in a pass."""
    return min(rows, max(1, pass_tokens // longest))


def require_microbatch(microbatch: int, whole: int, name: str = "batch_size") -> None:
    """Raise ValueError for a forward pass of more rows than there are."""
    if microbatch > whole:
        raise ValueError(f"microbatch {microbatch} is larger than {name} {whole}; 0 sets no limit")


def warn_of_warmup(steps: int, warmup: int, why: str = "") -> Iterator[str]:
    """A warning for a run that ends before its learning rate has reached its peak; ``why`` there are so few steps."""
    if steps <= warmup:
        yield f"{why}training ends after step {steps}, within the warm-up of {warmup} steps, so lr is never reached"


def warn_of_few_rows(
    rows: Rows, kind: str, path: Path, batch_size: int, epochs: int, warmup: int, what: str = ""
) -> Iterator[str]:
    """The same for a run over the rows of a file in batches; none if their number is unknown. ``what``: their name."""
    count = rows(kind, path, warmup // epochs * batch_size + 1)  # so many are enough
    if count is not None:
        why = f"with {count} {what or kind}, batch_size {batch_size} and epochs {epochs}, "
        for warning in warn_of_warmup(epochs * -(-count // batch_size), warmup, why):
            yield f"{warning}: lower batch_size or warmup, or raise epochs"
