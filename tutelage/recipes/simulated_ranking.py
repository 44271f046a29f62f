"""Rankings of a model's own answers by the embedded world's simulated labellers: what people do where there are people.

data/prompts.jsonl          ->  data/rankings.jsonl                       training labellers, training prompts
data/prompts_heldout.jsonl  ->  data/rankings_heldout.jsonl               training labellers, held-out prompts
                                data/rankings_heldout_labellers.jsonl     held-out labellers, held-out prompts
                                data/labellers.json                       who they are
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import read_prompts, write_jsonl
from tutelage.files import write_atomic
from tutelage.generate.sampler import Sampling
from tutelage.records import Answers, Prompt, Ranking
from tutelage.settings import Settings
from tutelage.world.build import load_judge
from tutelage.world.labellers import Labeller, label_seen, make_labellers, see, with_agreement


class LabelSettings(Settings):
    """How answers are sampled from the SFT model and ranked by simulated labellers."""

    prompts: int = Field(2400, gt=0, description="training prompts to rank answers of")
    heldout_prompts: int = Field(300, gt=0, description="held-out prompts to rank answers of")
    completions: int = Field(4, ge=2, le=9, description="answers a prompt (InstructGPT: 4 to 9)")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    max_new_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    labellers: int = Field(12, gt=0, description="training labellers")
    heldout_labellers: int = Field(4, gt=0, description="labellers that nothing is trained on")
    agreement: float = Field(
        0.73,
        gt=0.5,
        lt=1,
        description="share of pairs of these answers on which two labellers shall agree: it sets their noise (InstructGPT: 0.726)",
    )
    opinions: int = Field(1, gt=0, description="training labellers who rank the answers to the same training prompt")
    views: int = Field(3, gt=1, description="labellers of each kind who rank the same held-out prompt")


def rank_answers(settings: LabelSettings, checkpoint: Path, data: Path, *, seed: int, device: str = "auto") -> None:
    """Sample completions from the SFT model and let the simulated labellers rank them.

    Each training prompt is ranked by `opinions` training labellers; each held-out prompt by `views` of them and as many held-out
    ones, which is what their agreement is measured on.
    """
    if (data / "rankings_heldout.jsonl").exists():
        return
    judge = load_judge(data)
    assistant = Assistant.load(checkpoint, device=device)
    rng = random.Random(f"{seed}:labelling")
    heldout_prompts = list(read_prompts(data / "prompts_heldout.jsonl"))
    chosen = rng.sample(heldout_prompts, min(settings.heldout_prompts, len(heldout_prompts)))
    heldout_answers = sample_distinct(assistant, chosen, settings, seed + 1)
    prompts = list(read_prompts(data / "prompts.jsonl"))
    chosen = rng.sample(prompts, min(settings.prompts, len(prompts)))
    training_answers = sample_distinct(assistant, chosen, settings, seed)

    people = make_labellers(seed, training=settings.labellers, heldout=settings.heldout_labellers)
    staff = with_agreement(people, judge, heldout_answers, settings.agreement, seed=seed)
    write_atomic(data / "labellers.json", json.dumps([asdict(person) for person in staff], indent=2).encode())
    training, outside = ([person for person in staff if person.heldout == out] for out in (False, True))

    def ranked(work: list[Answers], group: list[Labeller], opinions: int) -> list[Ranking]:
        """Each prompt's answers by as many of the group, drawn for each prompt anew."""
        rankings = []
        for answers in work:
            views = [see(judge, answers.prompt, completion) for completion in answers.completions]
            for person in rng.sample(group, min(opinions, len(group))):
                rankings.append(label_seen(person, answers, views, seed=seed))
        return rankings

    write_jsonl(data / "rankings.jsonl", ranked(training_answers, training, settings.opinions))
    write_jsonl(data / "rankings_heldout_labellers.jsonl", ranked(heldout_answers, outside, settings.views))
    write_jsonl(data / "rankings_heldout.jsonl", ranked(heldout_answers, training, settings.views))


def sample_distinct(assistant: Assistant, prompts: list[Prompt], settings: LabelSettings, seed: int) -> list[Answers]:
    """K completions a prompt without repetitions: equal answers tell nothing. Prompts with fewer than two are left out."""
    sampling = Sampling(
        temperature=settings.temperature,
        max_tokens=settings.max_new_tokens,
        n=settings.completions,
        seed=seed * 1_000_003,
    )
    kept = []
    for answers in assistant.answers(prompts, sampling):
        distinct = tuple({(c.text, c.finished): c for c in answers.completions}.values())
        if len(distinct) > 1:
            kept.append(Answers(prompt=answers.prompt, completions=distinct))
    if len(kept) < len(prompts):
        print(f"rankings: left out {len(prompts) - len(kept)} x one and the same answer each time")
    return kept
