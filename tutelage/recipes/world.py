"""The steps of the embedded world: its files, its labellers, and PPO with its judge."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import Field, model_validator

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import read_answers, read_prompts, write_jsonl
from tutelage.files import write_atomic
from tutelage.generate.sampler import Sampling
from tutelage.model.hub import resolve_model
from tutelage.recipes.sample import distinct_answers
from tutelage.records import Answers, Ranking
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Device, Inputs, ModelPath, Rows, Settings, WorldPath
from tutelage.train import best, grpo, ppo
from tutelage.train.best import BestInputs, BestSettings
from tutelage.train.grpo import GRPOSettings
from tutelage.train.ppo_update import PPOInputs, PPOSettings
from tutelage.train.rl_settings import RLInputs
from tutelage.train.scorers import Gold
from tutelage.world.build import WorldSettings, build_world, load_judge
from tutelage.world.judge import Judge
from tutelage.world.labellers import Labeller, label_seen, make_labellers, see, with_agreement


class NoInputs(Inputs):
    """None: the embedded world comes with the package."""


def make_world(knobs: WorldSettings, inputs: NoInputs, out: Path) -> Path:
    """Write the world's texts, demonstrations and prompts; returns their folder."""
    with open_run(out, "world", knobs, inputs) as run:
        if not run.finished:
            run.finish(build_world(knobs, out))
    return out


class LabelInputs(Inputs):
    """The answers that simulated labellers rank."""

    world: WorldPath = Field(description="folder of the embedded world with the prompts and the judge")
    checkpoint: ModelPath | None = Field(
        None, description="model whose answers to the world's prompts are sampled and ranked"
    )
    answers: Path | None = Field(None, description="file of answers to rank instead")

    @model_validator(mode="after")
    def _one_source(self) -> LabelInputs:
        if (self.checkpoint is None) == (self.answers is None):
            raise ValueError("give either checkpoint, whose answers are sampled, or answers")
        return self


class LabelSettings(Settings):
    """How answers are sampled and ranked by simulated labellers."""

    prompts: int = Field(2400, gt=0, description="training prompts whose answers are ranked")
    heldout_prompts: int = Field(300, gt=0, description="held-out prompts whose answers are ranked")
    completions: int = Field(4, ge=2, le=9, description="answers per prompt (InstructGPT: 4 to 9)")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    max_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    labellers: int = Field(12, gt=0, description="training labellers")
    heldout_labellers: int = Field(4, gt=0, description="labellers whose rankings are not used in training")
    agreement: float = Field(
        0.73,
        gt=0.5,
        lt=1,
        description="share of pairs on which two labellers agree; sets their noise (InstructGPT: 0.726)",
    )
    opinions: int = Field(1, gt=0, description="training labellers who rank the answers to the same training prompt")
    views: int = Field(3, gt=1, description="labellers of each group who rank the same held-out prompt")
    seed: int = Field(0, description="seed of prompts, sampling and labellers")
    device: Device = "auto"

    def writes(self, inputs: Inputs) -> tuple[str, ...]:
        """Given answers are to training prompts only."""
        assert isinstance(inputs, LabelInputs)
        return ("rankings.jsonl", "labellers.json") if inputs.answers else ()

    def most_rows(self, file: str, inputs: Inputs, rows: Rows, enough: int) -> int | None:
        """Each prompt is ranked by several people."""
        assert isinstance(inputs, LabelInputs)
        if file == "rankings.jsonl":
            prompts = rows("prompts", inputs.answers, enough) if inputs.answers else self.prompts
            return prompts and prompts * min(self.opinions, self.labellers)
        groups = {"rankings_heldout.jsonl": self.labellers, "rankings_heldout_labellers.jsonl": self.heldout_labellers}
        return self.heldout_prompts * min(self.views, groups[file]) if file in groups else None


def label(knobs: LabelSettings, inputs: LabelInputs, out: Path) -> Path:
    """Let simulated labellers rank a model's answers, in the place of people. Returns the folder.

    rankings.jsonl                      training labellers, training prompts (``opinions`` each)
    rankings_heldout.jsonl              training labellers, held-out prompts (``views`` each, to measure their agreement)
    rankings_heldout_labellers.jsonl    held-out labellers, held-out prompts (``views`` each)
    labellers.json                      who they are
    """
    inputs = inputs.local(resolve_model)
    with open_run(out, "label", knobs, inputs) as run:
        if run.finished:
            return out
        judge = load_judge(inputs.world)
        rng = random.Random(f"{knobs.seed}:labelling")
        people = make_labellers(knobs.seed, training=knobs.labellers, heldout=knobs.heldout_labellers)
        if inputs.answers:
            given = list(read_answers(inputs.answers))
            heldout_answers: list[Answers] = []
            training_answers = [a for a in given if 2 <= len(a.completions) <= 9]
            if len(training_answers) < len(given):
                print(f"{inputs.answers}: left out {len(given) - len(training_answers)} x not 2 to 9 answers")
        else:
            training_answers, heldout_answers = sample_answers(knobs, inputs, rng)
        staff = with_agreement(people, judge, heldout_answers or training_answers, knobs.agreement, seed=knobs.seed)
        write_atomic(out / "labellers.json", json.dumps([asdict(person) for person in staff], indent=2).encode())
        training, outside = ([person for person in staff if person.heldout == held] for held in (False, True))
        work = (
            ("rankings.jsonl", training_answers, training, knobs.opinions),
            ("rankings_heldout_labellers.jsonl", heldout_answers, outside, knobs.views),
            ("rankings_heldout.jsonl", heldout_answers, training, knobs.views),
        )
        counts = {
            file: write_jsonl(out / file, ranked(judge, answers, group, opinions, rng, knobs.seed))
            for file, answers, group, opinions in work
            if answers
        }
        run.finish(counts)
    return out


def sample_answers(
    knobs: LabelSettings, inputs: LabelInputs, rng: random.Random
) -> tuple[list[Answers], list[Answers]]:
    """The model's answers to some of the world's training prompts, and to some of its held-out prompts."""
    assert inputs.checkpoint is not None
    assistant = Assistant.load(inputs.checkpoint, device=knobs.device)

    def sample(file: str, count: int) -> list[Answers]:
        prompts = list(read_prompts(inputs.world / file))
        seed = derive(knobs.seed, "label.answers", file)
        longest = knobs.max_tokens
        sampling = Sampling(temperature=knobs.temperature, max_tokens=longest, n=knobs.completions, seed=seed)
        return distinct_answers(assistant, rng.sample(prompts, min(count, len(prompts))), sampling)

    heldout = sample("prompts_heldout.jsonl", knobs.heldout_prompts)
    return sample("prompts.jsonl", knobs.prompts), heldout


def ranked(
    judge: Judge, work: Sequence[Answers], group: Sequence[Labeller], opinions: int, rng: random.Random, seed: int
) -> list[Ranking]:
    """Rankings of each prompt's answers by ``opinions`` people of the group, drawn for each prompt."""
    rankings = []
    for answers in work:
        views = [see(judge, answers.prompt, completion) for completion in answers.completions]
        for person in rng.sample(group, min(opinions, len(group))):
            rankings.append(label_seen(person, answers, views, seed=seed))
    return rankings


def train_ppo(knobs: PPOSettings, inputs: PPOInputs, out: Path) -> Path:
    """PPO, with the judge of ``inputs.world``, where there is one, as the scorer ``gold``."""
    return ppo.main(knobs, inputs, out, gold_of(inputs.world))


def train_grpo(knobs: GRPOSettings, inputs: RLInputs, out: Path) -> Path:
    """GRPO, with the judge of ``inputs.world``, where there is one, as the scorer ``gold``."""
    return grpo.main(knobs, inputs, out, gold_of(inputs.world))


def keep_best(knobs: BestSettings, inputs: BestInputs, out: Path) -> Path:
    """Rejection sampling, with the judge of ``inputs.world``, where there is one, as the scorer ``gold``."""
    return best.main(knobs, inputs, out, gold_of(inputs.world))


def gold_of(world: Path | None) -> Gold | None:
    """The scores of a world's judge."""
    judge = load_judge(world) if world else None
    return (lambda p, t, f: judge.judge(p, t, f).score) if judge else None
