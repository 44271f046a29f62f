"""What the commands that are not training stages do. Each takes its settings and returns the line to print."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import read_answers, read_conversations, read_documents, read_prompts, write_jsonl
from tutelage.evaluate import report
from tutelage.evaluate.stages import StageResult, compare, evaluate_stage
from tutelage.generate.sampler import Sampling
from tutelage.model.checkpoint import require_kind
from tutelage.model.hub import resolve_model
from tutelage.settings import Settings
from tutelage.text.tokenizer import Tokenizer
from tutelage.world.build import WorldSettings, build_world, load_judge
from tutelage.world.labellers import TIE_THRESHOLD, label, make_labellers


class WorldCommand(Settings):
    """Settings of ``tutelage data world``: the embedded world's texts, demonstrations and prompts."""

    out: Path = Field(description="folder to write")
    world: WorldSettings = Field(WorldSettings(), description="sizes, rates and seed")


def make_world_files(settings: WorldCommand) -> str:
    """Write the world's files."""
    counts = build_world(settings.world, settings.out)
    return f"{settings.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items())


class RankCommand(Settings):
    """Settings of ``tutelage data rank``: simulated labellers rank answers to the embedded world's prompts."""

    answers: Path = Field(description="answers, as tutelage generate writes them")
    world: Path = Field(description="the world's folder, as tutelage data world writes it")
    out: Path = Field(description="file of rankings to write (JSONL)")
    labellers: int = Field(12, gt=0, description="how many people share the work")
    seed: int = Field(0, description="seed of the people and of their noise")


def rank_answers(settings: RankCommand) -> str:
    """Each prompt's answers are ranked by one of the labellers."""
    judge, people = load_judge(settings.world), make_labellers(settings.seed, training=settings.labellers, heldout=0)
    rng = random.Random(f"{settings.seed}:labelling")
    work = list(read_answers(settings.answers))
    rankings = [
        label(rng.choice(people), judge, answers, seed=settings.seed)
        for answers in work
        if 2 <= len(answers.completions) <= 9
    ]
    left = f", left out {len(work) - len(rankings)} x not 2 to 9 answers" if len(rankings) < len(work) else ""
    return f"{settings.out}: {write_jsonl(settings.out, rankings)} rankings{left}"


class TokenizerCommand(Settings):
    """Settings of ``tutelage tokenizer train``: byte-level BPE on documents and demonstrations."""

    texts: Path = Field(description="file or folder of documents")
    demonstrations: Path | None = Field(None, description="conversations to learn from as well")
    vocab_size: int = Field(2048, gt=262, description="tokens, the 256 bytes and 6 control tokens among them")
    out: Path = Field(description="folder to write")


def train_tokenizer(settings: TokenizerCommand) -> str:
    """Train and save."""
    texts = [document.text for document in read_documents(settings.texts)]
    if settings.demonstrations:
        texts += [m.text for c in read_conversations(settings.demonstrations) for m in c.messages]
    tokenizer = Tokenizer.train(texts, settings.vocab_size)
    tokenizer.save(settings.out)
    sample = texts[:1000]
    tokens, size = sum(map(len, tokenizer.encode_batch(sample))), sum(len(t.encode()) for t in sample)
    return f"{settings.out}: {tokenizer.vocab_size} tokens, {size / tokens:.2f} bytes a token on its own text"


class SamplingSettings(Settings):
    """How answers are sampled, on the command line."""

    temperature: float = Field(1.0, ge=0, description="of sampling; 0: the likeliest token each time")
    top_p: float = Field(1.0, gt=0, le=1, description="sample from the likeliest tokens that make up this probability")
    top_k: int = Field(0, ge=0, description="sample from this many likeliest tokens; 0: all")
    min_p: float = Field(0.0, ge=0, le=1, description="leave out tokens less likely than this share of the likeliest")
    max_new_tokens: int = Field(128, gt=0, description="longest answer [tokens]")
    seed: int = Field(0, description="seed; prompt i uses seed + i")

    def sampling(self, n: int = 1) -> Sampling:
        """The same for the engine."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            max_tokens=self.max_new_tokens,
            n=n,
            seed=self.seed,
        )


class GenerateCommand(SamplingSettings):
    """Settings of ``tutelage generate``: answers to a file of prompts, or the continuation of a text."""

    checkpoint: Path = Field(description="model")
    text: str = Field("", description="continue this text as a base model does, instead of answering prompts")
    prompts: Path | None = Field(None, description="prompts to answer")
    out: Path | None = Field(None, description="file of answers to write (JSONL)")
    n: int = Field(1, gt=0, description="completions a prompt")
    device: str = Field("auto", description="auto, cpu, cuda, mps")

    @model_validator(mode="after")
    def _one_job(self) -> GenerateCommand:
        if bool(self.text) == bool(self.prompts):
            raise ValueError("give either text or prompts")
        if self.prompts and not self.out:
            raise ValueError("prompts need out, the file that answers go to")
        if self.text and self.n > 1:
            raise ValueError("a text is continued once; n is for prompts")
        return self


def generate_answers(settings: GenerateCommand) -> str:
    """Answer prompts, or continue a text."""
    assistant = Assistant.load(settings.checkpoint, device=settings.device)
    if settings.prompts is None or settings.out is None:
        options = settings.sampling(settings.n).model_dump()
        return settings.text + assistant.generate(settings.text, **options)
    answers = assistant.answers(list(read_prompts(settings.prompts)), settings.sampling(settings.n))
    return f"{settings.out}: {write_jsonl(settings.out, answers)} prompts with {settings.n} answers each"


class EvalCommand(SamplingSettings):
    """Settings of ``tutelage eval``: win rates between two checkpoints on the same prompts, by family."""

    a: Path = Field(description="checkpoint")
    b: Path = Field(description="checkpoint it is compared with")
    prompts: Path = Field(description="held-out prompts")
    world: Path | None = Field(None, description="folder of an embedded world whose judge decides")
    reward_model: Path | None = Field(None, description="reward model that decides where there is no judge")
    device: str = Field("auto", description="auto, cpu, cuda, mps")

    @model_validator(mode="after")
    def _somebody_decides(self) -> EvalCommand:
        if not self.world and not self.reward_model:
            raise ValueError("give world (its judge decides) or reward_model")
        return self


def compare_checkpoints(settings: EvalCommand) -> str:
    """Both answer, the judge or the reward model decides prompt by prompt."""
    for checkpoint in (settings.a, settings.b):
        require_kind(resolve_model(checkpoint), "causal")
    if settings.reward_model:
        require_kind(resolve_model(settings.reward_model), "scalar")
    prompts = list(read_prompts(settings.prompts))
    judge = load_judge(settings.world).judge if settings.world else None
    results: dict[str, StageResult] = {}
    for name, checkpoint in (("a", settings.a), ("b", settings.b)):
        results[name] = evaluate_stage(
            checkpoint,
            prompts,
            sampling=settings.sampling(),
            judge=judge,
            reward_model=settings.reward_model,
            reference=settings.b,
            device=settings.device,
        )
    compare(results, against=("b",), clear=TIE_THRESHOLD)
    Console().print(comparison_table(results, prompts_count=len(prompts)))
    figures = results["a"].figures

    def share(name: str) -> str:
        low, high = figures[f"{name}_ci"]
        return f"{figures[name]:.1%} [{low:.1%}, {high:.1%}]"

    said = f"a wins {share('win_rate_vs_b')} of {len(prompts)} prompts, ties split"
    if "clear_win_rate_vs_b" in figures:
        said += f"; {share('clear_win_rate_vs_b')} where scores within {TIE_THRESHOLD:.2f} tie as well"
    return said


def comparison_table(results: dict[str, StageResult], prompts_count: int) -> Table:
    """Figures of both sides, and gold by family where a judge decided."""
    table = Table("", "a", "b", title=f"{prompts_count} prompts")
    for name in ("gold", "reward", "length", "finished", "kl"):
        values = [results[side].figures.get(name) for side in "ab"]
        if values[0] is not None:
            table.add_row(name, *(f"{value:.3f}" for value in values))
    for family in results["a"].figures.get("families", {}):
        table.add_row(family, *(f"{results[side].figures['families'][family]['gold']:.3f}" for side in "ab"))
    return table


class ReportCommand(Settings):
    """Settings of ``tutelage report``: the report of a finished run, again."""

    folder: Path = Field(description="the run's folder")
    plots: Path | None = Field(None, description="also write every plot as an SVG file here")


def write_report(settings: ReportCommand) -> str:
    """Write report.html, and the plots if asked."""
    lines = [f"report: {report.write_report(settings.folder)}"]
    if settings.plots:
        written: Sequence[Path] = report.save_plots(settings.folder, settings.plots)
        lines += [f"plot:   {path}" for path in written]
    return "\n".join(lines)
