"""The whole path as one recipe: text -> tokens -> base -> SFT -> rankings -> reward model -> PPO, PPO-ptx -> report.

    tutelage run recipes/demo.yaml          the embedded world: data, labellers and judge come with the package
    tutelage run recipes/real-small.yaml    one's own files

Each step leaves files that the next one reads. A step that is finished is not done again, so the same command goes on where an
interrupted run stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, model_validator

from tutelage.assistant.assistant import Assistant, Shots
from tutelage.data.formats import read_conversations, read_documents, read_prompts, read_rankings
from tutelage.data.prepare import DataSettings, prepare
from tutelage.data.tokens.batches import fitting_prompts
from tutelage.data.tokens.heldout import HeldoutText
from tutelage.errors import DataError
from tutelage.evaluate.report import stage_table, write_report
from tutelage.evaluate.reward_model import reward_model_figures
from tutelage.evaluate.stages import StageResult, compare, evaluate_stage, sample_rows, shots_like
from tutelage.files import write_atomic
from tutelage.generate.sampler import Sampling
from tutelage.model.checkpoint import context_of, load_decoder, param_count
from tutelage.model.device import peak_rss_gib, pick_device, release_heap
from tutelage.recipes.simulated_ranking import LabelSettings, rank_answers
from tutelage.runs.folder import open_run
from tutelage.screen import program
from tutelage.settings import Settings, merge, resolve
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import ppo as ppo_stage
from tutelage.train import pretrain as pretrain_stage
from tutelage.train import reward as reward_stage
from tutelage.train import sft as sft_stage
from tutelage.world.build import WorldSettings, build_world, load_judge
from tutelage.world.judge import Judge
from tutelage.world.labellers import (
    TIE_THRESHOLD,
    Labeller,
    agreement,
    best_possible_accuracy,
)

K = TypeVar("K", bound=Settings)


class EvaluateSettings(Settings):
    """How the stages are compared."""

    temperature: float = Field(1.0, ge=0, description="of sampling; KL is that of the policy at 1")
    max_new_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    shots: int = Field(3, ge=1, description="demonstrations before a prompt to the base model")


class RunSettings(Settings):
    """A recipe. The stages' own settings (tutelage STAGE --help) stand under their names; paths between stages are filled in."""

    name: str = Field(description="what the report is called")
    out: Path = Field(description="folder of the whole run")
    seed: int = Field(0, description="seed of everything: data, weights, sampling, labellers")
    world: WorldSettings | None = Field(None, description="the embedded world's size; or give data")
    data: DataSettings | None = Field(None, description="files of one's own; or give world")
    vocab_size: int = Field(2048, gt=262, description="tokens of the byte-level BPE")
    pretrain: dict[str, Any] = Field({}, description="settings of tutelage pretrain")
    sft: dict[str, Any] = Field({}, description="settings of tutelage sft")
    label: LabelSettings = Field(LabelSettings(), description="simulated ranking (embedded world)")
    reward: dict[str, Any] = Field({}, description="settings of tutelage reward")
    ppo: dict[str, Any] = Field({}, description="settings of tutelage ppo, for both runs")
    ptx: dict[str, Any] = Field({}, description="settings that PPO-ptx has besides those of ppo")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="how stages are compared")
    device: str = Field("auto", description="auto, cpu, cuda, mps")
    notes: list[str] = Field([], description="sentences that the report quotes")

    @model_validator(mode="after")
    def _one_source(self) -> RunSettings:
        if (self.world is None) == (self.data is None):
            raise ValueError("give either `world` (the embedded world) or `data` (files of your own)")
        return self


def shipped_recipe(name: str) -> Path:
    """A recipe that comes with the package: beside it in a checkout, inside it when installed."""
    here = Path(__file__).parents[1]
    return next(
        (p for p in (here / "recipes" / name, here.parent / "recipes" / name) if p.exists()), here / "recipes" / name
    )


def main(settings: RunSettings) -> str:
    """Run the recipe; returns the closing lines: where the report and the checkpoints are."""
    plan = Plan.of(settings)
    out = settings.out
    with open_run(out, "run", settings, data_inputs(settings)) as run:
        clock = Clock(out / "timings.json")

        print(f"tutelage: {settings.name}, seed {settings.seed}, in {out}", flush=True)
        with clock.step("data"):
            counts = make_data(settings, out / "data")
        with clock.step("tokenizer"):
            make_tokenizer(settings, plan)
        with clock.step("pretrain"):
            pretrain_stage.main(plan.pretrain)
        with clock.step("sft"):
            sft_stage.main(plan.sft)
        with clock.step("rankings"):
            if settings.world:
                rank_answers(
                    settings.label,
                    plan.sft.out / "checkpoint",
                    out / "data",
                    seed=settings.seed,
                    device=settings.device,
                )
        with clock.step("reward"):
            reward_stage.main(plan.reward)
        judge = load_judge(out / "data") if settings.world else None
        gold = (lambda p, t, f: judge.judge(p, t, f).score) if judge else None
        with clock.step("ppo"):
            ppo_stage.main(plan.ppo, gold)
        with clock.step("ppo_ptx"):
            ppo_stage.main(plan.ppo_ptx, gold)

        with clock.step("evaluate", again=True):
            stages = evaluate_all(settings, plan, judge)
            reward_figures = evaluate_reward_model(settings, plan, judge)
        results = {
            "name": settings.name,
            "seed": settings.seed,
            "seconds": round(clock.total, 1),
            "peak_rss_gib": round(peak_rss_gib(), 3),
            "device": str(pick_device(settings.device)),
            "prompts": len(stages["sft"].answers),
            "clear_difference": TIE_THRESHOLD if judge else None,
            "stages": {name: stage.figures for name, stage in stages.items()},
            "reward_model": reward_figures,
            "compression": compression(plan) if settings.data else None,
            "data": counts,
            "model": model_figures(plan),
            "timings": clock.seconds,
            "notes": settings.notes,
        }  # fmt: skip
        write_atomic(out / "results.json", json.dumps(results, indent=2).encode())
        rows = sample_rows(stages)
        write_atomic(
            out / "samples.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        )
        report = write_report(out)
        run.finish({"seconds": clock.total})

    from rich.console import Console

    Console().print(stage_table(results))
    best = plan.ppo_ptx.out / "checkpoint"
    return (
        f"{results['seconds']:.0f} s, at most {results['peak_rss_gib']:.2f} GiB\n"
        f"report:  {report}\nfigures: {out / 'results.json'}\ntalk to it:  {program()} chat {best}"
    )


@dataclass(frozen=True)
class Plan:
    """The stages' settings, all resolved before anything runs, so that a typo in the last stage costs nothing."""

    pretrain: pretrain_stage.PretrainSettings
    sft: sft_stage.SFTSettings
    reward: reward_stage.RewardSettings
    ppo: ppo_stage.PPOSettings
    ppo_ptx: ppo_stage.PPOSettings

    @classmethod
    def of(cls, s: RunSettings) -> Plan:
        """Fill the paths between stages into the recipe's settings."""
        data = s.out / "data"
        common = {"seed": s.seed, "machine": {"device": s.device}}
        if s.data:
            sources = {n: {"path": data / "text" / f"{n}.jsonl", "weight": t.weight} for n, t in s.data.text.items()}
        else:
            sources = {"world": {"path": data / "documents.jsonl", "weight": 1.0}}
        checkpoints = {stage: s.out / stage / "checkpoint" for stage in ("pretrain", "sft", "reward")}
        rl = {
            "checkpoint": checkpoints["sft"],
            "reward_model": checkpoints["reward"],
            "prompts": data / "prompts.jsonl",
            "world": data if s.world else None,
            "ptx_sources": sources,
        }
        filled: dict[str, dict[str, Any]] = {
            "pretrain": {"sources": sources, "heldout": data / "documents_heldout.jsonl"}
            | ({} if s.pretrain.get("checkpoint") else {"tokenizer": s.out / "tokenizer"}),
            "sft": {
                "checkpoint": checkpoints["pretrain"],
                "demonstrations": data / "demonstrations.jsonl",
                "heldout": data / "demonstrations_heldout.jsonl",
                "ptx_sources": sources,
            },
            "reward": {
                "checkpoint": checkpoints["sft"],
                "rankings": data / "rankings.jsonl",
                "heldout": data / "rankings_heldout.jsonl",
                "demonstrations": data / "demonstrations.jsonl",
            },
            "ppo": rl,
            "ppo_ptx": rl,
        }

        def settings_of(kind: type[K], stage: str, *chosen: dict[str, Any]) -> K:
            values = common | {"out": s.out / stage} | filled[stage]
            for part in chosen:
                values = merge(values, part)
            return resolve(kind, values, source=f"recipe, {stage}")

        return cls(
            settings_of(pretrain_stage.PretrainSettings, "pretrain", s.pretrain),
            settings_of(sft_stage.SFTSettings, "sft", s.sft),
            settings_of(reward_stage.RewardSettings, "reward", s.reward),
            settings_of(ppo_stage.PPOSettings, "ppo", s.ppo),
            settings_of(ppo_stage.PPOSettings, "ppo_ptx", s.ppo, s.ptx),
        )


# ---- steps that are not stages


def data_inputs(settings: RunSettings) -> dict[str, Path]:
    """One's own files and folders by their place in the recipe: a run that goes on refuses one that has changed."""
    if settings.data is None:
        return {}
    kinds = {name: getattr(settings.data, name) for name in type(settings.data).model_fields}
    return {
        f"{kind}.{name}": source.path
        for kind, sources in kinds.items()
        if isinstance(sources, dict)
        for name, source in sources.items()
    }


def make_data(settings: RunSettings, folder: Path) -> dict[str, int]:
    """The run's data files, from the embedded world or from one's own; made once."""
    done = folder / "counts.json"
    if done.exists():
        return json.loads(done.read_text())
    if settings.world:
        counts = build_world(settings.world.model_copy(update={"seed": settings.seed}), folder)
    else:
        assert settings.data is not None
        counts = prepare(settings.data, folder, settings.seed)
    write_atomic(done, json.dumps(counts, indent=2).encode())
    return counts


def make_tokenizer(settings: RunSettings, plan: Plan) -> None:
    """A byte-level BPE trained on the pretraining text and the demonstrations; none where the recipe goes on from a model."""
    folder = plan.pretrain.tokenizer
    if folder is None or (folder / "tokenizer.json").exists():
        return

    def texts() -> Iterator[str]:
        for source in plan.pretrain.sources.values():
            yield from (document.text for document in read_documents(source.path))
        for conversation in read_conversations(plan.sft.demonstrations):
            yield from (message.text for message in conversation.messages)

    Tokenizer.train(texts(), settings.vocab_size).save(folder)


def evaluate_all(settings: RunSettings, plan: Plan, judge: Judge | None) -> dict[str, StageResult]:
    """Every stage's answers to the held-out prompts, measured and compared."""
    data, options = settings.out / "data", settings.evaluate
    base, tuned = plan.pretrain.out / "checkpoint", plan.sft.out / "checkpoint"
    heldout, room = data / "prompts_heldout.jsonl", context_of(tuned) - options.max_new_tokens
    prompts, _, too_long = fitting_prompts(read_prompts(heldout), Tokenizer.load(tuned), room)
    if too_long:
        print(f"{heldout}: left out {too_long} x too long for an answer in the model's context")
    if not prompts:
        raise DataError(f"no prompt leaves room for an answer of {options.max_new_tokens} tokens", path=heldout)
    sampling = Sampling(temperature=options.temperature, max_tokens=options.max_new_tokens, seed=settings.seed * 7_919)
    demonstrations = list(read_conversations(plan.sft.demonstrations))
    shots = shots_like(demonstrations, options.shots, settings.seed)
    checkpoints: dict[str, tuple[Path, Shots | None]] = {
        "base": (base, lambda prompt: ()),
        "base_few_shot": (base, shots),
        "sft": (tuned, None),
        "ppo": (plan.ppo.out / "checkpoint", None),
        "ppo_ptx": (plan.ppo_ptx.out / "checkpoint", None),
    }
    verdict = (lambda p, t, f: judge.judge(p, t, f)) if judge else None
    stages = {}
    for name, (checkpoint, ask) in checkpoints.items():
        stages[name] = evaluate_stage(
            checkpoint,
            prompts,
            sampling=sampling,
            shots=ask,
            judge=verdict,
            reward_model=plan.reward.out / "checkpoint",
            reference=tuned,
            heldout_text=None if name == "base_few_shot" else data / "documents_heldout.jsonl",
            device=settings.device,
        )
        if name == "base_few_shot":  # the same model
            stages[name].figures["bits_per_byte"] = stages["base"].figures["bits_per_byte"]
        print(f"evaluate  {name}: {headline(stages[name])}", flush=True)
    compare(stages, clear=TIE_THRESHOLD)
    return stages


def headline(stage: StageResult) -> str:
    """The one or two numbers of a stage that people look for first."""
    names = ("gold", "reward", "length", "bits_per_byte", "kl")
    return "  ".join(f"{n} {stage.figures[n]:.3f}" for n in names if stage.figures.get(n) is not None)


def evaluate_reward_model(settings: RunSettings, plan: Plan, judge: Judge | None) -> dict[str, Any]:
    """Accuracy on held-out prompts; in the embedded world also on held-out labellers, beside what labels allow at best."""
    data = settings.out / "data"
    assistant = Assistant.load(plan.reward.out / "checkpoint", device=settings.device)
    heldout = list(read_rankings(data / "rankings_heldout.jsonl"))
    figures = reward_model_figures(assistant, heldout)
    if judge:
        outside = list(read_rankings(data / "rankings_heldout_labellers.jsonl"))
        other = reward_model_figures(assistant, outside)
        staff = [Labeller(**person) for person in json.loads((data / "labellers.json").read_text())]
        training = [person for person in staff if not person.heldout]
        figures |= {
            "accuracy_heldout_labellers": other["accuracy"],
            "accuracy_heldout_labellers_ci": other["accuracy_ci"],
            "labeller_agreement": agreement(heldout),
            "heldout_labeller_agreement": agreement(outside),
            "best_possible_accuracy": best_possible_accuracy(heldout, training, judge),
        }
    return figures


def compression(plan: Plan) -> dict[str, float]:
    """Bits per byte of gzip and xz at their best, on the held-out documents that the models are measured on."""
    import gzip
    import lzma

    path = plan.pretrain.heldout
    assert path is not None
    tokenizer = Tokenizer.load(plan.pretrain.out / "checkpoint")
    measured = HeldoutText.read(path, tokenizer, plan.pretrain.sequence).documents
    text = "\n\n".join(document.text for document in islice(read_documents(path), measured)).encode()
    return {
        "gzip": 8 * len(gzip.compress(text, 9)) / len(text),
        "xz": 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text),
    }


def model_figures(plan: Plan) -> dict[str, Any]:
    """Size of the trained decoder."""
    model = load_decoder(plan.sft.out / "checkpoint")
    return {"parameters": param_count(model), "vocab_size": model.config.vocab_size}


class Clock:
    """Seconds each step took, kept in a file so that a resumed run knows what went before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def total(self) -> float:
        """Seconds of all steps, over all sessions of the run."""
        return sum(self.seconds.values())

    @contextmanager
    def step(self, name: str, *, again: bool = False) -> Iterator[None]:
        """Time a step; one that had nothing left to do adds next to nothing. One done ``again`` every time counts once."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self.seconds[name] = round(spent + (0.0 if again else self.seconds.get(name, 0.0)), 2)
            write_atomic(self.path, json.dumps(self.seconds, indent=2).encode())
            release_heap()
