"""One model's answers to held-out prompts, and what is measured on them: quality, length, KL, bits per byte."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tutelage.assistant.assistant import Assistant, Shots
from tutelage.data.tokens.batches import cut_by_length, pad_right
from tutelage.data.tokens.heldout import HeldoutText
from tutelage.evaluate.judge import Judge
from tutelage.evaluate.preferences.best_of_n import kl_bound
from tutelage.generate.sampler import Sampling
from tutelage.model.checkpoint import param_count
from tutelage.model.likelihood import READ_TOKENS, negative_log_likelihood
from tutelage.records import Answers, Completion, Conversation, Message, Prompt
from tutelage.seeds import derive
from tutelage.statistics import mean_interval
from tutelage.text.chat import render_answers
from tutelage.text.tokenizer import Tokenizer

_ROWS = 32  # the most answers in a forward pass
GROUPS = {"families": "family", "languages": "language"}  # figures by group -> the key in a prompt's meta


@dataclass(frozen=True)
class Measures:
    """What every model is measured with. All of it is optional."""

    judge: Judge | None = None
    reward_model: Path | None = None
    reference: Path | None = None  # the checkpoint that KL is measured against
    heldout_text: Path | None = None
    device: str = "auto"
    dtype: str = "auto"

    def load(self, checkpoint: Path) -> Assistant:
        return Assistant.load(checkpoint, device=self.device, dtype=self.dtype)


@dataclass(frozen=True)
class Measured:
    """One answer per prompt, the answers' scores, and figures over all of them."""

    answers: list[Answers]
    gold: list[float] | None = None
    reward: list[float] | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def quality(self) -> list[float]:
        """What win rates compare: the judge's scores, or without a judge the reward model's."""
        return self.gold or self.reward or []

    @property
    def characters(self) -> list[int]:
        """The length of each answer."""
        return [len(item.completions[0].text) for item in self.answers]

    def sample(self, i: int) -> dict[str, Any]:
        """What samples.jsonl keeps of an answer."""
        completion = self.answers[i].completions[0]
        scores = {"gold": self.gold and self.gold[i], "reward": self.reward and self.reward[i]}
        return {"text": completion.text, "finished": completion.finished} | scores


def shots_like(demonstrations: Sequence[Conversation], count: int, seed: int) -> Shots:
    """Choose ``count`` short demonstrations for a prompt: of its family and language if there are any, else of any kind.

    A demonstration of the prompt itself would show the answer, and is not chosen.
    """

    def size(conversation: Conversation) -> int:
        return sum(len(message.text) for message in conversation.messages)

    def kind(record: Conversation | Prompt) -> tuple[Any, Any]:
        return record.meta.get("family"), record.meta.get("language")

    short = [c for c in demonstrations if len(c.messages) <= 5 and size(c) <= 600]
    usable = short or sorted(demonstrations, key=size)[:64]
    groups: dict[tuple[Any, Any], list[Conversation]] = defaultdict(list)
    for conversation in usable:
        groups[kind(conversation)].append(conversation)

    def choose(prompt: Prompt) -> list[Conversation]:
        asked, text = prompt.messages, prompt.messages[-1].text
        group = [c for c in groups.get(kind(prompt), usable) if c.messages[: len(asked)] != asked]
        rng = random.Random(derive(seed, "evaluate.shots", text))
        return rng.sample(group, min(count, len(group)))

    return choose


def with_exchanged_answers(shots: Shots) -> Shots:
    """The same shots, each with the last answer of the one before it: what is left is their form (Min et al. 2022)."""

    def choose(prompt: Prompt) -> list[Conversation]:
        chosen = shots(prompt)
        answers = [each.messages[-1] for each in chosen]
        return [
            each.model_copy(update={"messages": (*each.messages[:-1], answers[i - 1])}) for i, each in enumerate(chosen)
        ]

    return choose


def measure(
    checkpoint: Path,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    measures: Measures,
    shots: Shots | None = None,
    best_of: int = 1,
    *,
    labelled: bool = False,
) -> Measured:
    """Let a checkpoint answer the prompts, and measure the answers. Raises CheckpointError for a reward model.

    ``shots`` asks in plain text, as base models are asked, ``labelled`` or not; then no KL is measured. ``best_of`` answers are
    sampled and the reward model picks one. Its score of that one is not reported: the highest of n noisy scores says little of the
    answer. In place of the KL there is ``kl_bound``, what picking alone can add to it.
    """
    assistant = measures.load(checkpoint)
    model = assistant.decoder
    answers = assistant.answers(prompts, sampling.model_copy(update={"n": best_of}), shots=shots, labelled=labelled)
    scorer = measures.load(measures.reward_model) if measures.reward_model else None
    if best_of > 1:
        assert scorer is not None, "nothing picks"
        answers, scorer = picked(answers, scorer), None
    completions = [a.completions[0] for a in answers]
    lengths = [written_length(assistant.tokenizer, c) for c in completions]
    figures: dict[str, Any] = {
        "parameters": param_count(model),
        "length": sum(lengths) / len(lengths),
        "finished": sum(c.finished for c in completions) / len(completions),
        "kl": None,
        "bits_per_byte": None,
    }
    gold = reward = None
    if measures.judge:
        verdicts = [measures.judge(p, c.text, c.finished) for p, c in zip(prompts, completions, strict=True)]
        gold = [v.score for v in verdicts]
        figures |= gold_figures(prompts, gold, [v.success for v in verdicts])
    if scorer:
        reward = _rewards(scorer, answers)
        figures["reward"] = mean_interval(reward).mean
    if best_of > 1:
        figures["kl_bound"] = kl_bound(best_of)
    elif measures.reference and shots is None:
        assistant.tokenizer.require_same(measures.reference)
        at_one = sampling.model_copy(update={"temperature": 1.0})
        own = answers if sampling == at_one else assistant.answers(prompts, at_one)
        figures["kl"] = divergence(assistant, measures.load(measures.reference), own)
    if measures.heldout_text:
        text = HeldoutText.read(measures.heldout_text, assistant.tokenizer, min(256, assistant.context))
        nats = negative_log_likelihood(model, text.ids, text.targets, measures.dtype).sum().item()
        figures["bits_per_byte"] = text.bits_per_byte(nats)
    return Measured(answers, gold, reward, figures)


def written_length(tokenizer: Tokenizer, completion: Completion) -> int:
    """Tokens of an answer without its end, as the model wrote them where that is known: encoding again may give others."""
    if completion.ids is None:
        return len(tokenizer.encode(completion.text))
    return sum(i not in tokenizer.end_ids and i != tokenizer.bos_id for i in completion.ids)


def gold_figures(prompts: Sequence[Prompt], gold: Sequence[float], success: Sequence[float]) -> dict[str, Any]:
    """Mean gold score with its interval; gold, accuracy (mean success) and number of prompts by family and by language."""
    mean, low, high = mean_interval(gold, bounds=(0.0, 1.0))
    figures: dict[str, Any] = {"gold": mean, "gold_ci": [low, high]}
    for plural, key in GROUPS.items():
        figures[plural] = {}
        for name, members in indices_by(prompts, key).items():
            means = {k: sum(x[i] for i in members) / len(members) for k, x in (("gold", gold), ("accuracy", success))}
            figures[plural][name] = means | {"n": len(members)}
    return figures


def indices_by(prompts: Sequence[Prompt], key: str) -> dict[str, list[int]]:
    """The indices of the prompts by family or language, names sorted. Prompts without one are "all"."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[str(prompt.meta.get(key, "all"))].append(i)
    return dict(sorted(groups.items()))


def divergence(assistant: Assistant, reference: Assistant, answers: Sequence[Answers]) -> float:
    """The mean over answers of log pi - log pi_reference summed over tokens: an estimate (k1) of the KL, in nats per answer.

    The answers have to be sampled from ``assistant`` at temperature 1. Rows of similar length share a forward pass.
    """
    rows, goals = [], []
    for item in answers:
        completion = item.completions[0]
        text, finished = [completion.text], [completion.finished]
        prompt, written = render_answers(assistant.tokenizer, item.prompt.messages, text, finished)
        answer = written[0] if completion.ids is None else list(completion.ids)
        rows.append([*prompt, *answer])
        goals.append([-1] * (len(prompt) - 1) + answer)
    total = 0.0
    for piece in cut_by_length([len(row) for row in rows], most=_ROWS, tokens=READ_TOKENS):
        ids, _ = pad_right([rows[i] for i in piece], assistant.tokenizer.pad_id, 1)
        targets = torch.nn.functional.pad(pad_right([goals[i] for i in piece], -1, 1)[0], (0, 1), value=-1)
        mine, theirs = (
            negative_log_likelihood(model, ids, targets, assistant.dtype)
            for model in (assistant.decoder, reference.decoder)
        )
        total += (theirs - mine).sum().item()
    return total / len(rows)


def picked(answers: Sequence[Answers], scorer: Assistant) -> list[Answers]:
    """Each prompt with the one of its answers that the reward model scores highest; of equal scores the first."""
    scores = iter(_rewards(scorer, answers))
    found = []
    for one in answers:
        values = [next(scores) for _ in one.completions]
        chosen = one.completions[values.index(max(values))]
        found.append(Answers(prompt=one.prompt, completions=(chosen,)))
    return found


def _rewards(scorer: Assistant, answers: Sequence[Answers]) -> list[float]:
    """The scores of all completions, one prompt's after the other's."""
    written = [(a.prompt.messages, completion) for a in answers for completion in a.completions]
    dialogues = [(*messages, Message(role="assistant", content=c.text)) for messages, c in written]
    return scorer.scores(dialogues, finished=[c.finished for _, c in written])
