"""The sentences of a report, made from its numbers alone: what was measured, by whom, with which interval, and nothing more."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from tutelage.evaluate.plots import family_scores, running_mean
from tutelage.evaluate.run_output import (
    Row,
    RunOutput,
    column,
    final_stage,
    interval,
    number,
    ordered_stages,
    stage_name,
)


def percent(share: float) -> str:
    """0.7034 -> 70.3%."""
    return f"{share:.1%}"


def three(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def two(value: float) -> str:
    """Two decimals, with a real minus sign."""
    return f"{value:.2f}".replace("-", "−")


def span(ends: tuple[float, float], show: Callable[[float], str] = percent) -> str:
    """(0.67, 0.737) -> 67.0–73.7%."""
    low, high = show(ends[0]), show(ends[1])
    return f"{low.removesuffix('%')}–{high}"


def duration(seconds: float) -> str:
    """512.4 -> 8 min 32 s."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def judged_by(results: Row) -> str:
    """Who compared the answers: the embedded judge where any stage has a gold score, else the reward model."""
    gold = any(number(stage, "gold") is not None for stage in ordered_stages(results).values())
    return "the embedded judge" if gold else "the reward model"


def headline(results: Row) -> str:
    """One sentence: the last stage's win rates with their intervals; failing those its score, or its bits per byte."""
    key = final_stage(results)
    stage, name = ordered_stages(results)[key], stage_name(key)
    prompts = number(results, "prompts")
    on = f"on {prompts:.0f} held-out prompts" if prompts else "on held-out prompts"
    wins = []
    for other, opponent, ends_key in (("sft", "SFT", "win_rate_ci"), ("base", "the base model", "win_rate_vs_base_ci")):
        rate = number(stage, f"win_rate_vs_{other}")
        if rate is not None and other != key:
            wins.append(f"{opponent} {percent(rate)} of the time{_within(interval(stage, ends_key))}")
    if wins:
        return f"By {judged_by(results)}, {on}, {name} is preferred to {' and to '.join(wins)}."
    score, bits = number(stage, "gold"), number(stage, "bits_per_byte")
    if score is not None:
        around = _within(interval(stage, "gold_ci"), three)
        return f"{name} scores {three(score)} on average{around} by the embedded judge {on}."
    if bits is not None:
        return f"{name} codes held-out text in {three(bits)} bits per byte."
    return "Nothing was compared in this run."


def clear_preferences(results: Row) -> str:
    """The last stage's win rates where scores that a labeller could not tell apart tie as well; empty without a judge."""
    key, difference = final_stage(results), number(results, "clear_difference")
    stage = ordered_stages(results)[key]
    wins = []
    for other, opponent in (("sft", "SFT"), ("base", "base")):
        rate = number(stage, f"clear_win_rate_vs_{other}")
        if rate is not None and other != key:
            wins.append(
                f"{percent(rate)} against {opponent}{_within(interval(stage, f'clear_win_rate_vs_{other}_ci'))}"
            )
    if not wins or difference is None:
        return ""
    return (
        f"With scores no further apart than {difference:.2f} counted as ties: {stage_name(key)} {' and '.join(wins)}."
    )


def verdicts(results: Row) -> list[str]:
    """What the headline leaves to be said: an interval that reaches one half, the order of the stages, who judged."""
    stages, key = ordered_stages(results), final_stage(results)
    name = stage_name(key)
    said = []
    around = interval(stages[key], "win_rate_ci") if key != "sft" else None
    if around and around[0] <= 0.5 <= around[1]:
        said.append(f"The interval against SFT includes 50%: so many prompts do not tell {name} and SFT apart.")
    elif around and around[1] < 0.5:
        said.append(f"The interval against SFT lies below 50%: here SFT’s answers are the better ones, not {name}’s.")
    if clear := clear_preferences(results):
        said.append(clear)
    chain = list(dict.fromkeys(k for k in ("base", "base_few_shot", "sft", key) if k in stages))
    scores = [score for k in chain if (score := number(stages[k], "gold")) is not None]
    if len(chain) == len(scores) > 2:
        plain = {"base": "base", "base_few_shot": "base with few shots"}
        order = " < ".join(plain.get(k) or stage_name(k) for k in chain)
        holds = "holds" if all(a < b for a, b in itertools.pairwise(scores)) else "does not hold"
        said.append(f"InstructGPT’s order, {order}, {holds} for the mean judge scores.")
    if judged_by(results) == "the reward model" and "sft" in stages and key != "sft":
        said.append(
            "There is no judge of these data, so preferences are the reward model’s. PPO was trained to please that very "
            "model: they show that training worked, not that people would agree."
        )
    return said


def tax_sentences(results: Row) -> list[str]:
    """What reinforcement learning cost: bits per byte and accuracy by family, with and without the pretraining mix."""
    stages, said, changes = ordered_stages(results), [], []
    start = number(stages.get("sft", {}), "bits_per_byte")
    for key, mix in (("ppo", "no pretraining mix"), ("ppo_ptx", "with it")):
        value = number(stages.get(key, {}), "bits_per_byte")
        if start and value is not None and value != start:
            direction = "raises" if value > start else "lowers"
            changes.append(
                f"{stage_name(key)} ({mix}) {direction} this by {abs(value / start - 1):.1%} to {three(value)}"
            )
    if start and changes:
        said.append(f"SFT needs {three(start)} bits for a byte of held-out text. {', '.join(changes)}.")
    for measure, called in (("accuracy", "accuracy (mean task success)"), ("gold", "the judge’s score")):
        before, falls = family_scores(stages.get("sft", {}), measure), []
        for key in ("ppo", "ppo_ptx"):
            after = family_scores(stages.get(key, {}), measure)
            both = [name for name in before if name in after]
            if both:
                fell = sum(after[name] < before[name] for name in both)
                falls.append(f"in {fell} of {len(both)} families with {stage_name(key)}")
        if falls:
            said.append(f"Against SFT, {called} fell {', '.join(falls)}.")
            break
    return said


def reward_model_sentences(model: Row) -> list[str]:
    """Accuracy with intervals beside agreement, the best possible and the length rule; calibration in a number."""
    accuracy, best = number(model, "accuracy"), number(model, "best_possible_accuracy")
    if accuracy is None:
        return []
    first = f"The reward model puts {percent(accuracy)} of held-out pairs in the labellers’ order"
    first += _within(interval(model, "accuracy_ci"))
    if best:
        first += f"; a perfect ranker would reach {percent(best)} under the labellers’ noise"
        first += f", and this is {accuracy / best:.2f} of that"
    said = [first + "."]
    for key, text in (
        ("accuracy_heldout_labellers", "With labellers that it never learned from it agrees on {}."),
        (
            "labeller_agreement",
            "Two labellers agree with each other on {}; their noise is set, not found (`label.agreement`).",
        ),
        ("longer_wins_accuracy", "The rule “the longer answer wins” is right on {}."),
    ):
        value = number(model, key)
        if value is not None:
            said.append(text.format(percent(value) + _within(interval(model, f"{key}_ci"))))
    error = number(model, "calibration_error")
    if error is not None:
        said.append(f"Its predicted probabilities are off by {100 * error:.1f} percentage points on average.")
    return said


def overoptimisation_sentences(run: RunOutput) -> list[str]:
    """How proxy and gold moved over each PPO run: means of the first and last tenth of the logged values, and gold's best."""
    said = []
    for key in ("ppo", "ppo_ptx"):
        rows = run.metrics.get(key, [])
        _, proxy = column(rows, "kl", "reward")
        kl, gold = column(rows, "kl", "gold")
        if len(proxy) < 2:
            continue
        before, after = ends(proxy)
        text = f"{stage_name(key)}: the reward model’s score went from {two(before)} to {two(after)}"
        if len(gold) > 1:
            start, end = ends(gold)
            smooth = running_mean(gold, 5)
            best = max(range(len(smooth)), key=smooth.__getitem__)
            text += f", the judge’s from {three(start)} to {three(end)}, at most {three(smooth[best])}"
            text += f" (at a KL of {max(0.0, kl[best]):.1f} nats)"
            if after > before and end < start:
                text += ". It ends below where it began while the proxy rose: over-optimisation"
        said.append(text + ".")
    if said and not any(column(run.metrics.get(key, []), "kl", "gold")[0] for key in ("ppo", "ppo_ptx")):
        said.append("No judge scored these runs, so whether their gains are real cannot be read off them.")
    return said


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last tenth, at least one value each."""
    tenth = max(1, len(values) // 10)
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def _within(around: tuple[float, float] | None, show: Callable[[float], str] = percent) -> str:
    return f" (95% interval {span(around, show)})" if around else ""
