"""The step "preferences": who is preferred by whom, how reward models err, and what best-of-n and RL gain for their KL.

Everything that the inputs allow is measured, and goes into one preferences.json.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import Field

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import ON_BAD, OnBad, read_answers, read_documents, read_prompts, read_rankings
from tutelage.errors import DataError, RecipeError, UsageError
from tutelage.evaluate.judge import Judge
from tutelage.evaluate.novelty import novelty_figures, passages
from tutelage.evaluate.preferences import agreement, best_of_n
from tutelage.evaluate.preferences.judging import Ask, Pair, judged, remote_judge
from tutelage.evaluate.preferences.outcomes import (
    Comparison,
    by_answers,
    by_rankings,
    by_scores,
    models_of,
    prompt_name,
    ratings,
    win_rates,
)
from tutelage.evaluate.reward_analysis import analysis, ensemble
from tutelage.evaluate.reward_model import fits, score_rankings
from tutelage.files import write_atomic
from tutelage.model.hub import resolve_model
from tutelage.records import Answers, Message, Prompt, Ranking
from tutelage.runs.folder import open_run
from tutelage.runs.state import Run
from tutelage.seeds import derive
from tutelage.settings import Device, Inputs, ModelPath, RewardModelPath, RunPath, Settings, WorldPath, nearest
from tutelage.statistics import length_controlled_win_rate

Models = Mapping[str, Assistant]
R = TypeVar("R")


class PreferencesInputs(Inputs):
    """What preferences are measured on. Each is optional, and what it allows is measured."""

    samples: Path | None = Field(None, description="samples.jsonl of an evaluation: several models' answers")
    rankings: dict[str, Path] = Field({}, description="name -> rankings by people")
    reward_models: dict[str, RewardModelPath] = Field({}, description="name -> reward model that judges, and is judged")
    answers: Path | None = Field(None, description="several answers per prompt of one model, for best-of-n")
    world: WorldPath | None = Field(None, description="folder of an embedded world, whose judge gives gold scores")
    runs: dict[str, RunPath] = Field({}, description="name -> RL run whose gold reward is fitted over KL")
    prompts: Path | None = Field(None, description="known prompts, which foreign ones are told from")
    foreign: dict[str, Path] = Field({}, description="name -> documents whose passages are foreign prompts")
    encoders: dict[str, ModelPath] = Field(
        {}, description="name -> language model that tells foreign prompts too; better than reward models do"
    )


class PreferencesSettings(Settings):
    """How preferences are measured."""

    judge: str = Field("", description="address of an OpenAI-compatible server whose model judges samples and rankings")
    judge_prompts: int = Field(
        100, ge=0, description="prompts of each file that this model judges, from the first; 0: all"
    )
    judge_tokens: int = Field(512, gt=0, description="longest reply of this model [tokens]")
    tie: float = Field(0.0, ge=0, description="scores of gold and reward models this close tie")
    proxy: str = Field("", description="reward model that picks the best of n; default: the first")
    gold: str = Field("", description="reward model that best-of-n is held against; default: the world's judge")
    resamples: int = Field(1000, ge=100, description="bootstrap samples of the prompts")
    on_bad: OnBad = Field("stop", description=ON_BAD)
    seed: int = Field(0, description="seed of the bootstrap")
    device: Device = "auto"
    dtype: str = Field("auto", description="auto, bf16, fp32")

    def check(self, inputs: Inputs) -> None:
        """There must be something to measure, and what is asked for must be measurable with these inputs."""
        assert isinstance(inputs, PreferencesInputs)
        if not (inputs.samples or inputs.rankings or inputs.answers or inputs.runs or inputs.foreign):
            raise RecipeError("nothing to measure: give samples, rankings, answers, runs or foreign")
        for knob in ("proxy", "gold"):
            name = getattr(self, knob)
            if name and name not in inputs.reward_models:
                raise RecipeError(
                    f"{knob}: {name!r} is not one of the reward models{nearest(name, list(inputs.reward_models))}"
                )
        if inputs.answers and not inputs.reward_models:
            raise RecipeError("best-of-n picks by a reward model: give reward_models")
        if self.judge and not (inputs.samples or inputs.rankings):
            raise RecipeError("judge: a model judges samples and rankings: give one of them")
        if self.judge and not self.judge.startswith(("http://", "https://")):
            raise RecipeError(f"judge: an address such as http://127.0.0.1:8000 is expected, found {self.judge!r}")
        if inputs.foreign and not (inputs.prompts and (inputs.reward_models or inputs.encoders)):
            raise RecipeError(
                "foreign prompts are told from known ones by a model: give prompts, and reward_models or encoders"
            )


def main(knobs: PreferencesSettings, inputs: PreferencesInputs, out: Path, *, judge: Judge | None = None) -> Path:
    """Write preferences.json into ``out`` and return it. The caller makes the ``judge`` from ``inputs.world``.

    UsageError or DataError, naming the input, for one on which nothing can be measured.
    """
    inputs = inputs.local(resolve_model)
    knobs.check(inputs)
    with open_run(out, "preferences", knobs, inputs) as run:
        if run.finished:
            return out
        load = {
            name: Assistant.load(path, device=knobs.device, dtype=knobs.dtype)
            for name, path in inputs.reward_models.items()
        }
        ask = None
        if knobs.judge:
            key = os.environ.get("TUTELAGE_API_KEY", "")
            ask = remote_judge(knobs.judge, key, knobs.judge_tokens, out / "judge.jsonl")
        found: dict[str, Any] = {}
        if inputs.samples:
            found["samples"] = _named(inputs.samples, lambda rows: of_samples(knobs, rows, load, ask), read_samples)
        if inputs.rankings:
            read = partial(read_rankings, on_bad=knobs.on_bad)
            found["rankings"] = {
                name: _named(
                    path, lambda rows: of_rankings(knobs, rows, load, judge, ask), lambda path: list(read(path))
                )
                for name, path in inputs.rankings.items()
            }
        if inputs.answers:
            found["best_of_n"] = _named(
                inputs.answers,
                lambda rows: of_best(knobs, rows, load, judge),
                lambda path: list(read_answers(path, on_bad=knobs.on_bad)),
            )
        if inputs.runs:
            found["rl"] = {name: of_run(name, path) for name, path in inputs.runs.items()}
        if inputs.foreign:
            found["novelty"] = of_foreign(knobs, inputs, load)
        write_atomic(out / "preferences.json", json.dumps(found, indent=2, ensure_ascii=False).encode())
        for who, judge_said in found.get("samples", {}).get("judges", {}).items():
            for row in judge_said["win_rates"]:
                low, high = row["win_rate_ci"]
                print(
                    f"preferences  {row['a']} over {row['b']} by {who}: {row['win_rate']:.1%} [{low:.1%}, {high:.1%}]",
                    flush=True,
                )
        run.finish({"measured": list(found)})
    return out


class Samples(NamedTuple):
    """n prompts with the answers of several models, and the scores that came with them."""

    prompts: list[tuple[Message, ...]]
    texts: dict[str, list[str]]
    finished: dict[str, list[bool]]
    scores: dict[str, dict[str, list[float]]]
    """Who scored, "gold" or "reward" -> model -> scores; only where every answer has one."""
    picked: list[str]
    """Models whose answers a reward model picked from several: alone among the others these have no reward."""

    @property
    def names(self) -> list[str]:
        """Each prompt as text."""
        return ["\n".join(f"{message.role}: {message.text}" for message in messages) for messages in self.prompts]


def read_samples(path: Path) -> Samples:
    """The samples.jsonl of an evaluation. DataError names file and line of a row that is not of this shape."""
    rows: list[tuple[tuple[Message, ...], dict[str, tuple[Any, ...]]]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        try:
            if line:
                row = json.loads(line)
                talk = tuple(Message.model_validate(message) for message in row["prompt"])
                answers = {
                    name: (a["text"], a["finished"], a["gold"], a["reward"]) for name, a in row["answers"].items()
                }
                if rows and answers.keys() != rows[0][1].keys():
                    raise ValueError
                rows.append((talk, answers))
        except (ValueError, KeyError, TypeError, AttributeError):
            expected = "a row of an evaluation's samples.jsonl, with the same models in each"
            raise DataError("is not a sample", path=path, line=number, expected=expected, found=line) from None
    if not rows or len(rows[0][1]) < 2:
        raise DataError("there are no answers by two models to compare", path=path)
    models = list(rows[0][1])

    def column(place: int) -> dict[str, list[Any]]:
        return {name: [answers[name][place] for _, answers in rows] for name in models}

    scores = {"gold": column(2), "reward": column(3)}
    whole = {who: by for who, by in scores.items() if all(s is not None for each in by.values() for s in each)}
    rewarded = [name for name in models if any(reward is not None for reward in scores["reward"][name])]
    picked = [name for name in models if rewarded and name not in rewarded]
    return Samples([talk for talk, _ in rows], column(0), column(1), whole, picked)


def of_samples(
    knobs: PreferencesSettings, samples: Samples, reward_models: Models, ask: Ask | None = None
) -> dict[str, Any]:
    """Win rates and ratings by every judge of the samples, and how far the judges agree.

    Reward models do not judge answers that a reward model picked: its own picks have the highest of many noisy scores.
    """
    names, said = samples.names, {}
    drawn = {model: texts for model, texts in samples.texts.items() if model not in samples.picked}
    for who, scores in samples.scores.items():
        said[who] = by_scores(names, samples.texts, scores, knobs.tie)
    for who, scorer in reward_models.items() if len(drawn) > 1 else ():
        made = {
            model: scorer.scores(
                [
                    (*talk, Message(role="assistant", content=text))
                    for talk, text in zip(samples.prompts, texts, strict=True)
                ],
                finished=samples.finished[model],
            )
            for model, texts in drawn.items()
        }
        said[who] = by_scores(names, drawn, made, knobs.tie)
    extra: dict[str, Any] = {}
    if ask is not None:
        most = knobs.judge_prompts or len(names)
        pairs = [
            Pair(name, a, b, samples.texts[a][i], samples.texts[b][i])
            for i, name in enumerate(names[:most])
            for a, b in itertools.combinations(samples.texts, 2)
        ]
        said["model judge"], extra["model_judge"] = judged(ask, pairs)
    if not said:
        raise UsageError("the answers have no scores, and there is no judge: give reward_models, or judge")
    judges = {who: standing(comparisons, knobs) for who, comparisons in said.items()}
    found = {"prompts": len(names), "judges": judges, "agreement": agreement.agreement(said)} | extra
    return found | ({"picked": samples.picked} if samples.picked else {})


def standing(comparisons: Sequence[Comparison], knobs: PreferencesSettings) -> dict[str, Any]:
    """Win rates of every pair of models, at equal lengths too, and ratings."""
    rows = win_rates(comparisons)
    for row in rows:
        met = [c if c.a == row["a"] else c.mirrored() for c in comparisons if {c.a, c.b} == {row["a"], row["b"]}]
        won = [c.won for c in met]
        own, others = (list(sizes) for sizes in zip(*(c.lengths for c in met), strict=True))
        lost, prompts = [1 - w for w in won], [c.prompt for c in met]
        rate, *ends = length_controlled_win_rate(won, lost, own, others, prompts)
        row |= {"length_controlled": rate, "length_controlled_ci": ends}
    seed = derive(knobs.seed, "preferences.bootstrap")
    rated = ratings(comparisons, resamples=knobs.resamples, seed=seed)
    return {"win_rates": rows, "ratings": {name: rating._asdict() for name, rating in rated.items()}}


def of_rankings(
    knobs: PreferencesSettings,
    rankings: Sequence[Ranking],
    reward_models: Models,
    judge: Judge | None,
    ask: Ask | None = None,
) -> dict[str, Any]:
    """What people prefer, how far they agree with each other and with every other judge, and how reward models err."""
    given, rankings = len(rankings), [r for r in rankings if all(fits(model, r) for model in reward_models.values())]
    if not rankings:
        raise UsageError(f"none of {given} rankings fits in the context of every reward model: nothing to measure on")
    found: dict[str, Any] = {"rankings": len(rankings), "too_long": given - len(rankings)}
    people = by_rankings(rankings)
    if len(models_of(people)) > 1:
        found["people"] = standing(people, knobs)
    found |= {"alpha": agreement.labellers_alpha(rankings), "position": agreement.position_bias(rankings)}
    gold = None
    if judge is not None:
        gold = [[judge(r.prompt, c.text, c.finished).score for c in r.completions] for r in rankings]
    scores = {name: score_rankings(model, rankings) for name, model in reward_models.items()}
    said = {"people": by_answers(rankings)} | {name: by_answers(rankings, each) for name, each in scores.items()}
    if gold is not None:
        said["gold"] = by_answers(rankings, gold)
    if ask is not None:
        pairs = [
            Pair(prompt_name(one), c.text, d.text, c.text, d.text)
            for one in rankings[: knobs.judge_prompts or len(rankings)]
            for c, d in itertools.combinations(one.completions, 2)
            if c.text != d.text
        ]
        said["model judge"], found["model_judge"] = judged(ask, pairs)
    found["agreement"] = agreement.agreement(said)
    found["reward_models"] = {name: analysis(rankings, each, gold) for name, each in scores.items()}
    if len(scores) > 1:
        found["ensemble"] = ensemble(rankings, list(scores.values()))
    return found


def of_best(
    knobs: PreferencesSettings, answers: Sequence[Answers], reward_models: Models, judge: Judge | None
) -> dict[str, Any]:
    """The best-of-n curve by the proxy, with gold where there is one, and the curve of Gao et al. through each.

    UsageError if prompts have different numbers of answers: those that are alike were left out, and what is left is no sample.
    """
    counts = {len(each.completions) for each in answers}
    if len(counts) > 1:
        raise UsageError(
            f"answers: prompts have {min(counts)} to {max(counts)} answers, and best of n needs as many of each, equal ones too: "
            "sample them with --distinct false"
        )
    proxy = knobs.proxy or next(iter(reward_models))
    scores = _scores(reward_models[proxy], answers)
    gold = None
    if knobs.gold:
        gold = _scores(reward_models[knobs.gold], answers)
    elif judge is not None:
        gold = [[judge(a.prompt, c.text, c.finished).score for c in a.completions] for a in answers]
    rows = best_of_n.curve(scores, gold)
    kinds = [kind for kind in ("proxy", "gold") if kind in rows[0]] if rows else []
    fitted = {}
    for kind in kinds:
        gains = [row[kind] - rows[0][kind] for row in rows]
        fitted[kind] = agreement.defined(partial(best_of_n.fit, [r["kl"] for r in rows], gains, "best_of_n"))
    named = {"proxy": proxy, "gold": (knobs.gold or "gold") if gold is not None else None}
    return named | {"prompts": len(answers), "curve": rows, "fit": fitted}


def _scores(model: Assistant, answers: Sequence[Answers]) -> list[list[float]]:
    flat = [(item.prompt.messages, c) for item in answers for c in item.completions]
    scores = iter(model.scores([(*talk, c.message) for talk, c in flat], finished=[c.finished for _, c in flat]))
    return [list(itertools.islice(scores, len(item.completions))) for item in answers]


def of_run(name: str, path: Path) -> dict[str, Any]:
    """Curves through an RL run's proxy and gold reward over its KL (``over_kl``); None where there are too few updates."""
    rows = [row for row in Run.read(path).metrics if "kl" in row]
    found: dict[str, Any] = {}
    for kind, key in (("proxy", "reward"), ("gold", "gold")):
        known = [(row["kl"], row[key]) for row in rows if row.get(key) is not None]
        if known:
            kl, values = zip(*known, strict=True)
            found[kind] = agreement.defined(partial(best_of_n.over_kl, kl, values))
    if not found:
        raise UsageError(f"runs: {name!r} ({path}) logs no reward over KL: it is not an RL run")
    return found


def of_foreign(knobs: PreferencesSettings, inputs: PreferencesInputs, reward_models: Models) -> dict[str, Any]:
    """How well every model tells passages of foreign documents from known prompts."""
    assert inputs.prompts is not None
    own = list(read_prompts(inputs.prompts, on_bad=knobs.on_bad))
    foreign: dict[str, list[Prompt]] = {
        name: passages(list(read_documents(path, on_bad=knobs.on_bad)), own) for name, path in inputs.foreign.items()
    }
    encoders = {n: Assistant.load(path, device=knobs.device, dtype=knobs.dtype) for n, path in inputs.encoders.items()}
    return {name: novelty_figures(model, own, foreign) for name, model in {**reward_models, **encoders}.items()}


def _named(path: Path, figures: Callable[[R], dict[str, Any]], read: Callable[[Path], R]) -> dict[str, Any]:
    """Figures of what is read from a file, or an error that names it."""
    rows = read(path)
    try:
        return figures(rows)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
