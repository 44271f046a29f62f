"""The settings that PPO and GRPO share, and the checks of a reward, which rejection sampling has too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from tutelage.data.formats import ON_BAD, OnBad
from tutelage.errors import RecipeError
from tutelage.objectives import ppo
from tutelage.settings import Inputs, ModelPath, RewardModelPath, Rows, Settings, WorldPath, nearest
from tutelage.train.pretraining_text import PtxSettings
from tutelage.train.scorers import ScorerSettings, file_of
from tutelage.train.settings import LoRA, Machine, require_microbatch


class KLSettings(Settings):
    """The penalty for moving away from the SFT model."""

    controller: Literal["fixed", "adaptive"] = Field("fixed", description="adaptive steers coef towards target")
    coef: float = Field(0.1, ge=0, description="weight of the KL term per token; the initial weight, if adaptive")
    target: float = Field(3.0, gt=0, description="target KL, adaptive only [nats per answer, summed over its tokens]")
    horizon: int = Field(10_000, gt=0, description="how slowly coef follows, adaptive only [answers]")
    budget: float = Field(
        0.0, ge=0, description="end the run before training on a batch of higher KL; 0: never [nats per answer]"
    )

    def require_sense(self, answers: int) -> None:
        """Raise ValueError for an adaptive controller that would stay at 0, or reach it, with so many answers per update."""
        adaptive = self.controller == "adaptive"
        if adaptive and not self.coef:
            raise ValueError("an adaptive kl.coef is multiplied, so it cannot start at 0; give it, or controller fixed")
        if adaptive and answers >= 5 * self.horizon:  # at an error of -0.2 the coefficient would become 0 or negative
            raise ValueError(
                f"kl.horizon {self.horizon} is too short for batch_size {answers}; give more than a fifth of it"
            )

    def make(self) -> ppo.FixedKL:
        """The controller."""
        adaptive = self.controller == "adaptive"
        return ppo.AdaptiveKL(self.coef, self.target, self.horizon) if adaptive else ppo.FixedKL(self.coef)


class RLInputs(Inputs):
    """What reinforcement learning reads."""

    checkpoint: ModelPath = Field(description="policy to start from and KL reference: the SFT model")
    prompts: Path = Field(description="prompts to answer")
    reward_models: dict[str, RewardModelPath] = Field({}, description="(further) reward models to score with, by name")
    world: WorldPath | None = Field(None, description="folder of an embedded world, whose judge is the scorer `gold`")
    text: dict[str, Path] = Field({}, description="sources of pretraining text to mix in, by name")


class RLSettings(Settings):
    """The knobs that PPO and GRPO share. A minibatch is one optimiser step."""

    updates: int = Field(60, gt=0, description="batches of rollouts")
    minibatch: int = Field(32, gt=0, description="answers per optimiser step")
    microbatch: int = Field(0, ge=0, description="most answers per forward pass; 0: no limit")
    inner_epochs: int = Field(1, gt=0, description="passes over each batch of rollouts (InstructGPT: 1)")
    max_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    max_prompt: int = Field(0, ge=0, description="longest prompt; longer are left out; 0: all that fit [tokens]")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of every log-probability")
    missing_end_penalty: float = Field(2.0, ge=0, description="subtracted from the score of an unfinished answer")
    lr: float = Field(5e-5, gt=0, description="policy's learning rate")
    warmup: int = Field(3, ge=0, description="updates of linear learning-rate warm-up")
    floor: float = Field(1.0, ge=0, le=1, description="last learning rate as a share of the peak; 1: constant")
    clip: float = Field(0.2, gt=0, description="clip of the ratio")
    gradient_clip: float = Field(1.0, ge=0, description="largest gradient norm of a network; 0: no clipping")
    eps: float = Field(1e-5, gt=0, description="Adam's epsilon")
    average: float = Field(0.0, ge=0, lt=1, description="decay of saved mean weights (InstructGPT: 0.992); 0: none")
    kl: KLSettings = Field(KLSettings(), description="the penalty for moving away from the SFT model")
    ptx: PtxSettings = Field(PtxSettings(), description="pretraining text in the joint gradient (PPO-ptx)")
    scorers: dict[str, ScorerSettings] = Field({}, description="terms of the reward: reward models, functions and gold")
    lora: LoRA = Field(LoRA(), description="adapters instead of all weights")
    on_bad: OnBad = Field("stop", description=ON_BAD)
    seed: int = Field(0, description="seed of prompt order, sampling and adapters")
    machine: Machine = Field(Machine(), description="where it runs")

    def require_sense(self, answers: int, name: str) -> None:
        """Raise ValueError for knobs that contradict each other; ``answers`` per update, and the setting that says so."""
        if self.minibatch > answers:
            raise ValueError(f"minibatch {self.minibatch} is larger than {name} {answers}")
        require_microbatch(self.microbatch, self.minibatch, "minibatch")
        self.kl.require_sense(answers)

    def check_prompts(self, inputs: RLInputs, rows: Rows, needed: int, name: str) -> None:
        """Raise RecipeError for fewer prompts than an update ``needed``, the setting ``name``."""
        count = rows("prompts", inputs.prompts, needed)
        if count is not None and count < needed:
            problem = f"{inputs.prompts} has {count} prompts, fewer than {name} {needed}"
            raise RecipeError(f"{problem}: give more prompts, or a smaller {name} (and minibatch): at most {count}")

    def code(self) -> dict[str, Path]:
        """The files of the scorers' functions."""
        return code_of(self.scorers)


def check_reward(
    scorers: Mapping[str, ScorerSettings], models: Collection[str], world: Path | None, own: Sequence[str] = ()
) -> None:
    """Raise RecipeError for an unknown scorer, a name given twice, or a reward to which nothing adds.

    ``models``: names of the reward models that the user chose; ``own``: those that the stage gives.
    """
    taken = [*own, *(["gold"] if world else [])]
    known = [*taken, *models]
    for name in taken:
        if name in models:
            problem = f"{name} is a scorer already; give this reward model another name"
            raise RecipeError(f"reward_models.{name}: {problem}")
    for name, scorer in scorers.items():
        if scorer.function is None and name not in known:
            problem = f"give a function, or a reward model of this name among the inputs{nearest(name, known)}"
            raise RecipeError(f"scorers.{name}: {problem}")
        if scorer.function is not None and name in known:
            raise RecipeError(f"scorers.{name}: {name} is a scorer already; give the function another name")
    if not {*own, *models, *scorers} - {name for name, scorer in scorers.items() if not scorer.weight}:
        raise RecipeError("nothing adds to the reward: give reward_models, or scorers with a weight other than 0")


def code_of(scorers: Mapping[str, ScorerSettings]) -> dict[str, Path]:
    """The files of the scorers' functions."""
    found = {f"scorers.{name}": file_of(one.function) for name, one in scorers.items() if one.function}
    return {name: file for name, file in found.items() if file}
