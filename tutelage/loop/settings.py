"""The settings of the loop, in a short recipe of its own (recipes/loop.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tutelage.loop.gate import GateSettings
from tutelage.settings import RewardModelPath, Settings


class SimulatedSettings(Settings):
    """Simulated people, for ``--simulate``."""

    questions: int = Field(400, gt=0, description="questions that simulated people ask in a round")
    askers: int = Field(40, gt=0, description="simulated people who ask")
    labellers: int = Field(8, gt=0, description="simulated people who rank")
    agreement: float = Field(
        0.73, gt=0.5, lt=1, description="share of pairs on which two of them agree, in an embedded world"
    )
    reward_model: RewardModelPath | None = Field(None, description="what they prefer where there is no embedded world")
    noise: float = Field(0.5, ge=0, description="standard deviation of their noise [scores of reward_model]")


class LoopSettings(Settings):
    """What a round of the loop does."""

    start: Path = Field(Path("runs/demo"), description="run of a recipe that raised the first model")
    reward: str = Field("reward", description="its step that every round's reward model is trained like")
    ppo: str = Field(
        "ppo_ptx", description="its step that every round's policy is trained like, from the same SFT model"
    )
    data: Path | None = Field(
        None, description="folder of your own prompts*.jsonl and rankings*.jsonl, which join what people say"
    )
    out: Path = Field(Path("runs/loop"), description="folder of the rounds")
    seed: int = Field(0, description="seed of every choice; a round's training has it plus the round's number")
    prompts: int = Field(300, gt=0, description="most prompts whose answers are ranked in a round")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of people whose prompts are kept for evaluation")
    completions: int = Field(4, ge=2, le=9, description="answers to a prompt")
    earlier: int = Field(
        1, ge=0, description="how many of them are by the model that served before, where there is one"
    )
    temperature: float = Field(1.0, gt=0, description="of the answers that are ranked")
    max_tokens: int = Field(64, gt=0, description="longest answer, also in the gate [tokens]")
    seats: int = Field(1, gt=0, description="people who rank the answers to a prompt")
    enough: float = Field(1.0, gt=0, le=1, description="share of seats that must be taken before a round goes on")
    threads: int = Field(1, gt=0, description="CPU threads of training, so that a server beside it keeps the others")
    nice: int = Field(10, ge=0, le=19, description="how far training stands back behind other processes")
    steps: dict[str, dict[str, Any]] = Field(
        {}, description="by step of the start's recipe (those of reward and ppo): knobs that a round changes"
    )
    gate: GateSettings = GateSettings()
    simulated: SimulatedSettings = SimulatedSettings()

    @model_validator(mode="after")
    def _most_answers_are_the_serving_models(self) -> LoopSettings:
        if self.earlier >= self.completions:
            raise ValueError(
                f"earlier is {self.earlier} of {self.completions} completions: the serving model answers too"
            )
        return self
