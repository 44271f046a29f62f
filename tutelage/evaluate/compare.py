"""The step "evaluate": models answer the same held-out prompts, and every figure of every model goes into one results.json.

Models go by the names that the recipe gives them, in its order: for example GPT, GPT with few shots, SFT, PPO, PPO-ptx
(InstructGPT, figure 1). Win rates compare two models prompt by prompt: by the judge's score, or without a judge by the reward
model's.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from tutelage.assistant.assistant import Assistant, Shots
from tutelage.data.formats import ON_BAD, OnBad, read_conversations, read_rankings
from tutelage.data.tokens.batches import fitting_prompts
from tutelage.data.tokens.heldout import HeldoutText
from tutelage.errors import RecipeError
from tutelage.evaluate.judge import Judge
from tutelage.evaluate.measure import (
    GROUPS,
    Measured,
    Measures,
    indices_by,
    measure,
    shots_like,
    with_exchanged_answers,
)
from tutelage.evaluate.reward_model import reward_model_figures
from tutelage.files import write_atomic
from tutelage.generate.sampler import Sampling
from tutelage.model.checkpoint import context_of
from tutelage.model.hub import resolve_model
from tutelage.records import Message, Prompt, Ranking, TextPart
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Device, Inputs, ModelPath, RewardModelPath, Rows, Settings, WorldPath, nearest
from tutelage.statistics import length_controlled_win_rate, win_rate
from tutelage.text.tokenizer import Tokenizer

RankingFigures = Callable[[str, Sequence[Ranking]], Mapping[str, float]]
"""(name of a file of rankings, its rankings) -> figures of the labels themselves, such as the labellers' agreement."""


class EvaluateInputs(Inputs):
    """What is evaluated, and on what."""

    models: dict[str, ModelPath] = Field(min_length=1, description="name -> checkpoint, in the order of the table")
    prompts: Path = Field(description="held-out prompts")
    reference: ModelPath | None = Field(None, description="checkpoint that KL is measured against")
    reward_model: RewardModelPath | None = Field(None, description="reward model that scores the answers")
    demonstrations: Path | None = Field(None, description="conversations that shots are drawn from")
    heldout_text: Path | None = Field(None, description="documents for bits per byte")
    world: WorldPath | None = Field(None, description="folder of an embedded world, whose judge gives gold scores")
    rankings: dict[str, Path] = Field({}, description="name -> rankings that reward models are measured on")
    reward_models: dict[str, RewardModelPath] = Field({}, description="name -> reward model to measure on the rankings")


class Ask(Settings):
    """How one model is asked."""

    as_text: bool = Field(False, description="in plain text, as a base model, and not in the chat format")
    shots: int = Field(0, ge=0, description="demonstrations before the prompt; only in plain text")
    labelled: bool = Field(False, description="with the labels Q: and A: that shots have, even without any")
    exchanged: bool = Field(False, description="each shot gets the answer of another one, as a control")
    best_of: int = Field(1, ge=1, description="answers sampled, of which the reward model picks one")


FEW_PROMPTS = 40
"""A win rate on fewer has a 95% interval of more than 15 points to either side where there are no ties."""


class EvaluateSettings(Settings):
    """How models are asked and compared."""

    temperature: float = Field(1.0, ge=0, description="of sampling; KL is always that of temperature 1")
    max_tokens: int = Field(96, gt=0, description="longest answer [tokens]")
    max_prompt: int = Field(0, ge=0, description="longest prompt; longer are left out; 0: all that fit [tokens]")
    ask: dict[str, Ask] = Field({}, description="name -> how this model is asked; default: in the chat format")
    against: tuple[str, ...] = Field((), description="names of the models that win rates are computed against")
    clear_difference: float = Field(0.1, ge=0, description="judge's scores this close tie in the clear win rates")
    compression: bool = Field(False, description="also measure gzip and xz on the held-out text")
    on_bad: OnBad = Field("stop", description=ON_BAD)
    seed: int = Field(0, description="seed of sampling and of the choice of shots")
    device: Device = "auto"
    dtype: str = Field("auto", description="auto, bf16, fp32")

    def check(self, inputs: Inputs) -> None:
        """Names must be models, and what is asked for must be measurable with these inputs."""
        assert isinstance(inputs, EvaluateInputs)
        for name in (*self.against, *self.ask):
            if name not in inputs.models:
                raise RecipeError(f"{name!r} is not one of the models{nearest(name, list(inputs.models))}")
        if self.against and not inputs.world and not inputs.reward_model:
            raise RecipeError("win rates need scores: give reward_model, or a world whose judge decides")
        if any(ask.shots for ask in self.ask.values()) and not inputs.demonstrations:
            raise RecipeError("shots are drawn from demonstrations: give that input, or ask with 0 shots")
        if any(ask.exchanged and ask.shots < 2 for ask in self.ask.values()):
            raise RecipeError("exchanged answers need 2 shots or more")
        if any((ask.shots or ask.labelled) and not ask.as_text for ask in self.ask.values()):
            raise RecipeError("shots and labels are for models that are asked in plain text: give as_text too")
        picking = [name for name, ask in self.ask.items() if ask.best_of > 1]
        if picking and not inputs.reward_model:
            raise RecipeError(f"ask.{picking[0]}.best_of: the reward model picks the best: give reward_model")
        if picking and self.against and not inputs.world:
            problem = "the reward model that picks cannot also decide who wins"
            raise RecipeError(f"ask.{picking[0]}.best_of: {problem}: give a world whose judge decides, or no `against`")
        if picking and not self.temperature:
            raise RecipeError(f"ask.{picking[0]}.best_of: at temperature 0 all answers are the same")
        if self.compression and not inputs.heldout_text:
            raise RecipeError("compression is measured on held-out text: give heldout_text")

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """There must be prompts and rankings to measure on."""
        assert isinstance(inputs, EvaluateInputs)
        for kind, path in (("prompts", inputs.prompts), *(("rankings", path) for path in inputs.rankings.values())):
            if rows(kind, path, 1) == 0:
                raise RecipeError(f"{path} has no {kind} to measure on")
        prompts = rows("prompts", inputs.prompts, FEW_PROMPTS)
        if self.against and prompts is not None and prompts < FEW_PROMPTS:
            width = 98 / prompts**0.5
            yield f"with {prompts} prompts a win rate has an interval of up to {width:.0f} points to either side"


def main(
    knobs: EvaluateSettings,
    inputs: EvaluateInputs,
    out: Path,
    *,
    judge: Judge | None = None,
    ranking_figures: RankingFigures | None = None,
) -> Path:
    """Measure the models and the reward models; write results.json and samples.jsonl into ``out`` and return it.

    The caller makes the ``judge`` from ``inputs.world``. UsageError for settings that the inputs cannot serve; DataError if no
    prompt leaves room for an answer.
    """
    inputs = inputs.local(resolve_model)
    knobs.check(inputs)
    with open_run(out, "evaluate", knobs, inputs) as run:
        if run.finished:
            return out
        scorer, reference, text = inputs.reward_model, inputs.reference, inputs.heldout_text
        measures = Measures(judge, scorer, reference, text, knobs.device, knobs.dtype)
        longest, seed = knobs.max_tokens, derive(knobs.seed, "evaluate.answers")
        sampling = Sampling(temperature=knobs.temperature, max_tokens=longest, seed=seed)
        rankings = {name: list(read_rankings(path, on_bad=knobs.on_bad)) for name, path in inputs.rankings.items()}
        labels = {name: dict(ranking_figures(name, rows)) if ranking_figures else {} for name, rows in rankings.items()}
        prompts, shots = _fitting(knobs, inputs), _shots(knobs, inputs)
        measured = measure_all(inputs.models, prompts, sampling, measures, shots, knobs.ask)
        results = results_of(measured, knobs.against, knobs.clear_difference if judge else None) | {
            "reference": next((name for name, path in inputs.models.items() if path == reference), None),
            "reward_models": _reward_models(knobs, inputs.reward_models, rankings, labels),
            "compression": compression(inputs) if knobs.compression else None,
        }
        for name, ask in knobs.ask.items():
            results["models"][name]["ask"] = ask.model_dump()
        write_atomic(out / "results.json", json.dumps(results, indent=2).encode())
        rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in sample_rows(measured))
        write_atomic(out / "samples.jsonl", "".join(rows).encode())
        run.finish({"prompts": results["prompts"], "models": len(measured)})
    return out


def measure_all(
    models: Mapping[str, Path],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    measures: Measures,
    shots: Mapping[str, Shots] | None = None,
    ask: Mapping[str, Ask] | None = None,
) -> dict[str, Measured]:
    """Measure the models one after another. Models with ``shots`` are asked in plain text; ``ask`` says the rest.

    Bits per byte are measured once per checkpoint; a model with the same checkpoint as an earlier one says so (``same_as``).
    """
    measured: dict[str, Measured] = {}
    for name, checkpoint in models.items():
        twin = next((other for other in measured if models[other] == checkpoint), None)
        with_text = measures if twin is None else replace(measures, heldout_text=None)
        way, own = (ask or {}).get(name, Ask()), (shots or {}).get(name)
        one = measure(checkpoint, prompts, sampling, with_text, own, way.best_of, labelled=way.labelled)
        if twin is not None:
            one.figures.update(same_as=twin, bits_per_byte=measured[twin].figures["bits_per_byte"])
        measured[name] = one
        shown = ("gold", "reward", "length", "bits_per_byte", "kl")
        numbers = [f"{key} {one.figures[key]:.3f}" for key in shown if one.figures.get(key) is not None]
        print(f"evaluate  {name}: {'  '.join(numbers)}", flush=True)
    return measured


def results_of(measured: Mapping[str, Measured], against: Sequence[str], clear: float | None) -> dict[str, Any]:
    """The figures of all models with their win rates: the part of results.json that is about the answers."""
    add_win_rates(measured, against, clear)
    return {
        "models": {name: one.figures for name, one in measured.items()},
        "against": list(against),
        "prompts": len(next(iter(measured.values())).answers),
        "clear_difference": clear,
    }


def add_win_rates(measured: Mapping[str, Measured], against: Sequence[str], clear: float | None = None) -> None:
    """Add each model's win rates against the named ones to its figures, overall and by family.

    Only equal scores tie. ``clear`` adds a second count, in which gold scores no further apart than it tie too: differences that
    a labeller could not see, such as the shorter of two wrong answers. Where a reward model decides, which may like long
    answers, the rate at equal lengths (in characters) is added.
    """
    for one in measured.values():
        families = indices_by([a.prompt for a in one.answers], GROUPS["families"])
        for other in against:
            mine, theirs = one.quality, measured[other].quality
            rates = {"": win_rate(mine, theirs)}
            if clear is not None and one.gold is not None:
                rates["clear_"] = win_rate(mine, theirs, tie=clear)
            for kind, found in rates.items():
                record = {"wins": found.wins, "ties": found.ties, "losses": found.losses}
                one.figures[f"{kind}record_vs_{other}"] = record
                one.figures[f"{kind}win_rate_vs_{other}"] = found.rate
                one.figures[f"{kind}win_rate_vs_{other}_ci"] = [found.low, found.high]
            if one.gold is None:
                fair = length_controlled_win_rate(mine, theirs, one.characters, measured[other].characters)
                one.figures[f"length_controlled_win_rate_vs_{other}"] = fair.mean
                one.figures[f"length_controlled_win_rate_vs_{other}_ci"] = [fair.low, fair.high]
            for name, figures in one.figures.get("families", {}).items():
                rows = families[name]
                figures[f"win_rate_vs_{other}"] = win_rate([mine[i] for i in rows], [theirs[i] for i in rows]).rate


def sample_rows(measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """The rows of samples.jsonl: every prompt with the answers of all models and their scores."""
    prompts = [item.prompt for item in next(iter(measured.values())).answers]
    return [
        {
            "prompt": [{"role": message.role, "content": in_words(message)} for message in prompt.messages],
            "family": prompt.meta.get("family", prompt.source),
            "language": prompt.meta.get("language", ""),
            "answers": {name: one.sample(i) for name, one in measured.items()},
        }
        for i, prompt in enumerate(prompts)
    ]


def in_words(message: Message) -> str:
    """A message as text: its parts joined, a picture by its name, and a line for each tool call."""
    parts = [message.content] if isinstance(message.content, str) else message.content
    shown = "".join(p if isinstance(p, str) else p.text if isinstance(p, TextPart) else f"[{p.image}]" for p in parts)
    calls = [f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in message.tool_calls]
    return "\n".join([*([shown] if shown or not calls else []), *calls])


def compression(inputs: EvaluateInputs) -> dict[str, float]:
    """Bits per byte of gzip and xz at their best, on the documents that the first model is measured on."""
    assert inputs.heldout_text is not None
    tokenizer = Tokenizer.load(next(iter(inputs.models.values())))
    text = "\n\n".join(HeldoutText.read(inputs.heldout_text, tokenizer, 256).documents).encode()
    return {
        "gzip": 8 * len(gzip.compress(text, 9)) / len(text),
        "xz": 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text),
    }


def _shots(settings: EvaluateSettings, inputs: EvaluateInputs) -> dict[str, Shots]:
    """How each model that is asked in plain text gets its shots."""
    demonstrations = (
        list(read_conversations(inputs.demonstrations, on_bad=settings.on_bad)) if inputs.demonstrations else []
    )
    asked = {name: ask for name, ask in settings.ask.items() if ask.as_text}
    found = {name: shots_like(demonstrations, ask.shots, settings.seed) for name, ask in asked.items()}
    return {name: with_exchanged_answers(shots) if asked[name].exchanged else shots for name, shots in found.items()}


def _fitting(settings: EvaluateSettings, inputs: EvaluateInputs) -> list[Prompt]:
    """The prompts that leave room for the longest answer in the context of every model that is asked in the chat format."""
    chat = {path for name, path in inputs.models.items() if not settings.ask.get(name, Ask()).as_text}
    rooms = {path: context_of(path) - settings.max_tokens for path in sorted(chat)}
    models = [(Tokenizer.load(path), min(room, settings.max_prompt or room)) for path, room in rooms.items()]
    return fitting_prompts(inputs.prompts, models, settings.on_bad)[0]


def _reward_models(
    settings: EvaluateSettings,
    reward_models: Mapping[str, Path],
    rankings: Mapping[str, Sequence[Ranking]],
    labels: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
    """Each reward model's figures on each file of rankings, with the figures of the labels themselves."""
    figures: dict[str, dict[str, Any]] = {}
    for model, path in reward_models.items():
        assistant = Assistant.load(path, device=settings.device, dtype=settings.dtype)
        figures[model] = {
            name: reward_model_figures(assistant, rows) | dict(labels[name]) for name, rows in rankings.items()
        }
    return figures
