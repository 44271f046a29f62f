"""One table of all stages: what each answers to held-out prompts, how good that is, and what it cost.

    GPT -> GPT with few shots -> SFT -> PPO -> PPO-ptx        (InstructGPT, figure 1)

Gold scores come from a judge that knows the right answer, where there is one; a reward model's scores stand beside them. Win rates
compare two stages prompt by prompt, by gold where there is a judge and by the reward model otherwise.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from tutelage.assistant.assistant import Assistant, Shots
from tutelage.data.tokens.heldout import HeldoutText
from tutelage.errors import CheckpointError
from tutelage.evaluate.statistics import mean_interval, win_rate
from tutelage.generate.sampler import Sampling
from tutelage.model.decoder import Decoder
from tutelage.model.likelihood import negative_log_likelihood
from tutelage.records import Answers, Completion, Conversation, Message, Prompt
from tutelage.text.chat import render_answers
from tutelage.text.tokenizer import Tokenizer


class Verdict(Protocol):
    """What a judge says of one answer, both in [0, 1]."""

    @property
    def score(self) -> float: ...
    @property
    def success(self) -> float: ...


Judge = Callable[[Prompt, str, bool], Verdict]


@dataclass
class StageResult:
    """One stage's answers to the held-out prompts, one a prompt, and their scores."""

    answers: list[Answers]
    gold: list[float] | None = None
    success: list[float] | None = None
    reward: list[float] | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def quality(self) -> list[float]:
        """What win rates compare: gold where there is a judge, else the reward model's scores."""
        scores = self.gold if self.gold is not None else self.reward
        assert scores is not None
        return scores


def shots_like(demonstrations: list[Conversation], count: int, seed: int) -> Shots:
    """Picks ``count`` short demonstrations for a prompt: of its family and language where there are any, else any."""

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
        group = groups.get(kind(prompt), usable)
        text = prompt.messages[-1].text
        rng = random.Random(int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8], "big"))
        return rng.sample(group, min(count, len(group)))

    return choose


def evaluate_stage(
    checkpoint: Path,
    prompts: Sequence[Prompt],
    *,
    sampling: Sampling,
    shots: Shots | None = None,
    judge: Judge | None = None,
    reward_model: Path | None = None,
    reference: Path | None = None,
    heldout_text: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> StageResult:
    """Let a checkpoint answer the prompts and measure the answers.

    ``shots`` asks in plain text (a base model); ``reference`` is the SFT checkpoint that ``kl`` is measured against, in nats an
    answer, over chat-style answers sampled at temperature 1 whatever the temperature of the others.
    """
    began = time.perf_counter()
    assistant = Assistant.load(checkpoint, device=device, dtype=dtype)
    if not isinstance(assistant.model, Decoder):
        raise CheckpointError(f"{checkpoint} holds a reward model: a language model is needed to answer")
    answers = assistant.answers(prompts, sampling, shots=shots)
    result = StageResult(answers)
    texts = [a.completions[0] for a in answers]
    lengths = [written_length(assistant.tokenizer, t) for t in texts]
    result.figures |= {
        "length": sum(lengths) / len(lengths),
        "finished": sum(t.finished for t in texts) / len(texts),
        "kl": None,
        "bits_per_byte": None,
    }
    if judge:
        verdicts = [judge(p, t.text, t.finished) for p, t in zip(prompts, texts, strict=True)]
        result.gold, result.success = [v.score for v in verdicts], [v.success for v in verdicts]
        result.figures |= gold_figures(prompts, result.gold, result.success)
    if reward_model:
        scorer = Assistant.load(reward_model, device=device, dtype=dtype)
        dialogues = [
            (*p.messages, Message(role="assistant", content=t.text)) for p, t in zip(prompts, texts, strict=True)
        ]
        result.reward = scorer.scores(dialogues, finished=[t.finished for t in texts])
        result.figures["reward"] = mean_interval(result.reward).mean
    if reference and shots is None:
        assistant.tokenizer.require_same(reference)
        own = (
            answers
            if sampling.temperature == 1.0
            else assistant.answers(prompts, sampling.model_copy(update={"temperature": 1.0}))
        )
        result.figures["kl"] = divergence(assistant, Assistant.load(reference, device=device, dtype=dtype), own)
    if heldout_text:
        text = HeldoutText.read(
            heldout_text, assistant.tokenizer, min(256, assistant.model.config.max_position_embeddings)
        )
        nats = negative_log_likelihood(assistant.model, text.ids, text.targets, dtype).sum().item()
        result.figures["bits_per_byte"] = text.bits_per_byte(nats)
    result.figures["seconds"] = time.perf_counter() - began
    return result


def written_length(tokenizer: Tokenizer, completion: Completion) -> int:
    """Tokens of an answer without its end: as the model wrote them, where that is known. Text in tokens can be another number."""
    if completion.ids is None:
        return len(tokenizer.encode(completion.text))
    return sum(i not in tokenizer.end_ids and i != tokenizer.bos_id for i in completion.ids)


def gold_figures(prompts: Sequence[Prompt], gold: Sequence[float], success: Sequence[float]) -> dict[str, Any]:
    """Mean gold score with its interval, and by family and language: gold and accuracy (mean task success)."""
    mean, low, high = mean_interval(gold, bounds=(0.0, 1.0))
    figures: dict[str, Any] = {"gold": mean, "gold_ci": [low, high]}
    for group in ("family", "language"):
        rows: dict[str, list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            rows[str(prompt.meta.get(group, "all"))].append(i)
        plural = {"family": "families", "language": "languages"}[group]
        figures[plural] = {
            name: {
                "gold": sum(gold[i] for i in members) / len(members),
                "accuracy": sum(success[i] for i in members) / len(members),
                "n": len(members),
            }
            for name, members in sorted(rows.items())
        }
    return figures


def divergence(assistant: Assistant, reference: Assistant, answers: Sequence[Answers]) -> float:
    """Mean over answers of the sum of log pi - log pi_reference over their tokens: k1 of the KL, in nats an answer."""
    assert isinstance(assistant.model, Decoder)
    assert isinstance(reference.model, Decoder)
    rows = []
    for item in answers:
        completion = item.completions[0]
        prompt, written = render_answers(
            assistant.tokenizer, item.prompt.messages, [completion.text], [completion.finished]
        )
        rows.append((prompt, written[0] if completion.ids is None else list(completion.ids)))
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), assistant.tokenizer.pad_id)
    targets = torch.full((len(rows), longest), -1)
    for i, (prompt, answer) in enumerate(rows):
        whole = torch.tensor(prompt + answer)
        ids[i, : len(whole)] = whole
        targets[i, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    mine = negative_log_likelihood(assistant.model, ids, targets, assistant.dtype)
    theirs = negative_log_likelihood(reference.model, ids, targets, assistant.dtype)
    return (theirs - mine).mean().item()


def compare(
    stages: Mapping[str, StageResult], against: Sequence[str] = ("sft", "base"), *, clear: float | None = None
) -> None:
    """Add each stage's win rates against the named ones to its figures, overall and by family.

    Only equal scores are a tie. ``clear`` adds a second, stricter count: gold scores no further apart than it are a tie as well.
    What it leaves out are trifles, the shorter of two wrong answers, which a labeller could not tell apart.
    """
    for stage in stages.values():
        for other in against:
            if other not in stages:
                continue
            opponent = stages[other]
            counts = {"": 0.0} | ({"clear_": clear} if clear is not None and stage.gold is not None else {})
            for kind, tie in counts.items():
                result = win_rate(stage.quality, opponent.quality, tie=tie)
                stage.figures[f"{kind}record_vs_{other}"] = {
                    "wins": result.wins,
                    "ties": result.ties,
                    "losses": result.losses,
                }
                stage.figures[f"{kind}win_rate_vs_{other}"] = result.rate
                stage.figures[f"{kind}win_rate_vs_{other}_ci"] = [result.low, result.high]
            if other == "sft":
                stage.figures["win_rate_ci"] = stage.figures["win_rate_vs_sft_ci"]
                for name, family in stage.figures.get("families", {}).items():
                    rows = [i for i, a in enumerate(stage.answers) if a.prompt.meta.get("family") == name]
                    family["win_rate_vs_sft"] = win_rate(
                        [stage.quality[i] for i in rows], [opponent.quality[i] for i in rows]
                    ).rate


def sample_rows(stages: Mapping[str, StageResult]) -> list[dict[str, Any]]:
    """Rows of samples.jsonl: every prompt with all stages' answers and scores side by side."""
    first = next(iter(stages.values()))
    rows = []
    for i, item in enumerate(first.answers):
        answers = {}
        for name, stage in stages.items():
            completion = stage.answers[i].completions[0]
            answers[name] = {
                "text": completion.text,
                "finished": completion.finished,
                "gold": None if stage.gold is None else stage.gold[i],
                "reward": None if stage.reward is None else stage.reward[i],
            }
        meta = item.prompt.meta
        rows.append(
            {
                "prompt": [m.model_dump() for m in item.prompt.messages],
                "family": meta.get("family", item.prompt.source),
                "language": meta.get("language", ""),
                "answers": answers,
            }
        )
    return rows
